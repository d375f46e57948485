package detect

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// turning is an engine whose ROAs change, with every event it told.
type turning struct {
	*Engine
	t      *testing.T
	config Configuration
	at     time.Time
	vrps   *rpki.Set
	events []incident.Event
}

// turningPrefixes are the prefixes of AS20000, in blocks that several shards own.
var turningPrefixes = []string{"20.0.0.0/24", "21.0.0.0/24", "22.0.0.0/23"}

// newTurning has learned that AS20000 has its prefixes, AS20001 has 20.0.1.0/24 and AS64512, a private number, has
// 24.0.0.0/24, at five peers, and that one peer alone has 23.0.0.0/24 by AS20002.
func newTurning(t *testing.T, shards int, vs ...rpki.VRP) *turning {
	tt := &turning{t: t, config: DefaultConfiguration(), at: start}
	tt.config.Shards = shards
	tt.vrps = rpki.NewSet(rpki.Data{VRPs: vs}, "first")
	tt.Engine = New(tt.config, Knowledge{VRPs: tt.vrps}, tt.emit)
	row := func(peer ingest.Peer, p string, origin uint32) {
		u := announcement(peer, netip.MustParsePrefix(p), peer.ASN, 3356, 2000, 10000, origin)
		u.Kind = ingest.RIB
		tt.Apply(&u)
	}
	for i, w := range world(5, 1) {
		for _, p := range turningPrefixes {
			row(w.Peer, p, 20000)
		}
		row(w.Peer, "20.0.1.0/24", 20001)
		row(w.Peer, "24.0.0.0/24", 64512)
		if i == 0 {
			row(w.Peer, "23.0.0.0/24", 20002)
		}
	}
	tt.FinishBaseline()
	tt.pass(2 * time.Second)
	return tt
}

// emit leaves out that prefixes vanish which the tests withdraw: visibility_test.go asks for that.
func (tt *turning) emit(ev incident.Event) {
	if ev.Incident.Kind != incident.VisibilityLoss {
		tt.events = append(tt.events, ev)
	}
}

func (tt *turning) pass(d time.Duration) {
	for end := tt.at.Add(d); tt.at.Before(end); {
		tt.at = tt.at.Add(time.Second)
		tt.Advance(ingest.TimeOf(tt.at))
	}
}

func (tt *turning) set(from string, vs ...rpki.VRP) {
	tt.vrps = rpki.NewSet(rpki.Data{VRPs: vs}, from)
	tt.Replace(Knowledge{VRPs: tt.vrps})
}

// announce lets the peers have a route, withdraw lets them lose it.
func (tt *turning) announce(p string, path ...uint32) {
	for _, w := range world(5, 1) {
		u := announcement(w.Peer, netip.MustParsePrefix(p), append([]uint32{w.Peer.ASN, 3356}, path...)...)
		u.Time = ingest.TimeOf(tt.at)
		tt.Apply(&u)
	}
}

func (tt *turning) withdraw(p string) {
	for _, w := range world(5, 1) {
		tt.Apply(&ingest.Update{Time: ingest.TimeOf(tt.at), Peer: w.Peer, Withdrawn: []bgp.NLRI{{Prefix: netip.MustParsePrefix(p)}}})
	}
}

// restore goes on with another engine, of so many shards, that has the state of this.
func (tt *turning) restore(shards int) {
	tt.t.Helper()
	state, err := tt.Snapshot()
	if err != nil {
		tt.t.Fatal(err)
	}
	tt.config.Shards = shards
	tt.Engine = New(tt.config, Knowledge{VRPs: tt.vrps}, tt.emit)
	if err := tt.Restore(state); err != nil {
		tt.t.Fatal(err)
	}
}

// wants compares the changes told so far, in order, each as "change kind".
func (tt *turning) wants(when string, changes ...string) {
	tt.t.Helper()
	var got []string
	for _, ev := range tt.events {
		got = append(got, fmt.Sprintf("%s %s", ev.Change, ev.Incident.Kind))
	}
	if diff := cmp.Diff(changes, got); diff != "" {
		tt.t.Fatalf("%s (-want +got):\n%s", when, diff)
	}
}

const (
	roaOpened   = "opened roa_change"
	roaEnded    = "ended roa_change"
	roaReopened = "reopened roa_change"
)

