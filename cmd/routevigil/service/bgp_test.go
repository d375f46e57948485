package service

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bgpsession"
)

// A router of our own: its session is a feed like any other, and what it says is recorded and judged.
func TestBGPSession(t *testing.T) {
	t.Parallel()
	f := newFeed(t)
	c := configuration(t, f.url())
	b := &c.Ingest.BGP
	b.Listen, b.LocalASN, b.RouterID = []string{"127.0.0.1:0"}, 64500, netip.MustParseAddr("192.0.2.10")
	b.Neighbours = []bgpsession.Neighbour{{Address: "127.0.0.2", Name: "edge", RemoteASN: 64501}}
	if err := b.Validate(); err != nil {
		t.Fatal(err)
	}
	s := start(t, c)
	feed := func() (st ingest.Status) {
		var list struct{ Items []ingest.Status }
		if s.get("/api/v1/feeds", &list) == http.StatusOK && len(list.Items) == 2 {
			st = list.Items[1]
		}
		return st
	}
	eventually(t, func() string {
		if st := feed(); st.Type != "bgp" || st.State != ingest.Connecting || st.Address == "" {
			return fmt.Sprintf("the feed is %+v, want it waiting for routers", st)
		}
		return ""
	})

	d := net.Dialer{Timeout: 20 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP("127.0.0.2")}}
	conn, err := d.Dial("tcp", feed().Address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	u := route(0, victim(0).prefix, victim(0).asn)
	said, err := bgp.AppendOpen(nil, &bgp.Open{ASN: 64501, HoldTime: 90, ID: netip.MustParseAddr("192.0.2.1"),
		Capabilities: []bgp.Capability{bgp.Multiprotocol(bgp.IPv4Unicast), bgp.FourOctetAS(64501)}})
	if err != nil {
		t.Fatal(err)
	}
	said = bgp.AppendKeepalive(said)
	if said, err = bgp.AppendUpdate(said, &bgp.Update{Announced: u.Announced, Attrs: u.Attrs}, bgp.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(said); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		st := feed()
		if st.State != ingest.Connected || st.Updates != 2 || st.Peers != 1 || st.LastMessage.IsZero() {
			return fmt.Sprintf("the feed is %+v, want it connected, with one peer and two updates", st)
		}
		if n, _ := s.metric("routevigil_pipeline_updates_total"); n != 2 {
			return fmt.Sprintf("%v updates are recorded and judged, want 2", n)
		}
		return ""
	})
	if status, reasons := s.ready(); status != http.StatusOK {
		t.Errorf("not ready: %s", reasons)
	}
	if err := s.stop(); err != nil {
		t.Error(err)
	}
	// The router is told: the last message of ours is Cease, Administrative Shutdown.
	conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	heard, err := io.ReadAll(conn)
	if err != nil {
		t.Error(err)
	}
	last := bgp.Notification{}
	for len(heard) > 0 {
		kind, body, rest, err := bgp.Split(heard)
		if err != nil {
			t.Fatal(err)
		}
		if kind == bgp.TypeNotification {
			last, _ = bgp.ParseNotification(body)
		}
		heard = rest
	}
	if last.Code != 6 || last.Subcode != 2 {
		t.Errorf("the last NOTIFICATION is %+v", last)
	}
}
