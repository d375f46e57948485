package rpki

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
)

// Change is one difference between a set and the one that follows it. Exactly one of VRP and ASPA is
// not nil.
type Change struct {
	At      time.Time   `json:"at"`
	Removed bool        `json:"removed,omitempty"` // of a VRP: it was there and is no more
	VRP     *VRP        `json:"vrp,omitempty"`
	ASPA    *ASPAChange `json:"aspa,omitempty"`
}

// ASPAChange is a change of which providers a customer attests. nil says that it attests nothing, which
// is not the same as attesting to have none.
type ASPAChange struct {
	Customer uint32   `json:"customer"`
	Before   []uint32 `json:"before"` // sorted
	After    []uint32 `json:"after"`
}

// Diff yields what changed from before to after, which became known at the time given: VRPs in the
// order of [Set.VRPs], then ASPAs by customer. A VRP counts by prefix, maximum length and AS number:
// that its trust anchor or expiry changed, or that one of two anchors dropped it, is no change. It
// takes one pass over the VRPs of both and holds none.
func Diff(before, after *Set, at time.Time) iter.Seq[Change] {
	return func(yield func(Change) bool) {
		if before == nil {
			before = &Set{}
		}
		if after == nil {
			after = &Set{}
		}
		_ = diffTables(before, &before.v4, after, &after.v4, at, yield) &&
			diffTables(before, &before.v6, after, &after.v6, at, yield) &&
			diffASPAs(before.aspas, after.aspas, at, yield)
	}
}

func diffTables(before *Set, b *table, after *Set, a *table, at time.Time, yield func(Change) bool) bool {
	// skip returns the index after r and its repetitions by other trust anchors.
	skip := func(rs []record, i int) int {
		first := i
		for i++; i < len(rs) && samePayload(rs[first], rs[i]); i++ {
		}
		return i
	}
	i, j := 0, 0
	for i < len(b.records) || j < len(a.records) {
		order := 0
		switch {
		case i == len(b.records):
			order = 1
		case j == len(a.records):
			order = -1
		default:
			order = comparePayload(&b.records[i], &a.records[j])
		}
		if order < 0 {
			v := before.vrp(b, &b.records[i])
			if !yield(Change{At: at, Removed: true, VRP: &v}) {
				return false
			}
		} else if order > 0 {
			v := after.vrp(a, &a.records[j])
			if !yield(Change{At: at, VRP: &v}) {
				return false
			}
		}
		if order <= 0 {
			i = skip(b.records, i)
		}
		if order >= 0 {
			j = skip(a.records, j)
		}
	}
	return true
}

func diffASPAs(before, after ASPAs, at time.Time, yield func(Change) bool) bool {
	var changed []uint32
	for customer, providers := range before {
		if now, ok := after[customer]; !ok || !slices.Equal(providers, now) {
			changed = append(changed, customer)
		}
	}
	for customer := range after {
		if _, ok := before[customer]; !ok {
			changed = append(changed, customer)
		}
	}
	slices.Sort(changed)
	attested := func(a ASPAs, customer uint32) []uint32 {
		providers, ok := a[customer]
		if ok && providers == nil {
			return []uint32{}
		}
		return providers
	}
	for _, customer := range changed {
		c := ASPAChange{customer, attested(before, customer), attested(after, customer)}
		if !yield(Change{At: at, ASPA: &c}) {
			return false
		}
	}
	return true
}

// Limits say what loss between two sets is taken for the operators' doing. A greater one is likelier to
// be a trust anchor that fails or a file cut short, which would make valid routes unknown, and routes
// that a shorter VRP covers invalid.
type Limits struct {
	Share float64 // of what a trust anchor has, 0 to 1, that may go at once
	Floor int     // trust anchors with fewer VRPs (or, of ASPAs, fewer ASPAs) may lose all
}

// DefaultLimits lets a tenth of a trust anchor go.
func DefaultLimits() Limits { return Limits{Share: 0.1, Floor: 1000} }

// Collapse is a loss beyond the limits.
type Collapse struct {
	Anchor string `json:"anchor"` // "" where the source names no trust anchors, and of ASPAs
	What   string `json:"what"`   // "VRPs" or "ASPAs"
	Before int    `json:"before"`
	After  int    `json:"after"`
}

func (c Collapse) String() string {
	of := ""
	if c.Anchor != "" {
		of = " of " + c.Anchor
	}
	return fmt.Sprintf("the %s%s fell from %d to %d", c.What, of, c.Before, c.After)
}

// CollapseError is why a set was held back.
type CollapseError []Collapse

func (e CollapseError) Error() string {
	var all []string
	for _, c := range e {
		all = append(all, c.String())
	}
	return "the new set is held back: " + strings.Join(all, ", ")
}

// Check returns a [CollapseError] where next lost too much to replace previous, which it names by
// trust anchor. Nothing is too little to follow on nothing. A trust anchor renamed looks like its loss.
func (l Limits) Check(previous, next *Set) error {
	var lost CollapseError
	check := func(anchor, what string, before, after int) {
		if before >= max(l.Floor, 1) && float64(before-after) > l.Share*float64(before) {
			lost = append(lost, Collapse{anchor, what, before, after})
		}
	}
	before, after := previous.byAnchor(), next.byAnchor()
	for _, anchor := range slices.Sorted(maps.Keys(before)) {
		check(anchor, "VRPs", before[anchor], after[anchor])
	}
	check("", "ASPAs", len(previous.ASPAs()), len(next.ASPAs()))
	if lost == nil {
		return nil
	}
	return lost
}

// byAnchor counts the VRPs of each trust anchor.
func (s *Set) byAnchor() map[string]int {
	counts := map[string]int{}
	if s == nil {
		return counts
	}
	perIndex := make([]int, len(s.anchors))
	for _, t := range [...]*table{&s.v4, &s.v6} {
		for i := range t.records {
			perIndex[t.records[i].anchor]++
		}
	}
	for i, n := range perIndex {
		counts[s.anchors[i]] += n
	}
	return counts
}
