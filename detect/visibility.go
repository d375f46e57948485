package detect

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/ingest"
)

// A prefix has vanished when most of those who had it have withdrawn it, at once or one after the other over days.
// Only peers with a full table of its family are asked, as what the others lack says nothing.
//
// Every entry counts how many of these have it, and how many usually do, in 4 octets that lie where an entry had
// room. The second number follows the first up at once, and down slowly: by an eighth of the difference a day. So a
// loss that takes weeks is still a loss, and what has stayed lost is normal in the end; for one that was told
// that takes the settling time. When a session ends, both fall: nobody withdrew anything. A withdrawal costs one
// comparison; only a prefix of which fewer than half are left is looked at, and until it is back.
//
// Nobody is told of
//   - what lasts less than a minute (detect.absence): routers try other paths first, and wait for their timers
//     (RFC 4271 §9.2.1.1) in between; nor, where more than a twentieth still have it, of what lasts less than five
//     times as long: a link has failed and some have no other way, which most often is soon repaired;
//   - what a session, a router or a collector takes along that is lost, and what comes with a table transfer: sessions
//     that have been up for less than ten minutes are not asked;
//   - what fewer than a third of the full tables had;
//   - what a collector that is blind lacks (blind.go); it is told once that sees again, if it is still so;
//   - prefixes that are new, whose origin is not established, also where the baseline ends just then: a hijack that
//     ends is no loss, nor is a test;
//   - prefixes within a block that the same holder, or somebody it is connected with, still announces, and those
//     that went over to announcing their parts: the addresses can still be reached;
//   - beacons, which are withdrawn on purpose;
//   - what comes and goes: prefixes that are there for less than nine tenths of the time, and from the third time
//     within a day;
//   - the word of an AS on its own prefixes, and two sessions of one network count as one.
//
// Where false alarms remain: who gives up a prefix on purpose looks the same, until the settling time is over;
// maintenance too, and how long it lasts is told by severity. Where more than a twentieth still have it the cause
// may be far from the origin, which is never more than low. Without a table dump as the baseline nothing is told of
// what has been watched for less than a day.

const (
	// lossLong is from when on it is no mere interruption.
	lossLong = 10 * time.Minute
	// lossPartly is how many times as long one must last of which somebody is left.
	lossPartly = 5
	// lossOften is how often a prefix must vanish within a day to be one that comes and goes.
	lossOften = 3
	// transferTime is for how long after it came up the table of a session may still be under way.
	transferTime = 10 * time.Minute
	// looksATick is how many losses one tick is for: a hundredth of a second of work or two.
	looksATick = 500
	// weighEvery is how often it is looked which peers have a full table.
	weighEvery  = ingest.Time(60_000_000)
	wholeSecond = ingest.Time(1_000_000)
	oneDay      = ingest.Time(24 * 3600_000_000)
)

// Weights, see judge.go.
const (
	weightVanished     = 4.0  // nineteen in twenty of those who had it
	weightMostlyGone   = 3.0  // more than half
	weightLasts        = 1.0  // no router takes that long to find another path
	weightCoverStays   = -4.0 // traffic still arrives
	weightPartsStay    = -4.0
	weightBeacon       = -8.0
	weightComesAndGoes = -4.0
)

// periodicBelow is the share of the time below which a prefix is one that comes and goes, if it has been watched
// for as long as an established origin.
const periodicBelow = 0.9

// ruleLasts is the rule of the evidence that a loss goes on for lossLong.
const ruleLasts = "visibility.lasts"

// loss is that most peers that usually have a prefix have not. It is kept for a day after, so as to know what
// vanishes often.
type loss struct {
	since   ingest.Time // since when; 0 while it is back
	due     ingest.Time // when it is to be looked at again, as the agenda has it
	finding *finding    // what is told of it
	times   []ingest.Time
}

// lost reports that fewer than half of those who usually have e have it.
func (e *entry) lost() bool { return 2*int(e.full) < int(e.usual) }

