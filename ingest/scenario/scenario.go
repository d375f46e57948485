// Package scenario holds a small text language in which routing incidents are written down, so
// that a person can read what happened, a test can check that it is found, and the demo can play
// it. It also holds a small believable Internet, written in the same language, on which they play.
//
// One statement stands on a line; "#" begins a comment.
//
//	title  Pakistan Telecom announces part of YouTube's space
//	start  2008-02-24T18:47:00Z
//
// What is known beforehand:
//
//	world                        # start from the built-in Internet instead of from nothing
//	rel    3491 17557 -1         # as in CAIDA serial-1: provider customer -1, or peer peer 0
//	rel    174,3356 13335,16509 -1   # each with each
//	rel    174,701,1299 mesh     # each with each, as peers
//	vrp    1.1.1.0/24 max 24 13335   # a validated ROA payload; without max, the prefix's length
//	org    16509 14618           # ASNs of one organisation
//	delegated apnic 2012-05-20 HOLDER 203.0.113.0/24 64500   # an RIR's statistics: which numbers
//	                             # a holder has, by its opaque identifier, and since when
//	delegated apnic available 198.51.100.0/24    # or that nobody has them; also reserved
//
// A relationship with "spare" behind it carries no routes and is not among those known; churn may
// bring it to life (see [Play]).
//
// Who looks, and what each has in its table before the first update:
//
//	peer   a rrc00 3333 193.0.0.56          # name, collector, AS, address; "partial" may follow
//	group  two a b
//	origin 36561 208.65.152.0/22            # every peer has its Gao–Rexford route to it; "signed"
//	                                        # may follow: each prefix then has its own VRP
//	rib    208.65.152.0/22 a 3333 3356 36561    # or a given one
//
// What happens, each at its offset from start:
//
//	+10s   a,two announce 208.65.153.0/24 3333 3491 17557 community 65535:666 otc 3491 nexthop 192.0.2.1
//	+90s   all   announce 208.65.153.0/24 via 3491 17557
//	+2m    rrc00 withdraw 208.65.153.0/24
//	+3m    a     down                       # the session; also up
//	+5m    end                              # event time goes on until here
//
// Peers are named one by one, by group, by collector, or all at once, in a list with commas;
// prefixes are listed likewise. "via X …" stands for each peer's own usual way to AS X and then
// the rest: as its first rib line that contains X goes, or else by Gao–Rexford over the
// relationships. Peers that have no way to X do not hear the announcement, which is an error only
// when such a peer is named.
//
// What must be found:
//
//	expect subprefix_hijack offender 17557 victim 36561 prefix 208.65.153.0/24 by +1m ended severity high..critical
//	expect none route_leak                  # nothing of that kind; without a kind, nothing at all
//
// The fields of expect are offender, accomplice, victim (ASNs) and prefix (prefixes), of which the
// incident must name every one given; by (found at the latest at this offset), open or ended (how
// it stands at the end), rpki (the state of the prefixes), severity (one, or lowest..highest) and
// rfc7908 (the leak type, 1 to 6). What kinds there are is detection's business: any word will do.
package scenario

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Relationship is one line of a CAIDA serial-1 file: A is a provider of B, or they are peers.
type Relationship struct {
	A, B uint32
	Peer bool
}

// VRP is a validated ROA payload (RFC 6811 §2).
type VRP struct {
	Prefix    netip.Prefix
	MaxLength int
	ASN       uint32
}

// Delegation is what a number registry says of some prefixes and AS numbers.
type Delegation struct {
	Registry string    // such as "ripencc", as in the statistics
	Status   string    // "assigned", "available" or "reserved"
	Since    time.Time // the day; zero where nobody holds them
	Holder   string    // the registry's opaque identifier; empty where nobody holds them
	Prefixes []netip.Prefix
	ASNs     []uint32
}

// Vantage is a collector's peer and the name by which a scenario speaks of it.
type Vantage struct {
	Name string
	ingest.Peer
	// Partial peers give the collector only their own and their customers' routes, as to a peer;
	// the others give their whole table.
	Partial bool

	line int
}

