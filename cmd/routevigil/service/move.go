package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/store/clickhouse"
	"github.com/routevigil/routevigil/store/move"
)

// Export writes what the store of c has into a folder. A service may be using the store.
func Export(ctx context.Context, c config.Config, dir string, o move.ExportOptions, log *slog.Logger) (*move.Manifest, error) {
	history, err := openHistory(ctx, c.Store, log)
	if err != nil {
		return nil, err
	}
	m, err := move.Export(ctx, history, dir, o)
	return m, errors.Join(err, history.Close())
}

// quiet is how long nothing must come into a ClickHouse store before it is taken over. A service adds to it every second.
const quiet = 5 * time.Second

// Import brings an export into the store of c, which is made if it is not there. No service may be writing to it.
func Import(ctx context.Context, c config.Config, dir string, o move.ImportOptions, log *slog.Logger) (*move.Result, error) {
	if _, _, err := move.ReadManifest(dir); err != nil { // before a store is made
		return nil, err
	}
	if c.Store.Kind == config.ClickHouse {
		if err := unattended(ctx, c.Store, log); err != nil {
			return nil, err
		}
	}
	s, err := newStore(c.Store, log, newRegistry())
	if err != nil {
		return nil, err
	}
	r, err := move.Import(ctx, s, dir, o)
	return r, errors.Join(err, s.Close())
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
	before, err := r.Stats(ctx)
	if err != nil {
		return err
	}
	select {
	case <-time.After(quiet):
	case <-ctx.Done():
		return ctx.Err()
	}
	now, err := r.Stats(ctx)
	if err == nil && now.LastPosition != before.LastPosition {
		err = fmt.Errorf("database %s: a service is writing to it; stop \"routevigil serve\" or \"routevigil record\" first, and start it again afterwards", c.ClickHouse.Database)
	}
	return err
}
