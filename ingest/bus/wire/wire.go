// Package wire is the form in which updates travel between processes. FORMAT.md beside it is its
// specification.
//
// A frame holds many updates, because nearly all of what an update says (who says it, by which path) the
// updates around it say too: peers and lists of attributes are written once a frame. What is left is small
// numbers and prefixes, which compress well together.
package wire

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"unsafe"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

const (
	version = 1
	// MaxFrame is the size above which no frame is read, in octets.
	MaxFrame = 16 << 20
	maxName  = 255 // of a collector or a zone
)

// Header is what a frame says of itself.
type Header struct {
	Writer    uint64
	Round     uint64
	Watermark ingest.Time
	Updates   int // set by the decoder
}

// Partition tells which of n partitions a valid prefix belongs to.
func Partition(p netip.Prefix, n int) int {
	var block uint32
	if a := p.Addr(); a.Is4() {
		b := a.As4()
		block = uint32(b[0])
	} else {
		b := a.As16()
		block = uint32(b[0])<<8 | uint32(b[1])
	}
	return int(uint64(block*2654435761) * uint64(n) >> 32)
}

// Encoder gathers the updates of one frame. The zero value is ready to use. It keeps its memory from one
// frame to the next.
type Encoder struct {
	peers, lists, updates    []byte
	peerIndex                map[ingest.Peer]uint64
	listIndex                map[string]uint64
	lastPeer                 ingest.Peer
	lastPeerAt               uint64
	count                    uint64
	index                    uint64
	time, firstTime, started ingest.Time
}

// Reset begins a new frame.
func (e *Encoder) Reset() {
	if e.peerIndex == nil {
		e.peerIndex, e.listIndex = map[ingest.Peer]uint64{}, map[string]uint64{}
	}
	clear(e.peerIndex)
	clear(e.listIndex)
	e.peers, e.lists, e.updates = e.peers[:0], e.lists[:0], e.updates[:0]
	e.count, e.index, e.time, e.lastPeer = 0, 0, 0, ingest.Peer{}
}

// Size is about how many octets the frame has so far.
func (e *Encoder) Size() int { return len(e.peers) + len(e.lists) + len(e.updates) }

// Add appends a part of u: of its routes those given, with the encoded list of its attributes, which is not
// looked at where nothing is announced. index is u's place in the round, and must not be below that of the
// update before.
func (e *Encoder) Add(index uint64, u *ingest.Update, withdrawn, announced []bgp.NLRI, attributes []byte) error {
	if e.peerIndex == nil {
		e.Reset()
	}
	peer, err := e.peer(u.Peer)
	if err != nil {
		return err
	}
	b := binary.AppendUvarint(e.updates, index-e.index)
	b = binary.AppendUvarint(b, peer<<2|uint64(u.Kind))
	if e.count == 0 {
		e.firstTime = u.Time // its step depends upon the watermark, which is not known yet
		e.started = ingest.Time(len(b))
	} else {
		b = binary.AppendVarint(b, int64(u.Time-e.time))
	}
	e.index, e.time = index, u.Time
	if u.Kind == ingest.Routes || u.Kind == ingest.RIB {
		b = appendNLRI(b, withdrawn)
		b = appendNLRI(b, announced)
		if len(announced) > 0 {
			list, ok := e.listIndex[string(attributes)]
			if !ok {
				list = uint64(len(e.listIndex))
				e.lists = binary.AppendUvarint(e.lists, uint64(len(attributes)))
				e.lists = append(e.lists, attributes...)
				// The key is in the memory of lists, which does not change before Reset has emptied the index.
				e.listIndex[unsafe.String(unsafe.SliceData(e.lists[len(e.lists)-len(attributes):]), len(attributes))] = list
			}
			b = binary.AppendUvarint(b, list)
		}
	}
	e.updates = b
	e.count++
	return nil
}

