// Package past remembers what verdicts were compared with, so that a verdict of last week can be given again.
//
// A [Recorder] keeps a copy of each file when it comes into use, under the SHA-256 of its content, so that what comes
// back, or what several restarts read again, is there once. Copies are gzip, which every reader of this program takes, so
// that a copy is read as the file itself was. An index, to which lines are only added, says what was in use since when.
// What the RPKI said is not here: package journal keeps every change of it, for far less.
//
// The order of writing makes a crash harmless: a copy is on the disk under its name before the index speaks of it, and a
// line of the index counts when its end and its checksum are there. A copy of which the index does not speak is removed
// by the next [Open].
//
// The past is bounded, by age and by bytes, and what went out of use first is dropped first: so far as it reaches back,
// it is there. What changes every few minutes is kept every few hours only. All that is missing for that or any other
// reason is known: [At] tells it of every source, and never takes one version for another.
package past

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
)

// Configuration bounds what is remembered.
type Configuration struct {
	Enabled  bool          `yaml:"enabled" doc:"Whether copies of what verdicts are compared with are kept, for explain --at and backtest. What the RPKI said is kept in any case."`
	Keep     time.Duration `yaml:"keep" doc:"How long what is no longer in use is kept."`
	MaxBytes int64         `yaml:"max_bytes" config:"bytes" doc:"How much all copies may take on the disk, compressed; what went out of use first is dropped first."`
	Every    time.Duration `yaml:"every" doc:"Shortest time between two copies of a mirrored registry, and of the detector's state with the table and the history of every prefix."`
}

// DefaultConfiguration reaches back some weeks where whole registries are mirrored, and the whole time elsewhere.
func DefaultConfiguration() Configuration {
	return Configuration{Enabled: true, Keep: 90 * 24 * time.Hour, MaxBytes: 10 << 30, Every: 6 * time.Hour}
}

// Validate reports every value out of range.
func (c Configuration) Validate() error {
	var errs []error
	if c.Keep < time.Hour {
		errs = append(errs, fmt.Errorf("keep: must be at least 1h, is %v", c.Keep))
	}
	if c.MaxBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("max_bytes: must be at least 1MiB, is %d", c.MaxBytes))
	}
	if c.Every < time.Second {
		errs = append(errs, fmt.Errorf("every: must be at least 1s, is %v", c.Every))
	}
	return errors.Join(errs...)
}

const (
	indexName = "index"
	copied    = ".gz" // of the names of copies
	scratch   = ".new"
)

// What a record tells.
const (
	inUse   = "use"   // of a source: another version is in use
	started = "start" // of nothing but the named sources is anything in use
	stopped = "stop"
	cut     = "cut"  // what was before is not told any more
	held    = "held" // of a source: another version was not put to use
)

