package detect

// nodeIndex finds the child of a node by the hash of both, see nodeHash. It keeps 4 bytes a slot: the id, and four bits
// of the hash, by which most of the others in a slot can be told from it without a look at the node. Like an idIndex it
// consists of parts, lest an insertion wait for all of it to grow.
type nodeIndex struct {
	parts [256]nodePart // by the first octet of the hash
}

// nodePart is an open hash table: an id lies in the first free slot from where its hash says. Three of five to three of
// four slots are taken.
type nodePart struct {
	slots []uint32 // maxNodes times four bits of the hash, plus the id; 0 where the slot is free
	used  int
}

func (p *nodePart) place(hash uint64) int {
	return int(uint64(uint32(hash)) * uint64(len(p.slots)) >> 32)
}

func (p *nodePart) next(i int) int {
	if i++; i == len(p.slots) {
		return 0
	}
	return i
}

func nodeSlot(hash uint64, id nodeID) uint32 { return uint32(hash>>32)<<28 | uint32(id) }

// find returns the node of asn upon parent.
func (x *nodeIndex) find(hash uint64, nodes []node, parent nodeID, asn uint32) (id nodeID, ok bool) {
	p := &x.parts[hash>>56]
	if p.used == 0 {
		return 0, false
	}
	tag := nodeSlot(hash, 0)
	for i := p.place(hash); ; i = p.next(i) {
		s := p.slots[i]
		if s == 0 {
			return 0, false
		}
		if (s^tag)>>28 == 0 {
			if n := &nodes[s^tag]; n.parent == parent && n.asn == asn {
				return nodeID(s ^ tag), true
			}
		}
	}
}

// add adds a node that find does not find. It is in nodes already.
func (x *nodeIndex) add(hash uint64, id nodeID, nodes []node) {
	p := &x.parts[hash>>56]
	if p.used*4 >= len(p.slots)*3 {
		old := p.slots
		p.slots = make([]uint32, len(old)+len(old)/4+8)
		for _, s := range old {
			if s != 0 {
				n := &nodes[s%maxNodes]
				p.put(nodeHash(n.parent, n.asn), s)
			}
		}
	}
	p.put(hash, nodeSlot(hash, id))
	p.used++
}

func (p *nodePart) put(hash uint64, s uint32) {
	i := p.place(hash)
	for p.slots[i] != 0 {
		i = p.next(i)
	}
	p.slots[i] = s
}

// remove takes out a node that is there. What lies behind it moves up, so that no search ends at the gap.
func (x *nodeIndex) remove(id nodeID, nodes []node) {
	hash := nodeHash(nodes[id].parent, nodes[id].asn)
	p := &x.parts[hash>>56]
	gap := p.place(hash)
	for s := nodeSlot(hash, id); p.slots[gap] != s; {
		gap = p.next(gap)
	}
	for i := p.next(gap); p.slots[i] != 0; i = p.next(i) {
		n := &nodes[p.slots[i]%maxNodes]
		home := p.place(nodeHash(n.parent, n.asn))
		if gap < i && gap < home && home <= i || i < gap && (gap < home || home <= i) {
			continue // it lies between its home and where it is, and would not be found before that
		}
		p.slots[gap] = p.slots[i]
		gap = i
	}
	p.slots[gap] = 0
	p.used--
}
