// Package archive reads routing history from files: MRT as RIPE RIS and RouteViews publish it, RIS Live
// messages as JSON lines, or BMP as a router sent it, alone or in a capture of packets, plain or
// compressed. What a file holds is told by its content, never by its name, since people rename files.
//
// Several files become one stream in the order of time. A day of one collector is hundreds of files,
// and a decompressor of bzip2 alone takes 4 MB, so a file is open only while its turn lasts: it is
// looked into once for the time it begins with, and opened when the stream gets there. While open,
// it is decompressed ahead on a goroutine of its own, since that takes longer than decoding does.
package archive

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/mrt"
	"github.com/routevigil/routevigil/ingest/rislive"
)

// Options for [Open] and [OpenItems]. The zero value is ready to use.
type Options struct {
	// Collector is set in every MRT and BMP peer. Empty: what [CollectorOf] makes of an MRT file's path;
	// of BMP, the name that the router gives itself or, in a capture of packets, its address.
	Collector string
	// Report is called, from within Next, for everything that was wrong and passed over: a damaged
	// record or BMP message (*mrt.RecordError, *rislive.LineError), or a file of which nothing more can be read.
	// Each error names its file. Nil: they are only counted.
	Report func(error)
	// Stdin is what the path "-" stands for. Nil: os.Stdin.
	Stdin io.Reader
}

// Reader is a stream of updates. It is not safe for concurrent use, but for Progress.
type Reader struct{ merger[ingest.Update] }

// Open prepares to read the files, each MRT, RIS Live JSON lines or BMP. Nothing is read before the
// first Next. The error says what is wrong with paths.
func Open(paths []string, o Options) (*Reader, error) {
	r := &Reader{merger[ingest.Update]{
		o:      o,
		timeOf: func(u *ingest.Update) ingest.Time { return u.Time },
		decode: func(in *bufio.Reader, name, collector string) (func() (*ingest.Update, error), func() mrt.Counts, error) {
			head, _ := in.Peek(512)
			if isJSON(head) {
				j := &jsonLines{in: rislive.NewReader(in, name)}
				return j.next, func() mrt.Counts { return j.counts }, nil
			}
			if b := newBMP(in, head, name, o.Collector, false); b != nil {
				return b.update, b.allCounts, nil
			}
			m := mrt.NewReader(in, name, collector)
			return m.Next, m.Counts, nil
		},
	}}
	return r, r.prepare(paths)
}

// ItemReader is a stream of everything that MRT and BMP files hold. It is not safe for concurrent use, but
// for Progress.
type ItemReader struct{ merger[mrt.Item] }

// OpenItems is [Open] for MRT and BMP files, with all that [mrt.Reader.NextItem] gives.
func OpenItems(paths []string, o Options) (*ItemReader, error) {
	r := &ItemReader{merger[mrt.Item]{
		o:      o,
		timeOf: func(it *mrt.Item) ingest.Time { return it.Time },
		decode: func(in *bufio.Reader, name, collector string) (func() (*mrt.Item, error), func() mrt.Counts, error) {
			head, _ := in.Peek(512)
			if isJSON(head) {
				return nil, nil, fmt.Errorf("%s: %w but JSON; such files can be replayed", name, mrt.ErrNotMRT)
			}
			if b := newBMP(in, head, name, o.Collector, true); b != nil {
				return b.next, b.allCounts, nil
			}
			m := mrt.NewReader(in, name, collector)
			return m.NextItem, m.Counts, nil
		},
	}}
	return r, r.prepare(paths)
}

func isJSON(head []byte) bool {
	return !mrt.Plausible(head) && bytes.HasPrefix(bytes.TrimLeft(head, " \t\r\n"), []byte("{"))
}

// jsonLines counts what a RIS Live file holds.
type jsonLines struct {
	in     *rislive.Reader
	counts mrt.Counts
}

func (j *jsonLines) next() (*ingest.Update, error) {
	u, err := j.in.Next()
	if e, ok := errors.AsType[*rislive.LineError](err); ok {
		j.counts.Add(mrt.Counts{Malformed: map[string]uint64{e.Err.Reason: 1}})
	}
	if u != nil {
		j.counts.Records++
		j.counts.Announcements += uint64(len(u.Announced))
		j.counts.Withdrawals += uint64(len(u.Withdrawn))
		if u.Kind == ingest.PeerUp || u.Kind == ingest.PeerDown {
			j.counts.StateChanges++
		}
	}
	return u, err
}

// merger merges files by time; T is what they are made of.
type merger[T any] struct {
	o      Options
	timeOf func(*T) ingest.Time
	// decode chooses a decoder by what in begins with.
	decode func(in *bufio.Reader, name, collector string) (next func() (*T, error), counts func() mrt.Counts, err error)

	paths       []string
	waiting     []*file[T] // the next to be opened first
	active      []*file[T]
	last        *file[T] // whose head was handed on
	started     bool
	passed      int
	done        mrt.Counts // of the files that were read
	read, total atomic.Int64
}

