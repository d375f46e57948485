package detect

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/ingest"
)

// watched is the watches of a configuration, ready for look-up. It is immutable, and nil where there are none.
type watched struct {
	all      []*watch
	at       map[netip.Prefix][]*watch
	lengths  [2][129]bool        // of the prefixes in at, by family
	prefixes []netip.Prefix      // those of at, sorted
	own      map[uint32][]*watch // by asns
	concerns map[uint32][]*watch // by asns and members of as-sets
	ends     []ingest.Time       // of plans, sorted
}

// watch is one of them.
type watch struct {
	Watch               // Prefixes are also those of the route-sets
	partial    bool     // not all prefixes of its route-sets are known
	place      int      // in the configuration
	members    []uint32 // of the as-sets, sorted
	origins    []uint32 // that may originate the prefixes, sorted; empty: any
	neighbours []uint32 // that may stand behind asns, sorted; empty: any
}

// maxOfRouteSet bounds the prefixes that a watch takes from a route-set.
const maxOfRouteSet = 1000

// addRouteSets adds the prefixes of the watch's route-sets that can be judged.
func (x *watch) addRouteSets(db *irr.Database) {
	if len(x.RouteSets) == 0 {
		return
	}
	prefixes := slices.Clone(x.Prefixes)
	for _, name := range x.RouteSets {
		set := db.RouteSet(name)
		if len(set.Missing) > 0 || set.Any || set.Cut != "" || len(set.Ranges) > maxOfRouteSet {
			x.partial = true
		}
		for _, r := range set.Ranges[:min(len(set.Ranges), maxOfRouteSet)] {
			if r.Prefix.Bits() >= minBits(r.Prefix) {
				prefixes = append(prefixes, r.Prefix)
			}
		}
	}
	slices.SortFunc(prefixes, comparePrefixes)
	x.Prefixes = slices.Compact(prefixes)
}

// samePrefixes reports that the same prefixes are watched, as they may not be when a route-set changes.
func (w *watched) samePrefixes(v *watched) bool {
	if w == nil || v == nil {
		return w == v
	}
	return slices.EqualFunc(w.all, v.all, func(x, y *watch) bool { return x.partial == y.partial && slices.Equal(x.Prefixes, y.Prefixes) })
}

// compileWatches makes watches ready. Members of as-sets come from db or, where that is nil, from sets.
func compileWatches(list WatchList, db *irr.Database, sets map[string][]uint32) *watched {
	if len(list) == 0 {
		return nil
	}
	w := &watched{at: map[netip.Prefix][]*watch{}, own: map[uint32][]*watch{}, concerns: map[uint32][]*watch{}}
	for i, declared := range list {
		x := &watch{Watch: declared, place: i}
		x.addRouteSets(db)
		for _, name := range declared.ASSets {
			if db != nil {
				x.members = append(x.members, db.ASSet(name).ASNs...)
			} else {
				x.members = append(x.members, sets[name]...)
			}
		}
		x.members = sortedSet(x.members)
		x.origins = sortedSet(declared.Origins)
		if len(x.origins) == 0 {
			x.origins = sortedSet(declared.ASNs, x.members)
		}
		x.neighbours = sortedSet(declared.Upstreams, declared.Peers)
		for _, p := range x.Prefixes {
			w.at[p] = append(w.at[p], x)
			w.lengths[family(p.Addr())][p.Bits()] = true
			w.prefixes = append(w.prefixes, p)
		}
		for _, a := range sortedSet(declared.ASNs) {
			w.own[a] = append(w.own[a], x)
		}
		for _, a := range sortedSet(declared.ASNs, x.members) {
			w.concerns[a] = append(w.concerns[a], x)
		}
		for _, p := range declared.Planned {
			w.ends = append(w.ends, ingest.TimeOf(p.Until))
		}
		w.all = append(w.all, x)
	}
	slices.SortFunc(w.prefixes, comparePrefixes)
	w.prefixes = slices.Compact(w.prefixes)
	slices.Sort(w.ends)
	return w
}

func sortedSet(lists ...[]uint32) []uint32 {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return slices.Clip(slices.Compact(all))
}

func has(sorted []uint32, asn uint32) bool {
	_, ok := slices.BinarySearch(sorted, asn)
	return ok
}

