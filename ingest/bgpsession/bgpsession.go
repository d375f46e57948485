// Package bgpsession is a BGP speaker that only listens: routers of one's own network are configured
// to peer with it, and what they announce becomes updates. It accepts sessions and never opens one,
// and it never announces anything: no UPDATE is ever sent, not even an End-of-RIB.
//
// BGP messages carry no time, so the Time of an update is that of its receipt, when its last octet
// was read from the socket. While the consumer does not keep up, the socket is not read, TCP slows
// the router down, and stamps are later than they could be.
//
// Every neighbour has goroutines, buffers and bounds of its own: one that is slow, silent, broken or
// hostile holds up no other. Where they meet is the handler, which all sessions call, each for its
// own peer. What does not fit the protocol is answered as RFC 4271 §6 and RFC 7606 say: most faults of
// an UPDATE cost its routes, the few after which nothing can be relied upon end the session with a
// NOTIFICATION. A session that ends, however it ends, gives a PeerDown.
//
// It offers the capabilities that make a router say more: multiprotocol for IPv4 and IPv6, unicast
// and multicast (multicast routes are decoded and left out, as in every source), four-octet ASNs,
// ADD-PATH reception for unicast, extended messages, extended next hops for IPv4 unicast, route
// refresh and, where configured, a role. Graceful restart is offered as by a speaker that has just
// restarted and keeps nothing. So routers mark the end of their table with End-of-RIB, none waits for
// ours when it restarts (RFC 4724 §4.1 excepts speakers with the restart bit), and one that connects
// anew replaces its old session at once. Stale routes are not kept: a monitor tells what is
// announced, not what was.
//
// Of two connections of one neighbour, one survives by RFC 4271 §6.8. Since both were opened by the
// neighbour, that section's comparison of identifiers says which of two that are not yet
// established; an established session is only replaced by graceful restart.
//
// Sessions can be protected by TCP MD5 signatures (RFC 2385) and by GTSM (RFC 5082), both on Linux only. A
// connection without the right signature never gets as far as this program: the kernel drops its
// segments and counts them (TCPMD5NotFound, TCPMD5Unexpected and TCPMD5Failure in /proc/net/netstat).
// TCP-AO (RFC 5925) is not there: few kernels are built with it, and golang.org/x/sys/unix has neither
// its option nor its structures. Where MD5 is not good enough, use MD5 and GTSM on a directly
// connected link, or let the session run through IPsec or WireGuard.
package bgpsession

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

const (
	// maxConnections of one address: the session, and one more that may be about to take its place.
	maxConnections = 2
	// maxPeers bounds the memory for telling how many peers were heard.
	maxPeers = 1 << 16
	// logEvery is the least time between two log messages about what an outsider can repeat at will.
	logEvery = 10 * time.Second
	// idleAfterOverflow is for how long a neighbour that announced too much is refused: at once it would do it again.
	idleAfterOverflow = 5 * time.Minute
)

// Listener is the source. Create it with New.
type Listener struct {
	c          Configuration
	log        *slog.Logger
	neighbours []*neighbour // the longest prefix first
	sockets    []net.Listener

	mu          sync.Mutex
	sessions    map[netip.Addr][]*session
	established int
	since       time.Time // when established became or ceased to be 0
	peers       map[ingest.Peer]struct{}
	lastError   string
	refused     map[string]uint64 // by reason
	outsiders   rarely

	heard atomic.Int64 // when the last message of any neighbour came, in microseconds of the epoch
}

var _ ingest.Source = (*Listener)(nil)

// neighbour is one entry of the configuration with what happened to it. Counts are of all its
// addresses, and of all its sessions since the start.
type neighbour struct {
	c        Neighbour
	prefix   netip.Prefix
	name     string // Neighbour.Name, or the listener's
	password Password
	localASN uint32
	hold     time.Duration

	messages [bgp.TypeRouteRefresh + 1]atomic.Uint64
	updates  atomic.Uint64
	endOfRIB atomic.Uint64
	prefixes atomic.Int64

	// The rest is guarded by Listener.mu.
	addresses map[netip.Addr]time.Time // refused until then
	malformed map[string]uint64
	ended     map[string]uint64
	samples   ingest.Samples
	lastError string
	failures  rarely
}

