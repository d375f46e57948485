package service

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bmp"
	"github.com/routevigil/routevigil/ingest/openbmp"
	"github.com/routevigil/routevigil/store"
)

// TestOpenBMPAlone runs the service on a Kafka cluster and nothing else, twice: what was written while it was
// away is in the history once, as is what was before.
func TestOpenBMPAlone(t *testing.T) {
	const topic = "routeviews.linx.64500.bmp_raw"
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	produced := 0
	produce := func() netip.Prefix {
		t.Helper()
		var address [4]byte
		binary.BigEndian.PutUint32(address[:], 203<<24|uint32(produced)<<8)
		produced++
		p := netip.PrefixFrom(netip.AddrFrom4(address), 24)
		peer := bmp.PeerHeader{Addr: netip.MustParseAddr("198.51.100.1"), ASN: 64500, ID: netip.MustParseAddr("198.51.100.1"), Time: ingest.TimeOf(time.Now())}
		update, err := bgp.AppendUpdate(nil, &bgp.Update{
			Announced: []bgp.NLRI{{Prefix: p}},
			Attrs: bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop, NextHop: peer.Addr,
				ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{64500, 64501}}}},
		}, bgp.Options{})
		if err != nil {
			t.Fatal(err)
		}
		message, err := bmp.Append(nil, &bmp.Message{Version: 3, Type: bmp.TypeRouteMonitoring, Peer: peer, BGP: update})
		if err != nil {
			t.Fatal(err)
		}
		value, err := openbmp.Append(nil, &openbmp.Header{Flags: openbmp.FlagRouter, Type: openbmp.TypeBMPRaw, Time: peer.Time,
			RouterIP: netip.MustParseAddr("192.0.2.1"), Group: []byte("linx"), Rows: 1}, message)
		if err != nil {
			t.Fatal(err)
		}
		client, err := kgo.NewClient(kgo.SeedBrokers(k.ListenAddrs()...))
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: value}).FirstErr(); err != nil {
			t.Fatal(err)
		}
		return p
	}

	c := configuration(t, "ws://127.0.0.1:1/")
	c.Ingest.RISLive.Enabled = false
	c.Ingest.OpenBMP.Enabled, c.Ingest.OpenBMP.Start = true, "earliest"
	c.Ingest.OpenBMP.Brokers = k.ListenAddrs()
	c.Ingest.OpenBMP.MaxWait = 50 * time.Millisecond
	prefixes := []netip.Prefix{produce()}
	for range 2 {
		s := start(t, c)
		s.whenReady(nil)
		prefixes = append(prefixes, produce())
		eventually(t, func() string {
			for _, p := range prefixes {
				var history struct{ Items []store.Route }
				s.get(fmt.Sprintf("/api/v1/updates?prefix=%s&type=announce", p), &history)
				if len(history.Items) != 1 || history.Items[0].Collector != "linx" || history.Items[0].PeerASN != 64500 || history.Items[0].ASPath != "64500 64501" {
					return fmt.Sprintf("of %s the history has %+v", p, history.Items)
				}
			}
			return ""
		})
		if got := s.feed(); got.Type != "openbmp" || got.State != ingest.Connected || got.Peers != 1 || got.Address != k.ListenAddrs()[0] {
			t.Errorf("the feed is %+v", got)
		}
		if n, ok := s.metric(`routevigil_openbmp_messages_total{feed="routeviews"}`); !ok || n != float64(s.feed().Messages) {
			t.Errorf("%v messages in the metrics, %d in the feed's status", n, s.feed().Messages)
		}
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		prefixes = append(prefixes, produce())
	}
}

func TestOpenBMPOutOfReach(t *testing.T) {
	c := configuration(t, "ws://127.0.0.1:1/")
	c.Ingest.RISLive.Enabled = false
	c.Ingest.OpenBMP.Enabled, c.Ingest.OpenBMP.Brokers = true, []string{"127.0.0.1:1"}
	s := start(t, c)
	eventually(t, func() string {
		if _, reasons := s.ready(); !strings.Contains(reasons, "routeviews cannot be reached: connecting to 127.0.0.1:1: ") {
			return "readyz says: " + reasons
		}
		return ""
	})
}
