package detect

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/routevigil/routevigil/detect/incident"
)

// The ledger that is stored with an incident proves it by itself: kind and confidence come out of it again, also when it
// has been written and read.
func TestLedgersRecompute(t *testing.T) {
	kinds := map[incident.Kind]int{}
	check := func(name string, evs []incident.Event) {
		for _, ev := range evs {
			stored, err := json.Marshal(ev.Incident.Evidence)
			if err != nil {
				t.Fatal(err)
			}
			var ledger []incident.Evidence
			if err := json.Unmarshal(stored, &ledger); err != nil {
				t.Fatal(err)
			}
			kind, confidence := incident.Recompute(ledger)
			if kind == "" { // what a watch forbids, or what no route tells
				continue
			}
			kinds[kind]++
			if kind != ev.Incident.Kind || confidence != ev.Incident.Confidence {
				t.Errorf("%s: %s with %v, and by its ledger %s with %v: %s", name, ev.Incident.Kind, ev.Incident.Confidence, kind, confidence, stored)
			}
		}
	}
	for _, sc := range allScenarios(t) {
		check(sc.Name, play(sc, scenarioConfiguration()).events)
	}
	if _, err := os.Stat(events); err == nil {
		for _, id := range []string{"typo_asn_152909", "typo_pfx_124756", "torg_1", "enzu_1"} {
			_, evs := replayEvent(t, id, 1)
			check(id, evs)
		}
	}
	for _, kind := range []incident.Kind{incident.OriginHijack, incident.SubprefixHijack, incident.ForgedPathSubprefix, incident.RouteLeak,
		incident.ReoriginationLeak, incident.InternalSpecifics, incident.BlackholeLeak, incident.Prepend, incident.RPKIInvalid, incident.Squatting} {
		if kinds[kind] == 0 {
			t.Errorf("no ledger tells of %s", kind)
		}
	}
}
