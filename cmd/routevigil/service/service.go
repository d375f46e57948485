// Package service is the whole of routevigil in one process: feeds, detection, the store,
// alerts and the HTTP server, wired together and kept alive until told to stop.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/routevigil/routevigil/alert"
	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/api/web"
	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/refresh"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/archive"
	"github.com/routevigil/routevigil/ingest/bgpsession"
	"github.com/routevigil/routevigil/ingest/bmp"
	"github.com/routevigil/routevigil/ingest/bus"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
	"github.com/routevigil/routevigil/ingest/openbmp"
	"github.com/routevigil/routevigil/ingest/openbmp/publish"
	"github.com/routevigil/routevigil/ingest/rislive"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/backfill"
	"github.com/routevigil/routevigil/store/clickhouse"
	"github.com/routevigil/routevigil/store/embedded"
)

// checkpointEvery is how often the detector's state is saved: it bounds how much history a restart
// after a crash has to go through again.
const checkpointEvery = 2 * time.Minute

// Service is the running whole. New opens what must be there, Run works until its context ends.
type Service struct {
	config   config.Config
	mode     api.Mode
	log      *slog.Logger
	store    store.Store
	bus      *bus.Bus
	sources  []ingest.Source
	keeper   *keeper
	filler   *backfill.Filler // nil where gaps are not filled
	pipeline *pipeline
	check    *selfCheck
	vrps     *liveVRPs // nil when the VRPs come from a file, or not at all
	notifier *alert.Notifier
	server   *api.Server

	publisher *publish.Publisher // nil where kafka.openbmp names no topic
	kafka     *kafkabus.Cluster  // likewise
}

// New opens the store, reads the knowledge files and binds the listening address; c must be valid.
// Close must be called unless an error is returned.
func New(c config.Config, mode api.Mode, version string, log *slog.Logger) (_ *Service, err error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	receivers, err := alert.Receivers(c.Alert, version)
	if err != nil {
		return nil, err
	}
	s := &Service{config: c, mode: mode, log: log}
	if s.vrps, err = newLiveVRPs(c.Knowledge, log.With("component", "rtr"), registry); err != nil {
		return nil, err
	}
	if s.store, err = newStore(c.Store, log.With("component", "store"), registry); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.store.Close()
		}
	}()
	s.keeper, err = newKeeper(c, "routevigil/"+version, log.With("component", "knowledge"), registry)
	defer func() {
		if err != nil {
			s.keeper.close()
		}
	}()
	if err != nil {
		return nil, err
	}
	if s.vrps != nil {
		s.vrps.heldBack = s.keeper.heldBack
	}
	registry.MustRegister(newSourceCollector(s.reference))
	s.bus = bus.New(c.Ingest.Bus, registry)
	s.filler = newFiller(c, version, s.store, log, registry)
	var onGap func(ingest.Gap)
	if s.filler != nil {
		onGap = s.filler.Missed
	}
	var unlisten func()
	if s.sources, unlisten, err = openSources(c, onGap, log, registry); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unlisten()
		}
	}()
	if c.Kafka.OpenBMP.Topic != "" {
		if s.kafka, err = kafkabus.Connect(c.Kafka, log.With("component", "kafka")); err != nil {
			return nil, err
		}
		s.publisher = newPublisher(c, s.kafka, log, registry)
	}
	s.check = newSelfCheck(registry)
	s.pipeline = &pipeline{
		check: s.check, bus: s.bus, store: s.store, router: alert.NewRouter(receivers), log: log.With("component", "detect"),
		metrics: newPipelineMetrics(registry), every: checkpointEvery,
		history:   historyFile{path: filepath.Join(c.Store.Directory, HistoryName), every: historyEvery},
		questions: make(chan func(*detect.Engine)),
		inferrer:  newInferrer(inferEvery, log.With("component", "detect")),
		past:      s.keeper.past,
		learner:   newLearner(filepath.Join(c.Store.Directory, learnName), s.store, c.Detect, s.keeper.knowledge, log.With("component", "detect"), registry),
	}
	s.pipeline.newEngine = func() *detect.Engine { return detect.New(c.Detect, s.keeper.knowledge(), s.pipeline.collect) }
	s.pipeline.engine = s.pipeline.newEngine()
	s.pipeline.publishStatus(true)
	registry.MustRegister(newEngineCollector(s.pipeline.Status))
	s.notifier = alert.NewNotifier(receivers, s.store, registry, log.With("component", "alert"))
	s.server = api.New(c.API, api.Dependencies{
		Store: s.store, Table: s.pipeline, Feeds: s.feedsWithGaps, Samples: s.samples, Sources: s.reference, RPKI: s.keeper.rpkiAt, RPKIChanges: s.keeper.rpkiChanges, Registries: s.keeper.registriesAt, Explain: s.pipeline.Explain, Watches: s.pipeline.Watches,
		Health: s.health, Web: web.Handler(), Version: version,
		Registerer: registry, Gatherer: registry, Logger: log.With("component", "api"),
	})
	if err = s.server.Listen(); err != nil {
		return nil, err
	}
	return s, nil
}

