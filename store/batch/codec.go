// Package batch is how every store keeps a batch of updates as bytes, and how it makes rows of history of
// one: which rows an update gives, in which order, and which of them a query wants.
package batch

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
)

// The body of a batch, as the tail keeps it:
//
//	version  1 byte, formatVersion
//	method   1 byte, methodRaw, methodZstd or methodS2: how what follows is compressed
//	watermark   varint
//	updates  uvarint, how many follow
//	update…
//
// and each update:
//
//	flags    1 byte: kind in the low 4 bits, then hasPathIDs, hasAttributes
//	time     varint, microseconds since the update before (the first: since the watermark)
//	peer     uvarint; equal to the number of peers seen so far, a new one follows:
//	         collector (uvarint length, bytes), address, ASN (uvarint), view (1 byte)
//	withdrawn, announced   uvarint count, then prefixes, each with a uvarint path id if hasPathIDs
//	attributes   if hasAttributes: uvarint length, then as appendAttributes writes them
//
// Attributes are framed by a length so that a query passes over those of updates that do not match.
const (
	formatVersion = 2

	methodRaw  = 0
	methodZstd = 1
	methodS2   = 2

	flagPathIDs    = 1 << 4
	flagAttributes = 1 << 5
	kindMask       = 1<<4 - 1
)

// Bounds that hold for every body, however it came about.
const (
	maxPayload  = 64 << 20 // bytes, uncompressed: 256 for each of the most updates
	rawBelow    = 128      // bytes under which compression costs more than it gives
	maxUpdates  = store.MaxBatchUpdates
	maxRoutes   = 8 * maxUpdates // prefixes of a whole batch
	maxPeers    = maxUpdates
	maxString   = 1 << 10 // bytes of a collector's name or an address's zone
	knownBits   = bgp.HasAIGP<<1 - 1
	maxElements = 1 << 16 // prefixes, segments, ASNs, communities of one update: above what 64 KiB of BGP can carry
)

var (
	errBody    = errors.New("malformed batch body")
	errTooLong = fmt.Errorf("%w: a count or length is out of bounds", errBody)
	errShort   = fmt.Errorf("%w: truncated", errBody)
)

var encoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderCRC(true),
		zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // only wrong options fail
	}
	return e
})

var decoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(maxPayload), zstd.WithDecoderConcurrency(0))
	if err != nil {
		panic(err)
	}
	return d
})

// Compress appends payload, which may be anything, to dst behind its version and method bytes.
func Compress(dst, payload []byte) []byte {
	if len(payload) < rawBelow {
		return append(append(dst, formatVersion, methodRaw), payload...)
	}
	return encoder().EncodeAll(payload, append(dst, formatVersion, methodZstd))
}

// Decompress undoes Compress, of at most 64 MiB. The result aliases body, or dst if that has room.
func Decompress(dst, body []byte) ([]byte, error) {
	if len(body) < 2 {
		return nil, errShort
	}
	if body[0] != formatVersion {
		return nil, fmt.Errorf("%w: version %d, known is %d", errBody, body[0], formatVersion)
	}
	switch body[1] {
	case methodRaw:
		return body[2:], nil
	case methodS2:
		if n, err := s2.DecodedLen(body[2:]); err != nil || n > maxPayload {
			return nil, fmt.Errorf("%w: %d bytes of S2: %w", errBody, n, cmp.Or(err, errTooLong))
		}
		p, err := s2.Decode(dst[:cap(dst)], body[2:])
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errBody, err)
		}
		return p, nil
	case methodZstd:
		p, err := decoder().DecodeAll(body[2:], dst[:0])
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errBody, err)
		}
		return p, nil
	}
	return nil, fmt.Errorf("%w: unknown compression %d", errBody, body[1])
}

// Summary is what an index says about a batch without opening its body.
type Summary struct {
	Updates, Rows    int
	MinTime, MaxTime ingest.Time // of the updates; both 0 when there are none
}

// Encoder turns batches into bodies. It keeps its buffers from one to the next.
type Encoder struct {
	// Quick is for bodies that are soon replaced: they take a fifth of the time to compress, and half as much room again.
	Quick bool

	payload, attrs []byte
	peers          map[ingest.Peer]uint64
}

