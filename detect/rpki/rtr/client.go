// Package rtr takes VRPs and ASPAs from a validator by the RPKI-to-router protocol: version 0 (RFC
// 6810), 1 (RFC 8210) and 2 (draft-ietf-sidrops-8210bis, which adds ASPAs), over TCP or TLS. SSH is left
// out on purpose: a tunnel beside the program does it as well.
//
// A [Client] talks to one cache at a time, the first of its list that answers, and goes back to a better
// one when that answers again. What it has of a cache is a [rpki.Set], immutable; an answer of the
// cache is gathered beside it and becomes the next set when it is complete, so that nobody ever sees half
// of one. Data that no cache has confirmed for as long as its cache said is gone, and then there is no
// set at all: origin validation is unavailable, which is not the same as finding nothing.
//
// A cache is not trusted with more than its data: the sizes of PDUs and answers are bounded, as is the
// time in which an answer must go on and come to its end.
package rtr

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/routevigil/routevigil/detect/rpki"
)

// Cache is a validator's RTR server.
type Cache struct {
	Address string      // host:port; by custom port 323, with TLS 324
	TLS     *tls.Config // nil for TCP without protection
}

const (
	dialTimeout   = 15 * time.Second // for TCP and TLS together
	stallTimeout  = 30 * time.Second // without a byte where a byte is due
	answerTimeout = 10 * time.Minute // from a query to its End of Data
	notifyGap     = 10 * time.Second // at least, between queries that a cache asks for
	preferGap     = time.Minute      // at least, between attempts to reach a better cache than the present one
	steady        = time.Minute      // after which a session that ends counts as one that worked
	firstBackoff  = time.Second      // after the first round in which no cache answered; it doubles up to the retry interval
)

// Intervals of RFC 8210 §6: the default where a cache does not say, and the range a cache is held to.
const (
	defaultRefresh, minRefresh, maxRefresh = 3600 * time.Second, 1 * time.Second, 86400 * time.Second
	defaultRetry, minRetry, maxRetry       = 600 * time.Second, 1 * time.Second, 7200 * time.Second
	defaultExpire, minExpire, maxExpire    = 7200 * time.Second, 600 * time.Second, 172800 * time.Second
)

// Bounds of one answer, beside those of a set.
const (
	maxProviders = 20_000_000 // of all ASPAs together, each counting as one more
	maxChanges   = 2_000_000  // in answer to a Serial Query; the whole set would be shorter
)

// Client keeps a set up to date. Make one with New and call Run.
type Client struct {
	caches  []Cache
	publish func(*rpki.Set)
	log     *slog.Logger
	dial    func(context.Context, Cache) (net.Conn, error)

	mu     sync.Mutex
	data   *data // nil when there is none
	expiry *time.Timer
	status Status
}

// data is what a cache said, complete as of a serial.
type data struct {
	cache   int
	version uint8
	session uint16
	serial  uint32
	set     *rpki.Set
	at      time.Time // of the End of Data
	expires time.Time
	refresh time.Duration
	retry   time.Duration
	suspect bool // the cache contradicted it: use it, but build on it no more
}

// Status tells how the client is doing. Times are zero where there is none.
type Status struct {
	State       string    `json:"state"` // "connecting", "synchronising", "up to date", "waiting" or "stopped"
	Cache       string    `json:"cache"` // that is connected or was last tried
	Version     int       `json:"version"`
	DataFrom    string    `json:"data_from"` // the cache whose data is in use, "" when there is none
	Session     uint16    `json:"session"`
	Serial      uint32    `json:"serial"`
	VRPs        int       `json:"vrps"`
	ASPAs       int       `json:"aspas"`
	Updated     time.Time `json:"updated,omitzero"` // when a cache last confirmed the data
	Expires     time.Time `json:"expires,omitzero"` // when the data is used no more, unless confirmed before
	NextAttempt time.Time `json:"next_attempt,omitzero"`
	LastError   string    `json:"last_error"` // also of the past: see LastErrorAt
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	Failures    int       `json:"failures"` // sessions that ended in an error
}

