package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
	"github.com/routevigil/routevigil/store/clickhouse/clickhousetest"
	"github.com/routevigil/routevigil/store/storetest"
)

func openReader(t testing.TB, c Configuration) *Reader {
	t.Helper()
	r, err := OpenReader(t.Context(), c, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// readElsewhere writes by a Store and reads by a Reader.
type readElsewhere struct {
	store.Store // what writes
	r           *Reader
}

func (s readElsewhere) BatchesSince(ctx context.Context, p uint64) iter.Seq2[*ingest.Batch, error] {
	return s.r.BatchesSince(ctx, p)
}
func (s readElsewhere) Updates(ctx context.Context, q store.UpdateQuery) iter.Seq2[store.Route, error] {
	return s.r.Updates(ctx, q)
}
func (s readElsewhere) Gaps(ctx context.Context, state ingest.GapState, limit int) ([]ingest.Gap, error) {
	return s.r.Gaps(ctx, state, limit)
}
func (s readElsewhere) Heard(ctx context.Context) ([]store.Heard, error) { return s.r.Heard(ctx) }
func (s readElsewhere) Incident(ctx context.Context, id string) (incident.Incident, error) {
	return s.r.Incident(ctx, id)
}
func (s readElsewhere) Incidents(ctx context.Context, q store.IncidentQuery) ([]incident.Incident, error) {
	return s.r.Incidents(ctx, q)
}
func (s readElsewhere) Events(ctx context.Context, id string, after uint64, limit int) ([]incident.Event, error) {
	return s.r.Events(ctx, id, after, limit)
}
func (s readElsewhere) LastSequence(ctx context.Context) (uint64, error) {
	return s.r.LastSequence(ctx)
}
func (s readElsewhere) WaitEvents(ctx context.Context, after uint64) error {
	return s.r.WaitEvents(ctx, after)
}
func (s readElsewhere) DueDeliveries(ctx context.Context, receiver string, now time.Time, limit int) ([]store.Delivery, error) {
	return s.r.DueDeliveries(ctx, receiver, now, limit)
}
func (s readElsewhere) Deliveries(ctx context.Context, id string) ([]store.Delivery, error) {
	return s.r.Deliveries(ctx, id)
}
func (s readElsewhere) Checkpoint(ctx context.Context) (uint64, []byte, error) {
	return s.r.Checkpoint(ctx)
}
func (s readElsewhere) Stats(ctx context.Context) (store.Stats, error) { return s.r.Stats(ctx) }
func (s readElsewhere) Health() error                                  { return errors.Join(s.Store.Health(), s.r.Health()) }

// What a Reader, which is open while a Store writes, reads is what it should be: the whole suite, with each write done by the
// one and each read by the other, also after another Store has taken over.
func TestReaderConformance(t *testing.T) {
	server := clickhousetest.Shared(t)
	storetest.Run(t, storetest.Harness{
		Open: func(t *testing.T) store.Store {
			c := testConfiguration(t, server)
			c.Expand.Updates = 100
			dropDatabase(t, c)
			s := openStore(t, c)
			return readElsewhere{s, openReader(t, c)}
		},
		Reopen: func(t *testing.T, s store.Store) store.Store {
			old := s.(readElsewhere)
			if err := old.Store.Close(); err != nil {
				t.Fatal(err)
			}
			return readElsewhere{openStore(t, old.r.cfg), old.r}
		},
		Seal: func(t *testing.T, s store.Store) { expandAll(t, s.(readElsewhere).Store.(*Store)) },
	})
}

// Many readers take nothing from the writer, and can write nothing.
func TestReadersDoNotWrite(t *testing.T) {
	c := testConfiguration(t, clickhousetest.Shared(t))
	dropDatabase(t, c)
	s := openStore(t, c)
	readers := []*Reader{openReader(t, c), openReader(t, c)}
	if _, err := s.AppendBatch(t.Context(), numbered(1)); err != nil {
		t.Fatalf("a reader has fenced the writer: %v", err)
	}
	random := rand.New(rand.NewPCG(1, 0))
	in := storetest.Incident(random, "inc_1", 1)
	for _, r := range readers {
		_, appended := r.AppendBatch(t.Context(), numbered(2))
		for what, err := range map[string]error{
			"AppendBatch":    appended,
			"AppendBackfill": r.AppendBackfill(t.Context(), numbered(2), &ingest.Gap{ID: 1}),
			"SaveGap":        r.SaveGap(t.Context(), &ingest.Gap{}),
			"SaveHeard":      r.SaveHeard(t.Context(), []store.Heard{{Collector: "rrc00"}}),
			"CommitEvents":   r.CommitEvents(t.Context(), []incident.Event{{Sequence: 1, Incident: in}}, nil),
			"UpdateDelivery": r.UpdateDelivery(t.Context(), store.Delivery{Key: "k"}),
			"SaveCheckpoint": r.SaveCheckpoint(t.Context(), 1, nil),
		} {
			if !errors.Is(err, errReadOnly) || errors.Is(err, store.ErrUnavailable) {
				t.Errorf("%s: error %v, want one that says that it is open for reading only", what, err)
			}
		}
		if err := r.Health(); err != nil {
			t.Errorf("a refused write is taken for trouble: %v", err)
		}
		verify(t, r.Store, 1)
		if got := r.Newest(); got != ingest.Time(1).Time() {
			t.Errorf("the newest batch is of %s", got)
		}
	}
	if _, err := s.AppendBatch(t.Context(), numbered(2)); err != nil {
		t.Fatal(err)
	}
	verify(t, readers[1].Store, 2)
	if err := readers[0].Close(); err != nil {
		t.Fatal(err)
	}
	if err := readers[0].WaitEvents(t.Context(), 0); err == nil {
		t.Error("a closed reader waits")
	}
	if _, err := readers[0].LastSequence(t.Context()); err == nil {
		t.Error("a closed reader answers")
	}
}

// All is read on connections that may only read, which those of a user who may only SELECT are: the server refuses the rest.
func TestReaderWithoutRights(t *testing.T) {
	c := testConfiguration(t, clickhousetest.Shared(t))
	dropDatabase(t, c)
	s := openStore(t, c)
	r := openReader(t, c)
	for _, query := range []string{`INSERT INTO marks (name, value) VALUES ('expanded', 1)`, `DROP TABLE marks`, `ALTER TABLE batches DROP PARTITION ID '0'`} {
		if err := r.conn.Exec(t.Context(), query); err == nil || !strings.Contains(err.Error(), "readonly") {
			t.Errorf("%s: error %v, want that the connection is read-only", query, err)
		}
	}
	for i := 1; i <= 3; i++ {
		if _, err := s.AppendBatch(t.Context(), numbered(i)); err != nil {
			t.Fatal(err)
		}
	}
	verify(t, r.Store, 3)
}

// What an append left of whose outcome nobody knows, and which a later epoch does not count, a reader does not see.
func TestReaderOfVoidBatches(t *testing.T) {
	c := testConfiguration(t, clickhousetest.Shared(t))
	dropDatabase(t, c)
	s := openStore(t, c)
	r := openReader(t, c)
	for i := 1; i <= 3; i++ {
		if _, err := s.AppendBatch(t.Context(), numbered(i)); err != nil {
			t.Fatal(err)
		}
	}
	last := func(want uint64) {
		t.Helper()
		st, err := r.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if st.LastPosition != want || st.Updates != want {
			t.Errorf("the reader sees batch %d and %d rows, want %d", st.LastPosition, st.Updates, want)
		}
	}
	last(3)
	run(t, s, `INSERT INTO epochs (epoch, owner, first_position, at) VALUES (2, 'other', 0, now64(6))`) // claimed, and not begun
	late := `INSERT INTO batches SELECT 4, 1, received_at, watermark, backfilled, updates, rows, min_time, max_time, gap_id, gap_version, gap, body, imported FROM batches WHERE position = 3`
	run(t, s, late)
	last(3)
	run(t, s, `INSERT INTO epochs (epoch, owner, first_position, at) VALUES (2, 'other', 4, now64(6))`) // begun without it
	last(3)
	verify(t, r.Store, 3)
	run(t, s, strings.Replace(late, "4, 1,", "4, 2,", 1))
	last(4)
}

func TestReaderSchemas(t *testing.T) {
	c, s := emptyDatabase(t)
	open := func(c Configuration, words ...string) {
		t.Helper()
		r, err := OpenReader(t.Context(), c, slog.New(slog.DiscardHandler))
		if err == nil {
			r.Close()
			t.Fatal("it opens")
		}
		for _, w := range append(words, c.Database) {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("error %q does not say %q", err, w)
			}
		}
	}
	open(c, "there is none", "routevigil record")
	missing := c
	missing.Database += "_missing"
	open(missing, "there is none", "routevigil record")
	var n uint64
	if err := s.conn.QueryRow(t.Context(), `SELECT count() FROM system.databases WHERE name = ?`, missing.Database).Scan(&n); err != nil || n != 0 {
		t.Errorf("a reader made the database (%v)", err)
	}
	if err := migrate(t.Context(), s.conn, layout{}, 0); err != nil {
		t.Fatal(err)
	}
	open(c, "schema 0", "start what writes it")
	if err := migrate(t.Context(), s.conn, layout{}, schemaVersion()); err != nil {
		t.Fatal(err)
	}
	openReader(t, c).Close() // of a store that nobody has opened yet
	run(t, s, "INSERT INTO schema_versions (version) VALUES (999)")
	open(c, "schema 999", "newer routevigil")
}

// History is everything in the order of arrival, from the table of updates and from the log, and of a period what is in it.
func TestReaderHistory(t *testing.T) {
	c := testConfiguration(t, clickhousetest.Shared(t))
	c.Expand.Updates = 100
	dropDatabase(t, c)
	s := openStore(t, c)
	r := openReader(t, c)
	history := func(from, to time.Time) (list []store.Route) {
		t.Helper()
		for route, err := range r.History(t.Context(), from, to) {
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, route)
		}
		return list
	}
	if got := history(time.Time{}, time.Time{}); got != nil {
		t.Errorf("%d rows of an empty store", len(got))
	}
	random := rand.New(rand.NewPCG(5, 6))
	at := ingest.TimeOf(time.Now())
	fill := func() {
		for range 100 {
			if _, err := s.AppendBatch(t.Context(), storetest.Batch(random, at, 20)); err != nil {
				t.Fatal(err)
			}
			at = at.Add(10 * time.Second)
		}
	}
	fill()
	expandAll(t, s)
	fill()
	var want []store.Route
	for route, err := range s.Updates(t.Context(), store.UpdateQuery{Limit: 1 << 30}) {
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, route)
	}
	slices.Reverse(want)
	equal := func(what string, got, want []store.Route) {
		t.Helper()
		if len(got) != len(want) || len(want) == 0 {
			t.Fatalf("%s: %d rows, want %d", what, len(got), len(want))
		}
		for i := range got {
			if a, b := fmt.Sprintf("%+v", got[i]), fmt.Sprintf("%+v", want[i]); a != b {
				t.Fatalf("%s: row %d is\n%s\nwant\n%s", what, i, a, b)
			}
		}
	}
	equal("everything", history(time.Time{}, time.Time{}), want)
	middle := slices.SortedFunc(slices.Values(want), func(a, b store.Route) int { return a.Time.Compare(b.Time) })
	from, to := middle[len(middle)/4].Time, middle[3*len(middle)/4].Time
	in := slices.DeleteFunc(slices.Clone(want), func(r store.Route) bool { return r.Time.Before(from) || !r.Time.Before(to) })
	equal("a period", history(from, to), in)
	expandAll(t, s)
	equal("everything expanded", history(time.Time{}, time.Time{}), want)
	n := 0
	for route, err := range r.History(t.Context(), time.Time{}, time.Time{}) {
		if err != nil {
			t.Fatal(err)
		}
		if n++; n == 10 {
			if batch.Compare(route.Cursor, want[9].Cursor) != 0 {
				t.Errorf("the tenth row is at %v, want %v", route.Cursor, want[9].Cursor)
			}
			break
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range r.History(ctx, time.Time{}, time.Time{}) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want the context's", err)
		}
	}
}

