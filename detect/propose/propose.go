// Package propose writes a watch for a network out of what is known of it: its ROAs and ASPAs, what registries say,
// and what the table and its history show.
//
// The sources are weighed against each other and none is believed alone where another could have told: a table may
// hold a hijack, a registry what nobody has cleared away. What is proven or what two sources say becomes part of the
// watch; the rest is written as a comment, to be decided by who knows. Each entry says what each source says of it, and
// where they disagree that is told once more in a list of its own.
package propose

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
)

// Sources is what a proposal is made from. What there is none of is nil, and says nothing.
type Sources struct {
	VRPs          *rpki.Set
	IRR           *irr.Database
	Relationships *topology.Relationships
	Table         *detect.Survey      // of the network, and of the space that is registered to it
	Sets          map[string][]uint32 // members of as-sets, where IRR does not have them
}

// Proposal is the watch of one network.
type Proposal struct {
	ASN                                         uint32
	Prefixes, Origins, Upstreams, Peers, ASSets []Entry
	MaxLengthV4, MaxLengthV6                    int // of the prefixes; 0 where there are none
	// Disagreements are the places where the sources do not say the same, for people.
	Disagreements []string
}

// Entry is one element of one of its lists.
type Entry struct {
	Value string
	On    bool   // it is part of the watch; otherwise only a comment
	Why   string // what each source says of it
}

// Space returns what is registered to a network, by ROAs and by route objects: where the table must be looked at too.
func (s *Sources) Space(asn uint32) []netip.Prefix {
	set := map[netip.Prefix]bool{}
	for p := range s.roas(asn) {
		set[p] = true
	}
	s.IRR.OriginatedBy(map[uint32]bool{asn: true}, func(r irr.Route) bool {
		set[r.Prefix] = true
		return true
	})
	return slices.SortedFunc(maps.Keys(set), netip.Prefix.Compare)
}

// live reports that there is a table, and not history alone.
func (s *Sources) live() bool { return s.Table != nil && s.Table.Live }

// roas returns the prefixes of an AS's VRPs with the longest length that each allows.
func (s *Sources) roas(asn uint32) map[netip.Prefix]int {
	found := map[netip.Prefix]int{}
	if s.VRPs != nil {
		for v := range s.VRPs.VRPs() {
			if v.ASN == asn {
				found[v.Prefix] = max(found[v.Prefix], int(v.MaxLength))
			}
		}
	}
	return found
}

// For makes the proposal for a network.
func (s *Sources) For(asn uint32) *Proposal {
	p := &Proposal{ASN: asn}
	p.prefixes(s)
	p.neighbours(s)
	p.sets(s)
	return p
}

func (p *Proposal) disagree(format string, args ...any) {
	p.Disagreements = append(p.Disagreements, fmt.Sprintf("AS%d: ", p.ASN)+fmt.Sprintf(format, args...))
}

// shortest are the shortest prefixes that can be watched, of IPv4 and of IPv6.
func tooShort(q netip.Prefix) bool {
	if q.Addr().Is4() {
		return q.Bits() < 8
	}
	return q.Bits() < 16
}

