package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/routevigil/routevigil/cmd/routevigil/service"
	"github.com/routevigil/routevigil/detect/compare"
	"github.com/routevigil/routevigil/detect/incident"
)

func backtestResult() *service.Backtest {
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	x := func(id string, severity incident.Severity) *incident.Incident {
		return &incident.Incident{ID: id, Kind: incident.OriginHijack, Severity: severity, StartedAt: noon, Title: "AS64500 announces 192.0.2.0/24 of AS64501"}
	}
	return &service.Backtest{From: noon, To: noon.Add(time.Hour), Updates: 12, Stored: 5, Found: 5, Same: 3,
		Basis: service.Basis{DetectorState: noon.Add(-90 * time.Minute), DetectorAge: 5400, Gaps: []string{"Something is missing."}},
		Differences: []compare.Difference{
			{Change: compare.Added, After: x("inc_A", incident.High)},
			{Change: compare.Removed, Before: x("inc_B", incident.Low)},
			{Change: compare.Changed, Before: x("inc_C", incident.Low), After: x("inc_D", incident.High), Fields: []compare.Field{{Name: "severity", Before: "low", After: "high"}, {Name: "watches", After: "mine"}}},
		}}
}

func TestPrintBacktest(t *testing.T) {
	var out bytes.Buffer
	if err := printBacktest(&Globals{Stdout: &out}, backtestResult()); err != nil {
		t.Fatal(err)
	}
	want := `CHANGE   STARTED              SEVERITY  KIND           ID             WHAT
added    2026-03-01 12:00:00  high      origin_hijack  inc_A          AS64500 announces 192.0.2.0/24 of AS64501
removed  2026-03-01 12:00:00  low       origin_hijack  inc_B          AS64500 announces 192.0.2.0/24 of AS64501
changed  2026-03-01 12:00:00  high      origin_hijack  inc_C > inc_D  severity: low > high; watches: none > mine

2026-03-01 12:00:00 UTC to 2026-03-01 13:00:00 UTC: 1 added, 1 removed, 1 changed, 3 the same (5 were stored, 5 are found; 12 routes judged)
  begun with the state of the detector of 2026-03-01 10:30:00 UTC, 1h30m0s before the period
  note: Something is missing.
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestPrintBacktestJSON(t *testing.T) {
	var out bytes.Buffer
	if err := printBacktestJSON(&Globals{Stdout: &out}, backtestResult()); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		var x struct {
			Type, Change                     string
			Before, After                    *incident.Incident
			Added, Removed, Changed, Updates int
		}
		if err := json.Unmarshal([]byte(line), &x); err != nil {
			t.Fatal(err)
		}
		word := x.Type + " " + x.Change
		if x.Before != nil {
			word += " before " + x.Before.ID
		}
		if x.After != nil {
			word += " after " + x.After.ID
		}
		if x.Type == "summary" && (x.Added != 1 || x.Removed != 1 || x.Changed != 1 || x.Updates != 12) {
			t.Errorf("summary: %s", line)
		}
		got = append(got, word)
	}
	if want := "difference added after inc_A, difference removed before inc_B, difference changed before inc_C after inc_D, summary "; strings.Join(got, ", ") != want {
		t.Errorf("got %q, want %q", strings.Join(got, ", "), want)
	}
}

func TestBacktestUsage(t *testing.T) {
	noon := instant{time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	err := BacktestCmd{From: noon, To: noon}.Run(&Globals{Context: context.Background()})
	if _, ok := errors.AsType[*UsageError](err); !ok {
		t.Errorf("an empty period: %v", err)
	}
}
