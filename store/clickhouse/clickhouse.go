// Package clickhouse is the store for history that outgrows one machine: a ClickHouse server or cluster, spoken to over
// its native protocol.
//
// ClickHouse has no transactions across tables, no unique keys and no conditional writes. What it has is that the
// insert of one block into one partition is stored whole or not at all. The store is built on that alone.
//
// # Writing
//
// The commit point of a batch is one row of the log, the table batches, with the body that package store/batch makes.
// Appends that wait for the server share its next block. Events and the deliveries that they cause are one block of the
// table journal. So nothing is ever stored by half, and nothing but whole rows is ever to be made good.
//
// Rows are never changed. Something new about the same thing is a further row, and of several rows with the same key the
// version says which one counts. So what was sent again because its outcome was not known, and what comes late out of
// a broken connection, does no harm.
//
// # One writer
//
// Positions are given out here, by one process. Whoever opens the store claims the next epoch. A writer looks after
// each write whether a higher epoch has been claimed, and if so reports an error and writes no more. The new epoch begins
// behind what it found then, and what an earlier epoch stored from there on is void: nobody was told that it is stored.
// A writer that does not know whether an append was stored claims an epoch anew for the same reason.
//
// # Readers
//
// Any number of readers may look at what the writer has committed, see [OpenReader]. They claim no epoch. What the writer
// keeps in memory a reader asks the database for, each time that it is asked: how far the log goes, what of it is
// expanded, who the peers are.
//
// # Expanding
//
// Every few seconds what is new in the log becomes a block of the table updates, one row for each prefix, in the
// order of prefixes: few large blocks, as ClickHouse wants them, and compressed several times better than by arrival. A
// mark says how far it has come; a block that was inserted twice is folded into one by merges and by queries. The log is
// dropped up to there once a checkpoint covers it.
//
// # Reading
//
// Queries walk down from the newest: what of the log is not expanded, then updates. They read pages, so that neither
// memory nor a connection is held for a consumer that thinks.
package clickhouse

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"
	api "github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
)

// ErrUnprepared is wrapped where there is no database to read, or one of an older version: who writes it prepares it.
var ErrUnprepared = errors.New("the database is not prepared")

var (
	errClosed   = errors.New("the store is closed")
	errReadOnly = errors.New("it is open for reading only")
	errFenced   = errors.New("another routevigil has taken the store over; stop one of the two, or give it another database")
)

// ErrMissing is wrapped by the error for a database that is not there, or not a store's.
var ErrMissing = fmt.Errorf("%w: there is none; start what writes it first, \"routevigil serve\" or \"routevigil record\", or correct store.clickhouse.database", ErrUnprepared)

// codes of server errors that come again when the same is sent again. All others may pass: a full disk (243), too many
// parts (252), a table or user that may only read (164, 242), too little memory (241), a lost Keeper (999).
var finalCodes = map[int32]bool{
	16: true, 36: true, 43: true, 47: true, 48: true, 53: true, 57: true, 60: true, 62: true, 81: true, 192: true, 497: true, 516: true,
}

// Store implements [store.Store] in a database of ClickHouse.
type Store struct {
	cfg       Configuration
	retention store.Retention
	log       *slog.Logger
	metrics   *metrics
	conn      api.Conn // for queries
	writer    api.Conn // for writes, which do not wait for queries to end
	owner     string

	appends chan []*appending
	running context.Context // until Close
	cancel  context.CancelFunc
	close   func() error
	done    sync.WaitGroup
	wake    chan struct{} // tells the expander that there may be work
	looking *looking      // of a Reader; nil where this is the writer

	expanding sync.Mutex // held by whoever expands or drops
	block     block      // what is expanded; expanding is held
	writing   sync.Mutex // held by whoever writes anything but batches and updates
	batches   sync.Mutex // held by whoever writes batches

	mu       sync.Mutex
	state    state
	recent   recent
	peers    peers
	gaps     []gap // by ID
	heard    map[string]store.Heard
	changed  chan struct{} // closed and replaced when state.sequence grows
	writeErr error         // of the last write, nil if it succeeded
	keepErr  error         // of the last attempt to expand or drop
}

