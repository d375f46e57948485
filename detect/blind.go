package detect

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
)

// A collector that is blind is an incident of its own, and marks those that depend on it: nobody must take what a
// blind collector does not say for something that is not there. It is blind when most of the peers that it had are
// gone, when it fell silent though it used to say much, when most of what it says is old, or when the source that hears it
// is not connected. All but the last is in the updates and in event time, which goes on with other feeds or, live, by
// itself: so a replay tells the same. Of the last there are signs of life of the sources (Engine.Sign), which are in no
// history.
//
// Nobody is told of
//   - sessions that are reset: most must be gone for a minute;
//   - the silence of a collector that does not speak all the time: in nine of ten minutes of its last hour;
//   - a few late updates among others that are not, such as what one peer had kept back;
//   - peers that leave one after the other over days: what is usual follows by one peer an hour.
//
// Where false alarms remain: an input of some collectors' files of which one ends before the others looks like a
// collector that fell silent, and so it is as far as verdicts go.

const (
	feedFewFor    = time.Minute     // most peers must be gone for so long
	feedLostFor   = time.Minute     // so long must no source that hears it have been connected
	feedSilentFor = 5 * time.Minute // so long must it have said nothing
	feedBusy      = 54              // that spoke in so many minutes of its last whole hour
	feedOld       = 2 * time.Minute // so old is what lags
	feedOldFor    = time.Minute
	// feedWeighs is the share of all peers from which every verdict depends on a collector, also where none of its peers is a
	// witness.
	feedWeighs = 0.1
)

// feedState is how a collector stands.
type feedState struct {
	Usual     int         // peers it had at once; forgotten by one an hour
	Few       ingest.Time // since when most of these are gone; 0 while not
	Heard     ingest.Time // the last look at which it had said something
	LastHour  int         // minutes of the last whole hour in which it said something
	ThisHour  int
	Sources   []string    // that have said that they hear it, in order of their names
	Lost      ingest.Time // since when none of these is connected; 0 while one is, or nobody knows
	Late      ingest.Time // since when most of what it says is old; 0 while not
	Why       string      // what makes it blind; "" while it sees
	Since     ingest.Time // since when
	Detail    string
	Hour      ingest.Time
	Said, Old int // updates since the last look, and those of them that were old
}

func (e *Engine) feed(name string) *feedState {
	f := e.feeds[name]
	if f == nil {
		f = &feedState{}
		e.feeds[name] = f
	}
	return f
}

// heard notes an update for the next look at feeds.
func (e *Engine) heard(u *ingest.Update) {
	f := e.lastFeed
	if f == nil || e.lastFeedName != u.Peer.Collector {
		f = e.feed(u.Peer.Collector)
		e.lastFeed, e.lastFeedName = f, u.Peer.Collector
	}
	f.Said++
	if e.clock.Sub(u.Time) > feedOld {
		f.Old++
	}
	e.feedNews = true
}

// Sign takes a sign of life of a source: it is connected, and hears these collectors among others. Where signs have come
// they must go on: after a minute without, a collector that none of its sources hears any more, and that says nothing, is
// cut off. Signs are not in the history that is replayed, and not in snapshots: until the first one nothing is concluded.
func (e *Engine) Sign(source string, collectors []string) {
	if e.clock == 0 {
		return // nobody knows the time yet
	}
	e.signs[source] = e.clock
	for _, name := range collectors {
		f := e.feeds[name]
		if f == nil {
			continue // none of its peers counts
		}
		if i, known := slices.BinarySearch(f.Sources, source); !known {
			f.Sources = slices.Insert(f.Sources, i, source)
		}
	}
	for _, f := range e.feeds {
		e.feedNews = e.feedNews || f.Lost != 0 && slices.Contains(f.Sources, source)
	}
}

// lost notes since when no source of a collector has been connected.
func (e *Engine) lost(f *feedState) {
	last := ingest.Time(0)
	for _, source := range f.Sources {
		at, known := e.signs[source]
		if !known {
			return // as it was: nobody knows
		}
		last = max(last, at)
	}
	switch gone := len(f.Sources) > 0 && e.clock.Sub(max(last, f.Heard)) >= feedLostFor; {
	case !gone:
		f.Lost = 0
	case f.Lost == 0:
		f.Lost = max(last, 1)
	}
}

