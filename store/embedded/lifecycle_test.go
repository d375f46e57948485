package embedded

import (
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/storetest"
)

// wantError fails unless err says all of parts.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", parts)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Fatalf("error %q does not say %q", err, p)
		}
	}
}

func tryOpen(cfg Configuration) error {
	s, err := Open(cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err == nil {
		s.Close()
	}
	return err
}

func fill(t testing.TB, s *Store, batches, updates int) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, uint64(batches)))
	for range batches {
		if _, err := s.AppendBatch(t.Context(), storetest.Batch(r, ingest.TimeOf(time.Now()), updates)); err != nil {
			t.Fatal(err)
		}
	}
}

// checkpointAll saves a checkpoint that covers everything, so that it may be sealed.
func checkpointAll(t testing.TB, s *Store) {
	t.Helper()
	if err := s.SaveCheckpoint(t.Context(), s.state.position, []byte("state")); err != nil {
		t.Fatal(err)
	}
}

func stats(t testing.TB, s *Store) store.Stats {
	t.Helper()
	st, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func count(t testing.TB, s *Store) (n int) {
	t.Helper()
	for _, err := range s.Updates(t.Context(), store.UpdateQuery{Limit: 1 << 30}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	return n
}

func TestDirectoryIsForOne(t *testing.T) {
	cfg := testConfiguration(t.TempDir())
	s := openStore(t, cfg, defaultSizes)
	wantError(t, tryOpen(cfg), cfg.Directory, fmt.Sprintf("in use by process %d", os.Getpid()))
	fill(t, s, 1, 1) // the one who has it is not disturbed
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := tryOpen(cfg); err != nil {
		t.Fatal(err)
	}
}

func TestDirectoryThatCannotBe(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	wantError(t, tryOpen(testConfiguration(file)), file)
	odd := filepath.Join(dir, "100% odd?name#1")
	if err := tryOpen(testConfiguration(odd)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(odd, databaseName)); err != nil {
		t.Fatal(err)
	}
}

func execute(t *testing.T, dir, query string) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, databaseName))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
}

func TestSchemaOfAnother(t *testing.T) {
	tests := []struct {
		name, query string
		want        []string
	}{
		{"a newer version", fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", applicationID, schemaVersion()+1), []string{"newer routevigil"}},
		{"another program", "PRAGMA application_id = 7; PRAGMA user_version = 1", []string{"another program"}},
		{"another program's tables", "CREATE TABLE batches (x)", []string{"migration 1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			execute(t, dir, tt.query)
			wantError(t, tryOpen(testConfiguration(dir)), append(tt.want, dir)...)
		})
	}
	t.Run("no database at all", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, databaseName), slices.Repeat([]byte("rubbish "), 4096), 0o600); err != nil {
			t.Fatal(err)
		}
		wantError(t, tryOpen(testConfiguration(dir)), dir, databaseName)
	})
}

