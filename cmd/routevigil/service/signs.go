package service

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/routevigil/routevigil/ingest"
)

// maxHeard bounds the collectors that are kept of a source; a router of one's own is one.
const maxHeard = 4096

// hearing is which collectors a source has let us hear.
type hearing struct {
	source ingest.Source
	last   atomic.Pointer[string]

	mu    sync.Mutex
	names map[string]*string
}

// hear notes the collectors of a source's updates on the way to next.
func hear(source ingest.Source, next ingest.Handler) (*hearing, ingest.Handler) {
	h := &hearing{source: source, names: map[string]*string{}}
	return h, func(u *ingest.Update) error {
		if last := h.last.Load(); last == nil || *last != u.Peer.Collector {
			h.note(u.Peer.Collector)
		}
		return next(u)
	}
}

func (h *hearing) note(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	known := h.names[name]
	if known == nil && len(h.names) < maxHeard {
		name := name // not the parameter, so that only what is new is allocated
		known = &name
		h.names[name] = known
	}
	h.last.Store(known)
}

func (h *hearing) collectors() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.names))
}

// giveSigns tells sign of every source that is connected, with the collectors that it has let us hear, every so often until
// ctx ends.
func giveSigns(ctx context.Context, every time.Duration, sources []*hearing, sign func(source string, collectors []string)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, h := range sources {
			// One that is stalled or lags is connected: what that means for its collectors shows in what they say.
			if st := h.source.Status(); st.State != ingest.Connecting && st.State != ingest.Done {
				sign(st.Name, h.collectors())
			}
		}
	}
}
