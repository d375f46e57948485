package clickhouse

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
	"github.com/routevigil/routevigil/store/clickhouse/clickhousetest"
	"github.com/routevigil/routevigil/store/storetest"
)

// TestMain does not let a goroutine outlive the stores.
func TestMain(m *testing.M) {
	batch.Decompress(nil, batch.Compress(nil, make([]byte, 1<<10))) // its goroutines live as long as the process
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

// testConfiguration is of a database of the test's own.
func testConfiguration(t testing.TB, address string) Configuration {
	c := DefaultConfiguration()
	c.Addresses = []string{address}
	c.Database = clickhousetest.Database()
	c.QueryThreads = 2
	c.QueryMemory = 1 << 30
	return c
}

func dropDatabase(t testing.TB, c Configuration) {
	t.Cleanup(func() {
		name := c.Database
		c.Database = "default"
		conn, err := connect(context.Background(), c, true)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if err := conn.Exec(context.Background(), "DROP DATABASE IF EXISTS "+name+" SYNC"); err != nil {
			t.Error(err)
		}
	})
}

// openStore opens the store without its expander; the test closes it, or the end of the test does.
func openStore(t testing.TB, c Configuration) *Store {
	t.Helper()
	s, err := open(t.Context(), c, store.Retention{}, slog.New(slog.NewTextHandler(t.Output(), nil)), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func expandAll(t testing.TB, s *Store) {
	t.Helper()
	if err := s.tidy(t.Context(), time.Now(), true); err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	server := clickhousetest.Shared(t)
	storetest.Run(t, storetest.Harness{
		Open: func(t *testing.T) store.Store {
			c := testConfiguration(t, server)
			c.Expand.Updates = 100 // so that history is in many blocks
			dropDatabase(t, c)
			return openStore(t, c)
		},
		Reopen: func(t *testing.T, s store.Store) store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return openStore(t, s.(*Store).cfg)
		},
		Seal: func(t *testing.T, s store.Store) { expandAll(t, s.(*Store)) },
	})
}
