package kafkabus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bus"
	"github.com/routevigil/routevigil/ingest/bus/wire"
)

const (
	maxTaken     = 16384                  // updates of one step, but for those of one round
	idleStep     = 500 * time.Millisecond // between steps without updates
	abandonAfter = 2 * giveUp             // a round that is not complete after this never will be
	maxAhead     = 64 << 20               // octets of frames that wait for the rest of their rounds
)

// entry is a message of the order: a claim, which says who is in charge from here on, or a step.
type entry struct {
	Claim string `json:"claim,omitempty"` // who claims; random, and empty in a step

	Epoch     int64       `json:"epoch"`  // offset of the claim that the step is written under
	Number    uint64      `json:"number"` // of the step: 1, 2, 3 …
	Watermark ingest.Time `json:"watermark"`
	Rounds    []roundKey  `json:"rounds,omitempty"`
	// From are the offsets, by partition, from which everything has to be read that this step or a later one takes.
	From []int64 `json:"from"`
}

type roundKey struct {
	Writer uint64 `json:"w"`
	Round  uint64 `json:"r"`
}

// Position is where a Log stands. It can be stored, and a Log begun there later.
type Position struct {
	Order     int64             `json:"order"`  // offset of the next entry
	Number    uint64            `json:"number"` // of the last step
	Epoch     int64             `json:"epoch"`
	Watermark ingest.Time       `json:"watermark"`
	From      []int64           `json:"from,omitempty"`
	Taken     map[uint64]uint64 `json:"taken,omitempty"` // the last round taken, by writer
}

// Step is a batch that every follower gets at the same place.
type Step struct {
	ingest.Batch
	Number uint64
	// Leading says that this process wrote the step into the order. Otherwise whatever the steps before
	// caused has been made durable by whoever did.
	Leading bool
}

// ErrLost is wrapped by errors of Next where the cluster no longer has what the order says comes next.
var ErrLost = errors.New("the cluster has already deleted what is to be read next")

// LogOptions say how to follow.
type LogOptions struct {
	// Candidate: take charge when nobody is.
	Candidate bool
	// Since is where to begin, nil for the oldest step that the cluster has. Steps up to After are not
	// returned.
	Since *Position
	After uint64
	// Metrics may be nil.
	Metrics prometheus.Registerer
}

// Log reads the steps, and makes them while in charge. It belongs to one goroutine, but for CaughtUp.
type Log struct {
	k      *Cluster
	o      LogOptions
	cancel context.CancelFunc
	ctx    context.Context // of the partitions' readers
	wg     sync.WaitGroup

	order    *kafka.Reader
	parts    []*part // nil until it is known where to begin
	arrived  chan struct{}
	at       Position
	marks    []Position // earlier positions, from which what counts as a duplicate can be learned again
	claim    string
	leading  bool
	lastStep time.Time
	pending  map[roundKey]*round
	ready    []roundKey // complete, in order of completion; while leading
	ahead    int        // octets in pending
	decoders []wire.Decoder
	dup      duplicates

	mu       sync.Mutex
	caughtUp bool

	malformed, abandoned, duplicate prometheus.Counter
}

// part is what is read of a partition.
type part struct {
	messages chan kafka.Message
	next     int64             // offset after the last message taken from messages
	newest   map[uint64]uint64 // the highest round seen, by writer
}

// round is one that is not taken yet.
type round struct {
	frames  [][]byte // by partition; nil where it has not arrived
	offsets []int64
	missing int
	size    int
	updates int
	first   time.Time
}

