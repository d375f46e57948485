package embedded

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/routevigil/routevigil/store"
)

func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=6m"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	s := openStore(t, testConfiguration(dir), defaultSizes)
	err := outOfSpace(s, dir, func() error { return syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=200m") })
	if err != nil {
		t.Fatal(err)
	}
}

// A part that does not fit is not half there, and the tail keeps what it was made of.
func TestDiskFullWhileSealing(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, testConfiguration(dir), defaultSizes)
	fill(t, s, 20, 100)
	checkpointAll(t, s)
	before := count(t, s)
	parts := filepath.Join(dir, partsDirectory)
	if err := syscall.Mount("tmpfs", parts, "tmpfs", 0, "size=16k"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	err := s.tidy(t.Context(), time.Now(), true)
	if !errors.Is(err, store.ErrUnavailable) || s.Health() == nil {
		t.Errorf("error %v, health %v, want both to tell of it", err, s.Health())
	}
	entries, err := os.ReadDir(parts)
	if err != nil || len(entries) > 0 {
		t.Errorf("%d files are left, error %v", len(entries), err)
	}
	if n := count(t, s); n != before {
		t.Errorf("%d updates, want %d", n, before)
	}
	fill(t, s, 1, 1) // appending does not need the parts
	if s.Health() == nil {
		t.Error("an append makes the store healthy, though it cannot seal")
	}
	if err := syscall.Unmount(parts, 0); err != nil {
		t.Fatal(err)
	}
	seal(t, s)
	if err := s.Health(); err != nil {
		t.Error(err)
	}
	if len(s.parts) != 1 || s.state.tailBatches != 1 {
		t.Errorf("%d parts and %d batches, want 1 of each", len(s.parts), s.state.tailBatches)
	}
}
