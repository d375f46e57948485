package detect

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Explanation is the verdict upon one route with its whole ledger, also when nothing is wrong.
type Explanation struct {
	Prefix   netip.Prefix `json:"prefix"`
	ASPath   []uint32     `json:"as_path"` // without AS_SETs
	ROV      ROV          `json:"rov"`
	ASPA     ASPA         `json:"aspa"`
	Registry Registry     `json:"registry"`
	IRR      IRR          `json:"irr"`
	// Relationships are those of the path's links.
	Relationships []PathLink          `json:"relationships"`
	Classes       []ASClass           `json:"classes"` // of the ASes of the path that are something special
	History       History             `json:"history"`
	Leak          *Leak               `json:"leak"`
	Watches       []string            `json:"watches"` // that have something to do with the prefix or an AS of the path
	Kind          *incident.Kind      `json:"kind"`    // nil when nothing is wrong
	Confidence    float64             `json:"confidence"`
	Evidence      []incident.Evidence `json:"evidence"`
	Explanation   string              `json:"explanation"`
}

// ROV is the RPKI's answer (RFC 6811).
type ROV struct {
	State  string     `json:"state"`
	Reason string     `json:"reason"`
	VRPs   []rpki.VRP `json:"vrps"`
}

// ROVOf validates an origin by a set.
func ROVOf(s *rpki.Set, p netip.Prefix, origin uint32, hasOrigin bool) ROV {
	r := s.Validate(p, origin, hasOrigin)
	return ROV{r.State.String(), r.Reason, append([]rpki.VRP{}, r.VRPs...)}
}

// IRR is what the routing registries say of the origin, see [irr.Answer].
type IRR struct {
	State   string      `json:"state"`   // as incident.Prefix.IRR
	Exact   bool        `json:"exact"`   // by route objects for the very prefix
	Routes  []irr.Route `json:"routes"`  // the route objects that decide
	Against []irr.Route `json:"against"` // the holder's own, where they say something else
}

// IRROf asks a database of an origin, 0 where there is none.
func IRROf(d *irr.Database, p netip.Prefix, origin uint32) IRR {
	a := d.Check(p, origin)
	return IRR{a.State.String(), a.Exact, append([]irr.Route{}, a.Routes...), append([]irr.Route{}, a.Against...)}
}

// ASPA is what the providers' attestations say of the path, by draft-ietf-sidrops-aspa-verification:
// as a receiver would judge it that had it from a customer or a peer, and one that had it from a provider.
type ASPA struct {
	Upstream   string     `json:"upstream"`
	Downstream string     `json:"downstream"`
	Hops       []rpki.Hop `json:"hops"` // the denied ones that make it Invalid, as far as it is
}

// ASPAOf verifies a path by a set.
func ASPAOf(s *rpki.Set, path bgp.ASPath) ASPA {
	up, down := s.ASPAs().VerifyUpstream(path, 0), s.ASPAs().VerifyDownstream(path, 0)
	a := ASPA{up.State.String(), down.State.String(), append([]rpki.Hop{}, down.Hops...)}
	if down.State != rpki.PathInvalid {
		a.Hops = append(a.Hops, up.Hops...)
	}
	return a
}

// Registry is what IANA and the RIRs say of the prefix and of its origin.
type Registry struct {
	Special string   `json:"special"` // the special-purpose block that the prefix lies in, or ""
	Prefix  *Holding `json:"prefix"`  // nil where no statistics were read
	Origin  *Holding `json:"origin"`  // nil also where the path has no single origin
}

// Holding is who holds a prefix or an AS number.
type Holding struct {
	Status   string `json:"status"` // allocated, assigned, available, reserved, mixed or unknown
	Registry string `json:"registry"`
	Country  string `json:"country"`
	Holder   string `json:"holder"` // the registry's opaque identifier of the holder
	Since    string `json:"since"`  // the day, 2006-01-02, or ""
}

