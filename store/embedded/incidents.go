package embedded

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

// CommitEvents implements [store.Store].
func (s *Store) CommitEvents(ctx context.Context, events []incident.Event, deliveries []store.Delivery) error {
	bodies := make([][]byte, len(events))
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
		bodies[i] = batch.Compress(nil, text)
	}
	return s.do(ctx, &request{apply: func(t *transaction) error {
		stored := 0
		for i := range events {
			isNew, err := t.putEvent(&events[i], bodies[i])
			if err != nil {
				return fmt.Errorf("event %d of incident %q: %w", events[i].Sequence, events[i].Incident.ID, err)
			}
			if isNew {
				stored++
			}
		}
		for i := range deliveries {
			if err := t.putDelivery(&deliveries[i]); err != nil {
				return fmt.Errorf("delivery %q: %w", deliveries[i].Key, err)
			}
		}
		t.after = append(t.after, func() { s.metrics.events.Add(float64(stored)) })
		return nil
	}})
}

// putEvent stores e unless it is there, and what it says about its incident unless something newer is known.
func (t *transaction) putEvent(e *incident.Event, body []byte) (isNew bool, err error) {
	switch err := t.queryRow(`SELECT 1 FROM events WHERE sequence = ?`, e.Sequence).Scan(new(int)); {
	case err == nil:
		return false, nil
	case !errors.Is(err, sql.ErrNoRows):
		return false, err
	}
	in := &e.Incident
	var ended any
	if in.EndedAt != nil {
		ended = in.EndedAt.UnixMicro()
	}
	var id int64
	var before uint64
	err = t.queryRow(`SELECT id, sequence FROM incidents WHERE incident_id = ?`, in.ID).Scan(&id, &before)
	newest := true
	switch {
	case errors.Is(err, sql.ErrNoRows):
		err = t.queryRow(`INSERT INTO incidents (incident_id, sequence, status, kind, severity, started_at, ended_at)
			VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id`,
			in.ID, e.Sequence, in.Status, in.Kind, in.Severity.Rank(), in.StartedAt.UnixMicro(), ended).Scan(&id)
	case err == nil && e.Sequence > before:
		_, err = t.exec(`UPDATE incidents SET sequence = ?, status = ?, kind = ?, severity = ?, started_at = ?, ended_at = ? WHERE id = ?`,
			e.Sequence, in.Status, in.Kind, in.Severity.Rank(), in.StartedAt.UnixMicro(), ended, id)
	case err == nil:
		newest = false
	}
	if err != nil {
		return false, err
	}
	if _, err := t.exec(`INSERT INTO events (sequence, incident, body) VALUES (?, ?, ?)`, e.Sequence, id, body); err != nil {
		return false, err
	}
	t.state.sequence = max(t.state.sequence, e.Sequence)
	if !newest {
		return true, nil
	}
	var asns, keys [][]any
	for _, list := range [][]uint32{in.Offenders, in.Accomplices, in.Victims} {
		for _, a := range list {
			asns = append(asns, []any{a, e.Sequence, id})
		}
	}
	for _, p := range in.Prefixes {
		if p.Prefix.IsValid() {
			keys = append(keys, []any{prefixKey(p.Prefix), id})
		}
	}
	if err := t.replaceIndex("incident_asns", id, asns); err != nil {
		return false, err
	}
	return true, t.replaceIndex("incident_prefixes", id, keys)
}

// replaceIndex makes rows the ones by which the incident is found through table.
func (t *transaction) replaceIndex(table string, id int64, rows [][]any) error {
	if _, err := t.exec(`DELETE FROM `+table+` WHERE incident = ?`, id); err != nil {
		return err
	}
	for chunk := range slices.Chunk(rows, 200) {
		row := `(` + marks(len(chunk[0])) + `),`
		_, err := t.exec(`INSERT OR IGNORE INTO `+table+` VALUES `+strings.TrimSuffix(strings.Repeat(row, len(chunk)), ","), slices.Concat(chunk...)...)
		if err != nil {
			return err
		}
	}
	return nil
}

// Incident implements [store.Store].
func (s *Store) Incident(ctx context.Context, id string) (incident.Incident, error) {
	var body []byte
	err := s.read.QueryRowContext(ctx, `SELECT e.body FROM incidents i JOIN events e ON e.sequence = i.sequence WHERE i.incident_id = ?`, id).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return incident.Incident{}, fmt.Errorf("incident %q: %w", id, store.ErrNotFound)
	}
	if err != nil {
		return incident.Incident{}, fmt.Errorf("store %s: incident %q: %w", s.cfg.Directory, id, err)
	}
	e, err := decodeEvent(body)
	if err != nil {
		return incident.Incident{}, fmt.Errorf("store %s: incident %q: %w", s.cfg.Directory, id, err)
	}
	return e.Incident, nil
}

