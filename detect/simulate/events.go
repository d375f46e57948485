package simulate

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/detect/scorecard"
	"github.com/routevigil/routevigil/ingest"
)

// event is something that is about to happen, if enough peers would see it.
type event struct {
	label    *scorecard.Label
	concerns []node // ASes that nothing else may happen to meanwhile
	changes  []change
	shows    func(*route) bool // of a route of the changed prefixes: that it is part of the event; nil: any that is new
	roas     []attestation     // made long before
	provides [][2]node         // provider and customer that become so; the customer has it attested long before
	enters   [][2]node         // who is registered as a customer, after the one who says so; long before
	times    int               // it happens this often in a row; 0 is 1
	do       func(lasts time.Duration)
}

// change is what is said of a prefix while an event lasts.
type change struct {
	prefix netip.Prefix
	block  *block
	said   announcement
}

type attestation struct {
	block *block
	roa   roa
}

// enough is how many ASes must see an event.
const enough = 3

// kinds are all events there are, by the names that [Configuration] uses.
var kinds = map[string]func(*history) *event{
	"origin_hijack":             (*history).originHijack,
	"subprefix_hijack":          (*history).subprefixHijack,
	"forged_path":               (*history).forgedPath,
	"forged_path_subprefix":     (*history).forgedSubprefix,
	"route_leak_1":              func(h *history) *event { return h.leak(1) },
	"route_leak_2":              func(h *history) *event { return h.leak(2) },
	"route_leak_3":              func(h *history) *event { return h.leak(3) },
	"route_leak_4":              func(h *history) *event { return h.leak(4) },
	"reorigination_leak":        (*history).reorigination,
	"internal_specifics_leak":   (*history).internalSpecifics,
	"squatting":                 (*history).squatting,
	"misconfiguration_prepend":  (*history).prepend,
	"misconfiguration_typo_asn": (*history).typoASN,
	"private_asn_leak":          (*history).privateASN,
	"bogon_prefix":              (*history).bogonPrefix,
	"blackhole_leak":            (*history).blackhole,
	"visibility_loss":           (*history).outage,

	"new_specific":        (*history).newSpecific,
	"traffic_engineering": (*history).trafficEngineering,
	"takeover":            (*history).takeover,
	"new_allocation":      (*history).newAllocation,
	"multi_origin":        (*history).multiOrigin,
	"handover":            (*history).handover,
	"new_upstream":        (*history).newUpstream,
	"anycast":             (*history).anycast,
	"scrubbing":           (*history).scrubbing,
	"flap":                (*history).flap,
	"link_failure":        (*history).linkFailure,
	"session_reset":       (*history).sessionReset,
	"peer_fault":          (*history).peerFault,
}

// Kinds returns the names of all events, sorted.
func Kinds() []string { return slices.Sorted(maps.Keys(kinds)) }

// happen draws events of a kind until one would be seen by enough peers, and makes it happen; after many tries it gives up.
func (h *history) happen(kind string, lasts time.Duration) {
	for range 60 {
		e := kinds[kind](h)
		if e == nil || slices.ContainsFunc(e.concerns, h.isBusy) || e.do == nil && h.seenBy(e) < enough {
			continue
		}
		for _, a := range e.roas {
			a.block.roas = append(a.block.roas, a.roa)
		}
		for _, p := range e.provides {
			h.attestedToo[p[1]] = append(h.attestedToo[p[1]], p[0])
		}
		for _, p := range e.enters {
			h.registeredToo[p[0]] = append(h.registeredToo[p[0]], p[1])
		}
		rounds := max(e.times, 1)
		for _, n := range e.concerns {
			h.busy[n] = h.now.Add(time.Duration(2*rounds)*lasts + 15*time.Minute)
		}
		for _, c := range e.changes {
			e.label.Prefixes = append(e.label.Prefixes, c.prefix)
		}
		h.labels = append(h.labels, e.label)
		if h.cause = e.label; e.do != nil {
			e.do(lasts)
			return
		}
		h.perform(e, lasts/time.Duration(rounds), rounds)
		return
	}
}

func (h *history) perform(e *event, lasts time.Duration, rounds int) {
	if rounds == 0 {
		return
	}
	h.cause = e.label
	for _, c := range e.changes {
		i, known := h.byPrefix[c.prefix]
		if !known {
			i = h.add(c.prefix, c.block, nil)
		}
		h.destinations[i].under = e.label
		h.say(i, c.said)
	}
	over := lasts
	if e.times > 1 {
		over /= 2
	}
	h.after(over, func() {
		h.cause = e.label
		for _, c := range e.changes {
			i := h.byPrefix[c.prefix]
			h.say(i, h.destinations[i].usual)
			h.destinations[i].under = nil
		}
		h.after(lasts-over, func() { h.perform(e, lasts, rounds-1) })
	})
}

