package alert

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/alert/channel"
	"github.com/routevigil/routevigil/store"
)

// How messages are tried. A message is tried until it is accepted or expires, with two exceptions:
// one that the receiver says it will never take is given up at once, and one that it refuses is
// given up after a few tries, which the back-off spreads over about ten minutes: enough to mend a
// path or a token, while a receiver that has moved on is not bothered for a day.
const (
	firstBackoff  = 5 * time.Second
	maxBackoff    = 10 * time.Minute
	maxRetryAfter = time.Hour // what a receiver may ask for
	maxRefusals   = 8         // in a row

	concurrency  = 4               // attempts to one receiver at a time
	fetchLength  = 32              // due messages looked at at a time
	pollInterval = time.Second     // between looks for messages whose time has come
	storeRetry   = time.Second     // after the store could not be read or written
	stopGrace    = 5 * time.Second // for attempts under way when the notifier stops
)

// Outbox is the part of the store that the notifier uses.
type Outbox interface {
	DueDeliveries(ctx context.Context, receiver string, now time.Time, limit int) ([]store.Delivery, error)
	UpdateDelivery(ctx context.Context, d store.Delivery) error
	Deliveries(ctx context.Context, incidentID string) ([]store.Delivery, error)
	LastSequence(ctx context.Context) (uint64, error)
	WaitEvents(ctx context.Context, after uint64) error
}

// Notifier sends what is in the outbox. One may run per outbox: two would send everything twice,
// under the same keys.
type Notifier struct{ lanes []*lane }

// NewNotifier returns a notifier that does nothing until Run. r may be nil.
//
// Messages to a receiver that is not among receivers stay as they are: they are sent when it is
// back before they expire.
func NewNotifier(receivers []Receiver, o Outbox, r prometheus.Registerer, log *slog.Logger) *Notifier {
	n := &Notifier{}
	m := newMetrics(r)
	for _, receiver := range receivers {
		m.init(receiver.Name)
		n.lanes = append(n.lanes, &lane{receiver: receiver, outbox: o, metrics: m, log: log.With("receiver", receiver.Name),
			busy: map[string]bool{}, open: map[string]int{}, finished: make(chan outcome)})
	}
	return n
}

// Run sends until ctx ends. Attempts under way then have a few seconds to finish; one that is cut
// off counts for nothing and is made again, under the same key, after the next start. It always
// returns nil.
func (n *Notifier) Run(ctx context.Context) error {
	var lanes sync.WaitGroup
	for _, l := range n.lanes {
		lanes.Go(func() { l.run(ctx) })
	}
	lanes.Wait()
	return nil
}

// lane sends to one receiver. Nothing in it waits for another lane.
type lane struct {
	receiver Receiver
	outbox   Outbox
	metrics  *metrics
	log      *slog.Logger

	// Of run alone:
	busy     map[string]bool // incidents with an attempt under way
	open     map[string]int  // messages seen and not finished, by key: how often refused in a row
	finished chan outcome
}

// outcome is what became of a message.
type outcome struct {
	delivery store.Delivery
	refusals int // in a row; counted anew after a restart, which errs on the side of telling
}

func (l *lane) run(ctx context.Context) {
	attempts, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	wake := make(chan struct{}, 1)
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		l.watch(ctx, wake)
	}()
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		l.start(ctx, attempts)
		select {
		case <-wake:
		case <-ticker.C:
		case o := <-l.finished:
			l.settle(o)
		case <-ctx.Done():
		}
	}
	defer time.AfterFunc(stopGrace, abort).Stop()
	for len(l.busy) > 0 {
		l.settle(<-l.finished)
	}
	l.receiver.Channel.Close()
	<-watching
}

// watch wakes the lane when events, and so perhaps messages, were committed.
func (l *lane) watch(ctx context.Context, wake chan<- struct{}) {
	for ctx.Err() == nil {
		last, err := l.outbox.LastSequence(ctx)
		if err == nil {
			select {
			case wake <- struct{}{}:
			default:
			}
			err = l.outbox.WaitEvents(ctx, last)
		}
		if err != nil && ctx.Err() == nil {
			l.log.Error("cannot wait for events; trying again", "in", storeRetry, "error", err)
			sleep(ctx, storeRetry)
		}
	}
}

// start begins attempts for what is due, as many as may be under way, one for each incident.
func (l *lane) start(ctx, attempts context.Context) {
	if len(l.busy) == concurrency {
		return
	}
	due, err := l.outbox.DueDeliveries(ctx, l.receiver.Name, time.Now(), fetchLength)
	if err != nil {
		if ctx.Err() == nil {
			l.log.Error("cannot read the outbox; trying again", "in", pollInterval, "error", err)
		}
		return
	}
	for _, d := range due {
		refusals, seen := l.open[d.Key]
		if !seen {
			l.open[d.Key] = 0
			l.metrics.pending.WithLabelValues(l.receiver.Name).Inc()
		}
		if l.busy[d.IncidentID] || len(l.busy) == concurrency {
			continue
		}
		l.busy[d.IncidentID] = true
		go func() { l.finished <- l.attempt(attempts, d, refusals) }()
	}
}

