package embedded

import (
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
	"github.com/routevigil/routevigil/store/storetest"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(childVariable); name != "" {
		runChild(name)
	}
	batch.Decompress(nil, batch.Compress(nil, make([]byte, 1<<10))) // its goroutines live as long as the process
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

func testConfiguration(dir string) Configuration {
	c := DefaultConfiguration()
	c.Directory = dir
	return c
}

func openStore(t testing.TB, cfg Configuration, z sizes) *Store {
	t.Helper()
	s, err := open(cfg, z, slog.New(slog.NewTextHandler(t.Output(), nil)), prometheus.NewRegistry())
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

func seal(t testing.TB, s *Store) {
	t.Helper()
	if err := s.tidy(t.Context(), time.Now(), true); err != nil {
		t.Fatal(err)
	}
}

func TestConformance(t *testing.T) {
	tests := []struct {
		name string
		cfg  func(*Configuration)
		// sizes of parts; small ones make many pages, row groups, parts and merges of little history
		sizes sizes
		// later is how far in the future history is sealed: windows that are full by then are merged
		later time.Duration
	}{
		{"as configured by default", func(*Configuration) {}, defaultSizes, 0},
		{"in small pieces", func(*Configuration) {}, sizes{sealRows: 100, rowGroupRows: 64, pageBytes: 64}, 0},
		{"in small pieces that are merged", func(c *Configuration) { c.Seal.PartRows = 700 },
			sizes{sealRows: 100, rowGroupRows: 256, pageBytes: 128}, 24 * time.Hour},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reopen := func(t *testing.T, dir string) store.Store {
				cfg := testConfiguration(dir)
				tt.cfg(&cfg)
				return openStore(t, cfg, tt.sizes)
			}
			storetest.Run(t, storetest.Harness{
				Open: func(t *testing.T) store.Store { return reopen(t, t.TempDir()) },
				Reopen: func(t *testing.T, s store.Store) store.Store {
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					return reopen(t, s.(*Store).cfg.Directory)
				},
				Seal: func(t *testing.T, s store.Store) {
					if err := s.(*Store).tidy(t.Context(), time.Now().Add(tt.later), true); err != nil {
						t.Fatal(err)
					}
				},
			})
		})
	}
}
