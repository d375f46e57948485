package detect

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// canonical is an engine's snapshot in a form in which equal states are equal octets: what is a set in memory comes
// out of it in no order.
func canonical(t *testing.T, e *Engine) []byte {
	t.Helper()
	state, err := e.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(bytes.NewReader(state))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var s snapshot
	if err := gob.NewDecoder(z).Decode(&s); err != nil {
		t.Fatal(err)
	}
	slices.Sort(s.Links)
	valleys := slices.SortedFunc(slices.Chunk(s.Valleys, 3), slices.Compare)
	s.Valleys = slices.Concat(valleys...)
	text, err := json.Marshal(&s)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// rest is what an engine holds that is not in its snapshot, as far as an explanation could leave traces in it.
func rest(e *Engine) []any {
	r := []any{len(e.peers.list), len(e.peers.index), e.peers.last, e.peers.lastID, e.peers.active, len(e.links.links), len(e.links.roles)}
	for _, s := range e.shards {
		r = append(r, s.now, s.need, len(s.dirty), len(s.learned), len(s.learnedValleys), len(s.suspects), s.table.size, taken(&s.table.index),
			len(s.table.paths.nodes), s.table.paths.free, s.table.paths.freed, s.table.paths.children.taken(), s.table.history.Len(), s.table.routes, s.table.announced, fmt.Sprint(s.table.perPeer))
	}
	return r
}

// taken is how many ids an index holds.
func taken(x *idIndex) (n int) {
	for i := range x.parts {
		n += x.parts[i].used
	}
	return n
}

// questions are routes near what a scenario is about: known and new prefixes, more-specifics, paths that are cut
// short, lead through strangers, or have a set at their end.
func questions(updates []ingest.Update, r *rand.Rand) (prefixes []netip.Prefix, paths []bgp.ASPath) {
	prefixes = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("192.0.2.1/32")}
	paths = []bgp.ASPath{nil, {{Type: bgp.ASSet, ASNs: []uint32{1, 2}}}, {{Type: bgp.ASSequence, ASNs: []uint32{64500, 23456, 3}}}}
	for i := range updates {
		u := &updates[i]
		for _, n := range u.Announced {
			prefixes = append(prefixes, n.Prefix)
			if n.Prefix.Bits() < n.Prefix.Addr().BitLen() {
				prefixes = append(prefixes, netip.PrefixFrom(n.Prefix.Addr(), n.Prefix.Bits()+1))
			}
		}
		if len(u.Attrs.ASPath) == 0 {
			continue
		}
		asns := slices.Clone(u.Attrs.ASPath[0].ASNs)
		paths = append(paths, bgp.ASPath{{Type: bgp.ASSequence, ASNs: asns}},
			bgp.ASPath{{Type: bgp.ASSequence, ASNs: append(slices.Clone(asns), uint32(1+r.IntN(70000)))}},
			bgp.ASPath{{Type: bgp.ASSequence, ASNs: append([]uint32{uint32(1 + r.IntN(70000))}, asns...)}})
	}
	return prefixes, paths
}

// TestExplainLeavesNoTrace asks questions all through every scenario: neither the state before and after each, nor
// what comes of the scenario, shows that somebody asked.
func TestExplainLeavesNoTrace(t *testing.T) {
	for _, sc := range allScenarios(t) {
		t.Run(sc.Name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(1, 2))
			c := scenarioConfiguration()
			c.Shards = 1 + r.IntN(3)
			whole := play(sc, scenarioConfiguration())
			prefixes, paths := questions(append(sc.RIB(), sc.Updates()...), r)
			var events []incident.Event
			e := New(c, knowledgeOf(sc), func(ev incident.Event) { events = append(events, ev) })
			asked := 0
			ask := func(n int) {
				e.flush() // which an explanation does as well
				before, restBefore := canonical(t, e), rest(e)
				for range n {
					asked++
					e.Explain(prefixes[r.IntN(len(prefixes))], paths[r.IntN(len(paths))])
				}
				if !bytes.Equal(before, canonical(t, e)) {
					t.Fatal("the engine's state has changed")
				}
				if diff := cmp.Diff(restBefore, rest(e), cmp.AllowUnexported(peerKey{}), cmpPrefix, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
					t.Fatalf("traces (-before +after):\n%s", diff)
				}
			}
			for _, u := range sc.RIB() {
				e.Apply(&u)
			}
			ask(5) // while it learns
			e.FinishBaseline()
			updates := sc.Updates()
			step := max(1, len(updates)/12)
			for i, u := range updates {
				if e.Apply(&u); i%step == 0 {
					ask(20)
				}
			}
			e.Advance(ingest.TimeOf(sc.Start.Add(sc.Duration())))
			e.Finish()
			if diff := cmp.Diff(whole.events, events, cmpTime, cmpPrefix); diff != "" {
				t.Errorf("after %d questions (-undisturbed +asked):\n%s", asked, diff)
			}
		})
	}
}

