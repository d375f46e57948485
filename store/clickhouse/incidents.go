package clickhouse

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	api "github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

const insertEvents = `INSERT INTO journal (entry, incident_id, sequence, key, version, status, kind, severity, started_at, ended_at, asns, first_addresses,
	last_addresses, receiver, state, attempts, created_at, updated_at, next_attempt, expires_at, last_error, receipt, body)`

// CommitEvents implements [store.Store]. What is stored already is looked for first; the rest is one block.
func (s *Store) CommitEvents(ctx context.Context, events []incident.Event, deliveries []store.Delivery) error {
	bodies := make([]string, len(events))
	ids := map[string]bool{}
	var last uint64
	for i := range events {
		e := &events[i]
		if e.Sequence == 0 || e.Sequence > 1<<63-1 || e.Sequence != e.Incident.Sequence || e.Incident.ID == "" {
			return fmt.Errorf("event %d of incident %q: its sequence must be positive and equal the incident's, which is %d, and the incident needs an id",
				e.Sequence, e.Incident.ID, e.Incident.Sequence)
		}
		text, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("event %d of incident %q: %w", e.Sequence, e.Incident.ID, err)
		}
		bodies[i] = string(text)
		ids[e.Incident.ID] = true
		last = max(last, e.Sequence)
	}
	for i := range deliveries {
		if deliveries[i].Key == "" {
			return fmt.Errorf("a delivery of incident %q needs a key", deliveries[i].IncidentID)
		}
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.usable(ctx); err != nil || len(events)+len(deliveries) == 0 {
		return err
	}
	stored := 0
	err := s.write(ctx, func(ctx context.Context) error {
		known, keys, err := s.known(ctx, events, deliveries)
		if err != nil {
			return err
		}
		for i := range deliveries {
			if d := &deliveries[i]; !ids[d.IncidentID] {
				var n uint64
				if err := s.conn.QueryRow(ctx, `SELECT count() FROM journal WHERE entry = 'event' AND incident_id = ?`, d.IncidentID).Scan(&n); err != nil {
					return err
				}
				if n == 0 {
					return refused{fmt.Errorf("delivery %q: its incident %q: %w", d.Key, d.IncidentID, store.ErrNotFound)}
				}
				ids[d.IncidentID] = true
			}
		}
		empty := true
		b, err := s.writer.PrepareBatch(ctx, insertEvents)
		if err != nil {
			return err
		}
		defer b.Close()
		for i := range events {
			if e := &events[i]; !known[e.Sequence] {
				known[e.Sequence] = true
				if err := s.appendEvent(b, e, bodies[i]); err != nil {
					return refused{err}
				}
				stored++
				empty = false
			}
		}
		for i := range deliveries {
			if d := &deliveries[i]; !keys[d.Key] {
				keys[d.Key] = true
				if err := s.appendDelivery(b, d, string(d.Body)); err != nil {
					return refused{err}
				}
				empty = false
			}
		}
		if empty {
			return nil
		}
		return b.Send()
	})
	if err != nil {
		return err
	}
	s.metrics.events.Add(float64(stored))
	s.mu.Lock()
	defer s.mu.Unlock()
	if last > s.state.sequence {
		s.state.sequence = last
		close(s.changed)
		s.changed = make(chan struct{})
	}
	return nil
}

// known tells which of these events and deliveries are stored.
func (s *Store) known(ctx context.Context, events []incident.Event, deliveries []store.Delivery) (sequences map[uint64]bool, keys map[string]bool, err error) {
	sequences, keys = map[uint64]bool{}, map[string]bool{}
	for chunk := range slices.Chunk(events, 1000) {
		wanted := make([]uint64, len(chunk))
		for i := range chunk {
			wanted[i] = chunk[i].Sequence
		}
		err := s.rows(ctx, func(r api.Rows) error {
			var n uint64
			err := r.Scan(&n)
			sequences[n] = true
			return err
		}, `SELECT sequence FROM journal WHERE entry = 'event' AND sequence IN (?)`, wanted)
		if err != nil {
			return nil, nil, err
		}
	}
	for chunk := range slices.Chunk(deliveries, 1000) {
		wanted := make([]string, len(chunk))
		for i := range chunk {
			wanted[i] = chunk[i].Key
		}
		err := s.rows(ctx, func(r api.Rows) error {
			var k string
			err := r.Scan(&k)
			keys[k] = true
			return err
		}, `SELECT DISTINCT key FROM journal WHERE entry = 'delivery' AND key IN (?)`, wanted)
		if err != nil {
			return nil, nil, err
		}
	}
	return sequences, keys, nil
}