// Expect is one statement of what must be found, or must not.
type Expect struct {
	Line int
	Text string // the statement in its canonical form
	// None says that no incident may match: none of Kinds, or of any kind where Kinds is empty.
	// Otherwise there must be an incident of the one kind in Kinds that matches.
	None        bool
	Kinds       []string
	Offenders   []uint32       // each must be among the incident's; so for the next three
	Accomplices []uint32       //
	Victims     []uint32       //
	Prefixes    []netip.Prefix //
	By          time.Duration  // latest detection, from the start; 0 means any time
	Status      string         // "open" or "ended" at the end of the scenario; empty means either
	RPKI        string         // "valid", "invalid", "not_found"; empty means any
	SeverityMin string         // empty means any
	SeverityMax string         // equal to SeverityMin where only one was given
	RFC7908Type int            // 1 to 6; 0 means any
}

// Scenario is a parsed scenario. Its slices are shared with whoever asks for them: read only.
type Scenario struct {
	Name   string // what Parse was told, a file's name
	Title  string
	Start  time.Time
	Expect []Expect

	useWorld bool
	rels     []Relationship
	spares   []Relationship
	vrps     []VRP
	orgs     [][]uint32
	holdings []Delegation
	peers    []Vantage
	groups   []group
	origins  []origin
	ribs     []event
	events   []event
	end      time.Duration

	base    *Scenario // the world, when useWorld
	topo    *topology
	given   map[peerPrefix]ingest.Update // by rib lines
	updates []ingest.Update
	rib     func() []ingest.Update
}

type group struct {
	line    int
	name    string
	members []string
}

type origin struct {
	line     int
	asn      uint32
	prefixes []netip.Prefix
	signed   bool // each has a VRP of its own
}

type verb uint8

const (
	announce verb = iota
	withdraw
	down
	up
)

var verbs = [...]string{announce: "announce", withdraw: "withdraw", down: "down", up: "up"}

// event is a timed statement, or a rib line (an announcement whose offset means nothing).
type event struct {
	line        int
	at          time.Duration
	peers       []string
	verb        verb
	prefixes    []netip.Prefix
	via         uint32 // 0: path is whole
	path        bgp.ASPath
	communities []uint32
	otc         uint32
	hasOTC      bool
	nextHop     netip.Addr
}

// Updates gives what happens, ordered by time and within one instant by line and peer, as Routes,
// PeerUp and PeerDown.
func (s *Scenario) Updates() []ingest.Update { return s.updates }

// RIB gives the state before the first update: one ingest.RIB for each route, stamped with Start,
// ordered by peer in order of appearance and then by prefix. It is computed at the first call.
func (s *Scenario) RIB() []ingest.Update { return s.rib() }

// Rels lists the known relationships, those of the world first.
func (s *Scenario) Rels() []Relationship {
	if s.base != nil {
		return slices.Concat(s.base.rels, s.rels)
	}
	return s.rels
}

// VRPs lists the validated ROA payloads, those of the world first.
func (s *Scenario) VRPs() []VRP {
	var list []VRP
	if s.base != nil {
		list = s.base.VRPs()
	}
	list = append(list, s.vrps...)
	for _, o := range s.origins {
		if o.signed {
			for _, p := range o.prefixes {
				list = append(list, VRP{Prefix: p, MaxLength: p.Bits(), ASN: o.asn})
			}
		}
	}
	return list
}

// Orgs lists groups of ASNs that are one organisation each, those of the world first.
func (s *Scenario) Orgs() [][]uint32 {
	if s.base != nil {
		return slices.Concat(s.base.orgs, s.orgs)
	}
	return s.orgs
}

// Delegations lists what the number registries say, those of the world first.
func (s *Scenario) Delegations() []Delegation {
	if s.base != nil {
		return slices.Concat(s.base.holdings, s.holdings)
	}
	return s.holdings
}

// Peers lists the vantage points, those of the world first.
func (s *Scenario) Peers() []Vantage {
	if s.base != nil {
		return slices.Concat(s.base.peers, s.peers)
	}
	return s.peers
}

// Duration is how long event time goes on after Start: until the end statement, or else the last event.
func (s *Scenario) Duration() time.Duration {
	d := s.end
	for _, e := range s.events {
		d = max(d, e.at)
	}
	return d
}

func (s *Scenario) allOrigins() []origin {
	if s.base != nil {
		return slices.Concat(s.base.origins, s.origins)
	}
	return s.origins
}

// Error is a fault in one line of a scenario.
type Error struct {
	Name string
	Line int
	Msg  string
}

func (e *Error) Error() string { return fmt.Sprintf("%s:%d: %s", e.Name, e.Line, e.Msg) }
