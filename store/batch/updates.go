package batch

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
)

// Updates makes updates of rows that come in the order of history: what RouteOf made of updates is undone. Neighbouring
// updates of one session, one moment and the same attributes may come as one, which has the same effect; attributes that
// rows do not show (MED, extended communities and the like) are gone. An update belongs to the caller.
func Updates(rows iter.Seq2[store.Route, error]) iter.Seq2[*ingest.Update, error] {
	return func(yield func(*ingest.Update, error) bool) {
		var u *ingest.Update
		var last store.Route
		for r, err := range rows {
			if err != nil {
				yield(nil, err)
				return
			}
			if u != nil && !continues(&last, &r) {
				if !yield(u, nil) {
					return
				}
				u = nil
			}
			if u == nil {
				u = &ingest.Update{Time: ingest.TimeOf(r.Time), Peer: ingest.Peer{Collector: r.Collector, ASN: r.PeerASN, Addr: r.PeerIP, View: r.View}}
			}
			if err := add(u, &r); err != nil {
				yield(nil, err)
				return
			}
			last = r
		}
		if u != nil {
			yield(u, nil)
		}
	}
}

// continues reports whether r may be of the update that last is of.
func continues(last, r *store.Route) bool {
	if last.Cursor.Position != r.Cursor.Position || !last.Time.Equal(r.Time) || last.Collector != r.Collector || last.PeerASN != r.PeerASN ||
		last.PeerIP != r.PeerIP || last.View != r.View {
		return false
	}
	switch {
	case last.Action == store.Withdraw:
		return r.Action == store.Withdraw || r.Action == store.Announce
	case HasAttributes(last.Action):
		return r.Action == last.Action && r.ASPath == last.ASPath && r.NextHop == last.NextHop && r.OTC == last.OTC && slices.Equal(r.Communities, last.Communities)
	}
	return false
}

// add brings the row r into u.
func add(u *ingest.Update, r *store.Route) error {
	n := bgp.NLRI{Prefix: r.Prefix, PathID: r.PathID}
	switch r.Action {
	case store.PeerUp:
		u.Kind = ingest.PeerUp
	case store.PeerDown:
		u.Kind = ingest.PeerDown
	case store.Withdraw:
		u.Withdrawn = append(u.Withdrawn, n)
	case store.Announce, store.RIB:
		if r.Action == store.RIB {
			u.Kind = ingest.RIB
		}
		if len(u.Announced) == 0 {
			if err := setAttributes(&u.Attrs, r); err != nil {
				return fmt.Errorf("history at %d, row %d: %w", r.Cursor.Position, r.Cursor.Row, err)
			}
		}
		u.Announced = append(u.Announced, n)
	default:
		return fmt.Errorf("history at %d, row %d: unknown action %q", r.Cursor.Position, r.Cursor.Row, r.Action)
	}
	return nil
}

func setAttributes(a *bgp.Attributes, r *store.Route) (err error) {
	a.Has = bgp.HasASPath
	if a.ASPath, err = bgp.ParseASPath(r.ASPath); err != nil {
		return err
	}
	if r.NextHop.IsValid() {
		a.Has |= bgp.HasNextHop
		a.NextHop = r.NextHop
	}
	if r.OTC != 0 {
		a.Has |= bgp.HasOTC
		a.OTC = r.OTC
	}
	for _, text := range r.Communities {
		var n [3]uint32
		parts := strings.Split(text, ":")
		bits := 32
		if len(parts) == 2 {
			bits = 16
		} else if len(parts) != 3 {
			return fmt.Errorf("%q is not a community", text)
		}
		for i, p := range parts {
			v, err := strconv.ParseUint(p, 10, bits)
			if err != nil {
				return fmt.Errorf("%q is not a community: %w", text, err)
			}
			n[i] = uint32(v)
		}
		if len(parts) == 2 {
			a.Has |= bgp.HasCommunities
			a.Communities = append(a.Communities, n[0]<<16|n[1])
		} else {
			a.Has |= bgp.HasLargeCommunities
			a.LargeCommunities = append(a.LargeCommunities, bgp.LargeCommunity{Global: n[0], Local1: n[1], Local2: n[2]})
		}
	}
	return nil
}
