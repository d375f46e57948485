package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/mrt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// withdrawals makes an MRT file of one withdrawal for each second given, and names the file in the prefix:
// 10.n.i.0/24.
func withdrawals(t testing.TB, n int, seconds ...int) []byte {
	var b bytes.Buffer
	w := mrt.NewWriter(&b)
	for i, s := range seconds {
		err := w.Update(&ingest.Update{
			Time:      ingest.Time(s) * 1e6,
			Peer:      ingest.Peer{ASN: 64500, Addr: netip.MustParseAddr("192.0.2.1")},
			Withdrawn: []bgp.NLRI{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n), byte(i)}), 24)}},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func gz(t testing.TB, b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zst(t testing.TB, b []byte) []byte {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(b, nil)
}

// put writes files into a folder and returns their paths.
func put(t testing.TB, files ...[]byte) (paths []string) {
	dir := t.TempDir()
	for i, b := range files {
		paths = append(paths, filepath.Join(dir, fmt.Sprintf("lab%d.mrt", i)))
		if err := os.WriteFile(paths[i], b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return paths
}

// read reads everything: "second prefix" of each update, and what was reported.
func read(t testing.TB, paths []string, o Options) (updates []string, reported []error, r *Reader) {
	o.Report = func(err error) { reported = append(reported, err) }
	r, err := Open(paths, o)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for {
		u, err := r.Next()
		if err == io.EOF {
			return updates, reported, r
		}
		if err != nil {
			t.Fatal(err)
		}
		prefix := "-"
		if len(u.Withdrawn) > 0 {
			prefix = u.Withdrawn[0].Prefix.String()
		} else if len(u.Announced) > 0 {
			prefix = u.Announced[0].Prefix.String()
		}
		updates = append(updates, fmt.Sprintf("%d %s", u.Time/1e6, prefix))
	}
}

func TestMergeByTime(t *testing.T) {
	paths := put(t,
		withdrawals(t, 0, 100, 300, 300, 500),
		withdrawals(t, 1, 300, 400),
		withdrawals(t, 2, 50, 60),
		withdrawals(t, 3, 300, 200, 600), // not in order within itself
	)
	got, reported, r := read(t, paths, Options{})
	want := []string{"50 10.2.0.0/24", "60 10.2.1.0/24", "100 10.0.0.0/24", "300 10.0.1.0/24", "300 10.0.2.0/24",
		"300 10.1.0.0/24", "300 10.3.0.0/24", "200 10.3.1.0/24", "400 10.1.1.0/24", "500 10.0.3.0/24", "600 10.3.2.0/24"}
	if !slices.Equal(got, want) || len(reported) > 0 {
		t.Errorf("got %v\nwant %v\nreported %v", got, want, reported)
	}
	if n, total := r.Progress(); n != total || total == 0 {
		t.Errorf("read %d of %d octets", n, total)
	}
	if c := r.Counts(); c.Records != 11 || c.Withdrawals != 11 {
		t.Errorf("counts: %+v", c)
	}
}

func TestCompressionIsToldByContent(t *testing.T) {
	plain := withdrawals(t, 0, 1, 2, 3)
	// Neither the standard library nor the modules used can compress bzip2: these are the octets of
	// an empty file. Real ones are read by the tests of the dump command.
	emptyBzip2 := []byte("BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00")
	want := []string{"1 10.0.0.0/24", "2 10.0.1.0/24", "3 10.0.2.0/24"}
	for name, content := range map[string][]byte{
		"plain": plain, "gzip": gz(t, plain), "zstd": zst(t, plain),
		"two gzip members": append(gz(t, plain[:100]), gz(t, plain[100:])...),
	} {
		if got, reported, _ := read(t, put(t, content), Options{}); !slices.Equal(got, want) || len(reported) > 0 {
			t.Errorf("%s: %v, %v", name, got, reported)
		}
		if got, reported, _ := read(t, []string{"-"}, Options{Stdin: bytes.NewReader(content)}); !slices.Equal(got, want) || len(reported) > 0 {
			t.Errorf("%s on standard input: %v, %v", name, got, reported)
		}
	}
	// Collectors that heard nothing publish such.
	for name, content := range map[string][]byte{"gzip": gz(t, nil), "zstd": zst(t, nil), "bzip2": emptyBzip2} {
		if got, reported, _ := read(t, put(t, content), Options{}); len(got)+len(reported) > 0 {
			t.Errorf("an empty %s file: %v, %v", name, got, reported)
		}
	}
}

func TestJSONLinesAreToldByContent(t *testing.T) {
	lines := `
{"type":"ris_message","data":{"timestamp":150.25,"peer":"192.0.2.9","peer_asn":"64509","id":"x","host":"rrc00","type":"UPDATE","withdrawals":["10.9.9.0/24"]}}
{"type":"ris_message","data":
`
	paths := put(t, withdrawals(t, 0, 100, 200), gz(t, []byte(lines)))
	got, reported, r := read(t, paths, Options{})
	if want := []string{"100 10.0.0.0/24", "150 10.9.9.0/24", "200 10.0.1.0/24"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if len(reported) != 1 || !strings.Contains(reported[0].Error(), "lab1.mrt:3:") {
		t.Errorf("reported %v", reported)
	}
	if c := r.Counts(); c.Withdrawals != 3 || len(c.Malformed) != 1 {
		t.Errorf("counts: %+v", c)
	}

	m, err := OpenItems(paths[1:], Options{Report: func(err error) { reported = append(reported, err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if it, err := m.Next(); it != nil || err != io.EOF {
		t.Errorf("JSON as MRT: %v, %v", it, err)
	}
	if !errors.Is(reported[len(reported)-1], mrt.ErrNotMRT) {
		t.Errorf("reported %v", reported)
	}
}

// TestWrongFiles gives one bad file beside a good one: each is reported once, by name, and the good
// one is read.
func TestWrongFiles(t *testing.T) {
	good := withdrawals(t, 0, 1, 2, 3)
	cut := gz(t, bytes.Repeat(withdrawals(t, 7, 4), 2000))
	for _, row := range []struct {
		name    string
		content []byte
		want    string
		more    bool // the bad file has something good, too
	}{
		{"empty", nil, "empty", false},
		{"text", []byte(strings.Repeat("not routing data\n", 100)), "not an MRT file", false},
		{"a short text", []byte("hi"), "", false},
		{"gzip cut short", cut[:len(cut)-10], "unexpected EOF", true},
		{"gzip with a broken header", []byte{0x1f, 0x8b, 0, 0}, "gzip", false},
		{"zstd that is none", []byte{0x28, 0xb5, 0x2f, 0xfd, 0xff, 0xff, 0xff, 0xff}, "", false},
		{"cut within a record", withdrawals(t, 7, 4, 5)[:80], "truncated", true},
	} {
		t.Run(row.name, func(t *testing.T) {
			paths := put(t, good, row.content)
			got, reported, _ := read(t, paths, Options{})
			if len(got) < 3 || !row.more && len(got) != 3 {
				t.Errorf("got %v", got)
			}
			if len(reported) != 1 || !strings.HasPrefix(reported[0].Error(), paths[1]+": ") {
				t.Fatalf("reported %v", reported)
			}
			if e, ok := errors.AsType[*mrt.RecordError](reported[0]); !strings.Contains(reported[0].Error(), row.want) && (!ok || e.Reason != row.want) {
				t.Errorf("reported %v; want %q", reported, row.want)
			}
		})
	}
	paths := append(put(t, good), filepath.Join(t.TempDir(), "missing"))
	if got, reported, _ := read(t, paths, Options{}); len(got) != 3 || len(reported) != 1 || !strings.Contains(reported[0].Error(), "no such file") {
		t.Errorf("a missing file: %v, %v", got, reported)
	}
}

func TestWrongArguments(t *testing.T) {
	for _, paths := range [][]string{nil, {"-", "-"}} {
		if _, err := Open(paths, Options{}); err == nil {
			t.Errorf("Open(%q) succeeds", paths)
		}
	}
}

// TestCloseInTheMiddle relies on goleak to find what goes on.
func TestCloseInTheMiddle(t *testing.T) {
	big := bytes.Repeat(withdrawals(t, 0, 1), 100_000)
	r, err := Open(put(t, big, zst(t, big), gz(t, big)), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	r.Close()
}

func TestCheck(t *testing.T) {
	whole := withdrawals(t, 1, 1, 2, 3)
	flipped := bytes.Clone(gz(t, whole))
	flipped[len(flipped)/2] ^= 0x40
	for _, row := range []struct {
		name string
		file []byte
		n    int
		want string // of the error
	}{
		{"plain", whole, len(whole), ""},
		{"gzip", gz(t, whole), len(whole), ""},
		{"zstd", zst(t, whole), len(whole), ""},
		{"nothing", nil, 0, ""},
		{"nothing, compressed", gz(t, nil), 0, ""},
		{"a page", []byte("<!DOCTYPE html><title>Sorry</title>"), 0, "not an MRT file"},
		{"a page, compressed", gz(t, []byte("<!DOCTYPE html><title>Sorry</title>")), 0, "not an MRT file"},
		{"cut off", gz(t, whole)[:len(gz(t, whole))-4], 0, "cut off"},
		{"cut off in the header", gz(t, whole)[:5], 0, "unexpected EOF"},
		{"a bit changed", flipped, 0, "damaged"},
		{"too large", gz(t, bytes.Repeat(whole, 1<<20/len(whole)*9)), 0, "expands to more than 1048576 octets"},
	} {
		t.Run(row.name, func(t *testing.T) {
			n, err := Check(t.Context(), put(t, row.file)[0], 1<<20)
			if row.want == "" && (err != nil || n != int64(row.n)) {
				t.Errorf("%d, %v; want %d octets", n, err, row.n)
			}
			if row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
				t.Errorf("error %v, want one with %q", err, row.want)
			}
		})
	}
	if _, err := Check(t.Context(), filepath.Join(t.TempDir(), "missing"), 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

func TestCollectorOf(t *testing.T) {
	for path, want := range map[string]string{
		"data.ris.ripe.net/rrc21/2024.01/updates.20240101.0000.gz":                              "rrc21",
		"ris.rrc06.updates.1427846400.gz":                                                       "rrc06",
		"archive.routeviews.org/route-views3/bgpdata/2024.01/UPDATES/updates.20240101.0000.bz2": "route-views3",
		"archive.routeviews.org/route-views.sg/bgpdata/2024.01/RIBS/rib.20240101.0000.bz2":      "route-views.sg",
		"archive.routeviews.org/amsix.ams/bgpdata/2024.01/UPDATES/updates.20240101.0000.bz2":    "amsix.ams",
		"archive.routeviews.org/bgpdata/2024.01/UPDATES/updates.20240101.0000.bz2":              "route-views2",
		"routeviews.route-views.jinx.ribs.1401487200.bz2":                                       "route-views.jinx",
		"route-views2.updates.20260222.1530.bz2":                                                "route-views2",
		"archive/routeviews/crix.sjo/2024.01/rib.20240101.0000.bz2":                             "crix.sjo",
		"routeviews/bgpdata/2024.01/updates.20240101.0000.bz2":                                  "routeviews",
		"/2024.01/updates.20240101.0000.bz2":                                                    "",
		"a/lab.rib.mrt.gz":                                                                      "lab",
		"b/lab.updates.20240101.1200":                                                           "lab",
		"updates.20240101.0000.gz":                                                              "",
		"bview.20240101.0000.gz":                                                                "",
		"-":                                                                                     "",
		"/srv/lab1/dump/router-7.json":                                                          "router-7",
	} {
		if got := CollectorOf(path); got != want {
			t.Errorf("CollectorOf(%q) = %q, want %q", path, got, want)
		}
	}
}
