package rislive

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/ingest"
)

// serveLines runs an HTTP service whose answers, counted from 1, are each written by handle and end
// with it. send hands a line on at once.
func serveLines(t *testing.T, handle func(n int, r *http.Request, send func(line string))) Configuration {
	t.Helper()
	var mu sync.Mutex
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		n++
		number := n
		mu.Unlock()
		w.WriteHeader(http.StatusOK)
		out := http.NewResponseController(w)
		out.Flush()
		handle(number, r, func(line string) {
			fmt.Fprintln(w, line)
			out.Flush()
		})
	}))
	t.Cleanup(s.Close)
	c := DefaultConfiguration()
	c.URL, c.Subscriptions = s.URL+"/v1/stream/?format=json", []Subscription{{Type: "UPDATE", Path: "^64500"}}
	c.ReconnectMin, c.ReconnectMax = 10*time.Millisecond, 50*time.Millisecond
	return c
}

func TestStream(t *testing.T) {
	t.Parallel()
	requests := make(chan *http.Request, 1)
	c := serveLines(t, func(_ int, r *http.Request, send func(string)) {
		requests <- r
		send(withdrawal())
		send("")
		send(`{"type":"ris_message","data":` + strings.Repeat(" ", 65<<10) + `}`)
		send(withdrawal())
		<-r.Context().Done()
	})
	c.MaxMessageBytes = 64 << 10
	got := make(chan ingest.Update, 10)
	x, stop := start(t, c, nil, func(u *ingest.Update) error { got <- u.Clone(); return nil })
	for range 2 {
		if u := <-got; len(u.Withdrawn) != 1 || u.Peer.Collector != "rrc00" {
			t.Errorf("got %+v", u)
		}
	}
	s := x.Status()
	if s.State != ingest.Connected || s.Reconnects != 0 || s.Address != c.URL {
		t.Errorf("status %+v", s)
	}
	if diff := cmp.Diff(map[string]uint64{"too_long": 1}, s.Malformed); diff != "" {
		t.Error(diff)
	}
	r := <-requests
	if r.URL.Query().Get("client") != "routevigil" || r.URL.Query().Get("format") != "json" {
		t.Errorf("asked %s", r.URL)
	}
	var filter map[string]any
	if err := json.Unmarshal([]byte(r.Header.Get("X-RIS-Subscribe")), &filter); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"type": "UPDATE", "path": "^64500", "socketOptions": map[string]any{"includeRaw": true}}
	if diff := cmp.Diff(want, filter); diff != "" {
		t.Error(diff)
	}
	stop()
}

// Each of these ends the connection; the client says why, and comes back.
func TestStreamReconnects(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		first func(r *http.Request, send func(string))
		want  string
	}{
		{"stall", func(r *http.Request, send func(string)) { send(withdrawal()); <-r.Context().Done() }, "stalled: no message for 200ms"},
		{"cut off", func(_ *http.Request, send func(string)) { send(withdrawal()); panic(http.ErrAbortHandler) }, "unexpected EOF"},
		{"ended", func(_ *http.Request, send func(string)) { send(withdrawal()) }, "EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := serveLines(t, func(n int, r *http.Request, send func(string)) {
				if n == 1 {
					tt.first(r, send)
					return
				}
				for r.Context().Err() == nil {
					send(withdrawal())
					time.Sleep(5 * time.Millisecond)
				}
			})
			c.StallAfter = 200 * time.Millisecond
			x, _ := start(t, c, nil, discard)
			eventually(t, "a further connection that delivers", func() bool {
				s := x.Status()
				return s.Reconnects > 0 && s.Updates > 2 && s.State == ingest.Connected
			})
			if s := x.Status(); !strings.Contains(s.LastError, tt.want) {
				t.Errorf("last error %q, want %q", s.LastError, tt.want)
			}
		})
	}
}

// A consumer that makes us wait is no stall of the feed.
func TestStreamSlowConsumer(t *testing.T) {
	t.Parallel()
	c := serveLines(t, func(_ int, r *http.Request, send func(string)) {
		for range 3 {
			send(withdrawal())
		}
		<-r.Context().Done()
	})
	c.StallAfter = time.Second
	got := make(chan struct{}, 10)
	slow := sync.OnceFunc(func() { time.Sleep(1500 * time.Millisecond) })
	x, stop := start(t, c, nil, func(*ingest.Update) error { slow(); got <- struct{}{}; return nil })
	for range 3 {
		<-got
	}
	if s := x.Status(); s.Reconnects != 0 {
		t.Errorf("reconnected: %s", s.LastError)
	}
	stop()
}

func TestStreamRefused(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTooManyRequests) }))
	defer s.Close()
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer silent.Close()
	for url, want := range map[string]string{s.URL: "429", silent.URL: "no answer within 300ms", "http://127.0.0.1:1/": "refused"} {
		c := DefaultConfiguration()
		c.URL, c.Subscriptions, c.ConnectTimeout = url, c.Subscriptions[:1], 300*time.Millisecond
		x, stop := start(t, c, nil, discard)
		eventually(t, "refusal", func() bool { return x.Status().Reconnects > 0 })
		if st := x.Status(); st.State != ingest.Connecting || !strings.Contains(st.LastError, want) || st.NextAttempt.IsZero() {
			t.Errorf("%s: status %+v, want %q", url, st, want)
		}
		stop()
	}
}

func TestStreamHandlerErrorEndsRun(t *testing.T) {
	t.Parallel()
	c := serveLines(t, func(_ int, r *http.Request, send func(string)) { send(withdrawal()); <-r.Context().Done() })
	full := errors.New("disk full")
	if err := newClient(c, 0, slog.New(slog.DiscardHandler), nil).Run(t.Context(), func(*ingest.Update) error { return full }); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}
