package rpki

import (
	"bytes"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const noExceptions = `{"slurmVersion":2,"validationOutputFilters":{"prefixFilters":[],"bgpsecFilters":[],"aspaFilters":[]},
	"locallyAddedAssertions":{"prefixAssertions":[],"bgpsecAssertions":[],"aspaAssertions":[]}}`

func vrp(prefix string, most uint8, asn uint32) VRP {
	return VRP{Prefix: netip.MustParsePrefix(prefix), MaxLength: most, ASN: asn}
}

func TestApply(t *testing.T) {
	d := Data{
		VRPs: []VRP{vrp("192.0.2.0/24", 24, 64500), vrp("192.0.2.0/25", 25, 64501), vrp("192.0.0.0/16", 24, 64500),
			vrp("198.51.100.0/24", 24, 64502), vrp("2001:db8::/32", 48, 64503)},
		ASPAs: ASPAs{64500: {1}, 64501: {2}},
	}
	set := NewSet(d, "test")
	all := slices.Collect(set.VRPs()) // in order: /16, /24, /25, 198…, 2001…
	wide, d24, d25, other, six := all[0], all[1], all[2], all[3], all[4]
	for _, c := range []struct {
		name, filters, assertions string
		vrps                      []VRP
		aspas                     ASPAs
	}{
		{"nothing", ``, ``, all, d.ASPAs},
		{"by prefix, what is inside goes and what covers stays", `"prefixFilters":[{"prefix":"192.0.2.0/24"}]`, ``, []VRP{wide, other, six}, d.ASPAs},
		{"by AS", `"prefixFilters":[{"asn":64500}]`, ``, []VRP{d25, other, six}, d.ASPAs},
		{"by both", `"prefixFilters":[{"prefix":"192.0.0.0/16","asn":64501,"comment":"x"}]`, ``, []VRP{wide, d24, other, six}, d.ASPAs},
		{"two filters", `"prefixFilters":[{"asn":64500},{"prefix":"2001:db8::/32"}]`, ``, []VRP{d25, other}, d.ASPAs},
		{"an assertion is never filtered", `"prefixFilters":[{"asn":64500}]`, `"prefixAssertions":[{"asn":64500,"prefix":"203.0.113.0/24","maxPrefixLength":26}]`,
			[]VRP{d25, other, {Prefix: netip.MustParsePrefix("203.0.113.0/24"), MaxLength: 26, ASN: 64500, TA: "SLURM"}, six}, d.ASPAs},
		{"ASPAs by customer, under either name", `"aspaFilters":[{"customerAsid":64500},{"customerAsn":64501}]`, ``, all, ASPAs{}},
		{"asserted ASPAs unite with what stays", ``, `"aspaAssertions":[{"customerAsn":64501,"providerAsns":[3,2]}]`, all, ASPAs{64500: {1}, 64501: {2, 3}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, err := parseExceptions(strings.NewReader(`{"slurmVersion":2,"validationOutputFilters":{` + c.filters + `},"locallyAddedAssertions":{` + c.assertions + `}}`))
			if err != nil {
				t.Fatal(err)
			}
			set, err := x.Apply(set, "changed")
			if err != nil {
				t.Fatal(err)
			}
			if got := slices.Collect(set.VRPs()); !slices.Equal(got, c.vrps) {
				t.Errorf("VRPs %v, want %v", got, c.vrps)
			}
			if diff := cmp.Diff(c.aspas, set.ASPAs()); diff != "" {
				t.Errorf("ASPAs (-want +got):\n%s", diff)
			}
		})
	}
	if len(d.ASPAs[64501]) != 1 || set.Len() != len(all) {
		t.Error("Apply changed its argument")
	}
}

func TestExceptionsReject(t *testing.T) {
	for name, in := range map[string]string{
		"empty":              ``,
		"not an object":      `[]`,
		"no version":         strings.Replace(noExceptions, `"slurmVersion":2,`, ``, 1),
		"version 3":          strings.Replace(noExceptions, `"slurmVersion":2`, `"slurmVersion":3`, 1),
		"ASPA in version 1":  strings.Replace(noExceptions, `"slurmVersion":2`, `"slurmVersion":1`, 1),
		"no filters":         `{"slurmVersion":1,"locallyAddedAssertions":{}}`,
		"no assertions":      `{"slurmVersion":1,"validationOutputFilters":{}}`,
		"unknown member":     strings.Replace(noExceptions, `"prefixFilters"`, `"prefixFilter"`, 1),
		"empty filter":       strings.Replace(noExceptions, `"prefixFilters":[]`, `"prefixFilters":[{"comment":"all"}]`, 1),
		"filter of nothing":  strings.Replace(noExceptions, `"prefixFilters":[]`, `"prefixFilters":[{"prefix":"x"}]`, 1),
		"assertion, no asn":  strings.Replace(noExceptions, `"prefixAssertions":[]`, `"prefixAssertions":[{"prefix":"192.0.2.0/24"}]`, 1),
		"assertion, max":     strings.Replace(noExceptions, `"prefixAssertions":[]`, `"prefixAssertions":[{"prefix":"192.0.2.0/24","asn":1,"maxPrefixLength":23}]`, 1),
		"ASPA, no customer":  strings.Replace(noExceptions, `"aspaAssertions":[]`, `"aspaAssertions":[{"providerAsns":[1]}]`, 1),
		"something follows":  noExceptions + `{}`,
		"truncated":          noExceptions[:len(noExceptions)-2],
		"ASN out of range":   strings.Replace(noExceptions, `"prefixFilters":[]`, `"prefixFilters":[{"asn":4294967296}]`, 1),
		"prefix with a host": strings.Replace(noExceptions, `"prefixAssertions":[]`, `"prefixAssertions":[{"prefix":"192.0.2.1/24","asn":1}]`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if x, err := parseExceptions(strings.NewReader(in)); err == nil {
				t.Errorf("accepted as %+v", x)
			}
		})
	}
}

