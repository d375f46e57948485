// Package webhook tells receivers by HTTP POST.
//
// A message is signed as Standard Webhooks describes (webhook-id, webhook-timestamp and
// webhook-signature headers), so that its receiver knows who sent it and that it is no replay;
// [Verify] does the receiver's part. webhook-id is the same however often a message is sent: a
// receiver that remembers it acts once.
//
// The body has the shape of Prometheus Alertmanager's webhook, version 4, with one alert, so
// whatever understands Alertmanager understands routevigil; "status" is "firing" while the incident
// is open and "resolved" when it has ended. The whole event, with the incident as it stood after
// it, is under "routevigil".
//
//	{
//	  "version": "4", "groupKey": "{}:{incident=\"inc_7Q2M…\"}", "truncatedAlerts": 0,
//	  "status": "firing", "receiver": "noc",
//	  "groupLabels": {"incident": "inc_7Q2M…"},
//	  "commonLabels": {"alertname": "subprefix_hijack", "incident": "inc_7Q2M…", "severity": "critical",
//	                   "offender": "AS17557", "victim": "AS36561", "prefix": "208.65.153.0/24"},
//	  "commonAnnotations": {"summary": "AS17557 announces …", "description": "…"},
//	  "externalURL": "",
//	  "alerts": [{"status": "firing", "labels": {…}, "annotations": {…}, "startsAt": "2008-02-24T18:47:57Z",
//	              "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "", "fingerprint": "9f2c…"}],
//	  "routevigil": {"sequence": 4812, "time": "…", "change": "opened", "incident": {…}}
//	}
//
// Redirects are not followed: they would take the message, and what it says about a network in
// trouble, to an address that nobody configured.
package webhook

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/routevigil/routevigil/alert/channel"
)

const (
	maxReceipt   = 200             // bytes of an answer's body that are kept
	maxHeader    = 64 << 10        // bytes of an answer's header
	minPrivate   = 4               // bytes: what is shorter is no secret, and masking it would hit ordinary words
	bodyPatience = 2 * time.Second // for an answer's body: the status alone decides
)

// Configuration of one receiver.
type Configuration struct {
	Receiver   string // its name, told in the body
	URL        channel.URL
	Secret     channel.Secret // signs; "" leaves messages unsigned
	SecretFile string         // holds the secret, where Secret is ""
	Timeout    time.Duration  // of one attempt
	Version    string         // of the program, told in User-Agent
}

// Channel sends to one receiver.
type Channel struct {
	receiver  string
	target    *url.URL // without user information
	user      *url.Userinfo
	shown     string // target as it may be shown
	key       []byte // nil: unsigned
	timeout   time.Duration
	agent     string
	transport *http.Transport
	private   []string // what must not be told, the longest first
	redact    *strings.Replacer
}

// New reads the secret file, if there is one. No message of its errors holds a secret.
func New(c Configuration) (*Channel, error) {
	target, err := ParseURL(c.URL)
	if err != nil {
		return nil, err
	}
	secret := c.Secret
	if secret == "" && c.SecretFile != "" {
		text, err := os.ReadFile(c.SecretFile)
		if err != nil {
			return nil, fmt.Errorf("secret_file: %w", err)
		}
		if secret = channel.Secret(strings.TrimSpace(string(text))); secret == "" {
			return nil, fmt.Errorf("secret_file: %s is empty; write the secret into it", c.SecretFile)
		}
	}
	w := &Channel{
		receiver: c.Receiver, target: target, user: target.User, shown: c.URL.String(), timeout: c.Timeout,
		agent: strings.TrimSuffix("routevigil/"+c.Version, "/"),
		transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: c.Timeout}).DialContext,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    4,
			IdleConnTimeout:        time.Minute,
			TLSHandshakeTimeout:    c.Timeout,
			MaxResponseHeaderBytes: maxHeader,
		},
		private: private(target, secret),
	}
	var pairs []string
	for _, p := range w.private {
		pairs = append(pairs, p, channel.Secret(p).String())
	}
	w.redact = strings.NewReplacer(pairs...)
	if secret != "" {
		if w.key, err = parseSecret(secret); err != nil {
			return nil, err
		}
	}
	target.User = nil
	return w, nil
}

