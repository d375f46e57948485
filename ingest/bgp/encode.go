package bgp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// AppendUpdate appends u as UPDATE messages, as few as are needed: IPv4 unicast routes in the
// message's own fields, or in MP_REACH_NLRI if the next hop is an IPv6 address (RFC 8950), all
// others in MP_REACH_NLRI and MP_UNREACH_NLRI, each family in messages of its own, withdrawals
// first. An update without routes appends nothing.
//
// With o.TwoOctetAS it writes what a session of RFC 6793 §4.2.2 would carry. Announcing needs
// ORIGIN, AS_PATH and a next hop that fits the family; an error says what is missing, and dst is
// then returned as it was.
func AppendUpdate(dst []byte, u *Update, o Options) ([]byte, error) {
	e := encoder{attrs: &u.Attrs, o: o, limit: MaxLength}
	if o.ExtendedMessage {
		e.limit = MaxExtendedLength
	}
	start := len(dst)
	for _, part := range [...]struct {
		family               Family
		withdrawn, announced []NLRI
	}{
		{IPv4Unicast, u.Withdrawn, u.Announced},
		{IPv6Unicast, u.Withdrawn, u.Announced},
		{IPv4Multicast, u.MulticastWithdrawn, u.MulticastAnnounced},
		{IPv6Multicast, u.MulticastWithdrawn, u.MulticastAnnounced},
	} {
		var err error
		if dst, err = e.family(dst, part.family, ofFamily(part.withdrawn, part.family), ofFamily(part.announced, part.family)); err != nil {
			return dst[:start], fmt.Errorf("cannot encode UPDATE: %w", err)
		}
	}
	return dst, nil
}

// AppendRIBAttributes appends the attributes of one TABLE_DUMP_V2 entry: an IPv6 next hop goes into
// the abbreviated MP_REACH_NLRI (RFC 6396 §4.3.4). AS numbers have four octets there. No attribute is
// required, as [Decoder.RIBEntry] requires none.
func AppendRIBAttributes(dst []byte, a *Attributes) ([]byte, error) {
	e := encoder{attrs: a, rib: true}
	start := len(dst)
	if a.Has&HasNextHop != 0 && a.NextHop.Is6() {
		hop, err := e.nextHop(IPv6Unicast)
		if err != nil {
			return dst, err
		}
		dst = appendAttribute(dst, flagOptional, typeMPReach, append([]byte{byte(len(hop))}, hop...))
	}
	dst, err := e.attributes(dst, a.NextHop.Is4())
	if err != nil {
		return dst[:start], err
	}
	if len(dst)-start > 0xffff {
		return dst[:start], errors.New("the attributes exceed 65535 octets")
	}
	return dst, nil
}

type encoder struct {
	attrs *Attributes
	o     Options
	limit int
	rib   bool
}

// ofFamily returns the routes of a family's AFI, without copying if that is all or none.
func ofFamily(routes []NLRI, f Family) []NLRI {
	is4 := func(r NLRI) bool { return r.Prefix.Addr().Is4() == (f.AFI() == 1) }
	not4 := func(r NLRI) bool { return !is4(r) }
	switch {
	case !slices.ContainsFunc(routes, not4):
		return routes
	case !slices.ContainsFunc(routes, is4):
		return nil
	}
	return slices.DeleteFunc(slices.Clone(routes), not4)
}

