package embedded

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

const (
	mergeFan   = 8                // parts of like size that are merged into one
	tidyPeriod = 30 * time.Second // how often age is looked at
	freePages  = 1 << 12          // unused pages that the database keeps for the next tail, 32 MiB
)

func (s *Store) wakeSealer() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// sealer seals, merges and retires in the background until the store closes.
func (s *Store) sealer() {
	ctx := s.running
	ticker := time.NewTicker(tidyPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-s.wake:
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		err := s.tidy(ctx, time.Now(), false)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			s.log.Error("History could not be sealed; it stays in the tail and is tried again.", "directory", s.cfg.Directory, "error", err)
		}
	}
}

// tidy does whatever is due at now, or with force seals all that may be sealed. Retention comes
// first, as it makes the room that the rest needs. The error is also what Health tells.
func (s *Store) tidy(ctx context.Context, now time.Time, force bool) error {
	s.tidying.Lock()
	defer s.tidying.Unlock()
	count := func(op string, err error) error {
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
		s.metrics.errors.WithLabelValues(op).Inc()
		if errors.Is(err, store.ErrUnavailable) {
			return err
		}
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
			return s.noSpace(err)
		}
		return fmt.Errorf("store %s: %w", s.cfg.Directory, err)
	}
	err := count(opRetain, s.retain(ctx, now))
	err = errors.Join(err, count(opSeal, s.seal(ctx, now, force)))
	if ctx.Err() == nil {
		s.mu.Lock()
		s.sealErr = err
		s.mu.Unlock()
	}
	s.showSizes()
	return err
}

// showSizes sets the gauges of the layout.
func (s *Store) showSizes() {
	s.layout.RLock()
	parts := s.parts
	s.layout.RUnlock()
	size := int64(0)
	for _, p := range parts {
		size += p.bytes
	}
	s.metrics.parts.Set(float64(len(parts)))
	s.metrics.partBytes.Set(float64(size))
	s.mu.Lock()
	tail := s.state.tailUpdates
	s.mu.Unlock()
	s.metrics.tailUpdates.Set(float64(tail))
}

// seal moves what the last checkpoint covers into parts if that is due, then merges parts.
func (s *Store) seal(ctx context.Context, now time.Time, force bool) error {
	due, err := s.sealDue(ctx, now)
	if err != nil {
		return err
	}
	for more := due || force; more; {
		if more, err = s.sealOne(ctx); err != nil {
			return err
		}
	}
	for {
		run := s.planMerge(now)
		if run == nil {
			break
		}
		if err := s.merge(ctx, run); err != nil {
			return err
		}
	}
	return s.shrink(ctx)
}

func (s *Store) sealDue(ctx context.Context, now time.Time) (bool, error) {
	s.mu.Lock()
	st := s.state
	s.mu.Unlock()
	switch {
	case st.checkpoint == 0 || st.tailBatches == 0:
		return false, nil
	case st.tailUpdates < int64(s.cfg.Seal.Updates) && now.UnixMicro()-st.tailReceived < s.cfg.Seal.Age.Microseconds():
		return false, nil
	}
	var updates, oldest int64
	err := s.read.QueryRowContext(ctx, `SELECT coalesce(sum(updates), 0), coalesce(min(received_at), ?) FROM batches WHERE position <= ?`,
		now.UnixMicro(), st.checkpoint).Scan(&updates, &oldest)
	return updates >= int64(s.cfg.Seal.Updates) || now.UnixMicro()-oldest >= s.cfg.Seal.Age.Microseconds(), err
}

// windowOf numbers the windows of time within which parts are merged.
func (s *Store) windowOf(receivedAt int64) int64 {
	return receivedAt / s.cfg.Seal.Window.Microseconds()
}

