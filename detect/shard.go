package detect

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// BlackholeCommunity is 65535:666 (RFC 7999 §5).
const blackholeCommunity = 65535<<16 | 666

// shard owns the prefixes of some address blocks: their table, and what it found wrong with them.
// Between ticks shards share only what nobody writes.
type shard struct {
	number, of int
	table      *table
	settle     time.Duration // see Configuration.Settle
	absence    time.Duration // see Configuration.Absence
	know       *Knowledge
	reach      reach
	links      *linkMemory // shared; written at ticks only, by the engine
	bursts     *specifics  // shared; written at ticks only, by the engine
	peers      *peerSet    // shared; written before shards run
	learning   bool
	warmSince  ingest.Time // when the baseline was complete
	partial    bool        // the baseline was not a table dump

	baselineName struct { // what shard.baseline last said, and of what
		at      ingest.Time
		partial bool
		text    string
	}
	now  ingest.Time // event time of the tick
	need int         // peer ASNs that must agree, as of the tick

	dirty          []dirtyEntry
	learned        []link
	learnedValleys []valley
	specifics      []ownSpecific        // of this tick
	suspects       map[uint32][]finding // by entry
	changes        []findingChange      // of this tick
	onVerdict      func(Verdict)        // see Engine.OnVerdict; nil: nobody asks
	turned         map[uint32][]turn    // by entry, sorted by origin
	losses         map[uint32]*loss     // by entry
	agenda         agenda               // when they are to be looked at
	witnesses      *witnesses           // shared; written by the engine before looks
}

// dirtyEntry is an entry to judge at the next tick, with the time of its first and last change.
type dirtyEntry struct {
	id          uint32
	first, last ingest.Time
}

// finding is one thing wrong with one prefix, as its routes stand.
type finding struct {
	key     caseKey
	prefix  netip.Prefix
	since   ingest.Time
	verdict *verdict
	peers   []peerID // sorted
	asns    int      // distinct peer ASNs among them
	watches []*watch // that it concerns
	need    int      // peer ASNs that must agree; 0: as many as for everything
	paths   [][]uint32
	usual   [][]uint32
	alike   *alike // of its case; the correlator's
}

// findingChange replaces the finding of (key, prefix); a nil now says that it is gone.
type findingChange struct {
	key    caseKey
	prefix netip.Prefix
	at     ingest.Time
	now    *finding
}

// owns reports whether p belongs to this shard: blocks are the first 8 bits of an IPv4 prefix and the
// first 16 of an IPv6 one, so that a prefix and what covers it meet.
func (s *shard) owns(p netip.Prefix) bool {
	if s.of == 1 {
		return true
	}
	var block int
	if a := p.Addr(); a.Is4() {
		b := a.As4()
		block = int(b[0])
	} else {
		b := a.As16()
		block = int(b[0])<<8 | int(b[1])
	}
	return block%s.of == s.number
}

// minBits is the shortest prefix that is judged or serves as a cover: shorter ones span blocks, and
// nobody announces them in earnest.
func minBits(p netip.Prefix) int {
	if p.Addr().Is4() {
		return 8
	}
	return 16
}

// apply brings into the table what u says with the given path identifier.
func (s *shard) apply(peer peerID, pathID uint32, u *ingest.Update) {
	for _, n := range u.Withdrawn {
		if n.PathID != pathID || !s.owns(n.Prefix) {
			continue
		}
		id, ok := s.table.lookup(n.Prefix)
		if !ok {
			continue
		}
		e := s.table.entry(id)
		if !s.table.unset(e, peer, u.Time) {
			continue
		}
		s.withdrawn(e, id, u.Time)
		if e.suspect {
			s.markDirty(e, id, u.Time)
		}
	}
	if len(u.Announced) == 0 {
		return
	}
	path, interned := rootPlain, false
	for _, n := range u.Announced {
		if n.PathID != pathID || !s.owns(n.Prefix) || n.Prefix.Bits() < minBits(n.Prefix) {
			continue
		}
		if !interned {
			before := s.table.paths.size()
			path, interned = s.intern(&u.Attrs, s.table.near(n.Prefix, peer)), true
			s.table.clean(cleanStep * (s.table.paths.size() - before))
		}
		s.announce(peer, n, path, u)
	}
}

