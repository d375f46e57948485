package bmp

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// maxPeers bounds how many peers of one router are kept. The largest route servers have some thousands.
const maxPeers = 1 << 16

// Counts says what a session has brought so far.
type Counts struct {
	Messages      [TypeRouteMirroring + 1]uint64 // by type
	Announcements uint64                         // routes, not messages
	Withdrawals   uint64                         // likewise
	// Malformed counts messages that were wrong, wholly or in part, by reason.
	Malformed map[string]uint64
	// Skipped counts what is in order but not made use of, by what it is.
	Skipped map[string]uint64
}

// CountMalformed counts a message that could not even be given to the session.
func (c *Counts) CountMalformed(reason string) { count(&c.Malformed, reason) }
func (c *Counts) skip(what string)             { count(&c.Skipped, what) }

func count(m *map[string]uint64, key string) {
	if *m == nil {
		*m = make(map[string]uint64)
	}
	(*m)[key]++
}

// Change says that a peer came up or went down.
type Change struct {
	Peer ingest.Peer
	Up   bool
}

// Item is what one message says. It and all that it points to hold only until the session's next call.
type Item struct {
	Message *Message // nil for the end of the session
	Time    ingest.Time
	// Changes come before the routes.
	Changes []Change
	// Peer has sent or, for Adj-RIB-Out, is sent BGP; nil but for Route Monitoring of peers that are not
	// passed over.
	Peer    ingest.Peer
	BGP     *bgp.Update
	AddPath bool // the routes of BGP have path identifiers
}

// Session is what one router has said so far on one connection: which peers are up, how their UPDATE
// messages are encoded, and which views were seen of each. It is not safe for concurrent use.
//
// Routes of a peer without a Peer Up message are taken, since the stream may have been joined in its
// middle; whether the peer uses ADD-PATH is then guessed.
type Session struct {
	collector string
	vrfs      bool

	decoder  Decoder
	updates  bgp.Decoder
	peers    map[peerKey]*peer
	counts   Counts
	sysName  string
	sysDescr string

	item    Item
	changes []Change
	update  ingest.Update
}

type peerKey struct {
	typ           PeerType
	distinguisher uint64
	addr          netip.Addr
}

type peer struct {
	peer    ingest.Peer // of no view
	opened  bool        // there was a Peer Up message
	up      uint64      // hash of what it said
	in, out bgp.FamilySet
	views   uint8 // those heard of, a bit each
	without uint8 // those whose routes come without the path identifiers that there should be, likewise
	table   string
}

// NewSession begins one. collector is what the peers' Collector is set to; if it is empty, it is the name
// that the router gives itself. With vrfs, peers of VPNs and of other instances than the default one
// count too, their distinguisher added to Collector ("router/100:7"), for those who keep the Internet's
// routes in one; otherwise they are passed over, because their routes are not the Internet's.
func NewSession(collector string, vrfs bool) *Session {
	return &Session{collector: collector, vrfs: vrfs, peers: make(map[peerKey]*peer)}
}

// Counts returns what was counted so far. The maps are the session's own.
func (s *Session) Counts() *Counts { return &s.counts }

// Name returns the name and the description that the router gives of itself.
func (s *Session) Name() (sysName, sysDescr string) { return s.sysName, s.sysDescr }

// Peers is how many peers are up.
func (s *Session) Peers() int { return len(s.peers) }

// Table is the name of the table that a Loc-RIB peer shows (RFC 9069 §4.3), or empty.
func (s *Session) Table(h *PeerHeader) string {
	if p := s.peers[h.key()]; p != nil {
		return p.table
	}
	return ""
}

func (h *PeerHeader) key() peerKey { return peerKey{h.Type, h.Distinguisher, h.Addr} }

