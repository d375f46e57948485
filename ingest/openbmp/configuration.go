package openbmp

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"time"

	"github.com/routevigil/routevigil/ingest/kafkaauth"
)

// Configuration says which cluster to read, what of it, and how patient to be.
type Configuration struct {
	Enabled  bool           `yaml:"enabled" doc:"Whether to use this feed."`
	Name     string         `yaml:"name" doc:"Name of this feed in status, metrics and logs, and of the file that holds its offsets."`
	Brokers  []string       `yaml:"brokers" doc:"Addresses and ports of brokers to ask for the rest of the cluster, the next one when one does not answer."`
	Topics   string         `yaml:"topics" doc:"Regular expression (RE2) of the topics to read; new ones that match are found while running. What its group named collector matches is what the peers' collector is called; without it the name is the router's, as OpenBMP gives it."`
	Start    string         `yaml:"start" doc:"Where to begin with topics of which no offset is stored: latest, or earliest, which is all that the cluster still has. A topic that appears later is read from its beginning."`
	ClientID string         `yaml:"client_id" doc:"How we introduce ourselves to the brokers."`
	TLS      kafkaauth.TLS  `yaml:"tls" doc:"Encryption of the connections."`
	SASL     kafkaauth.SASL `yaml:"sasl" doc:"Credentials, for clusters that want them."`

	MaxFetchBytes     int `yaml:"max_fetch_bytes" config:"bytes" doc:"How much to ask of a broker at once."`
	MaxPartitionBytes int `yaml:"max_partition_bytes" config:"bytes" doc:"How much of that may come from one partition."`
	MaxBatchBytes     int `yaml:"max_batch_bytes" config:"bytes" doc:"Largest batch of messages accepted, as it is sent and when decompressed; a larger one is counted and passed over. Each broker's connection may need this memory twice."`
	MaxPartitions     int `yaml:"max_partitions" doc:"Partitions that may match; if there are more, none that is new is read."`
	MaxRouters        int `yaml:"max_routers" doc:"Routers that may be told apart; messages of others are counted and passed over."`

	ConnectTimeout time.Duration `yaml:"connect_timeout" doc:"How long connecting to a broker may take, with encryption and credentials."`
	RequestTimeout time.Duration `yaml:"request_timeout" doc:"How long a broker may take to answer, and for each piece of a long answer."`
	MaxWait        time.Duration `yaml:"max_wait" doc:"How long a broker waits for messages before it answers that there are none; must be less than request_timeout."`
	RefreshEvery   time.Duration `yaml:"refresh_every" doc:"Time between looks for new topics and other leaders; trouble with a partition causes one at once."`
	OffsetsEvery   time.Duration `yaml:"offsets_every" doc:"Time between writes of the offsets. What is written is where reading was one such time before, so that after a crash up to twice this much is read again rather than missed."`
	StallAfter     time.Duration `yaml:"stall_after" doc:"The feed counts as stalled when no message came for this long."`
	LagAfter       time.Duration `yaml:"lag_after" doc:"The feed counts as lagging when its newest message is this much older than the wall clock."`
	ReconnectMin   time.Duration `yaml:"reconnect_min" doc:"Wait before the first attempt to reach a broker again, or to read a partition again that it could not give; doubles with every further one, and is shortened at random by up to half."`
	ReconnectMax   time.Duration `yaml:"reconnect_max" doc:"Longest wait between such attempts."`
}

// RouteViewsTopics matches RouteViews' topics, routeviews.COLLECTOR.PEER.bmp_raw.
const RouteViewsTopics = `^routeviews\.(?P<collector>.+)\.[^.]+\.bmp_raw$`

// Names of Start.
const (
	startLatest   = "latest"
	startEarliest = "earliest"
)

// DefaultConfiguration is RouteViews' public cluster, not enabled.
func DefaultConfiguration() Configuration {
	return Configuration{
		Name: "routeviews", Brokers: []string{"stream.routeviews.org:9092"}, Topics: RouteViewsTopics, Start: startLatest, ClientID: "routevigil",
		MaxFetchBytes: 8 << 20, MaxPartitionBytes: 1 << 20, MaxBatchBytes: 16 << 20, MaxPartitions: 20_000, MaxRouters: 512,
		ConnectTimeout: 15 * time.Second, RequestTimeout: 30 * time.Second, MaxWait: 500 * time.Millisecond,
		RefreshEvery: time.Minute, OffsetsEvery: 5 * time.Second, StallAfter: time.Minute, LagAfter: 2 * time.Minute,
		ReconnectMin: time.Second, ReconnectMax: time.Minute,
	}
}

// collectorGroup is the name of the group in Topics that matches the collector.
const collectorGroup = "collector"

// Validate reports every value that cannot work.
func (c Configuration) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if c.Name == "" {
		fail("name: must not be empty")
	}
	if len(c.Brokers) == 0 {
		fail("brokers: must name at least one")
	}
	for i, b := range c.Brokers {
		host, port, err := net.SplitHostPort(b)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 || host == "" {
			fail("brokers[%d]: %q is not a host and port, such as stream.routeviews.org:9092", i, b)
		}
	}
	if _, err := regexp.Compile(c.Topics); err != nil {
		fail("topics: %w", err)
	} else if c.Topics == "" {
		fail("topics: must not be empty; a dot matches every topic")
	}
	if c.Start != startLatest && c.Start != startEarliest {
		fail("start: %q is neither latest nor earliest", c.Start)
	}
	if c.ClientID == "" {
		fail("client_id: must not be empty")
	}
	if err := c.SASL.Validate(); err != nil {
		fail("sasl%w", err)
	}
	for _, b := range []struct {
		field              string
		value, least, most int
	}{
		{"max_fetch_bytes", c.MaxFetchBytes, 64 << 10, 1 << 30},
		{"max_partition_bytes", c.MaxPartitionBytes, 16 << 10, 1 << 30},
		{"max_batch_bytes", c.MaxBatchBytes, c.MaxPartitionBytes, 1 << 30},
		{"max_partitions", c.MaxPartitions, 1, 1 << 20},
		{"max_routers", c.MaxRouters, 1, 1 << 20},
	} {
		if b.value < b.least || b.value > b.most {
			fail("%s: must be from %d to %d, is %d", b.field, b.least, b.most, b.value)
		}
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"connect_timeout", c.ConnectTimeout}, {"request_timeout", c.RequestTimeout}, {"max_wait", c.MaxWait}, {"refresh_every", c.RefreshEvery},
		{"offsets_every", c.OffsetsEvery}, {"stall_after", c.StallAfter}, {"lag_after", c.LagAfter}, {"reconnect_min", c.ReconnectMin},
	} {
		if d.value <= 0 {
			fail("%s: must be positive, is %v", d.field, d.value)
		}
	}
	if c.MaxWait >= c.RequestTimeout || c.MaxWait > time.Hour {
		fail("max_wait: must be less than request_timeout (%v), and than an hour; is %v", c.RequestTimeout, c.MaxWait)
	}
	if c.ReconnectMax < c.ReconnectMin {
		fail("reconnect_max: must not be less than reconnect_min (%v), is %v", c.ReconnectMin, c.ReconnectMax)
	}
	return errors.Join(errs...)
}