// gone reports that hardly any of those who usually have e have it.
func (e *entry) gone() bool { return 20*int(e.full) <= int(e.usual) }

// withdrawn notes that a peer has withdrawn its route to e.
func (s *shard) withdrawn(e *entry, id uint32, at ingest.Time) {
	if !e.lost() {
		return
	}
	l := s.losses[id]
	if l == nil {
		l = &loss{}
		s.losses[id] = l
		e.fading = true
	}
	if l.since == 0 {
		l.since = at
	}
	if l.finding == nil {
		s.lookAgain(l, id, l.since.Add(s.absence))
	} else {
		s.lookAgain(l, id, at)
	}
}

// regained notes that a route to e, of which there is a loss, came, changed or went with its session.
func (s *shard) regained(e *entry, id uint32, at ingest.Time) {
	l := s.losses[id]
	if l.finding != nil {
		s.lookAgain(l, id, at)
	} else if !e.lost() {
		l.since = 0
	}
}

// lookAgain has a loss, that of the entry id, looked at in the first whole second from the time at on, or earlier if it was to
// be so.
func (s *shard) lookAgain(l *loss, id uint32, at ingest.Time) {
	if at = (at + wholeSecond - 1) / wholeSecond * wholeSecond; l.due == 0 || at < l.due {
		s.lookAt(l, id, at)
	}
}

// lookAt has a loss looked at in the tick that begins at the time at.
func (s *shard) lookAt(l *loss, id uint32, at ingest.Time) {
	l.due = at
	s.agenda.add(at, id)
}

// due reports that the agenda's word on an entry still holds.
func (s *shard) due(id uint32, at ingest.Time) bool {
	l := s.losses[id]
	return l != nil && l.due == at
}

// witnesses are the peers whose lack of a route tells something, by family.
type witnesses struct {
	peers [2][]peerID // sorted
	full  [2]int      // peers that are up and have a full table, with those that are not to be asked
}

// look looks at everything that falls due up to t, in whole seconds of event time: what only time tells must be told at the same
// time whether updates come or not.
func (e *Engine) look(t ingest.Time) {
	if e.learn {
		return
	}
	if t/weighEvery != e.clock/weighEvery {
		e.weighFeeds()
	}
	if t/oneDay != e.clock/oneDay {
		e.parallel(func(s *shard) { s.ageBaseline(uint16(t / oneDay % 8)) })
	}
	for {
		at, feeds := e.nextLook(), e.nextFeedLook()
		if at == 0 || feeds != 0 && feeds < at {
			at = feeds
		}
		if at == 0 || at > t {
			return
		}
		e.cases.fireDeadlines(at)
		e.clock = at
		if at == feeds {
			e.lookAtFeeds()
		}
		e.findWitnesses()
		need := e.cases.need()
		due := make([][]uint32, len(e.shards))
		fresh := 0
		for i, s := range e.shards {
			due[i] = s.agenda.take(at, s.due)
			for _, id := range due[i] {
				if !s.losses[id].putOff() {
					fresh++
				}
			}
		}
		e.parallel(func(s *shard) {
			s.now, s.need = at, need
			s.lookAtLosses(due[s.number], uint64(fresh+looksATick-1)/looksATick)
		})
		e.correlate()
	}
}

// nextLook is the start of the next tick in which something is due; 0 where nothing is.
func (e *Engine) nextLook() ingest.Time {
	next := ingest.Time(0)
	for _, s := range e.shards {
		if at := s.agenda.next(s.due); at != 0 && (next == 0 || at < next) {
			next = at
		}
	}
	if next == 0 {
		return 0
	}
	return max((next+tick-1)/tick, e.clock/tick+1) * tick
}

