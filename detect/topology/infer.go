package topology

import (
	"cmp"
	"container/heap"
	"slices"
)

// Inference is what paths tell of relationships.
type Inference struct {
	Relationships *Relationships
	V4, V6        Account
}

// Account says how the inference from the paths of one address family went.
type Account struct {
	Clique   []uint32      // the networks at the top, which buy transit from nobody; sorted
	Poisoned int           // paths left out because a stranger stands between two of the clique
	Steps    [stepLast]int // links by the step that decided them
}

// step says which part of the inference decided a link. Their order is that of the paper.
type step uint8

const (
	stepNone         step = iota
	stepClique            // both are at the top: peers
	stepTopDown           // the provider passed the customer's routes on to a provider or peer of its own
	stepPartialFeed       // a stub behind a collector's peer that sends only its customers' and peers' routes
	stepSmaller           // as stepTopDown, of a provider that is smaller than its customer
	stepProviderless      // beside a network for which no provider was found
	stepStub              // a stub beside the clique: customers rather than peers
	stepFolded            // two links of a path that would both be between peers
	stepRest              // nothing says that either serves the other: peers
	stepLast
)

// Infer works out relationships after AS-Rank (Luckie et al., "AS Relationships, Customer Cones, and
// Validation", IMC 2013): networks are ranked by how many neighbours they are seen to carry traffic
// between, those at the top that all meet one another are the clique, and from there down a network
// is a provider of those whose routes it passes on upwards. What nothing is known of is peering.
//
// Each address family is worked out from its own paths, as some networks sell in one what they
// exchange in the other. A link of both has the relation of which one is surer, and where the other
// disagrees, no confidence for that. A link of one family alone counts for both.
//
// The result depends on the sets of paths only, not on their order. No link makes somebody their own
// provider, however indirectly, within a family. The work is bounded by the number of nodes: what
// hostile paths would make more expensive is left as peering. It only reads v4 and v6.
func Infer(v4, v6 *Paths, source string) Inference {
	var inf Inference
	g4, g6 := decide(v4, &inf.V4), decide(v6, &inf.V6)
	one, other := g4.guesses(), g6.guesses()
	b := NewBuilder(Inferred, source)
	for pair, l := range one {
		m, both := other[pair]
		switch {
		case !both:
			b.Add(pair[0], pair[1], Link{l.relation, Inferred, l.confidence, l.confidence})
		case l.relation == m.relation:
			b.Add(pair[0], pair[1], Link{l.relation, Inferred, l.confidence, m.confidence})
		case l.confidence >= m.confidence:
			b.Add(pair[0], pair[1], Link{l.relation, Inferred, l.confidence, 0})
		default:
			b.Add(pair[0], pair[1], Link{m.relation, Inferred, 0, m.confidence})
		}
	}
	for pair, m := range other {
		if _, both := one[pair]; !both {
			b.Add(pair[0], pair[1], Link{m.relation, Inferred, m.confidence, m.confidence})
		}
	}
	inf.Relationships = b.Build()
	return inf
}

// decide infers the relationships of one family.
func decide(p *Paths, account *Account) *graph {
	g := newGraph(p, nil)
	clique := make([]bool, len(p.asns))
	for _, as := range g.findClique(p) {
		clique[p.index[g.asns[as]]] = true
		account.Clique = append(account.Clique, g.asns[as])
	}
	slices.Sort(account.Clique)
	g = newGraph(p, clique)
	account.Poisoned = g.poisoned
	g.infer()
	for x := range g.asns {
		for i := g.first[x]; i < g.first[x+1]; i++ {
			if uint32(x) < g.neighbours[i] {
				account.Steps[g.steps[i]]++
			}
		}
	}
	return g
}

type guess struct {
	relation   Relation
	confidence float64
}

