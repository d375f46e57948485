package service

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/irr/mirror"
	"github.com/routevigil/routevigil/detect/past"
	"github.com/routevigil/routevigil/detect/refresh"
	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/detect/rpki/journal"
	"github.com/routevigil/routevigil/detect/topology"
)

// pastName is the folder of what is kept of the past, beside the copies of what is in use.
const pastName = "past"

// rpkiName is the folder of what the RPKI said.
const rpkiName = "rpki"

// Sources of the past that are no sources of knowledge.
const (
	settings      = "settings"
	watchSets     = "watch_sets" // what a server said of the as-sets of watches
	detectorState = "detector"
)

// pastSettings is what of the configuration decides verdicts.
type pastSettings struct {
	Declared []detect.Declaration
	Sources  []string // registries, in the order of trust
	Mirrors  []string // names of sources, in the order of the configuration
	Watches  detect.WatchList
	Detect   detect.Configuration
}

// openPast opens the record of what was in use. One that cannot be used is set aside. Where nothing is to be kept nothing
// is: a record with an unknown gap would tell untruths.
func (k *keeper) openPast(folder string, c past.Configuration) {
	var err error
	if !c.Enabled {
		if err := os.RemoveAll(folder); err != nil {
			k.log.Error("what was kept of the past cannot be removed", "error", err)
		}
		return
	}
	if k.past, err = past.Open(folder, c, k.log); err != nil {
		k.log.Error("what is in use is not kept for questions about the past", "error", err)
	}
}

func (k *keeper) recordSettings(c config.Config) {
	s := pastSettings{Declared: c.Knowledge.Declared, Sources: c.Knowledge.IRR.Sources, Watches: c.Watches, Detect: c.Detect}
	for _, m := range c.Knowledge.IRR.Mirrors {
		s.Mirrors = append(s.Mirrors, mirrorName(m))
	}
	text, err := json.Marshal(s)
	if err != nil {
		k.log.Error("the configuration is not kept for questions about the past", "error", err)
		return
	}
	k.past.Bytes(time.Now(), settings, "configuration", false, text)
}

func (k *keeper) recordSets(sets map[string][]uint32) {
	text, err := json.Marshal(sets)
	if err != nil {
		k.log.Error("the members of the as-sets of watches are not kept for questions about the past", "error", err)
		return
	}
	k.past.Bytes(time.Now(), watchSets, k.server.Address, false, text)
}

// rememberedMirror records when what a mirror was told is not put to use.
type rememberedMirror struct {
	*mirror.Mirror
	name string
	past *past.Recorder
}

// Follow implements [refresh.Follower].
func (m rememberedMirror) Follow(ctx context.Context) (refresh.Loaded, error) {
	l, err := m.Mirror.Follow(ctx)
	if mirror.HeldBack(err) {
		m.past.Held(time.Now(), m.name, err.Error())
	}
	return l, err
}

// keepState keeps the engine's state where it is time, beside the pipeline's work, which waits for no copy.
func (p *pipeline) keepState(state []byte) {
	if p.past == nil || !p.keeping.TryLock() {
		return
	}
	now := time.Now()
	go func() {
		defer p.keeping.Unlock()
		if p.past.Due(now, detectorState) {
			p.past.Bytes(now, detectorState, "", true, state)
		}
	}()
}

// waitKept waits until the state that is being kept is.
func (p *pipeline) waitKept() {
	p.keeping.Lock()
	defer p.keeping.Unlock()
}

// Basis says what an answer about the past rests on.
type Basis struct {
	At            time.Time     `json:"at"`
	DetectorState time.Time     `json:"detector_state,omitzero"` // when the state was saved that the table and the history are from
	DetectorAge   float64       `json:"detector_age_seconds"`    // how old it was then
	Sources       []past.Source `json:"sources"`                 // beside the RPKI, by name
	RPKISince     time.Time     `json:"rpki_since,omitzero"`     // since when its VRPs and ASPAs had been in use
	Gaps          []string      `json:"gaps"`                    // what is not known of that time, in sentences
}

func (b *Basis) gap(format string, args ...any) {
	b.Gaps = append(b.Gaps, fmt.Sprintf(format, args...))
}

