package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"
	api "github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/clickhouse/clickhousetest"
	"github.com/routevigil/routevigil/store/storetest"
)

// patience bounds what a test waits for on a slow machine.
const patience = 2 * time.Minute

// persist repeats a write as the pipeline does: while the storage is unavailable.
func persist(ctx context.Context, write func() error) error {
	for {
		err := write()
		if err == nil || !errors.Is(err, store.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// numbered is a batch with one announcement, which n tells from all others.
func numbered(n int) *ingest.Batch {
	prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 32)
	return &ingest.Batch{Watermark: ingest.Time(n), Updates: []ingest.Update{{Time: ingest.Time(n), Peer: ingest.Peer{Collector: "rrc00", ASN: 64500},
		Announced: []bgp.NLRI{{Prefix: prefix}}}}}
}

// verify compares all that s has with the numbered batches 1 to n.
func verify(t *testing.T, s *Store, n int) {
	t.Helper()
	i := 0
	for b, err := range s.BatchesSince(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if i++; b.Watermark != ingest.Time(i) {
			t.Fatalf("at position %d is batch %d", i, b.Watermark)
		}
	}
	if i != n {
		t.Fatalf("%d batches, want %d", i, n)
	}
	for r, err := range s.Updates(t.Context(), store.UpdateQuery{Limit: 1 << 30}) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Time != ingest.Time(i).Time() {
			t.Fatalf("the row of batch %d is where that of batch %d should be", r.Time.UnixMicro(), i)
		}
		i--
	}
	if i != 0 {
		t.Fatalf("of %d rows %d are missing", n, i)
	}
}

// However often the server is killed: what was acknowledged is there, once, and in order.
func TestServerKilled(t *testing.T) {
	server := clickhousetest.New(t, t.TempDir())
	c := testConfiguration(t, server.Address)
	c.WriteTimeout = 5 * time.Second
	c.Expand.Updates = 20
	s := openStore(t, c)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	end := make(chan struct{})
	var work sync.WaitGroup
	var batches, events atomic.Int64
	goOn := func() bool {
		select {
		case <-end:
			return false
		case <-ctx.Done():
			return false
		default:
			return true
		}
	}
	work.Go(func() {
		for goOn() {
			b := numbered(int(batches.Load()) + 1)
			if err := persist(ctx, func() error { _, err := s.AppendBatch(ctx, b); return err }); err != nil {
				t.Error(err)
				return
			}
			batches.Add(1)
		}
	})
	r := rand.New(rand.NewPCG(1, 0))
	work.Go(func() {
		for goOn() {
			n := uint64(events.Load() + 1)
			e := incident.Event{Sequence: n, Incident: storetest.Incident(r, "inc_1", n)}
			d := store.Delivery{Key: fmt.Sprint("k", n), IncidentID: "inc_1", Sequence: n, Receiver: "hook", State: store.Pending}
			if err := persist(ctx, func() error { return s.CommitEvents(ctx, []incident.Event{e}, []store.Delivery{d}) }); err != nil {
				t.Error(err)
				return
			}
			events.Add(1)
		}
	})
	work.Go(func() {
		for goOn() {
			s.tidy(ctx, time.Now(), true) // fails while the server is down, and takes it up later
			time.Sleep(10 * time.Millisecond)
		}
	})
	more := func() { // until something has been stored of each
		b, e := batches.Load(), events.Load()
		for goOn() && (batches.Load() < b+10 || events.Load() < e+10) {
			time.Sleep(10 * time.Millisecond)
		}
	}
	for range 3 {
		more()
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond)
		server.Kill()
		server.Start()
	}
	more()
	close(end)
	work.Wait()
	if ctx.Err() != nil || t.Failed() {
		t.Fatal("it took too long, or failed")
	}
	for range 2 {
		verify(t, s, int(batches.Load()))
		expandAll(t, s)
		verify(t, s, int(batches.Load()))
		list, err := s.Events(t.Context(), "", 0, int(events.Load())+100)
		if err != nil || len(list) != int(events.Load()) {
			t.Fatalf("%d events, want %d, error %v", len(list), events.Load(), err)
		}
		due, err := s.DueDeliveries(t.Context(), "hook", time.Now(), int(events.Load())+100)
		if err != nil || len(due) != int(events.Load()) {
			t.Fatalf("%d deliveries, want %d, error %v", len(due), events.Load(), err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, c)
	}
}

// A server that hangs and goes on later stores what it was sent, when nobody waits for it any more. What was sent
// instead is what counts, and is there once. Where the server ends when it goes on, it is started again.
func TestServerPaused(t *testing.T) {
	server := clickhousetest.New(t, t.TempDir())
	c := testConfiguration(t, server.Address)
	c.WriteTimeout = 3 * time.Second
	s := openStore(t, c)
	r := rand.New(rand.NewPCG(2, 0))
	const title = "of the second attempt"
	var sequences []uint64
	n := 0
	for range 2 {
		late := numbered(1_000_000 + n) // that its caller gives up
		paused := make(chan struct{})
		go func() {
			defer close(paused)
			time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
			server.Signal(syscall.SIGSTOP)
		}()
		var err error
		for err == nil {
			n++
			_, err = s.AppendBatch(t.Context(), numbered(n))
		}
		n--
		<-paused
		if !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("error %v, want ErrUnavailable", err)
		}
		if _, err = s.AppendBatch(t.Context(), late); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("error %v, want ErrUnavailable", err)
		}
		e := incident.Event{Sequence: uint64(n + 1), Incident: storetest.Incident(r, "inc_1", uint64(n+1))}
		if err := s.CommitEvents(t.Context(), []incident.Event{e}, nil); !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("error %v, want ErrUnavailable", err)
		}
		server.Signal(syscall.SIGCONT)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		again := func(write func() error) {
			t.Helper()
			err := persist(ctx, func() error {
				server.Revive()
				return write()
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		n++
		again(func() error { _, err := s.AppendBatch(ctx, numbered(n)); return err })
		e.Incident.Title = title
		again(func() error { return s.CommitEvents(ctx, []incident.Event{e}, nil) })
		cancel()
		sequences = append(sequences, e.Sequence)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		server.Kill() // it might end any moment
		server.Start()
		s = openStore(t, c)
		for _, n := range sequences {
			events, err := s.Events(t.Context(), "inc_1", n-1, 1)
			if err != nil || len(events) != 1 || events[0].Sequence != n || events[0].Incident.Title != title {
				t.Fatalf("events %v, error %v, want event %d %s", events, err, n, title)
			}
		}
		verify(t, s, n)
		expandAll(t, s)
	}
}

// Several batches at once are stored in their order, over the bounds of partitions too, beside those of others. Where the server
// is away, none is; where another took the store over, none, and repeating is in vain.
func TestAppendBatches(t *testing.T) {
	c := testConfiguration(t, clickhousetest.Shared(t))
	dropDatabase(t, c)
	s := openStore(t, c)
	const n = 3*logPartition/2 + 5
	for i := 1; i <= n; {
		var list []*ingest.Batch
		for range 1 + rand.IntN(700) {
			list = append(list, numbered(i+len(list)))
		}
		stored, position, err := s.AppendBatches(t.Context(), list)
		if err != nil || stored != len(list) || position != uint64(i+len(list)-1) {
			t.Fatalf("%d of %d are stored, up to %d: %v", stored, len(list), position, err)
		}
		i += len(list)
		if i > n {
			verify(t, s, i-1)
		}
	}
	before := s.current().position
	var others sync.WaitGroup
	for w := range 8 {
		others.Go(func() {
			list := []*ingest.Batch{numbered(1), numbered(2), numbered(3)}
			if stored, position, err := s.AppendBatches(t.Context(), list); err != nil || stored != 3 || position < before+3 {
				t.Errorf("writer %d: %d, up to %d: %v", w, stored, position, err)
			}
		})
	}
	others.Wait()
	if got := s.current().position; got != before+8*3 {
		t.Errorf("the last position is %d, want %d", got, before+8*3)
	}
	second := openStore(t, c)
	stored, _, err := s.AppendBatches(t.Context(), []*ingest.Batch{numbered(1), numbered(2)})
	if stored != 0 || err == nil || errors.Is(err, store.ErrUnavailable) {
		t.Errorf("%d are stored by who has been replaced: %v", stored, err)
	}
	stored, _, err = second.AppendBatches(t.Context(), nil)
	if stored != 0 || err != nil {
		t.Errorf("of nothing %d are stored: %v", stored, err)
	}
}

// An append whose outcome was not known may be stored. What comes next takes its place.
func TestDoubtfulAppend(t *testing.T) {
	c := testConfiguration(t, clickhousetest.Shared(t))
	dropDatabase(t, c)
	s := openStore(t, c)
	for i := 1; i <= 3; i++ {
		if _, err := s.AppendBatch(t.Context(), numbered(i)); err != nil {
			t.Fatal(err)
		}
	}
	// As if the acknowledgement of 4 and 5 had been lost.
	for i := 4; i <= 5; i++ {
		if _, err := s.AppendBatch(t.Context(), numbered(1000+i)); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	s.state.position, s.state.doubtful = 3, true
	s.mu.Unlock()
	if p, err := s.AppendBatch(t.Context(), numbered(4)); err != nil || p != 4 {
		t.Fatalf("position %d, error %v", p, err)
	}
	verify(t, s, 4)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, c)
	verify(t, s, 4)
	expandAll(t, s)
	verify(t, s, 4)
}

// Whoever opens the store later has it. The earlier one is told, and nothing of it counts.
func TestSecondWriter(t *testing.T) {
	c := testConfiguration(t, clickhousetest.Shared(t))
	dropDatabase(t, c)
	first := openStore(t, c)
	if _, err := first.AppendBatch(t.Context(), numbered(1)); err != nil {
		t.Fatal(err)
	}
	second := openStore(t, c)
	_, err := first.AppendBatch(t.Context(), numbered(1000))
	if err == nil || errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "another routevigil") {
		t.Errorf("error %v, want one that says why and that repeating is in vain", err)
	}
	if err := first.Health(); err == nil {
		t.Error("it is well")
	}
	for i := 2; i <= 3; i++ {
		if p, err := second.AppendBatch(t.Context(), numbered(i)); err != nil || p != uint64(i) {
			t.Fatalf("position %d, error %v", p, err)
		}
	}
	verify(t, second, 3)
	if err := first.CommitEvents(t.Context(), nil, nil); err == nil {
		t.Error("it commits events")
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	verify(t, openStore(t, c), 3)
}

// Nothing is lost by a server that refuses writes for a while.
func TestServerRefuses(t *testing.T) {
	server := clickhousetest.Shared(t)
	tests := []struct {
		name           string
		refuse, accept func(t *testing.T, s *Store)
	}{
		{"because it may only be read",
			func(t *testing.T, s *Store) { readOnly(t, s, 1) },
			func(t *testing.T, s *Store) { readOnly(t, s, 0) }},
		{"because merges do not keep up",
			func(t *testing.T, s *Store) {
				run(t, s, "SYSTEM STOP MERGES batches", "ALTER TABLE batches MODIFY SETTING parts_to_throw_insert = 2, parts_to_delay_insert = 2, max_delay_to_insert = 1")
			},
			func(t *testing.T, s *Store) {
				run(t, s, "SYSTEM START MERGES batches", "ALTER TABLE batches RESET SETTING parts_to_throw_insert, parts_to_delay_insert, max_delay_to_insert")
			}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := testConfiguration(t, server)
			dropDatabase(t, c)
			s := openStore(t, c)
			n := 0
			next := func() error {
				_, err := s.AppendBatch(t.Context(), numbered(n+1))
				if err == nil {
					n++
				}
				return err
			}
			if err := next(); err != nil {
				t.Fatal(err)
			}
			tt.refuse(t, s)
			var err error
			for i := 0; i < 50 && err == nil; i++ {
				err = next()
			}
			if !errors.Is(err, store.ErrUnavailable) || s.Health() == nil {
				t.Fatalf("error %v, health %v; want both to tell of it", err, s.Health())
			}
			tt.accept(t, s)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := persist(ctx, next); err != nil {
				t.Fatal(err)
			}
			if err := s.Health(); err != nil {
				t.Errorf("it writes again and is not well: %v", err)
			}
			verify(t, s, n)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			verify(t, openStore(t, c), n)
		})
	}
}

