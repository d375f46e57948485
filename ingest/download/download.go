// Package download gets files over HTTP: whole or not at all.
//
// A file is in its final place only when it is whole and was found good. Until then it is NAME.part, locked
// by the process that fetches it, beside a note of what version of the file it is a part of
// (NAME.part.json), so that the next attempt, also of another process, continues it or, if the file has
// changed, starts over. Servers give their files away, so one that is busy is given time, as much as it
// asks for, and one from which nothing comes is left.
package download

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter is the longest that a server may ask us to wait; a person has given up by then.
const maxRetryAfter = 15 * time.Minute

// progressOctets is how far an attempt must bring a file on not to count as one of Attempts.
const progressOctets = 1 << 20

var (
	// ErrNotThere is that the server has no such file.
	ErrNotThere = errors.New("is not there")
	// ErrUnchanged is that the server has no other version than File.Have.
	ErrUnchanged = errors.New("is unchanged")
	// ErrStalled ends a request of which nothing more comes.
	ErrStalled = errors.New("nothing came any more")
)

// Temporary is an error worth another attempt, after a time that the server may have asked for.
type Temporary struct {
	Err   error
	After time.Duration
}

func (e *Temporary) Error() string { return e.Err.Error() }
func (e *Temporary) Unwrap() error { return e.Err }

// Fatal is an error that every other file will meet as well, such as a full disk.
type Fatal struct{ Err error }

func (e *Fatal) Error() string { return e.Err.Error() }
func (e *Fatal) Unwrap() error { return e.Err }

// redirectError is a redirection that is not followed.
type redirectError struct{ where string }

func (e *redirectError) Error() string { return "the server redirects " + e.where }

// Client downloads. It may be used by many goroutines.
type Client struct {
	http      *http.Client
	userAgent string
	patience  Patience
	log       *slog.Logger
}

// Patience says how long to wait for a server.
type Patience struct {
	StallAfter         time.Duration // a request from which nothing came for this long is broken off
	Attempts           int           // how often a thing is tried; attempts that brought a file on do not count
	RetryMin, RetryMax time.Duration // wait before the second attempt, doubled with every further one; the longest
}

// New makes a client. follow decides about a redirection to another host of that name; whatever it says, none from
// https to http is followed. userAgent is how the client introduces itself.
func New(p Patience, userAgent string, follow func(host string) error, log *slog.Logger) *Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DisableCompression = true // a compressed file is wanted as it is
	return &Client{userAgent: userAgent, patience: p, log: log, http: &http.Client{
		Transport: transport,
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			switch {
			case len(via) > 5:
				return &redirectError{"more than five times"}
			case r.URL.Scheme != "https" && r.URL.Scheme != "http", r.URL.Scheme == "http" && via[0].URL.Scheme == "https":
				return &redirectError{"to an address that is not https"}
			case r.URL.Host == "":
				return &redirectError{"to no host"}
			}
			if err := follow(r.URL.Host); err != nil {
				return &redirectError{err.Error()}
			}
			return nil
		},
	}}
}

// Close releases the connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Retry calls try until it succeeds, fails for good or has failed too often. what is for the log.
func (c *Client) Retry(ctx context.Context, what string, try func() error) error {
	for failures := 1; ; failures++ {
		err := try()
		if ctx.Err() != nil && err != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, errProgress) {
			failures = 0
		}
		again, ok := errors.AsType[*Temporary](err)
		switch {
		case err == nil:
			return nil
		case !ok:
			return err
		case failures >= c.patience.Attempts:
			return fmt.Errorf("given up after %d attempts: %w", failures, err)
		case again.After > maxRetryAfter:
			return fmt.Errorf("%w, and wants us to wait for %v; try later", err, again.After)
		}
		wait := c.patience.RetryMax
		if doubled := c.patience.RetryMin << max(0, failures-1); failures < 32 && doubled > 0 && doubled < wait {
			wait = doubled
		}
		wait = max(wait/2+rand.N(wait/2+1), again.After)
		c.log.Warn("trying again", "url", what, "in", wait.Round(time.Millisecond), "error", err)
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Get sends a request. The answer's body is broken off when nothing comes for Patience.StallAfter; the caller must
// close it.
func (c *Client) Get(ctx context.Context, address string, header http.Header) (*http.Response, error) {
	requestContext, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(c.patience.StallAfter, func() { cancel(ErrStalled) })
	fail := func(err error) (*http.Response, error) {
		watch.Stop()
		cause := context.Cause(requestContext)
		cancel(nil)
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // it tells the whole address, keys in it too; the caller knows which it is
		}
		if _, ok := errors.AsType[*redirectError](err); ok {
			return nil, err
		}
		if errors.Is(cause, ErrStalled) {
			err = ErrStalled
		}
		return nil, &Temporary{Err: err}
	}
	r, err := http.NewRequestWithContext(requestContext, http.MethodGet, address, nil)
	if err != nil {
		return fail(err)
	}
	for k, v := range header {
		r.Header[k] = v
	}
	r.Header.Set("User-Agent", c.userAgent)
	answer, err := c.http.Do(r)
	if err != nil {
		return fail(err)
	}
	watch.Stop()
	answer.Body = &watched{answer.Body, requestContext, cancel, watch, c.patience.StallAfter}
	return answer, nil
}

