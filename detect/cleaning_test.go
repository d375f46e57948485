package detect

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// octets is what the slots take.
func (x *nodeIndex) octets() (n int64) {
	for i := range x.parts {
		n += 4 * int64(len(x.parts[i].slots))
	}
	return n
}

// taken is how many ids the index holds.
func (x *nodeIndex) taken() (n int) {
	for i := range x.parts {
		n += x.parts[i].used
	}
	return n
}

// TestCleaningKeepsWhatIsUsed changes routes at random while a cleaning goes on, a few steps at a time, and wants every
// route to keep its path, every path to be found again as the same node, and what no route uses to be gone after two.
func TestCleaningKeepsWhatIsUsed(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 9))
	tab := newTable(newPathTree(nil, nil, newLinkMemory()), origins.NewClock(86400e9))
	type at struct {
		entry uint32
		peer  peerID
	}
	want := map[at][]uint32{}
	intern := func(wire []uint32) nodeID {
		return tab.paths.intern(bgp.ASPath{{Type: bgp.ASSequence, ASNs: wire}}, rootPlain)
	}
	check := func() {
		t.Helper()
		for k, wire := range want {
			e := tab.entry(k.entry)
			i, _ := e.route(k.peer)
			if id := e.routes[i].node; !slices.Equal(tab.paths.wire(id), wire) || intern(wire) != id {
				t.Fatalf("%v: the path %v is now %v, and node %d or %d", k, wire, tab.paths.wire(id), id, intern(wire))
			}
		}
	}
	cleaned := 0
	for i := range 200_000 {
		tab.nextClean = 0
		tab.beginCleaning()
		wire := make([]uint32, 1+r.IntN(5))
		for j := range wire {
			wire[j] = 1 + r.Uint32N(12)
		}
		id, _ := tab.entryFor(prefixOf(r.IntN(50)))
		k := at{id, peerID(r.IntN(4))}
		if r.IntN(3) == 0 {
			tab.unset(tab.entry(id), k.peer, 0)
			delete(want, k)
		} else {
			tab.set(tab.entry(id), k.peer, intern(wire), ingest.Time(i))
			want[k] = wire
		}
		tab.clean(r.IntN(20))
		if tab.paths.cleaning == nil {
			cleaned++
		}
		if n, held := tab.paths.size(), tab.paths.children.taken(); tab.paths.cleaning == nil && n != held {
			t.Fatalf("%d nodes, %d in the index", n, held)
		}
		if i%1000 == 0 {
			check()
		}
	}
	if cleaned < 100 {
		t.Errorf("only %d cleanings came to an end", cleaned)
	}
	tab.endCleaning()
	tab.nextClean = 0
	tab.beginCleaning()
	tab.endCleaning()
	check()
	alive := map[nodeID]bool{}
	for k := range want {
		e := tab.entry(k.entry)
		i, _ := e.route(k.peer)
		for id := e.routes[i].node; id >= rootCount; id = tab.paths.nodes[id].parent {
			alive[id] = true
		}
	}
	seen := map[nodeID]bool{}
	for id := range tab.paths.fromRoots() {
		if p := tab.paths.nodes[id].parent; p >= rootCount && !seen[p] {
			t.Fatalf("node %d comes before its parent %d", id, p)
		}
		seen[id] = true
	}
	if len(seen) != len(alive) || tab.paths.size() != len(alive) {
		t.Errorf("%d nodes are left and %d counted, %d are used", len(seen), tab.paths.size(), len(alive))
	}
}

// TestTreeIsBounded has room for a few nodes beyond the longest path.
func TestTreeIsBounded(t *testing.T) {
	tree := newPathTree(nil, nil, newLinkMemory())
	tree.most = maxPathLength + 3
	var ids []nodeID
	for i := range uint32(10) {
		ids = append(ids, tree.intern(bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{i + 1}}}, rootPlain))
	}
	if tree.size() > 4 || ids[2] == rootPlain || ids[9] != rootPlain {
		t.Errorf("%d nodes: %v", tree.size(), ids)
	}
}
