package service

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus/kafkatest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/embedded"
)

// onKafka is a configuration on the small Internet, with topics of its own that are there.
func onKafka(t testing.TB, address string, f *feed, change ...func(*config.Config)) config.Config {
	t.Helper()
	c := configuration(t, f.url())
	// Given, because each detector infers them at a time of its own, which would show in the time of some changes.
	c.Knowledge.Relationships = writeRelationships(t)
	c.Kafka.Brokers, c.Kafka.Prefix, c.Kafka.Partitions = []string{address}, fmt.Sprintf("test%d.", time.Now().UnixNano()), 4
	c.Kafka.Takeover, c.Kafka.Checkpoint = 2*time.Second, 2*time.Second
	for _, f := range change {
		f(&c)
	}
	k, err := kafkabus.Connect(c.Kafka, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if err := k.Init(t.Context(), func(string, string) {}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if err := k.Check(t.Context()); err != nil {
			return err.Error()
		}
		return ""
	})
	return c
}

// writeRelationships writes who provides for whom on the small Internet.
func writeRelationships(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for i, transit := range transits {
		for _, other := range transits[i+1:] {
			fmt.Fprintf(&b, "%d|%d|0\n", transit, other)
		}
		for k := range sessions {
			fmt.Fprintf(&b, "%d|%d|-1\n", transit, session(k).ASN)
		}
		for k := range networks {
			fmt.Fprintf(&b, "%d|%d|-1\n%d|%d|-1\n", transit, victim(k).asn, transit, attacker(k).asn)
		}
	}
	file := filepath.Join(t.TempDir(), "as-rel.txt")
	if err := os.WriteFile(file, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// role starts "routevigil NAME" as a process of its own.
func role(t *testing.T, name string, c config.Config, flags ...string) *process {
	t.Helper()
	p, err := begin(t, name, roleArguments(t, name, c, flags...)...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// roleArguments are those with which "routevigil NAME" does what c says.
func roleArguments(t *testing.T, name string, c config.Config, flags ...string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name+".yaml")
	var text strings.Builder
	fmt.Fprintf(&text, "ingest:\n  backfill: {enabled: false}\n  ris_live: {name: %q, url: %q, reconnect_min: %s, reconnect_max: %s}\n  baseline: [%q]\n",
		c.Ingest.RISLive.Name, c.Ingest.RISLive.URL, c.Ingest.RISLive.ReconnectMin, c.Ingest.RISLive.ReconnectMax, c.Ingest.Baseline[0])
	fmt.Fprintf(&text, "detect: {hold: %s, report: %s}\nstore: {kind: %s, directory: %q, clickhouse: {addresses: [%q], database: %q, write_timeout: %s}}\napi: {listen: %q}\n",
		c.Detect.Hold, c.Detect.Report, c.Store.Kind, c.Store.Directory, c.Store.ClickHouse.Addresses[0], c.Store.ClickHouse.Database, c.Store.ClickHouse.WriteTimeout, c.API.Listen)
	fmt.Fprintf(&text, "knowledge: {as_rel: %q}\n", c.Knowledge.Relationships)
	fmt.Fprintf(&text, "kafka: {brokers: [%q], prefix: %q, duplicates: %s, takeover: %s, checkpoint: %s, timeout: %s}\n",
		c.Kafka.Brokers[0], c.Kafka.Prefix, c.Kafka.Duplicates, c.Kafka.Takeover, c.Kafka.Checkpoint, c.Kafka.Timeout)
	for _, w := range c.Alert.Webhooks {
		fmt.Fprintf(&text, "alert: {webhooks: [{name: %q, url: %q, secret: %q, timeout: %s}]}\n", w.Name, string(w.URL), string(w.Secret), w.Timeout)
	}
	if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return append([]string{name, "-c", file, "--log-level", "warn"}, flags...)
}

// kill ends a process as a power cut would.
func (p *process) kill() {
	p.command.Process.Kill()
	p.wait()
}

// TestRolesKilled runs two collectors of one feed, two detectors, two recorders and two notifiers, each a process, has things
// happen, and kills them meanwhile. In the end what is stored is what a detector finds that goes through
// the whole of Kafka's log undisturbed; and every change was told once.
func TestRolesKilled(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, address string) {
		f, hook := newFeed(t), newReceiver(t)
		c := onKafka(t, address, f)
		with := func(hooks bool) config.Config { // a directory of its own
			own := c
			own.Store.Directory = filepath.Join(t.TempDir(), "store")
			if hooks {
				own.Alert.Webhooks = append(own.Alert.Webhooks, hook.configuration("hook"))
			}
			return own
		}
		configurations := map[string]config.Config{}
		names := []string{"collect 1", "collect 2", "detect 1", "detect 2", "record 1", "record 2", "notify 1", "notify 2"}
		for _, name := range names {
			configurations[name] = with(strings.HasPrefix(name, "record") || strings.HasPrefix(name, "notify"))
		}
		processes := map[string]*process{}
		start := func(name string) {
			command, _, _ := strings.Cut(name, " ")
			var flags []string
			if command == "record" {
				flags = []string{"--no-notify"}
			}
			processes[name] = role(t, command, configurations[name], flags...)
		}
		for _, name := range names {
			start(name)
		}
		ready := func(name string) {
			t.Helper()
			eventually(t, func() string {
				if status, reasons := processes[name].ready(); status != 200 {
					return fmt.Sprintf("%s is not ready (%d): %s", name, status, reasons)
				}
				return ""
			})
		}
		eventually(t, func() string {
			if n := f.subscribers(); n < 2 {
				return fmt.Sprintf("%d collectors listen", n)
			}
			return ""
		})
		f.background(t, 5*time.Millisecond)
		for _, name := range names {
			ready(name)
		}
		const seed = 7
		random := rand.New(rand.NewPCG(seed, 0))
		t.Logf("seed %d", seed)
		const cases = 10
		for i := range cases {
			f.tell(hijack(i, 0, 6)...)
			victimOf := names[random.IntN(len(names))]
			if i < len(names) {
				victimOf = names[i] // each once at least
			}
			time.Sleep(time.Duration(random.IntN(600)) * time.Millisecond) // a moment, whichever it is
			processes[victimOf].kill()
			f.tell(hijack(i, 6, sessions)...) // one collector hears it at least
			start(victimOf)
			whenHeard(t, hook, i, incident.Opened)
			if strings.HasPrefix(victimOf, "collect") {
				eventually(t, func() string {
					if f.subscribers() < 2 {
						return "a collector does not listen again"
					}
					return ""
				})
			}
			f.tell(heal(i)...)
			ready(victimOf)
			whenHeard(t, hook, i, incident.Closed)
		}
		last := 0
		eventually(t, func() string { // nothing is under way any more
			n := len(hook.told())
			open, one, other := 0, processes["record 1"].incidents(""), processes["record 2"].incidents("")
			for _, inc := range slices.Concat(one, other) {
				if inc.Status == incident.Open {
					open++
				}
			}
			if n != last || open > 0 || len(one) != len(other) {
				last = n
				return fmt.Sprintf("%d incidents are open, one recorder has %d and the other %d", open, len(one), len(other))
			}
			return ""
		})
		for _, name := range names {
			processes[name].kill()
		}
		for _, name := range names[4:6] {
			compareWithUndisturbed(t, configurations[name], hook, cases)
		}
	})
}

// compareWithUndisturbed goes through the log with a new detector.
func compareWithUndisturbed(t *testing.T, c config.Config, hook *receiver, cases int) {
	t.Helper()
	s, err := newStore(c.Store, testLog(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	stats, err := s.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, checkpoint, err := s.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	x := Recorder{store: s}
	if x.progress, err = loadProgress(t.Context(), s); err != nil {
		t.Fatalf("%v: %s", err, checkpoint)
	}
	until := x.progress.Step + stats.LastPosition - x.progress.Position
	change := func(e *incident.Event) string {
		return fmt.Sprintf("%s %s at %s: %s", e.Incident.ID, e.Change, e.Time.UTC().Format(time.RFC3339Nano), e.Incident.Title)
	}
	events, err := s.Events(t.Context(), "", 0, 10_000)
	if err != nil {
		t.Fatal(err)
	}
	var got, told []string
	for i := range events {
		got = append(got, change(&events[i]))
	}

	judged, rows := undisturbed(t, c, until, patience)
	var want []string
	for i := range judged {
		want = append(want, change(&judged[i]))
	}
	t.Logf("%d changes, %d routes in %d steps", len(got), rows, until)
	if len(got) < len(want) && slices.Equal(got, want[:len(got)]) {
		t.Errorf("the last %d changes are not stored: %v", len(want)-len(got), want[len(got):])
	} else if !slices.Equal(got, want) {
		t.Errorf("stored is\n%s\nundisturbed would be\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if stats.Updates != rows {
		t.Errorf("%d routes are stored, the log has %d", stats.Updates, rows)
	}
	hook.mu.Lock()
	keys := len(hook.events)
	hook.mu.Unlock()
	for _, e := range hook.told() {
		told = append(told, change(&e))
	}
	if slices.Sort(told); len(slices.Compact(told)) != keys {
		t.Errorf("%d keys for %d changes", keys, len(slices.Compact(told)))
	}
	for i := range events { // no recorder has anything left to send that the receiver has
		deliveries, err := s.Deliveries(t.Context(), events[i].Incident.ID)
		if err != nil {
			t.Fatal(err)
		}
		hook.mu.Lock()
		for _, d := range deliveries {
			if d.State == store.Delivered && len(hook.events[d.Key]) == 0 {
				t.Errorf("%s counts as delivered and never came", d.Key)
			}
		}
		hook.mu.Unlock()
	}
	for i := range cases {
		n := 0
		for _, e := range events {
			if e.Change == incident.Opened && slices.Contains(e.Incident.Victims, victim(i).asn) {
				n++
			}
		}
		if n != 1 {
			t.Errorf("%d incidents about AS%d, want one", n, victim(i).asn)
		}
	}
}

// undisturbed goes through the log up to a step with a new detector, and returns what that finds, and how many routes there were. It
// may take so long.
func undisturbed(t *testing.T, c config.Config, until uint64, most time.Duration) (events []incident.Event, rows uint64) {
	t.Helper()
	d, err := NewDetector(t.Context(), c, "test", testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	defer d.operations.listener.Close()
	defer d.keeper.close()
	defer d.cluster.Close()
	if _, _, err := d.restore(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	l, err := d.cluster.Follow(kafkabus.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	once := map[string]bool{}
	for number := uint64(0); number < until; {
		step, err := l.Next(ctx)
		if err != nil {
			t.Fatalf("after step %d of %d: %v", number, until, err)
		}
		number = step.Number
		for _, u := range step.Updates {
			rows += uint64(max(1, len(u.Announced)+len(u.Withdrawn)))
			what := fmt.Sprint(u.Time, u.Peer, u.Kind, u.Withdrawn, u.Announced, u.Attrs.ASPath)
			if once[what] && u.Kind == ingest.Routes { // the feed gives each a stamp of its own
				t.Errorf("what both collectors heard counts twice: %s", what)
			}
			once[what] = true
		}
		d.pipeline.judge(step.Current())
	}
	return d.pipeline.events, rows
}

// TestOneOfTwoRecordersTells: every message is sent once, also when who sends them stops and the other goes on.
func TestOneOfTwoRecordersTells(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, address string) {
		f, hook := newFeed(t), newReceiver(t)
		c := onKafka(t, address, f)
		c.Alert.Webhooks = append(c.Alert.Webhooks, hook.configuration("hook"))
		start := func(name string) *process {
			own := c
			own.Store.Directory = filepath.Join(t.TempDir(), "store")
			return role(t, name, own)
		}
		start("collect")
		detector, recorders := start("detect"), []*process{start("record"), start("record")}
		for _, p := range append(recorders, detector) {
			p.whenReady(f)
		}
		sender := func() (at int) {
			eventually(t, func() string {
				for at = range recorders {
					if v, _ := recorders[at].metric("routevigil_alerts_in_charge"); v == 1 {
						return ""
					}
				}
				return "no recorder sends"
			})
			return at
		}
		f.background(t, 10*time.Millisecond)
		tell := func(i int) {
			f.tell(hijack(i, 0, sessions)...)
			whenHeard(t, hook, i, incident.Opened)
			f.tell(heal(i)...)
			whenHeard(t, hook, i, incident.Closed)
		}
		sender()
		for i := range 3 {
			tell(i)
		}
		first := sender()
		recorders[first].command.Process.Signal(syscall.SIGTERM)
		if err := recorders[first].wait(); err != nil {
			t.Errorf("the recorder that sent ended with %v", err)
		}
		tell(3)
		hook.mu.Lock()
		defer hook.mu.Unlock()
		for key, events := range hook.events {
			if len(events) != 1 {
				t.Errorf("%s was sent %d times", key, len(events))
			}
		}
	})
}

// TestRecordersShareADatabase: one of two recorders writes, both answer, and where one is killed or ends the other has everything, once.
func TestRecordersShareADatabase(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, address string) {
		f, hook := newFeed(t), newReceiver(t)
		c := onKafka(t, address, f)
		onClickHouse(t, &c)
		c.Alert.Webhooks = append(c.Alert.Webhooks, hook.configuration("hook"))
		start := func(name, listen string) *process {
			own := c
			own.API.Listen, own.Store.Directory = listen, filepath.Join(t.TempDir(), "store")
			return role(t, name, own)
		}
		addresses := [2]string{freeAddress(t), freeAddress(t)} // where each stays when it begins to write
		start("collect", c.API.Listen)
		detector, recorders := start("detect", c.API.Listen), [2]*process{start("record", addresses[0])}
		recorders[0].whenReady(f)
		recorders[1] = start("record", addresses[1])
		for _, p := range append(recorders[:], detector) {
			p.whenReady(f)
		}
		f.background(t, 100*time.Millisecond)
		writes := func(i int) bool {
			_, ok := recorders[i].metric("routevigil_alerts_in_charge")
			return ok
		}
		if !writes(0) || writes(1) {
			t.Fatalf("the first writes: %v, the second writes: %v", writes(0), writes(1))
		}
		const cases = 4
		for i := range cases {
			f.tell(hijack(i, 0, 6)...)
			other := recorders[1-i%2]
			if i < 2 {
				recorders[i%2].kill()
			} else {
				recorders[i%2].command.Process.Signal(syscall.SIGTERM)
				if err := recorders[i%2].wait(); err != nil {
					t.Errorf("told to end, it ends with %v", err)
				}
			}
			f.tell(hijack(i, 6, sessions)...)
			whenHeard(t, hook, i, incident.Opened)
			eventually(t, func() string {
				if x, ok := other.incidentOf(i); !ok || x.Status != incident.Open || !writes(1-i%2) {
					return fmt.Sprintf("it writes: %v, it knows of the incident: %v", writes(1-i%2), ok)
				}
				if status, reasons := other.ready(); status != 200 {
					return fmt.Sprintf("it is not ready (%d): %s", status, reasons)
				}
				return ""
			})
			recorders[i%2] = start("record", addresses[i%2])
			f.tell(heal(i)...)
			whenHeard(t, hook, i, incident.Closed)
			eventually(t, func() string {
				if x, ok := recorders[i%2].incidentOf(i); !ok || x.Status != incident.Ended || writes(i%2) {
					return fmt.Sprintf("who stands by writes: %v, knows of the incident: %v %s", writes(i%2), ok, x.Status)
				}
				return ""
			})
		}
		for _, p := range recorders {
			p.kill()
		}
		compareWithUndisturbed(t, c, hook, cases)
	})
}

// freeAddress is one on which nobody listens at the moment.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// What became of messages that never come is not remembered for ever: those of receivers that only others have.
func TestOutboxForgets(t *testing.T) {
	c := config.Default().Store
	c.Directory = t.TempDir()
	s, err := embedded.Open(c.Embedded(), testLog(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	o := newOutbox(s, nil, time.Second, false, testLog(t), prometheus.NewRegistry())
	note := func(key string, expires time.Time) {
		t.Helper()
		if err := o.note(t.Context(), store.Delivery{Key: key, State: store.Delivered, ExpiresAt: expires}); err != nil {
			t.Fatal(err)
		}
	}
	remembered := func(want ...string) {
		t.Helper()
		if got := slices.Sorted(maps.Keys(o.early)); !slices.Equal(got, want) {
			t.Errorf("it remembers %v, want %v", got, want)
		}
	}
	now := time.Now()
	note("past", now.Add(-time.Second))
	note("coming", now.Add(time.Hour))
	remembered("coming")
	o.early["coming"] = store.Delivery{Key: "coming", ExpiresAt: now.Add(-time.Second)} // an hour later
	o.purged = now.Add(-time.Minute)
	note("next", now.Add(time.Hour))
	remembered("next")
}
