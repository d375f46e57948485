package bgpsession

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Who is not configured is refused without a word, and counted; the longest prefix decides for the others.
func TestWhoMayConnect(t *testing.T) {
	c := configuration()
	c.Neighbours = append(c.Neighbours, Neighbour{Address: "127.1.0.0/16", Name: "any"}, Neighbour{Address: "127.1.2.0/24", RemoteASN: 1, Name: "one"})
	h := newHarness(t, c)
	reg := prometheus.NewRegistry()
	prometheus.WrapRegistererWith(prometheus.Labels{"feed": "bgp"}, reg).MustRegister(collector{h.Listener})
	h.listen()
	for range 3 {
		h.dial("127.0.0.3").expectEnd()
	}
	edge, any := h.dial("127.0.0.2"), h.dial("127.1.0.7")
	edge.establish(nil)
	any.establish(func(o *bgp.Open) { o.ASN, o.Capabilities = 64510, nil })
	one := h.dial("127.1.2.7")
	one.expect(bgp.TypeOpen)
	one.send(theirOpen(nil))
	one.expectNotification(2, 2, "")
	edge.send(announcement(bgp.Options{}, bgp.NLRI{Prefix: prefix4}))
	eventually(t, "two sessions and one route", func() bool { return h.Status().Updates == 3 })
	eventually(t, "the end of the third", func() bool { return h.Status().Reconnects == 1 })
	peers := map[string]bool{}
	for _, u := range h.seen() {
		peers[u.Peer.String()] = true
		if d := time.Since(u.Time.Time()); d < 0 || d > patience {
			t.Errorf("time of receipt was %v ago", d)
		}
	}
	if !peers["edge/AS4200000001/127.0.0.2"] || !peers["any/AS64510/127.1.0.7"] || len(peers) != 2 {
		t.Errorf("heard %v", peers)
	}
	want := `
# HELP routevigil_bgp_prefixes Routes held; with ADD-PATH, each path is one.
# TYPE routevigil_bgp_prefixes gauge
routevigil_bgp_prefixes{feed="bgp",name="any",neighbour="127.1.0.0/16"} 0
routevigil_bgp_prefixes{feed="bgp",name="edge",neighbour="127.0.0.2"} 1
routevigil_bgp_prefixes{feed="bgp",name="one",neighbour="127.1.2.0/24"} 0
# HELP routevigil_bgp_refused_total Connections that were closed before a word.
# TYPE routevigil_bgp_refused_total counter
routevigil_bgp_refused_total{feed="bgp",reason="not_configured"} 3
# HELP routevigil_bgp_sessions_ended_total Sessions, and attempts at one, that ended.
# TYPE routevigil_bgp_sessions_ended_total counter
routevigil_bgp_sessions_ended_total{feed="bgp",name="one",neighbour="127.1.2.0/24",reason="open_error"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "routevigil_bgp_prefixes", "routevigil_bgp_refused_total", "routevigil_bgp_sessions_ended_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}

func TestIPv6(t *testing.T) {
	c := configuration()
	c.Listen = []string{"[::1]:0"}
	c.Neighbours = []Neighbour{{Address: "::1", RemoteASN: theirASN}}
	h := newHarness(t, c)
	h.listen()
	h.dial("::1").establish(nil)
	eventually(t, "the session", func() bool { return h.Status().State == ingest.Connected })
	if got := words(h.seen()); len(got) != 1 || got[0] != "peer_up bgp/AS4200000001/::1" {
		t.Errorf("got %q", got)
	}
}

// A socket of both families gives neighbours of IPv4 their own addresses.
func TestBothFamiliesOnOneSocket(t *testing.T) {
	c := configuration()
	c.Listen = []string{"[::]:0"}
	h := newHarness(t, c)
	h.listen()
	_, port, _ := net.SplitHostPort(h.Status().Address)
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.2")}}
	conn, err := d.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	newPeer(t, conn).establish(nil)
	eventually(t, "the session", func() bool { return len(words(h.seen())) == 1 })
}

// A neighbour for which the consumer has no time, one that never completes its handshake, one that
// sends half a message and many others that are well: none of these waits for another.
func TestNobodyHoldsUpOthers(t *testing.T) {
	const others = 100
	c := configuration()
	c.Neighbours = []Neighbour{{Address: "127.0.0.0/8", MaxSessions: others + 3}}
	h := newHarness(t, c)
	stuck := make(chan struct{})
	if err := h.Listen(); err != nil {
		t.Fatal(err)
	}
	h.bg.Go(func() {
		h.Run(h.ctx, func(u *ingest.Update) error {
			if u.Peer.Addr == netip.MustParseAddr("127.9.0.1") && u.Kind == ingest.Routes {
				<-stuck
			}
			return h.record(u)
		})
	})
	slow, half, mute := h.dial("127.9.0.1"), h.dial("127.9.0.2"), h.dial("127.9.0.3")
	slow.establish(nil)
	slow.send(announcement(bgp.Options{}, bgp.NLRI{Prefix: prefix4}))
	half.establish(nil)
	half.send(announcement(bgp.Options{}, bgp.NLRI{Prefix: prefix4})[:30])
	mute.expect(bgp.TypeOpen)
	var peers []*peer
	for i := range others {
		p := h.dial(fmt.Sprintf("127.8.0.%d", i+1))
		p.establish(nil)
		p.send(announcement(bgp.Options{}, bgp.NLRI{Prefix: prefix4}))
		peers = append(peers, p)
	}
	eventually(t, "the routes of all others", func() bool {
		n := 0
		for _, st := range h.Neighbours() {
			n += st.Prefixes
		}
		return h.Status().Updates == 2*others+2 && n == others+1
	})
	for _, p := range peers {
		p.conn.Close()
	}
	eventually(t, "the end of all others", func() bool { return h.Status().Reconnects == others })
	close(stuck)
	eventually(t, "the route of the slow one", func() bool { return h.Status().Updates == 3*others+3 })
}

// The error of the consumer is Run's.
func TestHandlerError(t *testing.T) {
	h := newHarness(t, configuration())
	if err := h.Listen(); err != nil {
		t.Fatal(err)
	}
	failed := fmt.Errorf("no room")
	done := make(chan error, 1)
	h.bg.Go(func() { done <- h.Run(h.ctx, func(*ingest.Update) error { return failed }) })
	p := h.dial("127.0.0.2")
	p.establish(nil)
	p.expectNotification(6, 2, "")
	select {
	case err := <-done:
		if err != failed {
			t.Errorf("Run returned %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Run did not end")
	}
}

func TestListenErrors(t *testing.T) {
	taken := newHarness(t, configuration())
	if err := taken.Listen(); err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	c := configuration()
	c.Listen = []string{"127.0.0.1:0", taken.Status().Address}
	if err := newHarness(t, c).Listen(); err == nil || !strings.Contains(err.Error(), taken.Status().Address) {
		t.Errorf("error %v must name the address", err)
	}
	for content, want := range map[string]string{"": "0 octets", strings.Repeat("x", 81): "81 octets"} {
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		c := configuration()
		c.Neighbours[0].PasswordFile = file
		if err := newHarness(t, c).Listen(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("error %v must name the file and %q", err, want)
		}
	}
	c.Neighbours[0].PasswordFile = filepath.Join(t.TempDir(), "none")
	if err := newHarness(t, c).Listen(); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("error %v must name the file", err)
	}
}

// Outsiders cannot fill the log.
func TestRefusalsAreLoggedRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		l := New(configuration(), slog.New(slog.NewTextHandler(&logged, nil)), nil)
		for range 100 {
			l.refuse(nil, "not_configured", "192.0.2.1 is no configured neighbour")
		}
		if n := strings.Count(logged.String(), "\n"); n != 1 || !strings.Contains(logged.String(), "192.0.2.1") {
			t.Errorf("%d lines:\n%s", n, &logged)
		}
		time.Sleep(logEvery)
		logged.Reset()
		l.refuse(nil, "not_configured", "192.0.2.1 is no configured neighbour")
		if !strings.Contains(logged.String(), "not_logged_before=99") {
			t.Errorf("logged:\n%s", &logged)
		}
		if l.refused["not_configured"] != 101 {
			t.Errorf("counted %v", l.refused)
		}
	})
}
