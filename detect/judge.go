package detect

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Weights of the rules, as natural logarithms of odds: what a rule found true multiplies the odds
// that something is wrong by e to the power of its weight. Confidence is the logistic of their sum.
//
// This is the one table of them, each with the reasoning beside it. Where the labelled corpus has something to say, the value
// follows what
//
//	go run ./cmd/scorecard --fit --worlds 8
//
// works out on the tuning halves (FitWeights in package scorecard says how) and checks on the judging halves. A weight stays on
// the safe side of the fit where the corpus is not like the Internet: there a new link or more-specific is as often an attack
// as not, in truth hardly ever. Those that the corpus never or hardly shows are set by hand. The scorecard prints how far
// confidence comes true, of both halves.
const (
	weightPrior = -2.5 // most changes of routing are harmless

	weightNeverSeen        = 3.0  // another AS has this very prefix, and this one never had it
	weightNeverSeenBriefly = 1.0  // the same, but the other AS has not had it for long either
	weightSpecificNew      = 2.3  // a more-specific that was never announced before
	weightStrangers        = 2.0  // nothing known connects the two ASes
	weightAdjacent         = -3.5 // provider and customer often originate for each other
	weightSameOrg          = -6.0
	weightRegistered       = -4.0 // the registry gave the prefix and the AS number to one holder
	weightScrubbing        = -2.0 // it announces others' prefixes for a living, but errs too (AS3223, April 2025)
	weightLargerCover      = -2.0 // the origin also announces a block around it
	weightForeignCommon    = -1.5 // the covering block is full of others' more-specifics already
	weightGone             = -1.5 // the usual origin is no longer there: a handover looks like this
	weightInvalidASN       = 4.0
	weightInvalidLength    = 2.0
	weightValid            = -6.0
	weightIRRNeighbour     = -1.5 // the usual origin's own aut-num names it as provider or customer
	weightIRRHolder        = -3.0 // an RIR lets only the holder of a prefix register its origin
	weightIRRRegistered    = -1.0 // elsewhere anybody may register it, an attacker too
	weightIRRContradicted  = 1.0  // the usual origin is registered and this one is not; most of the IRR is stale
	weightIRRCovering      = 0.5  // the same of a block around it: customers often register nothing
	weightUsual            = -6.0 // what has long been so is no event, be it wrong
	weightTypo             = 4.0  // one slip of the finger explains it
	weightNewLink          = 2.0
	weightNeverTransit     = 3.0  // an AS that has only ever originated now passes on another's route
	weightUnknownAS        = 0.4  // whom nobody has ever seen is new, or made up
	weightMuchSmaller      = 2.6  // nobody buys transit of one who is much smaller
	weightSmaller          = 2.0  // hardly anybody does of one who is smaller at all
	weightFewCustomers     = 1.8  // the most, as these win one rarely; see customersWeight
	weightManyCustomers    = -2.0 // the least, as these win one every day
	weightNearby           = -1.0 // new links are found where one is
	weightFarApart         = 0.5
	weightAttested         = -4.0 // who holds the AS says that this is its provider
	weightNoProvider       = 3.0  // its attestation may be old, or the other a customer
	weightDownhill         = -1.5 // a new peering shows to customers alone, and a forger wants all the world
	weightManyLinks        = -1.0 // who has hundreds of neighbours finds new ones all the time
	weightNewWay           = 1.2  // a new more-specific by an AS that nobody uses to reach the block
	weightContradicted     = 0.8  // an AS of the path is seen to have another route
	weightSingleSource     = 2.6  // everybody has it through one chain that the covering block does not use
	weightValley           = 4.0
	weightInferredValley   = 3.0  // the most for relations that were inferred; less where they are doubtful
	weightLargeTransit     = -2.5 // of the largest networks a wrong relationship is likelier than a leak
	weightValleyUntested   = -1.5 // whether the path was usual before is not known
	weightFewPrefixes      = -1.0 // added to the incident, not the route: one prefix may be policy
	weightManyPrefixes     = 1.0
	weightSmallOrigin      = 3.0
	weightRepeated         = 2.0
	weightFact             = 6.5  // true by the data itself: a reserved number, a community
	weightProven           = 5.0  // the RPKI says so
	weightBurst            = 3.0  // nobody begins to announce dozens of parts of his blocks within minutes but by a slip
	weightTooLong          = 1.0  // of more-specifics: routes that filters drop are not sent on purpose
	weightValidSpecific    = -2.0 // a ROA of its own or with a maximum length allows it, so it was prepared, if widely (RFC 9319)
	weightIRRExact         = -2.0 // somebody registered just this more-specific, so it was prepared
	weightPeers            = -0.5 // peers exchange routes but do not originate each other's
)

