package service

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/irr/mirror"
	"github.com/routevigil/routevigil/detect/irr/nrtm/nrtmtest"
	"github.com/routevigil/routevigil/detect/past"
	"github.com/routevigil/routevigil/detect/refresh"
	"github.com/routevigil/routevigil/detect/rpki/journal"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// asked are the routes of which these tests ask: of networks in their own hands and in others', and a leak.
func asked() (list []struct {
	network
	path bgp.ASPath
}) {
	add := func(n network, asns ...uint32) {
		list = append(list, struct {
			network
			path bgp.ASPath
		}{n, bgp.ASPath{{Type: bgp.ASSequence, ASNs: asns}}})
	}
	for i := range 6 {
		add(victim(i), session(0).ASN, transits[0], victim(i).asn)
		add(victim(i), session(0).ASN, transits[0], attacker(i).asn)
		add(victim(i), session(1).ASN, transits[0], victim(7).asn, transits[1], victim(i).asn)
	}
	return list
}

func answers(t *testing.T, e *detect.Engine) string {
	t.Helper()
	var b strings.Builder
	for _, a := range asked() {
		text, err := json.MarshalIndent(e.Explain(a.prefix, a.path), "", " ")
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
		b.WriteByte('\n')
	}
	return b.String()
}

// replaceFile puts a whole file in the place of one that may be being read.
func replaceFile(t *testing.T, file, format string, args ...any) {
	t.Helper()
	if err := errors.Join(os.WriteFile(file+".new", fmt.Appendf(nil, format, args...), 0o600), os.Rename(file+".new", file)); err != nil {
		t.Fatal(err)
	}
}

// now keeps the engine's state as it is, and returns what it answers.
func (r *running) now(t *testing.T) (time.Time, string) {
	t.Helper()
	type answer struct {
		at   time.Time
		text string
	}
	a, err := question(t.Context(), r.service.pipeline, func(e *detect.Engine) answer {
		state, err := e.Snapshot()
		if err != nil {
			t.Error(err)
		}
		r.service.keeper.past.Bytes(time.Now(), detectorState, "", false, state)
		return answer{time.Now(), answers(t, e)}
	})
	if err != nil {
		t.Fatal(err)
	}
	return a.at, a.text
}

// everythingIsKept fails where there is something in use that would be missing later.
func everythingIsKept(t *testing.T, k *keeper, directory string, at time.Time) {
	t.Helper()
	m, err := past.At(filepath.Join(knowledgeFolder(directory), pastName), at)
	if err != nil {
		t.Fatal(err)
	}
	a := archivist{Moment: m, basis: &Basis{}}
	later, err := a.knowledge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if later.VRPs, _, err = journal.At(filepath.Join(knowledgeFolder(directory), "rpki"), at); err != nil {
		t.Fatal(err)
	}
	now, then := reflect.ValueOf(k.knowledge()), reflect.ValueOf(later)
	for _, f := range reflect.VisibleFields(now.Type()) {
		switch {
		case !f.IsExported() || f.Name == "WatchSets": // which a service with registries does not have
		case now.FieldByIndex(f.Index).IsZero():
			t.Errorf("%s is not in use in this test", f.Name)
		case then.FieldByIndex(f.Index).IsZero():
			t.Errorf("%s is in use and not kept", f.Name)
		}
	}
}

