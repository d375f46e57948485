package fetch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func urls(files []File) (all []string) {
	for _, f := range files {
		all = append(all, f.URL)
	}
	return all
}

// The files of a request, told by the broker and told by the listings alone.
func TestPlanAndFetch(t *testing.T) {
	a := newArchives(t)
	ris, sg, rv2 := "/ris/rrc00/2024.01/", "/rv/route-views.sg/bgpdata/2024.01/", "/rv/bgpdata/2024.01/"
	a.add(ris, every("updates", ".gz", "2024-01-01 00:00", "2024-01-02 00:00", 5*time.Minute)...)
	a.add(ris, every("bview", ".gz", "2024-01-01 00:00", "2024-01-02 00:00", 8*time.Hour)...)
	a.add("/ris/rrc00/2023.12/", "updates.20231231.2350.gz", "updates.20231231.2355.gz", "bview.20231231.1600.gz")
	for _, folder := range []string{sg, rv2} {
		a.add(folder+"UPDATES/", every("updates", ".bz2", "2024-01-01 00:00", "2024-01-01 12:00", 15*time.Minute)...)
		a.add(folder+"RIBS/", every("rib", ".bz2", "2024-01-01 00:00", "2024-01-01 12:00", 2*time.Hour)...)
	}
	for _, row := range []struct {
		name string
		r    Request
		want []string
	}{
		{
			"RIS, from a table on",
			Request{Collectors: []string{"rrc00"}, From: at("2024-01-01 08:00"), To: at("2024-01-01 08:15"), RIB: true, Updates: true},
			[]string{ris + "bview.20240101.0800.gz", ris + "updates.20240101.0800.gz", ris + "updates.20240101.0805.gz", ris + "updates.20240101.0810.gz"},
		}, {
			"the updates since the table belong to it, and what overlaps the end",
			Request{Collectors: []string{"rrc00"}, From: at("2024-01-01 08:11"), To: at("2024-01-01 08:16"), RIB: true, Updates: true},
			[]string{ris + "bview.20240101.0800.gz", ris + "updates.20240101.0800.gz", ris + "updates.20240101.0805.gz", ris + "updates.20240101.0810.gz",
				ris + "updates.20240101.0815.gz"},
		}, {
			"updates only: the file that the period begins in, and not the one that begins as it ends",
			Request{Collectors: []string{"rrc00"}, From: at("2024-01-01 08:04"), To: at("2024-01-01 08:10"), Updates: true},
			[]string{ris + "updates.20240101.0800.gz", ris + "updates.20240101.0805.gz"},
		}, {
			"over the end of a month",
			Request{Collectors: []string{"rrc00"}, From: at("2023-12-31 23:57"), To: at("2024-01-01 00:01"), Updates: true},
			[]string{"/ris/rrc00/2023.12/updates.20231231.2355.gz", ris + "updates.20240101.0000.gz"},
		}, {
			"the last table of the month before",
			Request{Collectors: []string{"rrc00"}, From: at("2023-12-31 23:59"), To: at("2024-01-01 00:01"), RIB: true},
			[]string{"/ris/rrc00/2023.12/bview.20231231.1600.gz"},
		}, {
			"in another time zone",
			Request{Collectors: []string{"rrc00"}, From: at("2024-01-01 08:00").In(time.FixedZone("", 9*3600)), To: at("2024-01-01 08:05"), Updates: true},
			[]string{ris + "updates.20240101.0800.gz"},
		}, {
			"both projects, a collector named twice",
			Request{Collectors: []string{"route-views.sg", "rrc00", "route-views2", "rrc00"}, From: at("2024-01-01 02:00"), To: at("2024-01-01 02:05"), Updates: true},
			[]string{sg + "UPDATES/updates.20240101.0200.bz2", ris + "updates.20240101.0200.gz", rv2 + "UPDATES/updates.20240101.0200.bz2"},
		}, {
			"RouteViews' first collector has no folder of its own",
			Request{Collectors: []string{"route-views2"}, From: at("2024-01-01 02:16"), To: at("2024-01-01 02:17"), RIB: true, Updates: true},
			[]string{rv2 + "RIBS/rib.20240101.0200.bz2", rv2 + "UPDATES/updates.20240101.0200.bz2", rv2 + "UPDATES/updates.20240101.0215.bz2"},
		},
	} {
		for _, broker := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, broker %t", row.name, broker), func(t *testing.T) {
				var want []string
				for _, p := range row.want {
					want = append(want, a.host+p)
				}
				cfg := a.configuration()
				if !broker {
					cfg.Broker = ""
				}
				a.asked()
				c := newClient(t, cfg)
				planned, err := c.Plan(t.Context(), row.r)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, urls(planned)); diff != "" {
					t.Fatalf("-want +got:\n%s", diff)
				}
				for _, p := range a.asked() {
					if listing := strings.HasSuffix(p, "/"); listing == broker {
						t.Errorf("asked for %s", p)
					}
				}
				files, err := c.Fetch(t.Context(), row.r)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(planned, files); diff != "" {
					t.Fatalf("-planned +fetched:\n%s", diff)
				}
				var octets int64
				for i, f := range files {
					content := a.files[row.want[i]]
					holds(t, f.Path, content)
					octets += int64(len(content))
				}
				if done, total := c.Progress(); done != octets || total < done {
					t.Errorf("progress %d of %d, want %d", done, total, octets)
				}
				a.asked()
				if _, err := newClient(t, cfg).Fetch(t.Context(), row.r); err != nil {
					t.Fatal(err)
				}
				for _, p := range a.asked() {
					if _, ok := parseName(filepath.Base(p)); ok {
						t.Errorf("fetched %s again", p)
					}
				}
			})
		}
	}
}

