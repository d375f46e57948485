package clickhouse

import "github.com/prometheus/client_golang/prometheus"

// What errors are counted by.
const (
	opWrite  = "write"
	opExpand = "expand"
	opDrop   = "drop"
)

type metrics struct {
	batches, updates, bytes, events, expanded prometheus.Counter
	commits, expansions                       prometheus.Histogram
	errors                                    *prometheus.CounterVec
	logUpdates                                prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	name := func(n, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "routevigil", Subsystem: "store", Name: n, Help: help}
	}
	counter := func(n, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts(name(n, help)))
	}
	histogram := func(n, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "routevigil", Subsystem: "store", Name: n, Help: help, Buckets: buckets})
	}
	m := &metrics{
		batches:    counter("batches_total", "Batches appended to the history."),
		updates:    counter("updates_total", "Updates appended to the history."),
		bytes:      counter("appended_bytes_total", "Bytes of encoded batches appended to the history."),
		events:     counter("events_total", "Incident events stored."),
		expanded:   counter("expanded_rows_total", "Rows of history inserted in the order of prefixes."),
		commits:    histogram("commit_seconds", "Duration of appends, from the first byte sent to the acknowledgement.", prometheus.ExponentialBuckets(0.001, 2, 15)),
		expansions: histogram("expand_seconds", "Duration of moving one block of the log into the table of updates.", prometheus.ExponentialBuckets(0.01, 2, 14)),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts(name("errors_total", "Failures, by what was being done.")),
			[]string{"operation"}),
		logUpdates: prometheus.NewGauge(prometheus.GaugeOpts(name("tail_updates", "Updates in the log that are not yet in the order of prefixes."))),
	}
	for _, op := range []string{opWrite, opExpand, opDrop} {
		m.errors.WithLabelValues(op)
	}
	for _, c := range []prometheus.Collector{m.batches, m.updates, m.bytes, m.events, m.expanded, m.commits, m.expansions, m.errors, m.logUpdates} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