// seenBy counts the peers that would see e, and leaves out the changes that none does.
func (h *history) seenBy(e *event) int {
	by := map[int]bool{}
	e.changes = slices.DeleteFunc(e.changes, func(c change) bool {
		var before []*route
		if i, known := h.byPrefix[c.prefix]; known {
			before = h.destinations[i].heard
		}
		any := false
		for v, r := range h.hears(c.said) {
			var old *route
			if before != nil {
				old = before[v]
			}
			if !r.equal(old) && (e.shows == nil || r != nil && e.shows(r)) {
				any, by[v] = true, true
			}
		}
		return !any
	})
	return len(by)
}

func (h *history) isBusy(n node) bool { return h.busy[n] > h.now }

// holder draws an origin that nothing happens to, and one of its blocks that is announced.
func (h *history) holder() (node, *block) {
	for {
		n := h.origins[h.rng.IntN(len(h.origins))]
		if h.isBusy(n) {
			if !slices.ContainsFunc(h.origins, func(n node) bool { return !h.isBusy(n) }) {
				return -1, nil
			}
			continue
		}
		return n, h.blocksOf[n][h.rng.IntN(len(h.blocksOf[n]))]
	}
}

// stranger draws an AS that nothing happens to and that has to do with nobody like n.
func (h *history) stranger(n node) (node, bool) {
	a := node(h.rng.IntN(len(h.g.asns)))
	return a, !h.related(a, n) && !h.isBusy(a)
}

func (h *history) related(a, n node) bool {
	return a == n || h.g.relation(a, n) != 0 || slices.ContainsFunc(h.siblings, func(p [2]node) bool {
		return p == [2]node{a, n} || p == [2]node{n, a}
	})
}

func (h *history) asn(n node) []uint32 { return []uint32{h.g.asns[n]} }

func originIs(asn uint32) func(*route) bool {
	return func(r *route) bool { return r.path[len(r.path)-1] == asn }
}

// announced returns the destination of a prefix that is usually announced.
func (h *history) announced(p netip.Prefix) (*destination, bool) {
	i, ok := h.byPrefix[p]
	if !ok || h.destinations[i].usual == nil {
		return nil, false
	}
	return h.destinations[i], true
}

// specific draws a part of a block, of at most /24, that was never announced.
func (h *history) specific(b *block) (netip.Prefix, bool) {
	p := b.prefix
	for range 1 + h.rng.IntN(2) {
		if p.Bits() < 24 {
			p = half(p, h.rng.IntN(2))
		}
	}
	_, known := h.byPrefix[p]
	return p, !known
}

// attack draws a holder and a stranger, of whom path is what the stranger says. Who forges says in one of three cases that he
// has the route of a real provider of the holder.
func (h *history) attack(kind incident.Kind, ofPart, forges bool) *event {
	n, b := h.holder()
	if n < 0 {
		return nil
	}
	a, ok := h.stranger(n)
	if !ok {
		return nil
	}
	path := h.asn(a)
	if forges {
		if providers := h.g.providers[n]; len(providers) > 0 && h.rng.IntN(3) == 0 {
			p := providers[h.rng.IntN(len(providers))]
			if h.related(a, p) {
				return nil
			}
			path = append(path, h.g.asns[p])
		}
		path = append(path, h.g.asns[n])
	}
	e := &event{label: &scorecard.Label{Kind: kind, Offenders: h.asn(a), Victims: h.asn(n)}, concerns: []node{n, a}}
	e.shows = originIs(h.g.asns[a])
	if forges {
		e.enters = h.enters(a, n, victimEntered, drawsVictimEntered)
		e.shows = func(r *route) bool { return crosses(r.path, path[0], path[1]) }
	}
	says := func(p netip.Prefix, b *block) source {
		return source{at: a, path: path, invalid: b.invalid(p, path[len(path)-1])}
	}
	if ofPart {
		p, ok := h.specific(b)
		if !ok {
			return nil
		}
		e.changes = []change{{p, b, announcement{says(p, b)}}}
		return e
	}
	blocks := h.blocksOf[n]
	first, many := h.rng.IntN(len(blocks)), 1+h.rng.IntN(4)
	for _, b := range blocks[first:min(first+many, len(blocks))] {
		if d, ok := h.announced(b.prefix); ok {
			e.changes = append(e.changes, change{b.prefix, b, append(slices.Clone(d.usual), says(b.prefix, b))})
		}
	}
	return e
}

