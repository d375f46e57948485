package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/mrt"
)

// dump runs the command.
func dump(t testing.TB, c DumpCmd) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	err = c.Run(&Globals{Context: t.Context(), Stdout: &out, Stderr: &errs})
	return out.String(), errs.String(), err
}

// bgpdumpErrors are the ways in which bgpdump 1.6.2 is wrong, by file. Each function makes both
// outputs alike by leaving out, or undoing, just that.
var bgpdumpErrors = map[string]func(theirs, ours []string) ([]string, []string){
	// Of MRTD's announcements it prints no separator before the communities, so that MED and the first
	// community run together and the fields after them are one off. Of MRTD's withdrawals it prints
	// the peer's address in place of the prefix's.
	"updates.19990903.1041.gz": undoMRTD,
	"updates.20000102.2014.gz": undoMRTD,
	// The messages have path identifiers (RFC 7911) though their records do not say so. It takes each
	// for prefixes: two default routes and more.
	"bird_bgp":                 withoutUnmarkedAddPath,
	"bird6_bgp":                withoutUnmarkedAddPath,
	"routeviews-et-sample.mrt": withoutUnmarkedAddPath,
	// One AGGREGATOR has 8 octets where AS numbers have two; RFC 7606 §7.7 discards it. It reads an
	// address that is none.
	"openbgpd_rib_table": func(theirs, ours []string) ([]string, []string) {
		for i := range theirs {
			theirs[i] = strings.Replace(theirs[i], "|0 253.232.192.168|", "||", 1)
		}
		return theirs, ours
	},
	// It does not know this record type.
	"openbgpd_rib_table-mp": func(theirs, ours []string) ([]string, []string) {
		if len(ours) == 31 {
			ours = nil
		}
		return theirs, ours
	},
	// The last prefix of the NLRI is cut short; RFC 7606 §5.3 then trusts none of them. It prints those
	// before, and their trailing bits, which are irrelevant by RFC 4271 §4.3.
	"updates.nlri_mask_trailing_bits.gz": func(theirs, ours []string) ([]string, []string) {
		return slices.DeleteFunc(theirs, func(l string) bool { return strings.Contains(l, "|11.13.0.0/13|") }), ours
	},
}

func undoMRTD(theirs, ours []string) ([]string, []string) {
	announcement := regexp.MustCompile(`^(BGP\|\d+\|A\|.*\|)(\d+)\|([^|]*\|N?AG\|[^|]*\|)$`)
	withdrawal := regexp.MustCompile(`^(BGP\|\d+\|W\|)([^|]*)(\|\d+\|)[^/]*`)
	for i := range ours {
		ours[i] = announcement.ReplaceAllString(ours[i], "$1$2$3")
		ours[i] = withdrawal.ReplaceAllString(ours[i], "$1$2$3$2")
	}
	return theirs, ours
}

// withoutUnmarkedAddPath leaves out our lines with a path identifier, and those of its lines that
// speak of the same message: time, peer and attributes are the same.
func withoutUnmarkedAddPath(theirs, ours []string) ([]string, []string) {
	message := func(line string, after int) string {
		f := strings.Split(line, "|")
		return strings.Join(append(slices.Clone(f[1:5]), f[after:]...), "|")
	}
	unmarked := make(map[string]bool)
	ours = slices.DeleteFunc(ours, func(l string) bool {
		if ap := strings.Contains(l[:strings.IndexByte(l, '|')], "_AP"); ap {
			unmarked[message(l, 7)] = true
			return true
		}
		return false
	})
	return slices.DeleteFunc(theirs, func(l string) bool { return strings.Contains(l, "|A|") && unmarked[message(l, 6)] }), ours
}

// TestDumpEqualsBgpdump compares every MRT file at hand, line by line.
func TestDumpEqualsBgpdump(t *testing.T) {
	data := filepath.Join("..", "..", "..", "shared", "data")
	var files []string
	for _, pattern := range []string{"mrt/*.gz", "mrt/*.bz2", "mrt/legacy/*.gz", "mrt/samples/*", "incidents/*.gz"} {
		found, err := filepath.Glob(filepath.Join(data, pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		t.Skip("no MRT files here")
	}
	bgpdump, err := exec.LookPath("bgpdump")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("bgpdump is not installed")
		}
		t.Skip("bgpdump is not installed")
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			reference, err := exec.CommandContext(t.Context(), bgpdump, "-m", f).Output()
			if err != nil {
				t.Fatal(err)
			}
			got, _, _ := dump(t, DumpCmd{Lines: true, Files: []string{f}})
			if got == string(reference) {
				if bgpdumpErrors[filepath.Base(f)] != nil {
					t.Error("bgpdump is not wrong: take the file off the list")
				}
				return
			}
			theirs, ours := strings.Split(string(reference), "\n"), strings.Split(got, "\n")
			if alike := bgpdumpErrors[filepath.Base(f)]; alike != nil {
				trim := func(l string) bool { return l == "" }
				theirs, ours = alike(slices.DeleteFunc(theirs, trim), slices.DeleteFunc(ours, trim))
			}
			for i := range max(len(theirs), len(ours)) {
				if i >= len(theirs) || i >= len(ours) || theirs[i] != ours[i] {
					t.Fatalf("%d and %d lines; the first to differ, line %d:\nbgpdump:\n%s\nours:\n%s", len(theirs), len(ours), i+1,
						strings.Join(theirs[min(i, len(theirs)):min(i+2, len(theirs))], "\n"), strings.Join(ours[min(i, len(ours)):min(i+2, len(ours))], "\n"))
				}
			}
		})
	}
}

