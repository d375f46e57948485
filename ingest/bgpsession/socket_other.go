//go:build !linux

package bgpsession

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

var errNeedsLinux = errors.New("password and ttl_security need Linux; leave them out, and protect the session by other means")

func (l *Listener) control(string, string, syscall.RawConn) error {
	for _, n := range l.neighbours {
		if n.password != "" || n.c.TTLSecurity > 0 {
			return fmt.Errorf("neighbour %s: %w", n.c.Address, errNeedsLinux)
		}
	}
	return nil
}

func requireTTL(*net.TCPConn, int) error { return errNeedsLinux }
