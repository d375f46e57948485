package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	fastgzip "github.com/klauspost/compress/gzip"
)

// BenchmarkDump compares with bgpdump, in turn on the same input, a real file of updates eight times
// over (108 MB); and with what limits us: one processor, or decompression alone. It runs where the
// file and bgpdump are at hand.
func BenchmarkDump(b *testing.B) {
	const sample = "../../../shared/data/mrt/updates.et-header.2015.gz"
	compressed, err := os.ReadFile(sample)
	if err != nil {
		b.Skip(err)
	}
	peer, err := exec.LookPath("bgpdump")
	if err != nil {
		b.Skip(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		b.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	write := func(name string, part []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, bytes.Repeat(part, 8), 0o600); err != nil {
			b.Fatal(err)
		}
		return path
	}
	one, other, packed := write("one.mrt", plain), write("other.mrt", plain), write("packed.mrt.gz", compressed)
	run := func(command string, args ...string) *exec.Cmd {
		c := exec.Command(command, args...) // its output goes to the null device
		if err := c.Run(); err != nil {
			b.Fatalf("%s: %v", c, err)
		}
		return c
	}
	// Work is the processor time of a command, which other load hardly changes.
	work := func(command string, args ...string) func() float64 {
		return func() float64 {
			s := run(command, args...).ProcessState
			return (s.UserTime() + s.SystemTime()).Seconds()
		}
	}
	wall := func(f func()) func() float64 {
		return func() float64 {
			start := time.Now()
			f()
			return time.Since(start).Seconds()
		}
	}
	count := func(files ...string) func() float64 {
		return wall(func() { run("routevigil", append([]string{"dump", "--count"}, files...)...) })
	}
	unpack := wall(func() {
		f, err := os.Open(packed)
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		z, err := fastgzip.NewReader(f)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, z); err != nil {
			b.Fatal(err)
		}
	})
	for _, bench := range []struct {
		name, unit string
		a, b       func() float64 // seconds
		ratio      func(a, b float64) float64
	}{
		{"count", "x-faster-than-bgpdump", work("routevigil", "dump", "--count", one), work(peer, "-m", one),
			func(ours, theirs float64) float64 { return theirs / ours }},
		{"lines", "x-faster-than-bgpdump", work("routevigil", "dump", "-m", one), work(peer, "-m", one),
			func(ours, theirs float64) float64 { return theirs / ours }},
		{"two files", "x-faster-than-in-turn", count(one), count(one, other),
			func(one, two float64) float64 { return 2 * one / two }},
		{"gzip", "x-decompression-alone", count(packed), unpack,
			func(whole, part float64) float64 { return whole / part }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			var first, second float64
			for b.Loop() {
				first += bench.a()
				second += bench.b()
			}
			b.ReportMetric(bench.ratio(first, second), bench.unit)
		})
	}
}
