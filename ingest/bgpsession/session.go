package bgpsession

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// state is that of a connection (RFC 4271 §8.2.2). Idle, Connect and Active have none for a speaker
// that only listens.
type state uint8

const (
	openSent state = iota
	openConfirm
	established
	closed
)

func (s state) String() string {
	return [...]string{"OpenSent", "OpenConfirm", "Established", "Closed"}[s]
}

const (
	// farewell bounds how long the neighbour may take to read why its session ended.
	farewell = time.Second
	// leastSendHold is that of RFC 9687 §3.1.
	leastSendHold = 8 * time.Minute
	// firstBuffer holds any message of the handshake.
	firstBuffer = bgp.MaxLength
	// fullBuffer holds any message, and many of the usual size.
	fullBuffer = 1 << 16
)

// session is one connection, from its acceptance to its end. One goroutine, that of run, reads and
// calls the handler; another sends KEEPALIVEs.
type session struct {
	l    *Listener
	n    *neighbour
	conn net.Conn
	addr netip.Addr
	log  *slog.Logger

	state     state // guarded by Listener.mu, as are the next two
	id        netip.Addr
	restarts  bool // the neighbour has the graceful restart capability
	ctx       context.Context
	end       context.CancelCauseFunc // ends the session from another goroutine; the cause is an *ending
	done      chan struct{}           // closed when it is forgotten
	keepalive sync.WaitGroup

	// These are run's alone.
	handle  ingest.Handler
	sent    *bgp.Open
	options bgp.Options
	hold    time.Duration // agreed; 0 for none
	decoder bgp.Decoder
	u       ingest.Update
	routes  routeSet

	buffer   []byte
	from, to int       // what of it was read and not yet used
	received time.Time // when the last of it was read
	deadline time.Time // for the next message; zero for none
	restart  bool      // the hold timer restarts before the next read
}

func newSession(l *Listener, n *neighbour, conn net.Conn, addr netip.Addr) *session {
	ctx, end := context.WithCancelCause(context.Background())
	return &session{l: l, n: n, conn: conn, addr: addr, log: l.log.With("neighbour", addr, "name", n.c.Name),
		ctx: ctx, end: end, done: make(chan struct{}), buffer: make([]byte, firstBuffer)}
}

// handlerError is an error of the consumer, which stops the listener.
type handlerError struct{ error }

// run speaks with the neighbour until the session ends, which is no error: only the handler's is
// returned.
func (s *session) run(ctx context.Context, h ingest.Handler) error {
	s.handle = h
	defer s.conn.Close()
	stop := context.AfterFunc(ctx, func() {
		s.end(closing(reasonStopped, codeCease, ceaseShutdown, nil, "this monitor stops"))
	})
	defer stop()
	interrupted := make(chan struct{})
	interrupt := context.AfterFunc(s.ctx, func() {
		s.conn.SetDeadline(time.Unix(1, 0)) // long ago: whoever waits for the connection gives up
		close(interrupted)
	})

	err := s.converse()

	var failed *handlerError
	errors.As(err, &failed)
	e := s.endingOf(err)
	s.end(e)
	if !interrupt() {
		<-interrupted
	}
	s.keepalive.Wait()
	notify(s.conn, e.notify)
	if s.state == established {
		if err := s.deliver(ingest.PeerDown, time.Now()); err != nil && failed == nil {
			errors.As(err, &failed)
		}
		s.n.prefixes.Add(-int64(len(s.routes.held)))
		s.log.Warn("BGP: session ended", "reason", e.reason, "error", e)
	} else if omitted, ok := s.quiet(); ok {
		s.log.Warn("BGP: no session came about", "reason", e.reason, "error", e, "not_logged_before", omitted)
	}
	s.l.forget(s, e)
	close(s.done)
	if e.notify != nil {
		s.linger()
	}
	if failed != nil && ctx.Err() == nil {
		return failed.error
	}
	return nil
}

