package journal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect/rpki"
)

// Change is one difference between what was in use and what came after. Where neither VRP nor ASPA is set it is about
// all: there was no data that could be used any more (Removed), or there was again, or a whole set was not put to use (Held).
type Change struct {
	rpki.Change
	Position Position
	Source   string // of the set that came after, "" where there was none
	Held     string // why the set of Source was held back; "" where it was not. Nothing changed by that.
}

// Position is the place of a change in the journal. A later change has a greater one.
type Position struct {
	Segment uint64 // when it begins, microseconds since 1970
	Frame   uint64 // in the segment; the first tells what changed since the segment before
	Index   uint64 // in the frame
}

func (p Position) compare(q Position) int {
	return cmp.Or(cmp.Compare(p.Segment, q.Segment), cmp.Compare(p.Frame, q.Frame), cmp.Compare(p.Index, q.Index))
}

// Query selects changes. A zero field selects all.
type Query struct {
	Prefix   netip.Prefix // only of VRPs that are this prefix, a part of it, or cover it
	ASN      uint32       // only of VRPs of this AS, and of ASPAs in which it is customer or provider
	From, To time.Time    // only at or after From, and before To
	Before   Position     // only before this place
	Limit    int          // how many at most, at least 1
}

// matches says whether a change is asked for. What is about all is about everything.
func (q *Query) matches(c *Change) bool {
	switch {
	case q.Before != (Position{}) && c.Position.compare(q.Before) >= 0, c.At.Before(q.From), !q.To.IsZero() && !c.At.Before(q.To):
		return false
	case c.VRP != nil:
		return (!q.Prefix.IsValid() || c.VRP.Prefix.Overlaps(q.Prefix)) && (q.ASN == 0 || c.VRP.ASN == q.ASN)
	case c.ASPA != nil:
		return !q.Prefix.IsValid() && (q.ASN == 0 || c.ASPA.Customer == q.ASN || slices.Contains(c.ASPA.Before, q.ASN) || slices.Contains(c.ASPA.After, q.ASN))
	}
	return true
}

// readAtMost is how many octets of segments one answer reads before it leaves the rest to the next: some seconds' work. A
// segment is always read to its end.
const readAtMost = 32 << 20

// Changes returns changes, the latest first, and where the next answer has to begin: the zero Position where there are no
// more. An answer may hold less than the limit, or nothing, and not be the last: it reads so much of the journal and not
// more. It holds three sets at most, whatever changed. What the first record of all says is no change.
func (j *Journal) Changes(ctx context.Context, q Query) (changes []Change, next Position, err error) {
	j.reading.Lock()
	defer j.reading.Unlock()
	segments, err := j.segments()
	if err != nil {
		return nil, Position{}, err
	}
	var after *first // of the segment after the one that is read
	octets := int64(0)
	for i := len(segments) - 1; i >= 0; i-- {
		ends := uint64(math.MaxUint64) // in here is what comes before the second frame of that segment
		if i+1 < len(segments) {
			ends = segments[i+1].micros()
			if segments[i+1].begin.Before(q.From) {
				break
			}
		}
		if !q.To.IsZero() && !segments[i].begin.Before(q.To) || q.Before != (Position{}) && q.Before.compare(Position{segments[i].micros(), 1, 0}) <= 0 {
			after = nil
			continue
		}
		if octets >= j.readAtMost {
			return changes, Position{ends, 1, 0}, nil
		}
		if after == nil && i+1 < len(segments) {
			if after, err = readFirst(segments[i+1]); err != nil {
				return nil, Position{}, err
			}
		}
		w := window{size: q.Limit + 1 - len(changes)}
		begin, n, err := changesIn(ctx, segments[i], after, func(c Change) {
			if q.matches(&c) {
				w.add(c)
			}
		})
		if errors.Is(err, fs.ErrNotExist) {
			break // it was dropped meanwhile, with all before it
		}
		if err != nil {
			return nil, Position{}, err
		}
		changes = w.newestFirst(changes)
		if len(changes) > q.Limit {
			changes = changes[:q.Limit]
			return changes, changes[q.Limit-1].Position, nil
		}
		after = begin
		octets += n
	}
	return changes, Position{}, nil
}