// intern returns the node of a route's path, which near may resemble, upon the root that its attributes ask for.
func (s *shard) intern(a *bgp.Attributes, near nodeID) nodeID {
	if isBlackhole(a) {
		return s.table.paths.internNear(a.ASPath, rootBlackhole, near)
	}
	id := s.table.paths.internNear(a.ASPath, rootPlain, near)
	if a.Has&bgp.HasOTC == 0 {
		return id
	}
	if place, leaked := s.marked(id, a.OTC); leaked {
		return s.table.paths.internNear(a.ASPath, rootMarked+nodeID(place), near)
	}
	return id
}

func isBlackhole(a *bgp.Attributes) bool {
	return a.Has&bgp.HasCommunities != 0 && slices.Contains(a.Communities, blackholeCommunity)
}

func (s *shard) announce(peer peerID, n bgp.NLRI, path nodeID, u *ingest.Update) {
	if path < rootCount {
		return // an empty path is internal to the peer and says nothing about the Internet
	}
	id, ok := s.table.entryFor(n.Prefix)
	if !ok {
		return
	}
	e := s.table.entry(id)
	o, changed := s.table.set(e, peer, path, u.Time)
	if !changed {
		return
	}
	if e.fading {
		s.regained(e, id, u.Time)
	}
	switch {
	case s.learning || u.Kind == ingest.RIB:
		s.learnLinks(path)
	case e.suspect || e.watched || !s.harmless(o, path):
		s.markDirty(e, id, u.Time)
		return
	}
	o.Observe(s.table.paths.neighbours(path))
}

// harmless tells cheaply what needs no judgement: a usual origin over known links, with no valley. The mark on the
// pair of prefix and origin is the verdict upon them as it was reached, kept where the update counts its route
// anyway; what new VRPs concern, Replace has judged again. So nothing is validated twice: BenchmarkOriginVerdict has
// 14 ns for a pair in the processor's cache, where the validation would take 46.
func (s *shard) harmless(o *origins.Pair, path nodeID) bool {
	n := &s.table.paths.nodes[path]
	return n.flags == 0 && n.leak == 0 && o.MarkedUsual()
}

func (s *shard) markDirty(e *entry, id uint32, at ingest.Time) {
	if e.dirty > 0 {
		d := &s.dirty[e.dirty-1]
		d.last = max(d.last, at)
		return
	}
	s.dirty = append(s.dirty, dirtyEntry{id, at, at})
	e.dirty = int32(len(s.dirty))
}

// peersGone drops the routes of sessions that ended.
func (s *shard) peersGone(gone map[peerID]bool, at ingest.Time) {
	for _, id := range s.table.dropPeers(gone, at) {
		e := s.table.entry(id)
		if e.fading {
			s.regained(e, id, at)
		}
		if e.suspect {
			s.markDirty(e, id, at)
		}
	}
}

// judgeDirty judges what changed since the last tick and fills s.changes and s.learned.
func (s *shard) judgeDirty() {
	for _, d := range s.dirty {
		e := s.table.entry(d.id)
		e.dirty = 0
		s.replaceFindings(d, e, append(s.judgeEntry(e, d), s.judgeTurns(e, d)...))
		e.suspect = e.suspect || len(s.turned[d.id]) > 0
	}
	s.dirty = s.dirty[:0]
	s.table.beginCleaning()
}

// replaceFindings records what is wrong with e now and what changed.
func (s *shard) replaceFindings(d dirtyEntry, e *entry, now []finding) {
	old := s.suspects[d.id]
	for _, f := range old { // first, as the correlator may take two keys for one
		if indexOfKey(now, f.key) < 0 {
			s.changes = append(s.changes, findingChange{f.key, e.prefix, d.last, nil})
		}
	}
	for i := range now {
		if j := indexOfKey(old, now[i].key); j >= 0 {
			now[i].since = old[j].since
		}
		s.changes = append(s.changes, findingChange{now[i].key, e.prefix, d.last, &now[i]})
	}
	e.suspect = len(now) > 0
	if e.suspect {
		s.suspects[d.id] = now
	} else {
		delete(s.suspects, d.id)
	}
}

