// What fails here are processes, which are built without the race detector; TestRolesKilled is under it.
//go:build !race

package service

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/segmentio/kafka-go"

	"github.com/routevigil/routevigil/alert/channel"
	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
	"github.com/routevigil/routevigil/ingest/bus/wire"
	"github.com/routevigil/routevigil/ingest/servertest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/clickhouse"
	"github.com/routevigil/routevigil/store/clickhouse/clickhousetest"
	"github.com/routevigil/routevigil/store/embedded"
)

// The proof by fault: the roles run as processes against servers of their own, a known stream goes through them, and all
// the while something is being broken. See [TestFaults].
var (
	faultsFor  = flag.Duration("faults", 25*time.Second, "how long each of the tests of faults breaks things; where it is more than a minute they run side by side")
	faultsSeed = flag.Uint64("faults.seed", 0, "what the tests of faults draw from; 0 for another one each time")
	faultsLog  = flag.String("faults.log", "error", "the level from which on what the processes of the tests of faults log is shown")
)

// faultSeed is what this run draws from.
func faultSeed(t *testing.T) uint64 {
	if *faultsFor > time.Minute {
		t.Parallel()
	}
	seed := *faultsSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("for %s, drawn from %d; the same again: make faults FAULTS=%s SEED=%d",
		*faultsFor, seed, *faultsFor, seed)
	return seed
}

// story is the stream: churn of a quiet Internet, and hijacks that come, spread and go.
type story struct {
	feed *feed
	t    *testing.T

	mu    sync.Mutex
	stamp ingest.Time
	said  map[string]bool // what was said to somebody, as rowKey writes it
	cases int             // victims so far, from the first on
	begun []ingest.Time   // when their hijacks did
	calm  int             // the first that was told of after all had been mended
	wg    sync.WaitGroup
	once  sync.Once
	end   chan struct{}
}

// rowKey tells a row of history from all others: the story gives each message a stamp of its own.
func rowKey(at ingest.Time, peer string, action store.Action, prefix string) string {
	return fmt.Sprintf("%d %s %s %s", at, peer, action, prefix)
}

func keysOf(u *ingest.Update) (keys []string) {
	for _, r := range u.Withdrawn {
		keys = append(keys, rowKey(u.Time, u.Peer.Addr.String(), store.Withdraw, r.Prefix.String()))
	}
	for _, r := range u.Announced {
		keys = append(keys, rowKey(u.Time, u.Peer.Addr.String(), store.Announce, r.Prefix.String()))
	}
	return keys
}

func (s *story) tell(updates ...ingest.Update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range updates {
		s.stamp = max(s.stamp+1, ingest.TimeOf(time.Now()))
		updates[i].Time = s.stamp
		if s.feed.tell(updates[i]) == nil {
			for _, key := range keysOf(&updates[i]) {
				s.said[key] = true
			}
		}
	}
}

// begin tells the story until finish. There are victims for about so long.
func (s *story) begin(seed uint64, length time.Duration) {
	often := max(1500, 2*int(length.Milliseconds())*6/5/networks) // milliseconds between two hijacks, at most
	random := rand.New(rand.NewPCG(seed, 0))
	s.said, s.end = map[string]bool{}, make(chan struct{})
	type scene struct {
		at   time.Time
		tell func()
	}
	s.wg.Go(func() {
		var coming []scene
		soon := func(most int) time.Time { return time.Now().Add(time.Duration(random.IntN(most)) * time.Millisecond) }
		next := time.Now()
		for i := 0; ; i++ {
			ended := false
			select {
			case <-s.end:
				ended = true
			case <-time.After(5 * time.Millisecond):
			}
			if !ended {
				s.tell(churn(i))
				if time.Now().After(next) {
					s.mu.Lock()
					n := s.cases
					s.cases++
					s.begun = append(s.begun, s.stamp)
					s.mu.Unlock()
					s.tell(hijack(n, 0, 6)...)
					coming = append(coming, scene{soon(1000), func() { s.tell(hijack(n, 6, sessions)...) }},
						scene{time.Now().Add(time.Second + time.Duration(random.IntN(4000))*time.Millisecond), func() { s.tell(heal(n)...) }})
					next = soon(often)
				}
			}
			coming = slices.DeleteFunc(coming, func(x scene) bool {
				if time.Now().Before(x.at) && !ended {
					return false
				}
				x.tell()
				return true
			})
			if ended {
				return
			}
		}
	})
	s.t.Cleanup(s.finish)
}

// calms waits until three hijacks that begin from now on have been seen.
func (s *story) calms(hook *receiver) {
	s.mu.Lock()
	s.calm = s.cases + 1 // one may be under way
	s.mu.Unlock()
	eventually(s.t, func() string {
		for i := s.calm; i < s.calm+3; i++ {
			if !hook.heard(victim(i).asn, incident.Opened) {
				return fmt.Sprintf("all works again and nothing was told about the hijack of AS%d", victim(i).asn)
			}
		}
		return ""
	})
}

