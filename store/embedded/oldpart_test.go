package embedded

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/parquet-go/parquet-go"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
	"github.com/routevigil/routevigil/store/storetest"
)

// rowV1 is a row as the first version wrote it.
type rowV1 struct {
	Key         []byte `parquet:"prefix_key,delta"`
	Position    int64  `parquet:"position,delta"`
	Row         int32  `parquet:"row,delta"`
	Time        int64  `parquet:"time,delta,timestamp(microsecond)"`
	Prefix      string `parquet:"prefix,delta"`
	Action      string `parquet:"action,dict"`
	Collector   string `parquet:"collector,dict"`
	PeerASN     int64  `parquet:"peer_asn,dict"`
	PeerIP      string `parquet:"peer_ip,dict"`
	View        string `parquet:"view,dict"`
	PathID      int64  `parquet:"path_id,dict"`
	ASPath      string `parquet:"as_path,dict"`
	OriginASN   int64  `parquet:"origin_asn,dict"`
	NextHop     string `parquet:"next_hop,dict"`
	Communities string `parquet:"communities,dict"`
	OTC         int64  `parquet:"otc,dict"`
}

// A part of the first version is read, searched, and merged with new ones.
func TestPartOfFirstVersion(t *testing.T) {
	z := sizes{sealRows: 400, rowGroupRows: 64, pageBytes: 128}
	cfg := testConfiguration(t.TempDir())
	s := openStore(t, cfg, z)
	fill(t, s, 5, 30)
	checkpointAll(t, s)
	seal(t, s)
	want := everything(t, s)
	if len(s.parts) != 1 || len(want) < 100 {
		t.Fatalf("%d parts, %d rows", len(s.parts), len(want))
	}
	path := s.parts[0].path
	var old []rowV1
	for r, err := range s.parts[0].all(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		old = append(old, rowV1{bytes.Clone(r.Key), r.Position, r.Row, r.Time, r.Prefix, r.Action, r.Collector, r.PeerASN, r.PeerIP, r.View, r.PathID,
			r.ASPath, r.OriginASN, r.NextHop, r.Communities, r.OTC})
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var file bytes.Buffer
	w := parquet.NewGenericWriter[rowV1](&file, z.writerOptions()...)
	if _, err := w.Write(old); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	execute(t, cfg.Directory, fmt.Sprintf("UPDATE parts SET bytes = %d", file.Len()))

	s = openStore(t, cfg, z)
	check := func() {
		t.Helper()
		if got := everything(t, s); !sameRoutes(got, want) {
			t.Fatalf("%d rows, and not those that were stored, of which there are %d", len(got), len(want))
		}
		for i := 0; i < len(want); i += 17 {
			if !want[i].Prefix.IsValid() {
				continue
			}
			q := store.UpdateQuery{Prefix: want[i].Prefix, PeerASN: want[i].PeerASN, Limit: 1 << 20}
			var found []store.Route
			for r, err := range s.Updates(t.Context(), q) {
				if err != nil {
					t.Fatal(err)
				}
				found = append(found, r)
			}
			matching := slices.DeleteFunc(slices.Clone(want), func(r store.Route) bool { return r.Prefix != q.Prefix || r.PeerASN != q.PeerASN })
			if !sameRoutes(found, matching) {
				t.Fatalf("%v: %d rows, want %d", q.Prefix, len(found), len(matching))
			}
		}
	}
	check()

	g := ingest.Gap{Collector: "rrc00", State: ingest.GapWaiting, From: time.Now(), Until: time.Now()}
	if err := s.SaveGap(t.Context(), &g); err != nil {
		t.Fatal(err)
	}
	if err := s.AppendBackfill(t.Context(), storetest.Batch(rand.New(rand.NewPCG(7, 7)), ingest.TimeOf(time.Now()), 20), &g); err != nil {
		t.Fatal(err)
	}
	fill(t, s, 1, 10)
	want = everything(t, s)
	checkpointAll(t, s)
	seal(t, s)
	if len(s.parts) != 2 {
		t.Fatalf("%d parts, want the old one and a new one", len(s.parts))
	}
	check()
	if err := s.tidy(t.Context(), time.Now().Add(24*time.Hour), true); err != nil {
		t.Fatal(err)
	}
	if files, _ := filepath.Glob(filepath.Join(cfg.Directory, partsDirectory, "*")); len(s.parts) != 1 || len(files) != 1 {
		t.Fatalf("%d parts in the files %q, want one merged", len(s.parts), files)
	}
	check()
}

func TestIsPart(t *testing.T) {
	type renamed struct {
		Other []byte `parquet:"other,delta"`
	}
	if !isPart(partSchema) || !isPart(parquet.SchemaOf(rowV1{})) || isPart(parquet.SchemaOf(renamed{})) {
		t.Error("the columns of a part are not told from others")
	}
	type longer struct {
		row
		More int64 `parquet:"more"`
	}
	if isPart(parquet.SchemaOf(longer{})) {
		t.Error("a column that is not known is accepted")
	}
}

// everything is the whole history, newest first.
func everything(t *testing.T, s *Store) (list []store.Route) {
	t.Helper()
	for r, err := range s.Updates(t.Context(), store.UpdateQuery{Limit: 1 << 30}) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, r)
	}
	return list
}

func sameRoutes(a, b []store.Route) bool {
	return slices.EqualFunc(a, b, func(a, b store.Route) bool { return reflect.DeepEqual(a, b) })
}

// A directory of the first version is brought up to date with what its tail holds.
func TestMigrationFromFirstVersion(t *testing.T) {
	dir := t.TempDir()
	first, err := migrations.ReadFile("migrations/0001.sql")
	if err != nil {
		t.Fatal(err)
	}
	b := storetest.Batch(rand.New(rand.NewPCG(8, 8)), ingest.TimeOf(time.Now()), 20)
	body, _, err := batch.NewEncoder().Encode(nil, b)
	if err != nil {
		t.Fatal(err)
	}
	execute(t, dir, string(first)+fmt.Sprintf(`;PRAGMA user_version = 1;PRAGMA application_id = %d;
		INSERT INTO batches (position, received_at, updates, rows, min_time, max_time, body) VALUES (1, 1, 20, 20, 1, 9000000000000000, x'%x')`,
		applicationID, body))
	s := openStore(t, testConfiguration(dir), defaultSizes)
	n := 0
	for got, err := range s.BatchesSince(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(b, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
			t.Error(d)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d batches, want 1", n)
	}
	list := everything(t, s)
	if len(list) == 0 || slices.ContainsFunc(list, func(r store.Route) bool { return r.Backfilled }) {
		t.Errorf("%d rows, or one that is marked as back-filled", len(list))
	}
}
