package main

import (
	"errors"
	"fmt"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/cmd/routevigil/service"
)

// APICmd is the role that answers.
type APICmd struct{ ConfigFlag }

// Help says what kong shows below the flags.
func (APICmd) Help() string {
	return `Serves the dashboard and the API from what "record" or "serve" stores in ClickHouse (store.kind: clickhouse). It only reads there, as a user who
may SELECT, and needs no Kafka, so any number may run. /readyz says how far behind the newest batch in the store is. What only a detector
knows (routes as they are now, explanations of a verdict, RPKI at a time) this API does not have.`
}

func (c APICmd) Run(g *Globals) (err error) {
	cfg, err := c.Load()
	if err != nil {
		return err
	}
	if cfg.Store.Kind != config.ClickHouse {
		return &UsageError{fmt.Errorf("store.kind is %s: only ClickHouse can be read beside what writes it; set store.kind to %s, or use the API of what writes the store",
			cfg.Store.Kind, config.ClickHouse)}
	}
	x, err := service.NewAPI(g.Context, cfg, Version(), g.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	fmt.Fprintf(g.Stderr, "routevigil: api: dashboard and API on http://%s\n", x.Addr())
	return x.Run(g.Context)
}
