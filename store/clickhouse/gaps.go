package clickhouse

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	api "github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

// finishedGaps is how many gaps that are done or failed are kept.
const finishedGaps = 1000

// gap is one as it stands. All are kept in memory: there are few.
type gap struct {
	ingest.Gap
	version uint64
	onlyLog bool // the log says so, the table of gaps does not
}

// gapRecord is how a gap is written; ingest.Gap's own JSON is for readers of the API and leaves things out.
type gapRecord struct {
	Feed, Collector                string
	PeerASN                        uint32 `json:",omitempty"`
	From, Until, NextAttempt, File time.Time
	State                          ingest.GapState
	Updates, Taken                 uint64
	Attempts                       int
	Error                          string `json:",omitempty"`
}

func encodeGap(g ingest.Gap) string {
	text, err := json.Marshal(gapRecord{g.Feed, g.Collector, g.PeerASN, micro(g.From), micro(g.Until), micro(g.NextAttempt), micro(g.File),
		g.State, g.Updates, g.Taken, g.Attempts, g.Error})
	if err != nil {
		panic(err) // only a year beyond 9999 cannot be written, which no microsecond count of 64 bits of a feed reaches
	}
	return string(text)
}

// micro cuts t to the resolution that is promised.
func micro(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Microsecond)
}

func decodeGap(id uint64, text string) (ingest.Gap, error) {
	var r gapRecord
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return ingest.Gap{}, fmt.Errorf("gap %d: %w", id, err)
	}
	return ingest.Gap{ID: id, Feed: r.Feed, Collector: r.Collector, PeerASN: r.PeerASN, From: r.From, Until: r.Until, State: r.State,
		Updates: r.Updates, Attempts: r.Attempts, NextAttempt: r.NextAttempt, Error: r.Error, File: r.File, Taken: r.Taken}, nil
}

func finished(g *ingest.Gap) bool { return g.State == ingest.GapDone || g.State == ingest.GapFailed }

// loadGaps reads gaps and what is heard, as of the batch at position. The log may know something newer of a gap than the
// table of gaps.
func (s *Store) loadGaps(ctx context.Context, position uint64) (gaps []gap, heard map[string]store.Heard, err error) {
	err = s.rows(ctx, func(r api.Rows) error {
		var g gap
		var id uint64
		var text string
		var fromLog uint8
		err := r.Scan(&id, &g.version, &text, &fromLog)
		if err == nil {
			g.Gap, err = decodeGap(id, text)
		}
		g.onlyLog = fromLog == 1
		gaps = append(gaps, g)
		return err
	}, fmt.Sprintf(`SELECT id, version, gap, from_log FROM (SELECT id, version, gap, 0 AS from_log FROM gaps
		UNION ALL SELECT gap_id, gap_version, gap, 1 FROM (SELECT * FROM batches WHERE position <= %d ORDER BY position, epoch DESC LIMIT 1 BY position) WHERE gap_id > 0)
		ORDER BY id, version DESC, from_log LIMIT 1 BY id`, position))
	if err != nil {
		return nil, nil, err
	}
	heard = make(map[string]store.Heard)
	err = s.rows(ctx, func(r api.Rows) error {
		var h store.Heard
		err := r.Scan(&h.Collector, &h.Feed, &h.Time)
		h.Time = h.Time.UTC()
		heard[h.Collector] = h
		return err
	}, `SELECT collector, feed, time FROM heard ORDER BY collector, version DESC LIMIT 1 BY collector`)
	return forgetGaps(gaps), heard, err
}

// lookAtGaps brings what a Reader knows of gaps, and of what is heard, up to date. The writer knows.
func (s *Store) lookAtGaps(ctx context.Context) error {
	if s.looking == nil {
		return ctx.Err()
	}
	st, err := s.latest(ctx)
	if err != nil {
		return err
	}
	gaps, heard, err := s.loadGaps(ctx, st.position)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gaps, s.heard = gaps, heard
	return nil
}

