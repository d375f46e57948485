//go:build unix

package bgptest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// Missing skips a test that cannot run here, or fails it where CI is set, so that a green run hides nothing.
func Missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// Daemon is a running server of somebody else.
type Daemon struct {
	cmd     *exec.Cmd
	done    chan struct{}
	result  error
	stopped bool
}

// StartDaemon runs a command that stays in the foreground until Stop or the end of the test, which waits
// for it and all that it has started. What it wrote is shown if the test fails.
func StartDaemon(t testing.TB, c *exec.Cmd) *Daemon {
	t.Helper()
	var output bytes.Buffer
	c.Stdout, c.Stderr = &output, &output
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // for those that have children
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = time.Minute
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	d := &Daemon{cmd: c, done: make(chan struct{})}
	go func() {
		defer close(d.done)
		if d.result = c.Wait(); d.result == nil {
			d.result = errors.New("without an error")
		}
	}()
	t.Cleanup(func() {
		d.Stop()
		if t.Failed() {
			t.Logf("%s wrote:\n%s", c.Path, &output)
		}
	})
	return d
}

// Stop asks the daemon to end, and makes it after ten seconds.
func (d *Daemon) Stop() {
	if d.stopped {
		return
	}
	d.stopped = true
	d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(10 * time.Second):
	}
	syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL) // what is left of its group
	<-d.done
}

// Ended says how the daemon ended by itself; nil if it did not.
func (d *Daemon) Ended() error {
	select {
	case <-d.done:
		if !d.stopped {
			return d.result
		}
	default:
	}
	return nil
}
