// Package move takes history from one store to another, by way of files that are useful by themselves.
//
// An export is a folder:
//
//	manifest.json           what it is of, how much there is, and the SHA-256 of each file; written last
//	updates-000001.parquet  routes in the order of arrival, 262144 a file and within a file sorted by prefix, with the columns
//	                        that the embedded store's parts have: DuckDB, ClickHouse and pandas open them
//	incidents.jsonl.gz      each incident as it stands, one JSON object a line, as the API shows it
//	events.jsonl.gz         every change of those incidents, each with the incident as it was then, evidence included
//	gaps.jsonl.gz           gaps of live feeds, as far as they have been filled
//	knowledge/…             what verdicts were compared with, as the service keeps it
//
// It appears under its name when it is complete; while it is being made the name ends in ".partial".
//
// An import is history only: detection does not see it again, alerts do not go out again. It verifies every file first. How
// much of the updates has been stored is recorded in the same transaction as the updates themselves, and gaps and events
// are told apart by what they are; so an import that was interrupted is run again, and goes on where it was.
//
// What comes back is what the rows of a store show. Path attributes that rows do not show are no part of an export, nor are
// alerts that were or are to be sent.
package move

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
)

const (
	manifestName  = "manifest.json"
	incidentsName = "incidents.jsonl.gz"
	eventsName    = "events.jsonl.gz"
	gapsName      = "gaps.jsonl.gz"
	partial       = ".partial"

	formatName    = "routevigil export"
	formatVersion = 1

	page        = 500
	maxManifest = 64 << 20 // some 200 bytes a file: hundreds of thousands of them
	maxLine     = 16 << 20 // of JSON
)

// KnowledgeFolder is where in an export the files are that Options.Knowledge names.
const KnowledgeFolder = "knowledge/"

// updatesName is the n-th file of updates, counted from 1.
func updatesName(n int) string { return fmt.Sprintf("updates-%06d.parquet", n) }

// Manifest says what an export is.
type Manifest struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	Program string    `json:"program"` // that made it
	Created time.Time `json:"created_at"`
	From    time.Time `json:"from,omitzero"` // event times in [From, To), as they were asked for
	To      time.Time `json:"to,omitzero"`
	// The updates that there are have event times from First up to Last.
	First     time.Time `json:"first_update,omitzero"`
	Last      time.Time `json:"last_update,omitzero"`
	Updates   uint64    `json:"updates"`
	Incidents uint64    `json:"incidents"`
	Events    uint64    `json:"events"`
	Gaps      uint64    `json:"gaps"`
	Heard     []heard   `json:"heard,omitempty"` // where the export has no end: of which collectors live feeds told, and until when
	Files     []File    `json:"files"`
}

// File is one of the files of an export.
type File struct {
	Name   string `json:"name"` // within the folder
	Bytes  int64  `json:"bytes"`
	Rows   uint64 `json:"rows,omitempty"` // or lines
	SHA256 string `json:"sha256"`
}

type heard struct {
	Collector string    `json:"collector"`
	Feed      string    `json:"feed"`
	Time      time.Time `json:"time"`
}

// gap is how a gap is written; ingest.Gap's own JSON is for readers of the API and leaves things out.
type gap struct {
	Feed        string          `json:"feed"`
	Collector   string          `json:"collector"`
	PeerASN     uint32          `json:"peer_asn,omitempty"`
	From        time.Time       `json:"from"`
	Until       time.Time       `json:"until,omitzero"`
	State       ingest.GapState `json:"state"`
	Updates     uint64          `json:"updates"`
	Attempts    int             `json:"attempts"`
	NextAttempt time.Time       `json:"next_attempt,omitzero"`
	Error       string          `json:"error,omitempty"`
	File        time.Time       `json:"file,omitzero"`
	Taken       uint64          `json:"taken"`
}

func ofGap(g *ingest.Gap) gap {
	return gap{g.Feed, g.Collector, g.PeerASN, g.From, g.Until, g.State, g.Updates, g.Attempts, g.NextAttempt, g.Error, g.File, g.Taken}
}

func (g *gap) gap() ingest.Gap {
	return ingest.Gap{Feed: g.Feed, Collector: g.Collector, PeerASN: g.PeerASN, From: g.From, Until: g.Until, State: g.State, Updates: g.Updates,
		Attempts: g.Attempts, NextAttempt: g.NextAttempt, Error: g.Error, File: g.File, Taken: g.Taken}
}

// identity is what makes a gap the same gap.
type identity struct {
	feed, collector string
	peerASN         uint32
	from            int64
}

func identityOf(g *ingest.Gap) identity {
	return identity{g.Feed, g.Collector, g.PeerASN, g.From.UnixMicro()}
}

// allGaps is a limit that no store reaches.
const allGaps = 1 << 20

