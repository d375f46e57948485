package service

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
)

// BenchmarkFeedToWebhook measures the time from writing the message that makes an incident certain
// into the feed's WebSocket to the webhook's request arriving, all on the loopback interface. Two
// sessions have the hijack already; with the third it opens. Give it some hundreds of incidents:
//
//	go test ./cmd/routevigil/service -run '^$' -bench FeedToWebhook -benchtime 300x
func BenchmarkFeedToWebhook(b *testing.B) {
	for _, bm := range []struct {
		name  string
		every time.Duration // between updates of the background
	}{
		{"2000_updates_per_second", time.Second / 2000},
		{"10_updates_per_second", time.Second / 10}, // as with a subscription to few prefixes
		{"nothing_else", 0},
	} {
		b.Run(bm.name, func(b *testing.B) {
			f, hook := newFeed(b), newReceiver(b)
			hook.came = make(chan incident.Event, 100)
			c := configuration(b, f.url(), hook.configuration("noc"))
			s := start(b, c)
			s.whenReady(f)
			if bm.every > 0 {
				f.background(b, bm.every)
			}
			var took []time.Duration
			b.ResetTimer()
			for i := range b.N {
				i %= networks
				if err := f.tell(hijack(i, 0, 2)...); err != nil {
					b.Fatal(err)
				}
				time.Sleep(time.Duration(rand.Int64N(int64(200 * time.Millisecond)))) // in no step with anything
				last := hijack(i, 2, 3)
				begin := time.Now()
				if err := f.tell(last...); err != nil {
					b.Fatal(err)
				}
				timeout := time.After(20 * time.Second)
				for open := false; !open; {
					select {
					case e := <-hook.came:
						open = slices.Contains(e.Incident.Victims, victim(i).asn) && (e.Change == incident.Opened || e.Change == incident.Reopened)
					case <-timeout:
						b.Fatalf("nothing was told of incident %d", i)
					}
				}
				took = append(took, time.Since(begin))
				if err := f.tell(heal(i)...); err != nil {
					b.Fatal(err)
				}
			}
			b.StopTimer()
			slices.Sort(took)
			milliseconds := func(share float64) float64 {
				return float64(took[int(share*float64(len(took)-1))].Microseconds()) / 1000
			}
			b.ReportMetric(milliseconds(0.5), "p50-ms")
			b.ReportMetric(milliseconds(0.99), "p99-ms")
			b.ReportMetric(milliseconds(1), "max-ms")
			b.ReportMetric(0, "ns/op") // which would say how long the pauses are
		})
	}
}
