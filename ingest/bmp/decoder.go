package bmp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Decoder turns the bytes of one message into a [Message]. The zero value is ready to use. It is not
// safe for concurrent use.
//
// What it returns, with everything that it points to, belongs to the decoder and its input, and holds
// only until the next call. It allocates nothing in the steady state but for the two OPENs of a Peer
// Up message. The BGP message of Route Monitoring is not decoded: see [Session].
type Decoder struct {
	m     Message
	tlvs  []TLV
	stats []Statistic
	caps  []bgp.Capability
}

// Decode decodes b, which is one whole message. An error is an [*Error] or, wrapped in one, a
// [*bgp.Error]; the next message may be decoded all the same.
func (d *Decoder) Decode(b []byte) (*Message, error) {
	n, err := Length(b)
	if err != nil {
		return nil, err
	}
	if n != len(b) {
		return nil, errorf("length", 1, "the message gives its length as %d and has %d octets", n, len(b))
	}
	d.m = Message{Version: b[0], Type: Type(b[5])}
	d.tlvs, d.stats, d.caps = d.tlvs[:0], d.stats[:0], d.caps[:0]
	m, rest := &d.m, b[HeaderLength:]
	if m.Type.perPeer() {
		m.Peer.decode(rest)
		rest = rest[PeerHeaderLength:]
	}
	at := len(b) - len(rest)
	switch {
	case m.Type == TypeRouteMonitoring && m.Version == 3:
		m.BGP = rest
	case m.Type == TypeRouteMonitoring:
		err = d.routeMonitoring4(rest, at)
	case m.Type == TypePeerDown:
		err = d.peerDown(rest, at)
	case m.Type == TypePeerUp:
		err = d.peerUp(rest, at)
	case m.Type == TypeInitiation || m.Type == TypeTermination || m.Type == TypeRouteMirroring && m.Version == 3:
		err = d.information(rest, at)
	case m.Type == TypeStatistics && m.Version == 3:
		err = d.statistics(rest, at)
	default:
		m.Rest = rest
	}
	if err != nil {
		return nil, err
	}
	m.TLVs, m.Statistics, m.Capabilities = d.tlvs, d.stats, d.caps
	return m, nil
}

func (h *PeerHeader) decode(b []byte) {
	h.Type, h.Flags, h.Distinguisher = PeerType(b[0]), Flags(b[1]), binary.BigEndian.Uint64(b[2:])
	h.Addr = h.addr(b[10:])
	h.ASN = binary.BigEndian.Uint32(b[26:])
	h.ID = netip.AddrFrom4([4]byte(b[30:]))
	h.Time = ingest.Time(binary.BigEndian.Uint32(b[34:])) * 1e6
	if micros := binary.BigEndian.Uint32(b[38:]); micros < 1e6 {
		h.Time += ingest.Time(micros)
	}
}

// addr reads a field of 16 octets that holds an address of the peer's family.
func (h *PeerHeader) addr(b []byte) netip.Addr {
	switch {
	case h.Type == LocRIBInstance:
		return netip.Addr{}
	case h.Flags&FlagIPv6 != 0:
		return netip.AddrFrom16([16]byte(b))
	}
	return netip.AddrFrom4([4]byte(b[12:]))
}

func (d *Decoder) peerUp(b []byte, at int) error {
	const fixed = 20
	if len(b) < fixed {
		return errorf("short", at, "Peer Up with %d octets after the peer; the least is %d", len(b), fixed)
	}
	up := &d.m.PeerUp
	up.LocalAddr = d.m.Peer.addr(b)
	up.LocalPort, up.RemotePort = binary.BigEndian.Uint16(b[16:]), binary.BigEndian.Uint16(b[18:])
	rest := b[fixed:]
	for _, open := range [...]**bgp.Open{&up.Sent, &up.Received} {
		from := at + len(b) - len(rest)
		t, body, after, err := bgp.Split(rest)
		if err == nil && t != bgp.TypeOpen {
			return errorf("open", from, "%s where OPEN is expected", t)
		}
		if err == nil {
			*open, err = bgp.ParseOpen(body)
		}
		if err != nil {
			return errorf("open", from, "%v", err)
		}
		rest = after
	}
	return d.information(rest, at+len(b)-len(rest))
}

func (d *Decoder) peerDown(b []byte, at int) error {
	if len(b) == 0 {
		return errorf("short", at, "Peer Down without a reason")
	}
	d.m.PeerDown.Reason = b[0]
	if b[0] == DownLocalTLV {
		return d.information(b[1:], at+1)
	}
	d.m.PeerDown.Data = b[1:]
	return nil
}