func (s *session) quiet() (omitted int, ok bool) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.n.failures.now(time.Now())
}

// endingOf finds out why the conversation ended with err. Whoever ended the session from elsewhere
// knows better than the reader, who only found its connection unusable.
func (s *session) endingOf(err error) *ending {
	var e *ending
	switch {
	case errors.As(err, &e):
	case errors.As(context.Cause(s.ctx), &e):
	case errors.As(err, new(*handlerError)):
		e = closing(reasonStopped, codeCease, ceaseShutdown, nil, "this monitor fails: %v", err)
	case errors.Is(err, os.ErrDeadlineExceeded) && s.state != established:
		e = closing(reasonHandshake, codeHold, 0, nil, "the handshake was not complete after %v", s.l.c.HandshakeTimeout)
	case errors.Is(err, os.ErrDeadlineExceeded):
		e = closing(reasonHeld, codeHold, 0, nil, "no message for %v", s.hold)
	default:
		e = &ending{reason: reasonLost, text: fmt.Sprintf("the connection is lost: %v", err)}
	}
	return e
}

// notify tells the neighbour why the session ends, if it can be told.
func notify(conn net.Conn, n *bgp.Notification) {
	if n != nil {
		conn.SetDeadline(time.Now().Add(farewell))
		conn.Write(bgp.AppendNotification(nil, *n))
	}
}

// linger reads what the neighbour still sends: closing with something unread would reset the
// connection, and the neighbour might never read our NOTIFICATION.
func (s *session) linger() {
	if c, ok := s.conn.(*net.TCPConn); ok {
		c.CloseWrite()
		c.SetReadDeadline(time.Now().Add(farewell))
		io.Copy(io.Discard, io.LimitReader(c, 1<<20))
	}
}

// converse goes through the states. Its error says how it ended.
func (s *session) converse() error {
	s.deadline = time.Now().Add(s.l.c.HandshakeTimeout)
	s.sent = s.l.open(s.n)
	message, err := bgp.AppendOpen(nil, s.sent)
	if err != nil {
		return err
	}
	if err := s.write(message, s.l.c.HandshakeTimeout); err != nil {
		return err
	}
	for {
		if err := s.step(); err != nil {
			return err
		}
	}
}

func (s *session) write(message []byte, within time.Duration) error {
	s.conn.SetWriteDeadline(time.Now().Add(within))
	if s.ctx.Err() != nil { // the deadline may have replaced that of the interruption
		return context.Cause(s.ctx)
	}
	_, err := s.conn.Write(message)
	return err
}

// step reads one message and does what it asks for in the present state.
func (s *session) step() error {
	t, body, err := s.read()
	if err != nil {
		return err
	}
	s.n.messages[t].Add(1)
	s.l.heard.Store(s.received.UnixMicro())
	switch {
	case t == bgp.TypeNotification:
		n, err := bgp.ParseNotification(body)
		if err != nil {
			return err
		}
		return &ending{reason: reasonNotification, text: "the neighbour sent NOTIFICATION: " + describe(n)}
	case s.state == openSent && t == bgp.TypeOpen:
		return s.opened(body)
	case s.state == openConfirm && t == bgp.TypeKeepalive:
		return s.establish()
	case s.state == established && t == bgp.TypeUpdate:
		s.restart = true
		return s.update(body)
	case s.state == established && t == bgp.TypeKeepalive:
		s.restart = true
		return nil
	case s.state == established && t == bgp.TypeRouteRefresh:
		return nil // there is nothing to send again
	}
	// RFC 4271 §6.6, subcodes of RFC 6608.
	return closing(reasonFSM, codeFSM, uint8(s.state)+1, []byte{byte(t)}, "%s in state %s", t, s.state)
}

