package rislive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/ingest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs a WebSocket server whose connections, counted from 1, are each handled by handle and
// closed after it.
func serve(t *testing.T, handle func(n int, conn *websocket.Conn, r *http.Request)) Configuration {
	var n atomic.Int64
	var upgrader websocket.Upgrader
	var handlers sync.WaitGroup
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1) // before the connection is out of the server's sight
		defer handlers.Done()
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		handle(int(n.Add(1)), conn, r)
	}))
	t.Cleanup(func() {
		s.Close()
		handlers.Wait()
	})
	c := DefaultConfiguration()
	c.URL = "ws" + strings.TrimPrefix(s.URL, "http") + "/v1/ws/"
	c.ReconnectMin, c.ReconnectMax = 10*time.Millisecond, 50*time.Millisecond
	return c
}

// start runs a client until the test ends, or stop is called.
func start(t *testing.T, c Configuration, reg prometheus.Registerer, h ingest.Handler) (x *Client, stop func() error) {
	x = newClient(c, 0, slog.New(slog.DiscardHandler), reg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx, h) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(30 * time.Second):
			return errors.New("Run did not end")
		}
	})
	t.Cleanup(func() { stop() })
	return x, stop
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: ", what)
		}
	}
}

// drain reads until the peer goes, answering pings.
func drain(conn *websocket.Conn) {
	for {
		if _, _, err := conn.ReadMessage(); err != nil {
			return
		}
	}
}

func fresh(members string) string {
	return fmt.Sprintf(`{"type":"ris_message","data":{"timestamp":%.6f,"peer":"192.0.2.1","peer_asn":"64500","host":"rrc00",%s}}`,
		float64(time.Now().UnixMicro())/1e6, members)
}

func withdrawal() string { return fresh(`"type":"UPDATE","withdrawals":["198.51.100.0/24"]`) }

func send(conn *websocket.Conn, text string) {
	conn.WriteMessage(websocket.TextMessage, []byte(text))
}

func discard(*ingest.Update) error { return nil }

