package rtr

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/rpki"
)

// world is a client and the caches that a test plays, in a bubble of its own time.
type world struct {
	t      *testing.T
	client *Client
	calls  chan call
	mu     sync.Mutex
	down   map[string]bool
	sets   []*rpki.Set // as published
}

type call struct {
	address string
	conn    net.Conn
}

var errDown = errors.New("nobody listens")

// run plays script against a client of the caches named, of which those in down are not there at first, and ends both.
func run(t *testing.T, addresses []string, script func(w *world), down ...string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, calls: make(chan call), down: map[string]bool{}}
		for _, a := range down {
			w.down[a] = true
		}
		var caches []Cache
		for _, a := range addresses {
			caches = append(caches, Cache{Address: a})
		}
		w.client = New(caches, func(s *rpki.Set) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.sets = append(w.sets, s)
		}, slog.New(slog.DiscardHandler))
		w.client.dial = func(ctx context.Context, c Cache) (net.Conn, error) {
			w.mu.Lock()
			down := w.down[c.Address]
			w.mu.Unlock()
			if down {
				return nil, errDown
			}
			ours, theirs := net.Pipe()
			select {
			case w.calls <- call{c.Address, theirs}:
				return ours, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := w.client.Run(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		}()
		defer func() {
			cancel()
			<-done
		}()
		script(w)
	})
}

func (w *world) setDown(address string, down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down[address] = down
}

func (w *world) published() int {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sets)
}

// peer is the cache's end of a connection.
type peer struct {
	w    *world
	conn net.Conn
	in   reader
}

// accept waits for the client to call a cache.
func (w *world) accept(address string) *peer {
	w.t.Helper()
	select {
	case c := <-w.calls:
		if c.address != address {
			w.t.Fatalf("the client called %s, not %s", c.address, address)
		}
		w.t.Cleanup(func() { c.conn.Close() })
		return &peer{w, c.conn, newReader(c.conn)}
	case <-time.After(24 * time.Hour):
		w.t.Fatalf("the client does not call %s; status %+v", address, w.client.Status())
	}
	return nil
}

func (p *peer) want(want PDU) {
	p.w.t.Helper()
	got, err := p.readSoon()
	if err != nil {
		p.w.t.Fatalf("instead of %v: %v", want.Type, err)
	}
	if diff := cmp.Diff(want, got, comparePDUs); diff != "" {
		p.w.t.Fatalf("the client sent (-want +got):\n%s", diff)
	}
}

func (p *peer) readSoon() (PDU, error) {
	b, err := p.in.next(func() error { return nil })
	var got PDU
	if err == nil {
		err = got.Decode(slices.Clone(b))
	}
	return got, err
}

// wantError reads an Error Report and the end of the connection.
func (p *peer) wantError(code ErrorCode) PDU {
	p.w.t.Helper()
	got, err := p.readSoon()
	if err != nil || got.Type != ErrorReport || got.Code != code {
		p.w.t.Fatalf("got %+v, %v; want an Error Report of %v", got, err, code)
	}
	p.wantEnd()
	return got
}

func (p *peer) wantEnd() {
	p.w.t.Helper()
	if got, err := p.readSoon(); !errors.Is(err, io.EOF) {
		p.w.t.Fatalf("got %+v, %v; want the end of the connection", got, err)
	}
}

func (p *peer) send(ps ...PDU) {
	p.w.t.Helper()
	for i := range ps {
		if _, err := p.conn.Write(ps[i].Append(nil)); err != nil {
			p.w.t.Fatalf("sending %v: %v", ps[i].Type, err)
		}
	}
}

const sessionID = 0x1234

func reset(version uint8) PDU { return PDU{Version: version, Type: ResetQuery} }
func query(version uint8, serial uint32) PDU {
	return PDU{Version: version, Type: SerialQuery, Session: sessionID, Serial: serial}
}
func response(version uint8) PDU {
	return PDU{Version: version, Type: CacheResponse, Session: sessionID}
}
func notify(version uint8, serial uint32) PDU {
	return PDU{Version: version, Type: SerialNotify, Session: sessionID, Serial: serial}
}
func end(version uint8, serial uint32) PDU {
	p := PDU{Version: version, Type: EndOfData, Session: sessionID, Serial: serial}
	if version > 0 {
		p.Refresh, p.Retry, p.Expire = 1800, 600, 7200
	}
	return p
}
func prefix(version uint8, announce bool, text string, asn uint32) PDU {
	p := netip.MustParsePrefix(text)
	out := PDU{Version: version, Type: IPv4Prefix, Announce: announce, Prefix: p, MaxLength: uint8(p.Bits()), ASN: asn}
	if p.Addr().Is6() {
		out.Type = IPv6Prefix
	}
	return out
}
func aspa(announce bool, customer uint32, providers ...uint32) PDU {
	return PDU{Version: 2, Type: ASPA, Announce: announce, ASN: customer, Providers: providers}
}

