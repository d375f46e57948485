// Package openbmp reads what OpenBMP's collectors put into Kafka: BMP messages as routers sent them, each
// after a header that says which collector and which router. RouteViews publishes its collectors this way
// (stream.routeviews.org), in a topic for each peer.
//
// Those are hundreds or thousands of topics, most of them nearly silent. A consumer that has a connection
// and a goroutine for each, as kafka-go's Reader does, would be a burden for both sides; here one Fetch
// request asks a broker for all partitions that it leads, so that there is one connection for each broker
// and one more for the cluster's metadata. Requests, authentication and LZ4 are kafka-go's; answers are
// decoded here, because kafka-go takes the lengths in them for true, decompresses without a bound, loses a
// whole answer to one broken partition, and does so on goroutines of its own, where what goes wrong ends
// the program.
//
// There is one [bmp.Session] for each router of a collector, whatever topics its messages come in. A stream
// is joined in its middle, so Peer Up messages have mostly not been seen; the session takes the routes all
// the same. Nor is there a way to ask for a table: routes that did not change since the start are unknown.
// A topic that is gone takes no peer down, because nothing was said of the peer.
//
// Offsets are kept in a file and not in a consumer group, because the public cluster should not have to
// remember us. An offset is stored only for what was handed on, and only after some seconds, in which what
// was handed on is recorded: after a crash a little is read twice, and nothing is missed. What the cluster
// has deleted before it was read is missed, and of whom and until when is reported ([Source.OnGap]).
package openbmp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/fetch"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/sasl"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bmp"
)

// Source reads one cluster. Create it with New.
type Source struct {
	c         Configuration
	log       *slog.Logger
	pattern   *regexp.Regexp
	collector int // the group of pattern, or -1
	file      string
	sasl      sasl.Mechanism
	dialer    func(ctx context.Context, network, address string) (net.Conn, error)
	stale     chan struct{} // holds a token when the metadata should be asked for
	onGap     func(ingest.Gap)
	tap       func(router Hash, message []byte) // may be nil
	tables    atomic.Uint64                     // messages of another type than BMP's

	mu         sync.Mutex
	status     ingest.Status // but for what Status sums up
	newest     time.Time     // the latest stamp since the first connection
	lagging    bool
	up         int // brokers that we are connected to
	reset      uint64
	cluster    string
	partitions map[topicPartition]*partition
	discovered bool
	kept       map[topicPartition]int64 // offsets of partitions that are not there
	streams    map[streamKey]*stream
	samples    ingest.Samples
}

var _ ingest.Source = (*Source)(nil)

// partition is one that is read. mu of Source guards the second group of fields.
type partition struct {
	at        topicPartition
	collector string
	turn      sync.Mutex   // held while records are handed on: when the leader changes two may try
	next      atomic.Int64 // the offset to read next, or one of the below
	high      atomic.Int64 // the offset after the last message there is
	last      *stream      // that of the last message; under turn
	newest    ingest.Time  // the stamp of the last update; under turn
	missed    *missed      // where messages have been passed over; under turn

	leader    int32
	lost      int64 // the offset that was out of range
	failures  int
	notBefore time.Time
}

// missed is a time of which a partition had nothing left.
type missed struct {
	from, until ingest.Time     // from: 0 where that is not known; until: 0 until the first update after it
	told        map[uint32]bool // peers' ASNs of which it has been reported
}

// Values of partition.next that are not offsets. The first two are those of ListOffsets.
const (
	atLatest   = -1
	atEarliest = -2
	outOfRange = -3
)

type streamKey struct {
	collector string
	router    Hash
}

// stream is what one router has said, in whatever topics.
type stream struct {
	key     streamKey
	deliver sync.Mutex // held while a message is taken in and handed on
	mu      sync.Mutex // held while the session is in use; not while the handler makes us wait
	session *bmp.Session
}

