package irr

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Of a registry that is mirrored nothing of the dumps counts, be it the better copy or not; the order of trust holds for both.
func TestMerge(t *testing.T) {
	dumps := build(t, `
route: 192.0.2.0/24
origin: AS1
source: RADB

route: 192.0.2.0/24
origin: AS2
source: RIPE
member-of: RS-X
mnt-by: M

aut-num: AS2
source: RADB

as-set: AS-OLD
source: RADB
members: AS2
`)
	mirrored := build(t, `
route: 192.0.2.0/24
origin: AS3
source: RADB

route6: 2001:db8::/32
origin: AS3
source: RADB

aut-num: AS3
source: RADB

route-set: RS-X
source: RIPE-NONAUTH
members: 192.0.2.0/24

as-set: AS-NEW
source: RADB
members: AS3
`)
	if Merge(nil, nil, nil, nil) != nil {
		t.Error("something is made of nothing")
	}
	d := Merge(nil, dumps, nil, mirrored)
	a := d.Check(netip.MustParsePrefix("192.0.2.0/24"), 0)
	want := []Route{{netip.MustParsePrefix("192.0.2.0/24"), 2, "RIPE", true}, {netip.MustParsePrefix("192.0.2.0/24"), 3, "RADB", false}}
	if !slices.Equal(a.Routes, want) {
		t.Errorf("routes are %v, want %v", a.Routes, want)
	}
	if d.State(netip.MustParsePrefix("2001:db8::/48"), 3) != Registered {
		t.Error("the IPv6 route is not registered")
	}
	if d.AutNum(2) != nil || d.AutNum(3) == nil {
		t.Error("the aut-nums are not those of the mirror")
	}
	if len(d.sets["AS-OLD"]) != 0 || len(d.sets["AS-NEW"]) != 1 || len(d.memberOf["RS-X"]) != 1 {
		t.Errorf("sets %v, members %v", d.sets, d.memberOf)
	}
	if c := d.Counts(); c.Routes != 3 || c.AutNums != 1 || c.Sets != 2 {
		t.Errorf("%+v", c)
	}
}

// Two objects have the same key where a Builder has one replace the other.
func TestAppendKey(t *testing.T) {
	keys := map[string]string{}
	for _, c := range []struct{ name, text string }{
		{"route 1", "route: 192.0.2.0/24\norigin: AS1\nsource: X\n"},
		{"route 1", "route: 192.000.2.0/24\norigin: as1\nsource: X\ndescr: y\n"},
		{"route 2", "route: 192.0.2.0/24\norigin: AS2\nsource: X\n"},
		{"route 3", "route: 192.0.2.0/25\norigin: AS1\nsource: X\n"},
		{"route6", "route6: 2001:db8::/32\norigin: AS1\nsource: X\n"},
		{"route6", "route6: 2001:0DB8::/32\norigin: AS1\nsource: X\n"},
		{"aut-num", "aut-num: AS1\nsource: X\n"},
		{"aut-num", "aut-num: as1\nsource: X\n"},
		{"as-set", "as-set: AS-X\nsource: X\n"},
		{"as-set", "as-set: as-x\nsource: X\n"},
		{"route-set", "route-set: RS-X\nsource: X\n"},
	} {
		o := object(t, c.text)
		key, ok := AppendKey(nil, o)
		if known, seen := keys[c.name]; !ok || seen && known != string(key) {
			t.Errorf("%s: key %q, %v, want %q", c.text, key, ok, known)
		}
		keys[c.name] = string(key)
		// Written with what a Builder reads, it is the same object.
		again := object(t, string(o.Append(nil, Reads)))
		if other, _ := AppendKey(nil, again); string(other) != string(key) || again.Get("descr") != nil || string(again.Get("source")) != "X" {
			t.Errorf("%s: written as %q", c.text, o.Append(nil, Reads))
		}
	}
	all := map[string]bool{}
	for _, key := range keys {
		all[key] = true
	}
	if len(all) != len(keys) {
		t.Errorf("different objects have the same key: %q", keys)
	}
	for _, text := range []string{"mntner: M\nsource: X\n", "route: 2001:db8::/32\norigin: AS1\n", "route: 192.0.2.0/24\norigin: ASX\n", "as-set: RS-X\n"} {
		if key, ok := AppendKey(nil, object(t, text)); ok {
			t.Errorf("%q has the key %q", text, key)
		}
	}
}

// A Builder that takes only what covers a prefix answers for that as one that takes all, also where a registry is mirrored
// of which nothing covers it.
func TestCovering(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	sources := []string{"RIPE", "RADB", "ARIN", "NTTCOM"}
	prefix := func() netip.Prefix {
		if r.IntN(3) == 0 {
			return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, byte(r.IntN(4)), byte(r.IntN(4))}), 24+r.IntN(17)).Masked()
		}
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(r.IntN(4)), byte(r.IntN(4))}), 14+r.IntN(11)).Masked()
	}
	text := func(n int, of []string) string {
		var b strings.Builder
		for range n {
			p, class := prefix(), "route"
			if p.Addr().Is6() {
				class = "route6"
			}
			fmt.Fprintf(&b, "%s: %s\norigin: AS%d\nsource: %s\n\n", class, p, 1+r.IntN(3), of[r.IntN(len(of))])
		}
		return b.String() + "as-set: AS-X\nmembers: AS1\nsource: " + of[0] + "\n"
	}
	states := map[State]int{}
	for range 20 {
		dumps, mirrored := text(60, sources), text(1+r.IntN(20), sources[:1])
		both := func(only netip.Prefix) *Database {
			var dbs []*Database
			for _, said := range []string{dumps, mirrored} {
				b := NewBuilder(nil)
				if only.IsValid() {
					b.Covering(only)
				}
				if err := b.Read(strings.NewReader(said), "test"); err != nil {
					t.Fatal(err)
				}
				dbs = append(dbs, b.Build())
			}
			return Merge(nil, dbs[0], dbs[1])
		}
		whole := both(netip.Prefix{})
		for range 20 {
			p := prefix()
			part := both(p)
			for origin := range uint32(4) {
				want, got := whole.Check(p, origin), part.Check(p, origin)
				if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
					t.Fatalf("%s AS%d (-whole +part):\n%s", p, origin, diff)
				}
				states[want.State]++
			}
			if n := part.Counts().Routes; n > whole.Counts().Routes/2 {
				t.Errorf("%d routes of %d", n, whole.Counts().Routes)
			}
		}
	}
	if len(states) < 3 {
		t.Errorf("only %v", states)
	}
}
