// Package rpsl reads dumps of routing registries: objects in the Routing Policy Specification Language
// (RFC 2622, RFC 4012), as RIPE, RADB and the others publish them.
//
// A dump is read as a stream, an object at a time, out of one buffer: nothing is allocated for an
// object, and what a hostile dump can cost is bounded by MaxObject and MaxDump. Text is left in the
// bytes it came in, since registries mix Latin-1, UTF-8 and worse, and everything that names a
// route, a set or an AS is ASCII.
//
// Only the syntax is judged here, and only of the classes that say something about routing. What
// attributes mean is package irr's matter.
package rpsl

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
)

// Class is the kind of an object.
type Class uint8

const (
	Other Class = iota // a class that is passed over
	Route
	Route6
	AutNum
	ASSet
	RouteSet
	Mntner
)

var classNames = [...]string{"other", "route", "route6", "aut-num", "as-set", "route-set", "mntner"}

func (c Class) String() string { return classNames[c] }

// ClassOf returns the class with a name in lower case, Other when it is none of those read here.
func ClassOf(name []byte) Class {
	switch string(name) {
	case "route":
		return Route
	case "route6":
		return Route6
	case "aut-num":
		return AutNum
	case "as-set":
		return ASSet
	case "route-set":
		return RouteSet
	case "mntner":
		return Mntner
	}
	return Other
}

// Attribute is one attribute of an object. Its lines are joined by a space, without comments and
// without white space around them. The name is in lower case.
type Attribute struct {
	Name, Value []byte
}

// Object is one object. Its first attribute names its class and its key. All of it lies in the
// buffer it was parsed from.
type Object struct {
	Class      Class
	Attributes []Attribute
}

// Key returns the value of the first attribute.
func (o *Object) Key() []byte { return o.Attributes[0].Value }

// Get returns the value of the first attribute with a name, nil when there is none.
func (o *Object) Get(name string) []byte {
	for _, a := range o.Attributes {
		if string(a.Name) == name {
			return a.Value
		}
	}
	return nil
}

// Reasons why an object is malformed.
const (
	TooLarge   = "too_large"    // longer than MaxObject
	NoName     = "no_name"      // a line that is neither an attribute nor the continuation of one
	NoValue    = "no_value"     // the attribute that should name the object is empty
	OutOfPlace = "out_of_place" // it starts with the continuation of an attribute
)

var (
	errNoName     = errors.New(NoName)
	errNoValue    = errors.New(NoValue)
	errOutOfPlace = errors.New(OutOfPlace)
	errDeleted    = errors.New("deleted")
)

// Parse parses the text of one object into o, whose attributes it reuses, and which then points into
// text. Text is changed: continued lines are joined and names lowered in place. The error's text is
// one of the reasons above. An object of class Other keeps only its first attribute.
func (o *Object) Parse(text []byte) error {
	o.Class, o.Attributes = Other, o.Attributes[:0]
	start, end := 0, 0 // of the last attribute's value
	for pos, next := 0, 0; pos < len(text); pos = next {
		next = len(text)
		if i := bytes.IndexByte(text[pos:], '\n'); i >= 0 {
			next = pos + i + 1
		}
		line := text[pos:next]
		switch line[0] {
		case '#', '%':
			continue
		case '\n', '\r':
			if len(bytes.TrimRight(line, "\r\n")) == 0 {
				continue
			}
		case ' ', '\t', '+':
			if len(o.Attributes) == 0 {
				return errOutOfPlace
			}
			if from, to := clean(text, pos+1, next); from < to {
				if end > start {
					text[end] = ' '
					end++
				}
				end += copy(text[end:], text[from:to])
				o.Attributes[len(o.Attributes)-1].Value = text[start:end:end]
			}
			continue
		case '*':
			if bytes.HasPrefix(line, deletionMark) {
				if len(o.Attributes) == 0 {
					return errDeleted
				}
				continue
			}
		}
		colon := bytes.IndexByte(line, ':')
		if colon <= 0 || !lowerName(line[:colon]) {
			return errNoName
		}
		name := line[:colon:colon]
		if len(o.Attributes) == 0 {
			o.Class = ClassOf(name)
		}
		start, end = clean(text, pos+colon+1, next)
		o.Attributes = append(o.Attributes, Attribute{name, text[start:end:end]})
		if o.Class == Other {
			return nil
		}
	}
	if len(o.Attributes) == 0 || len(o.Attributes[0].Value) == 0 {
		return errNoValue
	}
	return nil
}

// Append appends the object as text that Parse reads as the same object: a line for each attribute that keep accepts, the
// first in any case, and no empty line after them. It is no longer than the text that the object was parsed from.
func (o *Object) Append(b []byte, keep func(name []byte) bool) []byte {
	for i, a := range o.Attributes {
		if i == 0 || keep(a.Name) {
			b = append(append(b, a.Name...), ':')
			b = append(append(b, a.Value...), '\n')
		}
	}
	return b
}

// deletionMark overwrites the first bytes of what was deleted from an IRRd database file.
var deletionMark = []byte("*xx")

// clean returns where in text lies what a line, or the rest of one, holds without a comment and
// without white space around it.
func clean(text []byte, from, to int) (int, int) {
	if i := bytes.IndexByte(text[from:to], '#'); i >= 0 {
		to = from + i
	}
	for from < to && space(text[from]) {
		from++
	}
	for from < to && space(text[to-1]) {
		to--
	}
	return from, to
}

func space(c byte) bool { return c == ' ' || c-'\t' < 5 }

// lowerName lowers an attribute's name in place and reports whether it is one: letters, digits, - and _.
func lowerName(name []byte) bool {
	for i, c := range name {
		switch {
		case c >= 'a' && c <= 'z' || c == '-' || c >= '0' && c <= '9' || c == '_':
		case c >= 'A' && c <= 'Z':
			name[i] = c | 0x20
		default:
			return false
		}
	}
	return true
}

