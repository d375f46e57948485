package simulate

import (
	"cmp"
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/scorecard"
	"github.com/routevigil/routevigil/ingest"
)

// message is one thing that a session says of one prefix.
type message struct {
	at          ingest.Time
	session     int32
	destination int32
	what        saying
	route       *route // nil: it has none any more
}

type saying uint8

const (
	says     saying = iota
	repeats         // whatever it last said, if that was a route
	goesDown        // the session ends
	comesUp
)

// action is something that is done to the world at a time.
type action struct {
	at ingest.Time
	do func()
}

// failure is a link that is down. Whatever was worked out meanwhile is worked out again at its repair.
type failure struct {
	a, b    node
	touched map[int]bool
}

// history is what happens to a world.
type history struct {
	*world
	now      ingest.Time
	rib      [][]*route // what the vantage points held at the start, by destination
	actions  []action   // in order of time
	messages []message
	last     map[[2]int32]ingest.Time // by session and destination: when it last said something of it
	cause    *scorecard.Label         // of what is said now; nil for what merely happens

	// The time that each session takes to hear what happens now, and what was worked out of it: by the first source of an
	// announcement, which prefixes announced alike share.
	delays []time.Duration
	memo   map[*source][]*route

	failures []*failure
	busy     map[node]ingest.Time // ASes that an event concerns, until when
	labels   []*scorecard.Label
	resets   []int32 // sessions that are reset at some time
}

// newHistory begins with what is usually said.
func newHistory(w *world) *history {
	h := &history{world: w, now: ingest.TimeOf(w.c.Start), last: map[[2]int32]ingest.Time{}, memo: map[*source][]*route{}, busy: map[node]ingest.Time{}}
	for _, d := range h.destinations {
		d.said, d.heard = d.usual, h.hears(d.usual)
		h.rib = append(h.rib, d.heard)
	}
	return h
}

func (h *history) at(t ingest.Time, do func()) {
	i, _ := slices.BinarySearchFunc(h.actions, t, func(a action, t ingest.Time) int {
		if a.at <= t {
			return -1
		}
		return 1
	})
	h.actions = slices.Insert(h.actions, i, action{t, do})
}

func (h *history) after(d time.Duration, do func()) { h.at(h.now.Add(d), do) }

// run does every action in order of time.
func (h *history) run() {
	for len(h.actions) > 0 {
		a := h.actions[0]
		h.actions = h.actions[1:]
		h.now, h.cause = a.at, nil
		clear(h.memo)
		h.delays = h.delays[:0]
		for _, slowness := range h.slowness {
			// MRAI timers and busy routers on the way: from half a second, 8 seconds in the mean.
			d := min(0.5+h.rng.ExpFloat64()*6*slowness, 90)
			h.delays = append(h.delays, time.Duration(d*float64(time.Second)))
		}
		a.do()
	}
}

// hears returns what each vantage point says of a prefix of which this is said.
func (h *history) hears(said announcement) []*route {
	if len(said) == 0 {
		return make([]*route, len(h.vantages))
	}
	if routes, ok := h.memo[&said[0]]; ok {
		return routes
	}
	h.spread.spread(said)
	routes := make([]*route, len(h.vantages))
	for i, v := range h.vantages {
		if c := h.spread.class[v.at]; h.shows(v, c) {
			routes[i] = &route{path: h.spread.path(nil, v.at), otc: h.spread.otcOf(v.at)}
		}
	}
	h.memo[&said[0]] = routes
	return routes
}

func (h *history) shows(v vantage, c class) bool {
	return c == own || c == fromCustomer || c != noRoute && !v.partial
}

// hunts returns the routes that vantage points hold for a moment after all that is said of a prefix has gone.
func (h *history) hunts(said announcement) []*route {
	h.spread.spread(said)
	routes := make([]*route, len(h.vantages))
	for i, v := range h.vantages {
		if path, c := h.spread.second(v.at); len(path) > 0 && h.shows(v, c) {
			routes[i] = &route{path: path}
		}
	}
	return routes
}