// partialNovelty is what novelty is worth where the baseline is no table dump but some minutes of
// updates: most of what is normal has not been heard yet.
const partialNovelty = 0.3

// novelty weighs the fact that something was never seen.
func (s *shard) novelty(weight float64) float64 {
	if s.partial {
		return weight * partialNovelty
	}
	return weight
}

// raiseAt is the confidence from which a verdict is raised, harmlessBelow the one under which a
// route is learned as normal. What lies between is neither.
const (
	raiseAt       = 0.6
	harmlessBelow = 0.5
)

// established is how long an origin must have been there to count as such, unless the baseline had it.
const established = 24 * time.Hour

// verdict is what one judgement says of a prefix and some of its routes.
type verdict struct {
	kind     incident.Kind
	rfc7908  int
	offender uint32
	also     []uint32 // further offenders
	next     uint32   // the accomplice: the AS that accepted it; 0 when unknown
	victim   uint32   // 0 when there is none
	expected []uint32
	observed uint32
	cover    *entry
	covering netip.Prefix
	rpki     rpki.State
	irr      irr.State
	planned  bool // a plan speaks against it
	ledger   ledger
}

// raised reports that a verdict deserves an incident, or (a leak) would together with others like it.
func (v *verdict) raised() bool {
	if v == nil || v.kind == "" {
		return false
	}
	if v.kind == incident.RouteLeak {
		return logistic(v.ledger.sum()+weightManyPrefixes) >= raiseAt
	}
	return v.ledger.confidence() >= raiseAt
}

func (v *verdict) harmless() bool { return v == nil || v.ledger.confidence() < harmlessBelow }

// yieldsToLeak reports the kinds that a leak explains better, where the relationships prove one.
func (v *verdict) yieldsToLeak() bool {
	return v.kind == incident.ForgedPath || v.kind == incident.ForgedPathSubprefix || v.kind == incident.RPKIInvalid ||
		v.kind == incident.InternalSpecifics
}

func (v *verdict) key() caseKey { return caseKey{v.kind, v.offender, v.keyVictim()} }

// keyVictim tells incidents of one offender apart. A leak is one event however many victims it has,
// and so is one person's series of attempts at prepending.
func (v *verdict) keyVictim() uint32 {
	if manyVictims(v.kind) {
		return 0
	}
	return v.victim
}

func manyVictims(k incident.Kind) bool {
	return k == incident.RouteLeak || k == incident.Prepend || k == incident.ReoriginationLeak
}

// judgeGroup judges the routes to e that share an origin. nil means that nothing is wrong.
func (s *shard) judgeGroup(e *entry, g *group) *verdict {
	v := s.judgeWatched(e, g, s.judge(e, g))
	if v != nil {
		v.irr = s.know.IRR.State(e.prefix, v.observed)
	}
	return v
}

