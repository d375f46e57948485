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
// Most of what is looked up is not there: all the prefixes that might cover another, or lie within it. That, one bit
// of eight a slot tells, which are so few that they stay in the cache.
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

func (p *indexPart) place(hash uint32) int {
	return int(uint64(hash) * uint64(len(p.slots)) >> 32)
}

// bit returns the place of a hash in there.
func (p *indexPart) bit(hash uint32) (octet int, mask uint8) {
	i := uint64(hash) * uint64(len(p.there)) >> 29
	return int(i / 8), 1 << (i % 8)
}

// find returns the id with a hash for which same is true.
func (x *idIndex) find(hash uint64, same func(id uint32) bool) (id uint32, ok bool) {
	p := &x.parts[hash>>56]
	if p.used == 0 {
		return 0, false
	}
	if octet, mask := p.bit(uint32(hash)); p.there[octet]&mask == 0 {
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
		p.slots = make([]indexSlot, len(old)+len(old)/2+8)
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

// hashPrefix is the hash of the first n bits of an address given in words.
func hashPrefix(hi, lo uint64, n int, is4 bool) uint64 {
	if n < 64 {
		hi, lo = hi&^(^uint64(0)>>n), 0
	} else {
		lo &^= ^uint64(0) >> (n - 64)
	}
	if is4 {
		return hash(hi|uint64(n), 0)
	}
	return hash(hi, hash(lo, uint64(n)))
}