// Message takes in b, one whole message that arrived at the given time. An error is an [*Error] or a
// [*bgp.Error], already counted; the session goes on, and the next message may be taken in.
func (s *Session) Message(b []byte, received ingest.Time) (*Item, error) {
	m, err := s.decoder.Decode(b)
	if err == nil {
		s.item = Item{Message: m, Time: received}
		if m.Type.perPeer() && m.Peer.Time != 0 {
			s.item.Time = m.Peer.Time
		}
		s.changes = s.changes[:0]
		err = s.take(m)
		s.item.Changes = s.changes
	}
	if err == nil {
		return &s.item, nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		s.counts.CountMalformed(e.Reason)
	} else if e, ok := errors.AsType[*bgp.Error](err); ok {
		s.counts.CountMalformed(e.Fault.String())
	}
	return nil, err
}

// End is the end of the connection: every peer goes down.
func (s *Session) End(at ingest.Time) *Item {
	s.changes = s.changes[:0]
	s.allDown()
	s.item = Item{Time: at, Changes: s.changes}
	return &s.item
}

func (s *Session) take(m *Message) error {
	if int(m.Type) >= len(s.counts.Messages) {
		s.counts.skip(m.Type.String())
		return nil
	}
	s.counts.Messages[m.Type]++
	if m.Rest != nil {
		s.counts.skip("v4_" + m.Type.String())
		return nil
	}
	if m.Version == 3 {
		for _, t := range m.TLVs {
			if !m.Type.known(t.Type) {
				s.counts.skip("tlv")
			}
		}
	}
	if m.Type.perPeer() {
		if m.Peer.Type > LocRIBInstance {
			s.counts.skip("peer_type")
			return nil
		}
		if m.Peer.Distinguisher != 0 && !s.vrfs {
			s.counts.skip("vrf_peer")
			return nil
		}
	}
	switch m.Type {
	case TypeInitiation:
		for _, t := range m.TLVs {
			switch t.Type {
			case TLVSysName:
				s.sysName = text(t.Value)
			case TLVSysDescr:
				s.sysDescr = text(t.Value)
			}
		}
	case TypeTermination:
		s.allDown()
	case TypePeerUp:
		return s.peerUp(m)
	case TypePeerDown:
		if p := s.peers[m.Peer.key()]; p != nil {
			s.down(p)
			delete(s.peers, m.Peer.key())
		} else {
			s.counts.skip("peer_down_without_peer_up")
		}
	case TypeRouteMonitoring:
		return s.routeMonitoring(m)
	case TypeRouteMirroring:
		for _, t := range m.TLVs {
			if t.Type == TLVInformation && bytes.Equal(t.Value, []byte{0, 1}) {
				s.counts.skip("mirrored_messages_lost")
			}
		}
	}
	return nil
}

// text is what a router says in words, with a bound.
func text(b []byte) string {
	return string(bytes.ToValidUTF8(b[:min(len(b), 255)], []byte("\uFFFD")))
}

var hashSeed = maphash.MakeSeed()

func (s *Session) peerUp(m *Message) error {
	p, err := s.peer(&m.Peer)
	if err != nil {
		return err
	}
	// Routers repeat Peer Up for each view. If it says something else than before, there is a new
	// session whose predecessor's end was not told.
	up := m.PeerUp.hash()
	if !p.opened || p.up != up || p.peer.ASN != m.Peer.ASN {
		s.down(p)
		*p = peer{peer: s.identity(&m.Peer)}
	}
	p.opened, p.up = true, up
	sent, received := m.PeerUp.Sent, m.PeerUp.Received
	p.in, p.out = bgp.Negotiate(received, sent).AddPath, bgp.Negotiate(sent, received).AddPath
	view := m.Peer.View()
	if view == ingest.LocRIB {
		// There is no session: the OPENs are made up to tell the encoding (RFC 9069 §5.2).
		p.in = sent.AddPath(bgp.AddPathBoth)
		for _, t := range m.TLVs {
			if t.Type == TLVTableName {
				p.table = text(t.Value)
			}
		}
	} else if view.Out() {
		view = ingest.AdjRIBInPre // the O flag has no meaning here (RFC 8671 §4)
	}
	s.heard(p, view)
	return nil
}