func TestROAChange(t *testing.T) {
	for name, test := range map[string]struct {
		before, after []rpki.VRP
		prefixes      int
		state         string // before, as the evidence says
		named         []string
	}{
		"new ROA for another": {
			nil, []rpki.VRP{roa("20.0.0.0/24", 24, 30009)}, 1, "20.0.0.0/24 of AS20000 was not found in the RPKI",
			[]string{"rpki.came new: VRP 20.0.0.0/24 up to /24 by AS30009"},
		},
		"AS0": {
			nil, []rpki.VRP{roa("20.0.0.0/24", 32, 0)}, 1, "20.0.0.0/24 of AS20000 was not found in the RPKI",
			[]string{"rpki.came new: VRP 20.0.0.0/24 up to /32 by AS0"},
		},
		"the ROA that allowed it lost": {
			[]rpki.VRP{roa("20.0.0.0/24", 24, 20000), roa("20.0.0.0/16", 16, 30009)}, []rpki.VRP{roa("20.0.0.0/16", 16, 30009)}, 1,
			"20.0.0.0/24 of AS20000 was Valid",
			[]string{"rpki.went gone: VRP 20.0.0.0/24 up to /24 by AS20000"},
		},
		"maximum length cut": {
			[]rpki.VRP{roa("21.0.0.0/16", 24, 20000)}, []rpki.VRP{roa("21.0.0.0/16", 16, 20000)}, 1,
			"21.0.0.0/24 of AS20000 was Valid",
			[]string{"rpki.came new: VRP 21.0.0.0/16 up to /16 by AS20000", "rpki.went gone: VRP 21.0.0.0/16 up to /24 by AS20000"},
		},
		"several prefixes": {
			nil, []rpki.VRP{roa("20.0.0.0/24", 24, 30009), roa("21.0.0.0/24", 24, 30009), roa("22.0.0.0/8", 8, 20000)}, 3,
			"20.0.0.0/24 of AS20000 was not found in the RPKI",
			[]string{"rpki.came new: VRP 20.0.0.0/24 up to /24 by AS30009", "rpki.came new: VRP 21.0.0.0/24 up to /24 by AS30009",
				"rpki.came new: VRP 22.0.0.0/8 up to /8 by AS20000"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tt := newTurning(t, 2, test.before...)
			replaced := tt.at
			tt.set("second", test.after...)
			tt.pass(2 * time.Second)
			tt.wants("after the change", roaOpened)
			inc := tt.events[0].Incident
			type facts struct {
				Offenders, Accomplices, Victims []uint32
				Prefixes, Listed, PeerASNs      int
				Severity                        incident.Severity
				Started                         time.Time
			}
			want := facts{[]uint32{}, []uint32{}, []uint32{20000}, test.prefixes, test.prefixes, 5, incident.Medium, replaced}
			got := facts{inc.Offenders, inc.Accomplices, inc.Victims, inc.PrefixCount, len(inc.Prefixes), inc.Visibility.PeerASNs, inc.Severity, inc.StartedAt}
			if diff := cmp.Diff(want, got, cmpTime); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			for _, p := range inc.Prefixes {
				if p.RPKI != "invalid" || !cmp.Equal(p.ExpectedOrigins, []uint32{20000}) || !cmp.Equal(p.ObservedOrigins, []uint32{20000}) {
					t.Errorf("prefix %+v", p)
				}
			}
			var named []string
			for _, e := range inc.Evidence {
				if e.Rule == ruleCame || e.Rule == ruleWent {
					named = append(named, e.Rule+" "+e.Detail)
				}
			}
			if diff := cmp.Diff(test.named, named); diff != "" {
				t.Errorf("VRPs in the evidence (-want +got):\n%s", diff)
			}
			if !strings.Contains(inc.Explanation, test.state) {
				t.Errorf("the explanation does not say %q: %s", test.state, inc.Explanation)
			}
			tt.set("third", test.before...)
			tt.pass(tt.config.Hold / 2)
			tt.wants("within the hold", roaOpened)
			tt.pass(tt.config.Hold)
			tt.wants("after the hold", roaOpened, roaEnded)
		})
	}
}

// What differs from a change that is told in one respect only is none.
func TestNoROAChange(t *testing.T) {
	other := roa("20.0.0.0/24", 24, 30009)
	for name, test := range map[string]struct {
		before, after []rpki.VRP
	}{
		"ROA that makes routes Valid":          {nil, []rpki.VRP{roa("20.0.0.0/24", 24, 20000)}},
		"another's ROA beside the right one":   {nil, []rpki.VRP{other, roa("20.0.0.0/24", 24, 20000)}},
		"another's ROA for an unused part":     {nil, []rpki.VRP{roa("20.0.0.0/25", 25, 30009)}},
		"Invalid before, by the same":          {[]rpki.VRP{other}, []rpki.VRP{other, roa("60.0.0.0/8", 8, 1)}},
		"Invalid before, by another":           {[]rpki.VRP{other}, []rpki.VRP{roa("20.0.0.0/24", 24, 30010)}},
		"the only ROA lost, so it is NotFound": {[]rpki.VRP{roa("20.0.0.0/24", 24, 20000)}, []rpki.VRP{roa("60.0.0.0/8", 8, 1)}},
	} {
		t.Run(name, func(t *testing.T) {
			tt := newTurning(t, 1, test.before...)
			tt.set("second", test.after...)
			tt.pass(5 * time.Minute)
			tt.wants("after the change")
		})
	}
}

