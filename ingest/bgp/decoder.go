package bgp

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Decoder turns the bytes of UPDATE messages and table entries into an [Update]. The zero value is
// ready to use. It is not safe for concurrent use.
//
// What it returns, with everything that it points to, belongs to the decoder and its input, and
// holds only until the next call. Once the scratch space has grown to fit the largest message seen
// (bounded, since no message exceeds 65,535 octets) it allocates nothing.
//
// Errors are treated as RFC 7606 prescribes. Where routes are to be treated as withdrawn, they are
// in Update.Withdrawn, Update.Faults says why, and Update.Attrs holds what could be read of the
// attributes. AS_SETs, which RFC 9774 §3 tells routers to treat as an error, are kept: they are
// still seen, and judging them is the business of detection.
type Decoder struct {
	u Update

	asns       []uint32
	segments   []Segment
	merged     []uint32 // AS numbers of an AS_PATH merged with its AS4_PATH
	mergedSegs []Segment

	withdrawn, announced   []NLRI
	mcWithdrawn, mcReached []NLRI

	communities []uint32
	ext         []uint64
	large       []LargeCommunity
	clusters    []uint32
	unknown     []RawAttribute

	seen         [4]uint64 // attribute types met in this message
	emptyUnreach bool      // MP_UNREACH_NLRI without NLRI
	defaults     int       // routes of length 0 among all NLRI
}

// Attribute types (IANA BGP Path Attributes).
const (
	typeOrigin           = 1
	typeASPath           = 2
	typeNextHop          = 3
	typeMED              = 4
	typeLocalPref        = 5
	typeAtomicAggregate  = 6
	typeAggregator       = 7
	typeCommunities      = 8
	typeOriginatorID     = 9
	typeClusterList      = 10
	typeMPReach          = 14
	typeMPUnreach        = 15
	typeExtCommunities   = 16
	typeAS4Path          = 17
	typeAS4Aggregator    = 18
	typeAIGP             = 26
	typeLargeCommunities = 32
	typeOTC              = 35
)

// Attribute flags (RFC 4271 §4.3).
const (
	flagOptional   = 0x80
	flagTransitive = 0x40
	flagPartial    = 0x20
	flagExtended   = 0x10
)

// attributeFlags are the optional and transitive bits that each type must have; 0 for types that
// are not interpreted.
var attributeFlags = [256]uint8{
	typeOrigin:           flagTransitive,
	typeASPath:           flagTransitive,
	typeNextHop:          flagTransitive,
	typeMED:              flagOptional,
	typeLocalPref:        flagTransitive,
	typeAtomicAggregate:  flagTransitive,
	typeAggregator:       flagOptional | flagTransitive,
	typeCommunities:      flagOptional | flagTransitive,
	typeOriginatorID:     flagOptional,
	typeClusterList:      flagOptional,
	typeMPReach:          flagOptional,
	typeMPUnreach:        flagOptional,
	typeExtCommunities:   flagOptional | flagTransitive,
	typeAS4Path:          flagOptional | flagTransitive,
	typeAS4Aggregator:    flagOptional | flagTransitive,
	typeAIGP:             flagOptional,
	typeLargeCommunities: flagOptional | flagTransitive,
	typeOTC:              flagOptional | flagTransitive,
}

// asTrans stands for AS numbers that two octets cannot hold (RFC 6793 §9).
const asTrans = 23456

