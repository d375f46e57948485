package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/compare"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/past"
	"github.com/routevigil/routevigil/detect/refresh"
	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/detect/rpki/journal"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
	"github.com/routevigil/routevigil/store/embedded"
)

// BacktestOptions say what of the history is judged again.
type BacktestOptions struct {
	From, To   time.Time            // event time, [From, To)
	Warmup     time.Duration        // how far before From to learn from the history, where no state was kept
	RIB        []string             // table dumps of before From to take as normal, in place of a state and of learning
	Configured bool                 // compare with reference data as they are configured now, not as they were kept
	Progress   func(done time.Time) // called now and then with the event time reached; may be nil
}

// Backtest is what came of judging a piece of the history again.
type Backtest struct {
	From        time.Time            `json:"from"`
	To          time.Time            `json:"to"`
	RIB         []string             `json:"rib,omitempty"`         // where it began with table dumps: which
	LearnedFrom time.Time            `json:"learned_from,omitzero"` // where it began with nothing: from when on the history was learned as normal, up to From
	Basis       Basis                `json:"basis"`                 // of From, with what makes the comparison unfair
	Updates     uint64               `json:"updates"`               // prefixes announced and withdrawn that were judged, those before From included
	Stored      int                  `json:"stored"`                // incidents of the store that were under way in the period
	Found       int                  `json:"found"`                 // those that are found now
	Same        int                  `json:"same"`
	Differences []compare.Difference `json:"-"`
}

// lateness is by how much updates may come later than their event time says: so much of what came before a state is
// applied to it again, which changes nothing where it is in there already.
const lateness = time.Minute

// RunBacktest judges what the store of c has of a period again, by the rules, the watches and the knowledge of c, and
// compares what is found with the incidents that are stored, each as it stood at the end of the period. A service may
// be using the store; nothing is changed there.
//
// It begins with table dumps if any are given, else with the last state of the detector that was kept before the
// period, else it learns from the updates before it.
func RunBacktest(ctx context.Context, c config.Config, o BacktestOptions, log *slog.Logger) (*Backtest, error) {
	history, err := openHistory(ctx, c.Store, log)
	if err != nil {
		return nil, err
	}
	b := backtester{options: o, config: c, log: log, store: history, last: map[string]incident.Incident{},
		result: &Backtest{From: o.From.UTC(), To: o.To.UTC(), Basis: Basis{At: o.From.UTC(), Sources: []past.Source{}, Gaps: []string{}}}}
	err = b.run(ctx)
	return b.result, errors.Join(err, history.Close())
}

func openHistory(ctx context.Context, c config.Store, log *slog.Logger) (store.Reader, error) {
	if c.Kind == config.ClickHouse {
		return openClickHouse(ctx, c, log)
	}
	return embedded.OpenReader(ctx, c.Directory)
}

type backtester struct {
	options BacktestOptions
	config  config.Config
	log     *slog.Logger
	store   store.Reader
	result  *Backtest
	last    map[string]incident.Incident // as each stood at the last event before the end
}

func (b *backtester) gap(format string, args ...any) { b.result.Basis.gap(format, args...) }

