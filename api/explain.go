package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// ErrRecovering is that the detector is being brought up to date and cannot be asked yet.
var ErrRecovering = errors.New("the detector is being brought up to date")

// explainInput is a route.
type explainInput struct {
	Prefix prefixParam `query:"prefix" required:"true" doc:"The route's prefix."`
	At     timeParam   `query:"at" doc:"Not answered: the problem says where the past is explained."`
	ASPath string      `query:"as_path" required:"true" minLength:"1" maxLength:"4000" doc:"The AS path as a collector has it, the origin last, separated by spaces; {1,2} is an AS_SET." example:"3333 3491 17557"`
}

func (s *Server) explain(ctx context.Context, in *explainInput) (detect.Explanation, error) {
	if s.dependencies.Explain == nil {
		return detect.Explanation{}, problemf(http.StatusServiceUnavailable, "This process does not detect; ask the one that does.")
	}
	if !in.At.value.IsZero() {
		return detect.Explanation{}, problemf(http.StatusNotImplemented, "A verdict of the past takes a second detector's memory, which a running service does not spend: "+
			"run routevigil explain --at %s -c FILE beside it, or ask /api/v1/validate, which answers for any moment.", in.At.value.Format(time.RFC3339))
	}
	path, err := bgp.ParseASPath(in.ASPath)
	if err == nil && len(path) == 0 {
		err = errors.New("there is no AS number in it")
	}
	if err != nil {
		return detect.Explanation{}, newProblem(http.StatusBadRequest, "", fault("query.as_path", in.ASPath, "%v; write it such as 3333 3491 17557", err))
	}
	x, err := s.dependencies.Explain(ctx, in.Prefix.value, path)
	if errors.Is(err, ErrRecovering) {
		err = problemf(http.StatusServiceUnavailable, "The detector is being brought up to date from the store and cannot be asked yet; /readyz says when it can.")
	}
	list(&x.Evidence)
	for i := range x.History.Origins {
		list(&x.History.Origins[i].FirstHops)
		list(&x.History.Origins[i].Upstreams)
	}
	return x, err
}
