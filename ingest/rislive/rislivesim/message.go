package rislivesim

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// message is one ris_message, with what filters look at.
type message struct {
	kind      string
	host      string
	peer      netip.Addr
	path      []uint32
	announced []bgp.NLRI
	withdrawn []bgp.NLRI

	plain, withRaw []byte
}

func (m *message) text(raw bool) []byte {
	if raw {
		return m.withRaw
	}
	return m.plain
}

// encoder turns updates into messages.
type encoder struct {
	wire    []byte
	decoder bgp.Decoder
	serial  uint64
}

// data is the data member of a ris_message.
type data struct {
	Timestamp     json.Number     `json:"timestamp"`
	Peer          string          `json:"peer"`
	PeerASN       string          `json:"peer_asn"`
	ID            string          `json:"id"`
	Host          string          `json:"host"`
	Type          string          `json:"type"`
	State         string          `json:"state,omitempty"`
	Path          []any           `json:"path,omitempty"`
	Community     [][2]uint16     `json:"community,omitempty"`
	Origin        string          `json:"origin,omitempty"`
	Announcements []announcements `json:"announcements,omitempty"`
	Withdrawals   []string        `json:"withdrawals,omitempty"`
	Raw           string          `json:"raw,omitempty"`
}

type announcements struct {
	NextHop  string   `json:"next_hop"`
	Prefixes []string `json:"prefixes"`
}

