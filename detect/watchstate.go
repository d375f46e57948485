package detect

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/ingest"
)

// WatchState is a watch with what it stands for and what is found now.
type WatchState struct {
	Name        string         `json:"name"`
	Importance  string         `json:"importance"` // low, normal or high
	Prefixes    []netip.Prefix `json:"prefixes"`   // with those of its route-sets
	ASNs        []uint32       `json:"asns"`
	ASSets      []string       `json:"as_sets"`
	Members     int            `json:"members"` // networks within as_sets
	Origins     []uint32       `json:"origins"` // that may originate the prefixes, at most 100 of OriginCount; empty: any
	OriginCount int            `json:"origin_count"`
	Neighbours  []uint32       `json:"neighbours"` // that may stand behind asns; empty: any
	Planned     []PlanState    `json:"planned"`    // that still hold
	Mutes       []MuteState    `json:"mutes"`      // that still hold
	Found       WatchFound     `json:"found"`
	Incidents   []string       `json:"incidents"` // ids of those that are open, the first detected first; at most 100
}

// PlanState is a plan that holds.
type PlanState struct {
	Until     time.Time      `json:"until"`
	Reason    string         `json:"reason"`
	Origins   []uint32       `json:"origins"`
	Upstreams []uint32       `json:"upstreams"`
	Prefixes  []netip.Prefix `json:"prefixes"`
}

// MuteState is a mute that holds.
type MuteState struct {
	Until    time.Time       `json:"until"`
	Reason   string          `json:"reason"`
	Kinds    []incident.Kind `json:"kinds"`
	Prefixes []netip.Prefix  `json:"prefixes"`
	ASNs     []uint32        `json:"asns"`
}

// WatchFound is what the table has now, and what of it the watch does not name, be it new or not: an incident opens only
// of what judgeWatched says. Each list is a sample of at most 100.
type WatchFound struct {
	Announced  int           `json:"announced"` // watched prefixes, and parts of them, that some peer has
	Origins    []FoundOrigin `json:"unknown_origins"`
	Prefixes   []FoundOrigin `json:"unknown_prefixes"`
	Neighbours []FoundLink   `json:"unknown_neighbours"`
}

// FoundOrigin is a prefix with an origin.
type FoundOrigin struct {
	Prefix netip.Prefix `json:"prefix"`
	Origin uint32       `json:"origin"`
	Peers  int          `json:"peers"`
}

// FoundLink is a network that passes on routes of a watched one.
type FoundLink struct {
	ASN       uint32 `json:"asn"` // the watched one
	Neighbour uint32 `json:"neighbour"`
	Routes    int    `json:"routes"` // of all peers
}

// maxFound bounds the lists of a WatchState.
const maxFound = 100

// Watches returns the watches in the order of the configuration. It goes through the whole table once.
func (e *Engine) Watches() []WatchState {
	e.flush()
	w := e.known.watched
	states := []WatchState{}
	if w == nil {
		return states
	}
	found := make([]WatchFound, len(w.all))
	links := make([]map[[2]uint32]int, len(w.all))
	for i := range links {
		links[i] = map[[2]uint32]int{}
	}
	for _, s := range e.shards {
		for _, en := range s.table.all() {
			if s.watches(en) {
				s.findWatched(en, found, links)
			}
		}
	}
	now := max(e.clock, e.history.Now())
	open := map[string][]string{}
	for _, inc := range e.cases.incidents() {
		for _, name := range inc.Watches {
			if inc.Status == incident.Open && len(open[name]) < maxFound {
				open[name] = append(open[name], inc.ID)
			}
		}
	}
	for i, x := range w.all {
		f := found[i]
		for _, l := range slices.SortedFunc(maps.Keys(links[i]), func(a, b [2]uint32) int {
			return cmp.Or(cmp.Compare(links[i][b], links[i][a]), cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1]))
		}) {
			f.Neighbours = append(f.Neighbours, FoundLink{l[0], l[1], links[i][l]})
		}
		states = append(states, x.state(now, f, open[x.Name]))
	}
	return states
}

