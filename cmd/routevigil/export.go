package main

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/routevigil/routevigil/cmd/routevigil/service"
	"github.com/routevigil/routevigil/store/move"
)

// ExportCmd writes history into files.
type ExportCmd struct {
	ConfigFlag
	From instant `placeholder:"TIME" help:"Begin of the period, such as 2026-03-01T14:00Z; without it, where history begins."`
	To   instant `placeholder:"TIME" help:"Its end, which is not part of it; without it, where history ends."`
	Dir  string  `arg:"" placeholder:"DIR" help:"Folder to make."`
}

// Help says what kong shows below the flags.
func (ExportCmd) Help() string {
	return `Writes the updates of a period, the incidents that were under way in it with their evidence and every change of them, and the gaps of feeds, as the
store has them (section store of the configuration), embedded or ClickHouse. The service may be running. Updates are Parquet files, which DuckDB,
ClickHouse and pandas open, the rest is JSON lines (gzip), and manifest.json says what there is, with checksums. What verdicts of the
period were compared with (VRPs, registries and more, as far as knowledge.past has them) goes along as it is kept. "routevigil import" takes it into
another store. Alerts are not part of it.`
}

func (c ExportCmd) Run(g *Globals) error {
	if !c.From.IsZero() && !c.To.IsZero() && !c.From.Before(c.To.Time) {
		return &UsageError{errors.New("--from must be before --to")}
	}
	cfg, err := c.Load()
	if err != nil {
		return err
	}
	var done, at atomic.Int64
	stop := showProgress(g.Stderr, "exporting", func() (int64, int64) {
		n := done.Load()
		if c.From.IsZero() || c.To.IsZero() || at.Load() == 0 {
			return n, 0
		}
		// What is written so far is to the whole about as the time that has been covered is to the period.
		part := time.UnixMicro(at.Load()).Sub(c.From.Time).Seconds() / c.To.Sub(c.From.Time).Seconds()
		return n, int64(float64(n) / max(part, 0.001))
	})
	m, err := service.Export(g.Context, cfg, c.Dir, move.ExportOptions{From: c.From.Time, To: c.To.Time, Program: "routevigil " + Version(),
		Progress: func(bytes int64, reached time.Time) { done.Store(bytes); at.Store(reached.UnixMicro()) }}, g.Log)
	stop()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(g.Stdout, "%s: %d updates, %d incidents with %d changes, %d gaps: %d bytes in %d files\n", c.Dir, m.Updates, m.Incidents, m.Events, m.Gaps, m.Bytes(), len(m.Files))
	return err
}
