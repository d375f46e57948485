package bgpsession

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/routevigil/routevigil/ingest/bgp"
)

// Configuration says where to listen, who we are, and whom to accept.
type Configuration struct {
	Name             string        `yaml:"name" doc:"Name of this feed in status, metrics and logs, and of the collector in the updates of neighbours without a name."`
	Listen           []string      `yaml:"listen" doc:"Addresses to listen on, as host:port; an empty host is all addresses, the port of BGP is 179. Without any, no session is accepted."`
	LocalASN         uint32        `yaml:"local_asn" doc:"Our AS number; a neighbour of the same speaks iBGP with us."`
	RouterID         netip.Addr    `yaml:"router_id" doc:"Our BGP identifier, written as an IPv4 address; no neighbour may have the same."`
	HoldTime         time.Duration `yaml:"hold_time" doc:"Offered time without a message after which a session ends, in whole seconds from 3s, or 0 for none; the neighbour may want less."`
	HandshakeTimeout time.Duration `yaml:"handshake_timeout" doc:"How long a connection may take to become an established session."`
	Neighbours       []Neighbour   `yaml:"neighbours" doc:"Who may connect; all others are refused. Where several match, the longest prefix counts."`
}

// Neighbour is one router, or all routers of a prefix.
type Neighbour struct {
	Address      string        `yaml:"address" doc:"Address that connects to us, or a prefix of such addresses."`
	Name         string        `yaml:"name" doc:"Name of the router, told as the collector in its updates; the name of the feed when empty."`
	RemoteASN    uint32        `yaml:"remote_asn" doc:"AS number that it must have; 0 accepts any."`
	LocalASN     uint32        `yaml:"local_asn" doc:"Our AS number towards it; that of all neighbours when 0."`
	HoldTime     time.Duration `yaml:"hold_time" doc:"As the setting for all neighbours, which counts when it is 0."`
	Password     Password      `yaml:"password" config:"secret" doc:"Key of TCP MD5 signatures (RFC 2385), at most 80 octets; connections without it are dropped. Needs Linux."`
	PasswordFile string        `yaml:"password_file" doc:"File that holds the key, instead of password; read at the start."`
	TTLSecurity  int           `yaml:"ttl_security" doc:"Accept only what comes from at most this many hops away, from 1 to 254 (GTSM, RFC 5082); the router must send with TTL 255. 0 does not check. Needs Linux."`
	Role         string        `yaml:"role" doc:"Our role in the relation (RFC 9234): provider, rs, rs-client, customer or peer; a neighbour whose own does not fit is refused. No role is told when empty."`
	MaxPrefixes  int           `yaml:"max_prefixes" doc:"Routes of one session, each path of ADD-PATH counted, above which it ends and stays away for 5m; ten million when 0."`
	MaxSessions  int           `yaml:"max_sessions" doc:"Routers of a prefix that may be connected at a time; 100 when 0."`
}

// Password is text that nobody is shown. Convert it to a string to use it.
type Password string

// Format prints a mask for every verb.
func (p Password) Format(f fmt.State, _ rune) { io.WriteString(f, p.String()) }

func (p Password) String() string {
	if p == "" {
		return ""
	}
	return "<secret>"
}

// MarshalText masks it in JSON, YAML and text logs.
func (p Password) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// LogValue masks it in logs.
func (p Password) LogValue() slog.Value { return slog.StringValue(p.String()) }

const (
	maxPassword        = 80 // TCP_MD5SIG_MAXKEYLEN
	defaultMaxPrefixes = 10_000_000
	defaultMaxSessions = 100
)

// DefaultConfiguration accepts nobody.
func DefaultConfiguration() Configuration {
	return Configuration{Name: "bgp", HoldTime: 90 * time.Second, HandshakeTimeout: 30 * time.Second}
}

// withDefaults fills in what n leaves to c.
func (n Neighbour) withDefaults(c Configuration) Neighbour {
	n.Name = cmp.Or(n.Name, c.Name)
	n.LocalASN = cmp.Or(n.LocalASN, c.LocalASN)
	n.HoldTime = cmp.Or(n.HoldTime, c.HoldTime)
	n.MaxPrefixes = cmp.Or(n.MaxPrefixes, defaultMaxPrefixes)
	n.MaxSessions = cmp.Or(n.MaxSessions, defaultMaxSessions)
	return n
}

