package scenario

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// resolve checks what only the whole file can tell and turns statements into updates.
func (p *parser) resolve() {
	s := p.s
	if s.useWorld {
		s.base = World()
	}
	if s.Start.IsZero() {
		p.fail(p.line, "start: missing: say when it happens")
		return
	}
	s.topo = newTopology(s.Rels())
	p.peerNames()
	if len(p.errs) > 0 {
		return
	}

	s.given = map[peerPrefix]ingest.Update{}
	for i := range s.ribs {
		e := &s.ribs[i]
		p.expand(e, func(v *Vantage, u ingest.Update) {
			if e.via == 0 && u.Attrs.ASPath[0].Type == bgp.ASSequence {
				p.ways[v.Name] = append(p.ways[v.Name], u.Attrs.ASPath[0].ASNs)
			}
			for _, n := range u.Announced {
				k := peerPrefix{v.Peer, n.Prefix}
				if _, twice := s.given[k]; twice {
					p.fail(e.line, "rib: %s already has a route to %s", v.Name, n.Prefix)
					continue
				}
				s.given[k] = ingest.Update{
					Time: ingest.TimeOf(s.Start), Peer: v.Peer, Kind: ingest.RIB, Announced: []bgp.NLRI{n}, Attrs: u.Attrs,
				}
			}
		})
	}
	computed := 0
	for _, o := range s.allOrigins() {
		computed += len(o.prefixes)
	}
	if computed*len(s.Peers()) > p.room {
		p.fail(p.line, "more than %d routes in all: make the scenario smaller", maxRoutes)
		return
	}
	p.room -= computed * len(s.Peers())
	s.rib = sync.OnceValue(s.buildRIB)

	for i := range s.events {
		p.expand(&s.events[i], func(_ *Vantage, u ingest.Update) { s.updates = append(s.updates, u) })
	}
	slices.SortStableFunc(s.updates, func(a, b ingest.Update) int { return cmp.Compare(a.Time, b.Time) })
}

// peerNames fills byName.
func (p *parser) peerNames() {
	s, byName := p.s, p.byName
	sessions := map[ingest.Peer]string{}
	single := map[string]bool{}
	for _, v := range s.Peers() {
		if other, taken := sessions[v.Peer]; taken {
			p.fail(v.line, "peer: %s and %s are one session", other, v.Name)
		}
		if single[v.Name] {
			p.fail(v.line, "peer: the world already has a peer called %s", v.Name)
		}
		sessions[v.Peer], single[v.Name] = v.Name, true
		byName["all"] = append(byName["all"], v)
		byName[v.Name] = append(byName[v.Name], v)
	}
	for _, v := range s.Peers() {
		if single[v.Collector] {
			p.fail(v.line, "peer: %s is the name of a peer and of a collector", v.Collector)
		} else {
			byName[v.Collector] = append(byName[v.Collector], v)
		}
	}
	for _, g := range s.groups {
		if byName[g.name] != nil {
			p.fail(g.line, "group: %s is already the name of a peer or collector", g.name)
			continue
		}
		var members []Vantage
		for _, m := range g.members {
			vs := byName[m]
			if vs == nil {
				p.fail(g.line, "group %s: there is no peer %q", g.name, m)
			}
			for _, v := range vs {
				if !slices.Contains(members, v) {
					members = append(members, v)
				}
			}
		}
		byName[g.name] = members
	}
}

// expand gives the updates of one statement, one for each peer and address family.
func (p *parser) expand(e *event, emit func(*Vantage, ingest.Update)) {
	s := p.s
	seen := map[string]bool{}
	for _, name := range e.peers {
		vs, known := p.byName[name]
		if !known {
			p.fail(e.line, "there is no peer, group or collector %q", name)
			continue
		}
		for i := range vs {
			v := &vs[i]
			if seen[v.Name] {
				continue
			}
			seen[v.Name] = true
			u := ingest.Update{Time: ingest.TimeOf(s.Start.Add(e.at)), Peer: v.Peer}
			if p.room -= max(1, len(e.prefixes)); p.room < 0 {
				p.fail(e.line, "more than %d routes in all: make the scenario smaller", maxRoutes)
				return
			}
			switch e.verb {
			case down:
				u.Kind = ingest.PeerDown
				emit(v, u)
			case up:
				u.Kind = ingest.PeerUp
				emit(v, u)
			case withdraw:
				u.Withdrawn = nlri(e.prefixes)
				emit(v, u)
			case announce:
				path, ok := p.fullPath(e, v)
				if !ok {
					if name == v.Name {
						p.fail(e.line, "%s has no way to AS%d: give a rel, an earlier rib line, or the whole path", v.Name, e.via)
					}
					continue
				}
				for _, is4 := range []bool{true, false} {
					family := slices.DeleteFunc(slices.Clone(e.prefixes), func(p netip.Prefix) bool { return p.Addr().Is4() != is4 })
					if len(family) == 0 {
						continue
					}
					hop, err := nextHop(e.nextHop, v.Addr, is4)
					if err != nil {
						if name == v.Name {
							p.fail(e.line, "%s: %v", v.Name, err)
						}
						continue
					}
					u.Announced = nlri(family)
					u.Attrs = bgp.Attributes{
						Has:    bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop,
						ASPath: path, NextHop: hop, Communities: e.communities, OTC: e.otc,
					}
					if len(e.communities) > 0 {
						u.Attrs.Has |= bgp.HasCommunities
					}
					if e.hasOTC {
						u.Attrs.Has |= bgp.HasOTC
					}
					emit(v, u)
				}
			}
		}
	}
}