// New makes a source; c must be valid. Its offsets are in a file in directory, which must exist. reg may be
// nil. The error says what of c.TLS or c.SASL cannot be used.
func New(c Configuration, directory string, log *slog.Logger, reg prometheus.Registerer) (*Source, error) {
	pattern, err := regexp.Compile(c.Topics)
	if err != nil {
		return nil, fmt.Errorf("topics: %w", err)
	}
	s := &Source{
		c: c, log: log.With("feed", c.Name), pattern: pattern, collector: pattern.SubexpIndex(collectorGroup),
		file: filepath.Join(directory, "openbmp-"+url.PathEscape(c.Name)+".json"), stale: make(chan struct{}, 1),
		partitions: map[topicPartition]*partition{}, kept: map[topicPartition]int64{}, streams: map[streamKey]*stream{},
	}
	encryption, err := c.TLS.Client()
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	s.dialer = (&net.Dialer{}).DialContext
	if encryption != nil {
		s.dialer = (&tls.Dialer{Config: encryption}).DialContext
	}
	if s.sasl, err = c.SASL.Login(); err != nil {
		return nil, fmt.Errorf("sasl: %w", err)
	}
	s.status = ingest.Status{Name: c.Name, Type: "openbmp", Address: c.Brokers[0], State: ingest.Connecting, Since: time.Now(), Malformed: map[string]uint64{}}
	if reg != nil {
		prometheus.WrapRegistererWith(prometheus.Labels{"feed": c.Name}, reg).MustRegister(metrics{s})
	}
	return s, nil
}

// OnGap has f told of each peer what it said that the cluster had deleted before it was read, just before the peer's first
// update after that is handed on. Where it began is not told where this process has not heard the partition before. It
// must be called before Run; f may be called by several goroutines.
func (s *Source) OnGap(f func(ingest.Gap)) { s.onGap = f }

// OnMessage sets what is told of every message that carries BMP, as it came with OpenBMP's header; the octets hold until
// it returns. Those of one partition come one at a time, those of several perhaps at once. It must be called before Run.
func (s *Source) OnMessage(f func(router Hash, message []byte)) { s.tap = f }

// handlerError is an error of the consumer, which ends Run.
type handlerError struct{ error }

// Run delivers updates to h until ctx ends or h fails. The error is ctx's, h's, or says why the offsets
// cannot be read.
func (s *Source) Run(ctx context.Context, h ingest.Handler) error {
	stored, corrupt, err := loadOffsets(s.file)
	if err != nil {
		return fmt.Errorf("offsets: %w", err)
	}
	if corrupt != nil {
		s.note(fmt.Errorf("the stored offsets cannot be used, reading begins at the %s messages: %w", s.c.Start, corrupt))
	}
	s.mu.Lock()
	s.cluster = stored.Cluster
	for topic, partitions := range stored.Next {
		for number, next := range partitions {
			s.kept[topicPartition{topic, number}] = next
		}
	}
	s.mu.Unlock()

	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var routines sync.WaitGroup
	routines.Go(func() { s.storeOffsets(ctx) })
	s.discover(ctx, func(ctx context.Context, id int32, address string) {
		routines.Go(func() {
			if err := s.broker(ctx, id, address, h); err != nil {
				fail(err)
			}
		})
	})
	routines.Wait()
	if o := s.offsets(); o.Next != nil {
		if err := o.store(s.file); err != nil {
			s.note(fmt.Errorf("storing offsets: %w; after the next start some messages are read again", err))
		}
	}
	return context.Cause(ctx)
}

// jitter shortens a wait at random by up to half.
func jitter(wait time.Duration) time.Duration { return wait/2 + rand.N(wait/2+1) }

