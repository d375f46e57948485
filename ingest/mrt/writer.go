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

// Writer writes an MRT file as collectors do today: TABLE_DUMP_V2 for tables, BGP4MP with
// four-octet AS numbers for messages and state changes, BGP4MP_ET where the time has microseconds.
// Each record is written by one Write.
type Writer struct {
	w      io.Writer
	record []byte
	bgp    []byte
}

// NewWriter writes to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// begin starts a record; finish sets its length and writes it.
func (w *Writer) begin(t ingest.Time, typ, subtype uint16) {
	b := binary.BigEndian.AppendUint32(w.record[:0], uint32(t/1e6))
	b = binary.BigEndian.AppendUint16(b, typ)
	b = binary.BigEndian.AppendUint16(b, subtype)
	b = append(b, 0, 0, 0, 0)
	if typ == typeBGP4MPET {
		b = binary.BigEndian.AppendUint32(b, uint32(t%1e6))
	}
	w.record = b
}

func (w *Writer) finish() error {
	n := len(w.record) - headerLength
	if n > MaxRecord {
		return fmt.Errorf("MRT record of %d octets; %d is the most", n, MaxRecord)
	}
	binary.BigEndian.PutUint32(w.record[8:], uint32(n))
	_, err := w.w.Write(w.record)
	return err
}

func (w *Writer) u16(n int)         { w.record = binary.BigEndian.AppendUint16(w.record, uint16(n)) }
func (w *Writer) u32(n uint32)      { w.record = binary.BigEndian.AppendUint32(w.record, n) }
func (w *Writer) addr(a netip.Addr) { w.record = append(w.record, a.AsSlice()...) }

// checkTime reports a time that the format cannot hold: before 1970 or after 2106.
func checkTime(t ingest.Time) error {
	if t < 0 || t/1e6 > 0xffffffff {
		return fmt.Errorf("MRT has no form for the time %s", t)
	}
	return nil
}

// RIB writes a table dump taken at t: the peer index table, then one record for each prefix, both
// in the order in which rows first have them. Rows are announcements of any Kind; their Time is
// when the route was learned. With an empty file and a table, it makes what a collector publishes.
func (w *Writer) RIB(t ingest.Time, view string, rows []ingest.Update) error {
	type key struct {
		prefix  netip.Prefix
		addPath bool
	}
	type entry struct {
		row, peer int
		pathID    uint32
	}
	var (
		peers   []ingest.Peer
		indexes = make(map[ingest.Peer]int)
		order   []key
		entries = make(map[key][]entry)
	)
	if err := checkTime(t); err != nil {
		return err
	}
	for i := range rows {
		row := &rows[i]
		if err := errors.Join(checkTime(row.Time), checkPeer(row.Peer)); err != nil {
			return fmt.Errorf("table row %d: %w", i, err)
		}
		peer, ok := indexes[row.Peer]
		if !ok {
			peer = len(peers)
			indexes[row.Peer] = peer
			peers = append(peers, row.Peer)
		}
		for _, route := range row.Announced {
			if !route.Prefix.IsValid() {
				return fmt.Errorf("table row %d: %v is not a prefix", i, route.Prefix)
			}
			k := key{route.Prefix.Masked(), route.PathID != 0}
			if entries[k] == nil {
				order = append(order, k)
			}
			entries[k] = append(entries[k], entry{i, peer, route.PathID})
		}
	}
	if len(peers) > 0xffff {
		return fmt.Errorf("a table of %d peers; MRT has room for 65535", len(peers))
	}
	if len(view) > 0xffff {
		return errors.New("the view's name exceeds 65535 octets")
	}

	w.begin(t, typeTableDumpV2, peerIndexTable)
	w.u32(0) // the collector's identifier
	w.u16(len(view))
	w.record = append(w.record, view...)
	w.u16(len(peers))
	for _, p := range peers {
		kind := byte(2) // four-octet AS number
		if p.Addr.Is6() {
			kind |= 1
		}
		w.record = append(w.record, kind, 0, 0, 0, 0) // the peer's identifier
		w.addr(p.Addr)
		w.u32(p.ASN)
	}
	if err := w.finish(); err != nil {
		return err
	}

	for sequence, k := range order {
		subtype := uint16(ribIPv4Unicast)
		if k.prefix.Addr().Is6() {
			subtype = ribIPv6Unicast
		}
		if k.addPath {
			subtype += ribIPv4UnicastAddPath - ribIPv4Unicast
		}
		if len(entries[k]) > 0xffff {
			return fmt.Errorf("%d routes of %s; MRT has room for 65535", len(entries[k]), k.prefix)
		}
		w.begin(t, typeTableDumpV2, subtype)
		w.u32(uint32(sequence))
		w.record = bgp.AppendPrefix(w.record, k.prefix)
		w.u16(len(entries[k]))
		for _, e := range entries[k] {
			w.u16(e.peer)
			w.u32(uint32(rows[e.row].Time / 1e6))
			if k.addPath {
				w.u32(e.pathID)
			}
			var err error
			if w.bgp, err = bgp.AppendRIBAttributes(w.bgp[:0], &rows[e.row].Attrs); err != nil {
				return fmt.Errorf("table row %d: %w", e.row, err)
			}
			w.u16(len(w.bgp))
			w.record = append(w.record, w.bgp...)
		}
		if err := w.finish(); err != nil {
			return err
		}
	}
	return nil
}

