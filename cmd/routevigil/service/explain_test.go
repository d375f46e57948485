package service

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// explain asks what the detector makes of n's prefix when asn originates it.
func (c *client) explain(n network, asn uint32) (x detect.Explanation) {
	c.t.Helper()
	path := route(0, n.prefix, asn).Attrs.ASPath
	code := c.get("/api/v1/explain?"+url.Values{"prefix": {n.prefix.String()}, "as_path": {path.String()}}.Encode(), &x)
	if code != http.StatusOK {
		c.t.Fatalf("%s by AS%d: status %d", n.prefix, asn, code)
	}
	return x
}

// A running service says why a route would be an incident and why another is none, and asking opens none.
func TestExplain(t *testing.T) {
	f := newFeed(t)
	s := start(t, configuration(t, f.url()))
	s.whenReady(f)
	x := s.explain(victim(0), attacker(0).asn)
	if x.Kind == nil || *x.Kind != incident.OriginHijack || x.Confidence <= 0.5 || len(x.Evidence) == 0 || len(x.Relationships) != 2 ||
		fmt.Sprint(x.History.UsualOrigins) != fmt.Sprint([]uint32{victim(0).asn}) {
		t.Errorf("a hijack: %+v", x)
	}
	x = s.explain(victim(0), victim(0).asn)
	if x.Kind != nil || !strings.Contains(x.Explanation, "Nothing is wrong") || len(x.Evidence) == 0 || len(x.History.Origins) != 1 || !x.Relationships[0].SeenBefore {
		t.Errorf("what everybody hears: %+v", x)
	}
	// A hijack that comes later is told, those that were only asked about are not.
	if err := f.tell(hijack(1, 0, sessions)...); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if _, ok := s.incidentOf(1); !ok {
			return "no incident"
		}
		return ""
	})
	if inc, ok := s.incidentOf(0); ok {
		t.Errorf("a question has opened %+v", inc)
	}
}

// While the service learns what is normal, it says so.
func TestExplainWhileLearning(t *testing.T) {
	f := newFeed(t)
	c := configuration(t, f.url())
	c.Ingest.Baseline, c.Detect.Warmup = nil, time.Hour
	s := start(t, c)
	eventually(t, func() string {
		if f.subscribers() == 0 {
			return "not subscribed"
		}
		return ""
	})
	if err := f.tell(route(0, victim(0).prefix, victim(0).asn)); err != nil {
		t.Fatal(err)
	}
	if x := s.explain(victim(0), attacker(0).asn); x.Kind != nil || !strings.Contains(x.Explanation, "still being learned") {
		t.Errorf("%+v", x)
	}
}

// Before the engine is up to date nobody waits for it.
func TestExplainWhileRecovering(t *testing.T) {
	p := newPipeline(t, openStore(t), detect.Knowledge{})
	p.publishStatus(true)
	if _, err := p.Explain(t.Context(), victim(0).prefix, bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{1}}}); !errors.Is(err, api.ErrRecovering) {
		t.Errorf("%v, want %v", err, api.ErrRecovering)
	}
}
