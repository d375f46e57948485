// Package fetch gets files of RIPE RIS' and RouteViews' archives by collector and time, into a folder
// where they are found the next time.
//
// Which files there are is asked of bgpkit-broker, since its answer is small where a month's listing
// has a megabyte; but only the archives know for certain. So of what the broker says nothing but file
// names is used, every request goes to the archives that are configured, and where the broker's answer
// has gaps, or a file that it names is not there, the archive's directory listing decides. Names are
// never guessed: the rhythm of the files has changed over the years and has holes.
//
// A file gets its final place when it is whole: it has the length that was announced, its container can be
// read to the end and it begins with an MRT record. One that is not there yet is continued where an earlier
// attempt, also of another process, came to (see package download).
//
// The archives are given away. So there are few downloads at once, and nothing is fetched twice.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mrtarchive "github.com/routevigil/routevigil/ingest/archive"
	"github.com/routevigil/routevigil/ingest/download"
)

// Kind is what a file holds.
type Kind uint8

const (
	RIB     Kind = iota // a table dump
	Updates             // what was heard in the minutes from File.Start on
)

func (k Kind) String() string {
	if k == RIB {
		return "table dump"
	}
	return "updates"
}

// File is one file of an archive.
type File struct {
	Collector string
	Kind      Kind
	Start     time.Time // of which its name speaks
	End       time.Time // of updates: until when they are told, as far as the other files show; otherwise zero
	URL       string
	Path      string // where it is, or will be, on this machine
}

// Request says what is wanted.
type Request struct {
	Collectors []string  // such as rrc00, route-views2, route-views.sg
	From, To   time.Time // updates in [From, To), and the last table dump at or before From
	RIB        bool
	// Updates: also a file that begins before From but reaches into the period. With RIB, the updates
	// since the table dump are wanted too, so that the table can be brought up to From.
	Updates bool
}

const (
	maxPeriod     = 366 * 24 * time.Hour
	maxCollectors = 200
	// maxTableAge is how old a table dump may be to be of use; they are made every two or eight hours.
	maxTableAge = 48 * time.Hour
)

// earliest is before the first file of any archive.
var earliest = time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC)

