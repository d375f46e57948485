// Package ingest defines what everything upstream of detection speaks: a [Peer] says something at
// a [Time], and that is an [Update]. A [Source] turns one feed (RIS Live, MRT files, BMP, …) into
// updates; wire formats live in the packages below this one.
//
// Time here is always the feed's own stamp, never the wall clock, so that a replay of the same
// bytes gives the same verdicts as the live run.
package ingest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/routevigil/routevigil/ingest/bgp"
)

// Time is event time in microseconds since the Unix epoch, the finest resolution any feed carries.
// Zero means unknown.
type Time int64

// TimeOf converts t, truncating to microseconds.
func TimeOf(t time.Time) Time { return Time(t.UnixMicro()) }

// Time converts to a time.Time in UTC.
func (t Time) Time() time.Time { return time.UnixMicro(int64(t)).UTC() }

// Add returns t shifted by d.
func (t Time) Add(d time.Duration) Time { return t + Time(d.Microseconds()) }

// Sub returns the duration from u to t.
func (t Time) Sub(u Time) time.Duration { return time.Duration(t-u) * time.Microsecond }

// String formats t as RFC 3339 with microseconds.
func (t Time) String() string { return t.Time().Format("2006-01-02T15:04:05.000000Z") }

// View is which of a router's tables a route was seen in (RFC 7854 §2, RFC 8671, RFC 9069). A router
// that speaks BMP can show several for one session. The zero value is what every other source gives.
type View uint8

const (
	AdjRIBInPre   View = iota // as the peer sent it
	AdjRIBInPost              // as import policy left it
	AdjRIBOutPre              // what is to be sent to the peer, before export policy
	AdjRIBOutPost             // as it is sent to the peer
	LocRIB                    // what the router itself has chosen
	numViews
)

var viewNames = [numViews]string{"adj-rib-in-pre", "adj-rib-in-post", "adj-rib-out-pre", "adj-rib-out-post", "loc-rib"}

func (v View) String() string {
	if v.Known() {
		return viewNames[v]
	}
	return fmt.Sprintf("view(%d)", uint8(v))
}

// Known reports whether v is one of the above.
func (v View) Known() bool { return v < numViews }

// MarshalText writes the view's name.
func (v View) MarshalText() ([]byte, error) {
	if !v.Known() {
		return nil, fmt.Errorf("%v is not known", v)
	}
	return []byte(viewNames[v]), nil
}

// UnmarshalText reads the view's name.
func (v *View) UnmarshalText(b []byte) error {
	i := slices.Index(viewNames[:], string(b))
	if i < 0 {
		return fmt.Errorf("%.40q is not a view; one of %s is", b, strings.Join(viewNames[:], ", "))
	}
	*v = View(i)
	return nil
}

// Out reports whether the view is of what is said to the peer rather than heard from it.
func (v View) Out() bool { return v == AdjRIBOutPre || v == AdjRIBOutPost }

// Peer is one view of one BGP session that a collector listens to. Two sessions of one AS are two
// peers, but one independent witness.
type Peer struct {
	Collector string     // "rrc00", "route-views2", a router's name; empty when the source does not say
	Addr      netip.Addr // the peer's address; of a Loc-RIB, the router's BGP identifier
	ASN       uint32     // the peer's; of a Loc-RIB, the router's own
	View      View
}

// String gives "collector/asn/address", and the view where it is not the usual one.
func (p Peer) String() string {
	s := fmt.Sprintf("%s/AS%d/%s", p.Collector, p.ASN, p.Addr)
	if p.View != AdjRIBInPre {
		s += "/" + p.View.String()
	}
	return s
}

// Kind says what an Update reports.
type Kind uint8

const (
	// Routes is an UPDATE message: withdrawals, announcements, or both; or an End-of-RIB (Update.EndOfRIB), which has neither.
	Routes Kind = iota
	// RIB is a route that the peer already held when a table dump was taken: state, not news.
	RIB
	// PeerUp says that the session came up; its routes follow as Routes, and none that it had before
	// counts any more.
	PeerUp
	// PeerDown says that the session ended: an implicit withdrawal of all its routes (RFC 6396 §4.4.1).
	PeerDown
)

