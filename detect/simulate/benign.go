package simulate

import (
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect/scorecard"
	"github.com/routevigil/routevigil/detect/topology"
)

func fine(what string) *scorecard.Label { return &scorecard.Label{Benign: what} }

// usually draws a holder and one of its prefixes, as it is usually announced.
func (h *history) usually() (node, *block, *destination) {
	n, b := h.holder()
	if n < 0 {
		return -1, nil, nil
	}
	d, ok := h.announced(b.prefix)
	if !ok {
		return -1, nil, nil
	}
	return n, b, d
}

// newSpecific is a holder that announces a part of its block on its own, for which it makes a ROA if the block has one.
func (h *history) newSpecific() *event {
	n, b := h.holder()
	if n < 0 {
		return nil
	}
	p, ok := h.specific(b)
	if !ok {
		return nil
	}
	return &event{label: fine("new_specific"), concerns: []node{n}, roas: attested(b, roa{p, p.Bits(), h.g.asns[n]}),
		changes: []change{{p, b, announcement{{at: n, path: h.asn(n)}}}}}
}

// attested is a ROA, where the block has any.
func attested(b *block, r roa) []attestation {
	if len(b.roas) == 0 {
		return nil
	}
	return []attestation{{b, r}}
}

// another makes an event in which a's announcement joins the usual one, or takes its place, by right. Where nobody attests
// anything, nothing tells it from a hijack: so there is always a ROA, for the holder too.
func (h *history) another(what string, n, a node, b *block, d *destination, joins bool) *event {
	e := &event{label: fine(what), concerns: []node{n, a}}
	says := announcement{{at: a, path: h.asn(a)}}
	if joins {
		says = append(slices.Clone(d.usual), says...)
	}
	e.changes = []change{{d.prefix, b, says}}
	e.roas = []attestation{{b, roa{d.prefix, d.prefix.Bits(), h.g.asns[a]}}}
	if len(b.roas) == 0 {
		e.roas = append(e.roas, attestation{b, roa{b.prefix, 24, h.g.asns[n]}})
	}
	return e
}

// multiOrigin is a provider that announces a customer's prefix, too.
func (h *history) multiOrigin() *event {
	n, b, d := h.usually()
	if d == nil || len(h.g.providers[n]) == 0 {
		return nil
	}
	return h.another("multi_origin", n, h.g.providers[n][h.rng.IntN(len(h.g.providers[n]))], b, d, true)
}

// handover is a prefix that goes to somebody else.
func (h *history) handover() *event {
	n, b, d := h.usually()
	if d == nil {
		return nil
	}
	a, ok := h.stranger(n)
	if !ok {
		return nil
	}
	return h.another("handover", n, a, b, d, false)
}

// anycast is an AS of the same organisation that announces the prefix, too. There is no ROA for it unless the block has one.
func (h *history) anycast() *event {
	pair := h.siblings[h.rng.IntN(len(h.siblings))]
	i := h.rng.IntN(2)
	n, a := pair[i], pair[1-i]
	b := h.blocksOf[n][h.rng.IntN(len(h.blocksOf[n]))]
	d, ok := h.announced(b.prefix)
	if !ok {
		return nil
	}
	e := h.another("anycast", n, a, b, d, true)
	if len(b.roas) == 0 {
		e.roas = nil
	}
	return e
}

// seller draws a network that sells transit, those with many customers rather than others: who has most wins most, as in
// [Generate].
func (h *history) seller() node {
	sum := 0
	for n := range h.g.customers {
		sum += len(h.g.customers[n])
	}
	at := h.rng.IntN(sum)
	for n := range h.g.customers {
		if at -= len(h.g.customers[n]); at < 0 {
			return node(n)
		}
	}
	return 0
}

// newUpstream is a holder that buys of one provider more, no smaller than itself, which it attests if it attests any. What the provider says of it
// is a source of its own.
func (h *history) newUpstream() *event {
	n, _ := h.holder()
	if n < 0 {
		return nil
	}
	p := h.seller()
	if h.related(p, n) || h.isBusy(p) || h.isUpstream(n, p) || len(h.g.customers[p]) < len(h.g.customers[n]) {
		return nil
	}
	e := &event{label: fine("new_upstream"), concerns: []node{n, p}, provides: [][2]node{{p, n}}}
	e.shows = func(r *route) bool { return crosses(r.path, h.g.asns[p], h.g.asns[n]) }
	for _, b := range h.blocksOf[n] {
		if d, ok := h.announced(b.prefix); ok {
			via := source{at: p, path: append(h.asn(p), h.g.asns[n]), invalid: d.usual[0].invalid}
			e.changes = append(e.changes, change{b.prefix, b, append(slices.Clone(d.usual), via)})
		}
	}
	return e
}

