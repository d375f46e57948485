package rtr

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var comparePDUs = cmp.Options{cmpopts.EquateEmpty(), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}

func unhex(t testing.TB, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bytes are written by hand from the figures of RFC 6810 §5, RFC 8210 §5 and 8210bis §5.
var wireForms = []struct {
	wire string
	pdu  PDU
}{
	{"01 00 1234 0000000c 00000005", PDU{Version: 1, Type: SerialNotify, Session: 0x1234, Serial: 5}},
	{"01 01 1234 0000000c 00000005", PDU{Version: 1, Type: SerialQuery, Session: 0x1234, Serial: 5}},
	{"02 02 0000 00000008", PDU{Version: 2, Type: ResetQuery}},
	{"00 03 ffff 00000008", PDU{Type: CacheResponse, Session: 0xffff}},
	{"01 04 0000 00000014 01 18 1a 00 c0000200 0000fbf4", PDU{Version: 1, Type: IPv4Prefix, Announce: true, Prefix: netip.MustParsePrefix("192.0.2.0/24"), MaxLength: 26, ASN: 64500}},
	{"01 04 0000 00000014 00 00 00 00 00000000 00000000", PDU{Version: 1, Type: IPv4Prefix, Prefix: netip.MustParsePrefix("0.0.0.0/0")}},
	{"02 06 0000 00000020 01 20 30 00 20010db8000000000000000000000000 ffffffff", PDU{Version: 2, Type: IPv6Prefix, Announce: true, Prefix: netip.MustParsePrefix("2001:db8::/32"), MaxLength: 48, ASN: 4294967295}},
	{"00 07 1234 0000000c 00000007", PDU{Type: EndOfData, Session: 0x1234, Serial: 7}},
	{"01 07 1234 00000018 00000007 00000e10 00000258 00001c20", PDU{Version: 1, Type: EndOfData, Session: 0x1234, Serial: 7, Refresh: 3600, Retry: 600, Expire: 7200}},
	{"01 08 0000 00000008", PDU{Version: 1, Type: CacheReset}},
	{"01 09 0100 00000023 000102030405060708090a0b0c0d0e0f10111213 0000fbf4 300102", PDU{Version: 1, Type: RouterKey, Announce: true,
		SKI: [20]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}, ASN: 64500, SPKI: []byte{0x30, 1, 2}}},
	{"01 0a 0002 00000010 00000000 00000000", PDU{Version: 1, Type: ErrorReport, Code: NoDataAvailable}},
	{"00 0a 0003 0000001a 00000008 0002000000000008 00000002 6e6f", PDU{Type: ErrorReport, Code: InvalidRequest, Erroneous: []byte{0, 2, 0, 0, 0, 0, 0, 8}, Text: "no"}},
	{"02 0b 0100 00000014 0000fbf4 00000001 00000002", PDU{Version: 2, Type: ASPA, Announce: true, ASN: 64500, Providers: []uint32{1, 2}}},
	{"02 0b 0000 0000000c 0000fbf4", PDU{Version: 2, Type: ASPA, ASN: 64500}},
}

func TestWireForms(t *testing.T) {
	for _, c := range wireForms {
		b := unhex(t, c.wire)
		var got PDU
		if err := got.Decode(b); err != nil {
			t.Errorf("%s: %v", c.wire, err)
			continue
		}
		if diff := cmp.Diff(c.pdu, got, comparePDUs); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.wire, diff)
		}
		if again := c.pdu.Append(nil); !bytes.Equal(again, b) {
			t.Errorf("written as %x, want %x", again, b)
		}
	}
}

func TestDecodeRejects(t *testing.T) {
	for _, c := range []struct {
		name, wire string
		code       ErrorCode
	}{
		{"nothing", "", CorruptData},
		{"half a header", "01 02 0000", CorruptData},
		{"a later version", "03 02 0000 00000008", UnsupportedVersion},
		{"an unknown type", "01 05 0000 00000008", UnsupportedType},
		{"Router Key in version 0", "00 09 0100 00000023 000102030405060708090a0b0c0d0e0f10111213 0000fbf4 300102", UnsupportedType},
		{"ASPA in version 1", "01 0b 0000 0000000c 0000fbf4", UnsupportedType},
		{"length 0", "01 02 0000 00000000", CorruptData},
		{"length below the header", "01 02 0000 00000007", CorruptData},
		{"length 4 GiB", "02 0b 0100 fffffffc 0000fbf4", CorruptData},
		{"a prefix that is too long", "01 04 0000 00000018 01 18 1a 00 c0000200 0000fbf4 00000000", CorruptData},
		{"version 1's End of Data in version 0", "00 07 1234 00000018 00000007 00000e10 00000258 00001c20", CorruptData},
		{"version 0's End of Data in version 1", "01 07 1234 0000000c 00000007", CorruptData},
		{"more than the header says", "01 02 0000 00000008 00", CorruptData},
		{"IPv4 length 33", "01 04 0000 00000014 01 21 21 00 c0000200 0000fbf4", CorruptData},
		{"maximum below length", "01 04 0000 00000014 01 18 17 00 c0000200 0000fbf4", CorruptData},
		{"maximum over 32", "01 04 0000 00000014 01 18 21 00 c0000200 0000fbf4", CorruptData},
		{"IPv6 maximum over 128", "01 06 0000 00000020 01 20 81 00 20010db8000000000000000000000000 ffffffff", CorruptData},
		{"bits beyond the length", "01 04 0000 00000014 01 18 18 00 c0000201 0000fbf4", CorruptData},
		{"half a provider", "02 0b 0100 00000012 0000fbf4 00000001 0000", CorruptData},
		{"an Error Report whose PDU is longer than itself", "01 0a 0000 00000010 00000005 00000000", CorruptData},
		{"an Error Report whose text is longer than itself", "01 0a 0000 00000010 00000000 00000001", CorruptData},
		{"an Error Report whose text is missing", "01 0a 0000 00000010 00000004 00000000", CorruptData},
		{"an Error Report with more than text", "01 0a 0000 00000011 00000000 00000000 00", CorruptData},
		{"an Error Report of an enormous PDU", "01 0a 0000 00000010 ffffffff 00000000", CorruptData},
	} {
		var p PDU
		err := p.Decode(unhex(t, c.wire))
		if wrong := (*Error)(nil); !errors.As(err, &wrong) || wrong.Code != c.code {
			t.Errorf("%s: %v, want %v", c.name, err, c.code)
		}
	}
}

