package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/routevigil/routevigil/detect/incident"
)

// follower reads one stream as the HTML standard's EventSource does: it remembers the last id,
// also of events without data.
type follower struct {
	t        *testing.T
	response *http.Response
	lines    *bufio.Reader
	lastID   string
	comments int
	close    func()
}

type message struct {
	id, event string
	data      string
}

func (s *service) follow(path string, header ...string) *follower {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	r, err := http.NewRequestWithContext(ctx, "GET", s.url+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	f := &follower{t: s.t, response: resp, lines: bufio.NewReader(resp.Body), close: func() { cancel(); resp.Body.Close() }}
	s.t.Cleanup(f.close)
	return f
}

// block reads up to the next empty line. It may be one without data.
func (f *follower) block() (m message, err error) {
	for {
		line, err := f.lines.ReadString('\n')
		if err != nil {
			return m, err
		}
		line = strings.TrimSuffix(line, "\n")
		field, value, _ := strings.Cut(line, ": ")
		switch field {
		case "":
			if line == "" {
				return m, nil
			}
			f.comments++
		case "id":
			m.id, f.lastID = value, value
		case "event":
			m.event = value
		case "data":
			m.data = value
		}
	}
}

// next reads the next event that has data.
func (f *follower) next() incident.Event {
	f.t.Helper()
	for {
		m, err := f.block()
		if err != nil {
			f.t.Fatalf("the stream ended: %v", err)
		}
		if m.data == "" {
			continue
		}
		var e incident.Event
		if err := json.Unmarshal([]byte(m.data), &e); err != nil {
			f.t.Fatal(err)
		}
		if m.id != strconv.FormatUint(e.Sequence, 10) || m.event != string(e.Change) {
			f.t.Errorf("id %s, event %s for sequence %d, change %s", m.id, m.event, e.Sequence, e.Change)
		}
		return e
	}
}

// TestStreamResume breaks the connection again and again while events are committed: none is lost
// and none comes twice. The number of events makes it fall behind what the tail keeps.
func TestStreamResume(t *testing.T) {
	const total = 4 * tailLength
	s := start(t, nil)
	random := rand.New(rand.NewPCG(1, 2))
	committed := make(chan struct{})
	go func() {
		defer close(committed)
		for n := 1; n <= total; {
			var events []incident.Event
			for range 1 + n%17 {
				if n <= total {
					events = append(events, event(uint64(n), fmt.Sprintf("inc_%d", n%50)))
					n++
				}
			}
			s.commit(events...)
			time.Sleep(time.Millisecond)
		}
	}()
	var got []uint64
	header, lives := []string{"Last-Event-ID", "0"}, 0
	for len(got) < total {
		f := s.follow("/api/v1/stream", header...)
		lives++
		for range 1 + random.IntN(120) {
			if len(got) == total {
				break
			}
			got = append(got, f.next().Sequence)
		}
		f.close()
		header = []string{"Last-Event-ID", f.lastID}
	}
	<-committed
	for i, n := range got {
		if n != uint64(i+1) {
			t.Fatalf("event %d came where %d was due", n, i+1)
		}
	}
	if lives < 5 {
		t.Errorf("only %d connections: nothing was resumed", lives)
	}
}

// TestStreamStart is about where a stream begins.
func TestStreamStart(t *testing.T) {
	s := start(t, nil)
	s.commit(event(1, "inc_a"), event(2, "inc_b"))
	wait(t, "the tail", func() bool { return s.tail.position() == 2 })
	n := uint64(2)
	for _, tt := range []struct {
		name, query string
		header      []string
		first       func() uint64 // the sequence expected first, after one more commit
	}{
		{"new events only", "", nil, func() uint64 { return n }},
		{"from the beginning", "?after=0", nil, func() uint64 { return 1 }},
		{"after one", "?after=1", nil, func() uint64 { return 2 }},
		{"the header goes first", "?after=0", []string{"Last-Event-ID", "1"}, func() uint64 { return 2 }},
		{"after one that does not exist", "?after=999999", nil, func() uint64 { return n }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := s.follow("/api/v1/stream"+tt.query, tt.header...)
			if _, err := f.block(); err != nil { // the opening, which says where it begins
				t.Fatal(err)
			}
			n++
			s.commit(event(n, "inc_c"))
			if got, want := f.next().Sequence, tt.first(); got != want {
				t.Errorf("began with %d, want %d", got, want)
			}
		})
	}
	t.Run("a client that lost its first connection early", func(t *testing.T) {
		f := s.follow("/api/v1/stream")
		if _, err := f.block(); err != nil {
			t.Fatal(err)
		}
		f.close()
		n++
		s.commit(event(n, "inc_d"))
		if got := s.follow("/api/v1/stream", "Last-Event-ID", f.lastID).next().Sequence; got != n {
			t.Errorf("continued with %d, want %d", got, n)
		}
	})
	t.Run("HEAD", func(t *testing.T) {
		if resp, _ := s.do("HEAD", "/api/v1/stream"); resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
			t.Errorf("%s %s", resp.Status, resp.Header.Get("Content-Type"))
		}
	})
}