// NewEncoder returns an encoder for one goroutine at a time.
func NewEncoder() *Encoder { return &Encoder{peers: make(map[ingest.Peer]uint64)} }

// Encode appends the body of b to dst. An error says what of b cannot be kept.
func (e *Encoder) Encode(dst []byte, b *ingest.Batch) ([]byte, Summary, error) {
	sum := Summary{Updates: len(b.Updates)}
	if len(b.Updates) > maxUpdates {
		return nil, sum, fmt.Errorf("a batch of %d updates exceeds the %d that one may carry", len(b.Updates), maxUpdates)
	}
	clear(e.peers)
	p := binary.AppendVarint(e.payload[:0], int64(b.Watermark))
	p = binary.AppendUvarint(p, uint64(len(b.Updates)))
	last := b.Watermark
	routes := 0
	for i := range b.Updates {
		u := &b.Updates[i]
		if i == 0 || u.Time < sum.MinTime {
			sum.MinTime = u.Time
		}
		if i == 0 || u.Time > sum.MaxTime {
			sum.MaxTime = u.Time
		}
		sum.Rows += RowsOf(u)
		if routes += len(u.Withdrawn) + len(u.Announced); routes > maxRoutes {
			return nil, sum, fmt.Errorf("a batch of more than %d prefixes exceeds what one may carry", maxRoutes)
		}
		if err := checkBounds(u); err != nil {
			return nil, sum, fmt.Errorf("update %d of the batch: %w", i, err)
		}
		flags := byte(u.Kind) & kindMask
		if byte(u.Kind) > kindMask {
			return nil, sum, fmt.Errorf("update %d of the batch has the unknown kind %d", i, u.Kind)
		}
		if hasPathIDs(u.Withdrawn) || hasPathIDs(u.Announced) {
			flags |= flagPathIDs
		}
		a := appendAttributes(e.attrs[:0], &u.Attrs)
		e.attrs = a
		if len(a) > 0 {
			flags |= flagAttributes
		}
		p = append(p, flags)
		p = binary.AppendVarint(p, int64(u.Time-last))
		last = u.Time
		n, known := e.peers[u.Peer]
		if !known {
			n = uint64(len(e.peers))
			e.peers[u.Peer] = n
		}
		p = binary.AppendUvarint(p, n)
		if !known {
			p = appendString(p, u.Peer.Collector)
			p = appendAddr(p, u.Peer.Addr)
			p = binary.AppendUvarint(p, uint64(u.Peer.ASN))
			p = append(p, byte(u.Peer.View))
		}
		p = appendNLRI(p, u.Withdrawn, flags&flagPathIDs != 0)
		p = appendNLRI(p, u.Announced, flags&flagPathIDs != 0)
		if len(a) > 0 {
			p = binary.AppendUvarint(p, uint64(len(a)))
			p = append(p, a...)
		}
		if len(p) > maxPayload {
			return nil, sum, fmt.Errorf("a batch of %d updates exceeds %d MiB encoded", len(b.Updates), maxPayload>>20)
		}
	}
	e.payload = p
	if e.Quick && len(p) >= rawBelow {
		start := len(dst) + 2
		dst = slices.Grow(append(dst, formatVersion, methodS2), s2.MaxEncodedLen(len(p)))
		body := s2.Encode(dst[start:cap(dst)], p)
		return dst[:start+len(body)], sum, nil
	}
	return Compress(dst, p), sum, nil
}

// checkBounds refuses what the decoder would refuse, so that nothing is stored that cannot be read.
func checkBounds(u *ingest.Update) error {
	longest := max(len(u.Withdrawn), len(u.Announced), len(u.Attrs.ASPath), len(u.Attrs.Communities),
		len(u.Attrs.ExtCommunities), len(u.Attrs.LargeCommunities), len(u.Attrs.ClusterList), len(u.Attrs.Unknown))
	for _, s := range u.Attrs.ASPath {
		longest = max(longest, len(s.ASNs))
	}
	for _, r := range u.Attrs.Unknown {
		longest = max(longest, len(r.Value))
	}
	if longest > maxElements {
		return fmt.Errorf("a list of %d elements exceeds the %d that a BGP message can carry", longest, maxElements)
	}
	if n := max(len(u.Peer.Collector), len(u.Peer.Addr.Zone())); n > maxString {
		return fmt.Errorf("a collector's name or address zone of %d bytes exceeds %d", n, maxString)
	}
	if !u.Peer.View.Known() {
		return fmt.Errorf("unknown view %d", u.Peer.View)
	}
	if u.Attrs.Has&^knownBits != 0 {
		return fmt.Errorf("unknown path attribute bits %#x", u.Attrs.Has&^knownBits)
	}
	return nil
}

