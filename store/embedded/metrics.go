package embedded

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	batches, updates, bytes prometheus.Counter
	events                  prometheus.Counter
	commits                 prometheus.Histogram
	groups                  prometheus.Histogram
	seals                   *prometheus.HistogramVec
	sealedRows              prometheus.Counter
	dropped                 prometheus.Counter
	errors                  *prometheus.CounterVec
	tailUpdates             prometheus.Gauge
	parts, partBytes        prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	name := func(n, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "routevigil", Subsystem: "store", Name: n, Help: help}
	}
	counter := func(n, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(name(n, help)))
	}
	gauge := func(n, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts(name(n, help)))
	}
	m := &metrics{
		batches: counter("batches_total", "Batches appended to the history."),
		updates: counter("updates_total", "Updates appended to the history."),
		bytes:   counter("appended_bytes_total", "Bytes of encoded batches appended to the history."),
		events:  counter("events_total", "Incident events stored."),
		commits: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "routevigil", Subsystem: "store", Name: "commit_seconds",
			Help: "Duration of database commits, from the first statement to the disk.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)}),
		groups: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "routevigil", Subsystem: "store", Name: "commit_writes",
			Help: "Writes that shared one commit.", Buckets: prometheus.ExponentialBuckets(1, 2, 9)}),
		seals: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "routevigil", Subsystem: "store", Name: "seal_seconds",
			Help: "Duration of making one part, by step: seal or merge.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 16)}, []string{"step"}),
		sealedRows: counter("sealed_rows_total", "Rows of history moved into parts."),
		dropped:    counter("retired_rows_total", "Rows of history dropped by retention."),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts(name("errors_total", "Failures, by what was being done.")),
			[]string{"operation"}),
		tailUpdates: gauge("tail_updates", "Updates not yet sealed."),
		parts:       gauge("parts", "Parts of sealed history."),
		partBytes:   gauge("part_bytes", "Bytes of all parts."),
	}
	for _, op := range []string{opWrite, opSeal, opRetain, opMissing} {
		m.errors.WithLabelValues(op)
	}
	for _, c := range []prometheus.Collector{m.batches, m.updates, m.bytes, m.events, m.commits, m.groups, m.seals, m.sealedRows,
		m.dropped, m.errors, m.tailUpdates, m.parts, m.partBytes} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
