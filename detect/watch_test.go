package detect

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/routevigil/routevigil/detect/incident"

	"github.com/routevigil/routevigil/ingest"
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