// opened answers the neighbour's OPEN (RFC 4271 §6.2).
func (s *session) opened(body []byte) error {
	refuse := func(subcode uint8, data []byte, format string, args ...any) error {
		return closing(reasonOpen, codeOpen, subcode, data, format, args...)
	}
	if body[0] != 4 {
		return refuse(openVersion, []byte{0, 4}, "BGP version %d; 4 is known", body[0])
	}
	o, err := bgp.ParseOpen(body)
	if err != nil {
		return refuse(0, nil, "%v", err)
	}
	c := &s.n.c
	switch {
	case o.ASN == 0 || c.RemoteASN != 0 && o.ASN != c.RemoteASN:
		return refuse(openPeerAS, nil, "the neighbour is AS%d, configured is AS%d", o.ASN, c.RemoteASN)
	case o.HoldTime == 1 || o.HoldTime == 2:
		return refuse(openHoldTime, nil, "a hold time of %d seconds; the least is 3", o.HoldTime)
	case o.ID.IsUnspecified() || o.ID == s.l.c.RouterID && o.ASN == c.LocalASN: // RFC 6286 §2.2
		return refuse(openID, nil, "the identifier is %s", o.ID)
	}
	restarts := false
	for _, k := range o.Capabilities {
		switch {
		case k.Code == bgp.CapGracefulRestart:
			restarts = true
		case k.Code != bgp.CapRole || len(k.Value) != 1 || c.Role == "":
		case int(k.Value[0]) >= len(counterpart) || counterpart[k.Value[0]] != roles[c.Role]:
			return refuse(openRole, nil, "the neighbour's role is %d, which does not fit ours, %s", k.Value[0], c.Role)
		}
	}
	s.hold = time.Duration(min(o.HoldTime, s.sent.HoldTime)) * time.Second
	s.options = bgp.Negotiate(o, s.sent)
	s.u.Peer = ingest.Peer{Collector: c.Name, Addr: s.addr.WithZone(""), ASN: o.ASN}

	if err := s.confirm(o, restarts); err != nil {
		return err
	}
	if err := s.write(bgp.AppendKeepalive(nil), s.l.c.HandshakeTimeout); err != nil {
		return err
	}
	if s.hold > 0 {
		s.keepalive.Go(s.keepAlive)
	}
	return nil
}

