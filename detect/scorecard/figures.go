package scorecard

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
)

// Half names a part of the cases.
type Half string

const (
	Both    Half = "both"
	Tuning  Half = "tuning"
	Judging Half = "judging"
)

// InJudging tells from what identifies an event whether it belongs to the judging half. Rows that tell of one event must have
// one name, so that nothing is judged on what it was tuned on.
func InJudging(event string) bool {
	h := fnv.New32a()
	h.Write([]byte(event))
	return h.Sum32()>>16&1 == 1
}

// Figures are what a set of results comes to.
type Figures struct {
	Group string        `json:"group"`
	Kind  incident.Kind `json:"kind,omitempty"` // of labels and of incidents; empty: all
	Half  Half          `json:"half"`

	Cases   int `json:"cases"`
	Updates int `json:"updates"`

	Labels        int `json:"labels"` // of what was wrong
	Unseen        int `json:"unseen"` // by as many independent peers as must agree; the next four are of the others
	Found         int `json:"found"`
	RightKind     int `json:"right_kind"`
	RightOffender int `json:"right_offender"`
	CalledAttack  int `json:"mistakes_called_attacks"`

	Alarms      int `json:"incidents"`
	Duplicates  int `json:"duplicates"`
	False       int `json:"false_alarms"`
	FalseMedium int `json:"false_alarms_medium"` // at severity medium or above; so for the next
	FalseHigh   int `json:"false_alarms_high"`

	// At severity medium and above: of labels of kinds that can be severe, those found so; and of incidents.
	WakingLabels int `json:"labels_medium"`
	WakingFound  int `json:"found_medium"`
	WakingAlarms int `json:"incidents_medium"` // but for duplicates

	SinceEnough Delays `json:"delay_after_enough_peers"`
	SinceFirst  Delays `json:"delay_after_first_update"`
}

// Delays of detection, in seconds of event time.
type Delays struct {
	Median float64 `json:"median_s"`
	P95    float64 `json:"p95_s"`
	Most   float64 `json:"max_s"`
}

func delays(ds []time.Duration) Delays {
	if len(ds) == 0 {
		return Delays{}
	}
	slices.Sort(ds)
	at := func(q float64) float64 { return ds[int(math.Ceil(q*float64(len(ds))))-1].Seconds() }
	return Delays{at(0.5), at(0.95), at(1)}
}

func share(n, of int) float64 {
	if of == 0 {
		return math.NaN()
	}
	return float64(n) / float64(of)
}

// Recall and the next are NaN where nothing was there to find.
func (f *Figures) Recall() float64 { return share(f.Found, f.Labels-f.Unseen) }

// Precision is the share of incidents, duplicates aside, that were true.
func (f *Figures) Precision() float64 {
	return share(f.Alarms-f.Duplicates-f.False, f.Alarms-f.Duplicates)
}

// RecallMedium is the share of what can be severe that was found at severity medium or above.
func (f *Figures) RecallMedium() float64 { return share(f.WakingFound, f.WakingLabels) }

// PrecisionMedium is Precision at severity medium or above.
func (f *Figures) PrecisionMedium() float64 {
	return share(f.WakingAlarms-f.FalseMedium, f.WakingAlarms)
}

// FalsePer100k is the number of false alarms per 100,000 updates.
func (f *Figures) FalsePer100k() float64 { return share(f.False*100_000, f.Updates) }

// FalseMediumPer100k is the same at severity medium and above.
func (f *Figures) FalseMediumPer100k() float64 { return share(f.FalseMedium*100_000, f.Updates) }

// Card is the whole scorecard.
type Card struct {
	Groups      []Figures     `json:"groups"` // of each group: both halves, then one by one
	Kinds       []Figures     `json:"kinds"`  // of each kind in each group, both halves together
	Calibration []Calibration `json:"calibration"`
	Thresholds  []Threshold   `json:"thresholds"`
	Misses      []Line        `json:"misses"`
	FalseAlarms []Line        `json:"false_alarms"`
	Duplicates  []Line        `json:"duplicates"`
}

// Line tells of one thing that went wrong.
type Line struct {
	Group string `json:"group"`
	Case  string `json:"case"`
	Half  Half   `json:"half"`
	Text  string `json:"text"`
}

func halfOf(judging bool) Half {
	if judging {
		return Judging
	}
	return Tuning
}