// holds checks the client's set: VRPs as "prefix AS".
func (w *world) holds(aspas rpki.ASPAs, vrps ...string) {
	w.t.Helper()
	synctest.Wait()
	s := w.client.Set()
	if s == nil {
		w.t.Fatalf("there is no set; status %+v", w.client.Status())
	}
	var got []string
	for v := range s.VRPs() {
		got = append(got, v.Prefix.String()+" "+uitoa(v.ASN))
	}
	if diff := cmp.Diff(vrps, got); diff != "" {
		w.t.Fatalf("VRPs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(aspas, s.ASPAs(), comparePDUs); diff != "" {
		w.t.Fatalf("ASPAs (-want +got):\n%s", diff)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if last := w.sets[len(w.sets)-1]; last != s {
		w.t.Fatal("the set was not published")
	}
}

func uitoa(n uint32) string {
	var b []byte
	for ; n > 0 || len(b) == 0; n /= 10 {
		b = append(b, byte('0'+n%10))
	}
	slices.Reverse(b)
	return string(b)
}

// start answers the first Reset Query with one VRP and one ASPA as serial 1.
func (w *world) start(address string) *peer {
	w.t.Helper()
	p := w.accept(address)
	p.want(reset(2))
	p.send(response(2), prefix(2, true, "192.0.2.0/24", 1), aspa(true, 7, 8, 9), end(2, 1))
	w.holds(rpki.ASPAs{7: {8, 9}}, "192.0.2.0/24 1")
	return p
}

func TestFullThenChanges(t *testing.T) {
	run(t, []string{"a"}, func(w *world) {
		p := w.accept("a")
		p.want(reset(2))
		p.send(notify(2, 9)) // ignored while the version is not settled
		p.send(response(2), prefix(2, true, "192.0.2.0/24", 1), prefix(2, true, "2001:db8::/32", 2), aspa(true, 7, 9, 8),
			PDU{Version: 2, Type: RouterKey, Announce: true, ASN: 1, SPKI: []byte{0x30}}, aspa(true, 7, 10)) // the later ASPA replaces
		if w.published() > 0 || w.client.Set() != nil {
			t.Fatal("half an answer is in use")
		}
		p.send(end(2, 1))
		w.holds(rpki.ASPAs{7: {10}}, "192.0.2.0/24 1", "2001:db8::/32 2")
		first := w.client.Set()

		p.send(notify(2, 2))
		p.want(query(2, 1))
		p.send(response(2), prefix(2, false, "192.0.2.0/24", 1), prefix(2, true, "198.51.100.0/24", 3), aspa(false, 7), aspa(true, 4, 5),
			prefix(2, false, "198.51.100.0/24", 3), prefix(2, true, "203.0.113.0/24", 3))
		if w.published() != 1 {
			t.Fatal("half an answer is in use")
		}
		p.send(end(2, 2))
		w.holds(rpki.ASPAs{4: {5}}, "203.0.113.0/24 3", "2001:db8::/32 2")
		if first.Len() != 2 || len(first.ASPAs()) != 1 {
			t.Error("a set in use was changed")
		}

		// Nothing new is no new set.
		p.send(notify(2, 3))
		p.want(query(2, 2))
		p.send(response(2), end(2, 3))
		if n := w.published(); n != 2 {
			t.Errorf("%d sets published, want 2", n)
		}
		st := w.client.Status()
		if st.State != "up to date" || st.Cache != "a" || st.DataFrom != "a" || st.Serial != 3 || st.Session != sessionID || st.VRPs != 2 || st.ASPAs != 1 || st.Version != 2 ||
			!st.Updated.Equal(time.Now()) || !st.Expires.Equal(time.Now().Add(7200*time.Second)) || !st.NextAttempt.Equal(time.Now().Add(1800*time.Second)) || st.LastError != "" {
			t.Errorf("status %+v", st)
		}

		// A Cache Reset makes it ask for everything; what there was stays in use meanwhile.
		p.want(query(2, 3)) // by the refresh interval, without being told
		if at := time.Since(st.Updated); at != 1800*time.Second {
			t.Errorf("asked after %v, want the refresh interval", at)
		}
		p.send(PDU{Version: 2, Type: CacheReset})
		p.want(reset(2))
		w.holds(rpki.ASPAs{4: {5}}, "203.0.113.0/24 3", "2001:db8::/32 2")
		p.send(response(2), prefix(2, true, "192.0.2.0/24", 5), end(2, 50))
		w.holds(rpki.ASPAs{}, "192.0.2.0/24 5")
	})
}

func TestNotifyIsNotObeyedTooOften(t *testing.T) {
	run(t, []string{"a"}, func(w *world) {
		p := w.start("a")
		asked := time.Now()
		for serial := uint32(2); serial < 5; serial++ {
			p.send(notify(2, serial))
			p.want(query(2, serial-1))
			if gap := time.Since(asked); gap < notifyGap {
				t.Errorf("asked again after %v", gap)
			}
			asked = time.Now()
			p.send(response(2), end(2, serial))
		}
	})
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		name   string
		script func(w *world) *peer // up to the Reset Query that is answered in version
		to     uint8
	}{
		{"the answer is of version 1", func(w *world) *peer { p := w.accept("a"); p.want(reset(2)); return p }, 1},
		{"the answer is of version 0", func(w *world) *peer { p := w.accept("a"); p.want(reset(2)); return p }, 0},
		{"an Error Report of version 1", func(w *world) *peer {
			p := w.accept("a")
			p.want(reset(2))
			p.send(PDU{Version: 1, Type: ErrorReport, Code: UnsupportedVersion})
			p.wantEnd()
			p = w.accept("a")
			p.want(reset(1))
			return p
		}, 1},
		{"an Error Report of version 0", func(w *world) *peer {
			p := w.accept("a")
			p.want(reset(2))
			p.send(PDU{Version: 0, Type: ErrorReport, Code: UnsupportedVersion})
			p.wantEnd()
			p = w.accept("a")
			p.want(reset(0))
			return p
		}, 0},
		{"Error Reports of the version asked in", func(w *world) *peer {
			for v := uint8(2); v > 0; v-- {
				p := w.accept("a")
				p.want(reset(v))
				p.send(PDU{Version: v, Type: ErrorReport, Code: UnsupportedVersion})
				p.wantEnd()
			}
			p := w.accept("a")
			p.want(reset(0))
			return p
		}, 0},
		{"ASPAs in the form of an old draft", func(w *world) *peer {
			p := w.accept("a")
			p.want(reset(2))
			p.send(response(2))
			p.conn.Write([]byte{2, 11, 0, 0, 0, 0, 0, 20, 1, 0, 0, 1, 0, 0, 0xfb, 0xf7, 0, 0, 0xfb, 0xf8}) // as StayRTR 0.5.1 sends it
			p.wantEnd()
			p = w.accept("a")
			p.want(reset(1))
			return p
		}, 1},
		{"it hangs up", func(w *world) *peer {
			for v := uint8(2); v > 0; v-- {
				p := w.accept("a")
				p.want(reset(v))
				p.conn.Close()
			}
			p := w.accept("a")
			p.want(reset(0))
			return p
		}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, []string{"a"}, func(w *world) {
				p := c.script(w)
				p.send(response(c.to), prefix(c.to, true, "192.0.2.0/24", 1), end(c.to, 1))
				w.holds(rpki.ASPAs{}, "192.0.2.0/24 1")
				if v := w.client.Status().Version; v != int(c.to) {
					t.Errorf("version %d in the status", v)
				}
				p.send(notify(c.to, 2))
				p.want(query(c.to, 1))
				p.send(response(c.to), prefix(c.to, true, "198.51.100.0/24", 1), end(c.to, 2))
				w.holds(rpki.ASPAs{}, "192.0.2.0/24 1", "198.51.100.0/24 1")
				// A new connection goes on where this one ended.
				p.conn.Close()
				p = w.accept("a")
				p.want(query(c.to, 2))
			})
		})
	}
}

