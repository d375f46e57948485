package rpki

import (
	"errors"
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"
)

// scanner reads JSON (RFC 8259) from a stream piece by piece: encoding/json takes three times as long
// and holds every value in memory that it is to pass over, however long. The first error stays in err;
// from then on every method does nothing.
type scanner struct {
	r        io.Reader
	buf      []byte
	pos, len int
	offset   int64 // of buf in the stream
	text     []byte
	depth    int
	err      error
}

const (
	maxExport = 8 << 30 // bytes
	maxText   = 4096    // bytes of a string or number that is looked at
	maxDepth  = 64      // of objects and arrays
)

func newScanner(r io.Reader) *scanner { return &scanner{r: r, buf: make([]byte, 64<<10)} }

func (s *scanner) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("byte %d: %w", s.offset+int64(s.pos), fmt.Errorf(format, args...))
	}
}

// fill gets more bytes when all are used.
func (s *scanner) fill() bool {
	if s.err != nil {
		return false
	}
	s.offset += int64(s.len)
	s.pos, s.len = 0, 0
	if s.offset > maxExport {
		s.fail("longer than %d bytes", int64(maxExport))
		return false
	}
	for range 100 {
		n, err := s.r.Read(s.buf)
		switch {
		case n > 0:
			s.len = n
			return true
		case errors.Is(err, io.EOF):
			s.err = io.ErrUnexpectedEOF
			return false
		case err != nil:
			s.err = err
			return false
		}
	}
	s.err = io.ErrNoProgress
	return false
}

// get returns the next byte, 0 after an error.
func (s *scanner) get() byte {
	if s.pos == s.len && !s.fill() || s.err != nil {
		return 0
	}
	c := s.buf[s.pos]
	s.pos++
	return c
}

// peek returns the next byte that is no white space and leaves it there, 0 after an error.
func (s *scanner) peek() byte {
	for {
		if s.pos == s.len && !s.fill() || s.err != nil {
			return 0
		}
		switch c := s.buf[s.pos]; c {
		case ' ', '\t', '\r', '\n':
			s.pos++
		case 0:
			s.fail("a zero byte")
			return 0
		default:
			return c
		}
	}
}

func (s *scanner) expect(want byte) {
	if c := s.peek(); c == want {
		s.pos++
	} else {
		s.fail("expected %q, found %q", want, c)
	}
}

// end checks that nothing follows.
func (s *scanner) end() {
	if s.err != nil {
		return
	}
	if c := s.peek(); s.err == nil {
		s.fail("%q follows the object", c)
	} else if errors.Is(s.err, io.ErrUnexpectedEOF) {
		s.err = nil
	}
}

func (s *scanner) enter() bool {
	if s.depth++; s.depth > maxDepth {
		s.fail("deeper than %d levels", maxDepth)
	}
	return s.err == nil
}

// object reads an object. member must read the value of the member it is given.
func (s *scanner) object(member func(name string)) {
	s.expect('{')
	if !s.enter() {
		return
	}
	defer func() { s.depth-- }()
	if s.peek() == '}' {
		s.pos++
		return
	}
	for s.err == nil {
		name := s.memberName()
		s.expect(':')
		if s.err == nil {
			member(name)
		}
		if !s.more('}') {
			return
		}
	}
}

// memberName makes no string of the names that come with every entry.
func (s *scanner) memberName() string {
	switch name := s.str(); string(name) {
	case "asn":
		return "asn"
	case "prefix":
		return "prefix"
	case "maxLength":
		return "maxLength"
	case "ta":
		return "ta"
	case "expires":
		return "expires"
	default:
		return string(name)
	}
}

// array reads an array, calling element to read each. name says in errors what it holds.
func (s *scanner) array(name string, element func()) {
	if s.err != nil {
		return
	}
	s.expect('[')
	if !s.enter() {
		if s.err != nil {
			s.err = fmt.Errorf("%s: %w", name, s.err)
		}
		return
	}
	defer func() { s.depth-- }()
	if s.peek() == ']' {
		s.pos++
		return
	}
	for i := 0; s.err == nil; i++ {
		element()
		if s.err != nil {
			s.err = fmt.Errorf("%s[%d]: %w", name, i, s.err)
			return
		}
		if !s.more(']') {
			return
		}
	}
}

// more reads what follows a member or an element: a comma, or the end.
func (s *scanner) more(end byte) bool {
	switch c := s.peek(); {
	case s.err != nil:
	case c == ',':
		s.pos++
		return true
	case c == end:
		s.pos++
	default:
		s.fail("expected ',' or %q, found %q", end, c)
	}
	return false
}