func (h *history) originHijack() *event {
	return h.attack(incident.OriginHijack, false, false)
}

func (h *history) subprefixHijack() *event {
	return h.attack(incident.SubprefixHijack, true, false)
}

func (h *history) forgedPath() *event {
	return h.attack(incident.ForgedPath, false, true)
}

func (h *history) forgedSubprefix() *event {
	return h.attack(incident.ForgedPathSubprefix, true, true)
}

// leak draws a leak by the types of RFC 7908 §3.1 to §3.4: an AS passes on to its providers or peers what it has of others
// of them. It does so with the routes to some of all the origins.
func (h *history) leak(kind int) *event {
	l := node(h.rng.IntN(len(h.g.asns)))
	from, to := fromProvider, h.g.providers[l]
	if kind == 2 || kind == 4 {
		from = fromPeer
	}
	if kind == 2 || kind == 3 {
		to = h.g.peers[l]
	}
	if len(to) == 0 || from == fromProvider && len(h.g.providers[l]) == 0 || from == fromPeer && len(h.g.peers[l]) == 0 ||
		h.spread.otc[l] || h.isBusy(l) {
		return nil
	}
	if h.rng.IntN(2) == 0 {
		to = []node{to[h.rng.IntN(len(to))]}
	}
	e := &event{label: &scorecard.Label{Kind: incident.RouteLeak, RFC7908Type: kind, Offenders: h.asn(l)}, concerns: []node{l}}
	e.shows = func(r *route) bool {
		i := slices.Index(r.path, h.g.asns[l])
		if i < 1 || i+1 == len(r.path) || h.g.relation(h.g.index[r.path[i-1]], l) == 0 {
			return false
		}
		// The neighbour on the collector's side has from l what is neither l's own nor a customer's.
		return slices.Contains(to, h.g.index[r.path[i-1]]) && !slices.Contains(h.g.customers[l], h.g.index[r.path[i+1]])
	}
	said := map[*source]announcement{} // what is said during the leak, by what is usually said
	for i, o := range h.rng.Perm(len(h.origins))[:min(60, len(h.origins))] {
		n := h.origins[o]
		if i == 12 && h.seenBy(e) < enough {
			return nil
		}
		if n == l || h.isBusy(n) {
			continue
		}
		for _, b := range h.blocksOf[n] {
			d, ok := h.announced(b.prefix)
			if !ok {
				continue
			}
			leaked, known := said[&d.usual[0]]
			if !known {
				leaked = h.leaked(l, from, to, d.usual)
				said[&d.usual[0]] = leaked
			}
			if leaked != nil {
				e.changes = append(e.changes, change{b.prefix, b, leaked})
			}
		}
	}
	if h.seenBy(e) < enough {
		return nil
	}
	for _, c := range e.changes {
		if asn := h.g.asns[c.block.holder]; !slices.Contains(e.label.Victims, asn) {
			e.label.Victims, e.concerns = append(e.label.Victims, asn), append(e.concerns, c.block.holder)
		}
	}
	return e
}

// leaked returns what is said of a destination when l leaks it; nil where l has no such route.
func (h *history) leaked(l node, from class, to []node, usual announcement) announcement {
	s := h.spread
	s.spread(usual)
	if s.class[l] != from {
		return nil
	}
	via := s.via[l]
	to = slices.DeleteFunc(slices.Clone(to), func(n node) bool { return n == via })
	if len(to) == 0 {
		return nil
	}
	return append(slices.Clone(usual), source{at: l, to: to, path: s.path(nil, l), otc: s.otcOf(l), invalid: usual[s.source[l]].invalid})
}

// reorigination is a leak of RFC 7908 §3.5: an AS announces as its own what it has from others.
func (h *history) reorigination() *event {
	e := h.ofMany()
	if e == nil {
		return nil
	}
	l := e.concerns[0]
	e.label = &scorecard.Label{Kind: incident.ReoriginationLeak, RFC7908Type: 5, Offenders: h.asn(l)}
	for _, n := range e.concerns[1:] {
		e.label.Victims = append(e.label.Victims, h.g.asns[n])
	}
	for i, c := range e.changes {
		d, _ := h.announced(c.prefix)
		e.changes[i].said = append(slices.Clone(d.usual), source{at: l, path: h.asn(l), invalid: c.block.invalid(c.prefix, h.g.asns[l])})
	}
	e.shows = originIs(h.g.asns[l])
	if h.seenBy(e) < enough || len(e.changes) < many {
		return nil
	}
	return e
}