// TestAgainstRoutinator applies eight mixes of SLURM to nothing, as Routinator's own tests do, and
// compares with what Routinator printed.
func TestAgainstRoutinator(t *testing.T) {
	dir := "../../../shared/data/rpki/routinator/output"
	files, _ := filepath.Glob(filepath.Join(dir, "*.slurm*"))
	if len(files) == 0 {
		t.Skip("Routinator's outputs are not here")
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			x, err := ReadExceptions(file)
			if err != nil {
				t.Fatal(err)
			}
			want := NewSet(Data{ASPAs: ASPAs{}}, "nothing")
			printed, err := os.ReadFile(strings.TrimSuffix(strings.TrimSuffix(file, ".slurm2"), ".slurm") + ".json")
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(printed, []byte(`"roas"`)) || bytes.Contains(printed, []byte(`"aspas"`)) {
				if want, err = Read(bytes.NewReader(printed), "Routinator"); err != nil {
					t.Fatal(err)
				}
			}
			wantASPAs := want.ASPAs()
			if strings.HasSuffix(file, ".slurm") {
				wantASPAs = ASPAs{} // version 1 has none
			}
			got, err := x.Apply(nil, "SLURM")
			if err != nil {
				t.Fatal(err)
			}
			if changes := slices.Collect(Diff(want, got, time.Time{})); len(changes) > 0 && changes[0].VRP != nil {
				t.Errorf("VRPs differ: %v", changes)
			}
			if diff := cmp.Diff(wantASPAs, got.ASPAs()); diff != "" {
				t.Errorf("ASPAs (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReadRealExports reads what validators wrote.
func TestReadRealExports(t *testing.T) {
	for _, name := range []string{"test.rpki.json", "smalltest.rpki.json"} {
		f, err := os.Open(filepath.Join("../../../shared/data/rpki", name))
		if errors.Is(err, os.ErrNotExist) {
			t.Skip("the exports are not here")
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if s, err := Read(f, name); err != nil || s.Len() == 0 || s.Built().IsZero() {
			t.Errorf("%s: %d VRPs built %v, %v", name, s.Len(), s.Built(), err)
		}
	}
}

func FuzzExceptions(f *testing.F) {
	f.Add(noExceptions)
	f.Add(strings.Replace(noExceptions, `"prefixFilters":[]`, `"prefixFilters":[{"prefix":"192.0.2.0/24","asn":1}]`, 1))
	f.Fuzz(func(t *testing.T, in string) {
		x, err := parseExceptions(strings.NewReader(in))
		if err != nil {
			return
		}
		one, err := x.Apply(NewSet(Data{VRPs: []VRP{vrp("192.0.2.0/24", 24, 1)}, ASPAs: ASPAs{1: {2}}}, "one"), "fuzz")
		if err != nil {
			t.Fatal(err)
		}
		if none, err := x.Apply(nil, "fuzz"); err != nil || none.Len() > one.Len() {
			t.Errorf("from nothing %d VRPs, from one %d; %v", none.Len(), one.Len(), err)
		}
	})
}
