package origins

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"

	"github.com/routevigil/routevigil/ingest"
)

// A history file is
//
//	magic     16 bytes "routevigil/hist\n"
//	version   2 bytes, 1
//	body      one zstd frame
//	checksum  32 bytes, SHA-256 of all before
//
// and its body, little-endian like the version:
//
//	half-life, watched, peers   8 bytes each, IEEE 754: seconds; seconds; peers times seconds
//	at                          4 bytes, seconds since 1970: when it was saved, in event time
//	prefixes                    4 bytes
//	for each prefix, in ascending order of address and length:
//	  family   1 byte, 4 or 6
//	  length   1 byte
//	  address  4 or 16 bytes, without bits beyond the length
//	  pairs    uvarint, at least 1
//	  pairs    50 bytes each, in the order of first appearance: origin, first, since, at (4 bytes each), present,
//	           heard (IEEE 754, 4 bytes each), first hops (3 × 4), upstreams (2 × 4), their counters (3 + 2), flags (1:
//	           usual, 2: of the baseline)
//
// Sums are as of each pair's own at. Nobody has a route in a file: whoever reads it learns from its
// feeds who is still there.

const (
	magic   = "routevigil/hist\n"
	version = 1
)

// EncodedPair is how many bytes AppendPair writes.
const EncodedPair = 50

// Bounds of what is read.
const (
	maxFile     = 4 << 30
	maxPrefixes = 16 << 20
	maxPairs    = 1 << 17 // of one prefix
	maxAllPairs = 64 << 20
)

// AppendPair appends p as it is in files, without its routes.
func AppendPair(b []byte, p *Pair) []byte {
	for _, v := range [...]uint32{p.origin, p.first, p.since, p.at, math.Float32bits(p.present), math.Float32bits(p.heard),
		p.hops[0], p.hops[1], p.hops[2], p.ups[0], p.ups[1]} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	b = append(b, p.hopN[:]...)
	b = append(b, p.upN[:]...)
	return append(b, byte(p.flags))
}

// DecodePair reads what AppendPair wrote; b must hold at least EncodedPair bytes.
func DecodePair(b []byte) (Pair, error) {
	at := func(i int) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) }
	p := Pair{origin: at(0), first: at(1), since: at(2), at: at(3), present: math.Float32frombits(at(4)), heard: math.Float32frombits(at(5)),
		hops: [numHops]uint32{at(6), at(7), at(8)}, ups: [numUps]uint32{at(9), at(10)}, flags: flags(b[49])}
	copy(p.hopN[:], b[44:47])
	copy(p.upN[:], b[47:49])
	if !finite(float64(p.present)) || !finite(float64(p.heard)) || p.flags&^flagAll != 0 {
		return p, errors.New("a pair has impossible values")
	}
	return p, nil
}

func finite(f float64) bool { return f >= 0 && !math.IsInf(f, 1) }

// State is a clock at rest.
type State struct {
	At             uint32 // seconds since 1970, event time
	Watched, Peers float64
}

// State returns the clock's state, for Restore.
func (c *Clock) State() State { return State{c.at, c.watched, c.peers} }

// Restore continues from a state.
func (c *Clock) Restore(s State) error {
	if !finite(s.Watched) || !finite(s.Peers) {
		return errors.New("the clock has impossible values")
	}
	c.at, c.watched, c.peers = s.At, s.Watched, s.Peers
	return nil
}

// Chain is the history of one prefix.
type Chain struct {
	Prefix  netip.Prefix
	History *History
	Head    Ref
}

