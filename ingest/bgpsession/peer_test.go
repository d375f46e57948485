package bgpsession

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute // for what must come

var (
	ourID   = netip.MustParseAddr("10.0.0.1")
	theirID = netip.MustParseAddr("10.0.0.9") // the greater
	prefix4 = netip.MustParsePrefix("192.0.2.0/24")
	prefix6 = netip.MustParsePrefix("2001:db8::/32")
)

const (
	ourASN   = 64500
	theirASN = 4200000001
)

// configuration accepts 127.0.0.2 as AS4200000001.
func configuration() Configuration {
	c := DefaultConfiguration()
	c.Listen, c.LocalASN, c.RouterID = []string{"127.0.0.1:0"}, ourASN, ourID
	c.Neighbours = []Neighbour{{Address: "127.0.0.2", Name: "edge", RemoteASN: theirASN}}
	return c
}

// harness is a listener with all that it said.
type harness struct {
	*Listener
	t   *testing.T
	ctx context.Context
	bg  *sync.WaitGroup

	mu      sync.Mutex
	updates []ingest.Update
}

func newHarness(t *testing.T, c Configuration) *harness {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &harness{Listener: New(c, slog.New(slog.DiscardHandler), prometheus.NewRegistry()), t: t, ctx: ctx, bg: new(sync.WaitGroup)}
	t.Cleanup(func() { cancel(); h.bg.Wait() })
	return h
}

// listen opens the sockets and runs the listener until the test ends.
func (h *harness) listen() {
	h.t.Helper()
	if err := h.Listen(); err != nil {
		h.t.Fatal(err)
	}
	h.bg.Go(func() {
		if err := h.Run(h.ctx, h.record); !errors.Is(err, context.Canceled) {
			h.t.Errorf("Run returned %v", err)
		}
	})
}

func (h *harness) record(u *ingest.Update) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.updates = append(h.updates, u.Clone())
	return nil
}

// seen returns what was said, and forgets it.
func (h *harness) seen() []ingest.Update {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.updates
	h.updates = nil
	return u
}

// words writes updates in one line each.
func words(updates []ingest.Update) []string {
	var lines []string
	for _, u := range updates {
		line := fmt.Sprintf("%s %s", u.Kind, u.Peer)
		for _, r := range u.Withdrawn {
			line += fmt.Sprintf(" -%s", route(r))
		}
		for _, r := range u.Announced {
			line += fmt.Sprintf(" +%s", route(r))
		}
		if len(u.Announced) > 0 {
			line += fmt.Sprintf(" [%s] via %s", u.Attrs.ASPath, u.Attrs.NextHop)
		}
		if u.EndOfRIB != 0 {
			line += fmt.Sprintf(" end of %s", u.EndOfRIB)
		}
		lines = append(lines, line)
	}
	return lines
}

func route(r bgp.NLRI) string {
	if r.PathID == 0 {
		return r.Prefix.String()
	}
	return fmt.Sprintf("%s#%d", r.Prefix, r.PathID)
}

// message is one that the speaker under test sent.
type message struct {
	t    bgp.Type
	body []byte
}

// peer is a neighbour that says what a test has it say.
type peer struct {
	t    *testing.T
	conn net.Conn
	in   chan message // closed with the connection
}

func newPeer(t *testing.T, conn net.Conn) *peer {
	p := &peer{t: t, conn: conn, in: make(chan message, 1000)}
	go func() {
		defer close(p.in)
		for {
			header := make([]byte, bgp.HeaderLength)
			if _, err := io.ReadFull(conn, header); err != nil {
				return
			}
			kind, n, err := bgp.ParseHeader(header)
			if err != nil {
				t.Errorf("we were sent %x: %v", header, err)
				return
			}
			body := make([]byte, n-bgp.HeaderLength)
			if _, err := io.ReadFull(conn, body); err != nil {
				return
			}
			if kind == bgp.TypeUpdate {
				t.Error("the monitor sent an UPDATE")
			}
			p.in <- message{kind, body}
		}
	}()
	t.Cleanup(func() {
		conn.Close()
		for range p.in { // until its goroutine has ended
		}
	})
	return p
}

// pipe connects a peer with the address 127.0.0.2 in memory.
func (h *harness) pipe() *peer {
	h.t.Helper()
	ours, theirs := net.Pipe()
	addr := netip.MustParseAddr("127.0.0.2")
	s, refusal := h.register(ours, addr, h.find(addr))
	if s == nil {
		h.t.Fatal(refusal)
	}
	h.bg.Go(func() { s.run(h.ctx, h.record) })
	return newPeer(h.t, theirs)
}