// nextFeedLook is when the feeds are to be looked at: each minute while there is anything new, and when what was seen has lasted for
// long enough; 0: never.
func (e *Engine) nextFeedLook() ingest.Time {
	next := ingest.Time(0)
	at := func(t ingest.Time) {
		if t > e.clock && (next == 0 || t < next) {
			next = t
		}
	}
	if e.feedNews {
		at((e.clock/weighEvery + 1) * weighEvery)
	}
	for _, f := range e.feeds {
		if f.Few != 0 {
			at(f.Few.Add(feedFewFor))
		}
		if f.LastHour >= feedBusy {
			at(f.Heard.Add(feedSilentFor))
		}
		if f.Late != 0 {
			at(f.Late.Add(feedOldFor))
		}
		if f.Lost == 0 {
			for _, source := range f.Sources {
				if sign, known := e.signs[source]; known {
					at(max(sign, f.Heard).Add(feedLostFor))
				}
			}
		}
	}
	return next
}

// countFeeds takes the peers that each collector has now as usual.
func (e *Engine) countFeeds() {
	up := map[string]int{}
	for p := range e.peers.sessions {
		up[p.Collector]++
	}
	for name, n := range up {
		f := e.feed(name)
		f.Usual = max(f.Usual, n)
	}
}

// lookAtFeeds finds out which collectors are blind.
func (e *Engine) lookAtFeeds() {
	up := map[string]int{}
	for i := range e.peers.list {
		e.feed(e.peers.list[i].Collector)
	}
	for p := range e.peers.sessions {
		up[p.Collector]++
	}
	e.feedNews = false
	var changes []findingChange
	for _, name := range slices.Sorted(maps.Keys(e.feeds)) {
		f := e.feeds[name]
		before := f.Why
		if f.Said > 0 {
			f.Heard = e.clock
		}
		e.lost(f)
		f.look(feedName(name), up[name], e.clock)
		if f.Why == before {
			continue
		}
		change := findingChange{key: e.feedKey(name), at: e.clock}
		if f.Why != "" {
			if before == "" {
				f.Since = e.clock
				for _, t := range []ingest.Time{f.Few, f.Heard, f.Late, f.Lost} {
					if t != 0 {
						f.Since = min(f.Since, t)
					}
				}
			}
			change.now = f.finding(change.key)
		}
		changes = append(changes, change)
	}
	if len(changes) == 0 {
		return
	}
	e.cases.blind = map[string]string{}
	for name, f := range e.feeds {
		if f.Why != "" {
			e.cases.blind[name] = f.Detail
		}
	}
	slices.SortStableFunc(changes, compareChanges)
	e.cases.apply(changes, e.clock)
	e.cases.feedsChanged(e.clock)
	for _, s := range e.shards {
		s.lookAtAll(e.clock)
	}
}

func feedName(collector string) string {
	return cmp.Or(collector, "the feed without a name")
}

