// Package service is the whole of routevigil in one process: feeds, detection, the embedded store,
// alerts and the HTTP server, wired together and kept alive until told to stop.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/routevigil/routevigil/alert"
	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/api/web"
	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/archive"
	"github.com/routevigil/routevigil/ingest/bgpsession"
	"github.com/routevigil/routevigil/ingest/bmp"
	"github.com/routevigil/routevigil/ingest/bus"
	"github.com/routevigil/routevigil/ingest/rislive"
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
	store    *embedded.Store
	bus      *bus.Bus
	sources  []ingest.Source
	pipeline *pipeline
	vrps     *liveVRPs // nil when the VRPs come from a file, or not at all
	notifier *alert.Notifier
	server   *api.Server

	knowledge detect.Knowledge // as of the start
}

// New opens the store, reads the knowledge files and binds the listening address; c must be valid.
// Close must be called unless an error is returned.
func New(c config.Config, mode api.Mode, version string, log *slog.Logger) (_ *Service, err error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	knowledge, err := c.Knowledge.Load()
	if err != nil {
		return nil, err
	}
	receivers, err := alert.Receivers(c.Alert, version)
	if err != nil {
		return nil, err
	}
	s := &Service{config: c, mode: mode, log: log, knowledge: knowledge}
	if s.vrps, err = newLiveVRPs(c.Knowledge, log.With("component", "rtr"), registry); err != nil {
		return nil, err
	}
	if s.store, err = embedded.Open(c.Store, log.With("component", "store"), registry); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.store.Close()
		}
	}()
	s.bus = bus.New(c.Ingest.Bus, registry)
	if c.Ingest.RISLive.Enabled {
		for _, x := range rislive.New(c.Ingest.RISLive, log.With("component", "ris_live"), registry) {
			s.sources = append(s.sources, x)
		}
	}
	if c.Ingest.BMP.Enabled() {
		s.sources = append(s.sources, bmp.New(c.Ingest.BMP, log.With("component", "bmp"), registry))
	}
	if len(c.Ingest.BGP.Listen) > 0 {
		sessions := bgpsession.New(c.Ingest.BGP, log.With("component", "bgp"), registry)
		if err = sessions.Listen(); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				sessions.Close()
			}
		}()
		s.sources = append(s.sources, sessions)
	}
	if len(s.sources) == 0 {
		return nil, errors.New("there is no feed: enable ingest.ris_live, or set ingest.bmp.listen, ingest.bmp.connect or ingest.bgp.listen")
	}
	s.pipeline = &pipeline{
		bus: s.bus, store: s.store, router: alert.NewRouter(receivers), log: log.With("component", "detect"),
		metrics: newPipelineMetrics(registry), every: checkpointEvery, questions: make(chan func(*detect.Engine)),
	}
	s.pipeline.newEngine = func() *detect.Engine { return detect.New(c.Detect, s.knowledge, s.pipeline.collect) }
	s.pipeline.engine = s.pipeline.newEngine()
	s.pipeline.publishStatus(true)
	registry.MustRegister(newEngineCollector(s.pipeline.Status))
	s.notifier = alert.NewNotifier(receivers, s.store, registry, log.With("component", "alert"))
	s.server = api.New(c.API, api.Dependencies{
		Store: s.store, Table: s.pipeline, Feeds: s.feeds, Health: s.health, Web: web.Handler(), Version: version,
		Registerer: registry, Gatherer: registry, Logger: log.With("component", "api"),
	})
	if err = s.server.Listen(); err != nil {
		return nil, err
	}
	return s, nil
}

// Addr is where the HTTP server listens.
func (s *Service) Addr() net.Addr { return s.server.Addr() }

// Close closes the store. Run must have returned.
func (s *Service) Close() error { return s.store.Close() }

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
			s.knowledge.VRPs = set
			s.pipeline.engine.SetVRPs(set)
		}
	}
	err := s.pipeline.recover(ctx, s.loadBaseline)
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
	for _, source := range s.sources {
		feeds.run("feed "+source.Status().Name, func() error { return source.Run(ctx, s.bus.Publish) })
	}
	if s.vrps != nil {
		feeds.run("VRPs", func() error {
			return s.vrps.follow(ctx, func(set *rpki.Set) {
				select {
				case s.pipeline.questions <- func(e *detect.Engine) { e.SetVRPs(set) }:
				case <-ctx.Done():
				}
			})
		})
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

// loadBaseline reads the table dumps that say what is normal. Without any, the engine learns from
// the feed for its warm-up.
func (s *Service) loadBaseline() error {
	if len(s.config.Ingest.Baseline) == 0 {
		return nil
	}
	start := time.Now()
	r, err := archive.Open(s.config.Ingest.Baseline, archive.Options{
		Report: func(err error) { s.log.Warn("baseline: passed over", "error", err) },
	})
	if err != nil {
		return fmt.Errorf("baseline: %w", err)
	}
	defer r.Close()
	if err := LoadBaseline(s.pipeline.engine, r, 0); err != nil {
		return fmt.Errorf("baseline: %w", err)
	}
	st := s.pipeline.engine.Stats()
	s.log.Info("baseline loaded", "prefixes", st.Prefixes, "routes", st.Routes, "peers", st.Peers, "took", time.Since(start).Round(time.Millisecond))
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

func (s *Service) feeds() []ingest.Status {
	st := make([]ingest.Status, len(s.sources))
	for i, source := range s.sources {
		st[i] = source.Status()
	}
	return st
}

// health says in plain sentences what a person should know.
func (s *Service) health() api.Health {
	st := s.pipeline.Status()
	h := api.Health{Mode: s.mode}
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
	h.Ready = fresh && !blocked
	return h
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
