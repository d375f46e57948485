package topology

import (
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"
)

// world is a made-up Internet: who is above whom is known, and routes go as RFC 7908 wants them to.
type world struct {
	asns      []uint32
	providers map[uint32][]uint32
	customers map[uint32][]uint32
	peers     map[uint32][]uint32
	clique    []uint32
}

func (w *world) serve(provider, customer uint32) {
	w.providers[customer] = append(w.providers[customer], provider)
	w.customers[provider] = append(w.customers[provider], customer)
}

func (w *world) peer(a, b uint32) {
	w.peers[a], w.peers[b] = append(w.peers[a], b), append(w.peers[b], a)
}

// newWorld makes some networks at the top, which all peer with each other, regional ones that buy
// from them and peer here and there, and many small ones that buy from either: as on the Internet,
// those at the top have the most customers.
func newWorld(r *rand.Rand, top, middle, small int) *world {
	w := &world{providers: map[uint32][]uint32{}, customers: map[uint32][]uint32{}, peers: map[uint32][]uint32{}}
	for i := range top + middle + small {
		asn := uint32(1000 + i)
		var above []uint32
		switch {
		case i < top:
			for _, other := range w.clique {
				w.peer(asn, other)
			}
			w.clique = append(w.clique, asn)
		case i < top+middle:
			above = w.clique
			if i > top && r.IntN(3) == 0 {
				w.peer(asn, uint32(1000+top+r.IntN(i-top)))
			}
		default:
			above = w.asns[top : top+middle]
			if r.IntN(2) == 0 {
				above = w.clique
			}
		}
		for n, k := range r.Perm(len(above)) {
			if n == 2 {
				break
			}
			w.serve(above[k], asn)
		}
		w.asns = append(w.asns, asn)
	}
	return w
}

// paths returns the path from every AS that has one to origin, collector side first. Routes of
// customers are preferred to those of peers, these to those of providers, then shorter ones, and then
// one or the other.
func (w *world) paths(r *rand.Rand, origin uint32) map[uint32][]uint32 {
	best := map[uint32][]uint32{origin: {origin}}
	spread := func(from []uint32, to map[uint32][]uint32, again bool) {
		for len(from) > 0 {
			r.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
			var next []uint32
			for _, a := range from {
				for _, b := range to[a] {
					if best[b] == nil {
						best[b] = append([]uint32{b}, best[a]...)
						next = append(next, b)
					}
				}
			}
			if from = next; !again {
				return
			}
		}
	}
	known := func() []uint32 {
		return slices.DeleteFunc(slices.Clone(w.asns), func(a uint32) bool { return best[a] == nil })
	}
	spread([]uint32{origin}, w.providers, true)
	spread(known(), w.peers, false)
	spread(known(), w.customers, true)
	return best
}

// seenFrom collects the paths to a few prefixes of every AS that some ASes would show a collector.
func (w *world) seenFrom(r *rand.Rand, feeds []uint32) [][]uint32 {
	var all [][]uint32
	for _, origin := range w.asns {
		for range 5 {
			best := w.paths(r, origin)
			for _, feed := range feeds {
				all = append(all, best[feed])
			}
		}
	}
	return all
}

func collect(paths [][]uint32) *Paths {
	p := NewPaths(nil)
	for _, path := range paths {
		p.Add(path)
	}
	return p
}