// many is how many prefixes at least are concerned where one AS announces those of many others.
const many = 16

// ofMany draws an AS, the first concerned, and strangers to it with prefixes of theirs: twice as many as must be seen.
func (h *history) ofMany() *event {
	a := node(h.rng.IntN(len(h.g.asns)))
	e := &event{concerns: []node{a}}
	for range 200 {
		n, b := h.holder()
		if n < 0 || len(e.changes) == 2*many {
			break
		}
		if _, ok := h.announced(b.prefix); ok && !h.related(a, n) && !slices.Contains(e.concerns, n) {
			e.concerns = append(e.concerns, n)
			e.changes = append(e.changes, change{prefix: b.prefix, block: b})
		}
	}
	if len(e.changes) < many {
		return nil
	}
	return e
}

// internalSpecifics is a leak of RFC 7908 §3.6: a holder lets out the many parts of its block that are for its own network.
// No ROA speaks of the block.
func (h *history) internalSpecifics() *event {
	e := h.parts(120)
	if e != nil {
		e.label = &scorecard.Label{Kind: incident.InternalSpecifics, RFC7908Type: 6, Offenders: h.asn(e.concerns[0])}
	}
	return e
}

// parts draws a holder that announces so many parts, of /24, of a block that no ROA speaks of.
func (h *history) parts(n int) *event {
	var large []*block
	for _, b := range h.blocks {
		if _, ok := h.announced(b.prefix); ok && len(b.roas) == 0 && 1<<max(0, 24-b.prefix.Bits()) >= n {
			large = append(large, b)
		}
	}
	if len(large) == 0 {
		return nil
	}
	b := large[h.rng.IntN(len(large))]
	holder := b.holder
	e := &event{concerns: []node{holder}}
	first := h.rng.IntN(1<<(24-b.prefix.Bits()) - n + 1)
	a := b.prefix.Addr().As4()
	block := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8
	said := announcement{{at: holder, path: h.asn(holder)}}
	for i := range n {
		p := netip.PrefixFrom(address(block+uint32(first+i)<<8), 24)
		if _, known := h.byPrefix[p]; !known {
			e.changes = append(e.changes, change{p, b, said})
		}
	}
	if len(e.changes) < n-2 {
		return nil
	}
	return e
}

// squatting is an AS that announces space that no registry has given to anybody.
func (h *history) squatting() *event {
	e := h.ofNoBlock(freeSpace)
	if e != nil {
		e.label = &scorecard.Label{Kind: incident.Squatting, Offenders: h.asn(e.concerns[0])}
	}
	return e
}

// ofNoBlock draws a holder that announces a part of some space that nobody announced before.
func (h *history) ofNoBlock(space byte) *event {
	n, _ := h.holder()
	p := netip.PrefixFrom(netip.AddrFrom4([4]byte{space, byte(h.rng.UintN(256)), byte(h.rng.UintN(64)) << 2}), 22)
	if _, known := h.byPrefix[p]; n < 0 || known {
		return nil
	}
	return &event{concerns: []node{n}, changes: []change{{p, nil, announcement{{at: n, path: h.asn(n)}}}}}
}

// mistake draws a holder that announces one of its prefixes with a path that ends wrongly.
func (h *history) mistake(kind incident.Kind, end uint32) *event {
	n, b := h.holder()
	if n < 0 {
		return nil
	}
	if _, ok := h.announced(b.prefix); !ok {
		return nil
	}
	return &event{label: &scorecard.Label{Kind: kind, Offenders: h.asn(n)}, concerns: []node{n}, shows: originIs(end),
		changes: []change{{b.prefix, b, announcement{{at: n, path: append(h.asn(n), end), invalid: b.invalid(b.prefix, end)}}}}}
}

// prepend is a holder that gives a count where its router wants AS numbers.
func (h *history) prepend() *event {
	end := 1 + h.rng.Uint32N(8)
	e := h.mistake(incident.Prepend, end)
	if e != nil {
		e.label.Victims = []uint32{end}
	}
	return e
}

