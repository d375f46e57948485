package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math"
	"strings"
	"sync"
	"time"

	api "github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

// Reader reads what a [Store], usually of another process, has committed, and goes on seeing what that commits: a read
// sees what had been committed when it began. It takes nothing over and changes nothing, so that any number may read
// beside the writer, as a user who may only SELECT (and set settings, as with readonly = 2). Every method that writes returns an error.
//
// Health returns nil while the server answers, else the error of the last look at it.
type Reader struct{ *Store }

var (
	_ store.Store  = (*Reader)(nil)
	_ store.Reader = (*Reader)(nil)
)

// lookEvery is how often a Reader looks for what is new while nobody asks. It bounds how late WaitEvents is.
const lookEvery = 500 * time.Millisecond

// looking is what a Reader needs to know between two looks.
type looking struct {
	turn         chan struct{} // has room for one: whoever looks
	begun        time.Time     // when the last look that succeeded did
	epoch, first uint64        // the last epoch that has begun, and where
	peers        [3]uint64     // changes when the table of peers does
	newest       int64         // watermark of the newest batch; 0 where none is known
}

// OpenReader connects to a database whose schema is this program's, and starts the goroutine that looks for what is new,
// which Close ends.
func OpenReader(ctx context.Context, cfg Configuration, log *slog.Logger) (_ *Reader, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.Background())
	s := &Store{cfg: cfg, log: log, running: running, cancel: cancel, changed: make(chan struct{}), looking: &looking{turn: make(chan struct{}, 1)}}
	s.close = sync.OnceValue(s.shut)
	defer func() {
		if err != nil {
			cancel()
			s.disconnect()
			err = fmt.Errorf("store %s: %w", s.place(), err)
		}
	}()
	if s.conn, err = connect(ctx, cfg, false); err != nil {
		return nil, err
	}
	if err := checkSchema(ctx, s.conn); err != nil {
		return nil, err
	}
	if err := s.look(ctx); err != nil {
		return nil, err
	}
	s.done.Go(s.lookout)
	return &Reader{s}, nil
}

// checkSchema makes sure that the schema is the one that this program reads.
func checkSchema(ctx context.Context, conn api.Conn) error {
	var there uint64
	err := conn.QueryRow(ctx, `SELECT count() FROM system.tables WHERE database = currentDatabase() AND name = 'schema_versions'`).Scan(&there)
	if err != nil {
		return err
	}
	if there == 0 {
		return ErrMissing
	}
	var version uint32
	if err := conn.QueryRow(ctx, `SELECT max(version) FROM schema_versions`).Scan(&version); err != nil {
		return err
	}
	switch known := schemaVersion(); {
	case int(version) > known:
		return newerSchema(version)
	case int(version) < known:
		return fmt.Errorf("%w: it has schema %d, written by an older routevigil, or one that has not finished starting; this one reads %d: start what writes it in this version first, which brings it up to date",
			ErrUnprepared, version, known)
	}
	return nil
}

// lookout looks for what is new until the Reader closes.
func (s *Store) lookout() {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-s.running.Done():
			return
		case <-ticker.C:
		}
		s.look(s.running) // Health tells of what is wrong
	}
}

// look finds out what the writer has committed by now. Who waits for another's look takes that one's word if it began
// late enough.
func (s *Store) look(ctx context.Context) error {
	asked := time.Now()
	l := s.looking
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return ctx.Err()
	case <-s.running.Done():
		return errClosed
	}
	if l.begun.After(asked) {
		return nil
	}
	begun := time.Now()
	err := s.lookNow(ctx)
	if err == nil {
		l.begun = begun
	} else if ctx.Err() != nil || s.running.Err() != nil {
		return err // says nothing of the server
	}
	s.mu.Lock()
	before := s.keepErr
	s.keepErr = err
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.log.Error("The store cannot be read.", "error", err)
	case err == nil && before != nil:
		s.log.Info("The store can be read again.")
	}
	return err
}

