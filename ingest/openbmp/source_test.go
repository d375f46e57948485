package openbmp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bmp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen; on a machine that is loaded a lot takes its time.
const patience = time.Minute

func eventually(t *testing.T, missing func() string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		what := missing()
		if what == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// router is one whose messages a test makes.
type router struct {
	number byte
	peer   bmp.PeerHeader
}

func newRouter(number byte, asn uint32) router {
	addr := netip.AddrFrom4([4]byte{198, 51, 100, byte(asn)})
	return router{number, bmp.PeerHeader{Addr: addr, ASN: asn, ID: addr}}
}

func (r router) raw(t testing.TB, m bmp.Message) []byte {
	t.Helper()
	m.Version = 3
	body, err := bmp.Append(nil, &m)
	if err != nil {
		t.Fatal(err)
	}
	h := Header{
		Flags: FlagRouter, Type: TypeBMPRaw, Time: ingest.TimeOf(time.Now()), AdminID: []byte("collector"), Router: Hash{r.number},
		RouterIP: netip.AddrFrom4([4]byte{192, 0, 2, r.number}), Group: fmt.Appendf(nil, "router%d", r.number), Rows: 1,
	}
	b, err := Append(nil, &h, body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// prefix is the n-th of those that the tests announce.
func prefix(n int) netip.Prefix {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 10<<24|uint32(n)<<8)
	return netip.PrefixFrom(netip.AddrFrom4(b), 24)
}

func (r router) route(t testing.TB, n int) []byte {
	t.Helper()
	update, err := bgp.AppendUpdate(nil, &bgp.Update{
		Announced: []bgp.NLRI{{Prefix: prefix(n)}},
		Attrs: bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: r.peer.Addr,
			ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{r.peer.ASN, 64501}}}},
	}, bgp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	peer := r.peer
	peer.Time = ingest.TimeOf(time.Now())
	return r.raw(t, bmp.Message{Type: bmp.TypeRouteMonitoring, Peer: peer, BGP: update})
}

func (r router) up(t testing.TB) []byte {
	open := &bgp.Open{ASN: r.peer.ASN, HoldTime: 90, ID: r.peer.ID, Capabilities: []bgp.Capability{bgp.FourOctetAS(r.peer.ASN)}}
	return r.raw(t, bmp.Message{Type: bmp.TypePeerUp, Peer: r.peer, PeerUp: bmp.PeerUp{LocalAddr: netip.MustParseAddr("192.0.2.254"), Sent: open, Received: open}})
}

func (r router) down(t testing.TB) []byte {
	return r.raw(t, bmp.Message{Type: bmp.TypePeerDown, Peer: r.peer, PeerDown: bmp.PeerDown{Reason: bmp.DownRemote}})
}

// kafkaCluster is a cluster for a test, and a client that writes to it.
type kafkaCluster struct {
	*kfake.Cluster
	t      *testing.T
	client *kgo.Client
}

func startCluster(t *testing.T, options ...kfake.Opt) *kafkaCluster {
	t.Helper()
	k, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	c := &kafkaCluster{Cluster: k, t: t}
	t.Cleanup(c.close)
	return c
}

func (c *kafkaCluster) close() {
	if c.client != nil {
		c.client.Close()
		c.client = nil
	}
	c.Cluster.Close()
}

func (c *kafkaCluster) create(partitions int32, topics ...string) {
	c.t.Helper()
	for _, topic := range topics {
		if err := c.CreateTopic(topic, partitions, nil); err != nil {
			c.t.Fatal(err)
		}
	}
}

// produce writes values to partition 0 of a topic, in one batch.
func (c *kafkaCluster) produce(topic string, values ...[]byte) {
	c.t.Helper()
	c.produceWith(kgo.NoCompression(), topic, values...)
}