// RowsOf counts the rows of history that u makes.
func RowsOf(u *ingest.Update) int {
	if u.Kind == ingest.PeerUp || u.Kind == ingest.PeerDown {
		return 1
	}
	return len(u.Withdrawn) + len(u.Announced)
}

func hasPathIDs(list []bgp.NLRI) bool {
	for i := range list {
		if list[i].PathID != 0 {
			return true
		}
	}
	return false
}

func appendString(p []byte, s string) []byte {
	return append(binary.AppendUvarint(p, uint64(len(s))), s...)
}

// Addresses: one byte of length (0, 4 or 16), the bytes; zoned says that a zone follows the 16 bytes.
const zoned = 17

func appendAddr(p []byte, a netip.Addr) []byte {
	switch {
	case !a.IsValid():
		return append(p, 0)
	case a.Is4():
		b := a.As4()
		return append(append(p, 4), b[:]...)
	}
	b := a.As16()
	if a.Zone() != "" {
		return appendString(append(append(p, zoned), b[:]...), a.Zone())
	}
	return append(append(p, 16), b[:]...)
}

// Prefixes: one byte that is the length for IPv4, the length plus v6Lengths for IPv6, or noPrefix;
// then the bytes that the length covers, as in BGP (RFC 4271 §4.3). Host bits are not kept.
const (
	v6Lengths = 64
	noPrefix  = 255
)

func appendNLRI(p []byte, list []bgp.NLRI, pathIDs bool) []byte {
	p = binary.AppendUvarint(p, uint64(len(list)))
	for i := range list {
		n := &list[i]
		switch bits := n.Prefix.Bits(); {
		case !n.Prefix.IsValid():
			p = append(p, noPrefix)
		case n.Prefix.Addr().Is4():
			b := n.Prefix.Masked().Addr().As4()
			p = append(append(p, byte(bits)), b[:(bits+7)/8]...)
		default:
			b := n.Prefix.Masked().Addr().As16()
			p = append(append(p, byte(v6Lengths+bits)), b[:(bits+7)/8]...)
		}
		if pathIDs {
			p = binary.AppendUvarint(p, uint64(n.PathID))
		}
	}
	return p
}