// pause waits, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// discover keeps the list of partitions, and calls start for every broker that leads any. The context that it
// gives ends when the broker leads none any more, or has another address.
func (s *Source) discover(ctx context.Context, start func(ctx context.Context, id int32, address string)) {
	type running struct {
		address string
		stop    context.CancelFunc
	}
	brokers := map[int32]running{}
	var c *conn
	defer func() {
		if c != nil {
			c.Close()
		}
		for _, r := range brokers {
			r.stop()
		}
	}()
	wait := s.c.ReconnectMin
	bootstrap := slices.Clone(s.c.Brokers)
	for {
		m, err := s.metadata(ctx, &c, bootstrap)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			delay := jitter(wait)
			wait = min(2*wait, s.c.ReconnectMax)
			s.failed(err, delay)
			if !pause(ctx, delay) {
				return
			}
			continue
		}
		wait = s.c.ReconnectMin
		leads, again := s.take(m)
		for id, r := range brokers {
			if !leads[id] || m.brokers[id] != r.address {
				r.stop()
				delete(brokers, id)
			}
		}
		bootstrap = slices.Clone(s.c.Brokers)
		for id, address := range m.brokers {
			bootstrap = append(bootstrap, address)
			if _, ok := brokers[id]; !ok && leads[id] {
				brokerContext, stop := context.WithCancel(ctx)
				brokers[id] = running{address, stop}
				start(brokerContext, id, address)
			}
		}
		t := time.NewTimer(again)
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-s.stale:
			pause(ctx, jitter(s.c.ReconnectMin)) // so that trouble does not make a storm of questions
		}
		t.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// metadata asks a broker for the cluster: the one that was asked before, or else the first that answers.
func (s *Source) metadata(ctx context.Context, c **conn, addresses []string) (*cluster, error) {
	ask := func(c *conn) (*cluster, error) {
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer stop()
		return c.metadata(s.pattern.MatchString, s.c.MaxPartitions)
	}
	if *c != nil {
		if m, err := ask(*c); err == nil {
			return m, nil
		}
		(*c).Close()
		*c = nil
	}
	var errs []error
	tried := map[string]bool{}
	for _, address := range addresses {
		if tried[address] || ctx.Err() != nil {
			continue
		}
		tried[address] = true
		var err error
		if *c, err = s.dial(ctx, address); err != nil {
			*c = nil
			errs = append(errs, err)
			continue
		}
		m, err := ask(*c)
		if err == nil {
			return m, nil
		}
		(*c).Close()
		*c = nil
		errs = append(errs, fmt.Errorf("asking %s for the cluster: %w", address, err))
	}
	return nil, errors.Join(errs...)
}

// refresh has the metadata asked for soon.
func (s *Source) refresh() {
	select {
	case s.stale <- struct{}{}:
	default:
	}
}

// take makes the list of partitions that of m. It returns the brokers that lead any, and how long to wait before
// asking again.
func (s *Source) take(m *cluster) (leads map[int32]bool, again time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster != "" && m.id != "" && s.cluster != m.id {
		aside := s.file + ".other"
		err := os.Rename(s.file, aside)
		s.log.Warn("OpenBMP: the stored offsets are of another cluster and of no use; reading begins anew", "stored", s.cluster, "cluster", m.id, "set_aside", aside, "error", err)
		clear(s.partitions)
		clear(s.kept)
		s.discovered = false
	}
	if m.id != "" {
		s.cluster = m.id
	}
	begin := int64(atLatest)
	if s.discovered || s.c.Start == startEarliest {
		begin = atEarliest
	}
	added, removed := 0, 0
	for at, p := range s.partitions {
		if _, there := m.leaders[at]; there {
			continue
		}
		if next := p.next.Load(); next >= 0 {
			if len(s.kept) >= s.c.MaxPartitions {
				clear(s.kept)
			}
			s.kept[at] = next
		}
		delete(s.partitions, at)
		removed++
	}
	leads, again = map[int32]bool{}, s.c.RefreshEvery
	for at, leader := range m.leaders {
		p := s.partitions[at]
		if p == nil {
			p = &partition{at: at, collector: s.collectorOf(at.topic)}
			next, ok := s.kept[at]
			if !ok {
				next = begin
			}
			p.next.Store(next)
			delete(s.kept, at)
			s.partitions[at] = p
			added++
		}
		p.leader = leader
		if _, ok := m.brokers[leader]; ok {
			leads[leader] = true
		} else {
			again = min(again, 5*s.c.ReconnectMin)
		}
	}
	s.discovered = s.discovered || len(s.partitions) > 0
	if added+removed > 0 {
		s.log.Info("OpenBMP: partitions", "partitions", len(s.partitions), "added", added, "removed", removed, "brokers", len(leads))
	}
	if len(s.partitions) == 0 {
		s.status.LastError = fmt.Sprintf("no topic of the cluster matches %s", s.c.Topics)
	}
	s.status.NextAttempt = time.Time{}
	return leads, again
}