// forgetGaps drops finished gaps beyond those that are kept.
func forgetGaps(gaps []gap) []gap {
	n := 0
	for i := range gaps {
		if finished(&gaps[i].Gap) {
			n++
		}
	}
	return slices.DeleteFunc(gaps, func(g gap) bool {
		if n <= finishedGaps || !finished(&g.Gap) {
			return false
		}
		n--
		return true
	})
}

// putGap replaces what is known of g; the caller holds mu.
func (s *Store) putGap(g gap) {
	i, known := slices.BinarySearchFunc(s.gaps, g.ID, func(o gap, id uint64) int { return cmp.Compare(o.ID, id) })
	switch {
	case !known:
		s.gaps = slices.Insert(s.gaps, i, g)
	case g.version > s.gaps[i].version:
		s.gaps[i] = g
	}
	if finished(&g.Gap) {
		s.gaps = forgetGaps(s.gaps)
	}
}

// hasGap tells whether there is a gap with that ID.
func (s *Store) hasGap(id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.gaps, func(g gap) bool { return g.ID == id })
}

// SaveGap implements [store.Store].
func (s *Store) SaveGap(ctx context.Context, g *ingest.Gap) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.usable(ctx); err != nil {
		return err
	}
	n := gap{Gap: *g}
	if n.ID == 0 {
		n.ID = s.nextVersion() // grows, and is never given out again
	} else if !s.hasGap(n.ID) {
		return fmt.Errorf("store %s: gap %d: %w", s.place(), n.ID, store.ErrNotFound)
	}
	n.version = s.nextVersion()
	if err := s.saveGap(ctx, n); err != nil {
		return err
	}
	g.ID = n.ID
	return nil
}

// saveGap writes n into the table of gaps; the caller holds writing.
func (s *Store) saveGap(ctx context.Context, n gap) error {
	err := s.write(ctx, func(ctx context.Context) error {
		return s.insert(ctx, `INSERT INTO gaps (id, version, gap)`, func(b api.Batch) error { return b.Append(n.ID, n.version, encodeGap(n.Gap)) })
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n.From, n.Until, n.NextAttempt, n.File = micro(n.From), micro(n.Until), micro(n.NextAttempt), micro(n.File)
	s.putGap(n)
	for i := range s.gaps {
		if s.gaps[i].ID == n.ID && s.gaps[i].version == n.version {
			s.gaps[i].onlyLog = false
		}
	}
	return nil
}

// saveLoggedGaps writes what only the log knows of gaps into their table, so that the log can be dropped.
func (s *Store) saveLoggedGaps(ctx context.Context) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	list := slices.DeleteFunc(slices.Clone(s.gaps), func(g gap) bool { return !g.onlyLog })
	s.mu.Unlock()
	for _, g := range list {
		if err := s.saveGap(ctx, g); err != nil {
			return err
		}
	}
	return nil
}

// Gaps implements [store.Store].
func (s *Store) Gaps(ctx context.Context, state ingest.GapState, limit int) ([]ingest.Gap, error) {
	if err := s.lookAtGaps(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []ingest.Gap
	for i := len(s.gaps) - 1; i >= 0 && len(list) < batch.LimitOf(limit); i-- {
		if g := s.gaps[i].Gap; state == "" || g.State == state {
			list = append(list, g)
		}
	}
	return list, nil
}

// SaveHeard implements [store.Store].
func (s *Store) SaveHeard(ctx context.Context, heard []store.Heard) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if len(heard) == 0 {
		return s.usable(ctx)
	}
	err := s.write(ctx, func(ctx context.Context) error {
		return s.insert(ctx, `INSERT INTO heard (collector, version, feed, time)`, func(b api.Batch) error {
			for _, h := range heard {
				if err := b.Append(h.Collector, s.nextVersion(), h.Feed, h.Time); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range heard {
		h.Time = micro(h.Time)
		s.heard[h.Collector] = h
	}
	return nil
}

// Heard implements [store.Store].
func (s *Store) Heard(ctx context.Context) ([]store.Heard, error) {
	if err := s.lookAtGaps(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []store.Heard
	for _, h := range s.heard {
		list = append(list, h)
	}
	slices.SortFunc(list, func(a, b store.Heard) int { return cmp.Compare(a.Collector, b.Collector) })
	return list, nil
}
