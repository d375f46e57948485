package detect

import (
	"fmt"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// world is a made-up table: every peer has every prefix by a path of five ASes.
func world(peers, prefixes int) []ingest.Update {
	var us []ingest.Update
	for p := range peers {
		peer := ingest.Peer{Collector: "test", Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(p)}), ASN: uint32(1000 + p)}
		for i := range prefixes {
			us = append(us, announcement(peer, prefixOf(i), peer.ASN, 3356, uint32(2000+i%50), uint32(10000+i%5000), uint32(20000+i%20000)))
		}
	}
	return us
}

func prefixOf(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(20 + i>>16), byte(i >> 8), byte(i), 0}), 24)
}

func announcement(peer ingest.Peer, p netip.Prefix, path ...uint32) ingest.Update {
	return ingest.Update{Time: ingest.TimeOf(start), Peer: peer, Announced: []bgp.NLRI{{Prefix: p}},
		Attrs: bgp.Attributes{Has: bgp.HasASPath, ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: path}}}}
}

var start = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

func loaded(us []ingest.Update) *Engine { return loadedOn(1, us) }

func loadedOn(shards int, us []ingest.Update) *Engine {
	c := DefaultConfiguration()
	c.Shards = shards
	e := New(c, Knowledge{}, func(ev incident.Event) { panic(ev.Incident.Title) })
	for i := range us {
		row := us[i]
		row.Kind = ingest.RIB
		e.Apply(&row)
	}
	e.FinishBaseline()
	return e
}

// TestPeersDown loses all sessions but one, of which one comes back at once.
func TestPeersDown(t *testing.T) {
	for _, shards := range []int{1, 3} {
		c := DefaultConfiguration()
		c.Shards = shards
		e := New(c, Knowledge{}, func(ev incident.Event) { t.Error(ev.Incident.Title) })
		us := world(5, 3)
		for _, u := range us {
			u.Kind = ingest.RIB
			e.Apply(&u)
		}
		e.FinishBaseline()
		// What a peer says just before its session ends goes with the rest.
		again := announcement(us[0].Peer, prefixOf(7), 1000, 3356, 2007, 10007, 20007)
		e.Apply(&again)
		for p := range 4 {
			e.Apply(&ingest.Update{Time: ingest.TimeOf(start), Kind: ingest.PeerDown, Peer: us[3*p].Peer})
		}
		e.Apply(&ingest.Update{Time: ingest.TimeOf(start), Kind: ingest.PeerUp, Peer: us[3].Peer})
		e.Apply(&us[3])
		for i, want := range map[int]int{0: 2, 1: 1, 2: 1} {
			if o := e.Prefix(prefixOf(i)).Origins; len(o) != 1 || o[0].Peers != want {
				t.Errorf("%d shards: %s has %+v, want one origin seen by %d peers", shards, prefixOf(i), o, want)
			}
		}
		if o := e.Prefix(prefixOf(7)).Origins; len(o) != 0 {
			t.Errorf("%d shards: %+v", shards, o)
		}
		if n := e.Stats().Routes; n != 4 {
			t.Errorf("%d shards: %d routes are left, want 4", shards, n)
		}
	}
}

// TestPeerUpStartsEmpty begins a session anew without a word of the end of the one before, as after a
// crash of ours: what the peer no longer announces must not stay.
func TestPeerUpStartsEmpty(t *testing.T) {
	us := world(3, 2)
	e := loaded(us)
	e.Apply(&ingest.Update{Time: ingest.TimeOf(start), Kind: ingest.PeerUp, Peer: us[0].Peer})
	e.Apply(&us[0])
	for i, want := range []int{3, 2} {
		if o := e.Prefix(prefixOf(i)).Origins; len(o) != 1 || o[0].Peers != want {
			t.Errorf("%s has %+v, want one origin seen by %d peers", prefixOf(i), o, want)
		}
	}
}

// BenchmarkPeersDown loses a collector with 200 sessions.
func BenchmarkPeersDown(b *testing.B) {
	us := world(200, 5000)
	for b.Loop() {
		b.StopTimer()
		e := loaded(us)
		b.StartTimer()
		for p := range 200 {
			e.Apply(&ingest.Update{Time: ingest.TimeOf(start), Kind: ingest.PeerDown, Peer: us[5000*p].Peer})
		}
		e.Finish()
	}
}

// TestViews lets one router show all its tables: what it says to a peer is no news of what that peer
// announces, all else counts, each view by itself, and a saved state keeps them apart.
func TestViews(t *testing.T) {
	e := loaded(world(4, 10))
	prefix := prefixOf(3)
	before := e.Prefix(prefix).Origins[0].Peers
	peer := ingest.Peer{Collector: "router", Addr: netip.MustParseAddr("198.51.100.1"), ASN: 64500}
	tell := func(e *Engine, v ingest.View) {
		peer.View = v
		u := announcement(peer, prefix, 64500, 3356, 2003, 10003, 20003)
		e.Apply(&u)
	}
	for _, v := range []ingest.View{ingest.AdjRIBOutPre, ingest.AdjRIBOutPost} {
		tell(e, v)
		down := ingest.Update{Time: ingest.TimeOf(start), Kind: ingest.PeerDown, Peer: peer}
		e.Apply(&down)
	}
	if got := e.Prefix(prefix).Origins; len(got) != 1 || got[0].Peers != before || e.Stats().Peers != 4 {
		t.Fatalf("Adj-RIB-Out counts: %+v, %d peers", got, e.Stats().Peers)
	}
	for _, v := range []ingest.View{ingest.AdjRIBInPre, ingest.AdjRIBInPost, ingest.LocRIB} {
		tell(e, v)
	}
	state, err := e.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	restored := New(DefaultConfiguration(), Knowledge{}, func(incident.Event) {})
	if err := restored.Restore(state); err != nil {
		t.Fatal(err)
	}
	peer.View = ingest.LocRIB
	down := ingest.Update{Time: ingest.TimeOf(start), Kind: ingest.PeerDown, Peer: peer}
	for _, e := range []*Engine{e, restored} {
		o := e.Prefix(prefix).Origins[0]
		if o.Peers != before+3 || o.PeerASNs != before+1 {
			t.Errorf("%d peers of %d networks; want %d and %d", o.Peers, o.PeerASNs, before+3, before+1)
		}
		e.Apply(&down)
		if o := e.Prefix(prefix).Origins[0]; o.Peers != before+2 {
			t.Errorf("%d peers after one view is gone; want %d", o.Peers, before+2)
		}
	}
}

