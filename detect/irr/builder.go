package irr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/routevigil/routevigil/detect/irr/rpsl"
)

// Counts says what a Database holds, and what the objects it was built from were found to be.
type Counts struct {
	Prefixes, Routes, Sets, AutNums int
	// Skipped are objects of classes that are of no use here.
	Skipped uint64
	// Malformed counts objects that were passed over, by reason: those of package rpsl, and BadPrefix and so on.
	Malformed map[string]uint64
}

// Reasons why an object that is well-formed RPSL is passed over.
const (
	BadPrefix      = "bad_prefix"       // not a prefix of the class's address family, or one with host bits
	TooShort       = "prefix_too_short" // shorter than /8 or /16: nobody holds so much
	BadOrigin      = "bad_origin"       // not an AS number, or 0
	BadName        = "bad_name"         // of a set or an AS
	NoSource       = "no_source"
	TooManySources = "too_many_sources" // more than MaxSources
	TooManyRoutes  = "too_many_routes"  // more than MaxRouteObjects
)

const (
	// MaxSources bounds the registries of a database; there are about 40.
	MaxSources = 250
	// MaxRouteObjects bounds the route objects of a database; there are about 5 million.
	MaxRouteObjects = 50_000_000

	maxName = 255
)

const dropped = ^uint8(0) // in place of a rank: a source whose objects go

// objectKey identifies a set or an aut-num within all registries.
type objectKey struct{ name, source string }

type routeKey struct {
	prefix netip.Prefix
	origin uint32
	source string
}

// claim is a member-of of an aut-num or a route, which its set may or may not honour.
type claim struct {
	asn         uint32       // of an aut-num
	prefix      netip.Prefix // of a route
	source      string
	maintainers []string
}

// objects are those that are few enough to be kept in maps.
type objects struct {
	sets    map[string][]*set // by name, the best source first
	autNums map[uint32][]*AutNum
	claims  map[routeKey]routeClaim
}

type routeClaim struct{ sets, maintainers []string }

// Builder makes a Database. It is not for use by several goroutines at once.
type Builder struct {
	base    *Database
	order   []string
	ids     map[string]uint8 // of sources
	sources []string
	drop    map[string]bool // sources of base whose objects go
	used    int             // objects
	changes uint32          // of route objects
	v4      []record[key4]
	v6      []record[key6]
	sets    map[objectKey]*set
	autNums map[autNumKey]*AutNum
	claims  map[routeKey]routeClaim
	names   map[string]string // interned
	from    []string
	counts  Counts
}

type autNumKey struct {
	asn    uint32
	source string
}

// NewBuilder returns an empty Builder. order ranks the sources, the best first. Where it is empty, the
// RIRs' come first, then national and large ones, then those in which nobody checks anything.
func NewBuilder(order []string) *Builder {
	if len(order) == 0 {
		order = defaultSources
	}
	upper := make([]string, len(order))
	for i, s := range order {
		upper[i] = strings.ToUpper(s)
	}
	return &Builder{order: upper, ids: map[string]uint8{}, drop: map[string]bool{}, sets: map[objectKey]*set{}, autNums: map[autNumKey]*AutNum{},
		claims: map[routeKey]routeClaim{}, names: map[string]string{}, counts: Counts{Malformed: map[string]uint64{}}}
}

// Edit returns a Builder that starts with all of d, which it leaves as it is. It copies the sets and
// aut-nums, not the route objects.
func (d *Database) Edit() *Builder {
	b := NewBuilder(d.order)
	b.base, b.from = d, []string{d.from}
	b.counts.Skipped = d.counts.Skipped
	maps.Copy(b.counts.Malformed, d.counts.Malformed)
	for _, s := range d.sources {
		b.source(s)
	}
	for name, sets := range d.sets {
		for _, s := range sets {
			b.sets[objectKey{name, s.source}] = s
		}
	}
	for asn, as := range d.autNums {
		for _, a := range as {
			b.autNums[autNumKey{asn, a.Source}] = a
		}
	}
	maps.Copy(b.claims, d.claims)
	return b
}

// ReadFiles makes a Database of dumps, plain or gzip. from names each in evidence; order is as for NewBuilder.
func ReadFiles(paths, from, order []string) (*Database, error) {
	b := NewBuilder(order)
	for i, path := range paths {
		if err := b.readFile(path, from[i]); err != nil {
			return nil, fmt.Errorf("IRR %s: %w", from[i], err)
		}
	}
	return b.Build(), nil
}

