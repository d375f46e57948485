package publish

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bmp"
	"github.com/routevigil/routevigil/ingest/openbmp"
)

// maxPeers bounds the peers that are told apart; all that RIS and RouteViews have are some thousands.
const maxPeers = 1 << 16

var errTooManyPeers = fmt.Errorf("more than %d peers", maxPeers)

// encoder makes messages of updates. To consumers each of the updates' collectors is a router with peers.
type encoder struct {
	admin    []byte // the name of the collector of messages, which is us
	hash     openbmp.Hash
	routers  map[string]*router
	peers    map[ingest.Peer]*peer
	last     *peer // of lastPeer
	lastPeer ingest.Peer

	update, message []byte
}

// router is what the messages of one collector have in common.
type router struct {
	header openbmp.Header
	told   bool // its Initiation was sent
}

// peer is what consumers were told of one.
type peer struct {
	router  *router
	header  bmp.PeerHeader
	up      bool
	missed  bool // that its session began or ended could not be told
	addPath bool // its routes have path identifiers
}

func newEncoder(name string) *encoder {
	return &encoder{admin: []byte(name), hash: hashOf("collector", name), routers: map[string]*router{}, peers: map[ingest.Peer]*peer{}}
}

// hashOf is the name that OpenBMP's consumers know something by: always the same for the same.
func hashOf(what, name string) openbmp.Hash {
	h := sha256.Sum256([]byte("routevigil " + what + " " + name))
	return openbmp.Hash(h[:16])
}

// routerOf is the router that a collector is shown as. addr may be none.
func (e *encoder) routerOf(collector string, addr netip.Addr) *router {
	r := e.routers[collector]
	if r == nil {
		r = &router{header: openbmp.Header{Flags: openbmp.FlagRouter, Type: openbmp.TypeBMPRaw, Collector: e.hash, AdminID: e.admin,
			Router: hashOf("router", collector), RouterIP: netip.IPv4Unspecified(), Group: []byte(collector), Rows: 1}}
		if addr = addr.WithZone(""); addr.IsValid() {
			r.header.RouterIP = addr
		}
		if r.header.RouterIP.Is6() {
			r.header.Flags |= openbmp.FlagIPv6
		}
		e.routers[collector] = r
	}
	return r
}

// peerOf finds a peer, or begins it.
func (e *encoder) peerOf(p ingest.Peer) (*peer, error) {
	if e.last != nil && p == e.lastPeer {
		return e.last, nil
	}
	x := e.peers[p]
	if x == nil {
		if len(e.peers) >= maxPeers {
			return nil, errTooManyPeers
		}
		h, err := headerOf(p)
		if err != nil {
			return nil, err
		}
		x = &peer{router: e.routerOf(p.Collector, netip.Addr{}), header: h}
		e.peers[p] = x
	}
	e.last, e.lastPeer = x, p
	return x, nil
}

// headerOf is the per-peer header of RFC 7854 §4.2, but for the time. The BGP identifier, which no feed but BMP
// tells, is the peer's address where that has four octets, and otherwise made from it.
func headerOf(p ingest.Peer) (h bmp.PeerHeader, err error) {
	if !p.Addr.IsValid() {
		return h, errors.New("a peer without an address")
	}
	h = bmp.PeerHeader{Addr: p.Addr.WithZone(""), ASN: p.ASN, ID: p.Addr}
	if p.Addr.Is6() {
		h.Flags |= bmp.FlagIPv6
		a := p.Addr.As16()
		x := sha256.Sum256(a[:])
		h.ID = netip.AddrFrom4([4]byte(x[:4]))
	}
	switch p.View {
	case ingest.AdjRIBInPost:
		h.Flags |= bmp.FlagPostPolicy
	case ingest.AdjRIBOutPre:
		h.Flags |= bmp.FlagAdjRIBOut
	case ingest.AdjRIBOutPost:
		h.Flags |= bmp.FlagAdjRIBOut | bmp.FlagPostPolicy
	case ingest.LocRIB:
		h.Type, h.Flags, h.Addr = bmp.LocRIBInstance, 0, netip.Addr{}
	}
	return h, nil
}