func (c *kafkaCluster) produceWith(codec kgo.CompressionCodec, topic string, values ...[]byte) {
	c.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(0), kgo.DisableIdempotentWrite(), kgo.ProducerBatchMaxBytes(8<<20),
		kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		c.t.Fatal(err)
	}
	defer client.Close()
	var records []*kgo.Record
	for _, v := range values {
		records = append(records, &kgo.Record{Topic: topic, Value: v})
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := client.ProduceSync(ctx, records...).FirstErr(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *kafkaCluster) configuration() Configuration {
	configuration := DefaultConfiguration()
	configuration.Enabled, configuration.Name, configuration.Start = true, "test", startEarliest
	configuration.Brokers = c.ListenAddrs()
	configuration.MaxWait, configuration.RefreshEvery = 50*time.Millisecond, 100*time.Millisecond
	configuration.OffsetsEvery = 20 * time.Millisecond
	configuration.ReconnectMin, configuration.ReconnectMax = 10*time.Millisecond, 100*time.Millisecond
	return configuration
}

// running is a source that runs.
type running struct {
	*Source
	t    *testing.T
	end  context.CancelFunc
	done chan error

	mu      sync.Mutex
	updates []ingest.Update
}

func run(t *testing.T, c Configuration, directory string, prepare ...func(*Source)) *running {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	s, err := New(c, directory, slog.New(slog.NewTextHandler(t.Output(), nil)), prometheus.NewPedanticRegistry())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range prepare {
		p(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{Source: s, t: t, end: cancel, done: make(chan error, 1)}
	go func() { r.done <- s.Run(ctx, r.take) }()
	t.Cleanup(func() { r.stop() })
	return r
}

func (r *running) take(u *ingest.Update) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.updates = append(r.updates, u.Clone())
	return nil
}

// stop ends the source, once.
func (r *running) stop() {
	if r.end == nil {
		return
	}
	r.end()
	r.end = nil
	select {
	case err := <-r.done:
		if !errors.Is(err, context.Canceled) {
			r.t.Errorf("Run ended: %v", err)
		}
	case <-time.After(patience):
		r.t.Error("Run does not end")
	}
}

func (r *running) taken() []ingest.Update {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]ingest.Update(nil), r.updates...)
}

// times is how often each prefix was announced.
func (r *running) times() map[netip.Prefix]int {
	m := map[netip.Prefix]int{}
	for _, u := range r.taken() {
		for _, n := range u.Announced {
			m[n.Prefix]++
		}
	}
	return m
}

// wait waits until all these prefixes have been announced.
func (r *running) wait(from, to int) {
	r.t.Helper()
	eventually(r.t, func() string {
		got := r.times()
		for n := from; n < to; n++ {
			if got[prefix(n)] == 0 {
				return fmt.Sprintf("route %d of %d to %d did not come; the feed is %+v", n, from, to, r.Status())
			}
		}
		return ""
	})
}

// once checks that these prefixes and no others have been announced, each once.
func (r *running) once(from, to int) {
	r.t.Helper()
	got := r.times()
	for n := from; n < to; n++ {
		if got[prefix(n)] != 1 {
			r.t.Errorf("route %d came %d times", n, got[prefix(n)])
		}
	}
	if len(got) != to-from {
		r.t.Errorf("%d routes came, want %d", len(got), to-from)
	}
}

func topic(collector string, peer uint32) string {
	return fmt.Sprintf("routeviews.%s.%d.bmp_raw", collector, peer)
}

func routes(t *testing.T, r router, from, to int) (b [][]byte) {
	for n := from; n < to; n++ {
		b = append(b, r.route(t, n))
	}
	return b
}

