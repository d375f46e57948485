// Package embedded is the store that needs nothing installed: one directory, pure Go.
//
// SQLite holds what is small, relational and must be committed together: incidents with their
// events, the alert outbox, the manifest of parts, and the tail of update history that is not yet
// sealed. Parquet parts hold the bulk, sealed history, at a tenth of the size and twenty times the
// rate of SQLite rows, in files that DuckDB, pandas and ClickHouse open as they are.
//
//	lock                    taken while a process has the directory open; holds its pid
//	routevigil.db           SQLite, with its -wal and -shm
//	checkpoint-N            the detector's last saved state
//	parts/FIRST-LAST.parquet  sealed history of the batches at positions FIRST to LAST
//
// # Writing
//
// One goroutine writes. What arrives while it waits for the disk shares its next commit, so that
// many concurrent appends cost few fsyncs. A batch is one row whose body is compressed by the
// caller's goroutine: appending a thousand updates is one small insert, not a thousand. A row of
// SQLite is the commit point of every file: a part or checkpoint file without its row never
// happened and is deleted when the store is opened.
//
// # Sealing
//
// Once the tail is large or old enough, what of it the last checkpoint covers (and recovery
// therefore never reads again) becomes a part: one row per prefix and update, sorted by prefix,
// then by arrival. Parts are merged within a window of time, in tiers, so that each row is
// rewritten a few times at most. Retention drops the oldest parts.
//
// # Reading
//
// Positions only grow and parts cover disjoint ranges of them, below the tail. So a query walks
// down: tail, newest part, next part. It holds no transaction and no lock while its consumer
// thinks, and sealing between two steps cannot hide a row from it or show one twice.
//
// How much was said by time is counted without reading the rows where whole hours are asked for: a part comes with a
// summary by hour and origin, which SQLite keeps beside the manifest.
package embedded

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/routevigil/routevigil/store"
)

const (
	readers  = 4   // connections that read
	groupMax = 128 // writes that may share a commit
)

// What errors are counted by.
const (
	opWrite   = "write"
	opSeal    = "seal"
	opRetain  = "retain"
	opMissing = "missing_part"
)

var errClosed = errors.New("the store is closed")

// Store implements [store.Store] in a directory.
type Store struct {
	cfg         Configuration
	sizes       sizes
	log         *slog.Logger
	metrics     *metrics
	lock        *os.File
	write, read *sql.DB

	requests chan *request
	running  context.Context // until Close
	close    func() error
	done     sync.WaitGroup
	wake     chan struct{} // tells the sealer that there may be work
	tidying  sync.Mutex    // held by whoever seals, merges or retires: only they change the layout

	// layout is held for writing while a commit moves history between the tail and parts, and for
	// reading while a reader looks at one of the two.
	layout sync.RWMutex
	parts  []*part // in order of position; the slice is replaced, never changed

	checkpoints sync.RWMutex // held for writing while the checkpoint file is replaced

	mu       sync.Mutex
	state    state         // as of the last commit
	changed  chan struct{} // closed and replaced when state.sequence grows
	writeErr error         // of the last write, nil if it succeeded
	sealErr  error         // of the last attempt to seal or retain
}

// state is what the writer needs to know of the database and what it would be slow to ask.
type state struct {
	position     uint64 // of the last batch
	sequence     uint64 // of the last event
	checkpoint   uint64 // position of the last checkpoint
	serial       int64  // of its file; 0 when there is none
	tailUpdates  int64
	tailBatches  int64
	tailReceived int64 // wall clock in microseconds of the first batch of the tail
}

var _ store.Store = (*Store)(nil)

// Open opens the store in cfg.Directory, making it if it is not there, and starts its goroutines;
// [Store.Close] ends them. It fails when another process has the directory open and when a newer
// version wrote it.
func Open(cfg Configuration, log *slog.Logger, reg prometheus.Registerer) (*Store, error) {
	s, err := open(cfg, defaultSizes, log, reg)
	if err != nil {
		return nil, err
	}
	s.done.Go(s.sealer)
	return s, nil
}

