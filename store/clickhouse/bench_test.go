package clickhouse

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
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

// BenchmarkRecord is what a recorder does that goes through a backlog: eight steps of 16,384 updates at once, one call after
// the other, while what they leave in the log is moved beside it.
func BenchmarkRecord(b *testing.B) {
	const steps, updates = 8, 16_384
	g := storetest.NewTraffic()
	var list []*ingest.Batch
	for range steps {
		list = append(list, g.Batch(updates))
	}
	s := benchmarkStore(b)
	s.done.Go(s.expander)
	client, server := spent(b, s)
	for b.Loop() {
		if stored, _, err := s.AppendBatches(b.Context(), list); err != nil || stored != steps {
			b.Fatal(stored, err)
		}
	}
	if err := s.tidy(b.Context(), time.Now(), true); err != nil {
		b.Fatal(err)
	}
	n := float64(b.N) * steps * updates
	b.ReportMetric(n/b.Elapsed().Seconds(), "updates/s")
	c, v := spent(b, s)
	b.ReportMetric(float64(c-client)/n, "client-cpu-ns/update")
	b.ReportMetric(float64(v-server)/n, "server-cpu-ns/update")
}

// BenchmarkUpdates asks as many rows as ROUTEVIGIL_BENCH_ROWS says, twenty million if it says nothing. The client makes two
// million and the server the rest: 25 copies of these, spread over a day, and copies of that day. Building them takes
// minutes, a thousand million most of an hour, and 6 GB: copies compress better than what is new.
func BenchmarkUpdates(b *testing.B) {
	const made, batches, perDay, day = 2_000_000, 200, 25, 86_400_000_000
	total := 20_000_000
	if text := os.Getenv("ROUTEVIGIL_BENCH_ROWS"); text != "" {
		var err error
		if total, err = strconv.Atoi(text); err != nil || total < made {
			b.Fatalf("ROUTEVIGIL_BENCH_ROWS is %q", text)
		}
	}
	s := benchmarkStore(b)
	g := storetest.NewTraffic()
	from := storetest.NewTraffic().Batch(1).Updates[0].Time.Time()
	for range batches {
		if _, err := s.AppendBatch(b.Context(), g.Batch(made/batches)); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.tidy(b.Context(), time.Now(), true); err != nil {
		b.Fatal(err)
	}
	exec := func(format string, a ...any) {
		if err := s.conn.Exec(b.Context(), fmt.Sprintf(format, a...)); err != nil {
			b.Fatal(err)
		}
	}
	size := func() (bytes, rows, parts uint64) {
		if err := s.conn.QueryRow(b.Context(), `SELECT sum(bytes_on_disk), sum(rows), count() FROM system.parts WHERE database = currentDatabase() AND table = 'updates' AND active`).
			Scan(&bytes, &rows, &parts); err != nil {
			b.Fatal(err)
		}
		return bytes, rows, parts
	}
	exec("OPTIMIZE TABLE updates FINAL")
	bytes, rows, _ := size()
	b.Logf("%.2f bytes an update on the disk, merged", float64(bytes)/float64(rows))
	// What is copied is in order, so blocks need no sorting, and each is of prefixes of its own.
	again := func(upTo, positions, days, later int) {
		exec(insertUpdates+` SELECT afi, address, length, position + %d, row, received + %d, time + %d, action, peer, path_id, origin_asn, attributes,
			backfilled FROM updates WHERE position <= %d ORDER BY afi, address, length, position, row SETTINGS max_execution_time = 0, max_threads = 1, max_insert_threads = 1,
			max_block_size = 65536, max_insert_block_size = 4000000, min_insert_block_size_rows = 4000000, min_insert_block_size_bytes = 0`, positions, days, later, upTo)
	}
	copies := total / made
	for i := 1; i < min(copies, perDay); i++ {
		again(batches, i*batches, 0, i*day/perDay)
	}
	exec("OPTIMIZE TABLE updates FINAL")
	days := max(1, copies/perDay)
	for d := 1; d < days; d++ {
		again(perDay*batches, d*perDay*batches, d, d*day)
	}
	s.mu.Lock()
	s.state.position = uint64(batches * min(copies, days*perDay))
	s.state.expanded = s.state.position
	s.mu.Unlock()
	bytes, rows, parts := size()
	b.Logf("%d rows of %d days in %d parts, %.2f bytes each", rows, days, parts, float64(bytes)/float64(rows))
	i := 0
	window := func(q store.UpdateQuery) store.UpdateQuery {
		i++
		q.From = from.Add(time.Duration(i%days)*24*time.Hour + time.Duration(i%4)*4*time.Hour)
		q.To = q.From.Add(6 * time.Hour)
		return q
	}
	for _, tt := range []struct {
		name string
		q    func(i int) store.UpdateQuery
	}{
		{"prefix=any/6h", func(i int) store.UpdateQuery {
			return window(store.UpdateQuery{Prefix: storetest.TrafficPrefix(uint32(i * 7919 % 60_000))})
		}},
		{"prefix=busy/6h", func(i int) store.UpdateQuery {
			return window(store.UpdateQuery{Prefix: storetest.TrafficPrefix(uint32(i % 20))})
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
			_, before := spent(b, s)
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
			_, after := spent(b, s)
			b.ReportMetric(float64((after-before).Microseconds())/1000/float64(b.N), "server-cpu-ms/op")
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
