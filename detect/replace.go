package detect

import (
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
)

// Replace makes k what verdicts are compared with from now on, at the price of one pass over the paths and the
// prefixes of the table.
//
// What is under suspicion is judged again at the next tick, and so are routes that were never taken as normal and
// whose origin validation changes. What stands unsuspected stays so: that an attestation, or a file of relationships,
// now calls a route wrong that has long been there is how things stand, and no event of routing.
func (e *Engine) Replace(k Knowledge) {
	e.flush()
	e.shareLearned()
	e.parallel(func(s *shard) { s.replace(&k, e.clock) })
	e.shareLearned()
}

func (s *shard) replace(k *Knowledge, now ingest.Time) {
	before := s.know
	s.know = k
	suspicious := map[nodeID]bool{}
	for id := range s.table.entries {
		e := &s.table.entries[id]
		if e.suspect {
			for _, r := range e.routes {
				suspicious[r.node] = true
			}
		}
		if !s.learning && (e.suspect || s.revalidated(e, before)) {
			s.markDirty(e, uint32(id), now)
		}
	}
	for _, id := range s.table.paths.replace(k.Relationships, k.VRPs.ASPAs()) {
		if suspicious[id] {
			continue
		}
		if from, leaker, to := s.table.paths.triple(id); !s.links.usualValley(from, leaker, to) {
			s.learnedValleys = append(s.learnedValleys, valley{from, leaker, to})
		}
	}
}

// revalidated reports whether e has routes of an origin that is not usual and that the RPKI calls
// something else than before.
func (s *shard) revalidated(e *entry, before *Knowledge) bool {
	for i := range e.origins {
		o := &e.origins[i]
		if o.routes > 0 && !o.usual && before.VRPs.State(e.prefix, o.asn, o.asn != 0) != s.know.VRPs.State(e.prefix, o.asn, o.asn != 0) {
			return true
		}
	}
	return false
}

// replace works out every node anew and returns those that have a valley and had none.
func (t *pathTree) replace(rels *topology.Relationships, aspas rpki.ASPAs) (leaking []nodeID) {
	t.rels, t.aspas = rels, aspas
	for i := range t.nodes[rootCount:] { // a parent stands before its children
		id := nodeID(i + rootCount)
		before := &t.nodes[id]
		now := t.grow(before.parent, before.asn)
		if now.leak != 0 && before.leak == 0 {
			leaking = append(leaking, id)
		}
		t.nodes[id] = now
	}
	return leaking
}
