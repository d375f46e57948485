package detect

import (
	"cmp"
	"iter"
	"net/netip"
	"slices"

	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/ingest"
)

// peerID names a peer of the engine.
type peerID uint32

// route is what one peer says of one prefix. 8 bytes.
type route struct {
	peer peerID
	node nodeID
}

// entry is one prefix of the table. It outlives its routes: what was usual is remembered. 72 bytes.
type entry struct {
	prefix  netip.Prefix
	routes  []route     // sorted by peer
	origins origins.Ref // all that ever were, in the order of first appearance
	dirty   int32       // 1 + its place on the list of entries to judge at the next tick; 0 when not there
	full    uint16      // routes of peers with a full table, see visibility.go
	usual   uint16      // how many of these are usual, of the peers that are up
	watched bool        // it is watched: every change asks for a judgement
	suspect bool        // some route was not harmless when last judged: any change asks for a new judgement
	fading  bool        // the shard has a loss of it
}

// MaxPrefixes bounds the table: more than ten times the global table of 2026. Announcements of
// further prefixes are counted and dropped.
const MaxPrefixes = 16 << 20

// entryChunk is how many entries lie in one piece of memory. Entries never move: a table of a million would hold up
// everything for the time of a copy.
const entryChunk = 1 << 10

// table is the Adj-RIB-In of every peer for the prefixes of one shard.
//
// The one index also answers what covers a prefix, by a look-up for every shorter length that any prefix has, and so
// saves the 112 bytes a prefix of a radix tree. With all that lies around an entry (its place in the index, one origin's
// history) a prefix takes 153 bytes and a route 8.0, as TestMemory measures.
type table struct {
	paths     *pathTree
	history   *origins.History
	watched   *watched
	chunks    [][]entry
	size      uint32 // entries
	index     idIndex
	lengths   [2][129]bool // of the prefixes, by length; of IPv4 and of IPv6
	perPeer   []peerTable  // by peer
	routes    int
	nextClean int    // how many path nodes ask for the next cleaning
	announced int    // entries that have a route
	refused   uint64 // announcements dropped for MaxPrefixes
}

// peerTable is what is counted of a peer, by family.
type peerTable struct {
	routes [2]int32
	full   [2]bool // see peerSet.weigh
}

func newTable(paths *pathTree, clock *origins.Clock) *table {
	return &table{paths: paths, history: origins.New(clock), nextClean: cleanAt}
}

func (t *table) entry(id uint32) *entry { return &t.chunks[id/entryChunk][id%entryChunk] }

// all yields the entries in the order in which they came.
func (t *table) all() iter.Seq2[uint32, *entry] {
	return func(yield func(uint32, *entry) bool) {
		for id := range t.size {
			if !yield(id, t.entry(id)) {
				return
			}
		}
	}
}

// lookup returns the id of p's entry.
func (t *table) lookup(p netip.Prefix) (id uint32, ok bool) {
	hi, lo := words(p.Addr())
	return t.index.find(hashPrefix(hi, lo, p.Bits(), p.Addr().Is4()), func(id uint32) bool { return t.entry(id).prefix == p })
}

// seek is lookup for what is most likely not there.
func (t *table) seek(p netip.Prefix) (id uint32, ok bool) {
	hi, lo := words(p.Addr())
	if there, _ := t.index.may(hashPrefix(hi, lo, p.Bits(), p.Addr().Is4())); !there {
		return 0, false
	}
	return t.lookup(p)
}

// entryFor returns the id of p's entry, making it; ok is false when the table is full. p must be masked.
func (t *table) entryFor(p netip.Prefix) (id uint32, ok bool) {
	hi, lo := words(p.Addr())
	h := hashPrefix(hi, lo, p.Bits(), p.Addr().Is4())
	if id, ok := t.index.find(h, func(id uint32) bool { return t.entry(id).prefix == p }); ok {
		return id, true
	}
	if t.size >= MaxPrefixes {
		t.refused++
		return 0, false
	}
	id = t.size
	if id%entryChunk == 0 {
		t.chunks = append(t.chunks, make([]entry, entryChunk))
	}
	t.size++
	t.entry(id).prefix, t.entry(id).watched = p, t.watched.covers(p)
	t.index.add(h, id)
	t.lengths[family(p.Addr())][p.Bits()] = true
	return id, true
}

