package detect

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/ingest"
)

// Two kinds are bursts: what many prefixes tell at once and none of them alone.
//
// A re-origination (RFC 7908 §3.5) is many hijacks by one AS of many victims. Each is judged as such, with
// all that speaks against one; the correlator then makes one incident of them, see [correlator.gather].
//
// A leak of internal more-specifics (RFC 7908 §3.6) is made of routes of which each is harmless: an AS may
// announce parts of its own space. Shards tell the engine of every new one that enough networks have; when
// one AS has begun with many of them, they and those that follow are judged as a burst until it is over.
// Nobody is accused for
//   - few of them (traffic engineering), or many that come one by one over a day;
//   - what was announced before, be it long ago and by one peer alone, such as what a session reset or a flap
//     brings back;
//   - what only peers tell whose sessions have just come up: a new peer brings a table of its own;
//   - what fewer networks than for any incident have: a single peer may be given its neighbour's internals;
//   - routes over ASes that no route to the block passes, or that the relationships show to be leaked: somebody
//     further on made or passed them on, such as a route optimiser;
//   - blackhole routes, which are a kind of their own;
//   - what a ROA allows, unless it is longer than anybody accepts, or what a route object names exactly: somebody
//     prepared it.
//
// Where false alarms remain: a holder who does any of this on purpose, for dozens of prefixes within minutes and
// without a ROA or route objects for them (moving a data centre, defence against a hijack or a flood). And a leak is
// missed where a wide ROA covers it, and without a table dump as the baseline, as then little is known to be new. A
// re-origination accuses nobody who would not be accused of hijacks; it may only be an attack after all, which is
// why it is as severe as one.

// burstWindow is the event time within which the parts of a burst begin.
const burstWindow = 10 * time.Minute

const (
	// burstSpecifics is how many new more-specifics of its own make a burst of an AS. The 16 /24s of a /20
	// are traffic engineering; the leaks on record had hundreds to tens of thousands.
	burstSpecifics = 24
	// burstVictims and burstHijacks are how many victims and prefixes make a re-origination of hijacks. Nobody
	// is known to have attacked so many at once; the mistakes on record concerned hundreds of ASes.
	burstVictims = 5
	burstHijacks = 10
)

// ownSpecific is a new more-specific of space that the same holder announces around it.
type ownSpecific struct {
	origin uint32
	prefix netip.Prefix
	since  ingest.Time
}

// specifics keeps which ASes begin to announce more-specifics of their own. Shards read it; only the engine writes
// it, at ticks.
type specifics struct {
	recent map[uint32]map[netip.Prefix]ingest.Time // by origin, of the last burstWindow
	bursts map[uint32]specificsBurst
}

type specificsBurst struct {
	since ingest.Time // when the first of them was first heard
	count int         // how many there were when it was noticed
}

func newSpecifics() *specifics {
	return &specifics{recent: map[uint32]map[netip.Prefix]ingest.Time{}, bursts: map[uint32]specificsBurst{}}
}

// note takes what one tick brought, in any order, and returns the parts of the bursts that have begun with it. Of an
// AS that has not begun one it keeps fewer than burstSpecifics.
func (s *specifics) note(fresh []ownSpecific, now ingest.Time) (parts []ownSpecific) {
	var origins []uint32
	for _, f := range fresh {
		if _, ok := s.bursts[f.origin]; ok {
			continue
		}
		if s.recent[f.origin] == nil {
			s.recent[f.origin] = map[netip.Prefix]ingest.Time{}
		}
		s.recent[f.origin][f.prefix] = f.since
		origins = append(origins, f.origin)
	}
	slices.Sort(origins)
	for _, origin := range slices.Compact(origins) {
		r := s.recent[origin]
		forget(r, now)
		if len(r) < burstSpecifics {
			continue
		}
		b := specificsBurst{since: now, count: len(r)}
		for _, p := range slices.SortedFunc(maps.Keys(r), comparePrefixes) {
			b.since = min(b.since, r[p])
			parts = append(parts, ownSpecific{origin, p, r[p]})
		}
		s.bursts[origin] = b
		delete(s.recent, origin)
	}
	return parts
}

func forget(recent map[netip.Prefix]ingest.Time, now ingest.Time) {
	maps.DeleteFunc(recent, func(_ netip.Prefix, at ingest.Time) bool { return now.Sub(at) > burstWindow })
}

// prune forgets what is too old to become part of a burst.
func (s *specifics) prune(now ingest.Time) {
	maps.DeleteFunc(s.recent, func(_ uint32, r map[netip.Prefix]ingest.Time) bool {
		forget(r, now)
		return len(r) == 0
	})
}

// end forgets the bursts whose incident has ended, and those that have made none in their time.
func (s *specifics) end(cases map[caseKey]*incidentCase, now ingest.Time) {
	maps.DeleteFunc(s.bursts, func(origin uint32, b specificsBurst) bool {
		ic := cases[caseKey{incident.InternalSpecifics, origin, 0}]
		if ic == nil {
			return now.Sub(b.since) > burstWindow
		}
		return ic.state == ended
	})
}

