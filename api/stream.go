package api

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/routevigil/routevigil/detect/incident"
)

const streamOperation = "stream-events"

var changes = []incident.Change{incident.Opened, incident.Grew, incident.Receded, incident.SeverityChanged, incident.Closed, incident.Reopened, incident.Unmuted}

// streamInput selects events and says where to start.
type streamInput struct {
	LastEventID sequenceParam     `header:"Last-Event-ID" doc:"Continue after this event; what browsers send when they reconnect. It goes before after."`
	After       sequenceParam     `query:"after" doc:"Continue after the event of this sequence; 0 is the beginning. Without it, and without Last-Event-ID, only new events are sent."`
	ASN         asnParam          `query:"asn" doc:"Only events of incidents in which this AS is offender, accomplice or victim."`
	MinSeverity incident.Severity `query:"min_severity" enum:"info,low,medium,high,critical" doc:"Only events of incidents at least this severe."`
}

// wants tells whether the client asked for e.
func (in *streamInput) wants(e *tailEvent) bool {
	return (in.MinSeverity == "" || e.severity.Rank() >= in.MinSeverity.Rank()) &&
		(in.ASN.value == 0 || slices.Contains(e.asns, in.ASN.value))
}

func (s *Server) registerStream() {
	event := s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[incident.Event](), true, "")
	op := huma.Operation{
		Method: http.MethodGet, Path: "/api/v1/stream", OperationID: streamOperation, Summary: "Follow events as they happen",
		Description: "Server-sent events: id is the event's sequence, event is the change (" + joined(changes) + "), data is the Event as JSON. " +
			"A client that reconnects with Last-Event-ID (browsers do) misses nothing and gets nothing twice. " +
			"A comment comes every 15 seconds when there is nothing to tell, with the id reached so far. " +
			"Who asks to continue after a sequence that does not exist yet gets new events only. " +
			"A client that does not read is disconnected.",
		Responses: map[string]*huma.Response{"200": {Description: "OK",
			Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{Type: huma.TypeString,
				Description: "Events; each data field holds one Event.", Extensions: map[string]any{"contentSchema": event}}}}}},
	}
	huma.Register(s.api, op, func(ctx context.Context, in *streamInput) (*huma.StreamResponse, error) {
		select {
		case s.streams <- struct{}{}:
		default:
			return nil, huma.ErrorWithHeaders(problemf(http.StatusServiceUnavailable,
				"All %d streams are taken; try again later, or raise max_streams.", cap(s.streams)), http.Header{"Retry-After": {"30"}})
		}
		position, err := s.start(ctx, in)
		if err != nil {
			<-s.streams
			return nil, s.problemOf(ctx, op.OperationID, err)
		}
		return &huma.StreamResponse{Body: func(c huma.Context) {
			s.metrics.streams.Inc()
			defer func() {
				s.metrics.streams.Dec()
				<-s.streams
			}()
			r, w := humago.Unwrap(c)
			w.Header().Set("Content-Type", "text/event-stream")
			if r.Method == http.MethodHead {
				return // it would wait for what may not be sent
			}
			if err := s.stream(c.Context(), w, in, position); errors.Is(err, os.ErrDeadlineExceeded) {
				s.metrics.dropped.Inc()
			}
		}}, nil
	})
}

// start gives the sequence after which a client's events begin.
func (s *Server) start(ctx context.Context, in *streamInput) (uint64, error) {
	after := in.LastEventID
	if !after.given {
		after = in.After
	}
	if !after.given {
		return s.tail.position(), nil
	}
	if after.value > s.tail.position() {
		last, err := s.dependencies.Store.LastSequence(ctx)
		if err != nil {
			return 0, err
		}
		// What the client remembers may come from a store that is no more.
		after.value = min(after.value, last)
	}
	return after.value, nil
}

// stream sends events until the client goes, does not read, or the server stops. Each client has
// its own goroutine and position, so a slow one holds up nobody.
func (s *Server) stream(ctx context.Context, w http.ResponseWriter, in *streamInput, position uint64) error {
	control := http.NewResponseController(w)
	// The deadlines of ordinary requests do not apply; without this the server would end the
	// request at its read timeout.
	if err := control.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	w.Header().Set("X-Accel-Buffering", "no") // a proxy that collects would defeat the purpose
	send := func(b []byte) error {
		if err := control.SetWriteDeadline(time.Now().Add(s.writeTimeout)); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		return control.Flush()
	}
	// An id without data moves the client's Last-Event-ID and delivers nothing: one that loses the
	// connection before its first event still continues where it began.
	if err := send(fmt.Appendf(nil, "retry: 3000\nid: %d\n\n", position)); err != nil {
		return err
	}
	heartbeat := time.NewTicker(s.heartbeat)
	defer heartbeat.Stop()
	var b bytes.Buffer
	for {
		events, grown, err := s.tail.since(ctx, position)
		if err != nil {
			if ctx.Err() == nil {
				s.log.Error("a stream ends because the store cannot be read", "error", err)
			}
			return err
		}
		b.Reset()
		for i := range events {
			e := &events[i]
			if in.wants(e) {
				fmt.Fprintf(&b, "id: %d\nevent: %s\ndata: %s\n\n", e.sequence, e.change, e.data)
			}
			position = e.sequence
		}
		if b.Len() > 0 {
			if err := send(b.Bytes()); err != nil {
				return err
			}
			heartbeat.Reset(s.heartbeat)
		}
		if len(events) > 0 {
			select {
			case <-s.stopping:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			default:
			}
			continue
		}
		select {
		case <-grown:
		case <-heartbeat.C:
			if err := send(fmt.Appendf(nil, ": nothing new\nid: %d\n\n", position)); err != nil {
				return err
			}
		case <-s.stopping:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