// weighFeeds finds out which peers have a full table of which family: at least half as many routes as the one with most. One
// that had it has it until it falls below two fifths. Where that changes all entries are counted anew.
func (e *Engine) weighFeeds() {
	was, now := make([][2]bool, len(e.peers.list)), make([][2]bool, len(e.peers.list))
	counts := make([][2]int, len(e.peers.list))
	var most [2]int
	for _, s := range e.shards {
		for id, p := range s.table.perPeer {
			for f := range counts[id] {
				counts[id][f] += int(p.routes[f])
				most[f] = max(most[f], counts[id][f])
				was[id][f] = p.full[f]
			}
		}
	}
	changed := false
	for id := range counts[:min(len(counts), math.MaxUint16)] { // of more, entries could not count
		for f, n := range counts[id] {
			now[id][f] = n > 0 && (2*n >= most[f] || was[id][f] && 5*n >= 2*most[f])
			changed = changed || now[id][f] != was[id][f]
		}
	}
	if changed {
		e.parallel(func(s *shard) {
			s.table.recount(was, now)
			s.lookAtAll(e.clock)
		})
	}
}

// lookAtAll has everything looked at again that is lost: others than before are asked.
func (s *shard) lookAtAll(at ingest.Time) {
	for id, l := range s.losses {
		if l.since != 0 {
			s.lookAgain(l, id, max(at, l.since.Add(s.absence)))
		}
	}
}

// recount counts every entry anew after other peers than before have a full table. Whose word no longer counts has withdrawn
// nothing.
func (t *table) recount(was, now [][2]bool) {
	for id := range now {
		t.ofPeer(peerID(id)).full = now[id]
	}
	for _, e := range t.all() {
		f, full, usual := family(e.prefix.Addr()), e.full, e.usual
		for _, r := range e.routes {
			switch {
			case now[r.peer][f] && !was[r.peer][f]:
				full++
			case was[r.peer][f] && !now[r.peer][f]:
				full--
				usual -= min(usual, 1)
			}
		}
		e.full, e.usual = full, max(full, usual)
	}
}

// ageBaseline lets what is usual fall towards what is by an eighth of the difference, which is rounded in another way on each
// of eight days, so that over these it comes out right.
func (s *shard) ageBaseline(round uint16) {
	for _, e := range s.table.all() {
		if e.usual > e.full {
			e.usual -= (e.usual - e.full + round) / 8
		}
	}
}

func (e *Engine) findWitnesses() {
	for f := range 2 {
		e.witnesses.peers[f], e.witnesses.full[f] = e.witnesses.peers[f][:0], 0
	}
	for id := range e.peers.list {
		p := &e.peers.list[id]
		if _, blind := e.cases.blind[p.Collector]; blind || !p.up {
			continue
		}
		for f, full := range e.peerIsFull(id) {
			if !full {
				continue
			}
			e.witnesses.full[f]++
			if p.since == 0 || e.clock.Sub(p.since) >= transferTime {
				e.witnesses.peers[f] = append(e.witnesses.peers[f], peerID(id))
			}
		}
	}
}

func (e *Engine) peerIsFull(id int) [2]bool {
	if of := e.shards[0].table.perPeer; id < len(of) {
		return of[id].full
	}
	return [2]bool{}
}

// putOff reports that a look was put off already. It is not put off again.
func (l *loss) putOff() bool { return l.due%wholeSecond != 0 }

// lookAtLosses looks at the losses that are due. Where those that are due in this second are more than one tick is for, they are
// spread over so many ticks by a hash of their prefixes, which is the same however many shards there are. None of these ticks
// begins a second, which is when others are due.
func (s *shard) lookAtLosses(due []uint32, ticks uint64) {
	const perSecond = uint64(wholeSecond/tick) - 1
	for _, id := range due {
		l := s.losses[id]
		if ticks > 1 && !l.putOff() {
			if wait := spread(s.table.entry(id).prefix) % ticks; wait > 0 {
				seconds, ticks := (wait-1)/perSecond, 1+(wait-1)%perSecond
				s.lookAt(l, id, (s.now/wholeSecond+ingest.Time(seconds))*wholeSecond+ingest.Time(ticks)*tick)
				continue
			}
		}
		s.lookAtLoss(id, l)
	}
}