// noteSpecific tells of e where it is a new more-specific of its holder's own space that enough networks have. v is
// what else was found wrong with its routes.
func (s *shard) noteSpecific(e *entry, g *group, v *verdict) {
	if !v.harmless() && v.kind != incident.RPKIInvalid {
		return
	}
	o := s.table.origin(e, g.origin)
	if o == nil || o.MarkedUsual() || s.now.Sub(o.First()) > burstWindow || !s.agreed(s.told(g.routes)) || !s.ownSpecific(e, g, o) {
		return
	}
	s.specifics = append(s.specifics, ownSpecific{g.origin, e.prefix, o.First()})
}

// told returns those of some routes that tell of what their origin does now: not those of peers whose sessions are
// news themselves, nor those that somebody further on leaked.
func (s *shard) told(rs []route) []route {
	return slices.DeleteFunc(slices.Clone(rs), func(r route) bool {
		if _, leaked := s.byRelationships(r.node); leaked {
			return true
		}
		since := s.peers.list[r.peer].since
		return since != 0 && s.now.Sub(since) < burstWindow
	})
}

// ownSpecific reports that e is a more-specific of what its origin o, or a sibling of it, usually announces, that it
// was never anybody else's, and that nobody seems to have made it on the way.
func (s *shard) ownSpecific(e *entry, g *group, o *origins.Pair) bool {
	if g.origin == 0 || o.Baseline() || s.table.paths.nodes[g.routes[0].node].flags&flagBlackhole != 0 {
		return false
	}
	if slices.ContainsFunc(s.usualOrigins(e), func(u *origins.Pair) bool { return u != o }) {
		return false
	}
	cover, holders := s.cover(e)
	return s.sameHolder(holders, g.origin) && s.firstOutside(g.tail, cover) < 2
}

// judgeSpecific judges e as part of a burst of more-specifics; nil where there is none.
func (s *shard) judgeSpecific(e *entry, g *group) *verdict {
	b, ok := s.bursts.bursts[g.origin]
	if !ok {
		return nil
	}
	o := s.table.origin(e, g.origin)
	if o == nil || o.First() < b.since || len(s.told(g.routes)) == 0 || !s.ownSpecific(e, g, o) {
		return nil
	}
	if o.MarkedUsual() && s.table.history.Settled(o, s.now, s.settle) {
		return nil // it has been there for so long that this is how things stand
	}
	cover, holders := s.cover(e)
	v := &verdict{kind: incident.InternalSpecifics, rfc7908: 6, offender: g.origin, next: after(g.tail, g.origin),
		expected: asns(holders), observed: g.origin, cover: cover, covering: cover.prefix, ledger: newLedger()}
	v.ledger.add("burst.specifics", s.novelty(weightBurst), "table", "", "AS%d began to announce %d more-specifics of its own blocks within %.0f minutes of %s", g.origin,
		b.count, burstWindow.Minutes(), b.since.Time().Format("2006-01-02 15:04:05 UTC"))
	v.ledger.add("specific.never_seen", s.novelty(weightSpecificNew/2), "history", s.baseline(), "%s was never announced before, only %s", e.prefix, cover.prefix)
	if tooLong(e.prefix) {
		v.ledger.add("prefix.too_long", weightTooLong, "table", "", "%s is longer than what networks pass on to one another", e.prefix)
	}
	r := s.know.VRPs.Validate(e.prefix, g.origin, true)
	switch v.rpki = r.State; {
	case r.Reason == "invalid_length":
		v.ledger.add("rpki.invalid_length", weightInvalidLength, "rpki", s.know.VRPs.Source(), "RPKI Invalid, too long: %s", vrpList(r.VRPs))
	case r.State == rpki.Valid:
		v.ledger.add("rpki.valid_specific", weightValidSpecific, "rpki", s.know.VRPs.Source(), "RPKI Valid: the holder allows parts of the block: %s", vrpList(r.VRPs))
	}
	if a := s.know.IRR.Check(e.prefix, g.origin); a.Exact && len(a.Routes) > 0 && a.Routes[0].Origin == g.origin {
		v.ledger.add("irr.registered", weightIRRExact, "irr", s.know.IRR.Source(), "registered as it is announced: %s", routeList(a.Routes))
	}
	return v
}

// isBurst reports the kinds that many prefixes tell at once.
func isBurst(k incident.Kind) bool {
	return k == incident.ReoriginationLeak || k == incident.InternalSpecifics
}

// reoriginated reports the kinds of which many victims at once make a re-origination.
func reoriginated(k incident.Kind) bool {
	return k == incident.OriginHijack || k == incident.SubprefixHijack
}

