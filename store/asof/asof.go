// Package asof answers from history which routes there were at a past moment: of each peer, prefix and path identifier
// what was said of it last, unless that was a withdrawal or the session has ended or begun anew since.
//
// History does not reach back for ever, and what was announced before it begins and never again is in no row of it. So
// an answer says from when on it knows, and is never mistaken for a whole table where it is none.
//
// It is built from [store.Store.Updates], so that every store answers alike. Event time counts and not the order of
// arrival: what was back-filled is where it belongs.
package asof

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
)

var (
	// ErrUnknown is wrapped by the error for a moment of which nothing is kept.
	ErrUnknown = errors.New("history does not reach back that far")
	// ErrTooMany is wrapped by the error for a question with too large an answer.
	ErrTooMany = errors.New("there are too many routes")
)

// Query asks for routes. Zero fields but Prefix and At do not restrict.
type Query struct {
	Prefix    netip.Prefix // 0.0.0.0/0 or ::/0 with Match covered asks for whole tables
	Match     store.Match
	PeerASN   uint32
	PeerIP    netip.Addr
	Collector string
	At        time.Time // what happened at this time has happened
}

// State is what the peers held.
type State struct {
	Routes []store.Route // by prefix, collector, peer, view and path identifier
	// Since is from when on history was read. What was announced before that and not again until the moment asked for
	// is not known; feeds lag, so that it is exact to some seconds.
	Since time.Time
	// Whole says that Since is where history begins. Else there was more of it than one answer may read.
	Whole bool
}

// bounds are what one answer may cost.
type bounds struct {
	rows int // of history that are read; twice that of sessions
	keys int // peers by prefixes and path identifiers that are in memory, some 500 bytes each
}

var defaultBounds = bounds{rows: 500_000, keys: 100_000}

// key is what has one route at a time.
type key struct {
	peer   ingest.Peer
	prefix netip.Prefix
	pathID uint32
}

// Routes answers q from s.
func Routes(ctx context.Context, s store.Store, q Query) (State, error) {
	return defaultBounds.routes(ctx, s, q)
}

func (b bounds) routes(ctx context.Context, s store.Store, q Query) (State, error) {
	stats, err := s.Stats(ctx)
	if err != nil {
		return State{}, err
	}
	if stats.OldestUpdate.IsZero() || q.At.Before(stats.OldestUpdate) {
		return State{}, fmt.Errorf("%w: %s is before its first update", ErrUnknown, q.At.UTC().Format(time.RFC3339))
	}
	if !q.Prefix.IsValid() {
		return State{}, errors.New("no prefix is given")
	}
	state := State{Since: stats.OldestUpdate, Whole: true}
	updates := store.UpdateQuery{Prefix: q.Prefix, Match: q.Match, PeerASN: q.PeerASN, PeerIP: q.PeerIP, Collector: q.Collector, To: q.At.Add(time.Microsecond)}
	last := make(map[key]store.Route)
	err = b.walk(ctx, s, updates, &state, func(r store.Route) error {
		k := key{peerOf(r), r.Prefix, r.PathID}
		known, found := last[k]
		if found && !later(r, known) {
			return nil
		}
		if !found && len(last) == b.keys {
			return fmt.Errorf("%w: more than %d; ask for a longer prefix or for one peer", ErrTooMany, b.keys)
		}
		last[k] = r
		return nil
	})
	if err != nil {
		return State{}, err
	}
	oldest := q.At
	for k, r := range last {
		if r.Action == store.Withdraw {
			delete(last, k)
		} else if r.Time.Before(oldest) {
			oldest = r.Time
		}
	}
	if len(last) == 0 {
		return state, nil
	}
	begun := make(map[ingest.Peer]store.Route) // the last beginning or end of each peer's session
	updates.Prefix, updates.Match, updates.From = netip.Prefix{}, "", oldest
	for _, updates.Action = range []store.Action{store.PeerDown, store.PeerUp} {
		err := b.walk(ctx, s, updates, &state, func(r store.Route) error {
			if known, found := begun[peerOf(r)]; !found || later(r, known) {
				begun[peerOf(r)] = r
			}
			return nil
		})
		if err != nil {
			return State{}, err
		}
	}
	for k, r := range last {
		if session, found := begun[k.peer]; found && later(session, r) {
			continue
		}
		if state.Whole || !r.Time.Before(state.Since) { // else nobody knows whether its session went on
			state.Routes = append(state.Routes, r)
		}
	}
	slices.SortFunc(state.Routes, func(a, b store.Route) int {
		return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.Collector, b.Collector), a.PeerIP.Compare(b.PeerIP),
			cmp.Compare(a.PeerASN, b.PeerASN), cmp.Compare(a.View, b.View), cmp.Compare(a.PathID, b.PathID))
	})
	return state, nil
}

// walk hands visit the rows of q, and notes in state where it had to stop.
func (b bounds) walk(ctx context.Context, s store.Store, q store.UpdateQuery, state *State, visit func(store.Route) error) error {
	q.Limit = b.rows + 1
	read := 0
	reached := q.To // what was read of live feeds last
	for r, err := range s.Updates(ctx, q) {
		if err != nil {
			return err
		}
		if read++; read > b.rows {
			state.Whole = false
			if reached.After(state.Since) {
				state.Since = reached
			}
			return nil
		}
		if !r.Backfilled && r.Time.Before(reached) {
			reached = r.Time
		}
		if err := visit(r); err != nil {
			return err
		}
	}
	return nil
}

// later tells whether a happened after b: by event time, and of one moment by arrival.
func later(a, b store.Route) bool {
	return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Cursor.Position, b.Cursor.Position), cmp.Compare(a.Cursor.Row, b.Cursor.Row)) > 0
}

func peerOf(r store.Route) ingest.Peer {
	return ingest.Peer{Collector: r.Collector, Addr: r.PeerIP, ASN: r.PeerASN, View: r.View}
}
