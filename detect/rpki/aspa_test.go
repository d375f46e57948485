package rpki

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/routevigil/routevigil/ingest/bgp"
)

func sequence(asns ...uint32) bgp.ASPath {
	if len(asns) == 0 {
		return nil
	}
	return bgp.ASPath{{Type: bgp.ASSequence, ASNs: asns}}
}

func TestVerifyNamesTheHops(t *testing.T) {
	a := ASPAs{}
	a.Add(1, []uint32{2})
	a.Add(3, []uint32{4})
	a.Add(3, []uint32{5})
	for _, c := range []struct {
		name     string
		path     bgp.ASPath // wire order
		up, down PathState
		hops     []Hop // of the downstream verdict
	}{
		{"alone", sequence(1), PathValid, PathValid, nil},
		{"up by attested hops", sequence(2, 1), PathValid, PathValid, nil},
		{"union of two ASPAs", sequence(5, 3), PathValid, PathValid, nil},
		{"up over one that attests nothing", sequence(9, 2, 1), PathUnknown, PathValid, nil},
		{"prepended", sequence(2, 2, 1, 1), PathValid, PathValid, nil},
		{"a stranger beside the origin", sequence(9, 8, 1), PathInvalid, PathUnknown, nil},
		{"down again over what is no provider", sequence(3, 9, 1), PathInvalid, PathInvalid, []Hop{{1, 9}, {3, 9}}},
		{"a set", bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{2}}, {Type: bgp.ASSet, ASNs: []uint32{1}}}, PathInvalid, PathInvalid, nil},
		{"empty", nil, PathInvalid, PathInvalid, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := a.VerifyUpstream(c.path, 0); got.State != c.up {
				t.Errorf("upstream: %v, want %v", got.State, c.up)
			}
			if got := a.VerifyDownstream(c.path, 0); got.State != c.down || !slices.Equal(got.Hops, c.hops) {
				t.Errorf("downstream: %v by %v, want %v by %v", got.State, got.Hops, c.down, c.hops)
			}
		})
	}
	if got := a.VerifyDownstream(sequence(2, 1), 7); got.State != PathInvalid {
		t.Errorf("another neighbour: %v", got.State)
	}
}

func vectors(t *testing.T, file string, into any) {
	t.Helper()
	data, err := os.ReadFile("../../../shared/data/aspa/" + file)
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("the verification cases are not here")
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// TestAgainstOpenBGPD holds every verdict of OpenBGPD's own tests.
func TestAgainstOpenBGPD(t *testing.T) {
	var v struct {
		Set []struct {
			Customer  uint32   `json:"customer"`
			Providers []uint32 `json:"providers"`
		} `json:"aspa_set"`
		Hops []struct {
			Customer, Provider uint32
			Expected           string
		} `json:"provider_auth"`
		Paths []struct {
			Path     []uint32 `json:"as_path"`
			Role     string   `json:"neighbor_role"`
			Expected string
		} `json:"path_tests"`
	}
	vectors(t, "aspa_vectors_openbgpd.json", &v)
	a := ASPAs{}
	for _, s := range v.Set {
		a.Add(s.Customer, s.Providers)
	}
	names := map[Authorization]string{NoAttestation: "UNKNOWN", ProviderPlus: "PROVIDER", NotProviderPlus: "NOT_PROVIDER"}
	for _, h := range v.Hops {
		if got := names[a.Authorized(h.Customer, h.Provider)]; got != h.Expected {
			t.Errorf("AS%d attests AS%d: %s, want %s", h.Customer, h.Provider, got, h.Expected)
		}
	}
	for i, p := range v.Paths {
		verify := a.VerifyUpstream
		if p.Role == "CUSTOMER" { // ours: the route came from a provider
			verify = a.VerifyDownstream
		}
		if got := strings.ToUpper(verify(sequence(p.Path...), 0).State.String()); got != p.Expected {
			t.Errorf("path %d, %v as %s: %s, want %s", i, p.Path, p.Role, got, p.Expected)
		}
	}
	if len(v.Hops) == 0 || len(v.Paths) == 0 {
		t.Error("no cases")
	}
}

// transparentRS is the route server in the draft's authors' tests.
const transparentRS = 6695

// TestAgainstDraftAuthors holds every verdict of the draft's authors' tests.
func TestAgainstDraftAuthors(t *testing.T) {
	var v struct {
		Records map[string][]uint32 `json:"aspa_records"`
		Tests   []struct {
			Test, Algorithm string
			Path            []struct {
				ASN uint32
				Seg string
			} `json:"as_path"` // origin first
			Neighbour uint32 `json:"neighbor_as"`
			Expected  string
		}
	}
	vectors(t, "aspa_vectors_qrator_draft_authors_2026.json", &v)
	a := ASPAs{}
	for customer, providers := range v.Records {
		c, err := strconv.ParseUint(customer, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		a.Add(uint32(c), providers)
	}
	for i, c := range v.Tests {
		var path bgp.ASPath
		for _, s := range slices.Backward(c.Path) {
			kind := bgp.ASSequence
			if s.Seg == "AS_SET" {
				kind = bgp.ASSet
			}
			path = append(path, bgp.Segment{Type: kind, ASNs: []uint32{s.ASN}})
		}
		verify := map[string]func(bgp.ASPath, uint32) PathValidity{"check_upflow_path": a.VerifyUpstream, "check_downflow_path": a.VerifyDownstream}[c.Algorithm]
		if verify == nil {
			t.Fatalf("unknown algorithm %q", c.Algorithm)
		}
		if c.Neighbour == transparentRS {
			c.Neighbour = 0 // whose clients must not expect it on the path
		}
		if got := fmt.Sprint(verify(path, c.Neighbour).State); got != strings.ToLower(c.Expected) {
			t.Errorf("%d %s, %s of %v: %s, want %s", i, c.Test, c.Algorithm, path, got, c.Expected)
		}
	}
	if len(v.Tests) == 0 {
		t.Error("no cases")
	}
}

func BenchmarkVerifyDownstream(b *testing.B) {
	a := ASPAs{}
	for i := range uint32(10_000) {
		a.Add(i, []uint32{i + 1, i + 2, i + 3})
	}
	p := sequence(15, 14, 13, 12, 11, 10)
	b.ReportAllocs()
	for b.Loop() {
		a.VerifyDownstream(p, 0)
	}
}
