// Package prefixtree answers "what is known that covers this prefix?" for both address families.
//
// It hides kentik/patricia, which has no exact lookup, no matched length and no safety for a writer
// beside readers: a tree here holds only ids (4 bytes) into the caller's own slab of records, where
// the prefix itself stands. A covering walk over 700,000 prefixes takes about 2 µs, so callers keep
// it off the path of repeated updates.
package prefixtree

import (
	"encoding/binary"
	"net/netip"

	"github.com/kentik/patricia"
	"github.com/kentik/patricia/uint32_tree"
)

// Tree maps prefixes to ids. Many readers may use it at once while nobody inserts.
type Tree struct {
	v4 *uint32_tree.TreeV4
	v6 *uint32_tree.TreeV6
}

// New returns an empty tree.
func New() *Tree {
	return &Tree{v4: uint32_tree.NewTreeV4(), v6: uint32_tree.NewTreeV6()}
}

// Insert adds id under p. A prefix may hold several ids.
func (t *Tree) Insert(p netip.Prefix, id uint32) {
	if p.Addr().Is4() {
		t.v4.Add(v4(p), id, nil)
	} else {
		t.v6.Add(v6(p), id, nil)
	}
}

// Covering appends to dst the ids of every inserted prefix equal to p or containing it, the
// shortest prefix first, and returns it.
func (t *Tree) Covering(dst []uint32, p netip.Prefix) []uint32 {
	if p.Addr().Is4() {
		return t.v4.FindTagsAppend(dst, v4(p))
	}
	return t.v6.FindTagsAppend(dst, v6(p))
}

func v4(p netip.Prefix) patricia.IPv4Address {
	a := p.Masked().Addr().As4()
	return patricia.IPv4Address{Address: binary.BigEndian.Uint32(a[:]), Length: uint(p.Bits())}
}

func v6(p netip.Prefix) patricia.IPv6Address {
	a := p.Masked().Addr().As16()
	return patricia.IPv6Address{
		Left: binary.BigEndian.Uint64(a[:8]), Right: binary.BigEndian.Uint64(a[8:]), Length: uint(p.Bits()),
	}
}
