package scorecard

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"slices"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Alarm is an incident that the detector opened.
type Alarm struct {
	incident.Incident               // as it stood last
	Times             []ingest.Time // at which it opened and reopened
	Touched           []netip.Prefix
}

// Witnessed is what the peers saw of one label.
type Witnessed struct {
	Peers int         // independent ones (distinct ASNs) that told a route or a loss which it caused, counted up to Enough
	Last  ingest.Time // when the last of these first did; 0 where none did
}

// Played is what came of a case: of the incidents that the detector opened, and of what it did not think worth one.
type Played struct {
	Case      *Case
	Updates   int // announced and withdrawn prefixes
	Alarms    []Alarm
	Judgments []Judgment
	Witnessed []Witnessed // of each label
	Enough    int         // independent peers that must agree
}

// Judgment is the ledger of one accusation (kind, offender and victim): the last one of its incident or, where it led to none
// though enough peers agreed, the one that came nearest to it. However many prefixes it concerns, it is one.
type Judgment struct {
	Kind     incident.Kind
	Offender uint32
	Victims  []uint32
	Prefixes []netip.Prefix // at most incident.MaxPrefixes
	Times    []ingest.Time
	Evidence []incident.Evidence
	Raised   bool
}

// Confidence is that of the ledger.
func (j *Judgment) Confidence() float64 { return incident.Confidence(j.Evidence) }

// accusation is what verdicts share that are one Judgment. The victim is left out, as the detector does with kinds that have many.
type accusation struct {
	kind     incident.Kind
	offender uint32
}

// Play gives the routes of a case to a detector and keeps what it says. A case without a RIB is learned from for the
// configuration's warm-up. Where the case knows no relationships they are inferred from its RIB, as a replay does it.
func Play(c *Case, cfg detect.Configuration) (*Played, error) {
	cfg.Shards = 1
	p := &player{out: &Played{Case: c, Witnessed: make([]Witnessed, len(c.Labels)), Enough: cfg.MinPeers}, alarms: map[string]int{},
		judged: map[accusation]*Judgment{}, byPrefix: map[netip.Prefix][]int{}, seen: make([]map[uint32]bool, len(c.Labels)), heard: map[uint32]bool{}}
	for i, l := range c.Labels {
		if !l.asked() {
			continue
		}
		p.seen[i] = map[uint32]bool{}
		for _, x := range l.Prefixes {
			p.byPrefix[x] = append(p.byPrefix[x], i)
		}
	}
	e := detect.New(cfg, c.Knowledge, p.event)
	e.OnVerdict(p.verdict)
	if c.RIB != nil {
		next, stop := iter.Pull2(c.RIB)
		defer stop()
		err := e.LoadBaseline(func() (*ingest.Update, error) {
			u, err, ok := next()
			if !ok {
				return nil, io.EOF
			}
			if err == nil {
				p.heard[u.Peer.ASN] = true
			}
			return u, err
		})
		if err != nil {
			return nil, fmt.Errorf("%s: the table: %w", c.Name, err)
		}
		if e.Infers() {
			inferred, err := e.CopyPaths().Infer(context.Background())
			if err != nil {
				return nil, fmt.Errorf("%s: relationships: %w", c.Name, err)
			}
			e.Relate(inferred.Relationships)
		}
	}
	for u, err := range c.Updates {
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.Name, err)
		}
		p.out.Updates += len(u.Announced) + len(u.Withdrawn)
		p.heard[u.Peer.ASN] = true
		p.witness(u)
		e.Apply(u)
	}
	e.Finish()
	p.out.Enough = max(1, min(p.out.Enough, len(p.heard)))
	p.finish()
	return p.out, nil
}

type player struct {
	out      *Played
	alarms   map[string]int // by id, its place in out.Alarms
	judged   map[accusation]*Judgment
	byPrefix map[netip.Prefix][]int // labels
	seen     []map[uint32]bool      // by label: the peers that told of it
	heard    map[uint32]bool
}

