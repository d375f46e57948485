package kafkabus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
	"github.com/routevigil/routevigil/ingest/bus"
	"github.com/routevigil/routevigil/ingest/bus/bustest"
	"github.com/routevigil/routevigil/ingest/bus/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 2 * time.Minute

// brokers runs a test with a broker that pretends, and with a real one whose address is in
// ROUTEVIGIL_TEST_KAFKA.
func brokers(t *testing.T, f func(t *testing.T, address string)) {
	t.Run("kfake", func(t *testing.T) {
		k, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(k.Close)
		f(t, k.ListenAddrs()[0])
	})
	t.Run("Kafka", func(t *testing.T) {
		address := os.Getenv("ROUTEVIGIL_TEST_KAFKA")
		if address == "" {
			bgptest.Missing(t, "ROUTEVIGIL_TEST_KAFKA does not say where a Kafka broker is")
		}
		f(t, address)
	})
}

// logTo writes what is logged into the test's output.
type logTo struct{ t testing.TB }

func (l logTo) Write(b []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// cluster makes topics of its own, which go with the test.
func cluster(t testing.TB, address string, change ...func(*Configuration)) *Cluster {
	t.Helper()
	c := DefaultConfiguration()
	c.Brokers, c.Prefix, c.Partitions, c.Takeover = []string{address}, fmt.Sprintf("test%d.", time.Now().UnixNano()), 4, time.Second
	for _, f := range change {
		f(&c)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	k, err := Connect(c, slog.New(slog.NewTextHandler(logTo{t}, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := k.Init(ctx, func(string, string) {}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		var names []string
		for _, topic := range k.topics(1) {
			names = append(names, topic.Topic)
		}
		if _, err := k.client.DeleteTopics(ctx, &kafka.DeleteTopicsRequest{Topics: names}); err != nil {
			t.Error(err)
		}
		k.Close()
	})
	for { // a broker tells of topics a little after it made them
		err := k.Check(ctx)
		if err == nil {
			return k
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func follow(t testing.TB, k *Cluster, o LogOptions) *Log {
	t.Helper()
	l, err := k.Follow(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// next returns the next step for which want holds.
func next(t testing.TB, l *Log, want func(*Step) bool) *Step {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		s, err := l.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if want(s) {
			return s
		}
	}
}

func write(t testing.TB, w *Writer, updates ...ingest.Update) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	b := ingest.Batch{Updates: updates}
	for _, u := range updates {
		b.Watermark = max(b.Watermark, u.Time)
	}
	if err := w.Write(ctx, &b); err != nil {
		t.Fatal(err)
	}
}

// withdrawal is an update that is told from others by its time.
func withdrawal(n int) ingest.Update {
	return ingest.Update{Time: ingest.Time(1_000_000 + n), Peer: ingest.Peer{Collector: "rrc00", Addr: netip.MustParseAddr("192.0.2.1"), ASN: 64500},
		Withdrawn: []bgp.NLRI{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(1 + n%220), 0, 0, 0}), 24)}}}
}

func numbers(updates []ingest.Update) (n []int) {
	for _, u := range updates {
		n = append(n, int(u.Time)-1_000_000)
	}
	return n
}

func TestSuite(t *testing.T) {
	brokers(t, func(t *testing.T, address string) {
		bustest.Run(t, func(t *testing.T) bustest.Stream {
			k := cluster(t, address)
			queue := bus.New(bus.DefaultConfiguration(), nil)
			written := make(chan error, 1)
			go func() {
				w := k.NewWriter(nil)
				for {
					b, err := queue.Next(context.Background())
					if err == nil {
						err = w.Write(context.Background(), b)
					}
					if err != nil {
						written <- err
						return
					}
				}
			}()
			t.Cleanup(func() {
				queue.Close()
				if err := <-written; !errors.Is(err, bus.ErrClosed) {
					t.Error(err)
				}
			})
			l := follow(t, k, LogOptions{Candidate: true})
			return bustest.Stream{Publish: queue.Publish, Sign: queue.Sign, Next: func(ctx context.Context) (*ingest.Batch, error) {
				s, err := l.Next(ctx)
				if err != nil {
					return nil, err
				}
				return &s.Batch, nil
			}}
		})
	})
}

// Followers make the steps of who is in charge, whenever they begin; and when that one is gone another goes
// on where it stopped, while what it still writes counts for nothing.
func TestTakingOver(t *testing.T) {
	brokers(t, func(t *testing.T, address string) {
		k := cluster(t, address, func(c *Configuration) { c.Duplicates = 0 })
		w := k.NewWriter(nil)
		first := follow(t, k, LogOptions{Candidate: true})
		next(t, first, func(s *Step) bool { return s.Leading })
		steps := map[uint64][]int{}
		n := 0
		lead := func(l *Log, until int) {
			for n < until {
				write(t, w, withdrawal(n), withdrawal(n+1), withdrawal(n+2))
				n += 3
				for got := 0; got < 3; {
					s := next(t, l, func(s *Step) bool { return len(s.Updates) > 0 })
					if !s.Leading {
						t.Fatal("a step of another")
					}
					steps[s.Number] = numbers(s.Updates)
					got += len(s.Updates)
				}
			}
		}
		lead(first, 30)
		middle := first.Position()
		lead(first, 60)
		// The first says nothing any more. It has not noticed yet when the second goes on.
		second := follow(t, k, LogOptions{Candidate: true})
		next(t, second, func(s *Step) bool { return s.Leading })
		lead(second, 90)
		write(t, w, withdrawal(n))
		n++
		s := next(t, first, func(s *Step) bool { return len(s.Updates) > 0 })
		if s.Leading {
			t.Error("who was replaced still makes steps")
		}
		if want := steps[s.Number]; !slices.Equal(numbers(s.Updates), want) {
			t.Errorf("step %d has %v, want %v", s.Number, numbers(s.Updates), want)
		}
		s = next(t, second, func(s *Step) bool { return len(s.Updates) > 0 })
		steps[s.Number] = numbers(s.Updates)
		last := s.Number

		for name, o := range map[string]LogOptions{"from the start": {}, "from the middle": {Since: &middle, After: middle.Number}} {
			l := follow(t, k, o)
			var got []int
			for {
				s := next(t, l, func(*Step) bool { return true })
				if s.Number <= o.After {
					t.Errorf("%s: step %d, which is not after %d", name, s.Number, o.After)
				}
				if len(s.Updates) > 0 && !slices.Equal(numbers(s.Updates), steps[s.Number]) {
					t.Errorf("%s: step %d has %v, want %v", name, s.Number, numbers(s.Updates), steps[s.Number])
				}
				got = append(got, numbers(s.Updates)...)
				if s.Number == last {
					break
				}
			}
			from := n - len(got)
			for i, g := range got {
				if g != from+i {
					t.Fatalf("%s: got %v", name, got)
				}
			}
			if o.Since == nil && from != 0 {
				t.Errorf("%s: only %d of %d updates", name, len(got), n)
			}
		}
	})
}

// Two collectors of one feed give its updates once, also those that come several times under one stamp; and
// a follower that begins in the middle drops the same.
func TestDuplicates(t *testing.T) {
	brokers(t, func(t *testing.T, address string) {
		k := cluster(t, address)
		lead := follow(t, k, LogOptions{Candidate: true})
		next(t, lead, func(s *Step) bool { return s.Leading })
		a, b := k.NewWriter(nil), k.NewWriter(nil)
		var all []int
		steps := map[uint64][]int{}
		var last uint64
		var middle Position
		var after uint64
		step := func() {
			s := next(t, lead, func(*Step) bool { return true })
			last = s.Number
			steps[s.Number] = numbers(s.Updates)
			all = append(all, steps[s.Number]...)
		}
		var want []int
		for i := range 20 {
			thrice := []ingest.Update{withdrawal(i), withdrawal(i), withdrawal(i)}
			write(t, a, thrice...)
			step()
			if i == 10 {
				middle, after = lead.Position(), last
			}
			write(t, b, thrice...)
			step()
			want = append(want, i, i, i)
		}
		for len(all) < len(want) {
			step()
		}
		for range 3 { // what is too much would come now
			step()
		}
		if !slices.Equal(all, want) {
			t.Errorf("got %v, want %v", all, want)
		}
		l := follow(t, k, LogOptions{Since: &middle, After: after})
		for {
			s := next(t, l, func(*Step) bool { return true })
			if !slices.Equal(numbers(s.Updates), steps[s.Number]) {
				t.Errorf("step %d has %v for who began in the middle, want %v", s.Number, numbers(s.Updates), steps[s.Number])
			}
			if s.Number == last {
				break
			}
		}
	})
}

// What is written twice counts once, and what a writer did not finish does not hold up others.
func TestUnfinishedAndRepeatedRounds(t *testing.T) {
	brokers(t, func(t *testing.T, address string) {
		k := cluster(t, address, func(c *Configuration) { c.Duplicates = 0 })
		lead := follow(t, k, LogOptions{Candidate: true})
		next(t, lead, func(s *Step) bool { return s.Leading })
		dead, w := k.NewWriter(nil), k.NewWriter(nil)
		u := withdrawal(0)
		if err := dead.add(&u); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		header := dead.parts[0].AppendTo(nil, headerOf(dead, 1))
		if _, err := k.Append(ctx, updatesTopic, 0, Record{Value: header}); err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			write(t, w, withdrawal(i))
			for p := range 4 { // an acknowledgement was lost
				var again Writer
				again.parts = k.NewWriter(nil).parts
				if _, err := k.Append(ctx, updatesTopic, p, Record{Value: again.parts[p].AppendTo(nil, headerOf(w, w.round))}); err != nil {
					t.Fatal(err)
				}
			}
			if s := next(t, lead, func(s *Step) bool { return len(s.Updates) > 0 }); !slices.Equal(numbers(s.Updates), []int{i}) {
				t.Errorf("round %d gives %v", i, numbers(s.Updates))
			}
		}
		for range 2 {
			if s := next(t, lead, func(*Step) bool { return true }); len(s.Updates) > 0 {
				t.Errorf("%v came again", numbers(s.Updates))
			}
		}
	})
}

func TestInitIsRepeatable(t *testing.T) {
	brokers(t, func(t *testing.T, address string) {
		k := cluster(t, address)
		told := 0
		if err := k.Init(context.Background(), func(topic, what string) { told++ }); err != nil || told != 5 {
			t.Errorf("told of %d topics, error %v", told, err)
		}
		k.c.Partitions++
		if err := k.Init(context.Background(), func(string, string) {}); err == nil || !strings.Contains(err.Error(), "kafka.partitions") {
			t.Errorf("another number of partitions gives %v", err)
		}
		k.c.Prefix += "other."
		if err := k.Check(context.Background()); err == nil || !strings.Contains(err.Error(), "kafka init") {
			t.Errorf("without topics Check returns %v", err)
		}
	})
}

func TestValidate(t *testing.T) {
	if err := DefaultConfiguration().Validate(); err != nil {
		t.Error(err)
	}
	c := Configuration{Brokers: []string{"x"}, Prefix: "a b"}
	c.SASL.Mechanism = "gssapi"
	c.Replication, c.Duplicates = -1, -1
	err := c.Validate()
	for _, field := range []string{"brokers[0]", "prefix", "client_id", "sasl.mechanism", "partitions", "replication", "retention", "duplicates", "takeover", "checkpoint", "timeout"} {
		if err == nil || !strings.Contains(err.Error(), field+": ") {
			t.Errorf("%v does not name %s", err, field)
		}
	}
}

func headerOf(w *Writer, round uint64) wire.Header { return wire.Header{Writer: w.id, Round: round} }

// The last whole state is read, past one that was not finished and one that is mixed with another.
func TestState(t *testing.T) {
	brokers(t, func(t *testing.T, address string) {
		k := cluster(t, address)
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := k.LoadState(ctx); !errors.Is(err, ErrNoState) {
			t.Errorf("of nothing LoadState returns %v", err)
		}
		state := make([]byte, 2*pieceSize+5)
		for i := range state {
			state[i] = byte(i * i >> 3)
		}
		for _, s := range [][]byte{[]byte("old"), state} {
			if err := k.SaveState(ctx, s); err != nil {
				t.Fatal(err)
			}
		}
		piece := func(id, at, of byte) Record {
			return Record{Value: []byte{0, 0, 0, 0, 0, 0, 0, id, 0, 0, 0, at, 0, 0, 0, of, 'x'}}
		}
		if _, err := k.Append(ctx, StateTopic, 0, piece(1, 0, 3), piece(1, 1, 3), piece(2, 0, 2), piece(1, 2, 3), piece(2, 1, 2), piece(3, 0, 2), Record{Value: []byte("?")}); err != nil {
			t.Fatal(err)
		}
		got, err := k.LoadState(ctx)
		if err != nil || !bytes.Equal(got, state) {
			t.Errorf("%d octets, error %v; want the %d of the last whole state", len(got), err, len(state))
		}
	})
}
