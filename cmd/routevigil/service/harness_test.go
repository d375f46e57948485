package service

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/alert"
	"github.com/routevigil/routevigil/alert/channel"
	"github.com/routevigil/routevigil/alert/webhook"
	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/mrt"
	"github.com/routevigil/routevigil/store"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if binaryDirectory != "" {
			os.RemoveAll(binaryDirectory)
		}
		os.Exit(code)
	}))
}

// The small Internet of these tests: every peer has a route to every network, through one of three
// transit networks. Nothing connects the network attacker(i) with the network victim(i).
const (
	networks = 600 // of each sort
	sessions = 12  // with the collector; the first three are enough to open an incident
)

var transits = [...]uint32{1101, 1102, 1103}

type network struct {
	asn    uint32
	prefix netip.Prefix
}

func blocks(first byte, i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{first, byte(i >> 6), byte(i&63) << 2, 0}), 22)
}

func victim(i int) network { return network{uint32(20000 + i), blocks(20, i)} }

// attacker's AS number has no digit in common with the victim's: it is no slip of the finger.
func attacker(i int) network { return network{uint32(49999 - i), blocks(40, i)} }

func session(k int) ingest.Peer {
	return ingest.Peer{Collector: "rrc00", ASN: uint32(5001 + k), Addr: netip.AddrFrom4([4]byte{198, 51, 100, byte(k + 1)})}
}

// route is what session k says of prefix when asn originates it.
func route(k int, prefix netip.Prefix, asn uint32) ingest.Update {
	p := session(k)
	path := []uint32{p.ASN, transits[(k+int(asn))%len(transits)], asn}
	return ingest.Update{
		Time: ingest.TimeOf(time.Now()), Peer: p, Announced: []bgp.NLRI{{Prefix: prefix}},
		Attrs: bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: p.Addr,
			ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: path}}},
	}
}

// hijack has sessions from to upTo hear attacker(i) announce the prefix of victim(i).
func hijack(i, from, upTo int) []ingest.Update {
	var list []ingest.Update
	for k := from; k < upTo; k++ {
		list = append(list, route(k, victim(i).prefix, attacker(i).asn))
	}
	return list
}

// heal withdraws that route everywhere, whereupon the victim's own is heard again.
func heal(i int) []ingest.Update {
	var list []ingest.Update
	for k := range sessions {
		back := route(k, victim(i).prefix, victim(i).asn)
		list = append(list, ingest.Update{Time: back.Time, Peer: back.Peer, Withdrawn: back.Announced}, back)
	}
	return list
}

// writeBaseline writes the table of the small Internet and returns the file's name.
func writeBaseline(t testing.TB) string {
	t.Helper()
	var rows []ingest.Update
	for i := range networks {
		for _, n := range [...]network{victim(i), attacker(i)} {
			for k := range sessions {
				u := route(k, n.prefix, n.asn)
				u.Kind = ingest.RIB
				rows = append(rows, u)
			}
		}
	}
	var b bytes.Buffer
	if err := mrt.NewWriter(&b).RIB(ingest.TimeOf(time.Now()), "rrc00", rows); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "rrc00.mrt")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// feed is a RIS Live service that says what a test has it say, to all who have subscribed.
type feed struct {
	server *httptest.Server

	mu      sync.Mutex
	clients map[*websocket.Conn]bool
}

func newFeed(t testing.TB) *feed {
	f := &feed{clients: map[*websocket.Conn]bool{}}
	f.server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(func() {
		f.disconnect()
		f.server.Close()
	})
	return f
}

func (f *feed) url() string { return "ws" + strings.TrimPrefix(f.server.URL, "http") }

func (f *feed) serve(w http.ResponseWriter, r *http.Request) {
	var upgrader websocket.Upgrader
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	for {
		if _, _, err := conn.ReadMessage(); err != nil {
			f.mu.Lock()
			delete(f.clients, conn)
			f.mu.Unlock()
			return
		}
		f.mu.Lock()
		f.clients[conn] = true
		f.mu.Unlock()
	}
}

func (f *feed) subscribers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.clients)
}

func (f *feed) disconnect() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.clients {
		c.Close()
	}
}

// disconnectOne breaks the connection of one of those who listen.
func (f *feed) disconnectOne() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.clients {
		c.Close()
		delete(f.clients, c)
		return
	}
}

// say sends one message to all, waiting for as long as one does not read. It fails where nobody took it.
func (f *feed) say(kind int, text []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	err, taken := io.ErrClosedPipe, false
	for c := range f.clients {
		c.SetWriteDeadline(time.Now().Add(time.Minute))
		if failed := c.WriteMessage(kind, text); failed != nil {
			err = failed
			c.Close()
			delete(f.clients, c)
		} else {
			taken = true
		}
	}
	if taken {
		return nil
	}
	return err
}

// tell sends updates, each as one message.
func (f *feed) tell(updates ...ingest.Update) error {
	for i := range updates {
		if err := f.say(websocket.TextMessage, message(&updates[i])); err != nil {
			return err
		}
	}
	return nil
}

