package api

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest/bgp"
)

func TestExplain(t *testing.T) {
	// An engine that has not learned anything yet.
	engine := detect.New(detect.DefaultConfiguration(), detect.Knowledge{}, func(incident.Event) {})
	recovering := netip.MustParsePrefix("192.0.2.0/24")
	s := start(t, func(_ *Configuration, d *Dependencies) {
		d.Explain = func(_ context.Context, p netip.Prefix, path bgp.ASPath) (detect.Explanation, error) {
			if p == recovering {
				return detect.Explanation{}, ErrRecovering
			}
			return engine.Explain(p, path), nil
		}
	})
	x := get200[detect.Explanation](s, "/api/v1/explain?prefix=208.65.153.0/24&as_path=3333+AS3491+17557")
	if x.Prefix.String() != "208.65.153.0/24" || len(x.ASPath) != 3 || x.Kind != nil || !strings.Contains(x.Explanation, "still being learned") {
		t.Errorf("%+v", x)
	}
	if _, body := s.do("GET", "/api/v1/explain?prefix=208.65.153.0/24&as_path=3333+%7B1,2%7D+5"); !strings.Contains(body, `"as_path":[3333,5]`) || !strings.Contains(body, `"relationships":[]`) ||
		strings.Count(body, "null") != strings.Count(body, `"leak":null`)+strings.Count(body, `"kind":null`)+strings.Count(body, `"prefix":null`)+strings.Count(body, `"origin":null`) {
		t.Errorf("with an AS_SET: %s", body)
	}
	for query, want := range map[string]struct {
		status int
		text   string
	}{
		"prefix=208.65.153.0/24&as_path=1&at=2008-01-01T00:00:00Z": {http.StatusNotImplemented, "run routevigil explain --at 2008-01-01T00:00:00Z"},
		"as_path=1":                                                    {http.StatusBadRequest, "query.prefix"},
		"prefix=208.65.153.0/24":                                       {http.StatusBadRequest, "query.as_path"},
		"prefix=208.65.153.0/24&as_path=":                              {http.StatusBadRequest, "query.as_path"},
		"prefix=208.65.153.0/24&as_path=+":                             {http.StatusBadRequest, "no AS number"},
		"prefix=208.65.153.0/24&as_path=1+x":                           {http.StatusBadRequest, "is not an AS number"},
		"prefix=208.65.153.0/24&as_path=%7B1":                          {http.StatusBadRequest, "is not a set like"},
		"prefix=208.65.153.1/24&as_path=1":                             {http.StatusBadRequest, "write 208.65.153.0/24"},
		"prefix=208.65.153.0/24&as_path=1&path=1":                      {http.StatusBadRequest, "query.path"},
		"prefix=208.65.153.0/24&as_path=" + strings.Repeat("1+", 2001): {http.StatusBadRequest, "query.as_path"},
		"prefix=192.0.2.0/24&as_path=1":                                {http.StatusServiceUnavailable, "brought up to date"},
	} {
		resp, body := s.do("GET", "/api/v1/explain?"+query)
		if resp.StatusCode != want.status || !strings.Contains(body, want.text) || resp.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%.60s: %s %s, want %d %q", query, resp.Status, body, want.status, want.text)
		}
	}
	without := start(t, nil)
	if resp, body := without.do("GET", "/api/v1/explain?prefix=192.0.2.0/24&as_path=1"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without a detector: %s %s", resp.Status, body)
	}
}
