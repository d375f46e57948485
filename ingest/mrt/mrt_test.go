package mrt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"pgregory.net/rapid"
)

var compare = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

func genPeer(t *rapid.T) ingest.Peer {
	n := rapid.IntRange(0, 5).Draw(t, "peer")
	p := ingest.Peer{Collector: "rrc00", ASN: 64500 + uint32(n)*1000000, Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})}
	if n%2 == 1 {
		p.Addr = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(n)})
	}
	return p
}

func genUpdate(t *rapid.T) ingest.Update {
	u := ingest.Update{
		Time: ingest.Time(rapid.Int64Range(0, 0xffffffff*1e6).Draw(t, "time")),
		Peer: genPeer(t),
		Kind: rapid.SampledFrom([]ingest.Kind{ingest.Routes, ingest.Routes, ingest.PeerUp, ingest.PeerDown}).Draw(t, "kind"),
	}
	if u.Kind != ingest.Routes {
		return u
	}
	v6, addPath := rapid.Bool().Draw(t, "IPv6"), rapid.Bool().Draw(t, "add-path")
	routes := func(label string, least int) (routes []bgp.NLRI) {
		for range rapid.IntRange(least, 4).Draw(t, label) {
			addr := netip.AddrFrom4([4]byte{10, rapid.Byte().Draw(t, "octet")})
			if v6 {
				addr = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, rapid.Byte().Draw(t, "octet")})
			}
			r := bgp.NLRI{Prefix: netip.PrefixFrom(addr, rapid.IntRange(16, 32).Draw(t, "bits")).Masked()}
			if addPath {
				r.PathID = rapid.Uint32Min(1).Draw(t, "path ID")
			}
			routes = append(routes, r)
		}
		return routes
	}
	u.Withdrawn = routes("withdrawn", 0)
	if u.Announced = routes("announced", 0); len(u.Announced) > 0 {
		u.Attrs = genAttrs(t, v6)
	} else if len(u.Withdrawn) == 0 {
		u.Withdrawn = routes("withdrawn", 1)
	}
	return u
}

func genAttrs(t *rapid.T, v6 bool) bgp.Attributes {
	a := bgp.Attributes{
		Has:     bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop | bgp.HasCommunities,
		ASPath:  bgp.ASPath{{Type: bgp.ASSequence, ASNs: rapid.SliceOfN(rapid.Uint32Min(1), 1, 6).Draw(t, "path")}},
		NextHop: netip.MustParseAddr("192.0.2.1"), Communities: []uint32{rapid.Uint32().Draw(t, "community")},
	}
	if v6 {
		a.NextHop = netip.MustParseAddr("2001:db8::1")
	}
	return a
}

// readAll reads until the end and keeps copies.
func readAll(r *Reader) (updates []ingest.Update, damaged []*RecordError, err error) {
	for {
		u, err := r.Next()
		if e, ok := errors.AsType[*RecordError](err); ok {
			damaged = append(damaged, e)
			continue
		}
		if err == io.EOF {
			return updates, damaged, nil
		}
		if err != nil {
			return updates, damaged, err
		}
		updates = append(updates, u.Clone())
	}
}

func TestUpdatesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.Custom(genUpdate), 1, 20).Draw(t, "updates")
		var file bytes.Buffer
		w := NewWriter(&file)
		for i := range want {
			if err := w.Update(&want[i]); err != nil {
				t.Fatal(err)
			}
		}
		got, damaged, err := readAll(NewReader(&file, "test", "rrc00"))
		if err != nil || len(damaged) > 0 {
			t.Fatal(err, damaged)
		}
		if diff := cmp.Diff(want, got, compare...); diff != "" {
			t.Fatalf("-want +got\n%s", diff)
		}
	})
}

func TestTableRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		taken := ingest.Time(1.7e15)
		var want []ingest.Update
		for i := range rapid.IntRange(0, 30).Draw(t, "rows") {
			v6 := rapid.Bool().Draw(t, "IPv6")
			prefix := netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", i))
			if v6 {
				prefix = netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::/48", i))
			}
			id := rapid.Uint32Range(0, 2).Draw(t, "path ID")
			for range rapid.IntRange(1, 3).Draw(t, "peers") {
				want = append(want, ingest.Update{Time: taken, Kind: ingest.RIB, Peer: genPeer(t),
					Announced: []bgp.NLRI{{Prefix: prefix, PathID: id}}, Attrs: genAttrs(t, v6)})
			}
		}
		var file bytes.Buffer
		if err := NewWriter(&file).RIB(taken, "view", want); err != nil {
			t.Fatal(err)
		}
		got, damaged, err := readAll(NewReader(&file, "test", "rrc00"))
		if err != nil || len(damaged) > 0 {
			t.Fatal(err, damaged)
		}
		if diff := cmp.Diff(want, got, compare...); diff != "" {
			t.Fatalf("-want +got\n%s", diff)
		}
	})
}

// sample is a file of n updates, one record each, and the offsets of the records.
func sample(t testing.TB, n int) (file []byte, offsets []int) {
	var b bytes.Buffer
	w := NewWriter(&b)
	for i := range n {
		offsets = append(offsets, b.Len())
		err := w.Update(&ingest.Update{
			Time:      ingest.Time(1.7e15 + i*1e6),
			Peer:      ingest.Peer{ASN: 64500, Addr: netip.MustParseAddr("192.0.2.1")},
			Announced: []bgp.NLRI{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i)}), 24)}},
			Attrs: bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: netip.MustParseAddr("192.0.2.1"),
				ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{64500, 64501, 64502}}}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes(), append(offsets, b.Len())
}

// TestDamage damages record 3 of 10 and expects all others, but for one where the damage reaches.
func TestDamage(t *testing.T) {
	for _, row := range []struct {
		name   string
		damage func(file []byte, at, end int) []byte
		reason string
		lost   int
	}{
		{"a length that reaches into the next record", func(f []byte, at, end int) []byte { f[at+11] += 20; return f }, "octets_after_message", 0},
		{"a length that ends too early", func(f []byte, at, end int) []byte { f[at+11] -= 20; return f }, "message_length", 1},
		{"a length beyond the bound", func(f []byte, at, end int) []byte { f[at+8] = 0xff; return f }, "length", 1},
		{"a length beyond the file", func(f []byte, at, end int) []byte { f[at+9] = 0x0f; return f }, "truncated", 1},
		{"an unknown type", func(f []byte, at, end int) []byte { f[at+5] = 99; return f }, "", 1},
		{"a marker that is wrong", func(f []byte, at, end int) []byte { f[at+headerLength+20] = 0; return f }, "marker", 1},
		{"octets missing", func(f []byte, at, end int) []byte { return slices.Delete(f, at+20, at+33) }, "", 1},
		{"octets too many", func(f []byte, at, end int) []byte { return slices.Insert(f, at+30, make([]byte, 11)...) }, "", 1},
		{"a record of zeros", func(f []byte, at, end int) []byte { clear(f[at:end]); return f }, "header", 1},
		{"rubbish between records", func(f []byte, at, end int) []byte {
			return slices.Insert(f, at, bytes.Repeat([]byte("rubbish"), 1000)...)
		}, "", 0},
	} {
		t.Run(row.name, func(t *testing.T) {
			file, offsets := sample(t, 10)
			whole, _, _ := readAll(NewReader(bytes.NewReader(file), "test", ""))
			file = row.damage(slices.Clone(file), offsets[3], offsets[4])
			r := NewReader(bytes.NewReader(file), "test", "")
			got, damaged, err := readAll(r)
			if err != nil {
				t.Fatal(err)
			}
			counts := r.Counts()
			switch {
			case row.reason != "" && counts.Malformed[row.reason] != 1:
				t.Errorf("malformed: %v; want one %q", counts.Malformed, row.reason)
			case row.reason == "" && len(counts.Malformed)+len(counts.Skipped) == 0:
				t.Error("the damage goes unnoticed")
			}
			for _, e := range damaged {
				if e.File != "test" || e.Offset != int64(offsets[3]) {
					t.Errorf("%v: want offset %d", e, offsets[3])
				}
			}
			want := slices.Delete(slices.Clone(whole), 3, 3+row.lost)
			if diff := cmp.Diff(want, got, compare...); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}
