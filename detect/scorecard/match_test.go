package scorecard

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
)

// second is a time of day in the small cases of these tests.
func second(s int64) ingest.Time { return ingest.TimeOf(time.Unix(1_700_000_000+s, 0)) }

func block(s ...string) []netip.Prefix {
	var ps []netip.Prefix
	for _, x := range s {
		ps = append(ps, netip.MustParsePrefix(x))
	}
	return ps
}

func alarm(kind incident.Kind, offender uint32, prefix string, at ...int64) Alarm {
	a := Alarm{Incident: incident.Incident{Kind: kind, PeakSeverity: incident.High, Title: string(kind)}, Touched: block(prefix)}
	if offender != 0 {
		a.Offenders = []uint32{offender}
	}
	for _, s := range at {
		a.Times = append(a.Times, second(s))
	}
	return a
}

// hijack is a label: AS 666 announced 192.0.2.0/24 of AS 1 from second 100 to second 200.
func hijack() Label {
	return Label{Kind: incident.OriginHijack, Offenders: []uint32{666}, Victims: []uint32{1}, Prefixes: block("192.0.2.0/24"), Start: second(100), End: second(200)}
}

// scored is what comes of some alarms where three peers saw every label, the last of them at second 110.
func scored(labels []Label, alarms ...Alarm) Result {
	p := &Played{Case: &Case{Name: "by hand", Labels: labels}, Alarms: alarms, Enough: 3}
	for range labels {
		p.Witnessed = append(p.Witnessed, Witnessed{Peers: 3, Last: second(110)})
	}
	return Score(p)
}

