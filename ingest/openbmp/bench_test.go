package openbmp

import (
	"net"
	"testing"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/segmentio/kafka-go/compress"
)

// noConn has no more of a connection than its deadlines.
type noConn struct{ net.Conn }

func (noConn) SetDeadline(time.Time) error { return nil }

// taken is a batch of 100 routes, the same again and again, and a partition that takes it in.
func hundred(t testing.TB, codec compress.Compression) func() {
	a := newRouter(1, 64496)
	var deltas []int64
	var values [][]byte
	for n := range 100 {
		deltas, values = append(deltas, int64(n)), append(values, a.route(t, n))
	}
	x := newBroken(t, 16<<20)
	x.handle = func(*ingest.Update) error { return nil }
	answer := fetched{high: 100, records: makeBatch(0, 99, codec, deltas, values)}
	return func() {
		x.p.next.Store(0)
		if err := x.fetched(x.p, 0, &answer); err != nil || x.p.next.Load() != 100 {
			t.Fatalf("%d is next, %v", x.p.next.Load(), err)
		}
		if len(x.s.Samples()) > 0 {
			t.Fatalf("%+v", x.s.samples)
		}
	}
}

func TestMessagesDoNotAllocate(t *testing.T) {
	for _, codec := range []compress.Compression{0, compress.Snappy, compress.Zstd} {
		take := hundred(t, codec)
		take()
		// One for the reader of the batch, none for its 100 messages.
		if n := testing.AllocsPerRun(100, take); n > 1 {
			t.Errorf("%v: %v allocations for 100 messages", codec, n)
		}
	}
}

// BenchmarkMessage is one message of a batch of 100, from Kafka's records to the update that is handed on.
func BenchmarkMessage(b *testing.B) {
	for _, codec := range []compress.Compression{0, compress.Gzip, compress.Snappy, compress.Lz4, compress.Zstd} {
		name := "plain"
		if codec != 0 {
			name = codec.String()
		}
		b.Run(name, func(b *testing.B) {
			take := hundred(b, codec)
			b.ReportAllocs()
			for n := 0; n < b.N; n += 100 {
				take()
			}
		})
	}
}
