// Package topology knows how ASes stand to one another: provider, customer or peer, and which of
// them are one organisation. It is what makes a path a valley (Gao 2001; RFC 7908).
package topology

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"iter"
	"math"
	"math/bits"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// Relation is how the first of two ASes stands to the second.
type Relation uint8

const (
	None     Relation = iota // no link known
	Provider                 // the first sells transit to the second
	Customer                 // the first buys transit from the second
	Peer                     // they exchange customer routes
	Sibling                  // they are one organisation
)

var relationNames = [...]string{"no known relation", "provider", "customer", "peer", "sibling"}

func (r Relation) String() string { return relationNames[r] }

// Reverse is how the second stands to the first.
func (r Relation) Reverse() Relation {
	switch r {
	case Provider:
		return Customer
	case Customer:
		return Provider
	}
	return r
}

// Basis is what a relation rests on, the weakest first.
type Basis uint8

const (
	Inferred  Basis = iota // worked out from paths, by [Infer]
	Published              // read from a file
	Declared               // told by the operator of this program
	basisCount
)

// Link is what is known of two neighbours.
type Link struct {
	Relation Relation // None where they are not known as neighbours
	Basis    Basis
	V4, V6   float64 // probabilities that Relation is right for routes of IPv4 and of IPv6, in steps of 1/255
}

// Relationships is an immutable set of AS links with their relation; nil is empty. Each link stands
// with both its ASes and is found with the one that has fewer neighbours, which are sorted: nearly
// every link of the Internet has an end with a handful. 14 bytes a link and 16 to 24 an AS.
type Relationships struct {
	asns       []uint32 // sorted
	places     []uint32 // a hash table of 1 + the place of an AS among asns; 0 is free
	first      []uint32 // by AS, where its neighbours begin; one more at the end
	neighbours []uint32
	facts      []uint8 // by neighbour: relation, and the basis above it
	v4, v6     []uint8 // by neighbour: confidence in 255ths
	sources    [basisCount]string
	mean       float64 // see MeanCustomers
}

const basisShift = 4

// Builder collects links for a set.
type Builder struct {
	links   []builderLink
	basis   Basis
	sources [basisCount]string
}

type builderLink struct {
	a, b         uint32 // a < b
	fact, v4, v6 uint8
}

// NewBuilder returns a builder of links that rest on basis; source names them in evidence.
func NewBuilder(basis Basis, source string) *Builder {
	b := &Builder{basis: basis}
	b.sources[basis] = source
	return b
}

// Set says how x stands to y, for sure. A later word on the same two ASes replaces an earlier one.
func (b *Builder) Set(x, y uint32, rel Relation) { b.Add(x, y, Link{rel, b.basis, 1, 1}) }

// Add says what is known of how x stands to y.
func (b *Builder) Add(x, y uint32, l Link) {
	if x > y {
		x, y, l.Relation = y, x, l.Relation.Reverse()
	}
	b.links = append(b.links, builderLink{x, y, uint8(l.Relation) | uint8(l.Basis)<<basisShift, inSteps(l.V4), inSteps(l.V6)})
}

func inSteps(probability float64) uint8 { return uint8(math.Round(255 * min(max(probability, 0), 1))) }

