// Package publish tells other programs what our feeds say: as raw BMP (RFC 7854) with OpenBMP's binary header 1.7 on a
// topic of Kafka, which is what RouteViews' public stream is. Whatever reads that reads ours.
//
// What routers say over BMP, or another OpenBMP's collectors pass on, goes out octet for octet. Of all other feeds the
// messages are made from the updates: each collector is shown as a router, and each of its peers comes up with OPENs that
// say how its routes are encoded. What the feeds do not tell is made up and always the same for the same peer: the BGP
// identifier, and our side of the session (AS 23456, no address). A peer's first routes bring its Peer Up, whatever
// came before we began.
//
// All messages of one router are in one partition, in order. Kafka has each at least once: what was written but not
// acknowledged is written again. Two of us with the same feed write it twice.
//
// The stream is for others, so it never holds up our own: what Kafka does not take waits in a queue of bounded size, and
// what does not fit is lost and counted by reason. That the session of a peer began or ended is told later, with the
// next that it says; lost routes are not.
package publish

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
	"github.com/routevigil/routevigil/ingest/openbmp"
)

const (
	batchBytes = 512 << 10 // of one request, before compression; brokers take 1 MiB unless told otherwise
	linger     = 50 * time.Millisecond
	grace      = 10 * time.Second // for what waits at the end
)

// Why messages were lost.
const (
	lostFull     = "queue_full"     // Kafka takes less than the feeds give, or does not answer
	lostRefused  = "refused"        // Kafka does not take it, because it is too large for instance
	lostEncoding = "not_encodable"  // it has no form in BMP, such as a route without a next hop
	lostEnd      = "stopped_before" // the process ended before Kafka took it
)

// Publisher writes the stream. Create it with New; Run must run.
type Publisher struct {
	c       kafkabus.OpenBMP
	cluster *kafkabus.Cluster
	log     *slog.Logger
	arrived chan struct{} // holds a token while something waits

	mu      sync.Mutex
	encoder *encoder
	waiting *queue
	closed  bool

	messages, octets prometheus.Counter
	lost             *prometheus.CounterVec
}

// New prepares to write to the topic of c, which must name one. reg may be nil.
func New(c kafkabus.OpenBMP, cluster *kafkabus.Cluster, log *slog.Logger, reg prometheus.Registerer) *Publisher {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	p := &Publisher{c: c, cluster: cluster, log: log, arrived: make(chan struct{}, 1), encoder: newEncoder(c.Name), waiting: &queue{},
		messages: counter("routevigil_openbmp_published_messages_total", "Messages that Kafka has, of the stream for other consumers."),
		octets:   counter("routevigil_openbmp_published_bytes_total", "Their size before compression."),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "routevigil_openbmp_published_lost_total",
			Help: "Updates and messages that other consumers do not get, by reason."}, []string{"reason"}),
	}
	for _, reason := range []string{lostFull, lostRefused, lostEncoding, lostEnd} {
		p.lost.WithLabelValues(reason)
	}
	if reg != nil {
		reg.MustRegister(p.messages, p.octets, p.lost, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "routevigil_openbmp_published_waiting_bytes",
			Help: "Size of the messages that wait for Kafka, but for those on their way."}, func() float64 {
			p.mu.Lock()
			defer p.mu.Unlock()
			return float64(len(p.waiting.b))
		}))
	}
	return p
}

// Tap publishes what a feed says before it hands it on. Any number of goroutines may call what it returns.
func (p *Publisher) Tap(next ingest.Handler) ingest.Handler {
	return func(u *ingest.Update) error {
		p.Update(u)
		return next(u)
	}
}

// Update publishes what an update says, unless there is no room.
func (p *Publisher) Update(u *ingest.Update) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.full() {
		if u.Kind == ingest.PeerUp || u.Kind == ingest.PeerDown {
			if x := p.encoder.peers[u.Peer]; x != nil {
				x.missed = true
			}
		}
		return
	}
	if err := p.encoder.append(p.waiting, u, ingest.TimeOf(time.Now())); err != nil {
		p.unencodable(u.Peer.String(), err)
	}
	p.wake()
}

// BMP publishes a message as a router of this name and address sent it. It is the handler of [bmp.Station.OnMessage].
func (p *Publisher) BMP(name string, addr netip.Addr, received ingest.Time, message []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.full() {
		return
	}
	if err := p.encoder.wrap(p.waiting, p.encoder.routerOf(name, addr), message, received); err != nil {
		p.unencodable(name, err)
	}
	p.wake()
}

