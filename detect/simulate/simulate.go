// Package simulate makes routing whose truth is known: a [scorecard.Case] of a world of ASes, in which labelled things go
// wrong and others only look so.
//
// Routes spread by the rules of Gao and Rexford, past networks that drop RPKI Invalid routes, that follow RFC 9234, that
// refuse long prefixes or whose links are down; none of the detector's code has a part in it. The world stands still between
// changes: at each, the routes that every vantage point settles at are worked out, and each of its sessions tells the
// difference after a delay of its own (half a second and, after an exponential distribution, 6 seconds times a slowness of
// the session's between 0.5 and 2; 90 seconds at most). Of a prefix that goes, two in five vantage points tell their second
// best path for a moment first. All the time links fail and are repaired, and routes are told again with another MED.
//
// An event is drawn at its time, again and again until at least three peer ASes would see it, is undone after some minutes,
// and meanwhile nothing else happens to the ASes that it concerns, but for links that fail. At the end all tables are as at
// the beginning. The detector is told the ROAs, the organisations, and an imperfect copy of the relationships: 2 % of the
// transit links and 20 % of the peerings are missing, 1 % of the transit links are called peerings and 3 % of the peerings
// transit. Three in five of the networks with customers register most of these in an as-set, as in truth they must for their
// providers' filters; nothing else is registered. The registries' statistics speak of space that nobody has and of space just
// delegated alone.
//
// Not modelled: IPv6; sibling links (siblings are two origins of one organisation); squatting on what was delegated, typos
// in prefixes, forged paths with more than two ASes behind the forger, networks that are cut off in part, changes of ROAs with
// time, collectors that fall silent, route objects and policies of the IRR, and route servers; updates that BGP sends between two
// states, but for that second path; links that fail for one prefix at a time; the rare AS that changes its route at a failure though
// no vantage point's path crosses the link.
package simulate

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/scorecard"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Configuration says what world, and what happens in it. Everything follows from it: the same configuration gives the same
// case, byte for byte.
type Configuration struct {
	Seed uint64
	// Relationships are the links of the world, the true ones; nil makes a world of ASes networks by [Generate].
	Relationships *topology.Relationships
	ASes          int

	Start    time.Time
	Duration time.Duration
	Origins  int // ASes whose prefixes are in the case
	Prefixes int // that they announce, about

	Peers      int // ASes that feed collectors; a third of them have more than one session
	Collectors int

	// Events says how often each of [Kinds] happens. What too few peers would see is tried again elsewhere, and left out in
	// the end.
	Events map[string]int
	// Churn is how often a second a route is told again with another MED, by all sessions of its vantage point.
	Churn float64
	// Failures is how many links an hour fail, for half a minute to five.
	Failures float64

	ROV  float64 // share of transit networks that drop RPKI Invalid routes
	ROA  float64 // share of origins with ROAs
	ASPA float64 // share of networks that attest their providers
	OTC  float64 // share of networks that follow RFC 9234
	IRR  float64 // share of networks with customers that register who these are
	// Inferred leaves the relationships out of what the detector is told. Otherwise it gets an imperfect copy of them.
	Inferred bool
}

// DefaultConfiguration is a world that is made in some seconds.
func DefaultConfiguration() Configuration {
	return Configuration{Seed: 1, ASes: 15000, Start: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), Duration: 12 * time.Hour,
		Origins: 1500, Prefixes: 8000, Peers: 60, Collectors: 4, Events: Each(6), Churn: 2, Failures: 12,
		ROV: 0.25, ROA: 0.55, ASPA: 0.05, OTC: 0.05, IRR: 0.6}
}

// Each has every kind of event happen n times.
func Each(n int) map[string]int {
	events := map[string]int{}
	for kind := range kinds {
		events[kind] = n
	}
	return events
}

// Validate reports every value out of range.
func (c Configuration) Validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	bad(c.Relationships != nil || c.ASes >= 100 && c.ASes <= 200_000, "ases: must be 100 to 200,000, is %d", c.ASes)
	bad(c.Duration >= 30*time.Minute, "duration: must be at least 30m, is %v", c.Duration)
	bad(c.Origins >= 10, "origins: must be at least 10, is %d", c.Origins)
	bad(c.Prefixes >= c.Origins && c.Prefixes <= 200_000, "prefixes: must be at least one an origin and at most 200,000, is %d", c.Prefixes)
	bad(c.Peers >= 3 && c.Peers <= 2000, "peers: must be 3 to 2000, is %d", c.Peers)
	bad(c.Collectors >= 1 && c.Collectors <= 100, "collectors: must be 1 to 100, is %d", c.Collectors)
	bad(c.Churn >= 0 && c.Churn <= 10_000, "churn: must be 0 to 10,000, is %v", c.Churn)
	bad(c.Failures >= 0 && c.Failures <= 1000, "failures: must be 0 to 1000, is %v", c.Failures)
	for _, kind := range slices.Sorted(maps.Keys(c.Events)) {
		bad(kinds[kind] != nil, "events: %q is no kind of event", kind)
		bad(c.Events[kind] >= 0, "events: %s: must not be negative, is %d", kind, c.Events[kind])
	}
	for _, s := range []struct {
		name  string
		share float64
	}{{"rov", c.ROV}, {"roa", c.ROA}, {"aspa", c.ASPA}, {"otc", c.OTC}, {"irr", c.IRR}} {
		bad(s.share >= 0 && s.share <= 1, "%s: must be 0 to 1, is %v", s.name, s.share)
	}
	return errors.Join(errs...)
}

