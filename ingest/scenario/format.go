package scenario

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// String writes the scenario in its canonical form, which parses to an equal one: statements in a
// fixed order, without comments, and without what the world statement stands for.
func (s *Scenario) String() string {
	var b strings.Builder
	line := func(words ...string) {
		b.WriteString(strings.Join(words, " "))
		b.WriteByte('\n')
	}
	if s.Title != "" {
		line("title", s.Title)
	}
	line("start", s.Start.Format(time.RFC3339Nano))
	if s.useWorld {
		line("world")
	}
	for _, r := range s.rels {
		line("rel", r.String())
	}
	for _, r := range s.spares {
		line("rel", r.String(), "spare")
	}
	for _, v := range s.vrps {
		line("vrp", v.String())
	}
	for _, o := range s.orgs {
		line("org", join(o, formatASN, " "))
	}
	for _, d := range s.holdings {
		w := []string{"delegated", d.Registry}
		if d.Holder != "" {
			w = append(w, d.Since.Format(time.DateOnly), d.Holder)
		} else {
			w = append(w, d.Status)
		}
		if len(d.Prefixes) > 0 {
			w = append(w, join(d.Prefixes, netip.Prefix.String, " "))
		}
		if len(d.ASNs) > 0 {
			w = append(w, join(d.ASNs, formatASN, " "))
		}
		line(w...)
	}
	for _, v := range s.peers {
		w := []string{"peer", v.Name, v.Collector, formatASN(v.ASN), v.Addr.String()}
		if v.Partial {
			w = append(w, "partial")
		}
		line(w...)
	}
	for _, g := range s.groups {
		line("group", g.name, strings.Join(g.members, " "))
	}
	for _, o := range s.origins {
		w := []string{"origin", formatASN(o.asn), join(o.prefixes, netip.Prefix.String, " ")}
		if o.signed {
			w = append(w, "signed")
		}
		line(w...)
	}
	for _, e := range s.ribs {
		line("rib", join(e.prefixes, netip.Prefix.String, ","), strings.Join(e.peers, ","), e.formatPath())
	}
	for _, e := range s.events {
		w := []string{formatOffset(e.at), strings.Join(e.peers, ","), verbs[e.verb]}
		if len(e.prefixes) > 0 {
			w = append(w, join(e.prefixes, netip.Prefix.String, ","))
		}
		if e.verb == announce {
			w = append(w, e.formatPath())
		}
		line(w...)
	}
	if s.end != 0 {
		line(formatOffset(s.end), "end")
	}
	for _, e := range s.Expect {
		line(e.Text)
	}
	return b.String()
}

// String gives "A B -1" or "A B 0".
func (r Relationship) String() string {
	if r.Peer {
		return fmt.Sprintf("%d %d 0", r.A, r.B)
	}
	return fmt.Sprintf("%d %d -1", r.A, r.B)
}

// String gives "PREFIX [max LENGTH] ASN".
func (v VRP) String() string {
	if v.MaxLength == v.Prefix.Bits() {
		return fmt.Sprintf("%s %d", v.Prefix, v.ASN)
	}
	return fmt.Sprintf("%s max %d %d", v.Prefix, v.MaxLength, v.ASN)
}

func (e *event) formatPath() string {
	var w []string
	if e.via != 0 {
		w = append(w, "via", formatASN(e.via))
	}
	if len(e.path) > 0 {
		w = append(w, e.path.String())
	}
	if len(e.communities) > 0 {
		w = append(w, "community", join(e.communities, func(c uint32) string { return fmt.Sprintf("%d:%d", c>>16, c&0xffff) }, ","))
	}
	if e.hasOTC {
		w = append(w, "otc", formatASN(e.otc))
	}
	if e.nextHop.IsValid() {
		w = append(w, "nexthop", e.nextHop.String())
	}
	return strings.Join(w, " ")
}

func (e *Expect) text() string {
	w := []string{"expect"}
	if e.None {
		w = append(w, "none")
	}
	w = append(w, e.Kinds...)
	field := func(name, value string) {
		if value != "" {
			w = append(w, name, value)
		}
	}
	field("offender", join(e.Offenders, formatASN, ","))
	field("accomplice", join(e.Accomplices, formatASN, ","))
	field("victim", join(e.Victims, formatASN, ","))
	field("prefix", join(e.Prefixes, netip.Prefix.String, ","))
	if e.By != 0 {
		field("by", formatOffset(e.By))
	}
	if e.Status != "" {
		w = append(w, e.Status)
	}
	field("rpki", e.RPKI)
	if e.SeverityMin == e.SeverityMax {
		field("severity", e.SeverityMin)
	} else {
		field("severity", e.SeverityMin+".."+e.SeverityMax)
	}
	if e.RFC7908Type != 0 {
		field("rfc7908", strconv.Itoa(e.RFC7908Type))
	}
	return strings.Join(w, " ")
}

func formatASN(a uint32) string { return strconv.FormatUint(uint64(a), 10) }

func formatOffset(d time.Duration) string { return "+" + d.String() }

func join[T any](list []T, format func(T) string, sep string) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = format(v)
	}
	return strings.Join(words, sep)
}
