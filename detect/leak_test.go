package detect

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/scenario"
)

// leakWorld is a network, AS39000, that passes on to AS1299 what it has from AS3356.
const leakWorld = `
title  A leak
start  2026-01-01T00:00:00Z
rel    174 15000,15002 -1
rel    1299 15004,39000 -1
rel    3356 15005,15006 -1
rel    174 15007 -1
peer   a rrc00 15000 192.0.2.1
peer   b rrc00 15002 192.0.2.2
peer   c rrc00 15004 192.0.2.3
peer   d rrc01 174 192.0.2.4
origin 15005 20.0.0.0/16 20.1.0.0/16 20.2.0.0/16 20.3.0.0/16
origin 39000 20.8.0.0/16
+10s   all announce 20.0.0.0/16,20.1.0.0/16,20.2.0.0/16,20.3.0.0/16 via 1299 39000 3356 15005
+60s   end
`

// registries makes a database of objects, of which the lines are separated by " / " and which are by ", ".
func registries(t testing.TB, objects string) *irr.Database {
	t.Helper()
	if objects == "" {
		return nil
	}
	b := irr.NewBuilder(nil)
	if err := b.Read(strings.NewReader(strings.ReplaceAll(strings.ReplaceAll(objects, ", ", "\n\n"), " / ", "\n")+"\n"), "test.db"); err != nil {
		t.Fatal(err)
	}
	return b.Build()
}

const (
	top   = "rel 174,1299,3356 mesh\n"
	two   = "rel 1299 3356 0\nrel 1299 174 -1\n" // nothing worth the name
	buys  = "rel 3356 39000 -1\n"
	sells = "rel 39000 15008 -1\n"
	seen  = "rib 20.9.0.0/16 a 15000 174 3356 39000\n" // AS3356 and AS39000 are neighbours, whatever else they are
)

