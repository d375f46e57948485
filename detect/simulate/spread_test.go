package simulate

import (
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/routevigil/routevigil/detect/topology"
)

// small is a graph of hand-made links.
func small(links map[[2]uint32]topology.Relation) *graph {
	b := topology.NewBuilder(topology.Published, "by hand")
	for pair, rel := range links {
		b.Set(pair[0], pair[1], rel)
	}
	return newGraph(b.Build(), everyone)
}

func everyone(uint32, int) bool { return true }

func obedient(g *graph) *spreader {
	return newSpreader(g, 1, make([]bool, len(g.asns)), make([]bool, len(g.asns)), make([]bool, len(g.asns)))
}

// pictures is the Internet of these tests. 1 and 2 are peers on top; 3 and 4 buy of 1, 5 of 2, 6 of 4 and 5, 7 of 3. 3 and 4
// peer, and so do 5 and 8, which buys of 2.
//
//	  1 --- 2
//	 / \   / \
//	3 - 4 5 - 8
//	|    \|
//	7     6
func pictures() *graph {
	return small(map[[2]uint32]topology.Relation{
		{1, 2}: topology.Peer, {1, 3}: topology.Provider, {1, 4}: topology.Provider, {2, 5}: topology.Provider, {2, 8}: topology.Provider,
		{4, 6}: topology.Provider, {5, 6}: topology.Provider, {3, 7}: topology.Provider, {3, 4}: topology.Peer, {5, 8}: topology.Peer,
	})
}

func wantPaths(t *testing.T, s *spreader, want map[uint32][]uint32) {
	t.Helper()
	for n, asn := range s.g.asns {
		if got := s.path(nil, node(n)); !slices.Equal(got, want[asn]) {
			t.Errorf("AS%d has %v, not %v", asn, got, want[asn])
		}
	}
}

func TestSpreadByHand(t *testing.T) {
	g := pictures()
	s := obedient(g)
	s.spread(announcement{{at: g.index[7], path: []uint32{7}}})
	wantPaths(t, s, map[uint32][]uint32{7: {7}, 3: {3, 7}, 1: {1, 3, 7}, 2: {2, 1, 3, 7}, 4: {4, 3, 7}, 5: {5, 2, 1, 3, 7},
		8: {8, 2, 1, 3, 7}, 6: {6, 4, 3, 7}})
	// 8's route goes to its peer 5 directly; 4 and 3 have it of 1, since 2's peer 1 tells its customers.
	s.spread(announcement{{at: g.index[8], path: []uint32{8}}})
	wantPaths(t, s, map[uint32][]uint32{8: {8}, 2: {2, 8}, 5: {5, 8}, 6: {6, 5, 8}, 1: {1, 2, 8}, 3: {3, 1, 2, 8}, 4: {4, 1, 2, 8},
		7: {7, 3, 1, 2, 8}})
}

func TestSpreadToSomeNeighbours(t *testing.T) {
	g := pictures()
	s := obedient(g)
	s.spread(announcement{
		{at: g.index[6], to: []node{g.index[4]}, path: []uint32{6, 6, 6}},
		{at: g.index[6], to: []node{g.index[5]}, path: []uint32{6}},
	})
	wantPaths(t, s, map[uint32][]uint32{6: {6}, 4: {4, 6, 6, 6}, 5: {5, 6}, 2: {2, 5, 6}, 8: {8, 5, 6},
		// A customer's route counts more than a shorter one of a peer.
		1: {1, 4, 6, 6, 6}, 3: {3, 4, 6, 6, 6}, 7: {7, 3, 4, 6, 6, 6}})
}

// RFC 7908 §3.1: 6 has the route to 7 from its provider 4 and passes it on to its provider 5. 5 and, through it, 2 and 8
// prefer it, since it is a customer's; 1 does not, since 3 is its customer too and nearer.
func TestLeakOfType1(t *testing.T) {
	g := pictures()
	s := obedient(g)
	s.spread(announcement{{at: g.index[7], path: []uint32{7}}})
	s.spread(announcement{
		{at: g.index[7], path: []uint32{7}},
		{at: g.index[6], to: []node{g.index[5]}, path: s.path(nil, g.index[6])},
	})
	wantPaths(t, s, map[uint32][]uint32{7: {7}, 3: {3, 7}, 1: {1, 3, 7}, 4: {4, 3, 7}, 6: {6, 4, 3, 7},
		5: {5, 6, 4, 3, 7}, 2: {2, 5, 6, 4, 3, 7}, 8: {8, 5, 6, 4, 3, 7}})
}

