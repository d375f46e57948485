package rislive

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Malformed says why a message, or a part of it, was of no use.
type Malformed struct {
	Reason string // a stable word to count by
	Detail string
}

func (m *Malformed) Error() string { return m.Reason + ": " + m.Detail }

func malformed(reason, format string, args ...any) *Malformed {
	return &Malformed{reason, fmt.Sprintf(format, args...)}
}

// maxPeers bounds the cache of peers; RIS has some 1,500.
const maxPeers = 1 << 14

// decoder turns RIS Live messages into updates. What it returns is valid until its next call.
type decoder struct {
	peers      map[string]ingest.Peer // by what the message says of the peer
	wire       bgp.Decoder
	raw        []byte // scratch
	key        []byte // scratch
	u          ingest.Update
	complaint  string   // text of the ris_error just read, or empty
	collectors []string // of the ris_rrc_list just read, or nil

	// Scratch for messages without raw.
	withdrawn, announced []bgp.NLRI
	segments             []bgp.Segment
	asns                 []uint32
	communities          []uint32

	m message
}

// message holds the parts of one message as they stand in its text.
type message struct {
	envelope []byte // "type" beside "data"
	inData   bool

	timestamp, peer, asn, host, kind, raw, state            []byte
	path, community, origin, med, aggregator, announcements []byte
	withdrawals, errorText, list                            []byte
}

// decode reads one message. The update is nil where the message is none of our concern (a pong, an
// OPEN, an end-of-RIB). The error is a *Malformed; there may be one beside an update, when the
// message was wrong in a way that RFC 7606 tells to treat as withdrawal, or to mend.
func (d *decoder) decode(text []byte) (*ingest.Update, error) {
	d.m, d.complaint, d.collectors = message{}, "", nil
	m := &d.m
	c := cursor{b: text}
	ok := c.object(func(key []byte) bool {
		if string(key) == "data" && c.peek() == '{' {
			m.envelope, m.kind, m.inData = m.kind, nil, true
			return c.object(func(key []byte) bool { return m.member(&c, key) })
		}
		if m.inData && string(key) == "type" {
			var ok bool
			m.envelope, ok = c.text()
			return ok
		}
		return m.member(&c, key)
	})
	if !ok || !c.end() {
		return nil, malformed("json", "near octet %d of %d", c.i, len(text))
	}
	if m.inData && string(m.envelope) == "ris_error" || string(m.kind) == "ris_error" {
		d.complaint = string(m.errorText)
		return nil, nil
	}
	if m.inData && string(m.envelope) != "ris_message" {
		return nil, nil // pong, ris_subscribe_ok and whatever comes
	}
	if !m.inData && string(m.kind) == "ris_rrc_list" {
		return nil, d.collectorList()
	}
	if !m.inData && m.timestamp == nil {
		if m.kind == nil || string(m.kind) == "ris_message" {
			return nil, malformed("fields", "neither a message nor an envelope with one")
		}
		return nil, nil // {"type":"pong","data":null}
	}
	kind := string(m.kind)
	if m.kind == nil { // some messages have been seen without
		switch {
		case m.state != nil:
			kind = "RIS_PEER_STATE"
		case m.raw != nil || m.announcements != nil || m.withdrawals != nil:
			kind = "UPDATE"
		}
	}
	if kind != "UPDATE" && kind != "RIS_PEER_STATE" {
		return nil, nil
	}

	d.u = ingest.Update{}
	var err error
	if d.u.Time, err = timeOf(m.timestamp); err != nil {
		return nil, err
	}
	if d.u.Peer, err = d.peer(); err != nil {
		return nil, err
	}
	if kind == "RIS_PEER_STATE" {
		switch string(m.state) {
		case "connected", "up":
			d.u.Kind = ingest.PeerUp
		case "down":
			d.u.Kind = ingest.PeerDown
		default:
			return nil, malformed("state", "%.20q is neither connected nor down", m.state)
		}
		return &d.u, nil
	}
	if len(m.raw) > 0 {
		err = d.fromRaw()
	} else {
		err = d.fromJSON()
	}
	if len(d.u.Announced) == 0 {
		d.u.Attrs = bgp.Attributes{}
		if len(d.u.Withdrawn) == 0 {
			return nil, err
		}
	}
	return &d.u, err
}

