package refresh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/ingest/download"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// web serves one file, of which every content is another version.
type web struct {
	*httptest.Server
	mu      sync.Mutex
	content string
	down    bool
	asked   []string // what each request was for: "whole", "unless …", "from …"
}

func serve(t *testing.T, content string) *web {
	w := &web{content: content}
	w.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.down {
			http.Error(rw, "down", http.StatusForbidden) // nothing that is tried again
			return
		}
		switch {
		case r.Header.Get("Range") != "":
			w.asked = append(w.asked, "from "+r.Header.Get("Range"))
		case r.Header.Get("If-None-Match") != "":
			w.asked = append(w.asked, "unless "+r.Header.Get("If-None-Match"))
		default:
			w.asked = append(w.asked, "whole")
		}
		rw.Header().Set("ETag", tag(w.content))
		http.ServeContent(rw, r, "file", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), strings.NewReader(w.content))
	}))
	t.Cleanup(w.Close)
	return w
}

func tag(content string) string {
	return fmt.Sprintf("%q", fmt.Sprintf("%.3s-%d", content, len(content)))
}

func (w *web) set(content string, down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.content, w.down = content, down
}

// use is what loads are put to: it holds the last good content.
type use struct {
	mu    sync.Mutex
	now   string
	loads int
}

var errRubbish = errors.New("line 1 is rubbish")

func (u *use) load(path string) (Loaded, error) {
	b, err := os.ReadFile(path)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.loads++
	if err == nil && strings.HasPrefix(string(b), "rubbish") {
		err = errRubbish
	}
	if err != nil {
		return Loaded{}, err
	}
	u.now = string(b)
	return Loaded{Entries: len(b)}, nil
}

func (u *use) holds(t *testing.T, content string, loads int) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.now != content || u.loads != loads {
		t.Errorf("%q is in use after %d loads, want %q after %d", u.now, u.loads, content, loads)
	}
}

func fetcher(t *testing.T, folder string) *Fetcher {
	patience := download.Patience{StallAfter: 10 * time.Second, Attempts: 1, RetryMin: time.Millisecond, RetryMax: time.Millisecond}
	c := download.New(patience, "routevigil/test", func(string) error { return nil }, slog.New(slog.DiscardHandler))
	t.Cleanup(c.Close)
	return &Fetcher{Client: c, Folder: folder, MaxBytes: 1 << 20}
}

func source(t *testing.T, location, folder string, u *use) *Source {
	return New("vrps", location, nil, time.Hour, fetcher(t, folder), u.load, slog.New(slog.DiscardHandler))
}

func (s *Source) is(t *testing.T, state State, entries int, fault string) {
	t.Helper()
	st := s.Status()
	if st.State != state || st.Entries != entries || !strings.Contains(st.LastError, fault) || fault == "" && st.LastError != "" {
		t.Errorf("status %+v, want %s with %d entries and the error %q", st, state, entries, fault)
	}
}

func TestWeb(t *testing.T) {
	w, u, folder := serve(t, "one"), &use{}, t.TempDir()
	address := w.URL + "/file?key=hush"
	s := source(t, address, folder, u)
	if err := s.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.is(t, Missing, 0, "")
	look := func(want error) {
		t.Helper()
		if err := s.look(t.Context()); !errors.Is(err, want) {
			t.Fatalf("error %v, want %v", err, want)
		}
	}
	look(nil)
	u.holds(t, "one", 1)
	s.is(t, Fresh, 3, "")
	st := s.Status()
	if st.Serial != tag("one") || !st.AsOf.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) || st.AgeSeconds < 1 || strings.Contains(st.Location, "hush") {
		t.Errorf("status %+v", st)
	}
	look(nil) // unchanged
	u.holds(t, "one", 1)

	w.set("rubbish", false)
	look(errRubbish)
	u.holds(t, "one", 2)
	s.is(t, Fresh, 3, "line 1 is rubbish")

	w.set("three", false)
	look(nil)
	u.holds(t, "three", 3)
	s.is(t, Fresh, 5, "")
	want := []string{"whole", "unless " + tag("one"), "unless " + tag("one"), "unless " + tag("one")}
	if fmt.Sprint(w.asked) != fmt.Sprint(want) {
		t.Errorf("asked %q, want %q", w.asked, want)
	}

	// Another process, which cannot reach the server, has what there was.
	w.set("three", true)
	u = &use{}
	s = source(t, address, folder, u)
	if err := s.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	u.holds(t, "three", 1)
	s.is(t, Fresh, 5, "")
	if err := s.look(t.Context()); err == nil {
		t.Error("no error of a server that is down")
	}
	u.holds(t, "three", 1)
	s.is(t, Fresh, 5, "403")

	// A copy of another address is none of this one.
	u = &use{}
	s = source(t, w.URL+"/elsewhere", folder, u)
	if err := s.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	u.holds(t, "", 0)

	// Nor is one that has become unreadable.
	if err := os.WriteFile(filepath.Join(folder, "vrps"), []byte("rubbish"), 0o644); err != nil {
		t.Fatal(err)
	}
	s = source(t, address, folder, u)
	if err := s.Begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.is(t, Missing, 0, "")
	w.set("three", false)
	if err := s.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	u.holds(t, "three", 2)

	// What is wrong is told without what may be secret.
	w.Close()
	if err := s.look(t.Context()); err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("error %v of a server that is gone", err)
	}
	s.is(t, Fresh, 5, "connection refused")
}

