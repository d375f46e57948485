package detect

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/scenario"
)

const hijack = `
title  A stranger announces a part of another's block
start  2008-02-24T18:47:00Z
peer   a rrc00 3333 193.0.0.56
peer   b rrc00 12859 193.0.0.57
peer   c rrc01 2914 193.0.0.58
peer   d rrc01 6461 193.0.0.59
rib    208.65.152.0/22 a 3333 3356 36561
rib    208.65.152.0/22 b 12859 3356 36561
rib    208.65.152.0/22 c 2914 36561
rib    208.65.152.0/22 d 6461 2914 36561
rib    208.65.152.0/24 a 3333 3356 36561
rib    208.65.152.0/24 b 12859 3356 36561
rib    208.65.152.0/24 c 2914 36561
rib    208.65.152.0/24 d 6461 2914 36561
+10s   a,b,c announce PREFIX 3491 17557
+60s   end
`

// registryCase is a scenario with routing registries and what should come of it.
type registryCase struct {
	objects string // "PREFIX ASN SOURCE, …", or "customer ASN SOURCE" for the victim's aut-num that names one
	opens   bool
	state   string // prefixes[].irr
	rule    string // with its weight, of the ledger
	weight  float64
}

func database(t *testing.T, objects string) *irr.Database {
	t.Helper()
	if objects == "" {
		return nil
	}
	b := irr.NewBuilder(nil)
	var text strings.Builder
	for o := range strings.SplitSeq(objects, ", ") {
		f := strings.Fields(o)
		if f[0] == "customer" {
			text.WriteString("aut-num: AS36561\nexport: to AS" + f[1] + " announce ANY\nsource: " + f[2] + "\n\n")
			continue
		}
		text.WriteString("route: " + f[0] + "\norigin: AS" + f[1] + "\nsource: " + f[2] + "\n\n")
	}
	if err := b.Read(strings.NewReader(text.String()), "test.db"); err != nil {
		t.Fatal(err)
	}
	return b.Build()
}

// What the registries say moves the verdict on a hijack as far as they can be trusted, and is shown.
func TestRegistries(t *testing.T) {
	for prefix, cases := range map[string]map[string]registryCase{
		"208.65.153.0/24": {
			"no database":                    {"", true, "unavailable", "", 0},
			"nothing registered":             {"10.0.0.0/8 1 RIPE", true, "not_found", "", 0},
			"the block is the victim's":      {"208.65.152.0/22 36561 RADB", true, "contradicted", "irr.contradicted", weightIRRCovering},
			"the prefix is the victim's":     {"208.65.153.0/24 36561 RADB", true, "contradicted", "irr.contradicted", weightIRRContradicted},
			"the prefix is a third party's":  {"208.65.153.0/24 64500 RADB", true, "contradicted", "irr.contradicted", 0},
			"registered where anybody may":   {"208.65.153.0/24 17557 ALTDB", true, "registered", "irr.registered", weightIRRRegistered},
			"registered against the holder":  {"208.65.153.0/24 17557 ALTDB, 208.65.152.0/22 36561 ARIN", true, "registered", "irr.contested", 0},
			"registered by the holder":       {"208.65.153.0/24 17557 ARIN", false, "", "", 0},
			"the block, by the holder":       {"208.65.152.0/22 17557 ARIN", false, "", "", 0},
			"the victim's customer":          {"customer 17557 ARIN", false, "", "", 0},
			"somebody says so":               {"customer 17557 RADB", true, "not_found", "", 0},
			"by the holder, and for another": {"208.65.153.0/24 17557 ARIN, 208.65.153.0/24 36561 ARIN", false, "", "", 0},
		},
		"208.65.152.0/24": {
			"no database":                  {"", true, "unavailable", "", 0},
			"the prefix is the victim's":   {"208.65.152.0/24 36561 ARIN", true, "contradicted", "irr.contradicted", weightIRRContradicted},
			"registered where anybody may": {"208.65.152.0/24 17557 RADB, 208.65.152.0/24 36561 RADB", true, "registered", "irr.registered", weightIRRRegistered},
			"registered by the holder":     {"208.65.152.0/24 17557 ARIN, 208.65.152.0/24 36561 ARIN", false, "", "", 0},
		},
	} {
		for name, c := range cases {
			t.Run(prefix+" "+name, func(t *testing.T) {
				sc, err := scenario.Parse(strings.NewReader(strings.ReplaceAll(hijack, "PREFIX", prefix)), "test")
				if err != nil {
					t.Fatal(err)
				}
				k := knowledgeOf(sc)
				k.IRR = database(t, c.objects)
				incidents := playWith(t, sc, k)
				if !c.opens {
					if len(incidents) > 0 {
						t.Fatalf("an incident: %s\n%+v", incidents[0].Title, incidents[0].Evidence)
					}
					return
				}
				if len(incidents) != 1 {
					t.Fatalf("%d incidents", len(incidents))
				}
				inc := incidents[0]
				if inc.Prefixes[0].IRR != c.state {
					t.Errorf("irr is %q, want %q", inc.Prefixes[0].IRR, c.state)
				}
				found := slices.DeleteFunc(slices.Clone(inc.Evidence), func(e incident.Evidence) bool { return e.Source != "irr" })
				want := []incident.Evidence{}
				if c.rule != "" {
					want = []incident.Evidence{{Rule: c.rule, Weight: c.weight, Source: "irr", SourceVersion: "test.db"}}
				}
				for i := range found {
					if !strings.Contains(found[i].Detail, "208.65.15") {
						t.Errorf("the detail names no route object: %q", found[i].Detail)
					}
					found[i].Detail = ""
				}
				if diff := cmp.Diff(want, found); diff != "" {
					t.Errorf("evidence (-want +got):\n%s", diff)
				}
			})
		}
	}
}

