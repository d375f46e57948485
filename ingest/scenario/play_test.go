package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/routevigil/routevigil/ingest"
)

// take gives what happens in the first so many minutes.
func take(length time.Duration, seed uint64, scenarios ...*Scenario) []ingest.Update {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var list []ingest.Update
	for u := range Play(start, seed, 5*time.Minute, scenarios...) {
		if u.Time > ingest.TimeOf(start.Add(length)) {
			break
		}
		list = append(list, u.Clone())
	}
	return list
}

func TestPlayIsDeterministic(t *testing.T) {
	write := func(us []ingest.Update) (lines []string) {
		for _, u := range us {
			lines = append(lines, brief(time.Time{}, u))
		}
		return lines
	}
	a, b, c := write(take(10*time.Minute, 1)), write(take(10*time.Minute, 1)), write(take(10*time.Minute, 2))
	if !slices.Equal(a, b) {
		t.Error("one seed gave two stories")
	}
	if slices.Equal(a, c) {
		t.Error("two seeds gave one story")
	}
}

// Whatever churn does, an incident it is not: known origins, known links, no valley, no loop.
func TestChurnIsBenign(t *testing.T) {
	w := World()
	const up, flat, down = 1, 2, 3
	hop := map[link]int{} // from the first to the second, as routes go: to a provider, a peer, a customer
	for _, r := range slices.Concat(w.rels, w.spares) {
		if r.Peer {
			hop[link{r.A, r.B}], hop[link{r.B, r.A}] = flat, flat
		} else {
			hop[link{r.A, r.B}], hop[link{r.B, r.A}] = down, up
		}
	}
	origins := map[netip.Prefix]uint32{}
	for _, o := range w.origins {
		for _, p := range o.prefixes {
			origins[p] = o.asn
		}
	}
	lost := map[netip.Prefix]map[uint32]bool{} // by peers that have it usually
	kinds := map[string]int{}
	paths := map[string]map[string]bool{}
	var last ingest.Time
	for _, u := range take(30*time.Minute, 7) {
		if u.Time < last {
			t.Fatalf("%v after %v", u.Time, last)
		}
		last = u.Time
		kinds[u.Kind.String()]++
		for _, n := range u.Withdrawn {
			kinds["withdrawn"]++
			if lost[n.Prefix] == nil {
				lost[n.Prefix] = map[uint32]bool{}
			}
			lost[n.Prefix][u.Peer.ASN] = true
			if len(lost[n.Prefix]) > 2 {
				t.Errorf("%v: %v is gone from %d peers at once", u.Time, n.Prefix, len(lost[n.Prefix]))
			}
		}
		for _, n := range u.Announced {
			kinds["announced"]++
			delete(lost[n.Prefix], u.Peer.ASN)
			way := u.Attrs.ASPath[0].ASNs
			if len(u.Attrs.ASPath) != 1 || way[0] != u.Peer.ASN || way[len(way)-1] != origins[n.Prefix] {
				t.Fatalf("%v of %v: path %v", n.Prefix, u.Peer, u.Attrs.ASPath)
			}
			k := fmt.Sprint(u.Peer, n.Prefix)
			if paths[k] == nil {
				paths[k] = map[string]bool{}
			}
			paths[k][u.Attrs.ASPath.String()] = true
			way = slices.Compact(slices.Clone(way))
			slices.Reverse(way) // from the origin on
			seen, state := map[uint32]bool{way[0]: true}, up
			for i := 1; i < len(way); i++ {
				h := hop[link{way[i-1], way[i]}]
				if h == 0 || seen[way[i]] || h < state || h == flat && state == flat {
					t.Fatalf("path %v: hop %d to %d", u.Attrs.ASPath, way[i-1], way[i])
				}
				seen[way[i]], state = true, h
			}
		}
	}
	for _, k := range []string{"routes", "peer_down", "peer_up", "withdrawn", "announced"} {
		if kinds[k] == 0 {
			t.Errorf("churn has no %s", k)
		}
	}
	several := 0
	for _, p := range paths {
		if len(p) > 1 {
			several++
		}
	}
	if several == 0 {
		t.Error("no route ever goes another way")
	}
	t.Logf("30 minutes: %v; %d routes of %d that moved went several ways", kinds, several, len(paths))
}

func TestPlayRepeatsScenarios(t *testing.T) {
	demo, err := Demo()
	if err != nil {
		t.Fatal(err)
	}
	hijacked := netip.MustParsePrefix("208.65.153.0/24")
	first := map[ingest.Peer][]time.Duration{}
	start := ingest.TimeOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	for _, u := range take(11*time.Minute, 3, demo...) {
		for _, n := range u.Announced {
			if asn, _ := u.Attrs.ASPath.Origin(); n.Prefix == hijacked && asn == 17557 {
				first[u.Peer] = append(first[u.Peer], u.Time.Sub(start))
			}
		}
	}
	ripe := World().Peers()[0].Peer
	want := []time.Duration{5 * time.Second, 5*time.Minute + 5*time.Second, 10*time.Minute + 5*time.Second}
	for _, at := range want {
		if !slices.Contains(first[ripe], at) {
			t.Errorf("%v announces the hijack at %v, not at %v", ripe, first[ripe], at)
		}
	}
}

// A session that comes up brings every route that the peer has by then, also a scenario's.
func TestPlayResetBringsScenarioRoutes(t *testing.T) {
	s := parse(t, "start 2026-01-01T00:00:00Z\nworld\n+1s all announce 208.65.153.0/24 via 3491 17557\n+5m end")
	w := World()
	usual := map[ingest.Peer]int{}
	for _, u := range w.RIB() {
		usual[u.Peer]++
	}
	partial := map[ingest.Peer]bool{}
	for _, v := range w.Peers() {
		partial[v.Peer] = v.Partial
	}
	resets := 0
	var up ingest.Update
	got := map[netip.Prefix]bool{}
	finish := func() {
		if up.Kind != ingest.PeerUp {
			return
		}
		resets++
		want := usual[up.Peer]
		if !partial[up.Peer] {
			want++
		}
		if len(got) < want-5 || len(got) > want { // some may be withdrawn just then
			t.Errorf("%v came up with %d routes of %d", up.Peer, len(got), want)
		}
		if got[netip.MustParsePrefix("208.65.153.0/24")] == partial[up.Peer] {
			t.Errorf("%v came up, the scenario's route among its own: %v", up.Peer, !partial[up.Peer])
		}
	}
	for _, u := range take(20*time.Minute, 5, s) {
		if u.Kind == ingest.PeerUp {
			up, got = u, map[netip.Prefix]bool{}
		} else if u.Peer == up.Peer && u.Time == up.Time {
			for _, n := range u.Announced {
				got[n.Prefix] = true
			}
		} else if u.Time != up.Time {
			finish()
			up = ingest.Update{}
		}
	}
	if resets == 0 {
		t.Error("no session ever reset")
	}
}