// TestExplainAsIfAnnounced compares an explanation with what the engine says when the route then really comes.
func TestExplainAsIfAnnounced(t *testing.T) {
	us := world(6, 40)
	for name, u := range map[string]ingest.Update{
		"hijack":        announcement(ingest.Peer{}, prefixOf(3), 3356, 1299, 64499),
		"more-specific": announcement(ingest.Peer{}, netip.PrefixFrom(prefixOf(3).Addr(), 25), 3356, 1299, 64499),
		"usual":         announcement(ingest.Peer{}, prefixOf(3), 3356, 2003, 10003, 20003),
	} {
		e := loaded(us)
		x := e.Explain(u.Announced[0].Prefix, u.Attrs.ASPath)
		var opened []incident.Event
		e.cases.emit = func(ev incident.Event) { opened = append(opened, ev) }
		for p := range explainPeers {
			told := u
			told.Time, told.Peer = ingest.TimeOf(start), us[40*p].Peer
			e.Apply(&told)
		}
		e.Finish()
		switch {
		case x.Kind == nil && len(opened) > 0:
			t.Errorf("%s: explained as harmless, and then %s", name, opened[0].Incident.Title)
		case x.Kind != nil && len(opened) == 0:
			t.Errorf("%s: explained as %s, and then nothing", name, *x.Kind)
		case x.Kind != nil && opened[0].Incident.Kind != *x.Kind:
			t.Errorf("%s: explained as %s, and then %s", name, *x.Kind, opened[0].Incident.Kind)
		}
		if (x.Kind == nil) != (name == "usual") {
			t.Errorf("%s: %s", name, x.Explanation)
		}
	}
}

// TestExplainPath says how the ASes of a path stand to each other.
func TestExplainPath(t *testing.T) {
	for _, sc := range allScenarios(t) {
		if sc.Rels() == nil {
			continue
		}
		e := New(scenarioConfiguration(), knowledgeOf(sc), func(incident.Event) {})
		for _, u := range sc.RIB() {
			e.Apply(&u)
		}
		if x := e.Explain(netip.MustParsePrefix("192.88.99.0/24"), bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{1}}}); x.Kind != nil || len(x.Evidence) > 0 ||
			x.Explanation != "There is no verdict: what is normal is still being learned." {
			t.Errorf("while learning: %+v", x)
		}
		e.FinishBaseline()
		rel := sc.Rels()[0]
		x := e.Explain(netip.MustParsePrefix("192.88.99.0/24"), bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{rel.A, rel.A, rel.B, 64499}}})
		want := "provider"
		if rel.Peer {
			want = "peer"
		}
		if len(x.Relationships) != 2 || x.Relationships[0].Relation != want || x.Relationships[0].Source != sc.Name || x.Relationships[1].Relation != "no known relation" || x.Relationships[1].SeenBefore {
			t.Errorf("%s: %+v", sc.Name, x.Relationships)
		}
		return
	}
	t.Fatal("no scenario has relationships")
}

func BenchmarkExplain(b *testing.B) {
	e := loaded(world(40, 5000))
	path := bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{3356, 1299, 64499}}}
	for i := 0; b.Loop(); i++ {
		e.Explain(netip.PrefixFrom(prefixOf(i%5000).Addr(), 25), path)
	}
}
