package bmp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Station is what routers connect to, and what connects to routers; all of them are one source. Create
// it with New.
//
// Each session has a goroutine, a decoder and a bound of memory of its own, so that a router that is
// slow, silent or broken concerns no other. Only the handler is shared: it is called for one session at
// a time.
//
// A router may have several sessions, for instance one for each of its routing instances, or an old one
// of which nobody knows yet that it is dead. A peer belongs to the session in which it came up last.
type Station struct {
	c     Configuration
	log   *slog.Logger
	allow []netip.Prefix
	names map[netip.Addr]string
	tap   func(name string, addr netip.Addr, received ingest.Time, message []byte) // may be nil

	deliver sync.Mutex // held while the handler runs
	owners  map[ingest.Peer]*connection

	mu       sync.Mutex
	sessions map[*connection]struct{}
	ended    totals // of the sessions that ended
	refused  map[string]uint64
	status   ingest.Status // but for what Status sums up
	samples  ingest.Samples
}

var _ ingest.Source = (*Station)(nil)

// connection is one session with a router.
type connection struct {
	station *Station
	router  string
	addr    netip.Addr
	conn    net.Conn
	h       ingest.Handler // of Run
	handle  ingest.Handler // the method

	mu       sync.Mutex
	session  *Session
	messages uint64
	told     told
	last     time.Time   // receipt of the last message
	event    ingest.Time // the newest stamp
}

// told counts what became of updates.
type told struct {
	updates    uint64 // handed on
	superseded uint64 // of peers that came up in a later session
}

// totals are what is counted of sessions.
type totals struct {
	messages  uint64
	told      told
	malformed map[string]uint64
	skipped   map[string]uint64
	byType    [TypeRouteMirroring + 1]uint64
	peers     int
	last      time.Time
	event     ingest.Time
}

// add adds what x has brought so far.
func (t *totals) add(x *connection) {
	x.mu.Lock()
	defer x.mu.Unlock()
	t.messages += x.messages
	t.told.updates += x.told.updates
	t.told.superseded += x.told.superseded
	if t.malformed == nil {
		t.malformed, t.skipped = map[string]uint64{}, map[string]uint64{}
	}
	counts := x.session.Counts()
	for reason, n := range counts.Malformed {
		t.malformed[reason] += n
	}
	for what, n := range counts.Skipped {
		t.skipped[what] += n
	}
	for typ, n := range counts.Messages {
		t.byType[typ] += n
	}
	t.peers += x.session.Peers()
	if x.last.After(t.last) {
		t.last = x.last
	}
	t.event = max(t.event, x.event)
}

// New makes a station; c must be valid. Run binds its address. reg may be nil.
func New(c Configuration, log *slog.Logger, reg prometheus.Registerer) *Station {
	s := &Station{
		c: c, log: log.With("feed", c.Name), names: map[netip.Addr]string{},
		owners: map[ingest.Peer]*connection{}, sessions: map[*connection]struct{}{}, refused: map[string]uint64{},
	}
	for _, p := range c.Allow {
		if prefix, err := netip.ParsePrefix(p); err == nil {
			s.allow = append(s.allow, prefix)
		}
	}
	for _, r := range c.Routers {
		if a, err := netip.ParseAddr(r.Address); err == nil {
			s.names[a.Unmap()] = r.Name
		}
	}
	address := c.Listen
	if address == "" && len(c.Connect) > 0 {
		address = c.Connect[0]
	}
	s.status = ingest.Status{Name: c.Name, Type: "bmp", Address: address, State: ingest.Connecting, Since: time.Now()}
	if reg != nil {
		prometheus.WrapRegistererWith(prometheus.Labels{"feed": c.Name}, reg).MustRegister(metrics{s})
	}
	return s
}

// OnMessage sets what is told of every message, as it came, of the router of this name and address; the octets hold until it
// returns. Where a session ends without a word it is told of a Peer Down for each peer that was up in it, for reason 5:
// nothing will be heard of it any more. Messages of one session come one at a time, those of several perhaps at once.
// It must be called before Run.
func (s *Station) OnMessage(f func(name string, addr netip.Addr, received ingest.Time, message []byte)) {
	s.tap = f
}

// Run hears routers until ctx ends or h fails. The error is ctx's, h's, or says why the address cannot
// be listened on.
func (s *Station) Run(ctx context.Context, h ingest.Handler) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var routines sync.WaitGroup
	defer routines.Wait()
	if s.c.Listen != "" {
		lc := net.ListenConfig{KeepAliveConfig: s.keepAlive()}
		l, err := lc.Listen(ctx, "tcp", s.c.Listen)
		if err != nil {
			return fmt.Errorf("listening for routers: %w", err)
		}
		s.mu.Lock()
		s.status.Address = l.Addr().String()
		s.mu.Unlock()
		s.log.Info("BMP: listening", "address", l.Addr())
		stop := context.AfterFunc(ctx, func() { l.Close() })
		defer stop()
		routines.Go(func() { s.accept(ctx, l, &routines, h, fail) })
	}
	for _, address := range s.c.Connect {
		routines.Go(func() { s.connect(ctx, address, h, fail) })
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func (s *Station) keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: s.c.KeepAlive, Interval: s.c.KeepAlive, Count: 3}
}

