package detect

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
)

// caseKey is what findings must share to be one incident.
type caseKey struct {
	kind             incident.Kind
	offender, victim uint32
}

func (k caseKey) compare(o caseKey) int {
	return cmp.Or(cmp.Compare(k.kind, o.kind), cmp.Compare(k.offender, o.offender), cmp.Compare(k.victim, o.victim))
}

// caseState is the life of a case. Only cases that have opened are incidents.
type caseState uint8

const (
	pending caseState = iota // too few peers agree
	open
	quiet // open, but the offending routes are gone; it ends when they stay away
	ended
)

// incidentCase gathers the findings of one key.
type incidentCase struct {
	findingSet
	key       caseKey
	state     caseState
	deadline  ingest.Time // when a quiet case ends, an ended one is forgotten, or a report is due; 0: none
	peak      int         // the highest rank of severity since it opened
	most      int         // the most findings it had at once since it opened
	last      incident.Incident
	reported  ingest.Time // of the last event
	quietFrom ingest.Time
	dirty     bool // changed since the last event
}

// correlator makes incidents of findings. It is the only place where incidents change.
type correlator struct {
	config   Configuration
	peers    *peerSet
	fullFeed func() map[peerID]bool
	full     map[peerID]bool // what fullFeed said last in this tick; nil: not asked yet
	emit     func(incident.Event)
	cases    map[caseKey]*incidentCase
	absorbed []*incidentCase // of this tick, by re-originations
	unmuteAt ingest.Time     // when the first mute ends that silences an incident; 0: none does
	earliest ingest.Time     // no deadline of any case is before; 0: not known
	sequence uint64
	blind    map[string]string // why, by collector
}

func newCorrelator(c Configuration, peers *peerSet, fullFeed func() map[peerID]bool, emit func(incident.Event)) *correlator {
	return &correlator{config: c, peers: peers, fullFeed: fullFeed, emit: emit, cases: map[caseKey]*incidentCase{}, blind: map[string]string{}}
}

// need is how many distinct peer ASNs must agree.
func (c *correlator) need() int {
	return c.peers.heard(c.config.MinPeers)
}

// apply takes the changes of one tick, those of one prefix in the order in which they happened.
func (c *correlator) apply(changes []findingChange, now ingest.Time) {
	need := c.need()
	changes = c.gather(changes, need, now)
	defer c.endAbsorbed(now)
	for len(changes) > 0 {
		k, n := changes[0].key, 1
		for n < len(changes) && changes[n].key == k {
			n++
		}
		c.applyCase(k, changes[:n], need, now)
		changes = changes[n:]
	}
}

func (c *correlator) applyCase(k caseKey, changes []findingChange, need int, now ingest.Time) {
	ic := c.cases[k]
	if ic == nil {
		ic = &incidentCase{findingSet: newFindingSet(), key: k}
		c.cases[k] = ic
	}
	at := changes[0].at
	for _, ch := range changes {
		ic.replace(ch, need)
		at = max(at, ch.at)
	}
	c.earliest = 0
	ic.dirty = true
	ic.most = max(ic.most, len(ic.findings))
	switch {
	case ic.state == pending && c.agreed(ic, need):
		c.open(ic, now)
	case ic.state == pending && len(ic.findings) == 0:
		delete(c.cases, k)
	case ic.state == ended && c.agreed(ic, need):
		c.reopen(ic, now)
	case ic.state == quiet && c.active(ic, need):
		ic.state, ic.deadline = open, 0
		c.report(ic, now)
	case ic.state == open && !c.active(ic, need):
		ic.state, ic.quietFrom, ic.deadline = quiet, at, at.Add(c.config.Hold)
		c.report(ic, now)
	case ic.state == open:
		c.report(ic, now)
	}
}

// agreed reports that enough peer ASNs see the offence: some prefix of it or, of a leak, all of them together. A leak is
// one event, but to how many peers it gets depends on what route each prefix has otherwise.
func (c *correlator) agreed(ic *incidentCase, need int) bool {
	return ic.confirmed > 0 || ic.key.kind == incident.RouteLeak && len(ic.findings) > 1 &&
		c.peers.countASNs(slices.Sorted(maps.Keys(ic.peerRefs))) >= need
}