// RFC 7908 §3.3: 5 tells its peer 8 what it has of its provider 2. 8 has it of 2 too, but a peer's route counts more.
// §3.4: 4 tells its provider 1 what it has of its peer 3; 1 has a shorter one of its customer 3.
// §3.2: 4 peers with 9, too, and tells it what it has of its peer 3.
func TestLeaksOfPeers(t *testing.T) {
	g := small(map[[2]uint32]topology.Relation{
		{1, 2}: topology.Peer, {1, 3}: topology.Provider, {1, 4}: topology.Provider, {2, 5}: topology.Provider, {2, 8}: topology.Provider,
		{3, 7}: topology.Provider, {3, 4}: topology.Peer, {5, 8}: topology.Peer, {4, 9}: topology.Peer, {9, 10}: topology.Provider,
		{2, 9}: topology.Provider,
	})
	s := obedient(g)
	seven := source{at: g.index[7], path: []uint32{7}}
	leak := func(by uint32, to uint32) {
		s.spread(announcement{seven})
		s.spread(announcement{seven, {at: g.index[by], to: []node{g.index[to]}, path: s.path(nil, g.index[by])}})
	}
	normal := map[uint32][]uint32{7: {7}, 3: {3, 7}, 1: {1, 3, 7}, 2: {2, 1, 3, 7}, 4: {4, 3, 7}, 5: {5, 2, 1, 3, 7},
		8: {8, 2, 1, 3, 7}, 9: {9, 2, 1, 3, 7}, 10: {10, 9, 2, 1, 3, 7}}
	with := func(changed map[uint32][]uint32) map[uint32][]uint32 {
		m := map[uint32][]uint32{}
		for asn, path := range normal {
			m[asn] = path
		}
		for asn, path := range changed {
			m[asn] = path
		}
		return m
	}
	s.spread(announcement{seven})
	wantPaths(t, s, normal)
	leak(5, 8)
	wantPaths(t, s, with(map[uint32][]uint32{8: {8, 5, 2, 1, 3, 7}}))
	leak(4, 1)
	wantPaths(t, s, normal)
	leak(4, 9)
	wantPaths(t, s, with(map[uint32][]uint32{9: {9, 4, 3, 7}, 10: {10, 9, 4, 3, 7}}))
}

func TestRefusals(t *testing.T) {
	g := pictures()
	s := obedient(g)
	hijack := announcement{{at: g.index[7], path: []uint32{7}}, {at: g.index[8], path: []uint32{8}, invalid: true}}
	s.spread(hijack)
	wantPaths(t, s, map[uint32][]uint32{7: {7}, 3: {3, 7}, 1: {1, 3, 7}, 4: {4, 3, 7}, 8: {8}, 2: {2, 8}, 5: {5, 8}, 6: {6, 5, 8}})
	s.rov[g.index[2]] = true // also protects nobody else: 5 has it of 8 itself
	s.spread(hijack)
	wantPaths(t, s, map[uint32][]uint32{7: {7}, 3: {3, 7}, 1: {1, 3, 7}, 4: {4, 3, 7}, 8: {8}, 2: {2, 1, 3, 7}, 5: {5, 8}, 6: {6, 5, 8}})

	// A forged path: whom it names does not take it (RFC 4271 §9.1.2).
	s.spread(announcement{{at: g.index[8], path: []uint32{8, 5, 7}}})
	if got := s.path(nil, g.index[5]); !slices.Equal(got, []uint32{5, 2, 8, 5, 7}) && got != nil {
		t.Errorf("AS5 takes %v", got)
	}
	s.rov[g.index[2]] = false
	s.spread(announcement{{at: g.index[8], path: []uint32{8, 5, 7}}})
	if got := s.path(nil, g.index[5]); got != nil {
		t.Errorf("AS5 takes a path that it is on: %v", got)
	}

	// What is leaked carries the OTC that 4's provider-side neighbour set: 5 follows RFC 9234 and refuses it of its customer.
	s.otc[g.index[5]] = true
	s.spread(announcement{{at: g.index[7], path: []uint32{7}},
		{at: g.index[6], to: []node{g.index[5]}, path: []uint32{6, 4, 3, 7}, otc: 3}})
	if got := s.path(nil, g.index[5]); !slices.Equal(got, []uint32{5, 2, 1, 3, 7}) {
		t.Errorf("AS5 takes %v", got)
	}
	// A failed link.
	s.otc[g.index[5]] = false
	s.fails(g.index[3], g.index[1], true)
	s.spread(announcement{{at: g.index[7], path: []uint32{7}}})
	wantPaths(t, s, map[uint32][]uint32{7: {7}, 3: {3, 7}, 4: {4, 3, 7}, 6: {6, 4, 3, 7}})
}

