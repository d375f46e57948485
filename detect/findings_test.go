package detect

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/incident"
)

// TestFindingSetCountsRight adds and removes findings at random, and wants what the set tells in sum to be what a look
// through all of its findings in order tells.
func TestFindingSetCountsRight(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 7))
	prefixes := make([]netip.Prefix, 900)
	for i := range prefixes {
		prefixes[i] = prefixOf(i)
	}
	set := newFindingSet()
	for round := range 6000 {
		p := prefixes[random.IntN(len(prefixes))]
		if round > 4000 { // take away the first ones, which are those that are kept in order
			p = slices.SortedFunc(maps.Keys(set.findings), comparePrefixes)[0]
			if len(set.findings) == 1 {
				break
			}
		}
		ch := findingChange{prefix: p}
		if round < 3000 || round <= 4000 && random.IntN(3) > 0 {
			v := &verdict{offender: uint32(1 + random.IntN(3)), also: []uint32{9}[:random.IntN(2)], victim: uint32(random.IntN(60)), rfc7908: random.IntN(5), ledger: newLedger()}
			for rule := range 1 + random.IntN(4) {
				v.ledger.add(fmt.Sprint("rule.", rule), float64(random.IntN(4)-2), "test", "", "%s", p)
			}
			ch.now = &finding{prefix: p, verdict: v, asns: random.IntN(5), peers: []peerID{peerID(random.IntN(9)), 9}}
		}
		set.replace(ch, 3)
		if round%100 == 0 || round > 4000 {
			checkSums(t, &set)
		}
		if t.Failed() {
			t.Fatalf("after %d changes, with %d findings", round+1, len(set.findings))
		}
	}
	for p := range set.findings {
		set.replace(findingChange{prefix: p}, 3)
	}
	if len(set.ledgers)+len(set.peerRefs)+len(set.victims)+len(set.offenders)+len(set.first.sorted)+set.first.rest+set.confirmed != 0 {
		t.Errorf("with no findings: %+v", set)
	}
}

func checkSums(t *testing.T, set *findingSet) {
	t.Helper()
	all := slices.SortedFunc(maps.Keys(set.findings), comparePrefixes)
	victims, peers, confirmed := tally{}, map[peerID]int{}, 0
	var most []line // by rule, in the order of appearance
	for _, p := range all {
		f := set.findings[p]
		victims.add(f.verdict.victim, 1)
		for _, id := range f.peers {
			peers[id]++
		}
		if f.asns >= 3 {
			confirmed++
		}
		for _, l := range f.verdict.ledger {
			i := slices.IndexFunc(most, func(m line) bool { return m.rule == l.rule })
			if i < 0 {
				most = append(most, l)
			} else if math.Abs(l.weight) > math.Abs(most[i].weight) {
				most[i] = l
			}
		}
	}
	if confirmed != set.confirmed || !maps.Equal(victims, set.victims) || !maps.Equal(peers, set.peerRefs) {
		t.Errorf("%d confirmed, want %d; victims %v, want %v; peers %v, want %v", set.confirmed, confirmed, set.victims, victims, set.peerRefs, peers)
	}
	if got, want := set.sample(), all[:min(len(all), incident.MaxPrefixes)]; !slices.Equal(got, want) {
		t.Errorf("the sample is %v, want %v", got, want)
	}
	top := slices.Sorted(maps.Keys(victims))
	slices.SortStableFunc(top, func(a, b uint32) int { return victims[b] - victims[a] })
	if got := set.victims.top(); !slices.Equal(got, top[:min(len(top), maxNamed)]) {
		t.Errorf("victims %v, want the first of %v", got, top)
	}
	ic := &incidentCase{findingSet: *set, key: caseKey{kind: incident.OriginHijack}}
	if diff := cmp.Diff(ledger(most).evidence(), mergeLedgers(ic).evidence()); diff != "" {
		t.Errorf("evidence (-of all +told):\n%s", diff)
	}
}
