package journal

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/rpki"
)

// said is what a set says, a line for each thing.
func said(s *rpki.Set) map[string]string {
	m := map[string]string{}
	for v := range s.VRPs() {
		m[fmt.Sprintf("%s-%d AS%d", v.Prefix, v.MaxLength, v.ASN)] = ""
	}
	for customer, providers := range s.ASPAs() {
		m[fmt.Sprintf("customer %d", customer)] = fmt.Sprint(providers)
	}
	return m
}

// line is a change as these tests write it.
func line(c Change) string {
	at := c.At.Format(time.DateTime)
	switch {
	case c.VRP != nil:
		return fmt.Sprintf("%s %s-%d AS%d removed=%t", at, c.VRP.Prefix, c.VRP.MaxLength, c.VRP.ASN, c.Removed)
	case c.ASPA != nil:
		show := func(providers []uint32) string {
			if providers == nil {
				return "nothing"
			}
			return fmt.Sprint(providers)
		}
		return fmt.Sprintf("%s customer %d from %s to %s", at, c.ASPA.Customer, show(c.ASPA.Before), show(c.ASPA.After))
	}
	return fmt.Sprintf("%s all removed=%t", at, c.Removed)
}

// linesBetween is what lines must tell of two sets.
func linesBetween(before, after *rpki.Set, at time.Time) (lines []string) {
	b, a := said(before), said(after)
	for what := range maps.Keys(b) {
		if _, ok := a[what]; !ok {
			a[what] = "nothing"
		}
	}
	for what, now := range a {
		was, ok := b[what]
		if !ok {
			was = "nothing"
		}
		switch {
		case was == now:
		case strings.HasPrefix(what, "customer"):
			lines = append(lines, fmt.Sprintf("%s %s from %s to %s", at.Format(time.DateTime), what, was, now))
		default:
			lines = append(lines, fmt.Sprintf("%s %s removed=%t", at.Format(time.DateTime), what, now == "nothing"))
		}
	}
	return lines
}

