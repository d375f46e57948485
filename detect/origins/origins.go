// Package origins remembers who used to announce what: for every prefix and each AS that has
// originated it when it was first and last seen, for what share of the time, by what share of the
// peers, over which neighbours, and whether that is normal.
//
// # What is remembered
//
// A [Pair] is one origin of one prefix and takes 60 bytes; the pairs of a prefix are a chain in the
// order in which they were first seen, of which the caller keeps the head. Shares are kept as sums that
// decay with a half-life: the seconds for which at least one peer had the origin, and those seconds
// times the peers that had it. Divided by the same sums over the time that was watched (the [Clock])
// they are shares, in which what happened one half-life ago counts half. Sums are brought up to date
// when routes come and go, to the minute; a route that only changes its path costs nothing here.
//
// Neighbours are the AS beside the origin (the first hop) and the one after it (the upstream). Three
// and two are kept by the method of Misra and Gries with counters of 8 bits: whatever is in more
// than a quarter, or a third, of the changes seen is among them. The counters are halved with each
// half-life that passes, though never to nothing, since a route that stays is not announced again.
//
// # What is normal
//
// History only marks a pair as usual when it is told to. The detector does so for what the baseline
// holds, for what it judges harmless on the word of enough networks, and for what it suspects only
// when that has stayed without a break for the settling time (detect.settle) and nothing but its being
// new, or not connected to anybody known, speaks against it: no RPKI Invalid, no ASPA, no valley, no
// typing error, and no usual origin that still announces the prefix. Until then its neighbours are not
// learned either. What it did in the meantime is counted in its own sums, and in nobody else's. A
// usual pair stops being usual when it has been gone for [forgetAfter] half-lives.
//
// # Where it is learned from
//
// Table dumps and updates as they come; the detector's state and the history file of before; and where both are lost, the
// updates that the store holds: another detector takes them beside the running one, and [History.Merge] brings together
// what the two know. Those who originated what they should not in an incident of the store are not taken as normal from there,
// unless they stayed for the settling time, and what only the new baseline took as normal is judged against what was
// usual before.
//
// # Time
//
// All time is that of the events, and a prefix's history depends on its own updates and on ticks
// alone: the same input gives the same history whenever it is read and on however many shards.
package origins

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/routevigil/routevigil/ingest"
)

// forgetAfter is for how many half-lives a usual origin may be gone before it is no longer usual: its
// share has then fallen to a sixteenth of what it was.
const forgetAfter = 4

// keep bounds the pairs of a prefix that are neither usual nor present: from this many pairs on, a new
// one takes the place of the one that was last seen longest ago. Otherwise somebody who announces a
// prefix with ever new origins could fill the memory.
const keep = 16

// accrueEvery is the least time, in seconds, between two updates of a pair's sums, unless its first
// route comes or its last one goes.
const accrueEvery = 60

const (
	numHops = 3
	numUps  = 2
)

// Ref names a pair of a History. 0 is none.
type Ref uint32

// Pair is one origin of one prefix. 60 bytes.
type Pair struct {
	origin  uint32
	next    Ref
	first   uint32  // seconds since 1970
	since   uint32  // since when it has been there without a break
	at      uint32  // when the sums were last brought up to date; of one that is gone, when it went
	present float32 // seconds, decayed as of at
	heard   float32 // peers times seconds, decayed as of at
	routes  int32
	hops    [numHops]uint32
	ups     [numUps]uint32
	hopN    [numHops]uint8
	upN     [numUps]uint8
	flags   flags
}

type flags uint8

const (
	flagUsual flags = 1 << iota
	flagBaseline
	flagAll = flagUsual | flagBaseline
)

// Origin is the pair's AS number; 0 where the origin is NONE (RFC 6811).
func (p *Pair) Origin() uint32 { return p.origin }

// Routes is how many peers have a route to it now.
func (p *Pair) Routes() int { return int(p.routes) }

// First is when it was first seen, to the second.
func (p *Pair) First() ingest.Time { return ingest.Time(p.first) * 1e6 }

// Since is since when some peer has had it without a break, to the second.
func (p *Pair) Since() ingest.Time { return ingest.Time(p.since) * 1e6 }

