package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"github.com/parquet-go/parquet-go"

	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

// Bounds of a file of history that did not come about here.
const (
	MaxFileRows  = 1 << 18 // that are sorted in memory, some 150 MB
	maxFileBytes = 1 << 30 // uncompressed
	maxFileText  = 1 << 18 // of one value
)

// WriteFile makes a file that is like a part, of at most MaxFileRows routes, in no certain order. It is complete and on the
// disk, or not there.
func WriteFile(ctx context.Context, path string, routes []store.Route) error {
	if len(routes) > MaxFileRows {
		return fmt.Errorf("%d rows exceed the %d that a file may have", len(routes), MaxFileRows)
	}
	rows := make([]row, len(routes))
	for i := range routes {
		rows[i] = toRow(&routes[i])
	}
	slices.SortFunc(rows, func(a, b row) int { return compareRows(&a, &b) })
	return writeFile(path, func(w io.Writer) error {
		out := parquet.NewGenericWriter[row](w, append(defaultSizes.writerOptions(), partSchema)...)
		for chunk := range slices.Chunk(rows, scanRows) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if _, err := out.Write(chunk); err != nil {
				return err
			}
		}
		return out.Close()
	})
}

// ReadFile returns the routes of a file such as WriteFile makes, in the order of their cursors. The file may be anything.
func ReadFile(path string) ([]store.Route, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return readRoutes(f, info.Size())
}

var errFile = errors.New("it is no file of history")

func readRoutes(f io.ReaderAt, size int64) (routes []store.Route, err error) {
	defer func() {
		if p := recover(); p != nil { // the library trusts what it reads
			routes, err = nil, fmt.Errorf("%w: %v", errFile, p)
		}
	}()
	pf, err := parquet.OpenFile(f, size, parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errFile, err)
	}
	if !isPart(pf.Root()) {
		return nil, fmt.Errorf("%w: its columns are %s", errFile, pf.Root())
	}
	if n := pf.NumRows(); n < 0 || n > MaxFileRows {
		return nil, fmt.Errorf("%w: it has %d rows where %d may be", errFile, n, MaxFileRows)
	}
	total := int64(0)
	for _, g := range pf.Metadata().RowGroups {
		for _, c := range g.Columns {
			n := c.MetaData.TotalUncompressedSize
			if total += n; n < 0 || total > maxFileBytes {
				return nil, fmt.Errorf("%w: it has more than %d MiB", errFile, maxFileBytes>>20)
			}
		}
	}
	r := parquet.NewGenericReader[row](pf)
	defer r.Close()
	buf, texts := make([]row, scanRows), map[string]string{}
	for {
		n, err := r.Read(buf)
		if len(routes)+n > MaxFileRows {
			return nil, fmt.Errorf("%w: it has more than %d rows", errFile, MaxFileRows)
		}
		for i := range buf[:n] {
			route, err := buf[i].checked(texts)
			if err != nil {
				return nil, fmt.Errorf("row %d: %w", len(routes), err)
			}
			routes = append(routes, route)
		}
		if err == nil && n == 0 {
			err = io.ErrNoProgress
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errFile, err)
		}
	}
	slices.SortFunc(routes, func(a, b store.Route) int { return batch.Compare(a.Cursor, b.Cursor) })
	for i := 1; i < len(routes); i++ {
		if routes[i].Cursor == routes[i-1].Cursor {
			return nil, fmt.Errorf("%w: two rows are at position %d, row %d", errFile, routes[i].Cursor.Position, routes[i].Cursor.Row)
		}
	}
	return routes, nil
}

// Times that RFC 3339 can write, in microseconds.
const firstTime, lastTime = -62_135_596_800_000_000, 253_402_300_799_999_999

// checked is route for a row that may hold anything. texts has one of each text.
func (r *row) checked(texts map[string]string) (store.Route, error) {
	for _, s := range []*string{&r.Prefix, &r.Action, &r.Collector, &r.PeerIP, &r.View, &r.ASPath, &r.NextHop, &r.Communities} {
		if len(*s) > maxFileText {
			return store.Route{}, fmt.Errorf("%w: a value has %d bytes", errFile, len(*s))
		}
		known, ok := texts[*s]
		if !ok {
			known = string([]byte(*s)) // what was read is valid for a moment only
			texts[known] = known
		}
		*s = known
	}
	for _, n := range []int64{r.PeerASN, r.PathID, r.OriginASN, r.OTC} {
		if n < 0 || n > math.MaxUint32 {
			return store.Route{}, fmt.Errorf("%w: a number is %d", errFile, n)
		}
	}
	if r.Position < 0 || r.Row < 0 || r.Time < firstTime || r.Time > lastTime {
		return store.Route{}, fmt.Errorf("%w: position %d, row %d, time %d", errFile, r.Position, r.Row, r.Time)
	}
	route, err := r.route()
	if err != nil {
		return route, fmt.Errorf("%w: %w", errFile, err)
	}
	ofPrefix := route.Action == store.Withdraw || batch.HasAttributes(route.Action)
	switch {
	case !slices.Contains(batch.Actions, route.Action):
		err = fmt.Errorf("%w: action %q", errFile, route.Action)
	case ofPrefix != route.Prefix.IsValid() || route.Prefix != route.Prefix.Masked():
		err = fmt.Errorf("%w: %s of prefix %q", errFile, route.Action, r.Prefix)
	case !bytes.Equal(r.Key, keyOf(route.Prefix)):
		err = fmt.Errorf("%w: prefix %s has the key %x", errFile, r.Prefix, r.Key)
	}
	return route, err
}