func (p *Proposal) prefixes(s *Sources) {
	roas := s.roas(p.ASN)
	table := map[netip.Prefix]detect.SurveyedPrefix{}
	all := map[netip.Prefix]bool{}
	for _, q := range s.Space(p.ASN) {
		all[q] = true
	}
	if s.Table != nil {
		for _, t := range s.Table.Prefixes {
			table[t.Prefix] = t
			if originOf(t, p.ASN) != nil {
				all[t.Prefix] = true
			}
		}
	}
	others := map[uint32][]string{} // what they announce
	allowed := map[uint32]string{}  // by whom, the first that says so
	for _, q := range slices.SortedFunc(maps.Keys(all), netip.Prefix.Compare) {
		if tooShort(q) {
			p.disagree("%s is too short to be watched", q)
			continue
		}
		e := p.prefix(s, q, roas, table[q])
		p.Prefixes = append(p.Prefixes, e)
		if !e.On {
			continue
		}
		if q.Addr().Is4() {
			p.MaxLengthV4 = max(p.MaxLengthV4, q.Bits())
		} else {
			p.MaxLengthV6 = max(p.MaxLengthV6, q.Bits())
		}
	}
	for _, q := range slices.SortedFunc(maps.Keys(table), netip.Prefix.Compare) {
		for _, o := range table[q].Origins {
			if o.ASN == p.ASN || o.ASN == 0 || !p.watches(q) {
				continue
			}
			others[o.ASN] = append(others[o.ASN], fmt.Sprintf("%s (%s)", q, seen(&o)))
			if why := p.allows(s, q, o); why != "" {
				allowed[o.ASN] = cmp.Or(allowed[o.ASN], why)
			} else {
				p.disagree("%s is announced by AS%d as well (%s, RPKI %s)", q, o.ASN, seen(&o), o.RPKI)
			}
		}
	}
	for _, q := range slices.SortedFunc(maps.Keys(roas), netip.Prefix.Compare) {
		most := p.MaxLengthV4
		if q.Addr().Is6() {
			most = p.MaxLengthV6
		}
		if roas[q] > max(most, q.Bits()) {
			p.disagree("a ROA allows parts of %s up to /%d, and none longer than /%d is announced or registered: whoever forges the origin may use them (RFC 9319)", q, roas[q], max(most, q.Bits()))
		}
	}
	p.Origins = []Entry{{Value: fmt.Sprint(p.ASN), On: true, Why: "the network itself"}}
	for _, a := range slices.Sorted(maps.Keys(others)) {
		why := "announces " + some(others[a])
		if allowed[a] != "" {
			why += "; " + allowed[a]
		}
		p.Origins = append(p.Origins, Entry{fmt.Sprint(a), allowed[a] != "", why})
	}
}

// allows says why another origin of a prefix in the network's space may be one; "" where nothing says that it may.
func (p *Proposal) allows(s *Sources, q netip.Prefix, o detect.SurveyedOrigin) string {
	link := s.Relationships.Link(o.ASN, p.ASN)
	switch {
	case o.RPKI == rpki.Valid.String():
		return "a ROA allows it"
	case o.RPKI == rpki.Invalid.String():
		return ""
	case s.IRR.State(q, o.ASN) == irr.Registered:
		return "it is registered"
	case link.Relation == topology.Customer && link.Basis != topology.Inferred:
		return "a customer by " + s.Relationships.Source(link.Basis)
	case s.VRPs == nil && s.IRR == nil:
		return "nothing but the table says so"
	}
	return ""
}

// watches reports that q lies in a prefix that is part of the watch.
func (p *Proposal) watches(q netip.Prefix) bool {
	return slices.ContainsFunc(p.Prefixes, func(e Entry) bool {
		w := netip.MustParsePrefix(e.Value)
		return e.On && w.Bits() <= q.Bits() && w.Contains(q.Addr())
	})
}

func originOf(t detect.SurveyedPrefix, asn uint32) *detect.SurveyedOrigin {
	for i := range t.Origins {
		if t.Origins[i].ASN == asn {
			return &t.Origins[i]
		}
	}
	return nil
}

func seen(o *detect.SurveyedOrigin) string {
	if o.Peers == 0 {
		return fmt.Sprintf("last seen %s", o.LastSeen.UTC().Format("2006-01-02"))
	}
	return fmt.Sprintf("at %.0f %% of the peers since %s", 100*o.PeerShare, o.FirstSeen.UTC().Format("2006-01-02"))
}