// MarkUsual makes the pair normal; baseline says that it was so from the beginning of what is known.
func (p *Pair) MarkUsual(baseline bool) {
	p.flags |= flagUsual
	if baseline {
		p.flags |= flagBaseline
	}
}

// MarkedUsual reports that it was marked and has not been gone for too long when it last came back.
// Whether it is usual now, if it is gone, History.Usual tells.
func (p *Pair) MarkedUsual() bool { return p.flags&flagUsual != 0 }

// Baseline reports that it was usual from the beginning.
func (p *Pair) Baseline() bool { return p.flags&flagBaseline != 0 }

// seconds converts event time; what is before 1970 counts as 1970.
func seconds(t ingest.Time) uint32 {
	return uint32(min(max(t/1e6, 0), math.MaxUint32))
}

// Clock is event time and what was watched in it. Several Histories share one; it must not be written
// while they are read or written.
type Clock struct {
	halfLife float64 // seconds
	at       uint32
	watched  float64 // seconds, decayed as of at
	peers    float64 // peers times seconds, decayed as of at
}

// NewClock returns a clock that has not started. halfLife must be at least a second.
func NewClock(halfLife time.Duration) *Clock { return &Clock{halfLife: halfLife.Seconds()} }

// Advance watches up to t with so many peers. The first call starts the clock; t in the past does nothing.
func (c *Clock) Advance(t ingest.Time, peers int) {
	now := seconds(t)
	switch {
	case c.at == 0:
		c.at = now
	case now > c.at:
		decay, sum := c.span(now - c.at)
		c.watched = c.watched*decay + sum
		c.peers = c.peers*decay + sum*float64(peers)
		c.at = now
	}
}

// Now is up to when the clock has gone.
func (c *Clock) Now() ingest.Time { return ingest.Time(c.at) * 1e6 }

// Watched is for how long there was watching, what is long past counting less.
func (c *Clock) Watched() time.Duration { return time.Duration(c.watched * float64(time.Second)) }

// Skip lets time pass up to t in which nothing was watched.
func (c *Clock) Skip(t ingest.Time) {
	if now := seconds(t); now > c.at {
		decay, _ := c.span(now - c.at)
		c.watched, c.peers, c.at = c.watched*decay, c.peers*decay, now
	}
}

// span returns what is left of a sum after dt seconds, and what dt seconds of presence add to it.
func (c *Clock) span(dt uint32) (decay, sum float64) {
	x := float64(dt) * math.Ln2 / c.halfLife
	if x < 1e-3 { // the series is exact to a ten-thousandth of a millionth here, and much cheaper
		return 1 - x + x*x/2, float64(dt) * (1 - x/2)
	}
	decay = math.Exp(-x)
	return decay, (1 - decay) * c.halfLife / math.Ln2
}

// forget is after how many seconds of absence a pair is no longer usual.
func (c *Clock) forget() float64 { return forgetAfter * c.halfLife }

// chunk is how many pairs lie in one piece of memory. Pairs never move.
const chunk = 1 << 12

// History holds pairs. Pointers to them stay valid; a pair may be given to another origin of the same
// prefix by Count.
type History struct {
	clock  *Clock
	chunks [][]Pair
	n      uint32
}

// New returns an empty history by c's time.
func New(c *Clock) *History { return &History{clock: c} }

// Watched is for how long the history's clock watched, see [Clock.Watched].
func (h *History) Watched() time.Duration { return h.clock.Watched() }

// Len is the number of pairs.
func (h *History) Len() int { return int(h.n) }

func (h *History) pair(r Ref) *Pair { return &h.chunks[(r-1)/chunk][(r-1)%chunk] }

// Each calls f for every pair of a chain, in the order of first appearance, until it returns false.
func (h *History) Each(head Ref, f func(*Pair) bool) {
	for r := head; r != 0; {
		p := h.pair(r)
		if !f(p) {
			return
		}
		r = p.next
	}
}

// Find returns the pair of origin, or nil.
func (h *History) Find(head Ref, origin uint32) *Pair {
	for r := head; r != 0; {
		p := h.pair(r)
		if p.origin == origin {
			return p
		}
		r = p.next
	}
	return nil
}

// Usual reports that p is normal at the time now.
func (h *History) Usual(p *Pair, now ingest.Time) bool {
	return p.flags&flagUsual != 0 && (p.routes > 0 || float64(seconds(now))-float64(p.at) <= h.clock.forget())
}

