package bgp

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var compareNetip = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
var comparePrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func genAddr4(t *rapid.T, label string) netip.Addr {
	return netip.AddrFrom4([4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, label)))
}

func genAddr6(t *rapid.T, label string) netip.Addr {
	return netip.AddrFrom16([16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label)))
}

func genRoutes(t *rapid.T, f Family, addPath bool, label string) []NLRI {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) NLRI {
		addr := genAddr4(t, "v4")
		if f.AFI() == 2 {
			addr = genAddr6(t, "v6")
		}
		n := NLRI{Prefix: netip.PrefixFrom(addr, rapid.IntRange(0, addr.BitLen()).Draw(t, "bits")).Masked()}
		if addPath {
			n.PathID = rapid.Uint32().Draw(t, "id")
		}
		return n
	}), 0, 20).Draw(t, label)
}

// genPath makes paths that every encoding can carry: no AS 0, and confederation segments, whose AS
// numbers AS4_PATH does not carry, only with two-octet numbers and before everything else.
func genPath(t *rapid.T) ASPath {
	asn := rapid.OneOf(rapid.Uint32Range(1, 0xffff), rapid.Uint32Min(1))
	var p ASPath
	if rapid.Bool().Draw(t, "confederation") {
		p = append(p, Segment{rapid.SampledFrom([]SegmentType{ASConfedSequence, ASConfedSet}).Draw(t, "type"),
			rapid.SliceOfN(rapid.Uint32Range(1, 0xffff), 1, 4).Draw(t, "confederation")})
	}
	n := rapid.IntRange(0, 4).Draw(t, "segments")
	for i := range n {
		typ := ASSequence
		if i%2 == 1 { // sequences never meet, so that a merge cannot join them
			typ = ASSet
		}
		p = append(p, Segment{typ, rapid.SliceOfN(asn, 1, 8).Draw(t, "members")})
	}
	return p
}

// genAttributes sets each attribute with even chance; those that announcing needs always.
func genAttributes(t *rapid.T, hop netip.Addr) Attributes {
	a := Attributes{
		Has:     HasOrigin | HasASPath | HasNextHop,
		Origin:  rapid.Uint8Range(0, 2).Draw(t, "origin"),
		ASPath:  genPath(t),
		NextHop: hop,
	}
	with := func(bit Attr, set func()) {
		if rapid.Bool().Draw(t, "has") {
			a.Has |= bit
			set()
		}
	}
	u32 := rapid.Uint32()
	with(HasMED, func() { a.MED = u32.Draw(t, "med") })
	with(HasLocalPref, func() { a.LocalPref = u32.Draw(t, "local pref") })
	with(HasAtomicAggregate, func() {})
	with(HasAggregator, func() {
		a.Aggregator = Aggregator{rapid.Uint32Min(1).Draw(t, "aggregator"), genAddr4(t, "aggregator")}
	})
	with(HasCommunities, func() { a.Communities = rapid.SliceOfN(u32, 1, 100).Draw(t, "communities") })
	with(HasExtCommunities, func() { a.ExtCommunities = rapid.SliceOfN(rapid.Uint64(), 1, 10).Draw(t, "ext") })
	with(HasLargeCommunities, func() {
		a.LargeCommunities = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) LargeCommunity {
			return LargeCommunity{u32.Draw(t, "g"), u32.Draw(t, "1"), u32.Draw(t, "2")}
		}), 1, 10).Draw(t, "large")
	})
	with(HasOriginatorID, func() { a.OriginatorID = genAddr4(t, "originator") })
	with(HasClusterList, func() { a.ClusterList = rapid.SliceOfN(u32, 1, 5).Draw(t, "clusters") })
	with(HasOTC, func() { a.OTC = u32.Draw(t, "otc") })
	with(HasAIGP, func() { a.AIGP = rapid.Uint64().Draw(t, "aigp") })
	a.Unknown = rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) RawAttribute {
		value := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "value")
		flags := rapid.SampledFrom([]uint8{flagOptional, flagOptional | flagTransitive, flagOptional | flagTransitive | flagPartial}).Draw(t, "flags")
		if len(value) > 255 {
			flags |= flagExtended
		}
		return RawAttribute{flags, rapid.Uint8Range(36, 255).Draw(t, "type"), value}
	}), 0, 3, func(r RawAttribute) uint8 { return r.Type }).Draw(t, "unknown")
	return a
}

