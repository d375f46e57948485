// Package detect is the engine that turns updates into incidents.
//
// An [Engine] keeps the table of every peer, split into shards by address block. An update that
// repeats what is known costs one lookup and one comparison. What is new marks its prefix for
// judgement; at each tick of event time (100 ms) the shards judge their marked prefixes and hand
// what they found to one correlator, which makes incidents of it. Shards share nothing that is
// written between ticks, so any number of them gives the same incidents.
//
// What is normal for a prefix is its history, which package origins keeps and whose comment says when
// something new becomes part of it.
//
// Judgement looks at state, never at single messages: who routes a prefix how, now. A finding goes
// when the last offending route goes, whatever message removed it.
package detect

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Configuration says when the engine speaks.
type Configuration struct {
	MinPeers int           `yaml:"min_peers" doc:"Distinct peer ASNs that must see an offending route before an incident opens; fewer suffice where fewer are heard at all."`
	Hold     time.Duration `yaml:"hold" doc:"Event time for which offending routes must be gone before an incident ends."`
	Reopen   time.Duration `yaml:"reopen" doc:"Event time after its end within which the same offence reopens an incident instead of making a new one."`
	Report   time.Duration `yaml:"report" doc:"Shortest event time between two reports that an incident grew or receded; a change of severity is always reported at once."`
	Warmup   time.Duration `yaml:"warmup" doc:"Event time during which everything is learned as normal, where no table dump gives a baseline."`
	HalfLife time.Duration `yaml:"half_life" doc:"Event time after which what was seen of a prefix counts half in its history; an origin gone for four of these is no longer usual."`
	Settle   time.Duration `yaml:"settle" doc:"Event time for which what is suspected must stay, with nothing against it but that it is new, before it is learned as normal."`
	Absence  time.Duration `yaml:"absence" doc:"Event time for which a prefix must have vanished from all peers with a full table before that is told; five times as long where some still have it."`
	Shards   int           `yaml:"shards" doc:"Parallel parts of the engine; the result does not depend on it."`
}

// DefaultConfiguration suits the feeds of public collectors.
func DefaultConfiguration() Configuration {
	return Configuration{MinPeers: 3, Hold: time.Minute, Reopen: 24 * time.Hour, Report: 10 * time.Second, Warmup: 15 * time.Minute,
		HalfLife: 30 * 24 * time.Hour, Settle: 7 * 24 * time.Hour, Absence: time.Minute, Shards: 1}
}

// Validate reports every value out of range.
func (c Configuration) Validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(c.MinPeers >= 1 && c.MinPeers <= 1000, "min_peers: must be 1 to 1000, is %d", c.MinPeers)
	bad(c.Hold >= 0, "hold: must not be negative, is %v", c.Hold)
	bad(c.Reopen >= 0, "reopen: must not be negative, is %v", c.Reopen)
	bad(c.Report >= 0, "report: must not be negative, is %v", c.Report)
	bad(c.Warmup >= 0, "warmup: must not be negative, is %v", c.Warmup)
	bad(c.HalfLife >= time.Hour, "half_life: must be at least 1h, is %v", c.HalfLife)
	bad(c.Settle >= time.Hour, "settle: must be at least 1h, is %v", c.Settle)
	bad(c.Absence >= time.Second, "absence: must be at least 1s, is %v", c.Absence)
	bad(c.Shards >= 1 && c.Shards <= 64, "shards: must be 1 to 64, is %d", c.Shards)
	return errors.Join(errs...)
}

// tick is the quantum of event time at which findings become incidents.
const tick = ingest.Time(100_000)

// maxStatePaths bounds the sample of paths in an OriginState.
const maxStatePaths = 20

// Engine is the detector. It belongs to one goroutine: none of its methods may run at the same time
// as another.
type Engine struct {
	config  Configuration
	peers   *peerSet
	links   *linkMemory
	history *origins.Clock // shared by the shards' tables; written between ticks only
	shards  []*shard
	pending waiting
	gone    map[peerID]bool // sources whose session ended after the pending updates
	goneAt  ingest.Time
	cases   *correlator
	bursts  *specifics
	clock   ingest.Time // event time: never goes back
	learnTo ingest.Time // end of the warm-up; 0 until the first update
	learn   bool
	dumped  bool   // rows of a table dump were among what was learned
	refused uint64 // updates refused for MaxPeers

	given    Knowledge               // as it came
	known    *Knowledge              // what the shards judge by: the same, with the relationships that count
	infers   bool                    // no relationships were published to it
	inferred *topology.Relationships // nil before the first inference
	lastVRPs *rpki.Set               // the last there were, also when they have expired

	planned   ingest.Time // up to when ends of plans were looked at
	watching  bool        // the history's clock goes on: something was heard
	remembers bool        // the history of an earlier run was loaded

	witnesses witnesses // as of the last look

	feeds        map[string]*feedState  // by collector
	signs        map[string]ingest.Time // the last sign of life, by source
	lastFeed     *feedState
	lastFeedName string
	feedNews     bool // something was heard since the last look at them

	idScratch []uint32
}