// What one peer alone had when the ROAs changed does not turn when others have it later, also where the change is the
// first thing after a restart.
func TestNoROAChangeForASinglePeer(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		tt := newTurning(t, 1)
		if restarted {
			tt.restore(1)
		}
		tt.set("second", roa("23.0.0.0/24", 24, 30009))
		tt.pass(2 * time.Second)
		tt.announce("23.0.0.0/24", 2000, 10000, 20002)
		tt.pass(5 * time.Minute)
		tt.wants("when all have it")
	}
}

// A number in private use is nobody's, so there is nobody to tell.
func TestNoROAChangeForPrivateASN(t *testing.T) {
	tt := newTurning(t, 1)
	tt.set("second", roa("24.0.0.0/24", 24, 30009))
	tt.pass(5 * time.Minute)
	tt.wants("AS10000, behind which it always stood, has not hijacked it")
	// But such a number does not tell one network from another.
	tt.announce("24.0.0.0/24", 2000, 10001, 64512)
	tt.pass(time.Minute)
	tt.wants("another announces it behind the same number", "opened origin_hijack")
	if got := tt.events[0].Incident.Offenders[0]; got != 10001 {
		t.Errorf("AS%d is blamed", got)
	}
}

// An origin that came a moment ago is not stable, though nothing spoke against it; a day later it is.
func TestROAChangeOfFreshRoutes(t *testing.T) {
	for present, want := range map[time.Duration][]string{time.Minute: nil, established + time.Hour: {roaOpened}} {
		tt := newTurning(t, 1)
		tt.announce("60.0.0.0/24", 2000, 10000, 20000)
		tt.pass(time.Second)
		tt.at = tt.at.Add(present)
		tt.pass(2 * time.Second)
		tt.set("second", roa("60.0.0.0/24", 24, 30009))
		tt.pass(5 * time.Minute)
		tt.wants(present.String(), want...)
	}
}

// Expiry, no VRPs where there were some, neither raises anything nor takes anything back, and what comes after it is
// compared with what was there before it.
func TestROAChangeAndExpiry(t *testing.T) {
	allowed, forbidden := []rpki.VRP{roa("20.0.0.0/24", 24, 20000)}, []rpki.VRP{roa("20.0.0.0/24", 24, 30009)}
	expire := func(tt *turning) {
		tt.vrps = nil
		tt.Replace(Knowledge{})
		tt.pass(5 * time.Minute)
	}
	tt := newTurning(t, 1, allowed...)
	expire(tt)
	tt.wants("after expiry")
	tt.set("the same", allowed...)
	tt.pass(5 * time.Minute)
	tt.wants("with the same again")
	expire(tt)
	tt.set("second", forbidden...)
	tt.pass(2 * time.Second)
	tt.wants("with others after expiry", roaOpened)
	expire(tt)
	tt.announce("20.0.0.0/24", 2000, 10000, 10000, 20000)
	tt.pass(5 * time.Minute)
	tt.wants("when those expire and routes change", roaOpened)
	tt.set("the same", forbidden...)
	tt.pass(5 * time.Minute)
	tt.wants("when those are back", roaOpened)

	// The first VRPs there are show how things stand, not what changed.
	tt = newTurning(t, 1)
	tt.Engine = New(tt.config, Knowledge{}, tt.emit)
	tt.announce("20.0.0.0/24", 2000, 10000, 20000)
	tt.FinishBaseline()
	tt.set("first", forbidden...)
	tt.pass(5 * time.Minute)
	tt.wants("with the first VRPs")
	tt.set("second", allowed...)
	tt.set("third", forbidden...)
	tt.pass(5 * time.Minute)
	tt.wants("when they have changed", roaOpened)
}