func newStore(c config.Store, log *slog.Logger, registry prometheus.Registerer) (store.Store, error) {
	if c.Kind == config.ClickHouse {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return clickhouse.Open(ctx, c.ClickHouse, c.Retention, log, registry)
	}
	return embedded.Open(c.Embedded(), log, registry)
}

// Addr is where the HTTP server listens.
func (s *Service) Addr() net.Addr { return s.server.Addr() }

// Close closes the store. Run must have returned.
func (s *Service) Close() error {
	s.pipeline.waitKept()
	s.keeper.close()
	return s.store.Close()
}

// Run works until ctx ends or a part fails for good. The HTTP server is up from the start, so that
// a long recovery can be watched. Stopping goes upstream first: the feeds, then what they left on the
// bus is recorded and judged, then the detector's state is saved, last the notifier and the server.
func (s *Service) Run(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	downstream, stopDownstream := context.WithCancel(context.WithoutCancel(ctx))
	defer stopDownstream()
	back := newGroup(fail)
	back.run("HTTP server", func() error { return s.server.Run(downstream) })

	reference := newGroup(fail)
	if s.vrps != nil {
		reference.run("RTR client", func() error { return s.vrps.run(ctx) })
		if set := s.vrps.first(ctx); set != nil {
			s.keeper.useRTR(set)
			s.pipeline.engine.Replace(s.keeper.knowledge())
		}
	}
	err := s.pipeline.recover(ctx, func() error { return loadBaseline(s.config.Ingest.Baseline, s.pipeline.engine, s.pipeline.log) })
	if err == nil {
		s.pipeline.publishStatus(false)
		back.run("notifier", func() error { return s.notifier.Run(downstream) })
		err = s.work(ctx, fail)
	} else if ctx.Err() != nil {
		err = nil // stopped during recovery: nothing is lost, it starts over next time
	}
	fail(nil) // what is left of the reference data's keepers, where recovery failed
	reference.wait()
	if cause := context.Cause(ctx); err == nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	stopDownstream()
	back.wait()
	return err
}

// work runs the feeds and the pipeline until ctx ends.
func (s *Service) work(ctx context.Context, fail func(error)) error {
	feeds := newGroup(fail)
	if s.filler != nil {
		if err := s.filler.Load(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("gaps of the feeds: %w", err)
		}
		feeds.run("back-fill", func() error { return s.filler.Run(ctx) })
	}
	feeds.run("knowledge", func() error { return s.keeper.run(ctx, s.pipeline.questions) })
	if s.publisher != nil {
		feeds.run("publishing OpenBMP", func() error {
			defer s.kafka.Close()
			return s.publisher.Run(ctx)
		})
	}
	feeds.run("self-check", func() error { return s.check.run(ctx, s.bus.Canary) })
	for _, source := range s.sources {
		handler := s.bus.Publish
		if live, ok := source.(backfill.Source); ok && s.filler != nil && s.config.Ingest.RISLive.Whole() {
			handler = s.filler.Watch(live, handler)
		}
		handler = published(s.publisher, source, handler)
		feeds.run("feed "+source.Status().Name, func() error { return source.Run(ctx, handler) })
	}
	if s.vrps != nil {
		feeds.run("VRPs", func() error { return s.vrps.follow(ctx, s.keeper.useRTR) })
	}
	drained := make(chan error, 1)
	draining, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	go func() {
		err := s.pipeline.run(draining, ctx.Done())
		if err != nil {
			fail(err)
		}
		drained <- err
	}()
	<-ctx.Done()
	s.bus.Close() // what waits to be published gives up, what is published is still processed
	feeds.wait()
	select {
	case err := <-drained:
		return err
	case <-time.After(shutdownGrace):
		giveUp()
		if err := <-drained; err != nil {
			return fmt.Errorf("what the feeds had sent could not all be stored within %s: %w", shutdownGrace, err)
		}
		return nil
	}
}

