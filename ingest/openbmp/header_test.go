package openbmp

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bmp"
)

const realMessages = "../../../shared/data/openbmp/openbmp_kafka_raw_messages.json"

// readReal returns messages as OpenBMP's collectors of CAIDA sent them.
func readReal(t testing.TB) [][]byte {
	data, err := os.ReadFile(realMessages)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the folder of shared data is not here")
	}
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Messages []struct{ Hex string } }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	var messages [][]byte
	for _, m := range file.Messages {
		b, err := hex.DecodeString(m.Hex)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, b)
	}
	return messages
}

func hash(t *testing.T, s string) (h Hash) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(h) {
		t.Fatalf("%s is not a hash: %v", s, err)
	}
	return Hash(b)
}

// TestRealMessages compares what is decoded with what the octets were read as by hand.
func TestRealMessages(t *testing.T) {
	messages := readReal(t)
	if len(messages) != 3 {
		t.Fatalf("%d messages", len(messages))
	}
	for i, want := range []struct {
		h    Header
		typ  bmp.Type
		peer string
		asn  uint32
		rest int // two of the messages have a line's end after them, which is the file's that they come from
	}{
		{Header{
			Flags: FlagRouter, Type: TypeBMPRaw, Time: 1636088258_811052, Collector: hash(t, "bf4f072f3ae149d23486024bc3dadfc4"), AdminID: []byte("is-cc-bmp1"),
			Router: hash(t, "c677060bdd020a9e92be000200de2e31"), RouterIP: netip.MustParseAddr("128.223.51.105"), Group: []byte("route-views5"), Rows: 1,
		}, bmp.TypePeerDown, "63.218.6.14", 3491, 1},
		{Header{
			Flags: FlagRouter, Type: TypeBMPRaw, Time: 1636335955_194115, Collector: hash(t, "fef880938d19e9d632c815d1e95a87e1"), AdminID: []byte("is-ah-bmp1"),
			Router: hash(t, "eb4de4e596b282c6a995b067df4abc8c"), RouterIP: netip.MustParseAddr("195.66.241.146"), Group: []byte("linx"), Rows: 1,
		}, bmp.TypeRouteMonitoring, "2001:7f8:4::1aae:4", 6830, 1},
		{Header{
			Flags: FlagRouter, Type: TypeBMPRaw, Time: 1698628253_174418, Collector: hash(t, "fef880938d19e9d632c815d1e95a87e1"), AdminID: []byte("is-ah-bmp1"),
			Router: hash(t, "de6006b9151b7fa194e5c5aa87f28964"), RouterIP: netip.MustParseAddr("128.223.51.102"), Group: []byte("route-views2"), Rows: 1,
		}, bmp.TypePeerDown, "91.228.151.1", 31019, 0},
	} {
		var h Header
		body, rest, err := h.Decode(messages[i])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.h, h, compareAddrs); diff != "" {
			t.Errorf("message %d: the header (-want +got):\n%s", i, diff)
		}
		if len(rest) != want.rest {
			t.Errorf("message %d: %d octets are left, want %d", i, len(rest), want.rest)
		}
		var d bmp.Decoder
		m, err := d.Decode(body)
		if err != nil {
			t.Fatal(err)
		}
		if m.Type != want.typ || m.Peer.Addr != netip.MustParseAddr(want.peer) || m.Peer.ASN != want.asn {
			t.Errorf("message %d is %v of %v, AS%d", i, m.Type, m.Peer.Addr, m.Peer.ASN)
		}
		again, err := Append(nil, &h, body)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(messages[i][:len(messages[i])-want.rest], again); diff != "" {
			t.Errorf("message %d is not the same when encoded (-want +got):\n%s", i, diff)
		}
	}
}

var compareAddrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestRealRoute(t *testing.T) {
	var h Header
	body, _, err := h.Decode(readReal(t)[1])
	if err != nil {
		t.Fatal(err)
	}
	session := bmp.NewSession("linx", false)
	it, err := session.Message(body, h.Time)
	if err != nil {
		t.Fatal(err)
	}
	var got []ingest.Update
	if err := session.Emit(it, func(u *ingest.Update) error { got = append(got, u.Clone()); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || len(got[0].Announced) != 1 {
		t.Fatalf("got %+v", got)
	}
	u := got[0]
	if u.Announced[0].Prefix != netip.MustParsePrefix("2a0f:ca80:1::/48") || u.Attrs.ASPath.String() != "6447 6830 9002 207083 208046" {
		t.Errorf("got %v by %v", u.Announced[0].Prefix, u.Attrs.ASPath)
	}
	want := ingest.Peer{Collector: "linx", Addr: netip.MustParseAddr("2001:7f8:4::1aae:4"), ASN: 6830, View: ingest.AdjRIBInPost}
	if u.Peer != want {
		t.Errorf("the peer is %v, want %v", u.Peer, want)
	}
	// The router's clock counts from its start, so that the message seems to be of 1971.
	if u.Time.Time().Year() != 1971 || eventTime(u.Time, h.Time) != h.Time {
		t.Errorf("of the router's %v and the collector's %v, %v is taken", u.Time, h.Time, eventTime(u.Time, h.Time))
	}
}

func TestEventTime(t *testing.T) {
	const receipt = ingest.Time(1698628253_000000)
	for _, c := range []struct{ router, want time.Duration }{
		{-time.Second, -time.Second}, {time.Second, time.Second}, {-maxSkew, -maxSkew}, {maxSkew, maxSkew},
		{-maxSkew - time.Second, 0}, {maxSkew + time.Second, 0},
	} {
		if got := eventTime(receipt.Add(c.router), receipt); got != receipt.Add(c.want) {
			t.Errorf("a stamp %v from the receipt becomes one %v from it", c.router, got.Sub(receipt))
		}
	}
}

func names() *rapid.Generator[[]byte] {
	return rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 300), func(b []byte) []byte { return append([]byte{}, b...) })
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		octets := func(n int) []byte { return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "octets") }
		h := Header{
			Flags: Flags(rapid.Byte().Draw(t, "flags")), Type: rapid.Byte().Draw(t, "type"), Time: ingest.Time(rapid.Int64Range(0, (1<<32)*1e6-1).Draw(t, "time")),
			Collector: Hash(octets(16)), AdminID: names().Draw(t, "admin"), Router: Hash(octets(16)), Group: names().Draw(t, "group"),
			Rows: rapid.Uint32().Draw(t, "rows"), RouterIP: netip.AddrFrom4([4]byte(octets(4))),
		}
		if h.Flags&FlagIPv6 != 0 {
			h.RouterIP = netip.AddrFrom16([16]byte(octets(16)))
		}
		message, after := rapid.SliceOf(rapid.Byte()).Draw(t, "message"), rapid.SliceOf(rapid.Byte()).Draw(t, "after")
		b, err := Append(nil, &h, message)
		if err != nil {
			t.Fatal(err)
		}
		var got Header
		body, rest, err := got.Decode(append(b, after...))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(h, got, compareAddrs); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
		if string(body) != string(message) || string(rest) != string(after) {
			t.Fatalf("the message is %x and %x follow, want %x and %x", body, rest, message, after)
		}
	})
}

