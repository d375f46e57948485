// Package bgp decodes and encodes BGP-4 messages (RFC 4271 and its extensions) into the few types
// that detection and investigation need.
package bgp

import (
	"net/netip"
	"slices"
)

// NLRI is one destination of an UPDATE: a masked prefix and, on an ADD-PATH session, its path
// identifier (RFC 7911); otherwise PathID is 0.
type NLRI struct {
	Prefix netip.Prefix
	PathID uint32
}

// LargeCommunity is one RFC 8092 community.
type LargeCommunity struct{ Global, Local1, Local2 uint32 }

// Aggregator is the AS and router that formed an aggregate (RFC 4271 §5.1.7), after the RFC 6793 merge.
type Aggregator struct {
	ASN  uint32
	Addr netip.Addr
}

// Attr is a set of path attributes that are present.
type Attr uint32

const (
	HasOrigin Attr = 1 << iota
	HasASPath
	HasNextHop
	HasMED
	HasLocalPref
	HasAtomicAggregate
	HasAggregator
	HasCommunities
	HasOriginatorID
	HasClusterList
	HasExtCommunities
	HasLargeCommunities
	HasOTC
	HasAIGP
)

// RawAttribute is a path attribute kept as it came, because nothing here interprets it.
type RawAttribute struct {
	Flags, Type uint8
	Value       []byte
}

// Attributes are the path attributes of an UPDATE, decoded. A field means something only where its
// bit is in Has. Slices point into the decoder's scratch space or its input: see [Decoder].
type Attributes struct {
	Has              Attr
	Origin           uint8 // 0 IGP, 1 EGP, 2 INCOMPLETE
	ASPath           ASPath
	NextHop          netip.Addr // from NEXT_HOP, or the global address of MP_REACH_NLRI
	LinkLocal        netip.Addr // the second address of a 32-byte IPv6 next hop; zero when absent
	MED              uint32
	LocalPref        uint32
	Aggregator       Aggregator
	Communities      []uint32 // RFC 1997, high 16 bits first
	ExtCommunities   []uint64 // RFC 4360
	LargeCommunities []LargeCommunity
	OriginatorID     netip.Addr
	ClusterList      []uint32
	OTC              uint32 // RFC 9234
	AIGP             uint64 // RFC 7311
	Unknown          []RawAttribute
}

// Clone returns a deep copy.
func (a *Attributes) Clone() Attributes {
	c := *a
	c.ASPath = a.ASPath.Clone()
	c.Communities = slices.Clone(a.Communities)
	c.ExtCommunities = slices.Clone(a.ExtCommunities)
	c.LargeCommunities = slices.Clone(a.LargeCommunities)
	c.ClusterList = slices.Clone(a.ClusterList)
	c.Unknown = slices.Clone(a.Unknown)
	for i := range c.Unknown {
		c.Unknown[i].Value = slices.Clone(c.Unknown[i].Value)
	}
	return c
}
