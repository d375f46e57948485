package backfill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/archive"
	"github.com/routevigil/routevigil/ingest/archive/fetch"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/mrt"
	"github.com/routevigil/routevigil/store"
)

// errOnItsWay is that what the gap is to be told from is not in the history yet.
var errOnItsWay = errors.New("the first update after the gap is not stored yet")

// local reports whether an attempt failed for a reason on this side, which says nothing about the archive.
func local(err error) bool {
	return errors.Is(err, store.ErrUnavailable) || errors.Is(err, errOnItsWay)
}

// damage is that a gap was filled from files of which parts could not be read.
type damage struct{ records int }

func (d *damage) Error() string {
	return fmt.Sprintf("%d damaged records of the archive were passed over", d.records)
}

// attempt takes those files of the archive that are there and have not been taken, in their order. It stops
// at the first that is missing or no good; the last attempt goes on after that. The error says what is
// missing; it is a *damage where that is nothing that another attempt would bring.
func (f *Filler) attempt(ctx context.Context, g *ingest.Gap, last bool) error {
	// The client's log tells people at a terminal what is missing; here the gap's error does.
	client, err := fetch.New(f.archive, f.userAgent, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer client.Close()
	from, to := period(g)
	files, err := client.Plan(ctx, fetch.Request{Collectors: []string{g.Collector}, From: from, To: to, Updates: true})
	if err != nil {
		return err
	}
	known, ended, err := f.known(ctx, g)
	if err != nil {
		return err
	}
	f.mu.Lock()
	onItsWay := f.ended[g.ID]
	f.mu.Unlock()
	if onItsWay && !ended { // as while the store refuses writes
		return errOnItsWay
	}
	var missing []error
	damaged := 0
	reached := from
	for _, file := range files {
		if file.Start.After(reached) {
			missing = append(missing, missingFrom(reached, file.Start))
		}
		if file.End.After(reached) {
			reached = file.End
		}
		if file.Start.Before(g.File) {
			continue
		}
		if len(missing) > 0 && !last {
			break
		}
		passed, err := f.take(ctx, client, file, g, known, last)
		damaged += passed
		if ctx.Err() != nil || local(err) {
			return err
		}
		if err != nil {
			missing = append(missing, err)
		}
	}
	if len(missing) == 0 && reached.Before(to) {
		missing = append(missing, missingFrom(reached, to))
	}
	if len(missing) > 0 {
		return errors.Join(missing...)
	}
	if damaged > 0 {
		return &damage{damaged}
	}
	return nil
}

func missingFrom(from, to time.Time) error {
	return fmt.Errorf("the archive has no updates from %s to %s", from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339))
}

