package kafkabus

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go/compress"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/archive"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
	"github.com/routevigil/routevigil/ingest/bus/wire"
)

// made are updates as a full feed might have them: a few peers, many paths, some of which updates share.
func made(n int) []ingest.Update {
	updates := make([]ingest.Update, n)
	for i := range updates {
		p := uint32(i % 37)
		u := &updates[i]
		u.Time = ingest.Time(1_700_000_000_000_000 + int64(i)*61)
		u.Peer = ingest.Peer{Collector: "rrc00", Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(p)}), ASN: 64500 + p}
		path, x := uint32(i*2654435761)>>18, uint32(i*40503)
		u.Announced = []bgp.NLRI{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(x >> 16), byte(x >> 8), byte(x)}), 24)}}
		u.Attrs = bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop | bgp.HasCommunities, NextHop: u.Peer.Addr,
			ASPath:      bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{u.Peer.ASN, 3356, 1299 + path%7, 100000 + path}}},
			Communities: []uint32{u.Peer.ASN<<16 | 100, 3356<<16 | path%50}}
	}
	return updates
}

// published are the updates of files that RIPE RIS or RouteViews published.
func published(t testing.TB, name string) []ingest.Update {
	t.Helper()
	file := bgptest.Data(t, "mrt", name)
	if _, err := os.Stat(file); err != nil {
		t.Skip(err)
	}
	r, err := archive.Open([]string{file}, archive.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []ingest.Update
	for {
		u, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, u.Clone())
	}
}

var realFiles = []string{"route-views2.updates.20260222.1530.bz2", "routeviews.updates.20131201.0000.bz2", "updates.et-header.2015.gz"}

// An update takes at most 40 octets on the wire, of real ones, in the batches that a queue gives when it is
// busy, and compressed as they are sent.
func TestSizeOnTheWire(t *testing.T) {
	for _, name := range realFiles {
		t.Run(name, func(t *testing.T) {
			all := published(t, name)
			octets, routes, updates := size(t, all, 4096, 8)
			per := float64(octets) / float64(routes)
			t.Logf("%d routes in %d updates: %.1f octets a route, %.1f an update", routes, updates, per, float64(octets)/float64(updates))
			if per > 40 {
				t.Errorf("a route takes %.1f octets, 40 is the most", per)
			}
			octets, _, _ = size(t, all, 64, 8)
			t.Logf("in rounds of 64 updates, as when a queue is not busy: %.1f octets a route, %.1f an update", float64(octets)/float64(routes), float64(octets)/float64(updates))
		})
	}
}

// size tells the octets, after compression, of updates in rounds of so many and so many partitions.
func size(t testing.TB, updates []ingest.Update, each, partitions int) (octets, routes, n int) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(compress.ZstdCodec.Level)))
	if err != nil {
		t.Fatal(err)
	}
	k := &Cluster{partitions: partitions}
	w := k.NewWriter(nil)
	flush := func() {
		for p := range w.parts {
			octets += len(z.EncodeAll(w.parts[p].AppendTo(nil, headerOf(w, 1)), nil))
			w.parts[p].Reset()
		}
		w.index = 0
	}
	for i := range updates {
		if err := w.add(&updates[i]); err != nil {
			t.Fatal(err)
		}
		routes += len(updates[i].Announced) + len(updates[i].Withdrawn)
		if (i+1)%each == 0 {
			flush()
		}
	}
	flush()
	return octets, routes, len(updates)
}

// BenchmarkWriteAndFollow writes updates to a broker and reads them, at the same time, on one partition. The
// broker is that of ROUTEVIGIL_TEST_KAFKA. What it reports as processor time is that of both sides, without the broker's.
func BenchmarkWriteAndFollow(b *testing.B) {
	address := os.Getenv("ROUTEVIGIL_TEST_KAFKA")
	if address == "" {
		b.Skip("ROUTEVIGIL_TEST_KAFKA does not say where a Kafka broker is")
	}
	for name, window := range map[string]time.Duration{"once": 0, "duplicates": 30 * time.Second} {
		b.Run(name, func(b *testing.B) {
			k := cluster(b, address, func(c *Configuration) { c.Partitions, c.Duplicates = 1, window })
			l := follow(b, k, LogOptions{Candidate: true})
			next(b, l, func(s *Step) bool { return s.Leading })
			w := k.NewWriter(nil)
			const each = 4096
			updates := made(8 * each) // few, so that the collector of garbage has little to do with them
			errs := make(chan error, 1)
			before := processorTime(b)
			b.ResetTimer()
			go func() {
				for i := 0; i < b.N; i += each {
					batch := ingest.Batch{Updates: updates[i%len(updates):][:min(each, b.N-i)]}
					if i >= len(updates) {
						for j := range batch.Updates { // nothing is said twice
							batch.Updates[j].Time += ingest.Time(len(updates)) * 61
						}
					}
					batch.Watermark = batch.Updates[len(batch.Updates)-1].Time
					if err := w.Write(context.Background(), &batch); err != nil {
						errs <- err
						return
					}
				}
				errs <- nil
			}()
			for got := 0; got < b.N; {
				got += len(next(b, l, func(*Step) bool { return true }).Updates)
			}
			if err := <-errs; err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
			b.ReportMetric(float64((processorTime(b)-before).Nanoseconds())/float64(b.N), "cpu-ns/update")
		})
	}
}

// processorTime is what the process has used so far.
func processorTime(b *testing.B) time.Duration {
	stat, err := os.ReadFile("/proc/self/stat") // Linux; elsewhere it is not told
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// BenchmarkAssemble is what a follower does with frames that have arrived.
func BenchmarkAssemble(b *testing.B) {
	for name, window := range map[string]time.Duration{"once": 0, "duplicates": 30 * time.Second} {
		b.Run(name, func(b *testing.B) {
			k := &Cluster{partitions: 1}
			w := k.NewWriter(nil)
			updates := made(4096)
			for i := range updates {
				if err := w.add(&updates[i]); err != nil {
					b.Fatal(err)
				}
			}
			frame := w.parts[0].AppendTo(nil, headerOf(w, 1))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				l := assembler(k, window)
				l.pending[roundKey{1, 1}] = &round{frames: [][]byte{bytes.Clone(frame)}, offsets: []int64{0}}
				s := l.step(&entry{Number: 1, Watermark: 1, Rounds: []roundKey{{1, 1}}})
				n += len(s.Updates)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/update")
		})
	}
}

// assembler is a Log that is only good for making steps.
func assembler(k *Cluster, window time.Duration) *Log {
	c := *k
	c.c.Duplicates = window
	l := &Log{k: &c, at: Position{Taken: map[uint64]uint64{}}, pending: map[roundKey]*round{}, decoders: make([]wire.Decoder, 1), dup: duplicates{window: window}}
	l.duplicate = prometheus.NewCounter(prometheus.CounterOpts{Name: "x"})
	return l
}