// playWith plays a scenario, with a snapshot and a restart in its middle.
func playWith(t *testing.T, sc *scenario.Scenario, k Knowledge) []incident.Incident {
	t.Helper()
	e := New(scenarioConfiguration(), k, func(incident.Event) {})
	for _, u := range sc.RIB() {
		e.Apply(&u)
	}
	e.FinishBaseline()
	for _, u := range sc.Updates() {
		e.Apply(&u)
	}
	e.Advance(ingest.TimeOf(sc.Start.Add(sc.Duration() / 2)))
	state, err := e.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	e = New(scenarioConfiguration(), k, func(incident.Event) {})
	if err := e.Restore(state); err != nil {
		t.Fatal(err)
	}
	e.Advance(ingest.TimeOf(sc.Start.Add(sc.Duration())))
	e.Finish()
	return e.Incidents()
}

func TestExplainRegistries(t *testing.T) {
	explain := func(objects string) Explanation {
		e := New(DefaultConfiguration(), Knowledge{IRR: database(t, objects)}, nil)
		e.FinishBaseline()
		path, err := bgp.ParseASPath("3333 64500")
		if err != nil {
			t.Fatal(err)
		}
		return e.Explain(netip.MustParsePrefix("192.88.99.0/24"), path)
	}
	r := irr.Route{Prefix: netip.MustParsePrefix("192.88.99.0/24"), Origin: 64500, Source: "RADB"}
	holder := irr.Route{Prefix: netip.MustParsePrefix("192.88.0.0/16"), Origin: 64501, Source: "RIPE", Authoritative: true}
	for objects, want := range map[string]IRR{
		"":                          {"unavailable", false, []irr.Route{}, []irr.Route{}},
		"10.0.0.0/8 1 RIPE":         {"not_found", false, []irr.Route{}, []irr.Route{}},
		"192.88.0.0/16 64501 RIPE":  {"contradicted", false, []irr.Route{holder}, []irr.Route{}},
		"192.88.99.0/24 64500 RADB": {"registered", true, []irr.Route{r}, []irr.Route{}},
		"192.88.0.0/16 64501 RIPE, 192.88.99.0/24 64500 RADB": {"registered", true, []irr.Route{r}, []irr.Route{holder}},
	} {
		x := explain(objects)
		if diff := cmp.Diff(want, x.IRR, cmpPrefix); diff != "" {
			t.Errorf("%s (-want +got):\n%s", objects, diff)
		}
		if said := strings.Contains(x.Explanation, "192.88.99.0/24 by AS64500 in RADB"); said != (want.State == "registered") {
			t.Errorf("%s: %s", objects, x.Explanation)
		}
	}
}
