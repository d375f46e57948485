package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzhttp"
)

const (
	maxHeaderBytes = 64 << 10
	maxBodyBytes   = 64 << 10 // no route reads a body
)

// Listen binds the configured address, so that a port which is taken is known before anything else
// starts. Run calls it when nobody has.
func (s *Server) Listen() error {
	l, err := net.Listen("tcp", s.configuration.Listen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen: another program, perhaps another routevigil, already uses %s: stop it, or choose another port with listen (port 0 takes any free one): %w",
			s.configuration.Listen, err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("listen: this user may not listen on %s: choose a port above 1023 with listen: %w", s.configuration.Listen, err)
	case err != nil:
		return fmt.Errorf("listen: cannot listen on %s; listen must be an address of this machine and a port: %w", s.configuration.Listen, err)
	}
	s.listener = l
	return nil
}

// Addr is where the server listens, nil before Listen.
func (s *Server) Addr() net.Addr {
	if s.listener == nil {
		return nil
	}
	return s.listener.Addr()
}

// Run serves until ctx ends, then ends the streams, lets running requests finish for
// shutdown_timeout, and returns nil. It returns an error when it cannot listen, cannot read the
// store at the start, or can no longer accept connections. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	if s.listener == nil {
		if err := s.Listen(); err != nil {
			return err
		}
	}
	if err := s.tail.load(ctx); err != nil {
		s.listener.Close()
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("read the open incidents: %w", err)
	}
	tailContext, stopTail := context.WithCancel(ctx)
	tailDone := make(chan struct{})
	go func() {
		defer close(tailDone)
		s.tail.run(tailContext)
	}()
	defer func() {
		stopTail()
		<-tailDone
	}()

	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		// Writing an answer comes after finding it.
		WriteTimeout:   s.configuration.QueryTimeout + 30*time.Second,
		IdleTimeout:    2 * time.Minute,
		MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:       slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(s.listener) }()
	s.log.Info("serving", "address", "http://"+s.listener.Addr().String())

	select {
	case err := <-served:
		close(s.stopping)
		server.Close()
		return fmt.Errorf("serve on %s: %w", s.listener.Addr(), err)
	case <-ctx.Done():
	}
	close(s.stopping)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.configuration.ShutdownTimeout)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		s.log.Warn("requests were cut off by the shutdown", "after", s.configuration.ShutdownTimeout)
		server.Close()
	}
	<-served
	return nil
}

// handler is the mux with what every answer needs around it.
func (s *Server) handler() http.Handler {
	return s.recoverer(s.headers(s.cors(http.MaxBytesHandler(s.mux, maxBodyBytes))))
}

// recoverer turns a panic into a problem, where nothing has been sent, and a line in the log.
func (s *Server) recoverer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		defer func() {
			switch p := recover(); {
			case p == nil:
			case p == http.ErrAbortHandler:
				panic(p)
			case r.Context().Err() != nil || rec.failed:
				// huma panics when it cannot write: the client has gone.
				panic(http.ErrAbortHandler)
			default:
				s.log.Error("a request made the service panic", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				if rec.status != 0 {
					panic(http.ErrAbortHandler)
				}
				writeProblem(w, problemf(http.StatusInternalServerError, "The service failed on this request; its log says why."))
			}
		}()
		next.ServeHTTP(rec, r)
	})
}

// Content-Security-Policy without frame-ancestors. The pages need nothing inline, and only Lit's
// templates may become markup.
const contentPolicy = "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; " +
	"require-trusted-types-for 'script'; trusted-types lit-html; frame-ancestors "

// headers keeps browsers from doing more with an answer than it is meant for. Only embeds may be
// framed.
func (s *Server) headers(next http.Handler) http.Handler {
	embedders := strings.Join(s.configuration.FrameAncestors, " ")
	if embedders == "" {
		embedders = "'none'"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		if strings.HasPrefix(r.URL.Path, "/embed/") {
			h.Set("Content-Security-Policy", contentPolicy+embedders)
		} else {
			h.Set("Content-Security-Policy", contentPolicy+"'none'")
			h.Set("X-Frame-Options", "DENY")
		}
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		next.ServeHTTP(w, r)
	})
}

// cors lets pages of the configured origins read the API. They send no credentials: there are none.
func (s *Server) cors(next http.Handler) http.Handler {
	if len(s.configuration.CORSOrigins) == 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/api/") {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Add("Vary", "Origin")
		origin := r.Header.Get("Origin")
		allowed := origin != "" && (slices.Contains(s.configuration.CORSOrigins, "*") || slices.Contains(s.configuration.CORSOrigins, origin))
		if allowed {
			h.Set("Access-Control-Allow-Origin", origin)
		}
		if allowed && r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
			h.Set("Access-Control-Allow-Methods", "GET, HEAD")
			h.Set("Access-Control-Allow-Headers", "Last-Event-ID")
			h.Set("Access-Control-Max-Age", "600")
			w.WriteHeader(http.StatusNoContent)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// kind says how long a route's requests may take.
type kind int

const (
	limited   kind = iota // bounded by query_timeout, compressed where that helps
	unlimited             // a stream
)

// instrument counts a route's requests and bounds them.
func (s *Server) instrument(name string, k kind, h http.Handler) http.Handler {
	if k == limited {
		h = gzhttp.GzipHandler(h)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if k == limited {
			ctx, cancel := context.WithTimeout(r.Context(), s.configuration.QueryTimeout)
			defer cancel()
			r = r.WithContext(ctx)
		}
		rec := &recorder{ResponseWriter: w}
		start, status := time.Now(), http.StatusInternalServerError // what a panic becomes
		defer func() { s.metrics.request(name, r.Method, cmp.Or(rec.status, status), time.Since(start), k) }()
		h.ServeHTTP(rec, r)
		status = http.StatusOK // what an answer without a word is
	})
}

// recorder remembers the status that was sent, and whether writing failed.
type recorder struct {
	http.ResponseWriter
	status int
	failed bool
}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(b)
	r.failed = r.failed || err != nil
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