func (e *encoder) family(dst []byte, f Family, withdrawn, announced []NLRI) ([]byte, error) {
	for _, list := range [...][]NLRI{withdrawn, announced} {
		for _, r := range list {
			if !r.Prefix.IsValid() {
				return dst, fmt.Errorf("%v is not a prefix", r.Prefix)
			}
		}
	}
	classic := f == IPv4Unicast && (len(announced) == 0 || !e.attrs.NextHop.Is6())
	var attrs, hop []byte
	if len(announced) > 0 {
		var err error
		if attrs, err = e.attributes(nil, classic); err != nil {
			return dst, err
		}
		if !classic {
			if hop, err = e.nextHop(f); err != nil {
				return dst, err
			}
		} else if e.attrs.Has&HasNextHop == 0 || !e.attrs.NextHop.Is4() {
			return dst, errors.New("routes are announced without a next hop")
		}
	}
	addPath := e.o.AddPath.Has(f)
	const mpHeader = 4 // attribute flags, type and two octets of length
	for len(withdrawn)+len(announced) > 0 {
		room := e.limit - HeaderLength - 4
		if !classic && len(withdrawn) > 0 {
			room -= mpHeader + 3
		}
		w, left := fitting(withdrawn, room, addPath)
		a := 0
		if w == len(withdrawn) && len(announced) > 0 {
			left -= len(attrs)
			if !classic {
				left -= mpHeader + 5 + len(hop)
			}
			a, _ = fitting(announced, left, addPath)
		}
		if w+a == 0 {
			return dst, fmt.Errorf("the attributes leave no room for a route in %d octets", e.limit)
		}
		dst = appendMessage(dst, TypeUpdate, func(b []byte) []byte {
			b = append(b, 0, 0)
			at := len(b)
			if classic {
				b = appendRoutes(b, withdrawn[:w], addPath)
				binary.BigEndian.PutUint16(b[at-2:], uint16(len(b)-at))
			}
			b = append(b, 0, 0)
			at = len(b)
			if !classic { // these go first: RFC 7606 §5.1
				if a > 0 {
					b = appendMPHeader(b, typeMPReach, f)
					from := len(b)
					b = append(append(append(b, byte(len(hop))), hop...), 0)
					b = closeMP(appendRoutes(b, announced[:a], addPath), from)
				}
				if w > 0 {
					b = appendMPHeader(b, typeMPUnreach, f)
					from := len(b)
					b = closeMP(appendRoutes(b, withdrawn[:w], addPath), from)
				}
			}
			if a > 0 {
				b = append(b, attrs...)
			}
			binary.BigEndian.PutUint16(b[at-2:], uint16(len(b)-at))
			if classic {
				b = appendRoutes(b, announced[:a], addPath)
			}
			return b
		})
		withdrawn, announced = withdrawn[w:], announced[a:]
	}
	return dst, nil
}

// appendMPHeader appends the head of an MP attribute up to the SAFI; closeMP sets its length.
func appendMPHeader(b []byte, typ uint8, f Family) []byte {
	b = append(b, flagOptional|flagExtended, typ, 0, 0)
	return append(binary.BigEndian.AppendUint16(b, f.AFI()), f.SAFI())
}

func closeMP(b []byte, from int) []byte {
	binary.BigEndian.PutUint16(b[from-5:], uint16(len(b)-from+3))
	return b
}

func routeSize(r NLRI, addPath bool) int {
	n := 1 + (r.Prefix.Bits()+7)/8
	if addPath {
		n += 4
	}
	return n
}

// fitting counts the routes that fit into room octets, and what is left then.
func fitting(routes []NLRI, room int, addPath bool) (n, left int) {
	for _, r := range routes {
		if room < routeSize(r, addPath) {
			break
		}
		room -= routeSize(r, addPath)
		n++
	}
	return n, room
}

func appendRoutes(b []byte, routes []NLRI, addPath bool) []byte {
	for _, r := range routes {
		if addPath {
			b = binary.BigEndian.AppendUint32(b, r.PathID)
		}
		b = AppendPrefix(b, r.Prefix)
	}
	return b
}

// AppendPrefix appends a valid prefix as NLRI have it: its length in bits, and the octets that hold
// them (RFC 4271 §4.3).
func AppendPrefix(b []byte, p netip.Prefix) []byte {
	p = p.Masked()
	b = append(b, byte(p.Bits()))
	n := (p.Bits() + 7) / 8
	if p.Addr().Is4() {
		a := p.Addr().As4()
		return append(b, a[:n]...)
	}
	a := p.Addr().As16()
	return append(b, a[:n]...)
}