// decodeAll puts the messages in b together again.
func decodeAll(t *rapid.T, b []byte, o Options) (all Update, messages int) {
	var d Decoder
	for len(b) > 0 {
		typ, body, rest, err := Split(b)
		if err != nil || typ != TypeUpdate {
			t.Fatalf("Split: %v, %v", typ, err)
		}
		if n := len(body) + HeaderLength; n > MaxLength && !o.ExtendedMessage {
			t.Fatalf("a message of %d octets", n)
		}
		u, err := d.Update(body, o)
		if err != nil {
			t.Fatalf("Update: %v", err)
		}
		if u.Faults != 0 {
			t.Fatalf("faults: %v", u.Faults)
		}
		all.Withdrawn = append(all.Withdrawn, u.Withdrawn...)
		all.MulticastWithdrawn = append(all.MulticastWithdrawn, u.MulticastWithdrawn...)
		if len(u.Announced)+len(u.MulticastAnnounced) > 0 {
			all.Announced = append(all.Announced, u.Announced...)
			all.MulticastAnnounced = append(all.MulticastAnnounced, u.MulticastAnnounced...)
			all.Attrs = u.Attrs.Clone()
		}
		b = rest
		messages++
	}
	return all, messages
}

// GenUpdate makes an update of one family, and the options of a session that carries it.
func GenUpdate(t *rapid.T) (Update, Options) {
	o := Options{
		TwoOctetAS:      rapid.Bool().Draw(t, "two octets"),
		AddPath:         FamilySet(rapid.Uint8Range(0, uint8(AllFamilies)).Draw(t, "add-path")),
		ExtendedMessage: rapid.Bool().Draw(t, "extended"),
	}
	f := rapid.SampledFrom([]Family{IPv4Unicast, IPv6Unicast, IPv4Multicast, IPv6Multicast}).Draw(t, "family")
	hop := genAddr4(t, "next hop")
	var local netip.Addr
	if f.AFI() == 2 || rapid.Bool().Draw(t, "extended next hop") {
		hop = genAddr6(t, "next hop")
		if rapid.Bool().Draw(t, "link-local") {
			local = genAddr6(t, "link-local")
		}
	}
	withdrawn, announced := genRoutes(t, f, o.AddPath.Has(f), "withdrawn"), genRoutes(t, f, o.AddPath.Has(f), "announced")
	var u Update
	if f.SAFI() == 1 {
		u.Withdrawn, u.Announced = withdrawn, announced
	} else {
		u.MulticastWithdrawn, u.MulticastAnnounced = withdrawn, announced
	}
	if len(announced) > 0 {
		u.Attrs = genAttributes(t, hop)
		u.Attrs.LinkLocal = local
	}
	return u, o
}

func TestUpdateRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want, o := GenUpdate(t)
		b, err := AppendUpdate([]byte("before"), &want, o)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, []byte("before")) {
			t.Fatal("what was in the buffer is gone")
		}
		got, _ := decodeAll(t, b[len("before"):], o)
		if diff := cmp.Diff(want, got, compareNetip, comparePrefix, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("-want +got\n%s", diff)
		}
	})
}

