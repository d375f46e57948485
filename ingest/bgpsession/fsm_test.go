package bgpsession

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

const (
	up   = "peer_up edge/AS4200000001/127.0.0.2"
	down = "peer_down edge/AS4200000001/127.0.0.2"
	says = "routes edge/AS4200000001/127.0.0.2"
)

// check compares what the listener said with lines.
func (h *harness) check(want ...string) {
	h.t.Helper()
	if diff := cmp.Diff(want, words(h.seen())); diff != "" {
		h.t.Errorf("what was said (-want +got):\n%s", diff)
	}
}

func unhex(s string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return string(b)
}

// Attributes for UPDATEs that are made by hand.
const (
	origin  = "40 01 01 00"
	path    = "40 02 06 02 01 fa56ea01"
	nextHop = "40 03 04 c0000201"
)

// updateBody has withdrawn routes, attributes and routes in hexadecimal.
func updateBody(withdrawn, attrs, nlri string) []byte {
	w, a := unhex(withdrawn), unhex(attrs)
	b := append([]byte{byte(len(w) >> 8), byte(len(w))}, w...)
	b = append(append(b, byte(len(a)>>8), byte(len(a))), a...)
	return append(b, unhex(nlri)...)
}

// The OPEN that is sent says who we are and what we take.
func TestOpenIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := configuration()
		c.Neighbours[0].Role = "customer"
		c.HoldTime = 60 * time.Second
		o, err := bgp.ParseOpen(newHarness(t, c).pipe().expect(bgp.TypeOpen))
		if err != nil {
			t.Fatal(err)
		}
		if o.ASN != ourASN || o.HoldTime != 60 || o.ID != ourID {
			t.Errorf("OPEN %+v", o)
		}
		got := map[uint8][]string{}
		for _, c := range o.Capabilities {
			got[c.Code] = append(got[c.Code], hex.EncodeToString(c.Value))
		}
		want := map[uint8][]string{ // written from the RFCs
			1:  {"00010001", "00020001", "00010002", "00020002"},
			2:  {""},
			5:  {"000100010002"},
			6:  {""},
			9:  {"03"},
			64: {"8000"},
			65: {"0000fbf4"},
			69: {"00010101" + "00020101"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("capabilities (-want +got):\n%s", diff)
		}
	})
}

func TestSessionLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, configuration())
		p := h.pipe()
		p.expect(bgp.TypeOpen)
		state := func(want string) {
			t.Helper()
			synctest.Wait()
			if n := h.Neighbours()[0].Sessions; len(n) != 1 || n[want] != 1 {
				t.Fatalf("sessions %v, want one in %s", n, want)
			}
		}
		state("OpenSent")
		p.send(theirOpen(nil))
		state("OpenConfirm")
		h.check()
		if s := h.Status(); s.State != ingest.Connecting {
			t.Errorf("status %+v before the session is established", s)
		}
		p.send(keepalive)
		state("Established")
		start := time.Now()
		h.check(up)

		r4, r6 := bgp.NLRI{Prefix: prefix4}, bgp.NLRI{Prefix: prefix6}
		p.send(announcement(bgp.Options{}, r4))
		p.send(announcement(bgp.Options{}, r6))
		p.send(announcement(bgp.Options{}, r4))
		p.send(bgp.AppendEndOfRIB(nil, bgp.IPv4Unicast))
		p.send(bgp.AppendEndOfRIB(nil, bgp.IPv6Unicast))
		p.send(bgp.AppendRouteRefresh(nil, bgp.IPv4Unicast, 0))
		synctest.Wait()
		if n := h.Neighbours()[0]; n.Prefixes != 2 || n.EndOfRIB != 2 || n.Messages[bgp.TypeUpdate] != 5 || n.Messages[bgp.TypeRouteRefresh] != 1 || n.Updates != 4 {
			t.Errorf("%+v", n)
		}
		s := h.Status()
		if s.State != ingest.Connected || s.Peers != 1 || s.Updates != 4 || s.Messages != 8 || !s.LastMessage.Equal(start) || s.Reconnects != 0 {
			t.Errorf("status %+v", s)
		}
		for _, u := range h.updates {
			if u.Time != ingest.TimeOf(start) {
				t.Errorf("time %v, want that of receipt, %v", u.Time, ingest.TimeOf(start))
			}
		}
		h.check(says+" +192.0.2.0/24 [4200000001 64496] via 192.0.2.1",
			says+" +2001:db8::/32 [4200000001 64496] via 2001:db8::1",
			says+" +192.0.2.0/24 [4200000001 64496] via 192.0.2.1", says+" end of ipv4/unicast", says+" end of ipv6/unicast")
		p.send(withdrawal(bgp.Options{}, r4))
		p.send(withdrawal(bgp.Options{}, r6))
		synctest.Wait()
		h.check(says+" -192.0.2.0/24", says+" -2001:db8::/32")
		if n := h.Neighbours()[0]; n.Prefixes != 0 {
			t.Errorf("%d prefixes are left", n.Prefixes)
		}
		p.send(announcement(bgp.Options{}, r4))
		p.conn.Close()
		synctest.Wait()
		h.check(says+" +192.0.2.0/24 [4200000001 64496] via 192.0.2.1", down)
		n := h.Neighbours()[0]
		if n.Ended["connection_lost"] != 1 || n.Prefixes != 0 || len(n.Sessions) != 0 || !strings.Contains(n.LastError, "connection is lost") {
			t.Errorf("%+v", n)
		}
		if s := h.Status(); s.State != ingest.Connecting || s.Reconnects != 1 {
			t.Errorf("status %+v", s)
		}
	})
}

