package incident

import (
	"math"
	"slices"
)

// Confidence is what a ledger comes to: the logistic of the sum of its weights, to three places.
func Confidence(ledger []Evidence) float64 {
	sum := 0.0
	for _, e := range ledger {
		sum += e.Weight
	}
	return math.Round(1000/(1+math.Exp(-sum))) / 1000
}

// telling are the rules that only ledgers of one kind have; the first that is there tells.
var telling = []struct {
	rule string
	kind Kind
}{
	{"rpki.turned", ROAChange},
	{"burst.victims", ReoriginationLeak},
	{"burst.specifics", InternalSpecifics},
	{"otc.leak", RouteLeak},
	{"rel.valley", RouteLeak},
	{"rel.larger", RouteLeak},
	{"community.blackhole", BlackholeLeak},
	{"prefix.reserved", BogonPrefix},
	{"space.unused", Squatting},
	{"path.private_asn", PrivateASNLeak},
	{"path.reserved_asn", BogonASN},
	{"shape.small_origin", Prepend},
	{"shape.typo_asn", TypoASN},
	{"shape.typo_prefix", TypoPrefix},
	{"path.contradicted", ForgedPath},
}

// Recompute tells from a ledger alone what it was the ledger of: its kind and confidence. So a stored incident can be checked
// against what is stored to prove it, by whoever trusts nothing else. The kind is empty where no rule of the ledger is
// of one kind alone, as with what watches forbid.
func Recompute(ledger []Evidence) (Kind, float64) {
	has := func(rules ...string) bool {
		return slices.ContainsFunc(ledger, func(e Evidence) bool { return slices.Contains(rules, e.Rule) })
	}
	confidence := Confidence(ledger)
	for _, t := range telling {
		if has(t.rule) {
			return t.kind, confidence
		}
	}
	part := has("specific.never_seen")
	switch forged := has("path.new_link", "path.single_source", "path.new_way", "path.by_holder", "path.made_up", "path.foreign_way"); {
	case forged && part:
		return ForgedPathSubprefix, confidence
	case forged:
		return ForgedPath, confidence
	case part:
		return SubprefixHijack, confidence
	case has("origin.never_seen"):
		return OriginHijack, confidence
	case has("rpki.invalid_asn", "rpki.invalid_both", "rpki.invalid_length", "rpki.as0"):
		return RPKIInvalid, confidence
	case has("aspa.invalid"):
		return RouteLeak, confidence
	}
	return "", confidence
}