func (s *Source) collectorOf(topic string) string {
	if s.collector < 0 {
		return ""
	}
	if m := s.pattern.FindStringSubmatch(topic); m != nil {
		return m[s.collector]
	}
	return ""
}

// broker reads the partitions that a broker leads, until ctx ends. An error is the handler's.
func (s *Source) broker(ctx context.Context, id int32, address string, h ingest.Handler) error {
	wait := s.c.ReconnectMin
	for {
		answered, err := s.session(ctx, id, address, h)
		if stop, ok := errors.AsType[*handlerError](err); ok {
			return stop.error
		}
		if ctx.Err() != nil {
			return nil
		}
		if answered {
			wait = s.c.ReconnectMin
		}
		delay := jitter(wait)
		wait = min(2*wait, s.c.ReconnectMax)
		s.failed(fmt.Errorf("broker %d at %s: %w", id, address, err), delay)
		s.refresh() // it may be that others lead now
		if !pause(ctx, delay) {
			return nil
		}
	}
}

// session is one connection to a broker, from dialling to its end.
func (s *Source) session(ctx context.Context, id int32, address string, h ingest.Handler) (answered bool, err error) {
	c, err := s.dial(ctx, address)
	if err != nil {
		return false, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	s.connected(address)
	defer s.disconnected()
	r := newReader(s, h)
	for ctx.Err() == nil {
		asked, err := s.due(c, id)
		if err != nil {
			return answered, err
		}
		if len(asked) == 0 {
			if !pause(ctx, s.c.MaxWait) {
				break
			}
			continue
		}
		err = c.fetch(s.fetchRequest(asked), s.c.MaxBatchBytes, func(x *fetched) error {
			for _, a := range asked[string(x.topic)] {
				if a.p.at.partition == x.partition {
					return r.fetched(a.p, a.offset, x)
				}
			}
			return nil
		})
		if err != nil {
			return answered, err
		}
		answered = true
	}
	return answered, ctx.Err()
}

// asked is a partition and from where it is asked for.
type asked struct {
	p      *partition
	offset int64
}

// due finds what can be asked of a broker now, by topic, and finds out offsets that are not known.
func (s *Source) due(c *conn, id int32) (map[string][]asked, error) {
	now := time.Now()
	all := map[string][]asked{}
	var unknown []*partition
	s.mu.Lock()
	for at, p := range s.partitions {
		if p.leader != id || now.Before(p.notBefore) {
			continue
		}
		if next := p.next.Load(); next >= 0 {
			all[at.topic] = append(all[at.topic], asked{p, next})
		} else {
			unknown = append(unknown, p)
		}
	}
	s.mu.Unlock()
	if len(unknown) == 0 {
		return all, nil
	}
	earliest, err := s.ends(c, unknown, atEarliest, atLatest)
	if err != nil {
		return nil, err
	}
	latest, err := s.ends(c, unknown, atLatest, atEarliest)
	if err != nil {
		return nil, err
	}
	for _, p := range unknown {
		first, haveFirst := earliest[p.at]
		end, haveEnd := latest[p.at]
		state := p.next.Load()
		switch {
		case state == atEarliest && haveFirst:
			p.next.CompareAndSwap(state, first)
		case state == atLatest && haveEnd:
			p.next.CompareAndSwap(state, end)
		case state == outOfRange && haveFirst && haveEnd:
			s.back(p, first, end)
		default:
			continue
		}
		if next := p.next.Load(); next >= 0 {
			all[p.at.topic] = append(all[p.at.topic], asked{p, next})
		}
	}
	return all, nil
}

// back goes on with a partition that had nothing at the offset where we were. If the log begins later, what we
// would have read has been deleted; if it ends before, it was cut off or made anew, and nobody can tell what of
// it we know.
func (s *Source) back(p *partition, first, end int64) {
	s.mu.Lock()
	lost := p.lost
	s.mu.Unlock()
	next, why := first, "the messages before were deleted by the cluster and are missed"
	if lost >= first {
		next, why = end, "the log ends before the offset: it was cut off or made anew; what is in it is passed over"
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	if p.next.CompareAndSwap(outOfRange, next) {
		p.missed = &missed{from: p.newest, told: map[uint32]bool{}}
		s.log.Warn("OpenBMP: offset out of range; "+why, "topic", p.at.topic, "partition", p.at.partition, "offset", lost, "first", first, "end", end, "goes_on_at", next)
	}
}

// ends asks for an end of the log of each partition whose offset is not known, but of those that wait for the
// other end.
func (s *Source) ends(c *conn, unknown []*partition, end, other int64) (map[topicPartition]int64, error) {
	found := map[topicPartition]int64{}
	byTopic := map[string][]listoffsets.RequestPartition{}
	wanted := map[topicPartition]*partition{}
	for _, p := range unknown {
		if p.next.Load() != other {
			byTopic[p.at.topic] = append(byTopic[p.at.topic], listoffsets.RequestPartition{Partition: p.at.partition, CurrentLeaderEpoch: -1, Timestamp: end})
			wanted[p.at] = p
		}
	}
	if len(wanted) == 0 {
		return found, nil
	}
	var topics []listoffsets.RequestTopic
	for topic, partitions := range byTopic {
		topics = append(topics, listoffsets.RequestTopic{Topic: topic, Partitions: partitions})
	}
	err := c.offsets(topics, func(topic []byte, number int32, code int16, offset int64) {
		at := topicPartition{string(topic), number}
		switch p := wanted[at]; {
		case p == nil:
		case code != 0:
			s.trouble(p, kafka.Error(code))
		case offset >= 0:
			found[at] = offset
		}
	})
	return found, err
}

// fetchRequest asks for partitions in an order that is never the same, because a broker fills its answer from the
// first on and stops when it is full.
func (s *Source) fetchRequest(all map[string][]asked) *fetch.Request {
	r := &fetch.Request{
		ReplicaID: -1, MaxWaitTime: int32(max(1, s.c.MaxWait.Milliseconds())), MinBytes: 1, MaxBytes: int32(s.c.MaxFetchBytes),
		SessionEpoch: -1, Topics: make([]fetch.RequestTopic, 0, len(all)),
	}
	for topic, of := range all {
		t := fetch.RequestTopic{Topic: topic, Partitions: make([]fetch.RequestPartition, 0, len(of))}
		for _, a := range of {
			t.Partitions = append(t.Partitions, fetch.RequestPartition{
				Partition: a.p.at.partition, CurrentLeaderEpoch: -1, FetchOffset: a.offset, LogStartOffset: -1, PartitionMaxBytes: int32(s.c.MaxPartitionBytes),
			})
		}
		r.Topics = append(r.Topics, t)
	}
	rand.Shuffle(len(r.Topics), func(i, j int) { r.Topics[i], r.Topics[j] = r.Topics[j], r.Topics[i] })
	return r
}

// trouble puts off a partition that a broker could not give.
func (s *Source) trouble(p *partition, err kafka.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.failures++
	wait := s.c.ReconnectMin << min(p.failures-1, 16)
	if wait <= 0 || wait > s.c.ReconnectMax {
		wait = s.c.ReconnectMax
	}
	p.notBefore = time.Now().Add(jitter(wait))
	s.status.LastError = fmt.Sprintf("partition %d of %s: %v", p.at.partition, p.at.topic, err)
	s.log.Debug("OpenBMP: partition", "topic", p.at.topic, "partition", p.at.partition, "error", err)
	s.refresh()
}

// reader hands on what one connection brings.
type reader struct {
	s            *Source
	decompressor decompressor
	header       Header
	handle       ingest.Handler
	partition    *partition // that is being read
	updates      uint64     // of the message
}

func newReader(s *Source, h ingest.Handler) *reader {
	r := &reader{s: s, decompressor: decompressor{most: s.c.MaxBatchBytes}}
	r.handle = func(u *ingest.Update) error {
		p := r.partition
		p.newest = u.Time
		if p.missed != nil {
			s.tellMissed(p.missed, u)
		}
		if err := h(u); err != nil {
			return &handlerError{err}
		}
		r.updates++
		return nil
	}
	return r
}

// fetched takes in what was given of a partition from an offset on. The error is a *handlerError.
func (r *reader) fetched(p *partition, offset int64, x *fetched) error {
	switch code := kafka.Error(x.code); {
	case code == kafka.OffsetOutOfRange:
		r.s.mu.Lock()
		p.lost = offset
		r.s.reset++
		r.s.mu.Unlock()
		p.next.CompareAndSwap(offset, outOfRange)
		return nil
	case code != 0:
		r.s.trouble(p, code)
		return nil
	}
	p.high.Store(x.high)
	r.s.mu.Lock()
	p.failures = 0
	r.s.mu.Unlock()
	p.turn.Lock()
	defer p.turn.Unlock()
	r.partition = p
	if len(x.records) == 0 || p.next.Load() != offset {
		return nil // another connection, to a former or a later leader, was here before
	}
	if err := r.records(p, x); err != nil {
		return err
	}
	if p.next.Load() == offset { // it would be given for ever
		r.malformed(p, offset, batchErrorf("batch_old", "%d octets of records before offset %d, which was asked for", len(x.records), offset), x.records)
		p.next.Store(offset + 1)
	}
	return nil
}

// maxTold bounds the peers of one partition of which a gap is reported.
const maxTold = 4096

// tellMissed reports that m is missed of u's peer, if that has not been said.
func (s *Source) tellMissed(m *missed, u *ingest.Update) {
	if m.until == 0 {
		m.until = u.Time
	}
	if s.onGap == nil || m.told[u.Peer.ASN] || len(m.told) >= maxTold {
		return
	}
	m.told[u.Peer.ASN] = true
	g := ingest.Gap{Feed: s.c.Name, Collector: u.Peer.Collector, PeerASN: u.Peer.ASN, Until: m.until.Time()}
	if m.from != 0 {
		g.From = m.from.Time()
	}
	s.onGap(g)
}

// records hands on batches. What is broken is passed over up to the next batch, as far as that can be told.
func (r *reader) records(p *partition, x *fetched) error {
	for b, first := x.records, true; len(b) > 0; first = false {
		one, rest, err := splitBatch(b)
		next := p.next.Load()
		switch {
		case err == errPartial && !first:
			return nil
		case err == errPartial && x.cut:
			err = batchErrorf("batch_too_large", "a batch of more than %d octets (max_batch_bytes)", r.s.c.MaxBatchBytes)
		case err == errPartial:
			err = batchErrorf("batch_truncated", "%d octets of a larger batch", len(b))
		case err == nil && one.last < next:
			b = rest
			continue
		case err == nil && !one.control:
			var records []byte
			if records, err = r.decompressor.decompress(one.codec, one.records); err == nil {
				err = one.each(records, func(offset int64, value []byte) error {
					if offset < next {
						return nil // compressed together with what was asked for
					}
					if err := r.message(p, offset, value); err != nil {
						return err
					}
					p.next.Store(offset + 1)
					return nil
				})
			}
		}
		if bad, ok := errors.AsType[*batchError](err); ok {
			r.malformed(p, p.next.Load(), bad, b)
			if one.first > next || one.last < next || one.last >= x.high {
				one.last = next // which cannot be true, so that no more is given up than one
			}
		} else if err != nil {
			return err
		}
		p.next.Store(max(p.next.Load(), one.last+1))
		b = rest
	}
	return nil
}

// message takes in one message of OpenBMP. The error is a *handlerError.
func (r *reader) message(p *partition, offset int64, value []byte) error {
	now := time.Now()
	r.updates = 0
	body, rest, err := r.header.Decode(value)
	if err != nil {
		r.s.received(now, 0, 0)
		r.malformed(p, offset, err, value)
		return nil
	}
	if r.header.Type != TypeBMPRaw {
		r.s.received(now, 0, 0)
		r.s.tables.Add(1)
		return nil
	}
	if r.s.tap != nil {
		r.s.tap(r.header.Router, value)
	}
	stream := r.s.stream(p, &r.header)
	if stream == nil {
		r.s.received(now, 0, 0)
		r.malformed(p, offset, errorf("too_many_routers", 0, "a router beyond the %d that may be told apart (max_routers)", r.s.c.MaxRouters), value)
		return nil
	}
	if len(rest) > 0 {
		r.malformed(p, offset, errorf("octets_after_message", len(value)-len(rest), "%d octets", len(rest)), value)
	}
	receipt := r.header.Time
	if receipt == 0 {
		receipt = ingest.TimeOf(now)
	}
	stream.deliver.Lock()
	defer stream.deliver.Unlock()
	stream.mu.Lock()
	it, err := stream.session.Message(body, receipt)
	stream.mu.Unlock()
	if err != nil {
		r.s.received(now, 0, 0)
		r.keep(p, offset, err, value) // the session has counted it
		return nil
	}
	it.Time = eventTime(it.Time, receipt)
	stamp := ingest.Time(0)
	if it.BGP != nil {
		stamp = it.Time
	}
	err = stream.session.Emit(it, r.handle)
	r.s.received(now, stamp, r.updates)
	return err
}

// maxSkew is how far a router's stamp may be from the collector's.
const maxSkew = time.Hour

// eventTime is the router's stamp of a message, unless that is far from when OpenBMP's collector received it.
// Then the router's clock is wrong (some count from their start, and show 1971), or it says since when it has
// a route that it tells of only now; what matters is when it is told.
func eventTime(router, receipt ingest.Time) ingest.Time {
	if router.Sub(receipt).Abs() > maxSkew {
		return receipt
	}
	return router
}

// stream finds that of a router, or begins it; nil if there are too many. p.turn is held.
func (s *Source) stream(p *partition, h *Header) *stream {
	name := h.Group
	if len(name) == 0 {
		name = h.AdminID
	}
	if last := p.last; last != nil && last.key.router == h.Router && (p.collector != "" || last.key.collector == string(name)) {
		return last
	}
	key := streamKey{p.collector, h.Router}
	if key.collector == "" {
		key.collector = text(name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.streams[key]
	if x == nil {
		if len(s.streams) >= s.c.MaxRouters {
			return nil
		}
		x = &stream{key: key, session: bmp.NewSession(key.collector, false)}
		s.streams[key] = x
	}
	p.last = x
	return x
}

// received counts a message, and notes how old what it says is.
func (s *Source) received(now time.Time, event ingest.Time, updates uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.status
	st.Messages++
	st.Updates += updates
	st.LastMessage = now
	if event == 0 {
		return
	}
	stamp := event.Time()
	st.LastEventTime = stamp
	st.LagSeconds = now.Sub(stamp).Seconds()
	// One router with old stamps is no lag of the feed: the newest stamp counts. Nor may one from the
	// future hide a lag.
	if stamp.After(now) {
		stamp = now
	}
	if stamp.After(s.newest) {
		s.newest = stamp
	}
	if lagging := now.Sub(s.newest) > s.c.LagAfter; lagging != s.lagging {
		s.lagging = lagging
		s.enter(now)
		if lagging {
			s.log.Warn("OpenBMP: lagging", "seconds", now.Sub(s.newest).Seconds())
		}
	}
}

// enter sets the state; mu is held.
func (s *Source) enter(now time.Time) {
	state := ingest.Connecting
	if s.up > 0 {
		state = ingest.Connected
		if s.lagging {
			state = ingest.Lagging
		}
	}
	if s.status.State != state {
		s.status.State, s.status.Since = state, now
	}
}

func (s *Source) connected(address string) {
	s.log.Info("OpenBMP: connected", "broker", address)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.up == 0 {
		s.newest, s.lagging = time.Time{}, false
	}
	s.up++
	s.status.NextAttempt = time.Time{}
	s.enter(time.Now())
}

func (s *Source) disconnected() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up--
	s.enter(time.Now())
}

// failed notes that a connection ended, or an attempt failed.
func (s *Source) failed(err error, delay time.Duration) {
	s.note(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Reconnects++
	s.status.NextAttempt = time.Now().Add(delay)
}

// note remembers an error, and logs it unless it is the one before again: the log is not theirs to flood.
func (s *Source) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.LastError != err.Error() {
		s.log.Warn("OpenBMP", "error", err)
	}
	s.status.LastError = err.Error()
}

// malformed counts what was wrong, and keeps it for inspection.
func (r *reader) malformed(p *partition, offset int64, err error, b []byte) {
	reason := reasonOf(err)
	r.s.mu.Lock()
	r.s.status.Malformed[reason]++
	r.s.mu.Unlock()
	r.keep(p, offset, err, b)
}

func reasonOf(err error) string {
	if e, ok := errors.AsType[*HeaderError](err); ok {
		return e.Reason
	} else if e, ok := errors.AsType[*batchError](err); ok {
		return e.reason
	} else if e, ok := errors.AsType[*bmp.Error](err); ok {
		return e.Reason
	} else if e, ok := errors.AsType[*bgp.Error](err); ok {
		return e.Fault.String()
	}
	return "malformed"
}

func (r *reader) keep(p *partition, offset int64, err error, b []byte) {
	sample := ingest.Sample{Time: time.Now(), From: fmt.Sprintf("offset %d of partition %d of %s", offset, p.at.partition, p.at.topic), Reason: reasonOf(err),
		Detail: err.Error(), Octets: b}
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.samples.Keep(sample)
}

// Samples implements [ingest.Source].
func (s *Source) Samples() []ingest.Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.samples.All()
}

// Status tells how the feed is. Its peers are those that were heard of and not told to be down.
func (s *Source) Status() ingest.Status {
	now := time.Now()
	s.mu.Lock()
	st := s.status
	st.Malformed = maps.Clone(st.Malformed)
	streams := slices.Collect(maps.Values(s.streams))
	s.mu.Unlock()
	for _, x := range streams {
		x.mu.Lock()
		st.Peers += x.session.Peers()
		for reason, n := range x.session.Counts().Malformed {
			st.Malformed[reason] += n
		}
		x.mu.Unlock()
	}
	if st.State != ingest.Connecting {
		st.NextAttempt = time.Time{}
		last := st.LastMessage
		if last.Before(st.Since) {
			last = st.Since
		}
		if now.Sub(last) > s.c.StallAfter {
			st.State, st.Since = ingest.Stalled, last.Add(s.c.StallAfter)
		}
	}
	return st
}

// offsets is where reading is now.
func (s *Source) offsets() *offsets {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &offsets{Cluster: s.cluster}
	for at, next := range s.kept {
		o.set(at, next)
	}
	for at, p := range s.partitions {
		if next := p.next.Load(); next >= 0 {
			o.set(at, next)
		} else if next == outOfRange {
			o.set(at, p.lost)
		}
	}
	return o
}

// storeOffsets writes the offsets of one interval before, until ctx ends.
func (s *Source) storeOffsets(ctx context.Context) {
	var settled *offsets
	for pause(ctx, s.c.OffsetsEvery) {
		if settled != nil && settled.Next != nil {
			if err := settled.store(s.file); err != nil {
				s.note(fmt.Errorf("storing offsets: %w", err))
			}
		}
		settled = s.offsets()
	}
}
