package api

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/past"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/rpki/journal"
)

func TestValidate(t *testing.T) {
	set := func(asn uint32, from string) *rpki.Set {
		return rpki.NewSet(rpki.Data{
			VRPs:  []rpki.VRP{{Prefix: netip.MustParsePrefix("208.65.152.0/22"), MaxLength: 24, ASN: asn}},
			ASPAs: rpki.ASPAs{36561: {3549}},
		}, from)
	}
	now, before := set(36561, "now"), set(17557, "before")
	s := start(t, func(_ *Configuration, d *Dependencies) {
		d.RPKI = func(_ context.Context, at time.Time) (*rpki.Set, time.Time, error) {
			switch {
			case at.IsZero():
				return now, t0, nil
			case at.Before(t0.Add(-24 * time.Hour)):
				return nil, time.Time{}, journal.ErrUnknown
			case at.Before(t0.Add(-time.Hour)):
				return nil, t0.Add(-24 * time.Hour), nil
			case at.Equal(t0):
				return nil, time.Time{}, errors.New("open /secret: damaged")
			}
			return before, t0.Add(-time.Hour), nil
		}
		d.Registries = func(_ context.Context, p netip.Prefix, at time.Time) (*irr.Database, []string, error) {
			switch {
			case at.IsZero():
				b := irr.NewBuilder(nil)
				err := b.Read(strings.NewReader("route: 208.65.152.0/22\norigin: AS36561\nsource: RADB\n"), "test")
				return b.Build(), nil, err
			case at.Equal(t0.Add(time.Minute)):
				return nil, nil, ErrBusy
			case at.Equal(t0.Add(time.Hour)):
				return nil, nil, past.ErrUnknown
			}
			return nil, []string{"it was not kept"}, nil
		}
	})
	for query, want := range map[string]string{
		"origin=36561&irr=true":                         "registered []",
		"origin=17557&irr=true":                         "contradicted []",
		"origin=36561&irr=true&at=2008-02-24T18:00:00Z": "unavailable [it was not kept]",
		"as_path=3333+3549+36561&irr=true":              "registered []",
		"origin=36561&irr=false":                        "nothing []",
		"as_path=3333+%7B1,2%7D&irr=true":               "contradicted []",
	} {
		v := get200[Validation](s, "/api/v1/validate?prefix=208.65.153.0/24&"+query)
		got := "nothing"
		if v.IRR != nil {
			got = v.IRR.State
		}
		if got = fmt.Sprint(got, " ", v.Gaps); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	for _, tt := range []struct {
		query, state, reason, source, upstream string
	}{
		{"origin=36561", "valid", "valid", "now", ""},
		{"origin=AS17557", "invalid", "invalid_asn", "now", ""},
		{"origin=36561&at=2008-02-24T18:00:00Z", "invalid", "invalid_asn", "before", ""},
		{"origin=36561&at=2008-02-24T12:00:00Z", "unavailable", "unavailable", "", ""},
		{"as_path=3333+3549+36561", "valid", "valid", "now", "unknown"},
		{"as_path=3333+17557+36561", "valid", "valid", "now", "invalid"},
		{"as_path=3333+%7B1,2%7D", "invalid", "invalid_asn", "now", "invalid"},
	} {
		v := get200[Validation](s, "/api/v1/validate?prefix=208.65.153.0/24&"+tt.query)
		if v.ROV.State != tt.state || v.ROV.Reason != tt.reason || v.Source != tt.source || (v.ASPA == nil) != (tt.upstream == "") || v.ASPA != nil && v.ASPA.Upstream != tt.upstream {
			t.Errorf("%s: %+v %+v", tt.query, v, v.ASPA)
		}
	}
	for query, want := range map[string]string{
		"prefix=208.65.153.0/24": "give origin or as_path",
		"prefix=208.65.153.0/24&origin=1&irr=true&at=" + t0.Add(time.Minute).Format(time.RFC3339): "for one at a time",
		"prefix=208.65.153.0/24&origin=1&irr=true&at=" + t0.Add(time.Hour).Format(time.RFC3339):   "What the routing registries said at",
		"origin=1": "query.prefix",
		"prefix=208.65.153.0/24&origin=1&as_path=1":                     "give one of the two",
		"prefix=208.65.153.0/24&as_path=x":                              "query.as_path",
		"prefix=208.65.153.0/24&origin=1&at=2999-01-01T00:00:00Z":       "nobody knows the future",
		"prefix=208.65.153.0/24&origin=1&at=2008-01-01T00:00:00Z":       "was not recorded here",
		"prefix=208.65.153.0/24&origin=1&at=" + t0.Format(time.RFC3339): "Internal Server Error",
	} {
		resp, body := s.do("GET", "/api/v1/validate?"+query)
		if resp.StatusCode < 400 || !strings.Contains(body, want) || strings.Contains(body, "secret") {
			t.Errorf("%s: %s %s, want %q", query, resp.Status, body, want)
		}
	}
}
