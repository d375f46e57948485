package service

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus/kafkatest"
)

// feedOf is a source that is in a state.
type feedOf struct {
	mu    sync.Mutex
	state ingest.State
}

func (f *feedOf) enter(s ingest.State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = s
}

func (f *feedOf) Status() ingest.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return ingest.Status{Name: "feed", State: f.state}
}
func (f *feedOf) Run(context.Context, ingest.Handler) error { return nil }
func (f *feedOf) Samples() []ingest.Sample                  { return nil }

// A source gives signs of life, of the collectors that it has let us hear, while it is connected and only then.
func TestSigns(t *testing.T) {
	f := &feedOf{state: ingest.Connecting}
	h, handle := hear(f, func(*ingest.Update) error { return nil })
	for _, name := range []string{"rrc01", "rrc00", "rrc01"} {
		if err := handle(&ingest.Update{Peer: ingest.Peer{Collector: name}}); err != nil {
			t.Fatal(err)
		}
	}
	u := [2]ingest.Update{{Peer: ingest.Peer{Collector: "rrc00"}}, {Peer: ingest.Peer{Collector: "rrc01"}}}
	if n := testing.AllocsPerRun(100, func() { handle(&u[0]); handle(&u[1]) }); n > 0 {
		t.Errorf("%v allocations for two updates of collectors that are known", n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	signs := make(chan []string)
	done := make(chan error, 1)
	go func() {
		done <- giveSigns(ctx, time.Millisecond, []*hearing{h}, func(source string, collectors []string) {
			if f.Status().State == ingest.Connecting {
				t.Error("a sign of a source that is not connected")
			}
			select {
			case signs <- append([]string{source}, collectors...):
			case <-ctx.Done():
			}
		})
	}()
	for _, state := range []ingest.State{ingest.Connected, ingest.Stalled, ingest.Lagging} {
		f.enter(state)
		if got := <-signs; !slices.Equal(got, []string{"feed", "rrc00", "rrc01"}) {
			t.Errorf("%s: a sign of %v", state, got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	for i := range 2 * maxHeard {
		h.note(fmt.Sprint(i))
	}
	if n := len(h.collectors()); n != maxHeard {
		t.Errorf("%d collectors are kept", n)
	}
}

// Signs that come with a batch are judged where they stand in it: of two collectors the one whose source gives none any
// more is cut off, whatever the batch spans.
func TestSignsAreJudged(t *testing.T) {
	var events []incident.Event
	e := detect.New(detect.DefaultConfiguration(), detect.Knowledge{}, func(ev incident.Event) { events = append(events, ev) })
	p := pipeline{engine: e}
	at := ingest.TimeOf(time.Now()) / 1e6 * 1e6
	said := func(collector string, kind ingest.Kind, at ingest.Time) ingest.Update {
		u := route(0, victim(0).prefix, victim(0).asn)
		u.Peer.Collector, u.Kind, u.Time = collector, kind, at
		return u
	}
	for _, collector := range []string{"one", "two"} {
		u := said(collector, ingest.RIB, at)
		e.Apply(&u)
	}
	e.FinishBaseline()
	b := ingest.Batch{Watermark: at.Add(10 * time.Minute)}
	for second := range 600 {
		if second%10 == 0 {
			b.Signs = append(b.Signs, ingest.Sign{Source: "a", Collectors: []string{"one"}, Before: len(b.Updates)})
			if second < 200 {
				b.Signs = append(b.Signs, ingest.Sign{Source: "b", Collectors: []string{"two"}, Before: len(b.Updates)})
			}
		}
		b.Updates = append(b.Updates, said("one", ingest.Routes, at.Add(time.Duration(second)*time.Second)))
	}
	p.judge(&b)
	if len(events) != 1 || events[0].Incident.Kind != incident.FeedBlind || !strings.HasPrefix(events[0].Incident.Title, "two is cut off") {
		t.Errorf("%d events: %+v", len(events), events)
	}
}

// What a collector that runs by itself writes to Kafka has its feed's signs of life.
func TestSignsThroughKafka(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, address string) {
		f := newFeed(t)
		c := onKafka(t, address, f)
		x, err := NewCollector(t.Context(), c, testLog(t))
		if err != nil {
			t.Fatal(err)
		}
		running, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- x.Run(running) }()
		defer func() {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		eventually(t, func() string {
			if f.subscribers() == 0 {
				return "nobody listens to the feed"
			}
			return ""
		})
		if err := f.tell(route(0, victim(0).prefix, victim(0).asn)); err != nil {
			t.Fatal(err)
		}
		l, err := x.cluster.Follow(kafkabus.LogOptions{Candidate: true})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		for {
			s, err := l.Next(ctx)
			if err != nil {
				t.Fatalf("no sign comes: %v", err)
			}
			if len(s.Signs) > 0 {
				if got := s.Signs[0]; got.Source != "test" || !slices.Equal(got.Collectors, []string{"rrc00"}) {
					t.Errorf("a sign of %+v", got)
				}
				return
			}
		}
	})
}
