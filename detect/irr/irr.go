// Package irr holds what routing registries say: which AS registered a prefix, what sets of ASes and
// routes contain, and whom an AS names as its providers and customers.
//
// It is weak evidence. Anybody may register anything in some registries, and forged objects have paved
// the way for hijacks (Celer, 2022). So every answer names the source it comes from, and sources are
// ranked: those of the five RIRs, where only the holder of a prefix may register it, come first.
//
// A [Database] is immutable, so that any number of verdicts may read it without a lock; a [Builder]
// makes a new one, out of dumps or out of an older one and its changes. Route objects are kept in
// sorted arrays and not in a tree as VRPs are, since there are millions of them: 5 bytes for each
// and 16 (IPv4) or 32 (IPv6) for each prefix, against 112 a prefix in a patricia tree.
package irr

import (
	"net/netip"
	"slices"
	"strings"
)

// State is what the registries say of a prefix and its origin.
type State uint8

const (
	// Unavailable says that there is no database to judge by. It is not NotFound.
	Unavailable  State = iota
	NotFound           // no route object covers the prefix
	Registered         // a route object for the prefix, or one that contains it, names the origin
	Contradicted       // route objects cover the prefix, and all name other origins
)

var stateNames = [...]string{"unavailable", "not_found", "registered", "contradicted"}

func (s State) String() string { return stateNames[s] }

// Route is one route object.
type Route struct {
	Prefix netip.Prefix `json:"prefix"`
	Origin uint32       `json:"origin"`
	Source string       `json:"source"`
	// Authoritative says that only the holder of the prefix can have registered it: the source is an RIR's.
	Authoritative bool `json:"authoritative"`
}

// Answer is a State with its reasons.
type Answer struct {
	State State
	// Exact refines Registered and Contradicted: a route object for the very prefix decides, not one
	// that contains it.
	Exact bool
	// Routes are the route objects that decide, the longest prefix first and of each the best source
	// first. Where Registered they name the origin, otherwise others. At most MaxRoutes.
	Routes []Route
	// Against are, where Registered, the objects of the RIRs for the prefix, or the longest around it
	// that has any, while none of theirs names the origin: somebody else may have registered it.
	// At most MaxRoutes.
	Against []Route
}

// MaxRoutes bounds the route objects that an Answer shows.
const MaxRoutes = 16

// authoritative are the registries in which only the holder of a prefix can register a route: those
// of the RIRs. RIPE-NONAUTH and ARIN-NONAUTH are not among them.
var authoritative = []string{"RIPE", "APNIC", "ARIN", "AFRINIC", "LACNIC"}

// defaultSources ranks the registries: the RIRs, then national and large ones, then those in which
// nobody checks anything. Sources that are not named rank last, in the order of their names.
var defaultSources = append(slices.Clone(authoritative), "JPIRR", "IDNIC", "KRNIC", "TWNIC", "TC",
	"NTTCOM", "LEVEL3", "RADB", "ALTDB", "BELL", "BBOI", "CANARIE", "NESTEGG", "PANIX", "REACH",
	"RIPE-NONAUTH", "ARIN-NONAUTH")

// Database is an immutable set of objects of some registries. The nil Database answers Unavailable
// and knows no sets.
type Database struct {
	order   []string // as given to NewBuilder
	sources []string // by rank
	rir     []bool   // by rank
	v4      table[key4]
	v6      table[key6]
	objects
	memberOf map[string][]claim
	counts   Counts
	from     string
}

// Source names where the database came from.
func (d *Database) Source() string {
	if d == nil {
		return ""
	}
	return d.from
}

// Counts returns what the database holds and what was wrong with what it was built from.
func (d *Database) Counts() Counts {
	if d == nil {
		return Counts{}
	}
	return d.counts
}

// Sources returns the names of the registries that the database has objects of, the best first.
func (d *Database) Sources() []string {
	if d == nil {
		return nil
	}
	return slices.Clone(d.sources)
}

// State says how the origin of p is registered. origin is 0 where it is none (the path is empty or
// ends in an AS_SET).
func (d *Database) State(p netip.Prefix, origin uint32) State {
	switch {
	case d == nil:
		return Unavailable
	case p.Addr().Is4():
		return d.v4.state(makeKey4(p), origin)
	}
	return d.v6.state(makeKey6(p), origin)
}

func (t *table[K]) state(k K, origin uint32) State {
	i := t.covering(k)
	if i == none {
		return NotFound
	}
	for ; i != none; i = t.parents[i] {
		from, to := t.routes(i)
		if slices.Contains(t.origins[from:to], origin) {
			return Registered
		}
	}
	return Contradicted
}

// Check is State with the route objects that decide.
func (d *Database) Check(p netip.Prefix, origin uint32) Answer {
	switch {
	case d == nil:
		return Answer{}
	case p.Addr().Is4():
		return check(d, &d.v4, makeKey4(p), origin)
	}
	return check(d, &d.v6, makeKey6(p), origin)
}

func check[K key[K]](d *Database, t *table[K], k K, origin uint32) Answer {
	a := Answer{State: NotFound}
	first := t.covering(k)
	if first == none {
		return a
	}
	a.State = t.state(k, origin)
	for i := first; i != none; i = t.parents[i] {
		before := len(a.Routes)
		from, to := t.routes(i)
		for j := from; j < to && len(a.Routes) < MaxRoutes; j++ {
			if (t.origins[j] == origin) == (a.State == Registered) {
				a.Routes = append(a.Routes, route(d, t, i, j))
			}
		}
		if len(a.Routes) > before && t.keys[i] == k {
			a.Exact = true
		}
	}
	if a.State == Registered {
		a.Against = against(d, t, first, origin)
	}
	return a
}

// against returns what the RIRs say where it is something else, see [Answer].
func against[K key[K]](d *Database, t *table[K], first, origin uint32) []Route {
	var rs []Route
	for i := first; i != none; i = t.parents[i] {
		longest := len(rs) == 0
		from, to := t.routes(i)
		for j := from; j < to; j++ {
			if !d.rir[t.sources[j]] {
				continue
			}
			if t.origins[j] == origin {
				return nil
			}
			if longest && len(rs) < MaxRoutes {
				rs = append(rs, route(d, t, i, j))
			}
		}
	}
	return rs
}

func route[K key[K]](d *Database, t *table[K], i, j uint32) Route {
	s := t.sources[j]
	return Route{Prefix: t.keys[i].prefix(), Origin: t.origins[j], Source: d.sources[s], Authoritative: d.rir[s]}
}

// OriginatedBy calls yield for every route object that names one of some origins, until it returns
// false. It looks at all route objects: some 10 ms a million.
func (d *Database) OriginatedBy(origins map[uint32]bool, yield func(Route) bool) {
	if d == nil || len(origins) == 0 {
		return
	}
	if originatedBy(d, &d.v4, origins, yield) {
		originatedBy(d, &d.v6, origins, yield)
	}
}

func originatedBy[K key[K]](d *Database, t *table[K], origins map[uint32]bool, yield func(Route) bool) bool {
	for i := range t.keys {
		from, to := t.routes(uint32(i))
		for j := from; j < to; j++ {
			if origins[t.origins[j]] && !yield(route(d, t, uint32(i), j)) {
				return false
			}
		}
	}
	return true
}

// rank returns the place of a source's name in an order, after all of it for others.
func rank(order []string, source string) int {
	if i := slices.Index(order, source); i >= 0 {
		return i
	}
	return len(order)
}

func compareSources(order []string, a, b string) int {
	if c := rank(order, a) - rank(order, b); c != 0 {
		return c
	}
	return strings.Compare(a, b)
}
