package past

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/gzip"
)

var quiet = slog.New(slog.DiscardHandler)

func ample() Configuration {
	c := DefaultConfiguration()
	c.Keep = 100 * 365 * 24 * time.Hour
	return c
}

func open(t testing.TB, dir string, c Configuration) *Recorder {
	t.Helper()
	r, err := Open(dir, c, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.index.Close() })
	return r
}

func at(t testing.TB, dir string, when time.Time) *Moment {
	t.Helper()
	m, err := At(dir, when)
	if err != nil {
		t.Fatalf("at %v: %v", when, err)
	}
	return m
}

func content(t testing.TB, s Source) string {
	t.Helper()
	b, err := s.Content()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// noise is n octets that nothing compresses.
func noise(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// size is what the copies in a folder take.
func size(t testing.TB, dir string) (total int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && e.Name() != indexName {
			total += info.Size()
		}
	}
	return total
}

// Whatever happens to sources and to the service, what was in use at a moment is what At says of it.
func TestMoments(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	type moment struct {
		at  time.Time
		use map[string]string
	}
	var moments []moment
	use := map[string]string{}
	names := []string{"a", "b", "c", "d"}
	rec := open(t, dir, ample())
	rec.Start(now)
	put := func(name, text string) {
		use[name] = text
		if r.IntN(2) == 0 {
			rec.Bytes(now, name, "from "+name, false, []byte(text))
			return
		}
		file := filepath.Join(t.TempDir(), name)
		if r.IntN(2) == 0 {
			var b bytes.Buffer
			z := gzip.NewWriter(&b)
			if _, err := z.Write([]byte(text)); err != nil {
				t.Fatal(err)
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			text = b.String()
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		rec.File(now, name, file, "from "+name, info, false)
	}
	restarts := 0
	for range 300 {
		now = now.Add(time.Duration(1+r.IntN(1e6)) * time.Microsecond)
		if r.IntN(10) > 0 {
			put(names[r.IntN(len(names))], fmt.Sprint("version ", r.IntN(40)))
		} else {
			restarts++
			if r.IntN(2) == 0 {
				if err := rec.Close(now); err != nil {
					t.Fatal(err)
				}
			} else { // it was killed while it wrote
				f, err := os.OpenFile(filepath.Join(dir, indexName), os.O_APPEND|os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				line, _ := (&record{At: now, What: inUse, Source: "a", Hash: "none"}).append(nil)
				if _, err := f.Write(line[:r.IntN(len(line))]); err != nil {
					t.Fatal(err)
				}
				f.Close()
				for _, orphan := range []string{"feed" + copied, "beef" + scratch} {
					if err := os.WriteFile(filepath.Join(dir, orphan), []byte("half a co"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			rec = open(t, dir, ample())
			before := maps.Clone(use)
			clear(use)
			for _, name := range names {
				if text, ok := before[name]; ok && r.IntN(4) > 0 { // the others are not configured any more
					put(name, text)
				}
			}
			now = now.Add(time.Microsecond)
			rec.Start(now)
		}
		moments = append(moments, moment{now, maps.Clone(use)})
	}
	if restarts < 10 {
		t.Fatalf("%d restarts", restarts)
	}
	for i, want := range moments {
		when := want.at
		if i+1 < len(moments) && i%2 == 0 { // just before the next change, unless that is a start
			when = want.at.Add(moments[i+1].at.Sub(want.at) / 3)
		}
		m := at(t, dir, when)
		got := map[string]string{}
		for _, s := range m.Sources {
			if s.Missing != "" || s.Since.After(when) || s.Location != "from "+s.Name || !s.Copy.Equal(s.Since) {
				t.Fatalf("%+v", s)
			}
			got[s.Name] = content(t, s)
		}
		if !maps.Equal(got, want.use) {
			t.Fatalf("moment %d: %v, want %v", i, got, want.use)
		}
	}
	for _, name := range []string{"feed" + copied, "beef" + scratch} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	if _, err := At(dir, moments[0].at.Add(-time.Hour)); !errors.Is(err, ErrUnknown) {
		t.Errorf("before there was anything: %v", err)
	}
}

// That the service had ended is known, unless it was killed.
func TestStopped(t *testing.T) {
	dir, begin := t.TempDir(), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	r := open(t, dir, ample())
	r.Bytes(begin, "a", "", false, []byte("1"))
	r.Start(begin)
	if err := r.Close(begin.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	r = open(t, dir, ample())
	r.Bytes(begin.Add(2*time.Hour), "a", "", false, []byte("2"))
	r.Start(begin.Add(2 * time.Hour))
	for after, want := range map[time.Duration]time.Time{0: {}, 59 * time.Minute: {}, 90 * time.Minute: begin.Add(time.Hour), 2 * time.Hour: {}, 3 * time.Hour: {}} {
		m := at(t, dir, begin.Add(after))
		if !m.Stopped.Equal(want) || len(m.Sources) != 1 {
			t.Errorf("after %v: stopped %v, want %v; %+v", after, m.Stopped, want, m.Sources)
		}
	}
}

// The copies never take more than they may; what went out of use first goes first, what is in use stays, and of what is gone
// nothing else is said than that.
func TestBytes(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	dir, now := t.TempDir(), time.Now().Add(-time.Hour)
	c := ample()
	c.MaxBytes = 1 << 20
	rec := open(t, dir, c)
	rec.Bytes(now, "settled", "", false, noise(r, 100_000))
	rec.Start(now)
	settled := content(t, at(t, dir, now).Sources[0])
	versions := map[time.Time]string{}
	for i := range 40 {
		now = now.Add(time.Second)
		text := noise(r, 150_000+r.IntN(100_000))
		rec.Bytes(now, "a", "", false, text)
		versions[now] = string(text)
		if i%9 == 8 {
			rec = open(t, dir, c)
			rec.Bytes(now, "a", "", false, text)
			rec.Bytes(now, "settled", "", false, []byte(settled))
			rec.Start(now)
		}
		if n := size(t, dir); n > c.MaxBytes {
			t.Fatalf("%d octets", n)
		}
	}
	kept, gap := 0, true
	for _, when := range slices.SortedFunc(maps.Keys(versions), time.Time.Compare) {
		m := at(t, dir, when)
		if s, _ := m.Source("settled"); s.Missing != "" || content(t, s) != settled {
			t.Errorf("what is in use all the time: %+v", s)
		}
		s, _ := m.Source("a")
		switch {
		case s.Missing != "" && (s.Path != "" || !strings.Contains(s.Missing, "has been dropped")):
			t.Errorf("%+v", s)
		case s.Missing != "" && !gap:
			t.Errorf("%v was dropped, what was before it was not", when)
		case s.Missing == "":
			gap = false
			if kept++; content(t, s) != versions[when] {
				t.Errorf("%v: another version", when)
			}
		}
	}
	if kept < 3 || kept > 6 {
		t.Errorf("%d versions are kept", kept)
	}
	// What does not fit at all, beside what else is in use, is not kept, and drops nothing.
	before := size(t, dir)
	now = now.Add(time.Second)
	rec.Bytes(now, "a", "", false, noise(r, 1_000_000))
	rec.Bytes(now, "b", "", false, noise(r, 3_000_000))
	m := at(t, dir, now)
	a, _ := m.Source("a")
	b, _ := m.Source("b")
	if after := size(t, dir); after != before || !strings.Contains(a.Missing, "no room") || a.Path == "" || !a.Copy.Before(now) || b.Path != "" || !strings.Contains(b.Missing, "no room") {
		t.Errorf("%d octets, before %d; %+v %+v", after, before, a, b)
	}
}

// What went out of use too long ago is dropped, and the index does not grow for ever.
func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		c := DefaultConfiguration()
		c.Keep = 10 * 24 * time.Hour
		begin := time.Now()
		day := func(n int) time.Time { return begin.Add(time.Duration(n) * 24 * time.Hour) }
		var r *Recorder
		for n := range 40 {
			if n%8 == 0 {
				if r != nil {
					if err := r.Close(time.Now()); err != nil {
						t.Fatal(err)
					}
				}
				var err error
				if r, err = Open(dir, c, quiet); err != nil {
					t.Fatal(err)
				}
				r.Bytes(time.Now(), "settled", "", false, []byte("for ever"))
				r.Start(time.Now(), "daily")
			}
			r.Bytes(time.Now(), "daily", "", false, fmt.Appendf(nil, "day %d", n))
			time.Sleep(24 * time.Hour)
		}
		if err := r.Close(time.Now()); err != nil {
			t.Fatal(err)
		}
		r, err := Open(dir, c, quiet)
		if err != nil {
			t.Fatal(err)
		}
		defer r.index.Close()
		if len(r.records) > 20 || len(r.copies) > 12 {
			t.Errorf("%d records and %d copies", len(r.records), len(r.copies))
		}
		for _, n := range []int{0, 10, 29} {
			if m, err := At(dir, day(n)); !errors.Is(err, ErrUnknown) {
				t.Errorf("day %d: %+v, %v", n, m, err)
			}
		}
		for _, n := range []int{30, 31, 35, 39} {
			m := at(t, dir, day(n).Add(time.Hour))
			daily, _ := m.Source("daily")
			settled, _ := m.Source("settled")
			if daily.Missing != "" || content(t, daily) != fmt.Sprint("day ", n) || settled.Missing != "" || content(t, settled) != "for ever" {
				t.Errorf("day %d: %+v", n, m)
			}
		}
	})
}

// What changes all the time is copied now and then; in between At says from when the copy is.
func TestOften(t *testing.T) {
	dir, begin := t.TempDir(), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	c := ample()
	c.Every = time.Hour
	r := open(t, dir, c)
	r.Start(begin)
	for i := range 100 {
		r.Bytes(begin.Add(time.Duration(i)*time.Minute), "a", "", true, fmt.Append(nil, i))
	}
	if n := len(r.records); n != 5 { // start, a copy, no copy, a copy, no copy
		t.Errorf("%d records", n)
	}
	for minute, want := range map[int]struct {
		text          string
		missing       bool
		since, copied int
	}{0: {"0", false, 0, 0}, 1: {"0", true, 1, 0}, 59: {"0", true, 1, 0}, 60: {"60", false, 60, 60}, 99: {"60", true, 61, 60}} {
		s, _ := at(t, dir, begin.Add(time.Duration(minute)*time.Minute)).Source("a")
		if content(t, s) != want.text || (s.Missing != "") != want.missing || s.Since.Sub(begin).Minutes() != float64(want.since) || s.Copy.Sub(begin).Minutes() != float64(want.copied) {
			t.Errorf("minute %d: %+v", minute, s)
		}
	}
	if r.Due(begin.Add(119*time.Minute), "a") || !r.Due(begin.Add(120*time.Minute), "a") {
		t.Error("when the next copy is due")
	}
}

// A file that is no longer what was read is not kept as if it were.
func TestChangedFile(t *testing.T) {
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "file")
	now := time.Now()
	write := func(text string) os.FileInfo {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	r := open(t, dir, ample())
	r.Start(now)
	r.File(now, "a", file, file, write("one"), false)
	was := write("two")
	write("three")
	r.File(now.Add(time.Second), "a", file, file, was, false)
	s, _ := at(t, dir, now.Add(time.Minute)).Source("a")
	if !strings.Contains(s.Missing, "changed while it was read") || content(t, s) != "one" || !s.Since.After(s.Copy) {
		t.Errorf("%+v", s)
	}
	r.File(now.Add(2*time.Minute), "a", filepath.Join(dir, "nowhere"), file, nil, false)
	if s, _ := at(t, dir, now.Add(time.Hour)).Source("a"); !strings.Contains(s.Missing, "no such file") {
		t.Errorf("%+v", s)
	}
}

// What the disk did not take is written when it takes something again.
func TestUnwritten(t *testing.T) {
	dir, now := t.TempDir(), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	r := open(t, dir, ample())
	r.Start(now)
	r.Bytes(now, "a", "", false, []byte("one"))
	r.index.Close() // no write works on it
	r.Bytes(now.Add(time.Minute), "a", "", false, []byte("two"))
	r.Bytes(now.Add(2*time.Minute), "a", "", false, []byte("three"))
	var err error
	if r.index, err = os.OpenFile(filepath.Join(dir, indexName), os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	r.Bytes(now.Add(3*time.Minute), "b", "", false, []byte("four"))
	for minute, want := range []string{"one", "two", "three", "three"} {
		s, _ := at(t, dir, now.Add(time.Duration(minute)*time.Minute)).Source("a")
		if content(t, s) != want {
			t.Errorf("minute %d: %q", minute, content(t, s))
		}
	}
}

// An index that ends anywhere, or has an octet that is wrong, is read as far as it is good, and never as something else.
func TestDamagedIndex(t *testing.T) {
	dir, begin := t.TempDir(), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	r := open(t, dir, ample())
	r.Start(begin)
	for i := range 5 {
		r.Bytes(begin.Add(time.Duration(i)*time.Minute), "a", "", false, fmt.Append(nil, i))
	}
	whole, err := os.ReadFile(filepath.Join(dir, indexName))
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(index []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, indexName), index, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for n := range whole {
		spoil(whole[:n])
		lines := bytes.Count(whole[:n], []byte("\n"))
		m, err := At(dir, begin.Add(time.Hour))
		switch {
		case lines == 0 && !errors.Is(err, ErrUnknown):
			t.Fatalf("of nothing: %+v %v", m, err)
		case lines > 0 && err != nil:
			t.Fatal(err)
		case lines > 1 && content(t, m.Sources[0]) != strconv.Itoa(lines-2):
			t.Fatalf("%d lines: %q", lines, content(t, m.Sources[0]))
		case lines > 0 && m.Damaged != 0:
			t.Fatalf("%d lines: an unfinished one counts as damaged", lines)
		}
	}
	first := bytes.IndexByte(whole, '\n') + 1
	second := first + bytes.IndexByte(whole[first:], '\n')
	for n := first; n < second; n++ {
		bad := slices.Clone(whole)
		bad[n] ^= 0x20
		spoil(bad)
		if m := at(t, dir, begin.Add(30*time.Second)); m.Damaged != 1 || len(m.Sources) != 0 {
			t.Fatalf("octet %d: %+v", n, m)
		}
	}
	r = open(t, dir, ample())
	r.Bytes(begin.Add(time.Hour), "a", "", false, []byte("after"))
	if m := at(t, dir, begin.Add(time.Hour)); m.Damaged != 1 || content(t, m.Sources[0]) != "after" {
		t.Errorf("%+v", m)
	}
}

// What was acknowledged before kill -9 is there afterwards, and what is there is what was acknowledged or was about to be.
func TestKill(t *testing.T) {
	if dir := os.Getenv("PAST_TEST_CHILD"); dir != "" {
		recordForEver(dir)
	}
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(5, uint64(time.Now().UnixNano())))
	acknowledged := map[int]time.Time{}
	for range 8 {
		child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKill$")
		child.Env = append(os.Environ(), "PAST_TEST_CHILD="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines, last := bufio.NewScanner(out), 1+r.IntN(40)
		for lines.Scan() {
			n, micros, ok := strings.Cut(lines.Text(), " ")
			version, err := strconv.Atoi(n)
			when, err2 := strconv.ParseInt(micros, 10, 64)
			if !ok || err != nil || err2 != nil {
				t.Fatalf("the child says %q", lines.Text())
			}
			acknowledged[version] = time.UnixMicro(when)
			if last--; last == 0 {
				time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond) // to hit it anywhere in its work
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = child.Wait() // as it was killed
		if last > 0 {
			t.Fatal("the child ended by itself")
		}
		for version, when := range acknowledged {
			if s, _ := at(t, dir, when).Source("a"); s.Missing != "" || !strings.HasPrefix(content(t, s), fmt.Sprintf("version %d\n", version)) {
				t.Fatalf("version %d: %+v", version, s)
			}
		}
	}
}

// recordForEver says of each version when it is recorded.
func recordForEver(dir string) {
	r, err := Open(dir, ample(), quiet)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	next := len(r.records)
	r.Start(time.Now(), "a")
	for {
		now := time.Now().Truncate(time.Microsecond)
		r.Bytes(now, "a", "", false, fmt.Appendf(nil, "version %d\n%s", next, strings.Repeat("text ", next%5000)))
		fmt.Println(next, now.UnixMicro())
		next++
	}
}

// Nothing that an index says makes At or Open fail badly.
func FuzzIndex(f *testing.F) {
	var text []byte
	for _, r := range []record{{What: started, Sources: []string{"a"}}, {What: inUse, Source: "a", Hash: "1234"}, {What: inUse, Source: "a", Why: "why"}, {What: stopped}, {What: cut}} {
		r.At = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
		text, _ = r.append(text)
	}
	f.Add(text)
	f.Add([]byte("{}\t00000000\n"))
	f.Fuzz(func(t *testing.T, index []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, indexName), index, 0o600); err != nil {
			t.Fatal(err)
		}
		when := time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC)
		if _, err := At(dir, when); err != nil && !errors.Is(err, ErrUnknown) {
			t.Fatal(err)
		}
		r, err := Open(dir, ample(), quiet)
		if err != nil {
			t.Fatal(err)
		}
		r.Bytes(when, "new", "", false, []byte("text"))
		r.Start(when)
		if err := r.Close(when.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		m, err := At(dir, when)
		if errors.Is(err, ErrUnknown) {
			return // the index says that its past begins later
		}
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := m.Source("new"); !ok || content(t, s) != "text" {
			t.Fatalf("%+v", m)
		}
	})
}

// BenchmarkFile records a file of 64 MiB that is gzip already, as registries' dumps are.
func BenchmarkFile(b *testing.B) {
	r := rand.New(rand.NewPCG(7, 8))
	file := filepath.Join(b.TempDir(), "dump.gz")
	text := append([]byte{0x1f, 0x8b}, noise(r, 64<<20)...)
	rec := open(b, b.TempDir(), ample())
	b.SetBytes(64 << 20)
	for i := 0; b.Loop(); i++ {
		text[100] = byte(i)
		text[101] = byte(i >> 8)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			b.Fatal(err)
		}
		rec.File(time.Now(), "a", file, file, nil, false)
	}
}

// That another version was held back is told until one is in use.
func TestHeld(t *testing.T) {
	dir, begin := t.TempDir(), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	minute := func(n int) time.Time { return begin.Add(time.Duration(n) * time.Minute) }
	r := open(t, dir, ample())
	r.Bytes(begin, "a", "", false, []byte("one"))
	r.Start(begin)
	for n := 10; n < 20; n++ {
		r.Held(minute(n), "a", "it lost too much")
		r.Bytes(minute(n), "b", "", false, fmt.Append(nil, n))
	}
	r.Bytes(minute(30), "a", "", false, []byte("two"))
	for n, want := range map[int]string{9: "", 10: "it lost too much", 29: "it lost too much", 30: "", 40: ""} {
		s, _ := at(t, dir, minute(n)).Source("a")
		if s.Held != want || want != "" && (!s.HeldSince.Equal(minute(10)) || content(t, s) != "one" || s.Missing != "") {
			t.Errorf("minute %d: %+v", n, s)
		}
	}
}

// The files of a period answer for every moment of it as all do.
func TestFiles(t *testing.T) {
	dir, begin := t.TempDir(), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	moment := func(minute int) time.Time { return begin.Add(time.Duration(minute) * time.Minute) }
	if paths, err := Files(dir, begin, time.Time{}); err != nil || len(paths) != 0 {
		t.Fatalf("of nothing: %v, %v", paths, err)
	}
	c := ample()
	c.Every = 7 * time.Minute
	r := open(t, dir, c)
	r.Start(begin)
	for i := range 100 {
		r.Bytes(moment(i), []string{"a", "b", "c"}[i%3], "", i%2 == 0, fmt.Append(nil, i))
	}
	all, err := Files(dir, time.Time{}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for _, period := range [][2]int{{0, 1}, {30, 31}, {30, 60}, {50, 99}, {200, 300}} {
		paths, err := Files(dir, moment(period[0]), moment(period[1]))
		if err != nil || len(paths) < 2 || len(paths) >= len(all) {
			t.Fatalf("minutes %v: %d of %d files, %v", period, len(paths), len(all), err)
		}
		part := t.TempDir()
		for _, path := range paths {
			if err := os.Link(path, filepath.Join(part, filepath.Base(path))); err != nil {
				t.Fatal(err)
			}
		}
		for minute := period[0]; minute < period[1]; minute++ {
			want, got := at(t, dir, moment(minute)), at(t, part, moment(minute))
			if len(got.Sources) != len(want.Sources) {
				t.Fatalf("minute %d: sources %+v, want %+v", minute, got.Sources, want.Sources)
			}
			for i, s := range want.Sources {
				if g := got.Sources[i]; g.Name != s.Name || !g.Since.Equal(s.Since) || !g.Copy.Equal(s.Copy) || s.Path != "" && content(t, g) != content(t, s) {
					t.Errorf("minute %d: %+v, want %+v", minute, g, s)
				}
			}
		}
	}
}