// guesses returns what was decided of each link, the lower ASN first.
func (g *graph) guesses() map[[2]uint32]guess {
	all := make(map[[2]uint32]guess, len(g.neighbours)/2)
	for x, a := range g.asns {
		for i := g.first[x]; i < g.first[x+1]; i++ {
			if b := g.asns[g.neighbours[i]]; a < b {
				all[[2]uint32{a, b}] = guess{g.relations[i], g.confidence(uint32(x), i)}
			}
		}
	}
	return all
}

// graph is the links of a set of paths. An AS is named by its rank, 0 the highest; the clique has
// the highest ranks.
type graph struct {
	asns     []uint32 // by rank
	transit  []uint32 // by rank, the transit degree: neighbours it is seen to carry traffic from or to, for another
	clique   uint32   // ranks below are the clique
	poisoned int

	first      []uint32 // by rank, where its neighbours begin; one more at the end
	neighbours []uint32 // sorted
	relations  []Relation
	steps      []step

	triplets []triplet // sorted by from, via, to
	byVia    []uint32  // of triplets, sorted by via, to, from
	partial  [][3]uint32

	providers [][]uint32 // by rank
	visited   []uint32   // by rank, the search that came by last
	search    uint32
	work      int // what searches for circles may still cost
}

// triplet says that via passed from's routes on to to.
type triplet struct {
	from, via, to uint32
	paths         uint32 // how many do so
	origin        uint32 // in how many of these from is the origin
}

// newGraph makes the graph of p. clique, by index of p.asns, may be nil.
func newGraph(p *Paths, clique []bool) *graph {
	g := &graph{}
	ends := g.countEnds(p, clique)
	var links []uint64
	for i := 1; i < len(p.nodes); i++ {
		n := &p.nodes[i]
		if ends[i] == 0 || n.parent == 0 {
			continue
		}
		via := &p.nodes[n.parent]
		links = append(links, uint64(min(n.as, via.as))<<32|uint64(max(n.as, via.as)))
		if via.parent == 0 {
			continue
		}
		t := triplet{from: p.nodes[via.parent].as, via: via.as, to: n.as, paths: ends[i]}
		if p.nodes[via.parent].parent == 0 {
			t.origin = ends[i]
		}
		g.triplets = append(g.triplets, t)
	}
	slices.Sort(links)
	links = slices.Compact(links)
	g.mergeTriplets()
	rank := g.rank(p, clique, links)

	for i := range links {
		a, b := rank[links[i]>>32], rank[uint32(links[i])]
		links[i] = uint64(a)<<32 | uint64(b)
	}
	g.link(links)
	for i := range g.triplets {
		t := &g.triplets[i]
		t.from, t.via, t.to = rank[t.from], rank[t.via], rank[t.to]
	}
	slices.SortFunc(g.triplets, compareTriplets)
	g.byVia = make([]uint32, len(g.triplets))
	for i := range g.byVia {
		g.byVia[i] = uint32(i)
	}
	slices.SortFunc(g.byVia, func(i, j uint32) int {
		a, b := &g.triplets[i], &g.triplets[j]
		return cmp.Or(cmp.Compare(a.via, b.via), cmp.Compare(a.to, b.to), cmp.Compare(a.from, b.from))
	})
	g.findPartial(p, ends, rank)
	return g
}

// countEnds returns for each node how many good paths go through it.
func (g *graph) countEnds(p *Paths, clique []bool) []uint32 {
	ends := make([]uint32, len(p.nodes))
	const seen, poisoned = 1, 2
	state := make([]uint8, len(p.nodes))
	for i := 1; i < len(p.nodes); i++ {
		n := &p.nodes[i]
		state[i] = state[n.parent]
		if clique != nil && clique[n.as] {
			if state[i]&seen != 0 && !clique[p.nodes[n.parent].as] {
				state[i] |= poisoned
			}
			state[i] |= seen
		}
		if n.ends {
			if state[i]&poisoned != 0 {
				g.poisoned++
			} else {
				ends[i] = 1
			}
		}
	}
	for i := len(p.nodes) - 1; i > 0; i-- { // a parent stands before its children
		ends[p.nodes[i].parent] += ends[i]
	}
	return ends
}

