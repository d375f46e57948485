package rpki

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"
)

// key is a prefix of either family. An IPv4 address stands in the upper half of hi.
type key struct {
	hi, lo uint64
	bits   uint8
}

func keyOf(p netip.Prefix) key {
	k := key{bits: uint8(p.Bits())}
	if p.Addr().Is4() {
		a := p.Addr().As4()
		k.hi = uint64(binary.BigEndian.Uint32(a[:])) << 32
	} else {
		a := p.Addr().As16()
		k.hi, k.lo = binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
	}
	k.hi, k.lo = k.hi&mask(k.bits), k.lo&mask(k.bits-min(k.bits, 64))
	return k
}

// mask has the first n bits set, all of them from 64 on.
func mask(n uint8) uint64 {
	if n >= 64 {
		return math.MaxUint64
	}
	return ^(math.MaxUint64 >> n)
}

func (a key) compare(b key) int {
	switch {
	case a.hi != b.hi:
		return cmp.Compare(a.hi, b.hi)
	case a.lo != b.lo:
		return cmp.Compare(a.lo, b.lo)
	}
	return int(a.bits) - int(b.bits)
}

// after reports that a comes after b.
func (a key) after(b key) bool {
	return a.hi > b.hi || a.hi == b.hi && (a.lo > b.lo || a.lo == b.lo && a.bits > b.bits)
}

// covers reports that b is a or lies in it.
func (a key) covers(b key) bool {
	return a.bits <= b.bits && (a.hi^b.hi)&mask(a.bits) == 0 && (a.bits <= 64 || (a.lo^b.lo)&mask(a.bits-64) == 0)
}

// record is one VRP in 32 bytes.
type record struct {
	hi, lo  uint64
	asn     uint32
	expires uint32 // Unix seconds; 0 when not known
	parent  uint32 // 1 + the index of the last record of the next shorter prefix around it; 0 when there is none
	anchor  uint16 // index of the trust anchor's name
	bits    uint8
	most    uint8 // maximum length
}

func (r *record) key() key { return key{r.hi, r.lo, r.bits} }

func (r *record) prefix4() netip.Prefix {
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], uint32(r.hi>>32))
	return netip.PrefixFrom(netip.AddrFrom4(a), int(r.bits))
}

func (r *record) prefix6() netip.Prefix {
	var a [16]byte
	binary.BigEndian.PutUint64(a[:8], r.hi)
	binary.BigEndian.PutUint64(a[8:], r.lo)
	return netip.PrefixFrom(netip.AddrFrom16(a), int(r.bits))
}

// comparePayload orders records by all that validation looks at.
func comparePayload(a, b *record) int {
	if c := a.key().compare(b.key()); c != 0 {
		return c
	}
	if a.asn != b.asn {
		return cmp.Compare(a.asn, b.asn)
	}
	return int(a.most) - int(b.most)
}

// table holds the records of one family in the order of comparePayload, and of their trust anchors.
// All records of a prefix lie together, and every prefix before those inside it.
type table struct {
	records []record
	// samples holds hi of every sampling-th record: a part small enough to stay in the processor's
	// cache, in which a search begins.
	samples []uint64
}

const sampling = 64

func compareRecords(a, b record) int {
	if c := comparePayload(&a, &b); c != 0 {
		return c
	}
	return cmp.Or(cmp.Compare(a.anchor, b.anchor), cmp.Compare(b.expires, a.expires))
}

func samePayload(a, b record) bool { return comparePayload(&a, &b) == 0 }

// newTable links ordered records, which it keeps, each to the prefix around it, and drops repetitions.
func newTable(records []record) table {
	records = slices.CompactFunc(records, func(a, b record) bool { return samePayload(a, b) && a.anchor == b.anchor })
	if cap(records) > len(records)+len(records)/8 {
		records = slices.Clone(records)
	}
	t := table{records: records, samples: make([]uint64, 0, (len(records)+sampling-1)/sampling)}
	var around []uint32 // last records of the prefixes around the present one, plus 1, the longest last
	for i := range records {
		r := &records[i]
		if i%sampling == 0 {
			t.samples = append(t.samples, r.hi)
		}
		if i > 0 && records[i-1].key() == r.key() {
			r.parent = records[i-1].parent
			around[len(around)-1] = uint32(i + 1)
			continue
		}
		for len(around) > 0 && !records[around[len(around)-1]-1].key().covers(r.key()) {
			around = around[:len(around)-1]
		}
		r.parent = 0
		if len(around) > 0 {
			r.parent = around[len(around)-1]
		}
		around = append(around, uint32(i+1))
	}
	return t
}