func (b *backtester) run(ctx context.Context) error {
	st, err := b.store.Stats(ctx)
	if err != nil {
		return err
	}
	if st.Updates == 0 || !st.OldestUpdate.Before(b.options.To) {
		return fmt.Errorf("there is no history from before %s in the store: it is not kept any more (store.retention), or there was no service then", moment(b.options.To))
	}
	if st.OldestUpdate.After(b.options.From) {
		b.gap("The history begins at %s: what came before is missing, as after retention, and incidents of that time are not found.", moment(st.OldestUpdate))
	}
	stored, err := b.stored(ctx)
	if err != nil {
		return err
	}
	m, err := past.At(filepath.Join(knowledgeFolder(b.config.Store.Directory), pastName), b.options.From)
	if errors.Is(err, past.ErrUnknown) || errors.Is(err, fs.ErrNotExist) {
		m, err = &past.Moment{At: b.options.From}, nil
	}
	if err != nil {
		return err
	}
	b.result.Basis.tell(m)
	a := archivist{Moment: m, basis: &b.result.Basis}
	knowledge, err := b.knowledge(ctx, &a)
	if err != nil {
		return err
	}
	engine, start, err := b.begin(&a, knowledge)
	if err != nil {
		return err
	}
	latest, err := b.replay(ctx, engine, start)
	if err != nil {
		return err
	}
	for _, inc := range stored { // time went on without updates as well, but not beyond what the service saw
		if inc.UpdatedAt.After(latest) {
			latest = inc.UpdatedAt
		}
	}
	engine.Advance(ingest.TimeOf(latest) + 1)
	if latest.Before(b.options.To.Add(-lateness)) {
		b.gap("The last update before the end of the period is of %s: of what came after, nothing is stored.", moment(latest))
	}
	found := b.found()
	b.result.Stored, b.result.Found = len(stored), len(found)
	b.result.Differences, b.result.Same = compare.Incidents(stored, found)
	return nil
}

// under reports whether an incident, as it stood at the end of the period, was under way in it.
func (b *backtester) under(x *incident.Incident) bool {
	return x.DetectedAt.Before(b.options.To) && (x.EndedAt == nil || !x.EndedAt.Before(b.options.From))
}

// stored returns the incidents of the store, each as it stood at the end of the period.
func (b *backtester) stored(ctx context.Context) ([]incident.Incident, error) {
	const page = 500
	var list []incident.Incident
	for before := uint64(0); ; {
		incidents, err := b.store.Incidents(ctx, store.IncidentQuery{From: b.options.From, To: b.options.To, Before: before, Limit: page})
		if err != nil {
			return nil, err
		}
		for _, x := range incidents {
			before = x.Sequence
			then, ok, err := b.then(ctx, x.ID)
			if err != nil {
				return nil, err
			}
			if ok && b.under(&then) {
				list = append(list, then)
			}
		}
		if len(incidents) < page {
			return list, nil
		}
	}
}

// then returns an incident as it stood at the end of the period; false where it had not been detected.
func (b *backtester) then(ctx context.Context, id string) (x incident.Incident, ok bool, err error) {
	const page = 500
	for after := uint64(0); ; {
		events, err := b.store.Events(ctx, id, after, page)
		if err != nil {
			return x, false, err
		}
		for i := range events {
			after = events[i].Sequence
			if events[i].Time.Before(b.options.To) {
				x, ok = events[i].Incident, true
			}
		}
		if len(events) < page {
			return x, ok, nil
		}
	}
}

// found returns what the engine found, in no order.
func (b *backtester) found() (list []incident.Incident) {
	for _, x := range b.last {
		if b.under(&x) {
			list = append(list, x)
		}
	}
	return list
}

func (b *backtester) event(ev incident.Event) {
	if ev.Time.Before(b.options.To) {
		b.last[ev.Incident.ID] = ev.Incident
	}
}

// begin makes the engine: of the state that was kept before the period, or of nothing. It returns from when on it needs
// the history.
func (b *backtester) begin(a *archivist, k detect.Knowledge) (*detect.Engine, time.Time, error) {
	if len(b.options.RIB) > 0 {
		b.result.RIB = b.options.RIB
		b.gap("What was normal is taken from table dumps. Incidents that had begun before the period are not found, and of how long what is in the dumps had been there nothing is known.")
		e := detect.New(b.config.Detect, k, b.event)
		return e, b.options.From, loadBaseline(b.options.RIB, e, b.log)
	}
	if s, ok := a.Source(detectorState); ok && s.Path != "" {
		// What is in the state was judged under the watches of then, and is judged anew where those of now differ.
		watches := k.Watches
		if s, ok := a.Source(settings); ok && s.Path != "" {
			if err := a.readSettings(); err != nil {
				return nil, time.Time{}, err
			}
			watches = a.settings.Watches
		}
		then := k
		then.Watches = watches
		engine := detect.New(b.config.Detect, then, b.event)
		state, err := s.Content()
		if err == nil {
			err = engine.Restore(state)
		}
		if err == nil {
			return b.resume(engine, k, s.Copy, !reflect.DeepEqual(watches, k.Watches))
		}
		b.gap("The state of the detector of %s cannot be used, as after a change of version (%v).", moment(s.Copy), err)
	}
	start := b.options.From.Add(-b.options.Warmup)
	b.result.LearnedFrom = start.UTC()
	b.gap("No state of the detector from before the period is kept: what was normal is learned from the updates of %s before it, in which most routes do not occur. So what was never seen counts for little, as in a service that was given no table dump: incidents that rest on that alone are not found, and none that had begun before. A table dump (--rib) helps.",
		b.options.Warmup)
	c := b.config.Detect
	c.Warmup = 1 << 62 // until the period begins
	return detect.New(c, k, b.event), start, nil
}

