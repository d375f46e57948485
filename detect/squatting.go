package detect

import (
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/detect/rpki"
)

// Squatting is the use of addresses that nobody uses: there is no usual route to the prefix, or to a block around it, that a
// new one could be compared with. So registers must tell, and where they speak of the space nothing is judged unless one says:
//
//   - no RIR has delegated the addresses: they are in a free pool, or set aside;
//   - their holder says by an AS0 ROA that they are not to be routed (RFC 6483 §4);
//   - they have lain dormant: delegated more than a year ago, and during weeks of watching never announced, be it in parts or
//     within a block, until now. Most such announcements are honest, so this alone raises nothing: the registry of the origin
//     must be another than that of the addresses, or other evidence must join in.
//
// Where no register speaks of it there is only this: who squats often takes not only addresses that nobody uses but an AS number
// that nobody uses, too. So do all honest new networks, a score a day in all the world. So a newcomer, of which neither the prefix
// nor the AS was in the table dump, or heard since, is told as doubtful, at low severity: as something to look at, and no alarm.
//
// Nobody is accused
//   - of a prefix of which a part is delegated;
//   - of what a ROA for this origin allows, or the registry's own IRR has for it;
//   - of space whose holder has the AS number, too;
//   - of space that was delegated within the last year, but for AS0;
//   - of what was in the table when watching began: it is how things stand; and of being new without a table dump to tell by;
//   - by a dormancy of which too little is known: before there are two weeks of history, which the memory of a half-life of
//     less than ten days never holds.
//
// Where false alarms remain: a delegation is announced before the statistics that are read tell of it, when these are old; space
// is leased from a holder of another registry and neither a ROA nor a route object is made for it; a holder forgets his AS0 ROA; nearly
// all newcomers, where no statistics are read.
// What is missed: the registers do not tell who squats with a forged origin, so the AS beside it is named as accomplice.

// Weights, see judge.go. Set by hand: the corpus has hardly any.
const (
	weightUnallocated      = 4.0 // statistics are a day old, most delegations are not announced on their first day
	weightUnallocatedASN   = 2.0 // and the AS number is nobody's, either
	weightDormant          = 1.5 // a new customer of a provider looks the same
	weightDormantElsewhere = 1.5 // few use space of another part of the world
	weightNewcomer         = 3.0 // enough to be told, if without alarm: see severity
)

const (
	// dormantSince is how old a delegation must be of which dormancy is told.
	dormantSince = 365 * 24 * time.Hour
	// dormantWatched is how much history there must be before the first route.
	dormantWatched = 14 * 24 * time.Hour
)

// ruleSpace is in the ledger of every squatting.
const ruleSpace = "space.unused"

// judgeSquatting judges an origin of a prefix that nobody usually announces, nor any block around it; nil where no register says
// anything that makes this suspicious.
func (s *shard) judgeSquatting(e *entry, g *group, origin uint32) *verdict {
	d := s.know.Delegations
	space, as := d.Prefix(e.prefix), d.ASN(origin)
	roas := s.know.VRPs.Validate(e.prefix, origin, true)
	free := space.Status.Unallocated()
	dormant := !free && s.dormant(e, g, origin, space)
	newcomer := space.Status == registry.Unknown && len(roas.VRPs) == 0 && s.know.IRR.State(e.prefix, origin) <= irr.NotFound &&
		!s.partial && !s.seen(origin) && s.unused(e, s.table.origin(e, g.origin), origin)
	if !free && !dormant && !newcomer && roas.Reason != "as0" {
		return nil
	}
	v := &verdict{kind: incident.Squatting, offender: origin, next: after(g.tail, origin), observed: g.origin, ledger: newLedger()}
	v.ledger.add(ruleSpace, 0, "table", "", "nobody usually announces %s or a block around it", e.prefix)
	v.expected = s.registeredOrigins(e, origin, roas)
	if len(v.expected) > 0 {
		v.victim = v.expected[0]
	}
	switch {
	case free:
		v.ledger.add("space.unallocated", weightUnallocated, "registry", d.Source(), "%s is delegated to nobody: %s at %s", e.prefix, space.Status, space.Registry)
	case dormant:
		v.ledger.add("space.dormant", weightDormant, "history", s.baseline(), "%s was delegated on %s and never announced while it was watched", e.prefix,
			space.Since.Format(time.DateOnly))
		if as.Status != registry.Unknown && as.Registry != space.Registry {
			v.ledger.add("space.elsewhere", weightDormantElsewhere, "history", s.baseline(), "%s is of %s and AS%d of %s", e.prefix, space.Registry, origin, as.Registry)
		}
	case newcomer:
		v.ledger.add("space.newcomer", weightNewcomer, "history", s.baseline(), "neither %s nor AS%d was ever seen before, and no register tells whose they are", e.prefix, origin)
	}
	if as.Status.Unallocated() {
		v.ledger.add("space.unallocated_asn", weightUnallocatedASN, "registry", d.Source(), "AS%d is delegated to nobody: %s at %s", origin, as.Status, as.Registry)
	}
	s.weighRegistry(v, e.prefix, origin)
	s.weighROV(v, e, origin)
	s.weighIRR(v, e, origin)
	return v
}

// registeredOrigins are the ASes that the holder of a prefix has named as its origin, by a ROA or in the registry's own IRR.
func (s *shard) registeredOrigins(e *entry, origin uint32, roas rpki.Validity) []uint32 {
	named := holders(roas.VRPs)
	if a := s.know.IRR.Check(e.prefix, origin); a.State == irr.Contradicted {
		for _, r := range a.Routes {
			if r.Authoritative && !slices.Contains(named, r.Origin) {
				named = append(named, r.Origin)
			}
		}
	}
	return named
}

// dormant reports that space delegated long ago was not announced, as a whole, in parts or within a block, for as long as it was
// watched before g's origin came.
func (s *shard) dormant(e *entry, g *group, origin uint32, space registry.Holding) bool {
	o := s.table.origin(e, g.origin)
	first := o.First()
	delegated := space.Status == registry.Allocated || space.Status == registry.Assigned
	return delegated && !space.Since.IsZero() && first.Time().Sub(space.Since) >= dormantSince && !s.partial &&
		s.table.history.Watched()-s.now.Sub(first) >= dormantWatched && s.unused(e, o, origin)
}

// unused reports that nobody announced e, a part of it or a block around it before accused came, the origin of routes that origin is
// answerable for, but for what that one was suspected of, too.
func (s *shard) unused(e *entry, accused *origins.Pair, origin uint32) bool {
	used := func(c *entry) bool {
		before := false
		s.table.history.Each(c.origins, func(o *origins.Pair) bool {
			before = o != accused && o.First() <= accused.First() && (o.MarkedUsual() || o.Origin() != accused.Origin() && o.Origin() != origin)
			return !before
		})
		return before
	}
	if used(e) {
		return false
	}
	for c := range s.table.covering(e.prefix) {
		if c.prefix.Bits() >= minBits(c.prefix) && used(c) {
			return false
		}
	}
	deepest := 24
	if e.prefix.Addr().Is6() {
		deepest = 48
	}
	for c := range s.table.within(e.prefix, deepest, 512) {
		if used(c) {
			return false
		}
	}
	return true
}