// open does all of Open but start the sealer: tests seal when they say.
func open(cfg Configuration, sizes sizes, log *slog.Logger, reg prometheus.Registerer) (_ *Store, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	dir := cfg.Directory
	if err := os.MkdirAll(filepath.Join(dir, partsDirectory), 0o755); err != nil {
		return nil, fmt.Errorf("store %s: %w", dir, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Store{cfg: cfg, sizes: sizes, log: log, requests: make(chan *request), running: ctx,
		wake: make(chan struct{}, 1), changed: make(chan struct{})}
	s.close = sync.OnceValue(func() error {
		cancel()
		s.done.Wait()
		return s.release()
	})
	if s.lock, err = lockDirectory(dir); err != nil {
		cancel()
		return nil, err
	}
	defer func() {
		if err != nil {
			cancel()
			s.release()
		}
	}()
	if s.write, s.read, err = openDatabase(dir); err != nil {
		return nil, err
	}
	if err := s.load(ctx); err != nil {
		return nil, fmt.Errorf("store %s: %w", dir, err)
	}
	if s.metrics, err = newMetrics(reg); err != nil {
		return nil, fmt.Errorf("store %s: metrics: %w", dir, err)
	}
	if err := s.removeOrphans(); err != nil {
		return nil, fmt.Errorf("store %s: %w", dir, err)
	}
	s.showSizes()
	s.done.Go(s.writer)
	return s, nil
}

// load reads the state and the manifest.
func (s *Store) load(ctx context.Context) error {
	parts, err := loadParts(ctx, s.read, s.cfg.Directory)
	if err != nil {
		return err
	}
	s.parts = parts
	st := &s.state
	err = s.read.QueryRowContext(ctx, `SELECT position, serial FROM checkpoint`).Scan(&st.checkpoint, &st.serial)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	// Only what a checkpoint covers is ever sealed, and a checkpoint covers only what was appended, so
	// the larger of tail and checkpoint is the last position, also when retention dropped every part.
	err = s.read.QueryRowContext(ctx, `SELECT max(coalesce((SELECT max(position) FROM batches), 0), ?),
		(SELECT coalesce(max(sequence), 0) FROM events), (SELECT count(*) FROM batches), (SELECT coalesce(sum(updates), 0) FROM batches)`,
		st.checkpoint).Scan(&st.position, &st.sequence, &st.tailBatches, &st.tailUpdates)
	if err != nil {
		return err
	}
	st.tailReceived, err = oldestReceived(ctx, s.read)
	return err
}

// Close implements [store.Store].
func (s *Store) Close() error { return s.close() }

func (s *Store) release() error {
	var errs []error
	for _, p := range s.parts {
		p.release()
	}
	if s.read != nil {
		errs = append(errs, s.read.Close())
	}
	if s.write != nil {
		errs = append(errs, s.write.Close()) // the last connection folds the WAL into the database
	}
	errs = append(errs, s.lock.Close())
	return errors.Join(errs...)
}

// Health implements [store.Store]. It reports a failed seal too: history that cannot be sealed
// grows the tail until the disk is full.
func (s *Store) Health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.writeErr, s.sealErr)
}

// request is one write. apply runs within a transaction, on the writer's goroutine, and may run
// again after a rollback.
type request struct {
	apply func(*transaction) error
	done  chan error
	// layout says that the commit moves history between tail and parts: readers are held off, and
	// committed runs before they go on.
	layout    bool
	committed func()
}

// transaction is what apply works with.
type transaction struct {
	s     *Store
	conn  *sql.Conn
	state state // becomes the store's if the transaction commits
	after []func()
}

func (t *transaction) exec(query string, args ...any) (sql.Result, error) {
	return t.conn.ExecContext(context.Background(), query, args...)
}

func (t *transaction) queryRow(query string, args ...any) *sql.Row {
	return t.conn.QueryRowContext(context.Background(), query, args...)
}

// do hands r to the writer and waits for the outcome. ctx only matters until the writer takes it:
// from then on the outcome is known soon and the caller needs to know it.
func (s *Store) do(ctx context.Context, r *request) error {
	r.done = make(chan error, 1)
	select {
	case <-s.running.Done():
		return errClosed
	default:
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case s.requests <- r:
		return <-r.done
	case <-ctx.Done():
		return ctx.Err()
	case <-s.running.Done():
		return errClosed
	}
}

// writer commits what do hands it, until the store closes.
func (s *Store) writer() {
	var group []*request
	for {
		group = group[:0]
		select {
		case r := <-s.requests:
			group = append(group, r)
		case <-s.running.Done():
			return
		}
	drain:
		for len(group) < groupMax {
			select {
			case r := <-s.requests:
				group = append(group, r)
			default:
				break drain
			}
		}
		s.commit(group)
	}
}

// commit makes one transaction of group; if that fails, one of each, so that a request that cannot
// be stored does not take others with it.
func (s *Store) commit(group []*request) {
	start := time.Now()
	err := s.transact(group)
	if err != nil && len(group) > 1 {
		for _, r := range group {
			s.commit([]*request{r})
		}
		return
	}
	if err == nil {
		s.metrics.commits.Observe(time.Since(start).Seconds())
		s.metrics.groups.Observe(float64(len(group)))
	}
	err = s.wrapWrite(err)
	for _, r := range group {
		r.done <- err
	}
}

