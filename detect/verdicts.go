package detect

import (
	"net/netip"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
)

// Verdict is one judgement upon some routes to a prefix, whether it led to anything or not: what confidence is calibrated by.
type Verdict struct {
	Time             ingest.Time // of the tick
	Prefix           netip.Prefix
	Kind             incident.Kind // what it would be
	Offender, Victim uint32        // Victim is 0 where there is none
	PeerASNs         int           // independent witnesses at that time
	Agreed           bool          // they were enough: what did not open then was for want of evidence
	Evidence         []incident.Evidence
}

// OnVerdict has f called with every judgement that found something to weigh, during Apply, Advance and Finish. It is for an
// engine of one shard: several would call f at the same time.
func (e *Engine) OnVerdict(f func(Verdict)) {
	for _, s := range e.shards {
		s.onVerdict = f
	}
}

func (s *shard) tellVerdict(e *entry, v *verdict, rs []route) {
	if s.onVerdict == nil || v == nil || v.kind == "" {
		return
	}
	ids := make([]peerID, len(rs))
	for i, r := range rs {
		ids[i] = r.peer
	}
	n := s.peers.countASNs(ids)
	s.onVerdict(Verdict{Time: s.now, Prefix: e.prefix, Kind: v.kind, Offender: v.offender, Victim: v.victim, PeerASNs: n,
		Agreed: n >= s.need, Evidence: v.ledger.evidence()})
}