// after is what was said since the hijack of that number began.
func (s *story) after(n int) map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	said := map[string]bool{}
	for key := range s.said {
		var at ingest.Time
		if fmt.Sscan(key, &at); at >= s.begun[n] {
			said[key] = true
		}
	}
	return said
}

// finish has everything heal, and ends.
func (s *story) finish() {
	s.once.Do(func() { close(s.end) })
	s.wg.Wait()
}

// member is a process that is started again whenever it ends.
type member struct {
	name      string
	c         config.Config
	arguments []string
	between   func()
	t         *testing.T

	mu      sync.Mutex
	changed sync.Cond
	process *process // nil while there is none
	held    bool     // it is not to be started
	killed  bool     // the process that runs, or did, by a test
	ended   bool     // for good
	starts  int
	wg      sync.WaitGroup
}

// newMember starts it with the arguments, until the test ends. between is called when it has ended and before it starts; it may be nil.
func newMember(t *testing.T, name string, c config.Config, between func(), arguments ...string) *member {
	m := &member{name: name, c: c, between: between, arguments: append(arguments, "--log-level", *faultsLog), t: t}
	m.changed.L = &m.mu
	m.wg.Go(m.keep)
	t.Cleanup(m.finish)
	return m
}

// keep starts the process over and over, as whatever runs services does. A process may end by itself with status 1, where what it
// needs is away when it starts; so may one that stood by when its turn comes, or that listens already. It may not end in any other way.
func (m *member) keep() {
	for {
		m.mu.Lock()
		for m.held && !m.ended {
			m.changed.Wait()
		}
		if m.ended {
			m.mu.Unlock()
			return
		}
		m.killed = false
		m.mu.Unlock()
		if m.between != nil {
			m.between()
		}
		p, err := begin(m.t, m.name, m.arguments...)
		if err != nil {
			time.Sleep(300 * time.Millisecond)
			continue
		}
		m.mu.Lock()
		m.process = p
		m.starts++
		if m.killed || m.ended { // while it started
			p.command.Process.Kill()
		}
		m.mu.Unlock()
		err = p.wait()
		m.mu.Lock()
		if exit := (*exec.ExitError)(nil); !m.killed && !m.ended && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
			m.t.Errorf("%s ended by itself: %v", m.name, err)
		} else if !m.killed && !m.ended {
			m.t.Logf("%s ended by itself and is started again, as whoever supervises it would: %v", m.name, err) // it has said why
		}
		m.process = nil
		m.mu.Unlock()
	}
}

// signal sends the process a signal, if there is one.
func (m *member) signal(signal syscall.Signal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process != nil {
		m.process.command.Process.Signal(signal)
	}
}

// kill ends the process as a power cut would, and lets no other start until told otherwise.
func (m *member) kill() {
	m.mu.Lock()
	m.held, m.killed = true, true
	m.mu.Unlock()
	m.signal(syscall.SIGKILL)
}

// stop ends it as whatever runs services does, and lets no other start until told otherwise.
func (m *member) stop() {
	m.mu.Lock()
	m.held, m.killed = true, true
	m.mu.Unlock()
	m.signal(syscall.SIGTERM)
}

// gone waits until it has ended.
func (m *member) gone() {
	whatHolds(m.t, func() string {
		if m.client() != nil {
			return m.name + ", told to stop, runs"
		}
		return ""
	})
}

func (m *member) release() {
	m.mu.Lock()
	m.held = false
	m.mu.Unlock()
	m.changed.Broadcast()
}

func (m *member) finish() {
	m.mu.Lock()
	m.ended = true
	m.mu.Unlock()
	m.signal(syscall.SIGKILL)
	m.changed.Broadcast()
	m.wg.Wait()
}

// client is how to ask it; nil while it does not run.
func (m *member) client() *client {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return nil
	}
	return m.process.client
}

// unready says why it does not work, if it does not.
func (m *member) unready() string {
	c := m.client()
	if c == nil {
		return m.name + " does not run"
	}
	if status, reasons := c.ready(); status != http.StatusOK {
		return fmt.Sprintf("%s is not ready (%d): %s", m.name, status, reasons)
	}
	return ""
}

// fault is something that is done to one target, and undone.
type fault struct {
	kind, target string        // only one thing at a time is done to a target
	what         string        // it is done to, where that is not the target's name
	most         time.Duration // that it lasts
	harm         func(*rand.Rand)
	mend         func()
	after        func() string // what is not as it was before yet, where it has to be before the target suffers again
}

// trouble breaks things for a while, a few at a time and each target only once at a time, as seed says.
type trouble struct {
	t      *testing.T
	seed   uint64
	faults map[string][]fault // by kind
	begun  time.Time

	mu     sync.Mutex
	locks  map[string]*sync.Mutex
	counts map[string]int // by kind and target
}

func newTrouble(t *testing.T, seed uint64) *trouble {
	return &trouble{t: t, seed: seed, faults: map[string][]fault{}, locks: map[string]*sync.Mutex{}, counts: map[string]int{}}
}

func (x *trouble) lock(target string) *sync.Mutex {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.locks[target] == nil {
		x.locks[target] = &sync.Mutex{}
	}
	return x.locks[target]
}

