package bgp_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
	"github.com/routevigil/routevigil/ingest/bgp/gobgptest"
)

// sameUpdate compares what an UPDATE says, not how it was found.
var sameUpdate = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmpopts.EquateEmpty(),
	cmpopts.IgnoreFields(bgp.Update{}, "RawAttributes", "EndOfRIB", "Faults", "Demoted"),
}

// TestGeneratedEqualsGoBGP has GoBGP decode whatever our encoder can make, but for two attributes:
//   - GoBGP refuses a message with a Prefix-SID that has not the form of RFC 8669, and says wrong flags of it where
//     that RFC wants the attribute discarded (§6). To us it is one of those that are kept as they came.
//   - GoBGP interprets extended communities when it decodes: it refuses the message for an EVPN sub-type that it does
//     not know, and gives a transitive link bandwidth (0x0004) back as the non-transitive one (0x4004). By RFC 4360 §2
//     and §6 a value is eight octets, of whatever type, and only the length of the attribute can be wrong. So only
//     route targets and route origins, of each of the three forms (§4, §5), are compared.
func TestGeneratedEqualsGoBGP(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u, o := bgp.GenUpdate(t)
		u.Attrs.Unknown = slices.DeleteFunc(u.Attrs.Unknown, func(r bgp.RawAttribute) bool { return r.Type == 40 })
		for i, c := range u.Attrs.ExtCommunities {
			u.Attrs.ExtCommunities[i] = []uint64{0x0002, 0x0003, 0x0102, 0x0103, 0x0202, 0x0203}[c%6]<<48 | c&0xffffffffffff
		}
		b, err := bgp.AppendUpdate(nil, &u, o)
		if err != nil {
			t.Fatal(err)
		}
		var d bgp.Decoder
		for len(b) > 0 {
			_, body, rest, err := bgp.Split(b)
			if err != nil {
				t.Fatal(err)
			}
			ours, err := d.Update(body, o)
			if err != nil || ours.Faults != 0 {
				t.Fatal(err, ours.Faults)
			}
			theirs, err := gobgptest.Update(b[:len(b)-len(rest)], o)
			if err != nil {
				t.Fatalf("GoBGP: %v", err)
			}
			if diff := cmp.Diff(theirs, ours, sameUpdate); diff != "" {
				t.Fatalf("-GoBGP +ours\n%s", diff)
			}
			b = rest
		}
	})
}

// TestAS4MergeEqualsRFC gives AS_PATH and AS4_PATH that need not belong together, as old speakers on the way make
// them, and both kinds of AGGREGATOR.
func TestAS4MergeEqualsRFC(t *testing.T) {
	segments := func(t *rapid.T, octets int, label string) (b []byte) {
		// AS_TRANS often: it is what AGGREGATOR is asked for.
		asn := rapid.OneOf(rapid.Just(uint32(23456)), rapid.Uint32Range(1, 0xffff))
		for range rapid.IntRange(0, 5).Draw(t, label) {
			list := rapid.SliceOfN(asn, 1, 4).Draw(t, "members")
			b = append(b, rapid.Uint8Range(1, 4).Draw(t, "type"), uint8(len(list)))
			for _, a := range list {
				if octets == 4 {
					b = binary.BigEndian.AppendUint32(b, a<<16|a)
				} else {
					b = binary.BigEndian.AppendUint16(b, uint16(a))
				}
			}
		}
		return b
	}
	attribute := func(b []byte, flags, typ uint8, value []byte) []byte {
		return append(append(b, flags, typ, uint8(len(value))), value...)
	}
	rapid.Check(t, func(t *rapid.T) {
		attrs := attribute(nil, 0x40, 1, []byte{0})
		attrs = attribute(attrs, 0x40, 2, segments(t, 2, "AS_PATH"))
		attrs = attribute(attrs, 0x40, 3, []byte{192, 0, 2, 1})
		if rapid.Bool().Draw(t, "AGGREGATOR") {
			attrs = attribute(attrs, 0xc0, 7, append(rapid.SampledFrom([][]byte{{0x5b, 0xa0}, {1, 2}}).Draw(t, "aggregator"), 192, 0, 2, 1))
		}
		if path := segments(t, 4, "AS4_PATH"); len(path) > 0 {
			attrs = attribute(attrs, 0xc0, 17, path)
		}
		if rapid.Bool().Draw(t, "AS4_AGGREGATOR") {
			attrs = attribute(attrs, 0xc0, 18, []byte{0, 1, 0x11, 0x70, 192, 0, 2, 2})
		}
		body := binary.BigEndian.AppendUint16([]byte{0, 0}, uint16(len(attrs)))
		body = append(append(body, attrs...), 24, 198, 51, 100)
		message := append(bytes.Repeat([]byte{0xff}, 16), 0, 0, byte(bgp.TypeUpdate))
		message = append(message, body...)
		binary.BigEndian.PutUint16(message[16:], uint16(len(message)))

		o := bgp.Options{TwoOctetAS: true}
		theirs, err := gobgptest.Update(message, o)
		if err != nil {
			t.Fatalf("GoBGP: %v", err)
		}
		ours, err := new(bgp.Decoder).Update(body, o)
		if err != nil || ours.Faults != 0 {
			t.Fatal(err, ours.Faults)
		}
		if diff := cmp.Diff(theirs, ours, sameUpdate); diff != "" {
			t.Fatalf("%x: -GoBGP +ours\n%s", message, diff)
		}
	})
}

// TestFuzzedEqualsGoBGP has both decode what fuzzers made. What ours refuses, GoBGP refuses too, and what both take
// for faultless says the same. The reverse does not hold: GoBGP decodes families that ours passes over and
// attributes that ours keeps as they came, and finds errors in them; and it takes the four low bits of an
// attribute's flags for wrong, which must be ignored (RFC 4271 §4.3).
func TestFuzzedEqualsGoBGP(t *testing.T) {
	messages := bgptest.Fuzzed(t)
	if len(messages) == 0 {
		t.Skip("no fuzzed messages here")
	}
	// GoBGP knows these (RFC 6514, 9012, 5701, 9552, 8669), and drops of them what it does not understand.
	unwanted := func(r bgp.RawAttribute) bool { return slices.Contains([]uint8{22, 23, 25, 29, 40}, r.Type) }
	refused, same := 0, 0
	for _, b := range messages {
		for {
			typ, body, rest, err := bgp.Split(b)
			if err != nil {
				break
			}
			message := b[:len(b)-len(rest)]
			b = rest
			if typ != bgp.TypeUpdate {
				continue
			}
			ours, err := new(bgp.Decoder).Update(body, bgp.Options{})
			theirs, theirError := gobgptest.Update(message, bgp.Options{})
			switch {
			case err != nil && theirError == nil:
				t.Errorf("%x: GoBGP takes it; ours: %v", message, err)
			case err != nil:
				refused++
			case theirError == nil && ours.Faults == 0:
				ours.Attrs.Unknown = slices.DeleteFunc(ours.Attrs.Unknown, unwanted)
				theirs.Attrs.Unknown = slices.DeleteFunc(theirs.Attrs.Unknown, unwanted)
				if diff := cmp.Diff(theirs, ours, sameUpdate); diff != "" {
					t.Errorf("%x: -GoBGP +ours\n%s", message, diff)
				}
				same++
			}
		}
	}
	if t.Logf("both refuse %d messages, and %d are the same", refused, same); refused == 0 || same == 0 {
		t.Error("nothing was compared")
	}
}
