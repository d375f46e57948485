package alerttest

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/routevigil/routevigil/store"
)

// Outbox is an outbox in memory that behaves as package store says. It outlives any notifier, as a
// store outlives the process.
type Outbox struct {
	// Impatient makes everything pending due at once, whatever its NextAttempt, for tests that run
	// in real time.
	Impatient bool
	// Fail, if set, is asked before every call and may return the error of a store in trouble.
	Fail func(method string) error

	mu         sync.Mutex
	deliveries []store.Delivery
	grown      chan struct{} // closed and replaced by Commit
}

// Commit adds deliveries, except those whose key is there.
func (o *Outbox) Commit(deliveries ...store.Delivery) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range deliveries {
		if !slices.ContainsFunc(o.deliveries, func(have store.Delivery) bool { return have.Key == d.Key }) {
			o.deliveries = append(o.deliveries, d)
		}
	}
	slices.SortStableFunc(o.deliveries, func(a, b store.Delivery) int { return cmp.Compare(a.Sequence, b.Sequence) })
	if o.grown != nil {
		close(o.grown)
	}
	o.grown = make(chan struct{})
}

// All returns everything, the lowest sequence first.
func (o *Outbox) All() []store.Delivery {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.deliveries)
}

func (o *Outbox) fail(method string) error {
	if o.Fail == nil {
		return nil
	}
	return o.Fail(method)
}

func (o *Outbox) filter(keep func(store.Delivery) bool, limit int) []store.Delivery {
	var found []store.Delivery
	for _, d := range o.All() {
		if keep(d) && len(found) < limit {
			found = append(found, d)
		}
	}
	return found
}

// DueDeliveries is as in [store.Store].
func (o *Outbox) DueDeliveries(_ context.Context, receiver string, now time.Time, limit int) ([]store.Delivery, error) {
	return o.filter(func(d store.Delivery) bool {
		return d.Receiver == receiver && d.State == store.Pending && (o.Impatient || !d.NextAttempt.After(now))
	}, limit), o.fail("DueDeliveries")
}

// Deliveries is as in [store.Store].
func (o *Outbox) Deliveries(_ context.Context, incidentID string) ([]store.Delivery, error) {
	all := o.All()
	return o.filter(func(d store.Delivery) bool { return d.IncidentID == incidentID }, len(all)), o.fail("Deliveries")
}

// UpdateDelivery is as in [store.Store].
func (o *Outbox) UpdateDelivery(ctx context.Context, d store.Delivery) error {
	if err := cmp.Or(o.fail("UpdateDelivery"), ctx.Err()); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.deliveries {
		if have := &o.deliveries[i]; have.Key == d.Key {
			have.State, have.Attempts, have.NextAttempt = d.State, d.Attempts, d.NextAttempt
			have.LastError, have.Receipt, have.UpdatedAt = d.LastError, d.Receipt, d.UpdatedAt
			return nil
		}
	}
	return store.ErrNotFound
}

// LastSequence is as in [store.Store].
func (o *Outbox) LastSequence(context.Context) (uint64, error) {
	all := o.All()
	if len(all) == 0 {
		return 0, o.fail("LastSequence")
	}
	return all[len(all)-1].Sequence, o.fail("LastSequence")
}

// WaitEvents is as in [store.Store].
func (o *Outbox) WaitEvents(ctx context.Context, after uint64) error {
	for {
		o.mu.Lock()
		if o.grown == nil {
			o.grown = make(chan struct{})
		}
		grown := o.grown
		o.mu.Unlock()
		if last, err := o.LastSequence(ctx); err != nil || last > after {
			return err
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