// last returns the index of the last record whose prefix is q or before it, -1 when there is none.
func (t *table) last(q key) int {
	// The samples bound where records with q's hi can be.
	low, high := 0, len(t.samples)
	for low < high {
		if m := int(uint(low+high) / 2); t.samples[m] < q.hi {
			low = m + 1
		} else {
			high = m
		}
	}
	from := max(low-1, 0) * sampling
	for high < len(t.samples) && t.samples[high] == q.hi {
		high++
	}
	low, high = from, min(high*sampling, len(t.records))
	for low < high {
		if m := int(uint(low+high) / 2); !t.records[m].key().after(q) {
			low = m + 1
		} else {
			high = m
		}
	}
	return low - 1
}

// covering returns the index of the last record whose prefix is q or contains it, -1 when there is
// none. What covers q is around every record between the two, so the record before q leads to it.
func (t *table) covering(q key) int {
	i := t.last(q)
	for i >= 0 && !t.records[i].key().covers(q) {
		i = int(t.records[i].parent) - 1
	}
	return i
}

// next returns the record to see after i, whose prefix is the same or the next shorter one around it;
// -1 when that was all.
func (t *table) next(i int) int {
	if i > 0 && t.records[i-1].key() == t.records[i].key() {
		return i - 1
	}
	return int(t.records[i].parent) - 1
}

// MaxVRPs and MaxASPAs bound a set; the whole RPKI held about 700,000 VRPs in 2026.
const (
	MaxVRPs  = 20_000_000
	MaxASPAs = 5_000_000
)

// maxProviders bounds one ASPA, as the RPKI's own implementations do.
const maxProviders = 10_000

// maxAnchors bounds the names of trust anchors in one set; five RIRs have one each.
const maxAnchors = 1000

// gathered are records in pieces, so that their number can grow without copies of all of them, old and
// new, in memory at once.
type gathered struct {
	pieces [][]record
	n      int
}

func (g *gathered) add(r record) {
	last := len(g.pieces) - 1
	if last < 0 || len(g.pieces[last]) == cap(g.pieces[last]) {
		g.pieces = append(g.pieces, make([]record, 0, min(max(g.n, 16), 16<<10)))
		last++
	}
	g.pieces[last] = append(g.pieces[last], r)
	g.n++
}

// sorted orders the records and returns them in one piece, which g keeps.
func (g *gathered) sorted() []record {
	if len(g.pieces) == 0 {
		return nil
	}
	if len(g.pieces) > 1 {
		g.pieces = [][]record{slices.Concat(g.pieces...)}
	}
	slices.SortFunc(g.pieces[0], compareRecords)
	return g.pieces[0]
}

// Builder gathers what becomes a [Set].
type Builder struct {
	v4, v6  gathered
	anchors []string
	aspas   ASPAs
	built   time.Time
}

// NewBuilder returns a Builder of the empty set.
func NewBuilder() *Builder { return &Builder{aspas: ASPAs{}} }

// Add adds a VRP. One that is there already, by the same trust anchor, only keeps the later expiry.
func (b *Builder) Add(v VRP) error {
	switch p := v.Prefix; {
	case !p.IsValid() || p.Addr().Is4In6():
		return fmt.Errorf("%v is no prefix of a route", p)
	case p != p.Masked():
		return fmt.Errorf("prefix %s has bits set beyond its length", p)
	case int(v.MaxLength) < p.Bits() || int(v.MaxLength) > p.Addr().BitLen():
		return fmt.Errorf("maxLength %d of %s is outside %d to %d", v.MaxLength, p, p.Bits(), p.Addr().BitLen())
	case b.Len() >= MaxVRPs:
		return fmt.Errorf("more than %d VRPs", MaxVRPs)
	}
	anchor, err := b.anchor(v.TA)
	if err != nil {
		return err
	}
	k := keyOf(v.Prefix)
	r := record{hi: k.hi, lo: k.lo, asn: v.ASN, anchor: anchor, bits: k.bits, most: v.MaxLength}
	if !v.Expires.IsZero() {
		r.expires = uint32(min(max(v.Expires.Unix(), 1), math.MaxUint32))
	}
	if v.Prefix.Addr().Is4() {
		b.v4.add(r)
	} else {
		b.v6.add(r)
	}
	return nil
}