// Update decodes the body of an UPDATE message: what follows the header, as [Split] returns it.
// An error is an [*Error] and means that no part of the message can be relied upon.
func (d *Decoder) Update(body []byte, o Options) (*Update, error) {
	d.reset()
	if len(body) < 4 {
		return nil, errorf(FaultMessageLength, 0, "an UPDATE of %d octets; the least is 4", len(body))
	}
	w := int(binary.BigEndian.Uint16(body))
	if 2+w+2 > len(body) {
		return nil, errorf(FaultListLength, 0, "%d octets of withdrawn routes in a body of %d", w, len(body))
	}
	a := int(binary.BigEndian.Uint16(body[2+w:]))
	if 2+w+2+a > len(body) {
		return nil, errorf(FaultListLength, 2+w, "%d octets of attributes where %d are left", a, len(body)-4-w)
	}
	attrs, nlri := body[4+w:4+w+a], body[4+w+a:]

	var err error
	addPath := o.AddPath.Has(IPv4Unicast)
	if d.withdrawn, err = d.appendNLRI4(d.withdrawn, body[2:2+w], addPath, FaultNLRI, 2); err != nil {
		return nil, err
	}
	if d.announced, err = d.appendNLRI4(d.announced, nlri, addPath, FaultNLRI, 4+w+a); err != nil {
		return nil, err
	}
	d.u.Classic = len(d.announced)
	if err := d.attributes(attrs, 4+w, o, false); err != nil {
		return nil, err
	}

	u := &d.u
	announces := len(nlri) > 0 || u.MPReach != 0
	if announces {
		// Mandatory by RFC 4271 §5; NEXT_HOP only for routes of the message's own field.
		want := uint64(1<<typeOrigin | 1<<typeASPath)
		if len(nlri) > 0 {
			want |= 1 << typeNextHop
		}
		if d.seen[0]&want != want {
			u.Faults.add(FaultMissingAttribute)
		}
	}
	if u.Faults.Treatment() == TreatAsWithdraw {
		if !announces {
			return nil, errorf(FaultNoReachableNLRI, 4+w, "attributes are malformed (%s) and no route is announced", u.Faults)
		}
		d.withdrawAnnounced()
	}
	switch {
	case len(body) == 4:
		u.EndOfRIB = IPv4Unicast
	case w == 0 && len(nlri) == 0 && d.emptyUnreach && d.seen == [4]uint64{1 << typeMPUnreach}:
		u.EndOfRIB = u.MPUnreach
	}
	d.finish()
	return u, nil
}

// RIBEntry decodes the attributes of one route of a table dump (RFC 6396 §4.3.4). MP_REACH_NLRI may
// be abbreviated to the next hop, as the RFC wants it, or complete, as some writers have it; its
// NLRI are not looked at. No attribute is required, since the tables of routers hold routes that
// were never in a message, such as their own.
func (d *Decoder) RIBEntry(f Family, route NLRI, attrs []byte, o Options) (*Update, error) {
	d.reset()
	if err := d.attributes(attrs, 0, o, true); err != nil {
		return nil, err
	}
	if f.SAFI() == 2 {
		d.mcReached = append(d.mcReached, route)
	} else {
		d.announced = append(d.announced, route)
	}
	d.u.Classic = len(d.announced)
	if d.u.MPNextHop.IsValid() {
		d.u.Classic = 0
	}
	if d.u.Faults.Treatment() == TreatAsWithdraw {
		d.withdrawAnnounced()
	}
	d.finish()
	return &d.u, nil
}

func (d *Decoder) reset() {
	d.u = Update{}
	d.seen, d.emptyUnreach, d.defaults = [4]uint64{}, false, 0
	d.withdrawn, d.announced = d.withdrawn[:0], d.announced[:0]
	d.mcWithdrawn, d.mcReached = d.mcWithdrawn[:0], d.mcReached[:0]
	d.unknown = d.unknown[:0]
}

func (d *Decoder) finish() {
	u := &d.u
	u.Withdrawn, u.Announced = d.withdrawn, d.announced
	u.MulticastWithdrawn, u.MulticastAnnounced = d.mcWithdrawn, d.mcReached
	u.Attrs.Unknown = d.unknown
	if u.Classic == 0 && u.MPNextHop.IsValid() {
		u.Attrs.NextHop, u.Attrs.LinkLocal = u.MPNextHop, u.MPLinkLocal
		u.Attrs.Has |= HasNextHop
	}
}

func (d *Decoder) withdrawAnnounced() {
	d.u.Demoted = len(d.announced)
	d.withdrawn = append(d.withdrawn, d.announced...)
	d.announced = d.announced[:0]
	d.mcWithdrawn = append(d.mcWithdrawn, d.mcReached...)
	d.mcReached = d.mcReached[:0]
}

