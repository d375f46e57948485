package batch

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strconv"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
)

// Before tells whether a comes before b in history.
func Before(a, b store.Cursor) bool { return Compare(a, b) < 0 }

// Compare orders cursors as history does.
func Compare(a, b store.Cursor) int {
	return cmp.Or(cmp.Compare(a.Position, b.Position), cmp.Compare(a.Row, b.Row))
}

// Filter is an UpdateQuery made ready for batches.
type Filter struct {
	Q        store.UpdateQuery
	From, To int64 // microseconds, [From, To)
}

// NewFilter refuses a query with a match or an action that there is not.
func NewFilter(q store.UpdateQuery) (*Filter, error) {
	f := &Filter{Q: q, From: math.MinInt64, To: math.MaxInt64}
	if !q.From.IsZero() {
		f.From = q.From.UnixMicro()
	}
	if !q.To.IsZero() {
		f.To = q.To.UnixMicro()
	}
	if q.Action != "" && !slices.Contains(Actions, q.Action) {
		return nil, fmt.Errorf("unknown action %q: known are %v", q.Action, Actions)
	}
	if q.Prefix.IsValid() && !slices.Contains([]store.Match{"", store.Exact, store.Covered, store.Covering}, q.Match) {
		return nil, fmt.Errorf("unknown match %q: known are %q, %q and %q", q.Match, store.Exact, store.Covered, store.Covering)
	}
	return f, nil
}

// matchPrefix does what Q.Prefix and Q.Match say.
func (f *Filter) matchPrefix(p netip.Prefix) bool {
	q := f.Q.Prefix
	switch {
	case !q.IsValid():
		return true
	case !p.IsValid() || p.Addr().Is4() != q.Addr().Is4():
		return false
	case f.Q.Match == store.Covered:
		return p.Bits() >= q.Bits() && q.Contains(p.Addr())
	case f.Q.Match == store.Covering:
		return p.Bits() <= q.Bits() && p.Contains(q.Addr())
	}
	return p.Bits() == q.Bits() && q.Contains(p.Addr())
}

// matchUpdate applies what concerns the whole of u.
func (f *Filter) matchUpdate(u *ingest.Update) bool {
	q := &f.Q
	return int64(u.Time) >= f.From && int64(u.Time) < f.To &&
		(q.PeerASN == 0 || u.Peer.ASN == q.PeerASN) &&
		(!q.PeerIP.IsValid() || u.Peer.Addr == q.PeerIP) &&
		(q.Collector == "" || u.Peer.Collector == q.Collector)
}

// DefaultLimit is what a limit of 0 means.
const DefaultLimit = 100

// LimitOf is the limit that n, of a query, stands for.
func LimitOf(n int) int {
	if n <= 0 {
		return DefaultLimit
	}
	return min(n, math.MaxInt32)
}

// Walk yields at most limit rows. step gives the next ones, at most so many as it is asked for, and tells whether there may
// be more; what it gives beside an error counts.
func Walk(limit int, step func(limit int) (routes []store.Route, more bool, err error), yield func(store.Route, error) bool) {
	for left := limit; left > 0; {
		routes, more, err := step(left)
		for _, r := range routes {
			if !yield(r, nil) {
				return
			}
		}
		if err != nil {
			yield(store.Route{}, err)
			return
		}
		if !more {
			return
		}
		left -= len(routes)
	}
}

// Stored is a batch as stores keep it.
type Stored struct {
	Position   uint64
	Backfilled bool
	Body       []byte
}