func TestLeakEvidence(t *testing.T) {
	valley := map[string]float64{"rel.valley": weightValley, "path.never_transit": weightNeverTransit}
	locked := map[string]float64{"rel.valley": weightValley, "path.never_transit": weightNeverTransit, "peerlock": weightPeerlockToo}
	with := func(rules map[string]float64, rule string, weight float64) map[string]float64 {
		m := maps.Clone(rules)
		m[rule] = weight
		return m
	}
	hidden := map[string]float64{"path.never_transit": weightNeverTransit}
	for name, c := range map[string]struct {
		rels, objects string
		want          map[string]float64 // nil: no leak is suspected
		kind          int                // type of leak
	}{
		"a valley":                  {two + buys, "", valley, 1},
		"between two at the top":    {top + buys, "", locked, 1},
		"nobody knows what it buys": {two, "", nil, 0},
		"only what it is":           {two + seen, "", with(hidden, "rel.one_sided", weightOneSided), 0},
		"but the top":               {top, "", with(hidden, "peerlock", weightPeerlock), 0},

		"it says so itself":          {two, "aut-num: AS39000 / import: from AS3356 accept ANY / source: RIPE", with(hidden, "irr.provider", weightIRRValley), 1},
		"its provider says so":       {two, "aut-num: AS3356 / export: to AS39000 announce ANY / source: RIPE", with(hidden, "irr.provider", weightIRRValley), 1},
		"somebody says so":           {two, "aut-num: AS39000 / import: from AS3356 accept ANY / source: RADB", nil, 0},
		"both, and not the same":     {two, "aut-num: AS39000 / import: from AS3356 accept ANY / source: RIPE, aut-num: AS3356 / import: from AS39000 accept ANY / source: RIPE", nil, 0},
		"of its customer":            {two, "aut-num: AS39000 / export: to AS3356 announce ANY / source: RIPE", nil, 0},
		"a known valley, registered": {two + buys, "aut-num: AS39000 / import: from AS3356 accept ANY / import: from AS1299 accept ANY / source: RIPE", with(valley, "irr.provider", weightIRRValleyToo), 1},
		"half of it":                 {two + buys, "aut-num: AS39000 / import: from AS3356 accept ANY / source: RIPE", with(valley, "irr.provider", weightIRRValleyToo/2), 1},
		"of a registered customer":   {two + buys, "aut-num: AS39000 / export: to AS3356 announce ANY / source: RIPE", with(valley, "irr.customer", weightIRRCustomer), 1},
		"to a registered customer":   {two + buys, "aut-num: AS1299 / import: from AS39000 accept ANY / source: RIPE, aut-num: AS39000 / import: from AS1299 accept ANY / export: to AS3356 announce ANY / source: RIPE", with(valley, "irr.customer", weightIRRCustomer), 1},

		"it sells to another":    {two + buys + sells, "", map[string]float64{"rel.valley": weightValley, "cone.novel": weightConeNovel}, 1},
		"it sells to the origin": {two + buys + sells + "rel 15008 15005 -1\n", "", map[string]float64{"rel.valley": weightValley, "cone.member": weightConeMember}, 1},

		"its as-set has the origin": {two + buys, "aut-num: AS39000 / export: to AS1299 announce AS-X / source: RIPE, as-set: AS-X / members: AS39000 AS15005 / source: RIPE", with(valley, "cone.registered", weightConeRegistered), 1},
		"its as-set has others":     {two + buys, "aut-num: AS39000 / export: to AS1299 announce AS-X / source: RIPE, as-set: AS-X / members: AS39000 AS15009 / source: RIPE", with(valley, "cone.unregistered", weightConeUnknown), 1},
		"its as-set is incomplete":  {two + buys, "aut-num: AS39000 / export: to AS1299 announce AS-X / source: RIPE, as-set: AS-X / members: AS39000 AS15009 AS-GONE / source: RIPE", valley, 1},
		"its as-set has everybody":  {two + buys, "aut-num: AS39000 / export: to AS1299 announce AS-X / source: RIPE, as-set: AS-X / members: AS39000 AS15009 AS-ANY / source: RIPE", valley, 1},
		"its as-set has itself":     {two + buys, "aut-num: AS39000 / export: to AS1299 announce AS-X / source: RIPE, as-set: AS-X / members: AS39000 / source: RIPE", valley, 1},
	} {
		t.Run(name, func(t *testing.T) {
			sc, err := scenario.Parse(strings.NewReader(leakWorld+c.rels), "test")
			if err != nil {
				t.Fatal(err)
			}
			k := knowledgeOf(sc)
			k.IRR = registries(t, c.objects)
			e := New(scenarioConfiguration(), k, nil)
			for _, u := range sc.RIB() {
				e.Apply(&u)
			}
			e.FinishBaseline()
			path, err := bgp.ParseASPath("15000 174 1299 39000 3356 15005")
			if err != nil {
				t.Fatal(err)
			}
			x := e.Explain(netip.MustParsePrefix("20.0.0.0/16"), path)
			if c.want == nil {
				if x.Leak != nil || x.Kind != nil && *x.Kind == incident.RouteLeak {
					t.Fatalf("suspected: %+v, %s", x.Leak, x.Explanation)
				}
				return
			}
			if x.Leak == nil || x.Leak.Leaker != 39000 || x.Leak.From != 3356 || x.Leak.To != 1299 || x.Leak.RFC7908Type != c.kind || x.Leak.Basis == "" {
				t.Errorf("leak: %+v", x.Leak)
			}
			got := map[string]float64{}
			for _, ev := range x.Evidence {
				if ev.Weight != 0 && ev.Rule != "prior" {
					if _, twice := got[ev.Rule]; twice {
						t.Errorf("%s counts twice", ev.Rule)
					}
					if got[ev.Rule] = ev.Weight; ev.Source == "" || ev.SourceVersion == "" && ev.Source != "history" {
						t.Errorf("whose word is this: %+v", ev)
					}
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("ledger (-want +got):\n%s\n%s", diff, x.Explanation)
			}
		})
	}
}

// That AS39000 leaked shows at one peer, as nobody knows how it stands to the others' providers. They are witnesses where those are
// none of its customers by their size.
func TestWitnessesOfALeak(t *testing.T) {
	const text = `
title  A leak to one peer and two of whom nothing is known
start  2026-01-01T00:00:00Z
peer   a rrc00 15000 192.0.2.1
peer   b rrc00 15002 192.0.2.2
peer   c rrc00 15004 192.0.2.3
rib    20.0.0.0/16 a 15000 174 3356 15005
rib    20.0.0.0/16 b 15002 701 3356 15005
rib    20.0.0.0/16 c 15004 702 3356 15005
rib    20.8.0.0/16 a 15000 174 39000
rib    20.8.0.0/16 b 15002 701 39000 39001
rib    20.8.0.0/16 c 15004 702 39000 39001
rib    20.7.0.0/16 c 15004 702 3356 39000
+10s   a announce 20.0.0.0/16 15000 174 39000 3356 15005
+11s   b announce 20.0.0.0/16 15002 701 39000 3356 15005
+12s   c announce 20.0.0.0/16 15004 702 39000 3356 15005
+60s   end
`
	for name, c := range map[string]struct {
		customers uint32 // of AS701 and AS702
		incidents int
	}{
		"larger than the leaker": {3, 1},
		"no larger":              {1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			sc, err := scenario.Parse(strings.NewReader(text), "test")
			if err != nil {
				t.Fatal(err)
			}
			rels := topology.NewBuilder(topology.Published, "test")
			rels.Set(3356, 39000, topology.Provider)
			rels.Set(39000, 39001, topology.Provider)
			rels.Set(39000, 174, topology.Peer)
			for i := range c.customers {
				rels.Set(701, 100+i, topology.Provider)
				rels.Set(702, 200+i, topology.Provider)
			}
			incidents := playWith(t, sc, Knowledge{Relationships: rels.Build()})
			if len(incidents) != c.incidents {
				t.Fatalf("%d incidents: %+v", len(incidents), incidents)
			}
			if c.incidents > 0 && (incidents[0].Kind != incident.RouteLeak || incidents[0].Offenders[0] != 39000 || incidents[0].Visibility.PeerASNs != 3) {
				t.Errorf("%s by %v, seen by %d", incidents[0].Kind, incidents[0].Offenders, incidents[0].Visibility.PeerASNs)
			}
		})
	}
}