// Build returns the set. The builder must not be used any more.
func (b *Builder) Build() *Relationships {
	slices.SortStableFunc(b.links, func(x, y builderLink) int { return cmp.Or(cmp.Compare(x.a, y.a), cmp.Compare(x.b, y.b)) })
	links := b.links[:0]
	for i, l := range b.links {
		if i+1 < len(b.links) && b.links[i+1].a == l.a && b.links[i+1].b == l.b {
			continue // corrected later
		}
		links = append(links, l)
	}
	r := &Relationships{sources: b.sources}
	for _, l := range links {
		r.asns = append(r.asns, l.a, l.b)
	}
	slices.Sort(r.asns)
	r.asns = slices.Clone(slices.Compact(r.asns))
	r.places = make([]uint32, 1<<bits.Len(uint(2*len(r.asns))))
	for i, asn := range r.asns {
		slot := r.slot(asn)
		for r.places[slot] != 0 {
			slot = (slot + 1) % uint32(len(r.places))
		}
		r.places[slot] = uint32(i) + 1
	}
	r.first = make([]uint32, len(r.asns)+1)
	places := make([][2]uint32, len(links)) // of a and b among the ASes
	for i, l := range links {
		a, _ := r.place(l.a)
		z, _ := r.place(l.b)
		places[i] = [2]uint32{a, z}
		r.first[a+1]++
		r.first[z+1]++
	}
	for i := range r.asns {
		r.first[i+1] += r.first[i]
	}
	n := 2 * len(links)
	r.neighbours, r.facts, r.v4, r.v6 = make([]uint32, n), make([]uint8, n), make([]uint8, n), make([]uint8, n)
	free := slices.Clone(r.first)
	put := func(at, neighbour uint32, l builderLink) {
		i := free[at]
		free[at]++
		r.neighbours[i], r.facts[i], r.v4[i], r.v6[i] = neighbour, l.fact, l.v4, l.v6
	}
	// An AS's neighbours below itself come first if all of them are put first.
	for i, l := range links {
		rel, basis := Relation(l.fact&(1<<basisShift-1)), l.fact>>basisShift<<basisShift
		l.fact = uint8(rel.Reverse()) | basis
		put(places[i][1], l.a, l)
	}
	for i, l := range links {
		put(places[i][0], l.b, l)
	}
	sold, sellers := 0, 0
	for _, asn := range r.asns {
		if n := r.Customers(asn); n > 0 {
			sold, sellers = sold+n, sellers+1
		}
	}
	r.mean = float64(sold) / float64(max(1, sellers))
	return r
}

// Overlay returns under with what over says replacing it.
func Overlay(under, over *Relationships) *Relationships {
	if under.Len() == 0 {
		return over
	}
	if over.Len() == 0 {
		return under
	}
	b := &Builder{sources: under.sources}
	for basis, source := range over.sources {
		if source != "" {
			b.sources[basis] = source
		}
	}
	for _, r := range []*Relationships{under, over} {
		for pair, l := range r.All() {
			b.Add(pair[0], pair[1], l)
		}
	}
	return b.Build()
}

// All yields every link once, in order: its ASes, the lower first, and how that one stands to the other.
func (r *Relationships) All() iter.Seq2[[2]uint32, Link] {
	return func(yield func([2]uint32, Link) bool) {
		if r == nil {
			return
		}
		for i, a := range r.asns {
			for j := r.first[i]; j < r.first[i+1]; j++ {
				if b := r.neighbours[j]; a < b && !yield([2]uint32{a, b}, r.link(j)) {
					return
				}
			}
		}
	}
}

// slot is where the search for asn in places begins. The multiplier is 2^32 divided by the golden
// ratio (Knuth, The Art of Computer Programming 6.4).
func (r *Relationships) slot(asn uint32) uint32 {
	return uint32(uint64(asn*2654435769) * uint64(len(r.places)) >> 32)
}

func (r *Relationships) place(asn uint32) (i uint32, ok bool) {
	if r == nil {
		return 0, false
	}
	for slot := r.slot(asn); r.places[slot] != 0; slot = (slot + 1) % uint32(len(r.places)) {
		if i := r.places[slot] - 1; r.asns[i] == asn {
			return i, true
		}
	}
	return 0, false
}

// row returns where asn's neighbours begin and end.
func (r *Relationships) row(asn uint32) (from, to uint32) {
	i, ok := r.place(asn)
	if !ok {
		return 0, 0
	}
	return r.first[i], r.first[i+1]
}

func (r *Relationships) link(i uint32) Link {
	return Link{Relation(r.facts[i] & (1<<basisShift - 1)), Basis(r.facts[i] >> basisShift), float64(r.v4[i]) / 255, float64(r.v6[i]) / 255}
}

// Link returns how a stands to b, and how sure that is.
func (r *Relationships) Link(a, b uint32) Link {
	from, to := r.row(a)
	if from2, to2 := r.row(b); to2-from2 < to-from {
		l := r.find(from2, to2, a)
		l.Relation = l.Relation.Reverse()
		return l
	}
	return r.find(from, to, b)
}

func (r *Relationships) find(from, to, neighbour uint32) Link {
	if from == to {
		return Link{}
	}
	i, ok := slices.BinarySearch(r.neighbours[from:to], neighbour)
	if !ok {
		return Link{}
	}
	return r.link(from + uint32(i))
}

