package embedded

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"iter"
	"math"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
)

// Bounds of what one look at the tail takes into memory.
const (
	pageBatches = 64
	pageBytes   = 4 << 20 // of compressed bodies
)

// AppendBatch implements [store.Store].
func (s *Store) AppendBatch(ctx context.Context, b *ingest.Batch) (uint64, error) {
	return s.append(ctx, b, false, func(*transaction) error { return nil })
}

// append stores b, and what with does in the same transaction.
func (s *Store) append(ctx context.Context, b *ingest.Batch, backfilled bool, with func(*transaction) error) (uint64, error) {
	e := encoders.Get().(*batchEncoder)
	defer encoders.Put(e)
	body, sum, err := e.encode(e.body[:0], b)
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
		t.state.tailUpdates += int64(sum.updates)
		_, err := t.exec(`INSERT INTO batches (position, received_at, updates, rows, min_time, max_time, body, backfilled) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			position, received, sum.updates, sum.rows, int64(sum.minTime), int64(sum.maxTime), body, backfilled)
		if err != nil {
			return err
		}
		return with(t)
	}})
	if err != nil {
		return 0, err
	}
	s.metrics.batches.Inc()
	s.metrics.updates.Add(float64(sum.updates))
	s.metrics.bytes.Add(float64(len(body)))
	return position, nil
}

// tailRow is one row of the table of batches.
type tailRow struct {
	position   uint64
	receivedAt int64
	backfilled bool
	body       []byte
}

// tail reads a page of batches: rest completes the query after "FROM batches".
func (s *Store) tail(ctx context.Context, rest string, args ...any) ([]tailRow, error) {
	fail := func(err error) ([]tailRow, error) {
		return nil, fmt.Errorf("store %s: reading history: %w", s.cfg.Directory, err)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT position, received_at, backfilled, body FROM batches `+rest+fmt.Sprintf(` LIMIT %d`, pageBatches), args...)
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	var page []tailRow
	size := 0
	for size < pageBytes && rows.Next() {
		var r tailRow
		if err := rows.Scan(&r.position, &r.receivedAt, &r.backfilled, &r.body); err != nil {
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
				if !r.backfilled {
					b, err = decodeBatch(r.body)
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
		for left := limitOf(q.Limit); left > 0; {
			routes, more, err := w.step(ctx, left)
			for _, r := range routes {
				if !yield(r, nil) {
					return
				}
			}
			if err != nil {
				yield(store.Route{}, err)
				return
			}
			if !more {
				return
			}
			left -= len(routes)
		}
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
		min(top, math.MaxInt64), w.f.from, w.f.to)
	if err != nil || len(page) > 0 {
		return page, nil, err
	}
	return nil, w.nextPart(), nil
}

// nextPart acquires the newest part that holds rows below before; the caller holds layout.
func (w *walk) nextPart() *part {
	parts := w.s.parts
	n := sort.Search(len(parts), func(i int) bool {
		return !cursorLess(store.Cursor{Position: parts[i].first}, w.before)
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
	var payload []byte
	var r batchReader
	for _, t := range page {
		p, err := decompress(payload, t.body)
		if err == nil {
			if cap(p) > cap(payload) && t.body[1] == methodZstd {
				payload = p
			}
			err = r.open(p)
		}
		var found []store.Route
		if err == nil {
			found, err = w.f.filterBatch(&r, t.position, w.before, limit-len(routes))
		}
		if err != nil {
			return routes, fmt.Errorf("store %s: batch %d: %w", w.s.cfg.Directory, t.position, err)
		}
		for i := range found {
			found[i].Backfilled = t.backfilled
		}
		slices.Reverse(found)
		routes = append(routes, found...)
		w.before = store.Cursor{Position: t.position}
		if len(routes) == limit {
			w.before = routes[limit-1].Cursor
			break
		}
	}
	return routes, nil
}

func cursorLess(a, b store.Cursor) bool { return compareCursors(a, b) < 0 }

func compareCursors(a, b store.Cursor) int {
	return cmp.Or(cmp.Compare(a.Position, b.Position), cmp.Compare(a.Row, b.Row))
}

// keyRange is a range of prefix keys, both ends included.
type keyRange struct{ lo, hi []byte }

// filter is an UpdateQuery made ready.
type filter struct {
	q        store.UpdateQuery
	from, to int64      // microseconds, [from, to)
	ranges   []keyRange // of the prefixes asked for, ascending and disjoint; nil means all
}

func newFilter(q store.UpdateQuery) (*filter, error) {
	f := &filter{q: q, from: math.MinInt64, to: math.MaxInt64}
	if !q.From.IsZero() {
		f.from = q.From.UnixMicro()
	}
	if !q.To.IsZero() {
		f.to = q.To.UnixMicro()
	}
	if q.Action != "" && !slices.Contains(actions, q.Action) {
		return nil, fmt.Errorf("unknown action %q: known are %v", q.Action, actions)
	}
	if q.Prefix.IsValid() {
		switch q.Match {
		case "", store.Exact:
			k := prefixKey(q.Prefix)
			f.ranges = []keyRange{{k, k}}
		case store.Covered:
			lo, hi := coveredRange(q.Prefix)
			f.ranges = []keyRange{{lo, hi}}
		case store.Covering:
			for _, k := range coveringKeys(q.Prefix) {
				f.ranges = append(f.ranges, keyRange{k, k})
			}
			slices.SortFunc(f.ranges, func(a, b keyRange) int { return bytes.Compare(a.lo, b.lo) })
		default:
			return nil, fmt.Errorf("unknown match %q: known are %q, %q and %q", q.Match, store.Exact, store.Covered, store.Covering)
		}
	}
	return f, nil
}

// mayMatch tells whether what the manifest knows of p leaves room for a match.
func (f *filter) mayMatch(p *part) bool {
	if p.maxTime < f.from || p.minTime >= f.to {
		return false
	}
	if f.ranges == nil {
		return true
	}
	return slices.ContainsFunc(f.ranges, func(k keyRange) bool {
		return bytes.Compare(k.lo, p.maxKey) <= 0 && bytes.Compare(p.minKey, k.hi) <= 0
	})
}

// matchPrefix does what ranges say without making a key.
func (f *filter) matchPrefix(p netip.Prefix) bool {
	q := f.q.Prefix
	switch {
	case !q.IsValid():
		return true
	case !p.IsValid() || p.Addr().Is4() != q.Addr().Is4():
		return false
	case f.q.Match == store.Covered:
		return p.Bits() >= q.Bits() && q.Contains(p.Addr())
	case f.q.Match == store.Covering:
		return p.Bits() <= q.Bits() && p.Contains(q.Addr())
	}
	return p.Bits() == q.Bits() && q.Contains(p.Addr())
}

// matchUpdate applies what concerns the whole of u.
func (f *filter) matchUpdate(u *ingest.Update) bool {
	q := &f.q
	return int64(u.Time) >= f.from && int64(u.Time) < f.to &&
		(q.PeerASN == 0 || u.Peer.ASN == q.PeerASN) &&
		(!q.PeerIP.IsValid() || u.Peer.Addr == q.PeerIP) &&
		(q.Collector == "" || u.Peer.Collector == q.Collector)
}

// filterBatch returns the newest matching rows of one batch below before, at most limit, oldest first.
func (f *filter) filterBatch(r *batchReader, position uint64, before store.Cursor, limit int) ([]store.Route, error) {
	var found []store.Route
	var u ingest.Update
	row := 0
	for r.next(&u) {
		n := rowsOf(&u)
		start := row
		row += n
		if !f.matchUpdate(&u) {
			continue
		}
		decoded := false
		for i := range n {
			c := store.Cursor{Position: position, Row: start + i}
			if !cursorLess(c, before) {
				break
			}
			action, nlri := rowOf(&u, i)
			if (f.q.Action != "" && action != f.q.Action) || !f.matchPrefix(nlri.Prefix) {
				continue
			}
			attrs := &bgp.Attributes{}
			if hasAttributes(action) {
				if !decoded {
					if err := r.attributes(&u.Attrs); err != nil {
						return nil, err
					}
					decoded = true
				}
				attrs = &u.Attrs
			}
			if f.q.OriginASN != 0 {
				if origin, ok := attrs.ASPath.Origin(); !ok || origin != f.q.OriginASN {
					continue
				}
			}
			if len(found) >= 2*limit {
				found = append(found[:0], found[len(found)-limit:]...)
			}
			found = append(found, routeOf(&u, attrs, action, nlri, c))
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	return found[max(0, len(found)-limit):], nil
}

var actions = []store.Action{store.Announce, store.Withdraw, store.RIB, store.PeerUp, store.PeerDown}

func hasAttributes(a store.Action) bool { return a == store.Announce || a == store.RIB }

// rowOf gives the i-th row that u makes: withdrawals come first, as they take effect first.
func rowOf(u *ingest.Update, i int) (store.Action, bgp.NLRI) {
	switch {
	case u.Kind == ingest.PeerUp:
		return store.PeerUp, bgp.NLRI{}
	case u.Kind == ingest.PeerDown:
		return store.PeerDown, bgp.NLRI{}
	case i < len(u.Withdrawn):
		return store.Withdraw, u.Withdrawn[i]
	case u.Kind == ingest.RIB:
		return store.RIB, u.Announced[i-len(u.Withdrawn)]
	}
	return store.Announce, u.Announced[i-len(u.Withdrawn)]
}

func routeOf(u *ingest.Update, a *bgp.Attributes, action store.Action, n bgp.NLRI, c store.Cursor) store.Route {
	r := store.Route{Time: u.Time.Time(), Action: action, Collector: u.Peer.Collector, PeerASN: u.Peer.ASN, PeerIP: u.Peer.Addr, View: u.Peer.View,
		Prefix: n.Prefix, PathID: n.PathID, Cursor: c}
	if hasAttributes(action) {
		r.ASPath = a.ASPath.String()
		r.OriginASN, _ = a.ASPath.Origin()
		r.NextHop = a.NextHop
		r.Communities = communities(a)
		r.OTC = a.OTC
	}
	return r
}

// communities writes RFC 1997 and RFC 8092 communities the way people do.
func communities(a *bgp.Attributes) []string {
	if len(a.Communities)+len(a.LargeCommunities) == 0 {
		return nil
	}
	list := make([]string, 0, len(a.Communities)+len(a.LargeCommunities))
	for _, c := range a.Communities {
		list = append(list, strconv.Itoa(int(c>>16))+":"+strconv.Itoa(int(c&0xffff)))
	}
	for _, c := range a.LargeCommunities {
		list = append(list, fmt.Sprintf("%d:%d:%d", c.Global, c.Local1, c.Local2))
	}
	return list
}
