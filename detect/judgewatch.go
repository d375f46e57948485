package detect

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/ingest"
)

// What a watch declares is judged beside everything else, and counts before what was learned:
//
//   - An origin that no watch of the prefix names is a hijack, also where the table has long had it, though less surely then; one that a watch
//     names is none. A ROA for an origin that no watch names speaks against that, and more loudly where nothing else is
//     suspicious; a declared origin that is RPKI Invalid is told as that.
//   - A watched network's routes over a neighbour that its watch does not name open new_neighbour, or make a forged path
//     the surer where the neighbour stands beside the origin; a named neighbour speaks against a forgery.
//   - A watched network's own prefix that none of its watches has, or one longer than the maximum, opens new_prefix.
//   - A path against must_pass or must_not_pass opens path_policy.
//   - What a plan expects opens none of these while it lasts. The ledger names the plan.
//
// Nobody is accused for
//   - a neighbour or a prefix of a watched network that was there before: it is not new, and the list of watches tells of it;
//   - who gives routes to a watched network: customers come and go. A neighbour is one that passes on its routes;
//   - an AS_SET beside a watched network, or a private ASN before it, which names nobody;
//   - a path that has nothing but its origin, where a network must be passed: the origin itself peers with the collector;
//   - blackhole routes, prepend mistakes and reserved numbers, which are kinds of their own, be they ever so long;
//   - a prefix that contains a watched one, by whomever: routers prefer the watched one;
//   - what fewer networks see than for any incident, unless min_peers lowers that.
//
// Where false alarms remain: a list of origins or neighbours that is not complete. Peerings show on a peer's session with a
// collector alone, so they are seen there by fewer networks than open an incident, and a watch that lowers min_peers must
// name them all. Who announces a network's prefixes on its behalf (a scrubbing service) is a plan, or an origin.

// Weights of what watches declare, see those of the other rules.
const (
	weightUnexpected       = 5.0   // the holder says so; a ROA of his would speak louder
	weightStanding         = -1.5  // what has long been so is rather a gap in the watch than an attack, but only its author can tell
	weightExpected         = -10.0 // whatever a stranger would be suspected of: the holder says that it is none
	weightUnknownNeighbour = 4.0   // lists of neighbours are often incomplete
	weightNamedNeighbour   = -4.0  // a forger writes a usual neighbour too, though not beside himself
	weightUnknownPrefix    = 4.0
	weightForbidden        = 5.0
)

// declaredBy is the source of evidence that a watch gives.
const declaredBy = "watch"

func (v *verdict) declare(w *watch, rule string, weight float64, detail string, args ...any) {
	v.ledger.add(rule, weight, declaredBy, w.Name, "watch %s: %s", w.Name, fmt.Sprintf(detail, args...))
}

// plan adds that something is planned.
func (v *verdict) plan(w *watch, p *Plan, weight float64, what string) {
	why := ""
	if p.Reason != "" {
		why = " (" + p.Reason + ")"
	}
	v.planned = true
	v.declare(w, "watch.planned", weight, "%s is planned until %s%s", what, p.Until.UTC().Format(time.RFC3339), why)
}

// awaited reports that a harmless route is there because of a plan, which must not make it normal.
func (v *verdict) awaited() bool { return v != nil && v.planned }

// planOf returns the first plan of some watches that holds at a time and that fits.
func planOf(ws []*watch, now ingest.Time, fits func(*Plan) bool) (*watch, *Plan) {
	for _, w := range ws {
		for i := range w.Planned {
			if p := &w.Planned[i]; now < ingest.TimeOf(p.Until) && fits(p) {
				return w, p
			}
		}
	}
	return nil, nil
}

// judgeWatched judges the routes of g by what watches declare; v is what was found without.
func (s *shard) judgeWatched(e *entry, g *group, v *verdict) *verdict {
	w := s.know.watched
	origin, _ := effectiveOrigin(g.tail)
	if w == nil || origin == 0 {
		return v
	}
	v = s.weighDeclaredOrigin(e, g, origin, v)
	s.weighNeighbour(g, origin, v)
	if v.raised() && !v.is(incident.RPKIInvalid) {
		return v
	}
	if n := s.judgeNewPrefix(e, g, origin); n != nil && (n.raised() || v == nil || n.planned && v.harmless()) {
		return n
	}
	return v
}

func (v *verdict) is(kinds ...incident.Kind) bool { return v != nil && slices.Contains(kinds, v.kind) }