// attributes decodes a list of path attributes that begins at offset at of the input.
func (d *Decoder) attributes(list []byte, at int, o Options, rib bool) error {
	u := &d.u
	a := &u.Attrs
	u.RawAttributes = list
	var as4Path, as4Aggregator []byte
	for i := 0; i < len(list); {
		begin := i
		if i+3 > len(list) {
			u.Faults.add(FaultAttributeLength)
			break
		}
		flags, typ, n := list[i], list[i+1], int(list[i+2])
		i += 3
		if flags&flagExtended != 0 {
			if i >= len(list) {
				u.Faults.add(FaultAttributeLength)
				break
			}
			n = n<<8 | int(list[i])
			i++
		}
		if n > len(list)-i {
			u.Faults.add(FaultAttributeLength)
			break
		}
		v := list[i : i+n]
		i += n

		if word, bit := typ/64, uint64(1)<<(typ%64); d.seen[word]&bit == 0 {
			d.seen[word] |= bit
		} else if typ == typeMPReach || typ == typeMPUnreach {
			return errorf(FaultDuplicateMP, at+begin, "a second attribute of type %d", typ)
		} else {
			u.Faults.add(FaultDuplicateAttribute)
			continue
		}
		if want := attributeFlags[typ]; want == 0 {
			if flags&flagOptional == 0 {
				return errorf(FaultUnknownWellKnown, at+begin, "attribute type %d is not marked optional and not known", typ)
			}
		} else if flags&(flagOptional|flagTransitive) != want {
			switch typ {
			case typeAtomicAggregate:
				u.Faults.add(FaultAtomicAggregate)
				continue
			case typeAggregator:
				u.Faults.add(FaultAggregator)
				continue
			}
			u.Faults.add(FaultAttributeFlags) // and read it: the routes withdrawn may be in here
		}

		switch typ {
		case typeOrigin:
			if n != 1 || v[0] > 2 {
				u.Faults.add(FaultOrigin)
				continue
			}
			a.Origin = v[0]
			a.Has |= HasOrigin
		case typeASPath:
			d.asPath(v, o.TwoOctetAS)
		case typeNextHop:
			if n != 4 {
				u.Faults.add(FaultNextHop)
				continue
			}
			a.NextHop = netip.AddrFrom4([4]byte(v))
			a.Has |= HasNextHop
		case typeMED:
			if n != 4 {
				u.Faults.add(FaultMED)
				continue
			}
			a.MED = binary.BigEndian.Uint32(v)
			a.Has |= HasMED
		case typeLocalPref:
			if n != 4 {
				u.Faults.add(FaultLocalPref)
				continue
			}
			a.LocalPref = binary.BigEndian.Uint32(v)
			a.Has |= HasLocalPref
		case typeAtomicAggregate:
			if n != 0 {
				u.Faults.add(FaultAtomicAggregate)
				continue
			}
			a.Has |= HasAtomicAggregate
		case typeAggregator:
			d.aggregator(v, o.TwoOctetAS)
		case typeCommunities:
			if n == 0 || n%4 != 0 {
				u.Faults.add(FaultCommunities)
				continue
			}
			d.communities = appendUint32s(d.communities[:0], v)
			a.Communities = d.communities
			a.Has |= HasCommunities
		case typeOriginatorID:
			if n != 4 {
				u.Faults.add(FaultOriginatorID)
				continue
			}
			a.OriginatorID = netip.AddrFrom4([4]byte(v))
			a.Has |= HasOriginatorID
		case typeClusterList:
			if n == 0 || n%4 != 0 {
				u.Faults.add(FaultClusterList)
				continue
			}
			d.clusters = appendUint32s(d.clusters[:0], v)
			a.ClusterList = d.clusters
			a.Has |= HasClusterList
		case typeMPReach:
			if err := d.mpReach(v, at+i-n, o, rib); err != nil {
				return err
			}
		case typeMPUnreach:
			if err := d.mpUnreach(v, at+i-n, o); err != nil {
				return err
			}
		case typeExtCommunities:
			if n == 0 || n%8 != 0 {
				u.Faults.add(FaultExtCommunities)
				continue
			}
			d.ext = slices.Grow(d.ext[:0], n/8)
			for ; len(v) >= 8; v = v[8:] {
				d.ext = append(d.ext, binary.BigEndian.Uint64(v))
			}
			a.ExtCommunities = d.ext
			a.Has |= HasExtCommunities
		case typeAS4Path:
			as4Path = v
		case typeAS4Aggregator:
			as4Aggregator = v
		case typeAIGP:
			if metric, ok := aigp(v); ok {
				a.AIGP = metric
				a.Has |= HasAIGP
			} else {
				u.Faults.add(FaultAIGP)
			}
		case typeLargeCommunities:
			if n == 0 || n%12 != 0 {
				u.Faults.add(FaultLargeCommunities)
				continue
			}
			d.large = slices.Grow(d.large[:0], n/12)
			for ; len(v) >= 12; v = v[12:] {
				d.large = append(d.large, LargeCommunity{binary.BigEndian.Uint32(v),
					binary.BigEndian.Uint32(v[4:]), binary.BigEndian.Uint32(v[8:])})
			}
			a.LargeCommunities = d.large
			a.Has |= HasLargeCommunities
		case typeOTC:
			if n != 4 {
				u.Faults.add(FaultOTC)
				continue
			}
			a.OTC = binary.BigEndian.Uint32(v)
			a.Has |= HasOTC
		default:
			d.unknown = append(d.unknown, RawAttribute{flags, typ, v})
		}
	}
	// Between two four-octet speakers the two attributes mean nothing (RFC 6793 §4.1).
	if o.TwoOctetAS && (as4Path != nil || as4Aggregator != nil) {
		d.mergeAS4(as4Path, as4Aggregator)
	}
	return nil
}

