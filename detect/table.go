package detect

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/detect/prefixtree"
	"github.com/routevigil/routevigil/ingest"
)

// peerID names a peer of the engine.
type peerID uint32

// route is what one peer says of one prefix. 8 bytes.
type route struct {
	peer peerID
	node nodeID
}

// entry is one prefix of the table. It outlives its routes: what was usual is remembered.
type entry struct {
	prefix  netip.Prefix
	routes  []route     // sorted by peer
	origins origins.Ref // all that ever were, in the order of first appearance
	suspect bool        // some route was not harmless when last judged: any change asks for a new judgement
	dirty   int32       // 1 + its place on the list of entries to judge at the next tick; 0 when not there
}

// MaxPrefixes bounds the table: more than ten times the global table of 2026. Announcements of
// further prefixes are counted and dropped.
const MaxPrefixes = 16 << 20

// table is the Adj-RIB-In of every peer for the prefixes of one shard.
type table struct {
	paths     *pathTree
	history   *origins.History
	entries   []entry
	index     map[netip.Prefix]uint32
	tree      *prefixtree.Tree // of entry ids
	perPeer   []int32          // routes by peer
	routes    int
	announced int    // entries that have a route
	refused   uint64 // announcements dropped for MaxPrefixes
}

func newTable(paths *pathTree, clock *origins.Clock) *table {
	return &table{paths: paths, history: origins.New(clock), index: map[netip.Prefix]uint32{}, tree: prefixtree.New()}
}

// entryFor returns the id of p's entry, making it; ok is false when the table is full.
func (t *table) entryFor(p netip.Prefix) (id uint32, ok bool) {
	if id, ok := t.index[p]; ok {
		return id, true
	}
	if len(t.entries) >= MaxPrefixes {
		t.refused++
		return 0, false
	}
	id = uint32(len(t.entries))
	t.entries = append(t.entries, entry{prefix: p})
	t.index[p] = id
	t.tree.Insert(p, id)
	return id, true
}

// origin returns what is known of asn as an origin of e, or nil.
func (t *table) origin(e *entry, asn uint32) *origins.Pair { return t.history.Find(e.origins, asn) }

// set makes node peer's route to e and returns its origin. changed is false, and the origin nil, when the
// peer only repeated itself.
func (t *table) set(e *entry, peer peerID, n nodeID, now ingest.Time) (o *origins.Pair, changed bool) {
	origin := t.paths.nodes[n].origin
	i, found := e.route(peer)
	if !found {
		t.insert(e, i, route{peer, n})
		return t.history.Count(&e.origins, origin, 1, now), true
	}
	old := e.routes[i].node
	if old == n {
		return nil, false
	}
	e.routes[i].node = n
	if before := t.paths.nodes[old].origin; before != origin {
		t.history.Count(&e.origins, before, -1, now)
		return t.history.Count(&e.origins, origin, 1, now), true
	}
	return t.origin(e, origin), true
}

// route returns the place of peer's route among e's, and whether it has one.
func (e *entry) route(peer peerID) (at int, found bool) {
	return slices.BinarySearchFunc(e.routes, peer, func(r route, p peerID) int { return cmp.Compare(r.peer, p) })
}

func (t *table) insert(e *entry, at int, r route) {
	if len(e.routes) == 0 {
		t.announced++
	}
	e.routes = slices.Insert(e.routes, at, r)
	t.addToPeer(r.peer, 1)
}

// unset removes peer's route to e.
func (t *table) unset(e *entry, peer peerID, now ingest.Time) (changed bool) {
	i, found := e.route(peer)
	if !found {
		return false
	}
	t.history.Count(&e.origins, t.paths.nodes[e.routes[i].node].origin, -1, now)
	e.routes = slices.Delete(e.routes, i, i+1)
	if len(e.routes) == 0 {
		t.announced--
	}
	t.addToPeer(peer, -1)
	return true
}

func (t *table) addToPeer(peer peerID, n int32) {
	if int(peer) >= len(t.perPeer) {
		t.perPeer = append(t.perPeer, make([]int32, int(peer)+1-len(t.perPeer))...)
	}
	t.perPeer[peer] += n
	t.routes += int(n)
}

// covering returns the entries that contain p, the longest first, without p itself.
func (t *table) covering(p netip.Prefix) []*entry {
	var buf [32]uint32
	var es []*entry
	for _, id := range t.tree.Covering(buf[:0], p) {
		if t.entries[id].prefix != p {
			es = append(es, &t.entries[id])
		}
	}
	slices.Reverse(es)
	return es
}

// dropPeers removes every route of the given peers.
func (t *table) dropPeers(gone map[peerID]bool, now ingest.Time) (changed []uint32) {
	for id := range t.entries {
		e := &t.entries[id]
		before := len(e.routes)
		e.routes = slices.DeleteFunc(e.routes, func(r route) bool {
			if !gone[r.peer] {
				return false
			}
			t.history.Count(&e.origins, t.paths.nodes[r.node].origin, -1, now)
			t.addToPeer(r.peer, -1)
			return true
		})
		if len(e.routes) != before {
			if len(e.routes) == 0 {
				t.announced--
			}
			changed = append(changed, uint32(id))
		}
	}
	return changed
}

// compactAt is the number of path nodes from which a clean-up may pay.
const compactAt = 1 << 20

// compactPaths drops path nodes that no route uses any more.
func (t *table) compactPaths() {
	renumber := t.paths.compact(func(mark func(nodeID)) {
		for i := range t.entries {
			for _, r := range t.entries[i].routes {
				mark(r.node)
			}
		}
	})
	for i := range t.entries {
		for j := range t.entries[i].routes {
			t.entries[i].routes[j].node = renumber[t.entries[i].routes[j].node]
		}
	}
}
