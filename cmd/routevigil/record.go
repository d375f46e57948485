package main

import (
	"errors"
	"fmt"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/cmd/routevigil/service"
)

// RecordCmd is the role that remembers and tells.
type RecordCmd struct {
	ConfigFlag
	Notify bool `default:"true" negatable:"" help:"Send alerts too; with --no-notify that is left to \"routevigil notify\", or to other recorders."`
}

// Help says what kong shows below the flags.
func (RecordCmd) Help() string {
	return `Keeps everything in a store (section store) and serves the dashboard and the API from there, as "serve" does. Any number of recorders may run: where
store.kind is clickhouse and several name one database one of them writes, and the others serve what is there and go on in its place when it is silent for
kafka.takeover; else each has everything in a store of its own. One of them, or of notifiers, sends the alerts, so all need the same section alert. What only
a detector knows (routes as they are now, explanations of a verdict, RPKI at a time) their API does not have.`
}

func (c RecordCmd) Run(g *Globals) (err error) {
	cfg, err := c.Load()
	if err != nil {
		return err
	}
	if err := c.standBy(g, cfg); err != nil || g.Context.Err() != nil {
		return err
	}
	x, err := service.NewRecorder(g.Context, cfg, c.Notify, Version(), g.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	fmt.Fprintf(g.Stderr, "routevigil: record: dashboard and API on http://%s\n", x.Addr())
	return x.Run(g.Context)
}

// standBy waits for the end of another recorder in the same database.
func (RecordCmd) standBy(g *Globals, cfg config.Config) error {
	x, err := service.NewStandBy(g.Context, cfg, Version(), g.Log)
	if x == nil || err != nil {
		return err
	}
	fmt.Fprintf(g.Stderr, "routevigil: record: dashboard and API on http://%s\n", x.Addr())
	return errors.Join(x.Run(g.Context), x.Close())
}