// asPath decodes AS_PATH. What is malformed leaves Attrs without a path.
func (d *Decoder) asPath(v []byte, twoOctet bool) {
	size := 4
	if twoOctet {
		size = 2
	}
	ok := true
	d.asns = slices.Grow(d.asns[:0], len(v)/size) // so that segments can point into it
	d.segments = d.segments[:0]
	zero := false
	for len(v) > 0 {
		if len(v) < 2 || v[0] < uint8(ASSet) || v[0] > uint8(ASConfedSet) || v[1] == 0 || len(v) < 2+int(v[1])*size {
			ok = false
			break
		}
		typ, n := SegmentType(v[0]), int(v[1])
		v = v[2:]
		first := len(d.asns)
		if twoOctet {
			for i := range n {
				d.asns = append(d.asns, uint32(binary.BigEndian.Uint16(v[2*i:])))
			}
		} else {
			d.asns = appendUint32s(d.asns, v[:4*n])
		}
		v = v[n*size:]
		members := d.asns[first:len(d.asns):len(d.asns)]
		zero = zero || slices.Contains(members, 0)
		d.segments = append(d.segments, Segment{typ, members})
	}
	switch {
	case !ok:
		d.u.Faults.add(FaultASPath)
		return
	case zero:
		d.u.Faults.add(FaultASPathASZero)
	}
	d.u.Attrs.ASPath = d.segments
	d.u.Attrs.Has |= HasASPath
}

func (d *Decoder) aggregator(v []byte, twoOctet bool) {
	g := &d.u.Attrs.Aggregator
	switch {
	case twoOctet && len(v) == 6:
		*g = Aggregator{uint32(binary.BigEndian.Uint16(v)), netip.AddrFrom4([4]byte(v[2:]))}
	case !twoOctet && len(v) == 8:
		*g = Aggregator{binary.BigEndian.Uint32(v), netip.AddrFrom4([4]byte(v[4:]))}
	default:
		d.u.Faults.add(FaultAggregator)
		return
	}
	if g.ASN == 0 {
		d.u.Faults.add(FaultAggregatorASZero)
		return
	}
	d.u.Attrs.Has |= HasAggregator
}

// mergeAS4 rebuilds the path and the aggregator of a two-octet session (RFC 6793 §4.2.3).
func (d *Decoder) mergeAS4(path, aggregator []byte) {
	u := &d.u
	a := &u.Attrs
	if aggregator != nil {
		if len(aggregator) != 8 {
			u.Faults.add(FaultAS4Aggregator)
			aggregator = nil
		} else if a.Has&HasAggregator != 0 {
			if a.Aggregator.ASN != asTrans {
				return // an old speaker aggregated since: both are out of date
			}
			asn := binary.BigEndian.Uint32(aggregator)
			if asn == 0 {
				u.Faults.add(FaultAS4Aggregator) // RFC 7607 §2
			} else {
				a.Aggregator = Aggregator{asn, netip.AddrFrom4([4]byte(aggregator[4:]))}
			}
		}
	}
	if path == nil || a.Has&HasASPath == 0 {
		return
	}
	old := a.ASPath
	d.merged = slices.Grow(d.merged[:0], len(d.asns)+len(path)/4)
	d.mergedSegs = d.mergedSegs[:0]
	have, ok := as4Length(path)
	if !ok {
		u.Faults.add(FaultAS4Path)
		return
	}
	missing := -have
	for _, s := range old {
		missing += s.length()
	}
	if missing < 0 {
		return
	}
	for _, s := range old {
		n := len(s.ASNs)
		switch s.Type {
		case ASConfedSequence, ASConfedSet: // leading, or next to one that was taken
		case ASSet:
			if missing == 0 {
				n = 0
			}
			missing -= min(missing, 1)
		default:
			n = min(n, missing)
			missing -= n
		}
		if n == 0 {
			break
		}
		copy(d.mergedRoom(s.Type, n), s.ASNs)
		if n < len(s.ASNs) {
			break
		}
	}
	for v := path; len(v) > 0; {
		typ, n := SegmentType(v[0]), int(v[1])
		v = v[2:]
		if typ == ASSet || typ == ASSequence { // confederation segments have no place here
			for i, room := 0, d.mergedRoom(typ, n); i < n; i++ {
				room[i] = binary.BigEndian.Uint32(v[4*i:])
			}
		}
		v = v[4*n:]
	}
	a.ASPath = d.mergedSegs
}

