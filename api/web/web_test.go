package web

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
)

var build = fstest.MapFS{
	"index.html":               {Data: []byte("<!doctype html><title>dashboard</title>")},
	"embed.html":               {Data: []byte("<!doctype html><title>embed</title>")},
	"assets/index-B1gH4sh.js":  {Data: []byte("export {}")},
	"assets/style-B1gH4sh.css": {Data: []byte("p{}")},
	"assets/icon-B1gH4sh.svg":  {Data: []byte("<svg/>")},
	".gitkeep":                 {},
}

func request(t *testing.T, h http.Handler, method, target string, header http.Header) *http.Response {
	t.Helper()
	r := httptest.NewRequest(method, target, nil)
	for name, values := range header {
		r.Header[name] = values
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func TestHandler(t *testing.T) {
	const (
		forever    = "public, max-age=31536000, immutable"
		revalidate = "no-cache"
		html       = "text/html; charset=utf-8"
	)
	h := handler(build)
	for _, test := range []struct {
		name, target             string
		status                   int
		contentType, cache, body string
	}{
		{"front page", "/", 200, html, revalidate, "dashboard"},
		{"filter", "/?asn=64500&status=open", 200, html, revalidate, "dashboard"},
		{"incident", "/incidents/inc_7Q2M5ZJ3XW4VNTGA", 200, html, revalidate, "dashboard"},
		{"feeds", "/feeds", 200, html, revalidate, "dashboard"},
		{"prefix with its slash", "/prefixes/192.0.2.0/24", 200, html, revalidate, "dashboard"},
		{"IPv6 prefix", "/prefixes/2001:db8::/32", 200, html, revalidate, "dashboard"},
		{"embed", "/embed/incidents?asn=64500", 200, html, revalidate, "embed"},
		{"script", "/assets/index-B1gH4sh.js", 200, "text/javascript; charset=utf-8", forever, "export"},
		{"style sheet", "/assets/style-B1gH4sh.css", 200, "text/css; charset=utf-8", forever, "p{}"},
		{"icon", "/assets/icon-B1gH4sh.svg", 200, "image/svg+xml", forever, "<svg/>"},
		{"asset of another build", "/assets/index-0ld.js", 404, "text/plain; charset=utf-8", "", "404"},
		{"unknown embed", "/embed/other", 404, "text/plain; charset=utf-8", "", "404"},
		{"unknown page", "/incident", 404, html, revalidate, "dashboard"},
		{"folder without a name", "/incidents/", 404, html, revalidate, "dashboard"},
		{"listing", "/assets/", 404, "text/plain; charset=utf-8", "", "404"},
		{"placeholder", "/.gitkeep", 404, html, revalidate, "dashboard"},
		{"the page by its file name", "/index.html", 404, html, revalidate, "dashboard"},
		{"a way out", "/assets/../../web.go", 404, "text/plain; charset=utf-8", "", "404"},
	} {
		t.Run(test.name, func(t *testing.T) {
			res := request(t, h, "GET", test.target, nil)
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode != test.status || res.Header.Get("Content-Type") != test.contentType || res.Header.Get("Cache-Control") != test.cache {
				t.Errorf("got %d %q, cached %q; want %d %q, cached %q", res.StatusCode, res.Header.Get("Content-Type"), res.Header.Get("Cache-Control"),
					test.status, test.contentType, test.cache)
			}
			if !strings.Contains(string(body), test.body) {
				t.Errorf("body %q lacks %q", body, test.body)
			}
		})
	}
}

func TestRevalidation(t *testing.T) {
	h := handler(build)
	tag := request(t, h, "GET", "/", nil).Header.Get("ETag")
	if tag == "" {
		t.Fatal("no ETag")
	}
	if res := request(t, h, "GET", "/incidents/inc_A", http.Header{"If-None-Match": {tag}}); res.StatusCode != http.StatusNotModified {
		t.Errorf("the same page under another address: %d, want 304", res.StatusCode)
	}
	changed := fstest.MapFS{"index.html": {Data: []byte("a newer build")}}
	if res := request(t, handler(changed), "GET", "/", http.Header{"If-None-Match": {tag}}); res.StatusCode != http.StatusOK {
		t.Errorf("after a new build: %d, want 200", res.StatusCode)
	}
}

func TestMethods(t *testing.T) {
	h := handler(build)
	for _, target := range []string{"/", "/nowhere", "/assets/index-B1gH4sh.js"} {
		res := request(t, h, "HEAD", target, nil)
		if body, _ := io.ReadAll(res.Body); len(body) > 0 {
			t.Errorf("HEAD %s has a body: %q", target, body)
		}
		res = request(t, h, "POST", target, nil)
		if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("POST %s: %d, allowed %q", target, res.StatusCode, res.Header.Get("Allow"))
		}
	}
}

func TestNotBuilt(t *testing.T) {
	h := handler(fstest.MapFS{".gitkeep": {}})
	for _, target := range []string{"/", "/incidents/inc_A", "/embed/incidents"} {
		res := request(t, h, "GET", target, nil)
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode != http.StatusOK || !strings.Contains(string(body), "make web") {
			t.Errorf("%s: %d %q; want a page that says how to build the dashboard", target, res.StatusCode, body)
		}
	}
}

// TestEmbedded checks what is in this binary: either a whole build, in which every file that the
// pages name is there, or none.
func TestEmbedded(t *testing.T) {
	h := Handler()
	for _, page := range []string{"/", "/embed/incidents"} {
		res := request(t, h, "GET", page, nil)
		body, _ := io.ReadAll(res.Body)
		if string(body) == notBuilt {
			continue
		}
		var assets int
		for rest := string(body); ; assets++ {
			_, after, found := strings.Cut(rest, `"/assets/`)
			if !found {
				break
			}
			name, tail, _ := strings.Cut(after, `"`)
			if res := request(t, h, "GET", "/assets/"+name, nil); res.StatusCode != http.StatusOK {
				t.Errorf("%s names /assets/%s, which answers %d", page, name, res.StatusCode)
			}
			rest = tail
		}
		if assets == 0 {
			t.Errorf("%s names no assets", page)
		}
	}
}
