package main

import (
	"errors"
	"fmt"

	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/cmd/routevigil/service"
)

// ServeCmd runs the whole service in one process.
type ServeCmd struct {
	ConfigFlag
	Demo bool `help:"Play well-known incidents on a small Internet of our own instead of listening to the real one."`
}

func (c ServeCmd) Run(g *Globals) (err error) {
	cfg, err := c.Load()
	if err != nil {
		return err
	}
	mode := api.Live
	if c.Demo {
		demo, err := startDemo(g, &cfg)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, demo.stop()) }()
		mode = api.Demo
	}
	return serve(g, cfg, mode)
}

func serve(g *Globals, cfg config.Config, mode api.Mode) (err error) {
	s, err := service.New(cfg, mode, Version(), g.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	fmt.Fprintf(g.Stderr, "routevigil: dashboard and API on http://%s\n", s.Addr())
	return s.Run(g.Context)
}
