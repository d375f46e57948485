package embedded

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

// A summary counts the rows of a part by hour of event time and by origin. It is made when the part is, and kept in the
// database beside the manifest: for each hour
//
//	withdrawals     uvarint
//	then by origin, ascending, 0 for rows without one:
//	origin          uvarint, the difference to the one before
//	announcements   uvarint
//	rib rows        uvarint
//
// which is some 4 bytes for each hour and origin. Parts that have none are counted row by row.
const (
	summaryUnit  = int64(time.Hour / time.Microsecond)
	summaryHours = 1 << 12 // of one part; feeds may say any time
	summaryPairs = 1 << 20 // of an hour and an origin; some 60 bytes each while a part is made
)

var errSummary = errors.New("the summary is damaged")

type hourOrigin struct {
	hour   int64
	origin uint32
}

type summary struct {
	counts map[hourOrigin]*store.Count // nil: there is too much
	hours  map[int64]struct{}
	last   hourOrigin // counted in
	into   *store.Count
}

func newSummary() *summary {
	return &summary{counts: map[hourOrigin]*store.Count{}, hours: map[int64]struct{}{}}
}

// stored tells whether there is anything that store stores.
func (s *summary) stored() bool { return len(s.counts) > 0 }

// hourOf numbers the hours since 1970.
func hourOf(t int64) int64 {
	h := t / summaryUnit
	if t%summaryUnit < 0 {
		h--
	}
	return h
}

func (s *summary) add(r *row) {
	if s.counts == nil {
		return
	}
	// Rows are in the order of prefixes, so that many have the origin and the hour of the one before.
	k := hourOrigin{hourOf(r.Time), uint32(r.OriginASN)}
	if s.into == nil || k != s.last {
		into := s.counts[k]
		if into == nil {
			s.hours[k.hour] = struct{}{}
			if len(s.counts) == summaryPairs || len(s.hours) > summaryHours {
				*s = summary{}
				return
			}
			into = &store.Count{}
			s.counts[k] = into
		}
		s.last, s.into = k, into
	}
	switch store.Action(r.Action) {
	case store.Announce:
		s.into.Announcements++
	case store.Withdraw:
		s.into.Withdrawals++
	case store.RIB:
		s.into.RIB++
	}
}

// store writes the summary of the part that begins at position first.
func (s *summary) store(t *transaction, first uint64) error {
	keys := make([]hourOrigin, 0, len(s.counts))
	for k := range s.counts {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b hourOrigin) int { return cmp.Or(cmp.Compare(a.hour, b.hour), cmp.Compare(a.origin, b.origin)) })
	var body []byte
	for len(keys) > 0 {
		hour, n := keys[0].hour, 0
		withdrawals := uint64(0)
		for n < len(keys) && keys[n].hour == hour {
			withdrawals += s.counts[keys[n]].Withdrawals
			n++
		}
		body = binary.AppendUvarint(body[:0], withdrawals)
		last := uint32(0)
		for _, k := range keys[:n] {
			c := s.counts[k]
			body = binary.AppendUvarint(body, uint64(k.origin-last))
			body = binary.AppendUvarint(body, c.Announcements)
			body = binary.AppendUvarint(body, c.RIB)
			last = k.origin
		}
		if _, err := t.exec(`INSERT INTO activity (first_position, hour, counts) VALUES (?, ?, ?)`, first, hour, body); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// hourly is an hour of a summary as it is stored.
type hourly struct {
	hour   int64
	counts []byte
}

// addTo counts the hour, which is one that c asks for.
func (h hourly) addTo(c *batch.Counter) error {
	b, at := h.counts, h.hour*summaryUnit
	i := 0
	next := func() (v uint64) { // MaxUint64 where there is none
		if i < len(b) && b[i] < 0x80 {
			i++
			return uint64(b[i-1])
		}
		v, n := binary.Uvarint(b[i:])
		if n <= 0 {
			i = len(b)
			return math.MaxUint64
		}
		i += n
		return v
	}
	all := store.Count{Withdrawals: next()}
	if all.Withdrawals == math.MaxUint64 {
		return errSummary
	}
	only := uint64(c.Filter.Q.OriginASN)
	if only != 0 {
		all = store.Count{}
	}
	byOrigin := c.ByOrigin()
	for origin := uint64(0); i < len(b); {
		difference, announcements, rib := next(), next(), next()
		if difference > math.MaxUint32-origin || announcements == math.MaxUint64 || rib == math.MaxUint64 {
			return errSummary
		}
		origin += difference
		switch {
		case only != 0 && origin != only:
		case byOrigin:
			c.AddCount(at, uint32(origin), store.Count{Announcements: announcements, RIB: rib})
		default:
			all.Announcements += announcements
			all.RIB += rib
		}
	}
	if !byOrigin {
		c.AddCount(at, 0, all)
	}
	return nil
}

// Activity implements [store.Store].
func (s *Store) Activity(ctx context.Context, q store.ActivityQuery) ([]store.Activity, error) {
	c, err := batch.NewCounter(q)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", s.cfg.Directory, err)
	}
	f, err := newFilter(c.Filter.Q)
	if err != nil {
		return nil, err
	}
	bySummary := q.Bucket%time.Hour == 0 && !q.Prefix.IsValid() && q.PeerASN == 0 && q.Collector == ""
	for again := true; again; again = c.Next() {
		w := walk{s: s, f: f, before: store.Cursor{Position: math.MaxInt64}, inTail: true}
		for more := true; more; {
			if more, err = w.count(ctx, c, bySummary); err != nil {
				return nil, err
			}
		}
	}
	return c.Activity(), nil
}

