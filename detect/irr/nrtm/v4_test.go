package nrtm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"

	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/ingest/download"
)

const (
	session1 = "ca128382-78d9-41d1-8927-1ecef15275be"
	session2 = "11111111-2222-4333-8444-555555555555"
	baseURL  = "https://irr.example/nrtm/EXAMPLE/update-notification-file.jose"
)

// server is a registry's web server: what is at which URL.
type server struct {
	t     testing.TB
	key   signer
	files map[string][]byte
	asked []string
}

func newServer(t testing.TB) *server {
	return &server{t: t, key: newSigner(t, "ES256"), files: map[string][]byte{}}
}

func (s *server) Fetch(_ context.Context, url string, _ int64) (io.ReadCloser, error) {
	s.asked = append(s.asked, url)
	b, ok := s.files[url]
	if !ok {
		return nil, errors.New(url + ": 404 Not Found")
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// put publishes a file and returns its entry.
func (s *server) put(kind, session string, version int, records ...string) File {
	name := fmt.Sprintf("%s/nrtm-%s.%d.json", session, kind, version)
	text := fmt.Sprintf("\x1e{\"nrtm_version\": 4, \"type\": %q,\n\"source\": \"EXAMPLE\", \"session_id\": %q, \"version\": %d}\n", kind, session, version)
	for _, r := range records {
		text += "\x1e" + r + "\n"
	}
	content := []byte(text)
	if kind == "snapshot" {
		name += ".gz"
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write(content)
		_ = z.Close()
		content = b.Bytes()
	}
	return s.publish(name, uint64(version), content)
}

func (s *server) publish(name string, version uint64, content []byte) File {
	s.files["https://irr.example/nrtm/EXAMPLE/"+name] = content
	hash := sha256.Sum256(content)
	return File{version, name, hex.EncodeToString(hash[:])}
}

type fields map[string]any

// notify publishes an update notification file, in which change may replace fields or (nil) take them away.
func (s *server) notify(session string, snapshot File, deltas []File, change fields) {
	version := snapshot.Version
	if len(deltas) > 0 {
		version = max(version, deltas[len(deltas)-1].Version)
	}
	n := fields{"nrtm_version": 4, "timestamp": "2026-11-25T09:00:00Z", "type": "notification", "source": "EXAMPLE",
		"session_id": session, "version": version, "snapshot": snapshot, "deltas": deltas}
	for k, v := range change {
		n[k] = v
		if v == nil {
			delete(n, k)
		}
	}
	payload, err := json.Marshal(n)
	if err != nil {
		s.t.Fatal(err)
	}
	s.files[baseURL] = s.key.sign(s.t, `{"alg":"`+s.key.alg+`"}`, string(payload))
}

func object(text string) string {
	b, _ := json.Marshal(fields{"object": text})
	return string(b)
}

func addition(text string) string {
	b, _ := json.Marshal(fields{"action": "add_modify", "object": text})
	return string(b)
}

func deletion(class, key string) string {
	b, _ := json.Marshal(fields{"action": "delete", "object_class": class, "primary_key": key})
	return string(b)
}

func route(prefix string, origin int) string {
	return fmt.Sprintf("route: %s\norigin: AS%d\nsource: EXAMPLE\n", prefix, origin)
}

// mirrored is a registry's copy, as a program would keep it.
type mirrored struct {
	client V4
	db     *irr.Database
}

func mirror(s *server) *mirrored {
	return &mirrored{V4{Source: "example", URL: baseURL, Key: s.key.public(s.t), Fetch: s}, irr.NewBuilder(nil).Build()}
}

// update updates the copy, and leaves it as it is on error.
func (m *mirrored) update(t *testing.T) (Update, error) {
	t.Helper()
	b := m.db.Edit()
	u, err := m.client.Update(t.Context(), b)
	if err == nil {
		m.db = b.Build()
	}
	return u, err
}

// origins lists what the copy has registered for the prefixes of these tests.
func (m *mirrored) origins() map[string][]uint32 {
	all := map[string][]uint32{}
	for _, p := range []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"} {
		for _, r := range m.db.Check(netip.MustParsePrefix(p), 0).Routes {
			all[p] = append(all[p], r.Origin)
		}
	}
	return all
}

func TestV4(t *testing.T) {
	s := newServer(t)
	m := mirror(s)
	expect := func(what string, want map[string][]uint32, version uint64) {
		t.Helper()
		if diff := cmp.Diff(want, m.origins()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
		if m.client.State.Version != version {
			t.Errorf("%s: version %d, want %d", what, m.client.State.Version, version)
		}
	}
	must := func(what string) Update {
		t.Helper()
		u, err := m.update(t)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return u
	}

	// A snapshot, with a delta that is in it and one that is not.
	snapshot := s.put("snapshot", session1, 2, object(route("192.0.2.0/24", 1)), object("person: X\nsource: EXAMPLE"),
		object(strings.Replace(route("203.0.113.0/24", 1), "EXAMPLE", "RIPE", 1)), object("nonsense"))
	delta2 := s.put("delta", session1, 2, addition(route("203.0.113.0/24", 66)))
	delta3 := s.put("delta", session1, 3, addition(route("198.51.100.0/24", 2)), addition(route("198.51.100.0/24", 3)), deletion("ROUTE", "198.51.100.0/24as2"))
	s.notify(session1, snapshot, []File{delta2, delta3}, nil)
	u := must("snapshot")
	if diff := cmp.Diff(Counts{3, 1, map[string]int{WrongSource: 1, "no_name": 1}}, u.Counts); diff != "" || !u.FromSnapshot || u.Deltas != 1 || u.Timestamp.Hour() != 9 {
		t.Errorf("%+v\n%s", u, diff)
	}
	expect("snapshot", map[string][]uint32{"192.0.2.0/24": {1}, "198.51.100.0/24": {3}}, 3)

	// Nothing new: only the notification is fetched.
	s.asked = nil
	must("nothing new")
	if diff := cmp.Diff([]string{baseURL}, s.asked); diff != "" {
		t.Errorf("fetched (-want +got):\n%s", diff)
	}

	// Deltas in their order, each of which undoes the one before; what is unknown is passed over.
	delta4 := s.put("delta", session1, 4, deletion("route", "192.0.2.0/24AS1"), deletion("person", "X"), deletion("route", "10.0.0.0/8AS9"))
	delta5 := s.put("delta", session1, 5, addition(route("192.0.2.0/24", 5)), deletion("as-set", "AS-X"))
	s.notify(session1, snapshot, []File{delta2, delta3, delta4, delta5}, nil)
	if u := must("deltas"); u.Deltas != 2 || u.FromSnapshot {
		t.Errorf("%+v", u)
	}
	expect("deltas", map[string][]uint32{"192.0.2.0/24": {5}, "198.51.100.0/24": {3}}, 5)

	// The server drops deltas that are not known yet: from the snapshot again.
	snapshot8 := s.put("snapshot", session1, 8, object(route("203.0.113.0/24", 8)))
	s.notify(session1, snapshot8, nil, nil)
	if u := must("gap"); !u.FromSnapshot {
		t.Errorf("%+v", u)
	}
	expect("gap", map[string][]uint32{"203.0.113.0/24": {8}}, 8)

	// Another session, whose versions start again.
	s.notify(session2, s.put("snapshot", session2, 1, object(route("192.0.2.0/24", 7))), nil, nil)
	if u := must("session"); !u.FromSnapshot {
		t.Errorf("%+v", u)
	}
	expect("session", map[string][]uint32{"192.0.2.0/24": {7}}, 1)
}

// What is wrong is refused, and changes nothing.
func TestV4Refuses(t *testing.T) {
	for name, c := range map[string]struct {
		break_ func(s *server, snapshot, delta2, delta3 File)
		want   string
	}{
		"a damaged delta": {func(s *server, _, _, d File) { s.files["https://irr.example/nrtm/EXAMPLE/"+d.URL][250] ^= 1 }, "delta 3"},
		"another file of the right form": {func(s *server, _, _, d File) {
			s.put("delta", session1, 3, addition(route("192.0.2.0/24", 99)))
		}, "SHA-256"},
		"a missing delta":       {func(s *server, _, _, d File) { delete(s.files, "https://irr.example/nrtm/EXAMPLE/"+d.URL) }, "404"},
		"a hash that changes":   {func(s *server, sn, a, b File) { a.Hash = b.Hash; s.notify(session1, sn, []File{a, b}, nil) }, "another hash"},
		"a snapshot's too":      {func(s *server, sn, a, b File) { sn.Hash = b.Hash; s.notify(session1, sn, []File{a, b}, nil) }, "another hash"},
		"an older version":      {func(s *server, sn, a, b File) { s.notify(session1, sn, nil, nil) }, "1 older"},
		"deltas out of order":   {func(s *server, sn, a, b File) { s.notify(session1, sn, []File{b, a}, fields{"version": 3}) }, "follows delta"},
		"a gap in the deltas":   {func(s *server, sn, a, b File) { b.Version = 4; s.notify(session1, sn, []File{a, b}, nil) }, "follows delta"},
		"a gap to the snapshot": {func(s *server, sn, a, b File) { s.notify(session2, sn, []File{b}, nil) }, "gap after snapshot"},
		"another source":        {func(s *server, sn, a, b File) { s.notify(session1, sn, []File{a, b}, fields{"source": "RIPE"}) }, `source "RIPE"`},
		"a wrong version": {func(s *server, sn, a, b File) {
			s.notify(session1, sn, []File{a, b}, fields{"version": 4})
		}, "version is 4"},
		"no snapshot":    {func(s *server, sn, a, b File) { s.notify(session1, sn, []File{a, b}, fields{"snapshot": nil}) }, "snapshot is missing"},
		"no timestamp":   {func(s *server, sn, a, b File) { s.notify(session1, sn, []File{a, b}, fields{"timestamp": nil}) }, "timestamp"},
		"NRTM 5":         {func(s *server, sn, a, b File) { s.notify(session1, sn, []File{a, b}, fields{"nrtm_version": 5}) }, "nrtm_version is 5"},
		"no session":     {func(s *server, sn, a, b File) { s.notify("x", sn, []File{a, b}, nil) }, "no UUID"},
		"a bad hash":     {func(s *server, sn, a, b File) { b.Hash = "00"; s.notify(session1, sn, []File{a, b}, nil) }, `the hash "00"`},
		"a bad next key": {func(s *server, sn, a, b File) { s.notify(session1, sn, []File{a, b}, fields{"next_signing_key": "x"}) }, "next_signing_key"},
		"an absolute URL": {func(s *server, sn, a, b File) {
			b.URL = "https://evil.example/x"
			s.notify(session1, sn, []File{a, b}, nil)
		}, "not relative"},
		"another host": {func(s *server, sn, a, b File) { b.URL = "//evil.example/x"; s.notify(session1, sn, []File{a, b}, nil) }, "not relative"},
		"a URL above":  {func(s *server, sn, a, b File) { b.URL = "../x"; s.notify(session1, sn, []File{a, b}, nil) }, "not relative"},
		"another signature": {func(s *server, sn, a, b File) {
			s.key = newSigner(s.t, "ES256")
			s.notify(session1, sn, []File{a, b}, nil)
		}, "signature"},
		"no signature": {func(s *server, sn, a, b File) { s.files[baseURL] = []byte(`{"nrtm_version": 4}`) }, "JSON Web Signature"},
		"a long file":  {func(s *server, sn, a, b File) { s.files[baseURL] = make([]byte, maxNotification+1) }, "longer than"},
		"a partial change": {func(s *server, sn, a, _ File) {
			s.notify(session1, sn, []File{a, s.put("delta", session1, 3, addition(route("192.0.2.0/24", 99)), `{"action": "delete"}`)}, nil)
		}, "names no object"},
		"an unknown action": {func(s *server, sn, a, _ File) {
			s.notify(session1, sn, []File{a, s.put("delta", session1, 3, addition(route("192.0.2.0/24", 99)), `{"action": "rename"}`)}, nil)
		}, "record 3 is neither"},
		"no JSON": {func(s *server, sn, a, _ File) {
			s.notify(session1, sn, []File{a, s.put("delta", session1, 3, addition(route("192.0.2.0/24", 99)), `{"action": `)}, nil)
		}, "record 3"},
		"an empty delta": {func(s *server, sn, a, _ File) { s.notify(session1, sn, []File{a, s.put("delta", session1, 3)}, nil) }, "no change"},
		"no sequence": {func(s *server, sn, a, _ File) {
			s.notify(session1, sn, []File{a, s.publish(session1+"/x", 3, []byte(`{"nrtm_version": 4}`))}, nil)
		}, "record separator"},
		"nothing": {func(s *server, sn, a, _ File) {
			s.notify(session1, sn, []File{a, s.publish(session1+"/x", 3, nil)}, nil)
		}, "header is missing"},
		"another file's header": {func(s *server, sn, a, _ File) {
			d := s.put("delta", session1, 2, addition(route("192.0.2.0/24", 99)))
			s.notify(session1, sn, []File{a, {3, d.URL, d.Hash}}, nil)
		}, "header says"},
		"another session's header": {func(s *server, sn, a, _ File) {
			s.notify(session1, sn, []File{a, s.put("delta", session2, 3, addition(route("192.0.2.0/24", 99)))}, nil)
		}, "header says"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			m := mirror(s)
			snapshot := s.put("snapshot", session1, 1, object(route("192.0.2.0/24", 1)))
			delta2, delta3 := s.put("delta", session1, 2, addition(route("198.51.100.0/24", 2))), s.put("delta", session1, 3, addition(route("192.0.2.0/24", 3)), deletion("route", "192.0.2.0/24AS1"))
			s.notify(session1, snapshot, []File{delta2}, nil)
			if _, err := m.update(t); err != nil {
				t.Fatal(err)
			}
			before, state := m.origins(), m.client.State
			s.notify(session1, snapshot, []File{delta2, delta3}, nil)
			c.break_(s, snapshot, delta2, delta3)
			_, err := m.update(t)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "NRTM of example: ") {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			reason := Malformed
			switch name {
			case "a missing delta":
				reason = Unreachable
			case "a hash that changes", "a snapshot's too", "an older version":
				reason = History
			case "another signature", "no signature":
				reason = Signature
			}
			if got := ReasonOf(err); got != reason {
				t.Errorf("the reason is %s, want %s", got, reason)
			}
			state.Failures = m.client.State.Failures
			if diff := cmp.Diff(before, m.origins()) + cmp.Diff(state, m.client.State); diff != "" {
				t.Errorf("changed (-before +after):\n%s", diff)
			}
		})
	}
}

// Deltas that stay unusable are given up for the snapshot.
func TestV4FallsBackToSnapshot(t *testing.T) {
	s := newServer(t)
	m := mirror(s)
	s.notify(session1, s.put("snapshot", session1, 1, object(route("192.0.2.0/24", 1))), nil, nil)
	if _, err := m.update(t); err != nil {
		t.Fatal(err)
	}
	delta2 := s.put("delta", session1, 2, addition(route("192.0.2.0/24", 2)))
	snapshot2 := s.put("snapshot", session1, 2, object(route("192.0.2.0/24", 1)), object(route("192.0.2.0/24", 2)))
	s.notify(session1, snapshot2, []File{delta2}, nil)
	delete(s.files, "https://irr.example/nrtm/EXAMPLE/"+delta2.URL)
	for range maxFailures {
		if _, err := m.update(t); err == nil {
			t.Fatal("no error")
		}
	}
	if u, err := m.update(t); err != nil || !u.FromSnapshot || m.client.State.Failures != 0 {
		t.Fatalf("%+v, %v", u, err)
	}
	if diff := cmp.Diff(map[string][]uint32{"192.0.2.0/24": {1, 2}}, m.origins()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestV4KeyRotation(t *testing.T) {
	s := newServer(t)
	m := mirror(s)
	old, next := s.key, newSigner(t, "Ed25519")
	snapshot := s.put("snapshot", session1, 1, object(route("192.0.2.0/24", 1)))
	must := func() {
		t.Helper()
		if _, err := m.update(t); err != nil {
			t.Fatal(err)
		}
	}
	s.notify(session1, snapshot, nil, fields{"next_signing_key": next.public(t)})
	must()
	// It survives a restart.
	saved, err := json.Marshal(m.client.State)
	if err != nil {
		t.Fatal(err)
	}
	m.client.State = State{}
	if err := json.Unmarshal(saved, &m.client.State); err != nil {
		t.Fatal(err)
	}
	must() // the old key is still good
	s.key = next
	s.notify(session1, snapshot, nil, nil)
	must()
	must()
	s.key = old
	s.notify(session1, snapshot, nil, nil)
	if _, err := m.update(t); !errors.Is(err, errSignature) {
		t.Errorf("there is no way back to the old key, but the error is %v", err)
	}
}

func TestHTTPS(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "fine") })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+r.Host+"/ok", http.StatusFound)
	})
	srv := httptest.NewTLSServer(mux)
	defer srv.Close()
	transport := http.DefaultTransport.(*http.Transport)
	before := transport.TLSClientConfig
	transport.TLSClientConfig = srv.Client().Transport.(*http.Transport).TLSClientConfig // which every client copies
	client := download.New(download.Patience{StallAfter: time.Minute, Attempts: 1}, "test", func(string) error { return nil }, slog.New(slog.DiscardHandler))
	transport.TLSClientConfig = before
	defer client.Close()
	scratch := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(scratch+".of-before.part", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h := HTTPS{client, scratch, 1 << 20, "the limit"}
	for _, most := range []int64{inMemory, maxSnapshot} { // straight away, and by a file
		body, err := h.Fetch(t.Context(), srv.URL+"/ok", most)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(body)
		if closed := body.Close(); err != nil || closed != nil || string(text) != "fine" {
			t.Errorf("%q, %v, %v", text, err, closed)
		}
		for url, want := range map[string]string{srv.URL + "/none": "404", srv.URL + "/away": "not https", strings.Replace(srv.URL, "https", "http", 1) + "/ok": "over https only"} {
			if _, err := h.Fetch(t.Context(), url, most); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: error %v", url, err)
			}
		}
	}
	if left, err := filepath.Glob(scratch + "*"); err != nil || len(left) > 0 {
		t.Errorf("what is left: %v, %v", left, err)
	}
}

