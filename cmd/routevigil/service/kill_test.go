package service

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/clickhouse/clickhousetest"
	"github.com/routevigil/routevigil/store/embedded"
)

// binaryDirectory is where the program was built, if a test needed it.
var binaryDirectory string

// program builds the program as it is shipped, once: what dies in these tests is the real thing.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "routevigil-test-")
	if err != nil {
		return "", err
	}
	binaryDirectory = dir
	file := filepath.Join(dir, "routevigil")
	if out, err := exec.Command("go", "build", "-o", file, "github.com/routevigil/routevigil/cmd/routevigil").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return file, nil
})

// process is one life of "routevigil serve" or of a role.
type process struct {
	*client
	command *exec.Cmd
	errors  sync.WaitGroup // reads its standard error
	wait    func() error   // waits for the end; it may be called again
}

// launch starts "routevigil serve" with a configuration that says what c does.
func launch(t *testing.T, c config.Config) *process {
	t.Helper()
	p, err := begin(t, "serve", serveArguments(t, c)...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// serveArguments are those with which "routevigil serve" does what c says.
func serveArguments(t *testing.T, c config.Config) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "routevigil.yaml")
	var text strings.Builder
	fmt.Fprintf(&text, "archive: {broker: %q, ris: %q}\ningest:\n  backfill: {enabled: %t, interval: %s}\n", c.Archive.Broker, c.Archive.RIS,
		c.Ingest.Backfill.Enabled, c.Ingest.Backfill.Interval)
	fmt.Fprintf(&text, "  ris_live: {name: %q, url: %q, reconnect_min: %s, reconnect_max: %s}\n  baseline: [%q]\n", c.Ingest.RISLive.Name,
		c.Ingest.RISLive.URL, c.Ingest.RISLive.ReconnectMin, c.Ingest.RISLive.ReconnectMax, c.Ingest.Baseline[0])
	fmt.Fprintf(&text, "detect: {hold: %s, report: %s}\nstore: {kind: %s, directory: %q, clickhouse: {addresses: [%q], database: %s, write_timeout: %s}}\napi: {listen: %q}\n",
		c.Detect.Hold, c.Detect.Report, c.Store.Kind, c.Store.Directory, c.Store.ClickHouse.Addresses[0], c.Store.ClickHouse.Database, c.Store.ClickHouse.WriteTimeout, c.API.Listen)
	for _, w := range c.Alert.Webhooks {
		fmt.Fprintf(&text, "alert: {webhooks: [{name: %q, url: %q, secret: %q, timeout: %s}]}\n", w.Name, string(w.URL), string(w.Secret), w.Timeout)
	}
	fmt.Fprintf(&text, "knowledge:\n  as_rel: %q\n", c.Knowledge.Relationships)
	for _, m := range c.Knowledge.IRR.Mirrors {
		fmt.Fprintf(&text, "  irr: {mirrors: [{source: %q, nrtm4: %q, key: %q, nrtm3: %q, dumps: %q, serial: %q}]}\n", m.Source, m.NRTM4, m.Key, m.NRTM3, m.Dumps, m.Serial)
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"serve", "-c", file, "--log-level", "warn"}
}

// begin starts the program, and returns when it listens, or has ended.
func begin(t testing.TB, name string, arguments ...string) (*process, error) {
	binary, err := program()
	if err != nil {
		return nil, err
	}
	p := &process{command: exec.Command(binary, arguments...)}
	p.wait = sync.OnceValue(func() error {
		p.errors.Wait()
		return p.command.Wait()
	})
	stderr, err := p.command.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	address := make(chan string, 1)
	p.errors.Go(func() {
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			if _, url, ok := strings.Cut(lines.Text(), " on http://"); ok {
				host, _, _ := strings.Cut(url, "/")
				select {
				case address <- "http://" + host:
				default: // it has said so before
				}
				continue
			}
			t.Log(name + ": " + lines.Text())
		}
		close(address)
		io.Copy(io.Discard, stderr)
	})
	t.Cleanup(func() {
		p.command.Process.Kill() // fails where it has ended already, as it should
		p.wait()
	})
	url, ok := <-address
	if !ok {
		return nil, fmt.Errorf("%s ended before it listened: %w", name, p.wait())
	}
	p.client = newClient(t, url)
	return p, nil
}

// witness remembers what a client has seen of a service: none of that may be taken back.
type witness struct {
	t *testing.T

	mu     sync.Mutex
	events map[uint64]string // by sequence, as JSON
	routes map[string]bool   // serial numbers, as communities
}

func (w *witness) event(sequence uint64, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if before, ok := w.events[sequence]; ok && before != text {
		w.t.Errorf("event %d was\n%s\nand is now\n%s", sequence, before, text)
	}
	w.events[sequence] = text
}