// lookNow reads the state first and the epochs after it, and again where another epoch has begun meanwhile: then what
// is in the log was in the right epoch. While somebody has claimed one and not begun it, it is open what of the log that
// epoch will find, so the position stays as it is; nobody else can commit anything then.
func (s *Store) lookNow(ctx context.Context) error {
	l := s.looking
	for {
		var st state
		var newest int64
		valid := fmt.Sprintf("(epoch >= %d OR position < %d)", l.epoch, l.first)
		err := s.rows(ctx, func(r api.Rows) error {
			return r.Scan(&st.position, &newest, &st.checkpoint, &st.sequence, &st.expanded, &st.expanding, &st.dropped)
		}, `SELECT (SELECT max(position) FROM batches WHERE `+valid+`), (SELECT max(watermark) FROM batches WHERE NOT backfilled AND NOT imported AND `+valid+`),
			(SELECT max(position) FROM checkpoints WHERE piece = 0), (SELECT max(sequence) FROM journal WHERE entry = 'event'),
			m.1, m.2, m.3 FROM (SELECT (SELECT (`+marksOf+`) FROM marks) AS m)`)
		if err != nil {
			return err
		}
		var claimed, epoch, first uint64
		var peers [3]uint64
		err = s.rows(ctx, func(r api.Rows) error {
			var id uint32
			if err := r.Scan(&claimed, &epoch, &first, &peers[0], &id, &peers[2]); err != nil {
				return err
			}
			peers[1] = uint64(id)
			return nil
		}, `SELECT (SELECT max(epoch) FROM epochs), e.1, e.2, p.1, p.2, p.3 FROM (SELECT
			(SELECT max((epoch, first_position)) FROM epochs WHERE first_position > 0) AS e,
			(SELECT (count(), max(id), max(epoch)) FROM peers) AS p)`)
		if err != nil {
			return err
		}
		if epoch != l.epoch || first != l.first {
			l.epoch, l.first = epoch, first
			continue
		}
		if peers != l.peers {
			known, err := s.loadPeers(ctx)
			if err != nil {
				return err
			}
			l.peers = peers
			s.mu.Lock()
			s.peers = known
			s.mu.Unlock()
		}
		st.position = max(st.position, st.checkpoint, st.expanded, max(first, 1)-1)
		s.mu.Lock()
		defer s.mu.Unlock()
		if claimed > epoch && !l.begun.IsZero() {
			st.position = min(st.position, s.state.position)
		}
		if st.sequence > s.state.sequence {
			close(s.changed)
			s.changed = make(chan struct{})
		}
		s.state = st
		if newest != 0 { // else the log has been dropped since
			l.newest = newest
		}
		return nil
	}
}

// Newest returns how far event time had come when the newest batch was stored, as of the last look; zero where that is
// not known.
func (r *Reader) Newest() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.looking.newest == 0 {
		return time.Time{}
	}
	return ingest.Time(r.looking.newest).Time()
}

// pageHistory is how many rows History holds, of about 300 bytes each.
const pageHistory = 1 << 17

// History implements [store.Reader] for what has been committed when it is called; what retention drops meanwhile is
// missing. Updates are kept in the order of prefixes, so the rows are sorted by the server, a page at a time, and each
// page takes a look at all rows of the days that have some of the period.
func (r *Reader) History(ctx context.Context, from, to time.Time) iter.Seq2[store.Route, error] {
	return func(yield func(store.Route, error) bool) {
		if err := r.history(ctx, from, to, func(route store.Route) bool { return yield(route, nil) }); err != nil {
			yield(store.Route{}, err)
		}
	}
}

