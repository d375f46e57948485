package detect

import (
	"math"
	"slices"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
)

// A forged path ends in the right origin, so that origin validation has nothing against it, but some link of it does not
// exist: the suspect, the AS on the collector's side of that link, wrote what stands behind him himself. That a link was
// never seen proves little, as networks find new neighbours every day. What tells the two apart is whether the suspect is
// one to whom the AS behind him could have given the route to pass on:
//   - who never passed on another's route, and has no customers, does not begin with one of an established origin;
//   - new customers go to those who have many, nearly in proportion, so that the fewer somebody has the less likely it is
//     that he won just this one;
//   - a network does not buy transit of one that is smaller, and to be peers would not do where the suspect passes
//     the route up to his own providers or on to peers;
//   - networks buy transit where they are: a new provider mostly has some neighbour of his customer's already;
//   - what shows to the customers of the suspect alone is what a new peering looks like;
//   - a more-specific that nobody announced before, by an AS that nobody uses to reach the block around it, was made
//     for this way;
//   - an attestation (ASPA), or an aut-num of the registry where the holder alone can write, names the neighbours there are.
//
// Where false alarms remain: a network that begins to sell transit and whose customers no data knows, or that has few and wins
// one elsewhere; a new more-specific through a new upstream, as those have it done who move a part of their network or are
// attacked (known scrubbing services are excused). And a forgery is missed where the suspect is a transit network of some size,
// which might just have won a customer: unless the prefix is new as well, nothing but ASPA tells.

// newLink returns the first link of a path, counted from the origin, that was never seen before: suspect is its AS on the
// collector's side, beneath the one on the origin's. Further in than beside the origin only an implausible one counts,
// since paths change all the time, and only where somebody had it from the suspect. 0 and 0 where there is none.
func (s *shard) newLink(id nodeID) (suspect, beneath uint32) {
	nodes := s.table.paths.nodes
	if nodes[id].flags&flagNovel == 0 || nodes[id].origin == 0 {
		return 0, 0
	}
	var to, at uint32 // the two ASes before the one that is looked at
	origin := nodes[id].origin
	for ; id >= rootCount; id = nodes[id].parent {
		a := nodes[id].asn
		if a == at {
			continue
		}
		if at != 0 && a != 0 && (a == origin || to != 0) && !s.linked(at, a) && (a == origin || s.implausible(at, a)) {
			suspect, beneath = at, a
		}
		to, at = at, a
	}
	return suspect, beneath
}

// implausible reports that beneath would hardly give its routes to suspect to pass on.
func (s *shard) implausible(suspect, beneath uint32) bool {
	return s.neverTransit(suspect) || s.fewCustomers(suspect) || s.muchSmaller(suspect, beneath)
}

// neverTransit reports that asn has originated routes, or is known to have neighbours, but never passed on another's
// and has no customers. Of an AS of which nothing is known that is not known either.
func (s *shard) neverTransit(asn uint32) bool {
	rels := s.know.Relationships
	return !s.links.transit(asn) && rels.Customers(asn) == 0 && (s.links.stub(asn) || rels.Degree(asn) > 0)
}

// customerOdds is how many times less likely a new customer must be, for a network of some number of them, than for the average
// network that has any, to make a link further in than beside the origin implausible.
const customerOdds = 4

// customersWeight weighs a new link by how many customers, n of them, the suspect has. New customers go to those who have many,
// nearly in proportion, and a forger may be anybody: so the odds are the mean by the number. (Of the relationships of June 2018,
// the networks with up to 3 customers are 65 % of all that have any, and serve 7 % of the links.)
func customersWeight(n int, mean float64) float64 {
	return min(weightFewCustomers, max(weightManyCustomers, math.Log(mean/float64(n))))
}

// fewCustomers reports that asn has some customers, but few.
func (s *shard) fewCustomers(asn uint32) bool {
	n := s.know.Relationships.Customers(asn)
	return n > 0 && s.sizesKnown() && float64(n*customerOdds) <= s.know.Relationships.MeanCustomers()
}

// sizesKnown reports that there are relationships enough to tell small networks from large ones by.
func (s *shard) sizesKnown() bool { return s.know.Relationships.Len() >= 1000 }

