package scorecard

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"text/tabwriter"

	"github.com/routevigil/routevigil/detect/incident"
)

// Fit is what the weights of the rules ought to be for confidence to be a probability: by how much each is to be multiplied. It
// is worked out on the accusations of the tuning halves and checked on those of the judging halves.
//
// The model is the detector's own, the logistic of the summed weights, in which every rule has a factor. A factor is never
// negative: what speaks for an incident by its meaning must not come to speak against it, however few cases there are. And a
// factor that little is known of stays near 1 (a normal prior, as in ridge regression), so that what was set by hand holds until
// the corpus says otherwise.
type Fit struct {
	Rules  []FittedRule
	Before [2]Quality // tuning, judging: with the weights as they are
	After  [2]Quality // with the factors
}

// FittedRule is one rule of the tuning halves.
type FittedRule struct {
	Rule        string
	Accusations int // in whose ledgers it has a weight
	True        int
	Least, Most float64 // its weights as they are
	Factor      float64
}

// Quality is how good the confidence of some accusations is.
type Quality struct {
	Accusations    int
	Brier, LogLoss float64
}

// priorStrength is how many cases in doubt, of weight 1, the belief is worth that a factor is 1.
const priorStrength = 4

// prior is the line that every ledger has. It is held: each kind of accusation has a rule of its own that can take what it lacks.
const prior = "prior"

// sample is one accusation: the sums of its weights by rule.
type sample struct {
	of  map[string]float64
	yes bool
}

func samplesOf(rs []Result, half Half) []sample {
	var list []sample
	for _, r := range rs {
		if halfOf(r.Judging) != half {
			continue
		}
		for _, j := range r.Judgments {
			s := sample{map[string]float64{}, j.True}
			for _, e := range j.Evidence {
				if e.Weight != 0 {
					s.of[weightOf(e)] += e.Weight
				}
			}
			list = append(list, s)
		}
	}
	return list
}

// weightOf names the weight of a line: its rule, with its value, as a rule has more than one. Those of inferred relations go on
// gradually, and are taken together.
func weightOf(e incident.Evidence) string {
	if e.Rule == prior || e.Rule == "rel.valley" && e.Weight < 3 {
		return e.Rule
	}
	return fmt.Sprintf("%s %.2f", e.Rule, e.Weight)
}

// FitWeights works out factors from some results.
func FitWeights(rs []Result) Fit {
	tuning, judging := samplesOf(rs, Tuning), samplesOf(rs, Judging)
	rules := map[string]*FittedRule{}
	for _, s := range tuning {
		for rule, w := range s.of {
			r := rules[rule]
			if r == nil {
				r = &FittedRule{Rule: rule, Least: w, Most: w, Factor: 1}
				rules[rule] = r
			}
			r.Least, r.Most = min(r.Least, w), max(r.Most, w)
			r.Accusations++
			add(&r.True, s.yes)
		}
	}
	delete(rules, prior)
	order := slices.Sorted(maps.Keys(rules))
	factors := map[string]float64{}
	before := [2]Quality{quality(tuning, factors), quality(judging, factors)}
	for _, rule := range order {
		factors[rule] = 1
	}
	// Newton's method, one factor at a time: what is minimized is convex, so the order does not matter.
	for range 200 {
		most := 0.0
		for _, rule := range order {
			slope, curve := priorStrength*(factors[rule]-1)/4, priorStrength/4.0
			for _, s := range tuning {
				if x := s.of[rule]; x != 0 {
					p := s.confidence(factors)
					if s.yes {
						slope += (p - 1) * x
					} else {
						slope += p * x
					}
					curve += p * (1 - p) * x * x
				}
			}
			next := max(0, factors[rule]-slope/curve)
			most = max(most, math.Abs(next-factors[rule]))
			factors[rule] = next
		}
		if most < 1e-6 {
			break
		}
	}
	f := Fit{Before: before, After: [2]Quality{quality(tuning, factors), quality(judging, factors)}}
	for _, rule := range order {
		rules[rule].Factor = factors[rule]
		f.Rules = append(f.Rules, *rules[rule])
	}
	return f
}

// confidence is the detector's, with factors; a rule without one has 1. The sum is taken in the order of the rules.
func (s *sample) confidence(factors map[string]float64) float64 {
	sum := 0.0
	for _, rule := range slices.Sorted(maps.Keys(s.of)) {
		f, ok := factors[rule]
		if !ok {
			f = 1
		}
		sum += f * s.of[rule]
	}
	return 1 / (1 + math.Exp(-sum))
}

func quality(ss []sample, factors map[string]float64) Quality {
	q := Quality{Accusations: len(ss)}
	for _, s := range ss {
		p, y := s.confidence(factors), 0.0
		if s.yes {
			y = 1
		}
		q.Brier += (p - y) * (p - y)
		q.LogLoss -= math.Log(max(1e-12, 1-math.Abs(p-y)))
	}
	n := float64(max(1, len(ss)))
	q.Brier, q.LogLoss = q.Brier/n, q.LogLoss/n
	return q
}

// Write writes the factors as text for people.
func (f *Fit) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "rule\taccusations\ttrue\tweight\tfactor\tfitted\t")
	for _, r := range f.Rules {
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%.2f\t%s\t\n", r.Rule, r.Accusations, r.True, span(r.Least, r.Most), r.Factor, span(r.Least*r.Factor, r.Most*r.Factor))
	}
	for i, half := range []Half{Tuning, Judging} {
		fmt.Fprintf(t, "%s halves\t%d\t\tBrier %.4f\t\t%.4f\t\n", half, f.Before[i].Accusations, f.Before[i].Brier, f.After[i].Brier)
		fmt.Fprintf(t, "\t\t\tlog loss %.4f\t\t%.4f\t\n", f.Before[i].LogLoss, f.After[i].LogLoss)
	}
	return t.Flush()
}

func span(a, b float64) string {
	if b-a < 0.005 {
		return fmt.Sprintf("%.2f", a)
	}
	return fmt.Sprintf("%.2f to %.2f", a, b)
}
