package simulate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/scorecard"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
)

// The detector's copy of the relationships lacks and distorts links at these rates. Peerings are hard to see from outside.
const (
	transitMissing   = 0.02
	transitAsPeering = 0.01
	peeringMissing   = 0.2
	peeringAsTransit = 0.03
)

// block is address space that one AS holds. Blocks do not overlap.
type block struct {
	prefix netip.Prefix
	holder node
	roas   []roa
}

type roa struct {
	prefix    netip.Prefix
	maxLength int
	asn       uint32
}

// invalid reports whether the route of p with this origin is RPKI Invalid (RFC 6811 §2). It is worked out here and not by
// package rpki, so that the truth does not come from what is measured.
func (b *block) invalid(p netip.Prefix, origin uint32) bool {
	covered := false
	for _, r := range b.roas {
		if r.prefix.Bits() <= p.Bits() && r.prefix.Contains(p.Addr()) {
			covered = true
			if r.asn == origin && p.Bits() <= r.maxLength {
				return false
			}
		}
	}
	return covered
}

// destination is a prefix that is announced at some time.
type destination struct {
	prefix netip.Prefix
	block  *block // nil for special-purpose space
	usual  announcement
	said   announcement
	heard  []*route         // by vantage point; nil where it has none
	under  *scorecard.Label // of the event that changes what is said
}

// route is what a vantage point says of a prefix. It is never changed.
type route struct {
	path []uint32
	otc  uint32
	med  uint32
}

func (r *route) equal(o *route) bool {
	return r == o || r != nil && o != nil && r.otc == o.otc && r.med == o.med && slices.Equal(r.path, o.path)
}

// vantage is an AS that feeds collectors.
type vantage struct {
	at       node
	partial  bool  // it shows its customers' routes and its own only
	sessions []int // places in world.sessions
}

type world struct {
	c      Configuration
	rng    *rand.Rand
	rels   *topology.Relationships
	g      *graph
	spread *spreader

	origins      []node
	blocks       []*block
	blocksOf     map[node][]*block
	destinations []*destination
	byPrefix     map[netip.Prefix]int
	siblings     [][2]node
	attestedToo  map[node][]node // providers to come, by customer
	// Those who are registered as customers of another, and are none yet or never.
	registeredToo map[node][]node

	vantages []vantage
	sessions []ingest.Peer
	slowness []float64 // by session
}

func newWorld(c Configuration) (*world, error) {
	w := &world{c: c, rng: rand.New(rand.NewPCG(c.Seed, 0x776f726c64)), rels: c.Relationships, blocksOf: map[node][]*block{}, byPrefix: map[netip.Prefix]int{},
		attestedToo: map[node][]node{}, registeredToo: map[node][]node{}}
	if w.rels == nil {
		w.rels = Generate(c.Seed, c.ASes)
	}
	edges := 0
	newGraph(w.rels, func(_ uint32, customers int) bool {
		if customers == 0 {
			edges++
		}
		return false
	})
	// Networks at the edge carry nobody's routes but their own: of those only some are needed.
	part := 1.5 * float64(c.Origins) / float64(max(edges, 1))
	w.g = newGraph(w.rels, func(asn uint32, customers int) bool {
		_, scrubs := topology.Scrubbing(asn)
		return customers > 0 || scrubs || chosen(part, c.Seed, uint64(asn))
	})
	n := len(w.g.asns)
	if n < c.Origins || n < 2*c.Peers {
		return nil, fmt.Errorf("%d ASes are too few for %d origins and %d peers", n, c.Origins, c.Peers)
	}
	rov, otc, long := make([]bool, n), make([]bool, n), make([]bool, n)
	for i := range n {
		rov[i] = len(w.g.customers[i]) > 0 && w.rng.Float64() < c.ROV
		otc[i] = w.rng.Float64() < c.OTC
		long[i] = w.rng.Float64() < 0.3
	}
	w.spread = newSpreader(w.g, c.Seed, rov, otc, long)
	w.chooseVantages()
	if err := w.handOutSpace(); err != nil {
		return nil, err
	}
	return w, nil
}

