package mrt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Format is the kind of record that something was read from.
type Format uint8

const (
	BGP         Format = iota + 1 // MRTD's messages
	TableDump                     // a row of an old table dump
	TableDumpV2                   // a row of a table dump
	BGP4MP                        // a message, a state change, or a row of an OpenBGPD "table-mp"
	BGP4MPET                      // with microseconds
	BMP                           // no MRT: a message of a router, which package archive presents in the same way
)

// Item is what one record, or one entry of a table record, says. It and all that it points to hold
// only until the reader's next call.
type Item struct {
	Offset int64 // of the record in the decompressed file
	Time   ingest.Time
	Format Format
	Kind   ingest.Kind
	Peer   ingest.Peer
	// Local: the message was sent by the collector, and Peer is who received it (RFC 6396 §4.4.5).
	Local bool
	// AddPath: the record's routes have path identifiers.
	AddPath bool
	// State: a change from OldState to NewState, and nothing else, is reported. Kind is PeerUp or
	// PeerDown if the session came to carry routes or ceased to; of other changes it says nothing.
	State              bool
	OldState, NewState uint16
	// Originated is when the peer's route was learned; of table rows only.
	Originated ingest.Time
	// BGP is the message, or the attributes of a table row; nil for a state change.
	BGP *bgp.Update
}

// Reader reads one MRT file. It is not safe for concurrent use.
type Reader struct {
	in        window
	name      string
	collector string
	counts    Counts

	decoder bgp.Decoder
	peers   []ingest.Peer // of the last peer index table; nil before the first
	last    uint32        // time of the last record that was in order
	isMRT   bool          // a plausible header was seen
	excess  int           // octets of the record after its BGP message
	item    Item

	// The table record that is being read, entry by entry.
	rib struct {
		left   int
		body   []byte // the entries not read yet
		family bgp.Family
		prefix netip.Prefix
	}

	update  ingest.Update
	pending bool // the routes of MP_REACH_NLRI are still to be handed on
	end     error
}

// NewReader reads src, which must not be compressed. name is for error messages. collector is what
// the peers' Collector is set to.
func NewReader(src io.Reader, name, collector string) *Reader {
	return &Reader{in: window{src: src}, name: name, collector: collector}
}

// Counts returns what was read so far. The maps are the reader's own.
func (r *Reader) Counts() Counts { return r.counts }

// Offset is how many octets of the decompressed file were read.
func (r *Reader) Offset() int64 { return r.in.off }

// Next returns the next update: routes of unicast families, rows of a table, sessions that came up
// or went down. What the collector itself sent is left out. It holds until the next call.
//
// The error is io.EOF at the end; a [*RecordError] for a damaged record, after which Next may be
// called again; any other error, which names the file, is final.
func (r *Reader) Next() (*ingest.Update, error) {
	if r.pending {
		r.pending = false
		u := r.item.BGP
		r.update.Withdrawn, r.update.Announced = nil, u.Announced[u.Classic:]
		r.update.Attrs.NextHop, r.update.Attrs.LinkLocal = u.MPNextHop, u.MPLinkLocal
		return &r.update, nil
	}
	for {
		it, err := r.NextItem()
		if err != nil {
			return nil, err
		}
		if it.Local {
			continue
		}
		r.update = ingest.Update{Time: it.Time, Peer: it.Peer, Kind: it.Kind}
		if it.State {
			if it.Kind == ingest.Routes {
				continue
			}
			return &r.update, nil
		}
		u := it.BGP
		if len(u.Withdrawn)+len(u.Announced) == 0 {
			continue
		}
		r.update.Withdrawn, r.update.Announced, r.update.Attrs = u.Withdrawn, u.Announced, u.Attrs
		if u.Classic > 0 && u.Classic < len(u.Announced) {
			r.pending = true // two next hops: RFC 7606 §5.1 discourages it, but it is allowed
			r.update.Announced = u.Announced[:u.Classic]
		}
		return &r.update, nil
	}
}