// turningSteps is the life of a change: told, grown by what a second change adds, gone with the routes, back with
// them, repaired. Another AS announces one of the prefixes meanwhile, which is an incident of its own.
var turningSteps = []func(*turning){
	func(tt *turning) { tt.set("second", roa("20.0.0.0/24", 24, 30009), roa("22.0.0.0/8", 8, 20000)) },
	func(tt *turning) { tt.pass(15 * time.Second) },
	func(tt *turning) {
		tt.set("third", roa("20.0.0.0/24", 24, 30009), roa("21.0.0.0/24", 24, 30009), roa("22.0.0.0/8", 8, 20000))
	},
	func(tt *turning) { tt.pass(15 * time.Second) },
	func(tt *turning) {
		for _, p := range turningPrefixes {
			tt.withdraw(p)
		}
	},
	func(tt *turning) { tt.pass(2 * time.Second) },
	func(tt *turning) { tt.pass(5 * time.Minute) },
	func(tt *turning) { tt.announce("21.0.0.0/24", 2000, 10000, 20000) },
	func(tt *turning) { tt.pass(2 * time.Second) },
	func(tt *turning) { tt.announce("20.0.1.0/24", 2000, 10000, 47000) },
	func(tt *turning) { tt.pass(2 * time.Second) },
	func(tt *turning) { tt.set("fourth", roa("60.0.0.0/8", 8, 1)) },
	func(tt *turning) { tt.pass(5 * time.Minute) },
}

func TestROAChangeFollowsTheRoutes(t *testing.T) {
	tt := newTurning(t, 1)
	for _, step := range turningSteps {
		step(tt)
	}
	tt.wants("in all", roaOpened, "grew roa_change", "receded roa_change", roaEnded, roaReopened, "opened origin_hijack", roaEnded)
	grown, last := tt.events[1].Incident, tt.events[len(tt.events)-1].Incident
	if grown.PrefixCount != 3 || last.PrefixCount != 1 || grown.ID != last.ID {
		t.Errorf("%d prefixes, at last %d, of %s and %s", grown.PrefixCount, last.PrefixCount, grown.ID, last.ID)
	}
}

// However many shards there are, and wherever the engine stops and is restored, the events are the same.
func TestROAChangeIsDeterministic(t *testing.T) {
	whole := newTurning(t, 1)
	for _, step := range turningSteps {
		step(whole)
	}
	for _, shards := range []int{1, 2, 8} {
		for stop := range len(turningSteps) + 1 {
			tt := newTurning(t, shards)
			for i, step := range turningSteps {
				if i == stop {
					tt.restore(8 / shards)
				}
				step(tt)
			}
			if diff := cmp.Diff(whole.events, tt.events, cmpTime, cmpPrefix); diff != "" {
				t.Fatalf("%d shards, restored before step %d (-undisturbed +restored):\n%s", shards, stop, diff)
			}
		}
	}
}

// While the engine was down the ROAs were repaired: what stood is over.
func TestROAChangeRepairedWhileDown(t *testing.T) {
	tt := newTurning(t, 1)
	tt.set("second", roa("20.0.0.0/24", 24, 30009))
	tt.pass(2 * time.Second)
	tt.vrps = rpki.NewSet(rpki.Data{VRPs: []rpki.VRP{roa("20.0.0.0/24", 24, 20000)}}, "third")
	tt.restore(2)
	tt.pass(5 * time.Minute)
	tt.wants("after the restart", roaOpened, roaEnded)
}

func TestTurnSeverity(t *testing.T) {
	for _, test := range []struct {
		prefixes int
		share    float64
		want     incident.Severity
	}{
		{1, 0.04, incident.Low}, {1000, 0.04, incident.Low}, {1, 0.05, incident.Medium}, {1, 1, incident.Medium},
		{99, 1, incident.Medium}, {100, 0.49, incident.Medium}, {100, 0.5, incident.High}, {100_000, 1, incident.High},
	} {
		if got := severity(incident.ROAChange, test.prefixes, 0.9, test.share); got != test.want {
			t.Errorf("%d prefixes at %v of the full feeds: %s, want %s", test.prefixes, test.share, got, test.want)
		}
	}
}

func TestRestoreRejectsDamagedTurns(t *testing.T) {
	for name, turns := range map[string][]turnSnapshot{
		"of no prefix": {{Entry: 1, Origin: 20000}},
		"twice":        {{Entry: 0, Origin: 20000}, {Entry: 0, Origin: 20000}},
	} {
		e := New(DefaultConfiguration(), Knowledge{}, func(incident.Event) {})
		id, _ := e.shards[0].table.entryFor(netip.MustParsePrefix("20.0.0.0/24"))
		if e.loadTurns(&snapshot{Turns: turns}, []place{{e.shards[0], id}}) == nil {
			t.Errorf("a change of ROAs %s was accepted", name)
		}
	}
}
