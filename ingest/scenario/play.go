package scenario

import (
	"cmp"
	"container/heap"
	"iter"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Play gives the life of the world from start on, in order of time and without end: benign churn,
// and the scenarios, all begun at start and again after every period. Equal arguments give equal
// updates. The scenarios must play on the world and bring none of its sessions down.
//
// Churn is what networks do all day and no incident: links fail and routes go the next best way,
// one peer loses a route for a while, a network prepends, buys from somebody new (a spare
// relationship), or says the same again with other communities, and now and then a session with a
// collector resets and the whole table comes again. It keeps away from the prefixes that the
// scenarios use. A session that comes up again brings the routes of running scenarios as well.
func Play(start time.Time, seed uint64, period time.Duration, scenarios ...*Scenario) iter.Seq[*ingest.Update] {
	return func(yield func(*ingest.Update) bool) {
		p := newPlayer(start, seed, scenarios)
		var begin func(at time.Duration)
		begin = func(at time.Duration) {
			for _, s := range scenarios {
				for _, u := range s.updates {
					p.after(at+u.Time.Time().Sub(s.Start), func() { p.hear(u) })
				}
			}
			p.after(at+period, func() { begin(at + period) })
		}
		if len(scenarios) > 0 {
			begin(0)
		}
		p.after(0, p.churn)
		for {
			next := heap.Pop(&p.actions).(action)
			p.now = next.at
			next.do()
			for i := range p.out {
				if !yield(&p.out[i]) {
					return
				}
			}
			p.out = p.out[:0]
		}
	}
}

// Means and bounds of churn's timing.
const (
	churnEvery = 400 * time.Millisecond // mean time between events
	resetEvery = 3 * time.Minute        // time between session resets
	converge   = 3 * time.Second        // how long a change takes to reach all peers
)

type player struct {
	w     *Scenario
	start time.Time
	rng   *rand.Rand

	actions actions
	seq     int
	now     time.Duration
	out     []ingest.Update

	origins  []uint32 // those with prefixes that churn may use
	prefixes map[uint32][]netip.Prefix
	touched  map[netip.Prefix]bool // by scenarios
	busy     map[uint32]bool       // origins that are changed just now
	table    map[ingest.Peer]map[netip.Prefix]bgp.Attributes
	down     map[ingest.Peer]bool
	reset    time.Duration // when a session may reset next
}

type action struct {
	at  time.Duration
	seq int
	do  func()
}

type actions []action

func (a actions) Len() int { return len(a) }
func (a actions) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(a[i].at, a[j].at), cmp.Compare(a[i].seq, a[j].seq)) < 0
}
func (a actions) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *actions) Push(x any)   { *a = append(*a, x.(action)) }
func (a *actions) Pop() any {
	last := len(*a) - 1
	x := (*a)[last]
	(*a)[last] = action{}
	*a = (*a)[:last]
	return x
}

func newPlayer(start time.Time, seed uint64, scenarios []*Scenario) *player {
	w := World()
	p := &player{
		w: w, start: start, rng: rand.New(rand.NewPCG(seed, 0)), reset: resetEvery / 3,
		prefixes: map[uint32][]netip.Prefix{}, touched: map[netip.Prefix]bool{}, busy: map[uint32]bool{},
		table: map[ingest.Peer]map[netip.Prefix]bgp.Attributes{}, down: map[ingest.Peer]bool{},
	}
	for _, s := range scenarios {
		for _, e := range s.events {
			for _, x := range e.prefixes {
				p.touched[x] = true
			}
		}
	}
	for _, o := range w.origins {
		for _, x := range o.prefixes {
			if !p.touched[x] {
				p.prefixes[o.asn] = append(p.prefixes[o.asn], x)
			}
		}
	}
	for asn := range p.prefixes {
		p.origins = append(p.origins, asn)
	}
	slices.Sort(p.origins)
	for _, u := range w.RIB() {
		if p.table[u.Peer] == nil {
			p.table[u.Peer] = map[netip.Prefix]bgp.Attributes{}
		}
		p.table[u.Peer][u.Announced[0].Prefix] = u.Attrs
	}
	return p
}

func (p *player) after(at time.Duration, do func()) {
	p.seq++
	heap.Push(&p.actions, action{at, p.seq, do})
}

// between gives a random time from a up to b.
func (p *player) between(a, b time.Duration) time.Duration {
	return a + time.Duration(p.rng.Int64N(int64(b-a)))
}

// hear takes an update into the peer's table and passes it on, unless the session is down.
func (p *player) hear(u ingest.Update) {
	u.Time = ingest.TimeOf(p.start.Add(p.now))
	for _, n := range u.Withdrawn {
		delete(p.table[u.Peer], n.Prefix)
	}
	for _, n := range u.Announced {
		p.table[u.Peer][n.Prefix] = u.Attrs
	}
	if !p.down[u.Peer] {
		p.out = append(p.out, u)
	}
}

// churn starts one event and sets the time of the next.
func (p *player) churn() {
	p.after(p.now+p.between(churnEvery/4, 2*churnEvery-churnEvery/4), p.churn)
	if p.now >= p.reset {
		p.reset = p.now + resetEvery
		p.resetSession()
		return
	}
	origin := p.origins[p.rng.IntN(len(p.origins))]
	v := p.w.peers[p.rng.IntN(len(p.w.peers))]
	if p.busy[origin] {
		return
	}
	switch n := p.rng.IntN(100); {
	case n < 50:
		p.repeat(origin, v)
	case n < 75:
		p.failLink(origin, v)
	case n < 87:
		p.losePeer(origin, v)
	case n < 97:
		p.change(origin, p.w.topo.spread([]uint32{origin}, link{}), 1+p.rng.IntN(3), p.between(30*time.Second, 2*time.Minute))
	default:
		p.buyFrom(p.w.spares[p.rng.IntN(len(p.w.spares))])
	}
}

