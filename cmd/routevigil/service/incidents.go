package service

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/routevigil/routevigil/alert"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
	"github.com/routevigil/routevigil/store"
)

// incidentRecorder stores changes of incidents, in the order in which detectors told Kafka of them, and with each the
// messages that it causes.
type incidentRecorder struct {
	log      *slog.Logger
	store    store.Store
	cluster  *kafkabus.Cluster
	router   *alert.Router
	outbox   *outbox
	next     atomic.Int64 // offset of the next change to store
	caughtUp atomic.Bool  // with what Kafka had at the last look
}

// incidentsEvery is the time between looks for changes of incidents.
const incidentsEvery = 200 * time.Millisecond

// run stores until ctx ends.
func (x *incidentRecorder) run(ctx context.Context) error {
	for {
		first, end, err := x.cluster.Bounds(ctx, kafkabus.IncidentsTopic, 0)
		if err == nil {
			err = x.cluster.Read(ctx, kafkabus.IncidentsTopic, 0, max(first, x.next.Load()), end, func(r kafkabus.Record) error { return x.record(ctx, r) })
			if err != nil {
				return err
			}
			if end > x.next.Load() {
				x.next.Store(end)
			}
			x.caughtUp.Store(true)
		} else if ctx.Err() == nil {
			x.caughtUp.Store(false)
			x.log.Warn("Kafka does not answer", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(incidentsEvery):
		}
	}
}

func (x *incidentRecorder) record(ctx context.Context, r kafkabus.Record) error {
	var ev incident.Event
	if err := json.Unmarshal(r.Value, &ev); err != nil {
		x.log.Error("a change of an incident is not understood and passed over", "offset", r.Offset, "error", err)
		return nil
	}
	known, last := false, uint64(0)
	err := untilStored(ctx, x.log, "looking for what is stored of an incident", func() (err error) {
		if known, err = alreadyStored(ctx, x.store, &ev); err == nil && !known {
			last, err = x.store.LastSequence(ctx)
		}
		if err != nil { // whatever it is: where it is for good, writing fails too and ends this
			err = fmt.Errorf("%w: %w", store.ErrUnavailable, err)
		}
		return err
	})
	if err != nil || known {
		return err // known where it is of a detector that did not know yet that another had told it
	}
	if ev.Sequence <= last { // as when the topic of incidents was made anew, and detectors began again
		ev.Sequence = last + 1
		ev.Incident.Sequence = ev.Sequence
	}
	events := []incident.Event{ev}
	// As of the time of the event, so that they are the same in every store, and none is sent of what
	// happened long before there was one.
	deliveries, err := x.router.Route(events, ev.Time)
	if err != nil {
		return fmt.Errorf("writing alerts: %w", err)
	}
	now := time.Now()
	deliveries = slices.DeleteFunc(deliveries, func(d store.Delivery) bool { return d.ExpiresAt.Before(now) })
	err = untilStored(ctx, x.log, "committing incidents", func() error { return x.store.CommitEvents(ctx, events, deliveries) })
	if err == nil {
		err = x.outbox.committed(ctx, deliveries)
	}
	if err == nil {
		x.next.Store(r.Offset + 1)
	}
	return err
}