// Both sides send in good time, so the session lives; then the neighbour falls silent.
func TestHoldTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, configuration())
		p := h.pipe()
		p.establish(nil) // 30 s
		for range 20 {
			time.Sleep(29 * time.Second)
			if n := len(p.in); n < 2 || n > 4 {
				t.Errorf("%d KEEPALIVEs in 29 s, want one in 7.5 to 10 s", n)
			}
			for len(p.in) > 0 {
				if m := <-p.in; m.t != bgp.TypeKeepalive {
					t.Fatalf("got %v", m.t)
				}
			}
			p.send(keepalive)
		}
		synctest.Wait()
		start := time.Now()
		p.expectNotification(4, 0, "")
		if d := time.Since(start); d != 30*time.Second {
			t.Errorf("the session ended after %v of silence, want 30s", d)
		}
		synctest.Wait()
		h.check(up, down)
		if n := h.Neighbours()[0]; n.Ended["hold_timer_expired"] != 1 {
			t.Errorf("%+v", n)
		}
	})
}

// Octets that never become a message are no sign of life.
func TestHoldTimerAndHalfMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, configuration())
		p := h.pipe()
		p.establish(nil)
		synctest.Wait()
		start := time.Now()
		u := announcement(bgp.Options{}, bgp.NLRI{Prefix: prefix4})
		for _, b := range u[:29] {
			p.send([]byte{b})
			time.Sleep(time.Second)
		}
		p.expectNotification(4, 0, "")
		if d := time.Since(start); d != 30*time.Second {
			t.Errorf("ended after %v", d)
		}
	})
}

// A hold time of zero has no timers at all.
func TestNoHoldTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, configuration())
		p := h.pipe()
		p.establish(func(o *bgp.Open) { o.HoldTime = 0 })
		time.Sleep(48 * time.Hour)
		if len(p.in) != 0 {
			t.Errorf("%d messages came", len(p.in))
		}
		p.send(announcement(bgp.Options{}, bgp.NLRI{Prefix: prefix4}))
		synctest.Wait()
		h.check(up, says+" +192.0.2.0/24 [4200000001 64496] via 192.0.2.1")
	})
}

// While the consumer keeps the session waiting, the neighbour is not taken for silent.
func TestSlowConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, configuration())
		ours, p := h.unstarted()
		h.bg.Go(func() {
			ours.run(h.ctx, func(u *ingest.Update) error {
				if u.Kind == ingest.Routes {
					time.Sleep(10 * time.Minute)
				}
				return h.record(u)
			})
		})
		p.establish(nil)
		p.send(announcement(bgp.Options{}, bgp.NLRI{Prefix: prefix4}))
		time.Sleep(11 * time.Minute)
		h.check(up, says+" +192.0.2.0/24 [4200000001 64496] via 192.0.2.1", down)
	})
}