// file is one input. It is open while in is set.
type file[T any] struct {
	path   string
	index  int         // in the arguments: decides ties
	begins ingest.Time // of its first item; 0 if there is none

	in     *input
	next   func() (*T, error)
	counts func() mrt.Counts
	head   *T
	time   ingest.Time // of head
}

func (m *merger[T]) prepare(paths []string) error {
	if len(paths) == 0 {
		return errors.New("no file to read")
	}
	stdin := 0
	for _, p := range paths {
		if p == "-" {
			stdin++
		}
	}
	if stdin > 1 {
		return errors.New(`"-" (standard input) is given more than once`)
	}
	m.paths = paths
	for _, p := range paths {
		info, err := os.Stat(p)
		if p == "-" || err == nil && !info.Mode().IsRegular() {
			m.total.Store(0)
			break // nobody knows
		}
		if err == nil {
			m.total.Add(info.Size())
		}
	}
	return nil
}

// Next returns the next item in the order of time, of equal times the one of the file named first.
// Within a file the order of the file is kept even where it is not that of time. The item is valid
// until the next call. The only error is io.EOF.
func (m *merger[T]) Next() (*T, error) {
	if !m.started {
		m.start()
	}
	if m.last != nil {
		m.advance(m.last)
		m.last = nil
	}
	for {
		var first *file[T]
		for _, f := range m.active {
			if first == nil || f.time < first.time || f.time == first.time && f.index < first.index {
				first = f
			}
		}
		if len(m.waiting) > 0 && (first == nil || m.waiting[0].begins <= first.time) {
			f := m.waiting[0]
			m.waiting = m.waiting[1:]
			m.active = append(m.active, f)
			if err := m.open(f, true); err != nil {
				m.report(err)
				m.close(f)
			} else {
				m.advance(f)
			}
			continue
		}
		if first == nil {
			return nil, io.EOF
		}
		m.last = first
		return first.head, nil
	}
}

// Close releases the files. Next must not be called after it.
func (m *merger[T]) Close() {
	for len(m.active) > 0 {
		m.close(m.active[0])
	}
	m.waiting, m.last = nil, nil
}

// Counts returns what was read so far, of all files.
func (m *merger[T]) Counts() mrt.Counts {
	var c mrt.Counts
	c.Add(m.done)
	for _, f := range m.active {
		if f.counts != nil {
			c.Add(f.counts())
		}
	}
	return c
}

// Progress returns how many octets of the files, as they are on disk, were read, and how many there
// are; 0 if that is unknown, as for standard input. It may be called from any goroutine.
func (m *merger[T]) Progress() (read, total int64) { return m.read.Load(), m.total.Load() }

// start finds out with what time each file begins.
func (m *merger[T]) start() {
	m.started = true
	for i, p := range m.paths {
		f := &file[T]{path: p, index: i}
		m.waiting = append(m.waiting, f)
		info, err := os.Stat(p)
		if len(m.paths) == 1 || p == "-" || err != nil || !info.Mode().IsRegular() {
			continue // begins at 0: it is opened at once, and what is wrong with it is reported
		}
		if m.open(f, false) == nil {
			for f.begins == 0 {
				head, err := f.next()
				if head != nil {
					f.begins = m.timeOf(head)
				} else if !passable(err) {
					break
				}
			}
		}
		f.in.close()
		f.in = nil
	}
	slices.SortStableFunc(m.waiting, func(a, b *file[T]) int { return int(max(-1, min(1, a.begins-b.begins))) })
}

// open opens f; ahead: to read all of it.
func (m *merger[T]) open(f *file[T], ahead bool) error {
	var counter *atomic.Int64
	if ahead {
		counter = &m.read
	}
	name := f.path
	if name == "-" {
		name = "standard input"
	}
	in, err := openInput(f.path, m.o.Stdin, counter)
	f.in = in
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	collector := m.o.Collector
	if collector == "" {
		collector = CollectorOf(f.path)
	}
	var src io.Reader = in
	if ahead && in.compressed {
		src = in.readAhead()
	}
	content := bufio.NewReaderSize(src, 4<<10)
	if in.compressed {
		if _, err := content.Peek(1); err == io.EOF {
			// A collector that heard nothing publishes such; a file without even a container is cut off.
			f.next, f.counts = func() (*T, error) { return nil, io.EOF }, nil
			return nil
		}
	}
	f.next, f.counts, err = m.decode(content, name, collector)
	return err
}

