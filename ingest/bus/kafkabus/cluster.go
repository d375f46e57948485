// Package kafkabus is the stream between processes: collectors write updates to Kafka, and every detector
// and recorder reads the same batches in the same order, whatever stops, starts or dies meanwhile.
//
// # Rounds
//
// Collectors write rounds ([Writer]). A round is one batch, cut by partitions: each gets one frame (package
// wire), empty where it has nothing to say. So a reader knows when it has the whole of a round, and can put
// it together in the order in which it was heard, although partitions are read at different speed. A
// writer begins the next round when all partitions have acknowledged the last. What is written twice,
// because an acknowledgement was lost or a request that had timed out was carried out after all, has the
// number of a round that was read already. What a writer did not finish, because it was killed, was not
// acknowledged to anybody and is dropped.
//
// # The order
//
// Several collectors write at once, so somebody has to say what comes first, and how event time goes on.
// That is the detector in charge. Before it judges anything it writes to the topic "order" which rounds it
// takes next; followers, that is the other detectors and all recorders, take what the order says. So
// all of them make exactly the same steps ([Log]), those of the past again when they start anew, and the
// number of a step says which of its effects are stored already.
//
// The order decides too who is in charge: whoever wrote the last claim into it. A detector claims when
// nothing has been written for a while. One that was only slow notices, because the offset that its next
// entry gets is not the one after its last; what it wrote is of an older claim and ignored by all. It is a
// follower from then on. Nothing of this needs a coordinator or a clock, so consumer groups, with what
// goes wrong with them in kafka-go (commits for partitions that were lost, messages that surface after a
// rebalance), are not in use.
package kafkabus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
)

// Names of the topics, after the prefix.
const (
	updatesTopic   = "updates"
	orderTopic     = "order"
	IncidentsTopic = "incidents"
	StateTopic     = "state"
	AlertsTopic    = "alerts"
)

// maxMessage is the largest message that topics take, in octets: a frame, an incident.
const maxMessage = 4 << 20

// kafka-go knows one level of Zstandard for all of a program. The fastest one takes half the time of its usual one, for 4
// to 8 % more octets (TestSizeOnTheWire).
func init() { compress.ZstdCodec.Level = 1 }

// Cluster is a connection to Kafka. It is safe for concurrent use.
type Cluster struct {
	c          Configuration
	log        *slog.Logger
	client     *kafka.Client
	transport  *kafka.Transport
	dialer     *kafka.Dialer
	partitions int // of the updates; 0 until Check
}

// Connect prepares to use the cluster of a valid configuration; nothing is sent yet.
func Connect(c Configuration, log *slog.Logger) (*Cluster, error) {
	if len(c.Brokers) == 0 {
		return nil, errors.New("kafka.brokers names no broker")
	}
	encryption, err := c.TLS.Client()
	if err != nil {
		return nil, fmt.Errorf("kafka.tls: %w", err)
	}
	mechanism, err := c.SASL.Login()
	if err != nil {
		return nil, fmt.Errorf("kafka.sasl: %w", err)
	}
	k := &Cluster{c: c, log: log}
	k.transport = &kafka.Transport{ClientID: c.ClientID, TLS: encryption, SASL: mechanism, DialTimeout: c.Timeout, MetadataTTL: 2 * time.Second}
	k.client = &kafka.Client{Addr: kafka.TCP(c.Brokers...), Timeout: c.Timeout, Transport: k.transport}
	k.dialer = &kafka.Dialer{ClientID: c.ClientID, TLS: encryption, SASLMechanism: mechanism, Timeout: c.Timeout}
	return k, nil
}

// Close closes idle connections. Nothing may be under way.
func (k *Cluster) Close() { k.transport.CloseIdleConnections() }

