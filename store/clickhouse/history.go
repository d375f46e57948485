package clickhouse

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	api "github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

// Bounds of what is sent and read at once.
const (
	groupMax   = 128      // appends that may share a block
	groupBytes = 64 << 20 // of their bodies
	pageLog    = 64       // positions of the log
	pageRows   = 10_000   // rows of updates
)

// appending is a batch on its way into the log.
type appending struct {
	body       []byte
	watermark  int64
	sum        batch.Summary
	backfilled bool
	imported   bool
	gap        *gap // changed in the same row
	position   uint64
	done       chan error
	stored     bool // known to who waited for done
}

var encoders = sync.Pool{New: func() any {
	e := batch.NewEncoder()
	e.Quick = true
	return e
}}

// AppendBatch implements [store.Store].
func (s *Store) AppendBatch(ctx context.Context, b *ingest.Batch) (uint64, error) {
	return s.append(ctx, b, appending{})
}

// AppendBackfill implements [store.Store].
func (s *Store) AppendBackfill(ctx context.Context, b *ingest.Batch, g *ingest.Gap) error {
	return s.appendWithGap(ctx, b, appending{backfilled: true}, g)
}

// AppendImport implements [store.Store].
func (s *Store) AppendImport(ctx context.Context, b *ingest.Batch, backfilled bool, g *ingest.Gap) error {
	return s.appendWithGap(ctx, b, appending{backfilled: backfilled, imported: true}, g)
}

func (s *Store) appendWithGap(ctx context.Context, b *ingest.Batch, r appending, g *ingest.Gap) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	if g.ID == 0 || !s.hasGap(g.ID) {
		return fmt.Errorf("store %s: back-filling gap %d, which is not stored: %w", s.place(), g.ID, store.ErrNotFound)
	}
	n := gap{Gap: *g, version: s.nextVersion(), onlyLog: true}
	n.From, n.Until, n.NextAttempt, n.File = micro(n.From), micro(n.Until), micro(n.NextAttempt), micro(n.File)
	r.gap = &n
	_, err := s.append(ctx, b, r)
	return err
}

// AppendBatches implements [store.Store], in fewer round trips than AppendBatch of one after the other.
func (s *Store) AppendBatches(ctx context.Context, batches []*ingest.Batch) (stored int, position uint64, err error) {
	var list []*appending
	for _, b := range batches {
		r := &appending{}
		if err := s.encode(b, r); err != nil {
			return 0, 0, err
		}
		list = append(list, r)
	}
	err = s.hand(ctx, list)
	for _, r := range list {
		if !r.stored {
			break
		}
		stored, position = stored+1, r.position
	}
	return stored, position, err
}

// append stores b; r says how it came here.
func (s *Store) append(ctx context.Context, b *ingest.Batch, r appending) (uint64, error) {
	if err := s.encode(b, &r); err != nil {
		return 0, err
	}
	if err := s.hand(ctx, []*appending{&r}); err != nil {
		return 0, err
	}
	return r.position, nil
}

// encode makes r ready to store b.
func (s *Store) encode(b *ingest.Batch, r *appending) error {
	e := encoders.Get().(*batch.Encoder)
	body, sum, err := e.Encode(nil, b)
	encoders.Put(e)
	if err != nil {
		return fmt.Errorf("store %s: %w", s.place(), err)
	}
	r.body, r.watermark, r.sum, r.done = body, int64(b.Watermark), sum, make(chan error, 1)
	return nil
}

// hand has the appender store a list, in its order, and nothing of it behind one that could not be stored.
func (s *Store) hand(ctx context.Context, list []*appending) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	select {
	case s.appends <- list:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.running.Done():
		return errClosed
	}
	var failed error
	for _, r := range list {
		if err := <-r.done; err != nil {
			failed = err
			continue
		}
		r.stored = true
		s.metrics.batches.Inc()
		s.metrics.updates.Add(float64(r.sum.Updates))
		s.metrics.bytes.Add(float64(len(r.body)))
	}
	return failed
}

