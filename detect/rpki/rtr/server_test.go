package rtr

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	randv2 "math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
)

// patience is how long a real server may take on a slow machine.
const patience = 60 * time.Second

// follow runs a client of caches and sends every set it publishes.
func follow(t testing.TB, caches ...Cache) (*Client, <-chan *rpki.Set) {
	sets := make(chan *rpki.Set, 100)
	c := New(caches, func(s *rpki.Set) { sets <- s }, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := c.Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return c, sets
}

func await(t testing.TB, c *Client, sets <-chan *rpki.Set, until func(*rpki.Set) bool) *rpki.Set {
	t.Helper()
	for timeout := time.After(patience); ; {
		select {
		case s := <-sets:
			if until(s) {
				return s
			}
		case <-timeout:
			t.Fatalf("not in %v; status %+v", patience, c.Status())
		}
	}
}

// certificate makes a key and a certificate for 127.0.0.1 that signs itself.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// stayrtr starts StayRTR on file and returns its TCP and TLS addresses.
func stayrtr(t *testing.T, file string) (plain, secure string, roots *x509.CertPool) {
	program, err := exec.LookPath("stayrtr")
	if err != nil {
		bgptest.Missing(t, "stayrtr is not installed")
	}
	dir := t.TempDir()
	cert, roots := certificate(t)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]}, "key.pem": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	plain, secure = freeAddress(t), freeAddress(t)
	cmd := exec.Command(program, "-bind", plain, "-tls.bind", secure, "-tls.cert", filepath.Join(dir, "cert.pem"), "-tls.key", filepath.Join(dir, "key.pem"),
		"-metrics.addr", "", "-cache", file, "-checktime=false", "-refresh", "1", "-rtr.refresh", "1", "-rtr.retry", "1")
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("StayRTR says:\n%s", &log)
		}
	})
	return plain, secure, roots
}

// TestAgainstStayRTR follows a file through StayRTR, over TCP and TLS. The file has a Router Key, and ASPAs, which StayRTR
// 0.5 sends in the form of an old draft.
func TestAgainstStayRTR(t *testing.T) {
	file := filepath.Join(t.TempDir(), "vrps.json")
	write := func(roas string) {
		content := fmt.Sprintf(`{"metadata":{"buildtime":%q},"roas":[%s],
			"bgpsec_keys":[{"asn":64500,"ski":"000102030405060708090a0b0c0d0e0f10111213","pubkey":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE","ta":"ripe","expires":4000000000}],
			"provider_authorizations":{"ipv4":[{"customer_asid":64503,"expires":4000000000,"providers":[64504]}],"ipv6":[]}}`, time.Now().UTC().Format(time.RFC3339), roas)
		if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	const (
		one = `{"asn":64500,"prefix":"192.0.2.0/24","maxLength":25,"ta":"ripe","expires":4000000000}`
		two = `{"asn":64501,"prefix":"2001:db8::/32","maxLength":48,"ta":"ripe","expires":4000000000}`
		six = `{"asn":0,"prefix":"2001:db8:1::/48","maxLength":128,"ta":"ripe","expires":4000000000}`
	)
	write(one + "," + two)
	plain, secure, roots := stayrtr(t, file)
	a, setsA := follow(t, Cache{Address: plain})
	b, setsB := follow(t, Cache{Address: secure, TLS: &tls.Config{RootCAs: roots}})
	vrp := func(text string, most uint8, asn uint32) rpki.VRP {
		return rpki.VRP{Prefix: netip.MustParsePrefix(text), MaxLength: most, ASN: asn}
	}
	expect := func(want ...rpki.VRP) {
		t.Helper()
		for _, f := range []struct {
			c    *Client
			sets <-chan *rpki.Set
		}{{a, setsA}, {b, setsB}} {
			s := await(t, f.c, f.sets, func(s *rpki.Set) bool { return s.Len() == len(want) })
			if diff := cmp.Diff(want, slices.Collect(s.VRPs()), comparePDUs); diff != "" {
				t.Fatalf("(-want +got):\n%s", diff)
			}
		}
	}
	expect(vrp("192.0.2.0/24", 25, 64500), vrp("2001:db8::/32", 48, 64501))
	failures := a.Status().Failures + b.Status().Failures // before StayRTR listened
	if v := a.Status().Version; v != 1 {
		t.Errorf("version %d: StayRTR 0.5's ASPAs are not those of version 2", v)
	}
	write(one + "," + two + "," + six)
	expect(vrp("192.0.2.0/24", 25, 64500), vrp("2001:db8::/32", 48, 64501), vrp("2001:db8:1::/48", 128, 0))
	write(six)
	expect(vrp("2001:db8:1::/48", 128, 0))
	if a.Status().Failures+b.Status().Failures != failures {
		t.Errorf("sessions failed: %+v, %+v", a.Status(), b.Status())
	}
}

// scripted serves every connection the answer to one query, and then nothing more.
func scripted(t testing.TB, answer []byte, secure *tls.Config) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				in := bufio.NewReader(conn)
				if _, err := io.ReadFull(in, make([]byte, headerLen)); err != nil {
					return
				}
				if _, err := conn.Write(answer); err != nil {
					return
				}
				io.Copy(io.Discard, in)
			}()
		}
	}()
	return l.Addr().String()
}

