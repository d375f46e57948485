package alert_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"github.com/routevigil/routevigil/alert"
	"github.com/routevigil/routevigil/alert/alerttest"
	"github.com/routevigil/routevigil/alert/channel"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConfiguration(t *testing.T) {
	good := alert.Webhook{Name: "noc", URL: "https://u:p@noc.example/hook?t=1", Secret: "whsec_Zm9vYmFy"}
	change := func(f func(*alert.Webhook)) alert.Configuration {
		w := good
		f(&w)
		return alert.Configuration{Webhooks: []alert.Webhook{w}}
	}
	for _, tt := range []struct {
		name string
		c    alert.Configuration
		want string
	}{
		{"default", alert.DefaultConfiguration(), ""},
		{"one", change(func(*alert.Webhook) {}), ""},
		{"no name", change(func(w *alert.Webhook) { w.Name = "" }), "webhooks[0].name: "},
		{"newline in the name", change(func(w *alert.Webhook) { w.Name = "a\nb" }), "webhooks[0].name: "},
		{"same name", alert.Configuration{Webhooks: []alert.Webhook{good, good}}, "webhooks[1].name: "},
		{"no URL", change(func(w *alert.Webhook) { w.URL = "" }), "webhooks[0].url: "},
		{"no host", change(func(w *alert.Webhook) { w.URL = "s3cr3t" }), "webhooks[0].url: "},
		{"broken secret", change(func(w *alert.Webhook) { w.Secret = "whsec_s3cr3t!" }), "webhooks[0].secret: "},
		{"two secrets", change(func(w *alert.Webhook) { w.SecretFile = "/run/secret" }), "webhooks[0].secret_file: "},
		{"severity", change(func(w *alert.Webhook) { w.MinSeverity = "urgent" }), "webhooks[0].min_severity: "},
		{"kind", change(func(w *alert.Webhook) { w.Kinds = []incident.Kind{incident.RouteLeak, "leak"} }), "webhooks[0].kinds[1]: "},
		{"AS 0", change(func(w *alert.Webhook) { w.ASNs = []uint32{0} }), "webhooks[0].asns[0]: "},
		{"host bits", change(func(w *alert.Webhook) { w.Prefixes = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")} }), "webhooks[0].prefixes[0]: "},
		{"timeout", change(func(w *alert.Webhook) { w.Timeout = time.Hour }), "webhooks[0].timeout: "},
		{"age", change(func(w *alert.Webhook) { w.MaxAge = -1 }), "webhooks[0].max_age: "},
	} {
		err := tt.c.Validate()
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %s…", tt.name, err, tt.want)
		case err != nil && strings.Contains(err.Error(), "s3cr3t"):
			t.Errorf("%s: the error tells: %v", tt.name, err)
		}
	}
}

func TestReceivers(t *testing.T) {
	receivers, err := alert.Receivers(alert.Configuration{Webhooks: []alert.Webhook{{Name: "noc", URL: "https://noc.example/"}}}, "v1")
	if err != nil {
		t.Fatal(err)
	}
	if r := receivers[0]; r.Filter.MinSeverity != incident.Medium || r.MaxAge != 24*time.Hour {
		t.Errorf("defaults: %+v", r)
	}
	_, err = alert.Receivers(alert.Configuration{Webhooks: []alert.Webhook{{Name: "noc", URL: "https://noc.example/", SecretFile: t.TempDir() + "/none"}}}, "v1")
	if err == nil || !strings.HasPrefix(err.Error(), "webhooks[0].secret_file: ") {
		t.Errorf("without its secret file: %v", err)
	}
}

// TestSecretsStaySecret prints a configuration in every way there is.
func TestSecretsStaySecret(t *testing.T) {
	w := alert.Webhook{Name: "noc", URL: "https://user:s3cr3t@noc.example/s3cr3t?token=s3cr3t", Secret: "s3cr3t"}
	c := alert.Configuration{Webhooks: []alert.Webhook{w}}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		fmt.Fprintf(&out, verb+verb+verb, c, w.URL, w.Secret)
		fmt.Fprintf(&out, verb, &w)
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "c", c, "w", &w, "url", w.URL, "secret", w.Secret, "any", []any{w.URL, w.Secret})
	}
	if err := json.NewEncoder(&out).Encode(c); err != nil {
		t.Fatal(err)
	}
	if err := yaml.NewEncoder(&out).Encode(c); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, secret := range []string{"s3cr3t", "user", fmt.Sprintf("%x", "s3cr3t"), fmt.Sprintf("%X", "s3cr3t")} {
		if i := strings.Index(text, secret); i >= 0 {
			t.Errorf("%s is told: …%s", secret, text[max(0, i-80):i+10])
		}
	}
	if !strings.Contains(text, "https://noc.example/…") || !strings.Contains(text, "<secret>") {
		t.Errorf("nothing in their place: %s", text)
	}
}

// quiet is a channel whose message names the event and no more.
type quiet struct{ channel.Channel }

func (quiet) Body(e *incident.Event) ([]byte, error) {
	return fmt.Appendf(nil, "event %d", e.Sequence), nil
}

func (quiet) Close() {}

