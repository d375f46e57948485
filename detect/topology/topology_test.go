package topology

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

const serial1 = `# inferred clique: 174 3356
# IXP ASes: 1200
3356|36561|-1
174|3356|0
16509|14618|1
`

func TestRead(t *testing.T) {
	r, err := Read(strings.NewReader(serial1+"65550|3356|-1|bgp\n"), "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		a, b uint32
		want Relation
	}{
		{"provider", 3356, 36561, Provider},
		{"customer, asked the other way round", 36561, 3356, Customer},
		{"peer", 174, 3356, Peer},
		{"peer, asked the other way round", 3356, 174, Peer},
		{"sibling", 14618, 16509, Sibling},
		{"higher ASN as provider", 65550, 3356, Provider},
		{"lower ASN as customer", 3356, 65550, Customer},
		{"strangers", 174, 36561, None},
		{"itself", 174, 174, None},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := r.Of(c.a, c.b); got != c.want {
				t.Errorf("AS%d is %v of AS%d, want %v", c.a, got, c.b, c.want)
			}
		})
	}
	if r.Len() != 4 {
		t.Errorf("%d links, want 4", r.Len())
	}
	r.Set(3356, 36561, Peer) // a later line corrects an earlier one
	r.Set(174, 36561, Customer)
	for asn, want := range map[uint32]int{3356: 0, 65550: 1, 36561: 1, 174: 0, 1: 0} {
		if got := r.Customers(asn); got != want {
			t.Errorf("AS%d has %d customers, want %d", asn, got, want)
		}
	}
	var none *Relationships
	if none.Customers(1) != 0 || none.Of(1, 2) != None || none.Len() != 0 || none.Source() != "" {
		t.Error("no set must know nothing")
	}
}

func TestReadRejects(t *testing.T) {
	for name, c := range map[string]struct{ in, line string }{
		"too few fields":   {"1|2|0\n1|2\n", "line 2"},
		"not a number":     {"AS1|2|0\n", "line 1"},
		"number too large": {"1|4294967296|0\n", "line 1"},
		"with itself":      {"1|2|0\n1|1|-1\n", "line 2"},
		"unknown relation": {"# c\n\n1|2|2\n", "line 3"},
		"endless line":     {strings.Repeat("1", 1<<17), "line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Read(strings.NewReader(c.in), "file.txt")
			if err == nil || !strings.Contains(err.Error(), "file.txt "+c.line) {
				t.Errorf("error %v does not name file.txt %s", err, c.line)
			}
		})
	}
}

func TestReadFileTellsGzipByContent(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write([]byte(serial1))
	w.Close()
	for name, data := range map[string][]byte{"plain.gz": []byte(serial1), "packed.txt": z.Bytes()} {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if r.Of(3356, 36561) != Provider || r.Source() != path {
			t.Errorf("%s: AS3356 is %v of AS36561", name, r.Of(3356, 36561))
		}
	}
	if _, err := ReadFile(filepath.Join(t.TempDir(), "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestReadOrganisations(t *testing.T) {
	path := filepath.Join(t.TempDir(), "as-org")
	data := `# format:org_id|changed|org_name|country|source
ORG-A|20260101|A|NL|RIPE
# format:aut|changed|aut_name|org_id|opaque_id|source
16509|20260101|X|ORG-A|o|ARIN
14618|20260101|Y|ORG-A|o|ARIN
15169|20260101|Z|ORG-B|o|ARIN
`
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := ReadOrganisations(path)
	if err != nil {
		t.Fatal(err)
	}
	if org, same := o.Same(16509, 14618); !same || org != "ORG-A" {
		t.Errorf("AS16509 and AS14618: %q, %v", org, same)
	}
	for _, pair := range [][2]uint32{{16509, 15169}, {16509, 1}, {1, 2}, {1, 1}} {
		if org, same := o.Same(pair[0], pair[1]); same {
			t.Errorf("AS%d and AS%d both belong to %q", pair[0], pair[1], org)
		}
	}
	if _, same := (*Organisations)(nil).Same(1, 1); same {
		t.Error("no set must know nothing")
	}
}

func FuzzRead(f *testing.F) {
	f.Add(serial1)
	f.Add("1|2|-1|bgp\r\n")
	f.Fuzz(func(t *testing.T, in string) {
		r, err := Read(strings.NewReader(in), "fuzz")
		if err != nil {
			return
		}
		for k, rel := range r.links {
			a, b := uint32(k>>32), uint32(k)
			if r.Of(a, b) != rel || r.Of(b, a) != rel.reverse() {
				t.Errorf("AS%d–AS%d: %v and %v", a, b, r.Of(a, b), r.Of(b, a))
			}
		}
	})
}
