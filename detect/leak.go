package detect

import (
	"cmp"
	"math"
	"net/netip"
	"slices"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
)

// A leak (RFC 7908) shows on the path: somebody passed on to a provider or a peer what he had from a provider or a
// peer. Where the relations of both links are known, or attested (ASPA), the path's node says so (paths.go). On a path
// with a link that was never seen it may take more to see it:
//   - what the networks themselves registered, in the registry where only they can, fills in for a relation that
//     nobody else knows (aut-num: from whom they accept, and to whom they announce, everything);
//   - who is not at the top buys transit of those who are, or at best peers with them: between two of them nobody has
//     a place, whatever else is known of him (Peerlock: draft-ietf-grow-route-leak-detection, McDaniel et al. 2021);
//   - nobody buys transit of one who is much smaller: who has a route from a much larger network, over a new link, and passes it
//     up or sideways, leaked it. The larger one must have passed on others' routes, which had come some way by known
//     links: a forger writes the end of a path, not all of it;
//   - who has no customers and never passed on anything leaks what he passes on from, or to, one who is known to be a provider or
//     peer of his, though of the other it is not known what he is.
//
// Once a leak is known, those are witnesses of it too to whom the same neighbour's routes to the same prefix came by the same
// leaker, over a link of which nothing is known: peerings are often missing from what is published, and somebody who has more
// customers than the leaker is hardly his customer.
//
// The networks themselves may say of a route that it is for customers only: OTC (RFC 9234) names the AS that said so, and
// which sent it to a customer, a peer or a route server's client, or the AS behind whoever marked it on arrival. From there
// towards the collector one hop may go down or sideways, and every further one only down. So what decides is the first hop
// beyond that one of which it is not known that it goes down: where it is known to go up or sideways, the AS before it
// leaked the route (RFC 9234 §5: it came from a customer, or from a peer that the attribute does not name), and how that AS
// had it need not be known. Where it is not known what the hop is, the leaker is not known either, and nothing is concluded;
// nor where the named AS is not on the path (a route server that leaves its number out).
//
// Where false alarms remain: a network that has the roles of its sessions wrong marks what it sends up; and relationships that
// are only inferred from a table with a leak in it, as of the routes of that table the mark is not kept.
//
// Then the ledger weighs, besides the relations and ASPA, who may give transit to whom: the customer cones, by the known
// relations and by the as-set that the accused himself announces, and whether he has ever passed on another's route.
//
// All of it is asked when routes are judged, never for each of them; cones are kept from one judgement to the next.
const (
	weightMarkedToo      = 2.0  // OTC, beside what tells that the route went on to a provider or peer
	weightMarkedByErr    = -3.5 // who had it from a customer was sent a mark that a customer must not send
	weightFromLarger     = 4.0  // instead of known relations: as much as a new link to one much larger counts for as a forgery
	weightPeerlock       = 3.0  // instead of known relations; a relation of the top that is wrong is rarer than others
	weightUnequalPeers   = -1.0 // a relationship of these two is likelier to be wrong than others
	weightOneSided       = 1.0  // beside what he never did
	weightPeerlockToo    = 1.0  // beside them
	weightIRRValley      = 2.5  // instead of known relations: many aut-nums are old
	weightIRRValleyToo   = 1.0  // beside them
	weightIRRCustomer    = -2.0 // by the registry one of the two is a customer of the accused, and nothing was leaked
	weightConeMember     = -0.5 // who gives transit to somebody may hear of him another way while a link is down
	weightConeNovel      = 0.5  // he never gave transit to that network
	weightConeRegistered = -1.5 // he says himself that he does, which anybody may say
	weightConeUnknown    = 0.5  // he says to whom he does, and that is not among them
)

// leak is a place on a path where it was leaked, or seems to have been.
type leak struct {
	valley
	rfc7908 int       // type 1 to 4; 0 where that is not known
	basis   leakBasis // what tells of it
	marked  uint32    // the AS that OTC names, where that tells of it; 0: it does not
}

