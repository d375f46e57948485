package clickhouse

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/clickhouse/clickhousetest"
	"github.com/routevigil/routevigil/store/storetest"
)

func benchmarkStore(b *testing.B) *Store {
	b.Helper()
	c := testConfiguration(b, clickhousetest.Shared(b))
	c.WriteTimeout, c.QueryTimeout, c.QueryMemory = 10*time.Minute, 10*time.Minute, 6<<30
	dropDatabase(b, c)
	s, err := open(b.Context(), c, store.Retention{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

// spent is the processor time that this process and the server have taken.
func spent(b *testing.B, s *Store) (client, server time.Duration) {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	var micros uint64
	if err := s.conn.QueryRow(b.Context(), `SELECT sum(value) FROM system.events WHERE event = 'OSCPUVirtualTimeMicroseconds'`).Scan(&micros); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), time.Duration(micros) * time.Microsecond
}

// BenchmarkAppendBatch is the log alone, and with all that follows until history is in the order of prefixes. What client
// and server take of processors is told too: it says what a machine reaches on which nothing else runs.
func BenchmarkAppendBatch(b *testing.B) {
	g := storetest.NewTraffic()
	batches := make([]*ingest.Batch, 16)
	for i := range batches {
		batches[i] = g.Batch(10_000)
	}
	for _, expanded := range []bool{false, true} {
		b.Run(fmt.Sprintf("updates=10000/expanded=%t", expanded), func(b *testing.B) {
			s := benchmarkStore(b)
			b.SetParallelism(2)
			var n atomic.Int64
			client, server := spent(b, s)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := s.AppendBatch(b.Context(), batches[n.Add(1)%16]); err != nil {
						b.Error(err)
					}
				}
			})
			if expanded {
				if err := s.tidy(b.Context(), time.Now(), true); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*10_000/b.Elapsed().Seconds(), "updates/s")
			c, v := spent(b, s)
			b.ReportMetric(float64(c-client)/float64(b.N)/10_000, "client-cpu-ns/update")
			b.ReportMetric(float64(v-server)/float64(b.N)/10_000, "server-cpu-ns/update")
		})
	}
}