func (b *backtester) resume(engine *detect.Engine, k detect.Knowledge, saved time.Time, rewatch bool) (*detect.Engine, time.Time, error) {
	b.result.Basis.DetectorState, b.result.Basis.DetectorAge = saved, b.options.From.Sub(saved).Seconds()
	if rewatch {
		engine.Replace(k)
	}
	if learning, _ := engine.Learning(); learning {
		b.gap("In the state of %s the detector was still learning what is normal.", moment(saved))
	}
	for _, x := range engine.Incidents() {
		b.last[x.ID] = x
	}
	if engine.Infers() {
		b.gap("Relationships between ASes are inferred. The service infers them anew every hour; here those of the state of %s are used throughout.", moment(saved))
	}
	if clock := engine.Clock(); clock != 0 {
		return engine, clock.Time().Add(-lateness), nil
	}
	return engine, saved.Add(-lateness), nil
}

// replay lets the engine judge the history from start to the end of the period. It returns the last event time.
func (b *backtester) replay(ctx context.Context, e *detect.Engine, start time.Time) (latest time.Time, err error) {
	from := ingest.TimeOf(b.options.From)
	learning := !b.result.LearnedFrom.IsZero()
	baseline := func() error {
		if !learning {
			return nil
		}
		learning = false
		e.FinishBaseline()
		if !e.Infers() {
			return nil
		}
		_, err := InferRelationships(ctx, e)
		return err
	}
	var filled int
	rows := b.store.History(ctx, start, b.options.To)
	live := func(yield func(store.Route, error) bool) {
		for r, err := range rows {
			if r.Backfilled { // which the service did not judge either
				filled++
				continue
			}
			if !yield(r, err) {
				return
			}
		}
	}
	n := 0
	for u, err := range batch.Updates(live) {
		if err != nil {
			return latest, err
		}
		if u.Time >= from {
			if err := baseline(); err != nil {
				return latest, err
			}
		}
		b.result.Updates += uint64(len(u.Announced) + len(u.Withdrawn))
		e.Apply(u)
		if n++; n%4096 == 0 {
			if err := ctx.Err(); err != nil {
				return latest, err
			}
			if b.options.Progress != nil {
				b.options.Progress(e.Clock().Time())
			}
		}
	}
	if filled > 0 {
		b.gap("%d routes of the history were filled in later from archives. The service did not judge them, and neither does the backtest.", filled)
	}
	return e.Clock().Time(), baseline()
}