func TestVersion0HasIntervalsByDefault(t *testing.T) {
	run(t, []string{"a"}, func(w *world) {
		p := w.accept("a")
		p.want(reset(2))
		p.send(response(0), end(0, 1))
		w.published()
		if st := w.client.Status(); !st.NextAttempt.Equal(time.Now().Add(time.Hour)) || !st.Expires.Equal(time.Now().Add(2*time.Hour)) {
			t.Errorf("status %+v", st)
		}
	})
}

func TestIntervalsAreHeldToTheirRange(t *testing.T) {
	run(t, []string{"a"}, func(w *world) {
		p := w.accept("a")
		p.want(reset(2))
		e := end(2, 1)
		e.Refresh, e.Retry, e.Expire = 1<<32-1, 1<<32-1, 1<<32-1
		p.send(response(2), e)
		w.published()
		if st := w.client.Status(); !st.NextAttempt.Equal(time.Now().Add(24*time.Hour)) || !st.Expires.Equal(time.Now().Add(48*time.Hour)) {
			t.Errorf("status %+v", st)
		}
	})
}

// Data that is not confirmed in time must not be used, and an origin must not be called not found then.
func TestExpiry(t *testing.T) {
	run(t, []string{"a"}, func(w *world) {
		p := w.start("a")
		updated := time.Now()
		w.setDown("a", true)
		p.conn.Close()
		time.Sleep(7200*time.Second - time.Nanosecond)
		w.holds(rpki.ASPAs{7: {8, 9}}, "192.0.2.0/24 1")
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if s := w.client.Set(); s != nil || s.State(netip.MustParsePrefix("192.0.2.0/24"), 1, true) != rpki.Unavailable {
			t.Errorf("in use %v after it was confirmed", time.Since(updated))
		}
		w.mu.Lock()
		if len(w.sets) != 2 || w.sets[1] != nil {
			t.Errorf("published %v", w.sets)
		}
		w.mu.Unlock()
		if st := w.client.Status(); st.DataFrom != "" || !st.Expires.IsZero() || !strings.Contains(st.LastError, "a: nobody listens") || st.Failures == 0 {
			t.Errorf("status %+v", st)
		}
		w.setDown("a", false)
		p = w.accept("a")
		p.want(reset(2)) // there is nothing to go on from
		p.send(response(2), prefix(2, true, "192.0.2.0/24", 1), end(2, 9))
		w.holds(rpki.ASPAs{}, "192.0.2.0/24 1")
	})
}