// New returns a client of caches, the most preferred first. publish receives every new set, one after
// the other, and nil when the data has expired; it must be quick and not call the client.
func New(caches []Cache, publish func(*rpki.Set), log *slog.Logger) *Client {
	return &Client{caches: caches, publish: publish, log: log, dial: dial, status: Status{State: "stopped"}}
}

func dial(ctx context.Context, c Cache) (net.Conn, error) {
	d := &net.Dialer{Timeout: dialTimeout}
	if c.TLS == nil {
		return d.DialContext(ctx, "tcp", c.Address)
	}
	return (&tls.Dialer{NetDialer: d, Config: c.TLS}).DialContext(ctx, "tcp", c.Address)
}

// Status returns how the client is doing now.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	if d := c.data; d != nil {
		s.DataFrom, s.Session, s.Serial = c.caches[d.cache].Address, d.session, d.serial
		s.VRPs, s.ASPAs, s.Updated, s.Expires = d.set.Len(), len(d.set.ASPAs()), d.at, d.expires
	}
	return s
}

func (c *Client) setStatus(change func(*Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(&c.status)
}

// Set returns the present set, nil when there is none or it has expired.
func (c *Client) Set() *rpki.Set {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.data == nil {
		return nil
	}
	return c.data.set
}

// Run keeps the set up to date until ctx ends, and returns its error. The last set stays.
func (c *Client) Run(ctx context.Context) error {
	defer c.setStatus(func(s *Status) { s.State, s.NextAttempt = "stopped", time.Time{} })
	defer c.stopExpiry()
	backoff := firstBackoff
	for {
		err := c.round(ctx, &backoff)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errPreferred):
			continue
		}
		wait := backoff
		if d := c.current(); d != nil {
			wait = min(wait, d.retry)
		}
		backoff = min(2*backoff, defaultRetry)
		c.setStatus(func(s *Status) { s.State, s.NextAttempt = "waiting", time.Now().Add(wait) })
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// round tries every cache once, the best first; a session that works lasts until it fails. It returns
// the reason of the last.
func (c *Client) round(ctx context.Context, backoff *time.Duration) (err error) {
	for i := range c.caches {
		began := time.Now()
		err = c.talk(ctx, i)
		if ctx.Err() != nil || errors.Is(err, errPreferred) {
			return err
		}
		c.failed(i, err)
		if time.Since(began) > steady {
			*backoff = firstBackoff
		}
	}
	return err
}

func (c *Client) failed(i int, err error) {
	c.log.Warn("RTR session ended", "cache", c.caches[i].Address, "error", err)
	c.setStatus(func(s *Status) {
		s.LastError, s.LastErrorAt = fmt.Sprintf("%s: %v", c.caches[i].Address, err), time.Now()
		s.Failures++
	})
}

func (c *Client) current() *data {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data
}

// install makes d the present data and arranges its end.
func (c *Client) install(d *data) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := c.data == nil || c.data.set != d.set
	if c.expiry != nil {
		c.expiry.Stop()
	}
	c.data = d
	c.expiry = time.AfterFunc(time.Until(d.expires), func() { c.drop(d, "expired") })
	if changed {
		c.publish(d.set)
	}
}

// drop forgets d if it is the present data still.
func (c *Client) drop(d *data, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.data != d || d == nil {
		return
	}
	c.log.Error("RPKI data is no longer used: origin validation is unavailable", "cache", c.caches[d.cache].Address, "serial", d.serial, "reason", why)
	c.data = nil
	c.publish(nil)
}

func (c *Client) stopExpiry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.expiry != nil {
		c.expiry.Stop()
	}
}

// distrust keeps what there is of a cache in use, but makes the next query ask for everything anew.
func (c *Client) distrust(cache int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.data != nil && c.data.cache == cache {
		c.data.suspect = true
	}
}

var (
	// errPreferred ends a session with a cache that is not the first, to try the better ones.
	errPreferred = errors.New("time to try a preferred cache")
	// errSilent says that a cache hung up without any answer, which some do at a version they do not know.
	errSilent = errors.New("the cache hung up without an answer")
)

