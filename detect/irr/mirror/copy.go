package mirror

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/klauspost/compress/gzip"

	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/irr/nrtm"
	"github.com/routevigil/routevigil/detect/irr/rpsl"
)

// maxHead bounds the first line of a copy, which names the deltas that an update notification file names.
const maxHead = 16 << 20

// copyFile is a copy that is being written.
type copyFile struct {
	file *os.File
	out  *gzip.Writer
	buf  *bufio.Writer
	err  error // the first
}

func create(path string) (*copyFile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	out, err := gzip.NewWriterLevel(f, gzip.BestSpeed)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &copyFile{file: f, out: out, buf: bufio.NewWriterSize(out, 1<<16)}, nil
}

// head writes the first line; the objects follow.
func (c *copyFile) head(st state) {
	text, err := json.Marshal(st)
	if err == nil && len(text) > maxHead-2 {
		err = fmt.Errorf("what is to be noted has %d bytes, more than %d", len(text), maxHead)
	}
	if err != nil {
		c.err = err
		return
	}
	c.write([]byte("% "), text, []byte("\n\n"))
}

// object writes the text of an object, without an empty line at its end.
func (c *copyFile) object(text []byte) { c.write(text, []byte("\n")) }

func (c *copyFile) write(texts ...[]byte) {
	for _, text := range texts {
		if c.err == nil {
			_, c.err = c.buf.Write(text)
		}
	}
}

// finish writes all that is left to the disk.
func (c *copyFile) finish() error {
	if c.err == nil {
		c.err = c.buf.Flush()
	}
	if c.err == nil {
		c.err = c.out.Close()
	}
	if c.err == nil {
		c.err = c.file.Sync()
	}
	if err := c.file.Close(); c.err == nil {
		c.err = err
	}
	return c.err
}

// read reads a copy and calls yield for each of its objects. key tells an object from all others of the registry; both
// are good until yield returns. What is damaged anywhere is an error, for which gzip's checksum stands.
func read(path string, yield func(key []byte, o *rpsl.Object) error) (state, error) {
	var st state
	f, err := os.Open(path)
	if err != nil {
		return st, err
	}
	defer f.Close()
	z, err := gzip.NewReader(bufio.NewReaderSize(f, 1<<16))
	if err != nil {
		return st, err
	}
	in := bufio.NewReaderSize(z, 1<<16)
	var head []byte
	for more := true; more; {
		part, err := in.ReadSlice('\n')
		if more = errors.Is(err, bufio.ErrBufferFull); err != nil && !more {
			return st, fmt.Errorf("its first line: %w", err)
		}
		if head = append(head, part...); len(head) > maxHead {
			return st, errors.New("its first line does not end")
		}
	}
	if len(head) < 2 || head[0] != '%' {
		return st, errors.New("its first line is no comment")
	}
	if err := json.Unmarshal(head[1:], &st); err != nil {
		return st, fmt.Errorf("its first line: %w", err)
	}
	r, err := rpsl.NewReader(in)
	if err != nil {
		return st, err
	}
	var key []byte
	for {
		o, err := r.Next()
		if errors.Is(err, io.EOF) {
			return st, nil
		}
		if err != nil {
			return st, err
		}
		key, _ = irr.AppendKey(key[:0], o)
		if err := yield(key, o); err != nil {
			return st, err
		}
	}
}

// ReadCopy returns what a copy of a registry holds; from names it in evidence.
func ReadCopy(path, from string) (*irr.Database, error) {
	b := irr.NewBuilder(nil)
	if _, err := read(path, func(_ []byte, o *rpsl.Object) error { b.Add(o); return nil }); err != nil {
		return nil, fmt.Errorf("IRR %s: %w", from, err)
	}
	b.Name(from)
	return b.Build(), nil
}

// update collects what one update brings; it is an nrtm.Mirror.
type update struct {
	m       *Mirror
	outer   context.Context
	ctx     context.Context // outer, which ends early where there is too much or it takes too long
	stop    context.CancelCauseFunc
	cancel  context.CancelFunc
	spool   *copyFile         // takes the place of the copy so far, where everything is new; nil: it does not
	changes map[string][]byte // what became of an object, by its key: its text, nil where it is gone. They come last.
	size    int64             // of changes, in bytes
	err     error             // of the spool
	key     []byte
	text    []byte
}

