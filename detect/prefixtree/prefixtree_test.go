package prefixtree

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

// randomPrefixes makes prefixes crowded into little space, so that many cover one another.
func randomPrefixes(r *rand.Rand, n int) []netip.Prefix {
	ps := make([]netip.Prefix, n)
	for i := range ps {
		if r.IntN(2) == 0 {
			ps[i] = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.IntN(4)), byte(r.IntN(4)), 0}), r.IntN(33)).Masked()
		} else {
			ps[i] = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, byte(r.IntN(3)), byte(r.IntN(3)), 14: byte(r.IntN(2)), 15: byte(r.IntN(2))}), r.IntN(129)).Masked()
		}
	}
	return ps
}

func TestCoveringAgreesWithScan(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	stored := randomPrefixes(r, 400)
	tree := New()
	for i, p := range stored {
		tree.Insert(p, uint32(i))
	}
	for _, q := range append(randomPrefixes(r, 400), stored...) {
		var want []uint32
		for i, p := range stored {
			if p.Bits() <= q.Bits() && p.Contains(q.Addr()) {
				want = append(want, uint32(i))
			}
		}
		got := tree.Covering(nil, q)
		for i := 1; i < len(got); i++ {
			if stored[got[i-1]].Bits() > stored[got[i]].Bits() {
				t.Fatalf("Covering(%v): %v stands before the shorter %v", q, stored[got[i-1]], stored[got[i]])
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("Covering(%v) = %v, want %v", q, got, want)
		}
	}
}

func TestCoveringDoesNotAllocate(t *testing.T) {
	tree := New()
	for i, p := range randomPrefixes(rand.New(rand.NewPCG(3, 4)), 100) {
		tree.Insert(p, uint32(i))
	}
	q, buf := netip.MustParsePrefix("10.1.1.0/24"), make([]uint32, 0, 256)
	if n := testing.AllocsPerRun(100, func() { buf = tree.Covering(buf[:0], q) }); n != 0 {
		t.Errorf("Covering allocates %v times", n)
	}
}

func BenchmarkCovering(b *testing.B) {
	r := rand.New(rand.NewPCG(5, 6))
	tree, qs := New(), make([]netip.Prefix, 1024)
	for i := range 700_000 {
		a := netip.AddrFrom4([4]byte{byte(r.IntN(224)), byte(r.IntN(256)), byte(r.IntN(256)), 0})
		p := netip.PrefixFrom(a, 16+r.IntN(9)).Masked()
		tree.Insert(p, uint32(i))
		qs[i%len(qs)] = p
	}
	var buf []uint32
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		buf = tree.Covering(buf[:0], qs[i%len(qs)])
	}
}