// weighDeclaredOrigin adds whether the origin is one that the prefix's watch names.
func (s *shard) weighDeclaredOrigin(e *entry, g *group, origin uint32, v *verdict) *verdict {
	at, ws := s.know.watched.longest(e.prefix, func(w *watch) bool { return len(w.origins) > 0 })
	if ws == nil {
		return v
	}
	accused := v.is(incident.OriginHijack, incident.SubprefixHijack, incident.TypoASN, incident.Squatting)
	i := slices.IndexFunc(ws, func(w *watch) bool { return has(w.origins, origin) })
	planner, plan := planOf(ws, s.now, func(p *Plan) bool {
		if len(p.Prefixes) > 0 && !within(e.prefix, p.Prefixes) {
			return false
		}
		return slices.Contains(p.Origins, origin) || len(p.Origins) == 0 && len(p.Prefixes) > 0 && i >= 0
	})
	switch {
	case i < 0 && plan == nil:
		return s.weighUnexpected(e, g, origin, at, ws[0], v)
	case plan != nil && (v == nil || accused || v.is(incident.ForgedPathSubprefix, incident.InternalSpecifics)):
		if v == nil && i >= 0 {
			return nil // a declared origin with nothing against it needs no plan
		}
		if v == nil {
			v = s.unexpected(g, origin, at, ws[0], e.prefix)
		}
		v.plan(planner, plan, weightExpected, fmt.Sprintf("%s by AS%d", e.prefix, origin))
	case accused:
		v.declare(ws[i], "watch.origin_expected", weightExpected, "AS%d may originate %s", origin, at)
	default:
		return v
	}
	if invalid := s.judgeInvalid(e, g, origin, v); invalid.raised() {
		return invalid // planned or not, it does not get far without a ROA
	}
	return v
}

// weighUnexpected accuses an origin that no watch names.
func (s *shard) weighUnexpected(e *entry, g *group, origin uint32, at netip.Prefix, w *watch, v *verdict) *verdict {
	switch {
	case v.is(incident.OriginHijack, incident.SubprefixHijack, incident.TypoASN):
	case v.raised() && !v.is(incident.RPKIInvalid, incident.Squatting):
		return v // it has a better explanation
	default:
		v = s.unexpected(g, origin, at, w, e.prefix)
		s.weighROV(v, e, origin)
	}
	v.declare(w, "watch.origin_unexpected", weightUnexpected, "only %s may originate %s", asList(w.origins), at)
	if o := s.table.origin(e, g.origin); o != nil && o.MarkedUsual() {
		v.ledger.add("origin.standing", weightStanding, "history", s.baseline(), "AS%d has announced %s before: perhaps the watch is what is wrong", g.origin, e.prefix)
	}
	return v
}

// unexpected is the verdict upon an origin against which nothing speaks but a watch.
func (s *shard) unexpected(g *group, origin uint32, at netip.Prefix, w *watch, p netip.Prefix) *verdict {
	v := &verdict{kind: incident.OriginHijack, offender: origin, next: after(g.tail, origin), victim: w.origins[0],
		expected: w.origins, observed: g.origin, ledger: newLedger()}
	if at != p {
		v.kind, v.covering = incident.SubprefixHijack, at
	}
	return v
}

// weighNeighbour adds to a forged path whether the neighbour that it is about is one that the origin's watch names.
func (s *shard) weighNeighbour(g *group, origin uint32, v *verdict) {
	if !v.is(incident.ForgedPath, incident.ForgedPathSubprefix) || after(g.tail, origin) != v.offender {
		return
	}
	var ws []*watch
	for _, w := range s.know.watched.own[origin] {
		if len(w.neighbours) > 0 {
			ws = append(ws, w)
		}
	}
	if len(ws) == 0 {
		return
	}
	if i := slices.IndexFunc(ws, func(w *watch) bool { return has(w.neighbours, v.offender) }); i >= 0 {
		v.declare(ws[i], "watch.neighbour_named", weightNamedNeighbour, "AS%d is a neighbour of AS%d", v.offender, origin)
	} else if w, p := planOf(ws, s.now, func(p *Plan) bool { return slices.Contains(p.Upstreams, v.offender) }); p != nil {
		v.plan(w, p, weightExpected, fmt.Sprintf("AS%d behind AS%d", v.offender, origin))
	} else if !v.harmless() { // else it is a new neighbour, and no more
		v.declare(ws[0], "watch.neighbour_unknown", weightUnknownNeighbour, "AS%d is no neighbour of AS%d", v.offender, origin)
	}
}