// Follow begins to read. Close must be called. The topics must be there ([Cluster.Check]).
func (k *Cluster) Follow(o LogOptions) (*Log, error) {
	l := &Log{k: k, o: o, arrived: make(chan struct{}, 1), pending: map[roundKey]*round{}, decoders: make([]wire.Decoder, k.partitions),
		at: Position{Epoch: -1, Taken: map[uint64]uint64{}}, claim: NewName(), dup: duplicates{window: k.c.Duplicates}}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	l.malformed = counter("routevigil_kafka_frames_malformed_total", "Frames of which something could not be decoded and is passed over.")
	l.abandoned = counter("routevigil_kafka_rounds_abandoned_total", "Rounds dropped because their writer did not finish them.")
	l.duplicate = counter("routevigil_kafka_duplicates_total", "Updates passed over because another collector had said the same.")
	if o.Metrics != nil {
		o.Metrics.MustRegister(l.malformed, l.abandoned, l.duplicate)
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	offset := kafka.FirstOffset
	if o.Since != nil {
		l.at = o.Since.clone()
		offset = l.at.Order
		if l.at.From != nil {
			if err := l.place(l.at.From); err != nil {
				return nil, err
			}
		}
	}
	l.order = k.reader(orderTopic, 0, offset)
	return l, nil
}

func (p *Position) clone() Position {
	c := *p
	c.Taken = maps.Clone(p.Taken)
	if c.Taken == nil {
		c.Taken = map[uint64]uint64{}
	}
	return c
}

// Close stops reading.
func (l *Log) Close() {
	l.cancel()
	l.order.Close()
	l.wg.Wait()
}

// CaughtUp reports whether the end of the order was reached.
func (l *Log) CaughtUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.caughtUp
}

func (l *Log) setCaughtUp(yes bool) {
	l.mu.Lock()
	l.caughtUp = yes
	l.mu.Unlock()
}

// Position is where a Log has to begin in order to go on after the last step returned, if that step's number
// is given as After.
func (l *Log) Position() Position {
	if len(l.marks) > 0 {
		return l.marks[0].clone()
	}
	return l.here()
}

func (l *Log) here() Position {
	p := l.at.clone()
	p.From = l.from()
	return p
}

// mark remembers where we are, for as long as duplicates are remembered.
func (l *Log) mark() {
	w := l.k.c.Duplicates
	if w == 0 {
		return
	}
	if n := len(l.marks); n == 0 || l.at.Watermark.Sub(l.marks[n-1].Watermark) >= w/8 {
		l.marks = append(l.marks, l.here())
	}
	for len(l.marks) > 1 && l.at.Watermark.Sub(l.marks[1].Watermark) > w {
		l.marks = l.marks[1:]
	}
}

// place begins to read the partitions.
func (l *Log) place(from []int64) error {
	if len(from) != l.k.partitions {
		return fmt.Errorf("kafka: what was stored of %d partitions does not fit a topic of %d", len(from), l.k.partitions)
	}
	for p, offset := range from {
		x := &part{messages: make(chan kafka.Message, 2), next: offset, newest: map[uint64]uint64{}}
		l.parts = append(l.parts, x)
		r := l.k.reader(updatesTopic, p, offset)
		l.wg.Go(func() {
			defer r.Close()
			for {
				m, err := fetch(l.ctx, r)
				if err != nil {
					return
				}
				select {
				case x.messages <- m:
				case <-l.ctx.Done():
					return
				}
				select {
				case l.arrived <- struct{}{}:
				default:
				}
			}
		})
	}
	return nil
}

// from are the offsets of the first messages that are needed still.
func (l *Log) from() []int64 {
	if l.parts == nil {
		return nil
	}
	from := make([]int64, len(l.parts))
	for p, x := range l.parts {
		from[p] = x.next
	}
	for _, r := range l.pending {
		for p, frame := range r.frames {
			if frame != nil {
				from[p] = min(from[p], r.offsets[p])
			}
		}
	}
	return from
}

