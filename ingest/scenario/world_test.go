package scenario

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/routevigil/routevigil/ingest"
)

func TestWorldIsSound(t *testing.T) {
	if _, err := Parse(strings.NewReader(worldText), "world.scenario"); err != nil {
		t.Fatal(err)
	}
	w := World()

	t.Run("size", func(t *testing.T) {
		prefixes, families := 0, map[bool]int{}
		for _, o := range w.origins {
			prefixes += len(o.prefixes)
			for _, p := range o.prefixes {
				families[p.Addr().Is4()]++
			}
		}
		full, collectors := 0, map[string]bool{}
		for _, v := range w.Peers() {
			collectors[v.Collector] = true
			if !v.Partial {
				full++
			}
		}
		t.Logf("%d ASes, %d relationships, %d prefixes (%d IPv6), %d VRPs, %d peers (%d full) on %d collectors, %d routes",
			len(w.topo.asns), len(w.Rels()), prefixes, families[false], len(w.VRPs()), len(w.Peers()), full, len(collectors), len(w.RIB()))
	})
	t.Run("every pair of neighbours has one relationship", func(t *testing.T) {
		seen := map[link]Relationship{}
		for _, r := range slices.Concat(w.rels, w.spares) {
			l := link{min(r.A, r.B), max(r.A, r.B)}
			if other, twice := seen[l]; twice {
				t.Errorf("%v and %v", other, r)
			}
			seen[l] = r
		}
	})
	t.Run("nobody is its own indirect provider", func(t *testing.T) {
		topo := newTopology(slices.Concat(w.rels, w.spares))
		state := map[uint32]int{}
		var visit func(a uint32)
		visit = func(a uint32) {
			state[a] = 1
			for _, p := range topo.providers[a] {
				if state[p] == 1 {
					t.Errorf("a cycle through %d and %d", a, p)
				} else if state[p] == 0 {
					visit(p)
				}
			}
			state[a] = 2
		}
		for _, a := range topo.asns {
			if state[a] == 0 {
				visit(a)
			}
		}
	})
	t.Run("full-feed peers reach everything", func(t *testing.T) {
		has := map[ingest.Peer]int{}
		for _, u := range w.RIB() {
			has[u.Peer]++
		}
		all := 0
		for _, o := range w.origins {
			all += len(o.prefixes)
		}
		for _, v := range w.Peers() {
			if n := has[v.Peer]; !v.Partial && n != all {
				t.Errorf("%s has %d of %d prefixes", v.Name, n, all)
			} else if v.Partial && (n == 0 || n > all/2) {
				t.Errorf("%s is partial and has %d of %d prefixes", v.Name, n, all)
			}
		}
	})
	t.Run("no network has space inside another's, but Google's resolvers in Lumen's 8.0.0.0/9", func(t *testing.T) {
		type owned struct {
			netip.Prefix
			asn uint32
		}
		var list []owned
		for _, o := range w.origins {
			for _, p := range o.prefixes {
				list = append(list, owned{p, o.asn})
			}
		}
		slices.SortFunc(list, func(a, b owned) int { return a.Prefix.Compare(b.Prefix) })
		for i, a := range list {
			for _, b := range list[i+1:] {
				if !a.Overlaps(b.Prefix) {
					continue
				}
				if a.Prefix == b.Prefix || a.asn != b.asn && !(a.asn == 3356 && b.asn == 15169) {
					t.Errorf("%v of AS%d and %v of AS%d", a.Prefix, a.asn, b.Prefix, b.asn)
				}
			}
		}
	})
	t.Run("no route is RPKI Invalid", func(t *testing.T) {
		for _, o := range w.origins {
			for _, p := range o.prefixes {
				covered, valid := false, false
				for _, v := range w.VRPs() {
					if v.Prefix.Bits() <= p.Bits() && v.Prefix.Overlaps(p) {
						covered = true
						valid = valid || v.ASN == o.asn && p.Bits() <= v.MaxLength
					}
				}
				if covered && !valid {
					t.Errorf("%v of AS%d", p, o.asn)
				}
			}
		}
	})
}
