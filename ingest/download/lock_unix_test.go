//go:build unix

package download

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

// Never do two have the same file, whatever becomes of it meanwhile.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file.part")
	var holders, locked atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for locked.Load() < 200 {
				f, err := openLocked(t.Context(), path)
				if err != nil {
					t.Error(err)
					return
				}
				if holders.Add(1) != 1 {
					t.Error("two have the file")
				}
				mine, err := f.Stat()
				there, err2 := os.Stat(path)
				if err := errors.Join(err, err2); err != nil || !os.SameFile(mine, there) {
					t.Errorf("it is not the file that has the name: %v", err)
				}
				switch locked.Add(1) % 3 {
				case 0:
					os.Remove(path)
				case 1:
					os.Rename(path, path+".whole")
				}
				holders.Add(-1)
				f.Close()
			}
		})
	}
	wg.Wait()
	f, err := openLocked(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := openLocked(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
