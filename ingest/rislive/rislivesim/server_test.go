package rislivesim

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/rislive"
	"github.com/routevigil/routevigil/ingest/scenario"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var byValue = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	// An IPv4-mapped next hop may come back unmapped: it is the same router.
	cmp.Comparer(func(a, b netip.Addr) bool { return a.Unmap() == b.Unmap() }),
	cmpopts.EquateEmpty(),
}

func demo(t *testing.T) []*scenario.Scenario {
	list, err := scenario.Demo()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// What the client's decoder makes of each message, with raw and without, is the update that was played.
func TestMessagesSayWhatIsPlayed(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var e encoder
	n := 0
	for u := range scenario.Play(start, 1, 5*time.Minute, demo(t)...) {
		if n++; u.Time.Time().Sub(start) > 75*time.Second { // the first reset of a session is behind us by then
			break
		}
		messages, err := e.encode(u)
		if err != nil {
			t.Fatal(err)
		}
		for _, raw := range []bool{true, false} {
			got := ingest.Update{Kind: u.Kind, Time: u.Time, Peer: u.Peer}
			for _, m := range messages {
				part, err := rislive.NewReader(strings.NewReader(string(m.text(raw))), "message").Next()
				if err != nil {
					t.Fatalf("%v\n%s", err, m.text(raw))
				}
				if part.Kind != u.Kind || part.Time != u.Time || part.Peer != u.Peer {
					t.Fatalf("got %+v, want %+v", part, u)
				}
				got.Withdrawn = append(got.Withdrawn, part.Withdrawn...)
				got.Announced = append(got.Announced, part.Announced...)
				if len(part.Announced) > 0 {
					got.Attrs = part.Attrs.Clone()
				}
			}
			if diff := cmp.Diff(*u, got, byValue); diff != "" {
				t.Fatalf("raw %v: %s\n%s", raw, diff, messages[0].text(raw))
			}
		}
	}
	if n < 500 {
		t.Errorf("only %d updates in 75 s", n)
	}
}

// What does not fit one BGP message comes in several.
func TestLongUpdateIsSplit(t *testing.T) {
	u := &ingest.Update{
		Time: ingest.TimeOf(time.Now()), Peer: ingest.Peer{Collector: "rrc00", Addr: netip.MustParseAddr("193.0.0.56"), ASN: 3333},
		Attrs: bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: netip.MustParseAddr("193.0.0.56"),
			ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{3333, 174}}}},
	}
	for i := range 3000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)
		u.Announced = append(u.Announced, bgp.NLRI{Prefix: p})
	}
	var e encoder
	messages, err := e.encode(u)
	if err != nil || len(messages) < 2 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	var got []bgp.NLRI
	for _, m := range messages {
		part, err := rislive.NewReader(strings.NewReader(string(m.withRaw)), "message").Next()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, part.Announced...)
	}
	if diff := cmp.Diff(u.Announced, got, byValue); diff != "" {
		t.Error(diff)
	}
}

// run serves until the test ends.
func run(t *testing.T, scenarios []*scenario.Scenario) *Server {
	s, err := Listen(DefaultConfiguration(), scenarios, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(30 * time.Second):
			t.Error("Run did not end")
		}
	})
	return s
}