func (s *Station) accept(ctx context.Context, l net.Listener, routines *sync.WaitGroup, h ingest.Handler, fail func(error)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			s.note(err) // too many open files, for instance; it passes
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			continue
		}
		x, err := s.admit(conn, true)
		if err != nil {
			conn.Close()
			continue
		}
		routines.Go(func() { s.serve(ctx, x, h, fail) })
	}
}

// connect keeps a session with one router, as often as it takes.
func (s *Station) connect(ctx context.Context, address string, h ingest.Handler, fail func(error)) {
	wait := s.c.ReconnectMin
	dialer := net.Dialer{Timeout: s.c.ConnectTimeout, KeepAliveConfig: s.keepAlive()}
	for {
		start := time.Now()
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err == nil {
			var x *connection
			if x, err = s.admit(conn, false); err == nil {
				if s.serve(ctx, x, h, fail) && time.Since(start) > wait {
					wait = s.c.ReconnectMin
				}
			} else {
				conn.Close()
			}
		}
		if ctx.Err() != nil {
			return
		}
		delay := wait/2 + rand.N(wait/2+1)
		if err != nil {
			s.note(fmt.Errorf("connecting to %s: %w", address, err))
		}
		s.mu.Lock()
		s.status.NextAttempt = time.Now().Add(delay)
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		wait = min(2*wait, s.c.ReconnectMax)
	}
}

// note remembers an error, and logs it unless it is the one before again: the log is not theirs to flood.
func (s *Station) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.status.LastError != err.Error() {
		s.log.Warn("BMP", "error", err)
	}
	s.status.LastError = err.Error()
}

var errTooMany = errors.New("too many sessions")

// admit makes a session of a connection; check: if the router is allowed to have one.
func (s *Station) admit(conn net.Conn, check bool) (*connection, error) {
	remote, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return nil, err
	}
	addr := remote.Addr().Unmap()
	refuse := func(reason string, err error) (*connection, error) {
		s.mu.Lock()
		s.refused[reason]++
		s.mu.Unlock()
		s.note(err)
		return nil, err
	}
	allowed := !check
	for _, p := range s.allow {
		allowed = allowed || p.Contains(addr.WithZone(""))
	}
	if !allowed {
		return refuse("not_allowed", fmt.Errorf("%s is not a router that allow names", addr))
	}
	name := s.names[addr.WithZone("")]
	if name == "" {
		name = addr.String()
	}
	x := &connection{station: s, router: name, addr: addr, conn: conn, session: NewSession(name, s.c.VRFs)}
	x.handle = x.deliver
	s.mu.Lock()
	full := len(s.sessions) >= s.c.MaxSessions
	if !full {
		s.sessions[x] = struct{}{}
		s.enter(ingest.Connected)
	}
	s.mu.Unlock()
	if full {
		return refuse("too_many_sessions", fmt.Errorf("%s: %w; %d is the most", addr, errTooMany, s.c.MaxSessions))
	}
	s.log.Info("BMP: session begins", "router", name, "address", remote)
	return x, nil
}

func (s *Station) enter(state ingest.State) {
	if s.status.State != state {
		s.status.State, s.status.Since = state, time.Now()
	}
}

// serve hears one router to the end of its session.
func (s *Station) serve(ctx context.Context, x *connection, h ingest.Handler, fail func(error)) (received bool) {
	stop := context.AfterFunc(ctx, func() { x.conn.Close() })
	defer stop()
	x.h = h
	err := s.read(x)
	x.conn.Close()
	x.mu.Lock()
	received = x.messages > 0
	ending := x.session.headers()
	end := x.session.End(ingest.TimeOf(time.Now()))
	x.mu.Unlock()
	var failed *handlerError
	if !errors.As(err, &failed) && ctx.Err() == nil { // that we stop listening says nothing of the peers
		if s.tap != nil {
			s.tapDowns(x, ending)
		}
		errors.As(x.emit(end), &failed)
	}
	if failed != nil {
		fail(failed.error)
	}
	s.mu.Lock()
	delete(s.sessions, x)
	s.ended.add(x)
	s.status.Reconnects++
	if len(s.sessions) == 0 {
		s.enter(ingest.Connecting)
	}
	s.mu.Unlock()
	if ctx.Err() == nil {
		s.note(fmt.Errorf("%s: the session ended: %w", x.router, err))
	}
	return received
}

// tapDowns tells of the peers that go with a session, but for those that came up in a later one.
func (s *Station) tapDowns(x *connection, peers []PeerHeader) {
	now := ingest.TimeOf(time.Now())
	for _, h := range peers {
		p := x.session.identity(&h)
		owned := false
		s.deliver.Lock()
		for view := ingest.AdjRIBInPre; view <= ingest.LocRIB; view++ {
			p.View = view
			owned = owned || s.owners[p] == x
		}
		s.deliver.Unlock()
		if !owned {
			continue
		}
		h.Time = now
		if b, err := Append(nil, &Message{Version: 3, Type: TypePeerDown, Peer: h, PeerDown: PeerDown{Reason: DownDeconfigured}}); err == nil {
			s.tap(x.router, x.addr, now, b)
		}
	}
}