func (m *Mirror) newUpdate(ctx context.Context) *update {
	u := &update{m: m, outer: ctx, changes: map[string][]byte{}}
	slow := &failure{fmt.Errorf("an update of %s was not done after %v", m.c.Source, maxTime), TooMuch}
	limited, cancel := context.WithTimeoutCause(ctx, maxTime, slow)
	u.cancel = cancel
	u.ctx, u.stop = context.WithCancelCause(limited)
	return u
}

// end leaves nothing behind that is half done.
func (u *update) end() {
	u.stop(nil)
	u.cancel()
	u.dropSpool()
	_ = os.Remove(u.m.path + ".new")
}

func (u *update) dropSpool() {
	if u.spool != nil {
		_ = u.spool.file.Close()
		_ = os.Remove(u.m.path + ".spool")
		u.spool = nil
	}
}

// empty reports that nothing has changed.
func (u *update) empty() bool { return u.spool == nil && len(u.changes) == 0 }

// why is the cause of an error, where that is ours.
func (u *update) why(err error) error {
	if f, ok := errors.AsType[*failure](context.Cause(u.ctx)); ok && err != nil {
		return f
	}
	return err
}

func (u *update) fail(err error) {
	u.err = err
	u.stop(&failure{err, Disk})
}

// Drop implements nrtm.Mirror.
func (u *update) Drop(string) {
	u.dropSpool()
	clear(u.changes)
	u.size = 0
	var err error
	if u.spool, err = create(u.m.path + ".spool"); err != nil {
		u.fail(err)
		return
	}
	u.spool.head(state{})
}

// Add implements nrtm.Mirror.
func (u *update) Add(o *rpsl.Object) {
	key, ok := irr.AppendKey(u.key[:0], o)
	if u.key = key; !ok {
		return // a Builder would pass it over
	}
	u.text = o.Append(u.text[:0], irr.Reads)
	if _, changed := u.changes[string(key)]; u.spool == nil || changed {
		u.change(slices.Clone(u.text))
		return
	}
	if u.spool.object(u.text); u.spool.err != nil && u.err == nil {
		u.fail(u.spool.err)
	}
}

// Remove implements nrtm.Mirror.
func (u *update) Remove(o *rpsl.Object) {
	key, ok := irr.AppendKey(u.key[:0], o)
	if u.key = key; ok {
		u.change(nil)
	}
}

// change notes what became of the object with u.key.
func (u *update) change(text []byte) {
	const each = 100 // for an entry of the map
	if before, ok := u.changes[string(u.key)]; ok {
		u.size -= int64(len(before))
	} else {
		u.size += int64(len(u.key)) + each
	}
	u.size += int64(len(text))
	u.changes[string(u.key)] = text
	if u.size > u.m.memory {
		u.stop(&failure{fmt.Errorf("more than %d bytes of changes to %s at once", u.m.memory, u.m.c.Source), TooMuch})
	}
}

// errCopy says that the copy that was to be changed cannot be read.
var errCopy = errors.New("it cannot be read, and is fetched anew")

// write writes what is now the copy beside it, and hands it to b.
func (u *update) write(next state, b *irr.Builder) (err error) {
	if u.err != nil {
		return u.err
	}
	from := u.m.path
	if u.spool != nil {
		from += ".spool"
		if err := u.spool.finish(); err != nil {
			return err
		}
	}
	to, err := create(u.m.path + ".new")
	if err != nil {
		return err
	}
	defer func() {
		if f := to.finish(); err == nil {
			err = f
		}
	}()
	to.head(next)
	var ours error // of writing, or because we are to stop
	_, err = read(from, func(key []byte, o *rpsl.Object) error {
		if ours = cmp.Or(to.err, u.outer.Err()); ours != nil {
			return ours
		}
		if _, changed := u.changes[string(key)]; !changed {
			u.text = o.Append(u.text[:0], irr.Reads)
			to.object(u.text)
			b.Add(o)
		}
		return nil
	})
	if err != nil {
		if u.spool == nil && ours == nil {
			err = fmt.Errorf("%w: %w", errCopy, err)
		}
		return err
	}
	var o rpsl.Object
	for _, key := range slices.Sorted(maps.Keys(u.changes)) {
		if text := u.changes[key]; text != nil {
			to.object(text)
			if o.Parse(text) == nil { // which it was written from
				b.Add(&o)
			}
		}
	}
	return to.err
}

// commit puts what was written in the copy's place.
func (u *update) commit() error {
	if err := os.Rename(u.m.path+".new", u.m.path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(u.m.path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

var _ nrtm.Mirror = (*update)(nil)