// A connection that dies is taken up again where it was, and the expiry counts from the last End of Data.
func TestReconnect(t *testing.T) {
	run(t, []string{"a"}, func(w *world) {
		p := w.start("a")
		time.Sleep(100 * time.Second)
		p.conn.Close()
		p = w.accept("a")
		p.want(query(2, 1))
		p.send(response(2), end(2, 1))
		w.holds(rpki.ASPAs{7: {8, 9}}, "192.0.2.0/24 1")
		if st := w.client.Status(); !st.Expires.Equal(time.Now().Add(7200 * time.Second)) {
			t.Errorf("expires %v", time.Until(st.Expires))
		}
	})
}

func TestFallbackAndReturn(t *testing.T) {
	run(t, []string{"a", "b", "c"}, func(w *world) {
		p := w.accept("c")
		p.want(reset(2))
		p.send(response(2), prefix(2, true, "192.0.2.0/24", 3), end(2, 1))
		w.holds(rpki.ASPAs{}, "192.0.2.0/24 3")
		began := time.Now()
		p.wantEnd() // after the retry interval it looks for better ones
		if after := time.Since(began); after != 600*time.Second {
			t.Errorf("left after %v", after)
		}
		p = w.accept("c") // there are none
		p.want(query(2, 1))
		p.send(response(2), end(2, 1))
		w.setDown("b", false)
		p.wantEnd()
		q := w.accept("b")
		q.want(reset(2))
		w.holds(rpki.ASPAs{}, "192.0.2.0/24 3") // in use until the other is complete
		q.send(response(2), prefix(2, true, "192.0.2.0/24", 2), end(2, 7))
		w.holds(rpki.ASPAs{}, "192.0.2.0/24 2")
		if st := w.client.Status(); st.DataFrom != "b" {
			t.Errorf("status %+v", st)
		}
		// The next cache at once when this one fails.
		failed := time.Now()
		q.conn.Close()
		p = w.accept("c")
		p.want(reset(2))
		if !time.Now().Equal(failed) {
			t.Errorf("waited %v", time.Since(failed))
		}
		w.holds(rpki.ASPAs{}, "192.0.2.0/24 2")
	}, "a", "b")
}