// count counts the next piece of history, and tells whether there may be more.
func (w *walk) count(ctx context.Context, c *batch.Counter, bySummary bool) (more bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	page, p, hours, err := w.lookCounting(ctx, bySummary)
	if err != nil {
		return false, err
	}
	if p == nil {
		var r batch.Reader
		for _, t := range page {
			err := r.Open(t.body)
			if err == nil {
				err = c.Batch(&r)
			}
			if err != nil {
				return false, fmt.Errorf("store %s: batch %d: %w", w.s.cfg.Directory, t.position, err)
			}
			w.before = store.Cursor{Position: t.position}
		}
		return len(page) > 0, nil
	}
	defer p.release()
	if hours != nil {
		for _, h := range hours {
			err = errors.Join(err, h.addTo(c))
		}
	} else {
		err = p.count(ctx, w.f, w.before, c)
	}
	if err != nil {
		return false, fmt.Errorf("store %s: counting %s: %w", w.s.cfg.Directory, p.path, err)
	}
	w.before = store.Cursor{Position: p.first}
	return true, nil
}

// lookCounting takes the next page of the tail or, when there is none, the next part, which the caller releases, and its
// summary if it is to be used and there is one. All is of one moment: a merge takes the summaries of its parts away.
func (w *walk) lookCounting(ctx context.Context, bySummary bool) (page []tailRow, p *part, hours []hourly, err error) {
	if w.inTail {
		if page, p, err = w.look(ctx); err != nil || len(page) > 0 {
			return page, nil, nil, err
		}
		if p != nil {
			p.release()
		}
		w.inTail = false
	}
	w.s.layout.RLock()
	defer w.s.layout.RUnlock()
	if p = w.nextPart(); p == nil || !bySummary || !p.summed || p.last >= w.before.Position {
		return nil, p, nil, nil
	}
	if hours, err = w.s.hours(ctx, p, hourOf(w.f.From), hourOf(w.f.To)); err != nil {
		p.release()
		return nil, nil, nil, err
	}
	return nil, p, hours, nil
}

// hours reads the summary of p from an hour on and up to another one, which is not read; it is not nil.
func (s *Store) hours(ctx context.Context, p *part, from, to int64) ([]hourly, error) {
	fail := func(err error) ([]hourly, error) {
		return nil, fmt.Errorf("store %s: reading what history counts: %w", s.cfg.Directory, err)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT hour, counts FROM activity WHERE first_position = ? AND hour >= ? AND hour < ?`, p.first, from, to)
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	list := []hourly{}
	for rows.Next() {
		var h hourly
		if err := rows.Scan(&h.hour, &h.counts); err != nil {
			return fail(err)
		}
		list = append(list, h)
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return list, nil
}

// count counts the rows below before that f wants, one by one.
func (p *part) count(ctx context.Context, f *filter, before store.Cursor, c *batch.Counter) error {
	pf, err := p.open()
	if err != nil {
		return err
	}
	for _, group := range pf.RowGroups() {
		ranges, err := locate(group, f.ranges)
		if err != nil {
			return err
		}
		if len(ranges) == 0 {
			continue
		}
		chunks := group.ColumnChunks()
		times, actions := &column{chunk: chunks[columnTime]}, &column{chunk: chunks[columnAction]}
		conditions := f.conditions(chunks)
		columns := append([]*column{times, actions}, conditions...)
		var origins, positions *column
		if c.ByOrigin() {
			origins = &column{chunk: chunks[columnOriginASN]}
			columns = append(columns, origins)
		}
		if p.last >= before.Position {
			positions = &column{chunk: chunks[columnPosition]}
			columns = append(columns, positions)
		}
		err = readColumns(ctx, ranges, columns, func(_ int64, n int) error {
			for i := range n {
				if positions != nil && uint64(positions.buf[i].Int64()) >= before.Position || !kept(conditions, i) {
					continue
				}
				origin := uint32(0)
				if origins != nil {
					origin = uint32(origins.buf[i].Int64())
				}
				c.Add(times.buf[i].Int64(), origin, actionOf(actions.buf[i].ByteArray()), 1)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// actionOf is store.Action(text) without a copy.
func actionOf(text []byte) store.Action {
	for _, a := range batch.Actions {
		if string(a) == string(text) {
			return a
		}
	}
	return ""
}
