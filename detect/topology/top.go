package topology

import (
	"cmp"
	"slices"
)

// topSize is how many networks the clique is sought among: it has had fewer than 25 in all the years of AS-Rank.
const topSize = 100

// Clique returns the networks at the top, sorted: those that are known to buy transit from nobody and are peers of one
// another. They are taken in order of how many customers they have, each if it is a peer of all taken before. (Inference
// finds its own clique from paths, before there is a relation; this one is what relations of any basis come to.)
func (r *Relationships) Clique() []uint32 {
	if r == nil {
		return nil
	}
	type candidate struct {
		asn       uint32
		customers int
	}
	var candidates []candidate
	for i, asn := range r.asns {
		customers, providers := 0, 0
		for j := r.first[i]; j < r.first[i+1]; j++ {
			switch r.link(j).Relation {
			case Provider:
				customers++
			case Customer:
				providers++
			}
		}
		if providers == 0 && customers > 0 {
			candidates = append(candidates, candidate{asn, customers})
		}
	}
	slices.SortFunc(candidates, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.customers, a.customers), cmp.Compare(a.asn, b.asn))
	})
	var clique []uint32
	for _, c := range candidates[:min(len(candidates), topSize)] {
		if !slices.ContainsFunc(clique, func(other uint32) bool { return r.Of(c.asn, other) != Peer }) {
			clique = append(clique, c.asn)
		}
	}
	slices.Sort(clique)
	return clique
}
