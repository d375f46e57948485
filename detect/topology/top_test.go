package topology

import (
	"slices"
	"testing"
)

func TestClique(t *testing.T) {
	b := NewBuilder(Published, "test")
	for i, x := range []uint32{1, 2, 3} {
		for _, y := range []uint32{1, 2, 3}[i+1:] {
			b.Set(x, y, Peer)
		}
		for n := range 3 + uint32(i) {
			b.Set(x, 100*x+n, Provider)
		}
	}
	b.Set(4, 1, Peer) // sells, buys from nobody, and does not meet all
	b.Set(4, 2, Peer)
	b.Set(4, 400, Provider)
	b.Set(5, 1, Peer) // meets all, and buys
	b.Set(5, 2, Peer)
	b.Set(5, 3, Customer)
	b.Set(5, 500, Provider)
	b.Set(6, 1, Peer) // meets all, and sells nothing
	b.Set(6, 2, Peer)
	b.Set(6, 3, Peer)
	if got := b.Build().Clique(); !slices.Equal(got, []uint32{1, 2, 3}) {
		t.Errorf("%v", got)
	}
	if got := (*Relationships)(nil).Clique(); got != nil {
		t.Errorf("of nothing: %v", got)
	}
}

// Of 2018's networks at the top that everybody agrees on, all that the file has as peers of one another must be there, and
// nobody known to buy transit.
func TestCliqueOf2018(t *testing.T) {
	needs(t, published)
	r, err := ReadFile(published, published)
	if err != nil {
		t.Fatal(err)
	}
	got := r.Clique()
	t.Log(got)
	for _, asn := range []uint32{174, 701, 1299, 2914, 3257, 3320, 3356, 6461, 6762, 7018, 12956} {
		if !slices.Contains(got, asn) {
			t.Errorf("AS%d is missing", asn)
		}
	}
	for _, asn := range []uint32{6939, 3216, 9002, 15169, 13335, 4134, 9498} { // large, and none of them
		if slices.Contains(got, asn) {
			t.Errorf("AS%d is there", asn)
		}
	}
}