// knowledge returns what verdicts are compared with: of each source that the configuration names, what was in use when
// the period began, where a copy of that is kept, else what is there now. What is not as it was then is told.
func (b *backtester) knowledge(ctx context.Context, a *archivist) (k detect.Knowledge, err error) {
	f := b.config.Knowledge // of which what is kept is taken out
	var loads []func() error
	if b.options.Configured {
		b.gap("Reference data are those that the configuration names, as they are now (--knowledge configured).")
	} else {
		if loads, err = b.kept(a, &f, &k); err != nil {
			return k, err
		}
	}
	now, err := b.configured(f)
	if err != nil {
		return k, err
	}
	k.Declared, k.Watches = now.Declared, b.config.Watches
	for _, load := range loads {
		if err := load(); err != nil {
			return k, err
		}
	}
	k.VRPs = cmp.Or(k.VRPs, now.VRPs)
	k.Relationships = cmp.Or(k.Relationships, now.Relationships)
	k.Delegations = cmp.Or(k.Delegations, now.Delegations)
	k.IRR = cmp.Or(k.IRR, now.IRR)
	if f.Organisations != "" { // it comes before PeeringDB
		k.Organisations = now.Organisations.Or(k.Organisations)
	} else {
		k.Organisations = k.Organisations.Or(now.Organisations)
	}
	if f.PeeringDB != "" {
		k.RouteServers, k.Hypergiants = now.RouteServers, now.Hypergiants
	}
	if len(f.IRR.Mirrors) > 0 {
		if k.IRR, err = b.mirrors(ctx, a, k.IRR); err != nil {
			return k, err
		}
	}
	if server, ok := b.config.Knowledge.IRR.Server(); ok && len(b.config.Watches.ASSets()) > 0 {
		b.gap("The members of the as-sets of watches are those that %s gives now.", server.Address)
		if k.WatchSets, err = server.ASSets(ctx, b.config.Watches.ASSets()); err != nil {
			return k, fmt.Errorf("as_sets of watches: %w", err)
		}
	}
	return k, nil
}

// kept takes out of f what was kept of the beginning of the period, and returns what reads that into k.
func (b *backtester) kept(a *archivist, f *detect.KnowledgeFiles, k *detect.Knowledge) (loads []func() error, err error) {
	// copyOf finds the copy of a source that the configuration still takes from the same place.
	copyOf := func(name, location string) (past.Source, bool) {
		s, ok := a.Source(name)
		return s, ok && s.Path != "" && s.Missing == "" && s.Location == refresh.Printable(location)
	}
	take := func(name string, location *string, load func(path, from string) error) {
		if *location == "" {
			return
		}
		s, ok := copyOf(name, *location)
		if !ok {
			b.gap("%s: no copy of what was in use then is kept, or the configuration names another place: %s as it is now is used.", name, refresh.Printable(*location))
			return
		}
		*location = ""
		b.result.Basis.Sources = append(b.result.Basis.Sources, s)
		loads = append(loads, func() error { return load(s.Path, s.Location) })
	}
	take("as_rel", &f.Relationships, func(path, from string) (err error) {
		k.Relationships, err = topology.ReadFile(path, from)
		return err
	})
	take("as_org", &f.Organisations, func(path, from string) (err error) {
		k.Organisations, err = topology.ReadOrganisations(path, from)
		return err
	})
	take("peeringdb", &f.PeeringDB, func(path, from string) error {
		db, err := topology.ReadPeeringDB(path, from)
		if err == nil {
			k.Organisations, k.RouteServers, k.Hypergiants = k.Organisations.Or(db.Organisations), db.RouteServers, db.Hypergiants
		}
		return err
	})
	// list is take of files that make one whole: all or none.
	list := func(prefix string, locations *[]string, load func(paths, from []string) error) {
		var paths, from []string
		var sources []past.Source
		for i, location := range *locations {
			if s, ok := copyOf(fmt.Sprintf("%s-%d", prefix, i+1), location); ok {
				paths, from, sources = append(paths, s.Path), append(from, s.Location), append(sources, s)
			}
		}
		switch {
		case len(*locations) == 0:
		case len(paths) < len(*locations):
			b.gap("%s: not of all files is a copy kept of what was in use then, or the configuration names others: as they are now, they are used.", prefix)
		default:
			*locations = nil
			b.result.Basis.Sources = append(b.result.Basis.Sources, sources...)
			loads = append(loads, func() error { return load(paths, from) })
		}
	}
	list("delegated", &f.Delegated, func(paths, from []string) (err error) {
		k.Delegations, err = registry.ReadFiles(paths, from)
		return err
	})
	order := f.IRR.Sources
	list("irr", &f.IRR.Files, func(paths, from []string) (err error) {
		k.IRR, err = irr.ReadFiles(paths, from, order)
		return err
	})
	if f.VRPs != "" || len(f.RTR.Caches) > 0 {
		if err := b.rpki(k); err != nil {
			return nil, err
		}
		if k.VRPs != nil {
			f.VRPs, f.SLURM = "", nil // the exceptions are in it
		}
	}
	return loads, nil
}

