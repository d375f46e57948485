package batch

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
)

// What a row keeps of an update comes back, one update for each row.
func TestUpdateOf(t *testing.T) {
	peer := ingest.Peer{Collector: "rrc00", Addr: netip.MustParseAddr("2001:db8::1"), ASN: 64500, View: ingest.LocRIB}
	at := ingest.TimeOf(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC))
	nlri := []bgp.NLRI{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), PathID: 7}}
	attrs := bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop | bgp.HasCommunities | bgp.HasLargeCommunities | bgp.HasOTC,
		ASPath:  bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{64500, 4200000000}}, {Type: bgp.ASSet, ASNs: []uint32{1, 2}}},
		NextHop: peer.Addr, Communities: []uint32{65535<<16 | 666, 1}, LargeCommunities: []bgp.LargeCommunity{{Global: 4200000000, Local1: 0, Local2: 5}}, OTC: 64500}
	for _, u := range []ingest.Update{
		{Time: at, Peer: peer, Announced: nlri, Attrs: attrs},
		{Time: at, Peer: peer, Kind: ingest.RIB, Announced: nlri, Attrs: attrs},
		{Time: at, Peer: peer, Withdrawn: nlri},
		{Time: at, Peer: peer, Kind: ingest.PeerUp},
		{Time: at, Peer: peer, Kind: ingest.PeerDown},
	} {
		action, n := RowOf(&u, 0)
		r := RouteOf(&u, &u.Attrs, action, n, store.Cursor{})
		got, err := UpdateOf(&r)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(u, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
			t.Errorf("%s (-was +is):\n%s", action, diff)
		}
	}
	for _, r := range []store.Route{
		{Action: store.Announce, ASPath: "1 x"},
		{Action: store.Announce, Communities: []string{"1"}},
		{Action: store.Announce, Communities: []string{"65536:1"}},
		{Action: store.Announce, Communities: []string{"1:2:4294967296"}},
	} {
		if _, err := UpdateOf(&r); err == nil {
			t.Errorf("%+v is taken", r)
		}
	}
}
