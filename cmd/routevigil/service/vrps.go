package service

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/refresh"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/rpki/rtr"
)

// liveVRPs brings the sets of the RTR caches to use.
type liveVRPs struct {
	client *rtr.Client
	log    *slog.Logger
	newest chan *rpki.Set // of one place: what the client published last and nobody has taken

	used     *rpki.Set                    // the last set that was given to use
	heldBack func(from string, why error) // is told when sets begin to be held back

	mu   sync.Mutex
	held error // why the newest set is not in use; nil when it is
}

// holdBack is how long a set that lost suspiciously much must stay so before it is believed. Validators
// fetch again within minutes, and a cache's data is good for two hours by default.
const holdBack = time.Hour

// newLiveVRPs returns nil where no caches are configured.
func newLiveVRPs(k detect.KnowledgeFiles, log *slog.Logger, registry prometheus.Registerer) (*liveVRPs, error) {
	if len(k.RTR.Caches) == 0 {
		return nil, nil
	}
	caches, err := k.RTR.Resolve()
	if err != nil {
		return nil, err
	}
	l := &liveVRPs{log: log, newest: make(chan *rpki.Set, 1), heldBack: func(string, error) {}}
	l.client = rtr.New(caches, l.publish, log)
	registry.MustRegister(newRTRCollector(l))
	return l, nil
}

// publish is called for one set after another; a newer one takes the place of what was not taken yet.
func (l *liveVRPs) publish(s *rpki.Set) {
	select {
	case <-l.newest:
	default:
	}
	l.newest <- s
}

// run talks to the caches until ctx ends.
func (l *liveVRPs) run(ctx context.Context) error {
	if err := l.client.Run(ctx); ctx.Err() == nil {
		return err
	}
	return nil
}

// firstVRPs is how long the start waits for the caches. What is judged before they have answered is
// judged without the RPKI.
const firstVRPs = 30 * time.Second

// first waits for the first set, and returns nil when none comes in time.
func (l *liveVRPs) first(ctx context.Context) *rpki.Set {
	select {
	case s := <-l.newest:
		l.used = s
		return s
	case <-time.After(firstVRPs):
		l.log.Warn("no RTR cache has answered yet: origin validation is unavailable until one does", "last_error", l.client.Status().LastError)
	case <-ctx.Done():
	}
	return nil
}

// follow gives every later set to use until ctx ends. One that lost more than [rpki.DefaultLimits]
// allow is held back.
func (l *liveVRPs) follow(ctx context.Context, use func(*rpki.Set)) error {
	var waiting *rpki.Set        // the newest set, held back
	var believe <-chan time.Time // when it is believed all the same
	for {
		s := waiting
		select {
		case s = <-l.newest:
			if err := l.suspicion(s); err != nil {
				if waiting == nil {
					believe = time.After(holdBack)
					l.heldBack(s.Source(), err)
				}
				waiting = s
				continue
			}
		case <-believe:
			l.log.Warn("the RTR caches still say so: the smaller set is used now", "source", s.Source())
			l.hold(nil)
		case <-ctx.Done():
			return nil
		}
		waiting, believe, l.used = nil, nil, s
		use(s)
	}
}

// suspicion notes and returns why s should be held back. That data has expired is no suspicion.
func (l *liveVRPs) suspicion(s *rpki.Set) (err error) {
	if s != nil {
		err = rpki.DefaultLimits().Check(l.used, s)
	}
	if err != nil {
		l.log.Error("what the RTR caches say is held back", "for", holdBack, "source", s.Source(), "error", err)
	}
	l.hold(err)
	return err
}

func (l *liveVRPs) hold(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = why
}

// trouble says in a sentence what a person should know, "" when all is well.
func (l *liveVRPs) trouble() string {
	l.mu.Lock()
	held := l.held
	l.mu.Unlock()
	switch {
	case held != nil:
		return fmt.Sprintf("The RPKI data in use is not the newest: %v.", held)
	case l.client.Set() != nil:
		return ""
	}
	if e := l.client.Status().LastError; e != "" {
		return "Origin validation is unavailable: there is no current data of an RTR cache; the last error was: " + e + "."
	}
	return "Origin validation is unavailable: there is no current data of an RTR cache."
}

// status says how fresh the VRPs of the caches are.
func (l *liveVRPs) status() refresh.Status {
	st := l.client.Status()
	out := refresh.Status{Name: "rtr", Location: cmp.Or(st.DataFrom, st.Cache), State: refresh.Missing, NextAttempt: st.NextAttempt}
	if st.DataFrom != "" {
		out.State, out.Entries, out.Serial = refresh.Fresh, st.VRPs, fmt.Sprintf("%d/%d", st.Session, st.Serial)
		out.AsOf, out.Checked = st.Updated, st.Updated
		out.AgeSeconds = max(0, time.Since(st.Updated).Seconds())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.held != nil:
		out.LastError = l.held.Error()
	case st.LastErrorAt.After(st.Updated):
		out.LastError = st.LastError
	}
	return out
}

// rtrCollector shows how the RTR client is doing.
type rtrCollector struct {
	of                                                    *liveVRPs
	vrps, aspas, serial, updated, expires, failures, held *prometheus.Desc
}

func newRTRCollector(of *liveVRPs) *rtrCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("routevigil_rtr_"+name, help, nil, nil)
	}
	return &rtrCollector{of: of,
		vrps:     desc("vrps", "VRPs of the RTR caches in use, before local exceptions; 0 when they have expired."),
		aspas:    desc("aspas", "ASPAs of the RTR caches in use, before local exceptions."),
		serial:   desc("serial", "Serial of the data in use."),
		updated:  desc("updated_time_seconds", "When a cache last confirmed the data in use, in seconds since the Unix epoch; 0 when there is none."),
		expires:  desc("expires_time_seconds", "When the data in use expires, in seconds since the Unix epoch; 0 when there is none."),
		failures: desc("failures_total", "Sessions with RTR caches that ended in an error."),
		held:     desc("held_back", "1 while the newest data is held back for having lost too much at once."),
	}
}

func (c *rtrCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *rtrCollector) Collect(ch chan<- prometheus.Metric) {
	st := c.of.client.Status()
	seconds := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return float64(t.UnixMilli()) / 1e3
	}
	held := 0.0
	c.of.mu.Lock()
	if c.of.held != nil {
		held = 1
	}
	c.of.mu.Unlock()
	for d, v := range map[*prometheus.Desc]float64{c.vrps: float64(st.VRPs), c.aspas: float64(st.ASPAs), c.serial: float64(st.Serial),
		c.updated: seconds(st.Updated), c.expires: seconds(st.Expires), c.held: held} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	ch <- prometheus.MustNewConstMetric(c.failures, prometheus.CounterValue, float64(st.Failures))
}