// A download that was broken off is continued, by whatever process.
func TestResume(t *testing.T) {
	content := strings.Repeat("0123456789", 20_000)
	w, u, folder := serve(t, content), &use{}, t.TempDir()
	path := filepath.Join(folder, "vrps")
	note := fmt.Sprintf(`{"etag":%q,"length":%d}`, tag(content), len(content))
	if err := errors.Join(os.WriteFile(path+".part", []byte(content[:150_000]), 0o644), os.WriteFile(path+".part.json", []byte(note), 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := source(t, w.URL, folder, u).look(t.Context()); err != nil {
		t.Fatal(err)
	}
	u.holds(t, content, 1)
	if want := "[from bytes=150000-]"; fmt.Sprint(w.asked) != want {
		t.Errorf("asked %q, want %s", w.asked, want)
	}
}

func TestTooLarge(t *testing.T) {
	w, u := serve(t, strings.Repeat("x", 1<<20+1)), &use{}
	s := source(t, w.URL, t.TempDir(), u)
	if err := s.look(t.Context()); err == nil {
		t.Error("no error")
	}
	u.holds(t, "", 0)
	s.is(t, Missing, 0, "knowledge.refresh.max_file_bytes is 1048576")
}

func TestFileOfThisMachine(t *testing.T) {
	path, u := filepath.Join(t.TempDir(), "file"), &use{}
	write := func(content string) { // as a careful writer does: with a file that takes the place of the one before
		t.Helper()
		if err := errors.Join(os.WriteFile(path+".new", []byte(content), 0o644), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	s := source(t, path, "", u)
	if err := s.Begin(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	write("one")
	if err := s.Begin(t.Context()); err != nil {
		t.Error(err)
	}
	u.holds(t, "one", 1)
	if err := s.look(t.Context()); err != nil { // unchanged
		t.Error(err)
	}
	u.holds(t, "one", 1)
	write("rubbish")
	for range 2 { // what was held back may be believed the next time
		if err := s.look(t.Context()); !errors.Is(err, errRubbish) {
			t.Errorf("error %v", err)
		}
	}
	u.holds(t, "one", 3)
	s.is(t, Fresh, 3, "rubbish")
	write("three")
	if err := s.look(t.Context()); err != nil {
		t.Error(err)
	}
	u.holds(t, "three", 4)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.look(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	s.is(t, Fresh, 5, "no such file")
	s.set(func(st *Status) { st.Checked = st.Checked.Add(-3*time.Hour - time.Second) })
	s.is(t, Stale, 5, "no such file")
}

func TestRun(t *testing.T) {
	w, u := serve(t, "one"), &use{}
	s := New("vrps", w.URL, nil, 20*time.Millisecond, fetcher(t, t.TempDir()), u.load, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	for _, content := range []string{"one", "two"} {
		w.set(content, false)
		for now := ""; now != content; time.Sleep(time.Millisecond) {
			u.mu.Lock()
			now = u.now
			u.mu.Unlock()
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A file beside the one that is fetched is read with it, and again when it changes.
func TestWith(t *testing.T) {
	w, u, folder := serve(t, "one"), &use{}, t.TempDir()
	beside := filepath.Join(t.TempDir(), "beside")
	s := New("vrps", w.URL, []string{beside}, time.Hour, fetcher(t, folder), u.load, slog.New(slog.DiscardHandler))
	if err := s.Begin(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	for i, content := range []string{"a", "ab", "ab"} {
		if err := os.WriteFile(beside, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(beside, time.Time{}, time.Unix(int64(len(content)), 0)); err != nil {
			t.Fatal(err)
		}
		if err := s.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		u.holds(t, "one", min(i+1, 2))
	}
	if want := fmt.Sprintf("[whole unless %s unless %[1]s]", tag("one")); fmt.Sprint(w.asked) != want {
		t.Errorf("asked %q, want %s", w.asked, want)
	}
}

// told is a follower that says what it is told to.
type told struct {
	kept    Loaded
	current time.Time
	next    Loaded
	err     error
}

func (f *told) Begin() (Loaded, time.Time)             { return f.kept, f.current }
func (f *told) Follow(context.Context) (Loaded, error) { return f.next, f.err }

// What a follower has is in use, also what came before an error, but only an answer without one confirms it.
func TestFollowed(t *testing.T) {
	now, old := time.Now(), time.Now().Add(-24*time.Hour)
	f := &told{}
	s := NewFollowed("irr-x", "https://irr.example/x?key=hush", time.Hour, f, slog.New(slog.DiscardHandler))
	step := func(state State, entries int, serial, fault string, confirmed bool) {
		t.Helper()
		before := s.Status().Checked
		err := s.look(t.Context())
		if st := s.Status(); (err != nil) != (fault != "") || st.State != state || st.Entries != entries || st.Serial != serial || st.LastError != fault ||
			st.Checked.After(before) != confirmed || st.Location != "https://irr.example/x" {
			t.Errorf("%+v, %v, checked %v before", st, err, before)
		}
	}
	if err := s.Begin(t.Context()); err != nil || s.Status().State != Missing {
		t.Errorf("%+v, %v", s.Status(), err)
	}
	f.err = errors.New("away")
	step(Missing, 0, "", "away", false)
	f.next, f.err = Loaded{1, now, "1"}, nil
	step(Fresh, 1, "1", "", true)
	step(Fresh, 1, "1", "", true)
	f.next, f.err = Loaded{2, now, "2"}, errors.New("cut")
	step(Fresh, 2, "2", "cut", false)

	f = &told{kept: Loaded{3, old, "3"}, current: old, next: Loaded{3, old, "3"}, err: errors.New("away")}
	s = NewFollowed("irr-x", "https://irr.example/x", time.Hour, f, slog.New(slog.DiscardHandler))
	if err := s.Begin(t.Context()); err != nil {
		t.Error(err)
	}
	step(Stale, 3, "3", "away", false)
	f.err = nil
	step(Fresh, 3, "3", "", true)
}