// nextHop returns the next hop for MP_REACH_NLRI.
func (e *encoder) nextHop(f Family) ([]byte, error) {
	hop, local := e.attrs.NextHop, e.attrs.LinkLocal
	switch {
	case e.attrs.Has&HasNextHop == 0 || !hop.IsValid():
		return nil, errors.New("routes are announced without a next hop")
	case f.AFI() == 2 && hop.Is4():
		return nil, fmt.Errorf("%s routes cannot have the next hop %s", f, hop)
	case local.IsValid() && (!local.Is6() || hop.Is4()):
		return nil, fmt.Errorf("the next hop %s cannot have the link-local address %s", hop, local)
	}
	b := hop.AsSlice()
	if local.IsValid() {
		b = append(b, local.AsSlice()...)
	}
	return b, nil
}

func appendAttribute(b []byte, flags, typ uint8, value []byte) []byte {
	if len(value) > 255 || flags&flagExtended != 0 {
		b = append(b, flags|flagExtended, typ)
		b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	} else {
		b = append(b, flags, typ, byte(len(value)))
	}
	return append(b, value...)
}

// appendAddr appends the octets of an address, of one that is not valid none.
func appendAddr(b []byte, a netip.Addr) []byte {
	switch {
	case a.Is4():
		x := a.As4()
		return append(b, x[:]...)
	case a.Is6():
		x := a.As16()
		return append(b, x[:]...)
	}
	return b
}

// attributes appends everything but MP_REACH_NLRI and MP_UNREACH_NLRI, in the order of the types.
func (e *encoder) attributes(b []byte, nextHop bool) ([]byte, error) {
	a := e.attrs
	if missing := (HasOrigin | HasASPath) &^ a.Has; missing != 0 && !e.rib {
		return b, errors.New("routes are announced without ORIGIN or AS_PATH")
	}
	const (
		wellKnown = flagTransitive
		optional  = flagOptional
		both      = flagOptional | flagTransitive
	)
	var failed error
	add := func(has Attr, flags, typ uint8, fill func([]byte) []byte) {
		if a.Has&has == 0 || failed != nil {
			return
		}
		start := len(b)
		b = fill(append(b, flags, typ, 0))
		switch n := len(b) - start - 3; {
		case n > 0xffff:
			b, failed = b[:start], fmt.Errorf("attribute %d exceeds 65535 octets", typ)
		case n > 0xff: // its length takes one octet more
			b = append(b, 0)
			copy(b[start+4:], b[start+3:])
			b[start] |= flagExtended
			binary.BigEndian.PutUint16(b[start+2:], uint16(n))
		default:
			b[start+2] = byte(n)
		}
	}
	u32 := func(n uint32) func([]byte) []byte {
		return func(v []byte) []byte { return binary.BigEndian.AppendUint32(v, n) }
	}
	u32s := func(ns []uint32) func([]byte) []byte {
		return func(v []byte) []byte {
			for _, n := range ns {
				v = binary.BigEndian.AppendUint32(v, n)
			}
			return v
		}
	}
	addr := func(ip netip.Addr) func([]byte) []byte {
		return func(v []byte) []byte { return appendAddr(v, ip) }
	}
	if a.Has&HasOriginatorID != 0 && !a.OriginatorID.Is4() || a.Has&HasAggregator != 0 && !a.Aggregator.Addr.Is4() {
		return b, errors.New("ORIGINATOR_ID and AGGREGATOR need IPv4 addresses")
	}
	if err := a.ASPath.check(); err != nil {
		return b, err
	}

	add(HasOrigin, wellKnown, typeOrigin, func(v []byte) []byte { return append(v, a.Origin) })
	add(HasASPath, wellKnown, typeASPath, func(v []byte) []byte { return appendPath(v, a.ASPath, e.o.TwoOctetAS) })
	if nextHop {
		add(HasNextHop, wellKnown, typeNextHop, addr(a.NextHop))
	}
	add(HasMED, optional, typeMED, u32(a.MED))
	add(HasLocalPref, wellKnown, typeLocalPref, u32(a.LocalPref))
	add(HasAtomicAggregate, wellKnown, typeAtomicAggregate, func(v []byte) []byte { return v })
	add(HasAggregator, both, typeAggregator, func(v []byte) []byte {
		if e.o.TwoOctetAS {
			v = binary.BigEndian.AppendUint16(v, twoOctets(a.Aggregator.ASN))
		} else {
			v = binary.BigEndian.AppendUint32(v, a.Aggregator.ASN)
		}
		return appendAddr(v, a.Aggregator.Addr)
	})
	add(HasCommunities, both, typeCommunities, u32s(a.Communities))
	add(HasOriginatorID, optional, typeOriginatorID, addr(a.OriginatorID))
	add(HasClusterList, optional, typeClusterList, u32s(a.ClusterList))
	add(HasExtCommunities, both, typeExtCommunities, func(v []byte) []byte {
		for _, c := range a.ExtCommunities {
			v = binary.BigEndian.AppendUint64(v, c)
		}
		return v
	})
	if e.o.TwoOctetAS {
		if a.ASPath.needsFourOctets() {
			add(HasASPath, both, typeAS4Path, func(v []byte) []byte { return appendPath(v, a.ASPath.withoutConfederation(), false) })
		}
		if a.Aggregator.ASN > 0xffff {
			add(HasAggregator, both, typeAS4Aggregator, func(v []byte) []byte {
				return appendAddr(binary.BigEndian.AppendUint32(v, a.Aggregator.ASN), a.Aggregator.Addr)
			})
		}
	}
	add(HasAIGP, optional, typeAIGP, func(v []byte) []byte {
		return binary.BigEndian.AppendUint64(append(v, 1, 0, 11), a.AIGP)
	})
	add(HasLargeCommunities, both, typeLargeCommunities, func(v []byte) []byte {
		for _, c := range a.LargeCommunities {
			v = binary.BigEndian.AppendUint32(v, c.Global)
			v = binary.BigEndian.AppendUint32(v, c.Local1)
			v = binary.BigEndian.AppendUint32(v, c.Local2)
		}
		return v
	})
	add(HasOTC, both, typeOTC, u32(a.OTC))
	if failed != nil {
		return b, failed
	}
	for _, r := range a.Unknown {
		if len(r.Value) > 0xffff {
			return b, fmt.Errorf("attribute %d exceeds 65535 octets", r.Type)
		}
		b = appendAttribute(b, r.Flags, r.Type, r.Value)
	}
	return b, nil
}