func TestRead(t *testing.T) {
	for name, codec := range map[string]kgo.CompressionCodec{
		"plain": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	} {
		t.Run(name, func(t *testing.T) {
			k := startCluster(t)
			a, b := newRouter(1, 64496), newRouter(2, 64497)
			k.create(1, topic("linx", 64496), topic("route-views.sg", 64497), "other.topic")
			k.produceWith(codec, topic("linx", 64496), append(routes(t, a, 0, 40), a.up(t), a.route(t, 40))...)
			k.produceWith(codec, topic("route-views.sg", 64497), routes(t, b, 50, 55)...)
			k.produce("other.topic", a.route(t, 99))
			r := run(t, k.configuration(), t.TempDir())
			r.wait(0, 41)
			r.wait(50, 55)
			if got := r.times(); len(got) != 46 {
				t.Errorf("%d routes, want 46", len(got))
			}
			next, up := 0, 0
			for _, u := range r.taken() {
				want := ingest.Peer{Collector: "linx", Addr: a.peer.Addr, ASN: 64496}
				if u.Peer.ASN == 64497 {
					want = ingest.Peer{Collector: "route-views.sg", Addr: b.peer.Addr, ASN: 64497}
				}
				if u.Peer != want {
					t.Fatalf("the peer is %v, want %v", u.Peer, want)
				}
				switch {
				case u.Kind == ingest.PeerDown && up == 0: // of what was heard of it before, nobody knows what still counts
				case u.Kind == ingest.PeerUp:
					up++
					if next != 40 {
						t.Errorf("the peer comes up before route %d", next)
					}
				case u.Peer.ASN == 64496:
					if u.Announced[0].Prefix != prefix(next) {
						t.Fatalf("%v where route %d is next", u.Announced[0].Prefix, next)
					}
					next++
				}
			}
			if up != 1 {
				t.Errorf("the peer came up %d times", up)
			}
			eventually(t, func() string {
				st := r.Status()
				if st.State != ingest.Connected || st.Messages != 47 || st.Updates != 48 || st.Peers != 2 || len(st.Malformed) != 0 || st.Type != "openbmp" || st.LastMessage.IsZero() {
					return fmt.Sprintf("the feed is %+v", st)
				}
				return ""
			})
		})
	}
}

// A pattern without a group for the collector: the router's name is what OpenBMP says.
func TestNameOfRouter(t *testing.T) {
	k := startCluster(t)
	k.create(2, "openbmp.bmp_raw")
	a := newRouter(7, 64496)
	k.produce("openbmp.bmp_raw", a.route(t, 0))
	c := k.configuration()
	c.Topics = `^openbmp\.bmp_raw$`
	r := run(t, c, t.TempDir())
	r.wait(0, 1)
	if got := r.taken()[0].Peer.Collector; got != "router7" {
		t.Errorf("the collector is %q", got)
	}
}

