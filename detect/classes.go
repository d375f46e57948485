package detect

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/routevigil/routevigil/detect/topology"
)

// Weights of a hypergiant's being concerned. What is said of others is often wrong of them; but a slip of theirs, or
// of a neighbour's with their routes, is an event like any other.
const (
	weightHypergiantLink   = -1.0 // of a new link: it finds new neighbours every day
	weightHypergiantOrigin = -1.0 // it announces the prefixes of those whose servers it runs
	weightHypergiantRoutes = -0.5 // of a leak of its routes: what a neighbour buys of it, or is paid for, is rarely known
)

// ASClass says what an AS is, if that is something special.
type ASClass struct {
	ASN    uint32 `json:"asn"`
	Class  string `json:"class"`  // hypergiant, scrubbing, route_server, or top (it buys transit from nobody, and peers with all others of that kind)
	Detail string `json:"detail"` // its name and what it is known for, or ""
	Source string `json:"source"` // where that is from
}

// String is one line for people.
func (c ASClass) String() string {
	line := fmt.Sprintf("AS%d is %s", c.ASN, map[string]string{"hypergiant": "a hypergiant", "scrubbing": "a scrubbing service",
		"route_server": "a route server", "top": "at the top"}[c.Class])
	if c.Detail != "" {
		line += " (" + c.Detail + ")"
	}
	return line + " by " + c.Source
}

// pathClasses returns what the ASes of a path are, the collector's side first.
func (s *shard) pathClasses(id nodeID) []ASClass {
	classes := []ASClass{}
	path := s.table.paths.tail(nil, id)
	for _, asn := range slices.Backward(path) {
		if g, ok := s.know.Hypergiants.Find(asn); ok {
			classes = append(classes, ASClass{asn, "hypergiant", g.String(), s.know.Hypergiants.Source()})
		}
		if name, ok := topology.Scrubbing(asn); ok {
			classes = append(classes, ASClass{asn, "scrubbing", name, "built in"})
		}
		if s.routeServer(asn) {
			classes = append(classes, ASClass{asn, "route_server", "", cmp.Or(s.know.Hypergiants.Source(), "PeeringDB")})
		}
		if s.top().has(asn) {
			classes = append(classes, ASClass{asn, "top", "", s.know.Relationships.Main()})
		}
	}
	return classes
}

// weighHypergiant adds that one of some ASes is a hypergiant, with what that says of the matter.
func (s *shard) weighHypergiant(v *verdict, weight float64, says string, asns ...uint32) {
	for _, asn := range asns {
		if g, ok := s.know.Hypergiants.Find(asn); ok {
			v.ledger.add("class.hypergiant", weight, "classes", s.know.Hypergiants.Source(), "AS%d is a hypergiant (%s) and %s", asn, g, says)
			return
		}
	}
}