// record is a line of the index.
type record struct {
	At      time.Time `json:"at"`
	What    string    `json:"what"`
	Source  string    `json:"source,omitempty"`
	From    string    `json:"from,omitempty"` // where it came from, as evidence names it
	Hash    string    `json:"hash,omitempty"` // of the content; "" where there is no copy
	Why     string    `json:"why,omitempty"`  // there is none, or it was held back
	Sources []string  `json:"sources,omitempty"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (r *record) append(b []byte) ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return b, err
	}
	b = append(b, text...)
	return append(b, end(text)...), nil
}

// end is what ends a line: it tells that the text is whole.
func end(text []byte) []byte { return fmt.Appendf(nil, "\t%08x\n", crc32.Checksum(text, castagnoli)) }

func parse(line []byte) (record, bool) {
	var r record
	text, _, _ := bytes.Cut(line, []byte("\t"))
	if !bytes.Equal(line[len(text):], end(text)) || json.Unmarshal(text, &r) != nil {
		return r, false
	}
	return r, strings.Trim(r.Hash, "0123456789abcdef") == "" // it is going to be the name of a file
}

// maxIndex bounds what is read of an index: a million lines and more.
const maxIndex = 256 << 20

// readIndex returns the records, how many damaged lines stand between them, and where the last whole line ends; what is
// behind that is of a write that did not end.
func readIndex(dir string) (all []record, damaged int, size int64, err error) {
	f, err := os.Open(filepath.Join(dir, indexName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, 0, nil
	}
	if err != nil {
		return nil, 0, 0, err
	}
	defer f.Close()
	in := bufio.NewReader(io.LimitReader(f, maxIndex))
	bad, at := 0, int64(0) // since the last whole line; octets read
	for {
		line, err := in.ReadBytes('\n')
		at += int64(len(line))
		if err == io.EOF {
			return all, damaged, size, nil
		}
		if err != nil {
			return nil, 0, 0, fmt.Errorf("%s: %w", f.Name(), err)
		}
		r, ok := parse(line)
		if !ok {
			bad++
			continue
		}
		damaged += bad
		all, size, bad = append(all, r), at, 0
	}
}

// Recorder writes down what is in use. Its methods may be called at the same time; a nil Recorder records nothing.
type Recorder struct {
	dir string
	c   Configuration
	log *slog.Logger

	mu        sync.Mutex
	index     *os.File
	size      int64            // of the index
	records   []record         // of the index
	unwritten []record         // which the disk did not take, the oldest first
	copies    map[string]int64 // by hash, the size of each that is there
	open      map[string]bool  // sources with a record since Open
}

// Open makes a Recorder in a folder, which is made if missing. There must be one at a time.
func Open(dir string, c Configuration, log *slog.Logger) (*Recorder, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	records, damaged, size, err := readIndex(dir)
	if err != nil {
		return nil, err
	}
	if damaged > 0 {
		log.Warn("lines of the index of the past are damaged and passed over", "lines", damaged, "folder", dir)
	}
	r := &Recorder{dir: dir, c: c, log: log, size: size, records: records, copies: map[string]int64{}, open: map[string]bool{}}
	if err := r.shorten(time.Now().Add(-c.Keep)); err != nil {
		return nil, err
	}
	if r.index, err = os.OpenFile(filepath.Join(dir, indexName), os.O_RDWR|os.O_CREATE, 0o644); err != nil {
		return nil, err
	}
	if err := errors.Join(r.index.Truncate(r.size), r.index.Sync(), r.findCopies(), syncFolder(dir)); err != nil {
		r.index.Close()
		return nil, err
	}
	r.drop(time.Now(), 0)
	return r, nil
}

// shorten writes the index anew without what was over before a time.
func (r *Recorder) shorten(before time.Time) error {
	valid := map[string]int{} // by source, or what is not of a source: the last record before
	for i, rec := range r.records {
		if rec.At.Before(before) {
			valid[rec.What+rec.Source] = i
		}
	}
	kept := []record{{At: before.UTC(), What: cut}}
	for i, rec := range r.records {
		if !rec.At.Before(before) || rec.What != cut && valid[rec.What+rec.Source] == i {
			kept = append(kept, rec)
		}
	}
	if len(kept) > len(r.records) || len(valid) == 0 {
		return nil
	}
	var text []byte
	var err error
	for i := range kept {
		if text, err = kept[i].append(text); err != nil {
			return err
		}
	}
	path := filepath.Join(r.dir, indexName)
	if err := writeFile(path, func(w io.Writer) error { _, err := w.Write(text); return err }); err != nil {
		return err
	}
	r.records, r.size = kept, int64(len(text))
	return nil
}

// findCopies lists the copies that are there, and removes what no record speaks of.
func (r *Recorder) findCopies() error {
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	spoken := map[string]bool{}
	for _, rec := range r.records {
		spoken[rec.Hash] = true
	}
	for _, e := range entries {
		hash, isCopy := strings.CutSuffix(e.Name(), copied)
		info, err := e.Info()
		switch {
		case err != nil:
			return err
		case isCopy && spoken[hash]:
			r.copies[hash] = info.Size()
		case isCopy, strings.HasSuffix(e.Name(), scratch):
			if err := os.Remove(filepath.Join(r.dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// Start notes that the service is up: of what was not recorded since Open, only the sources that are named are still in
// use.
func (r *Recorder) Start(at time.Time, still ...string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write(record{At: at, What: started, Sources: append(slices.Sorted(maps.Keys(r.open)), still...)})
}

// Close notes that the service ends.
func (r *Recorder) Close(at time.Time) error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.write(record{At: at, What: stopped})
	return r.index.Close()
}

// File notes that what a file holds is in use of a source since a moment, and keeps a copy. from is where the file is
// from, as evidence names it. was is how the file was before it was read, if that is known: if it is not so any more there
// is no copy. Where often is set there is none within [Configuration.Every] of the one before. That there is none, for
// whatever reason, is noted, and logged where it is a fault.
func (r *Recorder) File(at time.Time, source, path, from string, was os.FileInfo, often bool) {
	unchanged := func() error {
		now, err := os.Stat(path)
		if err == nil && was != nil && (now.Size() != was.Size() || !now.ModTime().Equal(was.ModTime())) {
			err = errChanged
		}
		return err
	}
	r.keep(at, source, from, often, func() (io.ReadCloser, error) { return os.Open(path) }, unchanged)
}

var errChanged = errors.New("it was changed while it was read")

// Bytes is File for what is in no file.
func (r *Recorder) Bytes(at time.Time, source, from string, often bool, content []byte) {
	r.keep(at, source, from, often, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }, func() error { return nil })
}

// Held notes that of a source another version came at a moment that is not put to use, and why. It is noted once, until
// another is in use.
func (r *Recorder) Held(at time.Time, source, why string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range slices.Backward(r.records) {
		if rec.Source != source {
			continue
		}
		if rec.What == held {
			return
		}
		break
	}
	r.write(record{At: at, What: held, Source: source, Why: why})
}

// Due reports whether a source that is recorded often would be copied now.
func (r *Recorder) Due(at time.Time, source string) bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.due(at, source)
}

func (r *Recorder) due(at time.Time, source string) bool {
	for _, rec := range slices.Backward(r.records) {
		if rec.What == inUse && rec.Source == source && rec.Hash != "" {
			return at.Sub(rec.At) >= r.c.Every
		}
	}
	return true
}

// last is the newest record of a source; nil where there is none.
func (r *Recorder) last(source string) *record {
	for i := len(r.records) - 1; i >= 0; i-- {
		if rec := &r.records[i]; rec.What == inUse && rec.Source == source {
			return rec
		}
	}
	return nil
}

func (r *Recorder) keep(at time.Time, source, from string, often bool, open func() (io.ReadCloser, error), unchanged func() error) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := record{At: at, What: inUse, Source: source, From: from}
	fail := func(err error) {
		r.log.Error("what is in use is not kept for questions about the past", "source", source, "error", err)
		rec.Hash, rec.Why = "", fmt.Sprintf("it could not be copied (%v)", err)
	}
	hash, packed, err := sum(open)
	if err == nil {
		err = unchanged()
	}
	before := r.last(source)
	here := before != nil && r.open[source]
	_, kept := r.copies[hash]
	switch {
	case err != nil:
		fail(err)
	case kept:
		rec.Hash = hash
	case often && !r.due(at, source):
		rec.Why = fmt.Sprintf("one is made every %v only", r.c.Every)
	default:
		rec.Hash = hash
		if err := r.copy(&rec, packed, open); err != nil {
			fail(err)
		}
	}
	if here && before.Hash == rec.Hash && before.From == rec.From && before.Why == rec.Why {
		return // the same is in use, or what is in use is still not kept
	}
	r.open[source] = true
	r.write(rec)
	r.drop(at, 0)
}

// sum returns the hash of a content, and whether that is gzip already.
func sum(open func() (io.ReadCloser, error)) (hash string, packed bool, err error) {
	f, err := open()
	if err != nil {
		return "", false, err
	}
	defer f.Close()
	h, in := sha256.New(), bufio.NewReader(f)
	magic, _ := in.Peek(2)
	if _, err := io.Copy(h, in); err != nil {
		return "", false, err
	}
	return hex.EncodeToString(h.Sum(nil)), bytes.Equal(magic, []byte{0x1f, 0x8b}), nil
}

func (r *Recorder) path(hash string) string { return filepath.Join(r.dir, hash+copied) }

// copy makes the copy that a record speaks of, if there is room; if not it takes the hash out of the record and says why.
func (r *Recorder) copy(rec *record, packed bool, open func() (io.ReadCloser, error)) error {
	f, err := open()
	if err != nil {
		return err
	}
	defer f.Close()
	temporary, size := filepath.Join(r.dir, rec.Hash+scratch), int64(0)
	defer os.Remove(temporary)
	h := sha256.New()
	err = writeTo(temporary, func(out io.Writer) error {
		in := io.TeeReader(f, h)
		counted := &counter{w: out, left: r.c.MaxBytes}
		defer func() { size = counted.n }()
		if packed {
			_, err := io.Copy(counted, in)
			return err
		}
		z, err := gzip.NewWriterLevel(counted, gzip.BestSpeed)
		if err != nil {
			return err
		}
		if _, err := io.Copy(z, in); err != nil {
			return err
		}
		return z.Close()
	})
	if errors.Is(err, errNoRoom) || err == nil && !r.fits(*rec, size) {
		r.log.Warn("there is no room to keep what is in use for questions about the past: knowledge.past.max_bytes is too small", "source", rec.Source)
		rec.Hash, rec.Why = "", "knowledge.past.max_bytes left no room for it"
		return nil
	}
	if err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != rec.Hash {
		return errChanged
	}
	r.drop(rec.At, size, *rec)
	if err := os.Rename(temporary, r.path(rec.Hash)); err != nil {
		return err
	}
	r.copies[rec.Hash] = size
	return syncFolder(r.dir)
}

var errNoRoom = errors.New("there is no room")

// counter counts what is written, up to a limit.
type counter struct {
	w       io.Writer
	n, left int64
}

func (c *counter) Write(p []byte) (int, error) {
	if int64(len(p)) > c.left {
		return 0, errNoRoom
	}
	n, err := c.w.Write(p)
	c.n, c.left = c.n+int64(n), c.left-int64(n)
	return n, err
}

// ends says of each copy when it went out of use, once a record is added; zero: it has not.
func (r *Recorder) ends(added ...record) map[string]time.Time {
	now, ends := map[string]string{}, map[string]time.Time{}
	ended := func(source string, at time.Time) {
		if hash := now[source]; hash != "" && at.After(ends[hash]) {
			ends[hash] = at
		}
		delete(now, source)
	}
	take := func(rec *record) {
		switch rec.What {
		case inUse:
			ended(rec.Source, rec.At)
			if rec.Hash != "" {
				now[rec.Source] = rec.Hash
			}
		case started:
			for source := range now {
				if !slices.Contains(rec.Sources, source) {
					ended(source, rec.At)
				}
			}
		}
	}
	for i := range r.records {
		take(&r.records[i])
	}
	for i := range added {
		take(&added[i])
	}
	for _, hash := range now {
		ends[hash] = time.Time{}
	}
	return ends
}

// fits reports whether there is room for the copy of a record beside all else that is in use.
func (r *Recorder) fits(rec record, size int64) bool {
	for hash, end := range r.ends(rec) {
		if end.IsZero() {
			size += r.copies[hash]
		}
	}
	return size <= r.c.MaxBytes
}

// drop removes copies that went out of use too long ago, and those that went out of use first until there is room for
// more octets, those of a record that is added.
func (r *Recorder) drop(now time.Time, room int64, added ...record) {
	ends, total := r.ends(added...), room
	var gone []string
	for hash, size := range r.copies {
		total += size
		if !ends[hash].IsZero() {
			gone = append(gone, hash)
		}
	}
	slices.SortFunc(gone, func(a, b string) int { return cmp.Or(ends[a].Compare(ends[b]), cmp.Compare(a, b)) })
	for _, hash := range gone {
		if total <= r.c.MaxBytes && !ends[hash].Before(now.Add(-r.c.Keep)) {
			return
		}
		if err := os.Remove(r.path(hash)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.log.Error("a copy that is too old cannot be removed", "error", err)
			continue
		}
		total -= r.copies[hash]
		delete(r.copies, hash)
	}
}

// maxUnwritten bounds what waits for a disk that takes nothing.
const maxUnwritten = 1000

// write adds a record to the index. What the disk does not take is written with the next: until then it is not known to
// anybody who asks, but afterwards it is.
func (r *Recorder) write(rec record) {
	rec.At = rec.At.UTC().Truncate(time.Microsecond)
	r.records = append(r.records, rec)
	r.unwritten = append(r.unwritten, rec)
	var text []byte
	var err error
	for i := range r.unwritten {
		if text, err = r.unwritten[i].append(text); err != nil {
			break
		}
	}
	if err == nil {
		_, err = r.index.WriteAt(text, r.size)
	}
	if err == nil {
		err = r.index.Sync()
	}
	if err != nil {
		_ = r.index.Truncate(r.size) // a reader passes over half a line anyway
		r.unwritten = r.unwritten[max(0, len(r.unwritten)-maxUnwritten):]
		r.log.Error("what is in use cannot be noted for questions about the past; it is tried again", "error", err)
		return
	}
	r.size += int64(len(text))
	r.unwritten = nil
}

// writeFile puts a whole file in the place of another.
func writeFile(path string, write func(io.Writer) error) error {
	temporary := path + scratch
	defer os.Remove(temporary)
	if err := writeTo(temporary, write); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// writeTo writes a file that is on the disk when it returns nil.
func writeTo(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncFolder makes the names in a folder durable.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