// ParseURL checks a receiver's address. Its errors do not show it.
func ParseURL(u channel.URL) (*url.URL, error) {
	p, err := url.Parse(string(u))
	if err != nil || p.Scheme != "http" && p.Scheme != "https" || p.Hostname() == "" || p.Fragment != "" {
		return nil, errors.New("url: must be http://host/… or https://host/…, without a fragment")
	}
	return p, nil
}

// private lists everything of the address and the secret that a receiver may echo in an answer. A
// replacer takes the first that matches, so the longest come first, lest one leave the rest of
// another.
func private(target *url.URL, secret channel.Secret) []string {
	all := []string{string(secret), strings.TrimPrefix(string(secret), secretPrefix), target.RawQuery}
	for _, values := range target.Query() {
		for _, v := range values {
			all = append(all, v, url.QueryEscape(v))
		}
	}
	for segment := range strings.SplitSeq(target.Path, "/") {
		if len(segment) >= 16 { // no word, but perhaps a token
			all = append(all, segment)
		}
	}
	if u := target.User; u != nil {
		password, _ := u.Password()
		all = append(all, u.String(), u.Username(), password,
			base64.RawStdEncoding.EncodeToString([]byte(u.Username()+":"+password)))
	}
	all = slices.DeleteFunc(all, func(p string) bool { return len(p) < minPrivate })
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) })
	return all
}

// Send implements [channel.Channel].
//
// 2xx is accepted. 408, 425, 429, every 5xx and what is no answer at all may pass; 410 is final;
// any other answer is a refusal, redirects included.
func (w *Channel) Send(ctx context.Context, key string, body []byte) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.target.String(), bytes.NewReader(body))
	if err != nil {
		return "", &channel.Failure{Kind: channel.Refused, Reason: "the url cannot be used"}
	}
	if w.user != nil {
		password, _ := w.user.Password()
		r.SetBasicAuth(w.user.Username(), password)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", w.agent)
	sign(r.Header, w.key, key, time.Now(), body)

	// The transport itself: a client would follow redirects, and show the URL in its errors.
	response, err := w.transport.RoundTrip(r)
	if err != nil {
		return "", &channel.Failure{Reason: w.clean(fmt.Sprintf("cannot reach %s: %v", w.shown, w.cause(ctx, err)))}
	}
	stopWaiting := time.AfterFunc(bodyPatience, cancel)
	start := make([]byte, maxReceipt)
	n, _ := io.ReadFull(response.Body, start) // the status has decided already
	stopWaiting.Stop()
	response.Body.Close()
	receipt := response.Status
	if n > 0 {
		receipt += ": " + w.whole(string(start[:n]))
	}
	receipt = w.clean(receipt)

	failure := &channel.Failure{Kind: channel.Refused, Receipt: receipt, Reason: "the receiver answered " + receipt}
	switch code := response.StatusCode; {
	case code >= 200 && code < 300:
		return receipt, nil
	case code >= 300 && code < 400:
		failure.Reason = w.clean(fmt.Sprintf("%s redirects (%s); redirects are not followed: set url to the address it leads to", w.shown, response.Status))
	case code == http.StatusGone:
		failure.Kind = channel.Gone
	case code == http.StatusRequestTimeout, code == http.StatusTooEarly, code == http.StatusTooManyRequests, code >= 500:
		failure.Kind = channel.Transient
		failure.RetryAfter = retryAfter(response.Header.Get("Retry-After"), time.Now())
	}
	return "", failure
}

// whole cuts from the end of a text, which may itself have been cut, what may be the beginning of a
// secret: masking finds only whole ones.
func (w *Channel) whole(text string) string {
	for _, p := range w.private {
		for n := min(len(p), len(text)); n >= minPrivate; n-- {
			if before, ok := strings.CutSuffix(text, p[:n]); ok {
				return before
			}
		}
	}
	return text
}

// cause says what an attempt without an answer met.
func (w *Channel) cause(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %s", w.timeout)
	}
	return err
}

// clean makes text printable, one line, short, and free of secrets.
func (w *Channel) clean(s string) string {
	s = w.redact.Replace(s)
	s = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.Join(strings.Fields(s), " ")
	const limit = 400
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}

// retryAfter reads a Retry-After header (RFC 9110 §10.2.3), 0 when there is none that makes sense.
func retryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// Close implements [channel.Channel].
func (w *Channel) Close() { w.transport.CloseIdleConnections() }
