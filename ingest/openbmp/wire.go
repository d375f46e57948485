package openbmp

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/apiversions"
	"github.com/segmentio/kafka-go/protocol/fetch"
	"github.com/segmentio/kafka-go/protocol/listoffsets"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"github.com/segmentio/kafka-go/protocol/saslauthenticate"
	"github.com/segmentio/kafka-go/protocol/saslhandshake"
	"github.com/segmentio/kafka-go/sasl"
)

// Versions of the requests: the earliest with what is needed, which every broker from Kafka 0.11 to 4 has.
// Only Fetch is negotiated, because a broker does not give batches of zstd to those who ask in version 9 or
// less.
const (
	versionMetadata    = 2
	versionListOffsets = 1
	minVersionFetch    = 4
	maxVersionFetch    = 11
)

// Bounds of answers.
const (
	maxAnswer     = 64 << 20 // but for Fetch, which is read piece by piece
	maxSASL       = 64 << 10
	maxBrokers    = 1 << 14
	maxTopicParts = 1 << 16 // partitions of one topic
)

// conn is a connection to one broker, which answers one request at a time. It is not safe for concurrent
// use.
type conn struct {
	net.Conn
	in       *bufio.Reader
	client   string
	timeout  time.Duration
	id       int32
	fetchAPI int16
	topic    []byte
	records  []byte
}

// dial connects to a broker, in the time that connecting may take.
func (s *Source) dial(ctx context.Context, address string) (*conn, error) {
	fail := func(err error) (*conn, error) { return nil, fmt.Errorf("connecting to %s: %w", address, err) }
	dialing, cancel := context.WithTimeout(ctx, s.c.ConnectTimeout)
	defer cancel()
	netConn, err := s.dialer(dialing, "tcp", address)
	if err != nil {
		return fail(err)
	}
	c := &conn{Conn: netConn, in: bufio.NewReaderSize(netConn, 64<<10), client: s.c.ClientID, timeout: s.c.ConnectTimeout}
	stop := context.AfterFunc(dialing, func() { c.Close() })
	err = c.negotiate()
	if err == nil && s.sasl != nil {
		host, port, _ := net.SplitHostPort(address)
		number, _ := strconv.Atoi(port)
		if err = c.authenticate(sasl.WithMetadata(dialing, &sasl.Metadata{Host: host, Port: number}), s.sasl); err != nil {
			err = fmt.Errorf("SASL: %w", err)
		}
	}
	if !stop() && err == nil {
		err = dialing.Err()
	}
	if err != nil {
		c.Close()
		return fail(err)
	}
	c.timeout = s.c.RequestTimeout
	return c, nil
}

// send sends a request and begins to read the answer. Its frame is good until the next one.
func (c *conn) send(version int16, request protocol.Message, most int) (*frame, error) {
	c.id++
	c.SetDeadline(time.Now().Add(c.timeout))
	if err := protocol.WriteRequest(c.Conn, version, c.id, c.client, request); err != nil {
		return nil, err
	}
	f := &frame{in: c.in, left: 4}
	size := f.int32()
	if f.left = int(size); f.err == nil && (size < 4 || f.left > most) {
		return nil, fmt.Errorf("an answer of %d octets; the most is %d (does the port speak Kafka, and with or without TLS?)", size, most)
	}
	if id := f.int32(); f.err == nil && id != c.id {
		return nil, fmt.Errorf("the answer is to request %d where %d was asked", id, c.id)
	}
	return f, f.err
}

// end makes sure that the whole of an answer was understood, so that the next one is found.
func (f *frame) end() error {
	if f.err == nil && f.left > 0 {
		f.fail(fmt.Errorf("%d octets are left at the end of an answer", f.left))
	}
	return f.err
}

func (c *conn) negotiate() error {
	f, err := c.send(0, &apiversions.Request{}, maxAnswer)
	if err != nil {
		return err
	}
	if code := f.int16(); code != 0 {
		return fmt.Errorf("asking for the versions of the protocol: %w", kafka.Error(code))
	}
	for range f.count(1 << 10) {
		key, least, most := f.int16(), f.int16(), f.int16()
		if protocol.ApiKey(key) == protocol.Fetch && least <= maxVersionFetch && most >= minVersionFetch {
			c.fetchAPI = min(most, maxVersionFetch)
		}
	}
	if err := f.end(); err != nil {
		return err
	}
	if c.fetchAPI == 0 {
		return fmt.Errorf("the broker does not speak Fetch in a version from %d to %d", minVersionFetch, maxVersionFetch)
	}
	return nil
}

