package bmp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Configuration says which routers to hear, and how patient to be with them.
type Configuration struct {
	Name    string   `yaml:"name" doc:"Name of this feed in status, metrics and logs."`
	Listen  string   `yaml:"listen" doc:"Address and port on which routers can connect, such as 192.0.2.1:1790; nothing is listened on if it is empty."`
	Allow   []string `yaml:"allow" doc:"Prefixes of the routers that may connect; others are refused. Anyone who may connect can tell us any route."`
	Connect []string `yaml:"connect" doc:"Addresses and ports of routers that wait for us to connect to them."`
	Routers []Router `yaml:"routers" doc:"Names of routers; one that has none is called by its address."`
	VRFs    bool     `yaml:"vrfs" doc:"Whether to take routes of VPNs and of other instances than the default one; for networks that carry the Internet's routes in one. The distinguisher is then part of the collector's name."`

	MaxSessions     int           `yaml:"max_sessions" doc:"Sessions at a time; further routers are refused."`
	MaxMessageBytes int           `yaml:"max_message_bytes" config:"bytes" doc:"Largest message accepted; a larger one ends the session."`
	ConnectTimeout  time.Duration `yaml:"connect_timeout" doc:"How long connecting may take, and then the first message."`
	IdleTimeout     time.Duration `yaml:"idle_timeout" doc:"A session on which nothing came for this long is ended; 0 never does that, because a router with nothing to tell is silent. A dead connection is found by TCP keep-alive."`
	KeepAlive       time.Duration `yaml:"keep_alive" doc:"Time between TCP keep-alive probes on a silent connection; three without an answer end it."`
	ReconnectMin    time.Duration `yaml:"reconnect_min" doc:"Wait before the first attempt to connect again; doubles with every further one, and is shortened at random by up to half."`
	ReconnectMax    time.Duration `yaml:"reconnect_max" doc:"Longest wait between attempts to connect."`
}

// Router gives a router a name.
type Router struct {
	Address string `yaml:"address" doc:"Address from which the router speaks, without a port."`
	Name    string `yaml:"name" doc:"What its peers' collector is called."`
}

// DefaultConfiguration hears no router.
func DefaultConfiguration() Configuration {
	return Configuration{
		Name: "bmp", MaxSessions: 1000, MaxMessageBytes: MaxLength, ConnectTimeout: 30 * time.Second,
		KeepAlive: 15 * time.Second, ReconnectMin: time.Second, ReconnectMax: time.Minute,
	}
}

// Enabled reports whether there is any router to hear.
func (c Configuration) Enabled() bool { return c.Listen != "" || len(c.Connect) > 0 }

// Validate reports every value that cannot work.
func (c Configuration) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" {
		fail("name: must not be empty")
	}
	if c.Listen != "" {
		if _, err := netip.ParseAddrPort(c.Listen); err != nil {
			fail("listen: %q is not an address and port, such as 0.0.0.0:1790 or [::]:1790", c.Listen)
		}
		if len(c.Allow) == 0 {
			fail("allow: must name at least one prefix if listen is set, or no router could connect")
		}
	}
	for i, p := range c.Allow {
		if _, err := netip.ParsePrefix(p); err != nil {
			fail("allow[%d]: %q is not a prefix", i, p)
		}
	}
	for i, a := range c.Connect {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			fail("connect[%d]: %q is not a host and port, such as 192.0.2.7:11019", i, a)
		}
	}
	for i, r := range c.Routers {
		if _, err := netip.ParseAddr(r.Address); err != nil {
			fail("routers[%d].address: %q is not an address", i, r.Address)
		}
		if r.Name == "" {
			fail("routers[%d].name: must not be empty", i)
		}
	}
	if c.MaxSessions <= 0 {
		fail("max_sessions: must be positive, is %d", c.MaxSessions)
	}
	if c.MaxMessageBytes < 64<<10 || c.MaxMessageBytes > MaxLength {
		fail("max_message_bytes: must be from %d to %d, is %d", 64<<10, MaxLength, c.MaxMessageBytes)
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"connect_timeout", c.ConnectTimeout}, {"keep_alive", c.KeepAlive}, {"reconnect_min", c.ReconnectMin}} {
		if d.value <= 0 {
			fail("%s: must be positive, is %v", d.field, d.value)
		}
	}
	if c.IdleTimeout < 0 {
		fail("idle_timeout: must not be negative, is %v", c.IdleTimeout)
	}
	if c.ReconnectMax < c.ReconnectMin {
		fail("reconnect_max: must not be less than reconnect_min (%v), is %v", c.ReconnectMin, c.ReconnectMax)
	}
	return errors.Join(errs...)
}
