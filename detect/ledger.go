package detect

import (
	"fmt"
	"math"
	"net/netip"
	"strings"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/ingest"
)

// ledger is the evidence for and against.
type ledger []line

// line is one piece of evidence. Of a hundred verdicts perhaps one is told to anybody, so a line keeps its facts and
// becomes text only when it is read: writing what nobody reads took more than half of the time of a judgement.
type line struct {
	rule            string
	weight          float64
	source, version string
	detail          func() string
}

// String is the line's text.
func (l line) String() string { return l.detail() }

// add adds a line. Its text is detail with args, as [fmt.Sprintf] has it, written later and maybe often, or by another
// goroutine: args must be values, or slices that nobody changes any more.
func (l *ledger) add(rule string, weight float64, source, version, detail string, args ...any) {
	*l = append(*l, line{rule, weight, source, version, func() string { return fmt.Sprintf(detail, args...) }})
}

func newLedger() ledger {
	l := make(ledger, 0, 8)
	l.add("prior", weightPrior, "calibration", "2, by scorecard --fit", "most changes of routing are harmless")
	return l
}

// evidence writes the ledger out.
func (l ledger) evidence() []incident.Evidence {
	es := make([]incident.Evidence, len(l))
	for i, x := range l {
		es[i] = incident.Evidence{Rule: x.rule, Weight: x.weight, Detail: x.String(), Source: x.source, SourceVersion: x.version}
	}
	return es
}

// ledgerOf makes a ledger of what was written out.
func ledgerOf(es []incident.Evidence) ledger {
	var l ledger
	for _, e := range es {
		l.add(e.Rule, e.Weight, e.Source, e.SourceVersion, "%s", e.Detail)
	}
	return l
}

// confidence is the logistic of the summed weights.
func (l ledger) confidence() float64 { return logistic(l.sum()) }

func (l ledger) sum() float64 {
	sum := 0.0
	for _, x := range l {
		sum += x.weight
	}
	return sum
}

func logistic(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// What lines of evidence are about, and how it reads.
type (
	asList    []uint32    // "AS1, AS2 and 3 more"
	pathList  []uint32    // a tail as people read paths: collector side first
	routeList []irr.Route // "192.0.2.0/24 by AS1 in RIPE, and 3 more"
	vrpList   []rpki.VRP  // "VRP 192.0.2.0/24 up to /24 by AS1, and 3 more"
	denials   []rpki.Hop  // what makes a path ASPA Invalid
	minute    ingest.Time // "2006-01-02 15:04 UTC"
	knownPast struct {    // the history of an origin as a sentence
		prefix netip.Prefix
		past   origins.Past
	}
)

func (as asList) String() string {
	var b strings.Builder
	for i, a := range as {
		if i == 5 {
			fmt.Fprintf(&b, " and %d more", len(as)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "AS%d", a)
	}
	return b.String()
}

func (tail pathList) String() string {
	var b strings.Builder
	for i := len(tail) - 1; i >= 0; i-- {
		fmt.Fprintf(&b, "%d", tail[i])
		if i > 0 {
			b.WriteByte(' ')
		}
	}
	return b.String()
}

func (rs routeList) String() string {
	var parts []string
	for i, r := range rs {
		if i == 4 {
			parts = append(parts, fmt.Sprintf("and %d more", len(rs)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("%s by AS%d in %s", r.Prefix, r.Origin, r.Source))
	}
	return strings.Join(parts, ", ")
}

func (vs vrpList) String() string {
	var parts []string
	for i, v := range vs {
		if i == 4 {
			parts = append(parts, fmt.Sprintf("and %d more", len(vs)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("%s up to /%d by AS%d", v.Prefix, v.MaxLength, v.ASN))
	}
	return "VRP " + strings.Join(parts, ", ")
}

func (hs denials) String() string {
	var parts []string
	for _, h := range hs {
		parts = append(parts, fmt.Sprintf("AS%d attests its providers and AS%d is none of them", h.Customer, h.Provider))
	}
	return strings.Join(parts, ", ")
}

func (t minute) String() string { return ingest.Time(t).Time().Format("2006-01-02 15:04 UTC") }

func (k knownPast) String() string { return factsOf(k.prefix, k.past.Facts()) }

func factsOf(p netip.Prefix, f origins.Facts) string {
	var b strings.Builder
	fmt.Fprintf(&b, "AS%d: %s since %s, %.0f %% of the time, at %.0f %% of the peers", f.ASN, p,
		f.FirstSeen.Format("2006-01-02 15:04 UTC"), 100*f.TimeShare, 100*f.PeerShare)
	if len(f.FirstHops) > 0 {
		fmt.Fprintf(&b, ", beside %s", asList(f.FirstHops))
	}
	if len(f.Upstreams) > 0 {
		fmt.Fprintf(&b, ", then %s", asList(f.Upstreams))
	}
	return b.String()
}