func TestWhereFilesAreKept(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", cache)
	t.Setenv("HOME", cache)
	root, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	a := newArchives(t)
	a.add("/ris/rrc00/2024.01/", "updates.20240101.0000.gz")
	a.add("/rv/crix.sjo/bgpdata/2024.01/UPDATES/", "updates.20240101.0000.bz2")
	cfg := a.configuration()
	cfg.Directory = ""
	files, err := newClient(t, cfg).Fetch(t.Context(), Request{Collectors: []string{"rrc00", "crix.sjo"}, From: at("2024-01-01 00:00"), To: at("2024-01-01 00:05"), Updates: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"ris/rrc00/2024.01/updates.20240101.0000.gz", "routeviews/crix.sjo/2024.01/updates.20240101.0000.bz2"} {
		if want := filepath.Join(root, "routevigil/archive", want); files[i].Path != want {
			t.Errorf("%s, want %s", files[i].Path, want)
		}
	}
}

// oneFile is a request for a single file of some size, which is at path.
func oneFile(a *archives, size int) (r Request, path string, content []byte) {
	path = "/ris/rrc00/2024.01/updates.20240101.0000.gz"
	a.files[path] = mrtFile(a.t, Updates, at("2024-01-01 00:00"), size)
	return Request{Collectors: []string{"rrc00"}, From: at("2024-01-01 00:00"), To: at("2024-01-01 00:05"), Updates: true}, path, a.files[path]
}

// ranges returns what Range and If-Range the requests for path had.
func (a *archives) ranges(path string) (all [][2]string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.requests {
		if r.URL.Path == path {
			all = append(all, [2]string{r.Header.Get("Range"), r.Header.Get("If-Range")})
		}
	}
	return all
}

func TestResume(t *testing.T) {
	a := newArchives(t)
	r, path, content := oneFile(a, 3<<20)
	half := len(content) / 2
	a.fault(path, cut(content, half), func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	files, err := newClient(t, a.configuration()).Fetch(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	holds(t, files[0].Path, content)
	got := a.ranges(path)
	if len(got) != 3 || got[0][0] != "" || !strings.HasPrefix(got[1][0], "bytes=") || got[1][1] == "" {
		t.Fatalf("asked for %v", got)
	}
	// What was on its way when the connection was reset may be lost.
	var from int
	if _, err := fmt.Sscanf(got[2][0], "bytes=%d-", &from); err != nil || from == 0 || from > half {
		t.Errorf("continued at %d, the connection was cut at %d", from, half)
	}
}

// A file that comes on, however slowly, is not given up, but one that does not is.
func TestAttempts(t *testing.T) {
	a := newArchives(t)
	r, path, content := oneFile(a, 6<<20)
	more := func(w http.ResponseWriter, r *http.Request) { // a bit more than a MiB each time
		var from int
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
		w.Header().Set("ETag", `"v1"`)
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
			w.WriteHeader(http.StatusPartialContent)
		}
		w.Write(content[from:min(len(content), from+1300<<10)])
	}
	a.fault(path, more, more, more, more, more, more, more)
	cfg := a.configuration()
	cfg.Attempts = 2
	files, err := newClient(t, cfg).Fetch(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	holds(t, files[0].Path, content)

	a.asked()
	cfg = a.configuration()
	cfg.Attempts = 3
	refuse := say(http.StatusInternalServerError, "")
	a.faults[path] = []http.HandlerFunc{refuse, refuse, refuse, refuse}
	_, err = newClient(t, cfg).Fetch(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), path+": given up after 3 attempts: the server says 500") {
		t.Errorf("error %v", err)
	}
	if n := len(a.ranges(path)); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

func TestChangedOnTheServerStartsOver(t *testing.T) {
	a := newArchives(t)
	r, path, content := oneFile(a, 200<<10)
	old := mrtFile(t, Updates, at("2023-01-01 00:00"), 300<<10)
	a.fault(path, cut(old, len(old)/2))
	files, err := newClient(t, a.configuration()).Fetch(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	holds(t, files[0].Path, content)
}

// Servers that do not keep to RFC 9110 do not make us mix two versions.
func TestWrongAnswersToRanges(t *testing.T) {
	for name, answer := range map[string]func(content []byte, from int) http.HandlerFunc{
		"another part": func(content []byte, from int) http.HandlerFunc {
			return say(http.StatusPartialContent, string(content[from+1:]), fmt.Sprintf("Content-Range: bytes %d-%d/%d", from+1, len(content)-1, len(content)))
		},
		"a part of another length": func(content []byte, from int) http.HandlerFunc {
			return say(http.StatusPartialContent, string(content[from:]), fmt.Sprintf("Content-Range: bytes %d-%d/%d", from, len(content), len(content)+1))
		},
		"a part of another version": func(content []byte, from int) http.HandlerFunc {
			return say(http.StatusPartialContent, string(content[from:]), fmt.Sprintf("Content-Range: bytes %d-%d/%d", from, len(content)-1, len(content)), `ETag: "other"`)
		},
		"no place": func(content []byte, from int) http.HandlerFunc {
			return say(http.StatusPartialContent, string(content[from:]))
		},
		"nothing": func(content []byte, from int) http.HandlerFunc {
			return say(http.StatusRequestedRangeNotSatisfiable, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newArchives(t)
			r, path, content := oneFile(a, 256<<10)
			a.fault(path, cut(content, len(content)/2), func(w http.ResponseWriter, r *http.Request) {
				var from int
				if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err != nil {
					t.Errorf("Range: %q", r.Header.Get("Range"))
				}
				answer(content, from)(w, r)
			})
			files, err := newClient(t, a.configuration()).Fetch(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			holds(t, files[0].Path, content)
			if got := a.ranges(path); len(got) != 3 || got[2][0] != "" {
				t.Errorf("asked for %v, want a start from the beginning at the end", got)
			}
		})
	}
}

// What came is not what it should be: once, and always.
func TestNoGood(t *testing.T) {
	table := "/ris/rrc00/2024.01/bview.20240101.0000.gz"
	updates := "/ris/rrc00/2024.01/updates.20240101.0000.gz"
	content := string(mrtFile(t, Updates, at("2024-01-01 00:00"), 4<<10))
	for _, row := range []struct {
		name, path, body, want string
	}{
		{"cut off as it is", updates, content[:len(content)-9], "the file received is no good: cut off"},
		{"a page", updates, "<html><body>Under maintenance</body></html>", "the file received is no good: not an MRT file"},
		{"no octet", updates, "", "the file received is no good: empty"},
		{"a table of nothing", table, "BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00", "the file received is no good: empty, which no table is"},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := newArchives(t)
			a.add("/ris/rrc00/2024.01/", "updates.20240101.0000.gz", "bview.20240101.0000.gz")
			r := Request{Collectors: []string{"rrc00"}, From: at("2024-01-01 00:00"), To: at("2024-01-01 00:05"), RIB: row.path == table, Updates: row.path == updates}
			a.fault(row.path, say(200, row.body))
			files, err := newClient(t, a.configuration()).Fetch(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			holds(t, files[0].Path, a.files[row.path])

			a.files[row.path] = []byte(row.body)
			a.asked()
			cfg := a.configuration()
			cfg.Attempts = 2
			c := newClient(t, cfg)
			planned, err := c.Plan(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			if files, err = c.Fetch(t.Context(), r); err == nil || !strings.Contains(err.Error(), row.want) || len(files) != 0 {
				t.Errorf("%v, error %v", files, err)
			}
			if n := len(a.ranges(row.path)); n != 2 {
				t.Errorf("%d requests, want 2", n)
			}
			if _, err := os.Stat(planned[0].Path); err == nil {
				t.Error("what is no good is kept")
			}
			nothingLeft(t, planned[0].Path)
		})
	}
}

// A collector that heard nothing publishes an empty bzip2 stream.
func TestEmptyUpdates(t *testing.T) {
	a := newArchives(t)
	path := "/rv/route-views.sg/bgpdata/2024.01/UPDATES/updates.20240101.0000.bz2"
	a.files[path] = []byte("BZh9\x17\x72\x45\x38\x50\x90\x00\x00\x00\x00")
	files, err := newClient(t, a.configuration()).Fetch(t.Context(), Request{Collectors: []string{"route-views.sg"}, From: at("2024-01-01 00:00"), To: at("2024-01-01 00:15"), Updates: true})
	if err != nil {
		t.Fatal(err)
	}
	holds(t, files[0].Path, a.files[path])
}

// One file that cannot be had does not hold up the others.
func TestOneOfManyFails(t *testing.T) {
	a := newArchives(t)
	a.add("/ris/rrc00/2024.01/", every("updates", ".gz", "2024-01-01 00:00", "2024-01-01 00:30", 5*time.Minute)...)
	bad := "/ris/rrc00/2024.01/updates.20240101.0010.gz"
	a.fault(bad, say(http.StatusForbidden, ""))
	files, err := newClient(t, a.configuration()).Fetch(t.Context(), Request{Collectors: []string{"rrc00"}, From: at("2024-01-01 00:00"), To: at("2024-01-01 00:30"), Updates: true})
	if err == nil || err.Error() != a.host+bad+": the server says 403 Forbidden" || len(files) != 5 {
		t.Errorf("%d files, error %v", len(files), err)
	}
	for _, f := range files {
		holds(t, f.Path, a.files[strings.TrimPrefix(f.URL, a.host)])
	}
}

func TestRedirections(t *testing.T) {
	var elsewhere atomic.Int64
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { elsewhere.Add(1) }))
	defer evil.Close()
	a := newArchives(t)
	r, path, content := oneFile(a, 1<<10)
	a.files["/moved/here.gz"] = content
	a.fault(path, say(http.StatusFound, "", "Location: /moved/here.gz"))
	files, err := newClient(t, a.configuration()).Fetch(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	holds(t, files[0].Path, content)

	for location, want := range map[string]string{
		evil.URL + "/updates.gz": "no configured archive",
		"file:///etc/passwd":     "not https",
		path:                     "more than five times",
	} {
		again := say(http.StatusFound, "", "Location: "+location)
		a.faults[path] = slices.Repeat([]http.HandlerFunc{again}, 10)
		_, err := newClient(t, a.configuration()).Fetch(t.Context(), r)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "attempts") {
			t.Errorf("to %s: error %v, want one with %q at the first attempt", location, err, want)
		}
	}
	if elsewhere.Load() != 0 {
		t.Error("another server was asked")
	}
}

func TestLimits(t *testing.T) {
	a := newArchives(t)
	r, path, content := oneFile(a, 2<<20)
	cfg := a.configuration()
	cfg.MaxFileBytes = 1 << 20
	chunked := func(w http.ResponseWriter, r *http.Request) { // without Content-Length
		w.(http.Flusher).Flush()
		w.Write(content)
	}
	for name, fault := range map[string]http.HandlerFunc{"announced": nil, "not announced": chunked} {
		a.faults[path] = []http.HandlerFunc{fault}
		c := newClient(t, cfg)
		_, err := c.Fetch(t.Context(), r)
		if err == nil || !strings.Contains(err.Error(), "archive.max_file_bytes is 1048576") {
			t.Errorf("%s: error %v", name, err)
		}
		empty(t, cfg.Directory)
		if received, _ := c.Progress(); received > 3<<19 || fault == nil && received > 0 {
			t.Errorf("%s: received %d octets", name, received)
		}
	}

	// The total is of all files; what was cut off is kept for the next time.
	a.add("/ris/rrc00/2024.01/", every("updates", ".gz", "2024-01-01 00:05", "2024-01-01 02:00", 5*time.Minute)...)
	r.To = at("2024-01-01 02:00")
	cfg = a.configuration()
	cfg.MaxFileBytes, cfg.MaxTotalBytes, cfg.Parallel = 3<<20, 3<<20, 1
	for p := range a.files {
		a.files[p] = content
	}
	files, err := newClient(t, cfg).Fetch(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "23 of 24 files are missing") || !strings.Contains(err.Error(), "archive.max_total_bytes (3145728)") || len(files) != 1 {
		t.Errorf("%d files, error %v", len(files), err)
	}
	if files, err = newClient(t, cfg).Fetch(t.Context(), r); err == nil || len(files) != 2 {
		t.Errorf("at the second time: %d files, error %v", len(files), err)
	}
}

func empty(t *testing.T, dir string) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("%s is left over", path)
		}
		return err
	})
}

