package api

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/routevigil/routevigil/detect/rpki"
)

// rpkiExpiringInput selects VRPs by when their proof ends.
type rpkiExpiringInput struct {
	Hours  int         `query:"hours" minimum:"1" maximum:"720" default:"2" doc:"Only what ends so soon unless it is renewed."`
	Prefix prefixParam `query:"prefix" doc:"Only VRPs of this prefix, of a part of it, or of what covers it."`
	ASN    asnParam    `query:"asn" doc:"Only VRPs of this AS."`
	Limit  int         `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"How many VRPs at most; the counts are of all."`
}

// RPKIExpiring is which VRPs end soon unless they are renewed.
type RPKIExpiring struct {
	Before       time.Time        `json:"before" doc:"What ends before this is counted and listed, also what should have ended already."`
	Source       string           `json:"source,omitempty" doc:"Where the VRPs in use come from; not there where there are none."`
	TrustAnchors []AnchorExpiring `json:"trust_anchors" doc:"Of what was asked for, by trust anchor. Where much of one ends soon, its publication point or its authority has a fault."`
	VRPs         []rpki.VRP       `json:"vrps" doc:"Those that end first."`
}

// AnchorExpiring counts the VRPs of one trust anchor.
type AnchorExpiring struct {
	TrustAnchor string    `json:"trust_anchor" doc:"Empty where the source names none."`
	VRPs        int       `json:"vrps"`
	Undated     int       `json:"undated" doc:"Of these, how many the source gives without a time: RTR never says it, of the exports rpki-client's and Routinator's extended one do."`
	Expiring    int       `json:"expiring" doc:"How many end soon unless they are renewed."`
	First       time.Time `json:"first,omitzero" doc:"When the first of all ends."`
}

func (s *Server) listRPKIExpiring(ctx context.Context, in *rpkiExpiringInput) (RPKIExpiring, error) {
	out := RPKIExpiring{Before: time.Now().UTC().Add(time.Duration(in.Hours) * time.Hour), TrustAnchors: []AnchorExpiring{}, VRPs: []rpki.VRP{}}
	if s.dependencies.RPKI == nil {
		return out, problemf(http.StatusServiceUnavailable, "This process knows nothing of the RPKI; ask the one that detects.")
	}
	set, _, err := s.dependencies.RPKI(ctx, time.Time{})
	if err != nil {
		return out, err
	}
	out.Source = set.Source()
	anchors := map[string]*AnchorExpiring{}
	for v := range set.VRPs() {
		if in.Prefix.value.IsValid() && !v.Prefix.Overlaps(in.Prefix.value) || in.ASN.value != 0 && v.ASN != in.ASN.value {
			continue
		}
		a := anchors[v.TA]
		if a == nil {
			a = &AnchorExpiring{TrustAnchor: v.TA}
			anchors[v.TA] = a
		}
		a.VRPs++
		if v.Expires.IsZero() {
			a.Undated++
			continue
		}
		if a.First.IsZero() || v.Expires.Before(a.First) {
			a.First = v.Expires
		}
		if v.Expires.Before(out.Before) {
			a.Expiring++
			if out.VRPs = append(out.VRPs, v); len(out.VRPs) >= 8*in.Limit {
				out.VRPs = soonest(out.VRPs, in.Limit)
			}
		}
	}
	out.VRPs = soonest(out.VRPs, in.Limit)
	for _, name := range slices.Sorted(maps.Keys(anchors)) {
		out.TrustAnchors = append(out.TrustAnchors, *anchors[name])
	}
	return out, nil
}

// soonest leaves the n of vs that end first; of those that end together the ones that came first.
func soonest(vs []rpki.VRP, n int) []rpki.VRP {
	slices.SortStableFunc(vs, func(a, b rpki.VRP) int { return cmp.Compare(a.Expires.Unix(), b.Expires.Unix()) })
	return vs[:min(n, len(vs))]
}
