package detect

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/detect/rpki"
)

// When ROAs change so that routes become Invalid which have long been there, it is the ROAs that something
// happened to and not the routes: a new one names another AS or too short a length, or the one is lost that
// allowed what others forbid. Networks that validate origins drop the routes all the same. Judgement says
// nothing of them, as their origin is the usual one, so the change is caught here, in the moment of
// [Engine.Replace]. What changes while the engine does not run goes unnoticed.

// turn is that the routes of an origin of an entry, which were Valid or NotFound, became Invalid. It lasts
// as long as they would be Invalid, also while they are gone, so that routes that come back are part of it.
type turn struct {
	origin uint32
	ledger ledger
}

func findTurn(ts []turn, origin uint32) (at int, found bool) {
	return slices.BinarySearchFunc(ts, origin, func(t turn, o uint32) int { return cmp.Compare(t.origin, o) })
}

// noteTurns notes which stable routes of e the VRPs forbid now that did not before. Before there were
// any VRPs no route was either Valid or NotFound.
func (s *shard) noteTurns(e *entry, id uint32, before *rpki.Set) {
	if before == nil || s.know.VRPs == nil {
		return
	}
	for _, o := range s.usualOrigins(e) {
		origin := o.Origin()
		if s.know.VRPs.State(e.prefix, origin, true) != rpki.Invalid || before.State(e.prefix, origin, true) == rpki.Invalid {
			continue
		}
		stable := o.Baseline() || s.table.history.Present(o, s.now) >= established
		if !stable || registry.ReservedASN(origin) || !s.agreed(s.routesOf(e, origin)) {
			continue
		}
		ts := s.turned[id]
		i, found := findTurn(ts, origin)
		if found { // of an earlier change, made good in between without a judgement
			ts = slices.Delete(ts, i, i+1)
		}
		s.turned[id] = slices.Insert(ts, i, turn{origin, s.weighTurn(e, origin, before)})
	}
}

// Rules of the evidence that names the VRPs of a turn, one a line.
const (
	ruleCame = "rpki.came"
	ruleWent = "rpki.went"
)

// weighTurn tells what made the routes of an origin Invalid. All of it is proven by the two sets.
func (s *shard) weighTurn(e *entry, origin uint32, before *rpki.Set) ledger {
	now := s.know.VRPs
	is, was := now.Validate(e.prefix, origin, true), before.Validate(e.prefix, origin, true)
	came := slices.DeleteFunc(is.VRPs, before.Contains)
	went := slices.DeleteFunc(was.VRPs, now.Contains)
	var why []string
	if len(came) > 0 {
		why = append(why, "new is "+vrpList(came).String())
	}
	if len(went) > 0 {
		why = append(why, "gone is "+vrpList(went).String())
	}
	state := map[rpki.State]string{rpki.Valid: "Valid", rpki.NotFound: "not found in the RPKI"}[was.State]
	l := newLedger()
	l.add("rpki.turned", weightProven, "rpki", now.Source(), "%s of AS%d was %s and is RPKI Invalid (%s) since ROAs changed: %s",
		e.prefix, origin, state, is.Reason, strings.Join(why, ", "))
	for _, v := range came[:min(len(came), maxNamed)] {
		l.add(ruleCame, 0, "rpki", now.Source(), "new: %s", vrpList([]rpki.VRP{v}))
	}
	for _, v := range went[:min(len(went), maxNamed)] {
		l.add(ruleWent, 0, "rpki", before.Source(), "gone: %s", vrpList([]rpki.VRP{v}))
	}
	return l
}

// judgeTurns returns what is found of an entry's turns as its routes stand, and forgets those that are over.
// That there are no VRPs takes nothing back.
func (s *shard) judgeTurns(e *entry, d dirtyEntry) []finding {
	ts := slices.DeleteFunc(s.turned[d.id], func(t turn) bool {
		o := s.table.origin(e, t.origin)
		return o == nil || !s.table.history.Usual(o, s.now) || s.know.VRPs != nil && s.know.VRPs.State(e.prefix, t.origin, true) != rpki.Invalid
	})
	if len(ts) == 0 {
		delete(s.turned, d.id)
		return nil
	}
	s.turned[d.id] = ts
	var found []finding
	for _, t := range ts {
		rs := s.routesOf(e, t.origin)
		if len(rs) == 0 {
			continue
		}
		v := &verdict{kind: incident.ROAChange, victim: t.origin, expected: []uint32{t.origin}, observed: t.origin,
			rpki: rpki.Invalid, irr: s.know.IRR.State(e.prefix, t.origin), ledger: slices.Clone(t.ledger)}
		s.tellHistory(v, e, nil, s.table.origin(e, t.origin))
		found = append(found, s.finding(e, d, v, rs))
	}
	return found
}

// routesOf returns the routes to e of one origin.
func (s *shard) routesOf(e *entry, origin uint32) []route {
	var rs []route
	for _, r := range e.routes {
		if s.table.paths.nodes[r.node].origin == origin {
			rs = append(rs, r)
		}
	}
	return rs
}

// evidenceKey tells lines of evidence apart where an incident joins those of its prefixes: by rule, except
// that each VRP that came or went has its own.
func evidenceKey(l line) string {
	if l.rule == ruleCame || l.rule == ruleWent {
		return l.rule + l.String()
	}
	return l.rule
}

// turnSeverity ranks an incident of this kind. Nobody attacks, but those who validate drop the routes and
// only the holder can mend it: medium. Where less than a twentieth of the full feeds ever had the routes it is
// low; from a hundred prefixes on at which half of them see the origin it is high.
func turnSeverity(prefixes int, share float64) incident.Severity {
	switch {
	case share < 0.05:
		return incident.Low
	case prefixes >= 100 && share >= 0.5:
		return incident.High
	}
	return incident.Medium
}

// turnSnapshot is a turn at rest.
type turnSnapshot struct {
	Entry, Origin uint32
	Ledger        []incident.Evidence
}

// saveTurns adds the turns of an entry, which is the one at place in the snapshot.
func (s *shard) saveTurns(out *snapshot, id, place uint32) {
	for _, t := range s.turned[id] {
		out.Turns = append(out.Turns, turnSnapshot{place, t.origin, t.ledger.evidence()})
	}
}

// loadTurns gives saved turns back to their shards. Those that are over by the VRPs of today are for judgement.
func (e *Engine) loadTurns(s *snapshot, places []place) error {
	for _, ts := range s.Turns {
		if int(ts.Entry) >= len(places) {
			return fmt.Errorf("detector state: damaged: a change of ROAs without a prefix")
		}
		sh, id := places[ts.Entry].shard, places[ts.Entry].id
		i, found := findTurn(sh.turned[id], ts.Origin)
		if found {
			return fmt.Errorf("detector state: damaged: a change of ROAs twice")
		}
		sh.turned[id] = slices.Insert(sh.turned[id], i, turn{ts.Origin, ledgerOf(ts.Ledger)})
		en := sh.table.entry(id)
		en.suspect = true
		if vrps := sh.know.VRPs; vrps != nil && vrps.State(en.prefix, ts.Origin, true) != rpki.Invalid {
			sh.markDirty(en, id, e.clock)
		}
	}
	return nil
}
