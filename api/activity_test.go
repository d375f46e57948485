package api

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
)

func TestActivity(t *testing.T) {
	s := start(t, nil)
	at := func(hour, minute int) time.Time { return time.Date(2024, 6, 27, hour, minute, 0, 0, time.UTC) }
	prefix := []bgp.NLRI{{Prefix: netip.MustParsePrefix("192.0.2.0/24")}}
	said := func(hour, minute int, kind ingest.Kind, origin uint32) ingest.Update {
		u := ingest.Update{Time: ingest.TimeOf(at(hour, minute)), Kind: kind, Peer: ingest.Peer{Collector: "rrc00", ASN: 3333, Addr: netip.MustParseAddr("192.0.2.1")}}
		if origin == 0 {
			u.Withdrawn = prefix
		} else {
			u.Announced = prefix
			u.Attrs = bgp.Attributes{Has: bgp.HasASPath, ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{3333, origin}}}}
		}
		return u
	}
	b := ingest.Batch{Updates: []ingest.Update{said(17, 59, ingest.Routes, 64500), said(18, 0, ingest.RIB, 64500), said(18, 1, ingest.Routes, 64500),
		said(18, 2, ingest.Routes, 64501), said(18, 59, ingest.Routes, 0), said(20, 0, ingest.Routes, 64501), said(20, 5, ingest.Routes, 64502), said(21, 0, ingest.Routes, 64502)}}
	if _, err := s.store.AppendBatch(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	count := func(announced, withdrawn, rib uint64) store.Count {
		return store.Count{Announcements: announced, Withdrawals: withdrawn, RIB: rib}
	}
	for _, tt := range []struct {
		query string
		want  ActivityAnswer
	}{
		{"from=2024-06-27T18:30:00Z&to=2024-06-27T20:01:00Z", ActivityAnswer{at(18, 0), at(21, 0), 3600, []store.Activity{
			{Count: count(4, 1, 1), Buckets: []store.Bucket{{Time: at(18, 0), Count: count(2, 1, 1)}, {Time: at(20, 0), Count: count(2, 0, 0)}}}}}},
		{"from=2024-06-27T18:00:00Z&to=2024-06-27T21:00:00Z&by=origin&limit=2", ActivityAnswer{at(18, 0), at(21, 0), 3600, []store.Activity{
			{OriginASN: 64501, Count: count(2, 0, 0), Buckets: []store.Bucket{{Time: at(18, 0), Count: count(1, 0, 0)}, {Time: at(20, 0), Count: count(1, 0, 0)}}},
			{OriginASN: 64500, Count: count(1, 0, 1), Buckets: []store.Bucket{{Time: at(18, 0), Count: count(1, 0, 1)}}}}}},
		{"from=2024-06-27T18:00:00Z&to=2024-06-27T18:01:01Z&bucket=1m&prefix=192.0.0.0/16&match=covered&origin=64500&peer_asn=3333&collector=rrc00",
			ActivityAnswer{at(18, 0), at(18, 2), 60, []store.Activity{
				{Count: count(1, 0, 1), Buckets: []store.Bucket{{Time: at(18, 0), Count: count(0, 0, 1)}, {Time: at(18, 1), Count: count(1, 0, 0)}}}}}},
		{"from=2024-06-27T19:00:00Z&to=2024-06-27T20:00:00Z", ActivityAnswer{at(19, 0), at(20, 0), 3600, []store.Activity{{Buckets: []store.Bucket{}}}}},
		{"from=2024-06-27T19:00:00Z&to=2024-06-27T20:00:00Z&by=origin", ActivityAnswer{at(19, 0), at(20, 0), 3600, []store.Activity{}}},
	} {
		if diff := cmp.Diff(tt.want, get200[ActivityAnswer](s, "/api/v1/activity?"+tt.query)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.query, diff)
		}
	}
}
