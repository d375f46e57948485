package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/alert"
	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/api/web"
	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
	"github.com/routevigil/routevigil/store"
)

// Recorder is the role record: it stores updates and incidents, with the messages that these cause, in a
// store that no other recorder may write meanwhile (see StandBy), and serves the API from there. Any number may run, each with
// everything; one of them sends the messages (see outbox), unless all leave that to the role notify.
//
// A step of Kafka's order is a batch of the store, at a position that follows from the step's number: so what
// is stored says where to go on, and nothing is stored twice.
type Recorder struct {
	log      *slog.Logger
	store    store.Store
	cluster  *kafkabus.Cluster
	registry *prometheus.Registry
	outbox   *outbox
	notifier *alert.Notifier // nil where others send
	server   *api.Server

	every     time.Duration // between checkpoints
	progress  recorderState
	incidents *incidentRecorder
	event     atomic.Int64 // watermark of the last step stored, microseconds
	current   atomic.Pointer[kafkabus.Log]
}

// recorderState is what the store's checkpoint holds.
type recorderState struct {
	Position  uint64             `json:"position"` // of the batch that is step Step, or would be
	Step      uint64             `json:"step"`
	Since     *kafkabus.Position `json:"since"`
	Incidents int64              `json:"incidents"`
}

// NewRecorder opens the store, reaches the cluster and binds the address of the API; c must be valid. With notify it sends
// alerts, else it leaves that to others, of which it notes what they sent.
func NewRecorder(ctx context.Context, c config.Config, notify bool, version string, log *slog.Logger) (_ *Recorder, err error) {
	x := &Recorder{log: log.With("component", "record"), registry: newRegistry(), every: c.Kafka.Checkpoint}
	receivers, err := alert.Receivers(c.Alert, version)
	if err != nil {
		return nil, err
	}
	if x.cluster, err = reach(ctx, c, log); err != nil {
		return nil, err
	}
	if x.store, err = newStore(c.Store, log.With("component", "store"), x.registry); err != nil {
		return nil, err
	}
	x.outbox = newOutbox(x.store, x.cluster, c.Kafka.Takeover, notify, log.With("component", "alert"), x.registry)
	x.incidents = &incidentRecorder{log: x.log, store: x.store, cluster: x.cluster, router: alert.NewRouter(receivers), outbox: x.outbox}
	if notify {
		x.notifier = alert.NewNotifier(receivers, x.outbox, x.registry, log.With("component", "alert"))
	}
	x.server = api.New(c.API, api.Dependencies{Store: x.store, Health: x.health, Web: web.Handler(), Version: version,
		Registerer: x.registry, Gatherer: x.registry, Logger: log.With("component", "api")})
	if err := x.server.Listen(); err != nil {
		x.store.Close()
		return nil, err
	}
	return x, nil
}

// Addr is where the HTTP server listens.
func (x *Recorder) Addr() net.Addr { return x.server.Addr() }

// Close closes the store. Run must have returned.
func (x *Recorder) Close() error { return x.store.Close() }

func (x *Recorder) health() api.Health {
	h := api.Health{Mode: api.Live}
	if t := x.event.Load(); t > 0 {
		h.EventTime = ingest.Time(t).Time()
	}
	if err := x.store.Health(); err != nil {
		h.Reasons = append(h.Reasons, fmt.Sprintf("Nothing can be stored: %v.", err))
	} else if l := x.current.Load(); l == nil || !l.CaughtUp() {
		h.Reasons = append(h.Reasons, "The store is being brought up to date from Kafka.")
	} else {
		h.Ready = true
	}
	return h
}