// state is what the store knows of the database; only this process changes it.
type state struct {
	epoch       uint64
	first       uint64 // position at which the epoch begins
	version     uint64 // last one given out
	position    uint64 // of the last batch
	sequence    uint64 // of the last event
	checkpoint  uint64 // position of the last checkpoint
	expanded    uint64 // position up to which updates has everything
	expanding   uint64 // position up to which it may have something
	dropped     uint64 // position up to which the log may lack rows
	logUpdates  uint64 // in batches above expanded
	logReceived int64  // wall clock of the first batch above expanded, microseconds; 0 when there is none
	doubtful    bool   // an append failed that may be stored nevertheless
	fenced      bool
}

// moving tells whether updates may have rows that the log still counts for.
func (st *state) moving() bool { return st.expanding > st.expanded }

var _ store.Store = (*Store)(nil)

// Open connects, brings the schema up to date, takes the database over from whoever wrote to it before, and starts the
// store's goroutines, which [Store.Close] ends.
func Open(ctx context.Context, cfg Configuration, retention store.Retention, log *slog.Logger, reg prometheus.Registerer) (*Store, error) {
	s, err := open(ctx, cfg, retention, log, reg)
	if err != nil {
		return nil, err
	}
	s.done.Go(s.expander)
	s.done.Go(s.signsOfLife)
	return s, nil
}

// open does all of Open but start the expander: tests expand when they say.
func open(ctx context.Context, cfg Configuration, retention store.Retention, log *slog.Logger, reg prometheus.Registerer) (_ *Store, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(context.Background())
	s := &Store{cfg: cfg, retention: retention, log: log, appends: make(chan []*appending), running: running, cancel: cancel,
		wake: make(chan struct{}, 1), changed: make(chan struct{}), heard: make(map[string]store.Heard)}
	var id [8]byte
	rand.Read(id[:])
	s.owner = hex.EncodeToString(id[:])
	s.close = sync.OnceValue(s.shut)
	defer func() {
		if err != nil {
			cancel()
			s.disconnect()
			err = fmt.Errorf("store %s: %w", s.place(), err)
		}
	}()
	if s.metrics, err = newMetrics(reg); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	if s.conn, err = connect(ctx, cfg, true); err != nil {
		return nil, err
	}
	if s.writer, err = connect(ctx, cfg, true); err != nil {
		return nil, err
	}
	if err := migrate(ctx, s.conn, layout{cfg.Cluster}, schemaVersion()); err != nil {
		return nil, err
	}
	if err := s.takeOver(ctx); err != nil {
		return nil, err
	}
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	s.done.Go(s.appender)
	return s, nil
}

// shut ends the goroutines and the connections.
func (s *Store) shut() error {
	s.cancel()
	s.done.Wait()
	if s.looking == nil {
		s.sayGone()
	}
	return s.disconnect()
}

