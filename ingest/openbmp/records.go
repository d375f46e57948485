package openbmp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/segmentio/kafka-go/compress"
)

// batchHeader is the length of a batch's header, format 2, up to its records.
const batchHeader = 61

// batch is a record batch (Kafka's message format 2).
type batch struct {
	first, last int64 // offsets, of which any may be absent
	control     bool  // a transaction's end; not for us
	codec       compress.Compression
	records     []byte // compressed by codec
	count       int32
}

// batchError is a fault of one batch, which is passed over.
type batchError struct {
	reason string
	detail string
}

func (e *batchError) Error() string { return "Kafka: " + e.reason + ": " + e.detail }

func batchErrorf(reason, format string, args ...any) *batchError {
	return &batchError{reason, fmt.Sprintf(format, args...)}
}

// errPartial says that a batch's end is missing, as is usual at the end of what a broker gives.
var errPartial = errors.New("the end of a batch is missing")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// splitBatch reads the batch that b starts with. The error is errPartial, or a *batchError; then rest is where the
// next batch begins, nil if that cannot be known. The offsets are set as far as they were found, and not to
// be believed after an error.
func splitBatch(b []byte) (x batch, rest []byte, err error) {
	const before = 12 // what the length does not count
	if len(b) < before {
		return x, nil, errPartial
	}
	length := int64(int32(binary.BigEndian.Uint32(b[8:])))
	x.first = int64(binary.BigEndian.Uint64(b))
	x.last = x.first
	if length < 5+1 {
		return x, nil, batchErrorf("batch_length", "a batch of %d octets", length)
	}
	if len(b) <= 16 {
		return x, nil, errPartial
	}
	if whole := before + length; whole <= int64(len(b)) {
		rest = b[whole:]
		b = b[:whole]
	}
	if b[16] != 2 {
		return x, rest, batchErrorf("batch_format", "message format %d; 2 is known, which Kafka has since 0.11", b[16])
	}
	if length < batchHeader-before {
		return x, nil, batchErrorf("batch_length", "a batch of %d octets", length)
	}
	if len(b) < batchHeader {
		return x, nil, errPartial
	}
	x.last = x.first + int64(max(0, int32(binary.BigEndian.Uint32(b[23:]))))
	if before+length > int64(len(b)) {
		return x, nil, errPartial
	}
	if sum := crc32.Checksum(b[21:], castagnoli); sum != binary.BigEndian.Uint32(b[17:]) {
		return x, rest, batchErrorf("batch_checksum", "CRC-32C %08x where the batch at offset %d says %08x", sum, x.first, b[17:21])
	}
	attributes := binary.BigEndian.Uint16(b[21:])
	x.codec, x.control = compress.Compression(attributes&7), attributes&0x20 != 0
	x.count = int32(binary.BigEndian.Uint32(b[57:]))
	x.records = b[batchHeader:]
	return x, rest, nil
}

// decompressor undoes compression, into memory that it uses again and with a bound.
type decompressor struct {
	most int
	out  bytes.Buffer
	zstd *zstd.Decoder
	gzip gzip.Reader
	src  bytes.Reader
}

// decompress returns what b is compressed from; it holds until the next call. The error is a *batchError.
func (d *decompressor) decompress(codec compress.Compression, b []byte) (_ []byte, err error) {
	d.src.Reset(b)
	d.out.Reset()
	if d.out.Cap() > 4<<20 { // one large batch should not hold memory for ever
		d.out = bytes.Buffer{}
	}
	switch codec {
	case 0:
		return b, nil
	case compress.Gzip:
		if err = d.gzip.Reset(&d.src); err == nil {
			err = d.read(&d.gzip)
		}
	case compress.Snappy:
		err = d.snappy(b)
	case compress.Lz4:
		r := compress.Lz4.Codec().NewReader(&d.src)
		err = d.read(r)
		r.Close()
	case compress.Zstd:
		err = d.zstandard(b)
	default:
		return nil, batchErrorf("batch_codec", "compression %d is not known", codec)
	}
	if err == nil && d.out.Len() > d.most {
		err = errTooLarge
	}
	switch {
	case errors.Is(err, errTooLarge):
		return nil, batchErrorf("batch_too_large", "more than %d octets when decompressed", d.most)
	case err != nil:
		return nil, batchErrorf("batch_compression", "%v: %v", codec, err)
	}
	return d.out.Bytes(), nil
}

var errTooLarge = errors.New("too large")

func (d *decompressor) read(r io.Reader) error {
	_, err := d.out.ReadFrom(io.LimitReader(r, int64(d.most)+1))
	return err
}

func (d *decompressor) zstandard(b []byte) (err error) {
	if d.zstd == nil {
		// The bound of memory is one of the window too, which producers leave at 8 MB however little they have.
		d.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(max(d.most, 32<<20))))
		if err != nil {
			return err
		}
	}
	out, err := d.zstd.DecodeAll(b, d.out.AvailableBuffer())
	if errors.Is(err, zstd.ErrDecoderSizeExceeded) || errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return errTooLarge
	}
	if err == nil {
		d.out = *bytes.NewBuffer(out)
	}
	return err
}

// snappy undoes Snappy, one block or several in the framing of xerial's library, which Java's clients use:
// 16 octets of header, then blocks, each after its length.
func (d *decompressor) snappy(b []byte) error {
	const header = 16
	if len(b) == 0 { // what kafka-go writes for nothing
		return nil
	}
	if !bytes.HasPrefix(b, []byte("\x82SNAPPY\x00")) {
		return d.block(b)
	}
	if len(b) < header {
		return io.ErrUnexpectedEOF
	}
	for b = b[header:]; len(b) > 0; {
		if len(b) < 4 {
			return io.ErrUnexpectedEOF
		}
		n := binary.BigEndian.Uint32(b)
		if b = b[4:]; uint64(n) > uint64(len(b)) {
			return io.ErrUnexpectedEOF
		}
		if err := d.block(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (d *decompressor) block(b []byte) error {
	n, err := snappy.DecodedLen(b)
	if err != nil {
		return err
	}
	if n > d.most-d.out.Len() {
		return errTooLarge
	}
	d.out.Grow(n)
	out, err := snappy.Decode(d.out.AvailableBuffer()[:n], b)
	if err != nil {
		return err
	}
	d.out.Write(out)
	return nil
}

// each calls f for every record of a batch, in order. An error is f's, or a *batchError; the records before it
// were in order.
func (x *batch) each(records []byte, f func(offset int64, value []byte) error) error {
	for range x.count {
		length, n := binary.Varint(records)
		if n <= 0 || length < 0 || length > int64(len(records)-n) {
			return batchErrorf("record", "a record of %d octets where %d are left", length, len(records)-max(n, 0))
		}
		r := cursor{b: records[n : n+int(length)]}
		records = records[n+int(length):]
		r.skip(1)  // attributes, of which none is in use
		r.varint() // time
		delta := r.varint()
		r.skip(max(0, r.varint())) // key
		size := r.varint()
		value := r.take(max(0, size))
		if r.bad || delta < 0 || delta > x.last-x.first {
			return batchErrorf("record", "the fields of a record at offset %d+%d do not fit it", x.first, delta)
		}
		if err := f(x.first+delta, value); err != nil {
			return err
		}
	}
	return nil
}

// cursor reads a record. Headers, which come after the value, are of no interest.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) varint() int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.bad, c.b = true, nil
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) take(n int64) []byte {
	if n > int64(len(c.b)) {
		c.bad, c.b = true, nil
		return nil
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v
}

func (c *cursor) skip(n int64) { c.take(n) }