// The sessions of one router are one, whatever topic its messages come in.
func TestPeersOfOneRouter(t *testing.T) {
	k := startCluster(t)
	a, b := newRouter(1, 64496), newRouter(1, 64497)
	k.create(1, topic("linx", 64496), topic("linx", 64497))
	k.produce(topic("linx", 64496), a.up(t), a.route(t, 0))
	k.produce(topic("linx", 64497), b.route(t, 1))
	r := run(t, k.configuration(), t.TempDir())
	r.wait(0, 2)
	if got := r.Status().Peers; got != 2 {
		t.Errorf("%d peers", got)
	}
	if got := testutil.CollectAndCount(metrics{r.Source}, "routevigil_openbmp_routers"); got != 1 {
		t.Errorf("%d metrics of the number of routers", got)
	}
	k.produce(topic("linx", 64496), a.down(t))
	eventually(t, func() string {
		if last := r.taken(); last[len(last)-1].Kind != ingest.PeerDown || r.Status().Peers != 1 {
			return "the peer does not go down"
		}
		return ""
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	if down := r.updates[len(r.updates)-1].Peer; down.ASN != 64496 {
		t.Errorf("%v went down", down)
	}
}

func TestTopicsComeAndGo(t *testing.T) {
	k := startCluster(t)
	a := newRouter(1, 64496)
	c := k.configuration()
	c.Start = startLatest
	r := run(t, c, t.TempDir())
	eventually(t, func() string {
		if got := r.Status().LastError; !strings.Contains(got, "no topic") {
			return "that there is no topic is not said: " + got
		}
		return ""
	})
	partitions := func() int {
		r.Source.mu.Lock()
		defer r.Source.mu.Unlock()
		return len(r.partitions)
	}
	eventuallyPartitions := func(want int) {
		t.Helper()
		eventually(t, func() string {
			if got := partitions(); got != want {
				return fmt.Sprintf("%d partitions, want %d", got, want)
			}
			return ""
		})
	}
	k.create(1, topic("a", 1))
	k.produce(topic("a", 1), a.route(t, 100)) // perhaps before it is found: the first topics are read from their end
	eventuallyPartitions(1)
	eventually(t, func() string {
		if offsets := r.offsets(); offsets.Next[topic("a", 1)] == nil {
			return "the end of the topic is not found"
		}
		return ""
	})
	k.produce(topic("a", 1), a.route(t, 0))
	r.wait(0, 1)
	k.create(1, topic("b", 2)) // but a topic that appears later from its beginning
	k.produce(topic("b", 2), a.route(t, 1))
	r.wait(1, 2)
	if err := k.DeleteTopic(topic("a", 1)); err != nil {
		t.Fatal(err)
	}
	eventuallyPartitions(1)
	k.produce(topic("b", 2), a.route(t, 2))
	r.wait(2, 3)
}

func TestOffsetsContinue(t *testing.T) {
	k := startCluster(t)
	a := newRouter(1, 64496)
	k.create(1, topic("a", 1), topic("b", 2))
	k.produce(topic("a", 1), routes(t, a, 0, 10)...)
	directory := t.TempDir()
	c := k.configuration()
	r := run(t, c, directory)
	r.wait(0, 10)
	r.stop()
	r.once(0, 10)
	k.produce(topic("a", 1), routes(t, a, 10, 20)...)
	k.produce(topic("b", 2), routes(t, a, 20, 30)...)
	c.Start = startLatest // of no effect where there is an offset, also one of a topic that had nothing
	r = run(t, c, directory)
	r.wait(10, 30)
	r.once(10, 30)
}

// After a crash nothing is missing: what is stored while running is never beyond what was handed on.
func TestOffsetsAreBehind(t *testing.T) {
	k := startCluster(t)
	a := newRouter(1, 64496)
	k.create(1, topic("a", 1))
	k.produce(topic("a", 1), routes(t, a, 0, 10)...)
	directory := t.TempDir()
	s, err := New(k.configuration(), directory, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	refused := errors.New("refused")
	var updates int
	release := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- s.Run(context.Background(), func(*ingest.Update) error {
			if updates++; updates == 6 {
				<-release
				return refused
			}
			return nil
		})
	}()
	stored := func() int64 {
		o, _, err := loadOffsets(s.file)
		if err != nil {
			t.Fatal(err)
		}
		next, ok := o.Next[topic("a", 1)][0]
		if !ok {
			return -1
		}
		return next
	}
	eventually(t, func() string {
		if got := stored(); got != 5 {
			return fmt.Sprintf("the offset %d is stored", got)
		}
		return ""
	})
	close(release)
	if err := <-done; err != refused {
		t.Errorf("Run ended: %v", err)
	}
	if got := stored(); got != 5 {
		t.Errorf("the offset %d is stored at the end", got)
	}
	r := run(t, k.configuration(), directory)
	r.wait(5, 10)
	r.once(5, 10)
}

func TestCorruptOffsets(t *testing.T) {
	for name, content := range map[string]string{
		"cut": `{"format":1,"cluster":"kfake","next":{"rou`, "format": `{"format":2}`, "negative": `{"format":1,"next":{"t":{"0":-5}}}`, "empty": "",
	} {
		t.Run(name, func(t *testing.T) {
			k := startCluster(t)
			k.create(1, topic("a", 1))
			k.produce(topic("a", 1), newRouter(1, 64496).route(t, 0))
			directory := t.TempDir()
			file := filepath.Join(directory, "openbmp-test.json")
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			r := run(t, k.configuration(), directory)
			r.wait(0, 1)
			if got := r.Status().LastError; !strings.Contains(got, file+".corrupt") {
				t.Errorf("the last error is %q", got)
			}
			if kept, err := os.ReadFile(file + ".corrupt"); err != nil || string(kept) != content {
				t.Errorf("what was set aside is %q, %v", kept, err)
			}
			r.stop()
			if o, corrupt, err := loadOffsets(file); corrupt != nil || err != nil || o.Next[topic("a", 1)][0] != 1 || o.Cluster != "kfake" {
				t.Errorf("then %+v is stored, %v, %v", o, corrupt, err)
			}
		})
	}
}

func TestOtherCluster(t *testing.T) {
	k := startCluster(t)
	k.create(1, topic("a", 1))
	k.produce(topic("a", 1), newRouter(1, 64496).route(t, 0))
	directory := t.TempDir()
	file := filepath.Join(directory, "openbmp-test.json")
	o := offsets{Cluster: "another"}
	o.set(topicPartition{topic("a", 1), 0}, 1)
	if err := o.store(file); err != nil {
		t.Fatal(err)
	}
	r := run(t, k.configuration(), directory)
	r.wait(0, 1)
	if _, err := os.Stat(file + ".other"); err != nil {
		t.Error(err)
	}
}

func TestOutOfRange(t *testing.T) {
	k := startCluster(t)
	a := newRouter(1, 64496)
	old, short, good := topic("old", 1), topic("short", 2), topic("good", 3)
	k.create(1, old, short, good)
	gone := newRouter(2, 64497)
	for n := range 10 { // a batch each, because whole batches are deleted
		k.produce(old, gone.route(t, n))
	}
	if err := k.DeleteRecords(old, 0, 6); err != nil {
		t.Fatal(err)
	}
	k.produce(short, routes(t, a, 20, 25)...)
	k.produce(good, routes(t, a, 30, 35)...)
	directory := t.TempDir()
	o := offsets{Cluster: "kfake"}
	o.set(topicPartition{old, 0}, 2)
	o.set(topicPartition{short, 0}, 1000)
	o.set(topicPartition{good, 0}, 3)
	if err := o.store(filepath.Join(directory, "openbmp-test.json")); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	gaps := map[uint32]ingest.Gap{}
	r := run(t, k.configuration(), directory, func(s *Source) {
		s.OnGap(func(g ingest.Gap) {
			mu.Lock()
			defer mu.Unlock()
			if _, twice := gaps[g.PeerASN]; twice {
				t.Errorf("the gap of AS%d is reported twice", g.PeerASN)
			}
			gaps[g.PeerASN] = g
		})
	})
	r.wait(6, 10)  // what was deleted is missed
	r.wait(33, 35) // what was in order goes on as it was
	eventually(t, func() string {
		if got := r.offsets().Next[short][0]; got != 5 {
			return fmt.Sprintf("of the log that ends before, offset %d is next", got)
		}
		return ""
	})
	k.produce(short, a.route(t, 25))
	r.wait(25, 26)
	if got := r.times(); len(got) != 4+2+1 {
		t.Errorf("%d routes came", len(got))
	}
	mu.Lock()
	defer mu.Unlock()
	for asn, first := range map[uint32]int{64497: 6, 64496: 25} {
		want := ingest.Gap{Feed: "test", Collector: "a", PeerASN: asn}
		for _, u := range r.taken() {
			if len(u.Announced) > 0 && u.Announced[0].Prefix == prefix(first) {
				want.Collector, want.Until = u.Peer.Collector, u.Time.Time()
			}
		}
		if gaps[asn] != want {
			t.Errorf("what was missed of AS%d: %+v, want %+v", asn, gaps[asn], want)
		}
	}
	want := "# HELP routevigil_openbmp_offsets_out_of_range_total Times that a partition had nothing at the offset where reading was.\n" +
		"# TYPE routevigil_openbmp_offsets_out_of_range_total counter\nroutevigil_openbmp_offsets_out_of_range_total 2\n"
	if err := testutil.CollectAndCompare(metrics{r.Source}, strings.NewReader(want), "routevigil_openbmp_offsets_out_of_range_total"); err != nil {
		t.Error(err)
	}
}

// counted counts the connections of a source.
type counted struct {
	total, open atomic.Int64
}

func (n *counted) prepare(s *Source) {
	dial := s.dialer
	s.dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		n.total.Add(1)
		n.open.Add(1)
		return &countedConn{Conn: c, n: n}, nil
	}
}

type countedConn struct {
	net.Conn
	n    *counted
	once sync.Once
}

func (c *countedConn) Close() error {
	c.once.Do(func() { c.n.open.Add(-1) })
	return c.Conn.Close()
}

// Hundreds of topics are read over one connection to each broker, and one for the metadata.
func TestManyTopics(t *testing.T) {
	const topics, brokers, each = 600, 3, 3
	k := startCluster(t, kfake.NumBrokers(brokers))
	client, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var records []*kgo.Record
	for n := range topics {
		k.create(1, topic("many", uint32(n)))
		for m := range each {
			records = append(records, &kgo.Record{Topic: topic("many", uint32(n)), Value: newRouter(1, 64496+uint32(n%50)).route(t, n*each+m)})
		}
	}
	if err := client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
	var n counted
	r := run(t, k.configuration(), t.TempDir(), n.prepare)
	r.wait(0, topics*each)
	r.once(0, topics*each)
	k.produce(topic("many", 17), newRouter(1, 64496).route(t, topics*each))
	r.wait(topics*each, topics*each+1)
	if got := n.total.Load(); got != brokers+1 {
		t.Errorf("%d connections for %d brokers", got, brokers)
	}
	r.stop()
	if got := n.open.Load(); got != 0 {
		t.Errorf("%d connections are left open", got)
	}
}

func TestGarbage(t *testing.T) {
	k := startCluster(t)
	a := newRouter(1, 64496)
	k.create(1, topic("bad", 1), topic("good", 2))
	other := Header{Flags: FlagRouter, Type: 3, RouterIP: netip.MustParseAddr("192.0.2.1")}
	table, err := Append(nil, &other, []byte("a table of OpenBMP's"))
	if err != nil {
		t.Fatal(err)
	}
	cut := a.route(t, 50)
	damaged := a.raw(t, bmp.Message{Type: bmp.TypeRouteMonitoring, Peer: a.peer, BGP: []byte("this is no BGP message")})
	values := [][]byte{a.route(t, 0), []byte("garbage"), nil, {}, []byte(strings.Repeat("OBMP", 40)), cut[:len(cut)-1], damaged, table, append(a.route(t, 1), '\n'), a.route(t, 2)}
	k.produce(topic("bad", 1), values...)
	k.produce(topic("good", 2), a.route(t, 3))
	r := run(t, k.configuration(), t.TempDir())
	r.wait(0, 4)
	r.once(0, 4)
	st := r.Status()
	for reason, want := range map[string]uint64{"obmp_short": 3, "obmp_version": 1, "obmp_length": 1, "octets_after_message": 1} {
		if st.Malformed[reason] != want {
			t.Errorf("%s is counted %d times, want %d", reason, st.Malformed[reason], want)
		}
	}
	total := uint64(0)
	for _, n := range st.Malformed {
		total += n
	}
	if total != 7 || len(r.Samples()) != 7 {
		t.Errorf("malformed is %v, with %d samples", st.Malformed, len(r.Samples()))
	}
	for _, s := range r.Samples() {
		if !strings.HasSuffix(s.From, " of partition 0 of "+topic("bad", 1)) || s.Reason == "" || s.Detail == "" {
			t.Errorf("a sample is %+v", s)
		}
	}
	if st.Messages != uint64(len(values))+1 {
		t.Errorf("%d messages, want %d", st.Messages, len(values)+1)
	}
	if r.tables.Load() != 1 {
		t.Errorf("%d objects of another type", r.tables.Load())
	}
}

func TestTooManyRouters(t *testing.T) {
	k := startCluster(t)
	k.create(1, topic("a", 1))
	for n := range 5 {
		k.produce(topic("a", 1), newRouter(byte(n), 64496).route(t, n))
	}
	k.produce(topic("a", 1), newRouter(0, 64496).route(t, 5))
	c := k.configuration()
	c.MaxRouters = 2
	r := run(t, c, t.TempDir())
	r.wait(5, 6)
	if got := r.Status().Malformed["too_many_routers"]; got != 3 || len(r.times()) != 3 {
		t.Errorf("%d messages are counted, %d routes came", got, len(r.times()))
	}
}

// A batch beyond the bound is passed over, compressed or not, and what follows comes.
func TestTooLarge(t *testing.T) {
	k := startCluster(t, kfake.BrokerConfigs(map[string]string{"message.max.bytes": "16777216"}))
	a := newRouter(1, 64496)
	large := make([]byte, 3<<20)
	k.create(1, topic("plain", 1), topic("zstd", 2), topic("gzip", 3), topic("lz4", 4), topic("snappy", 5))
	for n, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.ZstdCompression(), kgo.GzipCompression(), kgo.Lz4Compression(), kgo.SnappyCompression()} {
		name := topic([]string{"plain", "zstd", "gzip", "lz4", "snappy"}[n], uint32(n+1))
		k.produceWith(codec, name, a.route(t, 2*n))
		k.produceWith(codec, name, large)
		k.produceWith(codec, name, a.route(t, 2*n+1))
	}
	c := k.configuration()
	c.MaxBatchBytes, c.MaxPartitionBytes = 1<<20, 64<<10
	r := run(t, c, t.TempDir())
	r.wait(0, 10)
	r.once(0, 10)
	if got := r.Status().Malformed["batch_too_large"]; got != 5 {
		t.Errorf("%d are counted; the feed is %+v", got, r.Status())
	}
}

