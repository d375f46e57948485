package bmp

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

const received = ingest.Time(1_700_000_000_000_000)

var (
	router = netip.MustParseAddr("192.0.2.1")
	peer4  = PeerHeader{Addr: netip.MustParseAddr("198.51.100.1"), ASN: 64500, ID: netip.MustParseAddr("198.51.100.1")}
	peer6  = PeerHeader{Flags: FlagIPv6, Addr: netip.MustParseAddr("2001:db8::1"), ASN: 64500, ID: netip.MustParseAddr("198.51.100.1")}
	locRIB = PeerHeader{Type: LocRIBInstance, ASN: 65000, ID: router}
)

func open(asn uint32, caps ...bgp.Capability) *bgp.Open {
	return &bgp.Open{ASN: asn, HoldTime: 90, ID: router, Capabilities: append([]bgp.Capability{bgp.FourOctetAS(asn)}, caps...)}
}

func with(h PeerHeader, f Flags) PeerHeader {
	h.Flags |= f
	return h
}

func at(h PeerHeader, t ingest.Time) PeerHeader {
	h.Time = t
	return h
}

func upMessage(h PeerHeader, sent, received *bgp.Open, tlvs ...TLV) *Message {
	m := &Message{Version: 3, Type: TypePeerUp, Peer: h, PeerUp: PeerUp{Sent: sent, Received: received}, TLVs: tlvs}
	switch {
	case h.Type == LocRIBInstance:
	case h.Flags&FlagIPv6 != 0:
		m.PeerUp.LocalAddr = netip.MustParseAddr("2001:db8::2")
	default:
		m.PeerUp.LocalAddr = router
	}
	return m
}

func downMessage(h PeerHeader) *Message {
	return &Message{Version: 3, Type: TypePeerDown, Peer: h, PeerDown: PeerDown{Reason: DownRemote}}
}

func nlri(prefix string, id uint32) bgp.NLRI {
	return bgp.NLRI{Prefix: netip.MustParsePrefix(prefix), PathID: id}
}

// update announces routes by the path 64500 70000.
func update(t testing.TB, o bgp.Options, routes ...bgp.NLRI) []byte {
	hop := router
	if routes[0].Prefix.Addr().Is6() {
		hop = netip.MustParseAddr("2001:db8::2")
	}
	b, err := bgp.AppendUpdate(nil, &bgp.Update{Announced: routes, Attrs: bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: hop,
		ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{64500, 70000}}}}}, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func monitoring(h PeerHeader, message []byte) *Message {
	return &Message{Version: 3, Type: TypeRouteMonitoring, Peer: h, BGP: message}
}

