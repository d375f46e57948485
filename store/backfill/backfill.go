// Package backfill completes history after a gap of a live feed from the archive of the collector
// concerned, as soon as the archive has the files.
//
// A gap begins with the last update that was heard of a collector on one connection and ends with the
// first on the next, by the stamps of the feed; that the service itself was down is a gap too. It is
// recorded before that first update is handed on, so that there is no moment at which an end would be
// forgotten; and where it began needs no record, because history knows what was heard last. A feed that
// goes on where it was, as OpenBMP's, knows itself what it has missed, and of which peer ([Filler.Missed]).
//
// What is added is history only. It is appended through [store.Store].AppendBackfill, which marks it and
// keeps it from detection: incidents of an hour ago are not to be raised now, and the table that
// detection holds is that of the live feed.
//
// Each update is added once. A batch and how far reading has come commit together. And since archives
// have stamps of whole seconds (RIS), a gap begins and ends within a second that was heard in part: of
// those two seconds, what the feed has told already is left out, row by row.
//
// Files are taken one after the other, each removed before the next is fetched, and updates in batches:
// neither memory nor disk grows with the gap, but for what history itself takes.
package backfill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/archive/fetch"
	"github.com/routevigil/routevigil/store"
)

// Configuration says which gaps are filled, and how patiently.
type Configuration struct {
	Enabled   bool          `yaml:"enabled" doc:"Whether history is completed from the archives of RIPE RIS and RouteViews (section archive says where they are) after a gap of ingest.ris_live, where the subscriptions ask for everything that a collector hears, or of ingest.openbmp, where the cluster has deleted what was not read in time."`
	Threshold time.Duration `yaml:"threshold" doc:"Gaps that are shorter are not recorded."`
	Interval  time.Duration `yaml:"interval" doc:"How long after the end of a gap the archive is first asked for its files; the wait doubles with every further attempt, up to sixteen times this, and is shortened at random by up to half."`
	MaxGap    time.Duration `yaml:"max_gap" doc:"Gaps that are longer are recorded, but not filled: RIS publishes a file every five minutes of each of its collectors, RouteViews every quarter of an hour."`
	MaxAge    time.Duration `yaml:"max_age" doc:"How long after its end a gap is given up, with whatever part of it the archive has by then."`
}

// DefaultConfiguration allows for RIS' files, which span five minutes and appear some minutes later.
func DefaultConfiguration() Configuration {
	return Configuration{Enabled: true, Threshold: 10 * time.Second, Interval: 10 * time.Minute, MaxGap: 24 * time.Hour, MaxAge: 48 * time.Hour}
}

// Validate reports every value that cannot work.
func (c Configuration) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Threshold < 0 {
		fail("threshold: must not be negative, is %v", c.Threshold)
	}
	if c.Interval <= 0 {
		fail("interval: must be positive, is %v", c.Interval)
	}
	if c.MaxGap < c.Threshold {
		fail("max_gap: must not be less than threshold (%v), is %v", c.Threshold, c.MaxGap)
	}
	if c.MaxAge < c.Interval {
		fail("max_age: must not be less than interval (%v), is %v", c.Interval, c.MaxAge)
	}
	return errors.Join(errs...)
}

// Source is a feed that knows its connections.
type Source interface {
	ingest.Source
	// Connection is the number of the connection that updates come from: it grows by one with each, from
	// 1 for the first. Nothing is missed within a connection.
	Connection() uint64
}

const (
	batchUpdates   = 4096             // added at once
	recentGaps     = 10               // that Gaps shows of a feed, beside those that are open
	clockTolerance = 5 * time.Second  // a stamp further ahead of the clock is false
	saveEvery      = time.Minute      // how often it is noted what was heard
	saveMargin     = 5 * time.Minute  // more than what the bus may hold when the service dies
	unsavedEvery   = 10 * time.Second // how often a gap is offered again that the store refused
	maxDoublings   = 4
	settle         = 2 * time.Second // until the rest of the second in which a gap ends has been heard and stored
)

