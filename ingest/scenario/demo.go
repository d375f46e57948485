package scenario

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
)

//go:embed demo/*.scenario
var demo embed.FS

// Demo gives the well-known incidents that the demo plays, rebuilt from facts. All play on the
// world and share its first two minutes without touching the same prefixes, so that they can be
// played at once.
func Demo() ([]*Scenario, error) { return ParseFS(demo, "demo/*.scenario") }

// ParseFS parses all files of fsys that match the pattern, in the order of their names. Errors of
// all files are reported together.
func ParseFS(fsys fs.FS, pattern string) ([]*Scenario, error) {
	names, err := fs.Glob(fsys, pattern)
	if err != nil {
		return nil, fmt.Errorf("scenarios %q: %w", pattern, err)
	}
	var list []*Scenario
	var errs []error
	for _, name := range names {
		f, err := fsys.Open(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s, err := Parse(f, name)
		f.Close()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list = append(list, s)
	}
	return list, errors.Join(errs...)
}