// active reports that the offence goes on: it is still seen by more than a straggler.
func (c *correlator) active(ic *incidentCase, need int) bool {
	if c.agreed(ic, need) {
		return true
	}
	for _, f := range ic.findings {
		if f.asns >= (f.needs(need)+1)/2 {
			return true
		}
	}
	return false
}

func (c *correlator) open(ic *incidentCase, now ingest.Time) {
	if inWhole(mergeLedgers(ic)) < raiseAt {
		return // one prefix by policy; more prefixes may tell otherwise
	}
	inc := c.describe(ic)
	ic.state = open
	inc.DetectedAt = now.Time()
	inc.ID = incidentID(ic.key, inc.StartedAt)
	c.send(ic, incident.Opened, inc, now)
}

func (c *correlator) reopen(ic *incidentCase, now ingest.Time) {
	ic.state, ic.deadline = open, 0
	c.send(ic, incident.Reopened, c.describe(ic), now)
}

// report sends what changed: a rise of severity at once, a real change when the last report is old
// enough, a slight one (a peer more or less) when it is ten times as old.
func (c *correlator) report(ic *incidentCase, now ingest.Time) {
	wait := c.config.Report
	if !c.changedMuch(ic) {
		wait *= 10
	}
	due := ic.reported.Add(wait)
	if now >= due || c.severityNow(ic).Rank() > ic.peak {
		c.sendChange(ic, now)
	} else if ic.state == open {
		ic.deadline = due
	}
}

// changedMuch reports that prefixes or peer ASNs differ from the last report by a tenth or more.
func (c *correlator) changedMuch(ic *incidentCase) bool {
	differ := func(now, then int) bool { return now != then && max(now-then, then-now)*10 >= then }
	return differ(len(ic.findings), ic.last.PrefixCount) || differ(c.visibility(ic).PeerASNs, ic.last.Visibility.PeerASNs)
}

// severityNow is the severity by present numbers; evidence counts as of the last report.
func (c *correlator) severityNow(ic *incidentCase) incident.Severity {
	return c.rank(ic, ic.last.Confidence)
}

// rank is the severity of a case as it stands.
func (c *correlator) rank(ic *incidentCase, confidence float64) incident.Severity {
	s := severity(ic.key.kind, len(ic.findings), confidence, c.share(ic))
	switch ic.key.kind {
	case incident.VisibilityLoss:
		s = ic.lossSeverity()
	case incident.FeedBlind: // nothing is wrong with routing, but nobody would know
		s = incident.Medium
	}
	return severe(s, ic.key.kind, ic.watches())
}

func (c *correlator) sendChange(ic *incidentCase, now ingest.Time) {
	inc := c.describe(ic)
	change := incident.Grew
	switch last := ic.last; {
	case inc.Severity != last.Severity:
		change = incident.SeverityChanged
	case inc.PrefixCount == last.PrefixCount && inc.Visibility.Peers == last.Visibility.Peers && inc.Confidence == last.Confidence && slices.Equal(inc.Degraded, last.Degraded):
		ic.dirty = false
		return
	case inc.PrefixCount < last.PrefixCount || inc.PrefixCount == last.PrefixCount && inc.Visibility.PeerASNs < last.Visibility.PeerASNs:
		change = incident.Receded
	}
	c.send(ic, change, inc, now)
}

func (c *correlator) send(ic *incidentCase, change incident.Change, inc incident.Incident, now ingest.Time) {
	c.sequence++
	change = c.muted(ic, change, &inc, now)
	inc.Sequence = c.sequence
	inc.UpdatedAt = now.Time()
	ic.peak = max(ic.peak, inc.Severity.Rank())
	if inc.PeakVisibility = ic.last.PeakVisibility; inc.Visibility.Peers >= inc.PeakVisibility.Peers {
		inc.PeakVisibility = inc.Visibility
	}
	inc.PeakSeverity = incident.Severities[max(inc.Severity.Rank(), ic.last.PeakSeverity.Rank())]
	ic.last, ic.reported, ic.dirty = inc, now, false
	if ic.state == open {
		ic.deadline = 0
	}
	c.emit(incident.Event{Sequence: c.sequence, Time: now.Time(), Change: change, Incident: inc})
}

