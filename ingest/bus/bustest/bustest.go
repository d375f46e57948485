// Package bustest is the suite that every stream from sources to the detector passes.
package bustest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bus"
)

// Stream is one that is tested.
type Stream struct {
	Publish ingest.Handler
	Sign    func(source string, collectors []string)
	Next    func(context.Context) (*ingest.Batch, error)
}

// patience is for machines that are loaded a lot.
const patience = 2 * time.Minute

// Run tests the streams that open makes, which ends them when the test ends.
func Run(t *testing.T, open func(*testing.T) Stream) {
	t.Run("in order", func(t *testing.T) { inOrder(t, open(t)) })
	t.Run("whole updates", func(t *testing.T) { whole(t, open(t)) })
	t.Run("sessions", func(t *testing.T) { sessions(t, open(t)) })
	t.Run("signs of life", func(t *testing.T) { signs(t, open(t)) })
	t.Run("time goes on", func(t *testing.T) { timeGoesOn(t, open(t)) })
	t.Run("the end of a context", func(t *testing.T) { ends(t, open(t)) })
}

// collect takes batches until enough says so, and makes sure that watermarks do not go back.
func collect(t *testing.T, s Stream, enough func([]ingest.Update) bool) []ingest.Update {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var all []ingest.Update
	last := ingest.Time(0)
	for !enough(all) {
		b, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("after %d updates: %v", len(all), err)
		}
		if b.Watermark < last {
			t.Fatalf("the watermark went back from %v to %v", last, b.Watermark)
		}
		last = b.Watermark
		all = append(all, b.Updates...)
	}
	return all
}

func peer(n int) ingest.Peer {
	return ingest.Peer{Collector: "rrc00", Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), ASN: 64500 + uint32(n)}
}

func prefix(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(1 + n%200), byte(n >> 16), byte(n >> 8), 0}), 24)
}

func attributes(asns ...uint32) bgp.Attributes {
	return bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: netip.MustParseAddr("192.0.2.254"),
		ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: asns}}}
}