func compareTriplets(a, b triplet) int {
	return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.via, b.via), cmp.Compare(a.to, b.to))
}

func (g *graph) mergeTriplets() {
	slices.SortFunc(g.triplets, compareTriplets)
	merged := g.triplets[:0]
	for _, t := range g.triplets {
		if n := len(merged); n > 0 && compareTriplets(merged[n-1], t) == 0 {
			merged[n-1].paths += t.paths
			merged[n-1].origin += t.origin
			continue
		}
		merged = append(merged, t)
	}
	g.triplets = merged
}

// rank orders the ASes: the clique first, then by transit degree, degree and ASN. It returns their
// ranks by index of p.asns.
func (g *graph) rank(p *Paths, clique []bool, links []uint64) []uint32 {
	degree, transit := make([]uint32, len(p.asns)), make([]uint32, len(p.asns))
	for _, l := range links {
		degree[l>>32]++
		degree[uint32(l)]++
	}
	var carried []uint64
	for _, t := range g.triplets {
		carried = append(carried, uint64(t.via)<<32|uint64(t.from), uint64(t.via)<<32|uint64(t.to))
	}
	slices.Sort(carried)
	for _, c := range slices.Compact(carried) {
		transit[c>>32]++
	}
	order := make([]uint32, 0, len(p.asns))
	for as := range p.asns {
		if degree[as] > 0 {
			order = append(order, uint32(as))
		}
		if clique != nil && clique[as] && degree[as] > 0 {
			g.clique++
		}
	}
	slices.SortFunc(order, func(a, b uint32) int {
		if clique != nil && clique[a] != clique[b] {
			if clique[a] {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(transit[b], transit[a]), cmp.Compare(degree[b], degree[a]), cmp.Compare(p.asns[a], p.asns[b]))
	})
	rank := make([]uint32, len(p.asns))
	g.asns, g.transit = make([]uint32, len(order)), make([]uint32, len(order))
	for r, as := range order {
		rank[as], g.asns[r], g.transit[r] = uint32(r), p.asns[as], transit[as]
	}
	return rank
}

// link lays out the neighbours.
func (g *graph) link(links []uint64) {
	both := make([]uint64, 0, 2*len(links))
	for _, l := range links {
		both = append(both, l, l<<32|l>>32)
	}
	slices.Sort(both)
	g.first = make([]uint32, len(g.asns)+1)
	g.neighbours = make([]uint32, len(both))
	for i, l := range both {
		g.first[l>>32+1]++
		g.neighbours[i] = uint32(l)
	}
	for i := range g.asns {
		g.first[i+1] += g.first[i]
	}
	g.relations, g.steps = make([]Relation, len(both)), make([]step, len(both))
	g.providers, g.visited = make([][]uint32, len(g.asns)), make([]uint32, len(g.asns))
}

// findPartial notes the paths of three ASes from collector's peers that reach less than a fiftieth
// of the networks: such a peer sends what it has from customers and peers, not from providers.
func (g *graph) findPartial(p *Paths, ends, rank []uint32) {
	origins := make([]uint32, len(p.nodes)) // by node
	var reach []uint64
	for i := 1; i < len(p.nodes); i++ {
		n := &p.nodes[i]
		origins[i] = origins[n.parent]
		if n.parent == 0 {
			origins[i] = n.as
		}
		if n.ends && ends[i] > 0 {
			reach = append(reach, uint64(n.as)<<32|uint64(origins[i]))
		}
	}
	slices.Sort(reach)
	counts := make([]int, len(p.asns))
	for _, r := range slices.Compact(reach) {
		counts[r>>32]++
	}
	for i := 1; i < len(p.nodes); i++ {
		n := &p.nodes[i]
		if !n.ends || ends[i] == 0 || n.parent == 0 || counts[n.as]*50 > len(g.asns) {
			continue
		}
		if via := &p.nodes[n.parent]; via.parent != 0 && p.nodes[via.parent].parent == 0 {
			g.partial = append(g.partial, [3]uint32{rank[n.as], rank[via.as], rank[p.nodes[via.parent].as]})
		}
	}
	slices.SortFunc(g.partial, func(a, b [3]uint32) int { return slices.Compare(a[:], b[:]) })
}

// at returns where the relation of x to y stands; ok is false where they are no neighbours.
func (g *graph) at(x, y uint32) (i uint32, ok bool) {
	row := g.neighbours[g.first[x]:g.first[x+1]]
	k, ok := slices.BinarySearch(row, y)
	return g.first[x] + uint32(k), ok
}

func (g *graph) relation(x, y uint32) Relation {
	i, ok := g.at(x, y)
	if !ok {
		return None
	}
	return g.relations[i]
}

// open reports that x and y are neighbours about which nothing has been decided.
func (g *graph) open(x, y uint32) bool {
	i, ok := g.at(x, y)
	return ok && g.relations[i] == None
}

func (g *graph) set(x, y uint32, rel Relation, s step) {
	i, _ := g.at(x, y)
	j, _ := g.at(y, x)
	g.relations[i], g.relations[j] = rel, rel.Reverse()
	g.steps[i], g.steps[j] = s, s
	if rel == Provider {
		g.providers[y] = append(g.providers[y], x)
	}
}

// serve makes x a provider of y, where they are open and that makes no circle.
func (g *graph) serve(x, y uint32, s step) bool {
	if y < g.clique || !g.open(x, y) || g.above(y, x) {
		return false
	}
	g.set(x, y, Provider, s)
	return true
}

// above reports that x is among the providers of y, their providers and so on, or that it would cost
// too much to tell.
func (g *graph) above(x, y uint32) bool {
	g.search++
	stack := []uint32{y}
	g.visited[y] = g.search
	for len(stack) > 0 {
		y := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if g.work -= 1 + len(g.providers[y]); g.work < 0 {
			return true
		}
		for _, p := range g.providers[y] {
			if p == x {
				return true
			}
			if g.visited[p] != g.search {
				g.visited[p] = g.search
				stack = append(stack, p)
			}
		}
	}
	return false
}

// passes returns the triplet (from, via, to), all zero where there is none.
func (g *graph) passes(from, via, to uint32) triplet {
	i, ok := slices.BinarySearchFunc(g.triplets, triplet{from: from, via: via, to: to}, compareTriplets)
	if !ok {
		return triplet{}
	}
	return g.triplets[i]
}

// between counts the paths on which x and z stand on either side of y, in whatever order.
func (g *graph) between(x, y, z uint32) uint32 {
	return g.passes(x, y, z).paths + g.passes(z, y, x).paths
}

// passedOn returns what via did with from's routes.
func (g *graph) passedOn(from, via uint32) []triplet {
	i, _ := slices.BinarySearchFunc(g.triplets, triplet{from: from, via: via}, compareTriplets)
	j := i
	for j < len(g.triplets) && g.triplets[j].from == from && g.triplets[j].via == via {
		j++
	}
	return g.triplets[i:j]
}

// given returns the triplets of what via gave to to.
func (g *graph) given(via, to uint32) []uint32 {
	i, _ := slices.BinarySearchFunc(g.byVia, triplet{via: via, to: to}, func(i uint32, want triplet) int {
		t := &g.triplets[i]
		return cmp.Or(cmp.Compare(t.via, want.via), cmp.Compare(t.to, want.to))
	})
	j := i
	for j < len(g.byVia) && g.triplets[g.byVia[j]].via == via && g.triplets[g.byVia[j]].to == to {
		j++
	}
	return g.byVia[i:j]
}

// infer decides every link. The steps are those of the paper's section 4, in their order.
func (g *graph) infer() {
	g.work = 64*(len(g.neighbours)+len(g.triplets)) + 1<<20
	for x := range g.clique {
		for y := range x {
			if g.open(x, y) {
				g.set(x, y, Peer, stepClique)
			}
		}
	}
	for x := g.clique; int(x) < len(g.asns); x++ {
		g.findProviders(x)
	}
	for _, p := range g.partial {
		if provider, stub := p[1], p[2]; g.transit[stub] == 0 {
			g.serve(provider, stub, stepPartialFeed)
		}
	}
	g.findSmallerProviders()
	for x := g.clique; int(x) < len(g.asns); x++ {
		if len(g.providers[x]) == 0 && g.transit[x] >= 10 {
			g.serveWithoutProvider(x)
		}
	}
	for x := range g.clique {
		for i := g.first[x]; i < g.first[x+1]; i++ {
			if y := g.neighbours[i]; g.transit[y] == 0 {
				g.serve(x, y, stepStub)
			}
		}
	}
	for x := range g.asns {
		if g.transit[x] > 0 {
			g.fold(uint32(x))
		}
	}
	for x := range g.asns {
		for i := g.first[x]; i < g.first[x+1]; i++ {
			if g.relations[i] == None {
				g.set(uint32(x), g.neighbours[i], Peer, stepRest)
			}
		}
	}
}

// findProviders finds those of x among the networks above it: a network that passes x's routes on to
// a provider or peer of its own, or brings x those of a peer. All above x have their providers
// already, and no circle can arise.
func (g *graph) findProviders(x uint32) {
	for i := g.first[x]; i < g.first[x+1]; i++ {
		if y := g.neighbours[i]; y < x && g.relations[i] == None && g.serves(y, x) {
			g.set(y, x, Provider, stepTopDown)
		}
	}
}

func (g *graph) serves(y, x uint32) bool {
	for _, t := range g.passedOn(x, y) {
		if rel := g.relation(y, t.to); rel == Customer || rel == Peer {
			return true
		}
	}
	if y >= g.clique {
		return false // it has no peers yet
	}
	for z := range g.clique {
		if z != y && g.relation(y, z) == Peer && g.between(x, y, z) > 2 {
			return true
		}
	}
	return false
}

// chain says that x is a provider of y, which passes z's routes on to x.
type chain struct {
	x, y, z uint32
	paths   uint32
}

// chains is a heap: the chain on most paths comes first.
type chains []chain

func (c chains) Len() int { return len(c) }
func (c chains) Less(i, j int) bool {
	a, b := c[i], c[j]
	return cmp.Or(cmp.Compare(b.paths, a.paths), cmp.Compare(a.x, b.x), cmp.Compare(a.y, b.y), cmp.Compare(a.z, b.z)) < 0
}
func (c chains) Swap(i, j int) { c[i], c[j] = c[j], c[i] }
func (c *chains) Push(x any)   { *c = append(*c, x.(chain)) }
func (c *chains) Pop() any {
	last := (*c)[len(*c)-1]
	*c = (*c)[:len(*c)-1]
	return last
}

// findSmallerProviders finds the providers that rank below their customer: y brings the routes that z
// originates to its provider x.
func (g *graph) findSmallerProviders() {
	var todo chains
	for _, t := range g.triplets {
		x, y, z := t.to, t.via, t.from
		if t.origin > 0 && g.transit[y] <= g.transit[z] && g.open(y, z) && g.relation(x, y) == Provider {
			todo = append(todo, chain{x, y, z, g.between(x, y, z)})
		}
	}
	heap.Init(&todo)
	for len(todo) > 0 {
		c := heap.Pop(&todo).(chain)
		if c.paths < 3 || !g.serve(c.y, c.z, stepSmaller) {
			continue
		}
		for _, i := range g.given(c.z, c.y) {
			switch below := g.triplets[i].from; {
			case !g.open(c.z, below):
			case g.transit[below] > g.transit[c.z]:
				heap.Push(&todo, chain{c.y, c.z, below, g.between(c.y, c.z, below)})
			default:
				g.serve(c.z, below, stepSmaller)
			}
		}
	}
}

// serveWithoutProvider takes the neighbours of x, which has no provider and so is a regional or
// research network, for peers, the largest first, and those whose routes it gives to these for customers.
func (g *graph) serveWithoutProvider(x uint32) {
	for i := g.first[x]; i < g.first[x+1]; i++ {
		y := g.neighbours[i]
		given, got := g.given(x, y), g.passedOn(y, x)
		if g.relations[i] != None || len(given)+len(got) == 0 {
			continue
		}
		g.set(x, y, Peer, stepProviderless)
		var others []uint32
		for _, t := range given {
			others = append(others, g.triplets[t].from)
		}
		for _, t := range got {
			others = append(others, t.to)
		}
		slices.Sort(others)
		for _, z := range slices.Compact(others) {
			if !g.serve(x, z, stepProviderless) {
				continue
			}
			for _, t := range g.given(z, x) {
				if below := g.triplets[t].from; g.transit[below] < g.transit[z] {
					g.serve(z, below, stepProviderless)
				}
			}
		}
	}
}

// fold makes customers of those whose routes x passes on to a peer, or to one of whom nothing is
// known: two links between peers cannot follow one another.
func (g *graph) fold(x uint32) {
	type pair struct{ to, from uint32 }
	var pairs []pair
	froms, tos := map[uint32]bool{}, map[uint32]bool{}
	for i := g.first[x]; i < g.first[x+1]; i++ {
		to := g.neighbours[i]
		if rel := g.relations[i]; rel != None && rel != Peer || g.meetsProvider(x, to) {
			continue
		}
		for _, t := range g.given(x, to) {
			if from := g.triplets[t].from; g.open(x, from) {
				pairs = append(pairs, pair{to, from})
				froms[from], tos[to] = true, true
			}
		}
	}
	counts := map[uint32]int{}
	for _, p := range pairs {
		if both := froms[p.to] || tos[p.from]; !both { // else x passes on the routes of each to somebody
			counts[p.from]++
		}
	}
	candidates := make([]uint32, 0, len(counts))
	for from := range counts {
		candidates = append(candidates, from)
	}
	slices.SortFunc(candidates, func(a, b uint32) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b)) })
	for _, y := range candidates {
		if g.transit[x] < g.transit[y] || !g.serve(x, y, stepFolded) {
			continue
		}
		for _, t := range g.given(y, x) {
			if z := g.triplets[t].from; g.transit[y] >= g.transit[z] {
				g.serve(y, z, stepFolded)
			}
		}
	}
}