func (c *conn) authenticate(ctx context.Context, m sasl.Mechanism) error {
	f, err := c.send(1, &saslhandshake.Request{Mechanism: m.Name()}, maxSASL)
	if err != nil {
		return err
	}
	code := f.int16()
	for range f.count(1 << 8) {
		f.string()
	}
	if err := f.end(); err != nil {
		return err
	}
	if code != 0 {
		return fmt.Errorf("%s: %w", m.Name(), kafka.Error(code))
	}
	session, say, err := m.Start(ctx)
	for done := false; err == nil && !done; {
		if f, err = c.send(0, &saslauthenticate.Request{AuthBytes: say}, maxSASL); err != nil {
			return err
		}
		code, why := f.int16(), string(f.string())
		challenge := make([]byte, max(0, min(f.int32(), int32(f.left))))
		f.full(challenge)
		if err := f.end(); err != nil {
			return err
		}
		if code != 0 {
			return fmt.Errorf("%w %s", kafka.Error(code), why)
		}
		done, say, err = session.Next(ctx, challenge)
	}
	return err
}

// cluster is what a broker says of the cluster.
type cluster struct {
	id      string
	brokers map[int32]string // address by number
	leaders map[topicPartition]int32
}

type topicPartition struct {
	topic     string
	partition int32
}

// metadata asks for the whole cluster, of which it keeps the topics wanted. A partition without a leader has
// one that is not among the brokers. It fails if more than most partitions are wanted.
func (c *conn) metadata(wanted func(topic string) bool, most int) (*cluster, error) {
	f, err := c.send(versionMetadata, &metadata.Request{}, maxAnswer)
	if err != nil {
		return nil, err
	}
	return f.cluster(wanted, most)
}

func (f *frame) cluster(wanted func(topic string) bool, most int) (*cluster, error) {
	m := &cluster{brokers: map[int32]string{}, leaders: map[topicPartition]int32{}}
	for range f.count(maxBrokers) {
		id, host, port := f.int32(), string(f.string()), f.int32()
		f.string() // rack
		m.brokers[id] = net.JoinHostPort(host, strconv.Itoa(int(port)))
	}
	m.id = string(f.string())
	f.int32() // controller
	for range f.count(1 << 20) {
		code, topic := f.int16(), string(f.string())
		f.bytes(1) // whether it is internal
		take := kafka.Error(code) != kafka.UnknownTopicOrPartition && wanted(topic)
		for range f.count(maxTopicParts) {
			f.int16() // the error of one without a leader
			partition, leader := f.int32(), f.int32()
			for range 2 { // replicas, and those in sync
				f.discard(4 * f.count(maxBrokers))
			}
			if f.err != nil || !take {
				continue
			}
			if len(m.leaders) >= most {
				return nil, fmt.Errorf("more than %d partitions match the pattern; narrow topics or raise max_partitions", most)
			}
			m.leaders[topicPartition{topic, partition}] = leader
		}
	}
	return m, f.end()
}

// offsets asks for the offsets of partitions at a time, and calls each for every answer.
func (c *conn) offsets(topics []listoffsets.RequestTopic, each func(topic []byte, partition int32, code int16, offset int64)) error {
	f, err := c.send(versionListOffsets, &listoffsets.Request{ReplicaID: -1, Topics: topics}, maxAnswer)
	if err != nil {
		return err
	}
	for range f.count(1 << 20) {
		topic := append(c.topic[:0], f.string()...)
		c.topic = topic
		for range f.count(maxTopicParts) {
			partition, code := f.int32(), f.int16()
			f.int64() // time
			offset := f.int64()
			if f.err == nil {
				each(topic, partition, code, offset)
			}
		}
	}
	return f.end()
}

// fetched is what Fetch gave of one partition. Its slices hold only until each returns.
type fetched struct {
	topic     []byte
	partition int32
	code      int16
	high      int64 // the offset after the last message
	records   []byte
	// cut is set if records are only the beginning: the first batch is larger than what is taken.
	cut bool
}

// fetch asks for records, and calls each for every partition in the answer as it arrives. Of one partition at
// most this many octets are kept at a time. The error is that of the connection, or of each.
func (c *conn) fetch(r *fetch.Request, most int, each func(*fetched) error) error {
	f, err := c.send(c.fetchAPI, r, 1<<31-1)
	if err != nil {
		return err
	}
	return c.fetched(f, most, each)
}

