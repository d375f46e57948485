package bus

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func at(t time.Time) *ingest.Update { return &ingest.Update{Time: ingest.TimeOf(t)} }

// next is one call of Next that must succeed.
func next(t *testing.T, b *Bus) *ingest.Batch {
	t.Helper()
	batch, err := b.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

// A mark comes out behind what was published before it, at once, and moves no clock.
func TestCanary(t *testing.T) {
	b := New(DefaultConfiguration(), nil)
	mark := time.Now()
	b.Canary(mark)
	if got := next(t, b); len(got.Updates) != 0 || got.Watermark != 0 || !got.Canary.Equal(mark) {
		t.Errorf("got %+v", got)
	}
	if err := b.Publish(&ingest.Update{Time: 5}); err != nil {
		t.Fatal(err)
	}
	b.Canary(mark)
	if got := next(t, b); len(got.Updates) != 1 || got.Watermark != 5 || !got.Canary.Equal(mark) {
		t.Errorf("got %+v", got)
	}
	if got := next(t, b); !got.Canary.IsZero() {
		t.Errorf("the mark comes again: %+v", got)
	}
	b.Close()
	b.Canary(mark)
	if _, err := b.Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestOrderAndBatchSize(t *testing.T) {
	c := DefaultConfiguration()
	c.BatchUpdates = 3
	b := New(c, nil)
	for i := range 7 {
		if err := b.Publish(&ingest.Update{Time: ingest.Time(i + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	var got [][]int
	for range 3 {
		batch := next(t, b)
		var times []int
		for _, u := range batch.Updates {
			times = append(times, int(u.Time))
		}
		got = append(got, times)
		if last := batch.Updates[len(batch.Updates)-1].Time; batch.Watermark != last {
			t.Errorf("watermark %d, want that of the last update, %d", batch.Watermark, last)
		}
	}
	if diff := cmp.Diff([][]int{{1, 2, 3}, {4, 5, 6}, {7}}, got); diff != "" {
		t.Error(diff)
	}
}

func TestWatermark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		b := New(DefaultConfiguration(), nil)
		expect := func(what string, batch *ingest.Batch, updates int, want time.Time) {
			t.Helper()
			if len(batch.Updates) != updates || batch.Watermark != ingest.TimeOf(want) {
				t.Errorf("%s: %d updates and watermark %v, want %d and %v", what, len(batch.Updates), batch.Watermark, updates, want)
			}
		}
		b.Publish(at(start.Add(-10 * time.Second)))
		b.Publish(at(start.Add(-20 * time.Second)))
		expect("flowing: the newest", next(t, b), 2, start.Add(-10*time.Second))
		b.Publish(at(start.Add(-15 * time.Second)))
		expect("never back", next(t, b), 1, start.Add(-10*time.Second))
		expect("idle: one allowance behind the wall clock", next(t, b), 0, start.Add(-100*time.Millisecond))
		if d := time.Since(start); d != 100*time.Millisecond {
			t.Errorf("waited %v, want one tick", d)
		}
		b.Publish(at(start.Add(time.Hour)))
		expect("a clock that is ahead", next(t, b), 1, start.Add(5100*time.Millisecond))
		expect("idle, and still not back", next(t, b), 0, start.Add(5100*time.Millisecond))
	})
}

func TestNextWakesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(DefaultConfiguration(), nil)
		start := time.Now()
		go func() {
			time.Sleep(30 * time.Millisecond)
			b.Publish(at(time.Now()))
		}()
		if batch := next(t, b); len(batch.Updates) != 1 || time.Since(start) != 30*time.Millisecond {
			t.Errorf("got %d updates after %v, want 1 after 30ms", len(batch.Updates), time.Since(start))
		}
	})
}