// inOrder: what each peer says arrives in its order, however many publish.
func inOrder(t *testing.T, s Stream) {
	const peers, each = 6, 400
	now := ingest.TimeOf(time.Now())
	var wg sync.WaitGroup
	for p := range peers {
		wg.Go(func() {
			u := ingest.Update{Peer: peer(p)} // its memory is used again
			for i := range each {
				u.Time = now + ingest.Time(i)
				u.Announced = append(u.Announced[:0], bgp.NLRI{Prefix: prefix(i)})
				u.Attrs = attributes(u.Peer.ASN, uint32(1+i))
				if err := s.Publish(&u); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all := collect(t, s, func(all []ingest.Update) bool { return len(all) >= peers*each })
	wg.Wait()
	next := map[ingest.Peer]int{}
	for _, u := range all {
		i := next[u.Peer]
		next[u.Peer]++
		if u.Time != now+ingest.Time(i) || len(u.Announced) != 1 || u.Announced[0].Prefix != prefix(i) || u.Attrs.ASPath.String() != fmt.Sprint(u.Peer.ASN, 1+i) {
			t.Fatalf("%v: update %d is %+v", u.Peer, i, u)
		}
	}
	for p := range peers {
		if n := next[peer(p)]; n != each {
			t.Errorf("peer %d: %d updates of %d", p, n, each)
		}
	}
}

// whole: everything that an update says arrives; a stream may cut it by routes.
func whole(t *testing.T, s Stream) {
	u := ingest.Update{Time: ingest.TimeOf(time.Now()), Peer: peer(1)}
	for i := range 300 {
		u.Withdrawn = append(u.Withdrawn, bgp.NLRI{Prefix: prefix(1000 + i), PathID: uint32(i)})
		u.Announced = append(u.Announced, bgp.NLRI{Prefix: prefix(i)})
	}
	u.Announced = append(u.Announced, bgp.NLRI{Prefix: netip.MustParsePrefix("2001:db8::/32")}, bgp.NLRI{Prefix: netip.MustParsePrefix("2a00::/16")})
	u.Attrs = attributes(64501, 3356, 64510)
	u.Attrs.Has |= bgp.HasMED | bgp.HasCommunities | bgp.HasLargeCommunities | bgp.HasExtCommunities | bgp.HasOTC | bgp.HasAggregator
	u.Attrs.ASPath = append(u.Attrs.ASPath, bgp.Segment{Type: bgp.ASSet, ASNs: []uint32{1, 2}})
	u.Attrs.MED, u.Attrs.OTC, u.Attrs.Aggregator = 7, 64502, bgp.Aggregator{ASN: 9, Addr: netip.MustParseAddr("192.0.2.9")}
	u.Attrs.Communities, u.Attrs.ExtCommunities = []uint32{1, 2, 3}, []uint64{4}
	u.Attrs.LargeCommunities = []bgp.LargeCommunity{{Global: 1, Local1: 2, Local2: 3}}
	u.Attrs.Unknown = []bgp.RawAttribute{{Flags: 0xc0, Type: 99, Value: []byte{1, 2, 3}}}
	want := u.Clone()
	if err := s.Publish(&u); err != nil {
		t.Fatal(err)
	}
	routes := func(all []ingest.Update) (withdrawn, announced []bgp.NLRI) {
		for _, u := range all {
			withdrawn, announced = append(withdrawn, u.Withdrawn...), append(announced, u.Announced...)
		}
		for _, l := range [][]bgp.NLRI{withdrawn, announced} {
			slices.SortFunc(l, func(a, b bgp.NLRI) int { return cmp.Or(a.Prefix.Compare(b.Prefix), cmp.Compare(a.PathID, b.PathID)) })
		}
		return withdrawn, announced
	}
	all := collect(t, s, func(all []ingest.Update) bool {
		w, a := routes(all)
		return len(w) >= len(want.Withdrawn) && len(a) >= len(want.Announced)
	})
	gotW, gotA := routes(all)
	wantW, wantA := routes([]ingest.Update{want})
	if !slices.Equal(gotW, wantW) || !slices.Equal(gotA, wantA) {
		t.Error("the routes differ")
	}
	for _, u := range all {
		if u.Time != want.Time || u.Peer != want.Peer {
			t.Errorf("a part is of %v at %v", u.Peer, u.Time)
		}
		if got, want := fmt.Sprintf("%+v", u.Attrs), fmt.Sprintf("%+v", want.Attrs); len(u.Announced) > 0 && got != want {
			t.Errorf("attributes\n%s, want\n%s", got, want)
		}
	}
}

// sessions: what a session does comes once, and between the routes before it and after it.
func sessions(t *testing.T, s Stream) {
	now := ingest.TimeOf(time.Now())
	var want []string
	for round := range 40 {
		for _, kind := range []ingest.Kind{ingest.PeerUp, ingest.Routes, ingest.Routes, ingest.PeerDown} {
			now++
			u := ingest.Update{Time: now, Peer: peer(2), Kind: kind}
			if kind == ingest.Routes {
				u.Announced, u.Attrs = []bgp.NLRI{{Prefix: prefix(int(now) % 5000)}}, attributes(64502, uint32(round+1))
			}
			want = append(want, fmt.Sprint(u.Time, u.Kind))
			if err := s.Publish(&u); err != nil {
				t.Fatal(err)
			}
		}
	}
	var got []string
	for _, u := range collect(t, s, func(all []ingest.Update) bool { return len(all) >= len(want) }) {
		got = append(got, fmt.Sprint(u.Time, u.Kind))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// signs: a sign of life, and the end of a table, come between the updates before it and after it.
func signs(t *testing.T, s Stream) {
	now := ingest.TimeOf(time.Now())
	var want []string
	for i := range 40 {
		u := ingest.Update{Time: now + ingest.Time(i), Peer: peer(2), Withdrawn: []bgp.NLRI{{Prefix: prefix(i)}}}
		if i%3 == 2 {
			u.Withdrawn, u.EndOfRIB = nil, bgp.IPv6Unicast
		}
		if err := s.Publish(&u); err != nil {
			t.Fatal(err)
		}
		source := fmt.Sprintf("source%d", i)
		s.Sign(source, []string{"rrc00", "rrc01"})
		want = append(want, fmt.Sprint(u.Time, u.EndOfRIB), source)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var got []string
	for len(got) < len(want) {
		b, err := s.Next(ctx)
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		signs := b.Signs
		for i := range len(b.Updates) + 1 {
			for ; len(signs) > 0 && signs[0].Before == i; signs = signs[1:] {
				if !slices.Equal(signs[0].Collectors, []string{"rrc00", "rrc01"}) {
					t.Errorf("a sign of %v", signs[0].Collectors)
				}
				got = append(got, signs[0].Source)
			}
			if i < len(b.Updates) {
				got = append(got, fmt.Sprint(b.Updates[i].Time, b.Updates[i].EndOfRIB))
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// timeGoesOn: the watermark follows the updates, and the wall clock where there are none.
func timeGoesOn(t *testing.T, s Stream) {
	start := ingest.TimeOf(time.Now())
	u := ingest.Update{Time: start, Peer: peer(3), Withdrawn: []bgp.NLRI{{Prefix: prefix(1)}}}
	if err := s.Publish(&u); err != nil {
		t.Fatal(err)
	}
	collect(t, s, func(all []ingest.Update) bool { return len(all) == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		b, err := s.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if b.Watermark > start {
			return
		}
	}
}

func ends(t *testing.T, s Stream) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for range 100 {
		if _, err := s.Next(ctx); err != nil {
			if !errors.Is(err, context.Canceled) && !errors.Is(err, bus.ErrClosed) {
				t.Errorf("Next returns %v", err)
			}
			return
		}
	}
	t.Error("Next does not end with its context")
}
