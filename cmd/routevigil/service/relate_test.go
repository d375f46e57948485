package service

import (
	"fmt"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
)

// A running pipeline infers relationships from its table, and again as the table changes; they are
// part of the saved state.
func TestRelationshipsFollowTheTable(t *testing.T) {
	s := openStore(t)
	late := network{asn: 61000, prefix: blocks(61, 0)}
	// Of a newcomer of whom nothing is known nothing is learned at first either.
	roa := rpki.NewSet(rpki.Data{VRPs: []rpki.VRP{{Prefix: late.prefix, MaxLength: 22, ASN: late.asn}}}, "test")
	p := newPipeline(t, s, detect.Knowledge{VRPs: roa})
	p.every, p.inferrer.every = 0, 0 // as often as it can
	done := make(chan error, 1)
	go func() { done <- p.run(t.Context(), make(chan struct{})) }()
	relation := func(a, b uint32) topology.Relation {
		answer := make(chan topology.Relation, 1)
		p.questions <- func(e *detect.Engine) { answer <- e.Relationships().Of(a, b) }
		return <-answer
	}
	known := func(a, b uint32) func() string {
		return func() string {
			if rel := relation(a, b); rel == topology.None {
				return fmt.Sprintf("nothing is known of AS%d and AS%d", a, b)
			}
			return ""
		}
	}
	eventually(t, known(transits[0], session(0).ASN))
	if rel := relation(transits[(int(late.asn))%len(transits)], late.asn); rel != topology.None {
		t.Errorf("a network is known before it announces anything: %v", rel)
	}
	for k := range sessions {
		u := route(k, late.prefix, late.asn)
		u.Time = ingest.TimeOf(time.Now())
		if err := p.bus.Publish(&u); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, known(transits[(int(late.asn))%len(transits)], late.asn))
	p.bus.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	want := p.engine.Relationships().Len()
	again := newPipeline(t, s, detect.Knowledge{})
	if got := again.engine.Relationships().Len(); got != want || got == 0 {
		t.Errorf("%d links after a restart, %d before", got, want)
	}
}