// maxCollectors bounds a list of collectors; RIS has some 25.
const maxCollectors = 256

// collectorList reads the names in a ris_rrc_list.
func (d *decoder) collectorList() error {
	var names []string
	if err := json.Unmarshal(d.m.list, &names); err != nil || len(names) == 0 || len(names) > maxCollectors {
		return malformed("collectors", "%.60q is not a list of 1 to %d collectors", d.m.list, maxCollectors)
	}
	d.collectors = names
	return nil
}

// member notes the value of one key of a message.
func (m *message) member(c *cursor, key []byte) (ok bool) {
	into := &m.errorText
	switch string(key) {
	case "timestamp":
		m.timestamp, ok = c.skip()
		return ok
	case "peer_asn":
		m.asn, ok = c.skip()
		return ok
	case "path":
		m.path, ok = c.skip()
		return ok
	case "community":
		m.community, ok = c.skip()
		return ok
	case "med":
		m.med, ok = c.skip()
		return ok
	case "data":
		m.list, ok = c.skip()
		return ok
	case "announcements":
		m.announcements, ok = c.skip()
		return ok
	case "withdrawals":
		m.withdrawals, ok = c.skip()
		return ok
	case "peer":
		into = &m.peer
	case "host":
		into = &m.host
	case "type":
		into = &m.kind
	case "raw":
		into = &m.raw
	case "state":
		into = &m.state
	case "origin":
		into = &m.origin
	case "aggregator":
		into = &m.aggregator
	case "message":
	default:
		_, ok = c.skip()
		return ok
	}
	if c.peek() != '"' { // null, or a shape that whoever needs the field will miss
		_, ok = c.skip()
		return ok
	}
	*into, ok = c.text()
	return ok
}

// timeOf reads seconds since the epoch with a fraction, without the rounding of a float.
func timeOf(b []byte) (ingest.Time, error) {
	n, sec := digits(b)
	micros := uint64(0)
	rest := b[n:]
	if n > 0 && len(rest) > 1 && rest[0] == '.' {
		k, frac := digits(rest[1:])
		rest = rest[1+k:]
		for ; k > 6; k-- {
			frac /= 10
		}
		for ; k < 6; k++ {
			frac *= 10
		}
		micros = frac
		for len(rest) > 0 && rest[0]-'0' <= 9 {
			rest = rest[1:]
		}
	}
	if n == 0 || n > 11 || len(rest) > 0 || sec == 0 {
		return 0, malformed("timestamp", "%.40q is not a number of seconds", b)
	}
	return ingest.Time(sec*1e6 + micros), nil
}

// peer names the session, from a cache: a feed has few peers and says each name over and over.
func (d *decoder) peer() (ingest.Peer, error) {
	m := &d.m
	d.key = append(append(append(append(append(d.key[:0], m.peer...), '|'), m.asn...), '|'), m.host...)
	if p, known := d.peers[string(d.key)]; known {
		return p, nil
	}
	addr, err := netip.ParseAddr(string(m.peer))
	if err != nil || addr.Zone() != "" {
		return ingest.Peer{}, malformed("peer", "%.60q is not an address", m.peer)
	}
	c := cursor{b: m.asn}
	asn, ok := c.uint32()
	if !ok || !c.end() {
		return ingest.Peer{}, malformed("peer_asn", "%.40q is not an AS number", m.asn)
	}
	collector := strings.TrimSuffix(string(m.host), ".ripe.net")
	if collector == "" || len(collector) > 255 {
		return ingest.Peer{}, malformed("host", "%.40q is not a collector", m.host)
	}
	p := ingest.Peer{Collector: collector, Addr: addr.Unmap(), ASN: asn}
	if d.peers == nil || len(d.peers) >= maxPeers {
		d.peers = map[string]ingest.Peer{}
	}
	d.peers[string(d.key)] = p
	return p, nil
}

