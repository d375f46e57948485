package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestHealth(t *testing.T) {
	tests := []struct {
		name    string
		answer  http.HandlerFunc
		wantErr string // "" means healthy
	}{
		{"alive", func(http.ResponseWriter, *http.Request) {}, ""},
		{"not ready", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "catching up", http.StatusServiceUnavailable)
		},
			`answers 503 Service Unavailable: "catching up\n"`},
		{"silent", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "deadline exceeded"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(test.answer)
			defer server.Close()
			err := HealthCmd{URL: server.URL, Timeout: 100 * time.Millisecond}.Run(&Globals{Context: t.Context()})
			if test.wantErr == "" && err != nil || test.wantErr != "" && (err == nil || !strings.Contains(err.Error(), test.wantErr)) {
				t.Errorf("got error %v, want %q", err, test.wantErr)
			}
		})
	}
}
