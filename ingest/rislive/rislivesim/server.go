// Package rislivesim is a RIS Live service of our own: it speaks RIPE's protocol on a loopback
// WebSocket and plays the built-in Internet of package scenario, with benign churn and well-known
// incidents, in real time. The demo and end-to-end tests connect the ordinary client to it, so that
// everything after the socket is the real thing.
package rislivesim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/routevigil/routevigil/ingest/scenario"
)

// Configuration says where to listen and what to play.
type Configuration struct {
	Listen string        `yaml:"listen" doc:"Address to listen on, host and port; port 0 takes a free one."`
	Seed   uint64        `yaml:"seed" doc:"Seed of the benign churn; the same seed plays the same."`
	Period time.Duration `yaml:"period" doc:"Time from one beginning of the incidents to the next."`
}

// DefaultConfiguration listens on a free port of the loopback address.
func DefaultConfiguration() Configuration {
	return Configuration{Listen: "127.0.0.1:0", Seed: 1, Period: 5 * time.Minute}
}

// Validate reports every value that cannot work.
func (c Configuration) Validate() error {
	var errs []error
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		errs = append(errs, fmt.Errorf("listen: %q is not host:port", c.Listen))
	}
	if c.Period < 3*time.Minute {
		errs = append(errs, fmt.Errorf("period: must be at least 3m, so that the incidents of one round are over before the next, is %v", c.Period))
	}
	return errors.Join(errs...)
}

// Server is the service. Create it with Listen.
type Server struct {
	c         Configuration
	log       *slog.Logger
	listener  net.Listener
	scenarios []*scenario.Scenario
	hosts     []string

	subscribed chan struct{} // closed at the first subscription
	once       sync.Once

	mu      sync.Mutex
	clients map[*client]bool
	closed  bool
	serving sync.WaitGroup
}

// Listen opens the socket, so that URL is known before Run serves it. The scenarios must play on
// the world (see [scenario.Play]); [scenario.Demo] gives the demo's.
func Listen(c Configuration, scenarios []*scenario.Scenario, log *slog.Logger) (*Server, error) {
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, fmt.Errorf("RIS Live simulator: %w", err)
	}
	s := &Server{c: c, log: log, listener: l, scenarios: scenarios, subscribed: make(chan struct{}), clients: map[*client]bool{}}
	for _, v := range scenario.World().Peers() {
		if h := hostOf(v.Collector); !slices.Contains(s.hosts, h) {
			s.hosts = append(s.hosts, h)
		}
	}
	return s, nil
}

// URL is what a client connects to.
func (s *Server) URL() string { return "ws://" + s.listener.Addr().String() + "/v1/ws/" }

// Run serves until ctx ends, which is no error. The play begins with the first subscription, and
// goes on whether or not anybody listens.
func (s *Server) Run(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/ws/", s.serve)
	h := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() {
		select {
		case <-s.subscribed:
			s.play(ctx, time.Now())
		case <-ctx.Done():
		}
	})
	stop := context.AfterFunc(ctx, func() { h.Close() })
	err := h.Serve(s.listener)
	ended := ctx.Err() != nil
	cancel()
	stop()
	s.disconnectAll()
	s.serving.Wait()
	group.Wait()
	if ended {
		return nil
	}
	return fmt.Errorf("RIS Live simulator: %w", err)
}

func (s *Server) play(ctx context.Context, start time.Time) {
	next, stop := iter.Pull(scenario.Play(start, s.c.Seed, s.c.Period, s.scenarios...))
	defer stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var e encoder
	for {
		u, ok := next()
		if !ok {
			return
		}
		timer.Reset(time.Until(u.Time.Time()))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		messages, err := e.encode(u)
		if err != nil {
			s.log.Error("RIS Live simulator: update left out", "error", err)
			continue
		}
		for _, m := range messages {
			s.broadcast(m)
		}
	}
}

func (s *Server) broadcast(m *message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		c.offer(m)
	}
}

// queue is how many messages may wait for a client before it counts as too slow.
const queue = 4096

// client is one connection.
type client struct {
	conn *websocket.Conn
	out  chan []byte
	gone chan struct{} // closed when the connection is over
	end  sync.Once
	slow atomic.Bool // the connection is over because the client could not keep up

	mu            sync.Mutex
	subscriptions []subscription
}