// sealOne makes one part of the oldest batches that the checkpoint covers. It returns false when
// there are none.
func (s *Store) sealOne(ctx context.Context) (more bool, err error) {
	start := time.Now()
	s.mu.Lock()
	checkpoint, expected := s.state.checkpoint, s.state.tailUpdates
	s.mu.Unlock()
	rows := make([]row, 0, min(int64(s.sizes.sealRows), expected)) // most updates make one row
	rows, c, err := s.collect(ctx, rows, checkpoint)
	if err != nil || c.batches == 0 {
		return false, err
	}
	slices.SortFunc(rows, func(a, b row) int { return compareRows(&a, &b) })
	var p *part
	if len(rows) > 0 {
		p, err = s.sizes.writePart(ctx, s.cfg.Directory, c.first, c.last, c.receivedAt, func(yield func(*row, error) bool) {
			for i := range rows {
				if !yield(&rows[i], nil) {
					return
				}
			}
		})
		if err != nil {
			return false, err
		}
	}
	err = s.relayout(ctx, p, nil, func(t *transaction) error {
		if _, err := t.exec(`DELETE FROM batches WHERE position <= ?`, c.last); err != nil {
			return err
		}
		t.state.tailBatches -= c.batches
		t.state.tailUpdates -= c.updates
		var err error
		t.state.tailReceived, err = oldestReceived(context.Background(), t.conn)
		return err
	})
	if err != nil {
		return false, err
	}
	s.metrics.seals.WithLabelValues("seal").Observe(time.Since(start).Seconds())
	s.metrics.sealedRows.Add(float64(len(rows)))
	s.log.Debug("Sealed history.", "from", c.first, "to", c.last, "rows", len(rows), "took", time.Since(start))
	return true, nil
}

// collected says where the rows of a new part come from.
type collected struct {
	first, last      uint64
	batches, updates int64
	receivedAt       int64
}

// collect appends the rows of the tail up to position limit: of one window, and not many more than
// sealRows.
func (s *Store) collect(ctx context.Context, rows []row, limit uint64) ([]row, collected, error) {
	var c collected
	interned := make(map[string]string)
	intern := func(v string) string {
		if known, ok := interned[v]; ok {
			return known
		}
		interned[v] = v
		return v
	}
	for len(rows) < s.sizes.sealRows {
		page, err := s.tail(ctx, `WHERE position > ? AND position <= ? ORDER BY position`, c.last, limit)
		if err != nil || len(page) == 0 {
			return rows, c, err
		}
		for _, t := range page {
			if c.batches > 0 && s.windowOf(t.receivedAt) != s.windowOf(c.receivedAt) || len(rows) >= s.sizes.sealRows {
				return rows, c, nil
			}
			b, err := batch.Decode(t.body)
			if err != nil {
				return nil, c, fmt.Errorf("batch %d: %w", t.position, err)
			}
			n := 0
			for i := range b.Updates {
				u := &b.Updates[i]
				for j := range batch.RowsOf(u) {
					action, nlri := batch.RowOf(u, j)
					route := batch.RouteOf(u, &u.Attrs, action, nlri, store.Cursor{Position: t.position, Row: n})
					route.Backfilled = t.backfilled
					n++
					r := toRow(&route)
					r.ASPath, r.Communities, r.Collector = intern(r.ASPath), intern(r.Communities), intern(r.Collector)
					r.PeerIP, r.NextHop = intern(r.PeerIP), intern(r.NextHop)
					rows = append(rows, r)
				}
			}
			if c.batches == 0 {
				c.first = t.position
			}
			c.last, c.receivedAt = t.position, t.receivedAt
			c.batches++
			c.updates += int64(len(b.Updates))
		}
	}
	return rows, c, nil
}

