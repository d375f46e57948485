// Package mirror keeps a copy of a routing registry on this machine that follows the registry by NRTM, version 4 or 3.
//
// The copy is one file of RPSL, compressed, with only what an irr.Builder reads. Its first line says how far it has come:
// what is in the file and how far that is cannot come apart. An update collects what has changed, writes the file anew
// beside the old one and puts it in its place once it is whole and on the disk. So whatever interrupts an update, the
// next one goes on from a good copy. Writing a registry of a million objects takes three seconds (BenchmarkUpdate) and
// happens once an update, which is why updates are minutes apart; a log of changes would be written faster, but read
// slower and be far more code. What is in use is changed, not built anew.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/irr/nrtm"
	"github.com/routevigil/routevigil/detect/irr/rpsl"
	"github.com/routevigil/routevigil/detect/refresh"
	"github.com/routevigil/routevigil/ingest/download"
)

// Configuration says how a registry is followed.
type Configuration struct {
	Source string   `yaml:"source" doc:"The registry's name, as its objects give it, such as RIPE or RADB."`
	NRTM4  string   `yaml:"nrtm4" doc:"Address of its Update Notification File (NRTM version 4), https://…; this or nrtm3."`
	Key    string   `yaml:"key" doc:"The public key (PEM) that the registry publishes for nrtm4: what it has not signed is refused."`
	NRTM3  string   `yaml:"nrtm3" doc:"Its NRTM version 3 server as host:port, usually port 43. It signs nothing: whoever sits between can say what is registered."`
	Dumps  []string `yaml:"dumps" doc:"With nrtm3: the dumps to begin with, plain or gzip, paths or addresses."`
	Serial string   `yaml:"serial" doc:"With nrtm3: the path or address of the file that says up to which serial the dumps go, such as RADB.CURRENTSERIAL."`
}