// downgrade says that the cache wants, or needs, a lower version.
type downgrade struct{ to uint8 }

func (d downgrade) Error() string { return fmt.Sprintf("the cache speaks version %d", d.to) }

// talk holds sessions with a cache until one fails for another reason than its version.
func (c *Client) talk(ctx context.Context, i int) error {
	version := uint8(MaxVersion)
	if d := c.current(); d != nil && d.cache == i && !d.suspect {
		version = d.version // what there is can be continued in its version only
	}
	for {
		err := c.session(ctx, i, version)
		var lower downgrade
		switch {
		case errors.As(err, &lower):
			version = lower.to
		case errors.Is(err, errSilent) && version > 0:
			version--
		default:
			return err
		}
	}
}

// session is one connection to a cache.
type session struct {
	c       *Client
	cache   int
	conn    net.Conn
	in      reader
	version uint8
	settled bool // the cache has agreed to version
	pdu     PDU
	due     time.Time // when the answer must be complete
}

// session connects to cache i and keeps the data up to date until something goes wrong.
func (c *Client) session(ctx context.Context, i int, version uint8) (err error) {
	c.setStatus(func(s *Status) {
		s.State, s.Cache, s.Version, s.NextAttempt = "connecting", c.caches[i].Address, int(version), time.Time{}
	})
	dialing, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := c.dial(dialing, c.caches[i])
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	s := &session{c: c, cache: i, conn: conn, in: newReader(conn), version: version}
	err = s.run()
	var wrong *Error
	if errors.As(err, &wrong) && wrong.Code != receivedError {
		s.report(wrong)
	}
	return err
}

// receivedError marks an Error of the cache's own: an Error Report is never answered with another.
const receivedError ErrorCode = 0xffff

func (s *session) report(e *Error) {
	// A report of a long PDU shows its beginning, so that the report is not too long itself.
	p := PDU{Version: s.version, Type: ErrorReport, Code: e.Code, Erroneous: e.PDU[:min(len(e.PDU), 1024)], Text: e.Text}
	s.conn.SetWriteDeadline(time.Now().Add(stallTimeout))
	if _, err := s.conn.Write(p.Append(nil)); err != nil {
		s.c.log.Debug("RTR error report not sent", "cache", s.c.caches[s.cache].Address, "error", err)
	}
}

func (s *session) run() error {
	began := time.Now()
	for {
		s.c.setStatus(func(st *Status) { st.State = "synchronising" })
		if err := s.synchronise(); err != nil {
			return err
		}
		d := s.c.current()
		if d == nil { // expired within the moment: its cache gave it less time than that
			return errors.New("the data expired at once")
		}
		next := d.at.Add(d.refresh)
		s.c.setStatus(func(st *Status) { st.State, st.Version, st.NextAttempt = "up to date", int(s.version), next })
		better := began.Add(max(d.retry, preferGap))
		if s.cache > 0 && better.Before(next) {
			next = better
		}
		if err := s.idle(d, next); err != nil {
			return err
		}
		if s.cache > 0 && !time.Now().Before(better) {
			return errPreferred
		}
	}
}

// idle waits until it is time for the next query, or the cache says that it has news.
func (s *session) idle(d *data, until time.Time) error {
	for {
		s.conn.SetReadDeadline(until)
		b, err := s.in.next(func() error { return s.conn.SetReadDeadline(time.Now().Add(stallTimeout)) })
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() && !time.Now().Before(until) {
			return nil
		}
		if err != nil {
			return s.readError(err)
		}
		if err := s.decode(b); err != nil {
			return err
		}
		switch s.pdu.Type {
		case SerialNotify:
			if s.pdu.Session != d.session {
				s.c.drop(d, "the cache began a new session")
				return fault(CorruptData, b, "Serial Notify of session %d, not %d", s.pdu.Session, d.session)
			}
			if soon := d.at.Add(notifyGap); s.pdu.Serial != d.serial && soon.Before(until) {
				until = soon
			}
		default:
			return fault(CorruptData, b, "%v without a query", s.pdu.Type)
		}
	}
}

