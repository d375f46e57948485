// Package storetest is the suite that every implementation of [store.Store] passes. What a store
// answers is compared with a model that keeps everything in slices and filters by the words of the
// interface, on generated history that repeats prefixes, covers them, and uses every kind of update
// and attribute.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/asof"
)

// Harness is how the suite gets at an implementation.
type Harness struct {
	// Open returns a new, empty store. Whoever opens closes: by t.Cleanup.
	Open func(t *testing.T) store.Store
	// Reopen closes s and opens a store on what it kept.
	Reopen func(t *testing.T, s store.Store) store.Store
	// Seal brings what the last checkpoint covers into the form in which it is kept for long, at
	// once. It may do nothing where there is one form only.
	Seal func(t *testing.T, s store.Store)
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	tests := []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"batches come back as they were", testBatches},
		{"a batch that cannot be kept is refused", testRefusedBatch},
		{"appends may be concurrent", testConcurrentAppends},
		{"a checkpoint replaces the one before", testCheckpoint},
		{"batches after the checkpoint are always kept", testBatchesAfterCheckpoint},
		{"updates match the model", testUpdates},
		{"a cursor stays valid while history moves", testCursor},
		{"wrong queries are refused", testWrongQueries},
		{"the routes of a past moment match the model", testAsOf},
		{"activity matches the model", testActivity},
		{"what is back-filled or imported is history and no input of detection", testBackfill},
		{"gaps are kept as they were saved", testGaps},
		{"events come back as they were", testEvents},
		{"events may be committed again", testEventsAgain},
		{"events and deliveries commit together", testEventsAtomic},
		{"incidents match the model", testIncidents},
		{"waiting for events ends when one comes", testWaitEvents},
		{"deliveries live until accepted", testDeliveries},
		{"statistics count what is kept", testStats},
		{"contexts are respected", testContexts},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, h) })
	}
}