// New returns an engine that learns until [Engine.FinishBaseline] or the end of its warm-up. emit
// receives every change of every incident, in order of sequence, during Apply and Advance.
func New(c Configuration, k Knowledge, emit func(incident.Event)) *Engine {
	e := &Engine{config: c, peers: newPeerSet(), links: newLinkMemory(), bursts: newSpecifics(), learn: true, gone: map[peerID]bool{}, feeds: map[string]*feedState{}, signs: map[string]ingest.Time{},
		history: origins.NewClock(c.HalfLife), lastVRPs: k.VRPs}
	e.given, e.infers = k, k.Relationships == nil
	k.Relationships = e.relationships()
	k.watched = compileWatches(k.Watches, k.IRR, k.WatchSets)
	e.known = &k
	e.cases = newCorrelator(c, e.peers, e.fullFeed, emit)
	for i := range c.Shards {
		s := &shard{number: i, of: c.Shards, know: e.known, links: e.links, bursts: e.bursts, peers: e.peers, learning: true, settle: c.Settle, absence: c.Absence,
			suspects: map[uint32][]finding{}, turned: map[uint32][]turn{}, losses: map[uint32]*loss{}, witnesses: &e.witnesses}
		s.table = newTable(newPathTree(k.Relationships, k.VRPs.Attestations(), e.links), e.history)
		s.table.watched, s.table.paths.watched = k.watched, k.watched
		e.shards = append(e.shards, s)
	}
	return e
}

// Learning reports whether the engine still takes everything as normal, and until when in event
// time (zero when the clock has not started, or when it waits for FinishBaseline alone).
func (e *Engine) Learning() (bool, ingest.Time) { return e.learn, e.learnTo }

// Clock is the event time up to which updates have been applied.
func (e *Engine) Clock() ingest.Time { return e.clock }

// Apply brings one update into the table. It advances event time to the update's own; a late update
// counts as having come now. What a router says to a peer (Adj-RIB-Out) is passed over: what it heard, and
// whether that is right, the peer's own routes tell.
func (e *Engine) Apply(u *ingest.Update) {
	if u.Peer.View.Out() {
		return
	}
	if u.Kind == ingest.RIB {
		e.dumped = true
		e.watch(u.Time, len(e.peers.list))
	} else {
		e.startWarmup(max(u.Time, e.clock))
		e.Advance(u.Time)
		e.heard(u)
	}
	if u.Kind != ingest.PeerDown && len(e.gone) > 0 {
		e.flush()
	}
	switch u.Kind {
	case ingest.PeerDown:
		e.peerDown(u.Peer)
	case ingest.PeerUp:
		e.peerDown(u.Peer) // if nobody told its end, the routes of the session before are gone all the same
		e.internPeer(u.Peer, 0)
	default:
		e.applyRoutes(u)
	}
}

func (e *Engine) startWarmup(t ingest.Time) {
	if e.learn && e.learnTo == 0 {
		e.learnTo = t.Add(e.config.Warmup)
	}
}

func (e *Engine) internPeer(p ingest.Peer, pathID uint32) (peerID, bool) {
	id, ok := e.peers.intern(p, pathID, e.clock)
	if !ok {
		e.refused++
	}
	return id, ok
}

func (e *Engine) applyRoutes(u *ingest.Update) {
	for _, pathID := range e.pathIDs(u) {
		id, ok := e.internPeer(u.Peer, pathID)
		if !ok {
			continue
		}
		if len(e.shards) == 1 {
			e.shards[0].apply(id, pathID, u)
			continue
		}
		e.pending.add(id, pathID, u)
	}
	if len(e.pending.updates) >= maxPending {
		e.flush()
	}
}

// pathIDs returns the distinct path identifiers of u; nearly always there is one.
func (e *Engine) pathIDs(u *ingest.Update) []uint32 {
	ids := e.idScratch[:0]
	for _, ns := range [2][]bgp.NLRI{u.Withdrawn, u.Announced} {
		for _, n := range ns {
			if k := len(ids); k > 0 && ids[k-1] == n.PathID || slices.Contains(ids, n.PathID) {
				continue
			}
			ids = append(ids, n.PathID)
		}
	}
	e.idScratch = ids
	return ids
}

