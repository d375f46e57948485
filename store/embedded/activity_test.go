package embedded

import (
	"math"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

// hoursOf is a batch with one announcement by each origin in each of some hours.
func hoursOf(first time.Time, hours int, origins ...uint32) *ingest.Batch {
	b := &ingest.Batch{}
	for h := range hours {
		for _, asn := range origins {
			b.Updates = append(b.Updates, ingest.Update{Time: ingest.TimeOf(first.Add(time.Duration(h) * time.Hour)), Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}},
				Attrs: bgp.Attributes{Has: bgp.HasASPath, ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{asn}}}}})
		}
	}
	return b
}

// A summary says what the rows say, comes with a merge of parts that have none, and goes with its part.
func TestSummary(t *testing.T) {
	cfg := testConfiguration(t.TempDir())
	cfg.Seal.Window = time.Hour
	s := openStore(t, cfg, defaultSizes)
	first := time.Date(2024, 6, 27, 0, 0, 0, 0, time.UTC)
	q := store.ActivityQuery{From: first, To: first.Add(48 * time.Hour), Bucket: time.Hour, Origins: 2}
	for i := range 3 {
		if _, err := s.AppendBatch(t.Context(), hoursOf(first.Add(time.Duration(i)*time.Hour), 24, 64500, 64501, uint32(64501+i))); err != nil {
			t.Fatal(err)
		}
		checkpointAll(t, s)
		seal(t, s)
	}
	ask := func() []store.Activity {
		t.Helper()
		a, err := s.Activity(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	want := ask()
	if len(s.parts) != 3 || len(want) != 2 || want[0].OriginASN != 64501 || want[0].Announcements != 4*24 || want[1].OriginASN != 64500 || len(want[1].Buckets) != 26 {
		t.Fatalf("%d parts, %+v", len(s.parts), want)
	}
	for _, p := range s.parts {
		if !p.summed {
			t.Fatalf("%s has no summary", p.path)
		}
		p.summed = false // as if it were of an older version
	}
	if got := ask(); !reflect.DeepEqual(got, want) {
		t.Errorf("row by row: %+v, want %+v", got, want)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	execute(t, cfg.Directory, "DELETE FROM activity")
	s = openStore(t, cfg, defaultSizes)
	for _, p := range s.parts {
		if p.summed {
			t.Fatalf("%s has a summary", p.path)
		}
	}
	if got := ask(); !reflect.DeepEqual(got, want) {
		t.Errorf("of parts without: %+v, want %+v", got, want)
	}
	if err := s.tidy(t.Context(), time.Now().Add(2*time.Hour), false); err != nil {
		t.Fatal(err)
	}
	if len(s.parts) != 1 || !s.parts[0].summed {
		t.Fatalf("%d parts after the merge, the first has a summary: %v", len(s.parts), s.parts[0].summed)
	}
	if got := ask(); !reflect.DeepEqual(got, want) {
		t.Errorf("merged: %+v, want %+v", got, want)
	}
	// What the summary says is what is told: not a row is read.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	execute(t, cfg.Directory, "UPDATE activity SET counts = X'05' WHERE hour = (SELECT min(hour) FROM activity)")
	s = openStore(t, cfg, defaultSizes)
	q.Origins = 0
	if got := ask(); len(got) != 1 || got[0].Withdrawals != 5 || got[0].Announcements != 24*9-3 {
		t.Errorf("by a summary that says something else: %+v", got)
	}
	if err := s.relayout(t.Context(), nil, s.parts, nil); err != nil {
		t.Fatal(err)
	}
	var left int
	if err := s.read.QueryRowContext(t.Context(), "SELECT count(*) FROM activity").Scan(&left); err != nil || left != 0 {
		t.Errorf("%d hours are left of parts that are gone, error %v", left, err)
	}
}

// Of a part with too much to sum up there is no summary.
func TestSummaryIsBounded(t *testing.T) {
	s := newSummary()
	for i := range summaryHours + 1 {
		if s.counts == nil {
			t.Fatalf("given up after %d hours", i)
		}
		s.add(&row{Time: int64(i) * summaryUnit, Action: string(store.Announce)})
	}
	if s.stored() {
		t.Error("too many hours are kept")
	}
	s.add(&row{Action: string(store.Announce)})
	if s.stored() {
		t.Error("a summary of a part that had too many hours begins anew")
	}
}

func TestHourOf(t *testing.T) {
	for at, want := range map[int64]int64{0: 0, summaryUnit - 1: 0, summaryUnit: 1, -1: -1, -summaryUnit: -1, -summaryUnit - 1: -2, math.MinInt64: math.MinInt64/summaryUnit - 1} {
		if got := hourOf(at); got != want {
			t.Errorf("hour of %d is %d, want %d", at, got, want)
		}
	}
}

// FuzzSummary: a summary that the disk damaged is refused or counted, whatever it says.
func FuzzSummary(f *testing.F) {
	f.Add([]byte{1, 2, 3, 4}, uint32(0))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1, 1, 1, 1, 1}, uint32(5))
	f.Add([]byte{0, 7, 1}, uint32(7))
	f.Fuzz(func(t *testing.T, counts []byte, only uint32) {
		c, err := batch.NewCounter(store.ActivityQuery{From: time.Unix(0, 0), To: time.Unix(3600, 0), Bucket: time.Hour, OriginASN: only})
		if err != nil {
			t.Fatal(err)
		}
		if err := (hourly{0, counts}).addTo(c); err != nil && err != errSummary {
			t.Error(err)
		}
	})
}