// Check makes sure that the topics are there.
func (k *Cluster) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.c.Timeout)
	defer cancel()
	var names []string
	for _, t := range k.topics(0) {
		names = append(names, t.Topic)
	}
	m, err := k.client.Metadata(ctx, &kafka.MetadataRequest{Topics: names})
	if err != nil {
		return fmt.Errorf("kafka: %v: %w", k.c.Brokers, err)
	}
	for _, t := range m.Topics {
		if t.Error != nil {
			return fmt.Errorf("kafka: topic %s: %w (\"routevigil kafka init\" makes the topics)", t.Name, t.Error)
		}
		if t.Name == k.c.Prefix+updatesTopic {
			k.partitions = len(t.Partitions)
		}
	}
	if k.partitions == 0 {
		return fmt.Errorf("kafka: topic %s has no partitions", k.c.Prefix+updatesTopic)
	}
	return nil
}

// Record is one message.
type Record struct {
	Offset     int64 // set by reading only
	Key, Value []byte
}

// Append writes messages to a partition once, and returns the offset of the first. After an error it is
// unknown whether they are there, or will be.
func (k *Cluster) Append(ctx context.Context, topic string, partition int, records ...Record) (int64, error) {
	return k.append(ctx, k.c.Prefix+topic, partition, kafka.Zstd, records...)
}

func (k *Cluster) append(ctx context.Context, name string, partition int, codec kafka.Compression, records ...Record) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, k.c.Timeout)
	defer cancel()
	messages := make([]kafka.Record, len(records))
	for i, r := range records {
		messages[i] = kafka.Record{Time: time.Now(), Key: kafka.NewBytes(r.Key), Value: kafka.NewBytes(r.Value)}
	}
	a, err := k.client.Produce(ctx, &kafka.ProduceRequest{Topic: name, Partition: partition,
		RequiredAcks: kafka.RequireAll, Compression: codec, Records: kafka.NewRecordReader(messages...)})
	if err == nil {
		err = a.Error
	}
	if err != nil {
		return 0, fmt.Errorf("kafka: writing to partition %d of %s: %w", partition, name, err)
	}
	return a.BaseOffset, nil
}

// final reports whether to try again is of no use.
func final(err error) bool {
	for _, e := range []kafka.Error{kafka.MessageSizeTooLarge, kafka.RecordListTooLarge, kafka.TopicAuthorizationFailed,
		kafka.ClusterAuthorizationFailed, kafka.UnsupportedForMessageFormat, kafka.InvalidRecord} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// insist repeats a write until it succeeds, is refused for good, or ctx ends.
func (k *Cluster) insist(ctx context.Context, write func() error) error {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := write()
		if err == nil || final(err) {
			return err
		}
		if ctx.Err() != nil {
			return err
		}
		k.log.Warn("Kafka did not take what was written; it is tried again", "error", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait/2 + rand.N(wait)):
		}
	}
}

// Insist is Append until it succeeds; messages may be there more than once afterwards.
func (k *Cluster) Insist(ctx context.Context, topic string, partition int, records ...Record) (offset int64, err error) {
	err = k.insist(ctx, func() error {
		offset, err = k.Append(ctx, topic, partition, records...)
		return err
	})
	return offset, err
}

// Topic is one that others read, whose name has no prefix.
type Topic struct {
	k          *Cluster
	name       string
	partitions int
}

// Topic finds a topic.
func (k *Cluster) Topic(ctx context.Context, name string) (*Topic, error) {
	ctx, cancel := context.WithTimeout(ctx, k.c.Timeout)
	defer cancel()
	m, err := k.client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{name}})
	if err != nil {
		return nil, fmt.Errorf("kafka: %v: %w", k.c.Brokers, err)
	}
	for _, t := range m.Topics {
		if t.Error == nil && t.Name == name && len(t.Partitions) > 0 {
			return &Topic{k, name, len(t.Partitions)}, nil
		} else if t.Error != nil {
			return nil, fmt.Errorf("kafka: topic %s: %w (\"routevigil kafka init\" makes it)", name, t.Error)
		}
	}
	return nil, fmt.Errorf("kafka: the cluster says nothing of topic %s", name)
}