// synchronise queries the cache and installs what it answers.
func (s *session) synchronise() error {
	s.due = time.Now().Add(answerTimeout)
	base := s.c.current()
	if base != nil && (base.cache != s.cache || base.suspect || base.version != s.version) {
		base = nil
	}
	query := PDU{Version: s.version, Type: ResetQuery}
	if base != nil {
		query = PDU{Version: s.version, Type: SerialQuery, Session: base.session, Serial: base.serial}
	}
	s.conn.SetWriteDeadline(time.Now().Add(stallTimeout))
	if _, err := s.conn.Write(query.Append(nil)); err != nil {
		return err
	}
	for {
		b, err := s.read()
		if err != nil {
			return err
		}
		switch s.pdu.Type {
		case SerialNotify: // crossed the query
		case CacheReset:
			if base == nil {
				return fault(CorruptData, b, "Cache Reset in answer to a Reset Query")
			}
			s.c.distrust(s.cache)
			return s.synchronise()
		case CacheResponse:
			if base != nil && (s.pdu.Session != base.session || s.version != base.version) {
				s.c.drop(base, "the cache began a new session")
				return fault(CorruptData, b, "Cache Response of session %d, not %d", s.pdu.Session, base.session)
			}
			return s.receive(base, s.pdu.Session)
		default:
			return fault(CorruptData, b, "%v before a Cache Response", s.pdu.Type)
		}
	}
}

// receive installs the answer that follows a Cache Response. After an answer that is wrong in itself
// the next query asks for everything, since the same changes would only come again.
func (s *session) receive(base *data, id uint16) error {
	set, err := s.gather(base, id)
	if err == nil {
		s.c.install(newData(s.cache, &s.pdu, set))
		return nil
	}
	var wrong *Error
	if errors.As(err, &wrong) && wrong.Code != receivedError {
		s.c.distrust(s.cache)
	}
	return err
}

// gather reads an answer up to its End of Data, which it leaves in s.pdu, and makes a set of it.
func (s *session) gather(base *data, id uint16) (*rpki.Set, error) {
	var a answer = newFull()
	if base != nil {
		a = newChanges(base.set)
	}
	for {
		b, err := s.read()
		if err != nil {
			return nil, err
		}
		switch s.pdu.Type {
		case IPv4Prefix, IPv6Prefix:
			err = a.prefix(&s.pdu, b)
		case ASPA:
			err = a.aspa(&s.pdu, b)
		case RouterKey: // nothing here validates BGPsec
		case SerialNotify: // the serial it tells is asked for later
		case EndOfData:
			if s.pdu.Session != id {
				return nil, fault(CorruptData, b, "End of Data of session %d, not %d", s.pdu.Session, id)
			}
			return a.finish(fmt.Sprintf("RTR %s session %d serial %d", s.c.caches[s.cache].Address, id, s.pdu.Serial), s.version)
		default:
			err = fault(CorruptData, b, "%v between Cache Response and End of Data", s.pdu.Type)
		}
		if err != nil {
			return nil, err
		}
	}
}

func newData(cache int, end *PDU, set *rpki.Set) *data {
	clamp := func(seconds uint32, byDefault, least, most time.Duration) time.Duration {
		if end.Version == 0 {
			return byDefault
		}
		return min(max(time.Duration(seconds)*time.Second, least), most)
	}
	now := time.Now()
	return &data{cache: cache, version: end.Version, session: end.Session, serial: end.Serial, set: set, at: now,
		refresh: clamp(end.Refresh, defaultRefresh, minRefresh, maxRefresh),
		retry:   clamp(end.Retry, defaultRetry, minRetry, maxRetry),
		expires: now.Add(clamp(end.Expire, defaultExpire, minExpire, maxExpire))}
}

// read reads the next PDU of an answer into s.pdu, and returns its bytes too.
func (s *session) read() ([]byte, error) {
	if s.in.Buffered() < MaxPDU/2 { // else there is no need to set the time anew
		now := time.Now()
		if now.After(s.due) {
			return nil, fmt.Errorf("no complete answer within %v", answerTimeout)
		}
		deadline := now.Add(stallTimeout)
		if s.due.Before(deadline) {
			deadline = s.due
		}
		s.conn.SetReadDeadline(deadline)
	}
	b, err := s.in.next(func() error { return nil })
	if err != nil {
		return nil, s.readError(err)
	}
	return b, s.decode(b)
}

