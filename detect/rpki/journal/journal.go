// Package journal remembers what the RPKI said, so that "what was the answer at 14:05 yesterday" has an answer.
//
// A journal is a folder of segments, each a file named by when it begins. A segment begins with a whole set, and each
// frame after that tells what changed, or that there was no data that could be used, or that what came was not put to use. A new one begins with every month,
// and when what changed has become larger than the set, but not while there is no data: then an answer costs the reading
// of at most two sets, and what is old is dropped by removing files. The whole RPKI of 2026 takes some 6 MB a month, and its
// changes as much again.
//
// A frame is the length of its content and the CRC-32C of it, four octets each, and the content, compressed by zstd. It
// is synced before it counts. What a crash left of one is cut off when the journal is opened again.
package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/routevigil/routevigil/detect/rpki"
)

// ErrUnknown is that the journal does not reach back so far.
var ErrUnknown = errors.New("nothing was recorded of that time")

// maxFrame bounds the content of a frame, compressed or not: several times what MaxVRPs would take.
const maxFrame = 1 << 30

const suffix = ".rpki"

// Journal is a journal that is open. Record belongs to one goroutine, At and Changes to any.
type Journal struct {
	dir  string
	keep time.Duration

	file         *os.File
	begun        time.Time // of the segment that is written; zero before the first
	whole, later int64     // octets of its first frame, and of those after it
	last         *rpki.Set
	lastAt       time.Time

	readAtMost int64 // by one answer of Changes

	reading sync.Mutex // one answer at a time: each holds a set or three
}

// Open opens the journal in a folder, which is made if missing. Segments that ended longer ago than keep are removed
// when a new one begins.
func Open(dir string, keep time.Duration) (*Journal, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	j := &Journal{dir: dir, keep: keep, readAtMost: readAtMost}
	segments, err := j.segments()
	if err != nil || len(segments) == 0 {
		return j, err
	}
	last := segments[len(segments)-1]
	if j.file, err = os.OpenFile(last.path, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	size := int64(0)
	st, err := replay(j.file, last.path, never, func(_ *state, _ frame, n int64) error {
		if size == 0 {
			j.whole = n
		}
		size += n
		return nil
	})
	if torn := (*tornError)(nil); err != nil && !errors.As(err, &torn) {
		j.file.Close()
		return nil, err
	}
	if err := j.file.Truncate(size); err != nil {
		j.file.Close()
		return nil, err
	}
	if _, err := j.file.Seek(size, io.SeekStart); err != nil {
		j.file.Close()
		return nil, err
	}
	if size == 0 { // nothing of its first frame is left
		j.file.Close()
		j.file = nil
		return j, os.Remove(last.path)
	}
	j.begun, j.later, j.lastAt = last.begin, size-j.whole, st.at
	if j.last, err = st.set(); err != nil {
		j.file.Close()
		return nil, fmt.Errorf("%s: %w", last.path, err)
	}
	return j, nil
}

// Close closes the file that is written.
func (j *Journal) Close() error {
	if j.file == nil {
		return nil
	}
	return j.file.Close()
}

// Record notes that s is in use from a moment on; nil, that there is no data that can be used. Time does not go back: an
// earlier moment counts as that of the record before. What has not changed is not recorded again.
func (j *Journal) Record(at time.Time, s *rpki.Set) error {
	at = at.UTC().Truncate(time.Microsecond)
	if at.Before(j.lastAt) {
		at = j.lastAt
	}
	y, m, _ := at.Date()
	by, bm, _ := j.begun.Date()
	if j.file == nil || s != nil && (y != by || m != bm || j.later > j.whole) { // before and after a time without data are told by one segment
		return j.begin(at, s)
	}
	content := frameOf(at, j.last, s)
	if content == nil {
		return nil
	}
	if err := j.add(content, at); err != nil {
		return err
	}
	j.last = s
	return nil
}

// add adds a frame to the segment.
func (j *Journal) add(content []byte, at time.Time) error {
	n, err := writeFrame(j.file, content)
	if err != nil {
		// What was written of it is cut off, here or by the next Open; the next record is a whole one.
		j.file.Truncate(j.whole + j.later)
		j.file.Close()
		j.file = nil
		return fmt.Errorf("RPKI journal: %w", err)
	}
	j.later += n
	j.lastAt = at
	return nil
}

// Hold notes that at a moment a set from a source was not put to use, and why: nothing changes by that. There must be a
// record of what is in use instead.
func (j *Journal) Hold(at time.Time, from, why string) error {
	if j.file == nil {
		return errors.New("RPKI journal: nothing is recorded that could stay in use")
	}
	at = at.UTC().Truncate(time.Microsecond)
	if at.Before(j.lastAt) {
		at = j.lastAt
	}
	return j.add(heldFrame(at, from, why), at)
}

// begin begins a segment.
func (j *Journal) begin(at time.Time, s *rpki.Set) error {
	if j.file != nil {
		j.file.Close()
		j.file = nil
	}
	path := filepath.Join(j.dir, fmt.Sprintf("%017d%s", at.UnixMicro(), suffix))
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("RPKI journal: %w", err)
	}
	n, err := writeFrame(f, wholeFrame(at, s))
	if err != nil {
		f.Close()
		os.Remove(path)
		return fmt.Errorf("RPKI journal: %w", err)
	}
	j.file, j.begun, j.whole, j.later, j.last, j.lastAt = f, at, n, 0, s, at
	return j.drop(at.Add(-j.keep))
}