// The ordinary client hears in real time what Play plays.
func TestClientHearsThePlay(t *testing.T) {
	s := run(t, demo(t))
	c := rislive.DefaultConfiguration()
	c.URL = s.URL()
	client := rislive.New(c, slog.New(slog.DiscardHandler), nil)[0]
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
	defer cancel()
	var mu sync.Mutex
	var got []ingest.Update
	client.Run(ctx, func(u *ingest.Update) error {
		if late := time.Since(u.Time.Time()); late < 0 || late > 5*time.Second {
			t.Errorf("an update arrives %v after its time", late)
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, u.Clone())
		return nil
	})
	if len(got) < 10 {
		t.Fatalf("%d updates in 8 s", len(got))
	}
	// The play began when the first subscription came; from then on the story is known but for the
	// second subscription's peer states.
	next := 0
	for u := range scenario.Play(time.Time{}.AddDate(2000, 0, 0), DefaultConfiguration().Seed, DefaultConfiguration().Period, demo(t)...) {
		if next == len(got) {
			break
		}
		g := got[next]
		if g.Peer != u.Peer || g.Kind != u.Kind || cmp.Diff(g.Announced, u.Announced, byValue) != "" || cmp.Diff(g.Withdrawn, u.Withdrawn, byValue) != "" {
			t.Fatalf("update %d: got %+v, want %+v", next, g, *u)
		}
		next++
	}
	hijack := slices.ContainsFunc(got, func(u ingest.Update) bool {
		asn, _ := u.Attrs.ASPath.Origin()
		return len(u.Announced) > 0 && asn == 17557 && u.Announced[0].Prefix == netip.MustParsePrefix("208.65.153.0/24")
	})
	if !hijack {
		t.Error("no hijack after 5 s")
	}
	if st := client.Status(); len(st.Malformed) > 0 || st.Reconnects > 0 {
		t.Errorf("status %+v", st)
	}
}

func dial(t *testing.T, s *Server) *websocket.Conn {
	conn, _, err := websocket.DefaultDialer.Dial(s.URL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	return conn
}

func TestProtocol(t *testing.T) {
	conn := dial(t, run(t, nil))
	tests := []struct{ name, request, want string }{
		{"ping", `{"type":"ping","data":null}`, `{"data":null,"type":"pong"}`},
		{"collectors", `{"type":"request_rrc_list"}`, `{"data":["rrc00.ripe.net","rrc01.ripe.net","rrc25.ripe.net","route-views2"],"type":"ris_rrc_list"}`},
		{"rubbish", `hello`, `ris_error`},
		{"unknown", `{"type":"shout"}`, `{"data":{"message":"unknown message type \"shout\""},"type":"ris_error"}`},
		{"bad prefix", `{"type":"ris_subscribe","data":{"prefix":"x"}}`, `ris_error`},
		{"bad path", `{"type":"ris_subscribe","data":{"path":"^x"}}`, `ris_error`},
		{"bad peer", `{"type":"ris_subscribe","data":{"peer":"x"}}`, `ris_error`},
		{"subscription", `{"type":"ris_subscribe","data":{"type":"OPEN","socketOptions":{"acknowledge":true}}}`, `ris_subscribe_ok`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if err := conn.WriteMessage(websocket.TextMessage, []byte(tt.request)); err != nil {
				t.Fatal(err)
			}
			_, got, err := conn.ReadMessage()
			if err != nil || !strings.Contains(string(got), tt.want) {
				t.Errorf("got %s, %v, want %s", got, err, tt.want)
			}
		})
	}
}

func TestFilters(t *testing.T) {
	u := &ingest.Update{
		Time: ingest.TimeOf(time.Now()), Peer: ingest.Peer{Collector: "rrc00", Addr: netip.MustParseAddr("193.0.0.56"), ASN: 3333},
		Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("203.0.112.0/23")}},
		Attrs: bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: netip.MustParseAddr("193.0.0.56"),
			ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{3333, 174, 13335}}}},
	}
	var e encoder
	messages, err := e.encode(u)
	if err != nil || len(messages) != 1 {
		t.Fatal(messages, err)
	}
	for filter, want := range map[string]bool{
		`{}`:                                              true,
		`{"host":"rrc00"}`:                                true,
		`{"host":"rrc00.ripe.net"}`:                       true,
		`{"host":"rrc01"}`:                                false,
		`{"type":"UPDATE"}`:                               true,
		`{"type":"RIS_PEER_STATE"}`:                       false,
		`{"require":"announcements"}`:                     true,
		`{"require":"withdrawals"}`:                       false,
		`{"peer":"193.0.0.56"}`:                           true,
		`{"peer":"193.0.0.57"}`:                           false,
		`{"path":"174"}`:                                  true,
		`{"path":174}`:                                    true,
		`{"path":"174,13335$"}`:                           true,
		`{"path":"^3333,174"}`:                            true,
		`{"path":"^174"}`:                                 false,
		`{"path":"3333,13335"}`:                           false,
		`{"path":"!174"}`:                                 false,
		`{"path":"!^174"}`:                                true,
		`{"prefix":"203.0.112.0/23"}`:                     true,
		`{"prefix":"203.0.0.0/16"}`:                       true,
		`{"prefix":["::/0","203.0.112.0/22"]}`:            true,
		`{"prefix":"203.0.0.0/16","moreSpecific":false}`:  false,
		`{"prefix":"203.0.112.0/24"}`:                     false,
		`{"prefix":"203.0.112.0/24","lessSpecific":true}`: true,
		`{"prefix":"::/0"}`:                               false,
	} {
		var s subscription
		if err := s.parse([]byte(filter)); err != nil {
			t.Errorf("%s: %v", filter, err)
		} else if got := s.matches(messages[0]); got != want {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
	}
}

