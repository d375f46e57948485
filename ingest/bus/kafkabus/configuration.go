package kafkabus

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"time"

	"github.com/routevigil/routevigil/ingest/kafkaauth"
)

// Configuration says which cluster the roles meet at, and how.
type Configuration struct {
	Brokers     []string       `yaml:"brokers" doc:"Addresses and ports of brokers to ask for the rest of the cluster; the roles collect, detect and record need at least one, serve needs none."`
	Prefix      string         `yaml:"prefix" doc:"What the names of all topics begin with; deployments that share a cluster differ in it."`
	ClientID    string         `yaml:"client_id" doc:"How we introduce ourselves to the brokers."`
	TLS         kafkaauth.TLS  `yaml:"tls" doc:"Encryption of the connections."`
	SASL        kafkaauth.SASL `yaml:"sasl" doc:"Credentials, for clusters that want them."`
	Partitions  int            `yaml:"partitions" doc:"Partitions of the topic of updates that kafka init makes; it cannot be changed later."`
	Replication int            `yaml:"replication" doc:"Brokers that keep a copy of each topic that kafka init makes; 0 stands for 3, or all brokers where there are fewer. From 3 on, two must have stored what is acknowledged."`
	Retention   time.Duration  `yaml:"retention" doc:"How long updates are kept; a detector or recorder that is away for longer misses some."`
	Duplicates  time.Duration  `yaml:"duplicates" doc:"Event time within which what several collectors say of the same message of the same peer counts once; 0 where no feed has two collectors. Must be the same for all detectors and recorders."`
	Takeover    time.Duration  `yaml:"takeover" doc:"How long the detector in charge may be silent before another takes its place."`
	Checkpoint  time.Duration  `yaml:"checkpoint" doc:"Time between saves of the detector's state, and of how far was recorded: who starts anew goes through what came since."`
	Timeout     time.Duration  `yaml:"timeout" doc:"How long a broker may take to answer one request."`
	OpenBMP     OpenBMP        `yaml:"openbmp" doc:"What the feeds of collect and serve say, written for other consumers: raw BMP in OpenBMP's format, as RouteViews' public stream has it; off unless it has a topic."`
}

// OpenBMP says where other consumers find what our feeds say.
type OpenBMP struct {
	Topic      string `yaml:"topic" doc:"The topic, without kafka.prefix, such as openbmp.bmp_raw; empty: nothing is written. kafka init makes it."`
	Name       string `yaml:"name" doc:"What the messages call the collector of all, which is this deployment (OpenBMP's admin id)."`
	Partitions int    `yaml:"partitions" doc:"Partitions of the topic that kafka init makes; what one collector or router hears is in one of them."`
	MaxBytes   int64  `yaml:"max_bytes" config:"bytes" doc:"Memory that messages may take which Kafka has not taken yet; what does not fit is lost and counted, because feeds never wait for it."`
}

// DefaultConfiguration names no brokers.
func DefaultConfiguration() Configuration {
	return Configuration{Prefix: "routevigil.", ClientID: "routevigil", Partitions: 8, Retention: 24 * time.Hour,
		Duplicates: 30 * time.Second, Takeover: 10 * time.Second, Checkpoint: 2 * time.Minute, Timeout: 10 * time.Second,
		OpenBMP: OpenBMP{Name: "routevigil", Partitions: 8, MaxBytes: 64 << 20}}
}

var topicPrefix = regexp.MustCompile(`^[A-Za-z0-9._-]{0,200}$`)

// Validate reports every value that cannot work.
func (c Configuration) Validate() error {
	var errs []error
	bad := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	for i, b := range c.Brokers {
		host, port, err := net.SplitHostPort(b)
		n, wrong := strconv.ParseUint(port, 10, 16)
		bad(err == nil && wrong == nil && n > 0 && host != "", "brokers[%d]: %q is not a host and port, such as kafka.example.net:9092", i, b)
	}
	bad(topicPrefix.MatchString(c.Prefix), "prefix: may have letters, digits, dots, dashes and underscores, at most 200, is %q", c.Prefix)
	bad(c.ClientID != "", "client_id: must not be empty")
	if err := c.SASL.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("sasl%w", err))
	}
	bad(c.Partitions >= 1 && c.Partitions <= 1024, "partitions: must be 1 to 1024, is %d", c.Partitions)
	bad(c.Replication >= 0 && c.Replication <= 100, "replication: must be 0 to 100, is %d", c.Replication)
	bad(c.Retention >= time.Minute, "retention: must be at least 1m, is %v", c.Retention)
	bad(c.Duplicates >= 0 && c.Duplicates <= time.Hour, "duplicates: must be 0 to 1h, is %v", c.Duplicates)
	bad(c.Takeover >= time.Second && c.Takeover <= time.Hour, "takeover: must be 1s to 1h, is %v", c.Takeover)
	bad(c.Checkpoint >= time.Second && c.Checkpoint <= time.Hour, "checkpoint: must be 1s to 1h, is %v", c.Checkpoint)
	bad(c.Timeout >= time.Second && c.Timeout <= 5*time.Minute, "timeout: must be 1s to 5m, is %v", c.Timeout)
	bad(topicPrefix.MatchString(c.OpenBMP.Topic), "openbmp.topic: may have letters, digits, dots, dashes and underscores, at most 200, is %q", c.OpenBMP.Topic)
	bad(c.OpenBMP.Name != "" && len(c.OpenBMP.Name) <= 255, "openbmp.name: must have 1 to 255 octets")
	bad(c.OpenBMP.Topic == "" || len(c.Brokers) > 0, "openbmp.topic: needs brokers")
	bad(c.OpenBMP.Partitions >= 1 && c.OpenBMP.Partitions <= 1024, "openbmp.partitions: must be 1 to 1024, is %d", c.OpenBMP.Partitions)
	bad(c.OpenBMP.MaxBytes >= 4<<20, "openbmp.max_bytes: must be at least 4MiB, is %d octets", c.OpenBMP.MaxBytes)
	return errors.Join(errs...)
}
