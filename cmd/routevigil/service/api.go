package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/api/web"
	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/store/clickhouse"
)

// API is the role api: the dashboard, the API and its stream, from what another process stores in ClickHouse. It only
// reads there, so that any number may run. As of a recorder, its API lacks what only a detector knows.
type API struct {
	store  *clickhouse.Reader
	server *api.Server
}

// NewAPI connects to ClickHouse, whatever store.kind is, and binds the address; c must be valid.
func NewAPI(ctx context.Context, c config.Config, version string, log *slog.Logger) (_ *API, err error) {
	x := &API{}
	if x.store, err = openClickHouse(ctx, c.Store, log); err != nil {
		return nil, err
	}
	registry := newRegistry()
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "routevigil_api_event_time_seconds",
		Help: "Event time of the newest batch in the store, in seconds since the Unix epoch; 0 where none is known."}, func() float64 {
		if t := x.store.Newest(); !t.IsZero() {
			return float64(t.UnixMicro()) / 1e6
		}
		return 0
	}))
	x.server = api.New(c.API, api.Dependencies{Store: x.store, Health: x.health, Web: web.Handler(), Version: version,
		Registerer: registry, Gatherer: registry, Logger: log.With("component", "api")})
	if err := x.server.Listen(); err != nil {
		return nil, errors.Join(err, x.store.Close())
	}
	return x, nil
}

// openClickHouse opens what the writer of c commits for reading.
func openClickHouse(ctx context.Context, c config.Store, log *slog.Logger) (*clickhouse.Reader, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return clickhouse.OpenReader(ctx, c.ClickHouse, log.With("component", "store"))
}

// Addr is where the HTTP server listens.
func (x *API) Addr() net.Addr { return x.server.Addr() }

// Close closes the connections. Run must have returned.
func (x *API) Close() error { return x.store.Close() }

// Run serves until ctx ends.
func (x *API) Run(ctx context.Context) error { return x.server.Run(ctx) }

// behindAfter is the age of the newest batch from which on it is told. Feeds that work bring some every second.
const behindAfter = 30 * time.Second

// health is that of a store that is read. What is old is ready all the same: else all would stop answering for the
// past at once when whoever writes stands still.
func (x *API) health() api.Health {
	h := api.Health{Mode: api.Live, EventTime: x.store.Newest()}
	if err := x.store.Health(); err != nil {
		h.Reasons = append(h.Reasons, fmt.Sprintf("The store cannot be read: %v.", err))
		return h
	}
	h.Ready = true
	if h.EventTime.IsZero() {
		h.Reasons = append(h.Reasons, "The store has no batch whose time is known: nothing has been stored yet.")
	} else if behind := time.Since(h.EventTime); behind >= behindAfter {
		h.Reasons = append(h.Reasons, fmt.Sprintf("The newest batch in the store is of %s, %s behind: what writes the store, or the feeds, stand still or catch up.",
			moment(h.EventTime), behind.Round(time.Second)))
	}
	return h
}

// StandBy serves what another recorder stores in ClickHouse, as the role api does, until that one ends or dies.
type StandBy struct {
	*API
	takeover time.Duration
	log      *slog.Logger
}

// NewStandBy is NewAPI for a recorder; c must be valid. It returns nil where a recorder has a store of its own, and where there is
// nothing to read yet: then it need not wait for anybody.
func NewStandBy(ctx context.Context, c config.Config, version string, log *slog.Logger) (*StandBy, error) {
	if c.Store.Kind != config.ClickHouse {
		return nil, nil
	}
	x, err := NewAPI(ctx, c, version, log)
	if errors.Is(err, clickhouse.ErrUnprepared) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &StandBy{x, c.Kafka.Takeover, log.With("component", "record")}, nil
}

// Run serves until the other recorder has ended, or has given no sign of life for kafka.takeover, or ctx ends.
func (x *StandBy) Run(ctx context.Context) error {
	noticed := time.AfterFunc(time.Second, func() {
		x.log.Info("Another recorder has the database. This one serves what is there, and goes on in its place when it ends.")
	})
	defer noticed.Stop()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	silence := make(chan error, 1)
	go func() {
		silence <- x.store.Silence(ctx, x.takeover)
		stop()
	}()
	err := x.API.Run(ctx)
	stop()
	if silent := <-silence; err == nil && !errors.Is(silent, context.Canceled) {
		err = silent
	}
	return err
}
