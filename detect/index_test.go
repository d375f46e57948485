package detect

import (
	"math/rand/v2"
	"testing"
)

// TestIndexForgets holds an index against a map while ids come and go; few hashes, so that they meet, and around the end of a
// part too.
func TestIndexForgets(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var x idIndex
	hashes := map[uint32]uint64{}
	var held []uint32
	for id := range uint32(20_000) {
		h := r.Uint64()>>56<<56 | uint64(^uint32(r.IntN(40))) // few of each part, at its end
		if r.IntN(2) == 0 {
			h = r.Uint64() & 0x01ffffff_ffffffff
		}
		x.add(h, id)
		hashes[id] = h
		held = append(held, id)
		for len(held) > 0 && r.IntN(5) < 2 {
			i := r.IntN(len(held))
			gone := held[i]
			held[i] = held[len(held)-1]
			held = held[:len(held)-1]
			x.remove(hashes[gone], gone)
			if _, ok := x.find(hashes[gone], func(id uint32) bool { return id == gone }); ok {
				t.Fatalf("%d is still there", gone)
			}
			delete(hashes, gone)
		}
		if id%100 == 0 {
			for want, h := range hashes {
				if _, ok := x.find(h, func(id uint32) bool { return id == want }); !ok {
					t.Fatalf("%d is lost", want)
				}
			}
		}
	}
	if taken(&x) != len(hashes) {
		t.Errorf("%d are counted, %d are there", taken(&x), len(hashes))
	}
}

// octets is what the slots take, with the bits of what is there.
func (x *idIndex) octets() (n int64) {
	for i := range x.parts {
		n += 9 * int64(len(x.parts[i].slots))
	}
	return n
}