// spread is a hash of a prefix that is the same in every run, as what is told of a loss depends on when it is looked at.
func spread(p netip.Prefix) uint64 {
	hi, lo := words(p.Addr())
	hi, lo = bits.Mul64(hi^lo^uint64(p.Bits()), 0x9e3779b97f4a7c15)
	return hi ^ lo
}

func (s *shard) lookAtLoss(id uint32, l *loss) {
	e := s.table.entry(id)
	l.due = 0
	l.times = slices.DeleteFunc(l.times, func(t ingest.Time) bool { return s.now-t >= oneDay })
	if l.since != 0 && e.lost() && s.now.Sub(l.since) >= s.settle {
		e.usual = e.full // it has been so for so long that this is how things stand
	}
	if l.since == 0 || !e.lost() {
		s.tellLoss(e, l, nil)
		l.since = 0
		if len(l.times) == 0 {
			e.fading = false
			delete(s.losses, id)
			return
		}
		s.lookAgain(l, id, l.times[0]+oneDay)
		return
	}
	next := l.since.Add(s.absence)
	if l.finding == nil && !e.gone() {
		next = l.since.Add(lossPartly * s.absence)
	}
	if s.now >= next {
		f, tells := s.judgeLoss(e, l)
		switch {
		case tells && f != nil && l.finding == nil:
			l.times = append(l.times[max(0, len(l.times)-lossOften+1):], s.now)
			s.tellLoss(e, l, f)
		case tells:
			s.tellLoss(e, l, f)
		}
		if next = l.since.Add(lossLong); s.now >= next {
			next = min(s.now+oneDay, max(l.since.Add(s.settle), s.now+1))
		}
		if f == nil {
			wait := min(s.now.Sub(l.since)/4, time.Hour)
			next = min(next, s.now.Add(max(wait, time.Minute))) // others may tell by then
		}
	}
	s.lookAgain(l, id, next)
}

// tellLoss makes f what is told of a loss of e; nil: nothing.
func (s *shard) tellLoss(e *entry, l *loss, f *finding) {
	old := l.finding
	switch {
	case old == nil && f == nil:
		return
	case f == nil:
		s.changes = append(s.changes, findingChange{old.key, e.prefix, s.now, nil})
	default:
		if old != nil && old.key != f.key {
			s.changes = append(s.changes, findingChange{old.key, e.prefix, s.now, nil})
		} else if old != nil && slices.Equal(old.peers, f.peers) && bytes.Equal(old.verdict.ledger.common(nil), f.verdict.ledger.common(nil)) {
			return
		}
		s.changes = append(s.changes, findingChange{f.key, e.prefix, s.now, f})
	}
	l.finding = f
}

