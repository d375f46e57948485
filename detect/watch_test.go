package detect

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/irr/rpsl"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/scenario"
)

// watchScenario reads what happens and, from the file beside it, what is declared.
func watchScenario(t *testing.T, file string) (*scenario.Scenario, WatchList) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sc, err := scenario.Parse(f, filepath.Base(file))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(strings.TrimSuffix(file, ".scenario") + ".yaml")
	if err != nil {
		t.Fatal(err)
	}
	var c struct{ Watches WatchList }
	d := yaml.NewDecoder(strings.NewReader(string(text)))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	if err := c.Watches.Validate(); err != nil {
		t.Fatal(err)
	}
	return sc, c.Watches
}

// TestWatches plays every scenario of testdata/watches with its watches.
func TestWatches(t *testing.T) {
	files, _ := filepath.Glob("testdata/watches/*.scenario")
	if len(files) == 0 {
		t.Fatal("no scenario found")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".scenario"), func(t *testing.T) {
			sc, watches := watchScenario(t, file)
			k := knowledgeOf(sc)
			k.Watches = watches
			c := scenarioConfiguration()
			one := playKnowing(sc, c, k)
			for _, m := range misses(sc, one) {
				t.Errorf("not met: %s", m)
			}
			if t.Failed() {
				for _, inc := range one.incidents {
					t.Logf("found: %s %s conf %.3f %s %v\n%s", inc.Kind, inc.Severity, inc.Confidence, inc.Status, inc.DetectedAt, inc.Explanation)
				}
			}
			for _, shards := range []int{2, 8} {
				c.Shards = shards
				if diff := cmp.Diff(one.events, playKnowing(sc, c, k).events, cmpTime, cmpPrefix); diff != "" {
					t.Errorf("%d shards differ from one (-one +%d):\n%s", shards, shards, diff)
				}
			}
			c.Shards = 2
			if diff := cmp.Diff(one.events, playInterrupted(t, sc, c, k), cmpTime, cmpPrefix); diff != "" {
				t.Errorf("saved and restored before each update it differs (-whole +restored):\n%s", diff)
			}
		})
	}
}

// playInterrupted plays a scenario and, before each update, saves the state and goes on from it on another number of
// shards.
func playInterrupted(t *testing.T, sc *scenario.Scenario, c Configuration, k Knowledge) []incident.Event {
	t.Helper()
	var events []incident.Event
	emit := func(ev incident.Event) { events = append(events, ev) }
	e := New(c, k, emit)
	for _, u := range sc.RIB() {
		e.Apply(&u)
	}
	e.FinishBaseline()
	for i, u := range sc.Updates() {
		state, err := e.Snapshot()
		if err != nil {
			t.Fatal(err)
		}
		c.Shards = 1 + i%3
		e = New(c, k, emit)
		if err := e.Restore(state); err != nil {
			t.Fatal(err)
		}
		e.Apply(&u)
	}
	e.Advance(ingest.TimeOf(sc.Start.Add(sc.Duration())))
	e.Finish()
	return events
}