func indexOfKey(fs []finding, k caseKey) int {
	return slices.IndexFunc(fs, func(f finding) bool { return f.key == k })
}

// group is the routes to a prefix that share an origin and, where they have one, the new link that makes them suspect
// (see newLink).
type group struct {
	origin           uint32 // 0 where it is NONE
	suspect, beneath uint32
	routes           []route
	tail             []uint32 // what all their paths share, origin first, prepends left out
}

// groups splits e's routes by origin and new link, in that order.
func (s *shard) groups(e *entry) []group {
	type routeKey struct {
		route
		origin, suspect, beneath uint32
	}
	if len(e.routes) > 0 {
		origin := s.table.paths.nodes[e.routes[0].node].origin
		if !slices.ContainsFunc(e.routes, func(r route) bool {
			suspect, _ := s.newLink(r.node)
			return suspect != 0 || s.table.paths.nodes[r.node].origin != origin
		}) {
			return []group{{origin: origin, routes: e.routes, tail: s.commonTail(e.routes)}} // as nearly always
		}
	}
	ks := make([]routeKey, len(e.routes))
	for i, r := range e.routes {
		k := routeKey{route: r, origin: s.table.paths.nodes[r.node].origin}
		k.suspect, k.beneath = s.newLink(r.node)
		ks[i] = k
	}
	slices.SortStableFunc(ks, func(a, b routeKey) int {
		return cmp.Or(cmp.Compare(a.origin, b.origin), cmp.Compare(a.suspect, b.suspect), cmp.Compare(a.beneath, b.beneath))
	})
	var gs []group
	for len(ks) > 0 {
		var rs []route
		k := ks[0]
		for len(ks) > 0 && ks[0].origin == k.origin && ks[0].suspect == k.suspect && ks[0].beneath == k.beneath {
			rs = append(rs, ks[0].route)
			ks = ks[1:]
		}
		gs = append(gs, group{k.origin, k.suspect, k.beneath, rs, s.commonTail(rs)})
	}
	return gs
}

// commonTail is what the paths of some routes share, origin first, prepends left out.
func (s *shard) commonTail(rs []route) []uint32 {
	tail := s.table.paths.tail(make([]uint32, 0, 8), rs[0].node)
	var scratch [16]uint32
	path := scratch[:0]
	for i := 1; i < len(rs); i++ {
		if rs[i].node == rs[i-1].node {
			continue
		}
		path = s.table.paths.tail(path[:0], rs[i].node)
		k := 0
		for k < len(path) && k < len(tail) && path[k] == tail[k] {
			k++
		}
		tail = tail[:k]
	}
	return tail
}

// judgeEntry judges every group of e's routes, learns what is harmless and returns what is not.
func (s *shard) judgeEntry(e *entry, d dirtyEntry) []finding {
	var found []finding
	add := func(v *verdict, rs []route) {
		f := s.finding(e, d, v, rs)
		if i := indexOfKey(found, f.key); i >= 0 {
			found[i].merge(&f, s.peers)
			return
		}
		found = append(found, f)
	}
	for _, g := range s.groups(e) {
		v := s.judgeGroup(e, &g)
		s.tellVerdict(e, v, g.routes)
		s.noteSpecific(e, &g, v)
		switch {
		case v.harmless() || s.settled(e, d.id, &g, v):
			if rest := s.judgeLeaks(e, g.routes, s.leaked, nil, add); !v.awaited() {
				s.learn(e, &g, s.judgePaths(e, rest, add))
			}
		case v.raised() && v.yieldsToLeak():
			if rest := s.judgeLeaks(e, g.routes, s.byRelationships, v, add); len(rest) > 0 {
				add(v, rest)
			}
		case v.raised():
			add(v, g.routes)
		}
	}
	return found
}