// Incidents implements [store.Store].
func (s *Store) Incidents(ctx context.Context, q store.IncidentQuery) ([]incident.Incident, error) {
	from, sequence := `incidents i`, `i.sequence`
	var where []string
	var args []any
	add := func(condition string, a ...any) {
		where = append(where, condition)
		args = append(args, a...)
	}
	if q.ASN != 0 {
		from, sequence = `incident_asns a JOIN incidents i ON i.id = a.incident`, `a.sequence`
		add(`a.asn = ?`, q.ASN)
	}
	if q.Before > 0 {
		add(sequence+` < ?`, min(q.Before, 1<<63-1))
	}
	if q.Status != "" {
		add(`i.status = ?`, q.Status)
	}
	if len(q.Kinds) > 0 {
		kinds := make([]any, len(q.Kinds))
		for i, k := range q.Kinds {
			kinds[i] = k
		}
		add(`i.kind IN (`+marks(len(kinds))+`)`, kinds...)
	}
	if q.MinSeverity != "" {
		add(`i.severity >= ?`, q.MinSeverity.Rank())
	}
	if !q.To.IsZero() {
		add(`i.started_at < ?`, q.To.UnixMicro())
	}
	if !q.From.IsZero() {
		add(`(i.ended_at IS NULL OR i.ended_at >= ?)`, q.From.UnixMicro())
	}
	if q.Prefix.IsValid() {
		lo, hi := coveredRange(q.Prefix)
		keys := []any{lo, hi}
		for _, k := range coveringKeys(q.Prefix) {
			keys = append(keys, k)
		}
		add(`i.id IN (SELECT incident FROM incident_prefixes WHERE key BETWEEN ? AND ?
			UNION SELECT incident FROM incident_prefixes WHERE key IN (`+marks(len(keys)-2)+`))`, keys...)
	}
	query := `SELECT e.body FROM ` + from + ` JOIN events e ON e.sequence = ` + sequence
	if len(where) > 0 {
		query += ` WHERE ` + strings.Join(where, ` AND `)
	}
	query += ` ORDER BY ` + sequence + ` DESC LIMIT ?`
	events, err := s.events(ctx, query, append(args, batch.LimitOf(q.Limit))...)
	list := make([]incident.Incident, len(events))
	for i := range events {
		list[i] = events[i].Incident
	}
	return list, err
}

// Events implements [store.Store].
func (s *Store) Events(ctx context.Context, id string, after uint64, limit int) ([]incident.Event, error) {
	after = min(after, 1<<63-1)
	if id == "" {
		return s.events(ctx, `SELECT body FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?`, after, batch.LimitOf(limit))
	}
	return s.events(ctx, `SELECT body FROM events WHERE incident = (SELECT id FROM incidents WHERE incident_id = ?) AND sequence > ?
		ORDER BY sequence LIMIT ?`, id, after, batch.LimitOf(limit))
}

func (s *Store) events(ctx context.Context, query string, args ...any) ([]incident.Event, error) {
	fail := func(err error) ([]incident.Event, error) {
		return nil, fmt.Errorf("store %s: reading events: %w", s.cfg.Directory, err)
	}
	rows, err := s.read.QueryContext(ctx, query, args...)
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	list := []incident.Event{}
	var body sql.RawBytes
	for rows.Next() {
		if err := rows.Scan(&body); err != nil {
			return fail(err)
		}
		e, err := decodeEvent(body)
		if err != nil {
			return fail(err)
		}
		list = append(list, e)
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return list, nil
}

func decodeEvent(body []byte) (e incident.Event, err error) {
	text, err := batch.Decompress(nil, body)
	if err != nil {
		return e, err
	}
	return e, json.Unmarshal(text, &e)
}

// LastSequence implements [store.Store].
func (s *Store) LastSequence(context.Context) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.sequence, nil
}

// WaitEvents implements [store.Store]. It waits for the writer's word, not by asking the database.
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

// putDelivery stores d unless it is there.
func (t *transaction) putDelivery(d *store.Delivery) error {
	if d.Key == "" {
		return errors.New("it needs a key")
	}
	var id int64
	err := t.queryRow(`SELECT id FROM incidents WHERE incident_id = ?`, d.IncidentID).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("its incident %q: %w", d.IncidentID, store.ErrNotFound)
	}
	if err != nil {
		return err
	}
	_, err = t.exec(`INSERT INTO deliveries (key, incident, sequence, receiver, body, state, attempts, created_at, updated_at, next_attempt,
		expires_at, last_error, receipt) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING`,
		d.Key, id, d.Sequence, d.Receiver, d.Body, d.State, d.Attempts, micros(d.CreatedAt), micros(d.UpdatedAt), micros(d.NextAttempt),
		micros(d.ExpiresAt), d.LastError, d.Receipt)
	return err
}

