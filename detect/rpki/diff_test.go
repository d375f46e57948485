package rpki

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestDiffLeadsFromOneToTheOther(t *testing.T) {
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		common := rapid.SliceOfN(vrps(), 0, 50).Draw(t, "common")
		before := NewSet(Data{VRPs: append(rapid.SliceOfN(vrps(), 0, 20).Draw(t, "old"), common...)}, "before")
		after := NewSet(Data{VRPs: append(rapid.SliceOfN(vrps(), 0, 20).Draw(t, "new"), common...)}, "after")
		var d Delta
		for c := range Diff(before, after, at) {
			switch {
			case c.At != at || c.VRP == nil || c.ASPA != nil:
				t.Fatalf("a strange change: %+v", c)
			case before.Contains(*c.VRP) != c.Removed || after.Contains(*c.VRP) == c.Removed:
				t.Fatalf("%+v is no change", c)
			case c.Removed:
				d.Withdrawn = append(d.Withdrawn, *c.VRP)
			default:
				d.Announced = append(d.Announced, *c.VRP)
			}
		}
		made, err := before.With(d, "made")
		if err != nil {
			t.Fatal(err)
		}
		if left := slices.Collect(Diff(made, after, at)); len(left) > 0 {
			t.Fatalf("left to change: %v", left)
		}
		for v := range after.VRPs() {
			if !made.Contains(v) {
				t.Fatalf("%v is missing", v)
			}
		}
		for v := range made.VRPs() {
			if !after.Contains(v) {
				t.Fatalf("%v is too much", v)
			}
		}
	})
}

func TestDiffASPAs(t *testing.T) {
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	before := NewSet(Data{ASPAs: ASPAs{1: {2}, 3: {4}, 5: {6}}}, "before")
	after := NewSet(Data{ASPAs: ASPAs{1: {2}, 3: {4, 7}, 8: nil}}, "after")
	want := []Change{
		{At: at, ASPA: &ASPAChange{3, []uint32{4}, []uint32{4, 7}}},
		{At: at, ASPA: &ASPAChange{5, []uint32{6}, nil}},
		{At: at, ASPA: &ASPAChange{8, nil, []uint32{}}},
	}
	if diff := cmp.Diff(want, slices.Collect(Diff(before, after, at))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := len(slices.Collect(Diff(nil, after, at))); n != 3 {
		t.Errorf("%d changes from nothing, want 3", n)
	}
	for range Diff(before, nil, at) {
		break // must be possible
	}
}

// BenchmarkDiff compares two sets of the Internet's size with ten changes between them.
func BenchmarkDiff(b *testing.B) {
	vs := internet(internetSize)
	before, after := NewSet(Data{VRPs: vs}, "before"), NewSet(Data{VRPs: vs[10:]}, "after")
	for b.Loop() {
		n := 0
		for range Diff(before, after, time.Time{}) {
			n++
		}
		if n != 10 {
			b.Fatalf("%d changes", n)
		}
	}
}