// openSources makes the feeds that are configured. onGap, which may be nil, is told of what OpenBMP's cluster no
// longer had. Unless the feeds are run, unlisten closes what they hold already.
func openSources(c config.Config, onGap func(ingest.Gap), log *slog.Logger, registry prometheus.Registerer) (sources []ingest.Source, unlisten func(), err error) {
	unlisten = func() {}
	if c.Ingest.RISLive.Enabled {
		for _, x := range rislive.New(c.Ingest.RISLive, log.With("component", "ris_live"), registry) {
			sources = append(sources, x)
		}
	}
	if c.Ingest.BMP.Enabled() {
		sources = append(sources, bmp.New(c.Ingest.BMP, log.With("component", "bmp"), registry))
	}
	if c.Ingest.OpenBMP.Enabled {
		source, err := openbmp.New(c.Ingest.OpenBMP, c.Store.Directory, log.With("component", "openbmp"), registry)
		if err != nil {
			return nil, nil, fmt.Errorf("ingest.openbmp: %w", err)
		}
		if onGap != nil {
			source.OnGap(onGap)
		}
		sources = append(sources, source)
	}
	if len(c.Ingest.BGP.Listen) > 0 {
		sessions := bgpsession.New(c.Ingest.BGP, log.With("component", "bgp"), registry)
		if err := sessions.Listen(); err != nil {
			return nil, nil, err
		}
		unlisten = sessions.Close
		sources = append(sources, sessions)
	}
	if len(sources) == 0 {
		return nil, nil, errors.New("there is no feed: enable ingest.ris_live or ingest.openbmp, or set ingest.bmp.listen, ingest.bmp.connect or ingest.bgp.listen")
	}
	return sources, unlisten, nil
}

// newFiller makes what fills gaps of RIS Live and OpenBMP, or nil where there are none to be filled.
func newFiller(c config.Config, version string, st store.Store, log *slog.Logger, registry prometheus.Registerer) *backfill.Filler {
	if !c.Ingest.Backfill.Enabled {
		return nil
	}
	if c.Ingest.RISLive.Enabled && !c.Ingest.RISLive.Whole() {
		log.Info("gaps of RIS Live are not filled from archives, because ingest.ris_live.subscriptions asks only for a part of what a collector hears")
	}
	if !c.Ingest.OpenBMP.Enabled && !(c.Ingest.RISLive.Enabled && c.Ingest.RISLive.Whole()) {
		return nil
	}
	files := c.Archive
	files.Directory = filepath.Join(c.Store.Directory, "backfill")
	return backfill.New(c.Ingest.Backfill, files, "routevigil/"+version, st, log.With("component", "backfill"), registry)
}

// loadBaseline reads the table dumps that say what is normal. Without any, the engine learns from
// the feed for its warm-up.
func loadBaseline(files []string, e *detect.Engine, log *slog.Logger) error {
	if len(files) == 0 {
		return nil
	}
	start := time.Now()
	r, err := archive.Open(files, archive.Options{
		Report: func(err error) { log.Warn("baseline: passed over", "error", err) },
	})
	if err != nil {
		return fmt.Errorf("baseline: %w", err)
	}
	defer r.Close()
	if err := LoadBaseline(e, r, 0); err != nil {
		return fmt.Errorf("baseline: %w", err)
	}
	st := e.Stats()
	log.Info("baseline loaded", "prefixes", st.Prefixes, "routes", st.Routes, "peers", st.Peers, "took", time.Since(start).Round(time.Millisecond))
	if !e.Infers() {
		return nil
	}
	start = time.Now()
	inf, err := InferRelationships(context.Background(), e)
	if err != nil {
		return fmt.Errorf("baseline: %w", err)
	}
	logInferred(log, inf, start)
	return nil
}

// LoadBaseline takes the table dumps in r as normal and, where until is not 0, updates before then,
// which bring the tables up to that time. If something was wrong and no route is left that is an
// error: everything would look new.
func LoadBaseline(e *detect.Engine, r *archive.Reader, until ingest.Time) error {
	err := e.LoadBaseline(func() (*ingest.Update, error) {
		for {
			u, err := r.Next()
			if err != nil || u.Kind == ingest.RIB || until == 0 || u.Time < until {
				return u, err
			}
		}
	})
	if err != nil {
		return err
	}
	if r.PassedOver() > 0 && e.Stats().Routes == 0 {
		return errors.New("no route could be read, and without a table everything would look new")
	}
	return nil
}

// reference says how fresh what verdicts are compared with is.
func (s *Service) reference() []refresh.Status {
	all := s.keeper.statuses()
	if s.vrps != nil {
		all = append(all, s.vrps.status())
	}
	return all
}