func (s *Store) transact(group []*request) (err error) {
	ctx := context.Background()
	conn, err := s.write.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	s.mu.Lock()
	t := &transaction{s: s, conn: conn, state: s.state}
	s.mu.Unlock()
	layout := false
	for _, r := range group {
		if err = r.apply(t); err != nil {
			break
		}
		layout = layout || r.layout
	}
	if err == nil {
		if layout {
			s.layout.Lock()
			defer s.layout.Unlock()
		}
		_, err = conn.ExecContext(ctx, "COMMIT")
	}
	if err != nil {
		// SQLite may have rolled back by itself. A connection that cannot say so is not used again.
		conn.ExecContext(ctx, "ROLLBACK")
		if unavailable(err) {
			conn.Raw(func(any) error { return driver.ErrBadConn })
		}
		return err
	}
	for _, r := range group {
		if r.committed != nil {
			r.committed()
		}
	}
	s.mu.Lock()
	grown := t.state.sequence > s.state.sequence
	s.state = t.state
	if grown {
		close(s.changed)
		s.changed = make(chan struct{})
	}
	s.mu.Unlock()
	for _, f := range t.after {
		f()
	}
	s.metrics.tailUpdates.Set(float64(t.state.tailUpdates))
	return nil
}

// unavailable tells failures of the storage from those of the request.
func unavailable(err error) bool {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code() & 0xff {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY,
		sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_PROTOCOL:
		return true
	}
	return false
}

// wrapWrite gives an error its place and remedy.
func (s *Store) wrapWrite(err error) error {
	if err != nil {
		switch {
		case unavailable(err):
			err = s.noSpace(err)
		case isCorrupt(err):
			err = fmt.Errorf("store %s: %w; restore it from a copy, or choose another directory", s.cfg.Directory, err)
		default: // the request's fault, not the store's
			return fmt.Errorf("store %s: %w", s.cfg.Directory, err)
		}
	}
	s.noteWrite(err)
	return err
}

// noteWrite keeps the outcome of a write for Health.
func (s *Store) noteWrite(err error) {
	if err != nil {
		s.metrics.errors.WithLabelValues(opWrite).Inc()
	}
	s.mu.Lock()
	before := s.writeErr
	s.writeErr = err
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.log.Error("The store cannot write.", "directory", s.cfg.Directory, "error", err)
	case err == nil && before != nil:
		s.log.Info("The store writes again.", "directory", s.cfg.Directory)
	}
}

func (s *Store) noSpace(err error) error {
	return fmt.Errorf("store %s: %w: %w; free space on its disk (or lower retention.size) and check that it is writable: writing resumes by itself",
		s.cfg.Directory, store.ErrUnavailable, err)
}

func isCorrupt(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_CORRUPT || e.Code()&0xff == sqlite3.SQLITE_NOTADB)
}

// Stats implements [store.Store].
func (s *Store) Stats(ctx context.Context) (store.Stats, error) {
	s.layout.RLock()
	defer s.layout.RUnlock()
	s.mu.Lock()
	st := store.Stats{LastPosition: s.state.position, LastSequence: s.state.sequence, Parts: len(s.parts)}
	s.mu.Unlock()
	var oldest sql.NullInt64
	var rows int64
	err := s.read.QueryRowContext(ctx, `SELECT (SELECT coalesce(sum(rows), 0) FROM batches), (SELECT min(min_time) FROM batches WHERE rows > 0),
		(SELECT count(*) FROM incidents)`).Scan(&rows, &oldest, &st.Incidents)
	if err != nil {
		return st, fmt.Errorf("store %s: %w", s.cfg.Directory, err)
	}
	st.Updates = uint64(rows)
	for _, p := range s.parts {
		st.Updates += uint64(p.rows)
		if !oldest.Valid || p.minTime < oldest.Int64 {
			oldest = sql.NullInt64{Int64: p.minTime, Valid: true}
		}
	}
	st.OldestUpdate = timeOf(oldest)
	st.Bytes, err = s.diskUse()
	return st, err
}

// diskUse sums the sizes of all files of the store.
func (s *Store) diskUse() (int64, error) {
	var sum int64
	for _, dir := range []string{s.cfg.Directory, filepath.Join(s.cfg.Directory, partsDirectory)} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return 0, fmt.Errorf("store %s: %w", s.cfg.Directory, err)
		}
		for _, e := range entries {
			if e.IsDir() {
				continue
			}
			if info, err := e.Info(); err == nil { // else it was removed meanwhile
				sum += info.Size()
			}
		}
	}
	return sum, nil
}

// micros gives a time as the database keeps it, NULL for the zero time.
func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

func timeOf(v sql.NullInt64) time.Time {
	if !v.Valid {
		return time.Time{}
	}
	return time.UnixMicro(v.Int64).UTC()
}
