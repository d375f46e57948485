package service

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// histogram returns how often a histogram was observed, and the sum.
func histogram(t *testing.T, g prometheus.Gatherer, name, collector string) (count uint64, sum float64) {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (collector == "" || m.GetLabel()[0].GetValue() == collector) {
				return m.GetHistogram().GetSampleCount(), m.GetHistogram().GetSampleSum()
			}
		}
	}
	return 0, 0
}

func TestBeaconsAreMeasured(t *testing.T) {
	r := prometheus.NewRegistry()
	s := newSelfCheck(r)
	due := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	say := func(collector, prefix string, announced bool, after time.Duration) {
		u := ingest.Update{Time: ingest.TimeOf(due.Add(after)), Peer: ingest.Peer{Collector: collector}}
		n := []bgp.NLRI{{Prefix: netip.MustParsePrefix(prefix)}}
		if announced {
			u.Announced = n
		} else {
			u.Withdrawn = n
		}
		s.judged(&ingest.Batch{Updates: []ingest.Update{u}}, due.Add(after+2*time.Second))
	}
	say("rrc00", "84.205.64.0/24", true, 20*time.Second) // counts
	say("rrc00", "84.205.64.0/24", true, 40*time.Second) // another peer, later
	say("rrc00", "84.205.64.0/24", false, 50*time.Second)
	say("rrc00", "84.205.80.0/24", true, 30*time.Second)            // stays announced
	say("rrc00", "192.0.2.0/24", true, 30*time.Second)              // no beacon
	say("rrc00", "84.205.65.0/24", true, 11*time.Minute)            // too late to be that
	say("rrc00", "84.205.64.0/24", false, 2*time.Hour+time.Minute)  // counts
	say("rrc00", "84.205.64.0/24", true, 4*time.Hour+9*time.Second) // counts
	say("rrc01", "2001:7fb:fe01::/48", true, 5*time.Second)         // counts, elsewhere
	for _, x := range []struct {
		name, collector string
		count           uint64
		sum             float64
	}{
		{"heard", "rrc00", 3, 20 + 60 + 9}, {"judged", "rrc00", 3, 22 + 62 + 11}, {"heard", "rrc01", 1, 5}, {"judged", "rrc01", 1, 7},
	} {
		if count, sum := histogram(t, r, "routevigil_self_check_beacon_"+x.name+"_seconds", x.collector); count != x.count || sum != x.sum {
			t.Errorf("%s at %s: %d that took %v s together, want %d and %v", x.name, x.collector, count, sum, x.count, x.sum)
		}
	}
}

func TestCanaryIsLate(t *testing.T) {
	s := newSelfCheck(prometheus.NewRegistry())
	start := time.Now()
	var put []time.Time
	send := func(at time.Time) { s.send(at, func(now time.Time) { put = append(put, now) }) }
	send(start)
	send(start.Add(time.Second)) // one at a time
	if len(put) != 1 || s.trouble(start.Add(4*time.Second)) != "" {
		t.Errorf("%d canaries, trouble %q", len(put), s.trouble(start.Add(4*time.Second)))
	}
	if got := s.trouble(start.Add(9 * time.Second)); !strings.Contains(got, "Updates wait for 9s") {
		t.Errorf("trouble %q", got)
	}
	s.judged(&ingest.Batch{Canary: start}, start.Add(10*time.Second))
	if got := s.trouble(start.Add(11 * time.Second)); !strings.Contains(got, "Updates wait for 10s") {
		t.Errorf("trouble %q", got)
	}
	send(start.Add(11 * time.Second))
	s.judged(&ingest.Batch{Canary: start.Add(11 * time.Second)}, start.Add(11*time.Second+time.Millisecond))
	if got := s.trouble(start.Add(12 * time.Second)); got != "" || len(put) != 2 {
		t.Errorf("trouble %q after it is over, %d canaries", got, len(put))
	}
}

// Canaries go through a running service, and nothing of them is stored.
func TestCanariesOfAService(t *testing.T) {
	f := newFeed(t)
	r := start(t, configuration(t, f.url()))
	r.whenReady(f)
	eventually(t, func() string {
		if n, _ := r.metric("routevigil_self_check_canary_seconds_count"); n < 2 {
			return fmt.Sprintf("%v canaries were measured", n)
		}
		return ""
	})
	var status api.ServiceStatus
	if code := r.get("/api/v1/status", &status); code != http.StatusOK || status.DelaySeconds <= 0 {
		t.Errorf("status %d: %+v", code, status)
	}
	st, err := r.service.store.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.LastPosition != 0 || st.Updates != 0 {
		t.Errorf("a service that heard nothing has stored %+v", st)
	}
	if late, ok := r.metric("routevigil_self_check_canary_late"); !ok || late != 0 {
		t.Errorf("late: %v, %v", late, ok)
	}
}

// Looking for beacons allocates nothing where there are none.
func TestLookingForBeaconsAllocatesNothing(t *testing.T) {
	s := newSelfCheck(prometheus.NewRegistry())
	u := route(0, victim(0).prefix, victim(0).asn)
	b := &ingest.Batch{Updates: []ingest.Update{u, u, u}}
	now := time.Now()
	if n := testing.AllocsPerRun(100, func() { s.judged(b, now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkLookingForBeacons is the work that each update of one prefix costs beside being judged.
func BenchmarkLookingForBeacons(b *testing.B) {
	s := newSelfCheck(prometheus.NewRegistry())
	batch := &ingest.Batch{Updates: []ingest.Update{route(0, victim(0).prefix, victim(0).asn)}}
	now := time.Now()
	for b.Loop() {
		s.judged(batch, now)
	}
}