// muchSmaller reports that a has far fewer customers than b.
func (s *shard) muchSmaller(a, b uint32) bool {
	n := s.know.Relationships.Customers(b)
	return n >= 8 && s.sizesKnown() && s.know.Relationships.Customers(a)*4 <= n
}

// smaller reports that a has fewer customers than b, who has some. (Of the relationships of June 2018, where a network with 4
// customers or more buys transit, 7 % of its providers have fewer; of any networks that have customers, 80 % do.)
func (s *shard) smaller(a, b uint32) bool {
	n := s.know.Relationships.Customers(b)
	return n >= 4 && s.sizesKnown() && s.know.Relationships.Customers(a) < n
}

// judgeForged judges routes with a usual origin: somebody may have written the right origin behind
// his own AS. For a known prefix only a new link counts, and only the routes over it; with cover given, e is a new
// more-specific and any chain may be the forger's.
func (s *shard) judgeForged(e *entry, g *group, origin uint32, cover *entry, usual []*origins.Pair) *verdict {
	suspect, beneath := g.suspect, g.beneath
	outside := s.firstOutside(g.tail, cover)
	if cover != nil {
		novel := s.firstNovelLink(g.tail, origin)
		switch {
		case novel >= 0 && outside <= novel+1:
			suspect, beneath = g.tail[novel+1], g.tail[novel]
		case outside > 0:
			// Whoever stands before him passes the block on to others, too, but this to him alone.
			suspect, beneath = g.tail[outside], 0
			if !s.linked(suspect, g.tail[outside-1]) {
				beneath = g.tail[outside-1]
			}
		}
	}
	if suspect == 0 {
		return nil
	}
	v := &verdict{kind: incident.ForgedPath, offender: suspect, next: after(g.tail, suspect), victim: origin,
		expected: asns(usual), observed: g.origin, cover: cover, ledger: newLedger()}
	if !hasOrigin(usual, origin) {
		v.victim = usual[0].Origin()
	}
	if cover != nil {
		v.kind, v.covering = incident.ForgedPathSubprefix, cover.prefix
		v.ledger.add("specific.never_seen", s.novelty(weightSpecificNew/2), "history", s.baseline(), "%s was never announced before, only %s", e.prefix, cover.prefix)
		switch {
		case outside >= 2:
			v.ledger.add("path.single_source", s.novelty(weightSingleSource), "table", "", "everybody has it by %s, and nobody reaches %s through AS%d", pathList(g.tail), cover.prefix, g.tail[outside])
		case outside == 1 && beneath != 0:
			v.ledger.add("path.new_way", s.novelty(weightNewWay), "table", "", "everybody has it by AS%d, and nobody reaches %s through that", g.tail[outside], cover.prefix)
		default:
			v.ledger.add("path.new_way", 0, "table", "", "AS%d did not pass %s on in this way", suspect, cover.prefix)
		}
	}
	s.tellHistory(v, e, cover, usual[0])
	if beneath != 0 {
		v.ledger.add("path.new_link", s.novelty(weightNewLink), "history", s.baseline(), "AS%d and AS%d were never neighbours before", suspect, beneath)
		s.weighLink(v, g, suspect, beneath)
		s.weighHypergiant(v, weightHypergiantLink, "finds new neighbours every day", beneath, suspect)
	} else {
		s.weighNeverTransit(v, suspect)
	}
	s.weighASPA(v, g.routes)
	if org, same := s.know.Organisations.Same(suspect, origin); same {
		v.ledger.add("org.same", weightSameOrg, "organisations", s.know.Organisations.Source(), "AS%d and AS%d belong to %s", suspect, origin, org)
	} else if l := s.relation(suspect, origin); l.Relation == topology.Provider {
		s.addRelation(v, weightAdjacent, l, suspect, origin)
	}
	r := s.know.VRPs.Validate(e.prefix, origin, true)
	v.rpki = r.State
	if r.Reason == "invalid_length" {
		v.ledger.add("rpki.invalid_length", weightInvalidLength, "rpki", s.know.VRPs.Source(), "RPKI Invalid, too long: %s", vrpList(r.VRPs))
	} else if r.State == rpki.Valid {
		v.ledger.add("rpki.valid_origin", 0, "rpki", s.know.VRPs.Source(), "RPKI Valid, which proves the origin but not the path: %s", vrpList(r.VRPs))
	}
	return v
}

