package bmp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/routevigil/routevigil/ingest/bgp"
)

// Append appends m as one message. Statistics are written from their Raw octets if they have any.
// Version 4 is written as revision 20 of the draft has it. After an error dst is returned as it was.
func Append(dst []byte, m *Message) ([]byte, error) {
	if m.Version != 3 && m.Version != 4 {
		return dst, fmt.Errorf("cannot encode BMP: version %d; 3 and 4 are known", m.Version)
	}
	b, err := appendBody(append(dst, m.Version, 0, 0, 0, 0, byte(m.Type)), m)
	if err != nil {
		return dst, fmt.Errorf("cannot encode BMP: %w", err)
	}
	n := len(b) - len(dst)
	if n > MaxLength {
		return dst, fmt.Errorf("cannot encode BMP: a message of %d octets; %d is the most", n, MaxLength)
	}
	binary.BigEndian.PutUint32(b[len(dst)+1:], uint32(n))
	return b, nil
}

func appendBody(b []byte, m *Message) ([]byte, error) {
	if m.Type.perPeer() {
		var err error
		if b, err = m.Peer.append(b); err != nil {
			return nil, err
		}
	}
	switch {
	case m.Type == TypeRouteMonitoring && m.Version == 3:
		return append(b, m.BGP...), nil
	case m.Type == TypeRouteMonitoring:
		for _, c := range m.Capabilities {
			if len(c.Value) > 255 {
				return nil, fmt.Errorf("capability %d of %d octets", c.Code, len(c.Value))
			}
			b = binary.BigEndian.AppendUint16(b, tlv4Stateless)
			b = binary.BigEndian.AppendUint16(b, uint16(2+len(c.Value)))
			b = append(b, 0, 0, c.Code, byte(len(c.Value)))
			b = append(b, c.Value...)
		}
		tlvs := m.TLVs
		if m.BGP != nil {
			tlvs = append(tlvs[:len(tlvs):len(tlvs)], TLV{Type: tlv4BGP, Value: m.BGP})
		}
		return appendTLVs(b, tlvs, true)
	case m.Type == TypePeerUp:
		up := &m.PeerUp
		var err error
		if b, err = m.Peer.appendAddr(b, up.LocalAddr); err != nil {
			return nil, err
		}
		b = binary.BigEndian.AppendUint16(b, up.LocalPort)
		b = binary.BigEndian.AppendUint16(b, up.RemotePort)
		for _, o := range [...]*bgp.Open{up.Sent, up.Received} {
			if o == nil {
				return nil, errors.New("a Peer Up message needs both OPENs")
			}
			if b, err = bgp.AppendOpen(b, o); err != nil {
				return nil, err
			}
		}
	case m.Type == TypePeerDown:
		b = append(append(b, m.PeerDown.Reason), m.PeerDown.Data...)
	case m.Type == TypeStatistics && m.Version == 3:
		b = binary.BigEndian.AppendUint32(b, uint32(len(m.Statistics)))
		for _, s := range m.Statistics {
			raw := s.Raw
			if raw == nil {
				if int(s.Type) >= len(statisticForm) {
					return nil, fmt.Errorf("statistic %d is not known and has no raw octets", s.Type)
				}
				switch statisticForm[s.Type] {
				case 4:
					raw = binary.BigEndian.AppendUint32(nil, uint32(s.Value))
				case 8:
					raw = binary.BigEndian.AppendUint64(nil, s.Value)
				case 11:
					raw = append(binary.BigEndian.AppendUint16(nil, s.Family.AFI()), s.Family.SAFI())
					raw = binary.BigEndian.AppendUint64(raw, s.Value)
				}
			}
			var err error
			if b, err = appendTLVs(b, []TLV{{Type: s.Type, Value: raw}}, false); err != nil {
				return nil, err
			}
		}
		return b, nil
	case !(m.Type == TypeInitiation || m.Type == TypeTermination || m.Type == TypeRouteMirroring && m.Version == 3):
		return append(b, m.Rest...), nil
	}
	return appendTLVs(b, m.TLVs, false)
}

func appendTLVs(b []byte, tlvs []TLV, indexed bool) ([]byte, error) {
	for _, t := range tlvs {
		if len(t.Value) > 0xffff {
			return nil, fmt.Errorf("TLV %d of %d octets", t.Type, len(t.Value))
		}
		b = binary.BigEndian.AppendUint16(b, t.Type)
		b = binary.BigEndian.AppendUint16(b, uint16(len(t.Value)))
		if indexed {
			b = binary.BigEndian.AppendUint16(b, t.Index)
		}
		b = append(b, t.Value...)
	}
	return b, nil
}

func (h *PeerHeader) append(b []byte) ([]byte, error) {
	if !h.ID.Is4() {
		return nil, errors.New("the peer's BGP identifier is not an IPv4 address")
	}
	if h.Time < 0 || h.Time >= 1e6<<32 {
		return nil, fmt.Errorf("%v does not fit into a timestamp", h.Time)
	}
	b = append(b, byte(h.Type), byte(h.Flags))
	b = binary.BigEndian.AppendUint64(b, h.Distinguisher)
	b, err := h.appendAddr(b, h.Addr)
	if err != nil {
		return nil, err
	}
	b = binary.BigEndian.AppendUint32(b, h.ASN)
	b = append(b, h.ID.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(h.Time/1e6))
	return binary.BigEndian.AppendUint32(b, uint32(h.Time%1e6)), nil
}

// appendAddr writes an address into 16 octets, an IPv4 one into the last four.
func (h *PeerHeader) appendAddr(b []byte, a netip.Addr) ([]byte, error) {
	switch {
	case h.Type == LocRIBInstance && !a.IsValid():
		return append(b, make([]byte, 16)...), nil
	case h.Type == LocRIBInstance || !a.IsValid() || a.Is4() == (h.Flags&FlagIPv6 != 0):
		return nil, fmt.Errorf("address %v does not go with the peer's type %d and flags %#02x", a, h.Type, uint8(h.Flags))
	case a.Is4():
		return append(append(b, make([]byte, 12)...), a.AsSlice()...), nil
	}
	return append(b, a.AsSlice()...), nil
}
