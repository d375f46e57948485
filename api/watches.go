package api

import (
	"context"
	"errors"
	"net/http"

	"github.com/routevigil/routevigil/detect"
)

func (s *Server) listWatches(ctx context.Context, _ *struct{}) (page[detect.WatchState], error) {
	if s.dependencies.Watches == nil {
		return page[detect.WatchState]{}, problemf(http.StatusServiceUnavailable, "This process does not detect; ask the one that does.")
	}
	items, err := s.dependencies.Watches(ctx)
	if errors.Is(err, ErrRecovering) {
		err = problemf(http.StatusServiceUnavailable, "The detector is being brought up to date from the store and cannot be asked yet; /readyz says when it can.")
	}
	return paged(items, len(items), nil), err
}