// readError tells what a failed read means.
func (s *session) readError(err error) error {
	var timeout net.Error
	var wrong *Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("the cache stalled: %w", err)
	case errors.As(err, &wrong) && wrong.Code == UnsupportedVersion && !s.settled && len(wrong.PDU) > 1 && Type(wrong.PDU[1]) == ErrorReport:
		return fmt.Errorf("the cache reports an error in version %d", wrong.PDU[0]) // and gets no report of it
	case errors.As(err, &wrong) && wrong.Code == UnsupportedVersion && s.settled:
		wrong.Code = UnexpectedVersion
	case !s.settled && (errors.Is(err, io.EOF) || isReset(err)):
		return errSilent
	case errors.Is(err, io.EOF):
		return errors.New("the cache closed the connection")
	}
	return err
}

// isReset reports that the other side ended a connection the rude way.
func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && !op.Timeout() && !errors.Is(err, net.ErrClosed)
}

// decode reads b into s.pdu, and holds the version it came in against that of the session (8210bis §7).
func (s *session) decode(b []byte) error {
	if err := s.pdu.Decode(b); err != nil {
		return err
	}
	p := &s.pdu
	switch {
	case p.Type == ASPA && !p.Announce && len(p.Providers) > 0:
		// A withdrawal has no providers. This is the form of drafts before 8210bis-13, which StayRTR 0.5
		// still speaks: the flags stand elsewhere. Without ASPAs the two understand each other.
		s.c.log.Warn("the cache sends ASPAs as an old draft had them: going on without ASPAs, in version 1", "cache", s.c.caches[s.cache].Address)
		return downgrade{1}
	case p.Type == ErrorReport:
		return s.reported(p)
	case p.Version == s.version:
		s.settled = s.settled || p.Type != SerialNotify
	case s.settled:
		return fault(UnexpectedVersion, b, "%v of version %d in a session of version %d", p.Type, p.Version, s.version)
	case p.Type == SerialNotify: // of no account until the version is settled
	case p.Version > s.version:
		return fault(UnexpectedVersion, b, "%v of version %d in answer to version %d", p.Type, p.Version, s.version)
	default:
		s.version, s.settled = p.Version, true
	}
	return nil
}

// reported tells what an Error Report of the cache means.
func (s *session) reported(p *PDU) error {
	switch {
	case !s.settled && p.Code == UnsupportedVersion && s.version > 0:
		if p.Version < s.version {
			return downgrade{p.Version}
		}
		return downgrade{s.version - 1}
	case p.Code == UnknownWithdrawal || p.Code == DuplicateAnnounce || p.Code == CorruptData:
		s.c.distrust(s.cache)
	}
	return &Error{receivedError, nil, fmt.Sprintf("the cache reports %v: %.200q", p.Code, p.Text)}
}

// answer gathers the payload of one answer.
type answer interface {
	prefix(p *PDU, b []byte) error
	aspa(p *PDU, b []byte) error
	finish(from string, version uint8) (*rpki.Set, error)
}

func vrpOf(p *PDU) rpki.VRP { return rpki.VRP{Prefix: p.Prefix, MaxLength: p.MaxLength, ASN: p.ASN} }

// wire writes a VRP as the cache must have sent it.
func wire(v rpki.VRP, version uint8, announce bool) []byte {
	p := PDU{Version: version, Type: IPv6Prefix, Announce: announce, Prefix: v.Prefix, MaxLength: v.MaxLength, ASN: v.ASN}
	if v.Prefix.Addr().Is4() {
		p.Type = IPv4Prefix
	}
	return p.Append(nil)
}

// checkASPA holds an ASPA to what 8210bis says of provider lists. Their order is not insisted on.
func checkASPA(p *PDU, b []byte, total *int) error {
	if p.Announce && len(p.Providers) == 0 {
		return fault(ProviderListError, b, "the announced ASPA of AS%d has no providers", p.ASN)
	}
	if *total += 1 + len(p.Providers); *total > maxProviders {
		return fault(InternalError, nil, "more than %d providers in one answer", maxProviders)
	}
	return nil
}

