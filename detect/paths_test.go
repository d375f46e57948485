package detect

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// TestPathsAgreeWithTheRules compares what a path's node knows, worked out hop by hop, with the rules
// applied to the whole path: ASPA's downstream algorithm, and RFC 7908's valleys.
func TestPathsAgreeWithTheRules(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	aspas, declared := rpki.ASPAs{}, topology.NewBuilder(topology.Declared, "test")
	const ases = 8
	for a := uint32(1); a <= ases; a++ {
		if r.IntN(4) > 0 {
			aspas.Add(a, []uint32{1 + r.Uint32N(ases), 1 + r.Uint32N(ases)})
		}
		for b := a + 1; b <= ases; b++ {
			declared.Set(a, b, topology.Relation(r.IntN(4)))
		}
	}
	rels := declared.Build()
	tree := newPathTree(rels, rpki.NewSet(rpki.Data{ASPAs: aspas}, "test").Attestations(), newLinkMemory())
	aspaInvalid, valleys := 0, 0
	for range 20_000 {
		wire := make([]uint32, 1+r.IntN(6))
		for i := range wire {
			wire[i] = 1 + r.Uint32N(ases)
		}
		path := bgp.ASPath{{Type: bgp.ASSequence, ASNs: wire}}
		id := tree.intern(path, rootPlain)
		n := tree.nodes[id]
		invalid := aspas.VerifyDownstream(path, 0).State == rpki.PathInvalid
		if got := n.flags&flagASPA != 0; got != invalid {
			t.Fatalf("%v: ASPA Invalid %v, want %v", wire, got, invalid)
		}
		kind, leaker := firstValley(rels, wire)
		if kind != 0 && !invalid && (n.leak.rfc7908() != kind || tree.nodes[tree.leaker(id)].asn != leaker) {
			t.Fatalf("%v: type %d by AS%d, want %d by AS%d", wire, n.leak.rfc7908(), tree.nodes[tree.leaker(id)].asn, kind, leaker)
		}
		if kind == 0 && !invalid && n.leak != 0 {
			t.Fatalf("%v: a leak by AS%d, want none", wire, tree.nodes[tree.leaker(id)].asn)
		}
		if got := tree.wire(id); !slices.Equal(got, wire) {
			t.Fatalf("%v came back as %v", wire, got)
		}
		if invalid {
			aspaInvalid++
		}
		if kind != 0 {
			valleys++
		}
	}
	if aspaInvalid == 0 || valleys == 0 {
		t.Errorf("%d paths were ASPA Invalid, %d had a valley", aspaInvalid, valleys)
	}
}

// firstValley looks at every three ASes of a path in turn, from the origin on.
func firstValley(rels *topology.Relationships, wire []uint32) (kind int, leaker uint32) {
	path := slices.Clone(wire)
	slices.Reverse(path)
	path = slices.Compact(path)
	for i := 0; i+2 < len(path); i++ {
		in, out := rels.Of(path[i], path[i+1]), rels.Of(path[i+1], path[i+2])
		fromAbove := in == topology.Provider || in == topology.Peer
		upOrAcross := out == topology.Customer || out == topology.Peer
		if fromAbove && upOrAcross {
			kinds := map[[2]topology.Relation]int{{topology.Provider, topology.Customer}: 1, {topology.Peer, topology.Peer}: 2,
				{topology.Provider, topology.Peer}: 3, {topology.Peer, topology.Customer}: 4}
			return kinds[[2]topology.Relation{in, out}], path[i+1]
		}
	}
	return 0, 0
}

// TestLeakProvenByASPA has a network pass its one provider's route on to its other: no relationships
// are known, all links are, and the attestations of both providers tell.
func TestLeakProvenByASPA(t *testing.T) {
	aspas := rpki.ASPAs{}
	aspas.Add(64400, []uint32{3356})       // the victim, whose provider is AS3356
	aspas.Add(3356, []uint32{0})           // providers without providers
	aspas.Add(1299, []uint32{0})           //
	aspas.Add(64300, []uint32{3356, 1299}) // the leaker, customer of both
	var events []incident.Event
	e := New(DefaultConfiguration(), Knowledge{VRPs: rpki.NewSet(rpki.Data{ASPAs: aspas}, "test")},
		func(ev incident.Event) { events = append(events, ev) })
	victim, leaker := prefixOf(1), prefixOf(2)
	announce := func(u ingest.Update, kind ingest.Kind) {
		u.Kind = kind
		e.Apply(&u)
	}
	peers := []uint32{7001, 7002, 7003, 7004}
	peer := func(asn uint32) ingest.Peer { return ingest.Peer{Collector: "test", ASN: asn} }
	for _, asn := range peers {
		announce(announcement(peer(asn), victim, asn, 1299, 3356, 64400), ingest.RIB)
		announce(announcement(peer(asn), leaker, asn, 1299, 64300), ingest.RIB)
		announce(announcement(peer(asn), prefixOf(3), asn, 3356, 64300), ingest.RIB)
	}
	e.FinishBaseline()
	for _, asn := range peers {
		announce(announcement(peer(asn), victim, asn, 1299, 64300, 3356, 64400), ingest.Routes)
	}
	e.Finish()
	if len(events) != 1 {
		t.Fatalf("%d events, want one", len(events))
	}
	inc := events[0].Incident
	proof := slices.ContainsFunc(inc.Evidence, func(ev incident.Evidence) bool { return ev.Rule == "aspa.invalid" })
	if inc.Kind != incident.RouteLeak || inc.RFC7908Type != nil || !slices.Equal(inc.Offenders, []uint32{64300}) ||
		!slices.Equal(inc.Accomplices, []uint32{1299}) || !slices.Equal(inc.Victims, []uint32{64400}) || !proof {
		t.Errorf("%s by %v to %v against %v: %s", inc.Kind, inc.Offenders, inc.Accomplices, inc.Victims, inc.Explanation)
	}
}

