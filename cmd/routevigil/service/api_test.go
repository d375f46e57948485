package service

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus/kafkatest"
	"github.com/routevigil/routevigil/store/clickhouse/clickhousetest"
)

// onClickHouse gives c a database of its own on the server that tests share.
func onClickHouse(t *testing.T, c *config.Config) {
	t.Helper()
	c.Store.Kind = config.ClickHouse
	c.Store.ClickHouse.Addresses = []string{clickhousetest.Shared(t)}
	c.Store.ClickHouse.Database = clickhousetest.Database()
}

// startAPI runs the role api in this process until the test ends.
func startAPI(t *testing.T, c config.Config) *client {
	t.Helper()
	x, err := NewAPI(t.Context(), c, "test", testLog(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return newClient(t, "http://"+x.Addr().String())
}

// Two APIs answer and tell what a service stores, while it goes on, and when it has stopped say how far behind they are.
func TestAPIBesideAService(t *testing.T) {
	f := newFeed(t)
	c := configuration(t, f.url())
	onClickHouse(t, &c)
	r := start(t, c)
	r.whenReady(f)
	f.background(t, 20*time.Millisecond)
	own := c
	own.Store.Directory = filepath.Join(t.TempDir(), "not needed")
	apis := []*client{startAPI(t, own), startAPI(t, own)}
	heard := make(chan string, 1)
	ctx, cancel := context.WithCancel(t.Context())
	following := make(chan struct{})
	go func() {
		defer close(following)
		apis[0].follow(ctx, 0, func(_ uint64, event string) {
			select {
			case heard <- event:
			default:
			}
		})
	}()
	f.tell(hijack(0, 0, sessions)...)
	for _, a := range apis {
		eventually(t, func() string {
			if _, ok := a.incidentOf(0); !ok {
				return "the API does not know of the incident"
			}
			if status, reasons := a.ready(); status != http.StatusOK || reasons != "" {
				return fmt.Sprintf("the API is at %d: %s", status, reasons)
			}
			return ""
		})
	}
	select {
	case event := <-heard:
		if !strings.Contains(event, fmt.Sprint(victim(0).asn)) {
			t.Errorf("the stream tells %s", event)
		}
	case <-time.After(patience):
		t.Error("the stream does not tell of the incident")
	}
	cancel()
	<-following
	f.tell(heal(0)...)
	eventually(t, func() string {
		if x, _ := apis[1].incidentOf(0); x.Status != incident.Ended {
			return fmt.Sprintf("the incident is %q", x.Status)
		}
		return ""
	})
	if status := apis[0].get("/api/v1/prefixes/"+victim(0).prefix.String(), new(any)); status != http.StatusServiceUnavailable {
		t.Errorf("the table, which it has not: %d", status)
	}
	if err := r.stop(); err != nil {
		t.Fatalf("a reader disturbed the service: %v", err)
	}
	one, other := apis[0].updates(victim(0).prefix.String()), apis[1].updates(victim(0).prefix.String())
	if diff := cmp.Diff(one, other); diff != "" || len(one) == 0 {
		t.Errorf("of %d updates they say different things: %s", len(one), diff)
	}
	start(t, c) // which takes the database over, and is read on
	for _, a := range apis {
		if x, ok := a.incidentOf(0); !ok || x.Status != incident.Ended {
			t.Errorf("after the takeover: %+v", x)
		}
	}
}

// updates are what the API has of a prefix, newest first.
func (c *client) updates(prefix string) []map[string]any {
	c.t.Helper()
	var list struct{ Items []map[string]any }
	if status := c.get("/api/v1/updates?prefix="+prefix, &list); status != http.StatusOK {
		c.t.Errorf("updates: %d", status)
	}
	return list.Items
}

func watermarked(at time.Time) *ingest.Batch { return &ingest.Batch{Watermark: ingest.TimeOf(at)} }

// What is old is told and served.
func TestAPIBehind(t *testing.T) {
	c := config.Default()
	c.API.Listen = "127.0.0.1:0"
	onClickHouse(t, &c)
	_, err := NewAPI(t.Context(), c, "test", testLog(t))
	if err == nil || !strings.Contains(err.Error(), "routevigil record") {
		t.Errorf("where nothing has written yet: %v", err)
	}
	s, err := newStore(c.Store, testLog(t), newRegistry())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a := startAPI(t, c)
	status, reasons := a.ready()
	if status != http.StatusOK || !strings.Contains(reasons, "nothing has been stored") {
		t.Errorf("an empty store: %d %s", status, reasons)
	}
	b := api.Readiness{}
	if _, err := s.AppendBatch(t.Context(), watermarked(time.Now().Add(-time.Hour))); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() string {
		if status := a.get("/readyz", &b); status != http.StatusOK || !strings.Contains(strings.Join(b.Reasons, " "), "1h0m") {
			return fmt.Sprintf("%d %v", status, b.Reasons)
		}
		return ""
	})
}

// TestNotifiers: every message is sent once, however many notifiers run, by none but them, also when who sends stops.
func TestNotifiers(t *testing.T) {
	kafkatest.Each(t, func(t *testing.T, address string) {
		f, hook := newFeed(t), newReceiver(t)
		c := onKafka(t, address, f)
		c.Alert.Webhooks = append(c.Alert.Webhooks, hook.configuration("hook"))
		start := func(name string, flags ...string) *process {
			own := c
			own.Store.Directory = filepath.Join(t.TempDir(), "store")
			return role(t, name, own, flags...)
		}
		start("collect")
		detector, recorder := start("detect"), start("record", "--no-notify")
		notifiers := []*process{start("notify"), start("notify"), start("notify")}
		for _, p := range append(notifiers, detector, recorder) {
			p.whenReady(f)
		}
		f.background(t, 10*time.Millisecond)
		tell := func(i int) {
			f.tell(hijack(i, 0, sessions)...)
			whenHeard(t, hook, i, incident.Opened)
			f.tell(heal(i)...)
			whenHeard(t, hook, i, incident.Closed)
		}
		tell(0)
		tell(1)
		for stopped := range 2 { // of three
			at := -1
			eventually(t, func() string {
				for i, p := range notifiers {
					if v, _ := p.metric("routevigil_alerts_in_charge"); v == 1 {
						at = i
						return ""
					}
				}
				return "no notifier sends"
			})
			notifiers[at].command.Process.Signal(os.Interrupt)
			if err := notifiers[at].wait(); err != nil {
				t.Errorf("the notifier that sent ended with %v", err)
			}
			notifiers = append(notifiers[:at:at], notifiers[at+1:]...)
			tell(2 + stopped)
		}
		if v, ok := recorder.metric("routevigil_alerts_in_charge"); !ok || v != 0 {
			t.Errorf("the recorder that is not to send is in charge (%v, %v)", v, ok)
		}
		x, _ := recorder.incidentOf(0)
		eventually(t, func() string { // the recorder knows what became of them
			list := recorder.deliveries(x.ID)
			for _, d := range list {
				if d.State != "delivered" {
					return fmt.Sprintf("%s is %s", d.Key, d.State)
				}
			}
			if len(list) < 2 {
				return fmt.Sprintf("%d messages", len(list))
			}
			return ""
		})
		hook.mu.Lock()
		defer hook.mu.Unlock()
		for key, events := range hook.events {
			if len(events) != 1 {
				t.Errorf("%s was sent %d times", key, len(events))
			}
		}
	})
}
