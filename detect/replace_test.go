package detect

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
)

// withoutHistory leaves out what the history says of the usual origin. It weighs nothing, and is of the moment of the last judgement.
var withoutHistory = cmpopts.IgnoreSliceElements(func(e incident.Evidence) bool { return e.Rule == "history.usual" })

// TestReplaceBySameChangesNothing plays every scenario and is given the knowledge that it has again and again: what is under
// suspicion is judged again, to the same end.
func TestReplaceBySameChangesNothing(t *testing.T) {
	for _, sc := range allScenarios(t) {
		t.Run(sc.Name, func(t *testing.T) {
			whole := play(sc, scenarioConfiguration())
			for _, shards := range []int{1, 3} {
				var events []incident.Event
				c := scenarioConfiguration()
				c.Shards = shards
				e := New(c, knowledgeOf(sc), func(ev incident.Event) { events = append(events, ev) })
				for i, u := range sc.RIB() {
					e.Apply(&u)
					if i%100 == 0 {
						e.Replace(knowledgeOf(sc))
					}
				}
				e.FinishBaseline()
				for _, u := range sc.Updates() {
					e.Apply(&u)
					e.Replace(knowledgeOf(sc))
				}
				e.Advance(ingest.TimeOf(sc.Start.Add(sc.Duration())))
				e.Finish()
				if diff := cmp.Diff(whole.events, events, cmpTime, cmpPrefix, withoutHistory); diff != "" {
					t.Fatalf("%d shards (-undisturbed +replaced):\n%s", shards, diff)
				}
			}
		})
	}
}

// relationships say that 3356 is a customer of the peers and of 2007, so that the paths of the world through them are
// valleys, where leak is set; otherwise that it is their provider. more are added: provider and customer.
func relationships(leak bool, more ...[2]uint32) Knowledge {
	rel := topology.Provider
	if leak {
		rel = topology.Customer
	}
	b := topology.NewBuilder(topology.Published, "test")
	b.Set(3356, 2007, rel)
	for p := range uint32(5) {
		b.Set(3356, 1000+p, rel)
	}
	for _, m := range more {
		b.Set(m[0], m[1], topology.Provider)
	}
	return Knowledge{Relationships: b.Build()}
}

// What stands when relationships come that call it a leak is no event; what comes after is one.
func TestReplaceAndStandingValleys(t *testing.T) {
	var opened []string
	e := New(DefaultConfiguration(), relationships(false), func(ev incident.Event) {
		if ev.Change == incident.Opened {
			opened = append(opened, string(ev.Incident.Kind))
		}
	})
	us := world(5, 200)
	for _, u := range us {
		if u.Announced[0].Prefix == prefixOf(57) {
			continue // comes later, by the paths of prefix 7
		}
		u.Kind = ingest.RIB
		e.Apply(&u)
	}
	e.FinishBaseline()
	e.Replace(relationships(true))
	at := ingest.TimeOf(start)
	say := func(path func(peer uint32) []uint32, prefix int) {
		for p := range 5 {
			at += 1e6
			u := announcement(us[200*p].Peer, prefixOf(prefix), path(us[200*p].Peer.ASN)...)
			u.Time = at
			e.Apply(&u)
		}
		e.Advance(at + 5e6)
	}
	standing := func(prefix uint32) func(uint32) []uint32 {
		return func(peer uint32) []uint32 { return []uint32{peer, 3356, 2007, 10000 + prefix, 20000 + prefix} }
	}
	say(standing(7), 7) // again what it said before
	say(func(peer uint32) []uint32 { return []uint32{peer, 3356, 2007, 10007, 10007, 20007} }, 7)
	say(standing(7), 57)
	if len(opened) != 0 {
		t.Errorf("%v opened over valleys that were there before", opened)
	}
	// A customer of two passes on what it has from one to the other, and these relationships came before it did.
	e.Replace(relationships(true, [2]uint32{2008, 47000}, [2]uint32{3356, 47000}))
	for _, prefix := range []int{8, 58, 108, 158} {
		say(func(peer uint32) []uint32 {
			return []uint32{peer, 3356, 47000, 2008, 10000 + uint32(prefix), 20000 + uint32(prefix)}
		}, prefix)
	}
	if len(opened) != 1 || opened[0] != string(incident.RouteLeak) {
		t.Errorf("%v opened, want one %s", opened, incident.RouteLeak)
	}
}

// A VRP that comes while an origin is under suspicion decides.
func TestReplaceVRPsDecides(t *testing.T) {
	for _, test := range []struct {
		origin uint32 // that the VRP allows
		ends   bool
	}{{47000, true}, {20003, false}} {
		last := map[string]incident.Incident{}
		var changes []incident.Change
		c := DefaultConfiguration()
		c.Hold = 0
		e := New(c, Knowledge{}, func(ev incident.Event) {
			last[ev.Incident.ID] = ev.Incident
			changes = append(changes, ev.Change)
		})
		us := world(5, 20)
		for _, u := range us {
			u.Kind = ingest.RIB
			e.Apply(&u)
		}
		e.FinishBaseline()
		at := ingest.TimeOf(start)
		for p := range 5 {
			at += 1e6
			u := announcement(us[20*p].Peer, prefixOf(3), us[20*p].Peer.ASN, 3356, 47000)
			u.Time = at
			e.Apply(&u)
		}
		e.Advance(at + 1e6)
		if len(last) != 1 || changes[0] != incident.Opened {
			t.Fatalf("%v before the VRP", changes)
		}
		vrp := rpki.VRP{Prefix: prefixOf(3), MaxLength: 24, ASN: test.origin}
		e.Replace(Knowledge{VRPs: rpki.NewSet(rpki.Data{VRPs: []rpki.VRP{vrp}}, "test")})
		e.Advance(at + 60e6)
		e.Advance(at + 120e6)
		for _, inc := range last {
			if ended := inc.Status == incident.Ended; ended != (test.ends) {
				t.Errorf("AS%d allowed: %s, %v %+v", test.origin, inc.Status, changes, inc.Evidence)
			}
		}
	}
}
