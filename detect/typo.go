package detect

import (
	"net/netip"
	"slices"
	"strconv"
)

// A prefix is mistyped where an AS begins to announce another's, while one of its own, of the same length and one slip of the
// finger away, is gone: the right one made room for the wrong one. That the right one is gone matters, as networks often have
// blocks that are a digit apart, and one might also announce a neighbour's on purpose.

// mistyped returns the prefix that origin seems to have meant when it announced p. The first octet is taken to be right:
// what begins with another is not this shard's.
func (s *shard) mistyped(p netip.Prefix, origin uint32) (meant netip.Prefix, ok bool) {
	slips(p, func(q netip.Prefix) bool {
		if id, known := s.table.seek(q); known {
			o := s.table.origin(s.table.entry(id), origin)
			if ok = o != nil && o.MarkedUsual() && o.Routes() == 0; ok {
				meant = q
			}
		}
		return !ok
	})
	return meant, ok
}

// slips yields the IPv4 prefixes of p's length from which one slip of the finger in its second, third or fourth octet
// makes p.
func slips(p netip.Prefix, yield func(netip.Prefix) bool) {
	if !p.Addr().Is4() {
		return
	}
	a := p.Addr().As4()
	for i := 1; i < 4 && 8*i < p.Bits(); i++ {
		host := byte(0xff)
		if shift := p.Bits() - 8*i; shift < 8 {
			host >>= shift
		} else {
			host = 0
		}
		b := a
		for _, b[i] = range octetSlips[a[i]] {
			if b[i]&host == 0 && !yield(netip.PrefixFrom(netip.AddrFrom4(b), p.Bits())) {
				return
			}
		}
	}
}

// octetSlips are the octets from which one slip of the finger makes another: a digit wrong, one too many or two swapped. A
// digit that is missing is left out, as ten could.
var octetSlips = func() (slips [256][]byte) {
	for octet := range slips {
		text := strconv.Itoa(octet)
		add := func(typed string) {
			n, err := strconv.ParseUint(typed, 10, 8)
			if err == nil && (len(typed) == 1 || typed[0] != '0') && int(n) != octet && !slices.Contains(slips[octet], byte(n)) {
				slips[octet] = append(slips[octet], byte(n))
			}
		}
		for k := range text {
			before, after := text[:k], text[k+1:]
			for digit := range 10 {
				add(before + strconv.Itoa(digit) + after)
			}
			add(before + after)
			if after != "" {
				add(before + after[:1] + text[k:k+1] + after[1:])
			}
		}
	}
	return slips
}()
