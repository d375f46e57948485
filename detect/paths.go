package detect

import (
	"iter"
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
	rootMarked    nodeID = 2 // the first of maxMarked roots of routes that OTC shows to be leaked, see shard.marked
	rootCount            = 2 + maxMarked
)

// maxMarked bounds the place of the AS that OTC names, counted from the origin as in pathTree.tail: each has a root.
const maxMarked = 16

type nodeFlags uint8

const (
	flagSet       nodeFlags = 1 << iota // an AS_SET is somewhere on the path
	flagReserved                        // a reserved ASN is somewhere on the path
	flagNovel                           // something on the path was not in linkMemory when the node was made or last judged
	flagBlackhole                       // the route is tagged BLACKHOLE
	flagASPA                            // the path is ASPA Invalid, whoever receives it
	flagWatched                         // a watch has something to say of it: who originates it, or who stands beside whom
	flagFree                            // the node stands for nothing; its parent is the next such
	flagMarked                          // OTC showed that the route was leaked (RFC 9234)
)

// node is one AS of a path, linked towards the origin: every AS path is one node, and paths share
// their tails. What detection asks of a path is worked out once, here, from the parent's answer.
// 16 bytes, and 5 to 7 in the index.
type node struct {
	asn    uint32 // 0 stands for an AS_SET
	parent nodeID
	origin uint32 // 0 where the origin is NONE (RFC 6811)
	flags  nodeFlags
	learnt learntFrom // how asn came by the route
	leak   leakType   // that of the first valley counted from the origin; see pathTree.leaker for where it is
	ramp   ramp
}

// learntFrom is the relation of an AS to the neighbour that gave it the route.
type learntFrom uint8

const (
	fromUnknown learntFrom = iota
	fromCustomer
	fromPeer
	fromProvider
)

// leakType says by what a path has a valley: 1 to 4 is a type of leak of RFC 7908.
type leakType uint8

const (
	noLeak   leakType = 0
	leakASPA leakType = 5 // ASPA alone tells of it
)

// rfc7908 is the type of leak, 1 to 4; 0 when there is none, or ASPA alone tells of it.
func (l leakType) rfc7908() int {
	if l == leakASPA {
		return 0
	}
	return int(l)
}

// ramp is how a path stands to the way up from its origin, the longest chain in which no AS denies the next one as its
// provider (max_up of draft-ietf-sidrops-aspa-verification-28).
type ramp uint8

const (
	climbing ramp = iota // the whole path may be that chain
	atTop                // it ended with the AS before
	beyond               // it ended earlier: from here on only ways down are left
)

// maxNodes is how many nodes a tree may have; the index keeps no more bits of an id.
const maxNodes = 1 << 28

// pathTree interns AS paths as a tree that grows from the origins. Nodes that no route uses any more are found and used
// again bit by bit, see cleaning.
type pathTree struct {
	nodes    []node
	children nodeIndex
	free     nodeID // the first of the free nodes; 0: there is none
	freed    int    // how many those are
	cleaning *cleaning
	most     int // maxNodes
	rels     *topology.Relationships
	aspas    *rpki.Attestations
	links    *linkMemory
	watched  *watched
}

func newPathTree(rels *topology.Relationships, aspas *rpki.Attestations, links *linkMemory) *pathTree {
	t := &pathTree{rels: rels, aspas: aspas, links: links, most: maxNodes}
	t.nodes = make([]node, rootCount)
	t.nodes[rootBlackhole].flags = flagBlackhole
	for id := rootMarked; id < rootCount; id++ {
		t.nodes[id].flags = flagMarked
	}
	return t
}

// size is the number of nodes in use, roots not counted.
func (t *pathTree) size() int { return len(t.nodes) - rootCount - t.freed }

// intern returns the node of a path upon a root, making those that are missing; the root itself where there are too many.
func (t *pathTree) intern(p bgp.ASPath, root nodeID) nodeID { return t.internNear(p, root, root) }

// internNear is intern for a path that near may resemble: what the two share from the origin on is not looked up. Paths to
// one prefix do, and whoever announces a route again does in most of it.
func (t *pathTree) internNear(p bgp.ASPath, root, near nodeID) nodeID {
	id := root
	if t.size() > t.most-maxPathLength {
		return id
	}
	var scratch [32]nodeID
	way := scratch[:0] // from near to its origin, as far as it is not passed yet
	for ; near >= rootCount && len(way) < len(scratch); near = t.nodes[near].parent {
		way = append(way, near)
	}
	if near != root {
		way = nil
	}
	step := func(asn uint32) {
		if last := len(way) - 1; last >= 0 && t.nodes[way[last]].asn == asn {
			id, way = way[last], way[:last]
			return
		}
		id, way = t.child(id, asn), nil
	}
	for i := len(p) - 1; i >= 0; i-- {
		switch s := p[i]; s.Type {
		case bgp.ASSequence:
			for j := len(s.ASNs) - 1; j >= 0; j-- {
				step(s.ASNs[j])
			}
		case bgp.ASSet:
			step(0)
		}
		// Confederation segments are internal to an AS (RFC 5065 §5) and leave no trace here.
	}
	if t.cleaning != nil {
		t.cleaning.mark(t, id)
	}
	return id
}

// maxPathLength is more ASes than fit into any path attribute (RFC 4271 §4.3).
const maxPathLength = 1 << 14

func nodeHash(parent nodeID, asn uint32) uint64 { return hash(uint64(parent)<<32|uint64(asn), 0) }

