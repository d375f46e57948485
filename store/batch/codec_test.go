package batch

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store/storetest"
)

func encode(t testing.TB, b *ingest.Batch) []byte {
	t.Helper()
	e := NewEncoder()
	body, _, err := e.Encode(nil, b)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func diffBatches(a, b *ingest.Batch) string {
	return cmp.Diff(a, b, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}))
}

func TestBatchRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		b := storetest.Batch(r, ingest.Time(rapid.Int64Range(-1e18, 1e18).Draw(t, "time")), rapid.IntRange(0, 50).Draw(t, "updates"))
		e := NewEncoder()
		e.Quick = rapid.Bool().Draw(t, "quick")
		body, sum, err := e.Encode([]byte("before"), b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(bytes.TrimPrefix(body, []byte("before")))
		if err != nil {
			t.Fatal(err)
		}
		if d := diffBatches(b, got); d != "" {
			t.Fatal(d)
		}
		for _, u := range b.Updates {
			if u.Time < sum.MinTime || u.Time > sum.MaxTime {
				t.Fatalf("time %v outside of the summary's %v to %v", u.Time, sum.MinTime, sum.MaxTime)
			}
		}
	})
}

func TestBatchRoundTripOfExtremes(t *testing.T) {
	v6 := netip.MustParseAddr("2001:db8::1")
	tests := map[string]ingest.Update{
		"zero":                {},
		"earliest":            {Time: math.MinInt64},
		"latest":              {Time: math.MaxInt64},
		"no address":          {Peer: ingest.Peer{Collector: "c", ASN: math.MaxUint32}},
		"another view":        {Peer: ingest.Peer{View: ingest.LocRIB}},
		"zone":                {Peer: ingest.Peer{Addr: netip.MustParseAddr("fe80::1%eth0")}},
		"mapped address":      {Peer: ingest.Peer{Addr: netip.MustParseAddr("::ffff:192.0.2.1")}},
		"no prefix":           {Withdrawn: []bgp.NLRI{{}}},
		"default routes":      {Announced: []bgp.NLRI{{Prefix: netip.PrefixFrom(netip.IPv4Unspecified(), 0)}, {Prefix: netip.PrefixFrom(netip.IPv6Unspecified(), 0)}}},
		"host routes":         {Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("255.255.255.255/32")}, {Prefix: netip.PrefixFrom(v6, 128)}}},
		"odd lengths":         {Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("10.64.0.0/11")}, {Prefix: netip.MustParsePrefix("2001:db8:8000::/33")}}},
		"mapped prefix":       {Announced: []bgp.NLRI{{Prefix: netip.PrefixFrom(netip.MustParseAddr("::ffff:192.0.2.0"), 120)}}},
		"path ids":            {Announced: []bgp.NLRI{{PathID: 0}, {PathID: math.MaxUint32}}, Withdrawn: []bgp.NLRI{{PathID: 7}}},
		"attributes alone":    {Attrs: bgp.Attributes{Has: bgp.HasMED, MED: 0}},
		"link-local alone":    {Attrs: bgp.Attributes{LinkLocal: v6}},
		"empty path":          {Attrs: bgp.Attributes{Has: bgp.HasASPath}},
		"empty segment":       {Attrs: bgp.Attributes{Has: bgp.HasASPath, ASPath: bgp.ASPath{{Type: bgp.ASSet}}}},
		"unknown segment":     {Attrs: bgp.Attributes{Has: bgp.HasASPath, ASPath: bgp.ASPath{{Type: 250, ASNs: []uint32{0, math.MaxUint32}}}}},
		"largest numbers":     {Attrs: bgp.Attributes{Has: bgp.HasAIGP | bgp.HasExtCommunities, AIGP: math.MaxUint64, ExtCommunities: []uint64{math.MaxUint64}}},
		"every known bit":     {Attrs: bgp.Attributes{Has: knownBits}},
		"large unknown value": {Attrs: bgp.Attributes{Unknown: []bgp.RawAttribute{{Flags: 255, Type: 255, Value: make([]byte, 65535)}}}},
	}
	for name, u := range tests {
		t.Run(name, func(t *testing.T) {
			b := &ingest.Batch{Watermark: -1, Updates: []ingest.Update{u, u}}
			got, err := Decode(encode(t, b))
			if err != nil {
				t.Fatal(err)
			}
			if d := diffBatches(b, got); d != "" {
				t.Fatal(d)
			}
		})
	}
}

