// Growth measures how the detector's memory and time grow with prefixes, peers and open incidents, and writes a plot and a
// table of it. It is a tool for those who work on routevigil and no part of what is shipped: run it by "make growth".
package main

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

func main() {
	dir := flag.String("o", "detect", "folder for growth.svg and GROWTH.md")
	flag.Parse()
	if err := run(*dir); err != nil {
		fmt.Fprintln(os.Stderr, "growth:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	var series [3]series
	series[0] = newSeries("prefixes", "at 20 peers", []int{25_000, 50_000, 100_000, 200_000}, func(n int) (point, error) { return measure(n, 20, 0) })
	series[1] = newSeries("peers", "of 100,000 prefixes", []int{5, 10, 20, 40}, func(n int) (point, error) { return measure(100_000, n, 0) })
	series[2] = newSeries("open incidents", "over 40,000 prefixes at 10 peers", []int{0, 1000, 2000, 4000}, func(n int) (point, error) { return measure(40_000, 10, n) })
	for i := range series {
		if err := series[i].fill(); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "growth.svg"), []byte(plot(series[:])), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "GROWTH.md"), []byte(report(series[:])), 0o644)
}

// point is one measurement.
type point struct {
	x         int
	routes    int
	nodes     int
	octets    int64         // of the heap, after the garbage is gone
	load      time.Duration // of processor time, to load the table
	update    time.Duration // of processor time, for an update that says what is known
	incidents int           // that were open
}

// series is what one quantity does while the others stand still.
type series struct {
	of, beside string
	xs         []int
	measure    func(x int) (point, error)
	points     []point
}

func newSeries(of, beside string, xs []int, measure func(int) (point, error)) series {
	return series{of: of, beside: beside, xs: xs, measure: measure}
}

func (s *series) fill() error {
	for _, x := range s.xs {
		p, err := s.measure(x)
		if err != nil {
			return fmt.Errorf("%d %s: %w", x, s.of, err)
		}
		p.x = x
		s.points = append(s.points, p)
		fmt.Printf("%8d %-14s %9d routes %8d nodes %7.1f MiB  load %8.2fs  update %5.0f ns\n", x, s.of, p.routes, p.nodes, mib(p.octets), p.load.Seconds(), float64(p.update))
	}
	return nil
}

// repeats is over how many updates the time of one is taken, three times, of which the least counts: what else the machine does
// only adds to it.
const repeats = 300_000

// measure loads a table, has some of its prefixes hijacked, each by another AS, and then hears again what it knows.
func measure(prefixes, peers, hijacks int) (point, error) {
	var p point
	var w world
	base := heap()
	open := map[string]bool{}
	e := detect.New(detect.DefaultConfiguration(), detect.Knowledge{}, func(ev incident.Event) {
		open[ev.Incident.ID] = ev.Incident.Status == incident.Open
	})
	began := processor()
	for i := range prefixes {
		for peer := range peers {
			e.Apply(w.says(ingest.RIB, 0, peer, i, 0))
		}
	}
	e.FinishBaseline()
	p.load = processor() - began
	at := ingest.TimeOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	for i := range hijacks {
		for peer := range peers {
			at += 1000
			e.Apply(w.says(ingest.Routes, at, peer, i, uint32(400_000+i)))
		}
	}
	at = at.Add(time.Minute)
	e.Advance(at)
	for _, is := range open {
		if is {
			p.incidents++
		}
	}
	if p.incidents != hijacks {
		return p, fmt.Errorf("%d incidents are open, want %d", p.incidents, hijacks)
	}
	clear(open)
	p.octets = heap() - base
	st := e.Stats()
	p.routes, p.nodes = st.Routes, st.Paths
	for round := range 3 {
		began = processor()
		for i := range repeats {
			at += 20 // 50,000 updates a second of event time
			n := hijacks + i%(prefixes-hijacks)
			e.Apply(w.says(ingest.Routes, at, i%peers, n, 0))
		}
		if took := (processor() - began) / repeats; round == 0 || took < p.update {
			p.update = took
		}
	}
	runtime.KeepAlive(e)
	return p, nil
}

