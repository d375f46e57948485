package api

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/rpki"
)

func TestRPKIExpiring(t *testing.T) {
	now := time.Now().UTC().Truncate(time.Second)
	roa := func(prefix string, asn uint32, ta string, in time.Duration) rpki.VRP {
		p := netip.MustParsePrefix(prefix)
		v := rpki.VRP{Prefix: p, MaxLength: uint8(p.Bits()), ASN: asn, TA: ta}
		if in != 0 {
			v.Expires = now.Add(in)
		}
		return v
	}
	vrps := []rpki.VRP{
		roa("192.0.2.0/24", 64500, "ripe", 90*time.Minute),
		roa("198.51.100.0/24", 64501, "ripe", 10*time.Minute),
		roa("203.0.113.0/24", 64500, "ripe", 30*time.Hour),
		roa("2001:db8::/32", 64500, "arin", 0),
	}
	for i := range 500 { // more than are listed
		vrps = append(vrps, roa(fmt.Sprintf("10.%d.%d.0/24", i/256, i%256), 64502, "apnic", time.Hour+time.Duration(i)*time.Second))
	}
	set := rpki.NewSet(rpki.Data{VRPs: vrps}, "file")
	s := start(t, func(_ *Configuration, d *Dependencies) {
		d.RPKI = func(_ context.Context, at time.Time) (*rpki.Set, time.Time, error) { return set, now, nil }
	})
	got := func(query string) (prefixes []string, anchors []AnchorExpiring) {
		x := get200[RPKIExpiring](s, "/api/v1/rpki/expiring?"+query)
		if x.Source != "file" || x.Before.Before(now.Add(time.Hour)) {
			t.Errorf("%s: source %q, before %v", query, x.Source, x.Before)
		}
		for _, v := range x.VRPs {
			prefixes = append(prefixes, v.Prefix.String())
		}
		return prefixes, x.TrustAnchors
	}

	prefixes, anchors := got("limit=3")
	if diff := cmp.Diff([]string{"198.51.100.0/24", "10.0.0.0/24", "10.0.1.0/24"}, prefixes); diff != "" {
		t.Errorf("the first to end (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]AnchorExpiring{{"apnic", 500, 0, 500, now.Add(time.Hour)}, {"arin", 1, 1, 0, time.Time{}}, {"ripe", 3, 0, 2, now.Add(10 * time.Minute)}}, anchors); diff != "" {
		t.Errorf("by trust anchor (-want +got):\n%s", diff)
	}
	if prefixes, _ = got("asn=64500&hours=48"); !cmp.Equal(prefixes, []string{"192.0.2.0/24", "203.0.113.0/24"}) {
		t.Errorf("of an AS: %v", prefixes)
	}
	if prefixes, _ = got("prefix=203.0.112.0/20&hours=1"); len(prefixes) != 0 {
		t.Errorf("of a block, within an hour: %v", prefixes)
	}
	if resp, _ := start(t, nil).do("GET", "/api/v1/rpki/expiring"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("where nothing is known of the RPKI: status %d", resp.StatusCode)
	}
}
