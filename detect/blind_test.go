package detect

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
)

// twoFeeds has two collectors speak for some hours, ten and twenty updates a minute; what they say is up to alter.
func twoFeeds(shards int, hours int, alter func(minute int, u *ingest.Update) *ingest.Update) []incident.Event {
	var events []incident.Event
	c := DefaultConfiguration()
	c.Shards = shards
	e := New(c, Knowledge{}, func(ev incident.Event) { events = append(events, ev) })
	peer := func(i int) ingest.Peer {
		return ingest.Peer{Collector: []string{"one", "two"}[i%2], Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), ASN: uint32(1000 + i)}
	}
	for i := range 6 {
		for p := range 20 {
			u := announcement(peer(i), prefixOf(p), uint32(1000+i), 3356, 2000, 10000, 20000)
			u.Kind = ingest.RIB
			e.Apply(&u)
		}
	}
	e.FinishBaseline()
	at := start
	for m := range hours * 60 {
		for n := range 60 {
			u := announcement(peer(n%6), prefixOf(m%20), uint32(1000+n%6), []uint32{3356, 1299}[m%2], 2000, 10000, 20000)
			u.Time = ingest.TimeOf(at)
			if a := alter(m, &u); a != nil {
				e.Apply(a)
			}
			at = at.Add(time.Second)
		}
	}
	e.Finish()
	return events
}

// TestFeeds makes a collector silent, late, or lose its peers, and see again.
func TestFeeds(t *testing.T) {
	for name, test := range map[string]struct {
		alter func(minute int, u *ingest.Update) *ingest.Update
		says  string
	}{
		"sees": {func(_ int, u *ingest.Update) *ingest.Update { return u }, ""},
		"silent": {func(m int, u *ingest.Update) *ingest.Update {
			if m >= 90 && m < 120 && u.Peer.Collector == "two" {
				return nil
			}
			return u
		}, "two is silent"},
		"silent for four minutes": {func(m int, u *ingest.Update) *ingest.Update {
			if m >= 90 && m < 94 && u.Peer.Collector == "two" {
				return nil
			}
			return u
		}, ""},
		"late": {func(m int, u *ingest.Update) *ingest.Update {
			if m >= 90 && m < 120 && u.Peer.Collector == "two" {
				u.Time = u.Time.Add(-5 * time.Minute)
			}
			return u
		}, "two lags"},
		"one peer late": {func(m int, u *ingest.Update) *ingest.Update {
			if m >= 90 && m < 120 && u.Peer.ASN == 1001 {
				u.Time = u.Time.Add(-5 * time.Minute)
			}
			return u
		}, ""},
		"without peers": {func(m int, u *ingest.Update) *ingest.Update {
			if m >= 90 && m < 120 && u.Peer.Collector == "two" {
				return &ingest.Update{Time: u.Time, Peer: u.Peer, Kind: ingest.PeerDown}
			}
			return u
		}, "two is down"},
		"with one peer of three": {func(m int, u *ingest.Update) *ingest.Update {
			if m >= 90 && m < 120 && u.Peer.Collector == "two" && u.Peer.ASN != 1001 {
				return &ingest.Update{Time: u.Time, Peer: u.Peer, Kind: ingest.PeerDown}
			}
			return u
		}, "two lost most of its peers: 1 of 3 are left"},
	} {
		t.Run(name, func(t *testing.T) {
			events := twoFeeds(1, 3, test.alter)
			if diff := cmp.Diff(events, twoFeeds(3, 3, test.alter), cmpTime, cmpPrefix); diff != "" {
				t.Errorf("three shards differ (-one +three):\n%s", diff)
			}
			if test.says == "" {
				if len(events) > 0 {
					t.Errorf("%d events, of %s", len(events), events[0].Incident.Title)
				}
				return
			}
			if len(events) != 2 || events[0].Change != incident.Opened || events[1].Change != incident.Closed {
				t.Fatalf("%d events: %+v", len(events), events)
			}
			inc := events[1].Incident
			if inc.Kind != incident.FeedBlind || !strings.HasPrefix(inc.Title, test.says) || inc.PrefixCount != 0 || len(inc.Victims) > 0 {
				t.Errorf("%+v", inc)
			}
			began, over := start.Add(90*time.Minute), start.Add(120*time.Minute)
			if d := events[0].Time.Sub(began); d < time.Minute || d > 7*time.Minute {
				t.Errorf("opened after %v", d)
			}
			if d := inc.EndedAt.Sub(over); d < 0 || d > 3*time.Minute {
				t.Errorf("ended %v after it saw again", d)
			}
		})
	}
}