// A leak that only the registry shows opens an incident, before and after a restart.
func TestRegisteredLeak(t *testing.T) {
	sc, err := scenario.Parse(strings.NewReader(leakWorld+two), "test")
	if err != nil {
		t.Fatal(err)
	}
	k := knowledgeOf(sc)
	if found := playWith(t, sc, k); slices.ContainsFunc(found, func(inc incident.Incident) bool { return inc.Kind == incident.RouteLeak }) {
		t.Fatalf("without a registry: %s", found[0].Explanation)
	}
	k.IRR = registries(t, "aut-num: AS39000 / import: from AS3356 accept ANY / source: RIPE")
	found := playWith(t, sc, k)
	if len(found) != 1 || found[0].Kind != incident.RouteLeak || !slices.Equal(found[0].Offenders, []uint32{39000}) || found[0].PrefixCount != 4 {
		t.Fatalf("%+v", found)
	}
}

// What was kept of cones is not used when the knowledge is another.
func TestConesFollowTheKnowledge(t *testing.T) {
	sc, err := scenario.Parse(strings.NewReader(leakWorld+two+buys), "test")
	if err != nil {
		t.Fatal(err)
	}
	e := New(scenarioConfiguration(), knowledgeOf(sc), nil)
	for _, u := range sc.RIB() {
		e.Apply(&u)
	}
	e.FinishBaseline()
	path, err := bgp.ParseASPath("15000 174 1299 39000 3356 15005")
	if err != nil {
		t.Fatal(err)
	}
	rules := func() (rules []string) {
		for _, ev := range e.Explain(netip.MustParsePrefix("20.0.0.0/16"), path).Evidence {
			if strings.HasPrefix(ev.Rule, "cone") {
				rules = append(rules, ev.Rule)
			}
		}
		return rules
	}
	k := knowledgeOf(sc)
	for _, c := range []struct{ objects, want string }{
		{"", ""},
		{"as-set: AS39000:AS-CUSTOMERS / members: AS15009 / source: RIPE", "cone.unregistered"},
		{"as-set: AS39000:AS-CUSTOMERS / members: AS15005 / source: RIPE", "cone.registered"},
		{"", ""},
	} {
		k.IRR = registries(t, c.objects)
		e.Replace(k)
		if got := strings.Join(rules(), " "); got != c.want {
			t.Errorf("%q: %q, want %q", c.objects, got, c.want)
		}
	}
}

