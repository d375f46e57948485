// Package refresh keeps the files that verdicts are compared with fresh, and says how fresh they are.
//
// A source is a file of this machine, looked at for changes, or one of the web, asked for with the version that
// is there (RFC 9110 §13) and kept in a folder, so that the last good copy survives restarts and outages.
// Whatever comes is read as a whole before it replaces anything: data that cannot be used is reported, and what
// was used before stays in use, however old. How old that is, everybody can see: stale data that looks fresh
// would be worse than none.
package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/routevigil/routevigil/ingest/download"
)

// Configuration says how often sources are looked at.
type Configuration struct {
	VRPs         time.Duration `yaml:"vrps" doc:"Time between two looks at the VRPs and their exceptions."`
	Mirrors      time.Duration `yaml:"mirrors" doc:"Time between two questions to a registry that is mirrored (knowledge.irr.mirrors); what they say is put together no more often."`
	Others       time.Duration `yaml:"others" doc:"Time between two looks at everything else."`
	MaxFileBytes int64         `yaml:"max_file_bytes" config:"bytes" doc:"Largest file that is fetched."`
}

// DefaultConfiguration follows the RPKI as validators do, and the rest as it is published.
func DefaultConfiguration() Configuration {
	return Configuration{VRPs: 10 * time.Minute, Mirrors: 10 * time.Minute, Others: 12 * time.Hour, MaxFileBytes: 1 << 30}
}

// Validate reports every value out of range.
func (c Configuration) Validate() error {
	var errs []error
	if c.VRPs < time.Second {
		errs = append(errs, fmt.Errorf("vrps: must be at least 1s, is %v", c.VRPs))
	}
	if c.Mirrors < time.Minute {
		errs = append(errs, fmt.Errorf("mirrors: must be at least 1m, which is what NRTM asks for, is %v", c.Mirrors))
	}
	if c.Others < time.Second {
		errs = append(errs, fmt.Errorf("others: must be at least 1s, is %v", c.Others))
	}
	if c.MaxFileBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("max_file_bytes: must be at least 1MiB, is %d", c.MaxFileBytes))
	}
	return errors.Join(errs...)
}

// State says whether a source can be relied on.
type State string

const (
	Missing State = "missing" // nothing of it has ever been read
	Fresh   State = "fresh"
	Stale   State = "stale" // it could not be confirmed for three intervals or more; the last good data is in use
)

// Status is how a source stands.
type Status struct {
	Name        string    `json:"name" doc:"What it tells: vrps, as_rel, as_org, …"`
	Location    string    `json:"location" doc:"A path, or an address without its query and password."`
	State       State     `json:"state" enum:"missing,fresh,stale"`
	Entries     int       `json:"entries" doc:"How much is in use."`
	Serial      string    `json:"serial,omitempty" doc:"Which version is in use, as its server names it."`
	AsOf        time.Time `json:"as_of,omitzero" doc:"When what is in use was made, as far as is known."`
	AgeSeconds  float64   `json:"age_seconds" doc:"Since as_of; 0 while nothing is in use."`
	Checked     time.Time `json:"checked,omitzero" doc:"When it was last confirmed to be the newest there is."`
	LastError   string    `json:"last_error,omitempty" doc:"Why the last attempt failed; absent after one that did not."`
	NextAttempt time.Time `json:"next_attempt,omitzero"`
}

// Loaded is what a file was found to hold.
type Loaded struct {
	Entries int
	AsOf    time.Time // of the data; zero: when the server or the file system says that it was changed
	Serial  string    // of what a Follower has
}

// Load reads a file and, unless it returns an error, puts what it holds to use. It must not keep the path.
type Load func(path string) (Loaded, error)

// Follower keeps a copy of its own of what a server has, by a protocol that tells changes.
type Follower interface {
	// Begin puts to use what was kept of before, and returns when that was current; the zero Loaded where there is nothing.
	Begin() (l Loaded, current time.Time)
	// Follow asks for what is new and puts it to use, and returns what is in use then, also with an error: what came before
	// it may be good.
	Follow(ctx context.Context) (Loaded, error)
}

// Source is one file of reference data, or what a Follower follows. Begin is called first, then Run; Status at any time.
type Source struct {
	name     string
	location string
	every    time.Duration
	with     []string // files of this machine that load reads as well
	web      *Fetcher // nil: location is a path
	follower Follower // nil: location is a file
	load     Load
	log      *slog.Logger

	kept copyNote      // what is known of the copy; of the web only
	used []os.FileInfo // the files of this machine that are in use

	mu     sync.Mutex
	status Status
}

