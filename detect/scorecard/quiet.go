package scorecard

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/routevigil/routevigil/detect"
)

// quietFile is real updates in which nothing is known to have happened but what the updates prove: see truths.
type quietFile struct {
	name   string
	rib    string        // what stood before; empty: the beginning of the file teaches what is normal
	warmup time.Duration // of event time, where there is no rib
}

// quietFiles lie below mrt/ of the data. Where there is no table a third of the file is learned from, and the rest is judged.
var quietFiles = []quietFile{
	{name: "routeviews.route-views.jinx.updates.1401493500.bz2", rib: "routeviews.route-views.jinx.ribs.1401487200.bz2"},
	{name: "legacy/updates.19990903.1041.gz", warmup: 200 * time.Second},
	{name: "legacy/updates.20000102.2014.gz", warmup: 300 * time.Second},
	{name: "updates.20020722.2238.gz", warmup: 300 * time.Second},
	{name: "updates.20070211.0141.gz", warmup: 300 * time.Second},
	{name: "updates.20071015.1505.gz", warmup: 100 * time.Second},
	{name: "legacy/updates.20100227.1600.first-796-records.gz", warmup: 2 * time.Second},
	{name: "routeviews.updates.20131201.0000.bz2", warmup: 300 * time.Second},
	{name: "updates.et-header.2015.gz", warmup: 12 * time.Second}, // the transfer of one peer's whole table
	{name: "route-views2.updates.20260222.1530.bz2", warmup: 300 * time.Second},
}

// QuietCases lists the quiet files below dir. Nothing but the routes is known: no VRPs, organisations or relationships of
// those days are to hand, so relationships are those that the detector infers where there is a table to infer them from.
func QuietCases(dir string) ([]Source, error) {
	var list []Source
	for _, f := range quietFiles {
		path := filepath.Join(dir, f.name)
		if _, err := os.Stat(path); err != nil {
			return nil, err
		}
		list = append(list, Source{Group: Quiet, Name: f.name, Judging: InJudging(f.name), Load: func() (*Case, error) {
			c := &Case{Name: f.name, Updates: read(path)}
			if f.rib != "" {
				c.RIB = read(filepath.Join(dir, f.rib))
			}
			var err error
			if c.Labels, err = truths(f.name, c.Updates); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			return c, nil
		}, Configure: func(c *detect.Configuration) {
			if f.warmup != 0 {
				c.Warmup = f.warmup
			}
		}})
	}
	return list, nil
}
