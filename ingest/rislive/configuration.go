package rislive

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/routevigil/routevigil/ingest/bgp"
)

// Configuration says where to connect, what to ask for, and how patient to be.
type Configuration struct {
	Enabled       bool           `yaml:"enabled" doc:"Whether to use this feed."`
	Name          string         `yaml:"name" doc:"Name of this feed in status, metrics and logs."`
	URL           string         `yaml:"url" doc:"Address of the service: wss:// or ws:// for its WebSocket, https:// or http:// for its stream of lines, such as https://ris-live.ripe.net/v1/stream/?format=json, which takes one subscription only."`
	Client        string         `yaml:"client" doc:"How we introduce ourselves to the service; RIPE asks for a name that tells who is calling."`
	Subscriptions []Subscription `yaml:"subscriptions" doc:"What to ask for; a message that matches any of them is delivered once or more."`

	Connections     int           `yaml:"connections" doc:"How many connections share the collectors among them, each a feed of its own; for when one cannot carry the whole."`
	MaxMessageBytes int           `yaml:"max_message_bytes" config:"bytes" doc:"Largest message accepted; a larger one ends the connection."`
	ConnectTimeout  time.Duration `yaml:"connect_timeout" doc:"How long connecting may take."`
	PingInterval    time.Duration `yaml:"ping_interval" doc:"Time between pings; a connection that answers nothing for three of them is dead."`
	StallAfter      time.Duration `yaml:"stall_after" doc:"Reconnect when no message came for this long; 0 never does, for subscriptions that are quiet by nature."`
	LagAfter        time.Duration `yaml:"lag_after" doc:"The feed counts as lagging when its newest message is this much older than the wall clock."`
	ReconnectMin    time.Duration `yaml:"reconnect_min" doc:"Wait before the first attempt to reconnect; doubles with every further one, and is shortened at random by up to half."`
	ReconnectMax    time.Duration `yaml:"reconnect_max" doc:"Longest wait between attempts to reconnect."`
}

// Subscription is one filter; an empty field does not filter.
type Subscription struct {
	Host         string   `yaml:"host" json:"host,omitempty" doc:"Collector, such as rrc21."`
	Type         string   `yaml:"type" json:"type,omitempty" doc:"Kind of message: UPDATE, OPEN, NOTIFICATION, KEEPALIVE or RIS_PEER_STATE."`
	Require      string   `yaml:"require" json:"require,omitempty" doc:"Only messages that contain announcements, or withdrawals."`
	Peer         string   `yaml:"peer" json:"peer,omitempty" doc:"Address of the collector's peer."`
	Path         string   `yaml:"path" json:"path,omitempty" doc:"ASN or pattern of ASNs with commas that the AS path must contain, such as 3333,^123,456$ or !789."`
	Prefix       []string `yaml:"prefix" json:"prefix,omitempty" doc:"Prefixes of which at least one must be in the message; at most 10000 in all subscriptions."`
	MoreSpecific *bool    `yaml:"more_specific" json:"moreSpecific,omitempty" doc:"Whether prefixes inside those given match too; the service takes it for true when absent."`
	LessSpecific *bool    `yaml:"less_specific" json:"lessSpecific,omitempty" doc:"Whether prefixes that cover those given match too; the service takes it for false when absent."`
}

// withRaw is the subscription as it is sent: with the BGP message itself in each answer.
func (s Subscription) withRaw() any {
	type options struct {
		IncludeRaw bool `json:"includeRaw"`
	}
	return struct {
		Subscription
		Options options `json:"socketOptions"`
	}{s, options{true}}
}

// share gives the subscriptions that are left to one of several connections: the collectors, in the
// order of their names, fall to the connections in turn.
func share(all []Subscription, collectors []string, part, of int) []Subscription {
	var single []Subscription // of one collector each
	for _, s := range all {
		if s.Host != "" {
			single = append(single, s)
			continue
		}
		for _, s.Host = range collectors {
			single = append(single, s)
		}
	}
	var hosts []string
	for _, s := range single {
		hosts = append(hosts, s.Host)
	}
	slices.Sort(hosts)
	hosts = slices.Compact(hosts)
	return slices.DeleteFunc(single, func(s Subscription) bool { return slices.Index(hosts, s.Host)%of != part })
}

// Limits that the service sets (or that its users found out).
const (
	maxPrefixFilters = 10_000
	maxPathFilters   = 10
	subscribeSpacing = 200 * time.Millisecond
	maxConnections   = 16
)

