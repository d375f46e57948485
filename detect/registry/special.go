package registry

import (
	"net/netip"

	"github.com/routevigil/routevigil/detect/prefixtree"
)

// Special is an entry of IANA's special-purpose registries (RFC 6890), of its list of IPv6 address
// space, or of the ranges set aside for multicast and for the future.
type Special struct {
	Prefix netip.Prefix
	Name   string
	RFC    string
	// Global says that routes to it may stand in the global table all the same.
	Global bool
}

// special holds the facts of the registries; of nested blocks the longest counts. IPv6 outside 2000::/3
// is not global unicast (RFC 4291 §2.4) and needs no finer division, with the one exception of the
// well-known prefix of NAT64.
var special = func() []Special {
	var all []Special
	add := func(global bool, rows ...[3]string) {
		for _, r := range rows {
			all = append(all, Special{netip.MustParsePrefix(r[0]), r[1], r[2], global})
		}
	}
	add(false,
		[3]string{"0.0.0.0/8", "this network", "RFC 791"},
		[3]string{"10.0.0.0/8", "private use", "RFC 1918"},
		[3]string{"100.64.0.0/10", "shared address space", "RFC 6598"},
		[3]string{"127.0.0.0/8", "loopback", "RFC 1122"},
		[3]string{"169.254.0.0/16", "link local", "RFC 3927"},
		[3]string{"172.16.0.0/12", "private use", "RFC 1918"},
		[3]string{"192.0.0.0/24", "protocol assignments", "RFC 6890"},
		[3]string{"192.0.2.0/24", "documentation", "RFC 5737"},
		[3]string{"192.168.0.0/16", "private use", "RFC 1918"},
		[3]string{"198.18.0.0/15", "benchmarking", "RFC 2544"},
		[3]string{"198.51.100.0/24", "documentation", "RFC 5737"},
		[3]string{"203.0.113.0/24", "documentation", "RFC 5737"},
		[3]string{"224.0.0.0/4", "multicast", "RFC 5771"},
		[3]string{"240.0.0.0/4", "reserved", "RFC 1112"},
		[3]string{"::/3", "not global unicast", "RFC 4291"},
		[3]string{"2001:2::/48", "benchmarking", "RFC 5180"},
		[3]string{"2001:10::/28", "overlay identifiers, returned", "RFC 4843"},
		[3]string{"2001:db8::/32", "documentation", "RFC 3849"},
		[3]string{"3fff::/20", "documentation", "RFC 9637"},
		[3]string{"4000::/2", "not global unicast", "RFC 4291"},
		[3]string{"5f00::/16", "segment identifiers of SRv6", "RFC 9602"},
		[3]string{"8000::/1", "not global unicast", "RFC 4291"},
		[3]string{"fc00::/7", "unique local", "RFC 4193"},
		[3]string{"fe80::/10", "link local", "RFC 4291"},
		[3]string{"ff00::/8", "multicast", "RFC 4291"},
	)
	add(true,
		[3]string{"64:ff9b::/96", "NAT64", "RFC 6052"},
		[3]string{"192.0.0.9/32", "anycast of PCP", "RFC 7723"},
		[3]string{"192.0.0.10/32", "anycast of TURN", "RFC 8155"},
		[3]string{"192.31.196.0/24", "AS112 by DNAME", "RFC 7535"},
		[3]string{"192.52.193.0/24", "multicast tunnelling", "RFC 7450"},
		[3]string{"192.88.99.0/24", "6to4 relays, deprecated", "RFC 7526"},
		[3]string{"192.175.48.0/24", "AS112", "RFC 7534"},
		[3]string{"2001::/32", "Teredo", "RFC 4380"},
		[3]string{"2001:3::/32", "multicast tunnelling", "RFC 7450"},
		[3]string{"2001:4:112::/48", "AS112 by DNAME", "RFC 7535"},
		[3]string{"2002::/16", "6to4", "RFC 3056"},
		[3]string{"2620:4f:8000::/48", "AS112", "RFC 7534"},
	)
	return all
}()

var specialTree = func() *prefixtree.Tree {
	t := prefixtree.New()
	for i, s := range special {
		t.Insert(s.Prefix, uint32(i))
	}
	return t
}()

// SpecialPrefix returns the longest special-purpose block that p lies in; ok is false where there is none.
func SpecialPrefix(p netip.Prefix) (s Special, ok bool) {
	var buf [8]uint32
	ids := specialTree.Covering(buf[:0], p)
	if len(ids) == 0 {
		return Special{}, false
	}
	return special[ids[len(ids)-1]], true
}

// Bogon returns why p does not belong in the global table, whoever announces it; ok is false where it may.
func Bogon(p netip.Prefix) (why Special, ok bool) {
	s, ok := SpecialPrefix(p)
	return s, ok && !s.Global
}

// ReservedASN reports ASNs that must not appear in the global table: AS 0 (RFC 7607), AS_TRANS
// (RFC 6793), documentation (RFC 5398), what IANA keeps after it, private use (RFC 6996), and the
// last of each size (RFC 7300).
func ReservedASN(a uint32) bool {
	switch {
	case a == 0, a == 23456, a == 65535, a == 4294967295:
		return true
	case a >= 64496 && a <= 64511, a >= 65536 && a <= 131071:
		return true
	}
	return PrivateASN(a)
}

// PrivateASN reports the ASNs of RFC 6996, which anybody may use inside but not outside.
func PrivateASN(a uint32) bool {
	return a >= 64512 && a <= 65534 || a >= 4200000000 && a <= 4294967294
}