// tell says what is not as it should be about a moment as a whole.
func (b *Basis) tell(m *past.Moment) {
	if !m.Stopped.IsZero() {
		b.gap("The service did not run then, it had stopped at %s: what it used last is used.", moment(m.Stopped))
	}
	if m.Damaged > 0 {
		b.gap("%d lines of the index are damaged: what they said was in use is not known.", m.Damaged)
	}
}

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// EngineAt makes an engine as that of the service was at a moment, from what the service, which may be running, has kept in
// the directory of its store; nothing there is changed. What of the knowledge is not known it goes without, and
// says so: of dumps that make one whole it takes all or none. Where there is no state of the detector from before the
// moment the engine is learning, and gives no verdict. The error is [past.ErrUnknown] where nothing at all is known.
func EngineAt(ctx context.Context, directory string, at time.Time) (*detect.Engine, Basis, error) {
	b := Basis{At: at.UTC(), Sources: []past.Source{}, Gaps: []string{}}
	folder := knowledgeFolder(directory)
	vrps, since, unknown := journal.At(filepath.Join(folder, rpkiName), at)
	switch {
	case errors.Is(unknown, journal.ErrUnknown):
		b.gap("What the RPKI said then was not recorded: origins and paths are not validated.")
	case unknown != nil:
		return nil, b, unknown
	case vrps == nil:
		b.gap("There were no data of the RPKI that could be used then, since %s.", moment(since))
	}
	b.RPKISince = since
	m, err := past.At(filepath.Join(folder, pastName), at)
	switch {
	case errors.Is(err, past.ErrUnknown) && unknown == nil:
		b.gap("Beside what the RPKI said, what was in use then was not recorded, or is no longer kept.")
		m = &past.Moment{At: at}
	case err != nil:
		return nil, b, err
	}
	b.tell(m)
	a := archivist{Moment: m, basis: &b}
	k, err := a.knowledge(ctx)
	if err != nil {
		return nil, b, err
	}
	k.VRPs = vrps
	e, err := a.engine(k)
	return e, b, err
}

// archivist reads what was in use at a moment.
type archivist struct {
	*past.Moment
	basis    *Basis
	settings pastSettings
}

// take returns the sources that are wanted and have a copy. What is missing becomes a gap.
func (a *archivist) take(want func(name string) bool) []past.Source {
	var list []past.Source
	for _, s := range a.Sources {
		if !want(s.Name) {
			continue
		}
		a.basis.Sources = append(a.basis.Sources, s)
		name := s.Name
		if s.Location != "" {
			name += " (" + s.Location + ")"
		}
		switch {
		case s.Path == "":
			a.basis.gap("%s: of what was in use then, since %s, there is no copy: %s. It is left out.", name, moment(s.Since), s.Missing)
			continue
		case s.Missing != "":
			a.basis.gap("%s: of what was in use then, since %s, there is no copy: %s. In its place is what had been in use since %s.",
				name, moment(s.Since), s.Missing, moment(s.Copy))
		}
		list = append(list, s)
	}
	return list
}

// one returns the path of the copy of a source, and where that was from; "" where there is none.
func (a *archivist) one(name string) (path, from string) {
	for _, s := range a.take(func(n string) bool { return n == name }) {
		return s.Path, s.Location
	}
	return "", ""
}

// whole returns the copies of the sources whose names begin so and make one whole, in the order of the configuration:
// first the files, which are numbered. Where one has no copy it returns none.
func (a *archivist) whole(prefix string) (sources []past.Source) {
	taken := a.take(func(name string) bool { return strings.HasPrefix(name, prefix) })
	all := 0
	for _, s := range a.Sources {
		if strings.HasPrefix(s.Name, prefix) {
			all++
		}
	}
	if len(taken) < all {
		if len(taken) > 0 {
			a.basis.gap("What the others of %s… said then is left out as well: a part would pass for the whole.", prefix)
		}
		return nil
	}
	slices.SortStableFunc(taken, func(s, t past.Source) int { return cmp.Compare(numberOf(s, prefix), numberOf(t, prefix)) })
	return taken
}

// numberOf is the number of a file in a list; of a mirror, one that is greater than all.
func numberOf(s past.Source, prefix string) int {
	if n, err := strconv.Atoi(strings.TrimPrefix(s.Name, prefix)); err == nil {
		return n
	}
	return math.MaxInt
}

// readSettings reads how the service was configured.
func (a *archivist) readSettings() error {
	a.settings = pastSettings{Detect: detect.DefaultConfiguration()}
	if s := a.take(func(name string) bool { return name == settings }); len(s) > 0 {
		text, err := s[0].Content()
		if err == nil {
			err = json.Unmarshal(text, &a.settings)
		}
		if err != nil {
			return fmt.Errorf("the configuration of then: %w", err)
		}
	} else {
		a.basis.gap("How the service was configured then is not known: knowledge.declared, knowledge.irr.sources, watches and detect are at their defaults.")
	}
	return nil
}

