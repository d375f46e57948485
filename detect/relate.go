package detect

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/routevigil/routevigil/detect/topology"
)

// Relationships that are inferred from the table follow it: [Engine.CopyPaths] takes what the routes
// of one moment tell of links, [PathCopy.Infer] works on that for as long as it takes, on any
// goroutine, and [Engine.Relate] brings the answer in.
//
// What is under suspicion teaches nothing: neither the routes of a finding nor a path with a link that
// has not been judged harmless. In turn, what stands unsuspected in the table when relations come in is
// usual, though they make a valley of it: they were drawn from it, and then they are wrong there, or
// nobody minds.

// inferredSource names inferred relationships in evidence.
const inferredSource = "inferred"

// PathCopy is the paths of an engine's table at one moment.
type PathCopy struct {
	trees   []treeCopy // by shard
	servers []uint32   // ASNs of route servers
}

type treeCopy struct {
	asns    []uint32 // by node
	parents []nodeID
	v4, v6  nodeSet // where routes of each family end
}

// nodeSet is a set of nodes, a bit each.
type nodeSet []uint64

func newNodeSet(t *pathTree) nodeSet  { return make(nodeSet, len(t.nodes)/64+1) }
func (s nodeSet) add(id nodeID)       { s[id/64] |= 1 << (id % 64) }
func (s nodeSet) contains(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

// Infers reports whether the engine takes relationships from its own table: none were given.
func (e *Engine) Infers() bool { return e.infers }

// Relationships are those in use: what was declared, over what was published or inferred.
func (e *Engine) Relationships() *topology.Relationships { return e.known.Relationships }

func (e *Engine) relationships() *topology.Relationships {
	return topology.Overlay(cmp.Or(e.given.Relationships, e.inferred), e.given.Declared)
}

// CopyPaths copies what [PathCopy.Infer] needs: 8 bytes a path node, and two bits.
func (e *Engine) CopyPaths() *PathCopy {
	e.flush()
	c := &PathCopy{servers: e.known.RouteServers}
	for _, s := range e.shards {
		t := treeCopy{asns: make([]uint32, len(s.table.paths.nodes)), parents: make([]nodeID, len(s.table.paths.nodes))}
		for i := range s.table.paths.nodes {
			t.asns[i], t.parents[i] = s.table.paths.nodes[i].asn, s.table.paths.nodes[i].parent
		}
		t.v4, t.v6 = s.unsuspected()
		c.trees = append(c.trees, t)
	}
	return c
}

// unsuspected returns the paths of routes under no suspicion, by family.
func (s *shard) unsuspected() (v4, v6 nodeSet) {
	v4, v6 = newNodeSet(s.table.paths), newNodeSet(s.table.paths)
	for id, e := range s.table.all() {
		if e.dirty != 0 {
			continue // nobody has judged it yet
		}
		var accused map[peerID]bool
		if e.suspect {
			accused = map[peerID]bool{}
			for _, f := range s.suspects[id] {
				for _, p := range f.peers {
					accused[p] = true
				}
			}
		}
		family := v6
		if e.prefix.Addr().Is4() {
			family = v4
		}
		for _, r := range e.routes {
			if !accused[r.peer] && !s.table.paths.novel(r.node) {
				family.add(r.node)
			}
		}
	}
	return v4, v6
}

// Infer works out relationships from the copy. It returns early, with the error of ctx, when that ends
// while it still collects paths.
func (c *PathCopy) Infer(ctx context.Context) (topology.Inference, error) {
	v4, v6 := topology.NewPaths(c.servers), topology.NewPaths(c.servers)
	var wire []uint32
	for _, t := range c.trees {
		for i := rootCount; i < len(t.asns); i++ {
			if i%4096 == 0 && ctx.Err() != nil {
				return topology.Inference{}, ctx.Err()
			}
			if !t.v4.contains(i) && !t.v6.contains(i) {
				continue
			}
			wire = wire[:0]
			for id := nodeID(i); id >= rootCount; id = t.parents[id] {
				wire = append(wire, t.asns[id])
			}
			if t.v4.contains(i) {
				v4.Add(wire)
			}
			if t.v6.contains(i) {
				v6.Add(wire)
			}
		}
	}
	return topology.Infer(v4, v6, inferredSource), nil
}

// Relate replaces the relationships that were inferred before. What the operator declared stays above
// them. Suspected prefixes are judged anew at the next tick. It does nothing where the engine was given
// published relationships. The engine must have finished its baseline.
func (e *Engine) Relate(inferred *topology.Relationships) {
	if !e.infers {
		return
	}
	e.flush()
	e.inferred = inferred
	e.known.Relationships = e.relationships()
	e.relate()
}

// relate works out every path by the relationships as they are now.
func (e *Engine) relate() {
	e.parallel(func(s *shard) {
		paths := s.table.paths
		paths.rels, paths.aspas = e.known.Relationships, e.lastVRPs.Attestations() // what has expired takes nothing back
		s.table.endCleaning()
		fresh := false // some path has a valley that is not usual yet
		for id := range paths.fromRoots() {
			paths.nodes[id] = paths.again(id)
			if !fresh && paths.nodes[id].leak != noLeak {
				from, leaker, to := paths.triple(id)
				fresh = !s.links.usualValley(from, leaker, to)
			}
		}
		paths.aspas = e.known.VRPs.Attestations()
		if fresh {
			v4, v6 := s.unsuspected()
			for i := rootCount; i < len(paths.nodes); i++ {
				if id := nodeID(i); v4.contains(i) || v6.contains(i) {
					s.learnValley(id)
				}
			}
		}
		for _, i := range slices.Sorted(maps.Keys(s.suspects)) {
			s.markDirty(s.table.entry(i), i, e.clock)
		}
	})
	e.shareLearned()
}