// repeat has one peer say again what it has said, with a community of its own.
func (p *player) repeat(origin uint32, v Vantage) {
	for _, x := range p.prefixes[origin] {
		attrs, has := p.table[v.Peer][x]
		if !has {
			continue
		}
		if v.ASN <= 0xffff {
			attrs.Communities = []uint32{v.ASN<<16 | uint32(1000+p.rng.IntN(10))}
			attrs.Has |= bgp.HasCommunities
		}
		p.hear(ingest.Update{Peer: v.Peer, Announced: []bgp.NLRI{{Prefix: x}}, Attrs: attrs})
		return
	}
}

// losePeer has one peer withdraw an origin's routes for some seconds.
func (p *player) losePeer(origin uint32, v Vantage) {
	routes := p.w.topo.spread([]uint32{origin}, link{})
	way := path(routes, v.ASN, v.Partial)
	if way == nil {
		return
	}
	p.busy[origin] = true
	p.say(origin, v, nil)
	p.after(p.now+p.between(3*time.Second, 20*time.Second), func() {
		p.busy[origin] = false
		p.say(origin, v, way)
	})
}

// failLink takes away, for this origin, a link that v's route uses and others can replace.
func (p *player) failLink(origin uint32, v Vantage) {
	way := path(p.w.topo.spread([]uint32{origin}, link{}), v.ASN, v.Partial)
	if len(way) < 2 {
		return
	}
	i := p.rng.IntN(len(way) - 1)
	routes := p.w.topo.spread([]uint32{origin}, link{way[i], way[i+1]})
	for _, v := range p.w.peers {
		if !v.Partial && path(routes, v.ASN, false) == nil {
			return // an outage, and so not benign
		}
	}
	p.change(origin, routes, 0, p.between(20*time.Second, 90*time.Second))
}

// buyFrom brings a spare relationship to life for its customer's routes (or both peers').
func (p *player) buyFrom(r Relationship) {
	topo := newTopology(append(slices.Clone(p.w.rels), r))
	length := p.between(time.Minute, 3*time.Minute)
	for _, origin := range []uint32{r.A, r.B} {
		if (origin == r.B || r.Peer) && !p.busy[origin] {
			p.change(origin, topo.spread([]uint32{origin}, link{}), 0, length)
		}
	}
}

// change moves every peer to its route among routes, the origin prepended so many times more, and
// back when the time is over.
func (p *player) change(origin uint32, routes map[uint32]route, prepends int, length time.Duration) {
	usual := p.w.topo.spread([]uint32{origin}, link{})
	p.busy[origin] = true
	p.after(p.now+length+2*converge, func() { p.busy[origin] = false })
	for _, v := range p.w.peers {
		before, after := path(usual, v.ASN, v.Partial), path(routes, v.ASN, v.Partial)
		if after != nil {
			for range prepends {
				after = append(after, origin)
			}
		}
		if slices.Equal(before, after) {
			continue
		}
		p.after(p.now+p.between(0, converge), func() { p.say(origin, v, after) })
		p.after(p.now+length+p.between(0, converge), func() { p.say(origin, v, before) })
	}
}

// say has v announce an origin's prefixes with that path, or withdraw them without one.
func (p *player) say(origin uint32, v Vantage, way []uint32) {
	var families [2][]bgp.NLRI
	for _, x := range p.prefixes[origin] {
		i := 0
		if x.Addr().Is6() {
			i = 1
		}
		families[i] = append(families[i], bgp.NLRI{Prefix: x})
	}
	for i, list := range families {
		hop, err := nextHop(netip.Addr{}, v.Addr, i == 0)
		if len(list) == 0 || err != nil {
			continue
		}
		u := ingest.Update{Peer: v.Peer}
		if way == nil {
			u.Withdrawn = list
		} else {
			u.Announced = list
			u.Attrs = bgp.Attributes{
				Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: hop,
				ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: slices.Clone(way)}},
			}
		}
		p.hear(u)
	}
}

// resetSession takes one session down and, some seconds later, up, with its table following.
func (p *player) resetSession() {
	peer := p.w.peers[p.rng.IntN(len(p.w.peers))].Peer
	p.out = append(p.out, ingest.Update{Time: ingest.TimeOf(p.start.Add(p.now)), Peer: peer, Kind: ingest.PeerDown})
	p.down[peer] = true
	p.after(p.now+p.between(3*time.Second, 8*time.Second), func() {
		p.down[peer] = false
		p.out = append(p.out, ingest.Update{Time: ingest.TimeOf(p.start.Add(p.now)), Peer: peer, Kind: ingest.PeerUp})
		for _, u := range p.routes(peer) {
			p.hear(u)
		}
	})
}

// routes gives a peer's table, prefixes of one path and family in one update.
func (p *player) routes(peer ingest.Peer) []ingest.Update {
	table := p.table[peer]
	prefixes := make([]netip.Prefix, 0, len(table))
	for x := range table {
		prefixes = append(prefixes, x)
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	type key struct {
		path string
		hop  netip.Addr
		note uint32
	}
	index := map[key]int{}
	var list []ingest.Update
	for _, x := range prefixes {
		attrs := table[x]
		k := key{path: attrs.ASPath.String(), hop: attrs.NextHop}
		if len(attrs.Communities) > 0 {
			k.note = attrs.Communities[0]
		}
		i, known := index[k]
		if !known {
			i = len(list)
			index[k] = i
			list = append(list, ingest.Update{Peer: peer, Attrs: attrs})
		}
		list[i].Announced = append(list[i].Announced, bgp.NLRI{Prefix: x})
	}
	return list
}