func (x *trouble) add(f fault) { x.faults[f.kind] = append(x.faults[f.kind], f) }

// lanes is how many things are broken at once, at most.
const lanes = 3

// run returns after so long, when all has been mended.
func (x *trouble) run(length time.Duration) {
	x.begun = time.Now()
	ctx, cancel := context.WithTimeout(x.t.Context(), length)
	defer cancel()
	var kinds []string
	for kind := range x.faults {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	var drawing sync.Mutex
	random := rand.New(rand.NewPCG(x.seed, 1))
	var deck []string               // of kinds: each comes before one comes again
	for _, list := range x.faults { // whatever order they were added in
		slices.SortFunc(list, func(a, b fault) int { return cmp.Or(cmp.Compare(a.target, b.target), cmp.Compare(a.what, b.what)) })
	}
	hands := map[string][]fault{}
	draw := func() (f fault, lasts, pause time.Duration, own *rand.Rand) {
		drawing.Lock()
		defer drawing.Unlock()
		if len(deck) == 0 {
			deck = append(slices.Clone(kinds), "kill -9", "kill -9") // of many sorts of processes
			random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		kind := deck[0]
		deck = deck[1:]
		if len(hands[kind]) == 0 {
			hands[kind] = slices.Clone(x.faults[kind])
			random.Shuffle(len(hands[kind]), func(i, j int) { hands[kind][i], hands[kind][j] = hands[kind][j], hands[kind][i] })
		}
		f, hands[kind] = hands[kind][0], hands[kind][1:]
		return f, time.Duration(random.Int64N(int64(f.most) + 1)), time.Duration(random.Int64N(int64(2 * time.Second))), rand.New(rand.NewPCG(random.Uint64(), 0))
	}
	wait := func(d time.Duration) {
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	var wg sync.WaitGroup
	for range lanes {
		wg.Go(func() {
			for ctx.Err() == nil {
				f, lasts, pause, own := draw()
				x.do(ctx, f, func() { wait(lasts) }, own)
				wait(pause)
			}
		})
	}
	wg.Wait()
}

func (x *trouble) do(ctx context.Context, f fault, lasts func(), random *rand.Rand) {
	l := x.lock(f.target)
	l.Lock()
	defer l.Unlock()
	if ctx.Err() != nil {
		return
	}
	begin := time.Now()
	f.harm(random)
	lasts()
	f.mend()
	x.t.Logf("from %.1f s to %.1f s: %s of %s", begin.Sub(x.begun).Seconds(), time.Since(x.begun).Seconds(), f.kind, cmp.Or(f.what, f.target))
	x.mu.Lock()
	x.counts[f.kind+" of "+cmp.Or(f.what, f.target)]++
	x.mu.Unlock()
	if f.after != nil {
		missing := ""
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			if missing = f.after(); missing == "" {
				return
			}
		}
		x.t.Errorf("%s after %s of %s: %s", patience, f.kind, f.target, missing)
	}
}

// guard starts servers again that end by themselves, until the test ends.
func (x *trouble) guard(name string, s *servertest.Server) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-end:
				return
			case <-time.After(time.Second):
			}
			if l := x.lock(name); l.TryLock() {
				s.Revive()
				l.Unlock()
			}
		}
	})
	x.t.Cleanup(func() { close(end); wg.Wait() })
}

// report says how often what was done.
func (x *trouble) report() {
	var lines []string
	total := 0
	for what, n := range x.counts {
		lines = append(lines, fmt.Sprintf("%4d %s", n, what))
		total += n
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[5:], b[5:]) })
	x.t.Logf("%d faults:\n%s", total, strings.Join(lines, "\n"))
}

