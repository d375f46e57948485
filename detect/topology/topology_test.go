package topology

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

const serial1 = `# inferred clique: 174 3356
# IXP ASes: 1200
3356|36561|-1
174|3356|0
16509|14618|1
`

func TestRead(t *testing.T) {
	r, err := Read(strings.NewReader(serial1+"65550|3356|-1|bgp\n"), "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		a, b uint32
		want Relation
	}{
		{"provider", 3356, 36561, Provider},
		{"customer, asked the other way round", 36561, 3356, Customer},
		{"peer", 174, 3356, Peer},
		{"peer, asked the other way round", 3356, 174, Peer},
		{"sibling", 14618, 16509, Sibling},
		{"higher ASN as provider", 65550, 3356, Provider},
		{"lower ASN as customer", 3356, 65550, Customer},
		{"strangers", 174, 36561, None},
		{"itself", 174, 174, None},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := r.Of(c.a, c.b); got != c.want {
				t.Errorf("AS%d is %v of AS%d, want %v", c.a, got, c.b, c.want)
			}
		})
	}
	if r.Len() != 4 {
		t.Errorf("%d links, want 4", r.Len())
	}
	r, err = Read(strings.NewReader(serial1+"65550|3356|-1|bgp\n3356|36561|0\n36561|174|-1\n"), "test") // a later line corrects an earlier one
	if err != nil {
		t.Fatal(err)
	}
	if r.Of(3356, 36561) != Peer {
		t.Errorf("AS3356 is %v of AS36561 after the correction", r.Of(3356, 36561))
	}
	for asn, want := range map[uint32]int{3356: 0, 65550: 1, 36561: 1, 174: 0, 1: 0} {
		if got := r.Customers(asn); got != want {
			t.Errorf("AS%d has %d customers, want %d", asn, got, want)
		}
	}
	var none *Relationships
	if none.Customers(1) != 0 || none.Of(1, 2) != None || none.Len() != 0 || none.Source(Published) != "" || none.Cone(1)[0] != 1 {
		t.Error("no set must know nothing")
	}
}

func TestReadRejects(t *testing.T) {
	for name, c := range map[string]struct{ in, line string }{
		"too few fields":   {"1|2|0\n1|2\n", "line 2"},
		"not a number":     {"AS1|2|0\n", "line 1"},
		"number too large": {"1|4294967296|0\n", "line 1"},
		"with itself":      {"1|2|0\n1|1|-1\n", "line 2"},
		"unknown relation": {"# c\n\n1|2|2\n", "line 3"},
		"endless line":     {strings.Repeat("1", 1<<17), "line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read(strings.NewReader(c.in), "file.txt")
			if err == nil || !strings.Contains(err.Error(), "file.txt "+c.line) {
				t.Errorf("error %v does not name file.txt %s", err, c.line)
			}
		})
	}
}

