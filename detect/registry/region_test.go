package registry

import (
	"net/netip"
	"testing"
)

// Networks and blocks that everybody knows where to find, and the ends of blocks.
func TestRIRs(t *testing.T) {
	for asn, want := range map[uint32]string{0: "", 174: "arin", 3333: "ripencc", 3320: "ripencc", 3356: "arin", 4608: "apnic", 7018: "arin", 12389: "ripencc", 17557: "apnic",
		27648: "lacnic", 36864: "afrinic", 37887: "afrinic", 37888: "apnic", 64098: "apnic", 64198: "", 64512: "", 65551: "", 131072: "apnic", 196607: "apnic",
		196608: "ripencc", 262144: "lacnic", 327680: "afrinic", 396982: "arin", 458752: "", 4200000000: ""} {
		if got := RIROfASN(asn); got != want {
			t.Errorf("AS%d is of %q, want %q", asn, got, want)
		}
	}
	for p, want := range map[string]string{"1.1.1.0/24": "apnic", "8.8.8.0/24": "", "10.0.0.0/8": "", "23.0.0.0/12": "arin", "77.0.0.0/8": "ripencc", "95.255.255.0/24": "ripencc",
		"96.0.0.0/12": "arin", "193.0.0.0/21": "ripencc", "192.0.2.0/24": "", "200.160.0.0/20": "lacnic", "196.216.2.0/24": "", "41.0.0.0/11": "afrinic", "223.255.255.0/24": "apnic",
		"224.0.0.0/4": "", "64.0.0.0/7": "", "2001:db8::/32": "", "2400:cb00::/32": "apnic", "2620:0:860::/46": "", "2606:4700::/32": "arin", "2801::/24": "lacnic",
		"2a00::/11": "", "2a0e:b107::/32": "ripencc", "2c0f:f248::/32": "afrinic"} {
		if got := RIROf(netip.MustParsePrefix(p)); got != want {
			t.Errorf("%s is of %q, want %q", p, got, want)
		}
	}
}
