// Package scorecard measures how right the detector is. A [Case] is routing whose truth is known: what happened, by whom, to
// whom, and what looked bad and was not. The detector is given the routes alone; what it says is then held against the labels.
package scorecard

import (
	"net/netip"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
)

// Case is a stretch of routing with what is true of it.
type Case struct {
	Name      string
	Knowledge detect.Knowledge // as it would have been to hand at the time
	// RIB and Updates yield, in order of time, what the peers held before and what they said then, until yield returns
	// false. An update is valid only until yield returns.
	RIB     func(yield func(*ingest.Update, error) bool)
	Updates func(yield func(*ingest.Update, error) bool)
	Labels  []Label
}

// asked reports labels of something that was wrong and is to be found.
func (l *Label) asked() bool { return l.Benign == "" && l.Proof == "" }

// Label is one thing that happened.
type Label struct {
	// Benign names what happened where nothing was wrong ("new_upstream", "anycast", …); an incident that it explains is a
	// false alarm. Where it is empty, something was wrong, and Kind says what.
	Benign string
	// Proof is what shows that incidents of the kind, against an offender and on nothing but the prefixes named, are true. It
	// explains them, but nobody is asked to find them: it labels real routing of which the rest is not known.
	Proof       string
	Kind        incident.Kind
	RFC7908Type int // 1 to 6, 0 where it is no leak
	Offenders   []uint32
	Victims     []uint32
	Prefixes    []netip.Prefix // those concerned; of a leak of many, the true ones all the same
	Start, End  ingest.Time    // of the first and of the last update that it caused
}
