// Package alerttest holds what every channel must pass, and the outbox in memory that it and the
// tests of package alert use.
package alerttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/routevigil/routevigil/alert"
	"github.com/routevigil/routevigil/alert/channel"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/store"
)

// Timeout is what the suite's channels must be given for one attempt.
const Timeout = 500 * time.Millisecond

// maxText bounds receipts and errors, which people read in a table.
const maxText = 600

// Subject is a channel that speaks HTTP.
type Subject struct {
	// New makes the channel with Timeout, sending to endpoint (http://host:port), to which it may
	// add what it needs. It must use every one of Secrets where its receivers would.
	New func(t *testing.T, endpoint string) channel.Channel
	// Secrets are texts that must never be seen in a receipt or an error.
	Secrets []string
	// Key finds a message's idempotency key in what the receiver gets.
	Key func(r *http.Request, body []byte) string
}

// Event is an event with something in every field that a message may be made of.
func Event() *incident.Event {
	at := time.Date(2008, 2, 24, 18, 48, 3, 0, time.UTC)
	return &incident.Event{Sequence: 4812, Time: at, Change: incident.Opened, Incident: incident.Incident{
		ID: "inc_7Q2M5ZJ3XW4VNTGA", Kind: incident.SubprefixHijack, Status: incident.Open, Severity: incident.Critical, PeakSeverity: incident.Critical,
		Confidence: 0.97, Title: "AS17557 announces 208.65.153.0/24, part of AS36561's 208.65.152.0/22",
		Explanation: "The more-specific was never seen before; \"93\" peers see it — and < & > are kept.",
		StartedAt:   at.Add(-6 * time.Second), DetectedAt: at, UpdatedAt: at,
		Offenders: []uint32{17557}, Accomplices: []uint32{3491}, Victims: []uint32{36561},
		Prefixes: []incident.Prefix{{Prefix: netip.MustParsePrefix("208.65.153.0/24"), Covering: netip.MustParsePrefix("208.65.152.0/22"),
			ExpectedOrigins: []uint32{36561}, ObservedOrigins: []uint32{17557}, RPKI: "not_found", IRR: "not_found"}},
		PrefixCount: 1, Visibility: incident.Visibility{Peers: 93, PeerASNs: 80, FullFeedPeers: 120, Collectors: 12},
		Paths:    [][]uint32{{3333, 12859, 6461, 3491, 17557}},
		Evidence: []incident.Evidence{{Rule: "origin.never_seen", Weight: 2.1, Detail: "never seen", Source: "history"}}, Sequence: 4812,
	}}
}

// Run runs the suite.
func Run(t *testing.T, s Subject) {
	t.Run("statuses", s.statuses)
	t.Run("retry-after", s.retryAfter)
	t.Run("redirect", s.redirect)
	t.Run("trouble", s.trouble)
	t.Run("bodies", s.bodies)
	t.Run("cancelled", s.cancelled)
	t.Run("echo", s.echo)
	t.Run("secret at the end of the receipt", s.cut)
	t.Run("message is a function of the event", s.deterministic)
	t.Run("same key over retries and a restart", s.sameKey)
}

// server runs a receiver. Its handlers end when the client goes or the test does.
func server(t *testing.T, h http.HandlerFunc) string {
	ended := make(chan struct{})
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		go func() {
			select {
			case <-ended:
				cancel()
			case <-ctx.Done():
			}
		}()
		h(w, r.WithContext(ctx))
	}))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	srv.Start()
	t.Cleanup(func() {
		close(ended)
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv.URL
}

// send makes one attempt to a receiver that does h, and checks what must hold of any.
func (s Subject) send(t *testing.T, endpoint string) (string, error) {
	t.Helper()
	c := s.New(t, endpoint)
	body, err := c.Body(Event())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	receipt, err := c.Send(t.Context(), "msg_key", body)
	if took := time.Since(began); took > Timeout+2*time.Second {
		t.Errorf("the attempt took %s with a timeout of %s", took, Timeout)
	}
	s.checkText(t, receipt)
	if err != nil {
		s.checkText(t, err.Error())
		if f := failure(t, err); f.Reason == "" {
			t.Error("a failure without a reason")
		} else {
			s.checkText(t, f.Receipt)
		}
	}
	return receipt, err
}

func (s Subject) checkText(t *testing.T, text string) {
	t.Helper()
	for _, secret := range s.Secrets {
		if strings.Contains(text, secret) {
			t.Errorf("a secret is told: %s", text)
		}
	}
	if len(text) > maxText {
		t.Errorf("%d bytes of text, want at most %d", len(text), maxText)
	}
	if i := strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }); i >= 0 {
		t.Errorf("not printable at %d: %q", i, text)
	}
}

