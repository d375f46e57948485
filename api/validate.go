package api

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"time"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/rpki/journal"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// validateInput is a route.
type validateInput struct {
	Prefix prefixParam `query:"prefix" required:"true" doc:"The route's prefix."`
	Origin asnParam    `query:"origin" doc:"The AS that originates it; not with as_path."`
	ASPath string      `query:"as_path" maxLength:"4000" doc:"The AS path as a collector has it, the origin last, separated by spaces; {1,2} is an AS_SET." example:"3333 3491 17557"`
	At     timeParam   `query:"at" doc:"The moment that the answer is for (RFC 3339); now if absent."`
}

// Validation is what the RPKI says of a route.
type Validation struct {
	Prefix netip.Prefix `json:"prefix"`
	Origin *uint32      `json:"origin_asn" doc:"null where the path has none (RFC 6811)."`
	ROV    detect.ROV   `json:"rov"`
	ASPA   *detect.ASPA `json:"aspa,omitempty" doc:"Of the path; absent without as_path."`
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
	return v, nil
}