// contradicted tells from the routes to e that g's are not what they say: one AS on g's tail (denies) passes the usual route on to
// some peers, though by that tail it has what is accused and gives it to one neighbour alone. The forger stands further on,
// behind the last link that nobody has seen. It returns their places on the tail, 0 and 0 where there are none.
func (s *shard) contradicted(e *entry, g *group) (denies, forger int) {
	one := g.routes[0].node
	if !slices.ContainsFunc(g.routes, func(r route) bool { return r.node != one }) { // a whole path is the tail, and says nothing of where else the route went
		return 0, 0
	}
	for i := len(g.tail) - 2; i >= 1; i-- {
		var by []peerID
		for _, r := range e.routes {
			if s.table.paths.nodes[r.node].origin != g.origin && s.table.paths.passes(r.node, g.tail[i]) {
				by = append(by, r.peer)
			}
		}
		if s.peers.countASNs(by) < 2 {
			continue
		}
		for j := len(g.tail) - 1; j > i; j-- {
			if !s.linked(g.tail[j-1], g.tail[j]) {
				return i, j
			}
		}
		return i, i + 1
	}
	return 0, 0
}

// manyLinks is the number of neighbours from which new ones are nothing to wonder at.
const manyLinks = 100

// weighLink adds what speaks for and against a new link from beneath up to suspect.
func (s *shard) weighLink(v *verdict, g *group, suspect, beneath uint32) {
	rels := s.know.Relationships
	up, down := s.passedOn(g, suspect)
	source, n := rels.Main(), rels.Customers(suspect)
	switch name, scrubs := topology.Scrubbing(suspect); {
	case scrubs:
		v.ledger.add("class.scrubbing", weightScrubbing, "classes", "built in", "AS%d (%s) announces the prefixes of others to clean their traffic", suspect, name)
	case s.neverTransit(suspect):
		s.weighNeverTransit(v, suspect)
	case !s.links.known(suspect) && rels.Degree(suspect) == 0:
		v.ledger.add("path.unknown_as", s.novelty(weightUnknownAS), "history", s.baseline(), "AS%d was never seen before, be it as an origin or on the way", suspect)
	case up && s.smaller(suspect, beneath):
		w := weightSmaller
		if s.muchSmaller(suspect, beneath) {
			w = weightMuchSmaller
		}
		v.ledger.add("path.smaller", w, "relationships", source, "AS%d, which would be a customer of AS%d, has %d customers of its own, and AS%d %d",
			beneath, suspect, rels.Customers(beneath), suspect, n)
	case n > 0 && s.sizesKnown() && float64(n) <= rels.MeanCustomers():
		v.ledger.add("path.few_customers", customersWeight(n, rels.MeanCustomers()), "relationships", source, "AS%d has %s, and those who have any have %.0f on average: few of the new ones go to such",
			suspect, plural(n, "customer", "customers"), rels.MeanCustomers())
	case n > 0 && s.sizesKnown():
		v.ledger.add("path.many_customers", customersWeight(n, rels.MeanCustomers()), "relationships", source, "AS%d has %d customers: one more is nothing to wonder at", suspect, n)
	}
	s.weighNearby(v, suspect, beneath)
	s.weighAttestedProviders(v, suspect, beneath, down)
	switch n := rels.Degree(beneath); {
	case down:
		v.ledger.add("path.downhill", weightDownhill, "relationships", source, "AS%d passes it on to customers only, as one does with what one has from a new peer", suspect)
	case n >= manyLinks && !up:
		v.ledger.add("path.many_links", weightManyLinks, "relationships", source, "AS%d has %d neighbours: one more is nothing to wonder at", beneath, n)
	}
	if a := s.know.IRR.AutNum(beneath); a != nil && a.Authoritative && (slices.Contains(a.Providers, suspect) || slices.Contains(a.Customers, suspect)) {
		v.ledger.add("irr.neighbour", weightIRRNeighbour, "irr", s.know.IRR.Source(), "the aut-num of AS%d in %s names AS%d as its provider or customer", beneath, a.Source, suspect)
	}
}

