package rislive

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
)

var byValue = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

func prefixes(list ...string) []bgp.NLRI {
	var n []bgp.NLRI
	for _, p := range list {
		n = append(n, bgp.NLRI{Prefix: netip.MustParsePrefix(p)})
	}
	return n
}

func path(t testing.TB, s string) bgp.ASPath {
	p, err := bgp.ParseASPath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// rawUpdate encodes u as the raw member has it.
func rawUpdate(t testing.TB, u bgp.Update, o bgp.Options) string {
	b, err := bgp.AppendUpdate(nil, &u, o)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ToUpper(hex.EncodeToString(b))
}

func envelope(members string) string {
	return `{"type":"ris_message","data":{"timestamp":1636245154.8,"peer":"192.0.2.1","peer_asn":"64500","id":"x","host":"rrc25.ripe.net",` + members + `}}`
}

var stamp = ingest.Time(1636245154_800000)

func announced(t testing.TB) bgp.Update {
	return bgp.Update{
		Announced: prefixes("198.51.100.0/24", "203.0.113.0/25"),
		Attrs: bgp.Attributes{
			Has:    bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop | bgp.HasCommunities | bgp.HasOTC | bgp.HasLargeCommunities,
			ASPath: path(t, "64500 174 13335"), NextHop: netip.MustParseAddr("192.0.2.1"),
			Communities: []uint32{64500<<16 | 1, 65535<<16 | 666}, OTC: 174, LargeCommunities: []bgp.LargeCommunity{{Global: 1, Local1: 2, Local2: 3}},
		},
	}
}

func TestDecode(t *testing.T) {
	peer := ingest.Peer{Collector: "rrc25", Addr: netip.MustParseAddr("192.0.2.1"), ASN: 64500}
	full := announced(t)
	const base = bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop
	fromJSON := func(has bgp.Attr, edit func(*ingest.Update)) ingest.Update {
		u := ingest.Update{Time: stamp, Peer: peer}
		u.Attrs.Has = has
		edit(&u)
		return u
	}
	two := announced(t)
	two.Attrs.ASPath = path(t, "64500 174 399999 13335")
	tests := []struct {
		name, text string
		want       *ingest.Update // nil: none
		reason     string         // of a malformed message
	}{
		{"raw", envelope(`"type":"UPDATE","raw":"` + rawUpdate(t, full, bgp.Options{}) + `"`),
			&ingest.Update{Time: stamp, Peer: peer, Announced: full.Announced, Attrs: full.Attrs}, ""},
		{"raw in lower case, beside the JSON form", envelope(`"type":"UPDATE","path":[1,2],"announcements":[{"next_hop":"192.0.2.9","prefixes":["10.0.0.0/8"]}],"raw":"` + strings.ToLower(rawUpdate(t, full, bgp.Options{})) + `"`),
			&ingest.Update{Time: stamp, Peer: peer, Announced: full.Announced, Attrs: full.Attrs}, ""},
		{"raw with two-octet ASNs", envelope(`"type":"UPDATE","raw":"` + rawUpdate(t, two, bgp.Options{TwoOctetAS: true}) + `"`),
			&ingest.Update{Time: stamp, Peer: peer, Announced: two.Announced, Attrs: two.Attrs}, ""},
		{"raw withdrawal", envelope(`"type":"UPDATE","path":[],"community":[],"announcements":[],"raw":"` + rawUpdate(t, bgp.Update{Withdrawn: prefixes("198.51.100.0/24")}, bgp.Options{}) + `"`),
			&ingest.Update{Time: stamp, Peer: peer, Withdrawn: prefixes("198.51.100.0/24")}, ""},
		{"raw end of RIB", envelope(`"type":"UPDATE","raw":"` + hex.EncodeToString(bgp.AppendEndOfRIB(nil, bgp.IPv4Unicast)) + `"`), nil, ""},
		{"raw keepalive in an UPDATE", envelope(`"type":"UPDATE","raw":"` + hex.EncodeToString(bgp.AppendKeepalive(nil)) + `"`), nil, "raw"},
		{"raw cut short", envelope(`"type":"UPDATE","raw":"FFFF"`), nil, "bgp_message_length"},
		{"raw not hex", envelope(`"type":"UPDATE","raw":"ZZ"`), nil, "raw"},
		{"raw without a next hop", envelope(`"type":"UPDATE","raw":"FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF0028020000000D40010100400206020100000FFC18C63364"`),
			&ingest.Update{Time: stamp, Peer: peer, Withdrawn: prefixes("198.51.100.0/24")}, "bgp_missing_attribute"},

		{"JSON", envelope(`"type":"UPDATE","path":[64500,174,[1,2],13335],"community":[[64500,1],[65535,666]],"origin":"IGP","med":5,"aggregator":"13335:192.0.2.7","announcements":[{"next_hop":"192.0.2.1","prefixes":["198.51.100.0/24"]}],"withdrawals":["203.0.113.0/24"]`),
			new(fromJSON(base|bgp.HasCommunities|bgp.HasMED|bgp.HasAggregator, func(u *ingest.Update) {
				u.Withdrawn, u.Announced = prefixes("203.0.113.0/24"), prefixes("198.51.100.0/24")
				u.Attrs.ASPath, u.Attrs.NextHop, u.Attrs.MED = path(t, "64500 174 {1,2} 13335"), netip.MustParseAddr("192.0.2.1"), 5
				u.Attrs.Communities = []uint32{64500<<16 | 1, 65535<<16 | 666}
				u.Attrs.Aggregator = bgp.Aggregator{ASN: 13335, Addr: netip.MustParseAddr("192.0.2.7")}
			})), ""},
		{"origin in lower case", envelope(`"type":"UPDATE","path":[64500],"origin":"incomplete","announcements":[{"next_hop":"192.0.2.1","prefixes":["198.51.100.0/24"]}]`),
			new(fromJSON(base, func(u *ingest.Update) {
				u.Announced, u.Attrs.ASPath, u.Attrs.NextHop, u.Attrs.Origin = prefixes("198.51.100.0/24"), path(t, "64500"), netip.MustParseAddr("192.0.2.1"), 2
			})), ""},
		{"global and link-local next hops for the same prefixes", envelope(`"type":"UPDATE","path":[64500,20473],"announcements":[{"next_hop":"2001:7f8::1","prefixes":["2a0e:97c7::/48","2a0e:97c6:fe::/48"]},{"next_hop":"fe80::2","prefixes":["2a0e:97c7::/48","2a0e:97c6:fe::/48"]}]`),
			new(fromJSON(bgp.HasASPath|bgp.HasNextHop, func(u *ingest.Update) {
				u.Announced, u.Attrs.ASPath = prefixes("2a0e:97c7::/48", "2a0e:97c6:fe::/48"), path(t, "64500 20473")
				u.Attrs.NextHop, u.Attrs.LinkLocal = netip.MustParseAddr("2001:7f8::1"), netip.MustParseAddr("fe80::2")
			})), ""},
		{"uncompressed IPv6", envelope(`"type":"UPDATE","withdrawals":["2605:de00:bb:0:0:0:0:0/48"]`),
			&ingest.Update{Time: stamp, Peer: peer, Withdrawn: prefixes("2605:de00:bb::/48")}, ""},
		{"withdrawal with empty members", envelope(`"type":"UPDATE","path":[],"community":[],"announcements":[],"withdrawals":["198.51.100.0/24"]`),
			&ingest.Update{Time: stamp, Peer: peer, Withdrawn: prefixes("198.51.100.0/24")}, ""},
		{"bits beyond the length", envelope(`"type":"UPDATE","withdrawals":["198.51.100.7/24"]`),
			&ingest.Update{Time: stamp, Peer: peer, Withdrawn: prefixes("198.51.100.0/24")}, ""},
		{"end of RIB", envelope(`"type":"UPDATE","announcements":[{"next_hop":"192.0.2.1","prefixes":["eor"]}]`), nil, ""},
		{"communities that are not RFC 1997's", envelope(`"type":"UPDATE","path":[64500],"community":[[1,2,3],[70000,1]],"announcements":[{"next_hop":"192.0.2.1","prefixes":["198.51.100.0/24"]}]`),
			new(fromJSON(bgp.HasASPath|bgp.HasNextHop, func(u *ingest.Update) {
				u.Announced, u.Attrs.ASPath, u.Attrs.NextHop = prefixes("198.51.100.0/24"), path(t, "64500"), netip.MustParseAddr("192.0.2.1")
			})), ""},
		{"no type", envelope(`"withdrawals":["198.51.100.0/24"]`), &ingest.Update{Time: stamp, Peer: peer, Withdrawn: prefixes("198.51.100.0/24")}, ""},
		{"escaped slash", envelope(`"type":"UPDATE","withdrawals":["198.51.100.0\/24"]`), &ingest.Update{Time: stamp, Peer: peer, Withdrawn: prefixes("198.51.100.0/24")}, ""},
		{"data before type", `{"data":{"timestamp":1636245154.8,"type":"UPDATE","peer":"192.0.2.1","peer_asn":64500,"host":"rrc25","withdrawals":["198.51.100.0/24"]},"type":"ris_message"}`,
			&ingest.Update{Time: stamp, Peer: peer, Withdrawn: prefixes("198.51.100.0/24")}, ""},
		{"no envelope", `{"timestamp":1636245154.8,"type":"UPDATE","peer":"192.0.2.1","peer_asn":"64500","host":"rrc25","withdrawals":["198.51.100.0/24"]}`,
			&ingest.Update{Time: stamp, Peer: peer, Withdrawn: prefixes("198.51.100.0/24")}, ""},
		{"announcement without a path", envelope(`"type":"UPDATE","announcements":[{"next_hop":"192.0.2.1","prefixes":["198.51.100.0/24"]}]`),
			&ingest.Update{Time: stamp, Peer: peer, Withdrawn: prefixes("198.51.100.0/24")}, "path"},
		{"bad path", envelope(`"type":"UPDATE","path":["x"],"withdrawals":["203.0.113.0/24"],"announcements":[{"next_hop":"192.0.2.1","prefixes":["198.51.100.0/24"]}]`),
			&ingest.Update{Time: stamp, Peer: peer, Withdrawn: prefixes("203.0.113.0/24", "198.51.100.0/24")}, "path"},
		{"empty set", envelope(`"type":"UPDATE","path":[1,[]],"announcements":[{"next_hop":"192.0.2.1","prefixes":["198.51.100.0/24"]}]`),
			&ingest.Update{Time: stamp, Peer: peer, Withdrawn: prefixes("198.51.100.0/24")}, "path"},
		{"bad aggregator", envelope(`"type":"UPDATE","path":[64500],"aggregator":"65000-8.42.232.1","announcements":[{"next_hop":"192.0.2.1","prefixes":["198.51.100.0/24"]}]`),
			new(fromJSON(bgp.HasASPath|bgp.HasNextHop, func(u *ingest.Update) {
				u.Announced, u.Attrs.ASPath, u.Attrs.NextHop = prefixes("198.51.100.0/24"), path(t, "64500"), netip.MustParseAddr("192.0.2.1")
			})), "aggregator"},
		{"empty envelope", `{"type":"ris_message","data":null}`, nil, "fields"},
		{"bad withdrawal", envelope(`"type":"UPDATE","withdrawals":["nowhere"]`), nil, "withdrawals"},
		{"bad announcement", envelope(`"type":"UPDATE","path":[1],"announcements":[{"prefixes":[1]}]`), nil, "announcements"},
		{"bad next hop", envelope(`"type":"UPDATE","path":[1],"announcements":[{"next_hop":"x","prefixes":[]}]`), nil, "announcements"},

		{"peer up", envelope(`"type":"RIS_PEER_STATE","state":"connected"`), &ingest.Update{Time: stamp, Peer: peer, Kind: ingest.PeerUp}, ""},
		{"peer down", envelope(`"type":"RIS_PEER_STATE","state":"down"`), &ingest.Update{Time: stamp, Peer: peer, Kind: ingest.PeerDown}, ""},
		{"peer state unknown", envelope(`"type":"RIS_PEER_STATE","state":"asleep"`), nil, "state"},
		{"keepalive", envelope(`"type":"KEEPALIVE","raw":"00"`), nil, ""},
		{"open", envelope(`"type":"OPEN","capabilities":{"1":{"families":["ipv4/unicast"]}}`), nil, ""},
		{"pong", `{"type":"pong","data":null}`, nil, ""},
		{"subscribed", `{"type":"ris_subscribe_ok","data":{"subscription":{},"socketOptions":{}}}`, nil, ""},
		{"error", `{"type":"ris_error","data":{"message":"too slow"}}`, nil, ""},

		{"empty", ``, nil, "json"},
		{"not JSON", `hello`, nil, "json"},
		{"array", `[]`, nil, "json"},
		{"empty object", `{}`, nil, "fields"},
		{"cut short", envelope(`"type":"UPDATE"`)[:50], nil, "json"},
		{"something after it", envelope(`"type":"KEEPALIVE"`) + "x", nil, "json"},
		{"too deep", `{"x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`, nil, "json"},
		{"no time", `{"type":"ris_message","data":{"type":"UPDATE"}}`, nil, "timestamp"},
		{"negative time", `{"type":"ris_message","data":{"type":"UPDATE","timestamp":-5}}`, nil, "timestamp"},
		{"no peer", `{"type":"ris_message","data":{"type":"UPDATE","timestamp":5}}`, nil, "peer"},
		{"no peer ASN", `{"type":"ris_message","data":{"type":"UPDATE","timestamp":5,"peer":"192.0.2.1"}}`, nil, "peer_asn"},
		{"peer ASN out of range", `{"type":"ris_message","data":{"type":"UPDATE","timestamp":5,"peer":"192.0.2.1","peer_asn":"4294967296"}}`, nil, "peer_asn"},
		{"a collector without a name", `{"type":"ris_message","data":{"type":"UPDATE","timestamp":5,"peer":"192.0.2.1","peer_asn":"1","host":".ripe.net"}}`, nil, "host"},
		{"no collector", `{"type":"ris_message","data":{"type":"UPDATE","timestamp":5,"peer":"192.0.2.1","peer_asn":"1"}}`, nil, "host"},
	}
	var d decoder // one for all: nothing may be left over from the message before
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			u, err := d.decode([]byte(tt.text))
			reason := ""
			var m *Malformed
			if errors.As(err, &m) {
				reason = m.Reason
			}
			if reason != tt.reason {
				t.Errorf("error %v, want reason %q", err, tt.reason)
			}
			if diff := cmp.Diff(tt.want, u, byValue); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestServerError(t *testing.T) {
	var d decoder
	if _, err := d.decode([]byte(`{"type":"ris_error","data":{"message":"say \"please\""}}`)); err != nil || d.complaint != `say "please"` {
		t.Errorf("got %q and %v", d.complaint, err)
	}
}

func TestTimeOf(t *testing.T) {
	for text, want := range map[string]ingest.Time{
		"1553627987.89": 1553627987_890000, "1553627987": 1553627987_000000, "1.000001": 1_000001, "1636245154.8": 1636245154_800000,
		"1636245154.123456789": 1636245154_123456, "1636245154.12345678901234567890123": 1636245154_123456,
		"": 0, "0": 0, "1e9": 0, "1.": 0, ".5": 0, "999999999999": 0, `"5"`: 0, "5 ": 0,
	} {
		got, err := timeOf([]byte(text))
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
}

// The peer cache is bounded, whatever names come.
func TestPeerCacheIsBounded(t *testing.T) {
	var d decoder
	for i := range maxPeers + 10 {
		text := fmt.Sprintf(`{"type":"ris_message","data":{"type":"RIS_PEER_STATE","state":"down","timestamp":5,"peer":"192.0.2.1","peer_asn":"%d","host":"rrc00"}}`, i)
		if u, err := d.decode([]byte(text)); err != nil || u.Peer.ASN != uint32(i) {
			t.Fatal(u, err)
		}
		if len(d.peers) > maxPeers {
			t.Fatalf("%d peers", len(d.peers))
		}
	}
}

func TestReader(t *testing.T) {
	good := envelope(`"type":"UPDATE","withdrawals":["198.51.100.0/24"]`)
	long := envelope(`"type":"UPDATE","x":"` + strings.Repeat("x", 100_000) + `","withdrawals":["203.0.113.0/24"]`)
	tooLong := `"` + strings.Repeat("x", maxLine) + `"`
	r := NewReader(strings.NewReader(good+"\n\n{\n"+`{"type":"pong","data":null}`+"\n"+long+"\r\n"+tooLong+"\n"+good), "file")
	var got []string
	for {
		u, err := r.Next()
		if err == io.EOF {
			break
		}
		var line *LineError
		if errors.As(err, &line) {
			got = append(got, fmt.Sprintf("%s:%d: %s", line.Name, line.Line, line.Err.Reason))
		} else if err != nil {
			t.Fatal(err)
		} else {
			got = append(got, u.Withdrawn[0].Prefix.String())
		}
	}
	want := []string{"198.51.100.0/24", "file:3: json", "203.0.113.0/24", "file:6: too_long", "198.51.100.0/24"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("disk on fire") }

func TestReaderPassesErrors(t *testing.T) {
	if _, err := NewReader(failing{}, "file").Next(); err == nil || !strings.Contains(err.Error(), "file:1: disk on fire") {
		t.Errorf("got %v", err)
	}
}

// realMessages gives messages that the service has sent, each in its envelope.
func realMessages(t testing.TB) [][]byte {
	dir := "../../../shared/data/rislive"
	if _, err := os.Stat(dir); err != nil {
		t.Skip("needs recorded messages in ", dir)
	}
	var list [][]byte
	lines, err := os.ReadFile(filepath.Join(dir, "ris-live-stream.json"))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(lines)) {
		list = append(list, []byte(l))
	}
	for _, f := range []string{"ris_live_messages_bgpkit.json", "ris_live_raw_full.json"} {
		text, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Messages []struct {
				Message json.RawMessage `json:"message"`
			} `json:"messages"`
		}
		if err := json.Unmarshal(text, &doc); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		for _, m := range doc.Messages {
			list = append(list, m.Message)
		}
	}
	return list
}

// What a real message says in raw and what it says in JSON must be the same.
func TestRealMessages(t *testing.T) {
	compared, updates := 0, 0
	for i, text := range realMessages(t) {
		var probe struct {
			Type string                     `json:"type"`
			Data map[string]json.RawMessage `json:"data"`
		}
		if json.Unmarshal(text, &probe) != nil || probe.Type != "ris_message" {
			continue
		}
		var raw, plain decoder
		u, err := raw.decode(text)
		if err != nil { // some recordings are there because they are wrong
			t.Logf("message %d: %v", i, err)
			continue
		}
		if u != nil {
			updates++
		}
		if probe.Data["raw"] == nil || probe.Data["announcements"] == nil && probe.Data["withdrawals"] == nil {
			continue
		}
		delete(probe.Data, "raw")
		without, err := json.Marshal(probe)
		if err != nil {
			t.Fatal(err)
		}
		p, err := plain.decode(without)
		if err != nil {
			t.Errorf("message %d without raw: %v", i, err)
			continue
		}
		compared++
		// JSON leaves these out.
		ignore := cmpopts.IgnoreFields(bgp.Attributes{}, "Has", "LargeCommunities", "ExtCommunities", "OTC", "Unknown", "LocalPref")
		if diff := cmp.Diff(u, p, byValue, ignore); diff != "" {
			t.Errorf("message %d: raw and JSON differ:\n%s\n%s", i, diff, text)
		}
	}
	if updates == 0 || compared == 0 {
		t.Errorf("%d updates, %d compared: the recordings are not what they were", updates, compared)
	}
	t.Logf("%d updates, %d compared", updates, compared)
}

// typical is a message as the full stream has most: one prefix, four hops, both forms.
func typical(t testing.TB) []byte {
	u := announced(t)
	u.Announced = u.Announced[:1]
	return []byte(envelope(`"type":"UPDATE","path":[64500,174,13335],"community":[[64500,1],[65535,666]],"origin":"IGP","announcements":[{"next_hop":"192.0.2.1","prefixes":["198.51.100.0/24"]}],"withdrawals":[],"raw":"` + rawUpdate(t, u, bgp.Options{}) + `"`))
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	text := typical(t)
	var d decoder
	if n := testing.AllocsPerRun(100, func() {
		if u, err := d.decode(text); u == nil || err != nil {
			t.Fatal(u, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a message, want none", n)
	}
}

func BenchmarkDecode(b *testing.B) {
	withRaw := typical(b)
	without := []byte(strings.Replace(string(withRaw), `"raw":`, `"war":`, 1))
	for _, bb := range []struct {
		name string
		text []byte
	}{{"raw", withRaw}, {"json", without}} {
		b.Run(bb.name, func(b *testing.B) {
			var d decoder
			b.SetBytes(int64(len(bb.text)))
			b.ReportAllocs()
			for b.Loop() {
				if u, err := d.decode(bb.text); u == nil || err != nil {
					b.Fatal(u, err)
				}
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(typical(f))
	f.Add([]byte(strings.Replace(string(typical(f)), `"raw":`, `"war":`, 1)))
	f.Add([]byte(envelope(`"type":"RIS_PEER_STATE","state":"connected"`)))
	f.Add([]byte(`{"type":"ris_error","data":{"message":"a\u0020\"b\\"}}`))
	f.Add([]byte(envelope(`"type":"UPDATE","path":[1,[2,3],4],"announcements":[{"next_hop":"2001:db8::1,fe80::1","prefixes":["2001:db8::/32","eor"]}]`)))
	for _, b := range bgptest.Fuzzed(f) {
		f.Add([]byte(envelope(`"type":"UPDATE","raw":"` + hex.EncodeToString(b) + `"`)))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var d decoder
		u, err := d.decode(text)
		var m *Malformed
		if err != nil && !errors.As(err, &m) {
			t.Fatalf("%v is not a *Malformed", err)
		}
		// The scanner may be laxer than JSON where it skips, never stricter.
		if m != nil && m.Reason == "json" && json.Valid(text) {
			var object map[string]any
			if json.Unmarshal(text, &object) == nil && object != nil && shallow(object, 0) {
				t.Fatalf("rejected valid JSON: %v", err)
			}
		}
		if u != nil {
			for _, n := range append(u.Announced[:len(u.Announced):len(u.Announced)], u.Withdrawn...) {
				if !n.Prefix.IsValid() || n.Prefix != n.Prefix.Masked() {
					t.Fatalf("prefix %v", n.Prefix)
				}
			}
			if u.Time <= 0 || !u.Peer.Addr.IsValid() || u.Peer.Collector == "" {
				t.Fatalf("%+v", u)
			}
		}
	})
}

// shallow reports whether v nests less than the scanner goes.
func shallow(v any, depth int) bool {
	if depth > maxDepth-3 {
		return false
	}
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			if !shallow(e, depth+1) {
				return false
			}
		}
	case []any:
		for _, e := range v {
			if !shallow(e, depth+1) {
				return false
			}
		}
	}
	return true
}