// Tally makes the scorecard of some results.
func Tally(rs []Result) *Card {
	c := &Card{}
	for _, group := range groups(rs) {
		for _, half := range []Half{Both, Tuning, Judging} {
			in := slices.DeleteFunc(slices.Clone(rs), func(r Result) bool { return r.Group != group || half != Both && halfOf(r.Judging) != half })
			if len(in) > 0 {
				c.Groups = append(c.Groups, figures(in, group, "", half))
			}
		}
		in := slices.DeleteFunc(slices.Clone(rs), func(r Result) bool { return r.Group != group })
		for _, k := range kinds(in) {
			c.Kinds = append(c.Kinds, figures(in, group, k, Both))
		}
	}
	for _, half := range []Half{Both, Tuning, Judging} {
		c.Calibration = append(c.Calibration, calibrate(rs, half))
	}
	c.Thresholds = thresholds(c.Groups)
	for _, r := range rs {
		line := func(format string, args ...any) Line {
			return Line{r.Group, r.Name, halfOf(r.Judging), fmt.Sprintf(format, args...)}
		}
		for _, l := range r.Labels {
			what := fmt.Sprintf("%s by %v", l.Kind, l.Offenders)
			switch {
			case !l.asked():
			case !l.Seen && !l.Found:
				c.Misses = append(c.Misses, line("%s: too few peers saw it", what))
			case !l.Found:
				c.Misses = append(c.Misses, line("%s: not found", what))
			case !l.RightKind || !l.RightOffender:
				c.Misses = append(c.Misses, line("%s: found as %s", what, l.Title))
			}
		}
		for _, a := range r.Alarms {
			text := fmt.Sprintf("%s, %s, %.2f: %s", a.Kind, a.PeakSeverity, a.Confidence, a.Title)
			switch {
			case a.False && a.Benign != "":
				c.FalseAlarms = append(c.FalseAlarms, line("%s (in truth: %s)", text, a.Benign))
			case a.False:
				c.FalseAlarms = append(c.FalseAlarms, line("%s", text))
			case a.Duplicate:
				c.Duplicates = append(c.Duplicates, line("%s", text))
			}
		}
	}
	return c
}

func groups(rs []Result) []string {
	var names []string
	for _, r := range rs {
		if !slices.Contains(names, r.Group) {
			names = append(names, r.Group)
		}
	}
	return names
}

// kinds lists those of labels and incidents, in the order of the contract.
func kinds(rs []Result) []incident.Kind {
	have := map[incident.Kind]bool{}
	for _, r := range rs {
		for _, l := range r.Labels {
			if l.asked() {
				have[l.Kind] = true
			}
		}
		for _, a := range r.Alarms {
			have[a.Kind] = true
		}
	}
	return slices.SortedFunc(maps.Keys(have), func(a, b incident.Kind) int {
		return cmp.Compare(slices.Index(incident.Kinds, a), slices.Index(incident.Kinds, b))
	})
}

func figures(rs []Result, group string, kind incident.Kind, half Half) Figures {
	f := Figures{Group: group, Kind: kind, Half: half}
	var enough, first []time.Duration
	for _, r := range rs {
		f.Cases++
		f.Updates += r.Updates
		for _, l := range r.Labels {
			if !l.asked() || kind != "" && l.Kind != kind {
				continue
			}
			f.Labels++
			if !l.Seen {
				f.Unseen++
				continue
			}
			if wakes(l.Kind) {
				f.WakingLabels++
				add(&f.WakingFound, l.Found && l.Severity.Rank() >= incident.Medium.Rank())
			}
			add(&f.Found, l.Found)
			add(&f.RightKind, l.RightKind)
			add(&f.RightOffender, l.RightOffender)
			add(&f.CalledAttack, l.CalledAttack)
			if l.Found && (kind != "" || !waits(l.Kind)) {
				enough, first = append(enough, l.SinceEnough), append(first, l.SinceFirst)
			}
		}
		for _, a := range r.Alarms {
			if kind != "" && a.Kind != kind {
				continue
			}
			medium := a.PeakSeverity.Rank() >= incident.Medium.Rank()
			f.Alarms++
			add(&f.Duplicates, a.Duplicate)
			add(&f.WakingAlarms, medium && !a.Duplicate)
			add(&f.False, a.False)
			add(&f.FalseMedium, a.False && medium)
			add(&f.FalseHigh, a.False && a.PeakSeverity.Rank() >= incident.High.Rank())
		}
	}
	f.SinceEnough, f.SinceFirst = delays(enough), delays(first)
	return f
}

