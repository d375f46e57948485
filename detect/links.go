package detect

// link says that AS a was heard passing on a route it had from AS b; transit says that b had it from
// somebody else in turn.
type link struct {
	a, b    uint32
	transit bool
}

// role is what l shows of its AS b.
func (l link) role() role {
	if l.transit {
		return roleTransit
	}
	return roleOrigin
}

// valley is three ASes of a path, origin side first, of which the middle one passed on what it
// should have kept.
type valley struct{ from, leaker, to uint32 }

// role is what an AS has been seen to do.
type role uint8

const (
	roleOrigin  role = 1 << iota // it originated some route that a neighbour passed on
	roleTransit                  // it passed on a route that was not its own
)

// linkMemory is what harmless paths have taught of the Internet's shape. Shards read it; only the
// engine writes it, between ticks, so that what a shard knows does not depend on how many there are.
type linkMemory struct {
	links   map[uint64]struct{}
	roles   map[uint32]role
	valleys map[valley]struct{}
}

func newLinkMemory() *linkMemory {
	return &linkMemory{links: map[uint64]struct{}{}, roles: map[uint32]role{}, valleys: map[valley]struct{}{}}
}

func pairKey(a, b uint32) uint64 {
	if a > b {
		a, b = b, a
	}
	return uint64(a)<<32 | uint64(b)
}

// novel reports that l teaches something.
func (m *linkMemory) novel(l link) bool {
	return m.roles[l.b]&l.role() == 0 || !m.adjacent(l.a, l.b)
}

// adjacent reports that a and b have stood beside each other, in either order.
func (m *linkMemory) adjacent(a, b uint32) bool {
	_, ok := m.links[pairKey(a, b)]
	return ok
}

// stub reports that asn has originated routes and never passed on another's. An AS of which only
// the collector's side was seen is not known to be one.
func (m *linkMemory) stub(asn uint32) bool { return m.roles[asn] == roleOrigin }

// transit reports that asn has passed on a route that was not its own.
func (m *linkMemory) transit(asn uint32) bool { return m.roles[asn]&roleTransit != 0 }

// known reports that asn has stood on some path behind another AS.
func (m *linkMemory) known(asn uint32) bool { return m.roles[asn] != 0 }

func (m *linkMemory) usualValley(from, leaker, to uint32) bool {
	_, ok := m.valleys[valley{from, leaker, to}]
	return ok
}

func (m *linkMemory) learn(links []link, valleys []valley) {
	for _, l := range links {
		m.links[pairKey(l.a, l.b)] = struct{}{}
		m.roles[l.b] |= l.role()
	}
	for _, v := range valleys {
		m.valleys[v] = struct{}{}
	}
}