// TestFaults runs two collectors of one feed, two detectors, a recorder with ClickHouse and one with the embedded store,
// two notifiers and the API, each a process, on a broker and a ClickHouse server of their own. While a known stream goes
// through them, up to three things at once are broken and mended, at moments drawn from a seed:
//
//   - kill -9 of each process, of the broker and of ClickHouse, which start again after a moment; a process that cannot reach
//     what it needs when it starts ends with status 1 and is started until it can; to end in another way is an error;
//   - SIGSTOP and SIGCONT of each (the tests' ClickHouse may end then, and is started again);
//   - a full disk of the broker (which ends it), and of the processes that store something themselves; that of ClickHouse, which
//     may damage its own parts then, is left to the tests of its store;
//   - the ways to the broker and to ClickHouse: connections cut in the middle, none to be had, or slow; and cuts of the feed;
//   - ClickHouse that takes no inserts, because its tables are for reading only or have too many parts;
//   - a broker that forgets every consumer group. There must be none, as all that is remembered of positions is in the stores.
//
// Never do both collectors suffer at once, nor one before all that the other had alone is on the bus: as with any feed that does not
// repeat what it said, nobody would have it. In the end
//
//   - every update that was said is on the bus;
//   - every update that the bus acknowledged, that is of which each partition has its share, is in both stores exactly once, and
//     nothing else is;
//   - the changes of incidents in both stores are, octet for octet as JSON, nothing excepted, those that a detector finds which
//     reads the log from its beginning and is not disturbed;
//   - a hijack of the stream has one incident, which is over; it may have none where it came and went while the bus did not work,
//     so that nobody could see it in between: a few more come when all has been mended, and are seen;
//   - the receiver was told of every change that deserves it, and of none under two idempotency keys.
//
// What no run can repeat is at which moment of a process's work a fault hits it. What is done, to whom, in which order and
// for how long follows from the seed, which is printed with the command that takes it: make faults FAULTS=30m SEED=7.
func TestFaults(t *testing.T) {
	clickhousetest.Shared(t)
	seed := faultSeed(t)
	ports := servertest.Ports(t, 2)
	brokers := newProxy(t, ports[0], "127.0.0.1:"+ports[1])
	kafkaPorts := servertest.Ports(t, 1)
	disks := map[string]*disk{}
	for name, size := range map[string]string{"Kafka": "2g", "ClickHouse": "2g", "detect 1": "64m", "record 2": "512m", "notify 1": "128m", "notify 2": "128m"} {
		d := &disk{}
		d.directory, d.fill, d.free = mountDisk(t, size)
		disks[name] = d
	}
	broker := servertest.New(t, "kafka", disks["Kafka"].directory, ports[1], kafkaPorts[0], ports[0])
	server := clickhousetest.New(t, disks["ClickHouse"].directory)
	servers := newProxy(t, "0", server.Address)

	s := &story{feed: newFeed(t), t: t}
	hook := newReceiver(t)
	c := onKafka(t, brokers.address(), s.feed)
	c.Kafka.Checkpoint = 4 * time.Second
	c.Kafka.Duplicates, c.Kafka.Timeout = 2*time.Minute, 5*time.Second // as long as one collector may lag behind the other
	c.Store.ClickHouse.Addresses = []string{servers.address()}
	c.Store.ClickHouse.Database = clickhousetest.Database()
	c.Store.ClickHouse.WriteTimeout = 5 * time.Second
	members := map[string]*member{}
	names := []string{"collect 1", "collect 2", "detect 1", "detect 2", "record 1", "record 2", "notify 1", "notify 2", "api 1"}
	listen := servertest.Ports(t, len(names))
	for i, name := range names {
		own, flags := c, []string(nil)
		own.API.Listen = "127.0.0.1:" + listen[i] // a recorder that stands by listens there twice
		own.Store.Directory = filepath.Join(t.TempDir(), "store")
		if d := disks[name]; d != nil {
			own.Store.Directory = filepath.Join(d.directory, "store")
		}
		command, _, _ := strings.Cut(name, " ")
		switch command {
		case "record":
			flags = append(flags, "--no-notify")
			fallthrough
		case "notify":
			own.Alert.Webhooks = append(own.Alert.Webhooks, hook.configuration("hook"))
		}
		if name == "record 1" || command == "api" {
			own.Store.Kind = config.ClickHouse
		}
		members[name] = newMember(t, name, own, nil, roleArguments(t, command, own, flags...)...)
	}
	x := newTrouble(t, seed)
	x.guard("Kafka", broker)
	x.guard("ClickHouse", server)
	all := func() string {
		for _, name := range names {
			if missing := members[name].unready(); missing != "" {
				return missing
			}
		}
		if n := s.feed.subscribers(); n < 2 {
			return fmt.Sprintf("%d collectors listen", n)
		}
		return ""
	}
	eventually(t, func() string {
		if n := s.feed.subscribers(); n < 2 {
			return fmt.Sprintf("%d collectors listen", n)
		}
		return ""
	})
	s.begin(seed, *faultsFor)
	eventually(t, all)

	// What one collector alone has heard must be on the bus before that one suffers: until then nobody else has it.
	emptied := map[string]float64{} // updates that a collector had written when none waited in it
	heldBack := func() string {
		for _, name := range []string{"collect 1", "collect 2"} {
			c := members[name].client()
			if c == nil {
				return name + " does not run"
			}
			waiting, ok := c.metric("routevigil_bus_queued_updates")
			written, counts := c.metric("routevigil_kafka_updates_written_total")
			if !ok || !counts {
				return name + " does not answer"
			}
			before, seen := emptied[name]
			if !seen && waiting == 0 {
				emptied[name] = written
			}
			if !seen || written <= before { // with the next round what was under way is written, too
				return name + " has not written all that it heard"
			}
		}
		clear(emptied)
		return ""
	}
	for _, name := range names {
		m := members[name]
		kill := fault{kind: "kill -9", target: name, most: 3 * time.Second, harm: func(*rand.Rand) { m.kill() }, mend: m.release}
		pause := fault{kind: "pause", target: name, most: 8 * time.Second, harm: func(*rand.Rand) { m.signal(syscall.SIGSTOP) }, mend: func() { m.signal(syscall.SIGCONT) }}
		for _, f := range []fault{kill, pause} {
			if strings.HasPrefix(name, "collect") { // one of them hears what is said
				f.what, f.target = name, "a collector"
				f.after = func() string {
					if s.feed.subscribers() < 2 {
						return "it does not listen again"
					}
					if missing := m.unready(); missing != "" {
						return missing
					}
					return heldBack()
				}
			}
			x.add(f)
		}
		if d := disks[name]; d != nil {
			x.add(fault{kind: "full disk", target: name, most: 6 * time.Second, harm: func(*rand.Rand) { d.fill() }, mend: d.free})
		}
	}
	x.add(fault{kind: "cut", what: "the feed of one collector", target: "a collector", harm: func(*rand.Rand) { s.feed.disconnectOne() }, mend: func() {},
		after: func() string {
			if s.feed.subscribers() < 2 {
				return "it does not listen again"
			}
			return heldBack()
		}})
	for name, server := range map[string]*servertest.Server{"Kafka": broker, "ClickHouse": server} {
		kind := func(k string) string { return k + " of a server" }
		x.add(fault{kind: kind("kill -9"), target: name, most: 3 * time.Second, harm: func(*rand.Rand) { server.Kill() }, mend: server.Start})
		x.add(fault{kind: kind("pause"), target: name, most: 8 * time.Second, harm: func(*rand.Rand) { server.Signal(syscall.SIGSTOP) },
			mend: func() { server.Signal(syscall.SIGCONT) }})
		if name == "ClickHouse" { // on a full disk it now and then keeps a merged part with an empty file of marks, which nothing reads again
			continue
		}
		d := disks[name]
		x.add(fault{kind: kind("full disk"), target: name, most: 6 * time.Second, harm: func(*rand.Rand) { d.fill() }, mend: func() { d.free(); server.Revive() }})
	}
	for name, way := range map[string]*proxy{"the way to Kafka": brokers, "the way to ClickHouse": servers} {
		x.add(fault{kind: "cut", target: name, harm: func(r *rand.Rand) { way.cut(func() bool { return r.IntN(2) == 0 }) }, mend: func() {}})
		x.add(fault{kind: "closed", target: name, most: 6 * time.Second, harm: func(*rand.Rand) { way.refuse(true) }, mend: func() { way.refuse(false) }})
		x.add(fault{kind: "slow", target: name, most: 8 * time.Second, harm: func(r *rand.Rand) { way.slow(time.Duration(10+r.IntN(300)) * time.Millisecond) }, mend: func() { way.slow(0) }})
	}
	refused := &refusal{t: t, server: server, database: c.Store.ClickHouse.Database}
	for what, settings := range map[string]string{"it is for reading only": "table_readonly = 1", "there are too many parts": "parts_to_throw_insert = 1, parts_to_delay_insert = 1, max_delay_to_insert = 1"} {
		x.add(fault{kind: "ClickHouse takes nothing", what: "as " + what, target: "the tables of ClickHouse", most: 8 * time.Second,
			harm: func(*rand.Rand) { refused.set(settings) }, mend: func() { refused.reset(settings) }})
	}
	groups := 0
	x.add(fault{kind: "forget", what: "every group", target: "the groups of Kafka", harm: func(*rand.Rand) { groups += forgetGroups(t, brokers.address()) }, mend: func() {}})

	x.run(*faultsFor)
	x.report()
	eventually(t, all)
	s.calms(hook)
	s.finish()
	var want map[string]bool
	whatHolds(t, func() string { // collectors write what they have kept while they could not
		want = onTheBus(t, c)
		missing, one := 0, ""
		for key := range s.said {
			if !want[key] {
				missing, one = missing+1, key
			}
		}
		if missing > 0 {
			return fmt.Sprintf("%d routes were said and are not on the bus, such as %s", missing, one)
		}
		return ""
	})
	t.Logf("%d routes were said and %d are on the bus; %d hijacks", len(s.said), len(want), s.cases)
	settled(t, []*member{members["record 1"], members["record 2"]}, len(want), hook)
	if groups > 0 {
		t.Errorf("the broker knew %d groups, and nothing that can be forgotten should be in use", groups)
	}
	for _, m := range members {
		m.finish()
	}
	compareStores(t, members, want, hook, s)
}