func TestUpdateOfManyRoutesBecomesSeveralMessages(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 5000).Draw(t, "routes")
		want := Update{Attrs: Attributes{Has: HasOrigin | HasASPath | HasNextHop, ASPath: ASPath{{ASSequence, []uint32{1, 2}}},
			NextHop: netip.MustParseAddr("2001:db8::1")}}
		for i := range n {
			v4 := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i)}), 24)
			v6 := netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 8), byte(i)}), 48)
			want.Withdrawn = append(want.Withdrawn, NLRI{Prefix: v4}, NLRI{Prefix: v6})
			want.Announced = append(want.Announced, NLRI{Prefix: v6}, NLRI{Prefix: v4})
		}
		b, err := AppendUpdate(nil, &want, Options{})
		if err != nil {
			t.Fatal(err)
		}
		got, messages := decodeAll(t, b, Options{})
		if least := len(b) / MaxLength; messages < least || messages > least+4 {
			t.Errorf("%d octets in %d messages", len(b), messages)
		}
		byPrefix := func(a, b NLRI) int { return a.Prefix.Compare(b.Prefix) }
		for _, l := range [][]NLRI{want.Withdrawn, want.Announced, got.Withdrawn, got.Announced} {
			slices.SortFunc(l, byPrefix)
		}
		if !slices.Equal(got.Withdrawn, want.Withdrawn) || !slices.Equal(got.Announced, want.Announced) {
			t.Error("routes differ")
		}
	})
}

func TestRIBAttributesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hop, f := genAddr4(t, "hop"), IPv4Unicast
		if rapid.Bool().Draw(t, "IPv6") {
			hop, f = genAddr6(t, "hop"), IPv6Unicast
		}
		want := genAttributes(t, hop)
		route := NLRI{netip.PrefixFrom(hop, 16).Masked(), 7}
		b, err := AppendRIBAttributes(nil, &want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := new(Decoder).RIBEntry(f, route, b, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.Attrs, compareNetip, comparePrefix, cmpopts.EquateEmpty()); diff != "" || !slices.Equal(got.Announced, []NLRI{route}) {
			t.Fatalf("announced %v, attributes -want +got\n%s", got.Announced, diff)
		}
	})
}

func TestEncodingRefuses(t *testing.T) {
	v4, v6 := []NLRI{{Prefix: netip.MustParsePrefix("192.0.2.0/24")}}, []NLRI{{Prefix: netip.MustParsePrefix("2001:db8::/32")}}
	good := Attributes{Has: HasOrigin | HasASPath | HasNextHop, NextHop: netip.MustParseAddr("192.0.2.1")}
	change := func(f func(*Attributes)) Attributes { a := good; f(&a); return a }
	for name, u := range map[string]Update{
		"no attributes":               {Announced: v4},
		"no next hop":                 {Announced: v4, Attrs: change(func(a *Attributes) { a.Has &^= HasNextHop })},
		"no path":                     {Announced: v4, Attrs: change(func(a *Attributes) { a.Has &^= HasASPath })},
		"an IPv4 next hop for IPv6":   {Announced: v6, Attrs: good},
		"not a prefix":                {Withdrawn: []NLRI{{}}},
		"an empty segment":            {Announced: v4, Attrs: change(func(a *Attributes) { a.ASPath = ASPath{{Type: ASSet}} })},
		"a set of 256":                {Announced: v4, Attrs: change(func(a *Attributes) { a.ASPath = ASPath{{ASSet, make([]uint32, 256)}} })},
		"an unknown segment type":     {Announced: v4, Attrs: change(func(a *Attributes) { a.ASPath = ASPath{{9, []uint32{1}}} })},
		"attributes beyond a message": {Announced: v4, Attrs: change(func(a *Attributes) { a.Has |= HasCommunities; a.Communities = make([]uint32, 1100) })},
		"an attribute beyond 64 KiB":  {Announced: v4, Attrs: change(func(a *Attributes) { a.Has |= HasCommunities; a.Communities = make([]uint32, 20000) })},
		"an IPv6 aggregator": {Announced: v4, Attrs: change(func(a *Attributes) {
			a.Has |= HasAggregator
			a.Aggregator = Aggregator{1, netip.MustParseAddr("::1")}
		})},
	} {
		if b, err := AppendUpdate([]byte("x"), &u, Options{}); err == nil || string(b) != "x" {
			t.Errorf("%s: %x, %v; want an error and the buffer unchanged", name, b, err)
		}
	}
}

func TestOpenRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := &Open{
			ASN:      rapid.Uint32().Draw(t, "asn"),
			HoldTime: rapid.Uint16().Draw(t, "hold"),
			ID:       genAddr4(t, "id"),
			Capabilities: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Capability {
				return Capability{rapid.Uint8Min(70).Draw(t, "code"), rapid.SliceOfN(rapid.Byte(), 0, 253).Draw(t, "value")}
			}), 0, 10).Draw(t, "capabilities"),
		}
		want.Capabilities = append(want.Capabilities, FourOctetAS(want.ASN), Multiprotocol(IPv6Unicast))
		b, err := AppendOpen(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		typ, body, rest, err := Split(b)
		if typ != TypeOpen || len(rest) > 0 || err != nil {
			t.Fatal(typ, rest, err)
		}
		got, err := ParseOpen(body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, compareNetip, cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("-want +got\n%s", diff)
		}
	})
}

func TestNegotiate(t *testing.T) {
	modern := func(direction uint8) *Open {
		return &Open{Capabilities: []Capability{FourOctetAS(1), AddPath(direction, IPv4Unicast), {Code: CapExtendedMessage}}}
	}
	for _, row := range []struct {
		name             string
		sender, receiver *Open
		want             Options
	}{
		{"old speakers", &Open{}, &Open{}, Options{TwoOctetAS: true}},
		{"one old speaker", modern(AddPathBoth), &Open{}, Options{TwoOctetAS: true}},
		{"both directions", modern(AddPathBoth), modern(AddPathBoth), Options{AddPath: Families(IPv4Unicast), ExtendedMessage: true}},
		{"one direction", modern(AddPathSend), modern(AddPathReceive), Options{AddPath: Families(IPv4Unicast), ExtendedMessage: true}},
		{"the wrong direction", modern(AddPathReceive), modern(AddPathSend), Options{ExtendedMessage: true}},
	} {
		if got := Negotiate(row.sender, row.receiver); got != row.want {
			t.Errorf("%s: %+v, want %+v", row.name, got, row.want)
		}
	}
}

func TestSmallMessages(t *testing.T) {
	var b []byte
	b = AppendKeepalive(b)
	b = AppendRouteRefresh(b, IPv6Unicast, 1)
	b = AppendNotification(b, Notification{6, 4, []byte("bye")})
	b = AppendEndOfRIB(b, IPv4Unicast)
	b = AppendEndOfRIB(b, IPv6Multicast)
	b = AppendEndOfRIB(b, FamilyOf(25, 70))

	next := func(want Type) []byte {
		typ, body, rest, err := Split(b)
		if err != nil || typ != want {
			t.Fatalf("%v, %v; want %v", typ, err, want)
		}
		b = rest
		return body
	}
	if body := next(TypeKeepalive); len(body) != 0 {
		t.Errorf("KEEPALIVE: %x", body)
	}
	if f, subtype, err := ParseRouteRefresh(next(TypeRouteRefresh)); f != IPv6Unicast || subtype != 1 || err != nil {
		t.Errorf("ROUTE-REFRESH: %v %d %v", f, subtype, err)
	}
	if n, err := ParseNotification(next(TypeNotification)); n.Code != 6 || n.Subcode != 4 || string(n.Data) != "bye" || err != nil {
		t.Errorf("NOTIFICATION: %+v %v", n, err)
	}
	var d Decoder
	for _, f := range []Family{IPv4Unicast, IPv6Multicast, FamilyOf(25, 70)} {
		if u, err := d.Update(next(TypeUpdate), Options{}); err != nil || u.EndOfRIB != f || u.Faults != 0 {
			t.Errorf("End-of-RIB of %v: %+v, %v", f, u, err)
		}
	}
}