// window holds the last changes that were added, and nothing else of the frames that they are from.
type window struct {
	size  int
	ring  []Change
	count int
}

func (w *window) add(c Change) {
	if c.VRP != nil {
		v := *c.VRP
		c.VRP = &v
	}
	if len(w.ring) < w.size {
		w.ring = append(w.ring, c)
	} else {
		w.ring[w.count%w.size] = c
	}
	w.count++
}

// newestFirst appends them to a list.
func (w *window) newestFirst(list []Change) []Change {
	for i := range len(w.ring) {
		list = append(list, w.ring[(w.count-1-i)%w.size])
	}
	return list
}

func (s segment) micros() uint64 { return uint64(s.begin.UnixMicro()) }

// first is the first frame of a segment.
type first struct {
	segment uint64
	frame   frame
}

func readFirst(s segment) (*first, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, _, err := readFrame(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	begin, err := decode(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.path, err)
	}
	return &first{s.micros(), begin}, nil
}

// changesIn tells what changed in a segment after its first frame, and then what the first frame of the one after it
// changed, if that is not nil; in the order in which it happened. It returns the segment's first frame and how many octets it has.
func changesIn(ctx context.Context, s segment, after *first, tell func(Change)) (*first, int64, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	var begin *first
	var known *rpki.Set // the last that was in use, where there is nothing now
	octets := int64(0)
	st, err := replay(f, s.path, never, func(before *state, next frame, n int64) error {
		octets += n
		if before.frames == 0 {
			begin = &first{s.micros(), next}
			return ctx.Err()
		}
		at := Position{Segment: s.micros(), Frame: uint64(before.frames)}
		if next.kind == kindHeld {
			tell(Change{Change: rpki.Change{At: next.at}, Position: at, Source: next.from, Held: next.why})
			return ctx.Err()
		}
		if next.kind == kindDelta {
			before.tellDelta(next, at, tell)
			return ctx.Err()
		}
		set, err := before.set()
		if err != nil {
			return err
		}
		known = cmp.Or(set, known)
		tellWhole(set, known, next, at, tell)
		return ctx.Err()
	})
	if torn := (*tornError)(nil); errors.As(err, &torn) && st.frames > 0 {
		err = nil // it is being written, or a crash cut it off
	}
	if err != nil {
		return nil, 0, err
	}
	if after != nil {
		set, err := st.set()
		if err != nil {
			return nil, 0, fmt.Errorf("%s: %w", s.path, err)
		}
		tellWhole(set, cmp.Or(set, known), after.frame, Position{Segment: after.segment}, tell)
	}
	return begin, octets, nil
}

// tellDelta tells what a frame changes.
func (st *state) tellDelta(f frame, at Position, tell func(Change)) {
	one := func(c rpki.Change) {
		c.At = f.at
		tell(Change{Change: c, Position: at, Source: f.from})
		at.Index++
	}
	for i := range f.delta.Withdrawn {
		one(rpki.Change{Removed: true, VRP: &f.delta.Withdrawn[i]})
	}
	for i := range f.delta.Announced {
		one(rpki.Change{VRP: &f.delta.Announced[i]})
	}
	for _, customer := range slices.Sorted(maps.Keys(f.delta.ASPAs)) {
		c := rpki.ASPAChange{Customer: customer}
		if providers := f.delta.ASPAs[customer]; len(providers) > 0 {
			c.After = providers
		}
		if providers, ok := st.aspas[customer]; !ok {
			if providers, ok = st.base.ASPAs()[customer]; ok {
				c.Before = append([]uint32{}, providers...)
			}
		} else if len(providers) > 0 {
			c.Before = providers
		}
		one(rpki.Change{ASPA: &c})
	}
}

// tellWhole tells what a frame that replaces everything changes. known is before or, where that is nil, the last set
// that was in use, if that is known.
func tellWhole(before, known *rpki.Set, f frame, at Position, tell func(Change)) {
	one := func(c rpki.Change) {
		tell(Change{Change: c, Position: at, Source: f.whole.Source()})
		at.Index++
	}
	if (before == nil) != (f.whole == nil) {
		one(rpki.Change{At: f.at, Removed: f.whole == nil})
	}
	if known == nil || f.whole == nil {
		return
	}
	for c := range rpki.Diff(known, f.whole, f.at) {
		one(c)
	}
}