// A list that the decoder would refuse must not be stored.
func TestEncodeRefuses(t *testing.T) {
	tests := map[string]ingest.Update{
		"too many prefixes":       {Withdrawn: make([]bgp.NLRI, maxElements+1)},
		"a segment too long":      {Attrs: bgp.Attributes{Has: bgp.HasASPath, ASPath: bgp.ASPath{{ASNs: make([]uint32, maxElements+1)}}}},
		"a value too long":        {Attrs: bgp.Attributes{Unknown: []bgp.RawAttribute{{Value: make([]byte, maxElements+1)}}}},
		"a collector's long name": {Peer: ingest.Peer{Collector: string(make([]byte, maxString+1))}},
		"an unknown kind":         {Kind: 16},
		"an unknown view":         {Peer: ingest.Peer{View: ingest.LocRIB + 1}},
		"an unknown attribute":    {Attrs: bgp.Attributes{Has: knownBits + 1}},
	}
	for name, u := range tests {
		t.Run(name, func(t *testing.T) {
			e := NewEncoder()
			if _, _, err := e.Encode(nil, &ingest.Batch{Updates: []ingest.Update{u}}); err == nil {
				t.Fatal("it is accepted")
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := encode(t, storetest.Batch(rand.New(rand.NewPCG(1, 1)), 0, 20))
	bomb, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer bomb.Close()
	raw := func(b ...byte) []byte { return append([]byte{formatVersion, methodRaw}, b...) }
	tests := map[string][]byte{
		"nothing":                    nil,
		"a later version":            append([]byte{formatVersion + 1}, good[1:]...),
		"an unknown method":          append([]byte{formatVersion, 9}, good[2:]...),
		"no watermark":               raw(),
		"more updates than bytes":    raw(0, 200, 1),
		"more updates than bounds":   raw(0, 255, 255, 255, 255, 15),
		"a peer that is not there":   raw(0, 1, 0, 0, 7, 0, 0, 0),
		"a prefix length of 40":      raw(0, 1, 0, 0, 0, 0, 0, 0, 1, 40, 0, 0, 0, 0, 0),
		"bytes after the end":        raw(0, 0, 0),
		"a bomb":                     bomb.EncodeAll(make([]byte, maxPayload+1), []byte{formatVersion, methodZstd}),
		"damage within the body":     flip(good, len(good)/2),
		"a body without its end":     good[:len(good)-5],
		"a body without its payload": good[:2],
	}
	for name, body := range tests {
		t.Run(name, func(t *testing.T) {
			if b, err := Decode(body); err == nil || !errors.Is(err, errBody) || b != nil {
				t.Fatalf("batch %v, error %v, want only %v", b, err, errBody)
			}
		})
	}
}

func flip(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 0x55
	return b
}

// FuzzDecode holds that any payload is either refused or one that encodes to what it decoded to.
func FuzzDecode(f *testing.F) {
	for seed := range uint64(8) {
		body := encode(f, storetest.Batch(rand.New(rand.NewPCG(seed, 0)), 0, int(seed)*3))
		payload, err := Decompress(nil, body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		b, err := Decode(append([]byte{formatVersion, methodRaw}, payload...))
		if err != nil {
			return
		}
		again, err := Decode(encode(t, b))
		if err != nil {
			t.Fatal(err)
		}
		if d := diffBatches(b, again); d != "" {
			t.Fatal(d)
		}
	})
}

// FuzzDecompress holds that no body makes the decoder crash or grow beyond its bound.
func FuzzDecompress(f *testing.F) {
	f.Add(encode(f, storetest.Batch(rand.New(rand.NewPCG(1, 0)), 0, 30)))
	f.Add([]byte{formatVersion, methodRaw})
	f.Fuzz(func(t *testing.T, body []byte) {
		if p, err := Decompress(nil, body); err == nil && len(p) > maxPayload {
			t.Fatalf("%d bytes", len(p))
		}
	})
}

func TestEncodeDoesNotAllocate(t *testing.T) {
	b := storetest.Batch(rand.New(rand.NewPCG(1, 0)), 0, 200)
	e := NewEncoder()
	var body []byte
	encode := func() { body, _, _ = e.Encode(body[:0], b) }
	for range 20 { // the compressor has several states to grow
		encode()
	}
	if n := testing.AllocsPerRun(50, encode); n > 0 {
		t.Errorf("%v allocations a batch, want none once the buffers have grown", n)
	}
}

func TestOnPath(t *testing.T) {
	for _, tt := range []struct {
		path, asn string
		want      bool
	}{
		{"", "1", false}, {"1", "1", true}, {"11 21 12", "1", false}, {"11 1", "1", true}, {"1 11", "1", true}, {"111 {2,1}", "1", true}, {"64500 (1 2)", "2", true},
		{"[3,4] 5", "3", true}, {"164500 645001", "64500", false},
	} {
		if got := OnPath([]byte(tt.path), tt.asn); got != tt.want {
			t.Errorf("AS %s on %q: %t, want %t", tt.asn, tt.path, got, tt.want)
		}
	}
}