func (m *merger[T]) close(f *file[T]) {
	f.in.close()
	if f.counts != nil {
		m.done.Add(f.counts())
	}
	m.active = slices.DeleteFunc(m.active, func(g *file[T]) bool { return g == f })
}

// advance puts the next item of f at its head, or closes f.
func (m *merger[T]) advance(f *file[T]) {
	for {
		head, err := f.next()
		if err != nil && err != io.EOF {
			m.report(err)
		}
		if head != nil {
			f.head, f.time = head, m.timeOf(head)
			return
		}
		if !passable(err) {
			m.close(f)
			return
		}
	}
}

// passable reports whether a decoder can be asked again after err.
func passable(err error) bool {
	if _, ok := errors.AsType[*mrt.RecordError](err); ok {
		return true
	}
	_, ok := errors.AsType[*rislive.LineError](err)
	return ok
}

// PassedOver is how many things were wrong and passed over so far: the calls of Options.Report.
func (m *merger[T]) PassedOver() int { return m.passed }

func (m *merger[T]) report(err error) {
	m.passed++
	if m.o.Report != nil {
		m.o.Report(err)
	}
}

// maxWindow bounds the memory that a zstd file can ask for.
const maxWindow = 128 << 20

// input is an open file, decompressed.
type input struct {
	io.Reader
	compressed bool
	file       io.Closer // nil for standard input
	release    func()    // of the decompressor
	stop       chan struct{}
	finished   chan struct{}
}

// openInput opens a path; the octets read of it are added to counter. The input must be closed even
// if there is an error.
func openInput(path string, stdin io.Reader, counter *atomic.Int64) (*input, error) {
	in := &input{}
	var src io.Reader
	if path == "-" {
		if src = stdin; src == nil {
			src = os.Stdin
		}
	} else {
		f, err := os.Open(path)
		if err != nil {
			if e, ok := errors.AsType[*os.PathError](err); ok {
				err = e.Err // the caller names the file
			}
			return in, err
		}
		in.file, src = f, f
	}
	if counter != nil {
		src = &counting{src, counter}
	}
	raw := bufio.NewReaderSize(src, 64<<10)
	head, err := raw.Peek(4)
	if err != nil && err != io.EOF {
		if e, ok := errors.AsType[*os.PathError](err); ok {
			err = e.Err
		}
		return in, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(raw)
		if err != nil {
			return in, fmt.Errorf("gzip: %w", err)
		}
		in.Reader, in.compressed = z, true
	case bytes.HasPrefix(head, []byte("BZh")):
		in.Reader, in.compressed = bzip2.NewReader(raw), true
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return in, fmt.Errorf("zstd: %w", err)
		}
		in.Reader, in.compressed, in.release = z, true, z.Close
	default:
		in.Reader = raw
	}
	return in, nil
}

// close waits for the goroutine of readAhead, unless that waits for standard input.
func (in *input) close() {
	if in == nil {
		return
	}
	if in.stop != nil {
		close(in.stop)
		if in.file == nil {
			return
		}
		<-in.finished
	}
	if in.release != nil {
		in.release()
	}
	if in.file != nil {
		in.file.Close()
	}
}

// Blocks read ahead of the decoder.
const (
	blockSize = 128 << 10
	blocks    = 4
)

// readAhead starts a goroutine that reads in, until its end or until in is closed.
func (in *input) readAhead() io.Reader {
	in.stop, in.finished = make(chan struct{}), make(chan struct{})
	full, empty := make(chan block, blocks), make(chan []byte, blocks)
	for range blocks {
		empty <- make([]byte, blockSize)
	}
	go func() {
		defer close(in.finished)
		for {
			var b block
			select {
			case b.data = <-empty:
			case <-in.stop:
				return
			}
			n := 0
			for n < len(b.data) && b.err == nil {
				var m int
				m, b.err = in.Reader.Read(b.data[n:])
				n += m
			}
			b.data = b.data[:n]
			full <- b // there is room for every block
			if b.err != nil {
				return
			}
		}
	}()
	return &ahead{full: full, empty: empty}
}

type block struct {
	data []byte
	err  error // after data
}

// ahead is the decoder's side of readAhead.
type ahead struct {
	full  <-chan block
	empty chan<- []byte
	now   block
	used  int
}

func (a *ahead) Read(p []byte) (int, error) {
	for a.used == len(a.now.data) {
		if a.now.err != nil {
			return 0, a.now.err
		}
		if a.now.data != nil {
			a.empty <- a.now.data[:cap(a.now.data)] // there is room for every block
		}
		a.now, a.used = <-a.full, 0
	}
	n := copy(p, a.now.data[a.used:])
	a.used += n
	return n, nil
}

type counting struct {
	io.Reader
	n *atomic.Int64
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}
