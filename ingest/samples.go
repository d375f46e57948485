package ingest

// Bounds of what a source keeps of malformed messages.
const (
	MaxSamples     = 32
	MaxSampleBytes = 2048 // of one message
)

// Samples are the last [MaxSamples] malformed messages of a source, kept for inspection. The zero value
// is empty. It is not safe for concurrent use.
type Samples[T any] struct {
	ring []T
	kept int
}

// Keep adds x, in place of the oldest where there is no more room.
func (s *Samples[T]) Keep(x T) {
	if len(s.ring) < MaxSamples {
		s.ring = append(s.ring, x)
	} else {
		s.ring[s.kept%MaxSamples] = x
	}
	s.kept++
}

// All returns a copy, oldest first.
func (s *Samples[T]) All() []T {
	i := 0
	if len(s.ring) == MaxSamples {
		i = s.kept % MaxSamples
	}
	return append(append([]T(nil), s.ring[i:]...), s.ring[:i]...)
}