// judgeNewPrefix judges a prefix that a watch does not have, or that is longer than it allows; nil where it is neither.
func (s *shard) judgeNewPrefix(e *entry, g *group, origin uint32) *verdict {
	v := &verdict{kind: incident.NewPrefix, offender: origin, next: after(g.tail, origin), observed: g.origin, expected: []uint32{origin},
		rpki: s.know.VRPs.State(e.prefix, g.origin, g.origin != 0), ledger: newLedger()}
	at, ws := s.know.watched.longest(e.prefix, func(w *watch) bool { return w.maxLength(e.prefix) > 0 })
	switch own := s.know.watched.own[origin]; {
	case ws != nil && e.prefix.Bits() > ws[0].maxLength(e.prefix):
		v.covering, v.expected = at, ws[0].origins
		v.declare(ws[0], "watch.max_length", weightForbidden, "parts of %s may be no longer than /%d", at, ws[0].maxLength(e.prefix))
	case ws == nil && slices.ContainsFunc(own, func(w *watch) bool { return len(w.Prefixes) > 0 }) &&
		!slices.ContainsFunc(own, func(w *watch) bool { return w.partial || within(e.prefix, w.Prefixes) }):
		ws = own
		v.declare(own[0], "watch.prefix_unknown", weightUnknownPrefix, "%s is none of the prefixes of AS%d", e.prefix, origin)
		if o := s.table.origin(e, g.origin); o != nil && o.MarkedUsual() {
			v.ledger.add("origin.usual", weightUsual, "history", s.baseline(), "AS%d has announced %s before: it is not new", g.origin, e.prefix)
		}
	default:
		return nil
	}
	if v.rpki == rpki.Valid {
		v.ledger.add("rpki.valid", 0, "rpki", s.know.VRPs.Source(), "the ROAs allow it: it was prepared")
	}
	if w, p := planOf(ws, s.now, func(p *Plan) bool { return within(e.prefix, p.Prefixes) }); p != nil {
		v.plan(w, p, weightExpected, e.prefix.String())
	}
	return v
}

func (w *watch) maxLength(p netip.Prefix) int {
	if p.Addr().Is4() {
		return w.MaxLengthV4
	}
	return w.MaxLengthV6
}

// owns reports that an AS is one of a watch's own, which has something to say of its routes.
func (w *watched) owns(asn uint32) bool {
	if w == nil {
		return false
	}
	return len(w.own[asn]) > 0
}

// unknownNeighbour returns the watch of asn that does not name one who passes on its routes; nil where there is none.
func (w *watched) unknownNeighbour(asn, behind uint32) *watch {
	if w == nil || behind == 0 || behind == asn || registry.ReservedASN(behind) {
		return nil
	}
	var unknown *watch
	for _, x := range w.own[asn] {
		switch {
		case len(x.neighbours) == 0:
		case has(x.neighbours, behind):
			return nil
		case unknown == nil:
			unknown = x
		}
	}
	return unknown
}

// judgePaths judges some harmless routes by what watches say of their paths, and returns the others. What is there
// because of a plan is among neither.
func (s *shard) judgePaths(e *entry, rs []route, add func(*verdict, []route)) (rest []route) {
	if s.know.watched == nil {
		return rs
	}
	found := map[caseKey][]route{}
	verdicts := map[caseKey]*verdict{}
	var keys []caseKey
	for _, r := range rs {
		v := s.judgePath(e, r)
		switch {
		case v == nil || v.harmless() && !v.planned:
			rest = append(rest, r)
			continue
		case verdicts[v.key()] == nil:
			verdicts[v.key()] = v
			keys = append(keys, v.key())
		}
		found[v.key()] = append(found[v.key()], r)
	}
	slices.SortFunc(keys, caseKey.compare)
	for _, k := range keys {
		s.tellVerdict(e, verdicts[k], found[k])
		if verdicts[k].raised() {
			add(verdicts[k], found[k])
		}
	}
	return rest
}

// judgePath judges one route by what watches say of its path; nil where they say nothing.
func (s *shard) judgePath(e *entry, r route) *verdict {
	n := &s.table.paths.nodes[r.node]
	if n.flags&flagWatched == 0 && !e.watched {
		return nil
	}
	tail := s.table.paths.tail(nil, r.node)
	origin, _ := effectiveOrigin(tail)
	if origin == 0 {
		return nil
	}
	if v := s.judgePolicy(e, r, tail, origin); v != nil {
		return v
	}
	for i := 0; i+1 < len(tail); i++ {
		if w := s.know.watched.unknownNeighbour(tail[i], tail[i+1]); w != nil {
			return s.judgeNeighbour(e, r, tail[i:], w)
		}
	}
	return nil
}

