package kafkabus

import (
	"hash/maphash"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// late knows which routes were told of lately, when and by which writer. Two collectors of one feed do not always go
// side by side: one that was cut off from Kafka writes what it has kept when another, which started meanwhile, has
// written what came after it. Of what is new in that, a route that the other has told of already is as it was before: it is
// history, but to whoever keeps the state of routes it would bring back what is gone, and nothing would ever take it
// away again, since what did is known already. What one writer says after the other always counts, whatever its stamps.
//
// As with duplicates, what it knows depends on nothing but the steps of the last window.
type late struct {
	known  []told // in order of the steps
	newest map[ingest.Peer]ingest.Time
	// index has what is in known, while it was needed lately: live collectors seldom need it.
	index map[uint64][]told
	idle  int // steps since it was needed
}

// told is 32 octets a route, for the length of the window.
type told struct {
	route  uint64 // hash of it, or of the peer where the whole session went up or down
	writer uint64
	time   ingest.Time
	step   ingest.Time // watermark
}

const indexKept = 64 // steps for which an index is kept that is not needed

var lateSeed = maphash.MakeSeed()

func routeHash(p ingest.Peer, r bgp.NLRI) uint64 {
	return maphash.Comparable(lateSeed, struct {
		p ingest.Peer
		r bgp.NLRI
	}{p, r})
}

// note remembers what u tells.
func (l *late) note(u *ingest.Update, writer uint64, step ingest.Time) {
	add := func(r bgp.NLRI) {
		x := told{routeHash(u.Peer, r), writer, u.Time, step}
		l.known = append(l.known, x)
		if l.index != nil {
			l.index[x.route] = append(l.index[x.route], x)
		}
	}
	if u.Kind == ingest.PeerUp || u.Kind == ingest.PeerDown {
		add(bgp.NLRI{})
	}
	for _, r := range u.Withdrawn {
		add(r)
	}
	for _, r := range u.Announced {
		add(r)
	}
	if l.newest == nil {
		l.newest = map[ingest.Peer]ingest.Time{}
	}
	if u.Time > l.newest[u.Peer] {
		l.newest[u.Peer] = u.Time
	}
}

// split takes from u what is superseded, and returns it, in lists of their own. Where nothing is, both are nil.
func (l *late) split(u *ingest.Update, writer uint64) (withdrawn, announced []bgp.NLRI) {
	if u.Kind != ingest.Routes || u.Time >= l.newest[u.Peer] {
		return nil, nil
	}
	if l.index == nil {
		l.index = map[uint64][]told{}
		for _, x := range l.known {
			l.index[x.route] = append(l.index[x.route], x)
		}
	}
	l.idle = 0
	newer := func(route uint64) bool {
		for _, x := range l.index[route] {
			if x.time > u.Time && x.writer != writer {
				return true
			}
		}
		return false
	}
	gone := newer(routeHash(u.Peer, bgp.NLRI{}))
	part := func(list []bgp.NLRI) (kept, superseded []bgp.NLRI) {
		for _, r := range list {
			if gone || newer(routeHash(u.Peer, r)) {
				superseded = append(superseded, r)
			} else {
				kept = append(kept, r)
			}
		}
		return kept, superseded
	}
	keptW, withdrawn := part(u.Withdrawn)
	keptA, announced := part(u.Announced)
	if len(withdrawn)+len(announced) > 0 {
		u.Withdrawn, u.Announced = keptW, keptA
	}
	return withdrawn, announced
}

// forget drops what was told in steps before the window.
func (l *late) forget(old func(step ingest.Time) bool) {
	n := 0
	for ; n < len(l.known) && old(l.known[n].step); n++ {
		x := l.known[n]
		if l.index == nil {
			continue
		}
		if list := l.index[x.route]; len(list) > 1 {
			l.index[x.route] = list[1:] // it is the oldest
		} else {
			delete(l.index, x.route)
		}
	}
	if l.known = l.known[n:]; len(l.known) == 0 {
		l.known, l.newest = nil, nil
	}
	if l.idle++; l.idle > indexKept {
		l.index = nil
	}
}