// appendAttributes writes the fields that a.Has names, in the order of its bits, then the link-local
// next hop and the unknown attributes. It writes nothing when there is nothing.
func appendAttributes(p []byte, a *bgp.Attributes) []byte {
	if a.Has == 0 && !a.LinkLocal.IsValid() && len(a.Unknown) == 0 {
		return p
	}
	p = binary.AppendUvarint(p, uint64(a.Has))
	if a.Has&bgp.HasOrigin != 0 {
		p = append(p, a.Origin)
	}
	if a.Has&bgp.HasASPath != 0 {
		p = binary.AppendUvarint(p, uint64(len(a.ASPath)))
		for _, s := range a.ASPath {
			p = append(p, byte(s.Type))
			p = appendUint32s(p, s.ASNs)
		}
	}
	if a.Has&bgp.HasNextHop != 0 {
		p = appendAddr(p, a.NextHop)
	}
	if a.Has&bgp.HasMED != 0 {
		p = binary.AppendUvarint(p, uint64(a.MED))
	}
	if a.Has&bgp.HasLocalPref != 0 {
		p = binary.AppendUvarint(p, uint64(a.LocalPref))
	}
	if a.Has&bgp.HasAggregator != 0 {
		p = binary.AppendUvarint(p, uint64(a.Aggregator.ASN))
		p = appendAddr(p, a.Aggregator.Addr)
	}
	if a.Has&bgp.HasCommunities != 0 {
		p = binary.AppendUvarint(p, uint64(len(a.Communities)))
		for _, c := range a.Communities {
			p = binary.BigEndian.AppendUint32(p, c)
		}
	}
	if a.Has&bgp.HasOriginatorID != 0 {
		p = appendAddr(p, a.OriginatorID)
	}
	if a.Has&bgp.HasClusterList != 0 {
		p = appendUint32s(p, a.ClusterList)
	}
	if a.Has&bgp.HasExtCommunities != 0 {
		p = binary.AppendUvarint(p, uint64(len(a.ExtCommunities)))
		for _, c := range a.ExtCommunities {
			p = binary.BigEndian.AppendUint64(p, c)
		}
	}
	if a.Has&bgp.HasLargeCommunities != 0 {
		p = binary.AppendUvarint(p, uint64(len(a.LargeCommunities)))
		for _, c := range a.LargeCommunities {
			p = binary.AppendUvarint(p, uint64(c.Global))
			p = binary.AppendUvarint(p, uint64(c.Local1))
			p = binary.AppendUvarint(p, uint64(c.Local2))
		}
	}
	if a.Has&bgp.HasOTC != 0 {
		p = binary.AppendUvarint(p, uint64(a.OTC))
	}
	if a.Has&bgp.HasAIGP != 0 {
		p = binary.AppendUvarint(p, a.AIGP)
	}
	p = appendAddr(p, a.LinkLocal)
	p = binary.AppendUvarint(p, uint64(len(a.Unknown)))
	for _, r := range a.Unknown {
		p = append(p, r.Flags, r.Type)
		p = binary.AppendUvarint(p, uint64(len(r.Value)))
		p = append(p, r.Value...)
	}
	return p
}

func appendUint32s(p []byte, list []uint32) []byte {
	p = binary.AppendUvarint(p, uint64(len(list)))
	for _, v := range list {
		p = binary.AppendUvarint(p, uint64(v))
	}
	return p
}

// scanner reads a payload front to back. The first error sticks and everything after reads as zero.
type scanner struct {
	rest []byte
	err  error
}

func (s *scanner) fail(err error) {
	if s.err == nil {
		s.err = err
	}
	s.rest = nil
}

func (s *scanner) uvarint() uint64 {
	v, n := binary.Uvarint(s.rest)
	if n <= 0 {
		s.fail(errShort)
		return 0
	}
	s.rest = s.rest[n:]
	return v
}

func (s *scanner) varint() int64 {
	v, n := binary.Varint(s.rest)
	if n <= 0 {
		s.fail(errShort)
		return 0
	}
	s.rest = s.rest[n:]
	return v
}

func (s *scanner) uint32() uint32 {
	v := s.uvarint()
	if v > 1<<32-1 {
		s.fail(errTooLong)
		return 0
	}
	return uint32(v)
}