func (s *shard) judge(e *entry, g *group) *verdict {
	if v := s.judgeBogon(e, g); v != nil {
		return v
	}
	origin, hidden := effectiveOrigin(g.tail)
	if origin == 0 {
		return nil
	}
	if v := s.judgePrepend(e, g); v.raised() {
		return v
	}
	usual := s.usualBefore(e, g.origin)
	expected := usual
	var cover *entry
	var coverOrigins []*origins.Pair
	if len(usual) == 0 || tooLong(e.prefix) {
		cover, coverOrigins = s.cover(e)
	}
	if len(usual) == 0 {
		expected = coverOrigins
	}
	switch {
	case s.blackhole(e, g, origin, coverOrigins):
		return s.judgeBlackhole(e, g, origin, cover, coverOrigins)
	case hasOrigin(expected, origin) && len(hidden) > 0 && !hasOrigin(usual, g.origin):
		return s.judgeHiddenASN(e, g, origin, hidden)
	}
	var v *verdict
	switch {
	case len(expected) == 0: // a prefix like no other: only registers can tell
		v = s.judgeSquatting(e, g, origin)
	case s.sameHolder(usual, origin) || s.hides(usual, g, origin):
		v = s.judgeForged(e, g, origin, nil, usual)
	case len(usual) > 0:
		v = s.judgeOrigin(e, g, origin, hidden, nil, usual)
	case s.sameHolder(coverOrigins, origin) || s.hides(coverOrigins, g, origin):
		v = s.judgeForged(e, g, origin, cover, coverOrigins)
	default:
		v = s.judgeOrigin(e, g, origin, hidden, cover, coverOrigins)
	}
	if v.raised() {
		return v
	}
	if b := s.judgeSpecific(e, g); b.raised() {
		return b
	}
	if invalid := s.judgeInvalid(e, g, origin, v); v == nil || invalid.raised() {
		return invalid
	}
	return v
}

// judgeInvalid judges a route that the RPKI calls Invalid: a proven mistake, though without the marks
// of a hijack, as other has found where there was something to compare it with. It returns nil for
// every other route.
func (s *shard) judgeInvalid(e *entry, g *group, origin uint32, other *verdict) *verdict {
	r := s.know.VRPs.Validate(e.prefix, g.origin, g.origin != 0)
	if r.State != rpki.Invalid {
		return nil
	}
	v := &verdict{kind: incident.RPKIInvalid, offender: origin, next: after(g.tail, origin), victim: r.VRPs[len(r.VRPs)-1].ASN,
		expected: holders(r.VRPs), observed: g.origin, rpki: r.State, ledger: newLedger()}
	v.ledger.add("rpki."+r.Reason, weightProven, "rpki", s.know.VRPs.Source(), "RPKI Invalid: %s", vrpList(r.VRPs))
	if o := s.table.origin(e, g.origin); o != nil && o.MarkedUsual() {
		v.ledger.add("origin.usual", weightUsual, "history", s.baseline(), "AS%d has announced %s before: this is how things stand, and no event", g.origin, e.prefix)
	}
	if other == nil {
		return v
	}
	v.expected, v.cover, v.covering = other.expected, other.cover, other.covering
	for _, l := range other.ledger {
		if l.weight < 0 && l.rule != "prior" {
			v.ledger.add(l.rule, 0, l.source, l.version, "no hijack: %s", l)
		}
	}
	return v
}

// holders returns the ASes that may originate what some VRPs cover.
func holders(vs []rpki.VRP) []uint32 {
	var as []uint32
	for _, v := range vs {
		if v.ASN != 0 && !slices.Contains(as, v.ASN) {
			as = append(as, v.ASN)
		}
	}
	return as
}

func hasOrigin(os []*origins.Pair, asn uint32) bool {
	return slices.ContainsFunc(os, func(o *origins.Pair) bool { return o.Origin() == asn })
}

// sameHolder reports that asn, or a sibling of it, is among some origins.
func (s *shard) sameHolder(os []*origins.Pair, asn uint32) bool {
	return slices.ContainsFunc(os, func(o *origins.Pair) bool {
		_, sibling := s.know.Organisations.Same(o.Origin(), asn)
		return o.Origin() == asn || sibling
	})
}

