package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
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
	reading, stop := context.WithCancel(ctx)
	ahead := make(chan recordedStep, stepsAhead)
	var failure error // holds once ahead is closed
	go func() {
		defer close(ahead)
		for {
			s, err := l.Next(reading)
			if err != nil {
				failure = err
				return
			}
			select {
			case ahead <- recordedStep{s, l.Position()}:
			case <-reading.Done():
				failure = reading.Err()
				return
			}
		}
	}()
	defer func() { // l belongs to the goroutine until this
		stop()
		for range ahead {
		}
	}()
	position := stats.LastPosition
	saved := time.Now()
	for first := o.Since == nil; ; first = false {
		s, more := <-ahead
		if !more {
			return failure
		}
		if first { // from now on a position of the store is a step
			x.progress = recorderState{Position: position, Step: s.Number - 1, Since: &kafkabus.Position{Epoch: -1}}
			if err := x.save(ctx, x.progress); err != nil {
				return err
			}
		}
		list := []*ingest.Batch{&s.Batch}
	gather:
		for len(list) < stepsAtOnce {
			select {
			case next, more := <-ahead:
				if !more {
					break gather // and the next round tells why
				}
				s, list = next, append(list, &next.Batch)
			default:
				break gather
			}
		}
		err = untilStored(ctx, x.log, "recording updates", func() error {
			stored, last, err := x.store.AppendBatches(ctx, list)
			if list = list[stored:]; stored > 0 {
				position = last
			}
			return err
		})
		if err != nil {
			return err
		}
		x.event.Store(int64(s.Watermark))
		if time.Since(saved) >= x.every {
			saved = time.Now()
			if err := x.save(ctx, recorderState{Position: position, Step: s.Number, Since: &s.behind, Incidents: x.incidents.next.Load()}); err != nil {
				x.log.Error("saving how far was recorded failed; it is tried again", "error", err)
			}
		}
	}
}

// Bounds of what is read from the log before it is stored. What comes while something is being stored is stored at once:
// a store needs about as long for many steps as for one.
const (
	stepsAhead  = 4
	stepsAtOnce = 8
)

// recordedStep is one on its way into the store.
type recordedStep struct {
	*kafkabus.Step
	behind kafkabus.Position // where to go on
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
