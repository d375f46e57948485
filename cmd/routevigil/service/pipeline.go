package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/alert"
	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/past"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bus"
	"github.com/routevigil/routevigil/store"
)

// pipeline takes batches from the bus, records them, detects, and commits what was found. The order
// makes a crash harmless: a batch is part of the history before detection sees it, so whatever
// detection concluded can be worked out again from the last checkpoint and the batches after it, and
// what of that is stored already is left out.
type pipeline struct {
	bus       *bus.Bus
	store     store.Store
	engine    *detect.Engine
	newEngine func() *detect.Engine // makes engine anew, with nothing learned
	router    *alert.Router
	log       *slog.Logger
	metrics   pipelineMetrics
	every     time.Duration // between checkpoints
	history   historyFile
	questions chan func(*detect.Engine)
	inferrer  *inferrer
	past      *past.Recorder // of the engine's state; may be nil
	learner   *learner       // of history from the store; nil where there is none
	check     *selfCheck     // may be nil

	keeping sync.Mutex // held while a state is being kept

	events    []incident.Event // found and not yet committed
	position  uint64           // of the last batch recorded
	unwritten ingest.Time      // how far empty batches have moved event time without being recorded
	saved     time.Time        // when the last checkpoint was made
	stopping  <-chan struct{}  // closed when the store is no longer waited for; nil while recovering

	mu     sync.Mutex
	status pipelineStatus
}

// pipelineStatus is what others may know of the pipeline.
type pipelineStatus struct {
	Clock      ingest.Time
	Learning   bool
	LearnUntil ingest.Time
	Recovering bool
	Stats      detect.Stats
}

type pipelineMetrics struct {
	batches, updates, checkpoints prometheus.Counter
	events                        *prometheus.CounterVec
	latency                       prometheus.Histogram
}

