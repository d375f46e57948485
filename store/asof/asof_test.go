package asof

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/routevigil/routevigil/store"
)

// Package storetest compares the answers with a model, on real stores. Here is what only small bounds show.

// fake is a store with this history, the oldest first.
type fake struct {
	store.Store
	rows []store.Route
}

func (f fake) Stats(context.Context) (store.Stats, error) {
	return store.Stats{OldestUpdate: f.rows[0].Time}, nil
}

func (f fake) Updates(_ context.Context, q store.UpdateQuery) iter.Seq2[store.Route, error] {
	return func(yield func(store.Route, error) bool) {
		for _, r := range slices.Backward(f.rows) {
			if session := r.Action == store.PeerDown || r.Action == store.PeerUp; q.Action != "" && q.Action != r.Action || q.Action == "" && session {
				continue
			}
			if r.Time.Before(q.To) && !r.Time.Before(q.From) && !yield(r, nil) {
				return
			}
		}
	}
}

func second(n int) time.Time { return time.Unix(1_700_000_000+int64(n), 0).UTC() }

func announced(n int, prefix string) store.Route {
	return store.Route{Time: second(n), Action: store.Announce, Prefix: netip.MustParsePrefix(prefix), PeerASN: 64500, Cursor: store.Cursor{Position: uint64(n + 1)}}
}

func down(n int) store.Route {
	return store.Route{Time: second(n), Action: store.PeerDown, PeerASN: 64500, Cursor: store.Cursor{Position: uint64(n + 100)}}
}

// An answer that had to stop says how far it got, and nothing of what it cannot know.
func TestBounds(t *testing.T) {
	all := netip.MustParsePrefix("0.0.0.0/0")
	rows := []store.Route{announced(0, "192.0.2.0/24"), announced(1, "198.51.100.0/24"), announced(2, "203.0.113.0/24"), announced(3, "198.51.100.0/24")}
	backfilled := announced(0, "192.0.2.0/24")
	backfilled.Backfilled = true
	for name, tt := range map[string]struct {
		rows   []store.Route
		bounds bounds
		want   []string
		since  time.Time
		whole  bool
	}{
		"all is read":             {rows, bounds{4, 10}, []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"}, second(0), true},
		"not all is read":         {rows, bounds{2, 10}, []string{"198.51.100.0/24", "203.0.113.0/24"}, second(2), false},
		"back-filled come last":   {append(slices.Clone(rows), backfilled), bounds{3, 10}, []string{"198.51.100.0/24", "203.0.113.0/24"}, second(2), false},
		"a session that ended":    {append(slices.Clone(rows), down(4)), bounds{4, 10}, nil, second(0), true},
		"not all sessions' ends":  {append(slices.Clone(rows), down(2), down(2), down(2)), bounds{2, 10}, []string{"198.51.100.0/24"}, second(2), false},
		"a later end of sessions": {append(slices.Clone(rows), down(9)), bounds{4, 10}, []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"}, second(0), true},
	} {
		t.Run(name, func(t *testing.T) {
			state, err := tt.bounds.routes(t.Context(), fake{rows: tt.rows}, Query{Prefix: all, Match: store.Covered, At: second(5)})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range state.Routes {
				got = append(got, r.Prefix.String())
			}
			if !slices.Equal(got, tt.want) || !state.Since.Equal(tt.since) || state.Whole != tt.whole {
				t.Errorf("%v since %s, whole %t; want %v since %s, whole %t", got, state.Since, state.Whole, tt.want, tt.since, tt.whole)
			}
		})
	}
	_, err := bounds{4, 2}.routes(t.Context(), fake{rows: rows}, Query{Prefix: all, Match: store.Covered, At: second(5)})
	if !errors.Is(err, ErrTooMany) {
		t.Errorf("error %v, want ErrTooMany", err)
	}
}