// leakBasis is what a leak is seen by, the stronger first.
type leakBasis uint8

const (
	byAttestation leakBasis = iota // OTC marks the route, and the leaker attests (ASPA) to whom he passed it on
	byRelations                    // both relations are known, or ASPA alone tells
	byRegistry                     // aut-nums tell one of them
	byTop                          // one end is at the top
	bySize                         // the one from whom he had it is much larger
	byStub                         // one relation is known, and he never passed on anything
)

// leaked returns where a path was leaked, by whatever tells of it, and byRelationships if relationships do: ASPA tells
// that a path is wrong, but not whether it was leaked or forged.
func (s *shard) leaked(id nodeID) (leak, bool) {
	if l, ok := s.markedLeak(id); ok {
		return l, true
	}
	if n := &s.table.paths.nodes[id]; n.leak != 0 {
		return s.nodeLeak(id), true
	}
	return s.hiddenLeak(id)
}

func (s *shard) byRelationships(id nodeID) (leak, bool) {
	if l, ok := s.markedLeak(id); ok {
		return l, true
	}
	if n := &s.table.paths.nodes[id]; n.leak.rfc7908() != 0 {
		return s.nodeLeak(id), true
	}
	return s.hiddenLeak(id)
}

// nodeLeak is the leak that the node of a path says it has.
func (s *shard) nodeLeak(id nodeID) leak {
	from, leaker, to := s.table.paths.triple(id)
	return leak{valley{from, leaker, to}, s.table.paths.nodes[id].leak.rfc7908(), byRelations, 0}
}

// marked returns the place, counted from the origin as in pathTree.tail, of the AS that OTC names on a path, where that
// shows that the path was leaked further on. The path then grows from the root of that place, so that the table needs no
// more memory for OTC than a second way to write down the leaked paths. It is asked for every update with the attribute: of
// the others the fields of the nodes tell.
func (s *shard) marked(id nodeID, otc uint32) (place int, leaked bool) {
	nodes := s.table.paths.nodes
	novel, maybe, at := nodes[id].flags&flagNovel != 0, false, id
	for ; at >= rootCount && nodes[at].asn != otc; at = nodes[at].parent {
		how := nodes[at].learnt
		maybe = maybe || (how == fromCustomer || how == fromPeer || novel && how == fromUnknown) && nodes[nodes[at].parent].asn != otc
	}
	if !maybe || at < rootCount || otc == 0 {
		return 0, false
	}
	var scratch [32]uint32
	path := s.table.paths.tail(scratch[:0], id)
	for place = len(path) - 1; path[place] != otc; place-- {
	}
	if place >= maxMarked {
		return 0, false
	}
	_, leaked = s.leakBeyond(path, place)
	return place, leaked
}

// markedLeak finds the leak on a path that grows from the root of a mark. There may be none any more, as relationships change.
func (s *shard) markedLeak(id nodeID) (leak, bool) {
	if s.table.paths.nodes[id].flags&flagMarked == 0 {
		return leak{}, false
	}
	path, place := s.table.paths.tail(nil, id), int(s.table.paths.rootOf(id)-rootMarked)
	if place >= len(path) {
		return leak{}, false // of a damaged state
	}
	return s.leakBeyond(path, place)
}

// leakBeyond finds where a path, origin first, was leaked beyond the AS at a place, which OTC names.
func (s *shard) leakBeyond(path []uint32, place int) (leak, bool) {
	for i := place + 1; i+1 < len(path); i++ {
		switch rel, basis := s.attested(path[i], path[i+1]); rel {
		case topology.Customer, topology.Peer:
			l := leak{valley{path[i-1], path[i], path[i+1]}, 0, basis, path[place]}
			if learnt, _ := s.attested(path[i], path[i-1]); learnt == topology.Customer || learnt == topology.Peer {
				l.rfc7908 = typeOfLeak(learnt, rel)
			}
			return l, true
		case topology.None:
			return leak{}, false
		}
	}
	return leak{}, false
}

