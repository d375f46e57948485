package mrt

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
)

// record assembles a record from hex.
func record(t testing.TB, seconds uint32, typ, subtype uint16, fields ...string) []byte {
	t.Helper()
	body, err := hex.DecodeString(strings.ReplaceAll(strings.Join(fields, ""), " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	b := binary.BigEndian.AppendUint32(nil, seconds)
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint16(b, subtype)
	return append(binary.BigEndian.AppendUint32(b, uint32(len(body))), body...)
}

const (
	peers2 = "fbf4 fbff 0000 0001 c0000209 c0000201"         // AS64500 192.0.2.9, local AS64511 192.0.2.1
	peers4 = "00011170 0000fbff 0000 0001 c0000209 c0000201" // AS70000
	peers6 = "00011170 0000fbff 0000 0002 20010db8000000000000000000000009 20010db8000000000000000000000001"

	marker      = "ffffffffffffffffffffffffffffffff"
	attrs4      = "400101 00 400206 0201 00011170 400304 c0000209" // 20 octets
	attrs2      = "400101 00 400204 0201 fbf4 400304 c0000209"     // 18
	attrs2short = "400101 00 400204 0201 fbf4"                     // 11
	attrs6      = "400101 00 400206 0201 00011170 800e11 10 20010db8000000000000000000000009"
	update4     = marker + "002f 02 0000 0014" + attrs4 + "18 c63364"          // announces 198.51.100.0/24
	update2     = marker + "002d 02 0000 0012" + attrs2 + "18 c63364"          //
	updateP     = marker + "0033 02 0000 0014" + attrs4 + "00000007 18 c63364" // path ID 7
	gone        = marker + "001b 02 0004 18 c63364 0000"                       // withdraws it
	keep        = marker + "0013 04"                                           //
	index       = "c0000201 0000 0002 02 c0000209 c0000209 00011170 01 c0000209 20010db8000000000000000000000009 fbf4"
	rib4        = "00000000 18 c63364 0001 0000 00000064"
	entries     = "0002 0000 00000064 0014" + attrs4 + "0001 00000065 0014" + attrs4
)

// describe says on one line what a reader gives.
func describe(r *Reader) (lines []string) {
	for {
		u, err := r.Next()
		if err == io.EOF {
			return lines
		}
		if err != nil {
			lines = append(lines, "error: "+err.Error())
			if _, ok := errors.AsType[*RecordError](err); !ok {
				return lines
			}
			continue
		}
		line := fmt.Sprintf("%d %s AS%d %s", u.Time, u.Kind, u.Peer.ASN, u.Peer.Addr)
		for _, n := range u.Withdrawn {
			line += fmt.Sprintf(" -%s#%d", n.Prefix, n.PathID)
		}
		for _, n := range u.Announced {
			line += fmt.Sprintf(" +%s#%d path %s via %s", n.Prefix, n.PathID, u.Attrs.ASPath, u.Attrs.NextHop)
		}
		lines = append(lines, line)
	}
}

func TestRecords(t *testing.T) {
	const bgp4mp, et, v2 = typeBGP4MP, typeBGP4MPET, typeTableDumpV2
	const announced4 = "5000000 routes AS70000 192.0.2.9 +198.51.100.0/24#0 path 70000 via 192.0.2.9"
	const announced2 = "5000000 routes AS64500 192.0.2.9 +198.51.100.0/24#0 path 64500 via 192.0.2.9"
	for _, row := range []struct {
		name    string
		records [][]byte
		want    []string
		skipped string // what is counted as skipped
	}{
		{"message", [][]byte{record(t, 5, bgp4mp, message, peers2, update2)}, []string{announced2}, ""},
		{"message with four octets", [][]byte{record(t, 5, bgp4mp, messageAS4, peers4, update4)}, []string{announced4}, ""},
		{"microseconds", [][]byte{record(t, 5, et, messageAS4, "000000ff", peers4, update4)},
			[]string{strings.Replace(announced4, "5000000", "5000255", 1)}, ""},
		{"an IPv6 session", [][]byte{record(t, 5, bgp4mp, messageAS4, peers6, gone)},
			[]string{"5000000 routes AS70000 2001:db8::9 -198.51.100.0/24#0"}, ""},
		{"path identifiers", [][]byte{record(t, 5, bgp4mp, messageAS4AddPath, peers4, updateP)},
			[]string{strings.Replace(announced4, "#0", "#7", 1)}, ""},
		{"path identifiers that are not marked", [][]byte{record(t, 5, bgp4mp, messageAS4, peers4, updateP)},
			[]string{strings.Replace(announced4, "#0", "#7", 1)}, ""},
		{"one default route", [][]byte{record(t, 5, bgp4mp, messageAS4, peers4, marker, "001c 02 0005 00 18 c63364 0000")},
			[]string{"5000000 routes AS70000 192.0.2.9 -0.0.0.0/0#0 -198.51.100.0/24#0"}, ""},
		{"of the collector", [][]byte{record(t, 5, bgp4mp, messageAS4Local, peers4, update4), record(t, 5, bgp4mp, messageLocal, peers2, update2),
			record(t, 5, bgp4mp, messageAS4LocalAP, peers4, updateP), record(t, 5, bgp4mp, messageLocalAddPath, peers2, keep)}, nil, "-"},
		{"KEEPALIVE", [][]byte{record(t, 5, bgp4mp, message, peers2, keep)}, nil, "KEEPALIVE"},
		{"states", [][]byte{
			record(t, 5, bgp4mp, stateChange, peers2, "0005 0006"),
			record(t, 6, bgp4mp, stateChangeAS4, peers4, "0003 0004"),
			record(t, 7, bgp4mp, stateChangeAS4, peers4, "0006 0001"),
		}, []string{"5000000 peer_up AS64500 192.0.2.9", "7000000 peer_down AS70000 192.0.2.9"}, ""},
		{"the deprecated snapshot", [][]byte{record(t, 5, bgp4mp, snapshot, "00000000 00000000")}, nil, "bgp4mp snapshot"},
		{"a row of table-mp", [][]byte{record(t, 5, bgp4mp, entry, peers2, "0000 0001 00000064 0001 01 04 c0000209 18 c63364 000b", attrs2short)},
			[]string{"5000000 rib AS64500 192.0.2.9 +198.51.100.0/24#0 path 64500 via 192.0.2.9"}, ""},

		{"a table", [][]byte{record(t, 5, v2, peerIndexTable, index), record(t, 5, v2, ribIPv4Unicast, "00000000 18 c63364", entries)},
			[]string{"5000000 rib AS70000 192.0.2.9 +198.51.100.0/24#0 path 70000 via 192.0.2.9",
				"5000000 rib AS64500 2001:db8::9 +198.51.100.0/24#0 path 70000 via 192.0.2.9"}, ""},
		{"an IPv6 table", [][]byte{record(t, 5, v2, peerIndexTable, index), record(t, 5, v2, ribIPv6Unicast, "00000000 20 20010db8 0001 0001 00000064 0021", attrs6)},
			[]string{"5000000 rib AS64500 2001:db8::9 +2001:db8::/32#0 path 70000 via 2001:db8::9"}, ""},
		{"path identifiers in a table", [][]byte{record(t, 5, v2, peerIndexTable, index), record(t, 5, v2, 8, rib4, "00000007 0014", attrs4)},
			[]string{"5000000 rib AS70000 192.0.2.9 +198.51.100.0/24#7 path 70000 via 192.0.2.9"}, ""},
		{"a generic table", [][]byte{record(t, 5, v2, peerIndexTable, index), record(t, 5, v2, ribGeneric, "00000000 0001 01 18 c63364 0001 0000 00000064 0014", attrs4)},
			[]string{"5000000 rib AS70000 192.0.2.9 +198.51.100.0/24#0 path 70000 via 192.0.2.9"}, ""},
		{"a generic table of another family", [][]byte{record(t, 5, v2, ribGeneric, "00000000 0001 80 00 0000")}, nil, "family ipv4/mpls-vpn"},
		{"a multicast table", [][]byte{record(t, 5, v2, peerIndexTable, index), record(t, 5, v2, ribIPv4Multicast, rib4, "0014", attrs4)}, nil, "-"},
		{"a geo peer table", [][]byte{record(t, 5, v2, geoPeerTable, "00000000 0000 00000000")}, nil, "geo peer table"},
		{"entries before the peers", [][]byte{record(t, 5, v2, ribIPv4Unicast, rib4, "0014", attrs4)},
			[]string{"error: test: record at offset 0: a table record before the peer index table"}, ""},
		{"an entry of no peer", [][]byte{record(t, 5, v2, peerIndexTable, index), record(t, 5, v2, ribIPv4Unicast, "00000000 18 c63364 0002 0005 00000064 0014", attrs4, "0000 00000064 0014", attrs4)},
			[]string{"error: test: record at offset 56: an entry of peer 5; the peer index table has 2",
				"5000000 rib AS70000 192.0.2.9 +198.51.100.0/24#0 path 70000 via 192.0.2.9"}, ""},
		{"entries that end too early", [][]byte{record(t, 5, v2, peerIndexTable, index), record(t, 5, v2, ribIPv4Unicast, rib4, "0015", attrs4)},
			[]string{"error: test: record at offset 56: the record ends in entry 1 of 1"}, ""},

		{"an old table", [][]byte{record(t, 5, typeTableDump, 1, "0000 0000 c6336400 18 01 00000064 c0000209 fbf4 0012", attrs2)},
			[]string{"5000000 rib AS64500 192.0.2.9 +198.51.100.0/24#0 path 64500 via 192.0.2.9"}, ""},
		{"an old IPv6 table", [][]byte{record(t, 5, typeTableDump, 2, "0000 0000 20010db8000000000000000000000000 20 01 00000064 20010db8000000000000000000000009 fbf4 000b", attrs2short)},
			[]string{"5000000 rib AS64500 2001:db8::9 +2001:db8::/32#0 path 64500 via invalid IP"}, ""},
		{"an old table with a wrong prefix length", [][]byte{record(t, 5, typeTableDump, 1, "0000 0000 c6336400 21 01 00000064 c0000209 fbf4 0012", attrs2)},
			[]string{"error: test: record at offset 0: a prefix length of 33"}, ""},
		{"MRTD's messages", [][]byte{record(t, 5, typeBGP, bgpUpdate, "fbf4 c0000209 fbff c0000201 0000 0012", attrs2, "18 c63364"),
			record(t, 5, typeBGP, bgpStateChange, "fbf4 c0000209 0006 0001"), record(t, 5, typeBGP, 7, "fbf4 c0000209 fbff c0000201")},
			[]string{announced2, "5000000 peer_down AS64500 192.0.2.9"}, "KEEPALIVE"},
		{"another protocol", [][]byte{record(t, 5, typeOSPFv2, 0, "00")}, nil, "type 11"},
	} {
		t.Run(row.name, func(t *testing.T) {
			file := slices.Concat(row.records...)
			r := NewReader(bytes.NewReader(file), "test", "")
			if got := describe(r); !slices.Equal(got, row.want) {
				t.Errorf("got  %q\nwant %q", got, row.want)
			}
			c := r.Counts()
			if _, ok := c.Skipped[row.skipped]; row.skipped != "-" && (ok != (row.skipped != "") || len(c.Skipped) > 1) {
				t.Errorf("skipped: %v; want %q", c.Skipped, row.skipped)
			}
			if int(c.Records) != len(row.records) || r.Offset() != int64(len(file)) || c.Bytes != r.Offset() {
				t.Errorf("%d records and %d octets of %d and %d", c.Records, r.Offset(), len(row.records), len(file))
			}
			one := NewReader(iotest.OneByteReader(bytes.NewReader(file)), "test", "")
			if got := describe(one); !slices.Equal(got, row.want) {
				t.Errorf("octet by octet: got  %q\nwant %q", got, row.want)
			}
		})
	}
}

func TestTwoNextHopsBecomeTwoUpdates(t *testing.T) {
	const reach = "800e1a 0002 01 10 20010db8000000000000000000000009 00 20 20010db8"
	file := record(t, 5, typeBGP4MP, messageAS4, peers4, marker, "0050 02 0004 18 c63365 0031", attrs4, reach, "18 c63364")
	want := []string{
		"5000000 routes AS70000 192.0.2.9 -198.51.101.0/24#0 +198.51.100.0/24#0 path 70000 via 192.0.2.9",
		"5000000 routes AS70000 192.0.2.9 +2001:db8::/32#0 path 70000 via 2001:db8::9",
	}
	if got := describe(NewReader(bytes.NewReader(file), "test", "")); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestItems(t *testing.T) {
	file := slices.Concat(
		record(t, 5, typeBGP4MP, messageAS4Local, peers4, update4),
		record(t, 6, typeBGP4MP, stateChangeAS4, peers4, "0003 0004"),
		record(t, 7, typeTableDumpV2, peerIndexTable, index),
		record(t, 7, typeTableDumpV2, ribIPv4Multicast, rib4, "0014", attrs4),
	)
	r := NewReader(bytes.NewReader(file), "test", "rrc00")
	it, err := r.NextItem()
	if err != nil || !it.Local || it.Peer.Collector != "rrc00" || len(it.BGP.Announced) != 1 || it.Format != BGP4MP {
		t.Errorf("%+v, %v", it, err)
	}
	it, err = r.NextItem()
	if err != nil || !it.State || it.OldState != 3 || it.NewState != 4 || it.Kind != ingest.Routes || it.BGP != nil {
		t.Errorf("%+v, %v", it, err)
	}
	it, err = r.NextItem()
	if err != nil || len(it.BGP.MulticastAnnounced) != 1 || it.Kind != ingest.RIB || it.Originated != 100e6 || it.Format != TableDumpV2 {
		t.Errorf("%+v, %v", it, err)
	}
	if _, err = r.NextItem(); err != io.EOF {
		t.Error(err)
	}
}

func TestFilesThatAreWrong(t *testing.T) {
	good, _ := sample(t, 3)
	broken := errors.New("the disk is on fire")
	for _, row := range []struct {
		name    string
		src     io.Reader
		updates int
		is      error
	}{
		{"empty", strings.NewReader(""), 0, ErrNotMRT},
		{"text", strings.NewReader(strings.Repeat("This is not MRT.\n", 10_000)), 0, ErrNotMRT},
		{"short text", strings.NewReader("no"), 0, ErrNotMRT},
		{"a reader that fails", io.MultiReader(bytes.NewReader(good[:len(good)-5]), iotest.ErrReader(broken)), 2, broken},
		{"a reader that never gives anything", stuck{}, 0, io.ErrNoProgress},
	} {
		got, damaged, err := readAll(NewReader(row.src, "name", ""))
		if len(got) != row.updates || len(damaged) != 0 || !errors.Is(err, row.is) || !strings.HasPrefix(err.Error(), "name: ") {
			t.Errorf("%s: %d updates, damaged %v, %v", row.name, len(got), damaged, err)
		}
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// TestLengthIsNotBelieved sees that memory follows the data, not what a header claims.
func TestLengthIsNotBelieved(t *testing.T) {
	file := record(t, 5, typeBGP4MP, messageAS4, peers4, update4)
	binary.BigEndian.PutUint32(file[8:], MaxRecord)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, damaged, err := readAll(NewReader(bytes.NewReader(file), "test", ""))
	runtime.ReadMemStats(&after)
	if err != nil || len(damaged) != 1 || damaged[0].Reason != "truncated" {
		t.Errorf("%v, %v", damaged, err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 4*readSize {
		t.Errorf("%d octets allocated for a file of %d", n, len(file))
	}
}

// TestWorstCaseIsLinear gives a file in which every octet could begin a record.
func TestWorstCaseIsLinear(t *testing.T) {
	var file []byte
	for range 100_000 {
		file = append(file, 0, 0, 0, typeBGP4MP) // as a time, a type with its subtype, and a length
	}
	if got, _, err := readAll(NewReader(bytes.NewReader(file), "test", "")); len(got) != 0 || err != nil && !errors.Is(err, ErrNotMRT) {
		t.Errorf("%d updates, %v", len(got), err)
	}
}

func TestWriterRefuses(t *testing.T) {
	peer := ingest.Peer{ASN: 1, Addr: netip.MustParseAddr("192.0.2.1")}
	for name, u := range map[string]ingest.Update{
		"no peer address": {Kind: ingest.PeerUp},
		"a negative time": {Kind: ingest.PeerUp, Peer: peer, Time: -1},
		"a time too late": {Kind: ingest.PeerUp, Peer: peer, Time: 1 << 60},
		"a table row":     {Kind: ingest.RIB, Peer: peer},
		"no attributes":   {Peer: peer, Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("192.0.2.0/24")}}},
	} {
		var b bytes.Buffer
		if err := NewWriter(&b).Update(&u); err == nil || b.Len() > 0 {
			t.Errorf("%s: %v, %d octets", name, err, b.Len())
		}
	}
	if err := NewWriter(io.Discard).RIB(0, "", []ingest.Update{{Announced: []bgp.NLRI{{}}}}); err == nil {
		t.Error("a row without a peer is written")
	}
}

func TestNoAllocations(t *testing.T) {
	for name, file := range map[string][]byte{
		"messages": bytes.Repeat(record(t, 5, typeBGP4MPET, messageAS4, "00000001", peers4, update4), 5000),
		"table": append(record(t, 5, typeTableDumpV2, peerIndexTable, index),
			bytes.Repeat(record(t, 5, typeTableDumpV2, ribIPv4Unicast, "00000000 18 c63364", entries), 2500)...),
	} {
		r := NewReader(bytes.NewReader(file), "test", "")
		next := func() {
			if _, err := r.Next(); err != nil {
				t.Fatal(err)
			}
		}
		next() // the first makes the scratch space
		if n := testing.AllocsPerRun(4000, next); n != 0 {
			t.Errorf("%s: %v allocations an update", name, n)
		}
	}
}

func TestCountsAdd(t *testing.T) {
	a := Counts{Records: 1, Malformed: map[string]uint64{"x": 1}, Bytes: 5}
	a.Add(Counts{Records: 2, RIBEntries: 3, Malformed: map[string]uint64{"x": 2, "y": 1}, Skipped: map[string]uint64{"z": 1}, Bytes: 6})
	want := Counts{Records: 3, RIBEntries: 3, Malformed: map[string]uint64{"x": 3, "y": 1}, Skipped: map[string]uint64{"z": 1}, Bytes: 11}
	if diff := cmp.Diff(want, a); diff != "" {
		t.Error(diff)
	}
}

func FuzzReader(f *testing.F) {
	file, _ := sample(f, 5)
	f.Add(file)
	f.Add(slices.Concat(record(f, 5, typeTableDumpV2, peerIndexTable, index), record(f, 5, typeTableDumpV2, ribIPv4Unicast, "00000000 18 c63364", entries)))
	f.Add(record(f, 5, typeBGP, bgpUpdate, "fbf4 c0000209 fbff c0000201 0000 0012", attrs2, "18 c63364"))
	f.Add(record(f, 5, typeTableDump, 1, "0000 0000 c6336400 18 01 00000064 c0000209 fbf4 0012", attrs2))
	f.Add(record(f, 5, typeBGP4MP, entry, peers2, "0000 0001 00000064 0001 01 04 c0000209 18 c63364 000b", attrs2short))
	f.Add(record(f, 5, typeBGP4MP, messageAS4AddPath, peers4, updateP))
	for _, b := range bgptest.Fuzzed(f) {
		f.Add(record(f, 5, typeBGP4MP, messageAS4, peers4, hex.EncodeToString(b)))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		r := NewReader(bytes.NewReader(file), "test", "")
		offset, calls := int64(-1), 0
		for {
			u, err := r.Next()
			if calls++; calls > len(file)+10 {
				t.Fatal("it does not end")
			}
			if e, ok := errors.AsType[*RecordError](err); ok {
				if e.Offset < offset || e.Reason == "" || e.Skipped < 0 || e.Offset+e.Skipped > int64(len(file)) {
					t.Errorf("%+v after offset %d", e, offset)
				}
				offset = e.Offset
				continue
			}
			if err != nil {
				break
			}
			if u.Kind == ingest.RIB && len(u.Announced) != 1 || u.Kind == ingest.Routes && len(u.Announced)+len(u.Withdrawn) == 0 {
				t.Errorf("%+v", u)
			}
		}
		if r.Offset() != int64(len(file)) {
			t.Errorf("ended at %d of %d", r.Offset(), len(file))
		}
	})
}

func BenchmarkReader(b *testing.B) {
	messages, _ := sample(b, 10_000)
	for name, file := range map[string][]byte{
		"messages": messages,
		"table": append(record(b, 5, typeTableDumpV2, peerIndexTable, index),
			bytes.Repeat(record(b, 5, typeTableDumpV2, ribIPv4Unicast, "00000000 18 c63364", entries), 5000)...),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(file)))
			b.ReportAllocs()
			for b.Loop() {
				r := NewReader(bytes.NewReader(file), "test", "")
				n := 0
				for {
					if _, err := r.Next(); err != nil {
						break
					}
					n++
				}
				if n != 10_000 {
					b.Fatal(n)
				}
			}
		})
	}
}
