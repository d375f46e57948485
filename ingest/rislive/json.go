package rislive

import (
	"bytes"
	"encoding/json"
)

// cursor walks over JSON text without copying it. It checks what it looks into; of values that are
// skipped it checks only that brackets and quotes pair up.
type cursor struct {
	b []byte
	i int
}

const maxDepth = 32

func (c *cursor) space() {
	for c.i < len(c.b) {
		switch c.b[c.i] {
		case ' ', '\t', '\n', '\r':
			c.i++
		default:
			return
		}
	}
}

// take consumes ch, after white space, if it is there.
func (c *cursor) take(ch byte) bool {
	c.space()
	if c.i < len(c.b) && c.b[c.i] == ch {
		c.i++
		return true
	}
	return false
}

func (c *cursor) peek() byte {
	c.space()
	if c.i < len(c.b) {
		return c.b[c.i]
	}
	return 0
}

// end reports whether nothing but white space is left.
func (c *cursor) end() bool {
	c.space()
	return c.i == len(c.b)
}

// text consumes a string and gives what stands between its quotes, escapes resolved.
func (c *cursor) text() ([]byte, bool) {
	c.space()
	start := c.i
	if !c.skipText() {
		return nil, false
	}
	inner := c.b[start+1 : c.i-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return inner, true
	}
	var s string
	if json.Unmarshal(c.b[start:c.i], &s) != nil {
		return nil, false
	}
	return []byte(s), true
}

func (c *cursor) skipText() bool {
	if c.i >= len(c.b) || c.b[c.i] != '"' {
		return false
	}
	for i := c.i + 1; ; {
		n := bytes.IndexByte(c.b[i:], '"')
		if n < 0 {
			return false
		}
		i += n + 1
		escapes := 0
		for c.b[i-2-escapes] == '\\' {
			escapes++
		}
		if escapes%2 == 0 {
			c.i = i
			return true
		}
	}
}

// skip consumes any value and gives its text.
func (c *cursor) skip() ([]byte, bool) {
	c.space()
	start, depth := c.i, 0
	for c.i < len(c.b) {
		switch c.b[c.i] {
		case '"':
			if !c.skipText() {
				return nil, false
			}
		case '{', '[':
			if depth++; depth > maxDepth {
				return nil, false
			}
			c.i++
		case '}', ']':
			if depth == 0 {
				return nil, false
			}
			depth--
			c.i++
		case ' ', '\t', '\n', '\r', ',', ':':
			if depth == 0 {
				return nil, false
			}
			c.i++
			continue
		default: // a number or a word
			for c.i < len(c.b) && !delimiter[c.b[c.i]] {
				c.i++
			}
		}
		if depth == 0 {
			return c.b[start:c.i], true
		}
	}
	return nil, false
}

var delimiter = [256]bool{' ': true, '\t': true, '\n': true, '\r': true, ',': true, ':': true, '{': true, '}': true, '[': true, ']': true, '"': true}

// object consumes an object, calling member for each key with the cursor at its value, which
// member must consume. It stops where member returns false.
func (c *cursor) object(member func(key []byte) bool) bool {
	if !c.take('{') {
		return false
	}
	if c.take('}') {
		return true
	}
	for {
		key, ok := c.text()
		if !ok || !c.take(':') || !member(key) {
			return false
		}
		if !c.take(',') {
			return c.take('}')
		}
	}
}

// array consumes an array, calling item with the cursor at each item, which item must consume.
func (c *cursor) array(item func() bool) bool {
	if !c.take('[') {
		return false
	}
	if c.take(']') {
		return true
	}
	for {
		if !item() {
			return false
		}
		if !c.take(',') {
			return c.take(']')
		}
	}
}

// uint32 consumes a number from 0 to 4294967295, bare or in a string.
func (c *cursor) uint32() (uint32, bool) {
	quoted := c.take('"')
	c.space()
	n, v := digits(c.b[c.i:])
	if n == 0 || v > 1<<32-1 || quoted && (c.i+n >= len(c.b) || c.b[c.i+n] != '"') {
		return 0, false
	}
	c.i += n
	if quoted {
		c.i++
	} else if c.i < len(c.b) && !delimiter[c.b[c.i]] {
		return 0, false
	}
	return uint32(v), true
}

// digits reads a decimal number of at most 19 digits: how many there are, and their value.
func digits(b []byte) (n int, v uint64) {
	for n < len(b) && n < 19 && b[n]-'0' <= 9 {
		v = v*10 + uint64(b[n]-'0')
		n++
	}
	return n, v
}
