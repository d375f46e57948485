package embedded

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
)

// Variables that make the test binary the child of a test instead: which one, and its directory.
const (
	childVariable     = "ROUTEVIGIL_STORE_TEST_CHILD"
	directoryVariable = "ROUTEVIGIL_STORE_TEST_DIRECTORY"
)

func child(t *testing.T, name, dir string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), childVariable+"="+name, directoryVariable+"="+dir)
	c.Stderr = t.Output()
	return c
}

// runChild is what main does in a child.
func runChild(name string) {
	dir := os.Getenv(directoryVariable)
	switch name {
	case "append until killed":
		appendUntilKilled(dir)
	case "files of bounded size":
		if err := filesOfBoundedSize(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(0)
}

// crashConfiguration seals, merges and retires nothing away, all the time.
func crashConfiguration(dir string) Configuration {
	c := testConfiguration(dir)
	c.Seal = Seal{Updates: 20, Age: time.Second, Window: time.Second, PartRows: 500}
	return c
}

// appendUntilKilled stores numbered batches and events as fast as it can, with checkpoints and
// seals among them, and tells on standard output what was acknowledged.
func appendUntilKilled(dir string) {
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	s, err := Open(crashConfiguration(dir), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	check(err)
	bg := s.running
	st, err := s.Stats(bg)
	check(err)
	for w := range 3 {
		go func() {
			for i := 0; ; i++ {
				number := int64(st.LastPosition)*1000 + int64(i*3+w) // never used before
				u := ingest.Update{Time: ingest.Time(number), Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}}
				p, err := s.AppendBatch(bg, &ingest.Batch{Watermark: ingest.Time(number), Updates: []ingest.Update{u}})
				check(err)
				fmt.Fprintf(os.Stdout, "batch %d %d\n", p, number)
				if i%20 == 0 && w == 0 {
					check(s.SaveCheckpoint(bg, p, fmt.Appendf(nil, "state at %d", p)))
					fmt.Fprintf(os.Stdout, "checkpoint %d 0\n", p)
				}
			}
		}()
	}
	for n := st.LastSequence + 1; ; n++ {
		e := incident.Event{Sequence: n, Incident: incident.Incident{ID: fmt.Sprintf("inc_%d", n%7), Sequence: n}}
		d := store.Delivery{Key: fmt.Sprintf("key %d", n), IncidentID: e.Incident.ID, Sequence: n, Receiver: "hook", State: store.Pending}
		check(s.CommitEvents(bg, []incident.Event{e}, []store.Delivery{d}))
		fmt.Fprintf(os.Stdout, "event %d 0\n", n)
	}
}

// What was acknowledged before kill -9 is there after it, exactly once.
func TestKill(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	acknowledged := map[uint64]int64{} // position to number
	events, checkpoint := uint64(0), uint64(0)
	sealed := 0
	for round := 0; round < rounds || sealed == 0 && round < 50; round++ { // on a slow machine it takes longer to get as far as sealing
		c := child(t, "append until killed", dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		var once sync.Once
		lines := bufio.NewScanner(out)
		var before int
		for lines.Scan() {
			once.Do(func() { // it is at work: let it be for a while
				time.AfterFunc(time.Duration(20+r.IntN(400))*time.Millisecond, func() { c.Process.Kill() })
			})
			var what string
			var n uint64
			var number int64
			if _, err := fmt.Sscanf(lines.Text(), "%s %d %d", &what, &n, &number); err != nil {
				continue // cut off by the kill
			}
			before++
			switch what {
			case "batch":
				if other, ok := acknowledged[n]; ok && other != number {
					t.Fatalf("position %d is given to %d and to %d", n, other, number)
				}
				acknowledged[n] = number
			case "event":
				events = max(events, n)
			case "checkpoint":
				checkpoint = max(checkpoint, n)
			}
		}
		err = c.Wait()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("round %d: the child ended by itself: %v", round, err)
		}
		s := openStore(t, crashConfiguration(dir), defaultSizes)
		sealed += len(s.parts)
		verifyAcknowledged(t, s, acknowledged, events, checkpoint)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		t.Logf("round %d: %d acknowledgements, %d batches and %d events in all", round, before, len(acknowledged), events)
	}
	if sealed == 0 {
		t.Error("nothing was ever sealed: the test tests less than it should")
	}
}

func verifyAcknowledged(t *testing.T, s *Store, acknowledged map[uint64]int64, events, checkpoint uint64) {
	t.Helper()
	seen := map[int64]uint64{}
	for row, err := range s.Updates(t.Context(), store.UpdateQuery{Limit: 1 << 30}) {
		if err != nil {
			t.Fatal(err)
		}
		number := row.Time.UnixMicro()
		if p, twice := seen[number]; twice {
			t.Fatalf("batch %d is there twice, at %d and %d", number, p, row.Cursor.Position)
		}
		seen[number] = row.Cursor.Position
	}
	for p, number := range acknowledged {
		if seen[number] != p {
			t.Fatalf("batch %d was acknowledged at %d and is at %d", number, p, seen[number])
		}
	}
	list, err := s.Events(t.Context(), "", 0, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range list {
		if e.Sequence != uint64(i+1) {
			t.Fatalf("event %d is at place %d", e.Sequence, i+1)
		}
	}
	if uint64(len(list)) < events {
		t.Fatalf("%d events, %d were acknowledged", len(list), events)
	}
	due, err := s.DueDeliveries(t.Context(), "hook", time.Now(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if len(due) != len(list) {
		t.Fatalf("%d deliveries of %d events", len(due), len(list))
	}
	if checkpoint == 0 {
		return
	}
	p, state, err := s.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if p < checkpoint || string(state) != fmt.Sprintf("state at %d", p) {
		t.Fatalf("checkpoint %q at %d, acknowledged at %d", state, p, checkpoint)
	}
	n := uint64(0)
	for _, err := range s.BatchesSince(t.Context(), p) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if p+n != s.state.position {
		t.Fatalf("%d batches after the checkpoint at %d, but the last is at %d", n, p, s.state.position)
	}
}

// outOfSpace fills a store until it refuses, checks that it says so and has applied nothing by
// halves, then makes room by relieve and checks that it goes on.
func outOfSpace(s *Store, dir string, relieve func() error) error {
	bg := s.running
	r := rand.New(rand.NewPCG(1, 1))
	batch := func(i int) *ingest.Batch { // incompressible, 32 KiB
		noise := make([]byte, 1<<15)
		for i := range noise {
			noise[i] = byte(r.Uint32())
		}
		return &ingest.Batch{Watermark: ingest.Time(i), Updates: []ingest.Update{{Attrs: bgp.Attributes{Unknown: []bgp.RawAttribute{rawAttribute(noise)}},
			Announced: []bgp.NLRI{{Prefix: netip.MustParsePrefix("10.0.0.0/8")}}}}}
	}
	refused := func(what string, err error) error {
		switch {
		case err == nil:
			return fmt.Errorf("%s: no error without space", what)
		case !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "free space"):
			return fmt.Errorf("%s: the error does not wrap ErrUnavailable or name directory and remedy: %w", what, err)
		case s.Health() == nil:
			return fmt.Errorf("%s: the store calls itself healthy", what)
		}
		return nil
	}
	if err := s.SaveCheckpoint(bg, 0, []byte("first")); err != nil {
		return err
	}
	appended := uint64(0)
	var full error
	for full == nil && appended < 10000 {
		var p uint64
		if p, full = s.AppendBatch(bg, batch(int(appended))); full == nil {
			if appended++; p != appended {
				return fmt.Errorf("position %d, want %d", p, appended)
			}
		}
	}
	if err := refused("AppendBatch", full); err != nil {
		return err
	}
	big := make([]byte, 16<<20)
	for i := range big {
		big[i] = byte(r.Uint32())
	}
	e := incident.Event{Sequence: 1, Incident: incident.Incident{ID: "inc_1", Sequence: 1}}
	d := store.Delivery{Key: "k", IncidentID: "inc_1", Sequence: 1, Receiver: "hook", State: store.Pending, Body: big}
	if err := refused("CommitEvents", s.CommitEvents(bg, []incident.Event{e}, []store.Delivery{d})); err != nil {
		return err
	}
	if err := refused("SaveCheckpoint", s.SaveCheckpoint(bg, appended, big)); err != nil {
		return err
	}
	verify := func() error {
		n := uint64(0)
		for b, err := range s.BatchesSince(bg, 0) {
			if err != nil {
				return err
			}
			if b.Watermark != ingest.Time(n) {
				return fmt.Errorf("batch %d is %d", n, b.Watermark)
			}
			n++
		}
		if n != appended {
			return fmt.Errorf("%d batches, %d were acknowledged", n, appended)
		}
		if _, err := s.Incident(bg, "inc_1"); !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("half of an event is there (error %v)", err)
		}
		if _, state, err := s.Checkpoint(bg); err != nil || string(state) != "first" {
			return fmt.Errorf("the checkpoint is %q, error %v", state, err)
		}
		return nil
	}
	if err := verify(); err != nil {
		return fmt.Errorf("without space: %w", err)
	}
	if err := relieve(); err != nil {
		return err
	}
	if err := verify(); err != nil {
		return fmt.Errorf("with space again: %w", err)
	}
	p, err := s.AppendBatch(bg, batch(int(appended)))
	if err != nil || p != appended+1 {
		return fmt.Errorf("with space again: position %d, error %w", p, err)
	}
	if err := s.Health(); err != nil {
		return fmt.Errorf("with space again: Health: %w", err)
	}
	if err := s.CommitEvents(bg, []incident.Event{e}, []store.Delivery{d}); err != nil {
		return fmt.Errorf("with space again: %w", err)
	}
	if err := s.SaveCheckpoint(bg, p, big); err != nil {
		return fmt.Errorf("with space again: %w", err)
	}
	if err := s.tidy(bg, time.Now(), true); err != nil {
		return fmt.Errorf("with space again: %w", err)
	}
	n := uint64(0)
	for _, err := range s.Updates(bg, store.UpdateQuery{Limit: 1 << 30}) {
		if err != nil {
			return err
		}
		n++
	}
	if n != p {
		return fmt.Errorf("%d updates, want %d", n, p)
	}
	return nil
}

// A file that may not grow makes write(2) fail as a full disk does, for whoever is not root, too.
func TestFileSizeLimit(t *testing.T) {
	if out, err := child(t, "files of bounded size", t.TempDir()).Output(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func filesOfBoundedSize(dir string) error {
	signal.Ignore(syscall.SIGXFSZ)
	s, err := open(testConfiguration(dir), defaultSizes, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		return err
	}
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 4 << 20, Max: before.Max}); err != nil {
		return err
	}
	if err := outOfSpace(s, dir, func() error { return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before) }); err != nil {
		return err
	}
	return s.Close()
}