// New makes a listener of a valid configuration; Listen opens its sockets. reg may be nil.
func New(c Configuration, log *slog.Logger, reg prometheus.Registerer) *Listener {
	l := &Listener{
		c: c, log: log.With("feed", c.Name), since: time.Now(), sessions: map[netip.Addr][]*session{},
		peers: map[ingest.Peer]struct{}{}, refused: map[string]uint64{},
	}
	for _, nc := range c.Neighbours {
		prefix, err := parsePrefix(nc.Address)
		if err != nil {
			panic("bgpsession: the configuration was not validated: " + err.Error())
		}
		n := &neighbour{c: nc.withDefaults(c), prefix: prefix, addresses: map[netip.Addr]time.Time{},
			malformed: map[string]uint64{}, ended: map[string]uint64{}, password: nc.Password}
		n.name, n.localASN, n.hold = n.c.Name, n.c.LocalASN, n.c.HoldTime
		l.neighbours = append(l.neighbours, n)
	}
	slices.SortStableFunc(l.neighbours, func(a, b *neighbour) int { return b.prefix.Bits() - a.prefix.Bits() })
	if reg != nil {
		prometheus.WrapRegistererWith(prometheus.Labels{"feed": c.Name}, reg).MustRegister(collector{l})
	}
	return l
}

// Listen reads the password files and opens the sockets; Status tells their addresses. Run closes them,
// or Close where it is never called.
func (l *Listener) Listen() error {
	for _, n := range l.neighbours {
		if err := n.readPassword(); err != nil {
			return err
		}
	}
	config := net.ListenConfig{Control: l.control}
	for _, address := range l.c.Listen {
		socket, err := config.Listen(context.Background(), "tcp", address)
		if err != nil {
			l.Close()
			if errors.Is(err, os.ErrPermission) {
				err = fmt.Errorf("%w; ports below 1024 need the capability CAP_NET_BIND_SERVICE", err)
			}
			return fmt.Errorf("BGP: %w", err)
		}
		l.sockets = append(l.sockets, socket)
	}
	return nil
}

// Close closes the sockets.
func (l *Listener) Close() {
	for _, socket := range l.sockets {
		socket.Close()
	}
}

// Run delivers what the neighbours say to h until ctx ends or h fails. It calls h from the goroutine
// of each session.
func (l *Listener) Run(ctx context.Context, h ingest.Handler) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	stop := context.AfterFunc(ctx, l.Close)
	defer stop()
	var running sync.WaitGroup
	for _, socket := range l.sockets {
		running.Go(func() { l.accept(ctx, socket, fail, h, &running) })
	}
	<-ctx.Done()
	running.Wait()
	return context.Cause(ctx)
}

func (l *Listener) accept(ctx context.Context, socket net.Listener, fail func(error), h ingest.Handler, running *sync.WaitGroup) {
	const most = time.Second
	for wait := 5 * time.Millisecond; ; {
		conn, err := socket.Accept()
		if ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return
		}
		if err != nil { // too many open files, a connection that is gone already
			l.refuse(nil, "accept_failed", err.Error())
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
			wait = min(2*wait, most)
			continue
		}
		wait = 5 * time.Millisecond
		s := l.admit(conn.(*net.TCPConn))
		if s == nil {
			conn.Close()
			continue
		}
		running.Go(func() {
			if err := s.run(ctx, h); err != nil {
				fail(err)
			}
		})
	}
}

// admit makes a session of a connection that is allowed.
func (l *Listener) admit(conn *net.TCPConn) *session {
	addr := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	n := l.find(addr)
	if n == nil {
		l.refuse(nil, "not_configured", fmt.Sprintf("%s is no configured neighbour", addr))
		return nil
	}
	if n.c.TTLSecurity > 0 {
		if err := requireTTL(conn, 256-n.c.TTLSecurity); err != nil {
			l.refuse(n, "ttl_security", fmt.Sprintf("%s: %v", addr, err))
			return nil
		}
	}
	s, reason := l.register(conn, addr, n)
	if s == nil {
		l.refuse(n, reason, fmt.Sprintf("%s: %s", addr, strings.ReplaceAll(reason, "_", " ")))
		notify(conn, &bgp.Notification{Code: codeCease, Subcode: ceaseRejected})
		return nil
	}
	return s
}

