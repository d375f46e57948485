package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/irr/mirror"
	"github.com/routevigil/routevigil/detect/irr/whois"
	"github.com/routevigil/routevigil/detect/past"
	"github.com/routevigil/routevigil/detect/refresh"
	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/rpki/journal"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest/download"
)

// keeper keeps what verdicts are compared with fresh, and gives the detector what is new.
type keeper struct {
	sources []*refresh.Source
	client  *download.Client
	log     *slog.Logger
	news    chan struct{} // holds a token while the detector does not have what is current

	recording sync.Mutex       // held while what is new is put to use and recorded: one after the other
	journal   *journal.Journal // of what the RPKI said; nil where nothing is asked of it
	past      *past.Recorder   // of all else; nil where it is not kept
	folder    string           // of that, and of the copies
	reading   sync.Mutex       // held while copies of the past are read: by one question after the other

	mu      sync.Mutex
	current detect.Knowledge
	since   time.Time // since when its VRPs are in use
	file    *rpki.Set // the VRPs of the file, which those of RTR come before
	rtr     *rpki.Set // with the exceptions

	excepting  sync.Mutex // guards what follows, from a change of it until that is in use
	caches     *rpki.Set  // what RTR says
	exceptions []rpki.Exceptions

	organisations, peeringDB *topology.Organisations // of as_org, which comes before PeeringDB

	registries chan struct{}   // holds a token while what the registries say is to be put together anew
	order      []string        // of registries
	pause      time.Duration   // between twice putting it together
	dumps      *irr.Database   // of the files
	mirrored   []*irr.Database // in the order of the configuration; nil where there is nothing yet

	sets      []string     // as-sets of watches that a server is asked for; none where there is no such server
	server    whois.Client // that is asked
	setsEvery time.Duration

	lossSince time.Time // since when what is read of the file has lost suspiciously much; zero while it has not
}

