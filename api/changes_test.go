package api

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/rpki/journal"
)

func TestRPKIChanges(t *testing.T) {
	j, err := journal.Open(t.TempDir(), 400*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	roa := func(prefix string, asn uint32) rpki.VRP {
		p := netip.MustParsePrefix(prefix)
		return rpki.VRP{Prefix: p, MaxLength: uint8(p.Bits()), ASN: asn, TA: "ripe"}
	}
	youtube, part, other := roa("208.65.152.0/22", 36561), roa("208.65.153.0/24", 17557), roa("2001:db8::/32", 64500)
	for i, s := range []*rpki.Set{
		rpki.NewSet(rpki.Data{VRPs: []rpki.VRP{youtube}, ASPAs: rpki.ASPAs{64500: {64501}}}, "file"),
		rpki.NewSet(rpki.Data{VRPs: []rpki.VRP{youtube, part}, ASPAs: rpki.ASPAs{64500: {64501, 64502}}}, "file"),
		nil,
		rpki.NewSet(rpki.Data{VRPs: []rpki.VRP{youtube, other}, ASPAs: rpki.ASPAs{64501: {0}}}, "cache"),
	} {
		if err := j.Record(t0.Add(time.Duration(i)*time.Hour), s); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			if err := j.Hold(t0.Add(90*time.Minute), "file", "it lost too much"); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := start(t, func(_ *Configuration, d *Dependencies) { d.RPKIChanges = j.Changes })
	line := func(c RPKIChange) string {
		l := fmt.Sprintf("+%v %s %s %s", c.Time.Sub(t0).Hours(), c.What, c.Change, c.Source)
		if c.Reason != "" {
			l += " " + c.Reason
		}
		if c.VRP != nil {
			l += fmt.Sprintf(" %s AS%d %s", c.VRP.Prefix, c.VRP.ASN, c.VRP.TA)
		}
		if c.ASPA != nil {
			l += fmt.Sprintf(" %d %v %v", c.ASPA.Customer, c.ASPA.Before, c.ASPA.After)
		}
		return l
	}
	lines := func(query string) (all []string) {
		for {
			p := get200[page[RPKIChange]](s, "/api/v1/rpki/changes?"+query)
			for _, c := range p.Items {
				all = append(all, line(c))
			}
			if p.Next == "" {
				return all
			}
			query = strings.Split(query, "&cursor=")[0] + "&cursor=" + p.Next
		}
	}
	back, gone := "+3 all added cache", "+2 all removed "
	held := "+1.5 all held_back file it lost too much"
	added, removed := "+1 vrp added file 208.65.153.0/24 AS17557 ripe", "+3 vrp removed cache 208.65.153.0/24 AS17557 ripe"
	late := "+3 vrp added cache 2001:db8::/32 AS64500 ripe"
	more, none, tier1 := "+1 aspa changed file 64500 [64501] [64501 64502]", "+3 aspa removed cache 64500 [64501 64502] []", "+3 aspa added cache 64501 [] [0]"
	for query, want := range map[string][]string{
		"":                       {tier1, none, late, removed, back, gone, held, more, added},
		"limit=3":                {tier1, none, late, removed, back, gone, held, more, added},
		"prefix=208.65.152.0/23": {removed, back, gone, held, added},
		"prefix=208.65.153.7":    {removed, back, gone, held, added},
		"asn=64500":              {none, late, back, gone, held, more},
		"asn=AS64502":            {none, back, gone, held, more},
		"asn=17557&limit=1":      {removed, back, gone, held, added},
		"to=" + t0.Add(2*time.Hour).Format(time.RFC3339):   {held, more, added},
		"from=" + t0.Add(4*time.Hour).Format(time.RFC3339): nil,
	} {
		if diff := cmp.Diff(want, lines(query)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", query, diff)
		}
	}
	if _, body := s.do("GET", "/api/v1/rpki/changes"); strings.Contains(body, "null") {
		t.Errorf("there is a null: %s", body)
	}
	for query, want := range map[string]string{
		"asn=x":            "query.asn",
		"limit=501":        "query.limit",
		"origin=1":         "query.origin",
		"cursor=dQcD":      "query.cursor",
		"cursor=cgAAAA":    "query.cursor", // the beginning of time
		"prefix=1.2.3.4/8": "write 1.0.0.0/8",
		"from=2009-01-01T00:00:00Z&to=2008-01-01T00:00:00Z": "query.to",
	} {
		resp, body := s.do("GET", "/api/v1/rpki/changes?"+query)
		if resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("%s: %s %s, want %q", query, resp.Status, body, want)
		}
	}
	without := start(t, nil)
	if resp, body := without.do("GET", "/api/v1/rpki/changes"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without a detector: %s %s", resp.Status, body)
	}
}