// typoASN is a holder that prepends its number to a route and mistypes the last one.
func (h *history) typoASN() *event {
	n, _ := h.holder()
	if n < 0 {
		return nil
	}
	digits := strconv.AppendUint(nil, uint64(h.g.asns[n]), 10)
	i := 1 + h.rng.IntN(len(digits)-1)
	digits[i] = '0' + (digits[i]-'0'+1+byte(h.rng.IntN(9)))%10
	typed, _ := strconv.ParseUint(string(digits), 10, 32)
	if _, taken := h.g.index[uint32(typed)]; taken || registry.ReservedASN(uint32(typed)) {
		return nil
	}
	b := h.blocksOf[n][h.rng.IntN(len(h.blocksOf[n]))]
	if _, ok := h.announced(b.prefix); !ok {
		return nil
	}
	end := uint32(typed)
	return &event{label: &scorecard.Label{Kind: incident.TypoASN, Offenders: []uint32{end}, Victims: h.asn(n)}, concerns: []node{n}, shows: originIs(end),
		changes: []change{{b.prefix, b, announcement{{at: n, path: append(h.asn(n), end), invalid: b.invalid(b.prefix, end)}}}}}
}

// privateASN is a holder that leaves a customer's private AS number (RFC 6996) in the path.
func (h *history) privateASN() *event {
	return h.mistake(incident.PrivateASNLeak, 64512+h.rng.Uint32N(1000))
}

// bogonPrefix is an AS that announces space for private use, carriers' own use or benchmarks (RFC 6890).
func (h *history) bogonPrefix() *event {
	n, _ := h.holder()
	if n < 0 {
		return nil
	}
	x, y := byte(h.rng.UintN(256)), byte(h.rng.UintN(256))
	a := [][4]byte{{10, x, y}, {192, 168, y}, {100, 64 + x%64, y}, {198, 18 + x%2, y}, {172, 16 + x%16, y}}[h.rng.IntN(5)]
	p := netip.PrefixFrom(netip.AddrFrom4(a), 24)
	if _, known := h.byPrefix[p]; known {
		return nil
	}
	return &event{label: &scorecard.Label{Kind: incident.BogonPrefix, Offenders: h.asn(n)}, concerns: []node{n},
		changes: []change{{p, nil, announcement{{at: n, path: h.asn(n)}}}}}
}

// blackhole is a provider that passes on the address that its customer asked it to drop (RFC 7999 §3.2 forbids it).
func (h *history) blackhole() *event {
	n, b := h.holder()
	if n < 0 || len(h.g.providers[n]) == 0 {
		return nil
	}
	providers := h.g.providers[n]
	l := providers[h.rng.IntN(len(providers))]
	a := b.prefix.Addr().As4()
	a[3] = 1 + byte(h.rng.UintN(254))
	p := netip.PrefixFrom(netip.AddrFrom4(a), 32)
	if _, known := h.byPrefix[p]; known || h.isBusy(l) {
		return nil
	}
	return &event{label: &scorecard.Label{Kind: incident.BlackholeLeak, Offenders: h.asn(l), Victims: h.asn(n)}, concerns: []node{n, l},
		changes: []change{{p, b, announcement{{at: l, path: append(h.asn(l), h.g.asns[n]), long: true, invalid: b.invalid(p, h.g.asns[n])}}}}}
}

// outage is a network that is cut off, with all that it announces.
func (h *history) outage() *event {
	n, _ := h.holder()
	if n < 0 {
		return nil
	}
	e := &event{label: &scorecard.Label{Kind: incident.VisibilityLoss, Victims: h.asn(n)}, concerns: []node{n}}
	for i, d := range h.destinations {
		if d.block != nil && d.block.holder == n && d.usual != nil {
			e.changes = append(e.changes, change{h.destinations[i].prefix, d.block, nil})
		}
	}
	return e
}

// begin is when, and how long, events happen: at random in the first five sevenths of the time, for a twentieth of it on
// the average but at most 40 minutes, so that all are over before the end.
func (h *history) begin(start ingest.Time, counts map[string]int) {
	for _, kind := range Kinds() {
		for range counts[kind] {
			at := start.Add(time.Duration((0.03 + 0.68*h.rng.Float64()) * float64(h.c.Duration)))
			lasts := time.Duration((0.03 + 0.04*h.rng.Float64()) * float64(h.c.Duration))
			lasts = min(lasts, time.Duration((15+25*h.rng.Float64())*float64(time.Minute)))
			h.at(at, func() { h.happen(kind, lasts) })
		}
	}
}
