package irr

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/irr/rpsl"
)

const sets = `
as-set: AS-ONE
members: AS1, as2,AS-TWO
members: AS64500:AS-CUSTOMERS, AS-NOWHERE
mbrs-by-ref: MNT-A
source: RADB

as-set: AS-TWO
members: AS3 AS-ONE, nonsense, RS-X, 5
source: RADB

as-set: AS-TWO
members: AS66
source: ALTDB

as-set: as64500:as-customers
members: AS4, ALTDB::AS-TWO, RIPE::AS-TWO
mbrs-by-ref: ANY
source: RIPE

as-set: AS-ALL
members: AS5, AS-ANY
source: RADB

aut-num: AS10
member-of: AS-ONE
mnt-by: MNT-A, MNT-X
source: RADB

aut-num: AS11
member-of: AS-ONE, AS64500:AS-CUSTOMERS
mnt-by: MNT-X
source: RADB

aut-num: AS12
member-of: AS-ONE
mnt-by: MNT-A
source: ALTDB

aut-num: AS13
member-of: AS64500:AS-CUSTOMERS
mnt-by: MNT-Z
source: RIPE
`

func TestASSet(t *testing.T) {
	d := build(t, sets)
	for name, want := range map[string]ASes{
		"as-one": {Expansion{Sets: []string{"RADB::AS-ONE", "RADB::AS-TWO", "RIPE::AS64500:AS-CUSTOMERS", "ALTDB::AS-TWO"},
			Missing: []string{"AS-NOWHERE", "RIPE::AS-TWO"}, Ambiguous: []string{"AS-TWO"}}, []uint32{1, 2, 3, 4, 10, 13, 66}},
		"ALTDB::AS-TWO":  {Expansion{Sets: []string{"ALTDB::AS-TWO"}}, []uint32{66}},
		"AS-ALL":         {Expansion{Sets: []string{"RADB::AS-ALL"}, Any: true}, []uint32{5}},
		"AS-NONE":        {Expansion{Missing: []string{"AS-NONE"}}, []uint32{}},
		"NTTCOM::AS-ONE": {Expansion{Missing: []string{"NTTCOM::AS-ONE"}}, []uint32{}},
	} {
		if diff := cmp.Diff(want, d.ASSet(name)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A set whose expansion has more paths than anybody could walk: each set lists all of the next layer.
func TestHostileSets(t *testing.T) {
	var b strings.Builder
	const layers, width = 30, 30 // 30^30 paths
	for l := range layers {
		for i := range width {
			fmt.Fprintf(&b, "as-set: AS-L%d-%d\nsource: RADB\nmembers: AS%d", l, i, 1+l*width+i)
			for j := range width {
				fmt.Fprintf(&b, ", AS-L%d-%d", (l+1)%layers, j)
			}
			b.WriteString("\n\n")
		}
	}
	for i := range maxDepth + 10 {
		fmt.Fprintf(&b, "as-set: AS-DEEP%d\nmembers: AS%d, AS-DEEP%d\nsource: RADB\n\n", i, i+1, i+1)
	}
	// Operators make another set of RS-SELF each time.
	b.WriteString("route-set: RS-SELF\nmembers: 10.0.0.0/8, RS-SELF^+, RS-SELF^-, RS-SELF^9-32, RS-SELF^10-32, RS-SELF^11-32\nsource: RADB\n\n")
	d := build(t, b.String())
	if x := d.ASSet("AS-L0-0"); len(x.ASNs) != (layers-1)*width+width || x.Cut != "" || len(x.Sets) != layers*width {
		t.Errorf("%d ASes, %d sets, cut %q", len(x.ASNs), len(x.Sets), x.Cut)
	}
	if x := d.ASSet("AS-DEEP0"); len(x.ASNs) != maxDepth+1 || !strings.Contains(x.Cut, "deeper than") {
		t.Errorf("%d ASes, cut %q", len(x.ASNs), x.Cut)
	}
	if x := d.RouteSet("RS-SELF"); x.Cut == "" || len(x.Ranges) == 0 {
		t.Errorf("%d ranges, cut %q", len(x.Ranges), x.Cut)
	}
}

func TestTooManyMembers(t *testing.T) {
	d := &Database{objects: objects{sets: map[string][]*set{}}}
	large := make([]uint32, 1_000_000)
	for i := range large {
		large[i] = uint32(i % 100) // members count, not ASes
	}
	top := &set{source: "RADB"}
	for i := range 10 {
		name := fmt.Sprintf("AS-LARGE%d", i)
		d.sets[name] = []*set{{source: "RADB", asns: large}}
		top.names = append(top.names, name)
	}
	d.sets["AS-TOP"] = []*set{top}
	if x := d.ASSet("AS-TOP"); len(x.Sets) != maxMembers/len(large)+1 || !strings.Contains(x.Cut, "members") {
		t.Errorf("%v, cut %q", x.Sets, x.Cut)
	}
}

func TestRouteSet(t *testing.T) {
	d := build(t, `
route-set: RS-A
members: 5.0.0.0/8^+, 128.9.0.0/16^-, 30.0.0.0/8^16, 30.0.0.0/8^24-32, 192.0.2.0/24, 192.0.2.1/24, 10.0.0.0/8^33, 10.0.0.0/8^5-4, 10.0.0.0/8^24^+
mp-members: 2001:db8::/32^48
source: RIPE

route-set: RS-B
members: RS-A^24-26, RS-C
source: RIPE

route-set: RS-C
members: AS1^+, AS-X, RS-B, 10.0.0.0/8^9
mbrs-by-ref: MNT-A
source: RIPE

route-set: RS-MINUS
members: RS-D^-
source: RIPE

route-set: RS-D
members: 10.0.0.0/8^16-24, 192.0.2.0/32
source: RIPE

as-set: AS-X
members: AS2
source: RADB

route: 198.51.100.0/24
origin: AS1
source: RADB

route: 203.0.113.0/24
origin: AS2
source: RADB

route6: 2001:db8:2::/48
origin: AS2
source: RIPE

route: 100.64.0.0/10
origin: AS3
member-of: RS-C
mnt-by: MNT-A
source: RIPE

route: 100.128.0.0/10
origin: AS3
member-of: RS-C
mnt-by: MNT-B
source: RIPE
`)
	for name, want := range map[string][]string{
		// RFC 2622 §2.
		"RS-A": {"5.0.0.0/8 8-32", "30.0.0.0/8 16-16", "30.0.0.0/8 24-32", "128.9.0.0/16 17-32", "192.0.2.0/24 24-24", "2001:db8::/32 48-48"},
		// Of RS-A, ^24-26 leaves what has such lengths: not 30/8^16 … 16, and of 2001:db8::/32^48 nothing.
		"RS-B": {"5.0.0.0/8 24-26", "10.0.0.0/8 9-9", "30.0.0.0/8 24-26", "100.64.0.0/10 10-10", "128.9.0.0/16 24-26", "192.0.2.0/24 24-26",
			"198.51.100.0/24 24-32", "203.0.113.0/24 24-24", "2001:db8:2::/48 48-48", "30.0.0.0/8 24-26"},
		"RS-MINUS": {"10.0.0.0/8 17-32"},
		"RS-NONE":  nil,
	} {
		x := d.RouteSet(name)
		var got []string
		for _, r := range x.Ranges {
			got = append(got, fmt.Sprintf("%s %d-%d", r.Prefix, r.Min, r.Max))
		}
		slices.Sort(want)
		want = slices.Compact(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestClassOfName(t *testing.T) {
	for name, want := range map[string]rpsl.Class{
		"AS-X": rpsl.ASSet, "RS-X": rpsl.RouteSet, "AS1:AS-X": rpsl.ASSet, "AS-X:AS1": rpsl.ASSet, "AS1:RS-X:AS2:RS-Y": rpsl.RouteSet, "AS-A.B_C-D": rpsl.ASSet,
		"": rpsl.Other, "AS-": rpsl.Other, "AS1": rpsl.Other, "AS1:AS2": rpsl.Other, "AS-X:RS-Y": rpsl.Other, "AS-X:": rpsl.Other, ":AS-X": rpsl.Other,
		"AS-X::AS-Y": rpsl.Other, "X": rpsl.Other, "AS-\xdc": rpsl.Other, "AS-X Y": rpsl.Other,
	} {
		if got := classOfName(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(routes))
	f.Add([]byte(sets))
	f.Add([]byte("route-set: RS-A\nmembers: 10.0.0.0/8^+, RS-A^-, AS1^24-32\nsource: X\n\naut-num: AS1\nmp-import: afi ipv6 from AS2 at 10.0.0.1 action pref=1; accept {ANY}\ndefault: to AS3\nsource: X\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		b := NewBuilder(nil)
		_ = b.Read(strings.NewReader(string(text)), "fuzz")
		d := b.Build()
		for name := range d.sets {
			for _, a := range d.ASSet(name).ASNs {
				d.Cone(a, maxMembers)
			}
			d.RouteSet(name)
		}
		for i, k := range d.v4.keys {
			for j := d.v4.first[i]; j < d.v4.first[i+1]; j++ {
				if a := d.Check(k.prefix(), d.v4.origins[j]); a.State != Registered || !a.Exact || a.Routes[0].Prefix != k.prefix() {
					t.Fatalf("%s by AS%d: %+v", k.prefix(), d.v4.origins[j], a)
				}
			}
		}
		if e := d.Edit().Build(); e.Counts().Routes != d.Counts().Routes || e.Counts().Sets != d.Counts().Sets {
			t.Fatalf("an edit without a change: %+v, %+v", e.Counts(), d.Counts())
		}
		d.Check(netip.MustParsePrefix("10.0.0.0/8"), 1)
	})
}
