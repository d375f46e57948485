package embedded

import (
	"bytes"
	"cmp"
	"container/heap"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress/zstd"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

const (
	partsDirectory  = "parts"
	partSuffix      = ".parquet"
	temporarySuffix = ".tmp"

	maxCandidates = 1 << 16 // rows that one scan of a part holds, some 400 bytes each; to get more it is scanned again
	scanRows      = 1024    // rows looked at together
)

// sizes are what a part is made of. They differ only in tests.
type sizes struct {
	sealRows     int // that are sorted in memory to make a part
	rowGroupRows int64
	pageBytes    int // of one column, uncompressed: what a look-up decodes
}

var defaultSizes = sizes{sealRows: 1 << 18, rowGroupRows: 1 << 17, pageBytes: 64 << 10}

// row is one row of a part. No column is optional, so that values and rows are numbered alike; an
// absent value is zero or empty. prefix_key is what rows are sorted by (see prefixKey; empty for
// peer_up and peer_down), prefix is the same for people; rows of one prefix are in the order of
// their cursors, which is the order of arrival. Times are event times.
type row struct {
	Key         []byte `parquet:"prefix_key,delta"`
	Position    int64  `parquet:"position,delta"`
	Row         int32  `parquet:"row,delta"`
	Time        int64  `parquet:"time,delta,timestamp(microsecond)"`
	Prefix      string `parquet:"prefix,delta"`
	Action      string `parquet:"action,dict"`
	Collector   string `parquet:"collector,dict"`
	PeerASN     int64  `parquet:"peer_asn,dict"`
	PeerIP      string `parquet:"peer_ip,dict"`
	View        string `parquet:"view,dict"` // empty for Adj-RIB-In before policy
	PathID      int64  `parquet:"path_id,dict"`
	ASPath      string `parquet:"as_path,dict"`
	OriginASN   int64  `parquet:"origin_asn"` // follows the prefix: repeats compress better than numbers of a dictionary
	NextHop     string `parquet:"next_hop,dict"`
	Communities string `parquet:"communities,dict"` // separated by spaces
	OTC         int64  `parquet:"otc,dict"`
	Backfilled  bool   `parquet:"backfilled"`
}

// partSchema has the columns of a part as it is written. Parts of older versions lack the last ones; what
// is read of them is zero there. So a column is only ever added at the end, and none ever goes: then those
// that are there have the same positions in every part.
var partSchema = parquet.SchemaOf(row{})

// fewestColumns is how many columns the first version's parts have.
const fewestColumns = 16

func (z sizes) writerOptions() []parquet.WriterOption {
	return []parquet.WriterOption{
		parquet.Compression(&zstd.Codec{Level: zstd.SpeedDefault}),
		parquet.MaxRowsPerRowGroup(z.rowGroupRows),
		parquet.PageBufferSize(z.pageBytes),
		// Keys are up to 18 bytes; a truncated bound would only be wider, but exact ones spare page reads.
		parquet.ColumnIndexSizeLimit(func([]string) int { return 32 }),
		parquet.SortingWriterConfig(parquet.SortingColumns(parquet.Ascending("prefix_key"), parquet.Ascending("position"), parquet.Ascending("row"))),
		parquet.CreatedBy("routevigil", "1", "store/embedded"),
	}
}

func toRow(r *store.Route) row {
	return row{Key: keyOf(r.Prefix), Position: int64(r.Cursor.Position), Row: int32(r.Cursor.Row), Time: r.Time.UnixMicro(), Prefix: text(r.Prefix),
		Action: string(r.Action), Collector: r.Collector, PeerASN: int64(r.PeerASN), PeerIP: text(r.PeerIP), View: viewName(r.View), PathID: int64(r.PathID),
		ASPath: r.ASPath, OriginASN: int64(r.OriginASN), NextHop: text(r.NextHop), Communities: strings.Join(r.Communities, " "), OTC: int64(r.OTC),
		Backfilled: r.Backfilled}
}

func (r *row) route() (store.Route, error) {
	out := store.Route{Time: time.UnixMicro(r.Time).UTC(), Action: store.Action(r.Action), Collector: r.Collector, PeerASN: uint32(r.PeerASN),
		PathID: uint32(r.PathID), ASPath: r.ASPath, OriginASN: uint32(r.OriginASN), OTC: uint32(r.OTC), Backfilled: r.Backfilled,
		Cursor: store.Cursor{Position: uint64(r.Position), Row: int(r.Row)}}
	err := errors.Join(out.PeerIP.UnmarshalText([]byte(r.PeerIP)), out.NextHop.UnmarshalText([]byte(r.NextHop)), out.Prefix.UnmarshalText([]byte(r.Prefix)))
	if r.View != "" {
		err = errors.Join(err, out.View.UnmarshalText([]byte(r.View)))
	}
	if r.Communities != "" {
		out.Communities = strings.Split(r.Communities, " ")
	}
	return out, err
}

func viewName(v ingest.View) string {
	if v == ingest.AdjRIBInPre {
		return ""
	}
	return v.String()
}

// text is empty for a zero address or prefix.
func text[T interface {
	netip.Addr | netip.Prefix
	IsValid() bool
	String() string
}](v T) string {
	if !v.IsValid() {
		return ""
	}
	return v.String()
}

func keyOf(p netip.Prefix) []byte {
	if !p.IsValid() {
		return []byte{}
	}
	return prefixKey(p)
}

func compareRows(a, b *row) int {
	return cmp.Or(bytes.Compare(a.Key, b.Key), cmp.Compare(a.Position, b.Position), cmp.Compare(a.Row, b.Row))
}

// part is one Parquet file and what the manifest says of it. The manifest holds one reference,
// every reader one more; the last to let go closes the file and removes it if it is doomed.
type part struct {
	path             string
	first, last      uint64
	rows, bytes      int64
	minTime, maxTime int64 // event time, microseconds
	receivedAt       int64 // wall clock of the newest batch, microseconds
	minKey, maxKey   []byte
	summed           bool     // the database has its summary
	summary          *summary // to be stored with a new part; else nil

	refs   atomic.Int32
	doomed atomic.Bool
	mu     sync.Mutex
	f      *os.File
	pf     *parquet.File
}

func partName(first, last uint64) string {
	return fmt.Sprintf("%012d-%012d%s", first, last, partSuffix)
}

func (p *part) acquire() { p.refs.Add(1) }

func (p *part) release() {
	if p.refs.Add(-1) > 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.f != nil {
		p.f.Close()
		p.f, p.pf = nil, nil
	}
	if p.doomed.Load() {
		os.Remove(p.path) // what stays is removed as an orphan at the next start
	}
}

// open opens the file at its first use and keeps it open.
func (p *part) open() (*parquet.File, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pf != nil {
		return p.pf, nil
	}
	f, err := os.Open(p.path)
	if err != nil {
		return nil, err
	}
	pf, err := openParquet(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	p.f, p.pf = f, pf
	return pf, nil
}

func openParquet(f *os.File) (*parquet.File, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	pf, err := parquet.OpenFile(f, info.Size(), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, err
	}
	if !isPart(pf.Root()) {
		return nil, fmt.Errorf("its columns are not those of a part: %s", pf.Root())
	}
	return pf, nil
}

// isPart tells whether the columns are those of a part, of this version or of one before.
func isPart(root parquet.Node) bool {
	have, want := root.Fields(), partSchema.Fields()
	if len(have) < fewestColumns || len(have) > len(want) {
		return false
	}
	for i, f := range have {
		if f.Name() != want[i].Name() || !parquet.EqualNodes(f, want[i]) {
			return false
		}
	}
	return true
}

// loadParts reads the manifest.
func loadParts(ctx context.Context, db *sql.DB, dir string) ([]*part, error) {
	rows, err := db.QueryContext(ctx, `SELECT first_position, last_position, file, rows, bytes, min_time, max_time, received_at, min_key, max_key,
		EXISTS (SELECT 1 FROM activity WHERE activity.first_position = parts.first_position) FROM parts ORDER BY first_position`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var parts []*part
	for rows.Next() {
		p := &part{}
		var file string
		if err := rows.Scan(&p.first, &p.last, &file, &p.rows, &p.bytes, &p.minTime, &p.maxTime, &p.receivedAt, &p.minKey, &p.maxKey, &p.summed); err != nil {
			return nil, err
		}
		p.path = filepath.Join(dir, partsDirectory, file)
		p.refs.Store(1)
		parts = append(parts, p)
	}
	return parts, rows.Err()
}

// checksum tells whether rows read are the rows written.
type checksum struct {
	hash maphash.Hash
	buf  []byte
}

func (c *checksum) add(r *row) {
	b := c.buf[:0]
	for _, v := range [...]int64{r.Position, int64(r.Row), r.Time, r.PeerASN, r.PathID, r.OriginASN, r.OTC} {
		b = binary.AppendVarint(b, v)
	}
	if r.Backfilled {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = append(binary.AppendUvarint(b, uint64(len(r.Key))), r.Key...)
	for _, v := range [...]string{r.Prefix, r.Action, r.Collector, r.PeerIP, r.View, r.ASPath, r.NextHop, r.Communities} {
		b = append(binary.AppendUvarint(b, uint64(len(v))), v...)
	}
	c.buf = b
	c.hash.Write(b)
}

// writePart makes the file of a part from sorted rows, reads it back and returns it, with the one
// reference that the manifest will hold. The caller says what rows do not: first, last, receivedAt.
func (z sizes) writePart(ctx context.Context, dir string, first, last uint64, receivedAt int64, rows iter.Seq2[*row, error]) (_ *part, err error) {
	p := &part{path: filepath.Join(dir, partsDirectory, partName(first, last)), first: first, last: last, receivedAt: receivedAt,
		minTime: math.MaxInt64, maxTime: math.MinInt64, summary: newSummary()}
	p.refs.Store(1)
	var written checksum
	err = writeFile(p.path, func(w io.Writer) error {
		out := parquet.NewGenericWriter[row](w, append(z.writerOptions(), partSchema)...)
		chunk := make([]row, 0, scanRows)
		flush := func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			_, err := out.Write(chunk)
			chunk = chunk[:0]
			return err
		}
		for r, err := range rows {
			if err != nil {
				return err
			}
			if p.rows == 0 {
				p.minKey = bytes.Clone(r.Key)
			}
			p.maxKey = append(p.maxKey[:0], r.Key...)
			p.minTime, p.maxTime = min(p.minTime, r.Time), max(p.maxTime, r.Time)
			p.rows++
			written.add(r)
			p.summary.add(r)
			chunk = append(chunk, *r)
			if len(chunk) == cap(chunk) {
				if err := flush(); err != nil {
					return err
				}
			}
		}
		if err := flush(); err != nil {
			return err
		}
		return out.Close()
	})
	if err != nil {
		return nil, fmt.Errorf("writing %s: %w", p.path, err)
	}
	if p.minKey == nil {
		p.minKey = []byte{}
	}
	if p.maxKey == nil {
		p.maxKey = []byte{}
	}
	defer func() {
		if err != nil {
			p.discard()
		}
	}()
	info, err := os.Stat(p.path)
	if err != nil {
		return nil, err
	}
	p.bytes = info.Size()
	var read checksum
	read.hash.SetSeed(written.hash.Seed())
	n := int64(0)
	var before row
	for r, err := range p.all(ctx) {
		if err != nil {
			return nil, fmt.Errorf("reading back %s: %w", p.path, err)
		}
		if n > 0 && compareRows(&before, r) >= 0 {
			return nil, fmt.Errorf("reading back %s: row %d is out of order", p.path, n)
		}
		before = *r
		before.Key = bytes.Clone(r.Key)
		read.add(r)
		n++
	}
	if n != p.rows || read.hash.Sum64() != written.hash.Sum64() {
		return nil, fmt.Errorf("reading back %s: it does not hold what was written (%d rows of %d)", p.path, n, p.rows)
	}
	return p, nil
}

// discard lets go of a part that did not make it into the manifest, or is out of it.
func (p *part) discard() {
	p.doomed.Store(true)
	p.release()
}

// all yields every row in order. A row is valid until the next.
func (p *part) all(ctx context.Context) iter.Seq2[*row, error] {
	return func(yield func(*row, error) bool) {
		pf, err := p.open()
		if err != nil {
			yield(nil, err)
			return
		}
		r := parquet.NewGenericReader[row](pf)
		defer r.Close()
		buf := make([]row, scanRows)
		for {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			n, err := r.Read(buf)
			for i := range buf[:n] {
				if !yield(&buf[i], nil) {
					return
				}
			}
			if err == io.EOF {
				return
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// candidate is a row that a scan has chosen but not yet read.
type candidate struct {
	cursor store.Cursor
	group  int
	index  int64
}

// candidates is a heap with the oldest on top.
type candidates []candidate

func (c candidates) Len() int           { return len(c) }
func (c candidates) Less(i, j int) bool { return batch.Before(c[i].cursor, c[j].cursor) }
func (c candidates) Swap(i, j int)      { c[i], c[j] = c[j], c[i] }
func (c *candidates) Push(v any)        { *c = append(*c, v.(candidate)) }
func (c *candidates) Pop() any          { v := (*c)[len(*c)-1]; *c = (*c)[:len(*c)-1]; return v }

// scan returns the newest matching rows below before, at most limit, newest first. It finds the
// rows of the prefixes asked for through the page index, looks there only at the columns that the
// filter names, and reads whole rows only of those it returns.
func (p *part) scan(ctx context.Context, f *filter, before store.Cursor, limit int) (_ []store.Route, err error) {
	pf, err := p.open()
	if err != nil {
		return nil, err
	}
	var found candidates
	for g, group := range pf.RowGroups() {
		ranges, err := locate(group, f.ranges)
		if err != nil {
			return nil, err
		}
		if len(ranges) == 0 {
			continue
		}
		if err := scanGroup(ctx, group, g, ranges, f, before, limit, &found); err != nil {
			return nil, err
		}
	}
	return materialise(ctx, pf, found)
}

// rowRange is a range of rows of a row group, the end excluded.
type rowRange struct{ from, to int64 }

// locate finds the rows of each range of keys.
func locate(group parquet.RowGroup, ranges []keyRange) ([]rowRange, error) {
	if ranges == nil {
		return []rowRange{{0, group.NumRows()}}, nil
	}
	chunk := group.ColumnChunks()[columnKey]
	index, err := chunk.ColumnIndex()
	if err != nil {
		return nil, err
	}
	offsets, err := chunk.OffsetIndex()
	if err != nil {
		return nil, err
	}
	n := index.NumPages()
	keys := column{chunk: chunk}
	defer keys.close()
	var found []rowRange
	for _, k := range ranges {
		first := sort.Search(n, func(i int) bool { return bytes.Compare(index.MaxValue(i).ByteArray(), k.lo) >= 0 })
		last := sort.Search(n, func(i int) bool { return bytes.Compare(index.MinValue(i).ByteArray(), k.hi) > 0 }) - 1
		if first > last {
			continue
		}
		pageEnd := func(i int) int64 {
			if i+1 < n {
				return offsets.FirstRowIndex(i + 1)
			}
			return group.NumRows()
		}
		r := rowRange{offsets.FirstRowIndex(first), pageEnd(last)}
		if bytes.Compare(index.MinValue(first).ByteArray(), k.lo) < 0 {
			at, err := keys.search(r.from, pageEnd(first), func(key []byte) bool { return bytes.Compare(key, k.lo) >= 0 })
			if err != nil {
				return nil, err
			}
			r.from = at
		}
		if bytes.Compare(index.MaxValue(last).ByteArray(), k.hi) > 0 {
			at, err := keys.search(offsets.FirstRowIndex(last), r.to, func(key []byte) bool { return bytes.Compare(key, k.hi) > 0 })
			if err != nil {
				return nil, err
			}
			r.to = at
		}
		if r.from < r.to {
			found = append(found, r)
		}
	}
	return found, nil
}

// Positions of columns in the schema, in the order of row's fields.
var (
	columnKey         = columnNamed("prefix_key")
	columnPosition    = columnNamed("position")
	columnRow         = columnNamed("row")
	columnTime        = columnNamed("time")
	columnPrefix      = columnNamed("prefix")
	columnAction      = columnNamed("action")
	columnCollector   = columnNamed("collector")
	columnPeerASN     = columnNamed("peer_asn")
	columnPeerIP      = columnNamed("peer_ip")
	columnView        = columnNamed("view")
	columnPathID      = columnNamed("path_id")
	columnASPath      = columnNamed("as_path")
	columnOriginASN   = columnNamed("origin_asn")
	columnNextHop     = columnNamed("next_hop")
	columnCommunities = columnNamed("communities")
	columnOTC         = columnNamed("otc")
	columnBackfilled  = columnNamed("backfilled")
)

func columnNamed(name string) int {
	leaf, ok := partSchema.Lookup(name)
	if !ok {
		panic("no column " + name)
	}
	return leaf.ColumnIndex
}

// column reads the values of one column in row order.
type column struct {
	chunk  parquet.ColumnChunk
	keep   func(parquet.Value) bool // what the filter wants of it; nil if nothing
	pages  parquet.Pages
	page   parquet.Page
	first  int64 // row of the page's first value, for value
	values parquet.ValueReader
	buf    []parquet.Value
}

func (c *column) close() {
	if c.page != nil {
		parquet.Release(c.page)
		c.page = nil
	}
	if c.pages != nil {
		c.pages.Close()
		c.pages = nil
	}
}

func (c *column) seek(row int64) error {
	if c.page != nil {
		parquet.Release(c.page)
		c.page, c.values = nil, nil
	}
	if c.pages == nil {
		c.pages = c.chunk.Pages()
	}
	return c.pages.SeekToRow(row)
}

// read fills c.buf with the next n values. They are valid until the next call.
func (c *column) read(n int) error {
	c.buf = slices.Grow(c.buf[:0], n)[:n]
	for got := 0; got < n; {
		if c.page == nil {
			page, err := c.pages.ReadPage()
			if err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
			c.page, c.values = page, page.Values()
		}
		m, err := c.values.ReadValues(c.buf[got:])
		got += m
		if err != nil && err != io.EOF {
			return err
		}
		if err == io.EOF {
			if got < n { // values of this page are still wanted: they must not point into it
				for i := range c.buf[:got] {
					c.buf[i] = c.buf[i].Clone()
				}
			}
			if got < n || m == 0 {
				parquet.Release(c.page)
				c.page, c.values = nil, nil
			}
		}
	}
	return nil
}

// search returns the first row in [from, to) whose value fulfils ok, which holds from some row on; else to.
func (c *column) search(from, to int64, ok func([]byte) bool) (int64, error) {
	if err := c.seek(from); err != nil {
		return 0, err
	}
	if err := c.read(int(to - from)); err != nil {
		return 0, err
	}
	return from + int64(sort.Search(len(c.buf), func(i int) bool { return ok(c.buf[i].ByteArray()) })), nil
}

// conditions are the columns of a row group that decide what f wants of the rows that ranges of keys gave.
func (f *filter) conditions(chunks []parquet.ColumnChunk) (columns []*column) {
	want := func(index int, keep func(parquet.Value) bool) {
		columns = append(columns, &column{chunk: chunks[index], keep: keep})
	}
	wantNumber := func(index int, n uint32) {
		if n != 0 {
			want(index, func(v parquet.Value) bool { return v.Int64() == int64(n) })
		}
	}
	wantText := func(index int, s string) {
		if s != "" {
			want(index, func(v parquet.Value) bool { return string(v.ByteArray()) == s })
		}
	}
	wantNumber(columnPeerASN, f.Q.PeerASN)
	wantNumber(columnOriginASN, f.Q.OriginASN)
	if f.Q.ASOnPath != 0 {
		asn := strconv.FormatUint(uint64(f.Q.ASOnPath), 10)
		want(columnASPath, func(v parquet.Value) bool { return batch.OnPath(v.ByteArray(), asn) })
	}
	wantText(columnCollector, f.Q.Collector)
	wantText(columnPeerIP, text(f.Q.PeerIP))
	wantText(columnAction, string(f.Q.Action))
	if f.From != math.MinInt64 || f.To != math.MaxInt64 {
		want(columnTime, func(v parquet.Value) bool { return v.Int64() >= f.From && v.Int64() < f.To })
	}
	return columns
}

// kept tells whether row i of those read is wanted.
func kept(conditions []*column, i int) bool {
	for _, c := range conditions {
		if !c.keep(c.buf[i]) {
			return false
		}
	}
	return true
}

// readColumns hands visit the rows of ranges, some at a time: n from row at on, whose values are in the columns' buffers
// until it returns. It closes the columns.
func readColumns(ctx context.Context, ranges []rowRange, columns []*column, visit func(at int64, n int) error) error {
	defer func() {
		for _, c := range columns {
			c.close()
		}
	}()
	for _, r := range ranges {
		for _, c := range columns {
			if err := c.seek(r.from); err != nil {
				return err
			}
		}
		for at := r.from; at < r.to; at += scanRows {
			if err := ctx.Err(); err != nil {
				return err
			}
			n := int(min(scanRows, r.to-at))
			for _, c := range columns {
				if err := c.read(n); err != nil {
					return err
				}
			}
			if err := visit(at, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// scanGroup adds what matches in ranges to found, which keeps the newest limit.
func scanGroup(ctx context.Context, group parquet.RowGroup, number int, ranges []rowRange, f *filter, before store.Cursor, limit int, found *candidates) error {
	chunks := group.ColumnChunks()
	positions, rows := &column{chunk: chunks[columnPosition]}, &column{chunk: chunks[columnRow]}
	conditions := f.conditions(chunks)
	return readColumns(ctx, ranges, append([]*column{positions, rows}, conditions...), func(at int64, n int) error {
		for i := range n {
			cur := store.Cursor{Position: uint64(positions.buf[i].Int64()), Row: int(rows.buf[i].Int32())}
			if !batch.Before(cur, before) || len(*found) == limit && !batch.Before((*found)[0].cursor, cur) || !kept(conditions, i) {
				continue
			}
			if len(*found) == limit {
				(*found)[0] = candidate{cur, number, at + int64(i)}
				heap.Fix(found, 0)
			} else {
				heap.Push(found, candidate{cur, number, at + int64(i)})
			}
		}
		return nil
	})
}

// materialise reads the rows chosen, newest first. It does so column by column, so that each page is decoded once however
// many rows of it are wanted.
func materialise(ctx context.Context, pf *parquet.File, found candidates) ([]store.Route, error) {
	slices.SortFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.index, b.index))
	})
	routes := make([]store.Route, 0, len(found))
	rows := make([]row, min(len(found), scanRows))
	texts := make(map[string]string)
	var columns []*column
	shut := func() {
		for _, c := range columns {
			c.close()
		}
		columns = columns[:0]
	}
	defer func() { shut() }()
	for rest := found; len(rest) > 0; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		group, n := rest[0].group, 1
		for n < min(len(rest), len(rows)) && rest[n].group == group {
			n++
		}
		if len(routes) == 0 || found[len(routes)-1].group != group {
			shut()
			for _, chunk := range pf.RowGroups()[group].ColumnChunks() {
				columns = append(columns, &column{chunk: chunk})
			}
		}
		clear(rows[:n])
		for number, c := range columns {
			if number == columnKey {
				continue // the prefix says it
			}
			for i := range rest[:n] {
				v, err := c.value(rest[i].index)
				if err != nil {
					return nil, fmt.Errorf("row %d of row group %d: %w", rest[i].index, group, err)
				}
				rows[i].set(number, v, texts)
			}
		}
		for i := range rows[:n] {
			r, err := rows[i].route()
			if err != nil {
				return nil, fmt.Errorf("row %d of row group %d: %w", rest[i].index, group, err)
			}
			routes = append(routes, r)
		}
		rest = rest[n:]
	}
	slices.SortFunc(routes, func(a, b store.Route) int { return batch.Compare(b.Cursor, a.Cursor) })
	return routes, nil
}

// value reads one value; rows may only be asked for in ascending order. It is valid until the next call.
func (c *column) value(row int64) (parquet.Value, error) {
	if c.page == nil || row >= c.first+c.page.NumRows() {
		if err := c.seek(row); err != nil {
			return parquet.Value{}, err
		}
		page, err := c.pages.ReadPage()
		if err == nil && page.NumRows() == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return parquet.Value{}, cmp.Or(err, io.ErrUnexpectedEOF)
		}
		c.page, c.first = page, row
	}
	c.buf = slices.Grow(c.buf[:0], 1)[:1]
	n, err := c.page.Slice(row-c.first, row-c.first+1).Values().ReadValues(c.buf)
	if n != 1 {
		return parquet.Value{}, cmp.Or(err, io.ErrUnexpectedEOF)
	}
	return c.buf[0], nil
}

// set sets the field of the column of a number. Texts that repeat are kept once in texts.
func (r *row) set(column int, v parquet.Value, texts map[string]string) {
	text := func() string {
		b := v.ByteArray()
		known, ok := texts[string(b)]
		if !ok {
			known = string(b)
			texts[known] = known
		}
		return known
	}
	switch column {
	case columnPosition:
		r.Position = v.Int64()
	case columnRow:
		r.Row = v.Int32()
	case columnTime:
		r.Time = v.Int64()
	case columnPrefix:
		r.Prefix = text()
	case columnAction:
		r.Action = text()
	case columnCollector:
		r.Collector = text()
	case columnPeerASN:
		r.PeerASN = v.Int64()
	case columnPeerIP:
		r.PeerIP = text()
	case columnView:
		r.View = text()
	case columnPathID:
		r.PathID = v.Int64()
	case columnASPath:
		r.ASPath = text()
	case columnOriginASN:
		r.OriginASN = v.Int64()
	case columnNextHop:
		r.NextHop = text()
	case columnCommunities:
		r.Communities = text()
	case columnOTC:
		r.OTC = v.Int64()
	case columnBackfilled:
		r.Backfilled = v.Boolean()
	}
}
