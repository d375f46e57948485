package service

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/alert"
	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bus"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/embedded"
)

// fullForEvents is a store with room for updates and states, and for events only while told so.
type fullForEvents struct {
	store.Store
	full    atomic.Bool
	refused atomic.Int32
}

func (s *fullForEvents) CommitEvents(ctx context.Context, events []incident.Event, deliveries []store.Delivery) error {
	if s.full.Load() {
		s.refused.Add(1)
		return fmt.Errorf("events: %w", store.ErrUnavailable)
	}
	return s.Store.CommitEvents(ctx, events, deliveries)
}

func openStore(t *testing.T) *fullForEvents {
	c := embedded.DefaultConfiguration()
	c.Directory = filepath.Join(t.TempDir(), "store")
	s, err := embedded.Open(c, testLog(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &fullForEvents{Store: s}
}

// newPipeline is a pipeline that has recovered from s, on the small Internet.
func newPipeline(t *testing.T, s store.Store, k detect.Knowledge) *pipeline {
	t.Helper()
	return newPipelineWithHistory(t, s, k, "")
}

// newPipelineWithHistory keeps the history of prefixes in a file.
func newPipelineWithHistory(t *testing.T, s store.Store, k detect.Knowledge, file string) *pipeline {
	t.Helper()
	p := &pipeline{bus: bus.New(bus.DefaultConfiguration(), nil), store: s, router: alert.NewRouter(nil), log: testLog(t),
		metrics: newPipelineMetrics(prometheus.NewRegistry()), every: time.Hour, questions: make(chan func(*detect.Engine)), history: historyFile{path: file, every: time.Hour},
		inferrer: newInferrer(time.Hour, testLog(t))}
	p.newEngine = func() *detect.Engine { return detect.New(detect.DefaultConfiguration(), k, p.collect) }
	p.engine = p.newEngine()
	baseline := func() error {
		for i := range 10 {
			for k := range sessions {
				for _, n := range [...]network{victim(i), attacker(i)} {
					u := route(k, n.prefix, n.asn)
					u.Kind = ingest.RIB
					p.engine.Apply(&u)
				}
			}
		}
		p.engine.FinishBaseline()
		return nil
	}
	if err := p.recover(t.Context(), baseline); err != nil {
		t.Fatal(err)
	}
	return p
}

// take has p process these updates as if they came a second after all before.
func take(t *testing.T, p *pipeline, updates ...ingest.Update) {
	t.Helper()
	at := max(p.engine.Clock(), updates[0].Time).Add(time.Second)
	for i := range updates {
		updates[i].Time = at
	}
	for _, b := range []ingest.Batch{{Updates: updates, Watermark: at}, {Watermark: at.Add(time.Second)}} {
		if err := p.process(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
	}
}

func stored(t *testing.T, s store.Store) []incident.Event {
	t.Helper()
	events, err := s.Events(t.Context(), "", 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

// told lists victims and what was stored about them, in order of sequence.
func told(events []incident.Event) (list []string) {
	for _, e := range events {
		list = append(list, fmt.Sprint(e.Incident.Victims[0]-victim(0).asn, " ", e.Change))
	}
	return list
}

// An event that the store has refused is not lost by stopping.
func TestStopWithEventsRefused(t *testing.T) {
	s := openStore(t)
	p := newPipeline(t, s, detect.Knowledge{})
	s.full.Store(true)
	stopping, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- p.run(t.Context(), stopping) }()
	for _, u := range hijack(1, 0, sessions) {
		if err := p.bus.Publish(&u); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() string {
		if s.refused.Load() == 0 {
			return "nothing was refused"
		}
		return ""
	})
	close(stopping)
	p.bus.Close()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "storage unavailable") {
		t.Errorf("it ends with %v, want the store's error", err)
	}
	s.full.Store(false)
	newPipeline(t, s, detect.Knowledge{})
	if got, want := told(stored(t, s)), []string{"1 opened"}; !slices.Equal(got, want) {
		t.Errorf("stored are %v, want %v", got, want)
	}
}

// After a crash what was found is found again and is not stored twice, and sequences go on. With
// other knowledge than before, what is found only now gets sequences of its own.
func TestRecover(t *testing.T) {
	allow := func(i int) detect.Knowledge {
		p := victim(i).prefix
		return detect.Knowledge{VRPs: rpki.NewSet(rpki.Data{VRPs: []rpki.VRP{{Prefix: p, MaxLength: 22, ASN: victim(i).asn}, {Prefix: p, MaxLength: 22, ASN: attacker(i).asn}}}, "test")}
	}
	for name, tt := range map[string]struct {
		before, after detect.Knowledge
		recovered     []string
	}{
		"same knowledge":         {detect.Knowledge{}, detect.Knowledge{}, []string{"1 opened", "2 opened"}},
		"less is allowed":        {allow(1), detect.Knowledge{}, []string{"2 opened", "1 opened"}},
		"more is allowed":        {detect.Knowledge{}, allow(1), []string{"1 opened", "2 opened"}},
		"something else allowed": {allow(1), allow(2), []string{"2 opened", "1 opened"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			p := newPipeline(t, s, tt.before)
			take(t, p, hijack(1, 0, sessions)...)
			take(t, p, hijack(2, 0, sessions)...)
			before := stored(t, s)

			for range 2 { // the second time there is nothing to find
				p = newPipeline(t, s, tt.after)
				if got := told(stored(t, s)); !slices.Equal(got, tt.recovered) {
					t.Fatalf("after recovery stored are %v, want %v", got, tt.recovered)
				}
			}
			take(t, p, hijack(3, 0, sessions)...)
			after := stored(t, s)
			if got := told(after); !slices.Equal(got, append(slices.Clone(tt.recovered), "3 opened")) {
				t.Errorf("stored are %v", got)
			}
			for i, e := range after {
				if i > 0 && e.Sequence <= after[i-1].Sequence || e.Incident.Sequence != e.Sequence {
					t.Errorf("event %d has the sequence %d, its incident %d", i+1, e.Sequence, e.Incident.Sequence)
				}
				if i < len(before) && (e.Incident.ID != before[i].Incident.ID || !e.Time.Equal(before[i].Time)) {
					t.Errorf("event %d has become another", e.Sequence)
				}
			}
		})
	}
}

// A state that another version saved stops nobody: what is normal is learned anew, and an incident
// that was open ends when its routes are not heard of again.
func TestRecoverFromUnusableState(t *testing.T) {
	s := openStore(t)
	p := newPipeline(t, s, detect.Knowledge{})
	take(t, p, hijack(1, 0, sessions)...)
	if err := s.SaveCheckpoint(t.Context(), p.position, []byte("what a later version would save")); err != nil {
		t.Fatal(err)
	}
	p = newPipeline(t, s, detect.Knowledge{})
	take(t, p, hijack(2, 0, sessions)...)
	hold := ingest.Batch{Watermark: p.engine.Clock().Add(2 * detect.DefaultConfiguration().Hold)}
	if err := p.process(t.Context(), &hold); err != nil {
		t.Fatal(err)
	}
	if got, want := told(stored(t, s)), []string{"1 opened", "2 opened", "1 ended"}; !slices.Equal(got, want) {
		t.Errorf("stored are %v, want %v", got, want)
	}
	position, state, err := s.Checkpoint(t.Context())
	if err != nil || position == 0 || detect.New(detect.DefaultConfiguration(), detect.Knowledge{}, nil).Restore(state) != nil {
		t.Errorf("the state saved after recovery is at %d, %v", position, err)
	}
}

// refusesCheckpoints has no room for a checkpoint.
type refusesCheckpoints struct{ store.Store }

func (refusesCheckpoints) SaveCheckpoint(context.Context, uint64, []byte) error {
	return fmt.Errorf("checkpoint: %w", store.ErrUnavailable)
}

// A checkpoint that the storage had no room for is due again soon, not after as long as after one that was saved.
func TestCheckpointRefused(t *testing.T) {
	s := openStore(t)
	p := newPipeline(t, s, detect.Knowledge{})
	if err := p.checkpoint(t.Context()); err != nil || time.Since(p.saved) > p.every/2 {
		t.Fatalf("error %v; the next is due %s after", err, time.Until(p.saved.Add(p.every)))
	}
	p.store = refusesCheckpoints{s}
	if err := p.checkpoint(t.Context()); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("error %v, want the store's", err)
	}
	if wait := time.Until(p.saved.Add(p.every)); wait > time.Minute || wait < -time.Minute {
		t.Errorf("it is tried again in %s", wait)
	}
}

// compareEvents compares changes of incidents as JSON.
func compareEvents(t *testing.T, name string, got, want []incident.Event) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%s has %d changes of incidents, undisturbed there are %d", name, len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		g, err := json.Marshal(&got[i])
		if err != nil {
			t.Fatal(err)
		}
		w, err := json.Marshal(&want[i])
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(g, w) {
			t.Errorf("change %d in %s is\n%s\nand undisturbed\n%s", i, name, g, w)
			return
		}
	}
}

