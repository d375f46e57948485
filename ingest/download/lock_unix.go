//go:build unix

package download

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// lockPoll is how often a file that another process is fetching is looked at.
const lockPoll = 200 * time.Millisecond

// openLocked opens the file at path, making it, and holds it alone until it is closed, by whatever
// end the process comes to. While another one has it, or another download of this process, it waits.
func openLocked(ctx context.Context, path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			var mine, there os.FileInfo
			if mine, err = f.Stat(); err == nil {
				there, err = os.Stat(path)
			}
			if err == nil && os.SameFile(mine, there) {
				return f, nil
			}
			// Who had it has renamed or removed it meanwhile.
			f.Close()
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, err
			}
			continue
		}
		f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, fmt.Errorf("locking %s: %w", path, err)
		}
		if err := sleep(ctx, lockPoll); err != nil {
			return nil, err
		}
	}
}