// fireDeadlines handles everything that falls due before t, in order of time. What that makes due in
// turn, forgetting an ended case, tells nobody anything and may come last.
func (c *correlator) fireDeadlines(t ingest.Time) {
	for c.earliest <= t {
		var due []*incidentCase
		c.earliest = math.MaxInt64
		for _, ic := range c.cases {
			switch {
			case ic.deadline == 0:
			case ic.deadline <= t:
				due = append(due, ic)
			default:
				c.earliest = min(c.earliest, ic.deadline)
			}
		}
		if len(due) == 0 {
			return
		}
		slices.SortFunc(due, func(a, b *incidentCase) int {
			return cmp.Or(cmp.Compare(a.deadline, b.deadline), a.key.compare(b.key))
		})
		for _, ic := range due {
			c.fire(ic)
		}
		c.earliest = 0
	}
}

func (c *correlator) fire(ic *incidentCase) {
	at := ic.deadline
	ic.deadline = 0
	switch ic.state {
	case open:
		if ic.dirty {
			c.sendChange(ic, at)
		}
	case quiet:
		inc := ic.last
		end := ic.quietFrom.Time()
		inc.Status, inc.EndedAt = incident.Ended, &end
		inc.Explanation = explain(&inc)
		c.end(ic, inc, at)
	case ended:
		delete(c.cases, ic.key)
		if len(ic.findings) > 0 { // stragglers, from which another incident may come
			c.cases[ic.key] = &incidentCase{findingSet: ic.findingSet, key: ic.key}
		}
	}
}

// end tells that an incident has ended, as inc.
func (c *correlator) end(ic *incidentCase, inc incident.Incident, at ingest.Time) {
	ic.state = ended
	c.send(ic, incident.Closed, inc, at)
	ic.deadline = at.Add(c.config.Reopen)
	ic.peak, ic.most = 0, 0
}

// adopt makes a quiet case of an open incident that has none.
func (c *correlator) adopt(inc incident.Incident) {
	k := caseKey{kind: inc.Kind}
	if len(inc.Offenders) > 0 {
		k.offender = inc.Offenders[0]
	}
	if len(inc.Victims) > 0 && !manyVictims(inc.Kind) {
		k.victim = inc.Victims[0]
	}
	if c.cases[k] != nil {
		return
	}
	at := ingest.TimeOf(inc.UpdatedAt)
	c.earliest = 0
	c.cases[k] = &incidentCase{findingSet: newFindingSet(), key: k, state: quiet, last: inc, peak: inc.Severity.Rank(), reported: at, quietFrom: at, deadline: at.Add(c.config.Hold)}
}

func incidentID(k caseKey, started time.Time) string {
	h := sha256.Sum256(fmt.Appendf(nil, "%s|%d|%d|%d", k.kind, k.offender, k.victim, started.UnixMicro()))
	return "inc_" + base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(h[:])[:16]
}

// describe makes the incident as its findings stand; identity and times of an open one are kept.
func (c *correlator) describe(ic *incidentCase) incident.Incident {
	inc := incident.Incident{ID: ic.last.ID, Kind: ic.key.kind, Status: incident.Open, StartedAt: ic.last.StartedAt,
		DetectedAt: ic.last.DetectedAt, Offenders: []uint32{}, Accomplices: []uint32{}, Victims: []uint32{},
		Degraded: c.degraded(ic), Watches: watchNames(ic.watches()), PrefixCount: len(ic.findings)}
	if len(ic.findings) == 0 {
		// Nothing is left to describe: what it was at its last report, seen by nobody.
		inc = ic.last
		inc.Visibility.Peers, inc.Visibility.PeerASNs, inc.Visibility.Collectors = 0, 0, 0
		return inc
	}
	if ic.state == pending {
		started := ingest.Time(math.MaxInt64)
		for _, f := range ic.findings {
			started = min(started, f.since)
		}
		inc.StartedAt = started.Time()
	}
	if types := ic.leaks.top(); len(types) > 0 {
		most := int(types[0])
		inc.RFC7908Type = &most
	}
	if ic.key.kind == incident.ReoriginationLeak {
		five := 5
		inc.RFC7908Type = &five
	}
	inc.Offenders, inc.Accomplices, inc.Victims = ic.offenders.top(), ic.accomplices.top(), ic.victims.top()
	prefixes := ic.sample()
	if ic.key.kind == incident.FeedBlind {
		prefixes, inc.PrefixCount, inc.Prefixes = nil, 0, []incident.Prefix{}
	}
	for _, p := range prefixes {
		inc.Prefixes = append(inc.Prefixes, ic.findings[p].verdict.prefix(p))
	}
	inc.Paths = samplePaths(ic, prefixes, func(f *finding) [][]uint32 { return f.paths }, incident.MaxPaths)
	inc.UsualPaths = samplePaths(ic, prefixes, func(f *finding) [][]uint32 { return f.usual }, incident.MaxUsualPaths)
	merged := mergeLedgers(ic)
	inc.Evidence, inc.Confidence = merged.evidence(), inWhole(merged)
	inc.Visibility = c.visibility(ic)
	inc.Severity = c.rank(ic, inc.Confidence)
	if ic.state != pending && ic.state != ended && inc.Severity.Rank() < ic.peak {
		inc.Severity = incident.Severities[ic.peak]
	}
	inc.Title = title(&inc)
	inc.Explanation = explain(&inc)
	return inc
}

