package clickhouse

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	api "github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

// counted is one row of what the server counts.
type counted struct {
	time   int64
	origin uint32
	action store.Action
	n      uint64
}

// Activity implements [store.Store]. What a failed expansion stored, and the next one again, counts twice until the server has
// merged it.
func (s *Store) Activity(ctx context.Context, q store.ActivityQuery) ([]store.Activity, error) {
	c, err := batch.NewCounter(q)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", s.place(), err)
	}
	byHour := q.Bucket%time.Hour == 0 && !q.Prefix.IsValid() && q.PeerASN == 0 && q.Collector == ""
	for again := true; again; again = c.Next() {
		if err := s.count(ctx, c, q.Bucket, byHour); err != nil {
			return nil, err
		}
	}
	return c.Activity(), nil
}

// count makes one round of c: what is expanded, then the log.
func (s *Store) count(ctx context.Context, c *batch.Counter, bucket time.Duration, byHour bool) error {
	st, err := s.latest(ctx)
	if err != nil {
		return err
	}
	var rows []counted
	hours := byHour && !st.moving()
	if hours {
		// The projection knows no positions: nothing may come from the log into updates meanwhile.
		if rows, err = s.countExpanded(ctx, c, bucket, nil); err != nil {
			return err
		}
		now, err := s.latest(ctx)
		if err != nil {
			return err
		}
		hours = !now.moving() && now.expanded == st.expanded
	}
	if !hours {
		if rows, err = s.countExpanded(ctx, c, bucket, &positions{1, st.expanded}); err != nil {
			return err
		}
	}
	add := func() {
		for _, r := range rows {
			c.Add(r.time, r.origin, r.action, r.n)
		}
	}
	add()
	var reader batch.Reader
	for first, last := st.expanded+1, uint64(0); first <= st.position; first = last + 1 {
		last = min(first+pageLog-1, st.position)
		page, err := s.readLog(ctx, first, last, fmt.Sprintf("rows > 0 AND max_time >= %d AND min_time < %d", c.Filter.From, c.Filter.To))
		now, failed := s.latest(ctx)
		if failed == nil && now.dropped >= first { // expanded and dropped meanwhile: it is in updates now
			last = min(now.dropped, st.position)
			if rows, err = s.countExpanded(ctx, c, bucket, &positions{first, last}); err != nil {
				return err
			}
			add()
			continue
		}
		if err = cmp.Or(err, failed); err != nil {
			return err
		}
		for _, l := range page {
			err := reader.Open(l.body)
			if err == nil {
				err = c.Batch(&reader)
			}
			if err != nil {
				return fmt.Errorf("store %s: batch %d: %w", s.place(), l.position, err)
			}
		}
	}
	return nil
}

// positions is a range of them, both ends included.
type positions struct{ first, last uint64 }

// countExpanded has the server count what updates have, at some positions or, by the projection of hours, at all.
func (s *Store) countExpanded(ctx context.Context, c *batch.Counter, bucket time.Duration, at *positions) (list []counted, err error) {
	peers, none := s.peerCondition(&c.Filter.Q)
	if none {
		return nil, nil
	}
	err = s.rows(ctx, func(r api.Rows) error {
		var one counted
		var action uint8
		if err := r.Scan(&one.time, &one.origin, &action, &one.n); err != nil {
			return err
		}
		one.action = batch.Actions[action-1]
		list = append(list, one)
		return nil
	}, countQuery(c, bucket, at, peers))
	return list, err
}

func countQuery(c *batch.Counter, bucket time.Duration, at *positions, where []string) string {
	f := c.Filter
	add := func(format string, a ...any) { where = append(where, fmt.Sprintf(format, a...)) }
	time := "time"
	if at == nil {
		time = "(time - positiveModulo(time, 3600000000))"
	} else {
		add("position >= %d AND position <= %d", at.first, at.last)
	}
	if f.Q.Prefix.IsValid() {
		where = append(where, prefixCondition(f.Q.Prefix, f.Q.Match))
	}
	add("%s >= %d AND %s < %d", time, f.From, time, f.To)
	if f.Q.OriginASN != 0 {
		add("origin_asn = %d", f.Q.OriginASN)
	}
	origin, start := "toUInt32(0)", fmt.Sprintf("toInt64(%d)", f.From)
	fills, origins := c.Buckets()
	if c.ByOrigin() {
		origin = "origin_asn"
		add("origin_asn != 0")
	}
	if fills {
		start = fmt.Sprintf("toInt64(%d + intDiv(%s - %d, %d) * %d)", f.From, time, f.From, bucket.Microseconds(), bucket.Microseconds())
		if len(origins) > 0 {
			add("origin_asn IN (%s)", strings.ReplaceAll(strings.Trim(fmt.Sprint(origins), "[]"), " ", ","))
		}
	}
	add("action IN (%d, %d, %d)", actionNumber(store.Announce), actionNumber(store.Withdraw), actionNumber(store.RIB))
	return fmt.Sprintf(`SELECT %s AS start, %s AS origin, action, count() FROM updates WHERE %s GROUP BY start, origin, action`, start, origin, strings.Join(where, " AND "))
}