// Filler records gaps and fills them.
type Filler struct {
	c         Configuration
	archive   fetch.Configuration
	userAgent string
	store     store.Store
	log       *slog.Logger
	now       func() time.Time
	batch     int           // updates added at once
	wake      chan struct{} // tells Run of a new gap

	mu         sync.Mutex
	sources    map[string]Source // by name
	collectors map[string]*collector
	recent     map[string][]ingest.Gap // by feed, newest first
	unsaved    []ingest.Gap            // gaps that the store refused
	ended      map[uint64]bool         // gaps, by ID, of which the first update after may still be on its way to the store

	gaps             *prometheus.CounterVec
	updates, damaged prometheus.Counter
	waiting          prometheus.Gauge
}

// collector is what is known of a collector that a feed tells of.
type collector struct {
	feed       string
	connection uint64      // of the feed, that it was last heard on; 0: before this start
	newest     ingest.Time // the latest stamp
	covered    ingest.Time // until when a gap that was recorded reaches
	changed    bool        // since it was noted in the store
}

// New makes a Filler. archive says where the archives are, and in which folder files are kept while they are
// read: one that is for nothing else. reg may be nil.
func New(c Configuration, archive fetch.Configuration, userAgent string, s store.Store, log *slog.Logger, reg prometheus.Registerer) *Filler {
	f := &Filler{
		c: c, archive: archive, userAgent: userAgent, store: s, log: log, now: time.Now, batch: batchUpdates, wake: make(chan struct{}, 1),
		sources: map[string]Source{}, collectors: map[string]*collector{}, recent: map[string][]ingest.Gap{}, ended: map[uint64]bool{},
		gaps: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "routevigil_backfill_gaps_total",
			Help: "Gaps of live feeds that were recorded, and those of them that were filled (done) or given up (failed)."}, []string{"outcome"}),
		updates: prometheus.NewCounter(prometheus.CounterOpts{Name: "routevigil_backfill_updates_total", Help: "Updates added to the history from archives."}),
		damaged: prometheus.NewCounter(prometheus.CounterOpts{Name: "routevigil_backfill_damaged_total", Help: "Damaged records of archives that were passed over."}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{Name: "routevigil_backfill_waiting_gaps", Help: "Gaps that are still to be filled."}),
	}
	for _, outcome := range []string{"recorded", "done", "failed"} {
		f.gaps.WithLabelValues(outcome)
	}
	if reg != nil {
		reg.MustRegister(f.gaps, f.updates, f.damaged, f.waiting)
	}
	return f
}

// Load finds out from the store what was heard before this start. It must be called before the first update comes.
func (f *Filler) Load(ctx context.Context) error {
	heard, err := f.store.Heard(ctx)
	if err != nil {
		return err
	}
	gaps, err := f.store.Gaps(ctx, "", 1000)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range heard {
		newest, err := f.lastStored(ctx, h)
		if err != nil {
			return err
		}
		f.collectors[h.Collector] = &collector{feed: h.Feed, newest: newest}
	}
	for _, g := range slices.Backward(gaps) {
		if g.State == ingest.GapImported {
			continue
		}
		f.show(g)
		if c := f.collectors[g.Collector]; c != nil && g.PeerASN == 0 {
			c.covered = max(c.covered, endOf(&g))
		}
	}
	return nil
}

// lastStored is the latest stamp of what history has of a collector from its feed.
func (f *Filler) lastStored(ctx context.Context, h store.Heard) (ingest.Time, error) {
	most := f.now().Add(clockTolerance)
	newest, err := f.newest(ctx, store.UpdateQuery{Collector: h.Collector, From: h.Time, To: most})
	if newest.Before(h.Time) {
		newest = h.Time
	}
	return ingest.TimeOf(newest), err
}

