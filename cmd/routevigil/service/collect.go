package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bus"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
	"github.com/routevigil/routevigil/ingest/openbmp/publish"
)

// Collector is the role collect: feeds, and what they say written to Kafka. Any number may run, also of the
// same feed: what they hear twice counts once.
type Collector struct {
	sources    []ingest.Source
	bus        *bus.Bus
	cluster    *kafkabus.Cluster
	writer     *kafkabus.Writer
	publisher  *publish.Publisher // may be nil
	operations *operations
	written    atomic.Bool
}

// NewCollector opens the feeds and reaches the cluster; c must be valid.
func NewCollector(ctx context.Context, c config.Config, log *slog.Logger) (_ *Collector, err error) {
	registry := newRegistry()
	x := &Collector{bus: bus.New(c.Ingest.Bus, registry)}
	if x.cluster, err = reach(ctx, c, log); err != nil {
		return nil, err
	}
	x.writer = x.cluster.NewWriter(registry)
	x.publisher = newPublisher(c, x.cluster, log, registry)
	if err := os.MkdirAll(c.Store.Directory, 0o755); err != nil { // offsets of OpenBMP
		return nil, err
	}
	sources, unlisten, err := openSources(c, nil, log, registry)
	if err != nil {
		return nil, err
	}
	x.sources = sources
	if x.operations, err = newOperations(c.API, registry, x.health); err != nil {
		unlisten()
		return nil, err
	}
	return x, nil
}

// reach connects to the cluster and makes sure that it is as it should be.
func reach(ctx context.Context, c config.Config, log *slog.Logger) (*kafkabus.Cluster, error) {
	k, err := kafkabus.Connect(c.Kafka, log.With("component", "kafka"))
	if err != nil {
		return nil, err
	}
	if err := k.Check(ctx); err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

// Addr is where /readyz and /metrics are served.
func (x *Collector) Addr() net.Addr { return x.operations.listener.Addr() }

func (x *Collector) health() api.Health {
	h := api.Health{}
	for _, source := range x.sources {
		if st := source.Status(); st.State == ingest.Connected {
			h.Ready = x.written.Load()
		} else {
			h.Reasons = append(h.Reasons, feedSentence(st))
		}
	}
	if !x.written.Load() {
		h.Reasons = append(h.Reasons, "Nothing could be written to Kafka yet.")
	}
	return h
}

// Run collects until ctx ends, and then writes what the feeds have given.
func (x *Collector) Run(ctx context.Context) error {
	defer x.cluster.Close()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	background := newGroup(fail)
	background.run("HTTP server", func() error { return x.operations.run(ctx) })
	for _, source := range x.sources {
		handler := published(x.publisher, source, x.bus.Publish)
		background.run("feed "+source.Status().Name, func() error { return source.Run(ctx, handler) })
	}
	if x.publisher != nil {
		background.run("publishing OpenBMP", func() error { return x.publisher.Run(ctx) })
	}
	draining, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	background.run("writing to Kafka", func() error { return x.write(draining) })
	<-ctx.Done()
	x.bus.Close()
	defer time.AfterFunc(shutdownGrace, giveUp).Stop()
	background.wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

func (x *Collector) write(ctx context.Context) error {
	for {
		b, err := x.bus.Next(ctx)
		if errors.Is(err, bus.ErrClosed) {
			return nil
		}
		if err == nil {
			err = x.writer.Write(ctx, b)
		}
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("what the feeds had sent could not all be written within %s: %w", shutdownGrace, err)
			}
			return err
		}
		x.written.Store(true)
	}
}
