package bmp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// heard keeps what a station hands on.
type heard struct {
	mu      sync.Mutex
	updates []ingest.Update
}

func (h *heard) handle(u *ingest.Update) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.updates = append(h.updates, u.Clone())
	return nil
}

// find returns the last update that fits.
func (h *heard) find(fits func(*ingest.Update) bool) *ingest.Update {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := len(h.updates) - 1; i >= 0; i-- {
		if fits(&h.updates[i]) {
			u := h.updates[i].Clone()
			return &u
		}
	}
	return nil
}

func (h *heard) count(fits func(*ingest.Update) bool) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.updates {
		if fits(&h.updates[i]) {
			n++
		}
	}
	return n
}

const patience = 2 * time.Minute // for what must come

// eventually waits until what holds; what says what is missing, or nothing when it holds.
func eventually(t testing.TB, what func() string) {
	t.Helper()
	missing := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if missing = what(); missing == "" {
			return
		}
	}
	t.Fatalf("after %v still: %s", patience, missing)
}

func testConfiguration() Configuration {
	c := DefaultConfiguration()
	c.Listen, c.Allow = "127.0.0.1:0", []string{"127.0.0.0/8"}
	c.ReconnectMin, c.ReconnectMax = 10*time.Millisecond, 50*time.Millisecond
	return c
}

// runStation runs a station until the test ends, and returns where it listens.
func runStation(t testing.TB, c Configuration, h ingest.Handler, prepare ...func(*Station)) (*Station, string) {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	s := New(c, slog.New(slog.DiscardHandler), nil)
	for _, p := range prepare {
		p(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, h) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("the station has not stopped for 20 s")
		}
	})
	eventually(t, func() string {
		if c.Listen != "" && s.Status().Address == c.Listen {
			return "the station does not listen"
		}
		return ""
	})
	return s, s.Status().Address
}

// dial connects from an address of ours, as the router that has it.
func dial(t testing.TB, from, to string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func say(t testing.TB, w io.Writer, messages ...*Message) {
	t.Helper()
	for _, m := range messages {
		if _, err := w.Write(encode(t, m)); err != nil {
			t.Fatal(err)
		}
	}
}

// closed waits until the other side has closed the connection.
func closed(t testing.TB, conn net.Conn) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%d octets, %v", n, err)
	} else if e, ok := err.(net.Error); ok && e.Timeout() {
		t.Fatal("the connection is still open after 30 s")
	}
}

func kindOf(collector string, k ingest.Kind) func(*ingest.Update) bool {
	return func(u *ingest.Update) bool { return u.Peer.Collector == collector && u.Kind == k }
}

