package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	module = "github.com/routevigil/routevigil"
	root   = "../.." // of the repository, from this package
)

// The tests of this file keep what no compiler checks about the repository as a whole.

type goPackage struct {
	ImportPath   string
	Doc          string
	Imports      []string
	TestImports  []string
	XTestImports []string
	GoFiles      []string
}

// path is relative to the module: "detect/rpki".
func (p goPackage) path() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

func packages(t *testing.T) []goPackage {
	t.Helper()
	var all []goPackage
	decoder := json.NewDecoder(bytes.NewReader(command(t, "go", "list", "-json=ImportPath,Doc,Imports,TestImports,XTestImports,GoFiles", "./...")))
	for {
		var p goPackage
		switch err := decoder.Decode(&p); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// command runs a command in the root of the repository and returns its standard output.
func command(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	var stderr bytes.Buffer
	c := exec.CommandContext(t.Context(), name, args...)
	c.Dir, c.Stderr = root, &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", c, err, &stderr)
	}
	return out
}

// within reports whether path is dir or lies in it.
func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// layers says what each top-level folder may import of this module. Data flows one way: ingest → detect →
// store and alert → api; cmd alone knows everybody.
var layers = map[string][]string{
	"ingest": {"ingest"},
	"detect": {"detect", "ingest"},
	"store":  {"store", "detect/incident", "ingest"},
	"alert":  {"alert", "detect/incident", "ingest", "store"}, // store: the outbox
	"api":    {"api", "store", "detect", "ingest"},
	"cmd":    {"cmd", "alert", "api", "store", "detect", "ingest"}, // cmd/scorecard and cmd/growth are for those who work on this, and not shipped
}

// unshipped is what the program is not built with, and who may import it.
var unshipped = map[string][]string{"detect/scorecard": {"cmd/scorecard", "detect/simulate"}, "detect/simulate": {"cmd/scorecard"}}

func TestDependencyDirection(t *testing.T) {
	for _, p := range packages(t) {
		layer, _, _ := strings.Cut(p.path(), "/")
		allowed, ok := layers[layer]
		if !ok {
			t.Errorf("%s lies in no known top-level folder", p.path())
		}
		for _, imported := range p.Imports {
			path, ours := strings.CutPrefix(imported, module+"/")
			if ours && !slices.ContainsFunc(allowed, func(dir string) bool { return within(path, dir) }) {
				t.Errorf("%s imports %s, but %s may import only %s", p.path(), path, layer, strings.Join(allowed, ", "))
			}
			if only := unshipped[path]; only != nil && !slices.Contains(only, p.path()) {
				t.Errorf("%s imports %s, which only %s may", p.path(), path, strings.Join(only, ", "))
			}
		}
	}
}

// dependencies says which packages may import each module that the program is built with. A dependency has one
// home, so that it can be replaced; only what is a common language may be spoken everywhere.
var dependencies = map[string][]string{
	"github.com/ClickHouse/clickhouse-go": {"store/clickhouse"},
	"github.com/alecthomas/kong":          {"cmd/routevigil"},
	"github.com/danielgtaylor/huma/v2":    {"api"},
	"github.com/gopacket/gopacket":        {"ingest/archive"},
	"github.com/gorilla/websocket":        {"ingest/rislive"},
	"github.com/kentik/patricia":          {"detect/prefixtree"},
	"github.com/klauspost/compress":       {"ingest", "detect", "store", "api"},
	"github.com/parquet-go/parquet-go":    {"store/embedded"},
	"github.com/prometheus/client_golang": {"ingest", "detect", "store", "alert", "api", "cmd"},
	"github.com/segmentio/kafka-go":       {"ingest/openbmp", "ingest/bus/kafkabus", "ingest/kafkaauth"},
	"go.yaml.in/yaml/v3":                  {"cmd/routevigil/config"},
	"golang.org/x/sys":                    {"ingest/bgpsession"}, // socket options
	"modernc.org/sqlite":                  {"store/embedded"},
	"github.com/google/go-cmp":            {"store/storetest", "ingest/bgp/gobgptest"},
	"github.com/osrg/gobgp/v4":            {"ingest/bgp/gobgptest"},          // what tests compare with
	"github.com/twmb/franz-go/pkg/kfake":  {"ingest/bus/kafkabus/kafkatest"}, // a broker for tests
}

// A package that helps tests ends in "test" (storetest); like the testing modules it is no part of the program.
func TestDependencies(t *testing.T) {
	for _, p := range packages(t) {
		for _, imported := range p.Imports {
			if strings.HasSuffix(imported, "test") && strings.HasPrefix(imported, module) && !strings.HasSuffix(p.path(), "test") {
				t.Errorf("%s imports %s, which is for tests, into the program", p.path(), imported)
			}
			if domain, _, _ := strings.Cut(imported, "/"); !strings.Contains(domain, ".") || within(imported, module) {
				continue // the standard library, or ourselves
			}
			allowed, known := []string(nil), false
			for dependency, homes := range dependencies {
				if within(imported, dependency) {
					allowed, known = homes, true
				}
			}
			switch {
			case !known:
				t.Errorf("%s imports %s, which the table of dependencies does not know", p.path(), imported)
			case !slices.ContainsFunc(allowed, func(dir string) bool { return within(p.path(), dir) }):
				t.Errorf("%s imports %s, whose home is %s", p.path(), imported, strings.Join(allowed, ", "))
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("%s has no package comment", p.path())
		}
	}
}

// large lists the tracked files above maxFile with the reason why they must be.
var large = map[string]string{}

const maxFile = 1 << 20

var (
	someonesHome   = regexp.MustCompile(`(?:/home/|/Users/|[A-Z]:\\Users\\)[A-Za-z0-9]`)
	lockedDownload = regexp.MustCompile(`"resolved": *"https?:`)
)

// What is tracked is the same on every machine, names none, and is small.
func TestTrackedFiles(t *testing.T) {
	absolute, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	here := []string{absolute + "/"}
	if parent := filepath.Dir(absolute); parent != "/" && parent != filepath.Clean(os.TempDir()) {
		here = append(here, parent+"/")
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(command(t, "git", "ls-files", "-z")), "\x00"), "\x00") {
		file := filepath.Join(root, name)
		info, err := os.Lstat(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		if reason := large[name]; info.Size() > maxFile && reason == "" {
			t.Errorf("%s has %d bytes; a file above %d needs a reason in the list of large files", name, info.Size(), maxFile)
		}
		if !info.Mode().IsRegular() {
			t.Errorf("%s is not a regular file", name)
			continue
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range here {
			if bytes.Contains(content, []byte(path)) {
				t.Errorf("%s holds %q, a path of this machine", name, path)
			}
		}
		if m := someonesHome.Find(content); m != nil && name != "cmd/routevigil/repo_test.go" {
			t.Errorf("%s holds %q, a path of somebody's machine", name, m)
		}
		if filepath.Base(name) == "package-lock.json" && lockedDownload.Match(content) {
			t.Errorf("%s holds download addresses, which are those of one registry", name)
		}
	}
}

// What the README and the compose file tell people to run is there.
func TestReadmeTargetsExist(t *testing.T) {
	readme, makefile := read(t, "README.md"), read(t, "Makefile")
	targets := regexp.MustCompile(`(?m)^ *make ([a-z-]+)`).FindAllSubmatch(readme, -1)
	if len(targets) < 2 {
		t.Fatalf("the README shows %d make commands; it must show how to run the demo and the tests", len(targets))
	}
	for _, m := range targets {
		if !regexp.MustCompile(`(?m)^` + string(m[1]) + `:`).Match(makefile) {
			t.Errorf("the README says \"make %s\", which the Makefile does not know", m[1])
		}
	}
	links := regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllSubmatch(readme, -1)
	for _, m := range links {
		if _, err := os.Stat(filepath.Join(root, string(m[1]))); err != nil {
			t.Errorf("the README links to %s: %v", m[1], err)
		}
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}
