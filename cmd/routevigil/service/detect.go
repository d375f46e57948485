package service

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
)

// Detector is the role detect. One that runs is in charge: it says in which order updates count (package
// kafkabus), judges them and writes what changed of incidents to Kafka. All others follow: they judge the
// same updates in the same order and keep what comes of it to themselves, so that one of them can go on at
// once. Incidents stay open meanwhile; nobody ends them but a detector.
//
// Before the one in charge takes another step everything that came of the last is in Kafka. So whoever takes
// over has to tell of the last step at most, and looks which of its changes are there already.
//
// What detectors judge by beside the updates is not in Kafka: reference data, and relationships, which each
// infers for itself where none are given. So what two of them find may differ a little; who takes over
// makes what is told and what it knows agree.
type Detector struct {
	pipeline   *pipeline // without bus and store
	config     config.Config
	log        *slog.Logger
	cluster    *kafkabus.Cluster
	registry   *prometheus.Registry
	keeper     *keeper
	vrps       *liveVRPs
	operations *operations

	leading atomic.Bool
	current atomic.Pointer[kafkabus.Log] // nil while the state is restored
}

// NewDetector reads the knowledge files and reaches the cluster; c must be valid.
func NewDetector(ctx context.Context, c config.Config, version string, log *slog.Logger) (_ *Detector, err error) {
	x := &Detector{config: c, log: log, registry: newRegistry()}
	if x.cluster, err = reach(ctx, c, log); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Store.Directory, 0o755); err != nil {
		return nil, err
	}
	if x.vrps, err = newLiveVRPs(c.Knowledge, log.With("component", "rtr"), x.registry); err != nil {
		return nil, err
	}
	x.keeper, err = newKeeper(c, "routevigil/"+version, log.With("component", "knowledge"), x.registry)
	if err != nil {
		x.keeper.close()
		return nil, err
	}
	if x.vrps != nil {
		x.vrps.heldBack = x.keeper.heldBack
	}
	x.registry.MustRegister(newSourceCollector(x.keeper.statuses),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "routevigil_detect_in_charge", Help: "1 where this detector is the one in charge, else 0."},
			func() float64 {
				if x.leading.Load() {
					return 1
				}
				return 0
			}))
	p := &pipeline{log: log.With("component", "detect"), metrics: newPipelineMetrics(x.registry), every: c.Kafka.Checkpoint,
		history:   historyFile{path: filepath.Join(c.Store.Directory, HistoryName), every: historyEvery},
		questions: make(chan func(*detect.Engine)), inferrer: newInferrer(inferEvery, log.With("component", "detect")), past: x.keeper.past}
	p.newEngine = func() *detect.Engine { return detect.New(c.Detect, x.keeper.knowledge(), p.collect) }
	p.engine = p.newEngine()
	p.publishStatus(true)
	x.pipeline = p
	x.registry.MustRegister(newEngineCollector(p.Status))
	if x.operations, err = newOperations(c.API, x.registry, x.health); err != nil {
		x.keeper.close()
		return nil, err
	}
	return x, nil
}

// Addr is where /readyz and /metrics are served.
func (x *Detector) Addr() net.Addr { return x.operations.listener.Addr() }

// Leading reports whether this detector is in charge.
func (x *Detector) Leading() bool { return x.leading.Load() }

func (x *Detector) health() api.Health {
	h := api.Health{}
	switch l := x.current.Load(); {
	case l == nil:
		h.Reasons = append(h.Reasons, "The detector's state is being restored.")
	case !l.CaughtUp():
		h.Reasons = append(h.Reasons, "The detector is being brought up to date from Kafka.")
	default:
		h.Ready = true
	}
	return h
}

// Run detects until ctx ends.
func (x *Detector) Run(ctx context.Context) error {
	defer x.cluster.Close()
	defer x.keeper.close()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	background := newGroup(fail)
	background.run("HTTP server", func() error { return x.operations.run(ctx) })
	if x.vrps != nil {
		background.run("RTR client", func() error { return x.vrps.run(ctx) })
		if set := x.vrps.first(ctx); set != nil {
			x.keeper.useRTR(set)
			x.pipeline.engine.Replace(x.keeper.knowledge())
		}
		background.run("VRPs", func() error { return x.vrps.follow(ctx, x.keeper.useRTR) })
	}
	background.run("knowledge", func() error { return x.keeper.run(ctx, x.pipeline.questions) })
	err := x.detect(ctx)
	if ctx.Err() != nil {
		err = nil
	}
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	fail(nil)
	background.wait()
	x.pipeline.inferrer.work.Wait()
	x.pipeline.waitKept()
	return err
}