// parsePrefix reads an address as the prefix that holds it alone.
func parsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil && !p.Addr().Is4In6() {
		if p != p.Masked() {
			return p, fmt.Errorf("%q has bits beyond its length; write %q", s, p.Masked().String())
		}
		return p, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a prefix", s)
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

// Validate reports every value that cannot work.
func (c Configuration) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for i, address := range c.Listen {
		if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
			fail("listen[%d]: %q is not host:port, such as \"192.0.2.1:179\" or \":179\"", i, address)
		}
	}
	holdTime := func(at string, d time.Duration) {
		if d != 0 && (d < 3*time.Second || d > 65535*time.Second || d%time.Second != 0) {
			fail("%s: must be 0 or whole seconds from 3s to 65535s, is %v", at, d)
		}
	}
	if len(c.Listen) > 0 {
		if c.Name == "" {
			fail("name: must not be empty")
		}
		if !c.RouterID.Is4() || c.RouterID.IsUnspecified() {
			fail("router_id: must be written as an IPv4 address other than 0.0.0.0")
		}
		if c.HandshakeTimeout <= 0 {
			fail("handshake_timeout: must be positive, is %v", c.HandshakeTimeout)
		}
		if len(c.Neighbours) == 0 {
			fail("neighbours: must name at least one, or every connection is refused")
		}
	} else if len(c.Neighbours) > 0 {
		fail("listen: must name an address, such as \":179\", or the neighbours cannot connect")
	}
	holdTime("hold_time", c.HoldTime)

	prefixes := make([]netip.Prefix, len(c.Neighbours))
	for i, n := range c.Neighbours {
		at := fmt.Sprintf("neighbours[%d]", i)
		p, err := parsePrefix(n.Address)
		switch {
		case err != nil:
			fail("%s.address: %w", at, err)
		case slices.Contains(prefixes[:i], p):
			fail("%s.address: %s is configured twice", at, n.Address)
		default:
			prefixes[i] = p
		}
		if c.LocalASN == 0 && n.LocalASN == 0 {
			fail("%s.local_asn: must be set here or for all neighbours", at)
		}
		holdTime(at+".hold_time", n.HoldTime)
		if len(n.Password) > maxPassword {
			fail("%s.password: has %d octets; %d is the most", at, len(n.Password), maxPassword)
		}
		if n.Password != "" && n.PasswordFile != "" {
			fail("%s.password_file: set this or password, not both", at)
		}
		if n.TTLSecurity < 0 || n.TTLSecurity > 254 {
			fail("%s.ttl_security: must be from 0 to 254, is %d", at, n.TTLSecurity)
		}
		if _, ok := roles[n.Role]; !ok && n.Role != "" {
			fail("%s.role: %q is not provider, rs, rs-client, customer or peer", at, n.Role)
		}
		if n.MaxPrefixes < 0 {
			fail("%s.max_prefixes: must not be negative, is %d", at, n.MaxPrefixes)
		}
		if n.MaxSessions < 0 {
			fail("%s.max_sessions: must not be negative, is %d", at, n.MaxSessions)
		}
	}
	// The kernel asks every address of a prefix that has a key for a signature.
	for i, n := range c.Neighbours {
		for j, o := range c.Neighbours {
			if i != j && n.Password == "" && n.PasswordFile == "" && (o.Password != "" || o.PasswordFile != "") &&
				prefixes[i].IsValid() && prefixes[j].IsValid() && prefixes[j].Bits() < prefixes[i].Bits() && prefixes[j].Contains(prefixes[i].Addr()) {
				fail("neighbours[%d].password: must be set, because the prefix %s around %s has one", i, o.Address, n.Address)
			}
		}
	}
	return errors.Join(errs...)
}

// readPassword takes the password from its file, if there is one.
func (n *neighbour) readPassword() error {
	if n.c.PasswordFile == "" {
		return nil
	}
	text, err := os.ReadFile(n.c.PasswordFile)
	if err != nil {
		return fmt.Errorf("BGP neighbour %s: password_file: %w", n.c.Address, err)
	}
	n.password = Password(strings.TrimSpace(string(text)))
	if n.password == "" || len(n.password) > maxPassword {
		return fmt.Errorf("BGP neighbour %s: password_file: %s has %d octets; write a key of 1 to %d octets into it",
			n.c.Address, n.c.PasswordFile, len(n.password), maxPassword)
	}
	return nil
}

// roles are the values of the role capability (RFC 9234 §4.1).
var roles = map[string]byte{"provider": 0, "rs": 1, "rs-client": 2, "customer": 3, "peer": 4}

// counterpart is the role that a neighbour of each role must have (RFC 9234 §4.2).
var counterpart = [...]byte{0: 3, 1: 2, 2: 1, 3: 0, 4: 4}

// open is what we say to n.
func (l *Listener) open(n *neighbour) *bgp.Open {
	o := &bgp.Open{ASN: n.c.LocalASN, HoldTime: uint16(n.c.HoldTime / time.Second), ID: l.c.RouterID}
	o.Capabilities = []bgp.Capability{
		bgp.Multiprotocol(bgp.IPv4Unicast), bgp.Multiprotocol(bgp.IPv6Unicast),
		bgp.Multiprotocol(bgp.IPv4Multicast), bgp.Multiprotocol(bgp.IPv6Multicast),
		{Code: bgp.CapRouteRefresh},
		bgp.ExtendedNextHop(bgp.IPv4Unicast),
		{Code: bgp.CapExtendedMessage},
		{Code: bgp.CapGracefulRestart, Value: []byte{0x80, 0}}, // restarted, no restart time, no family kept
		bgp.FourOctetAS(n.c.LocalASN),
		bgp.AddPath(bgp.AddPathReceive, bgp.IPv4Unicast, bgp.IPv6Unicast),
	}
	if n.c.Role != "" {
		o.Capabilities = append(o.Capabilities, bgp.Capability{Code: bgp.CapRole, Value: []byte{roles[n.c.Role]}})
	}
	return o
}