func (s *Service) feeds() []ingest.Status {
	st := make([]ingest.Status, len(s.sources))
	for i, source := range s.sources {
		st[i] = source.Status()
	}
	return st
}

// samples are the last malformed messages of a feed.
func (s *Service) samples(feed string) ([]ingest.Sample, bool) {
	for _, source := range s.sources {
		if source.Status().Name == feed {
			return source.Samples(), true
		}
	}
	return nil, false
}

// feedsWithGaps may wait for the disk, where feeds does not.
func (s *Service) feedsWithGaps() []ingest.Status {
	st := s.feeds()
	if s.filler != nil {
		for i := range st {
			st[i].Gaps = s.filler.Gaps(st[i].Name)
		}
	}
	return st
}

// health says in plain sentences what a person should know.
func (s *Service) health() api.Health {
	st := s.pipeline.Status()
	h := api.Health{Mode: s.mode, Delay: s.check.late(time.Now())}
	blocked := false
	because := func(format string, args ...any) {
		h.Reasons = append(h.Reasons, fmt.Sprintf(format, args...))
		blocked = true
	}
	if st.Recovering {
		because("The detector is being brought up to date from the store.")
	}
	if err := s.store.Health(); err != nil {
		because("Nothing can be stored: %v.", err)
	}
	if st.Learning {
		if st.LearnUntil == 0 {
			because("The detector is learning what is normal and has not heard anything yet.")
		} else {
			because("The detector is learning what is normal until %s; it raises nothing before.", st.LearnUntil.Time().Format("15:04:05 UTC"))
		}
	}
	if sentence := s.pipeline.learner.sentence(); sentence != "" {
		h.Reasons = append(h.Reasons, sentence)
	}
	if sentence := s.check.trouble(time.Now()); sentence != "" {
		h.Reasons = append(h.Reasons, sentence)
	}
	if s.vrps != nil {
		if sentence := s.vrps.trouble(); sentence != "" {
			h.Reasons = append(h.Reasons, sentence)
		}
	}
	fresh := false
	for _, f := range s.feeds() {
		if clock := st.Clock.Time(); f.LastEventTime.After(clock) { // not judged yet, or a false stamp
			f.LastEventTime = clock
		}
		if st.Clock > 0 && f.LastEventTime.After(h.EventTime) {
			h.EventTime = f.LastEventTime
		}
		if f.State == ingest.Connected {
			fresh = true
		} else {
			h.Reasons = append(h.Reasons, feedSentence(f))
		}
	}
	for _, st := range s.keeper.statuses() {
		if sentence := sourceSentence(st); sentence != "" {
			h.Reasons = append(h.Reasons, sentence)
		}
	}
	h.Ready = fresh && !blocked
	return h
}

// sourceSentence says what is wrong with a source; nothing where nothing is.
func sourceSentence(st refresh.Status) string {
	var sentence string
	switch st.State {
	case refresh.Missing:
		sentence = fmt.Sprintf("Nothing has been read of %s (%s) yet", st.Name, st.Location)
	case refresh.Stale:
		sentence = fmt.Sprintf("What is in use of %s (%s) could not be confirmed since %s", st.Name, st.Location, st.Checked.UTC().Format("2006-01-02 15:04 UTC"))
	default:
		return ""
	}
	if st.LastError != "" {
		sentence += "; the last error was: " + st.LastError
	}
	return sentence + "."
}

func feedSentence(f ingest.Status) string {
	switch f.State {
	case ingest.Stalled:
		return fmt.Sprintf("%s is connected but has sent nothing since %s.", f.Name, f.LastMessage.UTC().Format("15:04:05 UTC"))
	case ingest.Lagging:
		return fmt.Sprintf("%s is %.0f seconds behind.", f.Name, f.LagSeconds)
	case ingest.Done:
		return fmt.Sprintf("%s has been read to its end.", f.Name)
	}
	if f.Type == "bmp" {
		sentence := fmt.Sprintf("No router speaks to %s at %s", f.Name, f.Address)
		if f.LastError != "" {
			sentence += "; the last error was: " + f.LastError
		}
		return sentence + "."
	}
	sentence := fmt.Sprintf("%s is not connected to %s", f.Name, f.Address)
	if f.LastError != "" {
		sentence = fmt.Sprintf("%s cannot be reached: %s", f.Name, f.LastError)
	}
	if !f.NextAttempt.IsZero() {
		sentence += "; trying again at " + f.NextAttempt.UTC().Format("15:04:05 UTC")
	}
	return sentence + "."
}