// TestWatchesMatter plays each scenario that expects nothing without its watches: but for those that show that no watch
// is needed to be quiet, something must open, or the watch would not be what keeps it quiet.
func TestWatchesMatter(t *testing.T) {
	for _, name := range []string{"expected-origin", "planned-origin", "expected-but-invalid"} {
		sc, _ := watchScenario(t, "testdata/watches/"+name+".scenario")
		if o := play(sc, scenarioConfiguration()); !slices.ContainsFunc(o.incidents, func(i incident.Incident) bool { return i.Kind == incident.SubprefixHijack }) {
			t.Errorf("%s: no hijack without the watch", name)
		}
	}
	sc, _ := watchScenario(t, "testdata/watches/squatting.scenario")
	if o := play(sc, scenarioConfiguration()); !slices.ContainsFunc(o.incidents, func(i incident.Incident) bool {
		return i.Kind == incident.Squatting && slices.Contains(i.Offenders, 36561)
	}) {
		t.Error("squatting: none by the declared origin without the watch")
	}
	for _, name := range []string{"valid-origin", "named-neighbour", "old-prefix", "planned-prefix"} { // with a watch that forbids it
		sc, w := watchScenario(t, "testdata/watches/"+name+".scenario")
		k := knowledgeOf(sc)
		k.Watches, k.VRPs = w, rpki.NewSet(rpki.Data{}, "")
		w[0].Planned = nil
		if name == "named-neighbour" {
			w[0].Upstreams = []uint32{2914, 3356}
		}
		if name == "old-prefix" {
			w[0].Upstreams = []uint32{2914}
		}
		o := playKnowing(sc, scenarioConfiguration(), k)
		if quiet := len(o.incidents) == 0; quiet != (name == "old-prefix") {
			t.Errorf("%s: %d incidents where the watch forbids it", name, len(o.incidents))
		}
	}
}

// playHijack plays that AS9808 announces a part of AS36561's space from 10 to 12 s on until 100 s, which is seen by three
// networks. watch is laid over the watch of 208.65.152.0/22 and AS36561.
func playHijack(t *testing.T, c Configuration, change func(*Watch)) outcome {
	t.Helper()
	text, err := os.ReadFile("testdata/watches/unannounced.scenario")
	if err != nil {
		t.Fatal(err)
	}
	base, _, _ := strings.Cut(string(text), "+10s")
	sc, err := scenario.Parse(strings.NewReader(base+`
+10s   a announce 208.65.153.0/24 3333 174 4134 9808
+11s   b announce 208.65.153.0/24 12859 174 4134 9808
+12s   c announce 208.65.153.0/24 2914 174 4134 9808
+60s   d announce 114.114.112.0/21 6461 3356 4134 9808
+70s   d announce 114.114.112.0/21 6461 174 4134 9808
+100s  a,b,c withdraw 208.65.153.0/24
+3m    end
`), "hijack")
	if err != nil {
		t.Fatal(err)
	}
	w := Watch{Name: "tube", Prefixes: []netip.Prefix{netip.MustParsePrefix("208.65.152.0/22")}, ASNs: []uint32{36561}}
	change(&w)
	k := knowledgeOf(sc)
	k.Watches = WatchList{w}
	if err := k.Watches.Validate(); err != nil {
		t.Fatal(err)
	}
	one := playKnowing(sc, c, k)
	if diff := cmp.Diff(one.events, playInterrupted(t, sc, c, k), cmpTime, cmpPrefix); diff != "" {
		t.Errorf("saved and restored before each update it differs (-whole +restored):\n%s", diff)
	}
	return one
}

var tenOClock = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

func told(o outcome) (list []string) {
	for _, ev := range o.events {
		who := ""
		if m := ev.Incident.Muted; m != nil {
			who = " muted by " + m.Watch + ": " + m.Reason
		}
		list = append(list, fmt.Sprintf("%v %s%s", ev.Time.Sub(tenOClock).Round(time.Second), ev.Change, who))
	}
	return list
}

