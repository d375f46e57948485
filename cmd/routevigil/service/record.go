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
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/embedded"
)

// Recorder is the role record: it stores updates and incidents, with the messages that these cause, sends
// those and serves the API. It keeps them in an embedded store of its own, so that there should be one: two
// would each send every message, though under the same keys.
//
// A step of Kafka's order is a batch of the store, at a position that follows from the step's number: so what
// is stored says where to go on, and nothing is stored twice.
type Recorder struct {
	log      *slog.Logger
	store    *embedded.Store
	cluster  *kafkabus.Cluster
	registry *prometheus.Registry
	router   *alert.Router
	notifier *alert.Notifier
	server   *api.Server

	every     time.Duration // between checkpoints
	progress  recorderState
	incidents atomic.Int64 // offset of the next change to store
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

// NewRecorder opens the store, reaches the cluster and binds the address of the API; c must be valid.
func NewRecorder(ctx context.Context, c config.Config, version string, log *slog.Logger) (_ *Recorder, err error) {
	x := &Recorder{log: log.With("component", "record"), registry: newRegistry(), every: c.Kafka.Checkpoint}
	receivers, err := alert.Receivers(c.Alert, version)
	if err != nil {
		return nil, err
	}
	if x.cluster, err = reach(ctx, c, log); err != nil {
		return nil, err
	}
	if x.store, err = embedded.Open(c.Store, log.With("component", "store"), x.registry); err != nil {
		return nil, err
	}
	x.router = alert.NewRouter(receivers)
	x.notifier = alert.NewNotifier(receivers, x.store, x.registry, log.With("component", "alert"))
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
	if err := x.load(ctx); err != nil {
		return err
	}
	background := newGroup(fail)
	background.run("HTTP server", func() error { return x.server.Run(ctx) })
	background.run("notifier", func() error { return x.notifier.Run(ctx) })
	background.run("updates", func() error { return untilDone(ctx, x.recordUpdates(ctx)) })
	background.run("incidents", func() error { return untilDone(ctx, x.recordIncidents(ctx)) })
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

// load finds out where to go on.
func (x *Recorder) load(ctx context.Context) error {
	_, b, err := x.store.Checkpoint(ctx)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &x.progress); err != nil {
		return fmt.Errorf("the store's checkpoint is not a recorder's; is it the store of \"routevigil serve\"? Choose another store.directory: %w", err)
	}
	x.incidents.Store(x.progress.Incidents)
	return nil
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
	position := stats.LastPosition
	saved := time.Now()
	for first := o.Since == nil; ; first = false {
		s, err := l.Next(ctx)
		if err != nil {
			return err
		}
		if first { // from now on a position of the store is a step
			x.progress = recorderState{Position: position, Step: s.Number - 1, Since: &kafkabus.Position{Epoch: -1}}
			if err := x.save(ctx, x.progress); err != nil {
				return err
			}
		}
		err = untilStored(ctx, x.log, "recording updates", func() error {
			position, err = x.store.AppendBatch(ctx, &s.Batch)
			return err
		})
		if err != nil {
			return err
		}
		x.event.Store(int64(s.Watermark))
		if time.Since(saved) >= x.every {
			saved = time.Now()
			since := l.Position()
			if err := x.save(ctx, recorderState{Position: position, Step: s.Number, Since: &since, Incidents: x.incidents.Load()}); err != nil {
				x.log.Error("saving how far was recorded failed; it is tried again", "error", err)
			}
		}
	}
}

func (x *Recorder) save(ctx context.Context, st recorderState) error {
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	return x.store.SaveCheckpoint(ctx, st.Position, b)
}

// recordIncidents stores changes in the order in which they were told.
func (x *Recorder) recordIncidents(ctx context.Context) error {
	for {
		first, end, err := x.cluster.Bounds(ctx, kafkabus.IncidentsTopic, 0)
		if err == nil {
			err = x.cluster.Read(ctx, kafkabus.IncidentsTopic, 0, max(first, x.incidents.Load()), end, func(r kafkabus.Record) error { return x.recordChange(ctx, r) })
			if err != nil {
				return err
			}
			if end > x.incidents.Load() {
				x.incidents.Store(end)
			}
		} else if ctx.Err() == nil {
			x.log.Warn("Kafka does not answer", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(incidentsEvery):
		}
	}
}

// incidentsEvery is the time between looks for changes of incidents.
const incidentsEvery = 200 * time.Millisecond

func (x *Recorder) recordChange(ctx context.Context, r kafkabus.Record) error {
	var ev incident.Event
	if err := json.Unmarshal(r.Value, &ev); err != nil {
		x.log.Error("a change of an incident is not understood and passed over", "offset", r.Offset, "error", err)
		return nil
	}
	if known, err := alreadyStored(ctx, x.store, &ev); err != nil || known {
		return err // of a detector that did not know yet that another had told it
	}
	last, err := x.store.LastSequence(ctx)
	if err != nil {
		return err
	}
	if ev.Sequence <= last { // as when the topic of incidents was made anew, and detectors began again
		ev.Sequence = last + 1
		ev.Incident.Sequence = ev.Sequence
	}
	events := []incident.Event{ev}
	deliveries, err := x.router.Route(events, time.Now())
	if err != nil {
		return fmt.Errorf("writing alerts: %w", err)
	}
	err = untilStored(ctx, x.log, "committing incidents", func() error { return x.store.CommitEvents(ctx, events, deliveries) })
	if err == nil {
		x.incidents.Store(r.Offset + 1)
	}
	return err
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
