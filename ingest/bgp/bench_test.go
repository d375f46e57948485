package bgp

import (
	"net/netip"
	"testing"
)

// typicalUpdate is an UPDATE as the global table has them: 109 octets with 3 prefixes, 6 hops and 6
// communities.
func typicalUpdate(t testing.TB) []byte {
	u := Update{Attrs: Attributes{
		Has:         HasOrigin | HasASPath | HasNextHop | HasCommunities | HasMED,
		ASPath:      ASPath{{ASSequence, []uint32{64500, 3356, 174, 4200000001, 65010, 64511}}},
		NextHop:     netip.MustParseAddr("192.0.2.1"),
		Communities: []uint32{64500<<16 | 1, 64500<<16 | 2, 64500<<16 | 3, 64500<<16 | 4, 64500<<16 | 5, 64500<<16 | 6},
	}}
	for _, p := range []string{"198.51.100.0/24", "203.0.113.0/24", "10.20.128.0/17"} {
		u.Announced = append(u.Announced, NLRI{Prefix: netip.MustParsePrefix(p)})
	}
	b, err := AppendUpdate(nil, &u, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != 109 {
		t.Fatalf("%d octets", len(b))
	}
	return b
}

func BenchmarkUpdate(b *testing.B) {
	message := typicalUpdate(b)
	var d Decoder
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	for b.Loop() {
		_, body, _, err := Split(message)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := d.Update(body, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
