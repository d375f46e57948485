// Package store defines what a history store must do; package embedded keeps it in one directory
// with nothing to install. Package storetest is the suite that every implementation passes.
//
// What a method has acknowledged by returning nil survives kill -9 and a power cut.
package store

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
)

// ErrNotFound is returned where a single named thing does not exist.
var ErrNotFound = errors.New("not found")

// ErrUnavailable is wrapped by the error of a write that failed because the storage did (a full
// disk, an I/O error). Nothing of that write was applied, and the same call may be repeated: it
// succeeds once the cause is gone. Errors that do not wrap it will come again if repeated.
var ErrUnavailable = errors.New("storage unavailable")

// MaxBatchUpdates is the largest number of updates that one batch may carry.
const MaxBatchUpdates = 1 << 18

// Store keeps update history, incidents and the alert outbox. All methods are safe for concurrent
// use. Times are kept to the microsecond, the resolution of [ingest.Time], except within an
// incident, which is kept as it is.
type Store interface {
	// AppendBatch makes b part of the history and returns its position: positions start at 1 and
	// grow by one, also for a batch without updates, whose watermark is part of the history too. It
	// keeps nothing of b after it returns. An error means that b is not stored.
	AppendBatch(ctx context.Context, b *ingest.Batch) (position uint64, err error)
	// AppendBatches is AppendBatch for several, which costs less than one call each: they get positions in this order, one
	// after the other where nobody else appends meanwhile. The first stored are stored, the last of them at
	// position; with an error the others are not.
	AppendBatches(ctx context.Context, list []*ingest.Batch) (stored int, position uint64, err error)
	// BatchesSince yields, in order, every batch after position that is still kept as batches. None
	// after the last checkpoint's position is ever missing, so where position is not below that,
	// the n-th batch yielded is the one at position+n. In the place of one that was back-filled or imported there is
	// a batch with nothing in it and no watermark, since it is no input of detection. It ends with the
	// last batch stored when it gets there. A yielded batch belongs to the caller.
	BatchesSince(ctx context.Context, position uint64) iter.Seq2[*ingest.Batch, error]
	// Updates yields the routes that match q, newest first: in reverse order of their cursors, that
	// is of arrival, from which event time strays by no more than the feeds' lag; but what was
	// back-filled arrived long after it happened.
	Updates(ctx context.Context, q UpdateQuery) iter.Seq2[Route, error]

	// Activity counts history by time: all that matches q in one series, or with q.Origins one for each of so many origins.
	// What one call reads is bounded only by q and ctx; what it holds in memory is a count for each origin and the answer.
	Activity(ctx context.Context, q ActivityQuery) ([]Activity, error)

	// AppendBackfill makes b part of the history like AppendBatch, but marked as back-filled, and
	// stores g as SaveGap does, in one transaction. b's watermark means nothing.
	AppendBackfill(ctx context.Context, b *ingest.Batch, g *ingest.Gap) error
	// AppendImport makes b, which is history of another store, part of this one's as AppendBackfill does; backfilled says
	// whether it was marked as that there. g is of state [ingest.GapImported].
	AppendImport(ctx context.Context, b *ingest.Batch, backfilled bool, g *ingest.Gap) error
	// SaveGap stores g, which gets an ID if it has none; ErrNotFound when there is none of its ID. Of gaps
	// that are done or failed only the newest, a thousand or so, are kept.
	SaveGap(ctx context.Context, g *ingest.Gap) error
	// Gaps returns at most limit gaps, those saved first last; state "" means in any state, limit 0 means 100.
	Gaps(ctx context.Context, state ingest.GapState, limit int) ([]ingest.Gap, error)
	// SaveHeard stores what is known of some collectors, in place of what was known of them before.
	SaveHeard(ctx context.Context, heard []Heard) error
	// Heard returns what SaveHeard stored, by collector.
	Heard(ctx context.Context) ([]Heard, error)

	// CommitEvents stores events (each with the incident as it then stood) and the deliveries
	// they cause in one transaction. Events already stored (same Sequence) and deliveries already
	// stored (same Key) are left as they are, so that a recovery may commit them again. Every
	// delivery's IncidentID must be that of an incident stored before or now.
	CommitEvents(ctx context.Context, events []incident.Event, deliveries []Delivery) error
	// Incident returns the incident as it stands, or ErrNotFound.
	Incident(ctx context.Context, id string) (incident.Incident, error)
	// Incidents returns a page, the most recently updated (highest Sequence) first.
	Incidents(ctx context.Context, q IncidentQuery) ([]incident.Incident, error)
	// Events returns at most limit events with a sequence above after, in order; id "" means of all incidents.
	Events(ctx context.Context, id string, after uint64, limit int) ([]incident.Event, error)
	// LastSequence is the highest sequence stored, 0 when there is none.
	LastSequence(ctx context.Context) (uint64, error)
	// WaitEvents returns nil once an event with a sequence above after exists, or ctx's error.
	WaitEvents(ctx context.Context, after uint64) error

	// DueDeliveries returns at most limit pending deliveries to receiver whose NextAttempt is not
	// after now, the lowest Sequence first; a zero NextAttempt is always due. It is asked for each
	// receiver alone, so that what piles up for one is not in the way of another.
	DueDeliveries(ctx context.Context, receiver string, now time.Time, limit int) ([]Delivery, error)
	// UpdateDelivery stores the mutable part of d (State, Attempts, NextAttempt, LastError, Receipt, UpdatedAt), found by Key;
	// ErrNotFound when there is none.
	UpdateDelivery(ctx context.Context, d Delivery) error
	// Deliveries returns an incident's deliveries, oldest first.
	Deliveries(ctx context.Context, incidentID string) ([]Delivery, error)

	// SaveCheckpoint atomically replaces the detector's saved state, which covers all batches up to
	// position. A position below the last checkpoint's or above the last batch's is an error.
	SaveCheckpoint(ctx context.Context, position uint64, state []byte) error
	// Checkpoint returns the last saved state and its position; ErrNotFound when there is none.
	Checkpoint(ctx context.Context) (position uint64, state []byte, err error)

	// Stats sums up what is kept.
	Stats(ctx context.Context) (Stats, error)
	// Health returns nil while writes succeed, else the error of the last write, until one succeeds again.
	Health() error

	// Close waits for writes under way and releases everything. Methods fail after it; iterators
	// must have ended before.
	Close() error
}