// judgeLoss judges that e is lost. It returns nil where there is nothing to tell, and tells is false where too few
// witnesses are left to say whether it is lost.
func (s *shard) judgeLoss(e *entry, l *loss) (f *finding, tells bool) {
	o := s.lostOrigin(e, l.since)
	if o == nil {
		return nil, true
	}
	origin, fam := o.Origin(), family(e.prefix.Addr())
	lack, have := s.asked(e, origin, fam)
	had := int(e.usual)
	switch {
	case len(lack)+len(have) < s.need:
		return nil, false
	case 3*had < s.witnesses.full[fam], len(lack) < s.need, len(lack) <= len(have):
		return nil, true
	}
	v := &verdict{kind: incident.VisibilityLoss, victim: origin, expected: []uint32{origin}, ledger: newLedger()}
	v.rpki, v.irr = s.know.VRPs.State(e.prefix, origin, true), s.know.IRR.State(e.prefix, origin)
	w := weightMostlyGone
	if e.gone() {
		w = weightVanished
	}
	v.ledger.add("visibility.lost", w, "table", "", "of the %s with a full table that usually have %s, %d are left; %s lack it", plural(had, "peer", "peers"), e.prefix,
		e.full, plural(len(lack), "network", "networks"))
	if e.gone() && s.now.Sub(l.since) >= lossLong {
		v.ledger.add(ruleLasts, weightLasts, "table", "", "it has been so for more than %.0f minutes", lossLong.Minutes())
	}
	facts := s.table.history.Facts(o, s.now, s.peers.active)
	s.tellHistory(v, e, nil, o)
	if l.finding == nil && s.table.history.Watched() >= established && facts.TimeShare < periodicBelow {
		v.ledger.add("history.periodic", weightComesAndGoes, "history", s.baseline(), "it is there %.0f %% of the time: it comes and goes", 100*facts.TimeShare)
	}
	if before := len(l.times); l.finding == nil && before >= lossOften-1 {
		v.ledger.add("visibility.often", weightComesAndGoes, "table", "", "it vanished %s before within a day: it comes and goes", plural(before, "time", "times"))
	}
	s.weighReachable(v, e, origin)
	if name, ok := registry.Beacon(e.prefix); ok {
		v.ledger.add("prefix.beacon", weightBeacon, "classes", "built in", "%s is a beacon of %s, announced and withdrawn on purpose", e.prefix, name)
	}
	fd := &finding{key: v.key(), prefix: e.prefix, since: l.since, verdict: v, asns: len(lack)}
	for _, peers := range lack {
		fd.peers = append(fd.peers, peers...)
	}
	slices.Sort(fd.peers)
	if s.onVerdict != nil {
		s.onVerdict(Verdict{Time: s.now, Prefix: e.prefix, Kind: v.kind, Victim: v.victim, PeerASNs: fd.asns, Agreed: true, Evidence: v.ledger.evidence()})
	}
	if !v.raised() {
		return nil, true
	}
	return fd, true
}

// lostOrigin is the established origin that e last had, by most peers; nil where there is none. One that the baseline
// had counts as such if it was there for half of the time until the loss began: not if it came and went meanwhile.
func (s *shard) lostOrigin(e *entry, since ingest.Time) *origins.Pair {
	before := s.table.history.Watched() - s.now.Sub(since)
	var best *origins.Pair
	var facts origins.Facts
	for _, o := range s.usualOrigins(e) {
		present := s.table.history.Present(o, s.now)
		if !(o.Baseline() && !s.partial && 2*present >= before) && present < established || registry.ReservedASN(o.Origin()) {
			continue
		}
		f := s.table.history.Facts(o, s.now, s.peers.active)
		if best == nil || cmp.Or(f.LastSeen.Compare(facts.LastSeen), cmp.Compare(f.PeerShare, facts.PeerShare)) > 0 {
			best, facts = o, f
		}
	}
	return best
}

// asked returns which networks lack e, with the sessions that do, and which have it, of those whose word counts.
func (s *shard) asked(e *entry, origin uint32, fam int) (lack map[uint32][]peerID, have map[uint32]bool) {
	lack, have = map[uint32][]peerID{}, map[uint32]bool{}
	i := 0
	for _, id := range s.witnesses.peers[fam] {
		asn := s.peers.list[id].ASN
		for i < len(e.routes) && e.routes[i].peer < id {
			i++
		}
		switch {
		case asn == origin:
		case i < len(e.routes) && e.routes[i].peer == id:
			have[asn] = true
		default:
			lack[asn] = append(lack[asn], id)
		}
	}
	maps.DeleteFunc(lack, func(asn uint32, _ []peerID) bool { return have[asn] })
	return lack, have
}

