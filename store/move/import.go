package move

import (
	"bufio"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
	"github.com/routevigil/routevigil/store/embedded"
)

// Bounds of what an import takes.
const (
	maxName     = 1 << 10
	maxSequence = 1 << 62 // there must be room for those that follow
)

// batchRows is how many rows are stored together, some megabytes.
const batchRows = 1 << 15

// ImportOptions say how an export is taken in.
type ImportOptions struct {
	Overlap     bool // although the store has updates of the same time
	NoIncidents bool // updates and gaps only
	// Progress is told now and then how many bytes of how many have been verified and stored; may be nil.
	Progress func(done, total int64)
}

// Result is what an import added.
type Result struct {
	Manifest *Manifest
	Updates  uint64 // rows
	Events   uint64
	Gaps     uint64
}

// importer takes in one export.
type importer struct {
	s        store.Store
	dir      string
	options  ImportOptions
	manifest *Manifest
	id       string
	result   Result
	missing  uint64 // events that the store does not have
	done     int64
}

// Import brings the export in the folder dir into s, which nobody else may be writing to. What of it is there already, as
// after an attempt that was killed, is not stored again.
func Import(ctx context.Context, s store.Store, dir string, o ImportOptions) (*Result, error) {
	m, id, err := ReadManifest(dir)
	if err != nil {
		return nil, err
	}
	x := &importer{s: s, dir: dir, options: o, manifest: m, id: "export:" + id, result: Result{Manifest: m}}
	if err := x.verify(ctx); err != nil {
		return nil, err
	}
	if !o.NoIncidents {
		if err := x.compareEvents(ctx); err != nil {
			return nil, err
		}
	}
	for _, step := range []func(context.Context) error{x.updates, x.gaps, x.events} {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil || errors.Is(err, store.ErrUnavailable) {
				err = fmt.Errorf("%w; run the import again, and it goes on where it was", err)
			}
			return &x.result, err
		}
	}
	return &x.result, nil
}

func (x *importer) path(name string) string { return filepath.Join(x.dir, filepath.FromSlash(name)) }

// damaged is the error for a file that is not what it was.
func (x *importer) damaged(name, format string, a ...any) error {
	return fmt.Errorf("%s is damaged: %w; copy it again from where the export was made, or make the export again", x.path(name), fmt.Errorf(format, a...))
}

func (x *importer) progress(bytes int64) {
	x.done += bytes
	if x.options.Progress != nil {
		x.options.Progress(x.done, 2*x.manifest.Bytes())
	}
}

// verify makes sure that every file is what the manifest says.
func (x *importer) verify(ctx context.Context) error {
	for _, f := range x.manifest.Files {
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := os.Lstat(x.path(f.Name))
		switch {
		case errors.Is(err, os.ErrNotExist):
			return fmt.Errorf("%s is missing; copy it again from where the export was made, or make the export again", x.path(f.Name))
		case err != nil:
			return err
		case !info.Mode().IsRegular():
			return x.damaged(f.Name, "it is no regular file")
		case info.Size() != f.Bytes:
			return x.damaged(f.Name, "it has %d bytes and should have %d", info.Size(), f.Bytes)
		}
		hash, _, err := sum(x.path(f.Name))
		if err != nil {
			return err
		}
		if hash != f.SHA256 {
			return x.damaged(f.Name, "its SHA-256 is %s and should be %s", hash, f.SHA256)
		}
		x.progress(f.Bytes)
	}
	return nil
}