// message is u as RIS Live says it to clients that ask for the raw message.
func message(u *ingest.Update) []byte {
	wire, err := bgp.AppendUpdate(nil, &bgp.Update{Withdrawn: u.Withdrawn, Announced: u.Announced, Attrs: u.Attrs}, bgp.Options{})
	if err != nil {
		panic(err)
	}
	return fmt.Appendf(nil, `{"type":"ris_message","data":{"timestamp":%d.%06d,"peer":"%s","peer_asn":"%d","id":"1","host":"%s.ripe.net","type":"UPDATE","raw":"%s"}}`,
		u.Time/1e6, u.Time%1e6, u.Peer.Addr, u.Peer.ASN, u.Peer.Collector, strings.ToUpper(hex.EncodeToString(wire)))
}

// churn is the i-th thing that a quiet Internet says: routes change their transit network and come back. It is about the
// prefixes of attackers, which nothing else is.
func churn(i int) ingest.Update {
	n := attacker(i % networks)
	u := route(i%sessions, n.prefix, n.asn)
	u.Attrs.ASPath[0].ASNs[1] = transits[(i/networks)%len(transits)]
	return u
}

// background keeps saying what a quiet Internet says, every so often, until the test ends or stop is called.
func (f *feed) background(t testing.TB, every time.Duration) (stop func()) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		next := time.Now()
		for i := 0; ; i++ {
			if next = next.Add(every); time.Until(next) > 0 {
				select {
				case <-time.After(time.Until(next)):
				case <-end:
					return
				}
			}
			select {
			case <-end:
				return
			default:
			}
			f.tell(churn(i)) // who is away misses it, as with the real service
		}
	})
	stop = sync.OnceFunc(func() { close(end); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

const secret = "whsec_cm91dGV2aWdpbCB0ZXN0IHNlY3JldA=="

// receiver is a webhook that checks what it gets as a receiver should and remembers it.
type receiver struct {
	t      testing.TB
	server *httptest.Server
	answer func(w http.ResponseWriter, r *http.Request) // 204 where nil

	mu     sync.Mutex
	events map[string][]incident.Event // by idempotency key, in order of arrival
	came   chan incident.Event         // where not nil, gets every event that can be sent without waiting
}

func newReceiver(t testing.TB) *receiver {
	r := &receiver{t: t, events: map[string][]incident.Event{}}
	r.server = httptest.NewServer(r)
	t.Cleanup(r.server.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the sender died
	}
	if err := webhook.Verify(secret, req.Header, body); err != nil {
		r.t.Errorf("a message that does not verify: %v", err)
	}
	var m struct {
		Event incident.Event `json:"routevigil"`
	}
	if err := json.Unmarshal(body, &m); err != nil {
		r.t.Errorf("a message that is no JSON: %v", err)
	}
	key := req.Header.Get("Webhook-Id")
	r.mu.Lock()
	r.events[key] = append(r.events[key], m.Event)
	r.mu.Unlock()
	select {
	case r.came <- m.Event:
	default:
	}
	if r.answer != nil {
		r.answer(w, req)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// told lists what was received, each key once, in the order of sequence.
func (r *receiver) told() []incident.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []incident.Event
	for _, events := range r.events {
		list = append(list, events[0])
	}
	slices.SortFunc(list, func(a, b incident.Event) int { return int(a.Sequence) - int(b.Sequence) })
	return list
}

// heard tells whether the receiver knows of such a change of the incident about the victim.
func (r *receiver) heard(victim uint32, change incident.Change) bool {
	return slices.ContainsFunc(r.told(), func(e incident.Event) bool {
		return e.Change == change && slices.Contains(e.Incident.Victims, victim)
	})
}

func (r *receiver) configuration(name string) alert.Webhook {
	return alert.Webhook{Name: name, URL: channel.URL(r.server.URL), Secret: secret, Timeout: 5 * time.Second}
}

// configuration is a service on the small Internet that listens to feedURL, with short times.
func configuration(t testing.TB, feedURL string, hooks ...alert.Webhook) config.Config {
	c := config.Default()
	c.Ingest.RISLive.Name, c.Ingest.RISLive.URL = "test", feedURL
	c.Ingest.RISLive.ReconnectMin, c.Ingest.RISLive.ReconnectMax = 50*time.Millisecond, 200*time.Millisecond
	c.Ingest.Backfill.Enabled = false // there is no archive of it
	c.Ingest.Baseline = []string{writeBaseline(t)}
	c.Detect.Hold, c.Detect.Report = 500*time.Millisecond, 200*time.Millisecond
	c.Store.Directory = filepath.Join(t.TempDir(), "store")
	c.Alert.Webhooks = hooks
	c.API.Listen = "127.0.0.1:0"
	return c
}

// client talks to the HTTP server of one service.
type client struct {
	t    testing.TB
	base string
	http *http.Client
}

func newClient(t testing.TB, base string) *client {
	transport := &http.Transport{DisableKeepAlives: true}
	return &client{t, base, &http.Client{Transport: transport, Timeout: 20 * time.Second}}
}

// running is a service in this process.
type running struct {
	*client
	service *Service
	stop    func() error // ends it and closes it; may be called more than once
}

// start runs a service until the test ends.
func start(t testing.TB, c config.Config) *running {
	t.Helper()
	s, err := New(c, api.Live, "test", testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r := &running{client: newClient(t, "http://"+s.Addr().String()), service: s}
	end := sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return errors.Join(err, s.Close())
		case <-time.After(patience):
			return fmt.Errorf("the service has not stopped for %s", patience)
		}
	})
	looked := false // at how it ended
	r.stop = func() error {
		looked = true
		return end()
	}
	t.Cleanup(func() {
		if err := end(); err != nil && !looked {
			t.Error(err)
		}
	})
	return r
}

// testLog shows what goes wrong, for a test that fails.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// get decodes the answer into out and returns the status; 0 while nobody answers.
func (c *client) get(path string, out any) int {
	r, err := c.http.Get(c.base + path)
	if err != nil {
		return 0
	}
	defer r.Body.Close()
	if text, ok := out.(*string); ok {
		b, _ := io.ReadAll(r.Body)
		*text = string(b)
	} else if err := json.NewDecoder(r.Body).Decode(out); err != nil {
		return 0
	}
	return r.StatusCode
}

func (c *client) ready() (status int, reasons string) {
	var answer api.Readiness
	status = c.get("/readyz", &answer)
	return status, strings.Join(answer.Reasons, " ")
}

func (c *client) incidents(query string) []incident.Incident {
	var list struct{ Items []incident.Incident }
	c.get("/api/v1/incidents?limit=500&"+query, &list)
	return list.Items
}

// incidentOf returns the incident about victim(i), if there is one.
func (c *client) incidentOf(i int) (incident.Incident, bool) {
	list := c.incidents(fmt.Sprintf("asn=%d", victim(i).asn))
	if len(list) > 1 {
		c.t.Errorf("%d incidents about AS%d, want one", len(list), victim(i).asn)
	}
	if len(list) == 0 {
		return incident.Incident{}, false
	}
	return list[0], true
}

func (c *client) feed() ingest.Status {
	var list struct{ Items []ingest.Status }
	if c.get("/api/v1/feeds", &list) != http.StatusOK || len(list.Items) != 1 {
		return ingest.Status{}
	}
	return list.Items[0]
}

// clock is how far event time has come in detection.
func (c *client) clock() time.Time {
	seconds, _ := c.metric("routevigil_detect_event_time_seconds")
	return time.UnixMicro(int64(seconds * 1e6))
}

// metric returns the line of /metrics that begins with name and a space.
func (c *client) metric(name string) (value float64, ok bool) {
	var text string
	c.get("/metrics", &text)
	for line := range strings.Lines(text) {
		if rest, found := strings.CutPrefix(line, name+" "); found {
			_, err := fmt.Sscan(rest, &value)
			return value, err == nil
		}
	}
	return 0, false
}

// follow hands every event of the stream after the given sequence to f, as JSON, until ctx ends or
// the stream does.
func (c *client) follow(ctx context.Context, after uint64, f func(sequence uint64, event string)) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("%s/api/v1/stream?after=%d", c.base, after), nil)
	if err != nil {
		return err
	}
	response, err := c.http.Transport.RoundTrip(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 1<<22)
	var id uint64
	var data string
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			fmt.Sscan(value, &id)
		case "data":
			data = value
		case "": // only now the event is whole
			if data != "" {
				f(id, data)
			}
			data = ""
		}
	}
	return lines.Err()
}

