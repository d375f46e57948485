package rislive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/routevigil/routevigil/ingest"
)

// socket is one connection over a WebSocket.
func (x *Client) socket(ctx context.Context, address string, h ingest.Handler) (received bool, err error) {
	dialer := websocket.Dialer{Proxy: http.ProxyFromEnvironment, HandshakeTimeout: x.c.ConnectTimeout, ReadBufferSize: 64 << 10}
	dialCtx, cancel := context.WithTimeout(ctx, x.c.ConnectTimeout)
	conn, response, err := dialer.DialContext(dialCtx, address, nil)
	cancel()
	if err != nil {
		if response != nil {
			err = fmt.Errorf("%w (HTTP status %s)", err, response.Status)
		}
		return false, fmt.Errorf("connecting to %s: %w", x.c.URL, err)
	}
	x.connected()

	// One goroutine writes: subscriptions, then pings. This one reads. Either ends the other by
	// closing the connection, and so does the end of ctx.
	ctx, cancel = context.WithCancel(ctx)
	var writer sync.WaitGroup
	defer writer.Wait()
	defer conn.Close()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	writeFailed := make(chan error, 1)
	writer.Go(func() {
		if err := x.write(ctx, conn); err != nil {
			writeFailed <- err
			conn.Close()
		}
	})
	received, err = x.read(conn, h)
	// A reader that found the connection closed did not find out why; the writer may have.
	if errors.Is(err, net.ErrClosed) {
		select {
		case err = <-writeFailed:
		default:
		}
	}
	return received, err
}

// write sends the subscriptions, then pings.
func (x *Client) write(ctx context.Context, conn *websocket.Conn) error {
	send := func(message any) error {
		conn.SetWriteDeadline(time.Now().Add(x.c.ConnectTimeout))
		if err := conn.WriteJSON(message); err != nil {
			return fmt.Errorf("subscribing: %w", err)
		}
		return nil
	}
	subscriptions := x.c.Subscriptions
	if x.c.Connections > 1 {
		if err := send(request{Type: "request_rrc_list"}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(x.c.ConnectTimeout):
			return errors.New("subscribing: the service did not say which collectors there are; with connections: 1 it need not")
		case collectors := <-x.collectors:
			subscriptions = share(subscriptions, collectors, x.part, x.c.Connections)
		}
	}
	tick := time.NewTicker(subscribeSpacing)
	defer tick.Stop()
	for _, s := range subscriptions {
		if err := send(request{"ris_subscribe", s.withRaw()}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	tick.Reset(x.c.PingInterval)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(x.c.PingInterval)); err != nil {
				return fmt.Errorf("ping: %w", err)
			}
		}
	}
}

// request is a message to the service.
type request struct {
	Type string `json:"type"`
	Data any    `json:"data"`
}

var errDead = errors.New("no answer to pings")

func (x *Client) read(conn *websocket.Conn, h ingest.Handler) (received bool, err error) {
	conn.SetReadLimit(int64(x.c.MaxMessageBytes))
	var (
		buffer   bytes.Buffer
		waiting  = time.Now() // since when no message came
		deadline time.Time
	)
	// Any sign of life puts off the one deadline, a message also the other.
	extend := func(now time.Time) {
		d := now.Add(3 * x.c.PingInterval)
		if stall := waiting.Add(x.c.StallAfter); x.c.StallAfter > 0 && stall.Before(d) {
			d = stall
		}
		if d.Sub(deadline).Abs() > 10*time.Millisecond { // setting it for every message would cost more than reading one
			deadline = d
			conn.SetReadDeadline(d)
		}
	}
	conn.SetPongHandler(func(string) error { extend(time.Now()); return nil })
	for {
		extend(time.Now())
		_, r, err := conn.NextReader()
		if err == nil {
			buffer.Reset()
			_, err = buffer.ReadFrom(r)
		}
		if err != nil {
			var timeout net.Error
			switch now := time.Now(); {
			case errors.Is(err, websocket.ErrReadLimit):
				x.received(now, nil, nil, malformed("too_long", "a message has more than %d octets", x.c.MaxMessageBytes))
			case !errors.As(err, &timeout) || !timeout.Timeout():
			case x.c.StallAfter > 0 && now.Sub(waiting) >= x.c.StallAfter-20*time.Millisecond:
				err = x.errStalled()
			default:
				err = errDead
			}
			return received, err
		}
		received = true
		if err := x.message(buffer.Bytes(), h); err != nil {
			return received, err
		}
		waiting = time.Now() // after h, which may have kept us waiting
	}
}
