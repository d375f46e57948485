package openbmp

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/snappy"
	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/protocol"
	"github.com/segmentio/kafka-go/protocol/fetch"
	"github.com/segmentio/kafka-go/protocol/metadata"
	"pgregory.net/rapid"

	"github.com/routevigil/routevigil/ingest"
)

// makeBatch writes a record batch with these offsets after first, and with last after first as the last offset.
func makeBatch(first int64, last int32, codec compress.Compression, deltas []int64, values [][]byte) []byte {
	var records []byte
	for i, v := range values {
		var r []byte
		r = append(r, 0)
		r = binary.AppendVarint(r, int64(i))
		r = binary.AppendVarint(r, deltas[i])
		r = binary.AppendVarint(r, 3)
		r = append(r, "key"...)
		if v == nil {
			r = binary.AppendVarint(r, -1)
		} else {
			r = binary.AppendVarint(r, int64(len(v)))
			r = append(r, v...)
		}
		r = binary.AppendVarint(r, 1)
		r = append(binary.AppendVarint(r, 1), 'h')
		r = append(binary.AppendVarint(r, 1), 'v')
		records = binary.AppendVarint(records, int64(len(r)))
		records = append(records, r...)
	}
	return sealBatch(first, last, uint16(codec), int32(len(values)), squeeze(codec, records))
}

func squeeze(codec compress.Compression, b []byte) []byte {
	if codec == 0 {
		return b
	}
	var out bytes.Buffer
	w := codec.Codec().NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}

func sealBatch(first int64, last int32, attributes uint16, count int32, records []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(first))
	b = binary.BigEndian.AppendUint32(b, uint32(batchHeader-12+len(records)))
	b = binary.BigEndian.AppendUint32(b, 0) // leader's epoch
	b = append(b, 2, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, attributes)
	b = binary.BigEndian.AppendUint32(b, uint32(last))
	b = append(b, make([]byte, 8+8+8+2+4)...) // times, producer
	b = binary.BigEndian.AppendUint32(b, uint32(count))
	b = append(b, records...)
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

func TestBatchRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		codec := compress.Compression(rapid.IntRange(0, 4).Draw(t, "codec"))
		first := rapid.Int64Range(0, 1<<60).Draw(t, "first")
		values := rapid.SliceOf(rapid.SliceOf(rapid.Byte())).Draw(t, "values")
		gap := rapid.Int64Range(1, 3).Draw(t, "gap")
		var deltas []int64
		for i := range values {
			deltas = append(deltas, int64(i)*gap)
		}
		last := int32(int64(len(values)) * gap)
		after := rapid.SliceOf(rapid.Byte()).Draw(t, "after")
		x, rest, err := splitBatch(append(makeBatch(first, last, codec, deltas, values), after...))
		if err != nil {
			t.Fatal(err)
		}
		if x.first != first || x.last != first+int64(last) || x.control || !bytes.Equal(rest, after) {
			t.Fatalf("got %+v", x)
		}
		d := decompressor{most: 1 << 20}
		records, err := d.decompress(x.codec, x.records)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		err = x.each(records, func(offset int64, value []byte) error {
			if offset != first+deltas[n] || !bytes.Equal(value, values[n]) {
				t.Fatalf("record %d is %d %x, want %d %x", n, offset, value, first+deltas[n], values[n])
			}
			n++
			return nil
		})
		if err != nil || n != len(values) {
			t.Fatalf("%d records of %d, %v", n, len(values), err)
		}
	})
}

// Java's clients frame Snappy in a way of their own; kafka-go writes it too, but with blocks of one size.
func TestXerial(t *testing.T) {
	framed := append([]byte("\x82SNAPPY\x00"), 0, 0, 0, 1, 0, 0, 0, 1)
	for _, part := range []string{"one ", "and two"} {
		block := snappy.Encode(nil, []byte(part))
		framed = binary.BigEndian.AppendUint32(framed, uint32(len(block)))
		framed = append(framed, block...)
	}
	d := decompressor{most: 11}
	if got, err := d.decompress(compress.Snappy, framed); string(got) != "one and two" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	d.most = 10
	if _, err := d.decompress(compress.Snappy, framed); err == nil || err.(*batchError).reason != "batch_too_large" {
		t.Errorf("with a bound of one octet less: %v", err)
	}
	d.most = 1 << 20
	for n := range len(framed) - 1 {
		if n != 16 && n != 16+4+len(snappy.Encode(nil, []byte("one "))) { // where a block ends
			if _, err := d.decompress(compress.Snappy, framed[:n+1][:n]); n > 0 && err == nil {
				t.Errorf("cut after %d octets it is in order", n)
			}
		}
	}
	// A length that is not true must not be believed.
	if _, err := d.decompress(compress.Snappy, append(framed[:16:16], 0xff, 0xff, 0xff, 0xf0)); err == nil {
		t.Error("a block of 4 GB is in order")
	}
	if _, err := d.decompress(compress.Snappy, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0}); err == nil || err.(*batchError).reason != "batch_too_large" {
		t.Errorf("a block that becomes 4 GB: %v", err)
	}
}

