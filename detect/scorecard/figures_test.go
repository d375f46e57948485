package scorecard

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/routevigil/routevigil/detect/incident"
)

// judged is an accusation whose weights sum to that of a probability.
func judged(p float64, raised, true bool) JudgmentResult {
	logit := math.Log(p / (1 - p))
	return JudgmentResult{Judgment{Evidence: []incident.Evidence{{Weight: logit + 1}, {Weight: -1}}, Raised: raised}, true}
}

func TestCalibration(t *testing.T) {
	rs := []Result{
		{Judgments: []JudgmentResult{judged(0.92, true, true), judged(0.94, true, false), judged(0.25, false, false)}},
		{Judging: true, Judgments: []JudgmentResult{judged(0.25, false, true)}},
	}
	near := func(name string, have, want float64) {
		t.Helper()
		if math.Abs(have-want) > 1e-9 {
			t.Errorf("%s: %v, want %v", name, have, want)
		}
	}
	c := calibrate(rs, Both)
	near("Brier score", c.Brier, (0.08*0.08+0.94*0.94+0.25*0.25+0.75*0.75)/4)
	near("Brier score of always saying a half", c.OfShare, 0.25)
	near("Brier score of incidents", c.RaisedBrier, (0.08*0.08+0.94*0.94)/2)
	if c.Accusations != 4 || c.Bins[9].Number != 2 || c.Bins[9].True != 1 || c.Bins[2].Number != 2 || c.Bins[2].True != 1 {
		t.Errorf("%+v", c)
	}
	near("mean confidence of the top", c.Bins[9].Confidence, 0.93)
	if c := calibrate(rs, Judging); c.Accusations != 1 || c.Bins[2].True != 1 {
		t.Errorf("judging half: %+v", c)
	}
	near("Brier score of the tuning half", calibrate(rs, Tuning).Brier, (0.08*0.08+0.94*0.94+0.25*0.25)/3)
	if c := calibrate([]Result{{Judgments: []JudgmentResult{{Judgment: Judgment{Evidence: []incident.Evidence{{Weight: 1000}}}, True: true}}}}, Both); c.Bins[9].Number != 1 || c.Brier != 0 {
		t.Errorf("certainty: %+v", c)
	}
}

// handCard is of one event that was found, and one quiet file in which something opened and 10 prefixes moved.
func handCard() *Card {
	event := scored([]Label{hijack()}, alarm(incident.OriginHijack, 666, "192.0.2.0/24", 115))
	event.Group, event.Name = RealEvents, "event_1"
	quiet := scored(nil, alarm(incident.ForgedPath, 9, "192.0.2.0/24", 20))
	quiet.Group, quiet.Name, quiet.Judging, quiet.Updates = Quiet, "quiet.gz", true, 10
	return Tally([]Result{event, quiet})
}

func TestTally(t *testing.T) {
	c := handCard()
	if len(c.Groups) != 4 { // each group: both halves, and the one that it has cases in
		t.Errorf("%d groups: %+v", len(c.Groups), c.Groups)
	}
	if len(c.FalseAlarms) != 1 || c.FalseAlarms[0].Case != "quiet.gz" || len(c.Misses) != 0 || len(c.Duplicates) != 0 {
		t.Errorf("false alarms %v, misses %v, duplicates %v", c.FalseAlarms, c.Misses, c.Duplicates)
	}
	missed := map[string]float64{}
	for _, th := range c.Missed() {
		missed[th.Figure] = th.Have
	}
	if len(missed) != 3 || missed["false alarms at severity high and above"] != 1 ||
		missed["false alarms at severity medium and above, per 100,000 updates"] != 10_000 || missed["delay after enough peers, 95 of 100, seconds"] != 5 {
		t.Errorf("not reached: %v", missed)
	}
}

func TestTextAndJSON(t *testing.T) {
	c := handCard()
	var text bytes.Buffer
	if err := c.Write(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"real events", "100.0%", "quiet.gz", "forged_path, high", "10000.00", "NOT REACHED", "False alarms: 1", "Duplicates: 0"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &text)
		}
	}
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Groups []struct {
			Group, Half      string
			Labels, Found    int
			FalseAlarmsHigh  int `json:"false_alarms_high"`
			DelaySinceEnough struct {
				P95 float64 `json:"p95_s"`
			} `json:"delay_after_enough_peers"`
		}
		FalseAlarms []Line `json:"false_alarms"`
	}
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	if g := back.Groups[0]; g.Group != RealEvents || g.Half != "both" || g.Labels != 1 || g.Found != 1 || g.DelaySinceEnough.P95 != 5 {
		t.Errorf("%+v", g)
	}
	if g := back.Groups[2]; g.Group != Quiet || g.FalseAlarmsHigh != 1 || len(back.FalseAlarms) != 1 {
		t.Errorf("%+v, %v", g, back.FalseAlarms)
	}
}