// flush applies the pending updates in all shards at once, and then the ends of sessions.
func (e *Engine) flush() {
	if len(e.pending.updates) > 0 {
		e.parallel(func(s *shard) {
			for i := range e.pending.updates {
				p := &e.pending.updates[i]
				s.apply(p.peer, p.pathID, &p.update)
			}
		})
		e.pending.reset()
	}
	if len(e.gone) > 0 {
		e.parallel(func(s *shard) { s.peersGone(e.gone, e.goneAt) })
		clear(e.gone)
	}
}

func (e *Engine) parallel(f func(*shard)) {
	if len(e.shards) == 1 {
		f(e.shards[0])
		return
	}
	var wg sync.WaitGroup
	for _, s := range e.shards {
		wg.Go(func() { f(s) })
	}
	wg.Wait()
}

// peerDown notes that a session ended. Its routes go with those of the others that end at this
// moment: a router or a collector that is lost takes hundreds with it, and each search for the routes
// of some goes through the whole table.
func (e *Engine) peerDown(p ingest.Peer) {
	maps.Copy(e.gone, e.peers.down(p))
	e.goneAt = e.clock
}

// peerUp begins a session, which has no routes yet: those of the one before are gone, also when
// nobody told of its end.
func (e *Engine) peerUp(p ingest.Peer) {
	e.peerDown(p)
	e.flush()
	e.internPeer(p, 0)
}

// Advance moves event time to t, judging what changed and letting incidents end that have been quiet
// for long enough. Time never goes back: an earlier t does nothing.
func (e *Engine) Advance(t ingest.Time) {
	if t <= e.clock {
		return
	}
	if t/tick != e.clock/tick {
		if t/settleCheck != e.clock/settleCheck {
			e.flush()
			e.parallel(func(s *shard) { s.markSettled(e.clock) })
			e.bursts.prune(e.clock)
		}
		e.tick()
		if e.learn && e.learnTo != 0 && t >= e.learnTo {
			e.FinishBaseline()
		}
		e.look(t)
		e.cases.fireDeadlines(t)
	}
	e.clock = t
}

// AdvanceIdle moves event time towards t where nothing was heard meanwhile: to the last whole tick. So it makes no
// difference how many such moments there were: the last of them alone leads to the same.
func (e *Engine) AdvanceIdle(t ingest.Time) { e.Advance(t / tick * tick) }

// tick ends the current quantum.
func (e *Engine) tick() {
	e.flush()
	e.cases.full = nil
	e.peers.countActive()
	e.watch(e.clock, e.peers.active)
	e.endPlans()
	need := e.cases.need()
	e.judge(need)
	if e.beginBursts() {
		e.judge(need)
		for _, s := range e.shards {
			s.specifics = s.specifics[:0] // told already
		}
	}
	e.correlate()
	e.cases.unmute(e.clock)
	e.bursts.end(e.cases.cases, e.clock)
}

// correlate hands what the shards found to the correlator.
func (e *Engine) correlate() {
	var changes []findingChange
	for _, s := range e.shards {
		changes = append(changes, s.changes...)
		clear(s.changes)
		s.changes = s.changes[:0]
	}
	if len(changes) == 0 {
		return
	}
	e.cases.apply(changes, e.clock)
}

// judge lets the shards judge what changed.
func (e *Engine) judge(need int) {
	e.parallel(func(s *shard) {
		s.now, s.need = e.clock, need
		s.judgeDirty()
	})
	e.shareLearned()
}

// beginBursts looks whether the more-specifics that the shards have found make bursts, and marks the parts of
// those for judgement.
func (e *Engine) beginBursts() bool {
	var fresh []ownSpecific
	for _, s := range e.shards {
		fresh = append(fresh, s.specifics...)
		s.specifics = s.specifics[:0]
	}
	parts := e.bursts.note(fresh, e.clock)
	for _, p := range parts {
		s := e.shardOf(p.prefix)
		if id, ok := s.table.lookup(p.prefix); ok {
			s.markDirty(s.table.entry(id), id, p.since)
		}
	}
	return len(parts) > 0
}

func (e *Engine) shareLearned() {
	for _, s := range e.shards {
		e.links.learn(s.learned, s.learnedValleys)
		if s.learned, s.learnedValleys = s.learned[:0], s.learnedValleys[:0]; cap(s.learned) > 1<<12 {
			s.learned = nil // a baseline's, which is never needed again
		}
	}
}