// world says what peers say of prefixes. Five prefixes share a path, as in the tables of real peers. The update holds
// until the next.
type world struct {
	update ingest.Update
	path   [5]uint32
	nlri   [1]bgp.NLRI
	attrs  [1]bgp.Segment
}

func (w *world) says(kind ingest.Kind, at ingest.Time, peer, prefix int, hijacker uint32) *ingest.Update {
	asn := uint32(1000 + peer)
	way := prefix / 5
	w.path = [5]uint32{asn, 3356, uint32(2000 + way%50), uint32(10_000 + way%5000), uint32(100_000 + way)}
	path := w.path[:]
	if hijacker != 0 {
		w.path[2] = hijacker
		path = w.path[:3]
	}
	w.nlri[0] = bgp.NLRI{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(16 + prefix>>16), byte(prefix >> 8), byte(prefix), 0}), 24)}
	w.attrs[0] = bgp.Segment{Type: bgp.ASSequence, ASNs: path}
	w.update = ingest.Update{Time: at, Kind: kind, Announced: w.nlri[:], Attrs: bgp.Attributes{Has: bgp.HasASPath, ASPath: w.attrs[:]},
		Peer: ingest.Peer{Collector: "growth", Addr: netip.AddrFrom4([4]byte{192, 0, byte(peer >> 8), byte(peer)}), ASN: asn}}
	return &w.update
}

// heap is what is in use after the garbage is gone.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// processor is the processor time this process has used, on all cores, garbage collection included.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func mib(octets int64) float64 { return float64(octets) / (1 << 20) }

// slope is by how much a quantity grows with each step of x, from the first point to the last.
func (s *series) slope(of func(point) float64) float64 {
	a, b := s.points[0], s.points[len(s.points)-1]
	return (of(b) - of(a)) / float64(b.x-a.x)
}

// slower is how many times as long an update takes at the last point as at the first.
func (s *series) slower() float64 {
	return float64(s.points[len(s.points)-1].update) / float64(s.points[0].update)
}

// All of RIS and RouteViews, about: what their peers tell, and of how many prefixes.
const (
	allRoutes     = 480e6
	allPrefixes   = 1.3e6 // of both families
	updatesSecond = 50_000
)

// realNodes is how many path nodes a route has in the real table that the benchmarks use (a collector's of 2014 with 15 peers
// of another of 2015: 1,081,284 routes, 390,623 nodes), and nodeOctets what one takes, with its place in the index and room to
// grow.
const (
	realNodes  = 0.36
	nodeOctets = 24
)

func report(all []series) string {
	var b strings.Builder
	b.WriteString("# How the detector grows\n\nWritten by `make growth`; the figures are of one run on one machine, times are of processor time on one shard.\n\n![memory and time](growth.svg)\n\n")
	b.WriteString("| | routes | path nodes | heap, MiB | octets a route, all told | load, µs a route | known update, ns |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	for _, s := range all {
		for _, p := range s.points {
			fmt.Fprintf(&b, "| %d %s %s | %d | %d | %.1f | %.1f | %.2f | %d |\n", p.x, s.of, s.beside, p.routes, p.nodes, mib(p.octets),
				float64(p.octets)/float64(p.routes), float64(p.load.Nanoseconds())/1e3/float64(p.routes), p.update.Nanoseconds())
		}
	}
	prefixes, peers, incidents := all[0], all[1], all[2]
	last := peers.points[len(peers.points)-1]
	octets := func(p point) float64 { return float64(p.octets) }
	perRoute := peers.slope(octets) / 100_000
	perPrefix := prefixes.slope(octets) - 20*perRoute
	load := last.load.Seconds() / float64(last.routes)
	fmt.Fprintf(&b, `
One more peer with a full table takes %.1f octets for each of its routes, with the nodes of its own paths; a prefix takes %.0f
beside its routes; an open incident of one prefix takes %.1f KiB. From the smallest to the largest table, which has eight times
as many prefixes, an update takes %.1f times as long, and with 4000 incidents open %.1f times as long as with none: no work grows
with the table, but more of it is not in the processor's cache.

## What that means for all of RIS and RouteViews

Both together have about %.0f million routes for %.1f million prefixes. By the figures above that is %.1f GB for the routes with
their paths and %.1f GB for the prefixes. Here five prefixes share a path; in a real table (RouteViews, 2014 and 2015) fewer do, and
with its %.2f nodes a route it would be %.1f GB in all. Go's collector takes up to as much again unless GOMEMLIMIT is set, and a
snapshot takes room while it is written. Loading takes %.0f s of processor time, so about %.0f s on 8 shards, beside decompression. 50,000
updates a second that say what is known take %.0f %% of one core. So one machine with 8 cores and 32 GB can hold both projects whole
by these figures, which reach no further than %.0f million routes. Where that is too much, the stages run apart, and the
detector has a machine to itself; that several divide the table among them is not provided for yet.
`, perRoute, perPrefix, incidents.slope(octets)/1024, prefixes.slower(), incidents.slower(), allRoutes/1e6, allPrefixes/1e6,
		allRoutes*perRoute/1e9, allPrefixes*perPrefix/1e9, realNodes, (allRoutes*(8.2+realNodes*nodeOctets)+allPrefixes*perPrefix)/1e9,
		allRoutes*load, allRoutes*load/8, 100*updatesSecond*last.update.Seconds(), float64(last.routes)/1e6)
	return b.String()
}