// A node that is made again is as one that is made for the first time, also when links were learned in between.
func TestNodesAgain(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	const ases = 12
	random := func() *topology.Relationships {
		b := topology.NewBuilder(topology.Declared, "test")
		for a := uint32(1); a <= ases; a++ {
			for c := a + 1; c <= ases; c++ {
				b.Set(a, c, topology.Relation(r.IntN(5)))
			}
		}
		return b.Build()
	}
	aspas := rpki.NewSet(rpki.Data{ASPAs: rpki.ASPAs{1: {2, 3}, 4: {5}, 7: {9}}}, "test").Attestations()
	tree := newPathTree(random(), aspas, newLinkMemory())
	learned, changed := 0, 0
	for range 2000 {
		wire := make([]uint32, 1+r.IntN(6))
		for i := range wire {
			wire[i] = r.Uint32N(ases + 1) // 0 is a set
		}
		tree.intern(bgp.ASPath{{Type: bgp.ASSequence, ASNs: wire}}, rootPlain)
	}
	for range 5 {
		tree.rels = random()
		for range 20 {
			a, b := 1+r.Uint32N(ases), 1+r.Uint32N(ases)
			tree.links.learn([]link{{a, b, r.IntN(2) == 0}}, nil)
		}
		for id := range tree.fromRoots() {
			old := tree.nodes[id]
			got, want := tree.again(id), tree.grow(old.parent, old.asn)
			if got != want {
				t.Fatalf("%v: again %+v, anew %+v", tree.wire(id), got, want)
			}
			tree.nodes[id] = got
			if old.flags&^got.flags&flagNovel != 0 {
				learned++
			}
			if old.leak != got.leak {
				changed++
			}
		}
	}
	if learned == 0 || changed == 0 {
		t.Errorf("%d nodes became known, %d valleys came or went", learned, changed)
	}
}

// A path has one node, whatever path it was looked for near.
func TestInternNear(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	tree, plain := newPathTree(nil, nil, newLinkMemory()), newPathTree(nil, nil, newLinkMemory())
	ids := []nodeID{rootPlain, rootBlackhole, rootMarked}
	for range 5000 {
		// Segments of all types; of so few ASes that most paths share an end, or are the end of another.
		var path bgp.ASPath
		for range 1 + r.IntN(3) {
			seg := bgp.Segment{Type: []bgp.SegmentType{bgp.ASSequence, bgp.ASSequence, bgp.ASSet, bgp.ASConfedSequence}[r.IntN(4)]}
			for range 1 + r.IntN(4) {
				seg.ASNs = append(seg.ASNs, 1+r.Uint32N(3))
			}
			if r.IntN(20) == 0 {
				seg.ASNs = slices.Repeat(seg.ASNs, 20)
			}
			path = append(path, seg)
		}
		root := nodeID(r.IntN(rootCount))
		id, want := tree.internNear(path, root, ids[r.IntN(len(ids))]), plain.intern(path, root)
		if id != want || tree.nodes[id] != plain.nodes[want] {
			t.Fatalf("%v upon %d: node %d, want %d", path, root, id, want)
		}
		ids = append(ids, id)
	}
}

// BenchmarkASPAOfANewNode is what ASPA adds to a path that was never seen before, for each AS of it. Every fourth AS
// attests its providers.
func BenchmarkASPAOfANewNode(b *testing.B) {
	aspas := rpki.ASPAs{}
	for i := uint32(0); i < 100_000; i += 4 {
		aspas.Add(i, []uint32{i + 1, i + 2, i + 3})
	}
	t := newPathTree(nil, rpki.NewSet(rpki.Data{ASPAs: aspas}, "test").Attestations(), newLinkMemory())
	t.nodes = append(t.nodes, node{origin: 1})
	b.ReportAllocs()
	for i := uint32(0); b.Loop(); i++ {
		t.nodes[rootCount].asn = i * 7919 % 100_000
		n := node{asn: i * 104_729 % 100_000}
		t.checkASPA(&n, &t.nodes[rootCount])
	}
}
