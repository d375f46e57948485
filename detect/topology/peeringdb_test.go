package topology

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// dump has the form of CAIDA's archive, with members that do not matter and one that comes too early.
const dump = `{
 "poc": {"data": [{"id": 1, "name": "NOC", "nested": {"a": [1, {"b": []}]}}]},
 "net": {"meta": {"generated": 1.5}, "data": [
  {"id": 1, "org_id": 10, "asn": 64500, "name": "A", "info_type": "NSP"},
  {"id": 2, "org_id": 10, "asn": 64501, "name": "B", "info_type": "Content"},
  {"id": 3, "org_id": 11, "asn": 64510, "name": "RS", "info_type": "Route Server"},
  {"id": 4, "org_id": 11, "asn": 64511, "name": "RS 2", "info_type": "", "info_types": ["Non-Profit", "Route Server"]},
  {"id": 5, "asn": 64502, "name": "of nobody"},
  {"id": 6, "asn": 64503, "name": "of nobody either"}]},
 "ix": {"data": [{"id": 1, "org_id": 11, "name": "An exchange"}, {"id": 2, "org_id": 11, "name": "Another"}]},
 "org": {"data": [{"id": 10, "name": "Ten"}, {"id": 11, "name": "Eleven"}]}
}`

func readPeeringDB(in string) (*PeeringDB, error) {
	p := newPeeringDBReader("dump.json")
	if err := p.read(strings.NewReader(in)); err != nil {
		return nil, err
	}
	return p.finish(), nil
}

func TestReadPeeringDB(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dump.json")
	if err := os.WriteFile(path, []byte(dump), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := ReadPeeringDB(path, path)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(db.RouteServers, []uint32{64510, 64511}) || db.Exchanges != 2 {
		t.Errorf("route servers %v, %d exchanges", db.RouteServers, db.Exchanges)
	}
	if org, same := db.Organisations.Same(64500, 64501); !same || !strings.Contains(org, "Ten") {
		t.Errorf("AS64500 and AS64501: %q, %v", org, same)
	}
	for _, pair := range [][2]uint32{{64500, 64510}, {64502, 64503}, {64502, 1}} {
		if org, same := db.Organisations.Same(pair[0], pair[1]); same {
			t.Errorf("AS%d and AS%d both belong to %q", pair[0], pair[1], org)
		}
	}
	if db.Organisations.Source() != path {
		t.Errorf("source %q", db.Organisations.Source())
	}
	api, err := readPeeringDB(`{"meta": {}, "data": [{"id": 3, "org_id": 11, "asn": 64510, "info_type": "Route Server"}]}`)
	if err != nil || !slices.Equal(api.RouteServers, []uint32{64510}) {
		t.Errorf("an answer of the API: %+v, %v", api, err)
	}
}

func TestReadPeeringDBRejects(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"nothing":            {"", "unexpected EOF"},
		"something else":     {`{"roas": []}`, "is it a dump of PeeringDB?"},
		"a list":             {`[]`, "where { must be"},
		"cut off":            {dump[:len(dump)/2], "unexpected EOF"},
		"an ASN too large":   {`{"data": [{"asn": 4294967296}]}`, "offset"},
		"data of one kind":   {`{"net": {"data": {}}}`, "where [ must be"},
		"an endless name":    {`{"data": [{"name": "` + strings.Repeat("x", 3*maxElement) + `"}]}`, "longer than"},
		"an endless comment": {`{"poc": "` + strings.Repeat("x", 3*maxElement) + `"}`, "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := readPeeringDB(c.in); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func FuzzReadPeeringDB(f *testing.F) {
	f.Add(dump)
	f.Add(`{"data": [{"asn": 1, "org_id": -1}]}`)
	f.Fuzz(func(t *testing.T, in string) {
		db, err := readPeeringDB(in)
		if err != nil {
			return
		}
		if !slices.IsSorted(db.RouteServers) || slices.Contains(db.RouteServers, 0) {
			t.Errorf("route servers %v", db.RouteServers)
		}
	})
}