// broken is a reader of one partition outside of any cluster, and what comes out of it.
type broken struct {
	*reader
	p      *partition
	routes []string
}

func newBroken(t testing.TB, most int) *broken {
	c := DefaultConfiguration()
	c.MaxBatchBytes = most
	s, err := New(c, "", slog.New(slog.DiscardHandler), nil) // it does not run, and stores no offsets
	if err != nil {
		t.Fatal(err)
	}
	x := &broken{p: &partition{at: topicPartition{"routeviews.a.1.bmp_raw", 0}, collector: "a"}}
	x.reader = newReader(s, func(u *ingest.Update) error {
		for _, n := range u.Announced {
			x.routes = append(x.routes, n.Prefix.String())
		}
		return nil
	})
	return x
}

// What is broken is counted, and passed over no further than it must be.
func TestBrokenBatches(t *testing.T) {
	a := newRouter(1, 64496)
	route := func(n int) []byte { return a.route(t, n) }
	good := func(first int64, n int) []byte {
		return makeBatch(first, 1, 0, []int64{0, 1}, [][]byte{route(n), route(n + 1)})
	}
	change := func(b []byte, at int, to byte) []byte { b[at] = to; return b }
	seal := func(b []byte) []byte {
		binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
		return b
	}
	prefixes := func(of ...int) (all []string) {
		for _, n := range of {
			all = append(all, prefix(n).String())
		}
		return all
	}
	for _, c := range []struct {
		name    string
		records []byte
		cut     bool
		reason  string // none if it is empty
		routes  []string
		next    int64
	}{
		{name: "good", records: append(good(100, 0), good(102, 2)...), routes: prefixes(0, 1, 2, 3), next: 104},
		{name: "begins before what was asked for", records: good(99, 0), routes: prefixes(1), next: 101},
		{name: "offsets that are absent", records: makeBatch(100, 9, 0, []int64{2, 7}, [][]byte{route(0), route(1)}), routes: prefixes(0, 1), next: 110},
		{name: "all of a batch's records are absent", records: makeBatch(100, 9, 0, nil, nil), next: 110},
		{name: "a control batch", records: append(sealBatch(100, 0, 0x20, 1, []byte("whatever")), good(101, 0)...), routes: prefixes(0, 1), next: 103},
		{name: "the end is missing", records: append(good(100, 0), good(102, 2)[:90]...), routes: prefixes(0, 1), next: 102},
		{name: "not even a length at the end", records: append(good(100, 0), 0, 0, 0), routes: prefixes(0, 1), next: 102},
		{name: "checksum", records: append(change(good(100, 0), 90, 0xee), good(102, 2)...), reason: "batch_checksum", routes: prefixes(2, 3), next: 104},
		{name: "checksum, and a last offset beyond the log", records: append(change(good(100, 0), 23, 0x7f), good(102, 2)...), reason: "batch_checksum", routes: prefixes(2, 3), next: 104},
		{name: "checksum, and nothing after", records: change(good(100, 0), 23, 0x7f), reason: "batch_checksum", next: 101},
		{name: "length 0", records: change(change(good(100, 0), 10, 0), 11, 0), reason: "batch_length", next: 101},
		{name: "negative length", records: change(good(100, 0), 8, 0xff), reason: "batch_length", next: 101},
		{name: "length too short for its format", records: change(change(good(100, 0), 10, 0), 11, 40), reason: "batch_length", next: 101},
		{name: "length beyond the records", records: change(good(100, 0), 8, 0x10), reason: "batch_truncated", next: 102},
		{name: "an old format", records: append(change(good(100, 0), 16, 1), good(102, 2)...), reason: "batch_format", routes: prefixes(2, 3), next: 104},
		{name: "too large", records: good(100, 0)[:batchHeader], cut: true, reason: "batch_too_large", next: 102},
		{name: "a codec that is not known", records: append(seal(change(good(100, 0), 22, 5)), good(102, 2)...), reason: "batch_codec", routes: prefixes(2, 3), next: 104},
		{name: "not compressed as it says", records: append(seal(change(good(100, 0), 22, 1)), good(102, 2)...), reason: "batch_compression", routes: prefixes(2, 3), next: 104},
		{name: "more records than there are", records: append(seal(change(good(100, 0), 60, 3)), good(102, 2)...), reason: "record", routes: prefixes(0, 1, 2, 3), next: 104},
		{name: "a record beyond the batch's last offset", records: makeBatch(100, 1, 0, []int64{0, 5}, [][]byte{route(0), route(1)}), reason: "record", routes: prefixes(0), next: 102},
		{name: "a batch before what was asked for, alone", records: good(50, 0), reason: "batch_old", next: 101},
		{name: "too short for anything", records: []byte{1, 2, 3}, reason: "batch_truncated", next: 101},
	} {
		x := newBroken(t, 1<<20)
		x.p.next.Store(100)
		if err := x.fetched(x.p, 100, &fetched{high: 200, records: c.records, cut: c.cut}); err != nil {
			t.Fatal(err)
		}
		malformed := x.s.Status().Malformed
		if c.reason == "" && len(malformed) > 0 || c.reason != "" && (malformed[c.reason] != 1 || len(malformed) != 1) {
			t.Errorf("%s: malformed is %v, want %q", c.name, malformed, c.reason)
		}
		if diff := cmp.Diff(c.routes, x.routes); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if got := x.p.next.Load(); got != c.next {
			t.Errorf("%s: %d is next, want %d", c.name, got, c.next)
		}
	}
}