// readOnly gives s a writer to whom the server says so.
func readOnly(t *testing.T, s *Store, value int) {
	t.Helper()
	c, before := s.cfg, s.writer
	t.Cleanup(func() { before.Close() })
	settings := driver.Settings{}
	if value != 0 {
		settings["readonly"] = value
	}
	conn, err := driver.Open(&driver.Options{Addr: c.Addresses, Auth: driver.Auth{Database: c.Database, Username: c.Username}, Settings: settings})
	if err != nil {
		t.Fatal(err)
	}
	s.writer = conn
}

func run(t *testing.T, s *Store, statements ...string) {
	t.Helper()
	for _, q := range statements {
		if err := s.conn.Exec(t.Context(), q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
}

// No query takes longer, or more memory, than it may.
func TestQueryBounds(t *testing.T) {
	c := testConfiguration(t, clickhousetest.Shared(t))
	dropDatabase(t, c)
	c.QueryTimeout, c.QueryMemory = time.Second, 50<<20
	s := openStore(t, c)
	for name, tt := range map[string]struct {
		query string
		code  int32
	}{
		"time":   {"SELECT sum(sipHash64(number)) FROM numbers(100000000000)", 159},
		"memory": {"SELECT groupArray(number) FROM numbers(100000000)", 241},
	} {
		err := s.rows(t.Context(), func(api.Rows) error { return nil }, tt.query)
		if e := new(driver.Exception); !errors.As(err, &e) || e.Code != tt.code {
			t.Errorf("%s: error %v, want the server's %d", name, err, tt.code)
		}
	}
}