// prefix weighs what the sources say of one prefix of the network.
func (p *Proposal) prefix(s *Sources, q netip.Prefix, roas map[netip.Prefix]int, t detect.SurveyedPrefix) Entry {
	e := Entry{Value: q.String()}
	var why []string
	rov := s.VRPs.Validate(q, p.ASN, true)
	switch rov.State {
	case rpki.Valid:
		if most, own := roas[q]; own {
			why = append(why, fmt.Sprintf("ROA up to /%d", most))
		} else {
			why = append(why, "the ROA of a block around it allows it")
		}
	case rpki.Invalid:
		why = append(why, "RPKI Invalid ("+rov.Reason+")")
	case rpki.NotFound:
		why = append(why, "no ROA")
	}
	registered := s.IRR.Check(q, p.ASN)
	byHolder := slices.ContainsFunc(registered.Routes, func(r irr.Route) bool { return r.Authoritative })
	switch registered.State {
	case irr.Registered:
		why = append(why, "registered in "+sourcesOf(registered.Routes))
		if len(registered.Against) > 0 {
			why = append(why, "but for others in "+sourcesOf(registered.Against))
		}
	case irr.Contradicted:
		why = append(why, "registered for others in "+sourcesOf(registered.Routes))
	case irr.NotFound:
		why = append(why, "not registered")
	}
	announced := false
	if o := originOf(t, p.ASN); o != nil && (o.Peers > 0 || !s.Table.Live) {
		announced = true
		why = append(why, "announced "+seen(o))
	} else if o != nil {
		why = append(why, "no longer announced, "+seen(o))
	} else if s.Table != nil {
		why = append(why, "not announced")
	}
	e.Why = strings.Join(why, "; ")
	switch {
	case rov.State == rpki.Invalid:
		p.disagree("%s is RPKI Invalid (%s), but %s", q, rov.Reason, andWhat(announced, registered.State == irr.Registered))
	case rov.State == rpki.Valid:
		e.On = true
		if s.Table != nil && !announced && len(t.Origins) == 0 {
			p.disagree("%s has a ROA and is not announced", q)
		}
		if announced && registered.State == irr.NotFound {
			p.disagree("%s is announced and has a ROA, but no route object", q)
		}
		if registered.State == irr.Contradicted || len(registered.Against) > 0 {
			p.disagree("%s has a ROA, but is registered for others in %s", q, sourcesOf(slices.Concat(registered.Against, registered.Routes)))
		}
	case len(registered.Against) > 0:
		p.disagree("%s is registered for AS%d in %s, but for others by its holder in %s", q, p.ASN, sourcesOf(registered.Routes), sourcesOf(registered.Against))
	case registered.State == irr.Registered && announced:
		e.On = true
		if rov.State == rpki.NotFound {
			p.disagree("%s is announced and registered, but has no ROA", q)
		}
	case registered.State == irr.Registered:
		e.On = byHolder
		if s.Table != nil {
			p.disagree("%s is registered in %s and not announced", q, sourcesOf(registered.Routes))
		}
	case registered.State == irr.Contradicted:
		p.disagree("%s is announced, but registered for others in %s", q, sourcesOf(registered.Routes))
	case rov.State == rpki.NotFound || registered.State == irr.NotFound:
		p.disagree("%s is announced, but nothing else says that it is AS%d's (%s)", q, p.ASN, e.Why)
	default:
		e.On = true // there is nothing but the table
	}
	return e
}

func andWhat(announced, registered bool) string {
	switch {
	case announced && registered:
		return "announced and registered"
	case announced:
		return "announced"
	}
	return "registered"
}

func sourcesOf(rs []irr.Route) string {
	var names []string
	for _, r := range rs {
		if !slices.Contains(names, r.Source) {
			names = append(names, r.Source)
		}
	}
	return some(names)
}

// some writes the first of some things.
func some(list []string) string {
	const most = 4
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
}

