package api

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/past"
	"github.com/routevigil/routevigil/detect/rpki/journal"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// validateInput is a route.
type validateInput struct {
	Prefix prefixParam `query:"prefix" required:"true" doc:"The route's prefix."`
	Origin asnParam    `query:"origin" doc:"The AS that originates it; not with as_path."`
	ASPath string      `query:"as_path" maxLength:"4000" doc:"The AS path as a collector has it, the origin last, separated by spaces; {1,2} is an AS_SET." example:"3333 3491 17557"`
	At     timeParam   `query:"at" doc:"The moment that the answer is for (RFC 3339); now if absent."`
	IRR    bool        `query:"irr" doc:"Also what the routing registries say of the origin. With at this reads the copies that are kept of them, which takes as long as they are large, and is done for one request at a time."`
}

// Validation is what the RPKI says of a route.
type Validation struct {
	Prefix netip.Prefix `json:"prefix"`
	Origin *uint32      `json:"origin_asn" doc:"null where the path has none (RFC 6811)."`
	ROV    detect.ROV   `json:"rov"`
	ASPA   *detect.ASPA `json:"aspa,omitempty" doc:"Of the path; absent without as_path."`
	IRR    *detect.IRR  `json:"irr,omitempty" doc:"What the routing registries say of the origin; absent without irr=true."`
	Gaps   []string     `json:"gaps,omitempty" doc:"What is not known of what the registries said at that moment, in sentences."`
	At     time.Time    `json:"at" doc:"The moment that the answer is for."`
	Since  time.Time    `json:"since,omitzero" doc:"Since when the data of this answer was in use."`
	Source string       `json:"source,omitempty" doc:"Where that data came from."`
}

func (s *Server) validate(ctx context.Context, in *validateInput) (Validation, error) {
	if s.dependencies.RPKI == nil {
		return Validation{}, problemf(http.StatusServiceUnavailable, "This process knows nothing of the RPKI; ask the one that detects.")
	}
	var errs []error
	var path bgp.ASPath
	switch {
	case in.Origin.value == 0 && in.ASPath == "":
		errs = append(errs, fault("query.origin", nil, "give origin or as_path"))
	case in.Origin.value != 0 && in.ASPath != "":
		errs = append(errs, fault("query.origin", nil, "as_path says the origin; give one of the two"))
	case in.ASPath != "":
		var err error
		if path, err = bgp.ParseASPath(in.ASPath); err != nil {
			errs = append(errs, fault("query.as_path", in.ASPath, "%v", err))
		}
	default:
		path = bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{in.Origin.value}}}
	}
	now := time.Now()
	if in.At.value.After(now) {
		errs = append(errs, fault("query.at", in.At.value, "nobody knows the future"))
	}
	if errs != nil {
		return Validation{}, newProblem(http.StatusBadRequest, "", errs...)
	}
	set, since, err := s.dependencies.RPKI(ctx, in.At.value)
	if errors.Is(err, journal.ErrUnknown) {
		return Validation{}, problemf(http.StatusNotFound, "What the RPKI said at %s was not recorded here.", in.At.value.UTC().Format(time.RFC3339))
	}
	if err != nil {
		return Validation{}, err
	}
	v := Validation{Prefix: in.Prefix.value, At: in.At.value, Since: since, Source: set.Source()}
	if v.At.IsZero() {
		v.At = now.UTC()
	}
	origin, ok := path.Origin()
	if ok {
		v.Origin = &origin
	}
	v.ROV = detect.ROVOf(set, v.Prefix, origin, ok)
	if in.ASPath != "" {
		a := detect.ASPAOf(set, path)
		v.ASPA = &a
	}
	if in.IRR {
		err = s.registered(ctx, &v, in.At.value, origin)
	}
	return v, err
}

// ErrBusy is that as much is under way already as may be.
var ErrBusy = errors.New("another question of this kind is being answered")

// registered adds what the routing registries say.
func (s *Server) registered(ctx context.Context, v *Validation, at time.Time, origin uint32) error {
	if s.dependencies.Registries == nil {
		return problemf(http.StatusServiceUnavailable, "This process knows nothing of the routing registries; ask the one that detects.")
	}
	db, gaps, err := s.dependencies.Registries(ctx, v.Prefix, at)
	switch {
	case errors.Is(err, ErrBusy):
		return problemf(http.StatusServiceUnavailable, "What registries said in the past is being looked up for another request, and for one at a time; try again later.")
	case errors.Is(err, past.ErrUnknown):
		return problemf(http.StatusNotFound, "What the routing registries said at %s was not recorded here, or is no longer kept.", at.UTC().Format(time.RFC3339))
	case err != nil:
		return err
	}
	a := detect.IRROf(db, v.Prefix, origin)
	v.IRR, v.Gaps = &a, gaps
	return nil
}
