package detect

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
)

// Watch is what an operator declares of networks that he cares for. It does two things: what it declares is evidence,
// which counts before all that was learned and is weaker only than a proof (judgewatch.go); and incidents that
// touch it bear its name, which decides who is told and how severe they are (watched.go).
type Watch struct {
	Name      string         `yaml:"name" doc:"Name of the watch, unique; incidents bear it."`
	Prefixes  []netip.Prefix `yaml:"prefixes" doc:"What is watched: these prefixes and all parts of them."`
	RouteSets []string       `yaml:"route_sets" doc:"Sets of further prefixes to watch, by name or as SOURCE::NAME, expanded by the dumps and mirrors of knowledge.irr; of each at most 1000 prefixes."`
	ASNs      []uint32       `yaml:"asns" doc:"Networks of one's own: what they announce, and to whom, is watched."`
	ASSets    []string       `yaml:"as_sets" doc:"Sets of further networks, such as customers, by name or as SOURCE::NAME, expanded by knowledge.irr: incidents in which a member has a part belong to the watch."`
	Origins   []uint32       `yaml:"origins" doc:"The networks that may originate the prefixes; asns and the members of as_sets when empty. Of nested prefixes the longest decides."`

	Upstreams []uint32 `yaml:"upstreams" doc:"The networks that pass on the routes of asns to the world. Where upstreams and peers are both empty, any may."`
	Peers     []uint32 `yaml:"peers" doc:"Further networks that may stand behind asns on paths, such as peers and route servers."`

	MaxLengthV4 int      `yaml:"max_length_v4" doc:"Longest part of the IPv4 prefixes that may be announced, 1 to 32; any when 0."`
	MaxLengthV6 int      `yaml:"max_length_v6" doc:"Longest part of the IPv6 prefixes that may be announced, 1 to 128; any when 0."`
	MustPass    []uint32 `yaml:"must_pass" doc:"Every path to the prefixes, or to what asns originate, must pass one of these networks, beside its origin."`
	MustNotPass []uint32 `yaml:"must_not_pass" doc:"No such path may pass one of these networks."`

	MinPeers   int                                 `yaml:"min_peers" doc:"Distinct peer ASNs that must see what concerns the watch before an incident opens, in place of detect.min_peers; the least where several watches say so. 0 for detect.min_peers."`
	Importance Importance                          `yaml:"importance" doc:"low, normal or high: one step less or more severe; the highest where several watches say so. normal when empty."`
	Severity   map[incident.Kind]incident.Severity `yaml:"severity" doc:"What severity incidents of a kind have, whatever else would make it, also above the medium at which mistakes end otherwise; the highest where several watches say so."`

	Planned []Plan `yaml:"planned" doc:"Changes that are expected for a time. What is planned is not learned as normal: what is still there at the end is judged as if it had just come."`
	Mutes   []Mute `yaml:"mutes" doc:"Incidents of this watch of which nobody is told for a time. They are recorded all the same."`
}

// Plan is a change that is expected.
type Plan struct {
	Until     time.Time      `yaml:"until" doc:"When it ends, by the time of the routes: RFC 3339, such as 2026-01-31T18:00:00Z."`
	Reason    string         `yaml:"reason" doc:"Why, for those who read the ledger."`
	Origins   []uint32       `yaml:"origins" doc:"Networks that may originate the prefixes of the watch, or those of the plan where it names any."`
	Upstreams []uint32       `yaml:"upstreams" doc:"Networks that may stand on paths behind asns, and that must_not_pass does not forbid meanwhile."`
	Prefixes  []netip.Prefix `yaml:"prefixes" doc:"Prefixes, and parts of them, that may be announced anew, however long."`
}

