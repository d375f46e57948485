package openbmp

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/ingest"
)

// metrics are of the cluster as a whole: a series for each of thousands of topics would help nobody.
type metrics struct{ s *Source }

var (
	descMessages   = prometheus.NewDesc("routevigil_openbmp_messages_total", "Messages received.", nil, nil)
	descUpdates    = prometheus.NewDesc("routevigil_openbmp_updates_total", "Updates handed on.", nil, nil)
	descMalformed  = prometheus.NewDesc("routevigil_openbmp_malformed_total", "Messages, and batches of them, that were wrong, wholly or in part.", []string{"reason"}, nil)
	descSkipped    = prometheus.NewDesc("routevigil_openbmp_skipped_total", "What was in order but not made use of.", []string{"what"}, nil)
	descReconnects = prometheus.NewDesc("routevigil_openbmp_reconnects_total", "Connections that ended, and attempts that failed.", nil, nil)
	descReset      = prometheus.NewDesc("routevigil_openbmp_offsets_out_of_range_total", "Times that a partition had nothing at the offset where reading was.", nil, nil)
	descPeers      = prometheus.NewDesc("routevigil_openbmp_peers", "BGP peers that were heard of and not told to be down.", nil, nil)
	descRouters    = prometheus.NewDesc("routevigil_openbmp_routers", "Routers that were heard of.", nil, nil)
	descPartitions = prometheus.NewDesc("routevigil_openbmp_partitions", "Partitions that are read.", nil, nil)
	descBrokers    = prometheus.NewDesc("routevigil_openbmp_brokers", "Brokers that are connected to, to read.", nil, nil)
	descBehind     = prometheus.NewDesc("routevigil_openbmp_behind_messages", "Messages that the cluster has and that are not read yet, in all partitions, as of their last answers.", nil, nil)
	descLag        = prometheus.NewDesc("routevigil_openbmp_lag_seconds", "Receipt minus stamp of the last message.", nil, nil)
	descConnected  = prometheus.NewDesc("routevigil_openbmp_connected", "1 while connected, also when stalled or lagging.", nil, nil)
)

func (m metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descMessages, descUpdates, descMalformed, descSkipped, descReconnects, descReset, descPeers,
		descRouters, descPartitions, descBrokers, descBehind, descLag, descConnected} {
		ch <- d
	}
}

func (m metrics) Collect(ch chan<- prometheus.Metric) {
	st := m.s.Status()
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	counter(descMessages, st.Messages)
	counter(descUpdates, st.Updates)
	counter(descReconnects, st.Reconnects)
	for reason, n := range st.Malformed {
		counter(descMalformed, n, reason)
	}
	gauge(descPeers, float64(st.Peers))
	gauge(descLag, st.LagSeconds)
	connected := 1.0
	if st.State == ingest.Connecting {
		connected = 0
	}
	gauge(descConnected, connected)

	skipped := map[string]uint64{"object_type": m.s.tables.Load()}
	m.s.mu.Lock()
	var streams []*stream
	for _, x := range m.s.streams {
		streams = append(streams, x)
	}
	behind := int64(0)
	for _, p := range m.s.partitions {
		if next := p.next.Load(); next >= 0 {
			behind += max(0, p.high.Load()-next)
		}
	}
	partitions, brokers, reset := len(m.s.partitions), m.s.up, m.s.reset
	m.s.mu.Unlock()
	for _, x := range streams {
		x.mu.Lock()
		for what, n := range x.session.Counts().Skipped {
			skipped[what] += n
		}
		x.mu.Unlock()
	}
	for what, n := range skipped {
		counter(descSkipped, n, what)
	}
	gauge(descRouters, float64(len(streams)))
	gauge(descPartitions, float64(partitions))
	gauge(descBrokers, float64(brokers))
	gauge(descBehind, float64(behind))
	counter(descReset, reset)
}
