// Package gobgptest decodes BGP with GoBGP, an implementation that shares nothing with ours, and gives what it
// found in our terms, for tests to compare. GoBGP merges AS4_PATH elsewhere than in its decoder, so here is that
// by the letter of RFC 6793, slow and plain.
package gobgptest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/routevigil/routevigil/ingest/bgp"
)

var families = []bgp.Family{bgp.IPv4Unicast, bgp.IPv6Unicast, bgp.IPv4Multicast, bgp.IPv6Multicast}

// Options are those of a session, as GoBGP has them.
func Options(o bgp.Options) *gobgp.MarshallingOption {
	m := &gobgp.MarshallingOption{Use2ByteAS: o.TwoOctetAS, ExtendedMessage: true, AddPath: map[gobgp.Family]gobgp.BGPAddPathMode{}}
	for _, f := range families {
		if o.AddPath.Has(f) {
			m.AddPath[gobgp.NewFamily(f.AFI(), f.SAFI())] = gobgp.BGP_ADD_PATH_BOTH
		}
	}
	return m
}

// Update decodes an UPDATE message, header included. The error is GoBGP's, also one that a session survives.
func Update(message []byte, o bgp.Options) (*bgp.Update, error) {
	m, err := gobgp.ParseBGPMessage(message, Options(o))
	if err != nil {
		return nil, err
	}
	parsed, ok := m.Body.(*gobgp.BGPUpdate)
	if !ok {
		return nil, fmt.Errorf("message type %d", m.Header.Type)
	}
	u := &bgp.Update{}
	u.Withdrawn = routes(u.Withdrawn, parsed.WithdrawnRoutes)
	u.Announced = routes(u.Announced, parsed.NLRI)
	u.Classic = len(u.Announced)
	if err := Attributes(u, parsed.PathAttributes, o); err != nil {
		return nil, err
	}
	return u, nil
}

func routes(to []bgp.NLRI, from []gobgp.PathNLRI) []bgp.NLRI {
	for _, r := range from {
		if p, ok := r.NLRI.(*gobgp.IPAddrPrefix); ok {
			to = append(to, bgp.NLRI{Prefix: p.Prefix.Masked(), PathID: r.ID})
		}
	}
	return to
}

// Attributes sets what attributes say, of which only the first of each type counts (RFC 7606 §3 (g)).
func Attributes(u *bgp.Update, list []gobgp.PathAttributeInterface, o bgp.Options) error {
	a := &u.Attrs
	var as4Path bgp.ASPath
	var as4Aggregator *gobgp.PathAttributeAggregatorParam
	seen := map[gobgp.BGPAttrType]bool{}
	for _, p := range list {
		if seen[p.GetType()] {
			continue
		}
		seen[p.GetType()] = true
		switch p := p.(type) {
		case *gobgp.PathAttributeOrigin:
			a.Origin = p.Value
			a.Has |= bgp.HasOrigin
		case *gobgp.PathAttributeAsPath:
			for _, s := range p.Value {
				a.ASPath = append(a.ASPath, bgp.Segment{Type: bgp.SegmentType(s.GetType()), ASNs: s.GetAS()})
			}
			a.Has |= bgp.HasASPath
		case *gobgp.PathAttributeAs4Path:
			as4Path = bgp.ASPath{}
			for _, s := range p.Value {
				as4Path = append(as4Path, bgp.Segment{Type: bgp.SegmentType(s.Type), ASNs: s.AS})
			}
		case *gobgp.PathAttributeNextHop:
			a.NextHop = p.Value
			a.Has |= bgp.HasNextHop
		case *gobgp.PathAttributeMultiExitDisc:
			a.MED = p.Value
			a.Has |= bgp.HasMED
		case *gobgp.PathAttributeLocalPref:
			a.LocalPref = p.Value
			a.Has |= bgp.HasLocalPref
		case *gobgp.PathAttributeAtomicAggregate:
			a.Has |= bgp.HasAtomicAggregate
		case *gobgp.PathAttributeAggregator:
			a.Aggregator = bgp.Aggregator{ASN: p.Value.AS, Addr: p.Value.Address}
			a.Has |= bgp.HasAggregator
		case *gobgp.PathAttributeAs4Aggregator:
			as4Aggregator = &p.Value
		case *gobgp.PathAttributeCommunities:
			a.Communities = p.Value
			a.Has |= bgp.HasCommunities
		case *gobgp.PathAttributeOriginatorId:
			a.OriginatorID = p.Value
			a.Has |= bgp.HasOriginatorID
		case *gobgp.PathAttributeClusterList:
			for _, c := range p.Value {
				a.ClusterList = append(a.ClusterList, binary.BigEndian.Uint32(c.AsSlice()))
			}
			a.Has |= bgp.HasClusterList
		case *gobgp.PathAttributeExtendedCommunities:
			for _, c := range p.Value {
				b, err := c.Serialize()
				if err != nil || len(b) != 8 {
					return fmt.Errorf("extended community %v: %d octets, %v", c, len(b), err)
				}
				a.ExtCommunities = append(a.ExtCommunities, binary.BigEndian.Uint64(b))
			}
			a.Has |= bgp.HasExtCommunities
		case *gobgp.PathAttributeLargeCommunities:
			for _, c := range p.Values {
				a.LargeCommunities = append(a.LargeCommunities, bgp.LargeCommunity{Global: c.ASN, Local1: c.LocalData1, Local2: c.LocalData2})
			}
			a.Has |= bgp.HasLargeCommunities
		case *gobgp.PathAttributeAigp:
			for _, v := range p.Values {
				if metric, ok := v.(*gobgp.AigpTLVIgpMetric); ok && a.Has&bgp.HasAIGP == 0 {
					a.AIGP = metric.Metric
					a.Has |= bgp.HasAIGP
				}
			}
		case *gobgp.PathAttributeMpReachNLRI:
			u.MPReach, u.MPNextHop, u.MPLinkLocal = bgp.FamilyOf(p.AFI, p.SAFI), p.Nexthop, p.LinkLocalNexthop
			if u.MPReach.SAFI() == 2 {
				u.MulticastAnnounced = routes(u.MulticastAnnounced, p.Value)
			} else {
				u.Announced = routes(u.Announced, p.Value)
			}
		case *gobgp.PathAttributeMpUnreachNLRI:
			u.MPUnreach = bgp.FamilyOf(p.AFI, p.SAFI)
			if u.MPUnreach.SAFI() == 2 {
				u.MulticastWithdrawn = routes(u.MulticastWithdrawn, p.Value)
			} else {
				u.Withdrawn = routes(u.Withdrawn, p.Value)
			}
		case *gobgp.PathAttributeUnknown:
			if p.Type == 35 && len(p.Value) == 4 { // OTC (RFC 9234 §5), which GoBGP does not know
				a.OTC = binary.BigEndian.Uint32(p.Value)
				a.Has |= bgp.HasOTC
				continue
			}
			a.Unknown = append(a.Unknown, bgp.RawAttribute{Flags: uint8(p.Flags), Type: uint8(p.Type), Value: p.Value})
		default: // one that GoBGP knows and ours does not
			b, err := p.Serialize()
			if err != nil {
				return fmt.Errorf("attribute %d: %w", p.GetType(), err)
			}
			header := 3
			if p.GetFlags()&gobgp.BGP_ATTR_FLAG_EXTENDED_LENGTH != 0 {
				header = 4
			}
			a.Unknown = append(a.Unknown, bgp.RawAttribute{Flags: uint8(p.GetFlags()), Type: uint8(p.GetType()), Value: b[header:]})
		}
	}
	if u.Classic == 0 && u.MPNextHop.IsValid() {
		a.NextHop, a.LinkLocal = u.MPNextHop, u.MPLinkLocal
		a.Has |= bgp.HasNextHop
	}
	if o.TwoOctetAS {
		merge(a, as4Path, as4Aggregator)
	}
	return nil
}