// drop removes the segments that ended before a time.
func (j *Journal) drop(before time.Time) error {
	segments, err := j.segments()
	for i := 0; err == nil && i+1 < len(segments) && segments[i+1].begin.Before(before); i++ {
		err = os.Remove(segments[i].path)
	}
	return err
}

// At returns what was in use at a moment, nil where it was nothing, and since when. The error is [ErrUnknown] for a
// moment before the first record.
func (j *Journal) At(at time.Time) (s *rpki.Set, since time.Time, err error) {
	j.reading.Lock()
	defer j.reading.Unlock()
	return At(j.dir, at)
}

// At is [Journal.At] of a folder, which a Journal of another process may be writing to.
func At(dir string, at time.Time) (s *rpki.Set, since time.Time, err error) {
	segments, err := segmentsIn(dir)
	if err != nil {
		return nil, time.Time{}, err
	}
	for _, seg := range slices.Backward(segments) {
		if seg.begin.After(at) {
			continue
		}
		st, err := seg.at(at)
		if err != nil {
			return nil, time.Time{}, err
		}
		if st.frames == 0 {
			continue // it has just been made, or a crash left it: what was before it is what is recorded
		}
		if s, err = st.set(); err != nil {
			err = fmt.Errorf("%s: %w", seg.path, err)
		}
		return s, st.at, err
	}
	return nil, time.Time{}, ErrUnknown
}

type segment struct {
	path  string
	begin time.Time
}

// at reads a segment up to a moment. It has no frame where there is none, or not the whole of one.
func (s segment) at(at time.Time) (state, error) {
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil // it was dropped meanwhile
	}
	if err != nil {
		return state{}, err
	}
	defer f.Close()
	st, err := replay(f, s.path, at, func(*state, frame, int64) error { return nil })
	if torn := (*tornError)(nil); errors.As(err, &torn) {
		err = nil // it is being written, or a crash cut it off
	}
	return st, err
}

func (j *Journal) segments() ([]segment, error) { return segmentsIn(j.dir) }

// segmentsIn lists the files of a folder, the oldest first.
func segmentsIn(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []segment
	for _, e := range entries {
		micros, err := strconv.ParseInt(strings.TrimSuffix(e.Name(), suffix), 10, 64)
		if err == nil && strings.HasSuffix(e.Name(), suffix) {
			all = append(all, segment{filepath.Join(dir, e.Name()), time.UnixMicro(micros).UTC()})
		}
	}
	slices.SortFunc(all, func(a, b segment) int { return a.begin.Compare(b.begin) })
	return all, nil
}