// all pages through the changes, limit at a time.
func all(t *testing.T, j *Journal, q Query) (list []Change) {
	t.Helper()
	for {
		page, next, err := j.Changes(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > q.Limit {
			t.Fatalf("%d changes, at most %d were asked for", len(page), q.Limit)
		}
		list = append(list, page...)
		if next == (Position{}) {
			return list
		}
		q.Before = next
	}
}

// What the sets that were recorded differ in is what is told, over the ends of segments and over times without data.
func TestChanges(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	j := open(t, t.TempDir())
	var want []string
	var before, known *rpki.Set
	for i := range 120 {
		at := start.Add(time.Duration(i) * time.Hour)
		s := randomSet(r, 60)
		if err := j.Record(at, s); err != nil {
			t.Fatal(err)
		}
		switch {
		case i == 0:
		case before == nil && s != nil:
			want = append(want, fmt.Sprintf("%s all removed=false", at.Format(time.DateTime)))
			if known != nil {
				want = append(want, linesBetween(known, s, at)...)
			}
		case before != nil && s == nil:
			want = append(want, fmt.Sprintf("%s all removed=true", at.Format(time.DateTime)))
		default:
			want = append(want, linesBetween(before, s, at)...)
		}
		if before = s; s != nil {
			known = s
		}
	}
	segments, err := j.segments()
	if err != nil || len(segments) < 3 {
		t.Fatalf("%d segments, %v", len(segments), err)
	}
	list := all(t, j, Query{Limit: 1000})
	lines := func(list []Change) (all []string) {
		for _, c := range list {
			all = append(all, line(c))
		}
		return all
	}
	got := lines(list)
	sorted := func(s []string) []string { return slices.Sorted(slices.Values(s)) }
	if diff := cmp.Diff(sorted(want), sorted(got)); diff != "" {
		t.Fatalf("(-recorded +told):\n%s", diff)
	}
	for i := range list[1:] {
		if list[i+1].Position.compare(list[i].Position) >= 0 || list[i+1].At.After(list[i].At) {
			t.Fatalf("%s comes before %s", line(list[i]), line(list[i+1]))
		}
	}
	prefix, asn := netip.MustParsePrefix("20.0.0.0/21"), uint32(64602)
	from, to := start.Add(30*time.Hour), start.Add(71*time.Hour)
	for name, tt := range map[string]struct {
		q    Query
		keep func(Change) bool
	}{
		"all":      {Query{}, func(Change) bool { return true }},
		"prefix":   {Query{Prefix: prefix}, func(c Change) bool { return c.VRP != nil && c.VRP.Prefix.Overlaps(prefix) }},
		"covering": {Query{Prefix: netip.MustParsePrefix("20.0.1.128/25")}, func(c Change) bool { return c.VRP != nil && c.VRP.Prefix.String() == "20.0.1.0/24" }},
		"AS":       {Query{ASN: 2}, func(c Change) bool { return c.VRP != nil && c.VRP.ASN == 2 }},
		"provider": {Query{ASN: asn}, func(c Change) bool {
			return c.ASPA != nil && (slices.Contains(c.ASPA.Before, asn) || slices.Contains(c.ASPA.After, asn))
		}},
		"period": {Query{From: from, To: to}, func(c Change) bool { return !c.At.Before(from) && c.At.Before(to) }},
	} {
		var want []string
		for _, c := range list {
			everything := c.VRP == nil && c.ASPA == nil && tt.q.From.IsZero()
			if everything || tt.keep(c) {
				want = append(want, line(c))
			}
		}
		for _, limit := range []int{40, 500} {
			tt.q.Limit, j.readAtMost = limit, readAtMost
			if limit == 40 {
				j.readAtMost = 1 // a segment for each answer
			}
			if diff := cmp.Diff(want, lines(all(t, j, tt.q))); diff != "" || len(want) < 3 {
				t.Errorf("%s, %d a page: %d wanted; (-want +got):\n%s", name, limit, len(want), diff)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := j.Changes(ctx, Query{Limit: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("after the question was taken back: %v", err)
	}
}

// A journal without records has no changes, and neither has one with a single record.
func TestNoChanges(t *testing.T) {
	j := open(t, t.TempDir())
	for range 2 {
		if list := all(t, j, Query{Limit: 10}); len(list) != 0 {
			t.Errorf("%d changes", len(list))
		}
		if err := j.Record(start, rpki.NewSet(rpki.Data{VRPs: []rpki.VRP{{Prefix: netip.MustParsePrefix("20.0.0.0/24"), MaxLength: 24, ASN: 1}}}, "x")); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkChanges looks for one AS in a month in which one VRP of 700,000 changed a hundred times, and in what changed
// at its end.
func BenchmarkChanges(b *testing.B) {
	j := open(b, b.TempDir())
	for i := range 100 {
		if err := j.Record(start.Add(time.Duration(i)*time.Minute), manyVRPs(b, i*7)); err != nil {
			b.Fatal(err)
		}
	}
	if err := j.Record(start.AddDate(0, 1, 0), manyVRPs(b, 0)); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if list, _, err := j.Changes(b.Context(), Query{ASN: 1, Limit: 500}); err != nil || len(list) != 200 {
			b.Fatal(len(list), err)
		}
	}
}

// That a set was held back is told in its place among the changes, and changes nothing; also at the end of a segment, over
// times without data, and after the journal was opened again.
func TestHold(t *testing.T) {
	r := rand.New(rand.NewPCG(13, 14))
	dir := t.TempDir()
	j := open(t, dir)
	if err := j.Hold(start, "file", "why"); err == nil {
		t.Error("something is held back while there is nothing in use")
	}
	sets, want := map[time.Time]*rpki.Set{}, []string{}
	for i := range 100 {
		at := start.Add(time.Duration(i) * 6 * time.Hour)
		sets[at] = randomSet(r, 60)
		if err := j.Record(at, sets[at]); err != nil {
			t.Fatal(err)
		}
		if r.IntN(2) == 0 {
			why := fmt.Sprint("it lost ", i)
			if err := j.Hold(at.Add(time.Hour), "file", why); err != nil {
				t.Fatal(err)
			}
			want = append(want, at.Add(time.Hour).Format(time.DateTime)+" "+why)
		}
		if i%7 == 0 {
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			j = open(t, dir)
		}
	}
	for at, set := range sets {
		for _, later := range []time.Duration{0, 2 * time.Hour} {
			got, since, err := j.At(at.Add(later))
			if diff := cmp.Diff(contentOf(set), contentOf(got)); err != nil || diff != "" || since.After(at) {
				t.Fatalf("%v: since %v, %v (-want +got):\n%s", at, since, err, diff)
			}
		}
	}
	var got []string
	list := all(t, j, Query{Limit: 70})
	for i, c := range list {
		if i > 0 && (c.At.After(list[i-1].At) || c.Position.compare(list[i-1].Position) >= 0) {
			t.Errorf("%v stands before %v", list[i-1], c)
		}
		if c.Held != "" {
			got = append(got, c.At.Format(time.DateTime)+" "+c.Held)
			if c.VRP != nil || c.ASPA != nil || c.Source != "file" || c.Removed {
				t.Errorf("%+v", c)
			}
		}
	}
	slices.Reverse(got)
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 30 {
		t.Errorf("%d wanted (-want +told):\n%s", len(want), diff)
	}
	huge := strings.Repeat("é", 1<<16)
	if err := errors.Join(j.Record(start.AddDate(1, 0, 0), nil), j.Hold(start.AddDate(1, 0, 1), huge, huge)); err != nil {
		t.Fatal(err)
	}
	if page, _, err := j.Changes(t.Context(), Query{Limit: 1}); err != nil || !strings.HasPrefix(page[0].Held, "éé") || len(page[0].Held) > maxText {
		t.Errorf("a long reason: %v", err)
	}
}