func TestMutes(t *testing.T) {
	until := func(s time.Duration) time.Time { return tenOClock.Add(s) }
	prefixes := func(p string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(p)} }
	muted := []string{"12s opened muted by tube: test", "1m40s receded muted by tube: test", "1m50s ended muted by tube: test"}
	loud := []string{"12s opened", "1m40s receded", "1m50s ended"}
	for name, c := range map[string]struct {
		mute Mute
		want []string
	}{
		"all":             {Mute{Until: until(time.Hour)}, muted},
		"past":            {Mute{Until: until(12 * time.Second)}, loud},
		"ends":            {Mute{Until: until(time.Minute)}, []string{"12s opened muted by tube: test", "1m0s unmuted", "1m40s receded", "1m50s ended"}},
		"kind":            {Mute{Until: until(time.Hour), Kinds: []incident.Kind{incident.SubprefixHijack}}, muted},
		"another kind":    {Mute{Until: until(time.Hour), Kinds: []incident.Kind{incident.OriginHijack}}, loud},
		"prefix":          {Mute{Until: until(time.Hour), Prefixes: prefixes("208.65.152.0/23")}, muted},
		"another prefix":  {Mute{Until: until(time.Hour), Prefixes: prefixes("208.65.154.0/23")}, loud},
		"part of it":      {Mute{Until: until(time.Hour), Prefixes: prefixes("208.65.153.0/25")}, loud},
		"accomplice":      {Mute{Until: until(time.Hour), ASNs: []uint32{4134}}, muted},
		"another network": {Mute{Until: until(time.Hour), ASNs: []uint32{3356}}, loud},
	} {
		c.mute.Reason = "test"
		o := playHijack(t, scenarioConfiguration(), func(w *Watch) { w.Mutes = []Mute{c.mute} })
		if diff := cmp.Diff(c.want, told(o)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestWatchSeverity(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Watch)
		want   incident.Severity
	}{
		"plain":       {func(*Watch) {}, incident.Critical},
		"unimportant": {func(w *Watch) { w.Importance = LowImportance }, incident.High},
		"important":   {func(w *Watch) { w.Importance = HighImportance }, incident.Critical},
		"said": {func(w *Watch) {
			w.Severity = map[incident.Kind]incident.Severity{incident.SubprefixHijack: incident.Low}
		}, incident.Low},
		"said of others": {func(w *Watch) { w.Severity = map[incident.Kind]incident.Severity{incident.OriginHijack: incident.Low} }, incident.Critical},
	} {
		o := playHijack(t, scenarioConfiguration(), c.change)
		if len(o.incidents) != 1 || o.incidents[0].Severity != c.want || !slices.Equal(o.incidents[0].Watches, []string{"tube"}) {
			t.Errorf("%s: %+v, want one of severity %s", name, o.incidents, c.want)
		}
	}
	// The contract: a mistake is never above medium unless a watch says so.
	important := []*watch{{Watch: Watch{Importance: HighImportance}}}
	says := []*watch{{Watch: Watch{Severity: map[incident.Kind]incident.Severity{incident.RPKIInvalid: incident.Critical}}}, {}}
	for _, k := range incident.Kinds {
		mistake := strings.HasPrefix(string(k), "misconfiguration_") || strings.HasPrefix(string(k), "bogon_") || k == incident.RPKIInvalid
		if s := severe(incident.Medium, k, important); mistake != (s == incident.Medium) {
			t.Errorf("an important %s of medium severity is %s", k, s)
		}
	}
	if s := severe(incident.Low, incident.RPKIInvalid, says); s != incident.Critical {
		t.Errorf("what a watch says is critical is %s", s)
	}
}

func TestWatchMinPeers(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 12 * time.Second, 1: 10 * time.Second, 2: 11 * time.Second, 3: 12 * time.Second} {
		o := playHijack(t, scenarioConfiguration(), func(w *Watch) { w.MinPeers = n })
		if len(o.incidents) != 1 || o.incidents[0].DetectedAt.Sub(tenOClock).Round(time.Second) != want {
			t.Errorf("min_peers %d: %+v, want one at %v", n, o.incidents, want)
		}
	}
	if o := playHijack(t, scenarioConfiguration(), func(w *Watch) { w.MinPeers = 4 }); len(o.incidents) > 0 {
		t.Errorf("three of four networks opened one where all must agree: %+v", o.incidents)
	}
	// Fewer suffice where fewer are heard at all.
	c := scenarioConfiguration()
	c.MinPeers = 1
	if o := playHijack(t, c, func(w *Watch) { w.MinPeers = 1000 }); len(o.incidents) > 0 {
		t.Errorf("%+v", o.incidents)
	}
}

