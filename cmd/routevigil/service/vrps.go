package service

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/refresh"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/rpki/rtr"
)

// liveVRPs brings the sets of the RTR caches, with the operator's exceptions, to the engine.
type liveVRPs struct {
	client     *rtr.Client
	exceptions []rpki.Exceptions
	log        *slog.Logger
	newest     chan *rpki.Set // of one place: what the client published last and nobody has taken
}

// newLiveVRPs returns nil where no caches are configured.
func newLiveVRPs(k detect.KnowledgeFiles, log *slog.Logger, registry prometheus.Registerer) (*liveVRPs, error) {
	if len(k.RTR.Caches) == 0 {
		return nil, nil
	}
	caches, err := k.RTR.Resolve()
	if err != nil {
		return nil, err
	}
	l := &liveVRPs{log: log, newest: make(chan *rpki.Set, 1)}
	for _, file := range k.SLURM {
		x, err := rpki.ReadExceptions(file)
		if err != nil {
			return nil, err
		}
		l.exceptions = append(l.exceptions, x)
	}
	l.client = rtr.New(caches, l.publish, log)
	registry.MustRegister(newRTRCollector(l.client.Status))
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
		return l.except(s)
	case <-time.After(firstVRPs):
		l.log.Warn("no RTR cache has answered yet: origin validation is unavailable until one does", "last_error", l.client.Status().LastError)
	case <-ctx.Done():
	}
	return nil
}

// follow gives every later set to use until ctx ends.
func (l *liveVRPs) follow(ctx context.Context, use func(*rpki.Set)) error {
	for {
		select {
		case s := <-l.newest:
			use(l.except(s))
		case <-ctx.Done():
			return nil
		}
	}
}

func (l *liveVRPs) except(s *rpki.Set) *rpki.Set {
	if s == nil {
		return nil
	}
	for _, x := range l.exceptions {
		changed, err := x.Apply(s, s.Source()+" with SLURM")
		if err != nil { // the exceptions add more than a set may hold
			l.log.Error("local exceptions to the RPKI are left out", "error", err)
			return s
		}
		s = changed
	}
	return s
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
	if st.LastErrorAt.After(st.Updated) {
		out.LastError = st.LastError
	}
	return out
}

// rtrCollector shows how the RTR client is doing.
type rtrCollector struct {
	status                                          func() rtr.Status
	vrps, aspas, serial, updated, expires, failures *prometheus.Desc
}

func newRTRCollector(status func() rtr.Status) *rtrCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("routevigil_rtr_"+name, help, nil, nil)
	}
	return &rtrCollector{status: status,
		vrps:     desc("vrps", "VRPs of the RTR caches in use, before local exceptions; 0 when they have expired."),
		aspas:    desc("aspas", "ASPAs of the RTR caches in use, before local exceptions."),
		serial:   desc("serial", "Serial of the data in use."),
		updated:  desc("updated_time_seconds", "When a cache last confirmed the data in use, in seconds since the Unix epoch; 0 when there is none."),
		expires:  desc("expires_time_seconds", "When the data in use expires, in seconds since the Unix epoch; 0 when there is none."),
		failures: desc("failures_total", "Sessions with RTR caches that ended in an error."),
	}
}

func (c *rtrCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *rtrCollector) Collect(ch chan<- prometheus.Metric) {
	st := c.status()
	seconds := func(t time.Time) float64 {
		if t.IsZero() {
			return 0
		}
		return float64(t.UnixMilli()) / 1e3
	}
	for d, v := range map[*prometheus.Desc]float64{c.vrps: float64(st.VRPs), c.aspas: float64(st.ASPAs), c.serial: float64(st.Serial),
		c.updated: seconds(st.Updated), c.expires: seconds(st.Expires)} {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	ch <- prometheus.MustNewConstMetric(c.failures, prometheus.CounterValue, float64(st.Failures))
}