// attested is anyRelation, but that it takes the word of an AS that attests (ASPA) whose customer it is.
func (s *shard) attested(a, b uint32) (topology.Relation, leakBasis) {
	aspas := s.table.paths.aspas
	up, down := aspas.Authorized(a, b) == rpki.ProviderPlus, aspas.Authorized(b, a) == rpki.ProviderPlus
	switch {
	case a == 0 || b == 0 || up == down: // those who are both are siblings, or something like it
		return s.anyRelation(a, b)
	case up:
		return topology.Customer, byAttestation
	}
	return topology.Provider, byAttestation
}

// hiddenLeak finds a leak over a link that was never seen, by relations of which not all are otherwise known.
func (s *shard) hiddenLeak(id nodeID) (leak, bool) {
	if s.table.paths.nodes[id].flags&flagNovel == 0 {
		return leak{}, false
	}
	var scratch [32]uint32
	path := s.table.paths.tail(scratch[:0], id)
	known := true                                // every link up to here was seen before
	learnt, before := topology.None, byRelations // how the AS in hand stands to the one that it had the route from, and by what
	for i := 0; i+1 < len(path); i++ {
		a, b := path[i], path[i+1]
		rel, basis := s.anyRelation(a, b)
		up := rel == topology.Customer || rel == topology.Peer
		across := learnt == topology.Customer || learnt == topology.Peer
		if across && up && max(basis, before) > byRelations && s.newLinkAmong(path[i-1], a, b) {
			l := leak{valley{path[i-1], a, b}, 0, max(basis, before), 0}
			if l.basis == byRegistry {
				l.rfc7908 = typeOfLeak(learnt, rel)
			}
			return l, true
		}
		linked := s.linked(a, b)
		if i > 0 && known && linked && (across || up) && learnt != topology.Provider && rel != topology.Provider && rel != topology.Sibling && learnt != topology.Sibling &&
			before <= byRelations && basis <= byRelations && !(across && up) && s.neverTransit(a) {
			return leak{valley{path[i-1], a, b}, 0, byStub, 0}, true
		}
		switch {
		case rel == topology.None && known && !linked && i >= farBehind && s.muchSmaller(b, a):
			learnt, before = topology.Customer, bySize // or a peer
		case rel != topology.Sibling:
			learnt, before = rel.Reverse(), basis
		}
		known = known && linked
	}
	return leak{}, false
}

// farBehind is how many ASes a route must have passed before it came to the larger one: the origin and one more.
const farBehind = 2

// typeOfLeak is the type of leak (RFC 7908 §3) of one who stands so to whom he had a route from, and to whom he gave it.
func typeOfLeak(from, to topology.Relation) int {
	switch {
	case from == topology.Customer && to == topology.Customer:
		return 1
	case from == topology.Peer && to == topology.Peer:
		return 2
	case from == topology.Customer:
		return 3
	}
	return 4
}

func (s *shard) newLinkAmong(from, leaker, to uint32) bool {
	return !s.links.adjacent(from, leaker) || !s.links.adjacent(leaker, to)
}

// anyRelation is how a stands to b by whatever tells of it: the known relationships where they are sure enough, what
// was registered, or that one is at the top and the other is not. A route server stands to nobody.
func (s *shard) anyRelation(a, b uint32) (topology.Relation, leakBasis) {
	if a == 0 || b == 0 || s.routeServer(a) || s.routeServer(b) {
		return topology.None, byRelations
	}
	if l := s.know.Relationships.Link(a, b); max(l.V4, l.V6) >= sureEnough {
		return l.Relation, byRelations
	}
	if rel := s.registered(a, b); rel != topology.None {
		return rel, byRegistry
	}
	switch top := s.top(); {
	case top.has(a) && !top.has(b):
		return topology.Provider, byTop
	case top.has(b) && !top.has(a):
		return topology.Customer, byTop
	}
	return topology.None, byRelations
}

func (s *shard) routeServer(asn uint32) bool {
	_, ok := slices.BinarySearch(s.know.RouteServers, asn)
	return ok
}

