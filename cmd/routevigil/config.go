package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
)

// ConfigFlag is the -c flag of the commands that run with a configuration.
type ConfigFlag struct {
	Config string `short:"c" placeholder:"FILE" help:"Configuration file; without it everything is at its default."`
}

// Load reads the file, or returns the defaults when there is none. Its errors are [UsageError]s.
func (f ConfigFlag) Load() (config.Config, error) {
	if f.Config == "" {
		return config.Default(), nil
	}
	c, err := config.Load(f.Config)
	if err != nil {
		return c, &UsageError{err}
	}
	return c, nil
}

// ConfigCmd groups what can be done with a configuration file.
type ConfigCmd struct {
	Init  ConfigInitCmd  `cmd:"" help:"Write a commented file to start from."`
	Check ConfigCheckCmd `cmd:"" help:"Report everything that is wrong with a file."`
	Dump  ConfigDumpCmd  `cmd:"" help:"Print the configuration in effect: defaults merged, secrets masked."`
	Docs  ConfigDocsCmd  `cmd:"" help:"Print the reference of all settings as Markdown."`
}

// ConfigInitCmd writes the sample configuration, with watches where networks are named.
type ConfigInitCmd struct {
	KnowledgeFlags
	File         string   `arg:"" optional:"" default:"routevigil.yaml" help:"What to write (default ${default}); with --asn, - writes the watches alone to standard output."`
	Force        bool     `help:"Overwrite an existing file."`
	ASNs         []string `name:"asn" placeholder:"AS64500" help:"A network to be watched: what is known of it becomes a watch; repeatable."`
	Whois        string   `placeholder:"HOST:PORT" help:"IRRd server to ask where no registry is given."`
	WhoisSources []string `placeholder:"NAME" help:"Registries to ask there, the best first (default: those of the server)."`
}

// Help says what kong shows below the flags.
func (ConfigInitCmd) Help() string {
	return `With --asn a watch is written for each network, from what --vrps, --irr or --whois, --as-rel and --rib say of it, or the configuration that -c names
and the history that its service has kept. What is proven, or what two sources say, becomes part of the watch; the rest stands beside it as a comment, and
so does what each source says of each entry. Where they disagree is told on standard error as well.`
}

func (c ConfigInitCmd) Run(g *Globals) error {
	content := config.Sample
	if len(c.ASNs) > 0 {
		watches, err := c.proposeWatches(g)
		if err != nil {
			return err
		}
		if c.File == "-" {
			_, err := g.Stdout.Write([]byte(watches))
			return err
		}
		content = slices.Concat(content, []byte("\n"), []byte(watches))
	}
	mode := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if c.Force {
		mode = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(c.File, mode, 0o600) // secrets may be written into it
	if errors.Is(err, fs.ErrExist) {
		return &UsageError{fmt.Errorf("%s exists already; --force overwrites it", c.File)}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(g.Stdout, "wrote %s\n", c.File)
	return err
}

// ConfigCheckCmd validates a file.
type ConfigCheckCmd struct {
	File string `arg:"" optional:"" default:"routevigil.yaml" help:"What to check (default ${default})."`
}

func (c ConfigCheckCmd) Run(g *Globals) error {
	if _, err := config.Load(c.File); err != nil {
		return &UsageError{err}
	}
	_, err := fmt.Fprintf(g.Stdout, "%s: OK\n", c.File)
	return err
}

// ConfigDumpCmd prints the effective configuration.
type ConfigDumpCmd struct {
	ConfigFlag
}

func (c ConfigDumpCmd) Run(g *Globals) error {
	effective, err := c.Load()
	if err != nil {
		return err
	}
	return config.Dump(g.Stdout, effective)
}

// ConfigDocsCmd prints the generated reference.
type ConfigDocsCmd struct{}

func (ConfigDocsCmd) Run(g *Globals) error { return config.Reference(g.Stdout) }
