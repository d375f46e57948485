package kafkabus

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus/kafkatest"
)

// cutting makes connections that break now and then after a request was sent and before its answer is read:
// the broker has done what was asked, and who asked does not know.
type cutting struct {
	on   atomic.Bool
	cuts atomic.Int64
	one  int // in so many answers breaks
}

func (c *cutting) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &cutConn{conn, c}, nil
}

type cutConn struct {
	net.Conn
	c *cutting
}

var errCut = errors.New("the connection was cut")

func (c *cutConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err == nil && c.c.on.Load() && rand.IntN(c.c.one) == 0 {
		c.c.cuts.Add(1)
		c.Close()
		return 0, errCut
	}
	return n, err
}

// What is acknowledged arrives once, at everybody in the same steps, however often connections break.
func TestConnectionsThatBreak(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, address string) {
		k := cluster(t, address, func(c *Configuration) { c.Duplicates = 0 })
		c := &cutting{one: 40}
		k.transport.Dial, k.dialer.DialFunc = c.dial, c.dial
		k.transport.CloseIdleConnections()
		lead, other := follow(t, k, LogOptions{Candidate: true}), follow(t, k, LogOptions{Candidate: true})
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		c.on.Store(true)
		const rounds = 120
		written := make(chan error, 1)
		go func() {
			w := k.NewWriter(nil)
			for i := range rounds {
				b := ingest.Batch{Updates: []ingest.Update{withdrawal(2 * i), withdrawal(2*i + 1)}, Watermark: ingest.Time(1_000_000 + 2*i + 1)}
				if err := w.Write(ctx, &b); err != nil {
					written <- err
					return
				}
			}
			written <- nil
		}()
		type got struct {
			steps map[uint64][]int
			all   []int
			err   error
		}
		read := func(l *Log) (g got) {
			g.steps = map[uint64][]int{}
			for len(g.all) < 2*rounds && g.err == nil {
				s, err := l.Next(ctx)
				if g.err = err; err == nil {
					g.steps[s.Number] = numbers(s.Updates)
					g.all = append(g.all, numbers(s.Updates)...)
				}
			}
			for end := time.Now().Add(time.Second); time.Now().Before(end) && g.err == nil; { // others need somebody in charge
				short, cancel := context.WithDeadline(ctx, end)
				if s, err := l.Next(short); err == nil {
					g.all = append(g.all, numbers(s.Updates)...)
				}
				cancel()
			}
			return g
		}
		results := make(chan got, 2)
		for _, l := range []*Log{lead, other} {
			go func() { results <- read(l) }()
		}
		if err := <-written; err != nil {
			t.Error(err)
		}
		a, b := <-results, <-results
		c.on.Store(false)
		var want []int
		for i := range 2 * rounds {
			want = append(want, i)
		}
		for _, g := range []got{a, b} {
			if g.err != nil || !slices.Equal(g.all, want) {
				t.Errorf("error %v, got %v", g.err, g.all)
			}
			for n, s := range g.steps {
				if x, ok := a.steps[n]; ok && !slices.Equal(x, s) {
					t.Errorf("step %d is %v and %v", n, x, s)
				}
			}
		}
		if c.cuts.Load() < 5 {
			t.Errorf("only %d connections broke; that tests nothing", c.cuts.Load())
		}
		t.Logf("%d connections broke", c.cuts.Load())
	})
}