// DueDeliveries implements [store.Store].
func (s *Store) DueDeliveries(ctx context.Context, receiver string, now time.Time, limit int) ([]store.Delivery, error) {
	return s.deliveries(ctx, `d.state = 'pending' AND d.receiver = ? AND coalesce(d.next_attempt, ?) <= ? ORDER BY d.sequence, d.key LIMIT ?`,
		receiver, now.UnixMicro(), now.UnixMicro(), batch.LimitOf(limit))
}

// Deliveries implements [store.Store].
func (s *Store) Deliveries(ctx context.Context, incidentID string) ([]store.Delivery, error) {
	return s.deliveries(ctx, `i.incident_id = ? ORDER BY d.sequence, d.key`, incidentID)
}

func (s *Store) deliveries(ctx context.Context, rest string, args ...any) ([]store.Delivery, error) {
	fail := func(err error) ([]store.Delivery, error) {
		return nil, fmt.Errorf("store %s: reading deliveries: %w", s.cfg.Directory, err)
	}
	rows, err := s.read.QueryContext(ctx, `SELECT d.key, i.incident_id, d.sequence, d.receiver, d.body, d.state, d.attempts, d.created_at,
		d.updated_at, d.next_attempt, d.expires_at, d.last_error, d.receipt FROM deliveries d JOIN incidents i ON i.id = d.incident WHERE `+rest, args...)
	if err != nil {
		return fail(err)
	}
	defer rows.Close()
	list := []store.Delivery{}
	for rows.Next() {
		var d store.Delivery
		var created, updated, next, expires sql.NullInt64
		if err := rows.Scan(&d.Key, &d.IncidentID, &d.Sequence, &d.Receiver, &d.Body, &d.State, &d.Attempts, &created, &updated, &next, &expires,
			&d.LastError, &d.Receipt); err != nil {
			return fail(err)
		}
		d.CreatedAt, d.UpdatedAt, d.NextAttempt, d.ExpiresAt = timeOf(created), timeOf(updated), timeOf(next), timeOf(expires)
		list = append(list, d)
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	return list, nil
}

// UpdateDelivery implements [store.Store].
func (s *Store) UpdateDelivery(ctx context.Context, d store.Delivery) error {
	return s.do(ctx, &request{apply: func(t *transaction) error {
		r, err := t.exec(`UPDATE deliveries SET state = ?, attempts = ?, next_attempt = ?, last_error = ?, receipt = ?, updated_at = ? WHERE key = ?`,
			d.State, d.Attempts, micros(d.NextAttempt), d.LastError, d.Receipt, micros(d.UpdatedAt), d.Key)
		if err != nil {
			return err
		}
		if n, err := r.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, fmt.Errorf("delivery %q: %w", d.Key, store.ErrNotFound))
		}
		return nil
	}})
}

func marks(n int) string { return strings.TrimSuffix(strings.Repeat("?,", n), ",") }

// prefixKey orders prefixes by family, address and length, so that a prefix is followed by its
// more-specifics and by nothing else until they end.
func prefixKey(p netip.Prefix) []byte {
	p = p.Masked()
	if p.Addr().Is4() {
		a := p.Addr().As4()
		return append(append([]byte{4}, a[:]...), byte(p.Bits()))
	}
	a := p.Addr().As16()
	return append(append([]byte{6}, a[:]...), byte(p.Bits()))
}

// coveredRange gives the first and last key that p or a more-specific of it may have.
func coveredRange(p netip.Prefix) (lo, hi []byte) {
	lo = prefixKey(p)
	hi = slices.Clone(lo)
	addr := hi[1 : len(hi)-1]
	for i := p.Bits(); i < 8*len(addr); i++ {
		addr[i/8] |= 0x80 >> (i % 8)
	}
	hi[len(hi)-1] = 0xff
	return lo, hi
}

// coveringKeys gives the keys of p and of every prefix that covers it, in order.
func coveringKeys(p netip.Prefix) [][]byte {
	keys := make([][]byte, 0, p.Bits()+1)
	for l := 0; l <= p.Bits(); l++ {
		keys = append(keys, prefixKey(netip.PrefixFrom(p.Addr(), l)))
	}
	return keys
}