// TestInferKnownWorld infers a world whose truth is known, seen from many places and the top: it must
// be found again, with very few mistakes.
func TestInferKnownWorld(t *testing.T) {
	for seed := range uint64(2) {
		r := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(r, 8, 40, 400)
		inf := Infer(collect(w.seenFrom(r, w.asns[:120])), NewPaths(nil), "test")
		if !slices.Equal(inf.V4.Clique, w.clique) {
			t.Errorf("seed %d: clique %v, want %v", seed, inf.V4.Clique, w.clique)
		}
		transit, transitWrong, peerings, peeringsWrong := 0, 0, 0, 0
		for pair, l := range inf.Relationships.All() {
			a, b := pair[0], pair[1]
			switch {
			case slices.Contains(w.customers[a], b):
				transit++
				if l.Relation != Provider {
					transitWrong++
				}
			case slices.Contains(w.customers[b], a):
				transit++
				if l.Relation != Customer {
					transitWrong++
				}
			case slices.Contains(w.peers[a], b):
				peerings++
				if l.Relation != Peer {
					peeringsWrong++
				}
			default:
				t.Errorf("seed %d: a link of AS%d and AS%d, which does not exist", seed, a, b)
			}
		}
		t.Logf("seed %d: %d of %d transit links and %d of %d peerings are wrong", seed, transitWrong, transit, peeringsWrong, peerings)
		if transit < 700 || peerings < 28 || transitWrong*100 > transit || peeringsWrong*20 > peerings {
			t.Errorf("seed %d: more than 1 %% of transit or 5 %% of peerings", seed)
		}
	}
}

// TestFamiliesMayDiffer has AS20 sell to AS200 over IPv4 and exchange routes with it over IPv6.
func TestFamiliesMayDiffer(t *testing.T) {
	v4 := collect(append(slices.Clone(top), []uint32{30, 3, 2, 20, 200}, []uint32{30, 3, 2, 20, 210}))
	v6 := collect(append(slices.Clone(top), []uint32{20, 200, 201}, []uint32{200, 20, 2}, []uint32{20, 220}))
	r := Infer(v4, v6, "test").Relationships
	if l := r.Link(20, 200); l.Relation != Provider || l.V4 < 0.9 || l.V6 != 0 {
		t.Errorf("where the families differ: %+v", l)
	}
	if l := r.Link(20, 210); l.Relation != Provider || l.V4 < 0.9 || l.V6 != l.V4 {
		t.Errorf("of a link of IPv4 alone: %+v", l)
	}
	if l := r.Link(220, 20); l.Relation != Peer || l.V4 != l.V6 || l.V6 == 0 {
		t.Errorf("of a link of IPv6 alone: %+v", l)
	}
	if l := r.Link(1, 2); l.Relation != Peer || l.V4 < 0.9 || l.V6 < 0.9 {
		t.Errorf("where the families agree: %+v", l)
	}
}

// top are three networks that meet each other and carry traffic between the others, with paths that
// show no more than that.
var top = [][]uint32{
	{10, 1, 2, 20}, {20, 2, 1, 10}, {10, 1, 3, 30}, {30, 3, 1, 10}, {20, 2, 3, 30}, {30, 3, 2, 20},
	{11, 1, 2, 21}, {21, 2, 1, 11}, {11, 1, 3, 31}, {31, 3, 1, 11}, {21, 2, 3, 31}, {31, 3, 2, 21},
}

func TestInferSteps(t *testing.T) {
	for name, c := range map[string]struct {
		paths [][]uint32
		a, b  uint32
		want  Relation
	}{
		"the top meets as peers":                       {nil, 1, 2, Peer},
		"a peer of the provider gets the routes":       {nil, 2, 20, Provider},
		"a provider of the provider gets the routes":   {[][]uint32{{30, 3, 2, 20, 200}}, 20, 200, Provider},
		"two in a row below the top":                   {[][]uint32{{30, 3, 2, 20, 200, 201}}, 200, 201, Provider},
		"a stub beside the top is a customer":          {[][]uint32{{1, 99}}, 1, 99, Provider},
		"nobody above gets the routes of a peer":       {[][]uint32{{20, 200}, {20, 10}, {10, 20, 200}, {30, 3, 1, 10, 100}, {200, 20, 10, 100}, {100, 10, 20, 200}, {30, 3, 2, 20, 200}}, 10, 20, Peer},
		"a path with a loop says nothing":              {[][]uint32{{30, 3, 2, 40, 2, 41}}, 2, 40, None},
		"a path with a reserved ASN says nothing":      {[][]uint32{{30, 3, 2, 64512, 40}}, 3, 64512, None},
		"a path with an AS_SET says nothing":           {[][]uint32{{30, 3, 2, 40, 0}}, 2, 40, None},
		"prepends do not matter":                       {[][]uint32{{30, 30, 3, 2, 20, 20, 20, 200}}, 20, 200, Provider},
		"a stranger between two of the top is no link": {[][]uint32{{30, 3, 77, 2, 21}}, 77, 2, None},
	} {
		t.Run(name, func(t *testing.T) {
			inf := Infer(collect(append(slices.Clone(top), c.paths...)), NewPaths(nil), "test")
			if !slices.Equal(inf.V4.Clique, []uint32{1, 2, 3}) {
				t.Fatalf("clique %v", inf.V4.Clique)
			}
			if got := inf.Relationships.Of(c.a, c.b); got != c.want {
				t.Errorf("AS%d is %v of AS%d, want %v", c.a, got, c.b, c.want)
			}
		})
	}
}

