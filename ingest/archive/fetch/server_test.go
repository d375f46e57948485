package fetch

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/mrt"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// archives is a server that speaks as RIS' archive does under /ris, as RouteViews' under /rv, and as
// bgpkit-broker under /broker.
type archives struct {
	t     *testing.T
	host  string // "http://…"
	mu    sync.Mutex
	files map[string][]byte // by path
	// faults are how the next requests for a path go wrong, one after the other; nil: that one goes well.
	faults   map[string][]http.HandlerFunc
	requests []*http.Request
	broker   func(page int, of []item) any // changes the broker's answers
}

// item is a file as the broker describes it.
type item struct {
	Start     string `json:"ts_start"`
	End       string `json:"ts_end"`
	Collector string `json:"collector_id"`
	Type      string `json:"data_type"`
	URL       string `json:"url"`
	RoughSize int64  `json:"rough_size"`
	ExactSize int64  `json:"exact_size"`
}

func newArchives(t *testing.T) *archives {
	a := &archives{t: t, files: map[string][]byte{}, faults: map[string][]http.HandlerFunc{}}
	s := httptest.NewServer(a)
	t.Cleanup(s.Close)
	a.host = s.URL
	return a
}

// configuration has a fresh folder, and patience that suits a test.
func (a *archives) configuration() Configuration {
	c := DefaultConfiguration()
	c.Broker, c.RIS, c.RouteViews, c.Directory = a.host+"/broker", a.host+"/ris", a.host+"/rv", a.t.TempDir()
	c.RetryMin, c.RetryMax, c.StallAfter = time.Millisecond, 4*time.Millisecond, time.Minute
	return c
}

func newClient(t *testing.T, c Configuration) *Client {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	client, err := New(c, "routevigil/test", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// fault makes the next request for a path go wrong.
func (a *archives) fault(path string, h ...http.HandlerFunc) {
	a.faults[path] = append(a.faults[path], h...)
}

// asked returns the paths of the requests so far, and forgets them.
func (a *archives) asked() (paths []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.requests {
		paths = append(paths, r.URL.Path)
	}
	a.requests = nil
	return paths
}

func (a *archives) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.requests = append(a.requests, r)
	var fault http.HandlerFunc
	if f := a.faults[r.URL.Path]; len(f) > 0 {
		fault, a.faults[r.URL.Path] = f[0], f[1:]
	}
	content, ok := a.files[r.URL.Path]
	a.mu.Unlock()
	switch {
	case fault != nil:
		fault(w, r)
	case ok:
		a.serve(w, r, content)
	case r.URL.Path == "/broker/search":
		a.search(w, r.URL.Query())
	case strings.HasSuffix(r.URL.Path, "/"):
		a.list(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (a *archives) serve(w http.ResponseWriter, r *http.Request, content []byte) {
	w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(content)))
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), bytes.NewReader(content))
}

// list lists a folder, as nginx does for RIS and Apache for RouteViews.
func (a *archives) list(w http.ResponseWriter, r *http.Request) {
	var names []string
	for p := range a.files {
		if path.Dir(p)+"/" == r.URL.Path {
			names = append(names, path.Base(p))
		}
	}
	if len(names) == 0 {
		http.NotFound(w, r)
		return
	}
	slices.Sort(names)
	if strings.HasPrefix(r.URL.Path, "/ris/") {
		fmt.Fprintf(w, "<html>\n<head><title>Index of %s</title></head>\n<body>\n<h1>Index of %[1]s</h1><hr><pre><a href=\"../\">../</a>\n", r.URL.Path)
		for _, n := range names {
			fmt.Fprintf(w, "<a href=\"%s\">%[1]s</a>      01-Jan-2024 00:05     12M\n", n)
		}
		fmt.Fprint(w, "</pre><hr></body>\n</html>\n")
		return
	}
	fmt.Fprintf(w, "<!DOCTYPE HTML PUBLIC \"-//W3C//DTD HTML 3.2 Final//EN\">\n<html><body><h1>Index of %s</h1>\n<table>\n"+
		"<tr><th valign=\"top\"><img src=\"/icons/blank.gif\" alt=\"[ICO]\"></th><th><a href=\"?C=N;O=D\">Name</a></th></tr>\n"+
		"<tr><td><a href=\"%s/\">Parent Directory</a></td></tr>\n", r.URL.Path, path.Dir(path.Dir(r.URL.Path)))
	for _, n := range names {
		fmt.Fprintf(w, "<tr><td valign=\"top\"></td><td><a href=\"%s\">%s..&gt;</a></td><td align=\"right\">2024-01-01 00:15  </td><td align=\"right\"> 14 </td></tr>\n", n, n[:20])
	}
	fmt.Fprint(w, "</table></body></html>\n")
}

