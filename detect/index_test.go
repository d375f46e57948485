package detect

import (
	"math/rand/v2"
	"testing"
)

// TestIndex holds an index against a map; few hashes, so that they meet, and around the end of a part too.
func TestIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var x idIndex
	hashes := map[uint32]uint64{}
	for id := range uint32(20_000) {
		h := r.Uint64()>>56<<56 | uint64(^uint32(r.IntN(40))) // few of each part, at its end
		if r.IntN(2) == 0 {
			h = r.Uint64() & 0x01ffffff_ffffffff
		}
		is := func(want uint32) func(uint32) bool { return func(id uint32) bool { return id == want } }
		if _, ok := x.find(h, is(id)); ok {
			t.Fatalf("%d is there before it came", id)
		}
		x.add(h, id)
		hashes[id] = h
		if id%200 == 0 {
			for want, h := range hashes {
				if got, ok := x.find(h, is(want)); !ok || got != want {
					t.Fatalf("%d is lost", want)
				}
			}
		}
	}
	if taken(&x) != len(hashes) {
		t.Errorf("%d are counted, %d are there", taken(&x), len(hashes))
	}
}
