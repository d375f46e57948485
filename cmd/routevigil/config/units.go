package config

import (
	"errors"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

var daysAndRest = regexp.MustCompile(`^([0-9]{1,6})d(.*)$`)

// parseDuration reads what [time.ParseDuration] reads, and days before it: "90d", "1d12h".
func parseDuration(text string) (time.Duration, error) {
	days, rest := time.Duration(0), text
	if m := daysAndRest.FindStringSubmatch(text); m != nil {
		n, _ := strconv.Atoi(m[1])
		if n > int(math.MaxInt64/day) {
			return 0, errTooLong
		}
		days, rest = time.Duration(n)*day, m[2]
		if rest == "" {
			return days, nil
		}
		if rest[0] == '-' || rest[0] == '+' {
			return 0, errNotADuration
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil {
		return 0, errNotADuration
	}
	if d > math.MaxInt64-days {
		return 0, errTooLong
	}
	return days + d, nil
}

var (
	errNotADuration = errors.New(`must be a time such as "500ms", "10s", "1h30m" or "90d"`)
	errTooLong      = errors.New("is too long a time")
)

// formatDuration writes d as parseDuration reads it, in the largest units that fit.
func formatDuration(d time.Duration) string {
	if d > 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// sizeUnits has every larger binary unit after the smaller, for formatSize.
var sizeUnits = []struct {
	name  string
	bytes uint64
}{
	{"B", 1}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
}

var sizeFormat = regexp.MustCompile(`^([0-9]{1,19}) ?([A-Za-z]*)$`)

// parseSize reads a whole number of bytes with an optional unit.
func parseSize(text string) (uint64, error) {
	m := sizeFormat.FindStringSubmatch(text)
	if m == nil {
		return 0, errNotASize
	}
	n, err := strconv.ParseUint(m[1], 10, 64)
	if err != nil {
		return 0, errNotASize
	}
	if m[2] == "" {
		return n, nil
	}
	for _, unit := range sizeUnits {
		if strings.EqualFold(unit.name, m[2]) {
			if n > math.MaxInt64/unit.bytes {
				return 0, errors.New("is too large a size")
			}
			return n * unit.bytes, nil
		}
	}
	return 0, errNotASize
}

var errNotASize = errors.New(`must be a size such as "64MiB" or "10GiB" (B, kB, KiB, MB, MiB, GB, GiB, TB, TiB)`)

// formatSize writes n as parseSize reads it, in the largest binary unit that divides it.
func formatSize(n uint64) string {
	best := sizeUnits[0]
	for _, unit := range sizeUnits {
		if n >= unit.bytes && n%unit.bytes == 0 && unit.bytes&(unit.bytes-1) == 0 {
			best = unit
		}
	}
	return strconv.FormatUint(n/best.bytes, 10) + best.name
}
