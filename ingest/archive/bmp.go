package archive

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/gopacket/gopacket/reassembly"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bmp"
	"github.com/routevigil/routevigil/ingest/mrt"
)

// bmpReader presents what routers said over BMP as if it were MRT. Its messages come from a source: a
// plain stream, or the connections of a capture.
type bmpReader struct {
	name   string
	source interface {
		// next returns one whole message of one session, and where it begins: in the stream, or in what
		// the router sent on its connection. The error is that of bmp.Reader.Next, or it is final.
		next() (b []byte, s *bmp.Session, at int64, received ingest.Time, err error)
		sessions() []*bmp.Session
		read() int64
	}
	messages uint64
	states   uint64

	session *bmp.Session
	now     *bmp.Item // whose changes are being handed on
	changes int       // that were
	offset  int64
	item    mrt.Item

	updates []ingest.Update // of an item, those after the first
	handed  int
}

// newBMP returns nil if head is not the beginning of BMP or of a capture; vrfs as in [bmp.NewSession].
func newBMP(in *bufio.Reader, head []byte, name, collector string, vrfs bool) *bmpReader {
	r := &bmpReader{name: name}
	switch {
	case isCapture(head):
		r.source = &capture{in: in, collector: collector, vrfs: vrfs}
	case bmp.Plausible(head) && !mrt.Plausible(head):
		r.source = &stream{in: bmp.NewReader(in, bmp.MaxLength), session: bmp.NewSession(collector, vrfs)}
	default:
		return nil
	}
	return r
}

// message takes in the next message.
func (r *bmpReader) message() (*bmp.Item, error) {
	b, s, at, received, err := r.source.next()
	r.offset = at
	if err == nil {
		r.messages++
		var it *bmp.Item
		if it, err = s.Message(b, received); err == nil {
			r.session = s
			return it, nil
		}
		return nil, r.damaged(err)
	}
	if e, ok := errors.AsType[*bmp.Error](err); ok {
		r.messages++
		s.Counts().CountMalformed(e.Reason)
		return nil, r.damaged(err)
	}
	switch err {
	case io.EOF:
		return nil, err
	case errNoBMP:
		return nil, fmt.Errorf("%s: %w", r.name, err)
	}
	return nil, fmt.Errorf("%s: cannot be read on at offset %d: %w", r.name, at, err)
}

func (r *bmpReader) damaged(err error) error {
	e := &mrt.RecordError{File: r.name, Offset: r.offset, Reason: "malformed", Err: err}
	if be, ok := errors.AsType[*bmp.Error](err); ok {
		e.Reason = be.Reason
	} else if be, ok := errors.AsType[*bgp.Error](err); ok {
		e.Reason = be.Fault.String()
	}
	return e
}

// next returns the next item.
func (r *bmpReader) next() (*mrt.Item, error) {
	for {
		if r.now != nil {
			it := r.now
			r.item = mrt.Item{Offset: r.offset, Time: it.Time, Format: mrt.BMP}
			if r.changes < len(it.Changes) {
				c := it.Changes[r.changes]
				r.changes++
				r.states++
				// What is told is that the session came up, or ceased to be up; the state machine of RFC 4271
				// §8.2.2 lets that happen in one way each.
				r.item.Peer, r.item.State = c.Peer, true
				r.item.Kind, r.item.OldState, r.item.NewState = ingest.PeerDown, 6, 1
				if c.Up {
					r.item.Kind, r.item.OldState, r.item.NewState = ingest.PeerUp, 5, 6
				}
				return &r.item, nil
			}
			r.now = nil
			if it.BGP != nil {
				r.item.Peer, r.item.BGP, r.item.AddPath = it.Peer, it.BGP, it.AddPath
				return &r.item, nil
			}
		}
		it, err := r.message()
		if err != nil {
			return nil, err
		}
		r.now, r.changes = it, 0
	}
}

// update returns the next update.
func (r *bmpReader) update() (*ingest.Update, error) {
	for {
		if r.handed < len(r.updates) {
			r.handed++
			return &r.updates[r.handed-1], nil
		}
		r.updates, r.handed = r.updates[:0], 0
		it, err := r.message()
		if err != nil {
			return nil, err
		}
		r.states += uint64(len(it.Changes))
		if err := r.session.Emit(it, func(u *ingest.Update) error { r.updates = append(r.updates, *u); return nil }); err != nil {
			return nil, err
		}
	}
}