// newKeeper reads what is on this machine; the error joins what is wrong with each file. Copies of what is on the web,
// and what is kept of the past, are in a folder of the store. Close must be called, also after an error.
func newKeeper(c config.Config, userAgent string, log *slog.Logger, registerer prometheus.Registerer) (*keeper, error) {
	f, folder := c.Knowledge, knowledgeFolder(c.Store.Directory)
	k := &keeper{news: make(chan struct{}, 1), log: log, registries: make(chan struct{}, 1), order: f.IRR.Sources, pause: f.Refresh.Mirrors, folder: folder,
		mirrored: make([]*irr.Database, len(f.IRR.Mirrors))}
	if f.VRPs != "" || len(f.RTR.Caches) > 0 {
		k.openJournal(filepath.Join(folder, rpkiName))
	}
	k.openPast(filepath.Join(folder, pastName), f.Past)
	k.recordSettings(c)
	k.current.Watches = c.Watches
	if server, ok := f.IRR.Server(); ok {
		k.sets, k.server, k.setsEvery = c.Watches.ASSets(), server, f.Refresh.Others
	}
	patience := download.Patience{StallAfter: 30 * time.Second, Attempts: 2, RetryMin: 2 * time.Second, RetryMax: time.Minute}
	k.client = download.New(patience, userAgent, func(string) error { return nil }, log)
	web := &refresh.Fetcher{Client: k.client, Folder: folder, MaxBytes: f.Refresh.MaxFileBytes}
	add := func(name, location string, with []string, every time.Duration, read func(path string) (refresh.Loaded, func(*detect.Knowledge), error)) {
		if location == "" {
			return
		}
		k.sources = append(k.sources, refresh.New(name, location, with, every, web, func(path string) (refresh.Loaded, error) {
			before, _ := os.Stat(path)
			loaded, put, err := read(path)
			if err == nil {
				now := time.Now()
				if put != nil {
					k.use(put)
				}
				if name != "vrps" { // which the journal has
					k.past.File(now, name, path, refresh.Printable(location), before, false)
				}
			}
			return loaded, err
		}, log))
	}
	add("vrps", f.VRPs, f.SLURM, f.Refresh.VRPs, func(path string) (refresh.Loaded, func(*detect.Knowledge), error) {
		set, err := k.readVRPs(path, refresh.Printable(f.VRPs), f.SLURM)
		return refresh.Loaded{Entries: set.Len(), AsOf: set.Built()}, func(now *detect.Knowledge) {
			k.file = set
			now.VRPs = cmp.Or(k.rtr, k.file)
		}, err
	})
	if len(f.RTR.Caches) > 0 && len(f.SLURM) > 0 {
		k.sources = append(k.sources, refresh.New("slurm", f.SLURM[0], f.SLURM[1:], f.Refresh.VRPs, web, func(string) (refresh.Loaded, error) {
			return k.readExceptions(f.SLURM)
		}, log))
	}
	add("as_rel", f.Relationships, nil, f.Refresh.Others, func(path string) (refresh.Loaded, func(*detect.Knowledge), error) {
		r, err := topology.ReadFile(path, refresh.Printable(f.Relationships))
		return refresh.Loaded{Entries: r.Len()}, func(now *detect.Knowledge) { now.Relationships = r }, err
	})
	add("as_org", f.Organisations, nil, f.Refresh.Others, func(path string) (refresh.Loaded, func(*detect.Knowledge), error) {
		o, err := topology.ReadOrganisations(path, refresh.Printable(f.Organisations))
		return refresh.Loaded{Entries: o.Len()}, func(now *detect.Knowledge) {
			k.organisations = o
			now.Organisations = k.organisations.Or(k.peeringDB)
		}, err
	})
	add("peeringdb", f.PeeringDB, nil, f.Refresh.Others, func(path string) (refresh.Loaded, func(*detect.Knowledge), error) {
		db, err := topology.ReadPeeringDB(path, refresh.Printable(f.PeeringDB))
		if err != nil {
			return refresh.Loaded{}, nil, err
		}
		return refresh.Loaded{Entries: db.Organisations.Len()}, func(now *detect.Knowledge) {
			k.peeringDB = db.Organisations
			now.Organisations, now.RouteServers, now.Hypergiants = k.organisations.Or(k.peeringDB), db.RouteServers, db.Hypergiants
		}, nil
	})
	list := func(name string, locations []string, read func(paths, from []string) (refresh.Loaded, func(*detect.Knowledge), error)) {
		g := whole{paths: make([]string, len(locations)), from: make([]string, len(locations)), read: read}
		begun := len(k.sources)
		for i, location := range locations {
			name := fmt.Sprintf("%s-%d", name, i+1)
			home := location
			g.from[i] = refresh.Printable(location)
			if refresh.IsURL(location) {
				home = filepath.Join(folder, name)
			}
			add(name, location, nil, f.Refresh.Others, func(path string) (refresh.Loaded, func(*detect.Knowledge), error) {
				return g.readWith(i, path, home)
			})
		}
		g.sources = k.sources[begun:]
	}
	list("delegated", f.Delegated, func(paths, from []string) (refresh.Loaded, func(*detect.Knowledge), error) {
		d, err := registry.ReadFiles(paths, from)
		return refresh.Loaded{Entries: d.Len()}, func(now *detect.Knowledge) { now.Delegations = d }, err
	})
	list("irr", f.IRR.Files, func(paths, from []string) (refresh.Loaded, func(*detect.Knowledge), error) {
		db, err := irr.ReadFiles(paths, from, f.IRR.Sources)
		c := db.Counts()
		return refresh.Loaded{Entries: c.Routes + c.Sets + c.AutNums}, func(now *detect.Knowledge) {
			if k.dumps = db; len(k.mirrored) == 0 {
				now.IRR = db
			} else {
				signal(k.registries)
			}
		}, err
	})
	metrics := mirror.NewMetrics(registerer)
	for i, c := range f.IRR.Mirrors {
		name := mirrorName(c)
		path := filepath.Join(folder, name+".rpsl.gz")
		m := mirror.New(c, path, k.client, f.Refresh.MaxFileBytes, func(db *irr.Database) {
			k.mu.Lock()
			k.mirrored[i] = db
			k.mu.Unlock()
			signal(k.registries)
			k.past.File(time.Now(), name, path, refresh.Printable(c.Location()), nil, true)
		}, metrics, log)
		k.sources = append(k.sources, refresh.NewFollowed(name, c.Location(), f.Refresh.Mirrors, rememberedMirror{m, name, k.past}, log))
	}
	declared, err := f.DeclaredRelationships()
	k.current.Declared = declared
	errs := []error{f.Check(), err}
	for _, s := range k.sources {
		errs = append(errs, s.Begin(context.Background()))
	}
	select {
	case <-k.registries:
		k.merge()
	default:
	}
	k.past.Start(time.Now(), detectorState)
	select {
	case <-k.news: // the detector begins with it
	default:
	}
	return k, errors.Join(errs...)
}