// within tells whether a gap has something in [from, to), zero times being no bounds.
func within(g *ingest.Gap, from, to time.Time) bool {
	return (to.IsZero() || g.From.Before(to)) && (from.IsZero() || g.Until.IsZero() || !g.Until.Before(from))
}

// sum hashes a file.
func sum(path string) (hash string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	h := sha256.New()
	if size, err = io.Copy(h, f); err != nil {
		return "", 0, err
	}
	return hex.EncodeToString(h.Sum(nil)), size, nil
}

// ErrNoExport is wrapped by the error for a folder that is not an export, or not a whole one.
var ErrNoExport = errors.New("there is no complete export")

// fileName are the names that an export may have.
var fileName = regexp.MustCompile(`^(updates-[0-9]{6,9}\.parquet|(incidents|events|gaps)\.jsonl\.gz|knowledge(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}){1,3})$`)

// ReadManifest reads the manifest of the export in a folder and checks that it can be one. id tells it from others.
func ReadManifest(dir string) (m *Manifest, id string, err error) {
	path := filepath.Join(dir, manifestName)
	f, err := os.Open(path)
	if err != nil {
		if _, unfinished := os.Stat(dir + partial); errors.Is(err, os.ErrNotExist) && unfinished == nil {
			return nil, "", fmt.Errorf("%s: %w: one was begun in %s; run the export again", dir, ErrNoExport, dir+partial)
		}
		return nil, "", fmt.Errorf("%s: %w: %w; name the folder that \"routevigil export\" made", dir, ErrNoExport, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, "", err
	}
	if m, err = parseManifest(text); err != nil {
		return nil, "", fmt.Errorf("%s: %w", path, err)
	}
	hash := sha256.Sum256(text)
	return m, hex.EncodeToString(hash[:16]), nil
}

func parseManifest(text []byte) (*Manifest, error) {
	damaged := func(format string, a ...any) (*Manifest, error) {
		return nil, fmt.Errorf("the manifest is damaged: "+format+"; copy the export again from where it was made, or make it again", a...)
	}
	if len(text) > maxManifest {
		return damaged("it has more than %d MiB", maxManifest>>20)
	}
	m := &Manifest{}
	if err := json.Unmarshal(text, m); err != nil {
		return damaged("%w", err)
	}
	switch {
	case m.Format != formatName:
		return nil, fmt.Errorf("its format is %q, not %q; name the folder that \"routevigil export\" made", m.Format, formatName)
	case m.Version != formatVersion:
		return nil, fmt.Errorf("it is of version %d, this program knows version %d: use the version of routevigil that made it (%s), or a newer one", m.Version, formatVersion, m.Program)
	}
	seen := map[string]bool{}
	rows := uint64(0)
	updates := 0
	for _, f := range m.Files {
		if !fileName.MatchString(f.Name) || !filepath.IsLocal(f.Name) || strings.Contains(f.Name, "..") {
			return damaged("there may be no file of the name %q", f.Name)
		}
		if seen[f.Name] || f.Bytes < 0 || f.Rows > 1<<40 {
			return damaged("what it says of %s", f.Name)
		}
		seen[f.Name] = true
		if strings.HasPrefix(f.Name, "updates-") {
			updates++
			rows += f.Rows
		}
	}
	for n := 1; n <= updates; n++ {
		if !seen[updatesName(n)] {
			return damaged("%s is missing", updatesName(n))
		}
	}
	for _, name := range []string{incidentsName, eventsName, gapsName} {
		if !seen[name] {
			return damaged("%s is missing", name)
		}
	}
	if rows != m.Updates {
		return damaged("its files have %d updates, together they should be %d", rows, m.Updates)
	}
	if m.Updates > 0 && m.Last.Before(m.First) {
		return damaged("the first update is after the last")
	}
	return m, nil
}

// file is what the manifest says of the file of a name.
func (m *Manifest) file(name string) File {
	for _, f := range m.Files {
		if f.Name == name {
			return f
		}
	}
	return File{Name: name}
}

// Knowledge lists the files of knowledge, without KnowledgeFolder before their names.
func (m *Manifest) Knowledge() (names []string) {
	for _, f := range m.Files {
		if name, ok := strings.CutPrefix(f.Name, KnowledgeFolder); ok {
			names = append(names, name)
		}
	}
	return names
}

// Bytes is how much all files are.
func (m *Manifest) Bytes() (total int64) {
	for _, f := range m.Files {
		total += f.Bytes
	}
	return total
}

// asHeard is what of the manifest a store takes.
func (m *Manifest) asHeard() (list []store.Heard) {
	for _, h := range m.Heard {
		list = append(list, store.Heard{Collector: h.Collector, Feed: h.Feed, Time: h.Time})
	}
	return list
}