// hides reports that one of some usual origins has a reserved number, that of g, behind which asn has usually stood: it is
// asn's own, and nobody else's of that number.
func (s *shard) hides(os []*origins.Pair, g *group, asn uint32) bool {
	return g.origin != asn && slices.ContainsFunc(os, func(o *origins.Pair) bool {
		return o.Origin() == g.origin && slices.Contains(s.table.history.Facts(o, s.now, s.peers.active).FirstHops, asn)
	})
}

// linked reports that two ASes are known to be neighbours.
func (s *shard) linked(a, b uint32) bool {
	return s.links.adjacent(a, b) || s.know.Relationships.Of(a, b) != topology.None
}

func asns(os []*origins.Pair) []uint32 {
	var a []uint32
	for _, o := range os {
		a = append(a, o.Origin())
	}
	return a
}

// effectiveOrigin skips reserved ASNs and AS_SETs at the origin's end of a path: whoever uses them
// inside, the AS before them is the one that announces. hidden are the reserved ones.
func effectiveOrigin(tail []uint32) (origin uint32, hidden []uint32) {
	for _, a := range tail {
		switch {
		case a == 0: // an AS_SET
		case registry.ReservedASN(a):
			hidden = append(hidden, a)
		default:
			return a, hidden
		}
	}
	return 0, hidden
}

// after returns the AS that follows asn on a path from the origin.
func after(tail []uint32, asn uint32) uint32 {
	if i := slices.Index(tail, asn); i >= 0 && i+1 < len(tail) {
		return tail[i+1]
	}
	return 0
}

// cover returns the longest covering prefix that is really announced, with its usual origins.
func (s *shard) cover(e *entry) (*entry, []*origins.Pair) {
	for c := range s.table.covering(e.prefix) {
		if len(c.routes) == 0 || c.prefix.Bits() < minBits(c.prefix) {
			continue
		}
		if usual := s.usualOrigins(c); len(usual) > 0 && usual[0].Routes() > 0 && s.seenByEnough(c) {
			return c, usual
		}
	}
	return nil, nil
}

// seenByEnough reports that a tenth of those who see anything see e: a block that only one peer
// knows covers nobody else's routes.
func (s *shard) seenByEnough(e *entry) bool {
	return len(e.routes)*10 >= s.peers.active
}

func (s *shard) judgeBogon(e *entry, g *group) *verdict {
	why, bogon := registry.Bogon(e.prefix)
	if o := s.table.origin(e, g.origin); !bogon || o != nil && o.MarkedUsual() {
		return nil
	}
	v := &verdict{kind: incident.BogonPrefix, observed: g.origin, ledger: newLedger()}
	v.offender, _ = effectiveOrigin(g.tail)
	v.next = after(g.tail, v.offender)
	v.ledger.add("prefix.reserved", weightFact, "iana", "special-purpose registries", "%s must not appear in the global table: %s, %s", e.prefix, why.Name, why.RFC)
	return v
}

// maxPrepend is the largest number that is more likely to be a count of prepends than an AS.
const maxPrepend = 20

// judgePrepend finds "… 64500 3": somebody who meant to prepend three times and wrote the count where
// the AS belongs.
func (s *shard) judgePrepend(e *entry, g *group) *verdict {
	if g.origin == 0 || g.origin > maxPrepend || len(g.tail) < 2 {
		return nil
	}
	if o := s.table.origin(e, g.origin); o != nil && o.MarkedUsual() {
		return nil
	}
	beside := g.tail[1]
	v := &verdict{kind: incident.Prepend, offender: beside, next: after(g.tail, beside), victim: g.origin,
		observed: g.origin, expected: []uint32{beside}, ledger: newLedger()}
	v.rpki = s.know.VRPs.State(e.prefix, g.origin, true)
	v.ledger.add("shape.small_origin", weightSmallOrigin, "path", "", "the origin %d is a number that people use to say how often to prepend", g.origin)
	if n := s.table.paths.repeatsBesideOrigin(g.routes[0].node); n > 1 {
		v.ledger.add("shape.repeated_neighbour", weightRepeated, "path", "", "AS%d stands %d times before it: prepending was meant", beside, n)
	}
	cover, coverOrigins := s.cover(e)
	if o := s.table.origin(e, beside); o != nil && (o.MarkedUsual() || o.Routes() > 0) {
		v.ledger.add("origin.neighbour_usual", weightSmallOrigin, "history", "", "AS%d itself originates %s elsewhere", beside, e.prefix)
	} else if hasOrigin(coverOrigins, beside) {
		v.ledger.add("origin.neighbour_usual", weightSmallOrigin, "history", "", "AS%d itself originates %s, which contains it", beside, cover.prefix)
	}
	if l := s.relation(beside, g.origin); l.Relation != topology.None {
		s.addRelation(v, weightAdjacent, l, beside, g.origin)
	}
	return v
}

