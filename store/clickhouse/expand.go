package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	driver "github.com/ClickHouse/clickhouse-go/v2"
	api "github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

const (
	expandEvery = time.Second
	retainEvery = 5 * time.Minute
	blockRows   = 1 << 20 // after which a block is sent however few updates it is of
)

func (s *Store) wakeExpander() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// expander expands the log, drops what of it is no longer needed, and history that is too old or too much.
func (s *Store) expander() {
	ctx := s.running
	ticker := time.NewTicker(expandEvery)
	defer ticker.Stop()
	var retained time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-s.wake:
		}
		err := s.tidy(ctx, time.Now(), false)
		if err == nil && time.Since(retained) >= retainEvery {
			err = s.retain(ctx, time.Now())
			retained = time.Now()
		}
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		before := s.keepErr
		s.keepErr = err
		s.mu.Unlock()
		switch {
		case err != nil && before == nil:
			s.log.Error("The log cannot be expanded.", "error", err)
		case err == nil && before != nil:
			s.log.Info("The log is expanded again.")
		}
	}
}

// tidy expands what is large or old enough, or all, and drops what of the log is not needed any more.
func (s *Store) tidy(ctx context.Context, now time.Time, all bool) error {
	s.expanding.Lock()
	defer s.expanding.Unlock()
	if s.usable(ctx) != nil {
		return nil // whoever writes is told
	}
	for {
		st := s.current()
		due := all || st.logUpdates >= uint64(s.cfg.Expand.Updates) || now.Sub(time.UnixMicro(st.logReceived)) >= s.cfg.Expand.Age
		if st.expanded >= st.position || !due {
			break
		}
		if err := s.expand(ctx, st); err != nil {
			s.metrics.errors.WithLabelValues(opExpand).Inc()
			return err
		}
	}
	if err := s.dropLog(ctx); err != nil {
		s.metrics.errors.WithLabelValues(opDrop).Inc()
		return fmt.Errorf("store %s: dropping a part of the log that is not needed any more: %w", s.place(), err)
	}
	return nil
}

// expand moves the next block. The caller holds expanding.
func (s *Store) expand(ctx context.Context, st state) error {
	start := time.Now()
	block := &s.block
	block.reset(s)
	defer block.release()
	last := st.expanded
	updates := 0
	for last < st.position && updates < s.cfg.Expand.Updates && len(block.afi) < blockRows {
		page, err := s.wholeLog(ctx, last+1, min(last+pageLog, st.position))
		if err != nil {
			return err
		}
		days, err := s.days(ctx, last+1, page[len(page)-1].position)
		if err != nil {
			return err
		}
		for i, l := range page {
			n, err := block.add(l, days[i])
			if err != nil {
				return fmt.Errorf("store %s: batch %d: %w", s.place(), l.position, err)
			}
			updates += n
			last = l.position
			if updates >= s.cfg.Expand.Updates || len(block.afi) >= blockRows {
				break
			}
		}
	}
	if err := s.savePeers(ctx, block.knownPeers, block.newPeers); err != nil {
		return err
	}
	if len(block.afi) > 0 {
		token := fmt.Sprintf("%d-%d", st.expanded+1, last)
		s.mu.Lock()
		s.state.moving = true
		s.mu.Unlock()
		err := s.attempt(ctx, func(ctx context.Context) error {
			return s.insert(driver.Context(ctx, driver.WithSettings(driver.Settings{"insert_deduplication_token": token})), insertUpdates, block.fill)
		})
		if err != nil {
			return err
		}
	}
	if err := s.mark(ctx, "expanded", last); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.expanded, s.state.moving = last, false
	s.state.logUpdates -= min(uint64(updates), s.state.logUpdates)
	if s.state.position > last {
		s.state.logReceived = start.UnixMicro()
	}
	s.metrics.logUpdates.Set(float64(s.state.logUpdates))
	s.metrics.expanded.Add(float64(len(block.afi)))
	s.metrics.expansions.Observe(time.Since(start).Seconds())
	return nil
}

// days gives the day on which each of these batches was received.
func (s *Store) days(ctx context.Context, first, last uint64) (days []time.Time, err error) {
	err = s.rows(ctx, func(r api.Rows) error {
		var at time.Time
		err := r.Scan(&at)
		days = append(days, at.UTC().Truncate(24*time.Hour))
		return err
	}, fmt.Sprintf(`SELECT received_at FROM batches WHERE position >= %d AND position <= %d ORDER BY position, epoch DESC LIMIT 1 BY position`, first, last))
	return days, err
}

