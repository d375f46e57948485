package registry

import (
	"net/netip"
	"time"
)

// beacons are blocks whose prefixes are announced and withdrawn on purpose, to measure how routes spread. Written by hand from
// what those who run them say; short, for whatever lies in one of them is never missed.
var beacons = []struct {
	prefix netip.Prefix
	by     string
}{
	{netip.MustParsePrefix("84.205.64.0/19"), "RIPE RIS"},
	{netip.MustParsePrefix("93.175.144.0/20"), "RIPE RIS"},
	{netip.MustParsePrefix("2001:7fb::/32"), "RIPE RIS"},
}

// Beacon returns who runs the beacon that p is part of; ok is false where it is none.
func Beacon(p netip.Prefix) (by string, ok bool) {
	for _, b := range beacons {
		if b.prefix.Bits() <= p.Bits() && b.prefix.Contains(p.Addr()) {
			return b.by, true
		}
	}
	return "", false
}

// scheduled are the beacons of RIPE RIS that are announced at 00:00, 04:00 and so on, UTC, and withdrawn at 02:00, 06:00 and
// so on; what else lies in the blocks of beacons stays announced, or follows other schedules.
var scheduled = [...]netip.Prefix{netip.MustParsePrefix("84.205.64.0/20"), netip.MustParsePrefix("2001:7fb:fe00::/40")}

// BeaconPeriod is the time between an announcement of a scheduled beacon and its withdrawal.
const BeaconPeriod = 2 * time.Hour

// BeaconDue returns when the scheduled beacon p was last due before t to be announced, or withdrawn; ok is false where p is
// none, or it was the other's turn.
func BeaconDue(p netip.Prefix, announced bool, t time.Time) (due time.Time, ok bool) {
	for _, b := range scheduled {
		if b.Bits() <= p.Bits() && b.Contains(p.Addr()) {
			due = t.UTC().Truncate(BeaconPeriod)
			return due, announced == (due.Hour()%4 == 0)
		}
	}
	return time.Time{}, false
}
