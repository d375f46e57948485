package service

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bmp"
	"github.com/routevigil/routevigil/ingest/openbmp"
)

// cluster is a Kafka cluster to which a collector writes: a topic for each session.
type cluster struct {
	t *testing.T
	*kfake.Cluster
}

func topicOf(k int) string { return fmt.Sprintf("openbmp.rrc00.%d.bmp_raw", session(k).ASN) }

func newCluster(t *testing.T, topics ...string) *cluster {
	t.Helper()
	k, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, topics...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return &cluster{t, k}
}

// produce writes each update as a batch of its own, because only whole batches are deleted.
func (c *cluster) produce(topic string, updates []ingest.Update) {
	c.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.DisableIdempotentWrite(), kgo.ProducerLinger(0))
	if err != nil {
		c.t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for _, u := range updates {
		if err := client.ProduceSync(ctx, &kgo.Record{Topic: topic, Value: openbmpMessage(c.t, u)}).FirstErr(); err != nil {
			c.t.Fatal(err)
		}
	}
}

// openbmpMessage is an update as OpenBMP passes it on.
func openbmpMessage(t *testing.T, u ingest.Update) []byte {
	t.Helper()
	update, err := bgp.AppendUpdate(nil, &bgp.Update{Announced: u.Announced, Attrs: u.Attrs}, bgp.Options{})
	if err != nil {
		t.Fatal(err)
	}
	peer := bmp.PeerHeader{Addr: u.Peer.Addr, ASN: u.Peer.ASN, ID: u.Peer.Addr, Time: u.Time}
	body, err := bmp.Append(nil, &bmp.Message{Version: 3, Type: bmp.TypeRouteMonitoring, Peer: peer, BGP: update})
	if err != nil {
		t.Fatal(err)
	}
	header := openbmp.Header{Flags: openbmp.FlagRouter, Type: openbmp.TypeBMPRaw, Time: u.Time, AdminID: []byte("rrc00"), Router: openbmp.Hash{1},
		RouterIP: u.Peer.Addr, Group: []byte("rrc00"), Rows: 1}
	b, err := openbmp.Append(nil, &header, body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// While the service is away the cluster deletes a part of what one peer said; that comes from the archive, and nothing else.
func TestBackfillOpenBMP(t *testing.T) {
	t.Parallel()
	p := newPast(t)
	k := newCluster(t, topicOf(0), topicOf(1))
	of := func(n, from, to int) []ingest.Update {
		return slices.DeleteFunc(p.between(from, to), func(u ingest.Update) bool { return u.Peer != session(n) })
	}
	c := p.configuration(newFeed(t))
	c.Ingest.RISLive.Enabled = false
	c.Ingest.OpenBMP.Enabled, c.Ingest.OpenBMP.Name, c.Ingest.OpenBMP.Start = true, "test", "earliest"
	c.Ingest.OpenBMP.Brokers, c.Ingest.OpenBMP.Topics = k.ListenAddrs(), `^openbmp\.(?P<collector>.+)\.[^.]+\.bmp_raw$`
	c.Ingest.OpenBMP.MaxWait, c.Ingest.OpenBMP.ReconnectMin = 50*time.Millisecond, 10*time.Millisecond

	first := of(0, 0, 200)
	k.produce(topicOf(0), first)
	k.produce(topicOf(1), of(1, 0, 200))
	one := start(t, c)
	one.whenHistoryIs(slices.Concat(first, of(1, 0, 200)), nil)
	if err := one.stop(); err != nil {
		t.Fatal(err)
	}
	lost := of(0, 200, 700)
	k.produce(topicOf(0), lost)
	k.produce(topicOf(1), of(1, 200, 700))
	if err := k.DeleteRecords(topicOf(0), 0, int64(len(first)+len(lost))); err != nil {
		t.Fatal(err)
	}
	k.produce(topicOf(0), of(0, 700, 900))
	for n := range 3 {
		p.publish(n)
	}
	two := start(t, c)
	if g := two.whenGapIs(ingest.GapDone, ""); g.PeerASN != session(0).ASN || g.Collector != "rrc00" || g.Updates != uint64(len(lost)) {
		t.Errorf("gap %+v, want %d updates of AS%d", g, len(lost), session(0).ASN)
	}
	two.whenHistoryIs(slices.Concat(first, of(0, 700, 900), of(1, 0, 700)), lost)
}
