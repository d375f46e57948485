// Package rislive reads RIPE's RIS Live: the updates that its route collectors hear, within seconds,
// as JSON over a WebSocket (https://ris-live.ripe.net), as lines over HTTP where no WebSocket gets
// through, or as lines from a file.
//
// It asks for the raw BGP messages (includeRaw) and decodes those, because the JSON leaves out
// attributes that matter here (OTC, large communities) and costs more to read; the JSON form is
// only the fallback. A scanner made for these messages finds the few members that are needed
// without building anything: the full stream is many thousands of messages a second, and a general
// JSON decoder would be the most expensive part of the whole program.
//
// The feed is not trusted: it may stall while the connection lives, fall behind, send rubbish or
// more than we can take. Each is noticed, counted and shown in the client's status.
package rislive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/ingest"
)

// Client is the source. Create it with New.
type Client struct {
	c          Configuration
	part       int // of c.Connections, from 0
	log        *slog.Logger
	d          decoder
	collectors chan []string // what the service says that there are
	connection atomic.Uint64

	mu      sync.Mutex
	status  ingest.Status // but for what Status derives
	newest  time.Time     // the latest stamp of the connection
	lagging bool
	samples ingest.Samples

	messages, updates prometheus.Counter
	malformed         *prometheus.CounterVec
	reconnects        prometheus.Counter
}

var _ ingest.Source = (*Client)(nil)

// New makes the clients of c, one for each connection; Run connects one. reg may be nil.
func New(c Configuration, log *slog.Logger, reg prometheus.Registerer) []*Client {
	if c.Connections == 1 {
		return []*Client{newClient(c, 0, log, reg)}
	}
	clients := make([]*Client, c.Connections)
	for i := range clients {
		part := c
		part.Name = fmt.Sprintf("%s-%d", c.Name, i+1)
		clients[i] = newClient(part, i, log, reg)
	}
	return clients
}

func newClient(c Configuration, part int, log *slog.Logger, reg prometheus.Registerer) *Client {
	x := &Client{
		c: c, part: part, log: log.With("feed", c.Name), collectors: make(chan []string, 1),
		messages:   prometheus.NewCounter(prometheus.CounterOpts{Name: "routevigil_rislive_messages_total", Help: "Messages received."}),
		updates:    prometheus.NewCounter(prometheus.CounterOpts{Name: "routevigil_rislive_updates_total", Help: "Updates handed on."}),
		malformed:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "routevigil_rislive_malformed_total", Help: "Messages that were wrong, wholly or in part."}, []string{"reason"}),
		reconnects: prometheus.NewCounter(prometheus.CounterOpts{Name: "routevigil_rislive_reconnects_total", Help: "Connections that ended, and attempts that failed."}),
	}
	now := time.Now()
	x.status = ingest.Status{Name: c.Name, Type: "ris-live", Address: c.URL, State: ingest.Connecting, Since: now}
	if reg != nil {
		reg = prometheus.WrapRegistererWith(prometheus.Labels{"feed": c.Name}, reg)
		reg.MustRegister(x.messages, x.updates, x.malformed, x.reconnects,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "routevigil_rislive_lag_seconds", Help: "Receipt minus stamp of the last message."},
				func() float64 { return x.Status().LagSeconds }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "routevigil_rislive_connected", Help: "1 while connected, also when stalled or lagging."},
				func() float64 {
					if x.Status().State == ingest.Connecting {
						return 0
					}
					return 1
				}))
	}
	return x
}

// Run delivers updates to h until ctx ends or h fails, reconnecting as often as it takes.
func (x *Client) Run(ctx context.Context, h ingest.Handler) error {
	wait := x.c.ReconnectMin
	for {
		start := time.Now()
		received, err := x.session(ctx, h)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var stop *handlerError
		if errors.As(err, &stop) {
			return stop.error
		}
		if received && time.Since(start) > wait {
			wait = x.c.ReconnectMin
		}
		delay := wait/2 + rand.N(wait/2+1)
		x.disconnected(err, delay)
		x.log.Warn("RIS Live: connection lost", "error", err, "retry_in", delay)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
		wait = min(2*wait, x.c.ReconnectMax)
	}
}

// handlerError is an error of the consumer, which ends Run.
type handlerError struct{ error }

// session is one connection, from dialling to its end.
func (x *Client) session(ctx context.Context, h ingest.Handler) (received bool, err error) {
	address, err := url.Parse(x.c.URL)
	if err != nil {
		return false, err
	}
	query := address.Query()
	query.Set("client", x.c.Client)
	address.RawQuery = query.Encode()
	if x.c.overHTTP() {
		return x.stream(ctx, address.String(), h)
	}
	return x.socket(ctx, address.String(), h)
}

