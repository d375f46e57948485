package rtr

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/routevigil/routevigil/detect/rpki"
)

func TestConfigurationValidate(t *testing.T) {
	good := Configuration{Caches: []CacheConfiguration{{Address: "rpki.example.net:323"}, {Address: "[2001:db8::1]:324", TLS: true, CA: "ca.pem", Certificate: "c.pem", Key: "k.pem"}}}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for want, c := range map[string]CacheConfiguration{
		"caches[0].address: \"rpki.example.net\" is not host:port": {Address: "rpki.example.net"},
		"caches[0].address: \":323\" is not host:port":             {Address: ":323"},
		"caches[0].ca: has no effect":                              {Address: "a:1", CA: "x"},
		"caches[0].certificate: certificate and key":               {Address: "a:1", TLS: true, Key: "x"},
	} {
		if err := (Configuration{Caches: []CacheConfiguration{c}}).Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", c, err, want)
		}
	}
}

// TestResolve reads the files by which a server and a client prove themselves to each other.
func TestResolve(t *testing.T) {
	dir := t.TempDir()
	cert, pool := certificate(t)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	address := scripted(t, small(), &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool})
	caches, err := Configuration{Caches: []CacheConfiguration{{Address: address, TLS: true, CA: certFile, Certificate: certFile, Key: keyFile}}}.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	c, sets := follow(t, caches...)
	if s := await(t, c, sets, func(*rpki.Set) bool { return true }); s.Len() != 1 {
		t.Errorf("%d VRPs", s.Len())
	}
	for _, bad := range []CacheConfiguration{{TLS: true, CA: filepath.Join(dir, "none")}, {TLS: true, CA: keyFile}, {TLS: true, Certificate: keyFile, Key: keyFile}} {
		if _, err := (Configuration{Caches: []CacheConfiguration{bad}}).Resolve(); err == nil {
			t.Errorf("%+v: no error", bad)
		}
	}
}
