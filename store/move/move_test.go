package move

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/asof"
	"github.com/routevigil/routevigil/store/clickhouse"
	"github.com/routevigil/routevigil/store/clickhouse/clickhousetest"
	"github.com/routevigil/routevigil/store/embedded"
	"github.com/routevigil/routevigil/store/storetest"
)

// place is where a store is, of one kind or the other.
type place struct {
	open func(t *testing.T) store.Store // the caller closes it
	read func(t *testing.T) store.Reader
}

func embeddedPlace(t *testing.T) place {
	c := embedded.DefaultConfiguration()
	c.Directory = t.TempDir()
	return place{
		func(t *testing.T) store.Store {
			return must(embedded.Open(c, slog.New(slog.DiscardHandler), prometheus.NewRegistry()))(t)
		},
		func(t *testing.T) store.Reader { return must(embedded.OpenReader(t.Context(), c.Directory))(t) },
	}
}

func clickhousePlace(t *testing.T) place {
	c := clickhouse.DefaultConfiguration()
	c.Addresses, c.Database = []string{clickhousetest.Shared(t)}, clickhousetest.Database()
	log := slog.New(slog.DiscardHandler)
	return place{
		func(t *testing.T) store.Store {
			return must(clickhouse.Open(t.Context(), c, store.Retention{}, log, prometheus.NewRegistry()))(t)
		},
		func(t *testing.T) store.Reader { return must(clickhouse.OpenReader(t.Context(), c, log))(t) },
	}
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		no(t, err)
		return v
	}
}

func no(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fill makes a store with history of two hours, of which some is back-filled, some sealed.
func fill(t *testing.T, p place) {
	r := rand.New(rand.NewPCG(5, 0))
	s := p.open(t)
	defer s.Close()
	gaps := []ingest.Gap{
		{Feed: "ris-live", Collector: "rrc00", From: noon, Until: noon.Add(time.Hour), State: ingest.GapWaiting, NextAttempt: noon.Add(2 * time.Hour), Attempts: 2, Error: "not yet"},
		{Feed: "ris-live", Collector: "rrc21", PeerASN: 64500, From: noon.Add(time.Hour), Until: noon.Add(90 * time.Minute), State: ingest.GapDone, Updates: 7, File: noon, Taken: 3},
		{Feed: "ris-live", Collector: "rrc03", From: noon.Add(-48 * time.Hour), Until: noon.Add(-47 * time.Hour), State: ingest.GapFailed, Error: "given up"},
	}
	for i := range gaps {
		no(t, s.SaveGap(t.Context(), &gaps[i]))
	}
	no(t, s.SaveHeard(t.Context(), []store.Heard{{Collector: "rrc00", Feed: "ris-live", Time: noon.Add(2 * time.Hour)}}))
	sequence := uint64(0)
	for i := range 120 {
		at := ingest.TimeOf(noon).Add(time.Duration(i) * time.Minute)
		b := storetest.Batch(r, at, r.IntN(60))
		if i%7 == 3 {
			gaps[0].Updates += uint64(len(b.Updates))
			no(t, s.AppendBackfill(t.Context(), b, &gaps[0]))
		} else {
			must(s.AppendBatch(t.Context(), b))(t)
		}
		if i%10 == 0 {
			in := storetest.Incident(r, fmt.Sprintf("inc_%d", r.IntN(6)), 0)
			in.StartedAt, in.DetectedAt, in.UpdatedAt, in.EndedAt, in.Status = at.Time(), at.Time(), at.Time(), nil, incident.Open
			var events []incident.Event
			for range 3 {
				sequence += 1 + r.Uint64N(3)
				in.Sequence = sequence
				events = append(events, incident.Event{Sequence: sequence, Time: at.Time(), Change: incident.Grew, Incident: in})
			}
			no(t, s.CommitEvents(t.Context(), events, nil))
		}
		if i == 80 {
			no(t, s.SaveCheckpoint(t.Context(), 60, []byte("state")))
		}
	}
}

// seen is all that a store answers, and what the answers should have in common wherever the same history is.
type seen struct {
	Updates   []store.Route
	ByOrigin  []store.Activity
	Table     []store.Route
	Incidents []incident.Incident
	Events    []incident.Event
	Gaps      []ingest.Gap
	Heard     []store.Heard
	Stats     store.Stats
}

func look(t *testing.T, p place) (all seen) {
	t.Helper()
	s := p.open(t)
	defer s.Close()
	for r, err := range s.Updates(t.Context(), store.UpdateQuery{Limit: 1 << 20}) {
		no(t, err)
		r.Cursor = store.Cursor{}
		all.Updates = append(all.Updates, r)
	}
	all.ByOrigin = must(s.Activity(t.Context(), store.ActivityQuery{From: noon.Add(-time.Hour), To: noon.Add(4 * time.Hour), Bucket: time.Hour, Origins: 5}))(t)
	state := must(asof.Routes(t.Context(), s, asof.Query{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Match: store.Covered, At: noon.Add(80 * time.Minute)}))(t)
	for _, r := range state.Routes {
		r.Cursor = store.Cursor{}
		all.Table = append(all.Table, r)
	}
	all.Incidents = must(s.Incidents(t.Context(), store.IncidentQuery{Limit: 1000}))(t)
	all.Events = must(s.Events(t.Context(), "", 0, 1000))(t)
	for _, g := range must(s.Gaps(t.Context(), "", 1000))(t) {
		if g.State != ingest.GapImported {
			g.ID = 0
			all.Gaps = append(all.Gaps, g)
		}
	}
	all.Heard = must(s.Heard(t.Context()))(t)
	st := must(s.Stats(t.Context()))(t)
	all.Stats = store.Stats{Updates: st.Updates, OldestUpdate: st.OldestUpdate, Incidents: st.Incidents, LastSequence: st.LastSequence}
	return all
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
		t.Fatalf("%s (-want +got):\n%.4000s", what, d)
	}
}