// registered is how a stands to b by their aut-nums of the registries in which nobody else can write them. Where the two
// contradict each other, or say nothing, it is none.
func (s *shard) registered(a, b uint32) topology.Relation {
	said := topology.None
	for _, end := range [2][2]uint32{{a, b}, {b, a}} {
		o := s.know.IRR.AutNum(end[0])
		if o == nil || !o.Authoritative {
			continue
		}
		rel := topology.None
		if _, ok := slices.BinarySearch(o.Customers, end[1]); ok {
			rel = topology.Provider
		} else if _, ok := slices.BinarySearch(o.Providers, end[1]); ok {
			rel = topology.Customer
		}
		if end[0] == b {
			rel = rel.Reverse()
		}
		switch {
		case rel == topology.None:
		case said == topology.None:
			said = rel
		case said != rel:
			return topology.None
		}
	}
	return said
}

// reach is what is known of how far networks that were accused of leaks reach: whom they may give transit to. What it
// keeps is good for one version of the knowledge.
type reach struct {
	rels  *topology.Relationships
	irr   *irr.Database
	atTop topSet
	cones map[uint32]cones // by AS
}

// cones are the customer cones of a network, by the known relations and by what it registered.
type cones struct {
	known      []uint32 // sorted
	registered irr.ASes
}

// maxCones bounds the networks of which cones are kept, and maxConeMembers the members of a registered one that are
// looked at: some milliseconds' worth. What is larger is no evidence.
const (
	maxCones       = 32
	maxConeMembers = 20_000
)

// topSet is the networks at the top, sorted. Fewer than three are no top to speak of: any two that have no provider
// and meet would be.
type topSet []uint32

func (t topSet) has(asn uint32) bool {
	_, ok := slices.BinarySearch(t, asn)
	return ok
}

func (s *shard) top() topSet {
	s.reachable()
	return s.reach.atTop
}

// reachable begins anew what is kept when the knowledge is a new one.
func (s *shard) reachable() {
	if s.reach.cones != nil && s.reach.rels == s.know.Relationships && s.reach.irr == s.know.IRR {
		return
	}
	s.reach = reach{rels: s.know.Relationships, irr: s.know.IRR, cones: map[uint32]cones{}}
	if top := s.know.Relationships.Clique(); len(top) >= 3 {
		s.reach.atTop = top
	}
}

// conesOf returns the customer cones of a network that is not one of the largest.
func (s *shard) conesOf(asn uint32) cones {
	s.reachable()
	c, ok := s.reach.cones[asn]
	if !ok {
		c = cones{s.know.Relationships.Cone(asn), s.know.IRR.Cone(asn, maxConeMembers)}
		if len(s.reach.cones) >= maxCones {
			clear(s.reach.cones)
		}
		s.reach.cones[asn] = c
	}
	return c
}

// judgeLeaks judges the leaks among the routes of a group, as far as on says that there are any, and returns the other
// routes. Where only Peerlock and a new link make a leak of it, and rival (nil: there is none) explains that link by more evidence, it
// is none.
func (s *shard) judgeLeaks(e *entry, rs []route, on func(nodeID) (leak, bool), rival *verdict, add func(*verdict, []route)) (rest []route) {
	type leakedRoutes struct {
		leak
		routes []route
	}
	var leaks []leakedRoutes // by leaker
	for _, r := range rs {
		l, ok := on(r.node)
		if !ok || s.links.usualValley(l.from, l.leaker, l.to) || l.from == l.to { // nobody accepts a route back: somebody wrote that
			rest = append(rest, r)
			continue
		}
		i := slices.IndexFunc(leaks, func(k leakedRoutes) bool { return k.leaker == l.leaker })
		if i < 0 {
			i = len(leaks)
			leaks = append(leaks, leakedRoutes{leak: l})
		}
		leaks[i].routes = append(leaks[i].routes, r)
	}
	for i := range leaks {
		rest = slices.DeleteFunc(rest, func(r route) bool {
			also := s.leakedToo(r.node, leaks[i].leak)
			if also {
				leaks[i].routes = append(leaks[i].routes, r)
			}
			return also
		})
	}
	slices.SortFunc(leaks, func(a, b leakedRoutes) int { return cmp.Compare(a.leaker, b.leaker) })
	for _, l := range leaks {
		v := s.judgeLeak(e, l.leak, l.routes)
		s.tellVerdict(e, v, l.routes)
		switch {
		case rival != nil && rival.offender == l.leaker && l.basis == byTop && rival.ledger.sum() > v.ledger.sum():
			rest = append(rest, l.routes...)
		case v.raised():
			add(v, l.routes)
		}
	}
	return rest
}

