package detect

import (
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// TestVisibilityIsState has peers announce, withdraw, lose their sessions and change between full and partial tables
// at random: what entries count must always be what their routes say.
func TestVisibilityIsState(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const peers, prefixes = 8, 40
	e := New(DefaultConfiguration(), Knowledge{}, func(incident.Event) {})
	c := newCrowd()
	c.load(e, peers, prefixes)
	e.FinishBaseline()
	s, full, changes := e.shards[0], make([]bool, peers), 0
	at := ingest.TimeOf(start)
	for range 20_000 {
		at = at.Add(time.Duration(r.IntN(3000)) * time.Millisecond)
		peer, prefix := r.IntN(peers), r.IntN(prefixes)
		u := c.says(at, peer, prefix, []uint32{3356, 1299}[r.IntN(2)])
		switch {
		case r.IntN(200) == 0:
			u = &ingest.Update{Time: at, Peer: u.Peer, Kind: ingest.PeerDown}
		case r.IntN(2+peer) == 0: // the first peers lose more than they get
			u = &ingest.Update{Time: at, Peer: u.Peer, Withdrawn: []bgp.NLRI{{Prefix: prefixOf(prefix)}}}
		}
		e.Apply(u)
		e.flush()
		for p := range peers {
			if now := s.table.ofPeer(peerID(p)).full[0]; now != full[p] {
				full[p] = now
				changes++
			}
		}
		for _, en := range s.table.all() {
			n := 0
			for _, route := range en.routes {
				if full[route.peer] {
					n++
				}
			}
			if int(en.full) != n || en.usual < en.full || int(en.usual) > peers {
				t.Fatalf("%s: counts %d of %d with a full table, usually %d; there are %d", en.prefix, en.full, peers, en.usual, n)
			}
			if en.fading != (s.losses[mustLookup(t, s, en.prefix)] != nil) {
				t.Fatalf("%s: fading is %t", en.prefix, en.fading)
			}
		}
	}
	if changes < 20 {
		t.Errorf("peers changed between full and partial tables only %d times", changes)
	}
}

func mustLookup(t *testing.T, s *shard, p netip.Prefix) uint32 {
	id, ok := s.table.lookup(p)
	if !ok {
		t.Fatalf("there is no %s", p)
	}
	return id
}

// watching is an engine that has five peers' routes to one prefix, taken as normal from a table or from updates.
func watching(dump bool, events *[]incident.Event) *Engine {
	e := New(DefaultConfiguration(), Knowledge{}, func(ev incident.Event) { *events = append(*events, ev) })
	for _, u := range world(5, 20) {
		if dump {
			u.Kind = ingest.RIB
		}
		e.Apply(&u)
	}
	if dump {
		e.FinishBaseline()
	} else {
		e.Advance(ingest.TimeOf(start).Add(e.config.Warmup))
	}
	return e
}

func withdrawAll(e *Engine, at time.Time, p netip.Prefix) {
	for _, w := range world(5, 1) {
		e.Apply(&ingest.Update{Time: ingest.TimeOf(at), Peer: w.Peer, Withdrawn: []bgp.NLRI{{Prefix: p}}})
	}
}

// TestLossBecomesNormal withdraws a prefix for good: the incident is over when the settling time is.
func TestLossBecomesNormal(t *testing.T) {
	var events []incident.Event
	e := watching(true, &events)
	withdrawAll(e, start.Add(time.Hour), prefixOf(3))
	e.Advance(ingest.TimeOf(start.Add(7 * 24 * time.Hour)))
	if n := len(events); n != 2 || events[0].Change != incident.Opened || events[1].Change != incident.SeverityChanged {
		t.Fatalf("%d events before", n)
	}
	if took := events[0].Time.Sub(start.Add(time.Hour)); took != e.config.Absence {
		t.Errorf("it opened after %v", took)
	}
	inc := events[1].Incident
	if inc.Kind != incident.VisibilityLoss || inc.Severity != incident.Medium || !slices.Equal(inc.Victims, []uint32{20003}) || inc.Visibility.PeerASNs != 5 {
		t.Errorf("%+v", inc)
	}
	e.Advance(ingest.TimeOf(start.Add(8 * 24 * time.Hour)))
	if last := events[len(events)-1]; last.Change != incident.Closed || last.Time.Sub(start) < 7*24*time.Hour {
		t.Errorf("at last it is %s, at %v", last.Change, last.Time)
	}
	if len(e.shards[0].losses) != 0 {
		t.Errorf("%d losses are kept", len(e.shards[0].losses))
	}
}

// TestLossNeedsHistory withdraws a prefix that nobody has known for long.
func TestLossNeedsHistory(t *testing.T) {
	var events []incident.Event
	e := watching(false, &events)
	withdrawAll(e, start.Add(time.Hour), prefixOf(3))
	e.Advance(ingest.TimeOf(start.Add(26 * time.Hour)))
	if len(events) > 0 {
		t.Fatalf("told of a prefix that was known for an hour: %s", events[0].Incident.Title)
	}
	withdrawAll(e, start.Add(26*time.Hour), prefixOf(4))
	e.Advance(ingest.TimeOf(start.Add(27 * time.Hour)))
	if len(events) == 0 || events[0].Incident.Kind != incident.VisibilityLoss {
		t.Errorf("%d events of a prefix that was known for a day", len(events))
	}
}

// TestOutageIsSpread withdraws 3,000 prefixes at once: no tick may look at many more than it is for, all must be told within the ticks
// that it takes, and that alike on any number of shards and after a restart meanwhile.
func TestOutageIsSpread(t *testing.T) {
	const lost, peers = 3000, 5
	gone := ingest.TimeOf(start.Add(time.Hour))
	play := func(shards int, restart bool) (events []incident.Event, looked map[ingest.Time]int) {
		looked = map[ingest.Time]int{}
		config := DefaultConfiguration()
		config.Shards = shards
		emit := func(ev incident.Event) { events = append(events, ev) }
		e, c := New(config, Knowledge{}, emit), newCrowd()
		c.load(e, peers, lost*3/2)
		e.FinishBaseline()
		for i := range lost {
			for p := range peers {
				e.Apply(&ingest.Update{Time: gone, Peer: c.says(gone, p, i).Peer, Withdrawn: []bgp.NLRI{{Prefix: prefixOf(i)}}})
			}
		}
		if shards == 1 {
			e.OnVerdict(func(v Verdict) { looked[v.Time]++ })
		}
		end := gone.Add(config.Absence + 5*time.Second)
		for at := gone; at < end; at += tick {
			e.Advance(at)
			if restart && at == gone.Add(config.Absence)+3*tick {
				state, err := e.Snapshot()
				if err != nil {
					t.Fatal(err)
				}
				e = New(config, Knowledge{}, emit)
				if err := e.Restore(state); err != nil {
					t.Fatal(err)
				}
			}
		}
		return events, looked
	}
	one, looked := play(1, false)
	told := map[netip.Prefix]bool{}
	for _, ev := range one {
		if ev.Change == incident.Opened {
			for _, p := range ev.Incident.Prefixes {
				told[p.Prefix] = true
			}
		}
	}
	if len(told) != lost {
		t.Errorf("%d of %d losses are told", len(told), lost)
	}
	first, last, all := ingest.Time(math.MaxInt64), ingest.Time(0), 0
	for at, n := range looked {
		first, last, all = min(first, at), max(last, at), all+n
		if n > 3*looksATick/2 {
			t.Errorf("%d losses are looked at in one tick", n)
		}
	}
	if all != lost || last-first >= lost/looksATick*tick {
		t.Errorf("%d looks at %d losses, from %v to %v", all, lost, first.Time(), last.Time())
	}
	for _, shards := range []int{1, 2, 8} {
		again, _ := play(shards, true)
		if diff := cmp.Diff(one, again, cmpTime, cmpPrefix); diff != "" {
			t.Errorf("on %d shards, with a restart (-one +%d):\n%.2000s", shards, shards, diff)
		}
	}
}

func TestAgenda(t *testing.T) {
	due := map[uint32]ingest.Time{1: 30, 2: 10, 3: 20, 4: 20}
	meant := func(id uint32, at ingest.Time) bool { return due[id] == at }
	var a agenda
	a.add(5, 2) // later put off
	a.add(40, 1)
	for _, id := range []uint32{4, 1, 3, 2} {
		a.add(due[id], id)
	}
	a.add(20, 4) // said twice
	if at := a.next(meant); at != 10 {
		t.Errorf("next at %d", at)
	}
	if ids := a.take(25, meant); !slices.Equal(ids, []uint32{2, 3, 4}) {
		t.Errorf("due: %v", ids)
	}
	if at := a.next(meant); at != 30 {
		t.Errorf("next at %d", at)
	}
	delete(due, 1)
	if at := a.next(meant); at != 0 || len(a.times)+len(a.ids) > 0 {
		t.Errorf("next at %d, and %d times are kept", at, len(a.ids))
	}
}

// BenchmarkOutage withdraws 100,000 of 150,000 prefixes at 40 peers within 20 seconds: how much of the processor's time the slowest
// withdrawal takes, and the slowest tick after that, which is how long an update would be held up where there is a processor for the
// engine.
func BenchmarkOutage(b *testing.B) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const prefixes, peers = 100_000, 40
	var slowest, slowestUpdate time.Duration
	for b.Loop() {
		b.StopTimer()
		opened := 0
		e := New(DefaultConfiguration(), Knowledge{}, func(ev incident.Event) {
			if ev.Change == incident.Opened {
				opened++
			}
		})
		c := newCrowd()
		c.load(e, peers, prefixes*3/2)
		e.FinishBaseline()
		runtime.GC()
		b.StartTimer()
		at := ingest.TimeOf(start)
		for i := range prefixes {
			for p := range peers {
				at += 5
				u := ingest.Update{Time: at, Peer: c.says(at, p, i).Peer, Withdrawn: []bgp.NLRI{{Prefix: prefixOf(i)}}}
				began := usage(b, thread)
				e.Apply(&u)
				slowestUpdate = max(slowestUpdate, usage(b, thread)-began)
			}
		}
		for range 900 { // a tick each
			at += tick
			began := usage(b, thread)
			e.Advance(at)
			slowest = max(slowest, usage(b, thread)-began)
		}
		if opened == 0 {
			b.Fatal("nothing opened")
		}
	}
	b.ReportMetric(float64(slowestUpdate.Microseconds())/1000, "slowest-ms")
	b.ReportMetric(float64(slowest.Microseconds())/1000, "slowest-tick-ms")
}
