package detect

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/scenario"
)

// outcome is what a scenario led to.
type outcome struct {
	events    []incident.Event
	incidents []incident.Incident
}

// delegationsOf takes the way that the RIRs' statistics take.
func delegationsOf(sc *scenario.Scenario) *registry.Set {
	var b bytes.Buffer
	err := sc.WriteDelegated(&b)
	set, readErr := registry.Read(&b, sc.Name)
	if err = errors.Join(err, readErr); err != nil {
		panic(err) // the scenario was parsed, and is written as its reader has it
	}
	return set
}

// knowledgeOf is what a scenario says was known beforehand.
func knowledgeOf(sc *scenario.Scenario) Knowledge {
	k := Knowledge{Organisations: topology.NewOrganisations(sc.Name)}
	rels := topology.NewBuilder(topology.Published, sc.Name)
	for _, r := range sc.Rels() {
		rel := topology.Provider
		if r.Peer {
			rel = topology.Peer
		}
		rels.Set(r.A, r.B, rel)
	}
	k.Relationships = rels.Build()
	var vrps []rpki.VRP
	for _, v := range sc.VRPs() {
		vrps = append(vrps, rpki.VRP{Prefix: v.Prefix, MaxLength: uint8(v.MaxLength), ASN: v.ASN})
	}
	k.VRPs = rpki.NewSet(rpki.Data{VRPs: vrps}, sc.Name)
	names := map[uint32]string{}
	for i, org := range sc.Orgs() {
		name := fmt.Sprintf("organisation %d", i+1)
		for _, asn := range org {
			if known, ok := names[asn]; ok {
				name = known // lines that share an AS speak of one organisation
			}
		}
		for _, asn := range org {
			names[asn] = name
			k.Organisations.Set(asn, name)
		}
	}
	if len(sc.Delegations()) > 0 {
		k.Delegations = delegationsOf(sc)
	}
	return k
}

func play(sc *scenario.Scenario, c Configuration) outcome { return playKnowing(sc, c, knowledgeOf(sc)) }

func playKnowing(sc *scenario.Scenario, c Configuration, k Knowledge) outcome {
	var o outcome
	e := New(c, k, func(ev incident.Event) { o.events = append(o.events, ev) })
	for _, u := range sc.RIB() {
		e.Apply(&u)
	}
	e.FinishBaseline()
	for _, u := range sc.Updates() {
		e.Apply(&u)
	}
	e.Advance(ingest.TimeOf(sc.Start.Add(sc.Duration())))
	e.Finish()
	o.incidents = e.Incidents()
	return o
}

// misses lists what a scenario expects and the outcome lacks, or has though it must not.
func misses(sc *scenario.Scenario, o outcome) []string {
	var missed []string
	for _, x := range sc.Expect {
		found := slices.ContainsFunc(o.incidents, func(inc incident.Incident) bool { return meets(sc, x, &inc) })
		if found == x.None {
			missed = append(missed, fmt.Sprintf("%s:%d: %s", sc.Name, x.Line, x.Text))
		}
	}
	return missed
}

func meets(sc *scenario.Scenario, x scenario.Expect, inc *incident.Incident) bool {
	if len(x.Kinds) > 0 && !slices.Contains(x.Kinds, string(inc.Kind)) {
		return false
	}
	names := func(have, want []uint32) bool {
		return !slices.ContainsFunc(want, func(a uint32) bool { return !slices.Contains(have, a) })
	}
	if !names(inc.Offenders, x.Offenders) || !names(inc.Accomplices, x.Accomplices) || !names(inc.Victims, x.Victims) {
		return false
	}
	for _, p := range x.Prefixes {
		if !slices.ContainsFunc(inc.Prefixes, func(ip incident.Prefix) bool {
			return ip.Prefix == p && (x.RPKI == "" || ip.RPKI == x.RPKI)
		}) {
			return false
		}
	}
	rank := func(s string) int { return incident.Severity(s).Rank() }
	switch {
	case x.By != 0 && inc.DetectedAt.After(sc.Start.Add(x.By)),
		x.Status != "" && string(inc.Status) != x.Status,
		x.SeverityMin != "" && inc.Severity.Rank() < rank(x.SeverityMin),
		x.SeverityMax != "" && inc.Severity.Rank() > rank(x.SeverityMax),
		x.RFC7908Type != 0 && (inc.RFC7908Type == nil || *inc.RFC7908Type != x.RFC7908Type):
		return false
	}
	return true
}

// scenarioConfiguration has a short hold, as the scenarios are short.
func scenarioConfiguration() Configuration {
	c := DefaultConfiguration()
	c.Hold = 10 * time.Second
	c.Report = time.Second
	c.Absence = 30 * time.Second
	return c
}

func TestScenarios(t *testing.T) {
	for _, sc := range allScenarios(t) {
		t.Run(sc.Name, func(t *testing.T) {
			if len(sc.Expect) == 0 {
				t.Fatal("expects nothing")
			}
			c := scenarioConfiguration()
			one := play(sc, c)
			for _, m := range misses(sc, one) {
				t.Errorf("not met: %s", m)
			}
			if t.Failed() {
				for _, inc := range one.incidents {
					t.Logf("found: %s %s conf %.3f %s %v\n%s", inc.Kind, inc.Severity, inc.Confidence, inc.Status, inc.DetectedAt, inc.Explanation)
				}
			}
			for _, shards := range []int{2, 8} {
				c.Shards = shards
				if diff := cmp.Diff(one.events, play(sc, c).events, cmpTime, cmpPrefix); diff != "" {
					t.Errorf("%d shards differ from one (-one +%d):\n%s", shards, shards, diff)
				}
			}
		})
	}
}

var cmpPrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// TestDemoIsBelievable plays what the demo plays, churn included, for some minutes: all its
// incidents must be found in two, and nothing else, whatever the seed of the churn.
func TestDemoIsBelievable(t *testing.T) {
	demo, err := scenario.Demo()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for seed := range uint64(8) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			w := scenario.World()
			var o outcome
			e := New(scenarioConfiguration(), knowledgeOf(w), func(ev incident.Event) { o.events = append(o.events, ev) })
			for _, u := range w.RIB() {
				e.Apply(&u)
			}
			e.FinishBaseline()
			twoMinutes := ingest.TimeOf(begin.Add(2 * time.Minute))
			for u := range scenario.Play(begin, seed, time.Hour, demo...) {
				if u.Time > twoMinutes && o.incidents == nil {
					e.Advance(twoMinutes)
					o.incidents = e.Incidents()
				}
				if u.Time > ingest.TimeOf(begin.Add(20*time.Minute)) {
					break
				}
				e.Apply(u)
			}
			for _, sc := range demo {
				sc := *sc
				sc.Start = begin
				for _, m := range misses(&sc, o) {
					t.Errorf("after two minutes, not met: %s", m)
				}
			}
			for _, inc := range e.Incidents() {
				if !slices.ContainsFunc(demo, func(sc *scenario.Scenario) bool {
					at := *sc
					at.Start = begin
					return slices.ContainsFunc(at.Expect, func(x scenario.Expect) bool { return !x.None && meets(&at, x, &inc) })
				}) {
					t.Errorf("nobody expects: %s, %s, %.2f: %s", inc.Kind, inc.Severity, inc.Confidence, inc.Explanation)
				}
			}
		})
	}
}