// NextItem is Next for those who want to see everything: every UPDATE, multicast routes, messages
// that the collector sent, all state changes. The two may be mixed.
func (r *Reader) NextItem() (*Item, error) {
	r.pending = false
	for {
		if r.rib.left > 0 {
			ok, err := r.ribEntry()
			if err != nil {
				return nil, r.recordError(r.item.Offset, 0, err)
			}
			if ok {
				return &r.item, nil
			}
			continue
		}
		if r.end != nil {
			return nil, r.end
		}
		ok, err := r.record()
		if err != nil {
			return nil, err
		}
		if ok {
			return &r.item, nil
		}
	}
}

type header struct {
	time         uint32
	typ, subtype uint16
	length       uint32 // of the body
}

func parseHeader(b []byte) header {
	return header{
		time:    binary.BigEndian.Uint32(b),
		typ:     binary.BigEndian.Uint16(b[4:]),
		subtype: binary.BigEndian.Uint16(b[6:]),
		length:  binary.BigEndian.Uint32(b[8:]),
	}
}

// plausible is for finding records among rubbish: the type is one that has a meaning, and the
// length one that it can have.
func (h header) plausible() bool {
	least, subtypes := uint32(0), uint16(0)
	switch h.typ {
	case typeBGP:
		least, subtypes = 0, 7
	case typeTableDump:
		least, subtypes = 22, 4
	case typeTableDumpV2:
		least, subtypes = 8, 12
	case typeBGP4MP:
		least, subtypes = 8, messageAS4LocalAP
	case typeBGP4MPET:
		least, subtypes = 12, messageAS4LocalAP
	case typeOSPFv2, typeOSPFv3, typeOSPFv3ET, typeISIS, typeISISET:
		least, subtypes = 1, 2
	default:
		return false
	}
	return h.subtype <= subtypes && h.length >= least && h.length <= MaxRecord
}

// record reads one record; ok says that r.item is something to hand on.
func (r *Reader) record() (ok bool, err error) {
	b := r.in.fill(headerLength)
	start := r.in.off
	if len(b) == 0 {
		return false, r.finish()
	}
	if len(b) < headerLength {
		err := damaged("truncated", "the file ends after %d of the %d octets of a header", len(b), headerLength)
		r.in.discard(len(b))
		r.counts.Bytes = r.in.off
		if !r.isMRT {
			return false, r.finish()
		}
		return false, r.recordError(start, 0, err)
	}
	h := parseHeader(b)
	if h.length > MaxRecord {
		return false, r.resync(start, damaged("length", "type %d, length %d; %d is the most", h.typ, h.length, MaxRecord))
	}
	total := headerLength + int(h.length)
	r.isMRT = r.isMRT || h.plausible()
	if !h.plausible() && !r.plausibleAt(total) {
		return false, r.resync(start, damaged("header", "no record has type %d, subtype %d and length %d", h.typ, h.subtype, h.length))
	}
	// The next header is fetched too: nothing in memory may move while the item is in use.
	if b = r.in.fill(total + headerLength); len(b) < total {
		if r.in.err != io.EOF {
			return false, r.finish()
		}
		return false, r.resync(start, damaged("truncated", "the file ends after %d of %d octets", len(b), total))
	}
	r.item = Item{Offset: start, Time: ingest.Time(h.time) * 1e6}
	r.counts.Records++
	r.excess = 0
	ok, err = r.decode(h, b[headerLength:total])
	if !r.plausibleAt(total) { // the length may be what is wrong
		if err != nil {
			return false, r.resync(start, err)
		}
		if r.excess > 0 && r.plausibleAt(total-r.excess) {
			total -= r.excess
		}
	}
	r.in.discard(total)
	r.counts.Bytes = r.in.off
	if err != nil {
		return false, r.recordError(start, 0, err)
	}
	r.last = h.time
	return ok, nil
}

// plausibleAt reports whether a record, or the end, follows n octets from here.
func (r *Reader) plausibleAt(n int) bool {
	b := r.in.fill(n + headerLength)
	return len(b) == n || len(b) == n+headerLength && parseHeader(b[n:]).plausible()
}

