package detect

import (
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/archive"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// The whole table of a RouteViews collector in 2014, 503,590 routes.
const jinxTable = "../../shared/data/mrt/routeviews.route-views.jinx.ribs.1401487200.bz2"

// processor is the processor time this process has used, on all cores, garbage collection included. Rates are
// given by it, so that they say what one core does, and do not depend on what else the machine is doing.
func processor(tb testing.TB) time.Duration { return usage(tb, syscall.RUSAGE_SELF) }

// thread asks usage for the present thread alone; only Linux knows it.
const thread = 1

// usage is the processor time of the process, or of the present thread.
func usage(tb testing.TB, whose int) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(whose, &u); err != nil {
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

// BenchmarkRealUpdates decodes updates from plain MRT and applies them over the table of 2014, which is of another collector
// and has one or two routes for nearly every prefix. How much of what they say is news to it differs with their age, and what is news must be judged.
// A rate is given by the prefixes announced or withdrawn, and by the messages that did so, which carry several.
func BenchmarkRealUpdates(b *testing.B) {
	for _, updates := range []string{"routeviews.updates.20131201.0000.bz2", "updates.et-header.2015.gz", "route-views2.updates.20260222.1530.bz2"} {
		b.Run(updates, func(b *testing.B) {
			plain := decompressed(b, filepath.Join(filepath.Dir(jinxTable), updates))
			prefixes, messages, judged := 0, 0, 0
			var used time.Duration
			for b.Loop() {
				e := jinx(b)
				waiting := func() (n int) { return len(e.shards[0].dirty) }
				runtime.GC()
				from := processor(b)
				stream(b, plain, func(u *ingest.Update) {
					prefixes += len(u.Announced) + len(u.Withdrawn)
					messages++
					before := waiting()
					e.Apply(u)
					if after := waiting(); after < before { // a tick lies between
						judged += after
					} else {
						judged += after - before
					}
				})
				e.Finish()
				used += processor(b) - from
			}
			b.ReportMetric(float64(prefixes)/used.Seconds(), "prefixes/cpu-s")
			b.ReportMetric(float64(messages)/used.Seconds(), "messages/cpu-s")
			b.ReportMetric(100*float64(judged)/float64(prefixes), "%-judged")
		})
	}
}

// decompressed returns the path of a plain copy of a file.
func decompressed(tb testing.TB, path string) string {
	f, err := os.Open(path)
	if err != nil {
		tb.Skip(err)
	}
	defer f.Close()
	var r io.Reader = bzip2.NewReader(f)
	if filepath.Ext(path) == ".gz" {
		if r, err = gzip.NewReader(f); err != nil {
			tb.Fatal(err)
		}
	}
	data, err := io.ReadAll(r)
	plain := filepath.Join(tb.TempDir(), "updates")
	if err := errors.Join(err, os.WriteFile(plain, data, 0o600)); err != nil {
		tb.Fatal(err)
	}
	return plain
}

// crowd says what many peers say of many prefixes, in memory that is used again: what is measured is the engine's.
type crowd struct {
	update ingest.Update
	path   []uint32
}

func newCrowd() *crowd {
	c := &crowd{path: make([]uint32, 0, 8)}
	c.update.Announced = make([]bgp.NLRI, 1)
	c.update.Attrs = bgp.Attributes{Has: bgp.HasASPath, ASPath: bgp.ASPath{{Type: bgp.ASSequence}}}
	return c
}

// says makes a peer announce a prefix, by its own AS, those of before, and the three that all peers' paths to the
// prefix end with. The update holds until the next.
func (c *crowd) says(at ingest.Time, peer, prefix int, before ...uint32) *ingest.Update {
	asn := uint32(1000 + peer)
	c.path = append(append(c.path[:0], asn), before...)
	c.path = append(c.path, uint32(2000+prefix%50), uint32(10000+prefix%5000), uint32(20000+prefix%20000))
	c.update.Time, c.update.Kind = at, ingest.Routes
	c.update.Peer = ingest.Peer{Collector: "test", Addr: netip.AddrFrom4([4]byte{192, 0, byte(peer >> 8), byte(peer)}), ASN: asn}
	c.update.Announced[0].Prefix = prefixOf(prefix)
	c.update.Attrs.ASPath[0].ASNs = c.path
	return &c.update
}

// load gives an engine the whole crowd's routes by AS3356 as its baseline.
func (c *crowd) load(e *Engine, peers, prefixes int) {
	for i := range prefixes {
		for p := range peers {
			u := c.says(ingest.TimeOf(start), p, i, 3356)
			u.Kind = ingest.RIB
			e.Apply(u)
		}
	}
}

// BenchmarkLeak leaks 100,000 prefixes to 40 peers in 40 s of event time: how much of the processor's time the slowest
// update took, which is how long it holds up the ones behind it where there is a processor for the engine, and how
// long after the third peer had the first of them the incident opened.
func BenchmarkLeak(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const prefixes, peers = 100_000, 40
	var slowest time.Duration
	slow := 0
	for b.Loop() {
		b.StopTimer()
		declared := topology.NewBuilder(topology.Declared, "test")
		declared.Set(64300, 3356, topology.Customer)
		declared.Set(64300, 1299, topology.Customer)
		var events []incident.Event
		e := New(DefaultConfiguration(), Knowledge{Declared: declared.Build()}, func(ev incident.Event) { events = append(events, ev) })
		c := newCrowd()
		c.load(e, peers, prefixes)
		e.FinishBaseline()
		runtime.GC()
		b.StartTimer()
		at, third := ingest.TimeOf(start), ingest.Time(0)
		for i := range prefixes {
			for p := range peers {
				at += 10
				if p == 2 && third == 0 {
					third = at
				}
				u := c.says(at, p, i, 1299, 64300, 3356)
				began := usage(b, thread)
				e.Apply(u)
				took := usage(b, thread) - began
				slowest = max(slowest, took)
				if took > 50*time.Millisecond {
					slow++
				}
			}
		}
		e.Advance(at.Add(time.Second))
		if len(events) == 0 || events[0].Incident.Kind != incident.RouteLeak {
			b.Fatalf("%d events", len(events))
		}
		b.ReportMetric(events[0].Incident.DetectedAt.Sub(third.Time()).Seconds(), "s-to-open")
		b.ReportMetric(float64(events[len(events)-1].Incident.PrefixCount), "prefixes")
		b.ReportMetric(float64(len(events)), "events")
	}
	b.ReportMetric(float64(slowest.Microseconds())/1000, "slowest-ms")
	b.ReportMetric(float64(slow)/float64(b.N), "over-50ms/op")
}

// BenchmarkUpdates is what one update of one prefix takes over 100,000 prefixes of 20 peers: one that says the same
// again, one that changes between paths that are known, and one whose path, of five ASes, never was before.
func BenchmarkUpdates(b *testing.B) {
	const prefixes, peers = 100_000, 20
	for _, kind := range []struct {
		name string
		via  func(i int) uint32
	}{
		{"repeat", func(int) uint32 { return 3356 }},
		{"known", func(i int) uint32 { return 1299 + uint32(i/(prefixes*peers)%2)*(3356-1299) }},
		{"new", func(i int) uint32 { return 100_000 + uint32(i) }},
	} {
		b.Run(kind.name, func(b *testing.B) {
			e, c := New(DefaultConfiguration(), Knowledge{}, func(incident.Event) {}), newCrowd()
			c.load(e, peers, prefixes)
			for i := range prefixes { // the other known path
				for p := range peers {
					u := c.says(ingest.TimeOf(start), p, i, 1299)
					u.Kind = ingest.RIB
					e.Apply(u)
				}
			}
			e.FinishBaseline()
			c.load(e, peers, prefixes)
			at := ingest.TimeOf(start)
			i := 0
			b.ReportAllocs()
			from := processor(b)
			for b.Loop() {
				n := i % (prefixes * peers)
				at++ // a million updates a second of event time
				e.Apply(c.says(at, n/prefixes, n%prefixes, kind.via(i)))
				i++
			}
			reportProcessor(b, from, i)
		})
	}
}

// heap is what is in use after the garbage is gone.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkMemory is the heap of a million prefixes at 40 full-feed peers.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		base := heap()
		e, c := New(DefaultConfiguration(), Knowledge{}, func(incident.Event) {}), newCrowd()
		c.load(e, 40, 1_000_000)
		e.FinishBaseline()
		b.ReportMetric(float64(heap()-base)/(1<<20), "MiB")
		b.ReportMetric(float64(e.Stats().Routes), "routes")
		b.ReportMetric(float64(e.Stats().Paths), "nodes")
	}
}