// relayout commits a change of the manifest, add in and remove out, together with what apply does,
// while no reader looks. Files of parts that are out go when their last reader lets go; add's goes
// if the commit fails.
func (s *Store) relayout(ctx context.Context, add *part, remove []*part, apply func(*transaction) error) error {
	s.layout.RLock()
	parts := slices.Clone(s.parts) // only the goroutine that tidies changes it
	s.layout.RUnlock()
	parts = slices.DeleteFunc(parts, func(p *part) bool { return slices.Contains(remove, p) })
	if add != nil {
		parts = append(parts, add)
		slices.SortFunc(parts, func(a, b *part) int { return cmp.Compare(a.first, b.first) })
	}
	committed := func() {
		s.parts = parts
		if add != nil {
			add.summed, add.summary = add.summary.stored(), nil
		}
	}
	err := s.do(ctx, &request{layout: true, committed: committed, apply: func(t *transaction) error {
		for _, p := range remove {
			if _, err := t.exec(`DELETE FROM parts WHERE first_position = ?`, p.first); err != nil {
				return err
			}
		}
		if p := add; p != nil {
			_, err := t.exec(`INSERT INTO parts (first_position, last_position, file, rows, bytes, min_time, max_time, received_at, min_key, max_key)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`, p.first, p.last, filepath.Base(p.path), p.rows, p.bytes, p.minTime, p.maxTime, p.receivedAt,
				p.minKey, p.maxKey)
			if err != nil {
				return err
			}
			if err := p.summary.store(t, p.first); err != nil {
				return err
			}
		}
		if apply == nil {
			return nil
		}
		return apply(t)
	}})
	if err != nil {
		if add != nil {
			add.discard()
		}
		return err
	}
	for _, p := range remove {
		p.discard()
	}
	return nil
}

// planMerge returns neighbouring parts that should become one, nil when there are none. Within the
// window that is still filling, the newest parts are merged once mergeFan of them are no larger than
// a size class, so that a row is rewritten once per class; in a window that is full, all are, as far
// as PartRows allows.
func (s *Store) planMerge(now time.Time) []*part {
	s.layout.RLock()
	parts := s.parts
	s.layout.RUnlock()
	limit := int64(s.cfg.Seal.PartRows)
	current := s.windowOf(now.UnixMicro())
	for end := len(parts); end > 0; {
		window := s.windowOf(parts[end-1].receivedAt)
		start := end
		for start > 0 && s.windowOf(parts[start-1].receivedAt) == window {
			start--
		}
		group := parts[start:end]
		end = start
		if window >= current {
			for class := range 64 {
				n, rows := 0, int64(0)
				for n < len(group) {
					p := group[len(group)-1-n]
					if sizeClass(p.rows) > class || rows+p.rows > limit {
						break
					}
					rows += p.rows
					n++
				}
				if n >= mergeFan {
					return group[len(group)-n:]
				}
			}
			continue
		}
		for len(group) > 0 {
			n, rows := 0, int64(0)
			for n < len(group) && (n == 0 || rows+group[n].rows <= limit) {
				rows += group[n].rows
				n++
			}
			if n > 1 {
				return group[:n]
			}
			group = group[n:]
		}
	}
	return nil
}

// sizeClass groups sizes by powers of mergeFan.
func sizeClass(rows int64) int { return bits.Len64(uint64(rows)) / bits.Len64(mergeFan-1) }

// merge makes one part of neighbouring ones.
func (s *Store) merge(ctx context.Context, run []*part) error {
	start := time.Now()
	received := int64(math.MinInt64)
	for _, p := range run {
		received = max(received, p.receivedAt)
	}
	merged, err := s.sizes.writePart(ctx, s.cfg.Directory, run[0].first, run[len(run)-1].last, received, mergeRows(ctx, run))
	if err != nil {
		return err
	}
	if err := s.relayout(ctx, merged, run, nil); err != nil {
		return err
	}
	s.metrics.seals.WithLabelValues("merge").Observe(time.Since(start).Seconds())
	s.log.Debug("Merged parts.", "parts", len(run), "rows", merged.rows, "took", time.Since(start))
	return nil
}

// source is one part being merged, at its current row.
type source struct {
	row  *row
	next func() (*row, error, bool)
}

// sources is a heap with the lowest row on top.
type sources []*source

func (h sources) Len() int           { return len(h) }
func (h sources) Less(i, j int) bool { return compareRows(h[i].row, h[j].row) < 0 }
func (h sources) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *sources) Push(v any)        { *h = append(*h, v.(*source)) }
func (h *sources) Pop() any          { v := (*h)[len(*h)-1]; *h = (*h)[:len(*h)-1]; return v }