// resync passes over a record that cannot be read, to the next header that is plausible, follows
// the last good one in time within a week, and is itself followed by a plausible one or the end.
func (r *Reader) resync(start int64, cause error) error {
	const week = 7 * 24 * 3600
	r.in.discard(1)
	for {
		b := r.in.fill(headerLength)
		if len(b) < headerLength {
			r.in.discard(len(b))
			break
		}
		h := parseHeader(b)
		if h.plausible() && (r.last == 0 || h.time >= r.last-min(r.last, week) && h.time-r.last+week <= 2*week) &&
			h.length <= readSize && r.plausibleAt(headerLength+int(h.length)) {
			r.isMRT = true
			break
		}
		r.in.discard(1)
	}
	r.counts.Bytes = r.in.off
	if !r.isMRT {
		return r.finish()
	}
	return r.recordError(start, r.in.off-start, cause)
}

// finish says why there is no more input.
func (r *Reader) finish() error {
	switch {
	case r.in.err != io.EOF:
		r.end = fmt.Errorf("%s: cannot be read on at offset %d: %w", r.name, r.in.off, r.in.err)
	case r.in.off == 0:
		r.end = fmt.Errorf("%s: empty; %w", r.name, ErrNotMRT)
	case !r.isMRT:
		r.end = fmt.Errorf("%s: %w", r.name, ErrNotMRT)
	default:
		r.end = io.EOF
	}
	return r.end
}

func (r *Reader) recordError(start, skipped int64, cause error) error {
	e := &RecordError{File: r.name, Offset: start, Reason: "malformed", Err: cause, Skipped: skipped}
	if re, ok := errors.AsType[*reasonError](cause); ok {
		e.Reason = re.reason
	} else if be, ok := errors.AsType[*bgp.Error](cause); ok {
		e.Reason = be.Fault.String()
	}
	count(&r.counts.Malformed, e.Reason, 1)
	return e
}

func (r *Reader) skip(what string) (bool, error) {
	count(&r.counts.Skipped, what, 1)
	return false, nil
}

// faults counts what a message was decoded in spite of.
func (r *Reader) faults(u *bgp.Update) {
	for f := range u.Faults.All() {
		if f != bgp.FaultFamily {
			count(&r.counts.Malformed, f.String(), 1)
			continue
		}
		for _, family := range [...]bgp.Family{u.MPReach, u.MPUnreach} {
			if family != 0 && !bgp.AllFamilies.Has(family) {
				count(&r.counts.Skipped, "family "+family.String(), 1)
			}
		}
	}
}

func (r *Reader) decode(h header, body []byte) (bool, error) {
	switch h.typ {
	case typeBGP4MPET:
		f := fields{b: body}
		micros := f.u32()
		if micros >= 1e6 {
			return false, damaged("microseconds", "%d microseconds", micros)
		}
		r.item.Time += ingest.Time(micros)
		r.item.Format = BGP4MPET
		return r.bgp4mp(h.subtype, f)
	case typeBGP4MP:
		r.item.Format = BGP4MP
		return r.bgp4mp(h.subtype, fields{b: body})
	case typeTableDumpV2:
		r.item.Format = TableDumpV2
		return r.tableDumpV2(h.subtype, fields{b: body})
	case typeTableDump:
		r.item.Format = TableDump
		return r.tableDump(h.subtype, fields{b: body})
	case typeBGP:
		r.item.Format = BGP
		return r.mrtd(h.subtype, fields{b: body})
	}
	return r.skip(fmt.Sprintf("type %d", h.typ))
}

// fields reads fixed fields off a record's body. After the end it gives zeros, and short is set.
type fields struct {
	b     []byte
	short bool
}

func (f *fields) take(n int) []byte {
	if n > len(f.b) {
		f.short, f.b = true, nil
		return nil
	}
	v := f.b[:n]
	f.b = f.b[n:]
	return v
}