func (s *Store) disconnect() error {
	var errs []error
	for _, c := range []api.Conn{s.conn, s.writer} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// place names the store in errors.
func (s *Store) place() string {
	return fmt.Sprintf("clickhouse://%s/%s", s.cfg.Addresses[0], s.cfg.Database)
}

// connect opens a pool of connections to the database, which it makes where it is missing. Where
// nothing is to be written the server sees to it, and the database must be there.
func connect(ctx context.Context, cfg Configuration, write bool) (api.Conn, error) {
	secure, err := cfg.TLS.config()
	if err != nil {
		return nil, err
	}
	settings := driver.Settings{
		"async_insert":          0, // an insert that returns is stored
		"optimize_on_insert":    0,
		"max_execution_time":    cfg.QueryTimeout.Seconds(),
		"max_memory_usage":      cfg.QueryMemory,
		"max_insert_block_size": 1 << 24, // a block is never split

	}
	if !write {
		settings["readonly"] = 2 // settings such as these may be set
	}
	if cfg.QueryThreads > 0 {
		settings["max_threads"] = cfg.QueryThreads
	}
	if cfg.Cluster != "" {
		settings["insert_quorum"] = "auto"
		settings["insert_quorum_parallel"] = 0
		settings["select_sequential_consistency"] = 1
		settings["distributed_foreground_insert"] = 1
	}
	dial := func(database string) (api.Conn, error) {
		conn, err := driver.Open(&driver.Options{
			Addr: cfg.Addresses, TLS: secure, Settings: settings,
			Auth:         driver.Auth{Database: database, Username: cfg.Username, Password: cfg.Password},
			Compression:  &driver.Compression{Method: driver.CompressionLZ4},
			DialTimeout:  10 * time.Second,
			ReadTimeout:  cfg.QueryTimeout + 10*time.Second,
			MaxOpenConns: 16, MaxIdleConns: 8,
		})
		if err != nil {
			return nil, err
		}
		if err := conn.Ping(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		return conn, nil
	}
	first, err := dial("")
	if err != nil {
		return nil, err
	}
	defer first.Close()
	var there uint64
	if err := first.QueryRow(ctx, `SELECT count() FROM system.databases WHERE name = ?`, cfg.Database).Scan(&there); err != nil {
		return nil, err
	}
	if there == 0 && !write {
		return nil, ErrMissing
	}
	if there == 0 { // who may not make databases can be given one
		if err := first.Exec(ctx, fmt.Sprintf("CREATE DATABASE IF NOT EXISTS `%s` %s", cfg.Database, layout{cfg.Cluster}.OnCluster())); err != nil {
			return nil, err
		}
	}
	return dial(cfg.Database)
}

// takeOver claims an epoch above all others and begins it.
func (s *Store) takeOver(ctx context.Context) error {
	for {
		var highest uint64
		if err := s.conn.QueryRow(ctx, `SELECT max(epoch) FROM epochs`).Scan(&highest); err != nil {
			return err
		}
		alone, err := s.claim(ctx, highest+1)
		if err != nil {
			return err
		}
		if alone {
			s.state.epoch = highest + 1
			break
		}
	}
	if err := s.loadPosition(ctx); err != nil {
		return err
	}
	return s.begin(ctx, s.state.position+1)
}

// claim takes epoch, and tells whether nobody else claims it or a higher one. Each looks after having claimed, so that of
// two at least one sees the other.
func (s *Store) claim(ctx context.Context, epoch uint64) (alone bool, err error) {
	if err := s.writer.Exec(ctx, fmt.Sprintf(`INSERT INTO epochs (epoch, owner, first_position, at) VALUES (%d, '%s', 0, now64(6))`, epoch, s.owner)); err != nil {
		return false, err
	}
	var others uint64
	err = s.writer.QueryRow(ctx, fmt.Sprintf(`SELECT count() FROM epochs WHERE epoch >= %d AND owner != '%s'`, epoch, s.owner)).Scan(&others)
	return others == 0, err
}

func (s *Store) begin(ctx context.Context, first uint64) error {
	err := s.writer.Exec(ctx, fmt.Sprintf(`INSERT INTO epochs (epoch, owner, first_position, at) VALUES (%d, '%s', %d, now64(6))`, s.state.epoch, s.owner, first))
	if err == nil {
		s.mu.Lock()
		s.state.first, s.state.version, s.state.doubtful = first, s.state.epoch<<32, false
		s.mu.Unlock()
	}
	return err
}

// loadPosition finds the last batch: what an earlier epoch stored where a later one has begun does not count.
func (s *Store) loadPosition(ctx context.Context) error {
	var epoch, first uint64
	err := s.conn.QueryRow(ctx, fmt.Sprintf(`SELECT max(t).1, max(t).2 FROM (SELECT (epoch, first_position) AS t FROM epochs WHERE first_position > 0 AND epoch < %d)`,
		s.state.epoch)).Scan(&epoch, &first)
	if err != nil {
		return err
	}
	var last, checkpoint uint64
	err = s.conn.QueryRow(ctx, fmt.Sprintf(`SELECT (SELECT max(position) FROM batches WHERE epoch >= %d OR position < %d), (SELECT max(position) FROM checkpoints WHERE piece = 0)`,
		epoch, first)).Scan(&last, &checkpoint)
	if err != nil {
		return err
	}
	s.state.position = max(last, checkpoint)
	if first > 0 {
		s.state.position = max(s.state.position, first-1)
	}
	return nil
}

// load reads the rest of the state.
func (s *Store) load(ctx context.Context) error {
	st := &s.state
	err := s.conn.QueryRow(ctx, `SELECT (SELECT max(sequence) FROM journal WHERE entry = 'event'), (SELECT max(position) FROM checkpoints WHERE piece = 0),
		m.1, m.2, m.3 FROM (SELECT (SELECT (`+marksOf+`) FROM marks) AS m)`).
		Scan(&st.sequence, &st.checkpoint, &st.expanded, &st.expanding, &st.dropped)
	if err != nil {
		return err
	}
	err = s.conn.QueryRow(ctx, fmt.Sprintf(`SELECT sum(updates), if(count() = 0, 0, toUnixTimestamp64Micro(min(received_at))) FROM (
		SELECT position, updates, received_at FROM batches WHERE position > %d AND position <= %d ORDER BY position, epoch DESC LIMIT 1 BY position)`,
		st.expanded, st.position)).Scan(&st.logUpdates, &st.logReceived)
	if err != nil {
		return err
	}
	if s.peers, err = s.loadPeers(ctx); err != nil {
		return err
	}
	s.gaps, s.heard, err = s.loadGaps(ctx, st.position)
	return err
}

// marksOf selects the marks that there are.
const marksOf = `maxIf(value, name = 'expanded'), maxIf(value, name = 'expanding'), maxIf(value, name = 'dropped')`

// Close implements [store.Store].
func (s *Store) Close() error { return s.close() }

// Health implements [store.Store]. It reports a failure to expand too: the log grows meanwhile.
func (s *Store) Health() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.writeErr, s.keepErr)
}