// same compares what goes in with what comes out; the store may turn an empty list into none.
func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if reflect.DeepEqual(got, want) { // a hundred times faster than what explains the difference
		return
	}
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
		t.Fatalf("%s (-want +got):\n%s", what, d)
	}
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func no(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func collect[T any](t *testing.T, seq iter.Seq2[T, error]) (list []T) {
	t.Helper()
	for v, err := range seq {
		no(t, err)
		list = append(list, v)
	}
	return list
}

func newRand(t *testing.T, seed uint64) *rand.Rand {
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// start is the event time at which generated history begins.
var start = ingest.TimeOf(time.Date(2024, 6, 27, 18, 51, 0, 123456000, time.UTC))

// Batch generates n updates from time at on, of every kind, with few distinct prefixes and peers
// so that they repeat, and with every attribute that [bgp.Attributes] has.
func Batch(r *rand.Rand, at ingest.Time, n int) *ingest.Batch {
	b := &ingest.Batch{}
	for range n {
		at += ingest.Time(r.IntN(2e6))
		u := ingest.Update{Time: at - ingest.Time(r.IntN(5e6)), Peer: peer(r)}
		switch r.IntN(20) {
		case 0:
			u.Kind = ingest.PeerUp
		case 1:
			u.Kind = ingest.PeerDown
		case 2: // an End-of-RIB marker: nothing withdrawn, nothing announced
		case 3, 4, 5:
			u.Kind = ingest.RIB
			u.Announced = nlri(r, 1+r.IntN(3))
		default:
			u.Withdrawn = nlri(r, r.IntN(4))
			u.Announced = nlri(r, r.IntN(4))
		}
		if len(u.Announced) > 0 {
			u.Attrs = attributes(r)
		}
		b.Updates = append(b.Updates, u)
	}
	b.Watermark = at - ingest.Time(10e6)
	return b
}

func peer(r *rand.Rand) ingest.Peer {
	n := r.IntN(6)
	p := ingest.Peer{Collector: []string{"rrc00", "route-views2", ""}[n%3], ASN: uint32(64500 + n/2),
		Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), View: ingest.View(r.IntN(int(ingest.LocRIB) + 1))}
	if n == 5 {
		p.Addr = netip.MustParseAddr("2001:db8::5")
	}
	return p
}

// prefixes are related in every way: equal, covering, covered, neighbours, and at the ends of both families.
var prefixes = func() (list []netip.Prefix) {
	for _, s := range strings.Fields(`0.0.0.0/0 10.0.0.0/8 10.0.0.0/9 10.0.0.0/16 10.0.0.0/24 10.0.0.0/32 10.0.1.0/24 10.0.255.0/24 10.1.0.0/16
		10.128.0.0/9 11.0.0.0/8 198.51.100.0/24 255.255.255.255/32 ::/0 2001:db8::/32 2001:db8::/48 2001:db8:1::/48 2001:db8::1/128
		2001:db8:ffff:ffff::/64 2001:db9::/32 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128`) {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}()

func nlri(r *rand.Rand, n int) (list []bgp.NLRI) {
	addPath := r.IntN(4) == 0
	for range n {
		e := bgp.NLRI{Prefix: prefixes[r.IntN(len(prefixes))]}
		if addPath {
			e.PathID = r.Uint32()
		}
		list = append(list, e)
	}
	return list
}

func attributes(r *rand.Rand) bgp.Attributes {
	a := bgp.Attributes{Has: bgp.HasASPath | bgp.HasNextHop | bgp.HasOrigin, Origin: uint8(r.IntN(3)),
		NextHop: netip.AddrFrom4([4]byte{203, 0, 113, byte(r.IntN(4))})}
	path := bgp.Segment{Type: bgp.ASSequence}
	for range r.IntN(5) {
		path.ASNs = append(path.ASNs, 64500+uint32(r.IntN(8)))
	}
	if len(path.ASNs) > 0 {
		a.ASPath = append(a.ASPath, path)
	}
	if r.IntN(8) == 0 {
		a.ASPath = append(a.ASPath, bgp.Segment{Type: bgp.ASSet, ASNs: []uint32{64500, 4200000000}})
	}
	optional := []struct {
		has bgp.Attr
		set func()
	}{
		{bgp.HasMED, func() { a.MED = r.Uint32() }},
		{bgp.HasLocalPref, func() { a.LocalPref = r.Uint32() }},
		{bgp.HasAtomicAggregate, func() {}},
		{bgp.HasAggregator, func() { a.Aggregator = bgp.Aggregator{ASN: r.Uint32(), Addr: netip.AddrFrom4([4]byte{192, 0, 2, 9})} }},
		{bgp.HasCommunities, func() { a.Communities = []uint32{65535<<16 | 666, r.Uint32()} }},
		{bgp.HasOriginatorID, func() { a.OriginatorID = netip.AddrFrom4([4]byte{192, 0, 2, 8}) }},
		{bgp.HasClusterList, func() { a.ClusterList = []uint32{r.Uint32(), r.Uint32()} }},
		{bgp.HasExtCommunities, func() { a.ExtCommunities = []uint64{r.Uint64()} }},
		{bgp.HasLargeCommunities, func() { a.LargeCommunities = []bgp.LargeCommunity{{Global: r.Uint32(), Local1: 1, Local2: r.Uint32()}} }},
		{bgp.HasOTC, func() { a.OTC = 64500 + r.Uint32N(10) }},
		{bgp.HasAIGP, func() { a.AIGP = r.Uint64() }},
		{0, func() {
			a.NextHop, a.LinkLocal = netip.MustParseAddr("2001:db8::9"), netip.MustParseAddr("fe80::9")
		}},
		{0, func() {
			a.Unknown = []bgp.RawAttribute{{Flags: 0xc0, Type: 99, Value: []byte{1, 2, 3}}, {Flags: 0xe0, Type: 250}}
		}},
	}
	for _, o := range optional {
		if r.IntN(4) == 0 {
			a.Has |= o.has
			o.set()
		}
	}
	return a
}

// history generates batches, some of them without updates.
func history(r *rand.Rand, n int) []*ingest.Batch {
	list := make([]*ingest.Batch, n)
	at := start
	for i := range list {
		size := r.IntN(30)
		if r.IntN(4) == 0 {
			size = 0
		}
		list[i] = Batch(r, at, size)
		at = at.Add(20 * time.Second)
	}
	return list
}

func appendAll(t *testing.T, s store.Store, batches []*ingest.Batch, first uint64) {
	t.Helper()
	for i, n := 0, 1; i < len(batches); n = 8 - n { // one alone, then several at once
		var list []*ingest.Batch
		for _, b := range batches[i:min(i+n, len(batches))] {
			list = append(list, clone(b))
		}
		i += len(list)
		var got uint64
		if n == 1 {
			got = must[uint64](t)(s.AppendBatch(t.Context(), list[0]))
		} else {
			stored, position, err := s.AppendBatches(t.Context(), list)
			no(t, err)
			same(t, "how many of them are stored", stored, len(list))
			got = position
		}
		if want := first + uint64(i) - 1; got != want {
			t.Fatalf("position of batch %d is %d, want %d", i-1, got, want)
		}
		for _, c := range list {
			for j := range c.Updates { // the store must not look at it any more
				c.Updates[j] = ingest.Update{}
			}
		}
	}
}

func clone(b *ingest.Batch) *ingest.Batch {
	c := &ingest.Batch{Watermark: b.Watermark}
	for i := range b.Updates {
		c.Updates = append(c.Updates, b.Updates[i].Clone())
	}
	return c
}

func testBatches(t *testing.T, h Harness) {
	s := h.Open(t)
	same(t, "an empty store's batches", collect(t, s.BatchesSince(t.Context(), 0)), []*ingest.Batch(nil))
	batches := history(newRand(t, 1), 200)
	appendAll(t, s, batches, 1)
	check := func() {
		t.Helper()
		for _, after := range []uint64{0, 1, 77, 199, 200, 1000, 1<<64 - 1} {
			same(t, fmt.Sprintf("batches since %d", after), collect(t, s.BatchesSince(t.Context(), after)), batches[min(after, 200):])
		}
	}
	check()
	for range s.BatchesSince(t.Context(), 0) {
		break // must not block what follows
	}
	s = h.Reopen(t, s)
	check()
	appendAll(t, s, batches[:1], 201)
}

func testRefusedBatch(t *testing.T, h Harness) {
	s := h.Open(t)
	_, err := s.AppendBatch(t.Context(), &ingest.Batch{Updates: make([]ingest.Update, store.MaxBatchUpdates+1)})
	if err == nil || errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("error %v, want one that tells that repeating is in vain", err)
	}
	no(t, s.Health())
	batches := history(newRand(t, 2), 3)
	stored, _, err := s.AppendBatches(t.Context(), []*ingest.Batch{clone(batches[0]), {Updates: make([]ingest.Update, store.MaxBatchUpdates+1)}, clone(batches[2])})
	if err == nil || errors.Is(err, store.ErrUnavailable) || stored > 1 {
		t.Fatalf("%d of which the second is refused are stored, error %v", stored, err)
	}
	appendAll(t, s, batches[stored:], uint64(stored)+1)
	same(t, "the batches", collect(t, s.BatchesSince(t.Context(), 0)), batches)
}

func testConcurrentAppends(t *testing.T, h Harness) {
	s := h.Open(t)
	const writers, each = 8, 25
	var wg sync.WaitGroup
	positions := make([][]uint64, writers)
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				p, err := s.AppendBatch(t.Context(), &ingest.Batch{Watermark: ingest.Time(w*1000 + i)})
				if err != nil {
					t.Error(err)
					return
				}
				positions[w] = append(positions[w], p)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	at := map[ingest.Time]uint64{}
	n := uint64(0)
	for b, err := range s.BatchesSince(t.Context(), 0) {
		no(t, err)
		n++
		at[b.Watermark] = n
	}
	if n != writers*each {
		t.Fatalf("%d batches, want %d", n, writers*each)
	}
	for w := range writers {
		for i, p := range positions[w] {
			if got := at[ingest.Time(w*1000+i)]; got != p {
				t.Fatalf("batch %d of writer %d is at %d, acknowledged at %d", i, w, got, p)
			}
		}
	}
}

func testCheckpoint(t *testing.T, h Harness) {
	s := h.Open(t)
	check := func(position uint64, state []byte) {
		t.Helper()
		p, got, err := s.Checkpoint(t.Context())
		no(t, err)
		if p != position || string(got) != string(state) {
			t.Fatalf("checkpoint at %d with %d bytes, want %d with %d", p, len(got), position, len(state))
		}
	}
	if _, _, err := s.Checkpoint(t.Context()); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("error %v, want ErrNotFound", err)
	}
	if err := s.SaveCheckpoint(t.Context(), 1, []byte("ahead")); err == nil {
		t.Fatal("a checkpoint ahead of history is accepted")
	}
	no(t, s.SaveCheckpoint(t.Context(), 0, []byte("before all")))
	check(0, []byte("before all"))
	appendAll(t, s, history(newRand(t, 3), 10), 1)
	big := make([]byte, 3<<20)
	for i := range big {
		big[i] = byte(i >> 8)
	}
	no(t, s.SaveCheckpoint(t.Context(), 5, big))
	check(5, big)
	if err := s.SaveCheckpoint(t.Context(), 4, []byte("back")); err == nil {
		t.Fatal("a checkpoint before the last one is accepted")
	}
	check(5, big)
	s = h.Reopen(t, s)
	check(5, big)
	no(t, s.SaveCheckpoint(t.Context(), 5, nil))
	no(t, s.SaveCheckpoint(t.Context(), 10, []byte("end")))
	s = h.Reopen(t, s)
	check(10, []byte("end"))
}

