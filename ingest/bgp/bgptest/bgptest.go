// Package bgptest gives tests BGP messages that others have published, where they are at hand: they are
// not part of the repository. Every decoder that meets BGP messages, be it on their own or in MRT, BMP or
// JSON, takes them as seeds of its fuzz target.
package bgptest

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// Data is a file or folder of the public data that may lie beside the repository. It need not exist.
func Data(t testing.TB, path ...string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(append([]string{filepath.Dir(dir), "shared", "data"}, path...)...)
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

// Fuzzed are messages that fuzzers have made, most of them malformed, or none where the data is absent.
func Fuzzed(t testing.TB) (messages [][]byte) {
	t.Helper()
	short, err := filepath.Glob(Data(t, "fuzz", "bad-len", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range short {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, b)
	}
	file, err := os.Open(Data(t, "fuzz", "bgp-messages.tar.gz"))
	if errors.Is(err, os.ErrNotExist) {
		return messages
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	z, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	for tr := tar.NewReader(z); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return messages
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, b)
	}
}
