package openbmp

import (
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
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/kafkaauth"
)

// certificate makes one for the loopback address, and the file of the authority that vouches for it.
func certificate(t *testing.T) (server tls.Certificate, authority string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	authority = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, authority
}

func TestTLSAndSASL(t *testing.T) {
	server, authority := certificate(t)
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		t.Run(mechanism, func(t *testing.T) {
			k := startCluster(t, kfake.TLS(&tls.Config{Certificates: []tls.Certificate{server}}), kfake.EnableSASL(),
				kfake.Superuser(strings.ToUpper(mechanism), "reader", "correct"), kfake.Superuser("PLAIN", "writer", "writer"))
			k.create(1, topic("a", 1))
			client, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...), kgo.DialTLSConfig(&tls.Config{InsecureSkipVerify: true}),
				kgo.SASL(plain.Auth{User: "writer", Pass: "writer"}.AsMechanism()))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: topic("a", 1), Value: newRouter(1, 64496).route(t, 0)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
			good := k.configuration()
			good.TLS = kafkaauth.TLS{Enabled: true, CAFile: authority}
			good.SASL = kafkaauth.SASL{Mechanism: mechanism, Username: "reader", Password: "correct"}
			run(t, good, t.TempDir()).wait(0, 1)

			for name, bad := range map[string]func(c *Configuration){
				"SASL":        func(c *Configuration) { c.SASL.Password = "wrong" },
				"certificate": func(c *Configuration) { c.TLS.CAFile = "" },
				"EOF":         func(c *Configuration) { c.TLS = kafkaauth.TLS{} }, // what the broker's TLS makes of a plain request
			} {
				c := good
				bad(&c)
				r := run(t, c, t.TempDir())
				eventually(t, func() string {
					st := r.Status()
					if st.State != ingest.Connecting || st.LastError == "" || name != "EOF" && !strings.Contains(st.LastError, name) || strings.Contains(st.LastError, "wrong") {
						return fmt.Sprintf("of %s the feed says %+v", name, st)
					}
					return ""
				})
				r.stop()
				if len(r.taken()) > 0 {
					t.Errorf("%s: something came", name)
				}
			}
		})
	}
}

// server accepts connections and does with each what a test wants, until the test ends.
func server(t *testing.T, serve func(net.Conn)) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var (
		routines sync.WaitGroup
		mu       sync.Mutex
		conns    []net.Conn
	)
	routines.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			routines.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		routines.Wait()
	})
	return l.Addr().String()
}

// A broker that says nothing does not keep the source from ending, nor one that says what is not Kafka's from
// trying again, or another that is in order from being used.
func TestBrokersThatAreNone(t *testing.T) {
	silent := server(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	web := server(t, func(c net.Conn) {
		c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		c.Close()
	})
	k := startCluster(t)
	k.create(1, topic("a", 1))
	k.produce(topic("a", 1), newRouter(1, 64496).route(t, 0))

	c := k.configuration()
	c.Brokers = []string{silent}
	r := run(t, c, t.TempDir())
	r.stop() // at whatever it is doing

	c.Brokers = []string{web}
	r = run(t, c, t.TempDir())
	eventually(t, func() string {
		if got := r.Status().LastError; !strings.Contains(got, "does the port speak Kafka") {
			return "the last error is " + got
		}
		return ""
	})
	r.stop()

	c.ConnectTimeout = 200 * time.Millisecond
	c.Brokers = append([]string{silent, web}, k.ListenAddrs()...)
	run(t, c, t.TempDir()).wait(0, 1)
}

func TestConfiguration(t *testing.T) {
	if err := DefaultConfiguration().Validate(); err != nil {
		t.Errorf("the default: %v", err)
	}
	for want, change := range map[string]func(c *Configuration){
		"name":                func(c *Configuration) { c.Name = "" },
		"brokers":             func(c *Configuration) { c.Brokers = nil },
		"brokers[1]":          func(c *Configuration) { c.Brokers = append(c.Brokers, "kafka.example") },
		"topics":              func(c *Configuration) { c.Topics = "(" },
		"start":               func(c *Configuration) { c.Start = "newest" },
		"client_id":           func(c *Configuration) { c.ClientID = "" },
		"sasl":                func(c *Configuration) { c.SASL.Mechanism = "plain" },
		"sasl.mechanism":      func(c *Configuration) { c.SASL.Mechanism = "gssapi" },
		"max_fetch_bytes":     func(c *Configuration) { c.MaxFetchBytes = 0 },
		"max_partition_bytes": func(c *Configuration) { c.MaxPartitionBytes = 0 },
		"max_batch_bytes":     func(c *Configuration) { c.MaxBatchBytes = c.MaxPartitionBytes - 1 },
		"max_partitions":      func(c *Configuration) { c.MaxPartitions = 0 },
		"max_routers":         func(c *Configuration) { c.MaxRouters = -1 },
		"connect_timeout":     func(c *Configuration) { c.ConnectTimeout = 0 },
		"offsets_every":       func(c *Configuration) { c.OffsetsEvery = 0 },
		"max_wait":            func(c *Configuration) { c.MaxWait = c.RequestTimeout },
		"reconnect_max":       func(c *Configuration) { c.ReconnectMax = c.ReconnectMin - 1 },
	} {
		c := DefaultConfiguration()
		change(&c)
		err := c.Validate()
		if err == nil || !strings.HasPrefix(err.Error(), want+": ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: the error is %v", want, err)
		}
	}
	c := DefaultConfiguration()
	c.TLS = kafkaauth.TLS{Enabled: true, CAFile: filepath.Join(t.TempDir(), "missing.pem")}
	if _, err := New(c, t.TempDir(), slog.New(slog.DiscardHandler), nil); err == nil {
		t.Error("an authority that is missing is no error")
	}
}

// The default pattern finds RouteViews' topics and the collector in them.
func TestRouteViewsTopics(t *testing.T) {
	s := newBroken(t, 1<<20).s
	for topic, want := range map[string]string{
		"routeviews.linx.6939.bmp_raw": "linx", "routeviews.route-views.sg.7575.bmp_raw": "route-views.sg", "routeviews.linx.6939.bmp_parsed": "", "openbmp.bmp_raw": "",
	} {
		if got := s.collectorOf(topic); got != want {
			t.Errorf("%s is of %q, want %q", topic, got, want)
		}
	}
	var refused []string
	for _, topic := range []string{"routeviews..6939.bmp_raw", "routeviews.linx.bmp_raw", "xrouteviews.linx.1.bmp_raw", "routeviews.linx.1.bmp_raw.old"} {
		if !s.pattern.MatchString(topic) {
			refused = append(refused, topic)
		}
	}
	if !slices.Equal(refused, []string{"routeviews..6939.bmp_raw", "routeviews.linx.bmp_raw", "xrouteviews.linx.1.bmp_raw", "routeviews.linx.1.bmp_raw.old"}) {
		t.Errorf("only %v do not match", refused)
	}
}
