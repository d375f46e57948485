package main

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/routevigil/routevigil/ingest/archive/fetch"
)

// FetchCmd gets files of the public archives.
type FetchCmd struct {
	ConfigFlag
	PeriodFlags
	RIB     bool `name:"rib" help:"Only the last table dump at or before --from, unless --updates is given as well."`
	Updates bool `help:"Only the updates from --from to --to, unless --rib is given as well."`
	List    bool `help:"Only print what belongs to it, one address a line; fetch nothing."`
}

// Help says what kong shows below the flags.
func (FetchCmd) Help() string {
	return `Prints the path of each file, of each collector the table dump first, then the updates by time. Files that are there already are
not fetched again, and one that was cut off is continued. Without --rib and --updates it is what "replay" needs for the same period: the last
table dump at or before --from, and the updates since then. Where the archives are, and how much may be fetched, is set in section archive
of the configuration.`
}

// PeriodFlags say of which collectors and of what time files are wanted.
type PeriodFlags struct {
	Collector []string `sep:"," placeholder:"NAME" help:"Collector of RIPE RIS or RouteViews, such as rrc00 or route-views2; repeatable."`
	From      instant  `placeholder:"TIME" help:"Beginning of the period: 2024-01-01T00:00Z, or 2024-01-01 for its first instant in UTC."`
	To        instant  `placeholder:"TIME" help:"End of the period, which is no part of it."`
	Dir       string   `placeholder:"DIR" help:"Folder to keep files in, each at PROJECT/COLLECTOR/YYYY.MM/FILE (default: archive.directory, or routevigil/archive in the user's cache folder)."`
}

// instant is a time on the command line.
type instant struct{ time.Time }

func (i *instant) UnmarshalText(text []byte) (err error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00", time.DateOnly} {
		if i.Time, err = time.Parse(layout, string(text)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%q is not a time such as 2024-01-01T00:00Z or 2024-01-01", text)
}

// request makes a request of the flags.
func (f PeriodFlags) request(rib, updates bool) (fetch.Request, error) {
	r := fetch.Request{Collectors: f.Collector, From: f.From.Time, To: f.To.Time, RIB: rib, Updates: updates}
	switch {
	case len(f.Collector) == 0:
		return r, &UsageError{errors.New("--collector is missing, such as --collector rrc00")}
	case f.From.IsZero() || f.To.IsZero():
		return r, &UsageError{errors.New("--from and --to are both needed, such as --from 2024-01-01T00:00Z --to 2024-01-01T02:00Z")}
	}
	if err := r.Validate(); err != nil {
		return r, &UsageError{err}
	}
	return r, nil
}

// client makes a client for the flags. Its progress is told by showProgress on a terminal and by log
// lines otherwise.
func (f PeriodFlags) client(g *Globals, c fetch.Configuration) (*fetch.Client, error) {
	if f.Dir != "" {
		c.Directory = f.Dir
	}
	log := g.Log
	if isTerminal(g.Stderr) {
		log = newLogger(g.Stderr, max(g.LogLevel, slog.LevelWarn))
	}
	client, err := fetch.New(c, "routevigil/"+Version(), log)
	if err != nil {
		return nil, &UsageError{err}
	}
	return client, nil
}

// fetchFiles brings the files of a request to this machine. It returns those that are there also
// when there is an error.
func fetchFiles(g *Globals, client *fetch.Client, r fetch.Request) ([]fetch.File, error) {
	stop := showProgress(g.Stderr, "fetching", client.Progress)
	defer stop()
	files, err := client.Fetch(g.Context, r)
	if g.Context.Err() != nil {
		err = errors.New("interrupted; the same command goes on from here")
	}
	return files, err
}

// Run fetches, and prints what is there then also when something failed.
func (c FetchCmd) Run(g *Globals) error {
	r, err := c.request(c.RIB || !c.Updates, c.Updates || !c.RIB)
	if err != nil {
		return err
	}
	cfg, err := c.Load()
	if err != nil {
		return err
	}
	client, err := c.client(g, cfg.Archive)
	if err != nil {
		return err
	}
	defer client.Close()
	if c.List {
		files, err := client.Plan(g.Context, r)
		if g.Context.Err() != nil {
			err = errors.New("interrupted")
		}
		for _, f := range files {
			if _, err := fmt.Fprintln(g.Stdout, f.URL); err != nil {
				return err
			}
		}
		return err
	}
	files, err := fetchFiles(g, client, r)
	for _, f := range files {
		if _, err := fmt.Fprintln(g.Stdout, f.Path); err != nil {
			return err
		}
	}
	return err
}