// A neighbour that reads nothing has a full socket some time; RFC 9687 calls that dead.
func TestSendHoldTimer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, configuration())
		s, p := h.unstarted()
		h.bg.Go(func() { s.run(h.ctx, h.record) })
		p.establish(nil)
		// From here on p.in is full, so that its goroutine does not read.
		for range cap(p.in) {
			p.in <- message{}
		}
		start := time.Now()
		for h.Neighbours()[0].Ended["send_hold_timer_expired"] == 0 {
			if time.Since(start) > time.Hour {
				t.Fatalf("never ended: %+v", h.Neighbours()[0])
			}
			time.Sleep(10 * time.Second)
			p.conn.SetWriteDeadline(time.Now().Add(time.Second))
			p.conn.Write(keepalive)
		}
		if d := time.Since(start); d < 8*time.Minute || d > 9*time.Minute {
			t.Errorf("ended after %v, want 8m and at most a KEEPALIVE's time", d)
		}
		for range cap(p.in) {
			<-p.in
		}
	})
}

func TestHandshakeTimeout(t *testing.T) {
	for name, script := range map[string]func(p *peer){
		"says nothing":      func(p *peer) { p.expect(bgp.TypeOpen) },
		"sends OPEN slowly": func(p *peer) { p.expect(bgp.TypeOpen); p.send(theirOpen(nil)[:20]) },
		"OPEN alone":        func(p *peer) { p.expect(bgp.TypeOpen); p.send(theirOpen(nil)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t, configuration())
				start := time.Now()
				p := h.pipe()
				script(p)
				time.Sleep(29 * time.Second)
				p.expectNotification(4, 0, "")
				if d := time.Since(start); d != 30*time.Second {
					t.Errorf("ended after %v", d)
				}
				synctest.Wait()
				h.check()
				if n := h.Neighbours()[0]; n.Ended["handshake_timeout"] != 1 {
					t.Errorf("%+v", n)
				}
			})
		})
	}
}