// Settled reports that p has been there without a break for d.
func (h *History) Settled(p *Pair, now ingest.Time, d time.Duration) bool {
	return p.routes > 0 && float64(seconds(now))-float64(p.since) >= d.Seconds()
}

// Present is for how long p has been there, what is long past counting less.
func (h *History) Present(p *Pair, now ingest.Time) time.Duration {
	present := float64(p.present)
	if t := seconds(now); t > p.at {
		decay, sum := h.clock.span(t - p.at)
		if present *= decay; p.routes > 0 {
			present += sum
		}
	}
	return time.Duration(present * float64(time.Second))
}

// Count adds n routes to origin at the time now, or takes -n away, and returns the pair, made if need be.
func (h *History) Count(head *Ref, origin uint32, n int32, now ingest.Time) *Pair {
	p := h.Find(*head, origin)
	t := seconds(now)
	if p == nil {
		p = h.add(head, Pair{origin: origin, first: t, at: t})
	}
	if p.routes == 0 && n > 0 {
		h.back(p, t)
	} else if t > p.at && (t-p.at >= accrueEvery || p.routes+n == 0) {
		p.accrue(h.clock, t)
	}
	p.routes += n
	return p
}

// back begins a time of presence.
func (h *History) back(p *Pair, t uint32) {
	if t > p.at {
		gone := t - p.at
		decay, _ := h.clock.span(gone)
		p.present, p.heard = float32(float64(p.present)*decay), float32(float64(p.heard)*decay)
		p.fade(h.clock, t)
		if float64(gone) > h.clock.forget() {
			p.flags = 0
		}
		p.at = t
	}
	p.since = p.at
}

// accrue brings the sums of a pair that is present up to t.
func (p *Pair) accrue(c *Clock, t uint32) {
	decay, sum := c.span(t - p.at)
	p.present = float32(float64(p.present)*decay + sum)
	p.heard = float32(float64(p.heard)*decay + sum*float64(p.routes))
	p.fade(c, t)
	p.at = t
}

// fade halves the counters of the neighbours for each half-life that began between p.at and t.
func (p *Pair) fade(c *Clock, t uint32) {
	shift := uint32(float64(t)/c.halfLife) - uint32(float64(p.at)/c.halfLife)
	if shift == 0 {
		return
	}
	for i, n := range p.hopN {
		p.hopN[i] = max(n>>shift, min(n, 1))
	}
	for i, n := range p.upN {
		p.upN[i] = max(n>>shift, min(n, 1))
	}
}

// add appends a pair to a chain, in the place of the one last seen longest ago where there are too many.
func (h *History) add(head *Ref, p Pair) *Pair {
	length, last, oldest, before := 0, Ref(0), Ref(0), Ref(0)
	for r := *head; r != 0; {
		q := h.pair(r)
		length++
		if q.routes == 0 && q.flags&flagUsual == 0 && (oldest == 0 || q.at < h.pair(oldest).at) {
			oldest, before = r, last
		}
		last, r = r, q.next
	}
	var ref Ref
	if length >= keep && oldest != 0 {
		ref = oldest
		next := h.pair(oldest).next
		if before == 0 {
			*head = next
		} else {
			h.pair(before).next = next
		}
		if last == oldest {
			last = before
		}
	} else {
		ref = h.next()
	}
	if last == 0 {
		*head = ref
	} else {
		h.pair(last).next = ref
	}
	q := h.pair(ref)
	*q = p
	q.next = 0
	return q
}

// next is the place of one more pair.
func (h *History) next() Ref {
	if h.n%chunk == 0 {
		h.chunks = append(h.chunks, make([]Pair, chunk))
	}
	h.n++
	return Ref(h.n)
}

// Copy makes a second chain of the same pairs, which changes by itself, until Cut takes it back.
func (h *History) Copy(head Ref) (second Ref) {
	last := Ref(0)
	h.Each(head, func(p *Pair) bool {
		ref := h.next()
		q := h.pair(ref)
		*q = *p
		q.next = 0
		if last == 0 {
			second = ref
		} else {
			h.pair(last).next = ref
		}
		last = ref
		return true
	})
	return second
}

