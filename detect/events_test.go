package detect

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest/archive"
)

// events is where real incidents lie as MRT, with labels by people who looked into them.
const events = "../../shared/data/incidents"

// label is what is known of one real event.
type label struct {
	ID        string        `json:"id"`
	Kind      incident.Kind `json:"kind"`
	First     int64         `json:"first_offending_update_unix"`
	Offenders []uint32      `json:"offender_asns"`
	Victims   []uint32      `json:"victim_asns"`
	Prefix    string        `json:"offending_prefix"`
}

func labels(t *testing.T) []label {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(events, "labels.json"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the labelled events are not here")
	}
	if err != nil {
		t.Fatal(err)
	}
	var ls []label
	if err := json.Unmarshal(data, &ls); err != nil {
		t.Fatal(err)
	}
	return ls
}

// replayEvent runs the engine over one real event and returns its incidents and their events.
func replayEvent(t *testing.T, id string, shards int) ([]incident.Incident, []incident.Event) {
	t.Helper()
	var evs []incident.Event
	c := DefaultConfiguration()
	c.Shards = shards
	e := New(c, Knowledge{}, func(ev incident.Event) { evs = append(evs, ev) })
	open := func(part string) *archive.Reader {
		r, err := archive.Open([]string{filepath.Join(events, id+part)}, archive.Options{
			Collector: "events", Report: func(err error) { t.Error(err) }})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(r.Close)
		return r
	}
	if err := e.LoadBaseline(open(".rib.mrt.gz").Next); err != nil {
		t.Fatal(err)
	}
	updates := open(".updates.mrt.gz")
	for {
		u, err := updates.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		e.Apply(u)
	}
	e.Finish()
	return e.Incidents(), evs
}

// TestRealHijacksAreFound asks of every real event that people call a hijack of a prefix or of a
// part of one: it must be found as such, with its offender, within a minute of the first offending
// update that its label names.
func TestRealHijacksAreFound(t *testing.T) {
	tested := 0
	for _, l := range labels(t) {
		if l.Kind != incident.OriginHijack && l.Kind != incident.SubprefixHijack || l.ID == "bitcanal_5" { // whose rows look like those of bitcanal_3 and 4, which were forged
			continue
		}
		tested++
		t.Run(l.ID, func(t *testing.T) {
			incidents, _ := replayEvent(t, l.ID, 1)
			i := slices.IndexFunc(incidents, func(inc incident.Incident) bool {
				return inc.Kind == l.Kind && slices.Contains(l.Offenders, inc.Offenders[0]) && inc.Prefixes[0].Prefix.String() == l.Prefix
			})
			if i < 0 {
				t.Fatalf("not found among %d incidents", len(incidents))
			}
			if delay := incidents[i].DetectedAt.Unix() - l.First; delay < 0 || delay > 60 {
				t.Errorf("found %d s after the first offending update", delay)
			}
		})
	}
	if tested == 0 {
		t.Error("no event is labelled as a hijack")
	}
}

// TestPakistan looks at one event closely, by what RIPE NCC's case study says of it.
func TestPakistan(t *testing.T) {
	labels(t)
	incidents, evs := replayEvent(t, "pakistan_1", 1)
	if len(incidents) != 1 {
		t.Fatalf("%d incidents, want one", len(incidents))
	}
	inc := incidents[0]
	p := inc.Prefixes[0]
	if inc.Kind != incident.SubprefixHijack || !slices.Equal(inc.Offenders, []uint32{17557}) || !slices.Equal(inc.Victims, []uint32{36561}) ||
		!slices.Equal(inc.Accomplices, []uint32{3491}) || p.Prefix.String() != "208.65.153.0/24" || p.Covering.String() != "208.65.152.0/22" {
		t.Errorf("%s by %v against %v over %v: %s in %s", inc.Kind, inc.Offenders, inc.Victims, inc.Accomplices, p.Prefix, p.Covering)
	}
	if inc.Visibility.PeerASNs < 50 || len(inc.Paths) == 0 || len(inc.UsualPaths) == 0 || len(inc.Evidence) < 3 {
		t.Errorf("seen by %d networks, %d paths, %d usual paths, %d lines of evidence", inc.Visibility.PeerASNs, len(inc.Paths), len(inc.UsualPaths), len(inc.Evidence))
	}
	for _, shards := range []int{2, 8} {
		if _, again := replayEvent(t, "pakistan_1", shards); !cmp.Equal(evs, again, cmpTime, cmpPrefix) {
			t.Errorf("%d shards give other events than one", shards)
		}
	}
}

// TestMistakesAreNotAttacks asks of every real event that was a mistyped prepend: it must not be
// called an attack, and it must be found.
func TestMistakesAreNotAttacks(t *testing.T) {
	for _, l := range labels(t) {
		if l.Kind != incident.Prepend {
			continue
		}
		t.Run(l.ID, func(t *testing.T) {
			incidents, _ := replayEvent(t, l.ID, 1)
			found := false
			for _, inc := range incidents {
				found = found || inc.Kind == incident.Prepend
				if inc.Severity.Rank() > incident.Medium.Rank() {
					t.Errorf("%s, %s: %s", inc.Kind, inc.Severity, inc.Title)
				}
			}
			if !found {
				t.Errorf("not found among %d incidents", len(incidents))
			}
		})
	}
}