// confirm enters OpenConfirm, unless another connection of the neighbour is to be kept (RFC 4271 §6.8); if
// this one is, it waits until the other has ended.
func (s *session) confirm(o *bgp.Open, restarts bool) error {
	l := s.l
	l.mu.Lock()
	var other *session
	for _, x := range l.sessions[s.addr] {
		if x == s || x.state != openConfirm && x.state != established {
			continue
		}
		// RFC 6286 §2.3: where the identifiers are the same, AS numbers decide.
		oursIsLess := l.c.RouterID.Less(o.ID) || l.c.RouterID == o.ID && s.n.c.LocalASN < o.ASN
		switch {
		case x.state == established && x.restarts:
			x.end(&ending{reason: reasonReplaced, text: "the neighbour connects anew, so it has restarted (RFC 4724 §5)"})
		case x.state == openConfirm && oursIsLess:
			x.end(closing(reasonCollision, codeCease, ceaseCollision, nil, "another connection of the neighbour is kept"))
		default:
			state := x.state
			l.mu.Unlock()
			return closing(reasonCollision, codeCease, ceaseCollision, nil, "another connection of the neighbour is in state %s", state)
		}
		other = x
	}
	s.state, s.id, s.restarts = openConfirm, o.ID, restarts
	l.mu.Unlock()
	if other != nil {
		select {
		case <-other.done:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
	}
	return nil
}

// keepAlive sends KEEPALIVEs, three for each hold time, until the session ends.
func (s *session) keepAlive() {
	message := bgp.AppendKeepalive(nil)
	for {
		third := s.hold / 3
		wait := time.NewTimer(third*3/4 + rand.N(third/4+1)) // RFC 4271 §10
		select {
		case <-s.ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		sendHold := max(leastSendHold, 2*s.hold)
		if err := s.write(message, sendHold); errors.Is(err, os.ErrDeadlineExceeded) && s.ctx.Err() == nil {
			s.end(&ending{reason: reasonSend, text: fmt.Sprintf("the neighbour read nothing for %v (RFC 9687)", sendHold)})
			return
		} else if err != nil {
			s.end(&ending{reason: reasonLost, text: fmt.Sprintf("the connection is lost: %v", err)})
			return
		}
	}
}

// establish enters Established.
func (s *session) establish() error {
	now := s.received
	l := s.l
	l.mu.Lock()
	if s.ctx.Err() != nil { // collided in the meantime
		l.mu.Unlock()
		return context.Cause(s.ctx)
	}
	s.state = established
	if l.established++; l.established == 1 {
		l.since = now
	}
	if len(l.peers) < maxPeers {
		l.peers[s.u.Peer] = struct{}{}
	}
	l.mu.Unlock()
	s.deadline, s.restart = time.Time{}, true
	s.buffer = append(make([]byte, 0, fullBuffer), s.buffer...)[:fullBuffer]
	s.routes = routeSet{seed: maphash.MakeSeed(), held: map[uint64]struct{}{}}
	s.log.Info("BGP: session established", "asn", s.u.Peer.ASN, "id", s.id, "hold_time", s.hold, "add_path", s.options.AddPath != 0)
	return s.deliver(ingest.PeerUp, now)
}

// deliver hands on that the session came up or went down.
func (s *session) deliver(k ingest.Kind, now time.Time) error {
	u := ingest.Update{Time: ingest.TimeOf(now), Peer: s.u.Peer, Kind: k}
	if err := s.handle(&u); err != nil {
		return &handlerError{err}
	}
	s.n.updates.Add(1)
	return nil
}

// update handles the body of an UPDATE.
func (s *session) update(body []byte) error {
	d, err := s.decoder.Update(body, s.options)
	if err != nil {
		var e *bgp.Error
		if errors.As(err, &e) {
			s.malformed(e.Fault, err, body)
		}
		return updateEnding(body, err)
	}
	if d.Faults != 0 {
		for f := range d.Faults.All() {
			s.malformed(f, errors.New("handled as RFC 7606 says; the session goes on"), body)
		}
	}
	if d.EndOfRIB != 0 {
		s.n.endOfRIB.Add(1)
		s.log.Info("BGP: End-of-RIB", "family", d.EndOfRIB, "prefixes", len(s.routes.held))
	}
	if len(d.Withdrawn)+len(d.Announced) == 0 {
		if !bgp.Unicast.Has(d.EndOfRIB) {
			return nil
		}
		s.u.Time, s.u.Withdrawn, s.u.Announced, s.u.Attrs, s.u.EndOfRIB = ingest.TimeOf(s.received), nil, nil, bgp.Attributes{}, d.EndOfRIB
		err := s.handle(&s.u) // not counted: it has no routes
		s.u.EndOfRIB = 0
		if err != nil {
			return &handlerError{err}
		}
		return nil
	}
	before := len(s.routes.held)
	for _, r := range d.Withdrawn {
		delete(s.routes.held, s.routes.hash(r))
	}
	for _, r := range d.Announced {
		s.routes.held[s.routes.hash(r)] = struct{}{}
	}
	if n := len(s.routes.held); n != before {
		s.n.prefixes.Add(int64(n - before))
		if most := s.n.c.MaxPrefixes; n > most {
			return s.overflow(d, most)
		}
	}
	s.u.Time, s.u.Withdrawn, s.u.Announced, s.u.Attrs = ingest.TimeOf(s.received), d.Withdrawn, d.Announced, d.Attrs
	if d.Classic == 0 || d.Classic >= len(d.Announced) {
		return s.routesSaid()
	}
	// Two next hops: RFC 7606 §5.1 discourages it, but it is allowed.
	s.u.Announced = d.Announced[:d.Classic]
	if err := s.routesSaid(); err != nil {
		return err
	}
	s.u.Withdrawn, s.u.Announced = nil, d.Announced[d.Classic:]
	s.u.Attrs.NextHop, s.u.Attrs.LinkLocal = d.MPNextHop, d.MPLinkLocal
	return s.routesSaid()
}

func (s *session) routesSaid() error {
	if len(s.u.Announced) == 0 {
		s.u.Attrs = bgp.Attributes{}
	}
	if err := s.handle(&s.u); err != nil {
		return &handlerError{err}
	}
	s.n.updates.Add(1)
	return nil
}

// overflow ends the session because the neighbour announces too much (RFC 4486 §4).
func (s *session) overflow(d *bgp.Update, most int) error {
	f := d.MPReach
	if d.Classic > 0 {
		f = bgp.IPv4Unicast
	}
	data := append(binary.BigEndian.AppendUint16(nil, f.AFI()), f.SAFI())
	data = binary.BigEndian.AppendUint32(data, uint32(min(int64(most), math.MaxUint32)))
	return closing(reasonPrefixes, codeCease, ceasePrefixes, data, "max_prefixes is %d", most)
}

// malformed counts what was wrong with a message, and keeps it for inspection.
func (s *session) malformed(f bgp.Fault, err error, octets []byte) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.n.malformed[f.String()]++
	s.n.samples.Keep(ingest.Sample{Time: s.received, From: s.addr.String(), Reason: f.String(), Detail: err.Error(), Octets: octets})
}

// read returns the next message. Its body holds until the next call.
func (s *session) read() (bgp.Type, []byte, error) {
	for {
		need := bgp.HeaderLength
		if have := s.buffer[s.from:s.to]; len(have) >= need {
			t, n, err := bgp.ParseHeader(have)
			if err != nil {
				s.malformed(faultOf(err), err, have)
				return 0, nil, headerEnding(have, err)
			}
			if n <= len(have) {
				s.from += n
				return t, have[bgp.HeaderLength:n], nil
			}
			need = n
		}
		if s.from == s.to {
			s.from, s.to = 0, 0
		}
		if s.from+need > len(s.buffer) {
			room := s.buffer
			if need > len(room) {
				room = make([]byte, fullBuffer)
			}
			s.to = copy(room, s.buffer[s.from:s.to])
			s.buffer, s.from = room, 0
		}
		if s.restart { // not while the consumer kept us from reading
			s.restart, s.deadline = false, time.Time{}
			if s.hold > 0 {
				s.deadline = time.Now().Add(s.hold)
			}
		}
		s.conn.SetReadDeadline(s.deadline)
		if s.ctx.Err() != nil { // the deadline may have replaced that of the interruption
			return 0, nil, context.Cause(s.ctx)
		}
		n, err := s.conn.Read(s.buffer[s.to:])
		s.to += n
		s.received = time.Now()
		if n == 0 && err != nil {
			return 0, nil, err
		}
	}
}

func faultOf(err error) bgp.Fault {
	var e *bgp.Error
	errors.As(err, &e)
	return e.Fault
}

// routeSet counts the routes of a session. It keeps 64 bits of each instead of the route: a full table
// is a million routes, and with a secret seed nobody can make two of them meet.
type routeSet struct {
	seed maphash.Seed
	held map[uint64]struct{}
}

func (r *routeSet) hash(n bgp.NLRI) uint64 {
	var key [21]byte
	a := n.Prefix.Addr().As16()
	copy(key[:], a[:])
	key[16] = byte(n.Prefix.Bits())
	if n.Prefix.Addr().Is6() {
		key[16] |= 0x80 // ::ffff:0:0/96 is no IPv4 prefix
	}
	binary.BigEndian.PutUint32(key[17:], n.PathID)
	return maphash.Bytes(r.seed, key[:])
}