func TestStreamFilters(t *testing.T) {
	s := start(t, nil)
	other := func(e *incident.Event) { e.Incident.Offenders, e.Incident.Victims = []uint32{64500}, nil }
	s.commit(event(1, "inc_a"), event(2, "inc_b", other), event(3, "inc_c", severity(incident.Low)), event(4, "inc_d", severity(incident.Critical), ended))
	for _, tt := range []struct {
		query string
		want  []uint64
	}{
		{"", []uint64{1, 2, 3, 4}},
		{"&asn=AS36561", []uint64{1, 3, 4}},
		{"&min_severity=high", []uint64{1, 2, 4}},
		{"&asn=17557&min_severity=critical", []uint64{4}},
	} {
		f := s.follow("/api/v1/stream?after=0" + tt.query)
		var got []uint64
		for range tt.want {
			got = append(got, f.next().Sequence)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%q: got %v, want %v", tt.query, got, tt.want)
		}
	}
}

func TestStreamHeartbeat(t *testing.T) {
	s := start(t, nil, func(s *Server) { s.heartbeat = 5 * time.Millisecond })
	other := func(e *incident.Event) {
		e.Incident.Offenders, e.Incident.Accomplices, e.Incident.Victims = []uint32{64500}, nil, nil
	}
	f := s.follow("/api/v1/stream?asn=17557")
	s.commit(event(1, "inc_a", other))
	// The event is none of the client's, but the heartbeat takes its position past it.
	for f.comments < 3 || f.lastID != "1" {
		if m, err := f.block(); err != nil || m.data != "" {
			t.Fatalf("%+v, %v", m, err)
		}
	}
}

func TestStreamLimit(t *testing.T) {
	s := start(t, func(c *Configuration, _ *Dependencies) { c.MaxStreams = 2 })
	first := s.follow("/api/v1/stream")
	s.follow("/api/v1/stream")
	resp, body := s.do("GET", "/api/v1/stream")
	if resp.StatusCode != 503 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "All 2 streams") {
		t.Errorf("the third of two: %s %s", resp.Status, body)
	}
	if resp, _ := s.do("GET", "/api/v1/stream?asn=x"); resp.StatusCode != 400 {
		t.Errorf("a bad request takes a place: %s", resp.Status)
	}
	first.close()
	wait(t, "the place of the one that left", func() bool { return len(s.streams) == 1 })
	if f := s.follow("/api/v1/stream"); f.response.StatusCode != 200 {
		t.Errorf("after one left: %s", f.response.Status)
	}
}

func TestStreamEndsAtShutdown(t *testing.T) {
	s := start(t, nil)
	f := s.follow("/api/v1/stream")
	if _, err := f.block(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.stop()
	if d := time.Since(began); d > s.configuration.ShutdownTimeout/2 {
		t.Errorf("the shutdown took %s: the stream did not end by itself", d)
	}
	if _, err := f.block(); err != io.EOF {
		t.Errorf("the stream ended with %v, want a clean end", err)
	}
}

// TestStreamSlowClient: who does not read is dropped, and the others notice nothing.
func TestStreamSlowClient(t *testing.T) {
	s := start(t, nil, func(s *Server) { s.writeTimeout = 200 * time.Millisecond })
	slow, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if err := slow.(*net.TCPConn).SetReadBuffer(4096); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(slow, "GET /api/v1/stream?after=0 HTTP/1.1\r\nHost: x\r\n\r\n")
	f := s.follow("/api/v1/stream?after=0")
	wait(t, "both streams", func() bool { return testutil.ToFloat64(s.metrics.streams) == 2 })

	long := func(e *incident.Event) { e.Incident.Explanation = strings.Repeat("why ", 50_000) }
	dropped := func() bool { return testutil.ToFloat64(s.metrics.dropped) == 1 }
	for n := uint64(1); n <= 200 && !dropped(); n++ {
		s.commit(event(n, "inc_a", long))
		if got := f.next().Sequence; got != n {
			t.Fatalf("the client that reads got %d, want %d", got, n)
		}
	}
	wait(t, "the drop", dropped)
	if got := testutil.ToFloat64(s.metrics.streams); got != 1 {
		t.Errorf("%v streams are left, want the one that reads", got)
	}
}