// watched is a body that must not stall.
type watched struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	after  time.Duration
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.after)
	n, err := w.ReadCloser.Read(p)
	w.timer.Stop()
	if err != nil && err != io.EOF && errors.Is(context.Cause(w.ctx), ErrStalled) {
		err = ErrStalled
	}
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	w.cancel(nil)
	return w.ReadCloser.Close()
}

// Unexpected makes an error of an answer's status.
func Unexpected(r *http.Response) error {
	err := fmt.Errorf("the server says %s", r.Status)
	switch {
	case r.StatusCode == http.StatusNotFound || r.StatusCode == http.StatusGone:
		return fmt.Errorf("%w: %w", ErrNotThere, err)
	case r.StatusCode == http.StatusTooManyRequests || r.StatusCode == http.StatusRequestTimeout || r.StatusCode >= 500:
		return &Temporary{err, retryAfter(r.Header.Get("Retry-After"))}
	}
	return err
}

// retryAfter reads Retry-After (RFC 9110 §10.2.3), seconds or a date; 0 if there is none that makes sense.
func retryAfter(value string) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if t, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}

// Version is what a server said of the file that it sent.
type Version struct {
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"last_modified,omitempty"`
	Length       int64  `json:"length"` // -1 if it was not announced
}

// validator is what If-Range is given (RFC 9110 §13.1.5); empty: the part cannot be continued.
func (v Version) validator() string {
	if v.ETag != "" && !strings.HasPrefix(v.ETag, "W/") {
		return v.ETag
	}
	return v.LastModified
}

// File is what to download, and what is asked of it.
type File struct {
	URL  string
	Path string // its final place
	// Replace: what is at Path already is an older version. Otherwise such a file is what is wanted.
	Replace bool
	// Have is the version at Path, of which the server is not asked again ([ErrUnchanged]); zero asks for any.
	Have Version
	// MaxBytes bounds the file; Limit names the setting in the error.
	MaxBytes int64
	Limit    string
	// Check looks at what was received before it gets its place. What it objects to is dropped.
	Check func(ctx context.Context, path string, size int64) error
	// Announced is told how many octets are missing once the server says so, Received how many have come; an error of
	// Received ends the download. Both may be nil.
	Announced func(octets int64)
	Received  func(octets int) error
}

// Fetch brings a file to its place and returns what version it is. The error is [ErrNotThere], [ErrUnchanged], a [*Fatal],
// or says why the attempts were given up.
func (c *Client) Fetch(ctx context.Context, f File) (Version, error) {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return Version{}, &Fatal{err}
	}
	p, err := openPart(ctx, f.Path)
	if err != nil {
		return Version{}, &Fatal{err}
	}
	defer p.close()
	if !f.Replace && Whole(f.Path) { // another process had the lock, and has finished
		return Version{}, p.restart(Version{})
	}
	start := time.Now()
	err = c.Retry(ctx, withoutQuery(f.URL), func() error {
		if err := c.download(ctx, f, p); err != nil {
			return err
		}
		return c.check(ctx, f, p)
	})
	if err != nil {
		return Version{}, err
	}
	if err := p.finish(f.Path); err != nil {
		return Version{}, &Fatal{err}
	}
	c.log.Info("fetched", "path", f.Path, "bytes", p.size, "seconds", time.Since(start).Round(time.Millisecond).Seconds())
	return p.Version, nil
}

// withoutQuery is an address for the log: keys are given in queries, and passwords before the host.
func withoutQuery(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "an address that cannot be read"
	}
	u.RawQuery = ""
	return u.Redacted()
}

// Whole reports whether a file is in its final place.
func Whole(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() > 0
}

// part is a file on its way.
type part struct {
	*os.File
	note string // path of the version
	Version
	size  int64 // how much of it there is
	done  bool  // it has its final name
	best  int64 // the largest size that counted as progress
	known bool  // File.Announced was told
}

// openPart opens what there is of the file at path.
func openPart(ctx context.Context, path string) (*part, error) {
	f, err := openLocked(ctx, path+".part")
	if err != nil {
		return nil, err
	}
	p := &part{File: f, note: path + ".part.json"}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	p.size = info.Size()
	note, err := os.ReadFile(p.note)
	if err != nil || json.Unmarshal(note, &p.Version) != nil || p.validator() == "" {
		return p, p.restart(Version{})
	}
	p.best = p.size
	return p, nil
}

// restart drops what there is, to make room for version v.
func (p *part) restart(v Version) error {
	if err := os.Remove(p.note); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := p.Truncate(0); err != nil {
		return err
	}
	p.size, p.Version = 0, v
	if v.validator() == "" {
		return nil
	}
	note, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(p.note, note, 0o644)
}

// close leaves behind what can be continued.
func (p *part) close() {
	if !p.done && (p.size == 0 || p.validator() == "") {
		os.Remove(p.note)
		os.Remove(p.Name())
	}
	p.Close()
}

// finish moves a whole file to its final place.
func (p *part) finish(path string) error {
	if err := p.Sync(); err != nil {
		return err
	}
	if err := os.Rename(p.Name(), path); err != nil {
		return err
	}
	p.done = true
	if err := os.Remove(p.note); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// errProgress is part of an error after which the file is further on than before.
var errProgress = errors.New("further on than before")

var contentRange = regexp.MustCompile(`^bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)$`)

// download receives what is missing of p.
func (c *Client) download(ctx context.Context, f File, p *part) error {
	if p.size > 0 && p.size == p.Length {
		return nil
	}
	header := http.Header{}
	switch {
	case p.size > 0:
		header.Set("Range", fmt.Sprintf("bytes=%d-", p.size))
		header.Set("If-Range", p.validator())
	case f.Have.ETag != "":
		header.Set("If-None-Match", f.Have.ETag)
	case f.Have.LastModified != "":
		header.Set("If-Modified-Since", f.Have.LastModified)
	}
	r, err := c.Get(ctx, f.URL, header)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	switch {
	case r.StatusCode == http.StatusPartialContent && p.size > 0:
		m := contentRange.FindStringSubmatch(r.Header.Get("Content-Range"))
		tag := r.Header.Get("ETag")
		if m == nil || m[1] != strconv.FormatInt(p.size, 10) || p.Length >= 0 && m[2] != "*" && m[2] != strconv.FormatInt(p.Length, 10) ||
			tag != "" && p.ETag != "" && tag != p.ETag {
			err := fmt.Errorf("the server sends another part than it was asked for: %.80q of %.80q", r.Header.Get("Content-Range"), tag)
			return local(p.restart(Version{}), &Temporary{Err: err})
		}
	case r.StatusCode == http.StatusOK:
		if err := p.restart(Version{r.Header.Get("ETag"), r.Header.Get("Last-Modified"), r.ContentLength}); err != nil {
			return &Fatal{err}
		}
	case r.StatusCode == http.StatusNotModified && p.size == 0 && f.Have != (Version{}):
		return ErrUnchanged
	case r.StatusCode == http.StatusRequestedRangeNotSatisfiable && p.size > 0:
		return local(p.restart(Version{}), &Temporary{Err: errors.New("what there is of it is longer than the file")})
	default:
		return Unexpected(r)
	}
	if !p.known && p.Length > 0 {
		p.known = true
		if f.Announced != nil {
			f.Announced(p.Length - p.size)
		}
	}
	return receive(r.Body, f, p)
}

// local returns err, unless something went wrong on this machine.
func local(mistake, err error) error {
	if mistake != nil {
		return &Fatal{mistake}
	}
	return err
}

// receive appends the body to p.
func receive(body io.Reader, f File, p *part) error {
	if _, err := p.Seek(p.size, io.SeekStart); err != nil {
		return &Fatal{err}
	}
	tooLarge := func(size int64) error {
		return local(p.restart(Version{}), fmt.Errorf("has %d octets or more, %s is %d", size, f.Limit, f.MaxBytes))
	}
	if p.Length > f.MaxBytes {
		return tooLarge(p.Length)
	}
	buffer := make([]byte, 128<<10)
	for {
		n, err := body.Read(buffer)
		if p.size+int64(n) > f.MaxBytes {
			return tooLarge(p.size + int64(n))
		}
		if f.Received != nil {
			if err := f.Received(n); err != nil {
				return err
			}
		}
		if n > 0 {
			if _, err := p.Write(buffer[:n]); err != nil {
				return &Fatal{err}
			}
			p.size += int64(n)
		}
		switch {
		case err == nil:
			continue
		case err == io.EOF && (p.Length < 0 || p.size == p.Length):
			return nil
		case err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF):
			err = fmt.Errorf("the connection ended after %d of %d octets", p.size, p.Length)
		}
		if p.size >= p.best+progressOctets && p.validator() != "" {
			p.best = p.size
			err = fmt.Errorf("%w (%w)", err, errProgress)
		}
		return &Temporary{Err: err}
	}
}

// check has p, all of which was received, looked at. What is no good is dropped.
func (c *Client) check(ctx context.Context, f File, p *part) error {
	err := f.Check(ctx, p.Name(), p.size)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil && p.size > 0:
		return nil
	case err == nil:
		err = errors.New("empty")
	}
	return local(p.restart(Version{}), &Temporary{Err: fmt.Errorf("the file received is no good: %w", err)})
}
