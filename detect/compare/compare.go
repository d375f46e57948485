// Package compare compares incidents: those that a detector found at the time with those that other rules, watches or
// knowledge find of the same updates.
//
// An incident's id is a hash of its kind, offender, victim and start, so the same event under another kind, or found to
// begin a moment earlier, has another id. Those are paired by what they are about: where no id matches, two incidents
// that were under way at the same time, share a prefix and share an offender or a victim are one that has changed.
package compare

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
)

// Change is how an incident differs.
type Change string

const (
	Added   Change = "added"
	Removed Change = "removed"
	Changed Change = "changed"
)

// Difference is one incident that only one side has, or that both have differently.
type Difference struct {
	Change Change             `json:"change"`
	Before *incident.Incident `json:"before,omitempty"` // as it was stored; nil where it is added
	After  *incident.Incident `json:"after,omitempty"`  // as it is now found; nil where it is removed
	Fields []Field            `json:"fields,omitempty"` // in what a changed one differs
}

// Field is one thing in which an incident differs.
type Field struct {
	Name   string `json:"name"` // as in the incident's JSON
	Before string `json:"before"`
	After  string `json:"after"`
}

// incident is the one by whose start differences are in order.
func (d *Difference) incident() *incident.Incident {
	if d.Before != nil {
		return d.Before
	}
	return d.After
}

// Incidents returns the differences in the order of their start, and how many incidents are the same on both sides. Neither
// list has an id twice.
func Incidents(before, after []incident.Incident) (differences []Difference, same int) {
	found := map[string]int{}
	for i := range after {
		found[after[i].ID] = i
	}
	taken := make([]bool, len(after))
	pair := func(b, a *incident.Incident) {
		if fields := fieldsOf(b, a); len(fields) > 0 {
			differences = append(differences, Difference{Changed, b, a, fields})
		} else {
			same++
		}
	}
	var alone []*incident.Incident
	for i := range before {
		j, ok := found[before[i].ID]
		if !ok {
			alone = append(alone, &before[i])
			continue
		}
		taken[j] = true
		pair(&before[i], &after[j])
	}
	slices.SortFunc(alone, byStart)
	var others []int
	for j := range after {
		if !taken[j] {
			others = append(others, j)
		}
	}
	slices.SortFunc(others, func(i, j int) int { return byStart(&after[i], &after[j]) })
	for _, b := range alone {
		best, apart := -1, time.Duration(math.MaxInt64)
		for _, j := range others {
			if d := b.StartedAt.Sub(after[j].StartedAt).Abs(); !taken[j] && d < apart && related(b, &after[j]) {
				best, apart = j, d
			}
		}
		if best < 0 {
			differences = append(differences, Difference{Change: Removed, Before: b})
			continue
		}
		taken[best] = true
		pair(b, &after[best])
	}
	for _, j := range others {
		if !taken[j] {
			differences = append(differences, Difference{Change: Added, After: &after[j]})
		}
	}
	slices.SortFunc(differences, func(a, b Difference) int { return byStart(a.incident(), b.incident()) })
	return differences, same
}

func byStart(a, b *incident.Incident) int {
	return cmp.Or(a.StartedAt.Compare(b.StartedAt), cmp.Compare(a.ID, b.ID))
}

// related reports whether a and b are about the same event.
func related(a, b *incident.Incident) bool {
	meet := func(a, b []uint32) bool {
		return slices.ContainsFunc(a, func(n uint32) bool { return slices.Contains(b, n) })
	}
	if a.EndedAt != nil && a.EndedAt.Before(b.StartedAt) || b.EndedAt != nil && b.EndedAt.Before(a.StartedAt) {
		return false
	}
	if !meet(a.Offenders, b.Offenders) && !meet(a.Victims, b.Victims) {
		return false
	}
	of := map[netip.Prefix]bool{}
	for _, p := range a.Prefixes {
		of[p.Prefix] = true
	}
	return slices.ContainsFunc(b.Prefixes, func(p incident.Prefix) bool { return of[p.Prefix] })
}

// fieldsOf returns in what two states of an incident differ. Confidence counts to a hundredth, as people read it.
func fieldsOf(b, a *incident.Incident) (fields []Field) {
	differ := func(name, before, after string) {
		if before != after {
			fields = append(fields, Field{name, before, after})
		}
	}
	differ("kind", string(b.Kind), string(a.Kind))
	differ("severity", string(b.Severity), string(a.Severity))
	differ("peak_severity", string(b.PeakSeverity), string(a.PeakSeverity))
	differ("confidence", fmt.Sprintf("%.2f", b.Confidence), fmt.Sprintf("%.2f", a.Confidence))
	differ("started_at", moment(&b.StartedAt), moment(&a.StartedAt))
	differ("detected_at", moment(&b.DetectedAt), moment(&a.DetectedAt))
	differ("ended_at", moment(b.EndedAt), moment(a.EndedAt))
	differ("offenders", asns(b.Offenders), asns(a.Offenders))
	differ("victims", asns(b.Victims), asns(a.Victims))
	differ("prefix_count", fmt.Sprint(b.PrefixCount), fmt.Sprint(a.PrefixCount))
	differ("watches", strings.Join(b.Watches, ", "), strings.Join(a.Watches, ", "))
	differ("muted", mutedBy(b), mutedBy(a))
	return fields
}

func moment(t *time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15:04:05.999Z")
}

func asns(list []uint32) string {
	var words []string
	for _, n := range list {
		words = append(words, fmt.Sprintf("AS%d", n))
	}
	return strings.Join(words, ", ")
}

func mutedBy(x *incident.Incident) string {
	if x.Muted == nil {
		return ""
	}
	return x.Muted.Watch
}
