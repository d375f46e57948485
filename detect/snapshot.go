package detect

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
)

// snapshotVersion changes with every change of what a snapshot means.
const snapshotVersion = 7

// snapshot is an engine at rest. It does not depend on the number of shards: columns run over all
// entries, and paths are nodes of one tree. What can be worked out again is not in it.
type snapshot struct {
	Version  int
	Clock    ingest.Time
	LearnTo  ingest.Time
	Learn    bool
	Dumped   bool
	Warm     ingest.Time
	Sequence uint64

	Peers   []peerSnapshot
	Links   []uint64
	Roles   map[uint32]uint8
	Valleys []uint32 // three a valley

	Related  bool     // relationships have been inferred; what follows is by link
	RelA     []uint32 // the lower ASN first
	RelB     []uint32
	Relation []uint8
	RelV4    []float32
	RelV6    []float32

	NodeASN, NodeParent []uint32 // the roots are left out; a parent stands before its children

	Prefixes            [][]byte // as netip.Prefix marshals
	RouteCount          []uint32 // by prefix
	Usual               []uint16 // by prefix
	RoutePeer, RouteVia []uint32
	OriginCount         []uint32 // by prefix
	Origins             []byte   // origins.EncodedPair bytes each
	History             origins.State
	Watching            bool
	Dirty               []dirtySnapshot
	Planned             ingest.Time // up to when ends of plans were looked at
	Findings            []findingSnapshot
	Cases               []caseSnapshot
	Specifics           []specificSnapshot
	Bursts              []burstSnapshot
	Turns               []turnSnapshot
	Losses              []lossSnapshot
	Feeds               map[string]feedState
}

type peerSnapshot struct {
	Collector string
	Addr      []byte
	ASN       uint32
	View      uint8
	PathID    uint32
	Up        bool
	Since     ingest.Time
	Full      [2]bool
}

type dirtySnapshot struct {
	Entry       uint32 // index of the prefix
	First, Last ingest.Time
}

// findingSnapshot is a finding in full: what was judged may no longer be what the routes say, when
// the next tick has yet to come.
type findingSnapshot struct {
	Entry          uint32
	Gathered       bool // it is part of a re-origination
	Since          ingest.Time
	Peers          []peerID
	Paths, Usual   [][]uint32
	Kind           incident.Kind
	RFC7908        int
	Offender, Next uint32
	Also           []uint32
	Victim         uint32
	Expected       []uint32
	Observed       uint32
	Covering       []byte
	RPKI           rpki.State
	IRR            irr.State
	Ledger         []incident.Evidence
}

// specificSnapshot is a more-specific that may become part of a burst.
type specificSnapshot struct {
	Origin uint32
	Prefix []byte
	Since  ingest.Time
}

type burstSnapshot struct {
	Origin uint32
	Since  ingest.Time
	Count  int
}

type caseSnapshot struct {
	Kind                string
	Offender, Victim    uint32
	State               uint8
	Deadline            ingest.Time
	Peak, Most          int
	Last                []byte // JSON
	Reported, QuietFrom ingest.Time
	Dirty               bool
}

