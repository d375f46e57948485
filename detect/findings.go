package detect

import (
	"cmp"
	"encoding/binary"
	"iter"
	"maps"
	"math"
	"net/netip"
	"slices"

	"github.com/routevigil/routevigil/detect/incident"
)

// findingSet is the findings of a case, and what is told of them in sum. That is brought up to date with each finding
// that comes or goes, so that describing a leak of 100,000 prefixes takes no longer than describing one of a hundred.
type findingSet struct {
	findings  map[netip.Prefix]*finding
	confirmed int            // findings that enough peer ASNs see
	peerRefs  map[peerID]int // findings by peer
	watchRefs map[*watch]int // findings by watch; nil where there are none

	offenders, accomplices, victims tally
	leaks                           tally // by RFC 7908 type
	first                           firsts
	ledgers                         map[string]*alike // by what the findings have in common
}

// alike is findings whose ledgers have the same rules and weights. Of these only the first one's can have a line that
// tells more than those of the others do.
type alike struct {
	common string
	first  firsts
}

func newFindingSet() findingSet {
	return findingSet{findings: map[netip.Prefix]*finding{}, peerRefs: map[peerID]int{}, ledgers: map[string]*alike{}}
}

// replace takes one change; need is how many peer ASNs must agree.
func (s *findingSet) replace(ch findingChange, need int) {
	if old := s.findings[ch.prefix]; old != nil {
		s.remove(old, need)
	}
	if ch.now != nil {
		s.add(ch.now, need)
	}
}

func (s *findingSet) add(f *finding, need int) {
	s.findings[f.prefix] = f
	for _, p := range f.peers {
		s.peerRefs[p]++
	}
	s.refer(f, 1)
	if f.enough(need) {
		s.confirmed++
	}
	s.count(f.verdict, 1)
	s.first.add(f.prefix, 2*incident.MaxPrefixes)
	var scratch [256]byte
	common := f.verdict.ledger.common(scratch[:0])
	a := s.ledgers[string(common)]
	if a == nil {
		a = &alike{common: string(common)}
		s.ledgers[a.common] = a
	}
	f.alike = a
	a.first.add(f.prefix, 8)
}

func (s *findingSet) remove(f *finding, need int) {
	delete(s.findings, f.prefix)
	for _, p := range f.peers {
		if s.peerRefs[p]--; s.peerRefs[p] == 0 {
			delete(s.peerRefs, p)
		}
	}
	s.refer(f, -1)
	if f.enough(need) {
		s.confirmed--
	}
	s.count(f.verdict, -1)
	s.first.remove(f.prefix)
	f.alike.first.remove(f.prefix)
	if len(f.alike.first.sorted)+f.alike.first.rest == 0 {
		delete(s.ledgers, f.alike.common)
	}
}

func (s *findingSet) count(v *verdict, n int) {
	s.offenders.add(v.offender, n)
	for _, a := range v.also {
		s.offenders.add(a, n)
	}
	s.accomplices.add(v.next, n)
	s.victims.add(v.victim, n)
	s.leaks.add(uint32(v.rfc7908), n)
}

// sample returns the first prefixes, no more than an incident names.
func (s *findingSet) sample() []netip.Prefix {
	if len(s.first.sorted) < incident.MaxPrefixes && s.first.rest > 0 {
		s.first.fill(maps.Keys(s.findings), 2*incident.MaxPrefixes)
	}
	return s.first.sorted[:min(len(s.first.sorted), incident.MaxPrefixes)]
}

// telling returns prefixes of which the ledgers tell all that those of the whole set do, in order.
func (s *findingSet) telling() []netip.Prefix {
	ps := make([]netip.Prefix, 0, len(s.ledgers))
	for _, a := range s.ledgers {
		if len(a.first.sorted) == 0 {
			a.first.fill(func(yield func(netip.Prefix) bool) {
				for p, f := range s.findings {
					if f.alike == a && !yield(p) {
						return
					}
				}
			}, 64)
		}
		ps = append(ps, a.first.sorted[0])
	}
	slices.SortFunc(ps, comparePrefixes)
	return ps
}

// common appends the rules of a ledger with their weights to dst.
func (l ledger) common(dst []byte) []byte {
	for _, x := range l {
		dst = append(append(dst, evidenceKey(x)...), 0)
		dst = binary.BigEndian.AppendUint64(dst, math.Float64bits(x.weight))
	}
	return dst
}

// firsts keeps the first ones of a set of prefixes in order, and only counts the rest.
type firsts struct {
	sorted []netip.Prefix
	rest   int
}

// add adds a prefix that is not there, keeping at most so many.
func (f *firsts) add(p netip.Prefix, most int) {
	n := len(f.sorted)
	if f.rest > 0 && (n == 0 || comparePrefixes(p, f.sorted[n-1]) > 0) {
		f.rest++
		return
	}
	i, _ := slices.BinarySearchFunc(f.sorted, p, comparePrefixes)
	if i == most {
		f.rest++
		return
	}
	if n == most {
		f.sorted = f.sorted[:n-1]
		f.rest++
	}
	f.sorted = slices.Insert(f.sorted, i, p)
}

// remove takes away a prefix that is there.
func (f *firsts) remove(p netip.Prefix) {
	if i, found := slices.BinarySearchFunc(f.sorted, p, comparePrefixes); found {
		f.sorted = slices.Delete(f.sorted, i, i+1)
		return
	}
	f.rest--
}

// fill looks through the whole set for the first ones.
func (f *firsts) fill(all iter.Seq[netip.Prefix], most int) {
	n := len(f.sorted) + f.rest
	f.sorted = least(all, most, comparePrefixes)
	f.rest = n - len(f.sorted)
}

// least returns the n least of what all yields, in order.
func least[T any](all iter.Seq[T], n int, compare func(a, b T) int) []T {
	out := []T{}
	for x := range all {
		if len(out) == n {
			if compare(x, out[n-1]) >= 0 {
				continue
			}
			out = out[:n-1]
		}
		i, _ := slices.BinarySearchFunc(out, x, compare)
		out = slices.Insert(out, i, x)
	}
	return out
}

// tally counts ASNs; 0 is none.
type tally map[uint32]int

func (t *tally) add(asn uint32, n int) {
	if asn == 0 {
		return
	}
	if *t == nil {
		*t = tally{}
	}
	if (*t)[asn] += n; (*t)[asn] == 0 {
		delete(*t, asn)
	}
}

// maxNamed bounds the offenders, accomplices and victims that an incident names.
const maxNamed = 20

// top returns the most frequent ASNs first.
func (t tally) top() []uint32 {
	return least(maps.Keys(t), maxNamed, func(a, b uint32) int { return cmp.Or(cmp.Compare(t[b], t[a]), cmp.Compare(a, b)) })
}