// find returns the neighbour with the longest prefix that holds addr.
func (l *Listener) find(addr netip.Addr) *neighbour {
	addr = addr.WithZone("")
	for _, n := range l.neighbours {
		if n.prefix.Contains(addr) {
			return n
		}
	}
	return nil
}

// register counts a connection in, or says why there is no room for it.
func (l *Listener) register(conn net.Conn, addr netip.Addr, n *neighbour) (s *session, refusal string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	until, known := n.addresses[addr]
	switch {
	case time.Now().Before(until):
		return nil, "idle_after_too_many_prefixes"
	case len(l.sessions[addr]) >= maxConnections:
		return nil, "too_many_connections"
	case !known && len(n.addresses) >= n.c.MaxSessions:
		for a, until := range n.addresses { // what was remembered only in order to be refused
			if len(l.sessions[a]) == 0 && !time.Now().Before(until) {
				delete(n.addresses, a)
			}
		}
		if len(n.addresses) >= n.c.MaxSessions {
			return nil, "too_many_sessions"
		}
	}
	if !known {
		n.addresses[addr] = time.Time{}
	}
	s = newSession(l, n, conn, addr)
	l.sessions[addr] = append(l.sessions[addr], s)
	return s, ""
}

// forget is the opposite of register.
func (l *Listener) forget(s *session, e *ending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := s.n
	rest := slices.DeleteFunc(l.sessions[s.addr], func(o *session) bool { return o == s })
	l.sessions[s.addr] = rest
	if len(rest) == 0 {
		delete(l.sessions, s.addr)
	}
	until := n.addresses[s.addr]
	if e.reason == reasonPrefixes {
		until = time.Now().Add(idleAfterOverflow)
		n.addresses[s.addr] = until
	}
	if len(rest) == 0 && !time.Now().Before(until) {
		delete(n.addresses, s.addr)
	}
	if s.state == established {
		l.established--
		if l.established == 0 {
			l.since = time.Now()
		}
	}
	s.state = closed
	n.ended[e.reason]++
	n.lastError = fmt.Sprintf("%s: %v", s.addr, e)
	l.lastError = n.lastError
}

// refuse counts and, now and then, logs a connection that was not allowed.
func (l *Listener) refuse(n *neighbour, reason, detail string) {
	l.mu.Lock()
	l.refused[reason]++
	quiet := &l.outsiders
	if n != nil {
		quiet = &n.failures
		n.lastError = "connection refused: " + detail
		l.lastError = n.lastError
	}
	omitted, ok := quiet.now(time.Now())
	l.mu.Unlock()
	if ok {
		l.log.Warn("BGP: connection refused", "reason", reason, "error", detail, "not_logged_before", omitted)
	}
}

// rarely lets one of many events through at a time.
type rarely struct {
	next    time.Time
	omitted int
}

func (r *rarely) now(t time.Time) (omitted int, ok bool) {
	if t.Before(r.next) {
		r.omitted++
		return 0, false
	}
	omitted, r.omitted, r.next = r.omitted, 0, t.Add(logEvery)
	return omitted, true
}

// Samples implements [ingest.Source].
func (l *Listener) Samples() []ingest.Sample {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []ingest.Sample
	for _, n := range l.neighbours {
		all = append(all, n.samples.All()...)
	}
	slices.SortStableFunc(all, func(a, b ingest.Sample) int { return a.Time.Compare(b.Time) })
	return all
}