// learn takes the harmless routes of a group as normal from now on. What is new about an origin
// (its having the prefix, or the AS beside it) is learned only once enough networks agree: one
// peer's word neither raises an alarm nor silences a later one.
func (s *shard) learn(e *entry, g *group, rs []route) {
	if len(rs) == 0 {
		return
	}
	o := s.table.origin(e, g.origin)
	if !o.MarkedUsual() || g.beneath == g.origin && g.beneath != 0 {
		if !s.agreed(rs) {
			return
		}
		for _, r := range rs {
			o.Observe(s.table.paths.neighbours(r.node))
		}
	}
	o.MarkUsual(false)
	for _, r := range rs {
		s.learnLinks(r.node)
	}
}

// agreed reports that enough networks have one of some routes.
func (s *shard) agreed(rs []route) bool {
	ids := make([]peerID, len(rs))
	for i, r := range rs {
		ids[i] = r.peer
	}
	return s.peers.countASNs(ids) >= s.need
}

// learnLinks hands the unknown links of a path, and while learning its valley, to the shared memory.
func (s *shard) learnLinks(id nodeID) {
	nodes := s.table.paths.nodes
	if s.learning {
		s.learnValley(id)
	}
	// A node without the flag has no ancestor with it.
	for ; id >= rootCount && nodes[id].flags&flagNovel != 0; id = nodes[id].parent {
		n := &nodes[id]
		n.flags &^= flagNovel
		if n.parent < rootCount {
			return
		}
		if p := &nodes[n.parent]; n.asn != p.asn && n.asn != 0 && p.asn != 0 {
			s.learned = append(s.learned, link{n.asn, p.asn, p.parent >= rootCount})
		}
	}
}

// learnValley hands the valley of a path, if it has one, to the shared memory.
func (s *shard) learnValley(id nodeID) {
	l, ok := s.markedLeak(id)
	if !ok && s.table.paths.nodes[id].leak == 0 {
		return
	} else if !ok {
		l = s.nodeLeak(id)
	}
	if !s.links.usualValley(l.from, l.leaker, l.to) {
		s.learnedValleys = append(s.learnedValleys, l.valley)
	}
}

// finding makes the record of a verdict upon some routes of e.
func (s *shard) finding(e *entry, d dirtyEntry, v *verdict, rs []route) finding {
	f := finding{key: v.key(), prefix: e.prefix, since: d.first, verdict: v}
	seen := map[nodeID]bool{}
	for _, r := range rs {
		f.peers = append(f.peers, r.peer)
		if !seen[r.node] && len(f.paths) < incident.MaxPaths {
			seen[r.node] = true
			f.paths = append(f.paths, s.table.paths.wire(r.node))
		}
	}
	slices.Sort(f.peers)
	f.asns = s.peers.countASNs(f.peers)
	f.usual = s.usualPaths(e, v)
	f.watch(s.know.watched, s.peers)
	v.cover = nil // an entry may move when the table grows
	return f
}

// merge adds the routes of o, a finding of the same key, to f. The verdict with more confidence stays.
func (f *finding) merge(o *finding, peers *peerSet) {
	f.peers = append(f.peers, o.peers...)
	slices.Sort(f.peers)
	f.peers = slices.Compact(f.peers)
	f.asns = peers.countASNs(f.peers)
	f.paths = append(f.paths, o.paths...)
	f.paths = f.paths[:min(len(f.paths), incident.MaxPaths)]
	if o.verdict.ledger.confidence() > f.verdict.ledger.confidence() {
		f.verdict, f.usual = o.verdict, o.usual
	}
}

// usualPaths samples the routes that e has by its usual origins, or that its cover has.
func (s *shard) usualPaths(e *entry, v *verdict) [][]uint32 {
	var paths [][]uint32
	seen := map[nodeID]bool{}
	for _, from := range []*entry{e, v.cover} {
		if from == nil {
			continue
		}
		for _, r := range from.routes {
			n := &s.table.paths.nodes[r.node]
			if seen[r.node] || !slices.Contains(v.expected, n.origin) || n.leak != 0 || n.flags&(flagNovel|flagMarked) != 0 {
				continue
			}
			seen[r.node] = true
			if paths = append(paths, s.table.paths.wire(r.node)); len(paths) == incident.MaxUsualPaths {
				return paths
			}
		}
	}
	return paths
}
