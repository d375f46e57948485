package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/routevigil/routevigil/detect/rpki"
)

// The content of a frame: its kind, an octet; its time, microseconds since 1970; the source of the set; then, of one
// that was held back, why; of others VRPs announced, VRPs withdrawn and ASPAs, each list after its length. Numbers are
// unsigned varints, texts follow their length. A VRP is its trust anchor, the octets of an address (4 or 16), prefix length, address as far as that reaches,
// maximum length and AS number; an ASPA its customer, and the providers after their number.
const (
	kindWhole       = 1 // replaces everything
	kindDelta       = 2 // changes what was before; an ASPA without providers is gone
	kindUnavailable = 3 // and nothing else but the time
	kindHeld        = 4 // changes nothing
)

func wholeFrame(at time.Time, s *rpki.Set) []byte {
	if s == nil {
		return appendTime([]byte{kindUnavailable}, at)
	}
	d := rpki.Delta{ASPAs: s.ASPAs()}
	for v := range s.VRPs() {
		d.Announced = append(d.Announced, v)
	}
	return appendDelta(kindWhole, at, s.Source(), d)
}

// frameOf returns what tells after from before; nil where they are the same.
func frameOf(at time.Time, before, after *rpki.Set) []byte {
	switch {
	case before == nil && after == nil:
		return nil
	case before == nil || after == nil:
		return wholeFrame(at, after)
	}
	d := rpki.Delta{ASPAs: map[uint32][]uint32{}}
	for c := range rpki.Diff(before, after, at) {
		switch {
		case c.ASPA != nil && c.ASPA.After == nil:
			d.ASPAs[c.ASPA.Customer] = nil
		case c.ASPA != nil && len(c.ASPA.After) == 0:
			return wholeFrame(at, after) // a delta cannot say that a customer attests to have none
		case c.ASPA != nil:
			d.ASPAs[c.ASPA.Customer] = c.ASPA.After
		case c.Removed:
			d.Withdrawn = append(d.Withdrawn, *c.VRP)
		default:
			d.Announced = append(d.Announced, *c.VRP)
		}
	}
	if len(d.Announced)+len(d.Withdrawn)+len(d.ASPAs) == 0 {
		return nil
	}
	return appendDelta(kindDelta, at, after.Source(), d)
}

func appendTime(b []byte, at time.Time) []byte {
	return binary.AppendUvarint(b, uint64(max(0, at.UnixMicro())))
}

func appendDelta(kind byte, at time.Time, from string, d rpki.Delta) []byte {
	b := appendTime([]byte{kind}, at)
	b = appendText(b, from)
	b = appendVRPs(b, d.Announced)
	b = appendVRPs(b, d.Withdrawn)
	b = binary.AppendUvarint(b, uint64(len(d.ASPAs)))
	for _, customer := range slices.Sorted(maps.Keys(d.ASPAs)) {
		providers := d.ASPAs[customer]
		b = binary.AppendUvarint(b, uint64(customer))
		b = binary.AppendUvarint(b, uint64(len(providers)))
		for _, p := range providers {
			b = binary.AppendUvarint(b, uint64(p))
		}
	}
	return b
}

// heldFrame tells that what came from a source was held back, and why.
func heldFrame(at time.Time, from, why string) []byte {
	return appendText(appendText(appendTime([]byte{kindHeld}, at), shortened(from)), shortened(why))
}

// maxText bounds a text in bytes.
const maxText = 1 << 16

func shortened(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxText)], "") }

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendVRPs(b []byte, vs []rpki.VRP) []byte {
	b = binary.AppendUvarint(b, uint64(len(vs)))
	for _, v := range vs {
		a := v.Prefix.Addr().AsSlice()
		b = appendText(b, v.TA)
		b = append(b, byte(len(a)), byte(v.Prefix.Bits()))
		b = append(b, a[:(v.Prefix.Bits()+7)/8]...)
		b = append(b, v.MaxLength)
		b = binary.AppendUvarint(b, uint64(v.ASN))
	}
	return b
}

// frame is the content of one, decoded.
type frame struct {
	kind  byte
	at    time.Time
	from  string
	why   string    // of kindHeld
	whole *rpki.Set // of kindWhole
	delta rpki.Delta
}