// Newest returns the newest matching rows of b: those before before, at most limit, newest first. r is opened on b.
func (f *Filter) Newest(r *Reader, b Stored, before store.Cursor, limit int) ([]store.Route, error) {
	err := r.Open(b.Body)
	var found []store.Route
	if err == nil {
		found, err = f.newest(r, b.Position, before, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("batch %d: %w", b.Position, err)
	}
	for i := range found {
		found[i].Backfilled = b.Backfilled
	}
	return found, nil
}

// All returns all matching rows of b, in order. r is opened on b.
func (f *Filter) All(r *Reader, b Stored) ([]store.Route, error) {
	found, err := f.Newest(r, b, store.Cursor{Position: math.MaxInt64}, math.MaxInt32)
	slices.Reverse(found)
	return found, err
}

func (f *Filter) newest(r *Reader, position uint64, before store.Cursor, limit int) ([]store.Route, error) {
	var found []store.Route
	var u ingest.Update
	row := 0
	for r.Next(&u) {
		n := RowsOf(&u)
		start := row
		row += n
		if !f.matchUpdate(&u) {
			continue
		}
		decoded := false
		for i := range n {
			c := store.Cursor{Position: position, Row: start + i}
			if !Before(c, before) {
				break
			}
			action, nlri := RowOf(&u, i)
			if (f.Q.Action != "" && action != f.Q.Action) || !f.matchPrefix(nlri.Prefix) {
				continue
			}
			attrs := &bgp.Attributes{}
			if HasAttributes(action) {
				if !decoded {
					if err := r.Attributes(&u.Attrs); err != nil {
						return nil, err
					}
					decoded = true
				}
				attrs = &u.Attrs
			}
			if f.Q.OriginASN != 0 {
				if origin, ok := attrs.ASPath.Origin(); !ok || origin != f.Q.OriginASN {
					continue
				}
			}
			if f.Q.ASOnPath != 0 && !slices.ContainsFunc(attrs.ASPath, func(s bgp.Segment) bool { return slices.Contains(s.ASNs, f.Q.ASOnPath) }) {
				continue
			}
			if len(found) >= 2*limit {
				found = append(found[:0], found[len(found)-limit:]...)
			}
			found = append(found, RouteOf(&u, attrs, action, nlri, c))
		}
	}
	if r.err != nil {
		return nil, r.err
	}
	found = found[max(0, len(found)-limit):]
	slices.Reverse(found)
	return found, nil
}

// OnPath tells whether path, as bgp.ASPath.String writes it, has the AS whose number is written asn.
func OnPath(path []byte, asn string) bool {
	digit := func(i int) bool { return i >= 0 && i < len(path) && path[i] >= '0' && path[i] <= '9' }
	for from := 0; ; {
		i := bytes.Index(path[from:], []byte(asn))
		if i < 0 {
			return false
		}
		i += from
		if !digit(i-1) && !digit(i+len(asn)) {
			return true
		}
		from = i + 1
	}
}

// Actions are all that a row of history may say.
var Actions = []store.Action{store.Announce, store.Withdraw, store.RIB, store.PeerUp, store.PeerDown}

// HasAttributes tells whether a row of action a shows path attributes.
func HasAttributes(a store.Action) bool { return a == store.Announce || a == store.RIB }

// RowOf gives the i-th row that u makes: withdrawals come first, as they take effect first.
func RowOf(u *ingest.Update, i int) (store.Action, bgp.NLRI) {
	switch {
	case u.Kind == ingest.PeerUp:
		return store.PeerUp, bgp.NLRI{}
	case u.Kind == ingest.PeerDown:
		return store.PeerDown, bgp.NLRI{}
	case i < len(u.Withdrawn):
		return store.Withdraw, u.Withdrawn[i]
	case u.Kind == ingest.RIB:
		return store.RIB, u.Announced[i-len(u.Withdrawn)]
	}
	return store.Announce, u.Announced[i-len(u.Withdrawn)]
}

// RouteOf makes the row of u that RowOf gave; a are u's attributes.
func RouteOf(u *ingest.Update, a *bgp.Attributes, action store.Action, n bgp.NLRI, c store.Cursor) store.Route {
	r := store.Route{Time: u.Time.Time(), Action: action, Collector: u.Peer.Collector, PeerASN: u.Peer.ASN, PeerIP: u.Peer.Addr, View: u.Peer.View,
		Prefix: n.Prefix, PathID: n.PathID, Cursor: c}
	if HasAttributes(action) {
		r.ASPath = a.ASPath.String()
		r.OriginASN, _ = a.ASPath.Origin()
		r.NextHop = a.NextHop
		r.Communities = communities(a)
		r.OTC = a.OTC
	}
	return r
}

// UpdateOf makes the update that a row tells of, with what rows keep of its attributes: path, next hop, communities and OTC.
func UpdateOf(r *store.Route) (ingest.Update, error) {
	u := ingest.Update{Time: ingest.TimeOf(r.Time), Peer: ingest.Peer{Collector: r.Collector, Addr: r.PeerIP, ASN: r.PeerASN, View: r.View}}
	err := add(&u, r)
	if HasAttributes(r.Action) {
		u.Attrs.Has |= bgp.HasOrigin | bgp.HasNextHop
	}
	return u, err
}

// communities writes RFC 1997 and RFC 8092 communities the way people do.
func communities(a *bgp.Attributes) []string {
	if len(a.Communities)+len(a.LargeCommunities) == 0 {
		return nil
	}
	list := make([]string, 0, len(a.Communities)+len(a.LargeCommunities))
	for _, c := range a.Communities {
		list = append(list, strconv.Itoa(int(c>>16))+":"+strconv.Itoa(int(c&0xffff)))
	}
	for _, c := range a.LargeCommunities {
		list = append(list, fmt.Sprintf("%d:%d:%d", c.Global, c.Local1, c.Local2))
	}
	return list
}

// AppendCommunities writes what RouteOf gives as Communities, separated by spaces.
func AppendCommunities(dst []byte, a *bgp.Attributes) []byte {
	start := len(dst)
	next := func() {
		if len(dst) > start {
			dst = append(dst, ' ')
		}
	}
	for _, c := range a.Communities {
		next()
		dst = append(strconv.AppendUint(dst, uint64(c>>16), 10), ':')
		dst = strconv.AppendUint(dst, uint64(c&0xffff), 10)
	}
	for _, c := range a.LargeCommunities {
		next()
		dst = append(strconv.AppendUint(dst, uint64(c.Global), 10), ':')
		dst = append(strconv.AppendUint(dst, uint64(c.Local1), 10), ':')
		dst = strconv.AppendUint(dst, uint64(c.Local2), 10)
	}
	return dst
}