var kindNames = [...]string{"routes", "rib", "peer_up", "peer_down"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Update is what one peer said at one moment. Withdrawals take effect before announcements
// (RFC 4271 §3.1).
//
// An Update and all its slices belong to the source that emits it and are valid only until the
// handler returns; [Update.Clone] makes a copy to keep.
type Update struct {
	Time      Time
	Peer      Peer
	Kind      Kind
	EndOfRIB  bgp.Family // of Routes without any: the table of this family was sent in full (RFC 4724 §2); otherwise 0
	Withdrawn []bgp.NLRI
	Announced []bgp.NLRI
	// Attrs are the path attributes of Announced; meaningless when Announced is empty.
	Attrs bgp.Attributes
}

// Clone returns a deep copy that shares no memory with u.
func (u *Update) Clone() Update {
	c := *u
	c.Withdrawn = slices.Clone(u.Withdrawn)
	c.Announced = slices.Clone(u.Announced)
	c.Attrs = u.Attrs.Clone()
	return c
}

// Batch is the unit in which updates travel from the bus to the detector and into the store: some
// updates in order of arrival, and how far event time may advance once they are applied. Keeping
// the watermark with the updates makes a replay from the store take the very steps of the live run.
type Batch struct {
	Updates   []Update
	Watermark Time
	Signs     []Sign    // of life, in order. Never stored.
	Canary    time.Time // when the mark of the self-check that the batch carries was put into the stream; zero where there is none. Never stored.
}

// Sign is one of life: its source was connected when it was given, and gives another every [SignEvery]. Whoever misses
// them knows that what the source's collectors do not say is no news of theirs.
type Sign struct {
	Source     string   // its name
	Collectors []string // that it has let us hear so far
	Before     int      // place in the batch of the update that came next
}

// SignEvery is the time from one sign of life of a source to the next.
const SignEvery = 10 * time.Second

// Handler receives updates from a Source. An error stops the source.
type Handler func(*Update) error

// Source is one feed of updates. Run delivers updates to h until ctx ends (a live feed reconnects by
// itself) or the input is exhausted (a file; Run then returns nil). What one peer says comes in order
// and one at a time; different peers may be heard on several goroutines at once, so h must be safe
// for that. Status may be called at any time from any goroutine.
type Source interface {
	Run(ctx context.Context, h Handler) error
	Status() Status
	// Samples gives the last malformed messages, oldest first.
	Samples() []Sample
}

// State is a feed's condition as people need to know it.
type State string

const (
	Connecting State = "connecting" // not connected yet, or trying again
	Connected  State = "connected"  // messages arrive and are fresh
	Stalled    State = "stalled"    // connected, but nothing arrives
	Lagging    State = "lagging"    // messages arrive, but they are old
	Done       State = "done"       // a file that was read to its end
)

// Status is a snapshot of one feed's health.
type Status struct {
	Name          string            `json:"name"`
	Type          string            `json:"type"` // "ris-live", "mrt", …
	Address       string            `json:"address,omitempty"`
	State         State             `json:"state"`
	Since         time.Time         `json:"since"`                    // when State was entered
	LastMessage   time.Time         `json:"last_message,omitzero"`    // wall clock of the last message received
	LastEventTime time.Time         `json:"last_event_time,omitzero"` // the feed's stamp of that message
	LagSeconds    float64           `json:"lag_seconds"`              // receipt minus stamp, of the last message
	Peers         int               `json:"peers"`                    // distinct peers heard since the start; of BMP, those that are up
	Messages      uint64            `json:"messages"`                 // everything received
	Updates       uint64            `json:"updates"`                  // updates handed on
	Malformed     map[string]uint64 `json:"malformed,omitempty"`      // by reason
	Dropped       uint64            `json:"dropped"`                  // updates lost for lack of room
	Reconnects    uint64            `json:"reconnects"`
	LastError     string            `json:"last_error,omitempty"`
	NextAttempt   time.Time         `json:"next_attempt,omitzero"`
	Gaps          []Gap             `json:"gaps,omitempty"` // of a live feed: those that are open and the last that ended, newest first
}