func (e *Encoder) peer(p ingest.Peer) (uint64, error) {
	if p == e.lastPeer && len(e.peerIndex) > 0 {
		return e.lastPeerAt, nil
	}
	at, ok := e.peerIndex[p]
	if !ok {
		zone := p.Addr.Zone()
		if len(p.Collector) > maxName || len(zone) > maxName {
			return 0, fmt.Errorf("the names of peer %.300q exceed %d octets", p.String(), maxName)
		}
		at = uint64(len(e.peerIndex))
		e.peerIndex[p] = at
		b := append(append(e.peers, byte(len(p.Collector))), p.Collector...)
		switch a := p.Addr; {
		case !a.IsValid():
			b = append(b, 0)
		case a.Is4():
			x := a.As4()
			b = append(append(b, 4), x[:]...)
		default:
			x := a.As16()
			b = append(append(b, 16), x[:]...)
		}
		b = append(append(b, byte(len(zone))), zone...)
		e.peers = append(binary.AppendUvarint(b, uint64(p.ASN)), byte(p.View))
	}
	e.lastPeer, e.lastPeerAt = p, at
	return at, nil
}

func appendNLRI(b []byte, routes []bgp.NLRI) []byte {
	ids := uint64(0)
	for _, r := range routes {
		if r.PathID != 0 {
			ids = 1
			break
		}
	}
	b = binary.AppendUvarint(b, uint64(len(routes))<<1|ids)
	for _, r := range routes {
		bits := r.Prefix.Bits()
		if a := r.Prefix.Addr(); a.Is4() {
			b = append(b, byte(bits))
			if ids != 0 {
				b = binary.AppendUvarint(b, uint64(r.PathID))
			}
			x := r.Prefix.Masked().Addr().As4()
			b = append(b, x[:(bits+7)/8]...)
		} else {
			b = append(b, byte(64+bits))
			if ids != 0 {
				b = binary.AppendUvarint(b, uint64(r.PathID))
			}
			x := r.Prefix.Masked().Addr().As16()
			b = append(b, x[:(bits+7)/8]...)
		}
	}
	return b
}

// AppendTo appends the frame to b.
func (e *Encoder) AppendTo(b []byte, h Header) []byte {
	b = append(b, version)
	b = binary.BigEndian.AppendUint64(b, h.Writer)
	b = binary.AppendUvarint(b, h.Round)
	b = binary.AppendVarint(b, int64(h.Watermark))
	b = binary.AppendUvarint(b, e.count)
	b = binary.AppendUvarint(b, uint64(len(e.peerIndex)))
	b = append(b, e.peers...)
	b = binary.AppendUvarint(b, uint64(len(e.listIndex)))
	b = append(b, e.lists...)
	if e.count > 0 {
		b = append(b, e.updates[:e.started]...)
		b = binary.AppendVarint(b, int64(e.firstTime-h.Watermark))
		b = append(b, e.updates[e.started:]...)
	}
	return b
}

// Decoder reads a frame. The zero value is ready to use.
type Decoder struct {
	in      cursor
	header  Header
	left    int
	index   uint64
	time    ingest.Time
	peers   []ingest.Peer
	lists   [][]byte
	decoded int // which of lists attributes holds; -1 for none

	bgp        bgp.Decoder
	attributes bgp.Attributes
	update     ingest.Update
	names      map[string]string
	key        []byte
}

var errCut = errors.New("a frame ends early")

// Open begins to read a frame, which must not change while it is read.
func (d *Decoder) Open(frame []byte) (Header, error) {
	d.left, d.decoded = 0, -1
	h, err := d.open(frame)
	if err != nil {
		return Header{}, fmt.Errorf("updates on the bus: %w", err)
	}
	d.header, d.left, d.index, d.time = h, h.Updates, 0, h.Watermark
	return h, nil
}