// fromRaw decodes the BGP message itself, which has what the JSON leaves out (OTC, large
// communities and more).
func (d *decoder) fromRaw() error {
	n := hex.DecodedLen(len(d.m.raw))
	d.raw = slices.Grow(d.raw[:0], n)[:n]
	if _, err := hex.Decode(d.raw, d.m.raw); err != nil {
		return malformed("raw", "%v", err)
	}
	kind, body, rest, err := bgp.Split(d.raw)
	if err != nil {
		return wireError(err)
	}
	if kind != bgp.TypeUpdate || len(rest) > 0 {
		return malformed("raw", "%s with %d octets after it, where one UPDATE was announced", kind, len(rest))
	}
	// The session's AS number width is not told. Nearly all are four octets; two read as four
	// either do not fit, or give a first AS whose upper half is the peer.
	u, err := d.wire.Update(body, bgp.Options{})
	if err != nil || u.Faults.Has(bgp.FaultASPath) || twoOctets(u.Attrs.ASPath, d.u.Peer.ASN) {
		two, err2 := d.wire.Update(body, bgp.Options{TwoOctetAS: true})
		if err2 == nil && !two.Faults.Has(bgp.FaultASPath) {
			u, err = two, nil
		} else {
			u, err = d.wire.Update(body, bgp.Options{})
		}
	}
	if err != nil {
		return wireError(err)
	}
	d.u.Withdrawn, d.u.Announced, d.u.Attrs = u.Withdrawn, u.Announced, u.Attrs
	if u.Faults.Treatment() > bgp.Ignore {
		for f := range u.Faults.All() {
			return malformed("bgp_"+f.String(), "%s", u.Faults)
		}
	}
	return nil
}

func wireError(err error) error {
	var e *bgp.Error
	if errors.As(err, &e) {
		return malformed("bgp_"+e.Fault.String(), "%v", err)
	}
	return malformed("raw", "%v", err)
}

func twoOctets(p bgp.ASPath, peer uint32) bool {
	if len(p) == 0 || len(p[0].ASNs) == 0 {
		return false
	}
	first := p[0].ASNs[0]
	const asTrans = 23456
	return first != peer && first > 0xffff && (first>>16 == peer || first>>16 == asTrans)
}

// fromJSON takes the routes from the JSON where a message has no raw.
func (d *decoder) fromJSON() error {
	m := &d.m
	d.withdrawn, d.announced = d.withdrawn[:0], d.announced[:0]
	d.segments, d.asns, d.communities = d.segments[:0], d.asns[:0], d.communities[:0]
	a := &d.u.Attrs

	if len(m.withdrawals) > 0 && string(m.withdrawals) != "null" {
		c := cursor{b: m.withdrawals}
		if !c.array(func() (ok bool) { d.withdrawn, ok = appendPrefix(d.withdrawn, &c); return ok }) {
			return malformed("withdrawals", "near octet %d of %.200q", c.i, m.withdrawals)
		}
	}
	if len(m.announcements) > 0 && string(m.announcements) != "null" {
		c := cursor{b: m.announcements}
		items := 0
		if !c.array(func() bool { items++; return d.announcement(&c) }) {
			return malformed("announcements", "near octet %d of %.200q", c.i, m.announcements)
		}
		if items > 1 { // global and link-local next hops are told as two announcements of the same
			seen := make(map[netip.Prefix]bool, len(d.announced))
			d.announced = slices.DeleteFunc(d.announced, func(n bgp.NLRI) bool {
				twice := seen[n.Prefix]
				seen[n.Prefix] = true
				return twice
			})
		}
	}
	d.u.Withdrawn = d.withdrawn
	if len(d.announced) == 0 {
		return nil
	}
	if err := d.attributes(); err != nil { // RFC 7606 §2: treat as withdrawn
		d.withdrawn = append(d.withdrawn, d.announced...)
		d.u.Withdrawn = d.withdrawn
		return err
	}
	a.ASPath = d.segments
	a.Has |= bgp.HasASPath
	d.u.Announced = d.announced
	return d.aggregator() // which is discarded where it is wrong, RFC 7606 §7.7
}

