package archive

import (
	"path/filepath"
	"regexp"
	"strings"
)

var (
	ris        = regexp.MustCompile(`^rrc[0-9]{2}$`)
	routeViews = regexp.MustCompile(`^route-views[0-9a-z-]*(\.[0-9a-z-]+)*$`)
	month      = regexp.MustCompile(`^[0-9]{4}\.[0-9]{2}$`)
	// words of file names that do not name a collector
	noName = regexp.MustCompile(`^(ribs?|updates?|bview|dump|mrt|gz|bz2|zst|json|jsonl|ndjson|[0-9]{4,})$`)
)

// CollectorOf names the collector whose file path is, so that the table and the updates of one
// collector speak of the same peers:
//
//   - "rrc00" or "route-views…" as a part of the file's name or, if it has none, as a folder;
//   - the folder above RouteViews' "bgpdata", which for the collector at the archive's root is
//     "route-views2";
//   - the folder between "routeviews" and a month, as package fetch keeps files;
//   - otherwise the file's name without the words that say what kind of file it is and without dates:
//     "lab" for both lab.rib.mrt.gz and lab.updates.20240101.0000.gz, and nothing for
//     updates.20240101.0000.gz.
func CollectorOf(path string) string {
	if path == "-" {
		return ""
	}
	dirs := strings.Split(filepath.ToSlash(path), "/")
	base := dirs[len(dirs)-1]
	dirs = dirs[:len(dirs)-1]

	var rest []string
	for _, word := range strings.Split(base, ".") {
		if !noName.MatchString(word) {
			rest = append(rest, word)
		}
	}
	for i, word := range rest {
		if ris.MatchString(word) {
			return word
		}
		if strings.HasPrefix(word, "route-views") && routeViews.MatchString(strings.Join(rest[i:], ".")) {
			return strings.Join(rest[i:], ".")
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		switch {
		case ris.MatchString(dirs[i]), routeViews.MatchString(dirs[i]):
			return dirs[i]
		case dirs[i] == "bgpdata" && i > 0 && dirs[i-1] != "" && !strings.Contains(dirs[i-1], "routeviews.org"):
			return dirs[i-1]
		case dirs[i] == "bgpdata":
			return "route-views2"
		case month.MatchString(dirs[i]) && i > 1 && dirs[i-2] == "routeviews" && dirs[i-1] != "bgpdata":
			return dirs[i-1]
		}
	}
	return strings.Join(rest, ".")
}