// mergedRoom adds n AS numbers to the merged path, for the caller to set; sequences that meet become
// one. There is capacity for all.
func (d *Decoder) mergedRoom(typ SegmentType, n int) []uint32 {
	first, end := len(d.merged), len(d.merged)+n
	d.merged = d.merged[:end]
	if k := len(d.mergedSegs); typ == ASSequence && k > 0 && d.mergedSegs[k-1].Type == ASSequence {
		last := &d.mergedSegs[k-1]
		last.ASNs = d.merged[first-len(last.ASNs) : end : end]
	} else {
		d.mergedSegs = append(d.mergedSegs, Segment{typ, d.merged[first:end:end]})
	}
	return d.merged[first:end]
}

// as4Length counts AS_PATH hops as RFC 4271 §9.1.2.2 does; ok is false if the attribute is
// malformed (RFC 6793 §6).
func as4Length(v []byte) (hops int, ok bool) {
	if len(v) < 6 {
		return 0, false
	}
	for len(v) > 0 {
		if len(v) < 2 || v[0] < uint8(ASSet) || v[0] > uint8(ASConfedSet) || v[1] == 0 || len(v) < 2+4*int(v[1]) {
			return 0, false
		}
		n := int(v[1])
		for i := range n {
			if binary.BigEndian.Uint32(v[2+4*i:]) == 0 {
				return 0, false // RFC 7607 §2
			}
		}
		switch SegmentType(v[0]) {
		case ASSequence:
			hops += n
		case ASSet:
			hops++
		}
		v = v[2+4*n:]
	}
	return hops, true
}

func (d *Decoder) mpReach(v []byte, at int, o Options, rib bool) error {
	u := &d.u
	if rib && len(v) > 0 && v[0] != 0 {
		// RFC 6396 §4.3.4: only the length of the next hop and the next hop.
		if int(v[0]) != len(v)-1 {
			return errorf(FaultMPReach, at, "a next hop of %d octets where %d are left", v[0], len(v)-1)
		}
		return d.mpNextHop(v[1:], at)
	}
	if len(v) < 5 {
		return errorf(FaultMPReach, at, "%d octets; the least is 5", len(v))
	}
	u.MPReach = FamilyOf(binary.BigEndian.Uint16(v), v[2])
	n := int(v[3])
	if len(v) < 4+n+1 {
		return errorf(FaultMPReach, at+3, "a next hop of %d octets where %d are left", n, len(v)-4)
	}
	i, known := u.MPReach.index()
	if !known {
		u.Faults.add(FaultFamily)
		return nil
	}
	if err := d.mpNextHop(v[4:4+n], at+4); err != nil {
		return err
	}
	if rib {
		return nil
	}
	into := &d.announced
	if u.MPReach.SAFI() == 2 {
		into = &d.mcReached
	}
	return d.appendMP(into, i, v[4+n+1:], o, FaultMPReach, at+4+n+1)
}

// mpNextHop takes an address of either family for either family of routes (RFC 8950 §3).
func (d *Decoder) mpNextHop(v []byte, at int) error {
	u := &d.u
	switch len(v) {
	case 4:
		u.MPNextHop = netip.AddrFrom4([4]byte(v))
	case 32:
		u.MPLinkLocal = netip.AddrFrom16([16]byte(v[16:]))
		fallthrough
	case 16:
		u.MPNextHop = netip.AddrFrom16([16]byte(v))
	default:
		return errorf(FaultMPReach, at, "a next hop of %d octets; 4, 16 and 32 are known", len(v))
	}
	return nil
}

func (d *Decoder) mpUnreach(v []byte, at int, o Options) error {
	u := &d.u
	if len(v) < 3 {
		return errorf(FaultMPUnreach, at, "%d octets; the least is 3", len(v))
	}
	u.MPUnreach = FamilyOf(binary.BigEndian.Uint16(v), v[2])
	d.emptyUnreach = len(v) == 3
	i, known := u.MPUnreach.index()
	if !known && !d.emptyUnreach {
		u.Faults.add(FaultFamily)
		return nil
	}
	into := &d.withdrawn
	if u.MPUnreach.SAFI() == 2 {
		into = &d.mcWithdrawn
	}
	return d.appendMP(into, i, v[3:], o, FaultMPUnreach, at+3)
}