// detect restores the state and goes on from there, again where the cluster no longer has what follows it.
func (x *Detector) detect(ctx context.Context) error {
	for useState := true; ; useState = false {
		since, after, err := x.restore(ctx, useState)
		if err != nil {
			return err
		}
		registry := prometheus.Registerer(x.registry)
		if !useState {
			registry = nil // registered already
		}
		l, err := x.cluster.Follow(kafkabus.LogOptions{Candidate: true, Since: since, After: after, Metrics: registry})
		if err != nil {
			return err
		}
		x.current.Store(l)
		err = x.follow(ctx, l)
		x.current.Store(nil)
		x.leading.Store(false)
		l.Close()
		if !useState || !errors.Is(err, kafkabus.ErrLost) {
			return err
		}
		x.log.Error("the detector cannot go on from its state and learns anew what is normal", "error", err)
	}
}

// restore brings the engine to the last state in the cluster, or to the baseline. It returns where to go on.
func (x *Detector) restore(ctx context.Context, useState bool) (*kafkabus.Position, uint64, error) {
	start := time.Now()
	p := x.pipeline
	baseline := func() error { return loadBaseline(x.config.Ingest.Baseline, p.engine, p.log) }
	p.engine = p.newEngine()
	state, err := []byte(nil), kafkabus.ErrNoState
	if useState {
		state, err = x.cluster.LoadState(ctx)
	}
	switch {
	case errors.Is(err, kafkabus.ErrNoState):
		return nil, 0, p.learnAnew(baseline)
	case err != nil:
		return nil, 0, err
	}
	since, after, engine, err := decodeState(state)
	if err == nil {
		err = p.engine.Restore(engine)
	}
	if err != nil {
		x.log.Warn("the saved state cannot be used, as after a change of version; the detector learns anew what is normal", "error", err)
		p.engine = p.newEngine()
		return nil, 0, p.learnAnew(baseline)
	}
	st := p.engine.Stats()
	x.log.Info("the detector's state was restored", "step", after, "prefixes", st.Prefixes, "routes", st.Routes, "took", time.Since(start).Round(time.Millisecond))
	return since, after, nil
}

// follow takes steps until ctx ends.
func (x *Detector) follow(ctx context.Context, l *kafkabus.Log) error {
	p := x.pipeline
	p.saved, p.history.saved = time.Now(), time.Now()
	inferring, stop := context.WithCancel(ctx)
	defer stop()
	clear(p.events)
	p.events = p.events[:0]
	last := uint64(0)
	for {
		s, err := l.Next(ctx)
		if err != nil {
			if ctx.Err() != nil && x.leading.Load() { // the next one has less to go through
				final, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
				defer cancel()
				err = x.saveState(final, l, last)
				p.saveHistory()
			}
			return err
		}
		start := time.Now()
		switch {
		case !s.Leading:
			clear(p.events) // what came of the steps before is told by whoever is in charge
			p.events = p.events[:0]
		case !x.leading.Load():
			for err := x.takeCharge(ctx); err != nil; err = x.takeCharge(ctx) {
				x.log.Warn("what is told of incidents already cannot be read; it is tried again", "error", err)
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(time.Second):
				}
			}
		}
		x.leading.Store(s.Leading)
		p.judge(s.Current())
		last = s.Number
		if s.Leading {
			if err := x.tell(ctx); err != nil {
				return err
			}
		}
		if len(s.Updates) > 0 {
			p.metrics.batches.Inc()
			p.metrics.updates.Add(float64(len(s.Updates)))
			p.metrics.latency.Observe(time.Since(start).Seconds())
		}
		p.answer()
		p.inferrer.begin(inferring, p.engine)
		p.publishStatus(false)
		if time.Since(p.saved) >= p.every {
			p.saved = time.Now()
			p.inferrer.bringIn(p.engine)
			if s.Leading {
				if err := x.saveState(ctx, l, last); err != nil {
					p.log.Error("saving the detector's state failed; it is tried again", "error", err)
				}
			}
			if time.Since(p.history.saved) >= p.history.every {
				p.saveHistory()
			}
		}
	}
}

