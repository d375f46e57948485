package scorecard

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
)

// Grace is how long after the last update of what a label names it may still be found.
const Grace = time.Minute

// Result is a case held against its labels. The rules:
//
//   - An incident is explained by a label if it opened (or reopened) between the label's start and a [Grace] after its end and
//     either names an offender of the label or concerns a prefix that overlaps one of the label's. Its kind does not matter.
//     But one that accuses a victim of the label is not explained by it; only of a mistake may it be, since there the label's
//     victim is an AS that looks guilty.
//   - A label is found if it explains an incident. It is of the right kind if such an incident has the label's kind, and no other,
//     and names the right offender if the first offender of such an incident is one of the label's. Both are asked of the
//     best of them: the one with the right kind and offender, then kind, then offender, then with the most prefixes, then the
//     earliest.
//   - An incident that no label explains, or only a benign one, is a false alarm. A benign label that has a kind speaks of
//     incidents of that kind alone, and comes before labels that the incident does not fit in kind and offender.
//   - A label with a proof explains only incidents of its kind that name its offender and no prefix but its own. It is not asked for,
//     and so neither found nor missed.
//   - An incident that is explained but is the best of no label is a duplicate, and counts neither for precision nor against it.
//   - A label that fewer independent peers could see than must agree cannot be found; it is counted, but not in recall.
type Result struct {
	Group, Name string
	Judging     bool // belongs to the half that weights and thresholds are judged on, and not to that they are tuned on
	Updates     int
	Labels      []LabelResult
	Alarms      []AlarmResult
	Judgments   []JudgmentResult
}

// LabelResult is what came of a label.
type LabelResult struct {
	Label
	Seen                     bool // by enough peers
	Found                    bool
	RightKind, RightOffender bool
	Title                    string // of the best incident
	Severity                 incident.Severity
	CalledAttack             bool // a mistake, and some incident calls it an attack
	// The event time from the update with which enough peers had told of it, or from the first update, to the incident.
	SinceEnough, SinceFirst time.Duration
}

// AlarmResult is what came of an incident.
type AlarmResult struct {
	Alarm
	False     bool
	Benign    string // what explains a false alarm, if anything does
	Duplicate bool
}

// JudgmentResult says whether an accusation, raised or not, was true.
type JudgmentResult struct {
	Judgment
	True bool
}

// claim is what an incident and an accusation have in common.
type claim struct {
	kind      incident.Kind
	offenders []uint32
	prefixes  []netip.Prefix
	times     []ingest.Time
}

func (a *Alarm) claim() claim { return claim{a.Kind, a.Offenders, a.Touched, a.Times} }

func (j *Judgment) claim() claim {
	c := claim{j.Kind, nil, j.Prefixes, j.Times}
	if j.Offender != 0 {
		c.offenders = []uint32{j.Offender}
	}
	return c
}

func (l *Label) explains(c claim) bool {
	if (l.Benign != "" && l.Kind != "" || l.Proof != "") && l.Kind != c.kind {
		return false
	}
	if l.Proof != "" && (!l.rightOffender(c) || slices.ContainsFunc(c.prefixes, func(p netip.Prefix) bool { return !slices.Contains(l.Prefixes, p) })) {
		return false
	}
	if !slices.ContainsFunc(c.times, func(t ingest.Time) bool { return t >= l.Start && t <= l.End.Add(Grace) }) {
		return false
	}
	if len(c.offenders) > 0 && slices.Contains(l.Victims, c.offenders[0]) && !slices.Contains(l.Offenders, c.offenders[0]) && !mistake(l.Kind) {
		return false
	}
	if slices.ContainsFunc(c.offenders, func(o uint32) bool { return slices.Contains(l.Offenders, o) }) {
		return true
	}
	return l.touched(c) > 0
}

// touched counts the prefixes of a claim that overlap the label's.
func (l *Label) touched(c claim) int {
	n := 0
	for _, p := range c.prefixes {
		add(&n, slices.ContainsFunc(l.Prefixes, p.Overlaps))
	}
	return n
}

func (l *Label) rightOffender(c claim) bool {
	if len(l.Offenders) == 0 {
		return len(c.offenders) == 0
	}
	return len(c.offenders) > 0 && slices.Contains(l.Offenders, c.offenders[0])
}

// fit orders the ways in which an incident can be right about a label it is explained by.
func (l *Label) fit(c claim) int {
	n := 0
	if l.Kind == c.kind {
		n += 2
	}
	if l.rightOffender(c) {
		n++
	}
	return n
}

