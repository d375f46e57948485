package main

import (
	"fmt"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/cmd/routevigil/service"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/archive"
)

// KnowledgeFlags name what a route is compared with, for the commands that judge without a service.
// They override the configuration file.
type KnowledgeFlags struct {
	ConfigFlag
	RIB   []string `name:"rib" sep:"none" placeholder:"FILE" help:"MRT table dump with the state before the first update; repeatable. Without one, the first minutes of updates are learned as normal."`
	VRPs  string   `name:"vrps" placeholder:"FILE" help:"VRPs and ASPAs as JSON of rpki-client, Routinator or StayRTR."`
	SLURM []string `name:"slurm" sep:"none" placeholder:"FILE" help:"Local exceptions to the VRPs (RFC 8416, also version 2 with ASPAs); repeatable."`
	ASRel string   `name:"as-rel" placeholder:"FILE" help:"AS relationships in CAIDA's serial-1 or serial-2 form; without it they are inferred from the table dump, and without one only ASPAs tell of leaks."`
	ASOrg string   `name:"as-org" placeholder:"FILE" help:"Which ASes are one organisation, in CAIDA's as2org form."`
	IRR   []string `name:"irr" sep:"none" placeholder:"FILE" help:"Dump of a routing registry in RPSL, plain or gzip; repeatable."`
}

// given reports whether there is any of the flags but -c.
func (f KnowledgeFlags) given() bool {
	return len(f.RIB)+len(f.SLURM)+len(f.IRR) > 0 || f.VRPs+f.ASRel+f.ASOrg != ""
}

// load merges the flags with the configuration file and reads the knowledge files.
func (f KnowledgeFlags) load() (config.Config, detect.Knowledge, error) {
	c, err := f.Load()
	if err != nil {
		return c, detect.Knowledge{}, err
	}
	for _, o := range []struct {
		flag string
		to   *string
	}{{f.VRPs, &c.Knowledge.VRPs}, {f.ASRel, &c.Knowledge.Relationships}, {f.ASOrg, &c.Knowledge.Organisations}} {
		if o.flag != "" {
			*o.to = o.flag
		}
	}
	if len(f.SLURM) > 0 {
		c.Knowledge.SLURM = f.SLURM
	}
	if len(f.IRR) > 0 {
		c.Knowledge.IRR.Files = f.IRR
	}
	if len(f.RIB) > 0 {
		c.Ingest.Baseline = f.RIB
	}
	k, err := c.Knowledge.Load()
	if err != nil {
		return c, k, &UsageError{err}
	}
	k.Watches = c.Watches
	return c, k, nil
}

// loadBaseline brings table dumps, and where until is not 0 also updates before then, into the
// engine. report is called for what is passed over.
func loadBaseline(e *detect.Engine, files []string, until ingest.Time, g *Globals, report func(error)) error {
	if len(files) == 0 {
		return nil
	}
	r, err := archive.Open(files, archive.Options{Report: report, Stdin: g.Stdin})
	if err != nil {
		return &UsageError{fmt.Errorf("--rib: %w", err)}
	}
	defer r.Close()
	stop := showProgress(g.Stderr, "loading the table", r.Progress)
	err = service.LoadBaseline(e, r, until)
	stop()
	if err != nil {
		return fmt.Errorf("--rib: %w", err)
	}
	if !e.Infers() {
		return nil
	}
	if isTerminal(g.Stderr) {
		fmt.Fprintln(g.Stderr, "routevigil: no AS relationships are given (--as-rel): inferring them from the table")
	}
	_, err = service.InferRelationships(g.Context, e)
	return err
}