// scalar reads a string, a number, true, false or null, and returns its text, which is good until the
// next call.
func (s *scanner) scalar() []byte {
	switch c := s.peek(); c {
	case '"':
		return s.str()
	case '{', '[':
		s.fail("expected a number or a string, found %q", c)
		return nil
	}
	s.bare()
	return s.text
}

// str reads a string into text.
func (s *scanner) str() []byte {
	s.expect('"')
	s.text = s.text[:0]
	for s.err == nil {
		// The plain part that is in the buffer.
		from := s.pos
		for s.pos < s.len && s.buf[s.pos] != '"' && s.buf[s.pos] != '\\' && s.buf[s.pos] >= ' ' {
			s.pos++
		}
		s.text = append(s.text, s.buf[from:s.pos]...)
		if len(s.text) > maxText {
			s.fail("a string longer than %d bytes", maxText)
			return nil
		}
		switch c := s.get(); {
		case s.err != nil:
		case c == '"':
			return s.text
		case c == '\\':
			s.escape()
		case c < ' ':
			s.fail("control character %q in a string", c)
		default: // the buffer was filled
			s.pos--
		}
	}
	return nil
}

func (s *scanner) escape() {
	switch c := s.get(); c {
	case '"', '\\', '/':
		s.text = append(s.text, c)
	case 'b':
		s.text = append(s.text, '\b')
	case 'f':
		s.text = append(s.text, '\f')
	case 'n':
		s.text = append(s.text, '\n')
	case 'r':
		s.text = append(s.text, '\r')
	case 't':
		s.text = append(s.text, '\t')
	case 'u':
		s.text = utf8.AppendRune(s.text, s.unicode())
	default:
		s.fail("%q after a backslash", c)
	}
}

// unicode reads what follows \u. The names in an export are plain ASCII: of a surrogate pair each half
// becomes U+FFFD.
func (s *scanner) unicode() rune {
	var r rune
	for range 4 {
		c := s.get()
		switch {
		case '0' <= c && c <= '9':
			r = r<<4 | rune(c-'0')
		case 'a' <= c|0x20 && c|0x20 <= 'f':
			r = r<<4 | rune(c|0x20-'a'+10)
		default:
			s.fail("%q in a Unicode escape", c)
			return 0
		}
	}
	if utf16.IsSurrogate(r) {
		return utf8.RuneError
	}
	return r
}

// bare reads true, false, null or a number into text.
func (s *scanner) bare() {
	s.text = s.text[:0]
	for s.peekRaw() {
		c := s.buf[s.pos]
		if !('0' <= c && c <= '9' || 'a' <= c && c <= 'z' || c == '+' || c == '-' || c == '.' || c == 'E') {
			break
		}
		if s.text = append(s.text, c); len(s.text) > maxText {
			s.fail("a number longer than %d bytes", maxText)
			return
		}
		s.pos++
	}
	switch string(s.text) {
	case "true", "false", "null":
		return
	}
	if !isNumber(s.text) {
		s.fail("%q is no JSON value", s.text)
	}
}

func (s *scanner) peekRaw() bool { return s.pos < s.len || s.fill() }

// isNumber checks the grammar of RFC 8259 §6.
func isNumber(b []byte) bool {
	digits := func() bool {
		n := 0
		for n < len(b) && '0' <= b[n] && b[n] <= '9' {
			n++
		}
		b = b[n:]
		return n > 0
	}
	if len(b) > 0 && b[0] == '-' {
		b = b[1:]
	}
	if len(b) > 0 && b[0] == '0' {
		b = b[1:]
	} else if !digits() {
		return false
	}
	if len(b) > 0 && b[0] == '.' {
		b = b[1:]
		if !digits() {
			return false
		}
	}
	if len(b) > 0 && (b[0] == 'e' || b[0] == 'E') {
		b = b[1:]
		if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
			b = b[1:]
		}
		if !digits() {
			return false
		}
	}
	return len(b) == 0
}

// skip reads any value and forgets it.
func (s *scanner) skip() {
	switch s.peek() {
	case '{':
		s.object(func(string) { s.skip() })
	case '[':
		s.array("", s.skip)
	case '"':
		s.skipString()
	default:
		s.bare()
	}
}

// skipString passes over a string of any length.
func (s *scanner) skipString() {
	s.expect('"')
	for s.err == nil {
		switch c := s.get(); {
		case s.err != nil || c == '"':
			return
		case c == '\\':
			s.text = s.text[:0]
			s.escape()
		case c < ' ':
			s.fail("control character %q in a string", c)
		}
	}
}
