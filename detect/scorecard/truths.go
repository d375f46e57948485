package scorecard

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/ingest"
)

// Nothing is known to have happened in the quiet files, but the Internet is never without fault: what the routes of a file alone
// prove is true, and no false alarm. The proofs by kind:
//
//	private_asn_leak  a route on whose path an ASN of RFC 6996 stands, which must not leave its owner's network (section 4 there)
//	bogon_asn         a route on whose path another ASN stands that IANA has assigned to nobody
//	bogon_prefix      a route to a block that IANA's special-purpose registries (RFC 6890) keep out of the global table
//	prepend           "… A n" with n at most 20, and for each prefix concerned A itself originates, in the same file, its
//	                  other half, or a part of it, or the block around it: it is A's, and AS n is a count
//
// All of these are looked for in the routes, not in what the detector says of them. The rest was looked at one by one: checked.

// truth is what was found out about an incident of a quiet file by looking at its routes.
type truth struct {
	file    string
	kind    incident.Kind
	accused []uint32 // all that may be named
	prefix  []netip.Prefix
	false   bool
	because string
	// shown tells whether the routes have what because says; it is given every update of the file.
	shown func(updates iter.Seq2[*ingest.Update, error]) bool
}

var checked = []truth{{
	file: "updates.20070211.0141.gz", kind: incident.OriginHijack, accused: []uint32{26210}, prefix: parsed("200.7.160.0/20"), false: true,
	because: "AS26210 was cut off, AS6568 spoke for it, and it came back with all of its prefixes",
	// In one second a peer loses other prefixes of AS26210, and has this one by AS6568; when AS26210 has it again, they are back too.
	shown: func(updates iter.Seq2[*ingest.Update, error]) bool {
		lost, back, stoodIn := map[netip.Prefix]bool{}, map[netip.Prefix]bool{}, false
		for u := range updates {
			origin, _ := u.Attrs.ASPath.Origin()
			for _, n := range u.Withdrawn {
				lost[n.Prefix] = true
			}
			for _, n := range u.Announced {
				stoodIn = stoodIn || origin == 6568 && n.Prefix == parsed("200.7.160.0/20")[0]
				if origin == 26210 && stoodIn && lost[n.Prefix] {
					back[n.Prefix] = true
				}
			}
		}
		return len(back) >= 10
	},
}, {
	file: "route-views2.updates.20260222.1530.bz2", kind: incident.OriginHijack, accused: []uint32{749}, prefix: parsed("6.16.137.0/24"), false: true,
	because: "AS749 and AS1540 are both of the US Department of Defense, as is 6.0.0.0/8, and the prefix goes back and forth between them",
	shown: func(updates iter.Seq2[*ingest.Update, error]) bool {
		now, turns := map[ingest.Peer]uint32{}, 0
		for u := range updates {
			origin, _ := u.Attrs.ASPath.Origin()
			for _, n := range u.Announced {
				if n.Prefix == parsed("6.16.137.0/24")[0] && origin != now[u.Peer] {
					turns++
					now[u.Peer] = origin
				}
			}
		}
		return turns > 0 && turns >= 5*len(now)
	},
}, {
	// The one who slipped is AS22717; AS227171 is only the number that came of it.
	file: "route-views2.updates.20260222.1530.bz2", kind: incident.TypoASN, accused: []uint32{22717, 227171},
	prefix:  parsed("134.132.48.0/21", "134.132.48.0/22", "134.132.52.0/22"),
	because: "behind AS22717 stands AS227171, and the aggregator of the same routes is AS22717",
	shown: func(updates iter.Seq2[*ingest.Update, error]) bool {
		n := 0
		for u := range updates {
			if origin, _ := u.Attrs.ASPath.Origin(); origin == 227171 {
				if n++; u.Attrs.Aggregator.ASN != 22717 {
					return false
				}
			}
		}
		return n > 0
	},
}}