func (r *Reader) history(ctx context.Context, from, to time.Time, yield func(store.Route) bool) error {
	f, err := batch.NewFilter(store.UpdateQuery{From: from, To: to})
	if err != nil {
		return err
	}
	st, err := r.latest(ctx)
	if err != nil {
		return err
	}
	last := st.position
	for after := (store.Cursor{Row: -1}); ; {
		if st, err = r.latest(ctx); err != nil {
			return err
		}
		if after.Position >= last+1 {
			return nil
		}
		if after.Position <= st.expanded {
			if after, err = r.expandedHistory(ctx, f, after, min(st.expanded, last), yield); err != nil || after.Position == math.MaxUint64 {
				return err
			}
			continue
		}
		if after, err = r.loggedHistory(ctx, f, after.Position, min(last, after.Position+pageLog-1), yield); err != nil || after.Position == math.MaxUint64 {
			return err
		}
	}
}

// stopped is where a walk is that was told to end.
var stopped = store.Cursor{Position: math.MaxUint64}

// expandedHistory yields the rows of updates behind after, at positions up to last, and returns where to go on.
func (r *Reader) expandedHistory(ctx context.Context, f *batch.Filter, after store.Cursor, last uint64, yield func(store.Route) bool) (store.Cursor, error) {
	where := []string{fmt.Sprintf("(position > %d OR (position = %d AND toInt64(row) > %d)) AND position <= %d", after.Position, after.Position, after.Row, last)}
	if f.From != math.MinInt64 {
		where = append(where, fmt.Sprintf("time >= %d", f.From))
	}
	if f.To != math.MaxInt64 {
		where = append(where, fmt.Sprintf("time < %d", f.To))
	}
	var low, high, rows uint64
	var firstDay, lastDay time.Time
	err := r.rows(ctx, func(row api.Rows) error { return row.Scan(&low, &high, &rows, &firstDay, &lastDay) },
		`SELECT min(position), max(position), count(), min(received), max(received) FROM updates WHERE `+strings.Join(where, " AND "))
	if err != nil {
		return stopped, err
	}
	where = append(where, fmt.Sprintf("received >= '%s' AND received <= '%s'", firstDay.Format(time.DateOnly), lastDay.Format(time.DateOnly)))
	for rows > 0 && low <= high {
		// About as many positions as make a page.
		top := min(high, low+uint64(float64(high-low+1)*min(1, pageHistory/float64(rows))))
		var page []store.Route
		err := r.rows(ctx, func(row api.Rows) error {
			route, err := r.scanRoute(row)
			page = append(page, route)
			return err
		}, fmt.Sprintf(selectRoutes+` WHERE %s AND position >= %d AND position <= %d AND (position > %d OR toInt64(row) > %d)
			ORDER BY position, row LIMIT 1 BY position, row LIMIT %d`, strings.Join(where, " AND "), low, top, after.Position, after.Row, pageHistory))
		if err != nil {
			return stopped, err
		}
		for _, route := range page {
			if !yield(route) {
				return stopped, nil
			}
			after = route.Cursor
		}
		low = top + 1
		if len(page) == pageHistory {
			low = after.Position // there may be more of it
		}
	}
	return store.Cursor{Position: last + 1, Row: -1}, nil
}

// loggedHistory is expandedHistory for what is not expanded: batches first to last, read from the log.
func (r *Reader) loggedHistory(ctx context.Context, f *batch.Filter, first, last uint64, yield func(store.Route) bool) (store.Cursor, error) {
	page, err := r.readLog(ctx, first, last, fmt.Sprintf("rows > 0 AND max_time >= %d AND min_time < %d", f.From, f.To))
	now, failed := r.latest(ctx)
	if failed == nil && now.dropped >= first {
		return store.Cursor{Position: first, Row: -1}, nil // expanded and dropped meanwhile: it is in updates now
	}
	if err := errors.Join(err, failed); err != nil {
		return stopped, err
	}
	var reader batch.Reader
	for _, row := range page {
		found, err := f.All(&reader, row.stored())
		if err != nil {
			return stopped, fmt.Errorf("store %s: %w", r.place(), err)
		}
		for _, route := range found {
			if !yield(route) {
				return stopped, nil
			}
		}
	}
	return store.Cursor{Position: last + 1, Row: -1}, nil
}
