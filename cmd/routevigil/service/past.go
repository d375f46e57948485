package service

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/irr/mirror"
	"github.com/routevigil/routevigil/detect/past"
	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/detect/rpki/journal"
	"github.com/routevigil/routevigil/detect/topology"
)

// pastName is the folder of what is kept of the past, beside the copies of what is in use.
const pastName = "past"

// Sources of the past that are no sources of knowledge.
const (
	settings      = "settings"
	detectorState = "detector"
)

// pastSettings is what of the configuration decides verdicts.
type pastSettings struct {
	Declared []detect.Declaration
	Sources  []string // registries, in the order of trust
	Mirrors  []string // names of sources, in the order of the configuration
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

func (k *keeper) recordSettings(f detect.KnowledgeFiles, c detect.Configuration) {
	s := pastSettings{Declared: f.Declared, Sources: f.IRR.Sources, Detect: c}
	for _, m := range f.IRR.Mirrors {
		s.Mirrors = append(s.Mirrors, mirrorName(m))
	}
	text, err := json.Marshal(s)
	if err != nil {
		k.log.Error("the configuration is not kept for questions about the past", "error", err)
		return
	}
	k.past.Bytes(time.Now(), settings, "configuration", false, text)
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

func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// EngineAt makes an engine as that of the service was at a moment, from what the service, which may be running, has kept in
// the directory of its store; nothing there is changed. What of the knowledge is not known it goes without, and
// says so: of dumps that make one whole it takes all or none. Where there is no state of the detector from before the
// moment the engine is learning, and gives no verdict. The error is [past.ErrUnknown] where nothing at all is known.
func EngineAt(directory string, at time.Time) (*detect.Engine, Basis, error) {
	b := Basis{At: at.UTC(), Sources: []past.Source{}, Gaps: []string{}}
	folder := filepath.Join(directory, "knowledge")
	vrps, since, unknown := journal.At(filepath.Join(folder, "rpki"), at)
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
	if !m.Stopped.IsZero() {
		b.gap("The service did not run then, it had stopped at %s: what it used last is used.", moment(m.Stopped))
	}
	if m.Damaged > 0 {
		b.gap("%d lines of the index are damaged: what they said was in use is not known.", m.Damaged)
	}
	a := archivist{Moment: m, basis: &b, settings: pastSettings{Detect: detect.DefaultConfiguration()}}
	k, err := a.knowledge()
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

// knowledge reads all but what the RPKI said, as newKeeper puts it together.
func (a *archivist) knowledge() (k detect.Knowledge, err error) {
	if s := a.take(func(name string) bool { return name == settings }); len(s) > 0 {
		text, err := s[0].Content()
		if err == nil {
			err = json.Unmarshal(text, &a.settings)
		}
		if err != nil {
			return k, fmt.Errorf("the configuration of then: %w", err)
		}
	} else {
		a.basis.gap("How the service was configured then is not known: knowledge.declared, knowledge.irr.sources and detect are at their defaults.")
	}
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
		k.Organisations, k.RouteServers = k.Organisations.Or(db.Organisations), db.RouteServers
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
	k.IRR, err = a.registries()
	return k, err
}

// registries reads what the routing registries said.
func (a *archivist) registries() (db *irr.Database, err error) {
	var paths, from []string
	mirrored := make([]*irr.Database, len(a.settings.Mirrors))
	for _, s := range a.whole("irr-") {
		i := slices.Index(a.settings.Mirrors, s.Name)
		if i < 0 {
			paths, from = append(paths, s.Path), append(from, s.Location)
		} else if mirrored[i], err = mirror.ReadCopy(s.Path, s.Location); err != nil {
			return nil, err
		}
	}
	if len(paths) > 0 {
		if db, err = irr.ReadFiles(paths, from, a.settings.Sources); err != nil {
			return nil, err
		}
	}
	if len(mirrored) == 0 {
		return db, nil
	}
	return irr.Merge(a.settings.Sources, db, mirrored...), nil
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