func TestWhatCountsAsFound(t *testing.T) {
	type want struct{ found, kind, offender, false, duplicate bool }
	right, wrong := want{found: true, kind: true, offender: true}, want{false: true}
	for _, tt := range []struct {
		name  string
		alarm Alarm
		want  want
	}{
		{"in every way right", alarm(incident.OriginHijack, 666, "192.0.2.0/24", 115), right},
		{"as it began", alarm(incident.OriginHijack, 666, "192.0.2.0/24", 100), right},
		{"a moment before", alarm(incident.OriginHijack, 666, "192.0.2.0/24", 99), wrong},
		{"at the end of the grace", alarm(incident.OriginHijack, 666, "192.0.2.0/24", 260), right},
		{"after the grace", alarm(incident.OriginHijack, 666, "192.0.2.0/24", 261), wrong},
		{"opened before, reopened within", alarm(incident.OriginHijack, 666, "192.0.2.0/24", 10, 120), right},
		{"another kind", alarm(incident.RouteLeak, 666, "192.0.2.0/24", 115), want{found: true, offender: true}},
		{"another offender, on a part of the prefix", alarm(incident.OriginHijack, 777, "192.0.2.128/25", 115), want{found: true, kind: true}},
		{"the offender, on another prefix", alarm(incident.OriginHijack, 666, "198.51.100.0/24", 115), right},
		{"another offender and another prefix", alarm(incident.OriginHijack, 777, "198.51.100.0/24", 115), wrong},
		{"blames the victim", alarm(incident.OriginHijack, 1, "192.0.2.0/24", 115), wrong},
		{"blames nobody", alarm(incident.VisibilityLoss, 0, "192.0.2.0/24", 115), want{found: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := scored([]Label{hijack()}, tt.alarm)
			l, a := r.Labels[0], r.Alarms[0]
			if got := (want{l.Found, l.RightKind, l.RightOffender, a.False, a.Duplicate}); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestTheBestOfSeveralIncidentsCounts(t *testing.T) {
	r := scored([]Label{hijack()},
		alarm(incident.RouteLeak, 777, "192.0.2.0/24", 105),
		alarm(incident.RouteLeak, 666, "192.0.2.0/24", 106),
		alarm(incident.OriginHijack, 777, "192.0.2.0/24", 107),
		alarm(incident.OriginHijack, 666, "192.0.2.0/24", 130),
		alarm(incident.OriginHijack, 666, "192.0.2.0/25", 120),
		alarm(incident.OriginHijack, 5, "203.0.113.0/24", 120),
	)
	l := r.Labels[0]
	if !l.Found || !l.RightKind || !l.RightOffender || l.SinceFirst != 20*time.Second {
		t.Errorf("%+v: want the incident of second 120", l)
	}
	for i, want := range []struct{ duplicate, false bool }{{true, false}, {true, false}, {true, false}, {true, false}, {false, false}, {false, true}} {
		if a := r.Alarms[i]; a.Duplicate != want.duplicate || a.False != want.false {
			t.Errorf("incident %d: duplicate %t and false %t, want %+v", i, a.Duplicate, a.False, want)
		}
	}
	f := figures([]Result{r}, "g", "", Both)
	if f.Alarms != 6 || f.Duplicates != 4 || f.False != 1 || f.FalseHigh != 1 || f.Precision() != 0.5 || f.Recall() != 1 {
		t.Errorf("%+v, precision %v, recall %v: want 1 true and 1 false of 6, and the rest duplicates", f, f.Precision(), f.Recall())
	}
}

// One AS hijacks two networks at once: each label has its own incident.
func TestLabelsOfOneOffender(t *testing.T) {
	other := hijack()
	other.Victims, other.Prefixes = []uint32{2}, block("198.51.100.0/24")
	r := scored([]Label{hijack(), other}, alarm(incident.OriginHijack, 666, "198.51.100.0/24", 105), alarm(incident.OriginHijack, 666, "192.0.2.0/24", 107))
	if r.Labels[0].SinceFirst != 7*time.Second || r.Labels[1].SinceFirst != 5*time.Second || r.Alarms[0].Duplicate || r.Alarms[1].Duplicate {
		t.Errorf("%+v", r)
	}
}

func TestBenignLabels(t *testing.T) {
	blackhole := Label{Benign: "blackhole", Offenders: []uint32{7}, Prefixes: block("198.51.100.0/24"), Start: second(0), End: second(300)}
	// That the answer to the hijack is none itself is a label of the same prefix.
	answer := Label{Benign: "answer", Kind: incident.SubprefixHijack, Offenders: []uint32{1}, Prefixes: block("192.0.2.0/24"), Start: second(0), End: second(300)}
	for _, tt := range []struct {
		name   string
		alarm  Alarm
		false  bool
		benign string
	}{
		{"the blackhole", alarm(incident.SubprefixHijack, 7, "198.51.100.1/32", 50), true, "blackhole"},
		{"the answer", alarm(incident.SubprefixHijack, 1, "192.0.2.0/25", 150), true, "answer"},
		{"the hijack beside the answer", alarm(incident.OriginHijack, 666, "192.0.2.0/24", 150), false, ""},
		{"the hijack, by another kind than the answer's", alarm(incident.ForgedPath, 777, "192.0.2.0/24", 150), false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := scored([]Label{hijack(), blackhole, answer}, tt.alarm)
			if a := r.Alarms[0]; a.False != tt.false || a.Benign != tt.benign || r.Labels[0].Found == tt.false {
				t.Errorf("false %t because %q, the hijack found %t; want false %t because %q", a.False, a.Benign, r.Labels[0].Found, tt.false, tt.benign)
			}
		})
	}
}

func TestMistakesCalledAttacks(t *testing.T) {
	slip := Label{Kind: incident.Prepend, Offenders: []uint32{10}, Victims: []uint32{2}, Prefixes: block("192.0.2.0/24"), Start: second(100), End: second(200)}
	for _, tt := range []struct {
		alarm         Alarm
		found, attack bool
	}{
		{alarm(incident.Prepend, 10, "192.0.2.0/24", 110), true, false},
		{alarm(incident.OriginHijack, 2, "192.0.2.0/24", 110), true, true}, // it looks as if AS 2 had done it
		{alarm(incident.RouteLeak, 10, "192.0.2.0/24", 110), true, false},
	} {
		if l := scored([]Label{slip}, tt.alarm).Labels[0]; l.Found != tt.found || l.CalledAttack != tt.attack {
			t.Errorf("%s: found %t and called an attack %t, want %t and %t", tt.alarm.Kind, l.Found, l.CalledAttack, tt.found, tt.attack)
		}
	}
	if l := scored([]Label{hijack()}, alarm(incident.OriginHijack, 666, "192.0.2.0/24", 110)).Labels[0]; l.CalledAttack {
		t.Error("a hijack is an attack, not a mistake that is called one")
	}
}

func TestDelay(t *testing.T) {
	for _, tt := range []struct {
		at            int64
		first, enough time.Duration
	}{
		{115, 15 * time.Second, 5 * time.Second},
		{110, 10 * time.Second, 0},
		{105, 5 * time.Second, 0}, // before the witnesses were enough: not less than no delay
	} {
		l := scored([]Label{hijack()}, alarm(incident.OriginHijack, 666, "192.0.2.0/24", tt.at)).Labels[0]
		if l.SinceFirst != tt.first || l.SinceEnough != tt.enough {
			t.Errorf("opened at second %d: %v after the first and %v after enough, want %v and %v", tt.at, l.SinceFirst, l.SinceEnough, tt.first, tt.enough)
		}
	}
	var ds []time.Duration
	for i := range 100 {
		ds = append(ds, time.Duration(100-i)*time.Second)
	}
	if got := delays(ds); got != (Delays{50, 95, 100}) {
		t.Errorf("of 1 to 100 seconds: %+v", got)
	}
}

func TestWhatTooFewPeersSawIsNotMissed(t *testing.T) {
	p := &Played{Case: &Case{Labels: []Label{hijack()}}, Enough: 3, Witnessed: []Witnessed{{Peers: 2, Last: second(110)}}}
	f := figures([]Result{Score(p)}, "g", "", Both)
	if f.Labels != 1 || f.Unseen != 1 || f.Recall() == f.Recall() { // NaN: nothing was there to find
		t.Errorf("%+v, recall %v", f, f.Recall())
	}
	p.Witnessed[0].Peers = 3
	if f := figures([]Result{Score(p)}, "g", "", Both); f.Unseen != 0 || f.Recall() != 0 {
		t.Errorf("seen by enough and not found: %+v, recall %v", f, f.Recall())
	}
}

func TestHalvesAreAlwaysTheSame(t *testing.T) {
	// Bit 16 of the published test vectors of FNV-1a: e40c292c, a9f37ed7, 3f5076ef, bf9cf968.
	for name, want := range map[string]bool{"a": false, "foo": true, "foob": false, "foobar": false} {
		if InJudging(name) != want {
			t.Errorf("%q: in the judging half %t, want %t", name, !want, want)
		}
	}
	var counts [2]int
	for i := range 1000 {
		n := 0
		if InJudging(second(int64(i)).String()) {
			n = 1
		}
		counts[n]++
	}
	if slices.Min(counts[:]) < 400 {
		t.Errorf("of 1000 names the halves get %v", counts)
	}
}