func TestWatchesOf(t *testing.T) {
	list := WatchList{
		{Name: "block", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}},
		{Name: "part", Prefixes: []netip.Prefix{netip.MustParsePrefix("192.0.2.128/25")}},
		{Name: "customers", ASSets: []string{"AS-X"}},
		{Name: "own", ASNs: []uint32{10}},
	}
	b := irr.NewBuilder(nil)
	r, err := rpsl.NewReader(strings.NewReader("as-set: AS-X\nmembers: AS1, AS-Y\nsource: RIPE\n\nas-set: AS-Y\nmembers: AS2\nsource: RIPE\n\n"))
	if err != nil {
		t.Fatal(err)
	}
	for o, err := r.Next(); err == nil; o, err = r.Next() {
		b.Add(o)
	}
	byIRR, bySets := compileWatches(list, b.Build(), nil), compileWatches(list, nil, map[string][]uint32{"AS-X": {2, 1}})
	for _, c := range []struct {
		prefix string
		v      verdict
		want   []string
	}{
		{"192.0.2.0/24", verdict{}, []string{"block", "part"}},
		{"192.0.0.0/16", verdict{}, []string{"block", "part"}},
		{"192.0.2.64/26", verdict{}, []string{"block"}},
		{"192.0.2.192/26", verdict{}, []string{"block", "part"}},
		{"192.0.3.0/24", verdict{}, nil},
		{"2001:db8:1::/48", verdict{}, []string{"block"}},
		{"2001:db9::/32", verdict{offender: 1}, []string{"customers"}},
		{"2001:db9::/32", verdict{victim: 2}, []string{"customers"}},
		{"2001:db9::/32", verdict{next: 10, also: []uint32{1}}, []string{"customers", "own"}},
		{"2001:db9::/32", verdict{victim: 3}, nil},
	} {
		for _, w := range []*watched{byIRR, bySets} {
			if got := watchNames(w.of(netip.MustParsePrefix(c.prefix), &c.v)); !slices.Equal(got, c.want) {
				t.Errorf("%s %+v: %v, want %v", c.prefix, c.v, got, c.want)
			}
		}
	}
	if o := byIRR.all[2].origins; !slices.Equal(o, []uint32{1, 2}) {
		t.Errorf("without origins the members may originate: %v", o)
	}
}

// TestWatchesReplaced gives watches to an engine that runs: what it has is judged by them at the next tick.
func TestWatchesReplaced(t *testing.T) {
	sc, watches := watchScenario(t, "testdata/watches/standing-origin.scenario")
	for _, shards := range []int{1, 4} {
		c := scenarioConfiguration()
		c.Shards = shards
		k := knowledgeOf(sc)
		e := New(c, k, func(incident.Event) {})
		for _, u := range sc.RIB() {
			e.Apply(&u)
		}
		e.FinishBaseline()
		e.Advance(ingest.TimeOf(sc.Start.Add(time.Second)))
		e.Advance(ingest.TimeOf(sc.Start.Add(2 * time.Second)))
		if n := len(e.Incidents()); n > 0 {
			t.Fatalf("%d incidents without watches", n)
		}
		k.Watches = watches
		e.Replace(k)
		e.Advance(ingest.TimeOf(sc.Start.Add(3 * time.Second)))
		if inc := e.Incidents(); len(inc) != 1 || inc[0].Kind != incident.OriginHijack {
			t.Errorf("%d shards: %+v, want the hijack that is in the table", shards, inc)
		}
	}
}