// search answers as the broker does, at most two files a page so that there are pages.
func (a *archives) search(w http.ResponseWriter, q url.Values) {
	const most = 2
	number := func(key string) int {
		n, err := strconv.Atoi(q.Get(key))
		if err != nil {
			a.t.Errorf("the broker is asked with %s=%q", key, q.Get(key))
		}
		return n
	}
	from, to, page := number("ts_start"), number("ts_end"), number("page")
	kind := map[string]Kind{"rib": RIB, "updates": Updates}[q.Get("data_type")]
	items := []item{}
	for p := range a.files {
		n, ok := parseName(path.Base(p))
		if !ok || n.kind != kind || !strings.Contains(p, "/"+q.Get("collector_id")+"/") && !(q.Get("collector_id") == "route-views2" && strings.HasPrefix(p, "/rv/bgpdata/")) {
			continue
		}
		if n.start.Unix() < int64(from) || n.start.Unix() >= int64(to) {
			continue
		}
		items = append(items, item{n.start.Format("2006-01-02T15:04:05"), n.start.Format("2006-01-02T15:04:05"), q.Get("collector_id"), q.Get("data_type"), a.host + p, 12 << 20, 0})
	}
	slices.SortFunc(items, func(x, y item) int { return strings.Compare(x.Start, y.Start) })
	if a.broker != nil {
		json.NewEncoder(w).Encode(a.broker(page, items))
		return
	}
	items = items[min(len(items), (page-1)*most):]
	items = items[:min(len(items), most)]
	json.NewEncoder(w).Encode(map[string]any{"count": len(items), "page": page, "page_size": most, "error": nil, "data": items})
}

// A file of an archive: a table or some updates, and noise that does not compress to give it some size.
func mrtFile(t testing.TB, kind Kind, start time.Time, size int) []byte {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	w := mrt.NewWriter(z)
	at := ingest.TimeOf(start)
	peer := ingest.Peer{ASN: 64500, Addr: netip.MustParseAddr("192.0.2.1")}
	noise := rand.New(rand.NewPCG(uint64(start.Unix()), uint64(kind)))
	route := func() ingest.Update {
		a := noise.Uint32()
		u := ingest.Update{Time: at, Peer: peer, Announced: []bgp.NLRI{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(a >> 16), byte(a >> 8), 0}), 24)}}}
		path, err := bgp.ParseASPath(fmt.Sprintf("64500 %d %d", 1+noise.Uint32N(1<<30), 1+noise.Uint32N(1<<30)))
		if err != nil {
			t.Fatal(err)
		}
		u.Attrs.Has = bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop | bgp.HasCommunities
		u.Attrs.ASPath, u.Attrs.NextHop = path, peer.Addr
		for range 50 {
			u.Attrs.Communities = append(u.Attrs.Communities, noise.Uint32())
		}
		return u
	}
	if kind == RIB {
		rows := []ingest.Update{route(), route()}
		if err := w.RIB(at, "test", rows); err != nil {
			t.Fatal(err)
		}
	} else {
		for b.Len() < size || size == 0 {
			u := route()
			if err := w.Update(&u); err != nil {
				t.Fatal(err)
			}
			if size == 0 {
				break
			}
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// add puts files of the given names into a folder.
func (a *archives) add(folder string, names ...string) {
	for _, n := range names {
		parsed, ok := parseName(n)
		if !ok {
			a.t.Fatalf("%q is not a name", n)
		}
		a.files[folder+n] = mrtFile(a.t, parsed.kind, parsed.start, 0)
	}
}

// every returns the names of files from one time up to another.
func every(kind, ext string, from, to string, step time.Duration) (names []string) {
	end := at(to)
	for t := at(from); t.Before(end); t = t.Add(step) {
		names = append(names, kind+"."+t.Format("20060102.1504")+ext)
	}
	return names
}

// at reads "2024-01-01 00:00".
func at(s string) time.Time {
	t, err := time.Parse("2006-01-02 15:04", s)
	if err != nil {
		panic(err)
	}
	return t
}

// cut answers with the whole header and a part of the content, and drops the connection.
func cut(content []byte, n int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(content)))
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		w.Write(content[:n])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

// say answers with a status, headers ("Name: value") and a body.
func say(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

// holds fails unless the file at path holds content and nothing is beside it that is not a whole file.
func holds(t *testing.T, path string, content []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, content) {
		t.Errorf("%s has %d octets, not the %d that the archive has", path, len(got), len(content))
	}
	nothingLeft(t, path)
}

func nothingLeft(t *testing.T, path string) {
	t.Helper()
	for _, left := range []string{path + ".part", path + ".part.json"} {
		if _, err := os.Lstat(left); err == nil {
			t.Errorf("%s is left over", left)
		}
	}
}
