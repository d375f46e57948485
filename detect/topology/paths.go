package topology

import "slices"

// ReservedASN reports ASNs that must not appear in the global table: AS 0 (RFC 7607), AS_TRANS
// (RFC 6793), documentation (RFC 5398), private use (RFC 6996), and the last of each size (RFC 7300).
func ReservedASN(a uint32) bool {
	switch {
	case a == 0, a == 23456, a == 65535, a == 4294967295:
		return true
	case a >= 64496 && a <= 64511, a >= 65536 && a <= 65551:
		return true
	}
	return PrivateASN(a)
}

// PrivateASN reports the ASNs of RFC 6996, which anybody may use inside but not outside.
func PrivateASN(a uint32) bool {
	return a >= 64512 && a <= 65534 || a >= 4200000000 && a <= 4294967294
}

const (
	// maxHops is the longest path that counts, prepends left out: the longest real ones have about 20.
	maxHops = 32
	// MaxPathNodes bounds a set of paths to about 250 MB. The tables of some fifty full-feed peers
	// fit; of more paths only those that share their way with the ones before are taken.
	MaxPathNodes = 4 << 20
)

// Paths is a set of AS paths from which relationships can be inferred. It is a tree that grows from
// the origins, as the paths to a network share their end; 60 bytes a node.
type Paths struct {
	nodes    []pathNode // the first is the root
	children map[uint64]uint32
	asns     []uint32
	index    map[uint32]uint32 // of asns
	servers  map[uint32]bool

	// Passed over, by reason: a path has a reserved ASN or an AS_SET, visits an AS twice, is longer than
	// any real one, or came when the set was full.
	Reserved, Loops, Long, Full int
}

type pathNode struct {
	parent uint32
	as     uint32 // index of asns
	ends   bool   // some path ends here, at the collector's peer
}

// NewPaths returns an empty set. routeServers are the ASNs of route servers, which some exchanges
// leave in paths: they are cut out, as their clients peer with one another through them.
func NewPaths(routeServers []uint32) *Paths {
	p := &Paths{nodes: make([]pathNode, 1), children: map[uint64]uint32{}, index: map[uint32]uint32{}, servers: map[uint32]bool{}}
	for _, asn := range routeServers {
		p.servers[asn] = true
	}
	return p
}

// Add takes a path, collector side first, with an AS_SET as 0. Prepends are left out, and so are
// paths that cannot be as they say. The path is not kept.
func (p *Paths) Add(path []uint32) {
	var hops [maxHops]uint32
	n := 0
	for i := len(path) - 1; i >= 0; i-- {
		asn := path[i]
		switch {
		case p.servers[asn] || n > 0 && hops[n-1] == asn:
			continue
		case ReservedASN(asn):
			p.Reserved++
			return
		case slices.Contains(hops[:n], asn):
			p.Loops++
			return
		case n == maxHops:
			p.Long++
			return
		}
		hops[n] = asn
		n++
	}
	if n < 2 {
		return // no link
	}
	at := uint32(0)
	for _, asn := range hops[:n] {
		as, known := p.index[asn]
		if !known {
			as = uint32(len(p.asns))
		}
		key := uint64(at)<<32 | uint64(as)
		child, ok := p.children[key]
		if !ok {
			if len(p.nodes) >= MaxPathNodes {
				p.Full++
				return
			}
			if !known {
				p.asns = append(p.asns, asn)
				p.index[asn] = as
			}
			child = uint32(len(p.nodes))
			p.nodes = append(p.nodes, pathNode{parent: at, as: as})
			p.children[key] = child
		}
		at = child
	}
	p.nodes[at].ends = true
}

// Len is the number of distinct paths.
func (p *Paths) Len() int {
	n := 0
	for i := range p.nodes {
		if p.nodes[i].ends {
			n++
		}
	}
	return n
}