func (d *Decoder) appendMP(into *[]NLRI, family uint, b []byte, o Options, fault Fault, at int) (err error) {
	addPath := o.AddPath&(1<<family) != 0
	if family < 2 {
		*into, err = d.appendNLRI4(*into, b, addPath, fault, at)
	} else {
		*into, err = d.appendNLRI6(*into, b, addPath, fault, at)
	}
	return err
}

// masks4 are the masks of IPv4 prefix lengths; there are 64, so that an index of six bits needs no check.
var masks4 = func() (m [64]uint32) {
	for bits := range 33 {
		m[bits] = ^uint32(1<<(32-bits) - 1)
	}
	return m
}()

// appendNLRI4 decodes IPv4 prefixes (RFC 4271 §4.3). Bits after the prefix length are dropped.
func (d *Decoder) appendNLRI4(dst []NLRI, b []byte, addPath bool, fault Fault, at int) ([]NLRI, error) {
	for i := 0; i < len(b); {
		var id uint32
		if addPath {
			if len(b)-i < 5 {
				return dst, errorf(fault, at+i, "a route is cut short")
			}
			id = binary.BigEndian.Uint32(b[i:])
			i += 4
		}
		bits := int(b[i])
		i++
		n := (bits + 7) / 8
		left := len(b) - i
		if bits == 0 {
			d.defaults++
		}
		if bits > 32 || n > left {
			return dst, errorf(fault, at+i-1, "a prefix length of %d with %d octets left", bits, left)
		}
		var v uint32 // in a register: an array of octets is slower
		switch {
		case left >= 4:
			v = binary.BigEndian.Uint32(b[i:])
		case n == 3: // the last route of most messages
			v = uint32(b[i])<<24 | uint32(b[i+1])<<16 | uint32(b[i+2])<<8
		default:
			for j, octet := range b[i : i+n] {
				v |= uint32(octet) << (24 - 8*j)
			}
		}
		i += n
		v &= masks4[bits&63]
		addr := netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
		if len(dst) == cap(dst) {
			dst = slices.Grow(dst, 1)
		}
		dst = dst[:len(dst)+1]
		r := &dst[len(dst)-1] // in place: a composite value would go through memory twice
		r.Prefix = netip.PrefixFrom(addr, bits)
		r.PathID = id
	}
	return dst, nil
}

// appendNLRI6 decodes IPv6 prefixes.
func (d *Decoder) appendNLRI6(dst []NLRI, b []byte, addPath bool, fault Fault, at int) ([]NLRI, error) {
	for total := len(b); len(b) > 0; {
		var id uint32
		if addPath {
			if len(b) < 5 {
				return dst, errorf(fault, at+total-len(b), "a route is cut short")
			}
			id = binary.BigEndian.Uint32(b)
			b = b[4:]
		}
		bits := int(b[0])
		n := (bits + 7) / 8
		if bits == 0 {
			d.defaults++
		}
		if bits > 128 || 1+n > len(b) {
			return dst, errorf(fault, at+total-len(b), "a prefix length of %d with %d octets left", bits, len(b)-1)
		}
		var addr [16]byte
		copy(addr[:], b[1:1+n])
		if bits%8 != 0 {
			addr[n-1] &= 0xff << (8 - bits%8)
		}
		dst = append(dst, NLRI{netip.PrefixFrom(netip.AddrFrom16(addr), bits), id})
		b = b[1+n:]
	}
	return dst, nil
}

func appendUint32s(dst []uint32, b []byte) []uint32 {
	n := len(dst)
	dst = slices.Grow(dst, len(b)/4)[:n+len(b)/4]
	for i := range dst[n:] {
		dst[n+i] = binary.BigEndian.Uint32(b[4*i:])
	}
	return dst
}

// aigp finds the metric TLV (RFC 7311 §3); the first counts.
func aigp(v []byte) (metric uint64, ok bool) {
	for len(v) > 0 {
		if len(v) < 3 {
			return 0, false
		}
		n := int(binary.BigEndian.Uint16(v[1:]))
		if n < 3 || n > len(v) {
			return 0, false
		}
		if v[0] == 1 {
			if n != 11 {
				return 0, false
			}
			if !ok {
				metric, ok = binary.BigEndian.Uint64(v[3:]), true
			}
		}
		v = v[n:]
	}
	return metric, ok
}