// DefaultConfiguration asks RIPE's service for every update of every collector.
func DefaultConfiguration() Configuration {
	return Configuration{
		Enabled: true, Name: "ris-live", URL: "wss://ris-live.ripe.net/v1/ws/", Client: "routevigil",
		Subscriptions: []Subscription{{Type: "UPDATE"}, {Type: "RIS_PEER_STATE"}},
		Connections:   1, MaxMessageBytes: 4 << 20, ConnectTimeout: 15 * time.Second, PingInterval: 20 * time.Second,
		StallAfter: time.Minute, LagAfter: 2 * time.Minute,
		ReconnectMin: time.Second, ReconnectMax: time.Minute,
	}
}

// Whole says that the subscriptions ask for every update of the collectors that they concern.
func (c Configuration) Whole() bool {
	return slices.ContainsFunc(c.Subscriptions, func(s Subscription) bool { return s.Type == "" || s.Type == "UPDATE" }) &&
		!slices.ContainsFunc(c.Subscriptions, func(s Subscription) bool {
			return (s.Type == "" || s.Type == "UPDATE") && (s.Require != "" || s.Peer != "" || s.Path != "" || len(s.Prefix) > 0)
		})
}

// overHTTP says that the service is read as a stream of lines.
func (c Configuration) overHTTP() bool { return strings.HasPrefix(c.URL, "http") }

// Validate reports every value that cannot work.
func (c Configuration) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" {
		fail("name: must not be empty")
	}
	if u, err := url.Parse(c.URL); err != nil || !slices.Contains([]string{"ws", "wss", "http", "https"}, u.Scheme) || u.Host == "" {
		fail("url: %q is not an address that begins with wss://, ws://, https:// or http://", c.URL)
	}
	if c.overHTTP() && len(c.Subscriptions) > 1 {
		fail("subscriptions: an https:// address takes one, there are %d: give one without a type for everything, or use wss://", len(c.Subscriptions))
	}
	if c.Connections < 1 || c.Connections > maxConnections {
		fail("connections: must be 1 to %d, is %d", maxConnections, c.Connections)
	} else if c.Connections > 1 && c.overHTTP() {
		fail("connections: an https:// address takes one")
	}
	if c.Client == "" {
		fail("client: must not be empty")
	}
	if len(c.Subscriptions) == 0 {
		fail("subscriptions: must name at least one, or nothing is ever received")
	}
	prefixes, paths := 0, 0
	for i, s := range c.Subscriptions {
		at := fmt.Sprintf("subscriptions[%d]", i)
		if s.Type != "" && !slices.Contains([]string{"UPDATE", "OPEN", "NOTIFICATION", "KEEPALIVE", "RIS_PEER_STATE"}, s.Type) {
			fail("%s.type: %q is not UPDATE, OPEN, NOTIFICATION, KEEPALIVE or RIS_PEER_STATE", at, s.Type)
		}
		if s.Require != "" && s.Require != "announcements" && s.Require != "withdrawals" {
			fail("%s.require: %q is neither announcements nor withdrawals", at, s.Require)
		}
		if _, err := netip.ParseAddr(s.Peer); s.Peer != "" && err != nil {
			fail("%s.peer: %q is not an address", at, s.Peer)
		}
		if s.Path != "" {
			paths++
			for _, a := range strings.Split(strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(s.Path, "!"), "^"), "$"), ",") {
				if _, err := bgp.ParseASN(a); err != nil && !strings.HasPrefix(a, "[") && !strings.HasSuffix(a, "]") {
					fail("%s.path: %w", at, err)
				}
			}
		}
		prefixes += len(s.Prefix)
		for j, p := range s.Prefix {
			if _, err := netip.ParsePrefix(p); err != nil {
				fail("%s.prefix[%d]: %q is not a prefix", at, j, p)
			}
		}
	}
	if prefixes > maxPrefixFilters {
		fail("subscriptions: %d prefixes in all; the service takes at most %d: subscribe to everything instead", prefixes, maxPrefixFilters)
	}
	if c.Connections > 1 && prefixes+paths > 0 {
		fail("connections: what is asked of single prefixes or paths fits one connection")
	}
	if paths > maxPathFilters {
		fail("subscriptions: %d paths in all; the service takes at most %d: subscribe to everything instead", paths, maxPathFilters)
	}
	if c.MaxMessageBytes < 64<<10 {
		fail("max_message_bytes: must be at least 65536, is %d", c.MaxMessageBytes)
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{{"connect_timeout", c.ConnectTimeout}, {"ping_interval", c.PingInterval}, {"lag_after", c.LagAfter}, {"reconnect_min", c.ReconnectMin}} {
		if d.value <= 0 {
			fail("%s: must be positive, is %v", d.field, d.value)
		}
	}
	if c.StallAfter < 0 {
		fail("stall_after: must not be negative, is %v", c.StallAfter)
	}
	if c.ReconnectMax < c.ReconnectMin {
		fail("reconnect_max: must not be less than reconnect_min (%v), is %v", c.ReconnectMin, c.ReconnectMax)
	}
	return errors.Join(errs...)
}
