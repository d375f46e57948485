package bgpsession

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/routevigil/routevigil/ingest/bgp"
)

// connect dials from a loopback address with options set on the socket first.
func (h *harness) connect(ctx context.Context, from string, options func(fd int) error) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Control: func(_, _ string, c syscall.RawConn) error {
		return onSocket(c, options)
	}}
	_, port, _ := net.SplitHostPort(h.Status().Address)
	to := "127.0.0.1"
	if strings.Contains(from, ":") {
		to = "::1"
	}
	return d.DialContext(ctx, "tcp", net.JoinHostPort(to, port))
}

func TestTTLSecurity(t *testing.T) {
	ttl := func(fd int, v6 bool, n int) error {
		if v6 {
			return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, n)
		}
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, n)
	}
	for _, tt := range []struct {
		from, listen string
	}{{"127.0.0.2", "127.0.0.1:0"}, {"127.0.0.2", "[::]:0"}, {"::1", "[::1]:0"}} {
		t.Run(tt.from+" to "+tt.listen, func(t *testing.T) {
			v6 := strings.Contains(tt.from, ":")
			c := configuration()
			c.Listen = []string{tt.listen}
			c.Neighbours[0].Address, c.Neighbours[0].TTLSecurity = tt.from, 2 // TTL 254 and 255
			h := newHarness(t, c)
			h.listen()
			open := func(n int) *peer {
				conn, err := h.connect(t.Context(), tt.from, func(fd int) error { return ttl(fd, v6, n) })
				if err != nil {
					t.Fatal(err)
				}
				return newPeer(t, conn)
			}
			open(253).expectEnd()
			if s := h.Status(); !strings.Contains(s.LastError, "TTL 253") || !strings.Contains(s.LastError, "254") {
				t.Errorf("last error %q", s.LastError)
			}
			p := open(254)
			p.establish(nil)
			eventually(t, "the session", func() bool { return h.Neighbours()[0].Sessions["Established"] == 1 })

			// From now on what comes from afar is dropped by the kernel: it does not even end the session.
			before := netstat(t, "TCPMinTTLDrop")
			c2, err := p.conn.(*net.TCPConn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			if err := onSocket(c2, func(fd int) error { return ttl(fd, v6, 253) }); err != nil {
				t.Fatal(err)
			}
			p.send(bgp.AppendNotification(nil, bgp.Notification{Code: 6, Subcode: 2}))
			eventually(t, "a drop", func() bool { return netstat(t, "TCPMinTTLDrop") > before })
			if n := h.Neighbours()[0]; n.Sessions["Established"] != 1 || n.Messages[bgp.TypeNotification] != 0 {
				t.Errorf("%+v", n)
			}
			// And our own messages are sent with 255, so that the neighbour can check the same.
			if err := onSocket(c2, func(fd int) error {
				if v6 {
					return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT, 255)
				}
				return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MINTTL, 255)
			}); err != nil {
				t.Fatal(err)
			}
			if err := onSocket(c2, func(fd int) error { return ttl(fd, v6, 255) }); err != nil {
				t.Fatal(err)
			}
			p.expectEnd() // the NOTIFICATION is sent again
		})
	}
}

// netstat reads a counter of the kernel's TCP.
func netstat(t *testing.T, name string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/net/netstat")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	for i, keys := range lines {
		if strings.HasPrefix(keys, "TcpExt:") {
			values := strings.Fields(lines[i+1])
			for j, key := range strings.Fields(keys) {
				if key == name {
					n, err := strconv.Atoi(values[j])
					if err != nil {
						t.Fatal(err)
					}
					return n
				}
			}
			break
		}
	}
	t.Fatalf("the kernel has no counter %s", name)
	return 0
}

func TestPassword(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte("in a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	neighbours := []Neighbour{
		{Address: "127.0.0.2", Password: "right"},
		{Address: "127.1.0.0/16", Password: "of many"},
		{Address: "127.1.1.0/24", Password: "of fewer"},
		{Address: "127.0.0.3", PasswordFile: file},
		{Address: "127.0.0.4"},
		{Address: "::1", Password: "six"},
	}
	for i := range neighbours {
		neighbours[i].RemoteASN = theirASN
	}
	for _, listen := range []string{"127.0.0.1:0", "[::]:0"} {
		c := configuration()
		c.Listen, c.Neighbours = []string{listen}, neighbours
		h := newHarness(t, c)
		h.listen()
		for _, tt := range []struct{ from, key, counter string }{
			{"127.0.0.2", "right", ""},
			{"127.0.0.2", "wrong", "TCPMD5Failure"},
			{"127.0.0.2", "", "TCPMD5NotFound"},
			{"127.1.2.3", "of many", ""},
			{"127.1.1.3", "of many", "TCPMD5Failure"},
			{"127.1.1.3", "of fewer", ""},
			{"127.0.0.3", "in a file", ""},
			{"127.0.0.4", "", ""},
			{"127.0.0.4", "any", "TCPMD5Unexpected"},
			{"::1", "six", ""},
			{"::1", "sixty", "TCPMD5Failure"},
		} {
			v6 := strings.Contains(tt.from, ":")
			if v6 && !strings.HasPrefix(listen, "[") {
				continue
			}
			t.Run(fmt.Sprintf("%s with %q to %s", tt.from, tt.key, listen), func(t *testing.T) {
				to := netip.MustParseAddr("127.0.0.1")
				if v6 {
					to = netip.MustParseAddr("::1")
				}
				before := 0
				if tt.counter != "" {
					before = netstat(t, tt.counter)
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				type result struct {
					conn net.Conn
					err  error
				}
				done := make(chan result, 1)
				go func() {
					conn, err := h.connect(ctx, tt.from, func(fd int) error {
						if tt.key == "" {
							return nil
						}
						return setKey(fd, v6, netip.PrefixFrom(to, to.BitLen()), tt.key)
					})
					done <- result{conn, err}
				}()
				if tt.counter == "" {
					r := <-done
					if r.err != nil {
						t.Fatal(r.err)
					}
					p := newPeer(t, r.conn)
					p.establish(nil)
					eventually(t, "the session", func() bool {
						for _, u := range h.seen() {
							if u.Peer.Addr.String() == tt.from {
								return true
							}
						}
						return false
					})
					return
				}
				eventually(t, tt.counter, func() bool { return netstat(t, tt.counter) > before })
				cancel()
				if r := <-done; r.err == nil {
					r.conn.Close()
					t.Error("it could connect")
				}
			})
		}
	}
}
