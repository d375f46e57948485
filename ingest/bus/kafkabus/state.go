package kafkabus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// A state is written in pieces of this many octets: its writer's random number, the piece's number and how many
// there are, and the piece.
const (
	pieceSize   = 2 << 20
	pieceHeader = 8 + 4 + 4
	maxPieces   = 1 << 15
)

// SaveState writes the state of a detector, of whatever size, into the cluster.
func (k *Cluster) SaveState(ctx context.Context, state []byte) error {
	id, n := randomID(), max(1, (len(state)+pieceSize-1)/pieceSize)
	if n > maxPieces {
		return fmt.Errorf("kafka: a state of %d octets", len(state))
	}
	for i := range n {
		b := binary.BigEndian.AppendUint64(nil, id)
		b = binary.BigEndian.AppendUint32(b, uint32(i))
		b = binary.BigEndian.AppendUint32(b, uint32(n))
		b = append(b, state[i*pieceSize:min((i+1)*pieceSize, len(state))]...)
		if _, err := k.Insist(ctx, StateTopic, 0, Record{Value: b}); err != nil {
			return err
		}
	}
	return nil
}

// ErrNoState is returned by LoadState where no whole state is in the cluster.
var ErrNoState = errors.New("kafka: no state of a detector is stored")

// LoadState reads the last state that was written whole. What was not finished, and what several wrote at
// once, is passed over.
func (k *Cluster) LoadState(ctx context.Context) ([]byte, error) {
	first, end, err := k.Bounds(ctx, StateTopic, 0)
	if err != nil {
		return nil, err
	}
	for last := end - 1; last >= first; {
		_, at, of, _, err := k.piece(ctx, last)
		if err != nil {
			return nil, err
		}
		from := last - int64(at)
		if at == of-1 && from >= first {
			state, err := k.whole(ctx, from, of)
			if err != nil || state != nil {
				return state, err
			}
		}
		last--
	}
	return nil, ErrNoState
}

// whole reads a state whose pieces begin at an offset; nil if they are not all its own.
func (k *Cluster) whole(ctx context.Context, from int64, n uint32) ([]byte, error) {
	var state []byte
	var owner uint64
	next := uint32(0)
	err := k.Read(ctx, StateTopic, 0, from, from+int64(n), func(r Record) error {
		id, at, of, data := parsePiece(r.Value)
		if at != next || of != n || next > 0 && id != owner {
			return errMixed
		}
		owner = id
		next++
		state = append(state, data...)
		return nil
	})
	if errors.Is(err, errMixed) || err == nil && next != n {
		return nil, nil
	}
	return state, err
}

var errMixed = errors.New("pieces of several states")

func (k *Cluster) piece(ctx context.Context, offset int64) (id uint64, at, of uint32, data []byte, err error) {
	err = k.Read(ctx, StateTopic, 0, offset, offset+1, func(r Record) error {
		id, at, of, data = parsePiece(r.Value)
		return nil
	})
	return id, at, of, data, err
}

// parsePiece reads a piece; of is 0 where it is none.
func parsePiece(b []byte) (id uint64, at, of uint32, data []byte) {
	if len(b) < pieceHeader {
		return 0, 0, 0, nil
	}
	at, of = binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
	if of > maxPieces || at >= of {
		return 0, 0, 0, nil
	}
	return binary.BigEndian.Uint64(b), at, of, b[pieceHeader:]
}
