package embedded

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/parquet-go/parquet-go"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

// Reader reads a store as it was when it was opened, whoever has it open meanwhile: a service may write, seal and drop
// history as it likes. It does so in one transaction, and has every part open from the start, so that none that is
// merged or dropped is missed. While it is open SQLite's log grows by all that the service writes: it is for work
// that ends.
type Reader struct {
	s *Store // of which nothing works that writes
}

var _ store.Reader = (*Reader)(nil)

// OpenReader opens the store in a directory for reading. Nothing there is changed.
func OpenReader(ctx context.Context, dir string) (_ *Reader, err error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", dir, err)
	}
	if _, err := os.Stat(filepath.Join(abs, databaseName)); err != nil {
		return nil, fmt.Errorf("store %s: there is none: %w", dir, err)
	}
	dsn := (&url.URL{Scheme: "file", Path: filepath.Join(abs, databaseName)}).String() + "?mode=ro&_busy_timeout=10000&_dqs=0&_query_only=on"
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", dir, err)
	}
	db.SetMaxOpenConns(1) // the one that the transaction is on
	r := &Reader{&Store{cfg: Configuration{Directory: abs}, read: db}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("store %s: %w", dir, err), r.Close())
		}
	}()
	const attempts = 10 // a part of the manifest may be merged away before it is open
	for range attempts {
		if err = r.begin(ctx); !errors.Is(err, fs.ErrNotExist) {
			if err != nil {
				return nil, err
			}
			return r, nil
		}
		r.s.releaseParts()
		if _, err := db.ExecContext(ctx, "ROLLBACK"); err != nil {
			return nil, err
		}
	}
	return nil, err
}

// begin begins the transaction and opens the parts.
func (r *Reader) begin(ctx context.Context) error {
	if _, err := r.s.read.ExecContext(ctx, "BEGIN"); err != nil {
		return err
	}
	var version, id int
	err := errors.Join(r.s.read.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version), r.s.read.QueryRowContext(ctx, "PRAGMA application_id").Scan(&id))
	if err != nil {
		return err
	}
	if id != applicationID || version != schemaVersion() {
		return fmt.Errorf("%s has schema %d, this program reads %d: use the version of the service that writes it", databaseName, version, schemaVersion())
	}
	if err := r.s.load(ctx); err != nil {
		return err
	}
	for _, p := range r.s.parts {
		if _, err := p.open(); err != nil {
			return fmt.Errorf("%s: %w", p.path, err)
		}
	}
	return nil
}

func (s *Store) releaseParts() {
	for _, p := range s.parts {
		p.release()
	}
	s.parts = nil
}

// Close ends the transaction. Iterators must have ended.
func (r *Reader) Close() error {
	r.s.releaseParts()
	return r.s.read.Close()
}

// Stats implements [store.Reader].
func (r *Reader) Stats(ctx context.Context) (store.Stats, error) { return r.s.Stats(ctx) }

// Incidents implements [store.Reader].
func (r *Reader) Incidents(ctx context.Context, q store.IncidentQuery) ([]incident.Incident, error) {
	return r.s.Incidents(ctx, q)
}

// Events implements [store.Reader].
func (r *Reader) Events(ctx context.Context, id string, after uint64, limit int) ([]incident.Event, error) {
	return r.s.Events(ctx, id, after, limit)
}

// Gaps implements [store.Reader].
func (r *Reader) Gaps(ctx context.Context, state ingest.GapState, limit int) ([]ingest.Gap, error) {
	return r.s.Gaps(ctx, state, limit)
}

// Heard implements [store.Reader].
func (r *Reader) Heard(ctx context.Context) ([]store.Heard, error) { return r.s.Heard(ctx) }

// History implements [store.Reader]. Parts are sorted by prefix, so the rows of each that are asked for are sorted
// anew in a file among the system's temporary ones, which has about the size that they have in the part.
func (r *Reader) History(ctx context.Context, from, to time.Time) iter.Seq2[store.Route, error] {
	return func(yield func(store.Route, error) bool) {
		f, err := newFilter(store.UpdateQuery{From: from, To: to})
		if err != nil {
			yield(store.Route{}, err)
			return
		}
		for _, p := range r.s.parts {
			if !f.mayMatch(p) {
				continue
			}
			for route, err := range p.inOrder(ctx, f) {
				if err != nil {
					yield(store.Route{}, fmt.Errorf("store %s: reading %s: %w", r.s.cfg.Directory, p.path, err))
					return
				}
				if !yield(route, nil) {
					return
				}
			}
		}
		r.tail(ctx, f, yield)
	}
}

// tail yields what is not sealed.
func (r *Reader) tail(ctx context.Context, f *filter, yield func(store.Route, error) bool) {
	var reader batch.Reader
	for after := uint64(0); ; {
		page, err := r.s.tail(ctx, `WHERE position > ? AND rows > 0 AND max_time >= ? AND min_time < ? ORDER BY position`, after, f.From, f.To)
		if err != nil {
			yield(store.Route{}, err)
			return
		}
		if len(page) == 0 {
			return
		}
		for _, t := range page {
			after = t.position
			found, err := f.All(&reader, t.stored())
			if err != nil {
				yield(store.Route{}, fmt.Errorf("store %s: %w", r.s.cfg.Directory, err))
				return
			}
			for _, route := range found {
				if !yield(route, nil) {
					return
				}
			}
		}
	}
}

// sortedRows is how many rows are sorted in memory at a time, about 100 MB.
const sortedRows = 1 << 17

// inOrder yields the rows of p in the order of arrival.
func (p *part) inOrder(ctx context.Context, f *filter) iter.Seq2[store.Route, error] {
	return func(yield func(store.Route, error) bool) {
		if err := p.eachInOrder(ctx, f, func(r store.Route) bool { return yield(r, nil) }); err != nil {
			yield(store.Route{}, err)
		}
	}
}

func (p *part) eachInOrder(ctx context.Context, f *filter, yield func(store.Route) bool) (err error) {
	dir, err := os.MkdirTemp("", "routevigil-history-")
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, os.RemoveAll(dir)) }()
	file, err := os.Create(filepath.Join(dir, "sorted"))
	if err != nil {
		return err
	}
	defer file.Close()
	out := parquet.NewSortingWriter[row](file, sortedRows, partSchema, parquet.SortingWriterConfig(
		parquet.SortingColumns(parquet.Ascending("position"), parquet.Ascending("row")),
		parquet.SortingBuffers(parquet.NewFileBufferPool(dir, "run-*"))))
	for r, err := range p.all(ctx) {
		if err != nil {
			return err
		}
		if r.Time >= f.From && r.Time < f.To {
			if _, err := out.Write([]row{*r}); err != nil {
				return err
			}
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	sorted := parquet.NewGenericReader[row](io.NewSectionReader(file, 0, info.Size()))
	defer sorted.Close()
	buf := make([]row, scanRows)
	for {
		n, err := sorted.Read(buf)
		for i := range buf[:n] {
			route, err := buf[i].route()
			if err != nil {
				return err
			}
			if !yield(route) {
				return nil
			}
		}
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}