func nlri(prefixes []netip.Prefix) []bgp.NLRI {
	list := make([]bgp.NLRI, len(prefixes))
	for i, p := range prefixes {
		list[i].Prefix = p
	}
	return list
}

// nextHop chooses the next hop: the one given, or else the peer itself, IPv4-mapped for IPv6 routes
// of an IPv4 session, as routers do.
func nextHop(given, peer netip.Addr, is4 bool) (netip.Addr, error) {
	hop := given
	if !hop.IsValid() {
		hop = peer
	}
	if is4 && !hop.Is4() {
		return hop, fmt.Errorf("nexthop: an IPv4 route needs an IPv4 next hop, not %s", hop)
	}
	if !is4 && hop.Is4() {
		return netip.AddrFrom16(hop.As16()), nil
	}
	return hop, nil
}

// fullPath puts v's usual way to e.via before e's path.
func (p *parser) fullPath(e *event, v *Vantage) (bgp.ASPath, bool) {
	if e.via == 0 {
		return e.path, true
	}
	way := p.usualWay(e.via, v)
	if way == nil {
		return nil, false
	}
	rest := e.path.Clone()
	if len(rest) > 0 && rest[0].Type == bgp.ASSequence {
		rest[0].ASNs = slices.Concat(way, rest[0].ASNs)
		return rest, true
	}
	return append(bgp.ASPath{{Type: bgp.ASSequence, ASNs: way}}, rest...), true
}

// usualWay gives v's path to asn: as its first rib line that contains asn goes, or by Gao–Rexford.
func (p *parser) usualWay(asn uint32, v *Vantage) []uint32 {
	for _, way := range p.ways[v.Name] {
		if i := slices.Index(way, asn); i >= 0 {
			return way[:i+1]
		}
	}
	if p.spread[asn] == nil {
		p.spread[asn] = p.s.topo.spread([]uint32{asn}, link{})
	}
	return path(p.spread[asn], v.ASN, v.Partial)
}

// peerPrefix is the key of a route.
type peerPrefix struct {
	peer   ingest.Peer
	prefix netip.Prefix
}

// buildRIB gives the routes of rib lines and, to every prefix of an origin statement for which there
// is none, each peer's Gao–Rexford route.
func (s *Scenario) buildRIB() []ingest.Update {
	origins := map[netip.Prefix][]uint32{}
	var prefixes []netip.Prefix
	for _, o := range s.allOrigins() {
		for _, x := range o.prefixes {
			prefixes = append(prefixes, x)
			origins[x] = append(origins[x], o.asn)
		}
	}
	for k := range s.given {
		prefixes = append(prefixes, k.prefix)
	}
	slices.SortFunc(prefixes, netip.Prefix.Compare)
	prefixes = slices.Compact(prefixes)
	routes := map[string]map[uint32]route{} // by origins
	best := make([]map[uint32]route, len(prefixes))
	for i, x := range prefixes {
		if list := origins[x]; list != nil {
			k := fmt.Sprint(list)
			if routes[k] == nil {
				routes[k] = s.topo.spread(list, link{})
			}
			best[i] = routes[k]
		}
	}
	var rib []ingest.Update
	for _, v := range s.Peers() {
		for i, x := range prefixes {
			if u, has := s.given[peerPrefix{v.Peer, x}]; has {
				rib = append(rib, u)
				continue
			}
			way := path(best[i], v.ASN, v.Partial)
			hop, err := nextHop(netip.Addr{}, v.Addr, x.Addr().Is4())
			if way == nil || err != nil { // err: an IPv6 session carries no IPv4 routes
				continue
			}
			rib = append(rib, ingest.Update{
				Time: ingest.TimeOf(s.Start), Peer: v.Peer, Kind: ingest.RIB, Announced: []bgp.NLRI{{Prefix: x}},
				Attrs: bgp.Attributes{
					Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: hop,
					ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: way}},
				},
			})
		}
	}
	return rib
}
