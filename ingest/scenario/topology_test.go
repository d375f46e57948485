package scenario

import (
	"fmt"
	"testing"
)

func TestSpread(t *testing.T) {
	// 1 and 2 are peers at the top; 3 and 4 buy from 1, 5 from 2 and 4; 3 and 4 are peers.
	rels := []Relationship{{1, 2, true}, {1, 3, false}, {1, 4, false}, {2, 5, false}, {4, 5, false}, {3, 4, true}, {2, 6, false}, {6, 7, false}, {5, 7, false}}
	tests := []struct {
		name    string
		origins []uint32
		without link
		from    uint32
		partial bool
		want    []uint32
	}{
		{"itself", []uint32{5}, link{}, 5, false, []uint32{5}},
		{"up", []uint32{5}, link{}, 4, false, []uint32{4, 5}},
		{"customer before peer though longer", []uint32{5}, link{}, 1, false, []uint32{1, 4, 5}},
		{"peer before provider", []uint32{5}, link{}, 3, false, []uint32{3, 4, 5}},
		{"lowest neighbour breaks a tie", []uint32{7}, link{}, 2, false, []uint32{2, 5, 7}},
		{"around a broken link", []uint32{7}, link{5, 7}, 2, false, []uint32{2, 6, 7}},
		{"broken the other way round", []uint32{7}, link{7, 5}, 2, false, []uint32{2, 6, 7}},
		{"up, over, down", []uint32{3}, link{}, 6, false, []uint32{6, 2, 1, 3}},
		{"a peer's route is not told to a peer", []uint32{2}, link{2, 5}, 3, false, []uint32{3, 1, 2}},
		{"nearest of two origins", []uint32{3, 6}, link{}, 7, false, []uint32{7, 6}},
		{"partial hides a provider's route", []uint32{3}, link{}, 6, true, nil},
		{"partial tells a customer's route", []uint32{7}, link{}, 6, true, []uint32{6, 7}},
		{"unknown origin", []uint32{99}, link{}, 1, false, nil},
		{"cut off", []uint32{3}, link{1, 3}, 2, false, nil},
	}
	topo := newTopology(rels)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := path(topo.spread(tt.origins, tt.without), tt.from, tt.partial)
			if fmt.Sprint(got) != fmt.Sprint(tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}
