// Package bus is the stream between sources and the detector inside one process: many sources
// publish, one consumer takes what has gathered.
//
// It is a queue of batches under one lock rather than a channel of updates, because the consumer
// wants everything that is there at once, because a bound in bytes is what protects memory (an
// update may announce one prefix or thousands), and because each batch can then own the memory of
// its updates: publishing copies an update into its batch's slabs, a few allocations a batch instead
// of several an update.
//
// When the queue is full, Publish waits: the pressure goes back to the source, which can stop
// reading its socket or its file. Nothing is dropped here.
//
// Each batch carries the watermark, how far event time may advance. Event time comes from the
// feeds, so while updates flow it follows the newest of them; but a quiet network must not stop the
// clock (incidents have to end), so when nothing flows it follows the wall clock at a distance.
package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/ingest"
)

// Configuration bounds the bus.
type Configuration struct {
	MaxUpdates     int           `yaml:"max_updates" doc:"Updates that may wait; sources wait when there are more."`
	MaxBytes       int64         `yaml:"max_bytes" config:"bytes" doc:"Memory that waiting updates may take, roughly; sources wait when they take more."`
	BatchUpdates   int           `yaml:"batch_updates" doc:"Updates that the detector takes at once, at most."`
	Tick           time.Duration `yaml:"tick" doc:"How long the detector waits for input before event time advances without any."`
	IdleAllowance  time.Duration `yaml:"idle_allowance" doc:"How far behind the wall clock event time stays while nothing arrives; allows for delay in feeds."`
	ClockTolerance time.Duration `yaml:"clock_tolerance" doc:"How far ahead of the wall clock an update may drag event time, in case a feed's clock is wrong."`
}

// DefaultConfiguration suits a full RIS Live feed with room for bursts of some seconds. The idle
// allowance is short because it is the delay of every verdict on a feed that is quiet, such as one of
// few prefixes; what comes later than that counts as having come just then.
func DefaultConfiguration() Configuration {
	return Configuration{
		MaxUpdates: 200_000, MaxBytes: 256 << 20, BatchUpdates: 4096,
		Tick: 100 * time.Millisecond, IdleAllowance: 200 * time.Millisecond, ClockTolerance: 5 * time.Second,
	}
}

// Validate reports every value that cannot work.
func (c Configuration) Validate() error {
	var errs []error
	positive := func(field string, ok bool, value any) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s: must be positive, is %v", field, value))
		}
	}
	positive("max_updates", c.MaxUpdates > 0, c.MaxUpdates)
	positive("max_bytes", c.MaxBytes > 0, c.MaxBytes)
	positive("batch_updates", c.BatchUpdates > 0, c.BatchUpdates)
	positive("tick", c.Tick > 0, c.Tick)
	if c.IdleAllowance < 0 {
		errs = append(errs, fmt.Errorf("idle_allowance: must not be negative, is %v", c.IdleAllowance))
	}
	if c.ClockTolerance < 0 {
		errs = append(errs, fmt.Errorf("clock_tolerance: must not be negative, is %v", c.ClockTolerance))
	}
	return errors.Join(errs...)
}

// ErrClosed is returned by Publish after Close, and by Next once all has been taken.
var ErrClosed = errors.New("bus: closed")

// Bus is the stream. Create it with New.
type Bus struct {
	c     Configuration
	ready chan struct{} // holds a token while the consumer has something to look at

	mu     sync.Mutex
	room   sync.Cond // signalled when the queue shrinks or closes
	queue  []*building
	count  int
	bytes  int64
	usual  int // updates of the last batch that was taken, for which the next one has room at first
	closed bool

	watermark ingest.Time // the consumer's

	published, waits, waited prometheus.Counter
}