// longest returns the longest watched prefix that is p or contains it, of those for which a watch counts, and the
// watches of that that count; nil where there is none.
func (w *watched) longest(p netip.Prefix, counts func(*watch) bool) (netip.Prefix, []*watch) {
	if w == nil {
		return netip.Prefix{}, nil
	}
	f := family(p.Addr())
	for n := p.Bits(); n >= 0; n-- {
		if !w.lengths[f][n] {
			continue
		}
		at := netip.PrefixFrom(p.Addr(), n).Masked()
		ws := w.at[at]
		if len(ws) == 0 {
			continue
		}
		if ws = slices.DeleteFunc(slices.Clone(ws), func(x *watch) bool { return !counts(x) }); len(ws) > 0 {
			return at, ws
		}
	}
	return netip.Prefix{}, nil
}

// covers reports that p is watched as a prefix, or as a part of one.
func (w *watched) covers(p netip.Prefix) bool {
	_, ws := w.longest(p, func(*watch) bool { return true })
	return ws != nil
}

// around adds to set the watches of prefixes that contain p, are p, or lie in it.
func (w *watched) around(p netip.Prefix, set map[*watch]bool) {
	f := family(p.Addr())
	for n := range p.Bits() {
		if w.lengths[f][n] {
			mark(set, w.at[netip.PrefixFrom(p.Addr(), n).Masked()])
		}
	}
	i, _ := slices.BinarySearchFunc(w.prefixes, p, comparePrefixes) // what lies in p follows it
	for ; i < len(w.prefixes) && p.Overlaps(w.prefixes[i]); i++ {
		mark(set, w.at[w.prefixes[i]])
	}
}

func mark(set map[*watch]bool, ws []*watch) {
	for _, x := range ws {
		set[x] = true
	}
}

// of returns the watches that a finding concerns, in the order of the configuration: by its prefix, or because an AS of
// theirs has a part in it.
func (w *watched) of(p netip.Prefix, v *verdict) []*watch {
	if w == nil {
		return nil
	}
	set := map[*watch]bool{}
	w.around(p, set)
	for _, a := range append([]uint32{v.offender, v.next, v.victim}, v.also...) {
		mark(set, w.concerns[a])
	}
	var ws []*watch
	for _, x := range w.all {
		if set[x] {
			ws = append(ws, x)
		}
	}
	return ws
}

// minPeers is the least number of peer ASNs that some watches ask for; 0 where none does.
func minPeers(ws []*watch) int {
	least := 0
	for _, x := range ws {
		if x.MinPeers > 0 && (least == 0 || x.MinPeers < least) {
			least = x.MinPeers
		}
	}
	return least
}

// passed reports whether a plan has ended after one time and not after another.
func (w *watched) passed(after, now ingest.Time) bool {
	if w == nil {
		return false
	}
	i, _ := slices.BinarySearch(w.ends, after+1)
	return i < len(w.ends) && w.ends[i] <= now
}

// severe is the severity of an incident that concerns some watches: a step for the highest importance among them, though
// no mistake rises above medium by it; and whatever a watch says of its kind.
func severe(s incident.Severity, k incident.Kind, ws []*watch) incident.Severity {
	if len(ws) == 0 {
		return s
	}
	steps := ws[0].Importance.steps()
	said := -1
	for _, x := range ws {
		steps = max(steps, x.Importance.steps())
		said = max(said, x.Severity[k].Rank())
	}
	if said >= 0 {
		return incident.Severities[said]
	}
	most := incident.Critical.Rank()
	if isMistake(k) {
		most = max(incident.Medium.Rank(), s.Rank())
	}
	return incident.Severities[min(max(0, s.Rank()+steps), most)]
}

// isMistake reports the kinds that are never above medium unless a watch says so.
func isMistake(k incident.Kind) bool {
	switch k {
	case incident.Prepend, incident.TypoASN, incident.TypoPrefix, incident.RPKIInvalid, incident.BogonASN, incident.BogonPrefix:
		return true
	}
	return false
}

// mute returns the mute that silences an incident at a time: the first of those that cover all of it.
func (ic *incidentCase) mute(inc *incident.Incident, now ingest.Time) *incident.Muted {
	for _, x := range ic.watches() {
		for _, m := range x.Mutes {
			if now < ingest.TimeOf(m.Until) && m.covers(ic, inc) {
				return &incident.Muted{Watch: x.Name, Reason: m.Reason, Until: m.Until.UTC()}
			}
		}
	}
	return nil
}