// BenchmarkPauseReplace changes one VRP of 165,000 under the real table: how long updates wait for that.
func BenchmarkPauseReplace(b *testing.B) {
	e := jinx(b)
	var vs []rpki.VRP
	for _, en := range e.shards[0].table.all() {
		if len(vs) < 165_000 && en.prefix.Bits() > 8 {
			vs = append(vs, rpki.VRP{Prefix: en.prefix, MaxLength: uint8(en.prefix.Bits()), ASN: 64500})
		}
	}
	sets := [2]*rpki.Set{rpki.NewSet(rpki.Data{VRPs: vs}, "a"), rpki.NewSet(rpki.Data{VRPs: vs[1:]}, "b")}
	e.Replace(Knowledge{VRPs: sets[0]})
	n, from := 0, processor(b)
	for b.Loop() {
		n++
		e.Replace(Knowledge{VRPs: sets[n%2]})
	}
	reportProcessor(b, from, n)
}

// BenchmarkPauseRelate brings relationships that were inferred from it into the real table.
func BenchmarkPauseRelate(b *testing.B) {
	e := jinx(b)
	inferred, err := e.CopyPaths().Infer(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	n, from := 0, processor(b)
	for b.Loop() {
		n++
		e.Relate(inferred.Relationships)
	}
	reportProcessor(b, from, n)
}