func TestRouteServersAreCutOut(t *testing.T) {
	p := NewPaths([]uint32{500})
	p.Add([]uint32{10, 1, 500, 2, 20})
	inf := Infer(p, NewPaths(nil), "test")
	if inf.Relationships.Of(1, 2) == None || inf.Relationships.Of(1, 500) != None {
		t.Error("the clients of a route server are neighbours, and it is nobody's")
	}
}

// TestInferDoesNotDependOnOrder adds the same paths in many orders.
func TestInferDoesNotDependOnOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	w := newWorld(r, 6, 20, 100)
	paths := w.seenFrom(r, w.asns[30:60])
	for range 2000 { // and some that make no sense
		path := make([]uint32, 2+r.IntN(6))
		for i := range path {
			path[i] = w.asns[r.IntN(len(w.asns))]
		}
		paths = append(paths, path)
	}
	want := Infer(collect(paths), NewPaths(nil), "test")
	for range 5 {
		r.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
		got := Infer(collect(paths), NewPaths(nil), "test")
		if got.V4.Steps != want.V4.Steps || !slices.Equal(got.V4.Clique, want.V4.Clique) || got.Relationships.Len() != want.Relationships.Len() {
			t.Fatalf("%v, %v; before it was %v, %v", got.V4.Clique, got.V4.Steps, want.V4.Clique, want.V4.Steps)
		}
		for pair, l := range want.Relationships.All() {
			if other := got.Relationships.Link(pair[0], pair[1]); other != l {
				t.Fatalf("AS%d and AS%d: %+v; before it was %+v", pair[0], pair[1], other, l)
			}
		}
	}
}

// circle returns an AS that is its own provider, however indirectly; 0 where there is none.
func circle(r *Relationships) uint32 {
	const open, done = 1, 2
	state := map[uint32]int{}
	var visit func(asn uint32) bool
	visit = func(asn uint32) bool {
		switch state[asn] {
		case open:
			return true
		case done:
			return false
		}
		state[asn] = open
		for from, to := r.row(asn); from < to; from++ {
			if r.link(from).Relation == Provider && visit(r.neighbours[from]) {
				return true
			}
		}
		state[asn] = done
		return false
	}
	for _, asn := range r.asns {
		if visit(asn) {
			return asn
		}
	}
	return 0
}