func (s *Store) mark(ctx context.Context, name string, value uint64) error {
	return s.attempt(ctx, func(ctx context.Context) error {
		return s.insert(ctx, `INSERT INTO marks (name, value)`, func(b api.Batch) error { return b.Append(name, value) })
	})
}

// dropLog drops the partitions of the log that are expanded and covered by a checkpoint.
func (s *Store) dropLog(ctx context.Context) error {
	st := s.current()
	whole := (min(st.expanded, st.checkpoint) + 1) / logPartition // partitions from the first on
	if whole == 0 || whole*logPartition-1 <= st.dropped {
		return nil
	}
	upTo := whole*logPartition - 1
	if err := s.saveLoggedGaps(ctx); err != nil {
		return err
	}
	if err := s.mark(ctx, "dropped", upTo); err != nil {
		return err
	}
	s.mu.Lock()
	s.state.dropped = upTo
	s.mu.Unlock()
	return s.dropPartitions(ctx, "batches", func(id string, _ uint64) bool {
		var n uint64
		_, err := fmt.Sscan(id, &n)
		return err == nil && n < whole
	})
}

// dropPartitions drops those partitions of table that drop wants, the oldest first; it is told the size of each.
func (s *Store) dropPartitions(ctx context.Context, table string, drop func(partition string, bytes uint64) bool) error {
	var list []string
	err := s.rows(ctx, func(r api.Rows) error {
		var partition string
		var bytes uint64
		err := r.Scan(&partition, &bytes)
		if err == nil && drop(partition, bytes) {
			list = append(list, partition)
		}
		return err
	}, fmt.Sprintf(`SELECT partition_id, sum(bytes_on_disk) FROM system.parts WHERE database = currentDatabase() AND table = '%s' AND active
		GROUP BY partition_id ORDER BY min(min_block_number)`, table))
	if err != nil {
		return err
	}
	for _, p := range list {
		if err := s.conn.Exec(ctx, fmt.Sprintf(`ALTER TABLE %s %s DROP PARTITION ID '%s'`, table, layout{s.cfg.Cluster}.OnCluster(), p)); err != nil {
			return err
		}
	}
	return nil
}

// retain drops the days of history that are too old, and the oldest while all take too much room.
func (s *Store) retain(ctx context.Context, now time.Time) error {
	s.expanding.Lock()
	defer s.expanding.Unlock()
	table := layout{s.cfg.Cluster}.Local("updates")
	var total uint64
	if err := s.dropPartitions(ctx, table, func(_ string, bytes uint64) bool { total += bytes; return false }); err != nil {
		return err
	}
	oldest := ""
	if s.retention.Age > 0 {
		oldest = now.Add(-s.retention.Age).UTC().Format("20060102")
	}
	err := s.dropPartitions(ctx, table, func(day string, bytes uint64) bool {
		if day >= oldest && (s.retention.Size == 0 || total <= uint64(s.retention.Size)) {
			return false
		}
		total -= bytes
		return true
	})
	if err != nil {
		s.metrics.errors.WithLabelValues(opDrop).Inc()
	}
	return err
}

// block is what is inserted into updates at once, by columns.
type block struct {
	s           *Store
	afi         []uint8
	address     [][16]byte
	length      []uint8
	position    []uint64
	row         []uint32
	received    []time.Time
	time        []int64
	action      []uint8
	peer        []uint32
	pathID      []uint32
	origin      []uint32
	path        []string
	nextHop     []string
	communities []string
	otc         []uint32
	backfilled  []bool

	reader     batch.Reader
	text       []byte
	peers      map[ingest.Peer]uint32 // that are not stored yet
	newPeers   []ingest.Peer
	knownPeers uint32
}

const insertUpdates = `INSERT INTO updates (afi, address, length, position, row, received, time, action, peer, path_id, origin_asn, as_path, next_hop,
	communities, otc, backfilled)`