func TestExplainWatches(t *testing.T) {
	sc, watches := watchScenario(t, "testdata/watches/planned-neighbour.scenario")
	k := knowledgeOf(sc)
	k.Watches = watches
	e := New(scenarioConfiguration(), k, func(incident.Event) {})
	for _, u := range sc.RIB() {
		e.Apply(&u)
	}
	e.FinishBaseline()
	explain := func(prefix, path string) Explanation {
		p, err := bgp.ParseASPath(path)
		if err != nil {
			t.Fatal(err)
		}
		return e.Explain(netip.MustParsePrefix(prefix), p)
	}
	rules := func(x Explanation) (rs []string) {
		for _, ev := range x.Evidence {
			rs = append(rs, ev.Rule)
		}
		return rs
	}
	if x := explain("208.65.152.0/22", "3333 174 36561"); x.Kind != nil || !slices.Contains(rules(x), "watch.planned") || !strings.Contains(x.Explanation, "planned until 2026-03-01T10:01:00Z (trial)") {
		t.Errorf("before the end of the plan: %+v", x)
	}
	e.Advance(ingest.TimeOf(sc.Start.Add(2 * time.Minute)))
	for _, c := range []struct {
		prefix, path string
		kind         incident.Kind
		rule         string
	}{
		{"208.65.152.0/22", "3333 174 36561", incident.NewNeighbour, "watch.neighbour_unknown"},
		{"208.65.152.0/22", "3333 174 4134 9808", incident.OriginHijack, "watch.origin_unexpected"},
		{"64.15.112.0/20", "3333 3356 36561", incident.NewPrefix, "watch.prefix_unknown"},
	} {
		x := explain(c.prefix, c.path)
		if x.Kind == nil || *x.Kind != c.kind || !slices.Contains(rules(x), c.rule) || !slices.Equal(x.Watches, []string{"tube"}) {
			t.Errorf("%s by %s: %+v, want %s by %s", c.prefix, c.path, x, c.kind, c.rule)
		}
	}
	if x := explain("114.114.112.0/21", "3333 174 4134 9808"); len(x.Watches) > 0 {
		t.Errorf("watches of another network's route: %v", x.Watches)
	}
}