// Mute silences incidents. All that is given must fit: every prefix of the incident lies in one of Prefixes, and one of
// ASNs has a part in it.
type Mute struct {
	Until    time.Time       `yaml:"until" doc:"When it ends, by the time of the routes: RFC 3339. What still goes on then is told."`
	Reason   string          `yaml:"reason" doc:"Why, for those who read the incident."`
	Kinds    []incident.Kind `yaml:"kinds" doc:"Only incidents of these kinds; empty means all."`
	Prefixes []netip.Prefix  `yaml:"prefixes" doc:"Only incidents all of whose prefixes lie in these; empty means all."`
	ASNs     []uint32        `yaml:"asns" doc:"Only incidents in which one of these ASes is offender, accomplice or victim; empty means all."`
}

// Importance is how much a watch matters.
type Importance string

const (
	LowImportance    Importance = "low"
	NormalImportance Importance = "normal"
	HighImportance   Importance = "high"
)

// steps is what an importance adds to the rank of a severity.
func (i Importance) steps() int {
	switch i {
	case LowImportance:
		return -1
	case HighImportance:
		return 1
	}
	return 0
}

// WatchList is the watches of a configuration.
type WatchList []Watch

// Names returns the names of the watches.
func (l WatchList) Names() []string {
	names := make([]string, len(l))
	for i, w := range l {
		names[i] = w.Name
	}
	return names
}