// merge is RFC 6793 §4.2.3.
func merge(a *bgp.Attributes, path bgp.ASPath, aggregator *gobgp.PathAttributeAggregatorParam) {
	const asTrans = 23456
	// "If the NEW BGP speaker receives both … AGGREGATOR and AS4_AGGREGATOR … if the AS number in the AGGREGATOR
	// attribute is not AS_TRANS: the AS4_AGGREGATOR attribute and the AS4_PATH attribute SHALL be ignored."
	if aggregator != nil && a.Has&bgp.HasAggregator != 0 {
		if a.Aggregator.ASN != asTrans {
			return
		}
		a.Aggregator = bgp.Aggregator{ASN: aggregator.AS, Addr: aggregator.Address}
	}
	if path == nil {
		return
	}
	// "If the number of AS numbers in the AS_PATH attribute is less than the number of AS numbers in the AS4_PATH
	// attribute, then the AS4_PATH attribute SHALL be ignored", counted as in RFC 4271 §9.1.2.2 and RFC 5065 §5.3;
	// otherwise as many are taken from the front of AS_PATH as AS4_PATH has fewer, confederation segments with
	// them "if they are either leading path segments or are adjacent to path segments that are prepended". Each
	// hop stands for itself here, and the path is put together again at the end.
	type hop struct {
		typ  bgp.SegmentType
		asns []uint32 // several only of a set or of a confederation segment
	}
	hops := func(p bgp.ASPath) (all []hop) {
		for _, s := range p {
			if s.Type == bgp.ASSequence {
				for _, asn := range s.ASNs {
					all = append(all, hop{s.Type, []uint32{asn}})
				}
			} else {
				all = append(all, hop{s.Type, s.ASNs})
			}
		}
		return all
	}
	counts := func(h hop) bool { return h.typ == bgp.ASSequence || h.typ == bgp.ASSet }
	count := func(all []hop) (n int) {
		for _, h := range all {
			if counts(h) {
				n++
			}
		}
		return n
	}
	old, as4 := hops(a.ASPath), slices.DeleteFunc(hops(path), func(h hop) bool { return !counts(h) })
	missing := count(old) - len(as4)
	if missing < 0 {
		return
	}
	var result bgp.ASPath
	add := func(h hop) {
		if n := len(result); h.typ == bgp.ASSequence && n > 0 && result[n-1].Type == bgp.ASSequence {
			result[n-1].ASNs = append(result[n-1].ASNs, h.asns...)
			return
		}
		result = append(result, bgp.Segment{Type: h.typ, ASNs: slices.Clone(h.asns)})
	}
	for _, h := range old {
		if counts(h) {
			if missing == 0 {
				break
			}
			missing--
		}
		add(h) // a confederation segment that is reached is leading or adjacent
	}
	for _, h := range as4 {
		add(h)
	}
	a.ASPath = result
}

// NextHop is that of the MP_REACH_NLRI in a list of path attributes, in the form of messages, and not in that which
// RFC 6396 §4.3.4 prescribes for tables.
func NextHop(list []byte) (hop, linkLocal netip.Addr, err error) {
	for len(list) >= 3 {
		p, err := gobgp.GetPathAttribute(list)
		if err != nil {
			return hop, linkLocal, err
		}
		err = p.DecodeFromBytes(list)
		if mp, ok := p.(*gobgp.PathAttributeMpReachNLRI); ok {
			return mp.Nexthop, mp.LinkLocalNexthop, err
		}
		list = list[min(p.Len(), len(list)):]
	}
	return hop, linkLocal, fmt.Errorf("no MP_REACH_NLRI")
}
