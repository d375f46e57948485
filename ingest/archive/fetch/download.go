package fetch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	mrtarchive "github.com/routevigil/routevigil/ingest/archive"
)

// maxRetryAfter is the longest that a server may ask us to wait; a person has given up by then.
const maxRetryAfter = 15 * time.Minute

// progressOctets is how far an attempt must bring a file on not to count as one of Attempts.
const progressOctets = 1 << 20

// maxExpansion is how many times larger than compressed a file may be, and smallExpansion how large it may be anyway.
// Tables reach 20.
const (
	maxExpansion   = 200
	smallExpansion = 64 << 20
)

// errNotThere is that the server has no such file.
var errNotThere = errors.New("is not there")

// errStalled ends a request of which nothing more comes.
var errStalled = errors.New("nothing came any more")

// temporaryError is worth another attempt, after a time that the server may have asked for.
type temporaryError struct {
	err   error
	after time.Duration
}

func (e *temporaryError) Error() string { return e.err.Error() }
func (e *temporaryError) Unwrap() error { return e.err }

// fatalError will meet every other file as well.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

// retry calls try until it succeeds, fails for good or has failed too often.
func (c *Client) retry(ctx context.Context, what string, try func() error) error {
	for failures := 1; ; failures++ {
		err := try()
		if ctx.Err() != nil && err != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, errProgress) {
			failures = 0
		}
		again, ok := errors.AsType[*temporaryError](err)
		switch {
		case err == nil:
			return nil
		case !ok:
			return err
		case failures >= c.config.Attempts:
			return fmt.Errorf("given up after %d attempts: %w", failures, err)
		case again.after > maxRetryAfter:
			return fmt.Errorf("%w, and wants us to wait for %v; try later", err, again.after)
		}
		wait := c.config.RetryMax
		if doubled := c.config.RetryMin << max(0, failures-1); failures < 32 && doubled > 0 && doubled < wait {
			wait = doubled
		}
		wait = max(wait/2+rand.N(wait/2+1), again.after)
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

// get sends a request. Its answer's body is broken off when nothing comes for StallAfter.
func (c *Client) get(ctx context.Context, address string, header http.Header) (*http.Response, error) {
	requestContext, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(c.config.StallAfter, func() { cancel(errStalled) })
	fail := func(err error) (*http.Response, error) {
		watch.Stop()
		cause := context.Cause(requestContext)
		cancel(nil)
		if _, ok := errors.AsType[*redirectError](err); ok {
			return nil, err
		}
		if errors.Is(cause, errStalled) {
			err = errStalled
		}
		return nil, &temporaryError{err: err}
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
	answer.Body = &watched{answer.Body, requestContext, cancel, watch, c.config.StallAfter}
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
	if err != nil && err != io.EOF && errors.Is(context.Cause(w.ctx), errStalled) {
		err = errStalled
	}
	return n, err
}

func (w *watched) Close() error {
	w.timer.Stop()
	w.cancel(nil)
	return w.ReadCloser.Close()
}

// unexpected makes an error of an answer's status.
func unexpected(r *http.Response) error {
	err := fmt.Errorf("the server says %s", r.Status)
	switch {
	case r.StatusCode == http.StatusNotFound || r.StatusCode == http.StatusGone:
		return fmt.Errorf("%w: %w", errNotThere, err)
	case r.StatusCode == http.StatusTooManyRequests || r.StatusCode == http.StatusRequestTimeout || r.StatusCode >= 500:
		return &temporaryError{err, retryAfter(r.Header.Get("Retry-After"))}
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

// whole reports whether a file is in its final place.
func whole(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() > 0
}

// version says which version of a file a part belongs to.
type version struct {
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"last_modified,omitempty"`
	Length       int64  `json:"length"` // -1 if it was not announced
}

// validator is what If-Range is given (RFC 9110 §13.1.5); empty: the part cannot be continued.
func (v version) validator() string {
	if v.ETag != "" && !strings.HasPrefix(v.ETag, "W/") {
		return v.ETag
	}
	return v.LastModified
}

// part is a file on its way.
type part struct {
	*os.File
	note string // path of the version
	version
	size int64 // how much of it there is
	done bool  // it has its final name
	best int64 // the largest size that counted as progress
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
	if err != nil || json.Unmarshal(note, &p.version) != nil || p.validator() == "" {
		return p, p.restart(version{})
	}
	p.best = p.size
	return p, nil
}

// restart drops what there is, to make room for version v.
func (p *part) restart(v version) error {
	if err := os.Remove(p.note); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := p.Truncate(0); err != nil {
		return err
	}
	p.size, p.version = 0, v
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

// fetchOne brings one file to its final place.
func (c *Client) fetchOne(ctx context.Context, f File) error {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return &fatalError{err}
	}
	p, err := openPart(ctx, f.Path)
	if err != nil {
		return &fatalError{err}
	}
	defer p.close()
	if whole(f.Path) { // another process had the lock, and has finished
		return p.restart(version{})
	}
	start := time.Now()
	known := false
	err = c.retry(ctx, f.URL, func() error {
		if err := c.download(ctx, f, p, &known); err != nil {
			return err
		}
		return c.check(ctx, f, p)
	})
	if err != nil {
		return err
	}
	if err := p.finish(f.Path); err != nil {
		return &fatalError{err}
	}
	c.log.Info("fetched", "path", f.Path, "bytes", p.size, "seconds", time.Since(start).Round(time.Millisecond).Seconds())
	return nil
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
func (c *Client) download(ctx context.Context, f File, p *part, known *bool) error {
	if p.size > 0 && p.size == p.Length {
		return nil
	}
	header := http.Header{}
	if p.size > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", p.size))
		header.Set("If-Range", p.validator())
	}
	r, err := c.get(ctx, f.URL, header)
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
			return local(p.restart(version{}), &temporaryError{err: err})
		}
	case r.StatusCode == http.StatusOK:
		if err := p.restart(version{r.Header.Get("ETag"), r.Header.Get("Last-Modified"), r.ContentLength}); err != nil {
			return &fatalError{err}
		}
	case r.StatusCode == http.StatusRequestedRangeNotSatisfiable && p.size > 0:
		return local(p.restart(version{}), &temporaryError{err: errors.New("what there is of it is longer than the file")})
	default:
		return unexpected(r)
	}
	if !*known && p.Length > 0 {
		*known = true
		c.progress[f.Kind].known.Add(1)
		c.progress[f.Kind].octets.Add(p.Length - p.size)
	}
	return c.receive(r.Body, p)
}

// local returns err, unless something went wrong on this machine.
func local(mistake, err error) error {
	if mistake != nil {
		return &fatalError{mistake}
	}
	return err
}

// receive appends the body to p.
func (c *Client) receive(body io.Reader, p *part) error {
	if _, err := p.Seek(p.size, io.SeekStart); err != nil {
		return &fatalError{err}
	}
	if p.Length > c.config.MaxFileBytes {
		return local(p.restart(version{}), c.tooLarge(p.Length))
	}
	buffer := make([]byte, 128<<10)
	for {
		n, err := body.Read(buffer)
		if p.size+int64(n) > c.config.MaxFileBytes {
			return local(p.restart(version{}), c.tooLarge(p.size+int64(n)))
		}
		if c.received.Add(int64(n)) > c.config.MaxTotalBytes {
			return &fatalError{fmt.Errorf("archive.max_total_bytes (%d) have been fetched; raise it, or ask for less", c.config.MaxTotalBytes)}
		}
		if n > 0 {
			if _, err := p.Write(buffer[:n]); err != nil {
				return &fatalError{err}
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
		return &temporaryError{err: err}
	}
}

func (c *Client) tooLarge(size int64) error {
	return fmt.Errorf("has %d octets or more, archive.max_file_bytes is %d", size, c.config.MaxFileBytes)
}

// check looks at p, all of which was received. What is no good is dropped.
func (c *Client) check(ctx context.Context, f File, p *part) error {
	n, err := mrtarchive.Check(ctx, p.Name(), p.size*maxExpansion+smallExpansion)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil && n == 0 && f.Kind == RIB:
		err = errors.New("empty, which no table is")
	case err == nil && p.size == 0:
		err = errors.New("empty")
	case err == nil:
		return nil
	}
	return local(p.restart(version{}), &temporaryError{err: fmt.Errorf("the file received is no good: %w", err)})
}
