package compare

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/incident"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func hijack(id string, minute int, offender, victim uint32, prefix string) incident.Incident {
	start := noon.Add(time.Duration(minute) * time.Minute)
	return incident.Incident{ID: id, Kind: incident.OriginHijack, Severity: incident.High, Confidence: 0.9, StartedAt: start, DetectedAt: start,
		Offenders: []uint32{offender}, Victims: []uint32{victim}, Prefixes: []incident.Prefix{{Prefix: netip.MustParsePrefix(prefix)}}, PrefixCount: 1}
}

func with(x incident.Incident, change func(*incident.Incident)) incident.Incident {
	change(&x)
	return x
}

func TestIncidents(t *testing.T) {
	ended := func(minute int) func(*incident.Incident) {
		return func(x *incident.Incident) { at := noon.Add(time.Duration(minute) * time.Minute); x.EndedAt = &at }
	}
	same := hijack("inc_same", 0, 1, 2, "192.0.2.0/24")
	worse := hijack("inc_worse", 1, 3, 4, "198.51.100.0/24")
	renamed := hijack("inc_old", 2, 5, 6, "203.0.113.0/24")
	gone := with(hijack("inc_gone", 3, 7, 8, "10.0.0.0/8"), ended(4))
	later := hijack("inc_later", 5, 7, 8, "10.0.0.0/8") // the same, but after the other had ended
	neighbour := hijack("inc_neighbour", 2, 9, 10, "203.0.113.0/24")

	before := []incident.Incident{gone, renamed, worse, same}
	after := []incident.Incident{same, later, neighbour,
		with(worse, func(x *incident.Incident) { x.Severity, x.Confidence = incident.Critical, 0.904 }),
		with(renamed, func(x *incident.Incident) { x.ID, x.Kind = "inc_new", incident.SubprefixHijack }),
	}
	for range 10 { // in whatever order
		differences, n := Incidents(before, after)
		var got []string
		for _, d := range differences {
			line := string(d.Change) + " " + d.incident().ID
			for _, f := range d.Fields {
				line += " " + f.Name + " " + f.Before + ">" + f.After
			}
			got = append(got, line)
		}
		want := []string{"changed inc_worse severity high>critical", "added inc_neighbour", "changed inc_old kind origin_hijack>subprefix_hijack",
			"removed inc_gone", "added inc_later"}
		if diff := cmp.Diff(want, got); diff != "" || n != 1 {
			t.Fatalf("%d are the same; %s", n, diff)
		}
		before = append(before[1:], before[0])
		after = append(after[1:], after[0])
		slices.Reverse(after)
	}
}

func TestIncidentsNothing(t *testing.T) {
	if d, same := Incidents(nil, nil); len(d) != 0 || same != 0 {
		t.Error(d, same)
	}
}