// weighNearby adds whether two ASes of a new link have a neighbour in common. Networks buy transit where they are, and there
// most have met the same others. (Of the relationships of June 2018, taking away one provider of a network that has more: of
// providers with up to four times the mean of customers it has a neighbour in common with half, and with a network of that size
// chosen at random in one case of six.) Of one with a single known neighbour that says little.
func (s *shard) weighNearby(v *verdict, suspect, beneath uint32) {
	rels := s.know.Relationships
	if n := rels.Customers(suspect); n == 0 || !s.sizesKnown() || rels.Degree(beneath) < 2 {
		return
	}
	if via, ok := rels.Between(suspect, beneath); ok {
		v.ledger.add("path.nearby", weightNearby, "relationships", rels.Main(), "AS%d is a neighbour of both AS%d and AS%d, as new links often have it", via, suspect, beneath)
	} else {
		v.ledger.add("path.far_apart", weightFarApart, "relationships", rels.Main(), "AS%d and AS%d have no neighbour in common, as new links mostly have", suspect, beneath)
	}
}

// weighAttestedProviders adds whether suspect is among the providers that beneath attests (ASPA). Who is not may be a customer or a
// peer: then he would keep the route from those above him and beside him, and give it to his customers alone (down).
func (s *shard) weighAttestedProviders(v *verdict, suspect, beneath uint32, down bool) {
	switch s.table.paths.aspas.Authorized(beneath, suspect) {
	case rpki.ProviderPlus:
		v.ledger.add("aspa.provider", weightAttested, "rpki", s.know.VRPs.Source(), "AS%d attests that AS%d is its provider", beneath, suspect)
	case rpki.NotProviderPlus:
		if !down {
			v.ledger.add("aspa.no_provider", weightNoProvider, "rpki", s.know.VRPs.Source(), "AS%d attests its providers, and AS%d is none of them", beneath, suspect)
		}
	}
}

// passedOn tells to whom asn passed on the routes of g: up to some provider or peer of his, or down to customers only.
func (s *shard) passedOn(g *group, asn uint32) (up, down bool) {
	nodes := s.table.paths.nodes
	known := true
	for _, r := range g.routes {
		to, at := uint32(0), uint32(0)
		for id := r.node; id >= rootCount && at != asn; id = nodes[id].parent {
			if a := nodes[id].asn; a != at {
				to, at = at, a
			}
		}
		if at != asn || to == 0 {
			continue
		}
		switch s.know.Relationships.Of(asn, to) {
		case topology.Customer, topology.Peer:
			up = true
		case topology.Provider:
			down = true
		default:
			known = false
		}
	}
	return up, down && !up && known
}

func (s *shard) weighNeverTransit(v *verdict, asn uint32) {
	if s.neverTransit(asn) {
		v.ledger.add("path.never_transit", s.novelty(weightNeverTransit), "history", s.baseline(), "AS%d never passed on another's route before", asn)
	}
}

// firstNovelLink returns the place on a tail, counted from the origin, of the first link never seen:
// between i and i+1. -1 when there is none.
func (s *shard) firstNovelLink(tail []uint32, origin uint32) int {
	for i := max(slices.Index(tail, origin), 0); i+1 < len(tail); i++ {
		if tail[i] != 0 && tail[i+1] != 0 && !s.linked(tail[i], tail[i+1]) {
			return i
		}
	}
	return -1
}

// firstOutside returns the place on a tail of the AS nearest to the origin, beside it at the
// nearest, that no route to cover passes; 0 when there is none or no cover.
func (s *shard) firstOutside(tail []uint32, cover *entry) int {
	if cover == nil {
		return 0
	}
	var inside uint64 // the places on the tail, of the first 64, that are passed
	last := nodeID(0)
	for _, r := range cover.routes {
		if r.node == last {
			continue
		}
		last = r.node
		for id := r.node; id >= rootCount; id = s.table.paths.nodes[id].parent {
			if i := slices.Index(tail, s.table.paths.nodes[id].asn); i >= 0 {
				inside |= 1 << i
			}
		}
	}
	for i := 1; i < min(len(tail), 64); i++ {
		if inside&(1<<slices.Index(tail, tail[i])) == 0 {
			return i
		}
	}
	return 0
}
