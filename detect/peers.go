package detect

import (
	"slices"

	"github.com/routevigil/routevigil/ingest"
)

// MaxPeers bounds the sources of routes; further ones are counted and ignored. All of RIS and
// RouteViews have about 2,500 sessions.
const MaxPeers = 1 << 16

// peerInfo is one source of routes: a session, or one ADD-PATH identifier of a session.
type peerInfo struct {
	peerKey
	up    bool
	since ingest.Time // when its session came up, as far as is known; 0: before the first update
}

// peerKey is what distinguishes sources of routes.
type peerKey struct {
	ingest.Peer
	pathID uint32
}

// peerSet interns peers.
type peerSet struct {
	list     []peerInfo
	index    map[peerKey]peerID
	sessions map[ingest.Peer]ingest.Time // those with a source that is up, and since when
	last     peerKey
	lastID   peerID
	active   int // sources that are up, as of the last tick
}

func newPeerSet() *peerSet {
	return &peerSet{index: map[peerKey]peerID{}, sessions: map[ingest.Peer]ingest.Time{}}
}

// intern returns the id of a source that speaks at the time now, making it; ok is false where that would
// exceed MaxPeers.
func (s *peerSet) intern(p ingest.Peer, pathID uint32, now ingest.Time) (id peerID, ok bool) {
	k := peerKey{p, pathID}
	if len(s.list) > 0 && k == s.last {
		return s.lastID, true
	}
	if id, ok = s.index[k]; !ok {
		if len(s.list) >= MaxPeers {
			return 0, false
		}
		id = peerID(len(s.list))
		s.list = append(s.list, peerInfo{peerKey: k})
		s.index[k] = id
	}
	if !s.list[id].up {
		since, ok := s.sessions[p]
		if !ok { // and not just a further path identifier
			since = now
			s.sessions[p] = now
		}
		s.list[id].up, s.list[id].since = true, since
	}
	s.last, s.lastID = k, id
	return id, true
}

// down marks every source of p as down and returns them.
func (s *peerSet) down(p ingest.Peer) map[peerID]bool {
	gone := map[peerID]bool{}
	delete(s.sessions, p)
	for id := range s.list {
		if s.list[id].Peer == p && s.list[id].up {
			s.list[id].up = false
			gone[peerID(id)] = true
		}
	}
	s.last = peerKey{}
	return gone
}

func (s *peerSet) countActive() {
	s.active = 0
	for i := range s.list {
		if s.list[i].up {
			s.active++
		}
	}
}

// countASNs counts the distinct ASNs among some peers.
func (s *peerSet) countASNs(ids []peerID) int {
	var scratch [64]uint32
	asns := scratch[:0]
	for _, id := range ids {
		asns = append(asns, s.list[id].ASN)
	}
	slices.Sort(asns)
	return len(slices.Compact(asns))
}

// heard counts the distinct ASNs whose sessions are up, at least 1 and at most enough.
func (s *peerSet) heard(enough int) int {
	asns := map[uint32]bool{}
	for i := range s.list {
		if s.list[i].up {
			asns[s.list[i].ASN] = true
		}
		if len(asns) >= enough {
			return enough
		}
	}
	return max(1, len(asns))
}