func failure(t *testing.T, err error) *channel.Failure {
	t.Helper()
	var f *channel.Failure
	if !errors.As(err, &f) {
		t.Fatalf("%T: %v, want a *channel.Failure", err, err)
	}
	return f
}

func (s Subject) statuses(t *testing.T) {
	for status, want := range map[int]channel.Kind{
		400: channel.Refused, 401: channel.Refused, 403: channel.Refused, 404: channel.Refused, 405: channel.Refused, 413: channel.Refused, 422: channel.Refused,
		408: channel.Transient, 425: channel.Transient, 429: channel.Transient,
		500: channel.Transient, 501: channel.Transient, 502: channel.Transient, 503: channel.Transient, 504: channel.Transient, 507: channel.Transient,
		410: channel.Gone, 300: channel.Refused, 304: channel.Refused,
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			receipt, err := s.send(t, server(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				if status != 304 {
					io.WriteString(w, "says the receiver")
				}
			}))
			if err == nil {
				t.Fatalf("accepted with %s", receipt)
			}
			f := failure(t, err)
			if f.Kind != want {
				t.Errorf("kind %d, want %d", f.Kind, want)
			}
			if !strings.Contains(f.Receipt, fmt.Sprint(status)) || status != 304 && !strings.Contains(f.Receipt, "says the receiver") {
				t.Errorf("receipt %q, want status and body", f.Receipt)
			}
		})
	}
	for _, status := range []int{200, 201, 202, 204} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			receipt, err := s.send(t, server(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
			if err != nil || !strings.Contains(receipt, fmt.Sprint(status)) {
				t.Errorf("%q, %v; want it accepted, and the status in the receipt", receipt, err)
			}
		})
	}
}

func (s Subject) retryAfter(t *testing.T) {
	for _, tt := range []struct {
		name, header string
		least, most  time.Duration
	}{
		{"seconds", "120", 120 * time.Second, 120 * time.Second},
		{"date", time.Now().Add(5 * time.Minute).UTC().Format(http.TimeFormat), 4 * time.Minute, 5 * time.Minute},
		{"past date", "Mon, 01 Jan 2001 00:00:00 GMT", 0, 0},
		{"rubbish", "soon", 0, 0},
		{"negative", "-5", 0, 0},
		{"none", "", 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := s.send(t, server(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", tt.header)
				w.WriteHeader(503)
			}))
			if f := failure(t, err); f.RetryAfter < tt.least || f.RetryAfter > tt.most {
				t.Errorf("retry after %s, want from %s to %s", f.RetryAfter, tt.least, tt.most)
			}
		})
	}
}

func (s Subject) redirect(t *testing.T) {
	var followed atomic.Int32
	elsewhere := server(t, func(http.ResponseWriter, *http.Request) { followed.Add(1) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		_, err := s.send(t, server(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", elsewhere+r.URL.String()) // a token in the query comes along
			w.WriteHeader(status)
		}))
		if err == nil || !strings.Contains(err.Error(), "redirect") {
			t.Errorf("%d: %v, want an error that says so", status, err)
		} else if f := failure(t, err); f.Kind != channel.Refused {
			t.Errorf("%d: kind %d, want a refusal", status, f.Kind)
		}
	}
	if followed.Load() > 0 {
		t.Error("a redirect was followed")
	}
}

// hijack takes over the connection of a request.
func hijack(w http.ResponseWriter) net.Conn {
	c, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	return c
}

func (s Subject) trouble(t *testing.T) {
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	for _, tt := range []struct{ name, endpoint string }{
		{"nobody listens", "http://" + nobody.Addr().String()},
		{"hangs", server(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })},
		{"closes the connection", server(t, func(w http.ResponseWriter, _ *http.Request) { hijack(w).Close() })},
		{"does not speak HTTP", server(t, func(w http.ResponseWriter, _ *http.Request) {
			c := hijack(w)
			defer c.Close()
			io.WriteString(c, "220 mail.example.net ESMTP\r\n")
		})},
		{"endless header", server(t, func(w http.ResponseWriter, r *http.Request) {
			c := hijack(w)
			defer c.Close()
			line := "X-Long: " + strings.Repeat("x", 4096) + "\r\n"
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for range 16 << 10 {
				if err != nil {
					return
				}
				_, err = io.WriteString(c, line)
			}
		})},
	} {
		t.Run(tt.name, func(t *testing.T) {
			receipt, err := s.send(t, tt.endpoint)
			if err == nil {
				t.Fatalf("accepted with %q", receipt)
			}
			if f := failure(t, err); f.Kind != channel.Transient {
				t.Errorf("kind %d, want one that may pass: %v", f.Kind, err)
			}
		})
	}
}

