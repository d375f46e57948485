package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/routevigil/routevigil/cmd/routevigil/service"
	"github.com/routevigil/routevigil/detect/compare"
	"github.com/routevigil/routevigil/detect/incident"
)

// BacktestCmd judges stored history again and prints in what the incidents differ from those that were found then.
type BacktestCmd struct {
	ConfigFlag
	From      instant       `required:"" placeholder:"TIME" help:"Begin of the period, such as 2026-03-01T14:00Z."`
	To        instant       `required:"" placeholder:"TIME" help:"Its end, which is not part of it."`
	Knowledge string        `enum:"then,configured" default:"then" help:"Reference data to judge by: then, as the service kept them of the beginning of the period, or configured, as they are now (default ${default})."`
	RIB       []string      `name:"rib" sep:"none" placeholder:"FILE" help:"Table dump (MRT) of just before the period, to begin with in place of the detector's state; repeatable."`
	Warmup    time.Duration `default:"24h" placeholder:"DURATION" help:"How much of the history before the period to learn from where no state of the detector was kept (default ${default})."`
	JSON      bool          `name:"json" help:"Print one JSON object a line: each difference, then the summary."`
}

// Help says what kong shows below the flags.
func (BacktestCmd) Help() string {
	return `The sections detect, watches and knowledge of the configuration are tried on what the service has stored; store says where that is, and with
ClickHouse store.directory where what the service keeps beside it is (reference data and states of the detector of then), if at all. The service may be running; nothing of its data is changed. The detector begins with the last state that the service kept before the period (knowledge.past), or
learns from the updates before. What is found is compared with the incidents that are stored, each as it stood at the end of the period. What makes the
comparison unfair is said below the differences. This needs as much memory as the service itself, and room among the temporary files for the
history of the period.`
}

// Lines of the JSON output.
type (
	backtestDifference struct {
		Type string `json:"type"` // "difference"
		compare.Difference
	}
	backtestSummary struct {
		Type string `json:"type"` // "summary"
		*service.Backtest
		Added   int `json:"added"`
		Removed int `json:"removed"`
		Changed int `json:"changed"`
	}
)

func (c BacktestCmd) Run(g *Globals) error {
	switch {
	case !c.From.Before(c.To.Time):
		return &UsageError{errors.New("--from must be before --to")}
	case c.Warmup < 0:
		return &UsageError{fmt.Errorf("--warmup: must not be negative, is %v", c.Warmup)}
	}
	cfg, err := c.Load()
	if err != nil {
		return err
	}
	options := service.BacktestOptions{From: c.From.Time, To: c.To.Time, Warmup: c.Warmup, RIB: c.RIB, Configured: c.Knowledge == "configured"}
	if isTerminal(g.Stderr) {
		options.Progress = func(done time.Time) {
			fmt.Fprintf(g.Stderr, "\r\x1b[Kjudging: %s", done.UTC().Format("2006-01-02 15:04:05"))
		}
	}
	result, err := service.RunBacktest(g.Context, cfg, options, g.Log)
	if options.Progress != nil {
		fmt.Fprint(g.Stderr, "\r\x1b[K")
	}
	if err != nil {
		return fmt.Errorf("backtest: %w", err)
	}
	if c.JSON {
		return printBacktestJSON(g, result)
	}
	return printBacktest(g, result)
}

func countChanges(list []compare.Difference) map[compare.Change]int {
	n := map[compare.Change]int{}
	for i := range list {
		n[list[i].Change]++
	}
	return n
}

func printBacktestJSON(g *Globals, r *service.Backtest) error {
	e := json.NewEncoder(g.Stdout)
	e.SetEscapeHTML(false)
	for _, d := range r.Differences {
		if err := e.Encode(backtestDifference{"difference", d}); err != nil {
			return err
		}
	}
	n := countChanges(r.Differences)
	return e.Encode(backtestSummary{"summary", r, n[compare.Added], n[compare.Removed], n[compare.Changed]})
}

func printBacktest(g *Globals, r *service.Backtest) error {
	const layout = "2006-01-02 15:04:05 UTC"
	var out strings.Builder
	if len(r.Differences) > 0 {
		t := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "CHANGE\tSTARTED\tSEVERITY\tKIND\tID\tWHAT")
		for _, d := range r.Differences {
			x := cmp.Or(d.After, d.Before)
			what := x.Title
			if d.Change == compare.Changed {
				what = changesOf(&d)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Change, x.StartedAt.UTC().Format("2006-01-02 15:04:05"), x.Severity, x.Kind, idsOf(d.Before, d.After), what)
		}
		t.Flush()
		fmt.Fprintln(&out)
	}
	n := countChanges(r.Differences)
	fmt.Fprintf(&out, "%s to %s: %d added, %d removed, %d changed, %d the same (%d were stored, %d are found; %d routes judged)\n", r.From.Format(layout), r.To.Format(layout),
		n[compare.Added], n[compare.Removed], n[compare.Changed], r.Same, r.Stored, r.Found, r.Updates)
	switch {
	case len(r.RIB) > 0:
		fmt.Fprintf(&out, "  begun with the table of %s\n", strings.Join(r.RIB, ", "))
	case r.LearnedFrom.IsZero():
		fmt.Fprintf(&out, "  begun with the state of the detector of %s, %s before the period\n", r.Basis.DetectorState.UTC().Format(layout),
			time.Duration(r.Basis.DetectorAge*float64(time.Second)).Round(time.Second))
	default:
		fmt.Fprintf(&out, "  begun with nothing, and learned from the history since %s\n", r.LearnedFrom.Format(layout))
	}
	if !r.Basis.RPKISince.IsZero() {
		fmt.Fprintf(&out, "  RPKI: in use since %s\n", r.Basis.RPKISince.UTC().Format(layout))
	}
	for _, s := range r.Basis.Sources {
		fmt.Fprintf(&out, "  %s: %s, in use since %s\n", s.Name, s.Location, s.Since.UTC().Format(layout))
	}
	for _, gap := range r.Basis.Gaps {
		fmt.Fprintf(&out, "  note: %s\n", gap)
	}
	_, err := g.Stdout.Write([]byte(out.String()))
	return err
}

// idsOf is the id, or the old and the new one.
func idsOf(before, after *incident.Incident) string {
	if before != nil && after != nil && before.ID != after.ID {
		return before.ID + " > " + after.ID
	}
	return cmp.Or(before, after).ID
}

func changesOf(d *compare.Difference) string {
	var words []string
	for _, f := range d.Fields {
		words = append(words, fmt.Sprintf("%s: %s > %s", f.Name, cmp.Or(f.Before, "none"), cmp.Or(f.After, "none")))
	}
	return strings.Join(words, "; ")
}