func (u *PeerUp) hash() uint64 {
	var h maphash.Hash
	h.SetSeed(hashSeed)
	maphash.WriteComparable(&h, u.LocalAddr)
	maphash.WriteComparable(&h, [2]uint16{u.LocalPort, u.RemotePort})
	for _, o := range [...]*bgp.Open{u.Sent, u.Received} {
		if open, err := bgp.AppendOpen(nil, o); err == nil {
			h.Write(open)
		}
	}
	return h.Sum64()
}

func (s *Session) routeMonitoring(m *Message) error {
	if m.BGP == nil {
		s.counts.skip("v4_without_bgp_message")
		return nil
	}
	t, body, rest, err := bgp.Split(m.BGP)
	switch {
	case err != nil:
		return err
	case t != bgp.TypeUpdate:
		return errorf("not_update", HeaderLength+PeerHeaderLength, "Route Monitoring with a %s message", t)
	case len(rest) > 0:
		s.counts.CountMalformed("octets_after_message")
	}
	p, err := s.peer(&m.Peer)
	if err != nil {
		return err
	}
	view := m.Peer.View()
	o := bgp.Options{TwoOctetAS: view != ingest.LocRIB && m.Peer.Flags&FlagTwoOctetAS != 0}
	var direction uint8 // of the router, as the capabilities of version 4 have it
	switch {
	case view == ingest.LocRIB:
		o.AddPath, direction = p.in, bgp.AddPathBoth
	case view.Out():
		o.AddPath, direction = p.out, bgp.AddPathSend
	default:
		o.AddPath, direction = p.in, bgp.AddPathReceive
	}
	for _, c := range m.Capabilities {
		if c.Code == bgp.CapAddPath {
			o.AddPath = (&bgp.Open{Capabilities: m.Capabilities}).AddPath(direction)
		}
	}
	var u *bgp.Update
	guessed, without := false, false
	if p.opened || len(m.Capabilities) > 0 {
		bit := uint8(1) << view
		u, without, err = s.updates.UpdateMarked(body, o, p.without&bit != 0)
		if without != (p.without&bit != 0) {
			p.without ^= bit
			s.counts.CountMalformed("path_identifiers") // once, not for each message
		}
	} else {
		u, guessed, err = s.updates.UpdateUnmarked(body, o)
	}
	if err != nil {
		return err
	}
	s.heard(p, view)
	if !p.opened {
		s.counts.skip("peer_up_not_seen")
	}
	s.faults(u)
	s.counts.Announcements += uint64(len(u.Announced) + len(u.MulticastAnnounced))
	s.counts.Withdrawals += uint64(len(u.Withdrawn) + len(u.MulticastWithdrawn))
	s.item.BGP, s.item.Peer = u, p.peer
	s.item.Peer.View = view
	s.item.AddPath = guessed || !without && o.AddPath != 0 && o.AddPath.Has(family(u))
	return nil
}

// family is that of the routes in u; a message that has several, which is rare, has one encoding all the
// same unless the peers agreed on ADD-PATH for one of them only.
func family(u *bgp.Update) bgp.Family {
	switch {
	case u.MPReach != 0:
		return u.MPReach
	case u.MPUnreach != 0:
		return u.MPUnreach
	}
	return bgp.IPv4Unicast
}

// faults counts what a message was decoded in spite of.
func (s *Session) faults(u *bgp.Update) {
	for f := range u.Faults.All() {
		if f != bgp.FaultFamily {
			s.counts.CountMalformed(f.String())
			continue
		}
		for _, family := range [...]bgp.Family{u.MPReach, u.MPUnreach} {
			if family != 0 && !bgp.AllFamilies.Has(family) {
				s.counts.skip("family " + family.String())
			}
		}
	}
}

// peer finds the peer, or begins it.
func (s *Session) peer(h *PeerHeader) (*peer, error) {
	key := h.key()
	p := s.peers[key]
	if p == nil {
		if len(s.peers) >= maxPeers {
			return nil, errorf("too_many_peers", HeaderLength, "more than %d peers of one router", maxPeers)
		}
		p = &peer{peer: s.identity(h)}
		s.peers[key] = p
	}
	return p, nil
}

