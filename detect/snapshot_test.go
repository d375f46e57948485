package detect

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/scenario"
)

// TestRestoreChangesNothing plays every scenario, stops after each update, and goes on from the
// saved state on another number of shards: the events must be those of the undisturbed run.
func TestRestoreChangesNothing(t *testing.T) {
	for _, sc := range allScenarios(t) {
		t.Run(sc.Name, func(t *testing.T) {
			whole := play(sc, scenarioConfiguration())
			updates := sc.Updates()
			step := max(1, len(updates)/4)
			for stop := 0; stop <= len(updates); stop += step {
				var events []incident.Event
				emit := func(ev incident.Event) { events = append(events, ev) }
				c := scenarioConfiguration()
				e := New(c, knowledgeOf(sc), emit)
				for _, u := range sc.RIB() {
					e.Apply(&u)
				}
				e.FinishBaseline()
				for _, u := range updates[:stop] {
					e.Apply(&u)
				}
				state, err := e.Snapshot()
				if err != nil {
					t.Fatal(err)
				}
				c.Shards = 1 + stop%3
				e = New(c, knowledgeOf(sc), emit)
				if err := e.Restore(state); err != nil {
					t.Fatal(err)
				}
				for _, u := range updates[stop:] {
					e.Apply(&u)
				}
				e.Advance(ingest.TimeOf(sc.Start.Add(sc.Duration())))
				e.Finish()
				if diff := cmp.Diff(whole.events, events, cmpTime, cmpPrefix); diff != "" {
					t.Fatalf("stopped after %d of %d updates (-undisturbed +restored):\n%s", stop, len(updates), diff)
				}
			}
		})
	}
}

func TestRestoreRejectsDamage(t *testing.T) {
	sc := allScenarios(t)[0]
	e := New(scenarioConfiguration(), knowledgeOf(sc), func(incident.Event) {})
	for _, u := range sc.RIB() {
		e.Apply(&u)
	}
	state, err := e.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(state) {
		fresh := New(scenarioConfiguration(), knowledgeOf(sc), func(incident.Event) {})
		if fresh.Restore(state[:cut]) == nil {
			t.Errorf("the first %d of %d bytes were accepted", cut, len(state))
		}
	}
}

func allScenarios(t *testing.T) []*scenario.Scenario {
	t.Helper()
	var all []*scenario.Scenario
	for _, pattern := range []string{"testdata/*.scenario", "../ingest/scenario/testdata/*.scenario", "../ingest/scenario/demo/*.scenario"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			f, err := os.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			sc, err := scenario.Parse(f, filepath.Base(file))
			f.Close()
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, sc)
		}
	}
	if len(all) == 0 {
		t.Fatal("no scenario found")
	}
	return all
}

var cmpTime = cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })

// TestCleaningChangesNothing looks for unused path nodes all the time, a few steps at each update.
func TestCleaningChangesNothing(t *testing.T) {
	dropped, steps := 0, rand.New(rand.NewPCG(1, 2))
	for _, sc := range allScenarios(t) {
		t.Run(sc.Name, func(t *testing.T) {
			whole := play(sc, scenarioConfiguration())
			var events []incident.Event
			e := New(scenarioConfiguration(), knowledgeOf(sc), func(ev incident.Event) { events = append(events, ev) })
			for _, u := range sc.RIB() {
				e.Apply(&u)
			}
			e.FinishBaseline()
			for _, u := range sc.Updates() {
				e.Apply(&u)
				tab := e.shards[0].table
				before := tab.paths.size()
				tab.clean(steps.IntN(50))
				dropped += before - tab.paths.size()
				tab.nextClean = 0
				tab.beginCleaning()
			}
			e.Advance(ingest.TimeOf(sc.Start.Add(sc.Duration())))
			e.Finish()
			if diff := cmp.Diff(whole.events, events, cmpTime, cmpPrefix); diff != "" {
				t.Errorf("(-undisturbed +cleaned):\n%s", diff)
			}
		})
	}
	if dropped <= 0 {
		t.Errorf("%d path nodes were dropped in all", dropped)
	}
}