// New makes an empty bus. reg may be nil.
func New(c Configuration, reg prometheus.Registerer) *Bus {
	b := &Bus{
		c: c, ready: make(chan struct{}, 1),
		published: prometheus.NewCounter(prometheus.CounterOpts{Name: "routevigil_bus_updates_total", Help: "Updates published."}),
		waits:     prometheus.NewCounter(prometheus.CounterOpts{Name: "routevigil_bus_waits_total", Help: "Times a source had to wait because the bus was full."}),
		waited:    prometheus.NewCounter(prometheus.CounterOpts{Name: "routevigil_bus_wait_seconds_total", Help: "Time that sources waited because the bus was full."}),
	}
	b.room.L = &b.mu
	if reg != nil {
		reg.MustRegister(b.published, b.waits, b.waited,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "routevigil_bus_queued_updates", Help: "Updates that wait for the detector."},
				func() float64 { n, _ := b.Queued(); return float64(n) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "routevigil_bus_queued_bytes", Help: "Memory that waiting updates take, roughly."},
				func() float64 { _, n := b.Queued(); return float64(n) }))
	}
	return b
}

// Queued tells how many updates wait, and how many bytes they take.
func (b *Bus) Queued() (updates int, bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.count, b.bytes
}

// Publish copies u into the stream, waiting while the bus is full (one update always fits an empty
// bus, however large). Any number of goroutines may call it. It is an [ingest.Handler].
func (b *Bus) Publish(u *ingest.Update) error {
	size := sizeOf(u)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.full(size) && !b.closed {
		start := time.Now()
		b.waits.Inc()
		for b.full(size) && !b.closed {
			b.room.Wait()
		}
		b.waited.Add(time.Since(start).Seconds())
	}
	if b.closed {
		return ErrClosed
	}
	if n := len(b.queue); n == 0 || len(b.queue[n-1].updates) >= b.c.BatchUpdates {
		b.queue = append(b.queue, &building{updates: make([]ingest.Update, 0, b.usual)})
	}
	b.queue[len(b.queue)-1].add(u, size)
	b.count++
	b.bytes += size
	b.published.Inc()
	b.wake()
	return nil
}

// Canary puts a mark into the stream, behind all that has been published, to measure how long that takes to be judged.
// Next hands it out with what is before it. It moves no clock. Of marks that are in the stream at once only some come out.
func (b *Bus) Canary(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	if len(b.queue) == 0 {
		b.queue = append(b.queue, &building{})
	}
	b.queue[len(b.queue)-1].canary = now
	b.wake()
}

func (b *Bus) full(size int64) bool {
	return b.count > 0 && (b.count >= b.c.MaxUpdates || b.bytes+size > b.c.MaxBytes)
}

func (b *Bus) wake() {
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// Next returns the updates that have gathered, as soon as there are any, in order of arrival and at
// most BatchUpdates of them; or an empty batch when none came within Tick. The batch shares no
// memory with later ones and is the caller's to keep. The error is ctx's, or ErrClosed when the bus
// is closed and drained. Only one goroutine may call Next.
func (b *Bus) Next(ctx context.Context) (*ingest.Batch, error) {
	var tick <-chan time.Time
	for {
		head, closed := b.take()
		if head != nil {
			b.advance(min(head.newest, ingest.TimeOf(time.Now().Add(b.c.ClockTolerance))))
			return &ingest.Batch{Updates: head.updates, Watermark: b.watermark, Canary: head.canary}, nil
		}
		if closed {
			return nil, ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if tick == nil {
			t := time.NewTimer(b.c.Tick)
			defer t.Stop()
			tick = t.C
		}
		select {
		case <-b.ready:
		case <-ctx.Done():
		case now := <-tick:
			b.advance(ingest.TimeOf(now.Add(-b.c.IdleAllowance)))
			return &ingest.Batch{Watermark: b.watermark}, nil
		}
	}
}

func (b *Bus) take() (head *building, closed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		return nil, b.closed
	}
	head = b.queue[0]
	b.queue[0] = nil
	b.queue = b.queue[1:]
	b.count -= len(head.updates)
	b.usual = len(head.updates)
	b.bytes -= head.bytes
	b.room.Broadcast()
	return head, b.closed
}

func (b *Bus) advance(t ingest.Time) { b.watermark = max(b.watermark, t) }

// Close refuses all further updates, also those whose Publish waits. What was published before can
// still be taken with Next.
func (b *Bus) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	b.room.Broadcast()
	b.wake()
}
