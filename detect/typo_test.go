package detect

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest/scenario"
)

func TestSlips(t *testing.T) {
	for text, want := range map[string]struct{ has, lacks string }{
		"10.12.34.0/24": {"10.12.35.0/24 10.12.43.0/24 10.12.3.0/24 10.21.34.0/24 10.2.34.0/24 10.12.94.0/24", "10.12.34.0/24 11.12.34.0/24 10.12.56.0/24 10.12.34.1/24"},
		"10.12.32.0/22": {"10.12.36.0/22 10.12.12.0/22", "10.12.33.0/22 10.12.32.0/24"},
		"10.0.0.0/8":    {"", "11.0.0.0/8 10.1.0.0/8"},
		"2001:db8::/32": {"", "2001:db9::/32"},
	} {
		var got []netip.Prefix
		slips(netip.MustParsePrefix(text), func(q netip.Prefix) bool {
			got = append(got, q)
			return true
		})
		for p := range strings.FieldsSeq(want.has) {
			if !slices.Contains(got, netip.MustParsePrefix(p)) {
				t.Errorf("%s is no slip of %s", p, text)
			}
		}
		for p := range strings.FieldsSeq(want.lacks) {
			if slices.Contains(got, netip.MustParsePrefix(p)) {
				t.Errorf("%s is a slip of %s", p, text)
			}
		}
	}
}

// AS64300 has 23.65.135.0/24. Then it has a part of another's block instead, a digit away, or beside it.
func TestMistypedPrefix(t *testing.T) {
	const text = `
title  A prefix one digit wrong
start  2026-02-24T18:47:00Z
peer   a rrc00 3333 193.0.0.56
peer   b rrc00 12859 193.0.0.57
peer   c rrc01 2914 193.0.0.58
rib    23.65.152.0/21 a 3333 3356 36561
rib    23.65.152.0/21 b 12859 3356 36561
rib    23.65.152.0/21 c 2914 3356 36561
rib    23.65.135.0/24 a 3333 701 64300
rib    23.65.135.0/24 b 12859 701 64300
rib    23.65.135.0/24 c 2914 701 64300
+10s   a withdraw 23.65.135.0/24
+10s   b withdraw 23.65.135.0/24
+10s   c withdraw 23.65.135.0/24
+11s   a announce 23.65.155.0/24 3333 701 64300
+11s   b announce 23.65.155.0/24 12859 701 64300
+11s   c announce 23.65.155.0/24 2914 701 64300
+60s   end
`
	for want, edited := range map[incident.Kind]string{
		incident.TypoPrefix:      text,
		incident.SubprefixHijack: strings.Replace(text, "+10s   c withdraw 23.65.135.0/24\n", "", 1), // some still have it
	} {
		sc, err := scenario.Parse(strings.NewReader(edited), "typo")
		if err != nil {
			t.Fatal(err)
		}
		// That nobody has the right prefix any more is a loss of its own.
		incidents := slices.DeleteFunc(playWith(t, sc, Knowledge{}), func(inc incident.Incident) bool { return inc.Kind == incident.VisibilityLoss })
		if len(incidents) != 1 || incidents[0].Kind != want || incidents[0].Offenders[0] != 64300 || incidents[0].Victims[0] != 36561 {
			t.Fatalf("want one %s by AS64300 of AS36561: %+v", want, incidents)
		}
		if kind, _ := incident.Recompute(incidents[0].Evidence); kind != want {
			t.Errorf("the ledger tells of %s, and not of %s", kind, want)
		}
	}
}