// isUpstream reports whether n sells transit to p, directly or not.
func (h *history) isUpstream(n, p node) bool {
	seen, next := map[node]bool{p: true}, []node{p}
	for len(next) > 0 {
		at := next[0]
		next = next[1:]
		for _, up := range h.g.providers[at] {
			if up == n {
				return true
			}
			if !seen[up] {
				seen[up] = true
				next = append(next, up)
			}
		}
	}
	return false
}

// scrubbing is a holder under attack that has a scrubbing service announce its prefix: as its own, with a ROA, or as the
// holder's, which attests it as a provider if it attests any.
func (h *history) scrubbing() *event {
	n, b, d := h.usually()
	if d == nil {
		return nil
	}
	var services []node
	for i, asn := range h.g.asns {
		if _, ok := topology.Scrubbing(asn); ok && node(i) != n {
			services = append(services, node(i))
		}
	}
	if len(services) == 0 || d.usual[0].invalid { // an Invalid route that turns up where there was none is wrong, whoever cleans it
		return nil
	}
	a := services[h.rng.IntN(len(services))]
	e := h.another("scrubbing", n, a, b, d, false)
	if len(b.roas) == 0 {
		e.roas = nil
	}
	if h.rng.IntN(2) == 0 {
		e.roas, e.provides = nil, [][2]node{{a, n}}
		e.changes[0].said = announcement{{at: a, path: append(h.asn(a), h.g.asns[n]), invalid: d.usual[0].invalid}}
	}
	return e
}

// flap is a prefix that comes and goes.
func (h *history) flap() *event {
	n, b, d := h.usually()
	if d == nil {
		return nil
	}
	return &event{label: fine("flap"), concerns: []node{n}, times: 3 + h.rng.IntN(4), changes: []change{{d.prefix, b, nil}}}
}

// linkFailure is a link down that carries much.
func (h *history) linkFailure() *event {
	a, b, concerned := h.linkInUse(40)
	if len(concerned) < 3 {
		return nil
	}
	e := &event{label: fine("link_failure")}
	for _, i := range concerned {
		e.label.Prefixes = append(e.label.Prefixes, h.destinations[i].prefix)
	}
	e.do = func(lasts time.Duration) { h.cut(a, b, concerned, lasts) }
	return e
}

// sessionReset is a session that ends and begins again with a transfer of its whole table.
func (h *history) sessionReset() *event {
	s := int32(h.rng.IntN(len(h.sessions)))
	if slices.Contains(h.resets, s) {
		return nil
	}
	e := &event{label: fine("session_reset")}
	e.do = func(time.Duration) {
		h.resets = append(h.resets, s)
		h.messages = append(h.messages, message{at: h.now, session: s, what: goesDown})
		h.caused(h.now)
		h.after(time.Duration((5+60*h.rng.Float64())*float64(time.Second)), func() {
			h.cause = e.label
			h.messages = append(h.messages, message{at: h.now, session: s, what: comesUp})
			for i := range h.destinations {
				at := h.now.Add(time.Duration(float64(i+1) / float64(len(h.destinations)) * float64(30*time.Second)))
				h.messages = append(h.messages, message{at: at, session: s, destination: int32(i), what: repeats})
				h.caused(at)
			}
		})
	}
	return e
}

// peerFault is one peer that says of some prefixes that they are its own. Nobody else hears it.
func (h *history) peerFault() *event {
	v := h.rng.IntN(len(h.vantages))
	e := &event{label: fine("peer_fault"), concerns: []node{h.vantages[v].at}}
	var concerned []int
	for range 20 {
		if i := h.rng.IntN(len(h.destinations)); h.destinations[i].block != nil && !h.isBusy(h.destinations[i].block.holder) && !slices.Contains(concerned, i) {
			concerned = append(concerned, i)
			e.label.Prefixes = append(e.label.Prefixes, h.destinations[i].prefix)
		}
	}
	e.do = func(lasts time.Duration) {
		tell := func(of func(d *destination) *route) {
			h.cause = e.label
			for _, s := range h.vantages[v].sessions {
				for _, i := range concerned {
					h.tell(s, i, h.delays[s], of(h.destinations[i]))
				}
			}
		}
		wrong := &route{path: h.asn(h.vantages[v].at)}
		tell(func(*destination) *route { return wrong })
		h.after(lasts, func() { tell(func(d *destination) *route { return d.heard[v] }) })
	}
	return e
}