// Of returns how a stands to b.
func (r *Relationships) Of(a, b uint32) Relation { return r.Link(a, b).Relation }

// Customers returns how many customers asn has.
func (r *Relationships) Customers(asn uint32) int {
	n := 0
	for from, to := r.row(asn); from < to; from++ {
		if r.link(from).Relation == Provider {
			n++
		}
	}
	return n
}

// MeanCustomers is how many customers those have on average who have any. 0 where nobody has.
func (r *Relationships) MeanCustomers() float64 {
	if r == nil {
		return 0
	}
	return r.mean
}

// Degree returns how many neighbours asn has.
func (r *Relationships) Degree(asn uint32) int {
	from, to := r.row(asn)
	return int(to - from)
}

// Between returns a neighbour that a and b have in common, the lowest; false where they have none.
func (r *Relationships) Between(a, b uint32) (asn uint32, ok bool) {
	from, to := r.row(a)
	from2, to2 := r.row(b)
	if to2-from2 < to-from {
		from, to, from2, to2 = from2, to2, from, to
	}
	for ; from < to; from++ {
		if _, both := slices.BinarySearch(r.neighbours[from2:to2], r.neighbours[from]); both {
			return r.neighbours[from], true
		}
	}
	return 0, false
}

// Cone returns asn's customer cone, sorted: itself, its customers, theirs and so on. It looks at every
// AS once, whatever the links say.
func (r *Relationships) Cone(asn uint32) []uint32 {
	cone, seen := []uint32{asn}, map[uint32]bool{asn: true}
	for i := 0; i < len(cone); i++ {
		for from, to := r.row(cone[i]); from < to; from++ {
			if c := r.neighbours[from]; r.link(from).Relation == Provider && !seen[c] {
				seen[c] = true
				cone = append(cone, c)
			}
		}
	}
	slices.Sort(cone)
	return cone
}

// Len is the number of links.
func (r *Relationships) Len() int {
	if r == nil {
		return 0
	}
	return len(r.neighbours) / 2
}

// Source names where what rests on basis came from.
func (r *Relationships) Source(basis Basis) string {
	if r == nil {
		return ""
	}
	return r.sources[basis]
}

// Main names the source of what is known of most links: what was published or, without that, inferred.
func (r *Relationships) Main() string {
	if s := r.Source(Published); s != "" {
		return s
	}
	return r.Source(Inferred)
}

// maxLinks bounds a file: twenty times the links of the Internet of 2026 that anybody has published.
const maxLinks = 1 << 23

// ReadFile reads CAIDA serial-1 or serial-2 from a file, plain or gzip; see [Read]. from names it in evidence.
func ReadFile(path, from string) (*Relationships, error) {
	b := NewBuilder(Published, from)
	if err := readLines(path, b.readLine); err != nil {
		return nil, fmt.Errorf("AS relationships: %w", err)
	}
	return b.Build(), nil
}

// Read reads CAIDA's serial-1 (a|b|rel) or serial-2 (a|b|rel|source) form, where rel is -1 (a is b's
// provider), 0 (peers) or 1 (siblings). Lines that start with # are comments.
func Read(in io.Reader, source string) (*Relationships, error) {
	b := NewBuilder(Published, source)
	if err := scanLines(in, source, b.readLine); err != nil {
		return nil, fmt.Errorf("AS relationships: %w", err)
	}
	return b.Build(), nil
}

var serialRelations = map[string]Relation{"-1": Provider, "0": Peer, "1": Sibling}

func (b *Builder) readLine(line string) error {
	if len(b.links) >= maxLinks {
		return fmt.Errorf("more than %d links; is this a file of AS relationships?", maxLinks)
	}
	f := strings.Split(line, "|")
	if len(f) < 3 {
		return fmt.Errorf("%q is not of the form AS|AS|-1 or AS|AS|0", line)
	}
	x, err := strconv.ParseUint(f[0], 10, 32)
	if err != nil {
		return fmt.Errorf("%q is not an AS number", f[0])
	}
	y, err := strconv.ParseUint(f[1], 10, 32)
	if err != nil {
		return fmt.Errorf("%q is not an AS number", f[1])
	}
	if x == y {
		return fmt.Errorf("AS%d stands to itself", x)
	}
	rel, ok := serialRelations[f[2]]
	if !ok {
		return fmt.Errorf("relation %q is none of -1 (provider), 0 (peer), 1 (sibling)", f[2])
	}
	b.Set(uint32(x), uint32(y), rel)
	return nil
}