// mirrors adds to what the dumps of registries say what the mirrored ones said then.
func (b *backtester) mirrors(ctx context.Context, a *archivist, dumps *irr.Database) (*irr.Database, error) {
	var mirrored []*irr.Database
	for _, m := range b.config.Knowledge.IRR.Mirrors {
		name := mirrorName(m)
		s, ok := a.Source(name)
		if !ok || s.Path == "" || b.options.Configured {
			s = past.Source{Name: name, Location: m.Location(), Path: filepath.Join(knowledgeFolder(b.config.Store.Directory), name+".rpsl.gz")}
			if _, err := os.Stat(s.Path); err != nil {
				b.gap("%s: there is no copy. It is left out.", name)
				continue
			}
			if !b.options.Configured {
				b.gap("%s: no copy of what was in use then is kept: what the service has now is used.", name)
			}
		} else {
			b.result.Basis.Sources = append(b.result.Basis.Sources, s)
		}
		db, err := readRegistries(ctx, nil, netip.Prefix{}, s)
		if err != nil {
			return nil, err
		}
		mirrored = append(mirrored, db)
	}
	return irr.Merge(b.config.Knowledge.IRR.Sources, dumps, mirrored...), nil
}

// rpki takes what the RPKI said when the period began.
func (b *backtester) rpki(k *detect.Knowledge) error {
	folder := filepath.Join(knowledgeFolder(b.config.Store.Directory), rpkiName)
	set, since, err := journal.At(folder, b.options.From)
	if errors.Is(err, journal.ErrUnknown) || errors.Is(err, fs.ErrNotExist) {
		now := "it is left out: there are no VRPs in a file"
		if b.config.Knowledge.VRPs != "" {
			now = "what " + refresh.Printable(b.config.Knowledge.VRPs) + " says now is used"
		}
		b.gap("What the RPKI said then was not recorded: %s.", now)
		return nil
	}
	if err != nil {
		return err
	}
	if set == nil {
		b.gap("There were no data of the RPKI that could be used then, since %s; those of now are used, if there are any.", moment(since))
		return nil
	}
	k.VRPs, b.result.Basis.RPKISince = set, since
	if _, last, err := journal.At(folder, b.options.To); err == nil && last.After(since) {
		b.gap("What the RPKI said changed in the period, last at %s; the backtest uses what it said at the beginning throughout.", moment(last))
	}
	return nil
}

// configured reads what of the files is not taken from what was kept. Of an address there is the service's copy.
func (b *backtester) configured(f detect.KnowledgeFiles) (detect.Knowledge, error) {
	folder := knowledgeFolder(b.config.Store.Directory)
	local := func(name string, location *string) {
		if refresh.IsURL(*location) {
			*location = filepath.Join(folder, name)
		}
	}
	local("vrps", &f.VRPs)
	local("as_rel", &f.Relationships)
	local("as_org", &f.Organisations)
	local("peeringdb", &f.PeeringDB)
	f.Delegated, f.IRR.Files = slices.Clone(f.Delegated), slices.Clone(f.IRR.Files)
	for i := range f.Delegated {
		local(fmt.Sprintf("delegated-%d", i+1), &f.Delegated[i])
	}
	for i := range f.IRR.Files {
		local(fmt.Sprintf("irr-%d", i+1), &f.IRR.Files[i])
	}
	k, err := f.Load()
	if err != nil {
		return k, fmt.Errorf("reference data: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return k, nil
}