// append appends the messages that tell what u says to q. Where that fails nothing of u is appended, but perhaps what
// had to be told before it.
func (e *encoder) append(q *queue, u *ingest.Update, now ingest.Time) error {
	p, err := e.peerOf(u.Peer)
	if err != nil {
		return err
	}
	if p.up && (p.missed || u.Kind == ingest.PeerUp || u.Kind == ingest.PeerDown || !p.addPath && hasIDs(u)) {
		// Reason 4, without a NOTIFICATION: no feed says why.
		if err := e.tell(q, p, &bmp.Message{Type: bmp.TypePeerDown, PeerDown: bmp.PeerDown{Reason: bmp.DownRemote}}, u.Time, now); err != nil {
			return err
		}
		p.up = false
	}
	p.missed = false
	if u.Kind == ingest.PeerDown {
		return nil
	}
	p.addPath = p.addPath || hasIDs(u)
	if !p.up {
		if err := e.tellUp(q, p, u.Time, now); err != nil {
			return err
		}
		p.up = true
	}
	if u.Kind == ingest.PeerUp {
		return nil
	}
	o := bgp.Options{}
	if p.addPath {
		o.AddPath = unicast
	}
	x := bgp.Update{Withdrawn: u.Withdrawn, Announced: u.Announced, Attrs: u.Attrs}
	b, err := bgp.AppendUpdate(e.update[:0], &x, o)
	if err != nil {
		o.ExtendedMessage = true // only where it is needed: not every consumer takes them
		b, err = bgp.AppendUpdate(e.update[:0], &x, o)
	}
	if err != nil {
		return err
	}
	for e.update = b; len(b) > 0; {
		_, n, err := bgp.ParseHeader(b)
		if err != nil {
			return err
		}
		if err := e.tell(q, p, &bmp.Message{Type: bmp.TypeRouteMonitoring, BGP: b[:n]}, u.Time, now); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

var unicast = bgp.Families(bgp.IPv4Unicast, bgp.IPv6Unicast)

// hasIDs reports whether a route of u has a path identifier.
func hasIDs(u *ingest.Update) bool {
	for _, list := range [2][]bgp.NLRI{u.Withdrawn, u.Announced} {
		for i := range list {
			if list[i].PathID != 0 {
				return true
			}
		}
	}
	return false
}

// asTrans stands for an AS whose number is not known (RFC 6793 §9); our side of a session that we only hear of.
const asTrans = 23456

// tellUp tells of a session what consumers have to know in order to decode its UPDATE messages. Both OPENs are made up,
// as RFC 9069 §5.2 has it of a Loc-RIB.
func (e *encoder) tellUp(q *queue, p *peer, at, now ingest.Time) error {
	if !p.router.told {
		hello := bmp.Message{Type: bmp.TypeInitiation, TLVs: []bmp.TLV{{Type: bmp.TLVSysDescr, Value: []byte("routevigil")}, {Type: bmp.TLVSysName, Value: p.router.header.Group}}}
		if err := e.tell(q, p, &hello, at, now); err != nil {
			return err
		}
		p.router.told = true
	}
	open := func(asn uint32, id netip.Addr) *bgp.Open {
		o := &bgp.Open{ASN: asn, HoldTime: 180, ID: id, Capabilities: []bgp.Capability{bgp.Multiprotocol(bgp.IPv4Unicast), bgp.Multiprotocol(bgp.IPv6Unicast),
			bgp.FourOctetAS(asn), bgp.ExtendedNextHop(bgp.IPv4Unicast), {Code: bgp.CapExtendedMessage}}}
		if p.addPath {
			o.Capabilities = append(o.Capabilities, bgp.AddPath(bgp.AddPathBoth, bgp.IPv4Unicast, bgp.IPv6Unicast))
		}
		return o
	}
	up := bmp.PeerUp{Sent: open(asTrans, netip.AddrFrom4([4]byte{0, 0, 0, 1})), Received: open(p.header.ASN, p.header.ID)}
	m := bmp.Message{Type: bmp.TypePeerUp, PeerUp: up}
	switch {
	case p.header.Type == bmp.LocRIBInstance:
		m.PeerUp.Sent = m.PeerUp.Received
	case p.header.Addr.Is6():
		m.PeerUp.LocalAddr = netip.IPv6Unspecified()
	default:
		m.PeerUp.LocalAddr = netip.IPv4Unspecified()
	}
	return e.tell(q, p, &m, at, now)
}

// tell appends one message about a peer. at is when what it says happened; now, when we heard it.
func (e *encoder) tell(q *queue, p *peer, m *bmp.Message, at, now ingest.Time) error {
	m.Version, m.Peer = 3, p.header
	if at > 0 && at < 1e6<<32 {
		m.Peer.Time = at // otherwise zero: unknown
	}
	b, err := bmp.Append(e.message[:0], m)
	if err != nil {
		return err
	}
	e.message = b
	return e.wrap(q, p.router, b, now)
}

// wrap appends one BMP message of a router.
func (e *encoder) wrap(q *queue, r *router, message []byte, now ingest.Time) error {
	r.header.Time = now
	b, err := openbmp.Append(q.b, &r.header, message)
	if err != nil {
		return err
	}
	q.add(b, r.header.Router)
	return nil
}

// queue is messages one after the other.
type queue struct {
	b        []byte
	messages []extent
}

// extent is where a message ends in its queue, and what decides its partition: all messages of one router share one.
type extent struct {
	end    int
	router uint32
}

// add takes b, which is q.b with one more message of a router.
func (q *queue) add(b []byte, router openbmp.Hash) {
	q.b = b
	q.messages = append(q.messages, extent{len(b), binary.BigEndian.Uint32(router[:])})
}

// each gives the messages in order.
func (q *queue) each(f func(message []byte, router uint32)) {
	from := 0
	for _, x := range q.messages {
		f(q.b[from:x.end:x.end], x.router)
		from = x.end
	}
}

func (q *queue) reset() { q.b, q.messages = q.b[:0], q.messages[:0] }
