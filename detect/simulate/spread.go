package simulate

import (
	"slices"
)

// class is where an AS has its best route from, the most preferred last.
type class uint8

const (
	noRoute class = iota
	fromProvider
	fromPeer
	fromCustomer
	own // it announces the route itself, or leaks one
)

// source is one announcement: path is what the neighbours in to (nil: all) hear of it.
type source struct {
	at   node
	to   []node
	path []uint32 // at's own ASN first; what follows is true, forged, or what it leaks
	// What makes others refuse it.
	invalid bool   // RPKI Invalid, to those who validate
	long    bool   // longer than /24 or /48, to those who filter by length
	otc     uint32 // OTC that came with what is leaked (RFC 9234), to those who look at it
}

// announcement is everything that is said of one prefix.
type announcement []source

// spreader works out who has which route to one prefix at a time. The rules are those of Gao and Rexford (2001): a
// customer's route is preferred to a peer's and that to a provider's, then the shorter path, then the neighbour that a
// router's tie-break happens to favour. Customers' routes go to everybody, others to customers only. With these the result
// is unique, whatever the order of events: it is what BGP settles at. So that nothing depends on what the detector believes,
// none of its code is used.
type spreader struct {
	g    *graph
	seed uint64
	rov  []bool // by node: drops Invalid
	otc  []bool // by node: follows RFC 9234
	long []bool // by node: accepts what is longer than /24 or /48
	down map[[2]node]bool

	// The state that the last spread left.
	said   announcement
	class  []class
	length []int32
	via    []node  // neighbour that the route is from; of a source, itself
	source []uint8 // index in said

	buckets [][]candidate // by length
	settled []node
}

type candidate struct {
	at, via node
	source  uint8
}

func newSpreader(g *graph, seed uint64, rov, otc, long []bool) *spreader {
	n := len(g.asns)
	return &spreader{g: g, seed: seed, rov: rov, otc: otc, long: long,
		class: make([]class, n), length: make([]int32, n), via: make([]node, n), source: make([]uint8, n)}
}

// fails tells the spreader that a link is down until it is told otherwise.
func (s *spreader) fails(a, b node, down bool) {
	if s.down == nil {
		s.down = map[[2]node]bool{}
	}
	if down {
		s.down[[2]node{min(a, b), max(a, b)}] = true
	} else {
		delete(s.down, [2]node{min(a, b), max(a, b)})
	}
}

// accepts reports whether at takes a route of a source from a neighbour that stands to it as how says.
func (s *spreader) accepts(c candidate, how class) bool {
	o := &s.said[c.source]
	switch {
	case s.class[c.at] == own,
		o.invalid && s.rov[c.at],
		o.long && !s.long[c.at],
		// RFC 9234 §5: from a customer with OTC, or from a peer with the OTC of somebody else.
		o.otc != 0 && s.otc[c.at] && (how == fromCustomer || how == fromPeer && o.otc != s.g.asns[c.via]),
		len(s.down) > 0 && s.down[[2]node{min(c.at, c.via), max(c.at, c.via)}],
		slices.Contains(o.path, s.g.asns[c.at]): // RFC 4271 §9.1.2: its own number is in the path
		return false
	}
	return true
}

// favours reports whether at's tie-break favours neighbour a to b.
func (s *spreader) favours(at, a, b node) bool {
	x, y := hash(s.seed, uint64(at), uint64(a)), hash(s.seed, uint64(at), uint64(b))
	return x < y || x == y && a < b
}

func (s *spreader) offer(length int32, c candidate) {
	for int(length) >= len(s.buckets) {
		s.buckets = append(s.buckets, nil)
	}
	s.buckets[length] = append(s.buckets[length], c)
}

// take gives c's AS the route if it is better than what it has of the same class. It reports whether that is its first.
func (s *spreader) take(length int32, c candidate, how class) (first bool) {
	at := c.at
	switch {
	case s.class[at] > how,
		s.class[at] == how && (s.length[at] < length || s.length[at] == length && !s.favours(at, c.via, s.via[at])),
		!s.accepts(c, how):
		return false
	}
	first = s.class[at] != how
	s.class[at], s.length[at], s.via[at], s.source[at] = how, length, c.via, c.source
	return first
}

// levels settles routes of one class in the order of their length; on offers them to onward neighbours.
func (s *spreader) levels(how class, onward [][]node) {
	for length := int32(0); int(length) < len(s.buckets); length++ {
		level := s.buckets[length]
		s.buckets[length] = nil
		from := len(s.settled)
		for _, c := range level {
			if s.take(length, c, how) {
				s.settled = append(s.settled, c.at)
			}
		}
		for _, n := range s.settled[from:] {
			for _, next := range onward[n] {
				s.offer(length+1, candidate{next, n, s.source[n]})
			}
		}
		s.buckets[length] = level[:0]
	}
}