func (b *Builder) readFile(path, from string) error {
	f, err := os.Open(path)
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			return pe.Err
		}
		return err
	}
	defer f.Close()
	before := b.used
	if err := b.Read(f, from); err != nil {
		return err
	}
	if b.used == before {
		return errors.New("holds no object of use: expected an RPSL dump with route, route6, aut-num, as-set or route-set objects")
	}
	return nil
}

// Read adds the objects of a dump; name says where it is from. What is malformed is counted and
// passed over; the error is the input's, and some objects may have been added by then.
func (b *Builder) Read(in io.Reader, name string) error {
	r, err := rpsl.NewReader(in)
	if err != nil {
		return err
	}
	b.from = append(b.from, name)
	for {
		o, err := r.Next()
		if err != nil {
			c := r.Counts()
			b.counts.Skipped += c.Objects[rpsl.Other]
			for reason, n := range c.Malformed {
				b.counts.Malformed[reason] += n
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		b.Add(o)
	}
}

// Add adds an object, of which nothing is kept, or replaces the one with its key. One that is
// malformed is counted and passed over.
func (b *Builder) Add(o *rpsl.Object) { b.change(o, false) }

// Remove takes an object away, of which the key and the source count. It need not be there.
func (b *Builder) Remove(o *rpsl.Object) { b.change(o, true) }

func (b *Builder) change(o *rpsl.Object, gone bool) {
	source := b.upper(o.Get("source"))
	reason := ""
	switch {
	case o.Class == rpsl.Other || o.Class == rpsl.Mntner:
		b.counts.Skipped++
		return
	case source == "" || len(source) > maxName:
		reason = NoSource
	case o.Class == rpsl.Route || o.Class == rpsl.Route6:
		reason = b.changeRoute(o, source, gone)
	case o.Class == rpsl.AutNum:
		reason = b.changeAutNum(o, source, gone)
	default:
		reason = b.changeSet(o, source, gone)
	}
	if reason != "" {
		b.counts.Malformed[reason]++
	} else {
		b.used++
	}
}

// Drop takes all objects of a source away, those added before included.
func (b *Builder) Drop(source string) {
	source = strings.ToUpper(source)
	b.drop[source] = true
	if id, ok := b.ids[source]; ok {
		b.v4 = slices.DeleteFunc(b.v4, func(r record[key4]) bool { return r.source == id })
		b.v6 = slices.DeleteFunc(b.v6, func(r record[key6]) bool { return r.source == id })
	}
	maps.DeleteFunc(b.sets, func(k objectKey, _ *set) bool { return k.source == source })
	maps.DeleteFunc(b.autNums, func(k autNumKey, _ *AutNum) bool { return k.source == source })
	maps.DeleteFunc(b.claims, func(k routeKey, _ routeClaim) bool { return k.source == source })
}

// Merge makes one Database of dumps and of registries that are mirrored, each of which may be nil for what there is not
// yet; it is nil where all are. Of a registry that is mirrored nothing of the dumps counts. order is as for NewBuilder.
// What was wrong with the objects is not counted again.
func Merge(order []string, dumps *Database, mirrored ...*Database) *Database {
	b := NewBuilder(order)
	b.take(dumps, func(source string) bool {
		return !slices.ContainsFunc(mirrored, func(m *Database) bool { return slices.Contains(m.Sources(), source) })
	})
	for _, m := range mirrored {
		b.take(m, func(string) bool { return true })
	}
	if len(b.from) == 0 {
		return nil
	}
	return b.Build()
}

// take adds the objects that from has of those sources that wanted accepts, or replaces those with their keys.
func (b *Builder) take(from *Database, wanted func(source string) bool) {
	if from == nil {
		return
	}
	b.from = append(b.from, from.from)
	ids, take := make([]uint8, len(from.sources)), make([]bool, len(from.sources))
	for rank, name := range from.sources {
		if take[rank] = wanted(name); take[rank] {
			if ids[rank], take[rank] = b.source(name); !take[rank] {
				b.counts.Malformed[TooManySources]++
			}
		}
	}
	b.v4, b.v6 = takeRoutes(b, b.v4, &from.v4, ids, take), takeRoutes(b, b.v6, &from.v6, ids, take)
	taken := func(source string) bool {
		rank := slices.Index(from.sources, source)
		return rank >= 0 && take[rank]
	}
	for name, sets := range from.sets {
		for _, s := range sets {
			if taken(s.source) {
				b.sets[objectKey{name, s.source}] = s
			}
		}
	}
	for asn, as := range from.autNums {
		for _, a := range as {
			if taken(a.Source) {
				b.autNums[autNumKey{asn, a.Source}] = a
			}
		}
	}
	for k, c := range from.claims {
		if taken(k.source) {
			b.claims[k] = c
		}
	}
}

func takeRoutes[K key[K]](b *Builder, records []record[K], from *table[K], ids []uint8, take []bool) []record[K] {
	records = slices.Grow(records, len(from.origins))
	for i, k := range from.keys {
		for j := from.first[i]; j < from.first[i+1]; j++ {
			rank := from.sources[j]
			if !take[rank] {
				continue
			}
			if b.changes == MaxRouteObjects {
				b.counts.Malformed[TooManyRoutes]++
				continue
			}
			b.changes++
			records = append(records, record[K]{k, from.origins[j], b.changes, ids[rank], false})
		}
	}
	return records
}

// Name says where the objects are from.
func (b *Builder) Name(from string) { b.from = []string{from} }

// source returns the id of a source, which is no rank yet, and whether there is room for it.
func (b *Builder) source(name string) (uint8, bool) {
	id, ok := b.ids[name]
	if ok {
		return id, true
	}
	if len(b.sources) == MaxSources {
		return 0, false
	}
	id = uint8(len(b.sources))
	b.ids[name] = id
	b.sources = append(b.sources, name)
	return id, true
}

func (b *Builder) changeRoute(o *rpsl.Object, source string, gone bool) string {
	p, ok := parsePrefix(o.Key())
	if !ok || p.Addr().Is4() != (o.Class == rpsl.Route) {
		return BadPrefix
	}
	if p.Addr().Is4() && p.Bits() < 8 || p.Addr().Is6() && p.Bits() < 16 {
		return TooShort
	}
	origin, ok := parseASN(o.Get("origin"))
	if !ok || origin == 0 {
		return BadOrigin
	}
	id, ok := b.source(source)
	if !ok {
		return TooManySources
	}
	if b.changes == MaxRouteObjects {
		return TooManyRoutes
	}
	b.changes++
	if p.Addr().Is4() {
		b.v4 = append(b.v4, record[key4]{makeKey4(p), origin, b.changes, id, gone})
	} else {
		b.v6 = append(b.v6, record[key6]{makeKey6(p), origin, b.changes, id, gone})
	}
	if memberOf := o.Get("member-of"); memberOf != nil && !gone {
		b.claims[routeKey{p, origin, source}] = routeClaim{b.nameList(o, "member-of"), b.nameList(o, "mnt-by")}
	} else if len(b.claims) > 0 {
		delete(b.claims, routeKey{p, origin, source})
	}
	return ""
}

func (b *Builder) changeAutNum(o *rpsl.Object, source string, gone bool) string {
	asn, ok := parseASN(o.Key())
	if !ok {
		return BadName
	}
	k := autNumKey{asn, source}
	if delete(b.autNums, k); gone {
		return ""
	}
	if _, ok := b.source(source); !ok {
		return TooManySources
	}
	b.autNums[k] = b.autNum(o, asn, source)
	return ""
}

func (b *Builder) changeSet(o *rpsl.Object, source string, gone bool) string {
	name, class := b.setName(o.Key())
	if class != o.Class {
		return BadName
	}
	k := objectKey{name, source}
	if delete(b.sets, k); gone {
		return ""
	}
	if _, ok := b.source(source); !ok {
		return TooManySources
	}
	b.sets[k] = b.set(o, name, source)
	return ""
}

// AppendKey appends what tells an object from all others of its registry: two objects for which it is the same replace
// each other. ok is false where a Builder would pass the object over.
func AppendKey(buf []byte, o *rpsl.Object) (key []byte, ok bool) {
	buf = append(buf, byte(o.Class))
	switch o.Class {
	case rpsl.Route, rpsl.Route6:
		p, ok := parsePrefix(o.Key())
		origin, known := parseASN(o.Get("origin"))
		if !ok || !known || p.Addr().Is4() != (o.Class == rpsl.Route) {
			return buf, false
		}
		return binary.BigEndian.AppendUint32(p.AppendTo(buf), origin), true
	case rpsl.AutNum:
		asn, ok := parseASN(o.Key())
		return binary.BigEndian.AppendUint32(buf, asn), ok
	case rpsl.ASSet, rpsl.RouteSet:
		name := strings.ToUpper(string(o.Key()))
		return append(buf, name...), len(name) <= maxName && classOfName(name) == o.Class
	}
	return buf, false
}

// read are the attributes that a Builder reads, beside the first of an object.
var read = []string{"origin", "source", "member-of", "mnt-by", "mbrs-by-ref", "members", "mp-members", "import", "mp-import",
	"export", "mp-export", "default", "mp-default"}

// Reads reports whether a Builder reads an attribute: of a copy of a registry the rest can be left out.
func Reads(attribute []byte) bool { return slices.Contains(read, string(attribute)) }

// upper returns a name in upper case, the same string each time.
func (b *Builder) upper(name []byte) string {
	var buf [maxName + 1]byte
	if len(name) > maxName {
		return ""
	}
	up := buf[:copy(buf[:], name)]
	for i, c := range up {
		if c >= 'a' && c <= 'z' {
			up[i] = c - 0x20
		}
	}
	if s, ok := b.names[string(up)]; ok {
		return s
	}
	s := string(up)
	b.names[s] = s
	return s
}

// nameList returns the names in all attributes with a name.
func (b *Builder) nameList(o *rpsl.Object, attribute string) []string {
	var names []string
	for _, a := range o.Attributes {
		if string(a.Name) == attribute {
			words(a.Value, func(w []byte) {
				if n := b.upper(w); n != "" {
					names = append(names, n)
				}
			})
		}
	}
	return names
}

// Build returns the Database. It needs some 50 bytes for each route object that was added, until it is
// done. The Builder must not be used afterwards.
func (b *Builder) Build() *Database {
	d := &Database{order: b.order, from: strings.Join(b.from, ", "), counts: b.counts,
		objects: objects{map[string][]*set{}, map[uint32][]*AutNum{}, b.claims}, memberOf: map[string][]claim{}}
	d.sources = slices.Clone(b.sources)
	slices.SortFunc(d.sources, func(x, y string) int { return compareSources(b.order, x, y) })
	ranks := make([]uint8, len(b.sources))
	for rank, name := range d.sources {
		ranks[b.ids[name]] = uint8(rank)
		d.rir = append(d.rir, slices.Contains(authoritative, name))
	}
	base := &Database{}
	var baseRanks []uint8
	if b.base != nil {
		base = b.base
		for _, name := range base.sources {
			rank := ranks[b.ids[name]]
			if b.drop[name] {
				rank = dropped
			}
			baseRanks = append(baseRanks, rank)
		}
	}
	for i := range b.v4 {
		b.v4[i].source = ranks[b.v4[i].source]
	}
	for i := range b.v6 {
		b.v6[i].source = ranks[b.v6[i].source]
	}
	d.v4, d.v6 = base.v4.merge(baseRanks, b.v4), base.v6.merge(baseRanks, b.v6)
	for k, s := range b.sets {
		d.sets[k.name] = append(d.sets[k.name], s)
	}
	for _, sets := range d.sets {
		slices.SortFunc(sets, func(x, y *set) int { return compareSources(b.order, x.source, y.source) })
	}
	for k, a := range b.autNums {
		d.autNums[k.asn] = append(d.autNums[k.asn], a)
		for _, name := range a.memberOf {
			d.memberOf[name] = append(d.memberOf[name], claim{asn: k.asn, source: k.source, maintainers: a.maintainers})
		}
	}
	for _, as := range d.autNums {
		slices.SortFunc(as, func(x, y *AutNum) int { return compareSources(b.order, x.Source, y.Source) })
	}
	for k, c := range b.claims {
		for _, name := range c.sets {
			d.memberOf[name] = append(d.memberOf[name], claim{prefix: k.prefix, source: k.source, maintainers: c.maintainers})
		}
	}
	d.counts.Prefixes, d.counts.Routes = len(d.v4.keys)+len(d.v6.keys), len(d.v4.origins)+len(d.v6.origins)
	d.counts.Sets, d.counts.AutNums = len(b.sets), len(b.autNums)
	*b = Builder{}
	return d
}
