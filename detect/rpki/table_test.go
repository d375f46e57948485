package rpki

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// crowded draws prefixes from so little space that many cover one another, of every length.
func crowded() *rapid.Generator[netip.Prefix] {
	return rapid.Custom(func(t *rapid.T) netip.Prefix {
		bits := rapid.Uint64Range(0, 15).Draw(t, "bits of the address")
		if rapid.Bool().Draw(t, "IPv4") {
			a := [4]byte{byte(bits&1) << 7, byte(bits >> 1 & 1), 0, byte(bits >> 2 & 3)}
			return netip.PrefixFrom(netip.AddrFrom4(a), rapid.IntRange(0, 32).Draw(t, "length")).Masked()
		}
		a := [16]byte{0: 0x20, 7: byte(bits & 1), 8: byte(bits>>1&1) << 7, 15: byte(bits >> 2 & 3)}
		return netip.PrefixFrom(netip.AddrFrom16(a), rapid.IntRange(0, 128).Draw(t, "length")).Masked()
	})
}

func vrps() *rapid.Generator[VRP] {
	return rapid.Custom(func(t *rapid.T) VRP {
		v := VRP{Prefix: crowded().Draw(t, "prefix"), ASN: rapid.Uint32Range(0, 3).Draw(t, "asn"), TA: rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "ta")}
		v.MaxLength = uint8(rapid.IntRange(v.Prefix.Bits(), v.Prefix.Addr().BitLen()).Draw(t, "max"))
		if rapid.Bool().Draw(t, "expires") {
			v.Expires = time.Unix(rapid.Int64Range(1, 3).Draw(t, "when"), 0).UTC()
		}
		return v
	})
}

// naive is RFC 6811 §2 word by word.
func naive(all []VRP, p netip.Prefix, origin uint32, hasOrigin bool) (State, int) {
	state, covering := NotFound, 0
	for _, v := range all {
		if v.Prefix.Addr().BitLen() != p.Addr().BitLen() || v.Prefix.Bits() > p.Bits() || !v.Prefix.Contains(p.Addr()) {
			continue
		}
		covering++
		if hasOrigin && v.ASN != 0 && v.ASN == origin && p.Bits() <= int(v.MaxLength) {
			state = Valid
		} else if state == NotFound {
			state = Invalid
		}
	}
	return state, covering
}

// unique is what a set must keep of VRPs, in its order.
func unique(all []VRP) []VRP {
	type identity struct {
		p    netip.Prefix
		most uint8
		asn  uint32
		ta   string
	}
	last := map[identity]VRP{}
	for _, v := range all {
		id := identity{v.Prefix, v.MaxLength, v.ASN, v.TA}
		if old, ok := last[id]; !ok || v.Expires.After(old.Expires) {
			last[id] = v
		}
	}
	return slices.SortedFunc(maps.Values(last), inOrder)
}

// inOrder has no order among trust anchors of one VRP but their names'; tests compare such by unordered.
func inOrder(a, b VRP) int {
	return cmp.Or(cmp.Compare(a.Prefix.Addr().BitLen(), b.Prefix.Addr().BitLen()), a.Prefix.Addr().Compare(b.Prefix.Addr()),
		cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()), cmp.Compare(a.ASN, b.ASN), cmp.Compare(a.MaxLength, b.MaxLength), cmp.Compare(a.TA, b.TA))
}

var comparePrefixes = gocmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

func TestSetAgreesWithRFC6811(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(vrps(), 0, 300).Draw(t, "vrps")
		s := NewSet(Data{VRPs: in}, "test")
		kept := unique(in)
		if diff := gocmp.Diff(kept, slices.SortedFunc(s.VRPs(), inOrder), comparePrefixes); diff != "" {
			t.Fatalf("VRPs (-want +got):\n%s", diff)
		}
		for _, q := range rapid.SliceOfN(crowded(), 1, 50).Draw(t, "queries") {
			origin, hasOrigin := rapid.Uint32Range(0, 4).Draw(t, "origin"), rapid.Bool().Draw(t, "has origin")
			want, covering := naive(kept, q, origin, hasOrigin)
			got := s.Validate(q, origin, hasOrigin)
			if got.State != want || s.State(q, origin, hasOrigin) != want || len(got.VRPs) != covering {
				t.Fatalf("%v by AS%d (%v): %+v, want %v with %d VRPs", q, origin, hasOrigin, got, want, covering)
			}
			if !slices.IsSortedFunc(got.VRPs, func(a, b VRP) int { return cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()) }) {
				t.Fatalf("not the shortest first: %v", got.VRPs)
			}
		}
	})
}