// BenchmarkJudgeLeak is one judgement on a leak, of a network with a cone and an as-set.
func BenchmarkJudgeLeak(b *testing.B) {
	sc, err := scenario.Parse(strings.NewReader(leakWorld+top+buys+sells), "test")
	if err != nil {
		b.Fatal(err)
	}
	e := New(scenarioConfiguration(), knowledgeOf(sc), nil)
	for _, u := range sc.RIB() {
		e.Apply(&u)
	}
	e.FinishBaseline()
	path, err := bgp.ParseASPath("15000 174 1299 39000 3356 15005")
	if err != nil {
		b.Fatal(err)
	}
	s := e.shards[0]
	id, _ := s.table.lookup(netip.MustParsePrefix("20.0.0.0/16"))
	en, node := s.table.entry(id), s.table.paths.intern(path, rootPlain)
	b.ReportAllocs()
	for b.Loop() {
		l, _ := s.leaked(node)
		s.judgeLeak(en, l, []route{{0, node}})
	}
}

// What decides of a path with OTC is the first hop beyond the one after the AS named that does not go down.
func TestWhereOTCShowsALeak(t *testing.T) {
	// AS1 buys of AS2, which buys of AS3; AS3 and AS4 are peers; AS4 sells to AS5, AS5 to AS6 and to AS7, AS7 to AS8. Whatever
	// AS9 does, nobody knows it. AS10 attests that it is a customer of AS11.
	b := topology.NewBuilder(topology.Published, "test")
	for _, l := range [][2]uint32{{2, 1}, {3, 2}, {4, 5}, {5, 6}, {5, 7}, {7, 8}} {
		b.Set(l[0], l[1], topology.Provider)
	}
	b.Set(3, 4, topology.Peer)
	aspas := rpki.ASPAs{}
	aspas.Add(10, []uint32{11})
	e := New(DefaultConfiguration(), Knowledge{Relationships: b.Build(), VRPs: rpki.NewSet(rpki.Data{ASPAs: aspas}, "test")}, nil)
	s := e.shards[0]
	for _, c := range []struct {
		path   string // the collector's side first
		otc    uint32
		leaker uint32 // 0: there is no leak
	}{
		{"5 4 3 2 1", 3, 0},     // AS3 sends it to a peer, and that to a customer
		{"5 4 3 2 1", 4, 0},     // down only
		{"3 2 1", 2, 0},         // AS2 may have sent it to a peer
		{"3 2 1", 1, 2},         // AS1 marked it, and AS2 passes it up
		{"3 2 2 1 1", 1, 2},     // prepends are no hops
		{"4 3 2 1", 2, 3},       // AS3 passes on to a peer what says that it may not
		{"5 7 8", 8, 7},         // the same, up
		{"5 6", 6, 0},           // one hop only
		{"4 5 6 9", 9, 6},       // AS6 may have it from a peer, and passes it up
		{"3 4 9 5 6", 6, 0},     // nobody knows what AS9 is to AS5
		{"5 4 3 2 1", 64999, 0}, // not on the path
		{"5 4 3 2 1", 0, 0},     // nobody
		{"11 10 9 1", 9, 10},    // by AS10's own word
		{"10 11 9 1", 9, 0},     // down, by its word
		{"5 7 8 {3,4} 1", 8, 7}, // a set behind is no matter
		{"5 7 {3,4} 8 1", 8, 0}, // but on the way nobody knows who is who
	} {
		path, err := bgp.ParseASPath(c.path)
		if err != nil {
			t.Fatal(err)
		}
		id := s.intern(&bgp.Attributes{Has: bgp.HasASPath | bgp.HasOTC, ASPath: path, OTC: c.otc}, rootPlain)
		l, ok := s.markedLeak(id)
		if ok != (c.leaker != 0) || l.leaker != c.leaker || ok && l.marked != c.otc {
			t.Errorf("%s with OTC %d: %+v, want the leaker AS%d", c.path, c.otc, l, c.leaker)
		}
		if plain := s.table.paths.intern(path, rootPlain); (id == plain) == ok {
			t.Errorf("%s with OTC %d: node %d, and %d without", c.path, c.otc, id, plain)
		}
	}
}

