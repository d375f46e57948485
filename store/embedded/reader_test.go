package embedded

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
	"github.com/routevigil/routevigil/store/storetest"
)

var sameRoute = gocmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}

// history is what r yields, which must be in the order of arrival.
func history(t *testing.T, r *Reader, from, to time.Time) (list []store.Route) {
	t.Helper()
	for route, err := range r.History(t.Context(), from, to) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, route)
	}
	if !slices.IsSortedFunc(list, func(a, b store.Route) int { return batch.Compare(a.Cursor, b.Cursor) }) {
		t.Error("not in the order of arrival")
	}
	return list
}

// A reader has what there was when it was opened, in the order of arrival, while the store that it reads goes on:
// writes, seals, merges and drops.
func TestReaderBesideAWriter(t *testing.T) {
	z := sizes{sealRows: 400, rowGroupRows: 64, pageBytes: 128}
	cfg := testConfiguration(t.TempDir())
	s := openStore(t, cfg, z)
	fill(t, s, 5, 30)
	checkpointAll(t, s)
	seal(t, s)
	fill(t, s, 5, 30)
	checkpointAll(t, s)
	seal(t, s)
	fill(t, s, 5, 30)
	want := everything(t, s)
	slices.Reverse(want)
	parts := stats(t, s).Parts

	r, err := OpenReader(t.Context(), cfg.Directory)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fill(t, s, 5, 30)
	checkpointAll(t, s)
	seal(t, s)
	for _, p := range s.parts { // as a merge, or retention, does
		p.doomed.Store(true)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if now := readerStats(t, r); parts < 2 || now.Parts != parts || now.Updates != uint64(len(want)) {
		t.Errorf("the reader has %+v, of %d parts and %d rows", now, parts, len(want))
	}
	if diff := gocmp.Diff(want, history(t, r, time.Time{}, time.Time{}), sameRoute); diff != "" {
		t.Error(diff)
	}
	middle := slices.SortedFunc(slices.Values(want), func(a, b store.Route) int { return a.Time.Compare(b.Time) })
	from, to := middle[len(middle)/4].Time, middle[3*len(middle)/4].Time
	in := slices.DeleteFunc(slices.Clone(want), func(r store.Route) bool { return r.Time.Before(from) || !r.Time.Before(to) })
	if diff := gocmp.Diff(in, history(t, r, from, to), sameRoute); diff != "" || len(in) == 0 || len(in) == len(want) {
		t.Errorf("%d of %d rows: %s", len(in), len(want), diff)
	}
}

func readerStats(t *testing.T, r *Reader) store.Stats {
	t.Helper()
	st, err := r.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestReaderOfNothing(t *testing.T) {
	_, err := OpenReader(t.Context(), t.TempDir())
	wantError(t, err, "there is none")
}

// The updates that rows are made into make the same rows again, in the same order but for where one update ends.
func TestUpdatesOfRows(t *testing.T) {
	cfg := testConfiguration(t.TempDir())
	s := openStore(t, cfg, defaultSizes)
	random := rand.New(rand.NewPCG(3, 4))
	var want []store.Route
	for range 20 {
		b := storetest.Batch(random, ingest.TimeOf(time.Now()), 40)
		if _, err := s.AppendBatch(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		want = append(want, rowsOf(b.Updates)...)
	}
	r, err := OpenReader(t.Context(), cfg.Directory)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []store.Route
	updates := 0
	for u, err := range batch.Updates(r.History(t.Context(), time.Time{}, time.Time{})) {
		if err != nil {
			t.Fatal(err)
		}
		updates++
		got = append(got, rowsOf([]ingest.Update{*u})...)
	}
	if diff := gocmp.Diff(want, got, sameRoute); diff != "" {
		t.Error(diff)
	}
	if actions := len(slices.CompactFunc(slices.SortedFunc(slices.Values(want), byAction), func(a, b store.Route) bool { return a.Action == b.Action })); actions < 3 {
		t.Errorf("only %d actions were tried", actions)
	}
	if updates >= len(want) {
		t.Errorf("%d updates of %d rows: none has several", updates, len(want))
	}
}

func byAction(a, b store.Route) int { return cmp.Compare(a.Action, b.Action) }

func rowsOf(updates []ingest.Update) (rows []store.Route) {
	for i := range updates {
		u := &updates[i]
		for k := range batch.RowsOf(u) {
			action, n := batch.RowOf(u, k)
			rows = append(rows, batch.RouteOf(u, &u.Attrs, action, n, store.Cursor{}))
		}
	}
	return rows
}