func TestWithAgreesWithBuildingAnew(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.SliceOfN(vrps(), 0, 100).Draw(t, "base")
		d := Delta{Announced: rapid.SliceOfN(vrps(), 0, 20).Draw(t, "announced"), Withdrawn: rapid.SliceOfN(vrps(), 0, 20).Draw(t, "withdrawn")}
		gone := func(v VRP) bool {
			return slices.ContainsFunc(d.Withdrawn, func(w VRP) bool {
				return w.Prefix == v.Prefix && w.ASN == v.ASN && w.MaxLength == v.MaxLength
			})
		}
		want := append(slices.DeleteFunc(slices.Clone(base), gone), d.Announced...)
		before := NewSet(Data{VRPs: base}, "base")
		got, err := before.With(d, "changed")
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(unique(want), slices.SortedFunc(got.VRPs(), inOrder), comparePrefixes); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		for _, q := range rapid.SliceOfN(crowded(), 1, 20).Draw(t, "queries") {
			if want, _ := naive(want, q, 1, true); got.State(q, 1, true) != want {
				t.Fatalf("%v: %v, want %v", q, got.State(q, 1, true), want)
			}
		}
		if diff := gocmp.Diff(unique(base), slices.SortedFunc(before.VRPs(), inOrder), comparePrefixes); diff != "" {
			t.Fatalf("With changed its receiver:\n%s", diff)
		}
		for _, v := range base {
			if !before.Contains(v) || got.Contains(v) != slices.ContainsFunc(want, func(w VRP) bool {
				return inOrder(VRP{v.Prefix, v.MaxLength, v.ASN, "", time.Time{}}, VRP{w.Prefix, w.MaxLength, w.ASN, "", time.Time{}}) == 0
			}) {
				t.Fatalf("Contains(%v) is wrong", v)
			}
		}
	})
}

