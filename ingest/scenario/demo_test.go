package scenario_test

import (
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/scenario"
)

func TestScenariosAreSound(t *testing.T) {
	demo, err := scenario.Demo()
	if err != nil {
		t.Fatal(err)
	}
	cases, err := scenario.ParseFS(os.DirFS("."), "testdata/*.scenario")
	if err != nil {
		t.Fatal(err)
	}
	if len(demo) < 7 || len(cases) < 8 {
		t.Fatalf("%d demo scenarios and %d cases", len(demo), len(cases))
	}
	for _, s := range slices.Concat(demo, cases) {
		t.Run(s.Name, func(t *testing.T) {
			if len(s.Expect) == 0 || len(s.Updates()) == 0 || len(s.RIB()) == 0 {
				t.Errorf("%d expectations, %d updates, %d routes before them", len(s.Expect), len(s.Updates()), len(s.RIB()))
			}
			for _, e := range s.Expect {
				for _, k := range e.Kinds {
					if !slices.Contains(incident.Kinds, incident.Kind(k)) {
						t.Errorf("line %d: there is no kind %q", e.Line, k)
					}
				}
			}
		})
	}
}

// route is what one peer says of one prefix.
type route struct {
	peer   ingest.Peer
	prefix netip.Prefix
}

// The demo plays all scenarios at once and again and again: none may touch another's routes, and
// each must leave the world as it found it.
func TestDemoScenariosPlayTogether(t *testing.T) {
	demo, err := scenario.Demo()
	if err != nil {
		t.Fatal(err)
	}
	before := map[route]string{}
	for _, u := range scenario.World().RIB() {
		before[route{u.Peer, u.Announced[0].Prefix}] = u.Attrs.ASPath.String()
	}
	by := map[netip.Prefix]string{}
	for _, s := range demo {
		now := map[route]string{}
		for _, u := range s.Updates() {
			if u.Kind != ingest.Routes {
				t.Errorf("%s: %v", s.Name, u.Kind)
			}
			for _, n := range slices.Concat(u.Withdrawn, u.Announced) {
				if other := by[n.Prefix]; other != "" && other != s.Name {
					t.Errorf("%s and %s both touch %s", other, s.Name, n.Prefix)
				}
				by[n.Prefix] = s.Name
			}
			for _, n := range u.Withdrawn {
				now[route{u.Peer, n.Prefix}] = ""
			}
			for _, n := range u.Announced {
				now[route{u.Peer, n.Prefix}] = u.Attrs.ASPath.String()
			}
		}
		for r, path := range now {
			if path != before[r] {
				t.Errorf("%s leaves %v with %q, not %q", s.Name, r, path, before[r])
			}
		}
		if d := s.Duration(); d > 2*time.Minute {
			t.Errorf("%s takes %v", s.Name, d)
		}
		if len(s.VRPs()) != len(scenario.World().VRPs()) || len(s.RIB()) != len(scenario.World().RIB()) || len(s.Rels()) != len(scenario.World().Rels()) {
			t.Errorf("%s adds to the world", s.Name)
		}
	}
}