// headers gives a per-peer header for each peer, without time.
func (s *Session) headers() []PeerHeader {
	var all []PeerHeader
	for k, p := range s.peers {
		h := PeerHeader{Type: k.typ, Distinguisher: k.distinguisher, Addr: k.addr, ASN: p.peer.ASN, ID: netip.IPv4Unspecified()}
		if k.typ == LocRIBInstance {
			h.ID = p.peer.Addr
		} else if k.addr.Is6() {
			h.Flags = FlagIPv6
		}
		all = append(all, h)
	}
	return all
}

func (s *Session) identity(h *PeerHeader) ingest.Peer {
	p := ingest.Peer{Collector: s.collector, Addr: h.Addr, ASN: h.ASN}
	if p.Collector == "" {
		p.Collector = s.sysName
	}
	if h.Distinguisher != 0 {
		p.Collector += "/" + distinguisher(h.Distinguisher)
	}
	if h.Type == LocRIBInstance {
		p.Addr = h.ID
	}
	return p
}

// distinguisher writes one as RFC 4364 §4.2 has it, or as a number.
func distinguisher(d uint64) string {
	switch d >> 48 {
	case 0:
		return fmt.Sprintf("%d:%d", d>>32&0xffff, d&0xffffffff)
	case 1:
		return fmt.Sprintf("%d.%d.%d.%d:%d", d>>40&0xff, d>>32&0xff, d>>24&0xff, d>>16&0xff, d&0xffff)
	case 2:
		return fmt.Sprintf("%d:%d", d>>16&0xffffffff, d&0xffff)
	}
	return fmt.Sprintf("%016x", d)
}

// heard notes that a view of the peer is shown. The first time after a Peer Up message that view comes
// up; without one nobody knows since when it is.
func (s *Session) heard(p *peer, view ingest.View) {
	if bit := uint8(1) << view; p.views&bit == 0 {
		p.views |= bit
		if p.opened {
			s.change(p, view, true)
		}
	}
}

func (s *Session) down(p *peer) {
	for view := ingest.AdjRIBInPre; view <= ingest.LocRIB; view++ {
		if p.views&(1<<view) != 0 {
			s.change(p, view, false)
		}
	}
	p.views = 0
}

func (s *Session) change(p *peer, view ingest.View, up bool) {
	c := Change{p.peer, up}
	c.Peer.View = view
	s.changes = append(s.changes, c)
}

// allDown ends every peer, in an order that is always the same.
func (s *Session) allDown() {
	for _, p := range s.peers {
		s.down(p)
	}
	clear(s.peers)
	slices.SortFunc(s.changes, func(a, b Change) int {
		if c := a.Peer.Addr.Compare(b.Peer.Addr); c != 0 {
			return c
		}
		if c := int(a.Peer.View) - int(b.Peer.View); c != 0 {
			return c
		}
		return bytes.Compare([]byte(a.Peer.Collector), []byte(b.Peer.Collector))
	})
}

// Emit hands on the updates that an item of this session makes: peers that came up or went down, then
// unicast routes. The error is h's.
func (s *Session) Emit(it *Item, h ingest.Handler) error {
	for _, c := range it.Changes {
		s.update = ingest.Update{Time: it.Time, Peer: c.Peer, Kind: ingest.PeerDown}
		if c.Up {
			s.update.Kind = ingest.PeerUp
		}
		if err := h(&s.update); err != nil {
			return err
		}
	}
	u := it.BGP
	if u == nil || len(u.Withdrawn)+len(u.Announced) == 0 {
		return nil
	}
	s.update = ingest.Update{Time: it.Time, Peer: it.Peer, Withdrawn: u.Withdrawn, Announced: u.Announced, Attrs: u.Attrs}
	if u.Classic == 0 || u.Classic >= len(u.Announced) {
		return h(&s.update)
	}
	s.update.Announced = u.Announced[:u.Classic] // two next hops: RFC 7606 §5.1 discourages it, but it is allowed
	if err := h(&s.update); err != nil {
		return err
	}
	s.update.Withdrawn, s.update.Announced = nil, u.Announced[u.Classic:]
	s.update.Attrs.NextHop, s.update.Attrs.LinkLocal = u.MPNextHop, u.MPLinkLocal
	return h(&s.update)
}