// judgeHiddenASN handles the right origin with reserved ASNs behind it.
func (s *shard) judgeHiddenASN(e *entry, g *group, origin uint32, hidden []uint32) *verdict {
	v := &verdict{kind: incident.BogonASN, offender: origin, next: after(g.tail, origin), observed: g.origin,
		expected: []uint32{origin}, ledger: newLedger()}
	rule := "path.reserved_asn"
	if registry.PrivateASN(hidden[0]) {
		v.kind, rule = incident.PrivateASNLeak, "path.private_asn"
	}
	v.rpki = s.know.VRPs.State(e.prefix, g.origin, g.origin != 0)
	v.ledger.add(rule, weightFact, "iana", "special-purpose AS numbers", "%s stands behind AS%d, which usually originates this prefix itself", asList(hidden), origin)
	return v
}

// tooLong reports prefixes that nobody passes on but by mistake: longer than /24 or /48.
func tooLong(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return p.Bits() > 24
	}
	return p.Bits() > 48
}

// blackhole reports that a route is one that its holder, or a neighbour of the holder, asked to be
// discarded (RFC 7999), and not somebody's attempt at another's traffic.
func (s *shard) blackhole(e *entry, g *group, origin uint32, coverOrigins []*origins.Pair) bool {
	if !tooLong(e.prefix) || s.table.paths.nodes[g.routes[0].node].flags&flagBlackhole == 0 {
		return false
	}
	return len(coverOrigins) == 0 || hasOrigin(coverOrigins, origin) ||
		slices.ContainsFunc(coverOrigins, func(o *origins.Pair) bool { return s.related(origin, o.Origin()) })
}

func (s *shard) judgeBlackhole(e *entry, g *group, origin uint32, cover *entry, holders []*origins.Pair) *verdict {
	v := &verdict{kind: incident.BlackholeLeak, offender: after(g.tail, origin), observed: origin, expected: asns(holders), ledger: newLedger()}
	if v.offender == 0 {
		v.offender = origin
	}
	v.next = after(g.tail, v.offender)
	if len(holders) > 0 {
		v.victim = holders[0].Origin()
		v.cover, v.covering = cover, cover.prefix
	}
	v.rpki = s.know.VRPs.State(e.prefix, origin, true)
	v.ledger.add("community.blackhole", weightFact, "communities", "RFC 7999", "%s carries 65535:666 and should not have left the network that was asked to discard it", e.prefix)
	return v
}

// related reports any known link between two ASes.
func (s *shard) related(a, b uint32) bool {
	if _, same := s.know.Organisations.Same(a, b); same {
		return true
	}
	return s.linked(a, b)
}