// check reports what a segment cannot hold on the wire.
func (p ASPath) check() error {
	for _, s := range p {
		switch {
		case s.Type < ASSet || s.Type > ASConfedSet:
			return fmt.Errorf("AS path segment of type %d", s.Type)
		case len(s.ASNs) == 0:
			return errors.New("AS path segment without AS numbers")
		case len(s.ASNs) > 255 && (s.Type == ASSet || s.Type == ASConfedSet):
			return fmt.Errorf("AS set of %d members; 255 is the most", len(s.ASNs))
		}
	}
	return nil
}

func (p ASPath) needsFourOctets() bool {
	for _, s := range p {
		for _, asn := range s.ASNs {
			if asn > 0xffff {
				return true
			}
		}
	}
	return false
}

func (p ASPath) withoutConfederation() ASPath {
	return slices.DeleteFunc(slices.Clone(p), func(s Segment) bool { return s.Type == ASConfedSequence || s.Type == ASConfedSet })
}

func twoOctets(asn uint32) uint16 {
	if asn > 0xffff {
		return asTrans
	}
	return uint16(asn)
}

// appendPath appends segments; a sequence of more than 255 becomes several.
func appendPath(v []byte, p ASPath, twoOctet bool) []byte {
	for _, s := range p {
		for part := range slices.Chunk(s.ASNs, 255) {
			v = append(v, byte(s.Type), byte(len(part)))
			for _, asn := range part {
				if twoOctet {
					v = binary.BigEndian.AppendUint16(v, twoOctets(asn))
				} else {
					v = binary.BigEndian.AppendUint32(v, asn)
				}
			}
		}
	}
	return v
}
