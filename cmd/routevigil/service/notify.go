package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/routevigil/routevigil/alert"
	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/embedded"
)

// outboxName is the folder of a notifier's store, in store.directory.
const outboxName = "notify"

// Notifier is the role notify: it sends alerts. Any number may run, also beside recorders that do so: one of them all
// sends (see outbox). Each reads the incidents from Kafka and keeps them, with the messages, in an embedded store of its
// own, whatever store.kind is: a database that a recorder writes cannot be written by a second one.
type Notifier struct {
	log        *slog.Logger
	store      store.Store
	cluster    *kafkabus.Cluster
	incidents  *incidentRecorder
	outbox     *outbox
	notifier   *alert.Notifier
	operations *operations
	every      time.Duration // between checkpoints
}

// NewNotifier opens its store, reaches the cluster and binds the address of /readyz and /metrics; c must be valid.
func NewNotifier(ctx context.Context, c config.Config, version string, log *slog.Logger) (_ *Notifier, err error) {
	registry := newRegistry()
	receivers, err := alert.Receivers(c.Alert, version)
	if err != nil {
		return nil, err
	}
	if len(receivers) == 0 {
		return nil, errors.New("there is nobody to tell: give section alert a receiver")
	}
	x := &Notifier{log: log.With("component", "notify"), every: c.Kafka.Checkpoint}
	if x.cluster, err = reach(ctx, c, log); err != nil {
		return nil, err
	}
	own := c.Store.Embedded()
	own.Directory = filepath.Join(own.Directory, outboxName)
	if x.store, err = embedded.Open(own, log.With("component", "store"), registry); err != nil {
		x.cluster.Close()
		return nil, err
	}
	alerts := log.With("component", "alert")
	x.outbox = newOutbox(x.store, x.cluster, c.Kafka.Takeover, true, alerts, registry)
	x.incidents = &incidentRecorder{log: x.log, store: x.store, cluster: x.cluster, router: alert.NewRouter(receivers), outbox: x.outbox}
	x.notifier = alert.NewNotifier(receivers, x.outbox, registry, alerts)
	if x.operations, err = newOperations(c.API, registry, x.health); err != nil {
		x.cluster.Close()
		return nil, errors.Join(err, x.store.Close())
	}
	return x, nil
}

// Addr is where /readyz and /metrics are served.
func (x *Notifier) Addr() net.Addr { return x.operations.listener.Addr() }

// Close closes the store. Run must have returned.
func (x *Notifier) Close() error { return x.store.Close() }

func (x *Notifier) health() api.Health {
	h := api.Health{}
	if err := x.store.Health(); err != nil {
		h.Reasons = append(h.Reasons, fmt.Sprintf("Nothing can be stored: %v.", err))
	} else if !x.incidents.caughtUp.Load() {
		h.Reasons = append(h.Reasons, "Incidents are still being read from Kafka.")
	} else {
		h.Ready = true
	}
	return h
}

// Run sends until ctx ends.
func (x *Notifier) Run(ctx context.Context) error {
	defer x.cluster.Close()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	st, err := loadProgress(ctx, x.store)
	if err != nil {
		return err
	}
	x.incidents.next.Store(st.Incidents)
	background := newGroup(fail)
	background.run("HTTP server", func() error { return x.operations.run(ctx) })
	background.run("notifier", func() error { return x.notifier.Run(ctx) })
	background.run("alerts", func() error { return untilDone(ctx, x.outbox.run(ctx)) })
	background.run("incidents", func() error { return untilDone(ctx, x.incidents.run(ctx)) })
	background.run("checkpoints", func() error { return x.saveProgress(ctx) })
	background.wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// saveProgress saves now and then where in Kafka to go on. From before that incidents are read again, and known.
func (x *Notifier) saveProgress(ctx context.Context) error {
	ticker := time.NewTicker(x.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		b, err := json.Marshal(recorderState{Incidents: x.incidents.next.Load()})
		if err == nil {
			err = x.store.SaveCheckpoint(ctx, 0, b)
		}
		if err != nil && ctx.Err() == nil {
			x.log.Error("saving how far incidents were read failed; it is tried again", "error", err)
		}
	}
}