func TestReadFileTellsGzipByContent(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write([]byte(serial1))
	w.Close()
	for name, data := range map[string][]byte{"plain.gz": []byte(serial1), "packed.txt": z.Bytes()} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := ReadFile(path, path)
		if err != nil {
			t.Fatal(err)
		}
		if r.Of(3356, 36561) != Provider || r.Source(Published) != path {
			t.Errorf("%s: AS3356 is %v of AS36561", name, r.Of(3356, 36561))
		}
	}
	if _, err := ReadFile(filepath.Join(t.TempDir(), "missing"), "missing"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestReadOrganisations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "as-org")
	data := `# format:org_id|changed|org_name|country|source
ORG-A|20260101|A|NL|RIPE
# format:aut|changed|aut_name|org_id|opaque_id|source
16509|20260101|X|ORG-A|o|ARIN
14618|20260101|Y|ORG-A|o|ARIN
15169|20260101|Z|ORG-B|o|ARIN
`
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := ReadOrganisations(path, path)
	if err != nil {
		t.Fatal(err)
	}
	if org, same := o.Same(16509, 14618); !same || org != "ORG-A" {
		t.Errorf("AS16509 and AS14618: %q, %v", org, same)
	}
	for _, pair := range [][2]uint32{{16509, 15169}, {16509, 1}, {1, 2}, {1, 1}} {
		if org, same := o.Same(pair[0], pair[1]); same {
			t.Errorf("AS%d and AS%d both belong to %q", pair[0], pair[1], org)
		}
	}
	if _, same := (*Organisations)(nil).Same(1, 1); same {
		t.Error("no set must know nothing")
	}
	other := NewOrganisations("other")
	other.Set(15169, "ORG-C")
	other.Set(36040, "ORG-C")
	for _, both := range []*Organisations{o.Or(other), other.Or(o), o.Or(nil).Or(other)} {
		org, same := both.Same(16509, 14618)
		org2, same2 := both.Same(36040, 15169)
		if !same || !same2 || org != "ORG-A" || org2 != "ORG-C" {
			t.Errorf("%s: %q, %q", both.Source(), org, org2)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(serial1)
	f.Add("1|2|-1|bgp\r\n")
	f.Fuzz(func(t *testing.T, in string) {
		r, err := Read(strings.NewReader(in), "fuzz")
		if err != nil {
			return
		}
		n := 0
		for pair, l := range r.All() {
			a, b := pair[0], pair[1]
			if n++; a >= b || r.Of(a, b) != l.Relation || r.Of(b, a) != l.Relation.Reverse() {
				t.Errorf("AS%d–AS%d: %v and %v", a, b, r.Of(a, b), r.Of(b, a))
			}
		}
		if n != r.Len() {
			t.Errorf("%d links, %d of them listed", r.Len(), n)
		}
	})
}

// TestBuilderIsAMap compares a set with a plain map that was told the same, links corrected and both
// orders of ASNs included.
func TestBuilderIsAMap(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		b, want := NewBuilder(Published, "test"), map[[2]uint32]Relation{}
		for range r.IntN(400) {
			x, y := r.Uint32N(30), r.Uint32N(30)
			if x == y {
				continue
			}
			rel := Relation(1 + r.IntN(4))
			b.Set(x, y, rel)
			want[[2]uint32{x, y}], want[[2]uint32{y, x}] = rel, rel.Reverse()
		}
		set := b.Build()
		if set.Len() != len(want)/2 {
			t.Fatalf("seed %d: %d links, want %d", seed, set.Len(), len(want)/2)
		}
		for x := range uint32(31) {
			customers := 0
			for y := range uint32(31) {
				if got := set.Of(x, y); got != want[[2]uint32{x, y}] {
					t.Errorf("seed %d: AS%d is %v of AS%d, want %v", seed, x, got, y, want[[2]uint32{x, y}])
				}
				if want[[2]uint32{x, y}] == Provider {
					customers++
				}
			}
			if got := set.Customers(x); got != customers {
				t.Errorf("seed %d: AS%d has %d customers, want %d", seed, x, got, customers)
			}
		}
	}
}

func TestOverlay(t *testing.T) {
	under, over := NewBuilder(Published, "file"), NewBuilder(Declared, "configuration")
	under.Set(1, 2, Provider)
	under.Set(2, 3, Peer)
	over.Set(2, 1, Peer)
	over.Set(4, 5, Sibling)
	r := Overlay(under.Build(), over.Build())
	for pair, want := range map[[2]uint32]Link{{1, 2}: {Peer, Declared, 1, 1}, {3, 2}: {Peer, Published, 1, 1}, {5, 4}: {Sibling, Declared, 1, 1}, {1, 3}: {}} {
		if got := r.Link(pair[0], pair[1]); got != want {
			t.Errorf("AS%d and AS%d: %+v, want %+v", pair[0], pair[1], got, want)
		}
	}
	if r.Source(Published) != "file" || r.Source(Declared) != "configuration" || r.Len() != 3 {
		t.Errorf("%d links of %q and %q", r.Len(), r.Source(Published), r.Source(Declared))
	}
	if Overlay(nil, r) != r || Overlay(r, nil) != r {
		t.Error("nothing over or under a set must leave it")
	}
}

