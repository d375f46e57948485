package main

import (
	"errors"
	"fmt"

	"github.com/routevigil/routevigil/cmd/routevigil/service"
)

// NotifyCmd is the role that tells.
type NotifyCmd struct{ ConfigFlag }

// Help says what kong shows below the flags.
func (NotifyCmd) Help() string {
	return `Sends the alerts of section alert. Any number may run, beside recorders that send alerts too or, with "record --no-notify", alone: one of them
all sends, and another goes on when it is silent for kafka.takeover. All need the same section alert. What there is to be sent is kept in the folder
notify of store.directory, whatever store.kind is. /healthz, /readyz and /metrics are at api.listen.`
}

func (c NotifyCmd) Run(g *Globals) (err error) {
	cfg, err := c.Load()
	if err != nil {
		return err
	}
	x, err := service.NewNotifier(g.Context, cfg, Version(), g.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	fmt.Fprintf(g.Stderr, "routevigil: notify: metrics on http://%s/metrics\n", x.Addr())
	return x.Run(g.Context)
}