func newPipelineMetrics(r prometheus.Registerer) pipelineMetrics {
	m := pipelineMetrics{
		batches: prometheus.NewCounter(prometheus.CounterOpts{Name: "routevigil_pipeline_batches_total", Help: "Batches recorded and judged."}),
		updates: prometheus.NewCounter(prometheus.CounterOpts{Name: "routevigil_pipeline_updates_total", Help: "Updates recorded and judged."}),
		checkpoints: prometheus.NewCounter(prometheus.CounterOpts{Name: "routevigil_pipeline_checkpoints_total",
			Help: "Times the detector's state was saved."}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "routevigil_incident_events_total", Help: "Changes of incidents by kind and change."},
			[]string{"kind", "change"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "routevigil_pipeline_batch_seconds",
			Help: "Time to record, judge and commit one batch.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16)}),
	}
	r.MustRegister(m.batches, m.updates, m.checkpoints, m.events, m.latency)
	return m
}

// collect is the engine's emit.
func (p *pipeline) collect(ev incident.Event) { p.events = append(p.events, ev) }

// recover brings the engine to where the store says it was: the last checkpoint, or the baseline
// where there is none that can be used, and then every batch recorded since. It ends with a
// checkpoint, so that neither this work nor what the baseline's files said then is needed again.
func (p *pipeline) recover(ctx context.Context, baseline func() error) error {
	if err := p.learner.resume(); err != nil {
		return err
	}
	position, state, err := p.store.Checkpoint(ctx)
	saved := err == nil
	switch {
	case errors.Is(err, store.ErrNotFound):
		err = p.learnAnew(baseline)
	case err == nil:
		p.position = position
		if unusable := p.engine.Restore(state); unusable != nil {
			p.log.Warn("the saved state cannot be used, as after a change of version; the detector learns anew what is normal", "error", unusable)
			p.engine = p.newEngine()
			saved, err = false, p.learnAnew(baseline)
		}
	}
	if err != nil {
		return err
	}
	last, err := p.store.LastSequence(ctx)
	if err != nil {
		return err
	}
	for batch, err := range p.store.BatchesSince(ctx, p.position) {
		if err != nil {
			return fmt.Errorf("recorded history: %w", err)
		}
		p.judge(batch)
		p.position++
		if last, err = p.leaveOutStored(ctx, last); err != nil {
			return err
		}
		if err := p.commit(ctx); err != nil {
			return err
		}
	}
	p.engine.SkipSequence(last)
	if err := p.adoptOrphans(ctx); err != nil {
		return err
	}
	if saved && p.position == position {
		return nil
	}
	if err := p.checkpoint(ctx); err != nil {
		p.log.Error("saving the detector's state failed; it is tried again", "error", err)
	}
	return nil
}

// leaveOutStored drops the events found again that the store has, and gives the others sequences
// above last, the highest in use, which it returns. What is found again is what was found before,
// unless the program or its knowledge of the world has changed since: then what is new must not come
// under a sequence that tells of something else.
func (p *pipeline) leaveOutStored(ctx context.Context, last uint64) (uint64, error) {
	kept := p.events[:0]
	for _, ev := range p.events {
		stored, err := alreadyStored(ctx, p.store, &ev)
		if err != nil {
			return last, err
		}
		if stored {
			continue
		}
		if ev.Sequence <= last {
			ev.Sequence = last + 1
			ev.Incident.Sequence = ev.Sequence
			p.engine.SkipSequence(ev.Sequence)
		}
		last = ev.Sequence
		kept = append(kept, ev)
	}
	p.events = kept
	return last, nil
}

// alreadyStored reports whether the store has this change of this incident, under whatever sequence.
func alreadyStored(ctx context.Context, s store.Store, ev *incident.Event) (bool, error) {
	const page = 500
	for after := uint64(0); ; {
		events, err := s.Events(ctx, ev.Incident.ID, after, page)
		if err != nil {
			return false, err
		}
		for i := range events {
			if after = events[i].Sequence; events[i].Change == ev.Change && events[i].Time.Equal(ev.Time) {
				return true, nil
			}
		}
		if len(events) < page {
			return false, nil
		}
	}
}

// adoptOrphans makes sure that every open incident will end: those that the engine does not know
// are given to it.
func (p *pipeline) adoptOrphans(ctx context.Context) error {
	known := map[string]bool{}
	for _, inc := range p.engine.Incidents() {
		known[inc.ID] = true
	}
	before := uint64(0)
	for {
		page, err := p.store.Incidents(ctx, store.IncidentQuery{Status: incident.Open, Before: before})
		if err != nil || len(page) == 0 {
			return err
		}
		for _, inc := range page {
			if before = inc.Sequence; !known[inc.ID] {
				p.log.Warn("an open incident is not in the detector's state; it ends unless it is seen again", "incident", inc.ID)
				p.engine.Adopt(inc)
			}
		}
	}
}

// run processes batches until the bus is closed and empty, then saves the engine's state. What the
// store refuses for lack of room is offered again until it accepts: the bus fills meanwhile and the
// sources wait. Once stopping is closed it is not offered again: what the bus holds then was never
// acknowledged. The state is not saved after a failure, because it may contain events that are not
// stored; the next start works them out again.
func (p *pipeline) run(ctx context.Context, stopping <-chan struct{}) error {
	p.saved, p.stopping, p.history.saved = time.Now(), stopping, time.Now()
	inferring, stopInferring := context.WithCancel(ctx)
	defer p.inferrer.work.Wait()
	defer p.learner.wait()
	defer stopInferring()
	for {
		batch, err := p.bus.Next(ctx)
		if errors.Is(err, bus.ErrClosed) {
			final, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
			defer cancel()
			err := p.checkpoint(final)
			p.saveHistory()
			return err
		}
		start := time.Now()
		if err == nil && (len(batch.Updates)+len(batch.Signs) > 0 || batch.Canary.IsZero()) { // a mark alone is nothing to be recorded or judged
			err = p.process(ctx, batch)
		}
		if err != nil {
			return err
		}
		p.check.judged(batch, time.Now())
		if len(batch.Updates) > 0 {
			p.metrics.batches.Inc()
			p.metrics.updates.Add(float64(len(batch.Updates)))
			p.metrics.latency.Observe(time.Since(start).Seconds())
		}
		p.answer()
		p.inferrer.begin(inferring, p.engine)
		p.learner.begin(inferring)
		p.publishStatus(false)
		if time.Since(p.saved) >= p.every {
			if err := p.checkpoint(ctx); err != nil {
				p.log.Error("saving the detector's state failed; it is tried again", "error", err)
			}
			if time.Since(p.history.saved) >= p.history.every {
				p.saveHistory()
			}
		}
	}
}

// shutdownGrace bounds how long the bus may take to empty at the end, and the last checkpoint.
const shutdownGrace = 30 * time.Second

// process records a batch, judges it and commits what was found. A batch without updates only moves
// event time; it is recorded when it matters for doing the same again: before the next updates, and
// when it made something happen.
func (p *pipeline) process(ctx context.Context, b *ingest.Batch) error {
	if len(b.Updates) == 0 {
		p.unwritten = max(p.unwritten, b.Watermark)
		p.judge(b)
		if len(p.events) == 0 {
			return nil
		}
		if err := p.recordTicks(ctx); err != nil {
			return err
		}
		return p.commit(ctx)
	}
	if err := p.recordTicks(ctx); err != nil {
		return err
	}
	if err := p.record(ctx, b); err != nil {
		return err
	}
	p.judge(b)
	return p.commit(ctx)
}

func (p *pipeline) recordTicks(ctx context.Context) error {
	if p.unwritten == 0 {
		return nil
	}
	ticks := ingest.Batch{Watermark: p.unwritten}
	p.unwritten = 0
	return p.record(ctx, &ticks)
}

func (p *pipeline) record(ctx context.Context, b *ingest.Batch) error {
	return p.untilAccepted(ctx, "recording updates", func() error {
		position, err := p.store.AppendBatch(ctx, b)
		if err == nil {
			p.position = position
		}
		return err
	})
}

// judge takes what is stamped later than the batch's watermark, and so ahead of every clock here, as
// stamped now: one false stamp must not move event time for all. The history keeps the stamp.
func (p *pipeline) judge(b *ingest.Batch) {
	signs := b.Signs
	sign := func(upTo int) {
		for ; len(signs) > 0 && signs[0].Before <= upTo; signs = signs[1:] {
			p.engine.Sign(signs[0].Source, signs[0].Collectors)
		}
	}
	for i := range b.Updates {
		sign(i)
		u := &b.Updates[i]
		u.Time = min(u.Time, b.Watermark)
		p.engine.Apply(u)
	}
	sign(len(b.Updates))
	if len(b.Updates) == 0 { // of several in a row only the last is recorded
		p.engine.AdvanceIdle(b.Watermark)
		return
	}
	p.engine.Advance(b.Watermark)
}

// commit stores the events found with the messages they cause.
func (p *pipeline) commit(ctx context.Context) error {
	if len(p.events) == 0 {
		return nil
	}
	deliveries, err := p.router.Route(p.events, time.Now())
	if err != nil {
		return fmt.Errorf("writing alerts: %w", err)
	}
	err = p.untilAccepted(ctx, "committing incidents", func() error {
		return p.store.CommitEvents(ctx, p.events, deliveries)
	})
	if err != nil {
		return err
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

// untilAccepted repeats a write for as long as the storage is unavailable. Any other failure is final.
func (p *pipeline) untilAccepted(ctx context.Context, what string, write func() error) error {
	const most = 5 * time.Second
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, most) {
		err := write()
		if err == nil || !errors.Is(err, store.ErrUnavailable) {
			return err
		}
		p.log.Error(what+" failed; nothing is acknowledged until it works", "error", err, "again_in", wait)
		p.answer()
		select {
		case <-ctx.Done():
			return err
		case <-p.stopping:
			return err
		case <-time.After(wait):
		}
	}
}

// checkpoint saves the engine's state. While the storage is unavailable the next attempt is due soon rather than after
// a whole p.every: until one succeeds, the log grows and a restart has more to go through again.
func (p *pipeline) checkpoint(ctx context.Context) error {
	const soon = 5 * time.Second
	p.saved = time.Now()
	if err := p.recordTicks(ctx); err != nil {
		return err
	}
	p.inferrer.bringIn(p.engine)
	p.learner.bringIn(p.engine)
	state, err := p.engine.Snapshot()
	if err != nil {
		return err
	}
	if err := p.store.SaveCheckpoint(ctx, p.position, state); err != nil {
		if errors.Is(err, store.ErrUnavailable) {
			p.saved = p.saved.Add(min(soon, p.every) - p.every)
		}
		return fmt.Errorf("saving the detector's state: %w", err)
	}
	p.metrics.checkpoints.Inc()
	p.learner.saved()
	p.keepState(state)
	return nil
}

// answer lets the questions that wait see the engine.
func (p *pipeline) answer() {
	for {
		select {
		case ask := <-p.questions:
			ask(p.engine)
		default:
			return
		}
	}
}

// Prefix implements api.Table.
func (p *pipeline) Prefix(ctx context.Context, prefix netip.Prefix) (detect.PrefixState, error) {
	return question(ctx, p, func(e *detect.Engine) detect.PrefixState { return e.Prefix(prefix) })
}

// Explain is [detect.Engine.Explain] of the running engine; [api.ErrRecovering] while it is not up to date.
func (p *pipeline) Explain(ctx context.Context, prefix netip.Prefix, path bgp.ASPath) (detect.Explanation, error) {
	if p.Status().Recovering {
		return detect.Explanation{}, api.ErrRecovering
	}
	return question(ctx, p, func(e *detect.Engine) detect.Explanation { return e.Explain(prefix, path) })
}

// Watches is [detect.Engine.Watches] of the running engine; [api.ErrRecovering] while it is not up to date.
func (p *pipeline) Watches(ctx context.Context) ([]detect.WatchState, error) {
	if p.Status().Recovering {
		return nil, api.ErrRecovering
	}
	return question(ctx, p, func(e *detect.Engine) []detect.WatchState { return e.Watches() })
}

// question asks the engine between two batches. The answer is at most one tick of the bus away.
func question[T any](ctx context.Context, p *pipeline, ask func(*detect.Engine) T) (T, error) {
	var none T
	answer := make(chan T, 1)
	select {
	case p.questions <- func(e *detect.Engine) { answer <- ask(e) }:
	case <-ctx.Done():
		return none, ctx.Err()
	}
	select {
	case a := <-answer:
		return a, nil
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

func (p *pipeline) publishStatus(recovering bool) {
	learning, until := p.engine.Learning()
	st := pipelineStatus{Clock: p.engine.Clock(), Learning: learning, LearnUntil: until, Recovering: recovering, Stats: p.engine.Stats()}
	p.mu.Lock()
	p.status = st
	p.mu.Unlock()
}

// Status returns how the pipeline stood after its last batch.
func (p *pipeline) Status() pipelineStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}