// handlerError is an error of the consumer, which ends Run.
type handlerError struct{ error }

// read takes messages in until the session ends. The error says why it did; a *handlerError is the handler's.
func (s *Station) read(x *connection) error {
	in := &deadlineReader{conn: x.conn, wait: s.c.ConnectTimeout}
	r := NewReader(in, s.c.MaxMessageBytes)
	for {
		b, err := r.Next()
		now := time.Now()
		if err != nil {
			if e, ok := errors.AsType[*Error](err); ok {
				x.mu.Lock()
				x.session.counts.CountMalformed(e.Reason)
				x.mu.Unlock()
				s.keep(x, now, e.Reason, err, b)
			}
			return err
		}
		in.wait = s.c.IdleTimeout
		received := ingest.TimeOf(now)
		if s.tap != nil {
			s.tap(x.router, x.addr, received, b)
		}
		x.mu.Lock()
		it, err := x.session.Message(b, received)
		x.messages++
		x.last = now
		if it != nil && it.BGP != nil {
			x.event = max(x.event, min(it.Time, received))
		}
		x.mu.Unlock()
		if err != nil {
			reason := "malformed"
			if e, ok := errors.AsType[*Error](err); ok {
				reason = e.Reason
			} else if e, ok := errors.AsType[*bgp.Error](err); ok {
				reason = e.Fault.String()
			}
			s.keep(x, now, reason, err, b)
			continue
		}
		if err := x.emit(it); err != nil {
			return err
		}
		if m := it.Message; m.Type == TypeTermination {
			return errTerminated(m)
		}
	}
}

func errTerminated(m *Message) error {
	for _, t := range m.TLVs {
		if t.Type == TLVReason && len(t.Value) == 2 {
			return fmt.Errorf("the router terminated it, reason %d (RFC 7854 §4.5)", int(t.Value[0])<<8|int(t.Value[1]))
		}
	}
	return errors.New("the router terminated it")
}

// deadlineReader gives up when nothing arrives for a while; 0 waits for ever.
type deadlineReader struct {
	conn net.Conn
	wait time.Duration
	set  bool
}

func (d *deadlineReader) Read(p []byte) (int, error) {
	if d.wait > 0 || d.set {
		deadline := time.Time{}
		if d.wait > 0 {
			deadline = time.Now().Add(d.wait)
		}
		d.set = d.wait > 0
		if err := d.conn.SetReadDeadline(deadline); err != nil {
			return 0, err
		}
	}
	n, err := d.conn.Read(p)
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		err = fmt.Errorf("nothing came for %v: %w", d.wait, err)
	}
	return n, err
}

var _ io.Reader = (*deadlineReader)(nil)

// emit hands on what an item says. The error is a *handlerError.
func (x *connection) emit(it *Item) error {
	if it.BGP == nil && len(it.Changes) == 0 {
		return nil
	}
	x.station.deliver.Lock()
	defer x.station.deliver.Unlock()
	return x.session.Emit(it, x.handle)
}

// deliver hands on an update if its peer belongs to this session. Station.deliver is held.
func (x *connection) deliver(u *ingest.Update) error {
	owners := x.station.owners
	owner := owners[u.Peer]
	ours := owner == x || u.Kind == ingest.PeerUp || owner == nil && u.Kind == ingest.Routes
	if ours {
		switch {
		case u.Kind == ingest.PeerDown:
			delete(owners, u.Peer)
		case owner != x:
			owners[u.Peer] = x
		}
		if err := x.h(u); err != nil {
			return &handlerError{err}
		}
	}
	x.mu.Lock()
	if ours {
		x.told.updates++
	} else {
		x.told.superseded++
	}
	x.mu.Unlock()
	return nil
}

func (s *Station) keep(x *connection, now time.Time, reason string, err error, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.samples.Keep(ingest.Sample{Time: now, From: x.router, Reason: reason, Detail: err.Error(), Octets: b})
}

// Samples implements [ingest.Source].
func (s *Station) Samples() []ingest.Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.samples.All()
}

// Status tells how all sessions are together. A lag is no state of this feed: what a router tells when
// its session begins is as old as its table.
func (s *Station) Status() ingest.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := s.ended
	sum.malformed, sum.skipped = maps.Clone(sum.malformed), maps.Clone(sum.skipped)
	sum.peers = 0
	for x := range s.sessions {
		sum.add(x)
	}
	st := s.status
	st.Peers, st.Messages, st.Updates, st.Malformed = sum.peers, sum.messages, sum.told.updates, sum.malformed
	st.LastMessage = sum.last
	if sum.event != 0 {
		st.LastEventTime = sum.event.Time()
		st.LagSeconds = sum.last.Sub(st.LastEventTime).Seconds()
	}
	if st.State == ingest.Connected {
		st.NextAttempt = time.Time{}
	}
	return st
}
