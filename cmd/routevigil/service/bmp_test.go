package service

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bmp"
	"github.com/routevigil/routevigil/store"
)

// TestBMPAlone runs the service on one router of ours and nothing else: the feed shows as connected, and
// the history has each view of a route by itself.
func TestBMPAlone(t *testing.T) {
	c := configuration(t, "ws://127.0.0.1:1/")
	c.Ingest.RISLive.Enabled = false
	c.Ingest.BMP.Listen, c.Ingest.BMP.Allow = "127.0.0.1:0", []string{"127.0.0.0/8"}
	c.Ingest.BMP.Routers = []bmp.Router{{Address: "127.0.0.1", Name: "edge1"}}
	s := start(t, c)
	eventually(t, func() string {
		if got := s.feed(); got.Type != "bmp" || strings.HasSuffix(got.Address, ":0") {
			return "the feed does not listen"
		}
		return ""
	})
	if _, reasons := s.ready(); !strings.Contains(reasons, "No router speaks to bmp") {
		t.Errorf("readyz says: %s", reasons)
	}
	conn, err := net.Dial("tcp", s.feed().Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peer := bmp.PeerHeader{Addr: netip.MustParseAddr("198.51.100.1"), ASN: 64500, ID: netip.MustParseAddr("198.51.100.1"), Time: ingest.TimeOf(time.Now())}
	open := &bgp.Open{ASN: 64500, HoldTime: 90, ID: peer.ID, Capabilities: []bgp.Capability{bgp.FourOctetAS(64500)}}
	update, err := bgp.AppendUpdate(nil, &bgp.Update{
		Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("203.0.113.0/24")}},
		Attrs: bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: peer.Addr,
			ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{64500, 64501}}}},
	}, bgp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	out := peer
	out.Flags = bmp.FlagAdjRIBOut | bmp.FlagPostPolicy
	for _, m := range []bmp.Message{
		{Version: 3, Type: bmp.TypeInitiation, TLVs: []bmp.TLV{{Type: bmp.TLVSysName, Value: []byte("r1")}}},
		{Version: 3, Type: bmp.TypePeerUp, Peer: peer, PeerUp: bmp.PeerUp{LocalAddr: netip.MustParseAddr("198.51.100.2"), Sent: open, Received: open}},
		{Version: 3, Type: bmp.TypeRouteMonitoring, Peer: peer, BGP: update},
		{Version: 3, Type: bmp.TypeRouteMonitoring, Peer: out, BGP: update},
	} {
		b, err := bmp.Append(nil, &m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	s.whenReady(nil)
	if got := s.feed(); got.State != ingest.Connected || got.Peers != 1 {
		t.Errorf("the feed is %+v", got)
	}
	var history struct{ Items []store.Route }
	eventually(t, func() string {
		s.get("/api/v1/updates?prefix=203.0.113.0/24&type=announce", &history)
		if len(history.Items) != 2 {
			return "the history has not both routes"
		}
		return ""
	})
	for i, view := range []ingest.View{ingest.AdjRIBOutPost, ingest.AdjRIBInPre} { // the newest first
		if got := history.Items[i]; got.View != view || got.Collector != "edge1" || got.PeerASN != 64500 || got.ASPath != "64500 64501" {
			t.Errorf("row %d is %+v; its view is to be %v", i, got, view)
		}
	}
	var prefix struct {
		Origins []struct {
			ASN   uint32
			Peers int
		}
	}
	s.get("/api/v1/prefixes/203.0.113.0/24", &prefix)
	if len(prefix.Origins) != 1 || prefix.Origins[0].ASN != 64501 || prefix.Origins[0].Peers != 1 {
		t.Errorf("the table has %+v; Adj-RIB-Out is no witness", prefix.Origins)
	}
	conn.Close()
	eventually(t, func() string {
		s.get("/api/v1/updates?collector=edge1&type=peer_down", &history)
		if len(history.Items) != 2 || s.feed().State != ingest.Connecting {
			return "the end of the session takes no peer down"
		}
		return ""
	})
}

func TestNoFeedAtAll(t *testing.T) {
	c := configuration(t, "ws://127.0.0.1:1/")
	c.Ingest.RISLive.Enabled = false
	if _, err := New(c, "live", "test", testLog(t)); err == nil || !strings.Contains(err.Error(), "ingest.bmp.listen") {
		t.Errorf("the error is %v; it must name the remedy", err)
	}
}