func small() []byte {
	var b []byte
	for _, p := range []PDU{response(2), prefix(2, true, "192.0.2.0/24", 1), aspa(true, 7, 8), end(2, 1)} {
		b = p.Append(b)
	}
	return b
}

func TestTLS(t *testing.T) {
	cert, roots := certificate(t)
	address := scripted(t, small(), &tls.Config{Certificates: []tls.Certificate{cert}})
	c, sets := follow(t, Cache{Address: address, TLS: &tls.Config{RootCAs: roots}})
	s := await(t, c, sets, func(*rpki.Set) bool { return true })
	if s.Len() != 1 || len(s.ASPAs()) != 1 {
		t.Errorf("%d VRPs, %d ASPAs", s.Len(), len(s.ASPAs()))
	}

	// A server whose certificate nobody vouches for is refused.
	c, sets = follow(t, Cache{Address: address, TLS: &tls.Config{RootCAs: x509.NewCertPool()}})
	for deadline := time.Now().Add(patience); c.Status().Failures == 0; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("status %+v", c.Status())
		}
	}
	if len(sets) > 0 {
		t.Error("data of a server with an unknown certificate was taken")
	}
}

// whole is a whole answer of n VRPs in the order in which caches send them, and 2,000 ASPAs.
func whole(n int) []byte {
	r := randv2.New(randv2.NewPCG(5, 7))
	first := response(2)
	b := first.Append(nil)
	for i := range n {
		p := PDU{Version: 2, Type: IPv4Prefix, Announce: true, ASN: 1 + r.Uint32N(400_000), MaxLength: 24}
		if i%4 == 0 {
			p.Type, p.MaxLength = IPv6Prefix, 48
			p.Prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}), 48)
		} else {
			p.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{1 + byte(i>>16), byte(i >> 8), byte(i), 0}), 24)
		}
		b = p.Append(b)
	}
	for i := range uint32(2000) {
		p := aspa(true, i+1, 100_000+i, 200_000+i, 300_000+i)
		b = p.Append(b)
	}
	last := end(2, 1)
	return last.Append(b)
}

// BenchmarkFullSync connects and takes 700,000 VRPs over loopback.
func BenchmarkFullSync(b *testing.B) {
	answer := whole(700_000)
	address := scripted(b, answer, nil)
	b.SetBytes(int64(len(answer)))
	b.ReportAllocs()
	for b.Loop() {
		sets := make(chan *rpki.Set, 1)
		c := New([]Cache{{Address: address}}, func(s *rpki.Set) { sets <- s }, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(b.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		if s := <-sets; s.Len() != 700_000 || len(s.ASPAs()) != 2000 {
			b.Fatalf("%d VRPs, %d ASPAs", s.Len(), len(s.ASPAs()))
		}
		cancel()
		<-done
	}
}
