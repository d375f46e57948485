package alert_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/alert"
	"github.com/routevigil/routevigil/alert/alerttest"
	"github.com/routevigil/routevigil/alert/channel"
	"github.com/routevigil/routevigil/alert/webhook"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/embedded"
)

// TestThroughTheStore goes the whole way: an event is committed with its message, the process ends
// before anything is sent, the next one sends it, signed, once, and the receipt can be read.
func TestThroughTheStore(t *testing.T) {
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	type got struct {
		key      string
		verified error
	}
	arrived := make(chan got, 10)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		io.WriteString(w, "thank you")
		arrived <- got{r.Header.Get("webhook-id"), webhook.Verify(secret, r.Header, body)}
	}))
	defer srv.Close()

	settings := alert.Configuration{Webhooks: []alert.Webhook{{Name: "noc", URL: channel.URL(srv.URL), Secret: secret}}}
	if err := settings.Validate(); err != nil {
		t.Fatal(err)
	}
	receivers, err := alert.Receivers(settings, "v1")
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	open := func() *embedded.Store {
		c := embedded.DefaultConfiguration()
		c.Directory = directory
		st, err := embedded.Open(c, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	commit := func(st store.Store) []store.Delivery {
		events := []incident.Event{*alerttest.Event()}
		deliveries, err := alert.NewRouter(receivers).Route(events, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if err := st.CommitEvents(t.Context(), events, deliveries); err != nil {
			t.Fatal(err)
		}
		return deliveries
	}

	st := open()
	sent := commit(st)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}

	st = open()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- alert.NewNotifier(receivers, st, prometheus.NewRegistry(), slog.New(slog.DiscardHandler)).Run(ctx)
	}()
	select {
	case g := <-arrived:
		if g.verified != nil || g.key != sent[0].Key {
			t.Errorf("arrived with key %s, %v; want key %s", g.key, g.verified, sent[0].Key)
		}
	case <-time.After(time.Minute):
		t.Fatal("nothing arrived")
	}
	commit(st)                          // a recovery computes the same event again
	time.Sleep(1500 * time.Millisecond) // longer than between two looks
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := len(arrived); n > 0 {
		t.Errorf("sent %d times more", n)
	}
	kept, err := st.Deliveries(t.Context(), alerttest.Event().Incident.ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(kept) != 1 || kept[0].State != store.Delivered || kept[0].Receipt != "200 OK: thank you" || kept[0].Attempts != 1 {
		t.Errorf("kept: %+v", kept)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
}