func (d *Decoder) open(frame []byte) (h Header, err error) {
	if len(frame) > MaxFrame {
		return h, fmt.Errorf("a frame of %d octets; %d is the most", len(frame), MaxFrame)
	}
	d.in = cursor{b: frame}
	if v := d.in.octet(); !d.in.bad && v != version {
		return h, fmt.Errorf("a frame of version %d; this program reads %d", v, version)
	}
	if w := d.in.take(8); w != nil {
		h.Writer = binary.BigEndian.Uint64(w)
	}
	h.Round, h.Watermark = d.in.uvarint(), ingest.Time(d.in.varint())
	h.Updates = d.in.count()
	d.peers = d.peers[:0]
	for range d.in.count() {
		var p ingest.Peer
		p.Collector = d.name(d.in.take(int(d.in.octet())))
		switch n := d.in.octet(); n {
		case 0:
		case 4, 16:
			if a := d.in.take(int(n)); a != nil {
				p.Addr, _ = netip.AddrFromSlice(a)
			}
		default:
			return h, fmt.Errorf("an address of %d octets", n)
		}
		if zone := d.in.take(int(d.in.octet())); len(zone) > 0 {
			p.Addr = p.Addr.WithZone(d.name(zone))
		}
		asn := d.in.uvarint()
		p.ASN, p.View = uint32(asn), ingest.View(d.in.octet())
		if asn > 1<<32-1 || !p.View.Known() {
			return h, fmt.Errorf("a peer of AS %d and view %d", asn, p.View)
		}
		if d.in.bad {
			return h, errCut
		}
		d.peers = append(d.peers, p)
	}
	d.lists = d.lists[:0]
	for range d.in.count() {
		d.lists = append(d.lists, d.in.take(d.in.count()))
		if d.in.bad {
			return h, errCut
		}
	}
	if d.in.bad || h.Updates > len(d.in.b) {
		return h, errCut
	}
	if h.Updates == 0 && len(d.in.b) > 0 {
		return h, errors.New("something follows the last update")
	}
	return h, nil
}

// maxNames bounds the names that are kept so as not to be made again.
const maxNames = 4096

func (d *Decoder) name(b []byte) string {
	if s, ok := d.names[string(b)]; ok {
		return s
	}
	if d.names == nil || len(d.names) >= maxNames {
		d.names = map[string]string{}
	}
	s := string(b)
	d.names[s] = s
	return s
}

// Next returns the next update and its place in the round, at the end io.EOF. The update belongs to the
// decoder and the frame, and holds until the next call.
func (d *Decoder) Next() (index uint64, u *ingest.Update, err error) {
	if d.left == 0 {
		return 0, nil, io.EOF
	}
	if err := d.next(); err != nil {
		d.left = 0
		return 0, nil, fmt.Errorf("updates on the bus: round %d of writer %x: %w", d.header.Round, d.header.Writer, err)
	}
	d.left--
	return d.index, &d.update, nil
}

func (d *Decoder) next() error {
	u := &d.update
	step, who := d.in.uvarint(), d.in.uvarint()
	d.time += ingest.Time(d.in.varint())
	if d.in.bad {
		return errCut
	}
	if d.index+step < d.index {
		return errors.New("the index overflows")
	}
	d.index += step
	if who>>2 >= uint64(len(d.peers)) {
		return fmt.Errorf("an update of peer %d of %d", who>>2, len(d.peers))
	}
	u.Time, u.Kind, u.Peer = d.time, ingest.Kind(who&3), d.peers[who>>2]
	u.Withdrawn, u.Announced, u.Attrs = u.Withdrawn[:0], u.Announced[:0], bgp.Attributes{}
	if u.Kind == ingest.Routes || u.Kind == ingest.RIB {
		var err error
		if u.Withdrawn, err = d.nlri(u.Withdrawn); err != nil {
			return err
		}
		if u.Announced, err = d.nlri(u.Announced); err != nil {
			return err
		}
		if len(u.Announced) > 0 {
			if err := d.list(d.in.uvarint()); err != nil {
				return err
			}
			u.Attrs = d.attributes
		}
	}
	if d.in.bad {
		return errCut
	}
	if d.left == 1 && len(d.in.b) > 0 {
		return errors.New("something follows the last update")
	}
	return nil
}

