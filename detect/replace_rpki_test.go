package detect

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/ingest"
)

// changing is an engine whose VRPs change, with the incidents it has told of.
type changing struct {
	*Engine
	t    *testing.T
	at   time.Time
	open map[incident.Kind]int
}

// newChanging has learned that AS20000 has 20.0.0.0/24 and that AS20001 has 20.0.1.0/24.
func newChanging(t *testing.T, shards int) *changing {
	c := &changing{t: t, at: start, open: map[incident.Kind]int{}}
	config := DefaultConfiguration()
	config.Shards = shards
	c.Engine = New(config, Knowledge{}, func(ev incident.Event) {
		switch ev.Change {
		case incident.Opened, incident.Reopened:
			c.open[ev.Incident.Kind]++
		case incident.Closed:
			c.open[ev.Incident.Kind]--
		}
	})
	for _, u := range world(5, 2) {
		u.Kind = ingest.RIB
		c.Apply(&u)
	}
	c.FinishBaseline()
	return c
}

func (c *changing) pass(d time.Duration) {
	for end := c.at.Add(d); c.at.Before(end); {
		c.at = c.at.Add(time.Second)
		c.Advance(ingest.TimeOf(c.at))
	}
}

// announce lets every peer have a route by a path of its own AS, 3356 and then these.
func (c *changing) announce(p string, path ...uint32) {
	for _, w := range world(5, 1) {
		u := announcement(w.Peer, netip.MustParsePrefix(p), append([]uint32{w.Peer.ASN, 3356}, path...)...)
		u.Time = ingest.TimeOf(c.at)
		c.Apply(&u)
	}
	c.pass(2 * time.Second)
}

func (c *changing) set(d rpki.Data) {
	c.Replace(Knowledge{VRPs: rpki.NewSet(d, "test")})
	c.pass(2 * time.Second)
}

func (c *changing) wants(when string, open map[incident.Kind]int) {
	c.t.Helper()
	got := map[incident.Kind]int{}
	for k, n := range c.open {
		if n != 0 {
			got[k] = n
		}
	}
	if diff := cmp.Diff(open, got); diff != "" {
		c.t.Fatalf("%s, open incidents (-want +got):\n%s", when, diff)
	}
}

func roa(p string, most uint8, asn uint32) rpki.VRP {
	return rpki.VRP{Prefix: netip.MustParsePrefix(p), MaxLength: most, ASN: asn}
}

func TestReplaceVRPsJudgesAgain(t *testing.T) {
	for _, shards := range []int{1, 3} {
		c := newChanging(t, shards)
		nothing, invalid := map[incident.Kind]int{}, map[incident.Kind]int{incident.RPKIInvalid: 1}
		c.announce("60.0.0.0/24", 2000, 10000, 20000) // like no other: only the RPKI can tell
		c.wants("without VRPs", nothing)
		bad := rpki.Data{VRPs: []rpki.VRP{roa("60.0.0.0/24", 24, 20007)}}
		c.set(bad)
		c.wants("when a VRP comes that speaks against a fresh route", nothing) // it was learned as harmless
		c.announce("61.0.0.0/24", 2000, 10000, 20000)
		c.set(rpki.Data{VRPs: []rpki.VRP{bad.VRPs[0], roa("61.0.0.0/24", 24, 20000)}})
		c.announce("61.0.0.0/25", 2000, 10000, 20000)
		c.wants("a more-specific beyond the maximum", invalid)

		// Expired data takes nothing back and shows nothing.
		c.Replace(Knowledge{VRPs: nil})
		c.pass(5 * time.Minute)
		c.wants("after expiry", invalid)
		if st := c.Prefix(netip.MustParsePrefix("61.0.0.0/25")).Origins[0].RPKI; st != "unavailable" {
			t.Errorf("%d shards: after expiry the RPKI says %s", shards, st)
		}
		c.announce("61.0.0.128/25", 2000, 10000, 20000)
		c.wants("what comes while there are no VRPs", invalid)
		c.set(rpki.Data{VRPs: []rpki.VRP{bad.VRPs[0], roa("61.0.0.0/24", 24, 20000)}})
		c.pass(5 * time.Minute)
		c.wants("the same VRPs again", invalid)

		// The holder allows them: the incident ends, though no route has changed.
		c.set(rpki.Data{VRPs: []rpki.VRP{bad.VRPs[0], roa("61.0.0.0/24", 25, 20000)}})
		c.pass(5 * time.Minute)
		c.wants("when the VRP allows the length", nothing)
	}
}

// What is usual is no event when a VRP or an ASPA comes to speak against it.
func TestReplaceVRPsLeavesTheUsualAlone(t *testing.T) {
	c := newChanging(t, 1)
	c.set(rpki.Data{
		VRPs:  []rpki.VRP{roa("20.0.0.0/24", 24, 30009)},
		ASPAs: rpki.ASPAs{20001: {7}, 1000: {7}, 1001: {7}, 1002: {7}, 1003: {7}, 1004: {7}},
	})
	c.pass(5 * time.Minute)
	c.wants("usual routes", map[incident.Kind]int{})
	if st := c.Prefix(netip.MustParsePrefix("20.0.0.0/24")).Origins[0].RPKI; st != "invalid" {
		t.Errorf("the RPKI says %s", st)
	}
}

// Nodes made before, without and with ASPAs say the same as nodes made with the last from the start.
func TestReplaceVRPsWorksPathsOutAnew(t *testing.T) {
	sets := []rpki.ASPAs{{20000: {10000}}, {20000: {9}, 1000: {9}, 3356: {9}}, {3356: {1}, 2000: {2}, 10001: {3}}, nil, {20001: {9}, 1003: {9}}}
	c := newChanging(t, 1)
	for _, aspas := range sets {
		if aspas == nil {
			c.Replace(Knowledge{VRPs: nil})
			c.announce("62.0.0.0/24", 2000, 10000, 20001) // a path made while there is nothing
			continue
		}
		c.set(rpki.Data{ASPAs: aspas})
		fresh := newPathTree(nil, rpki.NewSet(rpki.Data{ASPAs: aspas}, "test").Attestations(), c.links)
		for _, s := range c.shards {
			for id := range s.table.paths.fromRoots() {
				got := s.table.paths.nodes[id]
				want := fresh.nodes[fresh.intern(announcement(ingest.Peer{}, netip.Prefix{}, s.table.paths.wire(id)...).Attrs.ASPath, rootPlain)]
				if got.flags&flagASPA != want.flags&flagASPA || got.leak != want.leak || got.ramp != want.ramp {
					t.Fatalf("%v: %+v, made anew %+v", s.table.paths.wire(id), got, want)
				}
			}
		}
	}
}

// BenchmarkReplaceVRPs changes one VRP of 700,000 under a table of 100,000 prefixes.
func BenchmarkReplaceVRPs(b *testing.B) {
	var vs []rpki.VRP
	for i := range 700_000 {
		vs = append(vs, rpki.VRP{Prefix: prefixOf(i), MaxLength: 24, ASN: uint32(20000 + i%20000)})
	}
	sets := [2]*rpki.Set{rpki.NewSet(rpki.Data{VRPs: vs}, "a"), rpki.NewSet(rpki.Data{VRPs: vs[1:]}, "b")}
	e := loaded(world(1, 100_000))
	for i := 0; b.Loop(); i++ {
		e.Replace(Knowledge{VRPs: sets[i%2]})
	}
}