// leakedToo reports that on another path to the same prefix who leaked it has it from the same neighbour, and gave it to one of
// whom only that is not known how he stands to the leaker. No customer of his has more customers, as a rule; so that one was
// not meant to have it either, and is a witness.
func (s *shard) leakedToo(id nodeID, l leak) bool {
	var scratch [32]uint32
	path := s.table.paths.tail(scratch[:0], id)
	i := slices.Index(path, l.leaker)
	if i < 1 || i+1 == len(path) || path[i-1] != l.from {
		return false
	}
	rel, _ := s.anyRelation(l.leaker, path[i+1])
	rels := s.know.Relationships
	return rel == topology.None && path[i+1] != 0 && rels.Customers(path[i+1]) > rels.Customers(l.leaker)
}

// largeTransit is the number of customers from which a network counts as one of the largest: about
// the first fifty of the Internet.
const largeTransit = 250

// unequal is how many times the customers of another a network has that hardly is his peer.
const unequal = 16

// judgeLeak judges routes that share the AS that leaked them (RFC 7908).
func (s *shard) judgeLeak(e *entry, l leak, rs []route) *verdict {
	n := s.table.paths.nodes[rs[0].node]
	from, leaker, to := l.from, l.leaker, l.to
	v := &verdict{kind: incident.RouteLeak, rfc7908: l.rfc7908, offender: leaker, next: to, victim: n.origin,
		expected: []uint32{n.origin}, observed: n.origin, ledger: newLedger()}
	v.rpki, v.irr = s.know.VRPs.State(e.prefix, n.origin, n.origin != 0), s.know.IRR.State(e.prefix, n.origin)
	rels := s.know.Relationships
	in, out := rels.Link(from, leaker), rels.Link(to, leaker)
	source := rels.Source(min(in.Basis, out.Basis)) // the weaker
	s.weighASPA(v, rs)
	s.weighOTC(v, e.prefix, l)
	s.weighRegisteredRelations(v, l)
	if l.marked == 0 && l.basis == byRelations && l.rfc7908 != 0 {
		v.ledger.add("rel.valley", valleyWeight(e.prefix, in, out), "relationships", source, "AS%d had it from its %s AS%d and passed it on to its %s AS%d (RFC 7908 type %d)",
			leaker, in.Relation, from, out.Relation, to, l.rfc7908)
	}
	s.weighNeverTransit(v, leaker)
	if n, m := rels.Customers(leaker), rels.Customers(from); in.Relation == topology.Peer && l.marked == 0 && l.basis == byRelations && s.sizesKnown() && n >= unequal*max(1, m) {
		v.ledger.add("rel.unequal_peers", weightUnequalPeers, "relationships", source, "AS%d has %d customers, and its peer AS%d %d: such a one may be a customer taken for a peer", leaker, n, from, m)
	}
	if n := rels.Customers(leaker); n < largeTransit {
		s.weighCones(v, leaker, n)
	} else if !s.aspaInvalid(rs) {
		v.ledger.add("rel.large_transit", weightLargeTransit, "relationships", source, "AS%d has %d customers: one of its relationships being wrong is likelier than a leak", leaker, n)
	}
	s.weighPeerlock(v, l)
	if l.basis == bySize {
		v.ledger.add("rel.larger", s.novelty(weightFromLarger), "relationships", rels.Main(), "AS%d has %s and would not buy transit of AS%d, which has %s: what AS%d had from it over a new link goes to customers only, and AS%d is none",
			from, plural(rels.Customers(from), "customer", "customers"), leaker, plural(rels.Customers(leaker), "customer", "customers"), leaker, to)
	}
	if l.basis == byStub {
		known, other := from, to
		if in.Relation == topology.None {
			known, other = to, from
		}
		v.ledger.add("rel.one_sided", weightOneSided, "relationships", rels.Main(), "AS%d is no customer of AS%d, and it is not known that AS%d is one", known, leaker, other)
	}
	if from == n.origin {
		s.weighHypergiant(v, weightHypergiantRoutes, "has arrangements with its neighbours that nobody else knows", from)
	}
	if s.partial && !s.aspaInvalid(rs) {
		v.ledger.add("history.partial", weightValleyUntested, "history", s.baseline(), "there is no table dump to tell whether this path was usual before")
	}
	if org, same := s.know.Organisations.Same(leaker, to); same {
		v.ledger.add("org.same", weightSameOrg, "organisations", s.know.Organisations.Source(), "AS%d and AS%d belong to %s", leaker, to, org)
	} else if org, same := s.know.Organisations.Same(leaker, from); same {
		v.ledger.add("org.same", weightSameOrg, "organisations", s.know.Organisations.Source(), "AS%d and AS%d belong to %s", leaker, from, org)
	}
	if cover, holders := s.cover(e); cover != nil && len(s.usualOrigins(e)) == 0 {
		v.cover, v.covering, v.expected = cover, cover.prefix, asns(holders)
	}
	return v
}