// Compare is the order of prefixes in a file.
func Compare(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// Write writes the histories of n prefixes, which must come in the order of Compare, by the clock that they
// share. Those present are counted up to now.
func Write(w io.Writer, c *Clock, now ingest.Time, n int, chains iter.Seq[Chain]) error {
	sum := sha256.New()
	out := io.MultiWriter(w, sum)
	if _, err := out.Write(binary.LittleEndian.AppendUint16([]byte(magic), version)); err != nil {
		return err
	}
	z, err := zstd.NewWriter(out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	body := bufio.NewWriterSize(z, 1<<16)
	if err := writeBody(body, c, now, n, chains); err != nil {
		z.Close()
		return err
	}
	if err := errors.Join(body.Flush(), z.Close()); err != nil {
		return err
	}
	_, err = w.Write(sum.Sum(nil))
	return err
}

func writeBody(w *bufio.Writer, c *Clock, now ingest.Time, n int, chains iter.Seq[Chain]) error {
	var b []byte
	for _, f := range [...]float64{c.halfLife, c.watched, c.peers} {
		b = binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
	}
	b = binary.LittleEndian.AppendUint32(b, c.at)
	b = binary.LittleEndian.AppendUint32(b, uint32(n))
	t := seconds(now)
	for ch := range chains {
		family := byte(4)
		if ch.Prefix.Addr().Is6() {
			family = 6
		}
		b = append(b, family, byte(ch.Prefix.Bits()))
		b = append(b, ch.Prefix.Addr().AsSlice()...)
		pairs := 0
		ch.History.Each(ch.Head, func(*Pair) bool { pairs++; return true })
		b = binary.AppendUvarint(b, uint64(pairs))
		ch.History.Each(ch.Head, func(p *Pair) bool {
			q := *p
			if q.routes > 0 && t > q.at {
				q.accrue(ch.History.clock, t)
			}
			b = AppendPair(b, &q)
			return true
		})
		if _, err := w.Write(b); err != nil {
			return err
		}
		b = b[:0]
	}
	_, err := w.Write(b)
	return err
}

// Read reads what Write wrote: it sets the clock and calls add for each prefix with its pairs, which
// are add's only for the call. A file whose checksum does not match is refused before anything is done.
func Read(data []byte, c *Clock, add func(netip.Prefix, []Pair) error) error {
	head, tail := len(magic)+2, sha256.Size
	if len(data) < head+tail || string(data[:len(magic)]) != magic {
		return errors.New("is no history file")
	}
	content := data[:len(data)-tail]
	if v := binary.LittleEndian.Uint16(data[len(magic):]); v != version {
		return fmt.Errorf("has version %d; this program reads %d", v, version)
	}
	if sum := sha256.Sum256(content); !bytes.Equal(sum[:], data[len(content):]) {
		return errors.New("is damaged: the checksum does not match")
	}
	z, err := zstd.NewReader(bytes.NewReader(content[head:]), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(64<<20))
	if err != nil {
		return err
	}
	defer z.Close()
	if err := readBody(bufio.NewReaderSize(z, 1<<16), c, add); err != nil {
		return fmt.Errorf("is damaged: %w", err)
	}
	return nil
}

func readBody(r *bufio.Reader, c *Clock, add func(netip.Prefix, []Pair) error) error {
	var fixed [32]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return err
	}
	float := func(i int) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(fixed[8*i:])) }
	if h := float(0); !finite(h) || h < 1 {
		return fmt.Errorf("a half-life of %v s", h)
	}
	// The sums are in the units of the half-life they were made with; only their ratio counts, so that they
	// go on with another.
	if err := c.Restore(State{binary.LittleEndian.Uint32(fixed[24:]), float(1), float(2)}); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(fixed[28:])
	if n > maxPrefixes {
		return fmt.Errorf("%d prefixes", n)
	}
	var last netip.Prefix
	var pairs []Pair
	all := 0
	for i := range n {
		p, err := readPrefix(r)
		if err != nil {
			return err
		}
		if i > 0 && Compare(last, p) >= 0 {
			return fmt.Errorf("%s stands after %s", p, last)
		}
		last = p
		if pairs, err = readPairs(r, pairs[:0]); err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		if all += len(pairs); all > maxAllPairs {
			return fmt.Errorf("more than %d pairs", maxAllPairs)
		}
		if err := add(p, pairs); err != nil {
			return err
		}
	}
	if _, err := r.ReadByte(); err != io.EOF {
		return errors.New("there is more than the prefixes announced")
	}
	return nil
}

func readPrefix(r *bufio.Reader) (netip.Prefix, error) {
	var b [18]byte
	if _, err := io.ReadFull(r, b[:2]); err != nil {
		return netip.Prefix{}, err
	}
	size := map[byte]int{4: 4, 6: 16}[b[0]]
	if size == 0 {
		return netip.Prefix{}, fmt.Errorf("address family %d", b[0])
	}
	if _, err := io.ReadFull(r, b[2:2+size]); err != nil {
		return netip.Prefix{}, err
	}
	a, _ := netip.AddrFromSlice(b[2 : 2+size])
	p := netip.PrefixFrom(a, int(b[1]))
	if !p.IsValid() || p.Masked() != p {
		return p, fmt.Errorf("%s/%d is no prefix", a, b[1])
	}
	return p, nil
}

func readPairs(r *bufio.Reader, pairs []Pair) ([]Pair, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if n == 0 || n > maxPairs {
		return nil, fmt.Errorf("%d origins", n)
	}
	var b [EncodedPair]byte
	for range n {
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, err
		}
		p, err := DecodePair(b[:])
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

// WriteFile replaces the file at path by what write writes, in one step: whatever happens, there is the
// old file or the new one.
func WriteFile(path string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	buffered := bufio.NewWriterSize(f, 1<<16)
	if err = write(buffered); err != nil {
		return err
	}
	if err = buffered.Flush(); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// ReadFile returns the content of a file that WriteFile wrote.
func ReadFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s: has %d bytes, more than a history can have", path, info.Size())
	}
	return os.ReadFile(path)
}