func TestRetriesGrowRarer(t *testing.T) {
	run(t, []string{"a"}, func(w *world) {
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		// 1+2+4+…+512 s, then every 600 s: about 150 in a day.
		if n := w.client.Status().Failures; n < 100 || n > 200 {
			t.Errorf("%d attempts in a day", n)
		}
	}, "a")
}

// Each cache breaks the protocol once in answer to a query. The client must say so by the right code, hang
// up, keep what it had, and go on when the cache behaves.
func TestMisbehavingCaches(t *testing.T) {
	raw := func(b ...byte) func(*peer) { return func(p *peer) { p.conn.Write(b) } }
	send := func(ps ...PDU) func(*peer) { return func(p *peer) { p.send(ps...) } }
	other := response(2)
	other.Session++
	otherNotify := notify(2, 2)
	otherNotify.Session++
	otherEnd := end(2, 2)
	otherEnd.Session++
	for _, c := range []struct {
		name    string
		answer  func(*peer)
		code    ErrorCode
		flushed bool // the data is dropped
		anew    bool // the next query is a Reset Query
	}{
		{"Cache Response of another session", send(other), CorruptData, true, true},
		{"End of Data of another session", send(response(2), otherEnd), CorruptData, false, true},
		{"a corrupt prefix", func(p *peer) {
			p.send(response(2))
			b := prefixBytes(true)
			b[9], b[10] = 33, 33
			p.conn.Write(b)
		}, CorruptData, false, true},
		{"a duplicate of what is there", send(response(2), prefix(2, true, "192.0.2.0/24", 1)), DuplicateAnnounce, false, true},
		{"a duplicate in one answer", send(response(2), prefix(2, true, "2001:db8::/32", 1), prefix(2, true, "2001:db8::/32", 1)), DuplicateAnnounce, false, true},
		{"a withdrawal of what is not there", send(response(2), prefix(2, false, "198.51.100.0/24", 1)), UnknownWithdrawal, false, true},
		{"two withdrawals of one", send(response(2), prefix(2, false, "192.0.2.0/24", 1), prefix(2, false, "192.0.2.0/24", 1)), UnknownWithdrawal, false, true},
		{"a withdrawal of an unknown ASPA", send(response(2), aspa(false, 99)), UnknownWithdrawal, false, true},
		{"two withdrawals of an ASPA", send(response(2), aspa(false, 7), aspa(false, 7)), UnknownWithdrawal, false, true},
		{"an ASPA without providers", send(response(2), aspa(true, 99)), ProviderListError, false, true},
		{"half a provider", raw(2, 11, 1, 0, 0, 0, 0, 14, 0, 0, 0, 9, 1, 1), CorruptData, false, false},
		{"an unsupported version", raw(9, 3, 0, 0, 0, 0, 0, 8), UnexpectedVersion, false, false},
		{"another version than agreed", send(response(1)), UnexpectedVersion, false, false},
		{"an unknown type", raw(2, 77, 0, 0, 0, 0, 0, 8), UnsupportedType, false, false},
		{"End of Data without Cache Response", send(end(2, 2)), CorruptData, false, false},
		{"payload without Cache Response", send(prefix(2, true, "198.51.100.0/24", 1)), CorruptData, false, false},
		{"Cache Response twice", send(response(2), response(2)), CorruptData, false, true},
		{"Cache Reset in the middle", send(response(2), PDU{Version: 2, Type: CacheReset}), CorruptData, false, true},
		{"a query", send(reset(2)), CorruptData, false, false},
		{"a query in the middle", send(response(2), query(2, 1)), CorruptData, false, true},
		{"length 0", raw(2, 3, 0x12, 0x34, 0, 0, 0, 0), CorruptData, false, false},
		{"length 4 GiB", raw(2, 11, 1, 0, 0xff, 0xff, 0xff, 0xfc), CorruptData, false, false},
		{"a Cache Response that is too long", raw(2, 3, 0x12, 0x34, 0, 0, 0, 12), CorruptData, false, false},
		{"an Error Report that is none", raw(2, 10, 0, 0, 0, 0, 0, 16, 0, 0, 1, 0, 0, 0, 0, 0), CorruptData, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, []string{"a"}, func(w *world) {
				p := w.start("a")
				p.send(notify(2, 2))
				p.want(query(2, 1))
				c.answer(p)
				report := p.wantError(c.code)
				if report.Version != 2 || report.Text == "" || len(report.Erroneous) == 0 {
					t.Errorf("the Error Report says too little: %+v", report)
				}
				p = w.accept("a")
				w.goesOn(p, c.flushed, c.anew)
			})
		})
	}
	t.Run("Serial Notify of another session", func(t *testing.T) {
		run(t, []string{"a"}, func(w *world) {
			p := w.start("a")
			p.send(otherNotify)
			p.wantError(CorruptData)
			w.goesOn(w.accept("a"), true, true)
		})
	})
	t.Run("payload without a query", func(t *testing.T) {
		run(t, []string{"a"}, func(w *world) {
			p := w.start("a")
			p.send(prefix(2, true, "198.51.100.0/24", 1))
			p.wantError(CorruptData)
			w.goesOn(w.accept("a"), false, false)
		})
	})
	for _, c := range []struct {
		name   string
		answer func(*peer)
		code   ErrorCode
	}{
		{"a duplicate in a whole set", send(response(2), prefix(2, true, "198.51.100.0/24", 1), prefix(2, true, "192.0.2.0/24", 1), prefix(2, true, "198.51.100.0/24", 1), end(2, 1)), DuplicateAnnounce},
		{"a withdrawal in a whole set", send(response(2), prefix(2, false, "198.51.100.0/24", 1)), UnknownWithdrawal},
		{"a withdrawn ASPA in a whole set", send(response(2), aspa(false, 1)), UnknownWithdrawal},
		{"Cache Reset at a Reset Query", send(PDU{Version: 2, Type: CacheReset}), CorruptData},
		{"a version before any is agreed", raw(9, 3, 0, 0, 0, 0, 0, 8), UnsupportedVersion},
		{"a prefix of the other family", send(response(2), prefix(2, true, "::ffff:0:0/96", 1)), CorruptData},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, []string{"a"}, func(w *world) {
				p := w.accept("a")
				p.want(reset(2))
				c.answer(p)
				p.wantError(c.code)
				if w.published() > 0 {
					t.Error("it was published")
				}
				w.start("a")
			})
		})
	}
}