func (p *player) event(ev incident.Event) {
	i, known := p.alarms[ev.Incident.ID]
	if !known {
		i = len(p.out.Alarms)
		p.alarms[ev.Incident.ID] = i
		p.out.Alarms = append(p.out.Alarms, Alarm{})
	}
	a := &p.out.Alarms[i]
	a.Incident = ev.Incident
	if ev.Change == incident.Opened || ev.Change == incident.Reopened {
		a.Times = append(a.Times, ingest.TimeOf(ev.Time))
	}
	for _, x := range ev.Incident.Prefixes {
		if !slices.Contains(a.Touched, x.Prefix) {
			a.Touched = append(a.Touched, x.Prefix)
		}
	}
}

func (p *player) verdict(v detect.Verdict) {
	if !v.Agreed {
		return
	}
	k := accusation{v.Kind, v.Offender}
	j := p.judged[k]
	if j == nil {
		j = &Judgment{Kind: v.Kind, Offender: v.Offender}
		p.judged[k] = j
	}
	if v.Victim != 0 && !slices.Contains(j.Victims, v.Victim) {
		j.Victims = append(j.Victims, v.Victim)
	}
	if len(j.Prefixes) < incident.MaxPrefixes && !slices.Contains(j.Prefixes, v.Prefix) {
		j.Prefixes = append(j.Prefixes, v.Prefix)
	}
	j.Times = append(j.Times, v.Time)
	now := Judgment{Evidence: v.Evidence}
	if j.Evidence == nil || now.Confidence() > j.Confidence() {
		j.Evidence = v.Evidence
	}
}

// finish puts the ledger of each incident in the place of those of the verdicts that it was made of.
func (p *player) finish() {
	raised := map[accusation]bool{}
	for _, a := range p.out.Alarms {
		j := Judgment{Kind: a.Kind, Victims: a.Victims, Prefixes: a.Touched, Times: a.Times, Evidence: a.Evidence, Raised: true}
		if len(a.Offenders) > 0 {
			j.Offender = a.Offenders[0]
		}
		for _, o := range a.Offenders {
			raised[accusation{a.Kind, o}] = true
		}
		p.out.Judgments = append(p.out.Judgments, j)
	}
	var rest []Judgment
	for k, j := range p.judged {
		if !raised[k] {
			rest = append(rest, *j)
		}
	}
	slices.SortFunc(rest, func(a, b Judgment) int { return compareJudgments(&a, &b) })
	p.out.Judgments = append(p.out.Judgments, rest...)
}

// witness notes who told of which label. Any route to a labelled prefix on which an offender stands counts, from the
// label's start to its end, also one that was as usual: that can make the detector look slower than it is, but never faster.
func (p *player) witness(u *ingest.Update) {
	if len(p.byPrefix) == 0 {
		return
	}
	tell := func(n bgp.NLRI, tells func(*Label) bool) {
		for _, i := range p.byPrefix[n.Prefix] {
			l, w := &p.out.Case.Labels[i], &p.out.Witnessed[i]
			if u.Time < l.Start || u.Time > l.End || w.Peers >= p.out.Enough || p.seen[i][u.Peer.ASN] || !tells(l) {
				continue
			}
			p.seen[i][u.Peer.ASN] = true
			w.Peers, w.Last = w.Peers+1, u.Time
		}
	}
	for _, n := range u.Withdrawn {
		tell(n, func(l *Label) bool { return len(l.Offenders) == 0 })
	}
	for _, n := range u.Announced {
		tell(n, func(l *Label) bool { return l.told(u.Attrs.ASPath) })
	}
}

// told reports paths that may be of what a label names: an offender stands on them, where the kind demands it in its place.
func (l *Label) told(path bgp.ASPath) bool {
	origin, _ := path.Origin()
	switch {
	case l.Kind == incident.Prepend && !slices.Contains(l.Victims, origin):
		return false
	case l.Kind == incident.TypoASN:
		return slices.Contains(l.Offenders, origin)
	}
	return slices.ContainsFunc(path, func(s bgp.Segment) bool {
		return slices.ContainsFunc(l.Offenders, func(o uint32) bool { return slices.Contains(s.ASNs, o) })
	})
}
