package origins

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/ingest"
)

// A history that is told in two parts, the later one first, is the same as one that saw all.
func TestMerge(t *testing.T) {
	const hour = ingest.Time(3600e6)
	begin := ingest.TimeOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	type change struct {
		at     ingest.Time
		origin uint32
		n      int32
	}
	changes := []change{{0, 1, 3}, {5 * hour, 2, 1}, {9 * hour, 2, -1}, {30 * hour, 3, 2}, {40 * hour, 3, -2}, {47 * hour, 4, 1}, {50 * hour, 4, -1}, {90 * hour, 2, 2}, {95 * hour, 5, 1}}
	const cut, end = 48 * hour, 100 * hour
	feed := func(h *History, head *Ref, from, to ingest.Time) {
		for _, c := range changes {
			if c.at >= from && c.at < to {
				h.clock.Advance(begin+c.at, 3)
				p := h.Count(head, c.origin, c.n, begin+c.at)
				p.Observe(c.origin*10, c.origin*100)
				if c.origin == 1 || c.origin == 3 {
					p.MarkUsual(false)
				}
			}
		}
		h.clock.Advance(begin+to, 3)
	}
	whole, early, late := New(NewClock(24*time.Hour)), New(NewClock(24*time.Hour)), New(NewClock(24*time.Hour))
	var all, first, second Ref
	feed(whole, &all, 0, end)

	feed(early, &first, 0, cut)
	var past []Pair
	early.Each(first, func(p *Pair) bool { past = append(past, early.AtRest(p)); return true })
	// Whoever was there at the cut is there at the beginning of the other part.
	late.clock.Advance(begin+cut, 3)
	late.Count(&second, 4, 1, begin+cut)
	late.Count(&second, 1, 3, begin+cut)
	feed(late, &second, cut, end)
	late.Merge(&second, past)
	late.clock.Earlier(early.clock)

	facts := func(h *History, head Ref) (list []Facts) {
		h.Each(head, func(p *Pair) bool { list = append(list, h.Facts(p, begin+end, 3)); return true })
		return list
	}
	near := cmp.Comparer(func(a, b float64) bool { return a-b < 1e-3 && b-a < 1e-3 })
	if diff := cmp.Diff(facts(whole, all), facts(late, second), near); diff != "" {
		t.Errorf("-seen at once +in two parts:\n%s", diff)
	}
	if len(facts(whole, all)) != 5 || whole.Find(all, 1).Routes() != late.Find(second, 1).Routes() {
		t.Errorf("%+v", facts(whole, all))
	}
	if p := late.Find(second, 1); !late.Usual(p, begin+end) || late.Usual(late.Find(second, 2), begin+end) {
		t.Error("what is usual is not")
	}
}

// What is frequent in both parts together is among what is kept, whatever is rare.
func TestMergeCounts(t *testing.T) {
	asns, n := []uint32{1, 2, 3}, []uint8{200, 5, 4}
	mergeCounts(asns, n, []uint32{4, 1, 5}, []uint8{90, 100, 6})
	if !slices.Equal(asns, []uint32{1, 4, 5}) || !slices.Equal(n, []uint8{255, 85, 1}) {
		t.Errorf("%v %v", asns, n)
	}
}
