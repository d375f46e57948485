package nrtm

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/routevigil/routevigil/detect/irr/rpsl"
	"github.com/routevigil/routevigil/ingest/download"
)

// MinInterval is how often an Update Notification File may be fetched at the most.
const MinInterval = time.Minute

// StaleAfter is the age of an Update Notification File from which its server has failed its duty.
const StaleAfter = 24 * time.Hour

// Bounds in bytes, as fetched. RIPE's snapshot had about 500 MB in 2026.
const (
	maxNotification = 4 << 20
	maxDelta        = 1 << 30
	maxSnapshot     = 16 << 30
	maxRecord       = 2 * rpsl.MaxObject // of a file, as JSON
	maxExpanded     = rpsl.MaxDump       // of a file, once unpacked
)

// Fetcher fetches the content of a URL, of which no more than most bytes are wanted. An error of it leaves everything
// as it was.
type Fetcher interface {
	Fetch(ctx context.Context, url string, most int64) (io.ReadCloser, error)
}

// HTTPS fetches by HTTPS only, as the draft demands, redirections included. What may be long is brought to this machine
// first, so that it is continued after an interruption.
type HTTPS struct {
	Client   *download.Client // follows no redirection from https to http
	Scratch  string           // a path; what is on its way is beside it, under names that begin so
	MaxBytes int64            // of a file
	Limit    string           // the name of that setting
}

// inMemory is how long an answer may be that is not brought to a file first.
const inMemory = maxNotification

func (h HTTPS) Fetch(ctx context.Context, address string, most int64) (io.ReadCloser, error) {
	if !strings.HasPrefix(address, "https://") {
		return nil, errors.New("NRTM version 4 is spoken over https only")
	}
	if most > inMemory {
		return h.file(ctx, address, most)
	}
	resp, err := h.Client.Get(ctx, address, nil)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close()
		return nil, download.Unexpected(resp)
	}
	return resp.Body, nil
}

// file fetches to a file, which goes when it is closed. What is there of another address goes at once.
func (h HTTPS) file(ctx context.Context, address string, most int64) (io.ReadCloser, error) {
	hash := sha256.Sum256([]byte(address))
	path := h.Scratch + "." + hex.EncodeToString(hash[:8])
	others, err := filepath.Glob(h.Scratch + ".*")
	if err != nil {
		return nil, err
	}
	for _, other := range others {
		if !strings.HasPrefix(other, path) {
			_ = os.Remove(other)
		}
	}
	file := download.File{URL: address, Path: path, Replace: true, MaxBytes: min(most, h.MaxBytes), Limit: h.Limit,
		Check: func(context.Context, string, int64) error { return nil }} // its hash is checked by who reads it
	if _, err := h.Client.Fetch(ctx, file); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return passing{f}, nil
}

// passing is a file that is removed when it is closed.
type passing struct{ *os.File }

func (p passing) Close() error { return errors.Join(p.File.Close(), os.Remove(p.Name())) }

// State is how far a client has come. It may be saved as JSON; it belongs to the objects that the
// Mirror had by then, and is worth nothing without them. The zero State has nothing yet.
type State struct {
	Session string `json:"session"`
	Version uint64 `json:"version"`
	// Key is the PEM of the key in use where it is no longer the configured one, NextKey of the one
	// that the server announced.
	Key      string `json:"key,omitempty"`
	NextKey  string `json:"next_key,omitempty"`
	Snapshot File   `json:"snapshot"` // as last announced, and so Deltas: their hashes must never change
	Deltas   []File `json:"deltas"`
	// Failures counts the updates in a row that the deltas would not do for.
	Failures int `json:"failures"`
}

// File is an entry of an Update Notification File.
type File struct {
	Version uint64 `json:"version"`
	URL     string `json:"url"`
	Hash    string `json:"hash"` // SHA-256 of the file as fetched, in hexadecimal
}

// maxFailures is how often deltas may be missing or damaged before a snapshot replaces everything.
const maxFailures = 3

// Update says what an update did.
type Update struct {
	Counts
	FromSnapshot bool
	Deltas       int       // how many were applied
	Timestamp    time.Time // of the Update Notification File; see StaleAfter
}

