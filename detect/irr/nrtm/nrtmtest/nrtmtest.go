// Package nrtmtest is a registry for tests that real clients mirror: version 4 over HTTPS, and version 3 over TCP with a
// dump over HTTPS. It can be told to fail in the ways that registries do.
package nrtmtest

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

// Trouble is how a registry fails.
type Trouble int

const (
	None   Trouble = iota
	Down           // nobody answers
	Forged         // another key signs
	Cut            // files and answers end early
	Stall          // files and answers end nowhere: nothing more comes
	Silent         // what it says is two days old
)

// Route is an object.
type Route struct {
	Prefix string
	Origin uint32
}

type change struct {
	add bool
	Route
}

// Registry is a registry named TEST, empty at first.
type Registry struct {
	Address string // of the Update Notification File
	Key     string // that signs, as PEM
	Server  string // of version 3
	Dump    string // address of the dump
	Serial  string // address of the serial that the dump goes to

	t      testing.TB
	key    *ecdsa.PrivateKey
	forger *ecdsa.PrivateKey
	web    *httptest.Server

	mu       sync.Mutex
	trouble  Trouble
	sessions int
	routes   map[Route]bool
	snapshot []Route
	deltas   [][]change // version 2 is the first
	log      []change   // of version 3; serial 1 is the first
	oldest   int        // serial that it still has
}

// New starts a registry that stands until the test ends.
func New(t testing.TB) *Registry {
	r := &Registry{t: t, routes: map[Route]bool{}, oldest: 1, sessions: 1}
	var err1, err2 error
	r.key, err1 = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	r.forger, err2 = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	public, err := x509.MarshalPKIXPublicKey(&r.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	r.Key = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	r.web = httptest.NewTLSServer(http.HandlerFunc(r.serve))
	t.Cleanup(func() {
		r.web.CloseClientConnections()
		r.web.Close()
	})
	r.Address, r.Dump, r.Serial = r.web.URL+"/nrtm/notification.jose", r.web.URL+"/test.db.gz", r.web.URL+"/TEST.CURRENTSERIAL"
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.Server = listener.Addr().String()
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(time.Minute))
				r.answer(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		connections.Wait()
	})
	return r
}

// Trusted calls f; HTTP clients that it makes out of http.DefaultTransport trust the registry's certificate.
func (r *Registry) Trusted(f func()) {
	transport := http.DefaultTransport.(*http.Transport)
	before := transport.TLSClientConfig
	transport.TLSClientConfig = r.web.Client().Transport.(*http.Transport).TLSClientConfig
	defer func() { transport.TLSClientConfig = before }()
	f()
}

// Certificate is what its web server's is to be trusted for, as PEM: for another process, by SSL_CERT_FILE.
func (r *Registry) Certificate() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.web.Certificate().Raw})
}

// Fail makes the registry fail from now on; None ends it.
func (r *Registry) Fail(how Trouble) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.trouble = how
}

// Add registers routes: one delta, and a serial for each.
func (r *Registry) Add(routes ...Route) { r.change(true, routes) }

// Remove takes routes away: one delta, and a serial for each.
func (r *Registry) Remove(routes ...Route) { r.change(false, routes) }

func (r *Registry) change(add bool, routes []Route) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var delta []change
	for _, route := range routes {
		delta = append(delta, change{add, route})
		if delete(r.routes, route); add {
			r.routes[route] = true
		}
	}
	r.deltas, r.log = append(r.deltas, delta), append(r.log, delta...)
}

// Restart forgets what has changed: all that is registered is in a snapshot of a new session, and in the dump.
func (r *Registry) Restart() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions++
	r.snapshot, r.deltas = r.sorted(), nil
	r.log = append(r.log, make([]change, 3)...) // three that nobody can know
	r.oldest = len(r.log) + 1
}

func (r *Registry) sorted() []Route {
	return slices.SortedFunc(maps.Keys(r.routes), func(x, y Route) int { return strings.Compare(x.text(), y.text()) })
}

func (o Route) text() string {
	return fmt.Sprintf("route: %s\ndescr: not kept\norigin: AS%d\nsource: TEST\n", o.Prefix, o.Origin)
}

func (r *Registry) session() string { return fmt.Sprintf("ca128382-78d9-41d1-8927-%012d", r.sessions) }

func marshal(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}

type fields map[string]any

