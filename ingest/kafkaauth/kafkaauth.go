// Package kafkaauth is how one connects to a Kafka cluster that is encrypted or wants credentials: the same
// for whatever cluster is read or written.
package kafkaauth

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"
)

// TLS says how connections are encrypted.
type TLS struct {
	Enabled bool   `yaml:"enabled" doc:"Whether to use TLS."`
	CAFile  string `yaml:"ca_file" doc:"PEM file of the authorities that may vouch for the brokers; if it is empty, those of the system."`
}

// SASL is how to log in.
type SASL struct {
	Mechanism string `yaml:"mechanism" doc:"plain, scram-sha-256 or scram-sha-512; empty for none. Use plain with TLS only."`
	Username  string `yaml:"username" config:"env" doc:"Name of the user."`
	Password  string `yaml:"password" config:"secret" doc:"The user's password."`
}

// Validate reports what cannot work; its text goes after the name of the section.
func (s SASL) Validate() error {
	switch {
	case !slices.Contains([]string{"", "plain", "scram-sha-256", "scram-sha-512"}, s.Mechanism):
		return fmt.Errorf(".mechanism: %q is not plain, scram-sha-256 or scram-sha-512", s.Mechanism)
	case s.Mechanism != "" && (s.Username == "" || s.Password == ""):
		return errors.New(": username and password must be set if mechanism is")
	}
	return nil
}

// Client makes what TLS connections need, or nil.
func (t TLS) Client() (*tls.Config, error) {
	if !t.Enabled {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CAFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(t.CAFile)
	if err != nil {
		return nil, err
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: there is no certificate in it", t.CAFile)
	}
	return c, nil
}

// Login makes what logs in, or nil.
func (s SASL) Login() (sasl.Mechanism, error) {
	switch s.Mechanism {
	case "plain":
		return plain.Mechanism{Username: s.Username, Password: s.Password}, nil
	case "scram-sha-256":
		return scram.Mechanism(scram.SHA256, s.Username, s.Password)
	case "scram-sha-512":
		return scram.Mechanism(scram.SHA512, s.Username, s.Password)
	}
	return nil, nil
}
