package service

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus/kafkatest"
	"github.com/routevigil/routevigil/ingest/openbmp"
)

// TestPublishedForOthers: what the role collect and the whole service hear, whoever reads OpenBMP from Kafka gets, of a
// feed that is no BMP.
func TestPublishedForOthers(t *testing.T) {
	run := map[string]func(*testing.T, config.Config){
		"collect": func(t *testing.T, c config.Config) {
			x, err := NewCollector(t.Context(), c, testLog(t))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- x.Run(ctx) }()
			t.Cleanup(func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		},
		"serve": func(t *testing.T, c config.Config) { start(t, c) },
	}
	for name, run := range run {
		t.Run(name, func(t *testing.T) {
			kafkatest.Each(t, func(t *testing.T, address string) {
				f := newFeed(t)
				c := onKafka(t, address, f, func(c *config.Config) {
					c.Kafka.OpenBMP.Topic = c.Kafka.Prefix + "openbmp.bmp_raw"
				})
				run(t, c)
				eventually(t, func() string {
					if f.subscribers() == 0 {
						return "nobody listens to the feed"
					}
					return ""
				})
				want := route(0, victim(0).prefix, victim(0).asn)
				gone := ingest.Update{Time: want.Time + 1, Peer: session(1), Withdrawn: want.Announced}
				if err := f.tell(want, gone); err != nil {
					t.Fatal(err)
				}

				in := openbmp.DefaultConfiguration()
				in.Brokers, in.Topics, in.Start = []string{address}, "^"+c.Kafka.OpenBMP.Topic+"$", "earliest"
				in.MaxWait, in.RefreshEvery = 50*time.Millisecond, 100*time.Millisecond
				consumer, err := openbmp.New(in, t.TempDir(), testLog(t), prometheus.NewPedanticRegistry())
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				got := map[netip.Addr]ingest.Update{}
				err = consumer.Run(ctx, func(u *ingest.Update) error {
					if u.Kind == ingest.Routes {
						got[u.Peer.Addr] = u.Clone()
					}
					if len(got) == 2 {
						cancel()
					}
					return nil
				})
				if !errors.Is(err, context.Canceled) {
					t.Fatalf("of two updates %d came: %v", len(got), err)
				}
				u := got[want.Peer.Addr]
				if u.Peer != want.Peer || u.Time != want.Time || len(u.Announced) != 1 || u.Announced[0] != want.Announced[0] || u.Attrs.ASPath.String() != want.Attrs.ASPath.String() {
					t.Errorf("a consumer gets %+v\nof %+v", u, want)
				}
				if u := got[gone.Peer.Addr]; u.Peer != gone.Peer || len(u.Withdrawn) != 1 || u.Withdrawn[0] != gone.Withdrawn[0] {
					t.Errorf("a consumer gets %+v\nof %+v", u, gone)
				}
			})
		})
	}
}
