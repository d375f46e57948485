package irr

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/routevigil/routevigil/detect/irr/rpsl"
)

// set is an as-set or a route-set (RFC 2622 §5.1 and §5.2, RFC 4012 §4.2).
type set struct {
	source  string
	asns    []uint32 // of an as-set
	names   []string // sets of an as-set, with a source or not: RIPE::AS-EXAMPLE
	members []member // of a route-set
	by      []string // mbrs-by-ref: the maintainers whose members count, or ANY
}

// member is a member of a route-set: a prefix, an AS (the routes it originates) or a set.
type member struct {
	prefix netip.Prefix
	asn    uint32
	name   string
	op     rangeOperator
}

// rangeOperator chooses among the more-specifics of prefixes (RFC 2622 §2): ^- ^+ ^n ^n-m.
type rangeOperator struct {
	kind rune // 0 for none, '-', '+', 'n'
	n, m uint8
}

// apply returns which lengths of more-specifics remain of those from n to m, of addresses of size bits.
func (o rangeOperator) apply(n, m, size uint8) (from, to uint8, ok bool) {
	switch o.kind {
	case '-':
		return n + 1, size, n < size
	case '+':
		return n, size, true
	case 'n':
		n = max(n, o.n)
		return n, o.m, n <= o.m && o.m <= size
	}
	return n, m, true
}

func parseRange(s []byte) (rangeOperator, bool) {
	switch string(s) {
	case "-", "+":
		return rangeOperator{kind: rune(s[0])}, true
	}
	low, high, both := bytes.Cut(s, []byte("-"))
	n, ok := parseNumber(low, 128)
	m := n
	if ok && both {
		m, ok = parseNumber(high, 128)
	}
	return rangeOperator{'n', uint8(n), uint8(m)}, ok && n <= m
}

// set reads a set. What cannot be a member of it is left out.
func (b *Builder) set(o *rpsl.Object, name, source string) *set {
	s := &set{source: source, by: b.nameList(o, "mbrs-by-ref")}
	for _, a := range o.Attributes {
		if n := string(a.Name); n != "members" && n != "mp-members" {
			continue
		}
		words(a.Value, func(w []byte) {
			if o.Class == rpsl.RouteSet {
				b.addMember(s, w)
			} else if asn, ok := parseASN(w); ok {
				s.asns = append(s.asns, asn)
			} else if n, class := b.qualifiedName(w); class == rpsl.ASSet {
				s.names = append(s.names, n)
			}
		})
	}
	s.asns, s.names, s.members = slices.Clip(s.asns), slices.Clip(s.names), slices.Clip(s.members)
	return s
}

func (b *Builder) addMember(s *set, w []byte) {
	text, suffix, ranged := bytes.Cut(w, []byte("^"))
	var m member
	if ranged {
		var ok bool
		if m.op, ok = parseRange(suffix); !ok {
			return
		}
	}
	if p, ok := parsePrefix(text); ok {
		m.prefix = p
	} else if asn, ok := parseASN(text); ok {
		m.asn = asn
	} else if n, class := b.qualifiedName(text); class != rpsl.Other {
		m.name = n
	} else {
		return
	}
	s.members = append(s.members, m)
}

// qualifiedName returns the name of a set, in upper case, with the source before it if it has one.
func (b *Builder) qualifiedName(w []byte) (string, rpsl.Class) {
	name := b.upper(w)
	_, local, qualified := strings.Cut(name, "::")
	if !qualified {
		local = name
	}
	return name, classOfName(local)
}

// find returns the set that a name means, with or without a source, and in how many sources that name is.
func (d *Database) find(name string) (s *set, local string, sources int) {
	source, local, qualified := strings.Cut(name, "::")
	if !qualified {
		source, local = "", name
	}
	sets := d.sets[local]
	for _, s := range sets {
		if source == "" || s.source == source {
			return s, local, len(sets)
		}
	}
	return nil, local, 0
}

// Bounds of the expansion of a set. The largest sets in use have some 60,000 sets within, 100,000 ASes
// and a depth of about 20.
const (
	maxDepth   = 64
	maxSets    = 200_000
	maxMembers = 5_000_000 // looked at, be they new or not

	maxOperators = 4 // on nested route-sets; nobody nests more than 2
)

