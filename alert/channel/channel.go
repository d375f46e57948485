// Package channel defines what every way of telling people must be. A channel turns an event into
// a message, which is kept in the outbox, and later makes attempts to send it. When to try again
// and when to give up is not its matter: it only says what kind of failure it met.
//
// What must not be seen by others is of type [Secret] or [URL], which print and encode themselves
// without it, so that no log line or configuration dump can leak it by accident.
package channel

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
)

// Channel sends messages to one receiver. Its methods are safe for concurrent use.
type Channel interface {
	// Body is what will be sent of e. The same event gives the same bytes.
	Body(e *incident.Event) ([]byte, error)
	// Send makes one attempt and returns within the channel's timeout. key is the message's
	// idempotency key, the same in every attempt. A nil error means that the receiver accepted;
	// receipt is then what it answered, printable and short. An error that is no [*Failure] counts as
	// one that may pass. Neither the receipt nor the error holds a secret.
	Send(ctx context.Context, key string, body []byte) (receipt string, err error)
	// Close lets go of what is kept between attempts.
	Close()
}

// Kind says what a failure means for further attempts.
type Kind int

const (
	Transient Kind = iota // may pass by itself: try again until the message expires
	Refused               // the receiver does not want it as it is: somebody must mend something, so try a few times
	Gone                  // never again
)

// Failure is an attempt that did not succeed.
type Failure struct {
	Kind       Kind
	Reason     string        // what happened and, where a person must act, the remedy
	Receipt    string        // what the receiver answered, if it did
	RetryAfter time.Duration // what the receiver asked for; 0 when it did not
}

func (f *Failure) Error() string { return f.Reason }

const masked = "<secret>"

// Secret is text that only the channel may see. Convert it to a string to use it.
type Secret string

// Format prints a mask for every verb, %#v and %d included.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return masked
}

// MarshalText masks it in JSON, YAML and text logs.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalYAML masks it in YAML.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// LogValue masks it in logs.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// URL is the address of a receiver. Tokens are put into every part of one but the host, so only
// scheme and host are ever printed. Convert it to a string to use it.
type URL string

func (u URL) String() string {
	if u == "" {
		return ""
	}
	p, err := url.Parse(string(u))
	if err != nil || p.Host == "" {
		return "<not a URL>"
	}
	return p.Scheme + "://" + p.Host + "/…"
}

// Format prints scheme and host for every verb.
func (u URL) Format(f fmt.State, _ rune) { io.WriteString(f, u.String()) }

// UnmarshalText takes any text; whoever uses the address checks it.
func (u *URL) UnmarshalText(text []byte) error {
	*u = URL(text)
	return nil
}

// MarshalText shows scheme and host in JSON, YAML and text logs.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// MarshalYAML shows scheme and host in YAML.
func (u URL) MarshalYAML() (any, error) { return u.String(), nil }

// LogValue shows scheme and host in logs.
func (u URL) LogValue() slog.Value { return slog.StringValue(u.String()) }
