package detect

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Explanation is the verdict upon one route with its whole ledger, also when nothing is wrong.
type Explanation struct {
	Prefix      netip.Prefix        `json:"prefix"`
	ASPath      []uint32            `json:"as_path"`
	ROV         ROV                 `json:"rov"`
	ASPA        ASPA                `json:"aspa"`
	History     History             `json:"history"`
	Leak        *Leak               `json:"leak"`
	Kind        *incident.Kind      `json:"kind"` // nil when nothing is wrong
	Confidence  float64             `json:"confidence"`
	Evidence    []incident.Evidence `json:"evidence"`
	Explanation string              `json:"explanation"`
}

// ROV is the RPKI's answer (RFC 6811).
type ROV struct {
	State  string     `json:"state"`
	Reason string     `json:"reason"`
	VRPs   []rpki.VRP `json:"vrps"`
}

// ASPA is what the providers' attestations say of the path, by draft-ietf-sidrops-aspa-verification:
// as a receiver would judge it that had it from a customer or a peer, and one that had it from a provider.
type ASPA struct {
	Upstream   string     `json:"upstream"`
	Downstream string     `json:"downstream"`
	Hops       []rpki.Hop `json:"hops"` // the denied ones that make it Invalid, as far as it is
}

// History is what the baseline knows of the prefix.
type History struct {
	UsualOrigins []uint32       `json:"usual_origins"`
	Covering     []netip.Prefix `json:"covering"`
}

// Leak names the valley of a path (RFC 7908).
type Leak struct {
	RFC7908Type int    `json:"rfc7908_type"` // 0 where ASPA alone tells of it
	Leaker      uint32 `json:"leaker"`
	From        uint32 `json:"from"`
	To          uint32 `json:"to"`
	Basis       string `json:"basis"`
}

// explainPeers is how many imaginary peers report the route to be explained: enough that visibility
// is not the question.
const explainPeers = 3

// Explain judges one route as if several peers had just announced it. The engine must have finished
// its baseline; its table is left changed, so it should not be used for anything else afterwards.
func (e *Engine) Explain(p netip.Prefix, path bgp.ASPath) Explanation {
	p = p.Masked()
	s := e.shardOf(p)
	origin, hasOrigin := path.Origin()
	r := s.know.VRPs.Validate(p, origin, hasOrigin)
	x := Explanation{Prefix: p, ASPath: []uint32{}, ROV: ROV{r.State.String(), r.Reason, append([]rpki.VRP{}, r.VRPs...)},
		History: History{UsualOrigins: []uint32{}, Covering: []netip.Prefix{}}, Evidence: []incident.Evidence{}}
	up, down := s.know.VRPs.ASPAs().VerifyUpstream(path, 0), s.know.VRPs.ASPAs().VerifyDownstream(path, 0)
	x.ASPA = ASPA{up.State.String(), down.State.String(), append([]rpki.Hop{}, down.Hops...)}
	if down.State != rpki.PathInvalid {
		x.ASPA.Hops = append(x.ASPA.Hops, up.Hops...)
	}
	for _, c := range s.table.covering(p) {
		x.History.Covering = append(x.History.Covering, c.prefix)
	}
	if id, ok := s.table.index[p]; ok {
		x.History.UsualOrigins = append(x.History.UsualOrigins, asns(s.table.entries[id].usualOrigins())...)
	}
	u := ingest.Update{Announced: []bgp.NLRI{{Prefix: p}}, Attrs: bgp.Attributes{Has: bgp.HasASPath, ASPath: path}}
	node := s.table.paths.intern(path, false)
	x.ASPath = append(x.ASPath, s.table.paths.wire(node)...)
	if node < rootCount {
		x.Explanation = "The path is empty: a route inside one network, of which the Internet knows nothing."
		return x
	}
	var rs []route
	for i := range explainPeers {
		id, _ := e.internPeer(ingest.Peer{Collector: "explain", ASN: uint32(i)}, 0)
		s.apply(id, 0, &u)
		rs = append(rs, route{id, node})
	}
	if n := s.table.paths.nodes[node]; n.leak != 0 {
		from, leaker, to := s.table.paths.triple(node)
		rels := s.know.Relationships
		x.Leak = &Leak{int(n.leakAs), leaker, from, to, rels.Source(min(rels.Link(from, leaker).Basis, rels.Link(to, leaker).Basis))}
		if n.leakAs == 0 {
			x.Leak.Basis = s.know.VRPs.Source()
		}
	}
	id, ok := s.table.index[p]
	if !ok {
		x.Explanation = fmt.Sprintf("%s is shorter than /%d and not judged.", p, minBits(p))
		return x
	}
	s.need = explainPeers
	entry := &s.table.entries[id]
	g := group{s.table.paths.nodes[node].origin, rs, s.commonTail(rs)}
	v := s.judgeGroup(entry, &g)
	if leak := s.explainLeak(entry, rs, v); leak != nil {
		v = leak
	}
	x.tell(v)
	return x
}

// explainLeak returns the verdict on the route's valley where that is what counts.
func (s *shard) explainLeak(e *entry, rs []route, v *verdict) *verdict {
	counts := s.leaked
	if v.raised() {
		if !v.yieldsToLeak() {
			return nil
		}
		counts = s.byRelationships
	}
	var leak *verdict
	s.judgeLeaks(e, rs, counts, func(l *verdict, _ []route) { leak = l })
	return leak
}

// tell fills in what the verdict says.
func (x *Explanation) tell(v *verdict) {
	switch {
	case v != nil:
		x.tellVerdict(v)
	case len(x.History.UsualOrigins)+len(x.History.Covering) > 0:
		x.Explanation = "Nothing is wrong with this route: its origin and the links of its path are known."
	case x.ROV.State == rpki.Valid.String():
		x.Explanation = "Nothing is wrong with this route as far as is known: its origin is RPKI Valid; nobody announced the prefix, or a block around it, before."
	case x.ROV.State == rpki.Unavailable.String():
		x.Explanation = "There is nothing to judge this route by: nobody announced its prefix, or a block around it, before, and there are no VRPs."
	default:
		x.Explanation = "There is nothing to judge this route by: nobody announced its prefix, or a block around it, before, and no VRP covers it."
	}
}

func (x *Explanation) tellVerdict(v *verdict) {
	x.Evidence, x.Confidence = v.ledger, v.ledger.confidence()
	var b strings.Builder
	if x.Confidence >= raiseAt {
		x.Kind = &v.kind
		fmt.Fprintf(&b, "This would open an incident (%s) once enough peers see it: %s", v.kind, whatItMeans[v.kind])
	} else {
		fmt.Fprintf(&b, "No incident: the confidence is %.2f, less than %.2f, that this is one (%s).", x.Confidence, raiseAt, v.kind)
	}
	for _, e := range v.ledger {
		fmt.Fprintf(&b, "\n  %+5.1f  %-26s %s", e.Weight, e.Rule, e.Detail)
	}
	x.Explanation = b.String()
}