// mergeRows yields the rows of all parts in order. A row is valid until the next.
func mergeRows(ctx context.Context, parts []*part) iter.Seq2[*row, error] {
	return func(yield func(*row, error) bool) {
		var h sources
		for _, p := range parts {
			next, stop := iter.Pull2(p.all(ctx))
			defer stop()
			r, err, ok := next()
			if err != nil {
				yield(nil, fmt.Errorf("merging %s: %w", p.path, err))
				return
			}
			if ok {
				h = append(h, &source{r, next})
			}
		}
		heap.Init(&h)
		for len(h) > 0 {
			top := h[0]
			if !yield(top.row, nil) {
				return
			}
			r, err, ok := top.next()
			switch {
			case err != nil:
				yield(nil, fmt.Errorf("merging: %w", err))
				return
			case ok:
				top.row = r
				heap.Fix(&h, 0)
			default:
				heap.Pop(&h)
			}
		}
	}
}

// retain drops the oldest parts that are too old or too much.
func (s *Store) retain(ctx context.Context, now time.Time) error {
	s.layout.RLock()
	parts := s.parts
	s.layout.RUnlock()
	excess := int64(0)
	if s.cfg.Retention.Size > 0 {
		used, err := s.diskUse()
		if err != nil {
			return err
		}
		excess = used - s.cfg.Retention.Size
	}
	n, rows := 0, int64(0)
	for _, p := range parts {
		tooOld := s.cfg.Retention.Age > 0 && p.receivedAt < now.Add(-s.cfg.Retention.Age).UnixMicro()
		if !tooOld && excess <= 0 {
			break
		}
		excess -= p.bytes
		rows += p.rows
		n++
	}
	if n == 0 {
		return nil
	}
	if err := s.relayout(ctx, nil, parts[:n], nil); err != nil {
		return err
	}
	s.metrics.dropped.Add(float64(rows))
	s.log.Info("Dropped history by retention.", "parts", n, "rows", rows, "to", time.UnixMicro(parts[n-1].receivedAt).UTC())
	return nil
}

// shrink gives the disk back what a long tail had taken, beyond what the next tail will need.
func (s *Store) shrink(ctx context.Context) error {
	var free int
	if err := s.read.QueryRowContext(ctx, `PRAGMA freelist_count`).Scan(&free); err != nil {
		return err
	}
	if free < 2*freePages {
		return nil
	}
	return s.do(ctx, &request{apply: func(t *transaction) error {
		_, err := t.exec(fmt.Sprintf(`PRAGMA incremental_vacuum(%d)`, free-freePages))
		return err
	}})
}

// removeOrphans deletes files that a crash left behind before their row was committed, and misses
// those that have a row but are not there.
func (s *Store) removeOrphans() error {
	known := map[string]bool{}
	s.parts = slices.DeleteFunc(s.parts, func(p *part) bool {
		known[filepath.Base(p.path)] = true
		info, err := os.Stat(p.path)
		if err == nil && info.Size() == p.bytes {
			return false
		}
		s.metrics.errors.WithLabelValues(opMissing).Inc()
		s.log.Error("A part of history is missing or damaged: its updates are not shown. Restore the file and start again.",
			"file", p.path, "error", err, "from", ingest.Time(p.minTime), "to", ingest.Time(p.maxTime), "rows", p.rows)
		return true
	})
	dir := filepath.Join(s.cfg.Directory, partsDirectory)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if n := e.Name(); !known[n] && (strings.HasSuffix(n, partSuffix) || strings.HasSuffix(n, temporarySuffix)) {
			s.removeOrphan(filepath.Join(dir, n))
		}
	}
	if entries, err = os.ReadDir(s.cfg.Directory); err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(s.cfg.Directory, e.Name())
		if strings.HasPrefix(e.Name(), checkpointPrefix) && (s.state.serial == 0 || path != s.checkpointPath(s.state.serial)) {
			s.removeOrphan(path)
		}
	}
	return nil
}

func (s *Store) removeOrphan(path string) {
	if err := os.Remove(path); err != nil {
		s.log.Warn("A left-over file could not be removed.", "error", err)
		return
	}
	s.log.Info("Removed a left-over file.", "file", path)
}