func TestBounded(t *testing.T) {
	for size, fits := range map[int64]bool{9: true, 10: true, 11: false} {
		n, err := io.Copy(io.Discard, &bounded{bytes.NewReader(make([]byte, size)), 10})
		if (err == nil) != fits {
			t.Errorf("%d bytes: %d read, error %v", size, n, err)
		}
	}
}

func FuzzSequence(f *testing.F) {
	s := &server{t: f, files: map[string][]byte{}}
	s.put("delta", session1, 3, addition(route("192.0.2.0/24", 1)), deletion("route", "192.0.2.0/24AS1"))
	s.put("snapshot", session1, 3, object(route("192.0.2.0/24", 1)))
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		f.Add(s.files[name], name[len(name)-1] == 'z')
	}
	f.Fuzz(func(t *testing.T, text []byte, snapshot bool) {
		kind := "delta"
		if snapshot {
			kind = "snapshot"
		}
		b := irr.NewBuilder(nil)
		_ = readFile(&bounded{bytes.NewReader(text), 1 << 20}, kind, &notification{Source: "EXAMPLE", Session: session1}, 3, newApplier(b, "EXAMPLE"))
		d := b.Build()
		if s := d.Sources(); len(s) > 1 || len(s) == 1 && s[0] != "EXAMPLE" {
			t.Errorf("objects of %v", s)
		}
	})
}