func testBatchesAfterCheckpoint(t *testing.T, h Harness) {
	s := h.Open(t)
	batches := history(newRand(t, 4), 60)
	appendAll(t, s, batches, 1)
	for _, p := range []uint64{20, 20, 59, 60} {
		no(t, s.SaveCheckpoint(t.Context(), p, []byte("state")))
		h.Seal(t, s)
		same(t, "batches since the checkpoint", collect(t, s.BatchesSince(t.Context(), p)), batches[p:])
		s = h.Reopen(t, s)
		same(t, "batches since the checkpoint, reopened", collect(t, s.BatchesSince(t.Context(), p)), batches[p:])
	}
	appendAll(t, s, batches[:2], 61)
	same(t, "batches appended since", collect(t, s.BatchesSince(t.Context(), 60)), batches[:2])
}

// rows is the model of what history shows, oldest first: for each update of each batch its
// withdrawals, then its announcements, or one row for a session.
func rows(batches []*ingest.Batch) (list []store.Route) {
	for i, b := range batches {
		n := 0
		add := func(u *ingest.Update, action store.Action, e bgp.NLRI, a bgp.Attributes) {
			r := store.Route{Time: u.Time.Time(), Action: action, Collector: u.Peer.Collector, PeerASN: u.Peer.ASN, PeerIP: u.Peer.Addr, View: u.Peer.View,
				Prefix: e.Prefix, PathID: e.PathID, ASPath: a.ASPath.String(), NextHop: a.NextHop, OTC: a.OTC,
				Cursor: store.Cursor{Position: uint64(i + 1), Row: n}}
			r.OriginASN, _ = a.ASPath.Origin()
			for _, c := range a.Communities {
				r.Communities = append(r.Communities, fmt.Sprintf("%d:%d", c>>16, c&0xffff))
			}
			for _, c := range a.LargeCommunities {
				r.Communities = append(r.Communities, fmt.Sprintf("%d:%d:%d", c.Global, c.Local1, c.Local2))
			}
			n++
			list = append(list, r)
		}
		for j := range b.Updates {
			u := &b.Updates[j]
			switch u.Kind {
			case ingest.PeerUp:
				add(u, store.PeerUp, bgp.NLRI{}, bgp.Attributes{})
			case ingest.PeerDown:
				add(u, store.PeerDown, bgp.NLRI{}, bgp.Attributes{})
			default:
				for _, e := range u.Withdrawn {
					add(u, store.Withdraw, e, bgp.Attributes{})
				}
				for _, e := range u.Announced {
					add(u, map[ingest.Kind]store.Action{ingest.Routes: store.Announce, ingest.RIB: store.RIB}[u.Kind], e, u.Attrs)
				}
			}
		}
	}
	return list
}

// answer is the model's answer to q.
func answer(all []store.Route, q store.UpdateQuery) (list []store.Route) {
	limit := q.Limit
	if limit == 0 {
		limit = 100
	}
	for _, r := range slices.Backward(all) {
		if q.After != (store.Cursor{}) && (r.Cursor.Position > q.After.Position || r.Cursor.Position == q.After.Position && r.Cursor.Row >= q.After.Row) {
			continue
		}
		if matches(r, q) && len(list) < limit {
			list = append(list, r)
		}
	}
	return list
}

func matches(r store.Route, q store.UpdateQuery) bool {
	p := true
	if q.Prefix.IsValid() {
		covers := func(a, b netip.Prefix) bool {
			return a.IsValid() && b.IsValid() && a.Bits() <= b.Bits() && a.Contains(b.Addr())
		}
		switch q.Match {
		case store.Covered:
			p = covers(q.Prefix, r.Prefix)
		case store.Covering:
			p = covers(r.Prefix, q.Prefix)
		default:
			p = r.Prefix == q.Prefix
		}
	}
	return p &&
		(q.OriginASN == 0 || r.OriginASN == q.OriginASN) &&
		(q.ASOnPath == 0 || slices.Contains(asnsOf(r.ASPath), q.ASOnPath)) &&
		(q.PeerASN == 0 || r.PeerASN == q.PeerASN) &&
		(!q.PeerIP.IsValid() || r.PeerIP == q.PeerIP) &&
		(q.Collector == "" || r.Collector == q.Collector) &&
		(q.From.IsZero() || !r.Time.Before(q.From)) &&
		(q.To.IsZero() || r.Time.Before(q.To)) &&
		(q.Action == "" || r.Action == q.Action)
}

// asnsOf lists the ASNs of a path that is written out.
func asnsOf(path string) (list []uint32) {
	for _, f := range strings.FieldsFunc(path, func(c rune) bool { return c < '0' || c > '9' }) {
		n, _ := strconv.ParseUint(f, 10, 32)
		list = append(list, uint32(n))
	}
	return list
}

// queries generates queries of which most find something.
func queries(r *rand.Rand, all []store.Route, n int) (list []store.UpdateQuery) {
	for range n {
		sample := all[r.IntN(len(all))]
		q := store.UpdateQuery{Limit: []int{0, 1, 7, 50, 100000}[r.IntN(5)]}
		if r.IntN(3) > 0 {
			q.Prefix = prefixes[r.IntN(len(prefixes))]
			q.Match = []store.Match{"", store.Exact, store.Covered, store.Covering}[r.IntN(4)]
		}
		for _, set := range []func(){
			func() { q.OriginASN = sample.OriginASN },
			func() {
				if asns := asnsOf(sample.ASPath); len(asns) > 0 {
					q.ASOnPath = asns[r.IntN(len(asns))]
				}
				if r.IntN(4) == 0 {
					q.ASOnPath /= 10 // on no path, but its digits are
				}
			},
			func() { q.PeerASN = sample.PeerASN },
			func() { q.PeerIP = sample.PeerIP },
			func() { q.Collector = sample.Collector },
			func() { q.From = sample.Time },
			func() { q.To = sample.Time.Add(time.Duration(r.IntN(60)) * time.Second) },
			func() { q.Action = sample.Action },
			func() { q.After = sample.Cursor },
		} {
			if r.IntN(5) == 0 {
				set()
			}
		}
		list = append(list, q)
	}
	return list
}