// TestHostilePathsTakeBoundedTime gives shapes that would make some step expensive: everybody beside
// everybody, long chains, one network in the middle of all.
func TestHostilePathsTakeBoundedTime(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for name, path := range map[string]func(i int) []uint32{
		"noise among few": func(int) []uint32 {
			p := make([]uint32, 8)
			for j := range p {
				p[j] = 1 + r.Uint32N(300)
			}
			return p
		},
		"noise among many": func(int) []uint32 {
			p := make([]uint32, 12)
			for j := range p {
				p[j] = 1 + r.Uint32N(1<<22)
			}
			return p
		},
		"chains": func(i int) []uint32 {
			p := make([]uint32, maxHops)
			for j := range p {
				p[j] = uint32(1 + (i*maxHops/2+j)%60_000)
			}
			return p
		},
		"a star": func(int) []uint32 {
			return []uint32{2 + r.Uint32N(60_000), 1, 2 + r.Uint32N(60_000), 2 + r.Uint32N(60_000)}
		},
		"a hundred tops": func(int) []uint32 {
			return []uint32{200 + r.Uint32N(1000), 1 + r.Uint32N(100), 1 + r.Uint32N(100), 200 + r.Uint32N(1000)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := NewPaths(nil)
			for i := range 10_000 {
				p.Add(path(i))
			}
			start := time.Now()
			inf := Infer(p, NewPaths(nil), "test")
			t.Logf("%d nodes, %d links, clique of %d: %v", len(p.nodes), inf.Relationships.Len(), len(inf.V4.Clique), time.Since(start))
			if took := time.Since(start); took > 2*time.Minute {
				t.Errorf("took %v", took)
			}
			if asn := circle(inf.Relationships); asn != 0 {
				t.Errorf("AS%d is its own provider", asn)
			}
		})
	}
}

func TestPathsAreBounded(t *testing.T) {
	p := NewPaths(nil)
	long := make([]uint32, 100)
	for i := range long {
		long[i] = uint32(i + 1)
	}
	p.Add(long)
	p.Add(long[:1])
	p.Add(nil)
	if p.Long != 1 || p.Len() != 0 {
		t.Errorf("%d too long, %d paths kept", p.Long, p.Len())
	}
	if inf := Infer(p, NewPaths(nil), "test"); inf.Relationships.Len() != 0 || len(inf.V4.Clique) != 0 {
		t.Errorf("no paths give %d links, clique %v", inf.Relationships.Len(), inf.V4.Clique)
	}
}

// FuzzInfer makes paths of bytes, sixteen each; a 0 ends one early.
func FuzzInfer(f *testing.F) {
	f.Add([]byte("\x0a\x01\x02\x14\x00\x14\x02\x01\x0a\x00\x1e\x03\x01\x0a"))
	f.Fuzz(func(t *testing.T, in []byte) {
		p := NewPaths([]uint32{9})
		for _, part := range pathsOf(in) {
			path := make([]uint32, len(part))
			for i, b := range part {
				path[i] = uint32(b)
			}
			p.Add(path)
		}
		inf := Infer(p, NewPaths(nil), "fuzz")
		if asn := circle(inf.Relationships); asn != 0 {
			t.Errorf("AS%d is its own provider", asn)
		}
		for _, a := range inf.V4.Clique {
			for pair, l := range inf.Relationships.All() {
				if pair[0] == a && l.Relation == Customer || pair[1] == a && l.Relation == Provider {
					t.Errorf("AS%d of the clique has a provider: %v", a, pair)
				}
			}
		}
		total := 0
		for _, n := range inf.V4.Steps {
			total += n
		}
		if total != inf.Relationships.Len() || inf.V4.Steps[stepNone] != 0 {
			t.Errorf("%d links, decided by %v", inf.Relationships.Len(), inf.V4.Steps)
		}
	})
}

func pathsOf(in []byte) [][]byte {
	var parts [][]byte
	for part := range slices.Chunk(in, 16) {
		if i := slices.Index(part, 0); i >= 0 {
			part = part[:i]
		}
		parts = append(parts, part)
	}
	return parts
}

func BenchmarkInferJinx(b *testing.B) {
	needs(b, jinx, servers)
	rs := routeServers(b)
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			readPaths(b, rs, jinx)
		}
	})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	v4, v6 := readPaths(b, rs, jinx)
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.Run("infer", func(b *testing.B) {
		for b.Loop() {
			Infer(v4, v6, "inferred")
		}
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(len(v4.nodes)), "B/node")
	})
}