func checkPeer(p ingest.Peer) error {
	if !p.Addr.IsValid() {
		return fmt.Errorf("the peer AS%d has no address", p.ASN)
	}
	return nil
}

// Update writes u as BGP4MP records: a state change for PeerUp and PeerDown, as many messages as it
// needs for Routes. The collector's side is written as AS 0 with an unspecified address.
func (w *Writer) Update(u *ingest.Update) error {
	if err := errors.Join(checkTime(u.Time), checkPeer(u.Peer)); err != nil {
		return err
	}
	switch u.Kind {
	case ingest.PeerUp, ingest.PeerDown:
		before, after := established-1, established
		if u.Kind == ingest.PeerDown {
			before, after = established, 1 // to Idle
		}
		w.bgp4mp(u, stateChangeAS4)
		w.u16(before)
		w.u16(after)
		return w.finish()
	case ingest.Routes:
	default:
		return fmt.Errorf("a %s update is not a message", u.Kind)
	}
	o, subtype := bgp.Options{ExtendedMessage: true}, uint16(messageAS4)
	for _, list := range [...][]bgp.NLRI{u.Withdrawn, u.Announced} {
		for _, route := range list {
			if route.PathID != 0 {
				o.AddPath, subtype = bgp.AllFamilies, messageAS4AddPath
			}
		}
	}
	var err error
	if w.bgp, err = bgp.AppendUpdate(w.bgp[:0], &bgp.Update{Withdrawn: u.Withdrawn, Announced: u.Announced, Attrs: u.Attrs}, o); err != nil {
		return err
	}
	for rest := w.bgp; len(rest) > 0; {
		_, body, after, err := bgp.Split(rest)
		if err != nil {
			return err
		}
		w.bgp4mp(u, subtype)
		w.record = append(w.record, rest[:bgp.HeaderLength+len(body)]...)
		if err := w.finish(); err != nil {
			return err
		}
		rest = after
	}
	return nil
}

// bgp4mp begins a BGP4MP record up to the addresses.
func (w *Writer) bgp4mp(u *ingest.Update, subtype uint16) {
	typ := uint16(typeBGP4MP)
	if u.Time%1e6 != 0 {
		typ = typeBGP4MPET
	}
	w.begin(u.Time, typ, subtype)
	w.u32(u.Peer.ASN)
	w.u32(0) // the collector's AS
	w.u16(0) // interface
	if u.Peer.Addr.Is4() {
		w.u16(1)
		w.addr(u.Peer.Addr)
		w.addr(netip.IPv4Unspecified())
	} else {
		w.u16(2)
		w.addr(u.Peer.Addr)
		w.addr(netip.IPv6Unspecified())
	}
}