func (r *bmpReader) allCounts() mrt.Counts {
	c := mrt.Counts{Records: r.messages, StateChanges: r.states, Bytes: r.source.read()}
	for _, s := range r.source.sessions() {
		n := s.Counts()
		c.Add(mrt.Counts{Announcements: n.Announcements, Withdrawals: n.Withdrawals, Malformed: n.Malformed, Skipped: n.Skipped})
		for t, n := range n.Messages {
			if t := bmp.Type(t); n > 0 && t != bmp.TypeRouteMonitoring && t != bmp.TypePeerUp && t != bmp.TypePeerDown {
				c.Add(mrt.Counts{Skipped: map[string]uint64{t.String(): n}})
			}
		}
	}
	return c
}

// stream is BMP as it was on one connection.
type stream struct {
	in      *bmp.Reader
	session *bmp.Session
	failed  bool
}

func (s *stream) next() ([]byte, *bmp.Session, int64, ingest.Time, error) {
	at := s.in.Offset()
	if s.failed {
		return nil, s.session, at, 0, io.EOF
	}
	b, err := s.in.Next()
	s.failed = err != nil // there is no telling where the next message begins
	return b, s.session, at, 0, err
}

func (s *stream) sessions() []*bmp.Session { return []*bmp.Session{s.session} }
func (s *stream) read() int64              { return s.in.Offset() }