func (f *fields) u8() uint8 {
	if v := f.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (f *fields) u16() uint16 {
	if v := f.take(2); v != nil {
		return binary.BigEndian.Uint16(v)
	}
	return 0
}

func (f *fields) u32() uint32 {
	if v := f.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (f *fields) asn(octets int) uint32 {
	if octets == 2 {
		return uint32(f.u16())
	}
	return f.u32()
}

func (f *fields) addr4() netip.Addr {
	if v := f.take(4); v != nil {
		return netip.AddrFrom4([4]byte(v))
	}
	return netip.Addr{}
}

func (f *fields) addr6() netip.Addr {
	if v := f.take(16); v != nil {
		return netip.AddrFrom16([16]byte(v))
	}
	return netip.Addr{}
}

func (f *fields) addr(afi uint16) (netip.Addr, error) {
	switch afi {
	case 1:
		return f.addr4(), nil
	case 2:
		return f.addr6(), nil
	}
	return netip.Addr{}, damaged("afi", "address family %d", afi)
}

// prefix reads a prefix length and as many octets as it needs.
func (f *fields) prefix(afi uint16) (netip.Prefix, error) {
	bits := int(f.u8())
	v := f.take((bits + 7) / 8)
	switch {
	case f.short:
		return netip.Prefix{}, errShort
	case afi == 1 && bits <= 32:
		var a [4]byte
		copy(a[:], v)
		return netip.PrefixFrom(netip.AddrFrom4(a), bits).Masked(), nil
	case afi == 2 && bits <= 128:
		var a [16]byte
		copy(a[:], v)
		return netip.PrefixFrom(netip.AddrFrom16(a), bits).Masked(), nil
	case afi == 1 || afi == 2:
		return netip.Prefix{}, damaged("prefix", "a prefix length of %d", bits)
	}
	return netip.Prefix{}, damaged("afi", "address family %d", afi)
}

var errShort = damaged("short", "the record is shorter than its fields")

func (r *Reader) peer(asn uint32, addr netip.Addr) ingest.Peer {
	return ingest.Peer{Collector: r.collector, Addr: addr, ASN: asn}
}

// bgp4mp decodes a message or a state change (RFC 6396 §4.4).
func (r *Reader) bgp4mp(subtype uint16, f fields) (bool, error) {
	size, o := 4, bgp.Options{}
	switch subtype {
	case stateChange, message, messageLocal, messageAddPath, messageLocalAddPath, entry, snapshot:
		size, o.TwoOctetAS = 2, true
	case messageAS4, stateChangeAS4, messageAS4Local, messageAS4AddPath, messageAS4LocalAP:
	default:
		return r.skip(fmt.Sprintf("bgp4mp subtype %d", subtype))
	}
	if subtype >= messageAddPath {
		o.AddPath = bgp.AllFamilies
		r.item.AddPath = true
	}
	switch subtype {
	case snapshot:
		return r.skip("bgp4mp snapshot")
	case messageLocal, messageAS4Local, messageLocalAddPath, messageAS4LocalAP:
		// The fields say peer and local as in all others, and the peer is the recipient.
		r.item.Local = true
	}
	asn := f.asn(size)
	f.take(size + 2) // the collector's AS, the interface
	afi := f.u16()
	addr, err := f.addr(afi)
	if err != nil {
		return false, err
	}
	if _, err = f.addr(afi); err != nil { // the collector's address
		return false, err
	}
	r.item.Peer = r.peer(asn, addr)
	switch subtype {
	case stateChange, stateChangeAS4:
		before, after := f.u16(), f.u16()
		if f.short {
			return false, errShort
		}
		r.state(before, after)
		return true, nil
	case entry:
		return r.bgp4mpEntry(f)
	}
	if f.short {
		return false, errShort
	}
	typ, body, rest, err := bgp.Split(f.b)
	if err != nil {
		return false, err
	}
	if r.excess = len(rest); r.excess > 0 {
		count(&r.counts.Malformed, "octets_after_message", 1)
	}
	if typ != bgp.TypeUpdate {
		return r.skip(typ.String())
	}
	u, guessed, err := r.decoder.UpdateUnmarked(body, o)
	if err != nil {
		return false, err
	}
	if guessed {
		count(&r.counts.Malformed, "unmarked_add_path", 1)
		r.item.AddPath = true
	}
	r.message(u)
	return true, nil
}

func (r *Reader) message(u *bgp.Update) {
	r.faults(u)
	r.counts.Announcements += uint64(len(u.Announced) + len(u.MulticastAnnounced))
	r.counts.Withdrawals += uint64(len(u.Withdrawn) + len(u.MulticastWithdrawn))
	r.item.Kind, r.item.BGP = ingest.Routes, u
}

func (r *Reader) state(before, after uint16) {
	r.counts.StateChanges++
	r.item.State, r.item.OldState, r.item.NewState = true, before, after
	switch {
	case before != established && after == established:
		r.item.Kind = ingest.PeerUp
	case before == established && after != established:
		r.item.Kind = ingest.PeerDown
	}
}

// row hands on one row of a table; ok is false if its route is not to be believed.
func (r *Reader) row(family bgp.Family, route bgp.NLRI, attrs []byte, o bgp.Options) (ok bool, err error) {
	u, err := r.decoder.RIBEntry(family, route, attrs, o)
	if err != nil {
		return false, err
	}
	r.faults(u)
	if u.Faults.Treatment() == bgp.TreatAsWithdraw {
		return r.skip("rib entry with malformed attributes")
	}
	r.counts.RIBEntries++
	r.item.Kind, r.item.BGP = ingest.RIB, u
	return true, nil
}

// bgp4mpEntry decodes the rest of a row as OpenBGPD's "table-mp" has it: view, status, time of
// change, family, next hop, prefix, attributes with two-octet AS numbers.
func (r *Reader) bgp4mpEntry(f fields) (bool, error) {
	f.take(4)
	r.item.Originated = ingest.Time(f.u32()) * 1e6
	afi, safi := f.u16(), f.u8()
	hop := f.take(int(f.u8()))
	family := bgp.FamilyOf(afi, safi)
	if !bgp.AllFamilies.Has(family) && !f.short {
		return r.skip("family " + family.String())
	}
	prefix, err := f.prefix(afi)
	if err != nil {
		return false, err
	}
	attrs := f.take(int(f.u16()))
	if f.short {
		return false, errShort
	}
	ok, err := r.row(family, bgp.NLRI{Prefix: prefix}, attrs, bgp.Options{TwoOctetAS: true})
	if addr, valid := netip.AddrFromSlice(hop); ok && valid && r.item.BGP.Attrs.Has&bgp.HasNextHop == 0 {
		a := &r.item.BGP.Attrs
		a.NextHop = addr
		a.Has |= bgp.HasNextHop
	}
	return ok, err
}

// tableDump decodes a row of an old table dump (RFC 6396 §4.2).
func (r *Reader) tableDump(subtype uint16, f fields) (bool, error) {
	afi, size := subtype, 2
	if subtype == 3 || subtype == 4 { // not in the RFC; some writers' four-octet form
		afi, size = subtype-2, 4
	}
	if afi != 1 && afi != 2 {
		return r.skip(fmt.Sprintf("table_dump subtype %d", subtype))
	}
	f.take(4) // view, sequence number
	addr, _ := f.addr(afi)
	bits := int(f.u8())
	f.take(1) // status
	r.item.Originated = ingest.Time(f.u32()) * 1e6
	peer, _ := f.addr(afi)
	r.item.Peer = r.peer(f.asn(size), peer)
	attrs := f.take(int(f.u16()))
	if f.short {
		return false, errShort
	}
	prefix, err := addr.Prefix(bits)
	if err != nil {
		return false, damaged("prefix", "a prefix length of %d", bits)
	}
	return r.row(bgp.FamilyOf(afi, 1), bgp.NLRI{Prefix: prefix}, attrs, bgp.Options{TwoOctetAS: size == 2})
}

// mrtd decodes the messages of 1999 to 2001 (RFC 6396 appendix B.2): an UPDATE without its header.
func (r *Reader) mrtd(subtype uint16, f fields) (bool, error) {
	switch subtype {
	case bgpUpdate:
		asn, addr := uint32(f.u16()), f.addr4()
		f.take(6) // the collector's AS and address
		if f.short {
			return false, errShort
		}
		r.item.Peer = r.peer(asn, addr)
		u, err := r.decoder.Update(f.b, bgp.Options{TwoOctetAS: true})
		if err != nil {
			return false, err
		}
		r.message(u)
		return true, nil
	case bgpStateChange:
		r.item.Peer = r.peer(uint32(f.u16()), f.addr4())
		before, after := f.u16(), f.u16()
		if f.short {
			return false, errShort
		}
		r.state(before, after)
		return true, nil
	}
	names := [...]string{0: "null", 2: "preferences", 4: "sync", 5: bgp.TypeOpen.String(), 6: bgp.TypeNotification.String(), 7: bgp.TypeKeepalive.String()}
	if int(subtype) < len(names) {
		return r.skip(names[subtype])
	}
	return r.skip(fmt.Sprintf("bgp subtype %d", subtype))
}

// tableDumpV2 decodes the peer index, or the head of a record whose entries are read one by one
// (RFC 6396 §4.3).
func (r *Reader) tableDumpV2(subtype uint16, f fields) (bool, error) {
	switch subtype {
	case peerIndexTable:
		return false, r.peerIndex(f)
	case geoPeerTable:
		return r.skip("geo peer table")
	}
	plain := subtype
	if subtype >= ribIPv4UnicastAddPath && subtype <= ribGenericAddPath {
		plain = subtype - ribIPv4UnicastAddPath + ribIPv4Unicast
		r.item.AddPath = true
	}
	f.take(4) // sequence number
	var family bgp.Family
	switch plain {
	case ribIPv4Unicast:
		family = bgp.IPv4Unicast
	case ribIPv4Multicast:
		family = bgp.IPv4Multicast
	case ribIPv6Unicast:
		family = bgp.IPv6Unicast
	case ribIPv6Multicast:
		family = bgp.IPv6Multicast
	case ribGeneric:
		afi := f.u16()
		family = bgp.FamilyOf(afi, f.u8())
		if f.short {
			return false, errShort
		}
		if !bgp.AllFamilies.Has(family) {
			return r.skip("family " + family.String())
		}
	default:
		return r.skip(fmt.Sprintf("table_dump_v2 subtype %d", subtype))
	}
	prefix, err := f.prefix(family.AFI())
	if err != nil {
		return false, err
	}
	n := int(f.u16())
	if f.short {
		return false, errShort
	}
	if r.peers == nil && n > 0 {
		return false, damaged("no_peer_index", "a table record before the peer index table")
	}
	// The shape is checked first, so that a wrong length is found before an entry is handed on.
	for i, rest := 0, f; i < n; i++ {
		r.entryHead(&rest)
		rest.take(int(rest.u16()))
		if rest.short {
			return false, damaged("short", "the record ends in entry %d of %d", i+1, n)
		}
	}
	r.rib.left, r.rib.body, r.rib.family, r.rib.prefix = n, f.b, family, prefix
	return false, nil
}

// entryHead reads an entry up to the length of its attributes.
func (r *Reader) entryHead(f *fields) (peer uint16, originated, id uint32) {
	peer, originated = f.u16(), f.u32()
	if r.item.AddPath {
		id = f.u32()
	}
	return peer, originated, id
}

func (r *Reader) ribEntry() (bool, error) {
	f := fields{b: r.rib.body}
	index, originated, id := r.entryHead(&f)
	attrs := f.take(int(f.u16()))
	r.rib.left--
	r.rib.body = f.b
	if int(index) >= len(r.peers) {
		return false, damaged("peer_index", "an entry of peer %d; the peer index table has %d", index, len(r.peers))
	}
	r.item.Peer = r.peers[index]
	r.item.Originated = ingest.Time(originated) * 1e6
	return r.row(r.rib.family, bgp.NLRI{Prefix: r.rib.prefix, PathID: id}, attrs, bgp.Options{})
}

func (r *Reader) peerIndex(f fields) error {
	f.take(4)            // the collector's identifier
	f.take(int(f.u16())) // the view's name
	n := int(f.u16())
	peers := make([]ingest.Peer, 0, min(n, len(f.b)/11))
	for range n {
		kind := f.u8()
		f.take(4) // the peer's identifier
		var addr netip.Addr
		if kind&1 != 0 {
			addr = f.addr6()
		} else {
			addr = f.addr4()
		}
		size := 2
		if kind&2 != 0 {
			size = 4
		}
		asn := f.asn(size)
		if f.short {
			return errShort
		}
		peers = append(peers, r.peer(asn, addr))
	}
	if f.short {
		return errShort
	}
	r.peers = peers
	return nil
}