// OpenBMP publishes a message of another OpenBMP's collector. It is the handler of [openbmp.Source.OnMessage].
func (p *Publisher) OpenBMP(router openbmp.Hash, message []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.full() {
		return
	}
	p.waiting.add(append(p.waiting.b, message...), router)
	p.wake()
}

// full reports whether there is no room, and counts what is lost then. mu is held.
func (p *Publisher) full() bool {
	switch {
	case p.closed:
		p.lost.WithLabelValues(lostEnd).Inc()
	case int64(len(p.waiting.b)) >= p.c.MaxBytes/2: // as much may be on its way
		p.lost.WithLabelValues(lostFull).Inc()
	default:
		return false
	}
	return true
}

func (p *Publisher) unencodable(who string, err error) {
	p.lost.WithLabelValues(lostEncoding).Inc()
	p.log.Debug("OpenBMP: what was said cannot be published", "of", who, "error", err)
}

func (p *Publisher) wake() {
	select {
	case p.arrived <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends, and then what waits, for as long as that may take at the end of a process.
func (p *Publisher) Run(ctx context.Context) error {
	var topic *kafkabus.Topic
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(grace, stop) })()
	spare := &queue{}
	var last error
	for done := false; !done; {
		select {
		case <-p.arrived:
			select { // what comes one after the other goes together
			case <-ctx.Done():
			case <-time.After(linger):
			}
		case <-ctx.Done():
		}
		done = ctx.Err() != nil
		for wait := 100 * time.Millisecond; topic == nil && writing.Err() == nil; wait = min(2*wait, 5*time.Second) {
			t, err := p.cluster.Topic(writing, p.c.Topic)
			if err == nil {
				topic = t
				break
			}
			if last == nil || last.Error() != err.Error() {
				p.log.Warn("OpenBMP: nothing can be published yet; it is tried again", "error", err)
			}
			last = err
			select {
			case <-writing.Done():
			case <-time.After(wait):
			}
		}
		done = done || ctx.Err() != nil
		p.mu.Lock()
		batch := p.waiting
		p.waiting, p.closed = spare, done
		p.mu.Unlock()
		if topic == nil {
			p.lost.WithLabelValues(lostEnd).Add(float64(len(batch.messages)))
			return nil
		}
		if spare = batch; !p.write(writing, topic, batch) {
			spare = &queue{} // a request that timed out may still be about to send what is in the old one
		}
		spare.reset()
	}
	return nil
}

// write writes what is in a queue, each partition by itself. It reports whether nothing refers to the queue any more.
func (p *Publisher) write(ctx context.Context, topic *kafkabus.Topic, q *queue) (clean bool) {
	parts := make([][]kafkabus.Record, topic.Partitions())
	q.each(func(message []byte, router uint32) {
		i := int(router % uint32(len(parts)))
		parts[i] = append(parts[i], kafkabus.Record{Value: message})
	})
	cleans := make([]bool, len(parts))
	var wg sync.WaitGroup
	for i, records := range parts {
		wg.Go(func() { cleans[i] = p.writePart(ctx, topic, i, records) })
	}
	wg.Wait()
	clean = true
	for _, c := range cleans {
		clean = clean && c
	}
	return clean
}

func (p *Publisher) writePart(ctx context.Context, topic *kafkabus.Topic, partition int, records []kafkabus.Record) (clean bool) {
	clean = true
	for len(records) > 0 {
		n, size := 0, 0
		for n < len(records) && (n == 0 || size+len(records[n].Value) <= batchBytes) {
			size += len(records[n].Value)
			n++
		}
		tries, err := topic.Insist(ctx, partition, records[:n]...)
		clean = clean && tries == 1 && err == nil
		switch {
		case err == nil:
			p.messages.Add(float64(n))
			p.octets.Add(float64(size))
		case ctx.Err() != nil:
			p.lost.WithLabelValues(lostEnd).Add(float64(len(records)))
			return false
		default:
			p.lost.WithLabelValues(lostRefused).Add(float64(n))
			p.log.Error("OpenBMP: Kafka refuses what is published; it is lost", "messages", n, "error", err)
		}
		records = records[n:]
	}
	return clean
}