// A watch of a route-set is one of its prefixes, and follows what the registries say; while they do not say all, nothing
// passes for a prefix that the watch does not name.
func TestRouteSetsOfWatches(t *testing.T) {
	list := WatchList{{Name: "mine", ASNs: []uint32{20010}, Prefixes: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, RouteSets: []string{"RIPE::RS-X"}}}
	database := func(text string) *irr.Database {
		b := irr.NewBuilder(nil)
		if err := b.Read(strings.NewReader(text), "test"); err != nil {
			t.Fatal(err)
		}
		return b.Build()
	}
	all := "route-set: RS-X\nmembers: 192.0.2.0/24^+, AS5, RS-Y\nmp-members: ::/0\nsource: RIPE\n\nroute6: 2001:db8::/32\norigin: AS5\nsource: RIPE\n\n"
	many := "route-set: RS-X\nsource: RIPE\nmembers: 10.0.0.0/24"
	for i := range maxOfRouteSet {
		many += fmt.Sprintf(", 20.%d.%d.0/24", i/256, i%256)
	}
	for _, c := range []struct {
		name    string
		db      *irr.Database
		watched []string
		raised  int
	}{
		{"whole", database(all + "route-set: RS-Y\nmembers: 203.0.113.0/24\nsource: RIPE\n"), []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"}, 1},
		{"a part missing", database(all), []string{"192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32"}, 0},
		{"no registry", nil, []string{"198.51.100.0/24"}, 0},
		{"too many", database(many), nil, 0},
	} {
		w := compileWatches(list, c.db, nil)
		var got []string
		for _, p := range w.all[0].Prefixes {
			got = append(got, p.String())
		}
		if c.watched == nil && len(got) != maxOfRouteSet+1 || c.watched != nil && !slices.Equal(got, c.watched) {
			t.Errorf("%s: %d are watched, %v", c.name, len(got), got)
		}
		if len(list[0].Prefixes) != 1 {
			t.Fatal("the configuration was changed")
		}
		o := map[string]incident.Incident{}
		e := New(scenarioConfiguration(), Knowledge{Watches: list, IRR: c.db}, func(ev incident.Event) { o[ev.Incident.ID] = ev.Incident })
		for k := range 5 {
			peer := ingest.Peer{Collector: "rrc00", ASN: uint32(100 + k), Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(k)})}
			u := announcement(peer, netip.MustParsePrefix("198.51.100.0/24"), peer.ASN, 3356, 20010)
			u.Kind, u.Time = ingest.RIB, ingest.TimeOf(start)
			e.Apply(&u)
		}
		e.FinishBaseline()
		for k := range 5 {
			peer := ingest.Peer{Collector: "rrc00", ASN: uint32(100 + k), Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(k)})}
			for _, p := range []string{"203.0.113.0/24", "100.20.0.0/16"} { // the second is in no route-set
				u := announcement(peer, netip.MustParsePrefix(p), peer.ASN, 3356, 20010)
				u.Time = ingest.TimeOf(start.Add(time.Minute))
				e.Apply(&u)
			}
		}
		e.Finish()
		raised := 0
		for _, inc := range o {
			if inc.Kind == incident.NewPrefix {
				raised++
				if len(inc.Prefixes) != 1 || inc.Prefixes[0].Prefix.String() != "100.20.0.0/16" {
					t.Errorf("%s: %+v", c.name, inc.Prefixes)
				}
			}
		}
		if raised != c.raised {
			t.Errorf("%s: %d new prefixes are raised, want %d", c.name, raised, c.raised)
		}
		// As soon as the registry has it in the set it is none.
		e.Replace(Knowledge{Watches: list, IRR: database(all + "route-set: RS-Y\nmembers: 203.0.113.0/24, 100.20.0.0/16\nsource: RIPE\n")})
		if id, _ := e.shards[0].table.lookup(netip.MustParsePrefix("203.0.113.0/24")); !e.shards[0].table.entry(id).watched {
			t.Errorf("%s: what the set has now is not watched", c.name)
		}
		e.Advance(ingest.TimeOf(start.Add(time.Hour)))
		e.Advance(ingest.TimeOf(start.Add(2 * time.Hour)))
		for _, inc := range o {
			if inc.Kind == incident.NewPrefix && inc.Status == incident.Open {
				t.Errorf("%s: with the prefix in the set it goes on: %s", c.name, inc.Title)
			}
		}
	}
}

