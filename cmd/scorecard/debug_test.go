package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/scorecard"
	"github.com/routevigil/routevigil/detect/simulate"
)

func TestDebug(t *testing.T) {
	from, _ := strconv.Atoi(os.Getenv("FROM"))
	to, _ := strconv.Atoi(os.Getenv("TO"))
	ases, _ := strconv.Atoi(os.Getenv("ASES"))
	tot := map[string][4]int{}
	for seed := from; seed < to; seed++ {
		c := simulate.DefaultConfiguration()
		c.Seed = uint64(seed)
		if ases != 0 {
			c.ASes = ases
		}
		c.Inferred = os.Getenv("INFERRED") != ""
		c.Duration /= 2
		c.Churn = 0.5
		c.Events = map[string]int{}
		for k, n := range map[string]int{"forged_path": 8, "forged_path_2": 8, "forged_path_subprefix": 8, "new_upstream": 8, "scrubbing": 5, "link_failure": 8, "anycast": 4, "handover": 3, "new_specific": 5, "multi_origin": 3, "route_leak_1": 3, "route_leak_2": 3, "route_leak_3": 3, "route_leak_4": 3, "session_reset":1,"origin_hijack":3} {
			if slices.Contains(simulate.Kinds(), k) {
				c.Events[k] = n
			}
		}
		if os.Getenv("EACH") != "" {
			c.Events = simulate.Each(6)
		}
		k, err := simulate.Case(c)
		if err != nil {
			t.Fatal(err)
		}
		p, err := scorecard.Play(k, detect.DefaultConfiguration())
		if err != nil {
			t.Fatal(err)
		}
		r := scorecard.Score(p)
		short := func(ev []incident.Evidence) string {
			var b strings.Builder
			for _, e := range ev {
				fmt.Fprintf(&b, " %s:%.1f", e.Rule, e.Weight)
			}
			return b.String()
		}
		for _, l := range r.Labels {
			if l.Benign == "" {
				n := tot[string(l.Kind)]
				n[0]++
				if l.Found {
					n[1]++
				}
				if l.RightKind {
					n[2]++
				}
				tot[string(l.Kind)] = n
			}
			if l.Found || l.Benign != "" {
				continue
			}
			fmt.Printf("MISS seed %d %s by %v prefixes %d cust %d\n", seed, l.Kind, l.Offenders, len(l.Prefixes), k.Knowledge.Relationships.Customers(l.Offenders[0]))
			for _, j := range p.Judgments {
				if slices.Contains(l.Offenders, j.Offender) && j.Times[0] >= l.Start && j.Times[0] <= l.End.Add(scorecard.Grace) {
					fmt.Printf("    %s %d %.2f %s\n", j.Kind, j.Offender, j.Confidence(), short(j.Evidence))
				}
			}
		}
		for _, a := range r.Alarms {
			if a.False {
				fmt.Printf("FALSE seed %d %s %s %.2f (%s) by %v %s\n", seed, a.Kind, a.PeakSeverity, a.Confidence, a.Benign, a.Title, short(a.Evidence))
				n := tot["F "+a.Benign]
				n[0]++
				tot["F "+a.Benign] = n
			}
		}
		for _, l := range r.Labels {
			if l.Benign != "" {
				n := tot["benign "+l.Benign]
				n[0]++
				tot["benign "+l.Benign] = n
			}
		}
	}
	var ks []string
	for k := range tot {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	for _, k := range ks {
		fmt.Println("TOTAL", k, tot[k])
	}
}
