// Package alert tells people about incidents.
//
// A [Router] decides, from an event alone, which receivers hear of it, and writes the messages.
// They are committed to the store's outbox together with the event, so that no crash can separate
// the two. A [Notifier] then sends what is in the outbox until the receiver accepts or the message
// expires. Each message has an idempotency key that is a function of receiver and event: it is sent
// at least once, and a receiver that remembers keys acts once.
//
// Receivers do not know of each other: each has its own queue and its own few connections, so one
// that hangs delays nobody else. What one receiver hears of one incident it hears in order: a
// message waits until those before it were accepted or given up.
package alert

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/routevigil/routevigil/alert/channel"
	"github.com/routevigil/routevigil/alert/webhook"
	"github.com/routevigil/routevigil/detect/incident"
)

// Configuration says who is told of what.
type Configuration struct {
	Webhooks []Webhook `yaml:"webhooks" doc:"Receivers of signed HTTP messages."`
}

// Webhook is one receiver of signed HTTP messages. A filter that is empty lets everything pass; all
// filters must pass. Zero durations and an empty min_severity stand for their defaults.
type Webhook struct {
	Name        string            `yaml:"name" doc:"Name of the receiver, unique; it is part of the idempotency key, so a receiver that is renamed is a new one."`
	URL         channel.URL       `yaml:"url" config:"env" doc:"Where messages are posted, http or https; only its host is ever shown."`
	Secret      channel.Secret    `yaml:"secret" config:"secret" doc:"Signs messages as in Standard Webhooks: whsec_ and base64, or any text; without it they are not signed."`
	SecretFile  string            `yaml:"secret_file" doc:"File that holds the secret, instead of secret; read at the start."`
	MinSeverity incident.Severity `yaml:"min_severity" doc:"Lowest severity told: info, low, medium, high or critical; medium when empty. Who was told of an incident also hears that it declined or ended."`
	Kinds       []incident.Kind   `yaml:"kinds" doc:"Only incidents of these kinds; empty means all."`
	ASNs        []uint32          `yaml:"asns" doc:"Only incidents in which one of these ASes is offender, accomplice or victim; empty means all."`
	Prefixes    []netip.Prefix    `yaml:"prefixes" doc:"Only incidents that affect one of these prefixes, a part of one, or what covers one; empty means all."`
	Watches     []string          `yaml:"watches" doc:"Only incidents that concern one of these watches, by name; empty means all."`
	Timeout     time.Duration     `yaml:"timeout" doc:"How long one attempt may take, at most 1m; 10s when zero."`
	MaxAge      time.Duration     `yaml:"max_age" doc:"How long a message is tried before it is given up; 24h when zero."`
}

const (
	defaultSeverity = incident.Medium
	defaultTimeout  = 10 * time.Second
	defaultMaxAge   = 24 * time.Hour
	maxTimeout      = time.Minute
)

// DefaultConfiguration tells nobody.
func DefaultConfiguration() Configuration { return Configuration{} }

var receiverName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// Validate reports every setting that cannot work. It shows no secret, and reads no file.
func (c Configuration) Validate() error {
	var errs []error
	seen := map[string]int{}
	for i, w := range c.Webhooks {
		fault := func(field, format string, args ...any) {
			errs = append(errs, fmt.Errorf("webhooks[%d].%s: %s", i, field, fmt.Sprintf(format, args...)))
		}
		if !receiverName.MatchString(w.Name) {
			fault("name", "must be 1 to 63 letters, digits, dots, dashes or underscores, is %q", w.Name)
		} else if first, ok := seen[w.Name]; ok {
			fault("name", "%q is the name of webhooks[%d] already", w.Name, first)
		} else {
			seen[w.Name] = i
		}
		if _, err := webhook.ParseURL(w.URL); err != nil {
			fault("url", "%s", strings.TrimPrefix(err.Error(), "url: "))
		}
		if err := webhook.CheckSecret(w.Secret); err != nil {
			fault("secret", "%s", strings.TrimPrefix(err.Error(), "secret: "))
		}
		if w.Secret != "" && w.SecretFile != "" {
			fault("secret_file", "must be empty where secret is set")
		}
		if w.MinSeverity != "" && w.MinSeverity.Rank() < 0 {
			fault("min_severity", "must be one of info, low, medium, high, critical, is %q", w.MinSeverity)
		}
		for j, k := range w.Kinds {
			if !slices.Contains(incident.Kinds, k) {
				fault(fmt.Sprintf("kinds[%d]", j), "is no kind of incident: %q", k)
			}
		}
		for j, a := range w.ASNs {
			if a == 0 {
				fault(fmt.Sprintf("asns[%d]", j), "must be an AS number from 1 to 4294967295, is 0")
			}
		}
		for j, p := range w.Prefixes {
			if !p.IsValid() || p != p.Masked() {
				fault(fmt.Sprintf("prefixes[%d]", j), "must be a prefix without bits beyond its length, such as %s, is %s", p.Masked(), p)
			}
		}
		if w.Timeout < 0 || w.Timeout > maxTimeout {
			fault("timeout", "must be positive and at most %s, is %s", maxTimeout, w.Timeout)
		}
		if w.MaxAge < 0 {
			fault("max_age", "must be positive, is %s", w.MaxAge)
		}
	}
	return errors.Join(errs...)
}

// Filter says which incidents a receiver hears of. Empty fields let everything pass.
type Filter struct {
	MinSeverity incident.Severity
	Kinds       []incident.Kind
	ASNs        []uint32
	Prefixes    []netip.Prefix
	Watches     []string // by name
}

// Receiver is one addressee.
type Receiver struct {
	Name    string
	Filter  Filter
	MaxAge  time.Duration
	Channel channel.Channel
}

// Receivers makes the receivers of a valid configuration; version is the program's. It reads the
// secret files.
func Receivers(c Configuration, version string) ([]Receiver, error) {
	var receivers []Receiver
	var errs []error
	for i, w := range c.Webhooks {
		ch, err := webhook.New(webhook.Configuration{Receiver: w.Name, URL: w.URL, Secret: w.Secret, SecretFile: w.SecretFile,
			Timeout: cmp.Or(w.Timeout, defaultTimeout), Version: version})
		if err != nil {
			errs = append(errs, fmt.Errorf("webhooks[%d].%w", i, err))
			continue
		}
		receivers = append(receivers, Receiver{Name: w.Name, MaxAge: cmp.Or(w.MaxAge, defaultMaxAge), Channel: ch,
			Filter: Filter{MinSeverity: cmp.Or(w.MinSeverity, defaultSeverity), Kinds: w.Kinds, ASNs: w.ASNs, Prefixes: w.Prefixes, Watches: w.Watches}})
	}
	return receivers, errors.Join(errs...)
}
