package api

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the server's own.
type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	streams  prometheus.Gauge
	dropped  prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "routevigil_api_requests_total", Help: "HTTP requests answered, by route, method and status.",
		}, []string{"route", "method", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "routevigil_api_request_duration_seconds", Help: "Time to answer an HTTP request, streams excepted, by route.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9), // 0.5 ms to 33 s
		}, []string{"route"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "routevigil_api_streams", Help: "Clients that follow the event stream now.",
		}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "routevigil_api_streams_dropped_total", Help: "Stream clients dropped because they did not read.",
		}),
	}
	if r != nil {
		r.MustRegister(m.requests, m.duration, m.streams, m.dropped)
	}
	return m
}

func (m *metrics) request(route, method string, status int, d time.Duration, k kind) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
	default:
		method = "other" // a client chooses the method: it must not choose the number of series
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	if k == limited {
		m.duration.WithLabelValues(route).Observe(d.Seconds())
	}
}
