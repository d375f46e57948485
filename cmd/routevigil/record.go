package main

import (
	"errors"
	"fmt"

	"github.com/routevigil/routevigil/cmd/routevigil/service"
)

// RecordCmd is the role that remembers and tells.
type RecordCmd struct {
	ConfigFlag
	Notify bool `default:"true" negatable:"" help:"Send alerts too; with --no-notify that is left to \"routevigil notify\", or to other recorders."`
}

// Help says what kong shows below the flags.
func (RecordCmd) Help() string {
	return `Keeps everything in a store of its own (section store) and serves the dashboard and the API from there, as "serve" does. Any number of recorders
may run; each has everything, and one of them, or of notifiers, sends the alerts, so all need the same section alert. What only a detector knows (routes as
they are now, explanations of a verdict, RPKI at a time) their API does not have.`
}

func (c RecordCmd) Run(g *Globals) (err error) {
	cfg, err := c.Load()
	if err != nil {
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
