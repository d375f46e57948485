package service

import "github.com/prometheus/client_golang/prometheus"

// engineCollector shows the detector's size, as of its last batch.
type engineCollector struct {
	status                                         func() pipelineStatus
	clock, peers, prefixes, routes, paths, refused *prometheus.Desc
}

func newEngineCollector(status func() pipelineStatus) *engineCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("routevigil_detect_"+name, help, nil, nil)
	}
	return &engineCollector{status: status,
		clock:    desc("event_time_seconds", "Event time that detection has reached, in seconds since the Unix epoch."),
		peers:    desc("peers", "Sources of routes that have been heard."),
		prefixes: desc("prefixes", "Prefixes that somebody announces."),
		routes:   desc("routes", "Routes in the table."),
		paths:    desc("path_nodes", "Nodes of the path tree."),
		refused:  desc("refused_total", "Updates and announcements refused because the table was full."),
	}
}

func (c *engineCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *engineCollector) Collect(ch chan<- prometheus.Metric) {
	st := c.status()
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	gauge(c.clock, float64(st.Clock)/1e6)
	gauge(c.peers, float64(st.Stats.Peers))
	gauge(c.prefixes, float64(st.Stats.Prefixes))
	gauge(c.routes, float64(st.Stats.Routes))
	gauge(c.paths, float64(st.Stats.Paths))
	ch <- prometheus.MustNewConstMetric(c.refused, prometheus.CounterValue, float64(st.Stats.Refused))
}