func testUpdates(t *testing.T, h Harness) {
	r := newRand(t, 5)
	s := h.Open(t)
	same(t, "an empty store's updates", collect(t, s.Updates(t.Context(), store.UpdateQuery{})), []store.Route(nil))
	batches := history(r, 120)
	all := rows(batches)
	check := func(what string) {
		t.Helper()
		found := 0
		for _, q := range append(queries(r, all, 60), store.UpdateQuery{}, store.UpdateQuery{Limit: 100000}) {
			want := answer(all, q)
			same(t, fmt.Sprintf("%s: %+v", what, q), collect(t, s.Updates(t.Context(), q)), want)
			if len(want) > 0 {
				found++
			}
		}
		if found < 20 {
			t.Fatalf("only %d queries find anything: the test tests little", found)
		}
	}
	appendAll(t, s, batches, 1)
	check("unsealed")
	s = h.Reopen(t, s)
	check("unsealed, reopened")
	for _, p := range []uint64{30, 60, 61, 100} {
		no(t, s.SaveCheckpoint(t.Context(), p, nil))
		h.Seal(t, s)
		check(fmt.Sprintf("sealed up to %d", p))
	}
	s = h.Reopen(t, s)
	check("sealed in part, reopened")
	no(t, s.SaveCheckpoint(t.Context(), 120, nil))
	h.Seal(t, s)
	check("sealed")
}

func testCursor(t *testing.T, h Harness) {
	r := newRand(t, 6)
	s := h.Open(t)
	batches := history(r, 60)
	appendAll(t, s, batches, 1)
	q := store.UpdateQuery{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Match: store.Covered}
	want := answer(rows(batches), store.UpdateQuery{Prefix: q.Prefix, Match: q.Match, Limit: 100000})
	var got []store.Route
	q.Limit = 9
	for page := 0; ; page++ {
		list := collect(t, s.Updates(t.Context(), q))
		got = append(got, list...)
		if len(list) < q.Limit {
			break
		}
		q.After = list[len(list)-1].Cursor
		last := uint64(60 + page)
		appendAll(t, s, history(r, 1), last+1)
		if page%2 == 0 {
			no(t, s.SaveCheckpoint(t.Context(), min(60, uint64(page)*7), nil))
			h.Seal(t, s)
		}
	}
	same(t, "all pages", got, want)

	// One long answer, while what it has yet to yield is sealed under it.
	s = h.Open(t)
	appendAll(t, s, batches, 1)
	got = nil
	for row, err := range s.Updates(t.Context(), store.UpdateQuery{Limit: 100000}) {
		no(t, err)
		got = append(got, row)
		if len(got) == 5 {
			no(t, s.SaveCheckpoint(t.Context(), 55, nil))
			h.Seal(t, s)
		}
	}
	same(t, "an answer during which history is sealed", got, answer(rows(batches), store.UpdateQuery{Limit: 100000}))
}

// testAsOf compares with tables that are kept by applying history to them, in the order in which it happened.
func testAsOf(t *testing.T, h Harness) {
	r := newRand(t, 30)
	s := h.Open(t)
	if _, err := asof.Routes(t.Context(), s, asof.Query{Prefix: prefixes[0], At: at(0)}); !errors.Is(err, asof.ErrUnknown) {
		t.Fatalf("of an empty store: error %v, want ErrUnknown", err)
	}
	g := ingest.Gap{Feed: "ris-live", Collector: "rrc00", From: at(0), Until: at(60), State: ingest.GapWaiting}
	no(t, s.SaveGap(t.Context(), &g))
	batches := history(r, 120)
	backfilled := map[uint64]bool{}
	for i, b := range batches { // times overlap from one to the next
		if i%5 != 1 {
			appendAll(t, s, batches[i:i+1], uint64(i+1))
			continue
		}
		for j := range b.Updates {
			b.Updates[j].Time -= 300e6
		}
		no(t, s.AppendBackfill(t.Context(), clone(b), &g))
		backfilled[uint64(i+1)] = true
	}
	all := rows(batches)
	for i := range all {
		all[i].Backfilled = backfilled[all[i].Cursor.Position]
	}
	slices.SortStableFunc(all, func(a, b store.Route) int { return a.Time.Compare(b.Time) })
	check := func() {
		t.Helper()
		found, ended := 0, 0
		for range 60 {
			q := asof.Query{Prefix: prefixes[r.IntN(len(prefixes))], Match: []store.Match{"", store.Exact, store.Covered, store.Covering}[r.IntN(4)],
				At: all[r.IntN(len(all))].Time}
			sample := all[r.IntN(len(all))]
			switch r.IntN(6) {
			case 0:
				q.PeerASN = sample.PeerASN
			case 1:
				q.PeerIP = sample.PeerIP
			case 2:
				q.Collector = sample.Collector
			}
			want, cleared := tables(all, q)
			got := must[asof.State](t)(asof.Routes(t.Context(), s, q))
			same(t, fmt.Sprintf("routes of %+v", q), got, asof.State{Routes: want, Since: all[0].Time, Whole: true})
			if found += len(want); cleared {
				ended++
			}
		}
		if found < 200 || ended < 10 {
			t.Fatalf("%d routes found, and in %d answers a session has ended: the test tests little", found, ended)
		}
	}
	check()
	_, err := asof.Routes(t.Context(), s, asof.Query{Prefix: prefixes[0], At: all[0].Time.Add(-time.Second)})
	if !errors.Is(err, asof.ErrUnknown) {
		t.Fatalf("before history: error %v, want ErrUnknown", err)
	}
	no(t, s.SaveCheckpoint(t.Context(), 70, nil))
	h.Seal(t, s)
	check()
	s = h.Reopen(t, s)
	check()
}

// tables is the model's answer to q, and whether an end or a beginning of a session took a route away.
func tables(all []store.Route, q asof.Query) (list []store.Route, cleared bool) {
	type key struct {
		prefix netip.Prefix
		pathID uint32
	}
	peers := map[ingest.Peer]map[key]store.Route{}
	filter := store.UpdateQuery{Prefix: q.Prefix, Match: q.Match, PeerASN: q.PeerASN, PeerIP: q.PeerIP, Collector: q.Collector}
	for _, r := range all {
		if r.Time.After(q.At) {
			break
		}
		peer := ingest.Peer{Collector: r.Collector, ASN: r.PeerASN, Addr: r.PeerIP, View: r.View}
		if peers[peer] == nil {
			peers[peer] = map[key]store.Route{}
		}
		switch k := (key{r.Prefix, r.PathID}); {
		case r.Action == store.PeerUp || r.Action == store.PeerDown:
			cleared = cleared || len(peers[peer]) > 0
			clear(peers[peer])
		case !matches(r, filter):
		case r.Action == store.Withdraw:
			delete(peers[peer], k)
		default:
			peers[peer][k] = r
		}
	}
	for _, table := range peers {
		for _, r := range table {
			list = append(list, r)
		}
	}
	text := func(r store.Route) string {
		return fmt.Sprintf("%s %s %d %d %08x", r.Collector, r.PeerIP.StringExpanded(), r.PeerASN, r.View, r.PathID)
	}
	slices.SortFunc(list, func(a, b store.Route) int {
		if a.Prefix != b.Prefix {
			return a.Prefix.Compare(b.Prefix)
		}
		if a.Collector == b.Collector && a.PeerIP != b.PeerIP {
			return a.PeerIP.Compare(b.PeerIP)
		}
		return strings.Compare(text(a), text(b))
	})
	return list, cleared
}

