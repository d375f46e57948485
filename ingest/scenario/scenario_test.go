package scenario

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

const pakistan = `
title  Pakistan Telecom announces part of YouTube's space   # 2008
start  2008-02-24T18:47:00Z
rel    3491 17557 -1
rel    3356 3491 0
rel    3356 36561 -1
rel    3491 3333 -1
vrp    1.1.1.0/24 13335
vrp    1.1.0.0/16 max 24 13335
org    16509 14618
peer   a rrc00 3333 193.0.0.56
peer   b rrc01 3356 192.0.2.2
peer   c rrc01 7018 192.0.2.3 partial
group  two a b
origin 36561 208.65.152.0/22
rib    208.65.152.0/22 c 7018 3356 36561
+1m    a,two announce 208.65.153.0/24,2001:db8::/32 via 3491 17557 community 65535:666,3491:1 otc 3491
+10s   all announce 208.65.153.0/25 via 36561 17557 nexthop 192.0.2.9
+90s   rrc01 withdraw 208.65.153.0/24
+2m    a down
+2m1s  a up
+3m    end
expect subprefix_hijack offender 17557 victim 36561 prefix 208.65.153.0/24 by +10s ended rpki not_found severity high..critical
expect route_leak rfc7908 1 accomplice 1,2 open severity low
expect none
expect none origin_hijack route_leak
`