func comparePrefixes(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}

// inWhole is the confidence of an incident, to three places.
func inWhole(l ledger) float64 { return math.Round(l.confidence()*1000) / 1000 }

// samplePaths takes paths in turn from the prefixes, so that many prefixes are represented.
func samplePaths(ic *incidentCase, prefixes []netip.Prefix, of func(*finding) [][]uint32, most int) [][]uint32 {
	paths := [][]uint32{}
	seen := map[string]bool{}
	for round, more := 0, true; more && len(paths) < most; round++ {
		more = false
		for _, p := range prefixes {
			ps := of(ic.findings[p])
			if round >= len(ps) {
				continue
			}
			more = true
			if key := fmt.Sprint(ps[round]); !seen[key] && len(paths) < most {
				seen[key] = true
				paths = append(paths, ps[round])
			}
		}
	}
	return paths
}

// mergeLedgers joins the evidence of the confirmed prefixes, or of all while none is: of each rule
// the line that weighs most. What speaks against one part of a burst says nothing of the others, so that one is
// as certain as its most certain part. The extent of a leak is evidence too.
func mergeLedgers(ic *incidentCase) ledger {
	prefixes := ic.telling()
	if isBurst(ic.key.kind) {
		best := slices.MaxFunc(prefixes, func(a, b netip.Prefix) int {
			return cmp.Compare(ic.findings[a].verdict.ledger.sum(), ic.findings[b].verdict.ledger.sum())
		})
		prefixes = []netip.Prefix{best}
	}
	var merged ledger
	at, named := map[string]int{}, 0
	for _, p := range prefixes {
		for _, l := range ic.findings[p].verdict.ledger {
			key := evidenceKey(l)
			i, ok := at[key]
			if !ok {
				if key != l.rule {
					if named++; named > maxNamed {
						continue
					}
				}
				at[key] = len(merged)
				merged = append(merged, l)
			} else if math.Abs(l.weight) > math.Abs(merged[i].weight) {
				merged[i] = l
			}
		}
	}
	switch n := ic.most; ic.key.kind {
	case incident.ReoriginationLeak:
		merged.add("burst.victims", weightManyPrefixes, "table", "", "%d prefixes of many networks at once: no attack is known to have been like that", n)
	case incident.RouteLeak:
		switch {
		case len(ic.victims) <= 1:
			w := weightFewPrefixes
			if i, ok := at["rel.valley"]; ok && merged[i].weight == weightValley {
				w /= 2 // nobody's guess makes a valley of it
			}
			merged.add("scale.one_origin", w, "table", "", "%s of one origin: this may be policy", plural(n, "prefix", "prefixes"))
		case n >= 10:
			merged.add("scale.many_prefixes", weightManyPrefixes, "table", "", "%d prefixes at once of %d origins are hardly policy", n, len(ic.victims))
		}
	}
	return merged
}