func TestLeaderMoves(t *testing.T) {
	k := startCluster(t, kfake.NumBrokers(3))
	a := newRouter(1, 64496)
	k.create(1, topic("a", 1), topic("b", 2))
	r := run(t, k.configuration(), t.TempDir())
	for n := range 9 {
		if err := k.MoveTopicPartition(topic("a", 1), 0, int32(n%3)); err != nil {
			t.Fatal(err)
		}
		k.produce(topic("a", 1), a.route(t, n))
		r.wait(n, n+1)
	}
	r.once(0, 9)
}

func TestBrokerRestarts(t *testing.T) {
	data := t.TempDir()
	k := startCluster(t, kfake.DataDir(data))
	_, port, err := net.SplitHostPort(k.ListenAddrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	var number int
	fmt.Sscan(port, &number)
	a := newRouter(1, 64496)
	k.create(1, topic("a", 1))
	k.produce(topic("a", 1), routes(t, a, 0, 5)...)
	r := run(t, k.configuration(), t.TempDir())
	r.wait(0, 5)
	k.close()
	eventually(t, func() string {
		if st := r.Status(); st.State != ingest.Connecting || st.Reconnects == 0 || st.LastError == "" || st.NextAttempt.IsZero() {
			return fmt.Sprintf("without a broker the feed is %+v", st)
		}
		return ""
	})
	k = startCluster(t, kfake.DataDir(data), kfake.Ports(number))
	k.produce(topic("a", 1), routes(t, a, 5, 10)...)
	r.wait(5, 10)
	r.once(0, 10)
	eventually(t, func() string {
		if st := r.Status(); st.State != ingest.Connected {
			return fmt.Sprintf("the feed is %+v", st)
		}
		return ""
	})
}

// A topic that the broker cannot give holds up no other, and comes when it can.
func TestBrokenTopic(t *testing.T) {
	k := startCluster(t)
	a := newRouter(1, 64496)
	k.create(1, topic("bad", 1), topic("good", 2))
	k.produce(topic("bad", 1), a.route(t, 0))
	k.produce(topic("good", 2), a.route(t, 1))
	fault := k.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: topic("bad", 1), Err: kerr.KafkaStorageError, Count: -1})
	r := run(t, k.configuration(), t.TempDir())
	r.wait(1, 2)
	if err := fault.Wait(t.Context(), 3); err != nil { // it is asked for again and again
		t.Fatal(err)
	}
	k.produce(topic("good", 2), a.route(t, 2))
	r.wait(2, 3)
	if got := r.times()[prefix(0)]; got != 0 {
		t.Error("the broken topic came")
	}
	if got := r.Status().LastError; !strings.Contains(got, topic("bad", 1)) {
		t.Errorf("the last error is %q", got)
	}
	fault.Remove()
	r.wait(0, 1)
	r.once(0, 3)
}