// bodies: once the status says so the message is accepted, whatever follows.
func (s Subject) bodies(t *testing.T) {
	var written atomic.Int64
	for _, tt := range []struct {
		name string
		h    http.HandlerFunc
		want string
	}{
		{"slow", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "wait")
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, "wait"},
		{"huge", func(w http.ResponseWriter, r *http.Request) {
			chunk := bytes.Repeat([]byte("long "), 10_000)
			for written.Load() < 1<<30 {
				n, err := w.Write(chunk)
				written.Add(int64(n))
				if err != nil {
					return
				}
			}
		}, "long long"},
		{"cut short", func(w http.ResponseWriter, r *http.Request) {
			c := hijack(w)
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nstart")
		}, "start"},
		{"binary", func(w http.ResponseWriter, r *http.Request) { w.Write([]byte("a\x00\x1b[31m\xff\r\nb")) }, "b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			receipt, err := s.send(t, server(t, tt.h))
			if err != nil || !strings.Contains(receipt, tt.want) {
				t.Errorf("%q, %v; want it accepted and the receipt to have %q", receipt, err, tt.want)
			}
		})
	}
	if n := written.Load(); n > 64<<20 {
		t.Errorf("%d MiB of an answer were taken", n>>20)
	}
}

func (s Subject) cancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := s.New(t, server(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}))
	began := time.Now()
	if _, err := c.Send(ctx, "msg_key", []byte("{}")); err == nil {
		t.Error("a cancelled attempt was accepted")
	}
	if took := time.Since(began); took > Timeout-50*time.Millisecond {
		t.Errorf("it went on for %s", took)
	}
}

// echo: a receiver that answers with all that it got makes no secret public.
func (s Subject) echo(t *testing.T) {
	for _, status := range []int{200, 400, 500} {
		// What a receiver echoes first decides what the receipt shows, so each part has its turn.
		for _, part := range []func(*http.Request) string{
			func(r *http.Request) string { return r.RequestURI },
			func(r *http.Request) string { return r.URL.RawQuery },
			func(r *http.Request) string { return fmt.Sprint(r.URL.Query()) },
			func(r *http.Request) string { return fmt.Sprint(r.Header) },
			func(r *http.Request) string { return r.Header.Get("Authorization") },
			func(r *http.Request) string { u, p, _ := r.BasicAuth(); return u + ":" + p },
			func(*http.Request) string { return strings.Join(s.Secrets, " ") },
		} {
			s.send(t, server(t, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(status)
				io.WriteString(w, part(r))
			}))
		}
	}
}

// cut: a receipt that ends in the middle of a secret tells half of it.
func (s Subject) cut(t *testing.T) {
	const half = 5
	for _, secret := range s.Secrets {
		for padding := 150; padding < 450; padding += len(secret) - half {
			_, err := s.send(t, server(t, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(500)
				io.WriteString(w, strings.Repeat("x", padding)+secret+strings.Repeat("y", 1000))
			}))
			if text := err.Error() + failure(t, err).Receipt; strings.Contains(text, "x"+secret[:half]) {
				t.Errorf("half a secret is told: %s", text)
			}
		}
	}
}

func (s Subject) deterministic(t *testing.T) {
	first, err := s.New(t, "http://127.0.0.1:1").Body(Event())
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.New(t, "http://127.0.0.1:1").Body(Event())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Error("the same event gave different bytes")
	}
}

func (s Subject) sameKey(t *testing.T) {
	type got struct {
		key  string
		body string
	}
	var mu sync.Mutex
	var received []got
	endpoint := server(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		received = append(received, got{s.Key(r, body), string(body)})
		if len(received) < 3 {
			w.WriteHeader(503)
		}
	})
	outbox := &Outbox{Impatient: true}
	// Each round is a process of its own: what it knows it has from the outbox.
	for rounds := 0; ; rounds++ {
		receivers := []alert.Receiver{{Name: "noc", MaxAge: time.Hour, Channel: s.New(t, endpoint)}}
		deliveries, err := alert.NewRouter(receivers).Route([]incident.Event{*Event()}, time.Now())
		if err != nil || len(deliveries) != 1 {
			t.Fatalf("%d deliveries, %v", len(deliveries), err)
		}
		outbox.Commit(deliveries...) // as a recovery does
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			done <- alert.NewNotifier(receivers, outbox, nil, slog.New(slog.DiscardHandler)).Run(ctx)
		}()
		before := outbox.All()[0].Attempts
		for deadline := time.Now().Add(10 * time.Second); outbox.All()[0].Attempts == before && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if d := outbox.All()[0]; d.State == store.Delivered {
			break
		} else if rounds == 3 {
			t.Fatalf("not delivered after %d rounds: %+v", rounds, d)
		}
	}
	for _, g := range received {
		if g.key == "" || g != received[0] {
			t.Errorf("attempts differ: %q and %q", received[0], g)
		}
	}
}