// What cannot be written is not tried again, and says where.
func TestNoPlace(t *testing.T) {
	a := newArchives(t)
	r, path, _ := oneFile(a, 1<<10)
	cfg := a.configuration()
	if err := os.WriteFile(filepath.Join(cfg.Directory, "ris"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := newClient(t, cfg).Fetch(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), filepath.Join(cfg.Directory, "ris")) {
		t.Errorf("error %v", err)
	}
	if n := len(a.ranges(path)); n != 0 {
		t.Errorf("%d requests", n)
	}
}

// Interrupted, a download stops at once, and goes on in the next process from where it was.
func TestInterrupted(t *testing.T) {
	a := newArchives(t)
	r, path, content := oneFile(a, 1<<20)
	half := len(content) / 2
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	cfg := a.configuration()
	a.fault(path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Header().Set("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
		w.Write(content[:half])
		w.(http.Flusher).Flush()
		for { // until it has arrived
			info, err := os.Stat(filepath.Join(cfg.Directory, "ris/rrc00/2024.01/updates.20240101.0000.gz.part"))
			if err == nil && info.Size() == int64(half) {
				break
			}
			select {
			case <-r.Context().Done():
				return
			case <-time.After(time.Millisecond):
			}
		}
		cancel(interrupted)
		<-r.Context().Done()
	})
	if _, err := newClient(t, cfg).Fetch(ctx, r); !errors.Is(err, interrupted) {
		t.Fatalf("error %v", err)
	}
	a.asked()
	files, err := newClient(t, cfg).Fetch(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	holds(t, files[0].Path, content)
	want := [][2]string{{fmt.Sprintf("bytes=%d-", half), "Mon, 01 Jan 2024 00:00:00 GMT"}}
	if diff := cmp.Diff(want, a.ranges(path)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// All of it had arrived when the process ended, so nothing is asked for.
func TestArrivedButNotChecked(t *testing.T) {
	a := newArchives(t)
	r, path, content := oneFile(a, 1<<10)
	cfg := a.configuration()
	c := newClient(t, cfg)
	planned, err := c.Plan(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	part := planned[0].Path + ".part"
	if err := errors.Join(os.MkdirAll(filepath.Dir(part), 0o700), os.WriteFile(part, content, 0o600),
		os.WriteFile(part+".json", fmt.Appendf(nil, `{"etag":"\"v1\"","length":%d}`, len(content)), 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fetch(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	holds(t, planned[0].Path, content)
	if n := len(a.ranges(path)); n != 0 {
		t.Errorf("%d requests", n)
	}
	// A part of which nothing is known is not continued.
	os.Remove(planned[0].Path)
	if err := os.WriteFile(part, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Fetch(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	holds(t, planned[0].Path, content)
	if got := a.ranges(path); len(got) != 1 || got[0][0] != "" {
		t.Errorf("asked for %v", got)
	}
}

// A lock is held by an open file, so that two clients stand for two processes.
func TestTwoAtOnce(t *testing.T) {
	a := newArchives(t)
	a.add("/ris/rrc00/2024.01/", every("updates", ".gz", "2024-01-01 00:00", "2024-01-01 01:00", 5*time.Minute)...)
	for p := range a.files {
		a.files[p] = mrtFile(t, Updates, at("2024-01-01 00:00"), 256<<10)
	}
	cfg := a.configuration()
	r := Request{Collectors: []string{"rrc00"}, From: at("2024-01-01 00:00"), To: at("2024-01-01 01:00"), Updates: true}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			files, err := newClient(t, cfg).Fetch(t.Context(), r)
			if err != nil || len(files) != 12 {
				t.Errorf("%d files, error %v", len(files), err)
			}
		})
	}
	wg.Wait()
	times := map[string]int{}
	for _, p := range a.asked() {
		if _, ok := parseName(filepath.Base(p)); ok {
			times[p]++
		}
	}
	for p, content := range a.files {
		if times[p] != 1 {
			t.Errorf("%s was fetched %d times", p, times[p])
		}
		holds(t, filepath.Join(cfg.Directory, strings.TrimPrefix(p, "/")), content)
	}
}

func TestRequests(t *testing.T) {
	good := Request{Collectors: []string{"rrc00"}, From: at("2024-01-01 00:00"), To: at("2024-01-02 00:00"), RIB: true}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Request){
		"no collector":                                  func(r *Request) { r.Collectors = nil },
		`"../rrc00" is not the name`:                    func(r *Request) { r.Collectors = []string{"../rrc00"} },
		`"" is not the name`:                            func(r *Request) { r.Collectors = []string{""} },
		`"a..b" is not the name`:                        func(r *Request) { r.Collectors = []string{"a..b"} },
		`"rrc00/x" is not the name`:                     func(r *Request) { r.Collectors = []string{"rrc00/x"} },
		`"RRC00" is not the name`:                       func(r *Request) { r.Collectors = []string{"RRC00"} },
		"201 collectors":                                func(r *Request) { r.Collectors = make([]string, 201) },
		"neither":                                       func(r *Request) { r.RIB = false },
		"the period ends (2024-01-01T00:00:00Z) before": func(r *Request) { r.To = r.From },
		"longer than 366 days":                          func(r *Request) { r.To = at("2025-02-01 00:00") },
		"no archives before 1999-01-01":                 func(r *Request) { r.From = time.Time{} },
	} {
		r := good
		change(&r)
		if err := r.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestConfiguration(t *testing.T) {
	for want, change := range map[string]func(*Configuration){
		"broker: ":                     func(c *Configuration) { c.Broker = "ftp://example.net" },
		"ris: ":                        func(c *Configuration) { c.RIS = "" },
		"routeviews: ":                 func(c *Configuration) { c.RouteViews = "https://user:secret@example.net" },
		"parallel: ":                   func(c *Configuration) { c.Parallel = 17 },
		"max_file_bytes: ":             func(c *Configuration) { c.MaxFileBytes = 0 },
		"max_total_bytes: ":            func(c *Configuration) { c.MaxTotalBytes = c.MaxFileBytes - 1 },
		"stall_after: ":                func(c *Configuration) { c.StallAfter = 0 },
		"attempts: ":                   func(c *Configuration) { c.Attempts = 0 },
		"retry_min: ":                  func(c *Configuration) { c.RetryMin = 0 },
		"retry_max: must not be less ": func(c *Configuration) { c.RetryMax = time.Millisecond },
	} {
		c := DefaultConfiguration()
		change(&c)
		if err := c.Validate(); err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

// logged makes a client whose log is kept.
func logged(t *testing.T, c Configuration) (*Client, *bytes.Buffer) {
	var log bytes.Buffer
	client, err := New(c, "routevigil/test", slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client, &log
}