// BenchmarkOTC is what OTC adds to an update of a usual path, where AS3 sent it to its peer AS4 and all further hops go down.
func BenchmarkOTC(b *testing.B) {
	rels := topology.NewBuilder(topology.Published, "test")
	for _, l := range [][2]uint32{{2, 1}, {3, 2}, {4, 5}, {5, 6}} {
		rels.Set(l[0], l[1], topology.Provider)
	}
	rels.Set(3, 4, topology.Peer)
	s := New(DefaultConfiguration(), Knowledge{Relationships: rels.Build()}, nil).shards[0]
	path := bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{6, 5, 4, 3, 2, 1}}}
	id := s.table.paths.intern(path, rootPlain)
	b.ReportAllocs()
	for b.Loop() {
		if _, leaked := s.marked(id, 3); leaked {
			b.Fatal("leaked")
		}
	}
}

// AS2 has 40 customers and AS3 one, and the link between the two is new. AS3 buys of AS4.
func TestLeakFromAMuchLargerNetwork(t *testing.T) {
	b := topology.NewBuilder(topology.Published, "test")
	for i := range uint32(1000) { // so that sizes are known
		b.Set(5000+i, 7000+i, topology.Provider)
	}
	for i := range uint32(40) {
		b.Set(2, 20+i, topology.Provider)
	}
	b.Set(20, 1, topology.Provider)
	b.Set(3, 90, topology.Provider)
	b.Set(6, 1, topology.Provider)
	b.Set(4, 3, topology.Provider)
	b.Set(4, 6, topology.Provider)
	for i := range uint32(40) {
		b.Set(6, 100+i, topology.Provider)
	}
	s := New(DefaultConfiguration(), Knowledge{Relationships: b.Build()}, nil).shards[0]
	for _, c := range []struct {
		path string // the collector's side first
		want leak
	}{
		{"4 3 2 20 1", leak{valley: valley{2, 3, 4}, basis: bySize}},
		{"4 3 3 2 2 20 1", leak{valley: valley{2, 3, 4}, basis: bySize}},
		{"90 3 2 20 1", leak{}}, // down
		{"3 2 20 1", leak{}},    // nobody had it from AS3 yet
		{"4 3 2 20", leak{}},    // so short a path is as likely written by AS3
		{"4 3 2 21 1", leak{}},  // AS1 and AS21 have nothing to do with each other: somebody made that up
		{"4 6 2 20 1", leak{}},  // AS6 is as large, and may have won AS2 as a customer
	} {
		path, err := bgp.ParseASPath(c.path)
		if err != nil {
			t.Fatal(err)
		}
		if l, ok := s.hiddenLeak(s.table.paths.intern(path, rootPlain)); l != c.want || ok != (c.want != leak{}) {
			t.Errorf("%s: %+v, want %+v", c.path, l, c.want)
		}
	}
	// Once the two have been neighbours without harm, AS3 is blamed no more.
	path, _ := bgp.ParseASPath("4 3 2 20 1")
	s.links.learn([]link{{3, 2, true}}, nil)
	if l, ok := s.hiddenLeak(s.table.paths.intern(path, rootPlain)); ok {
		t.Errorf("over a usual link: %+v", l)
	}
}
