package openbmp

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
)

// TestRealKafka reads from a real broker, whose address is in ROUTEVIGIL_TEST_KAFKA: many topics, every
// compression, transactions with the control batches that they leave, messages that were deleted, a topic
// that appears later, and reading on after a stop. It makes topics of its own and deletes them.
func TestRealKafka(t *testing.T) {
	address := os.Getenv("ROUTEVIGIL_TEST_KAFKA")
	if address == "" {
		bgptest.Missing(t, "ROUTEVIGIL_TEST_KAFKA does not say where a Kafka broker is")
	}
	const topics = 100
	collector := fmt.Sprintf("test%d", time.Now().UnixNano())
	ctx, cancel := context.WithTimeout(context.Background(), 5*patience)
	defer cancel()
	client := func(options ...kgo.Opt) *kgo.Client {
		c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(address), kgo.RecordPartitioner(kgo.ManualPartitioner())}, options...)...)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	admin := client()
	defer admin.Close()
	var made []string
	create := func(names ...string) {
		r := kmsg.NewPtrCreateTopicsRequest()
		for _, name := range names {
			one := kmsg.NewCreateTopicsRequestTopic()
			one.Topic, one.NumPartitions, one.ReplicationFactor = name, 1, 1
			r.Topics = append(r.Topics, one)
		}
		answer, err := r.RequestWith(ctx, admin)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range answer.Topics {
			if err := kerr.ErrorForCode(one.ErrorCode); err != nil {
				t.Fatalf("%s: %v", one.Topic, err)
			}
		}
		made = append(made, names...)
	}
	defer func() {
		r := kmsg.NewPtrDeleteTopicsRequest()
		for _, name := range made {
			one := kmsg.NewDeleteTopicsRequestTopic()
			one.Topic = kmsg.StringPtr(name)
			r.Topics, r.TopicNames = append(r.Topics, one), append(r.TopicNames, name)
		}
		if _, err := r.RequestWith(ctx, admin); err != nil {
			t.Error(err)
		}
	}()
	a := newRouter(1, 64496)
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	clients := make([]*kgo.Client, len(codecs))
	for i, codec := range codecs {
		clients[i] = client(kgo.ProducerBatchCompression(codec))
		defer clients[i].Close()
	}
	routed := 0
	produce := func(c *kgo.Client, topic string, n int) {
		var records []*kgo.Record
		for range n {
			records = append(records, &kgo.Record{Topic: topic, Value: a.route(t, routed)})
			routed++
		}
		if err := c.ProduceSync(ctx, records...).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	for n := range topics {
		names = append(names, topic(collector, uint32(n)))
	}
	create(names...)
	for n, name := range names {
		produce(clients[n%len(clients)], name, 3)
	}
	transactions := client(kgo.TransactionalID(collector))
	defer transactions.Close()
	if err := transactions.BeginTransaction(); err != nil {
		t.Fatal(err)
	}
	produce(transactions, names[0], 2)
	if err := transactions.EndTransaction(ctx, kgo.TryCommit); err != nil {
		t.Fatal(err)
	}
	produce(clients[0], names[0], 1)

	c := DefaultConfiguration()
	c.Enabled, c.Name, c.Brokers, c.Start = true, "test", []string{address}, startEarliest
	c.Topics = `^routeviews\.(?P<collector>` + collector + `)\.[^.]+\.bmp_raw$`
	c.RefreshEvery, c.MaxWait, c.ReconnectMin = 200*time.Millisecond, 100*time.Millisecond, 10*time.Millisecond
	directory := t.TempDir()
	var n counted
	r := run(t, c, directory, n.prepare)
	r.wait(0, routed)
	r.once(0, routed)
	if got := n.total.Load(); got != 2 {
		t.Errorf("%d connections; one to read and one for the metadata are enough for one broker", got)
	}
	first := routed
	create(topic(collector, topics))
	produce(clients[4], topic(collector, topics), 5)
	r.wait(first, routed)
	eventually(t, func() string { // the transaction's end, which is no message, is passed over
		if next := r.offsets().Next[names[0]][0]; next != 7 {
			return fmt.Sprintf("offset %d is next in %s", next, names[0])
		}
		return ""
	})
	r.once(0, routed)
	r.stop()

	first = routed
	for range 4 { // a batch each
		produce(clients[1], names[1], 1)
	}
	gone := kmsg.NewPtrDeleteRecordsRequest()
	gone.TimeoutMillis = 10_000
	one, part := kmsg.NewDeleteRecordsRequestTopic(), kmsg.NewDeleteRecordsRequestTopicPartition()
	part.Offset = 5 // two of the four, and all before
	one.Topic, one.Partitions = names[1], []kmsg.DeleteRecordsRequestTopicPartition{part}
	gone.Topics = append(gone.Topics, one)
	if _, err := gone.RequestWith(ctx, admin); err != nil {
		t.Fatal(err)
	}
	produce(clients[2], names[2], 2)
	r = run(t, c, directory)
	r.wait(first+2, routed)
	r.once(first+2, routed)
	if st := r.Status(); len(st.Malformed) > 0 {
		t.Errorf("malformed is %v", st.Malformed)
	}
}
