package service

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bmp"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
	"github.com/routevigil/routevigil/ingest/openbmp"
	"github.com/routevigil/routevigil/ingest/openbmp/publish"
)

// newPublisher makes what tells other consumers what the feeds say; nil where kafka.openbmp names no topic.
func newPublisher(c config.Config, cluster *kafkabus.Cluster, log *slog.Logger, registry prometheus.Registerer) *publish.Publisher {
	if c.Kafka.OpenBMP.Topic == "" {
		return nil
	}
	return publish.New(c.Kafka.OpenBMP, cluster, log.With("component", "kafka"), registry)
}

// published makes p, which may be nil, hear a source: its messages as they came where it has them, and otherwise its
// updates. It returns the handler for the source's Run.
func published(p *publish.Publisher, source ingest.Source, next ingest.Handler) ingest.Handler {
	if p == nil {
		return next
	}
	switch source := source.(type) {
	case *bmp.Station:
		source.OnMessage(p.BMP)
	case *openbmp.Source:
		source.OnMessage(p.OpenBMP)
	default:
		return p.Tap(next)
	}
	return next
}