func parse(t *testing.T, text string) *Scenario {
	t.Helper()
	s, err := Parse(strings.NewReader(text), t.Name())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// brief writes an update so that a person can compare it at a glance.
func brief(start time.Time, u ingest.Update) string {
	w := []string{u.Time.Time().Sub(start).String(), u.Peer.String(), u.Kind.String()}
	for _, n := range u.Withdrawn {
		w = append(w, "-"+n.Prefix.String())
	}
	for _, n := range u.Announced {
		w = append(w, "+"+n.Prefix.String())
	}
	if len(u.Announced) > 0 {
		w = append(w, "path", u.Attrs.ASPath.String(), "hop", u.Attrs.NextHop.String())
	}
	return strings.Join(w, " ")
}

func briefs(start time.Time, us []ingest.Update) []string {
	var list []string
	for _, u := range us {
		list = append(list, brief(start, u))
	}
	return list
}

func TestParse(t *testing.T) {
	s := parse(t, pakistan)
	if want := "Pakistan Telecom announces part of YouTube's space"; s.Title != want {
		t.Errorf("title %q, want %q", s.Title, want)
	}
	if want := time.Date(2008, 2, 24, 18, 47, 0, 0, time.UTC); !s.Start.Equal(want) {
		t.Errorf("start %v, want %v", s.Start, want)
	}
	if got := s.Duration(); got != 3*time.Minute {
		t.Errorf("duration %v, want 3m", got)
	}
	if diff := cmp.Diff([]Relationship{{3491, 17557, false}, {3356, 3491, true}, {3356, 36561, false}, {3491, 3333, false}}, s.Rels()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]VRP{{netip.MustParsePrefix("1.1.1.0/24"), 24, 13335}, {netip.MustParsePrefix("1.1.0.0/16"), 24, 13335}}, s.VRPs(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([][]uint32{{16509, 14618}}, s.Orgs()); diff != "" {
		t.Error(diff)
	}

	if diff := cmp.Diff([]string{
		"0s rrc00/AS3333/193.0.0.56 rib +208.65.152.0/22 path 3333 3491 3356 36561 hop 193.0.0.56",
		"0s rrc01/AS3356/192.0.2.2 rib +208.65.152.0/22 path 3356 36561 hop 192.0.2.2",
		"0s rrc01/AS7018/192.0.2.3 rib +208.65.152.0/22 path 7018 3356 36561 hop 192.0.2.3",
	}, briefs(s.Start, s.RIB())); diff != "" {
		t.Errorf("RIB:\n%s", diff)
	}
	// c has no way to 3491 but one to 36561, from its rib line; a's next hop for IPv6 is itself, mapped.
	if diff := cmp.Diff([]string{
		"10s rrc00/AS3333/193.0.0.56 routes +208.65.153.0/25 path 3333 3491 3356 36561 17557 hop 192.0.2.9",
		"10s rrc01/AS3356/192.0.2.2 routes +208.65.153.0/25 path 3356 36561 17557 hop 192.0.2.9",
		"10s rrc01/AS7018/192.0.2.3 routes +208.65.153.0/25 path 7018 3356 36561 17557 hop 192.0.2.9",
		"1m0s rrc00/AS3333/193.0.0.56 routes +208.65.153.0/24 path 3333 3491 17557 hop 193.0.0.56",
		"1m0s rrc00/AS3333/193.0.0.56 routes +2001:db8::/32 path 3333 3491 17557 hop ::ffff:193.0.0.56",
		"1m0s rrc01/AS3356/192.0.2.2 routes +208.65.153.0/24 path 3356 3491 17557 hop 192.0.2.2",
		"1m0s rrc01/AS3356/192.0.2.2 routes +2001:db8::/32 path 3356 3491 17557 hop ::ffff:192.0.2.2",
		"1m30s rrc01/AS3356/192.0.2.2 routes -208.65.153.0/24",
		"1m30s rrc01/AS7018/192.0.2.3 routes -208.65.153.0/24",
		"2m0s rrc00/AS3333/193.0.0.56 peer_down",
		"2m1s rrc00/AS3333/193.0.0.56 peer_up",
	}, briefs(s.Start, s.Updates())); diff != "" {
		t.Errorf("updates:\n%s", diff)
	}
	u := s.Updates()[3]
	if want := bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop | bgp.HasCommunities | bgp.HasOTC; u.Attrs.Has != want {
		t.Errorf("attributes present: %b, want %b", u.Attrs.Has, want)
	}
	if diff := cmp.Diff([]uint32{65535<<16 | 666, 3491<<16 | 1}, u.Attrs.Communities); diff != "" || u.Attrs.OTC != 3491 {
		t.Errorf("OTC %d, communities:\n%s", u.Attrs.OTC, diff)
	}

	prefix := netip.MustParsePrefix("208.65.153.0/24")
	want := []Expect{
		{Line: 23, Kinds: []string{"subprefix_hijack"}, Offenders: []uint32{17557}, Victims: []uint32{36561}, Prefixes: []netip.Prefix{prefix},
			By: 10 * time.Second, Status: "ended", RPKI: "not_found", SeverityMin: "high", SeverityMax: "critical",
			Text: "expect subprefix_hijack offender 17557 victim 36561 prefix 208.65.153.0/24 by +10s ended rpki not_found severity high..critical"},
		{Line: 24, Kinds: []string{"route_leak"}, Accomplices: []uint32{1, 2}, Status: "open", SeverityMin: "low", SeverityMax: "low", RFC7908Type: 1,
			Text: "expect route_leak accomplice 1,2 open severity low rfc7908 1"},
		{Line: 25, None: true, Text: "expect none"},
		{Line: 26, None: true, Kinds: []string{"origin_hijack", "route_leak"}, Text: "expect none origin_hijack route_leak"},
	}
	if diff := cmp.Diff(want, s.Expect, cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("expect:\n%s", diff)
	}
}

func TestParseErrors(t *testing.T) {
	const head = "start 2008-02-24T18:47:00Z\npeer a rrc00 3333 193.0.0.56\npeer b rrc00 3356 2001:db8::1\n"
	tests := []struct{ name, text, want string }{
		{"unknown statement", "announce 1.0.0.0/24 1", `1: "announce": a statement is one of`},
		{"no start", "title x", "1: start: missing"},
		{"bad start", "start yesterday", `1: start: "yesterday" is not a time`},
		{"start twice", head + "start 2008-02-24T18:47:00Z", "4: start: given twice"},
		{"title twice", head + "title a\ntitle b", "5: title: given twice"},
		{"empty title", head + "title # nothing", "4: title: say"},
		{"rel kind", head + "rel 1 2 3", `4: rel: "3" is neither`},
		{"rel self", head + "rel 1 1 0", "4: rel: AS1 cannot"},
		{"rel short", head + "rel 1 2", "4: rel: want"},
		{"vrp max", head + "vrp 1.0.0.0/24 max 23 1", `4: vrp: max "23" is not between 24 and 32`},
		{"vrp host bits", head + "vrp 1.0.0.1/24 1", "4: vrp: 1.0.0.1/24 has bits beyond its length: write 1.0.0.0/24"},
		{"vrp mapped", head + "vrp ::ffff:1.0.0.0/120 1", "4: vrp: "},
		{"org alone", head + "org 1", "4: org: name at least two"},
		{"delegated short", head + "delegated apnic available", "4: delegated: want"},
		{"delegated by whom", head + "delegated nro available 1.0.0.0/24", `4: delegated: "nro" is none of`},
		{"delegated when", head + "delegated apnic once upon 1.0.0.0/24", `4: delegated: "once" is neither a day`},
		{"delegated what", head + "delegated apnic 2012-05-20 a", "4: delegated: name a prefix"},
		{"delegated to whom", head + "delegated apnic 2012-05-20 " + strings.Repeat("a", 65) + " 1", "4: delegated: the holder: longer than"},
		{"delegated number", head + "delegated apnic reserved 1.0.0.0/24 x", `4: delegated: "x" is neither`},
		{"delegated long", head + "delegated apnic reserved 2001:db8::/65", "4: delegated: 2001:db8::/65 is longer"},
		{"peer address", head + "peer c rrc00 1 nowhere", `4: peer: "nowhere" is not an address`},
		{"peer name", head + "peer all rrc00 1 192.0.2.1", `4: peer: "all" has a meaning`},
		{"peer name characters", head + "peer a,b rrc00 1 192.0.2.1", `4: peer: "a,b": a name`},
		{"peer twice", head + "peer a rrc00 1 192.0.2.1", `4: peer: "a" is already`},
		{"one session", head + "peer c rrc00 3333 193.0.0.56", "4: peer: a and c are one session"},
		{"peer called as collector", head + "peer rrc00 rrc01 1 192.0.2.1", "2: peer: rrc00 is the name of a peer and of a collector"},
		{"group of strangers", head + "group g a x", `4: group g: there is no peer "x"`},
		{"group called as collector", head + "group rrc00 a", "4: group: rrc00 is already"},
		{"origin", head + "origin 1", "4: origin: want"},
		{"rib of strangers", head + "rib 1.0.0.0/24 x 1 2", `4: there is no peer, group or collector "x"`},
		{"rib twice", head + "rib 1.0.0.0/24 a 1 2\nrib 1.0.0.0/24 a 1 3", "5: rib: a already has a route to 1.0.0.0/24"},
		{"offset", head + "+1x a down", `4: "+1x" is not an offset`},
		{"negative offset", head + "+-1s a down", `4: "+-1s" is not an offset`},
		{"verb", head + "+1s a shout", `4: "shout" is not announce`},
		{"no path", head + "+1s a announce 1.0.0.0/24", "4: announce: give an AS path"},
		{"bad path", head + "+1s a announce 1.0.0.0/24 1 x", `4: announce: AS path "1 x"`},
		{"no way", head + "+1s a announce 1.0.0.0/24 via 7 8", "4: a has no way to AS7"},
		{"community", head + "+1s a announce 1.0.0.0/24 1 community 65536:1", `4: announce: "65536:1" is not a community`},
		{"community twice", head + "+1s a announce 1.0.0.0/24 1 community 1:1 community 1:2", "4: announce: community: given twice"},
		{"attribute without value", head + "+1s a announce 1.0.0.0/24 1 otc", "4: announce: otc: a value"},
		{"next hop family", head + "+1s b announce 1.0.0.0/24 1", "4: b: nexthop: an IPv4 route needs"},
		{"withdraw path", head + "+1s a withdraw 1.0.0.0/24 1", "4: withdraw: only prefixes"},
		{"down what", head + "+1s a down now", "4: down: nothing may follow"},
		{"end twice", head + "+1s end\n+2s end", "5: end: given twice"},
		{"expect nothing", head + "expect", "4: expect: want one kind"},
		{"expect two kinds", head + "expect route_leak origin_hijack", "4: expect: want one kind"},
		{"expect field", head + "expect route_leak offender 1 because 2", "4: expect: because: is not one of"},
		{"expect kind", head + "expect Route-Leak", `4: expect: "Route-Leak" is neither`},
		{"expect none by", head + "expect none by +1s", "4: expect: none holds all the time"},
		{"expect both ends", head + "expect route_leak open ended", "4: expect: open and ended"},
		{"expect severity", head + "expect route_leak severity high..low", `4: expect: severity: "high..low" is not`},
		{"expect rpki", head + "expect route_leak rpki unknown", `4: expect: rpki: "unknown"`},
		{"expect type", head + "expect route_leak rfc7908 7", `4: expect: rfc7908: "7"`},
		{"too many routes", head + "rib " + strings.Repeat("1.0.0.0/24,", maxRoutes) + "1.0.0.0/24 a 1", ": bufio.Scanner: token too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse(strings.NewReader(tt.text), "file")
			if err == nil || !strings.Contains(err.Error(), "file:"+tt.want) && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestParseReportsAllErrors(t *testing.T) {
	_, err := Parse(strings.NewReader("rel 1\n\nvrp x 2\nstart 2008-02-24T18:47:00Z\norg"), "file")
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("got %v, want several errors", err)
	}
	var lines []int
	for _, err := range joined.Unwrap() {
		var e *Error
		if !errors.As(err, &e) {
			t.Fatalf("%v is not an *Error", err)
		}
		lines = append(lines, e.Line)
	}
	if diff := cmp.Diff([]int{1, 3, 5}, lines); diff != "" {
		t.Error(diff)
	}
}

func TestRouteBound(t *testing.T) {
	var b strings.Builder
	b.WriteString("start 2008-02-24T18:47:00Z\npeer a rrc00 3333 193.0.0.56\n")
	list := strings.Repeat("1.0.0.0/24,", 1<<16) + "1.0.0.0/24"
	for range 16 {
		b.WriteString("+1s a withdraw " + list + "\n")
	}
	_, err := Parse(strings.NewReader(b.String()), "file")
	if err == nil || !strings.Contains(err.Error(), "routes in all") {
		t.Errorf("got %v, want a refusal", err)
	}
}

// same compares everything but where in the file it stood.
var same = cmp.Options{
	cmp.AllowUnexported(Scenario{}, peerPrefix{}, Vantage{}, group{}, origin{}, event{}),
	cmpopts.IgnoreFields(Scenario{}, "base", "topo", "rib"), cmpopts.IgnoreFields(Expect{}, "Line"), cmpopts.IgnoreFields(Vantage{}, "line"),
	cmpopts.IgnoreFields(group{}, "line"), cmpopts.IgnoreFields(origin{}, "line"), cmpopts.IgnoreFields(event{}, "line"),
	cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

func TestRoundTrip(t *testing.T) {
	s := parse(t, pakistan+"delegated apnic 2012-05-20 a 1.0.0.0/24 13335 2001:db8::/32\ndelegated arin available 2.0.0.0/24 7\n")
	if diff := cmp.Diff(s, parse(t, s.String()), same, cmpopts.IgnoreFields(Scenario{}, "Name")); diff != "" {
		t.Error(diff)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(pakistan)
	f.Add("start 2008-02-24T18:47:00Z\nworld\n+1s all announce 1.0.0.0/24 via 3491 {1,2} 3")
	f.Add("start 2008-02-24T18:47:00Z\ndelegated apnic 2012-05-20 a 1.0.0.0/24 13335\ndelegated arin reserved 2001:db8::/32 7")
	f.Add("rel 1 2 0 spare\nstart 1970-01-01T00:00:00.5Z\npeer x y 1 ::ffff:1.2.3.4\nrib ::/0 x AS1")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(strings.NewReader(text), "fuzz")
		if err != nil {
			return
		}
		again, err := Parse(strings.NewReader(s.String()), "fuzz")
		if err != nil {
			t.Fatalf("%v\nin what String wrote:\n%s", err, s)
		}
		if diff := cmp.Diff(s, again, same); diff != "" {
			t.Fatal(diff)
		}
	})
}