// Each of these ends the session with the NOTIFICATION that the RFCs ask for, in every state in
// which it can come.
func TestErrors(t *testing.T) {
	const (
		inOpenSent = iota
		inOpenConfirm
		inEstablished
	)
	every := []int{inOpenSent, inOpenConfirm, inEstablished}
	bad := func(b []byte, edit func([]byte)) []byte { c := append([]byte(nil), b...); edit(c); return c }
	update := func(withdrawn, attrs, nlri string) []byte {
		return raw(bgp.TypeUpdate, updateBody(withdrawn, attrs, nlri))
	}
	for _, tt := range []struct {
		name          string
		states        []int
		config        func(*Neighbour)
		send          []byte
		code, subcode uint8 // of state s: subcode + s for code 5
		data          string
		reason        string
	}{
		{"bad marker", every, nil, bad(keepalive, func(b []byte) { b[7] = 0 }), 1, 1, "", "header_error"},
		{"bad marker, and more to come", every, nil, bad(keepalive, func(b []byte) { b[0], b[17] = 0, 200 }), 1, 1, "", "header_error"},
		{"length below a header", every, nil, bad(keepalive, func(b []byte) { b[17] = 18 }), 1, 2, "\x00\x12", "header_error"},
		{"KEEPALIVE too long", every, nil, bad(keepalive, func(b []byte) { b[17] = 20 }), 1, 2, "\x00\x14", "header_error"},
		{"OPEN too short", every, nil, raw(bgp.TypeOpen, make([]byte, 9)), 1, 2, "\x00\x1c", "header_error"},
		{"OPEN too long", every, nil, bad(raw(bgp.TypeOpen, nil), func(b []byte) { b[16], b[17] = 0x10, 0x01 }), 1, 2, "\x10\x01", "header_error"},
		{"UPDATE too short", every, nil, raw(bgp.TypeUpdate, make([]byte, 3)), 1, 2, "\x00\x16", "header_error"},
		{"NOTIFICATION too short", every, nil, raw(bgp.TypeNotification, []byte{6}), 1, 2, "\x00\x14", "header_error"},
		{"ROUTE-REFRESH too short", every, nil, raw(bgp.TypeRouteRefresh, []byte{0, 1, 0}), 1, 2, "\x00\x16", "header_error"},
		{"bad type", every, nil, raw(9, nil), 1, 3, "\x09", "header_error"},
		{"type zero", every, nil, raw(0, nil), 1, 3, "\x00", "header_error"},

		{"unsupported version", []int{inOpenSent}, nil, bad(theirOpen(nil), func(b []byte) { b[19] = 3 }), 2, 1, "\x00\x04", "open_error"},
		{"bad peer AS", []int{inOpenSent}, nil, theirOpen(func(o *bgp.Open) { o.ASN = 1; o.Capabilities = nil }), 2, 2, "", "open_error"},
		{"AS zero", []int{inOpenSent}, func(n *Neighbour) { n.RemoteASN = 0 }, theirOpen(func(o *bgp.Open) { o.ASN = 0; o.Capabilities = nil }), 2, 2, "", "open_error"},
		{"identifier zero", []int{inOpenSent}, nil, theirOpen(func(o *bgp.Open) { o.ID = netip.IPv4Unspecified() }), 2, 3, "", "open_error"},
		{"our identifier in our AS", []int{inOpenSent}, func(n *Neighbour) { n.LocalASN = theirASN }, theirOpen(func(o *bgp.Open) { o.ID = ourID }), 2, 3, "", "open_error"},
		{"hold time 1", []int{inOpenSent}, nil, theirOpen(func(o *bgp.Open) { o.HoldTime = 1 }), 2, 6, "", "open_error"},
		{"hold time 2", []int{inOpenSent}, nil, theirOpen(func(o *bgp.Open) { o.HoldTime = 2 }), 2, 6, "", "open_error"},
		{"malformed parameters", []int{inOpenSent}, nil, bad(theirOpen(nil), func(b []byte) { b[28]-- }), 2, 0, "", "open_error"},
		{"role mismatch", []int{inOpenSent}, func(n *Neighbour) { n.Role = "customer" },
			theirOpen(func(o *bgp.Open) {
				o.Capabilities = append(o.Capabilities, bgp.Capability{Code: bgp.CapRole, Value: []byte{4}})
			}), 2, 11, "", "open_error"},
		{"several roles", []int{inOpenSent}, func(n *Neighbour) { n.Role = "customer" },
			theirOpen(func(o *bgp.Open) {
				o.Capabilities = append(o.Capabilities, bgp.Capability{Code: bgp.CapRole, Value: []byte{0}}, bgp.Capability{Code: bgp.CapRole, Value: []byte{1}})
			}), 2, 11, "", "open_error"},

		{"unexpected OPEN", []int{inOpenConfirm, inEstablished}, nil, theirOpen(nil), 5, 1, "\x01", "unexpected_message"},
		{"unexpected UPDATE", []int{inOpenSent, inOpenConfirm}, nil, announcement(bgp.Options{}, bgp.NLRI{Prefix: prefix4}), 5, 1, "\x02", "unexpected_message"},
		{"unexpected KEEPALIVE", []int{inOpenSent}, nil, keepalive, 5, 1, "\x04", "unexpected_message"},
		{"unexpected ROUTE-REFRESH", []int{inOpenSent, inOpenConfirm}, nil, bgp.AppendRouteRefresh(nil, bgp.IPv4Unicast, 0), 5, 1, "\x05", "unexpected_message"},

		{"withdrawn routes overrun", []int{inEstablished}, nil, raw(bgp.TypeUpdate, []byte{0, 9, 0, 0}), 3, 1, "", "update_error"},
		{"attributes overrun", []int{inEstablished}, nil, raw(bgp.TypeUpdate, []byte{0, 0, 0, 9}), 3, 1, "", "update_error"},
		{"unknown well-known attribute", []int{inEstablished}, nil, update("", origin+path+"40 63 02 abcd"+nextHop, "18 c00002"), 3, 2, unhex("40 63 02 abcd"), "update_error"},
		{"MP_REACH_NLRI too short", []int{inEstablished}, nil, update("", origin+"90 0e 0003 000201"+path, ""), 3, 9, unhex("90 0e 0003 000201"), "update_error"},
		{"MP_UNREACH_NLRI with a bad prefix", []int{inEstablished}, nil, update("", "80 0f 05 000201 81 20", ""), 3, 9, unhex("80 0f 05 000201 81 20"), "update_error"},
		{"MP_REACH_NLRI twice", []int{inEstablished}, nil, update("", strings.Repeat("80 0f 03 000201", 2), ""), 3, 1, "", "update_error"},
		{"bad prefix", []int{inEstablished}, nil, update("", origin+path+nextHop, "21 c0000201"), 3, 10, "", "update_error"},
		{"bad prefix withdrawn", []int{inEstablished}, nil, update("18 c000", "", ""), 3, 10, "", "update_error"},
		{"malformed, and nothing to withdraw", []int{inEstablished}, nil, update("", "40 01 01 07", ""), 3, 1, "", "update_error"},

		{"too many prefixes", []int{inEstablished}, func(n *Neighbour) { n.MaxPrefixes = 1 },
			announcement(bgp.Options{}, bgp.NLRI{Prefix: prefix4}, bgp.NLRI{Prefix: netip.MustParsePrefix("198.51.100.0/24")}),
			6, 1, "\x00\x01\x01\x00\x00\x00\x01", "too_many_prefixes"},
	} {
		for _, s := range tt.states {
			t.Run(tt.name+" in "+state(s).String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := configuration()
					if tt.config != nil {
						tt.config(&c.Neighbours[0])
					}
					h := newHarness(t, c)
					p := h.pipe()
					p.expect(bgp.TypeOpen)
					if s > inOpenSent {
						p.send(theirOpen(nil))
						p.expect(bgp.TypeKeepalive)
					}
					want := []string(nil)
					if s == inEstablished {
						p.send(keepalive)
						synctest.Wait()
						want = []string{up, down}
					}
					start := time.Now()
					p.send(tt.send)
					subcode := tt.subcode
					if tt.code == 5 {
						subcode = uint8(s) + 1
					}
					p.expectNotification(tt.code, subcode, tt.data)
					if d := time.Since(start); d != 0 {
						t.Errorf("it took %v", d)
					}
					synctest.Wait()
					h.check(want...)
					n := h.Neighbours()[0]
					if n.Ended[tt.reason] != 1 || len(n.Ended) != 1 || n.Prefixes != 0 {
						t.Errorf("%+v", n)
					}
					if (tt.code == 1 || tt.code == 3) && len(n.Malformed) != 1 {
						t.Errorf("malformed %v", n.Malformed)
					}
					if n.LastError == "" || h.Status().LastError != n.LastError {
						t.Errorf("last error %q and %q", n.LastError, h.Status().LastError)
					}
				})
			})
		}
	}
}