// judgePolicy judges a path by must_pass and must_not_pass; nil where it is as it must be.
func (s *shard) judgePolicy(e *entry, r route, tail []uint32, origin uint32) *verdict {
	_, ws := s.know.watched.longest(e.prefix, func(w *watch) bool { return len(w.MustPass)+len(w.MustNotPass) > 0 })
	ws = slices.Concat(ws, s.know.watched.own[origin])
	behind := tail[slices.Index(tail, origin)+1:]
	for _, w := range ws {
		for _, a := range behind {
			if slices.Contains(w.MustNotPass, a) {
				v := s.pathVerdict(e, r, incident.PathPolicy, tail, a, origin)
				v.declare(w, "watch.must_not_pass", weightForbidden, "no path may pass AS%d", a)
				if w, p := planOf(ws, s.now, func(p *Plan) bool { return slices.Contains(p.Upstreams, a) }); p != nil {
					v.plan(w, p, weightExpected, fmt.Sprintf("a path over AS%d", a))
				}
				return v
			}
		}
		if len(w.MustPass) > 0 && len(behind) > 0 && !slices.ContainsFunc(behind, func(a uint32) bool { return slices.Contains(w.MustPass, a) }) {
			v := s.pathVerdict(e, r, incident.PathPolicy, tail, behind[0], origin)
			v.declare(w, "watch.must_pass", weightForbidden, "every path must pass %s", asList(w.MustPass))
			if w, p := planOf(ws, s.now, func(p *Plan) bool { return slices.Contains(p.Upstreams, behind[0]) }); p != nil {
				v.plan(w, p, weightExpected, fmt.Sprintf("AS%d behind AS%d", behind[0], origin))
			}
			return v
		}
	}
	return nil
}

// judgeNeighbour judges a path on which the first AS of part is watched, and the second no neighbour that w names.
func (s *shard) judgeNeighbour(e *entry, r route, part []uint32, w *watch) *verdict {
	asn, behind := part[0], part[1]
	v := s.pathVerdict(e, r, incident.NewNeighbour, part, behind, asn)
	v.declare(w, "watch.neighbour_unknown", weightUnknownNeighbour, "AS%d is no neighbour of AS%d", behind, asn)
	if s.links.adjacent(asn, behind) {
		v.ledger.add("path.usual_link", weightUsual, "history", s.baseline(), "AS%d and AS%d have been neighbours before: it is not new", behind, asn)
	}
	if planner, p := planOf(s.know.watched.own[asn], s.now, func(p *Plan) bool { return slices.Contains(p.Upstreams, behind) }); p != nil {
		v.plan(planner, p, weightExpected, fmt.Sprintf("AS%d behind AS%d", behind, asn))
	}
	return v
}

func (s *shard) pathVerdict(e *entry, r route, k incident.Kind, tail []uint32, offender, victim uint32) *verdict {
	origin := s.table.paths.nodes[r.node].origin
	return &verdict{kind: k, offender: offender, next: after(tail, offender), victim: victim, expected: []uint32{origin}, observed: origin,
		rpki: s.know.VRPs.State(e.prefix, origin, origin != 0), irr: s.know.IRR.State(e.prefix, origin), ledger: newLedger()}
}

// watches reports that e has routes of which a watch has something to say.
func (s *shard) watches(e *entry) bool {
	return len(e.routes) > 0 && (e.watched || slices.ContainsFunc(e.routes, func(r route) bool {
		return s.table.paths.nodes[r.node].flags&flagWatched != 0
	}))
}

// rewatch marks the entries that are watched now.
func (s *shard) rewatch() {
	for _, e := range s.table.all() {
		e.watched = s.know.watched.covers(e.prefix)
	}
}

// endPlans has what is watched judged again when a plan has ended, and once when what is normal has been learned: the
// baseline may have what a watch forbids. Event time decides.
func (e *Engine) endPlans() {
	if e.learn || e.clock == 0 || e.known.watched == nil {
		return
	}
	if e.planned == 0 || e.known.watched.passed(e.planned, e.clock) {
		e.parallel(func(s *shard) {
			for id, en := range s.table.all() {
				if s.watches(en) {
					s.markDirty(en, id, e.clock)
				}
			}
		})
	}
	e.planned = e.clock
}

// explainPaths returns the verdict on the path of some routes by what watches say; nil where they say nothing.
func (s *shard) explainPaths(e *entry, rs []route, v *verdict) *verdict {
	if !v.harmless() || s.know.watched == nil {
		return nil
	}
	return s.judgePath(e, rs[0])
}