// engineOf is a pipeline without bus and store that has read the baseline.
func engineOf(t *testing.T, c config.Config) *pipeline {
	t.Helper()
	keeper, err := newKeeper(c, "test", testLog(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer keeper.close()
	p := &pipeline{log: testLog(t)}
	p.engine = detect.New(c.Detect, keeper.knowledge(), p.collect)
	if err := loadBaseline(c.Ingest.Baseline, p.engine, p.log); err != nil {
		t.Fatal(err)
	}
	return p
}

// judge gives batches to an engine with the baseline, and returns what that finds.
func judge(t *testing.T, c config.Config, list []*ingest.Batch) []incident.Event {
	t.Helper()
	p := engineOf(t, c)
	for _, b := range list {
		p.judge(b)
	}
	return p.events
}

// Of batches in a row that only move event time the last is recorded, and a recovery must find from that one what was found from
// all: else it takes a change for another one, and tells it again.
func TestTicksTogether(t *testing.T) {
	c := configuration(t, "ws://127.0.0.1:1")
	c.Knowledge.Relationships = writeRelationships(t)
	p := engineOf(t, c)
	s, err := embedded.Open(c.Store.Embedded(), testLog(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p.store, p.router, p.metrics = s, alert.NewRouter(nil), newPipelineMetrics(prometheus.NewRegistry())
	const seed = 5
	random := rand.New(rand.NewPCG(seed, 0))
	clock := ingest.TimeOf(time.Now())
	process := func(b *ingest.Batch) {
		t.Helper()
		if err := p.process(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	ticks := 0
	say := func(updates ...ingest.Update) {
		for i := range updates {
			clock += ingest.Time(random.IntN(2000))
			updates[i].Time = clock
		}
		process(&ingest.Batch{Updates: updates, Watermark: clock})
		for range random.IntN(40) {
			clock += ingest.Time(random.IntN(60_000))
			process(&ingest.Batch{Watermark: clock})
			ticks++
		}
	}
	for i := range 30 {
		say(hijack(i, 0, 6)...)
		say(hijack(i, 6, sessions)...)
		say(heal(i)...)
	}
	var recorded []*ingest.Batch
	for b, err := range s.BatchesSince(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		recorded = append(recorded, b)
	}
	got, err := s.Events(t.Context(), "", 0, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) < 60 || len(recorded) > ticks/2 {
		t.Errorf("%d changes, %d batches of %d ticks: the test tests less than it should", len(got), len(recorded), ticks)
	}
	compareEvents(t, "the store", got, judge(t, c, recorded))
}
