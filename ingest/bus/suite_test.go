package bus_test

import (
	"testing"

	"github.com/routevigil/routevigil/ingest/bus"
	"github.com/routevigil/routevigil/ingest/bus/bustest"
)

func TestSuite(t *testing.T) {
	bustest.Run(t, func(t *testing.T) bustest.Stream {
		b := bus.New(bus.DefaultConfiguration(), nil)
		t.Cleanup(b.Close)
		return bustest.Stream{Publish: b.Publish, Sign: b.Sign, Next: b.Next}
	})
}
