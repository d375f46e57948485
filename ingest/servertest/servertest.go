// Package servertest gives tests real servers of their own, which they may kill: what the scripts in .ci start.
package servertest

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Ports returns n addresses on this machine that nobody listens at.
func Ports(t testing.TB, n int) (ports []string) {
	t.Helper()
	for range n { // all are held at once, so that they differ
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports
}

// Server is one of the test's own.
type Server struct {
	Address   string
	Directory string // that of its data, its log, and its process's number
	Ports     []string
	t         testing.TB
	script    string
}

// New has a script of .ci start a server that keeps its data in directory, and ends it with the test. The script gets the
// directory and the ports, at the first of which the server listens.
func New(t testing.TB, script, directory string, ports ...string) *Server {
	t.Helper()
	s := &Server{Address: "127.0.0.1:" + ports[0], Directory: directory, Ports: ports, t: t, script: script}
	t.Cleanup(s.Kill)
	s.Start()
	return s
}

// Start starts it again where it was.
func (s *Server) Start() {
	s.t.Helper()
	root, err := os.Getwd()
	for err == nil {
		if _, missing := os.Stat(filepath.Join(root, "go.mod")); missing == nil {
			break
		}
		root = filepath.Dir(root)
	}
	arguments := append([]string{s.Directory}, s.Ports...)
	if out, err := exec.Command(filepath.Join(root, ".ci", s.script), arguments...).CombinedOutput(); err != nil {
		s.t.Fatalf("starting %s: %v\n%s", s.script, err, out)
	}
}

// Kill kills it with SIGKILL, and waits until it is gone.
func (s *Server) Kill() {
	s.Signal(syscall.SIGKILL)
	for range 1200 {
		c, err := net.DialTimeout("tcp", s.Address, time.Second)
		if err != nil {
			return
		}
		c.Close()
		time.Sleep(50 * time.Millisecond)
	}
	s.t.Errorf("%s was killed and still listens", s.script)
}

// Revive starts it again where it has ended by itself, and tells whether it had.
func (s *Server) Revive() bool {
	s.t.Helper()
	c, err := net.DialTimeout("tcp", s.Address, 10*time.Second)
	if err == nil {
		c.Close()
	}
	ended := errors.Is(err, syscall.ECONNREFUSED)
	if ended {
		s.t.Logf("%s has ended by itself, and is started again", s.script)
		s.Start()
	}
	return ended
}

// Signal sends it a signal, such as SIGSTOP.
func (s *Server) Signal(signal syscall.Signal) {
	text, err := os.ReadFile(filepath.Join(s.Directory, "pid"))
	if errors.Is(err, os.ErrNotExist) {
		return // it has not been started
	}
	if err != nil {
		s.t.Error(err)
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err == nil {
		err = syscall.Kill(pid, signal)
	}
	if err != nil && err != syscall.ESRCH {
		s.t.Error(err)
	}
}