func TestOTC(t *testing.T) {
	g := pictures()
	s := obedient(g)
	s.spread(announcement{{at: g.index[7], path: []uint32{7}}})
	if got := s.otcOf(g.index[5]); got != 0 {
		t.Errorf("nobody knows OTC, and it is %d", got)
	}
	s.otc[g.index[2]] = true // has it of its peer 1, which did not mark it
	for asn, want := range map[uint32]uint32{7: 0, 3: 0, 1: 0, 2: 1, 5: 1, 8: 1, 4: 0} {
		if got := s.otcOf(g.index[asn]); got != want {
			t.Errorf("AS%d has OTC %d, not %d", asn, got, want)
		}
	}
}

func TestSecondPath(t *testing.T) {
	g := pictures()
	s := obedient(g)
	s.spread(announcement{{at: g.index[7], path: []uint32{7}}})
	for asn, want := range map[uint32][]uint32{4: {4, 1, 3, 7}, 6: {6, 5, 2, 1, 3, 7}, 1: nil, 5: nil, 3: nil, 7: nil} {
		if got, _ := s.second(g.index[asn]); !slices.Equal(got, want) {
			t.Errorf("AS%d would have %v, not %v", asn, got, want)
		}
	}
}

// internet is the real topology where it is at hand, and one of our own.
func internets(t testing.TB) map[string]*topology.Relationships {
	worlds := map[string]*topology.Relationships{"generated": Generate(7, 3000)}
	const real = "../../../shared/data/topology/as-rel.20180601.txt.gz"
	if _, err := os.Stat(real); err == nil {
		r, err := topology.ReadFile(real, real)
		if err != nil {
			t.Fatal(err)
		}
		worlds["real"] = r
	}
	return worlds
}

// better is the order of preference, said again and simply.
func better(how class, length int, than class, thanLength int) bool {
	return how > than || how == than && length < thanLength
}

// Every AS has the best of what its neighbours pass on: nobody would change anything, so BGP rests there. And every path
// goes up, over at most one peering, and down.
func TestRoutesAreStableAndValleyFree(t *testing.T) {
	for name, r := range internets(t) {
		t.Run(name, func(t *testing.T) {
			g := newGraph(r, func(_ uint32, customers int) bool { return customers > 0 || name == "generated" })
			s := obedient(g)
			rng := rand.New(rand.NewPCG(3, 4))
			for i := range s.rov {
				s.rov[i] = rng.IntN(4) == 0
			}
			for round := range 8 {
				a, b := node(rng.IntN(len(g.asns))), node(rng.IntN(len(g.asns)))
				said := announcement{{at: a, path: []uint32{g.asns[a]}}}
				if hijack := round%2 == 1; hijack && a != b {
					said = append(said, source{at: b, path: []uint32{g.asns[b]}, invalid: true})
				}
				s.spread(said)
				reached := 0
				for i := range g.asns {
					n := node(i)
					path := s.path(nil, n)
					if len(path) > 0 {
						reached++
						wantValleyFree(t, g, path)
					}
					if s.class[n] == own {
						continue
					}
					for how, neighbours := range map[class][]node{fromCustomer: g.customers[n], fromPeer: g.peers[n], fromProvider: g.providers[n]} {
						for _, m := range neighbours {
							told := s.class[m] == own || s.class[m] == fromCustomer || s.class[m] != noRoute && how == fromProvider
							offer := s.path(nil, m)
							if !told || slices.Contains(offer, g.asns[n]) || s.said[s.source[m]].invalid && s.rov[n] {
								continue
							}
							if better(how, len(offer), s.class[n], len(path)-1) {
								t.Fatalf("AS%d has %v, but AS%d offers %v", g.asns[n], path, g.asns[m], offer)
							}
						}
					}
				}
				if len(said) == 1 && reached < len(g.asns)*99/100 {
					t.Errorf("a route reaches %d of %d", reached, len(g.asns))
				}
			}
		})
	}
}

