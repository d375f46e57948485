package service

import (
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
)

// BenchmarkRestore brings a detector of a million prefixes from ten peers back from its state in Kafka, which
// is at ROUTEVIGIL_TEST_KAFKA.
func BenchmarkRestore(b *testing.B) {
	address := os.Getenv("ROUTEVIGIL_TEST_KAFKA")
	if address == "" {
		b.Skip("ROUTEVIGIL_TEST_KAFKA does not say where a Kafka broker is")
	}
	const prefixes, peers = 1_000_000, 10
	x := detectorOn(b, address)
	e := x.pipeline.engine
	at := ingest.TimeOf(time.Now())
	for i := range prefixes {
		origin := 100_000 + uint32(i/13)
		for k := range peers {
			p := session(k)
			e.Apply(&ingest.Update{Time: at, Kind: ingest.RIB, Peer: p,
				Announced: []bgp.NLRI{{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(1 + i>>16), byte(i >> 8), byte(i), 0}), 24)}},
				Attrs: bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath, ASPath: bgp.ASPath{{Type: bgp.ASSequence,
					ASNs: []uint32{p.ASN, transits[(k+int(origin))%3], 2000 + origin%700, origin}}}}})
		}
	}
	e.FinishBaseline()
	l, err := x.cluster.Follow(kafkabus.LogOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	start := time.Now()
	if err := x.saveState(b.Context(), l, 0); err != nil {
		b.Fatal(err)
	}
	saving := time.Since(start)
	b.ResetTimer()
	for range b.N {
		if _, _, err := x.restore(b.Context(), true); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(saving.Seconds(), "s/save")
	if st := x.pipeline.engine.Stats(); st.Prefixes != prefixes || st.Routes != prefixes*peers {
		b.Errorf("%+v was restored", st)
	}
}

// detectorOn is a detector with topics of its own, which is not run.
func detectorOn(t testing.TB, address string) *Detector {
	f := newFeed(t)
	c := onKafka(t, address, f)
	c.Detect = detect.DefaultConfiguration()
	x, err := NewDetector(t.Context(), c, "test", testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		x.operations.listener.Close()
		x.keeper.close()
		x.cluster.Close()
	})
	return x
}