// write is attempt, with its outcome kept for Health.
func (s *Store) write(ctx context.Context, f func(ctx context.Context) error) error {
	err := s.attempt(ctx, f)
	if err != nil && (errors.As(err, new(refused)) || ctx.Err() != nil || s.running.Err() != nil) {
		return err // says nothing of the storage
	}
	s.mu.Lock()
	before := s.writeErr
	s.writeErr = err
	s.mu.Unlock()
	switch {
	case err != nil && before == nil:
		s.log.Error("The store cannot write.", "error", err)
	case err == nil && before != nil:
		s.log.Info("The store writes again.")
	}
	return err
}

// attempt lets f write, and looks afterwards whether this is still the one that may. ctx only matters before f begins:
// from then on the outcome is known soon, and the caller needs to know it. The caller holds the lock of what f writes.
func (s *Store) attempt(ctx context.Context, f func(ctx context.Context) error) error {
	if err := s.usable(ctx); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.WriteTimeout)
	defer cancel()
	err := f(bounded)
	if err == nil {
		err = s.checkEpoch(bounded)
	}
	if err == nil {
		return nil
	}
	s.metrics.errors.WithLabelValues(opWrite).Inc()
	e := new(driver.Exception)
	switch {
	case errors.As(err, new(refused)) || errors.Is(err, errFenced):
		return fmt.Errorf("store %s: %w", s.place(), err)
	case errors.As(err, &e) && finalCodes[e.Code]:
		return fmt.Errorf("store %s: %w; check the user's rights and that nobody changed the tables", s.place(), err)
	}
	return fmt.Errorf("store %s: %w: %w; see that the server runs, may be written to and has room: writing resumes by itself",
		s.place(), store.ErrUnavailable, err)
}

// usable returns an error where nothing can be written any more.
func (s *Store) usable(ctx context.Context) error {
	if s.running.Err() != nil {
		return errClosed
	}
	if s.looking != nil {
		return fmt.Errorf("store %s: %w", s.place(), refused{errReadOnly})
	}
	s.mu.Lock()
	fenced := s.state.fenced
	s.mu.Unlock()
	if fenced {
		return fmt.Errorf("store %s: %w", s.place(), errFenced)
	}
	return ctx.Err()
}