func TestBackPressure(t *testing.T) {
	one := sizeOf(at(time.Time{}))
	tests := []struct {
		name       string
		maxUpdates int
		maxBytes   int64
	}{
		{"updates", 2, 1 << 20},
		{"bytes", 100, 2*one + one/2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := DefaultConfiguration()
				c.MaxUpdates, c.MaxBytes = tt.maxUpdates, tt.maxBytes
				reg := prometheus.NewRegistry()
				b := New(c, reg)
				published := 0
				go func() {
					for range 3 {
						b.Publish(at(time.Now()))
						published++
					}
				}()
				synctest.Wait()
				if published != 2 {
					t.Fatalf("%d updates fit, want 2", published)
				}
				time.Sleep(2 * time.Second)
				if n := len(next(t, b).Updates); n != 2 {
					t.Fatalf("took %d, want 2", n)
				}
				synctest.Wait()
				if published != 3 {
					t.Error("the third did not go on when there was room")
				}
				want := `
# HELP routevigil_bus_queued_bytes Memory that waiting updates take, roughly.
# TYPE routevigil_bus_queued_bytes gauge
routevigil_bus_queued_bytes ` + fmt.Sprint(one) + `
# HELP routevigil_bus_queued_updates Updates that wait for the detector.
# TYPE routevigil_bus_queued_updates gauge
routevigil_bus_queued_updates 1
# HELP routevigil_bus_updates_total Updates published.
# TYPE routevigil_bus_updates_total counter
routevigil_bus_updates_total 3
# HELP routevigil_bus_wait_seconds_total Time that sources waited because the bus was full.
# TYPE routevigil_bus_wait_seconds_total counter
routevigil_bus_wait_seconds_total 2
# HELP routevigil_bus_waits_total Times a source had to wait because the bus was full.
# TYPE routevigil_bus_waits_total counter
routevigil_bus_waits_total 1
`
				if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestOneUpdateAlwaysFits(t *testing.T) {
	c := DefaultConfiguration()
	c.MaxBytes = 1
	b := New(c, nil)
	if err := b.Publish(at(time.Now())); err != nil {
		t.Fatal(err)
	}
	if n := len(next(t, b).Updates); n != 1 {
		t.Errorf("took %d, want 1", n)
	}
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := DefaultConfiguration()
		c.MaxUpdates = 1
		b := New(c, nil)
		b.Publish(at(time.Now()))
		waiting := make(chan error, 1)
		go func() { waiting <- b.Publish(at(time.Now())) }()
		synctest.Wait()
		b.Close()
		if err := <-waiting; !errors.Is(err, ErrClosed) {
			t.Errorf("the waiting Publish returned %v, want ErrClosed", err)
		}
		if err := b.Publish(at(time.Now())); !errors.Is(err, ErrClosed) {
			t.Errorf("Publish after Close returned %v, want ErrClosed", err)
		}
		if n := len(next(t, b).Updates); n != 1 {
			t.Errorf("drained %d, want 1", n)
		}
		for range 2 {
			if _, err := b.Next(t.Context()); !errors.Is(err, ErrClosed) {
				t.Errorf("Next on a drained bus returned %v, want ErrClosed", err)
			}
		}
	})
}

func TestCloseWakesConsumer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := DefaultConfiguration()
		c.Tick = time.Hour
		b := New(c, nil)
		got := make(chan error, 1)
		go func() {
			_, err := b.Next(t.Context())
			got <- err
		}()
		synctest.Wait()
		b.Close()
		if err := <-got; !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
}

func TestNextEndsWithContext(t *testing.T) {
	b := New(DefaultConfiguration(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}

// rich has every slice that an update can have.
func rich() *ingest.Update {
	return &ingest.Update{
		Time: 1, Peer: ingest.Peer{Collector: "rrc00", Addr: netip.MustParseAddr("192.0.2.1"), ASN: 64500},
		Withdrawn: []bgp.NLRI{{Prefix: netip.MustParsePrefix("192.0.2.0/24"), PathID: 1}},
		Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("198.51.100.0/24")}, {Prefix: netip.MustParsePrefix("203.0.113.0/24")}},
		Attrs: bgp.Attributes{
			Has:              bgp.HasASPath | bgp.HasCommunities,
			ASPath:           bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{64500, 64501}}, {Type: bgp.ASSet, ASNs: []uint32{1, 2}}},
			Communities:      []uint32{1, 2},
			ExtCommunities:   []uint64{3},
			LargeCommunities: []bgp.LargeCommunity{{Global: 1, Local1: 2, Local2: 3}},
			ClusterList:      []uint32{4},
			Unknown:          []bgp.RawAttribute{{Flags: 0xc0, Type: 99, Value: []byte{1, 2, 3}}},
		},
	}
}