// testBackfill has every third batch back-filled and every third imported, through seals and reopening.
func testBackfill(t *testing.T, h Harness) {
	r := newRand(t, 15)
	s := h.Open(t)
	g := ingest.Gap{Feed: "ris-live", Collector: "rrc00", From: at(0), Until: at(60), State: ingest.GapWaiting}
	if err := s.AppendBackfill(t.Context(), &ingest.Batch{}, &g); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("of a gap that was not saved: error %v, want ErrNotFound", err)
	}
	no(t, s.SaveGap(t.Context(), &g))
	imported := ingest.Gap{Feed: "an export", From: at(0), Until: at(60), State: ingest.GapImported}
	if err := s.AppendImport(t.Context(), &ingest.Batch{}, false, &imported); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("of an import that was not saved: error %v, want ErrNotFound", err)
	}
	no(t, s.SaveGap(t.Context(), &imported))
	batches := history(r, 60)
	var all []store.Route
	forDetection := make([]*ingest.Batch, len(batches))
	backfilled := map[uint64]bool{}
	for i, b := range batches {
		position := uint64(i + 1)
		if forDetection[i] = b; i%3 == 0 {
			appendAll(t, s, batches[i:i+1], position)
			continue
		}
		forDetection[i] = &ingest.Batch{}
		if i%3 == 1 {
			backfilled[position] = true
			g.Taken += uint64(len(b.Updates))
			no(t, s.AppendBackfill(t.Context(), clone(b), &g))
		} else {
			backfilled[position] = i%2 == 0
			imported.Taken += uint64(len(b.Updates))
			no(t, s.AppendImport(t.Context(), clone(b), backfilled[position], &imported))
		}
		same(t, "the gaps after a batch of them", must[[]ingest.Gap](t)(s.Gaps(t.Context(), "", 0)), []ingest.Gap{imported, g})
		same(t, "imports", must[[]ingest.Gap](t)(s.Gaps(t.Context(), ingest.GapImported, 0)), []ingest.Gap{imported})
	}
	all = rows(batches)
	for i := range all {
		all[i].Backfilled = backfilled[all[i].Cursor.Position]
	}
	lost := g
	lost.ID += 1000
	if err := s.AppendBackfill(t.Context(), clone(batches[1]), &lost); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("of a gap that is not there: error %v, want ErrNotFound", err)
	}
	check := func(since uint64) {
		t.Helper()
		for _, q := range queries(r, all, 50) {
			same(t, fmt.Sprintf("updates of %+v", q), collect(t, s.Updates(t.Context(), q)), answer(all, q))
		}
		same(t, "everything", collect(t, s.Updates(t.Context(), store.UpdateQuery{Limit: 1 << 20})), answer(all, store.UpdateQuery{Limit: 1 << 20}))
		same(t, "batches for detection", collect(t, s.BatchesSince(t.Context(), since)), forDetection[since:])
		if st := must[store.Stats](t)(s.Stats(t.Context())); st.Updates != uint64(len(all)) || st.LastPosition != uint64(len(batches)) {
			t.Fatalf("%d rows up to position %d, want %d up to %d", st.Updates, st.LastPosition, len(all), len(batches))
		}
	}
	check(0)
	for _, p := range []uint64{20, 41, 60} {
		no(t, s.SaveCheckpoint(t.Context(), p, []byte("state")))
		h.Seal(t, s)
		check(p)
		s = h.Reopen(t, s)
		check(p)
	}
}

func testGaps(t *testing.T, h Harness) {
	s := h.Open(t)
	same(t, "gaps of an empty store", must[[]ingest.Gap](t)(s.Gaps(t.Context(), "", 0)), []ingest.Gap(nil))
	same(t, "heard by an empty store", must[[]store.Heard](t)(s.Heard(t.Context())), []store.Heard(nil))
	gaps := []ingest.Gap{
		{Feed: "ris-live", Collector: "rrc00", From: at(0), Until: at(60), State: ingest.GapWaiting},
		{Feed: "ris-live-2", Collector: "rrc21", PeerASN: 4200000000, From: at(1), Until: at(61), State: ingest.GapWaiting, NextAttempt: at(90), Attempts: 3,
			Error: "not there yet", Updates: 12, File: at(0), Taken: 7},
		{Feed: "ris-live", Collector: "rrc00", From: at(100), State: ingest.GapOpen},
	}
	for i := range gaps {
		no(t, s.SaveGap(t.Context(), &gaps[i]))
		if gaps[i].ID == 0 {
			t.Fatal("a saved gap has no ID")
		}
	}
	gaps[0].State, gaps[0].Updates, gaps[0].File, gaps[0].Taken = ingest.GapDone, 5, time.Time{}, 0
	no(t, s.SaveGap(t.Context(), &gaps[0]))
	if err := s.SaveGap(t.Context(), &ingest.Gap{ID: 1 << 40, State: ingest.GapDone}); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("error %v, want ErrNotFound", err)
	}
	no(t, s.SaveHeard(t.Context(), []store.Heard{{Collector: "rrc21", Feed: "ris-live", Time: at(5)}, {Collector: "rrc00", Feed: "ris-live", Time: at(6)}}))
	no(t, s.SaveHeard(t.Context(), []store.Heard{{Collector: "rrc21", Feed: "ris-live-2", Time: at(7)}}))
	for range 2 {
		same(t, "all gaps", must[[]ingest.Gap](t)(s.Gaps(t.Context(), "", 0)), []ingest.Gap{gaps[2], gaps[1], gaps[0]})
		same(t, "the last gap", must[[]ingest.Gap](t)(s.Gaps(t.Context(), "", 1)), []ingest.Gap{gaps[2]})
		same(t, "gaps that wait", must[[]ingest.Gap](t)(s.Gaps(t.Context(), ingest.GapWaiting, 0)), []ingest.Gap{gaps[1]})
		same(t, "heard", must[[]store.Heard](t)(s.Heard(t.Context())),
			[]store.Heard{{Collector: "rrc00", Feed: "ris-live", Time: at(6)}, {Collector: "rrc21", Feed: "ris-live-2", Time: at(7)}})
		s = h.Reopen(t, s)
	}
	// Those that wait stay, however many are finished.
	for range 1200 {
		g := ingest.Gap{Collector: "rrc01", State: ingest.GapFailed, From: at(0), Until: at(1)}
		no(t, s.SaveGap(t.Context(), &g))
	}
	same(t, "gaps that wait", must[[]ingest.Gap](t)(s.Gaps(t.Context(), ingest.GapWaiting, 0)), []ingest.Gap{gaps[1]})
	if n := len(must[[]ingest.Gap](t)(s.Gaps(t.Context(), ingest.GapFailed, 1<<20))); n < 1000 || n >= 1200 {
		t.Errorf("%d of 1200 finished gaps are kept", n)
	}
}