// state is where a replay has come to: a set, and what has changed since. Changes are gathered, since to make a set of each
// would take a twentieth of a second.
type state struct {
	base    *rpki.Set // nil: nothing that can be used
	changes map[rpki.VRP]change
	aspas   map[uint32][]uint32
	from    string
	at      time.Time
	frames  int
}

// change is the last that was said of a VRP.
type change struct {
	vrp     rpki.VRP
	removed bool
}

// set makes what there is one set.
func (st *state) set() (*rpki.Set, error) {
	if len(st.changes)+len(st.aspas) == 0 {
		return st.base, nil
	}
	d := rpki.Delta{ASPAs: st.aspas}
	for _, c := range st.changes {
		if c.removed {
			d.Withdrawn = append(d.Withdrawn, c.vrp)
		} else {
			d.Announced = append(d.Announced, c.vrp)
		}
	}
	return st.base.With(d, st.from)
}

// never is later than every record.
var never = time.Unix(1<<40, 0)

// tornError is a frame that is not whole: the end of what can be used.
type tornError struct{ err error }

func (e *tornError) Error() string { return e.err.Error() }
func (e *tornError) Unwrap() error { return e.err }

// replay reads the frames of a segment up to a time; each is told every one before it counts, with the state before it and
// its octets, and an error of each ends the replay. The state is that before the frame with the error.
func replay(in io.Reader, name string, until time.Time, each func(before *state, next frame, octets int64) error) (st state, err error) {
	offset := int64(0)
	for {
		content, n, err := readFrame(in)
		if err == io.EOF {
			return st, nil
		}
		if err != nil {
			return st, fmt.Errorf("%s: at offset %d: %w", name, offset, err)
		}
		next, err := decode(content)
		if err == nil && next.kind == kindDelta && st.base == nil {
			err = errors.New("a change of nothing")
		}
		if err != nil {
			return st, fmt.Errorf("%s: at offset %d: %w", name, offset, err)
		}
		if next.at.After(until) {
			return st, nil
		}
		if err := each(&st, next, n); err != nil {
			return st, err
		}
		st.take(next)
		offset += n
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var encoder, _ = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))

// writeFrame appends a frame and returns its length.
func writeFrame(f *os.File, content []byte) (int64, error) {
	frame := encoder.EncodeAll(content, make([]byte, 8))
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-8))
	binary.BigEndian.PutUint32(frame[4:], crc32.Checksum(frame[8:], castagnoli))
	if _, err := f.Write(frame); err != nil {
		return 0, err
	}
	return int64(len(frame)), f.Sync()
}

// readFrame returns the content of the next frame and the frame's length; io.EOF at the end.
func readFrame(in io.Reader) (content []byte, n int64, err error) {
	var head [8]byte
	if _, err := io.ReadFull(in, head[:]); err == io.EOF {
		return nil, 0, io.EOF
	} else if err != nil {
		return nil, 0, &tornError{err}
	}
	length := binary.BigEndian.Uint32(head[:])
	if length > maxFrame {
		return nil, 0, fmt.Errorf("a frame of %d octets; %d is the most", length, maxFrame)
	}
	packed, err := io.ReadAll(io.LimitReader(in, int64(length))) // grows as data arrives, not as a header claims
	if err != nil || len(packed) < int(length) {
		return nil, 0, &tornError{errors.Join(err, io.ErrUnexpectedEOF)}
	}
	if crc32.Checksum(packed, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
		return nil, 0, &tornError{errors.New("the checksum of a frame is wrong")}
	}
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFrame))
	if err != nil {
		return nil, 0, err
	}
	defer d.Close()
	if content, err = d.DecodeAll(packed, nil); err != nil {
		return nil, 0, fmt.Errorf("a frame cannot be unpacked: %w", err)
	}
	return content, 8 + int64(length), nil
}

// Files lists the segments in a folder that tell of some moment in [from, to), zero times being no bounds.
func Files(dir string, from, to time.Time) (paths []string, err error) {
	segments, err := segmentsIn(dir)
	for i, s := range segments {
		over := i+1 < len(segments) && !segments[i+1].begin.After(from)
		if !over && (to.IsZero() || s.begin.Before(to)) {
			paths = append(paths, s.path)
		}
	}
	return paths, err
}