func TestBetween(t *testing.T) {
	b := NewBuilder(Published, "test")
	b.Set(1, 2, Provider)
	b.Set(3, 2, Peer)
	b.Set(1, 4, Provider)
	b.Set(5, 4, Provider)
	b.Set(5, 6, Provider)
	b.Set(1, 3, Peer)
	r := b.Build()
	for _, c := range []struct {
		a, b, via uint32
		ok        bool
	}{{1, 5, 4, true}, {5, 1, 4, true}, {2, 4, 1, true}, {1, 2, 3, true}, {3, 6, 0, false}, {2, 99, 0, false}, {98, 99, 0, false}} {
		if via, ok := r.Between(c.a, c.b); via != c.via || ok != c.ok {
			t.Errorf("between %d and %d: %d, %t", c.a, c.b, via, ok)
		}
	}
	if _, ok := (*Relationships)(nil).Between(1, 2); ok {
		t.Error("something between two of no relationships")
	}
}

func TestCone(t *testing.T) {
	r, err := Read(strings.NewReader("1|2|-1\n1|3|-1\n2|4|-1\n3|4|-1\n4|5|0\n4|1|-1\n"), "a circle of providers") // a bad file may hold one
	if err != nil {
		t.Fatal(err)
	}
	for asn, want := range map[uint32][]uint32{2: {1, 2, 3, 4}, 5: {5}, 9: {9}} {
		if got := r.Cone(asn); !slices.Equal(got, want) {
			t.Errorf("AS%d has the cone %v, want %v", asn, got, want)
		}
	}
}

// internet makes as many links as were published in 2018, by preferential attachment: many ASes with
// few neighbours and few with many.
func internet() *Relationships {
	r, b := rand.New(rand.NewPCG(1, 1)), NewBuilder(Published, "test")
	ends := []uint32{1, 2}
	for asn := uint32(3); asn < 60_000; asn++ {
		for range 1 + r.IntN(9) {
			if p := ends[r.IntN(len(ends))]; p != asn {
				b.Set(p, asn, Provider)
				ends = append(ends, p, asn)
			}
		}
	}
	return b.Build()
}

func TestLookupsDoNotAllocate(t *testing.T) {
	rels := internet()
	if n := testing.AllocsPerRun(100, func() { rels.Of(3, 59_999); rels.Link(17, 4); rels.Customers(1) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkOf(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	rels := internet()
	runtime.GC()
	runtime.ReadMemStats(&after)
	var pairs [][2]uint32
	for pair := range rels.All() {
		pairs = append(pairs, pair)
	}
	r := rand.New(rand.NewPCG(2, 2))
	r.Shuffle(len(pairs), func(i, j int) { pairs[i], pairs[j] = pairs[j], pairs[i] })
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p := pairs[i%len(pairs)]
		if rels.Of(p[1], p[0]) == None {
			b.Fatal("a link is lost")
		}
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(rels.Len()), "B/link")
}

func FuzzReadOrganisations(f *testing.F) {
	f.Add("# format:aut|changed|aut_name|org_id|opaque_id|source\n16509|20260101|X|ORG-A|o|ARIN\n")
	f.Add("# format:aut|org_id\n1|2\n# format:org_id|x\n")
	f.Fuzz(func(t *testing.T, in string) {
		r := organisationsReader{to: NewOrganisations("fuzz"), column: -1}
		if scanLines(strings.NewReader(in), "fuzz", r.readLine) != nil {
			return
		}
		for asn, org := range r.to.of {
			if got, same := r.to.Same(asn, asn); !same || got != org {
				t.Errorf("AS%d belongs to %q, not to %q", asn, org, got)
			}
		}
	})
}