// Status sums up all neighbours: the feed is connected while any session is established. What there
// is to know of each neighbour is in the metrics.
func (l *Listener) Status() ingest.Status {
	listening := make([]string, len(l.sockets))
	for i, socket := range l.sockets {
		listening[i] = socket.Addr().String()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	st := ingest.Status{
		Name: l.c.Name, Type: "bgp", Address: strings.Join(listening, ", "), State: ingest.Connecting, Since: l.since,
		Peers: len(l.peers), LastError: l.lastError, Malformed: map[string]uint64{},
	}
	if l.established > 0 {
		st.State = ingest.Connected
	}
	for _, n := range l.neighbours {
		for t := range n.messages {
			st.Messages += n.messages[t].Load()
		}
		st.Updates += n.updates.Load()
		for reason, count := range n.malformed {
			st.Malformed[reason] += count
		}
		for _, count := range n.ended {
			st.Reconnects += count
		}
	}
	if t := l.heard.Load(); t != 0 {
		st.LastMessage = time.UnixMicro(t)
		st.LastEventTime = st.LastMessage
	}
	return st
}

// NeighbourStatus is a snapshot of one configured neighbour: of all addresses of a prefix.
type NeighbourStatus struct {
	Address   string // as configured
	Name      string
	Sessions  map[string]int // connections by state of RFC 4271 §8.2.2: OpenSent, OpenConfirm, Established
	Prefixes  int            // routes held; with ADD-PATH, each path is one
	Messages  map[bgp.Type]uint64
	Updates   uint64            // handed on
	EndOfRIB  uint64            // markers received
	Malformed map[string]uint64 // by reason
	Ended     map[string]uint64 // sessions and attempts that ended, by reason
	LastError string
}

// Neighbours tells how each neighbour is, in the order of the configuration but for longer prefixes
// coming first.
func (l *Listener) Neighbours() []NeighbourStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []NeighbourStatus
	for _, n := range l.neighbours {
		st := NeighbourStatus{Address: n.c.Address, Name: n.name, Sessions: map[string]int{}, Prefixes: int(n.prefixes.Load()),
			Messages: map[bgp.Type]uint64{}, Updates: n.updates.Load(), EndOfRIB: n.endOfRIB.Load(),
			Malformed: maps.Clone(n.malformed), Ended: maps.Clone(n.ended), LastError: n.lastError}
		for t := bgp.TypeOpen; int(t) < len(n.messages); t++ {
			st.Messages[t] = n.messages[t].Load()
		}
		for addr := range n.addresses {
			for _, s := range l.sessions[addr] {
				st.Sessions[s.state.String()]++
			}
		}
		all = append(all, st)
	}
	return all
}

// collector gives the metrics of a listener.
type collector struct{ l *Listener }

var (
	byNeighbour  = []string{"neighbour", "name"}
	descSessions = prometheus.NewDesc("routevigil_bgp_sessions", "Connections by state.", append(byNeighbour, "state"), nil)
	descPrefixes = prometheus.NewDesc("routevigil_bgp_prefixes", "Routes held; with ADD-PATH, each path is one.", byNeighbour, nil)
	descMessages = prometheus.NewDesc("routevigil_bgp_messages_total", "Messages received, by type.", append(byNeighbour, "type"), nil)
	descUpdates  = prometheus.NewDesc("routevigil_bgp_updates_total", "Updates handed on.", byNeighbour, nil)
	descEndOfRIB = prometheus.NewDesc("routevigil_bgp_end_of_rib_total", "End-of-RIB markers received.", byNeighbour, nil)
	descBad      = prometheus.NewDesc("routevigil_bgp_malformed_total", "Messages that were wrong, wholly or in part.", append(byNeighbour, "reason"), nil)
	descEnded    = prometheus.NewDesc("routevigil_bgp_sessions_ended_total", "Sessions, and attempts at one, that ended.", append(byNeighbour, "reason"), nil)
	descRefused  = prometheus.NewDesc("routevigil_bgp_refused_total", "Connections that were closed before a word.", []string{"reason"}, nil)
)

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descSessions, descPrefixes, descMessages, descUpdates, descEndOfRIB, descBad, descEnded, descRefused} {
		ch <- d
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	for _, n := range c.l.Neighbours() {
		for _, s := range []state{openSent, openConfirm, established} {
			gauge(descSessions, n.Sessions[s.String()], n.Address, n.Name, s.String())
		}
		gauge(descPrefixes, n.Prefixes, n.Address, n.Name)
		for t, count := range n.Messages {
			counter(descMessages, count, n.Address, n.Name, t.String())
		}
		counter(descUpdates, n.Updates, n.Address, n.Name)
		counter(descEndOfRIB, n.EndOfRIB, n.Address, n.Name)
		for reason, count := range n.Malformed {
			counter(descBad, count, n.Address, n.Name, reason)
		}
		for reason, count := range n.Ended {
			counter(descEnded, count, n.Address, n.Name, reason)
		}
	}
	c.l.mu.Lock()
	refused := maps.Clone(c.l.refused)
	c.l.mu.Unlock()
	for reason, count := range refused {
		counter(descRefused, count, reason)
	}
}