func testWrongQueries(t *testing.T, h Harness) {
	s := h.Open(t)
	for name, q := range map[string]store.UpdateQuery{
		"action": {Action: "explode"},
		"match":  {Prefix: prefixes[0], Match: "roughly"},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			for _, err := range s.Updates(t.Context(), q) {
				if n++; err == nil {
					t.Fatal("it yields a route")
				}
			}
			if n != 1 {
				t.Fatalf("%d errors, want one", n)
			}
		})
	}
}

func at(seconds int) time.Time { return start.Time().Add(time.Duration(seconds) * time.Second) }

// Incident generates an incident whose fields are all set.
func Incident(r *rand.Rand, id string, sequence uint64) incident.Incident {
	began := r.IntN(3600)
	in := incident.Incident{
		ID: id, Sequence: sequence, Kind: incident.Kinds[r.IntN(len(incident.Kinds))], Severity: incident.Severities[r.IntN(5)],
		Status: incident.Open, Confidence: r.Float64(), Title: "AS64500 announces 10.0.0.0/24", Explanation: "Because “it” does.\n",
		StartedAt: at(began), DetectedAt: at(began + 6), UpdatedAt: at(began + 60),
		Offenders: []uint32{64500 + r.Uint32N(5)}, Accomplices: []uint32{64510 + r.Uint32N(5)}, Victims: []uint32{64520 + r.Uint32N(5), 4200000000},
		PrefixCount: 100000, Visibility: incident.Visibility{Peers: 93, PeerASNs: 80, FullFeedPeers: 120, Collectors: 12},
		Paths: [][]uint32{{3333, 64510, 64500}}, UsualPaths: [][]uint32{{3333, 64520}, {}},
		Evidence: []incident.Evidence{{Rule: "origin.never_seen", Weight: 2.1, Detail: "d", Source: "history", SourceVersion: "v"}},
		Degraded: []string{"rrc00 lags"},
	}
	if r.IntN(2) == 0 {
		in.Status = incident.Ended
		in.EndedAt = new(at(began + 60 + r.IntN(600)))
	}
	if in.Kind == incident.RouteLeak {
		in.RFC7908Type = new(1 + r.IntN(4))
	}
	for range r.IntN(4) {
		in.Prefixes = append(in.Prefixes, incident.Prefix{Prefix: prefixes[r.IntN(len(prefixes))], ExpectedOrigins: []uint32{64520},
			ObservedOrigins: []uint32{64500}, RPKI: "invalid", IRR: "not_found"})
	}
	return in
}

func event(in incident.Incident, change incident.Change) incident.Event {
	return incident.Event{Sequence: in.Sequence, Time: in.UpdatedAt, Change: change, Incident: in}
}

func testEvents(t *testing.T, h Harness) {
	r := newRand(t, 7)
	s := h.Open(t)
	if _, err := s.Incident(t.Context(), "inc_1"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("error %v, want ErrNotFound", err)
	}
	same(t, "the last sequence of nothing", must[uint64](t)(s.LastSequence(t.Context())), uint64(0))
	var events []incident.Event
	for i := range 40 {
		change := incident.Grew
		if i < 4 {
			change = incident.Opened
		}
		events = append(events, event(Incident(r, fmt.Sprintf("inc_%d", i%4), uint64(10+3*i)), change)) // sequences may have gaps
	}
	no(t, s.CommitEvents(t.Context(), events[:1], nil))
	no(t, s.CommitEvents(t.Context(), events[1:], nil))
	no(t, s.CommitEvents(t.Context(), nil, nil))
	check := func() {
		t.Helper()
		same(t, "last sequence", must[uint64](t)(s.LastSequence(t.Context())), uint64(10+3*39))
		same(t, "all events", must[[]incident.Event](t)(s.Events(t.Context(), "", 0, 1000)), events)
		same(t, "some events", must[[]incident.Event](t)(s.Events(t.Context(), "", events[4].Sequence, 3)), events[5:8])
		same(t, "no events", must[[]incident.Event](t)(s.Events(t.Context(), "", 1<<64-1, 3)), events[:0])
		same(t, "events of one", must[[]incident.Event](t)(s.Events(t.Context(), "inc_2", events[2].Sequence, 2)), []incident.Event{events[6], events[10]})
		same(t, "events of none", must[[]incident.Event](t)(s.Events(t.Context(), "inc_9", 0, 2)), events[:0])
		for i := range 4 {
			same(t, "an incident as it stands", must[incident.Incident](t)(s.Incident(t.Context(), fmt.Sprintf("inc_%d", i))), events[36+i].Incident)
		}
	}
	check()
	s = h.Reopen(t, s)
	check()
	for name, e := range map[string]incident.Event{
		"no sequence":       event(incident.Incident{ID: "inc_x"}, incident.Opened),
		"no id":             event(incident.Incident{Sequence: 1000}, incident.Opened),
		"another sequence":  {Sequence: 1000, Incident: incident.Incident{ID: "inc_x", Sequence: 999}},
		"sequence too high": event(incident.Incident{ID: "inc_x", Sequence: 1 << 63}, incident.Opened),
	} {
		if err := s.CommitEvents(t.Context(), []incident.Event{e}, nil); err == nil || errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s: error %v, want one that tells that repeating is in vain", name, err)
		}
	}
	check()
}