func decode(content []byte) (frame, error) {
	r := reader{b: content}
	f := frame{kind: r.octet(), at: time.UnixMicro(int64(r.number(1 << 62))).UTC()}
	switch f.kind {
	case kindUnavailable:
		return f, r.end()
	case kindWhole, kindDelta, kindHeld:
	default:
		return f, fmt.Errorf("a frame of the unknown kind %d", f.kind)
	}
	f.from = string(r.text())
	if f.kind == kindHeld {
		f.why = string(r.text())
		return f, r.end()
	}
	f.delta.Announced, f.delta.Withdrawn = r.vrps(), r.vrps()
	f.delta.ASPAs = r.aspas()
	if err := r.end(); err != nil {
		return f, err
	}
	if f.kind == kindDelta {
		return f, nil
	}
	b := rpki.NewBuilder()
	for _, v := range f.delta.Announced {
		if err := b.Add(v); err != nil {
			return f, err
		}
	}
	for customer, providers := range f.delta.ASPAs {
		if err := b.AddASPA(customer, providers); err != nil {
			return f, err
		}
	}
	f.whole, f.delta = b.Set(f.from), rpki.Delta{}
	return f, nil
}

// take takes a frame into account.
func (st *state) take(f frame) {
	st.frames++
	if f.kind == kindHeld {
		return
	}
	st.at = f.at
	if f.kind != kindDelta {
		st.base, st.changes, st.aspas = f.whole, nil, nil
		return
	}
	if st.changes == nil {
		st.changes, st.aspas = map[rpki.VRP]change{}, map[uint32][]uint32{}
	}
	st.from = f.from
	for _, v := range f.delta.Withdrawn {
		st.changes[payload(v)] = change{v, true}
	}
	for _, v := range f.delta.Announced {
		st.changes[payload(v)] = change{v, false}
	}
	maps.Copy(st.aspas, f.delta.ASPAs)
}

// payload is what tells one VRP from another.
func payload(v rpki.VRP) rpki.VRP {
	return rpki.VRP{Prefix: v.Prefix, MaxLength: v.MaxLength, ASN: v.ASN}
}

// reader reads the content of a frame. After a fault it gives zeros.
type reader struct {
	b     []byte
	fault error
}

var errShort = errors.New("a frame ends before what it holds")

func (r *reader) fail(err error) {
	if r.fault == nil {
		r.fault = err
	}
	r.b = nil
}

func (r *reader) end() error {
	if r.fault == nil && len(r.b) > 0 {
		r.fault = fmt.Errorf("%d octets are left at the end of a frame", len(r.b))
	}
	return r.fault
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail(errShort)
		return make([]byte, min(n, 16))
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) octet() byte { return r.take(1)[0] }

func (r *reader) number(most uint64) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 || v > most {
		r.fail(errShort)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) text() []byte {
	n := r.number(maxText)
	if n > uint64(len(r.b)) {
		r.fail(errShort)
		return nil
	}
	return r.take(int(n))
}

// length reads how many things follow, of which each takes at least so many octets.
func (r *reader) length(least int) int { return int(r.number(uint64(len(r.b) / least))) }

func (r *reader) vrps() []rpki.VRP {
	n := r.length(5)
	vs := make([]rpki.VRP, 0, n)
	anchors := map[string]string{}
	for range n {
		name := r.text()
		ta, ok := anchors[string(name)]
		if !ok {
			ta = string(name)
			anchors[ta] = ta
		}
		octets, bits := int(r.octet()), int(r.octet())
		if octets != 4 && octets != 16 || bits > 8*octets {
			r.fail(errors.New("a prefix that is none"))
			return nil
		}
		var a [16]byte
		copy(a[:], r.take((bits+7)/8))
		addr, _ := netip.AddrFromSlice(a[:octets])
		v := rpki.VRP{Prefix: netip.PrefixFrom(addr, bits), TA: ta, MaxLength: r.octet(), ASN: uint32(r.number(1<<32 - 1))}
		if r.fault != nil {
			return nil
		}
		vs = append(vs, v)
	}
	return vs
}

func (r *reader) aspas() map[uint32][]uint32 {
	n := r.length(2)
	m := make(map[uint32][]uint32, n)
	for range n {
		customer := uint32(r.number(1<<32 - 1))
		k := r.length(1)
		providers := make([]uint32, k)
		for i := range providers {
			providers[i] = uint32(r.number(1<<32 - 1))
		}
		if r.fault != nil {
			return nil
		}
		m[customer] = providers
	}
	return m
}
