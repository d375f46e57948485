package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/ingest/rislive/rislivesim"
	"github.com/routevigil/routevigil/ingest/scenario"
)

// demo is a small Internet of our own that the service listens to in place of the real one. Only
// the address of the feed and the names of some files differ from a real deployment.
type demo struct {
	dir  string
	end  context.CancelFunc
	done chan error
}

// startDemo starts the feed and points c at it: feed, baseline and knowledge, a watch, a store that
// is thrown away at the end, and shorter times than real routing would want.
func startDemo(g *Globals, c *config.Config) (_ *demo, err error) {
	dir, err := os.MkdirTemp("", "routevigil-demo-")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	files, err := scenario.World().WriteBaseline(dir, time.Now())
	if err != nil {
		return nil, err
	}
	incidents, err := scenario.Demo()
	if err != nil {
		return nil, err
	}
	feed, err := rislivesim.Listen(rislivesim.DefaultConfiguration(), incidents, g.Log.With("component", "demo"))
	if err != nil {
		return nil, err
	}
	c.Ingest.RISLive.Name, c.Ingest.RISLive.URL = "demo", feed.URL()
	c.Ingest.Backfill.Enabled = false // no archive has what the demo plays
	c.Ingest.Baseline = nil
	for _, f := range files.RIBs {
		c.Ingest.Baseline = append(c.Ingest.Baseline, f.Path)
	}
	c.Knowledge.VRPs, c.Knowledge.Relationships, c.Knowledge.Organisations = files.VRPs, files.ASRel, files.ASOrg
	c.Watches = append(c.Watches, detect.Watch{Name: "video", Prefixes: []netip.Prefix{netip.MustParsePrefix("208.65.152.0/22")}, ASNs: []uint32{36561}})
	c.Detect.Hold, c.Detect.Report = 10*time.Second, 2*time.Second
	c.Store.Directory = filepath.Join(dir, "store")

	ctx, cancel := context.WithCancel(context.Background())
	d := &demo{dir: dir, end: cancel, done: make(chan error, 1)}
	go func() { d.done <- feed.Run(ctx) }()
	fmt.Fprintln(g.Stderr, "routevigil: demo: a small Internet of our own; the first incidents come within half a minute, all within two. Nothing is kept.")
	return d, nil
}

// stop ends the feed and removes what the demo wrote.
func (d *demo) stop() error {
	d.end()
	return errors.Join(<-d.done, os.RemoveAll(d.dir))
}
