package service

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/refresh"
)

// VRPs that cannot be had at the start decide about an open incident once they can, and are still there after a
// restart while their server is not.
func TestVRPsFromTheWeb(t *testing.T) {
	var up atomic.Bool
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !up.Load() {
			http.Error(w, "not yet", http.StatusForbidden)
			return
		}
		w.Header().Set("ETag", `"1"`)
		if r.Header.Get("If-None-Match") == `"1"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		fmt.Fprintf(w, `{"roas":[{"asn":%d,"prefix":"%s","maxLength":24,"ta":"test"}]}`, attacker(0).asn, victim(0).prefix)
	}))
	defer web.Close()
	f := newFeed(t)
	c := configuration(t, f.url())
	c.Knowledge.VRPs, c.Knowledge.Refresh.VRPs = web.URL+"/vrps.json?key=hush", time.Second
	s := start(t, c)
	s.whenReady(f)
	if _, reasons := s.ready(); !strings.Contains(reasons, "Nothing has been read of vrps") || strings.Contains(reasons, "hush") {
		t.Errorf("readyz says: %s", reasons)
	}
	stop := f.background(t, 5*time.Millisecond)
	if err := f.tell(hijack(0, 0, sessions)...); err != nil {
		t.Fatal(err)
	}
	status := func(want incident.Status) func() string {
		return func() string {
			if list := s.incidents(""); len(list) != 1 || list[0].Status != want {
				return fmt.Sprintf("incidents are %+v, want one that is %s", list, want)
			}
			return ""
		}
	}
	eventually(t, status(incident.Open))
	up.Store(true)
	eventually(t, status(incident.Ended))
	known := func(s *running) func() string {
		return func() string {
			var sources struct{ Items []refresh.Status }
			var p detect.PrefixState
			s.get("/api/v1/sources", &sources)
			s.get("/api/v1/prefixes/"+victim(0).prefix.String(), &p)
			if len(sources.Items) != 1 || sources.Items[0].State != refresh.Fresh || sources.Items[0].Entries != 1 || sources.Items[0].Serial != `"1"` {
				return fmt.Sprintf("sources are %+v", sources.Items)
			}
			if len(p.Origins) == 0 || p.Origins[0].ASN != attacker(0).asn || p.Origins[0].RPKI != "valid" {
				return fmt.Sprintf("the prefix is %+v", p)
			}
			return ""
		}
	}
	eventually(t, known(s))
	var metrics string
	if s.get("/metrics", &metrics); !strings.Contains(metrics, `routevigil_source_fresh{source="vrps"} 1`) || !strings.Contains(metrics, `routevigil_source_entries{source="vrps"} 1`) {
		t.Error("the metrics do not say that the VRPs are fresh")
	}
	then := time.Now()
	answer := func(s *running, at time.Time) string {
		var v api.Validation
		code := s.get(fmt.Sprintf("/api/v1/validate?prefix=%s&origin=%d&at=%s", victim(0).prefix, attacker(0).asn, at.UTC().Format(time.RFC3339Nano)), &v)
		return fmt.Sprint(code, " ", v.ROV.State)
	}
	if got := answer(s, then); got != "200 valid" {
		t.Errorf("now: %s", got)
	}
	if got := answer(s, then.Add(-time.Hour)); got != "404 " {
		t.Errorf("before there was anything: %s", got)
	}
	stop()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	up.Store(false)
	s = start(t, c)
	eventually(t, known(s))
	if got := answer(s, then); got != "200 valid" {
		t.Errorf("of before the restart: %s", got)
	}
}
