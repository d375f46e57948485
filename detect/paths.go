package detect

import (
	"math"
	"slices"

	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// nodeID names a node of a pathTree. 0 is the root of ordinary routes.
type nodeID uint32

const (
	rootPlain     nodeID = 0 // routes without qualification
	rootBlackhole nodeID = 1 // routes tagged BLACKHOLE (RFC 7999)
	rootCount            = 2
)

type nodeFlags uint8

const (
	flagSet       nodeFlags = 1 << iota // an AS_SET is somewhere on the path
	flagReserved                        // a reserved ASN is somewhere on the path
	flagNovel                           // something on the path was not in linkMemory when the node was made or last judged
	flagBlackhole                       // the route is tagged BLACKHOLE
	flagASPA                            // the path is ASPA Invalid, whoever receives it
	flagWatched                         // a watch has something to say of it: who originates it, or who stands beside whom
)

// node is one AS of a path, linked towards the origin: every AS path is one node, and paths share
// their tails. What detection asks of a path is worked out once, here, from the parent's answer.
// 24 bytes.
type node struct {
	asn    uint32 // 0 stands for an AS_SET
	parent nodeID
	origin uint32 // 0 where the origin is NONE (RFC 6811)
	leak   nodeID // the leaker's node of the first valley counted from the origin; 0 when there is none
	flags  nodeFlags
	learnt learntFrom // how asn came by the route
	leakAs uint8      // RFC 7908 type of leak, 1 to 4; 0 when ASPA alone tells of it
	hops   uint8      // ASes from the origin to here, prepends left out; no more than 255
	up     uint8      // of these, how many can stand in a chain of customer and provider from the origin on (max_up)
	down   uint8      // the last of these, counted from the origin, that denies the one before it as provider (J)
}

// learntFrom is the relation of an AS to the neighbour that gave it the route.
type learntFrom uint8

const (
	fromUnknown learntFrom = iota
	fromCustomer
	fromPeer
	fromProvider
)

// pathTree interns AS paths as a tree that grows from the origins.
type pathTree struct {
	nodes    []node
	children idIndex
	rels     *topology.Relationships
	aspas    *rpki.Attestations
	links    *linkMemory
	watched  *watched
}

func newPathTree(rels *topology.Relationships, aspas *rpki.Attestations, links *linkMemory) *pathTree {
	t := &pathTree{rels: rels, aspas: aspas, links: links}
	t.nodes = make([]node, rootCount)
	t.nodes[rootBlackhole].flags = flagBlackhole
	return t
}

// intern returns the node of a path, making those that are missing.
func (t *pathTree) intern(p bgp.ASPath, blackhole bool) nodeID {
	id := rootPlain
	if blackhole {
		id = rootBlackhole
	}
	for i := len(p) - 1; i >= 0; i-- {
		switch s := p[i]; s.Type {
		case bgp.ASSequence:
			for j := len(s.ASNs) - 1; j >= 0; j-- {
				id = t.child(id, s.ASNs[j])
			}
		case bgp.ASSet:
			id = t.child(id, 0)
		}
		// Confederation segments are internal to an AS (RFC 5065 §5) and leave no trace here.
	}
	return id
}

func nodeHash(parent nodeID, asn uint32) uint64 { return hash(uint64(parent)<<32|uint64(asn), 0) }

func (t *pathTree) child(parent nodeID, asn uint32) nodeID {
	h := nodeHash(parent, asn)
	if id, ok := t.children.find(h, func(id uint32) bool { return t.nodes[id].parent == parent && t.nodes[id].asn == asn }); ok {
		return nodeID(id)
	}
	id := nodeID(len(t.nodes))
	t.nodes = append(t.nodes, t.grow(parent, asn))
	t.children.add(h, uint32(id))
	return id
}

// cut forgets the nodes from n on, the last that were made; nothing may refer to them.
func (t *pathTree) cut(n int) {
	for i, last := range t.nodes[n:] {
		t.children.remove(nodeHash(last.parent, last.asn), uint32(n+i))
	}
	t.nodes = t.nodes[:n]
}

// grow derives the node of asn upon parent.
func (t *pathTree) grow(parent nodeID, asn uint32) node {
	p := &t.nodes[parent]
	n := node{asn: asn, parent: parent, origin: p.origin, leak: p.leak, leakAs: p.leakAs, flags: p.flags,
		hops: p.hops, up: p.up, down: p.down}
	if asn == 0 {
		n.flags |= flagSet
	} else if registry.ReservedASN(asn) {
		n.flags |= flagReserved
	}
	switch {
	case parent < rootCount:
		n.origin = asn
		n.hops, n.up = 1, 1
		if t.watched.owns(asn) {
			n.flags |= flagWatched
		}
	case p.asn == asn: // a prepend
		n.learnt = p.learnt
	case asn != 0 && p.asn != 0:
		if t.links.novel(link{asn, p.asn, p.parent >= rootCount}) {
			n.flags |= flagNovel
		}
		if t.watched.unknownNeighbour(p.asn, asn) != nil {
			n.flags |= flagWatched
		}
		t.checkASPA(&n, parent)
		t.checkValley(&n, parent)
	}
	return n
}

// checkASPA carries the downstream algorithm of draft-ietf-sidrops-aspa-verification-28 one AS
// further: a path is Invalid whoever receives it when the way up from the origin ends before the
// last place where no way down can begin. The AS before that place passed it on.
func (t *pathTree) checkASPA(n *node, parent nodeID) {
	p := &t.nodes[parent]
	if n.flags&flagSet != 0 || p.hops == math.MaxUint8 {
		return // a set is Invalid by rule, not by proof; longer than 255 is no path in earnest
	}
	n.hops++
	if t.aspas == nil {
		return
	}
	if p.up == p.hops && t.aspas.Authorized(p.asn, n.asn) != rpki.NotProviderPlus {
		n.up = n.hops
	}
	if t.aspas.Authorized(n.asn, p.asn) == rpki.NotProviderPlus {
		n.down = n.hops
	}
	if n.down > n.up+1 {
		n.flags |= flagASPA
		if n.leak == 0 {
			n.leak = parent
		}
	}
}

// sureEnough is the probability below which an inferred relation makes no valley, lest it hide one
// that counts further on: two such relations could not open an incident.
const sureEnough = 0.9

// checkValley works out how n's AS learned the route from its parent, and whether the parent leaked
// it (RFC 7908): what came from a provider or a peer may go on to customers only.
func (t *pathTree) checkValley(n *node, parent nodeID) {
	p := &t.nodes[parent]
	var rel topology.Relation
	if l := t.rels.Link(p.asn, n.asn); max(l.V4, l.V6) >= sureEnough {
		rel = l.Relation
	}
	switch rel {
	case topology.Customer:
		n.learnt = fromCustomer
	case topology.Peer:
		n.learnt = fromPeer
	case topology.Provider:
		n.learnt = fromProvider
	case topology.Sibling:
		n.learnt = p.learnt
	}
	if n.leakAs != 0 || n.leak != 0 && n.leak != parent {
		return // an earlier one counts
	}
	type step struct {
		in  learntFrom
		out topology.Relation
	}
	switch (step{p.learnt, rel}) {
	case step{fromProvider, topology.Customer}:
		n.leakAs = 1
	case step{fromPeer, topology.Peer}:
		n.leakAs = 2
	case step{fromProvider, topology.Peer}:
		n.leakAs = 3
	case step{fromPeer, topology.Customer}:
		n.leakAs = 4
	default:
		return
	}
	n.leak = parent
}

// tail appends to dst the ASes of a path from the origin on, without prepends; an AS_SET is 0.
func (t *pathTree) tail(dst []uint32, id nodeID) []uint32 {
	start := len(dst)
	for ; id >= rootCount; id = t.nodes[id].parent {
		asn := t.nodes[id].asn
		if n := len(dst); n > start && dst[n-1] == asn {
			continue
		}
		dst = append(dst, asn)
	}
	slices.Reverse(dst[start:])
	return dst
}

// passes reports that asn stands on a path.
func (t *pathTree) passes(id nodeID, asn uint32) bool {
	for ; id >= rootCount; id = t.nodes[id].parent {
		if t.nodes[id].asn == asn {
			return true
		}
	}
	return false
}

// neighbours returns the AS beside the origin of a path and the one after it; 0 where there is none.
func (t *pathTree) neighbours(id nodeID) (hop, up uint32) {
	for origin := t.nodes[id].origin; id >= rootCount; id = t.nodes[id].parent {
		if a := t.nodes[id].asn; a != origin && a != hop && a != 0 {
			hop, up = a, hop
		}
	}
	return hop, up
}

// wire returns the path as announced, collector side first, prepends included, AS_SETs left out.
func (t *pathTree) wire(id nodeID) []uint32 {
	var p []uint32
	for ; id >= rootCount; id = t.nodes[id].parent {
		if asn := t.nodes[id].asn; asn != 0 {
			p = append(p, asn)
		}
	}
	return p
}

// repeatsBesideOrigin counts how often the AS beside the origin stands there in a row.
func (t *pathTree) repeatsBesideOrigin(id nodeID) int {
	path := t.wire(id)
	if len(path) < 2 {
		return 0
	}
	origin := path[len(path)-1]
	i := len(path) - 1
	for i > 0 && path[i] == origin {
		i--
	}
	beside, n := path[i], 0
	for ; i >= 0 && path[i] == beside; i-- {
		n++
	}
	return n
}

// triple returns the three ASes of the valley on a path, origin side first: whose route it was, who
// leaked it, and who accepted it.
func (t *pathTree) triple(id nodeID) (from, leaker, to uint32) {
	leak := t.nodes[id].leak
	leaker = t.nodes[leak].asn
	for p := leak; p >= rootCount; p = t.nodes[p].parent {
		if from = t.nodes[p].asn; from != leaker {
			break
		}
	}
	// The accepting AS is the first on the collector side of the leaker.
	for ; id != leak; id = t.nodes[id].parent {
		if a := t.nodes[id].asn; a != leaker {
			to = a
		}
	}
	return from, leaker, to
}

// compact drops every node that no root in keep reaches and returns the new id of each old one.
func (t *pathTree) compact(keep func(mark func(nodeID))) []nodeID {
	live := make([]bool, len(t.nodes))
	keep(func(id nodeID) {
		for ; !live[id] && id >= rootCount; id = t.nodes[id].parent {
			live[id] = true
		}
	})
	// The leaker's node is an ancestor, and parents stand before their children: one pass renumbers all.
	renumber := make([]nodeID, len(t.nodes))
	next := t.nodes[:rootCount]
	var children idIndex
	for i := range renumber {
		old := nodeID(i)
		if old < rootCount {
			renumber[old] = old
			continue
		}
		if !live[old] {
			continue
		}
		n := t.nodes[old]
		n.parent, n.leak = renumber[n.parent], renumber[n.leak]
		id := nodeID(len(next))
		next = append(next, n)
		renumber[old] = id
		children.add(nodeHash(n.parent, n.asn), uint32(id))
	}
	t.nodes = next
	t.children = children
	return renumber
}
