package fetch

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/routevigil/routevigil/ingest/download"
)

// pipes is a listener of connections within the process, so that a server and a client live in a
// bubble whose time is its own.
type pipes struct {
	connections chan net.Conn
	closed      chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.connections:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.connections <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// inBubble runs f with a server in a bubble and a client that has the default patience.
func inBubble(t *testing.T, f func(t *testing.T, a *archives, c *Client)) {
	synctest.Test(t, func(t *testing.T) {
		a := &archives{t: t, host: "http://archive.test", files: map[string][]byte{}, faults: map[string][]http.HandlerFunc{}}
		listener := &pipes{make(chan net.Conn), make(chan struct{})}
		server := &http.Server{Handler: a}
		go server.Serve(listener)
		defer server.Close()
		cfg := DefaultConfiguration()
		cfg.Broker, cfg.RIS, cfg.RouteViews, cfg.Directory = "", a.host+"/ris", a.host+"/rv", t.TempDir()
		transport := http.DefaultTransport.(*http.Transport) // of which the client makes its own
		dial := transport.DialContext
		transport.DialContext = listener.dial
		c, err := New(cfg, "routevigil/test", slog.New(slog.DiscardHandler))
		transport.DialContext = dial
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		f(t, a, c)
	})
}

// A server that is busy is given as long as it asks for, and otherwise twice as long each time, less up
// to half of it by chance.
func TestBackoff(t *testing.T) {
	busy := func(status int, retryAfter string) http.HandlerFunc {
		if retryAfter == "" {
			return say(status, "")
		}
		return say(status, "", "Retry-After: "+retryAfter)
	}
	inTwoMinutes := func(w http.ResponseWriter, r *http.Request) {
		busy(429, time.Now().Add(2*time.Minute).UTC().Format(http.TimeFormat))(w, r)
	}
	for _, row := range []struct {
		name        string
		faults      []http.HandlerFunc
		least, most time.Duration
	}{
		{"once", []http.HandlerFunc{busy(503, "")}, 500 * time.Millisecond, time.Second},
		{"four times", []http.HandlerFunc{busy(500, ""), busy(502, ""), busy(504, ""), busy(429, "")}, 7500 * time.Millisecond, 15 * time.Second},
		{"as long as it asks", []http.HandlerFunc{busy(429, "90")}, 90 * time.Second, 90 * time.Second},
		{"until it says", []http.HandlerFunc{inTwoMinutes}, 119 * time.Second, 2 * time.Minute},
		{"not shorter than we would", []http.HandlerFunc{busy(503, "0")}, 500 * time.Millisecond, time.Second},
		{"it asks for nonsense", []http.HandlerFunc{busy(503, "soon")}, 500 * time.Millisecond, time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, a *archives, c *Client) {
				r, path, content := oneFile(a, 1<<10)
				a.fault(path, row.faults...)
				start := time.Now()
				files, err := c.Fetch(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took < row.least || took > row.most {
					t.Errorf("took %v, want %v to %v", took, row.least, row.most)
				}
				holds(t, files[0].Path, content)
				for _, r := range a.requests {
					if r.UserAgent() != "routevigil/test" {
						t.Errorf("User-Agent %q", r.UserAgent())
					}
				}
			})
		})
	}
}

func TestNobodyWaitsForHours(t *testing.T) {
	inBubble(t, func(t *testing.T, a *archives, c *Client) {
		r, path, _ := oneFile(a, 1<<10)
		a.fault(path, say(429, "", "Retry-After: 7200"))
		start := time.Now()
		if _, err := c.Fetch(t.Context(), r); err == nil || !strings.Contains(err.Error(), "wants us to wait for 2h0m0s; try later") || time.Since(start) != 0 {
			t.Errorf("after %v: error %v", time.Since(start), err)
		}
	})
}

// Nothing comes for half a minute: before the answer, and in the middle of it. What is slow is not stalled.
func TestStall(t *testing.T) {
	inBubble(t, func(t *testing.T, a *archives, c *Client) {
		r, path, content := oneFile(a, 64<<10)
		silent := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
		half := func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "65536")
			w.Write(content[:20<<10])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
		slow := func(w http.ResponseWriter, r *http.Request) {
			for part := range slices.Chunk(content, (len(content)+8)/9) {
				time.Sleep(29 * time.Second)
				w.Write(part)
				w.(http.Flusher).Flush()
			}
		}
		a.fault(path, silent, half, slow)
		start := time.Now()
		files, err := c.Fetch(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		holds(t, files[0].Path, content)
		least := 30*time.Second + 500*time.Millisecond + 30*time.Second + time.Second + 9*29*time.Second
		if took := time.Since(start); took < least || took > least+2*time.Second {
			t.Errorf("took %v, want %v or some more", took, least)
		}

		a.faults["/ris/rrc00/2024.01/updates.20240101.0005.gz"] = slices.Repeat([]http.HandlerFunc{silent}, 5)
		a.add("/ris/rrc00/2024.01/", "updates.20240101.0005.gz")
		clear(c.listings)
		r.To = at("2024-01-01 00:10")
		if _, err := c.Fetch(t.Context(), r); !errors.Is(err, download.ErrStalled) {
			t.Errorf("error %v", err)
		}
	})
}

// An interruption is not waited for until the next attempt.
func TestInterruptedWhileWaiting(t *testing.T) {
	inBubble(t, func(t *testing.T, a *archives, c *Client) {
		r, path, _ := oneFile(a, 1<<10)
		a.fault(path, say(503, "", "Retry-After: 600"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		start := time.Now()
		if _, err := c.Fetch(ctx, r); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Errorf("after %v: error %v", time.Since(start), err)
		}
	})
}

// No more downloads at once than are allowed, and not less either.
func TestParallel(t *testing.T) {
	inBubble(t, func(t *testing.T, a *archives, c *Client) {
		names := every("updates", ".gz", "2024-01-01 00:00", "2024-01-01 01:00", 5*time.Minute)
		a.add("/ris/rrc00/2024.01/", names...)
		for _, n := range names {
			content := a.files["/ris/rrc00/2024.01/"+n]
			a.fault("/ris/rrc00/2024.01/"+n, func(w http.ResponseWriter, r *http.Request) {
				time.Sleep(10 * time.Second)
				a.serve(w, r, content)
			})
		}
		start := time.Now()
		r := Request{Collectors: []string{"rrc00"}, From: at("2024-01-01 00:00"), To: at("2024-01-01 01:00"), Updates: true}
		if files, err := c.Fetch(t.Context(), r); err != nil || len(files) != 12 {
			t.Fatalf("%d files, error %v", len(files), err)
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("12 files of 10 s each took %v, want a minute for two at once", took)
		}
	})
}