func exportOf(t *testing.T, p place, o ExportOptions) string {
	t.Helper()
	r := p.read(t)
	dir := filepath.Join(t.TempDir(), "export")
	m := must(Export(t.Context(), r, dir, o))(t)
	no(t, r.Close())
	if _, err := os.Stat(dir + partial); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("the partial folder is still there (%v)", err)
	}
	again, _, err := ReadManifest(dir)
	no(t, err)
	same(t, "the manifest", again, m)
	return dir
}

func importInto(t *testing.T, p place, dir string, o ImportOptions) (*Result, error) {
	t.Helper()
	s := p.open(t)
	defer s.Close()
	return Import(t.Context(), s, dir, o)
}

// What goes from one store to another answers the same there, on whatever way.
func TestRoundTrip(t *testing.T) {
	for _, way := range []struct {
		name  string
		kinds []func(*testing.T) place
	}{
		{"embedded to embedded", []func(*testing.T) place{embeddedPlace, embeddedPlace}},
		{"embedded to ClickHouse and back", []func(*testing.T) place{embeddedPlace, clickhousePlace, embeddedPlace}},
		{"ClickHouse to ClickHouse", []func(*testing.T) place{clickhousePlace, clickhousePlace}},
	} {
		t.Run(way.name, func(t *testing.T) {
			p := way.kinds[0](t)
			fill(t, p)
			want := look(t, p)
			if len(want.Updates) < 2000 || len(want.Table) < 20 || len(want.Events) != 36 || !slices.ContainsFunc(want.Updates, func(r store.Route) bool { return r.Backfilled }) {
				t.Fatalf("%d updates, %d routes, %d events: the test tests little", len(want.Updates), len(want.Table), len(want.Events))
			}
			for _, open := range way.kinds[1:] {
				dir := exportOf(t, p, ExportOptions{})
				p = open(t)
				r := must(importInto(t, p, dir, ImportOptions{}))(t)
				same(t, "the result", []uint64{r.Updates, r.Events, r.Gaps}, []uint64{uint64(len(want.Updates)), 36, 3})
				same(t, "what the store answers", look(t, p), want)
				again := must(importInto(t, p, dir, ImportOptions{}))(t)
				same(t, "the result of the same again", []uint64{again.Updates, again.Events, again.Gaps}, []uint64{0, 0, 0})
				same(t, "what the store answers then", look(t, p), want)
			}
		})
	}
}

// Imported history is no input of detection, whose state stays what it was.
func TestImportIsNoInput(t *testing.T) {
	from, to := embeddedPlace(t), embeddedPlace(t)
	fill(t, from)
	s := to.open(t)
	live := storetest.Batch(rand.New(rand.NewPCG(9, 0)), ingest.TimeOf(noon.Add(24*time.Hour)), 40)
	must(s.AppendBatch(t.Context(), live))(t)
	no(t, s.SaveCheckpoint(t.Context(), 1, []byte("state")))
	no(t, s.Close())
	must(importInto(t, to, exportOf(t, from, ExportOptions{}), ImportOptions{}))(t)
	s = to.open(t)
	defer s.Close()
	n := 0
	for b, err := range s.BatchesSince(t.Context(), 1) {
		no(t, err)
		if n++; len(b.Updates) > 0 || b.Watermark != 0 {
			t.Fatalf("batch %d for detection has %d updates and watermark %d", n, len(b.Updates), b.Watermark)
		}
	}
	if st := must(s.Stats(t.Context()))(t); n == 0 || st.LastPosition != uint64(n)+1 {
		t.Errorf("%d batches after the first up to position %d", n, st.LastPosition)
	}
}