// What a service answered at three moments, between which everything changes that it compares with, is what is answered of
// these moments later, beside the service that goes on.
func TestExplainThePast(t *testing.T) {
	registry := nrtmtest.New(t)
	registry.Add(registered(victim(0)))
	registry.Restart()
	f := newFeed(t)
	c := configuration(t, f.url())
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	c.Knowledge.VRPs, c.Knowledge.Relationships, c.Knowledge.Organisations = file("vrps.json"), file("as-rel.txt"), file("as-org.txt")
	c.Knowledge.PeeringDB, c.Knowledge.Delegated = file("peeringdb.json"), []string{file("delegated-1"), file("delegated-2")}
	c.Knowledge.IRR.Files = []string{file("irr-1.db"), file("irr-2.db")}
	c.Knowledge.IRR.Mirrors = []mirror.Configuration{{Source: "TEST", NRTM4: registry.Address, Key: registry.Key}}
	c.Knowledge.Refresh.VRPs, c.Knowledge.Refresh.Others, c.Knowledge.Refresh.Mirrors = time.Second, time.Second, 200*time.Millisecond
	c.Knowledge.Past.Every = time.Nanosecond // which no operator may: a copy of every version

	vrps := func(n network) {
		replaceFile(t, c.Knowledge.VRPs, `{"roas":[{"asn":%d,"prefix":%q,"maxLength":24,"ta":"test"}]}`, n.asn, n.prefix)
	}
	route := func(name string, n network, source string) {
		replaceFile(t, file(name), "route: %s\norigin: AS%d\nsource: %s\n", n.prefix, n.asn, source)
	}
	delegated := func(name string, n network, holder string) {
		replaceFile(t, file(name), "2.3|ripencc|20260101|2|19830101|20260101|+0000\nripencc|*|ipv4|*|1|summary\nripencc|*|asn|*|1|summary\n"+
			"ripencc|NL|ipv4|%s|1024|20061010|allocated|%s\nripencc|NL|asn|%d|1|20001010|assigned|%s\n", n.prefix.Addr(), holder, n.asn, holder)
	}
	organisation := func(asns ...uint32) {
		text := "# format:aut|changed|aut_name|org_id|opaque_id|source\n"
		for _, asn := range asns {
			text += fmt.Sprintf("%d|20260101|NAME|ORG-1||RIPE\n", asn)
		}
		replaceFile(t, c.Knowledge.Organisations, "%s", text)
	}
	vrps(victim(0))
	replaceFile(t, c.Knowledge.Relationships, "%d|%d|-1\n", transits[0], victim(1).asn)
	organisation(victim(2).asn)
	replaceFile(t, c.Knowledge.PeeringDB, `{"net":{"data":[{"id":1,"asn":%d,"org_id":5},{"id":2,"asn":64999,"org_id":6,"info_type":"Route Server"}]}}`, victim(2).asn)
	route("irr-1.db", victim(1), "RADB")
	route("irr-2.db", victim(2), "RIPE")
	delegated("delegated-1", victim(1), "one")
	delegated("delegated-2", victim(2), "two")

	var s *running
	registry.Trusted(func() { s = start(t, c) })
	s.whenReady(f)
	until := func(i int, want string, says func(detect.Explanation) bool) {
		t.Helper()
		a := asked()[i]
		eventually(t, func() string {
			x, err := s.service.pipeline.Explain(t.Context(), a.prefix, a.path)
			if err != nil || !says(x) {
				return fmt.Sprintf("not %s: %v %+v", want, err, x)
			}
			return ""
		})
	}
	begin := time.Now()
	var moments []time.Time
	var said []string
	take := func() {
		t.Helper()
		at, text := s.now(t)
		moments, said = append(moments, at), append(said, text)
		time.Sleep(10 * time.Millisecond) // the next change is another moment
	}
	until(0, "registered by the mirror", func(x detect.Explanation) bool { return x.IRR.State == "registered" })
	take()

	vrps(attacker(0))
	replaceFile(t, c.Knowledge.Relationships, "%d|%d|-1\n%d|%d|-1\n", transits[0], victim(7).asn, transits[1], victim(7).asn)
	organisation(victim(3).asn, attacker(3).asn)
	route("irr-2.db", victim(4), "RIPE")
	registry.Add(registered(victim(5)))
	until(0, "without a VRP", func(x detect.Explanation) bool { return x.ROV.State == "not_found" })
	until(2, "a leak", func(x detect.Explanation) bool { return x.Leak != nil })
	until(10, "of one organisation", func(x detect.Explanation) bool { return x.Kind == nil }) // where it was a hijack
	until(12, "registered", func(x detect.Explanation) bool { return x.IRR.State == "registered" })
	until(15, "registered by the mirror", func(x detect.Explanation) bool { return x.IRR.State == "registered" })
	take()

	// With another configuration, and another table.
	running := s.stop
	if err := running(); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	c.Knowledge.Declared = []detect.Declaration{{AS: transits[1], CustomerOf: []uint32{victim(7).asn}}}
	c.Knowledge.Organisations = ""
	c.Watches = detect.WatchList{{Name: "mine", Prefixes: []netip.Prefix{victim(0).prefix}, Origins: []uint32{attacker(0).asn}, ASSets: []string{"AS-MINE"},
		Planned: []detect.Plan{{Until: time.Now().Add(time.Hour), Reason: "moving", Prefixes: []netip.Prefix{victim(1).prefix}}}}}
	delegated("delegated-2", victim(3), "three")
	registry.Trusted(func() { s = start(t, c) })
	s.whenReady(f)
	until(2, "no leak", func(x detect.Explanation) bool { return x.Leak == nil })
	f.background(t, 5*time.Millisecond)
	if err := f.tell(hijack(4, 0, sessions)...); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if _, ok := s.incidentOf(4); !ok {
			return "no incident"
		}
		return ""
	})
	until(0, "watched", func(x detect.Explanation) bool { return len(x.Watches) == 1 })
	take()

	everythingIsKept(t, s.service.keeper, c.Store.Directory, moments[2])
	for i := range said {
		for j := range i {
			if said[i] == said[j] {
				t.Fatalf("moments %d and %d do not differ", i, j)
			}
		}
	}
	for i, at := range moments {
		e, basis, err := EngineAt(t.Context(), c.Store.Directory, at)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(said[i], answers(t, e)); diff != "" {
			t.Errorf("moment %d (-then +later):\n%s", i, diff)
		}
		if len(basis.Gaps) > 0 || basis.DetectorAge < 0 || basis.DetectorAge > 60 || basis.RPKISince.IsZero() || basis.RPKISince.After(at) {
			t.Errorf("moment %d: %+v", i, basis)
		}
		for _, a := range asked() {
			origin, _ := a.path.Origin()
			var v api.Validation
			code := s.get(fmt.Sprintf("/api/v1/validate?irr=true&prefix=%s&origin=%d&at=%s", a.prefix, origin, at.UTC().Format(time.RFC3339Nano)), &v)
			want := e.Explain(a.prefix, a.path)
			if code != http.StatusOK || len(v.Gaps) > 0 || v.IRR == nil || !cmp.Equal(*v.IRR, want.IRR, cmpopts.EquateComparable(netip.Prefix{})) || v.ROV.State != want.ROV.State {
				t.Errorf("moment %d, %s by AS%d: %d %+v, want %+v", i, a.prefix, origin, code, v, want.IRR)
			}
		}
	}

	// The command says the same.
	binary, err := program()
	if err != nil {
		t.Fatal(err)
	}
	replaceFile(t, file("routevigil.yaml"), "store: {directory: %q}\n", c.Store.Directory)
	a := asked()[2]
	out, err := exec.CommandContext(t.Context(), binary, "explain", "--json", "-c", file("routevigil.yaml"), "--at", moments[1].Format(time.RFC3339Nano), a.prefix.String(), a.path.String()).Output()
	if err != nil {
		t.Fatal(err)
	}
	var x struct {
		detect.Explanation
		Basis Basis `json:"basis"`
	}
	if err := json.Unmarshal(out, &x); err != nil || x.Leak == nil || x.Leak.Leaker != victim(7).asn || x.Leak.Basis != c.Knowledge.Relationships ||
		x.Basis.DetectorState.IsZero() || len(x.Basis.Gaps) > 0 || len(x.Basis.Sources) != 9 {
		t.Errorf("%v\n%s", err, out)
	}

	// What is not known is said.
	gaps := func(at time.Time) (Basis, string, *detect.Engine) {
		t.Helper()
		e, basis, err := EngineAt(t.Context(), c.Store.Directory, at)
		if err != nil {
			t.Fatal(err)
		}
		return basis, strings.Join(basis.Gaps, "\n"), e
	}
	if _, _, err := EngineAt(t.Context(), c.Store.Directory, begin.Add(-time.Hour)); !errors.Is(err, past.ErrUnknown) {
		t.Errorf("before the service began: %v", err)
	}
	if _, text, _ := gaps(stopped); !strings.Contains(text, "did not run then") {
		t.Errorf("while it was stopped: %s", text)
	}
	m, err := past.At(filepath.Join(c.Store.Directory, "knowledge", pastName), moments[0])
	if err != nil {
		t.Fatal(err)
	}
	drop := func(name string) {
		t.Helper()
		i := slices.IndexFunc(m.Sources, func(s past.Source) bool { return s.Name == name })
		if i < 0 || os.Remove(m.Sources[i].Path) != nil {
			t.Fatalf("%s: %+v", name, m.Sources)
		}
	}
	drop("irr-2")
	var v api.Validation
	s.get(fmt.Sprintf("/api/v1/validate?irr=true&prefix=%s&origin=1&at=%s", victim(0).prefix, moments[0].UTC().Format(time.RFC3339Nano)), &v)
	if v.IRR == nil || v.IRR.State != "unavailable" || len(v.Gaps) != 2 {
		t.Errorf("without one of the dumps: %+v", v)
	}
	_, text, e := gaps(moments[0])
	if !strings.Contains(text, "irr-2 ("+file("irr-2.db")+"): of what was in use then") || !strings.Contains(text, "a part would pass for the whole") ||
		e.Explain(victim(0).prefix, a.path).IRR.State != "unavailable" {
		t.Errorf("without one of the dumps: %s", text)
	}
	drop("as_rel")
	if _, text, _ = gaps(moments[0]); !strings.Contains(text, "as_rel (") {
		t.Errorf("without relationships: %s", text)
	}
	for _, s := range m.Sources {
		if s.Name == detectorState {
			if err := os.WriteFile(s.Path, []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255, 1, 0, 0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0}, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	basis, text, e := gaps(moments[0])
	if !strings.Contains(text, "cannot be used") || !basis.DetectorState.IsZero() || e.Explain(victim(0).prefix, a.path).Kind != nil {
		t.Errorf("with a state that cannot be used: %s", text)
	}
}

// The dumps of a list are read once at the start, all together; one that is wrong is named, and a change of one is read with
// the others.
func TestWhole(t *testing.T) {
	folder := t.TempDir()
	good := func(name string, n network) string {
		file := filepath.Join(folder, name)
		replaceFile(t, file, "route: %s\norigin: AS%d\nsource: TEST\n", n.prefix, n.asn)
		return file
	}
	files := []string{good("a", victim(0)), good("b", victim(1)), good("c", victim(2))}
	begin := func() (*whole, []*refresh.Source, *[]string) {
		var reads []string
		g := &whole{paths: make([]string, len(files)), from: files}
		g.read = func(paths, from []string) (refresh.Loaded, func(*detect.Knowledge), error) {
			reads = append(reads, strings.ReplaceAll(strings.Join(paths, " "), folder+string(filepath.Separator), ""))
			db, err := irr.ReadFiles(paths, from, nil)
			return refresh.Loaded{Entries: db.Counts().Routes}, func(now *detect.Knowledge) { now.IRR = db }, err
		}
		for i, file := range files {
			g.sources = append(g.sources, refresh.New(fmt.Sprint("irr-", i+1), file, nil, time.Hour, nil, func(path string) (refresh.Loaded, error) {
				loaded, _, err := g.readWith(i, path, file)
				return loaded, err
			}, testLog(t)))
		}
		return g, g.sources, &reads
	}
	g, sources, reads := begin()
	for _, s := range sources {
		if err := s.Begin(t.Context()); err != nil || s.Status().Entries != 3 {
			t.Errorf("%v, %+v", err, s.Status())
		}
	}
	if want := []string{"a b c"}; !slices.Equal(*reads, want) {
		t.Errorf("at the start it reads %q", *reads)
	}
	replaceFile(t, files[1], "route: %s\norigin: AS%d\nsource: TEST\n\nroute: %s\norigin: AS%d\nsource: TEST\n", victim(3).prefix, victim(3).asn, victim(4).prefix, victim(4).asn)
	if loaded, put, err := g.readWith(1, files[1], files[1]); err != nil || put == nil || loaded.Entries != 4 || len(*reads) != 2 {
		t.Errorf("a change: %+v %v, reads %q", loaded, err, *reads)
	}
	replaceFile(t, files[1], "no dump at all")
	_, sources, reads = begin()
	for i, s := range sources {
		if err := s.Begin(t.Context()); (err != nil) != (i == 1) || err != nil && !strings.Contains(err.Error(), files[1]) {
			t.Errorf("%s: %v", files[i], err)
		}
	}
	if want := []string{"a b c", "a", "a b", "a c"}; !slices.Equal(*reads, want) {
		t.Errorf("with one that is wrong it reads %q", *reads)
	}
}
