package clickhouse

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"time"
)

// Configuration of a store in ClickHouse.
type Configuration struct {
	Addresses    []string      `yaml:"addresses" doc:"Servers, as host:port of the native protocol; the first that answers is used."`
	Database     string        `yaml:"database" doc:"Database that holds everything; created when missing. Only one routevigil writes to it at a time: one that starts later takes over, and the earlier one stops."`
	Username     string        `yaml:"username" config:"env" doc:"User to connect as."`
	Password     string        `yaml:"password" config:"secret" doc:"The user's password."`
	TLS          TLS           `yaml:"tls" doc:"Encryption of the connections."`
	Cluster      string        `yaml:"cluster" doc:"Name of the cluster, as in the servers' remote_servers; with it, tables are replicated and updates are spread over the shards. The servers need a Keeper, and macros shard and replica. Empty for one server."`
	Expand       Expand        `yaml:"expand" doc:"When fresh history is moved from the log of batches into the table of updates, which is sorted by prefix."`
	QueryTimeout time.Duration `yaml:"query_timeout" doc:"Time that one query may take."`
	QueryMemory  int64         `yaml:"query_memory" config:"bytes" doc:"Memory that one query may take on the server."`
	QueryThreads int           `yaml:"query_threads" doc:"Threads that one query may use on the server; 0 leaves it to the server."`
	WriteTimeout time.Duration `yaml:"write_timeout" doc:"Time after which a write that has not been acknowledged has failed; it is then repeated."`
}

// TLS says how connections are encrypted and who must be at the other end.
type TLS struct {
	Enabled    bool   `yaml:"enabled" doc:"Whether connections are encrypted; servers usually listen for that on port 9440."`
	CAFile     string `yaml:"ca_file" doc:"PEM file with the authorities that may have signed the server's certificate; empty for the system's."`
	CertFile   string `yaml:"cert_file" doc:"PEM file with the client's certificate, where the server asks for one."`
	KeyFile    string `yaml:"key_file" doc:"PEM file with the key of cert_file."`
	ServerName string `yaml:"server_name" doc:"Name that the server's certificate must be for; empty for the host in addresses."`
}

// Expand says when batches of the log become rows of updates.
type Expand struct {
	Updates int           `yaml:"updates" doc:"Number of updates in the log at which they are moved; also about as many as are inserted at once."`
	Age     time.Duration `yaml:"age" doc:"Age of the oldest update in the log at which all are moved."`
}

// DefaultConfiguration is for one server on this machine.
func DefaultConfiguration() Configuration {
	return Configuration{
		Addresses:    []string{"127.0.0.1:9000"},
		Database:     "routevigil",
		Username:     "default",
		Expand:       Expand{Updates: 250_000, Age: 10 * time.Second},
		QueryTimeout: 30 * time.Second,
		QueryMemory:  4 << 30,
		WriteTimeout: 30 * time.Second,
	}
}

var plainName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// Validate reports every field that is out of range.
func (c Configuration) Validate() error {
	var errs []error
	check := func(ok bool, path, format string, a ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(path+": "+format, a...))
		}
	}
	check(len(c.Addresses) > 0, "addresses", "must name a server, is empty")
	for _, a := range c.Addresses {
		_, _, err := net.SplitHostPort(a)
		check(err == nil, "addresses", "each must be host:port, one is %q", a)
	}
	check(plainName.MatchString(c.Database), "database", "must be of letters, digits and _, is %q", c.Database)
	check(c.Cluster == "" || !strings.ContainsAny(c.Cluster, "'\\\n"), "cluster", "must be a name, is %q", c.Cluster)
	check((c.TLS.CertFile == "") == (c.TLS.KeyFile == ""), "tls.cert_file", "must be given together with tls.key_file")
	check(c.Expand.Updates > 0, "expand.updates", "must be positive, is %d", c.Expand.Updates)
	check(c.Expand.Age > 0, "expand.age", "must be positive, is %s", c.Expand.Age)
	check(c.QueryTimeout >= time.Second, "query_timeout", "must be at least 1s, is %s", c.QueryTimeout)
	check(c.QueryMemory > 0, "query_memory", "must be positive, is %d", c.QueryMemory)
	check(c.QueryThreads >= 0, "query_threads", "must not be negative, is %d", c.QueryThreads)
	check(c.WriteTimeout >= time.Second, "write_timeout", "must be at least 1s, is %s", c.WriteTimeout)
	return errors.Join(errs...)
}

// config reads the files that c names; nil where connections are not encrypted.
func (c TLS) config() (*tls.Config, error) {
	if !c.Enabled {
		return nil, nil
	}
	t := &tls.Config{ServerName: c.ServerName, MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("tls.ca_file: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.ca_file: there is no certificate in %s", c.CAFile)
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("tls.cert_file: %w", err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
