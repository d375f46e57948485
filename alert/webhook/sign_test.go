package webhook

import (
	"net/http"
	"strconv"
	"testing"
	"time"
)

// The example that the libraries of Standard Webhooks publish and test themselves against.
const (
	exampleSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	exampleID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	exampleTime      = 1614265330
	exampleBody      = `{"test": 2432232314}`
	exampleSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func exampleHeader() http.Header {
	h := http.Header{}
	h.Set("webhook-id", exampleID)
	h.Set("webhook-timestamp", strconv.Itoa(exampleTime))
	h.Set("webhook-signature", exampleSignature)
	return h
}

func TestSignPublishedExample(t *testing.T) {
	key, err := parseSecret(exampleSecret)
	if err != nil {
		t.Fatal(err)
	}
	h := http.Header{}
	sign(h, key, exampleID, time.Unix(exampleTime, 999_999_999), []byte(exampleBody))
	for name, values := range exampleHeader() {
		if h.Get(name) != values[0] {
			t.Errorf("%s: %q, want %q", name, h.Get(name), values[0])
		}
	}
}

func TestVerify(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(h http.Header)
		secret string
		body   string
		age    time.Duration
		ok     bool
	}{
		{name: "as published", ok: true},
		{name: "five minutes old", age: tolerance, ok: true},
		{name: "older", age: tolerance + time.Second},
		{name: "from the future", age: -tolerance - time.Second},
		{name: "another signature first", ok: true, change: func(h http.Header) {
			h.Set("webhook-signature", "v1a,xxxx v1,Zm9v "+exampleSignature)
		}},
		{name: "only another's", change: func(h http.Header) { h.Set("webhook-signature", "v1,Zm9v") }},
		{name: "another scheme", change: func(h http.Header) { h.Set("webhook-signature", "v2"+exampleSignature[2:]) }},
		{name: "no base64", change: func(h http.Header) { h.Set("webhook-signature", "v1,%%%") }},
		{name: "no signature", change: func(h http.Header) { h.Del("webhook-signature") }},
		{name: "no id", change: func(h http.Header) { h.Del("webhook-id") }},
		{name: "another id", change: func(h http.Header) { h.Set("webhook-id", "msg_2") }},
		{name: "no timestamp", change: func(h http.Header) { h.Del("webhook-timestamp") }},
		{name: "another timestamp", change: func(h http.Header) { h.Set("webhook-timestamp", strconv.Itoa(exampleTime+1)) }},
		{name: "a timestamp that overflows", change: func(h http.Header) { h.Set("webhook-timestamp", "-9223372036854775808") }},
		{name: "no number", change: func(h http.Header) { h.Set("webhook-timestamp", "now") }},
		{name: "another body", body: `{"test": 2432232315}`},
		{name: "another secret", secret: "whsec_AAAA"},
		{name: "the secret not decoded", secret: "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"},
		{name: "a broken secret", secret: "whsec_%"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, secret, body := exampleHeader(), exampleSecret, exampleBody
			if tt.change != nil {
				tt.change(h)
			}
			if tt.secret != "" {
				secret = tt.secret
			}
			if tt.body != "" {
				body = tt.body
			}
			err := verify(secret, h, []byte(body), time.Unix(exampleTime, 0).Add(tt.age))
			if (err == nil) != tt.ok {
				t.Errorf("%v", err)
			}
		})
	}
	if err := Verify("", exampleHeader(), nil); err == nil {
		t.Error("an empty secret verifies")
	}
	if err := Verify(exampleSecret, exampleHeader(), []byte(exampleBody)); err == nil {
		t.Error("a message of 2021 verifies today")
	}
}

// FuzzVerify: nothing but the right signature passes, and nothing panics.
func FuzzVerify(f *testing.F) {
	f.Add(exampleSecret, exampleID, "1614265330", exampleSignature, []byte(exampleBody))
	f.Add("raw", "", "-1", "v1, v1,=", []byte{})
	f.Fuzz(func(t *testing.T, secret, id, timestamp, signature string, body []byte) {
		h := http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {signature}}
		if verify(secret, h, body, time.Unix(exampleTime, 0)) != nil {
			return
		}
		h.Set("Webhook-Id", id+"x")
		if verify(secret, h, body, time.Unix(exampleTime, 0)) == nil {
			t.Error("it passes under another id")
		}
	})
}