// Partitions is how many it has.
func (t *Topic) Partitions() int { return t.partitions }

// Insist is [Cluster.Insist], compressed as OpenBMP's collectors do, for consumers that know no Zstandard. Unless it took
// one try and no error, the memory of the records must not be used again: a request that timed out may be sent still.
func (t *Topic) Insist(ctx context.Context, partition int, records ...Record) (tries int, err error) {
	err = t.k.insist(ctx, func() error {
		tries++
		_, err := t.k.append(ctx, t.name, partition, kafka.Snappy, records...)
		return err
	})
	return tries, err
}

// Bounds returns the offset of the first message that a partition has, and that of the next it will get.
func (k *Cluster) Bounds(ctx context.Context, topic string, partition int) (first, next int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, k.c.Timeout)
	defer cancel()
	name := k.c.Prefix + topic
	for _, ask := range []kafka.OffsetRequest{kafka.FirstOffsetOf(partition), kafka.LastOffsetOf(partition)} {
		a, err := k.client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{name: {ask}}})
		if err == nil && len(a.Topics[name]) != 1 {
			err = kafka.UnknownTopicOrPartition
		}
		if err == nil {
			err = a.Topics[name][0].Error
		}
		if err != nil {
			return 0, 0, fmt.Errorf("kafka: offsets of partition %d of %s: %w", partition, name, err)
		}
		if ask.Timestamp == kafka.FirstOffset {
			first = a.Topics[name][0].FirstOffset
		} else {
			next = a.Topics[name][0].LastOffset
		}
	}
	return first, next, nil
}

// reader reads a partition from an offset on. It must be closed.
func (k *Cluster) reader(topic string, partition int, offset int64) *kafka.Reader {
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: k.c.Brokers, Topic: k.c.Prefix + topic, Partition: partition, Dialer: k.dialer,
		QueueCapacity: 8, MinBytes: 1, MaxBytes: 2 * maxMessage, MaxWait: 200 * time.Millisecond, ReadLagInterval: -1,
		ReadBackoffMin: 20 * time.Millisecond, ReadBackoffMax: time.Second, MaxAttempts: 3})
	r.SetOffset(offset)
	return r
}

// Read calls each for the messages of a partition from an offset up to, and without, another.
func (k *Cluster) Read(ctx context.Context, topic string, partition int, from, to int64, each func(Record) error) error {
	if from >= to {
		return nil
	}
	r := k.reader(topic, partition, from)
	defer r.Close()
	for {
		m, err := fetch(ctx, r)
		if err != nil {
			return err
		}
		if m.Offset >= to {
			return nil
		}
		if err := each(Record{m.Offset, m.Key, m.Value}); err != nil {
			return err
		}
		if m.Offset == to-1 {
			return nil
		}
	}
}

// Tail reads a partition from its first message on, without end.
type Tail struct{ r *kafka.Reader }

// Tail begins to read. Close must be called.
func (k *Cluster) Tail(topic string, partition int) *Tail {
	return &Tail{k.reader(topic, partition, kafka.FirstOffset)}
}

// Next waits for the next message; the error is ctx's.
func (t *Tail) Next(ctx context.Context) (Record, error) {
	m, err := fetch(ctx, t.r)
	return Record{m.Offset, m.Key, m.Value}, err
}

// Close stops reading.
func (t *Tail) Close() { t.r.Close() }

// fetch returns the next message, however long that takes. The error is ctx's.
func fetch(ctx context.Context, r *kafka.Reader) (kafka.Message, error) {
	for {
		m, err := r.FetchMessage(ctx)
		if err == nil {
			return m, nil
		}
		if ctx.Err() != nil {
			return m, ctx.Err()
		}
		select { // the reader goes on by itself
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}
