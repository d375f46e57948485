package irr

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// key is a prefix in a form that sorts by address, then length: a prefix comes before all that it contains.
type key[K any] interface {
	comparable
	compare(K) int
	covers(K) bool // the other is the same prefix or a more-specific
	prefix() netip.Prefix
}

// key4 is an IPv4 prefix: the address shifted left by 8, and the length.
type key4 uint64

func makeKey4(p netip.Prefix) key4 {
	a := p.Addr().As4()
	return key4(binary.BigEndian.Uint32(a[:]))<<8 | key4(p.Bits())
}

func (k key4) compare(o key4) int { return cmp.Compare(k, o) }

func (k key4) covers(o key4) bool {
	bits := byte(k)
	return bits <= byte(o) && (k^o)>>(40-bits) == 0
}

func (k key4) prefix() netip.Prefix {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(k>>8))
	return netip.PrefixFrom(netip.AddrFrom4(a), int(byte(k)))
}

// key6 is an IPv6 prefix.
type key6 struct {
	hi, lo uint64
	bits   uint8
}

func makeKey6(p netip.Prefix) key6 {
	a := p.Addr().As16()
	return key6{binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:]), uint8(p.Bits())}
}

func (k key6) compare(o key6) int {
	return cmp.Or(cmp.Compare(k.hi, o.hi), cmp.Compare(k.lo, o.lo), cmp.Compare(k.bits, o.bits))
}

func (k key6) covers(o key6) bool {
	switch {
	case k.bits > o.bits:
		return false
	case k.bits <= 64:
		return (k.hi^o.hi)>>(64-k.bits) == 0
	}
	return k.hi == o.hi && (k.lo^o.lo)>>(128-k.bits) == 0
}

func (k key6) prefix() netip.Prefix {
	var a [16]byte
	binary.BigEndian.PutUint64(a[:8], k.hi)
	binary.BigEndian.PutUint64(a[8:], k.lo)
	return netip.PrefixFrom(netip.AddrFrom16(a), int(k.bits))
}

// table holds the route objects of one address family, sorted by prefix, source and origin.
//
// The covering prefixes of any prefix are those, among the last prefix that sorts no later than it and
// the ancestors of that one, which contain it: whatever sorts between a prefix and one that contains
// it lies within the latter. So one binary search and a walk up the parents find them all.
type table[K key[K]] struct {
	keys    []K
	parents []uint32 // the longest prefix that contains a key; none
	first   []uint32 // the first route of a key; one more entry ends the last
	origins []uint32 // of the routes
	sources []uint8  // of the routes, by rank
}

const none = ^uint32(0)

// at returns the last key that sorts no later than k; none.
func (t *table[K]) at(k K) uint32 {
	low, high := 0, len(t.keys)
	for low < high {
		if mid := int(uint(low+high) >> 1); t.keys[mid].compare(k) <= 0 {
			low = mid + 1
		} else {
			high = mid
		}
	}
	return uint32(low - 1)
}

// covering returns the longest key that is k or contains it; its parents are the others. none.
func (t *table[K]) covering(k K) uint32 {
	i := t.at(k)
	for i != none && !t.keys[i].covers(k) {
		i = t.parents[i]
	}
	return i
}

// routes returns which routes a key has.
func (t *table[K]) routes(i uint32) (from, to uint32) { return t.first[i], t.first[i+1] }

// record is one route object, to be added or deleted.
type record[K key[K]] struct {
	key    K
	origin uint32
	seq    uint32 // of records of the same route the last counts
	source uint8
	gone   bool
}

// route compares what makes two records those of one route object.
func (r *record[K]) route(o *record[K]) int {
	return cmp.Or(r.key.compare(o.key), cmp.Compare(r.source, o.source), cmp.Compare(r.origin, o.origin))
}

// merge returns a table with the routes of t, whose sources become ranks[source] or go where that is
// dropped, changed by records, whose sources are ranks already. The ranks must keep the sources' order.
func (t *table[K]) merge(ranks []uint8, records []record[K]) table[K] {
	slices.SortFunc(records, func(a, b record[K]) int { return cmp.Or(a.route(&b), cmp.Compare(a.seq, b.seq)) })
	var out table[K]
	out.grow(len(t.keys)+len(records), len(t.origins)+len(records))
	var stack []uint32
	add := func(r *record[K]) {
		if n := len(out.keys); n == 0 || out.keys[n-1] != r.key {
			for len(stack) > 0 && !out.keys[stack[len(stack)-1]].covers(r.key) {
				stack = stack[:len(stack)-1]
			}
			parent := none
			if len(stack) > 0 {
				parent = stack[len(stack)-1]
			}
			stack = append(stack, uint32(n))
			out.keys, out.parents, out.first = append(out.keys, r.key), append(out.parents, parent), append(out.first, uint32(len(out.origins)))
		}
		out.origins, out.sources = append(out.origins, r.origin), append(out.sources, r.source)
	}
	next := 0
	// before adds the records of routes that sort before r, all where r is nil, and reports whether r's own are among the rest.
	before := func(r *record[K]) bool {
		for next < len(records) {
			order := -1
			if r != nil {
				order = records[next].route(r)
			}
			if order >= 0 {
				return order == 0
			}
			last := next
			for last+1 < len(records) && records[last+1].route(&records[next]) == 0 {
				last++
			}
			if !records[last].gone {
				add(&records[last])
			}
			next = last + 1
		}
		return false
	}
	for i, k := range t.keys {
		for j := t.first[i]; j < t.first[i+1]; j++ {
			r := record[K]{key: k, origin: t.origins[j], source: ranks[t.sources[j]]}
			if r.source != dropped && !before(&r) {
				add(&r)
			}
		}
	}
	before(nil)
	out.first = append(out.first, uint32(len(out.origins)))
	out.trim()
	return out
}

func (t *table[K]) grow(keys, routes int) {
	t.keys, t.parents, t.first = make([]K, 0, keys), make([]uint32, 0, keys), make([]uint32, 0, keys+1)
	t.origins, t.sources = make([]uint32, 0, routes), make([]uint8, 0, routes)
}

// trim gives back what grow took too much, where that is a tenth or more.
func (t *table[K]) trim() {
	if cap(t.keys)-len(t.keys) > cap(t.keys)/10 {
		t.keys, t.parents, t.first = slices.Clone(t.keys), slices.Clone(t.parents), slices.Clone(t.first)
	}
	if cap(t.origins)-len(t.origins) > cap(t.origins)/10 {
		t.origins, t.sources = slices.Clone(t.origins), slices.Clone(t.sources)
	}
}