func encode(t testing.TB, m *Message) []byte {
	t.Helper()
	b, err := Append(nil, m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// line says an update in words.
func line(u *ingest.Update) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %v %v", (u.Time-received)/1e6, u.Peer, u.Kind)
	for _, n := range u.Withdrawn {
		fmt.Fprintf(&b, " -%v", n.Prefix)
	}
	for _, n := range u.Announced {
		fmt.Fprintf(&b, " +%v", n.Prefix)
		if n.PathID != 0 {
			fmt.Fprintf(&b, "#%d", n.PathID)
		}
	}
	if len(u.Announced) > 0 {
		fmt.Fprintf(&b, " by %v", u.Attrs.ASPath)
	}
	return b.String()
}

func TestSession(t *testing.T) {
	plain := bgp.Options{}
	both := bgp.AddPath(bgp.AddPathBoth, bgp.IPv4Unicast)
	withPaths := bgp.Options{AddPath: bgp.Families(bgp.IPv4Unicast)}
	route := nlri("203.0.113.0/24", 0)
	six := nlri("2001:db8:1::/48", 0)
	termination := &Message{Version: 3, Type: TypeTermination, TLVs: []TLV{{Type: TLVReason, Value: []byte{0, 0}}}}
	const p4, p6, own = "r/AS64500/198.51.100.1", "r/AS64500/2001:db8::1", "r/AS65000/192.0.2.1/loc-rib"
	tests := map[string]struct {
		vrfs     bool
		messages []*Message
		want     []string
		skipped  map[string]uint64
	}{
		"up, routes, down": {
			messages: []*Message{
				upMessage(at(peer4, received+1e6), open(65000), open(64500)),
				monitoring(at(peer4, received+2e6), update(t, plain, route)),
				monitoring(peer4, update(t, plain, six)), // no stamp: the time of receipt
				downMessage(at(peer4, received+3e6)),
				monitoring(at(peer4, received+4e6), bgp.AppendEndOfRIB(nil, bgp.IPv4Unicast)),
			},
			want: []string{"1 " + p4 + " peer_up", "2 " + p4 + " routes +203.0.113.0/24 by 64500 70000",
				"0 " + p4 + " routes +2001:db8:1::/48 by 64500 70000", "3 " + p4 + " peer_down"},
			skipped: map[string]uint64{"peer_up_not_seen": 1},
		},
		"two octets of AS number": {
			messages: []*Message{
				upMessage(peer4, open(65000), &bgp.Open{ASN: 64500, ID: router}),
				monitoring(with(peer4, FlagTwoOctetAS), update(t, bgp.Options{TwoOctetAS: true}, route)),
				// A router that tells its table in the new form although the session is of the old one.
				monitoring(peer4, update(t, plain, route)),
			},
			want: []string{"0 " + p4 + " peer_up", "0 " + p4 + " routes +203.0.113.0/24 by 64500 70000", "0 " + p4 + " routes +203.0.113.0/24 by 64500 70000"},
		},
		"add-path in one direction": {
			messages: []*Message{
				upMessage(peer4, open(65000, bgp.AddPath(bgp.AddPathReceive, bgp.IPv4Unicast)), open(64500, bgp.AddPath(bgp.AddPathSend, bgp.IPv4Unicast))),
				monitoring(peer4, update(t, withPaths, nlri("203.0.113.0/24", 70_000))),
				monitoring(with(peer4, FlagAdjRIBOut), update(t, plain, route)),
				monitoring(with(peer4, FlagAdjRIBOut|FlagPostPolicy), update(t, plain, route)),
				downMessage(peer4),
			},
			want: []string{"0 " + p4 + " peer_up", "0 " + p4 + " routes +203.0.113.0/24#70000 by 64500 70000",
				"0 " + p4 + "/adj-rib-out-pre peer_up", "0 " + p4 + "/adj-rib-out-pre routes +203.0.113.0/24 by 64500 70000",
				"0 " + p4 + "/adj-rib-out-post peer_up", "0 " + p4 + "/adj-rib-out-post routes +203.0.113.0/24 by 64500 70000",
				"0 " + p4 + " peer_down", "0 " + p4 + "/adj-rib-out-pre peer_down", "0 " + p4 + "/adj-rib-out-post peer_down"},
		},
		"Loc-RIB": {
			messages: []*Message{
				// Only one direction is claimed, by nobody to nobody.
				upMessage(locRIB, open(65000, bgp.AddPath(bgp.AddPathSend, bgp.IPv4Unicast)), open(65000), TLV{Type: TLVTableName, Value: []byte("global")}),
				monitoring(with(locRIB, FlagFiltered), update(t, withPaths, nlri("203.0.113.0/24", 1))),
				{Version: 3, Type: TypePeerDown, Peer: locRIB, PeerDown: PeerDown{Reason: DownLocalTLV}, TLVs: []TLV{{Type: TLVTableName, Value: []byte("global")}}},
			},
			want: []string{"0 " + own + " peer_up", "0 " + own + " routes +203.0.113.0/24#1 by 64500 70000", "0 " + own + " peer_down"},
		},
		"Peer Up repeated, then another session": {
			messages: []*Message{
				upMessage(peer4, open(65000), open(64500)),
				upMessage(with(peer4, FlagPostPolicy), open(65000), open(64500)),
				upMessage(peer4, open(65000), open(64500, both)),
			},
			want: []string{"0 " + p4 + " peer_up", "0 " + p4 + "/adj-rib-in-post peer_up",
				"0 " + p4 + " peer_down", "0 " + p4 + "/adj-rib-in-post peer_down", "0 " + p4 + " peer_up"},
		},
		"termination": {
			messages: []*Message{
				upMessage(peer6, open(65000), open(64500)),
				upMessage(peer4, open(65000), open(64500)),
				upMessage(locRIB, open(65000), open(65000)),
				termination,
			},
			want: []string{"0 " + p6 + " peer_up", "0 " + p4 + " peer_up", "0 " + own + " peer_up",
				"0 " + own + " peer_down", "0 " + p4 + " peer_down", "0 " + p6 + " peer_down"},
		},
		"joined in the middle": {
			messages: []*Message{
				// Without identifiers this reads as two default routes and more.
				monitoring(peer4, update(t, withPaths, nlri("203.0.113.0/24", 1), nlri("203.0.112.0/24", 2))),
				termination,
			},
			want:    []string{"0 " + p4 + " routes +203.0.113.0/24#1 +203.0.112.0/24#2 by 64500 70000", "0 " + p4 + " peer_down"},
			skipped: map[string]uint64{"peer_up_not_seen": 1},
		},
		"Peer Up after routes": {
			messages: []*Message{
				monitoring(peer4, update(t, plain, route)),
				upMessage(peer4, open(65000), open(64500)),
			},
			want:    []string{"0 " + p4 + " routes +203.0.113.0/24 by 64500 70000", "0 " + p4 + " peer_down", "0 " + p4 + " peer_up"},
			skipped: map[string]uint64{"peer_up_not_seen": 1},
		},
		"VPN": {
			messages: []*Message{monitoring(vrf(peer4, 0x0000_fde8_0000_0007), update(t, plain, route)), downMessage(peer4)},
			skipped:  map[string]uint64{"vrf_peer": 1, "peer_down_without_peer_up": 1},
		},
		"VPN wanted": {
			vrfs: true,
			messages: []*Message{
				upMessage(vrf(peer4, 0x0000_fde8_0000_0007), open(65000), open(64500)),
				upMessage(peer4, open(65000), open(64500)),
				downMessage(vrf(peer4, 0x0000_fde8_0000_0007)),
			},
			want: []string{"0 r/65000:7/AS64500/198.51.100.1 peer_up", "0 " + p4 + " peer_up", "0 r/65000:7/AS64500/198.51.100.1 peer_down"},
		},
		"version 4": {
			messages: []*Message{
				{Version: 4, Type: TypeRouteMonitoring, Peer: peer4, Capabilities: []bgp.Capability{both},
					BGP: update(t, withPaths, nlri("203.0.113.0/24", 99_999)), TLVs: []TLV{{Type: 5, Value: []byte("global")}}},
				{Version: 4, Type: TypeRouteMonitoring, Peer: peer4, TLVs: []TLV{{Type: 5, Value: []byte("global")}}},
				{Version: 4, Type: TypeStatistics, Peer: peer4, Rest: []byte{0, 1}},
			},
			want:    []string{"0 " + p4 + " routes +203.0.113.0/24#99999 by 64500 70000"},
			skipped: map[string]uint64{"peer_up_not_seen": 1, "v4_without_bgp_message": 1, "v4_statistics": 1},
		},
		"not understood": {
			messages: []*Message{
				{Version: 3, Type: 200, Rest: []byte("x")},
				{Version: 3, Type: TypeInitiation, TLVs: []TLV{{Type: TLVSysName, Value: []byte("r2")}, {Type: 99}}},
				{Version: 3, Type: TypeRouteMirroring, Peer: peer4, TLVs: []TLV{{Type: TLVBGPMessage, Value: update(t, plain, route)}, {Type: TLVInformation, Value: []byte{0, 1}}}},
				monitoring(PeerHeader{Type: 9, Addr: peer4.Addr, ID: peer4.ID}, update(t, plain, route)),
			},
			skipped: map[string]uint64{"type_200": 1, "tlv": 1, "mirrored_messages_lost": 1, "peer_type": 1},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := NewSession("r", tt.vrfs)
			var got []string
			for _, m := range tt.messages {
				it, err := s.Message(encode(t, m), received)
				if err != nil {
					t.Fatal(err)
				}
				if err := s.Emit(it, func(u *ingest.Update) error { got = append(got, line(u)); return nil }); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if diff := cmp.Diff(tt.skipped, s.Counts().Skipped, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("skipped: -want +got\n%s", diff)
			}
			if s.Counts().Malformed != nil {
				t.Errorf("malformed: %v", s.Counts().Malformed)
			}
		})
	}
}

// A router may show without path identifiers what it says came with them, in one view or in all; once that is
// known, it decides how to read what can be read both ways.
func TestMissingPathIdentifiers(t *testing.T) {
	both := bgp.AddPath(bgp.AddPathBoth, bgp.IPv4Unicast)
	withPaths := bgp.Options{AddPath: bgp.Families(bgp.IPv4Unicast)}
	two := []bgp.NLRI{nlri("203.0.112.0/24", 0), nlri("203.0.113.0/24", 0)} // 415957104 is 18 cb0070
	post := with(peer4, FlagPostPolicy)
	s := NewSession("r", false)
	var got []string
	for _, m := range []*Message{
		upMessage(peer4, open(65000, both), open(64500, both)),
		monitoring(post, update(t, bgp.Options{}, two...)),
		monitoring(post, update(t, bgp.Options{}, two[1])),
		monitoring(post, update(t, bgp.Options{}, two...)),
		monitoring(peer4, update(t, withPaths, nlri("203.0.113.0/24", 70_000))),
		monitoring(post, update(t, withPaths, nlri("10.20.0.0/24", 1))), // without: 0.0.0.0/0 three times, and more
		monitoring(post, update(t, withPaths, nlri("203.0.113.0/24", 70_000))),
	} {
		it, err := s.Message(encode(t, m), received)
		if err != nil {
			t.Fatal(err)
		}
		if m.Type == TypeRouteMonitoring {
			got = append(got, fmt.Sprint(it.BGP.Announced, it.AddPath))
		}
	}
	want := []string{"[{203.0.113.0/24 415957104}] true", "[{203.0.113.0/24 0}] false", "[{203.0.112.0/24 0} {203.0.113.0/24 0}] false",
		"[{203.0.113.0/24 70000}] true", "[{10.20.0.0/24 1}] true", "[{203.0.113.0/24 70000}] true"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if diff := cmp.Diff(map[string]uint64{"path_identifiers": 2}, s.Counts().Malformed); diff != "" {
		t.Errorf("malformed: -want +got\n%s", diff)
	}
}

func vrf(h PeerHeader, distinguisher uint64) PeerHeader {
	h.Type, h.Distinguisher = RDInstance, distinguisher
	return h
}

func TestSessionEnd(t *testing.T) {
	s := NewSession("", false)
	for _, m := range []*Message{
		{Version: 3, Type: TypeInitiation, TLVs: []TLV{{Type: TLVSysName, Value: []byte("core\xff1")}, {Type: TLVSysDescr, Value: []byte("a router")}}},
		upMessage(peer4, open(65000), open(64500)),
		upMessage(locRIB, open(65000), open(65000), TLV{Type: TLVTableName, Value: []byte("global")}),
	} {
		if _, err := s.Message(encode(t, m), received); err != nil {
			t.Fatal(err)
		}
	}
	if name, descr := s.Name(); name != "core\uFFFD1" || descr != "a router" {
		t.Errorf("name %q, description %q", name, descr)
	}
	if s.Peers() != 2 || s.Table(&locRIB) != "global" || s.Table(&peer4) != "" {
		t.Errorf("%d peers, table %q", s.Peers(), s.Table(&locRIB))
	}
	it := s.End(received + 5e6)
	var got []string
	if err := s.Emit(it, func(u *ingest.Update) error { got = append(got, line(u)); return nil }); err != nil {
		t.Fatal(err)
	}
	want := []string{"5 core\uFFFD1/AS65000/192.0.2.1/loc-rib peer_down", "5 core\uFFFD1/AS64500/198.51.100.1 peer_down"}
	if diff := cmp.Diff(want, got); diff != "" || s.Peers() != 0 {
		t.Errorf("%d peers are left; -want +got\n%s", s.Peers(), diff)
	}
}

// TestDamage has a message for each way to be wrong; after each the session goes on.
func TestDamage(t *testing.T) {
	good := encode(t, monitoring(peer4, update(t, bgp.Options{}, nlri("203.0.113.0/24", 0))))
	up := encode(t, upMessage(peer4, open(65000), open(64500)))
	stats := encode(t, &Message{Version: 3, Type: TypeStatistics, Peer: peer4, Statistics: []Statistic{{Type: 7, Value: 1}}})
	v4 := encode(t, &Message{Version: 4, Type: TypeRouteMonitoring, Peer: peer4, BGP: good[HeaderLength+PeerHeaderLength:]})
	change := func(b []byte, f func([]byte) []byte) []byte {
		b = f(append([]byte(nil), b...))
		b[1], b[2], b[3], b[4] = byte(len(b)>>24), byte(len(b)>>16), byte(len(b)>>8), byte(len(b))
		return b
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:len(b)-n] } }
	const body = HeaderLength + PeerHeaderLength
	for name, tt := range map[string]struct {
		message []byte
		reason  string
	}{
		"version":                  {change(good, func(b []byte) []byte { b[0] = 5; return b }), "version"},
		"shorter than its length":  {good[:len(good)-1], "length"},
		"no per-peer header":       {change(good[:20], cut(0)), "length"},
		"an UPDATE cut short":      {change(good, cut(1)), "message_length"},
		"no marker":                {change(good, func(b []byte) []byte { b[body] = 0; return b }), "marker"},
		"another message":          {change(good[:body], func(b []byte) []byte { return bgp.AppendKeepalive(b) }), "not_update"},
		"nothing":                  {change(good[:body], cut(0)), "message_length"},
		"Peer Up cut short":        {change(up, cut(1)), "open"},
		"Peer Up without OPENs":    {change(up[:body+20], cut(0)), "open"},
		"Peer Up of four octets":   {change(up[:body+4], cut(0)), "short"},
		"Peer Up with a rest":      {change(up, func(b []byte) []byte { return append(b, 0) }), "tlv"},
		"Peer Up with a KEEPALIVE": {change(up[:body+20], func(b []byte) []byte { return bgp.AppendKeepalive(bgp.AppendKeepalive(b)) }), "open"},
		"Peer Down without reason": {change(encode(t, downMessage(peer4)), cut(1)), "short"},
		"statistics cut short":     {change(stats, cut(1)), "tlv"},
		"no statistics":            {change(stats[:body+2], cut(0)), "short"},
		"version 4 cut short":      {change(v4, cut(1)), "tlv"},
		"version 4 twice": {change(v4, func(b []byte) []byte { return append(b, v4[body:]...) }),
			"several_bgp_messages"},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewSession("r", false)
			if it, err := s.Message(tt.message, received); err == nil {
				t.Fatalf("taken as %+v", it.Message)
			}
			if diff := cmp.Diff(map[string]uint64{tt.reason: 1}, s.Counts().Malformed); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if it, err := s.Message(good, received); err != nil || it.BGP == nil {
				t.Errorf("after it: %v", err)
			}
		})
	}
}