// explanation returns the label that explains a claim best, or -1.
func explanation(labels []Label, c claim) int {
	rank := func(l *Label) int {
		switch fit := l.fit(c); {
		case l.Proof != "", l.asked() && fit == 3:
			return 3
		case l.Benign != "" && l.Kind != "":
			return 2
		case l.asked():
			return 1
		}
		return 0
	}
	best := -1
	for i := range labels {
		if labels[i].explains(c) && (best < 0 || rank(&labels[i]) > rank(&labels[best])) {
			best = i
		}
	}
	return best
}

func mistake(k incident.Kind) bool {
	return k == incident.Prepend || k == incident.TypoASN || k == incident.TypoPrefix
}

func attack(k incident.Kind) bool {
	switch k {
	case incident.OriginHijack, incident.SubprefixHijack, incident.ForgedPath, incident.ForgedPathSubprefix, incident.Squatting:
		return true
	}
	return false
}

// wakes reports kinds that can be severe. The others never exceed medium, and are low as a rule: the contract says so.
func wakes(k incident.Kind) bool {
	switch k {
	case incident.BogonASN, incident.BogonPrefix, incident.PrivateASNLeak, incident.RPKIInvalid, incident.BlackholeLeak, incident.NewNeighbour,
		incident.NewPrefix, incident.PathPolicy:
		return false
	}
	return !mistake(k)
}

// Score holds what the detector said of a case against the case's labels.
func Score(p *Played) Result {
	labels := p.Case.Labels
	r := Result{Name: p.Case.Name, Updates: p.Updates, Labels: make([]LabelResult, len(labels))}
	best := map[int]bool{} // alarms
	for i := range labels {
		l := &labels[i]
		r.Labels[i] = LabelResult{Label: *l, Seen: l.Kind == incident.ROAChange || p.Witnessed[i].Peers >= p.Enough}
		if !l.asked() {
			continue
		}
		b := -1
		for n := range p.Alarms {
			a := &p.Alarms[n]
			c := a.claim()
			if !l.explains(c) || answered(labels, c) {
				continue
			}
			r.Labels[i].CalledAttack = r.Labels[i].CalledAttack || mistake(l.Kind) && attack(a.Kind)
			if b < 0 || cmp.Or(-cmp.Compare(l.fit(c), l.fit(p.Alarms[b].claim())), -cmp.Compare(l.touched(c), l.touched(p.Alarms[b].claim())), cmp.Compare(l.opened(a), l.opened(&p.Alarms[b]))) < 0 {
				b = n
			}
		}
		if b >= 0 {
			best[b] = true
			r.Labels[i].found(&p.Alarms[b], p.Witnessed[i])
		}
	}
	for n := range p.Alarms {
		a := AlarmResult{Alarm: p.Alarms[n]}
		switch i := explanation(labels, a.claim()); {
		case i < 0:
			a.False = true
		case labels[i].Benign != "":
			a.False, a.Benign = true, labels[i].Benign
		case labels[i].Proof != "": // and nothing else was asked for
		default:
			a.Duplicate = !best[n]
		}
		r.Alarms = append(r.Alarms, a)
	}
	for _, j := range p.Judgments {
		i := explanation(labels, j.claim())
		r.Judgments = append(r.Judgments, JudgmentResult{j, i >= 0 && labels[i].Benign == ""})
	}
	return r
}

// answered reports claims that a label explains which nobody is asked to find.
func answered(labels []Label, c claim) bool {
	i := explanation(labels, c)
	return i >= 0 && !labels[i].asked()
}

// opened is when an alarm first opened within a label's time.
func (l *Label) opened(a *Alarm) ingest.Time {
	for _, t := range a.Times {
		if t >= l.Start && t <= l.End.Add(Grace) {
			return t
		}
	}
	return a.Times[len(a.Times)-1]
}

func (l *LabelResult) found(a *Alarm, w Witnessed) {
	c := a.claim()
	l.Found, l.RightKind, l.RightOffender = true, l.Kind == a.Kind, l.rightOffender(c)
	l.Title, l.Severity = a.Title, a.PeakSeverity
	at := l.opened(a)
	l.SinceFirst = max(0, at.Sub(l.Start))
	l.SinceEnough = l.SinceFirst
	if l.Seen && w.Last != 0 {
		l.SinceEnough = max(0, at.Sub(w.Last))
	}
}

func compareJudgments(a, b *Judgment) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Offender, b.Offender))
}