func TestRoute(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name   string
		filter alert.Filter
		change func(*incident.Event)
		want   bool
	}{
		{"opened", alert.Filter{}, func(e *incident.Event) {}, true},
		{"reopened", alert.Filter{}, func(e *incident.Event) { e.Change = incident.Reopened }, true},
		{"severity changed", alert.Filter{}, func(e *incident.Event) { e.Change = incident.SeverityChanged }, true},
		{"ended", alert.Filter{}, func(e *incident.Event) { e.Change = incident.Closed }, true},
		{"grew", alert.Filter{}, func(e *incident.Event) { e.Change = incident.Grew }, false},
		{"receded", alert.Filter{}, func(e *incident.Event) { e.Change = incident.Receded }, false},
		{"severe enough", alert.Filter{MinSeverity: incident.Critical}, func(e *incident.Event) {}, true},
		{"not severe enough", alert.Filter{MinSeverity: incident.High},
			func(e *incident.Event) {
				e.Incident.Severity, e.Incident.PeakSeverity = incident.Medium, incident.Medium
			}, false},
		{"declined from what was told", alert.Filter{MinSeverity: incident.High},
			func(e *incident.Event) { e.Change, e.Incident.Severity = incident.SeverityChanged, incident.Low }, true},
		{"ended after it declined", alert.Filter{MinSeverity: incident.High},
			func(e *incident.Event) { e.Change, e.Incident.Severity = incident.Closed, incident.Low }, true},
		{"reopened less severe than it was", alert.Filter{MinSeverity: incident.High},
			func(e *incident.Event) { e.Change, e.Incident.Severity = incident.Reopened, incident.Low }, false},
		{"ended and never told", alert.Filter{MinSeverity: incident.High},
			func(e *incident.Event) {
				e.Change, e.Incident.Severity, e.Incident.PeakSeverity = incident.Closed, incident.Low, incident.Low
			}, false},
		{"its kind", alert.Filter{Kinds: []incident.Kind{incident.RouteLeak, incident.SubprefixHijack}}, func(e *incident.Event) {}, true},
		{"another kind", alert.Filter{Kinds: []incident.Kind{incident.RouteLeak}}, func(e *incident.Event) {}, false},
		{"offender", alert.Filter{ASNs: []uint32{1, 17557}}, func(e *incident.Event) {}, true},
		{"accomplice", alert.Filter{ASNs: []uint32{3491}}, func(e *incident.Event) {}, true},
		{"victim", alert.Filter{ASNs: []uint32{36561}}, func(e *incident.Event) {}, true},
		{"another AS", alert.Filter{ASNs: []uint32{64500}}, func(e *incident.Event) {}, false},
		{"its prefix", alert.Filter{Prefixes: []netip.Prefix{netip.MustParsePrefix("208.65.153.0/24")}}, func(e *incident.Event) {}, true},
		{"inside the filter", alert.Filter{Prefixes: []netip.Prefix{netip.MustParsePrefix("208.65.152.0/22")}}, func(e *incident.Event) {}, true},
		{"around the filter", alert.Filter{Prefixes: []netip.Prefix{netip.MustParsePrefix("208.65.153.128/25")}}, func(e *incident.Event) {}, true},
		{"another prefix", alert.Filter{Prefixes: []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")}}, func(e *incident.Event) {}, false},
		{"its watch", alert.Filter{Watches: []string{"tube", "other"}}, func(e *incident.Event) { e.Incident.Watches = []string{"all", "tube"} }, true},
		{"another watch", alert.Filter{Watches: []string{"other"}}, func(e *incident.Event) { e.Incident.Watches = []string{"all", "tube"} }, false},
		{"no watch", alert.Filter{Watches: []string{"other"}}, func(e *incident.Event) {}, false},
		{"muted", alert.Filter{}, func(e *incident.Event) { e.Incident.Muted = &incident.Muted{Watch: "tube"} }, false},
		{"the end of what was muted", alert.Filter{},
			func(e *incident.Event) {
				e.Change, e.Incident.Muted = incident.Closed, &incident.Muted{Watch: "tube"}
			}, false},
		{"unmuted", alert.Filter{}, func(e *incident.Event) { e.Change = incident.Unmuted }, true},
		{"one filter fails", alert.Filter{ASNs: []uint32{36561}, Kinds: []incident.Kind{incident.RouteLeak}}, func(e *incident.Event) {}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := *alerttest.Event()
			tt.change(&e)
			router := alert.NewRouter([]alert.Receiver{{Name: "noc", Filter: tt.filter, MaxAge: time.Hour, Channel: quiet{}}})
			got, err := router.Route([]incident.Event{e}, now)
			if err != nil || (len(got) == 1) != tt.want {
				t.Errorf("%d messages, %v", len(got), err)
			}
		})
	}
}

func TestRouteIsAFunction(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	receivers := []alert.Receiver{{Name: "noc", MaxAge: time.Hour, Channel: quiet{}}, {Name: "boss", MaxAge: time.Minute, Channel: quiet{}}}
	var events []incident.Event
	for n := range uint64(3) {
		e := *alerttest.Event()
		e.Sequence += n
		events = append(events, e)
	}
	route := func(receivers []alert.Receiver) []store.Delivery {
		got, err := alert.NewRouter(receivers).Route(events, now)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	got := route(receivers)
	if diff := cmp.Diff(got, route(receivers)); diff != "" {
		t.Errorf("again: %s", diff)
	}
	keys := map[string]bool{}
	for i, d := range got {
		keys[d.Key] = true
		want := store.Delivery{Key: d.Key, IncidentID: events[0].Incident.ID, Sequence: events[i/2].Sequence, Receiver: receivers[i%2].Name,
			Body: fmt.Appendf(nil, "event %d", events[i/2].Sequence), State: store.Pending,
			CreatedAt: now, UpdatedAt: now, ExpiresAt: now.Add(receivers[i%2].MaxAge)}
		if diff := cmp.Diff(want, d); diff != "" {
			t.Errorf("message %d: %s", i, diff)
		}
	}
	if len(keys) != 6 {
		t.Errorf("%d keys for 3 events to 2 receivers", len(keys))
	}
	// Receivers that come and go leave the keys of the others alone.
	if alone := route(receivers[1:]); alone[0].Key != got[1].Key {
		t.Error("the key depends on other receivers")
	}
}
