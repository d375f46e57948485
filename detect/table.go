package detect

import (
	"cmp"
	"net/netip"
	"slices"

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

// originRecord is what is known of one origin of a prefix. 32 bytes.
type originRecord struct {
	asn    uint32
	routes int32       // peers that route to this origin now
	first  ingest.Time // first seen
	since  ingest.Time // since when some peer has had it without a break
	// usual says that this origin was learned as normal: part of the baseline, or judged harmless.
	usual bool
	// baseline says that it was learned from the baseline rather than later.
	baseline bool
}

// entry is one prefix of the table. It outlives its routes: what was usual is remembered.
type entry struct {
	prefix  netip.Prefix
	routes  []route // sorted by peer
	origins []originRecord
	suspect bool  // some route was not harmless when last judged: any change asks for a new judgement
	dirty   int32 // 1 + its place on the list of entries to judge at the next tick; 0 when not there
}

func (e *entry) origin(asn uint32) *originRecord {
	for i := range e.origins {
		if e.origins[i].asn == asn {
			return &e.origins[i]
		}
	}
	return nil
}

// usualOrigins returns the ASNs learned as normal, those with most routes first.
func (e *entry) usualOrigins() []originRecord {
	var u []originRecord
	for _, o := range e.origins {
		if o.usual && o.asn != 0 {
			u = append(u, o)
		}
	}
	slices.SortStableFunc(u, func(a, b originRecord) int {
		return cmp.Or(cmp.Compare(b.routes, a.routes), cmp.Compare(a.asn, b.asn))
	})
	return u
}

// usualBefore is usualOrigins without those that came after asn did: who announces a more-specific
// to take back what another has hijacked makes it neither usual nor anything else than before.
func (e *entry) usualBefore(asn uint32) []originRecord {
	accused := e.origin(asn)
	return slices.DeleteFunc(e.usualOrigins(), func(o originRecord) bool {
		return accused != nil && o.asn != asn && !o.baseline && o.first >= accused.first
	})
}

// MaxPrefixes bounds the table: more than ten times the global table of 2026. Announcements of
// further prefixes are counted and dropped.
const MaxPrefixes = 16 << 20

// table is the Adj-RIB-In of every peer for the prefixes of one shard.
type table struct {
	paths     *pathTree
	entries   []entry
	index     map[netip.Prefix]uint32
	tree      *prefixtree.Tree // of entry ids
	perPeer   []int32          // routes by peer
	routes    int
	announced int    // entries that have a route
	refused   uint64 // announcements dropped for MaxPrefixes
}

func newTable(paths *pathTree) *table {
	return &table{paths: paths, index: map[netip.Prefix]uint32{}, tree: prefixtree.New()}
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

// set makes node peer's route to e. changed is false when the peer only repeated itself.
func (t *table) set(e *entry, peer peerID, n nodeID, now ingest.Time) (changed bool) {
	i, found := slices.BinarySearchFunc(e.routes, peer, func(r route, p peerID) int { return cmp.Compare(r.peer, p) })
	if found {
		old := e.routes[i].node
		if old == n {
			return false
		}
		e.routes[i].node = n
		t.count(e, t.paths.nodes[old].origin, -1, now)
	} else {
		if len(e.routes) == 0 {
			t.announced++
		}
		e.routes = slices.Insert(e.routes, i, route{peer, n})
		t.addToPeer(peer, 1)
	}
	t.count(e, t.paths.nodes[n].origin, 1, now)
	return true
}

// unset removes peer's route to e.
func (t *table) unset(e *entry, peer peerID, now ingest.Time) (changed bool) {
	i, found := slices.BinarySearchFunc(e.routes, peer, func(r route, p peerID) int { return cmp.Compare(r.peer, p) })
	if !found {
		return false
	}
	t.count(e, t.paths.nodes[e.routes[i].node].origin, -1, now)
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

func (t *table) count(e *entry, origin uint32, n int32, now ingest.Time) {
	o := e.origin(origin)
	if o == nil {
		e.origins = append(e.origins, originRecord{asn: origin, first: now})
		o = &e.origins[len(e.origins)-1]
	}
	if o.routes == 0 && n > 0 {
		o.since = now
	}
	o.routes += n
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
			t.count(e, t.paths.nodes[r.node].origin, -1, now)
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
