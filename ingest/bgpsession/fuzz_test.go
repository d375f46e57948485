package bgpsession

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
)

// tape is a connection whose other end says what was recorded, as many octets at a time as step, and
// then is gone.
type tape struct {
	net.Conn // none: what is not defined below is not used
	said     []byte
	step     int
	heard    []byte
}

func (c *tape) Read(b []byte) (int, error) {
	if len(c.said) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), c.step)], c.said)
	c.said = c.said[n:]
	return n, nil
}

func (c *tape) Write(b []byte) (int, error) {
	c.heard = append(c.heard, b...)
	return len(b), nil
}

func (c *tape) Close() error                     { return nil }
func (c *tape) SetDeadline(time.Time) error      { return nil }
func (c *tape) SetReadDeadline(time.Time) error  { return nil }
func (c *tape) SetWriteDeadline(time.Time) error { return nil }

// FuzzSession has a session hear anything, in pieces of any size.
func FuzzSession(f *testing.F) {
	join := func(parts ...[]byte) (all []byte) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	r4, r6 := bgp.NLRI{Prefix: prefix4}, bgp.NLRI{Prefix: prefix6}
	up := join(theirOpen(nil), keepalive)
	f.Add(up, uint16(1))
	f.Add(join(up, announcement(bgp.Options{}, r4), announcement(bgp.Options{}, r6), withdrawal(bgp.Options{}, r4), keepalive), uint16(100))
	f.Add(join(up, raw(bgp.TypeUpdate, updateBody("", origin+path+"40 63 02 abcd", "18 c00002"))), uint16(7))
	f.Add(join(up, raw(bgp.TypeUpdate, updateBody("", origin+"90 0e 0003 000201"+path, ""))), uint16(7))
	f.Add(join(up, bgp.AppendNotification(nil, bgp.Notification{Code: 6, Subcode: 2, Data: []byte("\x03bye")})), uint16(4096))
	f.Add(join(theirOpen(func(o *bgp.Open) {
		o.Capabilities = append(o.Capabilities, bgp.AddPath(bgp.AddPathBoth, bgp.IPv4Unicast, bgp.IPv6Unicast), bgp.Capability{Code: bgp.CapRole, Value: []byte{0}})
	}), keepalive, announcement(bgp.Options{AddPath: bgp.AllFamilies}, r4)), uint16(50))
	for _, b := range bgptest.Fuzzed(f) {
		f.Add(join(up, b), uint16(4096))
	}
	c := configuration()
	c.Neighbours[0].RemoteASN, c.Neighbours[0].Role, c.Neighbours[0].MaxPrefixes = 0, "customer", 1000
	addr := netip.MustParseAddr("127.0.0.2")
	f.Fuzz(func(t *testing.T, said []byte, step uint16) {
		l := New(c, slog.New(slog.DiscardHandler), nil)
		conn := &tape{said: said, step: max(1, int(step))}
		s, refusal := l.register(conn, addr, l.find(addr))
		if s == nil {
			t.Fatal(refusal)
		}
		live := false
		held := map[bgp.NLRI]bool{}
		if err := s.run(context.Background(), func(u *ingest.Update) error {
			switch u.Kind {
			case ingest.PeerUp, ingest.PeerDown:
				if live == (u.Kind == ingest.PeerUp) {
					t.Errorf("%v while live is %v", u.Kind, live)
				}
				if u.Kind == ingest.PeerDown && len(s.routes.held) != len(held) && len(s.routes.held) <= 1000 {
					t.Errorf("%d routes are counted, %d are held", len(s.routes.held), len(held))
				}
				live = !live
			case ingest.Routes:
				if !live || (len(u.Withdrawn)+len(u.Announced) == 0) != (u.EndOfRIB != 0) || u.Time == 0 || !u.Peer.Addr.IsValid() {
					t.Errorf("%+v while live is %v", u, live)
				}
				for _, r := range u.Withdrawn {
					delete(held, r)
				}
				for _, r := range u.Announced {
					held[r] = true
				}
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
		if live {
			t.Error("the session ended without a PeerDown")
		}
		if len(l.sessions) != 0 || l.established != 0 || l.neighbours[0].prefixes.Load() != 0 {
			t.Errorf("left behind: %v, %d established, %d prefixes", l.sessions, l.established, l.neighbours[0].prefixes.Load())
		}
		// What we say is an OPEN, at most a KEEPALIVE, and at most a NOTIFICATION that is the end.
		for i := 0; len(conn.heard) > 0; i++ {
			kind, body, rest, err := bgp.Split(conn.heard)
			if err != nil {
				t.Fatalf("we say %x: %v", conn.heard, err)
			}
			switch {
			case kind == bgp.TypeOpen && i == 0:
			case kind == bgp.TypeKeepalive && i == 1:
			case kind == bgp.TypeNotification && i > 0 && len(rest) == 0:
				if n, err := bgp.ParseNotification(body); err != nil || codeNames[n.Code] == "" {
					t.Errorf("NOTIFICATION %+v, %v", n, err)
				}
			default:
				t.Errorf("message %d is %v %x", i, kind, body)
			}
			conn.heard = rest
		}
	})
}

// playing is a session that was just established and hears the same UPDATEs over and over.
func playing(t testing.TB, said []byte, h ingest.Handler) *session {
	c := configuration()
	c.Neighbours[0].RemoteASN = 0
	l := New(c, slog.New(slog.DiscardHandler), nil)
	addr := netip.MustParseAddr("127.0.0.2")
	conn := &tape{said: append(theirOpen(nil), keepalive...), step: fullBuffer}
	s, refusal := l.register(conn, addr, l.find(addr))
	if s == nil {
		t.Fatal(refusal)
	}
	t.Cleanup(func() { s.end(nil); s.keepalive.Wait() })
	s.handle, s.sent = h, l.open(s.n)
	for range 2 {
		if err := s.step(); err != nil {
			t.Fatal(err)
		}
	}
	s.conn = &loop{tape: tape{step: fullBuffer}, again: said}
	return s
}

// loop is a tape that starts anew at its end.
type loop struct {
	tape
	again []byte
}

func (c *loop) Read(b []byte) (int, error) {
	if len(c.said) == 0 {
		c.said = c.again
	}
	return c.tape.Read(b)
}

func updates(n int) (said []byte) {
	for i := range n {
		var routes []bgp.NLRI
		for j := range 3 {
			routes = append(routes, bgp.NLRI{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), byte(j << 4)}), 28)})
		}
		said = append(said, announcement(bgp.Options{}, routes...)...)
	}
	return said
}

func TestUpdatesAllocateNothing(t *testing.T) {
	said := append(updates(1000), withdrawal(bgp.Options{}, bgp.NLRI{Prefix: prefix4})...)
	said = append(said, announcement(bgp.Options{}, bgp.NLRI{Prefix: prefix6})...)
	said = append(said, keepalive...)
	heard := 0
	s := playing(t, said, func(u *ingest.Update) error { heard += len(u.Announced) + len(u.Withdrawn); return nil })
	round := func() {
		for range 1003 {
			if err := s.step(); err != nil {
				t.Fatal(err)
			}
		}
	}
	round()
	if n := testing.AllocsPerRun(20, round); n != 0 {
		t.Errorf("%v allocations in 1003 messages", n)
	}
	if want := 22 * 3002; heard != want {
		t.Errorf("heard %d routes, want %d", heard, want)
	}
}

func BenchmarkUpdate(b *testing.B) {
	said := updates(10_000)
	s := playing(b, said, func(*ingest.Update) error { return nil })
	b.SetBytes(int64(len(said) / 10_000))
	b.ReportAllocs()
	for b.Loop() {
		if err := s.step(); err != nil {
			b.Fatal(err)
		}
	}
}
