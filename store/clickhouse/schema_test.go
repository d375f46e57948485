package clickhouse

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/clickhouse/clickhousetest"
)

// emptyDatabase makes the database of c and connects to it.
func emptyDatabase(t *testing.T) (Configuration, *Store) {
	t.Helper()
	c := testConfiguration(t, clickhousetest.Shared(t))
	dropDatabase(t, c)
	conn, err := connect(t.Context(), c, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return c, &Store{cfg: c, conn: conn}
}

// From nothing and from every schema there ever was, also when a migration stopped anywhere in between, the store comes
// to work.
func TestMigrations(t *testing.T) {
	for from := range schemaVersion() {
		list, err := layout{}.statements(from + 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, done := range []int{0, len(list) / 2, len(list)} { // of the statements of the next
			c, s := emptyDatabase(t)
			if err := migrate(t.Context(), s.conn, layout{}, from); err != nil {
				t.Fatal(err)
			}
			run(t, s, list[:done]...)
			s = openStore(t, c)
			for i := 1; i <= 3; i++ {
				if _, err := s.AppendBatch(t.Context(), numbered(i)); err != nil {
					t.Fatal(err)
				}
			}
			expandAll(t, s)
			verify(t, s, 3)
		}
	}
}

func TestNewerSchema(t *testing.T) {
	c, s := emptyDatabase(t)
	if err := migrate(t.Context(), s.conn, layout{}, schemaVersion()); err != nil {
		t.Fatal(err)
	}
	run(t, s, "INSERT INTO schema_versions (version) VALUES (999)")
	_, err := Open(t.Context(), c, store.Retention{}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err == nil || !strings.Contains(err.Error(), "newer routevigil") || !strings.Contains(err.Error(), c.Database) {
		t.Errorf("error %v, want one that names the database and the remedy", err)
	}
}

// The server reads what is sent to a cluster: one needs a Keeper, which the tests' server has not.
func TestClusterSchema(t *testing.T) {
	_, s := emptyDatabase(t)
	l := layout{cluster: "all"}
	for v := range schemaVersion() {
		list, err := l.statements(v + 1)
		if err != nil {
			t.Fatal(err)
		}
		distributed := false
		for _, q := range list {
			run(t, s, "EXPLAIN AST "+q)
			if !strings.Contains(q, "ON CLUSTER 'all'") {
				t.Errorf("one server alone would do this:\n%s", q)
			}
			if strings.Contains(q, "MergeTree(") && !strings.Contains(q, "ENGINE = Replicated") {
				t.Errorf("this is not replicated:\n%s", q)
			}
			distributed = distributed || strings.Contains(q, "ENGINE = Distributed('all', currentDatabase(), 'updates_local'")
		}
		if v == 0 && !distributed {
			t.Error("updates are not spread over the shards")
		}
	}
}

// A certificate is believed if the authority signed it for the right name, and only then.
func TestTLS(t *testing.T) {
	server := clickhousetest.Shared(t)
	dir := t.TempDir()
	ca, caKey := authority(t)
	caFile := writePEM(t, dir, "ca.pem", "CERTIFICATE", ca.Raw)
	serverCert, clientCert := certificate(t, ca, caKey, "127.0.0.1"), certificate(t, ca, caKey, "")
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	front := terminate(t, server, &tls.Config{Certificates: []tls.Certificate{serverCert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})
	certFile := writePEM(t, dir, "client.pem", "CERTIFICATE", clientCert.Certificate[0])
	keyBytes, err := x509.MarshalECPrivateKey(clientCert.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	keyFile := writePEM(t, dir, "client.key", "EC PRIVATE KEY", keyBytes)
	other, _ := authority(t)
	good := TLS{Enabled: true, CAFile: caFile, CertFile: certFile, KeyFile: keyFile}
	for name, tt := range map[string]struct {
		change func(*TLS)
		works  bool
	}{
		"as it should be":         {func(*TLS) {}, true},
		"another authority":       {func(c *TLS) { c.CAFile = writePEM(t, dir, "other.pem", "CERTIFICATE", other.Raw) }, false},
		"another name":            {func(c *TLS) { c.ServerName = "clickhouse.example" }, false},
		"no certificate of ours":  {func(c *TLS) { c.CertFile, c.KeyFile = "", "" }, false},
		"no authority file there": {func(c *TLS) { c.CAFile = filepath.Join(dir, "none.pem") }, false},
		"no encryption":           {func(c *TLS) { c.Enabled = false }, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := testConfiguration(t, front)
			c.TLS = good
			tt.change(&c.TLS)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			conn, err := connect(ctx, c, true)
			if err == nil {
				dropDatabase(t, Configuration{Addresses: []string{server}, Database: c.Database, Username: c.Username, QueryTimeout: c.QueryTimeout, QueryMemory: c.QueryMemory})
				conn.Close()
			}
			if (err == nil) != tt.works {
				t.Errorf("error %v", err)
			}
		})
	}
}

// terminate listens with TLS in front of address.
func terminate(t *testing.T, address string, config *tls.Config) string {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				if c.(*tls.Conn).Handshake() != nil {
					return
				}
				b, err := net.Dial("tcp", address)
				if err != nil {
					return
				}
				defer b.Close()
				work.Go(func() { io.Copy(c, b); c.Close() })
				io.Copy(b, c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); work.Wait() })
	return l.Addr().String()
}

func authority(t *testing.T) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

// certificate is one for address, or of a client where that is empty.
func certificate(t *testing.T, ca *x509.Certificate, caKey *ecdsa.PrivateKey, address string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if address != "" {
		template.IPAddresses = []net.IP{net.ParseIP(address)}
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, ca, &key.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}

func writePEM(t *testing.T, dir, name, kind string, raw []byte) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
