// Scorecard measures how right the detector is, over all cases whose truth is known and whose data are there. It is a tool for
// those who work on routevigil and no part of what is shipped: run it by "make scorecard".
//
// It exits with status 1 when something that the detector is meant to reach is not reached.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/routevigil/routevigil/detect/scorecard"
	"github.com/routevigil/routevigil/detect/simulate"
	"github.com/routevigil/routevigil/detect/topology"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "scorecard:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("scorecard", flag.ContinueOnError)
	flags.SetOutput(stderr)
	data := flags.String("data", "../shared/data", "folder of the real data; without it only what is in this repository is played")
	fit := flags.Bool("fit", false, "instead of a scorecard, print what the weights of the rules (the table in detect/judge.go) ought to be; nothing is changed")
	worlds := flags.Uint64("worlds", 4, "how many worlds to simulate, half of them for tuning; where there are real data, half as many more over published relationships")
	asJSON := flags.Bool("json", false, "write JSON")
	if err := flags.Parse(args); err != nil {
		return err
	}
	sources, err := scorecard.All(*data)
	if err != nil {
		return err
	}
	published, err := relationships(*data)
	if err != nil {
		return err
	}
	sources = append(sources, simulated("simulated", *worlds, nil)...)
	if published != nil {
		sources = append(sources, simulated("published", *worlds/2, published)...)
	}
	results, err := play(sources)
	if err != nil {
		return err
	}
	if *fit {
		f := scorecard.FitWeights(results)
		return f.Write(stdout)
	}
	card := scorecard.Tally(results)
	if *asJSON {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		err = e.Encode(card)
	} else {
		err = card.Write(stdout)
	}
	if err != nil {
		return err
	}
	if missed := card.Missed(); len(missed) > 0 {
		return fmt.Errorf("%d of %d figures are not reached", len(missed), len(card.Thresholds))
	}
	return nil
}

// relationships reads the real ones; nil where they are not there.
func relationships(data string) (*topology.Relationships, error) {
	file := filepath.Join(data, "topology", "as-rel.20180601.txt.gz")
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return topology.ReadFile(file, file)
}

// simulated are worlds made up by package simulate, half of them for tuning and half for judging. Their networks stand to each
// other as rels says; nil: as is made up too.
func simulated(name string, worlds uint64, rels *topology.Relationships) []scorecard.Source {
	var sources []scorecard.Source
	for seed := range worlds {
		c := simulate.DefaultConfiguration()
		c.Seed, c.Relationships = seed, rels
		sources = append(sources, scorecard.Source{Group: scorecard.Simulated, Name: fmt.Sprintf("%s-%d", name, seed), Judging: seed%2 == 1,
			Load: func() (*scorecard.Case, error) { return simulate.Case(c) }})
	}
	return sources
}

// play runs all cases, several at once.
func play(sources []scorecard.Source) ([]scorecard.Result, error) {
	results, errs := make([]scorecard.Result, len(sources)), make([]error, len(sources))
	next := make(chan int)
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for i := range next {
				results[i], errs[i] = sources[i].Run()
			}
		})
	}
	for i := range sources {
		next <- i
	}
	close(next)
	workers.Wait()
	return results, errors.Join(errs...)
}