func prefixBytes(announce bool) []byte {
	p := prefix(2, announce, "198.51.100.0/24", 1)
	return p.Append(nil)
}

// goesOn checks that after a fault the set is as it should be, and that p, a new connection, works.
func (w *world) goesOn(p *peer, flushed, anew bool) {
	w.t.Helper()
	if flushed {
		synctest.Wait()
		if w.client.Set() != nil {
			w.t.Fatal("the data of a session that is over is in use")
		}
	} else {
		w.holds(rpki.ASPAs{7: {8, 9}}, "192.0.2.0/24 1")
	}
	if anew {
		p.want(reset(2))
		p.send(response(2), prefix(2, true, "203.0.113.0/24", 5), end(2, 3))
		w.holds(rpki.ASPAs{}, "203.0.113.0/24 5")
		return
	}
	p.want(query(2, 1))
	p.send(response(2), prefix(2, true, "203.0.113.0/24", 5), end(2, 3))
	w.holds(rpki.ASPAs{7: {8, 9}}, "192.0.2.0/24 1", "203.0.113.0/24 5")
}

// An Error Report ends the session and is never answered with another.
func TestErrorReports(t *testing.T) {
	for code := range ErrorCode(13) {
		t.Run(code.String(), func(t *testing.T) {
			run(t, []string{"a"}, func(w *world) {
				p := w.start("a")
				p.send(notify(2, 2))
				q := query(2, 1)
				p.want(q)
				p.send(PDU{Version: 2, Type: ErrorReport, Code: code, Erroneous: q.Append(nil), Text: "because"})
				p.wantEnd()
				p = w.accept("a")
				if st := w.client.Status(); !strings.Contains(st.LastError, code.String()) || !strings.Contains(st.LastError, "because") {
					t.Errorf("status %+v", st)
				}
				w.goesOn(p, false, code == CorruptData || code == UnknownWithdrawal || code == DuplicateAnnounce)
			})
		})
	}
}