func parsed(ps ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range ps {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// truths makes labels of what is true of the updates of a quiet file. It fails when a file does not show what it was found to show.
func truths(file string, updates iter.Seq2[*ingest.Update, error]) ([]Label, error) {
	proven := provable{named: map[accusation]map[netip.Prefix]bool{}, own: map[uint32]map[netip.Prefix]bool{}}
	var first, last ingest.Time
	for u, err := range updates {
		if err != nil {
			return nil, err
		}
		if first == 0 {
			first = u.Time
		}
		last = max(last, u.Time)
		proven.note(u)
	}
	labels := proven.labels()
	for _, t := range checked {
		if t.file != file {
			continue
		}
		if !t.shown(updates) {
			return nil, fmt.Errorf("the routes do not show that %s", t.because)
		}
		l := Label{Kind: t.kind, Offenders: t.accused, Prefixes: t.prefix, Proof: t.because}
		if t.false {
			l.Benign, l.Proof = t.because, ""
		}
		labels = append(labels, l)
	}
	for i := range labels {
		labels[i].Start, labels[i].End = first, last
	}
	return labels, nil
}

// provable is what the updates of a file show.
type provable struct {
	named map[accusation]map[netip.Prefix]bool // what may be said of whom, and the prefixes of which it is true
	own   map[uint32]map[netip.Prefix]bool     // by origin
	count []counted
}

// counted is a route that ends in a small number.
type counted struct {
	by     uint32
	prefix netip.Prefix
}

func (p *provable) note(u *ingest.Update) {
	if len(u.Announced) == 0 {
		return
	}
	add := func(kind incident.Kind, offender uint32, prefix netip.Prefix) {
		k := accusation{kind, offender}
		if p.named[k] == nil {
			p.named[k] = map[netip.Prefix]bool{}
		}
		p.named[k][prefix] = true
	}
	var path []uint32
	for _, s := range u.Attrs.ASPath {
		path = append(path, s.ASNs...)
	}
	path = slices.Compact(path)
	origin, _ := u.Attrs.ASPath.Origin()
	var public uint32 // the nearest such AS on the collector's side of the one at hand, which let it through
	for _, a := range path {
		if !registry.ReservedASN(a) {
			public = a
			continue
		}
		kind := incident.BogonASN
		if registry.PrivateASN(a) {
			kind = incident.PrivateASNLeak
		}
		for _, n := range u.Announced {
			add(kind, public, n.Prefix)
		}
	}
	for _, n := range u.Announced {
		if _, bogon := registry.Bogon(n.Prefix); bogon {
			add(incident.BogonPrefix, public, n.Prefix)
		}
		if p.own[origin] == nil {
			p.own[origin] = map[netip.Prefix]bool{}
		}
		p.own[origin][n.Prefix] = true
		if len(path) > 1 && origin > 0 && origin <= 20 {
			p.count = append(p.count, counted{path[len(path)-2], n.Prefix})
		}
	}
}

func (p *provable) labels() []Label {
	for _, c := range p.count {
		if holds(p.own[c.by], c.prefix) {
			k := accusation{incident.Prepend, c.by}
			if p.named[k] == nil {
				p.named[k] = map[netip.Prefix]bool{}
			}
			p.named[k][c.prefix] = true
		}
	}
	var list []Label
	for k, prefixes := range p.named {
		l := Label{Kind: k.kind, Offenders: []uint32{k.offender}, Proof: "the routes of the file"}
		for x := range prefixes {
			l.Prefixes = append(l.Prefixes, x)
		}
		list = append(list, l)
	}
	return list
}

// holds reports that an AS that originates own also holds p: it has p's other half, a part of p, or a block around it (of a size
// that somebody holds).
func holds(own map[netip.Prefix]bool, p netip.Prefix) bool {
	for x := range own {
		if x.Bits() >= 8 && x.Overlaps(p) || x.Bits() == p.Bits() && p.Bits() > 0 && sameBut(x, p) {
			return true
		}
	}
	return false
}

// sameBut reports that two prefixes of equal length are the halves of one.
func sameBut(a, b netip.Prefix) bool {
	up, err := a.Addr().Prefix(a.Bits() - 1)
	return err == nil && a != b && up.Contains(b.Addr())
}