// A period has just what is of it.
func TestPeriod(t *testing.T) {
	p := embeddedPlace(t)
	fill(t, p)
	from, to := noon.Add(30*time.Minute), noon.Add(70*time.Minute)
	var want []store.Route
	for _, r := range look(t, p).Updates {
		if !r.Time.Before(from) && r.Time.Before(to) {
			want = append(want, r)
		}
	}
	q := embeddedPlace(t)
	must(importInto(t, q, exportOf(t, p, ExportOptions{From: from, To: to}), ImportOptions{}))(t)
	got := look2(t, q)
	same(t, "updates", got.Updates, want)
	if len(want) < 500 || len(got.Gaps) != 2 || len(got.Heard) != 0 {
		t.Errorf("%d updates, gaps %+v, heard %v", len(want), got.Gaps, got.Heard)
	}
	// The rest joins it; the same once more, of another export, would be there twice.
	before, after := exportOf(t, p, ExportOptions{To: from}), exportOf(t, p, ExportOptions{From: to})
	must(importInto(t, q, before, ImportOptions{}))(t)
	must(importInto(t, q, after, ImportOptions{}))(t)
	whole := look(t, p)
	joined := look(t, q)
	sorted := func(list []store.Route) []string {
		var lines []string
		for _, r := range list {
			text, err := json.Marshal(r)
			no(t, err)
			lines = append(lines, string(text))
		}
		slices.Sort(lines)
		return lines
	}
	same(t, "updates of three parts", sorted(joined.Updates), sorted(whole.Updates))
	same(t, "incidents", joined.Incidents, whole.Incidents)
	same(t, "events", joined.Events, whole.Events)
	_, err := importInto(t, q, exportOf(t, p, ExportOptions{From: from, To: to.Add(time.Minute)}), ImportOptions{})
	if err == nil || !strings.Contains(err.Error(), "--overlap") {
		t.Fatalf("error %v, want one about --overlap", err)
	}
	r := must(importInto(t, q, exportOf(t, p, ExportOptions{From: from, To: to.Add(time.Minute)}), ImportOptions{Overlap: true}))(t)
	if n := len(look2(t, q).Updates); r.Updates == 0 || n != len(whole.Updates)+int(r.Updates) {
		t.Errorf("%d updates with %d twice, of %d", n, r.Updates, len(whole.Updates))
	}
}

// look2 is look without what needs a long history.
func look2(t *testing.T, p place) (all seen) {
	t.Helper()
	s := p.open(t)
	defer s.Close()
	for r, err := range s.Updates(t.Context(), store.UpdateQuery{Limit: 1 << 20}) {
		no(t, err)
		r.Cursor = store.Cursor{}
		all.Updates = append(all.Updates, r)
	}
	for _, g := range must(s.Gaps(t.Context(), "", 1000))(t) {
		if g.State != ingest.GapImported {
			all.Gaps = append(all.Gaps, g)
		}
	}
	all.Heard = must(s.Heard(t.Context()))(t)
	return all
}

// dying is a store whose process is killed in the middle of writing: the last write is stored or not, and nobody is told.
type dying struct {
	store.Store
	left   int
	stored bool
}

var errDied = errors.New("killed")

func (d *dying) die(write func() error) error {
	switch d.left--; {
	case d.left > 0:
		return write()
	case d.left == 0 && d.stored:
		if err := write(); err != nil {
			return err
		}
	}
	return errDied
}

func (d *dying) AppendImport(ctx context.Context, b *ingest.Batch, backfilled bool, g *ingest.Gap) error {
	return d.die(func() error { return d.Store.AppendImport(ctx, b, backfilled, g) })
}

func (d *dying) SaveGap(ctx context.Context, g *ingest.Gap) error {
	return d.die(func() error { return d.Store.SaveGap(ctx, g) })
}

func (d *dying) CommitEvents(ctx context.Context, events []incident.Event, deliveries []store.Delivery) error {
	return d.die(func() error { return d.Store.CommitEvents(ctx, events, deliveries) })
}

