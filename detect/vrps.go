package detect

import (
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/ingest"
)

// SetVRPs replaces the VRPs and ASPAs that verdicts compare with. Like every method of the engine it is
// for its owner, between updates. At the next tick what the change concerns is judged again: prefixes under
// a VRP that came or went, and paths that an ASPA now says something else of. What was usual before an
// ASPA spoke against it stays usual, as a usual origin does that becomes RPKI Invalid.
//
// nil says that the data has expired: what is judged from then on goes without, but what the RPKI has
// shown to be wrong is not taken back, since nothing has shown it to be right.
func (e *Engine) SetVRPs(now *rpki.Set) {
	e.flush()
	before, blind := e.known.VRPs, e.known.VRPs == nil
	if blind {
		before = e.lastVRPs
	}
	e.known.VRPs = now
	if now == nil {
		for _, s := range e.shards {
			s.table.paths.aspas = nil
		}
		return
	}
	e.lastVRPs = now
	concerned, aspas := changedSpace(before, now)
	e.parallel(func(s *shard) {
		var repaired []bool
		if aspas || blind {
			repaired = s.reconsiderPaths(now.ASPAs())
		} else {
			s.table.paths.aspas = now.ASPAs()
		}
		if !s.learning {
			s.reconsiderEntries(e.clock, concerned, blind, repaired)
		}
	})
	e.shareLearned()
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

// reconsiderPaths works out every node anew with other ASPAs and returns which changed. Valleys that
// show on paths whose every link is usual are usual from now on.
func (s *shard) reconsiderPaths(aspas rpki.ASPAs) []bool {
	t := s.table.paths
	t.aspas = aspas
	changed := make([]bool, len(t.nodes))
	for i := rootCount; i < len(t.nodes); i++ {
		old := t.nodes[i]
		n := t.grow(old.parent, old.asn)
		n.flags = n.flags&^flagNovel | old.flags&flagNovel // novelty is a matter of when it was judged
		t.nodes[i] = n
		if n.flags == old.flags && n.leak == old.leak && n.leakAs == old.leakAs {
			continue
		}
		changed[i] = true
		if n.leak != 0 && old.leak == 0 && n.flags&flagNovel == 0 {
			from, leaker, to := t.triple(nodeID(i))
			s.learnedValleys = append(s.learnedValleys, valley{from, leaker, to})
		}
	}
	return changed
}

// reconsiderEntries marks for judgement the prefixes under changed VRPs, those with a changed path and, where
// there were no VRPs for a while, those with a route that is Invalid.
func (s *shard) reconsiderEntries(at ingest.Time, concerned *rpki.Set, blind bool, paths []bool) {
	for i := range s.table.entries {
		en := &s.table.entries[i]
		if len(en.routes) > 0 && (s.concerns(en, concerned, blind) || hasPath(en, paths)) {
			s.markDirty(en, uint32(i), at)
		}
	}
}

func (s *shard) concerns(en *entry, concerned *rpki.Set, blind bool) bool {
	if !blind {
		return concerned.State(en.prefix, 0, false) == rpki.Invalid
	}
	for i := range en.origins {
		o := &en.origins[i]
		if o.routes > 0 && s.know.VRPs.State(en.prefix, o.asn, o.asn != 0) == rpki.Invalid {
			return true
		}
	}
	return false
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
