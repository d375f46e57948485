package webhook

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
)

// message is the body of Alertmanager's webhook, version 4, and the event.
type message struct {
	Version           string            `json:"version"`
	GroupKey          string            `json:"groupKey"`
	TruncatedAlerts   int               `json:"truncatedAlerts"`
	Status            string            `json:"status"`
	Receiver          string            `json:"receiver"`
	GroupLabels       map[string]string `json:"groupLabels"`
	CommonLabels      map[string]string `json:"commonLabels"`
	CommonAnnotations map[string]string `json:"commonAnnotations"`
	ExternalURL       string            `json:"externalURL"`
	Alerts            []alert           `json:"alerts"`
	Event             *incident.Event   `json:"routevigil"`
}

type alert struct {
	Status       string            `json:"status"`
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     time.Time         `json:"startsAt"`
	EndsAt       time.Time         `json:"endsAt"` // zero while firing, as Alertmanager has it
	GeneratorURL string            `json:"generatorURL"`
	Fingerprint  string            `json:"fingerprint"` // of the incident: the same while it lasts, whatever its labels
}

// Body implements [channel.Channel].
func (w *Channel) Body(e *incident.Event) ([]byte, error) {
	i := &e.Incident
	labels := map[string]string{"alertname": string(i.Kind), "incident": i.ID, "severity": string(i.Severity)}
	if len(i.Offenders) > 0 {
		labels["offender"] = fmt.Sprintf("AS%d", i.Offenders[0])
	}
	if len(i.Victims) > 0 {
		labels["victim"] = fmt.Sprintf("AS%d", i.Victims[0])
	}
	if len(i.Prefixes) > 0 {
		labels["prefix"] = i.Prefixes[0].Prefix.String()
	}
	annotations := map[string]string{"summary": i.Title, "description": i.Explanation}
	sum := sha256.Sum256([]byte(i.ID))
	a := alert{Status: "firing", Labels: labels, Annotations: annotations, StartsAt: i.StartedAt, Fingerprint: hex.EncodeToString(sum[:8])}
	if i.Status == incident.Ended {
		a.Status = "resolved"
		a.EndsAt = e.Time
		if i.EndedAt != nil {
			a.EndsAt = *i.EndedAt
		}
	}
	return json.Marshal(message{
		Version: "4", GroupKey: fmt.Sprintf("{}:{incident=%q}", i.ID), Status: a.Status, Receiver: w.receiver,
		GroupLabels: map[string]string{"incident": i.ID}, CommonLabels: labels, CommonAnnotations: annotations,
		Alerts: []alert{a}, Event: e,
	})
}
