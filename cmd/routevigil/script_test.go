package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/archive"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/mrt"
	"github.com/routevigil/routevigil/ingest/scenario"
	"github.com/routevigil/routevigil/store/embedded"
	"github.com/routevigil/routevigil/store/move"
)

// playScenario FILE DIR writes what a scenario says into DIR as the Internet would publish it:
// rib.COLLECTOR.mrt and updates.COLLECTOR.mrt of each collector, vrps.json, as-rel.txt and as-org.txt.
func playScenario(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: scenario file directory")
	}
	s, err := scenario.Parse(strings.NewReader(ts.ReadFile(args[0])), args[0])
	ts.Check(err)
	dir := ts.MkAbs(args[1])
	ts.Check(os.MkdirAll(dir, 0o755))
	_, err = s.WriteBaseline(dir, s.Start.Add(-time.Hour))
	ts.Check(err)
	writers := map[string]*mrt.Writer{}
	for _, u := range s.Updates() {
		w := writers[u.Peer.Collector]
		if w == nil {
			f, err := os.Create(filepath.Join(dir, "updates."+u.Peer.Collector+".mrt"))
			ts.Check(err)
			defer f.Close()
			w = mrt.NewWriter(f)
			writers[u.Peer.Collector] = w
		}
		ts.Check(w.Update(&u))
	}
}

// compress FILE… writes FILE.gz and FILE.zst.
func compress(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: compress file...")
	}
	for _, name := range args {
		text := ts.ReadFile(name)
		for suffix, open := range map[string]func(io.Writer) (io.WriteCloser, error){
			".gz":  func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
			".zst": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
		} {
			f, err := os.Create(ts.MkAbs(name) + suffix)
			ts.Check(err)
			w, err := open(f)
			ts.Check(err)
			_, err = io.WriteString(w, text)
			ts.Check(err)
			ts.Check(w.Close())
			ts.Check(f.Close())
		}
	}
}

// damage FILE OFFSET [HEX] puts these octets into a file at an offset, which counts from the end
// where it is negative; without octets it cuts the file off there.
func damage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: damage file offset [octets]")
	}
	text := []byte(ts.ReadFile(args[0]))
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	if at < 0 {
		at += len(text)
	}
	if len(args) == 2 {
		text = text[:at]
	} else {
		octets, err := hex.DecodeString(args[2])
		ts.Check(err)
		copy(text[at:], octets)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), text, 0o600))
}

// objects FILE N KEY… fails unless FILE holds N lines, each one JSON object that has these members.
func objects(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: objects file number key...")
	}
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	lines := bufio.NewScanner(strings.NewReader(ts.ReadFile(args[0])))
	lines.Buffer(nil, 1<<24)
	n := 0
	for ; lines.Scan(); n++ {
		var object map[string]json.RawMessage
		if err := json.Unmarshal(lines.Bytes(), &object); err != nil {
			ts.Fatalf("%s:%d: %v", args[0], n+1, err)
		}
		for _, key := range args[2:] {
			if object[key] == nil {
				ts.Fatalf("%s:%d: %q is missing", args[0], n+1, key)
			}
		}
	}
	if n != want {
		ts.Fatalf("%s has %d lines, want %d", args[0], n, want)
	}
}

