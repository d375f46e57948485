package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"testing"
)

// BenchmarkReplay runs the program over one archive file of updates (2015) with a whole
// table loaded (2014), where these files are at hand, and reports what --stats says.
func BenchmarkReplay(b *testing.B) {
	const (
		table   = "../../../shared/data/mrt/routeviews.route-views.jinx.ribs.1401487200.bz2"
		updates = "../../../shared/data/mrt/updates.et-header.2015.gz"
	)
	for _, file := range []string{table, updates} {
		if _, err := os.Stat(file); err != nil {
			b.Skip(err)
		}
	}
	var sum replayStats
	for b.Loop() {
		command := exec.Command("routevigil", "replay", "--stats", "--rib", table, "-o", os.DevNull, updates)
		var stderr bytes.Buffer
		command.Stderr = &stderr
		err := command.Run()
		lines := bytes.Split(bytes.TrimSpace(stderr.Bytes()), []byte("\n"))
		var stats replayStats
		if bad := json.Unmarshal(lines[len(lines)-1], &stats); err != nil || bad != nil || stats.Updates == 0 {
			b.Fatalf("%v, %v: %s", err, bad, stderr.Bytes())
		}
		sum.Updates += stats.Updates
		sum.Seconds += stats.Seconds
		sum.RIBSeconds += stats.RIBSeconds
		sum.MaxRSSBytes = max(sum.MaxRSSBytes, stats.MaxRSSBytes)
	}
	b.ReportMetric(float64(sum.Updates)/sum.Seconds, "updates/s")
	b.ReportMetric(sum.RIBSeconds/float64(b.N), "table-s/op")
	b.ReportMetric(float64(sum.MaxRSSBytes)/(1<<20), "MiB-rss")
}
