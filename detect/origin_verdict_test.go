package detect

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/rpki"
)

// BenchmarkOriginVerdict is what it takes to know what to think of the origin of a route whose path has changed:
// "cached" is what the engine asks of an origin that has been judged before, the mark on the pair of prefix and origin,
// and "uncached" what it would take to validate it anew. Both include what "update" is alone: to fetch the entry, its
// route and the route's node, which every update does. The updates are of so many prefixes in no order, of 100,000
// under as many VRPs: of few, as it is when routes flap, all is in the processor's cache.
func BenchmarkOriginVerdict(b *testing.B) {
	const prefixes = 100_000
	var vs []rpki.VRP
	for i := range prefixes {
		p := prefixOf(i)
		vs = append(vs, rpki.VRP{Prefix: p, MaxLength: uint8(p.Bits()), ASN: uint32(20000 + i%20000)})
	}
	e, c := New(DefaultConfiguration(), Knowledge{VRPs: rpki.NewSet(rpki.Data{VRPs: vs}, "test")}, func(incident.Event) {}), newCrowd()
	c.load(e, 4, prefixes)
	e.FinishBaseline()
	s := e.shards[0]
	r := rand.New(rand.NewPCG(1, 2))
	var order []uint32
	for _, id := range r.Perm(int(s.table.size)) {
		if s.table.paths.nodes[s.table.entry(uint32(id)).routes[0].node].flags == 0 { // AS23456 is among the origins
			order = append(order, uint32(id))
		}
	}
	for _, of := range []int{1_000, len(order)} {
		for _, kind := range []struct {
			name string
			good func(*entry, nodeID) bool
		}{
			{"update", func(_ *entry, path nodeID) bool { return s.table.paths.nodes[path].origin != 0 }},
			{"cached", func(en *entry, path nodeID) bool {
				return s.harmless(s.table.origin(en, s.table.paths.nodes[path].origin), path)
			}},
			{"uncached", func(en *entry, path nodeID) bool {
				return e.known.VRPs.State(en.prefix, s.table.paths.nodes[path].origin, true) == rpki.Valid
			}},
		} {
			b.Run(fmt.Sprintf("%s of %d", kind.name, of), func(b *testing.B) {
				i := 0
				b.ReportAllocs()
				for b.Loop() {
					en := s.table.entry(order[i])
					if !kind.good(en, en.routes[0].node) {
						b.Fatalf("%v is not good", en.prefix)
					}
					if i++; i == of {
						i = 0
					}
				}
			})
		}
	}
}
