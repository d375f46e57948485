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

// Whatever is there may be, and eight neighbours lie together.
func TestIndexOfNeighbours(t *testing.T) {
	var x idIndex
	for i := range uint64(8) {
		x.add(hashPrefix(0x0a00_0000_0000_0000|i<<40, 0, 24, true), uint32(i))
		x.add(hashPrefix(0x2001_0db8_0000_0000|i<<16, 0, 48, false), uint32(8+i))
		x.add(hashPrefix(0x2001_0db8_0000_0000, i<<32, 96, false), uint32(16+i))
	}
	for _, first := range []struct {
		hi, lo, step uint64 // step adds to the word that is not whole
		bits         int
		is4          bool
	}{{0x0a00_0000_0000_0000, 0, 1 << 40, 24, true}, {0x2001_0db8_0000_0000, 0, 1 << 16, 48, false}, {0x2001_0db8_0000_0000, 0, 1 << 32, 96, false}} {
		home := hashPrefix(first.hi, first.lo, first.bits, first.is4)
		for i := range uint64(8) {
			hi, lo := first.hi, first.lo
			if first.bits > 64 {
				lo |= i * first.step
			} else {
				hi |= i * first.step
			}
			h := hashPrefix(hi, lo, first.bits, first.is4)
			if h != home|i {
				t.Errorf("/%d: neighbour %d has hash %x, the first %x", first.bits, i, h, home)
			}
			if this, any := x.may(h); !this || !any {
				t.Errorf("/%d: neighbour %d is not there", first.bits, i)
			}
		}
	}
	seen := map[uint64]bool{} // of all lengths, that hashes differ
	for n := range 33 {
		seen[hashPrefix(0, 0, n, true)] = true
	}
	for n := range 129 {
		seen[hashPrefix(0, 0, n, false)] = true
	}
	if len(seen) != 33+129 {
		t.Errorf("%d hashes of %d prefixes", len(seen), 33+129)
	}
}
