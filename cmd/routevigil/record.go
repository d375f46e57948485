package main

import (
	"errors"
	"fmt"

	"github.com/routevigil/routevigil/cmd/routevigil/service"
)

// RecordCmd is the role that remembers and tells.
type RecordCmd struct{ ConfigFlag }

// Help says what kong shows below the flags.
func (RecordCmd) Help() string {
	return `Keeps an embedded store in store.directory and does with it what "serve" does: sends alerts, serves the dashboard and the API. There
should be one recorder, since each sends every alert. What only a detector knows (routes as they are now, explanations of a verdict, RPKI at a
time) its API does not have.`
}

func (c RecordCmd) Run(g *Globals) (err error) {
	cfg, err := c.Load()
	if err != nil {
		return err
	}
	x, err := service.NewRecorder(g.Context, cfg, Version(), g.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	fmt.Fprintf(g.Stderr, "routevigil: record: dashboard and API on http://%s\n", x.Addr())
	return x.Run(g.Context)
}