// An import that dies at any write, again and again, ends with everything there once.
func TestKilled(t *testing.T) {
	for _, kind := range []struct {
		name string
		open func(*testing.T) place
	}{{"embedded", embeddedPlace}, {"ClickHouse", clickhousePlace}} {
		t.Run(kind.name, func(t *testing.T) {
			from, to := embeddedPlace(t), kind.open(t)
			fill(t, from)
			dir := exportOf(t, from, ExportOptions{})
			r := rand.New(rand.NewPCG(3, 0))
			deaths := 0
			for left := 1; ; left = 1 + r.IntN(3) {
				s := to.open(t)
				_, err := Import(t.Context(), &dying{Store: s, left: left, stored: r.IntN(2) == 0}, dir, ImportOptions{})
				no(t, s.Close())
				if err == nil {
					break
				}
				if !errors.Is(err, errDied) {
					t.Fatal(err)
				}
				deaths++
			}
			if deaths < 10 {
				t.Fatalf("it died %d times only", deaths)
			}
			same(t, "what the store answers", look(t, to), look(t, from))
		})
	}
}

// What is damaged is refused before anything is stored, by a message that names the file and says what to do.
func TestDamage(t *testing.T) {
	p := embeddedPlace(t)
	fill(t, p)
	whole := exportOf(t, p, ExportOptions{})
	change := func(name string, f func([]byte) []byte) func(string) {
		return func(dir string) {
			path := filepath.Join(dir, name)
			no(t, os.WriteFile(path, f(must(os.ReadFile(path))(t)), 0o644))
		}
	}
	// forge changes a file and the manifest, as somebody would who wants to be believed.
	forge := func(name string, rows int, f func([]byte) []byte) func(string) {
		return func(dir string) {
			change(name, f)(dir)
			m, _, err := ReadManifest(dir)
			no(t, err)
			for i := range m.Files {
				if m.Files[i].Name == name {
					hash, size, err := sum(filepath.Join(dir, name))
					no(t, err)
					m.Files[i] = File{name, size, m.Files[i].Rows, hash}
					if rows > 0 {
						m.Updates += uint64(rows) - m.Files[i].Rows
						m.Files[i].Rows = uint64(rows)
					}
				}
			}
			no(t, os.WriteFile(filepath.Join(dir, manifestName), must(json.Marshal(m))(t), 0o644))
		}
	}
	lines := func(text string) func([]byte) []byte {
		return func([]byte) []byte {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			z.Write([]byte(text))
			z.Close()
			return b.Bytes()
		}
	}
	manifest := func(old, new string) func(string) {
		return change(manifestName, func(b []byte) []byte { return bytes.Replace(b, []byte(old), []byte(new), 1) })
	}
	first := updatesName(1)
	for name, tt := range map[string]struct {
		do   func(dir string)
		says []string
	}{
		"a bit":           {change(first, func(b []byte) []byte { b[len(b)/2] ^= 4; return b }), []string{first + " is damaged: its SHA-256", "copy it again"}},
		"a cut":           {change(eventsName, func(b []byte) []byte { return b[:len(b)-1] }), []string{eventsName + " is damaged: it has", "copy it again"}},
		"a file away":     {func(dir string) { no(t, os.Remove(filepath.Join(dir, gapsName))) }, []string{gapsName + " is missing", "copy it again"}},
		"no manifest":     {func(dir string) { no(t, os.Remove(filepath.Join(dir, manifestName))) }, []string{"there is no complete export", "routevigil export"}},
		"half a manifest": {change(manifestName, func(b []byte) []byte { return b[:len(b)/2] }), []string{manifestName, "the manifest is damaged", "copy the export again"}},
		"another version": {manifest(`"version": 1`, `"version": 2`), []string{"of version 2", "use the version of routevigil that made it"}},
		"another format":  {manifest(formatName, "something"), []string{`its format is "something"`}},
		"a way out":       {manifest(first, "../"+first), []string{"there may be no file of the name"}},
		"a link": {func(dir string) {
			path := filepath.Join(dir, first)
			no(t, os.Rename(path, path+"x"))
			no(t, os.Symlink(path+"x", path))
		}, []string{"no regular file"}},
		"no Parquet":         {forge(first, 0, func([]byte) []byte { return []byte("PAR1 nothing of the sort PAR1") }), []string{first + " is damaged: it is no file of history"}},
		"fewer rows":         {forge(first, 10, func(b []byte) []byte { return b }), []string{first + " is damaged: it has", "and should have 10"}},
		"no JSON":            {forge(eventsName, 0, lines("{\n")), []string{eventsName + " is damaged: line 1"}},
		"no gzip":            {forge(eventsName, 0, func([]byte) []byte { return []byte("text") }), []string{eventsName + " is damaged: line 1"}},
		"too few lines":      {forge(eventsName, 0, lines("")), []string{eventsName + " is damaged: it has 0 lines and should have 36"}},
		"an unknown kind":    {forge(eventsName, 0, lines(`{"sequence":1,"incident":{"id":"x","sequence":1,"kind":"y"}}`+"\n")), []string{eventsName + " is damaged: event 1"}},
		"two numbers":        {forge(eventsName, 0, lines(`{"sequence":1,"incident":{"id":"x","sequence":2}}`+"\n")), []string{eventsName + " is damaged: event 1, whose incident says 2"}},
		"the last number":    {forge(eventsName, 0, lines(fmt.Sprintf(`{"sequence":%d,"incident":{"id":"x","sequence":%[1]d}}`+"\n", uint64(1<<63-1)))), []string{eventsName + " is damaged: event 9223372036854775807"}},
		"a gap of an import": {forge(gapsName, 0, lines(`{"state":"imported"}`+"\n")), []string{gapsName + " is damaged: a gap of"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "export")
			no(t, os.CopyFS(dir, os.DirFS(whole)))
			tt.do(dir)
			to := embeddedPlace(t)
			_, err := importInto(t, to, dir, ImportOptions{})
			if err == nil {
				t.Fatal("it is taken")
			}
			for _, says := range tt.says {
				if !strings.Contains(err.Error(), says) {
					t.Errorf("error %q does not say %q", err, says)
				}
			}
			if all := look2(t, to); len(all.Updates) > 0 && !strings.HasPrefix(name, "a gap") {
				t.Errorf("%d updates are stored", len(all.Updates))
			}
		})
	}
}

