package detect

import (
	"encoding/binary"
	"math/bits"
	"math/rand/v2"
	"net/netip"
)

// idIndex finds ids by the hash of what they stand for, which it leaves to its owner to keep: 12 to 18 bytes an id,
// where a map from prefixes takes 47 and more, and one cache line a look-up. It consists of parts, so that no
// insertion waits for all of it to grow.
//
// What differs in the last three bits of the hash alone lies together, eight slots to a cache line: by hashPrefix, neighbours of
// one length, as come together in messages, in tables and in searches.
//
// Most of what is looked for around a prefix is not there: all that might cover it, or lie within it, or be meant by it. That, one
// bit of eight a slot tells, which are so few that they stay in the cache.
type idIndex struct {
	parts [256]indexPart // by the first octet of the hash
}

// indexPart is an open hash table: an id lies in the first free slot from where its hash says. No more than three of
// four slots are taken.
type indexPart struct {
	slots []indexSlot
	used  int
	there []uint8 // a bit for each hash that is there; as many octets as slots
}

// indexSlot holds one id and the end of its hash, by which nearly everything else can be told from it without a look
// at what it stands for.
type indexSlot struct {
	hash uint32
	id   uint32 // plus 1; 0 where the slot is free
}

// slotsPerLine is how many slots lie in one line of the processor's cache.
const slotsPerLine = 8

func (p *indexPart) place(hash uint32) int {
	line := uint64(hash/slotsPerLine) * uint64(len(p.slots)/slotsPerLine) >> 29
	return int(line*slotsPerLine) + int(hash%slotsPerLine)
}

// bit returns the place of a hash in there.
func (p *indexPart) bit(hash uint32) (octet int, mask uint8) {
	return int(uint64(hash/slotsPerLine) * uint64(len(p.there)) >> 29), 1 << (hash % slotsPerLine)
}

// may reports whether find may find something, for the hash and for any of the eight that differ in the last three bits.
func (x *idIndex) may(hash uint64) (this, any bool) {
	p := &x.parts[hash>>56]
	if p.used == 0 {
		return false, false
	}
	octet, mask := p.bit(uint32(hash))
	return p.there[octet]&mask != 0, p.there[octet] != 0
}

// find returns the id with a hash for which same is true.
func (x *idIndex) find(hash uint64, same func(id uint32) bool) (id uint32, ok bool) {
	p := &x.parts[hash>>56]
	if p.used == 0 {
		return 0, false
	}
	for i := p.place(uint32(hash)); ; {
		s := p.slots[i]
		if s.id == 0 {
			return 0, false
		}
		if s.hash == uint32(hash) && same(s.id-1) {
			return s.id - 1, true
		}
		if i++; i == len(p.slots) {
			i = 0
		}
	}
}

// add adds an id that find does not find.
func (x *idIndex) add(hash uint64, id uint32) {
	p := &x.parts[hash>>56]
	if p.used*4 >= len(p.slots)*3 {
		old := p.slots
		p.slots = make([]indexSlot, (len(old)+len(old)/2+slotsPerLine)/slotsPerLine*slotsPerLine)
		p.there = make([]uint8, len(p.slots))
		for _, s := range old {
			if s.id != 0 {
				p.put(s)
			}
		}
	}
	p.put(indexSlot{uint32(hash), id + 1})
	p.used++
}

func (p *indexPart) put(s indexSlot) {
	octet, mask := p.bit(s.hash)
	p.there[octet] |= mask
	i := p.place(s.hash)
	for p.slots[i].id != 0 {
		if i++; i == len(p.slots) {
			i = 0
		}
	}
	p.slots[i] = s
}

// hashSeed differs from run to run, lest somebody announce what all falls into one place. Nothing but the place of
// an id in an index depends on it.
var hashSeed = [2]uint64{rand.Uint64(), rand.Uint64()}

// hash mixes two words; whoever does not know the seed cannot choose them so that hashes meet.
func hash(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a^hashSeed[0], b^hashSeed[1])
	hi, lo = bits.Mul64(hi^lo^hashSeed[1], 0x9e3779b97f4a7c15)
	return hi ^ lo
}

// words is an address in two words, of which an IPv4 address fills the first half of the first.
func words(a netip.Addr) (hi, lo uint64) {
	if a.Is4() {
		b := a.As4()
		return uint64(binary.BigEndian.Uint32(b[:])) << 32, 0
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}

// hashPrefix is the hash of the first n bits of an address given in words. Of eight neighbours it differs in the last three bits
// alone.
func hashPrefix(hi, lo uint64, n int, is4 bool) uint64 {
	const last = slotsPerLine - 1
	var neighbour uint64
	if n <= 64 {
		neighbour = hi >> (64 - n) & last
		hi, lo = hi&^(^uint64(0)>>n)&^(last<<(64-n)), 0
	} else {
		neighbour = lo >> (128 - n) & last
		lo = lo &^ (^uint64(0) >> (n - 64)) &^ (last << (128 - n))
	}
	if is4 {
		hi = hash(hi|uint64(n), 0)
	} else {
		hi = hash(hi, hash(lo, uint64(n)))
	}
	return hi&^last | neighbour
}