// neighbours weighs what the sources say of who passes on the network's routes.
func (p *Proposal) neighbours(s *Sources) {
	attested, hasASPA := s.VRPs.ASPAs()[p.ASN]
	autNum := s.IRR.AutNum(p.ASN)
	routes := map[uint32]int{}
	all := map[uint32]bool{}
	if s.Table != nil {
		for _, n := range s.Table.Neighbours {
			if n.Behind == p.ASN {
				routes[n.ASN], all[n.ASN] = n.Routes, true
			}
		}
	}
	for _, a := range attested {
		all[a] = a != 0 // AS 0 attests that there is none
	}
	var providers, customers []uint32
	if autNum != nil {
		providers, customers = autNum.Providers, autNum.Customers
	}
	for _, a := range providers {
		all[a] = true
	}
	delete(all, 0)
	for _, a := range slices.SortedFunc(maps.Keys(all), func(a, b uint32) int { return cmp.Or(cmp.Compare(routes[b], routes[a]), cmp.Compare(a, b)) }) {
		link := s.Relationships.Link(a, p.ASN)
		isAttested, isNamed := slices.Contains(attested, a), slices.Contains(providers, a)
		upstream := isAttested || isNamed || link.Relation == topology.Provider
		e := Entry{Value: fmt.Sprint(a)}
		var why []string
		say := func(yes bool, text string) {
			if yes {
				why = append(why, text)
			}
		}
		say(isAttested, "attested by ASPA")
		say(hasASPA && !isAttested && upstream, "not attested by ASPA")
		say(isNamed, "a provider in the aut-num")
		say(slices.Contains(customers, a), "a customer in the aut-num")
		if link.Relation != topology.None {
			why = append(why, fmt.Sprintf("%s by %s", link.Relation, s.Relationships.Source(link.Basis)))
		}
		say(routes[a] > 0, fmt.Sprintf("on %d paths of the table", routes[a]))
		say(s.live() && routes[a] == 0, "on no path of the table")
		e.Why = strings.Join(why, "; ")
		known := link.Relation != topology.None && link.Basis != topology.Inferred
		switch {
		case isAttested || isNamed && !hasASPA:
			e.On = true
			if s.live() && routes[a] == 0 {
				p.disagree("AS%d is a provider (%s), but on no path of the table", a, e.Why)
			}
		case hasASPA && upstream:
			p.disagree("AS%d looks like a provider (%s), but the ASPA does not attest it", a, e.Why)
		case known:
			e.On = true
		case hasASPA || len(providers) > 0:
			e.On = link.Relation == topology.Peer || link.Relation == topology.Customer
			if !e.On {
				p.disagree("AS%d stands behind AS%d on %d paths of the table, and neither an ASPA nor the aut-num names it", a, p.ASN, routes[a])
			}
		default:
			e.On = true // there is nothing but the table
		}
		if upstream {
			p.Upstreams = append(p.Upstreams, e)
		} else {
			p.Peers = append(p.Peers, e)
		}
	}
}

// sets adds the as-sets that the network announces.
func (p *Proposal) sets(s *Sources) {
	a := s.IRR.AutNum(p.ASN)
	if a == nil {
		return
	}
	for _, name := range a.Announces {
		asns := s.Sets[name]
		if len(asns) == 0 {
			asns = s.IRR.ASSet(name).ASNs
		}
		e := Entry{Value: name, On: len(asns) > 0, Why: fmt.Sprintf("announced by the aut-num; %d networks within", len(asns))}
		if !e.On {
			p.disagree("the aut-num announces %s, in which there is nobody", name)
		}
		p.ASSets = append(p.ASSets, e)
	}
}

// YAML returns the section watches of a configuration with the watches of some proposals.
func YAML(ps []*Proposal) string {
	var b strings.Builder
	b.WriteString("watches:\n")
	for _, p := range ps {
		fmt.Fprintf(&b, "  - name: as%d\n    asns: [%d]\n", p.ASN, p.ASN)
		list(&b, "prefixes", p.Prefixes)
		if p.MaxLengthV4 > 0 {
			fmt.Fprintf(&b, "    max_length_v4: %d # the longest of the above\n", p.MaxLengthV4)
		}
		if p.MaxLengthV6 > 0 {
			fmt.Fprintf(&b, "    max_length_v6: %d # the longest of the above\n", p.MaxLengthV6)
		}
		list(&b, "origins", p.Origins)
		list(&b, "upstreams", p.Upstreams)
		list(&b, "peers", p.Peers)
		list(&b, "as_sets", p.ASSets)
	}
	return b.String()
}

func list(b *strings.Builder, key string, es []Entry) {
	if len(es) == 0 {
		return
	}
	if slices.ContainsFunc(es, func(e Entry) bool { return e.On }) {
		fmt.Fprintf(b, "    %s:\n", key)
	} else {
		fmt.Fprintf(b, "    %s: [] # nothing is certain enough; decide what of the following is right\n", key)
	}
	for _, e := range es {
		off := ""
		if !e.On {
			off = "#"
		}
		value := e.Value
		if strings.Contains(value, ":") {
			value = `"` + value + `"`
		}
		fmt.Fprintf(b, "      %s- %s # %s\n", off, printable(value), printable(e.Why))
	}
}

// printable keeps what others have written on its line.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
