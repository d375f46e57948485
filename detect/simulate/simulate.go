// Package simulate is to make routing whose truth is known: a [scorecard.Case] of a world of ASes, in which labelled things
// go wrong and others only look so.
//
// There is, so far, the way routes spread, by the rules of Gao and Rexford, from any number of announcements of a prefix:
// true ones, hijacks, forged paths and leaks, past networks that drop RPKI Invalid routes, that follow RFC 9234, that refuse
// long prefixes or whose links are down. There is none yet of prefixes, peers, time or labels: [Case] returns an error.
// Sibling links are not modelled.
package simulate

import (
	"errors"
	"fmt"
	"time"

	"github.com/routevigil/routevigil/detect/scorecard"
	"github.com/routevigil/routevigil/detect/topology"
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
	Prefixes int // that they announce, about; a fifth of them IPv6

	Peers      int // ASes that feed collectors; a third of them have more than one session
	Collectors int

	// Events says how often each kind of event happens. What nobody sees is tried again elsewhere, and left out in the end.
	Events map[string]int
	// Churn is how many updates a second there are without any event: the same routes again with other attributes, and
	// changes of path with no meaning.
	Churn float64

	ROV  float64 // share of transit networks that drop RPKI Invalid routes
	ROA  float64 // share of origins with ROAs
	ASPA float64 // share of networks that attest their providers
	OTC  float64 // share of networks that follow RFC 9234
	// Inferred leaves the relationships out of what the detector is told. Otherwise it gets an imperfect copy of them.
	Inferred bool
}

// DefaultConfiguration is a world that is made in some seconds.
func DefaultConfiguration() Configuration {
	return Configuration{Seed: 1, ASes: 15000, Start: time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC), Duration: 12 * time.Hour,
		Origins: 1500, Prefixes: 8000, Peers: 60, Collectors: 6, Churn: 2,
		ROV: 0.25, ROA: 0.55, ASPA: 0.05, OTC: 0.05}
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
	bad(c.Duration >= 10*time.Minute, "duration: must be at least 10m, is %v", c.Duration)
	bad(c.Origins >= 10, "origins: must be at least 10, is %d", c.Origins)
	bad(c.Prefixes >= c.Origins, "prefixes: must be at least one an origin, is %d", c.Prefixes)
	bad(c.Peers >= 3 && c.Peers <= 2000, "peers: must be 3 to 2000, is %d", c.Peers)
	bad(c.Collectors >= 1 && c.Collectors <= 100, "collectors: must be 1 to 100, is %d", c.Collectors)
	bad(c.Churn >= 0, "churn: must not be negative, is %v", c.Churn)
	for _, s := range []struct {
		name  string
		share float64
	}{{"rov", c.ROV}, {"roa", c.ROA}, {"aspa", c.ASPA}, {"otc", c.OTC}} {
		bad(s.share >= 0 && s.share <= 1, "%s: must be 0 to 1, is %v", s.name, s.share)
	}
	return errors.Join(errs...)
}

// ErrUnfinished is what [Case] returns until there are events to put into a case.
var ErrUnfinished = errors.New("simulation: cases cannot be made yet, only routes be spread")

// Case is to make a case; it returns [ErrUnfinished], or an error that says which part of the configuration cannot be.
func Case(c Configuration) (*scorecard.Case, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("simulation: %w", err)
	}
	return nil, ErrUnfinished
}