// Reader reads a store beside whoever writes to it: at least what it had when it was opened, of the embedded one just that.
type Reader interface {
	// History yields the routes with event times in [from, to) in the order of arrival, that of cursors, back-filled
	// ones included.
	History(ctx context.Context, from, to time.Time) iter.Seq2[Route, error]
	// The others are those of [Store].
	Incidents(ctx context.Context, q IncidentQuery) ([]incident.Incident, error)
	Events(ctx context.Context, id string, after uint64, limit int) ([]incident.Event, error)
	Gaps(ctx context.Context, state ingest.GapState, limit int) ([]ingest.Gap, error)
	Heard(ctx context.Context) ([]Heard, error)
	Stats(ctx context.Context) (Stats, error)
	Close() error
}

// Heard says of a collector that a live feed tells of, which one that is and that it did so at Time.
type Heard struct {
	Collector, Feed string
	Time            time.Time // event time; history may have something later
}

// Stats are a store's sizes.
type Stats struct {
	Updates      uint64    `json:"updates"`                // rows that Updates can yield
	OldestUpdate time.Time `json:"oldest_update,omitzero"` // the earliest event time among them
	Bytes        int64     `json:"bytes"`                  // on disk, everything included
	Parts        int       `json:"parts"`                  // pieces of sealed history
	Incidents    int       `json:"incidents"`
	LastPosition uint64    `json:"last_position"` // of the last batch appended, 0 when there was none
	LastSequence uint64    `json:"last_sequence"` // of the last event, 0 when there is none
}

// Action is what happened to a route.
type Action string

const (
	Announce Action = "announce"
	Withdraw Action = "withdraw"
	RIB      Action = "rib"
	PeerUp   Action = "peer_up"
	PeerDown Action = "peer_down"
)

// Route is one row of history: one prefix of one update.
type Route struct {
	Time        time.Time    `json:"time"`
	Action      Action       `json:"type"`
	Collector   string       `json:"collector"`
	PeerASN     uint32       `json:"peer_asn"`
	PeerIP      netip.Addr   `json:"peer_ip"`
	View        ingest.View  `json:"view,omitzero"`   // of BMP; absent for Adj-RIB-In before policy
	Prefix      netip.Prefix `json:"prefix,omitzero"` // zero for peer_up and peer_down
	PathID      uint32       `json:"path_id,omitempty"`
	ASPath      string       `json:"as_path,omitempty"` // as bgp.ASPath.String writes it
	OriginASN   uint32       `json:"origin_asn,omitempty"`
	NextHop     netip.Addr   `json:"next_hop,omitzero"`
	Communities []string     `json:"communities,omitempty"` // "65535:666", large ones "a:b:c"
	OTC         uint32       `json:"otc,omitempty"`
	Backfilled  bool         `json:"backfilled,omitempty" doc:"The feed missed it; it was read from the collector's archive later. Only there when true."`
	Cursor      Cursor       `json:"-"` // of this row
}

// Match says how a prefix filter relates to a row's prefix.
type Match string

const (
	Exact    Match = "exact"    // the prefix itself
	Covered  Match = "covered"  // the prefix and its more-specifics
	Covering Match = "covering" // the prefix and what covers it
)

