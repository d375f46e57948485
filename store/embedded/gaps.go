package embedded

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

// finishedGaps is how many gaps that are done or failed are kept.
const finishedGaps = 1000

// SaveGap implements [store.Store].
func (s *Store) SaveGap(ctx context.Context, g *ingest.Gap) error {
	id := g.ID
	err := s.do(ctx, &request{apply: func(t *transaction) (err error) {
		id, err = t.saveGap(*g)
		return err
	}})
	if err == nil {
		g.ID = id
	}
	return err
}

// saveGap stores g, as a new one if it has no ID, and returns its ID.
func (t *transaction) saveGap(g ingest.Gap) (id uint64, err error) {
	values := []any{g.Feed, g.Collector, g.PeerASN, micros(g.From), micros(g.Until), string(g.State), int64(g.Updates), g.Attempts, micros(g.NextAttempt),
		g.Error, micros(g.File), int64(g.Taken)}
	if g.ID != 0 {
		r, err := t.exec(`UPDATE gaps SET feed = ?, collector = ?, peer_asn = ?, from_time = ?, until_time = ?, state = ?, updates = ?, attempts = ?,
			next_attempt = ?, error = ?, file = ?, taken = ? WHERE id = ?`, append(values, int64(g.ID))...)
		if err != nil {
			return 0, err
		}
		if n, err := r.RowsAffected(); err != nil || n == 0 {
			return 0, fmt.Errorf("gap %d: %w", g.ID, store.ErrNotFound)
		}
	} else {
		r, err := t.exec(`INSERT INTO gaps (feed, collector, peer_asn, from_time, until_time, state, updates, attempts, next_attempt, error, file, taken)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, values...)
		if err != nil {
			return 0, err
		}
		n, err := r.LastInsertId()
		if err != nil {
			return 0, err
		}
		g.ID = uint64(n)
	}
	if g.State == ingest.GapDone || g.State == ingest.GapFailed {
		_, err = t.exec(`DELETE FROM gaps WHERE state IN ('done', 'failed') AND id <= ?`, int64(g.ID)-finishedGaps)
	}
	return g.ID, err
}

// Gaps implements [store.Store].
func (s *Store) Gaps(ctx context.Context, state ingest.GapState, limit int) ([]ingest.Gap, error) {
	fail := func(err error) ([]ingest.Gap, error) {
		return nil, fmt.Errorf("store %s: gaps: %w", s.cfg.Directory, err)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT id, feed, collector, peer_asn, from_time, until_time, state, updates, attempts, next_attempt, error, file, taken
		FROM gaps WHERE ? IN ('', state) ORDER BY id DESC LIMIT ?`, string(state), batch.LimitOf(limit))
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	var list []ingest.Gap
	for rows.Next() {
		var g ingest.Gap
		var from, until, next, file sql.NullInt64
		var text string
		if err := rows.Scan(&g.ID, &g.Feed, &g.Collector, &g.PeerASN, &from, &until, &text, &g.Updates, &g.Attempts, &next, &g.Error, &file, &g.Taken); err != nil {
			return fail(err)
		}
		g.From, g.Until, g.State, g.NextAttempt, g.File = timeOf(from), timeOf(until), ingest.GapState(text), timeOf(next), timeOf(file)
		list = append(list, g)
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return list, nil
}

// AppendBackfill implements [store.Store].
func (s *Store) AppendBackfill(ctx context.Context, b *ingest.Batch, g *ingest.Gap) error {
	return s.appendWithGap(ctx, b, kind{backfilled: true}, g)
}

// AppendImport implements [store.Store].
func (s *Store) AppendImport(ctx context.Context, b *ingest.Batch, backfilled bool, g *ingest.Gap) error {
	return s.appendWithGap(ctx, b, kind{backfilled, true}, g)
}

func (s *Store) appendWithGap(ctx context.Context, b *ingest.Batch, k kind, g *ingest.Gap) error {
	if g.ID == 0 {
		return fmt.Errorf("store %s: back-filling a gap that is not stored: %w", s.cfg.Directory, store.ErrNotFound)
	}
	_, err := s.append(ctx, b, k, func(t *transaction) error {
		_, err := t.saveGap(*g)
		return err
	})
	return err
}

// SaveHeard implements [store.Store].
func (s *Store) SaveHeard(ctx context.Context, heard []store.Heard) error {
	return s.do(ctx, &request{apply: func(t *transaction) error {
		for _, h := range heard {
			if _, err := t.exec(`INSERT OR REPLACE INTO heard (collector, feed, time) VALUES (?, ?, ?)`, h.Collector, h.Feed, h.Time.UnixMicro()); err != nil {
				return err
			}
		}
		return nil
	}})
}

// Heard implements [store.Store].
func (s *Store) Heard(ctx context.Context) ([]store.Heard, error) {
	fail := func(err error) ([]store.Heard, error) {
		return nil, fmt.Errorf("store %s: collectors heard: %w", s.cfg.Directory, err)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT collector, feed, time FROM heard ORDER BY collector`)
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	var list []store.Heard
	for rows.Next() {
		var h store.Heard
		var at sql.NullInt64
		if err := rows.Scan(&h.Collector, &h.Feed, &at); err != nil {
			return fail(err)
		}
		h.Time = timeOf(at)
		list = append(list, h)
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return list, nil
}
