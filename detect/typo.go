package detect

import (
	"net/netip"
	"strconv"
)

// A prefix is mistyped where an AS begins to announce another's, while one of its own, of the same length and one slip of the
// finger away, is gone: the right one made room for the wrong one. That the right one is gone matters, as networks often have
// blocks that are a digit apart, and one might also announce a neighbour's on purpose.

// mistyped returns the prefix that origin seems to have meant when it announced p. The first octet is taken to be right:
// what begins with another is not this shard's.
func (s *shard) mistyped(p netip.Prefix, origin uint32) (meant netip.Prefix, ok bool) {
	slips(p, func(q netip.Prefix) bool {
		if id, known := s.table.lookup(q); known {
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
// makes p: a digit wrong, one too many or two swapped. A digit that is missing is left out, as ten could.
func slips(p netip.Prefix, yield func(netip.Prefix) bool) {
	if !p.Addr().Is4() {
		return
	}
	a := p.Addr().As4()
	try := func(i int, octet []byte) bool {
		n, err := strconv.ParseUint(string(octet), 10, 8)
		if err != nil || len(octet) > 1 && octet[0] == '0' || byte(n) == a[i] {
			return true
		}
		b := a
		b[i] = byte(n)
		q := netip.PrefixFrom(netip.AddrFrom4(b), p.Bits())
		return q != q.Masked() || yield(q)
	}
	for i := 1; i < 4 && 8*i < p.Bits(); i++ {
		text := strconv.AppendUint(nil, uint64(a[i]), 10)
		for k := range text {
			wrong := append([]byte(nil), text...)
			for digit := byte('0'); digit <= '9'; digit++ {
				if wrong[k] = digit; !try(i, wrong) {
					return
				}
			}
			if !try(i, append(append([]byte(nil), text[:k]...), text[k+1:]...)) {
				return
			}
			if k+1 < len(text) {
				swapped := append([]byte(nil), text...)
				swapped[k], swapped[k+1] = swapped[k+1], swapped[k]
				if !try(i, swapped) {
					return
				}
			}
		}
	}
}
