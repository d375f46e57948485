package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/routevigil/routevigil/detect/irr/whois/whoistest"
)

// Where no registry is given, a server that the configuration names says what the as-sets of watches hold.
func TestSetsOfWatchesFromAServer(t *testing.T) {
	address, asked := whoistest.Serve(t, whoistest.Script{"!nroutevigil": "C\n", "!iAS-X,1": whoistest.Data("AS1 AS2\n")})
	load := func(address, more string) ([]uint32, error) {
		file := filepath.Join(t.TempDir(), "c.yaml")
		text := fmt.Sprintf("watches: [{name: customers, as_sets: [AS-X]}]\nknowledge: {irr: {whois: %q%s}}\n", address, more)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, k, err := KnowledgeFlags{ConfigFlag: ConfigFlag{Config: file}}.load()
		return k.WatchSets["AS-X"], err
	}
	if got, err := load(address, ""); err != nil || !slices.Equal(got, []uint32{1, 2}) {
		t.Errorf("%v, %v", got, err)
	}
	questions := func() int {
		return len(slices.DeleteFunc(asked(), func(q string) bool { return !strings.HasPrefix(q, "!i") }))
	}
	before := questions()
	dump := filepath.Join(t.TempDir(), "irr.txt")
	if err := os.WriteFile(dump, []byte("as-set: AS-X\nmembers: AS3\nsource: RIPE\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := load(address, ", files: ["+dump+"]"); err != nil || got != nil || questions() != before {
		t.Errorf("with a dump: %v, %v, asked %q", got, err, asked())
	}
	gone, _ := whoistest.Serve(t, whoistest.Script{"!nroutevigil": "close"})
	if _, err := load(gone, ""); err == nil || !strings.Contains(err.Error(), gone) {
		t.Errorf("error %v must name the server", err)
	}
	if _, err := load("nonsense", ""); err == nil || !strings.Contains(err.Error(), "knowledge.irr.whois: must be a host and a port") {
		t.Errorf("error %v", err)
	}
}
