package clickhouse

import (
	"context"
	"testing"
	"time"

	"github.com/routevigil/routevigil/store/clickhouse/clickhousetest"
)

// Who stands by goes on at once after a writer that ended, and after one that died when it has been silent for long enough,
// but not beside one that lives and has nothing to write.
func TestSilence(t *testing.T) {
	c := testConfiguration(t, clickhousetest.Shared(t))
	dropDatabase(t, c)
	long := 3 * aliveEvery
	living := openStore(t, c)
	living.done.Go(living.signsOfLife)
	r := openReader(t, c)
	silent := func(within time.Duration) (bool, time.Duration) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		start := time.Now()
		err := r.Silence(ctx, long)
		if err != nil && ctx.Err() == nil {
			t.Fatal(err)
		}
		return err == nil, time.Since(start)
	}
	if yes, after := silent(2 * long); yes {
		t.Fatalf("a writer that lives is taken for silent after %v", after)
	}
	living.cancel() // as one that is killed
	living.done.Wait()
	if yes, after := silent(time.Minute); !yes || after < long {
		t.Errorf("a writer that died is silent: %v, after %v", yes, after)
	}
	next := openStore(t, c)
	next.done.Go(next.signsOfLife)
	if yes, after := silent(2 * long); yes {
		t.Fatalf("another writer that lives is taken for silent after %v", after)
	}
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	if yes, after := silent(long / 2); !yes {
		t.Errorf("a writer that ended is not silent after %v", after)
	}
	// What was closed late does not speak for who took over.
	openStore(t, c).signOnce(t)
	if err := living.Close(); err != nil {
		t.Fatal(err)
	}
	if yes, _ := silent(long / 2); yes {
		t.Error("the end of an earlier writer counts as that of the present one")
	}
}

// signOnce gives one sign of life.
func (s *Store) signOnce(t *testing.T) {
	t.Helper()
	if err := s.mark(t.Context(), alive, s.state.epoch<<32|1); err != nil {
		t.Fatal(err)
	}
}
