package kafkabus

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
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
type duplicates struct {
	window time.Duration
	known  map[digest]*sighting
	queue  []seenAt // in order of time
}

type digest = [16]byte

type sighting struct {
	last   ingest.Time
	most   uint32 // times that one writer has said it
	counts []count
}

type count struct {
	writer uint64
	n      uint32
}

type seenAt struct {
	digest digest
	time   ingest.Time
}

// seen notes that a writer said something, and reports whether it is known already.
func (d *duplicates) seen(what digest, writer uint64, now ingest.Time) bool {
	if d.known == nil {
		d.known = map[digest]*sighting{}
	}
	s := d.known[what]
	if s == nil {
		s = &sighting{last: now - 1}
		d.known[what] = s
	}
	if s.last != now {
		s.last = now
		d.queue = append(d.queue, seenAt{what, now})
	}
	i := slices.IndexFunc(s.counts, func(c count) bool { return c.writer == writer })
	if i < 0 {
		i = len(s.counts)
		s.counts = append(s.counts, count{writer: writer})
	}
	s.counts[i].n++
	if s.counts[i].n <= s.most {
		return true
	}
	s.most = s.counts[i].n
	return false
}

// forget drops what was said last before the window.
func (d *duplicates) forget(now ingest.Time) {
	n := 0
	for ; n < len(d.queue) && now.Sub(d.queue[n].time) > d.window; n++ {
		if s := d.known[d.queue[n].digest]; s != nil && s.last == d.queue[n].time {
			delete(d.known, d.queue[n].digest)
		}
	}
	if d.queue = d.queue[n:]; len(d.queue) == 0 {
		d.queue = nil
	}
}

func randomID() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

func sortRounds(keys []roundKey) {
	slices.SortFunc(keys, func(a, b roundKey) int { return cmp.Or(cmp.Compare(a.Writer, b.Writer), cmp.Compare(a.Round, b.Round)) })
}