func (b *Builder) anchor(name string) (uint16, error) {
	for i := len(b.anchors) - 1; i >= 0; i-- {
		if b.anchors[i] == name {
			return uint16(i), nil
		}
	}
	if len(b.anchors) >= maxAnchors {
		return 0, fmt.Errorf("more than %d trust anchors", maxAnchors)
	}
	b.anchors = append(b.anchors, name)
	return uint16(len(b.anchors) - 1), nil
}

// AddASPA adds an ASPA. Several of one customer count as their union.
func (b *Builder) AddASPA(customer uint32, providers []uint32) error {
	if len(providers) > maxProviders {
		return fmt.Errorf("AS%d names more than %d providers", customer, maxProviders)
	}
	b.aspas.Add(customer, providers)
	switch {
	case len(b.aspas[customer]) > maxProviders:
		return fmt.Errorf("AS%d names more than %d providers in several ASPAs", customer, maxProviders)
	case len(b.aspas) > MaxASPAs:
		return fmt.Errorf("more than %d ASPAs", MaxASPAs)
	}
	return nil
}

// Len is the number of VRPs added.
func (b *Builder) Len() int { return b.v4.n + b.v6.n }

// Duplicate returns a VRP that was added twice, by whatever trust anchors.
func (b *Builder) Duplicate() (VRP, bool) {
	for _, t := range [...]*gathered{&b.v4, &b.v6} {
		records := t.sorted()
		for i := 1; i < len(records); i++ {
			r := &records[i]
			if !samePayload(records[i-1], *r) {
				continue
			}
			v := VRP{Prefix: r.prefix6(), MaxLength: r.most, ASN: r.asn}
			if t == &b.v4 {
				v.Prefix = r.prefix4()
			}
			return v, true
		}
	}
	return VRP{}, false
}

// Set builds the set, which takes all the builder has: it must not be used any more. from names the
// source and its version in evidence.
func (b *Builder) Set(from string) *Set {
	s := &Set{v4: newTable(b.v4.sorted()), v6: newTable(b.v6.sorted()), anchors: b.anchors, aspas: b.aspas, hops: newAttestations(b.aspas), from: from, built: b.built}
	*b = Builder{}
	return s
}

// Delta is what changes between two versions of a set.
type Delta struct {
	Announced, Withdrawn []VRP
	// ASPAs replaces those of the customers it names; a customer with no providers has none any more.
	ASPAs map[uint32][]uint32
}

// With returns s changed by d, as a set of its own; from is as in [NewSet]. A withdrawal takes away
// the VRP whatever its trust anchor; one of what is not there does nothing.
func (s *Set) With(d Delta, from string) (*Set, error) {
	add, remove := NewBuilder(), NewBuilder()
	if s != nil {
		add.anchors = slices.Clone(s.anchors)
	}
	for _, v := range d.Announced {
		if err := add.Add(v); err != nil {
			return nil, err
		}
	}
	for _, v := range d.Withdrawn {
		if err := remove.Add(v); err != nil {
			return nil, err
		}
	}
	if s == nil {
		s = &Set{}
	}
	if n := s.Len() + add.Len(); n > MaxVRPs {
		return nil, fmt.Errorf("more than %d VRPs", MaxVRPs)
	}
	out := &Set{v4: merge(s.v4.records, add.v4.sorted(), remove.v4.sorted()), v6: merge(s.v6.records, add.v6.sorted(), remove.v6.sorted()),
		anchors: add.anchors, aspas: s.aspas, hops: s.hops, from: from, built: s.built}
	if len(d.ASPAs) > 0 {
		out.aspas = maps.Clone(s.aspas)
		if out.aspas == nil {
			out.aspas = ASPAs{}
		}
		for customer, providers := range d.ASPAs {
			delete(out.aspas, customer)
			if len(providers) > 0 {
				out.aspas.Add(customer, providers)
			}
		}
		if len(out.aspas) > MaxASPAs {
			return nil, fmt.Errorf("more than %d ASPAs", MaxASPAs)
		}
		out.hops = newAttestations(out.aspas)
	}
	return out, nil
}

// merge makes a table of the records of another, without some and with others, all of them ordered.
func merge(old, add, remove []record) table {
	all := make([]record, 0, len(old)+len(add))
	for _, r := range old {
		for len(remove) > 0 && comparePayload(&remove[0], &r) < 0 {
			remove = remove[1:]
		}
		if len(remove) > 0 && samePayload(remove[0], r) {
			continue
		}
		for len(add) > 0 && compareRecords(add[0], r) < 0 {
			all, add = append(all, add[0]), add[1:]
		}
		all = append(all, r)
	}
	return newTable(append(all, add...))
}