// settle takes in what became of a message.
func (l *lane) settle(o outcome) {
	delete(l.busy, o.delivery.IncidentID)
	if o.delivery.State == store.Pending {
		l.open[o.delivery.Key] = o.refusals
		return
	}
	delete(l.open, o.delivery.Key)
	l.metrics.pending.WithLabelValues(l.receiver.Name).Dec()
	if o.delivery.State == store.Expired {
		l.metrics.expired.WithLabelValues(l.receiver.Name).Inc()
		l.log.Error("a message was given up", "incident", o.delivery.IncidentID, "key", o.delivery.Key,
			"attempts", o.delivery.Attempts, "error", o.delivery.LastError)
	}
}

// attempt tries to send d, unless it has expired or must wait, and stores what became of it. It
// runs on a goroutine of its own.
func (l *lane) attempt(ctx context.Context, d store.Delivery, refusals int) outcome {
	found := d
	d.UpdatedAt = time.Now()
	if !d.UpdatedAt.Before(d.ExpiresAt) {
		d.State, d.NextAttempt = store.Expired, time.Time{}
		if d.LastError == "" {
			d.LastError = "it expired before it could be tried"
		}
		return l.record(ctx, found, d, refusals)
	}
	until, err := l.mustWait(ctx, d)
	if err != nil {
		if ctx.Err() == nil {
			l.log.Error("cannot read the outbox; trying again", "in", storeRetry, "error", err)
			sleep(ctx, storeRetry)
		}
		return outcome{found, refusals}
	}
	if !until.IsZero() {
		d.NextAttempt = earlier(until, d.ExpiresAt)
		return l.record(ctx, found, d, refusals)
	}

	start := time.Now()
	receipt, err := l.receiver.Channel.Send(ctx, d.Key, d.Body)
	if err != nil && ctx.Err() != nil {
		return outcome{found, refusals} // cut off by us: nothing is known of it
	}
	d.UpdatedAt = time.Now()
	d.Attempts++
	l.metrics.attempt(l.receiver.Name, d.UpdatedAt.Sub(start), err)
	if err == nil {
		d.State, d.Receipt, d.LastError, d.NextAttempt = store.Delivered, receipt, "", time.Time{}
		l.metrics.delay.WithLabelValues(l.receiver.Name).Observe(d.UpdatedAt.Sub(d.CreatedAt).Seconds())
		return l.record(ctx, found, d, 0)
	}

	failure := &channel.Failure{Reason: err.Error()}
	errors.As(err, &failure)
	d.LastError = failure.Reason
	if failure.Receipt != "" {
		d.Receipt = failure.Receipt
	}
	if refusals++; failure.Kind == channel.Transient {
		refusals = 0
	}
	if failure.Kind == channel.Gone || refusals >= maxRefusals {
		d.State, d.NextAttempt = store.Expired, time.Time{}
		return l.record(ctx, found, d, refusals)
	}
	wait := max(backoff(d.Attempts, rand.Float64()), min(failure.RetryAfter, maxRetryAfter))
	d.NextAttempt = earlier(d.UpdatedAt.Add(wait), d.ExpiresAt)
	l.log.Warn("a message was not accepted; it will be tried again", "incident", d.IncidentID, "key", d.Key,
		"attempts", d.Attempts, "at", d.NextAttempt, "error", d.LastError)
	return l.record(ctx, found, d, refusals)
}

// mustWait tells until when d must wait because something that the receiver should hear first is
// still pending; zero when nothing is. It asks the store, so order also holds across a restart.
func (l *lane) mustWait(ctx context.Context, d store.Delivery) (time.Time, error) {
	all, err := l.outbox.Deliveries(ctx, d.IncidentID)
	if err != nil {
		return time.Time{}, err
	}
	var until time.Time
	for _, other := range all {
		if other.Receiver == d.Receiver && other.Sequence < d.Sequence && other.State == store.Pending {
			until = later(until, later(other.NextAttempt, d.UpdatedAt)) // one that is due goes first when both are
		}
	}
	return until, nil
}

// record stores what became of d. While the store cannot be written it keeps trying, rather than
// have a message sent again that was accepted. found is d as the store has it.
func (l *lane) record(ctx context.Context, found, d store.Delivery, refusals int) outcome {
	for {
		err := l.outbox.UpdateDelivery(ctx, d)
		if err == nil {
			return outcome{d, refusals}
		}
		if errors.Is(err, store.ErrNotFound) { // somebody removed it: nothing is left to do
			d.State = store.Expired
			return outcome{d, refusals}
		}
		if ctx.Err() != nil {
			return outcome{found, refusals}
		}
		l.log.Error("cannot store what became of a message; trying again", "key", d.Key, "in", storeRetry, "error", err)
		sleep(ctx, storeRetry)
	}
}

// backoff is the time to wait after an attempt, the first being 1: it doubles from firstBackoff up
// to maxBackoff. jitter from 0 to 1 takes away up to half, so that receivers are not met by waves.
func backoff(attempts int, jitter float64) time.Duration {
	d := maxBackoff
	if doublings := attempts - 1; doublings < 7 { // 5 s · 2⁷ is more than 10 min
		d = firstBackoff << doublings
	}
	return d - time.Duration(jitter*float64(d)/2)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