// A malformed announcement is a withdrawal (RFC 7606), here as in any other source.
func TestTreatAsWithdraw(t *testing.T) {
	message := update(t, bgp.Options{}, nlri("203.0.113.0/24", 0))
	at := strings.Index(string(message), "\x40\x01\x01") // ORIGIN
	message[at+3] = 9
	s := NewSession("r", false)
	it, err := s.Message(encode(t, monitoring(peer4, message)), received)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := s.Emit(it, func(u *ingest.Update) error { got = append(got, line(u)); return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"0 r/AS64500/198.51.100.1 routes -203.0.113.0/24"}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if s.Counts().Malformed["origin"] != 1 {
		t.Errorf("malformed: %v", s.Counts().Malformed)
	}
}

func TestNotification(t *testing.T) {
	data := bgp.AppendNotification(nil, bgp.Notification{Code: 6, Subcode: 2})
	m, err := new(Decoder).Decode(encode(t, &Message{Version: 3, Type: TypePeerDown, Peer: peer4, PeerDown: PeerDown{DownRemoteNotification, data}}))
	if err != nil {
		t.Fatal(err)
	}
	if n, err := m.PeerDown.Notification(); err != nil || n.Code != 6 || n.Subcode != 2 {
		t.Errorf("%+v, %v", n, err)
	}
	for _, p := range []PeerDown{{DownLocal, data}, {DownRemoteNotification, data[:5]}, {DownRemoteNotification, bgp.AppendKeepalive(nil)}} {
		if n, err := p.Notification(); err == nil {
			t.Errorf("%+v has %+v", p, n)
		}
	}
}

// The largest UPDATE seen decides how much scratch there is; afterwards nothing is allocated.
func TestRouteMonitoringDoesNotAllocate(t *testing.T) {
	s, up, message := typical(t)
	h := func(*ingest.Update) error { return nil }
	if _, err := s.Message(up, received); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(1000, func() {
		it, err := s.Message(message, received)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Emit(it, h); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRouteMonitoring(b *testing.B) {
	s, up, message := typical(b)
	h := func(*ingest.Update) error { return nil }
	if _, err := s.Message(up, received); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for b.Loop() {
		it, err := s.Message(message, received)
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Emit(it, h); err != nil {
			b.Fatal(err)
		}
	}
}

// typical is a Route Monitoring message with an UPDATE as the global table has them, of 109 octets.
func typical(t testing.TB) (s *Session, up, message []byte) {
	u := bgp.Update{Announced: []bgp.NLRI{nlri("198.51.100.0/24", 0), nlri("203.0.113.0/24", 0), nlri("10.20.128.0/17", 0)}, Attrs: bgp.Attributes{
		Has:         bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop | bgp.HasCommunities | bgp.HasMED,
		ASPath:      bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{64500, 3356, 174, 4200000001, 65010, 64511}}},
		NextHop:     router,
		Communities: []uint32{64500<<16 | 1, 64500<<16 | 2, 64500<<16 | 3, 64500<<16 | 4, 64500<<16 | 5, 64500<<16 | 6},
	}}
	b, err := bgp.AppendUpdate(nil, &u, bgp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != 109 {
		t.Fatalf("%d octets", len(b))
	}
	return NewSession("r", false), encode(t, upMessage(peer4, open(65000), open(64500))), encode(t, monitoring(peer4, b))
}

// The ends of unicast tables are handed on to who asks for them, in their place and only they.
func TestEndOfRIB(t *testing.T) {
	var got []string
	s := NewSession("r", false)
	s.TellEndOfRIB()
	for _, m := range []*Message{
		upMessage(peer4, open(65000), open(64500)),
		monitoring(peer4, update(t, bgp.Options{}, nlri("203.0.113.0/24", 0))),
		monitoring(peer4, bgp.AppendEndOfRIB(nil, bgp.IPv4Unicast)),
		monitoring(peer4, bgp.AppendEndOfRIB(nil, bgp.IPv6Multicast)),
		monitoring(peer4, bgp.AppendEndOfRIB(nil, bgp.IPv6Unicast)),
	} {
		it, err := s.Message(encode(t, m), received)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Emit(it, func(u *ingest.Update) error {
			got = append(got, fmt.Sprint(u.Kind, " ", u.EndOfRIB, " ", len(u.Announced)+len(u.Withdrawn), " ", u.Peer.Addr == peer4.Addr))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"peer_up afi0/safi0 0 true", "routes afi0/safi0 1 true", "routes ipv4/unicast 0 true", "routes ipv6/unicast 0 true"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
