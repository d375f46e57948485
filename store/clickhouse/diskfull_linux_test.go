package clickhouse

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/clickhouse/clickhousetest"
)

// A full disk of the server makes the store say so, and takes nothing that was acknowledged.
func TestServerDiskFull(t *testing.T) {
	clickhousetest.Shared(t)
	dir := filepath.Join(t.TempDir(), "server")
	if err := syscall.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() { // after the server has ended
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	server := clickhousetest.New(t, dir)
	s := openStore(t, testConfiguration(t, server.Address))
	noise := func(n int) *ingest.Batch { // that cannot be compressed
		b := numbered(n)
		value := make([]byte, 1<<16)
		for i := range value {
			value[i] = byte(rand.Uint32())
		}
		for range 8 {
			b.Updates[0].Attrs.Unknown = append(b.Updates[0].Attrs.Unknown, bgp.RawAttribute{Flags: 0xc0, Type: 99, Value: value})
		}
		return b
	}
	n := 0
	next := func() error {
		_, err := s.AppendBatch(t.Context(), noise(n+1))
		if err == nil {
			n++
		}
		return err
	}
	var err error
	for i := 0; i < 500 && err == nil; i++ {
		err = next()
	}
	if !errors.Is(err, store.ErrUnavailable) || s.Health() == nil {
		t.Fatalf("error %v after %d batches, health %v; want both to tell of it", err, n, s.Health())
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=400m"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := persist(ctx, next); err != nil {
		t.Fatal(err)
	}
	if err := s.tidy(ctx, time.Now(), true); err != nil {
		t.Fatal(err)
	}
	if n == 0 || s.Health() != nil {
		t.Errorf("%d batches, health %v", n, s.Health())
	}
	verify(t, s, n)
}
