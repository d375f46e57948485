package registry

import (
	"compress/gzip"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// statistics is a file as an RIR writes it, with what is peculiar: a block that is no CIDR block,
// neighbouring blocks of one holder, a record without date, AS numbers in blocks.
const statistics = `# made up
2.3|ripencc|20260101|12|19830613|20251231|+0100
ripencc|*|asn|*|3|summary
ripencc|*|ipv4|*|6|summary
ripencc|*|ipv6|*|3|summary
ripencc|NL|asn|3333|1|19930901|allocated|holder-a|e-stats
ripencc|DE|asn|200000|8|20130101|allocated|holder-b
ripencc||asn|210000|100||available|
ripencc|NL|ipv4|185.0.0.0|768|20120914|allocated|holder-a
ripencc|NL|ipv4|185.0.3.0|256|20200101|assigned|holder-a
ripencc|FR|ipv4|185.0.4.0|1024|20120917|allocated|holder-c
ripencc||ipv4|185.0.8.0|2048||reserved|
ripencc|ZZ|ipv4|185.0.16.0|4096|00000000|available
ripencc|EU|ipv4|185.0.32.0|256|20010101|assigned|holder-d
ripencc|NL|ipv6|2a00:8000::|29|20110101|allocated|holder-a
ripencc|GB|ipv6|2a00:8008::|32|20110102|allocated|holder-b
ripencc||ipv6|2a00:9000::|20||available|
`

func TestLookups(t *testing.T) {
	s, err := Read(strings.NewReader(statistics), "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, want string
	}{
		{"185.0.0.0/23", "allocated ripencc NL holder-a 2012-09-14"},
		{"185.0.2.0/24", "allocated ripencc NL holder-a 2012-09-14"},
		{"185.0.3.0/24", "assigned ripencc NL holder-a 2020-01-01"},
		{"185.0.0.0/22", "allocated ripencc NL holder-a 2012-09-14"}, // two blocks, one holder
		{"185.0.0.0/21", "allocated ripencc NL  2012-09-14"},         // two holders
		{"185.0.0.0/20", "mixed ripencc NL  2012-09-14"},
		{"185.0.8.0/21", "reserved ripencc    0001-01-01"},
		{"185.0.16.0/24", "available ripencc    0001-01-01"},
		{"185.0.32.0/24", "assigned ripencc EU holder-d 2001-01-01"},
		{"185.0.32.0/23", "mixed ripencc EU holder-d 2001-01-01"}, // no record speaks of its second half
		{"185.0.33.0/24", "unknown     0001-01-01"},
		{"184.255.255.0/24", "unknown     0001-01-01"},
		{"2a00:8000::/32", "allocated ripencc NL holder-a 2011-01-01"},
		{"2a00:8007:ffff::/48", "allocated ripencc NL holder-a 2011-01-01"},
		{"2a00:8000::1/128", "allocated ripencc NL holder-a 2011-01-01"},
		{"2a00:8009::/32", "unknown     0001-01-01"},
		{"2a00:9000::/20", "available ripencc    0001-01-01"},
		{"2a00:8000::/19", "mixed ripencc NL  2011-01-01"},
		{"AS3333", "allocated ripencc NL holder-a 1993-09-01"},
		{"AS200007", "allocated ripencc DE holder-b 2013-01-01"},
		{"AS200008", "unknown     0001-01-01"},
		{"AS210099", "available ripencc    0001-01-01"},
	} {
		var h Holding
		if asn, ok := strings.CutPrefix(c.what, "AS"); ok {
			var n uint32
			fmt.Sscan(asn, &n)
			h = s.ASN(n)
		} else {
			h = s.Prefix(netip.MustParsePrefix(c.what))
		}
		got := fmt.Sprintf("%s %s %s %s %s", h.Status, h.Registry, h.Country, h.Holder, h.Since.Format(time.DateOnly))
		if strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(c.want), " ") {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	prefix := s.Prefix(netip.MustParsePrefix("185.0.0.0/22"))
	if !prefix.SameHolder(s.ASN(3333)) || prefix.SameHolder(s.ASN(200000)) || s.ASN(1).SameHolder(s.ASN(2)) {
		t.Error("wrong about who is the same holder")
	}
	if h := (*Set)(nil).Prefix(netip.MustParsePrefix("10.0.0.0/8")); h.Status != Unknown {
		t.Errorf("no set knows %v", h)
	}
}

// Between two files a delegation counts before a free range, and the later day before the earlier.
func TestContradictions(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		z := gzip.NewWriter(f)
		fmt.Fprint(z, text)
		if z.Close() != nil || f.Close() != nil {
			t.Fatal("not written")
		}
		return path
	}
	a := write("a", "2|arin|20260101|2|x|x|x\narin|US|ipv4|9.0.0.0|65536|19900101|allocated|old\narin||ipv4|9.1.0.0|65536||available|\n")
	b := write("b", "2|apnic|20260101|2|x|x|x\napnic|JP|ipv4|9.0.16.0|256|20250101|assigned|new\napnic|JP|ipv4|9.1.0.0|256|20250101|assigned|new\n")
	for _, order := range [][]string{{a, b}, {b, a}} {
		s, err := ReadFiles(order, order)
		if err != nil {
			t.Fatal(err)
		}
		for prefix, want := range map[string]string{"9.0.15.0/24": "old", "9.0.16.0/24": "new", "9.0.17.0/24": "old", "9.1.0.0/24": "new", "9.1.1.0/24": ""} {
			if got := s.Prefix(netip.MustParsePrefix(prefix)).Holder; got != want {
				t.Errorf("%v: %s is held by %q, want %q", order, prefix, got, want)
			}
		}
		if s.Len() != 5 {
			t.Errorf("%d ranges, want 5", s.Len())
		}
	}
}

func TestDamagedFilesAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"empty":        {"", "is empty"},
		"HTML":         {"<html>\n", "no version line"},
		"cut short":    {strings.Join(strings.Split(statistics, "\n")[:12], "\n"), "has 7 records, though its first line announces 12"},
		"malformed":    {"2|arin|1|1|a|b|c\narin|US|ipv4|9.0.0.1|4294967295|19900101|allocated|x\n", "1 of 1 records are malformed; the first: line 2"},
		"long line":    {"2|arin|1|1|a|b|c\n" + strings.Repeat("x", maxLine+1), "longer than"},
		"bad length":   {"2|arin|1|1|a|b|c\narin|US|ipv6|2a00::1|32|19900101|allocated|x\n", "bits beyond"},
		"bad registry": {"2|arin|1|1|a|b|c\nnobody|US|asn|1|1|19900101|allocated|x\n", "no registry"},
	} {
		if _, err := Read(strings.NewReader(c.text), "test"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := ReadFiles([]string{filepath.Join(t.TempDir(), "missing")}, []string{"missing"}); err == nil {
		t.Error("a missing file is no error")
	}
}

func TestSpecial(t *testing.T) {
	for prefix, want := range map[string]string{
		"10.1.2.0/24": "private use", "192.0.2.0/24": "documentation", "2001:db8:1::/48": "documentation", "fe80::/64": "link local",
		"5f00:1::/32": "segment identifiers of SRv6", "3fff:100::/24": "documentation", "::/0": "", "8.8.8.0/24": "", "192.88.99.0/24": "",
		"192.0.0.9/32": "", "192.0.0.8/32": "protocol assignments", "64:ff9b::/96": "", "2001::/32": "", "2a00::/12": "", "0.0.0.0/0": "",
	} {
		why, bogon := Bogon(netip.MustParsePrefix(prefix))
		if bogon != (want != "") || bogon && why.Name != want {
			t.Errorf("%s: %v %q, want %q", prefix, bogon, why.Name, want)
		}
	}
	for asn, want := range map[uint32]bool{0: true, 1: false, 23456: true, 64495: false, 64496: true, 64511: true, 64512: true, 65535: true, 65536: true,
		131071: true, 131072: false, 394240: false, 4199999999: false, 4200000000: true, 4294967295: true} {
		if ReservedASN(asn) != want {
			t.Errorf("AS%d: %v", asn, !want)
		}
	}
	if PrivateASN(64511) || !PrivateASN(64512) || PrivateASN(65535) || PrivateASN(4294967295) {
		t.Error("wrong about private ASNs")
	}
}

// FuzzRead reads what may be a statistics file and compares every answer at the ends of its records with
// a search through all of them.
func FuzzRead(f *testing.F) {
	f.Add([]byte(statistics))
	f.Add([]byte("2|arin|1|0|a|b|c\narin|US|ipv4|0.0.0.0|4294967296|19900101|allocated|x\narin|US|ipv4|255.0.0.0|16777216|19910101|assigned|y\n"))
	f.Add([]byte("2|arin|1|0|a|b|c\narin|US|asn|4294967295|1|19900101|allocated|x\narin|US|ipv6|::|0|19900101|allocated|x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newReader()
		if r.read(strings.NewReader(string(data))) != nil || r.records > 200 {
			return
		}
		v4, v6 := append([]span[uint32]{}, r.v4...), append([]span[uint64]{}, r.v6...)
		s := r.set("fuzz")
		check(t, s.v4, v4)
		check(t, s.v6, v6)
		for _, x := range v4 {
			s.Prefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(x.first >> 24), byte(x.first >> 16), byte(x.first >> 8), byte(x.first)}), 20))
		}
	})
}