func (s *Store) checkEpoch(ctx context.Context) error {
	var highest uint64
	if err := s.writer.QueryRow(ctx, `SELECT max(epoch) FROM epochs WHERE owner != '`+s.owner+`'`).Scan(&highest); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if highest > s.state.epoch {
		s.state.fenced = true
		return errFenced
	}
	return nil
}

// refused marks what is the request's fault and not the store's.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// insert sends one block.
func (s *Store) insert(ctx context.Context, query string, fill func(api.Batch) error) error {
	b, err := s.writer.PrepareBatch(ctx, query)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := fill(b); err != nil {
		return refused{err} // a value that has no place in its column
	}
	return b.Send()
}

// rows runs a query and has each row read by scan.
func (s *Store) rows(ctx context.Context, scan func(api.Rows) error, query string, args ...any) error {
	fail := func(err error) error {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("store %s: %w", s.place(), err)
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	bounded, cancel := context.WithTimeout(ctx, s.cfg.QueryTimeout+5*time.Second)
	defer cancel()
	rows, err := s.conn.Query(noDeadline{bounded}, query, args...)
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fail(err)
		}
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return nil
}

// noDeadline hides the deadline from the driver, which would set the server's max_execution_time to five seconds more
// than what is left, in place of what the connection has. Its end is still heard of.
type noDeadline struct{ context.Context }

func (noDeadline) Deadline() (time.Time, bool) { return time.Time{}, false }

// nextVersion gives the version of what is written next; the caller holds writing.
func (s *Store) nextVersion() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.version++
	return s.state.version
}

func (s *Store) current() state {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// latest is current, of a Reader as of now.
func (s *Store) latest(ctx context.Context) (state, error) {
	if s.looking != nil {
		if err := s.look(ctx); err != nil {
			return state{}, err
		}
	}
	return s.current(), nil
}

// Stats implements [store.Store].
func (s *Store) Stats(ctx context.Context) (store.Stats, error) {
	// Until nothing has been expanded meanwhile, so that nothing is counted twice.
	for {
		st, err := s.latest(ctx)
		if err != nil {
			return store.Stats{}, err
		}
		out := store.Stats{LastPosition: st.position, LastSequence: st.sequence}
		var rows, inLog, incidents, bytes, parts uint64
		var oldest, oldestInLog int64
		local := layout{s.cfg.Cluster}.Local("updates")
		err = s.rows(ctx, func(r api.Rows) error {
			return r.Scan(&rows, &oldest, &inLog, &oldestInLog, &incidents, &bytes, &parts)
		}, fmt.Sprintf(`SELECT u.1, u.2, l.1, l.2, incidents, t.1, t.2 FROM (SELECT
			(SELECT (count(), min(time)) FROM updates) AS u,
			(SELECT (sum(rows), min(min_time)) FROM (SELECT rows, min_time FROM batches WHERE position > %d AND position <= %d
				ORDER BY position, epoch DESC LIMIT 1 BY position) WHERE rows > 0) AS l,
			(SELECT uniqExact(incident_id) FROM journal WHERE entry = 'event') AS incidents,
			(SELECT (sum(bytes_on_disk), countIf(table = '%s')) FROM system.parts WHERE database = currentDatabase() AND active) AS t)`, st.expanded, st.position, local))
		if err != nil {
			return out, err
		}
		now, err := s.latest(ctx)
		if err != nil {
			return out, err
		}
		if now.expanded != st.expanded {
			continue
		}
		out.Updates, out.Bytes, out.Parts, out.Incidents = rows+inLog, int64(bytes), int(parts), int(incidents)
		if rows == 0 || inLog > 0 && oldestInLog < oldest {
			oldest = oldestInLog
		}
		if out.Updates > 0 {
			out.OldestUpdate = ingest.Time(oldest).Time()
		}
		return out, nil
	}
}

// nullable gives a time as the database keeps it, nothing for the zero time.
func nullable(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
