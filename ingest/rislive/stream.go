package rislive

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/routevigil/routevigil/ingest"
)

// stream is one connection to the service's HTTP stream: one JSON object a line, of what one filter
// in a header asks for. It is for places that let HTTP through but no WebSocket.
func (x *Client) stream(ctx context.Context, address string, h ingest.Handler) (received bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	filter, err := json.Marshal(x.c.Subscriptions[0].withRaw())
	if err != nil {
		return false, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return false, err
	}
	r.Header.Set("X-RIS-Subscribe", string(filter))
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	connecting := time.AfterFunc(x.c.ConnectTimeout, func() { cancel(fmt.Errorf("no answer within %v", x.c.ConnectTimeout)) })
	response, err := (&http.Client{Transport: transport}).Do(r)
	connecting.Stop()
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return false, fmt.Errorf("connecting to %s: %w", x.c.URL, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return false, fmt.Errorf("connecting to %s: HTTP status %s", x.c.URL, response.Status)
	}
	x.connected()

	lines := NewReader(response.Body, x.c.Name)
	lines.max = x.c.MaxMessageBytes
	stall := time.AfterFunc(time.Hour, func() { cancel(x.errStalled()) })
	defer stall.Stop()
	for {
		// Set for every line: while h keeps us waiting, the feed does not stall.
		stall.Stop()
		if x.c.StallAfter > 0 {
			stall.Reset(x.c.StallAfter)
		}
		text, err := lines.next()
		stall.Stop()
		if long, ok := err.(*LineError); ok {
			x.received(time.Now(), nil, nil, long.Err)
			continue
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return received, err
		}
		received = true
		if err := x.message(text, h); err != nil {
			return received, err
		}
	}
}