func (d *decoder) attributes() error {
	m, a := &d.m, &d.u.Attrs
	c := cursor{b: m.path}
	ok := c.array(func() bool {
		if c.peek() != '[' {
			return d.hop(&c, bgp.ASSequence)
		}
		d.segments = append(d.segments, bgp.Segment{Type: bgp.ASSet})
		return c.array(func() bool { return d.hop(&c, bgp.ASSet) }) && len(d.segments[len(d.segments)-1].ASNs) > 0
	})
	if !ok || len(d.segments) == 0 {
		return malformed("path", "near octet %d of %.200q", c.i, m.path)
	}
	if len(m.community) > 0 && string(m.community) != "null" {
		c := cursor{b: m.community}
		ok := c.array(func() bool {
			var part [2]uint32
			n := 0
			ok := c.array(func() bool {
				v, ok := c.uint32()
				if n < 2 {
					part[n] = v
				}
				n++
				return ok
			})
			if n == 2 && part[0] <= 0xffff && part[1] <= 0xffff {
				d.communities = append(d.communities, part[0]<<16|part[1])
			}
			return ok
		})
		if !ok {
			return malformed("community", "near octet %d of %.200q", c.i, m.community)
		}
		if len(d.communities) > 0 {
			a.Communities = d.communities
			a.Has |= bgp.HasCommunities
		}
	}
	if len(m.origin) > 0 {
		switch {
		case bytes.EqualFold(m.origin, []byte("igp")):
		case bytes.EqualFold(m.origin, []byte("egp")):
			a.Origin = 1
		case bytes.EqualFold(m.origin, []byte("incomplete")):
			a.Origin = 2
		default:
			return malformed("origin", "%.20q is not igp, egp or incomplete", m.origin)
		}
		a.Has |= bgp.HasOrigin
	}
	if len(m.med) > 0 && string(m.med) != "null" {
		c := cursor{b: m.med}
		if a.MED, ok = c.uint32(); !ok || !c.end() {
			return malformed("med", "%.20q is not a number", m.med)
		}
		a.Has |= bgp.HasMED
	}
	return nil
}

func (d *decoder) aggregator() error {
	text := d.m.aggregator
	if len(text) == 0 {
		return nil
	}
	left, right, _ := strings.Cut(string(text), ":")
	asn, err1 := bgp.ParseASN(left)
	addr, err2 := netip.ParseAddr(right)
	if err1 != nil || err2 != nil {
		return malformed("aggregator", "%.60q is not ASN:address", text)
	}
	d.u.Attrs.Aggregator = bgp.Aggregator{ASN: asn, Addr: addr}
	d.u.Attrs.Has |= bgp.HasAggregator
	return nil
}

// hop reads one AS number into the current segment, or into a new one of that type.
func (d *decoder) hop(c *cursor, t bgp.SegmentType) bool {
	asn, ok := c.uint32()
	if !ok {
		return false
	}
	if n := len(d.segments); n == 0 || d.segments[n-1].Type != t {
		d.segments = append(d.segments, bgp.Segment{Type: t})
	}
	// The numbers of all segments stand in one array. It may move as it grows; segments that were
	// cut from the old one stay valid.
	d.asns = append(d.asns, asn)
	s := &d.segments[len(d.segments)-1]
	n := len(s.ASNs) + 1
	s.ASNs = d.asns[len(d.asns)-n:]
	return true
}

func (d *decoder) announcement(c *cursor) bool {
	a := &d.u.Attrs
	return c.object(func(key []byte) (ok bool) {
		switch string(key) {
		case "next_hop":
			text, ok := c.text()
			if !ok {
				return false
			}
			for s := range strings.SplitSeq(string(text), ",") {
				hop, err := netip.ParseAddr(strings.TrimSpace(s))
				if err != nil {
					return false
				}
				hop = hop.WithZone("").Unmap()
				if hop.IsLinkLocalUnicast() && hop.Is6() {
					a.LinkLocal = hop
				} else if !a.NextHop.IsValid() {
					a.NextHop = hop
					a.Has |= bgp.HasNextHop
				}
			}
			return true
		case "prefixes":
			return c.array(func() (ok bool) { d.announced, ok = appendPrefix(d.announced, c); return ok })
		}
		_, ok = c.skip()
		return ok
	})
}

// appendPrefix reads one prefix; "eor" stands where a session's table is complete, and means nothing here.
func appendPrefix(list []bgp.NLRI, c *cursor) ([]bgp.NLRI, bool) {
	text, ok := c.text()
	if !ok {
		return list, false
	}
	if string(text) == "eor" {
		return list, true
	}
	p, err := netip.ParsePrefix(string(text))
	if err != nil || p.Addr().Is4In6() {
		return list, false
	}
	return append(list, bgp.NLRI{Prefix: p.Masked()}), true
}
