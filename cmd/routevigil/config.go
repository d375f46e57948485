package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

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

// ConfigInitCmd writes the sample configuration.
type ConfigInitCmd struct {
	File  string `arg:"" optional:"" default:"routevigil.yaml" help:"What to write (default ${default})."`
	Force bool   `help:"Overwrite an existing file."`
}

func (c ConfigInitCmd) Run(g *Globals) error {
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
	_, err = f.Write(config.Sample)
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