func (s *shard) registry(p netip.Prefix, origin uint32, hasOrigin bool) Registry {
	var r Registry
	if special, ok := registry.SpecialPrefix(p); ok {
		r.Special = fmt.Sprintf("%s, %s, %s", special.Prefix, special.Name, special.RFC)
	}
	if s.know.Delegations == nil {
		return r
	}
	r.Prefix = holding(s.know.Delegations.Prefix(p))
	if hasOrigin {
		r.Origin = holding(s.know.Delegations.ASN(origin))
	}
	return r
}

func holding(h registry.Holding) *Holding {
	out := &Holding{Status: h.Status.String(), Registry: h.Registry, Country: h.Country, Holder: h.Holder}
	if !h.Since.IsZero() {
		out.Since = h.Since.Format(time.DateOnly)
	}
	return out
}

// String is one line for people.
func (h *Holding) String() string {
	s := h.Status
	for _, part := range [][2]string{{" by ", h.Registry}, {" to ", h.Holder}, {" in ", h.Country}, {" since ", h.Since}} {
		if part[1] != "" {
			s += part[0] + part[1]
		}
	}
	return s
}

// History is what the baseline knows of the prefix.
type History struct {
	UsualOrigins []uint32       `json:"usual_origins"`
	Covering     []netip.Prefix `json:"covering"`
	Origins      []KnownOrigin  `json:"origins"` // in the order of first appearance
}

// KnownOrigin is what is known of one origin of the prefix; of the longest covering one that is announced,
// where the prefix itself was never seen.
type KnownOrigin struct {
	Prefix netip.Prefix `json:"prefix"`
	origins.Facts
}

// String is one line for people.
func (k KnownOrigin) String() string { return factsOf(k.Prefix, k.Facts) }

// known returns the history of a prefix that has any: its own or that of its cover.
func (s *shard) known(p netip.Prefix) []KnownOrigin {
	all := []KnownOrigin{}
	e := &entry{prefix: p}
	if id, ok := s.table.lookup(p); ok {
		e = s.table.entry(id)
	}
	if e.origins == 0 {
		if e, _ = s.cover(e); e == nil {
			return all
		}
	}
	s.table.history.Each(e.origins, func(o *origins.Pair) bool {
		all = append(all, KnownOrigin{e.prefix, s.table.history.Facts(o, s.now, s.peers.active)})
		return true
	})
	return all
}

// Leak names the valley of a path (RFC 7908).
type Leak struct {
	RFC7908Type int    `json:"rfc7908_type"` // 0 where it is not known
	Leaker      uint32 `json:"leaker"`
	From        uint32 `json:"from"`
	To          uint32 `json:"to"`
	Basis       string `json:"basis"`
}

// explainPeers is how many imaginary peers report the route to be explained: enough that visibility
// is not the question.
const explainPeers = 3

// PathLink is what is known of two neighbours on a path, the collector's side first.
type PathLink struct {
	A          uint32  `json:"a"`
	B          uint32  `json:"b"`
	Relation   string  `json:"relation"`    // how a stands to b: provider, customer, peer, sibling, or "no known relation"
	Source     string  `json:"source"`      // where the relation is from, or ""
	Confidence float64 `json:"confidence"`  // that the relation is right, 0 to 1
	SeenBefore bool    `json:"seen_before"` // on paths that were learned as normal
}

// String is one line for people.
func (l PathLink) String() string {
	line := fmt.Sprintf("AS%d and AS%d: %s", l.A, l.B, l.Relation)
	if l.Source != "" {
		line = fmt.Sprintf("AS%d is %s of AS%d by %s (%.2f)", l.A, l.Relation, l.B, l.Source, l.Confidence)
	}
	if !l.SeenBefore {
		line += ", not seen before"
	}
	return line
}