// take puts a message to the others of its round, which it returns if that is complete now.
func (l *Log) take(p int, m kafka.Message) (roundKey, bool) {
	x := l.parts[p]
	if m.Offset < x.next {
		return roundKey{}, false
	}
	if m.Offset > x.next && x.next > 0 {
		l.k.log.Error("messages are missing, which the cluster has deleted before they were read", "topic", l.k.c.Prefix+updatesTopic, "partition", p,
			"from", x.next, "to", m.Offset)
	}
	x.next = m.Offset + 1
	h, err := l.decoders[p].Open(m.Value)
	if err != nil {
		l.malformed.Inc()
		l.k.log.Error("a message is not understood and passed over", "topic", m.Topic, "partition", p, "offset", m.Offset, "error", err)
		return roundKey{}, false
	}
	x.newest[h.Writer] = max(x.newest[h.Writer], h.Round)
	key := roundKey{h.Writer, h.Round}
	if h.Round <= l.at.Taken[h.Writer] {
		return key, false // written twice
	}
	r := l.pending[key]
	if r == nil {
		r = &round{frames: make([][]byte, len(l.parts)), offsets: make([]int64, len(l.parts)), missing: len(l.parts), first: time.Now()}
		l.pending[key] = r
	}
	if r.frames[p] != nil {
		return key, false
	}
	r.frames[p], r.offsets[p] = m.Value, m.Offset
	r.missing--
	r.size += len(m.Value)
	r.updates += h.Updates
	l.ahead += len(m.Value)
	return key, r.missing == 0
}

func (l *Log) drop(key roundKey) {
	if r := l.pending[key]; r != nil {
		l.ahead -= r.size
		delete(l.pending, key)
	}
}

// Next returns the next step. It waits for one for as long as ctx allows.
func (l *Log) Next(ctx context.Context) (*Step, error) {
	for {
		var s *Step
		var err error
		if l.leading {
			s, err = l.lead(ctx)
		} else {
			s, err = l.follow(ctx)
		}
		if err != nil {
			return nil, err
		}
		if s != nil && s.Number > l.o.After {
			return s, nil
		}
	}
}

// follow takes an entry of the order. The step is nil where that is none.
func (l *Log) follow(ctx context.Context) (*Step, error) {
	waiting, cancel := context.WithTimeout(ctx, l.patience())
	m, err := l.order.FetchMessage(waiting)
	cancel()
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if waiting.Err() != nil {
			return nil, l.silence(ctx)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
		return nil, nil
	}
	if m.Offset < l.at.Order {
		return nil, nil
	}
	if l.at.Order > 0 && m.Offset > l.at.Order {
		return nil, fmt.Errorf("topic %s has nothing from %d to %d: %w", l.k.c.Prefix+orderTopic, l.at.Order, m.Offset, ErrLost)
	}
	l.at.Order = m.Offset + 1
	l.setCaughtUp(l.at.Order >= m.HighWaterMark)
	var e entry
	if err := json.Unmarshal(m.Value, &e); err != nil {
		l.k.log.Error("an entry of the order is not understood and passed over", "offset", m.Offset, "error", err)
		return nil, nil
	}
	if e.Claim != "" {
		l.at.Epoch = m.Offset
		if e.Claim == l.claim {
			l.begin()
		}
		return nil, nil
	}
	if e.Epoch < l.at.Epoch {
		return nil, nil // of one who did not know yet that another was in charge
	}
	if l.at.Number > 0 && e.Number != l.at.Number+1 {
		return nil, fmt.Errorf("step %d of the order follows %d: %w", e.Number, l.at.Number, ErrLost)
	}
	if len(e.From) != l.k.partitions {
		return nil, fmt.Errorf("kafka: step %d of the order is of %d partitions, and there are %d", e.Number, len(e.From), l.k.partitions)
	}
	l.at.Epoch = e.Epoch
	if l.parts == nil {
		if err := l.place(e.From); err != nil {
			return nil, err
		}
	}
	for _, key := range e.Rounds {
		if err := l.complete(ctx, key); err != nil {
			return nil, err
		}
	}
	s := l.step(&e)
	for key, r := range l.pending { // what was abandoned, or taken before we began
		for p, frame := range r.frames {
			if frame != nil && r.offsets[p] < e.From[p] {
				l.drop(key)
				break
			}
		}
	}
	return s, nil
}

