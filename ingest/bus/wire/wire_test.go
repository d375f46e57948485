package wire

import (
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

var compare = cmp.Options{cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })}

type indexed struct {
	Index  uint64
	Update ingest.Update
}

func decode(frame []byte) (Header, []indexed, error) {
	var d Decoder
	h, err := d.Open(frame)
	if err != nil {
		return h, nil, err
	}
	var all []indexed
	for {
		index, u, err := d.Next()
		if err == io.EOF {
			return h, all, nil
		}
		if err != nil {
			return h, all, err
		}
		all = append(all, indexed{index, u.Clone()})
	}
}

func octets(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Written by hand from FORMAT.md.
var golden = []struct {
	name, frame string
	header      Header
	updates     []indexed
}{
	{"empty", `01 0102030405060708 07 d00f 00 00 00`, Header{Writer: 0x0102030405060708, Round: 7, Watermark: 1000}, nil},
	{"an announcement", `01 0102030405060708 01 d00f 01
		01 05 7272633030 04 c0000201 00 f4f703 00
		01 14 40010100 4002060201 0000fbf4 400304c0000201
		00 00 13 00 02 18 c63364 00`,
		Header{Writer: 0x0102030405060708, Round: 1, Watermark: 1000, Updates: 1},
		[]indexed{{0, ingest.Update{Time: 990, Peer: ingest.Peer{Collector: "rrc00", Addr: netip.MustParseAddr("192.0.2.1"), ASN: 64500},
			Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("198.51.100.0/24")}},
			Attrs: bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: netip.MustParseAddr("192.0.2.1"),
				ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{64500}}}}}}}},
	{"a withdrawal with path identifiers, and a session's end", `01 0000000000000001 01 00 02
		01 00 10 fe800000000000000000000000000001 04 65746830 01 04
		00
		05 00 02 05 60 ac02 20010db8 0c 00 0a10 00
		02 03 04`,
		Header{Writer: 1, Round: 1, Updates: 2},
		[]indexed{
			{5, ingest.Update{Time: 1, Peer: ingest.Peer{Addr: netip.MustParseAddr("fe80::1%eth0"), ASN: 1, View: ingest.LocRIB},
				Withdrawn: []bgp.NLRI{{Prefix: netip.MustParsePrefix("2001:db8::/32"), PathID: 300}, {Prefix: netip.MustParsePrefix("10.16.0.0/12")}}}},
			{7, ingest.Update{Time: 3, Kind: ingest.PeerDown, Peer: ingest.Peer{Addr: netip.MustParseAddr("fe80::1%eth0"), ASN: 1, View: ingest.LocRIB}}},
		}},
}

func encode(t testing.TB, h Header, updates []indexed) []byte {
	t.Helper()
	var e Encoder
	for _, u := range updates {
		var list []byte
		if len(u.Update.Announced) > 0 {
			var err error
			if list, err = bgp.AppendRIBAttributes(nil, &u.Update.Attrs); err != nil {
				t.Fatal(err)
			}
		}
		if err := e.Add(u.Index, &u.Update, u.Update.Withdrawn, u.Update.Announced, list); err != nil {
			t.Fatal(err)
		}
	}
	return e.AppendTo(nil, h)
}

func TestGolden(t *testing.T) {
	for _, g := range golden {
		t.Run(g.name, func(t *testing.T) {
			frame := octets(t, g.frame)
			h, updates, err := decode(frame)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(g.updates, updates, compare); diff != "" || h != g.header {
				t.Errorf("header %+v, updates -want +got\n%s", h, diff)
			}
			if b := encode(t, g.header, g.updates); string(b) != string(frame) {
				t.Errorf("encoded as %x, want %x", b, frame)
			}
		})
	}
}

func TestRefuses(t *testing.T) {
	for name, frame := range map[string]string{
		"nothing":                ``,
		"version":                `02 0000000000000001 01 00 00 00 00`,
		"something after":        `01 0000000000000001 01 00 00 00 00 00`,
		"more updates than room": `01 0000000000000001 01 00 05 00 00`,
		"more peers than room":   `01 0000000000000001 01 00 00 ffffffff0f 00`,
		"view":                   `01 0000000000000001 01 00 00 01 00 00 00 01 09 00`,
		"address":                `01 0000000000000001 01 00 00 01 00 05 0000000000 00 01 00 00`,
		"peer out of range":      `01 0000000000000001 01 00 01 00 00 00 04 00 00 00`,
		"list out of range":      `01 0000000000000001 01 00 01 01 00 00 00 01 00 00 00 00 00 00 02 08 0a 00`,
		"bits beyond the length": `01 0000000000000001 01 00 01 01 00 00 00 01 00 00 00 00 00 02 04 0a 00`,
		"length of a prefix":     `01 0000000000000001 01 00 01 01 00 00 00 01 00 00 00 00 00 02 21 0a000000 00`,
		"malformed attributes":   `01 0000000000000001 01 00 01 01 00 00 00 01 00 01 04 40010109 00 00 00 00 02 08 0a 00`,
	} {
		if _, updates, err := decode(octets(t, frame)); err == nil {
			t.Errorf("%s: taken, as %v", name, updates)
		}
	}
	frame := octets(t, golden[1].frame)
	for n := range frame {
		if _, _, err := decode(frame[:n]); err == nil {
			t.Errorf("the first %d octets of %d are taken", n, len(frame))
		}
	}
	var d Decoder
	if _, err := d.Open(make([]byte, MaxFrame+1)); err == nil {
		t.Error("a frame that is too large is taken")
	}
	if _, _, err := d.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("after an error Next returns %v", err)
	}
}

