// Package clickhousetest gives tests real ClickHouse servers: the one that they share, or one of their own that they may
// kill. Without any the tests skip, but under CI they fail.
package clickhousetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
)

// variable holds the address of the server that tests share.
const variable = "ROUTEVIGIL_TEST_CLICKHOUSE"

// Shared is the address of the server that tests share; each uses a database of its own.
func Shared(t testing.TB) string {
	t.Helper()
	a := os.Getenv(variable)
	if a == "" {
		bgptest.Missing(t, variable+" does not say where a ClickHouse server is; .ci/clickhouse starts one")
	}
	return a
}

// Database is a name for a database of the test's own.
func Database() string { return fmt.Sprintf("test_%d_%d", time.Now().UnixNano(), rand.Uint32()) }

// Server is one of the test's own.
type Server struct {
	Address   string
	t         testing.TB
	directory string
	ports     [2]string
}

// New starts a server that keeps its data in directory, and ends it with the test.
func New(t testing.TB, directory string) *Server {
	t.Helper()
	Shared(t)
	s := &Server{t: t, directory: directory}
	var held []net.Listener
	for i := range s.ports { // both are held at once, so that they differ
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, l)
		_, s.ports[i], _ = net.SplitHostPort(l.Addr().String())
	}
	for _, l := range held {
		l.Close()
	}
	s.Address = "127.0.0.1:" + s.ports[0]
	s.Start()
	t.Cleanup(s.Kill)
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
	if out, err := exec.Command(filepath.Join(root, ".ci", "clickhouse"), s.directory, s.ports[0], s.ports[1]).CombinedOutput(); err != nil {
		s.t.Fatalf("starting ClickHouse: %v\n%s", err, out)
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
	s.t.Error("ClickHouse was killed and still listens")
}

// Revive starts it again where it has ended by itself: the library that the tests' server is made of can abort when it
// goes on after SIGSTOP and the clients that waited for it have gone.
func (s *Server) Revive() {
	s.t.Helper()
	c, err := net.DialTimeout("tcp", s.Address, 10*time.Second)
	if err == nil {
		c.Close()
		return
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		s.t.Log("ClickHouse has ended by itself, and is started again")
		s.Start()
	}
}

// Signal sends it a signal, such as SIGSTOP.
func (s *Server) Signal(signal syscall.Signal) {
	text, err := os.ReadFile(filepath.Join(s.directory, "pid"))
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