// weighOTC adds that the route carries a mark that forbids to pass it on as was done.
func (s *shard) weighOTC(v *verdict, p netip.Prefix, l leak) {
	if l.marked == 0 {
		return
	}
	how, w, out := "a provider", weightProven, s.know.Relationships.Link(l.leaker, l.to)
	switch {
	case l.basis == byRegistry || l.basis == byTop:
		w = weightMarkedToo
	case l.basis == byRelations && out.Basis == topology.Inferred:
		w = min(weightProven, -math.Log(1-confidence(p, out)))
	}
	if rel, _ := s.attested(l.leaker, l.to); rel == topology.Peer {
		how = "a peer"
	}
	v.ledger.add("otc.leak", w, "otc", "RFC 9234", "OTC names AS%d: from there on it was for customers only, and AS%d passed it on to AS%d, %s (%s)", l.marked, l.leaker, l.to, how, s.leakSource(l))
	if rel, _ := s.attested(l.leaker, l.from); rel == topology.Provider {
		v.ledger.add("otc.from_customer", weightMarkedByErr, "relationships", s.know.Relationships.Main(), "AS%d had it from its customer AS%d, who should not have sent such a route: one of the two may have the roles of its sessions wrong", l.leaker, l.from)
	}
}

// valleyWeight weighs a valley by the relations that make it one. Inferred ones may be wrong: then a
// valley is to be seen where nobody leaked, and it is that much better a sign as this is improbable.
func valleyWeight(p netip.Prefix, in, out topology.Link) float64 {
	if in.Basis != topology.Inferred && out.Basis != topology.Inferred {
		return weightValley
	}
	right := confidence(p, in) * confidence(p, out)
	return min(weightInferredValley, -math.Log(1-right))
}

// weighRegisteredRelations adds what the aut-nums say of the two links of a leak.
func (s *shard) weighRegisteredRelations(v *verdict, l leak) {
	in, out := s.registered(l.from, l.leaker), s.registered(l.to, l.leaker)
	version := s.know.IRR.Source()
	for i, rel := range [2]topology.Relation{in, out} {
		if rel == topology.Customer {
			v.ledger.add("irr.customer", weightIRRCustomer, "irr", version, "by their aut-nums AS%d is a customer of AS%d", [2]uint32{l.from, l.to}[i], l.leaker)
			return
		}
	}
	if in == topology.None && out == topology.None {
		return
	}
	w := weightIRRValleyToo
	if l.basis == byRegistry {
		w = weightIRRValley
	} else if in == topology.None || out == topology.None {
		w /= 2
	}
	for i, rel := range [2]topology.Relation{in, out} {
		if rel != topology.None {
			v.ledger.add("irr.provider", w, "irr", version, "by their aut-nums AS%d is a provider of AS%d, to whom only customers' routes are passed on", [2]uint32{l.from, l.to}[i], l.leaker)
			w = 0 // once
		}
	}
}

