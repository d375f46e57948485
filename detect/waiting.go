package detect

import (
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// maxPending bounds the updates that wait for parallel shards.
const maxPending = 4096

// waiting keeps what shards need of the updates that wait for them, in memory that is used again: an [ingest.Update] is the
// engine's for one call only.
type waiting struct {
	updates  []pendingUpdate
	nlri     []bgp.NLRI
	segments []bgp.Segment
	numbers  []uint32 // ASes of paths, and communities
}

type pendingUpdate struct {
	peer   peerID
	pathID uint32
	update ingest.Update // of its attributes what shard.intern looks at
}

func (w *waiting) add(peer peerID, pathID uint32, u *ingest.Update) {
	c := ingest.Update{Time: u.Time, Peer: u.Peer, Kind: u.Kind, Withdrawn: keep(&w.nlri, u.Withdrawn), Announced: keep(&w.nlri, u.Announced)}
	if len(u.Announced) > 0 {
		a := &u.Attrs
		c.Attrs = bgp.Attributes{Has: a.Has, OTC: a.OTC, ASPath: keep(&w.segments, a.ASPath), Communities: keep(&w.numbers, a.Communities)}
		for i := range c.Attrs.ASPath {
			c.Attrs.ASPath[i].ASNs = keep(&w.numbers, c.Attrs.ASPath[i].ASNs)
		}
	}
	w.updates = append(w.updates, pendingUpdate{peer, pathID, c})
}

// reset forgets all updates. What longer ones than usual have taken is given back.
func (w *waiting) reset() {
	w.updates = w.updates[:0]
	reuse(&w.nlri)
	reuse(&w.segments)
	reuse(&w.numbers)
}

// keep copies s to the end of all. Where that has no room left, what was copied before stays where it is.
func keep[T any](all *[]T, s []T) []T {
	from := len(*all)
	*all = append(*all, s...)
	return (*all)[from:len(*all):len(*all)]
}

func reuse[T any](all *[]T) {
	if *all = (*all)[:0]; cap(*all) > 32*maxPending {
		*all = nil
	}
}
