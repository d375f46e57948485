// Package registry knows what the number registries say: which addresses and AS numbers IANA has set
// aside, and to whom the five RIRs have given the rest, and when.
//
// The special-purpose registries are facts that change once in years and are built in. Delegations
// change every day and are read from the RIRs' delegated-extended statistics, or the NRO's combined
// file, which is the same format. Only the extended form names the holder (by an opaque identifier
// that all resources of one holder at one registry share) and the space that is not given to anybody.
//
// A Set keeps each kind of number as one sorted array of ranges that do not overlap, because IPv4
// delegations are counts of addresses and often no CIDR blocks: a tree would need several entries for
// one. A range costs 16 bytes for IPv4 and ASNs and 24 for IPv6, beside the holders' names; all five
// RIRs together have about 700,000 ranges. A lookup is a binary search and allocates nothing. Where
// files contradict each other (a transfer between RIRs that one has not published yet), a delegation
// counts before a range without a holder, and then the later date.
package registry

import (
	"cmp"
	"container/heap"
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Status is what a registry says of a range.
type Status uint8

const (
	Unknown   Status = iota // no file that was read speaks of it
	Allocated               // given to somebody who may give parts to others
	Assigned                // given to somebody for its own use
	Available               // in a registry's (or IANA's) free pool
	Reserved                // set aside: neither in use nor free
	Mixed                   // a prefix of which some part is delegated and another is not
)

var statusNames = [...]string{"unknown", "allocated", "assigned", "available", "reserved", "mixed"}

func (s Status) String() string { return statusNames[s] }

// Unallocated reports that nobody holds the number.
func (s Status) Unallocated() bool { return s == Available || s == Reserved }

func (s Status) delegated() bool { return s == Allocated || s == Assigned }

// registries that may stand in the first field of a record.
var registries = [...]string{"iana", "afrinic", "apnic", "arin", "lacnic", "ripencc", "ietf"}

// Holding is the answer for one prefix or AS number. Its strings belong to the Set.
type Holding struct {
	Status   Status
	Registry string    // such as "ripencc"; "" where Status is Unknown
	Country  string    // two letters as registered, or ""
	Holder   string    // the opaque identifier, unique within the registry; "" where nobody holds it or none is told
	Since    time.Time // the day of the delegation; zero where none is told
	holder   uint32
}

// SameHolder reports that one and the same holder has both.
func (h Holding) SameHolder(o Holding) bool { return h.holder != 0 && h.holder == o.holder }

// span is a range of numbers of one holding, both ends included. T is uint32 for IPv4 and ASNs (16
// bytes), uint64, the upper half of an address, for IPv6 (24 bytes).
type span[T uint32 | uint64] struct {
	first, last T
	details
}

// details is what is known of a range. 8 bytes.
type details struct {
	holder uint32 // 0 where none is told; otherwise 1 + its place in Set.holders
	day    uint16 // days since 1970-01-01; 0 where none is told
	packed uint16 // 3 bits status, 3 bits registry, 10 bits country
}

func (d details) status() Status { return Status(d.packed >> 13) }

// precedes says which of two contradicting records counts.
func (d details) precedes(o details) bool {
	if a, b := d.status().delegated(), o.status().delegated(); a != b {
		return a
	}
	return cmp.Or(cmp.Compare(o.day, d.day), cmp.Compare(d.packed, o.packed), cmp.Compare(d.holder, o.holder)) < 0
}

// Set is what some statistics files say. It is immutable once read; nil knows nothing.
type Set struct {
	v4     []span[uint32]
	v6     []span[uint64]
	as     []span[uint32]
	names  string   // the holders' identifiers, one after the other
	ends   []uint32 // where each ends
	source string
}

// Len is the number of ranges.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.v4) + len(s.v6) + len(s.as)
}

// Source names the files that were read.
func (s *Set) Source() string {
	if s == nil {
		return ""
	}
	return s.source
}

// ASN returns who holds an AS number.
func (s *Set) ASN(a uint32) Holding {
	if s == nil {
		return Holding{}
	}
	return find(s, s.as, a, a)
}

// Prefix returns who holds a prefix. Where several ranges make it up, registry, country and day are those
// of the first that is delegated, Holder is empty unless all of these have the same, and Status is
// Mixed where only a part is delegated. An IPv6 prefix longer than /64 is held by whoever holds its /64.
func (s *Set) Prefix(p netip.Prefix) Holding {
	if s == nil || !p.IsValid() {
		return Holding{}
	}
	if p.Addr().Is4() {
		a := p.Masked().Addr().As4()
		first := binary.BigEndian.Uint32(a[:])
		return find(s, s.v4, first, first|^uint32(0)>>p.Bits())
	}
	a := p.Masked().Addr().As16()
	first := binary.BigEndian.Uint64(a[:8])
	return find(s, s.v6, first, first|^uint64(0)>>p.Bits())
}

