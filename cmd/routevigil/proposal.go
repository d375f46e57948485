package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/cmd/routevigil/service"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr/whois"
	"github.com/routevigil/routevigil/detect/propose"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// proposeWatches returns the section watches for the networks that are named, and tells on standard error where the
// sources disagree.
func (c ConfigInitCmd) proposeWatches(g *Globals) (string, error) {
	var asns []uint32
	for _, text := range c.ASNs {
		a, err := bgp.ParseASN(strings.TrimPrefix(strings.ToUpper(text), "AS"))
		if err != nil || a == 0 {
			return "", &UsageError{fmt.Errorf("--asn: %q is not an AS number such as AS64500", text)}
		}
		asns = append(asns, a)
	}
	cfg, k, err := c.load()
	if err != nil {
		return "", err
	}
	engine, err := c.table(g, cfg, k)
	if err != nil {
		return "", err
	}
	s := propose.Sources{VRPs: k.VRPs, IRR: k.IRR, Relationships: k.Relationships}
	look := func() {
		if engine == nil {
			return
		}
		var space []netip.Prefix
		for _, a := range asns {
			space = append(space, s.Space(a)...)
		}
		table := engine.Survey(asns, space)
		s.Table, s.Relationships = &table, engine.Relationships()
	}
	look()
	client := whois.Client{Address: c.Whois, Sources: c.WhoisSources}
	if client.Address == "" {
		client = whois.Client{Address: cfg.Knowledge.IRR.Whois, Sources: cfg.Knowledge.IRR.Sources}
	}
	if s.IRR == nil && client.Address != "" {
		var announced []netip.Prefix
		if s.Table != nil {
			for _, p := range s.Table.Prefixes {
				announced = append(announced, p.Prefix)
			}
		}
		if s.IRR, s.Sets, err = propose.Ask(g.Context, client, asns, announced); err != nil {
			return "", err
		}
		look() // what is registered may be announced by others
	}
	if s.VRPs == nil && s.IRR == nil && s.Table == nil {
		return "", &UsageError{errors.New("nothing is known of the networks: give --vrps, --irr or --whois, --rib, or the configuration of a service with -c")}
	}
	var ps []*propose.Proposal
	n := 0
	for _, a := range asns {
		p := s.For(a)
		ps = append(ps, p)
		for _, d := range p.Disagreements {
			n++
			fmt.Fprintln(g.Stderr, "routevigil:", d)
		}
	}
	fmt.Fprintf(g.Stderr, "routevigil: the sources disagree in %d places; look at what is commented out\n", n)
	return propose.YAML(ps), nil
}

// table returns an engine with the table dumps that are given and the history that a service has kept; nil where there
// is neither.
func (c ConfigInitCmd) table(g *Globals, cfg config.Config, k detect.Knowledge) (*detect.Engine, error) {
	k.Watches = nil // they are what is to be written
	engine := detect.New(cfg.Detect, k, func(incident.Event) {})
	known := false
	if c.Config != "" {
		data, err := os.ReadFile(filepath.Join(cfg.Store.Directory, service.HistoryName))
		if err == nil {
			err = engine.LoadHistory(data)
			known = true
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if len(cfg.Ingest.Baseline) > 0 {
		known = true
		err := loadBaseline(engine, cfg.Ingest.Baseline, 0, g, func(err error) { fmt.Fprintln(g.Stderr, "routevigil:", err) })
		if err != nil {
			return nil, err
		}
	}
	if !known {
		return nil, nil
	}
	engine.FinishBaseline()
	return engine, nil
}
