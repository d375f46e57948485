package main

import (
	"context"
	"io"
	"log/slog"
	"testing"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
)

// The demo asks nobody on the Internet for what it has played.
func TestDemoDoesNotBackfill(t *testing.T) {
	c := config.Default()
	d, err := startDemo(&Globals{Context: context.Background(), Log: slog.New(slog.DiscardHandler), Stderr: io.Discard}, &c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.stop(); err != nil {
			t.Error(err)
		}
	}()
	if !config.Default().Ingest.Backfill.Enabled || c.Ingest.Backfill.Enabled {
		t.Errorf("enabled by default: %v, in the demo: %v; want only the first", config.Default().Ingest.Backfill.Enabled, c.Ingest.Backfill.Enabled)
	}
}
