package webhook_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/routevigil/routevigil/alert/alerttest"
	"github.com/routevigil/routevigil/alert/channel"
	"github.com/routevigil/routevigil/alert/webhook"
	"github.com/routevigil/routevigil/detect/incident"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func newChannel(t *testing.T, address string) *webhook.Channel {
	t.Helper()
	c, err := webhook.New(webhook.Configuration{Receiver: "noc", URL: channel.URL(address), Secret: secret, Timeout: alerttest.Timeout, Version: "v1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func TestSuite(t *testing.T) {
	alerttest.Run(t, alerttest.Subject{
		New: func(t *testing.T, endpoint string) channel.Channel {
			address := strings.Replace(endpoint, "://", "://user-name:pass-word@", 1) + "/services/T0123456789ABCDEF?token=t0ken%2Fvalue&x=1"
			return newChannel(t, address)
		},
		Secrets: []string{"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "user-name", "pass-word", "dXNlci1uYW1lOnBhc3Mtd29yZA", "t0ken/value", "t0ken%2Fvalue", "T0123456789ABCDEF"},
		Key:     func(r *http.Request, _ []byte) string { return r.Header.Get("webhook-id") },
	})
}

// TestSigned: what is sent passes Verify, and says where it comes from.
func TestSigned(t *testing.T) {
	var header http.Header
	var verified error
	srv := receiver(t, func(h http.Header, body []byte) {
		header, verified = h, webhook.Verify(secret, h, body)
	})
	c := newChannel(t, strings.Replace(srv, "://", "://u:p@", 1)+"/hook")
	body, err := c.Body(alerttest.Event())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Send(t.Context(), "msg_1", body); err != nil {
		t.Fatal(err)
	}
	if verified != nil {
		t.Error(verified)
	}
	if header.Get("Content-Type") != "application/json" || header.Get("User-Agent") != "routevigil/v1" || header.Get("Authorization") != "Basic dTpw" {
		t.Errorf("headers: %v", header)
	}
}

func TestUnsigned(t *testing.T) {
	var header http.Header
	srv := receiver(t, func(h http.Header, _ []byte) { header = h })
	c, err := webhook.New(webhook.Configuration{Receiver: "noc", URL: channel.URL(srv), Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Send(t.Context(), "msg_1", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	if header.Get("webhook-id") != "msg_1" || header.Values("webhook-signature") != nil {
		t.Errorf("headers: %v", header)
	}
}

func TestBody(t *testing.T) {
	c := newChannel(t, "http://127.0.0.1:1")
	e := alerttest.Event()
	decode := func() map[string]any {
		t.Helper()
		text, err := c.Body(e)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	firing := decode()
	var event incident.Event
	text, err := json.Marshal(firing["routevigil"])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &event); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(*e, event, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("the event does not come back: %s", diff)
	}
	labels := map[string]any{"alertname": "subprefix_hijack", "incident": e.Incident.ID, "severity": "critical",
		"offender": "AS17557", "victim": "AS36561", "prefix": "208.65.153.0/24"}
	annotations := map[string]any{"summary": e.Incident.Title, "description": e.Incident.Explanation}
	alerts := firing["alerts"].([]any)[0].(map[string]any)
	fingerprint := alerts["fingerprint"]
	delete(firing, "routevigil")
	want := map[string]any{
		"version": "4", "groupKey": `{}:{incident="inc_7Q2M5ZJ3XW4VNTGA"}`, "truncatedAlerts": 0.0, "status": "firing", "receiver": "noc",
		"groupLabels": map[string]any{"incident": e.Incident.ID}, "commonLabels": labels, "commonAnnotations": annotations, "externalURL": "",
		"alerts": []any{map[string]any{"status": "firing", "labels": labels, "annotations": annotations, "startsAt": "2008-02-24T18:47:57Z",
			"endsAt": "0001-01-01T00:00:00Z", "generatorURL": "", "fingerprint": fingerprint}},
	}
	if diff := cmp.Diff(want, firing); diff != "" {
		t.Error(diff)
	}

	end := e.Time.Add(2 * time.Hour)
	e.Change, e.Incident.Status, e.Incident.EndedAt, e.Incident.Severity = incident.Closed, incident.Ended, &end, incident.Low
	resolved := decode()
	a := resolved["alerts"].([]any)[0].(map[string]any)
	if resolved["status"] != "resolved" || a["status"] != "resolved" || a["endsAt"] != "2008-02-24T20:48:03Z" {
		t.Errorf("an ended incident: %v, %v", resolved["status"], a)
	}
	if a["fingerprint"] != fingerprint || len(fingerprint.(string)) != 16 || resolved["groupKey"] != firing["groupKey"] {
		t.Errorf("the fingerprint went from %v to %v", fingerprint, a["fingerprint"])
	}
}

func TestNew(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		name string
		c    webhook.Configuration
		want string // of the error; "" for none
	}{
		{"plain", webhook.Configuration{URL: "https://a.example/h", Secret: "raw secret"}, ""},
		{"from a file", webhook.Configuration{URL: "https://a.example/h", SecretFile: file("good", secret+"\n")}, ""},
		{"no such file", webhook.Configuration{URL: "https://a.example/h", SecretFile: filepath.Join(dir, "none")}, "secret_file: "},
		{"empty file", webhook.Configuration{URL: "https://a.example/h", SecretFile: file("empty", "\n")}, "secret_file: "},
		{"bad base64", webhook.Configuration{URL: "https://a.example/h", Secret: "whsec_s3cr3t!"}, "secret: "},
		{"bad base64 in a file", webhook.Configuration{URL: "https://a.example/h", SecretFile: file("bad", "whsec_s3cr3t!")}, "secret: "},
		{"nothing after whsec_", webhook.Configuration{URL: "https://a.example/h", Secret: "whsec_"}, "secret: "},
		{"another scheme", webhook.Configuration{URL: "ftp://s3cr3t@a.example/h"}, "url: "},
		{"no host", webhook.Configuration{URL: "https:///s3cr3t"}, "url: "},
		{"no URL", webhook.Configuration{URL: "%zz s3cr3t"}, "url: "},
		{"fragment", webhook.Configuration{URL: "https://a.example/h#s3cr3t"}, "url: "},
	} {
		c, err := webhook.New(tt.c)
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.want == "":
			c.Close()
		case err == nil || !strings.HasPrefix(err.Error(), tt.want):
			t.Errorf("%s: %v, want %s…", tt.name, err, tt.want)
		case strings.Contains(err.Error(), "s3cr3t"):
			t.Errorf("%s: the error tells: %v", tt.name, err)
		}
	}
}

// receiver is a server that accepts everything and shows it to got.
func receiver(t *testing.T, got func(h http.Header, body []byte)) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		got(r.Header, body)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}