// Expansion is what became of a set's name.
type Expansion struct {
	Sets []string // that were found within, as SOURCE::NAME, the set itself first
	// Missing are sets that are in no source, as they are written.
	Missing []string
	// Ambiguous are names that several sources have. The best source's was taken.
	Ambiguous []string
	// Any says that AS-ANY or RS-ANY is within: everything is a member.
	Any bool
	// Cut says why the expansion is not complete; empty when it is.
	Cut string
}

// ASes is the expansion of an as-set.
type ASes struct {
	Expansion
	ASNs []uint32 // sorted
}

// Range stands for a prefix's more-specifics of the lengths Min to Max, itself included if Min is its length.
type Range struct {
	Prefix   netip.Prefix
	Min, Max uint8
}

// Ranges is the expansion of a route-set.
type Ranges struct {
	Expansion
	Ranges []Range // sorted, none twice
}

// visit is a set that is to be expanded; of a route-set's members, ops are still to be applied, the
// innermost last.
type visit struct {
	name  string
	depth int
	ops   []rangeOperator
}

// walk expands sets breadth first, each once.
type walk struct {
	d       *Database
	x       *Expansion
	queue   []visit
	seen    map[string]bool // by name and operators, as written and as found
	flagged map[flag]bool
	members int
	most    int // members that are looked at
	asns    map[uint32]bool
	ranges  map[Range]bool
	origins map[string]originated // by operators
}

// originated are ASes whose routes belong to a route-set.
type originated struct {
	ops  []rangeOperator
	asns map[uint32]bool
}

func (d *Database) walk(x *Expansion, names ...string) *walk {
	w := &walk{d: d, x: x, most: maxMembers, seen: map[string]bool{}, flagged: map[flag]bool{}, asns: map[uint32]bool{}, ranges: map[Range]bool{}, origins: map[string]originated{}}
	for _, n := range names {
		w.push(visit{name: strings.ToUpper(n)})
	}
	return w
}

// push queues a set unless it has been.
func (w *walk) push(v visit) {
	if v.name == "AS-ANY" || v.name == "RS-ANY" {
		w.x.Any = true
		return
	}
	key := v.name
	if len(v.ops) > 0 {
		key = fmt.Sprint(v.name, v.ops)
	}
	switch {
	case w.seen[key]:
	case v.depth > maxDepth:
		w.cut("deeper than %d sets", maxDepth)
	case len(v.ops) > maxOperators:
		w.cut("more than %d range operators on a prefix", maxOperators)
	case len(w.seen) >= maxSets:
		w.cut("more than %d sets", maxSets)
	default:
		w.seen[key] = true
		w.queue = append(w.queue, v)
	}
}

func (w *walk) cut(why string, args ...any) {
	if w.x.Cut == "" {
		w.x.Cut = fmt.Sprintf(why, args...)
	}
}

// more counts members and reports whether more of them may be looked at.
func (w *walk) more(n int) bool {
	if w.members += n; w.members > w.most {
		w.cut("more than %d members", w.most)
		w.queue = nil
		return false
	}
	return true
}

// next returns the next set to expand, nil at the end.
func (w *walk) next() (*set, string, visit) {
	for len(w.queue) > 0 {
		v := w.queue[0]
		w.queue = w.queue[1:]
		s, local, sources := w.d.find(v.name)
		if s == nil {
			w.flag(&w.x.Missing, v.name)
			continue
		}
		found := s.source + "::" + local
		if sources > 1 && found != v.name {
			w.flag(&w.x.Ambiguous, v.name)
		}
		w.flag(&w.x.Sets, found)
		return s, local, v
	}
	return nil, "", visit{}
}

// flag is a name in one of an Expansion's lists.
type flag struct {
	list *[]string
	name string
}

// flag adds a name to a list once.
func (w *walk) flag(list *[]string, name string) {
	if key := (flag{list, name}); !w.flagged[key] {
		w.flagged[key] = true
		*list = append(*list, name)
	}
}

