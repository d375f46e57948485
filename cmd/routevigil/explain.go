package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/routevigil/routevigil/cmd/routevigil/service"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// ExplainCmd prints the verdict upon one route with its whole ledger, also when nothing is wrong.
type ExplainCmd struct {
	KnowledgeFlags
	Prefix string  `arg:"" help:"The prefix, such as 192.0.2.0/24."`
	Path   string  `arg:"" name:"as-path" help:"The AS path in quotes, collector's side first: \"3333 1299 64500\"."`
	At     instant `name:"at" placeholder:"TIME" help:"As the service would have answered then, from what it has kept in its store: 2024-01-01T00:00Z. -c names its configuration; the service may be running."`
	JSON   bool    `name:"json" help:"Print one JSON object."`
}

// Help says what kong shows below the flags.
func (ExplainCmd) Help() string {
	return `Without --at, a route is compared with the files that are given. With --at, it is compared with what the service of this configuration had
in use at that time: what the RPKI said, the copies that it keeps of everything else (section knowledge.past of the configuration), and the
last state of the detector from before that time, whose age is told. What was not kept is left out, and said. This needs as much memory as
the service itself.`
}

// explanationAt is the verdict of a moment of the past.
type explanationAt struct {
	detect.Explanation
	Basis service.Basis `json:"basis"`
}

func (c ExplainCmd) Run(g *Globals) error {
	prefix, err := netip.ParsePrefix(c.Prefix)
	if err != nil {
		return &UsageError{fmt.Errorf("%q is not a prefix such as 192.0.2.0/24 or 2001:db8::/32", c.Prefix)}
	}
	path, err := bgp.ParseASPath(c.Path)
	if err != nil {
		return &UsageError{err}
	}
	if !c.At.IsZero() {
		return c.past(g, prefix, path)
	}
	cfg, knowledge, err := c.load()
	if err != nil {
		return err
	}
	var damaged int
	engine := detect.New(cfg.Detect, knowledge, func(incident.Event) {})
	err = loadBaseline(engine, cfg.Ingest.Baseline, 0, g, func(err error) {
		damaged++
		fmt.Fprintln(g.Stderr, "routevigil:", err)
	})
	if err != nil {
		return err
	}
	engine.FinishBaseline()
	x := engine.Explain(prefix, path)
	if c.JSON {
		err = printJSON(g, x)
	} else {
		err = printExplanation(g, &x)
	}
	if err == nil && damaged > 0 {
		err = passedOver(damaged)
	}
	return err
}

// past answers for c.At.
func (c ExplainCmd) past(g *Globals, prefix netip.Prefix, path bgp.ASPath) error {
	if c.KnowledgeFlags.given() {
		return &UsageError{errors.New("--at takes everything from what the service has kept: leave out --rib, --vrps, --slurm, --as-rel, --as-org and --irr")}
	}
	if c.At.After(time.Now()) {
		return &UsageError{fmt.Errorf("--at: %s is in the future", c.At.UTC().Format(time.RFC3339))}
	}
	cfg, err := c.Load()
	if err != nil {
		return err
	}
	engine, basis, err := service.EngineAt(cfg.Store.Directory, c.At.Time)
	if err != nil {
		return fmt.Errorf("what the service in %s knew at %s: %w", cfg.Store.Directory, c.At.UTC().Format(time.RFC3339), err)
	}
	x := explanationAt{engine.Explain(prefix, path), basis}
	if basis.DetectorState.IsZero() {
		x.Explanation.Explanation = "There is no verdict: which routes there were, and what was usual, is not known of that time."
	}
	if c.JSON {
		return printJSON(g, x)
	}
	if err := printExplanation(g, &x.Explanation); err != nil {
		return err
	}
	return printBasis(g, &basis)
}

func printBasis(g *Globals, b *service.Basis) error {
	const layout = "2006-01-02 15:04:05 UTC"
	var out strings.Builder
	fmt.Fprintf(&out, "as of %s\n", b.At.Format(layout))
	if !b.RPKISince.IsZero() {
		fmt.Fprintf(&out, "  RPKI: in use since %s\n", b.RPKISince.Format(layout))
	}
	if !b.DetectorState.IsZero() {
		fmt.Fprintf(&out, "  routes and history: of %s, %s before\n", b.DetectorState.Format(layout), time.Duration(b.DetectorAge*float64(time.Second)).Round(time.Second))
	}
	for _, s := range b.Sources {
		if s.Missing == "" {
			fmt.Fprintf(&out, "  %s: %s, in use since %s\n", s.Name, s.Location, s.Since.Format(layout))
		}
	}
	for _, gap := range b.Gaps {
		fmt.Fprintf(&out, "  not known: %s\n", gap)
	}
	_, err := io.WriteString(g.Stdout, out.String())
	return err
}

func printJSON(g *Globals, x any) error {
	e := json.NewEncoder(g.Stdout)
	e.SetEscapeHTML(false)
	return e.Encode(x)
}

func irrLine(x *detect.IRR) string {
	if len(x.Routes) == 0 {
		return x.State
	}
	r := x.Routes[0]
	line := fmt.Sprintf("%s (%s by AS%d in %s", x.State, r.Prefix, r.Origin, r.Source)
	if n := len(x.Routes) - 1; n > 0 {
		line += fmt.Sprintf(" and %d more", n)
	}
	return line + ")"
}

func printExplanation(g *Globals, x *detect.Explanation) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s by %s\n", x.Prefix, strings.Trim(fmt.Sprint(x.ASPath), "[]"))
	fmt.Fprintf(&b, "  RPKI: %s (%s)\n", x.ROV.State, x.ROV.Reason)
	fmt.Fprintf(&b, "  ASPA: %s as from a customer or peer, %s as from a provider\n", x.ASPA.Upstream, x.ASPA.Downstream)
	if x.Registry.Special != "" {
		fmt.Fprintf(&b, "  special purpose: %s\n", x.Registry.Special)
	}
	if x.Registry.Prefix != nil {
		fmt.Fprintf(&b, "  registered: the prefix %s\n", x.Registry.Prefix)
	}
	if x.Registry.Origin != nil {
		fmt.Fprintf(&b, "  registered: the origin %s\n", x.Registry.Origin)
	}
	fmt.Fprintf(&b, "  IRR: %s\n", irrLine(&x.IRR))
	fmt.Fprintf(&b, "  usual origins: %v, covered by: %v\n", x.History.UsualOrigins, x.History.Covering)
	for _, k := range x.History.Origins {
		fmt.Fprintf(&b, "  history: %s\n", k)
	}
	for _, l := range x.Relationships {
		fmt.Fprintf(&b, "  link: %s\n", l)
	}
	if x.Leak != nil {
		how := "by ASPA"
		if x.Leak.RFC7908Type != 0 {
			how = fmt.Sprintf("RFC 7908 type %d", x.Leak.RFC7908Type)
		}
		fmt.Fprintf(&b, "  valley: AS%d had it from AS%d and gave it to AS%d (%s)\n", x.Leak.Leaker, x.Leak.From, x.Leak.To, how)
	}
	if len(x.Watches) > 0 {
		fmt.Fprintf(&b, "  watches: %s\n", strings.Join(x.Watches, ", "))
	}
	fmt.Fprintf(&b, "%s\n", x.Explanation)
	_, err := g.Stdout.Write([]byte(b.String()))
	return err
}
