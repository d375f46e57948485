package detect

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"

	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/ingest"
)

// usualOrigins returns the origins of e that are normal, those with most routes first.
func (s *shard) usualOrigins(e *entry) []*origins.Pair {
	var u []*origins.Pair
	s.table.history.Each(e.origins, func(o *origins.Pair) bool {
		if o.Origin() != 0 && s.table.history.Usual(o, s.now) {
			u = append(u, o)
		}
		return true
	})
	slices.SortStableFunc(u, func(a, b *origins.Pair) int {
		return cmp.Or(cmp.Compare(b.Routes(), a.Routes()), cmp.Compare(a.Origin(), b.Origin()))
	})
	return u
}

// usualBefore is usualOrigins without those that came after asn did: who announces a more-specific
// to take back what another has hijacked makes it neither usual nor anything else than before.
func (s *shard) usualBefore(e *entry, asn uint32) []*origins.Pair {
	var later []*origins.Pair
	accused := s.table.origin(e, asn)
	if accused != nil {
		seen := false
		s.table.history.Each(e.origins, func(o *origins.Pair) bool {
			if seen && !o.Baseline() {
				later = append(later, o)
			}
			seen = seen || o == accused
			return true
		})
	}
	return slices.DeleteFunc(s.usualOrigins(e), func(o *origins.Pair) bool { return slices.Contains(later, o) })
}

// settled reports that suspicious routes may be learned as normal after all: nothing speaks against
// them but that they are new and that nobody is known to be connected with them; no usual origin still
// announces the prefix against them; enough networks have them; and they have stayed without a break
// for as long as is configured.
func (s *shard) settled(e *entry, id uint32, g *group, v *verdict) bool {
	if slices.ContainsFunc(v.ledger, func(l line) bool {
		return l.weight > 0 && l.source != "history" && l.source != "table" && l.source != "relationships"
	}) || !s.agreed(g.routes) {
		return false
	}
	if slices.ContainsFunc(s.usualBefore(e, g.origin), func(o *origins.Pair) bool { return o.Origin() != g.origin && o.Routes() > 0 }) {
		return false
	}
	if o := s.table.origin(e, g.origin); !o.MarkedUsual() {
		return s.table.history.Settled(o, s.now, s.settle)
	}
	// The origin is a usual one: what is new is an AS beside it, since the finding says so.
	i := indexOfKey(s.suspects[id], v.key())
	return i >= 0 && s.now.Sub(s.suspects[id][i].since) >= s.settle
}

// settleCheck is how often, in event time, it is looked whether what is suspected has settled.
const settleCheck = ingest.Time(3600_000_000)

// markSettled marks for judgement what has been suspected for the settling time.
func (s *shard) markSettled(now ingest.Time) {
	for _, id := range slices.Sorted(maps.Keys(s.suspects)) {
		if slices.ContainsFunc(s.suspects[id], func(f finding) bool { return now.Sub(f.since) >= s.settle }) {
			s.markDirty(s.table.entry(id), id, now)
		}
	}
}

// tellHistory adds what is known of the usual origin of e, or of its cover. It weighs nothing by itself.
func (s *shard) tellHistory(v *verdict, e, cover *entry, usual *origins.Pair) {
	if cover != nil {
		e = cover
	}
	known := s.table.history.Past(usual, s.now, s.peers.active)
	v.ledger.add("history.usual", 0, "history", s.baseline(), "%s", knownPast{e.prefix, known})
}

// watch lets the history's clock go to t. What lies between a history that was loaded and the first
// that is heard was not watched.
func (e *Engine) watch(t ingest.Time, peers int) {
	switch {
	case t == 0:
	case !e.watching:
		e.history.Skip(t)
		e.watching = true
	default:
		e.history.Advance(t, peers)
	}
}

// SaveHistory writes what is known of the origins of every prefix, in the format that package origins
// describes. It does not depend on the number of shards.
func (e *Engine) SaveHistory(w io.Writer) error {
	e.flush()
	var chains []origins.Chain
	for _, s := range e.shards {
		for _, en := range s.table.all() {
			if en.origins != 0 {
				chains = append(chains, origins.Chain{Prefix: en.prefix, History: s.table.history, Head: en.origins})
			}
		}
	}
	slices.SortFunc(chains, func(a, b origins.Chain) int { return origins.Compare(a.Prefix, b.Prefix) })
	return origins.Write(w, e.history, max(e.clock, e.history.Now()), len(chains), slices.Values(chains))
}