// knowledge reads all but what the RPKI said, as newKeeper puts it together.
func (a *archivist) knowledge(ctx context.Context) (k detect.Knowledge, err error) {
	if err := a.readSettings(); err != nil {
		return k, err
	}
	k.Watches = a.settings.Watches
	if k.Declared, err = (detect.KnowledgeFiles{Declared: a.settings.Declared}).DeclaredRelationships(); err != nil {
		return k, err
	}
	if path, from := a.one("as_rel"); path != "" {
		if k.Relationships, err = topology.ReadFile(path, from); err != nil {
			return k, err
		}
	}
	if path, from := a.one("as_org"); path != "" {
		if k.Organisations, err = topology.ReadOrganisations(path, from); err != nil {
			return k, err
		}
	}
	if path, from := a.one("peeringdb"); path != "" {
		db, err := topology.ReadPeeringDB(path, from)
		if err != nil {
			return k, err
		}
		k.Organisations, k.RouteServers, k.Hypergiants = k.Organisations.Or(db.Organisations), db.RouteServers, db.Hypergiants
	}
	var paths, from []string
	for _, s := range a.whole("delegated-") {
		paths, from = append(paths, s.Path), append(from, s.Location)
	}
	if len(paths) > 0 {
		if k.Delegations, err = registry.ReadFiles(paths, from); err != nil {
			return k, err
		}
	}
	if k.IRR, err = a.registries(ctx, netip.Prefix{}); err != nil {
		return k, err
	}
	if k.IRR == nil && len(k.Watches.ASSets()) > 0 {
		k.WatchSets, err = a.sets()
	}
	return k, err
}

// sets reads what the as-sets of watches held where no registry was at hand.
func (a *archivist) sets() (sets map[string][]uint32, err error) {
	s := a.take(func(name string) bool { return name == watchSets })
	if len(s) == 0 {
		a.basis.gap("What the as-sets of watches held then is not known: only their prefixes and asns count.")
		return nil, nil
	}
	text, err := s[0].Content()
	if err == nil {
		err = json.Unmarshal(text, &sets)
	}
	if err != nil {
		return nil, fmt.Errorf("the as-sets of watches: %w", err)
	}
	return sets, nil
}

// registries reads what the routing registries said: only of what covers a prefix, if that is valid.
func (a *archivist) registries(ctx context.Context, only netip.Prefix) (db *irr.Database, err error) {
	var dumps []past.Source
	mirrored := make([]*irr.Database, len(a.settings.Mirrors))
	for _, s := range a.whole("irr-") {
		i := slices.Index(a.settings.Mirrors, s.Name)
		if i < 0 {
			dumps = append(dumps, s)
		} else if mirrored[i], err = readRegistries(ctx, nil, only, s); err != nil {
			return nil, err
		}
	}
	if len(dumps) > 0 {
		if db, err = readRegistries(ctx, a.settings.Sources, only, dumps...); err != nil {
			return nil, err
		}
	}
	if len(mirrored) == 0 {
		return db, nil
	}
	return irr.Merge(a.settings.Sources, db, mirrored...), nil
}

// readRegistries makes a database of copies; order is as for [irr.NewBuilder].
func readRegistries(ctx context.Context, order []string, only netip.Prefix, copies ...past.Source) (*irr.Database, error) {
	b := irr.NewBuilder(order)
	if only.IsValid() {
		b.Covering(only)
	}
	for _, s := range copies {
		f, err := os.Open(s.Path)
		if err == nil {
			err = b.Read(stoppable{ctx, f}, s.Location)
			f.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("IRR %s: %w", s.Location, err)
		}
	}
	return b.Build(), nil
}

// stoppable ends with its context.
type stoppable struct {
	ctx context.Context
	io.Reader
}

func (r stoppable) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// registriesAt returns what the routing registries said at a moment, or say now if it is zero, at least of what covers a
// prefix, and what of that is not known. For a moment of the past it reads through the copies of all dumps, in the memory
// of a few objects; the error is [api.ErrBusy] while it does so for another question.
func (k *keeper) registriesAt(ctx context.Context, p netip.Prefix, at time.Time) (*irr.Database, []string, error) {
	if at.IsZero() {
		return k.knowledge().IRR, nil, nil
	}
	if !k.reading.TryLock() {
		return nil, nil, api.ErrBusy
	}
	defer k.reading.Unlock()
	m, err := past.At(filepath.Join(k.folder, pastName), at)
	if err != nil {
		return nil, nil, err
	}
	var b Basis
	b.tell(m)
	a := archivist{Moment: m, basis: &b}
	if err := a.readSettings(); err != nil {
		return nil, nil, err
	}
	db, err := a.registries(ctx, p)
	return db, b.Gaps, err
}

// engine makes an engine of the last state of the detector that was kept before the moment.
func (a *archivist) engine(k detect.Knowledge) (*detect.Engine, error) {
	e := detect.New(a.settings.Detect, k, func(incident.Event) {})
	s, ok := a.Source(detectorState)
	if !ok || s.Path == "" {
		a.basis.gap("There is no state of the detector from before then: which routes there were, and what was usual, is not known, and there is no verdict.")
		return e, nil
	}
	state, err := s.Content()
	if err != nil {
		return nil, err
	}
	if err := e.Restore(state); err != nil {
		a.basis.gap("The state of the detector of %s cannot be used, as after a change of version (%v): which routes there were, and what was usual, is not known, and there is no verdict.",
			moment(s.Copy), err)
		return detect.New(a.settings.Detect, k, func(incident.Event) {}), nil
	}
	a.basis.DetectorState, a.basis.DetectorAge = s.Copy, a.At.Sub(s.Copy).Seconds()
	return e, nil
}