// Run records until ctx ends.
func (x *Recorder) Run(ctx context.Context) error {
	defer x.cluster.Close()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var err error
	if x.progress, err = loadProgress(ctx, x.store); err != nil {
		return err
	}
	x.incidents.next.Store(x.progress.Incidents)
	background := newGroup(fail)
	background.run("HTTP server", func() error { return x.server.Run(ctx) })
	if x.notifier != nil {
		background.run("notifier", func() error { return x.notifier.Run(ctx) })
	}
	background.run("alerts", func() error { return untilDone(ctx, x.outbox.run(ctx)) })
	background.run("updates", func() error { return untilDone(ctx, x.recordUpdates(ctx)) })
	background.run("incidents", func() error { return untilDone(ctx, x.incidents.run(ctx)) })
	background.wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// untilDone takes the end of ctx for no error.
func untilDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// loadProgress finds out where to go on.
func loadProgress(ctx context.Context, s store.Store) (st recorderState, err error) {
	_, b, err := s.Checkpoint(ctx)
	if errors.Is(err, store.ErrNotFound) {
		return st, nil
	}
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(b, &st); err != nil {
		return st, fmt.Errorf("the store's checkpoint is not a recorder's; is it the store of \"routevigil serve\"? Choose another store.directory: %w", err)
	}
	return st, nil
}

// recordUpdates stores steps, and begins at the oldest that there is where the next has been deleted already.
func (x *Recorder) recordUpdates(ctx context.Context) error {
	err := x.recordSince(ctx, x.progress.Since, x.registry)
	for errors.Is(err, kafkabus.ErrLost) {
		x.log.Error("updates are missing from the store, because they were deleted before they could be recorded", "error", err)
		err = x.recordSince(ctx, nil, nil)
	}
	return err
}

func (x *Recorder) recordSince(ctx context.Context, since *kafkabus.Position, metrics prometheus.Registerer) error {
	stats, err := x.store.Stats(ctx)
	if err != nil {
		return err
	}
	o := kafkabus.LogOptions{Since: since, Metrics: metrics}
	if o.Since != nil {
		o.After = x.progress.Step + stats.LastPosition - x.progress.Position
	}
	l, err := x.cluster.Follow(o)
	if err != nil {
		return err
	}
	defer l.Close()
	x.current.Store(l)
	defer x.current.Store(nil)
	ctx, cancel := context.WithCancel(ctx)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer cancel()
	steps := make(chan recording, recordAhead)
	var ended error
	reading.Go(func() {
		defer close(steps)
		ended = x.read(ctx, l, steps)
	})
	position := stats.LastPosition
	first := o.Since == nil
	for r := range steps {
		list := []recording{r}
		for updates := len(r.step.Updates); len(steps) > 0 && updates < recordTogether; updates += len(r.step.Updates) {
			r = <-steps
			list = append(list, r)
		}
		if first { // from now on a position of the store is a step
			first = false
			x.progress = recorderState{Position: position, Step: list[0].step.Number - 1, Since: &kafkabus.Position{Epoch: -1}}
			if err := untilStored(ctx, x.log, "saving where the record begins", func() error { return x.save(ctx, x.progress) }); err != nil {
				return err
			}
		}
		if position, err = x.append(ctx, list, position); err != nil {
			return err
		}
		last := list[len(list)-1]
		x.event.Store(int64(last.step.Watermark))
		for _, r := range slices.Backward(list) {
			if r.since == nil {
				continue
			}
			at := position - (last.step.Number - r.step.Number)
			if err := x.save(ctx, recorderState{Position: at, Step: r.step.Number, Since: r.since, Incidents: x.incidents.next.Load()}); err != nil {
				x.log.Error("saving how far was recorded failed; it is tried again", "error", err)
			}
			break
		}
	}
	return ended
}

const (
	recordAhead    = 16     // steps that are read before they can be stored
	recordTogether = 16_384 // updates of steps that are stored in one go, but for those of the last
)

// recording is a step on its way into the store.
type recording struct {
	step  *kafkabus.Step
	since *kafkabus.Position // now and then: where to go on after it
}

// read hands on steps until there are no more, and says why.
func (x *Recorder) read(ctx context.Context, l *kafkabus.Log, to chan<- recording) error {
	told := time.Now()
	for {
		s, err := l.Next(ctx)
		if err != nil {
			return err
		}
		r := recording{step: s}
		if time.Since(told) >= x.every {
			told = time.Now()
			since := l.Position()
			r.since = &since
		}
		select {
		case to <- r:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// append stores steps, each as a batch, until all are stored, and returns the position of the last.
func (x *Recorder) append(ctx context.Context, list []recording, position uint64) (uint64, error) {
	var batches []*ingest.Batch
	for i := range list {
		batches = append(batches, &list[i].step.Batch)
	}
	err := untilStored(ctx, x.log, "recording updates", func() error {
		stored, last, err := x.store.AppendBatches(ctx, batches)
		if batches = batches[stored:]; stored > 0 {
			position = last
		}
		return err
	})
	return position, err
}

func (x *Recorder) save(ctx context.Context, st recorderState) error {
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	return x.store.SaveCheckpoint(ctx, st.Position, b)
}

// untilStored repeats a write for as long as the storage is unavailable.
func untilStored(ctx context.Context, log *slog.Logger, what string, write func() error) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := write()
		if err == nil || !errors.Is(err, store.ErrUnavailable) {
			return err
		}
		log.Error(what+" failed; it is tried until it works", "error", err, "again_in", wait)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}