// UpdateQuery selects history. Zero fields do not restrict.
type UpdateQuery struct {
	Prefix    netip.Prefix
	Match     Match // with Prefix; "" means Exact
	OriginASN uint32
	ASOnPath  uint32 // anywhere in the AS path, also within a set or a confederation
	PeerASN   uint32
	PeerIP    netip.Addr
	Collector string
	From, To  time.Time // From inclusive, To exclusive
	Action    Action
	Limit     int    // at most this many rows; 0 means 100
	After     Cursor // continue after the row this cursor names
}

// Cursor names a row of history; it stays valid also when the row is no longer kept. Zero is the start.
type Cursor struct {
	Position uint64 // of the batch
	Row      int    // within the batch: of each update the withdrawn prefixes, then the announced ones
}

// MaxBuckets is how many buckets an answer to [Store.Activity] may have.
const MaxBuckets = 1000

// ActivityQuery asks how much was said, by event time. Zero fields but From, To and Bucket do not restrict.
type ActivityQuery struct {
	Prefix    netip.Prefix
	Match     Match  // with Prefix; "" means Exact
	OriginASN uint32 // a withdrawal names no origin, so none is counted then
	PeerASN   uint32
	Collector string
	// From, To is the time, To exclusive, of at most MaxBuckets. It is widened to whole buckets.
	From, To time.Time
	// Bucket is whole seconds, at most 366 days. Buckets begin at its multiples since 1970. Whole hours are quick to count where neither a
	// prefix nor a peer nor a collector is asked for.
	Bucket time.Duration
	// Origins is 0, or how many origins are told apart: those with the most announcements, of as many those with the most
	// rows of tables, then with the lowest number. What names no origin is then not counted.
	Origins int
}

// Whole gives From and To in whole buckets. Bucket must not be less than a second.
func (q *ActivityQuery) Whole() (from, to time.Time) {
	unit := q.Bucket.Microseconds()
	floor := func(t int64) int64 {
		r := t % unit
		if r < 0 {
			r += unit
		}
		return t - r
	}
	return time.UnixMicro(floor(q.From.UnixMicro())).UTC(), time.UnixMicro(floor(q.To.UnixMicro()-1) + unit).UTC()
}

// Count is how many rows of history say what.
type Count struct {
	Announcements uint64 `json:"announcements"`
	Withdrawals   uint64 `json:"withdrawals"`
	RIB           uint64 `json:"rib" doc:"Rows of tables, which say how things stood and not that anything happened."`
}

// Activity is one series of counts.
type Activity struct {
	OriginASN uint32 `json:"origin_asn,omitempty" doc:"Not there where origins are not told apart."`
	Count
	Buckets []Bucket `json:"buckets" doc:"By time; those of which there is nothing to count are left out."`
}

// Bucket is what was said from Time on, until the next bucket.
type Bucket struct {
	Time time.Time `json:"time"`
	Count
}

// IncidentQuery selects incidents. Zero fields do not restrict.
type IncidentQuery struct {
	Status      incident.Status
	Kinds       []incident.Kind
	MinSeverity incident.Severity
	ASN         uint32       // offender, accomplice or victim
	Prefix      netip.Prefix // an affected prefix equal to it, inside it, or covering it
	From, To    time.Time    // active at some time in [From, To)
	Before      uint64       // only those with a Sequence below this, for paging; 0 means all
	Limit       int          // 0 means 100
}

// DeliveryState is where a delivery stands.
type DeliveryState string

const (
	Pending   DeliveryState = "pending"
	Delivered DeliveryState = "delivered"
	Expired   DeliveryState = "expired" // never accepted in the time allowed, or refused for good
)

// Delivery is one message of the outbox: one event to one receiver. Key is its idempotency key, a
// function of receiver and event, so that it is the same however often the event is computed.
type Delivery struct {
	Key         string        `json:"key"`
	IncidentID  string        `json:"incident_id"`
	Sequence    uint64        `json:"sequence"` // of the event
	Receiver    string        `json:"receiver"`
	Body        []byte        `json:"-"` // what is sent
	State       DeliveryState `json:"state"`
	Attempts    int           `json:"attempts"`
	CreatedAt   time.Time     `json:"created_at"`
	UpdatedAt   time.Time     `json:"updated_at"`
	NextAttempt time.Time     `json:"next_attempt,omitzero"`
	ExpiresAt   time.Time     `json:"expires_at"`
	LastError   string        `json:"last_error,omitempty"`
	Receipt     string        `json:"receipt,omitempty"` // what the receiver answered, shortened
}

// Retention bounds how much update history is kept; the oldest is dropped.
type Retention struct {
	Age  time.Duration `yaml:"age" doc:"Age by time of receipt at which update history is dropped, such as 30d; 0 keeps it for ever."`
	Size int64         `yaml:"size" config:"bytes" doc:"Size on disk above which the oldest update history is dropped; 0 means no bound."`
}
