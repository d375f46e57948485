package kafkabus

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/routevigil/routevigil/ingest"
)

// duplicates knows what was said lately, so that what two collectors hear of one feed counts once. A message
// that one writer gives several times is several: a route may be announced, withdrawn and announced again
// under one stamp. So the n-th time that a writer says something is a duplicate if another has said it n
// times before.
//
// What it knows depends upon nothing but the steps of the last window, counted in the steps' watermarks: a
// follower that begins a window earlier knows the same.
//
// It is a hash table of its own because nearly everything that is looked up is new, once or twice for each
// update of half a minute: a Go map of such a size costs more than all the rest of reading. Here what is new
// costs one access to memory that is far away, the collector of garbage has nothing to go through, and in the
// steady state nothing is allocated. It takes 100 to 150 octets for each update of the window.
type duplicates struct {
	window time.Duration

	slots     []slot // a power of two, at most half of them in use; linear probing
	used      int
	sightings []sighting
	free      []uint32 // places in sightings
	queue     []seenAt // in order of time, from begin on
	begin     int
	others    map[uint32][]count // of what more than two writers have said, by place
}

type digest = [16]byte

// slot says where what has this digest is noted. Its home is given by the first bits of the tag.
type slot struct {
	tag uint32 // of the digest
	at  uint32 // place in sightings, plus one; zero where the slot is empty
}

type sighting struct {
	digest digest
	last   ingest.Time
	counts [2]count // of the first writers
	most   uint32   // times that one writer has said it
}

type count struct {
	writer uint64
	n      uint32
}

type seenAt struct {
	time ingest.Time
	at   uint32
}

const leastSlots = 1 << 10

func tagOf(d digest) uint32 { return binary.BigEndian.Uint32(d[:]) }

// home is where the search for a tag begins.
func (d *duplicates) home(tag uint32) int {
	return int(tag >> (32 - bits.TrailingZeros(uint(len(d.slots)))))
}

// find returns the slot of a digest, or the empty one where it would be.
func (d *duplicates) find(what *digest) int {
	tag := tagOf(*what)
	for i := d.home(tag); ; i = (i + 1) & (len(d.slots) - 1) {
		s := d.slots[i]
		if s.at == 0 || s.tag == tag && d.sightings[s.at-1].digest == *what {
			return i
		}
	}
}

// seen notes that a writer said something, and reports whether it is known already.
func (d *duplicates) seen(what digest, writer uint64, now ingest.Time) bool {
	if 2*(d.used+1) > len(d.slots) {
		d.rebuild(max(leastSlots, 2*len(d.slots)))
	}
	slotAt := d.find(&what)
	at := d.slots[slotAt].at - 1
	if d.slots[slotAt].at == 0 {
		fresh := sighting{digest: what, last: now - 1}
		if n := len(d.free); n > 0 {
			at = d.free[n-1]
			d.free = d.free[:n-1]
			d.sightings[at] = fresh
		} else {
			at = uint32(len(d.sightings))
			d.sightings = append(d.sightings, fresh)
		}
		d.slots[slotAt] = slot{tagOf(what), at + 1}
		d.used++
	}
	s := &d.sightings[at]
	if s.last != now {
		s.last = now
		d.queue = append(d.queue, seenAt{now, at})
	}
	n := d.count(at, writer)
	n.n++
	if n.n <= s.most {
		return true
	}
	s.most = n.n
	return false
}

// count is where the times are counted that a writer has said what is noted at a place.
func (d *duplicates) count(at uint32, writer uint64) *count {
	s := &d.sightings[at]
	for i := range s.counts {
		c := &s.counts[i]
		if c.n == 0 {
			c.writer = writer
		}
		if c.writer == writer {
			return c
		}
	}
	list := d.others[at]
	i := slices.IndexFunc(list, func(c count) bool { return c.writer == writer })
	if i < 0 {
		i = len(list)
		list = append(list, count{writer: writer})
		if d.others == nil {
			d.others = map[uint32][]count{}
		}
		d.others[at] = list
	}
	return &list[i]
}

// forget drops what was said last before the window.
func (d *duplicates) forget(now ingest.Time) {
	for ; d.begin < len(d.queue) && now.Sub(d.queue[d.begin].time) > d.window; d.begin++ {
		q := d.queue[d.begin]
		if s := &d.sightings[q.at]; s.last == q.time {
			d.remove(d.find(&s.digest))
			d.free = append(d.free, q.at)
			delete(d.others, q.at)
		}
	}
	if 2*d.begin >= len(d.queue) {
		d.queue = d.queue[:copy(d.queue, d.queue[d.begin:])]
		d.begin = 0
	}
	if len(d.slots) > leastSlots && 16*d.used < len(d.slots) {
		d.rebuild(len(d.slots) / 4)
	}
}

// remove empties a slot, and moves into it what is not at home behind it, so that searches still find it.
func (d *duplicates) remove(i int) {
	mask := len(d.slots) - 1
	for j := i; ; {
		j = (j + 1) & mask
		s := d.slots[j]
		if s.at == 0 {
			break
		}
		if (j-d.home(s.tag))&mask >= (j-i)&mask {
			d.slots[i] = s
			i = j
		}
	}
	d.slots[i] = slot{}
	d.used--
}

// rebuild moves everything into memory for so many slots.
func (d *duplicates) rebuild(size int) {
	old := *d
	d.slots, d.used = make([]slot, size), 0
	d.sightings, d.free, d.others = make([]sighting, 0, size/2), nil, nil
	d.queue, d.begin = make([]seenAt, 0, size/2), 0
	for _, q := range old.queue[old.begin:] {
		s := &old.sightings[q.at]
		if s.last != q.time {
			continue // said again later
		}
		at := uint32(len(d.sightings))
		d.sightings = append(d.sightings, *s)
		d.queue = append(d.queue, seenAt{q.time, at})
		d.slots[d.find(&s.digest)] = slot{tagOf(s.digest), at + 1}
		d.used++
		if list := old.others[q.at]; list != nil {
			if d.others == nil {
				d.others = map[uint32][]count{}
			}
			d.others[at] = list
		}
	}
}

// NewName returns a name for one who claims something, which nobody else has.
func NewName() string { return fmt.Sprintf("%016x", randomID()) }

func randomID() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

func sortRounds(keys []roundKey) {
	slices.SortFunc(keys, func(a, b roundKey) int { return cmp.Or(cmp.Compare(a.Writer, b.Writer), cmp.Compare(a.Round, b.Round)) })
}