var byValue = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
}

// The source uses its memory again as soon as Publish returns.
func TestPublishCopies(t *testing.T) {
	b := New(DefaultConfiguration(), nil)
	u := rich()
	for range 3 {
		if err := b.Publish(u); err != nil {
			t.Fatal(err)
		}
	}
	clear(u.Withdrawn)
	clear(u.Announced)
	for _, s := range u.Attrs.ASPath {
		clear(s.ASNs)
	}
	clear(u.Attrs.ASPath)
	clear(u.Attrs.Communities)
	clear(u.Attrs.ExtCommunities)
	clear(u.Attrs.LargeCommunities)
	clear(u.Attrs.ClusterList)
	clear(u.Attrs.Unknown[0].Value)
	clear(u.Attrs.Unknown)
	want := *rich()
	batch := next(t, b)
	if diff := cmp.Diff([]ingest.Update{want, want, want}, batch.Updates, byValue); diff != "" {
		t.Error(diff)
	}
	// Nor do the copies share memory that an append could reach.
	first := &batch.Updates[0]
	_ = append(first.Announced, bgp.NLRI{PathID: 7})
	_ = append(first.Attrs.ASPath[0].ASNs, 7)
	if diff := cmp.Diff(want, batch.Updates[1], byValue); diff != "" {
		t.Error(diff)
	}
}

func TestManyPublishers(t *testing.T) {
	c := DefaultConfiguration()
	c.MaxUpdates, c.BatchUpdates = 64, 16
	b := New(c, nil)
	const sources, each = 8, 500
	var wg sync.WaitGroup
	for s := range sources {
		wg.Go(func() {
			for i := range each {
				u := rich()
				u.Peer.ASN, u.Time = uint32(s), ingest.Time(i)
				if err := b.Publish(u); err != nil {
					t.Error(err)
				}
			}
		})
	}
	go func() {
		wg.Wait()
		b.Close()
	}()
	seen := make([]ingest.Time, sources)
	for {
		batch, err := b.Next(t.Context())
		if errors.Is(err, ErrClosed) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(batch.Updates) > c.BatchUpdates {
			t.Fatalf("a batch of %d", len(batch.Updates))
		}
		for _, u := range batch.Updates {
			if u.Time != seen[u.Peer.ASN] {
				t.Fatalf("source %d: update %d came when %d was due", u.Peer.ASN, u.Time, seen[u.Peer.ASN])
			}
			seen[u.Peer.ASN]++
		}
	}
	for s, n := range seen {
		if n != each {
			t.Errorf("source %d: %d of %d arrived", s, n, each)
		}
	}
}

func TestValidate(t *testing.T) {
	if err := DefaultConfiguration().Validate(); err != nil {
		t.Error(err)
	}
	err := Configuration{IdleAllowance: -1, ClockTolerance: -1}.Validate()
	for _, field := range []string{"max_updates", "max_bytes", "batch_updates", "tick", "idle_allowance", "clock_tolerance"} {
		if err == nil || !strings.Contains(err.Error(), field+": ") {
			t.Errorf("%v does not name %s", err, field)
		}
	}
}

func BenchmarkPublishNext(b *testing.B) {
	bus := New(DefaultConfiguration(), nil)
	u := rich()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := bus.Publish(u); err != nil {
			b.Fatal(err)
		}
		if i%1000 == 999 {
			if _, err := bus.Next(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
}