// A NOTIFICATION ends the session in every state, without an answer, and what it says is kept.
func TestNotificationReceived(t *testing.T) {
	for s := openSent; s <= established; s++ {
		t.Run(s.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t, configuration())
				p := h.pipe()
				p.expect(bgp.TypeOpen)
				if s > openSent {
					p.send(theirOpen(nil))
					p.expect(bgp.TypeKeepalive)
				}
				if s == established {
					p.send(keepalive)
				}
				p.send(bgp.AppendNotification(nil, bgp.Notification{Code: 6, Subcode: 2, Data: []byte("\x0bmaintenance")}))
				p.expectEnd()
				synctest.Wait()
				n := h.Neighbours()[0]
				if n.Ended["notification_received"] != 1 || n.LastError != `127.0.0.2: the neighbour sent NOTIFICATION: Cease, Administrative Shutdown: "maintenance"` {
					t.Errorf("%+v", n)
				}
				if want := map[bool]int{true: 2}[s == established]; len(h.seen()) != want {
					t.Errorf("want %d updates", want)
				}
			})
		})
	}
}

// Faults that RFC 7606 does not end a session for cost routes or attributes, and are counted.
func TestFaultsThatSessionsSurvive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, configuration())
		p := h.pipe()
		p.establish(nil)
		p.send(raw(bgp.TypeUpdate, updateBody("", "40 01 01 07"+path+nextHop, "18 c00002")))                     // ORIGIN 7: withdrawn
		p.send(raw(bgp.TypeUpdate, updateBody("", origin+path+nextHop+"40 06 01 00", "18 c00002")))              // ATOMIC_AGGREGATE of an octet: left out
		p.send(raw(bgp.TypeUpdate, updateBody("", "80 0e 09 0001 80 00 00 00000000"+origin+path, "")))           // a VPN: not decoded
		p.send(raw(bgp.TypeUpdate, updateBody("", "80 0e 09 0001 02 04 c0000201 00"+origin+path, "")))           // multicast without a route
		p.send(raw(bgp.TypeUpdate, updateBody("", origin+path+"80 0e 0d 0001 02 04 c0000201 00 18 c00002", ""))) // multicast
		synctest.Wait()
		h.check(up, says+" -192.0.2.0/24", says+" +192.0.2.0/24 [4200000001] via 192.0.2.1")
		want := map[string]uint64{"origin": 1, "atomic_aggregate": 1, "family_not_decoded": 1}
		if diff := cmp.Diff(want, h.Neighbours()[0].Malformed); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff(want, h.Status().Malformed); diff != "" {
			t.Error(diff)
		}
		for _, s := range h.Samples() {
			if want[s.Reason]--; s.From == "" || s.Time.IsZero() || s.Detail == "" || len(s.Octets) == 0 {
				t.Errorf("a sample is %+v", s)
			}
		}
		for reason, left := range want {
			if left != 0 {
				t.Errorf("of %s %d samples are missing", reason, left)
			}
		}
	})
}