// LoadBaseline takes what next yields as normal, up to io.EOF, and finishes the baseline: the rows of
// table dumps, and updates that bring those up to a later time. Event time does not move, and the
// warm-up does not begin. Any other error of next is returned.
func (e *Engine) LoadBaseline(next func() (*ingest.Update, error)) error {
	for {
		u, err := next()
		if errors.Is(err, io.EOF) {
			e.dumped = true // also where it has no row: then that is how things stood
			e.FinishBaseline()
			return nil
		}
		if err != nil {
			return err
		}
		switch u.Kind {
		case ingest.PeerDown:
			e.peerDown(u.Peer)
		case ingest.PeerUp:
			e.peerUp(u.Peer)
		default:
			row := *u
			row.Kind = ingest.RIB
			e.Apply(&row)
		}
	}
}

// baselineShare is the share of a prefix's routes below which one origin among several is not taken
// as normal, even in the baseline: mistakes may already be there.
const baselineShare = 0.1

// FinishBaseline takes everything in the table as normal and starts to judge what comes after.
func (e *Engine) FinishBaseline() {
	if !e.learn {
		return
	}
	e.flush()
	e.shareLearned()
	e.learn = false
	need, full := e.cases.need(), len(e.fullFeed())
	e.parallel(func(s *shard) {
		s.warmSince, s.partial, s.need = e.clock, !e.dumped, need
		for id, en := range s.table.all() {
			s.takeAsNormal(id, e.remembers, full, e.clock)
			s.table.history.Each(en.origins, func(o *origins.Pair) bool {
				s.warmSince = max(s.warmSince, o.First())
				return true
			})
		}
		s.learning = false
	})
	e.shareLearned()
	for _, s := range e.shards { // one answer for all, whatever each has seen
		for _, t := range e.shards {
			s.warmSince = max(s.warmSince, t.warmSince)
		}
	}
	e.weighFeeds()
	e.countFeeds()
}

// fullFeed returns the peers that carry at least half as many routes as the one with most.
func (e *Engine) fullFeed() map[peerID]bool {
	counts := make([]int, len(e.peers.list))
	most := 0
	for _, s := range e.shards {
		for id := range s.table.perPeer {
			of := &s.table.perPeer[id].routes
			counts[id] += int(of[0] + of[1])
			most = max(most, counts[id])
		}
	}
	full := map[peerID]bool{}
	for id, n := range counts {
		if n > 0 && n*2 >= most {
			full[peerID(id)] = true
		}
	}
	return full
}

func (e *Engine) shardOf(p netip.Prefix) *shard {
	for _, s := range e.shards {
		if s.owns(p) {
			return s
		}
	}
	panic("detect: no shard owns " + p.String())
}

// Finish judges what is left after the last update of a finite input, without letting time pass.
func (e *Engine) Finish() {
	e.FinishBaseline()
	e.tick()
}

// SkipSequence makes the next event's sequence higher than n.
func (e *Engine) SkipSequence(n uint64) { e.cases.sequence = max(e.cases.sequence, n) }

// Adopt takes charge of an open incident that the engine does not know, because the state in which it
// arose was lost. Unless its routes are heard of again it ends after the usual hold.
func (e *Engine) Adopt(inc incident.Incident) { e.cases.adopt(inc) }

// Incidents returns every incident that is open or can still reopen, in the order of opening.
func (e *Engine) Incidents() []incident.Incident { return e.cases.incidents() }

// Stats counts what the engine holds.
type Stats struct {
	Peers    int    `json:"peers"`
	Prefixes int    `json:"prefixes"`
	Routes   int    `json:"routes"`
	Paths    int    `json:"paths"`   // nodes of the path tree
	Refused  uint64 `json:"refused"` // updates and announcements over MaxPeers and MaxPrefixes
}

// Stats returns the engine's present size.
func (e *Engine) Stats() Stats {
	st := Stats{Peers: len(e.peers.list), Refused: e.refused}
	for _, s := range e.shards {
		st.Routes += s.table.routes
		st.Paths += s.table.paths.size()
		st.Refused += s.table.refused
		st.Prefixes += s.table.announced
	}
	return st
}

func sortOrigins(os []OriginState) {
	slices.SortFunc(os, func(a, b OriginState) int {
		return cmp.Or(cmp.Compare(b.Peers, a.Peers), cmp.Compare(a.ASN, b.ASN))
	})
}
