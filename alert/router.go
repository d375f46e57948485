package alert

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/store"
)

// Router decides who hears of what.
type Router struct{ receivers []Receiver }

// NewRouter returns a router to these receivers.
func NewRouter(receivers []Receiver) *Router { return &Router{receivers} }

// Route gives the messages that events cause, in the order of the events and of the receivers. It
// depends on its arguments alone, and key and body on the events alone: an event that is routed
// again, also after a restart, causes the same messages under the same keys. now is when the
// messages are made; they expire the receiver's max_age later. It is wall clock, not event time:
// what a replay of last year finds is news all the same.
//
// A receiver hears when an incident opens or reopens, changes its severity, or ends; of one that is muted
// nobody hears, until its mute ends while it goes on. It is not told
// of growth, so an incident that comes to touch a receiver's ASNs or prefixes only by growing is
// first told with its next change of severity, or its end.
//
// An error means that one event could not be written as a message; the others are routed.
func (r *Router) Route(events []incident.Event, now time.Time) ([]store.Delivery, error) {
	var deliveries []store.Delivery
	var failed error
	for i := range events {
		e := &events[i]
		for j := range r.receivers {
			receiver := &r.receivers[j]
			if !receiver.Filter.wants(e) {
				continue
			}
			body, err := receiver.Channel.Body(e)
			if err != nil {
				failed = fmt.Errorf("write event %d for receiver %s: %w", e.Sequence, receiver.Name, err)
				continue
			}
			deliveries = append(deliveries, store.Delivery{
				Key: key(receiver.Name, e), IncidentID: e.Incident.ID, Sequence: e.Sequence, Receiver: receiver.Name, Body: body,
				State: store.Pending, CreatedAt: now, UpdatedAt: now, ExpiresAt: now.Add(receiver.MaxAge),
			})
		}
	}
	return deliveries, failed
}

// key is the idempotency key of a message: a function of receiver, incident and event.
func key(receiver string, e *incident.Event) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n%s\n", receiver, e.Incident.ID) // neither holds a newline
	h.Write(binary.BigEndian.AppendUint64(nil, e.Sequence))
	return "msg_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil)[:16]))
}

func (f *Filter) wants(e *incident.Event) bool {
	i := &e.Incident
	if i.Muted != nil {
		return false
	}
	severity := i.Severity.Rank()
	switch e.Change {
	case incident.Opened, incident.Reopened, incident.Unmuted:
	case incident.SeverityChanged, incident.Closed:
		// Who was told at its worst must hear that it is no longer so.
		severity = max(severity, i.PeakSeverity.Rank())
	default:
		return false
	}
	if severity < f.MinSeverity.Rank() {
		return false
	}
	if len(f.Kinds) > 0 && !slices.Contains(f.Kinds, i.Kind) {
		return false
	}
	if len(f.ASNs) > 0 && !slices.ContainsFunc(f.ASNs, func(a uint32) bool {
		return slices.Contains(i.Offenders, a) || slices.Contains(i.Accomplices, a) || slices.Contains(i.Victims, a)
	}) {
		return false
	}
	if len(f.Watches) > 0 && !slices.ContainsFunc(f.Watches, func(w string) bool { return slices.Contains(i.Watches, w) }) {
		return false
	}
	if len(f.Prefixes) == 0 {
		return true
	}
	for _, affected := range i.Prefixes {
		for _, p := range f.Prefixes {
			if affected.Prefix.Overlaps(p) {
				return true
			}
		}
	}
	return false
}