// collectorName is what may become a part of a URL and of a path.
var collectorName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*(\.[a-z0-9][a-z0-9-]*)*$`)

// Validate says what is wrong with r.
func (r Request) Validate() error {
	switch {
	case len(r.Collectors) == 0:
		return errors.New("no collector is named")
	case len(r.Collectors) > maxCollectors:
		return fmt.Errorf("%d collectors are named, more than %d", len(r.Collectors), maxCollectors)
	case !r.RIB && !r.Updates:
		return errors.New("neither a table dump nor updates are asked for")
	case r.From.Before(earliest):
		return fmt.Errorf("there are no archives before %s", earliest.Format(time.DateOnly))
	case !r.From.Before(r.To):
		return fmt.Errorf("the period ends (%s) before it begins (%s)", stamp(r.To), stamp(r.From))
	case r.To.Sub(r.From) > maxPeriod:
		return fmt.Errorf("the period is longer than %d days", int(maxPeriod.Hours()/24))
	}
	for _, c := range r.Collectors {
		if len(c) > 64 || !collectorName.MatchString(c) {
			return fmt.Errorf("%q is not the name of a collector, such as rrc00 or route-views2", c)
		}
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Client fetches files. Plan and Fetch belong to one goroutine; Progress may be called from any.
type Client struct {
	config   Configuration
	dir      string
	log      *slog.Logger
	web      *download.Client
	distrust bool                  // of the broker: it named a file that is not there
	listings map[string][]fileName // by URL
	received atomic.Int64          // octets in this run
	progress [2]kindProgress       // by Kind
}

// kindProgress is what is known of the sizes of the files of one kind that are being fetched.
type kindProgress struct{ files, known, octets atomic.Int64 }

// New makes a client for a configuration that is valid. userAgent is how it introduces itself.
func New(c Configuration, userAgent string, log *slog.Logger) (*Client, error) {
	dir, err := c.directory()
	if err != nil {
		return nil, err
	}
	allowed := map[string]bool{}
	for _, a := range []*string{&c.Broker, &c.RIS, &c.RouteViews} {
		*a = strings.TrimRight(*a, "/")
		u, err := url.Parse(*a)
		if err != nil {
			return nil, err
		}
		allowed[u.Host] = true
	}
	follow := func(host string) error {
		if !allowed[host] {
			return fmt.Errorf("to %q, which is no configured archive", host)
		}
		return nil
	}
	web := download.New(download.Patience{StallAfter: c.StallAfter, Attempts: c.Attempts, RetryMin: c.RetryMin, RetryMax: c.RetryMax}, userAgent, follow, log)
	return &Client{config: c, dir: dir, web: web, log: log, listings: map[string][]fileName{}}, nil
}

// Close releases the connections.
func (c *Client) Close() { c.web.Close() }

// Progress returns how many octets were received and, once that can be guessed from the first files,
// how many there will be; until then 0.
func (c *Client) Progress() (received, total int64) {
	received = c.received.Load()
	for i := range c.progress {
		files, known := c.progress[i].files.Load(), c.progress[i].known.Load()
		if files > 0 && known == 0 {
			return received, 0
		}
		if known > 0 {
			total += c.progress[i].octets.Load() / known * files
		}
	}
	return received, max(total, received)
}

// Plan finds out which files r wants, in the order of collectors, of each the table dump first, then by time.
// What the archive has no updates of is logged. Nothing is fetched.
func (c *Client) Plan(ctx context.Context, r Request) ([]File, error) {
	var files []File
	seen := map[string]bool{}
	for _, collector := range r.Collectors {
		if seen[collector] {
			continue
		}
		seen[collector] = true
		more, err := c.plan(ctx, collector, r)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", collector, err)
		}
		files = append(files, more...)
	}
	return files, nil
}

func (c *Client) plan(ctx context.Context, collector string, r Request) ([]File, error) {
	from, to := r.From.UTC(), r.To.UTC()
	a := c.archiveOf(collector)
	var files []File
	if r.RIB {
		// The broker's period ends before its end.
		dumps, err := c.index(ctx, a, RIB, from.Add(-maxTableAge), from.Add(time.Second), func(fs []File) bool { return len(fs) > 0 })
		if err != nil {
			return nil, err
		}
		if len(dumps) == 0 {
			return nil, fmt.Errorf("there is no table dump in the %d hours before %s under %s; is the name of the collector right?",
				int(maxTableAge.Hours()), stamp(from), a.base)
		}
		files = dumps[len(dumps)-1:]
		from = files[0].Start
	}
	if r.Updates {
		// A file that begins earlier may reach into the period, and how far one reaches shows in the next.
		all, err := c.index(ctx, a, Updates, from.Add(-2*maxInterval), to.Add(2*maxInterval), func(fs []File) bool {
			return len(gaps(fs, a.interval, from, to)) == 0
		})
		if err != nil {
			return nil, err
		}
		updates := overlapping(all, a.interval, from, to)
		if len(updates) == 0 {
			return nil, fmt.Errorf("there are no updates from %s to %s under %s; is the name of the collector right?", stamp(from), stamp(to), a.base)
		}
		for _, g := range gaps(all, a.interval, from, to) {
			c.log.Warn("the archive has no updates of a part of the period", "collector", collector, "from", stamp(g.from), "to", stamp(g.to))
		}
		files = append(files, updates...)
	}
	return files, nil
}

// Fetch makes sure that every file that r wants is on this machine, and returns those that are, in the
// order of Plan, also where there is an error. After an error the same call goes on from where this
// one came to.
func (c *Client) Fetch(ctx context.Context, r Request) ([]File, error) {
	files, err := c.Plan(ctx, r)
	if err != nil {
		return nil, err
	}
	there, err := c.fetchAll(ctx, files)
	if errors.Is(err, download.ErrNotThere) && c.config.Broker != "" && !c.distrust && ctx.Err() == nil {
		c.distrust = true
		c.log.Warn("the broker named files that are not there; the archive's listing is read instead", "error", err)
		return c.Fetch(ctx, r)
	}
	return there, err
}

// fetchAll fetches some files at once. It goes on after one that fails, unless the failure is one of
// all of them.
func (c *Client) fetchAll(ctx context.Context, files []File) (there []File, err error) {
	var missing []int
	for i, f := range files {
		if download.Whole(f.Path) {
			c.log.Debug("is there already", "path", f.Path)
			continue
		}
		missing = append(missing, i)
		c.progress[f.Kind].files.Add(1)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	failed := map[int]error{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range min(c.config.Parallel, len(missing)) {
		wg.Go(func() {
			for i := range next {
				err := c.fetchOne(ctx, files[i])
				if err == nil {
					continue
				}
				_, ok := errors.AsType[*download.Fatal](err)
				err = fmt.Errorf("%s: %w", files[i].URL, err)
				mu.Lock()
				failed[i] = err
				mu.Unlock()
				if ok {
					cancel(err)
				}
			}
		})
	}
	for _, i := range missing {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()

	for _, f := range files {
		if download.Whole(f.Path) {
			there = append(there, f)
		}
	}
	if ctx.Err() != nil { // one cause, however many files
		return there, fmt.Errorf("%d of %d files are missing: %w", len(files)-len(there), len(files), context.Cause(ctx))
	}
	var errs []error
	for _, i := range slices.Sorted(maps.Keys(failed)) {
		errs = append(errs, failed[i])
	}
	return there, errors.Join(errs...)
}

// maxExpansion is how many times larger than compressed a file may be, and smallExpansion how large it may be anyway.
// Tables reach 20.
const (
	maxExpansion   = 200
	smallExpansion = 64 << 20
)

// fetchOne brings one file to its final place.
func (c *Client) fetchOne(ctx context.Context, f File) error {
	progress := &c.progress[f.Kind]
	_, err := c.web.Fetch(ctx, download.File{
		URL: f.URL, Path: f.Path, MaxBytes: c.config.MaxFileBytes, Limit: "archive.max_file_bytes",
		Check: func(ctx context.Context, path string, size int64) error {
			n, err := mrtarchive.Check(ctx, path, size*maxExpansion+smallExpansion)
			if err == nil && n == 0 && f.Kind == RIB {
				err = errors.New("empty, which no table is")
			}
			return err
		},
		Announced: func(octets int64) {
			progress.known.Add(1)
			progress.octets.Add(octets)
		},
		Received: func(octets int) error {
			if c.received.Add(int64(octets)) > c.config.MaxTotalBytes {
				return &download.Fatal{Err: fmt.Errorf("archive.max_total_bytes (%d) have been fetched; raise it, or ask for less", c.config.MaxTotalBytes)}
			}
			return nil
		},
	})
	return err
}

func (c *Client) path(project, collector string, n fileName) string {
	return filepath.Join(c.dir, project, collector, n.start.Format(monthLayout), n.name)
}