// take fetches a file and adds those of its updates that lie in the gap and are not known. passed is how many
// damaged records there were. A file of which the rest cannot be read is no good, unless there is no other
// attempt.
func (f *Filler) take(ctx context.Context, client *fetch.Client, file fetch.File, g *ingest.Gap, known known, last bool) (passed int, err error) {
	there, err := client.Fetch(ctx, fetch.Request{Collectors: []string{g.Collector}, From: file.Start, To: file.Start.Add(time.Second), Updates: true})
	i := slices.IndexFunc(there, func(t fetch.File) bool { return t.Start.Equal(file.Start) })
	if i < 0 {
		if err == nil {
			err = fmt.Errorf("%s is not there any more", file.URL)
		}
		return 0, err
	}
	path := there[i].Path
	defer os.Remove(path) // also where it is no good: the archive may mend it
	var broken error
	r, err := archive.Open([]string{path}, archive.Options{Collector: g.Collector, Report: func(err error) {
		if _, ok := errors.AsType[*mrt.RecordError](err); ok {
			passed++
			f.damaged.Inc()
		} else {
			broken = err
		}
	}})
	if err != nil {
		return 0, err
	}
	defer r.Close()
	if !g.File.Equal(file.Start) {
		g.File, g.Taken = file.Start, 0
	}
	from, to := period(g)
	first, end := ingest.TimeOf(from), ingest.TimeOf(to)
	var batch ingest.Batch
	seen := uint64(0)
	add := func() error {
		progress := *g
		progress.Taken = seen
		progress.Updates += uint64(len(batch.Updates))
		if len(batch.Updates) > 0 {
			batch.Watermark = batch.Updates[0].Time
			if err := f.store.AppendBackfill(ctx, &batch, &progress); err != nil {
				return err
			}
		}
		f.updates.Add(float64(len(batch.Updates)))
		*g = progress
		batch.Updates = batch.Updates[:0]
		return nil
	}
	for n := 1; ; n++ {
		if n%batchUpdates == 0 && ctx.Err() != nil {
			return passed, ctx.Err()
		}
		u, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return passed, err
		}
		if u.Kind == ingest.RIB || u.Time < first || u.Time >= end || g.PeerASN != 0 && u.Peer.ASN != g.PeerASN {
			continue
		}
		seen++
		missed := known.without(u)
		if seen <= g.Taken || missed.Kind == ingest.Routes && len(missed.Withdrawn)+len(missed.Announced) == 0 {
			continue
		}
		batch.Updates = append(batch.Updates, missed.Clone())
		if len(batch.Updates) >= f.batch {
			if err := add(); err != nil {
				return passed, err
			}
		}
	}
	if err := add(); err != nil {
		return passed, err
	}
	if broken != nil && !last {
		return passed, broken
	}
	g.File, g.Taken = file.Start.Add(time.Second), 0
	return passed, errors.Join(broken, f.store.SaveGap(ctx, g))
}

// known is how often a row was heard live, in the seconds in which a gap begins and ends.
type known map[knownRow]int

// knownRow is what a live feed and an archive say alike of a row: attributes that a feed may lack are left out.
type knownRow struct {
	second int64
	peer   netip.Addr
	asn    uint32
	action store.Action
	prefix netip.Prefix
	path   string
}

// known reads what was heard live in the first and the last second of a gap. ended: the update with
// which it ended is in there.
func (f *Filler) known(ctx context.Context, g *ingest.Gap) (k known, ended bool, err error) {
	from, to := period(g)
	k = known{}
	seconds := []time.Time{from}
	if last := to.Add(-time.Second); last.After(from) {
		seconds = append(seconds, last)
	}
	for _, s := range seconds {
		for r, err := range f.store.Updates(ctx, store.UpdateQuery{Collector: g.Collector, From: s, To: s.Add(time.Second), Limit: 1 << 30}) {
			if err != nil {
				return nil, false, err
			}
			if !r.Backfilled {
				ended = ended || r.Time.Equal(g.Until)
				k[knownRow{s.Unix(), r.PeerIP, r.PeerASN, r.Action, r.Prefix, r.ASPath}]++
			}
		}
	}
	return k, ended, nil
}

// without returns u without the rows that are known, which are known once less then. u is not changed.
func (k known) without(u *ingest.Update) ingest.Update {
	missed := *u
	if len(k) == 0 {
		return missed
	}
	row := knownRow{second: int64(u.Time) / 1e6, peer: u.Peer.Addr, asn: u.Peer.ASN}
	is := func(action store.Action, n bgp.NLRI) bool {
		row.action, row.prefix = action, n.Prefix
		if k[row] == 0 {
			return false
		}
		k[row]--
		return true
	}
	switch u.Kind {
	case ingest.PeerUp, ingest.PeerDown:
		if is(map[ingest.Kind]store.Action{ingest.PeerUp: store.PeerUp, ingest.PeerDown: store.PeerDown}[u.Kind], bgp.NLRI{}) {
			missed.Kind = ingest.Routes // with none
		}
		return missed
	}
	missed.Withdrawn = slices.DeleteFunc(slices.Clone(u.Withdrawn), func(n bgp.NLRI) bool { return is(store.Withdraw, n) })
	if len(u.Announced) > 0 {
		row.path = u.Attrs.ASPath.String()
	}
	missed.Announced = slices.DeleteFunc(slices.Clone(u.Announced), func(n bgp.NLRI) bool { return is(store.Announce, n) })
	return missed
}
