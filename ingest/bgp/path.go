package bgp

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// SegmentType is the type octet of an AS_PATH segment (RFC 4271 §4.3, RFC 5065 §3).
type SegmentType uint8

const (
	ASSet            SegmentType = 1
	ASSequence       SegmentType = 2
	ASConfedSequence SegmentType = 3
	ASConfedSet      SegmentType = 4
)

// Segment is one AS_PATH segment, ASNs in wire order (collector side first).
type Segment struct {
	Type SegmentType
	ASNs []uint32
}

// ASPath is an AS_PATH after the RFC 6793 merge: all ASNs have four octets. The zero value is the
// empty path of an internal route.
type ASPath []Segment

// Origin returns the origin AS by RFC 6811 §2: the last AS of a final AS_SEQUENCE. ok is false
// where that is NONE: an empty path, or one that ends in a set or a confederation segment.
func (p ASPath) Origin() (asn uint32, ok bool) {
	if len(p) == 0 {
		return 0, false
	}
	last := p[len(p)-1]
	if last.Type != ASSequence || len(last.ASNs) == 0 {
		return 0, false
	}
	return last.ASNs[len(last.ASNs)-1], true
}

// Length is the number of hops as route selection counts them (RFC 4271 §9.1.2.2, RFC 5065 §5.3):
// a set is one hop, a confederation segment none.
func (p ASPath) Length() int {
	n := 0
	for _, s := range p {
		n += s.length()
	}
	return n
}

func (s Segment) length() int {
	switch s.Type {
	case ASSequence:
		return len(s.ASNs)
	case ASSet:
		return 1
	}
	return 0
}

// Clone returns a deep copy.
func (p ASPath) Clone() ASPath {
	c := slices.Clone(p)
	for i := range c {
		c[i].ASNs = slices.Clone(c[i].ASNs)
	}
	return c
}

// segmentMarks are what stands before, between and after the ASNs of each type of segment.
var segmentMarks = [...][3]string{ASSet: {"{", ",", "}"}, ASSequence: {"", " ", ""}, ASConfedSequence: {"(", " ", ")"}, ASConfedSet: {"[", ",", "]"}}

// String writes the path as bgpdump does: "1 2 {3,4}", confederation sequences in parentheses.
func (p ASPath) String() string { return string(p.AppendTo(nil)) }

// AppendTo appends what [ASPath.String] writes.
func (p ASPath) AppendTo(b []byte) []byte {
	for i, s := range p {
		if i > 0 {
			b = append(b, ' ')
		}
		var marks [3]string
		if int(s.Type) < len(segmentMarks) {
			marks = segmentMarks[s.Type]
		}
		b = append(b, marks[0]...)
		for j, a := range s.ASNs {
			if j > 0 {
				b = append(b, marks[1]...)
			}
			b = strconv.AppendUint(b, uint64(a), 10)
		}
		b = append(b, marks[2]...)
	}
	return b
}

// ParseASPath reads what [ASPath.String] writes: ASNs separated by spaces ("AS" before a number is
// allowed), sets in braces separated by commas.
func ParseASPath(s string) (ASPath, error) {
	var p ASPath
	for _, f := range strings.Fields(s) {
		if strings.HasPrefix(f, "{") {
			if !strings.HasSuffix(f, "}") {
				return nil, fmt.Errorf("AS path %q: %q is not a set like {64500,64501}", s, f)
			}
			set := Segment{Type: ASSet}
			for _, m := range strings.Split(f[1:len(f)-1], ",") {
				a, err := ParseASN(m)
				if err != nil {
					return nil, fmt.Errorf("AS path %q: %w", s, err)
				}
				set.ASNs = append(set.ASNs, a)
			}
			p = append(p, set)
			continue
		}
		a, err := ParseASN(f)
		if err != nil {
			return nil, fmt.Errorf("AS path %q: %w", s, err)
		}
		if n := len(p); n == 0 || p[n-1].Type != ASSequence {
			p = append(p, Segment{Type: ASSequence})
		}
		p[len(p)-1].ASNs = append(p[len(p)-1].ASNs, a)
	}
	return p, nil
}

// ParseASN reads an AS number in asplain, with or without "AS" before it (RFC 5396).
func ParseASN(s string) (uint32, error) {
	d := s
	if len(d) > 2 && strings.EqualFold(d[:2], "as") {
		d = d[2:]
	}
	a, err := strconv.ParseUint(d, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not an AS number (0 to 4294967295)", s)
	}
	return uint32(a), nil
}
