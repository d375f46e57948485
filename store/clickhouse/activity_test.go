package clickhouse

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	api "github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
	"github.com/routevigil/routevigil/store/clickhouse/clickhousetest"
	"github.com/routevigil/routevigil/store/storetest"
)

// Whole hours are counted by the projection: the server refuses where it cannot be used.
func TestActivityUsesProjection(t *testing.T) {
	c := testConfiguration(t, clickhousetest.Shared(t))
	dropDatabase(t, c)
	s := openStore(t, c)
	g := storetest.NewTraffic()
	first := g.Batch(1).Updates[0].Time.Time()
	const updates = 5000
	if _, err := s.AppendBatch(t.Context(), g.Batch(updates)); err != nil {
		t.Fatal(err)
	}
	expandAll(t, s)
	q := store.ActivityQuery{From: first, To: first.Add(time.Hour), Bucket: time.Hour}
	for name, change := range map[string]func(*store.ActivityQuery){
		"all":         func(*store.ActivityQuery) {},
		"one origin":  func(q *store.ActivityQuery) { q.OriginASN = 10_000 },
		"top origins": func(q *store.ActivityQuery) { q.Origins = 3 },
		"days":        func(q *store.ActivityQuery) { q.Bucket = 24 * time.Hour },
	} {
		q := q // whole hours
		change(&q)
		counter, err := batch.NewCounter(q)
		if err != nil {
			t.Fatal(err)
		}
		for again := true; again; again = counter.Next() {
			n := uint64(0)
			err := s.rows(t.Context(), func(r api.Rows) error {
				var one counted
				var action uint8
				if err := r.Scan(&one.time, &one.origin, &action, &one.n); err != nil {
					return err
				}
				counter.Add(one.time, one.origin, batch.Actions[action-1], one.n)
				n += one.n
				return nil
			}, countQuery(counter, q.Bucket, nil, nil)+" SETTINGS force_optimize_projection = 1")
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			ignore := func(api.Rows) error { return nil }
			if err := s.rows(t.Context(), ignore, countQuery(counter, q.Bucket, &positions{1, 1}, nil)+" SETTINGS force_optimize_projection = 1"); err == nil {
				t.Errorf("%s: the server finds a projection for what has none: the test tests nothing", name)
			}
			if n == 0 || (name == "all" || name == "days") && n != updates {
				t.Errorf("%s: %d rows counted", name, n)
			}
		}
	}
}

// A reader counts by the projection too, which knows nothing of positions. So it must know whether a writer moves something
// from the log into updates, or did not come to its end with it.
func TestReaderActivity(t *testing.T) {
	c := testConfiguration(t, clickhousetest.Shared(t))
	dropDatabase(t, c)
	s := openStore(t, c)
	r := openReader(t, c)
	g := storetest.NewTraffic()
	first := g.Batch(1).Updates[0].Time.Time()
	const each = 200
	q := store.ActivityQuery{From: first, To: first.Add(time.Hour), Bucket: time.Hour}
	count := func() (n uint64) {
		t.Helper()
		list, err := r.Activity(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range list {
			n += a.Announcements + a.Withdrawals + a.RIB
		}
		return n
	}
	appendOne := func() {
		t.Helper()
		if _, err := s.AppendBatch(t.Context(), g.Batch(each)); err != nil {
			t.Fatal(err)
		}
	}
	for range 4 {
		appendOne()
	}
	expandAll(t, s)
	appendOne()
	if n := count(); n != 5*each {
		t.Fatalf("%d updates, want %d", n, 5*each)
	}

	// The writer dies between the rows and the mark that says that they are there.
	expandAll(t, s)
	run(t, s, "ALTER TABLE marks DELETE WHERE name = 'expanded' AND value = 5 SETTINGS mutations_sync = 1")
	if n := count(); n != 5*each {
		t.Errorf("%d updates are counted of what is being moved, want %d", n, 5*each)
	}
	run(t, s, "ALTER TABLE marks DELETE WHERE name = 'expanding' AND value = 5 SETTINGS mutations_sync = 1")
	if n := count(); n != 6*each {
		t.Errorf("%d updates are counted without the mark, want %d, one batch twice: the test tests nothing", n, 6*each)
	}
	if err := s.mark(t.Context(), "expanded", 5); err != nil {
		t.Fatal(err)
	}

	// What is counted meanwhile is all that was there before, and nothing twice.
	var done sync.WaitGroup
	var appended atomic.Int64
	appended.Store(5 * each)
	done.Go(func() {
		for range 15 {
			if _, err := s.AppendBatch(t.Context(), g.Batch(each)); err != nil {
				t.Error(err)
				return
			}
			appended.Add(each)
			if err := s.tidy(t.Context(), time.Now(), true); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for appended.Load() < 20*each && !t.Failed() {
		before := uint64(appended.Load())
		n := count()
		if after := uint64(appended.Load()) + each; n < before || n > after {
			t.Errorf("%d updates, want %d to %d", n, before, after)
		}
	}
	done.Wait()
}