// look works out whether, and why, a collector is blind.
func (f *feedState) look(name string, up int, at ingest.Time) {
	f.Usual = max(f.Usual, up)
	if hour := at / settleCheck; hour != f.Hour && f.Said > 0 { // hours of silence do not count
		f.Hour = hour
		f.Usual = max(up, f.Usual-1)
		f.LastHour, f.ThisHour = f.ThisHour, 0
	}
	if f.Said > 0 {
		f.ThisHour++
	}
	since := func(t *ingest.Time, is bool) {
		switch {
		case !is:
			*t = 0
		case *t == 0:
			*t = at
		}
	}
	since(&f.Few, 2*up < f.Usual)
	if f.Said > 0 {
		since(&f.Late, 2*f.Old > f.Said)
	}
	f.Said, f.Old = 0, 0
	why := ""
	switch {
	case f.Lost != 0:
		why = fmt.Sprintf("%s is cut off: what hears it has not been connected since %s", name, minute(f.Lost))
	case f.Few != 0 && at.Sub(f.Few) >= feedFewFor && up == 0:
		why = fmt.Sprintf("%s is down: none of its %s is left", name, plural(f.Usual, "peer", "peers"))
	case f.Few != 0 && at.Sub(f.Few) >= feedFewFor:
		why = fmt.Sprintf("%s lost most of its peers: %d of %d are left", name, up, f.Usual)
	case f.LastHour >= feedBusy && at.Sub(f.Heard) >= feedSilentFor:
		why = fmt.Sprintf("%s is silent: nothing was heard of it since %s", name, minute(f.Heard))
	case f.Late != 0 && at.Sub(f.Late) >= feedOldFor:
		why = fmt.Sprintf("%s lags: most of what it says is more than %.0f minutes old", name, feedOld.Minutes())
	}
	kind := why[:max(0, slices.Index([]byte(why), ':'))]
	if kind != f.Why {
		f.Why, f.Detail = kind, why // as it began
	}
}

// feedKey is the case of a collector, which is known by the place of its first peer: peers are never forgotten.
func (e *Engine) feedKey(name string) caseKey {
	i := slices.IndexFunc(e.peers.list, func(p peerInfo) bool { return p.Collector == name })
	return caseKey{kind: incident.FeedBlind, victim: uint32(i + 1)}
}

// finding is what goes into the incident. No peer's word is needed for it, and it concerns no prefix.
func (f *feedState) finding(k caseKey) *finding {
	v := &verdict{kind: incident.FeedBlind, ledger: newLedger()}
	v.ledger.add(ruleBlind, weightProven, "feeds", "", "%s", f.Detail)
	return &finding{key: k, since: f.Since, verdict: v, asns: math.MaxInt32}
}

// ruleBlind is the rule of the evidence that says what is the matter with a collector.
const ruleBlind = "feed.blind"

// blindTitle is the title of an incident of this kind.
func blindTitle(inc *incident.Incident) string {
	for _, e := range inc.Evidence {
		if e.Rule == ruleBlind {
			return e.Detail
		}
	}
	return "A collector is blind"
}

// feedsChanged lets every case that is open tell what it depends on now.
func (c *correlator) feedsChanged(now ingest.Time) {
	for _, k := range slices.SortedFunc(maps.Keys(c.cases), caseKey.compare) {
		ic := c.cases[k]
		if ic.state == open && k.kind != incident.FeedBlind && !slices.Equal(c.degraded(ic), ic.last.Degraded) {
			ic.dirty = true
			c.report(ic, now)
		}
	}
}

// degraded lists why what is known of a case may be incomplete: the blind collectors whose peers are witnesses of it, or
// have a fair share of all.
func (c *correlator) degraded(ic *incidentCase) []string {
	reasons := []string{}
	if len(c.blind) == 0 || ic.key.kind == incident.FeedBlind {
		return reasons
	}
	peers := map[string]int{}
	for i := range c.peers.list {
		peers[c.peers.list[i].Collector]++
	}
	for _, name := range slices.Sorted(maps.Keys(c.blind)) {
		depends := float64(peers[name]) >= feedWeighs*float64(len(c.peers.list))
		for p := range ic.peerRefs {
			depends = depends || c.peers.list[p].Collector == name
		}
		if depends {
			reasons = append(reasons, c.blind[name])
		}
	}
	return reasons
}

// loadFeeds brings back how the collectors stand, after the cases.
func (e *Engine) loadFeeds(s *snapshot) error {
	for name, f := range s.Feeds {
		e.feeds[name] = &f
		e.feedNews = true
		if f.Why == "" {
			continue
		}
		e.cases.blind[name] = f.Detail
		k := e.feedKey(name)
		ic := e.cases.cases[k]
		if ic == nil {
			return fmt.Errorf("detector state: damaged: a blind feed without its case")
		}
		ic.replace(findingChange{k, netip.Prefix{}, f.Since, f.finding(k)}, e.cases.need())
	}
	return nil
}
