package topology

import "slices"

const (
	cliqueSeed = 10 // the clique is sought among so many of the highest rank, and then added to
	maxClique  = 64
	// cliqueDownstream is how many neighbours behind x must be reached through two of the clique before
	// x counts as their customer: fewer may be a leak.
	cliqueDownstream = 5
)

// findClique returns the ranks of the networks at the top: the clique of greatest transit degree
// among the first ten, and then every next one that meets all of these and is not seen behind two
// of them, as their customer would be (section 4.3 of the paper).
func (g *graph) findClique(p *Paths) []uint32 {
	seed := make([]uint32, min(cliqueSeed, len(g.asns)))
	for i := range seed {
		seed[i] = uint32(i)
	}
	behind := g.downstream(p, seed)
	var best []uint32
	bestDegree := uint32(0)
	g.cliques(nil, seed, nil, func(x, y uint32) bool {
		_, linked := g.at(x, y)
		return linked && !behind.apart(seed, x, y) && !behind.apart(seed, y, x)
	}, func(clique []uint32) {
		degree := uint32(0)
		for _, as := range clique {
			degree += g.transit[as]
		}
		if degree > bestDegree {
			best, bestDegree = slices.Clone(clique), degree
		}
	})
	slices.Sort(best)

	// Only who meets all of the seed's clique can be added, and they are few.
	candidates := slices.Clone(best)
	for x := uint32(len(seed)); int(x) < len(g.asns) && len(candidates) < 4*maxClique; x++ {
		if int(g.first[x+1]-g.first[x]) < len(best) {
			continue
		}
		if !slices.ContainsFunc(best, func(y uint32) bool { _, linked := g.at(x, y); return !linked }) {
			candidates = append(candidates, x)
		}
	}
	behind = g.downstream(p, candidates)
	for _, x := range candidates[len(best):] {
		if len(best) == maxClique {
			break
		}
		if !slices.ContainsFunc(best, func(y uint32) bool {
			_, linked := g.at(x, y)
			return !linked || behind.customer(best, x, y)
		}) {
			best = append(best, x)
		}
	}
	return best
}

// cliques calls found for every maximal clique of the candidates that contains chosen (Bron and
// Kerbosch 1973). There are few candidates.
func (g *graph) cliques(chosen, candidates, done []uint32, linked func(x, y uint32) bool, found func([]uint32)) {
	if len(candidates) == 0 && len(done) == 0 {
		found(chosen)
		return
	}
	for len(candidates) > 0 {
		x := candidates[0]
		meets := func(all []uint32) []uint32 {
			var some []uint32
			for _, y := range all {
				if y != x && linked(x, y) {
					some = append(some, y)
				}
			}
			return some
		}
		g.cliques(append(slices.Clone(chosen), x), meets(candidates), meets(done), linked, found)
		candidates, done = candidates[1:], append(slices.Clone(done), x)
	}
}

// downstream counts the neighbours behind the first of three ASes, by from, via and to.
type downstream map[[3]uint32]int

// customer reports that y gives x's routes, and those of more than a few behind it, to another of the
// clique: who is of the clique itself would give them himself.
func (d downstream) customer(clique []uint32, x, y uint32) bool {
	return slices.ContainsFunc(clique, func(z uint32) bool {
		return z != x && z != y && d[[3]uint32{x, y, z}] > cliqueDownstream
	})
}

// apart reports that z gets x's routes, and those of more than a few behind it, from a third network,
// which so is a provider of x or of z: two of the clique would meet without one.
func (d downstream) apart(among []uint32, x, z uint32) bool {
	return slices.ContainsFunc(among, func(y uint32) bool {
		return y != x && y != z && d[[3]uint32{x, y, z}] > cliqueDownstream
	})
}

func (g *graph) downstream(p *Paths, among []uint32) downstream {
	rank := map[uint32]uint32{} // by index of p.asns
	for _, as := range among {
		rank[p.index[g.asns[as]]] = as
	}
	seen, d := map[[4]uint32]bool{}, downstream{}
	for i := 1; i < len(p.nodes); i++ {
		to := &p.nodes[i]
		z, ok := rank[to.as]
		if !ok || to.parent == 0 {
			continue
		}
		via := &p.nodes[to.parent]
		y, ok := rank[via.as]
		if !ok || via.parent == 0 {
			continue
		}
		first := &p.nodes[via.parent]
		x, ok := rank[first.as]
		if !ok || first.parent == 0 {
			continue
		}
		if key := [4]uint32{x, y, z, p.nodes[first.parent].as}; !seen[key] {
			seen[key] = true
			d[[3]uint32{x, y, z}]++
		}
	}
	return d
}