// wantValleyFree looks at a path from the collector's side: from the origin it climbs, crosses once, descends.
func wantValleyFree(t *testing.T, g *graph, path []uint32) {
	t.Helper()
	if _, _, _, valley := firstValley(g, path); valley {
		t.Fatalf("%v has a valley", path)
	}
}

// firstValley returns the first AS from the origin that passed on a provider's or peer's route to a provider or peer, with
// its neighbours on either side.
func firstValley(g *graph, path []uint32) (from, leaker, to uint32, ok bool) {
	path = slices.Compact(slices.Clone(path))
	for i := len(path) - 1; i >= 2; i-- {
		in := g.relation(g.index[path[i]], g.index[path[i-1]])
		out := g.relation(g.index[path[i-1]], g.index[path[i-2]])
		if in == topology.None || out == topology.None {
			return path[i], path[i-1], path[i-2], true
		}
		if in != topology.Customer && out != topology.Provider {
			return path[i], path[i-1], path[i-2], true
		}
	}
	return 0, 0, 0, false
}

// A leak bends paths at the leaker only; with the leak over, everything is as before.
func TestLeaksBendPathsAtTheLeakerOnly(t *testing.T) {
	g := newGraph(Generate(11, 3000), everyone)
	s := obedient(g)
	rng := rand.New(rand.NewPCG(5, 6))
	leaks, bent := 0, 0
	for leaks < 30 {
		origin, leaker := node(rng.IntN(len(g.asns))), node(rng.IntN(len(g.asns)))
		usual := announcement{{at: origin, path: []uint32{g.asns[origin]}}}
		s.spread(usual)
		before := slices.Clone(s.via)
		if s.class[leaker] != fromProvider && s.class[leaker] != fromPeer || len(g.providers[leaker]) < 2 {
			continue
		}
		leaks++
		leaked := s.path(nil, leaker)
		s.spread(append(usual, source{at: leaker, path: leaked}))
		for n := range g.asns {
			path := s.path(nil, node(n))
			from, by, to, valley := firstValley(g, path)
			if !valley {
				continue
			}
			bent++
			if at := slices.Index(path, by); by != g.asns[leaker] || !slices.Equal(path[at:], leaked) || from != leaked[1] || to != path[at-1] {
				t.Fatalf("AS%d leaks %v, and %v bends at AS%d", g.asns[leaker], leaked, path, by)
			}
			if i := slices.Index(path, by); i > 1 {
				if _, _, _, again := firstValley(g, path[:i+1]); again {
					t.Fatalf("%v bends again after AS%d", path, by)
				}
			}
		}
		s.spread(usual)
		if !slices.Equal(before, s.via) {
			t.Fatal("with the leak over, routes are others than before")
		}
	}
	if bent < 100 {
		t.Errorf("%d leaks bent %d paths", leaks, bent)
	}
}

func TestGeneratedInternet(t *testing.T) {
	a, b := Generate(5, 2000), Generate(5, 2000)
	if a.Len() != b.Len() || a.Len() < 2000 {
		t.Fatalf("%d and %d links", a.Len(), b.Len())
	}
	for pair, l := range a.All() {
		if b.Of(pair[0], pair[1]) != l.Relation {
			t.Fatalf("AS%d and AS%d differ", pair[0], pair[1])
		}
	}
	g := newGraph(a, everyone)
	// Kahn's algorithm over provider links takes every AS only if there is no cycle.
	waiting, ready, taken := make([]int, len(g.asns)), []node(nil), 0
	for n := range g.asns {
		if waiting[n] = len(g.providers[n]); waiting[n] == 0 {
			ready = append(ready, node(n))
		}
	}
	if len(ready) > 30 {
		t.Errorf("%d networks without a provider", len(ready))
	}
	for len(ready) > 0 {
		n := ready[0]
		ready, taken = ready[1:], taken+1
		for _, c := range g.customers[n] {
			if waiting[c]--; waiting[c] == 0 {
				ready = append(ready, c)
			}
		}
	}
	if taken != len(g.asns) {
		t.Errorf("%d of %d ASes are their own providers by some way", len(g.asns)-taken, len(g.asns))
	}
}

func BenchmarkSpread(b *testing.B) {
	for name, r := range internets(b) {
		b.Run(name, func(b *testing.B) {
			g := newGraph(r, func(_ uint32, customers int) bool { return customers > 0 })
			s := obedient(g)
			for i := range b.N {
				n := node(i * 7919 % len(g.asns))
				s.spread(announcement{{at: n, path: []uint32{g.asns[n]}}})
			}
		})
	}
}
