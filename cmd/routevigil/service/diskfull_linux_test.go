package service

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
)

// smallDisk puts the store of c on a file system of its own and returns what fills it up and what
// makes room again.
func smallDisk(t *testing.T, c *config.Config) (fill, free func()) {
	t.Helper()
	dir, fill, free := mountDisk(t, "64m")
	c.Store.Directory = filepath.Join(dir, "store")
	return fill, free
}

// mountDisk makes a file system of its own, and returns where it is, what fills it up and what makes room again.
func mountDisk(t *testing.T, size string) (dir string, fill, free func()) {
	t.Helper()
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		bgptest.Missing(t, fmt.Sprintf("no file system can be mounted here: %v", err))
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	fill = func() {
		f, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for _, size := range []int{1 << 20, 4096} { // of blocks: most of it quickly, and then the rest
			for err = nil; err == nil; {
				_, err = f.Write(make([]byte, size))
			}
		}
		if !strings.Contains(err.Error(), "no space left") {
			t.Fatal(err)
		}
	}
	free = func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
	return dir, fill, free
}

// fullDisk fills the disk and tells of incidents until the service says that it cannot go on. It
// returns the first incident that the service does not have.
func fullDisk(t *testing.T, s *client, f *feed, fill func()) (first int) {
	t.Helper()
	fill()
	i := 1
	eventually(t, func() string {
		if err := f.tell(hijack(i, 0, sessions)...); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		status, reasons := s.ready()
		if _, ok := s.incidentOf(i); ok || status != http.StatusServiceUnavailable || !strings.Contains(reasons, "Nothing can be stored") || !strings.Contains(reasons, "free space") {
			i++
			return fmt.Sprintf("incident %d, readyz says %d %q", i, status, reasons)
		}
		return ""
	})
	time.Sleep(500 * time.Millisecond)
	if inc, ok := s.incidentOf(i); ok {
		t.Fatalf("with a full disk, %s is acknowledged", inc.ID)
	}
	if status, _ := s.ready(); status != http.StatusServiceUnavailable {
		t.Errorf("readyz answers %d again, though there is no room", status)
	}
	return i
}

func whenOpen(t *testing.T, s *client, i int) {
	t.Helper()
	eventually(t, func() string {
		if inc, ok := s.incidentOf(i); !ok || inc.Status != incident.Open {
			return fmt.Sprintf("no incident about AS%d", victim(i).asn)
		}
		return ""
	})
}

// On a full disk nothing is acknowledged; with room again all that waited is.
func TestDiskFull(t *testing.T) {
	f, hook := newFeed(t), newReceiver(t)
	c := configuration(t, f.url(), hook.configuration("noc"))
	fill, free := smallDisk(t, &c)
	s := start(t, c)
	s.whenReady(f)
	f.background(t, 2*time.Millisecond)
	i := fullDisk(t, s.client, f, fill)
	if hook.heard(victim(i).asn, incident.Opened) {
		t.Error("a receiver was told of an incident that is not stored")
	}
	free()
	whenOpen(t, s.client, i)
	whenHeard(t, hook, i, incident.Opened)
	s.whenReady(f)
	stillWorks(t, s, f, 400)
	if err := s.stop(); err != nil {
		t.Error(err)
	}
}

// Told to stop while the disk is full, the service stops soon, and says that it could not store all
// it had heard. What it had stored is there at the next start, and nothing of what it had not is.
func TestStopWhileDiskFull(t *testing.T) {
	f, hook := newFeed(t), newReceiver(t)
	c := configuration(t, f.url(), hook.configuration("noc"))
	fill, free := smallDisk(t, &c)
	s := start(t, c)
	s.whenReady(f)
	i := fullDisk(t, s.client, f, fill)
	begin := time.Now()
	if err := s.stop(); err == nil || !strings.Contains(err.Error(), "free space") {
		t.Errorf("it ends with %v, want an error that says why", err)
	}
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	free()
	again := start(t, c)
	again.whenReady(f)
	for known := 1; known < i; known++ {
		whenOpen(t, again.client, known)
	}
	if err := f.tell(hijack(i, 0, sessions)...); err != nil {
		t.Fatal(err)
	}
	whenOpen(t, again.client, i) // which it would not be, had the state been saved without its event
	whenHeard(t, hook, i, incident.Opened)
}