// newest is the latest stamp of what history has from live feeds of what q selects; zero if there is nothing.
func (f *Filler) newest(ctx context.Context, q store.UpdateQuery) (newest time.Time, err error) {
	// Stamps stray a little from the order of arrival, so the last row need not have the latest.
	const enough = 1000
	seen := 0
	q.Limit = 1 << 30
	for r, err := range f.store.Updates(ctx, q) {
		if err != nil {
			return newest, err
		}
		if r.Backfilled {
			continue
		}
		if r.Time.After(newest) {
			newest = r.Time
		}
		if seen++; seen == enough {
			break
		}
	}
	return newest, nil
}

// Watch returns a handler that notes what s tells and hands it on to h.
func (f *Filler) Watch(s Source, h ingest.Handler) ingest.Handler {
	feed := s.Status().Name
	f.mu.Lock()
	f.sources[feed] = s
	f.mu.Unlock()
	return func(u *ingest.Update) error {
		f.heard(feed, s.Connection(), u)
		return h(u)
	}
}

// heard notes an update of a feed, and where it is the first after a gap, records that.
func (f *Filler) heard(feed string, connection uint64, u *ingest.Update) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.collectors[u.Peer.Collector]
	if c != nil && c.connection == connection && c.feed == feed && u.Time <= c.newest {
		return
	}
	if u.Time > ingest.TimeOf(f.now().Add(clockTolerance)) {
		return
	}
	switch {
	case c == nil:
		if !archived(u.Peer.Collector, u.Time.Time()) {
			return
		}
		c = &collector{}
		f.collectors[u.Peer.Collector] = c
		if err := f.store.SaveHeard(context.Background(), []store.Heard{{Collector: u.Peer.Collector, Feed: feed, Time: u.Time.Time()}}); err != nil {
			f.log.Error("that a collector is heard could not be noted; it is tried again", "collector", u.Peer.Collector, "error", err)
		}
	case c.connection != connection || c.feed != feed:
		if u.Time <= c.newest {
			return // not the first after the gap: it is older than the last before
		}
		g := ingest.Gap{Feed: feed, Collector: u.Peer.Collector, From: max(c.newest, c.covered).Time(), Until: u.Time.Time()}
		if f.record(g) {
			c.covered = endOf(&g)
		}
	}
	c.feed, c.connection, c.newest, c.changed = feed, connection, u.Time, true
}

// archived reports whether there may be an archive of a collector, of a time.
func archived(collector string, at time.Time) bool {
	r := fetch.Request{Collectors: []string{collector}, From: at, To: at.Add(time.Second), Updates: true}
	return r.Validate() == nil
}

