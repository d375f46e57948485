package scenario

import "slices"

// topology answers how routes spread by the rules of Gao and Rexford: an AS prefers what it
// learned from a customer over what it learned from a peer over what it learned from a provider,
// then the shortest path, then the neighbour with the lowest ASN; customers' routes (and its own)
// it tells everybody, all others only its customers.
type topology struct {
	asns      []uint32 // sorted
	providers map[uint32][]uint32
	customers map[uint32][]uint32
	peers     map[uint32][]uint32
}

func newTopology(rels []Relationship) *topology {
	t := &topology{providers: map[uint32][]uint32{}, customers: map[uint32][]uint32{}, peers: map[uint32][]uint32{}}
	for _, r := range rels {
		t.asns = append(t.asns, r.A, r.B)
		if r.Peer {
			t.peers[r.A] = append(t.peers[r.A], r.B)
			t.peers[r.B] = append(t.peers[r.B], r.A)
		} else {
			t.customers[r.A] = append(t.customers[r.A], r.B)
			t.providers[r.B] = append(t.providers[r.B], r.A)
		}
	}
	slices.Sort(t.asns)
	t.asns = slices.Compact(t.asns)
	for _, m := range []map[uint32][]uint32{t.providers, t.customers, t.peers} {
		for a, list := range m {
			slices.Sort(list)
			m[a] = slices.Compact(list)
		}
	}
	return t
}

// class says from whom a route was learned, the most preferred first.
type class uint8

const (
	own class = iota
	fromCustomer
	fromPeer
	fromProvider
)

type route struct {
	next   uint32 // meaningless in an own route
	length int    // ASNs after this one
	class  class
}

// link is a pair of neighbours in either order.
type link struct{ a, b uint32 }

func (l link) is(a, b uint32) bool { return l == link{a, b} || l == link{b, a} }

// spread gives the best route of every AS that has one to a destination that each of origins
// announces. Nothing passes over the link without, unless that is zero.
func (t *topology) spread(origins []uint32, without link) map[uint32]route {
	routes := make(map[uint32]route, len(t.asns))
	level := slices.Clone(origins)
	slices.Sort(level)
	level = slices.Compact(level)
	for _, o := range level {
		routes[o] = route{class: own}
	}
	// Upwards, one hop at a time; within one length the lowest ASN speaks first and wins.
	for length := 1; len(level) > 0; length++ {
		var next []uint32
		for _, a := range level {
			for _, p := range t.providers[a] {
				if _, has := routes[p]; !has && !without.is(a, p) {
					routes[p] = route{next: a, length: length, class: fromCustomer}
					next = append(next, p)
				}
			}
		}
		slices.Sort(next)
		level = next
	}
	// Sideways, once.
	side := map[uint32]route{}
	for _, a := range t.asns {
		if _, has := routes[a]; has {
			continue
		}
		for _, p := range t.peers[a] {
			r, has := routes[p]
			if !has || without.is(a, p) {
				continue
			}
			if best, has := side[a]; !has || r.length+1 < best.length {
				side[a] = route{next: p, length: r.length + 1, class: fromPeer}
			}
		}
	}
	for a, r := range side {
		routes[a] = r
	}
	// Downwards, the shortest first.
	var byLength [][]uint32
	add := func(a uint32, length int) {
		for len(byLength) <= length {
			byLength = append(byLength, nil)
		}
		byLength[length] = append(byLength[length], a)
	}
	for a, r := range routes {
		add(a, r.length)
	}
	for length := 0; length < len(byLength); length++ {
		slices.Sort(byLength[length])
		for _, a := range byLength[length] {
			for _, c := range t.customers[a] {
				if _, has := routes[c]; !has && !without.is(a, c) {
					routes[c] = route{next: a, length: length + 1, class: fromProvider}
					add(c, length+1)
				}
			}
		}
	}
	return routes
}

// path gives the AS path of from's route, from itself first; nil where it has none or, being
// partial, does not tell it.
func path(routes map[uint32]route, from uint32, partial bool) []uint32 {
	r, has := routes[from]
	if !has || partial && r.class > fromCustomer {
		return nil
	}
	p := make([]uint32, 1, r.length+1)
	p[0] = from
	for r.class != own {
		p = append(p, r.next)
		r = routes[r.next]
	}
	return p
}