// each reads a file of JSON lines.
func each[T any](ctx context.Context, x *importer, name string, visit func(*T) error) error {
	f, err := os.Open(x.path(name))
	if err != nil {
		return err
	}
	defer f.Close()
	want, n := x.manifest.file(name).Rows, uint64(0)
	err = eachLine(f, func(v *T) error {
		if n++; n > want {
			return x.damaged(name, "it has more than the %d lines that it should have", want)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return visit(v)
	})
	if line := (*lineError)(nil); errors.As(err, &line) {
		return x.damaged(name, "line %d: %w", n+1, line.error)
	}
	if err == nil && n != want {
		err = x.damaged(name, "it has %d lines and should have %d", n, want)
	}
	return err
}

// lineError is that of a line which cannot be read.
type lineError struct{ error }

// eachLine reads JSON lines, gzip, of at most maxLine bytes each.
func eachLine[T any](in io.Reader, visit func(*T) error) error {
	z, err := gzip.NewReader(bufio.NewReader(in))
	if err != nil {
		return &lineError{err}
	}
	lines := bufio.NewScanner(z)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		v := new(T)
		if err := json.Unmarshal(lines.Bytes(), v); err != nil {
			return &lineError{err}
		}
		if err := visit(v); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return &lineError{err}
	}
	return nil
}

// compareEvents makes sure that no event has the number of another one that the store has.
func (x *importer) compareEvents(ctx context.Context) error {
	var known []incident.Event // of the store, from the next number of the file on
	ended, after := false, uint64(0)
	last := uint64(0)
	return each(ctx, x, eventsName, func(e *incident.Event) error {
		in := &e.Incident
		switch {
		case e.Sequence <= last || e.Sequence > maxSequence || e.Sequence != in.Sequence:
			return x.damaged(eventsName, "event %d, whose incident says %d, comes after event %d", e.Sequence, in.Sequence, last)
		case in.ID == "" || len(in.ID) > maxName || in.Severity.Rank() < 0 || !slices.Contains(incident.Kinds, in.Kind) || in.Status != incident.Open && in.Status != incident.Ended:
			return x.damaged(eventsName, "event %d is of incident %.100q, %.100q, %.100q, %.100q", e.Sequence, in.ID, in.Kind, in.Severity, in.Status)
		}
		last = e.Sequence
		for {
			for len(known) > 0 && known[0].Sequence < e.Sequence {
				known = known[1:]
			}
			if len(known) > 0 || ended {
				break
			}
			var err error
			if known, err = x.s.Events(ctx, "", max(after, e.Sequence-1), page); err != nil {
				return err
			}
			if ended = len(known) < page; len(known) > 0 {
				after = known[len(known)-1].Sequence
			}
		}
		if len(known) == 0 || known[0].Sequence != e.Sequence {
			x.missing++
			return nil
		}
		if k := &known[0]; k.Incident.ID != e.Incident.ID || k.Change != e.Change || !k.Time.Equal(e.Time) {
			return fmt.Errorf("the store has incidents of its own: its event %d is of %s, that of the export is of %s; import into a store without incidents, or leave them out with --no-incidents",
				e.Sequence, k.Incident.ID, e.Incident.ID)
		}
		return nil
	})
}

// record returns what the store knows of this import, or begins one.
func (x *importer) record(ctx context.Context) (g ingest.Gap, err error) {
	m := x.manifest
	imports, err := x.s.Gaps(ctx, ingest.GapImported, allGaps)
	if err != nil {
		return g, err
	}
	for _, g := range imports {
		if g.Feed == x.id {
			return g, nil
		}
	}
	if !x.options.Overlap {
		for r, err := range x.s.Updates(ctx, store.UpdateQuery{From: m.First, To: m.Last.Add(time.Microsecond), Limit: 1}) {
			if err != nil {
				return g, err
			}
			return g, fmt.Errorf("the store has updates of the same time, such as one of %s: what is in both would be there twice; export another period with --from and --to, or import it all the same with --overlap",
				r.Time.UTC().Format(time.RFC3339))
		}
	}
	g = ingest.Gap{Feed: x.id, From: m.First, Until: m.Last, State: ingest.GapImported}
	return g, x.s.SaveGap(ctx, &g)
}