// gather sends findings of an AS that re-originates others' routes to the one case of that. Where these changes
// make a re-origination of its hijacks, those that are known already go there too: the hijacks' incidents end at
// once and name the one that goes on.
func (c *correlator) gather(changes []findingChange, need int, now ingest.Time) []findingChange {
	suspects := map[uint32][]int{} // changes by offender
	for i, ch := range changes {
		if !reoriginated(ch.key.kind) {
			continue
		}
		if k := (caseKey{incident.ReoriginationLeak, ch.key.offender, 0}); c.belongs(k, ch.prefix) {
			changes[i].key = k
			continue
		}
		suspects[ch.key.offender] = append(suspects[ch.key.offender], i)
	}
	known := map[uint32][]*incidentCase{}
	if len(suspects) > 0 {
		for k, ic := range c.cases {
			if reoriginated(k.kind) && suspects[k.offender] != nil && ic.confirmed > 0 {
				known[k.offender] = append(known[k.offender], ic)
			}
		}
	}
	for _, offender := range slices.Sorted(maps.Keys(suspects)) {
		if !bursting(changes, suspects[offender], known[offender], need, now) {
			continue
		}
		k := caseKey{incident.ReoriginationLeak, offender, 0}
		for _, i := range suspects[offender] {
			changes[i].key = k
		}
		changes = append(changes, c.absorb(k, changes)...)
	}
	slices.SortStableFunc(changes, compareChanges) // only now: two keys may have become one
	return changes
}

// gathered reports that a finding is held by the case of a re-origination.
func (c *correlator) gathered(f *finding) bool {
	ic := c.cases[caseKey{incident.ReoriginationLeak, f.key.offender, 0}]
	return ic != nil && reoriginated(f.key.kind) && ic.findings[f.prefix] != nil
}

// belongs reports that a hijack of p is part of the re-origination k.
func (c *correlator) belongs(k caseKey, p netip.Prefix) bool {
	ic := c.cases[k]
	return ic != nil && (ic.state != ended || ic.findings[p] != nil)
}

// bursting reports that the known hijacks of one AS, with the changes at the places given, make a re-origination.
func bursting(changes []findingChange, at []int, known []*incidentCase, need int, now ingest.Time) bool {
	counts := func(f *finding) bool { return f.asns >= need && now.Sub(f.since) <= burstWindow }
	victims, fresh := map[uint32]bool{}, map[netip.Prefix]bool{}
	for _, i := range at {
		if f := changes[i].now; f != nil && counts(f) {
			victims[changes[i].key.victim] = true
			fresh[changes[i].prefix] = true
		}
	}
	if len(fresh) == 0 {
		return false // nothing that brings it nearer
	}
	for _, ic := range known {
		victims[ic.key.victim] = true
	}
	if len(victims) < burstVictims {
		return false // however many prefixes one victim has, they are not counted
	}
	clear(victims)
	for _, i := range at {
		if fresh[changes[i].prefix] {
			victims[changes[i].key.victim] = true
		}
	}
	prefixes := len(fresh)
	for _, ic := range known {
		for p, f := range ic.findings {
			if counts(f) && !fresh[p] {
				victims[ic.key.victim] = true
				prefixes++
			}
		}
	}
	return len(victims) >= burstVictims && prefixes >= burstHijacks
}

// absorb ends the hijacks of the AS that re-originates, and returns their findings as changes of that case, but
// for those that changes has anew.
func (c *correlator) absorb(into caseKey, changes []findingChange) []findingChange {
	anew := map[netip.Prefix]bool{}
	for _, ch := range changes {
		if ch.key == into {
			anew[ch.prefix] = true
		}
	}
	var moved []findingChange
	for _, k := range slices.SortedFunc(maps.Keys(c.cases), caseKey.compare) {
		ic := c.cases[k]
		if k.offender != into.offender || !reoriginated(k.kind) {
			continue
		}
		for p, f := range ic.findings {
			if !anew[p] {
				moved = append(moved, findingChange{into, p, f.since, f})
			}
		}
		if ic.state == pending {
			delete(c.cases, k)
			continue
		}
		ic.findingSet = newFindingSet()
		if ic.state != ended {
			c.absorbed = append(c.absorbed, ic)
		}
	}
	return moved
}

// endAbsorbed ends the incidents that became part of a re-origination, once that has its name.
func (c *correlator) endAbsorbed(now ingest.Time) {
	for _, ic := range c.absorbed {
		inc := ic.last
		end := now.Time()
		inc.Status, inc.EndedAt = incident.Ended, &end
		inc.Explanation = explain(&inc)
		if into := c.cases[caseKey{incident.ReoriginationLeak, ic.key.offender, 0}]; into != nil && into.last.ID != "" {
			inc.Explanation += " It was part of more, and goes on as " + into.last.ID + "."
		}
		c.end(ic, inc, now)
	}
	c.absorbed = c.absorbed[:0]
}

func compareChanges(a, b findingChange) int {
	return cmp.Or(a.key.compare(b.key), comparePrefixes(a.prefix, b.prefix))
}