// A prefix, its more-specifics and what covers it from /8 and /16 on are in one partition, and no partition
// of a few goes without.
func TestPartition(t *testing.T) {
	for _, n := range []int{1, 3, 8, 64} {
		used := map[int]bool{}
		for i := range 224 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i)}), 8)
			at := Partition(p, n)
			if at < 0 || at >= n {
				t.Fatalf("%s is in partition %d of %d", p, at, n)
			}
			if sub := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(i), 200, 3}), 24); Partition(sub, n) != at {
				t.Errorf("%s and %s are apart", p, sub)
			}
			used[at] = true
		}
		if len(used) != n {
			t.Errorf("of %d partitions %d are used", n, len(used))
		}
	}
	if a, b := netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2001:db8:ffff::/48"); Partition(a, 64) != Partition(b, 64) {
		t.Errorf("%s and %s are apart", a, b)
	}
}

func FuzzDecode(f *testing.F) {
	for _, g := range golden {
		b, err := hex.DecodeString(strings.Join(strings.Fields(g.frame), ""))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, updates, err := decode(frame)
		if err != nil {
			return
		}
		if len(updates) != h.Updates {
			t.Fatalf("%d updates, the header says %d", len(updates), h.Updates)
		}
		again := encode(t, h, updates)
		h2, updates2, err := decode(again)
		if err != nil {
			t.Fatalf("what was encoded anew is refused: %v", err)
		}
		if diff := cmp.Diff(updates, updates2, compare); diff != "" || h != h2 {
			t.Fatalf("-before +after\n%s", diff)
		}
	})
}

// world makes updates as a full feed has them: few peers, paths that several updates share.
func world(n int) []ingest.Update {
	updates := make([]ingest.Update, n)
	for i := range updates {
		peer := uint32(i % 37)
		u := &updates[i]
		u.Time = ingest.Time(1_700_000_000_000_000 + int64(i)*61)
		u.Peer = ingest.Peer{Collector: "rrc00", Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(peer)}), ASN: 64500 + peer}
		path := uint32(i*2654435761) >> 20
		x := uint32(i * 40503)
		u.Announced = []bgp.NLRI{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(x >> 16), byte(x >> 8), byte(x)}), 24)}}
		u.Attrs = bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop | bgp.HasCommunities, NextHop: u.Peer.Addr,
			ASPath:      bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{u.Peer.ASN, 3356, 1299 + path%7, 100000 + path}}},
			Communities: []uint32{u.Peer.ASN<<16 | 100, 3356<<16 | path%50}}
	}
	return updates
}

func BenchmarkEncode(b *testing.B) {
	updates := world(4096)
	var e Encoder
	var list, frame []byte
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		e.Reset()
		for i := range updates {
			u := &updates[i]
			list, _ = bgp.AppendRIBAttributes(list[:0], &u.Attrs)
			if err := e.Add(uint64(i), u, u.Withdrawn, u.Announced, list); err != nil {
				b.Fatal(err)
			}
		}
		frame = e.AppendTo(frame[:0], Header{Round: 1, Watermark: updates[len(updates)-1].Time})
		n += len(updates)
	}
	b.ReportMetric(float64(len(frame))/float64(len(updates)), "B/update")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/update")
}

func BenchmarkDecode(b *testing.B) {
	var all []indexed
	for i, u := range world(4096) {
		all = append(all, indexed{uint64(i), u})
	}
	frame := encode(b, Header{Round: 1}, all)
	var d Decoder
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if _, err := d.Open(frame); err != nil {
			b.Fatal(err)
		}
		for {
			_, _, err := d.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/update")
}

func TestEncodingAllocatesNothing(t *testing.T) {
	updates := world(200)
	var e Encoder
	var list, frame []byte
	encode := func() {
		e.Reset()
		for i := range updates {
			u := &updates[i]
			list, _ = bgp.AppendRIBAttributes(list[:0], &u.Attrs)
			if err := e.Add(uint64(i), u, u.Withdrawn, u.Announced, list); err != nil {
				t.Fatal(err)
			}
		}
		frame = e.AppendTo(frame[:0], Header{Round: 1})
	}
	for range 3 { // memory grows
		encode()
	}
	if n := testing.AllocsPerRun(100, encode); n > 0 {
		t.Errorf("%v allocations for %d updates", n, len(updates))
	}
}

func TestDecodingAllocatesNothing(t *testing.T) {
	var all []indexed
	for i, u := range world(200) {
		all = append(all, indexed{uint64(i), u})
	}
	frame := encode(t, Header{Round: 1}, all)
	var d Decoder
	read := func() {
		if _, err := d.Open(frame); err != nil {
			t.Fatal(err)
		}
		for {
			if _, _, err := d.Next(); err == io.EOF {
				return
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	read()
	if n := testing.AllocsPerRun(20, read); n > 0 {
		t.Errorf("%v allocations to decode 200 updates, want none", n)
	}
}
