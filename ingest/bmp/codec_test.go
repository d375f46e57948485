package bmp

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

var compareNetip = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func genAddr(t *rapid.T, six bool, label string) netip.Addr {
	b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label)
	if six {
		return netip.AddrFrom16([16]byte(b))
	}
	return netip.AddrFrom4([4]byte(b))
}

func genPeer(t *rapid.T) PeerHeader {
	h := PeerHeader{
		Type:          PeerType(rapid.Uint8().Draw(t, "peer type")),
		Flags:         Flags(rapid.Uint8().Draw(t, "flags")),
		Distinguisher: rapid.Uint64().Draw(t, "distinguisher"),
		ASN:           rapid.Uint32().Draw(t, "asn"),
		ID:            genAddr(t, false, "id"),
		Time:          ingest.Time(rapid.Int64Range(0, 1e6<<32-1).Draw(t, "time")),
	}
	if h.Type != LocRIBInstance {
		h.Addr = genAddr(t, h.Flags&FlagIPv6 != 0, "peer")
	}
	return h
}

func genOpen(t *rapid.T, label string) *bgp.Open {
	o := &bgp.Open{
		ASN:      rapid.Uint32Range(1, 0xffff).Draw(t, label),
		HoldTime: rapid.Uint16().Draw(t, "hold time"),
		ID:       genAddr(t, false, "id"),
	}
	if rapid.Bool().Draw(t, "four octets") {
		o.ASN = rapid.Uint32().Draw(t, label)
		o.Capabilities = append(o.Capabilities, bgp.FourOctetAS(o.ASN))
	}
	if rapid.Bool().Draw(t, "add-path") {
		o.Capabilities = append(o.Capabilities, bgp.AddPath(rapid.Uint8Range(1, 3).Draw(t, "direction"), bgp.IPv4Unicast))
	}
	return o
}

func genTLVs(t *rapid.T, types *rapid.Generator[uint16], indexed bool) []TLV {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) TLV {
		v := TLV{Type: types.Draw(t, "type"), Value: rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "value")}
		if indexed {
			v.Index = rapid.Uint16().Draw(t, "index")
		}
		return v
	}), 0, 5).Draw(t, "tlvs")
}

func genStatistic(t *rapid.T) Statistic {
	s := Statistic{Type: rapid.Uint16Range(0, 20).Draw(t, "type")}
	if int(s.Type) >= len(statisticForm) {
		s.Raw = rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, "raw")
		return s
	}
	switch statisticForm[s.Type] {
	case 4:
		s.Value = uint64(rapid.Uint32().Draw(t, "counter"))
	case 8:
		s.Value = rapid.Uint64().Draw(t, "gauge")
	case 11:
		s.Family, s.Value = bgp.IPv6Unicast, rapid.Uint64().Draw(t, "gauge")
	}
	return s
}

// GenMessage makes a message of any type.
func GenMessage(t *rapid.T) *Message {
	m := &Message{Version: rapid.SampledFrom([]uint8{3, 4}).Draw(t, "version"), Type: Type(rapid.Uint8Range(0, 8).Draw(t, "type"))}
	if m.Type.perPeer() {
		m.Peer = genPeer(t)
	}
	anyType := rapid.Uint16()
	switch {
	case m.Type == TypeRouteMonitoring && m.Version == 3:
		m.BGP = rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "bgp")
	case m.Type == TypeRouteMonitoring:
		// What could be taken for the other numbering of types is left out.
		m.TLVs = genTLVs(t, rapid.Uint16Range(8, 40), true)
		m.BGP = bgp.AppendEndOfRIB(nil, bgp.IPv6Unicast)
		if rapid.Bool().Draw(t, "stateless") {
			m.Capabilities = []bgp.Capability{bgp.AddPath(bgp.AddPathBoth, bgp.IPv4Unicast), bgp.FourOctetAS(1)}
		}
	case m.Type == TypePeerUp:
		m.PeerUp = PeerUp{LocalPort: rapid.Uint16().Draw(t, "local"), RemotePort: rapid.Uint16().Draw(t, "remote"), Sent: genOpen(t, "sent"), Received: genOpen(t, "received")}
		if m.Peer.Type != LocRIBInstance {
			m.PeerUp.LocalAddr = genAddr(t, m.Peer.Flags&FlagIPv6 != 0, "local")
		}
		m.TLVs = genTLVs(t, anyType, false)
	case m.Type == TypePeerDown:
		m.PeerDown.Reason = rapid.Uint8().Draw(t, "reason")
		if m.PeerDown.Reason == DownLocalTLV {
			m.TLVs = genTLVs(t, anyType, false)
		} else {
			m.PeerDown.Data = rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "data")
		}
	case m.Type == TypeStatistics && m.Version == 3:
		m.Statistics = rapid.SliceOfN(rapid.Custom(genStatistic), 0, 20).Draw(t, "statistics")
	case m.Type == TypeInitiation || m.Type == TypeTermination || m.Type == TypeRouteMirroring && m.Version == 3:
		m.TLVs = genTLVs(t, anyType, false)
	default:
		m.Rest = rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "rest")
	}
	return m
}

// Raw is left out where the value was read from it.
var compareMessages = cmp.Options{compareNetip, cmpopts.EquateEmpty(), cmp.Transformer("raw", func(s Statistic) Statistic {
	if int(s.Type) < len(statisticForm) {
		s.Raw = nil
	}
	return s
})}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := GenMessage(t)
		b, err := Append([]byte("before"), want)
		if err != nil {
			t.Fatal(err)
		}
		b, ok := bytes.CutPrefix(b, []byte("before"))
		if !ok {
			t.Fatal("what was in the buffer is gone")
		}
		if n, err := Length(b); err != nil || n != len(b) {
			t.Fatalf("Length: %d, %v; it is %d", n, err, len(b))
		}
		got, err := new(Decoder).Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, compareMessages...); diff != "" {
			t.Fatalf("-want +got\n%s", diff)
		}
	})
}