// TestFaultsEmbedded runs "routevigil serve" on the embedded store, on a small disk, and kills, stops and pauses it, fills its disk, and
// cuts, closes and slows the ways to the feed and to the receiver of alerts, as [TestFaults] does. Whatever the service has not
// stored when it is killed is lost, as the feed repeats nothing. But what it stored is, batch by batch, what an engine is given that is
// not disturbed, and in the end
//
//   - the store has each route of each batch exactly once, and what was said since all was mended is all there;
//   - the changes of incidents are, octet for octet as JSON, nothing excepted, those that the engine finds which is not disturbed;
//   - whoever followed the stream of changes meanwhile was told of none that is not there, or is different;
//   - each hijack has one incident at most, which is over, and one where it came when all had been mended;
//   - the receiver was told of every change that deserves it, and of none under two idempotency keys.
//
// The batches are read from a copy of the store between two lives.
func TestFaultsEmbedded(t *testing.T) {
	seed := faultSeed(t)
	s := &story{feed: newFeed(t), t: t}
	hook := newReceiver(t)
	feedWay := newProxy(t, "0", strings.TrimPrefix(s.feed.url(), "ws://"))
	hookWay := newProxy(t, "0", strings.TrimPrefix(hook.server.URL, "http://"))
	told := hook.configuration("hook")
	told.URL = channel.URL("http://" + hookWay.address())
	c := configuration(t, "ws://"+feedWay.address(), told)
	c.Knowledge.Relationships = writeRelationships(t) // what is inferred, and when, is not the same each time
	d := &disk{}
	d.directory, d.fill, d.free = mountDisk(t, "512m")
	c.Store.Directory = filepath.Join(d.directory, "store")
	kept := &batches{t: t, c: c}
	m := newMember(t, "serve", c, kept.collect, serveArguments(t, c)...)
	w := &witness{t: t, events: map[uint64]string{}}
	following, unfollow := context.WithCancel(t.Context())
	var follower sync.WaitGroup
	follower.Go(func() {
		for following.Err() == nil {
			if c := m.client(); c != nil {
				c.follow(following, 0, w.event)
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	t.Cleanup(func() { unfollow(); follower.Wait() })
	ready := func() string {
		if s.feed.subscribers() < 1 {
			return "not subscribed"
		}
		return m.unready()
	}
	eventually(t, ready)
	s.begin(seed, *faultsFor)

	x := newTrouble(t, seed)
	nothing := func() {}
	x.add(fault{kind: "kill -9", target: "serve", most: 3 * time.Second, harm: func(*rand.Rand) { m.kill() }, mend: m.release})
	x.add(fault{kind: "stop", target: "serve", most: time.Second, harm: func(*rand.Rand) { m.stop() }, mend: func() { m.gone(); m.release() }})
	x.add(fault{kind: "pause", target: "serve", most: 6 * time.Second, harm: func(*rand.Rand) { m.signal(syscall.SIGSTOP) }, mend: func() { m.signal(syscall.SIGCONT) }})
	x.add(fault{kind: "full disk", target: "the disk", most: 6 * time.Second, harm: func(*rand.Rand) { d.fill() }, mend: d.free})
	for name, way := range map[string]*proxy{"the way to the feed": feedWay, "the way to the receiver": hookWay} {
		x.add(fault{kind: "cut", target: name, harm: func(*rand.Rand) { way.cut(func() bool { return true }) }, mend: nothing})
		x.add(fault{kind: "closed", target: name, most: 3 * time.Second, harm: func(*rand.Rand) { way.refuse(true) }, mend: func() { way.refuse(false) }})
		x.add(fault{kind: "slow", target: name, most: 6 * time.Second, harm: func(r *rand.Rand) { way.slow(time.Duration(10+r.IntN(300)) * time.Millisecond) }, mend: func() { way.slow(0) }})
	}
	x.run(*faultsFor)
	x.report()
	eventually(t, ready)
	s.calms(hook)
	s.finish()
	calm := s.after(s.calm)
	for i := range s.cases { // what was said while nobody listened
		s.tell(heal(i)...)
	}
	whatHolds(t, ready)
	settled(t, []*member{m}, 0, hook)
	m.finish()
	kept.collect()
	unfollow()
	follower.Wait()

	want := map[string]bool{}
	for _, b := range kept.list {
		for i := range b.Updates {
			for _, key := range keysOf(&b.Updates[i]) {
				want[key] = true
			}
		}
	}
	for key := range calm {
		if !want[key] {
			t.Errorf("said when all had been mended and not stored: %s", key)
		}
	}
	own, err := embedded.Open(c.Store.Embedded(), testLog(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	compareRows(t, "the store", own, want)
	got, err := own.Events(t.Context(), "", 0, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	judged := kept.judge()
	compareEvents(t, "the store", got, judged)
	if t.Failed() { // the last of what it was judged by
		for i, b := range kept.list[max(0, len(kept.list)-60):] {
			line := fmt.Sprintf("batch %d: %d updates", max(0, len(kept.list)-60)+i+1, len(b.Updates))
			if n := len(b.Updates); n > 0 {
				line += fmt.Sprintf(" of %s to %s", b.Updates[0].Time.Time().Format("05.000000"), b.Updates[n-1].Time.Time().Format("05.000000"))
			}
			t.Logf("%s, watermark %s", line, b.Watermark.Time().Format("05.000000"))
		}
	}
	for n := range w.events {
		if n > uint64(len(got)) {
			t.Errorf("event %d was seen, and there are %d", n, len(got))
		}
	}
	t.Logf("%d routes were said and %d stored in %d batches; %d changes of incidents, of which %d were seen; the receiver got %d messages; %d lives",
		len(s.said), len(want), len(kept.list), len(got), len(w.events), len(hook.told()), m.starts)
	verifyTold(t, hook, got, false)
	s.verify(judged)
}

// batches are all that a store ever had.
type batches struct {
	t    *testing.T
	c    config.Config
	list []*ingest.Batch
}

// collect adds what the store has that is new. Nothing may have it open.
func (x *batches) collect() {
	if _, err := os.Stat(x.c.Store.Directory); errors.Is(err, fs.ErrNotExist) {
		return // before the first life
	}
	copied, err := os.MkdirTemp("", "routevigil-test-")
	if err != nil {
		x.t.Error(err)
		return
	}
	defer os.RemoveAll(copied)
	c := x.c.Store
	c.Directory = filepath.Join(copied, "store")
	if err := os.CopyFS(c.Directory, os.DirFS(x.c.Store.Directory)); err != nil {
		x.t.Error(err)
		return
	}
	s, err := embedded.Open(c.Embedded(), testLog(x.t), prometheus.NewRegistry())
	if err != nil {
		x.t.Error(err)
		return
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for b, err := range s.BatchesSince(ctx, uint64(len(x.list))) {
		if err != nil {
			x.t.Error(err)
			return
		}
		x.list = append(x.list, b)
	}
	if st, err := s.Stats(ctx); err != nil || st.LastPosition != uint64(len(x.list)) {
		x.t.Errorf("the store has %d batches, of which %d could be read before they became history: %v", st.LastPosition, len(x.list), err)
	}
}

// judge gives all batches to an engine, and returns what that finds.
func (x *batches) judge() []incident.Event { return judge(x.t, x.c, x.list) }

// disk is a small one.
type disk struct {
	directory  string
	fill, free func()
}

// refusal has ClickHouse take nothing into the tables of a database.
type refusal struct {
	t        *testing.T
	server   *servertest.Server
	database string
}

// query asks over HTTP, which nothing else uses.
func (x *refusal) query(text string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1:"+x.server.Ports[1], strings.NewReader(text))
	if err != nil {
		return "", err
	}
	answer, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(string(b))
	}
	return string(b), err
}

func (x *refusal) each(statement string) error {
	tables, err := x.query("SELECT name FROM system.tables WHERE database = '" + x.database + "' AND engine LIKE '%MergeTree'")
	if err == nil && tables == "" {
		err = errors.New("no tables")
	}
	for _, table := range strings.Fields(tables) {
		if err == nil {
			_, err = x.query("ALTER TABLE " + x.database + "." + table + " " + statement)
		}
	}
	return err
}

// set changes the tables as far as the server works.
func (x *refusal) set(settings string) {
	if err := x.each("MODIFY SETTING " + settings); err != nil {
		x.t.Logf("ClickHouse, of which something else is broken, is not made to refuse everything: %v", err)
	}
}

// reset is tried until it works.
func (x *refusal) reset(settings string) {
	var names []string
	for _, one := range strings.Split(settings, ", ") {
		name, _, _ := strings.Cut(one, " ")
		names = append(names, name)
	}
	whatHolds(x.t, func() string {
		if err := x.each("RESET SETTING " + strings.Join(names, ", ")); err != nil {
			time.Sleep(200 * time.Millisecond)
			return err.Error()
		}
		return ""
	})
}

// forgetGroups has the broker forget all consumer groups with their offsets, and returns how many there were. A broker that
// does not answer forgets nothing.
func forgetGroups(t *testing.T, address string) int {
	transport := &kafka.Transport{}
	defer transport.CloseIdleConnections()
	client := &kafka.Client{Addr: kafka.TCP(address), Timeout: 5 * time.Second, Transport: transport}
	list, err := client.ListGroups(t.Context(), &kafka.ListGroupsRequest{})
	if err != nil {
		t.Logf("Kafka, of which something else is broken, does not tell its groups: %v", err)
		return 0
	}
	var ids []string
	for _, g := range list.Groups {
		ids = append(ids, g.GroupID)
	}
	if len(ids) > 0 {
		if _, err := client.DeleteGroups(t.Context(), &kafka.DeleteGroupsRequest{GroupIDs: ids}); err != nil {
			t.Logf("Kafka does not delete the groups %v: %v", ids, err)
		}
	}
	return len(ids)
}

// onTheBus reads what the bus acknowledged: the rounds of which each partition has its share. They are read here as package
// wire says they are written, without what readers do.
func onTheBus(t *testing.T, c config.Config) map[string]bool {
	t.Helper()
	k, err := kafkabus.Connect(c.Kafka, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	type round struct{ writer, number uint64 }
	shares, routes := map[round]int{}, map[round][]string{}
	var decoder wire.Decoder
	for p := range c.Kafka.Partitions {
		first, end, err := k.Bounds(ctx, "updates", p)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[round]bool{}
		err = k.Read(ctx, "updates", p, first, end, func(r kafkabus.Record) error {
			h, err := decoder.Open(r.Value)
			if err != nil {
				return err
			}
			id := round{h.Writer, h.Round}
			if seen[id] { // written again, because an acknowledgement was lost
				return nil
			}
			seen[id] = true
			shares[id]++
			for {
				_, u, err := decoder.Next()
				if err == io.EOF {
					return nil
				}
				if err != nil {
					return err
				}
				routes[id] = append(routes[id], keysOf(u)...)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	rows, unfinished := map[string]bool{}, 0
	for id, n := range shares {
		if n < c.Kafka.Partitions {
			unfinished++
			continue
		}
		for _, key := range routes[id] {
			rows[key] = true
		}
	}
	t.Logf("%d rounds, of which %d were not finished", len(shares), unfinished)
	return rows
}

// whatHolds is eventually, but that the test goes on where it does not hold, to say more.
func whatHolds(t *testing.T, what func() string) {
	t.Helper()
	missing := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if missing = what(); missing == "" {
			return
		}
	}
	t.Errorf("after %s still: %s", patience, missing)
}

// settled waits until nothing is under way any more.
func settled(t *testing.T, recorders []*member, rows int, hook *receiver) {
	t.Helper()
	last, still := "", 0
	whatHolds(t, func() string {
		now := fmt.Sprint(len(hook.told()))
		for _, m := range recorders {
			c := m.client()
			if c == nil {
				return m.name + " does not run"
			}
			var st struct{ Store store.Stats }
			if c.get("/api/v1/status", &st) != http.StatusOK || st.Store.Updates < uint64(rows) {
				return fmt.Sprintf("%s has %d of %d routes", m.name, st.Store.Updates, rows)
			}
			if open := c.incidents("status=open"); len(open) > 0 {
				return fmt.Sprintf("%s has %d open incidents, such as %s of %s", m.name, len(open), open[0].Title, open[0].StartedAt)
			}
			now += fmt.Sprint(" ", st.Store.LastSequence)
		}
		if still++; now != last {
			last, still = now, 0
		}
		if still < 100 { // two seconds and more
			return "alerts, and changes: " + now
		}
		return ""
	})
}

// compareStores compares what two recorders stored with what the bus has, and what the receiver was told with that.
func compareStores(t *testing.T, members map[string]*member, rows map[string]bool, hook *receiver, s *story) {
	t.Helper()
	c := members["record 1"].c
	reader, err := clickhouse.OpenReader(t.Context(), c.Store.ClickHouse, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	own, err := embedded.Open(members["record 2"].c.Store.Embedded(), testLog(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	var until uint64
	stored := map[string][]incident.Event{}
	for name, from := range map[string]store.Store{"ClickHouse": reader, "the embedded store": own} {
		compareRows(t, name, from, rows)
		stats, err := from.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		st, err := loadProgress(t.Context(), from)
		if err != nil {
			t.Fatal(err)
		}
		until = max(until, st.Step+stats.LastPosition-st.Position)
		if stored[name], err = from.Events(t.Context(), "", 0, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	again := members["detect 1"].c
	again.Store.Directory = t.TempDir()
	want, _ := undisturbed(t, again, until, patience+*faultsFor)
	for name, events := range stored {
		compareEvents(t, name, events, want)
	}
	t.Logf("%d changes of incidents in %d steps; the receiver got %d messages", len(want), until, len(hook.told()))
	verifyTold(t, hook, stored["ClickHouse"], false)
	s.verify(want)
}

// verify makes sure that of what the story told no more than one incident came, which is over, and of what it told in the end, one.
func (s *story) verify(events []incident.Event) {
	t := s.t
	t.Helper()
	found, last := 0, map[uint32]map[string]incident.Status{}
	for _, e := range events {
		for _, v := range e.Incident.Victims {
			if last[v] == nil {
				last[v] = map[string]incident.Status{}
			}
			last[v][e.Incident.ID] = e.Incident.Status
		}
	}
	for i := range s.cases {
		asn := victim(i).asn
		found += min(1, len(last[asn]))
		if n := len(last[asn]); n > 1 || n == 0 && i >= s.calm {
			t.Errorf("%d incidents about AS%d, which was hijacked once", n, asn)
		}
		for id, status := range last[asn] {
			if status != incident.Ended {
				t.Errorf("%s about AS%d is %s in the end", id, asn, status)
			}
		}
	}
	t.Logf("%d of %d hijacks were found", found, s.cases)
}

func compareRows(t *testing.T, name string, from store.Store, want map[string]bool) {
	t.Helper()
	got, at := map[string]int{}, map[string][]store.Cursor{}
	for r, err := range from.Updates(t.Context(), store.UpdateQuery{Limit: 1 << 30}) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Action == store.Announce || r.Action == store.Withdraw {
			key := rowKey(ingest.TimeOf(r.Time), r.PeerIP.String(), r.Action, r.Prefix.String())
			got[key]++
			at[key] = append(at[key], r.Cursor)
		}
	}
	wrong := 0
	report := func(format string, args ...any) {
		if wrong++; wrong <= 10 {
			t.Errorf(format, args...)
		}
	}
	for key, n := range got {
		if n > 1 {
			report("%s has %d times, at %v: %s", name, n, at[key], key)
		}
		if !want[key] {
			report("%s has what the bus has not: %s", name, key)
		}
	}
	for key := range want {
		if got[key] == 0 {
			report("%s lacks what the bus has: %s", name, key)
		}
	}
	if wrong > 10 {
		t.Errorf("%s: %d rows are wrong of %d", name, wrong, len(want))
	}
}
