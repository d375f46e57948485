package clickhouse

import (
	"context"
	"fmt"
	"math"
	"time"
)

// aliveEvery is the time between two signs of life of who writes.
const aliveEvery = 2 * time.Second

// alive is the mark of the signs of life: the epoch is in its upper half, in the lower one a number that grows, and is gone in the last.
const (
	alive = "alive"
	gone  = math.MaxUint32
)

// signsOfLife tells that somebody writes, also while there is nothing to write, until the store is closed.
func (s *Store) signsOfLife() {
	ticker := time.NewTicker(aliveEvery)
	defer ticker.Stop()
	for n := uint64(1); ; n++ {
		// Where none can be given, nothing can be written, which is told elsewhere.
		s.mark(s.running, alive, s.state.epoch<<32|n)
		select {
		case <-s.running.Done():
			return
		case <-ticker.C:
		}
	}
}

// sayGone gives the last sign of life, so that nobody has to wait for the next.
func (s *Store) sayGone() {
	if st := s.current(); st.fenced || st.epoch == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), aliveEvery)
	defer cancel()
	if err := s.writer.Exec(ctx, fmt.Sprintf(`INSERT INTO marks (name, value) VALUES ('%s', %d)`, alive, s.state.epoch<<32|gone)); err != nil {
		s.log.Warn("The store is closed, and whoever stands by cannot be told.", "error", err)
	}
}

// Silence returns once whoever writes has closed its [Store], or has given no sign of life for long, at least six seconds. While the server
// does not answer nobody can give one, so that does not count.
func (r *Reader) Silence(ctx context.Context, long time.Duration) error {
	long = max(long, 3*aliveEvery)
	ticker := time.NewTicker(aliveEvery / 4)
	defer ticker.Stop()
	var last uint64
	since := time.Now()
	for {
		var sign uint64
		err := r.conn.QueryRow(ctx, `SELECT max(value) FROM marks WHERE name = '`+alive+`'`).Scan(&sign)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && uint32(sign) == gone:
			return nil
		case err != nil || sign != last:
			last, since = sign, time.Now()
		case time.Since(since) >= long:
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}