// Cut forgets all pairs but the first n that were made; no chain that is still used may hold the others.
func (h *History) Cut(n int) {
	h.n = uint32(n)
	h.chunks = h.chunks[:(n+chunk-1)/chunk]
}

// Restore gives back a pair a route that it had when it was saved, as if it had never been away.
func (p *Pair) Restore() { p.routes++ }

// Append adds a pair that was saved to the end of a chain, as one without routes.
func (h *History) Append(head *Ref, p Pair) *Pair {
	p.routes = 0
	return h.add(head, p)
}

// Observe learns the neighbours of one route to p: the AS beside the origin and the one after it, 0
// where there is none.
func (p *Pair) Observe(hop, up uint32) {
	if hop != 0 {
		count(p.hops[:], p.hopN[:], hop)
	}
	if up != 0 {
		count(p.ups[:], p.upN[:], up)
	}
}

// count is one step of Misra and Gries: what is among asns counts one more, what finds a free place
// takes it, and what finds none makes all others count one less.
func count(asns []uint32, n []uint8, asn uint32) {
	free := -1
	for i := range asns {
		switch {
		case n[i] == 0:
			if free < 0 {
				free = i
			}
		case asns[i] == asn:
			if n[i] == math.MaxUint8 {
				for j := range n {
					n[j] -= n[j] / 2
				}
			}
			n[i]++
			return
		}
	}
	if free >= 0 {
		asns[free], n[free] = asn, 1
		return
	}
	for i := range n {
		n[i]--
	}
}

// Facts are what is known of a pair, for people and for other programs.
type Facts struct {
	ASN       uint32    `json:"asn"` // 0 where the origin is an AS_SET
	Usual     bool      `json:"usual"`
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`  // now, where some peer has it
	TimeShare float64   `json:"time_share"` // of the time watched, 0 to 1, what is long past counting less
	PeerShare float64   `json:"peer_share"` // of the peers, on average while it was there, 0 to 1
	FirstHops []uint32  `json:"first_hops"` // the usual ones, the most frequent first
	Upstreams []uint32  `json:"upstreams"`
}

// Past is what is known of a pair at one moment, of which [Past.Facts] makes sense when somebody asks. 128 bytes.
type Past struct {
	pair  Pair
	clock Clock
	now   ingest.Time
	peers int
	usual bool
}

// Past keeps what is known of p at the time now, with so many peers at present.
func (h *History) Past(p *Pair, now ingest.Time, peers int) Past {
	return Past{*p, *h.clock, now, peers, h.Usual(p, now)}
}

// Facts returns what is known of p at the time now, with so many peers at present.
func (h *History) Facts(p *Pair, now ingest.Time, peers int) Facts {
	return h.Past(p, now, peers).Facts()
}

// Facts is what was known at the time.
func (p Past) Facts() Facts {
	q, c, peers := p.pair, p.clock, p.peers
	c.Advance(p.now, peers)
	if q.routes > 0 && c.at > q.at {
		q.accrue(&c, c.at)
	} else if c.at > q.at {
		decay, _ := c.span(c.at - q.at)
		q.present, q.heard = float32(float64(q.present)*decay), float32(float64(q.heard)*decay)
	}
	f := Facts{ASN: q.origin, Usual: p.usual, FirstSeen: q.First().Time(), LastSeen: time.Unix(int64(q.at), 0).UTC(),
		FirstHops: frequent(q.hops[:], q.hopN[:]), Upstreams: frequent(q.ups[:], q.upN[:])}
	if c.watched > 0 {
		f.TimeShare = min(1, float64(q.present)/c.watched)
	} else if q.routes > 0 {
		f.TimeShare = 1
	}
	average, all := float64(q.routes), float64(peers)
	if q.present > 0 {
		average = float64(q.heard) / float64(q.present)
	}
	if c.watched > 0 && c.peers > 0 {
		all = c.peers / c.watched
	}
	if all > 0 {
		f.PeerShare = min(1, average/all)
	}
	return f
}

// frequent returns the neighbours that are counted, the most frequent first.
func frequent(asns []uint32, n []uint8) []uint32 {
	var order []int
	for i := range asns {
		if n[i] > 0 {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Or(cmp.Compare(n[b], n[a]), cmp.Compare(asns[a], asns[b])) })
	out := []uint32{}
	for _, i := range order {
		out = append(out, asns[i])
	}
	return out
}
