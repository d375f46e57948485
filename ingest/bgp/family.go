package bgp

import "fmt"

// Family is an address family and its subsequent identifier (RFC 4760 §3): AFI<<8 | SAFI.
type Family uint32

// The families whose routes are decoded. Every other family is recognised and skipped: see
// [Update.Skipped].
const (
	IPv4Unicast   Family = 1<<8 | 1
	IPv4Multicast Family = 1<<8 | 2
	IPv6Unicast   Family = 2<<8 | 1
	IPv6Multicast Family = 2<<8 | 2
)

// FamilyOf combines the two identifiers.
func FamilyOf(afi uint16, safi uint8) Family { return Family(afi)<<8 | Family(safi) }

// AFI returns the address family identifier.
func (f Family) AFI() uint16 { return uint16(f >> 8) }

// SAFI returns the subsequent address family identifier.
func (f Family) SAFI() uint8 { return uint8(f) }

// index numbers the decoded families 0 to 3; ok is false for all others.
func (f Family) index() (i uint, ok bool) {
	afi, safi := uint(f.AFI())-1, uint(f.SAFI())-1
	return afi<<1 | safi, afi <= 1 && safi <= 1
}

var (
	afiNames  = map[uint16]string{1: "ipv4", 2: "ipv6", 25: "l2vpn", 16388: "bgp-ls", 16397: "mup"}
	safiNames = map[uint8]string{1: "unicast", 2: "multicast", 4: "labelled", 5: "mcast-vpn", 65: "vpls", 70: "evpn",
		71: "ls", 72: "ls-vpn", 73: "sr-policy", 85: "mup", 128: "mpls-vpn", 129: "mcast-vpn-unicast", 132: "route-target",
		133: "flow", 134: "flow-vpn"}
)

// String gives "ipv4/unicast", or numbers where there is no name.
func (f Family) String() string {
	afi, ok := afiNames[f.AFI()]
	if !ok {
		afi = fmt.Sprintf("afi%d", f.AFI())
	}
	safi, ok := safiNames[f.SAFI()]
	if !ok {
		safi = fmt.Sprintf("safi%d", f.SAFI())
	}
	return afi + "/" + safi
}

// FamilySet is a set of decoded families; the zero value is empty.
type FamilySet uint8

// AllFamilies holds every family that is decoded.
const AllFamilies FamilySet = 1<<4 - 1

// Unicast holds the two families of which routes say where packets go.
const Unicast FamilySet = 1<<0 | 1<<2

// Families makes a set. Families that are not decoded are left out.
func Families(fs ...Family) FamilySet {
	var s FamilySet
	for _, f := range fs {
		if i, ok := f.index(); ok {
			s |= 1 << i
		}
	}
	return s
}

// Has reports whether f is in the set.
func (s FamilySet) Has(f Family) bool {
	i, ok := f.index()
	return ok && s&(1<<i) != 0
}