// What a former leader's connection brings late is not taken twice.
func TestLateAnswer(t *testing.T) {
	x := newBroken(t, 1<<20)
	records := makeBatch(100, 0, 0, []int64{0}, [][]byte{newRouter(1, 64496).route(t, 0)})
	x.p.next.Store(100)
	for range 2 {
		if err := x.fetched(x.p, 100, &fetched{high: 200, records: records}); err != nil {
			t.Fatal(err)
		}
	}
	if len(x.routes) != 1 || x.p.next.Load() != 101 {
		t.Errorf("%d routes; %d is next", len(x.routes), x.p.next.Load())
	}
}

// fetchAnswer is the body of an answer as kafka-go writes it, which is another's reading of the protocol than ours.
func fetchAnswer(t testing.TB, version int16, r *fetch.Response) []byte {
	var b bytes.Buffer
	if err := protocol.WriteResponse(&b, version, 1, r); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()[8:]
}

func exampleFetch() *fetch.Response {
	records := func(values ...string) protocol.RecordSet {
		var all []protocol.Record
		for _, v := range values {
			all = append(all, protocol.Record{Value: protocol.NewBytes([]byte(v))})
		}
		return protocol.RecordSet{Version: 2, Records: protocol.NewRecordReader(all...)}
	}
	return &fetch.Response{Topics: []fetch.ResponseTopic{
		{Topic: "a", Partitions: []fetch.ResponsePartition{
			{Partition: 3, HighWatermark: 7, LastStableOffset: 7, PreferredReadReplica: -1, RecordSet: records("one", "two"),
				AbortedTransactions: []fetch.ResponseTransaction{{ProducerID: 1, FirstOffset: 2}}},
			{Partition: 4, ErrorCode: 6, HighWatermark: -1, PreferredReadReplica: -1, RecordSet: records("not")},
		}},
		{Topic: "b", Partitions: []fetch.ResponsePartition{{Partition: 0, HighWatermark: 9, RecordSet: records(strings.Repeat("large", 100))}}},
	}}
}

func frameOf(b []byte) *frame {
	return &frame{in: bufio.NewReaderSize(bytes.NewReader(b), 64<<10), left: len(b)}
}

func TestFetchAnswers(t *testing.T) {
	for version := int16(minVersionFetch); version <= maxVersionFetch; version++ {
		c := &conn{Conn: noConn{}, fetchAPI: version}
		var got []string
		err := c.fetched(frameOf(fetchAnswer(t, version, exampleFetch())), 300, func(x *fetched) error {
			line := fmt.Sprintf("%s/%d code %d high %d cut %v", x.topic, x.partition, x.code, x.high, x.cut)
			if b, _, err := splitBatch(x.records); err == nil {
				b.each(b.records, func(offset int64, value []byte) error { line += fmt.Sprintf(" %d=%s", offset, value); return nil })
			}
			got = append(got, line)
			return nil
		})
		if err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		want := []string{"a/3 code 0 high 7 cut false 0=one 1=two", "a/4 code 6 high -1 cut false 0=not", "b/0 code 0 high 9 cut true"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("version %d (-want +got):\n%s", version, diff)
		}
	}
}

