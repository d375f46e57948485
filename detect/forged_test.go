package detect

import (
	"strings"
	"testing"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest/scenario"
)

// forgery is a scenario of one victim, AS36561 behind its provider AS3356; PREFIX and PATH are announced to three peers.
const forgery = `
title  A path that ends in the right origin
start  2026-02-24T18:47:00Z
peer   a rrc00 3333 193.0.0.56
peer   b rrc00 12859 193.0.0.57
peer   c rrc01 2914 193.0.0.58
rib    23.65.152.0/22 a 3333 3356 36561
rib    23.65.152.0/22 b 12859 3356 36561
rib    23.65.152.0/22 c 2914 3356 36561
rib    23.70.0.0/16 a 3333 3356 701
rib    23.70.0.0/16 b 12859 3356 701
rib    23.70.0.0/16 c 2914 3356 701
+10s   a,b,c announce PREFIX PATH
+60s   end
`

// someInternet is a published set of relationships: a hundred networks with ten customers each, AS1000 to AS1099, beside those
// that forgeries are about.
//
//	AS3356  36 customers, among them the victim     AS3491  sells to the suspects below
//	AS200001  at the edge     AS200002  two customers     AS200003  fifteen     AS200004  sixty     AS200005  two, a neighbour of a neighbour of the victim's
//	AS701   twenty customers
func someInternet() *topology.Relationships {
	b := topology.NewBuilder(topology.Published, "test")
	sells := func(provider, customer uint32) { b.Set(provider, customer, topology.Provider) }
	for i := range uint32(100) {
		for j := range uint32(10) {
			sells(1000+i, 10_000+10*i+j)
		}
	}
	for i := range uint32(35) {
		sells(3356, 30_000+i)
	}
	sells(3356, 36561)
	b.Set(36561, 64_001, topology.Peer)
	for i := range uint32(20) {
		sells(701, 31_000+i)
	}
	for i, n := range []uint32{0, 2, 15, 60, 2} {
		suspect := uint32(200_001 + i)
		sells(3491, suspect)
		for j := range n {
			sells(suspect, 210_000+100*uint32(i)+j)
		}
		b.Set(suspect, 64_000, topology.Peer)
	}
	sells(200_002, 7018)
	b.Set(200_005, 64_001, topology.Peer)
	sells(3491, 3223)
	return b.Build()
}

func TestForgedLinks(t *testing.T) {
	const known, part, other = "23.65.152.0/22", "23.65.153.0/24", "23.70.0.0/16"
	for name, c := range map[string]struct {
		prefix, path string
		kind         incident.Kind // of the only incident, by the AS before the new link; "": there is none
		offender     uint32
		rules        string   // of its ledger, some
		attested     []uint32 // the providers of AS36561 by its ASPA; nil: it has none
	}{
		"who has no customers passes on a route":   {known, "3491 200001 36561", incident.ForgedPath, 200001, "path.new_link path.never_transit", nil},
		"a network of some size wins a customer":   {known, "3491 200003 36561", "", 0, "", nil},
		"a large one does":                         {known, "3491 200004 36561", "", 0, "", nil},
		"a small one does, which is rare":          {known, "3491 200002 36561", incident.ForgedPath, 200002, "path.new_link path.few_customers", nil},
		"a much smaller one than its customer":     {known, "3491 200002 3356 36561", incident.ForgedPath, 200002, "path.new_link path.smaller", nil},
		"further in than beside the origin":        {known, "3491 200001 3356 36561", incident.ForgedPath, 200001, "path.new_link path.never_transit", nil},
		"further in, to a provider of some size":   {known, "3491 200003 3356 36561", "", 0, "", nil},
		"only its customers have it of a new peer": {known, "7018 200002 3356 36561", "", 0, "", nil},
		"a scrubbing service":                      {known, "3491 3223 36561", "", 0, "", nil},
		"a part of it, by a network of some size":  {part, "3491 200003 36561", incident.ForgedPathSubprefix, 200003, "specific.never_seen path.new_way path.new_link", nil},
		"a part of it, by a scrubbing service":     {part, "3491 3223 36561", "", 0, "", nil},
		"a part of it, by the usual provider":      {part, "3356 36561", "", 0, "", nil},
		"a small one, next door":                   {known, "3491 200005 36561", "", 0, "", nil},
		"one that is smaller than its customer":    {other, "3491 200003 701", incident.ForgedPath, 200003, "path.new_link path.smaller path.far_apart", nil},
		"of some size, and attested by nobody":     {known, "3491 200003 36561", incident.ForgedPath, 200003, "path.new_link aspa.no_provider", []uint32{3356}},
		"of no size, and attested":                 {known, "3491 200001 36561", "", 0, "", []uint32{3356, 200001}},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.ReplaceAll(strings.ReplaceAll(forgery, "PREFIX", c.prefix), "PATH", "PEER "+c.path)
			// Each peer stands first on its own paths.
			var lines []string
			for line := range strings.SplitSeq(text, "\n") {
				if !strings.Contains(line, "PEER") {
					lines = append(lines, line)
					continue
				}
				for peer, asn := range map[string]string{"a": "3333", "b": "12859", "c": "2914"} {
					lines = append(lines, strings.Replace(strings.Replace(line, "a,b,c", peer, 1), "PEER", asn, 1))
				}
			}
			sc, err := scenario.Parse(strings.NewReader(strings.Join(lines, "\n")), "forgery")
			if err != nil {
				t.Fatal(err)
			}
			k := Knowledge{Relationships: someInternet()}
			if c.attested != nil {
				aspas := rpki.ASPAs{}
				aspas.Add(36561, c.attested)
				k.VRPs = rpki.NewSet(rpki.Data{ASPAs: aspas}, "test")
			}
			victim := uint32(36561)
			if c.prefix == other {
				victim = 701
			}
			incidents := playWith(t, sc, k)
			if c.kind == "" {
				for _, inc := range incidents {
					t.Errorf("an incident: %s\n%+v", inc.Title, inc.Evidence)
				}
				return
			}
			if len(incidents) != 1 {
				t.Fatalf("%d incidents", len(incidents))
			}
			inc := incidents[0]
			if inc.Kind != c.kind || inc.Offenders[0] != c.offender || len(inc.Victims) != 1 || inc.Victims[0] != victim {
				t.Errorf("%s by %v of %v", inc.Kind, inc.Offenders, inc.Victims)
			}
			for rule := range strings.FieldsSeq(c.rules) {
				found := false
				for _, e := range inc.Evidence {
					found = found || e.Rule == rule && e.Weight > 0
				}
				if !found {
					t.Errorf("nothing by the rule %s speaks for it: %+v", rule, inc.Evidence)
				}
			}
		})
	}
}