// watch looks at everything, over and over, until the service is gone.
func (w *witness) watch(c *client) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.follow(ctx, 0, w.event) })
	wg.Go(func() {
		for ctx.Err() == nil {
			rows := serials(c, false)
			w.mu.Lock()
			for s := range rows {
				w.routes[s] = true
			}
			w.mu.Unlock()
			time.Sleep(10 * time.Millisecond)
		}
	})
	return func() { cancel(); wg.Wait() }
}

// The route by which serial numbers travel through a service into its history.
var (
	serialPrefix = netip.MustParsePrefix("40.200.0.0/22")
	serialOrigin = attacker(0).asn
)

// serials returns how often each serial number is in the history, or in its last rows.
func serials(c *client, all bool) map[string]int {
	found := map[string]int{}
	for cursor := ""; ; {
		var list struct {
			Items []store.Route
			Next  string
		}
		c.get("/api/v1/updates?limit=500&prefix="+serialPrefix.String()+cursor, &list)
		for _, r := range list.Items {
			found[strings.Join(r.Communities, " ")]++
		}
		if list.Next == "" || !all {
			return found
		}
		cursor = "&cursor=" + list.Next
	}
}

// However often and whenever the service is killed: what it showed is there afterwards and is the
// same, incidents go on, and receivers are told of everything under one key each.
func TestKill(t *testing.T) {
	t.Parallel()
	testKill(t, 6, func(*config.Config) {}, func() {})
}

// The same on a ClickHouse server that is killed too: in the middle of each life, and between two. (The tests' server
// may end by itself when a client vanishes in the middle of a query: it is a library that is not made to be one.)
func TestKillOnClickHouse(t *testing.T) {
	t.Parallel()
	server := clickhousetest.New(t, t.TempDir())
	testKill(t, 3, func(c *config.Config) {
		c.Store.Kind = config.ClickHouse
		c.Store.ClickHouse.Addresses = []string{server.Address}
		c.Store.ClickHouse.WriteTimeout = 5 * time.Second
	}, func() {
		server.Kill()
		server.Start()
	})
}

