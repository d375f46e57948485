package detect

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/ingest"
)

// Survey is what the table and its history show of some networks.
type Survey struct {
	Live       bool                `json:"-"` // some peer has a route to anything; otherwise there is nothing but history
	Prefixes   []SurveyedPrefix    `json:"prefixes"`
	Neighbours []SurveyedNeighbour `json:"neighbours"` // that stand behind one of the networks on paths to these prefixes
}

// SurveyedPrefix is a prefix that one of the networks originates, or usually does, or that lies in such a one or in a
// space that was given.
type SurveyedPrefix struct {
	Prefix  netip.Prefix     `json:"prefix"`
	Origins []SurveyedOrigin `json:"origins"` // that it has now or usually, the one with most peers first
}

// SurveyedOrigin is one origin of a prefix.
type SurveyedOrigin struct {
	origins.Facts
	Peers int    `json:"peers"` // that have a route to it now
	RPKI  string `json:"rpki"`
}

// SurveyedNeighbour is a network that passes on routes of one of the networks.
type SurveyedNeighbour struct {
	ASN    uint32 `json:"asn"`
	Behind uint32 `json:"behind"` // the network whose routes they are
	Routes int    `json:"routes"` // of all peers
	New    bool   `json:"new"`    // they have never been learned to be neighbours
}

// Survey looks through the whole table, some 20 ms a million prefixes.
func (e *Engine) Survey(asns []uint32, space []netip.Prefix) Survey {
	e.flush()
	now, active := max(e.clock, e.history.Now()), e.peers.active
	e.peers.countActive()
	defer func() { e.peers.active = active }() // it is as of the last tick
	own := sortedSet(asns)
	space = slices.Clone(space)
	for _, s := range e.shards {
		for _, en := range s.table.all() {
			if s.originatedBy(en, own, now) {
				space = append(space, en.prefix)
			}
		}
	}
	w := compileWatches(WatchList{{Prefixes: space}}, nil, nil)
	found := Survey{Prefixes: []SurveyedPrefix{}, Neighbours: []SurveyedNeighbour{}}
	links := map[[2]uint32]int{}
	for _, s := range e.shards {
		found.Live = found.Live || s.table.routes > 0
		for _, en := range s.table.all() {
			if !w.covers(en.prefix) || len(en.routes) == 0 && !s.originatedBy(en, own, now) {
				continue
			}
			found.Prefixes = append(found.Prefixes, s.surveyPrefix(en, now))
			for _, r := range en.routes {
				tail := s.table.paths.tail(nil, r.node)
				for i := 0; i+1 < len(tail); i++ {
					if has(own, tail[i]) && tail[i+1] != 0 {
						links[[2]uint32{tail[i], tail[i+1]}]++
					}
				}
			}
		}
	}
	slices.SortFunc(found.Prefixes, func(a, b SurveyedPrefix) int { return comparePrefixes(a.Prefix, b.Prefix) })
	for _, l := range slices.SortedFunc(maps.Keys(links), func(a, b [2]uint32) int {
		return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(links[b], links[a]), cmp.Compare(a[1], b[1]))
	}) {
		found.Neighbours = append(found.Neighbours, SurveyedNeighbour{l[1], l[0], links[l], !e.links.adjacent(l[0], l[1])})
	}
	return found
}

func (s *shard) originatedBy(e *entry, own []uint32, now ingest.Time) bool {
	ours := false
	s.table.history.Each(e.origins, func(o *origins.Pair) bool {
		ours = has(own, o.Origin()) && (o.Routes() > 0 || s.table.history.Usual(o, now))
		return !ours
	})
	return ours
}

func (s *shard) surveyPrefix(e *entry, now ingest.Time) SurveyedPrefix {
	p := SurveyedPrefix{Prefix: e.prefix, Origins: []SurveyedOrigin{}}
	s.table.history.Each(e.origins, func(o *origins.Pair) bool {
		if o.Routes() > 0 || s.table.history.Usual(o, now) {
			p.Origins = append(p.Origins, SurveyedOrigin{s.table.history.Facts(o, now, s.peers.active), o.Routes(),
				s.know.VRPs.State(e.prefix, o.Origin(), o.Origin() != 0).String()})
		}
		return true
	})
	slices.SortStableFunc(p.Origins, func(a, b SurveyedOrigin) int { return cmp.Compare(b.Peers, a.Peers) })
	return p
}