func (c *client) close() {
	c.end.Do(func() { close(c.gone) })
}

var errorTooSlow = []byte(`{"type":"ris_error","data":{"message":"Client too slow: messages were lost, disconnecting"}}`)

// offer queues m if the client asked for it. A client that cannot keep up is cut off, as the real
// service does.
func (c *client) offer(m *message) {
	c.mu.Lock()
	wanted, raw := false, false
	for _, sub := range c.subscriptions {
		if sub.matches(m) {
			wanted, raw = true, raw || sub.Options.IncludeRaw
		}
	}
	c.mu.Unlock()
	if wanted {
		c.send(m.text(raw))
	}
}

func (c *client) send(text []byte) {
	select {
	case c.out <- text:
	default:
		c.slow.Store(true)
		c.close()
	}
}

var upgrader = websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	c := &client{conn: conn, out: make(chan []byte, queue), gone: make(chan struct{})}
	if !s.admit(c) {
		conn.Close()
		return
	}
	defer s.serving.Done()
	defer func() {
		s.mu.Lock()
		delete(s.clients, c)
		s.mu.Unlock()
	}()
	var writer sync.WaitGroup
	writer.Go(c.write)
	defer writer.Wait()
	defer c.close()
	conn.SetReadLimit(4 << 20)
	for {
		_, text, err := conn.ReadMessage()
		if err != nil {
			return
		}
		s.request(c, text)
	}
}

func (s *Server) admit(c *client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.clients[c] = true
	s.serving.Add(1)
	return true
}

func (s *Server) disconnectAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.clients {
		c.close()
	}
}

// write sends what is queued until the client is gone, and ends the connection.
func (c *client) write() {
	defer c.conn.Close()
	for {
		select {
		case text := <-c.out:
			c.conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
			if c.conn.WriteMessage(websocket.TextMessage, text) != nil {
				return
			}
		case <-c.gone:
			c.conn.SetWriteDeadline(time.Now().Add(time.Second))
			if c.slow.Load() {
				c.conn.WriteMessage(websocket.TextMessage, errorTooSlow)
			}
			c.conn.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""))
			return
		}
	}
}

// request answers one message of a client.
func (s *Server) request(c *client, text []byte) {
	var m struct {
		Type string          `json:"type"`
		Data json.RawMessage `json:"data"`
	}
	reply := func(kind string, data any) {
		text, err := json.Marshal(map[string]any{"type": kind, "data": data})
		if err == nil {
			c.send(text)
		}
	}
	fail := func(format string, args ...any) {
		reply("ris_error", map[string]string{"message": fmt.Sprintf(format, args...)})
	}
	if err := json.Unmarshal(text, &m); err != nil {
		fail("invalid JSON: %v", err)
		return
	}
	switch m.Type {
	case "ping":
		reply("pong", nil)
	case "request_rrc_list":
		reply("ris_rrc_list", s.hosts)
	case "ris_subscribe":
		var sub subscription
		if err := sub.parse(m.Data); err != nil {
			fail("ris_subscribe: %v", err)
			return
		}
		c.mu.Lock()
		full := len(c.subscriptions) >= maxSubscriptions
		if !full {
			c.subscriptions = append(c.subscriptions, sub)
		}
		c.mu.Unlock()
		if full {
			fail("ris_subscribe: more than %d subscriptions", maxSubscriptions)
			return
		}
		if sub.Options.Acknowledge {
			reply("ris_subscribe_ok", map[string]any{"subscription": m.Data, "socketOptions": sub.Options})
		}
		s.once.Do(func() { close(s.subscribed) })
	case "ris_unsubscribe":
		var sub subscription
		all := len(m.Data) == 0 || string(m.Data) == "null"
		if !all {
			if err := sub.parse(m.Data); err != nil {
				fail("ris_unsubscribe: %v", err)
				return
			}
		}
		c.mu.Lock()
		c.subscriptions = slices.DeleteFunc(c.subscriptions, func(o subscription) bool { return all || o.key == sub.key })
		c.mu.Unlock()
	default:
		fail("unknown message type %q", m.Type)
	}
}

func hostOf(collector string) string {
	if strings.HasPrefix(collector, "rrc") {
		return collector + ".ripe.net"
	}
	return collector
}
