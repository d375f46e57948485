package service

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/rislive/rislivesim"
	"github.com/routevigil/routevigil/ingest/scenario"
)

var offset = regexp.MustCompile(`(?m)(^| by )\+(\S+)`)

// quickened returns the demo's scenarios with a minute of theirs in five seconds.
func quickened(t *testing.T) []*scenario.Scenario {
	t.Helper()
	list, err := scenario.Demo()
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range list {
		text := offset.ReplaceAllStringFunc(s.String(), func(m string) string {
			before, number, _ := strings.Cut(m, "+")
			d, err := time.ParseDuration(number)
			if err != nil {
				t.Fatal(err)
			}
			return before + "+" + (d / 12).Round(time.Millisecond).String()
		})
		if list[i], err = scenario.Parse(strings.NewReader(text), s.Name); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// The whole way: a feed that plays the demo's incidents, to what a person and a program see of them.
func TestDemoFromFeedToWebhook(t *testing.T) {
	t.Parallel()
	play := quickened(t)
	sim, err := rislivesim.Listen(rislivesim.DefaultConfiguration(), play, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var background sync.WaitGroup
	background.Go(func() {
		if err := sim.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer background.Wait()
	defer cancel()

	hook := newReceiver(t)
	info := hook.configuration("noc")
	info.MinSeverity = incident.Info
	c := configuration(t, sim.URL(), info)
	files, err := scenario.World().WriteBaseline(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c.Ingest.Baseline = nil
	for _, f := range files.RIBs {
		c.Ingest.Baseline = append(c.Ingest.Baseline, f.Path)
	}
	c.Knowledge.VRPs, c.Knowledge.Relationships, c.Knowledge.Organisations = files.VRPs, files.ASRel, files.ASOrg
	s := start(t, c)

	var streamed sync.Map // sequence to event as JSON
	eventually(t, func() string {
		status, _ := s.ready()
		if status == 0 {
			return "no answer"
		}
		return ""
	})
	background.Go(func() {
		s.follow(ctx, 0, func(n uint64, text string) {
			if _, twice := streamed.LoadOrStore(n, text); twice {
				t.Errorf("the stream has event %d twice", n)
			}
		})
	})
	s.whenReady(nil)
	eventually(t, func() string {
		if f := s.feed(); f.State != ingest.Connected || f.Messages == 0 || f.Peers == 0 {
			return fmt.Sprintf("the feed is %+v, want it connected, with messages and peers", f)
		}
		return ""
	})

	matches := func(x scenario.Expect) func(incident.Incident) bool {
		return func(i incident.Incident) bool {
			holds := func(some []uint32, all []uint32) bool {
				return !slices.ContainsFunc(some, func(a uint32) bool { return !slices.Contains(all, a) })
			}
			return (len(x.Kinds) == 0 || slices.Contains(x.Kinds, string(i.Kind))) && holds(x.Offenders, i.Offenders) &&
				holds(x.Accomplices, i.Accomplices) && holds(x.Victims, i.Victims) && (x.Status == "" || x.Status == string(i.Status))
		}
	}
	expected := 0
	eventually(t, func() string {
		list := s.incidents("")
		expected = 0
		for _, sc := range play {
			for _, x := range sc.Expect {
				if x.None {
					continue
				}
				expected++
				if !slices.ContainsFunc(list, matches(x)) {
					return fmt.Sprintf("%s: %s; there are %d incidents", sc.Name, x.Text, len(list))
				}
			}
		}
		return ""
	})
	if expected < len(play) {
		t.Errorf("%d incidents are expected of %d scenarios", expected, len(play))
	}
	list := s.incidents("")
	for _, sc := range play {
		for _, x := range sc.Expect {
			if i := slices.IndexFunc(list, matches(x)); x.None && i >= 0 {
				t.Errorf("%s: %s, but there is %s", sc.Name, x.Text, list[i].Title)
			}
		}
	}

	// What the API has as events is what the stream sent, and what the receiver was told.
	var events []incident.Event
	changes := map[incident.Change]int{}
	for _, i := range list {
		for _, e := range s.events(i.ID) {
			if e.Incident.ID != i.ID {
				t.Errorf("event %d of %s is about %s", e.Sequence, i.ID, e.Incident.ID)
			}
			events = append(events, e)
			changes[e.Change]++
		}
	}
	for _, change := range []incident.Change{incident.Opened, incident.Grew, incident.SeverityChanged, incident.Closed} {
		if changes[change] == 0 {
			t.Errorf("no event says %s: the test tests less than it should", change)
		}
	}
	eventually(t, func() string {
		for _, e := range events {
			if _, ok := streamed.Load(e.Sequence); !ok {
				return fmt.Sprintf("event %d has not been streamed", e.Sequence)
			}
		}
		return ""
	})
	verifyTold(t, hook, events, true)
	if d := s.deliveries(list[0].ID); len(d) == 0 || d[0].Receipt == "" {
		t.Errorf("no receipt is shown for %s: %+v", list[0].ID, d)
	}
}

// verifyTold checks that the receiver was told of each event that deserves it, under one key of its
// own, and of nothing else; once, unless a message may have been cut off after it was read.
func verifyTold(t *testing.T, hook *receiver, events []incident.Event, once bool) {
	t.Helper()
	want := map[uint64]incident.Event{}
	for _, e := range events {
		if e.Change != incident.Grew && e.Change != incident.Receded {
			want[e.Sequence] = e
		}
	}
	eventually(t, func() string {
		if n := len(hook.told()); n < len(want) {
			return fmt.Sprintf("the receiver has %d messages, want %d", n, len(want))
		}
		return ""
	})
	hook.mu.Lock()
	defer hook.mu.Unlock()
	keys := map[uint64]string{}
	for key, list := range hook.events {
		for _, e := range list {
			w, known := want[e.Sequence]
			if !known || w.Change != e.Change || w.Incident.ID != e.Incident.ID {
				t.Errorf("key %s tells of event %d, %s of %s, which is not so", key, e.Sequence, e.Change, e.Incident.ID)
			}
			if other, ok := keys[e.Sequence]; ok && other != key {
				t.Errorf("event %d comes under the keys %s and %s", e.Sequence, other, key)
			}
			keys[e.Sequence] = key
		}
		if once && len(list) != 1 {
			t.Errorf("key %s came %d times", key, len(list))
		}
	}
	for n, e := range want {
		if keys[n] == "" {
			t.Errorf("the receiver was not told of event %d, %s of %s", n, e.Change, e.Incident.ID)
		}
	}
}

// Without a way to the feed the service says so, keeps trying, and works as soon as there is one.
func TestNoWayOut(t *testing.T) {
	reserve := func(t *testing.T) string { // an address that nobody listens on
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	for name, tt := range map[string]struct {
		url  func(t *testing.T) string
		want string // part of the reason
	}{
		"refused":      {func(t *testing.T) string { return "ws://" + reserve(t) + "/" }, "connection refused"},
		"unresolvable": {func(*testing.T) string { return "ws://ris-live.invalid/v1/ws/" }, "ris-live.invalid"},
		"black hole": {func(t *testing.T) string { // accepts and never says a word
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return "ws://" + l.Addr().String() + "/"
		}, "timeout"},
		"not a WebSocket": {func(t *testing.T) string {
			h := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(h.Close)
			return "ws" + strings.TrimPrefix(h.URL, "http")
		}, "404"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := configuration(t, tt.url(t))
			c.Ingest.RISLive.ConnectTimeout = 200 * time.Millisecond
			s := start(t, c)
			var first uint64
			eventually(t, func() string {
				status, reasons := s.ready()
				if status != http.StatusServiceUnavailable {
					return fmt.Sprintf("status %d", status)
				}
				for _, part := range []string{"test cannot be reached: ", c.Ingest.RISLive.URL, tt.want, "trying again at"} {
					if !strings.Contains(reasons, part) {
						return fmt.Sprintf("the reason does not say %q: %s", part, reasons)
					}
				}
				first = s.feed().Reconnects
				return ""
			})
			var status struct {
				Ready   bool
				Reasons []string
			}
			if code := s.get("/api/v1/status", &status); code != http.StatusOK || status.Ready || !strings.Contains(strings.Join(status.Reasons, " "), "cannot be reached") {
				t.Errorf("the dashboard's status is %d %+v", code, status)
			}
			if code := s.get("/healthz", new(any)); code != http.StatusOK {
				t.Errorf("/healthz answers %d", code)
			}
			eventually(t, func() string {
				if f := s.feed(); f.Reconnects < first+2 || f.NextAttempt.IsZero() || f.State != ingest.Connecting {
					return fmt.Sprintf("it does not keep trying: %+v", f)
				}
				return ""
			})
			if err := s.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// The service comes up before its feed does.
func TestFeedComesUpLater(t *testing.T) {
	f := newFeed(t)
	address := f.server.Listener.Addr().String()
	c := configuration(t, f.url())
	f.server.Close()
	s := start(t, c)
	eventually(t, func() string {
		if _, reasons := s.ready(); !strings.Contains(reasons, "connection refused") {
			return "readyz says: " + reasons
		}
		return ""
	})
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("somebody else took the port: %v", err)
	}
	f.server = &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(f.serve)}}
	f.server.Start()
	s.whenReady(f)
	if got := s.feed(); got.State != ingest.Connected || !got.NextAttempt.IsZero() {
		t.Errorf("the feed is %+v", got)
	}
}

// A receiver that hangs, one that redirects and one that fails cost neither detection nor the
// receiver beside them any time.
func TestBadReceiversDelayNobody(t *testing.T) {
	t.Parallel()
	f, good := newFeed(t), newReceiver(t)
	elsewhere := newReceiver(t)
	release := make(chan struct{})
	hang, fail, redirect := newReceiver(t), newReceiver(t), newReceiver(t)
	hang.answer = func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}
	defer close(release)
	fail.answer = func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "out of order", http.StatusInternalServerError)
	}
	redirect.answer = func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.server.URL, http.StatusPermanentRedirect)
	}
	c := configuration(t, f.url(), hang.configuration("hangs"), redirect.configuration("redirects"), fail.configuration("fails"), good.configuration("good"))
	s := start(t, c)
	s.whenReady(f)
	f.background(t, 2*time.Millisecond)

	const n = 30
	for i := range n {
		sent := time.Now()
		if err := f.tell(hijack(i, 0, sessions)...); err != nil {
			t.Fatal(err)
		}
		whenHeard(t, good, i, incident.Opened)
		if took := time.Since(sent); took > 3*time.Second {
			t.Errorf("incident %d took %s to arrive", i, took)
		}
		if behind := time.Since(s.clock()); behind > 3*time.Second {
			t.Errorf("event time is %s behind", behind)
		}
	}
	for name, r := range map[string]*receiver{"hangs": hang, "redirects": redirect, "fails": fail} {
		if len(r.told()) == 0 {
			t.Errorf("the receiver that %s was told nothing: the test tests nothing", name)
		}
	}
	if told := elsewhere.told(); len(told) > 0 {
		t.Errorf("%d messages followed the redirect", len(told))
	}
	inc, _ := s.incidentOf(0)
	reasons := map[string]string{}
	eventually(t, func() string {
		for _, d := range s.deliveries(inc.ID) {
			reasons[d.Receiver] = fmt.Sprint(d.State, " ", d.LastError)
		}
		for receiver, want := range map[string]string{"hangs": "pending cannot reach", "redirects": "redirects are not followed", "fails": "out of order", "good": "delivered"} {
			if !strings.Contains(reasons[receiver], want) {
				return fmt.Sprintf("%s: %q, want %q", receiver, reasons[receiver], want)
			}
		}
		return ""
	})
}
