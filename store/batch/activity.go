package batch

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
)

// A Counter makes the answer to an ActivityQuery out of what it is given. Where origins are told apart there are two
// rounds: the first counts each origin, the second fills the buckets of those that the first chose. So memory is a count
// for each origin, some 50 bytes, and the buckets of the answer.
type Counter struct {
	Filter *Filter // what is to be counted, its time already in whole buckets
	q      store.ActivityQuery
	bucket int64 // microseconds

	totals map[uint32]*store.Count // of the first round; nil outside it
	series map[uint32][]store.Count
}

// NewCounter refuses a query that cannot be answered.
func NewCounter(q store.ActivityQuery) (*Counter, error) {
	const span = time.Duration(math.MaxInt64) / 2
	switch {
	case q.Bucket < time.Second || q.Bucket > 366*24*time.Hour || q.Bucket%time.Second != 0:
		return nil, fmt.Errorf("a bucket of %s: it must be whole seconds, at most 366 days", q.Bucket)
	case q.From.IsZero() || !q.From.Before(q.To):
		return nil, fmt.Errorf("from %s to %s: both are needed, to must be later", q.From, q.To)
	case q.Origins < 0:
		return nil, fmt.Errorf("%d origins", q.Origins)
	case q.From.Unix() < math.MinInt32 || q.To.Sub(q.From) > span:
		return nil, fmt.Errorf("from %s to %s: too long ago or apart", q.From, q.To)
	}
	c := &Counter{q: q, bucket: q.Bucket.Microseconds(), series: map[uint32][]store.Count{}}
	from, to := q.Whole()
	n := int64(to.Sub(from) / q.Bucket)
	if n > store.MaxBuckets {
		return nil, fmt.Errorf("%d buckets where %d may be", n, store.MaxBuckets)
	}
	var err error
	c.Filter, err = NewFilter(store.UpdateQuery{Prefix: q.Prefix, Match: q.Match, OriginASN: q.OriginASN, PeerASN: q.PeerASN, Collector: q.Collector,
		From: from, To: to})
	if err != nil {
		return nil, err
	}
	if q.Origins == 0 {
		c.series[0] = make([]store.Count, n)
	} else {
		c.totals = map[uint32]*store.Count{}
	}
	return c, nil
}

// ByOrigin tells whether origins are told apart.
func (c *Counter) ByOrigin() bool { return c.q.Origins > 0 }

// Buckets tells whether this round fills buckets, and of which origins alone, in order: none means of all. In the other
// round any time that the filter asks for will do.
func (c *Counter) Buckets() (fills bool, origins []uint32) {
	if c.ByOrigin() {
		origins = slices.Sorted(maps.Keys(c.series))
	}
	return c.totals == nil, origins
}

// Next tells, after a round, whether everything must be counted once more.
func (c *Counter) Next() bool {
	if c.totals == nil {
		return false
	}
	origins := slices.SortedFunc(maps.Keys(c.totals), func(a, b uint32) int {
		return compareActivity(a, *c.totals[a], b, *c.totals[b])
	})
	n := (c.Filter.To - c.Filter.From) / c.bucket
	for _, asn := range origins[:min(c.q.Origins, len(origins))] {
		c.series[asn] = make([]store.Count, n)
	}
	c.totals = nil
	return len(c.series) > 0
}

func compareActivity(a uint32, of store.Count, b uint32, other store.Count) int {
	return cmp.Or(cmp.Compare(other.Announcements, of.Announcements), cmp.Compare(other.RIB, of.RIB), cmp.Compare(a, b))
}

// Add counts n rows. Their time must be one that the filter asks for; what the filter says of the rest is not looked at.
func (c *Counter) Add(time int64, origin uint32, action store.Action, n uint64) {
	to := c.into(time, origin)
	if to == nil {
		return
	}
	switch action {
	case store.Announce:
		to.Announcements += n
	case store.Withdraw:
		to.Withdrawals += n
	case store.RIB:
		to.RIB += n
	}
}

// AddCount is Add for rows that are counted already.
func (c *Counter) AddCount(time int64, origin uint32, n store.Count) {
	if to := c.into(time, origin); to != nil {
		to.Announcements += n.Announcements
		to.Withdrawals += n.Withdrawals
		to.RIB += n.RIB
	}
}

// into is what such rows are counted in, nil if nothing.
func (c *Counter) into(time int64, origin uint32) *store.Count {
	switch {
	case !c.ByOrigin():
		return &c.series[0][(time-c.Filter.From)/c.bucket]
	case origin == 0:
		return nil
	case c.totals != nil:
		to := c.totals[origin]
		if to == nil {
			to = &store.Count{}
			c.totals[origin] = to
		}
		return to
	}
	s, chosen := c.series[origin]
	if !chosen {
		return nil
	}
	return &s[(time-c.Filter.From)/c.bucket]
}

// Batch counts what matches in the batch that r was opened on.
func (c *Counter) Batch(r *Reader) error {
	f := c.Filter
	var u ingest.Update
	for r.Next(&u) {
		if !f.matchUpdate(&u) {
			continue
		}
		origin := uint32(0)
		if (f.Q.OriginASN != 0 || c.ByOrigin()) && len(u.Announced) > 0 {
			if err := r.Attributes(&u.Attrs); err != nil {
				return err
			}
			origin, _ = u.Attrs.ASPath.Origin()
		}
		for i := range RowsOf(&u) {
			action, nlri := RowOf(&u, i)
			if !f.matchPrefix(nlri.Prefix) {
				continue
			}
			of := uint32(0)
			if HasAttributes(action) {
				of = origin
			}
			if f.Q.OriginASN == 0 || of == f.Q.OriginASN {
				c.Add(int64(u.Time), of, action, 1)
			}
		}
	}
	return r.Err()
}

// Activity gives the answer.
func (c *Counter) Activity() []store.Activity {
	list := make([]store.Activity, 0, len(c.series))
	for asn, counts := range c.series {
		a := store.Activity{OriginASN: asn}
		for i, n := range counts {
			if n == (store.Count{}) {
				continue
			}
			a.Buckets = append(a.Buckets, store.Bucket{Time: ingest.Time(c.Filter.From + int64(i)*c.bucket).Time(), Count: n})
			a.Announcements += n.Announcements
			a.Withdrawals += n.Withdrawals
			a.RIB += n.RIB
		}
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b store.Activity) int { return compareActivity(a.OriginASN, a.Count, b.OriginASN, b.Count) })
	return list
}
