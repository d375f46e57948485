package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/routevigil/routevigil/alert/channel"
)

// The headers of Standard Webhooks.
const (
	headerID        = "Webhook-Id"
	headerTimestamp = "Webhook-Timestamp"
	headerSignature = "Webhook-Signature"

	secretPrefix    = "whsec_"
	signatureScheme = "v1,"
)

// tolerance is how far a message's timestamp may be from the receiver's clock.
const tolerance = 5 * time.Minute

// parseSecret gives the key that a secret stands for: "whsec_" and base64 of it, or the key itself.
func parseSecret(s channel.Secret) ([]byte, error) {
	encoded, ok := strings.CutPrefix(string(s), secretPrefix)
	if !ok {
		return []byte(s), nil
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(key) == 0 {
		return nil, errors.New("secret: must be base64 after whsec_; make one with: echo whsec_$(openssl rand -base64 32)")
	}
	return key, nil
}

func signature(key []byte, id, timestamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "."))
	mac.Write(body)
	return mac.Sum(nil)
}

// sign adds the headers of Standard Webhooks; without a key all but the signature.
func sign(h http.Header, key []byte, id string, now time.Time, body []byte) {
	timestamp := strconv.FormatInt(now.Unix(), 10)
	h.Set(headerID, id)
	h.Set(headerTimestamp, timestamp)
	if key != nil {
		h.Set(headerSignature, signatureScheme+base64.StdEncoding.EncodeToString(signature(key, id, timestamp, body)))
	}
}

// Verify tells a receiver whether a message comes from who knows the secret and is at most five
// minutes old; any other message gives an error. body is the request's, as it came. A receiver
// should then look at the webhook-id header: a message that it has handled before has the same one.
func Verify(secret string, h http.Header, body []byte) error {
	return verify(secret, h, body, time.Now())
}

func verify(secret string, h http.Header, body []byte, now time.Time) error {
	if secret == "" {
		return errors.New("verify a webhook: no secret given")
	}
	key, err := parseSecret(channel.Secret(secret))
	if err != nil {
		return fmt.Errorf("verify a webhook: %w", err)
	}
	id, timestamp := h.Get(headerID), h.Get(headerTimestamp)
	if id == "" || timestamp == "" || h.Get(headerSignature) == "" {
		return errors.New("verify a webhook: it lacks a webhook-id, webhook-timestamp or webhook-signature header")
	}
	seconds, err := strconv.ParseInt(timestamp, 10, 64)
	if err != nil {
		return errors.New("verify a webhook: its timestamp is no number of seconds")
	}
	if age := now.Unix() - seconds; age > int64(tolerance.Seconds()) || age < -int64(tolerance.Seconds()) {
		return fmt.Errorf("verify a webhook: it was sent %d seconds ago by its timestamp, more than %s from now: it is a replay, or a clock is wrong", age, tolerance)
	}
	want := signature(key, id, timestamp, body)
	for s := range strings.FieldsSeq(h.Get(headerSignature)) {
		encoded, ok := strings.CutPrefix(s, signatureScheme)
		if !ok {
			continue // of a scheme that is not ours
		}
		if got, err := base64.StdEncoding.DecodeString(encoded); err == nil && hmac.Equal(got, want) {
			return nil
		}
	}
	return errors.New("verify a webhook: no signature matches: the secret is another one, or the message was changed on its way")
}

// CheckSecret tells whether messages can be signed with s. Its error does not show it.
func CheckSecret(s channel.Secret) error {
	_, err := parseSecret(s)
	return err
}
