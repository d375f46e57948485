package scorecard

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/scenario"
)

//go:embed scenarios/*.scenario
var scenarios embed.FS

// ScenarioCases lists incidents rebuilt from facts: those of the demo and those of this package. What a scenario expects is
// what is true, whether or not the detector finds it.
func ScenarioCases() ([]Source, error) {
	demo, err := scenario.Demo()
	if err != nil {
		return nil, err
	}
	own, err := scenario.ParseFS(scenarios, "scenarios/*.scenario")
	if err != nil {
		return nil, err
	}
	var list []Source
	for _, sc := range slices.Concat(demo, own) {
		name := strings.TrimSuffix(path.Base(sc.Name), ".scenario")
		list = append(list, Source{Group: Scenarios, Name: name, Judging: InJudging(name), Load: func() (*Case, error) {
			return caseOf(sc, name)
		}})
	}
	return list, nil
}

func caseOf(sc *scenario.Scenario, name string) (*Case, error) {
	c := &Case{Name: name, Knowledge: knowledgeOf(sc), RIB: each(sc.RIB()), Updates: each(sc.Updates())}
	for _, x := range sc.Expect {
		l, err := labelOf(sc, x)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", sc.Name, x.Line, err)
		}
		if l != nil {
			c.Labels = append(c.Labels, *l)
		}
	}
	return c, nil
}

// labelOf makes a label of what a scenario expects. "none" with a kind says that an incident of it would be wrong, be it that
// it touches what else happens; "none" alone is no label, as whatever opens is then a false alarm without one.
func labelOf(sc *scenario.Scenario, x scenario.Expect) (*Label, error) {
	l := &Label{RFC7908Type: x.RFC7908Type, Offenders: x.Offenders, Victims: x.Victims, Prefixes: x.Prefixes}
	if x.None {
		if len(x.Kinds) != 1 || len(x.Offenders) == 0 {
			return nil, nil
		}
		l.Benign, l.Kind = x.Text, incident.Kind(x.Kinds[0])
		l.Start, l.End = ingest.TimeOf(sc.Start), ingest.TimeOf(sc.Start.Add(sc.Duration()))
		return l, nil
	}
	l.Kind = incident.Kind(x.Kinds[0])
	told := func(u *ingest.Update) bool {
		for _, n := range u.Withdrawn {
			if len(l.Offenders) == 0 && slices.Contains(l.Prefixes, n.Prefix) {
				return true
			}
		}
		for _, n := range u.Announced {
			if len(l.Offenders) == 0 && l.Start != 0 && slices.Contains(l.Prefixes, n.Prefix) {
				return true // it is back
			}
			if len(l.Offenders) > 0 && (len(l.Prefixes) == 0 || slices.ContainsFunc(l.Prefixes, n.Prefix.Overlaps)) {
				for _, seg := range u.Attrs.ASPath {
					if slices.ContainsFunc(l.Offenders, func(o uint32) bool { return slices.Contains(seg.ASNs, o) }) {
						return true
					}
				}
			}
		}
		return false
	}
	for i, u := range sc.Updates() {
		if told(&sc.Updates()[i]) {
			if l.Start == 0 {
				l.Start = u.Time
			}
			l.End = u.Time
		}
	}
	if l.Start == 0 {
		return nil, fmt.Errorf("nothing in the scenario does what is expected")
	}
	if len(l.Prefixes) == 0 { // every prefix that an offender's routes lead to
		for _, u := range sc.Updates() {
			for _, n := range u.Announced {
				if told(&u) && !slices.Contains(l.Prefixes, n.Prefix) {
					l.Prefixes = append(l.Prefixes, n.Prefix)
				}
			}
		}
	}
	return l, nil
}

func each(us []ingest.Update) iter.Seq2[*ingest.Update, error] {
	return func(yield func(*ingest.Update, error) bool) {
		for i := range us {
			if !yield(&us[i], nil) {
				return
			}
		}
	}
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
func knowledgeOf(sc *scenario.Scenario) detect.Knowledge {
	k := detect.Knowledge{Organisations: topology.NewOrganisations(sc.Name)}
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
