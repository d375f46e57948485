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
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
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

// What earlier schemas stored is read as it was, also when the way from there stopped anywhere.
func TestOldRows(t *testing.T) {
	peer := netip.MustParseAddr("192.0.2.1")
	want := []store.Route{ // newest first
		{Action: store.PeerDown, Collector: "rrc00", PeerASN: 64500, PeerIP: peer, Time: time.UnixMicro(6).UTC(), Cursor: store.Cursor{Position: 2, Row: 2}},
		{Action: store.Withdraw, Prefix: netip.MustParsePrefix("192.0.2.0/24"), Collector: "rrc00", PeerASN: 64500, PeerIP: peer, Time: time.UnixMicro(5).UTC(),
			Cursor: store.Cursor{Position: 2, Row: 1}},
		{Action: store.RIB, Prefix: netip.MustParsePrefix("2001:db8::/32"), Collector: "rrc00", PeerASN: 64500, PeerIP: peer, Time: time.UnixMicro(4).UTC(),
			ASPath: "64511 64496", OriginASN: 64496, NextHop: netip.MustParseAddr("2001:db8::1"), Cursor: store.Cursor{Position: 2}},
		{Action: store.Announce, Prefix: netip.MustParsePrefix("192.0.2.0/24"), PathID: 7, Collector: "rrc00", PeerASN: 64500, PeerIP: peer, Time: time.UnixMicro(3).UTC(),
			ASPath: "64500 64501 64502", OriginASN: 64502, NextHop: peer, Communities: []string{"64500:1", "64500:2:3"}, OTC: 64501, Backfilled: true,
			Cursor: store.Cursor{Position: 1}},
	}
	for from := 1; from <= 2; from++ {
		var rest []string // what makes the newest schema of it
		for v := from + 1; v <= schemaVersion(); v++ {
			list, err := layout{}.statements(v)
			if err != nil {
				t.Fatal(err)
			}
			rest = append(rest, list...)
		}
		for done := range len(rest) + 1 {
			c, s := emptyDatabase(t)
			if err := migrate(t.Context(), s.conn, layout{}, from); err != nil {
				t.Fatal(err)
			}
			run(t, s, `INSERT INTO peers (id, epoch, collector, address, asn, view) VALUES (0, 1, 'rrc00', '192.0.2.1', 64500, 0)`,
				`INSERT INTO marks (name, value) VALUES ('expanded', 2), ('dropped', 2)`,
				`INSERT INTO checkpoints (serial, piece, position, pieces, checksum, data) VALUES (1, 0, 2, 0, 0, '')`,
				`INSERT INTO epochs (epoch, owner, first_position, at) VALUES (1, 'old', 0, now64(6)), (1, 'old', 1, now64(6))`,
				`INSERT INTO updates (afi, address, length, position, row, received, time, action, peer, path_id, origin_asn, as_path, next_hop, communities, otc, backfilled) VALUES
				(4, '::ffff:192.0.2.0', 24, 1, 0, today(), 3, 1, 0, 7, 64502, '64500 64501 64502', '=', '64500:1 64500:2:3', 64501, true),
				(6, '2001:db8::', 32, 2, 0, today(), 4, 3, 0, 0, 64496, '64511 64496', '2001:db8::1', '', 0, false),
				(4, '::ffff:192.0.2.0', 24, 2, 1, today(), 5, 2, 0, 0, 0, '', '', '', 0, false),
				(0, '::', 0, 2, 2, today(), 6, 5, 0, 0, 0, '', '', '', 0, false)`)
			for version, left := from, rest[:done]; len(left) > 0; { // as migrate does
				version++
				list, err := layout{}.statements(version)
				if err != nil {
					t.Fatal(err)
				}
				n := min(len(list), len(left))
				for _, q := range left[:n] {
					run(t, s, q)
					if err := mutated(t.Context(), s.conn, layout{}); err != nil {
						t.Fatal(err)
					}
				}
				if left = left[n:]; len(left) > 0 {
					run(t, s, fmt.Sprintf("INSERT INTO schema_versions (version) VALUES (%d)", version))
				}
			}
			s = openStore(t, c)
			for _, tt := range []struct {
				q    store.UpdateQuery
				want []store.Route
			}{
				{store.UpdateQuery{}, want},
				{store.UpdateQuery{ASOnPath: 64511}, want[2:3]},
				{store.UpdateQuery{ASOnPath: 64500}, want[3:]},
				{store.UpdateQuery{ASOnPath: 64501}, want[3:]},
			} {
				var got []store.Route
				for r, err := range s.Updates(t.Context(), tt.q) {
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, r)
				}
				if !reflect.DeepEqual(got, tt.want) {
					t.Fatalf("from schema %d, %d statements done, %+v: got\n%+v\nwant\n%+v", from, done, tt.q, got, tt.want)
				}
			}
			if n := countOf(t, s, `SELECT count() FROM routes WHERE as_path = '64500 64501 64502' AND next_hop = '192.0.2.1' AND communities = '64500:1 64500:2:3' AND otc = 64501`); n != 1 {
				t.Fatalf("people find %d routes, want 1", n)
			}
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

// The server reads what is sent to a cluster. More cannot be tested on the tests' server, which is the library's
// clickhouse-local: with a ZooKeeper in its configuration it makes all these tables, and macros, remote_servers and
// Distributed work, but it has no listener for other replicas (so that replicated tables stay read-only) and refuses ON CLUSTER.
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
			if !strings.Contains(q, "ON CLUSTER 'all'") && !strings.Contains(q, "INSERT INTO ") {
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