// judgeOrigin judges an origin that is not the usual one, of the prefix itself or (cover given) of a
// more-specific of what others announce.
func (s *shard) judgeOrigin(e *entry, g *group, origin uint32, hidden []uint32, cover *entry, usual []*origins.Pair) *verdict {
	v := &verdict{kind: incident.OriginHijack, offender: origin, also: hidden, next: after(g.tail, origin),
		victim: usual[0].Origin(), expected: asns(usual), observed: g.origin, cover: cover, ledger: newLedger()}
	if cover != nil {
		v.kind, v.covering = incident.SubprefixHijack, cover.prefix
		v.ledger.add("specific.never_seen", s.novelty(weightSpecificNew), "history", s.baseline(), "%s was never announced before; %s is announced by %s", e.prefix, cover.prefix, asList(v.expected))
	} else {
		s.weighNeverSeen(v, e, origin, usual)
	}
	s.weighRelation(v, origin)
	if cover != nil {
		s.weighCover(v, e, cover, origin)
	}
	s.tellHistory(v, e, cover, usual[0])
	s.weighRegistry(v, e.prefix, origin)
	s.weighROV(v, e, origin)
	s.weighIRR(v, e, origin)
	if typo := slices.IndexFunc(v.expected, func(a uint32) bool { return oneSlip(a, origin) }); typo >= 0 && cover == nil {
		v.kind, v.victim = incident.TypoASN, v.expected[typo]
		v.ledger.add("shape.typo_asn", weightTypo, "path", "", "%d and %d are one slip of the finger apart", origin, v.expected[typo])
	} else if meant, ok := s.mistyped(e.prefix, origin); ok {
		v.kind = incident.TypoPrefix
		v.ledger.add("shape.typo_prefix", weightTypo, "path", "", "%s and %s are one slip of the finger apart, and AS%d, whose that is, no longer announces it", e.prefix, meant, origin)
	} else if denies, forger := s.contradicted(e, g); denies > 0 && cover == nil {
		v.kind, v.offender = incident.ForgedPath, g.tail[forger]
		v.next = after(g.tail, v.offender)
		v.ledger.add("path.contradicted", weightContradicted, "table", "", "AS%d, which would have given it to AS%d alone, passes the usual route on to others", g.tail[denies], g.tail[denies+1])
	}
	return v
}

func (s *shard) weighNeverSeen(v *verdict, e *entry, origin uint32, usual []*origins.Pair) {
	w, since, at := weightNeverSeenBriefly, "only since", usual[0].First()
	for _, o := range usual {
		if o.Baseline() || s.table.history.Present(o, s.now) >= established {
			w, since, at = weightNeverSeen, "since before", s.warmSince
			break
		}
	}
	v.ledger.add("origin.never_seen", w, "history", s.baseline(), "AS%d never originated %s before; %s did, %s %s", origin, e.prefix, asList(v.expected), since, minute(at))
	if !slices.ContainsFunc(usual, func(o *origins.Pair) bool { return o.Routes() > 0 }) {
		v.ledger.add("origin.usual_gone", weightGone, "table", "", "%s no longer announces %s: it may have been handed over", asList(v.expected), e.prefix)
	}
}

// relation returns how a stands to b where that was published or declared. What is inferred comes from
// the table itself, and that the two stood side by side there is weighed as such.
func (s *shard) relation(a, b uint32) topology.Link {
	l := s.know.Relationships.Link(a, b)
	if l.Basis == topology.Inferred {
		return topology.Link{}
	}
	return l
}

func (s *shard) addRelation(v *verdict, weight float64, l topology.Link, a, b uint32) {
	v.ledger.add("rel.declared", weight, "relationships", s.know.Relationships.Source(l.Basis), "AS%d is a %s of AS%d", a, l.Relation, b)
}