// meetsProvider reports that x carries traffic between y and one of its providers.
func (g *graph) meetsProvider(x, y uint32) bool {
	return slices.ContainsFunc(g.providers[x], func(p uint32) bool { return g.between(y, x, p) > 0 })
}

// The probability that a link is what a step takes it for: the share of such links that agree with
// CAIDA's file of June 2018, for paths of 2013 to 2018 with one or two full feeds among them, measured
// on half of the links (TestConfidenceIsWhatAgrees holds the other half against it). That transit is
// seen is good evidence. That it is not seen says little while few look: CAIDA, with hundreds of
// feeds, finds 98.7 % of such links to be peerings; with few, most are transit that nobody saw.
var transitConfidence = [stepLast]float64{
	stepTopDown:      0.97,
	stepPartialFeed:  0.99,
	stepSmaller:      0.98,
	stepProviderless: 0.97,
	stepStub:         0.78,
	stepFolded:       0.97,
}

// The same for peerings, between networks of like size, and where one has more than peerRatio times
// the transit degree of the other.
var peerConfidence = [stepLast]struct{ like, unlike float64 }{
	stepClique:       {0.97, 0.97},
	stepProviderless: {0.35, 0.22},
	stepRest:         {0.30, 0.09},
}

const peerRatio = 8

// confidence returns the probability that x's relation number i is right.
func (g *graph) confidence(x, i uint32) float64 {
	s := g.steps[i]
	if g.relations[i] != Peer {
		return transitConfidence[s]
	}
	a, b := g.transit[x], g.transit[g.neighbours[i]]
	if max(a, b) > peerRatio*(1+min(a, b)) {
		return peerConfidence[s].unlike
	}
	return peerConfidence[s].like
}
