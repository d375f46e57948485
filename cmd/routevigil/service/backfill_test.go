package service

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/mrt"
	"github.com/routevigil/routevigil/store"
)

// archived is a quarter of an hour of one collector, of some time ago: an update about every second, and in its
// middle a hijack. Its archive appears when a test says so.
type archived struct {
	t       *testing.T
	begin   time.Time
	updates []ingest.Update
	dir     string // what the archive's server shows
	url     string
}

func newPast(t *testing.T) *archived {
	p := &archived{t: t, begin: time.Now().UTC().Add(-25 * time.Minute).Truncate(5 * time.Minute), dir: t.TempDir()}
	for i := range 15 * 60 {
		n := attacker(i % networks)
		u := route(i%sessions, n.prefix, n.asn)
		u.Time = ingest.TimeOf(p.begin.Add(time.Duration(i)*time.Second + time.Duration(i*37%1000)*time.Millisecond))
		p.updates = append(p.updates, u)
		if i == 450 {
			for _, u := range hijack(1, 0, sessions) {
				u.Time = p.updates[i].Time
				p.updates = append(p.updates, u)
			}
		}
	}
	server := httptest.NewServer(http.FileServer(http.Dir(p.dir)))
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

// between are the updates from a number of seconds up to another.
func (p *archived) between(from, to int) []ingest.Update {
	first, end := ingest.TimeOf(p.begin)+ingest.Time(from)*1e6, ingest.TimeOf(p.begin)+ingest.Time(to)*1e6
	return slices.DeleteFunc(slices.Clone(p.updates), func(u ingest.Update) bool { return u.Time < first || u.Time >= end })
}

// publish puts the n-th file of five minutes, with stamps of whole seconds, into the archive.
func (p *archived) publish(n int) {
	p.t.Helper()
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	w := mrt.NewWriter(zip)
	for _, u := range p.between(300*n, 300*n+300) {
		u.Time = u.Time / 1e6 * 1e6
		if err := w.Update(&u); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := zip.Close(); err != nil {
		p.t.Fatal(err)
	}
	p.put(n, b.Bytes())
}

func (p *archived) put(n int, content []byte) {
	p.t.Helper()
	at := p.begin.Add(time.Duration(n) * 5 * time.Minute)
	file := filepath.Join(p.dir, "rrc00", at.Format("2006.01"), at.Format("updates.20060102.1504.gz"))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(file+".new", content, 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		p.t.Fatal(err)
	}
}

func (p *archived) configuration(f *feed, hooks ...*receiver) config.Config {
	c := configuration(p.t, f.url())
	for _, h := range hooks {
		c.Alert.Webhooks = append(c.Alert.Webhooks, h.configuration("noc"))
	}
	c.Ingest.Backfill.Enabled, c.Ingest.Backfill.Interval = true, 20*time.Millisecond
	c.Archive.Broker, c.Archive.RIS = "", p.url
	c.Archive.Attempts = 1
	return c
}

type row struct {
	second int64
	peer   netip.Addr
	prefix netip.Prefix
	path   string
}

func rowsOf(updates []ingest.Update) map[row]int {
	m := map[row]int{}
	for _, u := range updates {
		m[row{int64(u.Time / 1e6), u.Peer.Addr, u.Announced[0].Prefix, u.Attrs.ASPath.String()}]++
	}
	return m
}

// history counts what a service says that it knows from the feed and from the archive.
func (c *client) history() (live, backfilled map[row]int) {
	live, backfilled = map[row]int{}, map[row]int{}
	for cursor := ""; ; {
		var list struct {
			Items []store.Route
			Next  string
		}
		if status := c.get("/api/v1/updates?limit=500"+cursor, &list); status != http.StatusOK {
			c.t.Fatalf("status %d", status)
		}
		for _, r := range list.Items {
			into := live
			if r.Backfilled {
				into = backfilled
			}
			into[row{r.Time.Unix(), r.PeerIP, r.Prefix, r.ASPath}]++
		}
		if list.Next == "" {
			return live, backfilled
		}
		cursor = "&cursor=" + list.Next
	}
}

// whenHistoryIs waits until the history has the one from the feed, the other from the archive, and nothing else.
func (c *client) whenHistoryIs(live, backfilled []ingest.Update) {
	c.t.Helper()
	wantLive, wantBackfilled := rowsOf(live), rowsOf(backfilled)
	eventually(c.t, func() string {
		gotLive, gotBackfilled := c.history()
		if maps.Equal(gotLive, wantLive) && maps.Equal(gotBackfilled, wantBackfilled) {
			return ""
		}
		return fmt.Sprintf("%d different rows live (want %d), %d back-filled (want %d); gaps %+v", len(gotLive), len(wantLive), len(gotBackfilled),
			len(wantBackfilled), c.feed().Gaps)
	})
}

// reconnect cuts the feed and waits until the service listens again.
func (c *client) reconnect(f *feed) {
	c.t.Helper()
	before := c.feed().Reconnects
	f.disconnect()
	eventually(c.t, func() string {
		if f.subscribers() == 0 || c.feed().Reconnects == before || c.feed().State == ingest.Connecting {
			return "not connected again"
		}
		return ""
	})
}

// whenGapIs waits until the last gap is in a state, and returns it.
func (c *client) whenGapIs(state ingest.GapState, says string) (g ingest.Gap) {
	c.t.Helper()
	eventually(c.t, func() string {
		gaps := c.feed().Gaps
		if len(gaps) == 0 || gaps[0].State != state || !strings.Contains(gaps[0].Error, says) {
			return fmt.Sprintf("gaps %+v, want one that is %s and says %q", gaps, state, says)
		}
		g = gaps[0]
		return ""
	})
	return g
}

// whenSubscribed waits until the service runs and hears the feed; its stamps are old, so that it is never ready.
func (c *client) whenSubscribed(f *feed) {
	c.t.Helper()
	eventually(c.t, func() string {
		if f.subscribers() == 0 || c.feed().State == ingest.Connecting {
			return "not subscribed"
		}
		return ""
	})
}

// The feed is cut for a while; the archive's files come later, one of them damaged at first.
func TestBackfill(t *testing.T) {
	t.Parallel()
	f, hook := newFeed(t), newReceiver(t)
	p := newPast(t)
	s := start(t, p.configuration(f, hook))
	s.whenSubscribed(f)
	say := func(updates []ingest.Update) {
		t.Helper()
		if err := f.tell(updates...); err != nil {
			t.Fatal(err)
		}
	}
	before, missed, after := p.between(0, 200), p.between(200, 700), p.between(700, 900)
	say(before)
	s.whenHistoryIs(before, nil)
	s.reconnect(f)
	say(after)
	heard := slices.Concat(before, after)
	g := s.whenGapIs(ingest.GapWaiting, "no updates")
	if g.Collector != "rrc00" || !g.From.Equal(before[len(before)-1].Time.Time()) || !g.Until.Equal(after[0].Time.Time()) {
		t.Errorf("gap %+v", g)
	}
	p.publish(0)
	s.whenGapIs(ingest.GapWaiting, "no updates from "+p.begin.Add(5*time.Minute).Format(time.RFC3339))
	s.whenHistoryIs(heard, p.between(200, 300))
	p.put(1, []byte("\x1f\x8b and then nothing that makes sense"))
	p.publish(2)
	s.whenGapIs(ingest.GapWaiting, "no good")
	p.publish(1)
	s.whenGapIs(ingest.GapDone, "")
	s.whenHistoryIs(heard, missed)

	if list := s.incidents(""); len(list) > 0 || len(hook.told()) > 0 {
		t.Errorf("%d incidents of what is history, %d messages", len(list), len(hook.told()))
	}
	for name, want := range map[string]float64{`routevigil_backfill_gaps_total{outcome="recorded"}`: 1, `routevigil_backfill_gaps_total{outcome="done"}`: 1,
		"routevigil_backfill_updates_total": float64(len(missed)), "routevigil_backfill_waiting_gaps": 0} {
		if got, ok := s.metric(name); !ok || got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	var text string
	s.get("/api/v1/updates?limit=500&from="+p.begin.Add(701*time.Second).Format(time.RFC3339), &text)
	if !strings.Contains(text, "as_path") || strings.Contains(text, "backfilled") {
		t.Errorf("what was heard live is marked: %s", text)
	}
}

// Killed with a gap half filled, and away for a while after that, the service fills both times, and nothing twice.
func TestBackfillKilled(t *testing.T) {
	t.Parallel()
	f, hook := newFeed(t), newReceiver(t)
	p := newPast(t)
	c := p.configuration(f, hook)
	one := launch(t, c)
	one.whenSubscribed(f)
	tell := func(updates []ingest.Update) {
		t.Helper()
		if err := f.tell(updates...); err != nil {
			t.Fatal(err)
		}
	}
	before, between, after := p.between(0, 200), p.between(650, 700), p.between(850, 900)
	tell(before)
	one.whenHistoryIs(before, nil)
	p.publish(0)
	p.publish(1)
	one.reconnect(f)
	tell(between)
	one.whenHistoryIs(slices.Concat(before, between), p.between(200, 600))
	one.command.Process.Kill()
	if err := one.wait(); !killed(err) {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if f.subscribers() > 0 {
			return "the dead are still subscribed"
		}
		return ""
	})

	two := launch(t, c)
	two.whenSubscribed(f)
	if gaps := two.feed().Gaps; len(gaps) != 2 || gaps[0].State != ingest.GapOpen || gaps[1].State != ingest.GapWaiting {
		t.Errorf("after the restart: %+v, want one that is open and one that waits", gaps)
	}
	tell(after)
	p.publish(2)
	two.whenGapIs(ingest.GapDone, "")
	two.whenHistoryIs(slices.Concat(before, between, after), slices.Concat(p.between(200, 650), p.between(700, 850)))
	if list := two.incidents(""); len(list) > 0 || len(hook.told()) > 0 {
		t.Errorf("%d incidents of what is history, %d messages", len(list), len(hook.told()))
	}
}

// What the archive never has is given up, and that is told.
func TestBackfillGivenUp(t *testing.T) {
	t.Parallel()
	f := newFeed(t)
	p := newPast(t)
	c := p.configuration(f)
	c.Ingest.Backfill.MaxAge = time.Second // and the gap ended minutes ago
	s := start(t, c)
	s.whenSubscribed(f)
	before, after := p.between(0, 200), p.between(700, 900)
	if err := f.tell(before...); err != nil {
		t.Fatal(err)
	}
	s.whenHistoryIs(before, nil)
	p.publish(0)
	p.publish(2)
	s.reconnect(f)
	if err := f.tell(after...); err != nil {
		t.Fatal(err)
	}
	s.whenGapIs(ingest.GapFailed, "given up after 1s: the archive has no updates from "+p.begin.Add(5*time.Minute).Format(time.RFC3339))
	s.whenHistoryIs(slices.Concat(before, after), slices.Concat(p.between(200, 300), p.between(600, 700)))
	if n, ok := s.metric(`routevigil_backfill_gaps_total{outcome="failed"}`); !ok || n != 1 {
		t.Errorf("%v gaps failed by the metric", n)
	}
}