func (s *scanner) byte() byte {
	if len(s.rest) == 0 {
		s.fail(errShort)
		return 0
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return b
}

// bytes returns the next n bytes of the payload itself.
func (s *scanner) bytes(n int) []byte {
	if n > len(s.rest) {
		s.fail(errShort)
		return nil
	}
	b := s.rest[:n:n]
	s.rest = s.rest[n:]
	return b
}

// count reads how many elements follow, each of at least size bytes, so that no allocation made
// for them exceeds the input by more than a constant factor.
func (s *scanner) count(limit, size int) int {
	v := s.uvarint()
	switch {
	case v > uint64(limit):
		s.fail(errTooLong)
	case v*uint64(size) > uint64(len(s.rest)):
		s.fail(errShort)
	default:
		return int(v)
	}
	return 0
}

func (s *scanner) text() []byte { return s.bytes(s.count(maxString, 1)) }

func (s *scanner) addr() netip.Addr {
	switch n := s.byte(); n {
	case 0:
		return netip.Addr{}
	case 4, 16:
		a, _ := netip.AddrFromSlice(s.bytes(int(n)))
		return a
	case zoned:
		a, _ := netip.AddrFromSlice(s.bytes(16))
		return a.WithZone(string(s.text()))
	}
	s.fail(fmt.Errorf("%w: not the length of an address", errBody))
	return netip.Addr{}
}

func (s *scanner) nlri(dst []bgp.NLRI, pathIDs bool) []bgp.NLRI {
	for n := s.count(maxElements, 1); n > 0 && s.err == nil; n-- {
		var e bgp.NLRI
		switch l := int(s.byte()); {
		case l <= 32:
			var b [4]byte
			copy(b[:], s.bytes((l+7)/8))
			e.Prefix = netip.PrefixFrom(netip.AddrFrom4(b), l).Masked()
		case l >= v6Lengths && l <= v6Lengths+128:
			var b [16]byte
			copy(b[:], s.bytes((l-v6Lengths+7)/8))
			e.Prefix = netip.PrefixFrom(netip.AddrFrom16(b), l-v6Lengths).Masked()
		case l != noPrefix:
			s.fail(fmt.Errorf("%w: not the length of a prefix", errBody))
		}
		if pathIDs {
			e.PathID = s.uint32()
		}
		dst = append(dst, e)
	}
	return dst
}

func (s *scanner) uint32s() []uint32 {
	n := s.count(maxElements, 1)
	if n == 0 {
		return nil
	}
	list := make([]uint32, n)
	for i := range list {
		list[i] = s.uint32()
	}
	return list
}

// attributes decodes what appendAttributes wrote. The result owns its memory.
func (s *scanner) attributes(a *bgp.Attributes) {
	*a = bgp.Attributes{Has: bgp.Attr(s.uint32())}
	if a.Has&^knownBits != 0 {
		s.fail(fmt.Errorf("%w: unknown attribute bits", errBody))
	}
	if a.Has&bgp.HasOrigin != 0 {
		a.Origin = s.byte()
	}
	if a.Has&bgp.HasASPath != 0 {
		if n := s.count(maxElements, 2); n > 0 {
			a.ASPath = make(bgp.ASPath, n)
			for i := range a.ASPath {
				a.ASPath[i].Type = bgp.SegmentType(s.byte())
				a.ASPath[i].ASNs = s.uint32s()
			}
		}
	}
	if a.Has&bgp.HasNextHop != 0 {
		a.NextHop = s.addr()
	}
	if a.Has&bgp.HasMED != 0 {
		a.MED = s.uint32()
	}
	if a.Has&bgp.HasLocalPref != 0 {
		a.LocalPref = s.uint32()
	}
	if a.Has&bgp.HasAggregator != 0 {
		a.Aggregator.ASN = s.uint32()
		a.Aggregator.Addr = s.addr()
	}
	if a.Has&bgp.HasCommunities != 0 {
		if n := s.count(maxElements, 4); n > 0 {
			a.Communities = make([]uint32, n)
			for i := range a.Communities {
				a.Communities[i] = binary.BigEndian.Uint32(s.bytes(4))
			}
		}
	}
	if a.Has&bgp.HasOriginatorID != 0 {
		a.OriginatorID = s.addr()
	}
	if a.Has&bgp.HasClusterList != 0 {
		a.ClusterList = s.uint32s()
	}
	if a.Has&bgp.HasExtCommunities != 0 {
		if n := s.count(maxElements, 8); n > 0 {
			a.ExtCommunities = make([]uint64, n)
			for i := range a.ExtCommunities {
				a.ExtCommunities[i] = binary.BigEndian.Uint64(s.bytes(8))
			}
		}
	}
	if a.Has&bgp.HasLargeCommunities != 0 {
		if n := s.count(maxElements, 3); n > 0 {
			a.LargeCommunities = make([]bgp.LargeCommunity, n)
			for i := range a.LargeCommunities {
				a.LargeCommunities[i] = bgp.LargeCommunity{Global: s.uint32(), Local1: s.uint32(), Local2: s.uint32()}
			}
		}
	}
	if a.Has&bgp.HasOTC != 0 {
		a.OTC = s.uint32()
	}
	if a.Has&bgp.HasAIGP != 0 {
		a.AIGP = s.uvarint()
	}
	a.LinkLocal = s.addr()
	for n := s.count(maxElements, 3); n > 0 && s.err == nil; n-- {
		r := bgp.RawAttribute{Flags: s.byte(), Type: s.byte()}
		if l := s.count(maxElements, 1); l > 0 {
			r.Value = append([]byte(nil), s.bytes(l)...)
		}
		a.Unknown = append(a.Unknown, r)
	}
}

// Reader steps through the updates of one body.
type Reader struct {
	scanner
	watermark ingest.Time
	left      int // updates
	routes    int // prefixes that may still come
	peers     []ingest.Peer
	last      ingest.Time
	attrs     []byte            // of the update that Next returned; empty when it has none
	names     map[string]string // of collectors, which repeat in every body
	room      []byte            // for payloads
}

// Open starts on a body, which must not change until the last call of Next.
func (r *Reader) Open(body []byte) error {
	payload, err := Decompress(r.room, body)
	if err != nil {
		return err
	}
	if body[1] != methodRaw {
		r.room = payload
	}
	return r.open(payload)
}

func (r *Reader) open(payload []byte) error {
	if r.names == nil {
		r.names = make(map[string]string)
	}
	*r = Reader{scanner: scanner{rest: payload}, peers: r.peers[:0], names: r.names, room: r.room}
	r.watermark = ingest.Time(r.varint())
	r.last = r.watermark
	r.left = r.count(maxUpdates, 5)
	r.routes = maxRoutes
	return r.err
}

// Next reads one update into u, reusing its slices of prefixes but leaving its attributes, which
// are left encoded in r.attrs. It returns false at the end and on an error, which Err tells.
func (r *Reader) Next(u *ingest.Update) bool {
	if r.err != nil || r.left == 0 {
		if r.err == nil && len(r.rest) > 0 {
			r.fail(fmt.Errorf("%w: %d bytes after the last update", errBody, len(r.rest)))
		}
		return false
	}
	r.left--
	flags := r.byte()
	if flags>>6 != 0 {
		r.fail(fmt.Errorf("%w: unknown flags", errBody))
	}
	u.Kind = ingest.Kind(flags & kindMask)
	r.last += ingest.Time(r.varint())
	u.Time = r.last
	n := r.uvarint()
	if n == uint64(len(r.peers)) && r.err == nil {
		p := ingest.Peer{Collector: r.name(), Addr: r.addr(), ASN: r.uint32(), View: ingest.View(r.byte())}
		if !p.View.Known() {
			r.fail(fmt.Errorf("%w: unknown view", errBody))
		}
		r.peers = append(r.peers, p)
	}
	if n >= uint64(len(r.peers)) {
		r.fail(errTooLong)
		return false
	}
	u.Peer = r.peers[n]
	u.Withdrawn = r.nlri(u.Withdrawn[:0], flags&flagPathIDs != 0)
	u.Announced = r.nlri(u.Announced[:0], flags&flagPathIDs != 0)
	if r.routes -= len(u.Withdrawn) + len(u.Announced); r.routes < 0 {
		r.fail(errTooLong)
	}
	r.attrs = nil
	if flags&flagAttributes != 0 {
		r.attrs = r.bytes(r.count(maxPayload, 1))
	}
	return r.err == nil
}

// Err is why Next returned false: nil at the end of the body.
func (r *Reader) Err() error { return r.err }

func (r *Reader) name() string {
	b := r.text()
	if known, ok := r.names[string(b)]; ok {
		return known
	}
	name := string(b)
	r.names[name] = name
	return name
}

// Attributes decodes those of the update that Next returned.
func (r *Reader) Attributes(a *bgp.Attributes) error {
	if len(r.attrs) == 0 {
		*a = bgp.Attributes{}
		return nil
	}
	s := scanner{rest: r.attrs}
	s.attributes(a)
	if s.err == nil && len(s.rest) > 0 {
		s.fail(fmt.Errorf("%w: %d bytes after the last attribute", errBody, len(s.rest)))
	}
	return s.err
}

// Decode reads a whole body. The batch owns its memory.
func Decode(body []byte) (*ingest.Batch, error) {
	var r Reader
	if err := r.Open(body); err != nil {
		return nil, err
	}
	b := &ingest.Batch{Watermark: r.watermark}
	if r.left > 0 {
		b.Updates = make([]ingest.Update, 0, min(r.left, 1<<12))
	}
	for {
		var u ingest.Update
		if !r.Next(&u) {
			break
		}
		if err := r.Attributes(&u.Attrs); err != nil {
			return nil, err
		}
		b.Updates = append(b.Updates, u)
	}
	if r.err != nil {
		return nil, r.err
	}
	return b, nil
}