// file is the snapshot (version 1) or a delta.
func (r *Registry) file(version int) []byte {
	kind := "delta"
	if version == 1 {
		kind = "snapshot"
	}
	records := []string{marshal(fields{"nrtm_version": 4, "type": kind, "source": "TEST", "session_id": r.session(), "version": version})}
	if version == 1 {
		for _, o := range r.snapshot {
			records = append(records, marshal(fields{"object": o.text()}))
		}
	} else {
		for _, c := range r.deltas[version-2] {
			if c.add {
				records = append(records, marshal(fields{"action": "add_modify", "object": c.text()}))
			} else {
				records = append(records, marshal(fields{"action": "delete", "object_class": "route", "primary_key": fmt.Sprintf("%sAS%d", c.Prefix, c.Origin)}))
			}
		}
	}
	return zipped("\x1e" + strings.Join(records, "\n\x1e") + "\n")
}

func zipped(text string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = io.WriteString(z, text)
	_ = z.Close()
	return b.Bytes()
}

func (r *Registry) name(version int) string { return fmt.Sprintf("%s.%d.gz", r.session(), version) }

func (r *Registry) notification() []byte {
	at, key := time.Now(), r.key
	if r.trouble == Silent {
		at = at.Add(-48 * time.Hour)
	}
	if r.trouble == Forged {
		key = r.forger
	}
	entry := func(version int) fields {
		hash := sha256.Sum256(r.file(version))
		return fields{"version": version, "url": r.name(version), "hash": hex.EncodeToString(hash[:])}
	}
	deltas := []fields{}
	for i := range r.deltas {
		deltas = append(deltas, entry(i+2))
	}
	payload := marshal(fields{"nrtm_version": 4, "timestamp": at.UTC().Format(time.RFC3339), "type": "notification", "source": "TEST",
		"session_id": r.session(), "version": len(r.deltas) + 1, "snapshot": entry(1), "deltas": deltas})
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	digest := sha256.Sum256([]byte(signed))
	x, y, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		panic(err)
	}
	signature := make([]byte, 64)
	x.FillBytes(signature[:32])
	y.FillBytes(signature[32:])
	return []byte(signed + "." + base64.RawURLEncoding.EncodeToString(signature))
}

func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	trouble, name := r.trouble, strings.TrimPrefix(req.URL.Path, "/nrtm/")
	var content []byte
	switch {
	case name == "notification.jose":
		content = r.notification()
	case req.URL.Path == "/test.db.gz":
		var text strings.Builder
		for _, o := range r.sorted() {
			text.WriteString(o.text() + "\n")
		}
		content = zipped(text.String())
	case req.URL.Path == "/TEST.CURRENTSERIAL":
		content = fmt.Appendln(nil, len(r.log))
	default:
		for version := range len(r.deltas) + 1 {
			if name == r.name(version+1) {
				content = r.file(version + 1)
			}
		}
	}
	r.mu.Unlock()
	file := strings.HasSuffix(name, ".gz")
	switch {
	case trouble == Down:
		http.Error(w, "down", http.StatusForbidden) // which is not tried again
		return
	case content == nil:
		http.NotFound(w, req)
		return
	case trouble == Cut && file:
		content = content[:len(content)-5]
	case trouble == Stall && file:
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		_, _ = w.Write(content[:len(content)/2])
		_ = http.NewResponseController(w).Flush()
		<-req.Context().Done()
		return
	}
	_, _ = w.Write(content)
}

// answer is version 3.
func (r *Registry) answer(conn net.Conn) {
	line, err := bufio.NewReader(conn).ReadString('\n')
	var from int
	if _, scan := fmt.Sscanf(strings.TrimSpace(line), "-g TEST:3:%d-LAST", &from); err != nil || scan != nil {
		_, _ = io.WriteString(conn, "%ERROR:405: no such query\n")
		return
	}
	r.mu.Lock()
	trouble, latest, oldest := r.trouble, len(r.log), r.oldest
	log := slices.Clone(r.log)
	r.mu.Unlock()
	switch {
	case trouble == Down:
		return
	case from == latest+1:
		_, _ = io.WriteString(conn, "%WARNING (1) there are no newer updates available\n")
		return
	case from < oldest || from > latest+1:
		_, _ = fmt.Fprintf(conn, "%%ERROR:401: invalid range: Not within %d-%d\n", oldest, latest)
		return
	}
	_, _ = fmt.Fprintf(conn, "%%START Version: 3 TEST %d-%d\n\n", from, latest)
	for i := from; i <= latest; i++ {
		if i > from && trouble == Cut {
			return
		}
		if i > from && trouble == Stall {
			_, _ = conn.Read(make([]byte, 1)) // until the client goes
			return
		}
		word := "DEL"
		if log[i-1].add {
			word = "ADD"
		}
		_, _ = fmt.Fprintf(conn, "%s %d\n\n%s\n", word, i, log[i-1].text())
	}
	_, _ = io.WriteString(conn, "%END TEST\n")
}
