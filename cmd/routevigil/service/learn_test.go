package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/routevigil/routevigil/alert"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bus"
)

// newLearningPipeline recovers from s without a table dump, as a service does whose state and file of history may be gone.
func newLearningPipeline(t *testing.T, s *fullForEvents, folder string, baseline func(*detect.Engine)) *pipeline {
	t.Helper()
	c := detect.DefaultConfiguration()
	p := &pipeline{bus: bus.New(bus.DefaultConfiguration(), nil), store: s, router: alert.NewRouter(nil), log: testLog(t),
		metrics: newPipelineMetrics(prometheus.NewRegistry()), every: time.Hour, questions: make(chan func(*detect.Engine)),
		history: historyFile{path: filepath.Join(folder, HistoryName), every: time.Hour}, inferrer: newInferrer(time.Hour, testLog(t)),
		learner: newLearner(filepath.Join(folder, learnName), s, c, func() detect.Knowledge { return detect.Knowledge{} }, testLog(t), prometheus.NewRegistry())}
	p.learner.rows = 64 // so that there are many windows
	p.newEngine = func() *detect.Engine { return detect.New(c, detect.Knowledge{}, p.collect) }
	p.engine = p.newEngine()
	if err := p.recover(t.Context(), func() error { baseline(p.engine); return nil }); err != nil {
		t.Fatal(err)
	}
	return p
}

// originOf is what the history knows of asn as an origin of victim(i)'s prefix.
func originOf(t *testing.T, e *detect.Engine, i int, asn uint32) (origins.Facts, bool) {
	t.Helper()
	v := victim(i)
	for _, o := range e.Explain(v.prefix, bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{5001, 1101, v.asn}}}).History.Origins {
		if o.ASN == asn && o.Prefix == v.prefix {
			return o.Facts, true
		}
	}
	return origins.Facts{}, false
}

func said(t *testing.T, p *pipeline, at time.Time, updates ...ingest.Update) {
	t.Helper()
	for i := range updates {
		updates[i].Time = ingest.TimeOf(at)
	}
	if err := p.process(t.Context(), &ingest.Batch{Updates: updates, Watermark: ingest.TimeOf(at)}); err != nil {
		t.Fatal(err)
	}
}

func everybody(i int, asn uint32) (us []ingest.Update) {
	for k := range sessions {
		us = append(us, route(k, victim(i).prefix, asn))
	}
	return us
}

