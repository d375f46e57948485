package detect

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/scenario"
)

func infer(t *testing.T, e *Engine) topology.Inference {
	t.Helper()
	inf, err := e.CopyPaths().Infer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	e.Relate(inf.Relationships)
	return inf
}

// unrelated is what is known of a scenario without its relationships.
func unrelated(sc *scenario.Scenario) Knowledge {
	k := knowledgeOf(sc)
	k.Relationships = nil
	return k
}

// playInferring plays a scenario with relationships inferred from its table, and again after each
// number of updates given (0: never again).
func playInferring(t *testing.T, sc *scenario.Scenario, shards, every int) outcome {
	t.Helper()
	var o outcome
	c := scenarioConfiguration()
	c.Shards = shards
	e := New(c, unrelated(sc), func(ev incident.Event) { o.events = append(o.events, ev) })
	for _, u := range sc.RIB() {
		e.Apply(&u)
	}
	e.FinishBaseline()
	infer(t, e)
	for i, u := range sc.Updates() {
		e.Apply(&u)
		if every > 0 && i%every == 0 {
			infer(t, e)
		}
	}
	e.Advance(ingest.TimeOf(sc.Start.Add(sc.Duration())))
	e.Finish()
	o.incidents = e.Incidents()
	return o
}

// TestScenariosWithInferredRelationships plays the scenarios without their relationships: what they
// expect beside leaks must happen all the same, what must not happen must not, and no other leak may be
// found. Of the leaks at least that of 2019, between networks of which much is seen, must be found.
func TestScenariosWithInferredRelationships(t *testing.T) {
	found := 0
	for _, sc := range allScenarios(t) {
		t.Run(sc.Name, func(t *testing.T) {
			o := playInferring(t, sc, 1, 0)
			for _, m := range misses(sc, o) {
				if strings.Contains(m, "expect route_leak") {
					t.Logf("not met: %s", m)
				} else {
					t.Errorf("not met: %s", m)
				}
			}
			for _, inc := range o.incidents {
				if inc.Kind != incident.RouteLeak {
					continue
				}
				if !slices.ContainsFunc(sc.Expect, func(x scenario.Expect) bool { return !x.None && meets(sc, x, &inc) }) {
					t.Errorf("a leak that nobody expects: %s", inc.Explanation)
				}
				found++
			}
			if strings.HasPrefix(sc.Name, "5-allegheny") && len(misses(sc, o)) > 0 {
				t.Error("the leak of 2019 must be found")
			}
			if diff := cmp.Diff(o.events, playInferring(t, sc, 3, 0).events, cmpTime, cmpPrefix); diff != "" {
				t.Errorf("three shards differ from one (-one +three):\n%s", diff)
			}
		})
	}
	if found == 0 {
		t.Error("no leak was found in any scenario")
	}
}

// scenarioNamed returns the scenario whose name begins so.
func scenarioNamed(t *testing.T, begin string) *scenario.Scenario {
	t.Helper()
	for _, sc := range allScenarios(t) {
		if strings.HasPrefix(sc.Name, begin) {
			return sc
		}
	}
	t.Fatalf("there is no scenario %s…", begin)
	return nil
}

// TestInferringAgainHidesNothing infers anew after every few updates, so in the middle of a hijack, a
// leak and a forged path: what is suspected must not teach that it is normal.
func TestInferringAgainHidesNothing(t *testing.T) {
	for _, name := range []string{"1-pakistan", "5-allegheny", "6-celer"} {
		t.Run(name, func(t *testing.T) {
			sc := scenarioNamed(t, name)
			once := misses(sc, playInferring(t, sc, 1, 0))
			if again := misses(sc, playInferring(t, sc, 2, 5)); !slices.Equal(once, again) {
				t.Errorf("not met when inferring again: %q; else %q", again, once)
			}
		})
	}
}

func TestInferredRelationshipsSurviveARestart(t *testing.T) {
	sc := scenarioNamed(t, "5-allegheny")
	whole := playInferring(t, sc, 1, 0)
	if len(whole.events) == 0 {
		t.Fatalf("%s: nothing happens", sc.Name)
	}
	var events []incident.Event
	emit := func(ev incident.Event) { events = append(events, ev) }
	e := New(scenarioConfiguration(), unrelated(sc), emit)
	for _, u := range sc.RIB() {
		e.Apply(&u)
	}
	e.FinishBaseline()
	inf := infer(t, e)
	updates := sc.Updates()
	for _, u := range updates[:len(updates)/2] {
		e.Apply(&u)
	}
	state, err := e.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	e = New(scenarioConfiguration(), unrelated(sc), emit)
	if err := e.Restore(state); err != nil {
		t.Fatal(err)
	}
	if e.known.Relationships.Len() != inf.Relationships.Len() || inf.Relationships.Len() == 0 {
		t.Errorf("%d links were saved, %d restored", inf.Relationships.Len(), e.known.Relationships.Len())
	}
	for pair, l := range inf.Relationships.All() {
		if got := e.known.Relationships.Link(pair[0], pair[1]); got != l {
			t.Fatalf("AS%d and AS%d: %+v, was %+v", pair[0], pair[1], got, l)
		}
	}
	for _, u := range updates[len(updates)/2:] {
		e.Apply(&u)
	}
	e.Advance(ingest.TimeOf(sc.Start.Add(sc.Duration())))
	e.Finish()
	if diff := cmp.Diff(whole.events, events, cmpTime, cmpPrefix); diff != "" {
		t.Errorf("(-undisturbed +restored):\n%s", diff)
	}
}

// TestDeclaredOverridesTheRest has the operator call peers whom the file, or the table, knows as
// provider and customer.
func TestDeclaredOverridesTheRest(t *testing.T) {
	for _, from := range []string{"a file", "the table"} {
		published, declared := topology.NewBuilder(topology.Published, "file"), topology.NewBuilder(topology.Declared, "configuration")
		published.Set(1, 2, topology.Provider)
		declared.Set(1, 2, topology.Peer)
		k := Knowledge{Declared: declared.Build()}
		if from == "a file" {
			k.Relationships = published.Build()
		}
		e := New(DefaultConfiguration(), k, func(incident.Event) {})
		e.FinishBaseline()
		if from == "the table" {
			e.Relate(published.Build())
		}
		if l := e.known.Relationships.Link(1, 2); l.Relation != topology.Peer || l.Basis != topology.Declared {
			t.Errorf("over %s: %+v", from, l)
		}
	}
}

func TestPublishedRelationshipsAreNotReplaced(t *testing.T) {
	b := topology.NewBuilder(topology.Published, "file")
	b.Set(1, 2, topology.Provider)
	e := New(DefaultConfiguration(), Knowledge{Relationships: b.Build()}, func(incident.Event) {})
	e.FinishBaseline()
	if e.Infers() {
		t.Error("relationships were given, and are to be inferred")
	}
	e.Relate(topology.NewBuilder(topology.Inferred, "").Build())
	if e.known.Relationships.Of(1, 2) != topology.Provider {
		t.Error("inferred relationships replaced the published ones")
	}
}
