package service

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/past"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// BenchmarkExplainThePast asks of a moment of which the whole table of route-views.jinx was kept, as routevigil explain --at does.
func BenchmarkExplainThePast(b *testing.B) {
	const table = "../../../../shared/data/mrt/routeviews.route-views.jinx.ribs.1401487200.bz2"
	if _, err := os.Stat(table); err != nil {
		b.Skip(err)
	}
	directory := b.TempDir()
	folder := filepath.Join(knowledgeFolder(directory), pastName)
	log := slog.New(slog.DiscardHandler)
	e := detect.New(detect.DefaultConfiguration(), detect.Knowledge{}, nil)
	if err := loadBaseline([]string{table}, e, log); err != nil {
		b.Fatal(err)
	}
	st := e.Stats()
	state, err := e.Snapshot()
	if err != nil {
		b.Fatal(err)
	}
	e = nil
	r, err := past.Open(folder, past.DefaultConfiguration(), log)
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	r.Bytes(start, detectorState, "", true, state)
	keeping := time.Since(start)
	r.Start(start, detectorState)
	if err := r.Close(start.Add(time.Second)); err != nil {
		b.Fatal(err)
	}
	size := int64(0)
	files, err := os.ReadDir(folder)
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range files {
		if info, err := f.Info(); err == nil {
			size += info.Size()
		}
	}
	b.Logf("%d routes, %d prefixes; a copy of the state takes %d bytes and %v to keep", st.Routes, st.Prefixes, size, keeping.Round(time.Millisecond))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for b.Loop() {
		if e, _, err = EngineAt(b.Context(), directory, start.Add(time.Millisecond)); err != nil {
			b.Fatal(err)
		}
		e.Explain(netip.MustParsePrefix("8.8.8.0/24"), bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{37497, 15169}}})
	}
	b.StopTimer()
	if e.Stats().Routes != st.Routes {
		b.Fatalf("%+v, want %+v", e.Stats(), st)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(1<<20), "MiB-kept")
	b.ReportMetric(float64(after.Sys)/(1<<20), "MiB-sys")
	runtime.KeepAlive(e)
}
