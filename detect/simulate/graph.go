package simulate

import (
	"math/rand/v2"
	"slices"

	"github.com/routevigil/routevigil/detect/topology"
)

// node is the place of an AS in a graph.
type node = int32

// graph is who sells transit to whom and who peers. Neighbours are in the order of their ASNs.
type graph struct {
	asns                        []uint32 // sorted
	index                       map[uint32]node
	providers, customers, peers [][]node
}

// newGraph takes the links of r between ASes that keep accepts. Sibling links are left out.
func newGraph(r *topology.Relationships, keep func(asn uint32, customers int) bool) *graph {
	g := &graph{index: map[uint32]node{}}
	customers := map[uint32]int{}
	for pair, l := range r.All() {
		for i, asn := range pair {
			n := 0
			if l.Relation == topology.Provider && i == 0 || l.Relation == topology.Customer && i == 1 {
				n = 1
			}
			customers[asn] += n
		}
	}
	for asn, n := range customers {
		if keep(asn, n) {
			g.asns = append(g.asns, asn)
		}
	}
	slices.Sort(g.asns)
	for i, asn := range g.asns {
		g.index[asn] = node(i)
	}
	g.providers, g.customers, g.peers = make([][]node, len(g.asns)), make([][]node, len(g.asns)), make([][]node, len(g.asns))
	for pair, l := range r.All() {
		a, known := g.index[pair[0]]
		b, both := g.index[pair[1]]
		if known && both {
			g.link(a, b, l.Relation)
		}
	}
	return g
}

// link says how a stands to b.
func (g *graph) link(a, b node, rel topology.Relation) {
	switch rel {
	case topology.Provider:
		g.customers[a], g.providers[b] = append(g.customers[a], b), append(g.providers[b], a)
	case topology.Customer:
		g.link(b, a, topology.Provider)
	case topology.Peer:
		g.peers[a], g.peers[b] = append(g.peers[a], b), append(g.peers[b], a)
	}
}

// relation is how a stands to b.
func (g *graph) relation(a, b node) topology.Relation {
	switch {
	case slices.Contains(g.providers[b], a):
		return topology.Provider
	case slices.Contains(g.providers[a], b):
		return topology.Customer
	case slices.Contains(g.peers[a], b):
		return topology.Peer
	}
	return topology.None
}

// hash mixes what identifies a thing into 64 bits that look random (the finaliser of MurmurHash3, by Appleby).
func hash(seed uint64, parts ...uint64) uint64 {
	h := seed ^ 0x9e3779b97f4a7c15
	for _, p := range parts {
		h ^= p + 0x9e3779b97f4a7c15 + h<<6 + h>>2
		h ^= h >> 33
		h *= 0xff51afd7ed558ccd
		h ^= h >> 33
		h *= 0xc4ceb9fe1a85ec53
		h ^= h >> 33
	}
	return h
}

// Generate makes the relationships of a small Internet: a clique of networks without providers, a seventh of the others
// selling transit, all the rest at the edge. Who joins chooses his providers among the transit networks before him, those
// with many customers rather than others; transit networks of like size peer. Every link is true by construction, and
// nobody is, by way of others, his own provider. Some of the smaller transit networks are scrubbing services.
func Generate(seed uint64, ases int) *topology.Relationships {
	rng := rand.New(rand.NewPCG(seed, 0x67656e))
	b := topology.NewBuilder(topology.Published, "generated")
	asns := newASNs(rng, ases)
	clique := min(max(ases/100, 4), 12)
	transit := clique + ases/7
	for i, asn := range scrubbers {
		asns[transit-1-i] = asn
	}
	linked := map[[2]int]bool{}
	set := func(x, y int, rel topology.Relation) bool {
		key := [2]int{min(x, y), max(x, y)}
		if x == y || linked[key] {
			return false
		}
		linked[key] = true
		b.Set(asns[x], asns[y], rel)
		return true
	}
	var ballots []int // each transit network once, and again for each customer
	for i := range clique {
		for j := range i {
			set(j, i, topology.Peer)
		}
		ballots = append(ballots, i, i, i)
	}
	for i := clique; i < ases; i++ {
		providers := 1 + rng.IntN(2)
		if rng.Float64() < 0.15 {
			providers += rng.IntN(3)
		}
		for range providers {
			p := ballots[rng.IntN(len(ballots))]
			if set(p, i, topology.Provider) {
				ballots = append(ballots, p)
			}
		}
		if i < transit {
			ballots = append(ballots, i)
			for range rng.IntN(12) {
				set(i, clique+rng.IntN(i-clique+1), topology.Peer)
			}
		} else if rng.Float64() < 0.2 { // at an exchange
			for range 1 + rng.IntN(6) {
				set(i, clique+rng.IntN(i-clique+1), topology.Peer)
			}
		}
	}
	return b.Build()
}

// scrubbers are known to package topology as scrubbing services.
var scrubbers = [...]uint32{19324, 19551, 32787, 57724}

// newASNs draws different AS numbers that are nobody's special ones.
func newASNs(rng *rand.Rand, n int) []uint32 {
	seen, asns := map[uint32]bool{}, make([]uint32, 0, n)
	for _, asn := range scrubbers {
		seen[asn] = true
	}
	for len(asns) < n {
		asn := 1000 + rng.Uint32N(62000)
		if rng.Float64() < 0.6 {
			asn = 196608 + rng.Uint32N(200000)
		}
		if !seen[asn] {
			seen[asn] = true
			asns = append(asns, asn)
		}
	}
	return asns
}
