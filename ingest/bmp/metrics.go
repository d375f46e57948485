package bmp

import "github.com/prometheus/client_golang/prometheus"

// metrics are by router, of those that have a session: a router that connects again starts anew, which
// is what Prometheus expects of counters, and there are never more than there may be sessions.
type metrics struct{ s *Station }

var (
	byRouter       = []string{"router"}
	descSessions   = prometheus.NewDesc("routevigil_bmp_sessions", "Sessions with the router.", byRouter, nil)
	descPeers      = prometheus.NewDesc("routevigil_bmp_peers", "BGP peers of the router that are up.", byRouter, nil)
	descMessages   = prometheus.NewDesc("routevigil_bmp_messages_total", "Messages received in this session, by type.", []string{"router", "type"}, nil)
	descUpdates    = prometheus.NewDesc("routevigil_bmp_updates_total", "Updates handed on in this session.", byRouter, nil)
	descSuperseded = prometheus.NewDesc("routevigil_bmp_superseded_total", "Updates passed over because their peer came up in a later session.", byRouter, nil)
	descMalformed  = prometheus.NewDesc("routevigil_bmp_malformed_total", "Messages of this session that were wrong, wholly or in part.", []string{"router", "reason"}, nil)
	descSkipped    = prometheus.NewDesc("routevigil_bmp_skipped_total", "What was in order but not made use of in this session.", []string{"router", "what"}, nil)
	descRefused    = prometheus.NewDesc("routevigil_bmp_refused_total", "Connections refused.", []string{"reason"}, nil)
	descEnded      = prometheus.NewDesc("routevigil_bmp_sessions_ended_total", "Sessions that ended.", nil, nil)
)

func (m metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descSessions, descPeers, descMessages, descUpdates, descSuperseded, descMalformed, descSkipped, descRefused, descEnded} {
		ch <- d
	}
}

func (m metrics) Collect(ch chan<- prometheus.Metric) {
	type router struct {
		totals
		sessions int
	}
	routers := map[string]*router{}
	m.s.mu.Lock()
	for x := range m.s.sessions {
		r := routers[x.router]
		if r == nil {
			r = &router{}
			routers[x.router] = r
		}
		r.sessions++
		r.add(x)
	}
	for reason, n := range m.s.refused {
		ch <- prometheus.MustNewConstMetric(descRefused, prometheus.CounterValue, float64(n), reason)
	}
	ch <- prometheus.MustNewConstMetric(descEnded, prometheus.CounterValue, float64(m.s.status.Reconnects))
	m.s.mu.Unlock()
	for name, r := range routers {
		gauge := func(d *prometheus.Desc, v int) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), name)
		}
		counter := func(d *prometheus.Desc, v uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{name}, labels...)...)
		}
		gauge(descSessions, r.sessions)
		gauge(descPeers, r.peers)
		counter(descUpdates, r.told.updates)
		counter(descSuperseded, r.told.superseded)
		for t, n := range r.byType {
			counter(descMessages, n, Type(t).String())
		}
		for reason, n := range r.malformed {
			counter(descMalformed, n, reason)
		}
		for what, n := range r.skipped {
			counter(descSkipped, n, what)
		}
	}
}