// copyNote stands beside the copy of a file of the web.
type copyNote struct {
	URL     string           `json:"url"` // as in the log
	Version download.Version `json:"version"`
	Fetched time.Time        `json:"fetched"`
}

// same reports that all of some files are as they were.
func same(before, now []os.FileInfo) bool {
	return slices.EqualFunc(before, now, func(f, g os.FileInfo) bool {
		return os.SameFile(f, g) && f.Size() == g.Size() && f.ModTime().Equal(g.ModTime())
	})
}

// IsURL reports whether a location is to be downloaded.
func IsURL(location string) bool {
	return strings.HasPrefix(location, "http://") || strings.HasPrefix(location, "https://")
}

// Fetcher gets what is not on this machine.
type Fetcher struct {
	Client   *download.Client
	Folder   string // for the copies
	MaxBytes int64
}

// New makes a source of a path or an address. every is the time between two looks at it. with are files of this machine
// that load reads as well, such as exceptions to what location says: it is called anew when one of them changes.
func New(name, location string, with []string, every time.Duration, web *Fetcher, load Load, log *slog.Logger) *Source {
	s := &Source{name: name, location: location, with: with, every: every, load: load, log: log.With("source", name)}
	if IsURL(location) {
		s.web = web
	}
	s.status = Status{Name: name, Location: Printable(location), State: Missing}
	return s
}

// NewFollowed makes a source of what a follower follows at a location. every is the time between two questions.
func NewFollowed(name, location string, every time.Duration, f Follower, log *slog.Logger) *Source {
	return &Source{name: name, location: location, every: every, follower: f, log: log.With("source", name),
		status: Status{Name: name, Location: Printable(location), State: Missing}}
}

// Printable is a location without what may be secret in it.
func Printable(location string) string {
	if !IsURL(location) {
		return location
	}
	u, err := url.Parse(location)
	if err != nil {
		return "an address that cannot be read"
	}
	u.RawQuery, u.Fragment = "", ""
	return u.Redacted()
}

// Status returns how the source stands now.
func (s *Source) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.status
	now := time.Now()
	if !st.AsOf.IsZero() {
		st.AgeSeconds = max(0, now.Sub(st.AsOf).Seconds())
	}
	if st.State == Fresh && now.Sub(st.Checked) > 3*s.every {
		st.State = Stale
	}
	return st
}

// Kept returns the path of what Begin is going to load: of the file, or of the last good copy of what is on the web; "" where
// there is none.
func (s *Source) Kept() string {
	if s.web == nil {
		return s.location
	}
	note, err := os.ReadFile(s.copyPath() + ".json")
	if err != nil || json.Unmarshal(note, &s.kept) != nil || s.kept.URL != s.status.Location || !download.Whole(s.copyPath()) {
		s.kept = copyNote{}
		return ""
	}
	return s.copyPath()
}

// Begin puts to use what is on this machine: the files themselves, whose faults it returns, or the last good copy of what
// is on the web, without which it does nothing.
func (s *Source) Begin(ctx context.Context) error {
	if s.follower != nil {
		if l, current := s.follower.Begin(); l != (Loaded{}) {
			s.loaded(l, l.Serial, current, current)
		}
		return nil
	}
	if s.web == nil {
		return s.look(ctx)
	}
	used, err := stat(s.with)
	if err != nil {
		return err
	}
	if s.Kept() == "" {
		return nil
	}
	l, err := s.load(s.copyPath())
	if err != nil {
		s.log.Warn("the copy kept from before cannot be used; it is fetched anew", "error", err)
		s.kept = copyNote{}
		return nil
	}
	s.used = used
	s.loaded(l, s.kept.Version.ETag, modified(s.kept), s.kept.Fetched)
	return nil
}

// Run looks at the source again and again until ctx ends. It returns nil.
func (s *Source) Run(ctx context.Context) error {
	soonest := 15 * time.Second
	if s.follower != nil {
		soonest = time.Minute // registries ask not to be asked more often
	}
	wait := s.every
	if s.follower != nil || s.web != nil && s.Status().State != Fresh {
		wait = 0 // nothing is in use, or an old copy
	}
	for failures := 0; ; {
		wait -= rand.N(wait/10 + 1) // so that not all ask at once
		s.set(func(st *Status) { st.NextAttempt = time.Now().Add(wait) })
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		s.set(func(st *Status) { st.NextAttempt = time.Time{} })
		err := s.look(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			failures, wait = 0, s.every
			continue
		}
		s.log.Warn("cannot be refreshed; what was read before stays in use", "error", err)
		wait = min(s.every, soonest<<min(failures, 20))
		failures++
	}
}