// A log that is expanded and dropped under a reader's eyes is read from where it is then.
func TestReaderWhileTheLogIsDropped(t *testing.T) {
	c := testConfiguration(t, clickhousetest.Shared(t))
	dropDatabase(t, c)
	s := openStore(t, c)
	r := openReader(t, c)
	const n = 2*logPartition + 10
	done := make(chan struct{})
	go func() {
		defer close(done)
		e := batch.NewEncoder()
		for i := 1; i <= n; {
			var group []*appending
			for first := i; i <= n && len(group) < 128 && (i == first || i%logPartition != 0); i++ {
				body, sum, err := e.Encode(nil, numbered(i))
				if err != nil {
					t.Error(err)
					return
				}
				group = append(group, &appending{body: body, watermark: int64(i), sum: sum})
			}
			err := s.commit(group, uint64(i-len(group)))
			if i%1000 < len(group) {
				err = errors.Join(err, s.SaveCheckpoint(context.Background(), uint64(i-1), nil), s.tidy(context.Background(), time.Now(), true))
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		want := int64(-1)
		for route, err := range r.Updates(t.Context(), store.UpdateQuery{Limit: 1 << 30}) {
			if err != nil {
				t.Fatal(err)
			}
			if got := route.Time.UnixMicro(); want >= 0 && got != want {
				t.Fatalf("the row of batch %d is where that of batch %d should be", got, want)
			}
			want = route.Time.UnixMicro() - 1
		}
		if want > 0 {
			t.Fatalf("batch %d and what came before are missing", want)
		}
		next := int64(1)
		for route, err := range r.History(t.Context(), time.Time{}, time.Time{}) {
			if err != nil {
				t.Fatal(err)
			}
			if got := route.Time.UnixMicro(); got != next {
				t.Fatalf("in the order of arrival batch %d is where %d should be", got, next)
			}
			next++
		}
	}
	if st := s.current(); st.dropped == 0 {
		t.Error("nothing of the log was dropped")
	}
}

// A reader outlives the server: it says that it cannot read, and reads on once it can.
func TestReaderServerKilled(t *testing.T) {
	server := clickhousetest.New(t, t.TempDir())
	c := testConfiguration(t, server.Address)
	s := openStore(t, c)
	r := openReader(t, c)
	if _, err := s.AppendBatch(t.Context(), numbered(1)); err != nil {
		t.Fatal(err)
	}
	verify(t, r.Store, 1)
	whenHealthy := func(want bool) {
		t.Helper()
		for end := time.Now().Add(patience); (r.Health() == nil) != want; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("health: %v", r.Health())
			}
		}
	}
	server.Kill()
	whenHealthy(false)
	if _, err := r.LastSequence(t.Context()); err == nil {
		t.Error("it answers without a server")
	}
	server.Start()
	whenHealthy(true)
	if err := persist(t.Context(), func() error { _, err := s.AppendBatch(t.Context(), numbered(2)); return err }); err != nil {
		t.Fatal(err)
	}
	verify(t, r.Store, 2)
}
