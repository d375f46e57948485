package bgp

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// body assembles the body of an UPDATE from hex.
func body(t testing.TB, withdrawn, attributes, nlri string) []byte {
	t.Helper()
	w, a := unhex(t, withdrawn), unhex(t, attributes)
	b := append(binary.BigEndian.AppendUint16(nil, uint16(len(w))), w...)
	b = append(binary.BigEndian.AppendUint16(b, uint16(len(a))), a...)
	return append(b, unhex(t, nlri)...)
}

// Attributes in hex, for four-octet sessions.
const (
	origin  = "400101 00"
	path    = "400206 0201 0000fbf4" // 64500
	hop     = "400304 c0000201"      // 192.0.2.1
	needed  = origin + path + hop
	route   = "18 c63364" // 198.51.100.0/24
	reach6  = "800e 1a 0002 01 10 20010db8000000000000000000000001 00 20 20010db8"
	unreach = "800f 08 0002 01 20 20010db8"
)

func TestErrorHandling(t *testing.T) {
	const (
		announced = "announced"
		withdrawn = "withdrawn"
		reset     = "reset"
	)
	// What each fault calls for, by RFC 7606 §2; and which faults other tests have.
	treatments := map[string][]Treatment{announced: {Ignore, DiscardAttribute}, withdrawn: {TreatAsWithdraw}, reset: {ResetSession}}
	met := map[Fault]bool{
		FaultAS4Path: true, FaultAS4Aggregator: true, // TestAS4Attributes
		FaultMarker: true, FaultMessageLength: true, FaultMessageType: true, FaultListLength: true, FaultNLRI: true, FaultNoReachableNLRI: true, // TestMalformedMessages
		FaultOpen: true, // TestMalformedOpens
	}
	for _, row := range []struct {
		name       string
		attributes string
		want       string
		fault      Fault // reported beside the routes, or the error's
	}{
		{"nothing wrong", needed, announced, numFaults},
		{"any order", hop + path + origin, announced, numFaults},
		{"extended length", "5001 0001 00" + path + hop, announced, numFaults},
		{"partial bit", needed + "e008 04 fbf40001", announced, numFaults},
		{"unknown optional", needed + "c0ff 02 abcd", announced, numFaults},

		{"origin length", "400102 0000" + path + hop, withdrawn, FaultOrigin},
		{"origin value", "400101 03" + path + hop, withdrawn, FaultOrigin},
		{"origin missing", path + hop, withdrawn, FaultMissingAttribute},
		{"path missing", origin + hop, withdrawn, FaultMissingAttribute},
		{"next hop missing", origin + path, withdrawn, FaultMissingAttribute},
		{"next hop length", origin + path + "400303 c00002", withdrawn, FaultNextHop},
		{"empty path", origin + "400200" + hop, announced, numFaults},
		{"segment type", origin + "400206 0501 0000fbf4" + hop, withdrawn, FaultASPath},
		{"segment type zero", origin + "400206 0001 0000fbf4" + hop, withdrawn, FaultASPath},
		{"segment overruns", origin + "400206 0202 0000fbf4" + hop, withdrawn, FaultASPath},
		{"segment underruns", origin + "400207 0201 0000fbf4 02" + hop, withdrawn, FaultASPath},
		{"segment of none", origin + "400208 0201 0000fbf4 0200" + hop, withdrawn, FaultASPath},
		{"AS zero in the path", origin + "400206 0201 00000000" + hop, withdrawn, FaultASPathASZero},
		{"AS set", origin + "400206 0101 0000fbf4" + hop, announced, numFaults},
		{"MED length", needed + "800403 000000", withdrawn, FaultMED},
		{"local preference length", needed + "400505 0000000000", withdrawn, FaultLocalPref},
		{"communities length", needed + "c00803 000000", withdrawn, FaultCommunities},
		{"no communities", needed + "c00800", withdrawn, FaultCommunities},
		{"extended communities length", needed + "c01004 00000000", withdrawn, FaultExtCommunities},
		{"large communities length", needed + "c02008 0000000000000000", withdrawn, FaultLargeCommunities},
		{"originator length", needed + "800903 000000", withdrawn, FaultOriginatorID},
		{"cluster list length", needed + "800a02 0000", withdrawn, FaultClusterList},
		{"OTC length", needed + "c02302 0000", withdrawn, FaultOTC},
		{"well-known attribute marked optional", "c00101 00" + path + hop, withdrawn, FaultAttributeFlags},
		{"communities not transitive", needed + "800804 fbf40001", withdrawn, FaultAttributeFlags},
		{"attribute overruns the list", needed + "c008ff fbf40001", withdrawn, FaultAttributeLength},
		{"attribute header cut short", needed + "c008", withdrawn, FaultAttributeLength},
		{"extended length cut short", needed + "d00800", withdrawn, FaultAttributeLength},

		{"atomic aggregate length", needed + "400601 00", announced, FaultAtomicAggregate},
		{"atomic aggregate flags", needed + "c00600", announced, FaultAtomicAggregate},
		{"aggregator length", needed + "c00706 fbf4c0000201", announced, FaultAggregator},
		{"aggregator flags", needed + "400708 0000fbf4c0000201", announced, FaultAggregator},
		{"aggregator AS zero", needed + "c00708 00000000c0000201", announced, FaultAggregatorASZero},
		{"AIGP length", needed + "801a0b 01 000a 0000000000000001", announced, FaultAIGP},
		{"duplicate attribute", needed + "400101 01", announced, FaultDuplicateAttribute},
		{"duplicate unknown attribute", needed + "c0ff00 c0ff00", announced, FaultDuplicateAttribute},

		{"two MP_REACH_NLRI", needed + reach6 + reach6, reset, FaultDuplicateMP},
		{"two MP_UNREACH_NLRI", needed + unreach + unreach, reset, FaultDuplicateMP},
		{"MP_REACH_NLRI next hop length", needed + "800e 08 0002 01 03 000000 00", reset, FaultMPReach},
		{"MP_REACH_NLRI next hop overruns", needed + "800e 05 0002 01 10 00", reset, FaultMPReach},
		{"MP_REACH_NLRI cut short", needed + "800e 04 0002 01 00", reset, FaultMPReach},
		{"MP_REACH_NLRI prefix length", needed + "800e 17 0002 01 10 20010db8000000000000000000000001 00 81 20", reset, FaultMPReach},
		{"MP_UNREACH_NLRI cut short", needed + "800f 02 0002", reset, FaultMPUnreach},
		{"MP_UNREACH_NLRI prefix overruns", needed + "800f 05 0002 01 20 20", reset, FaultMPUnreach},
		{"unknown well-known", needed + "40ff00", reset, FaultUnknownWellKnown},
		{"the strongest wins", "400101 03" + path + hop + "400601 00", withdrawn, FaultOrigin},
		{"another family", needed + "800e 0a 0019 46 04 c0000201 00 00", announced, FaultFamily},
	} {
		met[row.fault] = true
		t.Run(row.name, func(t *testing.T) {
			if row.fault != numFaults && !slices.Contains(treatments[row.want], row.fault.Treatment()) {
				t.Errorf("fault %v calls for treatment %d", row.fault, row.fault.Treatment())
			}
			u, err := new(Decoder).Update(body(t, "", row.attributes, route), Options{})
			if row.want == reset {
				e, ok := err.(*Error)
				if !ok || e.Fault != row.fault {
					t.Errorf("%v; want an error of fault %v", err, row.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := []NLRI{{Prefix: netip.MustParsePrefix("198.51.100.0/24")}}
			if row.want == announced && (!slices.Equal(u.Announced, want) || len(u.Withdrawn) > 0 || u.Demoted != 0) ||
				row.want == withdrawn && (!slices.Equal(u.Withdrawn, want) || len(u.Announced) > 0 || u.Demoted != 1) {
				t.Errorf("announced %v, withdrawn %v; want it %s", u.Announced, u.Withdrawn, row.want)
			}
			if row.fault == numFaults && u.Faults != 0 || row.fault != numFaults && !u.Faults.Has(row.fault) {
				t.Errorf("faults: %v; want %v", u.Faults, row.fault)
			}
		})
	}
	for f := range numFaults {
		if !met[f] {
			t.Errorf("no row has fault %v", f)
		}
	}
}

func TestMalformedOpens(t *testing.T) {
	const good = "04 fbf4 005a c0000201"
	for name, s := range map[string]string{
		"cut short":                     "04 fbf4 005a c00002",
		"another version":               "03 fbf4 005a c0000201 00",
		"parameters overrun":            good + "05 0200",
		"octets after parameters":       good + "00 0200",
		"a parameter cut short":         good + "01 02",
		"a parameter overruns":          good + "02 0205",
		"a capability cut short":        good + "03 0201 41",
		"a capability overruns":         good + "04 0202 4104",
		"long parameters overrun":       good + "ff ff 0009 02 0002 4100",
		"a long parameter is cut short": good + "ff ff 0002 02 00",
	} {
		_, err := ParseOpen(unhex(t, s))
		if e, ok := err.(*Error); !ok || e.Fault != FaultOpen || e.Fault.Treatment() != ResetSession {
			t.Errorf("%s: %v; want fault %v", name, err, FaultOpen)
		}
	}
	if o, err := ParseOpen(unhex(t, good+"00")); err != nil || o.ASN != 64500 {
		t.Errorf("nothing wrong: %+v, %v", o, err)
	}
}

func TestMalformedMessages(t *testing.T) {
	for _, row := range []struct {
		name  string
		body  []byte
		fault Fault
	}{
		{"too short", []byte{0, 0, 0}, FaultMessageLength},
		{"withdrawn routes overrun", unhex(t, "0005 0000"), FaultListLength},
		{"attributes overrun", unhex(t, "0000 0001"), FaultListLength},
		{"prefix length in NLRI", body(t, "", needed, "21 c0000201 00"), FaultNLRI},
		{"prefix overruns NLRI", body(t, "", needed, "18 c000"), FaultNLRI},
		{"prefix length in withdrawn routes", body(t, "21 c0000201 00", "", ""), FaultNLRI},
		{"prefix overruns withdrawn routes", body(t, "18 c000", "", ""), FaultNLRI},
		{"malformed attribute and no route to withdraw", body(t, "", "400101 03", ""), FaultNoReachableNLRI},
		{"malformed attribute beside MP_UNREACH_NLRI", body(t, "", "400101 03"+unreach, ""), FaultNoReachableNLRI},
	} {
		_, err := new(Decoder).Update(row.body, Options{})
		if e, ok := err.(*Error); !ok || e.Fault != row.fault {
			t.Errorf("%s: %v; want fault %v", row.name, err, row.fault)
		}
	}
	keepalive := AppendKeepalive(nil)
	change := func(at int, v byte) []byte { b := slices.Clone(keepalive); b[at] = v; return b }
	for _, row := range []struct {
		name    string
		message []byte
		fault   Fault
	}{
		{"short header", keepalive[:18], FaultMessageLength},
		{"marker", change(3, 0), FaultMarker},
		{"type", change(18, 9), FaultMessageType},
		{"length below the header", change(17, 18), FaultMessageLength},
		{"length beyond the input", change(17, 40), FaultMessageLength},
		{"KEEPALIVE with a body", append(change(17, 20), 0), FaultMessageLength},
		{"UPDATE too short", change(18, byte(TypeUpdate)), FaultMessageLength},
		{"OPEN too short", change(18, byte(TypeOpen)), FaultMessageLength},
	} {
		_, _, _, err := Split(row.message)
		if e, ok := err.(*Error); !ok || e.Fault != row.fault {
			t.Errorf("%s: %v; want fault %v", row.name, err, row.fault)
		}
	}
}

// TestMalformedRoutesOfEachKind sees that treat-as-withdraw reaches every list, and leaves what was
// read for an investigation.
func TestMalformedRoutesOfEachKind(t *testing.T) {
	multicast := strings.Replace(reach6, "0002 01", "0002 02", 1)
	for name, mp := range map[string]string{"unicast": reach6, "multicast": multicast} {
		u, err := new(Decoder).Update(body(t, route, "400101 07"+path+hop+mp, route), Options{})
		if err != nil {
			t.Fatal(err)
		}
		if len(u.Announced)+len(u.MulticastAnnounced) != 0 || len(u.Withdrawn)+len(u.MulticastWithdrawn) != 3 {
			t.Errorf("%s: %+v", name, u)
		}
		if asn, ok := u.Attrs.ASPath.Origin(); !ok || asn != 64500 {
			t.Errorf("%s: the path is lost: %v", name, u.Attrs.ASPath)
		}
		if len(u.RawAttributes) == 0 {
			t.Errorf("%s: no raw attributes", name)
		}
	}
}

func TestNextHops(t *testing.T) {
	v4, v6, local := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fe80::1")
	const hop6, hopLocal = "20010db8000000000000000000000001", "fe800000000000000000000000000001"
	for _, row := range []struct {
		name       string
		attributes string
		nlri       string
		classic    int
		hop, link  netip.Addr
		mpHop      netip.Addr
	}{
		{"NEXT_HOP", needed, route, 1, v4, netip.Addr{}, netip.Addr{}},
		{"MP_REACH_NLRI", origin + path + reach6, "", 0, v6, netip.Addr{}, v6},
		{"with a link-local address", origin + path + "800e 2a 0002 01 20" + hop6 + hopLocal + "00 20 20010db8", "", 0, v6, local, v6},
		{"RFC 8950", origin + path + "800e 19 0001 01 10" + hop6 + "00 18 c63364", "", 0, v6, netip.Addr{}, v6},
		{"IPv4 in MP_REACH_NLRI", origin + path + "800e 0d 0001 01 04 c0000201 00 18 c63364", "", 0, v4, netip.Addr{}, v4},
		{"both ways", needed + reach6, route, 1, v4, netip.Addr{}, v6},
	} {
		u, err := new(Decoder).Update(body(t, "", row.attributes, row.nlri), Options{})
		if err != nil {
			t.Errorf("%s: %v", row.name, err)
			continue
		}
		if u.Faults != 0 || u.Classic != row.classic || u.Attrs.NextHop != row.hop || u.Attrs.LinkLocal != row.link || u.MPNextHop != row.mpHop {
			t.Errorf("%s: faults %v, classic %d, next hop %v %v, of MP_REACH_NLRI %v", row.name, u.Faults, u.Classic, u.Attrs.NextHop, u.Attrs.LinkLocal, u.MPNextHop)
		}
	}
}

func TestAS4Merge(t *testing.T) {
	for _, row := range []struct {
		name             string
		old, as4, result string
	}{
		{"no AS4_PATH", "1 23456 3", "", "1 23456 3"},
		{"all of it", "23456 23456 3", "70001 70002 3", "70001 70002 3"},
		{"old speakers in front", "1 2 23456 4", "70003 4", "1 2 70003 4"},
		{"longer than AS_PATH", "1 2", "70001 2 3", "1 2"},
		{"a set counts once", "1 {2,23456} 3", "{2,70002} 3", "1 {2,70002} 3"},
		{"a set in front", "{1,2} 23456", "70002", "{1,2} 70002"},
		{"a confederation in front does not count", "(65001 65002) 23456 3", "70001 3", "(65001 65002) 70001 3"},
		{"a confederation next to what is kept", "1 (65001) 23456", "70002", "1 (65001) 70002"},
		{"nothing missing", "1 (65001) 2 23456", "70001 70002 3", "70001 70002 3"},
		{"a confederation behind is not kept", "1 2 (65001) 23456", "70002 3", "1 70002 3"},
		{"a confederation in AS4_PATH is dropped", "1 23456", "(65001) 70002", "1 70002"},
	} {
		t.Run(row.name, func(t *testing.T) {
			attributes := unhex(t, origin+hop)
			attributes = appendAttribute(attributes, flagTransitive, typeASPath, appendPath(nil, parsePath(t, row.old), true))
			if row.as4 != "" {
				attributes = appendAttribute(attributes, flagOptional|flagTransitive, typeAS4Path, appendPath(nil, parsePath(t, row.as4), false))
			}
			b := body(t, "", hex.EncodeToString(attributes), route)
			u, err := new(Decoder).Update(b, Options{TwoOctetAS: true})
			if err != nil {
				t.Fatal(err)
			}
			if got := u.Attrs.ASPath.String(); got != row.result || u.Faults != 0 {
				t.Errorf("got %q (faults %v), want %q", got, u.Faults, row.result)
			}
		})
	}
}

// parsePath reads a path in which confederation sequences are in parentheses.
func parsePath(t testing.TB, s string) (p ASPath) {
	for s != "" {
		open := strings.IndexByte(s, '(')
		if open < 0 {
			open = len(s)
		}
		part, err := ParseASPath(s[:open])
		if err != nil {
			t.Fatal(err)
		}
		p, s = append(p, part...), s[open:]
		if end := strings.IndexByte(s, ')'); end > 0 {
			if part, err = ParseASPath(s[1:end]); err != nil {
				t.Fatal(err)
			}
			p, s = append(p, Segment{ASConfedSequence, part[0].ASNs}), s[end+1:]
		}
	}
	return p
}

func TestAS4Attributes(t *testing.T) {
	const two = origin + hop + "400206 0202 0001 5ba0" // 1 23456
	const as4Path = "c01106 0201 00011170"             // 70000
	aggregator := func(asn, as4 string) string {
		s := "c00706" + asn + "c0000201"
		if as4 != "" {
			s += "c01208" + as4 + "c0000202"
		}
		return s
	}
	first, second := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for _, row := range []struct {
		name       string
		attributes string
		path       string
		aggregator Aggregator
		faults     Faults
	}{
		{"AS_TRANS is replaced", aggregator("5ba0", "00011170") + as4Path, "1 70000", Aggregator{70000, second}, 0},
		{"another aggregator makes both out of date", aggregator("0009", "00011170") + as4Path, "1 23456", Aggregator{9, first}, 0},
		{"an aggregator without AS4_AGGREGATOR", aggregator("5ba0", "") + as4Path, "1 70000", Aggregator{asTrans, first}, 0},
		{"AS4_AGGREGATOR length", "c00706 5ba0 c0000201 c01204 00011170" + as4Path, "1 70000", Aggregator{asTrans, first}, 1 << FaultAS4Aggregator},
		{"AS4_PATH cut short", aggregator("5ba0", "") + "c01105 0201 000111", "1 23456", Aggregator{asTrans, first}, 1 << FaultAS4Path},
		{"AS4_PATH segment type", aggregator("5ba0", "") + "c01106 0701 00011170", "1 23456", Aggregator{asTrans, first}, 1 << FaultAS4Path},
		{"AS zero in AS4_PATH", aggregator("5ba0", "") + "c01106 0201 00000000", "1 23456", Aggregator{asTrans, first}, 1 << FaultAS4Path},
	} {
		u, err := new(Decoder).Update(body(t, "", two+row.attributes, route), Options{TwoOctetAS: true})
		if err != nil {
			t.Fatal(err)
		}
		if u.Attrs.ASPath.String() != row.path || u.Attrs.Aggregator != row.aggregator || u.Faults != row.faults {
			t.Errorf("%s: path %v, aggregator %v, faults %v", row.name, u.Attrs.ASPath, u.Attrs.Aggregator, u.Faults)
		}
	}
	// Between four-octet speakers they mean nothing.
	u, err := new(Decoder).Update(body(t, "", needed+as4Path, route), Options{})
	if err != nil || u.Attrs.ASPath.String() != "64500" || u.Faults != 0 {
		t.Errorf("four octets: %v, %+v", err, u)
	}
}

func TestTrailingBitsAreDropped(t *testing.T) {
	u, err := new(Decoder).Update(body(t, "", needed+"800e 18 0002 01 10 20010db8000000000000000000000001 00 0d 20ff", "0d 0b0d 00 01 ff"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := []NLRI{{Prefix: netip.MustParsePrefix("11.8.0.0/13")}, {Prefix: netip.MustParsePrefix("0.0.0.0/0")},
		{Prefix: netip.MustParsePrefix("128.0.0.0/1")}, {Prefix: netip.MustParsePrefix("20f8::/13")}}
	if !slices.Equal(u.Announced, want) {
		t.Errorf("got %v, want %v", u.Announced, want)
	}
}

func TestRIBEntryForms(t *testing.T) {
	nlri := NLRI{Prefix: netip.MustParsePrefix("2001:db8::/32"), PathID: 3}
	v6 := netip.MustParseAddr("2001:db8::1")
	for _, row := range []struct {
		name, attributes string
		hop              netip.Addr
		fails            bool
	}{
		{"abbreviated", origin + path + "800e 11 10 20010db8000000000000000000000001", v6, false},
		{"complete", origin + path + reach6, v6, false},
		{"no next hop", origin + path, netip.Addr{}, false},
		{"no attributes", "", netip.Addr{}, false},
		{"a length that is wrong", origin + path + "800e 11 20 20010db8000000000000000000000001", netip.Addr{}, true},
	} {
		u, err := new(Decoder).RIBEntry(IPv6Unicast, nlri, unhex(t, row.attributes), Options{})
		if (err != nil) != row.fails {
			t.Errorf("%s: %v", row.name, err)
		} else if err == nil && (u.Attrs.NextHop != row.hop || !slices.Equal(u.Announced, []NLRI{nlri})) {
			t.Errorf("%s: %+v", row.name, u)
		}
	}
	u, err := new(Decoder).RIBEntry(IPv6Multicast, nlri, unhex(t, "400101 09"), Options{})
	if err != nil || len(u.Announced)+len(u.MulticastAnnounced) != 0 || len(u.MulticastWithdrawn) != 1 || !u.Faults.Has(FaultOrigin) {
		t.Errorf("malformed: %+v, %v", u, err)
	}
}

// TestPublishedVectors decodes messages whose meaning their publishers state in JSON; those of
// families that are not decoded must be skipped without an error.
func TestPublishedVectors(t *testing.T) {
	dir := filepath.Join("..", "..", "..", "shared", "data", "bgp")
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Skip("no vectors here")
	}
	prefixes := func(ss ...string) (l []NLRI) {
		for _, s := range ss {
			l = append(l, NLRI{Prefix: netip.MustParsePrefix(s)})
		}
		return l
	}
	known := map[string]Update{
		"ipv4-unicast-1": {
			Announced: prefixes("0.0.0.0/0", "0.0.0.0/0", "0.0.0.0/0", "0.0.0.0/0", "1.1.1.1/32"),
			Attrs: Attributes{Has: HasOrigin | HasASPath | HasNextHop | HasMED | HasLocalPref, NextHop: netip.MustParseAddr("101.1.101.1"),
				MED: 200, LocalPref: 100},
			Classic: 5,
		},
		"ipv4-unicast-2": {Attrs: Attributes{
			Has:     HasOrigin | HasASPath | HasNextHop | HasMED | HasLocalPref | HasAtomicAggregate | HasAggregator,
			NextHop: netip.MustParseAddr("10.10.10.10"), LocalPref: 100,
			ASPath:     ASPath{{ASSequence, []uint32{43690, 43690, 43690}}},
			Aggregator: Aggregator{11141290, netip.MustParseAddr("10.10.10.10")},
		}},
	}
	decoded := 0
	for _, f := range files {
		t.Run(f.Name(), func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join(dir, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(string(text), "\n")
			if strings.HasPrefix(lines[0], "nlri ") {
				t.Skip("not a message")
			}
			b := unhex(t, strings.ReplaceAll(lines[1], ":", ""))
			if len(b) > 16 && [16]byte(b) == marker {
				typ, rest, _, err := Split(b)
				if err != nil {
					t.Fatal(err)
				}
				if typ == TypeOpen {
					o, err := ParseOpen(rest)
					if err != nil || o.ASN != 65533 || o.HoldTime != 180 || o.ID.String() != "10.0.0.2" || !o.has(CapMultiprotocol) || !o.has(75) {
						t.Errorf("%+v, %v", o, err)
					}
					decoded++
					return
				}
				b = rest
			}
			u, err := new(Decoder).Update(b, Options{})
			if err != nil {
				t.Fatal(err)
			}
			decoded++
			want, ok := known[f.Name()]
			if !ok {
				if !u.Faults.Has(FaultFamily) && !strings.Contains(lines[0], "ipv4 unicast") {
					t.Errorf("%s: %+v", lines[0], u)
				}
				return
			}
			ignore := cmpopts.IgnoreFields(Update{}, "RawAttributes")
			if diff := cmp.Diff(want, *u, compareNetip, comparePrefix, cmpopts.EquateEmpty(), ignore); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
	if decoded == 0 {
		t.Error("no vector was decoded")
	}
}

func TestNoAllocations(t *testing.T) {
	withAS4 := Update{
		Announced: []NLRI{{Prefix: netip.MustParsePrefix("198.51.100.0/24")}},
		Attrs: Attributes{Has: HasOrigin | HasASPath | HasNextHop | HasAggregator | HasLargeCommunities, NextHop: netip.MustParseAddr("192.0.2.1"),
			ASPath:     ASPath{{ASSequence, []uint32{64500, 70000}}, {ASSet, []uint32{1, 70001}}},
			Aggregator: Aggregator{70000, netip.MustParseAddr("192.0.2.1")}, LargeCommunities: []LargeCommunity{{1, 2, 3}}},
	}
	as4, err := AppendUpdate(nil, &withAS4, Options{TwoOctetAS: true})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		body []byte
		o    Options
	}{
		"typical":           {typicalUpdate(t)[HeaderLength:], Options{}},
		"AS4_PATH":          {as4[HeaderLength:], Options{TwoOctetAS: true}},
		"IPv6 and withdraw": {body(t, route, needed+reach6+unreach, route), Options{}},
		"treat as withdraw": {body(t, "", "400101 07"+path+hop, route), Options{}},
	} {
		var d Decoder
		if n := testing.AllocsPerRun(100, func() {
			if _, err := d.Update(c.body, c.o); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