// BenchmarkUpdates asks twenty million rows, of which the client made two and the server the rest: later copies,
// each of a day of its own. Building them takes minutes.
func BenchmarkUpdates(b *testing.B) {
	const made, copies = 2_000_000, 9
	s := benchmarkStore(b)
	g := storetest.NewTraffic()
	start := time.Now()
	for n := 0; n < made; n += 10_000 {
		if _, err := s.AppendBatch(b.Context(), g.Batch(10_000)); err != nil {
			b.Fatal(err)
		}
	}
	appended := time.Since(start)
	if err := s.tidy(b.Context(), time.Now(), true); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d updates appended in %v, and expanded %v later: %.0f updates/s", made, appended.Round(time.Second), (time.Since(start) - appended).Round(time.Second),
		made/time.Since(start).Seconds())
	exec := func(format string, a ...any) {
		if err := s.conn.Exec(b.Context(), fmt.Sprintf(format, a...)); err != nil {
			b.Fatal(err)
		}
	}
	exec("OPTIMIZE TABLE updates FINAL")
	size := func() (bytes, rows, parts uint64) {
		if err := s.conn.QueryRow(b.Context(), `SELECT sum(bytes_on_disk), sum(rows), count() FROM system.parts WHERE database = currentDatabase() AND table = 'updates' AND active`).
			Scan(&bytes, &rows, &parts); err != nil {
			b.Fatal(err)
		}
		return bytes, rows, parts
	}
	bytes, rows, _ := size()
	b.Logf("%.2f bytes an update on the disk, merged", float64(bytes)/float64(rows))
	batches := uint64(made / 10_000)
	for i := 1; i <= copies; i++ {
		exec(`INSERT INTO updates SELECT afi, address, length, position + %d, row, received + %d, time + %d, action, peer, path_id, origin_asn, attributes,
			backfilled FROM updates WHERE position <= %d SETTINGS max_execution_time = 0, max_insert_threads = 1`, uint64(i)*batches, i, int64(i)*86_400_000_000, batches)
	}
	s.mu.Lock()
	s.state.position += copies * batches
	s.state.expanded = s.state.position
	s.mu.Unlock()
	bytes, rows, parts := size()
	b.Logf("%d rows in %d parts, %.2f bytes each; built in %v", rows, parts, float64(bytes)/float64(rows), time.Since(start).Round(time.Second))
	from := g.Batch(1).Updates[0].Time.Time().Add(5*24*time.Hour - 30*time.Minute)
	window := func(q store.UpdateQuery) store.UpdateQuery {
		q.From, q.To = from, from.Add(6*time.Hour)
		return q
	}
	for _, tt := range []struct {
		name string
		q    func(i int) store.UpdateQuery
	}{
		{"prefix=any/6h", func(i int) store.UpdateQuery {
			return window(store.UpdateQuery{Prefix: storetest.TrafficPrefix(uint32(i * 7919 % 60_000))})
		}},
		{"prefix=busy", func(i int) store.UpdateQuery {
			return store.UpdateQuery{Prefix: storetest.TrafficPrefix(uint32(i % 20))}
		}},
		{"covered/6h", func(i int) store.UpdateQuery {
			return window(store.UpdateQuery{Prefix: netip.PrefixFrom(storetest.TrafficPrefix(uint32(i*7919%60_000)).Addr(), 20).Masked(), Match: store.Covered})
		}},
		{"covering/6h", func(i int) store.UpdateQuery {
			return window(store.UpdateQuery{Prefix: netip.PrefixFrom(storetest.TrafficPrefix(uint32(i*7919%60_000)).Addr(), 32), Match: store.Covering})
		}},
		{"newest", func(i int) store.UpdateQuery { return store.UpdateQuery{} }},
	} {
		b.Run(tt.name, func(b *testing.B) {
			var took []time.Duration
			found := 0
			for i := 0; b.Loop(); i++ {
				at := time.Now()
				for _, err := range s.Updates(b.Context(), tt.q(i)) {
					if err != nil {
						b.Fatal(err)
					}
					found++
				}
				took = append(took, time.Since(at))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(took[len(took)*95/100].Microseconds())/1000, "p95-ms")
			b.ReportMetric(float64(found)/float64(b.N), "rows")
		})
	}
}

// BenchmarkReader is what it costs a reader to see what is new, beside 20,000 events and 1,000 batches in the log, and how
// fast half a million rows come in the order of arrival.
func BenchmarkReader(b *testing.B) {
	s := benchmarkStore(b)
	g := storetest.NewTraffic()
	random := rand.New(rand.NewPCG(1, 2))
	for n := uint64(0); n < 20_000; {
		var events []incident.Event
		for range 1000 {
			n++
			events = append(events, incident.Event{Sequence: n, Incident: storetest.Incident(random, fmt.Sprintf("inc_%d", n/4), n)})
		}
		if err := s.CommitEvents(b.Context(), events, nil); err != nil {
			b.Fatal(err)
		}
	}
	for range 1000 {
		if _, err := s.AppendBatch(b.Context(), g.Batch(500)); err != nil {
			b.Fatal(err)
		}
	}
	r := openReader(b, s.cfg)
	b.Run("look", func(b *testing.B) {
		for b.Loop() {
			if err := r.look(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
	for _, where := range []string{"log", "updates"} {
		b.Run("history/"+where, func(b *testing.B) {
			rows := 0
			for b.Loop() {
				for _, err := range r.History(b.Context(), time.Time{}, time.Time{}) {
					if err != nil {
						b.Fatal(err)
					}
					rows++
				}
			}
			b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
		})
		if err := s.tidy(b.Context(), time.Now(), true); err != nil {
			b.Fatal(err)
		}
	}
}