func knowledgeFolder(store string) string { return filepath.Join(store, "knowledge") }

func mirrorName(c mirror.Configuration) string { return "irr-" + strings.ToLower(c.Source) }

// whole is some files that make one whole.
type whole struct {
	sources []*refresh.Source // of the files
	from    []string          // as evidence names them
	read    func(paths, from []string) (refresh.Loaded, func(*detect.Knowledge), error)

	mu    sync.Mutex
	begun bool
	paths []string               // of those that have been read; "" for the others
	early map[int]refresh.Loaded // those that were read with the first, and have not been asked for
}

// readWith reads all that there is, file i from path, which will be found at home afterwards. With the first that is asked
// for it reads what is there of all, so that the start does not read the first again for each of the others.
func (g *whole) readWith(i int, path, home string) (refresh.Loaded, func(*detect.Knowledge), error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.begun {
		g.begun = true
		if loaded, put, ok := g.readAll(i); ok {
			return loaded, put, nil
		}
	}
	if loaded, ok := g.early[i]; ok {
		delete(g.early, i)
		return loaded, nil, nil
	}
	now := slices.Clone(g.paths)
	now[i] = path
	loaded, put, err := g.readNow(now)
	if err == nil {
		g.paths[i] = home
	}
	return loaded, put, err
}

// readAll reads all that the sources are going to load at the start. Where something is wrong it does nothing: each is then
// read as it is asked for, so that it shows what.
func (g *whole) readAll(first int) (refresh.Loaded, func(*detect.Knowledge), bool) {
	paths := make([]string, len(g.paths))
	for j, s := range g.sources {
		paths[j] = s.Kept()
	}
	loaded, put, err := g.readNow(paths)
	if err != nil {
		return loaded, nil, false
	}
	g.paths, g.early = paths, map[int]refresh.Loaded{}
	for j := first + 1; j < len(paths); j++ {
		if paths[j] != "" {
			g.early[j] = loaded
		}
	}
	return loaded, put, true
}

func (g *whole) readNow(paths []string) (refresh.Loaded, func(*detect.Knowledge), error) {
	var there, from []string
	for i, path := range paths {
		if path != "" {
			there, from = append(there, path), append(from, g.from[i])
		}
	}
	return g.read(there, from)
}

func (k *keeper) close() {
	k.client.Close()
	if k.journal != nil {
		k.journal.Close()
	}
	if err := k.past.Close(time.Now()); err != nil {
		k.log.Error("what is kept of the past cannot be closed", "error", err)
	}
}

// openJournal opens the record of what the RPKI said. One that cannot be used is set aside: the past is lost then, but
// not what comes.
func (k *keeper) openJournal(folder string) {
	var err error
	if k.journal, err = journal.Open(folder, keepRPKI); err == nil {
		return
	}
	aside := folder + ".damaged"
	k.log.Error("the record of what the RPKI said cannot be used and is set aside", "folder", folder, "moved_to", aside, "error", err)
	if err = errors.Join(os.RemoveAll(aside), os.Rename(folder, aside)); err == nil {
		k.journal, err = journal.Open(folder, keepRPKI)
	}
	if err != nil {
		k.log.Error("what the RPKI says is not recorded", "error", err)
		k.journal = nil
	}
}

