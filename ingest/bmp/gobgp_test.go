package bmp_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bgp/gobgptest"
	"github.com/routevigil/routevigil/ingest/bmp"
)

// TestGeneratedEqualsGoBGP has GoBGP decode what our encoder makes, of version 3. What an UPDATE says is compared in
// package bgp and, of real routers, in package archive.
func TestGeneratedEqualsGoBGP(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := bmp.GenMessage(t)
		switch want.Version = 3; want.Type {
		case bmp.TypeRouteMonitoring:
			*want = bmp.Message{Version: 3, Type: want.Type, Peer: want.Peer, BGP: bgp.AppendEndOfRIB(nil, bgp.IPv6Unicast)}
		case bmp.TypeStatistics:
			want.Rest = nil
			// GoBGP does not know those that count in 11 octets beyond the RFCs it names, nor 4 for 8.
			want.Statistics = slices.DeleteFunc(want.Statistics, func(s bmp.Statistic) bool { return s.Raw != nil })
		case bmp.TypePeerDown:
			if want.PeerDown.Reason == bmp.DownLocalNotification || want.PeerDown.Reason == bmp.DownRemoteNotification {
				want.PeerDown.Data = bgp.AppendNotification(nil, bgp.Notification{Code: 6, Subcode: 2, Data: want.PeerDown.Data})
			}
		case bmp.TypeInitiation, bmp.TypePeerUp:
		default:
			return // GoBGP and ours give Termination and Route Mirroring different forms
		}
		b, err := bmp.Append(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := new(bmp.Decoder).Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		theirs, _, err, updateErr := gobgptest.BMP(b, bgp.Options{})
		if err != nil || updateErr != nil {
			t.Fatalf("GoBGP: %v, %v", err, updateErr)
		}
		theirs.BGP = ours.BGP
		if diff := cmp.Diff(theirs, ours, gobgptest.SameBMP); diff != "" {
			t.Fatalf("-GoBGP +ours\n%s", diff)
		}
	})
}
