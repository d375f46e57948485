package main

import (
	"fmt"

	"github.com/routevigil/routevigil/cmd/routevigil/service"
)

// CollectCmd is the role that listens.
type CollectCmd struct{ ConfigFlag }

// Help says what kong shows below the flags.
func (CollectCmd) Help() string {
	return `Any number of collectors may run, each with feeds of its own or several with the same one: what is heard twice counts once. Gaps are
not filled from archives (ingest.backfill). /healthz, /readyz and /metrics are at api.listen.`
}

func (c CollectCmd) Run(g *Globals) error {
	cfg, err := c.Load()
	if err != nil {
		return err
	}
	x, err := service.NewCollector(g.Context, cfg, g.Log)
	if err != nil {
		return err
	}
	fmt.Fprintf(g.Stderr, "routevigil: collect: metrics on http://%s/metrics\n", x.Addr())
	return x.Run(g.Context)
}