// publish NET DIR lays out what scenario has put into NET as RIPE RIS publishes it, below DIR/ris: a table,
// and a file of updates for every five minutes, be they empty.
func publish(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: publish directory archive")
	}
	const step = 5 * time.Minute
	tables, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "rib.*.mrt"))
	ts.Check(err)
	for _, table := range tables {
		collector := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(table), "rib."), ".mrt")
		put := func(kind string, at time.Time, content []byte) {
			dir := filepath.Join(ts.MkAbs(args[1]), "ris", collector, at.Format("2006.01"))
			ts.Check(os.MkdirAll(dir, 0o755))
			f, err := os.Create(filepath.Join(dir, kind+at.Format(".20060102.1504")+".gz"))
			ts.Check(err)
			w := gzip.NewWriter(f)
			_, err = w.Write(content)
			ts.Check(errors.Join(err, w.Close(), f.Close()))
		}
		begin := readAll(ts, table, func(*ingest.Update) {})
		content, err := os.ReadFile(table)
		ts.Check(err)
		put("bview", begin, content)
		files := map[time.Time]*bytes.Buffer{}
		end := begin
		readAll(ts, filepath.Join(filepath.Dir(table), "updates."+collector+".mrt"), func(u *ingest.Update) {
			end = u.Time.Time().Truncate(step)
			if files[end] == nil {
				files[end] = &bytes.Buffer{}
			}
			ts.Check(mrt.NewWriter(files[end]).Update(u))
		})
		for at := begin.Truncate(step); !at.After(end); at = at.Add(step) {
			content := files[at]
			if content == nil {
				content = &bytes.Buffer{}
			}
			put("updates", at, content.Bytes())
		}
	}
}

// readAll hands every update of a file to f and returns the time of the first.
func readAll(ts *testscript.TestScript, path string, f func(*ingest.Update)) (first time.Time) {
	r, err := archive.Open([]string{path}, archive.Options{Report: func(err error) { ts.Fatalf("%v", err) }})
	ts.Check(err)
	defer r.Close()
	for {
		u, err := r.Next()
		if err == io.EOF {
			return first
		}
		ts.Check(err)
		if first.IsZero() {
			first = u.Time.Time()
		}
		f(u)
	}
}

// archives DIR FILE serves the folders ris and routeviews of DIR until the script ends, and writes a
// configuration into FILE by which the commands use them.
func archives(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: archives directory file")
	}
	s := httptest.NewServer(http.FileServer(http.Dir(ts.MkAbs(args[0]))))
	ts.Defer(s.Close)
	cfg := fmt.Sprintf("archive:\n  broker: \"\"\n  ris: %s/ris\n  routeviews: %[1]s/routeviews\n  retry_min: 1ms\n  retry_max: 1ms\n", s.URL)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(cfg), 0o600))
}

// exportFolder DIR writes an export of three updates, an incident and a gap into DIR.
func exportFolder(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: exportfolder directory")
	}
	ctx := context.Background()
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	c := embedded.DefaultConfiguration()
	c.Directory = ts.MkAbs(args[0]) + ".store"
	s, err := embedded.Open(c, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	ts.Check(err)
	var b ingest.Batch
	for i := range 3 {
		b.Updates = append(b.Updates, ingest.Update{Time: ingest.TimeOf(noon.Add(time.Duration(i) * 30 * time.Minute)),
			Peer:      ingest.Peer{Collector: "rrc00", ASN: 64500, Addr: netip.MustParseAddr("192.0.2.1")},
			Withdrawn: []bgp.NLRI{{Prefix: netip.MustParsePrefix("198.51.100.0/24")}}})
	}
	_, err = s.AppendBatch(ctx, &b)
	ts.Check(err)
	ts.Check(s.SaveGap(ctx, &ingest.Gap{Feed: "ris-live", Collector: "rrc00", From: noon, Until: noon.Add(time.Minute), State: ingest.GapDone}))
	in := incident.Incident{ID: "inc_1", Sequence: 1, Kind: incident.OriginHijack, Status: incident.Open, Severity: incident.High, StartedAt: noon, DetectedAt: noon, UpdatedAt: noon}
	ts.Check(s.CommitEvents(ctx, []incident.Event{{Sequence: 1, Time: noon, Change: incident.Opened, Incident: in}}, nil))
	ts.Check(s.Close())
	r, err := embedded.OpenReader(ctx, c.Directory)
	ts.Check(err)
	_, err = move.Export(ctx, r, ts.MkAbs(args[0]), move.ExportOptions{})
	ts.Check(errors.Join(err, r.Close()))
}
