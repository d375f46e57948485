package rpki

import (
	"math"
	"math/rand/v2"
	"testing"
)

// sameAttestations compares every answer about some ASes with that of the map.
func sameAttestations(t *testing.T, s *Set, asns []uint32) (answers [3]int) {
	t.Helper()
	for _, customer := range asns {
		for _, provider := range asns {
			want := s.ASPAs().Authorized(customer, provider)
			if got := s.Attestations().Authorized(customer, provider); got != want {
				t.Fatalf("AS%d to AS%d: %v, want %v", customer, provider, got, want)
			}
			answers[want]++
		}
	}
	return answers
}

func TestAttestationsAnswerAsASPAs(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	asns := []uint32{1, math.MaxUint32, math.MaxUint32 - 1}
	for len(asns) < 300 {
		asns = append(asns, 1+r.Uint32N(500), r.Uint32())
	}
	var answers [3]int
	for _, customers := range []int{0, 1, 2, 3, 64, 250} {
		aspas := ASPAs{}
		for range customers {
			providers := make([]uint32, r.IntN(2*fewProviders))
			for i := range providers {
				providers[i] = asns[r.IntN(len(asns))]
			}
			aspas.Add(asns[r.IntN(len(asns))], append(providers, 0)) // AS 0 is nobody's provider
		}
		s := NewSet(Data{ASPAs: aspas}, "test")
		for i, n := range sameAttestations(t, s, append(asns, 0)) {
			answers[i] += n
		}
		changed, err := s.With(Delta{ASPAs: map[uint32][]uint32{asns[0]: {asns[1]}, asns[5]: nil}}, "test")
		if err != nil {
			t.Fatal(err)
		}
		sameAttestations(t, changed, asns)
		if changed.Attestations().Authorized(asns[0], asns[1]) != ProviderPlus {
			t.Error("what was added is not attested")
		}
	}
	for i, n := range answers {
		if n == 0 {
			t.Errorf("no answer was %v", Authorization(i))
		}
	}
	if (*Set)(nil).Attestations().Authorized(1, 2) != NoAttestation {
		t.Error("what is not there attests something")
	}
}
