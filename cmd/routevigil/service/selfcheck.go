package service

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/ingest"
)

// How the service measures itself.
const (
	canaryEvery = time.Second
	canaryLate  = 5 * time.Second // from here on people are told

	// beaconPatience is how long after its due time a change of a beacon still counts as that change. What comes later is
	// a router that came back, or a path that others left.
	beaconPatience = 10 * time.Minute
	maxBeacons     = 4096 // pairs of a collector and a beacon that are measured
)

// selfCheck measures how long it takes until an update is judged: inside the process by a canary, a mark that goes
// through the bus like an update and is neither recorded nor judged, and from the router on by the beacons of RIPE RIS,
// which are announced and withdrawn at known minutes. All that it keeps is its own: verdicts do not depend on it.
type selfCheck struct {
	canary        prometheus.Histogram
	heard, judge  *prometheus.HistogramVec
	beaconsJudged map[beaconOf]time.Time // when each was due that was measured last; of the pipeline's goroutine

	mu    sync.Mutex
	sent  time.Time // of the canary that is on its way; zero where there is none
	delay time.Duration
}

type beaconOf struct {
	collector string
	prefix    netip.Prefix
	announced bool
}

func newSelfCheck(r prometheus.Registerer) *selfCheck {
	beacon := func(name, help string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "routevigil_self_check_beacon_" + name + "_seconds", Help: help,
			Buckets: []float64{1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 180, 300, 600}}, []string{"collector"})
	}
	s := &selfCheck{
		canary: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "routevigil_self_check_canary_seconds",
			Help: "Time that a mark of the self-check took from the bus through all updates before it.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18)}),
		heard: beacon("heard", "Time from when a beacon of RIPE RIS was due to be announced or withdrawn until a peer of the collector said so, by the feed's time; the first of each."),
		judge: beacon("judged", "Time from when a beacon of RIPE RIS was due to be announced or withdrawn until that was judged here; the first of each collector."),

		beaconsJudged: map[beaconOf]time.Time{},
	}
	r.MustRegister(s.canary, s.heard, s.judge, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "routevigil_self_check_canary_late",
		Help: "1 while updates wait for more than 5 seconds before they are judged, else 0."}, func() float64 {
		if s.trouble(time.Now()) != "" {
			return 1
		}
		return 0
	}))
	return s
}

// run puts a canary into the stream every second, unless one is still on its way, until ctx ends.
func (s *selfCheck) run(ctx context.Context, put func(time.Time)) error {
	tick := time.NewTicker(canaryEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			s.send(now, put)
		}
	}
}

func (s *selfCheck) send(now time.Time, put func(time.Time)) {
	s.mu.Lock()
	waiting := !s.sent.IsZero()
	if !waiting {
		s.sent = now
	}
	s.mu.Unlock()
	if !waiting {
		put(now)
	}
}

// judged takes note of a batch of which the updates have been judged at now.
func (s *selfCheck) judged(b *ingest.Batch, now time.Time) {
	if s == nil {
		return
	}
	if !b.Canary.IsZero() {
		d := now.Sub(b.Canary)
		s.canary.Observe(d.Seconds())
		s.mu.Lock()
		s.sent, s.delay = time.Time{}, d
		s.mu.Unlock()
	}
	for i := range b.Updates {
		u := &b.Updates[i]
		if u.Kind != ingest.Routes {
			continue
		}
		for _, n := range u.Withdrawn {
			s.beacon(u, n.Prefix, false, now)
		}
		for _, n := range u.Announced {
			s.beacon(u, n.Prefix, true, now)
		}
	}
}

func (s *selfCheck) beacon(u *ingest.Update, p netip.Prefix, announced bool, now time.Time) {
	due, ok := registry.BeaconDue(p, announced, u.Time.Time())
	if !ok || u.Time.Time().Sub(due) > beaconPatience {
		return
	}
	key := beaconOf{u.Peer.Collector, p, announced}
	last, known := s.beaconsJudged[key]
	if !due.After(last) || !known && len(s.beaconsJudged) >= maxBeacons {
		return
	}
	s.beaconsJudged[key] = due
	s.heard.WithLabelValues(u.Peer.Collector).Observe(u.Time.Time().Sub(due).Seconds())
	s.judge.WithLabelValues(u.Peer.Collector).Observe(now.Sub(due).Seconds())
}

// late returns how long the last canary took, or how long it has been on its way where that is more; 0 before the first.
func (s *selfCheck) late(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sent.IsZero() {
		return s.delay
	}
	return max(s.delay, now.Sub(s.sent))
}

// trouble says that updates wait too long; nothing where they do not.
func (s *selfCheck) trouble(now time.Time) string {
	d := s.late(now)
	if d < canaryLate {
		return ""
	}
	return fmt.Sprintf("Updates wait for %s before they are judged: this machine, or its disk, does not keep up with the feeds.", d.Round(time.Second))
}
