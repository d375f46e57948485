package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/rpki/journal"
)

// rpkiChangesInput selects changes of the RPKI.
type rpkiChangesInput struct {
	Prefix prefixParam  `query:"prefix" doc:"Only VRPs of this prefix, of a part of it, or of what covers it."`
	ASN    asnParam     `query:"asn" doc:"Only VRPs of this AS, and ASPAs in which it is customer or provider."`
	From   timeParam    `query:"from" doc:"Only at or after this time (RFC 3339)."`
	To     timeParam    `query:"to" doc:"Only before this time (RFC 3339)."`
	Limit  int          `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"How many at most."`
	Cursor changeCursor `query:"cursor" doc:"The next of the previous page, unchanged."`
}

// RPKIChange is one difference between what was in use and what came after.
type RPKIChange struct {
	Time   time.Time    `json:"time" doc:"Since when it counts here."`
	What   string       `json:"what" doc:"What changed. all is the whole of VRPs and ASPAs: removed says that there was no data any more that could be used, added that there was again."`
	Change string       `json:"change" doc:"How; changed is of an ASPA whose providers are others now, held_back of a whole set from source that lost so much that it was not put to use, by which nothing changed."`
	Reason string       `json:"reason,omitempty" doc:"Why it was held back."`
	VRP    *rpki.VRP    `json:"vrp,omitempty"`
	ASPA   *ASPAChanged `json:"aspa,omitempty"`
	Source string       `json:"source,omitempty" doc:"Where the data came from that is in use since."`
}

// The values of what.
const (
	changeOfVRP  = "vrp"
	changeOfASPA = "aspa"
	changeOfAll  = "all"
)

// ASPAChanged is which providers a customer attested and attests.
type ASPAChanged struct {
	Customer uint32   `json:"customer"`
	Before   []uint32 `json:"before" doc:"Sorted; empty also where it attested nothing, which change tells."`
	After    []uint32 `json:"after" doc:"Sorted; empty also where it attests nothing, which change tells."`
}

func (in *rpkiChangesInput) Resolve(huma.Context) []error { return period(in.From, in.To) }

func (s *Server) listRPKIChanges(ctx context.Context, in *rpkiChangesInput) (page[RPKIChange], error) {
	p := page[RPKIChange]{Items: []RPKIChange{}}
	if s.dependencies.RPKIChanges == nil {
		return p, problemf(http.StatusServiceUnavailable, "This process knows nothing of the RPKI; ask the one that detects.")
	}
	end, err := s.search(ctx)
	if err != nil {
		return p, err
	}
	defer end()
	changes, next, err := s.dependencies.RPKIChanges(ctx, journal.Query{Prefix: in.Prefix.value, ASN: in.ASN.value,
		From: in.From.value, To: in.To.value, Before: in.Cursor.before, Limit: in.Limit})
	for _, c := range changes {
		p.Items = append(p.Items, changeOf(c))
	}
	if next != (journal.Position{}) {
		p.Next = changeCursor{next}.String()
	}
	return p, err
}

func changeOf(c journal.Change) RPKIChange {
	out := RPKIChange{Time: c.At, What: changeOfAll, Change: "added", Reason: c.Held, VRP: c.VRP, Source: c.Source}
	removed := c.Removed
	switch a := c.ASPA; {
	case c.VRP != nil:
		out.What = changeOfVRP
	case a != nil:
		out.What = changeOfASPA
		out.ASPA = &ASPAChanged{a.Customer, append([]uint32{}, a.Before...), append([]uint32{}, a.After...)}
		removed = a.After == nil
		if a.Before != nil && a.After != nil {
			out.Change = "changed"
		}
	}
	switch {
	case removed:
		out.Change = "removed"
	case c.Held != "":
		out.Change = "held_back"
	}
	return out
}