// Roles that fit, and neighbours that tell none, are welcome.
func TestRolesThatFit(t *testing.T) {
	for ours, theirs := range map[string]int{"provider": 3, "rs": 2, "rs-client": 1, "customer": 0, "peer": 4, "": 4, "customer ": -1} {
		synctest.Test(t, func(t *testing.T) {
			c := configuration()
			c.Neighbours[0].Role = strings.TrimSpace(ours)
			h := newHarness(t, c)
			h.pipe().establish(func(o *bgp.Open) {
				if theirs >= 0 {
					o.Capabilities = append(o.Capabilities, bgp.Capability{Code: bgp.CapRole, Value: []byte{byte(theirs)}})
				}
			})
			synctest.Wait()
			h.check(up)
		})
	}
}

// What was agreed decides how UPDATEs are read.
func TestNegotiated(t *testing.T) {
	both := bgp.NLRI{Prefix: prefix4, PathID: 7}
	for _, tt := range []struct {
		name string
		edit func(*bgp.Open)
		asn  string
		o    bgp.Options
		want string
	}{
		{"ADD-PATH", func(o *bgp.Open) {
			o.Capabilities = append(o.Capabilities, bgp.AddPath(bgp.AddPathSend, bgp.IPv4Unicast))
		}, "4200000001", bgp.Options{AddPath: bgp.Families(bgp.IPv4Unicast)}, " +192.0.2.0/24#7 [4200000001 64496] via 192.0.2.1"},
		{"ADD-PATH that is not sent", func(o *bgp.Open) {
			o.Capabilities = append(o.Capabilities, bgp.AddPath(bgp.AddPathReceive, bgp.IPv4Unicast))
		}, "4200000001", bgp.Options{}, " +192.0.2.0/24 [4200000001 64496] via 192.0.2.1"},
		{"two-octet AS", func(o *bgp.Open) { o.ASN, o.Capabilities = 64501, nil }, "64501",
			bgp.Options{TwoOctetAS: true}, " +192.0.2.0/24 [4200000001 64496] via 192.0.2.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := configuration()
				c.Neighbours[0].RemoteASN = 0
				h := newHarness(t, c)
				p := h.pipe()
				p.establish(tt.edit)
				p.send(announcement(tt.o, both))
				synctest.Wait()
				peer := " edge/AS" + tt.asn + "/127.0.0.2"
				h.check("peer_up"+peer, "routes"+peer+tt.want)
			})
		})
	}
}