// encode gives the messages that report u: one for each UPDATE that it takes on the wire.
func (e *encoder) encode(u *ingest.Update) ([]*message, error) {
	d := data{
		Timestamp: json.Number(fmt.Sprintf("%d.%06d", u.Time/1e6, u.Time%1e6)), Peer: u.Peer.Addr.String(),
		PeerASN: strconv.FormatUint(uint64(u.Peer.ASN), 10), Host: hostOf(u.Peer.Collector), Type: "UPDATE",
	}
	switch u.Kind {
	case ingest.PeerUp, ingest.PeerDown:
		d.Type, d.State = "RIS_PEER_STATE", "connected"
		if u.Kind == ingest.PeerDown {
			d.State = "down"
		}
		m, err := e.finish(d, &message{kind: d.Type})
		return []*message{m}, err
	case ingest.Routes:
	default:
		return nil, fmt.Errorf("RIS Live has no message for %s", u.Kind)
	}
	var err error
	e.wire, err = bgp.AppendUpdate(e.wire[:0], &bgp.Update{Withdrawn: u.Withdrawn, Announced: u.Announced, Attrs: u.Attrs}, bgp.Options{})
	if err != nil {
		return nil, err
	}
	var list []*message
	for rest := e.wire; len(rest) > 0; {
		whole := rest
		var body []byte
		if _, body, rest, err = bgp.Split(rest); err != nil {
			return nil, err
		}
		part, err := e.decoder.Update(body, bgp.Options{})
		if err != nil {
			return nil, err
		}
		one := d
		one.Raw = strings.ToUpper(hex.EncodeToString(whole[:len(whole)-len(rest)]))
		m := &message{kind: d.Type, announced: slices.Clone(part.Announced), withdrawn: slices.Clone(part.Withdrawn)}
		for _, n := range part.Withdrawn {
			one.Withdrawals = append(one.Withdrawals, n.Prefix.String())
		}
		if len(part.Announced) > 0 {
			one.Origin = [...]string{"IGP", "EGP", "INCOMPLETE"}[part.Attrs.Origin]
			for _, s := range part.Attrs.ASPath {
				if s.Type == bgp.ASSet {
					one.Path = append(one.Path, slices.Clone(s.ASNs))
				} else {
					for _, asn := range s.ASNs {
						one.Path = append(one.Path, asn)
					}
				}
				m.path = append(m.path, s.ASNs...)
			}
			for _, c := range part.Attrs.Communities {
				one.Community = append(one.Community, [2]uint16{uint16(c >> 16), uint16(c)})
			}
			a := announcements{NextHop: part.Attrs.NextHop.String()}
			for _, n := range part.Announced {
				a.Prefixes = append(a.Prefixes, n.Prefix.String())
			}
			one.Announcements = []announcements{a}
		}
		if m, err = e.finish(one, m); err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

func (e *encoder) finish(d data, m *message) (*message, error) {
	e.serial++
	d.ID = fmt.Sprintf("%s-%016x", d.Peer, e.serial)
	m.host, m.peer = d.Host, netip.MustParseAddr(d.Peer)
	envelope := struct {
		Type string `json:"type"`
		Data data   `json:"data"`
	}{"ris_message", d}
	var err1, err2 error
	m.withRaw, err1 = json.Marshal(envelope)
	envelope.Data.Raw = ""
	m.plain, err2 = json.Marshal(envelope)
	return m, errors.Join(err1, err2)
}

// maxSubscriptions bounds what one client may ask for.
const maxSubscriptions = 10_000

// subscription is a filter as a client sends it. An absent member does not filter.
type subscription struct {
	Host         string          `json:"host"`
	Type         string          `json:"type"`
	Require      string          `json:"require"`
	Peer         string          `json:"peer"`
	Path         json.RawMessage `json:"path"`
	Prefix       json.RawMessage `json:"prefix"`
	MoreSpecific *bool           `json:"moreSpecific"`
	LessSpecific bool            `json:"lessSpecific"`
	Options      options         `json:"socketOptions"`

	key      string // the filter in a canonical form, options aside
	peer     netip.Addr
	prefixes []netip.Prefix
	path     pathPattern
}

type options struct {
	IncludeRaw  bool `json:"includeRaw"`
	Acknowledge bool `json:"acknowledge"`
}

func (s *subscription) parse(text []byte) error {
	if len(text) > 0 {
		if err := json.Unmarshal(text, s); err != nil {
			return err
		}
	}
	if s.Peer != "" {
		var err error
		if s.peer, err = netip.ParseAddr(s.Peer); err != nil {
			return err
		}
	}
	var list []string
	if len(s.Prefix) > 0 && s.Prefix[0] == '[' {
		if err := json.Unmarshal(s.Prefix, &list); err != nil {
			return err
		}
	} else if len(s.Prefix) > 0 && string(s.Prefix) != "null" {
		list = make([]string, 1)
		if err := json.Unmarshal(s.Prefix, &list[0]); err != nil {
			return err
		}
	}
	for _, p := range list {
		prefix, err := netip.ParsePrefix(p)
		if err != nil {
			return err
		}
		s.prefixes = append(s.prefixes, prefix.Masked())
	}
	if err := s.path.parse(strings.Trim(string(s.Path), `"`)); err != nil {
		return err
	}
	s.key = fmt.Sprint(s.Host, s.Type, s.Require, s.peer, s.path, s.prefixes, s.MoreSpecific == nil || *s.MoreSpecific, s.LessSpecific)
	return nil
}

func (s *subscription) matches(m *message) bool {
	if s.Host != "" && strings.TrimSuffix(s.Host, ".ripe.net") != strings.TrimSuffix(m.host, ".ripe.net") {
		return false
	}
	if s.Type != "" && s.Type != m.kind || s.Peer != "" && s.peer != m.peer {
		return false
	}
	if s.Require == "announcements" && len(m.announced) == 0 || s.Require == "withdrawals" && len(m.withdrawn) == 0 {
		return false
	}
	if len(s.path.asns) > 0 && s.path.matches(m.path) == s.path.not {
		return false
	}
	if len(s.prefixes) == 0 {
		return true
	}
	for _, n := range slices.Concat(m.announced, m.withdrawn) {
		for _, p := range s.prefixes {
			inside := p.Bits() <= n.Prefix.Bits() && p.Contains(n.Prefix.Addr())
			around := n.Prefix.Bits() <= p.Bits() && n.Prefix.Contains(p.Addr())
			if inside && around || inside && (s.MoreSpecific == nil || *s.MoreSpecific) || around && s.LessSpecific {
				return true
			}
		}
	}
	return false
}

// pathPattern is the service's notation for AS paths: ASNs in sequence with commas, ^ for the
// collector's end, $ for the origin's, and ! for the contrary.
type pathPattern struct {
	not, first, last bool
	asns             []uint32
}

func (p *pathPattern) parse(s string) error {
	if s == "" || s == "null" {
		return nil
	}
	s, p.not = strings.CutPrefix(s, "!")
	s, p.first = strings.CutPrefix(s, "^")
	s, p.last = strings.CutSuffix(s, "$")
	for a := range strings.SplitSeq(s, ",") {
		asn, err := bgp.ParseASN(a)
		if err != nil {
			return fmt.Errorf("path: %w", err)
		}
		p.asns = append(p.asns, asn)
	}
	return nil
}

func (p *pathPattern) matches(path []uint32) bool {
	n := len(p.asns)
	for i := 0; i+n <= len(path); i++ {
		if slices.Equal(path[i:i+n], p.asns) && (!p.first || i == 0) && (!p.last || i+n == len(path)) {
			return true
		}
	}
	return false
}