func testEventsAgain(t *testing.T, h Harness) {
	r := newRand(t, 8)
	s := h.Open(t)
	var events []incident.Event
	var deliveries []store.Delivery
	for i := range 6 {
		events = append(events, event(Incident(r, "inc_1", uint64(i+1)), incident.Grew))
		deliveries = append(deliveries, delivery(&events[i], "hook", i))
	}
	no(t, s.CommitEvents(t.Context(), events, deliveries))
	changed := slices.Clone(events)
	changedDeliveries := slices.Clone(deliveries)
	for i := range changed {
		changed[i].Incident.Title = "changed"
		changedDeliveries[i].Body = []byte("changed")
	}
	next := event(Incident(r, "inc_1", 7), incident.Closed)
	no(t, s.CommitEvents(t.Context(), append(changed[2:], next), changedDeliveries[3:]))
	same(t, "events", must[[]incident.Event](t)(s.Events(t.Context(), "inc_1", 0, 100)), append(slices.Clone(events), next))
	same(t, "incident", must[incident.Incident](t)(s.Incident(t.Context(), "inc_1")), next.Incident)
	same(t, "deliveries", must[[]store.Delivery](t)(s.Deliveries(t.Context(), "inc_1")), deliveries)

	// The same within one call: the first counts.
	twice := event(Incident(r, "inc_1", 8), incident.Reopened)
	no(t, s.CommitEvents(t.Context(), []incident.Event{twice, event(Incident(r, "inc_1", 8), incident.Closed)}, nil))
	same(t, "incident", must[incident.Incident](t)(s.Incident(t.Context(), "inc_1")), twice.Incident)

	// One that comes late is part of the record, but does not undo what is newer.
	no(t, s.CommitEvents(t.Context(), []incident.Event{event(Incident(r, "inc_2", 20), incident.Opened)}, nil))
	late := event(Incident(r, "inc_2", 15), incident.Opened)
	no(t, s.CommitEvents(t.Context(), []incident.Event{late}, nil))
	if in := must[incident.Incident](t)(s.Incident(t.Context(), "inc_2")); in.Sequence != 20 {
		t.Fatalf("the incident stands at %d, want 20", in.Sequence)
	}
	same(t, "late event", must[[]incident.Event](t)(s.Events(t.Context(), "inc_2", 0, 1)), []incident.Event{late})
}

func testEventsAtomic(t *testing.T, h Harness) {
	r := newRand(t, 9)
	s := h.Open(t)
	e := event(Incident(r, "inc_1", 1), incident.Opened)
	good, stray := delivery(&e, "hook", 1), delivery(&e, "hook", 2)
	stray.IncidentID = "inc_unknown"
	if err := s.CommitEvents(t.Context(), []incident.Event{e}, []store.Delivery{good, stray}); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("error %v, want ErrNotFound for the incident of the second delivery", err)
	}
	if _, err := s.Incident(t.Context(), "inc_1"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("the incident is stored without its deliveries (error %v)", err)
	}
	same(t, "last sequence", must[uint64](t)(s.LastSequence(t.Context())), uint64(0))
	same(t, "deliveries due", must[[]store.Delivery](t)(s.DueDeliveries(t.Context(), "hook", at(1e6), 10)), []store.Delivery(nil))
	no(t, s.Health())
}

func testIncidents(t *testing.T, h Harness) {
	r := newRand(t, 10)
	s := h.Open(t)
	var stand []incident.Incident // the newest first
	for i := range 300 {
		in := Incident(r, fmt.Sprintf("inc_%d", r.IntN(150)), uint64(i+1))
		no(t, s.CommitEvents(t.Context(), []incident.Event{event(in, incident.Grew)}, nil))
		stand = slices.DeleteFunc(stand, func(o incident.Incident) bool { return o.ID == in.ID })
		stand = slices.Insert(stand, 0, in)
	}
	pick := func(in incident.Incident, q store.IncidentQuery) bool {
		asns := slices.Concat(in.Offenders, in.Accomplices, in.Victims)
		return (q.Status == "" || in.Status == q.Status) &&
			(len(q.Kinds) == 0 || slices.Contains(q.Kinds, in.Kind)) &&
			(q.MinSeverity == "" || in.Severity.Rank() >= q.MinSeverity.Rank()) &&
			(q.ASN == 0 || slices.Contains(asns, q.ASN)) &&
			(!q.Prefix.IsValid() || slices.ContainsFunc(in.Prefixes, func(p incident.Prefix) bool { return p.Prefix.Overlaps(q.Prefix) })) &&
			(q.To.IsZero() || in.StartedAt.Before(q.To)) &&
			(q.From.IsZero() || in.EndedAt == nil || !in.EndedAt.Before(q.From)) &&
			(q.Before == 0 || in.Sequence < q.Before)
	}
	check := func(q store.IncidentQuery) int {
		t.Helper()
		limit := q.Limit
		if limit == 0 {
			limit = 100
		}
		var want []incident.Incident
		for _, in := range stand {
			if pick(in, q) && len(want) < limit {
				want = append(want, in)
			}
		}
		same(t, fmt.Sprintf("%+v", q), must[[]incident.Incident](t)(s.Incidents(t.Context(), q)), want)
		return len(want)
	}
	for range 2 {
		check(store.IncidentQuery{})
		check(store.IncidentQuery{Limit: 1000})
		found := 0
		for range 120 {
			sample := stand[r.IntN(len(stand))]
			q := store.IncidentQuery{Limit: r.IntN(3) * 20}
			for _, set := range []func(){
				func() { q.Status = sample.Status },
				func() { q.Kinds = []incident.Kind{sample.Kind, incident.Kinds[r.IntN(len(incident.Kinds))]} },
				func() { q.MinSeverity = sample.Severity },
				func() { q.ASN = slices.Concat(sample.Offenders, sample.Accomplices, sample.Victims)[r.IntN(4)] },
				func() { q.Prefix = prefixes[r.IntN(len(prefixes))] },
				func() { q.From = sample.UpdatedAt },
				func() { q.To = sample.UpdatedAt },
				func() { q.Before = sample.Sequence },
			} {
				if r.IntN(4) == 0 {
					set()
				}
			}
			if check(q) > 0 {
				found++
			}
		}
		if found < 40 {
			t.Fatalf("only %d queries find anything: the test tests little", found)
		}
		s = h.Reopen(t, s)
	}
	check(store.IncidentQuery{ASN: 1})
	check(store.IncidentQuery{Before: 1})
}

func testWaitEvents(t *testing.T, h Harness) {
	r := newRand(t, 11)
	s := h.Open(t)
	no(t, s.CommitEvents(t.Context(), []incident.Event{event(Incident(r, "inc_1", 5), incident.Opened)}, nil))
	no(t, s.WaitEvents(t.Context(), 4)) // there is one already
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.WaitEvents(ctx, 5); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v, want the context's", err)
	}
	const waiters = 10
	done := make(chan error, waiters)
	for range waiters {
		go func() { done <- s.WaitEvents(t.Context(), 6) }()
	}
	no(t, s.CommitEvents(t.Context(), []incident.Event{event(Incident(r, "inc_1", 6), incident.Grew)}, nil))
	select {
	case err := <-done:
		t.Fatalf("it returned %v before there was a later event", err)
	case <-time.After(20 * time.Millisecond):
	}
	no(t, s.CommitEvents(t.Context(), []incident.Event{event(Incident(r, "inc_1", 7), incident.Grew)}, nil))
	for range waiters {
		select {
		case err := <-done:
			no(t, err)
		case <-time.After(5 * time.Second):
			t.Fatal("nobody wakes")
		}
	}
}