// dial connects from a loopback address.
func (h *harness) dial(from string) *peer {
	h.t.Helper()
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.Dial("tcp", h.Status().Address)
	if err != nil {
		h.t.Fatal(err)
	}
	return newPeer(h.t, conn)
}

func (p *peer) send(b []byte) {
	p.t.Helper()
	p.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatal("sending: ", err)
	}
}

// expect waits for a message of one type, passing over KEEPALIVEs.
func (p *peer) expect(want bgp.Type) []byte {
	p.t.Helper()
	after := time.After(patience)
	for {
		select {
		case m, ok := <-p.in:
			if ok && m.t == bgp.TypeKeepalive && want != m.t {
				continue
			}
			if !ok || m.t != want {
				p.t.Fatalf("got %v %x (open: %v), want %v", m.t, m.body, ok, want)
			}
			return m.body
		case <-after:
			p.t.Fatalf("no %v came", want)
		}
	}
}

func (p *peer) expectNotification(code, subcode uint8, data string) {
	p.t.Helper()
	n, err := bgp.ParseNotification(p.expect(bgp.TypeNotification))
	if err != nil {
		p.t.Fatal(err)
	}
	if n.Code != code || n.Subcode != subcode || !bytes.Equal(n.Data, []byte(data)) {
		p.t.Fatalf("NOTIFICATION %d/%d with data %x, want %d/%d with %x", n.Code, n.Subcode, n.Data, code, subcode, data)
	}
	p.expectEnd()
}

// expectEnd waits until the connection is closed without another word.
func (p *peer) expectEnd() {
	p.t.Helper()
	after := time.After(patience)
	for {
		select {
		case m, ok := <-p.in:
			if !ok {
				return
			}
			if m.t != bgp.TypeKeepalive {
				p.t.Fatalf("got %v %x, want the end", m.t, m.body)
			}
		case <-after:
			p.t.Fatal("the connection is still open")
		}
	}
}

// theirOpen is what the neighbour says unless a test says otherwise.
func theirOpen(edit func(*bgp.Open)) []byte {
	o := &bgp.Open{ASN: theirASN, HoldTime: 30, ID: theirID, Capabilities: []bgp.Capability{
		bgp.Multiprotocol(bgp.IPv4Unicast), bgp.Multiprotocol(bgp.IPv6Unicast), bgp.FourOctetAS(theirASN)}}
	if edit != nil {
		edit(o)
	}
	b, err := bgp.AppendOpen(nil, o)
	if err != nil {
		panic(err)
	}
	return b
}

var keepalive = bgp.AppendKeepalive(nil)

// establish goes through the handshake.
func (p *peer) establish(edit func(*bgp.Open)) {
	p.t.Helper()
	p.expect(bgp.TypeOpen)
	p.send(theirOpen(edit))
	p.expect(bgp.TypeKeepalive)
	p.send(keepalive)
}

// announcement is an UPDATE that announces prefixes, those of IPv6 with an IPv6 next hop.
func announcement(o bgp.Options, routes ...bgp.NLRI) []byte {
	u := &bgp.Update{Announced: routes, Attrs: bgp.Attributes{
		Has:     bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop,
		ASPath:  bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{theirASN, 64496}}},
		NextHop: netip.MustParseAddr("192.0.2.1"),
	}}
	if routes[0].Prefix.Addr().Is6() {
		u.Attrs.NextHop = netip.MustParseAddr("2001:db8::1")
	}
	b, err := bgp.AppendUpdate(nil, u, o)
	if err != nil {
		panic(err)
	}
	return b
}

func withdrawal(o bgp.Options, routes ...bgp.NLRI) []byte {
	b, err := bgp.AppendUpdate(nil, &bgp.Update{Withdrawn: routes}, o)
	if err != nil {
		panic(err)
	}
	return b
}

// raw is a message with any body.
func raw(t bgp.Type, body []byte) []byte {
	n := bgp.HeaderLength + len(body)
	b := append(bytes.Repeat([]byte{0xff}, 16), byte(n>>8), byte(n), byte(t))
	return append(b, body...)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: ", what)
		}
	}
}

// unstarted is pipe for a test that runs the session itself.
func (h *harness) unstarted() (*session, *peer) {
	h.t.Helper()
	ours, theirs := net.Pipe()
	addr := netip.MustParseAddr("127.0.0.2")
	s, refusal := h.register(ours, addr, h.find(addr))
	if s == nil {
		h.t.Fatal(refusal)
	}
	return s, newPeer(h.t, theirs)
}

func (h *harness) cancellable() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(h.ctx)
	h.t.Cleanup(cancel)
	return ctx, cancel
}
