package detect

import (
	"cmp"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect/origins"
)

// TestTableFindsPrefixes fills a table with prefixes that often contain each other, and compares what it finds with
// a map and with a search through all of them.
func TestTableFindsPrefixes(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func() netip.Prefix {
		var b [16]byte
		binary.BigEndian.PutUint64(b[:], 0x2001_0db8_0000_0000+r.Uint64N(1<<12)<<14)
		binary.BigEndian.PutUint64(b[8:], r.Uint64N(4)<<60)
		a, least, most := netip.AddrFrom16(b), 32, 70
		if r.IntN(2) == 0 {
			a, least, most = netip.AddrFrom4([4]byte(b[4:8])), 0, 32
		}
		p, err := a.Prefix(least + r.IntN(most-least+1))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	tab := newTable(newPathTree(nil, nil, newLinkMemory()), origins.NewClock(time.Hour))
	all := map[netip.Prefix]uint32{}
	for range 5000 {
		p := random()
		id, ok := tab.entryFor(p)
		if want, known := all[p]; !ok || known && id != want {
			t.Fatalf("%v: id %d, %t; want %d", p, id, ok, want)
		}
		all[p] = id
	}
	if int(tab.size) != len(all) {
		t.Fatalf("%d entries for %d prefixes", tab.size, len(all))
	}
	covered := 0
	for range 5000 {
		p := random()
		id, ok := tab.lookup(p)
		if want, known := all[p]; ok != known || ok && (id != want || tab.entry(id).prefix != p) {
			t.Fatalf("%v: %d, %t; want %d, %t", p, id, ok, want, known)
		}
		var got, want []netip.Prefix
		for c := range tab.covering(p) {
			got = append(got, c.prefix)
		}
		for q := range all {
			if q.Bits() < p.Bits() && q.Contains(p.Addr()) {
				want = append(want, q)
			}
		}
		slices.SortFunc(want, func(a, b netip.Prefix) int { return b.Bits() - a.Bits() })
		if !slices.Equal(got, want) {
			t.Fatalf("%v is covered by %v, want %v", p, got, want)
		}
		covered += len(want)
	}
	if covered == 0 {
		t.Error("nothing covers anything")
	}
}

// BenchmarkCover looks for what covers a prefix among a million, none of which does.
func BenchmarkCover(b *testing.B) {
	tab := newTable(newPathTree(nil, nil, newLinkMemory()), origins.NewClock(time.Hour))
	for i := range 1_000_000 {
		n := 24 - i%9 // all lengths from /16 to /24
		p, err := prefixOf(i).Addr().Prefix(n)
		if err != nil {
			b.Fatal(err)
		}
		tab.entryFor(p)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		for range tab.covering(netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(100 + i%100), byte(i >> 8), byte(i), 0}), 24)) {
			b.Fatal("covered")
		}
	}
}

// TestWithinFindsWhatIsThere holds the walk over the parts of a block against a look at every prefix of the table.
func TestWithinFindsWhatIsThere(t *testing.T) {
	tab := newTable(newPathTree(nil, nil, newLinkMemory()), origins.NewClock(time.Hour))
	r := rand.New(rand.NewPCG(3, 4))
	for range 3000 {
		a := netip.AddrFrom4([4]byte{10, byte(r.IntN(4)), byte(r.IntN(256)), 0})
		if r.IntN(2) == 0 {
			a = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(r.IntN(2)), byte(r.IntN(256))})
		}
		tab.entryFor(netip.PrefixFrom(a, 12+r.IntN(37)%(a.BitLen()/2)).Masked())
	}
	for _, c := range []struct {
		block   string
		deepest int
		most    int
	}{{"10.0.0.0/14", 24, 1 << 30}, {"10.1.0.0/16", 24, 512}, {"10.2.4.0/24", 24, 512}, {"2001:db8::/32", 48, 1 << 30}, {"2001:db8::/33", 48, 300}} {
		block := netip.MustParsePrefix(c.block)
		var want []netip.Prefix
		for _, e := range tab.all() {
			p := e.prefix
			if p.Bits() <= block.Bits() || p.Bits() > c.deepest || !block.Overlaps(p) {
				continue
			}
			// How many prefixes come before p: all of the shorter lengths, and those of its own at lower addresses.
			before := 1<<(p.Bits()-block.Bits()) - 2
			hi, _ := words(p.Addr())
			first, _ := words(block.Addr())
			if before += int((hi - first) >> (64 - p.Bits())); before < c.most {
				want = append(want, p)
			}
		}
		slices.SortFunc(want, func(a, b netip.Prefix) int { return cmp.Or(a.Bits()-b.Bits(), a.Addr().Compare(b.Addr())) })
		var got []netip.Prefix
		for e := range tab.within(block, c.deepest, c.most) {
			got = append(got, e.prefix)
		}
		if !slices.Equal(got, want) {
			t.Errorf("within %s: %d prefixes, want %d", block, len(got), len(want))
		}
	}
}