// findWatched adds what an entry has to what is found for each watch.
func (s *shard) findWatched(e *entry, found []WatchFound, links []map[[2]uint32]int) {
	w := s.know.watched
	set := map[*watch]bool{}
	for n := range e.prefix.Bits() + 1 {
		if w.lengths[family(e.prefix.Addr())][n] {
			mark(set, w.at[netip.PrefixFrom(e.prefix.Addr(), n).Masked()])
		}
	}
	for x := range set {
		found[x.place].Announced++
	}
	_, expecting := w.longest(e.prefix, func(x *watch) bool { return len(x.origins) > 0 })
	s.table.history.Each(e.origins, func(o *origins.Pair) bool {
		if o.Routes() == 0 || o.Origin() == 0 {
			return true
		}
		f := FoundOrigin{e.prefix, o.Origin(), o.Routes()}
		if expecting != nil && !slices.ContainsFunc(expecting, func(x *watch) bool { return has(x.origins, f.Origin) }) {
			for _, x := range expecting {
				found[x.place].Origins = append(found[x.place].Origins, f)
			}
		}
		for _, x := range w.own[f.Origin] {
			if len(x.Prefixes) > 0 && !slices.ContainsFunc(w.own[f.Origin], func(y *watch) bool { return y.partial || within(e.prefix, y.Prefixes) }) {
				found[x.place].Prefixes = append(found[x.place].Prefixes, f)
			}
		}
		return true
	})
	for _, r := range e.routes {
		if s.table.paths.nodes[r.node].flags&flagWatched == 0 {
			continue
		}
		tail := s.table.paths.tail(nil, r.node)
		for i := 0; i+1 < len(tail); i++ {
			if x := w.unknownNeighbour(tail[i], tail[i+1]); x != nil {
				links[x.place][[2]uint32{tail[i], tail[i+1]}]++
			}
		}
	}
}

func (x *watch) state(now ingest.Time, f WatchFound, incidents []string) WatchState {
	st := WatchState{Name: x.Name, Importance: string(cmp.Or(x.Importance, NormalImportance)), Prefixes: some(x.Prefixes), ASNs: some(x.ASNs), ASSets: some(x.ASSets),
		Members: len(x.members), Origins: some(x.origins[:min(len(x.origins), maxFound)]), OriginCount: len(x.origins), Neighbours: some(x.neighbours),
		Planned: []PlanState{}, Mutes: []MuteState{}, Incidents: some(incidents), Found: f}
	slices.SortFunc(f.Origins, compareFound)
	slices.SortFunc(f.Prefixes, compareFound)
	st.Found.Origins, st.Found.Prefixes = some(f.Origins[:min(len(f.Origins), maxFound)]), some(f.Prefixes[:min(len(f.Prefixes), maxFound)])
	st.Found.Neighbours = some(f.Neighbours[:min(len(f.Neighbours), maxFound)])
	for _, p := range x.Watch.Planned {
		if now < ingest.TimeOf(p.Until) {
			st.Planned = append(st.Planned, PlanState{p.Until.UTC(), p.Reason, some(p.Origins), some(p.Upstreams), some(p.Prefixes)})
		}
	}
	for _, m := range x.Watch.Mutes {
		if now < ingest.TimeOf(m.Until) {
			st.Mutes = append(st.Mutes, MuteState{m.Until.UTC(), m.Reason, some(m.Kinds), some(m.Prefixes), some(m.ASNs)})
		}
	}
	return st
}

func compareFound(a, b FoundOrigin) int {
	return cmp.Or(comparePrefixes(a.Prefix, b.Prefix), cmp.Compare(a.Origin, b.Origin))
}

// some copies a list; nil becomes empty.
func some[T any](list []T) []T { return append([]T{}, list...) }
