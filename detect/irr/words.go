package irr

import (
	"bytes"
	"math"
	"net/netip"

	"github.com/routevigil/routevigil/detect/irr/rpsl"
)

// words calls yield for each word of a list, which commas, spaces or both separate.
func words(list []byte, yield func([]byte)) {
	start := -1
	for i, c := range list {
		if c == ',' || c == ' ' || c == '\t' {
			if start >= 0 {
				yield(list[start:i])
			}
			start = -1
		} else if start < 0 {
			start = i
		}
	}
	if start >= 0 {
		yield(list[start:])
	}
}

// parseASN reads AS64500, in either case, or the form AS1.10 of RFC 5396.
func parseASN(s []byte) (uint32, bool) {
	if len(s) < 3 || s[0]|0x20 != 'a' || s[1]|0x20 != 's' {
		return 0, false
	}
	high, low, dotted := bytes.Cut(s[2:], []byte("."))
	n, ok := parseNumber(high, math.MaxUint32)
	if !dotted || !ok {
		return uint32(n), ok
	}
	m, ok := parseNumber(low, math.MaxUint16)
	return uint32(n<<16 | m), ok && n <= math.MaxUint16
}

func parseNumber(s []byte, most uint64) (uint64, bool) {
	if len(s) == 0 || len(s) > 10 {
		return 0, false
	}
	n := uint64(0)
	for _, c := range s {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, n <= most
}

// parsePrefix reads a prefix without host bits. One of IPv4 costs no allocation.
func parsePrefix(s []byte) (netip.Prefix, bool) {
	var p netip.Prefix
	if a, rest, ok := parseIPv4(s); ok {
		bits, ok := parseNumber(rest, 32)
		if !ok {
			return p, false
		}
		p = netip.PrefixFrom(netip.AddrFrom4(a), int(bits))
	} else {
		var err error
		if p, err = netip.ParsePrefix(string(s)); err != nil || p.Addr().Is4() || p.Addr().Is4In6() {
			return netip.Prefix{}, false
		}
	}
	return p, p == p.Masked()
}

// parseIPv4 reads an address up to a slash, and returns what follows that.
func parseIPv4(s []byte) (a [4]byte, rest []byte, ok bool) {
	for i := range a {
		sep := byte('.')
		if i == 3 {
			sep = '/'
		}
		part, after, found := bytes.Cut(s, []byte{sep})
		n, number := parseNumber(part, 255)
		if !found || !number || len(part) > 3 {
			return a, nil, false
		}
		a[i], s = byte(n), after
	}
	return a, s, true
}

// setName returns the name of a set in upper case, and the class that the name says it has; Other
// when it is none. A hierarchical name, such as AS64500:AS-CUSTOMERS, has a set's name and else AS
// numbers and sets' names of the same class among its parts (RFC 2622 §5).
func (b *Builder) setName(s []byte) (string, rpsl.Class) {
	name := b.upper(s)
	if class := classOfName(name); class != rpsl.Other {
		return name, class
	}
	return "", rpsl.Other
}

func classOfName(name string) rpsl.Class {
	class := rpsl.Other
	for start := 0; start <= len(name); {
		end := start
		for end < len(name) && name[end] != ':' {
			c := name[end]
			if !(c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
				return rpsl.Other
			}
			end++
		}
		part := name[start:end]
		start = end + 1
		of := rpsl.Other
		switch {
		case len(part) > 3 && part[:3] == "AS-":
			of = rpsl.ASSet
		case len(part) > 3 && part[:3] == "RS-":
			of = rpsl.RouteSet
		default:
			if _, ok := parseASN([]byte(part)); !ok {
				return rpsl.Other
			}
			continue
		}
		if class != rpsl.Other && class != of {
			return rpsl.Other
		}
		class = of
	}
	return class
}
