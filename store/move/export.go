package move

import (
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/embedded"
)

// ExportOptions say what is exported.
type ExportOptions struct {
	From, To  time.Time         // event times in [From, To); zero does not restrict
	Knowledge map[string]string // files to take along: path by name below KnowledgeFolder
	Program   string            // who makes it
	// Progress is told now and then how many bytes have been written and the event time reached; may be nil.
	Progress func(bytes int64, at time.Time)
}

// exporter makes one export.
type exporter struct {
	r        store.Reader
	dir      string
	options  ExportOptions
	manifest Manifest
	bytes    int64
}

// Export writes what r has into the folder dir, which must not be there yet. What is left of an attempt that was killed is
// replaced.
func Export(ctx context.Context, r store.Reader, dir string, o ExportOptions) (*Manifest, error) {
	dir = filepath.Clean(dir)
	if _, err := os.Lstat(dir); err == nil {
		return nil, fmt.Errorf("%s: it is there already; remove it, or choose another name", dir)
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	x := &exporter{r: r, dir: dir + partial, options: o, manifest: Manifest{Format: formatName, Version: formatVersion, Program: o.Program,
		Created: time.Now().UTC().Truncate(time.Second), From: utc(o.From), To: utc(o.To), Files: []File{}}}
	if err := x.clear(); err != nil {
		return nil, err
	}
	if err := x.run(ctx); err != nil {
		return nil, fmt.Errorf("export to %s: %w", dir, err)
	}
	if err := os.Rename(x.dir, dir); err != nil {
		return nil, err
	}
	return &x.manifest, syncFolder(filepath.Dir(dir))
}

func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC()
}

// clear makes the folder, empty, but removes nothing that is not of an export.
func (x *exporter) clear() error {
	err := filepath.WalkDir(x.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(x.dir, path)
		if name = strings.TrimSuffix(filepath.ToSlash(name), ".tmp"); err == nil && name != manifestName && !fileName.MatchString(name) {
			err = fmt.Errorf("%s is no part of an export; remove it, or choose another name for the export", path)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.RemoveAll(x.dir); err != nil {
		return err
	}
	return os.MkdirAll(x.dir, 0o755)
}

func (x *exporter) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{x.updates, x.incidents, x.gaps, x.knowledge} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(&x.manifest, "", " ")
	if err != nil {
		return err
	}
	if err := x.write(manifestName, func(w io.Writer) error { _, err := w.Write(append(text, '\n')); return err }); err != nil {
		return err
	}
	return syncFolder(x.dir)
}

// add puts a file that is there into the manifest.
func (x *exporter) add(name string, rows uint64) error {
	hash, size, err := sum(filepath.Join(x.dir, name))
	if err != nil {
		return err
	}
	x.bytes += size
	x.manifest.Files = append(x.manifest.Files, File{Name: name, Bytes: size, Rows: rows, SHA256: hash})
	return nil
}

func (x *exporter) updates(ctx context.Context) error {
	var chunk []store.Route
	m := &x.manifest
	flush := func() error {
		name := updatesName(len(m.Files) + 1)
		if err := embedded.WriteFile(ctx, filepath.Join(x.dir, name), chunk); err != nil {
			return err
		}
		m.Updates += uint64(len(chunk))
		if x.options.Progress != nil {
			defer x.options.Progress(x.bytes, chunk[len(chunk)-1].Time)
		}
		err := x.add(name, uint64(len(chunk)))
		chunk = chunk[:0]
		return err
	}
	for r, err := range x.r.History(ctx, x.options.From, x.options.To) {
		if err != nil {
			return err
		}
		if m.First.IsZero() || r.Time.Before(m.First) {
			m.First = r.Time
		}
		if r.Time.After(m.Last) {
			m.Last = r.Time
		}
		if chunk = append(chunk, r); len(chunk) == embedded.MaxFileRows {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if len(chunk) == 0 {
		return nil
	}
	return flush()
}

// incidents writes the incidents that were under way in the period as they stand, and all their events.
func (x *exporter) incidents(ctx context.Context) error {
	chosen := map[string]bool{}
	err := x.lines(incidentsName, &x.manifest.Incidents, func(line func(any) error) error {
		for before := uint64(0); ; {
			list, err := x.r.Incidents(ctx, store.IncidentQuery{From: x.options.From, To: x.options.To, Before: before, Limit: page})
			if err != nil {
				return err
			}
			for i := range list {
				before = list[i].Sequence
				chosen[list[i].ID] = true
				if err := line(&list[i]); err != nil {
					return err
				}
			}
			if len(list) < page {
				return nil
			}
		}
	})
	if err != nil {
		return err
	}
	return x.lines(eventsName, &x.manifest.Events, func(line func(any) error) error {
		for after := uint64(0); len(chosen) > 0; {
			list, err := x.r.Events(ctx, "", after, page)
			if err != nil {
				return err
			}
			for i := range list {
				if after = list[i].Sequence; !chosen[list[i].Incident.ID] {
					continue
				}
				if err := line(&list[i]); err != nil {
					return err
				}
			}
			if len(list) < page {
				return nil
			}
		}
		return nil
	})
}

func (x *exporter) gaps(ctx context.Context) error {
	list, err := x.r.Gaps(ctx, "", allGaps)
	if err != nil {
		return err
	}
	err = x.lines(gapsName, &x.manifest.Gaps, func(line func(any) error) error {
		for _, g := range slices.Backward(list) { // the oldest first
			if g.State == ingest.GapImported || !within(&g, x.options.From, x.options.To) {
				continue
			}
			if err := line(ofGap(&g)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || !x.options.To.IsZero() {
		return err
	}
	known, err := x.r.Heard(ctx)
	for _, h := range known {
		x.manifest.Heard = append(x.manifest.Heard, heard{h.Collector, h.Feed, h.Time})
	}
	return err
}

func (x *exporter) knowledge(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(x.options.Knowledge)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		in, err := os.Open(x.options.Knowledge[name])
		if errors.Is(err, os.ErrNotExist) {
			continue // dropped meanwhile
		}
		if err != nil {
			return err
		}
		to := KnowledgeFolder + name
		if err = os.MkdirAll(filepath.Join(x.dir, filepath.Dir(to)), 0o755); err == nil {
			err = x.write(to, func(w io.Writer) error { _, err := io.Copy(w, in); return err })
		}
		in.Close()
		if err == nil {
			err = x.add(to, 0)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lines makes a file of JSON lines and counts them.
func (x *exporter) lines(name string, count *uint64, fill func(line func(any) error) error) error {
	err := x.write(name, func(w io.Writer) error {
		z := gzip.NewWriter(w)
		e := json.NewEncoder(z)
		e.SetEscapeHTML(false)
		err := fill(func(v any) error {
			*count++
			return e.Encode(v)
		})
		return errors.Join(err, z.Close())
	})
	if err != nil {
		return err
	}
	return x.add(name, *count)
}

// write makes a file that is on the disk when it returns.
func (x *exporter) write(name string, fill func(io.Writer) error) error {
	f, err := os.Create(filepath.Join(x.dir, name))
	if err != nil {
		return err
	}
	err = fill(f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