func TestHeaderFaults(t *testing.T) {
	h := Header{Flags: FlagRouter, Type: TypeBMPRaw, AdminID: []byte("admin"), RouterIP: netip.MustParseAddr("192.0.2.1"), Group: []byte("group"), Rows: 1}
	valid, err := Append(nil, &h, []byte("message"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, reason string
		change       func(b []byte) []byte
	}{
		{"empty", "obmp_short", func(b []byte) []byte { return nil }},
		{"cut in the header", "obmp_header_length", func(b []byte) []byte { return b[:80] }},
		{"cut in the message", "obmp_length", func(b []byte) []byte { return b[:len(b)-1] }},
		{"magic", "obmp_magic", func(b []byte) []byte { b[0] = 'X'; return b }},
		{"version 2", "obmp_version", func(b []byte) []byte { b[4] = 2; return b }},
		{"version 1.6", "obmp_version", func(b []byte) []byte { b[5] = 6; return b }},
		{"header too short for its names", "obmp_name", func(b []byte) []byte { b[7] = fixedLength; return b }},
		{"header shorter than any", "obmp_header_length", func(b []byte) []byte { b[7] = fixedLength - 1; return b }},
		{"long message", "obmp_length", func(b []byte) []byte { b[8] = 0x80; return b }},
		{"long first name", "obmp_name", func(b []byte) []byte { b[38] = 0xff; return b }},
		{"long second name", "obmp_name", func(b []byte) []byte { b[40+5+32] = 0xff; return b }},
	} {
		var got Header
		_, _, err := got.Decode(c.change(append([]byte{}, valid...)))
		if e, ok := errors.AsType[*HeaderError](err); !ok || e.Reason != c.reason {
			t.Errorf("%s: the error is %v, want %s", c.name, err, c.reason)
		}
	}
	for name, bad := range map[string]Header{
		"names":   {AdminID: make([]byte, 1<<16), RouterIP: h.RouterIP},
		"time":    {Time: -1, RouterIP: h.RouterIP},
		"late":    {Time: 1 << 32 * 1e6, RouterIP: h.RouterIP},
		"family":  {Flags: FlagIPv6, RouterIP: h.RouterIP},
		"address": {},
	} {
		if b, err := Append(nil, &bad, nil); err == nil {
			t.Errorf("%s: encoded as %x", name, b)
		}
	}
}

// A later minor version may have more in its header.
func TestLongerHeader(t *testing.T) {
	h := Header{Flags: FlagRouter, Type: TypeBMPRaw, AdminID: []byte("a"), RouterIP: netip.MustParseAddr("192.0.2.1"), Group: []byte("g"), Rows: 1}
	b, err := Append(nil, &h, nil)
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, "more and the message"...)
	b[5], b[7], b[11] = 8, b[7]+5, 15
	var got Header
	body, rest, err := got.Decode(b)
	if err != nil || string(body) != "and the message" || len(rest) > 0 || string(got.Group) != "g" {
		t.Errorf("got %q, %q, %v; %+v", body, rest, err, got)
	}
}

func FuzzHeader(f *testing.F) {
	h := Header{Flags: FlagRouter | FlagIPv6, Type: TypeBMPRaw, Time: 1e15, AdminID: []byte("admin"), RouterIP: netip.MustParseAddr("2001:db8::1"), Group: []byte("group"), Rows: 1}
	b, err := Append(nil, &h, []byte("message"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Fuzz(func(t *testing.T, b []byte) {
		var h Header
		body, rest, err := h.Decode(b)
		if err != nil {
			if _, ok := errors.AsType[*HeaderError](err); !ok {
				t.Fatalf("%T", err)
			}
			return
		}
		if len(body)+len(rest)+fixedLength+len(h.AdminID)+len(h.Group) > len(b) {
			t.Fatalf("more came out than went in")
		}
		again, err := Append(nil, &h, body)
		if err != nil {
			t.Fatal(err)
		}
		var other Header
		if _, _, err := other.Decode(again); err != nil || !cmp.Equal(h, other, compareAddrs) {
			t.Fatalf("%+v becomes %+v, %v", h, other, err)
		}
	})
}