// Case makes a case. An error says which part of the configuration cannot be.
func Case(c Configuration) (*scorecard.Case, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("simulation: %w", err)
	}
	w, err := newWorld(c)
	if err != nil {
		return nil, fmt.Errorf("simulation: %w", err)
	}
	h := newHistory(w)
	start := h.now
	h.hum(start.Add(c.Duration * 5 / 6))
	h.begin(start, c.Events)
	h.run()
	h.settle()

	k := &scorecard.Case{Name: fmt.Sprintf("simulated-%d", c.Seed),
		Knowledge: detect.Knowledge{VRPs: w.attested(), Organisations: w.organisations(), Delegations: w.delegations()}, RIB: w.dump(start, h.rib), Updates: h.updates}
	if c.IRR > 0 {
		k.Knowledge.IRR = w.registry()
	}
	if !c.Inferred {
		k.Knowledge.Relationships = w.imperfect()
	}
	for _, l := range h.labels {
		k.Labels = append(k.Labels, *l)
	}
	slices.SortStableFunc(k.Labels, func(a, b scorecard.Label) int { return cmp.Compare(a.Start, b.Start) })
	return k, nil
}

// blackholeCommunity is BLACKHOLE (RFC 7999 §5).
const blackholeCommunity = 0xffff029a

func (w *world) attributes(session int32, r *route, p bgp.NLRI) bgp.Attributes {
	a := bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: r.path}},
		NextHop: w.sessions[session].Addr}
	if r.otc != 0 {
		a.Has, a.OTC = a.Has|bgp.HasOTC, r.otc
	}
	if r.med != 0 {
		a.Has, a.MED = a.Has|bgp.HasMED, r.med
	}
	if p.Prefix.Bits() == 32 {
		a.Has, a.Communities = a.Has|bgp.HasCommunities, []uint32{blackholeCommunity}
	}
	return a
}

// dump yields the tables at the start, session by session.
func (w *world) dump(start ingest.Time, rib [][]*route) func(func(*ingest.Update, error) bool) {
	return func(yield func(*ingest.Update, error) bool) {
		for v := range w.vantages {
			for _, s := range w.vantages[v].sessions {
				for i, routes := range rib {
					if r := routes[v]; r != nil {
						n := bgp.NLRI{Prefix: w.destinations[i].prefix}
						u := &ingest.Update{Time: start, Peer: w.sessions[s], Kind: ingest.RIB, Announced: []bgp.NLRI{n}, Attrs: w.attributes(int32(s), r, n)}
						if !yield(u, nil) {
							return
						}
					}
				}
			}
		}
	}
}

// updates yields what the sessions say: in one update what one says at one time with the same attributes.
func (h *history) updates(yield func(*ingest.Update, error) bool) {
	for i := 0; i < len(h.messages); {
		m := h.messages[i]
		u := &ingest.Update{Time: m.at, Peer: h.sessions[m.session]}
		switch m.what {
		case goesDown:
			u.Kind = ingest.PeerDown
		case comesUp:
			u.Kind = ingest.PeerUp
		default:
			n := bgp.NLRI{Prefix: h.destinations[m.destination].prefix}
			if m.route == nil {
				u.Withdrawn = append(u.Withdrawn, n)
			} else {
				u.Announced, u.Attrs = append(u.Announced, n), h.attributes(m.session, m.route, n)
			}
			for i+1 < len(h.messages) {
				next := h.messages[i+1]
				if next.at != m.at || next.session != m.session || next.what != says || next.route != m.route {
					break
				}
				n := bgp.NLRI{Prefix: h.destinations[next.destination].prefix}
				if i++; m.route == nil {
					u.Withdrawn = append(u.Withdrawn, n)
				} else {
					u.Announced = append(u.Announced, n)
				}
			}
		}
		i++
		if !yield(u, nil) {
			return
		}
	}
}