// pathLinks returns what is known of the links of a path as announced. Who stands beside an AS_SET is nobody's neighbour.
func (s *shard) pathLinks(p netip.Prefix, id nodeID) []PathLink {
	links := []PathLink{}
	for nodes := s.table.paths.nodes; id >= rootCount; id = nodes[id].parent {
		a, b := nodes[id].asn, nodes[nodes[id].parent].asn
		if a == b || a == 0 || b == 0 {
			continue
		}
		l := s.know.Relationships.Link(a, b)
		k := PathLink{A: a, B: b, Relation: l.Relation.String(), SeenBefore: s.links.adjacent(a, b)}
		if l.Relation != topology.None {
			k.Source, k.Confidence = s.know.Relationships.Source(l.Basis), confidence(p, l)
		}
		links = append(links, k)
	}
	return links
}

// Explain judges one route as if several peers had just announced it. Like every method of the engine it is for its
// owner, between updates; it leaves the engine as it was. While the engine still learns what is normal there is no
// verdict.
func (e *Engine) Explain(p netip.Prefix, path bgp.ASPath) Explanation {
	e.flush()
	p = p.Masked()
	s := e.shardOf(p)
	var x Explanation
	s.suppose(max(e.clock, e.history.Now()), explainPeers, func(peers []peerID) {
		x = s.explain(p, path, peers)
	})
	return x
}

// suppose calls f as if peers that nobody has ever heard of were up at the time now, and takes back afterwards what
// f has added: path nodes, and pairs of the history. f must change nothing else.
func (s *shard) suppose(now ingest.Time, peers int, f func([]peerID)) {
	oldNow, oldNeed, oldActive, known := s.now, s.need, s.peers.active, len(s.peers.list)
	s.peers.countActive()
	nodes, pairs, free := len(s.table.paths.nodes), s.table.history.Len(), s.table.paths.free
	s.table.paths.free = 0 // what is added stands at the end
	ids := make([]peerID, peers)
	for i := range ids {
		ids[i] = peerID(known + i)
		s.peers.list = append(s.peers.list, peerInfo{peerKey: peerKey{Peer: ingest.Peer{Collector: "explain", ASN: uint32(i)}}, up: true})
	}
	s.now, s.need = now, peers
	f(ids)
	s.table.paths.cut(nodes)
	s.table.paths.free = free
	s.table.history.Cut(pairs)
	s.peers.list = s.peers.list[:known]
	s.now, s.need, s.peers.active = oldNow, oldNeed, oldActive
}

// explain works on a copy of the prefix's entry to which the peers' routes have been added.
func (s *shard) explain(p netip.Prefix, path bgp.ASPath, peers []peerID) Explanation {
	origin, hasOrigin := path.Origin()
	x := Explanation{Prefix: p, ASPath: []uint32{}, ROV: ROVOf(s.know.VRPs, p, origin, hasOrigin), ASPA: ASPAOf(s.know.VRPs, path),
		Relationships: []PathLink{}, Classes: []ASClass{}, History: History{UsualOrigins: []uint32{}, Covering: []netip.Prefix{}, Origins: s.known(p)}, Evidence: []incident.Evidence{}, Registry: s.registry(p, origin, hasOrigin)}
	x.IRR = IRROf(s.know.IRR, p, origin)
	for c := range s.table.covering(p) {
		x.History.Covering = append(x.History.Covering, c.prefix)
	}
	en := entry{prefix: p, watched: s.know.watched.covers(p)}
	if id, ok := s.table.lookup(p); ok {
		known := s.table.entry(id)
		x.History.UsualOrigins = append(x.History.UsualOrigins, asns(s.usualOrigins(known))...)
		en.routes, en.origins, en.suspect = slices.Clone(known.routes), s.table.history.Copy(known.origins), known.suspect
	}
	node := s.table.paths.intern(path, rootPlain)
	x.ASPath = append(x.ASPath, s.table.paths.wire(node)...)
	x.Watches = watchNames(s.know.watched.of(p, &verdict{also: x.ASPath}))
	x.Relationships, x.Classes = s.pathLinks(p, node), s.pathClasses(node)
	if node < rootCount {
		x.Explanation = "The path is empty: a route inside one network, of which the Internet knows nothing."
		return x
	}
	if l, ok := s.leaked(node); ok {
		x.Leak = &Leak{l.rfc7908, l.leaker, l.from, l.to, s.leakSource(l)}
	}
	switch {
	case p.Bits() < minBits(p):
		x.Explanation = fmt.Sprintf("%s is shorter than /%d and not judged.", p, minBits(p))
		return x
	case s.learning:
		x.Explanation = "There is no verdict: what is normal is still being learned."
		return x
	}
	var rs []route
	for _, id := range peers {
		r := route{id, node}
		en.routes = append(en.routes, r) // they stay sorted: no peer has a higher id
		rs = append(rs, r)
		s.table.history.Count(&en.origins, s.table.paths.nodes[node].origin, 1, s.now)
	}
	g := group{origin: s.table.paths.nodes[node].origin, routes: rs, tail: s.commonTail(rs)}
	g.suspect, g.beneath = s.newLink(node)
	v := s.judgeGroup(&en, &g)
	if leak := s.explainLeak(&en, rs, v); leak != nil {
		v = leak
	} else if path := s.explainPaths(&en, rs, v); path != nil {
		v = path
	}
	x.tell(v)
	return x
}