// say changes what is said of a destination, now.
func (h *history) say(i int, said announcement) {
	d := h.destinations[i]
	for _, f := range h.failures {
		f.touched[i] = true
	}
	before, after := d.heard, h.hears(said)
	var hunted []*route
	if len(said) == 0 && len(d.said) > 0 {
		hunted = h.hunts(d.said)
	}
	d.said, d.heard = said, after
	for v := range h.vantages {
		if before[v].equal(after[v]) {
			continue
		}
		hunts := hunted != nil && hunted[v] != nil && h.rng.Float64() < 0.4
		for _, s := range h.vantages[v].sessions {
			delay := h.delays[s]
			if hunts {
				h.tell(s, i, delay, hunted[v])
				delay += time.Duration((1 + 29*h.rng.Float64()) * float64(time.Second))
			}
			h.tell(s, i, delay, after[v])
		}
	}
}

// tell has a session say something of a destination, but not before what it has still to say of it.
func (h *history) tell(session, destination int, delay time.Duration, r *route) {
	key := [2]int32{int32(session), int32(destination)}
	at := max(h.now.Add(delay), h.last[key]+1)
	h.last[key] = at
	h.messages = append(h.messages, message{at: at, session: key[0], destination: key[1], route: r})
	h.caused(at)
	// A link that fails meanwhile may end an event, or show it to others.
	if l := h.destinations[destination].under; l != nil && l.Start != 0 {
		l.End = max(l.End, at)
	}
}

func (h *history) caused(at ingest.Time) {
	if l := h.cause; l != nil {
		if l.Start == 0 {
			l.Start = at
		}
		l.Start, l.End = min(l.Start, at), max(l.End, at)
	}
}

// over returns the destinations that some vantage point reaches over the link.
func (h *history) over(a, b node) []int {
	x, y := h.g.asns[a], h.g.asns[b]
	var found []int
	for i, d := range h.destinations {
		if slices.ContainsFunc(d.heard, func(r *route) bool { return r != nil && crosses(r.path, x, y) }) {
			found = append(found, i)
		}
	}
	return found
}

func crosses(path []uint32, x, y uint32) bool {
	for i := 1; i < len(path); i++ {
		if path[i-1] == x && path[i] == y || path[i-1] == y && path[i] == x {
			return true
		}
	}
	return false
}

// cut takes a link down and has it repaired after a time.
func (h *history) cut(a, b node, concerned []int, lasts time.Duration) {
	f := &failure{a, b, map[int]bool{}}
	h.failures = append(h.failures, f)
	h.spread.fails(a, b, true)
	clear(h.memo)
	lost := map[node]*scorecard.Label{}
	for _, i := range concerned {
		d := h.destinations[i]
		before := heardBy(d)
		h.say(i, d.said)
		if n := heardBy(d); d.block != nil && 2*n < before && before-n >= enough {
			h.cutsOff(lost, d, lasts)
		}
	}
	cause := h.cause
	h.after(lasts, func() {
		h.cause = cause
		h.failures = slices.DeleteFunc(h.failures, func(g *failure) bool { return g == f })
		h.spread.fails(a, b, false)
		var touched []int
		for i := range f.touched {
			touched = append(touched, i)
		}
		slices.Sort(touched)
		for _, i := range touched {
			h.say(i, h.destinations[i].said)
		}
	})
}

// heardBy is how many vantage points have a route to d.
func heardBy(d *destination) (n int) {
	for _, r := range d.heard {
		if r != nil {
			n++
		}
	}
	return n
}

