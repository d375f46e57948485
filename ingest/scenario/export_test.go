package scenario_test

import (
	"bytes"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/mrt"
	"github.com/routevigil/routevigil/ingest/scenario"
)

// What the readers of the program make of the files is what the scenario holds.
func TestWriteBaseline(t *testing.T) {
	w := scenario.World()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	files, err := w.WriteBaseline(t.TempDir(), at)
	if err != nil {
		t.Fatal(err)
	}

	type key struct {
		peer   ingest.Peer
		prefix netip.Prefix
	}
	type route struct {
		Path    string
		NextHop netip.Addr
		Time    ingest.Time
	}
	want, got := map[key]route{}, map[key]route{}
	for _, u := range w.RIB() {
		want[key{u.Peer, u.Announced[0].Prefix}] = route{u.Attrs.ASPath.String(), u.Attrs.NextHop, ingest.TimeOf(at)}
	}
	for _, f := range files.RIBs {
		in, err := os.Open(f.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		r := mrt.NewReader(in, f.Path, f.Collector)
		for {
			u, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if u.Kind != ingest.RIB {
				t.Fatalf("%v in a table dump", u.Kind)
			}
			for _, n := range u.Announced {
				got[key{u.Peer, n.Prefix}] = route{u.Attrs.ASPath.String(), u.Attrs.NextHop, u.Time}
			}
		}
	}
	if len(got) != len(want) || len(want) == 0 {
		t.Fatalf("%d routes, want %d", len(got), len(want))
	}
	for k, r := range want {
		// An IPv4-mapped next hop may come back unmapped: it is the same router.
		if g := got[k]; g.Path != r.Path || g.Time != r.Time || g.NextHop.Unmap() != r.NextHop.Unmap() {
			t.Fatalf("%v: got %v, want %v", k, g, r)
		}
	}

	text, err := os.ReadFile(files.VRPs)
	if err != nil {
		t.Fatal(err)
	}
	set, err := rpki.Read(bytes.NewReader(text), files.VRPs)
	if err != nil {
		t.Fatal(err)
	}
	var list []scenario.VRP
	for v := range set.VRPs() {
		list = append(list, scenario.VRP{Prefix: v.Prefix, MaxLength: int(v.MaxLength), ASN: v.ASN})
	}
	inOrder := cmpopts.SortSlices(func(a, b scenario.VRP) bool { return fmt.Sprint(a) < fmt.Sprint(b) })
	if diff := cmp.Diff(w.VRPs(), list, inOrder, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}

	rels, err := topology.ReadFile(files.ASRel, files.ASRel)
	if err != nil {
		t.Fatal(err)
	}
	if n := rels.Len(); n != len(w.Rels()) {
		t.Errorf("%d relationships, want %d", n, len(w.Rels()))
	}
	orgs, err := topology.ReadOrganisations(files.ASOrg, files.ASOrg)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range w.Orgs() {
		for _, asn := range o {
			if _, same := orgs.Same(o[0], asn); !same {
				t.Errorf("AS%d and AS%d are not one organisation", o[0], asn)
			}
		}
	}
	if _, same := orgs.Same(3356, 15169); same {
		t.Error("AS3356 and AS15169 are one organisation")
	}
}

func TestWriteASOrgMergesGroupsThatShareAnAS(t *testing.T) {
	s, err := scenario.Parse(strings.NewReader("start 2026-01-01T00:00:00Z\norg 1 2\norg 3 4\norg 2 3\norg 5 6"), t.Name())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "org")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WriteASOrg(f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	orgs, err := topology.ReadOrganisations(path, path)
	if err != nil {
		t.Fatal(err)
	}
	if _, same := orgs.Same(1, 4); !same {
		t.Error("1 and 4 belong together by way of 2 and 3")
	}
	if _, same := orgs.Same(4, 5); same {
		t.Error("4 and 5 do not belong together")
	}
}

// What the reader of the RIRs' statistics makes of delegations is what the scenario says.
func TestWriteDelegated(t *testing.T) {
	s, err := scenario.Parse(strings.NewReader("start 2026-01-01T00:00:00Z\ndelegated apnic 2012-05-20 a 1.0.0.0/22 2001:db8::/32 64500\ndelegated lacnic reserved 2.0.0.0/24"), t.Name())
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := s.WriteDelegated(&b); err != nil {
		t.Fatal(err)
	}
	set, err := registry.Read(&b, "scenario")
	if err != nil {
		t.Fatal(err)
	}
	as := set.ASN(64500)
	for _, p := range []string{"1.0.3.0/24", "1.0.0.0/22", "2001:db8:ffff::/48"} {
		h := set.Prefix(netip.MustParsePrefix(p))
		if h.Status != registry.Assigned || h.Registry != "apnic" || h.Holder != "a" || h.Since.Format(time.DateOnly) != "2012-05-20" || !h.SameHolder(as) {
			t.Errorf("%s: %+v", p, h)
		}
	}
	if h := set.Prefix(netip.MustParsePrefix("2.0.0.0/24")); h.Status != registry.Reserved || h.Registry != "lacnic" {
		t.Errorf("%+v is not reserved", h)
	}
	for _, p := range []string{"1.0.4.0/24", "0.255.255.0/24", "2.0.1.0/24"} {
		if h := set.Prefix(netip.MustParsePrefix(p)); h.Status != registry.Unknown {
			t.Errorf("%s, of which nothing is said: %+v", p, h)
		}
	}
}

func TestWriteBaselineReportsWhere(t *testing.T) {
	if _, err := scenario.World().WriteBaseline(filepath.Join(t.TempDir(), "missing"), time.Now()); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("got %v", err)
	}
}