func check[T uint32 | uint64](t *testing.T, flat, records []span[T]) {
	for i, x := range flat {
		if x.first > x.last || i > 0 && flat[i-1].last >= x.first {
			t.Fatalf("ranges overlap or stand in the wrong order: %v", flat)
		}
	}
	at := func(spans []span[T], n T) (best details, found bool) {
		for _, x := range spans {
			if x.first <= n && n <= x.last && (!found || x.precedes(best)) {
				best, found = x.details, true
			}
		}
		return best, found
	}
	for _, x := range records {
		for _, n := range []T{x.first, x.last, x.first - 1, x.last + 1} {
			want, known := at(records, n)
			if got, ok := at(flat, n); ok != known || got != want {
				t.Fatalf("%d: %v %v, want %v %v", n, got, ok, want, known)
			}
		}
	}
}

// fullSet has as many ranges as the NRO's combined file of 2026, of 120,000 holders.
func fullSet(t testing.TB) *Set {
	var b strings.Builder
	b.WriteString("2|nro|20260101|700000|x|x|x\n")
	status := []string{"allocated", "assigned", "available", "allocated"}
	for i := range 400_000 {
		fmt.Fprintf(&b, "ripencc|NL|ipv4|%d.%d.%d.0|%d|20100101|%s|holder-%030d\n", 1+i>>13, i>>5&255, i<<3&255, 256+256*(i%8), status[i%4], i%120_000)
	}
	for i := range 200_000 {
		fmt.Fprintf(&b, "apnic|JP|ipv6|2%03x:%x::|32|20110101|%s|holder-%030d\n", i>>12, i&0xfff, status[i%4], i%120_000)
	}
	for i := range 100_000 {
		fmt.Fprintf(&b, "arin|US|asn|%d|1|20120101|assigned|holder-%030d\n", i, i%120_000)
	}
	s, err := Read(strings.NewReader(b.String()), "test")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestMemory measures what all the world's delegations take.
func TestMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := fullSet(t)
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := float64(after.HeapAlloc-before.HeapAlloc) / float64(s.Len())
	t.Logf("%d ranges, %.1f bytes each, identifiers included", s.Len(), per)
	if s.Len() < 650_000 || per > 40 {
		t.Errorf("%d ranges of %.1f bytes; want more than 650,000 of at most 40", s.Len(), per)
	}
	runtime.KeepAlive(s)
}

func TestLookupsDoNotAllocate(t *testing.T) {
	s, err := Read(strings.NewReader(statistics), "test")
	if err != nil {
		t.Fatal(err)
	}
	p4, p6 := netip.MustParsePrefix("185.0.0.0/20"), netip.MustParsePrefix("2a00:8000::/32")
	if n := testing.AllocsPerRun(100, func() { s.Prefix(p4); s.Prefix(p6); s.ASN(3333) }); n != 0 {
		t.Errorf("lookups allocate %v times", n)
	}
}

func BenchmarkPrefix(b *testing.B) {
	s := fullSet(b)
	b.ReportAllocs()
	i := uint32(0)
	for b.Loop() {
		i = i*1664525 + 1013904223
		s.Prefix(netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(1 + i>>24%48), byte(i >> 16), byte(i >> 8), 0}), 24))
	}
}
