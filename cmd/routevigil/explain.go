package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// ExplainCmd prints the verdict upon one route with its whole ledger, also when nothing is wrong.
type ExplainCmd struct {
	KnowledgeFlags
	Prefix string `arg:"" help:"The prefix, such as 192.0.2.0/24."`
	Path   string `arg:"" name:"as-path" help:"The AS path in quotes, collector's side first: \"3333 1299 64500\"."`
	JSON   bool   `name:"json" help:"Print one JSON object."`
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
		e := json.NewEncoder(g.Stdout)
		e.SetEscapeHTML(false)
		err = e.Encode(x)
	} else {
		err = printExplanation(g, &x)
	}
	if err == nil && damaged > 0 {
		err = passedOver(damaged)
	}
	return err
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
