package bmp

import (
	"fmt"
	"io"
)

// Reader splits a stream into messages. Its memory grows as data arrives, not as a header claims.
type Reader struct {
	src  io.Reader
	most int // octets of a message
	buf  []byte
	r, w int   // what is in buf
	off  int64 // of buf[r] in the stream
}

// NewReader reads src. A message longer than most octets, at most [MaxLength], ends the stream.
func NewReader(src io.Reader, most int) *Reader {
	return &Reader{src: src, most: min(most, MaxLength), buf: make([]byte, 16<<10)}
}

// Offset is where in the stream the next message begins.
func (r *Reader) Offset() int64 { return r.off }

// Next returns one whole message, which holds until the next call. The error is io.EOF at the end; an
// [*Error], with what there is of the message, after which nothing more can be read; or that of the source.
func (r *Reader) Next() ([]byte, error) {
	if err := r.fill(HeaderLength); err != nil {
		if err == io.EOF && r.w > r.r {
			return r.buf[r.r:r.w], errorf("truncated", 0, "the stream ends %d octets into a header", r.w-r.r)
		}
		return nil, err
	}
	n, err := Length(r.buf[r.r:r.w])
	if err == nil && n > r.most {
		err = errorf("length", 1, "%d octets in one message; %d is the most", n, r.most)
	}
	if err != nil {
		return r.buf[r.r:r.w], err
	}
	if err := r.fill(n); err != nil {
		if err == io.EOF {
			err = errorf("truncated", r.w-r.r, "the stream ends %d octets into a message of %d", r.w-r.r, n)
		} else {
			err = fmt.Errorf("%d octets into a message of %d: %w", r.w-r.r, n, err)
		}
		return r.buf[r.r:r.w], err
	}
	b := r.buf[r.r : r.r+n]
	r.r += n
	r.off += int64(n)
	return b, nil
}

// fill makes n octets available.
func (r *Reader) fill(n int) error {
	for empty := 0; r.w-r.r < n; {
		if r.r == r.w {
			r.r, r.w = 0, 0
		}
		if r.w == len(r.buf) {
			buf := r.buf
			if held := r.w - r.r; held > len(buf)/2 {
				buf = make([]byte, 2*len(buf))
			}
			r.w = copy(buf, r.buf[r.r:r.w])
			r.buf, r.r = buf, 0
		}
		m, err := r.src.Read(r.buf[r.w:])
		r.w += m
		switch {
		case m > 0:
			empty = 0
		case err != nil:
			return err
		default:
			if empty++; empty == 100 {
				return io.ErrNoProgress
			}
		}
	}
	return nil
}