func (m *Mute) covers(ic *incidentCase, inc *incident.Incident) bool {
	if len(m.Kinds) > 0 && !slices.Contains(m.Kinds, inc.Kind) {
		return false
	}
	part := func(a uint32) bool {
		return slices.Contains(inc.Offenders, a) || slices.Contains(inc.Accomplices, a) || slices.Contains(inc.Victims, a)
	}
	if len(m.ASNs) > 0 && !slices.ContainsFunc(m.ASNs, part) {
		return false
	}
	if len(m.Prefixes) == 0 {
		return true
	}
	for p := range ic.findings {
		if !within(p, m.Prefixes) {
			return false
		}
	}
	return true
}

// within reports that p is one of some prefixes, or lies in one.
func within(p netip.Prefix, in []netip.Prefix) bool {
	return slices.ContainsFunc(in, func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Contains(p.Addr()) })
}

// refer counts a finding for its watches, or with -1 no longer.
func (s *findingSet) refer(f *finding, n int) {
	for _, x := range f.watches {
		if s.watchRefs == nil {
			s.watchRefs = map[*watch]int{}
		}
		if s.watchRefs[x] += n; s.watchRefs[x] == 0 {
			delete(s.watchRefs, x)
		}
	}
}

// watches returns those that a case concerns, in the order of the configuration.
func (s *findingSet) watches() []*watch {
	if len(s.watchRefs) == 0 {
		return nil
	}
	ws := make([]*watch, 0, len(s.watchRefs))
	for x := range s.watchRefs {
		ws = append(ws, x)
	}
	slices.SortFunc(ws, func(a, b *watch) int { return cmp.Compare(a.place, b.place) })
	return slices.CompactFunc(ws, func(a, b *watch) bool { return a.place == b.place }) // one may have been compiled anew
}

func watchNames(ws []*watch) []string {
	names := make([]string, len(ws))
	for i, x := range ws {
		names[i] = x.Name
	}
	return names
}

// enough reports that a finding is seen by as many peer ASNs as it needs: need, or what its watches say.
func (f *finding) enough(need int) bool { return f.asns >= f.needs(need) }

func (f *finding) needs(need int) int { return cmp.Or(f.need, need) }

// watch notes in a finding what watches it concerns, and how many peer ASNs they ask for, as far as so many are heard.
func (f *finding) watch(w *watched, peers *peerSet) {
	if f.watches = w.of(f.prefix, f.verdict); len(f.watches) == 0 {
		return
	}
	if n := minPeers(f.watches); n > 0 {
		f.need = min(n, peers.heard(n))
	}
}

// muted decides upon an incident that is about to be told: a mute counts from the opening on for as long as it
// holds.
func (c *correlator) muted(ic *incidentCase, change incident.Change, inc *incident.Incident, now ingest.Time) incident.Change {
	switch {
	case change == incident.Opened || change == incident.Reopened:
		inc.Muted = ic.mute(inc, now)
	case ic.last.Muted == nil:
		inc.Muted = nil
	case change == incident.Closed:
		inc.Muted = ic.last.Muted
	case len(ic.findings) == 0 && now < ingest.TimeOf(ic.last.Muted.Until):
		inc.Muted = ic.last.Muted // nothing is left that it would not cover
	default:
		if inc.Muted = ic.mute(inc, now); inc.Muted == nil {
			change = incident.Unmuted
		}
	}
	if inc.Muted != nil {
		c.muteUntil(ingest.TimeOf(inc.Muted.Until))
	}
	return change
}

func (c *correlator) muteUntil(t ingest.Time) {
	if c.unmuteAt == 0 || t < c.unmuteAt {
		c.unmuteAt = t
	}
}

// unmute tells of the incidents whose mute has ended by now and that go on.
func (c *correlator) unmute(now ingest.Time) {
	if c.unmuteAt == 0 || now < c.unmuteAt {
		return
	}
	c.unmuteAt = 0
	var due []*incidentCase
	for _, ic := range c.cases {
		if ic.state != open && ic.state != quiet || ic.last.Muted == nil {
			continue
		}
		if until := ingest.TimeOf(ic.last.Muted.Until); until > now {
			c.muteUntil(until)
		} else {
			due = append(due, ic)
		}
	}
	slices.SortFunc(due, func(a, b *incidentCase) int { return a.key.compare(b.key) })
	for _, ic := range due {
		c.send(ic, incident.Grew, c.describe(ic), now) // muted makes it Unmuted
	}
}
