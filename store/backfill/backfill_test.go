package backfill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/archive/fetch"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/mrt"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/embedded"
)

var start = time.Date(2024, 3, 1, 10, 0, 0, 0, time.UTC)

// at is a number of milliseconds after the start.
func at(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }

func peerOf(k int) ingest.Peer {
	return ingest.Peer{Collector: "rrc00", ASN: uint32(64500 + k), Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + k)})}
}

// history is what a collector hears in a quarter of an hour: four updates a second of three peers, many alike
// as in reality, among them withdrawals, sessions that end, and some of several prefixes.
func history() (list []ingest.Update) {
	for i := range 15 * 60 * 4 {
		u := ingest.Update{Time: ingest.TimeOf(at(250*i + i%7)), Peer: peerOf(i % 3)}
		prefix := func(n int) bgp.NLRI {
			return bgp.NLRI{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n % 5), 0, 0}), 16)}
		}
		switch {
		case i%50 == 13:
			u.Kind = ingest.PeerDown
		case i%50 == 16:
			u.Kind = ingest.PeerUp
		case i%6 == 1:
			u.Withdrawn = []bgp.NLRI{prefix(i)}
		default:
			u.Announced = []bgp.NLRI{prefix(i), prefix(i + 1)}
			u.Attrs = bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: u.Peer.Addr,
				ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{u.Peer.ASN, uint32(64600 + i/8%3)}}}}
		}
		list = append(list, u)
	}
	return list
}

// fact is a row of history as an archive tells it, to the second.
type fact struct {
	second int64
	peer   netip.Addr
	action store.Action
	prefix netip.Prefix
	path   string
}

// facts counts the rows that updates make.
func facts(updates []ingest.Update) map[fact]int {
	m := map[fact]int{}
	for i := range updates {
		u := &updates[i]
		f := fact{second: int64(u.Time) / 1e6, peer: u.Peer.Addr}
		switch u.Kind {
		case ingest.PeerUp:
			f.action = store.PeerUp
			m[f]++
		case ingest.PeerDown:
			f.action = store.PeerDown
			m[f]++
		}
		for _, n := range u.Withdrawn {
			f.action, f.prefix = store.Withdraw, n.Prefix
			m[f]++
		}
		for _, n := range u.Announced {
			f.action, f.prefix, f.path = store.Announce, n.Prefix, u.Attrs.ASPath.String()
			m[f]++
		}
	}
	return m
}

// archives is a server of RIS' archive, with the files that it has been given.
type archives struct {
	server *httptest.Server
	mu     sync.Mutex
	files  map[string][]byte // by path
}

func newArchives(t testing.TB) *archives {
	a := &archives{files: map[string][]byte{}}
	a.server = httptest.NewServer(a)
	t.Cleanup(a.server.Close)
	return a
}

func (a *archives) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if content, ok := a.files[r.URL.Path]; ok {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
		return
	}
	if !strings.HasSuffix(r.URL.Path, "/") {
		http.NotFound(w, r)
		return
	}
	for _, p := range slices.Sorted(maps.Keys(a.files)) {
		if path.Dir(p)+"/" == r.URL.Path {
			fmt.Fprintf(w, "<a href=%q>%s</a>\n", path.Base(p), path.Base(p))
		}
	}
}

func (a *archives) put(file string, content []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.files[file] = content
}

