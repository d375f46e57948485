// Command routevigil watches the Internet's routing for hijacks, leaks and misconfigurations.
//
// This package only wires: each subcommand is one file that reads its flags, builds the components it
// needs from their configurations, and runs them until they are done or a signal ends them.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// commands is the command line. A subcommand is a type with a method Run(*Globals) error.
type commands struct {
	Globals

	Serve    ServeCmd    `cmd:"" help:"Run the whole service in one process, with the dashboard on http://localhost:8480."`
	Replay   ReplayCmd   `cmd:"" help:"Run detection over MRT or RIS Live files and print the incidents."`
	Backtest BacktestCmd `cmd:"" help:"Judge stored history again by changed rules, watches or knowledge, and print in what the incidents differ."`
	Explain  ExplainCmd  `cmd:"" help:"Print the verdict upon one route with its whole ledger, also when nothing is wrong."`
	Export   ExportCmd   `cmd:"" help:"Write stored history, incidents and gaps of a period into files."`
	Import   ImportCmd   `cmd:"" help:"Take what export wrote into a store, embedded or ClickHouse."`
	Fetch    FetchCmd    `cmd:"" help:"Download files of RIPE RIS' and RouteViews' archives by collector and time."`
	Dump     DumpCmd     `cmd:"" help:"Decode MRT files, BMP, and captures of BMP."`
	Collect  CollectCmd  `cmd:"" help:"Listen to the feeds and write what they say to Kafka; one of the parts of a service of several processes."`
	Detect   DetectCmd   `cmd:"" help:"Read updates from Kafka and find incidents, or stand by to take over."`
	Record   RecordCmd   `cmd:"" help:"Store updates and incidents from Kafka, send alerts, and serve the dashboard and the API."`
	Notify   NotifyCmd   `cmd:"" help:"Send alerts, where recorders do not; any number, of which one sends."`
	API      APICmd      `cmd:"" name:"api" help:"Serve the dashboard and the API from what is stored in ClickHouse."`
	Kafka    KafkaCmd    `cmd:"" help:"Make the topics through which collect, detect and record meet."`
	Config   ConfigCmd   `cmd:"" help:"Write, check, print or document the configuration."`
	Health   HealthCmd   `cmd:"" help:"Ask a running service whether it is alive; exit status 1 if not."`
	Version  VersionCmd  `cmd:"" help:"Print the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal then has its default effect: exit at once
	status := run(ctx, os.Args[1:])
	stop()
	os.Exit(status)
}

// run returns the exit status: 0 done, 1 failed while running, 2 wrong usage or configuration.
func run(ctx context.Context, args []string) int {
	commands := commands{Globals: Globals{Context: ctx, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}}
	command, err := newParser(&commands).Parse(args)
	if err != nil {
		err = &UsageError{fmt.Errorf("%w (see routevigil --help)", err)}
	} else {
		commands.Log = newLogger(os.Stderr, commands.LogLevel)
		err = command.Run(&commands.Globals)
	}
	if err == nil {
		return 0
	}
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(os.Stderr, "routevigil:", strings.TrimSuffix(line, "\n"))
	}
	return exitStatus(err)
}

func newParser(c *commands) *kong.Kong {
	return kong.Must(c, kong.Name("routevigil"),
		kong.Description("Watches BGP for route hijacks, leaks and misconfigurations."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
}
