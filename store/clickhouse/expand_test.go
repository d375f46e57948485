package clickhouse

import (
	"bytes"
	"cmp"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
	"github.com/routevigil/routevigil/store/clickhouse/clickhousetest"
	"github.com/routevigil/routevigil/store/storetest"
)

// all counts the rows of history, and fails where one is there twice.
func all(t *testing.T, s *Store, during func(n int)) int {
	t.Helper()
	seen := map[time.Time]bool{}
	for r, err := range s.Updates(t.Context(), store.UpdateQuery{Limit: 1 << 30}) {
		if err != nil {
			t.Fatal(err)
		}
		if seen[r.Time] {
			t.Fatalf("the row of batch %d is there twice", r.Time.UnixMicro())
		}
		seen[r.Time] = true
		during(len(seen))
	}
	return len(seen)
}

func countOf(t *testing.T, s *Store, query string) uint64 {
	t.Helper()
	var n uint64
	if err := s.conn.QueryRow(t.Context(), query).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// The log is dropped when it is not needed any more, also under a query that is in the middle of it. What it alone
// knew of gaps is kept. Then retention drops history, a day at a time.
func TestLogDropped(t *testing.T) {
	c := testConfiguration(t, clickhousetest.Shared(t))
	dropDatabase(t, c)
	s := openStore(t, c)
	g := ingest.Gap{Collector: "rrc00", From: time.Unix(1, 0).UTC(), Until: time.Unix(2, 0).UTC(), State: ingest.GapWaiting}
	if err := s.SaveGap(t.Context(), &g); err != nil {
		t.Fatal(err)
	}
	g.Taken = 7
	if err := s.AppendBackfill(t.Context(), numbered(1), &g); err != nil {
		t.Fatal(err)
	}
	const writers, each = groupMax, logPartition/groupMax + 3
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				if _, err := s.AppendBatch(t.Context(), numbered(2+w*each+i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	const batches = 1 + writers*each
	if err := s.SaveCheckpoint(t.Context(), batches-10, nil); err != nil {
		t.Fatal(err)
	}
	if n := all(t, s, func(n int) {
		if n == 100 { // of the log
			expandAll(t, s)
		}
	}); n != batches {
		t.Fatalf("%d rows, want %d", n, batches)
	}
	if n := countOf(t, s, "SELECT count() FROM batches WHERE position < 4096"); n != 0 {
		t.Errorf("%d batches of the first partition are still in the log", n)
	}
	for range 2 {
		n := 0
		for _, err := range s.BatchesSince(t.Context(), batches-10) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != 10 {
			t.Errorf("%d batches since the checkpoint, want 10", n)
		}
		if n := all(t, s, func(int) {}); n != batches {
			t.Fatalf("%d rows, want %d", n, batches)
		}
		gaps, err := s.Gaps(t.Context(), "", 0)
		if err != nil || len(gaps) != 1 || gaps[0] != g {
			t.Errorf("gaps %+v, error %v; want %+v", gaps, err, g)
		}
		if st, err := s.Stats(t.Context()); err != nil || st.Updates != batches || st.LastPosition != batches {
			t.Errorf("%+v, error %v", st, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = openStore(t, c)
	}
	s.retention.Age = 24 * time.Hour
	if err := s.retain(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if n := all(t, s, func(int) {}); n != batches {
		t.Errorf("%d rows are left of a young day, want all %d", n, batches)
	}
	if err := s.retain(t.Context(), time.Now().Add(72*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if n := all(t, s, func(int) {}); n != 0 {
		t.Errorf("%d rows are left of an old day", n)
	}
}

// A block that is inserted again, with another range or under another token, is not there twice.
func TestExpandedTwice(t *testing.T) {
	c := testConfiguration(t, clickhousetest.Shared(t))
	dropDatabase(t, c)
	s := openStore(t, c)
	for i := 1; i <= 30; i++ {
		if _, err := s.AppendBatch(t.Context(), numbered(i)); err != nil {
			t.Fatal(err)
		}
	}
	expandAll(t, s)
	for _, from := range []uint64{0, 7} { // as if the mark had not been stored
		s.mu.Lock()
		s.state.expanded = from
		s.mu.Unlock()
		expandAll(t, s)
		verify(t, s, 30)
	}
	if n := countOf(t, s, "SELECT count() FROM updates"); n != 30+23 {
		t.Errorf("%d rows: the same block twice is one, another range of it is not until it is merged", n)
	}
	run(t, s, "OPTIMIZE TABLE updates FINAL")
	if n := countOf(t, s, "SELECT count() FROM updates"); n != 30 {
		t.Errorf("%d rows after merging, want 30", n)
	}
	if n := countOf(t, s, "SELECT count() FROM routes WHERE prefix LIKE '10.0.0.%/32' AND collector = 'rrc00' AND action = 'announce'"); n != 30 {
		t.Errorf("people find %d routes, want 30", n)
	}
}

// Rows are sent in the order that the table has, so that the server need not sort them.
func TestBlockSorted(t *testing.T) {
	var b block
	b.reset(&Store{})
	r := rand.New(rand.NewPCG(1, 2))
	e := batch.NewEncoder()
	want := 0
	for position := uint64(1); position <= 50; position++ {
		body, sum, err := e.Encode(nil, storetest.Batch(r, 1e15, 40))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.add(logRow{position: position, received: time.Unix(0, 0), body: body}); err != nil {
			t.Fatal(err)
		}
		want += sum.Rows
	}
	b.sort()
	c := &b.columns
	if len(c.afi) != want || want == 0 {
		t.Fatalf("%d rows, want %d", len(c.afi), want)
	}
	seen := map[uint8]bool{}
	for i := range c.afi {
		seen[c.afi[i]] = true
		if i > 0 && cmp.Or(cmp.Compare(c.afi[i-1], c.afi[i]), bytes.Compare(c.address[i-1][:], c.address[i][:]), cmp.Compare(c.length[i-1], c.length[i]),
			cmp.Compare(c.position[i-1], c.position[i]), cmp.Compare(c.row[i-1], c.row[i])) >= 0 {
			t.Fatalf("rows %d and %d are out of order", i-1, i)
		}
	}
	if !seen[0] || !seen[4] || !seen[6] {
		t.Errorf("families %v: the test is too small", seen)
	}
}
