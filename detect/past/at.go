package past

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
)

// ErrUnknown is that what was in use at a moment is not known.
var ErrUnknown = errors.New("what was in use then was not recorded, or is no longer kept")

// Moment is what was in use at a moment.
type Moment struct {
	At      time.Time
	Stopped time.Time // when the service had ended, which did not run then; zero where it ran, or nobody knows
	Damaged int       // lines of the index that cannot be read: what they told is not known
	Sources []Source  // by name
}

// Source is what was in use of one source.
type Source struct {
	Name     string    `json:"name"`
	Location string    `json:"location"`
	Since    time.Time `json:"since"`             // since when what was in use was
	Copy     time.Time `json:"copy,omitzero"`     // since when the version was in use that there is a copy of: Since, or before, or nothing
	Missing  string    `json:"missing,omitempty"` // why there is no copy of what was in use; "" where there is

	Held      string    `json:"held,omitempty"` // why a later version had been held back, "" where none had
	HeldSince time.Time `json:"held_since,omitzero"`

	Path string `json:"-"` // of the copy, gzip; "" where there is none
}

// Source returns the source of a name.
func (m *Moment) Source(name string) (Source, bool) {
	i := slices.IndexFunc(m.Sources, func(s Source) bool { return s.Name == name })
	if i < 0 {
		return Source{}, false
	}
	return m.Sources[i], true
}

// At returns what was in use at a moment, from the folder of a Recorder that may be at work meanwhile: a copy may
// be gone when it is opened. The error is [ErrUnknown] for a moment before all that is kept.
//
// Where there is no copy of what was in use, the source has the last version before it of which there is one, which
// Missing and Copy say.
func At(dir string, at time.Time) (*Moment, error) {
	records, damaged, _, err := readIndex(dir)
	if err != nil {
		return nil, err
	}
	m := &Moment{At: at, Damaged: damaged}
	begun := false
	versions := map[string][]record{} // of each source in use, the oldest first
	heldBack := map[string]record{}   // since its last version
	for _, rec := range records {
		if rec.At.After(at) {
			if rec.What == cut {
				return nil, ErrUnknown
			}
			continue
		}
		switch rec.What {
		case inUse:
			versions[rec.Source] = append(versions[rec.Source], rec)
			delete(heldBack, rec.Source)
		case held:
			heldBack[rec.Source] = rec
		case started:
			begun, m.Stopped = true, time.Time{}
			for source := range versions {
				if !slices.Contains(rec.Sources, source) {
					delete(versions, source)
				}
			}
		case stopped:
			m.Stopped = rec.At
		}
	}
	if !begun {
		return nil, ErrUnknown
	}
	for name, list := range versions {
		s := source(dir, name, list)
		s.Held, s.HeldSince = heldBack[name].Why, heldBack[name].At
		m.Sources = append(m.Sources, s)
	}
	slices.SortFunc(m.Sources, func(a, b Source) int { return strings.Compare(a.Name, b.Name) })
	return m, nil
}

func source(dir, name string, versions []record) Source {
	now := versions[len(versions)-1]
	s := Source{Name: name, Location: now.From, Since: now.At, Missing: now.Why}
	for _, v := range slices.Backward(versions) {
		if v.Hash == "" {
			continue
		}
		path := filepath.Join(dir, v.Hash+copied)
		if _, err := os.Stat(path); err != nil {
			if s.Missing == "" {
				s.Missing = "the copy has been dropped (knowledge.past.keep, knowledge.past.max_bytes)"
				if !errors.Is(err, fs.ErrNotExist) {
					s.Missing = fmt.Sprintf("the copy cannot be found (%v)", err)
				}
			}
			continue
		}
		s.Path, s.Copy = path, v.At
		break
	}
	return s
}

// maxContent bounds what Content unpacks.
const maxContent = 64 << 30

// Content returns what a copy holds.
func (s Source) Content() ([]byte, error) {
	f, err := os.Open(s.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Path, err)
	}
	content, err := io.ReadAll(io.LimitReader(z, maxContent))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Path, err)
	}
	return content, nil
}

// Files lists what there is in the folder of a Recorder of [from, to), zero times being no bounds: the index, and the copies
// that were in use at some moment of it, or are the last before one that is not there. It is empty where nothing was recorded.
func Files(dir string, from, to time.Time) (paths []string, err error) {
	records, _, _, err := readIndex(dir)
	if err != nil || len(records) == 0 {
		return nil, err
	}
	paths = []string{filepath.Join(dir, indexName)}
	latest := map[string]string{} // of each source, the copy that is in use or stands for what is
	wanted := map[string]bool{}
	begun := from.IsZero()
	for _, rec := range records {
		if !begun && rec.At.After(from) {
			begun = true
			for _, hash := range latest {
				wanted[hash] = true
			}
		}
		if !to.IsZero() && !rec.At.Before(to) {
			break
		}
		if rec.What != inUse || rec.Hash == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, rec.Hash+copied)); err == nil {
			latest[rec.Source] = rec.Hash
			if begun {
				wanted[rec.Hash] = true
			}
		}
	}
	if !begun { // nothing has changed since
		for _, hash := range latest {
			wanted[hash] = true
		}
	}
	for _, hash := range slices.Sorted(maps.Keys(wanted)) {
		paths = append(paths, filepath.Join(dir, hash+copied))
	}
	return paths, nil
}