func (x *Client) errStalled() error { return fmt.Errorf("stalled: no message for %v", x.c.StallAfter) }

// message handles one message. Its error is a *handlerError.
func (x *Client) message(text []byte, h ingest.Handler) error {
	now := time.Now()
	u, err := x.d.decode(text)
	var bad *Malformed
	errors.As(err, &bad)
	x.received(now, text, u, bad)
	if x.d.collectors != nil {
		select {
		case x.collectors <- x.d.collectors:
		default: // asked for once, said twice
		}
	}
	if u == nil {
		return nil
	}
	if err := h(u); err != nil {
		return &handlerError{err}
	}
	x.updates.Inc()
	x.mu.Lock()
	x.status.Updates++
	x.mu.Unlock()
	return nil
}

func (x *Client) received(now time.Time, text []byte, u *ingest.Update, bad *Malformed) {
	x.messages.Inc()
	x.mu.Lock()
	defer x.mu.Unlock()
	s := &x.status
	s.Messages++
	s.LastMessage = now
	if bad != nil {
		x.malformed.WithLabelValues(bad.Reason).Inc()
		if s.Malformed == nil {
			s.Malformed = map[string]uint64{}
		}
		s.Malformed[bad.Reason]++
		x.samples.Keep(ingest.Sample{Time: now, Reason: bad.Reason, Detail: bad.Detail, Octets: text})
	}
	if x.d.complaint != "" {
		complaint := "the service says: " + x.d.complaint
		if complaint != s.LastError { // the log is not theirs to flood
			x.log.Warn("RIS Live: error message", "error", complaint)
		}
		s.LastError = complaint
	}
	if u == nil {
		return
	}
	s.Peers = len(x.d.peers)
	stamp := u.Time.Time()
	s.LastEventTime = stamp
	s.LagSeconds = now.Sub(stamp).Seconds()
	// One session with old stamps is no lag of the feed: the newest stamp counts. Nor may one from
	// the future hide a lag.
	if stamp.After(now) {
		stamp = now
	}
	if stamp.After(x.newest) {
		x.newest = stamp
	}
	if lagging := now.Sub(x.newest) > x.c.LagAfter; lagging != x.lagging || s.State == ingest.Connecting {
		x.lagging = lagging
		x.enter(now, map[bool]ingest.State{false: ingest.Connected, true: ingest.Lagging}[lagging])
		if lagging {
			x.log.Warn("RIS Live: lagging", "seconds", now.Sub(x.newest).Seconds())
		}
	}
}

func (x *Client) enter(now time.Time, state ingest.State) {
	if x.status.State != state {
		x.status.State, x.status.Since = state, now
	}
}

// Connection is the number of the connection that updates come from, or came from last: it grows by one with
// each, from 1 for the first; 0 before. Within a connection no update is missed.
func (x *Client) Connection() uint64 { return x.connection.Load() }

func (x *Client) connected() {
	now := time.Now()
	x.connection.Add(1)
	x.log.Info("RIS Live: connected", "url", x.c.URL)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.enter(now, ingest.Connected)
	x.newest, x.lagging = time.Time{}, false
	x.status.NextAttempt = time.Time{}
}

func (x *Client) disconnected(err error, delay time.Duration) {
	now := time.Now()
	x.reconnects.Inc()
	x.mu.Lock()
	defer x.mu.Unlock()
	x.enter(now, ingest.Connecting)
	x.status.Reconnects++
	x.status.LastError = err.Error()
	x.status.NextAttempt = now.Add(delay)
}

// Status tells how the feed is. A connection on which nothing has come for half of StallAfter, or
// for a minute if there is no such limit, counts as stalled.
func (x *Client) Status() ingest.Status {
	now := time.Now()
	x.mu.Lock()
	defer x.mu.Unlock()
	s := x.status
	s.Malformed = maps.Clone(s.Malformed)
	if s.State == ingest.Connected || s.State == ingest.Lagging {
		last := s.LastMessage
		if last.Before(s.Since) {
			last = s.Since
		}
		quiet := time.Minute
		if x.c.StallAfter > 0 {
			quiet = x.c.StallAfter / 2
		}
		if now.Sub(last) > quiet {
			s.State, s.Since = ingest.Stalled, last.Add(quiet)
		}
	}
	return s
}

// Samples implements [ingest.Source].
func (x *Client) Samples() []ingest.Sample {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.samples.All()
}