func delivery(e *incident.Event, receiver string, n int) store.Delivery {
	return store.Delivery{Key: fmt.Sprintf("%s-%d-%d", receiver, e.Sequence, n), IncidentID: e.Incident.ID, Sequence: e.Sequence, Receiver: receiver,
		Body: []byte(`{"n":` + fmt.Sprint(n) + `}`), State: store.Pending, CreatedAt: at(n), UpdatedAt: at(n), NextAttempt: at(100 + n), ExpiresAt: at(9000)}
}

func testDeliveries(t *testing.T, h Harness) {
	r := newRand(t, 12)
	s := h.Open(t)
	e1, e2 := event(Incident(r, "inc_1", 1), incident.Opened), event(Incident(r, "inc_2", 2), incident.Opened)
	first, second, third, now := delivery(&e1, "hook", 1), delivery(&e1, "hook", 2), delivery(&e2, "hook", 3), delivery(&e2, "hook", 4)
	first.NextAttempt, second.NextAttempt, third.NextAttempt = at(110), at(100), at(120)
	now.NextAttempt = time.Time{} // at once
	other := delivery(&e1, "mail", 0)
	no(t, s.CommitEvents(t.Context(), []incident.Event{e1, e2}, []store.Delivery{third, first, now, other, second}))
	due := func(receiver string, seconds, limit int) []store.Delivery {
		t.Helper()
		return must[[]store.Delivery](t)(s.DueDeliveries(t.Context(), receiver, at(seconds), limit))
	}
	same(t, "due early", due("hook", 0, 10), []store.Delivery{now})
	same(t, "due at its very time", due("hook", 100, 10), []store.Delivery{second, now})
	same(t, "due late", due("hook", 1000, 10), []store.Delivery{first, second, third, now})
	same(t, "due, of which the first", due("hook", 1000, 2), []store.Delivery{first, second})
	same(t, "due to another", due("mail", 1000, 10), []store.Delivery{other})
	same(t, "due to nobody", due("", 1000, 10), []store.Delivery(nil))
	same(t, "an incident's", must[[]store.Delivery](t)(s.Deliveries(t.Context(), "inc_1")), []store.Delivery{first, second, other})
	same(t, "an unknown incident's", must[[]store.Delivery](t)(s.Deliveries(t.Context(), "inc_3")), []store.Delivery(nil))

	// Only the mutable part changes.
	first.State, first.Attempts, first.NextAttempt, first.LastError, first.Receipt, first.UpdatedAt =
		store.Delivered, 3, time.Time{}, "500 once", "202 accepted", at(400)
	sent := first
	sent.Receiver, sent.Body, sent.CreatedAt, sent.ExpiresAt = "x", nil, at(1), at(1)
	no(t, s.UpdateDelivery(t.Context(), sent))
	second.Attempts, second.NextAttempt, second.LastError = 1, at(2000), "connection refused"
	no(t, s.UpdateDelivery(t.Context(), second))
	third.State = store.Expired
	no(t, s.UpdateDelivery(t.Context(), third))
	if err := s.UpdateDelivery(t.Context(), store.Delivery{Key: "nowhere"}); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("error %v, want ErrNotFound", err)
	}
	for range 2 {
		same(t, "an incident's, after", must[[]store.Delivery](t)(s.Deliveries(t.Context(), "inc_1")), []store.Delivery{first, second, other})
		same(t, "due after", due("hook", 1000, 10), []store.Delivery{now})
		same(t, "due much later", due("hook", 2000, 10), []store.Delivery{second, now})
		s = h.Reopen(t, s)
	}
}

func testStats(t *testing.T, h Harness) {
	r := newRand(t, 13)
	s := h.Open(t)
	st := must[store.Stats](t)(s.Stats(t.Context()))
	st.Bytes = 0
	same(t, "of nothing", st, store.Stats{})
	batches := history(r, 50)
	all := rows(batches)
	oldest := slices.MinFunc(all, func(a, b store.Route) int { return a.Time.Compare(b.Time) }).Time
	appendAll(t, s, batches, 1)
	no(t, s.CommitEvents(t.Context(), []incident.Event{event(Incident(r, "inc_1", 3), incident.Opened), event(Incident(r, "inc_1", 4), incident.Grew)}, nil))
	check := func() {
		t.Helper()
		st := must[store.Stats](t)(s.Stats(t.Context()))
		if st.Bytes <= 0 {
			t.Fatalf("%d bytes", st.Bytes)
		}
		st.Bytes, st.Parts = 0, 0
		same(t, "statistics", st, store.Stats{Updates: uint64(len(all)), OldestUpdate: oldest, Incidents: 1, LastPosition: 50, LastSequence: 4})
	}
	check()
	no(t, s.SaveCheckpoint(t.Context(), 30, nil))
	h.Seal(t, s)
	check()
	s = h.Reopen(t, s)
	check()
}

func testContexts(t *testing.T, h Harness) {
	r := newRand(t, 14)
	s := h.Open(t)
	batches := history(r, 30)
	appendAll(t, s, batches, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v, want the context's", what, err)
		}
	}
	var err error
	for _, err = range s.BatchesSince(ctx, 0) {
		cancel()
	}
	ended("BatchesSince", err)
	err = nil
	for _, e := range s.Updates(ctx, store.UpdateQuery{}) {
		err = e
	}
	ended("Updates", err)
	_, err = s.AppendBatch(ctx, batches[0])
	ended("AppendBatch", err)
	ended("CommitEvents", s.CommitEvents(ctx, []incident.Event{event(Incident(r, "inc_1", 1), incident.Opened)}, nil))
	ended("SaveCheckpoint", s.SaveCheckpoint(ctx, 1, nil))
	ended("WaitEvents", s.WaitEvents(ctx, 1))
	_, err = s.Incidents(ctx, store.IncidentQuery{})
	ended("Incidents", err)
	_, err = s.DueDeliveries(ctx, "hook", at(0), 1)
	ended("DueDeliveries", err)
	no(t, s.Health())
	if st := must[store.Stats](t)(s.Stats(t.Context())); st.LastPosition != 30 || st.LastSequence != 0 {
		t.Errorf("something was stored: %+v", st)
	}
}