// Snapshot returns the engine's whole state, compressed, for [Engine.Restore].
func (e *Engine) Snapshot() ([]byte, error) {
	e.flush()
	s := snapshot{Version: snapshotVersion, Clock: e.clock, LearnTo: e.learnTo, Learn: e.learn, Dumped: e.dumped,
		Warm: e.shards[0].warmSince, Sequence: e.cases.sequence, History: e.history.State(), Watching: e.watching, Planned: e.planned}
	e.shareLearned()
	for id, p := range e.peers.list {
		addr, err := p.Addr.MarshalBinary()
		if err != nil {
			return nil, err
		}
		s.Peers = append(s.Peers, peerSnapshot{p.Collector, addr, p.ASN, uint8(p.View), p.pathID, p.up, p.since, e.peerIsFull(id)})
	}
	e.links.save(&s)
	if err := e.bursts.save(&s); err != nil {
		return nil, err
	}
	s.Related = e.inferred != nil
	for pair, l := range e.inferred.All() {
		s.RelA, s.RelB, s.Relation = append(s.RelA, pair[0]), append(s.RelB, pair[1]), append(s.Relation, uint8(l.Relation))
		s.RelV4, s.RelV6 = append(s.RelV4, float32(l.V4)), append(s.RelV6, float32(l.V6))
	}
	for _, sh := range e.shards {
		if err := sh.save(&s, e.cases.gathered); err != nil {
			return nil, err
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(e.cases.cases), caseKey.compare) {
		ic := e.cases.cases[k]
		last, err := json.Marshal(ic.last)
		if err != nil {
			return nil, fmt.Errorf("detector state: incident %s: %w", ic.last.ID, err)
		}
		s.Cases = append(s.Cases, caseSnapshot{string(k.kind), k.offender, k.victim, uint8(ic.state), ic.deadline,
			ic.peak, ic.most, last, ic.reported, ic.quietFrom, ic.dirty})
	}
	s.Feeds = map[string]feedState{}
	for name, f := range e.feeds {
		s.Feeds[name] = *f
	}
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		return nil, err
	}
	if err := gob.NewEncoder(z).Encode(&s); err != nil {
		return nil, fmt.Errorf("detector state: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (m *linkMemory) save(s *snapshot) {
	s.Links = slices.Collect(maps.Keys(m.links))
	s.Roles = map[uint32]uint8{}
	for asn, r := range m.roles {
		s.Roles[asn] = uint8(r)
	}
	for v := range m.valleys {
		s.Valleys = append(s.Valleys, v.from, v.leaker, v.to)
	}
}

func (s *shard) save(out *snapshot, gathered func(*finding) bool) error {
	firstEntry := uint32(len(out.Prefixes))
	s.table.endCleaning()
	place := make([]uint32, len(s.table.paths.nodes))
	for root := range uint32(rootCount) {
		place[root] = root
	}
	node := func(id nodeID) uint32 { return place[id] }
	for id := range s.table.paths.fromRoots() {
		n := &s.table.paths.nodes[id]
		place[id] = rootCount + uint32(len(out.NodeASN))
		out.NodeASN = append(out.NodeASN, n.asn)
		out.NodeParent = append(out.NodeParent, node(n.parent))
	}
	for id, e := range s.table.all() {
		p, err := e.prefix.MarshalBinary()
		if err != nil {
			return err
		}
		out.Prefixes = append(out.Prefixes, p)
		out.RouteCount = append(out.RouteCount, uint32(len(e.routes)))
		out.Usual = append(out.Usual, e.usual)
		for _, r := range e.routes {
			out.RoutePeer = append(out.RoutePeer, uint32(r.peer))
			out.RouteVia = append(out.RouteVia, node(r.node))
		}
		pairs := uint32(0)
		s.table.history.Each(e.origins, func(o *origins.Pair) bool {
			out.Origins = origins.AppendPair(out.Origins, o)
			pairs++
			return true
		})
		out.OriginCount = append(out.OriginCount, pairs)
		s.saveTurns(out, id, firstEntry+id)
		if err := s.saveLoss(out, id, firstEntry+id); err != nil {
			return err
		}
		for _, f := range s.suspects[id] {
			fs, err := f.save(firstEntry + id)
			if err != nil {
				return err
			}
			fs.Gathered = gathered(&f)
			out.Findings = append(out.Findings, fs)
		}
	}
	for _, d := range s.dirty {
		out.Dirty = append(out.Dirty, dirtySnapshot{firstEntry + d.id, d.first, d.last})
	}
	return nil
}

// maxSnapshot bounds what Restore unpacks.
const maxSnapshot = 64 << 30

// Restore brings a new engine to the state that Snapshot saved. It emits nothing. On error the
// engine must not be used.
func (e *Engine) Restore(state []byte) error {
	z, err := zstd.NewReader(bytes.NewReader(state), zstd.WithDecoderMaxMemory(maxSnapshot))
	if err != nil {
		return fmt.Errorf("detector state: %w", err)
	}
	defer z.Close()
	var s snapshot
	if err := gob.NewDecoder(z).Decode(&s); err != nil {
		return fmt.Errorf("detector state: %w", err)
	}
	if s.Version != snapshotVersion {
		return fmt.Errorf("detector state: has format %d, this program reads %d", s.Version, snapshotVersion)
	}
	e.clock, e.learnTo, e.learn, e.dumped, e.watching, e.planned = s.Clock, s.LearnTo, s.Learn, s.Dumped, s.Watching, s.Planned
	if err := e.history.Restore(s.History); err != nil {
		return fmt.Errorf("detector state: damaged: %w", err)
	}
	for _, p := range s.Peers {
		var addr netip.Addr
		if err := addr.UnmarshalBinary(p.Addr); err != nil {
			return fmt.Errorf("detector state: peer: %w", err)
		}
		if !ingest.View(p.View).Known() {
			return fmt.Errorf("detector state: peer of the unknown view %d", p.View)
		}
		id, ok := e.peers.intern(ingest.Peer{Collector: p.Collector, Addr: addr, ASN: p.ASN, View: ingest.View(p.View)}, p.PathID, p.Since)
		if !ok {
			return fmt.Errorf("detector state: more than %d peers", MaxPeers)
		}
		e.peers.list[id].up, e.peers.list[id].since = p.Up, p.Since
		for _, sh := range e.shards {
			sh.table.ofPeer(id).full = p.Full
		}
	}
	clear(e.peers.sessions)
	for _, p := range e.peers.list {
		if p.up {
			e.peers.sessions[p.Peer] = p.since
		}
	}
	e.peers.last = peerKey{}
	e.peers.countActive()
	e.links.load(&s)
	if err := e.bursts.load(&s); err != nil {
		return err
	}
	if err := e.loadInferred(&s); err != nil {
		return err
	}
	for _, sh := range e.shards {
		sh.learning, sh.warmSince, sh.partial = s.Learn, s.Warm, !s.Learn && !s.Dumped
	}
	places, err := e.loadEntries(&s)
	if err != nil {
		return err
	}
	if err := e.loadTurns(&s, places); err != nil {
		return err
	}
	if err := e.loadLosses(&s, places); err != nil {
		return err
	}
	if err := e.loadCases(&s, places); err != nil {
		return err
	}
	return e.loadFeeds(&s)
}

func (b *specifics) save(out *snapshot) error {
	for _, origin := range slices.Sorted(maps.Keys(b.recent)) {
		for _, prefix := range slices.SortedFunc(maps.Keys(b.recent[origin]), comparePrefixes) {
			p, err := prefix.MarshalBinary()
			if err != nil {
				return err
			}
			out.Specifics = append(out.Specifics, specificSnapshot{origin, p, b.recent[origin][prefix]})
		}
	}
	for _, origin := range slices.Sorted(maps.Keys(b.bursts)) {
		burst := b.bursts[origin]
		out.Bursts = append(out.Bursts, burstSnapshot{origin, burst.since, burst.count})
	}
	return nil
}

func (b *specifics) load(s *snapshot) error {
	for _, sp := range s.Specifics {
		var p netip.Prefix
		if err := p.UnmarshalBinary(sp.Prefix); err != nil {
			return fmt.Errorf("detector state: damaged: more-specific: %w", err)
		}
		if b.recent[sp.Origin] == nil {
			b.recent[sp.Origin] = map[netip.Prefix]ingest.Time{}
		}
		b.recent[sp.Origin][p] = sp.Since
	}
	for _, burst := range s.Bursts {
		b.bursts[burst.Origin] = specificsBurst{burst.Since, burst.Count}
	}
	return nil
}

func (m *linkMemory) load(s *snapshot) {
	for _, l := range s.Links {
		m.links[l] = struct{}{}
	}
	for asn, r := range s.Roles {
		m.roles[asn] = role(r)
	}
	for v := range slices.Chunk(s.Valleys, 3) {
		m.valleys[valley{v[0], v[1], v[2]}] = struct{}{}
	}
}

// loadInferred brings back inferred relationships, before there are paths.
func (e *Engine) loadInferred(s *snapshot) error {
	if !s.Related {
		return nil
	}
	n := len(s.RelA)
	if len(s.RelB) != n || len(s.Relation) != n || len(s.RelV4) != n || len(s.RelV6) != n {
		return fmt.Errorf("detector state: damaged: relationships of different length")
	}
	b := topology.NewBuilder(topology.Inferred, inferredSource)
	for i := range n {
		if s.Relation[i] > uint8(topology.Sibling) {
			return fmt.Errorf("detector state: damaged: an unknown relation")
		}
		b.Add(s.RelA[i], s.RelB[i], topology.Link{Relation: topology.Relation(s.Relation[i]), Basis: topology.Inferred,
			V4: float64(s.RelV4[i]), V6: float64(s.RelV6[i])})
	}
	e.Relate(b.Build())
	return nil
}

// place is where an entry of a snapshot came to be.
type place struct {
	shard *shard
	id    uint32
}

// loadEntries fills the tables. Every index is checked: a damaged state must not crash.
func (e *Engine) loadEntries(s *snapshot) ([]place, error) {
	damaged := func(what string) error { return fmt.Errorf("detector state: damaged: %s", what) }
	if len(s.NodeASN) != len(s.NodeParent) || len(s.RouteCount) != len(s.Prefixes) || len(s.OriginCount) != len(s.Prefixes) || len(s.Usual) != len(s.Prefixes) ||
		len(s.RoutePeer) != len(s.RouteVia) {
		return nil, damaged("columns of different length")
	}
	nodes := map[*shard][]nodeID{}
	for _, sh := range e.shards {
		nodes[sh] = make([]nodeID, len(s.NodeASN))
	}
	var intern func(sh *shard, via uint32) nodeID
	intern = func(sh *shard, via uint32) nodeID {
		if via < rootCount {
			return nodeID(via)
		}
		at := &nodes[sh][via-rootCount]
		if *at == 0 {
			*at = sh.table.paths.child(intern(sh, s.NodeParent[via-rootCount]), s.NodeASN[via-rootCount])
		}
		return *at
	}
	for i, parent := range s.NodeParent {
		if int(parent) >= i+rootCount {
			return nil, damaged("a path node stands before its parent")
		}
	}
	places := make([]place, len(s.Prefixes))
	first, origin := 0, 0 // of the routes and origins of the prefix
	for i, b := range s.Prefixes {
		var p netip.Prefix
		if err := p.UnmarshalBinary(b); err != nil || !p.IsValid() {
			return nil, damaged("prefix")
		}
		routes, pairs := int(s.RouteCount[i]), int(s.OriginCount[i])
		if len(s.RoutePeer)-first < routes || len(s.Origins)/origins.EncodedPair-origin < pairs {
			return nil, damaged("fewer routes than counted")
		}
		sh := e.shardOf(p)
		id, ok := sh.table.entryFor(p)
		if !ok {
			return nil, damaged("too many prefixes")
		}
		places[i] = place{sh, id}
		en := sh.table.entry(id)
		for j := origin; j < origin+pairs; j++ {
			pair, err := origins.DecodePair(s.Origins[j*origins.EncodedPair:])
			if err != nil {
				return nil, damaged(err.Error())
			}
			sh.table.history.Append(&en.origins, pair)
		}
		for j := first; j < first+routes; j++ {
			if int(s.RoutePeer[j]) >= len(e.peers.list) || int(s.RouteVia[j]) >= len(s.NodeASN)+rootCount {
				return nil, damaged("a route of an unknown peer or path")
			}
			r := route{peerID(s.RoutePeer[j]), intern(sh, s.RouteVia[j])}
			at, found := en.route(r.peer)
			o := sh.table.origin(en, sh.table.paths.nodes[r.node].origin)
			if found || o == nil {
				return nil, damaged("a route twice, or of an origin without history")
			}
			sh.table.insert(en, at, r)
			o.Restore()
		}
		en.usual = max(s.Usual[i], en.full)
		first, origin = first+routes, origin+pairs
	}
	return places, nil
}

// loadCases restores the cases with their findings, and what awaits judgement.
func (e *Engine) loadCases(s *snapshot, places []place) error {
	c := e.cases
	c.sequence = s.Sequence
	for _, cs := range s.Cases {
		k := caseKey{incident.Kind(cs.Kind), cs.Offender, cs.Victim}
		ic := &incidentCase{findingSet: newFindingSet(), key: k, state: caseState(cs.State), deadline: cs.Deadline, peak: cs.Peak, most: cs.Most, reported: cs.Reported, quietFrom: cs.QuietFrom, dirty: cs.Dirty}
		if err := json.Unmarshal(cs.Last, &ic.last); err != nil {
			return fmt.Errorf("detector state: damaged: incident: %w", err)
		}
		if ic.last.Muted != nil && ic.state != ended {
			c.muteUntil(ingest.TimeOf(ic.last.Muted.Until))
		}
		c.cases[k] = ic
	}
	need := c.need()
	for _, fs := range s.Findings {
		if int(fs.Entry) >= len(places) {
			return fmt.Errorf("detector state: damaged: a finding without a prefix")
		}
		if err := e.loadFinding(&fs, places[fs.Entry], need); err != nil {
			return err
		}
	}
	for _, d := range s.Dirty {
		if int(d.Entry) >= len(places) {
			return fmt.Errorf("detector state: damaged: a change without a prefix")
		}
		at := places[d.Entry]
		en := at.shard.table.entry(at.id)
		at.shard.markDirty(en, at.id, d.First)
		at.shard.markDirty(en, at.id, d.Last)
	}
	return nil
}

func (f *finding) save(entry uint32) (findingSnapshot, error) {
	v := f.verdict
	covering, err := v.covering.MarshalBinary()
	return findingSnapshot{Entry: entry, Since: f.since, Peers: f.peers, Paths: f.paths, Usual: f.usual,
		Kind: v.kind, RFC7908: v.rfc7908, Offender: v.offender, Also: v.also, Next: v.next, Victim: v.victim,
		Expected: v.expected, Observed: v.observed, Covering: covering, RPKI: v.rpki, IRR: v.irr, Ledger: v.ledger.evidence()}, err
}

// loadFinding gives a saved finding back to its shard and its case.
func (e *Engine) loadFinding(s *findingSnapshot, at place, need int) error {
	v := &verdict{kind: s.Kind, rfc7908: s.RFC7908, offender: s.Offender, also: s.Also, next: s.Next, victim: s.Victim,
		expected: s.Expected, observed: s.Observed, rpki: s.RPKI, irr: s.IRR, ledger: ledgerOf(s.Ledger)}
	if err := v.covering.UnmarshalBinary(s.Covering); err != nil {
		return fmt.Errorf("detector state: damaged: covering prefix: %w", err)
	}
	for _, p := range s.Peers {
		if int(p) >= len(e.peers.list) {
			return fmt.Errorf("detector state: damaged: a finding of an unknown peer")
		}
	}
	en := at.shard.table.entry(at.id)
	f := finding{key: v.key(), prefix: en.prefix, since: s.Since, verdict: v, peers: s.Peers,
		asns: e.peers.countASNs(s.Peers), paths: s.Paths, usual: s.Usual}
	f.watch(e.known.watched, e.peers)
	k := f.key
	if s.Gathered {
		k = caseKey{incident.ReoriginationLeak, k.offender, 0}
	}
	ic := e.cases.cases[k]
	if ic == nil {
		return fmt.Errorf("detector state: damaged: a finding without its case")
	}
	if v.kind == incident.VisibilityLoss {
		l := at.shard.losses[at.id]
		if l == nil || l.finding != nil {
			return fmt.Errorf("detector state: damaged: a vanished prefix without its loss, or twice")
		}
		l.finding = &f
		ic.replace(findingChange{k, f.prefix, f.since, &f}, need)
		return nil
	}
	en.suspect = true
	at.shard.suspects[at.id] = append(at.shard.suspects[at.id], f)
	ic.replace(findingChange{k, f.prefix, f.since, &f}, need)
	return nil
}