func TestWithASPAs(t *testing.T) {
	s := NewSet(Data{ASPAs: ASPAs{1: {2, 3}, 4: {5}}}, "base")
	got, err := s.With(Delta{ASPAs: map[uint32][]uint32{1: {9, 7}, 4: nil, 6: {1}}}, "changed")
	if err != nil {
		t.Fatal(err)
	}
	if diff := gocmp.Diff(ASPAs{1: {7, 9}, 6: {1}}, got.ASPAs()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := gocmp.Diff(ASPAs{1: {2, 3}, 4: {5}}, s.ASPAs()); diff != "" {
		t.Errorf("With changed its receiver:\n%s", diff)
	}
}

func TestAddRejects(t *testing.T) {
	for name, v := range map[string]VRP{
		"nothing":      {},
		"host bits":    {Prefix: netip.MustParsePrefix("192.0.2.1/24"), MaxLength: 24},
		"max too low":  vrp("192.0.2.0/24", 23, 1),
		"max too high": vrp("192.0.2.0/24", 33, 1),
		"mapped":       {Prefix: netip.PrefixFrom(netip.MustParseAddr("::ffff:192.0.2.0"), 120), MaxLength: 120},
	} {
		if err := NewBuilder().Add(v); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	b, err := NewBuilder(), error(nil)
	for i := range maxAnchors + 1 {
		v := vrp("192.0.2.0/24", 24, 1)
		v.TA = string(rune('A' + i))
		err = b.Add(v)
	}
	if err == nil {
		t.Error("any number of trust anchors accepted")
	}
}

func TestDuplicate(t *testing.T) {
	for _, p := range []string{"192.0.2.0/24", "2001:db8::/32"} {
		b := NewBuilder()
		bits := uint8(netip.MustParsePrefix(p).Bits())
		for _, v := range []VRP{vrp(p, bits, 2), vrp(p, bits, 1), vrp(p, bits+1, 2)} {
			if err := b.Add(v); err != nil {
				t.Fatal(err)
			}
		}
		if v, found := b.Duplicate(); found {
			t.Errorf("%v is no duplicate", v)
		}
		if err := b.Add(vrp(p, bits, 2)); err != nil {
			t.Fatal(err)
		}
		if v, found := b.Duplicate(); !found || v != vrp(p, bits, 2) {
			t.Errorf("found %v (%v)", v, found)
		}
	}
}

// internetSize is about the number of VRPs of the whole RPKI.
const internetSize = 700_000

// internet makes VRPs with the shape of the real ones: a quarter IPv6, most lengths /24 and /48,
// some covering others, several origins for some.
func internet(n int) []VRP {
	r := rand.New(rand.NewPCG(7, 11))
	anchors := []string{"afrinic", "apnic", "arin", "lacnic", "ripe"}
	out := make([]VRP, 0, n)
	for len(out) < n {
		v := VRP{ASN: 1 + r.Uint32N(400_000), TA: anchors[r.IntN(5)], Expires: time.Unix(1_800_000_000+r.Int64N(1e6), 0).UTC()}
		if r.IntN(4) > 0 {
			bits := []int{24, 24, 24, 24, 23, 22, 22, 21, 20, 19, 18, 17, 16, 14}[r.IntN(14)]
			v.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{1 + byte(r.IntN(222)), byte(r.Uint32()), byte(r.Uint32())}), bits).Masked()
			v.MaxLength = uint8(max(bits, []int{bits, 24}[r.IntN(2)]))
		} else {
			bits := []int{48, 48, 48, 48, 44, 40, 36, 32, 32, 29}[r.IntN(10)]
			a := [16]byte{0x20 + byte(r.IntN(4)*4), byte(r.IntN(4)), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}
			v.Prefix = netip.PrefixFrom(netip.AddrFrom16(a), bits).Masked()
			v.MaxLength = uint8(max(bits, []int{bits, 48}[r.IntN(2)]))
		}
		out = append(out, v)
	}
	return out
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// The budget of the design is 48 bytes a VRP.
func TestMemoryPerVRP(t *testing.T) {
	vs := internet(internetSize)
	before := heap()
	s := NewSet(Data{VRPs: vs}, "test")
	each := float64(int64(heap()-before)) / float64(s.Len())
	t.Logf("%.1f bytes each for %d VRPs", each, s.Len())
	if each > 48 {
		t.Errorf("%.1f bytes each, more than 48", each)
	}
	runtime.KeepAlive(s)
	runtime.KeepAlive(vs)
}

func TestStateDoesNotAllocate(t *testing.T) {
	vs := internet(10_000)
	s := NewSet(Data{VRPs: vs}, "test")
	i := 0
	if n := testing.AllocsPerRun(1000, func() { s.State(vs[i].Prefix, vs[i].ASN, true); i++ }); n != 0 {
		t.Errorf("State allocates %v times", n)
	}
}

func BenchmarkState(b *testing.B) {
	vs := internet(internetSize)
	s := NewSet(Data{VRPs: vs}, "test")
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		v := &vs[i] // in random order: nothing is in the cache
		s.State(v.Prefix, v.ASN+uint32(i&1), true)
		if i++; i == len(vs) {
			i = 0
		}
	}
}

func BenchmarkNewSet(b *testing.B) {
	vs := internet(internetSize)
	for b.Loop() {
		NewSet(Data{VRPs: vs}, "test")
	}
}

// BenchmarkWith changes ten VRPs of 700,000.
func BenchmarkWith(b *testing.B) {
	vs := internet(internetSize)
	s := NewSet(Data{VRPs: vs}, "test")
	d := Delta{Announced: internet(internetSize + 10)[internetSize:], Withdrawn: vs[:10]}
	for b.Loop() {
		if _, err := s.With(d, "test"); err != nil {
			b.Fatal(err)
		}
	}
}