// At a later version the cache's Error Report cannot be read, but is not answered either.
func TestErrorReportOfALaterVersion(t *testing.T) {
	run(t, []string{"a"}, func(w *world) {
		p := w.accept("a")
		p.want(reset(2))
		p.conn.Write([]byte{3, 10, 0, 4, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0})
		p.wantEnd()
		w.start("a")
	})
}

func TestNoDataAvailableFallsBack(t *testing.T) {
	run(t, []string{"a", "b"}, func(w *world) {
		p := w.accept("a")
		p.want(reset(2))
		p.send(PDU{Version: 2, Type: ErrorReport, Code: NoDataAvailable})
		p.wantEnd()
		w.start("b")
	})
}

// A cache that stalls is left after the time it has; what it sent until then changes nothing.
func TestStalls(t *testing.T) {
	whole := prefixBytes(true)
	for _, c := range []struct {
		name  string
		sends func(*peer)
		after time.Duration
	}{
		{"without an answer", func(*peer) {}, stallTimeout},
		{"after the Cache Response", func(p *peer) { p.send(response(2)) }, stallTimeout},
		{"in a header", func(p *peer) { p.send(response(2)); p.conn.Write(whole[:3]) }, stallTimeout},
		{"in a PDU", func(p *peer) { p.send(response(2)); p.conn.Write(whole[:15]) }, stallTimeout},
		{"before the End of Data", func(p *peer) { p.send(response(2)); p.conn.Write(whole) }, stallTimeout},
		{"never quite", func(p *peer) {
			p.send(response(2))
			for {
				for _, b := range whole {
					if _, err := p.conn.Write([]byte{b}); err != nil {
						return
					}
					time.Sleep(stallTimeout / 100)
				}
				whole[14]++ // another prefix
			}
		}, answerTimeout},
		{"with news for ever", func(p *peer) {
			n := notify(2, 5)
			for {
				if _, err := p.conn.Write(n.Append(nil)); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}, answerTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			run(t, []string{"a", "b"}, func(w *world) {
				w.setDown("b", true)
				p := w.start("a")
				p.send(notify(2, 2))
				p.want(query(2, 1))
				w.setDown("b", false)
				began := time.Now()
				c.sends(p)
				q := w.accept("b")
				if after := time.Since(began); after < c.after || after > c.after+stallTimeout {
					t.Errorf("left after %v, want %v", after, c.after)
				}
				q.want(reset(2))
				w.holds(rpki.ASPAs{7: {8, 9}}, "192.0.2.0/24 1")
			})
		})
	}
	t.Run("in a PDU that nobody asked for", func(t *testing.T) {
		run(t, []string{"a"}, func(w *world) {
			p := w.start("a")
			began := time.Now()
			p.conn.Write(whole[:15])
			p.wantEnd()
			if after := time.Since(began); after != stallTimeout {
				t.Errorf("left after %v", after)
			}
		})
	})
}

// Half a Serial Notify that comes before a refresh and its rest after is not lost.
func TestPDUAcrossARefresh(t *testing.T) {
	run(t, []string{"a"}, func(w *world) {
		p := w.start("a")
		n := notify(2, 2)
		b := n.Append(nil)
		time.Sleep(1799 * time.Second)
		p.conn.Write(b[:5])
		p.want(query(2, 1))
		p.conn.Write(b[5:])
		p.send(response(2), end(2, 2))
		w.published()
		if st := w.client.Status(); st.Serial != 2 || st.Failures != 0 {
			t.Errorf("status %+v", st)
		}
	})
}

// While the client is dialling it can be stopped, and in every other state too.
func TestRunEnds(t *testing.T) {
	for name, script := range map[string]func(*world){
		"at once":   func(*world) {},
		"dialling":  func(w *world) { synctest.Wait() },
		"asking":    func(w *world) { w.accept("a") },
		"receiving": func(w *world) { p := w.accept("a"); p.want(reset(2)); p.send(response(2)) },
		"idle":      func(w *world) { w.start("a"); synctest.Wait() },
		"waiting":   func(w *world) { w.setDown("a", true); time.Sleep(time.Minute) },
	} {
		t.Run(name, func(t *testing.T) { run(t, []string{"a"}, script) })
	}
}
