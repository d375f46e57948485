package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/store"
)

const (
	tailLength   = 256         // events kept for streams; who is further behind reads the store
	tailPage     = 100         // events read from the store at a time
	tailRetry    = time.Second // after the store could not be read
	loadPageSize = 500         // open incidents read at a time
)

// tailEvent is an event made ready for streams.
type tailEvent struct {
	sequence uint64
	severity incident.Severity
	asns     []uint32 // offenders, accomplices and victims
	change   incident.Change
	data     []byte // JSON, one line
}

func newTailEvent(e *incident.Event) (tailEvent, error) {
	complete(&e.Incident)
	data, err := json.Marshal(e)
	return tailEvent{
		sequence: e.Sequence,
		severity: e.Incident.Severity,
		asns:     slices.Concat(e.Incident.Offenders, e.Incident.Accomplices, e.Incident.Victims),
		change:   e.Change,
		data:     data,
	}, err
}

// tail follows the store's events once for all clients: it keeps the last of them encoded, wakes
// the streams, and counts the open incidents. So the cost of an event does not grow with the
// number of clients, and a status request reads no incident.
type tail struct {
	store store.Store
	log   *slog.Logger

	mu     sync.Mutex
	events []tailEvent   // in order, gapless: every event above floor
	floor  uint64        // events at or below it are only in the store
	last   uint64        // sequence of the last event known
	grown  chan struct{} // closed and replaced whenever events come
	open   map[string]incident.Severity
}

func newTail(s store.Store, log *slog.Logger) *tail {
	return &tail{store: s, log: log, grown: make(chan struct{}), open: map[string]incident.Severity{}}
}

// load reads where the store stands. The sequence is read before the incidents: an event that
// comes between the two is applied again by run, which changes nothing.
func (t *tail) load(ctx context.Context) error {
	last, err := t.store.LastSequence(ctx)
	if err != nil {
		return err
	}
	open := map[string]incident.Severity{}
	for before := uint64(0); ; {
		items, err := t.store.Incidents(ctx, store.IncidentQuery{Status: incident.Open, Before: before, Limit: loadPageSize})
		if err != nil {
			return err
		}
		for _, i := range items {
			open[i.ID] = i.Severity
			before = i.Sequence
		}
		if len(items) < loadPageSize {
			break
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.floor, t.last, t.open = last, last, open
	return nil
}

// run follows the store until ctx ends.
func (t *tail) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := t.follow(ctx); err != nil && ctx.Err() == nil {
			t.log.Error("cannot follow the events; trying again", "in", tailRetry, "error", err)
			select {
			case <-time.After(tailRetry):
			case <-ctx.Done():
			}
		}
	}
}

func (t *tail) follow(ctx context.Context) error {
	last := t.position()
	if err := t.store.WaitEvents(ctx, last); err != nil {
		return err
	}
	events, err := t.store.Events(ctx, "", last, tailPage)
	if err != nil {
		return err
	}
	ready := make([]tailEvent, 0, len(events))
	for i := range events {
		e, err := newTailEvent(&events[i])
		if err != nil {
			return err
		}
		ready = append(ready, e)
	}

	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range events {
		in := &events[i].Incident
		if in.Status == incident.Open {
			t.open[in.ID] = in.Severity
		} else {
			delete(t.open, in.ID)
		}
		t.last = events[i].Sequence
	}
	t.events = append(t.events, ready...)
	if over := len(t.events) - tailLength; over > 0 {
		t.floor = t.events[over-1].sequence
		t.events = slices.Delete(t.events, 0, over)
	}
	close(t.grown)
	t.grown = make(chan struct{})
	return nil
}

func (t *tail) position() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

func (t *tail) counts() Counts {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := Counts{OpenIncidents: len(t.open), BySeverity: map[incident.Severity]int{}}
	for _, s := range incident.Severities {
		c.BySeverity[s] = 0
	}
	for _, s := range t.open {
		c.BySeverity[s]++
	}
	return c
}

// since returns events above after, in order and without a gap. When there are none yet, grown is
// closed as soon as there may be.
func (t *tail) since(ctx context.Context, after uint64) (events []tailEvent, grown <-chan struct{}, err error) {
	t.mu.Lock()
	if after >= t.floor {
		i, found := slices.BinarySearchFunc(t.events, after, func(e tailEvent, s uint64) int {
			switch {
			case e.sequence < s:
				return -1
			case e.sequence > s:
				return 1
			}
			return 0
		})
		if found {
			i++
		}
		events, grown = slices.Clone(t.events[i:]), t.grown
		t.mu.Unlock()
		return events, grown, nil
	}
	t.mu.Unlock()
	stored, err := t.store.Events(ctx, "", after, tailPage)
	if err != nil {
		return nil, nil, err
	}
	for i := range stored {
		e, err := newTailEvent(&stored[i])
		if err != nil {
			return nil, nil, err
		}
		events = append(events, e)
	}
	return events, nil, nil
}