// keepRPKI is for how long what the RPKI said is known.
const keepRPKI = 400 * 24 * time.Hour

// rpkiAt returns the VRPs and ASPAs that were in use at a time, or are now if it is zero, and since when. The error is
// [journal.ErrUnknown] where nothing was recorded of that time.
func (k *keeper) rpkiAt(_ context.Context, at time.Time) (*rpki.Set, time.Time, error) {
	if at.IsZero() {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.current.VRPs, k.since, nil
	}
	if k.journal == nil {
		return nil, time.Time{}, journal.ErrUnknown
	}
	return k.journal.At(at)
}

// rpkiChanges returns how that has changed, see [journal.Journal.Changes]; nothing where it is not recorded.
func (k *keeper) rpkiChanges(ctx context.Context, q journal.Query) ([]journal.Change, journal.Position, error) {
	if k.journal == nil {
		return nil, journal.Position{}, nil
	}
	return k.journal.Changes(ctx, q)
}

// readVRPs holds back what lost more than [rpki.DefaultLimits] allow, until it has been so for an hour.
func (k *keeper) readVRPs(path, from string, slurm []string) (*rpki.Set, error) {
	set, err := rpki.ReadFile(path, from, slurm...)
	if err != nil {
		return nil, err
	}
	err = rpki.DefaultLimits().Check(k.file, set)
	switch now := time.Now(); {
	case err == nil:
		k.lossSince = time.Time{}
	case k.lossSince.IsZero():
		k.lossSince = now
		k.heldBack(from, err)
	case now.Sub(k.lossSince) >= holdBack:
		k.lossSince, err = time.Time{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w, until %s", err, k.lossSince.Add(holdBack).UTC().Format("15:04 UTC"))
	}
	return set, nil
}

// heldBack records that what came from somewhere is not put to use.
func (k *keeper) heldBack(from string, why error) {
	k.recording.Lock()
	defer k.recording.Unlock()
	if k.journal == nil {
		return
	}
	if err := k.journal.Hold(time.Now(), from, why.Error()); err != nil {
		k.log.Error("that VRPs are held back is not recorded", "error", err)
	}
}

// readExceptions puts the local exceptions to what RTR says to use. Those to the file come with the file.
func (k *keeper) readExceptions(files []string) (refresh.Loaded, error) {
	var l refresh.Loaded
	var all []rpki.Exceptions
	for _, file := range files {
		x, err := rpki.ReadExceptions(file)
		if err != nil {
			return l, err
		}
		all = append(all, x)
		l.Entries += x.Len()
	}
	k.excepting.Lock()
	defer k.excepting.Unlock()
	k.exceptions = all
	if k.caches != nil {
		k.except()
	}
	return l, nil
}

// useRTR takes the VRPs of RTR caches before those of a file; nil says that they have expired.
func (k *keeper) useRTR(set *rpki.Set) {
	k.excepting.Lock()
	defer k.excepting.Unlock()
	k.caches = set
	k.except()
}

// except puts what the caches say to use, with the exceptions applied. The caller holds excepting.
func (k *keeper) except() {
	set := k.caches
	if set != nil {
		for _, x := range k.exceptions {
			changed, err := x.Apply(set, k.caches.Source()+" with SLURM")
			if err != nil { // the exceptions add more than a set may hold
				k.log.Error("local exceptions to the RPKI are left out", "error", err)
				break
			}
			set = changed
		}
	}
	k.use(func(now *detect.Knowledge) {
		k.rtr = set
		now.VRPs = cmp.Or(k.rtr, k.file)
	})
}

func (k *keeper) use(put func(*detect.Knowledge)) {
	k.recording.Lock()
	defer k.recording.Unlock()
	now := time.Now()
	k.mu.Lock()
	before := k.current.VRPs
	put(&k.current)
	after := k.current.VRPs
	if after != before {
		k.since = now
	}
	k.mu.Unlock()
	if after != before && k.journal != nil {
		if err := k.journal.Record(now, after); err != nil {
			k.log.Error("what the RPKI says now is not recorded", "error", err)
		}
	}
	signal(k.news)
}

// signal puts a token where there may be one already.
func signal(token chan<- struct{}) {
	select {
	case token <- struct{}{}:
	default:
	}
}

// merge puts together what the registries say: of five million routes in seconds, with some 50 bytes for each meanwhile.
func (k *keeper) merge() {
	k.mu.Lock()
	dumps, mirrored := k.dumps, slices.Clone(k.mirrored)
	k.mu.Unlock()
	db := irr.Merge(k.order, dumps, mirrored...)
	k.use(func(now *detect.Knowledge) { now.IRR = db })
}

// followRegistries puts together what the registries say when one has news, but not again and again.
func (k *keeper) followRegistries(ctx context.Context) {
	for {
		select {
		case <-k.registries:
		case <-ctx.Done():
			return
		}
		k.merge()
		select {
		case <-time.After(k.pause):
		case <-ctx.Done():
			return
		}
	}
}

// knowledge is what is current.
func (k *keeper) knowledge() detect.Knowledge {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current
}

// retrySets is when a server is asked again that did not answer.
const retrySets = time.Minute

// followSets asks what the as-sets of watches hold, at once and again from time to time. What was said stays in use
// while the server cannot be asked.
func (k *keeper) followSets(ctx context.Context) {
	for len(k.sets) > 0 {
		wait := k.setsEvery
		sets, err := k.server.ASSets(ctx, k.sets)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			k.log.Warn("a server cannot be asked for the as-sets of watches; trying again", "in", retrySets, "error", err)
			wait = retrySets
		default:
			for _, name := range k.sets {
				if len(sets[name]) == 0 {
					k.log.Warn("an as-set of a watch is empty or unknown", "as_set", name, "server", k.server.Address)
				}
			}
			k.use(func(now *detect.Knowledge) { now.WatchSets = sets })
			k.recordSets(sets)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// run keeps the sources fresh until ctx ends. questions is where the detector answers between two batches.
func (k *keeper) run(ctx context.Context, questions chan<- func(*detect.Engine)) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range k.sources {
		wg.Go(func() { _ = s.Run(ctx) })
	}
	wg.Go(func() { k.followRegistries(ctx) })
	wg.Go(func() { k.followSets(ctx) })
	for {
		select {
		case <-k.news:
		case <-ctx.Done():
			return nil
		}
		select {
		case questions <- func(e *detect.Engine) { e.Replace(k.knowledge()) }:
		case <-ctx.Done():
			return nil
		}
	}
}

// statuses says how fresh the sources are.
func (k *keeper) statuses() []refresh.Status {
	all := make([]refresh.Status, len(k.sources))
	for i, s := range k.sources {
		all[i] = s.Status()
	}
	return all
}

// sourceCollector shows how fresh the sources are.
type sourceCollector struct {
	statuses                    func() []refresh.Status
	age, checked, entries, good *prometheus.Desc
}

func newSourceCollector(statuses func() []refresh.Status) *sourceCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("routevigil_source_"+name, help, []string{"source"}, nil)
	}
	return &sourceCollector{statuses: statuses,
		age:     desc("age_seconds", "Age of the reference data in use; absent where there is none."),
		checked: desc("checked_timestamp_seconds", "When it was last confirmed to be the newest there is, in seconds since the Unix epoch."),
		entries: desc("entries", "How much of it is in use."),
		good:    desc("fresh", "1 while it is fresh and the last attempt to refresh it did not fail, otherwise 0."),
	}
}

func (c *sourceCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.age, c.checked, c.entries, c.good} {
		ch <- d
	}
}

func (c *sourceCollector) Collect(ch chan<- prometheus.Metric) {
	for _, st := range c.statuses() {
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, st.Name)
		}
		if st.State != refresh.Missing {
			gauge(c.age, st.AgeSeconds)
			gauge(c.checked, float64(st.Checked.UnixMilli())/1000)
		}
		gauge(c.entries, float64(st.Entries))
		good := 0.0
		if st.State == refresh.Fresh && st.LastError == "" {
			good = 1
		}
		gauge(c.good, good)
	}
}
