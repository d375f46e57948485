package origins

import (
	"cmp"
	"slices"
)

// Earlier adds to c what a clock of another history watched before c began to watch.
func (c *Clock) Earlier(past *Clock) {
	if past.at > c.at {
		c.watched, c.peers, c.at = c.watched+past.watched, c.peers+past.peers, past.at
		return
	}
	decay, _ := c.span(c.at - past.at)
	c.watched += past.watched * decay
	c.peers += past.peers * decay
}

// AtRest returns the pair as it stands at the end of its clock's time, without its routes.
func (h *History) AtRest(p *Pair) Pair {
	q := *p
	if q.routes > 0 && h.clock.at > q.at {
		q.accrue(h.clock, h.clock.at)
	}
	q.routes = 0
	return q
}

// Doubt takes back MarkUsual.
func (p *Pair) Doubt() { p.flags = 0 }

// Merge adds to a chain what another history, of the time before, knows of the same prefix. Sums add up, the first time seen is
// the earlier one, what is usual for either is usual, and the chain is in the order of first appearance again. Whoever has
// routes keeps them. References into the chain then name other pairs; the bound on pairs that are neither usual
// nor present holds for both parts each.
func (h *History) Merge(head *Ref, past []Pair) {
	var all []Pair
	h.Each(*head, func(p *Pair) bool { all = append(all, *p); return true })
	for _, q := range past {
		q.routes = 0
		if i := slices.IndexFunc(all, func(p Pair) bool { return p.origin == q.origin }); i >= 0 {
			all[i].merge(h.clock, q)
		} else {
			all = append(all, q)
		}
	}
	slices.SortStableFunc(all, func(p, q Pair) int { return cmp.Compare(p.first, q.first) })
	last := Ref(0)
	for r, i := *head, 0; i < len(all); i++ {
		if r == 0 {
			if r = h.next(); last == 0 {
				*head = r
			} else {
				h.pair(last).next = r
			}
			h.pair(r).next = 0
		}
		p := h.pair(r)
		next := p.next
		*p = all[i]
		p.next, last, r = next, r, next
	}
}

// merge adds what q says of the same origin, before p came.
func (p *Pair) merge(c *Clock, q Pair) {
	switch {
	case q.at > p.at && p.routes > 0:
		p.accrue(c, q.at)
	case q.at > p.at:
		decay, _ := c.span(q.at - p.at)
		p.present, p.heard = float32(float64(p.present)*decay), float32(float64(p.heard)*decay)
		p.fade(c, q.at)
		p.at = q.at
	case p.at > q.at:
		gone := p.at - q.at
		decay, _ := c.span(gone)
		q.present, q.heard = float32(float64(q.present)*decay), float32(float64(q.heard)*decay)
		q.fade(c, p.at)
		if float64(gone) > c.forget() {
			q.flags = 0
		}
	}
	p.first = min(p.first, q.first)
	p.present += q.present
	p.heard += q.heard
	p.flags |= q.flags
	mergeCounts(p.hops[:], p.hopN[:], q.hops[:], q.hopN[:])
	mergeCounts(p.ups[:], p.upN[:], q.ups[:], q.upN[:])
}

// mergeCounts merges two summaries of Misra and Gries: counts add up, and where there are more than places the largest count
// that finds none is taken from all, so that what was frequent in both together remains.
func mergeCounts(asns []uint32, n []uint8, moreASNs []uint32, moreN []uint8) {
	type counted struct {
		asn uint32
		n   int
	}
	var all []counted
	add := func(asns []uint32, n []uint8) {
		for i, asn := range asns {
			if n[i] == 0 {
				continue
			}
			if at := slices.IndexFunc(all, func(c counted) bool { return c.asn == asn }); at >= 0 {
				all[at].n += int(n[i])
			} else {
				all = append(all, counted{asn, int(n[i])})
			}
		}
	}
	add(asns, n)
	add(moreASNs, moreN)
	slices.SortStableFunc(all, func(a, b counted) int { return cmp.Compare(b.n, a.n) })
	less := 0
	if len(all) > len(asns) {
		less = all[len(asns)].n
	}
	clear(asns)
	clear(n)
	for i := range min(len(all), len(asns)) {
		if left := min(all[i].n-less, 255); left > 0 {
			asns[i], n[i] = all[i].asn, uint8(left)
		}
	}
}
