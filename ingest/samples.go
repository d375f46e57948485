package ingest

import (
	"bytes"
	"time"
)

// Bounds of what a source keeps of malformed messages.
const (
	MaxSamples     = 32
	MaxSampleBytes = 2048 // of one message
)

// Sample is a malformed message, kept for inspection.
type Sample struct {
	Time   time.Time `json:"time" doc:"Of receipt."`
	From   string    `json:"from,omitempty" doc:"The router, the neighbour, or the partition of a topic and the offset in it."`
	Reason string    `json:"reason" doc:"As it is counted by in the feed's malformed."`
	Detail string    `json:"detail"`
	Octets []byte    `json:"octets" doc:"The message, or its first 2,048 octets, in base64."`
}

// Samples are the last [MaxSamples] malformed messages of a source. The zero value is empty. It is not
// safe for concurrent use.
type Samples struct {
	ring []Sample
	kept int
}

// Keep adds x with a copy of its octets, of which no more than [MaxSampleBytes], in place of the oldest where there is no
// more room.
func (s *Samples) Keep(x Sample) {
	x.Octets = bytes.Clone(x.Octets[:min(len(x.Octets), MaxSampleBytes)])
	if len(s.ring) < MaxSamples {
		s.ring = append(s.ring, x)
	} else {
		s.ring[s.kept%MaxSamples] = x
	}
	s.kept++
}

// All returns a copy, oldest first.
func (s *Samples) All() []Sample {
	i := 0
	if len(s.ring) == MaxSamples {
		i = s.kept % MaxSamples
	}
	return append(append([]Sample(nil), s.ring[i:]...), s.ring[:i]...)
}
