package detect

import "math"

// Path nodes that no route uses any more are found by a look at all routes, which in a large table takes longer than any
// update may wait. So it is done in steps, of which each new node pays for one: first the nodes of all routes are marked
// with those before them, then those without a mark are set free. Paths that come up in the meantime are marked by
// [pathTree.intern]. Nodes that are set free are used again only when the cleaning is over, as until then a child that
// will be set free too may name one as its parent.

// endCleaning brings a cleaning to its end, if one is under way: whoever looks at all nodes wants no child without a parent.
func (t *table) endCleaning() { t.clean(math.MaxInt) }

// cleanAt is the number of path nodes from which a cleaning may pay.
const cleanAt = 1 << 20

// cleanStep is how many routes, entries or nodes are looked at for each new node. The most there are is a few dozen a
// node, so that a cleaning is over before there are twice as many nodes.
const cleanStep = 64

// cleaning is the search for unused nodes, under way.
type cleaning struct {
	used  nodeSet
	entry uint32 // the next to be looked at
	node  int    // the next to be looked at once the entries are done
	free  nodeID // what was set free, a list like pathTree.free
	last  nodeID // of that list
	freed int
}

// mark marks a path.
func (c *cleaning) mark(t *pathTree, id nodeID) {
	if n := len(t.nodes)/64 + 1; n > len(c.used) {
		c.used = append(c.used, make(nodeSet, n-len(c.used)+n/8)...)
	}
	for ; id >= rootCount && !c.used.contains(int(id)); id = t.nodes[id].parent {
		c.used.add(id)
	}
}

// beginCleaning begins one where that may pay, unless it is under way.
func (t *table) beginCleaning() {
	if t.paths.cleaning == nil && t.paths.size() >= t.nextClean {
		t.paths.cleaning = &cleaning{used: newNodeSet(t.paths), node: rootCount}
	}
}

// clean goes on with the cleaning, if one is under way, by so many steps.
func (t *table) clean(steps int) {
	c, p := t.paths.cleaning, t.paths
	if c == nil {
		return
	}
	for ; c.entry < t.size; c.entry++ {
		if steps <= 0 {
			return
		}
		routes := t.entry(c.entry).routes
		for _, r := range routes {
			c.mark(p, r.node)
		}
		steps -= 1 + len(routes)
	}
	for ; c.node < len(p.nodes); c.node++ {
		if steps <= 0 {
			return
		}
		steps--
		n := &p.nodes[c.node]
		if c.node/64 < len(c.used) && c.used.contains(c.node) || n.flags&flagFree != 0 {
			continue
		}
		p.children.remove(nodeID(c.node), p.nodes)
		*n = node{flags: flagFree, parent: c.free}
		c.free = nodeID(c.node)
		if c.freed++; c.last == 0 {
			c.last = c.free
		}
	}
	if c.freed > 0 {
		p.nodes[c.last].parent = p.free
		p.free = c.free
		p.freed += c.freed
	}
	p.cleaning = nil
	t.nextClean = max(cleanAt, 2*p.size())
}
