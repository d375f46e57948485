package scorecard

import (
	"testing"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

func announced(at int64, prefix string, path ...uint32) ingest.Update {
	return ingest.Update{Time: second(at), Kind: ingest.Routes, Announced: []bgp.NLRI{{Prefix: block(prefix)[0]}},
		Attrs: bgp.Attributes{ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: path}}}}
}

func quietCase(t *testing.T, us ...ingest.Update) []Label {
	t.Helper()
	labels, err := truths("some file", each(us))
	if err != nil {
		t.Fatal(err)
	}
	return labels
}

func TestWhatRoutesProve(t *testing.T) {
	labels := quietCase(t,
		announced(0, "0.0.0.0/0", 3356, 8273),
		announced(1, "11.0.0.0/24", 3356, 1267, 64512),
		announced(2, "11.0.1.0/24", 3356, 1267, 64512, 4200000000, 7018),
		announced(3, "11.0.2.0/24", 3356, 701, 64500),
		announced(4, "10.1.0.0/16", 3356, 20931),
		announced(5, "12.0.0.0/23", 3356, 28548),         // the other half
		announced(6, "12.0.2.0/23", 3356, 28548, 5),      // a count
		announced(7, "13.0.0.0/24", 3356, 28548, 5),      // nothing says whose it is
		announced(8, "14.0.0.0/24", 3356, 8273, 8273, 3), // but for the default route
	)
	for _, tt := range []struct {
		kind     incident.Kind
		offender uint32
		prefix   string
		true     bool
	}{
		{incident.PrivateASNLeak, 1267, "11.0.0.0/24", true},
		{incident.PrivateASNLeak, 1267, "11.0.1.0/24", true},
		{incident.PrivateASNLeak, 3356, "11.0.0.0/24", false}, // was told it
		{incident.PrivateASNLeak, 1267, "11.0.2.0/24", false},
		{incident.PrivateASNLeak, 701, "11.0.2.0/24", false},
		{incident.BogonASN, 701, "11.0.2.0/24", true}, // documentation, RFC 5398
		{incident.OriginHijack, 701, "11.0.2.0/24", false},
		{incident.BogonPrefix, 20931, "10.1.0.0/16", true},
		{incident.BogonPrefix, 28548, "12.0.0.0/23", false},
		{incident.Prepend, 28548, "12.0.2.0/23", true},
		{incident.Prepend, 28548, "13.0.0.0/24", false},
		{incident.Prepend, 8273, "14.0.0.0/24", false},
	} {
		r := scored(labels, alarm(tt.kind, tt.offender, tt.prefix, 9))
		if a := r.Alarms[0]; a.False == tt.true || a.Duplicate {
			t.Errorf("%s by AS%d with %s: false alarm %t, duplicate %t; want it proven: %t", tt.kind, tt.offender, tt.prefix, a.False, a.Duplicate, tt.true)
		}
		if f := figures([]Result{r}, Quiet, "", Both); f.Labels != 0 {
			t.Errorf("%d labels are asked for, where none is known to be there", f.Labels)
		}
	}
	mixed := alarm(incident.Prepend, 28548, "12.0.2.0/23", 9)
	mixed.Touched = append(mixed.Touched, block("13.0.0.0/24")...)
	if a := scored(labels, mixed).Alarms[0]; !a.False {
		t.Error("an incident of which one prefix is proven and one is not counts as proven")
	}
}

// What was found by looking must be shown by the routes, or the truth is none.
func TestCheckedTruthsAreShown(t *testing.T) {
	for _, c := range checked {
		if c.shown(each(nil)) {
			t.Errorf("%s: no routes at all show that %s", c.file, c.because)
		}
		if _, err := truths(c.file, each([]ingest.Update{announced(0, "11.0.0.0/24", 3356, 701)})); err == nil {
			t.Errorf("%s: other routes are taken for a proof", c.file)
		}
	}
	slip := announced(1, "134.132.48.0/21", 2914, 3356, 22717, 22717, 227171)
	typed := checked[len(checked)-1].shown
	if typed(each([]ingest.Update{slip})) {
		t.Error("without the aggregator nothing shows who slipped")
	}
	slip.Attrs.Aggregator.ASN = 22717
	if !typed(each([]ingest.Update{slip})) {
		t.Error("the aggregator shows who slipped")
	}
}

func TestAMistakeBeginsWhereRoutesShowIt(t *testing.T) {
	rib := []ingest.Update{announced(1, "192.0.2.0/24", 6939, 22191)}
	updates := []ingest.Update{announced(5, "192.0.2.0/24", 174, 22191), announced(6, "192.0.2.0/24", 174, 22191, 2), announced(7, "192.0.2.0/24", 174, 22191, 2)}
	typed := Label{Kind: incident.Prepend, Offenders: []uint32{22191}, Victims: []uint32{2}}
	of := func(l Label, rib, updates []ingest.Update) ingest.Time {
		t.Helper()
		at, err := began(&l, &Case{RIB: each(rib), Updates: each(updates)})
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	if at := of(typed, rib, updates); at != second(6) {
		t.Errorf("began at %v", at)
	}
	if at := of(typed, append(rib, announced(2, "192.0.2.0/24", 174, 22191, 2)), updates); at != second(2) {
		t.Errorf("in the table already; began at %v", at)
	}
	// AS22191 passes the right routes on, which is no slip, until it speaks for itself.
	wrong := Label{Kind: incident.TypoASN, Offenders: []uint32{22191}, Victims: []uint32{2}}
	if at := of(wrong, updates[1:], append(updates[1:2:2], announced(9, "192.0.2.0/24", 174, 22191))); at != second(9) {
		t.Errorf("began at %v", at)
	}
	if _, err := began(&wrong, &Case{RIB: each(updates[1:]), Updates: each(updates[1:])}); err == nil {
		t.Error("no route shows a slip, and yet it began")
	}
}