// cutsOff notes that most vantage points have lost d with a link: that it has vanished is then true, whatever the cause.
func (h *history) cutsOff(lost map[node]*scorecard.Label, d *destination, lasts time.Duration) {
	l := lost[d.block.holder]
	if l == nil {
		l = &scorecard.Label{Kind: incident.VisibilityLoss, Proof: "a link failed, and most had no other way", Victims: h.asn(d.block.holder),
			Start: h.now, End: h.now.Add(lasts + 2*time.Minute)}
		lost[d.block.holder] = l
		h.labels = append(h.labels, l)
	}
	l.Prefixes = append(l.Prefixes, d.prefix)
}

// linkInUse draws a link that carries the routes to 1 to most groups of destinations, and returns those.
func (h *history) linkInUse(most int) (a, b node, concerned []int) {
	for range 30 {
		d := h.destinations[h.rng.IntN(len(h.destinations))]
		r := d.heard[h.rng.IntN(len(h.vantages))]
		if r == nil || len(r.path) < 2 {
			continue
		}
		i := 1 + h.rng.IntN(len(r.path)-1)
		a, ok := h.g.index[r.path[i-1]]
		b, both := h.g.index[r.path[i]]
		if !ok || !both || a == b || h.spread.down[[2]node{min(a, b), max(a, b)}] || h.g.relation(a, b) == 0 {
			continue
		}
		concerned := h.over(a, b)
		groups := map[*source]bool{}
		for _, i := range concerned {
			groups[&h.destinations[i].said[0]] = true
		}
		if len(groups) <= most {
			return a, b, concerned
		}
	}
	return 0, 0, nil
}

// hum is what goes on without any meaning: links that fail for a while, and routes that are told again with another MED.
func (h *history) hum(end ingest.Time) {
	var fail, repeat func()
	fail = func() {
		next := time.Duration(h.rng.ExpFloat64() / h.c.Failures * float64(time.Hour))
		lasts := time.Duration((0.5 + 4*h.rng.Float64()) * float64(time.Minute))
		if h.now.Add(lasts) >= end {
			return
		}
		if a, b, concerned := h.linkInUse(10); concerned != nil {
			h.cut(a, b, concerned, lasts)
		}
		h.after(next, fail)
	}
	repeat = func() {
		if h.now >= end {
			return
		}
		v, i := h.rng.IntN(len(h.vantages)), h.rng.IntN(len(h.destinations))
		if r := h.destinations[i].heard[v]; r != nil {
			for _, s := range h.vantages[v].sessions {
				h.tell(s, i, 0, &route{path: r.path, otc: r.otc, med: h.rng.Uint32N(100)})
			}
		}
		h.after(time.Duration(h.rng.ExpFloat64()/h.c.Churn*float64(time.Second)), repeat)
	}
	if h.c.Failures > 0 {
		h.after(time.Minute, fail)
	}
	if h.c.Churn > 0 {
		h.after(time.Second, repeat)
	}
}

// settle puts the messages in order. A session that is down says nothing; what it then has to say are the repeats after.
func (h *history) settle() {
	start := map[int32]map[int32]*route{} // of the sessions that are reset
	for v := range h.vantages {
		for _, s := range h.vantages[v].sessions {
			if slices.Contains(h.resets, int32(s)) {
				table := map[int32]*route{}
				for i, routes := range h.rib {
					table[int32(i)] = routes[v]
				}
				start[int32(s)] = table
			}
		}
	}
	slices.SortStableFunc(h.messages, func(a, b message) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.session, b.session))
	})
	down := map[int32]bool{}
	kept := h.messages[:0]
	for _, m := range h.messages {
		table := start[m.session]
		switch m.what {
		case goesDown:
			down[m.session] = true
		case comesUp:
			down[m.session] = false
		case repeats:
			if m.route = table[m.destination]; m.route == nil {
				continue
			}
			m.what = says
		case says:
			if table != nil {
				table[m.destination] = m.route
			}
		}
		if down[m.session] && m.what != goesDown {
			continue
		}
		kept = append(kept, m)
	}
	h.messages = kept
}