// full is the answer to a Reset Query.
type full struct {
	b         *rpki.Builder
	aspas     map[uint32][]uint32
	providers int
}

func newFull() *full { return &full{b: rpki.NewBuilder(), aspas: map[uint32][]uint32{}} }

func (f *full) prefix(p *PDU, b []byte) error {
	if !p.Announce {
		return fault(UnknownWithdrawal, b, "%v is withdrawn in answer to a Reset Query", p.Prefix)
	}
	if err := f.b.Add(vrpOf(p)); err != nil {
		return fault(CorruptData, b, "%v", err)
	}
	return nil
}

func (f *full) aspa(p *PDU, b []byte) error {
	if !p.Announce {
		return fault(UnknownWithdrawal, b, "the ASPA of AS%d is withdrawn in answer to a Reset Query", p.ASN)
	}
	if err := checkASPA(p, b, &f.providers); err != nil {
		return err
	}
	f.aspas[p.ASN] = append([]uint32(nil), p.Providers...) // replaces one before (8210bis §5.12)
	return nil
}

func (f *full) finish(from string, version uint8) (*rpki.Set, error) {
	if v, found := f.b.Duplicate(); found {
		return nil, fault(DuplicateAnnounce, wire(v, version, true), "%v by AS%d twice", v.Prefix, v.ASN)
	}
	for customer, providers := range f.aspas {
		if err := f.b.AddASPA(customer, providers); err != nil {
			return nil, fault(InternalError, nil, "%v", err)
		}
	}
	return f.b.Set(from), nil
}

// changes is the answer to a Serial Query.
type changes struct {
	base      *rpki.Set
	vrps      map[rpki.VRP]bool // whether it is there, where that was said
	aspas     map[uint32][]uint32
	providers int
}

func newChanges(base *rpki.Set) *changes {
	return &changes{base: base, vrps: map[rpki.VRP]bool{}, aspas: map[uint32][]uint32{}}
}

func (c *changes) prefix(p *PDU, b []byte) error {
	v := vrpOf(p)
	there, said := c.vrps[v]
	if !said {
		there = c.base.Contains(v)
	}
	switch {
	case there && p.Announce:
		return fault(DuplicateAnnounce, b, "%v by AS%d is there already", v.Prefix, v.ASN)
	case !there && !p.Announce:
		return fault(UnknownWithdrawal, b, "%v by AS%d is not there", v.Prefix, v.ASN)
	case len(c.vrps) >= maxChanges:
		return fault(InternalError, nil, "more than %d changes", maxChanges)
	}
	c.vrps[v] = p.Announce
	return nil
}

func (c *changes) aspa(p *PDU, b []byte) error {
	if err := checkASPA(p, b, &c.providers); err != nil {
		return err
	}
	if p.Announce {
		c.aspas[p.ASN] = append([]uint32(nil), p.Providers...)
		return nil
	}
	providers, said := c.aspas[p.ASN]
	_, there := c.base.ASPAs()[p.ASN]
	if said {
		there = providers != nil
	}
	if !there {
		return fault(UnknownWithdrawal, b, "AS%d has no ASPA", p.ASN)
	}
	c.aspas[p.ASN] = nil
	return nil
}

func (c *changes) finish(from string, _ uint8) (*rpki.Set, error) {
	d := rpki.Delta{ASPAs: c.aspas}
	for v, there := range c.vrps {
		switch was := c.base.Contains(v); {
		case there && !was:
			d.Announced = append(d.Announced, v)
		case !there && was:
			d.Withdrawn = append(d.Withdrawn, v)
		}
	}
	if len(d.Announced)+len(d.Withdrawn)+len(d.ASPAs) == 0 {
		return c.base, nil
	}
	set, err := c.base.With(d, from)
	if err != nil {
		return nil, fault(CorruptData, nil, "%v", err)
	}
	return set, nil
}