// TestManyRouters has a hundred routers speak while one has stopped in the middle of a message, one says
// nothing and one sends rubbish.
func TestManyRouters(t *testing.T) {
	var h heard
	c := testConfiguration()
	c.Routers = []Router{{"127.0.0.2", "stuck"}, {"127.0.0.3", "silent"}, {"127.0.0.4", "rubbish"}}
	s, address := runStation(t, c, h.handle)
	message := encode(t, monitoring(peer4, update(t, bgp.Options{}, nlri("203.0.113.0/24", 0))))
	stuck := dial(t, "127.0.0.2", address)
	if _, err := stuck.Write(message[:len(message)-1]); err != nil {
		t.Fatal(err)
	}
	dial(t, "127.0.0.3", address)
	rubbish := dial(t, "127.0.0.4", address)
	if _, err := rubbish.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	const routers, routes = 100, 20
	var all sync.WaitGroup
	for i := range routers {
		conn := dial(t, fmt.Sprintf("127.0.1.%d", i+1), address)
		up := encode(t, upMessage(peer4, open(65000), open(64500)))
		route := encode(t, monitoring(peer4, update(t, bgp.Options{}, nlri(fmt.Sprintf("10.%d.0.0/16", i), 0))))
		all.Go(func() {
			if _, err := conn.Write(append(up, bytes.Repeat(route, routes)...)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	eventually(t, func() string {
		if n := h.count(func(u *ingest.Update) bool { return u.Kind == ingest.Routes }); n != routers*routes {
			return fmt.Sprintf("%d of %d updates", n, routers*routes)
		}
		return ""
	})
	closed(t, rubbish)
	eventually(t, func() string {
		if got := s.Status(); got.State != ingest.Connected || got.Peers != routers || got.Malformed["version"] != 1 || got.Reconnects != 1 {
			return fmt.Sprintf("%+v", got)
		}
		return ""
	})
	if samples := s.Samples(); len(samples) != 1 || samples[0].From != "rubbish" || samples[0].Reason != "version" || !strings.HasPrefix(string(samples[0].Octets), "GET /") {
		t.Errorf("samples: %+v", samples)
	}
	// What was stuck goes on as if nothing had been.
	if _, err := stuck.Write(message[len(message)-1:]); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if h.find(kindOf("stuck", ingest.Routes)) == nil {
			return "the rest of the message is not taken in"
		}
		return ""
	})
}

func TestSessionEndsTakePeersDown(t *testing.T) {
	for name, end := range map[string]func(*testing.T, net.Conn){
		"closed":     func(t *testing.T, c net.Conn) { c.Close() },
		"terminated": func(t *testing.T, c net.Conn) { say(t, c, &Message{Version: 3, Type: TypeTermination}) },
		"too long": func(t *testing.T, c net.Conn) {
			if _, err := c.Write([]byte{3, 0, 0xff, 0, 0, 4}); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var h heard
			c := testConfiguration()
			c.MaxMessageBytes = 64 << 10
			s, address := runStation(t, c, h.handle)
			conn := dial(t, "127.0.0.2", address)
			say(t, conn, upMessage(peer4, open(65000), open(64500)), monitoring(peer4, update(t, bgp.Options{}, nlri("203.0.113.0/24", 0))))
			end(t, conn)
			eventually(t, func() string {
				if h.find(kindOf("127.0.0.2", ingest.PeerDown)) == nil || s.Status().State != ingest.Connecting || s.Status().LastError == "" {
					return fmt.Sprintf("%+v", s.Status())
				}
				return ""
			})
			if st := s.Status(); st.Peers != 0 || st.Updates != 3 || st.LastMessage.IsZero() {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestSecondSession lets a router connect again while its first connection is not known to be dead: when
// that ends, it takes nothing down that the second one has told.
func TestSecondSession(t *testing.T) {
	var h heard
	s, address := runStation(t, testConfiguration(), h.handle)
	route := monitoring(peer4, update(t, bgp.Options{}, nlri("203.0.113.0/24", 0)))
	old := dial(t, "127.0.0.2", address)
	say(t, old, upMessage(peer4, open(65000), open(64500)), upMessage(peer6, open(65000), open(64500)), route)
	eventually(t, func() string {
		if h.find(kindOf("127.0.0.2", ingest.Routes)) == nil {
			return "no route"
		}
		return ""
	})
	again := dial(t, "127.0.0.2", address)
	say(t, again, upMessage(peer4, open(65000), open(64500)))
	eventually(t, func() string {
		if n := h.count(kindOf("127.0.0.2", ingest.PeerUp)); n != 3 {
			return fmt.Sprintf("%d peers came up", n)
		}
		return ""
	})
	say(t, old, route)
	old.Close()
	eventually(t, func() string {
		if s.Status().Reconnects != 1 {
			return "the old session lives"
		}
		return ""
	})
	say(t, again, route)
	eventually(t, func() string {
		if n := h.count(kindOf("127.0.0.2", ingest.Routes)); n != 2 {
			return fmt.Sprintf("%d updates", n)
		}
		return ""
	})
	if n := h.count(kindOf("127.0.0.2", ingest.PeerDown)); n != 1 {
		t.Errorf("%d peers went down", n)
	}
	if u := h.find(kindOf("127.0.0.2", ingest.PeerDown)); u.Peer.Addr != peer6.Addr {
		t.Errorf("%v went down", u.Peer)
	}
}

func TestWhoMayConnect(t *testing.T) {
	var h heard
	c := testConfiguration()
	c.Allow, c.MaxSessions = []string{"127.0.0.2/31"}, 1
	s, address := runStation(t, c, h.handle)
	closed(t, dial(t, "127.0.0.9", address))
	first := dial(t, "127.0.0.2", address)
	say(t, first, upMessage(peer4, open(65000), open(64500)))
	eventually(t, func() string {
		if s.Status().Peers != 1 {
			return "the first router is not heard"
		}
		return ""
	})
	closed(t, dial(t, "127.0.0.3", address))
	if !strings.Contains(s.Status().LastError, "127.0.0.3: too many sessions") {
		t.Errorf("%+v", s.Status())
	}
	first.Close()
	eventually(t, func() string {
		if s.Status().State != ingest.Connecting {
			return "the first session lives"
		}
		return ""
	})
	say(t, dial(t, "127.0.0.3", address), upMessage(peer4, open(65000), open(64500)))
	eventually(t, func() string {
		if h.find(kindOf("127.0.0.3", ingest.PeerUp)) == nil {
			return "the second router is not heard"
		}
		return ""
	})
}

func TestSilence(t *testing.T) {
	var h heard
	c := testConfiguration()
	c.ConnectTimeout, c.IdleTimeout = 50*time.Millisecond, 50*time.Millisecond
	s, address := runStation(t, c, h.handle)
	closed(t, dial(t, "127.0.0.2", address)) // says nothing at all
	conn := dial(t, "127.0.0.3", address)
	conn.Write(encode(t, upMessage(peer4, open(65000), open(64500)))) // on a slow machine it may have been closed before
	closed(t, conn)
	eventually(t, func() string {
		if st := s.Status(); st.Reconnects != 2 || !strings.Contains(st.LastError, "nothing came for 50ms") {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
}

// TestConnecting: the router waits for us, is not there at first, and ends the session once.
func TestConnecting(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	var h heard
	c := testConfiguration()
	c.Listen, c.Allow, c.Connect = "", nil, []string{address}
	s, _ := runStation(t, c, h.handle)
	eventually(t, func() string {
		if st := s.Status(); st.LastError == "" || st.NextAttempt.IsZero() || st.State != ingest.Connecting || st.Address != address {
			return fmt.Sprintf("%+v", st)
		}
		return ""
	})
	if l, err = net.Listen("tcp", address); err != nil {
		t.Skipf("somebody else took the port: %v", err)
	}
	defer l.Close()
	for i := range 2 {
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		say(t, conn, upMessage(peer4, open(65000), open(64500)))
		eventually(t, func() string {
			if n := h.count(kindOf("127.0.0.1", ingest.PeerUp)); n != i+1 {
				return fmt.Sprintf("came up %d times", n)
			}
			return ""
		})
		if st := s.Status(); st.State != ingest.Connected || !st.NextAttempt.IsZero() {
			t.Errorf("%+v", st)
		}
		conn.Close()
		eventually(t, func() string {
			if n := h.count(kindOf("127.0.0.1", ingest.PeerDown)); n != i+1 {
				return fmt.Sprintf("went down %d times", n)
			}
			return ""
		})
	}
}

func TestHandlerErrorEndsRun(t *testing.T) {
	full := errors.New("full")
	s := New(testConfiguration(), slog.New(slog.DiscardHandler), nil)
	done := make(chan error, 1)
	go func() { done <- s.Run(context.Background(), func(*ingest.Update) error { return full }) }()
	eventually(t, func() string {
		if strings.HasSuffix(s.Status().Address, ":0") {
			return "the station does not listen"
		}
		return ""
	})
	say(t, dial(t, "127.0.0.1", s.Status().Address), upMessage(peer4, open(65000), open(64500)))
	select {
	case err := <-done:
		if err != full {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("Run goes on")
	}
}

func TestAddressInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := testConfiguration()
	c.Listen = l.Addr().String()
	if err := New(c, slog.New(slog.DiscardHandler), nil).Run(context.Background(), nil); err == nil || !strings.Contains(err.Error(), c.Listen) {
		t.Errorf("Run: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	var h heard
	c := testConfiguration()
	c.Routers = []Router{{"127.0.0.2", "edge1"}}
	s, address := runStation(t, c, h.handle)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(metrics{s})
	for range 2 { // two sessions of one router
		say(t, dial(t, "127.0.0.2", address), &Message{Version: 3, Type: TypeInitiation})
	}
	conn := dial(t, "127.0.0.2", address)
	say(t, conn, upMessage(peer4, open(65000), open(64500)), monitoring(vrf(peer4, 7), update(t, bgp.Options{}, nlri("203.0.113.0/24", 0))),
		monitoring(peer4, bgp.AppendKeepalive(nil)))
	value := func(name string, labels ...string) float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				var got []string
				for _, l := range m.GetLabel() {
					got = append(got, l.GetName()+"="+l.GetValue())
				}
				if f.GetName() == name && strings.Join(got, " ") == strings.Join(labels, " ") {
					return m.GetGauge().GetValue() + m.GetCounter().GetValue()
				}
			}
		}
		return -1
	}
	eventually(t, func() string {
		for _, want := range []struct {
			value  float64
			name   string
			labels []string
		}{
			{3, "routevigil_bmp_sessions", []string{"router=edge1"}},
			{1, "routevigil_bmp_peers", []string{"router=edge1"}},
			{2, "routevigil_bmp_messages_total", []string{"router=edge1", "type=initiation"}},
			{2, "routevigil_bmp_messages_total", []string{"router=edge1", "type=route_monitoring"}},
			{1, "routevigil_bmp_updates_total", []string{"router=edge1"}},
			{1, "routevigil_bmp_malformed_total", []string{"reason=not_update", "router=edge1"}},
			{1, "routevigil_bmp_skipped_total", []string{"router=edge1", "what=vrf_peer"}},
		} {
			if got := value(want.name, want.labels...); got != want.value {
				return fmt.Sprintf("%s%v is %v, want %v", want.name, want.labels, got, want.value)
			}
		}
		return ""
	})
}

func TestReader(t *testing.T) {
	var stream []byte
	var want [][]byte
	for i := range 300 {
		m := encode(t, &Message{Version: 3, Type: TypeInitiation, TLVs: []TLV{{Value: make([]byte, i*i/2)}}})
		stream, want = append(stream, m...), append(want, m)
	}
	r := NewReader(&oneByOne{stream}, MaxLength)
	for i, w := range want {
		if b, err := r.Next(); err != nil || string(b) != string(w) {
			t.Fatalf("message %d: %d octets, %v", i, len(b), err)
		}
	}
	if b, err := r.Next(); err != io.EOF || r.Offset() != int64(len(stream)) {
		t.Errorf("at the end: %d octets, %v, offset %d", len(b), err, r.Offset())
	}
	for _, n := range []int{3, 20} {
		r := NewReader(&oneByOne{want[5][:min(n, len(want[5])-1)]}, MaxLength)
		b, err := r.Next()
		if e, ok := errors.AsType[*Error](err); !ok || e.Reason != "truncated" || len(b) == 0 {
			t.Errorf("cut after %d: %d octets, %v", n, len(b), err)
		}
	}
	if _, err := NewReader(&oneByOne{want[299]}, 1000).Next(); err == nil {
		t.Error("a message that is too long is taken")
	}
}

// oneByOne gives its octets in small pieces, some of them empty.
type oneByOne struct{ b []byte }

func (o *oneByOne) Read(p []byte) (int, error) {
	if len(o.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, o.b[:min(len(o.b), len(o.b)%7*1000)])
	o.b = o.b[n:]
	if n == 0 {
		n = copy(p, o.b[:1])
		o.b = o.b[1:]
	}
	return n, nil
}

func TestValidate(t *testing.T) {
	if err := DefaultConfiguration().Validate(); err != nil || DefaultConfiguration().Enabled() {
		t.Errorf("the default: %v", err)
	}
	for field, spoil := range map[string]func(*Configuration){
		"listen":             func(c *Configuration) { c.Listen = "router1" },
		"allow:":             func(c *Configuration) { c.Allow = nil },
		"allow[1]":           func(c *Configuration) { c.Allow = append(c.Allow, "everyone") },
		"connect[0]":         func(c *Configuration) { c.Connect = []string{"192.0.2.1"} },
		"routers[0].address": func(c *Configuration) { c.Routers = []Router{{"r1", "r1"}} },
		"routers[0].name":    func(c *Configuration) { c.Routers = []Router{{"192.0.2.1", ""}} },
		"name":               func(c *Configuration) { c.Name = "" },
		"max_sessions":       func(c *Configuration) { c.MaxSessions = 0 },
		"max_message_bytes":  func(c *Configuration) { c.MaxMessageBytes = MaxLength + 1 },
		"idle_timeout":       func(c *Configuration) { c.IdleTimeout = -1 },
		"keep_alive":         func(c *Configuration) { c.KeepAlive = 0 },
		"reconnect_max":      func(c *Configuration) { c.ReconnectMax = 0 },
	} {
		c := testConfiguration()
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestOnMessage: whoever is told of messages gets each as it came, and where a session breaks off a Peer Down for each of
// its peers, but for those that another session has.
func TestOnMessage(t *testing.T) {
	var mu sync.Mutex
	var got [][]byte
	c := testConfiguration()
	c.Routers = []Router{{Address: "127.0.0.2", Name: "edge"}}
	_, address := runStation(t, c, func(*ingest.Update) error { return nil }, func(s *Station) {
		s.OnMessage(func(name string, addr netip.Addr, received ingest.Time, b []byte) {
			mu.Lock()
			defer mu.Unlock()
			if name != "edge" || addr != netip.MustParseAddr("127.0.0.2") || time.Since(received.Time()).Abs() > patience {
				t.Errorf("a message of %s at %v, %v", name, addr, received)
			}
			got = append(got, bytes.Clone(b))
		})
	})
	sent := []*Message{
		{Version: 3, Type: TypeInitiation, TLVs: []TLV{{Type: TLVSysName, Value: []byte("r1")}}},
		upMessage(peer4, open(65000), open(64500)), upMessage(peer6, open(65000), open(64500)),
		monitoring(peer4, update(t, bgp.Options{}, nlri("203.0.113.0/24", 0))),
		monitoring(peer4, []byte("not BGP")), // which a consumer may judge by itself
	}
	count := func(n int) {
		t.Helper()
		eventually(t, func() string {
			mu.Lock()
			defer mu.Unlock()
			if len(got) < n {
				return fmt.Sprintf("%d messages of %d", len(got), n)
			}
			return ""
		})
	}
	old := dial(t, "127.0.0.2", address)
	say(t, old, sent...)
	count(len(sent))
	again := dial(t, "127.0.0.2", address)
	say(t, again, sent[1])
	count(len(sent) + 1)
	old.Close()
	count(len(sent) + 2)
	mu.Lock()
	defer mu.Unlock()
	for i, m := range append(sent, sent[1]) {
		if want := encode(t, m); !bytes.Equal(got[i], want) {
			t.Errorf("message %d is\n%x, want\n%x", i, got[i], want)
		}
	}
	down, err := new(Decoder).Decode(got[len(got)-1])
	if err != nil {
		t.Fatal(err)
	}
	if down.Type != TypePeerDown || down.PeerDown.Reason != DownDeconfigured || down.Peer.key() != peer6.key() || down.Peer.ASN != peer6.ASN {
		t.Errorf("at the end of the session %+v is told", down)
	}
}