// content is the file of five minutes from begin on, with stamps of whole seconds.
func content(t testing.TB, updates []ingest.Update, begin time.Time) []byte {
	t.Helper()
	var b bytes.Buffer
	zip := gzip.NewWriter(&b)
	w := mrt.NewWriter(zip)
	for i := range updates {
		u := updates[i].Clone()
		if u.Time < ingest.TimeOf(begin) || u.Time >= ingest.TimeOf(begin.Add(5*time.Minute)) {
			continue
		}
		u.Time = u.Time / 1e6 * 1e6
		if err := w.Update(&u); err != nil {
			t.Fatal(err)
		}
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func fileAt(begin time.Time) string {
	return "/rrc00/" + begin.Format("2006.01") + "/updates." + begin.Format("20060102.1504") + ".gz"
}

func (a *archives) publish(t testing.TB, updates []ingest.Update, begin ...time.Time) {
	t.Helper()
	for _, b := range begin {
		a.put(fileAt(b), content(t, updates, b))
	}
}

// five is the begin of each file of the quarter of an hour.
var five = []time.Time{at(0), at(300_000), at(600_000)}

// feed is a live feed of which a test says how it stands.
type feed struct {
	connection uint64
	state      ingest.State
}

func (f *feed) Run(context.Context, ingest.Handler) error { return nil }
func (f *feed) Status() ingest.Status                     { return ingest.Status{Name: "ris-live", State: f.state} }
func (f *feed) Samples() []ingest.Sample                  { return nil }
func (f *feed) Connection() uint64                        { return f.connection }

// bench is a Filler with all that is around it.
type bench struct {
	t        testing.TB
	archives *archives
	dir      string
	store    *embedded.Store
	filler   *Filler
	feed     *feed
	clock    time.Time
	handle   ingest.Handler
	bus      ingest.Batch // what was handed on and is not stored yet
	config   Configuration
}

func newBench(t testing.TB) *bench {
	b := &bench{t: t, archives: newArchives(t), dir: t.TempDir(), feed: &feed{state: ingest.Connected}, clock: at(0), config: DefaultConfiguration()}
	b.open()
	t.Cleanup(func() { b.store.Close() })
	return b
}

// open opens the store and begins anew on it, as a new process does.
func (b *bench) open() {
	b.t.Helper()
	c := embedded.DefaultConfiguration()
	c.Directory = b.dir
	var err error
	if b.store, err = embedded.Open(c, slog.New(slog.DiscardHandler), prometheus.NewRegistry()); err != nil {
		b.t.Fatal(err)
	}
	b.start(b.store)
}

func (b *bench) start(s store.Store) {
	b.t.Helper()
	files := fetch.DefaultConfiguration()
	files.Broker, files.RIS, files.RouteViews = "", b.archives.server.URL, b.archives.server.URL
	files.Directory = path.Join(b.dir, "backfill")
	files.Attempts, files.RetryMin, files.RetryMax = 1, time.Millisecond, time.Millisecond
	b.filler = New(b.config, files, "test", s, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	b.filler.now = func() time.Time { return b.clock }
	if err := b.filler.Load(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	b.feed.connection = 1
	b.handle = b.filler.Watch(b.feed, func(u *ingest.Update) error {
		b.bus.Updates = append(b.bus.Updates, u.Clone())
		return nil
	})
}

// restart is a new process on the same directory.
func (b *bench) restart() {
	b.t.Helper()
	if err := b.store.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.open()
}

// hear has the feed tell those updates of the list that were heard in [from, to).
func (b *bench) hear(updates []ingest.Update, from, to time.Time) (heard []ingest.Update) {
	b.t.Helper()
	for i := range updates {
		if u := updates[i]; u.Time >= ingest.TimeOf(from) && u.Time < ingest.TimeOf(to) {
			b.clock = u.Time.Time().Add(300 * time.Millisecond)
			if err := b.handle(&u); err != nil {
				b.t.Fatal(err)
			}
			heard = append(heard, u)
		}
	}
	if _, err := b.store.AppendBatch(b.t.Context(), &b.bus); err != nil {
		b.t.Fatal(err)
	}
	b.bus.Updates = nil
	return heard
}

// fill does what is due when the next attempt is.
func (b *bench) fill() {
	b.t.Helper()
	for _, g := range b.gaps() {
		if g.NextAttempt.After(b.clock) {
			b.clock = g.NextAttempt
		}
	}
	b.filler.fillDue(b.t.Context())
}

func (b *bench) gaps() []ingest.Gap {
	b.t.Helper()
	list, err := b.store.Gaps(b.t.Context(), "", 0)
	if err != nil {
		b.t.Fatal(err)
	}
	return list
}

// gap is the only one.
func (b *bench) gap() ingest.Gap {
	b.t.Helper()
	list := b.gaps()
	if len(list) != 1 {
		b.t.Fatalf("gaps: %+v, want one", list)
	}
	return list[0]
}

// stored counts the rows in the history that are marked, or those that are not.
func (b *bench) stored(backfilled bool) map[fact]int {
	b.t.Helper()
	m := map[fact]int{}
	for r, err := range b.store.Updates(b.t.Context(), store.UpdateQuery{Limit: 1 << 30}) {
		if err != nil {
			b.t.Fatal(err)
		}
		if r.Backfilled == backfilled {
			m[fact{r.Time.Unix(), r.PeerIP, r.Action, r.Prefix, r.ASPath}]++
		}
	}
	return m
}

// holds fails unless history holds heard as live, and of all the rest, in the time of files, as back-filled.
func (b *bench) holds(heard, all []ingest.Update) {
	b.t.Helper()
	live := facts(heard)
	if got := b.stored(false); !maps.Equal(got, live) {
		b.t.Fatalf("%d different rows are unmarked, want the %d heard live", len(got), len(live))
	}
	want := facts(all)
	for f, n := range live {
		if want[f] -= n; want[f] == 0 {
			delete(want, f)
		}
	}
	got := b.stored(true)
	for f, n := range want {
		if got[f] != n {
			b.t.Errorf("%+v at %v is there %d times, want %d", f, time.Unix(f.second, 0).UTC(), got[f], n)
		}
	}
	for f, n := range got {
		if want[f] == 0 {
			b.t.Errorf("%+v at %v is there %d times and was heard live", f, time.Unix(f.second, 0).UTC(), n)
		}
	}
	var detected []ingest.Update
	for batch, err := range b.store.BatchesSince(b.t.Context(), 0) {
		if err != nil {
			b.t.Fatal(err)
		}
		detected = append(detected, batch.Updates...)
	}
	if !maps.Equal(facts(detected), live) {
		b.t.Error("detection does not get just what was heard live")
	}
}

// cut is a feed that is lost from the 200th second to the 700th, both within a second that is heard in part.
func (b *bench) cut() (heard, all []ingest.Update) {
	b.t.Helper()
	all = history()
	heard = b.hear(all, at(0), at(200_600))
	b.feed.connection++
	return append(heard, b.hear(all, at(700_400), at(900_000))...), all
}

func TestFill(t *testing.T) {
	b := newBench(t)
	heard, all := b.cut()
	g := b.gap()
	last, first := heard[0].Time, ingest.Time(0)
	for _, u := range heard {
		if u.Time < ingest.TimeOf(at(300_000)) {
			last = u.Time
		} else if first == 0 {
			first = u.Time
		}
	}
	if g.Feed != "ris-live" || g.Collector != "rrc00" || g.From != last.Time() || g.Until != first.Time() || g.State != ingest.GapWaiting {
		t.Fatalf("gap %+v, want the one from %s to %s", g, last, first)
	}
	if b.filler.fillDue(t.Context()) == 0 || b.gap().Attempts != 0 {
		t.Fatal("the archive is asked at once")
	}
	b.fill()
	if g := b.gap(); g.State != ingest.GapWaiting || g.Attempts != 1 || !strings.Contains(g.Error, "no updates from 2024-03-01T10:03:20Z to 2024-03-01T10:11:41Z") ||
		!g.NextAttempt.After(b.clock) {
		t.Fatalf("nothing is there: %+v", g)
	}
	// A file with nothing of the gap, two that have some of it, and none in between.
	b.archives.publish(t, all, five[0], five[2])
	b.fill()
	if g := b.gap(); g.State != ingest.GapWaiting || g.Updates == 0 || !strings.Contains(g.Error, "no updates from 2024-03-01T10:05:00Z to 2024-03-01T10:10:00Z") {
		t.Fatalf("one file is there: %+v", g)
	}
	before := b.gap().Updates
	b.fill()
	if g := b.gap(); g.Updates != before || g.Attempts != 3 {
		t.Fatalf("the same once more: %+v", g)
	}
	b.archives.publish(t, all, five[1])
	b.fill()
	if g := b.gap(); g.State != ingest.GapDone || g.Error != "" || !g.NextAttempt.IsZero() || g.Updates < 1900 {
		t.Fatalf("all files are there: %+v", g)
	}
	b.holds(heard, all)
	if got := b.filler.Gaps("ris-live"); len(got) != 1 || got[0].State != ingest.GapDone {
		t.Errorf("shown: %+v", got)
	}
	if n := testutil.ToFloat64(b.filler.updates); n != float64(b.gap().Updates) {
		t.Errorf("%v updates counted, %d added", n, b.gap().Updates)
	}
	if entries, err := os.ReadDir(path.Join(b.dir, "backfill")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("files are left: %v %v", entries, err)
	}
	b.restart()
	b.fill()
	b.holds(heard, all)
}

// A feed that has missed what one peer said tells so itself; nothing else of the collector is added.
func TestOnePeerMissed(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(map[bool]string{true: "since when is known", false: "history knows since when"}[known], func(t *testing.T) {
			b := newBench(t)
			all := history()
			lost := peerOf(1).ASN
			from, until := ingest.TimeOf(at(200_600)), ingest.TimeOf(at(700_400))
			told := slices.DeleteFunc(slices.Clone(all), func(u ingest.Update) bool { return u.Peer.ASN == lost && u.Time >= from && u.Time < until })
			heard := b.hear(told, at(0), until.Time())
			g := ingest.Gap{Feed: "openbmp", Collector: "rrc00", PeerASN: lost}
			for _, u := range told {
				if u.Peer.ASN != lost {
					continue
				}
				if u.Time < from && known {
					g.From = u.Time.Time()
				} else if u.Time >= until {
					g.Until = u.Time.Time()
					break
				}
			}
			b.filler.Missed(g)
			heard = append(heard, b.hear(told, until.Time(), at(900_000))...)
			b.archives.publish(t, all, five...)
			b.fill()
			if g := b.gap(); g.State != ingest.GapDone || g.PeerASN != lost || g.Updates < 500 {
				t.Fatalf("gap %+v", g)
			}
			b.holds(heard, all)
		})
	}
	t.Run("of whom there is nothing to complete", func(t *testing.T) {
		b := newBench(t)
		b.filler.Missed(ingest.Gap{Feed: "openbmp", Collector: "rrc00", PeerASN: 64500, Until: at(60_000)})                             // never heard
		b.filler.Missed(ingest.Gap{Feed: "openbmp", Collector: "edge-1.example.net/x", PeerASN: 64500, From: at(0), Until: at(60_000)}) // no archive
		b.filler.Missed(ingest.Gap{Feed: "openbmp", Collector: "rrc00", PeerASN: 64500, From: at(0), Until: at(5_000)})                 // too short
		if g := b.gaps(); len(g) != 0 {
			t.Errorf("gaps %+v", g)
		}
	})
}

// dying is a store whose process is killed after some of its writes: nothing after that is stored.
type dying struct {
	store.Store
	left int
	kill context.CancelFunc
}

func (d *dying) dead() error {
	if d.left == 0 {
		d.kill()
		return context.Canceled
	}
	d.left--
	return nil
}

func (d *dying) AppendBackfill(ctx context.Context, b *ingest.Batch, g *ingest.Gap) error {
	if err := d.dead(); err != nil {
		return err
	}
	return d.Store.AppendBackfill(ctx, b, g)
}

func (d *dying) SaveGap(ctx context.Context, g *ingest.Gap) error {
	if err := d.dead(); err != nil {
		return err
	}
	return d.Store.SaveGap(ctx, g)
}

// Wherever the process is killed, each update is there once in the end.
func TestKilled(t *testing.T) {
	b := newBench(t)
	heard, all := b.cut()
	b.archives.publish(t, all, five...)
	deaths := 0
	for b.gap().State == ingest.GapWaiting {
		if deaths++; deaths > 200 {
			t.Fatal("no progress")
		}
		ctx, kill := context.WithCancel(t.Context())
		b.start(&dying{b.store, 1 + deaths%3, kill})
		b.filler.batch = 50
		b.clock = b.clock.Add(time.Hour)
		b.filler.fillDue(ctx)
		kill()
		b.restart()
	}
	if deaths < 15 {
		t.Errorf("died %d times only", deaths)
	}
	b.holds(heard, all)
	if g := b.gap(); g.State != ingest.GapDone || g.Updates < 1900 {
		t.Errorf("%+v", g)
	}
}

func TestGiveUp(t *testing.T) {
	b := newBench(t)
	heard, all := b.cut()
	b.archives.publish(t, all, five[0], five[2])
	attempts := 0
	for b.gap().State == ingest.GapWaiting {
		if attempts++; attempts > 1000 {
			t.Fatal("it is never given up")
		}
		b.fill()
	}
	g := b.gap()
	if g.State != ingest.GapFailed || !strings.Contains(g.Error, "given up after 48h") || !strings.Contains(g.Error, "10:05:00Z to 2024-03-01T10:10:00Z") {
		t.Errorf("%+v", g)
	}
	if age := b.clock.Sub(g.Until); age < b.config.MaxAge || age > b.config.MaxAge+time.Minute {
		t.Errorf("given up after %v", age)
	}
	if attempts < 10 || attempts > 60 {
		t.Errorf("%d attempts in two days", attempts)
	}
	if n := testutil.ToFloat64(b.filler.gaps.WithLabelValues("failed")); n != 1 {
		t.Errorf("%v gaps counted as failed", n)
	}
	// What the archive has is taken all the same.
	b.holds(heard, slices.DeleteFunc(all, func(u ingest.Update) bool {
		return u.Time >= ingest.TimeOf(five[1]) && u.Time < ingest.TimeOf(five[2])
	}))
}

func TestBadFiles(t *testing.T) {
	b := newBench(t)
	heard, all := b.cut()
	b.archives.publish(t, all, five...)
	good := content(t, all, five[1])
	b.archives.put(fileAt(five[1]), good[:len(good)/2])
	b.fill()
	if g := b.gap(); g.State != ingest.GapWaiting || !strings.Contains(g.Error, "no good") {
		t.Fatalf("a file that is cut off: %+v", g)
	}
	b.archives.put(fileAt(five[1]), []byte("<html>not found</html>"))
	b.fill()
	if g := b.gap(); g.State != ingest.GapWaiting || !strings.Contains(g.Error, "no good") {
		t.Fatalf("a file that is none: %+v", g)
	}
	b.archives.put(fileAt(five[1]), good)
	b.fill()
	if g := b.gap(); g.State != ingest.GapDone || g.Error != "" {
		t.Fatalf("%+v", g)
	}
	b.holds(heard, all)
}

// A record that is damaged in the archive itself is passed over, and that is told.
func TestDamagedRecord(t *testing.T) {
	b := newBench(t)
	_, all := b.cut()
	b.archives.publish(t, all, five[0], five[2])
	var file bytes.Buffer
	zip := gzip.NewWriter(&file)
	w := mrt.NewWriter(zip)
	n := 0
	for _, u := range all {
		if u.Time >= ingest.TimeOf(five[1]) && u.Time < ingest.TimeOf(five[2]) {
			if err := w.Update(&u); err != nil {
				t.Fatal(err)
			}
			if n++; n == 100 { // BGP4MP, MESSAGE_AS4, three octets where peers and a message should be
				zip.Write([]byte{0x65, 0xe1, 0xa7, 0x00, 0, 16, 0, 4, 0, 0, 0, 3, 1, 2, 3})
			}
		}
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	b.archives.put(fileAt(five[1]), file.Bytes())
	b.fill()
	if g := b.gap(); g.State != ingest.GapDone || !strings.Contains(g.Error, "1 damaged record") || g.Updates < 1900 {
		t.Errorf("%+v", g)
	}
	if n := testutil.ToFloat64(b.filler.damaged); n != 1 {
		t.Errorf("%v damaged records counted", n)
	}
}

// The time in which the service was not there is a gap from what history has last.
func TestRestart(t *testing.T) {
	b := newBench(t)
	all := history()
	heard := b.hear(all, at(0), at(200_600))
	b.restart()
	if got := b.filler.Gaps("ris-live"); len(got) != 0 {
		t.Errorf("shown at once: %+v", got)
	}
	b.clock = at(650_000)
	if got := b.filler.Gaps("ris-live"); len(got) != 1 || got[0].State != ingest.GapOpen || got[0].From != heard[len(heard)-1].Time.Time() {
		t.Errorf("shown: %+v, want one that is open", got)
	}
	heard = append(heard, b.hear(all, at(700_400), at(900_000))...)
	b.archives.publish(t, all, five...)
	b.fill()
	if g := b.gap(); g.State != ingest.GapDone {
		t.Fatalf("%+v", g)
	}
	b.holds(heard, all)
	b.restart() // what was back-filled came in last, but is not what was heard last
	b.feed.connection = 1
	u := all[len(all)-1]
	u.Time += 5e6
	if err := b.handle(&u); err != nil {
		t.Fatal(err)
	}
	b.gap() // still one: this time it was shorter than the threshold
}

// Two gaps that meet in one second share none of it.
func TestGapsThatMeet(t *testing.T) {
	b := newBench(t)
	all := history()
	heard := b.hear(all, at(0), at(200_600))
	b.feed.connection++
	heard = append(heard, b.hear(all, at(400_200), at(400_600))...)
	b.feed.connection++
	heard = append(heard, b.hear(all, at(700_400), at(900_000))...)
	if gaps := b.gaps(); len(gaps) != 2 || gaps[0].From != at(401_000) {
		t.Fatalf("%+v", gaps)
	}
	b.archives.publish(t, all, five...)
	b.fill()
	for _, g := range b.gaps() {
		if g.State != ingest.GapDone {
			t.Errorf("%+v", g)
		}
	}
	b.holds(heard, all)
}

func TestWhatIsAGap(t *testing.T) {
	say := func(b *bench, ms int, collector string) {
		u := ingest.Update{Time: ingest.TimeOf(at(ms)), Peer: ingest.Peer{Collector: collector, ASN: 1, Addr: peerOf(0).Addr}, Kind: ingest.PeerUp}
		if err := b.handle(&u); err != nil {
			b.t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		do   func(b *bench)
		want string
	}{
		{"silence on one connection is none", func(b *bench) { say(b, 0, "rrc00"); b.clock = at(90_000); say(b, 90_000, "rrc00") }, ""},
		{"a short one is none", func(b *bench) { say(b, 0, "rrc00"); b.feed.connection++; b.clock = at(9_999); say(b, 9_999, "rrc00") }, ""},
		{"it begins at the latest stamp", func(b *bench) {
			b.clock = at(3000)
			say(b, 3000, "rrc00")
			say(b, 1000, "rrc00")
			b.feed.connection++
			b.clock = at(60_000)
			say(b, 60_000, "rrc00")
		}, "rrc00 3s-1m0s waiting"},
		{"old stamps after it do not end it", func(b *bench) {
			b.clock = at(3000)
			say(b, 3000, "rrc00")
			b.feed.connection++
			b.clock = at(60_000)
			say(b, 2000, "rrc00")
			say(b, 60_000, "rrc00")
			say(b, 60_001, "rrc00")
		}, "rrc00 3s-1m0s waiting"},
		{"stamps from the future neither begin nor end it", func(b *bench) {
			say(b, 0, "rrc00")
			say(b, 5_000_000, "rrc00")
			b.feed.connection++
			b.clock = at(60_000)
			say(b, 5_000_000, "rrc00")
			say(b, 60_000, "rrc00")
		}, "rrc00 0s-1m0s waiting"},
		{"each collector has its own", func(b *bench) {
			say(b, 0, "rrc00")
			say(b, 1000, "rrc01")
			b.feed.connection++
			b.clock = at(60_000)
			say(b, 50_000, "rrc01")
			say(b, 60_000, "rrc00")
			say(b, 60_000, "rrc03") // first heard now
		}, "rrc00 0s-1m0s waiting, rrc01 1s-50s waiting"},
		{"what no archive can have is left out", func(b *bench) {
			say(b, 0, "../rrc00")
			b.feed.connection++
			b.clock = at(60_000)
			say(b, 60_000, "../rrc00")
		}, ""},
		{"one that is too long is not filled", func(b *bench) {
			say(b, 0, "rrc00")
			b.feed.connection++
			b.clock = at(0).Add(25 * time.Hour)
			say(b, 25*3600*1000, "rrc00")
		}, "rrc00 0s-25h0m0s failed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			tt.do(b)
			var got []string
			for _, g := range b.gaps() {
				got = append(got, fmt.Sprintf("%s %v-%v %s", g.Collector, g.From.Sub(start), g.Until.Sub(start), g.State))
			}
			if s := strings.Join(got, ", "); s != tt.want {
				t.Errorf("gaps %q, want %q", s, tt.want)
			}
		})
	}
}

// full refuses gaps for lack of room.
type full struct {
	store.Store
	full bool
}

func (s *full) SaveGap(ctx context.Context, g *ingest.Gap) error {
	if s.full {
		return store.ErrUnavailable
	}
	return s.Store.SaveGap(ctx, g)
}

func TestStoreIsFull(t *testing.T) {
	b := newBench(t)
	s := &full{Store: b.store, full: true}
	b.start(s)
	heard, all := b.cut()
	b.archives.publish(t, all, five...)
	if wait := b.filler.fillDue(t.Context()); wait > unsavedEvery || len(b.gaps()) != 0 {
		t.Fatalf("again in %v, %d gaps", wait, len(b.gaps()))
	}
	s.full = false
	b.filler.fillDue(t.Context())
	if g := b.gap(); g.State != ingest.GapWaiting {
		t.Fatalf("%+v", g)
	}
	s.full = true // while it is filled
	b.fill()
	s.full = false
	for i := 0; b.gap().State != ingest.GapDone; i++ {
		if i > 10 {
			t.Fatalf("%+v", b.gap())
		}
		b.fill()
	}
	b.holds(heard, all)
}

// While the first update after a gap is on its way to the store, it is not known what is missing.
func TestFirstUpdateAfterIsOnItsWay(t *testing.T) {
	b := newBench(t)
	all := history()
	heard := b.hear(all, at(0), at(200_600))
	b.feed.connection++
	b.archives.publish(t, all, five...)
	for i := range all {
		if u := all[i]; u.Time >= ingest.TimeOf(at(700_400)) && u.Time < ingest.TimeOf(at(702_000)) {
			b.clock = u.Time.Time()
			if err := b.handle(&u); err != nil {
				t.Fatal(err)
			}
			heard = append(heard, u)
		}
	}
	b.clock = b.clock.Add(b.config.MaxAge) // nor is it given up for that
	b.fill()
	if g := b.gap(); g.State != ingest.GapWaiting || g.Attempts != 0 || g.Updates != 0 || g.Error != errOnItsWay.Error() {
		t.Fatalf("%+v", g)
	}
	heard = append(heard, b.hear(all, at(702_000), at(900_000))...) // which stores those before, too
	b.clock = b.clock.Add(b.config.MaxAge)
	b.fill()
	if g := b.gap(); g.State != ingest.GapDone {
		t.Fatalf("%+v", g)
	}
	b.holds(heard, all)
}

// TestRun: the goroutine wakes for a gap and ends when it is told to.
func TestRun(t *testing.T) {
	b := newBench(t)
	b.config.Interval = time.Millisecond
	b.start(b.store)
	b.filler.now = time.Now // stamps are of the past, so that whatever is not there would be given up
	all := history()
	b.archives.publish(t, all, five...)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.filler.Run(ctx) }()
	heard, _ := b.cut()
	for end := time.Now().Add(2 * time.Minute); len(b.gaps()) == 0 || b.gap().State != ingest.GapDone; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%+v", b.gaps())
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	b.holds(heard, all)
	known, err := b.store.Heard(t.Context())
	if err != nil || len(known) != 1 || known[0].Collector != "rrc00" || known[0].Feed != "ris-live" || known[0].Time.Before(at(0)) || known[0].Time.After(at(900_000)) {
		t.Errorf("noted at the end: %+v, %v", known, err)
	}
}

func TestHeardDoesNotAllocate(t *testing.T) {
	b := newBench(t)
	u := ingest.Update{Time: ingest.TimeOf(at(0)), Peer: peerOf(0)}
	b.filler.heard("ris-live", 1, &u)
	if n := testing.AllocsPerRun(100, func() {
		u.Time++
		b.filler.heard("ris-live", 1, &u)
	}); n != 0 {
		t.Errorf("%v allocations an update", n)
	}
}

func BenchmarkHeard(b *testing.B) {
	f := newBench(b).filler
	f.now = time.Now
	u := ingest.Update{Time: ingest.TimeOf(at(0)), Peer: peerOf(0)}
	for b.Loop() {
		u.Time++
		f.heard("ris-live", 1, &u)
	}
}

func TestValidate(t *testing.T) {
	if err := DefaultConfiguration().Validate(); err != nil {
		t.Error(err)
	}
	err := Configuration{Threshold: -1, MaxGap: -2, MaxAge: -1}.Validate()
	for _, field := range []string{"threshold:", "interval:", "max_gap:", "max_age:"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not speak of %s", err, field)
		}
	}
}