// near returns the path that peer's route to p is likely to resemble: the one it has, or else another peer's; a root where
// nobody has one.
func (t *table) near(p netip.Prefix, peer peerID) nodeID {
	id, ok := t.lookup(p)
	if !ok {
		return rootPlain
	}
	e := t.entry(id)
	i, _ := e.route(peer)
	if i = min(i, len(e.routes)-1); i < 0 {
		return rootPlain
	}
	return e.routes[i].node
}

// family is 0 for IPv4 and 1 for IPv6.
func family(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
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
	if n := len(e.routes); n == cap(e.routes) {
		// An eighth more and what fits into the same class of memory, where append would double it.
		e.routes = append(slices.Grow([]route(nil), n+n/8+1), e.routes...)
	}
	e.routes = slices.Insert(e.routes, at, r)
	t.addToPeer(e, r.peer, 1)
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
	t.addToPeer(e, peer, -1)
	return true
}

// addToPeer counts a route of e that a peer has got (n is 1) or lost (-1), and reports whether the peer has a full table.
func (t *table) addToPeer(e *entry, peer peerID, n int32) (full bool) {
	p, f := t.ofPeer(peer), family(e.prefix.Addr())
	p.routes[f] += n
	t.routes += int(n)
	if p.full[f] {
		e.full = uint16(int32(e.full) + n)
		e.usual = max(e.usual, e.full)
	}
	return p.full[f]
}

func (t *table) ofPeer(peer peerID) *peerTable {
	if int(peer) >= len(t.perPeer) {
		t.perPeer = append(t.perPeer, make([]peerTable, int(peer)+1-len(t.perPeer))...)
	}
	return &t.perPeer[peer]
}

// covering yields the entries that contain p, the longest first, without p itself.
func (t *table) covering(p netip.Prefix) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		a := p.Addr()
		hi, lo := words(a)
		for n := p.Bits() - 1; n >= 0; n-- {
			if !t.lengths[family(a)][n] {
				continue
			}
			h := hashPrefix(hi, lo, n, a.Is4())
			if there, _ := t.index.may(h); !there {
				continue
			}
			id, ok := t.index.find(h, func(id uint32) bool {
				c := t.entry(id).prefix
				return c.Bits() == n && c.Contains(a)
			})
			if ok && !yield(t.entry(id)) {
				return
			}
		}
	}
}

// within yields the entries that c contains, without c itself, the shortest first and those of one length in order, down
// to a length of no more than 64. It looks for no more than so many prefixes, be they there or not.
func (t *table) within(c netip.Prefix, deepest, most int) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		is4, lengths := c.Addr().Is4(), &t.lengths[family(c.Addr())]
		for n := c.Bits() + 1; n <= deepest && most > 0; n++ {
			many := most
			if d := n - c.Bits(); d < 31 {
				many = min(most, 1<<d)
			}
			most -= many
			if !lengths[n] {
				continue
			}
			hi, _ := words(c.Addr())
			for step := 1; many > 0; many, hi = many-step, hi+uint64(step)<<(64-n) {
				h := hashPrefix(hi, 0, n, is4)
				there, any := t.index.may(h)
				if step = 1; !any && h%slotsPerLine == 0 {
					step = slotsPerLine
				}
				if !there {
					continue
				}
				id, ok := t.index.find(h, func(id uint32) bool {
					p := t.entry(id).prefix
					first, _ := words(p.Addr())
					return p.Bits() == n && first == hi && p.Addr().Is4() == is4
				})
				if ok && !yield(t.entry(id)) {
					return
				}
			}
		}
	}
}

// dropPeers removes every route of the given peers.
func (t *table) dropPeers(gone map[peerID]bool, now ingest.Time) (changed []uint32) {
	for id, e := range t.all() {
		before := len(e.routes)
		e.routes = slices.DeleteFunc(e.routes, func(r route) bool {
			if !gone[r.peer] {
				return false
			}
			t.history.Count(&e.origins, t.paths.nodes[r.node].origin, -1, now)
			if t.addToPeer(e, r.peer, -1) && e.usual > 0 {
				e.usual-- // nobody withdrew it: one fewer is asked
			}
			return true
		})
		if len(e.routes) != before {
			if len(e.routes) == 0 {
				t.announced--
			}
			changed = append(changed, id)
		}
	}
	return changed
}
