package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/scorecard"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

func TestReal(t *testing.T) {
	ss, _ := scorecard.Events("../../../shared/data/incidents")
	for _, s := range ss {
		if !strings.Contains(" "+os.Getenv("EV")+" ", " "+s.Name+" ") {
			continue
		}
		c, err := s.Load()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("=== %s %s off %v vic %v %v\n", s.Name, c.Labels[0].Kind, c.Labels[0].Offenders, c.Labels[0].Victims, c.Labels[0].Prefixes)
		show := func(what string, us func(func(*ingest.Update, error) bool), max int) {
			seen := map[string]int{}
			var order []string
			for u := range us {
				for _, n := range u.Announced {
					var p []string
					for _, sg := range u.Attrs.ASPath {
						if sg.Type == bgp.ASSet {
							p = append(p, fmt.Sprint("{", sg.ASNs, "}"))
							continue
						}
						for _, a := range sg.ASNs {
							p = append(p, fmt.Sprint(a))
						}
					}
					if len(p) > 5 {
						p = p[len(p)-5:]
					}
					k := n.Prefix.String() + " " + strings.Join(p, " ")
					if seen[k] == 0 {
						order = append(order, k)
					}
					seen[k]++
				}
			}
			slices.SortStableFunc(order, func(a, b string) int { return seen[b] - seen[a] })
			for i, k := range order {
				if i < max {
					fmt.Printf("   %s %d x %s\n", what, seen[k], k)
				}
			}
			fmt.Println("   ", what, len(order), "in all")
		}
		show("rib", c.RIB, 14)
		show("upd", c.Updates, 16)
		p, err := scorecard.Play(c, detect.DefaultConfiguration())
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range p.Judgments {
			fmt.Printf("   J %v %s by %d of %v %.2f", j.Raised, j.Kind, j.Offender, j.Victims, j.Confidence())
			for _, e := range j.Evidence {
				fmt.Printf(" %s:%.1f", e.Rule, e.Weight)
			}
			fmt.Println()
		}
	}
}