// Notification is the one that ended the session, for reasons 1 and 3.
func (p *PeerDown) Notification() (bgp.Notification, error) {
	if p.Reason != DownLocalNotification && p.Reason != DownRemoteNotification {
		return bgp.Notification{}, errors.New("BMP: Peer Down for a reason without a NOTIFICATION")
	}
	t, body, _, err := bgp.Split(p.Data)
	if err != nil {
		return bgp.Notification{}, err
	}
	if t != bgp.TypeNotification {
		return bgp.Notification{}, errorf("notification", 0, "%s where NOTIFICATION is expected", t)
	}
	return bgp.ParseNotification(body)
}

// information reads TLVs up to the end.
func (d *Decoder) information(b []byte, at int) error {
	for len(b) > 0 {
		if len(b) < 4 {
			return errorf("tlv", at, "%d octets where a TLV has at least 4", len(b))
		}
		typ, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if n > len(b)-4 {
			return errorf("tlv", at, "TLV %d gives its length as %d where %d octets are left", typ, n, len(b)-4)
		}
		d.tlvs = append(d.tlvs, TLV{Type: typ, Value: b[4 : 4+n]})
		b, at = b[4+n:], at+4+n
	}
	return nil
}

// statisticForm is the form of the values of each type.
var statisticForm = [...]int{4, 4, 4, 4, 4, 4, 4, 8, 8, 11, 11, 4, 4, 4, 8, 8, 11, 11}

func (d *Decoder) statistics(b []byte, at int) error {
	if len(b) < 4 {
		return errorf("short", at, "Statistics Report with %d octets after the peer; the least is 4", len(b))
	}
	// The count of values is not needed, and to believe it is not wise.
	if err := d.information(b[4:], at+4); err != nil {
		return err
	}
	for _, t := range d.tlvs {
		s := Statistic{Type: t.Type, Raw: t.Value}
		if int(t.Type) < len(statisticForm) && len(t.Value) == statisticForm[t.Type] {
			v := t.Value
			if len(v) == 11 {
				s.Family = bgp.FamilyOf(binary.BigEndian.Uint16(v), v[2])
				v = v[3:]
			}
			if len(v) == 4 {
				s.Value = uint64(binary.BigEndian.Uint32(v))
			} else {
				s.Value = binary.BigEndian.Uint64(v)
			}
		}
		d.stats = append(d.stats, s)
	}
	d.tlvs = d.tlvs[:0]
	return nil
}

// Types of TLV in Route Monitoring of version 4, as draft-ietf-grow-bmp-tlv numbers them since its
// revision 20, and as routers do that were made after an earlier one.
const (
	tlv4Stateless, tlv4BGP       = 6, 7
	tlv4OldStateless, tlv4OldBGP = 1, 4
)

var bgpMarker = bytes.Repeat([]byte{0xff}, 16)

// routeMonitoring4 reads the TLVs of version 4, each of which has an index. Which numbering is in use
// shows the TLV that starts as a BGP message does: in the other one, both of its types mean something
// that never looks like that.
func (d *Decoder) routeMonitoring4(b []byte, at int) error {
	stateless := uint16(tlv4Stateless)
	for len(b) > 0 {
		if len(b) < 6 {
			return errorf("tlv", at, "%d octets where a TLV has at least 6", len(b))
		}
		t := TLV{Type: binary.BigEndian.Uint16(b), Index: binary.BigEndian.Uint16(b[4:])}
		n := int(binary.BigEndian.Uint16(b[2:]))
		if n > len(b)-6 {
			return errorf("tlv", at, "TLV %d gives its length as %d where %d octets are left", t.Type, n, len(b)-6)
		}
		t.Value = b[6 : 6+n]
		if (t.Type == tlv4BGP || t.Type == tlv4OldBGP) && bytes.HasPrefix(t.Value, bgpMarker) {
			if d.m.BGP != nil {
				return errorf("several_bgp_messages", at, "a second BGP message in one Route Monitoring message")
			}
			d.m.BGP = t.Value
			if t.Type == tlv4OldBGP {
				stateless = tlv4OldStateless
			}
		} else {
			d.tlvs = append(d.tlvs, t)
		}
		b, at = b[6+n:], at+6+n
	}
	if d.m.BGP == nil {
		return nil
	}
	others := d.tlvs[:0]
	for _, t := range d.tlvs {
		if v := t.Value; t.Type == stateless && len(v) >= 2 && int(v[1]) == len(v)-2 {
			d.caps = append(d.caps, bgp.Capability{Code: v[0], Value: v[2:]})
			continue
		}
		others = append(others, t)
	}
	d.tlvs = others
	return nil
}
