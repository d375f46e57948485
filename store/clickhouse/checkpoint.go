package clickhouse

import (
	"context"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	api "github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/routevigil/routevigil/store"
)

const (
	pieceBytes  = 1 << 20
	blockPieces = 16 // that are sent as one block
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SaveCheckpoint implements [store.Store]. The pieces are in a partition of their own, which is dropped when a later
// checkpoint is complete, or when this one never becomes so.
func (s *Store) SaveCheckpoint(ctx context.Context, position uint64, data []byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.usable(ctx); err != nil {
		return err
	}
	if st := s.current(); position > st.position || position < st.checkpoint {
		return fmt.Errorf("store %s: a checkpoint at position %d: it must be between the last checkpoint's, %d, and the last batch's, %d",
			s.place(), position, st.checkpoint, st.position)
	}
	serial := s.nextVersion()
	const query = `INSERT INTO checkpoints (serial, piece, position, pieces, checksum, data)`
	pieces := slices.Collect(slices.Chunk(data, pieceBytes))
	for i := 0; i < len(pieces); i += blockPieces {
		// Each block has its own time: a large state may take longer than one write may.
		err := s.write(ctx, func(ctx context.Context) error {
			return s.insert(ctx, query, func(b api.Batch) error {
				for j := i; j < min(i+blockPieces, len(pieces)); j++ {
					if err := b.Append(serial, uint32(j+1), position, uint32(0), uint32(0), string(pieces[j])); err != nil {
						return err
					}
				}
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	err := s.write(ctx, func(ctx context.Context) error {
		return s.insert(ctx, query, func(b api.Batch) error {
			return b.Append(serial, uint32(0), position, uint32(len(pieces)), crc32.Checksum(data, castagnoli), "")
		})
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.state.checkpoint = position
	s.mu.Unlock()
	if err := s.dropCheckpoints(ctx, serial); err != nil {
		s.log.Warn("An old checkpoint could not be removed; it is tried again with the next.", "error", err)
	}
	s.wakeExpander()
	return nil
}

// dropCheckpoints drops all but the one with serial.
func (s *Store) dropCheckpoints(ctx context.Context, serial uint64) error {
	var old []uint64
	err := s.rows(ctx, func(r api.Rows) error {
		var n uint64
		err := r.Scan(&n)
		old = append(old, n)
		return err
	}, fmt.Sprintf(`SELECT DISTINCT serial FROM checkpoints WHERE serial < %d`, serial))
	if err != nil {
		return err
	}
	for _, n := range old {
		if err := s.conn.Exec(ctx, fmt.Sprintf(`ALTER TABLE checkpoints %s DROP PARTITION %d`, layout{s.cfg.Cluster}.OnCluster(), n)); err != nil {
			return err
		}
	}
	return nil
}

// Checkpoint implements [store.Store].
func (s *Store) Checkpoint(ctx context.Context) (position uint64, data []byte, err error) {
	for serial := uint64(math.MaxUint64); ; {
		var found bool
		var pieces, sum uint32
		err := s.rows(ctx, func(r api.Rows) error {
			found = true
			return r.Scan(&serial, &position, &pieces, &sum)
		}, fmt.Sprintf(`SELECT serial, position, pieces, checksum FROM checkpoints WHERE piece = 0 AND serial < %d ORDER BY serial DESC LIMIT 1`, serial))
		if err != nil {
			return 0, nil, err
		}
		if !found {
			return 0, nil, fmt.Errorf("checkpoint: %w", store.ErrNotFound)
		}
		data = data[:0]
		err = s.rows(ctx, func(r api.Rows) error {
			var text string
			err := r.Scan(&text)
			data = append(data, text...)
			return err
		}, fmt.Sprintf(`SELECT data FROM checkpoints WHERE serial = %d AND piece > 0 ORDER BY piece LIMIT 1 BY piece SETTINGS max_block_size = 16`, serial))
		if err != nil {
			return 0, nil, err
		}
		if crc32.Checksum(data, castagnoli) == sum {
			return position, data, nil
		}
		now, err := s.latest(ctx)
		if err != nil {
			return 0, nil, err
		}
		if now.checkpoint == position {
			return 0, nil, fmt.Errorf("store %s: the checkpoint at position %d is damaged: of %d pieces there are %d bytes, whose checksum differs",
				s.place(), position, pieces, len(data))
		}
		serial = math.MaxUint64 // replaced while it was read
	}
}