// patience is how long a machine under any load is given; a test that passes waits for nothing.
const patience = 2 * time.Minute

// eventually waits until what holds; what says what is missing, or nothing when it holds.
func eventually(t testing.TB, what func() string) {
	t.Helper()
	missing := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if missing = what(); missing == "" {
			return
		}
	}
	t.Fatalf("after %s still: %s", patience, missing)
}

// whenReady waits until the service says that its verdicts are current and has subscribed to f, where
// that is not nil.
func (c *client) whenReady(f *feed) {
	c.t.Helper()
	eventually(c.t, func() string {
		if f != nil && f.subscribers() == 0 {
			return "not subscribed"
		}
		if status, reasons := c.ready(); status != http.StatusOK {
			return fmt.Sprintf("not ready (%d): %s", status, reasons)
		}
		return ""
	})
}

// whenHeard waits until the receiver knows of a change about victim(i).
func whenHeard(t testing.TB, r *receiver, i int, change incident.Change) {
	t.Helper()
	eventually(t, func() string {
		if !r.heard(victim(i).asn, change) {
			return fmt.Sprintf("the receiver has not heard that the incident about AS%d %s", victim(i).asn, change)
		}
		return ""
	})
}

func (c *client) events(id string) []incident.Event {
	var list struct {
		Items []incident.Event
		Next  string
	}
	c.get("/api/v1/incidents/"+id+"/events?limit=500", &list)
	if list.Next != "" {
		c.t.Errorf("%s has more events than a page", id)
	}
	return list.Items
}

func (c *client) deliveries(id string) []store.Delivery {
	var list struct{ Items []store.Delivery }
	c.get("/api/v1/incidents/"+id+"/deliveries", &list)
	return list.Items
}
