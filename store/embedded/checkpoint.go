package embedded

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/routevigil/routevigil/store"
)

const checkpointPrefix = "checkpoint-"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (s *Store) checkpointPath(serial int64) string {
	return filepath.Join(s.cfg.Directory, checkpointPrefix+strconv.FormatInt(serial, 10))
}

// SaveCheckpoint implements [store.Store]. The state goes into a file of its own: it may be large,
// and the writer must not wait for it.
func (s *Store) SaveCheckpoint(ctx context.Context, position uint64, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.checkpoints.Lock()
	defer s.checkpoints.Unlock()
	s.mu.Lock()
	st := s.state
	s.mu.Unlock()
	if position > st.position || position < st.checkpoint {
		return fmt.Errorf("store %s: a checkpoint at position %d: it must be between the last checkpoint's, %d, and the last batch's, %d",
			s.cfg.Directory, position, st.checkpoint, st.position)
	}
	serial := st.serial + 1
	path := s.checkpointPath(serial)
	if err := writeFile(path, func(w io.Writer) error { _, err := w.Write(data); return err }); err != nil {
		err = s.noSpace(fmt.Errorf("saving a checkpoint: %w", err))
		s.noteWrite(err)
		return err
	}
	err := s.do(ctx, &request{apply: func(t *transaction) error {
		t.state.checkpoint, t.state.serial = position, serial
		_, err := t.exec(`INSERT OR REPLACE INTO checkpoint (one, position, serial, bytes, crc32c) VALUES (1, ?, ?, ?, ?)`,
			position, serial, len(data), crc32.Checksum(data, castagnoli))
		return err
	}})
	if err != nil {
		return err // the file is replaced by the next attempt or removed at the next start
	}
	if st.serial > 0 {
		if err := os.Remove(s.checkpointPath(st.serial)); err != nil {
			s.log.Warn("An old checkpoint could not be removed.", "error", err)
		}
	}
	s.wakeSealer()
	return nil
}

// Checkpoint implements [store.Store].
func (s *Store) Checkpoint(ctx context.Context) (position uint64, data []byte, err error) {
	s.checkpoints.RLock()
	defer s.checkpoints.RUnlock()
	var serial, size int64
	var sum uint32
	err = s.read.QueryRowContext(ctx, `SELECT position, serial, bytes, crc32c FROM checkpoint`).Scan(&position, &serial, &size, &sum)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil, fmt.Errorf("checkpoint: %w", store.ErrNotFound)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("store %s: checkpoint: %w", s.cfg.Directory, err)
	}
	path := s.checkpointPath(serial)
	data, err = os.ReadFile(path)
	if err != nil {
		return 0, nil, fmt.Errorf("store %s: checkpoint: %w", s.cfg.Directory, err)
	}
	if int64(len(data)) != size || crc32.Checksum(data, castagnoli) != sum {
		return 0, nil, fmt.Errorf("store %s: %s is damaged: it has %d bytes, %d were saved, or its checksum differs", s.cfg.Directory, path, len(data), size)
	}
	return position, data, nil
}

// writeFile makes a file at path that is complete and on the disk when it returns nil, and is not
// there at all when it fails.
func writeFile(path string, write func(io.Writer) error) (err error) {
	temporary := path + temporarySuffix
	f, err := os.Create(temporary)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(temporary)
		}
	}()
	w := bufio.NewWriterSize(f, 1<<16)
	if err = write(w); err != nil {
		return err
	}
	if err = w.Flush(); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(temporary, path); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(path))
}

// syncDirectory makes the names in dir durable.
func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