// ASSets returns the names of the as-sets of all watches, each once.
func (l WatchList) ASSets() []string {
	var names []string
	for _, w := range l {
		names = append(names, w.ASSets...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var (
	watchName    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)
	routeSetName = regexp.MustCompile(`(?i)^([A-Z0-9_-]+::)?([A-Z0-9_-]+:)*RS-[A-Z0-9_-]+(:[A-Z0-9_-]+)*$`)
	asSetName    = regexp.MustCompile(`(?i)^([A-Z0-9_-]+::)?([A-Z0-9_-]+:)*AS-[A-Z0-9_-]+(:[A-Z0-9_-]+)*$`)
)

// Validate reports everything that cannot work, each with the path of the setting.
func (l WatchList) Validate() error {
	var errs []error
	seen := map[string]int{}
	for i, w := range l {
		fault := func(at, format string, args ...any) {
			errs = append(errs, fmt.Errorf("[%d]%s: %s", i, at, fmt.Sprintf(format, args...)))
		}
		if !watchName.MatchString(w.Name) {
			fault(".name", "must be 1 to 63 letters, digits, dots, dashes or underscores, is %q", w.Name)
		} else if first, ok := seen[w.Name]; ok {
			fault(".name", "%q is the name of watches[%d] already", w.Name, first)
		} else {
			seen[w.Name] = i
		}
		w.validate(fault)
	}
	return errors.Join(errs...)
}

func (w *Watch) validate(fault func(at, format string, args ...any)) {
	if len(w.Prefixes)+len(w.RouteSets)+len(w.ASNs)+len(w.ASSets) == 0 {
		fault("", "watches nothing; give prefixes, route_sets, asns or as_sets")
	}
	checkPrefixes(".prefixes", w.Prefixes, fault)
	for _, l := range []struct {
		key  string
		asns []uint32
	}{{".asns", w.ASNs}, {".origins", w.Origins}, {".upstreams", w.Upstreams}, {".peers", w.Peers}, {".must_pass", w.MustPass}, {".must_not_pass", w.MustNotPass}} {
		checkASNs(l.key, l.asns, fault)
	}
	for i, s := range w.RouteSets {
		if !routeSetName.MatchString(s) {
			fault(fmt.Sprintf(".route_sets[%d]", i), "must be the name of a route-set, such as AS64500:RS-ROUTES or RIPE::RS-EXAMPLE, is %q", s)
		}
	}
	for i, s := range w.ASSets {
		if !asSetName.MatchString(s) {
			fault(fmt.Sprintf(".as_sets[%d]", i), "must be the name of an as-set, such as AS64500:AS-CUSTOMERS or RIPE::AS-EXAMPLE, is %q", s)
		}
	}
	if len(w.Upstreams)+len(w.Peers) > 0 && len(w.ASNs) == 0 {
		fault(".asns", "must name the networks that upstreams and peers are those of")
	}
	for i, a := range w.MustNotPass {
		at := fmt.Sprintf(".must_not_pass[%d]", i)
		if slices.Contains(w.MustPass, a) {
			fault(at, "AS%d is in must_pass as well", a)
		}
		if slices.Contains(w.Upstreams, a) || slices.Contains(w.Peers, a) {
			fault(at, "AS%d is in upstreams or peers as well", a)
		}
	}
	for _, l := range []struct {
		key      string
		value    int
		is4      bool
		mostBits int
	}{{".max_length_v4", w.MaxLengthV4, true, 32}, {".max_length_v6", w.MaxLengthV6, false, 128}} {
		if l.value < 0 || l.value > l.mostBits {
			fault(l.key, "must be 0 to %d, is %d", l.mostBits, l.value)
			continue
		}
		for _, p := range w.Prefixes {
			if l.value > 0 && p.Addr().Is4() == l.is4 && p.Bits() > l.value {
				fault(l.key, "is less than the length of %s, which is watched", p)
			}
		}
	}
	if w.MinPeers < 0 || w.MinPeers > 1000 {
		fault(".min_peers", "must be 0 to 1000, is %d", w.MinPeers)
	}
	if !slices.Contains([]Importance{"", LowImportance, NormalImportance, HighImportance}, w.Importance) {
		fault(".importance", "must be low, normal or high, is %q", w.Importance)
	}
	for k, s := range w.Severity {
		if !slices.Contains(incident.Kinds, k) {
			fault(".severity", "%q is no kind of incident", k)
		}
		if s.Rank() < 0 {
			fault(fmt.Sprintf(".severity.%s", k), "must be one of info, low, medium, high, critical, is %q", s)
		}
	}
	for i, p := range w.Planned {
		at := fmt.Sprintf(".planned[%d]", i)
		if p.Until.IsZero() {
			fault(at+".until", "must say when the plan ends")
		}
		if len(p.Origins)+len(p.Upstreams)+len(p.Prefixes) == 0 {
			fault(at, "plans nothing; give origins, upstreams or prefixes")
		}
		checkASNs(at+".origins", p.Origins, fault)
		checkASNs(at+".upstreams", p.Upstreams, fault)
		checkPrefixes(at+".prefixes", p.Prefixes, fault)
	}
	for i, m := range w.Mutes {
		at := fmt.Sprintf(".mutes[%d]", i)
		if m.Until.IsZero() {
			fault(at+".until", "must say when the mute ends")
		}
		for j, k := range m.Kinds {
			if !slices.Contains(incident.Kinds, k) {
				fault(fmt.Sprintf("%s.kinds[%d]", at, j), "is no kind of incident: %q", k)
			}
		}
		checkASNs(at+".asns", m.ASNs, fault)
		checkPrefixes(at+".prefixes", m.Prefixes, fault)
	}
}

func checkASNs(at string, asns []uint32, fault func(at, format string, args ...any)) {
	for i, a := range asns {
		if a == 0 {
			fault(fmt.Sprintf("%s[%d]", at, i), "must be an AS number from 1 to 4294967295, is 0")
		}
	}
}

func checkPrefixes(at string, prefixes []netip.Prefix, fault func(at, format string, args ...any)) {
	for i, p := range prefixes {
		switch {
		case !p.IsValid() || p != p.Masked() || p.Addr().Is4In6():
			fault(fmt.Sprintf("%s[%d]", at, i), "must be a prefix without bits beyond its length, such as %s, is %s", p.Masked(), p)
		case p.Bits() < minBits(p):
			fault(fmt.Sprintf("%s[%d]", at, i), "is shorter than /%d, and such are not judged", minBits(p))
		}
	}
}
