package rislive

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/routevigil/routevigil/ingest"
)

// LineError is a line that was wrong, wholly or in part. Reading may go on after it.
type LineError struct {
	Name string
	Line int
	Err  *Malformed
}

func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.Name, e.Line, e.Err) }

// Unwrap gives Err.
func (e *LineError) Unwrap() error { return e.Err }

// maxLine bounds a line of a file; a full BGP message makes 130 kB at most in hex and as much again
// in JSON.
const maxLine = 4 << 20

// Reader reads a file of RIS Live messages, one JSON object a line, as the service's stream
// endpoint sends them or as people save them.
type Reader struct {
	name string
	in   *bufio.Reader
	line int
	max  int    // octets in a line
	long []byte // a line that did not fit the buffer of in
	d    decoder
}

// NewReader reads from r. name stands in errors.
func NewReader(r io.Reader, name string) *Reader {
	return &Reader{name: name, in: bufio.NewReaderSize(r, 64<<10), max: maxLine}
}

// Next returns the next update, which is valid until the next call. The error is io.EOF at the end
// of the input; a *LineError for a line that is wrong, after which Next may be called again (an
// update beside it is what could be saved of the line); or what the underlying reader reported.
func (r *Reader) Next() (*ingest.Update, error) {
	for {
		text, err := r.next()
		if err != nil {
			return nil, err
		}
		u, err := r.d.decode(text)
		if err != nil {
			var m *Malformed
			errors.As(err, &m)
			return u, &LineError{r.name, r.line, m}
		}
		if u != nil {
			return u, nil
		}
	}
}

// next returns the next line that is not blank.
func (r *Reader) next() ([]byte, error) {
	for {
		text, err := r.nextLine()
		if c := (cursor{b: text}); err != nil || !c.end() {
			return text, err
		}
	}
}

func (r *Reader) nextLine() ([]byte, error) {
	text, err := r.in.ReadSlice('\n')
	r.line++
	if err == nil || err == io.EOF && len(text) > 0 {
		return text, nil
	}
	if !errors.Is(err, bufio.ErrBufferFull) {
		if err != io.EOF {
			err = fmt.Errorf("%s:%d: %w", r.name, r.line, err)
		}
		return nil, err
	}
	r.long = append(r.long[:0], text...)
	for errors.Is(err, bufio.ErrBufferFull) {
		text, err = r.in.ReadSlice('\n')
		if len(r.long) <= r.max {
			r.long = append(r.long, text...)
		}
	}
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("%s:%d: %w", r.name, r.line, err)
	}
	if len(r.long) > r.max {
		return nil, &LineError{r.name, r.line, malformed("too_long", "the line has more than %d octets", r.max)}
	}
	return r.long, nil
}
