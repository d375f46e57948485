package scorecard

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/routevigil/routevigil/detect/incident"
)

// accusations makes ones of which the truth is drawn by the logistic of what the weights really come to.
func accusations(n int, seed uint64, said, really map[string]float64) Result {
	rng := rand.New(rand.NewPCG(seed, 1))
	var r Result
	for range n {
		var j JudgmentResult
		sum := 0.0
		add := func(rule string) {
			j.Evidence = append(j.Evidence, incident.Evidence{Rule: rule, Weight: said[rule]})
			sum += really[rule]
		}
		add(prior)
		for _, rule := range []string{"a", "b", "c"} {
			if rng.IntN(2) == 0 {
				add(rule)
			}
		}
		j.True = rng.Float64() < 1/(1+math.Exp(-sum))
		r.Judgments = append(r.Judgments, j)
	}
	return r
}

func TestFitFindsTheWeights(t *testing.T) {
	said := map[string]float64{prior: -2, "a": 1, "b": 2, "c": -1}
	really := map[string]float64{prior: -2, "a": 3, "b": 2, "c": 0.5} // c speaks against by its meaning, but for in these data
	tuning, judging := accusations(20_000, 1, said, really), accusations(5000, 2, said, really)
	judging.Judging = true
	f := FitWeights([]Result{tuning, judging})
	want := map[string]float64{"a 1.00": 3, "b 2.00": 1, "c -1.00": 0}
	if len(f.Rules) != len(want) {
		t.Fatalf("%d rules: %+v", len(f.Rules), f.Rules)
	}
	for _, r := range f.Rules {
		if math.Abs(r.Factor-want[r.Rule]) > 0.25 {
			t.Errorf("%s has the factor %.2f, and in truth %.2f", r.Rule, r.Factor, want[r.Rule])
		}
		if r.Factor < 0 {
			t.Errorf("%s has changed sides: %.2f", r.Rule, r.Factor)
		}
	}
	for i := range f.Before {
		if f.After[i].LogLoss >= f.Before[i].LogLoss || f.After[i].Brier >= f.Before[i].Brier {
			t.Errorf("half %d: no better than before: %+v, %+v", i, f.Before[i], f.After[i])
		}
	}
}

// Of what was seen twice the hand-set weight is still believed.
func TestFitIsCarefulWithLittle(t *testing.T) {
	said := map[string]float64{prior: -2, "a": 2, "b": 2, "c": 2}
	f := FitWeights([]Result{accusations(2, 3, said, map[string]float64{prior: 9})})
	for _, r := range f.Rules {
		if r.Factor < 0.9 || r.Factor > 1.6 {
			t.Errorf("%s has the factor %.2f after %d accusations", r.Rule, r.Factor, r.Accusations)
		}
	}
}