// find returns what the ranges say of the numbers from first to last.
func find[T uint32 | uint64](s *Set, spans []span[T], first, last T) Holding {
	i, _ := slices.BinarySearchFunc(spans, first, func(r span[T], n T) int { return cmp.Compare(r.last, n) })
	if i == len(spans) || spans[i].first > last {
		return Holding{}
	}
	best, covered, mixed, several := spans[i].details, spans[i].first <= first, false, false
	for end := spans[i].last; end < last; {
		i++
		if i == len(spans) || spans[i].first > last {
			covered = false
			break
		}
		covered = covered && spans[i].first == end+1
		end = spans[i].last
		switch d := spans[i].details; {
		case d.status().delegated() != best.status().delegated():
			mixed = true
			if d.status().delegated() {
				best = d
			}
		case d.holder != best.holder && d.status().delegated():
			several = true
		}
	}
	if several {
		best.holder = 0
	}
	h := s.holding(best)
	if mixed || !covered && h.Status.delegated() {
		h.Status = Mixed
	} else if !covered { // free as far as told, but not all is told
		h.Status = Unknown
	}
	return h
}

func (s *Set) holding(d details) Holding {
	h := Holding{Status: d.status(), Registry: registries[d.packed>>10&7], holder: d.holder}
	if c := d.packed & 1023; c != 0 {
		h.Country = countries[2*c-2 : 2*c]
	}
	if d.holder != 0 {
		start := uint32(0)
		if d.holder > 1 {
			start = s.ends[d.holder-2]
		}
		h.Holder = s.names[start:s.ends[d.holder-1]]
	}
	if d.day != 0 {
		h.Since = time.Unix(int64(d.day)*86400, 0).UTC()
	}
	return h
}

// countries is every pair of letters, so that a code is a place in it and costs 10 bits.
var countries = func() string {
	var b strings.Builder
	for x := byte('A'); x <= 'Z'; x++ {
		for y := byte('A'); y <= 'Z'; y++ {
			b.WriteByte(x)
			b.WriteByte(y)
		}
	}
	return b.String()
}()

// countryCode is 0 for "" and ZZ, which stands for none.
func countryCode(c string) (code uint16, ok bool) {
	switch {
	case c == "" || c == "ZZ" || c == "zz" || c == "*":
		return 0, true
	case len(c) != 2 || c[0]|0x20 < 'a' || c[0]|0x20 > 'z' || c[1]|0x20 < 'a' || c[1]|0x20 > 'z':
		return 0, false
	}
	return uint16(c[0]|0x20-'a')*26 + uint16(c[1]|0x20-'a') + 1, true
}

// flatten sorts ranges and cuts them so that none overlaps another, each number falling to the record
// that precedes; neighbours of equal details become one.
func flatten[T uint32 | uint64](in []span[T]) []span[T] {
	slices.SortFunc(in, func(a, b span[T]) int { return cmp.Compare(a.first, b.first) })
	var out []span[T]
	emit := func(first, last T, d details) {
		if n := len(out); n > 0 && out[n-1].details == d && out[n-1].last+1 == first {
			out[n-1].last = last
			return
		}
		out = append(out, span[T]{first, last, d})
	}
	var active spanHeap[T] // ranges that have begun, the one that counts on top
	at := T(0)
	for i := 0; i < len(in) || len(active) > 0; {
		for len(active) > 0 && active[0].last < at {
			heap.Pop(&active)
		}
		if len(active) == 0 {
			if i == len(in) {
				break
			}
			at = max(at, in[i].first)
		}
		for ; i < len(in) && in[i].first <= at; i++ {
			heap.Push(&active, in[i])
		}
		for len(active) > 0 && active[0].last < at {
			heap.Pop(&active)
		}
		if len(active) == 0 {
			continue
		}
		top := active[0]
		end := top.last
		if i < len(in) && in[i].first <= end {
			end = in[i].first - 1
		}
		emit(at, end, top.details)
		if end == ^T(0) {
			break
		}
		at = end + 1
	}
	return slices.Clip(out)
}

type spanHeap[T uint32 | uint64] []span[T]

func (h spanHeap[T]) Len() int           { return len(h) }
func (h spanHeap[T]) Less(i, j int) bool { return h[i].precedes(h[j].details) }
func (h spanHeap[T]) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *spanHeap[T]) Push(x any)        { *h = append(*h, x.(span[T])) }
func (h *spanHeap[T]) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