// plot draws a panel for each series: memory as a line of its own scale, and the time of an update as another.
func plot(all []series) string {
	const width, height, margin = 320, 220, 54
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="11">`+"\n", len(all)*width, height+30)
	b.WriteString(`<rect width="100%" height="100%" fill="#fff"/>` + "\n")
	for i, s := range all {
		memory, update := 0.0, 0.0
		for _, p := range s.points {
			memory, update = max(memory, mib(p.octets)), max(update, float64(p.update))
		}
		x0, y0, w, h := float64(i*width+margin), float64(height-margin+20), float64(width-2*margin), float64(height-2*margin)
		fmt.Fprintf(&b, `<text x="%.0f" y="16" text-anchor="middle" font-weight="bold">%s</text><text x="%.0f" y="31" text-anchor="middle">%s</text>`+"\n", x0+w/2, s.of, x0+w/2, s.beside)
		fmt.Fprintf(&b, `<path d="M%.0f %.0fv%.0fh%.0fv%.0f" fill="none" stroke="#888"/>`+"\n", x0, y0-h, h, w, -h)
		top := float64(s.points[len(s.points)-1].x)
		line := func(value func(point) float64, most float64, colour string) {
			var d strings.Builder
			for _, p := range s.points {
				x, y := x0+w*float64(p.x)/top, y0-h*value(p)/most
				fmt.Fprintf(&d, "%.1f,%.1f ", x, y)
				fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="2.5" fill="%s"/>`, x, y, colour)
			}
			fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="1.5"/>`+"\n", strings.TrimSpace(d.String()), colour)
		}
		line(func(p point) float64 { return mib(p.octets) }, memory*1.1, "#06c")
		line(func(p point) float64 { return float64(p.update) }, update*1.5, "#c50")
		fmt.Fprintf(&b, `<text x="%.0f" y="%.0f" text-anchor="end" fill="#06c">%.0f MiB</text><text x="%.0f" y="%.0f" fill="#c50">%.0f ns</text>`+"\n",
			x0-3, y0-h+4, memory*1.1, x0+w+3, y0-h+4, update*1.5)
		fmt.Fprintf(&b, `<text x="%.0f" y="%.0f" text-anchor="end">0</text><text x="%.0f" y="%.0f">0</text><text x="%.0f" y="%.0f" text-anchor="middle">%.0f</text>`+"\n",
			x0-3, y0+4, x0+w+3, y0+4, x0+w, y0+15, top)
	}
	fmt.Fprintf(&b, `<text x="8" y="%d" fill="#06c">heap</text><text x="48" y="%d" fill="#c50">processor time of an update that says what is known</text>`+"\n</svg>\n", height+22, height+22)
	return b.String()
}