func (s *Store) appendEvent(b api.Batch, e *incident.Event, body string) error {
	in := &e.Incident
	asns := slices.Concat(in.Offenders, in.Accomplices, in.Victims)
	if asns == nil {
		asns = []uint32{}
	}
	first, last := []string{}, []string{}
	for _, p := range in.Prefixes {
		if p.Prefix.IsValid() {
			f, l := bounds(p.Prefix)
			first, last = append(first, f), append(last, l)
		}
	}
	return b.Append("event", in.ID, e.Sequence, "", s.nextVersion(), string(in.Status), string(in.Kind), uint8(in.Severity.Rank()), in.StartedAt, in.EndedAt,
		asns, first, last, "", "", uint32(0), nil, nil, nil, nil, "", "", body)
}

// bounds gives the first and last address of p, such that those of one family compare as bytes do.
func bounds(p netip.Prefix) (first, last string) {
	p = p.Masked()
	family := "\x06"
	if p.Addr().Is4() {
		family = "\x04"
	}
	return family + string(p.Addr().AsSlice()), family + string(lastOf(p).AsSlice())
}

func (s *Store) appendDelivery(b api.Batch, d *store.Delivery, body string) error {
	return b.Append("delivery", d.IncidentID, d.Sequence, d.Key, s.nextVersion(), "", "", uint8(0), time.Unix(0, 0), nil, []uint32{}, []string{}, []string{},
		d.Receiver, string(d.State), uint32(d.Attempts), nullable(d.CreatedAt), nullable(d.UpdatedAt), nullable(d.NextAttempt), nullable(d.ExpiresAt),
		d.LastError, d.Receipt, body)
}

// Incident implements [store.Store].
func (s *Store) Incident(ctx context.Context, id string) (incident.Incident, error) {
	events, err := s.events(ctx, `SELECT body FROM journal WHERE entry = 'event' AND incident_id = ? ORDER BY sequence DESC, version DESC LIMIT 1`, id)
	if err != nil {
		return incident.Incident{}, err
	}
	if len(events) == 0 {
		return incident.Incident{}, fmt.Errorf("incident %q: %w", id, store.ErrNotFound)
	}
	return events[0].Incident, nil
}

// Incidents implements [store.Store].
func (s *Store) Incidents(ctx context.Context, q store.IncidentQuery) ([]incident.Incident, error) {
	where := []string{"1"}
	var args []any
	add := func(condition string, a ...any) {
		where = append(where, condition)
		args = append(args, a...)
	}
	if q.ASN != 0 {
		add(`has(asns, ?)`, q.ASN)
	}
	if q.Before > 0 {
		add(`last_sequence < ?`, q.Before)
	}
	if q.Status != "" {
		add(`status = ?`, string(q.Status))
	}
	if len(q.Kinds) > 0 {
		kinds := make([]string, len(q.Kinds))
		for i, k := range q.Kinds {
			kinds[i] = string(k)
		}
		add(`kind IN (?)`, kinds)
	}
	if q.MinSeverity != "" {
		add(`severity >= ?`, q.MinSeverity.Rank())
	}
	if !q.To.IsZero() {
		add(`toUnixTimestamp64Micro(started_at) < ?`, q.To.UnixMicro())
	}
	if !q.From.IsZero() {
		add(`(ended_at IS NULL OR toUnixTimestamp64Micro(assumeNotNull(ended_at)) >= ?)`, q.From.UnixMicro())
	}
	if q.Prefix.IsValid() {
		first, last := bounds(q.Prefix)
		add(fmt.Sprintf(`arrayExists((f, l) -> f <= unhex('%x') AND l >= unhex('%x'), first_addresses, last_addresses)`, last, first))
	}
	events, err := s.events(ctx, fmt.Sprintf(`SELECT body FROM journal WHERE entry = 'event' AND (incident_id, sequence) IN (
		SELECT incident_id, last_sequence FROM incidents WHERE %s ORDER BY last_sequence DESC LIMIT %d) ORDER BY sequence DESC, version DESC LIMIT 1 BY sequence`,
		strings.Join(where, " AND "), batch.LimitOf(q.Limit)), args...)
	list := make([]incident.Incident, len(events))
	for i := range events {
		list[i] = events[i].Incident
	}
	return list, err
}

// Events implements [store.Store].
func (s *Store) Events(ctx context.Context, id string, after uint64, limit int) ([]incident.Event, error) {
	const rest = ` AND sequence > ? ORDER BY sequence, version DESC LIMIT 1 BY sequence LIMIT ?`
	if id == "" {
		return s.events(ctx, `SELECT body FROM journal WHERE entry = 'event'`+rest, after, batch.LimitOf(limit))
	}
	return s.events(ctx, `SELECT body FROM journal WHERE entry = 'event' AND incident_id = ?`+rest, id, after, batch.LimitOf(limit))
}