// tell writes the changes that are waiting to Kafka.
func (x *Detector) tell(ctx context.Context) error {
	p := x.pipeline
	if len(p.events) == 0 {
		return nil
	}
	var records []kafkabus.Record
	for i := range p.events {
		b, err := json.Marshal(&p.events[i])
		if err != nil {
			return fmt.Errorf("incident %s: %w", p.events[i].Incident.ID, err)
		}
		records = append(records, kafkabus.Record{Key: []byte(p.events[i].Incident.ID), Value: b})
	}
	for len(records) > 0 { // few enough at once for the largest message that the topic takes
		n := min(len(records), 8)
		if _, err := x.cluster.Insist(ctx, kafkabus.IncidentsTopic, 0, records[:n]...); err != nil {
			return fmt.Errorf("telling of incidents: %w", err)
		}
		records = records[n:]
	}
	for _, ev := range p.events {
		p.metrics.events.WithLabelValues(string(ev.Incident.Kind), string(ev.Change)).Inc()
		p.log.Info(ev.Incident.Title, "change", ev.Change, "kind", ev.Incident.Kind, "severity", ev.Incident.Severity,
			"incident", ev.Incident.ID, "event_time", ev.Time)
	}
	clear(p.events)
	p.events = p.events[:0]
	return nil
}

// toldOf is what the topic of incidents says of one of them.
type toldOf struct {
	last    incident.Incident
	changes map[string]bool
}

// takeCharge tells what the last step gave and is not told yet, and makes the engine and the topic agree on
// which incidents are open.
func (x *Detector) takeCharge(ctx context.Context) error {
	p := x.pipeline
	change := func(ev *incident.Event) string { return fmt.Sprint(ev.Change, ev.Time.UnixMicro()) }
	first, end, err := x.cluster.Bounds(ctx, kafkabus.IncidentsTopic, 0)
	if err != nil {
		return err
	}
	known, last := map[string]*toldOf{}, uint64(0)
	err = x.cluster.Read(ctx, kafkabus.IncidentsTopic, 0, first, end, func(r kafkabus.Record) error {
		var ev incident.Event
		if err := json.Unmarshal(r.Value, &ev); err != nil {
			x.log.Error("a change of an incident is not understood and passed over", "offset", r.Offset, "error", err)
			return nil
		}
		last = max(last, ev.Sequence)
		t := known[ev.Incident.ID]
		if t == nil {
			t = &toldOf{changes: map[string]bool{}}
			known[ev.Incident.ID] = t
		}
		if t.changes[change(&ev)] = true; ev.Sequence >= t.last.Sequence {
			t.last = ev.Incident
		}
		return nil
	})
	if err != nil {
		return err
	}
	add := func(events []incident.Event, ev incident.Event) []incident.Event {
		if ev.Sequence <= last {
			ev.Sequence = last + 1
			ev.Incident.Sequence = ev.Sequence
		}
		last = ev.Sequence
		return append(events, ev)
	}
	var events []incident.Event
	telling := map[string]bool{}
	for _, ev := range p.events {
		if t := known[ev.Incident.ID]; t != nil && t.changes[change(&ev)] {
			continue
		}
		telling[ev.Incident.ID] = true
		events = add(events, ev)
	}
	ours := map[string]bool{}
	for _, inc := range p.engine.Incidents() {
		ours[inc.ID] = true
		if t := known[inc.ID]; inc.Status == incident.Open && t == nil && !telling[inc.ID] {
			// Found while another was in charge, who did not find it: another version, or other knowledge.
			events = add(events, incident.Event{Time: inc.UpdatedAt, Change: incident.Opened, Incident: inc})
		}
	}
	for id, t := range known {
		if t.last.Status == incident.Open && !ours[id] {
			x.log.Warn("an open incident is not in the detector's state; it ends unless it is seen again", "incident", id)
			p.engine.Adopt(t.last)
		}
	}
	p.events = events
	p.engine.SkipSequence(last)
	return x.tell(ctx)
}

// stateHeader says where a state of the engine is to be gone on from.
type stateHeader struct {
	Since kafkabus.Position `json:"since"`
	After uint64            `json:"after"` // the last step that is in it
}

func (x *Detector) saveState(ctx context.Context, l *kafkabus.Log, after uint64) error {
	state, err := x.pipeline.engine.Snapshot()
	if err != nil {
		return err
	}
	x.pipeline.keepState(state)
	header, err := json.Marshal(stateHeader{l.Position(), after})
	if err != nil {
		return err
	}
	b := append(binary.AppendUvarint(nil, uint64(len(header))), header...)
	if err := x.cluster.SaveState(ctx, append(b, state...)); err != nil {
		return fmt.Errorf("saving the detector's state: %w", err)
	}
	x.pipeline.metrics.checkpoints.Inc()
	return nil
}

func decodeState(b []byte) (*kafkabus.Position, uint64, []byte, error) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size > uint64(len(b)-n) {
		return nil, 0, nil, errors.New("detector state: damaged: its header is cut")
	}
	var h stateHeader
	if err := json.Unmarshal(b[n:n+int(size)], &h); err != nil {
		return nil, 0, nil, fmt.Errorf("detector state: damaged: %w", err)
	}
	return &h.Since, h.After, b[n+int(size):], nil
}