// Digest identifies what the update that Next returned last says: peer, time, routes and attributes, but not
// its place. It is half a SHA-256, so that nobody can make an update that passes for another.
func (d *Decoder) Digest() (digest [16]byte) {
	u := &d.update
	b := append(d.key[:0], byte(u.Kind), byte(u.Peer.View), byte(len(u.Peer.Collector)))
	b = append(b, u.Peer.Collector...)
	a := u.Peer.Addr.As16()
	b = append(append(b, a[:]...), u.Peer.Addr.Zone()...)
	b = binary.BigEndian.AppendUint32(append(b, 0), u.Peer.ASN)
	b = binary.BigEndian.AppendUint64(b, uint64(u.Time))
	b = appendNLRI(appendNLRI(b, u.Withdrawn), u.Announced)
	if len(u.Announced) > 0 {
		b = append(b, d.lists[d.decoded]...)
	}
	d.key = b
	h := sha256.Sum256(b)
	return [16]byte(h[:16])
}

// list makes d.attributes those of a list.
func (d *Decoder) list(n uint64) error {
	if n >= uint64(len(d.lists)) {
		return fmt.Errorf("list %d of %d", n, len(d.lists))
	}
	if d.decoded == int(n) {
		return nil
	}
	d.decoded = -1
	x, err := d.bgp.RIBEntry(bgp.IPv4Unicast, bgp.NLRI{}, d.lists[n], bgp.Options{})
	if err != nil {
		return err
	}
	if len(x.Withdrawn) > 0 {
		return fmt.Errorf("attributes: %s", x.Faults)
	}
	d.attributes, d.decoded = x.Attrs, int(n)
	return nil
}

func (d *Decoder) nlri(to []bgp.NLRI) ([]bgp.NLRI, error) {
	n := d.in.uvarint()
	ids := n&1 != 0
	if n >>= 1; n > uint64(len(d.in.b)) {
		return to, errCut
	}
	for range n {
		r := bgp.NLRI{}
		length := int(d.in.octet())
		if ids {
			id := d.in.uvarint()
			if id > 1<<32-1 {
				return to, fmt.Errorf("path identifier %d", id)
			}
			r.PathID = uint32(id)
		}
		switch {
		case length <= 32:
			var a [4]byte
			copy(a[:], d.in.take((length+7)/8))
			r.Prefix = netip.PrefixFrom(netip.AddrFrom4(a), length)
		case length >= 64 && length <= 64+128:
			var a [16]byte
			copy(a[:], d.in.take((length-64+7)/8))
			r.Prefix = netip.PrefixFrom(netip.AddrFrom16(a), length-64)
		default:
			return to, fmt.Errorf("a prefix of length %d", length)
		}
		if d.in.bad {
			return to, errCut
		}
		if r.Prefix != r.Prefix.Masked() {
			return to, fmt.Errorf("%s has bits beyond its length", r.Prefix)
		}
		to = append(to, r)
	}
	return to, nil
}

// cursor reads a frame; after an error everything is zero.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n int) []byte {
	if n > len(c.b) {
		c.bad, c.b = true, nil
		return nil
	}
	x := c.b[:n:n]
	c.b = c.b[n:]
	return x
}

func (c *cursor) octet() byte {
	if x := c.take(1); x != nil {
		return x[0]
	}
	return 0
}

func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.bad, c.b = true, nil
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) varint() int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.bad, c.b = true, nil
		return 0
	}
	c.b = c.b[n:]
	return v
}

// count reads how many things, or octets, follow; each takes at least one octet.
func (c *cursor) count() int {
	n := c.uvarint()
	if n > uint64(len(c.b)) {
		c.bad, c.b = true, nil
		return 0
	}
	return int(n)
}