// complete reads until the whole of a round is there.
func (l *Log) complete(ctx context.Context, key roundKey) error {
	for p, x := range l.parts {
		for {
			if r := l.pending[key]; r != nil && r.frames[p] != nil {
				break
			}
			if x.newest[key.Writer] > key.Round || key.Round <= l.at.Taken[key.Writer] {
				return fmt.Errorf("round %d of writer %x: %w", key.Round, key.Writer, ErrLost)
			}
			select {
			case m := <-x.messages:
				l.take(p, m)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// patience is how long to wait for the next entry.
func (l *Log) patience() time.Duration {
	if l.o.Candidate {
		return l.k.c.Takeover
	}
	return time.Minute
}

// silence claims, if nothing was written for long enough and there is nothing that we have not read.
func (l *Log) silence(ctx context.Context) error {
	first, next, err := l.k.Bounds(ctx, orderTopic, 0)
	if err != nil {
		l.k.log.Warn("Kafka does not answer", "error", err)
		return nil
	}
	if l.at.Order < first && first < next {
		return nil // the reader is about to begin there
	}
	if next > max(l.at.Order, first) {
		return nil
	}
	l.setCaughtUp(true)
	if !l.o.Candidate {
		return nil
	}
	b, err := json.Marshal(entry{Claim: l.claim, Number: l.at.Number})
	if err != nil {
		return err
	}
	if _, err := l.k.Append(ctx, orderTopic, 0, Record{Value: b}); err != nil {
		l.k.log.Warn("taking charge failed; it is tried again", "error", err)
	}
	return nil // the claim counts when it is read
}

// begin takes charge.
func (l *Log) begin() {
	l.leading, l.lastStep = true, time.Now()
	l.k.log.Info("this detector is in charge", "epoch", l.at.Epoch, "step", l.at.Number)
	l.ready = l.ready[:0]
	if l.parts == nil {
		if err := l.place(make([]int64, l.k.partitions)); err != nil {
			panic(err) // it has the right length
		}
	}
	// Those that are complete already: in order of writer and round.
	for key, r := range l.pending {
		if r.missing == 0 {
			l.ready = append(l.ready, key)
		}
	}
	sortRounds(l.ready)
}

// resign makes us a follower, from the entry after the last step on.
func (l *Log) resign(why error) {
	l.k.log.Warn("this detector is no longer sure to be in charge and follows", "reason", why)
	l.leading = false
	l.order.SetOffset(l.at.Order)
}

// lead makes a step of the rounds that are there, or waits for some.
func (l *Log) lead(ctx context.Context) (*Step, error) {
	timer := time.NewTimer(max(0, time.Until(l.lastStep.Add(idleStep))))
	defer timer.Stop()
	for due := false; ; {
		l.gather()
		updates := 0
		for _, key := range l.ready {
			updates += l.pending[key].updates
		}
		if updates > 0 || due {
			break
		}
		select {
		case <-l.arrived:
		case <-timer.C:
			due = true
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	e := entry{Epoch: l.at.Epoch, Number: l.at.Number + 1, Watermark: l.at.Watermark, From: l.from()}
	updates := 0
	for _, key := range l.ready {
		r := l.pending[key]
		if updates > 0 && updates+r.updates > maxTaken {
			break
		}
		updates += r.updates
		e.Rounds = append(e.Rounds, key)
		for p, frame := range r.frames {
			if h, err := l.decoders[p].Open(frame); err == nil {
				e.Watermark = max(e.Watermark, h.Watermark)
			}
		}
	}
	b, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	offset, err := l.k.Append(ctx, orderTopic, 0, Record{Value: b})
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		l.resign(err)
		return nil, nil
	}
	if err := l.stillInCharge(ctx, offset); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		l.resign(err)
		return nil, nil
	}
	l.at.Order, l.lastStep = offset+1, time.Now()
	l.ready = l.ready[len(e.Rounds):]
	s := l.step(&e)
	s.Leading = true
	l.abandon()
	return s, nil
}

// stillInCharge makes sure that what others wrote between our last entry and that at offset is of older claims.
func (l *Log) stillInCharge(ctx context.Context, offset int64) error {
	reading, cancel := context.WithTimeout(ctx, l.k.c.Timeout)
	defer cancel()
	return l.k.Read(reading, orderTopic, 0, l.at.Order, offset, func(r Record) error {
		var e entry
		if err := json.Unmarshal(r.Value, &e); err != nil {
			return nil
		}
		if e.Claim != "" || e.Epoch >= l.at.Epoch {
			return fmt.Errorf("another took charge at offset %d of the order", r.Offset)
		}
		return nil
	})
}

// gather takes what has arrived. Of a partition that is far ahead of others nothing more is taken.
func (l *Log) gather() {
	for again := true; again; {
		again = false
		for p, x := range l.parts {
			if l.ahead > maxAhead && !l.wanting(p) {
				continue
			}
			select {
			case m := <-x.messages:
				again = true
				if key, complete := l.take(p, m); complete {
					l.ready = append(l.ready, key)
				}
			default:
			}
		}
		if len(l.ready) > 0 && l.ahead > maxAhead/4 {
			l.setCaughtUp(false)
			return
		}
	}
	l.setCaughtUp(true)
}

// wanting reports whether a round waits for its frame of a partition.
func (l *Log) wanting(p int) bool {
	for _, r := range l.pending {
		if r.missing > 0 && r.frames[p] == nil {
			return true
		}
	}
	return false
}

// abandon drops rounds that will not be completed any more.
func (l *Log) abandon() {
	for key, r := range l.pending {
		if r.missing > 0 && time.Since(r.first) > abandonAfter {
			l.k.log.Warn("a round was not finished and is dropped; its writer must have died", "writer", fmt.Sprintf("%x", key.Writer), "round", key.Round, "updates", r.updates)
			l.abandoned.Inc()
			l.drop(key)
		}
	}
}

// step makes the batch of an entry whose rounds are complete.
func (l *Log) step(e *entry) *Step {
	var b bus.Builder
	updates := 0
	for _, key := range e.Rounds {
		updates += l.pending[key].updates
	}
	b.Grow(min(updates, 2*maxTaken)) // more, frames claim perhaps and do not have
	for _, key := range e.Rounds {
		l.assemble(&b, key, e.Watermark)
		l.at.Taken[key.Writer] = key.Round
		l.drop(key)
	}
	l.dup.forget(e.Watermark)
	l.at.Number, l.at.Watermark = e.Number, e.Watermark
	l.mark()
	return &Step{Batch: b.Batch(e.Watermark), Number: e.Number}
}

// assemble brings the frames of a round back into the order in which the writer was told.
func (l *Log) assemble(b *bus.Builder, key roundKey, now ingest.Time) {
	r := l.pending[key]
	type head struct {
		index  uint64
		update *ingest.Update
	}
	heads := make([]head, len(r.frames))
	advance := func(p int) {
		index, u, err := l.decoders[p].Next()
		if err != nil {
			heads[p] = head{}
			if err != io.EOF {
				l.malformed.Inc()
				l.k.log.Error("the rest of a message is not understood and passed over", "partition", p, "offset", r.offsets[p], "error", err)
			}
			return
		}
		heads[p] = head{index, u}
	}
	for p, frame := range r.frames {
		if _, err := l.decoders[p].Open(frame); err == nil {
			advance(p)
		}
	}
	session, last := false, uint64(0) // the last update was one of a session, and its index
	for {
		least := -1
		for p := range heads {
			if heads[p].update != nil && (least < 0 || heads[p].index < heads[least].index) {
				least = p
			}
		}
		if least < 0 {
			return
		}
		h := heads[least]
		isSession := h.update.Kind == ingest.PeerUp || h.update.Kind == ingest.PeerDown
		again := isSession && session && h.index == last // it is in every partition
		session, last = isSession, h.index
		if !again {
			if l.dup.window > 0 && l.dup.seen(l.decoders[least].Digest(), key.Writer, now) {
				l.duplicate.Inc()
			} else {
				b.Add(h.update)
			}
		}
		advance(least)
	}
}
