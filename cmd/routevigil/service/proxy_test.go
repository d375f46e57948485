package service

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// proxy is the way to a server, which a test can cut off and make slow.
type proxy struct {
	listener net.Listener
	server   string
	wg       sync.WaitGroup

	mu      sync.Mutex
	links   map[net.Conn]bool // both ends of every connection
	refuses bool
	delay   time.Duration // of every piece, in both directions
}

// newProxy is closed with the test.
func newProxy(t testing.TB, port, server string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	x := &proxy{listener: l, server: server, links: map[net.Conn]bool{}}
	x.wg.Go(x.accept)
	t.Cleanup(func() {
		l.Close()
		x.refuse(true)
		x.wg.Wait()
	})
	return x
}

func (x *proxy) address() string { return x.listener.Addr().String() }

func (x *proxy) accept() {
	for {
		c, err := x.listener.Accept()
		if err != nil {
			return
		}
		x.wg.Go(func() {
			defer c.Close()
			s, err := net.DialTimeout("tcp", x.server, 10*time.Second)
			if err != nil {
				return // as refused, but for that the client has to read to learn of it
			}
			defer s.Close()
			if !x.add(c, s) {
				return
			}
			var both sync.WaitGroup
			both.Go(func() { x.pass(s, c) })
			x.pass(c, s)
			both.Wait()
			x.mu.Lock()
			delete(x.links, c)
			delete(x.links, s)
			x.mu.Unlock()
		})
	}
}

func (x *proxy) add(links ...net.Conn) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.refuses {
		return false
	}
	for _, c := range links {
		x.links[c] = true
	}
	return true
}

// pass copies until one end is gone, and takes the other away too.
func (x *proxy) pass(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	b := make([]byte, 16<<10)
	for {
		n, err := from.Read(b)
		if n > 0 {
			x.mu.Lock()
			delay := x.delay
			x.mu.Unlock()
			time.Sleep(delay)
			if _, failed := to.Write(b[:n]); failed != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// cut breaks every connection that which says, in the middle of whatever goes through it.
func (x *proxy) cut(which func() bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for c := range x.links {
		if which() {
			c.Close()
		}
	}
}

// refuse breaks every connection and lets none be made, until told otherwise.
func (x *proxy) refuse(yes bool) {
	x.mu.Lock()
	x.refuses = yes
	x.mu.Unlock()
	if yes {
		x.cut(func() bool { return true })
	}
}

// slow delays every piece that goes through.
func (x *proxy) slow(delay time.Duration) {
	x.mu.Lock()
	x.delay = delay
	x.mu.Unlock()
}

// The way that faults are made by: what goes through is what was sent, slowly where that is said, and a cut is noticed at both ends.
func TestProxy(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	x := newProxy(t, "0", server.Addr().String())
	dial := func() (client, far net.Conn) {
		t.Helper()
		client, err := net.Dial("tcp", x.address())
		if err != nil {
			t.Fatal(err)
		}
		if far, err = server.Accept(); err != nil {
			t.Fatal(err)
		}
		return client, far
	}
	client, far := dial()
	defer client.Close()
	defer far.Close()
	echo := func() {
		t.Helper()
		if _, err := client.Write([]byte("there")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(far, b); err != nil || string(b) != "there" {
			t.Fatalf("%q, %v", b, err)
		}
		if _, err := far.Write([]byte("back!")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(client, b); err != nil || string(b) != "back!" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	echo()
	x.slow(50 * time.Millisecond)
	begin := time.Now()
	echo()
	if took := time.Since(begin); took < 100*time.Millisecond {
		t.Errorf("there and back in %s", took)
	}
	x.slow(0)
	x.cut(func() bool { return true })
	for _, c := range []net.Conn{client, far} {
		c.SetReadDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("the connection was cut and gives something")
		} else if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Error("the connection was cut and nobody has noticed")
		}
	}
	x.refuse(true)
	if c, err := net.Dial("tcp", x.address()); err == nil {
		c.SetReadDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("it passes what it is to refuse")
		}
		c.Close()
	}
}
