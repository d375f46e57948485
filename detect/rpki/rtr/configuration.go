package rtr

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
)

// Configuration names the caches to talk to.
type Configuration struct {
	Caches []CacheConfiguration `yaml:"caches" doc:"RTR servers of validators, the most preferred first; none by default."`
}

// CacheConfiguration says how one cache is reached. Without TLS, whoever sits between can say what is valid.
type CacheConfiguration struct {
	Address     string `yaml:"address" doc:"The server as host:port; the port is 323 by custom, 324 with TLS."`
	TLS         bool   `yaml:"tls" doc:"Speak TLS and check the server's certificate."`
	ServerName  string `yaml:"server_name" doc:"Name that the certificate must have; the host of address when empty."`
	CA          string `yaml:"ca" doc:"File with the certificates (PEM) that may vouch for the server; those of the system when empty."`
	Certificate string `yaml:"certificate" doc:"File with our own certificate (PEM), for servers that ask for one."`
	Key         string `yaml:"key" doc:"File with the key of certificate."`
}

// Validate reports every value that cannot work.
func (c Configuration) Validate() error {
	var errs []error
	for i, cache := range c.Caches {
		fail := func(key, format string, args ...any) {
			errs = append(errs, fmt.Errorf("caches[%d].%s: %s", i, key, fmt.Sprintf(format, args...)))
		}
		if host, port, err := net.SplitHostPort(cache.Address); err != nil || host == "" || port == "" {
			fail("address", "%q is not host:port, such as \"rpki.example.net:323\"", cache.Address)
		}
		for key, value := range map[string]string{"server_name": cache.ServerName, "ca": cache.CA, "certificate": cache.Certificate, "key": cache.Key} {
			if value != "" && !cache.TLS {
				fail(key, "has no effect without tls: true")
			}
		}
		if (cache.Certificate == "") != (cache.Key == "") {
			fail("certificate", "certificate and key need each other")
		}
	}
	return errors.Join(errs...)
}

// Resolve reads the files that c names.
func (c Configuration) Resolve() ([]Cache, error) {
	var caches []Cache
	for i, cc := range c.Caches {
		cache := Cache{Address: cc.Address}
		if cc.TLS {
			var err error
			if cache.TLS, err = cc.tls(); err != nil {
				return nil, fmt.Errorf("RTR cache %d, %s: %w", i, cc.Address, err)
			}
		}
		caches = append(caches, cache)
	}
	return caches, nil
}

func (c CacheConfiguration) tls() (*tls.Config, error) {
	t := &tls.Config{ServerName: c.ServerName, MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		text, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, err
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s: there is no certificate in it", c.CA)
		}
	}
	if c.Certificate != "" {
		pair, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
		if err != nil {
			return nil, err
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