// Incidents of two stores are not mixed.
func TestIncidentsOfItsOwn(t *testing.T) {
	from, to := embeddedPlace(t), embeddedPlace(t)
	fill(t, from)
	dir := exportOf(t, from, ExportOptions{})
	s := to.open(t)
	own := storetest.Incident(rand.New(rand.NewPCG(1, 1)), "inc_own", look(t, from).Events[20].Sequence)
	no(t, s.CommitEvents(t.Context(), []incident.Event{{Sequence: own.Sequence, Time: noon, Change: incident.Opened, Incident: own}}, nil))
	no(t, s.Close())
	if _, err := importInto(t, to, dir, ImportOptions{}); err == nil || !strings.Contains(err.Error(), "--no-incidents") {
		t.Fatalf("error %v, want one about --no-incidents", err)
	}
	if n := len(look2(t, to).Updates); n != 0 {
		t.Fatalf("%d updates are stored", n)
	}
	must(importInto(t, to, dir, ImportOptions{NoIncidents: true}))(t)
	got := look(t, to)
	same(t, "updates", got.Updates, look(t, from).Updates)
	same(t, "incidents", got.Incidents, []incident.Incident{own})
}

// An export that was killed leaves no folder of its name, and is in nobody's way; what is somebody else's is not removed.
func TestExportAgain(t *testing.T) {
	p := embeddedPlace(t)
	fill(t, p)
	r := p.read(t)
	defer r.Close()
	dir := filepath.Join(t.TempDir(), "export")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Export(ctx, r, dir, ExportOptions{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want the context's", err)
	}
	if _, _, err := ReadManifest(dir); !errors.Is(err, ErrNoExport) || !strings.Contains(err.Error(), "run the export again") {
		t.Fatalf("error %v, want that it is not complete", err)
	}
	mine := filepath.Join(dir+partial, "mine.txt")
	no(t, os.WriteFile(mine, nil, 0o644))
	if _, err := Export(t.Context(), r, dir, ExportOptions{}); err == nil || !strings.Contains(err.Error(), mine) {
		t.Fatalf("error %v, want one that names %s", err, mine)
	}
	no(t, os.Remove(mine))
	must(Export(t.Context(), r, dir, ExportOptions{}))(t)
	if _, err := Export(t.Context(), r, dir, ExportOptions{}); err == nil || !strings.Contains(err.Error(), "it is there already") {
		t.Fatalf("error %v, want that it is there", err)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"format":"routevigil export","version":1,"updates":2,"files":[{"name":"updates-000001.parquet","rows":2},{"name":"incidents.jsonl.gz"},{"name":"events.jsonl.gz"},{"name":"gaps.jsonl.gz"},{"name":"knowledge/rpki/00001.rpki"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parseManifest(text)
		if err != nil {
			return
		}
		for _, file := range m.Files {
			if !filepath.IsLocal(file.Name) || strings.Contains(file.Name, "..") {
				t.Errorf("a file of the name %q", file.Name)
			}
		}
	})
}
