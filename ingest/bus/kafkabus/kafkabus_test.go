package kafkabus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bus"
	"github.com/routevigil/routevigil/ingest/bus/bustest"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus/kafkatest"
	"github.com/routevigil/routevigil/ingest/bus/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 2 * time.Minute

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
	kafkatest.Each(t, func(t *testing.T, address string) {
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
	kafkatest.Each(t, func(t *testing.T, address string) {
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
	kafkatest.Each(t, func(t *testing.T, address string) {
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

// What the first step of all says is known to a follower that begins in the middle, too.
func TestDuplicatesOfTheFirstStep(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, address string) {
		k := cluster(t, address)
		a, b := k.NewWriter(nil), k.NewWriter(nil)
		write(t, a, withdrawal(1))
		lead := follow(t, k, LogOptions{Candidate: true})
		if s := next(t, lead, func(s *Step) bool { return s.Leading }); s.Number != 1 || !slices.Equal(numbers(s.Updates), []int{1}) {
			t.Fatalf("step %d has %v", s.Number, numbers(s.Updates))
		}
		middle := lead.Position()
		write(t, b, withdrawal(1), withdrawal(2))
		last := next(t, lead, func(s *Step) bool { return len(s.Updates) > 0 })
		for name, l := range map[string]*Log{"the one in charge": nil, "a follower": follow(t, k, LogOptions{Since: &middle, After: 1})} {
			s := last
			if l != nil {
				s = next(t, l, func(s *Step) bool { return len(s.Updates) > 0 })
			}
			if !slices.Equal(numbers(s.Updates), []int{2}) {
				t.Errorf("%s: %v", name, numbers(s.Updates))
			}
		}
	})
}

// What one of two collectors of a feed had kept back, when the other has told what came after it, is history: all get it, and
// who keeps the state of routes is told what of it comes too late. A follower that begins in the middle says the same.
func TestLate(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, address string) {
		k := cluster(t, address)
		lead := follow(t, k, LogOptions{Candidate: true})
		next(t, lead, func(s *Step) bool { return s.Leading })
		ahead, behind := k.NewWriter(nil), k.NewWriter(nil)
		const t0 = ingest.Time(1_000_000)
		say := func(at ingest.Time, peer int, announce bool, prefixes ...int) ingest.Update {
			u := ingest.Update{Time: t0 + at, Peer: ingest.Peer{Collector: "rrc00", Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(peer)}), ASN: 64500 + uint32(peer)}}
			list := &u.Withdrawn
			if announce {
				list = &u.Announced
				u.Attrs = bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath, ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{u.Peer.ASN, 65000}}}}
			}
			for _, n := range prefixes { // all in one partition
				*list = append(*list, bgp.NLRI{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), 0, 0}), 24)})
			}
			return u
		}
		text := func(updates []ingest.Update) (list []string) {
			for _, u := range updates {
				list = append(list, fmt.Sprint(int(u.Time-t0), u.Peer.ASN, u.Kind, u.Withdrawn, u.Announced))
			}
			return list
		}
		both := func(s *Step) string { return fmt.Sprint(text(s.Updates), text(s.Current().Updates)) }
		steps := map[uint64]string{}
		step := func(w *Writer, updates ...ingest.Update) *Step {
			write(t, w, updates...)
			s := next(t, lead, func(s *Step) bool { return len(s.Updates) > 0 })
			steps[s.Number] = both(s)
			return s
		}
		down := say(30, 3, false)
		down.Kind = ingest.PeerDown
		step(ahead, say(10, 1, false, 1), say(20, 2, true, 2), down)
		middle, after := lead.Position(), lead.at.Number
		s := step(behind,
			say(5, 1, true, 1, 2),  // of 1 it came too late
			say(10, 1, false, 1),   // a duplicate
			say(19, 2, true, 2),    // too late as a whole
			say(20, 2, true, 2),    // a duplicate
			say(20, 2, false, 2),   // under the same stamp: in time
			say(29, 3, true, 3),    // of a session that has ended since
			say(31, 3, true, 3, 4), // of the next one
			say(30, 3, true, 3))    // its own order counts
		wantAll := text([]ingest.Update{say(5, 1, true, 2), say(5, 1, true, 1), say(19, 2, true, 2), say(20, 2, false, 2), say(29, 3, true, 3), say(31, 3, true, 3, 4), say(30, 3, true, 3)})
		wantNow := text([]ingest.Update{say(5, 1, true, 2), say(20, 2, false, 2), say(31, 3, true, 3, 4), say(30, 3, true, 3)})
		if got := text(s.Updates); !slices.Equal(got, wantAll) {
			t.Errorf("the step has\n%s, want\n%s", strings.Join(got, "\n"), strings.Join(wantAll, "\n"))
		}
		if got := text(s.Current().Updates); !slices.Equal(got, wantNow) {
			t.Errorf("current is\n%s, want\n%s", strings.Join(got, "\n"), strings.Join(wantNow, "\n"))
		}
		if s = step(ahead, say(1, 9, true, 1)); len(s.Late) > 0 {
			t.Error("what nobody has said anything of comes too late")
		}
		for name, o := range map[string]LogOptions{"from the start": {}, "from the middle": {Since: &middle, After: after}} {
			l := follow(t, k, o)
			for {
				got := next(t, l, func(*Step) bool { return true })
				if want := steps[got.Number]; len(got.Updates) > 0 && both(got) != want {
					t.Errorf("%s: step %d is %s, want %s", name, got.Number, both(got), want)
				}
				if got.Number == s.Number {
					break
				}
			}
		}
	})
}

// After the window nothing is remembered, and with an index there is the same as without.
func TestLateForgets(t *testing.T) {
	var l late
	u := withdrawal(0)
	older := func() bool {
		x := withdrawal(0)
		x.Time--
		w, a := l.split(&x, 2)
		return len(w)+len(a) > 0
	}
	for i := range ingest.Time(3) {
		l.note(&u, 1, i)
	}
	if !older() || l.index == nil {
		t.Error("what is known to be newer is not found")
	}
	l.note(&u, 1, 3)
	for i := range ingest.Time(4) {
		if !older() {
			t.Errorf("forgotten after %d of 4 steps", i)
		}
		l.forget(func(step ingest.Time) bool { return step <= i })
	}
	if older() || len(l.known)+len(l.index)+len(l.newest) > 0 {
		t.Errorf("%d, %d, %d are remembered", len(l.known), len(l.index), len(l.newest))
	}
}

// What is written twice counts once, and what a writer did not finish does not hold up others.
func TestUnfinishedAndRepeatedRounds(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, address string) {
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
	kafkatest.Each(t, func(t *testing.T, address string) {
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
	kafkatest.Each(t, func(t *testing.T, address string) {
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