const (
	// MaxObject is the length in bytes of the longest object that is read. The longest in use, sets
	// of large carriers and the policies of exchanges, had less than 2 MiB in 2026.
	MaxObject = 8 << 20
	// MaxDump is how many bytes a dump may hold once it is unpacked. The largest had less than 8 GiB
	// in 2026, persons and addresses included.
	MaxDump = 64 << 30

	readSize = 256 << 10
)

// Counts says what a Reader has come across.
type Counts struct {
	Bytes     uint64             // once unpacked
	Objects   [Mntner + 1]uint64 // by class; Other were passed over
	Deleted   uint64             // marked as deleted
	Malformed map[string]uint64  // by reason; they were passed over
}

// Reader reads the objects of one dump.
type Reader struct {
	in         io.Reader
	buf        []byte
	start, end int   // of what is buffered
	err        error // of the input; io.EOF at its end
	object     Object
	counts     Counts
	maxObject  int
	maxDump    uint64
}

// NewReader returns a Reader of a dump, plain or gzip, which is told by its content.
func NewReader(in io.Reader) (*Reader, error) {
	b := bufio.NewReaderSize(in, readSize)
	r := &Reader{in: b, counts: Counts{Malformed: map[string]uint64{}}, maxObject: MaxObject, maxDump: MaxDump}
	magic, err := b.Peek(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		if r.in, err = gzip.NewReader(b); err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
	}
	r.buf = make([]byte, 2*readSize)
	for r.end < len(byteOrderMark) && r.err == nil {
		r.fill()
	}
	if bytes.HasPrefix(r.buf[:r.end], byteOrderMark) {
		r.start = len(byteOrderMark)
	}
	return r, nil
}

var byteOrderMark = []byte("\xef\xbb\xbf")

// Counts returns what was read so far.
func (r *Reader) Counts() Counts { return r.counts }

// Next returns the next object of a class other than Other. It is valid until the next call. The
// error is io.EOF at the end; any other is of the input, which is not readable beyond it.
func (r *Reader) Next() (*Object, error) {
	for {
		text, err := r.next()
		if err != nil {
			return nil, err
		}
		switch err := r.object.Parse(text); {
		case errors.Is(err, errDeleted):
			r.counts.Deleted++
		case err != nil:
			r.counts.Malformed[err.Error()]++
		default:
			r.counts.Objects[r.object.Class]++
			if r.object.Class != Other {
				return &r.object, nil
			}
		}
	}
}

// next returns the text of the next object that is not too long.
func (r *Reader) next() ([]byte, error) {
	for {
		r.skipBetween()
		if text, err := r.extent(); text != nil || err != nil {
			return text, err
		}
		r.counts.Malformed[TooLarge]++
	}
}

// extent returns the text of the object at r.start, nil when it was too long and passed over.
func (r *Reader) extent() ([]byte, error) {
	n := 0 // bytes of whole lines
	for {
		i := bytes.IndexByte(r.buf[r.start+n:r.end], '\n')
		switch {
		case i == 0 || i == 1 && r.buf[r.start+n] == '\r': // an empty line
			text := r.buf[r.start : r.start+n]
			r.start += n + i + 1
			return text, nil
		case i > 0 && n+i < r.maxObject:
			n += i + 1
		case i < 0 && r.end-r.start <= r.maxObject && r.err == nil:
			r.fill()
		case i < 0 && r.end-r.start <= r.maxObject:
			text := r.buf[r.start:r.end]
			r.start = r.end
			if len(text) == 0 || !errors.Is(r.err, io.EOF) {
				return nil, r.err
			}
			return text, nil
		default:
			r.start += n
			r.discard()
			return nil, nil
		}
	}
}

// skipBetween passes over empty lines and comments between objects, so that long runs of them are no object.
func (r *Reader) skipBetween() {
	for {
		if r.start == r.end {
			if r.err != nil {
				return
			}
			r.fill()
			continue
		}
		switch r.buf[r.start] {
		case '\n', '\r':
			r.start++
		case '#', '%':
			r.skipLine()
		default:
			return
		}
	}
}

func (r *Reader) skipLine() {
	for {
		if i := bytes.IndexByte(r.buf[r.start:r.end], '\n'); i >= 0 {
			r.start += i + 1
			return
		}
		r.start = r.end
		if r.err != nil {
			return
		}
		r.fill()
	}
}

// discard passes over the rest of an object; r.start is at the start of a line.
func (r *Reader) discard() {
	for {
		line := r.buf[r.start:r.end]
		switch {
		case len(line) < 2 && r.err == nil:
			r.fill()
		case len(line) == 0 || line[0] == '\n' || line[0] == '\r' && len(line) > 1 && line[1] == '\n':
			return
		default:
			r.skipLine()
		}
	}
}

// fill reads more after what is buffered.
func (r *Reader) fill() {
	if r.start > 0 {
		r.end = copy(r.buf, r.buf[r.start:r.end])
		r.start = 0
	}
	if len(r.buf)-r.end < readSize {
		r.buf = append(r.buf, make([]byte, len(r.buf))...)
	}
	for range 100 {
		n, err := r.in.Read(r.buf[r.end : r.end+readSize])
		r.end += n
		r.counts.Bytes += uint64(n)
		if r.counts.Bytes > r.maxDump {
			err = fmt.Errorf("more than %d bytes once unpacked", r.maxDump)
		}
		if err != nil {
			r.err = err
		}
		if n > 0 || err != nil {
			return
		}
	}
	r.err = io.ErrNoProgress
}