// An extended message (RFC 8654), and an IPv4 route with an IPv6 next hop (RFC 8950).
func TestLongMessageAndNextHop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, configuration())
		p := h.pipe()
		p.establish(func(o *bgp.Open) {
			o.Capabilities = append(o.Capabilities, bgp.Capability{Code: bgp.CapExtendedMessage}, bgp.ExtendedNextHop(bgp.IPv4Unicast))
		})
		var routes []bgp.NLRI
		for i := range 14_000 {
			routes = append(routes, bgp.NLRI{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 0}), 24)})
		}
		long := announcement(bgp.Options{ExtendedMessage: true}, routes...)
		if len(long) < 50_000 {
			t.Fatalf("%d octets are not long", len(long))
		}
		p.send(long)
		u := &bgp.Update{Announced: []bgp.NLRI{{Prefix: prefix4}}, Attrs: bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop,
			ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{theirASN}}}, NextHop: netip.MustParseAddr("2001:db8::1")}}
		b, err := bgp.AppendUpdate(nil, u, bgp.Options{})
		if err != nil {
			t.Fatal(err)
		}
		p.send(b)
		synctest.Wait()
		got := h.seen()
		if len(got) != 3 || len(got[1].Announced) != len(routes) {
			t.Fatalf("%d updates", len(got))
		}
		if want := says + " +192.0.2.0/24 [4200000001] via 2001:db8::1"; words(got)[2] != want {
			t.Errorf("got %s", words(got)[2])
		}
		if n := h.Neighbours()[0].Prefixes; n != len(routes)+1 {
			t.Errorf("%d prefixes", n)
		}
	})
}

// A message that announces both ways has two next hops, and becomes two updates.
func TestTwoNextHops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, configuration())
		p := h.pipe()
		p.establish(nil)
		p.send(raw(bgp.TypeUpdate, updateBody("18 cb0071", "80 0e 1a 0002 01 10 20010db8000000000000000000000001 00 20 20010db8"+origin+path+nextHop, "18 c00002")))
		synctest.Wait()
		h.check(up, says+" -203.0.113.0/24 +192.0.2.0/24 [4200000001] via 192.0.2.1", says+" +2001:db8::/32 [4200000001] via 2001:db8::1")
	})
}

// Two connections of one neighbour (RFC 4271 §6.8).
func TestCollision(t *testing.T) {
	less := func(o *bgp.Open) { o.ID = netip.MustParseAddr("10.0.0.0") }
	graceful := func(o *bgp.Open) {
		o.Capabilities = append(o.Capabilities, bgp.Capability{Code: bgp.CapGracefulRestart, Value: []byte{0, 120}})
	}
	half := func(p *peer, edit func(*bgp.Open)) {
		p.t.Helper()
		p.expect(bgp.TypeOpen)
		p.send(theirOpen(edit))
	}
	run := func(name string, f func(t *testing.T, h *harness, a, b *peer)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t, configuration())
				f(t, h, h.pipe(), h.pipe())
			})
		})
	}
	run("the neighbour's identifier is greater: the new one stays", func(t *testing.T, h *harness, a, b *peer) {
		half(a, nil)
		a.expect(bgp.TypeKeepalive)
		half(b, nil)
		a.expectNotification(6, 7, "")
		b.expect(bgp.TypeKeepalive)
		b.send(keepalive)
		synctest.Wait()
		h.check(up)
	})
	run("ours is greater: the old one stays", func(t *testing.T, h *harness, a, b *peer) {
		half(a, less)
		a.expect(bgp.TypeKeepalive)
		half(b, less)
		b.expectNotification(6, 7, "")
		a.send(keepalive)
		synctest.Wait()
		h.check(up)
		if n := h.Neighbours()[0]; n.Ended["collision"] != 1 {
			t.Errorf("%+v", n)
		}
	})
	run("the same identifiers: the greater AS decides (RFC 6286)", func(t *testing.T, h *harness, a, b *peer) {
		same := func(o *bgp.Open) { o.ID = ourID }
		half(a, same)
		a.expect(bgp.TypeKeepalive)
		half(b, same)
		a.expectNotification(6, 7, "")
		b.expect(bgp.TypeKeepalive)
	})
	run("an established session stays", func(t *testing.T, h *harness, a, b *peer) {
		a.establish(nil)
		synctest.Wait()
		half(b, nil)
		b.expectNotification(6, 7, "")
		a.send(announcement(bgp.Options{}, bgp.NLRI{Prefix: prefix4}))
		synctest.Wait()
		h.check(up, says+" +192.0.2.0/24 [4200000001 64496] via 192.0.2.1")
	})
	run("an established session of a neighbour that restarted does not (RFC 4724)", func(t *testing.T, h *harness, a, b *peer) {
		a.establish(graceful)
		synctest.Wait()
		half(b, graceful)
		a.expectEnd()
		b.expect(bgp.TypeKeepalive)
		b.send(keepalive)
		synctest.Wait()
		h.check(up, down, up)
		if n := h.Neighbours()[0]; n.Ended["replaced_after_restart"] != 1 || n.Sessions["Established"] != 1 {
			t.Errorf("%+v", n)
		}
	})
	run("a third connection is refused", func(t *testing.T, h *harness, a, b *peer) {
		addr := netip.MustParseAddr("127.0.0.2")
		if s, refusal := h.register(nil, addr, h.find(addr)); s != nil || refusal != "too_many_connections" {
			t.Errorf("got %v, %q", s, refusal)
		}
	})
}