// weighRelation adds what connects an AS with those whose space it announces.
func (s *shard) weighRelation(v *verdict, asn uint32) {
	for _, u := range v.expected {
		if org, same := s.know.Organisations.Same(asn, u); same {
			v.ledger.add("org.same", weightSameOrg, "organisations", s.know.Organisations.Source(), "AS%d and AS%d belong to %s", asn, u, org)
			return
		}
		if l := s.relation(asn, u); l.Relation != topology.None {
			w := weightAdjacent
			switch l.Relation {
			case topology.Peer:
				w = weightPeers
			case topology.Sibling:
				w = weightSameOrg
			}
			s.addRelation(v, w, l, asn, u)
			return
		}
		if s.links.adjacent(asn, u) {
			v.ledger.add("rel.adjacent", weightAdjacent, "history", s.baseline(), "AS%d and AS%d are neighbours on paths seen before", asn, u)
			return
		}
	}
	for _, u := range v.expected {
		// Only the word of those whose space it is counts, and only where nobody else can give it.
		if a := s.know.IRR.AutNum(u); a != nil && a.Authoritative && (slices.Contains(a.Providers, asn) || slices.Contains(a.Customers, asn)) {
			v.ledger.add("irr.neighbour", weightIRRNeighbour, "irr", s.know.IRR.Source(), "the aut-num of AS%d in %s names AS%d as its provider or customer", u, a.Source, asn)
			return
		}
	}
	if name, ok := topology.Scrubbing(asn); ok {
		v.ledger.add("class.scrubbing", weightScrubbing, "classes", "built in", "AS%d (%s) announces the prefixes of others to clean their traffic", asn, name)
		return
	}
	s.weighHypergiant(v, weightHypergiantOrigin, "announces the prefixes of networks whose servers it runs", asn)
	v.ledger.add("rel.strangers", s.novelty(weightStrangers), "history", s.baseline(), "nothing known connects AS%d with %s", asn, asList(v.expected))
}

// weighRegistry adds who holds the prefix, as far as that tells for or against a new origin. That nobody
// holds it weighs nothing: somebody's route to it is what the new one is compared with.
func (s *shard) weighRegistry(v *verdict, p netip.Prefix, origin uint32) {
	d := s.know.Delegations
	switch h := d.Prefix(p); {
	case h.SameHolder(d.ASN(origin)):
		v.ledger.add("registry.same_holder", weightRegistered, "registry", d.Source(), "%s and AS%d are both registered to %s at %s", p, origin, h.Holder, h.Registry)
	case h.Status.Unallocated():
		v.ledger.add("registry.unallocated", 0, "registry", d.Source(), "%s is registered to nobody: %s at %s", p, h.Status, h.Registry)
	}
}

// weighCover adds what the blocks around a prefix say of its origin.
func (s *shard) weighCover(v *verdict, e *entry, cover *entry, origin uint32) {
	for c := range s.table.covering(e.prefix) {
		if o := s.table.origin(c, origin); o != nil && o.MarkedUsual() {
			v.ledger.add("origin.larger_cover", weightLargerCover, "history", s.baseline(), "AS%d also announces %s, which contains it", origin, c.prefix)
			break
		}
	}
	if n := s.foreignSpecifics(cover); n >= 3 {
		v.ledger.add("cover.shared", weightForeignCommon, "table", "", "%d other more-specifics of %s are announced by other ASes and nobody minds", n, cover.prefix)
	}
}

// foreignSpecifics counts the usual more-specifics of c, one length step at a time down to /24 or
// /48, that other ASes originate. It looks at no more than 512 prefixes.
func (s *shard) foreignSpecifics(c *entry) int {
	n := 0
	deepest := 24
	if c.prefix.Addr().Is6() {
		deepest = 48
	}
	for e := range s.table.within(c.prefix, deepest, 512) {
		s.table.history.Each(e.origins, func(o *origins.Pair) bool {
			foreign := false
			if o.MarkedUsual() && o.Routes() > 0 {
				co := s.table.origin(c, o.Origin())
				foreign = co == nil || !co.MarkedUsual()
			}
			if foreign {
				n++
			}
			return !foreign
		})
	}
	return n
}

// weighROV adds the RPKI's answer.
func (s *shard) weighROV(v *verdict, e *entry, origin uint32) {
	r := s.know.VRPs.Validate(e.prefix, origin, true)
	v.rpki = r.State
	switch r.Reason {
	case "invalid_asn", "invalid_both", "as0":
		v.ledger.add("rpki."+r.Reason, weightInvalidASN, "rpki", s.know.VRPs.Source(), "RPKI Invalid: %s", vrpList(r.VRPs))
	case "invalid_length":
		v.ledger.add("rpki.invalid_length", weightInvalidLength, "rpki", s.know.VRPs.Source(), "RPKI Invalid, too long: %s", vrpList(r.VRPs))
	case "valid":
		v.ledger.add("rpki.valid", weightValid, "rpki", s.know.VRPs.Source(), "RPKI Valid: %s", vrpList(r.VRPs))
	}
}