// waits reports kinds that are told only after they have lasted, which makes no delay of all.
func waits(k incident.Kind) bool { return k == incident.VisibilityLoss }

func add(n *int, also bool) {
	if also {
		*n++
	}
}

// Calibration tells how far confidence is a probability: of the accusations of some confidence, that share should be true.
type Calibration struct {
	Half        Half    `json:"half"`
	Accusations int     `json:"accusations"`
	Brier       float64 `json:"brier"`          // the mean squared difference of confidence and truth: 0 is perfect
	OfShare     float64 `json:"brier_of_share"` // what always saying the share of the true would have
	RaisedBrier float64 `json:"brier_raised"`   // of incidents alone
	Bins        [10]Bin `json:"bins"`
}

// Bin holds the accusations of one tenth of confidence, raised or not.
type Bin struct {
	Number     int     `json:"number"`
	True       int     `json:"true"`
	Confidence float64 `json:"mean_confidence"`
}

func calibrate(rs []Result, half Half) Calibration {
	c := Calibration{Half: half}
	trues, raised := 0, 0
	for _, r := range rs {
		if half != Both && halfOf(r.Judging) != half {
			continue
		}
		for _, j := range r.Judgments {
			p, y := j.Confidence(), 0.0
			b := &c.Bins[min(9, int(p*10))]
			if j.True {
				y = 1
				b.True++
				trues++
			}
			b.Number++
			b.Confidence += p
			c.Accusations++
			c.Brier += (p - y) * (p - y)
			if j.Raised {
				raised++
				c.RaisedBrier += (p - y) * (p - y)
			}
		}
	}
	for i := range c.Bins {
		c.Bins[i].Confidence /= float64(max(1, c.Bins[i].Number))
	}
	n := float64(max(1, c.Accusations))
	s := float64(trues) / n
	c.Brier, c.OfShare, c.RaisedBrier = c.Brier/n, s*(1-s), c.RaisedBrier/float64(max(1, raised))
	return c
}

// The groups of cases.
const (
	RealEvents = "real events"
	Scenarios  = "scenarios"
	Simulated  = "simulated"
	Quiet      = "quiet files"
)

// Threshold is a figure to reach.
type Threshold struct {
	Group   string  `json:"group"`
	Figure  string  `json:"figure"`
	Want    float64 `json:"want"`
	AtMost  bool    `json:"at_most"` // Want is the most, and otherwise the least
	Have    float64 `json:"have"`
	Reached bool    `json:"reached"`
}

// thresholds checks what the detector is meant to reach, on the groups that were played. What cannot be told, because nothing was
// there to find, is left out.
func thresholds(gs []Figures) []Threshold {
	var ts []Threshold
	check := func(group, figure string, want float64, atMost bool, have float64) {
		if !math.IsNaN(have) {
			ts = append(ts, Threshold{group, figure, want, atMost, have, have >= want && !atMost || have <= want && atMost})
		}
	}
	for _, f := range gs {
		name := f.Group
		if f.Half != Both {
			name += ", " + string(f.Half) + " half"
		}
		seen := f.Labels - f.Unseen
		switch f.Group {
		case RealEvents:
			if f.Half == Both {
				check(name, "found", 1, false, f.Recall())
				check(name, "right kind", 0.80, false, share(f.RightKind, seen))
				check(name, "right offender", 0.85, false, share(f.RightOffender, seen))
			}
		case Simulated:
			if f.Half == Judging {
				check(name, "recall at severity medium and above", 0.98, false, f.RecallMedium())
				check(name, "precision at severity medium and above", 0.98, false, f.PrecisionMedium())
			}
		case Quiet:
			if f.Half == Both {
				check(name, "false alarms at severity high and above", 0, true, float64(f.FalseHigh))
				check(name, "false alarms at severity medium and above, per 100,000 updates", 1, true, f.FalseMediumPer100k())
			}
		}
		if f.Half == Both && f.Found > 0 {
			check(name, "delay after enough peers, 95 of 100, seconds", 1, true, f.SinceEnough.P95)
		}
	}
	return ts
}
