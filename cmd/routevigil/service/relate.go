package service

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/topology"
)

// inferEvery is how often relationships are inferred anew where none were given. Who sells to whom
// changes in weeks; what an hour brings is the paths of feeds that were down or new.
const inferEvery = time.Hour

// inferrer keeps inferred relationships up to date without holding up the updates: it works on a copy
// of the paths beside the pipeline. The answer comes in just before a checkpoint, so that batches which
// are judged again after a crash are judged by the relationships of the first time.
type inferrer struct {
	every time.Duration
	log   *slog.Logger

	started time.Time
	running bool
	answers chan inferred
	work    sync.WaitGroup
}

type inferred struct {
	topology.Inference
	err error
}

func newInferrer(every time.Duration, log *slog.Logger) *inferrer {
	return &inferrer{every: every, log: log, answers: make(chan inferred, 1)}
}

// begin starts to infer from e as it stands, where it is time.
func (i *inferrer) begin(ctx context.Context, e *detect.Engine) {
	if i.running || !e.Infers() || !i.started.IsZero() && time.Since(i.started) < i.every {
		return
	}
	if learning, _ := e.Learning(); learning {
		return
	}
	i.started, i.running = time.Now(), true
	paths := e.CopyPaths()
	i.work.Go(func() {
		inf, err := paths.Infer(ctx)
		i.answers <- inferred{inf, err}
	})
}

// bringIn gives e the answer, if there is one.
func (i *inferrer) bringIn(e *detect.Engine) {
	select {
	case a := <-i.answers:
		i.running = false
		if a.err == nil {
			e.Relate(a.Relationships)
			logInferred(i.log, a.Inference, i.started)
		}
	default:
	}
}

func logInferred(log *slog.Logger, inf topology.Inference, start time.Time) {
	log.Info("relationships inferred", "links", inf.Relationships.Len(), "clique", inf.V4.Clique, "clique_ipv6", inf.V6.Clique,
		"took", time.Since(start).Round(time.Millisecond))
}

// InferRelationships works relationships out from e's table as it stands, and lets it use them.
func InferRelationships(ctx context.Context, e *detect.Engine) (topology.Inference, error) {
	inf, err := e.CopyPaths().Infer(ctx)
	if err == nil {
		e.Relate(inf.Relationships)
	}
	return inf, err
}