func pdus() *rapid.Generator[PDU] {
	return rapid.Custom(func(t *rapid.T) PDU {
		u32, u16 := rapid.Uint32(), rapid.Uint16()
		p := PDU{Version: uint8(rapid.IntRange(0, MaxVersion).Draw(t, "version"))}
		types := []Type{SerialNotify, SerialQuery, ResetQuery, CacheResponse, IPv4Prefix, IPv6Prefix, EndOfData, CacheReset, ErrorReport, RouterKey, ASPA}
		p.Type = rapid.SampledFrom(types[:9+p.Version]).Draw(t, "type")
		switch p.Type {
		case SerialNotify, SerialQuery:
			p.Session, p.Serial = u16.Draw(t, "session"), u32.Draw(t, "serial")
		case CacheResponse:
			p.Session = u16.Draw(t, "session")
		case EndOfData:
			p.Session, p.Serial = u16.Draw(t, "session"), u32.Draw(t, "serial")
			if p.Version > 0 {
				p.Refresh, p.Retry, p.Expire = u32.Draw(t, "refresh"), u32.Draw(t, "retry"), u32.Draw(t, "expire")
			}
		case IPv4Prefix, IPv6Prefix:
			n := map[Type]int{IPv4Prefix: 4, IPv6Prefix: 16}[p.Type]
			a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "address"))
			p.Prefix = netip.PrefixFrom(a, rapid.IntRange(0, 8*n).Draw(t, "length")).Masked()
			p.MaxLength = uint8(rapid.IntRange(p.Prefix.Bits(), 8*n).Draw(t, "max"))
			p.Announce, p.ASN = rapid.Bool().Draw(t, "announce"), u32.Draw(t, "asn")
		case RouterKey:
			p.Announce, p.ASN = rapid.Bool().Draw(t, "announce"), u32.Draw(t, "asn")
			copy(p.SKI[:], rapid.SliceOfN(rapid.Byte(), 20, 20).Draw(t, "SKI"))
			p.SPKI = rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "SPKI")
		case ASPA:
			p.Announce, p.ASN = rapid.Bool().Draw(t, "announce"), u32.Draw(t, "asn")
			p.Providers = rapid.SliceOfN(u32, 0, 50).Draw(t, "providers")
		case ErrorReport:
			p.Code = ErrorCode(u16.Draw(t, "code"))
			p.Erroneous = rapid.SliceOfN(rapid.Byte(), 0, 50).Draw(t, "erroneous")
			p.Text = rapid.String().Draw(t, "text")
		}
		return p
	})
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(pdus(), 1, 10).Draw(t, "pdus")
		var stream []byte
		for i := range in {
			stream = in[i].Append(stream)
		}
		r := newReader(iotest.HalfReader(bytes.NewReader(stream)))
		for i := range in {
			b, err := r.next(func() error { return nil })
			if err != nil {
				t.Fatal(err)
			}
			var got PDU
			if err := got.Decode(b); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(in[i], got, comparePDUs); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
		}
		if _, err := r.next(nil); !errors.Is(err, io.EOF) {
			t.Fatalf("after the last: %v", err)
		}
	})
}

func TestReaderTellsOfHalfAPDU(t *testing.T) {
	whole := wireForms[4].pdu.Append(nil)
	for n := 1; n < len(whole); n++ {
		if _, err := newReader(bytes.NewReader(whole[:n])).next(func() error { return nil }); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes of %d: %v", n, len(whole), err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, c := range wireForms {
		f.Add(unhex(f, c.wire))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var p PDU
		if err := p.Decode(b); err != nil {
			if wrong := (*Error)(nil); !errors.As(err, &wrong) {
				t.Errorf("%v says not what to report", err)
			}
			return
		}
		var again PDU
		if err := again.Decode(p.Append(nil)); err != nil {
			if len(p.Text) > len(b) { // repaired UTF-8 is longer
				return
			}
			t.Fatalf("what was written of %+v: %v", p, err)
		}
		if diff := cmp.Diff(p, again, comparePDUs); diff != "" {
			t.Errorf("(-first +second):\n%s", diff)
		}
	})
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	var p PDU
	for _, c := range wireForms {
		if c.pdu.Type == ErrorReport {
			continue
		}
		b := unhex(t, c.wire)
		if err := p.Decode(b); err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() { _ = p.Decode(b) }); n != 0 {
			t.Errorf("%v: %v allocations", c.pdu.Type, n)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	wire := wireForms[4].pdu.Append(nil)
	var p PDU
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Decode(wire); err != nil {
			b.Fatal(err)
		}
	}
}
