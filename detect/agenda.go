package detect

import (
	"cmp"
	"slices"

	"github.com/routevigil/routevigil/ingest"
)

// agenda says which entries are to be looked at when. Of an entry that is to be looked at earlier than was said, the later time
// stays; who takes the entries of a time must know which are still meant. The times that many entries share cost little: the few
// are kept in order, the one that comes next last.
type agenda struct {
	times []ingest.Time // the latest first
	ids   map[ingest.Time][]uint32
}

func (a *agenda) add(at ingest.Time, id uint32) {
	if a.ids == nil {
		a.ids = map[ingest.Time][]uint32{}
	}
	if len(a.ids[at]) == 0 {
		i, _ := slices.BinarySearchFunc(a.times, at, func(t, at ingest.Time) int { return cmp.Compare(at, t) })
		a.times = slices.Insert(a.times, i, at)
	}
	a.ids[at] = append(a.ids[at], id)
}

// next is the earliest time of which some entry is meant; 0 where there is none. It forgets times before it.
func (a *agenda) next(meant func(id uint32, at ingest.Time) bool) ingest.Time {
	for n := len(a.times); n > 0; n = len(a.times) {
		at := a.times[n-1]
		if slices.ContainsFunc(a.ids[at], func(id uint32) bool { return meant(id, at) }) {
			return at
		}
		a.pop()
	}
	return 0
}

// take returns the entries that are meant of all times up to now, in order, and forgets these times.
func (a *agenda) take(now ingest.Time, meant func(id uint32, at ingest.Time) bool) []uint32 {
	var due []uint32
	for n := len(a.times); n > 0 && a.times[n-1] <= now; n = len(a.times) {
		at := a.times[n-1]
		for _, id := range a.pop() {
			if meant(id, at) {
				due = append(due, id)
			}
		}
	}
	slices.Sort(due)
	return slices.Compact(due)
}

func (a *agenda) pop() []uint32 {
	last := len(a.times) - 1
	at := a.times[last]
	a.times = a.times[:last]
	ids := a.ids[at]
	delete(a.ids, at)
	return ids
}
