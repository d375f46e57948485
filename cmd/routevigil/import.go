package main

import (
	"fmt"
	"sync/atomic"

	"github.com/routevigil/routevigil/cmd/routevigil/service"
	"github.com/routevigil/routevigil/store/move"
)

// ImportCmd takes files of an export into the store.
type ImportCmd struct {
	ConfigFlag
	Overlap     bool   `help:"Import although the store has updates of the same time; what is in both is then there twice."`
	NoIncidents bool   `name:"no-incidents" help:"Leave the incidents out, as for a store that has its own."`
	Dir         string `arg:"" placeholder:"DIR" help:"Folder that \"routevigil export\" made."`
}

// Help says what kong shows below the flags.
func (ImportCmd) Help() string {
	return `Brings an export into the store that section store of the configuration names, embedded or ClickHouse, which is made if it is not there. No service may be
using it. Every file is verified first. What is there already is not stored again, so an import that was interrupted is run again and goes on where it was.
What is imported is history only: it is not judged again, and no alerts are sent. It is sorted for long keeping when a service next runs on the store;
until then questions about it take longer.`
}

func (c ImportCmd) Run(g *Globals) error {
	cfg, err := c.Load()
	if err != nil {
		return err
	}
	var done, total atomic.Int64
	stop := showProgress(g.Stderr, "importing", func() (int64, int64) { return done.Load(), total.Load() })
	r, kept, err := service.Import(g.Context, cfg, c.Dir, move.ImportOptions{Overlap: c.Overlap, NoIncidents: c.NoIncidents,
		Progress: func(n, of int64) { done.Store(n); total.Store(of) }}, g.Log)
	stop()
	if err != nil {
		return err
	}
	for _, folder := range kept {
		fmt.Fprintf(g.Stderr, "routevigil: %s has a record of its own of what was in use; that of the export is left out\n", folder)
	}
	m := r.Manifest
	_, err = fmt.Fprintf(g.Stdout, "%s: %d updates, %d changes of incidents, %d gaps added (of %d, %d, %d; the others were there)\n", c.Dir, r.Updates, r.Events, r.Gaps,
		m.Updates, m.Events, m.Gaps)
	return err
}