// isCapture reports whether a file begins as one of pcap or pcapng does.
func isCapture(head []byte) bool {
	for _, magic := range []string{"\xa1\xb2\xc3\xd4", "\xd4\xc3\xb2\xa1", "\xa1\xb2\x3c\x4d", "\x4d\x3c\xb2\xa1", "\x0a\x0d\x0d\x0a"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return false
}

// Bounds of what is kept of packets that came out of order.
const (
	maxPages           = 1 << 14 // of about 2 KB
	maxConnectionPages = 1 << 11
)

// errNoBMP is the end of a capture in which nothing looked like BMP.
var errNoBMP = errors.New("no BMP in this capture: no TCP connection whose first octets here begin a BMP message")

// capture takes the TCP connections in a capture of packets apart. One that begins as BMP does is BMP,
// whatever its port; all others are passed over.
type capture struct {
	in        io.Reader
	collector string
	vrfs      bool

	packets   *gopacket.PacketSource
	assembler *reassembly.Assembler
	octets    int64
	found     []*bmp.Session
	ready     []*flow // that may hold a whole message
	ended     bool
}

// flow is one direction of a connection.
type flow struct {
	capture *capture
	router  string
	session *bmp.Session // nil as long as it is not known to be BMP
	dead    bool         // not BMP, or its place in the stream is lost
	gap     bool         // octets are missing after buf
	buf     []byte
	off     int64
	time    time.Time // of the last packet
}

func (c *capture) open() error {
	buffered := bufio.NewReader(c.in)
	magic, err := buffered.Peek(4)
	if err != nil {
		return err
	}
	var source gopacket.PacketDataSource
	var link layers.LinkType
	if string(magic) == "\x0a\x0d\x0d\x0a" {
		r, err := pcapgo.NewNgReader(buffered, pcapgo.DefaultNgReaderOptions)
		if err != nil {
			return err
		}
		source, link = r, r.LinkType()
	} else {
		r, err := pcapgo.NewReader(buffered)
		if err != nil {
			return err
		}
		source, link = r, r.LinkType()
	}
	c.packets = gopacket.NewPacketSource(source, link)
	c.packets.Lazy = true
	c.assembler = reassembly.NewAssembler(reassembly.NewStreamPool(c))
	c.assembler.MaxBufferedPagesTotal, c.assembler.MaxBufferedPagesPerConnection = maxPages, maxConnectionPages
	return nil
}

func (c *capture) next() ([]byte, *bmp.Session, int64, ingest.Time, error) {
	if c.packets == nil {
		if err := c.open(); err != nil {
			return nil, nil, 0, 0, err
		}
	}
	for {
		for len(c.ready) > 0 {
			f := c.ready[0]
			at := f.off
			b, err := f.take()
			if err != nil {
				return b, f.session, at, 0, err
			}
			if b != nil {
				return b, f.session, at, ingest.TimeOf(f.time), nil
			}
			c.ready = c.ready[1:]
		}
		if c.ended {
			if len(c.found) == 0 {
				return nil, nil, c.octets, 0, errNoBMP
			}
			return nil, nil, c.octets, 0, io.EOF
		}
		p, err := c.packets.NextPacket()
		if err == io.EOF {
			c.ended = true
			c.assembler.FlushAll()
			continue
		}
		if err != nil {
			c.ended = true
			return nil, nil, c.octets, 0, err
		}
		c.octets += int64(p.Metadata().CaptureLength)
		network, tcp := p.NetworkLayer(), p.TransportLayer()
		if t, ok := tcp.(*layers.TCP); ok && network != nil {
			// Captures that were made up from messages have data in the first packet, and count as if its
			// SYN took no place in the sequence. No router opens a connection with data (RFC 7413).
			t.SYN = t.SYN && len(t.Payload) == 0
			c.assembler.AssembleWithContext(network.NetworkFlow(), t, packetTime{p.Metadata().CaptureInfo})
		}
	}
}

func (c *capture) sessions() []*bmp.Session { return c.found }
func (c *capture) read() int64              { return c.octets }

// take takes the next whole message; nil if there is none yet.
func (f *flow) take() ([]byte, error) {
	if f.dead || len(f.buf) < bmp.HeaderLength && !f.gap {
		return nil, nil
	}
	if f.session == nil {
		if !bmp.Plausible(f.buf) {
			f.dead, f.buf = true, nil
			return nil, nil
		}
		name := f.capture.collector
		if name == "" {
			name = f.router
		}
		f.session = bmp.NewSession(name, f.capture.vrfs)
		f.capture.found = append(f.capture.found, f.session)
	}
	n, err := bmp.Length(f.buf)
	if err == nil && n > len(f.buf) && f.gap {
		err = &bmp.Error{Reason: "truncated", Offset: len(f.buf), Detail: "packets are missing from the capture; the rest of this connection is not read"}
	}
	if err != nil {
		f.dead = true
		return f.buf, err
	}
	if n > len(f.buf) {
		return nil, nil
	}
	b := f.buf[:n:n]
	f.buf = f.buf[n:]
	f.off += int64(n)
	return b, nil
}

// packetTime is when a packet came, for the assembler.
type packetTime struct{ info gopacket.CaptureInfo }

func (c packetTime) GetCaptureInfo() gopacket.CaptureInfo { return c.info }

// New implements reassembly.StreamFactory.
func (c *capture) New(network, _ gopacket.Flow, _ *layers.TCP, _ reassembly.AssemblerContext) reassembly.Stream {
	return &connection{{capture: c, router: network.Src().String()}, {capture: c, router: network.Dst().String()}}
}

// connection is a TCP connection, in the direction of its first packet and in the other one.
type connection [2]flow

// Accept takes every packet, also of a connection whose beginning is not in the capture.
func (x *connection) Accept(_ *layers.TCP, _ gopacket.CaptureInfo, _ reassembly.TCPFlowDirection, _ reassembly.Sequence, start *bool, _ reassembly.AssemblerContext) bool {
	*start = true
	return true
}

// ReassembledSG takes in what follows on a direction.
func (x *connection) ReassembledSG(sg reassembly.ScatterGather, ac reassembly.AssemblerContext) {
	direction, _, _, skip := sg.Info()
	f := &x[0]
	if direction == reassembly.TCPDirServerToClient {
		f = &x[1]
	}
	if f.dead || f.gap {
		return
	}
	if skip > 0 && f.session != nil { // -1: the beginning is not in the capture
		f.gap = true
	} else {
		n, _ := sg.Lengths()
		f.buf = append(f.buf, sg.Fetch(n)...)
		f.time = ac.GetCaptureInfo().Timestamp
	}
	f.capture.ready = append(f.capture.ready, f)
}

// ReassemblyComplete keeps nothing.
func (x *connection) ReassemblyComplete(reassembly.AssemblerContext) bool { return true }
