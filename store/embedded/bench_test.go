package embedded

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/asof"
	"github.com/routevigil/routevigil/store/batch"
	"github.com/routevigil/routevigil/store/storetest"
)

func benchmarkStore(b *testing.B, dir string) *Store {
	b.Helper()
	s, err := open(testConfiguration(dir), defaultSizes, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

func BenchmarkAppendBatch(b *testing.B) {
	g := storetest.NewTraffic()
	batches := make([]*ingest.Batch, 64)
	for i := range batches {
		batches[i] = g.Batch(1000)
	}
	for _, writers := range []int{1, 4} {
		b.Run(fmt.Sprintf("updates=1000/writers=%d", writers), func(b *testing.B) {
			s := benchmarkStore(b, b.TempDir())
			b.ReportAllocs()
			b.SetParallelism(writers) // times GOMAXPROCS
			var n atomic.Int64
			run := func() bool {
				_, err := s.AppendBatch(b.Context(), batches[n.Add(1)%64])
				if err != nil {
					b.Error(err)
				}
				return err == nil
			}
			if writers == 1 {
				for b.Loop() && run() {
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() && run() {
					}
				})
			}
			b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "updates/s")
			st, err := s.Stats(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(st.Bytes)/float64(b.N*1000), "disk-B/update")
		})
	}
	b.Run("updates=0", func(b *testing.B) {
		s := benchmarkStore(b, b.TempDir())
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.AppendBatch(b.Context(), &ingest.Batch{Watermark: 1}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	updates := storetest.NewTraffic().Batch(1000)
	e := batch.NewEncoder()
	var body []byte
	b.ReportAllocs()
	for b.Loop() {
		body, _, _ = e.Encode(body[:0], updates)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/update")
	b.ReportMetric(float64(len(body))/1000, "B/update")
}

func BenchmarkDecode(b *testing.B) {
	body, _, err := batch.NewEncoder().Encode(nil, storetest.NewTraffic().Batch(1000))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := batch.Decode(body); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/update")
}

// BenchmarkWritePart makes a part as sealing does, and one as large as a merge makes in an hour of a busy feed.
func BenchmarkWritePart(b *testing.B) {
	for _, n := range []int{250_000, 2_500_000} {
		b.Run(fmt.Sprintf("rows=%d", n), func(b *testing.B) {
			g := storetest.NewTraffic()
			rows := make([]row, 0, n)
			for position := uint64(1); len(rows) < n; position++ {
				updates := g.Batch(1000).Updates
				for i := range updates { // each makes one row
					action, nlri := batch.RowOf(&updates[i], 0)
					route := batch.RouteOf(&updates[i], &updates[i].Attrs, action, nlri, store.Cursor{Position: position, Row: i})
					rows = append(rows, toRow(&route))
				}
			}
			slices.SortFunc(rows, func(a, b row) int { return compareRows(&a, &b) })
			dir := b.TempDir()
			if err := os.MkdirAll(filepath.Join(dir, partsDirectory), 0o755); err != nil {
				b.Fatal(err)
			}
			size := int64(0)
			for b.Loop() {
				p, err := defaultSizes.writePart(b.Context(), dir, 1, 1, 0, func(yield func(*row, error) bool) {
					for i := range rows {
						if !yield(&rows[i], nil) {
							return
						}
					}
				})
				if err != nil {
					b.Fatal(err)
				}
				size = p.bytes
				p.discard()
			}
			b.ReportMetric(float64(size)/float64(n), "B/row")
			b.ReportMetric(float64(b.N)*float64(n)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}

// BenchmarkUpdates asks five million sealed rows and a tail of a hundred thousand. Building them
// takes a minute.
func BenchmarkUpdates(b *testing.B) {
	const sealed, tail = 5_000_000, 100_000
	s := benchmarkStore(b, b.TempDir())
	g := storetest.NewTraffic()
	start := time.Now()
	sealing := time.Duration(0)
	for n := 0; n < sealed; n += 1000 {
		if _, err := s.AppendBatch(b.Context(), g.Batch(1000)); err != nil {
			b.Fatal(err)
		}
		if (n+1000)%250_000 == 0 {
			checkpointAll(b, s)
			at := time.Now()
			seal(b, s)
			sealing += time.Since(at)
		}
	}
	at := time.Now()
	if err := s.tidy(b.Context(), time.Now().Add(24*time.Hour), false); err != nil { // the window is over
		b.Fatal(err)
	}
	merging := time.Since(at)
	st, err := s.Stats(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	first, size := st.OldestUpdate, int64(0)
	for _, p := range s.parts {
		size += p.bytes
	}
	b.Logf("%d rows in %d parts: %.1f B a row; built in %v, of which sealing %v and merging %v", sealed, len(s.parts), float64(size)/sealed,
		time.Since(start).Round(time.Second), sealing.Round(time.Second), merging.Round(time.Second))
	for n := 0; n < tail; n += 1000 {
		if _, err := s.AppendBatch(b.Context(), g.Batch(1000)); err != nil {
			b.Fatal(err)
		}
	}
	queries := []struct {
		name string
		q    func(i int) store.UpdateQuery
	}{
		{"prefix=busy", func(i int) store.UpdateQuery {
			return store.UpdateQuery{Prefix: storetest.TrafficPrefix(uint32(i % 20))}
		}},
		{"prefix=quiet", func(i int) store.UpdateQuery {
			return store.UpdateQuery{Prefix: storetest.TrafficPrefix(uint32(20_000 + i%10_000))}
		}},
		{"prefix=unknown", func(i int) store.UpdateQuery {
			return store.UpdateQuery{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i), 1, 0}), 25)}
		}},
		{"prefix=quiet/covered", func(i int) store.UpdateQuery {
			return store.UpdateQuery{Prefix: netip.PrefixFrom(storetest.TrafficPrefix(uint32(i%60_000)).Addr(), 16).Masked(), Match: store.Covered}
		}},
		{"prefix=quiet/covering", func(i int) store.UpdateQuery {
			return store.UpdateQuery{Prefix: netip.PrefixFrom(storetest.TrafficPrefix(uint32(20_000+i%10_000)).Addr(), 32), Match: store.Covering}
		}},
		{"newest", func(i int) store.UpdateQuery { return store.UpdateQuery{} }},
		{"origin=quiet", func(i int) store.UpdateQuery { return store.UpdateQuery{OriginASN: uint32(28_000 + i%1000)} }},
		{"window", func(i int) store.UpdateQuery { // as history is learned from the store: all of ten seconds
			from := first.Add(time.Duration(i%40) * 10 * time.Second)
			return store.UpdateQuery{From: from, To: from.Add(10 * time.Second), Limit: 1 << 18}
		}},
		{"peer", func(i int) store.UpdateQuery { return store.UpdateQuery{PeerASN: uint32(1000 + i%400*7)} }},
	}
	for _, tt := range queries {
		b.Run(tt.name, func(b *testing.B) {
			b.ReportAllocs()
			i, rows := 0, 0
			for b.Loop() {
				i++
				for _, err := range s.Updates(b.Context(), tt.q(i)) {
					if err != nil {
						b.Fatal(err)
					}
					rows++
				}
			}
			b.ReportMetric(float64(rows)/float64(b.N), "rows")
		})
	}
	hours := store.ActivityQuery{From: first, To: first.Add(24 * time.Hour), Bucket: time.Hour}
	for name, change := range map[string]func(*store.ActivityQuery){
		"one origin by hour":    func(q *store.ActivityQuery) { q.OriginASN = 28_000 },
		"top origins by hour":   func(q *store.ActivityQuery) { q.Origins = 10 },
		"all by minute":         func(q *store.ActivityQuery) { q.Bucket, q.To = time.Minute, first.Add(time.Hour) },
		"top origins by minute": func(q *store.ActivityQuery) { q.Bucket, q.To, q.Origins = time.Minute, first.Add(time.Hour), 10 },
		"prefix by hour":        func(q *store.ActivityQuery) { q.Prefix = storetest.TrafficPrefix(3) },
	} {
		b.Run("activity of "+name, func(b *testing.B) {
			q := hours
			change(&q)
			rows := uint64(0)
			for b.Loop() {
				list, err := s.Activity(b.Context(), q)
				if err != nil {
					b.Fatal(err)
				}
				for _, a := range list {
					rows += a.Announcements + a.Withdrawals
				}
			}
			b.ReportMetric(float64(rows)/float64(b.N), "counted")
		})
	}
	for r, err := range s.Updates(b.Context(), store.UpdateQuery{Limit: 1}) {
		if err != nil {
			b.Fatal(err)
		}
		newest := r.Prefix
		queries := map[string]asof.Query{
			"routes of a prefix":  {Prefix: newest, At: r.Time},
			"routes of a peer/16": {Prefix: netip.PrefixFrom(newest.Addr(), 16).Masked(), Match: store.Covered, PeerIP: r.PeerIP, PeerASN: r.PeerASN, At: r.Time},
			"routes of a peer":    {Prefix: netip.MustParsePrefix("0.0.0.0/0"), Match: store.Covered, PeerIP: r.PeerIP, PeerASN: r.PeerASN, At: r.Time},
		}
		for name, q := range queries {
			b.Run(name, func(b *testing.B) {
				routes := 0
				for b.Loop() {
					state, err := asof.Routes(b.Context(), s, q)
					if err != nil {
						b.Fatal(err)
					}
					routes += len(state.Routes)
				}
				b.ReportMetric(float64(routes)/float64(b.N), "routes")
			})
		}
	}
}

// BenchmarkActivity asks the summaries of a day of a hundred million rows, in 13 parts of which each has 3 hours of
// 40,000 origins; the rows themselves are not there, as they are not read.
func BenchmarkActivity(b *testing.B) {
	const parts, origins = 13, 40_000
	s := benchmarkStore(b, b.TempDir())
	first := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	size := func() (n int64) {
		if err := s.read.QueryRowContext(b.Context(), "SELECT coalesce(sum(length(counts)), 0) FROM activity").Scan(&n); err != nil {
			b.Fatal(err)
		}
		return n
	}
	r := rand.New(rand.NewPCG(1, 1))
	zipf := rand.NewZipf(r, 1.2, 20, 1000)
	for i := range parts {
		p := &part{path: filepath.Join(s.cfg.Directory, partName(uint64(i), uint64(i))), first: uint64(i + 1), last: uint64(i + 1), rows: 8_000_000,
			minKey: []byte{}, maxKey: []byte{}, minTime: first.Add(time.Duration(24*i/parts) * time.Hour).UnixMicro(), summary: newSummary()}
		p.refs.Store(1)
		for hour := range 3 {
			for origin := range origins {
				u := row{Time: p.minTime + int64(hour)*summaryUnit, OriginASN: int64(origin*7 + 1), Action: string(store.Announce)}
				for range 1 + zipf.Uint64() {
					p.summary.add(&u)
				}
				p.maxTime = u.Time
			}
		}
		if err := s.relayout(b.Context(), p, nil, nil); err != nil {
			b.Fatal(err)
		}
	}
	b.Logf("%d bytes of summaries", size())
	for _, tt := range []struct {
		name string
		q    store.ActivityQuery
	}{
		{"one origin by hour", store.ActivityQuery{OriginASN: 7001}},
		{"top origins by hour", store.ActivityQuery{Origins: 10}},
		{"all by hour", store.ActivityQuery{}},
	} {
		tt.q.From, tt.q.To, tt.q.Bucket = first, first.Add(24*time.Hour), time.Hour
		b.Run(tt.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if a, err := s.Activity(b.Context(), tt.q); err != nil || len(a) == 0 || len(a[0].Buckets) != 24 {
					b.Fatal(len(a), err)
				}
			}
		})
	}
}

// BenchmarkIncidents asks a hundred thousand incidents.
func BenchmarkIncidents(b *testing.B) {
	s := benchmarkStore(b, b.TempDir())
	r := rand.New(rand.NewPCG(1, 1))
	const n = 100_000
	events := make([]incident.Event, 0, 1000)
	start := time.Now()
	for i := 1; i <= n; i++ {
		in := storetest.Incident(r, fmt.Sprintf("inc_%d", i), uint64(i))
		in.Offenders = []uint32{r.Uint32N(50_000)}
		in.Kind = incident.Kinds[r.IntN(len(incident.Kinds)-1)]
		if i == 500 {
			in.Kind = incident.FeedBlind
		}
		in.Prefixes = []incident.Prefix{{Prefix: storetest.TrafficPrefix(r.Uint32N(100_000))}, {Prefix: storetest.TrafficPrefix(r.Uint32N(100_000))}}
		events = append(events, incident.Event{Sequence: in.Sequence, Incident: in})
		if len(events) == cap(events) {
			if err := s.CommitEvents(b.Context(), events, nil); err != nil {
				b.Fatal(err)
			}
			events = events[:0]
		}
	}
	b.Logf("%d incidents stored in %v", n, time.Since(start).Round(time.Millisecond))
	if info, err := os.Stat(filepath.Join(s.cfg.Directory, databaseName)); err == nil {
		b.Logf("%d bytes an incident", info.Size()/n)
	}
	queries := map[string]store.IncidentQuery{
		"newest":   {},
		"oldest":   {Before: 150},
		"open":     {Status: incident.Open, MinSeverity: incident.Critical},
		"rarest":   {Kinds: []incident.Kind{incident.FeedBlind}},
		"offender": {ASN: 77},
		"prefix":   {Prefix: netip.MustParsePrefix("10.0.0.0/16")},
		"victim":   {ASN: 4200000000}, // every incident's
		"never":    {From: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), Status: incident.Ended},
	}
	for name, q := range queries {
		b.Run(name, func(b *testing.B) {
			rows := 0
			for b.Loop() {
				list, err := s.Incidents(b.Context(), q)
				if err != nil {
					b.Fatal(err)
				}
				rows += len(list)
			}
			b.ReportMetric(float64(rows)/float64(b.N), "rows")
		})
	}
}
