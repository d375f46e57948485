package clickhouse

import (
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
