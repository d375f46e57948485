package detect

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/scenario"
)

// giants is a dump of PeeringDB that has some ASes as hypergiants.
func giants(t *testing.T, asns string) *topology.PeeringDB {
	t.Helper()
	var nets []string
	for asn := range strings.FieldsSeq(asns) {
		nets = append(nets, `{"asn": `+asn+`, "name": "Giant", "info_type": "Content", "info_ratio": "Heavy Outbound", "info_traffic": "10-20Tbps", "ix_count": 200, "fac_count": 150}`)
	}
	nets = append(nets, `{"asn": 15007, "info_type": "Route Server"}`)
	path := filepath.Join(t.TempDir(), "peeringdb.json")
	if err := os.WriteFile(path, []byte(`{"net": {"data": [`+strings.Join(nets, ", ")+`]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := topology.ReadPeeringDB(path, path)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// What a hypergiant does is less suspicious than the same of others, by as much as its weight says, and that it is one is
// shown.
func TestHypergiantEvidence(t *testing.T) {
	for name, c := range map[string]struct {
		prefix, path string
		kind         incident.Kind
		weight       float64
	}{
		"a new link beside it": {"20.0.0.0/16", "15000 174 1299 39000 15005", incident.ForgedPath, weightHypergiantLink},
		"another's prefix":     {"20.8.0.0/16", "15000 174 3356 15005", incident.OriginHijack, weightHypergiantOrigin},
		"a leak of its routes": {"20.0.0.0/16", "15000 174 3356 15006 15005", incident.RouteLeak, weightHypergiantRoutes},
	} {
		t.Run(name, func(t *testing.T) {
			sc, err := scenario.Parse(strings.NewReader(leakWorld+top+"rel 15006 15005 0\n"), "test")
			if err != nil {
				t.Fatal(err)
			}
			path, err := bgp.ParseASPath(c.path)
			if err != nil {
				t.Fatal(err)
			}
			explain := func(asns string) Explanation {
				db := giants(t, asns)
				k := knowledgeOf(sc)
				k.Hypergiants, k.RouteServers = db.Hypergiants, db.RouteServers
				e := New(scenarioConfiguration(), k, nil)
				for _, u := range sc.RIB() {
					e.Apply(&u)
				}
				e.FinishBaseline()
				return e.Explain(netip.MustParsePrefix(c.prefix), path)
			}
			without, with := explain(""), explain("15005")
			if without.Kind == nil || *without.Kind != c.kind {
				t.Fatalf("without hypergiants: %s", without.Explanation)
			}
			i := slices.IndexFunc(with.Evidence, func(ev incident.Evidence) bool { return ev.Rule == "class.hypergiant" })
			if i < 0 || with.Evidence[i].Weight != c.weight || !strings.Contains(with.Evidence[i].Detail, "200 exchanges") {
				t.Fatalf("%s", with.Explanation)
			}
			if diff := cmp.Diff(without.Evidence, slices.Delete(slices.Clone(with.Evidence), i, i+1)); diff != "" {
				t.Errorf("the rest of the ledger has changed (-without +with):\n%s", diff)
			}
			if with.Confidence >= without.Confidence {
				t.Errorf("confidence %v, without %v", with.Confidence, without.Confidence)
			}
			if !slices.ContainsFunc(with.Classes, func(k ASClass) bool {
				return k.ASN == 15005 && k.Class == "hypergiant" && strings.HasSuffix(k.Source, "peeringdb.json")
			}) {
				t.Errorf("classes: %+v", with.Classes)
			}
		})
	}
}

func TestClasses(t *testing.T) {
	sc, err := scenario.Parse(strings.NewReader(leakWorld+top), "test")
	if err != nil {
		t.Fatal(err)
	}
	k := knowledgeOf(sc)
	db := giants(t, "15005")
	k.Hypergiants, k.RouteServers = db.Hypergiants, db.RouteServers
	e := New(scenarioConfiguration(), k, nil)
	path, err := bgp.ParseASPath("15000 15007 1299 3223 15005")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range e.Explain(netip.MustParsePrefix("20.0.0.0/16"), path).Classes {
		got = append(got, c.String())
	}
	source := db.Hypergiants.Source()
	want := []string{"AS15007 is a route server by " + source, "AS1299 is at the top by test", "AS3223 is a scrubbing service (Voxility) by built in",
		"AS15005 is a hypergiant (Giant, content at 200 exchanges and in 150 facilities, 10-20Tbps) by " + source}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
