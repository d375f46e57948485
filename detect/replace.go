package detect

import (
	"reflect"

	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/ingest"
)

// Replace makes k what verdicts are compared with from now on. Like every method of the engine it is for its owner,
// between updates. At the next tick what the change concerns is judged again: prefixes under a VRP that came or
// went, paths of which ASPAs or relationships now say something else and, where anything but the RPKI changed, all
// that is under suspicion. What was usual before something spoke against it stays usual: that an attestation, or a
// file of relationships, now calls a route wrong that has long been there is how things stand, and no event of routing.
// That a change of ROAs has made such routes Invalid is told as what it is (roachange.go).
//
// Updates wait meanwhile: over a million prefixes at ten peers some 30 ms for a change of VRPs, and 90 ms for one of
// ASPAs or relationships, which is about all paths (BenchmarkPause).
//
// No VRPs where there were some says that they have expired: what is judged from then on goes without, but what
// the RPKI has shown to be wrong is not taken back, since nothing has shown it to be right.
func (e *Engine) Replace(k Knowledge) {
	e.flush()
	before := e.given
	e.given, e.infers = k, k.Relationships == nil
	wasWatched := e.known.watched
	*e.known = k
	e.known.Relationships = e.relationships()
	watched := compileWatches(k.Watches, k.IRR, k.WatchSets)
	rewatched := !reflect.DeepEqual(k.Watches, before.Watches) || !watched.samePrefixes(wasWatched)
	e.known.watched = watched
	if k.Relationships != before.Relationships || k.Declared != before.Declared {
		e.relate()
	}
	r := reconsideration{at: e.clock, others: k.Organisations != before.Organisations || k.Hypergiants != before.Hypergiants || k.Delegations != before.Delegations || k.IRR != before.IRR}
	r.before = e.lastVRPs
	if k.VRPs != nil {
		r.blind = before.VRPs == nil
		r.concerned, r.aspas = changedSpace(e.lastVRPs, k.VRPs)
		e.lastVRPs = k.VRPs
	}
	if rewatched {
		e.planned = 0
	}
	need := e.cases.need()
	e.parallel(func(s *shard) {
		s.table.paths.aspas = k.VRPs.Attestations()
		s.table.watched, s.table.paths.watched = e.known.watched, e.known.watched
		var changed []bool
		if r.aspas || r.blind || rewatched {
			changed = s.regrow()
		}
		s.now, s.need = e.clock, need
		if rewatched {
			s.rewatch()
		}
		s.reconsider(r, changed)
	})
	e.shareLearned()
}

// reconsideration is what a change of knowledge concerns.
type reconsideration struct {
	at        ingest.Time
	concerned *rpki.Set // covers what VRPs changed; nil where none did
	aspas     bool      // ASPAs changed
	before    *rpki.Set // the last VRPs before, also when they have expired
	blind     bool      // there were no VRPs for a while
	others    bool      // something else than the RPKI changed
}

// changedSpace returns a set that covers what VRPs changed, nil where none did, and whether ASPAs did.
func changedSpace(before, now *rpki.Set) (concerned *rpki.Set, aspas bool) {
	b := rpki.NewBuilder()
	for c := range rpki.Diff(before, now, ingest.Time(0).Time()) {
		if c.ASPA != nil {
			aspas = true
			break
		}
		if err := b.Add(*c.VRP); err != nil {
			return now, true // both sets together are more than one may be: judge all anew
		}
	}
	if b.Len() > 0 {
		concerned = b.Set("")
	}
	return concerned, aspas
}

// regrow works out every node anew and returns which changed. Valleys that show on paths whose every
// link is usual are usual from now on.
func (s *shard) regrow() []bool {
	t := s.table.paths
	s.table.endCleaning()
	changed := make([]bool, len(t.nodes))
	for i := range t.fromRoots() {
		old := t.nodes[i]
		n := t.derive(old.parent, old.asn)
		n.flags = n.flags&^flagNovel | old.flags&flagNovel // novelty is a matter of when it was judged
		t.nodes[i] = n
		// Where the leak is has changed with a node before, if at all.
		if n.flags == old.flags && n.leak == old.leak && (n.leak == noLeak || !changed[n.parent]) {
			continue
		}
		changed[i] = true
		if n.leak != 0 && old.leak == 0 && !t.novel(i) {
			from, leaker, to := t.triple(i)
			s.learnedValleys = append(s.learnedValleys, valley{from, leaker, to})
		}
	}
	return changed
}

// reconsider marks for judgement what r concerns; paths are those that changed.
func (s *shard) reconsider(r reconsideration, paths []bool) {
	if s.learning {
		return
	}
	for id, en := range s.table.all() {
		if len(en.routes) == 0 {
			continue
		}
		concerned := s.concerns(en, r)
		if concerned {
			s.noteTurns(en, id, r.before)
		}
		if concerned || hasPath(en, paths) {
			s.markDirty(en, id, r.at)
		}
	}
}

func (s *shard) concerns(en *entry, r reconsideration) bool {
	if en.suspect && (r.others || r.blind) {
		return true
	}
	if !r.blind {
		return r.concerned.State(en.prefix, 0, false) == rpki.Invalid
	}
	invalid := false
	s.table.history.Each(en.origins, func(o *origins.Pair) bool {
		invalid = o.Routes() > 0 && s.know.VRPs.State(en.prefix, o.Origin(), o.Origin() != 0) == rpki.Invalid
		return !invalid
	})
	return invalid
}

func hasPath(en *entry, paths []bool) bool {
	if paths == nil {
		return false
	}
	for _, r := range en.routes {
		if paths[r.node] {
			return true
		}
	}
	return false
}
