package embedded

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"iter"
	"math"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

// Bounds of what one look at the tail takes into memory.
const (
	pageBatches = 64
	pageBytes   = 4 << 20 // of compressed bodies
)

// encoder makes bodies of batches, with room for one.
type encoder struct {
	*batch.Encoder
	body []byte
}

var encoders = sync.Pool{New: func() any { return &encoder{Encoder: batch.NewEncoder()} }}

// AppendBatch implements [store.Store].
func (s *Store) AppendBatch(ctx context.Context, b *ingest.Batch) (uint64, error) {
	return s.append(ctx, b, kind{}, func(*transaction) error { return nil })
}

// kind says how a batch came here, if not from a live feed.
type kind struct{ backfilled, imported bool }

// AppendBatches implements [store.Store].
func (s *Store) AppendBatches(ctx context.Context, list []*ingest.Batch) (stored int, position uint64, err error) {
	for _, b := range list {
		p, err := s.AppendBatch(ctx, b)
		if err != nil {
			return stored, position, err
		}
		stored, position = stored+1, p
	}
	return stored, position, nil
}

// append stores b, and what with does in the same transaction.
func (s *Store) append(ctx context.Context, b *ingest.Batch, k kind, with func(*transaction) error) (uint64, error) {
	e := encoders.Get().(*encoder)
	defer encoders.Put(e)
	body, sum, err := e.Encode(e.body[:0], b)
	if err != nil {
		return 0, fmt.Errorf("store %s: %w", s.cfg.Directory, err)
	}
	e.body = body
	received := time.Now().UnixMicro()
	var position uint64
	err = s.do(ctx, &request{apply: func(t *transaction) error {
		t.state.position++
		position = t.state.position
		if t.state.tailBatches == 0 {
			t.state.tailReceived = received
		}
		t.state.tailBatches++
		t.state.tailUpdates += int64(sum.Updates)
		_, err := t.exec(`INSERT INTO batches (position, received_at, updates, rows, min_time, max_time, body, backfilled, imported) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			position, received, sum.Updates, sum.Rows, int64(sum.MinTime), int64(sum.MaxTime), body, k.backfilled, k.imported)
		if err != nil {
			return err
		}
		return with(t)
	}})
	if err != nil {
		return 0, err
	}
	s.metrics.batches.Inc()
	s.metrics.updates.Add(float64(sum.Updates))
	s.metrics.bytes.Add(float64(len(body)))
	return position, nil
}

// tailRow is one row of the table of batches.
type tailRow struct {
	position   uint64
	receivedAt int64
	kind
	body []byte
}

func (t *tailRow) stored() batch.Stored {
	return batch.Stored{Position: t.position, Backfilled: t.backfilled, Body: t.body}
}

// tail reads a page of batches: rest completes the query after "FROM batches".
func (s *Store) tail(ctx context.Context, rest string, args ...any) ([]tailRow, error) {
	fail := func(err error) ([]tailRow, error) {
		return nil, fmt.Errorf("store %s: reading history: %w", s.cfg.Directory, err)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT position, received_at, backfilled, imported, body FROM batches `+rest+fmt.Sprintf(` LIMIT %d`, pageBatches), args...)
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	var page []tailRow
	size := 0
	for size < pageBytes && rows.Next() {
		var r tailRow
		if err := rows.Scan(&r.position, &r.receivedAt, &r.backfilled, &r.imported, &r.body); err != nil {
			return fail(err)
		}
		size += len(r.body)
		page = append(page, r)
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return page, nil
}

// oldestReceived is the time of receipt of the first batch of the tail, 0 when there is none.
func oldestReceived(ctx context.Context, q interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}) (at int64, err error) {
	err = q.QueryRowContext(ctx, `SELECT coalesce((SELECT received_at FROM batches ORDER BY position LIMIT 1), 0)`).Scan(&at)
	return at, err
}

// BatchesSince implements [store.Store].
func (s *Store) BatchesSince(ctx context.Context, position uint64) iter.Seq2[*ingest.Batch, error] {
	return func(yield func(*ingest.Batch, error) bool) {
		after := min(position, math.MaxInt64)
		for {
			page, err := s.tail(ctx, `WHERE position > ? ORDER BY position`, after)
			if err != nil {
				yield(nil, err)
				return
			}
			if len(page) == 0 {
				return
			}
			for _, r := range page {
				b := &ingest.Batch{}
				if r.kind == (kind{}) {
					b, err = batch.Decode(r.body)
				}
				if err != nil {
					yield(nil, fmt.Errorf("store %s: batch %d: %w", s.cfg.Directory, r.position, err))
					return
				}
				if err := ctx.Err(); err != nil {
					yield(nil, err)
					return
				}
				if !yield(b, nil) {
					return
				}
				after = r.position
			}
		}
	}
}

// Updates implements [store.Store].
func (s *Store) Updates(ctx context.Context, q store.UpdateQuery) iter.Seq2[store.Route, error] {
	return func(yield func(store.Route, error) bool) {
		f, err := newFilter(q)
		if err != nil {
			yield(store.Route{}, err)
			return
		}
		w := walk{s: s, f: f, before: store.Cursor{Position: math.MaxInt64, Row: math.MaxInt}, inTail: true}
		if q.After != (store.Cursor{}) {
			w.before = q.After
		}
		batch.Walk(batch.LimitOf(q.Limit), func(limit int) ([]store.Route, bool, error) { return w.step(ctx, limit) }, yield)
	}
}

// walk goes down through history: what it has not yet looked at is what lies below before.
type walk struct {
	s      *Store
	f      *filter
	before store.Cursor
	inTail bool // the tail may still hold rows below before
}

// step returns the next matching rows, newest first and at most limit, and whether there may be more.
func (w *walk) step(ctx context.Context, limit int) (routes []store.Route, more bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	if w.inTail {
		page, p, err := w.look(ctx)
		if err != nil {
			return nil, false, err
		}
		if len(page) > 0 {
			routes, err = w.filterPage(page, limit)
			return routes, true, err
		}
		w.inTail = false
		return w.scanPart(ctx, p, limit)
	}
	w.s.layout.RLock()
	p := w.nextPart()
	w.s.layout.RUnlock()
	return w.scanPart(ctx, p, limit)
}

// look takes the next page of the tail or, when there is none, the next part, which the caller releases.
func (w *walk) look(ctx context.Context) ([]tailRow, *part, error) {
	w.s.layout.RLock()
	defer w.s.layout.RUnlock()
	top := w.before.Position
	if w.before.Row == 0 {
		top--
	}
	page, err := w.s.tail(ctx, `WHERE position <= ? AND rows > 0 AND max_time >= ? AND min_time < ? ORDER BY position DESC`,
		min(top, math.MaxInt64), w.f.From, w.f.To)
	if err != nil || len(page) > 0 {
		return page, nil, err
	}
	return nil, w.nextPart(), nil
}

// nextPart acquires the newest part that holds rows below before; the caller holds layout.
func (w *walk) nextPart() *part {
	parts := w.s.parts
	n := sort.Search(len(parts), func(i int) bool {
		return !batch.Before(store.Cursor{Position: parts[i].first}, w.before)
	})
	for n--; n >= 0; n-- {
		if w.f.mayMatch(parts[n]) {
			parts[n].acquire()
			return parts[n]
		}
	}
	return nil
}

// scanPart takes up to limit rows of p, which it releases.
func (w *walk) scanPart(ctx context.Context, p *part, limit int) ([]store.Route, bool, error) {
	if p == nil {
		return nil, false, nil
	}
	defer p.release()
	limit = min(limit, maxCandidates)
	routes, err := p.scan(ctx, w.f, w.before, limit)
	if err != nil {
		return nil, false, fmt.Errorf("store %s: reading %s: %w", w.s.cfg.Directory, p.path, err)
	}
	if len(routes) == limit {
		w.before = routes[limit-1].Cursor
	} else {
		w.before = store.Cursor{Position: p.first}
	}
	return routes, true, nil
}

// filterPage returns the newest matching rows of a page of the tail.
func (w *walk) filterPage(page []tailRow, limit int) ([]store.Route, error) {
	var routes []store.Route
	var r batch.Reader
	for _, t := range page {
		found, err := w.f.Newest(&r, t.stored(), w.before, limit-len(routes))
		if err != nil {
			return routes, fmt.Errorf("store %s: %w", w.s.cfg.Directory, err)
		}
		routes = append(routes, found...)
		w.before = store.Cursor{Position: t.position}
		if len(routes) == limit {
			w.before = routes[limit-1].Cursor
			break
		}
	}
	return routes, nil
}

// keyRange is a range of prefix keys, both ends included.
type keyRange struct{ lo, hi []byte }

// filter is an UpdateQuery made ready.
type filter struct {
	*batch.Filter
	ranges []keyRange // of the prefixes asked for, ascending and disjoint; nil means all
}

func newFilter(q store.UpdateQuery) (*filter, error) {
	checked, err := batch.NewFilter(q)
	if err != nil {
		return nil, err
	}
	f := &filter{Filter: checked}
	if q.Prefix.IsValid() {
		switch q.Match {
		case store.Covered:
			lo, hi := coveredRange(q.Prefix)
			f.ranges = []keyRange{{lo, hi}}
		case store.Covering:
			for _, k := range coveringKeys(q.Prefix) {
				f.ranges = append(f.ranges, keyRange{k, k})
			}
			slices.SortFunc(f.ranges, func(a, b keyRange) int { return bytes.Compare(a.lo, b.lo) })
		default:
			k := prefixKey(q.Prefix)
			f.ranges = []keyRange{{k, k}}
		}
	} else if q.Action == store.PeerUp || q.Action == store.PeerDown {
		f.ranges = []keyRange{{}} // they are of no prefix, and come first
	}
	return f, nil
}

// mayMatch tells whether what the manifest knows of p leaves room for a match.
func (f *filter) mayMatch(p *part) bool {
	if p.maxTime < f.From || p.minTime >= f.To {
		return false
	}
	if f.ranges == nil {
		return true
	}
	return slices.ContainsFunc(f.ranges, func(k keyRange) bool {
		return bytes.Compare(k.lo, p.maxKey) <= 0 && bytes.Compare(p.minKey, k.hi) <= 0
	})
}
