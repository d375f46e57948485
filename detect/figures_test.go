package detect

import (
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/archive"
)

// The whole table of a RouteViews collector in 2014, 503,590 routes, and 577,740 prefixes announced or
// withdrawn by 15 peers of another in 2015.
const (
	jinxTable   = "../../shared/data/mrt/routeviews.route-views.jinx.ribs.1401487200.bz2"
	realUpdates = "../../shared/data/mrt/updates.et-header.2015.gz"
)

// processor is the processor time this process has used, on all cores, garbage collection included. Rates are
// given by it, so that they say what one core does, and do not depend on what else the machine is doing.
func processor(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// reportProcessor reports the processor time of each of n things that were done since from.
func reportProcessor(b *testing.B, from time.Duration, n int) {
	b.ReportMetric(float64((processor(b)-from).Nanoseconds())/float64(n), "cpu-ns/op")
}

// stream calls f for every update of a file.
func stream(tb testing.TB, path string, f func(*ingest.Update)) {
	if _, err := os.Stat(path); err != nil {
		tb.Skip(err)
	}
	r, err := archive.Open([]string{path}, archive.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	for {
		u, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			tb.Fatal(err)
		}
		f(u)
	}
}

func jinx(tb testing.TB) *Engine {
	e := New(DefaultConfiguration(), Knowledge{}, func(incident.Event) {})
	stream(tb, jinxTable, e.Apply)
	e.FinishBaseline()
	return e
}

// BenchmarkRealTable loads the table from bz2; "read" only decompresses and decodes it.
func BenchmarkRealTable(b *testing.B) {
	for name, f := range map[string]func(){
		"read": func() { stream(b, jinxTable, func(*ingest.Update) {}) },
		"load": func() { jinx(b) },
	} {
		b.Run(name, func(b *testing.B) {
			from := processor(b)
			for b.Loop() {
				f()
			}
			b.ReportMetric((processor(b)-from).Seconds()/float64(b.N), "cpu-s/op")
		})
	}
}

// BenchmarkRealUpdates decompresses, decodes and applies the updates over the table: first most of them are routes that
// the table does not have, from peers it does not know; then, over what they left, again.
func BenchmarkRealUpdates(b *testing.B) {
	for name, again := range map[string]bool{"new": false, "again": true} {
		b.Run(name, func(b *testing.B) {
			n := 0
			var used time.Duration
			for b.Loop() {
				e := jinx(b)
				if again {
					stream(b, realUpdates, e.Apply)
				}
				from := processor(b)
				stream(b, realUpdates, func(u *ingest.Update) {
					n += len(u.Announced) + len(u.Withdrawn)
					e.Apply(u)
				})
				e.Finish()
				used += processor(b) - from
			}
			b.ReportMetric(float64(n)/used.Seconds(), "prefixes/cpu-s")
		})
	}
}
