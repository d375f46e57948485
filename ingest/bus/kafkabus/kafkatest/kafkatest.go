// Package kafkatest gives tests a Kafka.
package kafkatest

import (
	"os"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/routevigil/routevigil/ingest/bgp/bgptest"
)

// Each runs a test with a broker that pretends, and with a real one whose address is in ROUTEVIGIL_TEST_KAFKA.
func Each(t *testing.T, f func(t *testing.T, address string)) {
	t.Run("kfake", func(t *testing.T) {
		k, err := kfake.NewCluster(kfake.NumBrokers(1))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(k.Close)
		f(t, k.ListenAddrs()[0])
	})
	t.Run("Kafka", func(t *testing.T) {
		address := os.Getenv("ROUTEVIGIL_TEST_KAFKA")
		if address == "" {
			bgptest.Missing(t, "ROUTEVIGIL_TEST_KAFKA does not say where a Kafka broker is")
		}
		f(t, address)
	})
}
