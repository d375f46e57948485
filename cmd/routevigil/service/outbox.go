package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
	"github.com/routevigil/routevigil/store"
)

// outbox makes the outboxes of several recorders and notifiers one. Each has every message in its own store; one of them,
// whoever wrote the last claim into the topic "alerts", sends, and writes there what became of each. The
// others note that, and when nothing was written for a while one of them claims. So a message is sent once, but
// for one that was under way when its sender died or was thought dead: that is sent again, under the same
// key.
type outbox struct {
	store    store.Store
	cluster  *kafkabus.Cluster
	takeover time.Duration
	sends    bool // else it only notes what became of messages
	log      *slog.Logger
	name     string // of this process, at random

	mu      sync.Mutex
	sending bool
	early   map[string]store.Delivery // what became of messages that are not in the store yet, by key
	purged  time.Time                 // when early was last looked through
}

// alertRecord is a message of the topic.
type alertRecord struct {
	From     string          `json:"from"`
	Claim    bool            `json:"claim,omitempty"`
	Delivery *store.Delivery `json:"delivery,omitempty"` // nil in a claim, and in a sign of life
}

func newOutbox(s store.Store, k *kafkabus.Cluster, takeover time.Duration, sends bool, log *slog.Logger, registry prometheus.Registerer) *outbox {
	o := &outbox{store: s, cluster: k, takeover: takeover, sends: sends, log: log, name: kafkabus.NewName(), early: map[string]store.Delivery{}}
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "routevigil_alerts_in_charge", Help: "1 where this process is the one that sends alerts, else 0."},
		func() float64 {
			if o.isSending() {
				return 1
			}
			return 0
		}))
	return o
}

func (o *outbox) isSending() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sending
}

func (o *outbox) write(ctx context.Context, r alertRecord) error {
	r.From = o.name
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = o.cluster.Insist(ctx, kafkabus.AlertsTopic, 0, kafkabus.Record{Value: b})
	return err
}

// run follows the topic, and claims where nobody sends.
func (o *outbox) run(ctx context.Context) error {
	tail := o.cluster.Tail(kafkabus.AlertsTopic, 0)
	defer tail.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { o.live(ctx) })
	for {
		waiting, enough := context.WithTimeout(ctx, o.takeover)
		r, err := tail.Next(waiting)
		enough()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !o.sends:
		case err != nil: // silence
			if err := o.write(ctx, alertRecord{Claim: true}); err != nil {
				return err
			}
		default:
			if err := o.take(ctx, r); err != nil {
				return err
			}
		}
	}
}

// live gives signs of life while this process sends.
func (o *outbox) live(ctx context.Context) {
	ticker := time.NewTicker(o.takeover / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if o.isSending() {
			if err := o.write(ctx, alertRecord{}); err != nil && ctx.Err() == nil {
				o.log.Warn("no sign of life could be given; another one may send alerts as well", "error", err)
			}
		}
	}
}

func (o *outbox) take(ctx context.Context, r kafkabus.Record) error {
	var a alertRecord
	if err := json.Unmarshal(r.Value, &a); err != nil {
		o.log.Error("what is said of an alert is not understood and passed over", "offset", r.Offset, "error", err)
		return nil
	}
	if a.Claim {
		o.mu.Lock()
		before := o.sending
		o.sending = a.From == o.name
		now := o.sending
		o.mu.Unlock()
		if before != now {
			o.log.Info("who sends alerts has changed", "this_one", now)
		}
	}
	if a.Delivery == nil || a.From == o.name {
		return nil
	}
	return o.note(ctx, *a.Delivery)
}

// note stores what became of a message, or keeps it until the message is there.
func (o *outbox) note(ctx context.Context, d store.Delivery) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	err := untilStored(ctx, o.log, "noting what became of an alert", func() error { return o.store.UpdateDelivery(ctx, d) })
	if errors.Is(err, store.ErrNotFound) {
		now := time.Now()
		expired := func(_ string, d store.Delivery) bool { return d.ExpiresAt.Before(now) } // which never gets into the store
		if now.Sub(o.purged) >= time.Minute {
			o.purged = now
			maps.DeleteFunc(o.early, expired)
		}
		if !expired(d.Key, d) {
			o.early[d.Key] = d
		}
		return nil
	}
	return err
}

// committed brings in what is known already of messages that have just been stored.
func (o *outbox) committed(ctx context.Context, deliveries []store.Delivery) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range deliveries {
		known, ok := o.early[d.Key]
		if !ok {
			continue
		}
		delete(o.early, d.Key)
		if err := untilStored(ctx, o.log, "noting what became of an alert", func() error { return o.store.UpdateDelivery(ctx, known) }); err != nil {
			return err
		}
	}
	return nil
}

// DueDeliveries implements alert.Outbox: nothing is due where another sends.
func (o *outbox) DueDeliveries(ctx context.Context, receiver string, now time.Time, limit int) ([]store.Delivery, error) {
	if !o.isSending() {
		return nil, nil
	}
	return o.store.DueDeliveries(ctx, receiver, now, limit)
}

// UpdateDelivery implements alert.Outbox. The others are told first: what they do not know they would send again.
func (o *outbox) UpdateDelivery(ctx context.Context, d store.Delivery) error {
	if d.State != store.Pending {
		if err := o.write(ctx, alertRecord{Delivery: &d}); err != nil {
			return fmt.Errorf("telling the others: %w", err)
		}
	}
	return o.store.UpdateDelivery(ctx, d)
}

// Deliveries implements alert.Outbox.
func (o *outbox) Deliveries(ctx context.Context, incidentID string) ([]store.Delivery, error) {
	return o.store.Deliveries(ctx, incidentID)
}

// LastSequence implements alert.Outbox.
func (o *outbox) LastSequence(ctx context.Context) (uint64, error) { return o.store.LastSequence(ctx) }

// WaitEvents implements alert.Outbox.
func (o *outbox) WaitEvents(ctx context.Context, after uint64) error {
	return o.store.WaitEvents(ctx, after)
}
