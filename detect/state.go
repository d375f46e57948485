package detect

import (
	"net/netip"
	"time"
)

// PrefixState answers "who announces this prefix now", from the table as it stands.
type PrefixState struct {
	Prefix        netip.Prefix   `json:"prefix"`
	Covering      []netip.Prefix `json:"covering"`        // announced prefixes that contain it, the longest first
	Origins       []OriginState  `json:"origins"`         // the most widely seen first; empty when nobody announces it
	FullFeedPeers int            `json:"full_feed_peers"` // the denominator of visibility
}

// OriginState is one origin of a prefix.
type OriginState struct {
	ASN      uint32     `json:"asn"`
	Since    time.Time  `json:"since"` // event time since when some peer has had this origin without a break
	Peers    int        `json:"peers"`
	PeerASNs int        `json:"peer_asns"`
	RPKI     string     `json:"rpki"`  // as incident.Prefix.RPKI
	Paths    [][]uint32 `json:"paths"` // a sample of at most 20, collector side first
}

// Prefix returns the state of p. It must be called by the engine's owner, between updates.
func (e *Engine) Prefix(p netip.Prefix) PrefixState {
	e.flush()
	p = p.Masked()
	st := PrefixState{Prefix: p, Covering: []netip.Prefix{}, Origins: []OriginState{}, FullFeedPeers: len(e.fullFeed())}
	s := e.shardOf(p)
	for c := range s.table.covering(p) {
		if len(c.routes) > 0 {
			st.Covering = append(st.Covering, c.prefix)
		}
	}
	id, ok := s.table.lookup(p)
	if !ok {
		return st
	}
	entry := s.table.entry(id)
	byOrigin := map[uint32][]route{}
	for _, r := range entry.routes {
		o := s.table.paths.nodes[r.node].origin
		byOrigin[o] = append(byOrigin[o], r)
	}
	for origin, rs := range byOrigin {
		o := OriginState{ASN: origin, Since: s.table.origin(entry, origin).Since().Time(), Peers: len(rs),
			RPKI: s.know.VRPs.State(p, origin, origin != 0).String(), Paths: [][]uint32{}}
		asns, seen := map[uint32]bool{}, map[nodeID]bool{}
		for _, r := range rs {
			asns[e.peers.list[r.peer].ASN] = true
			if !seen[r.node] && len(o.Paths) < maxStatePaths {
				seen[r.node] = true
				o.Paths = append(o.Paths, s.table.paths.wire(r.node))
			}
		}
		o.PeerASNs = len(asns)
		st.Origins = append(st.Origins, o)
	}
	sortOrigins(st.Origins)
	return st
}
