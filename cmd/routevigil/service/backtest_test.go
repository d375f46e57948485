package service

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/compare"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/store/move"
)

// judgeAgain runs a backtest twice, which must give the same.
func judgeAgain(t *testing.T, c config.Config, o BacktestOptions) *Backtest {
	t.Helper()
	first, err := RunBacktest(t.Context(), c, o, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	c.Detect.Shards = 3
	second, err := RunBacktest(t.Context(), c, o, testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(first, second) {
		t.Errorf("twice the same gives\n%+v\nand\n%+v", first, second)
	}
	return first
}

// about returns the only difference that is about victim(i).
func (b *Backtest) about(t *testing.T, i int) compare.Difference {
	t.Helper()
	var found []compare.Difference
	for _, d := range b.Differences {
		x := d.After
		if x == nil {
			x = d.Before
		}
		if slices.Contains(x.Victims, victim(i).asn) {
			found = append(found, d)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d differences are about victim %d, want one: %+v", len(found), i, b.Differences)
	}
	return found[0]
}

// What a service has found is found again by the same rules while it runs on, and other rules and watches give the
// differences that they should.
func TestBacktest(t *testing.T) {
	t.Run("embedded", func(t *testing.T) { testBacktest(t, func(*config.Config) {}) })
	t.Run("ClickHouse", func(t *testing.T) { testBacktest(t, func(c *config.Config) { onClickHouse(t, c) }) })
}

func testBacktest(t *testing.T, change func(*config.Config)) {
	f := newFeed(t)
	c := configuration(t, f.url())
	change(&c)
	c.Detect.MinPeers = 4
	r := start(t, c)
	r.whenReady(f)
	f.background(t, 20*time.Millisecond)
	eventually(t, func() string {
		if r.clock().IsZero() || r.clock().Year() < 2000 {
			return "the clock of the detector stands"
		}
		return ""
	})
	from, _ := r.now(t)
	from = from.Add(time.Millisecond)
	settle := func() { // until what was said before is judged
		said := time.Now().Add(200 * time.Millisecond)
		eventually(t, func() string {
			if r.clock().Before(said) {
				return fmt.Sprintf("the detector is at %s", r.clock())
			}
			return ""
		})
	}
	status := func(i int, want incident.Status) {
		eventually(t, func() string {
			if x, _ := r.incidentOf(i); x.Status != want {
				return fmt.Sprintf("incident %d is %q", i, x.Status)
			}
			return ""
		})
	}
	settle()
	f.tell(hijack(0, 0, sessions)...)
	f.tell(hijack(1, 0, sessions)...)
	f.tell(hijack(2, 0, 5)...)
	f.tell(hijack(3, 0, 3)...) // too few
	status(0, incident.Open)
	status(1, incident.Open)
	status(2, incident.Open)
	settle()
	f.tell(heal(0)...)
	status(0, incident.Ended)
	settle()
	to := time.Now()
	f.tell(heal(1)...) // which is no longer of the period
	status(1, incident.Ended)
	o := BacktestOptions{From: from, To: to, Warmup: time.Hour}

	b := judgeAgain(t, c, o)
	if len(b.Differences) > 0 || b.Same != 3 || b.Stored != 3 || b.Found != 3 || b.Updates == 0 {
		t.Errorf("by the same rules: %+v", b)
	}
	if b.Basis.DetectorState.IsZero() || b.Basis.DetectorAge < 0 || b.Basis.DetectorAge > 60 || !b.LearnedFrom.IsZero() {
		t.Errorf("it began with %+v", b)
	}

	// What is moved into a store of its own is judged there as it was here.
	moved, export := c, filepath.Join(t.TempDir(), "export")
	moved.Store = config.Default().Store
	moved.Store.Directory = t.TempDir()
	if _, err := Export(t.Context(), c, export, move.ExportOptions{}, testLog(t)); err != nil {
		t.Fatal(err)
	}
	if _, kept, err := Import(t.Context(), moved, export, move.ImportOptions{}, testLog(t)); err != nil || len(kept) > 0 {
		t.Fatalf("import: kept %v, error %v", kept, err)
	}
	if m := judgeAgain(t, moved, o); len(m.Differences) > 0 || m.Same != 3 || m.Stored != 3 || m.Updates != b.Updates || !m.Basis.DetectorState.Equal(b.Basis.DetectorState) {
		t.Errorf("moved, by the same rules: %+v", m)
	}

	fewer := c
	fewer.Detect.MinPeers = 3
	b = judgeAgain(t, fewer, o)
	if d := b.about(t, 3); d.Change != compare.Added || d.After.Offenders[0] != attacker(3).asn {
		t.Errorf("with fewer peers: %+v", d)
	}
	more := c
	more.Detect.MinPeers = 7
	b = judgeAgain(t, more, o)
	if d := b.about(t, 2); d.Change != compare.Removed || d.Before.Offenders[0] != attacker(2).asn || b.Found != 2 {
		t.Errorf("with more peers: %+v", d)
	}
	longer := c
	longer.Detect.Hold = time.Hour
	b = judgeAgain(t, longer, o)
	if d := b.about(t, 0); d.Change != compare.Changed || len(d.Fields) != 1 || d.Fields[0].Name != "ended_at" || d.Fields[0].After != "-" {
		t.Errorf("with a longer hold: %+v", d)
	}
	watched := c
	watched.Watches = detect.WatchList{{Name: "mine", Prefixes: []netip.Prefix{victim(1).prefix}, Origins: []uint32{victim(1).asn}}}
	b = judgeAgain(t, watched, o)
	d := b.about(t, 1)
	if d.Change != compare.Changed || !slices.ContainsFunc(d.Fields, func(f compare.Field) bool { return f.Name == "watches" && f.After == "mine" }) || len(b.Differences) != 1 {
		t.Errorf("with a watch: %+v", b.Differences)
	}
}

// Without a kept state the history before the period is learned, which is told.
func TestBacktestWithoutState(t *testing.T) {
	f := newFeed(t)
	c := configuration(t, f.url())
	c.Knowledge.Past.Enabled = false
	r := start(t, c)
	r.whenReady(f)
	known := time.Now()
	f.background(t, 20*time.Millisecond)
	eventually(t, func() string {
		if r.clock().Before(known.Add(100 * time.Millisecond)) {
			return "the detector is not there yet"
		}
		return ""
	})
	from := time.Now()
	f.tell(hijack(0, 0, sessions)...)
	eventually(t, func() string {
		if _, ok := r.incidentOf(0); !ok {
			return "no incident"
		}
		return ""
	})
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	b := judgeAgain(t, c, BacktestOptions{From: from, To: time.Now(), Warmup: time.Hour})
	if b.Stored != 1 || b.LearnedFrom.IsZero() || !b.Basis.DetectorState.IsZero() {
		t.Errorf("%+v", b)
	}
	if !strings.Contains(strings.Join(b.Basis.Gaps, " "), "No state of the detector") {
		t.Errorf("it is not told that there was no state: %q", b.Basis.Gaps)
	}
	b = judgeAgain(t, c, BacktestOptions{From: from, To: time.Now(), RIB: c.Ingest.Baseline})
	if len(b.Differences) > 0 || b.Same != 1 || len(b.RIB) != 1 {
		t.Errorf("with the table dump that the service began with: %+v", b)
	}
	_, err := RunBacktest(t.Context(), c, BacktestOptions{From: from.Add(-48 * time.Hour), To: from.Add(-47 * time.Hour)}, testLog(t))
	if err == nil || !strings.Contains(err.Error(), "there is no history") {
		t.Errorf("of a time without history: %v", err)
	}
}
