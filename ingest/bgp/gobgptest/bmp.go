package gobgptest

import (
	"fmt"
	"math"
	"net/netip"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	gobgp "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	gobmp "github.com/osrg/gobgp/v4/pkg/packet/bmp"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bmp"
)

// SameBMP compares what messages say: not from which octets a statistic was read.
var SameBMP = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmpopts.EquateEmpty(),
	cmpopts.IgnoreFields(bmp.Statistic{}, "Raw"),
}

// BMP decodes a BMP message of version 3. Of Route Monitoring it gives the UPDATE, decoded with the options, in
// place of the octets, and of Peer Down for reasons 1 and 3 the NOTIFICATION as our encoder writes it. What of the
// UPDATE is an error of GoBGP's is the second error.
func BMP(b []byte, o bgp.Options) (m *bmp.Message, u *bgp.Update, err, updateErr error) {
	parsed, err := gobmp.ParseBMPMessageWithOptions(b, func(gobmp.BMPPeerHeader) []*gobgp.MarshallingOption {
		return []*gobgp.MarshallingOption{Options(o)}
	})
	if parsed == nil {
		return nil, nil, err, nil
	}
	m = &bmp.Message{Version: parsed.Header.Version, Type: bmp.Type(parsed.Header.Type)}
	if m.Type != bmp.TypeInitiation && m.Type != bmp.TypeTermination {
		h := parsed.PeerHeader
		m.Peer = bmp.PeerHeader{Type: bmp.PeerType(h.PeerType), Flags: bmp.Flags(h.Flags), Distinguisher: h.PeerDistinguisher,
			Addr: h.PeerAddress, ASN: h.PeerAS, ID: h.PeerBGPID, Time: ingest.Time(math.Round(h.Timestamp * 1e6))}
	}
	switch body := parsed.Body.(type) {
	case *gobmp.BMPRouteMonitoring:
		u, updateErr = Update(b[bmp.HeaderLength+bmp.PeerHeaderLength:], o)
		return m, u, nil, updateErr
	case *gobmp.BMPInitiation:
		m.TLVs, err = information(body.Info)
	case *gobmp.BMPPeerUpNotification:
		m.PeerUp = bmp.PeerUp{LocalAddr: body.LocalAddress, LocalPort: body.LocalPort, RemotePort: body.RemotePort}
		if m.Peer.Type == bmp.LocRIBInstance {
			m.PeerUp.LocalAddr = m.Peer.Addr // of no meaning (RFC 9069 §5.1)
		}
		if m.PeerUp.Sent, err = open(body.SentOpenMsg); err != nil {
			return nil, nil, err, nil
		}
		if m.PeerUp.Received, err = open(body.ReceivedOpenMsg); err != nil {
			return nil, nil, err, nil
		}
		m.TLVs, err = information(body.Info)
	case *gobmp.BMPPeerDownNotification:
		m.PeerDown = bmp.PeerDown{Reason: body.Reason, Data: body.Data}
		if body.BGPNotification != nil {
			n := body.BGPNotification.Body.(*gobgp.BGPNotification)
			m.PeerDown.Data = bgp.AppendNotification(nil, bgp.Notification{Code: n.ErrorCode, Subcode: n.ErrorSubcode, Data: n.Data})
		}
		m.TLVs, err = information(body.Info)
	case *gobmp.BMPStatisticsReport:
		for _, s := range body.Stats {
			switch s := s.(type) {
			case *gobmp.BMPStatsTLV32:
				m.Statistics = append(m.Statistics, bmp.Statistic{Type: s.Type, Value: uint64(s.Value)})
			case *gobmp.BMPStatsTLV64:
				m.Statistics = append(m.Statistics, bmp.Statistic{Type: s.Type, Value: s.Value})
			case *gobmp.BMPStatsTLVPerAfiSafi64:
				m.Statistics = append(m.Statistics, bmp.Statistic{Type: s.Type, Family: bgp.FamilyOf(s.AFI, s.SAFI), Value: s.Value})
			}
		}
	default:
		return nil, nil, fmt.Errorf("messages of type %s are not compared", m.Type), nil
	}
	return m, nil, err, nil
}

func information(list []gobmp.BMPInfoTLVInterface) (tlvs []bmp.TLV, err error) {
	for _, t := range list {
		switch t := t.(type) {
		case *gobmp.BMPInfoTLVString:
			tlvs = append(tlvs, bmp.TLV{Type: t.Type, Value: []byte(t.Value)})
		case *gobmp.BMPInfoTLVUnknown:
			tlvs = append(tlvs, bmp.TLV{Type: t.Type, Value: t.Value})
		default:
			return nil, fmt.Errorf("TLV %T", t)
		}
	}
	return tlvs, nil
}

func open(message *gobgp.BGPMessage) (*bgp.Open, error) {
	parsed, ok := message.Body.(*gobgp.BGPOpen)
	if !ok {
		return nil, fmt.Errorf("message type %d where OPEN is expected", message.Header.Type)
	}
	o := &bgp.Open{ASN: uint32(parsed.MyAS), HoldTime: parsed.HoldTime, ID: parsed.ID}
	for _, p := range parsed.OptParams {
		list, ok := p.(*gobgp.OptionParameterCapability)
		if !ok {
			continue
		}
		for _, c := range list.Capability {
			b, err := c.Serialize()
			if err != nil {
				return nil, err
			}
			if four, ok := c.(*gobgp.CapFourOctetASNumber); ok {
				o.ASN = four.CapValue
			}
			o.Capabilities = append(o.Capabilities, bgp.Capability{Code: b[0], Value: b[2:]})
		}
	}
	return o, nil
}