// sources calls f for each neighbour in onward that a source speaks to.
func (s *spreader) sources(onward [][]node, f func(length int32, c candidate)) {
	for i := range s.said {
		o := &s.said[i]
		for _, next := range onward[o.at] {
			if o.to == nil || slices.Contains(o.to, next) {
				f(int32(len(o.path)), candidate{next, o.at, uint8(i)})
			}
		}
	}
}

// spread works out everybody's route to what is said.
func (s *spreader) spread(said announcement) {
	clear(s.class)
	s.said, s.settled = said, s.settled[:0]
	for i := range said {
		n := said[i].at
		s.class[n], s.via[n], s.source[n], s.length[n] = own, n, uint8(i), int32(len(said[i].path)-1)
	}
	s.sources(s.g.providers, s.offer)
	s.levels(fromCustomer, s.g.providers)
	customers := s.settled
	peer := func(length int32, c candidate) {
		if s.take(length, c, fromPeer) {
			s.settled = append(s.settled, c.at)
		}
	}
	s.sources(s.g.peers, peer)
	for _, n := range customers {
		for _, next := range s.g.peers[n] {
			peer(s.length[n]+1, candidate{next, n, s.source[n]})
		}
	}
	s.sources(s.g.customers, s.offer)
	for _, n := range s.settled {
		for _, next := range s.g.customers[n] {
			s.offer(s.length[n]+1, candidate{next, n, s.source[n]})
		}
	}
	s.levels(fromProvider, s.g.customers)
}

// path appends the ASes on n's route as n passes it on, its own first; nothing where n has none.
func (s *spreader) path(dst []uint32, n node) []uint32 {
	if s.class[n] == noRoute {
		return dst
	}
	source := s.source[n] // a source's AS may speak differently to others
	for s.class[n] != own {
		dst = append(dst, s.g.asns[n])
		n = s.via[n]
	}
	return append(dst, s.said[source].path...)
}

// otcOf returns the OTC attribute of n's route (RFC 9234 §5), 0 for none: the first on the way from the source that knows
// of it and has the route from a provider or peer marks it, and whoever sends it to a customer or peer.
func (s *spreader) otcOf(n node) uint32 {
	switch s.class[n] {
	case noRoute:
		return 0
	case own:
		return s.said[s.source[n]].otc
	}
	from := s.via[n]
	if otc := s.otcOf(from); otc != 0 {
		return otc
	}
	if s.class[n] != fromCustomer && (s.otc[from] || s.otc[n]) {
		return s.g.asns[from]
	}
	return 0
}

// exports returns the path that from passes on to a neighbour, which takes it as how says; nil when there is none.
func (s *spreader) exports(from, to node, how class) ([]uint32, candidate) {
	c := candidate{to, from, s.source[from]}
	switch s.class[from] {
	case noRoute:
		return nil, c
	case own:
		for i := range s.said {
			if o := &s.said[i]; o.at == from && (o.to == nil || slices.Contains(o.to, to)) {
				c.source = uint8(i)
				return o.path, c
			}
		}
		return nil, c
	}
	if s.class[from] != fromCustomer && how != fromProvider {
		return nil, c
	}
	return s.path(nil, from), c
}

// second returns the path that n would have if its best route went and nobody else's had changed yet, its own ASN first,
// and how it would have it: what path hunting (Labovitz and others, 2000) shows. Empty when there is none.
func (s *spreader) second(n node) ([]uint32, class) {
	if s.class[n] == noRoute || s.class[n] == own {
		return nil, noRoute
	}
	for _, side := range []struct {
		how  class
		from []node
	}{{fromCustomer, s.g.customers[n]}, {fromPeer, s.g.peers[n]}, {fromProvider, s.g.providers[n]}} {
		best, bestPath := node(-1), []uint32(nil)
		for _, m := range side.from {
			if m == s.via[n] || bestPath != nil && int(s.length[m])+1 > len(bestPath) {
				continue
			}
			path, c := s.exports(m, n, side.how)
			if path == nil || !s.accepts(c, side.how) || slices.Contains(path, s.g.asns[n]) {
				continue
			}
			if bestPath == nil || len(path) < len(bestPath) || len(path) == len(bestPath) && s.favours(n, m, best) {
				best, bestPath = m, path
			}
		}
		if bestPath != nil {
			return slices.Concat([]uint32{s.g.asns[n]}, bestPath), side.how
		}
	}
	return nil, noRoute
}