// TestLearnFromStore stores twelve days of updates: eight networks, one of which is hijacked for a day by somebody who was
// suspected then. State and file of history are lost while that goes on again, so that the new baseline takes
// the hijacker as normal. After learning from the store the victim is known as it was, and the hijacker is judged.
func TestLearnFromStore(t *testing.T) {
	s, folder := openStore(t), t.TempDir()
	const day = 24 * time.Hour
	begin := time.Now().Add(-13 * day).Truncate(time.Second).UTC()
	old := newLearningPipeline(t, s, folder, func(e *detect.Engine) {
		for i := range 10 {
			for _, u := range everybody(i, victim(i).asn) {
				u.Kind, u.Time = ingest.RIB, ingest.TimeOf(begin)
				e.Apply(&u)
			}
		}
		e.FinishBaseline()
	})
	for i := range 8 {
		said(t, old, begin.Add(time.Duration(i)*time.Second), everybody(i, victim(i).asn)...)
	}
	hours := func(from, to time.Duration) {
		for d := from; d < to; d += time.Hour {
			said(t, old, begin.Add(d), route(0, victim(7).prefix, victim(7).asn))
		}
	}
	hours(time.Hour, 5*day)
	said(t, old, begin.Add(5*day), hijack(3, 0, sessions)...)
	hours(5*day+time.Hour, 6*day)
	said(t, old, begin.Add(6*day), everybody(3, victim(3).asn)...)
	hours(6*day+time.Hour, 12*day)
	if got := told(stored(t, s)); !slices.Contains(got, "3 opened") || !slices.Contains(got, "3 ended") {
		t.Fatalf("of the hijack was told: %v", got)
	}
	want, _ := originOf(t, old.engine, 3, victim(3).asn)
	if f, ok := originOf(t, old.engine, 3, attacker(3).asn); !ok || f.Usual || !want.Usual {
		t.Fatalf("then was known %+v, of the hijacker %+v", want, f)
	}

	// All that was learned is lost.
	if err := s.SaveCheckpoint(t.Context(), old.position, []byte("of another version")); err != nil {
		t.Fatal(err)
	}
	hijacked := func(e *detect.Engine) {
		for i := range 10 {
			asn := victim(i).asn
			if i == 3 {
				asn = attacker(i).asn
			}
			for _, u := range everybody(i, asn) {
				u.Kind, u.Time = ingest.RIB, ingest.TimeOf(begin.Add(12*day+time.Hour))
				e.Apply(&u)
			}
		}
		e.FinishBaseline()
	}
	p := newLearningPipeline(t, s, folder, hijacked)
	if f, ok := originOf(t, p.engine, 3, attacker(3).asn); !ok || !f.Usual {
		t.Fatalf("without history the hijacker is not normal: %+v", f)
	}
	if _, ok := originOf(t, p.engine, 3, victim(3).asn); ok {
		t.Fatal("the victim is known though everything was lost")
	}

	// Stopped while it learns, and started with the state that was saved then, it learns again.
	stopped, stop := context.WithCancel(t.Context())
	stop()
	p.learner.begin(stopped)
	p.learner.wait()
	if err := p.checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	p = newLearningPipeline(t, s, folder, func(*detect.Engine) { t.Error("the state that was saved is not used") })
	p.learner.begin(t.Context())
	p.learner.wait()
	if p.learner.sentence() != "" {
		t.Errorf("it is done and says %q", p.learner.sentence())
	}
	if err := p.checkpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows := testutil.ToFloat64(p.learner.metrics.rows)
	if st, err := s.Stats(t.Context()); err != nil || rows != float64(st.Updates) {
		t.Errorf("it learned from %v rows of %+v, %v", rows, st, err)
	}

	got, ok := originOf(t, p.engine, 3, victim(3).asn)
	if !ok || !got.Usual || got.FirstSeen.Sub(begin) != 3*time.Second || got.TimeShare < want.TimeShare-0.02 || got.TimeShare > want.TimeShare+0.02 {
		t.Errorf("of the victim is known %+v, before it was %+v", got, want)
	}
	if other, ok := originOf(t, p.engine, 5, victim(5).asn); !ok || !other.Usual || other.FirstSeen.Sub(begin) != 5*time.Second || other.TimeShare < 0.98 {
		t.Errorf("of another is known %+v", other)
	}
	hijacker, ok := originOf(t, p.engine, 3, attacker(3).asn)
	if !ok || hijacker.Usual || hijacker.FirstSeen.Sub(begin) != 5*day {
		t.Errorf("of the hijacker is known %+v", hijacker)
	}
	known := len(stored(t, s))
	if err := p.process(t.Context(), &ingest.Batch{Watermark: ingest.TimeOf(begin.Add(12*day + 2*time.Hour))}); err != nil {
		t.Fatal(err)
	}
	if got := told(stored(t, s)[known:]); !slices.Equal(got, []string{"3 opened"}) {
		t.Errorf("of the hijack that goes on is told: %v", got)
	}

	// It is learned once.
	if _, err := os.Stat(filepath.Join(folder, learnName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is to be learned is still noted: %v", err)
	}
	p = newLearningPipeline(t, s, folder, hijacked)
	if again, _ := originOf(t, p.engine, 3, victim(3).asn); p.learner.todo != nil || fmt.Sprint(again.FirstSeen, again.Usual) != fmt.Sprint(got.FirstSeen, got.Usual) {
		t.Errorf("after another start is known %+v", again)
	}
}
