package scenario

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Bounds, so that a hostile or mistaken file fails instead of filling memory.
const (
	maxLine   = 1 << 20
	maxErrors = 100
	maxLinks  = 1 << 20
	maxRoutes = 1 << 20 // announced and withdrawn prefixes, over all peers
	maxHolder = 64
	maxOffset = 366 * 24 * time.Hour
)

// Parse reads a scenario. name stands before the line number in errors, each of which is an
// [*Error]; all that are found are reported at once, joined.
func Parse(r io.Reader, name string) (*Scenario, error) {
	p := &parser{
		s: &Scenario{Name: name}, names: map[string]bool{}, byName: map[string][]Vantage{},
		ways: map[string][][]uint32{}, spread: map[uint32]map[uint32]route{}, room: maxRoutes,
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for lines.Scan() && len(p.errs) < maxErrors {
		p.line++
		if f := fields(lines.Text()); len(f) > 0 {
			if err := p.statement(f); err != nil {
				p.fail(p.line, "%v", err)
			}
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", name, p.line+1, err)
	}
	if len(p.errs) == 0 {
		p.resolve()
	}
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	return p.s, nil
}

type parser struct {
	s     *Scenario
	line  int
	names map[string]bool // of peers and groups
	errs  []error

	byName map[string][]Vantage        // what each name stands for
	ways   map[string][][]uint32       // by peer: the paths of its rib lines
	spread map[uint32]map[uint32]route // by origin
	room   int                         // routes that may still be made
	links  int
}

func (p *parser) fail(line int, format string, args ...any) {
	p.errs = append(p.errs, &Error{Name: p.s.Name, Line: line, Msg: fmt.Sprintf(format, args...)})
}

// fields splits a line into words, without its comment.
func fields(line string) []string {
	f := strings.Fields(line)
	if i := slices.IndexFunc(f, func(w string) bool { return w[0] == '#' }); i >= 0 {
		f = f[:i]
	}
	return f
}

const usage = "a statement is one of title, start, world, rel, vrp, org, delegated, peer, group, origin, rib, expect, or +OFFSET PEERS announce|withdraw|down|up"

func (p *parser) statement(f []string) error {
	args := f[1:]
	if strings.HasPrefix(f[0], "+") {
		return p.event(f)
	}
	switch f[0] {
	case "title":
		if p.s.Title != "" {
			return errors.New("title: given twice")
		}
		if len(args) == 0 {
			return errors.New("title: say what happens")
		}
		p.s.Title = strings.Join(args, " ")
		return nil
	case "start":
		return p.start(args)
	case "world":
		if len(args) > 0 || p.s.useWorld {
			return errors.New("world: stands alone and once")
		}
		p.s.useWorld = true
		return nil
	case "rel":
		return p.rel(args)
	case "vrp":
		return p.vrp(args)
	case "org":
		asns, err := parseList(args, bgp.ParseASN)
		if err != nil {
			return fmt.Errorf("org: %w", err)
		}
		if len(asns) < 2 {
			return errors.New("org: name at least two ASNs")
		}
		p.s.orgs = append(p.s.orgs, asns)
		return nil
	case "delegated":
		return p.delegated(args)
	case "peer":
		return p.peer(args)
	case "group":
		if len(args) < 2 {
			return errors.New("group: want NAME PEER…")
		}
		if err := p.name(args[0]); err != nil {
			return fmt.Errorf("group: %w", err)
		}
		p.s.groups = append(p.s.groups, group{p.line, args[0], args[1:]})
		return nil
	case "origin":
		signed := len(args) > 0 && args[len(args)-1] == "signed"
		if signed {
			args = args[:len(args)-1]
		}
		if len(args) < 2 {
			return errors.New("origin: want ASN PREFIX…; \"signed\" may follow")
		}
		asn, err := bgp.ParseASN(args[0])
		if err != nil {
			return fmt.Errorf("origin: %w", err)
		}
		prefixes, err := parseList(args[1:], parsePrefix)
		if err != nil {
			return fmt.Errorf("origin: %w", err)
		}
		p.s.origins = append(p.s.origins, origin{p.line, asn, prefixes, signed})
		return nil
	case "rib":
		return p.rib(args)
	case "expect":
		return p.expect(args)
	}
	return fmt.Errorf("%q: %s", f[0], usage)
}

func (p *parser) start(args []string) error {
	if !p.s.Start.IsZero() {
		return errors.New("start: given twice")
	}
	if len(args) != 1 {
		return errors.New("start: want one time like 2008-02-24T18:47:00Z")
	}
	t, err := time.Parse(time.RFC3339, args[0])
	if err != nil || t.Year() < 1970 || t.Year() > 2200 {
		return fmt.Errorf("start: %q is not a time like 2008-02-24T18:47:00Z", args[0])
	}
	p.s.Start = t.UTC().Truncate(time.Microsecond)
	return nil
}

func (p *parser) rel(args []string) error {
	spare := len(args) == 4 && args[3] == "spare"
	mesh := len(args) == 2 && args[1] == "mesh"
	if len(args) != 3 && !spare && !mesh {
		return errors.New("rel: want PROVIDERS CUSTOMERS -1, PEERS PEERS 0 or PEERS mesh; \"spare\" may follow the first two")
	}
	left, err := parseList(strings.Split(args[0], ","), bgp.ParseASN)
	if err != nil {
		return fmt.Errorf("rel: %w", err)
	}
	right := left
	if !mesh {
		if right, err = parseList(strings.Split(args[1], ","), bgp.ParseASN); err != nil {
			return fmt.Errorf("rel: %w", err)
		}
		if args[2] != "-1" && args[2] != "0" {
			return fmt.Errorf("rel: %q is neither -1 (provider customer) nor 0 (peers)", args[2])
		}
	}
	if p.links += len(left) * len(right); p.links > maxLinks {
		return fmt.Errorf("rel: more than %d relationships in all", maxLinks)
	}
	for i, a := range left {
		if mesh {
			right = left[i+1:]
		}
		for _, b := range right {
			if a == b {
				return fmt.Errorf("rel: AS%d cannot be its own neighbour", a)
			}
			r := Relationship{A: a, B: b, Peer: mesh || args[2] == "0"}
			if spare {
				p.s.spares = append(p.s.spares, r)
			} else {
				p.s.rels = append(p.s.rels, r)
			}
		}
	}
	return nil
}

func (p *parser) vrp(args []string) error {
	if len(args) != 2 && (len(args) != 4 || args[1] != "max") {
		return errors.New("vrp: want PREFIX [max LENGTH] ASN")
	}
	prefix, err := parsePrefix(args[0])
	if err != nil {
		return fmt.Errorf("vrp: %w", err)
	}
	asn, err := bgp.ParseASN(args[len(args)-1])
	if err != nil {
		return fmt.Errorf("vrp: %w", err)
	}
	v := VRP{Prefix: prefix, MaxLength: prefix.Bits(), ASN: asn}
	if len(args) == 4 {
		v.MaxLength, err = strconv.Atoi(args[2])
		if err != nil || v.MaxLength < prefix.Bits() || v.MaxLength > prefix.Addr().BitLen() {
			return fmt.Errorf("vrp: max %q is not between %d and %d", args[2], prefix.Bits(), prefix.Addr().BitLen())
		}
	}
	p.s.vrps = append(p.s.vrps, v)
	return nil
}

var rirs = []string{"afrinic", "apnic", "arin", "lacnic", "ripencc"}

func (p *parser) delegated(args []string) error {
	if len(args) < 3 {
		return errors.New("delegated: want RIR DATE HOLDER PREFIX|ASN… or RIR available|reserved PREFIX|ASN…")
	}
	d := Delegation{Registry: args[0], Status: args[1]}
	if !slices.Contains(rirs, d.Registry) {
		return fmt.Errorf("delegated: %q is none of %s", d.Registry, strings.Join(rirs, ", "))
	}
	numbers := args[2:]
	if d.Status != "available" && d.Status != "reserved" {
		var err error
		if d.Since, err = time.Parse(time.DateOnly, args[1]); err != nil || d.Since.Year() < 1970 || d.Since.Year() > 2200 {
			return fmt.Errorf("delegated: %q is neither a day like 2012-05-20 nor available or reserved", args[1])
		}
		d.Status, d.Holder, numbers = "assigned", args[2], args[3:]
		if err := checkName(d.Holder); err != nil {
			return fmt.Errorf("delegated: the holder: %w", err)
		}
		if len(d.Holder) > maxHolder {
			return fmt.Errorf("delegated: the holder: longer than %d bytes", maxHolder)
		}
		if len(numbers) == 0 {
			return errors.New("delegated: name a prefix or an ASN")
		}
	}
	for _, n := range numbers {
		if asn, err := bgp.ParseASN(n); err == nil {
			d.ASNs = append(d.ASNs, asn)
			continue
		}
		prefix, err := parsePrefix(n)
		if err != nil {
			return fmt.Errorf("delegated: %q is neither a prefix nor an ASN", n)
		}
		if prefix.Addr().Is6() && prefix.Bits() > 64 {
			return fmt.Errorf("delegated: %s is longer than a registry delegates: a /64 at the most", prefix)
		}
		d.Prefixes = append(d.Prefixes, prefix)
	}
	p.s.holdings = append(p.s.holdings, d)
	return nil
}

func (p *parser) peer(args []string) error {
	partial := len(args) == 5 && args[4] == "partial"
	if len(args) != 4 && !partial {
		return errors.New("peer: want NAME COLLECTOR ASN ADDRESS; \"partial\" may follow")
	}
	if err := p.name(args[0]); err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	if err := checkName(args[1]); err != nil {
		return fmt.Errorf("peer: collector %w", err)
	}
	asn, err := bgp.ParseASN(args[2])
	if err != nil {
		return fmt.Errorf("peer: %w", err)
	}
	addr, err := netip.ParseAddr(args[3])
	if err != nil || addr.Zone() != "" {
		return fmt.Errorf("peer: %q is not an address", args[3])
	}
	p.s.peers = append(p.s.peers, Vantage{args[0], ingest.Peer{Collector: args[1], Addr: addr.Unmap(), ASN: asn}, partial, p.line})
	return nil
}

// name claims a name for a peer or group.
func (p *parser) name(n string) error {
	if err := checkName(n); err != nil {
		return err
	}
	if p.names[n] {
		return fmt.Errorf("%q is already a peer or a group", n)
	}
	p.names[n] = true
	return nil
}

func checkName(n string) error {
	if n == "all" || n == "end" {
		return fmt.Errorf("%q has a meaning of its own here: choose another name", n)
	}
	for _, c := range n {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("._/-", c) {
			return fmt.Errorf("%q: a name has letters, digits and . _ / - only", n)
		}
	}
	return nil
}

func (p *parser) rib(args []string) error {
	if len(args) < 3 {
		return errors.New("rib: want PREFIX PEERS PATH")
	}
	e := event{line: p.line, peers: strings.Split(args[1], ",")}
	var err error
	if e.prefixes, err = parseList(strings.Split(args[0], ","), parsePrefix); err != nil {
		return fmt.Errorf("rib: %w", err)
	}
	if err := e.pathAndAttributes(args[2:]); err != nil {
		return fmt.Errorf("rib: %w", err)
	}
	p.s.ribs = append(p.s.ribs, e)
	return nil
}

func (p *parser) event(f []string) error {
	at, err := parseOffset(f[0])
	if err != nil {
		return err
	}
	if len(f) == 2 && f[1] == "end" {
		if p.s.end != 0 {
			return errors.New("end: given twice")
		}
		if at == 0 {
			return errors.New("end: must be after the start")
		}
		p.s.end = at
		return nil
	}
	if len(f) < 3 {
		return errors.New("want +OFFSET PEERS announce|withdraw|down|up, or +OFFSET end")
	}
	e := event{line: p.line, at: at, peers: strings.Split(f[1], ",")}
	v := slices.Index(verbs[:], f[2])
	if v < 0 {
		return fmt.Errorf("%q is not announce, withdraw, down or up", f[2])
	}
	e.verb = verb(v)
	args := f[3:]
	if e.verb == down || e.verb == up {
		if len(args) > 0 {
			return fmt.Errorf("%s: nothing may follow, but %q does", f[2], args[0])
		}
	} else {
		if len(args) == 0 {
			return fmt.Errorf("%s: name a prefix", f[2])
		}
		if e.prefixes, err = parseList(strings.Split(args[0], ","), parsePrefix); err != nil {
			return fmt.Errorf("%s: %w", f[2], err)
		}
		args = args[1:]
		if e.verb == announce {
			if err := e.pathAndAttributes(args); err != nil {
				return fmt.Errorf("announce: %w", err)
			}
		} else if len(args) > 0 {
			return fmt.Errorf("withdraw: only prefixes may follow, but %q does", args[0])
		}
	}
	p.s.events = append(p.s.events, e)
	return nil
}

// pathAndAttributes reads "[via ASN] PATH [community A:B,…] [otc ASN] [nexthop ADDRESS]".
func (e *event) pathAndAttributes(args []string) error {
	if len(args) > 0 && args[0] == "via" {
		if len(args) < 2 {
			return errors.New("via: name an AS")
		}
		asn, err := bgp.ParseASN(args[1])
		if err != nil {
			return fmt.Errorf("via: %w", err)
		}
		if asn == 0 {
			return errors.New("via: nobody is AS0")
		}
		e.via, args = asn, args[2:]
	}
	n := 0
	for n < len(args) && args[n] != "community" && args[n] != "otc" && args[n] != "nexthop" {
		n++
	}
	var err error
	if e.path, err = bgp.ParseASPath(strings.Join(args[:n], " ")); err != nil {
		return err
	}
	if n == 0 && e.via == 0 {
		return errors.New("give an AS path")
	}
	seen := map[string]bool{}
	for args = args[n:]; len(args) > 0; args = args[2:] {
		if len(args) < 2 {
			return fmt.Errorf("%s: a value must follow", args[0])
		}
		if seen[args[0]] {
			return fmt.Errorf("%s: given twice", args[0])
		}
		seen[args[0]] = true
		switch args[0] {
		case "community":
			if e.communities, err = parseList(strings.Split(args[1], ","), parseCommunity); err != nil {
				return err
			}
		case "otc":
			if e.otc, err = bgp.ParseASN(args[1]); err != nil {
				return err
			}
			e.hasOTC = true
		case "nexthop":
			if e.nextHop, err = netip.ParseAddr(args[1]); err != nil || e.nextHop.Zone() != "" {
				return fmt.Errorf("nexthop: %q is not an address", args[1])
			}
		default:
			return fmt.Errorf("%q is not community, otc or nexthop", args[0])
		}
	}
	return nil
}

var expectFields = []string{"offender", "accomplice", "victim", "prefix", "by", "ended", "open", "rpki", "severity", "rfc7908"}

func (p *parser) expect(args []string) error {
	e := Expect{Line: p.line}
	n := 0
	for n < len(args) && !slices.Contains(expectFields, args[n]) {
		if strings.Trim(args[n], "abcdefghijklmnopqrstuvwxyz_0123456789") != "" {
			return fmt.Errorf("expect: %q is neither a kind of incident nor one of %s", args[n], strings.Join(expectFields, ", "))
		}
		n++
	}
	e.Kinds, args = args[:n], args[n:]
	if n > 0 && e.Kinds[0] == "none" {
		e.None, e.Kinds = true, e.Kinds[1:]
	} else if n != 1 {
		return errors.New("expect: want one kind of incident, or none with any number of kinds")
	}
	if slices.Contains(e.Kinds, "none") {
		return errors.New("expect: none comes first")
	}
	seen := map[string]bool{}
	for len(args) > 0 {
		key := args[0]
		args = args[1:]
		if seen[key] {
			return fmt.Errorf("expect: %s: given twice", key)
		}
		seen[key] = true
		if key == "ended" || key == "open" {
			if e.Status != "" {
				return errors.New("expect: open and ended exclude each other")
			}
			e.Status = key
			continue
		}
		if len(args) == 0 {
			return fmt.Errorf("expect: %s: a value must follow", key)
		}
		if err := e.set(key, args[0]); err != nil {
			return fmt.Errorf("expect: %s: %w", key, err)
		}
		args = args[1:]
	}
	if e.None && (e.By != 0 || e.Status != "") {
		return errors.New("expect: none holds all the time: by, open and ended do not go with it")
	}
	e.Text = e.text()
	p.s.Expect = append(p.s.Expect, e)
	return nil
}

var severities = []string{"info", "low", "medium", "high", "critical"}

func (e *Expect) set(key, value string) (err error) {
	list := strings.Split(value, ",")
	switch key {
	case "offender":
		e.Offenders, err = parseList(list, bgp.ParseASN)
	case "accomplice":
		e.Accomplices, err = parseList(list, bgp.ParseASN)
	case "victim":
		e.Victims, err = parseList(list, bgp.ParseASN)
	case "prefix":
		e.Prefixes, err = parseList(list, parsePrefix)
	case "by":
		if e.By, err = parseOffset(value); err == nil && e.By == 0 {
			err = errors.New("must be after the start")
		}
	case "rpki":
		if e.RPKI = value; value != "valid" && value != "invalid" && value != "not_found" {
			err = fmt.Errorf("%q is not valid, invalid or not_found", value)
		}
	case "severity":
		low, high, ranged := strings.Cut(value, "..")
		if !ranged {
			high = low
		}
		e.SeverityMin, e.SeverityMax = low, high
		i, j := slices.Index(severities, low), slices.Index(severities, high)
		if i < 0 || j < i {
			err = fmt.Errorf("%q is not one of %s, nor a range of them like low..high", value, strings.Join(severities, ", "))
		}
	case "rfc7908":
		if e.RFC7908Type, err = strconv.Atoi(value); err != nil || e.RFC7908Type < 1 || e.RFC7908Type > 6 {
			err = fmt.Errorf("%q is not a leak type, 1 to 6", value)
		}
	default:
		err = fmt.Errorf("is not one of %s", strings.Join(expectFields, ", "))
	}
	return err
}

func parseList[T any](words []string, parse func(string) (T, error)) ([]T, error) {
	list := make([]T, 0, len(words))
	for _, w := range words {
		v, err := parse(w)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not a prefix like 192.0.2.0/24", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has bits beyond its length: write %s", p, p.Masked())
	}
	return p, nil
}

func parseCommunity(s string) (uint32, error) {
	high, low, _ := strings.Cut(s, ":")
	h, err1 := strconv.ParseUint(high, 10, 16)
	l, err2 := strconv.ParseUint(low, 10, 16)
	if err1 != nil || err2 != nil {
		return 0, fmt.Errorf("%q is not a community like 65535:666", s)
	}
	return uint32(h)<<16 | uint32(l), nil
}

func parseOffset(s string) (time.Duration, error) {
	d, err := time.ParseDuration(strings.TrimPrefix(s, "+"))
	if err != nil || !strings.HasPrefix(s, "+") || d < 0 || d > maxOffset || d%time.Microsecond != 0 {
		return 0, fmt.Errorf("%q is not an offset like +90s or +1m30s", s)
	}
	return d, nil
}