// chooseVantages takes two thirds of the peers among networks with customers, and the rest at the edge; the former are
// asked first by collectors in the real world, too. A sixth of the peers show customers' routes only.
func (w *world) chooseVantages() {
	var transit, edge []node
	for i := range w.g.asns {
		if len(w.g.customers[i]) > 0 {
			transit = append(transit, node(i))
		} else {
			edge = append(edge, node(i))
		}
	}
	w.rng.Shuffle(len(transit), func(i, j int) { transit[i], transit[j] = transit[j], transit[i] })
	w.rng.Shuffle(len(edge), func(i, j int) { edge[i], edge[j] = edge[j], edge[i] })
	for i := range w.c.Peers {
		from := &transit
		if i%3 == 2 && len(edge) > 0 || len(transit) == 0 {
			from = &edge
		}
		v := vantage{at: (*from)[0], partial: i%6 == 3}
		*from = (*from)[1:]
		sessions := 1
		if i%3 == 0 {
			sessions = min(1+1+w.rng.IntN(2), w.c.Collectors)
		}
		first := w.rng.IntN(w.c.Collectors)
		for s := range sessions {
			number := len(w.sessions)
			v.sessions = append(v.sessions, number)
			w.sessions = append(w.sessions, ingest.Peer{Collector: fmt.Sprintf("sim%02d", (first+s)%w.c.Collectors), ASN: w.g.asns[v.at],
				Addr: netip.AddrFrom4([4]byte{172, 16, byte(number >> 8), byte(number)})})
			w.slowness = append(w.slowness, 0.5+1.5*w.rng.Float64())
		}
		w.vantages = append(w.vantages, v)
	}
}

// lengths are how long blocks are, with how often of 100.
var lengths = []struct{ bits, often int }{{24, 50}, {22, 20}, {20, 12}, {19, 8}, {18, 5}, {16, 5}}

// handOutSpace gives each origin prefixes, ever fewer by Zipf's law, and ROAs.
func (w *world) handOutSpace() error {
	order := w.rng.Perm(len(w.g.asns))
	var sum float64
	for rank := range w.c.Origins {
		sum += math.Pow(float64(rank+1), -0.8)
	}
	next := uint32(23) << 24
	for rank, i := range order[:w.c.Origins] {
		origin := node(i)
		w.origins = append(w.origins, origin)
		ways := w.waysToAnnounce(origin)
		attests := w.rng.Float64() < w.c.ROA
		for left := max(1, int(float64(w.c.Prefixes)*math.Pow(float64(rank+1), -0.8)/sum)); left > 0; left-- {
			bits, roll := 24, w.rng.IntN(100)
			for _, l := range lengths {
				if bits = l.bits; roll < l.often {
					break
				}
				roll -= l.often
			}
			size := uint32(1) << (32 - bits)
			next = (next + size - 1) &^ (size - 1)
			if next >= 100<<24 {
				return fmt.Errorf("there is no room for %d prefixes", w.c.Prefixes)
			}
			b := &block{prefix: netip.PrefixFrom(address(next), bits), holder: origin}
			next += size
			w.blocks, w.blocksOf[origin] = append(w.blocks, b), append(w.blocksOf[origin], b)
			specific := netip.Prefix{}
			if bits < 24 && w.rng.Float64() < 0.2 {
				specific, left = half(b.prefix, w.rng.IntN(2)), left-1
			}
			if attests {
				w.attest(b, specific)
			}
			usual := ways[0]
			if w.rng.Float64() < 0.2 {
				usual = ways[w.rng.IntN(len(ways))]
			}
			w.add(b.prefix, b, usual)
			if specific.IsValid() {
				w.add(specific, b, ways[w.rng.IntN(len(ways))])
			}
		}
	}
	for i := 0; i+1 < len(w.origins); i += 12 {
		w.siblings = append(w.siblings, [2]node{w.origins[i], w.origins[i+1]})
	}
	return nil
}

// waysToAnnounce returns what origin may say of its prefixes: all of it to everybody or, with several providers, to one of
// them, or with its number prepended to one of them.
func (w *world) waysToAnnounce(origin node) []announcement {
	asn := w.g.asns[origin]
	ways := []announcement{{{at: origin, path: []uint32{asn}}}}
	if providers := w.g.providers[origin]; len(providers) > 1 {
		one := providers[w.rng.IntN(len(providers))]
		var others []node
		for _, n := range slices.Concat(providers, w.g.peers[origin], w.g.customers[origin]) {
			if n != one {
				others = append(others, n)
			}
		}
		ways = append(ways, announcement{{at: origin, to: []node{one}, path: []uint32{asn}}},
			announcement{{at: origin, to: []node{one}, path: []uint32{asn, asn, asn}}, {at: origin, to: others, path: []uint32{asn}}})
	}
	return ways
}