// Missed records what a feed knows to have missed of one peer, if it is long enough. It is to be called before the
// update with which the gap ended is handed on. From may be zero: then the gap begins with the last that history has of
// the peer.
func (f *Filler) Missed(g ingest.Gap) {
	if !archived(g.Collector, g.Until) {
		return
	}
	if g.From.IsZero() {
		var err error
		g.From, err = f.newest(context.Background(), store.UpdateQuery{Collector: g.Collector, PeerASN: g.PeerASN, To: g.Until})
		if err != nil {
			f.log.Error("since when a feed has missed something cannot be found out, and it is not filled", "feed", g.Feed, "collector", g.Collector, "peer_asn", g.PeerASN, "error", err)
			return
		}
		if g.From.IsZero() {
			return // never heard: there is nothing to complete
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.record(g)
}

// record stores a gap that has ended, and reports whether it is long enough for that.
func (f *Filler) record(g ingest.Gap) bool {
	if g.Until.Sub(g.From) < f.c.Threshold || !g.From.Before(g.Until) {
		return false
	}
	g.State = ingest.GapWaiting
	f.gaps.WithLabelValues("recorded").Inc()
	if d := g.Until.Sub(g.From); d > f.c.MaxGap {
		g.State, g.Error = ingest.GapFailed, fmt.Sprintf("it is longer than ingest.backfill.max_gap, %v", f.c.MaxGap)
		f.gaps.WithLabelValues("failed").Inc()
		f.log.Error("a feed has missed a time too long to be filled from the archive", "feed", g.Feed, "collector", g.Collector, "from", g.From, "until", g.Until)
	} else {
		g.NextAttempt = f.now().Add(max(settle, f.delay(0)))
		f.log.Info("a feed has missed a time; history is completed from the archive", "feed", g.Feed, "collector", g.Collector, "from", g.From, "until", g.Until)
	}
	if err := f.store.SaveGap(context.Background(), &g); err != nil {
		f.log.Error("a gap could not be recorded; it is tried again", "collector", g.Collector, "error", err)
		f.unsaved = append(f.unsaved, g)
		return true
	}
	f.ended[g.ID] = true
	f.show(g)
	f.poke()
	return true
}

func (f *Filler) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// show makes g one of the recent gaps of its feed, in place of what it was before.
func (f *Filler) show(g ingest.Gap) {
	list := f.recent[g.Feed]
	if i := slices.IndexFunc(list, func(o ingest.Gap) bool { return o.ID == g.ID }); i >= 0 {
		list[i] = g
		return
	}
	f.recent[g.Feed] = slices.Insert(list[:min(len(list), recentGaps-1)], 0, g)
}

// Gaps are the gaps of a feed that are open and the last that have ended, newest first.
func (f *Filler) Gaps(feed string) []ingest.Gap {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []ingest.Gap
	if s := f.sources[feed]; s != nil {
		connection, down := s.Connection(), s.Status().State == ingest.Connecting
		for name, c := range f.collectors {
			from := max(c.newest, c.covered).Time()
			if c.feed == feed && (down || c.connection != connection) && f.now().Sub(from) >= f.c.Threshold {
				list = append(list, ingest.Gap{Collector: name, From: from, State: ingest.GapOpen})
			}
		}
	}
	slices.SortFunc(list, func(a, b ingest.Gap) int {
		return cmp.Or(b.From.Compare(a.From), cmp.Compare(a.Collector, b.Collector))
	})
	return append(list, f.recent[feed]...)
}

// delay is how long to wait after so many attempts.
func (f *Filler) delay(attempts int) time.Duration {
	d := f.c.Interval << min(attempts, maxDoublings)
	return d/2 + rand.N(d/2+1)
}

// period is what of the archive a gap is about: also the seconds at its ends that were heard in part.
func period(g *ingest.Gap) (from, to time.Time) {
	return g.From.Truncate(time.Second), g.Until.Truncate(time.Second).Add(time.Second)
}

func endOf(g *ingest.Gap) ingest.Time {
	_, to := period(g)
	return ingest.TimeOf(to)
}

// Run fills gaps until ctx ends. What is wrong with one is kept in it and tried again; Run does not fail.
func (f *Filler) Run(ctx context.Context) error {
	defer f.saveHeard(context.WithoutCancel(ctx))
	save := time.NewTicker(saveEvery)
	defer save.Stop()
	for {
		next := f.fillDue(ctx)
		timer := time.NewTimer(next)
		select {
		case <-f.wake:
		case <-timer.C:
		case <-save.C:
			f.saveHeard(ctx)
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		timer.Stop()
	}
}

// fillDue tries the gaps whose time has come and returns how long there is nothing to do.
func (f *Filler) fillDue(ctx context.Context) time.Duration {
	wait := time.Hour
	if !f.saveUnsaved(ctx) {
		wait = unsavedEvery
	}
	gaps, err := f.store.Gaps(ctx, ingest.GapWaiting, 1<<20)
	if err != nil {
		if ctx.Err() == nil {
			f.log.Error("gaps cannot be read; it is tried again", "error", err)
		}
		return unsavedEvery
	}
	waiting := len(gaps)
	for _, g := range slices.Backward(gaps) { // the oldest first
		f.waiting.Set(float64(waiting))
		if g.NextAttempt.After(f.now()) {
			wait = min(wait, g.NextAttempt.Sub(f.now()))
			continue
		}
		f.fill(ctx, &g)
		if ctx.Err() != nil {
			return 0
		}
		if g.State == ingest.GapWaiting {
			wait = min(wait, max(0, g.NextAttempt.Sub(f.now())))
		} else {
			waiting--
		}
	}
	f.waiting.Set(float64(waiting))
	if waiting == 0 {
		os.RemoveAll(f.archive.Directory) // what is left of downloads that were cut off
	}
	return wait
}

// fill makes one attempt at a gap and stores what came of it.
func (f *Filler) fill(ctx context.Context, g *ingest.Gap) {
	giveUp := g.Until.Add(f.c.MaxAge)
	last := !f.now().Before(giveUp)
	err := f.attempt(ctx, g, last)
	if ctx.Err() != nil {
		return // what was added is stored with how far it came
	}
	g.NextAttempt = time.Time{}
	if !local(err) {
		g.Attempts++
	}
	var passed *damage
	switch {
	case err == nil, errors.As(err, &passed):
		g.State, g.Error = ingest.GapDone, ""
		if err != nil {
			g.Error = err.Error()
		}
		f.gaps.WithLabelValues("done").Inc()
		f.log.Info("history has been completed from the archive", "collector", g.Collector, "from", g.From, "until", g.Until, "updates", g.Updates)
	case last && !local(err):
		g.State, g.Error = ingest.GapFailed, fmt.Sprintf("given up after %v: %v", f.c.MaxAge, err)
		f.gaps.WithLabelValues("failed").Inc()
		f.log.Error("history has a gap that the archive did not fill; it is given up", "collector", g.Collector, "from", g.From, "until", g.Until,
			"updates", g.Updates, "error", err)
	default:
		g.Error, g.NextAttempt = err.Error(), f.now().Add(f.delay(g.Attempts))
		if !last && g.NextAttempt.After(giveUp) {
			g.NextAttempt = giveUp
		}
		f.log.Info("a gap cannot be filled yet", "collector", g.Collector, "from", g.From, "until", g.Until, "again", g.NextAttempt, "error", err)
	}
	if err := f.store.SaveGap(ctx, g); err != nil && ctx.Err() == nil {
		f.log.Error("what came of a gap could not be stored; it is tried again", "collector", g.Collector, "error", err)
		g.State, g.NextAttempt = ingest.GapWaiting, f.now().Add(unsavedEvery)
	}
	f.mu.Lock()
	f.show(*g)
	if g.State != ingest.GapWaiting {
		delete(f.ended, g.ID)
	}
	f.mu.Unlock()
}

// saveUnsaved offers gaps again that the store refused, and reports whether none is left.
func (f *Filler) saveUnsaved(ctx context.Context) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.unsaved) > 0 {
		g := f.unsaved[0]
		if f.store.SaveGap(ctx, &g) != nil {
			return false
		}
		f.unsaved = f.unsaved[1:]
		f.ended[g.ID] = true
		f.show(g)
	}
	return true
}

// saveHeard notes in the store which collectors were heard, so that the next start need not look far for
// when each was heard last. What is on the bus is not in the history yet: hence the margin.
func (f *Filler) saveHeard(ctx context.Context) {
	f.mu.Lock()
	var list []store.Heard
	for name, c := range f.collectors {
		if c.changed {
			list = append(list, store.Heard{Collector: name, Feed: c.feed, Time: c.newest.Time().Add(-saveMargin)})
			c.changed = false
		}
	}
	f.mu.Unlock()
	if len(list) == 0 {
		return
	}
	if err := f.store.SaveHeard(ctx, list); err != nil && ctx.Err() == nil {
		f.log.Warn("what was heard could not be noted; it is tried again", "error", err)
		f.mu.Lock()
		for _, h := range list {
			f.collectors[h.Collector].changed = true
		}
		f.mu.Unlock()
	}
}
