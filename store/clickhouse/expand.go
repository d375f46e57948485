package clickhouse

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
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
	blockText   = 1 << 27 // bytes of path attributes, after which it is too
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
	last := st.expanded
	updates := 0
	full := func() bool {
		return updates >= s.cfg.Expand.Updates || len(block.rows) >= blockRows || len(block.text) >= blockText
	}
	for last < st.position && !full() {
		s.mu.Lock()
		page := slices.Clone(s.recent.from(last + 1))
		s.mu.Unlock()
		if page = page[:min(len(page), int(st.position-last))]; len(page) == 0 {
			var err error
			if page, err = s.wholeLog(ctx, last+1, min(last+pageLog, st.position)); err != nil {
				return err
			}
		}
		for _, l := range page {
			n, err := block.add(l)
			if err != nil {
				return fmt.Errorf("store %s: batch %d: %w", s.place(), l.position, err)
			}
			updates += n
			last = l.position
			if full() {
				break
			}
		}
	}
	if err := s.savePeers(ctx, block.knownPeers, block.newPeers); err != nil {
		return err
	}
	if len(block.rows) > 0 {
		token := fmt.Sprintf("%d-%d", st.expanded+1, last)
		block.sort()
		if err := s.mark(ctx, "expanding", last); err != nil {
			return err
		}
		s.mu.Lock()
		s.state.expanding = max(s.state.expanding, last)
		s.mu.Unlock()
		err := s.attempt(ctx, func(ctx context.Context) error {
			return s.insert(driver.Context(ctx, driver.WithSettings(driver.Settings{"insert_deduplication_token": token,
				"low_cardinality_allow_in_native_format": 0, // the column of attributes is sent as strings
			})), insertUpdates, block.fill)
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
	s.state.expanded = last
	s.recent.forget(last)
	s.state.logUpdates -= min(uint64(updates), s.state.logUpdates)
	if s.state.position > last {
		s.state.logReceived = start.UnixMicro()
	}
	s.metrics.logUpdates.Set(float64(s.state.logUpdates))
	s.metrics.expanded.Add(float64(len(block.rows)))
	s.metrics.expansions.Observe(time.Since(start).Seconds())
	return nil
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

// block is what is inserted into updates at once. Its rows go to the server in the order of the table, which it then need
// not bring them into: that would cost it more than all else.
type block struct {
	s          *Store
	rows       []row
	v4         []uint64 // where those of IPv4 belong, the most by far: address, length and, in rowBits, index in rows
	others     []place
	columns    columns
	reader     batch.Reader
	text       []byte                 // what attributes are pieces of
	peers      map[ingest.Peer]uint32 // that are not stored yet
	newPeers   []ingest.Peer
	knownPeers uint32
}

// row is one of updates, but for its prefix.
type row struct {
	position         uint64
	received         time.Time
	time             int64
	row              uint32
	peer             uint32
	pathID           uint32
	origin           uint32
	textFrom, textTo uint32 // attributes
	action           uint8
	backfilled       bool
}

// rowBits are enough for the rows of a block, which has less than blockRows before the last batch is added.
const rowBits = 64 - 32 - 6

// place is where a row belongs in the order of prefixes, if it is not of IPv4.
type place struct {
	high, low   uint64 // of the address
	row         uint32 // index in rows
	afi, length uint8
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.afi, q.afi), cmp.Compare(p.high, q.high), cmp.Compare(p.low, q.low), cmp.Compare(p.length, q.length), cmp.Compare(p.row, q.row))
}

// columns are those of updates, in the order of insertUpdates.
type columns struct {
	afi        []uint8
	address    [][16]byte
	length     []uint8
	position   []uint64
	row        []uint32
	received   []time.Time
	time       []int64
	action     []uint8
	peer       []uint32
	pathID     []uint32
	origin     []uint32
	attributes [][]byte
	backfilled []bool
}

const insertUpdates = `INSERT INTO updates (afi, address, length, position, row, received, time, action, peer, path_id, origin_asn,
	attributes, backfilled)`

// reset empties b for the next block; its columns keep their room.
func (b *block) reset(s *Store) {
	s.mu.Lock()
	known := uint32(len(s.peers.all))
	s.mu.Unlock()
	*b = block{s: s, rows: b.rows[:0], v4: b.v4[:0], others: b.others[:0], columns: b.columns, text: b.text[:0], reader: b.reader,
		peers: make(map[ingest.Peer]uint32), knownPeers: known}
}

// add appends the rows of one batch, and tells of how many updates they are.
func (b *block) add(l logRow) (updates int, err error) {
	r := &b.reader
	if err := r.Open(l.body); err != nil {
		return 0, err
	}
	day := l.received.UTC().Truncate(24 * time.Hour)
	var u ingest.Update
	number := uint32(0)
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
		told := row{position: l.position, received: day, time: int64(u.Time), peer: peer, backfilled: l.backfilled}
		var origin, textFrom, textTo uint32
		if u.Kind != ingest.PeerUp && u.Kind != ingest.PeerDown && len(u.Announced) > 0 {
			if err := r.Attributes(&u.Attrs); err != nil {
				return updates, err
			}
			textFrom = uint32(len(b.text))
			b.text = appendAttributes(b.text, &u.Peer, &u.Attrs)
			textTo = uint32(len(b.text))
			origin, _ = u.Attrs.ASPath.Origin()
		}
		for i := range n {
			action, nlri := batch.RowOf(&u, i)
			index := uint32(len(b.rows))
			if afi, address := key(nlri.Prefix.Addr()); afi == 4 {
				b.v4 = append(b.v4, uint64(binary.BigEndian.Uint32(address[12:]))<<(64-32)|uint64(nlri.Prefix.Bits())<<rowBits|uint64(index))
			} else {
				b.others = append(b.others, place{binary.BigEndian.Uint64(address[:8]), binary.BigEndian.Uint64(address[8:]), index, afi, uint8(max(0, nlri.Prefix.Bits()))})
			}
			one := told
			one.row, one.action, one.pathID = number, actionNumber(action), nlri.PathID
			if batch.HasAttributes(action) {
				one.origin, one.textFrom, one.textTo = origin, textFrom, textTo
			}
			b.rows = append(b.rows, one)
			number++
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

// sort brings the rows into the order of updates, by columns.
func (b *block) sort() {
	slices.Sort(b.v4)
	slices.SortFunc(b.others, place.compare)
	c := &b.columns
	*c = columns{afi: c.afi[:0], address: c.address[:0], length: c.length[:0], position: c.position[:0], row: c.row[:0], received: c.received[:0],
		time: c.time[:0], action: c.action[:0], peer: c.peer[:0], pathID: c.pathID[:0], origin: c.origin[:0], attributes: c.attributes[:0],
		backfilled: c.backfilled[:0]}
	add := func(afi uint8, address [16]byte, length uint8, index uint32) {
		r := &b.rows[index]
		c.afi = append(c.afi, afi)
		c.address = append(c.address, address)
		c.length = append(c.length, length)
		c.position = append(c.position, r.position)
		c.row = append(c.row, r.row)
		c.received = append(c.received, r.received)
		c.time = append(c.time, r.time)
		c.action = append(c.action, r.action)
		c.peer = append(c.peer, r.peer)
		c.pathID = append(c.pathID, r.pathID)
		c.origin = append(c.origin, r.origin)
		c.attributes = append(c.attributes, b.text[r.textFrom:r.textTo])
		c.backfilled = append(c.backfilled, r.backfilled)
	}
	addOthers := func(list []place) {
		for _, p := range list {
			var address [16]byte
			binary.BigEndian.PutUint64(address[:8], p.high)
			binary.BigEndian.PutUint64(address[8:], p.low)
			add(p.afi, address, p.length, p.row)
		}
	}
	v6 := slices.IndexFunc(b.others, func(p place) bool { return p.afi == 6 })
	if v6 < 0 {
		v6 = len(b.others)
	}
	addOthers(b.others[:v6])
	_, address := key(netip.AddrFrom4([4]byte{}))
	for _, p := range b.v4 {
		binary.BigEndian.PutUint32(address[12:], uint32(p>>32))
		add(4, address, uint8(p>>rowBits&(1<<6-1)), uint32(p&(1<<rowBits-1)))
	}
	addOthers(b.others[v6:])
}

// fill gives batch its columns.
func (b *block) fill(to api.Batch) error {
	c := &b.columns
	for i, column := range []any{c.afi, c.address, c.length, c.position, c.row, c.received, c.time, c.action, c.peer, c.pathID, c.origin, c.attributes,
		c.backfilled} {
		if err := to.Column(i).Append(column); err != nil {
			return err
		}
	}
	return nil
}
