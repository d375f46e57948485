package embedded

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/parquet-go/parquet-go"

	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
	"github.com/routevigil/routevigil/store/storetest"
)

// someRoutes are rows of every kind, in the order of their cursors.
func someRoutes(n int) (routes []store.Route) {
	b := storetest.Batch(rand.New(rand.NewPCG(4, 0)), 0, n)
	row := 0
	for i := range b.Updates {
		u := &b.Updates[i]
		for j := range batch.RowsOf(u) {
			action, nlri := batch.RowOf(u, j)
			routes = append(routes, batch.RouteOf(u, &u.Attrs, action, nlri, store.Cursor{Position: uint64(1 + i/10), Row: row}))
			row++
		}
	}
	return routes
}

func TestFile(t *testing.T) {
	want := someRoutes(2000)
	want[7].Backfilled = true
	path := filepath.Join(t.TempDir(), "updates.parquet")
	shuffled := slices.Clone(want)
	rand.New(rand.NewPCG(1, 0)).Shuffle(len(want), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	if err := WriteFile(t.Context(), path, shuffled); err != nil {
		t.Fatal(err)
	}
	got, err := ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
		t.Fatalf("(-want +got):\n%.2000s", d)
	}
	if err := WriteFile(t.Context(), path, make([]store.Route, MaxFileRows+1)); err == nil {
		t.Error("a file with too many rows is written")
	}
}

// rawFile is a file of rows as they are.
func rawFile(t testing.TB, rows ...row) []byte {
	var b bytes.Buffer
	w := parquet.NewGenericWriter[row](&b, append(defaultSizes.writerOptions(), partSchema)...)
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A file may say anything; rows that no store has are refused.
func TestFileIsNotTrusted(t *testing.T) {
	good := toRow(&someRoutes(100)[3])
	for good.Action != string(store.Announce) {
		for _, r := range someRoutes(100) {
			if r.Action == store.Announce {
				good = toRow(&r)
			}
		}
	}
	if _, err := readRoutes(bytes.NewReader(rawFile(t, good)), int64(len(rawFile(t, good)))); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*row){
		"action":             func(r *row) { r.Action = "explode" },
		"no prefix":          func(r *row) { r.Prefix, r.Key = "", nil },
		"prefix of a peer":   func(r *row) { r.Action = string(store.PeerUp) },
		"prefix":             func(r *row) { r.Prefix = "10.0.0.0/33" },
		"host bits":          func(r *row) { r.Prefix, r.Key = "10.0.0.1/8", keyOf(netip.MustParsePrefix("10.0.0.1/8")) },
		"key":                func(r *row) { r.Key = []byte("key") },
		"address":            func(r *row) { r.PeerIP = "nowhere" },
		"next hop":           func(r *row) { r.NextHop = "1.2.3" },
		"view":               func(r *row) { r.View = "from above" },
		"number below":       func(r *row) { r.PeerASN = -1 },
		"number above":       func(r *row) { r.PathID = 1 << 32 },
		"position":           func(r *row) { r.Position = -1 },
		"time":               func(r *row) { r.Time = 1 << 62 },
		"text without limit": func(r *row) { r.Communities = strings.Repeat("1:2 ", maxFileText) },
	} {
		bad := good
		change(&bad)
		file := rawFile(t, bad)
		if got, err := readRoutes(bytes.NewReader(file), int64(len(file))); err == nil {
			t.Errorf("%s: it is taken as %+v", name, got)
		}
	}
	file := rawFile(t, good, good)
	if _, err := readRoutes(bytes.NewReader(file), int64(len(file))); err == nil || !strings.Contains(err.Error(), "two rows") {
		t.Errorf("the same row twice: error %v", err)
	}
}

// FuzzReadFile makes sure that a file which may be anything is read or refused.
func FuzzReadFile(f *testing.F) {
	path := filepath.Join(f.TempDir(), "updates.parquet")
	if err := WriteFile(f.Context(), path, someRoutes(40)); err != nil {
		f.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Add(file[:len(file)/2])
	f.Add([]byte("PAR1PAR1"))
	f.Fuzz(func(t *testing.T, file []byte) {
		routes, err := readRoutes(bytes.NewReader(file), int64(len(file)))
		if err == nil && len(routes) > MaxFileRows {
			t.Fatalf("%d rows", len(routes))
		}
	})
}