// TestCutOff has one collector speak all the time, and another so seldom that its silence tells nothing. Only signs of life
// of what hears it tell that it is cut off.
func TestCutOff(t *testing.T) {
	type signs = func(second int) (sources []string)
	for name, test := range map[string]struct {
		quiet func(minute int) bool // whether the other one says something in this minute
		signs signs
		cut   bool
	}{
		"without signs":    {func(m int) bool { return m%20 == 0 }, func(int) []string { return nil }, false},
		"connected":        {func(m int) bool { return m%20 == 0 }, func(int) []string { return []string{"busy", "quiet"} }, false},
		"for half an hour": {func(m int) bool { return m%20 == 0 && (m < 90 || m >= 120) }, cutFrom(90*60, 120*60, "busy", "quiet"), true},
		"by one of two sources": {func(m int) bool { return m%20 == 0 && (m < 90 || m >= 120) }, func(s int) []string {
			return append(slices.Clone(cutFrom(90*60, 120*60, "busy", "quiet")(s)), "quiet again")
		}, false},
		"and heard all the same": {func(int) bool { return true }, cutFrom(90*60, 120*60, "busy", "quiet"), false},
		"for half a minute":      {func(m int) bool { return m%20 == 0 }, cutFrom(90*60, 90*60+40, "busy", "quiet"), false},
	} {
		t.Run(name, func(t *testing.T) {
			run := func(saved bool) (events []incident.Event) {
				e := New(DefaultConfiguration(), Knowledge{}, func(ev incident.Event) { events = append(events, ev) })
				peer := func(i int) ingest.Peer {
					return ingest.Peer{Collector: []string{"one", "two"}[i%2], Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), ASN: uint32(1000 + i)}
				}
				for i := range 6 {
					for p := range 20 {
						u := announcement(peer(i), prefixOf(p), uint32(1000+i), 3356, 2000, 10000, 20000)
						u.Kind = ingest.RIB
						e.Apply(&u)
					}
				}
				e.FinishBaseline()
				for s := range 180 * 60 {
					at, m := start.Add(time.Duration(s)*time.Second), s/60
					u := announcement(peer(0), prefixOf(m%20), 1000, []uint32{3356, 1299}[m%2], 2000, 10000, 20000)
					u.Time = ingest.TimeOf(at)
					e.Apply(&u)
					if s%60 == 0 && test.quiet(m) {
						u := announcement(peer(1), prefixOf(m%20), 1001, []uint32{3356, 1299}[m%2], 2000, 10000, 20000)
						u.Time = ingest.TimeOf(at)
						e.Apply(&u)
					}
					if s%10 == 0 {
						for _, source := range test.signs(s) {
							e.Sign(source, []string{map[bool]string{true: "one", false: "two"}[source == "busy"], "of no peer"})
						}
					}
					if saved && s == 100*60 {
						state, err := e.Snapshot()
						if err != nil {
							t.Fatal(err)
						}
						e = New(DefaultConfiguration(), Knowledge{}, func(ev incident.Event) { events = append(events, ev) })
						if err := e.Restore(state); err != nil {
							t.Fatal(err)
						}
					}
				}
				return events
			}
			for _, saved := range []bool{false, true} {
				events := run(saved)
				if !test.cut {
					if len(events) > 0 {
						t.Errorf("%d events, of %s", len(events), events[0].Incident.Title)
					}
					continue
				}
				if len(events) != 2 || events[0].Change != incident.Opened || events[1].Change != incident.Closed {
					t.Fatalf("%d events: %+v", len(events), events)
				}
				inc := events[1].Incident
				if inc.Kind != incident.FeedBlind || !strings.HasPrefix(inc.Title, "two is cut off") {
					t.Errorf("%+v", inc)
				}
				if d := events[0].Time.Sub(start.Add(90 * time.Minute)); d < 50*time.Second || d > 2*time.Minute {
					t.Errorf("opened after %v", d)
				}
				if d := inc.EndedAt.Sub(start.Add(120 * time.Minute)); d < 0 || d > 3*time.Minute {
					t.Errorf("ended %v after it was connected again", d)
				}
			}
		})
	}
}

// cutFrom has the last of the sources give no signs in some seconds.
func cutFrom(from, to int, sources ...string) func(int) []string {
	return func(s int) []string {
		if s >= from && s < to {
			return sources[:len(sources)-1]
		}
		return sources
	}
}

// TestBlindFeedDegrades plays the scenario: what opens while a collector is blind says so, and what it lacks has not vanished.
func TestBlindFeedDegrades(t *testing.T) {
	for _, sc := range allScenarios(t) {
		if sc.Name != "feed-blind.scenario" {
			continue
		}
		marked, freed := false, false
		for _, ev := range play(sc, scenarioConfiguration()).events {
			if ev.Incident.Kind == incident.SubprefixHijack {
				degraded := len(ev.Incident.Degraded) > 0
				marked = marked || degraded
				freed = marked && !degraded
			}
		}
		if !marked || !freed {
			t.Errorf("the hijack was marked: %t, and no longer at last: %t", marked, freed)
		}
		return
	}
	t.Fatal("there is no such scenario")
}