// sampleFile is an MRT file with a bit of everything.
func sampleFile(t testing.TB) string {
	path := filepath.Join(t.TempDir(), "rrc00.sample.mrt")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := mrt.NewWriter(f)
	peer := ingest.Peer{ASN: 64500, Addr: netip.MustParseAddr("192.0.2.9")}
	route := bgp.NLRI{Prefix: netip.MustParsePrefix("198.51.100.0/24")}
	attrs := bgp.Attributes{
		Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop | bgp.HasMED | bgp.HasLocalPref | bgp.HasAtomicAggregate | bgp.HasAggregator |
			bgp.HasCommunities | bgp.HasExtCommunities | bgp.HasLargeCommunities | bgp.HasOriginatorID | bgp.HasClusterList | bgp.HasOTC | bgp.HasAIGP,
		Origin:           2,
		ASPath:           bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{64500, 70000}}, {Type: bgp.ASSet, ASNs: []uint32{1, 2}}},
		NextHop:          netip.MustParseAddr("192.0.2.9"),
		MED:              7,
		LocalPref:        100,
		Aggregator:       bgp.Aggregator{ASN: 70000, Addr: netip.MustParseAddr("192.0.2.7")},
		Communities:      []uint32{64500<<16 | 1, 0xffffff01, 0xffffff02, 0xffffff03},
		ExtCommunities:   []uint64{0x0002fbf400000001},
		LargeCommunities: []bgp.LargeCommunity{{Global: 70000, Local1: 1, Local2: 2}},
		OriginatorID:     netip.MustParseAddr("192.0.2.5"),
		ClusterList:      []uint32{0xc0000206},
		OTC:              64500,
		AIGP:             9,
		Unknown:          []bgp.RawAttribute{{Flags: 0xc0, Type: 250, Value: []byte{0xab}}},
	}
	v6 := bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: netip.MustParseAddr("2001:db8::9"), LinkLocal: netip.MustParseAddr("fe80::9"),
		ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{64500}}}}
	for _, err := range []error{
		w.RIB(100e6, "", []ingest.Update{{Time: 50e6, Peer: peer, Announced: []bgp.NLRI{route}, Attrs: v4Only(v6)}}),
		w.Update(&ingest.Update{Time: 200e6, Peer: peer, Kind: ingest.PeerUp}),
		w.Update(&ingest.Update{Time: 200e6 + 5, Peer: peer, Announced: []bgp.NLRI{route}, Attrs: attrs}),
		w.Update(&ingest.Update{Time: 201e6, Peer: peer, Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("2001:db8::/32"), PathID: 3}}, Attrs: v6}),
		w.Update(&ingest.Update{Time: 202e6, Peer: peer, Withdrawn: []bgp.NLRI{route}}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func v4Only(a bgp.Attributes) bgp.Attributes {
	a.NextHop, a.LinkLocal = netip.MustParseAddr("192.0.2.9"), netip.Addr{}
	return a
}

func TestDumpLines(t *testing.T) {
	got, stderr, err := dump(t, DumpCmd{Files: []string{sampleFile(t)}})
	if err != nil || stderr != "" {
		t.Fatal(err, stderr)
	}
	want := `TABLE_DUMP2|100|B|192.0.2.9|64500|198.51.100.0/24|64500|IGP|192.0.2.9|0|0||NAG||
BGP4MP|200|STATE|192.0.2.9|64500|5|6
BGP4MP_ET|200.000005|A|192.0.2.9|64500|198.51.100.0/24|64500 70000 {1,2}|INCOMPLETE|192.0.2.9|100|7|64500:1 no-export no-advertise local-AS|AG|70000 192.0.2.7|
BGP4MP_AP|201|A|192.0.2.9|64500|2001:db8::/32|3|64500|IGP|2001:db8::9|0|0||NAG||
BGP4MP|202|W|192.0.2.9|64500|198.51.100.0/24
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestDumpJSON(t *testing.T) {
	got, stderr, err := dump(t, DumpCmd{JSON: true, Files: []string{sampleFile(t)}})
	if err != nil || stderr != "" {
		t.Fatal(err, stderr)
	}
	want := []string{
		`{"time":"1970-01-01T00:01:40.000000Z","type":"rib","collector":"rrc00","peer_asn":64500,"peer_ip":"192.0.2.9","prefix":"198.51.100.0/24",
		  "originated":"1970-01-01T00:00:50.000000Z","as_path":[64500],"origin_asn":64500,"origin":"IGP","next_hop":"192.0.2.9"}`,
		`{"time":"1970-01-01T00:03:20.000000Z","type":"state","collector":"rrc00","peer_asn":64500,"peer_ip":"192.0.2.9","old_state":5,"new_state":6}`,
		`{"time":"1970-01-01T00:03:20.000005Z","type":"announce","collector":"rrc00","peer_asn":64500,"peer_ip":"192.0.2.9","prefix":"198.51.100.0/24",
		  "as_path":[64500,70000,[1,2]],"origin":"INCOMPLETE","next_hop":"192.0.2.9","med":7,"local_pref":100,"atomic_aggregate":true,
		  "aggregator":{"asn":70000,"address":"192.0.2.7"},"communities":["64500:1","65535:65281","65535:65282","65535:65283"],
		  "ext_communities":["0002fbf400000001"],"large_communities":["70000:1:2"],"otc":64500,"originator_id":"192.0.2.5",
		  "cluster_list":["192.0.2.6"],"aigp":9,"unknown":[{"type":250,"flags":192,"value":"ab"}]}`,
		`{"time":"1970-01-01T00:03:21.000000Z","type":"announce","collector":"rrc00","peer_asn":64500,"peer_ip":"192.0.2.9","prefix":"2001:db8::/32","path_id":3,
		  "as_path":[64500],"origin_asn":64500,"origin":"IGP","next_hop":"2001:db8::9","link_local":"fe80::9"}`,
		`{"time":"1970-01-01T00:03:22.000000Z","type":"withdraw","collector":"rrc00","peer_asn":64500,"peer_ip":"192.0.2.9","prefix":"198.51.100.0/24"}`,
	}
	lines := slices.Collect(strings.Lines(got))
	if len(lines) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(lines), len(want), got)
	}
	for i := range want {
		var a, b map[string]any
		if err := json.Unmarshal([]byte(want[i]), &a); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(lines[i]), &b); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a, b); diff != "" {
			t.Errorf("line %d: -want +got\n%s", i+1, diff)
		}
	}
}

func TestDumpCountsAndDamage(t *testing.T) {
	path := sampleFile(t)
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file[len(file)-6] = 0xff // a prefix length in the last record
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	got, stderr, err := dump(t, DumpCmd{Count: true, Files: []string{path, filepath.Join(t.TempDir(), "missing")}})
	if err == nil || exitStatus(err) != 1 {
		t.Errorf("error %v; want exit status 1", err)
	}
	var counts map[string]any
	if err := json.Unmarshal([]byte(got), &counts); err != nil {
		t.Fatal(err)
	}
	seconds, _ := counts["seconds"].(float64)
	delete(counts, "seconds")
	want := map[string]any{"records": 6.0, "announcements": 2.0, "withdrawals": 0.0, "rib_entries": 1.0, "state_changes": 1.0,
		"malformed": map[string]any{"nlri": 1.0}, "skipped": map[string]any{}, "bytes": float64(len(file))}
	if diff := cmp.Diff(want, counts); diff != "" || seconds <= 0 {
		t.Errorf("%v seconds; -want +got\n%s", seconds, diff)
	}
	lines := slices.Collect(strings.Lines(stderr))
	const record = 12 + 20 + 27 // MRT header, BGP4MP with AS numbers of 4 octets, UPDATE that withdraws a /24
	last := fmt.Sprintf("%s: record at offset %d: ", path, len(file)-record)
	if len(lines) != 2 || !strings.Contains(lines[0]+lines[1], last) || !strings.Contains(lines[0]+lines[1], "missing: no such file") {
		t.Errorf("stderr: %q; want %q", lines, last)
	}
}

func TestDumpOfWhatIsNotMRT(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(path, []byte("nothing to see"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr, err := dump(t, DumpCmd{Files: []string{path}})
	if err == nil || !strings.Contains(stderr, path+": not an MRT file") {
		t.Errorf("%v, %q", err, stderr)
	}
	if _, _, err := dump(t, DumpCmd{Files: []string{"-", "-"}}); err == nil || exitStatus(err) != 2 {
		t.Errorf("standard input twice: %v", err)
	}
}

func TestAddressesAsBgpdumpWritesThem(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1":                "192.0.2.1",
		"::":                       "::",
		"::1":                      "::1",
		"::2":                      "::0.0.0.2",
		"::192.0.2.1":              "::192.0.2.1",
		"::ffff:192.0.2.1":         "::ffff:192.0.2.1",
		"2001:db8::1":              "2001:db8::1",
		"2001:504:0:2:0:19:9524:1": "2001:504::2:0:19:9524:1",
		"2001:db8:1:1:1:1:1:0":     "2001:db8:1:1:1:1:1::",
		"0:db8:1:1:1:1:1:1":        "::db8:1:1:1:1:1:1",
		"2001:0:0:1:0:0:0:1":       "2001:0:0:1::1",
		"2001:db8:1111:2:3:4:5:6":  "2001:db8:1111:2:3:4:5:6",
		"2001:0:1:1:0:0:1:1":       "2001:0:1:1::1:1",
	} {
		if got := string(appendAddr(nil, netip.MustParseAddr(in))); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