// Every released schema must be among migrations, in order and without gaps.
func TestMigrationsAreNumbered(t *testing.T) {
	names, err := fs.Glob(migrations, "migrations/*")
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range names {
		if want := fmt.Sprintf("migrations/%04d.sql", i+1); n != want {
			t.Errorf("migration %d is %s, want %s", i+1, n, want)
		}
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	cfg := testConfiguration(t.TempDir())
	s := openStore(t, cfg, defaultSizes)
	fill(t, s, 10, 20)
	checkpointAll(t, s)
	seal(t, s)
	fill(t, s, 1, 20)
	checkpointAll(t, s)
	before := count(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	keep := []string{"a person's note.txt", filepath.Join(partsDirectory, "note.txt")}
	remove := []string{filepath.Join(partsDirectory, partName(11, 12)), filepath.Join(partsDirectory, partName(13, 14)+temporarySuffix), "checkpoint-1",
		"checkpoint-99", "checkpoint-100" + temporarySuffix}
	for _, f := range append(keep, remove...) {
		if err := os.WriteFile(filepath.Join(cfg.Directory, f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = openStore(t, cfg, defaultSizes)
	for _, f := range keep {
		if _, err := os.Stat(filepath.Join(cfg.Directory, f)); err != nil {
			t.Error(err)
		}
	}
	for _, f := range remove {
		if _, err := os.Stat(filepath.Join(cfg.Directory, f)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", f, err)
		}
	}
	if n := count(t, s); n != before {
		t.Errorf("%d updates, want %d", n, before)
	}
	if _, state, err := s.Checkpoint(t.Context()); err != nil || string(state) != "state" {
		t.Errorf("checkpoint %q, error %v", state, err)
	}
}

func TestMissingPart(t *testing.T) {
	cfg := testConfiguration(t.TempDir())
	s := openStore(t, cfg, defaultSizes)
	fill(t, s, 10, 20)
	checkpointAll(t, s)
	seal(t, s)
	sealed := count(t, s)
	fill(t, s, 1, 5)
	all := count(t, s)
	path := s.parts[0].path
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".aside"); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, cfg, defaultSizes)
	if n := count(t, s); n != all-sealed {
		t.Errorf("%d updates, want the %d that are left", n, all-sealed)
	}
	if n := testutil.ToFloat64(s.metrics.errors.WithLabelValues(opMissing)); n != 1 {
		t.Errorf("%v missing parts counted, want 1", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".aside", path); err != nil {
		t.Fatal(err)
	}
	if n := count(t, openStore(t, cfg, defaultSizes)); n != all {
		t.Errorf("%d updates once it is back, want %d", n, all)
	}
}

func TestDamageIsTold(t *testing.T) {
	cfg := testConfiguration(t.TempDir())
	s := openStore(t, cfg, defaultSizes)
	fill(t, s, 10, 20)
	checkpointAll(t, s)
	seal(t, s)
	damage := func(path string) {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, slices.Repeat([]byte{0xa5}, len(b)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	damage(s.checkpointPath(s.state.serial))
	_, _, err := s.Checkpoint(t.Context())
	wantError(t, err, cfg.Directory, "checkpoint-1", "damaged")
	damage(s.parts[0].path)
	err = nil
	for _, e := range s.Updates(t.Context(), store.UpdateQuery{}) {
		err = e
	}
	wantError(t, err, s.parts[0].path)
}

func TestRetention(t *testing.T) {
	// Each part is older than the one after it by an hour, and holds the same number of rows.
	build := func(t *testing.T, cfg Configuration) *Store {
		s := openStore(t, cfg, defaultSizes)
		for range 5 {
			fill(t, s, 2, 200)
			checkpointAll(t, s)
			seal(t, s)
		}
		for i, p := range s.parts {
			p.receivedAt = time.Now().Add(-time.Duration(len(s.parts)-i) * time.Hour).UnixMicro()
		}
		return s
	}
	t.Run("by age", func(t *testing.T) {
		cfg := testConfiguration(t.TempDir())
		cfg.Retention.Age = 3*time.Hour + 30*time.Minute
		s := build(t, cfg)
		kept := s.parts[2:]
		gone := s.parts[:2]
		if err := s.retain(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		checkParts(t, s, kept, gone)
	})
	t.Run("by size", func(t *testing.T) {
		cfg := testConfiguration(t.TempDir())
		s := build(t, cfg)
		used := stats(t, s).Bytes
		s.cfg.Retention.Size = used - s.parts[0].bytes - 1
		kept := s.parts[2:]
		gone := s.parts[:2]
		if err := s.retain(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		checkParts(t, s, kept, gone)
	})
	t.Run("not at all", func(t *testing.T) {
		cfg := testConfiguration(t.TempDir())
		cfg.Retention = store.Retention{}
		s := build(t, cfg)
		kept := s.parts
		if err := s.retain(t.Context(), time.Now().Add(1e6*time.Hour)); err != nil {
			t.Fatal(err)
		}
		checkParts(t, s, kept, nil)
	})
	t.Run("under a reader", func(t *testing.T) {
		cfg := testConfiguration(t.TempDir())
		s := build(t, cfg)
		gone := s.parts[0]
		gone.acquire()
		s.cfg.Retention.Age = 4*time.Hour + 30*time.Minute
		if err := s.retain(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		n := int64(0)
		for _, err := range gone.all(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		if n != gone.rows {
			t.Errorf("the reader sees %d rows, want %d", n, gone.rows)
		}
		gone.release()
		checkParts(t, s, s.parts, []*part{gone})
	})
}

func checkParts(t *testing.T, s *Store, kept, gone []*part) {
	t.Helper()
	if !slices.Equal(s.parts, kept) {
		t.Errorf("%d parts are kept, want %d", len(s.parts), len(kept))
	}
	rows := int64(0)
	for _, p := range kept {
		rows += p.rows
	}
	if n := count(t, s); int64(n) != rows {
		t.Errorf("%d updates, want %d", n, rows)
	}
	for _, p := range gone {
		if _, err := os.Stat(p.path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there (%v)", p.path, err)
		}
	}
	for _, p := range kept {
		if _, err := os.Stat(p.path); err != nil {
			t.Error(err)
		}
	}
	position := s.state.position
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, s.cfg, defaultSizes)
	if len(s.parts) != len(kept) || s.state.position != position {
		t.Errorf("reopened: %d parts at position %d, want %d at %d", len(s.parts), s.state.position, len(kept), position)
	}
}

func TestPlanMerge(t *testing.T) {
	cfg := testConfiguration(t.TempDir())
	cfg.Seal.Window, cfg.Seal.PartRows = time.Hour, 1000
	s := &Store{cfg: cfg}
	now := time.Date(2026, 1, 1, 12, 30, 0, 0, time.UTC)
	tests := []struct {
		name string
		ages []time.Duration // of each part, the oldest first
		rows []int64
		want [2]int // from and to
	}{
		{"nothing", nil, nil, [2]int{}},
		{"few in the open window", ages(7, time.Minute), same(7, 10), [2]int{}},
		{"enough of like size in the open window", ages(9, time.Minute), same(9, 10), [2]int{0, 9}},
		{"small ones beside one that was merged", ages(9, time.Minute), append([]int64{600}, same(8, 10)...), [2]int{1, 9}},
		{"not above the bound", ages(9, time.Minute), same(9, 200), [2]int{}},
		{"a full window", ages(3, 90*time.Minute), same(3, 10), [2]int{0, 3}},
		{"a full window, as far as the bound allows", ages(3, 90*time.Minute), same(3, 400), [2]int{0, 2}},
		{"a full window of full parts", ages(3, 90*time.Minute), same(3, 600), [2]int{}},
		{"two windows are not mixed", []time.Duration{150 * time.Minute, 90 * time.Minute, time.Minute}, same(3, 10), [2]int{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s.parts = nil
			for i, a := range tt.ages {
				s.parts = append(s.parts, &part{rows: tt.rows[i], receivedAt: now.Add(-a).UnixMicro()})
			}
			got := s.planMerge(now)
			if !slices.Equal(got, s.parts[tt.want[0]:tt.want[1]]) {
				t.Fatalf("it merges %d parts, want %v", len(got), tt.want)
			}
		})
	}
}

func ages(n int, d time.Duration) []time.Duration { return slices.Repeat([]time.Duration{d}, n) }
func same(n int, rows int64) []int64              { return slices.Repeat([]int64{rows}, n) }

// However history comes in, the number of parts and how often a row is rewritten stay small.
func TestMergesAreFew(t *testing.T) {
	cfg := testConfiguration(t.TempDir())
	s := &Store{cfg: cfg}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	added, written, most := int64(0), int64(0), 0
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		now = now.Add(time.Minute)
		rows := 1 + r.Int64N(500_000)
		added, written = added+rows, written+rows
		s.parts = append(slices.Clone(s.parts), &part{rows: rows, receivedAt: now.UnixMicro(), first: uint64(added)})
		for {
			run := s.planMerge(now)
			if run == nil {
				break
			}
			i := slices.Index(s.parts, run[0])
			m := &part{receivedAt: run[len(run)-1].receivedAt, first: run[0].first}
			for _, p := range run {
				m.rows += p.rows
			}
			if m.rows > int64(cfg.Seal.PartRows) {
				t.Fatalf("a part of %d rows", m.rows)
			}
			written += m.rows
			s.parts = slices.Replace(slices.Clone(s.parts), i, i+len(run), m)
		}
		most = max(most, len(s.parts))
	}
	least := int(added / int64(cfg.Seal.PartRows))
	if most > 3*least {
		t.Errorf("%d parts, the least possible is %d", most, least)
	}
	if factor := float64(written) / float64(added); factor > 4 {
		t.Errorf("each row is written %.1f times", factor)
	}
}

// The sealer seals by itself once a checkpoint covers enough.
func TestSealsByItself(t *testing.T) {
	cfg := testConfiguration(t.TempDir())
	cfg.Seal.Updates = 100
	s, err := Open(cfg, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	fill(t, s, 10, 20)
	before := count(t, s)
	checkpointAll(t, s)
	for deadline := time.Now().Add(time.Minute); stats(t, s).Parts == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nothing is sealed")
		}
	}
	if n := count(t, s); n != before {
		t.Errorf("%d updates, want %d", n, before)
	}
}

// Batches without updates leave the tail, too, without making parts.
func TestEmptyBatchesAreSealed(t *testing.T) {
	s := openStore(t, testConfiguration(t.TempDir()), defaultSizes)
	fill(t, s, 500, 0)
	checkpointAll(t, s)
	seal(t, s)
	if s.state.tailBatches != 0 || len(s.parts) != 0 {
		t.Errorf("%d batches are left and there are %d parts, want none of either", s.state.tailBatches, len(s.parts))
	}
}

// The database file gives back what a long tail had taken.
func TestShrinks(t *testing.T) {
	s := openStore(t, testConfiguration(t.TempDir()), defaultSizes)
	r := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		b := storetest.Batch(r, 0, 1)
		noise := make([]byte, 1<<20)
		for i := range noise {
			noise[i] = byte(r.Uint32())
		}
		u := ingest.Update{}
		for chunk := range slices.Chunk(noise, 1<<15) {
			u.Attrs.Unknown = append(u.Attrs.Unknown, rawAttribute(chunk))
		}
		b.Updates = append(b.Updates, u)
		if _, err := s.AppendBatch(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // what the batches took is more than two times what is kept free
		checkpointAll(t, s)
		seal(t, s)
	}
	var free int
	if err := s.read.QueryRow(`PRAGMA freelist_count`).Scan(&free); err != nil {
		t.Fatal(err)
	}
	if free > 2*freePages {
		t.Errorf("%d pages are free, want at most %d", free, 2*freePages)
	}
}

func TestConfigurationValidate(t *testing.T) {
	if err := DefaultConfiguration().Validate(); err != nil {
		t.Fatal(err)
	}
	bad := Configuration{Retention: store.Retention{Age: -1, Size: -1}}
	wantError(t, bad.Validate(), "directory: ", "retention.age: ", "retention.size: ", "seal.updates: ", "seal.age: ", "seal.window: ", "seal.part_rows: ")
	wantError(t, tryOpen(bad), "directory: ")
}

func TestMethodsAfterClose(t *testing.T) {
	s := openStore(t, testConfiguration(t.TempDir()), defaultSizes)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.AppendBatch(t.Context(), &ingest.Batch{}); !errors.Is(err, errClosed) {
		t.Errorf("AppendBatch: error %v, want %v", err, errClosed)
	}
	if err := s.WaitEvents(t.Context(), 0); !errors.Is(err, errClosed) {
		t.Errorf("WaitEvents: error %v, want %v", err, errClosed)
	}
	if _, err := s.Incidents(t.Context(), store.IncidentQuery{}); err == nil {
		t.Error("Incidents: no error")
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close again: %v", err)
	}
}

// Writes that share a commit do not share their failures.
func TestFailureIsOfOneWrite(t *testing.T) {
	s := openStore(t, testConfiguration(t.TempDir()), defaultSizes)
	var wg sync.WaitGroup
	const each = 40
	for range each {
		wg.Go(func() {
			if _, err := s.AppendBatch(t.Context(), &ingest.Batch{}); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if err := s.UpdateDelivery(t.Context(), store.Delivery{Key: "nowhere"}); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("error %v, want ErrNotFound", err)
			}
		})
	}
	wg.Wait()
	n := uint64(0)
	for _, err := range s.BatchesSince(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if st := stats(t, s); n != each || st.LastPosition != each {
		t.Errorf("%d batches, the last at %d, want %d", n, st.LastPosition, each)
	}
}

func rawAttribute(value []byte) bgp.RawAttribute {
	return bgp.RawAttribute{Flags: 0xc0, Type: 99, Value: value}
}