func (c *conn) fetched(f *frame, most int, each func(*fetched) error) error {
	f.int32() // throttled for this long; the broker has already waited
	if c.fetchAPI >= 7 {
		if code := f.int16(); f.err == nil && code != 0 {
			return fmt.Errorf("fetching: %w", kafka.Error(code))
		}
		f.int32() // session
	}
	for range f.count(1 << 20) {
		x := fetched{topic: append(c.topic[:0], f.string()...)}
		c.topic = x.topic
		for range f.count(maxTopicParts) {
			x.partition, x.code, x.high = f.int32(), f.int16(), f.int64()
			f.int64() // last stable offset
			if c.fetchAPI >= 5 {
				f.int64() // where the log starts
			}
			f.discard(16 * f.count(1<<20)) // aborted transactions: OpenBMP's collector makes none
			if c.fetchAPI >= 11 {
				f.int32() // a replica to read from, which those with a rack are told
			}
			size := int(f.int32())
			if size > f.left {
				f.fail(fmt.Errorf("records of %d octets where %d are left", size, f.left))
			}
			if f.err != nil {
				return f.err
			}
			keep := max(size, 0)
			if x.cut = size > most; x.cut {
				keep = batchHeader
			}
			c.SetDeadline(time.Now().Add(c.timeout))
			x.records = f.grow(c.records[:0], keep)
			c.records = x.records
			f.discard(max(size, 0) - keep)
			if f.err != nil {
				return f.err
			}
			if err := each(&x); err != nil {
				return err
			}
			c.SetDeadline(time.Now().Add(c.timeout)) // while each kept us waiting the broker did not
		}
	}
	return f.end()
}

// frame reads an answer of the protocol. After an error everything is zero.
type frame struct {
	in   *bufio.Reader
	left int
	err  error
}

var errFrame = errors.New("an answer is shorter than what it says to hold")

func (f *frame) fail(err error) {
	if f.err == nil {
		f.err = err
	}
}

// bytes gives the next n octets, at most the size of the buffer; they hold until the next call.
func (f *frame) bytes(n int) []byte {
	if f.err == nil && (n < 0 || n > f.left || n > f.in.Size()) {
		f.fail(errFrame)
	}
	if f.err != nil {
		return nil
	}
	b, err := f.in.Peek(n)
	if err != nil {
		f.fail(fmt.Errorf("reading an answer: %w", err))
		return nil
	}
	f.in.Discard(n)
	f.left -= n
	return b
}

func (f *frame) int16() int16 {
	if b := f.bytes(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (f *frame) int32() int32 {
	if b := f.bytes(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (f *frame) int64() int64 {
	if b := f.bytes(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// string reads text; null is empty. It holds until the next call.
func (f *frame) string() []byte { return f.bytes(max(0, int(f.int16()))) }

// count reads how many elements follow; null is none. Each has at least one octet.
func (f *frame) count(most int) int {
	n := int(f.int32())
	if n > most || n > f.left {
		f.fail(fmt.Errorf("%d elements where at most %d can be", n, min(most, f.left)))
	}
	if f.err != nil {
		return 0
	}
	return max(n, 0)
}

func (f *frame) full(b []byte) {
	if f.err == nil && len(b) > f.left {
		f.fail(errFrame)
	}
	if f.err != nil {
		return
	}
	n, err := io.ReadFull(f.in, b)
	f.left -= n
	if err != nil {
		f.fail(fmt.Errorf("reading an answer: %w", err))
	}
}

// grow appends the next n octets to b, whose memory grows as they arrive and not as they are announced.
func (f *frame) grow(b []byte, n int) []byte {
	for len(b) < n && f.err == nil {
		if len(b) == cap(b) {
			b = append(make([]byte, 0, max(16<<10, min(n, 2*len(b)))), b...)
		}
		at := len(b)
		b = b[:min(n, cap(b))]
		f.full(b[at:])
	}
	return b
}

func (f *frame) discard(n int) {
	if f.err == nil && n > f.left {
		f.fail(errFrame)
	}
	if f.err != nil {
		return
	}
	m, err := f.in.Discard(n)
	f.left -= m
	if err != nil {
		f.fail(fmt.Errorf("reading an answer: %w", err))
	}
}