func (v *verdict) prefix(p netip.Prefix) incident.Prefix {
	ip := incident.Prefix{Prefix: p, Covering: v.covering, ExpectedOrigins: slices.Clone(v.expected), ObservedOrigins: []uint32{},
		RPKI: v.rpki.String(), IRR: v.irr.String()}
	if ip.ExpectedOrigins == nil {
		ip.ExpectedOrigins = []uint32{}
	}
	if v.observed != 0 {
		ip.ObservedOrigins = []uint32{v.observed}
	}
	return ip
}

func (c *correlator) visibility(ic *incidentCase) incident.Visibility {
	asns, collectors := map[uint32]bool{}, map[string]bool{}
	for p := range ic.peerRefs {
		asns[c.peers.list[p].ASN] = true
		collectors[c.peers.list[p].Collector] = true
	}
	return incident.Visibility{Peers: len(ic.peerRefs), PeerASNs: len(asns), FullFeedPeers: len(c.feeds()), Collectors: len(collectors)}
}

// feeds returns the peers with a full table.
func (c *correlator) feeds() map[peerID]bool {
	if c.full == nil {
		c.full = c.fullFeed()
	}
	return c.full
}

// share is the part of the full-feed peers that see the offence.
func (c *correlator) share(ic *incidentCase) float64 {
	full := c.feeds()
	n := 0
	for p := range ic.peerRefs {
		if full[p] {
			n++
		}
	}
	return float64(n) / float64(max(1, len(full)))
}

// severity ranks an incident by kind, spread and certainty: an attack seen by half of the full
// feeds is critical, one seen by less than a twentieth is medium, and so is a re-origination, whose traffic
// goes astray as surely. Squatting, by which none does, is a step below. A leak must also be large; one of more-specifics of one's own is low, and high at the
// most. Doubt (confidence below 0.8) costs one step. Mistakes never exceed medium. That a watched network has a new
// neighbour or prefix is low, and medium where half of the full feeds see it; a path against its policy is medium,
// and high then. Watches have the last word, see [severe].
func severity(k incident.Kind, prefixes int, confidence, share float64) incident.Severity {
	rank := 0
	switch k {
	case incident.OriginHijack, incident.SubprefixHijack, incident.ForgedPath, incident.ForgedPathSubprefix, incident.ReoriginationLeak:
		rank = incident.High.Rank()
		if share >= 0.5 {
			rank++
		} else if share < 0.05 {
			rank--
		}
	case incident.Squatting:
		rank = incident.Medium.Rank()
		if share >= 0.5 {
			rank++
		} else if share < 0.05 {
			rank--
		}
	case incident.RouteLeak:
		rank = incident.Medium.Rank()
		if share >= 0.5 || prefixes >= 100 {
			rank++
		}
		if share >= 0.5 && prefixes >= 1000 {
			rank++
		}
	case incident.InternalSpecifics:
		rank = incident.Low.Rank()
		if share >= 0.5 && prefixes >= 100 {
			rank++
		}
		if share >= 0.5 && prefixes >= 1000 {
			rank++
		}
	case incident.Prepend, incident.TypoASN, incident.TypoPrefix, incident.RPKIInvalid:
		rank = incident.Low.Rank()
		if share >= 0.5 {
			rank++
		}
	case incident.NewNeighbour, incident.NewPrefix, incident.PathPolicy:
		rank = incident.Low.Rank()
		if k == incident.PathPolicy {
			rank++
		}
		if share >= 0.5 {
			rank++
		}
	case incident.ROAChange:
		rank = turnSeverity(prefixes, share).Rank()
	case incident.BogonPrefix, incident.BogonASN, incident.PrivateASNLeak, incident.BlackholeLeak:
		rank = incident.Low.Rank()
	}
	if confidence < 0.8 {
		rank = max(0, rank-1)
	}
	return incident.Severities[rank]
}

// incidents returns every incident the correlator still knows, in the order of detection.
func (c *correlator) incidents() []incident.Incident {
	incs := []incident.Incident{}
	for _, ic := range c.cases {
		if ic.state == pending {
			continue
		}
		incs = append(incs, ic.last)
	}
	slices.SortFunc(incs, func(a, b incident.Incident) int {
		return cmp.Or(a.DetectedAt.Compare(b.DetectedAt), cmp.Compare(a.ID, b.ID))
	})
	return incs
}