// weighCones adds whether the origin may be somebody to whom the leaker, a network of so many known customers, gives
// transit.
func (s *shard) weighCones(v *verdict, leaker uint32, customers int) {
	if v.victim == 0 {
		return
	}
	c := s.conesOf(leaker)
	if _, member := slices.BinarySearch(c.known, v.victim); member {
		v.ledger.add("cone.member", weightConeMember, "relationships", s.know.Relationships.Main(), "AS%d is in the customer cone of AS%d, who may have been looking for another way to it", v.victim, leaker)
	} else if customers > 0 {
		v.ledger.add("cone.novel", s.novelty(weightConeNovel), "relationships", s.know.Relationships.Main(), "AS%d is not in the customer cone of AS%d, which has %s", v.victim, leaker, plural(len(c.known)-1, "network", "networks"))
	}
	r := &c.registered
	_, member := slices.BinarySearch(r.ASNs, v.victim)
	switch {
	case member && v.victim != leaker:
		v.ledger.add("cone.registered", weightConeRegistered, "irr", s.know.IRR.Source(), "AS%d says that AS%d may be reached through it: it is in %s", leaker, v.victim, r.Sets[0])
	case r.Any || r.Cut != "" || len(r.Missing) > 0 || len(r.ASNs) < 2:
	default:
		v.ledger.add("cone.unregistered", weightConeUnknown, "irr", s.know.IRR.Source(), "AS%d says what may be reached through it, and AS%d is not in %s", leaker, v.victim, r.Sets[0])
	}
}

// leakSource names what tells of a leak.
func (s *shard) leakSource(l leak) string {
	rels := s.know.Relationships
	switch {
	case l.basis == byAttestation:
		return s.know.VRPs.Source()
	case l.basis == byRegistry:
		return s.know.IRR.Source()
	case l.basis == byTop || l.basis == bySize || l.basis == byStub:
		return s.know.Relationships.Main()
	case l.marked != 0:
		return rels.Source(rels.Link(l.leaker, l.to).Basis)
	case l.rfc7908 == 0:
		return s.know.VRPs.Source() // ASPA alone
	}
	return rels.Source(min(rels.Link(l.from, l.leaker).Basis, rels.Link(l.leaker, l.to).Basis)) // the weaker
}

// weighPeerlock adds that the leaker stands between two networks at the top, and is none.
func (s *shard) weighPeerlock(v *verdict, l leak) {
	top := s.top()
	w := weightPeerlockToo
	switch {
	case l.basis == byTop:
		w = weightPeerlock
	case !top.has(l.from) || !top.has(l.to) || top.has(l.leaker):
		return
	}
	switch {
	case top.has(l.from) && top.has(l.to):
		v.ledger.add("peerlock", w, "relationships", s.know.Relationships.Main(), "AS%d and AS%d are at the top, buy transit from nobody and are peers: nobody has a place between them, and AS%d stands there", l.to, l.from, l.leaker)
	case top.has(l.from):
		v.ledger.add("peerlock", w, "relationships", s.know.Relationships.Main(), "AS%d is at the top and buys transit from nobody: what AS%d has from it goes to customers only, and AS%d is none", l.from, l.leaker, l.to)
	default:
		v.ledger.add("peerlock", w, "relationships", s.know.Relationships.Main(), "AS%d is at the top and buys transit from nobody: only customers' routes are passed on to it, and AS%d is no customer of AS%d", l.to, l.from, l.leaker)
	}
}