// TestWatchFaults reports all that is wrong at once, each with its setting.
func TestWatchFaults(t *testing.T) {
	p := netip.MustParsePrefix
	err := WatchList{
		{},
		{Name: "a", Prefixes: []netip.Prefix{p("192.0.2.1/24"), p("10.0.0.0/7")}, MaxLengthV4: 33, MinPeers: -1, Importance: "great"},
		{Name: "a", ASSets: []string{"EXAMPLE"}, RouteSets: []string{"RS-X", "AS-X"}, Upstreams: []uint32{0}, Severity: map[incident.Kind]incident.Severity{"leak": "low", "route_leak": "huge"}},
		{Name: "b", ASNs: []uint32{1}, Prefixes: []netip.Prefix{p("192.0.2.0/24")}, MaxLengthV4: 23, MustPass: []uint32{5}, MustNotPass: []uint32{5},
			Planned: []Plan{{}, {Until: tenOClock, Origins: []uint32{0}}}, Mutes: []Mute{{Kinds: []incident.Kind{"leak"}}}},
	}.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	var got []string
	for line := range strings.Lines(err.Error()) {
		at, _, _ := strings.Cut(line, ": ")
		got = append(got, at)
	}
	slices.Sort(got)
	want := []string{"[0]", "[0].name", "[1].importance", "[1].max_length_v4", "[1].min_peers", "[1].prefixes[0]", "[1].prefixes[1]",
		"[2].as_sets[0]", "[2].asns", "[2].name", "[2].route_sets[1]", "[2].severity", "[2].severity.route_leak", "[2].upstreams[0]",
		"[3].max_length_v4", "[3].must_not_pass[0]", "[3].mutes[0].kinds[0]", "[3].mutes[0].until", "[3].planned[0]", "[3].planned[0].until", "[3].planned[1].origins[0]"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestWatchStates lists what is declared and what is found, on any number of shards.
func TestWatchStates(t *testing.T) {
	sc, _ := watchScenario(t, "testdata/watches/new-prefix.scenario")
	p := netip.MustParsePrefix
	k := knowledgeOf(sc)
	k.Watches = WatchList{
		{Name: "tube", Prefixes: []netip.Prefix{p("208.65.152.0/22")}, ASNs: []uint32{36561}, Upstreams: []uint32{3356},
			Planned: []Plan{{Until: tenOClock, Origins: []uint32{1}}, {Until: tenOClock.Add(time.Hour), Origins: []uint32{2}}},
			Mutes:   []Mute{{Until: tenOClock}, {Until: tenOClock.Add(time.Hour), Reason: "known", Kinds: []incident.Kind{incident.RouteLeak}}}},
		{Name: "block", Prefixes: []netip.Prefix{p("114.114.112.0/20")}, Origins: []uint32{1}, ASSets: []string{"AS-X"}},
	}
	k.WatchSets = map[string][]uint32{"AS-X": {5, 6}}
	for _, shards := range []int{1, 8} {
		c := scenarioConfiguration()
		c.Shards = shards
		e := New(c, k, func(incident.Event) {})
		for _, u := range append(sc.RIB(), sc.Updates()...) {
			if u.Kind != ingest.RIB {
				e.FinishBaseline()
			}
			e.Apply(&u)
		}
		e.Finish()
		got := e.Watches()
		var ids []string
		for _, inc := range e.Incidents() {
			if slices.Contains(inc.Watches, "tube") {
				ids = append(ids, inc.ID)
			}
		}
		if len(ids) == 0 {
			t.Fatal("nothing is open")
		}
		want := []WatchState{
			{Name: "tube", Importance: "normal", Prefixes: []netip.Prefix{p("208.65.152.0/22")}, ASNs: []uint32{36561}, ASSets: []string{}, Origins: []uint32{36561}, OriginCount: 1,
				Neighbours: []uint32{3356}, Planned: []PlanState{{tenOClock.Add(time.Hour), "", []uint32{2}, []uint32{}, []netip.Prefix{}}},
				Mutes:     []MuteState{{tenOClock.Add(time.Hour), "known", []incident.Kind{incident.RouteLeak}, []netip.Prefix{}, []uint32{}}},
				Incidents: ids,
				Found: WatchFound{Announced: 1, Origins: []FoundOrigin{}, Prefixes: []FoundOrigin{{p("64.15.112.0/20"), 36561, 3}},
					Neighbours: []FoundLink{{36561, 2914, 3}}}},
			{Name: "block", Importance: "normal", Prefixes: []netip.Prefix{p("114.114.112.0/20")}, ASNs: []uint32{}, ASSets: []string{"AS-X"}, Members: 2, Origins: []uint32{1}, OriginCount: 1,
				Neighbours: []uint32{}, Planned: []PlanState{}, Mutes: []MuteState{}, Found: WatchFound{Announced: 1, Origins: []FoundOrigin{{p("114.114.112.0/21"), 9808, 4}},
					Prefixes: []FoundOrigin{}, Neighbours: []FoundLink{}}, Incidents: got[1].Incidents},
		}
		if diff := cmp.Diff(want, got, cmpTime, cmpPrefix); diff != "" {
			t.Errorf("%d shards (-want +got):\n%s", shards, diff)
		}
		if len(got[1].Incidents) != 1 {
			t.Errorf("%d incidents of the block, want the origin that it does not name", len(got[1].Incidents))
		}
	}
}
