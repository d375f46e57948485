package alert

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/alert/channel"
)

type metrics struct {
	attempts *prometheus.CounterVec
	expired  *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	delay    *prometheus.HistogramVec
	pending  *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	byReceiver := []string{"receiver"}
	m := &metrics{
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "routevigil_alert_attempts_total", Help: "Attempts to send a message, by receiver and outcome: accepted, transient (it is tried again), refused (it is tried a few times), gone.",
		}, []string{"receiver", "outcome"}),
		expired: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "routevigil_alert_expired_total", Help: "Messages given up without having been accepted, by receiver.",
		}, byReceiver),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "routevigil_alert_attempt_duration_seconds", Help: "Time of one attempt to send a message, by receiver.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2.5, 10), // 5 ms to 19 s
		}, byReceiver),
		delay: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "routevigil_alert_delay_seconds", Help: "Time from the making of a message until it was accepted, by receiver.",
			Buckets: prometheus.ExponentialBuckets(0.01, 5, 10), // 10 ms to 5.4 h
		}, byReceiver),
		pending: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "routevigil_alert_pending", Help: "Messages seen that are neither accepted nor given up, by receiver. After a start those that wait for another attempt count once their time has come.",
		}, byReceiver),
	}
	if r != nil {
		r.MustRegister(m.attempts, m.expired, m.latency, m.delay, m.pending)
	}
	return m
}

// init makes a receiver's series exist, so that a rate over the first failure can be taken.
func (m *metrics) init(receiver string) {
	for _, o := range outcomes {
		m.attempts.WithLabelValues(receiver, o)
	}
	m.expired.WithLabelValues(receiver)
	m.pending.WithLabelValues(receiver)
}

// outcomes are named in the order of channel.Kind, success last.
var outcomes = [...]string{channel.Transient: "transient", channel.Refused: "refused", channel.Gone: "gone", channel.Gone + 1: "accepted"}

func (m *metrics) attempt(receiver string, d time.Duration, err error) {
	outcome := outcomes[channel.Gone+1]
	if err != nil {
		failure := &channel.Failure{}
		errors.As(err, &failure)
		outcome = outcomes[failure.Kind]
	}
	m.attempts.WithLabelValues(receiver, outcome).Inc()
	m.latency.WithLabelValues(receiver).Observe(d.Seconds())
}
