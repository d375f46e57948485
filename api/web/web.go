// Package web is what people see: the dashboard at / and the lists under /embed/ that others show on
// their pages. The sources in this folder are TypeScript; `make web` builds them into dist, which
// goes into the binary, so that the service needs no files beside it and the pages always fit the
// API they were built with.
//
// Without a build (a checkout that has seen no Node) the package compiles all the same, and its
// handler says what to do.
//
// Security headers are not set here: which sites may frame an embed is the server's configuration.
package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"time"
)

// dist holds .gitkeep where nothing has been built, so that the pattern always matches.
//
//go:embed all:dist
var dist embed.FS

// Handler serves the pages and what they are made of. Names under /assets/ contain a hash of their
// content and may be cached for ever; pages are revalidated by their ETag.
func Handler() http.Handler {
	built, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err) // the name is a constant and valid
	}
	return handler(built)
}

// file is one file of the build, or a page that stands in for it.
type file struct {
	body        []byte
	contentType string
	etag        string
}

func newFile(name string, body []byte) file {
	sum := sha256.Sum256(body)
	return file{body: body, contentType: contentType(name), etag: `"` + hex.EncodeToString(sum[:12]) + `"`}
}

// contentType does not ask the operating system's tables, which differ between machines, for the
// types a build has.
func contentType(name string) string {
	switch ext := path.Ext(name); ext {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	default:
		if t := mime.TypeByExtension(ext); t != "" {
			return t
		}
		return "application/octet-stream"
	}
}

const notBuilt = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>routevigil</title>
<h1>The dashboard is not in this binary</h1>
<p>routevigil runs, and its API answers: <a href="/api/v1/status">status</a>, <a href="/api/v1/incidents">incidents</a>.</p>
<p>To have the dashboard too, run <code>make web</code> (it needs Node 20 or later) in the source tree, then build the binary again.</p>
</html>
`

func handler(built fs.FS) http.Handler {
	page := func(name string) file {
		body, err := fs.ReadFile(built, name)
		if err != nil {
			body = []byte(notBuilt)
		}
		return newFile(name, body)
	}
	index, embedded := page("index.html"), page("embed.html")
	assets := map[string]file{}
	// A missing folder leaves the map empty; an embedded file cannot fail to be read.
	entries, _ := fs.ReadDir(built, "assets")
	for _, e := range entries {
		name := "assets/" + e.Name()
		if body, err := fs.ReadFile(built, name); err == nil {
			assets["/"+name] = newFile(name, body)
		}
	}

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "this page can only be read", http.StatusMethodNotAllowed)
			return
		}
		p := r.URL.Path
		switch asset, found := assets[p]; {
		case found:
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
			serve(w, r, asset)
		case p == "/embed/incidents":
			servePage(w, r, embedded)
		case isPage(p):
			servePage(w, r, index)
		case strings.HasPrefix(p, "/assets/"), strings.HasPrefix(p, "/embed/"):
			http.NotFound(w, r)
		default:
			// The dashboard says that there is nothing here; the status says it to machines.
			h := w.Header()
			h.Set("Cache-Control", "no-cache")
			h.Set("Content-Type", index.contentType)
			w.WriteHeader(http.StatusNotFound)
			if r.Method == http.MethodGet {
				w.Write(index.body)
			}
		}
	})
}

// isPage tells whether the dashboard has a view for p; src/router.ts draws it.
func isPage(p string) bool {
	if p == "/" || p == "/feeds" {
		return true
	}
	for _, folder := range []string{"/incidents/", "/prefixes/"} {
		if rest, ok := strings.CutPrefix(p, folder); ok && rest != "" {
			return true
		}
	}
	return false
}

func servePage(w http.ResponseWriter, r *http.Request, f file) {
	w.Header().Set("Cache-Control", "no-cache")
	serve(w, r, f)
}

func serve(w http.ResponseWriter, r *http.Request, f file) {
	w.Header().Set("Content-Type", f.contentType)
	w.Header().Set("ETag", f.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.body))
}