// testKill has the service live rounds lives, each of which ends by force. harm is done in the middle and at the end of each.
func testKill(t *testing.T, rounds int, change func(*config.Config), harm func()) {
	const perRound = 80 // incidents beside those that are looked at
	if testing.Short() {
		rounds = 2
	}
	f, hook := newFeed(t), newReceiver(t)
	c := configuration(t, f.url(), hook.configuration("noc"))
	change(&c)
	f.background(t, time.Millisecond)
	var serial sync.WaitGroup
	end := make(chan struct{})
	serial.Go(func() {
		for n := uint32(1); ; n++ {
			u := route(int(n)%sessions, serialPrefix, serialOrigin)
			u.Attrs.Has |= bgp.HasCommunities
			u.Attrs.Communities = []uint32{1<<24 | n}
			f.tell(u)
			select {
			case <-time.After(5 * time.Millisecond):
			case <-end:
				return
			}
		}
	})
	defer serial.Wait()
	defer close(end)

	w := &witness{t: t, events: map[uint64]string{}, routes: map[string]bool{}}
	open := map[int]string{} // the incidents that are open, to their identifiers
	sawAsOpen := func(p *process, i int) string {
		inc, ok := p.incidentOf(i)
		switch {
		case !ok:
			return fmt.Sprintf("no incident about AS%d", victim(i).asn)
		case inc.Status != incident.Open:
			return fmt.Sprintf("the incident about AS%d is %s", victim(i).asn, inc.Status)
		case open[i] != "" && open[i] != inc.ID:
			return fmt.Sprintf("the incident about AS%d was %s and is %s", victim(i).asn, open[i], inc.ID)
		}
		open[i] = inc.ID
		return ""
	}
	next := 1
	for round := range rounds {
		p := launch(t, c)
		stop := w.watch(p.client)
		p.whenReady(f)
		time.Sleep(c.Detect.Hold + 200*time.Millisecond) // after which they would end, were their routes forgotten
		for i := range open {                            // still open, before anybody says so again
			if wrong := sawAsOpen(p, i); wrong != "" {
				t.Errorf("round %d, after the restart: %s", round, wrong)
			}
		}
		for i := range open { // one of them ends
			if err := f.tell(heal(i)...); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() string {
				inc, _ := p.incidentOf(i)
				if inc.Status != incident.Ended || inc.ID != open[i] {
					return fmt.Sprintf("%s about AS%d, withdrawn, is %s", inc.ID, victim(i).asn, inc.Status)
				}
				return ""
			})
			delete(open, i)
			break
		}
		for range 2 { // two begin, and are there to stay
			f.tell(hijack(next, 0, 3)...)
			eventually(t, func() string { return sawAsOpen(p, next) })
			next++
		}
		harm()
		// More begin and end, and in the middle of it all the process dies.
		var trouble sync.WaitGroup
		trouble.Go(func() {
			first := 100 + perRound*round
			for i := first; i < first+perRound && f.subscribers() > 0; i++ {
				f.tell(hijack(i, 0, 3)...)
				time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
				f.tell(hijack(i, 3, sessions)...)
				if i >= first+20 {
					f.tell(heal(i - 20)...)
				}
			}
		})
		time.Sleep(time.Duration(rand.IntN(1200)) * time.Millisecond)
		stopping := round%2 == 1 // every other time it is killed while it saves its state to stop
		if stopping {
			p.command.Process.Signal(syscall.SIGTERM)
			time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		}
		p.command.Process.Kill()
		if err := p.wait(); !killed(err) && !(stopping && err == nil) {
			t.Fatalf("round %d: it ended by itself: %v", round, err)
		}
		trouble.Wait()
		stop()
		harm()
		t.Logf("round %d: %d events and %d routes seen so far, %d incidents open", round, len(w.events), len(w.routes), len(open))
	}

	// At last all is withdrawn, and everything comes to its end.
	p := launch(t, c)
	p.whenReady(f)
	for i := range next {
		f.tell(heal(i)...)
	}
	for i := 100; i < 100+perRound*rounds; i++ {
		f.tell(heal(i)...)
	}
	eventually(t, func() string {
		if left := p.incidents("status=open"); len(left) > 0 {
			return fmt.Sprintf("%d incidents are open, the first is: %s", len(left), left[0].Title)
		}
		return ""
	})
	var events []incident.Event
	seen := map[uint64]bool{}
	for _, inc := range p.incidents("") {
		for _, e := range p.events(inc.ID) {
			events = append(events, e)
			seen[e.Sequence] = true
		}
	}
	for n := range w.events {
		if !seen[n] {
			t.Errorf("event %d, once seen, is gone", n)
		}
	}
	for n := uint64(1); n <= uint64(len(seen)); n++ {
		if !seen[n] {
			t.Errorf("of %d events, number %d is missing", len(seen), n)
		}
	}
	after := serials(p.client, true)
	for s := range w.routes {
		if after[s] != 1 {
			t.Errorf("the update with community %s, once seen, is there %d times", s, after[s])
		}
	}
	if len(w.events) < 20*rounds || len(w.routes) < 20*rounds {
		t.Errorf("only %d events and %d routes were seen: the test tests less than it should", len(w.events), len(w.routes))
	}
	verifyTold(t, hook, events, false)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	p.follow(ctx, 0, w.event) // the same content under every sequence
}

func killed(err error) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	return ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
}

// Told to stop, the service stops at once, with open incidents and a feed that goes on; the next
// start goes on where it was, with nothing to go through again.
func TestTerminate(t *testing.T) {
	t.Parallel()
	f, hook := newFeed(t), newReceiver(t)
	c := configuration(t, f.url(), hook.configuration("noc"))
	f.background(t, time.Millisecond)
	p := launch(t, c)
	p.whenReady(f)
	if err := f.tell(hijack(1, 0, sessions)...); err != nil {
		t.Fatal(err)
	}
	whenHeard(t, hook, 1, incident.Opened)
	follower := make(chan error, 1) // an open stream must not keep it from stopping
	go func() { follower <- p.follow(context.Background(), 0, func(uint64, string) {}) }()
	before, _ := p.incidentOf(1)

	begin := time.Now()
	p.command.Process.Signal(syscall.SIGTERM)
	if err := p.wait(); err != nil {
		t.Errorf("it ends with %v, want exit status 0", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	if err := <-follower; err != nil {
		t.Errorf("the stream was cut off: %v", err)
	}

	s, err := embedded.Open(c.Store.Embedded(), testLog(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	position, _, err := s.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st, err := s.Stats(t.Context()); err != nil || st.LastPosition != position || position == 0 {
		t.Errorf("the saved state covers %d of %d batches, error %v; want all", position, st.LastPosition, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	p = launch(t, c)
	p.whenReady(f)
	after, ok := p.incidentOf(1)
	if !ok || after.ID != before.ID || after.Status != incident.Open {
		t.Errorf("the open incident is %s, %s after the restart, was %s", after.ID, after.Status, before.ID)
	}
	if err := f.tell(heal(1)...); err != nil {
		t.Fatal(err)
	}
	whenHeard(t, hook, 1, incident.Closed)
	verifyTold(t, hook, p.events(before.ID), true)
}