// V4 is the client of one registry. It is not for use by several goroutines at once.
type V4 struct {
	Source string // the registry's name
	URL    string // of the Update Notification File
	Key    string // public key in PEM, as the registry published it
	Fetch  Fetcher
	State  State
}

type notification struct {
	NRTMVersion int       `json:"nrtm_version"`
	Timestamp   time.Time `json:"timestamp"`
	Type        string    `json:"type"`
	NextKey     string    `json:"next_signing_key"`
	Source      string    `json:"source"`
	Session     string    `json:"session_id"`
	Version     uint64    `json:"version"`
	Snapshot    *File     `json:"snapshot"`
	Deltas      []File    `json:"deltas"`
}

// Update fetches what is new and hands it to m. When it fails, State is as it was, but for Failures,
// and m has seen an unknown part of the changes and must be thrown away: what is half done must not
// be used.
func (c *V4) Update(ctx context.Context, m Mirror) (Update, error) {
	u, err := c.update(ctx, m)
	if err != nil {
		return u, fmt.Errorf("NRTM of %s: %w", c.Source, err)
	}
	return u, nil
}

func (c *V4) update(ctx context.Context, m Mirror) (Update, error) {
	next := State{Key: c.State.Key, NextKey: c.State.NextKey}
	n, err := c.notification(ctx, &next)
	if err != nil {
		return Update{}, fmt.Errorf("update notification file: %w", err)
	}
	u := Update{Timestamp: n.Timestamp}
	next.Session, next.Version, next.Snapshot, next.Deltas = n.Session, n.Version, *n.Snapshot, n.Deltas
	a := newApplier(m, c.Source)
	from := c.State.Version
	switch known := c.State.Session == n.Session; {
	case known && n.Version < from:
		return u, because(History, fmt.Errorf("it is of version %d, %d older than what is known: a cache is behind, or the server has lost its history", n.Version, from-n.Version))
	case known && unlike(c.State, next):
		return u, because(History, errors.New("it gives another hash for a file that it named before: the server is misconfigured, or somebody meddles with it"))
	case known && n.Version == from:
	case !known || n.firstDelta() > from+1 || c.State.Failures >= maxFailures:
		m.Drop(c.Source)
		if err := c.file(ctx, n, *n.Snapshot, "snapshot", maxSnapshot, a); err != nil {
			return u, err
		}
		u.FromSnapshot, from = true, n.Snapshot.Version
		fallthrough
	default:
		for _, d := range n.Deltas {
			if d.Version <= from {
				continue
			}
			if err := c.file(ctx, n, d, "delta", maxDelta, a); err != nil {
				c.State.Failures++
				return u, err
			}
			u.Deltas++
		}
	}
	u.Counts = a.counts
	c.State = next
	return u, nil
}

// firstDelta is the version from which on there are deltas; where there are none, the one after the latest.
func (n *notification) firstDelta() uint64 {
	if len(n.Deltas) == 0 {
		return n.Version + 1
	}
	return n.Deltas[0].Version
}

// unlike reports that a file of the same kind and version has another hash than before.
func unlike(old, new State) bool {
	if old.Snapshot.Version == new.Snapshot.Version && !strings.EqualFold(old.Snapshot.Hash, new.Snapshot.Hash) {
		return true
	}
	return slices.ContainsFunc(new.Deltas, func(d File) bool {
		return slices.ContainsFunc(old.Deltas, func(o File) bool { return o.Version == d.Version && !strings.EqualFold(o.Hash, d.Hash) })
	})
}

// notification fetches the Update Notification File and verifies it. next gets the keys to go on with.
func (c *V4) notification(ctx context.Context, next *State) (*notification, error) {
	body, err := c.Fetch.Fetch(ctx, c.URL, maxNotification)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	jws, err := io.ReadAll(io.LimitReader(body, maxNotification+1))
	if err != nil {
		return nil, err
	}
	if len(jws) > maxNotification {
		return nil, because(Malformed, fmt.Errorf("longer than %d bytes", maxNotification))
	}
	payload, err := c.verify(jws, next)
	if err != nil {
		return nil, because(Signature, err)
	}
	var n notification
	if err := json.Unmarshal(payload, &n); err != nil {
		return nil, because(Malformed, err)
	}
	if err := n.validate(c.Source); err != nil {
		return nil, because(Malformed, err)
	}
	if n.NextKey != "" {
		if _, err := ParseKey(n.NextKey); err != nil {
			return nil, because(Malformed, fmt.Errorf("next_signing_key: %w", err))
		}
		next.NextKey = n.NextKey
	}
	return &n, nil
}