// attest makes a block's ROA: mostly right, with a maximum length or without; a few name another AS, or forget the
// more-specific that is announced. These routes are Invalid all the time.
func (w *world) attest(b *block, specific netip.Prefix) {
	r := roa{b.prefix, b.prefix.Bits(), w.g.asns[b.holder]}
	roll := w.rng.Float64()
	switch {
	case roll < 0.03:
		r.asn = w.g.asns[w.rng.IntN(len(w.g.asns))]
	case roll < 0.4:
		r.maxLength = 24
	case specific.IsValid() && roll < 0.9:
		b.roas = append(b.roas, roa{specific, specific.Bits(), r.asn})
	}
	b.roas = append(b.roas, r)
}

// add makes p a destination with what is usually said of it; nil if it is not announced.
func (w *world) add(p netip.Prefix, b *block, usual announcement) int {
	if usual != nil && b.invalid(p, origin(usual)) {
		usual = slices.Clone(usual)
		for i := range usual {
			usual[i].invalid = true
		}
	}
	w.byPrefix[p] = len(w.destinations)
	w.destinations = append(w.destinations, &destination{prefix: p, block: b, usual: usual, heard: make([]*route, len(w.vantages))})
	return len(w.destinations) - 1
}

// chosen is true of a share of things, always of the same.
func chosen(share float64, seed uint64, parts ...uint64) bool {
	return float64(hash(seed, parts...)>>11)/(1<<53) < share
}

func origin(a announcement) uint32 { return a[0].path[len(a[0].path)-1] }

func address(a uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)})
}

// half returns the lower or upper half of an IPv4 prefix.
func half(p netip.Prefix, upper int) netip.Prefix {
	a := p.Addr().As4()
	if bit := p.Bits(); upper == 1 {
		a[bit/8] |= 0x80 >> (bit % 8)
	}
	return netip.PrefixFrom(netip.AddrFrom4(a), p.Bits()+1)
}

// imperfect returns the relationships as the detector is told them.
func (w *world) imperfect() *topology.Relationships {
	b := topology.NewBuilder(topology.Published, "simulated relationships")
	rng := rand.New(rand.NewPCG(w.c.Seed, 0x72656c73))
	for pair, l := range w.rels.All() {
		rel, roll := l.Relation, rng.Float64()
		switch {
		case rel == topology.Peer && roll < peeringMissing, rel != topology.Peer && roll < transitMissing:
			continue
		case rel == topology.Peer && roll < peeringMissing+peeringAsTransit:
			rel = topology.Provider
		case rel != topology.Peer && roll < transitMissing+transitAsPeering:
			rel = topology.Peer
		}
		b.Set(pair[0], pair[1], rel)
	}
	return b.Build()
}

func (w *world) organisations() *topology.Organisations {
	o := topology.NewOrganisations("simulated organisations")
	for i, pair := range w.siblings {
		for _, n := range pair {
			o.Set(w.g.asns[n], fmt.Sprintf("ORG-%d", i+1))
		}
	}
	return o
}

func (w *world) attested() *rpki.Set {
	d := rpki.Data{ASPAs: rpki.ASPAs{}}
	for _, b := range w.blocks {
		for _, r := range b.roas {
			d.VRPs = append(d.VRPs, rpki.VRP{Prefix: r.prefix, MaxLength: uint8(r.maxLength), ASN: r.asn})
		}
	}
	for n, asn := range w.g.asns {
		if providers := w.g.providers[n]; len(providers) > 0 && chosen(w.c.ASPA, w.c.Seed, 0x61737061, uint64(asn)) {
			var asns []uint32
			for _, p := range slices.Concat(providers, w.attestedToo[node(n)]) {
				asns = append(asns, w.g.asns[p])
			}
			d.ASPAs.Add(asn, asns)
		}
	}
	return rpki.NewSet(d, "simulated RPKI")
}