// reset empties b for the next block; its columns keep their room.
func (b *block) reset(s *Store) {
	s.mu.Lock()
	known := uint32(len(s.peers.all))
	s.mu.Unlock()
	*b = block{s: s, afi: b.afi[:0], address: b.address[:0], length: b.length[:0], position: b.position[:0], row: b.row[:0], received: b.received[:0],
		time: b.time[:0], action: b.action[:0], peer: b.peer[:0], pathID: b.pathID[:0], origin: b.origin[:0], path: b.path[:0], nextHop: b.nextHop[:0],
		communities: b.communities[:0], otc: b.otc[:0], backfilled: b.backfilled[:0], text: b.text, reader: b.reader,
		peers: make(map[ingest.Peer]uint32), knownPeers: known}
}

// release lets go of the text that was sent.
func (b *block) release() {
	clear(b.path)
	clear(b.nextHop)
	clear(b.communities)
}

// add appends the rows of one batch, and tells of how many updates they are.
func (b *block) add(l logRow, day time.Time) (updates int, err error) {
	r := &b.reader
	if err := r.Open(l.body); err != nil {
		return 0, err
	}
	var u ingest.Update
	row := uint32(0)
	for r.Next(&u) {
		updates++
		n := batch.RowsOf(&u)
		if n == 0 {
			continue
		}
		peer, err := b.peerOf(u.Peer)
		if err != nil {
			return updates, err
		}
		var path, nextHop, communities string
		var origin, otc uint32
		if u.Kind != ingest.PeerUp && u.Kind != ingest.PeerDown && len(u.Announced) > 0 {
			if err := r.Attributes(&u.Attrs); err != nil {
				return updates, err
			}
			a := &u.Attrs
			b.text = a.ASPath.AppendTo(b.text[:0])
			end := len(b.text)
			b.text = batch.AppendCommunities(b.text, a)
			both := string(b.text)
			path, communities = both[:end], both[end:]
			origin, _ = a.ASPath.Origin()
			otc = a.OTC
			switch {
			case !a.NextHop.IsValid():
			case a.NextHop == u.Peer.Addr:
				nextHop = samePeer
			default:
				nextHop = a.NextHop.String()
			}
		}
		for i := range n {
			action, nlri := batch.RowOf(&u, i)
			afi, address := key(nlri.Prefix.Addr())
			length := uint8(0)
			if afi != 0 {
				length = uint8(nlri.Prefix.Bits())
			}
			b.afi = append(b.afi, afi)
			b.address = append(b.address, address)
			b.length = append(b.length, length)
			b.position = append(b.position, l.position)
			b.row = append(b.row, row)
			row++
			b.received = append(b.received, day)
			b.time = append(b.time, int64(u.Time))
			b.action = append(b.action, actionNumber(action))
			b.peer = append(b.peer, peer)
			b.pathID = append(b.pathID, nlri.PathID)
			b.backfilled = append(b.backfilled, l.backfilled)
			if batch.HasAttributes(action) {
				b.origin, b.path, b.nextHop = append(b.origin, origin), append(b.path, path), append(b.nextHop, nextHop)
				b.communities, b.otc = append(b.communities, communities), append(b.otc, otc)
			} else {
				b.origin, b.path, b.nextHop = append(b.origin, 0), append(b.path, ""), append(b.nextHop, "")
				b.communities, b.otc = append(b.communities, ""), append(b.otc, 0)
			}
		}
	}
	return updates, r.Err()
}

// actionNumber is what stands for a in updates: one more than its place in batch.Actions.
func actionNumber(a store.Action) uint8 {
	for i, known := range batch.Actions {
		if a == known {
			return uint8(i + 1)
		}
	}
	return 0
}

// peerOf gives the number of p, a new one where it has none.
func (b *block) peerOf(p ingest.Peer) (uint32, error) {
	if id, known := b.peers[p]; known {
		return id, nil
	}
	b.s.mu.Lock()
	id, known := b.s.peers.ids[p]
	b.s.mu.Unlock()
	if !known {
		id = b.knownPeers + uint32(len(b.newPeers))
		if id == math.MaxUint32 {
			return 0, errors.New("there are more peers than numbers")
		}
		p.Collector = strings.Clone(p.Collector)
		b.newPeers = append(b.newPeers, p)
	}
	b.peers[p] = id
	return id, nil
}

// fill gives batch its columns, in the order of insertUpdates.
func (b *block) fill(to api.Batch) error {
	for i, column := range []any{b.afi, b.address, b.length, b.position, b.row, b.received, b.time, b.action, b.peer, b.pathID, b.origin, b.path, b.nextHop,
		b.communities, b.otc, b.backfilled} {
		if err := to.Column(i).Append(column); err != nil {
			return err
		}
	}
	return nil
}