// verify tries the key in use, then the announced one, which from then on is the one in use: there is
// no way back to the old (§ Public Key Rotation).
func (c *V4) verify(jws []byte, next *State) ([]byte, error) {
	current := c.Key
	if next.Key != "" {
		current = next.Key
	}
	key, err := ParseKey(current)
	if err != nil {
		return nil, fmt.Errorf("the key of the registry: %w", err)
	}
	payload, err := verify(jws, key)
	if !errors.Is(err, errSignature) || next.NextKey == "" {
		return payload, err
	}
	key, keyErr := ParseKey(next.NextKey)
	if keyErr != nil {
		return nil, fmt.Errorf("the next key of the registry: %w", keyErr)
	}
	if payload, err = verify(jws, key); err == nil {
		next.Key, next.NextKey = next.NextKey, ""
	}
	return payload, err
}

var (
	uuid4   = regexp.MustCompile(`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}$`)
	hexHash = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
)

func (n *notification) validate(source string) error {
	switch {
	case n.NRTMVersion != 4 || n.Type != "notification":
		return fmt.Errorf("nrtm_version is %d and type %q, not 4 and notification", n.NRTMVersion, n.Type)
	case !strings.EqualFold(n.Source, source):
		return fmt.Errorf("it is of source %q", n.Source)
	case n.Timestamp.IsZero():
		return errors.New("timestamp is missing")
	case !uuid4.MatchString(n.Session):
		return fmt.Errorf("session_id %q is no UUID of version 4", n.Session)
	case n.Snapshot == nil:
		return errors.New("snapshot is missing")
	}
	highest := n.Snapshot.Version
	for i, d := range n.Deltas {
		if i > 0 && d.Version != n.Deltas[i-1].Version+1 {
			return fmt.Errorf("delta %d follows delta %d", d.Version, n.Deltas[i-1].Version)
		}
		highest = max(highest, d.Version)
	}
	if n.Version == 0 || n.Version != highest {
		return fmt.Errorf("version is %d, the highest of its files %d", n.Version, highest)
	}
	if len(n.Deltas) > 0 && n.Deltas[0].Version > n.Snapshot.Version+1 {
		return fmt.Errorf("the deltas start with %d and leave a gap after snapshot %d", n.Deltas[0].Version, n.Snapshot.Version)
	}
	for _, f := range append(slices.Clone(n.Deltas), *n.Snapshot) {
		if f.Version == 0 || f.URL == "" || !hexHash.MatchString(f.Hash) {
			return fmt.Errorf("a file of version %d has the URL %q and the hash %q", f.Version, f.URL, f.Hash)
		}
	}
	return nil
}

// record is what a record of a snapshot or a delta may hold.
type record struct {
	NRTMVersion int     `json:"nrtm_version"` // of a header, as are the next four
	Type        string  `json:"type"`
	Source      string  `json:"source"`
	Session     string  `json:"session_id"`
	Version     uint64  `json:"version"`
	Action      string  `json:"action"`
	Class       string  `json:"object_class"`
	Key         string  `json:"primary_key"`
	Object      *string `json:"object"`
}

// file fetches a snapshot or a delta and hands its objects on. Their hash is known only at the end.
func (c *V4) file(ctx context.Context, n *notification, f File, kind string, most int64, a *applier) error {
	fail := func(err error) error { return fmt.Errorf("%s %d (%s): %w", kind, f.Version, f.URL, err) }
	address, err := resolve(c.URL, f.URL)
	if err != nil {
		return fail(because(Malformed, err))
	}
	body, err := c.Fetch.Fetch(ctx, address, most)
	if err != nil {
		return fail(err)
	}
	defer body.Close()
	hash := sha256.New()
	in := io.TeeReader(&bounded{body, most}, hash)
	if err := readFile(in, kind, n, f.Version, a); err != nil {
		return fail(because(Malformed, err))
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return fail(because(Malformed, err))
	}
	if got := hex.EncodeToString(hash.Sum(nil)); !strings.EqualFold(got, f.Hash) {
		return fail(because(Malformed, fmt.Errorf("its SHA-256 is %s, not %s as announced", got, f.Hash)))
	}
	return nil
}