// A baseline may be a table and what changed since: it is the table as it then is that counts.
func TestBaselineBroughtUpToDate(t *testing.T) {
	for _, shards := range []int{1, 3} {
		input := world(4, 3)
		for i := range input {
			input[i].Kind = ingest.RIB
		}
		later := ingest.TimeOf(start.Add(3 * time.Hour)) // longer than the warm-up
		for p := range 4 {
			peer := input[3*p].Peer
			moved := announcement(peer, prefixOf(1), peer.ASN, 3356, 64499)
			moved.Time = later
			input = append(input, ingest.Update{Time: later, Peer: peer, Withdrawn: []bgp.NLRI{{Prefix: prefixOf(0)}}}, moved)
		}
		input = append(input, ingest.Update{Time: later, Peer: input[9].Peer, Kind: ingest.PeerDown},
			ingest.Update{Time: later, Peer: input[6].Peer, Kind: ingest.PeerUp})
		c := DefaultConfiguration()
		c.Shards = shards
		e := New(c, Knowledge{}, func(ev incident.Event) { t.Error(ev.Incident.Title) })
		err := e.LoadBaseline(func() (*ingest.Update, error) {
			if len(input) == 0 {
				return nil, io.EOF
			}
			u := input[0]
			input = input[1:]
			return &u, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if learning, _ := e.Learning(); learning || e.Clock() != 0 {
			t.Errorf("learning %t, clock %v", learning, e.Clock())
		}
		// Of 4 peers with 3 prefixes each, one is down, one begins anew, and one prefix is gone.
		if got := e.Stats(); got.Routes != 4 || got.Prefixes != 2 {
			t.Errorf("%d shards: %d routes to %d prefixes, want 4 to 2", shards, got.Routes, got.Prefixes)
		}
		for i, want := range [][]uint32{nil, {64499}, {20002}} {
			if got := e.Explain(prefixOf(i), bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{1000, 3356, 64499}}}).History.UsualOrigins; !slices.Equal(got, want) {
				t.Errorf("%d shards: usual origins of %v are %v, want %v", shards, prefixOf(i), got, want)
			}
		}
	}
}

func TestRepeatsDoNotAllocate(t *testing.T) {
	us := world(4, 1000)
	for _, shards := range []int{1, 3} {
		e := loadedOn(shards, us)
		i := 0
		if n := testing.AllocsPerRun(3*maxPending, func() {
			e.Apply(&us[i%len(us)])
			i++
		}); n != 0 {
			t.Errorf("%d shards: a repeated announcement allocates %v times", shards, n)
		}
	}
}

// TestKnownPathChangesDoNotAllocate lets peers swap between paths that both are known, which is what
// most of BGP's churn is.
func TestKnownPathChangesDoNotAllocate(t *testing.T) {
	us := world(4, 1000)
	e := loaded(us)
	other := make([]ingest.Update, len(us))
	for i := range us {
		p := us[i].Attrs.ASPath[0].ASNs
		other[i] = announcement(us[i].Peer, us[i].Announced[0].Prefix, p[0], 1299, p[2], p[3], p[4])
		other[i].Kind = ingest.RIB
		e.Apply(&other[i])
		other[i].Kind = ingest.Routes
	}
	i := 0
	if n := testing.AllocsPerRun(len(us), func() {
		e.Apply(&us[i%len(us)])
		e.Apply(&other[i%len(us)])
		i++
	}); n > 0 {
		t.Errorf("a change between known paths allocates %v times", n)
	}
}

func BenchmarkRepeats(b *testing.B) {
	for _, on := range []struct{ shards, prefixes int }{{1, 1000}, {1, 200_000}, {4, 200_000}} {
		b.Run(fmt.Sprintf("%d prefixes, %d shards", on.prefixes, on.shards), func(b *testing.B) {
			us := world(4, on.prefixes)
			e := loadedOn(on.shards, us)
			b.ReportAllocs()
			n, from := 0, processor(b)
			for ; b.Loop(); n++ {
				e.Apply(&us[n%len(us)])
			}
			reportProcessor(b, from, n)
		})
	}
}

// A table dump that was read and has no row says that nobody announced anything; no table dump says nothing.
func TestTableDumpWithoutRows(t *testing.T) {
	for _, dumped := range []bool{true, false} {
		opened := 0
		e := New(DefaultConfiguration(), Knowledge{}, func(ev incident.Event) {
			if ev.Change == incident.Opened && ev.Incident.Kind == incident.Squatting {
				opened++
			}
		})
		if dumped {
			if err := e.LoadBaseline(func() (*ingest.Update, error) { return nil, io.EOF }); err != nil {
				t.Fatal(err)
			}
		} else {
			e.FinishBaseline()
		}
		for _, u := range world(5, 1) {
			e.Apply(&u)
		}
		e.Finish()
		if want := map[bool]int{true: 1}[dumped]; opened != want {
			t.Errorf("%d new networks were told, want %d (a dump was read: %t)", opened, want, dumped)
		}
	}
}
