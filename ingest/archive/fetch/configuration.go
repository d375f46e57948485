package fetch

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Configuration says where the archives are and how much may be asked of them.
type Configuration struct {
	Broker     string `yaml:"broker" doc:"Address of bgpkit-broker's API, which knows what files there are; empty: the archives' own directory listings are read instead."`
	RIS        string `yaml:"ris" doc:"Address of RIPE RIS' archive or of a mirror of it, with a folder for each collector."`
	RouteViews string `yaml:"routeviews" doc:"Address of RouteViews' archive or of a mirror of it, with a folder for each collector and bgpdata of route-views2."`
	Directory  string `yaml:"directory" doc:"Folder in which fetched files are kept, and looked for before they are fetched; empty: routevigil/archive in the user's cache folder."`

	Parallel      int           `yaml:"parallel" doc:"Downloads at the same time, of all archives together."`
	MaxFileBytes  int64         `yaml:"max_file_bytes" config:"bytes" doc:"Largest file that is fetched."`
	MaxTotalBytes int64         `yaml:"max_total_bytes" config:"bytes" doc:"Most that one run fetches."`
	StallAfter    time.Duration `yaml:"stall_after" doc:"A download from which nothing came for this long is broken off and tried again; there is no limit to how long a whole one takes."`
	Attempts      int           `yaml:"attempts" doc:"How often a file is tried before it is given up; attempts that brought it on do not count."`
	RetryMin      time.Duration `yaml:"retry_min" doc:"Wait before the second attempt; doubles with every further one, and is shortened at random by up to half."`
	RetryMax      time.Duration `yaml:"retry_max" doc:"Longest wait between attempts, but for a server that asks for a longer one."`
}

// DefaultConfiguration uses the public archives with restraint: they are given away by people who pay
// for the traffic.
func DefaultConfiguration() Configuration {
	return Configuration{
		Broker: "https://api.bgpkit.com/v3/broker", RIS: "https://data.ris.ripe.net", RouteViews: "https://archive.routeviews.org",
		Parallel: 2, MaxFileBytes: 4 << 30, MaxTotalBytes: 64 << 30,
		StallAfter: 30 * time.Second, Attempts: 5, RetryMin: time.Second, RetryMax: time.Minute,
	}
}

// Validate reports every value that cannot work.
func (c Configuration) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, a := range []struct {
		field, value string
		optional     bool
	}{{"broker", c.Broker, true}, {"ris", c.RIS, false}, {"routeviews", c.RouteViews, false}} {
		if a.value == "" && a.optional {
			continue
		}
		u, err := url.Parse(a.value)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			fail("%s: must be an http:// or https:// address without user, query and fragment", a.field)
		}
	}
	if c.Parallel < 1 || c.Parallel > 16 {
		fail("parallel: must be 1 to 16, is %d", c.Parallel)
	}
	if c.MaxFileBytes < 1<<20 {
		fail("max_file_bytes: must be at least 1MiB, is %d", c.MaxFileBytes)
	}
	if c.MaxTotalBytes < c.MaxFileBytes {
		fail("max_total_bytes: must not be less than max_file_bytes (%d), is %d", c.MaxFileBytes, c.MaxTotalBytes)
	}
	if c.StallAfter <= 0 {
		fail("stall_after: must be positive, is %v", c.StallAfter)
	}
	if c.Attempts < 1 || c.Attempts > 100 {
		fail("attempts: must be 1 to 100, is %d", c.Attempts)
	}
	if c.RetryMin <= 0 {
		fail("retry_min: must be positive, is %v", c.RetryMin)
	}
	if c.RetryMax < c.RetryMin {
		fail("retry_max: must not be less than retry_min (%v), is %v", c.RetryMin, c.RetryMax)
	}
	return errors.Join(errs...)
}

// directory is where files are kept.
func (c Configuration) directory() (string, error) {
	if c.Directory != "" {
		return c.Directory, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("%w; name a folder with --dir or archive.directory", err)
	}
	return filepath.Join(cache, "routevigil", "archive"), nil
}
