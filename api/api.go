// Package api serves what routevigil knows over HTTP: the REST interface and its OpenAPI document,
// the live stream of events, health, metrics, and the dashboard.
//
// It only reads. Everything comes from the store, from the detector's table through [Table], and
// from a few functions of [Dependencies]; so the same package serves the whole program in one
// process and a separate API process beside a shared store.
//
// Every route of the API is declared once, as a huma operation, and the OpenAPI document follows
// from the declarations; a test compares the two. Whatever is wrong with a request is answered by a
// problem (RFC 9457) that says what would have been right; an unknown query parameter is an error,
// because a misspelt filter that is ignored looks like an answer.
//
// Lists are paged with opaque cursors that name a position (an event's sequence, a row of history)
// rather than a page number, so that what arrives between two pages neither shifts nor repeats rows.
package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/refresh"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/rpki/journal"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
)

// Configuration of the HTTP server.
type Configuration struct {
	Listen          string        `yaml:"listen" doc:"Address to listen on, as host:port; an empty host listens on all addresses, port 0 takes any free port."`
	CORSOrigins     []string      `yaml:"cors_origins" doc:"Origins whose pages may read the API, each as https://host or * for all; empty allows none but our own."`
	FrameAncestors  []string      `yaml:"frame_ancestors" doc:"Origins that may show the pages under /embed/ in a frame, each as https://host, https://*.host or * for all; empty allows none. No other page may ever be framed."`
	MaxStreams      int           `yaml:"max_streams" doc:"How many clients may follow /api/v1/stream at a time; at least 1."`
	QueryTimeout    time.Duration `yaml:"query_timeout" doc:"How long one request may search before it is answered with an error."`
	ShutdownTimeout time.Duration `yaml:"shutdown_timeout" doc:"How long running requests may take to finish when the service stops."`
}

// DefaultConfiguration serves the own machine only and lets any site embed.
func DefaultConfiguration() Configuration {
	return Configuration{
		Listen:          "localhost:8480",
		FrameAncestors:  []string{"*"},
		MaxStreams:      100,
		QueryTimeout:    30 * time.Second,
		ShutdownTimeout: 10 * time.Second,
	}
}

// Validate reports every field that cannot work.
func (c Configuration) Validate() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if _, port, err := net.SplitHostPort(c.Listen); err != nil {
		fault("listen: must be host:port such as localhost:8480, is %q", c.Listen)
	} else if _, err := net.LookupPort("tcp", port); err != nil {
		fault("listen: %q is no port; write a number from 0 to 65535", port)
	}
	for i, o := range c.CORSOrigins {
		if o != "*" && !isOrigin(o) {
			fault("cors_origins[%d]: must be * or an origin such as https://noc.example.net, is %q", i, o)
		}
	}
	for i, o := range c.FrameAncestors {
		if o != "*" && !isOrigin(strings.Replace(o, "://*.", "://", 1)) {
			fault("frame_ancestors[%d]: must be *, https://host or https://*.host, is %q", i, o)
		}
	}
	if c.MaxStreams < 1 {
		fault("max_streams: must be at least 1, is %d", c.MaxStreams)
	}
	if c.QueryTimeout <= 0 {
		fault("query_timeout: must be positive, is %s", c.QueryTimeout)
	}
	if c.ShutdownTimeout <= 0 {
		fault("shutdown_timeout: must be positive, is %s", c.ShutdownTimeout)
	}
	return errors.Join(errs...)
}

// isOrigin tells whether s is scheme://host[:port] and nothing more: it goes into headers as it is.
func isOrigin(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" &&
		s == u.Scheme+"://"+u.Host && !strings.ContainsAny(u.Host, "*;,'\" ")
}

// Table answers what the detector's routing table holds now. It is called from many goroutines.
type Table interface {
	Prefix(ctx context.Context, p netip.Prefix) (detect.PrefixState, error)
}

// Mode says where the routes come from.
type Mode string

