package bgpsession

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// control prepares a listening socket before it is bound: with the keys of the neighbours, and so
// that routers that check it find TTL 255 in our answer to their SYN already.
func (l *Listener) control(network, _ string, c syscall.RawConn) error {
	ipv6 := strings.HasSuffix(network, "6")
	return onSocket(c, func(fd int) error {
		ttl := false
		for _, n := range l.neighbours {
			ttl = ttl || n.c.TTLSecurity > 0
			if n.password == "" || n.prefix.Addr().Is6() && !ipv6 {
				continue
			}
			if err := setKey(fd, ipv6, n.prefix, string(n.password)); err != nil {
				return fmt.Errorf("neighbour %s: the kernel refuses the key of TCP MD5 signatures (RFC 2385): %w", n.c.Address, err)
			}
		}
		if !ttl {
			return nil
		}
		if err := setTTL(fd, ipv6); err != nil {
			return err
		}
		// What a connection brought along as TTL before it was accepted is known from its SYN.
		return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_SAVE_SYN, 1)
	})
}

// onSocket calls f with the descriptor of a socket.
func onSocket(c syscall.RawConn, f func(fd int) error) error {
	var failed error
	if err := c.Control(func(fd uintptr) { failed = f(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// setKey has the kernel sign what goes to the addresses of p, and drop what comes from there unsigned.
func setKey(fd int, ipv6 bool, p netip.Prefix, key string) error {
	sig := unix.TCPMD5Sig{Keylen: uint16(len(key))}
	copy(sig.Key[:], key)
	if ipv6 { // also speaks with IPv4 addresses, mapped
		sa := (*unix.RawSockaddrInet6)(unsafe.Pointer(&sig.Addr))
		sa.Family, sa.Addr = unix.AF_INET6, p.Addr().As16()
	} else {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&sig.Addr))
		sa.Family, sa.Addr = unix.AF_INET, p.Addr().As4()
	}
	option := unix.TCP_MD5SIG
	if !p.IsSingleIP() {
		option, sig.Flags, sig.Prefixlen = unix.TCP_MD5SIG_EXT, unix.TCP_MD5SIG_FLAG_PREFIX, uint8(p.Bits())
	}
	return unix.SetsockoptTCPMD5Sig(fd, unix.IPPROTO_TCP, option, &sig)
}

// setTTL sends with TTL 255. An IPv6 socket may carry IPv4 too.
func setTTL(fd int, ipv6 bool) error {
	if ipv6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 255); err != nil {
			return err
		}
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, 255)
}

// requireTTL has the kernel drop what arrives on conn with a lower TTL than least, and refuses a
// connection that was opened with a lower one (RFC 5082 §3).
func requireTTL(conn *net.TCPConn, least int) error {
	c, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return onSocket(c, func(fd int) error {
		var syn [128]byte // the headers of IP and TCP
		size := uint32(len(syn))
		if _, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_SAVED_SYN,
			uintptr(unsafe.Pointer(&syn)), uintptr(unsafe.Pointer(&size)), 0); e != 0 {
			return fmt.Errorf("the TTL of its SYN is not known: %w", e)
		}
		ttl, ipv6 := 0, false
		switch {
		case size >= 20 && syn[0]>>4 == 4:
			ttl = int(syn[8])
		case size >= 40 && syn[0]>>4 == 6:
			ttl, ipv6 = int(syn[7]), true
		default:
			return errors.New("the TTL of its SYN is not known, perhaps because of a flood of SYNs")
		}
		if ttl < least {
			return fmt.Errorf("it came with TTL %d; with ttl_security it must be at least %d: configure the router to send with 255", ttl, least)
		}
		if ipv6 {
			return errors.Join(setTTL(fd, true), unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT, least))
		}
		return errors.Join(setTTL(fd, false), unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MINTTL, least))
	})
}
