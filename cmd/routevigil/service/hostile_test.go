package service

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
)

// stillWorks opens the incident about victim(i) and ends it again.
func stillWorks(t *testing.T, s *running, f *feed, i int) {
	t.Helper()
	status := func(want incident.Status) {
		t.Helper()
		eventually(t, func() string {
			if inc, ok := s.incidentOf(i); !ok || inc.Status != want {
				return fmt.Sprintf("incident about AS%d: %q, want %s", victim(i).asn, inc.Status, want)
			}
			return ""
		})
	}
	if err := f.tell(hijack(i, 0, sessions)...); err != nil {
		t.Fatal(err)
	}
	status(incident.Open)
	origin := func(want uint32) {
		t.Helper()
		var answer api.PrefixAnswer
		if code := s.get("/api/v1/prefixes/"+victim(i).prefix.String(), &answer); code != http.StatusOK || len(answer.Origins) != 1 || answer.Origins[0].ASN != want {
			t.Errorf("the prefix is announced by %+v (status %d), want AS%d", answer.Origins, code, want)
		}
	}
	origin(attacker(i).asn)
	if err := f.tell(heal(i)...); err != nil {
		t.Fatal(err)
	}
	status(incident.Ended)
	origin(victim(i).asn)
}

// Whatever comes over the feed is counted by what is wrong with it, and does no harm.
func TestRubbish(t *testing.T) {
	t.Parallel()
	f := newFeed(t)
	c := configuration(t, f.url())
	c.Ingest.RISLive.MaxMessageBytes = 64 << 10
	s := start(t, c)
	s.whenReady(f)

	u := hijack(1, 0, 1)[0]
	good := message(&u)
	raw := bytes.Index(good, []byte(`"raw":"`)) + len(`"raw":"`)
	for name, tt := range map[string]struct {
		kind   int
		text   []byte
		reason string // as it is counted; empty where the message is none of our concern
	}{
		"no JSON":             {websocket.TextMessage, []byte("<html>Service Unavailable</html>"), "json"},
		"half a message":      {websocket.TextMessage, good[:len(good)/2], "json"},
		"binary":              {websocket.BinaryMessage, []byte{0, 0xff, 0x80, 1}, "json"},
		"empty":               {websocket.TextMessage, nil, "json"},
		"nested without end":  {websocket.TextMessage, []byte(strings.Repeat("[", 50_000)), "json"},
		"an array":            {websocket.TextMessage, []byte(`[1,2]`), "json"},
		"no timestamp":        {websocket.TextMessage, bytes.Replace(good, []byte(`"timestamp"`), []byte(`"time"`), 1), "timestamp"},
		"a timestamp in text": {websocket.TextMessage, bytes.Replace(good, []byte(`"timestamp":`), []byte(`"timestamp":"soon",`), 1), "json"},
		"no peer":             {websocket.TextMessage, bytes.Replace(good, []byte(u.Peer.Addr.String()), []byte("nobody"), 1), "peer"},
		"no hexadecimal":      {websocket.TextMessage, bytes.Replace(good, []byte(`"raw":"FF`), []byte(`"raw":"XY`), 1), "raw"},
		"half a BGP message":  {websocket.TextMessage, append(bytes.Clone(good[:raw+60]), `"}}`...), "bgp_message_length"},
		"an unknown kind":     {websocket.TextMessage, bytes.Replace(good, []byte("UPDATE"), []byte("GOSSIP"), 1), ""},
		"an error message":    {websocket.TextMessage, []byte(`{"type":"ris_error","data":{"message":"go away"}}`), ""},
	} {
		t.Run(name, func(t *testing.T) {
			before := s.feed()
			if err := f.say(tt.kind, tt.text); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() string {
				if now := s.feed(); now.Messages == before.Messages {
					return "the message was not counted"
				}
				return ""
			})
			now := s.feed()
			for reason, n := range now.Malformed {
				more := n - before.Malformed[reason]
				if (more == 1) != (reason == tt.reason) || more > 1 {
					t.Errorf("%q was counted %d times, want only %q", reason, more, tt.reason)
				}
			}
			if tt.reason != "" {
				if v, ok := s.metric(fmt.Sprintf(`routevigil_rislive_malformed_total{feed="test",reason=%q}`, tt.reason)); !ok || v != float64(now.Malformed[tt.reason]) {
					t.Errorf("the metric is %v (%t), want %d", v, ok, now.Malformed[tt.reason])
				}
			}
			if now.Updates != before.Updates || now.Reconnects != before.Reconnects {
				t.Errorf("%d updates, %d reconnects, want %d, %d", now.Updates, now.Reconnects, before.Updates, before.Reconnects)
			}
		})
	}

	// Good messages with octets changed at random: they may say anything now.
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		broken := bytes.Clone(good)
		for range 1 + r.IntN(4) {
			broken[r.IntN(len(broken))] = byte(r.Uint32())
		}
		if err := f.say(websocket.TextMessage, broken); err != nil {
			t.Fatal(err)
		}
	}
	// One that is too long ends the connection, and the next one is good again.
	before := s.feed()
	f.say(websocket.TextMessage, bytes.Repeat([]byte("x"), 1<<20))
	eventually(t, func() string {
		if now := s.feed(); now.Reconnects == before.Reconnects || now.State != ingest.Connected || f.subscribers() == 0 || now.Malformed["too_long"] == 0 {
			return fmt.Sprintf("the feed is %+v", now)
		}
		return ""
	})
	stillWorks(t, s, f, 2)
}

