package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// HealthCmd is the health check of a container that holds nothing but this binary.
type HealthCmd struct {
	URL     string        `arg:"" optional:"" default:"http://localhost:8480/healthz" help:"What to ask (default ${default})."`
	Timeout time.Duration `default:"5s" help:"How long to wait for the answer (default ${default})."`
}

func (c HealthCmd) Run(g *Globals) error {
	ctx, cancel := context.WithTimeout(g.Context, c.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL, nil)
	if err != nil {
		return &UsageError{err}
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("no answer; is the service running there? %w", err)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s: %q", c.URL, response.Status, body)
	}
	return nil
}