func TestPrefixesAndIdling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := configuration()
		c.Neighbours[0].MaxPrefixes = 1
		h := newHarness(t, c)
		addr := netip.MustParseAddr("127.0.0.2")
		p := h.pipe()
		p.establish(nil)
		p.send(announcement(bgp.Options{}, bgp.NLRI{Prefix: prefix4}))
		p.send(announcement(bgp.Options{}, bgp.NLRI{Prefix: prefix4}))
		synctest.Wait()
		h.check(up, says+" +192.0.2.0/24 [4200000001 64496] via 192.0.2.1", says+" +192.0.2.0/24 [4200000001 64496] via 192.0.2.1")
		p.send(announcement(bgp.Options{}, bgp.NLRI{Prefix: prefix6}))
		p.expectNotification(6, 1, "\x00\x02\x01\x00\x00\x00\x01")
		synctest.Wait()
		if _, refusal := h.register(nil, addr, h.find(addr)); refusal != "idle_after_too_many_prefixes" {
			t.Errorf("refusal %q", refusal)
		}
		time.Sleep(idleAfterOverflow)
		h.pipe().establish(nil)
		synctest.Wait()
		h.check(down, up)
	})
}

// A prefix takes as many routers as configured, and gives the room back.
func TestMaxSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := configuration()
		c.Neighbours = []Neighbour{{Address: "127.0.0.0/8", MaxSessions: 2}, {Address: "127.0.0.3"}}
		h := newHarness(t, c)
		p := h.pipe()
		p.expect(bgp.TypeOpen)
		for i, want := range map[string]string{"127.0.0.3": "", "127.1.0.1": ""} {
			a := netip.MustParseAddr(i)
			if s, refusal := h.register(nil, a, h.find(a)); refusal != want {
				t.Errorf("%s: %q", i, refusal)
			} else {
				defer s.end(nil)
			}
		}
		a := netip.MustParseAddr("127.1.0.2")
		if _, refusal := h.register(nil, a, h.find(a)); refusal != "too_many_sessions" {
			t.Errorf("refusal %q", refusal)
		}
		p.conn.Close()
		synctest.Wait()
		if s, refusal := h.register(nil, a, h.find(a)); s == nil {
			t.Errorf("refusal %q", refusal)
		} else {
			s.end(nil)
		}
	})
}

// The end of the listener is told to every neighbour.
func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, configuration())
		ctx, cancel := h.cancellable()
		s, p := h.unstarted()
		h.bg.Go(func() {
			if err := s.run(ctx, h.record); err != nil {
				t.Error(err)
			}
		})
		p.establish(nil)
		synctest.Wait()
		cancel()
		p.expectNotification(6, 2, "")
		synctest.Wait()
		h.check(up, down)
	})
}
