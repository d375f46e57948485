package detect

import (
	"net/netip"

	"github.com/routevigil/routevigil/detect/prefixtree"
	"github.com/routevigil/routevigil/detect/topology"
)

func reservedASN(asn uint32) bool { return topology.ReservedASN(asn) }

// specialPurpose are the blocks of the IANA special-purpose registries that are not globally
// reachable, multicast and class E: none belongs in the global table.
var specialPurpose = []struct{ prefix, why string }{
	{"0.0.0.0/8", "this network, RFC 791"}, {"10.0.0.0/8", "private use, RFC 1918"},
	{"100.64.0.0/10", "shared address space, RFC 6598"}, {"127.0.0.0/8", "loopback, RFC 1122"},
	{"169.254.0.0/16", "link local, RFC 3927"}, {"172.16.0.0/12", "private use, RFC 1918"},
	{"192.0.0.0/24", "protocol assignments, RFC 6890"}, {"192.0.2.0/24", "documentation, RFC 5737"},
	{"192.168.0.0/16", "private use, RFC 1918"}, {"198.18.0.0/15", "benchmarking, RFC 2544"},
	{"198.51.100.0/24", "documentation, RFC 5737"}, {"203.0.113.0/24", "documentation, RFC 5737"},
	{"224.0.0.0/4", "multicast, RFC 5771"}, {"240.0.0.0/4", "reserved, RFC 1112"},
	{"::/3", "not global unicast, RFC 4291"}, {"2001:2::/48", "benchmarking, RFC 5180"},
	{"2001:db8::/32", "documentation, RFC 3849"}, {"3fff::/20", "documentation, RFC 9637"},
	{"4000::/2", "not global unicast, RFC 4291"}, {"8000::/1", "not global unicast, RFC 4291"},
}

var specialPurposeTree = func() *prefixtree.Tree {
	t := prefixtree.New()
	for i, s := range specialPurpose {
		t.Insert(netip.MustParsePrefix(s.prefix), uint32(i))
	}
	return t
}()

// bogonPrefix tells why p does not belong in the global table; ok is false where it may.
func bogonPrefix(p netip.Prefix) (why string, ok bool) {
	var buf [8]uint32
	ids := specialPurposeTree.Covering(buf[:0], p)
	if len(ids) == 0 {
		return "", false
	}
	return specialPurpose[ids[0]].why, true
}
