package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect/past"
	"github.com/routevigil/routevigil/detect/rpki/journal"
	"github.com/routevigil/routevigil/store/clickhouse"
	"github.com/routevigil/routevigil/store/move"
)

// Export writes what the store of c has into a folder. A service may be using the store.
func Export(ctx context.Context, c config.Config, dir string, o move.ExportOptions, log *slog.Logger) (*move.Manifest, error) {
	history, err := openHistory(ctx, c.Store, log)
	if err != nil {
		return nil, err
	}
	o.Knowledge, err = knowledgeFiles(knowledgeFolder(c.Store.Directory), o.From, o.To)
	var m *move.Manifest
	if err == nil {
		m, err = move.Export(ctx, history, dir, o)
	}
	return m, errors.Join(err, history.Close())
}

// knowledgeFiles lists what the service keeps of what verdicts of a period were compared with: paths by name.
func knowledgeFiles(folder string, from, to time.Time) (map[string]string, error) {
	files := map[string]string{}
	for name, list := range map[string]func(string, time.Time, time.Time) ([]string, error){rpkiName: journal.Files, pastName: past.Files} {
		paths, err := list(filepath.Join(folder, name), from, to)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			files[name+"/"+filepath.Base(path)] = path
		}
	}
	return files, nil
}

// takeKnowledge brings the files of knowledge of an export into a folder. Two records of what was in use cannot become one,
// so where there is one of its own already it stays; kept names those.
func takeKnowledge(dir, folder string, m *move.Manifest) (kept []string, err error) {
	for _, name := range []string{rpkiName, pastName} {
		var files []string
		for _, f := range m.Knowledge() {
			if strings.HasPrefix(f, name+"/") {
				files = append(files, f)
			}
		}
		if len(files) == 0 {
			continue
		}
		to := filepath.Join(folder, name)
		if _, err := os.Stat(to); err == nil {
			kept = append(kept, to)
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return kept, err
		}
		// All of them appear at once.
		partial := to + ".import"
		if err := errors.Join(os.RemoveAll(partial), os.MkdirAll(partial, 0o755)); err != nil {
			return kept, err
		}
		for _, f := range files {
			if err := copyFile(filepath.Join(dir, move.KnowledgeFolder, f), filepath.Join(partial, filepath.Base(f))); err != nil {
				return kept, err
			}
		}
		if err := os.Rename(partial, to); err != nil {
			return kept, err
		}
	}
	return kept, nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}

// quiet is how long a service must have given no sign of life in ClickHouse before its store is taken over.
const quiet = 6 * time.Second

// Import brings an export into the store of c, which is made if it is not there. No service may be writing to it. kept
// are the folders of knowledge that were there already, and stay as they are.
func Import(ctx context.Context, c config.Config, dir string, o move.ImportOptions, log *slog.Logger) (r *move.Result, kept []string, err error) {
	if _, _, err := move.ReadManifest(dir); err != nil { // before a store is made
		return nil, nil, err
	}
	if c.Store.Kind == config.ClickHouse {
		if err := unattended(ctx, c.Store, log); err != nil {
			return nil, nil, err
		}
	}
	s, err := newStore(c.Store, log, newRegistry())
	if err != nil {
		return nil, nil, err
	}
	if r, err = move.Import(ctx, s, dir, o); err == nil {
		kept, err = takeKnowledge(dir, knowledgeFolder(c.Store.Directory), r.Manifest)
	}
	return r, kept, errors.Join(err, s.Close())
}

// unattended makes sure that no service is adding to a store in ClickHouse: opening it for writing would end that one.
func unattended(ctx context.Context, c config.Store, log *slog.Logger) error {
	r, err := openClickHouse(ctx, c, log)
	if errors.Is(err, clickhouse.ErrMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	bounded, cancel := context.WithTimeout(ctx, 3*quiet)
	defer cancel()
	err = r.Silence(bounded, quiet)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("database %s: a service is writing to it; stop \"routevigil serve\" or \"routevigil record\" first, and start it again afterwards", c.ClickHouse.Database)
	}
	return err
}