var sourceName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9-]{0,63}$`)

// Validate reports every value that cannot work.
func (c Configuration) Validate() error {
	var errs []error
	fail := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}
	if !sourceName.MatchString(c.Source) {
		fail("source", "%q is no name of a registry, such as RIPE", c.Source)
	}
	if (c.NRTM4 == "") == (c.NRTM3 == "") {
		fail("nrtm4", "give either nrtm4 or nrtm3")
		return errors.Join(errs...)
	}
	if c.NRTM4 != "" {
		if !strings.HasPrefix(c.NRTM4, "https://") {
			fail("nrtm4", "%q does not begin with https://", refresh.Printable(c.NRTM4))
		}
		if _, err := nrtm.ParseKey(c.Key); err != nil {
			fail("key", "%v", err)
		}
		if len(c.Dumps) > 0 || c.Serial != "" {
			fail("dumps", "dumps and serial have no effect with nrtm4, which brings its own")
		}
		return errors.Join(errs...)
	}
	if host, port, err := net.SplitHostPort(c.NRTM3); err != nil || host == "" || port == "" {
		fail("nrtm3", "%q is not host:port, such as \"whois.radb.net:43\"", c.NRTM3)
	}
	if c.Key != "" {
		fail("key", "has no effect with nrtm3, which signs nothing")
	}
	if len(c.Dumps) == 0 || c.Serial == "" {
		fail("dumps", "nrtm3 tells only changes: dumps and serial say what to begin with")
	}
	return errors.Join(errs...)
}

// Location is where the registry is followed.
func (c Configuration) Location() string {
	if c.NRTM4 != "" {
		return c.NRTM4
	}
	return c.NRTM3
}

// Reasons why an update fails, beside those of package nrtm.
const (
	Loss    = "loss"     // so much is gone that it is held back
	Silence = "silence"  // the registry has published nothing for nrtm.StaleAfter
	TooMuch = "too_much" // more changes than one update may bring, or in more time
	Disk    = "disk"     // the copy cannot be written or read
)

const (
	// A registry that had at least lossFloor objects of a kind and lost more than maxLoss of them at once is held back
	// for holdBack: a dump that was cut short, or a server that lost its data, is likelier.
	lossFloor = 1000
	maxLoss   = 0.1
	holdBack  = time.Hour
	// dumpEvery is how often dumps are fetched at the most, because a server no longer has what follows on them.
	dumpEvery = 6 * time.Hour
	// maxChanges bounds in bytes what an update may hold in memory.
	maxChanges = 256 << 20
	// maxTime bounds what a server may take for an update, however lively it is.
	maxTime = 2 * time.Hour
)

// Metrics count what mirrors do, by source.
type Metrics struct{ failures, changes *prometheus.CounterVec }

// NewMetrics registers the metrics of all mirrors.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "routevigil_irr_mirror_failures_total",
			Help: "Updates of a mirrored routing registry that failed, by reason."}, []string{"source", "reason"}),
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "routevigil_irr_mirror_changes_total",
			Help: "Objects that a mirrored routing registry added, removed, or sent in a form that is not RPSL."}, []string{"source", "change"}),
	}
	registry.MustRegister(m.failures, m.changes)
	return m
}

// Mirror follows one registry; it is a refresh.Follower.
type Mirror struct {
	c       Configuration
	path    string // of the copy
	client  *download.Client
	most    int64 // bytes of a file that is fetched
	use     func(*irr.Database)
	metrics *Metrics
	log     *slog.Logger
	idle    time.Duration // how long a server of version 3 may be silent
	memory  int64         // bytes of changes

	v4        nrtm.V4
	state     state
	kept      bool          // the copy is there and good
	db        *irr.Database // of what is in use; nil: nothing
	lossSince time.Time     // since when too much has been gone; zero: it has not
}

// state is how far the copy has come: its first line.
type state struct {
	Location string     `json:"location"` // another server's copy is of no use
	Key      string     `json:"key,omitempty"`
	AsOf     time.Time  `json:"as_of"` // of the data, as its server says
	Serial   uint64     `json:"serial,omitempty"`
	Dumped   time.Time  `json:"dumped,omitzero"` // when the dumps were read
	V4       nrtm.State `json:"v4"`
}

// New makes a mirror that keeps its copy at path. use is given every new database; most bounds each file that is fetched.
func New(c Configuration, path string, client *download.Client, most int64, use func(*irr.Database), metrics *Metrics, log *slog.Logger) *Mirror {
	return &Mirror{c: c, path: path, client: client, most: most, use: use, metrics: metrics, log: log, idle: time.Minute, memory: maxChanges,
		v4: nrtm.V4{Source: c.Source, URL: c.NRTM4, Key: c.Key,
			Fetch: nrtm.HTTPS{Client: client, Scratch: path + ".fetch", MaxBytes: most, Limit: "knowledge.refresh.max_file_bytes"}}}
}

// Begin puts the copy of before to use.
func (m *Mirror) Begin() (refresh.Loaded, time.Time) {
	info, err := os.Stat(m.path)
	if errors.Is(err, os.ErrNotExist) {
		return refresh.Loaded{}, time.Time{}
	}
	var st state
	b := irr.NewBuilder(nil)
	if err == nil {
		st, err = read(m.path, func(_ []byte, o *rpsl.Object) error { b.Add(o); return nil })
	}
	if err == nil && st.Location != refresh.Printable(m.c.Location()) {
		err = fmt.Errorf("it is of %s", st.Location)
	}
	if err != nil {
		m.log.Warn("the copy of a registry kept from before cannot be used; it is fetched anew", "source", m.c.Source, "path", m.path, "error", err)
		return refresh.Loaded{}, time.Time{}
	}
	if st.Key != m.c.Key { // the operator has another, so what followed on the old one does not count
		st.V4.Key, st.V4.NextKey = "", ""
	}
	m.put(st, m.build(b))
	return m.loaded(), info.ModTime()
}

// put puts to use what the copy has.
func (m *Mirror) put(st state, db *irr.Database) {
	m.state, m.v4.State, m.kept, m.db = st, st.V4, true, db
	m.use(m.db)
}

func (m *Mirror) loaded() refresh.Loaded {
	if m.db == nil {
		return refresh.Loaded{}
	}
	c, serial := m.db.Counts(), strconv.FormatUint(m.state.Serial, 10)
	if m.c.NRTM4 != "" {
		serial = fmt.Sprintf("%s/%d", m.state.V4.Session, m.state.V4.Version)
	}
	return refresh.Loaded{Entries: c.Routes + c.Sets + c.AutNums, AsOf: m.state.AsOf, Serial: serial}
}

// failure is an error with the reason that it is counted under.
type failure struct {
	error
	reason string
}

func (f *failure) Unwrap() error { return f.error }

func reasonOf(err error) string {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.reason
	}
	return nrtm.ReasonOf(err)
}

// HeldBack reports whether an error of Follow says that what came was held back for having lost too much.
func HeldBack(err error) bool { return err != nil && reasonOf(err) == Loss }

// Follow asks for what is new. After an error there may be something new all the same.
func (m *Mirror) Follow(ctx context.Context) (refresh.Loaded, error) {
	var err error
	if m.c.NRTM4 != "" {
		err = m.followV4(ctx)
	} else {
		err = m.followV3(ctx)
	}
	if err != nil && ctx.Err() == nil {
		err = m.count(err)
	}
	return m.loaded(), err
}

// count counts an error and puts its reason first.
func (m *Mirror) count(err error) error {
	reason := reasonOf(err)
	m.metrics.failures.WithLabelValues(m.c.Source, reason).Inc()
	return fmt.Errorf("%s: %w", reason, err)
}

func (m *Mirror) followV4(ctx context.Context) error {
	before := m.v4.State
	u := m.newUpdate(ctx)
	defer u.end()
	what, err := m.v4.Update(u.ctx, u)
	if err != nil {
		return u.why(err)
	}
	m.note(what.Counts)
	next := state{AsOf: what.Timestamp, V4: m.v4.State}
	if err := m.finish(u, next); err != nil {
		if m.v4.State = before; !m.kept { // all of it again
			m.v4.State = nrtm.State{Key: before.Key, NextKey: before.NextKey}
		}
		return err
	}
	if age := time.Since(what.Timestamp); age > nrtm.StaleAfter {
		return &failure{fmt.Errorf("NRTM of %s: the server has said nothing new for %v", m.c.Source, age.Round(time.Minute)), Silence}
	}
	return nil
}

func (m *Mirror) followV3(ctx context.Context) error {
	u := m.newUpdate(ctx)
	defer u.end()
	client := nrtm.V3{Source: m.c.Source, Address: m.c.NRTM3, Idle: m.idle, Dial: (&net.Dialer{Timeout: m.idle}).DialContext}
	next := m.state
	dump := func() (err error) {
		next.Serial, err = m.dump(u)
		next.Dumped, next.AsOf = time.Now(), time.Now()
		return err
	}
	if !m.kept {
		if err := dump(); err != nil {
			return u.why(err)
		}
	}
	serial, counts, err := client.Update(u.ctx, next.Serial, u)
	if _, gap := errors.AsType[*nrtm.GapError](err); gap && time.Since(next.Dumped) >= dumpEvery {
		m.log.Warn("a registry is read from its dumps again", "source", m.c.Source, "error", m.count(err))
		if err := dump(); err != nil {
			return u.why(err)
		}
		serial, counts, err = client.Update(u.ctx, next.Serial, u)
	}
	next.Serial = serial
	if err == nil {
		next.AsOf = time.Now()
	}
	m.note(counts)
	if ctx.Err() != nil || err != nil && u.empty() {
		return u.why(err)
	}
	// What came before an error is whole, and the next update goes on from there.
	if f := m.finish(u, next); f != nil {
		return f
	}
	return u.why(err)
}

func (m *Mirror) note(c nrtm.Counts) {
	malformed := 0
	for _, n := range c.Malformed {
		malformed += n
	}
	for change, n := range map[string]int{"added": c.Added, "removed": c.Removed, "malformed": malformed} {
		m.metrics.changes.WithLabelValues(m.c.Source, change).Add(float64(n))
	}
}

// dump reads the dumps, and returns the serial that changes follow on. That is asked for first: changes that the dumps
// have already are told again then, which comes to the same.
func (m *Mirror) dump(u *update) (uint64, error) {
	serial, err := m.serial(u.ctx)
	if err != nil {
		return 0, fmt.Errorf("the serial of the dumps of %s (%s): %w", m.c.Source, refresh.Printable(m.c.Serial), err)
	}
	u.Drop(m.c.Source)
	for _, location := range m.c.Dumps {
		if err := m.readDump(u, location); err != nil {
			return 0, fmt.Errorf("the dump of %s (%s): %w", m.c.Source, refresh.Printable(location), err)
		}
	}
	return serial, nil
}

func (m *Mirror) serial(ctx context.Context) (uint64, error) {
	var in io.ReadCloser
	if refresh.IsURL(m.c.Serial) {
		resp, err := m.client.Get(ctx, m.c.Serial, nil)
		if err != nil {
			return 0, err
		}
		in = resp.Body
		if resp.StatusCode != http.StatusOK {
			_ = in.Close()
			return 0, download.Unexpected(resp)
		}
	} else {
		f, err := os.Open(m.c.Serial)
		if err != nil {
			return 0, &failure{err, Disk}
		}
		in = f
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, 100))
	if err != nil {
		return 0, err
	}
	serial, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, &failure{fmt.Errorf("%.40q is no serial", text), nrtm.Malformed}
	}
	return serial, nil
}

func (m *Mirror) readDump(u *update, location string) error {
	path := location
	if refresh.IsURL(location) {
		path = m.path + ".dump"
		file := download.File{URL: location, Path: path, Replace: true, MaxBytes: m.most, Limit: "knowledge.refresh.max_file_bytes",
			Check: func(context.Context, string, int64) error { return nil }}
		if _, err := m.client.Fetch(u.ctx, file); err != nil {
			return err
		}
		defer os.Remove(path)
	}
	f, err := os.Open(path)
	if err != nil {
		return &failure{err, Disk}
	}
	defer f.Close()
	r, err := rpsl.NewReader(f)
	for err == nil && u.ctx.Err() == nil {
		var o *rpsl.Object
		if o, err = r.Next(); err == nil && strings.EqualFold(string(o.Get("source")), m.c.Source) {
			u.Add(o)
		}
	}
	if !errors.Is(err, io.EOF) {
		return &failure{errors.Join(u.ctx.Err(), err), nrtm.Malformed}
	}
	return nil
}

// finish makes what an update brought the copy, and puts it to use.
func (m *Mirror) finish(u *update, next state) error {
	next.Location, next.Key = refresh.Printable(m.c.Location()), m.c.Key
	if u.empty() {
		same := next
		same.AsOf = m.state.AsOf
		if m.kept && reflect.DeepEqual(same, m.state) {
			m.state.AsOf = next.AsOf
			now := time.Now()
			_ = os.Chtimes(m.path, now, now) // says to the next start that the copy was still current
			return nil
		}
	}
	b := u.builder()
	if err := u.write(next, b); err != nil {
		if errors.Is(err, errCopy) { // what it was made of, too, is gone
			m.kept = false
		}
		return &failure{fmt.Errorf("the copy of %s (%s): %w", m.c.Source, m.path, err), Disk}
	}
	db := m.build(b)
	if err := m.plausible(db); err != nil {
		return err
	}
	if err := u.commit(); err != nil {
		return &failure{fmt.Errorf("the copy of %s (%s): %w", m.c.Source, m.path, err), Disk}
	}
	m.put(next, db)
	return nil
}

func (m *Mirror) build(b *irr.Builder) *irr.Database {
	b.Name(refresh.Printable(m.c.Location()))
	return b.Build()
}

// plausible holds back what lost suspiciously much, until it has been so for a while.
func (m *Mirror) plausible(next *irr.Database) error {
	before, after := m.db.Counts(), next.Counts()
	lost := ""
	for _, kind := range []struct {
		name          string
		before, after int
	}{{"routes", before.Routes, after.Routes}, {"sets", before.Sets, after.Sets}, {"aut-nums", before.AutNums, after.AutNums}} {
		if kind.before >= lossFloor && float64(kind.before-kind.after) > maxLoss*float64(kind.before) {
			lost = fmt.Sprintf("its %s fell from %d to %d", kind.name, kind.before, kind.after)
		}
	}
	now := time.Now()
	switch {
	case lost == "":
		m.lossSince = time.Time{}
		return nil
	case m.lossSince.IsZero():
		m.lossSince = now
	case now.Sub(m.lossSince) >= holdBack:
		m.lossSince = time.Time{}
		return nil
	}
	return &failure{fmt.Errorf("%s is held back: %s; if it stays so it is believed after %s", m.c.Source, lost, m.lossSince.Add(holdBack).UTC().Format("15:04 UTC")), Loss}
}