// explainLeak returns the verdict on the route's valley where that is what counts.
func (s *shard) explainLeak(e *entry, rs []route, v *verdict) *verdict {
	counts, rival := s.leaked, (*verdict)(nil)
	if v.raised() {
		if !v.yieldsToLeak() {
			return nil
		}
		counts, rival = s.byRelationships, v
	}
	var leak *verdict
	s.judgeLeaks(e, rs, counts, rival, func(l *verdict, _ []route) { leak = l })
	return leak
}

// tell fills in what the verdict says.
func (x *Explanation) tell(v *verdict) {
	switch {
	case v != nil:
		x.tellVerdict(v)
		return
	case len(x.History.UsualOrigins)+len(x.History.Covering) > 0:
		x.Explanation = "Nothing is wrong with this route: its origin and the links of its path are known."
	case x.ROV.State == rpki.Valid.String():
		x.Explanation = "Nothing is wrong with this route as far as is known: its origin is RPKI Valid; nobody announced the prefix, or a block around it, before."
	case x.IRR.State == irr.Registered.String():
		x.Explanation = fmt.Sprintf("Nothing is wrong with this route as far as is known: its origin is registered (%s); nobody announced the prefix, or a block around it, before.", routeList(x.IRR.Routes))
	case x.ROV.State == rpki.Unavailable.String():
		x.Explanation = "There is nothing to judge this route by: nobody announced its prefix, or a block around it, before, and there are no VRPs."
	default:
		x.Explanation = "There is nothing to judge this route by: nobody announced its prefix, or a block around it, before, and no VRP covers it."
	}
	var l ledger
	for _, k := range x.History.Origins {
		if k.Usual {
			l.add("history.usual", 0, "history", "", "%s", k)
		}
	}
	x.Evidence = append(x.Evidence, l.evidence()...)
}

func (x *Explanation) tellVerdict(v *verdict) {
	x.Evidence, x.Confidence = v.ledger.evidence(), v.ledger.confidence()
	var b strings.Builder
	if x.Confidence >= raiseAt {
		x.Kind = &v.kind
		fmt.Fprintf(&b, "This would open an incident (%s) once enough peers see it: %s", v.kind, whatItMeans[v.kind])
	} else {
		fmt.Fprintf(&b, "No incident: the confidence is %.2f, less than %.2f, that this is one (%s).", x.Confidence, raiseAt, v.kind)
	}
	for _, e := range x.Evidence {
		fmt.Fprintf(&b, "\n  %+5.1f  %-26s %s", e.Weight, e.Rule, e.Detail)
	}
	x.Explanation = b.String()
}