func TestUnsubscribe(t *testing.T) {
	var s Server
	c := &client{out: make(chan []byte, 10), gone: make(chan struct{})}
	s.subscribed = make(chan struct{})
	for _, request := range []string{
		`{"type":"ris_subscribe","data":{"host":"rrc00"}}`,
		`{"type":"ris_subscribe","data":{"prefix":"192.0.2.0/24"}}`,
		`{"type":"ris_subscribe","data":{"host":"rrc01"}}`,
		`{"type":"ris_unsubscribe","data":{"prefix":["192.0.2.0/24"],"socketOptions":{"includeRaw":true}}}`,
	} {
		s.request(c, []byte(request))
	}
	if len(c.subscriptions) != 2 || c.subscriptions[0].Host != "rrc00" || c.subscriptions[1].Host != "rrc01" {
		t.Errorf("left: %+v", c.subscriptions)
	}
	s.request(c, []byte(`{"type":"ris_unsubscribe"}`))
	if len(c.subscriptions) != 0 || len(c.out) != 0 {
		t.Errorf("left: %+v, said: %d", c.subscriptions, len(c.out))
	}
}

// A client that does not read is told so and cut off; others are not hurt.
func TestSlowClientIsCutOff(t *testing.T) {
	s := run(t, nil)
	slow, good := dial(t, s), dial(t, s)
	for _, conn := range []*websocket.Conn{slow, good} {
		conn.WriteMessage(websocket.TextMessage, []byte(`{"type":"ris_subscribe","data":{"host":"test","socketOptions":{"acknowledge":true}}}`))
		if _, text, err := conn.ReadMessage(); err != nil || !strings.Contains(string(text), "ris_subscribe_ok") {
			t.Fatal(string(text), err)
		}
	}
	const n = 20 * queue
	var received atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for received.Load() < n {
			if _, _, err := good.ReadMessage(); err != nil {
				return
			}
			received.Add(1)
		}
	}()
	text := []byte(fmt.Sprintf(`{"x":"%s"}`, strings.Repeat("x", 1000)))
	for i := range int64(n) {
		s.broadcast(&message{host: "test", plain: text})
		for i-received.Load() > queue/2 { // no faster than the good client reads
			select {
			case <-done:
				t.Fatalf("the good client was cut off after %d", received.Load())
			case <-time.After(time.Millisecond):
			}
		}
	}
	<-done
	if got := received.Load(); got != n {
		t.Errorf("the good client got %d of %d", got, n)
	}
	last := ""
	for {
		_, text, err := slow.ReadMessage()
		if err != nil {
			break
		}
		last = string(text)
	}
	if !strings.Contains(last, "ris_error") || !strings.Contains(last, "too slow") {
		t.Errorf("the last word to the slow client was %.100q", last)
	}
}

func TestValidate(t *testing.T) {
	if err := DefaultConfiguration().Validate(); err != nil {
		t.Error(err)
	}
	err := Configuration{Listen: "nowhere"}.Validate()
	for _, field := range []string{"listen: ", "period: "} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
}