func TestTooManyPartitions(t *testing.T) {
	k := startCluster(t)
	k.create(5, topic("a", 1))
	c := k.configuration()
	c.MaxPartitions = 4
	r := run(t, c, t.TempDir())
	eventually(t, func() string {
		if got := r.Status().LastError; !strings.Contains(got, "max_partitions") {
			return "the last error is " + got
		}
		return ""
	})
}

func TestStatusOfOldMessages(t *testing.T) {
	k := startCluster(t)
	k.create(1, topic("a", 1))
	k.produce(topic("a", 1), newRouter(1, 64496).route(t, 0))
	c := k.configuration()
	c.LagAfter = time.Nanosecond // everything is old
	r := run(t, c, t.TempDir())
	eventually(t, func() string {
		if st := r.Status(); st.State != ingest.Lagging || st.LagSeconds <= 0 {
			return fmt.Sprintf("the feed is %+v", st)
		}
		return ""
	})
	r.stop()
	c.StallAfter = time.Nanosecond
	r = run(t, c, t.TempDir())
	eventually(t, func() string {
		if st := r.Status(); st.State != ingest.Stalled {
			return fmt.Sprintf("the feed is %+v", st)
		}
		return ""
	})
}

// A partition that is gone from the metadata for a while goes on where it was.
func TestPartitionComesBack(t *testing.T) {
	c := DefaultConfiguration()
	c.MaxPartitions = 2
	s, err := New(c, t.TempDir(), slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	a, b := topicPartition{topic("a", 1), 0}, topicPartition{topic("b", 2), 0}
	brokers := map[int32]string{1: "one.example:9092"}
	both := &cluster{"x", brokers, map[topicPartition]int32{a: 1, b: 7}}
	leads, again := s.take(both)
	if len(leads) != 1 || !leads[1] || again >= c.RefreshEvery {
		t.Errorf("%v lead, and of the partition that has no leader nobody asks for %v", leads, again)
	}
	if got := s.partitions[a].next.Load(); got != atLatest {
		t.Errorf("at first %d is next", got)
	}
	s.partitions[a].next.Store(42)
	s.take(&cluster{"x", brokers, nil})
	if len(s.partitions) != 0 || s.offsets().Next[a.topic][0] != 42 {
		t.Errorf("without it there are %v, and %+v is stored", s.partitions, s.offsets())
	}
	s.take(both)
	if got := s.partitions[a].next.Load(); got != 42 {
		t.Errorf("when it is back %d is next", got)
	}
	if got := s.partitions[b].next.Load(); got != atEarliest {
		t.Errorf("of the one that has appeared since the start %d is next", got)
	}
	s.take(&cluster{"y", brokers, map[topicPartition]int32{a: 1}})
	if got := s.partitions[a].next.Load(); got != atLatest {
		t.Errorf("in another cluster %d is next", got)
	}
	// What is kept of topics that are gone has a bound.
	for n := range 10 {
		at := topicPartition{topic("gone", uint32(n)), 0}
		s.take(&cluster{"y", brokers, map[topicPartition]int32{at: 1}})
		s.partitions[at].next.Store(1)
	}
	if got := len(s.kept); got > c.MaxPartitions {
		t.Errorf("%d offsets are kept", got)
	}
}