// weighReachable adds by which other routes the addresses of e can be reached.
func (s *shard) weighReachable(v *verdict, e *entry, origin uint32) {
	if s.announced(e.prefix, 4) {
		v.ledger.add("parts.stay", weightPartsStay, "table", "", "all of %s is still announced in parts", e.prefix)
		return
	}
	for c := range s.table.covering(e.prefix) {
		if len(c.routes) == 0 || c.lost() || c.prefix.Bits() < minBits(c.prefix) || !s.seenByEnough(c) {
			continue
		}
		usual := s.usualOrigins(c)
		if len(usual) == 0 {
			continue
		}
		v.covering = c.prefix
		if slices.ContainsFunc(usual, func(o *origins.Pair) bool {
			return o.Routes() > 0 && (o.Origin() == origin || s.related(o.Origin(), origin))
		}) {
			v.ledger.add("cover.stays", weightCoverStays, "table", "", "%s, which contains it, is still announced by %s: the addresses can be reached that way", c.prefix, asList(asns(usual)))
		} else {
			v.ledger.add("cover.foreign", 0, "table", "", "%s, which contains it, is announced by %s, whom nothing connects with AS%d: traffic may not arrive", c.prefix, asList(asns(usual)), origin)
		}
		return
	}
}

// upperHalf returns the second of the two halves of p, which is not a single address.
func upperHalf(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	b[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits()+1)
}

// announced reports that most peers can reach all of p's addresses by more-specifics, down to so many lengths.
func (s *shard) announced(p netip.Prefix, depth int) bool {
	if depth == 0 || p.Bits() >= p.Addr().BitLen() {
		return false
	}
	lower := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	for _, part := range [2]netip.Prefix{lower, upperHalf(p)} {
		id, known := s.table.lookup(part)
		if known {
			e := s.table.entry(id)
			known = len(e.routes) > 0 && !e.lost() && s.seenByEnough(e)
		}
		if !known && !s.announced(part, depth-1) {
			return false
		}
	}
	return true
}

// lossSeverity ranks a loss: low while it may be a mere interruption, then medium, or high from a hundred prefixes on.
func (ic *incidentCase) lossSeverity() incident.Severity {
	switch {
	case !ic.lasting():
		return incident.Low
	case len(ic.findings) >= 100:
		return incident.High
	}
	return incident.Medium
}

// lasting reports that most of a case's prefixes are lost for so long that this is no mere interruption.
func (ic *incidentCase) lasting() bool {
	n := 0
	for _, a := range ic.ledgers { // few, however many findings there are
		if strings.Contains(a.common, ruleLasts) {
			n += len(a.first.sorted) + a.first.rest
		}
	}
	return 2*n > len(ic.findings)
}

// lossSnapshot is a loss at rest. What is told of it is among the findings.
type lossSnapshot struct {
	Entry      uint32
	Since, Due ingest.Time
	Times      []ingest.Time
}

// saveLoss adds the loss of an entry, which is the one at place in the snapshot.
func (s *shard) saveLoss(out *snapshot, id, place uint32) error {
	l := s.losses[id]
	if l == nil {
		return nil
	}
	out.Losses = append(out.Losses, lossSnapshot{place, l.since, l.due, l.times})
	if l.finding == nil {
		return nil
	}
	fs, err := l.finding.save(place)
	out.Findings = append(out.Findings, fs)
	return err
}

// loadLosses gives saved losses back to their shards.
func (e *Engine) loadLosses(s *snapshot, places []place) error {
	for _, ls := range s.Losses {
		if int(ls.Entry) >= len(places) {
			return fmt.Errorf("detector state: damaged: a loss without a prefix")
		}
		sh, id := places[ls.Entry].shard, places[ls.Entry].id
		if sh.losses[id] != nil || ls.Due <= 0 {
			return fmt.Errorf("detector state: damaged: a loss twice, or without a time")
		}
		l := &loss{since: ls.Since, times: ls.Times}
		sh.losses[id], sh.table.entry(id).fading = l, true
		sh.lookAt(l, id, ls.Due)
	}
	return nil
}
