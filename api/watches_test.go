package api

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
)

func TestWatches(t *testing.T) {
	engine := detect.New(detect.DefaultConfiguration(), detect.Knowledge{Watches: detect.WatchList{
		{Name: "mine", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, ASNs: []uint32{64500}},
		{Name: "customers", ASSets: []string{"AS-X"}},
	}}, func(incident.Event) {})
	recovering := false
	s := start(t, func(_ *Configuration, d *Dependencies) {
		d.Watches = func(context.Context) ([]detect.WatchState, error) {
			if recovering {
				return nil, ErrRecovering
			}
			return engine.Watches(), nil
		}
	})
	p := get200[page[detect.WatchState]](s, "/api/v1/watches")
	if len(p.Items) != 2 || p.Items[0].Name != "mine" || p.Items[1].ASSets[0] != "AS-X" || p.Next != "" {
		t.Errorf("%+v", p)
	}
	if _, body := s.do("GET", "/api/v1/watches"); strings.Contains(body, "null") {
		t.Errorf("a list is null: %s", body)
	}
	recovering = true
	if r, body := s.do("GET", "/api/v1/watches"); r.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "/readyz") {
		t.Errorf("while it recovers: %d %s", r.StatusCode, body)
	}
	none := start(t, func(*Configuration, *Dependencies) {})
	if r, _ := none.do("GET", "/api/v1/watches"); r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("without a detector: %d", r.StatusCode)
	}
}