// LoadHistory gives a new engine, before anything else, the history that SaveHistory wrote. On error the engine must
// not be used. What the baseline then shows of a prefix that has usual origins here is judged rather
// than learned.
func (e *Engine) LoadHistory(data []byte) error {
	e.remembers = true
	return origins.Read(data, e.history, func(p netip.Prefix, pairs []origins.Pair) error {
		s := e.shardOf(p)
		id, ok := s.table.entryFor(p)
		if !ok {
			return fmt.Errorf("more than %d prefixes", MaxPrefixes)
		}
		for _, pair := range pairs {
			s.table.history.Append(&s.table.entry(id).origins, pair)
		}
		return nil
	})
}

// takeAsNormal ends an entry's baseline: origins with a fair share of its routes are usual. Where history
// knows what is usual, others are for judgement. A prefix that a table dump has from hardly anybody teaches nothing: no more
// than after the baseline is one peer's word enough, who may hold a route that was withdrawn long ago, or one of its neighbour's
// internals. The others teach their links, too. full is how many peers carry a full table, whose silence tells.
func (s *shard) takeAsNormal(id uint32, remembers bool, full int, now ingest.Time) {
	e := s.table.entry(id)
	if !s.partial && len(e.routes)*10 < full && !s.agreed(e.routes) {
		return
	}
	for _, r := range e.routes {
		s.learnLinks(r.node)
	}
	known := remembers && len(s.usualOrigins(e)) > 0
	s.table.history.Each(e.origins, func(o *origins.Pair) bool {
		switch {
		case o.Routes() == 0 || float64(o.Routes()) < baselineShare*float64(len(e.routes)):
		case known && !o.MarkedUsual():
			s.markDirty(e, id, max(now, o.First()))
		default:
			o.MarkUsual(true)
		}
		return true
	})
}

// Accused tells whether an origin of a prefix, first seen then, was the offender of an incident.
type Accused func(p netip.Prefix, origin uint32, first ingest.Time) bool

// LearnPast gives an engine that is no longer learning what another, past, has learned of origins from the updates of the time before this one
// began; past must not be used afterwards. Origins are brought together one by one, see [origins.History.Merge].
// Suspicion counts on both sides. Whoever is accused is usual only if, at the end of the past, it had stayed for
// [Configuration].Settle. And where the past knows what is usual for a prefix, an origin that only this engine's
// baseline took as normal is judged, as if that history had been there before the baseline ([Engine.LoadHistory]).
//
// Like [Engine.Relate] it belongs just before a state is saved, so that after a crash the same comes of the same updates.
func (e *Engine) LearnPast(past *Engine, accused Accused) {
	e.flush()
	past.flush()
	past.history.Advance(past.clock, past.peers.active)
	var pairs []origins.Pair
	for _, from := range past.shards {
		for _, old := range from.table.all() {
			pairs = pairs[:0]
			from.table.history.Each(old.origins, func(o *origins.Pair) bool {
				if o.MarkedUsual() && accused(old.prefix, o.Origin(), o.First()) && !from.table.history.Settled(o, past.clock, past.config.Settle) {
					o.Doubt()
				}
				pairs = append(pairs, from.table.history.AtRest(o))
				return true
			})
			if len(pairs) == 0 {
				continue
			}
			s := e.shardOf(old.prefix)
			if id, ok := s.table.entryFor(old.prefix); ok {
				s.learnPast(id, pairs, e.clock)
			}
		}
	}
	e.history.Earlier(past.history)
}

// learnPast brings what was known of an entry's origins together with what is.
func (s *shard) learnPast(id uint32, past []origins.Pair, now ingest.Time) {
	e := s.table.entry(id)
	usual := func(o *origins.Pair) bool {
		return slices.ContainsFunc(past, func(q origins.Pair) bool { return q.Origin() == o.Origin() && q.MarkedUsual() })
	}
	if slices.ContainsFunc(past, func(q origins.Pair) bool { return q.Origin() != 0 && s.table.history.Usual(&q, now) }) {
		s.table.history.Each(e.origins, func(o *origins.Pair) bool {
			if o.Baseline() && !usual(o) {
				o.Doubt()
				s.markDirty(e, id, now)
			}
			return true
		})
	}
	s.table.history.Merge(&e.origins, past)
}