// resolve returns the URL of a file, which must lie beside or below the Update Notification File.
func resolve(base, ref string) (string, error) {
	b, err := url.Parse(base)
	if err != nil {
		return "", err
	}
	r, err := url.Parse(ref)
	if err != nil {
		return "", err
	}
	u := b.ResolveReference(r)
	dir := b.Path[:strings.LastIndexByte(b.Path, '/')+1]
	if r.Scheme != "" || r.Host != "" || !strings.HasPrefix(u.Path, dir) {
		return "", errors.New("the URL is not relative to that of the update notification file")
	}
	return u.String(), nil
}

func readFile(in io.Reader, kind string, n *notification, version uint64, a *applier) error {
	text := bufio.NewReaderSize(in, 1<<16)
	if magic, _ := text.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(text)
		if err != nil {
			return err
		}
		text = bufio.NewReaderSize(&bounded{z, maxExpanded}, 1<<16)
	}
	s := sequence{in: text}
	var r record
	if err := s.next(&r); errors.Is(err, io.EOF) {
		return errors.New("the header is missing")
	} else if err != nil {
		return err
	}
	if r.NRTMVersion != 4 || r.Type != kind || !strings.EqualFold(r.Source, n.Source) || !strings.EqualFold(r.Session, n.Session) || r.Version != version {
		return fmt.Errorf("its header says nrtm_version %d, type %q, source %q, session %q, version %d", r.NRTMVersion, r.Type, r.Source, r.Session, r.Version)
	}
	for i := 0; ; i++ {
		r = record{}
		if err := s.next(&r); errors.Is(err, io.EOF) {
			if kind == "delta" && i == 0 {
				return errors.New("it holds no change")
			}
			return nil
		} else if err != nil {
			return err
		}
		switch {
		case (kind == "snapshot" && r.Action == "" || kind == "delta" && r.Action == "add_modify") && r.Object != nil:
			a.text([]byte(*r.Object), false)
		case kind == "delta" && r.Action == "delete":
			if err := a.remove(r.Class, r.Key); err != nil {
				return fmt.Errorf("record %d: %w", s.n, err)
			}
		default:
			return fmt.Errorf("record %d is neither an object nor a change", s.n)
		}
	}
}

// separator starts each text of a sequence (RFC 7464).
const separator = 0x1e

// sequence reads a JSON text sequence.
type sequence struct {
	in      *bufio.Reader
	buf     []byte
	started bool // by a separator
	n       int  // texts read, the header included
}

// next reads the next text into v. The error is io.EOF at the end.
func (s *sequence) next(v any) error {
	for {
		s.buf = s.buf[:0]
		var err error
		for {
			var part []byte
			part, err = s.in.ReadSlice(separator)
			if len(s.buf)+len(part) > maxRecord {
				return fmt.Errorf("record %d is longer than %d bytes", s.n+1, maxRecord)
			}
			s.buf = append(s.buf, part...)
			if !errors.Is(err, bufio.ErrBufferFull) {
				break
			}
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		text := bytes.TrimSpace(bytes.TrimSuffix(s.buf, []byte{separator}))
		if len(text) > 0 {
			if !s.started {
				return errors.New("it does not start with a record separator, so it is no JSON text sequence")
			}
			s.n++
			if err := json.Unmarshal(text, v); err != nil {
				return fmt.Errorf("record %d: %w", s.n, err)
			}
			return nil
		}
		if err != nil {
			return err
		}
		s.started = true
	}
}

// bounded is a reader that fails once there is more than left bytes.
type bounded struct {
	in   io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.in.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n, errors.New("longer than it may be")
	}
	return n, err
}
