package service

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/routevigil/routevigil/api"
)

// newRegistry is one with what every process tells of itself.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

// operations is the HTTP server of a role that has no API: /healthz says that the process is alive, /readyz
// that it does its work and if not why, /metrics its figures.
type operations struct {
	server   http.Server
	listener net.Listener
}

// newOperations binds the address.
func newOperations(c api.Configuration, gatherer prometheus.Gatherer, health func() api.Health) (*operations, error) {
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		h := health()
		w.Header().Set("Content-Type", "application/json")
		if !h.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		json.NewEncoder(w).Encode(map[string]any{"ready": h.Ready, "reasons": append([]string{}, h.Reasons...)}) // [] rather than null, as the API has it
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(gatherer, promhttp.HandlerOpts{}))
	return &operations{server: http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}, listener: l}, nil
}

// run serves until ctx ends.
func (o *operations) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { o.server.Close() })
	defer stop()
	if err := o.server.Serve(o.listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