func TestClientSubscribesAndDelivers(t *testing.T) {
	type request struct {
		at   time.Time
		text string
	}
	requests := make(chan request, 2)
	query := make(chan string, 1)
	c := serve(t, func(_ int, conn *websocket.Conn, r *http.Request) {
		query <- r.URL.RawQuery
		for range 2 {
			_, text, err := conn.ReadMessage()
			if err != nil {
				return
			}
			requests <- request{time.Now(), string(text)}
		}
		send(conn, `{"type":"pong","data":null}`)
		send(conn, withdrawal())
		send(conn, fresh(`"type":"RIS_PEER_STATE","state":"down"`))
		drain(conn)
	})
	c.Subscriptions[0].Prefix, c.Subscriptions[0].MoreSpecific = []string{"192.0.2.0/24"}, new(true)
	c.Subscriptions[0].Host = "rrc21"
	got := make(chan ingest.Update, 10)
	reg := prometheus.NewRegistry()
	x, stop := start(t, c, reg, func(u *ingest.Update) error { got <- u.Clone(); return nil })

	if q := <-query; q != "client=routevigil" {
		t.Errorf("query %q", q)
	}
	first, second := <-requests, <-requests
	for i, want := range []string{
		`{"type":"ris_subscribe","data":{"host":"rrc21","type":"UPDATE","prefix":["192.0.2.0/24"],"moreSpecific":true,"socketOptions":{"includeRaw":true}}}`,
		`{"type":"ris_subscribe","data":{"type":"RIS_PEER_STATE","socketOptions":{"includeRaw":true}}}`,
	} {
		var a, b any
		json.Unmarshal([]byte(want), &a)
		json.Unmarshal([]byte([]request{first, second}[i].text), &b)
		if diff := cmp.Diff(a, b); diff != "" {
			t.Errorf("subscription %d:\n%s", i, diff)
		}
	}
	if d := second.at.Sub(first.at); d < subscribeSpacing-20*time.Millisecond {
		t.Errorf("the second subscription came %v after the first, want %v", d, subscribeSpacing)
	}
	if u := <-got; u.Kind != ingest.Routes || len(u.Withdrawn) != 1 {
		t.Errorf("got %+v", u)
	}
	if u := <-got; u.Kind != ingest.PeerDown || u.Peer.Collector != "rrc00" {
		t.Errorf("got %+v", u)
	}
	eventually(t, "both updates counted", func() bool { return x.Status().Updates == 2 })
	s := x.Status()
	if s.State != ingest.Connected || s.Messages != 3 || s.Peers != 1 || s.Reconnects != 0 || s.LagSeconds > 5 || s.LastEventTime.IsZero() {
		t.Errorf("status %+v", s)
	}
	want := `
# HELP routevigil_rislive_connected 1 while connected, also when stalled or lagging.
# TYPE routevigil_rislive_connected gauge
routevigil_rislive_connected{feed="ris-live"} 1
# HELP routevigil_rislive_messages_total Messages received.
# TYPE routevigil_rislive_messages_total counter
routevigil_rislive_messages_total{feed="ris-live"} 3
# HELP routevigil_rislive_updates_total Updates handed on.
# TYPE routevigil_rislive_updates_total counter
routevigil_rislive_updates_total{feed="ris-live"} 2
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "routevigil_rislive_connected", "routevigil_rislive_messages_total", "routevigil_rislive_updates_total"); err != nil {
		t.Error(err)
	}
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Errorf("Run returned %v, want Canceled", err)
	}
}

// Each of these ends the connection; the client says why, and comes back.
func TestClientReconnects(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		edit  func(*Configuration)
		first func(conn *websocket.Conn)
		want  string
	}{
		{"stall", func(c *Configuration) { c.StallAfter = 100 * time.Millisecond },
			func(conn *websocket.Conn) { drain(conn) }, "stalled: no message for 100ms"},
		{"stall after some messages", func(c *Configuration) { c.StallAfter = 100 * time.Millisecond },
			func(conn *websocket.Conn) { send(conn, withdrawal()); drain(conn) }, "stalled: no message for 100ms"},
		{"no answer to pings", func(c *Configuration) { c.PingInterval, c.StallAfter = 50*time.Millisecond, 0 },
			func(conn *websocket.Conn) { time.Sleep(500 * time.Millisecond) }, "no answer to pings"},
		{"abrupt close", nil,
			func(conn *websocket.Conn) { conn.NetConn().Close() }, "EOF|connection reset"},
		{"too slow for the service", nil, func(conn *websocket.Conn) {
			send(conn, `{"type":"ris_error","data":{"message":"Client too slow"}}`)
			conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "bye"), time.Now().Add(time.Second))
			drain(conn)
		}, "bye"},
		{"a message beyond the limit", func(c *Configuration) { c.MaxMessageBytes = 64 << 10 },
			func(conn *websocket.Conn) { send(conn, strings.Repeat("x", 65<<10)); drain(conn) }, "read limit"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := serve(t, func(n int, conn *websocket.Conn, _ *http.Request) {
				if n == 1 {
					tt.first(conn)
					return
				}
				for range 200 { // keeps the second connection alive for the watchdogs
					send(conn, withdrawal())
					time.Sleep(5 * time.Millisecond)
				}
				drain(conn)
			})
			if tt.edit != nil {
				tt.edit(&c)
			}
			x, _ := start(t, c, nil, discard)
			eventually(t, "a further connection that delivers", func() bool {
				s := x.Status()
				return s.Reconnects > 0 && s.Updates > 1 && s.State == ingest.Connected
			})
			if s := x.Status(); !regexp.MustCompile(tt.want).MatchString(s.LastError) {
				t.Errorf("last error %q, want %q", s.LastError, tt.want)
			}
			if n := x.Connection(); n < 2 {
				t.Errorf("updates of a further connection come under the number %d", n)
			}
		})
	}
}

// Several connections ask for all collectors between them, and for none twice.
func TestConnections(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 20)
	c := serve(t, func(_ int, conn *websocket.Conn, _ *http.Request) {
		for {
			var r struct {
				Type string
				Data Subscription
			}
			if err := conn.ReadJSON(&r); err != nil {
				return
			}
			if r.Type == "request_rrc_list" {
				send(conn, `{"type":"ris_rrc_list","data":["rrc00","rrc25","rrc01"]}`)
				continue
			}
			asked <- r.Data.Host + " " + r.Data.Type
		}
	})
	c.Connections = 2
	var want []string
	for _, host := range []string{"rrc00", "rrc01", "rrc25"} {
		want = append(want, host+" RIS_PEER_STATE", host+" UPDATE")
	}
	clients := New(c, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, x := range clients {
		running.Go(func() { x.Run(ctx, discard) })
	}
	var got []string
	for range want {
		select {
		case s := <-asked:
			got = append(got, s)
		case <-time.After(20 * time.Second):
			t.Fatalf("asked only for %q", got)
		}
	}
	cancel()
	running.Wait()
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if a, b := clients[0].Status().Name, clients[1].Status().Name; a != "ris-live-1" || b != "ris-live-2" {
		t.Errorf("the feeds are %s and %s", a, b)
	}
}

func TestConnectionsWithoutList(t *testing.T) {
	t.Parallel()
	c := serve(t, func(_ int, conn *websocket.Conn, _ *http.Request) {
		send(conn, `{"type":"ris_rrc_list","data":[]}`)
		drain(conn)
	})
	c.Connections, c.ConnectTimeout = 2, 200*time.Millisecond
	x, _ := start(t, c, nil, discard)
	eventually(t, "an error", func() bool { return x.Status().Reconnects > 0 })
	if s := x.Status(); !strings.Contains(s.LastError, "which collectors there are") || s.Malformed["collectors"] == 0 {
		t.Errorf("status %+v", s)
	}
}

func TestShare(t *testing.T) {
	all := []Subscription{{Type: "UPDATE"}, {Host: "rrc99", Type: "RIS_PEER_STATE"}}
	var got []string
	for part := range 3 {
		for _, s := range share(all, []string{"rrc03", "rrc00", "rrc01"}, part, 3) {
			got = append(got, fmt.Sprintf("%d %s %s", part, s.Host, s.Type))
		}
	}
	slices.Sort(got)
	want := []string{"0 rrc00 UPDATE", "0 rrc99 RIS_PEER_STATE", "1 rrc01 UPDATE", "2 rrc03 UPDATE"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestClientCountsRubbish(t *testing.T) {
	const rubbish = 100
	c := serve(t, func(_ int, conn *websocket.Conn, _ *http.Request) {
		for i := range rubbish {
			send(conn, fmt.Sprintf("%d %s", i, strings.Repeat("?", 2*ingest.MaxSampleBytes)))
		}
		send(conn, fresh(`"type":"UPDATE","raw":"FF"`))
		conn.WriteMessage(websocket.BinaryMessage, []byte{0, 1, 2})
		send(conn, withdrawal())
		drain(conn)
	})
	x, _ := start(t, c, nil, discard)
	eventually(t, "the good message", func() bool { return x.Status().Updates == 1 })
	s := x.Status()
	if diff := cmp.Diff(map[string]uint64{"json": rubbish + 1, "bgp_message_length": 1}, s.Malformed); diff != "" {
		t.Error(diff)
	}
	if s.Reconnects != 0 || s.State != ingest.Connected {
		t.Errorf("status %+v", s)
	}
	samples := x.Samples()
	if len(samples) != ingest.MaxSamples {
		t.Fatalf("%d samples, want %d", len(samples), ingest.MaxSamples)
	}
	if first := string(samples[0].Octets); !strings.HasPrefix(first, fmt.Sprint(rubbish+2-ingest.MaxSamples)) || len(first) != ingest.MaxSampleBytes {
		t.Errorf("the oldest sample begins %.20q and has %d octets", first, len(first))
	}
	if last := samples[ingest.MaxSamples-1]; string(last.Octets) != "\x00\x01\x02" || last.Reason != "json" || last.Time.IsZero() {
		t.Errorf("the newest sample is %+v", last)
	}
}

// However fast the feed, what is not yet handled waits in the socket, and nothing is lost.
func TestClientFlood(t *testing.T) {
	t.Parallel()
	const n = 20_000
	c := serve(t, func(_ int, conn *websocket.Conn, _ *http.Request) {
		for i := range n {
			conn.SetWriteDeadline(time.Now().Add(20 * time.Second))
			send(conn, fresh(fmt.Sprintf(`"type":"UPDATE","withdrawals":["10.%d.%d.0/24"]`, i>>8, i&255)))
		}
		drain(conn)
	})
	next := 0
	done := make(chan struct{})
	x, _ := start(t, c, nil, func(u *ingest.Update) error {
		a := u.Withdrawn[0].Prefix.Addr().As4()
		if i := int(a[1])<<8 | int(a[2]); i != next {
			return fmt.Errorf("update %d came when %d was due", i, next)
		}
		if next++; next%1000 == 0 {
			time.Sleep(5 * time.Millisecond)
		}
		if next == n {
			close(done)
		}
		return nil
	})
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%d of %d arrived; %+v", next, n, x.Status())
	}
}

// A consumer that makes us wait is no stall of the feed.
func TestClientSlowConsumer(t *testing.T) {
	t.Parallel()
	c := serve(t, func(_ int, conn *websocket.Conn, _ *http.Request) {
		for range 3 {
			send(conn, withdrawal())
		}
		go drain(conn)
		time.Sleep(1600 * time.Millisecond)
		send(conn, withdrawal())
		time.Sleep(100 * time.Millisecond)
	})
	c.StallAfter, c.PingInterval = time.Second, 300*time.Millisecond
	got := make(chan struct{}, 10)
	slow := sync.OnceFunc(func() { time.Sleep(1500 * time.Millisecond) })
	x, _ := start(t, c, nil, func(*ingest.Update) error { slow(); got <- struct{}{}; return nil })
	for range 4 {
		<-got
	}
	if s := x.Status(); s.Reconnects != 0 {
		t.Errorf("reconnected: %s", s.LastError)
	}
}

func TestClientLag(t *testing.T) {
	t.Parallel()
	old := fmt.Sprintf(`{"type":"ris_message","data":{"timestamp":%d,"peer":"192.0.2.1","peer_asn":"1","host":"rrc00","type":"RIS_PEER_STATE","state":"down"}}`, time.Now().Add(-time.Hour).Unix())
	future := fmt.Sprintf(`{"type":"ris_message","data":{"timestamp":%d,"peer":"192.0.2.1","peer_asn":"1","host":"rrc00","type":"RIS_PEER_STATE","state":"down"}}`, time.Now().Add(time.Hour).Unix())
	step := make(chan string)
	c := serve(t, func(_ int, conn *websocket.Conn, _ *http.Request) {
		go drain(conn)
		for text := range step {
			send(conn, text)
		}
	})
	defer close(step)
	c.LagAfter = 2 * time.Second
	x, _ := start(t, c, nil, discard)
	expect := func(text string, want ingest.State) {
		t.Helper()
		before := x.Status().Messages
		step <- text
		eventually(t, "message", func() bool { return x.Status().Messages > before })
		if s := x.Status(); s.State != want {
			t.Errorf("%s, want %s; lag %v", s.State, want, s.LagSeconds)
		}
	}
	expect(old, ingest.Lagging)
	expect(withdrawal(), ingest.Connected)
	expect(old, ingest.Connected) // one session's stamps do not make a lag while others are fresh
	expect(future, ingest.Connected)
	time.Sleep(2100 * time.Millisecond)
	expect(old, ingest.Lagging) // nor does one from the future hide it
}

func TestClientStalledState(t *testing.T) {
	t.Parallel()
	c := serve(t, func(_ int, conn *websocket.Conn, _ *http.Request) { drain(conn) })
	c.StallAfter = 3 * time.Second
	x, _ := start(t, c, nil, discard)
	eventually(t, "connected", func() bool { return x.Status().State == ingest.Connected })
	eventually(t, "stalled", func() bool { return x.Status().State == ingest.Stalled })
	if s := x.Status(); s.Reconnects != 0 || time.Since(s.Since) > time.Second {
		t.Errorf("status %+v", s)
	}
}

func TestClientHandlerErrorEndsRun(t *testing.T) {
	c := serve(t, func(_ int, conn *websocket.Conn, _ *http.Request) { send(conn, withdrawal()); drain(conn) })
	full := errors.New("disk full")
	if err := newClient(c, 0, slog.New(slog.DiscardHandler), nil).Run(t.Context(), func(*ingest.Update) error { return full }); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}

func TestClientReportsRefusal(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTooManyRequests) }))
	defer s.Close()
	c := DefaultConfiguration()
	c.URL = "ws" + strings.TrimPrefix(s.URL, "http")
	x, _ := start(t, c, nil, discard)
	eventually(t, "refusal", func() bool { return x.Status().Reconnects == 1 })
	if st := x.Status(); st.State != ingest.Connecting || !strings.Contains(st.LastError, "429") || st.NextAttempt.IsZero() {
		t.Errorf("status %+v", st)
	}
}

// retries collects what the client logs of its waits.
type retries struct {
	slog.Handler
	waits []time.Duration
}

func (r *retries) Enabled(context.Context, slog.Level) bool { return true }
func (r *retries) WithAttrs([]slog.Attr) slog.Handler       { return r }
func (r *retries) Handle(_ context.Context, rec slog.Record) error {
	rec.Attrs(func(a slog.Attr) bool {
		if a.Key == "retry_in" {
			r.waits = append(r.waits, a.Value.Duration())
		}
		return true
	})
	return nil
}

func TestClientBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := DefaultConfiguration()
		c.URL = "ws://127.0.0.1:1/" // nobody listens there
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		var r retries
		if err := newClient(c, 0, slog.New(&r), nil).Run(ctx, discard); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if len(r.waits) < 8 {
			t.Fatalf("waits %v", r.waits)
		}
		jitter := false
		for i, w := range r.waits {
			full := min(c.ReconnectMin<<i, c.ReconnectMax)
			if w < full/2 || w > full {
				t.Errorf("wait %d was %v, want from %v to %v", i, w, full/2, full)
			}
			jitter = jitter || w != full && w != full/2
		}
		if !jitter {
			t.Error("no wait was jittered")
		}
	})
}

func TestValidate(t *testing.T) {
	if err := DefaultConfiguration().Validate(); err != nil {
		t.Error(err)
	}
	edit := func(f func(*Configuration)) Configuration { c := DefaultConfiguration(); f(&c); return c }
	many := make([]string, maxPrefixFilters+1)
	for i := range many {
		many[i] = "192.0.2.0/24"
	}
	tests := []struct {
		field string
		c     Configuration
	}{
		{"name", edit(func(c *Configuration) { c.Name = "" })},
		{"url", edit(func(c *Configuration) { c.URL = "ftp://ris-live.ripe.net" })},
		{"subscriptions", edit(func(c *Configuration) { c.URL = "https://ris-live.ripe.net/v1/stream/" })},
		{"connections", edit(func(c *Configuration) { c.Connections = 0 })},
		{"connections", edit(func(c *Configuration) {
			c.URL, c.Connections, c.Subscriptions = "https://ris-live.ripe.net/v1/stream/", 2, c.Subscriptions[:1]
		})},
		{"connections", edit(func(c *Configuration) { c.Connections, c.Subscriptions[0].Path = 2, "3333" })},
		{"client", edit(func(c *Configuration) { c.Client = "" })},
		{"subscriptions", edit(func(c *Configuration) { c.Subscriptions = nil })},
		{"subscriptions", edit(func(c *Configuration) { c.Subscriptions = []Subscription{{Prefix: many}} })},
		{"subscriptions", edit(func(c *Configuration) {
			c.Subscriptions = make([]Subscription, 11)
			for i := range c.Subscriptions {
				c.Subscriptions[i].Path = "^1,2$"
			}
		})},
		{"subscriptions[0].type", edit(func(c *Configuration) { c.Subscriptions[0].Type = "update" })},
		{"subscriptions[1].require", edit(func(c *Configuration) { c.Subscriptions[1].Require = "both" })},
		{"subscriptions[0].peer", edit(func(c *Configuration) { c.Subscriptions[0].Peer = "AS1" })},
		{"subscriptions[0].path", edit(func(c *Configuration) { c.Subscriptions[0].Path = "1,.*" })},
		{"subscriptions[0].prefix[1]", edit(func(c *Configuration) { c.Subscriptions[0].Prefix = []string{"::/0", "x"} })},
		{"max_message_bytes", edit(func(c *Configuration) { c.MaxMessageBytes = 1 })},
		{"connect_timeout", edit(func(c *Configuration) { c.ConnectTimeout = 0 })},
		{"ping_interval", edit(func(c *Configuration) { c.PingInterval = -1 })},
		{"stall_after", edit(func(c *Configuration) { c.StallAfter = -1 })},
		{"lag_after", edit(func(c *Configuration) { c.LagAfter = 0 })},
		{"reconnect_min", edit(func(c *Configuration) { c.ReconnectMin = 0 })},
		{"reconnect_max", edit(func(c *Configuration) { c.ReconnectMax = 1 })},
	}
	for _, tt := range tests {
		if err := tt.c.Validate(); err == nil || !strings.HasPrefix(err.Error(), tt.field+": ") {
			t.Errorf("%s: got %v", tt.field, err)
		}
	}
}
