package propose

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/irr/whois"
)

// maxAsked bounds the prefixes that a server is asked about, one question each.
const maxAsked = 5000

// Ask asks a whois server what its registries say of some networks and prefixes, for where there is no dump of one:
// route objects, aut-nums, and the members of the as-sets that the networks announce. What it has is as if it had
// been read from a dump, except for the sets, whose members the server worked out.
func Ask(ctx context.Context, c whois.Client, asns []uint32, prefixes []netip.Prefix) (*irr.Database, map[string][]uint32, error) {
	s, err := c.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	b := irr.NewBuilder(c.Sources)
	all := map[netip.Prefix]bool{}
	for _, p := range prefixes {
		all[p.Masked()] = true
	}
	for _, a := range asns {
		ps, err := s.Prefixes(a)
		if err != nil {
			return nil, nil, err
		}
		for _, p := range ps {
			all[p.Masked()] = true
		}
		if err := s.AutNum(a, b.Add); err != nil {
			return nil, nil, err
		}
	}
	if len(all) > maxAsked {
		return nil, nil, fmt.Errorf("whois: %s would have to be asked about %d prefixes, more than %d: get a dump of the registries", c.Address, len(all), maxAsked)
	}
	for _, p := range slices.SortedFunc(maps.Keys(all), netip.Prefix.Compare) {
		if err := s.Covering(p, b.Add); err != nil {
			return nil, nil, err
		}
	}
	db := b.Build()
	var names []string
	for _, a := range asns {
		if n := db.AutNum(a); n != nil {
			names = append(names, n.Announces...)
		}
	}
	sets, err := s.ASSets(names)
	return db, sets, err
}