// appender stores what append hands it, until the store closes.
func (s *Store) appender() {
	var group []*appending
	for {
		group = group[:0]
		select {
		case list := <-s.appends:
			group = append(group, list...)
		case <-s.running.Done():
			return
		}
	drain:
		for len(group) < groupMax && sizeOf(group) < groupBytes {
			select {
			case list := <-s.appends:
				group = append(group, list...)
			default:
				break drain
			}
		}
		var err error
		for rest := group; len(rest) > 0; {
			// A block is of one partition: only then is it stored whole or not at all.
			next := s.current().position + 1
			n := min(len(rest), groupMax, int(logPartition-next%logPartition))
			for n > 1 && sizeOf(rest[:n]) > groupBytes {
				n /= 2
			}
			if err == nil { // what follows on what is not stored may follow on it for a reason
				err = s.commit(rest[:n], next)
			}
			for _, r := range rest[:n] {
				r.done <- err
			}
			rest = rest[n:]
		}
	}
}

// sizeOf tells the bytes of the bodies.
func sizeOf(group []*appending) (n int) {
	for _, r := range group {
		n += len(r.body)
	}
	return n
}

// commit stores group from position first on.
func (s *Store) commit(group []*appending, first uint64) error {
	s.batches.Lock()
	defer s.batches.Unlock()
	start := time.Now()
	if s.current().doubtful {
		if err := s.write(context.Background(), s.renew); err != nil {
			return err
		}
	}
	err := s.write(context.Background(), func(ctx context.Context) error {
		epoch := s.current().epoch
		err := s.insert(ctx, `INSERT INTO batches (position, epoch, received_at, watermark, backfilled, imported, updates, rows, min_time, max_time, gap_id, gap_version, gap, body)`, func(b api.Batch) error {
			for i, r := range group {
				r.position = first + uint64(i)
				var id, version uint64
				var text string
				if r.gap != nil {
					id, version, text = r.gap.ID, r.gap.version, encodeGap(r.gap.Gap)
				}
				if err := b.Append(r.position, epoch, start, r.watermark, r.backfilled, r.imported, uint32(r.sum.Updates), uint32(r.sum.Rows),
					int64(r.sum.MinTime), int64(r.sum.MaxTime), id, version, text, r.body); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			s.mu.Lock()
			s.state.doubtful = true
			s.mu.Unlock()
		}
		return err
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.state.doubtful = true // also where only the look at the epochs failed
		return err
	}
	s.metrics.commits.Observe(time.Since(start).Seconds())
	st := &s.state
	if st.position == st.expanded {
		st.logReceived = start.UnixMicro()
	}
	st.position += uint64(len(group))
	for _, r := range group {
		st.logUpdates += uint64(r.sum.Updates)
		s.recent.add(logRow{position: r.position, received: start, backfilled: r.backfilled, imported: r.imported, body: r.body})
		if r.gap != nil {
			s.putGap(*r.gap)
		}
	}
	s.metrics.logUpdates.Set(float64(st.logUpdates))
	if st.logUpdates >= uint64(s.cfg.Expand.Updates) {
		s.wakeExpander()
	}
	return nil
}

// renew begins the next epoch behind the last batch that was acknowledged. What may be there of an append whose outcome
// is not known is void with that. The caller holds batches.
func (s *Store) renew(ctx context.Context) error {
	st := s.current()
	alone, err := s.claim(ctx, st.epoch+1)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if !alone {
		s.state.fenced = true
		s.mu.Unlock()
		return errFenced
	}
	s.state.epoch++
	s.mu.Unlock()
	return s.begin(ctx, st.position+1)
}

// logRow is one row of the log.
type logRow struct {
	position   uint64
	received   time.Time
	backfilled bool
	imported   bool
	body       []byte
}

func (l *logRow) stored() batch.Stored {
	return batch.Stored{Position: l.position, Backfilled: l.backfilled, Body: l.body}
}

// recent is the end of the log, which is kept so that it need not be read again when it is expanded. Where it has become
// too long, the rest is not kept.
type recent struct {
	rows  []logRow
	bytes int
}

const recentBytes = 64 << 20

func (r *recent) add(l logRow) {
	if r.bytes+len(l.body) > recentBytes || len(r.rows) > 0 && r.rows[len(r.rows)-1].position != l.position-1 {
		return
	}
	r.rows, r.bytes = append(r.rows, l), r.bytes+len(l.body)
}

// from gives the rows that are kept from position first on, if that is.
func (r *recent) from(first uint64) []logRow {
	if len(r.rows) == 0 || first < r.rows[0].position || first > r.rows[len(r.rows)-1].position {
		return nil
	}
	return r.rows[first-r.rows[0].position:]
}

// forget lets go of rows up to position last.
func (r *recent) forget(last uint64) {
	n := 0
	for n < len(r.rows) && r.rows[n].position <= last {
		r.bytes -= len(r.rows[n].body)
		n++
	}
	r.rows = slices.Delete(r.rows, 0, n) // which clears what is behind
}

// readLog reads batches at positions from first to last, in order; where says which of them are wanted.
func (s *Store) readLog(ctx context.Context, first, last uint64, where string) ([]logRow, error) {
	var page []logRow
	err := s.rows(ctx, func(r api.Rows) error {
		var l logRow
		var body string
		err := r.Scan(&l.position, &l.received, &l.backfilled, &l.imported, &body)
		l.body = []byte(body)
		page = append(page, l)
		return err
	}, fmt.Sprintf(`SELECT position, received_at, backfilled, imported, body FROM (SELECT * FROM batches WHERE position >= %d AND position <= %d
		ORDER BY position, epoch DESC LIMIT 1 BY position) WHERE %s ORDER BY position`, first, last, where))
	return page, err
}

// wholeLog is readLog where each position must be there.
func (s *Store) wholeLog(ctx context.Context, first, last uint64) ([]logRow, error) {
	page, err := s.readLog(ctx, first, last, "1")
	if err == nil && uint64(len(page)) != last-first+1 {
		err = fmt.Errorf("store %s: of batches %d to %d only %d are in the log; restore the database from a copy, or choose another one",
			s.place(), first, last, len(page))
	}
	return page, err
}

// BatchesSince implements [store.Store].
func (s *Store) BatchesSince(ctx context.Context, position uint64) iter.Seq2[*ingest.Batch, error] {
	return func(yield func(*ingest.Batch, error) bool) {
		for after := position; ; {
			st, err := s.latest(ctx)
			if err != nil {
				yield(nil, err)
				return
			}
			after = max(after, st.dropped)
			if after >= st.position {
				return
			}
			page, err := s.wholeLog(ctx, after+1, min(after+pageLog, st.position))
			if err != nil {
				if now, failed := s.latest(ctx); failed == nil && now.dropped > after {
					continue // dropped under our eyes
				}
				yield(nil, err)
				return
			}
			for _, r := range page {
				b := &ingest.Batch{}
				if !r.backfilled && !r.imported {
					if b, err = batch.Decode(r.body); err != nil {
						yield(nil, fmt.Errorf("store %s: batch %d: %w", s.place(), r.position, err))
						return
					}
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
		f, err := batch.NewFilter(q)
		if err != nil {
			yield(store.Route{}, err)
			return
		}
		w := walk{s: s, f: f, before: store.Cursor{Position: math.MaxInt64}, window: firstWindow}
		if q.Prefix.IsValid() {
			w.window *= 8
		}
		if q.After != (store.Cursor{}) {
			w.before = q.After
		}
		batch.Walk(batch.LimitOf(q.Limit), func(limit int) ([]store.Route, bool, error) { return w.step(ctx, limit) }, yield)
	}
}

// walk goes down through history: what it has not yet looked at is what lies below before.
type walk struct {
	s      *Store
	f      *batch.Filter
	before store.Cursor
	begun  bool
	window uint64 // how many positions of updates are looked at next, where nothing else says where to look
}

const firstWindow = 2048

// top is the highest position that may have rows below before.
func (w *walk) top() uint64 {
	if w.before.Row == 0 {
		return max(w.before.Position, 1) - 1
	}
	return w.before.Position
}

// step returns the next matching rows, newest first and at most limit, and whether there may be more.
func (w *walk) step(ctx context.Context, limit int) (routes []store.Route, more bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	st := w.s.current()
	if !w.begun {
		w.begun = true
		if st, err = w.s.latest(ctx); err != nil {
			return nil, false, err
		}
	}
	top := min(w.top(), st.position)
	if top == 0 {
		return nil, false, nil
	}
	if top <= st.expanded {
		return w.scan(ctx, top, limit)
	}
	low := max(st.expanded, top-min(top, pageLog))
	page, err := w.s.readLog(ctx, low+1, top, fmt.Sprintf("rows > 0 AND max_time >= %d AND min_time < %d", w.f.From, w.f.To))
	now, failed := w.s.latest(ctx)
	if failed == nil && now.dropped > low {
		return nil, true, nil // expanded and dropped meanwhile: it is in updates now
	}
	if err = cmp.Or(err, failed); err != nil {
		return nil, false, err
	}
	var reader batch.Reader
	for _, l := range slices.Backward(page) {
		found, err := w.f.Newest(&reader, l.stored(), w.before, limit-len(routes))
		if err != nil {
			return routes, false, fmt.Errorf("store %s: %w", w.s.place(), err)
		}
		if routes = append(routes, found...); len(routes) == limit {
			w.before = routes[limit-1].Cursor
			return routes, true, nil
		}
	}
	w.before = store.Cursor{Position: low + 1}
	return routes, true, nil
}

// scan reads a page of updates at positions up to top.
func (w *walk) scan(ctx context.Context, top uint64, limit int) (routes []store.Route, more bool, err error) {
	low := uint64(0) // looked at is what lies above
	var where []string
	add := func(format string, a ...any) { where = append(where, fmt.Sprintf(format, a...)) }
	prefix := w.f.Q.Prefix.IsValid()
	if prefix {
		where = append(where, prefixCondition(w.f.Q.Prefix, w.f.Q.Match))
	}
	// Where a prefix and a time say where to look there is little to be read.
	if (!prefix || w.f.From == math.MinInt64 && w.f.To == math.MaxInt64) && w.window < top {
		low = top - w.window
		add("position > %d", low)
	}
	if a := w.f.Q.Action; a == store.PeerUp || a == store.PeerDown {
		add("afi = 0") // they are of no prefix
	}
	add("position <= %d", top)
	if top == w.before.Position {
		// An OR would make the server go through the marks of the primary key instead of searching them.
		add("if(position = %d, row < %d, true)", top, w.before.Row)
	}
	if w.f.From != math.MinInt64 {
		add("time >= %d", w.f.From)
	}
	if w.f.To != math.MaxInt64 {
		add("time < %d", w.f.To)
	}
	if w.f.Q.Action != "" {
		add("action = %d", slices.Index(batch.Actions, w.f.Q.Action)+1)
	}
	if w.f.Q.OriginASN != 0 {
		add("origin_asn = %d", w.f.Q.OriginASN)
	}
	if w.f.Q.ASOnPath != 0 {
		where = append(where, w.s.onPath(w.f.Q.ASOnPath))
	}
	peers, none := w.s.peerCondition(&w.f.Q)
	if none {
		return nil, false, nil
	}
	where = append(where, peers...)
	n := min(limit, pageRows)
	err = w.s.rows(ctx, func(r api.Rows) error {
		route, err := w.s.scanRoute(r)
		routes = append(routes, route)
		return err
	}, fmt.Sprintf(selectRoutes+` WHERE %s ORDER BY position DESC, row DESC LIMIT 1 BY position, row LIMIT %d`, strings.Join(where, " AND "), n))
	switch {
	case err != nil:
		return nil, false, err
	case len(routes) == n:
		w.before = routes[n-1].Cursor
		return routes, true, nil
	}
	w.before = store.Cursor{Position: low + 1}
	w.window *= 8
	return routes, low > 0, nil
}

// selectRoutes is what scanRoute scans.
const selectRoutes = `SELECT position, row, time, action, peer, afi, address, length, path_id, origin_asn, attributes, backfilled
	FROM updates`

func (s *Store) scanRoute(r api.Rows) (store.Route, error) {
	var t store.Route
	var row, peer uint32
	var at int64
	var action, afi, length uint8
	var address netip.Addr
	var attributes string
	if err := r.Scan(&t.Cursor.Position, &row, &at, &action, &peer, &afi, &address, &length, &t.PathID, &t.OriginASN, &attributes, &t.Backfilled); err != nil {
		return t, err
	}
	p, known := s.peer(peer)
	if !known || action < 1 || int(action) > len(batch.Actions) {
		return t, fmt.Errorf("row %d of batch %d has peer %d and action %d, which are not known", row, t.Cursor.Position, peer, action)
	}
	t.Cursor.Row, t.Time, t.Action = int(row), ingest.Time(at).Time(), batch.Actions[action-1]
	t.Collector, t.PeerASN, t.PeerIP, t.View = p.Collector, p.ASN, p.Addr, p.View
	switch afi {
	case 4:
		a := address.As16()
		t.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte(a[12:])), int(length))
	case 6:
		t.Prefix = netip.PrefixFrom(netip.AddrFrom16(address.As16()), int(length))
	}
	return t, setAttributes(&t, attributes)
}

// samePeer stands for a next hop that is the peer's address, and for the peer's AS at the beginning of a path.
const samePeer = '='

// appendAttributes writes what updates keep of the attributes that p told: next hop, path, communities and, where there is
// one, OTC, a line each.
func appendAttributes(dst []byte, p *ingest.Peer, a *bgp.Attributes) []byte {
	switch {
	case !a.NextHop.IsValid():
	case a.NextHop == p.Addr:
		dst = append(dst, samePeer)
	default:
		dst = a.NextHop.AppendTo(dst)
	}
	dst = append(dst, '\n')
	path := len(dst)
	dst = a.ASPath.AppendTo(dst)
	var room [10]byte
	peer := strconv.AppendUint(room[:0], uint64(p.ASN), 10)
	if rest, found := bytes.CutPrefix(dst[path:], peer); found && (len(rest) == 0 || rest[0] == ' ') {
		dst[path] = samePeer
		dst = append(dst[:path+1], rest...)
	}
	dst = batch.AppendCommunities(append(dst, '\n'), a)
	if a.OTC != 0 {
		dst = strconv.AppendUint(append(dst, '\n'), uint64(a.OTC), 10)
	}
	return dst
}

// setAttributes reads into t, whose peer is known, what appendAttributes wrote.
func setAttributes(t *store.Route, text string) (err error) {
	nextHop, rest, found := strings.Cut(text, "\n")
	if !found {
		return nil
	}
	if nextHop == string(samePeer) {
		t.NextHop = t.PeerIP
	} else if nextHop != "" {
		if t.NextHop, err = netip.ParseAddr(nextHop); err != nil {
			return err
		}
	}
	t.ASPath, rest, _ = strings.Cut(rest, "\n")
	if t.ASPath != "" && t.ASPath[0] == samePeer {
		t.ASPath = strconv.FormatUint(uint64(t.PeerASN), 10) + t.ASPath[1:]
	}
	communities, otc, found := strings.Cut(rest, "\n")
	if communities != "" {
		t.Communities = strings.Split(communities, " ")
	}
	if found {
		n, err := strconv.ParseUint(otc, 10, 32)
		if err != nil {
			return err
		}
		t.OTC = uint32(n)
	}
	return nil
}

// onPath is the condition that asn is on the path.
func (s *Store) onPath(asn uint32) string {
	const path = `splitByChar('\n', attributes)[2]`
	there := fmt.Sprintf("hasToken(%s, '%d')", path, asn)
	if peers := s.peersLike(&store.UpdateQuery{PeerASN: asn}); len(peers) > 0 {
		there = fmt.Sprintf("(%s OR (peer IN (%s) AND startsWith(%s, '%c')))", there, strings.Join(peers, ","), path, samePeer)
	}
	return there
}

// key is where the address of a prefix is in the order of updates.
func key(a netip.Addr) (afi uint8, address [16]byte) {
	switch {
	case !a.IsValid():
		return 0, address
	case a.Is4():
		return 4, a.As16()
	}
	return 6, a.As16()
}

// literal writes an address as ClickHouse's type IPv6 has it.
func literal(a netip.Addr) string {
	return fmt.Sprintf("toIPv6('%s')", netip.AddrFrom16(a.As16()).WithZone(""))
}

// prefixCondition is one that the primary key answers.
func prefixCondition(p netip.Prefix, m store.Match) string {
	p = p.Masked()
	afi, _ := key(p.Addr())
	switch m {
	case store.Covered:
		return fmt.Sprintf("afi = %d AND address >= %s AND address <= %s AND length >= %d", afi, literal(p.Addr()), literal(lastOf(p)), p.Bits())
	case store.Covering:
		keys := make([]string, 0, p.Bits()+1)
		for l := 0; l <= p.Bits(); l++ {
			keys = append(keys, fmt.Sprintf("(%d, %s, %d)", afi, literal(netip.PrefixFrom(p.Addr(), l).Masked().Addr()), l))
		}
		return "(afi, address, length) IN (" + strings.Join(keys, ", ") + ")"
	}
	return fmt.Sprintf("afi = %d AND address = %s AND length = %d", afi, literal(p.Addr()), p.Bits())
}

// lastOf is the highest address in p.
func lastOf(p netip.Prefix) netip.Addr {
	bytes := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(bytes); i++ {
		bytes[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(bytes)
	return a
}