// weighIRR adds what the routing registries say. That somebody else is registered counts only where it
// is one who is expected.
func (s *shard) weighIRR(v *verdict, e *entry, origin uint32) {
	a := s.know.IRR.Check(e.prefix, origin)
	version := s.know.IRR.Source()
	switch {
	case a.State == irr.Registered && len(a.Against) > 0:
		v.ledger.add("irr.contested", 0, "irr", version, "registered, but not by the holder: %s, against %s", routeList(a.Routes), routeList(a.Against))
	case a.State == irr.Registered && slices.ContainsFunc(a.Routes, func(r irr.Route) bool { return r.Authoritative }):
		v.ledger.add("irr.registered", weightIRRHolder, "irr", version, "registered by the holder: %s", routeList(a.Routes))
	case a.State == irr.Registered:
		v.ledger.add("irr.registered", weightIRRRegistered, "irr", version, "registered: %s", routeList(a.Routes))
	case a.State == irr.Contradicted:
		w := weightIRRCovering
		if a.Exact {
			w = weightIRRContradicted
		}
		if !slices.ContainsFunc(a.Routes, func(r irr.Route) bool { return slices.Contains(v.expected, r.Origin) }) {
			w = 0
		}
		v.ledger.add("irr.contradicted", w, "irr", version, "AS%d is not registered, but others are: %s", origin, routeList(a.Routes))
	}
}

func (s *shard) aspaInvalid(rs []route) bool {
	return slices.ContainsFunc(rs, func(r route) bool { return s.table.paths.nodes[r.node].flags&flagASPA != 0 })
}

// weighASPA adds that a path is ASPA Invalid, with the attestations that make it so.
func (s *shard) weighASPA(v *verdict, rs []route) {
	for _, r := range rs {
		if s.table.paths.nodes[r.node].flags&flagASPA == 0 {
			continue
		}
		path := bgp.ASPath{{Type: bgp.ASSequence, ASNs: s.table.paths.wire(r.node)}}
		denied := s.know.VRPs.ASPAs().VerifyDownstream(path, 0).Hops
		v.ledger.add("aspa.invalid", weightProven, "rpki", s.know.VRPs.Source(), "ASPA Invalid by any receiver: %s", denials(denied))
		return
	}
}

// confidence is the probability that a relation is right for the family of p.
func confidence(p netip.Prefix, l topology.Link) float64 {
	if p.Addr().Is4() {
		return l.V4
	}
	return l.V6
}

// baseline names what the history is, as a version of that source.
func (s *shard) baseline() string {
	if n := &s.baselineName; n.at != s.warmSince || n.partial != s.partial {
		n.at, n.partial = s.warmSince, s.partial
		what := "baseline of "
		if s.partial {
			what = "updates until "
		}
		n.text = what + s.warmSince.Time().Format("2006-01-02T15:04:05Z")
	}
	if s.warmSince == 0 {
		return ""
	}
	return s.baselineName.text
}

// oneSlip reports that two ASNs of at least four digits differ by one digit, one digit more, or two
// neighbours swapped.
func oneSlip(a, b uint32) bool {
	x, y := strconv.FormatUint(uint64(a), 10), strconv.FormatUint(uint64(b), 10)
	if len(x) > len(y) {
		x, y = y, x
	}
	if len(x) < 4 || len(y)-len(x) > 1 || a == b {
		return false
	}
	i := 0
	for i < len(x) && x[i] == y[i] {
		i++
	}
	if len(x) < len(y) {
		return x[i:] == y[i+1:]
	}
	if x[i+1:] == y[i+1:] {
		return true
	}
	return i+1 < len(x) && x[i] == y[i+1] && x[i+1] == y[i] && x[i+2:] == y[i+2:]
}