func (s *Store) events(ctx context.Context, query string, args ...any) ([]incident.Event, error) {
	list := []incident.Event{}
	err := s.rows(ctx, func(r api.Rows) error {
		var text string
		var e incident.Event
		err := r.Scan(&text)
		if err == nil {
			err = json.Unmarshal([]byte(text), &e)
		}
		list = append(list, e)
		return err
	}, query, args...)
	if err != nil {
		return nil, err
	}
	return list, nil
}

// LastSequence implements [store.Store].
func (s *Store) LastSequence(ctx context.Context) (uint64, error) {
	st, err := s.latest(ctx)
	return st.sequence, err
}

// WaitEvents implements [store.Store]. It waits for the writer's word, not by asking the server; a Reader's
// goroutine asks, for all who wait.
func (s *Store) WaitEvents(ctx context.Context, after uint64) error {
	for {
		s.mu.Lock()
		sequence, changed := s.state.sequence, s.changed
		s.mu.Unlock()
		if sequence > after {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.running.Done():
			return errClosed
		}
	}
}

// DueDeliveries implements [store.Store].
func (s *Store) DueDeliveries(ctx context.Context, receiver string, now time.Time, limit int) ([]store.Delivery, error) {
	// The keys are found without reading what is sent.
	return s.deliveries(ctx, `(incident_id, sequence, key) IN (SELECT any(incident_id), any(sequence), key FROM journal
		WHERE entry = 'delivery' AND receiver = ? GROUP BY key
		HAVING argMax(state, version) = 'pending' AND ifNull(toUnixTimestamp64Micro(argMax(tuple(next_attempt), version).1), ?) <= ?
		ORDER BY any(sequence), key LIMIT ?)`, receiver, int64(math.MinInt64), now.UnixMicro(), batch.LimitOf(limit))
}

// Deliveries implements [store.Store].
func (s *Store) Deliveries(ctx context.Context, incidentID string) ([]store.Delivery, error) {
	return s.deliveries(ctx, `incident_id = ?`, incidentID)
}

func (s *Store) deliveries(ctx context.Context, where string, args ...any) ([]store.Delivery, error) {
	list := []store.Delivery{}
	err := s.rows(ctx, func(r api.Rows) error {
		var d store.Delivery
		var body, state string
		var attempts uint32
		var created, updated, next, expires *time.Time
		if err := r.Scan(&d.Key, &d.IncidentID, &d.Sequence, &d.Receiver, &body, &state, &attempts, &created, &updated, &next, &expires, &d.LastError, &d.Receipt); err != nil {
			return err
		}
		d.State, d.Attempts = store.DeliveryState(state), int(attempts)
		d.CreatedAt, d.UpdatedAt, d.NextAttempt, d.ExpiresAt = timeOf(created), timeOf(updated), timeOf(next), timeOf(expires)
		if body != "" {
			d.Body = []byte(body)
		}
		list = append(list, d)
		return nil
	}, `SELECT key, i, q, f.1, f.2, l.1, l.2, f.3, l.3, l.4, f.4, l.5, l.6 FROM (SELECT key, any(incident_id) AS i, any(sequence) AS q,
			argMin((receiver, body, created_at, expires_at), version) AS f,
			argMax((state, attempts, updated_at, next_attempt, last_error, receipt), version) AS l
		FROM journal WHERE entry = 'delivery' AND `+where+` GROUP BY key) ORDER BY q, key`, args...)
	if err != nil {
		return nil, err
	}
	return list, nil
}

// UpdateDelivery implements [store.Store]: a further row says how the delivery stands; what is sent is in the first.
func (s *Store) UpdateDelivery(ctx context.Context, d store.Delivery) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.write(ctx, func(ctx context.Context) error {
		stored := d
		stored.Body = nil
		err := s.conn.QueryRow(ctx, `SELECT incident_id, sequence, receiver FROM journal WHERE entry = 'delivery' AND key = ? LIMIT 1`, d.Key).
			Scan(&stored.IncidentID, &stored.Sequence, &stored.Receiver)
		if errors.Is(err, sql.ErrNoRows) {
			return refused{fmt.Errorf("delivery %q: %w", d.Key, store.ErrNotFound)}
		}
		if err != nil {
			return err
		}
		return s.insert(ctx, insertEvents, func(b api.Batch) error { return s.appendDelivery(b, &stored, "") })
	})
}