// claims calls yield for the objects that name a set in member-of, and whose claim the set honours:
// the object is of the same source, and has one of the set's maintainers (RFC 2622 §5.1).
func (w *walk) claims(s *set, local string, yield func(claim)) {
	if len(s.by) == 0 {
		return
	}
	claims := w.d.memberOf[local]
	if !w.more(len(claims)) {
		return
	}
	for _, c := range claims {
		if c.source == s.source && (slices.Contains(s.by, "ANY") || slices.ContainsFunc(c.maintainers, func(m string) bool { return slices.Contains(s.by, m) })) {
			yield(c)
		}
	}
}

// ASSet expands an as-set, given by its name or as SOURCE::NAME. Cycles end where they meet
// themselves; how much is looked at is bounded. An unknown set is Missing.
func (d *Database) ASSet(name string) ASes { return d.asSets(maxMembers, name) }

func (d *Database) asSets(most int, names ...string) ASes {
	var x ASes
	if d == nil {
		x.Missing = names
		return x
	}
	w := d.walk(&x.Expansion, names...)
	w.most = most
	for s, local, v := w.next(); s != nil; s, local, v = w.next() {
		w.addASes(s, local, v)
	}
	x.ASNs = sorted(w.asns)
	return x
}

func (w *walk) addASes(s *set, local string, v visit) {
	if !w.more(len(s.asns) + len(s.names)) {
		return
	}
	for _, a := range s.asns {
		w.asns[a] = true
	}
	for _, n := range s.names {
		w.push(visit{n, v.depth + 1, v.ops})
	}
	w.claims(s, local, func(c claim) {
		if c.asn != 0 {
			w.asns[c.asn] = true
		}
	})
}

// RouteSet expands a route-set as ASSet does an as-set. ASes and as-sets among its members stand for
// the route objects that name them as origin.
func (d *Database) RouteSet(name string) Ranges {
	var x Ranges
	if d == nil {
		x.Missing = []string{name}
		return x
	}
	w := d.walk(&x.Expansion, name)
	for s, local, v := w.next(); s != nil; s, local, v = w.next() {
		if classOfName(local) == rpsl.ASSet {
			clear(w.asns)
			w.addASes(s, local, v)
			for a := range w.asns {
				w.addOrigin(a, v.ops)
			}
			continue
		}
		if !w.more(len(s.members)) {
			break
		}
		for _, m := range s.members {
			ops := v.ops
			if m.op.kind != 0 {
				ops = append(slices.Clone(ops), m.op)
			}
			switch {
			case m.name != "":
				w.push(visit{m.name, v.depth + 1, ops})
			case m.asn != 0:
				w.addOrigin(m.asn, ops)
			default:
				w.addRange(m.prefix, ops)
			}
		}
		w.claims(s, local, func(c claim) {
			if c.prefix.IsValid() {
				w.addRange(c.prefix, v.ops)
			}
		})
	}
	for _, o := range w.origins {
		d.OriginatedBy(o.asns, func(r Route) bool {
			w.addRange(r.Prefix, o.ops)
			return w.more(1)
		})
	}
	for r := range w.ranges {
		x.Ranges = append(x.Ranges, r)
	}
	slices.SortFunc(x.Ranges, func(a, b Range) int {
		return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Min, b.Min), cmp.Compare(a.Max, b.Max))
	})
	return x
}

// addOrigin takes an AS, which stands for its routes.
func (w *walk) addOrigin(asn uint32, ops []rangeOperator) {
	key := fmt.Sprint(ops)
	o, ok := w.origins[key]
	if !ok {
		o = originated{ops, map[uint32]bool{}}
		w.origins[key] = o
	}
	o.asns[asn] = true
}

// addRange adds a prefix with operators, the innermost of which is the last.
func (w *walk) addRange(p netip.Prefix, ops []rangeOperator) {
	size := uint8(p.Addr().BitLen())
	r := Range{p, uint8(p.Bits()), uint8(p.Bits())}
	for _, op := range slices.Backward(ops) {
		var ok bool
		if r.Min, r.Max, ok = op.apply(r.Min, r.Max, size); !ok {
			return
		}
	}
	w.ranges[r] = true
}

func sorted(set map[uint32]bool) []uint32 {
	list := make([]uint32, 0, len(set))
	for a := range set {
		list = append(list, a)
	}
	slices.Sort(list)
	return list
}