// look takes over what is new.
func (s *Source) look(ctx context.Context) error {
	var err error
	switch {
	case s.follower != nil:
		err = s.follow(ctx)
	case s.web != nil:
		err = s.fetch(ctx)
	default:
		err = s.reread()
	}
	if ctx.Err() == nil {
		s.set(func(st *Status) {
			st.LastError = ""
			if err != nil {
				st.LastError = err.Error()
			}
		})
	}
	return err
}

// follow asks the follower's server.
func (s *Source) follow(ctx context.Context) error {
	l, err := s.follower.Follow(ctx)
	st, checked := s.Status(), time.Now()
	if err != nil {
		if checked = st.Checked; st.State == Missing {
			checked = l.AsOf
		}
	}
	switch {
	case l == Loaded{}:
	case st.State == Missing || st.Serial != l.Serial:
		s.loaded(l, l.Serial, l.AsOf, checked)
	case err == nil:
		s.set(func(st *Status) { st.State, st.AsOf, st.Checked = Fresh, l.AsOf, checked })
	}
	return err
}

// reread reads the files of this machine unless they are as they were.
func (s *Source) reread() error {
	now, err := stat(append([]string{s.location}, s.with...))
	if err != nil {
		return err
	}
	if same(s.used, now) {
		s.set(func(st *Status) { st.Checked = time.Now() })
		return nil
	}
	l, err := s.load(s.location)
	if err != nil {
		return err
	}
	s.used = now
	s.loaded(l, "", now[0].ModTime(), time.Now())
	return nil
}

func stat(paths []string) ([]os.FileInfo, error) {
	infos := make([]os.FileInfo, len(paths))
	for i, path := range paths {
		var err error
		if infos[i], err = os.Stat(path); err != nil {
			return nil, err
		}
	}
	return infos, nil
}

func (s *Source) copyPath() string { return filepath.Join(s.web.Folder, s.name) }

// fetch asks the web for another version, and reads the copy again where only the files beside it have changed.
func (s *Source) fetch(ctx context.Context) error {
	now, err := stat(s.with)
	if err != nil {
		return err
	}
	var l Loaded
	v, err := s.web.Client.Fetch(ctx, download.File{
		URL: s.location, Path: s.copyPath(), Replace: true, Have: s.kept.Version,
		MaxBytes: s.web.MaxBytes, Limit: "knowledge.refresh.max_file_bytes",
		Check: func(_ context.Context, path string, _ int64) (err error) {
			l, err = s.load(path)
			return err
		},
	})
	unchanged := errors.Is(err, download.ErrUnchanged)
	if unchanged && same(s.used, now) {
		s.set(func(st *Status) { st.Checked = time.Now() })
		return nil
	}
	if unchanged {
		v = s.kept.Version
		l, err = s.load(s.copyPath())
	}
	if err != nil {
		return err
	}
	s.used = now
	if !unchanged {
		s.kept = copyNote{s.status.Location, v, time.Now()}
		if err := s.note(); err != nil {
			s.log.Warn("what version the copy is cannot be noted; a restart fetches it anew", "error", err)
		}
	}
	s.loaded(l, v.ETag, modified(s.kept), time.Now())
	return nil
}

// note writes down what the copy is: whole, or not at all.
func (s *Source) note() error {
	text, err := json.Marshal(s.kept)
	if err != nil {
		return err
	}
	path := s.copyPath() + ".json"
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// modified is when the file was changed, as its server says, or else when it was fetched.
func modified(n copyNote) time.Time {
	if t, err := http.ParseTime(n.Version.LastModified); err == nil {
		return t
	}
	return n.Fetched
}

// loaded notes that other data is in use, of a serial, and of a time unless it names its own.
func (s *Source) loaded(l Loaded, serial string, asOf, checked time.Time) {
	if !l.AsOf.IsZero() {
		asOf = l.AsOf
	}
	s.set(func(st *Status) {
		st.State, st.Entries, st.Serial, st.AsOf, st.Checked = Fresh, l.Entries, serial, asOf, checked
	})
	s.log.Info("read", "entries", l.Entries, "as_of", asOf.UTC())
}

func (s *Source) set(change func(*Status)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.status)
}