func (t *pathTree) child(parent nodeID, asn uint32) nodeID {
	h := nodeHash(parent, asn)
	if id, ok := t.children.find(h, t.nodes, parent, asn); ok {
		return id
	}
	n, id := t.grow(parent, asn), t.free
	if id != 0 {
		t.free = t.nodes[id].parent
		t.freed--
		t.nodes[id] = n
	} else {
		id = nodeID(len(t.nodes))
		if len(t.nodes) == cap(t.nodes) { // an eighth more, where append would take a quarter or double it
			t.nodes = append(make([]node, 0, len(t.nodes)+len(t.nodes)/8+256), t.nodes...)
		}
		t.nodes = append(t.nodes, n)
	}
	t.children.add(h, id, t.nodes)
	return id
}

// cut forgets the nodes from n on, the last that were made; nothing may refer to them.
func (t *pathTree) cut(n int) {
	for i := len(t.nodes) - 1; i >= n; i-- {
		t.children.remove(nodeID(i), t.nodes)
	}
	t.nodes = t.nodes[:n]
}

// fromRoots yields every node that stands for something, a parent before its children.
func (t *pathTree) fromRoots() iter.Seq[nodeID] {
	return func(yield func(nodeID) bool) {
		done := newNodeSet(t)
		var up []nodeID
		for i := rootCount; i < len(t.nodes); i++ {
			if t.nodes[i].flags&flagFree != 0 {
				continue
			}
			for id := nodeID(i); id >= rootCount && !done.contains(int(id)); id = t.nodes[id].parent {
				done.add(id)
				up = append(up, id)
			}
			for ; len(up) > 0; up = up[:len(up)-1] {
				if !yield(up[len(up)-1]) {
					return
				}
			}
		}
	}
}

// grow makes the node of asn upon parent.
func (t *pathTree) grow(parent nodeID, asn uint32) node {
	n := t.derive(parent, asn)
	if p := &t.nodes[parent]; parent >= rootCount && p.asn != asn && asn != 0 && p.asn != 0 &&
		t.links.novel(link{asn, p.asn, p.parent >= rootCount}) {
		n.flags |= flagNovel
	}
	return n
}

// again makes a node anew. Novelty is a matter of when it was judged: what was not novel does not become so, and the
// look-up, which would take as long as all the rest, is left out.
func (t *pathTree) again(id nodeID) node {
	if old := &t.nodes[id]; old.flags&flagNovel != 0 {
		return t.grow(old.parent, old.asn)
	}
	return t.derive(t.nodes[id].parent, t.nodes[id].asn)
}

// derive works out the node of asn upon parent, as novel as that is.
func (t *pathTree) derive(parent nodeID, asn uint32) node {
	p := &t.nodes[parent]
	n := node{asn: asn, parent: parent, origin: p.origin, leak: p.leak, flags: p.flags, ramp: p.ramp}
	if asn == 0 {
		n.flags |= flagSet
	} else if registry.ReservedASN(asn) {
		n.flags |= flagReserved
	}
	switch {
	case parent < rootCount:
		n.origin = asn
		if t.watched.owns(asn) {
			n.flags |= flagWatched
		}
	case p.asn == asn: // a prepend
		n.learnt = p.learnt
	case asn != 0 && p.asn != 0:
		if t.watched.unknownNeighbour(p.asn, asn) != nil {
			n.flags |= flagWatched
		}
		t.checkASPA(&n, p)
		t.checkValley(&n, p)
	}
	return n
}

// checkASPA carries the downstream algorithm of draft-ietf-sidrops-aspa-verification-28 one AS
// further: a path is Invalid whoever receives it when the way up from the origin ends before the
// last place where no way down can begin. The AS before that place passed it on.
func (t *pathTree) checkASPA(n, p *node) {
	if t.aspas == nil || n.flags&flagSet != 0 {
		return // a set is Invalid by rule, not by proof
	}
	switch {
	case p.ramp != climbing:
		n.ramp = beyond
	case t.aspas.Authorized(p.asn, n.asn) == rpki.NotProviderPlus:
		n.ramp = atTop
	}
	if n.ramp == beyond && t.aspas.Authorized(n.asn, p.asn) == rpki.NotProviderPlus {
		n.flags |= flagASPA
		if n.leak == noLeak {
			n.leak = leakASPA
		}
	}
}

// sureEnough is the probability below which an inferred relation makes no valley, lest it hide one
// that counts further on: two such relations could not open an incident.
const sureEnough = 0.9

// checkValley works out how n's AS learned the route from its parent, and whether the parent leaked
// it (RFC 7908): what came from a provider or a peer may go on to customers only.
func (t *pathTree) checkValley(n, p *node) {
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
	if p.leak != noLeak {
		return // an earlier one counts
	}
	type step struct {
		in  learntFrom
		out topology.Relation
	}
	switch (step{p.learnt, rel}) {
	case step{fromProvider, topology.Customer}:
		n.leak = 1
	case step{fromPeer, topology.Peer}:
		n.leak = 2
	case step{fromProvider, topology.Peer}:
		n.leak = 3
	case step{fromPeer, topology.Customer}:
		n.leak = 4
	}
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

// rootOf returns the root that a path grows from.
func (t *pathTree) rootOf(id nodeID) nodeID {
	for id >= rootCount {
		id = t.nodes[id].parent
	}
	return id
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

// leaker returns the node of the AS that leaked on a path with a valley.
func (t *pathTree) leaker(id nodeID) nodeID {
	for t.nodes[t.nodes[id].parent].leak != noLeak {
		id = t.nodes[id].parent
	}
	return t.nodes[id].parent
}

// triple returns the three ASes of the valley on a path, origin side first: whose route it was, who
// leaked it, and who accepted it.
func (t *pathTree) triple(id nodeID) (from, leaker, to uint32) {
	leak := t.leaker(id)
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