// Stamps that cannot be true move neither the clock nor the life of incidents.
func TestFalseStamps(t *testing.T) {
	t.Parallel()
	f := newFeed(t)
	s := start(t, configuration(t, f.url()))
	s.whenReady(f)
	if err := f.tell(hijack(1, 0, sessions)...); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if inc, _ := s.incidentOf(1); inc.Status != incident.Open {
			return "there is no incident"
		}
		return ""
	})
	for name, stamp := range map[string]time.Time{
		"the end of numbers": time.Unix(99_999_999_999, 0), "next century": time.Now().AddDate(100, 0, 0), "tomorrow": time.Now().AddDate(0, 0, 1),
		"yesterday": time.Now().AddDate(0, 0, -1), "1970": time.Unix(1, 0),
	} {
		t.Run(name, func(t *testing.T) {
			for k := range sessions {
				u := route(k, attacker(3).prefix, attacker(3).asn)
				u.Time = ingest.TimeOf(stamp)
				if err := f.tell(u); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(300 * time.Millisecond)
			if off := time.Until(s.clock()).Abs(); off > 10*time.Second {
				t.Errorf("event time is %s off", off)
			}
			var status api.ServiceStatus
			if s.get("/api/v1/status", &status); time.Until(status.EventTime) > 10*time.Second {
				t.Errorf("the dashboard's event time is %s", status.EventTime)
			}
			if inc, _ := s.incidentOf(1); inc.Status != incident.Open {
				t.Errorf("the open incident is %s", inc.Status)
			}
		})
	}
	stillWorks(t, s, f, 2)
	inc, _ := s.incidentOf(2)
	for _, at := range []time.Time{inc.StartedAt, inc.DetectedAt, *inc.EndedAt} {
		if off := time.Since(at).Abs(); off > time.Minute {
			t.Errorf("the incident has a time %s away: %s", off, at)
		}
	}
}

// A feed that is faster than everything after it has to wait: what gathers stays within the bus's
// bounds, and nothing is lost.
func TestFlood(t *testing.T) {
	f := newFeed(t)
	c := configuration(t, f.url())
	c.Ingest.Bus.MaxUpdates, c.Ingest.Bus.MaxBytes, c.Ingest.Bus.BatchUpdates = 2000, 4<<20, 20
	s := start(t, c)
	s.whenReady(f)
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	const n = 60_000
	var most int64
	var queued float64
	for i := range n {
		u := route(i%sessions, attacker(i%networks).prefix, attacker(i%networks).asn)
		u.Attrs.ASPath[0].ASNs[1] = transits[i/networks%len(transits)]
		if err := f.tell(u); err != nil {
			t.Fatal(err)
		}
		if i%6000 == 5999 {
			most = max(most, heap()-before)
			q, _ := s.metric("routevigil_bus_queued_updates")
			queued = max(queued, q)
		}
	}
	waits, _ := s.metric("routevigil_bus_waits_total")
	if waits == 0 || queued == 0 {
		t.Errorf("the feed had to wait %v times, with %v updates queued: the test tests nothing", waits, queued)
	}
	if queued > float64(c.Ingest.Bus.MaxUpdates) {
		t.Errorf("%v updates were queued, at most %d may be", queued, c.Ingest.Bus.MaxUpdates)
	}
	// 2,000 updates and a socket's buffers, beside what the store takes for itself.
	if most > 48<<20 {
		t.Errorf("the heap grew by %d MiB", most>>20)
	}
	t.Logf("%d updates: %v waits, at most %v queued, the heap grew by %d KiB", n, waits, queued, most>>10)
	eventually(t, func() string {
		if done, _ := s.metric("routevigil_pipeline_updates_total"); done != n {
			return fmt.Sprintf("%v of %d updates judged", done, n)
		}
		return ""
	})
	if got := s.feed(); got.Updates != n || got.Dropped != 0 || got.Reconnects != 0 {
		t.Errorf("the feed is %+v, want %d updates, none dropped", got, n)
	}
	stillWorks(t, s, f, 2)
}

// A feed that is silent, and one that is late, are told apart from one that is well.
func TestStallAndLag(t *testing.T) {
	t.Parallel()
	f := newFeed(t)
	c := configuration(t, f.url())
	c.Ingest.RISLive.StallAfter, c.Ingest.RISLive.LagAfter = 2*time.Second, 30*time.Second
	s := start(t, c)
	s.whenReady(f)
	quiet := f.background(t, 20*time.Millisecond)
	time.Sleep(time.Second)
	if status, reasons := s.ready(); status != http.StatusOK {
		t.Errorf("while all is well: %d %s", status, reasons)
	}
	quiet()
	says := func(state ingest.State, sentence string) {
		t.Helper()
		eventually(t, func() string {
			status, reasons := s.ready()
			if status != http.StatusServiceUnavailable || !strings.Contains(reasons, sentence) {
				return fmt.Sprintf("readyz says %d %q, want %q", status, reasons, sentence)
			}
			return ""
		})
	}
	says(ingest.Stalled, "test is connected but has sent nothing since")
	eventually(t, func() string {
		if got := s.feed(); got.Reconnects == 0 || !strings.Contains(got.LastError, "stalled: no message for 2s") {
			return fmt.Sprintf("it does not reconnect: %+v", got)
		}
		return ""
	})
	eventually(t, func() string {
		u := route(0, attacker(0).prefix, attacker(0).asn)
		u.Time = u.Time.Add(-5 * time.Minute)
		f.tell(u)
		status, reasons := s.ready()
		if status != http.StatusServiceUnavailable || !strings.Contains(reasons, "test is 300 seconds behind") {
			return fmt.Sprintf("readyz says %d %q", status, reasons)
		}
		return ""
	})
	f.background(t, 20*time.Millisecond)
	s.whenReady(f)
	stillWorks(t, s, f, 2)
}