// Organisations says which ASes belong to one organisation. nil knows none.
type Organisations struct {
	of     map[uint32]string
	source string
	next   *Organisations // asked where this one does not say that two belong together
}

// NewOrganisations returns an empty set; source names it in evidence.
func NewOrganisations(source string) *Organisations {
	return &Organisations{of: map[uint32]string{}, source: source}
}

// Set declares that asn belongs to org.
func (o *Organisations) Set(asn uint32, org string) { o.of[asn] = org }

// Len is the number of ASes of which the organisation is known.
func (o *Organisations) Len() int {
	if o == nil {
		return 0
	}
	return len(o.of)
}

// Same reports whether a and b are known to belong to one organisation, and which.
func (o *Organisations) Same(a, b uint32) (org string, ok bool) {
	for ; o != nil; o = o.next {
		if org, ok := o.of[a]; ok && org == o.of[b] {
			return org, true
		}
	}
	return "", false
}

// Or returns o and p as one: two ASes belong together where either says so. Either may be nil.
func (o *Organisations) Or(p *Organisations) *Organisations {
	if o == nil {
		return p
	}
	joined := *o
	joined.next = o.next.Or(p)
	return &joined
}

// Source names where the set came from.
func (o *Organisations) Source() string {
	if o == nil {
		return ""
	}
	if o.next == nil {
		return o.source
	}
	return o.source + ", " + o.next.Source()
}

// ReadOrganisations reads CAIDA's as2org file (plain or gzip): of its two tables only the lines after
// "# format:aut|changed|…" matter, whose first field is the ASN and whose fourth is the organisation.
func ReadOrganisations(path, from string) (*Organisations, error) {
	r := organisationsReader{to: NewOrganisations(from), column: -1}
	if err := readLines(path, r.readLine); err != nil {
		return nil, fmt.Errorf("AS organisations: %w", err)
	}
	return r.to, nil
}

type organisationsReader struct {
	to     *Organisations
	column int // of the organisation; -1 outside the table of ASes
}

func (r *organisationsReader) readLine(line string) error {
	if rest, ok := strings.CutPrefix(line, "# format:"); ok {
		r.column = -1
		if fields := strings.Split(rest, "|"); fields[0] == "aut" {
			r.column = slices.Index(fields, "org_id")
		}
		return nil
	}
	if r.column < 0 {
		return nil
	}
	f := strings.Split(line, "|")
	if len(f) <= r.column {
		return fmt.Errorf("%q has fewer than %d fields", line, r.column+1)
	}
	asn, err := strconv.ParseUint(f[0], 10, 32)
	if err != nil {
		return fmt.Errorf("%q is not an AS number", f[0])
	}
	if len(r.to.of) >= maxLinks {
		return fmt.Errorf("more than %d ASes; is this a file of AS organisations?", maxLinks)
	}
	r.to.Set(uint32(asn), f[r.column])
	return nil
}

// A file of these is some megabytes long; what unpacks to more than maxText is something else.
const (
	maxLine = 1 << 16
	maxText = 1 << 30
)

func readLines(path string, each func(string) error) error {
	return open(path, func(in io.Reader) error { return scanLines(in, path, each) })
}

// open has read read a file, unpacked where it is gzip.
func open(path string, read func(io.Reader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<16)
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(in)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return read(z)
	}
	return read(in)
}

// scanLines calls each for every line that is neither empty nor a comment; "# format:" headers are passed on.
func scanLines(in io.Reader, name string, each func(string) error) error {
	text := &io.LimitedReader{R: in, N: maxText}
	s := bufio.NewScanner(text)
	s.Buffer(nil, maxLine)
	n := 0
	for s.Scan() {
		n++
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "# format:aut|") && !strings.HasPrefix(line, "# format:org_id|") {
			continue
		}
		if err := each(line); err != nil {
			return fmt.Errorf("%s line %d: %w", name, n, err)
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("%s line %d: %w", name, n+1, err)
	}
	if text.N == 0 {
		return fmt.Errorf("%s line %d: the file is longer than %d bytes", name, n, maxText)
	}
	return nil
}
