package rpki

import (
	"net/netip"
	"strings"
	"testing"
)

func TestValidate(t *testing.T) {
	s, err := Read(strings.NewReader(`{"metadata":{"n":[1,{"x":2}]},"roas":[
		{"asn":64500,"prefix":"192.0.2.0/24","maxLength":24,"ta":"test"},
		{"asn":"AS64501","prefix":"192.0.0.0/16","maxLength":22},
		{"asn":0,"prefix":"198.51.100.0/24","maxLength":32},
		{"asn":"64502","prefix":"2001:db8::/32"}],"aspas":[]}`), "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, prefix string
		origin       uint32
		none         bool
		state        State
		reason       string
		vrps         int
	}{
		{"exact", "192.0.2.0/24", 64500, false, Valid, "valid", 2},
		{"another origin", "192.0.2.0/24", 64999, false, Invalid, "invalid_asn", 2},
		{"longer than max", "192.0.2.0/25", 64500, false, Invalid, "invalid_length", 2},
		{"covering VRP within its max", "192.0.4.0/22", 64501, false, Valid, "valid", 1},
		{"covering VRP beyond its max", "192.0.4.0/23", 64501, false, Invalid, "invalid_length", 1},
		{"another origin, longer than max", "192.0.4.0/23", 64999, false, Invalid, "invalid_both", 1},
		{"another origin within one max but not the other", "192.0.2.0/24", 64501, false, Invalid, "invalid_length", 2},
		{"no origin", "192.0.2.0/24", 0, true, Invalid, "invalid_asn", 2},
		{"AS0 VRP", "198.51.100.0/24", 64500, false, Invalid, "as0", 1},
		{"AS0 VRP never validates AS0", "198.51.100.0/24", 0, false, Invalid, "as0", 1},
		{"nothing covers", "203.0.113.0/24", 64500, false, NotFound, "not_found", 0},
		{"shorter than the VRP", "192.0.0.0/15", 64501, false, NotFound, "not_found", 0},
		{"IPv6, max defaults to the length", "2001:db8::/32", 64502, false, Valid, "valid", 1},
		{"IPv6 more-specific", "2001:db8::/33", 64502, false, Invalid, "invalid_length", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := s.Validate(netip.MustParsePrefix(c.prefix), c.origin, !c.none)
			if v.State != c.state || v.Reason != c.reason || len(v.VRPs) != c.vrps {
				t.Errorf("got %v %s with %d VRPs, want %v %s with %d", v.State, v.Reason, len(v.VRPs), c.state, c.reason, c.vrps)
			}
		})
	}
	if got := (*Set)(nil).Validate(netip.MustParsePrefix("192.0.2.0/24"), 1, true); got.State != Unavailable {
		t.Errorf("no set: %v, want unavailable", got.State)
	}
}

func TestReadRejects(t *testing.T) {
	for name, in := range map[string]string{
		"empty":          ``,
		"truncated":      `{"roas":[{"asn":1,"prefix":"192.0.2.0/24"`,
		"no roas":        `{"vrps":[]}`,
		"no ASN":         `{"roas":[{"prefix":"192.0.2.0/24"}]}`,
		"no customer":    `{"aspas":[{"providers":[1]}]}`,
		"bad provider":   `{"aspas":[{"customer_asid":1,"providers":["x"]}]}`,
		"array":          `[]`,
		"bad ASN":        `{"roas":[{"asn":"ASx","prefix":"192.0.2.0/24"}]}`,
		"ASN too large":  `{"roas":[{"asn":4294967296,"prefix":"192.0.2.0/24"}]}`,
		"bad prefix":     `{"roas":[{"asn":1,"prefix":"192.0.2.0"}]}`,
		"host bits":      `{"roas":[{"asn":1,"prefix":"192.0.2.1/24"}]}`,
		"max too short":  `{"roas":[{"asn":1,"prefix":"192.0.2.0/24","maxLength":23}]}`,
		"max too long":   `{"roas":[{"asn":1,"prefix":"192.0.2.0/24","maxLength":33}]}`,
		"roas an object": `{"roas":{}}`,
	} {
		t.Run(name, func(t *testing.T) {
			if v, err := Read(strings.NewReader(in), "test"); err == nil {
				t.Errorf("accepted as %v", v)
			}
		})
	}
}