const (
	Live Mode = "live" // real feeds
	Demo Mode = "demo" // a scenario generator
)

// Health is how the service as a whole stands.
type Health struct {
	Mode      Mode
	Ready     bool          // caught up: verdicts are current
	Reasons   []string      // plain sentences: why it is not ready, or what is wrong all the same
	EventTime time.Time     // how far detection has come; zero before the first update
	Delay     time.Duration // how long the last mark of the self-check took to be judged, or has waited; 0 where there was none
}

// Dependencies are what the server reads from. Those marked optional may be nil.
type Dependencies struct {
	Store store.Store
	Table Table                  // optional: without it /api/v1/prefixes answers 503
	Feeds func() []ingest.Status // optional: without it there are none
	// Samples: optional: the last malformed messages of a feed, oldest first; false where there is no such feed.
	Samples func(feed string) ([]ingest.Sample, bool)
	Sources func() []refresh.Status // optional: without it there are none
	// RPKI: optional: the VRPs and ASPAs in use at a time, now where it is zero, and since when; [journal.ErrUnknown]
	// where nothing was recorded of that time. Without it /api/v1/validate answers 503.
	RPKI func(ctx context.Context, at time.Time) (*rpki.Set, time.Time, error)
	// Registries: optional: what the routing registries said at a moment, or say now if it is zero, at least of what covers
	// the prefix, and what of that is not known, in sentences. The error is [past.ErrUnknown] for a moment of which nothing
	// is known, and [ErrBusy] while another such question is answered. Without it nothing is said of them.
	Registries func(context.Context, netip.Prefix, time.Time) (*irr.Database, []string, error)
	// RPKIChanges: optional: how that has changed, and where the next page begins, as [journal.Journal.Changes]. Without it
	// /api/v1/rpki/changes answers 503.
	RPKIChanges func(context.Context, journal.Query) ([]journal.Change, journal.Position, error)
	// Explain: optional: judges a route by what the detector knows now; [ErrRecovering] while it cannot be asked. Without
	// it /api/v1/explain answers 503.
	Explain func(ctx context.Context, p netip.Prefix, path bgp.ASPath) (detect.Explanation, error)
	// Watches tells of the operator's watches; nil where there is no detector, [ErrRecovering] while it is not up to date.
	Watches    func(ctx context.Context) ([]detect.WatchState, error)
	Health     func() Health // called for every status request; must not block
	Web        http.Handler  // optional: the dashboard; gets every path that is not the API's
	Version    string
	Registerer prometheus.Registerer // optional: where the server's own metrics go
	Gatherer   prometheus.Gatherer   // optional: what /metrics shows
	Logger     *slog.Logger
}

// Server is the HTTP server. New makes it, Listen binds its address, Run serves.
type Server struct {
	configuration Configuration
	dependencies  Dependencies
	log           *slog.Logger
	started       time.Time
	mux           *http.ServeMux
	api           huma.API
	routes        []string // paths of the API, as registered
	metrics       *metrics
	tail          *tail
	streams       chan struct{} // holds one token per open stream
	searches      chan struct{} // holds one token per search of the history under way
	stopping      chan struct{} // closed when the streams must end
	listener      net.Listener

	heartbeat    time.Duration // between signs of life on a silent stream
	writeTimeout time.Duration // a stream's client that takes longer to accept a write is dropped
}

// New returns a server that does nothing until Run. The configuration must be valid.
func New(c Configuration, d Dependencies) *Server {
	s := &Server{
		configuration: c,
		dependencies:  d,
		log:           d.Logger,
		started:       time.Now().UTC(),
		mux:           http.NewServeMux(),
		metrics:       newMetrics(d.Registerer),
		tail:          newTail(d.Store, d.Logger),
		streams:       make(chan struct{}, c.MaxStreams),
		searches:      make(chan struct{}, maxSearches),
		stopping:      make(chan struct{}),
		heartbeat:     15 * time.Second,
		writeTimeout:  10 * time.Second,
	}
	s.register()
	return s
}