func (x *importer) updates(ctx context.Context) error {
	if x.manifest.Updates == 0 {
		return nil
	}
	g, err := x.record(ctx)
	if err != nil {
		return err
	}
	begin := uint64(0) // of the file
	var last store.Cursor
	for n := 1; begin < x.manifest.Updates; n++ {
		f := x.manifest.file(updatesName(n))
		end := begin + f.Rows
		if end > g.Taken {
			routes, err := embedded.ReadFile(x.path(f.Name))
			if err != nil {
				return x.damaged(f.Name, "%w", err)
			}
			if uint64(len(routes)) != f.Rows {
				return x.damaged(f.Name, "it has %d rows and should have %d", len(routes), f.Rows)
			}
			if last != (store.Cursor{}) && !batch.Before(last, routes[0].Cursor) {
				return x.damaged(f.Name, "it does not come after the file before")
			}
			last = routes[len(routes)-1].Cursor
			if err := x.store(ctx, f.Name, routes[max(g.Taken, begin)-begin:], &g); err != nil {
				return err
			}
		}
		begin = end
		x.progress(f.Bytes)
	}
	return nil
}

// store stores the rows of a file that are not there yet; g is how far the import has come.
func (x *importer) store(ctx context.Context, name string, routes []store.Route, g *ingest.Gap) error {
	for len(routes) > 0 {
		n := 1
		for n < len(routes) && n < batchRows && routes[n].Backfilled == routes[0].Backfilled {
			n++
		}
		var b ingest.Batch
		for u, err := range batch.Updates(func(yield func(store.Route, error) bool) {
			for _, r := range routes[:n] {
				if !yield(r, nil) {
					return
				}
			}
		}) {
			if err != nil {
				return x.damaged(name, "%w", err)
			}
			b.Updates = append(b.Updates, *u)
		}
		next := *g
		next.Taken += uint64(n)
		next.Updates += uint64(n)
		if err := x.s.AppendImport(ctx, &b, routes[0].Backfilled, &next); err != nil {
			return fmt.Errorf("%s: %w", x.path(name), err)
		}
		*g = next
		x.result.Updates += uint64(n)
		routes = routes[n:]
	}
	return nil
}

func (x *importer) gaps(ctx context.Context) error {
	list, err := x.s.Gaps(ctx, "", allGaps)
	if err != nil {
		return err
	}
	known := map[identity]bool{}
	for i := range list {
		known[identityOf(&list[i])] = true
	}
	err = each(ctx, x, gapsName, func(line *gap) error {
		g := line.gap()
		if !slices.Contains([]ingest.GapState{ingest.GapWaiting, ingest.GapDone, ingest.GapFailed}, g.State) || len(g.Feed) > maxName || len(g.Collector) > maxName {
			return x.damaged(gapsName, "a gap of %.100q and %.100q, in state %.100q", g.Feed, g.Collector, g.State)
		}
		if known[identityOf(&g)] {
			return nil
		}
		known[identityOf(&g)] = true
		x.result.Gaps++
		return x.s.SaveGap(ctx, &g)
	})
	if err != nil {
		return err
	}
	x.progress(x.manifest.file(gapsName).Bytes)
	own, err := x.s.Heard(ctx)
	if err != nil {
		return err
	}
	heard := x.manifest.asHeard()
	for _, o := range own {
		for i := range heard {
			if heard[i].Collector == o.Collector && !heard[i].Time.After(o.Time) {
				heard[i] = o
			}
		}
	}
	if len(heard) == 0 {
		return nil
	}
	return x.s.SaveHeard(ctx, heard)
}

func (x *importer) events(ctx context.Context) error {
	if x.options.NoIncidents {
		return nil
	}
	var events []incident.Event
	commit := func() error {
		err := x.s.CommitEvents(ctx, events, nil)
		events = events[:0]
		return err
	}
	err := each(ctx, x, eventsName, func(e *incident.Event) error {
		if events = append(events, *e); len(events) < page {
			return nil
		}
		return commit()
	})
	if err == nil && len(events) > 0 {
		err = commit()
	}
	if err != nil {
		return err
	}
	x.result.Events = x.missing
	x.progress(x.manifest.file(eventsName).Bytes)
	return nil
}