func exampleMetadata() *metadata.Response {
	return &metadata.Response{
		Brokers:   []metadata.ResponseBroker{{NodeID: 1, Host: "one.example", Port: 9092, Rack: "r"}, {NodeID: 2, Host: "2001:db8::2", Port: 9093}},
		ClusterID: "cluster", ControllerID: 1,
		Topics: []metadata.ResponseTopic{
			{Name: "wanted", Partitions: []metadata.ResponsePartition{
				{PartitionIndex: 0, LeaderID: 1, ReplicaNodes: []int32{1, 2}, IsrNodes: []int32{1}}, {PartitionIndex: 1, LeaderID: -1, ErrorCode: 5}}},
			{Name: "other", Partitions: []metadata.ResponsePartition{{PartitionIndex: 0, LeaderID: 2}}},
			{Name: "wanted too", ErrorCode: 3},
		},
	}
}

func metadataAnswer(t testing.TB) []byte {
	var b bytes.Buffer
	if err := protocol.WriteResponse(&b, versionMetadata, 1, exampleMetadata()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()[8:]
}

func TestMetadataAnswer(t *testing.T) {
	wanted := func(topic string) bool { return strings.HasPrefix(topic, "wanted") }
	got, err := frameOf(metadataAnswer(t)).cluster(wanted, 2)
	if err != nil {
		t.Fatal(err)
	}
	want := &cluster{"cluster", map[int32]string{1: "one.example:9092", 2: "[2001:db8::2]:9093"}, map[topicPartition]int32{{"wanted", 0}: 1, {"wanted", 1}: -1}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(cluster{}, topicPartition{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	b := metadataAnswer(t)
	for n := range b {
		if _, err := frameOf(b[:n]).cluster(wanted, 2); err == nil {
			t.Errorf("cut after %d octets it is in order", n)
		}
	}
}

func FuzzMetadata(f *testing.F) {
	f.Add(metadataAnswer(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := frameOf(b).cluster(func(string) bool { return true }, 100)
		if err == nil && len(m.leaders) > 100 {
			t.Fatalf("%d partitions", len(m.leaders))
		}
	})
}

// FuzzFetch reads an answer with records, of whatever version, and takes in what is found of one partition.
func FuzzFetch(f *testing.F) {
	a := newRouter(1, 64496)
	for version := int16(minVersionFetch); version <= maxVersionFetch; version++ {
		f.Add(byte(version), fetchAnswer(f, version, exampleFetch()))
	}
	r := exampleFetch()
	var records []protocol.Record
	for n := range 3 {
		records = append(records, protocol.Record{Value: protocol.NewBytes(a.route(f, n))})
	}
	r.Topics[0].Partitions[0].RecordSet = protocol.RecordSet{Version: 2, Records: protocol.NewRecordReader(records...)}
	f.Add(byte(maxVersionFetch), fetchAnswer(f, maxVersionFetch, r))
	f.Fuzz(func(t *testing.T, version byte, b []byte) {
		const most = 4096
		x := newBroken(t, most)
		c := &conn{Conn: noConn{}, fetchAPI: minVersionFetch + int16(version)%(maxVersionFetch-minVersionFetch+1)}
		var before int64
		err := c.fetched(frameOf(b), most, func(g *fetched) error {
			if len(g.records) > most {
				t.Fatalf("%d octets of records", len(g.records))
			}
			if before = x.p.next.Load(); before < 0 {
				before = 0
				x.p.next.Store(0)
			}
			err := x.fetched(x.p, before, g)
			if next := x.p.next.Load(); g.code == 0 && len(g.records) > 0 && next <= before {
				t.Fatalf("after %d, %d is next", before, next)
			}
			return err
		})
		if stop, ok := errors.AsType[*handlerError](err); ok {
			t.Fatal(stop)
		}
	})
}

// FuzzRecords takes in records whose checksums are right.
func FuzzRecords(f *testing.F) {
	a := newRouter(1, 64496)
	for codec := range compress.Compression(5) {
		f.Add(byte(codec), squeeze(codec, makeBatch(0, 1, 0, []int64{0, 1}, [][]byte{a.route(f, 0), a.route(f, 1)})[batchHeader:]))
	}
	f.Fuzz(func(t *testing.T, codec byte, records []byte) {
		x := newBroken(t, 1<<16)
		b := sealBatch(0, 10, uint16(codec), 5, records)
		if err := x.fetched(x.p, 0, &fetched{high: 100, records: b}); err != nil {
			t.Fatal(err)
		}
		if got := x.p.next.Load(); got != 11 {
			t.Fatalf("%d is next", got)
		}
		if x.decompressor.out.Cap() > 1<<20 {
			t.Fatalf("%d octets are held", x.decompressor.out.Cap())
		}
	})
}
