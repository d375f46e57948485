package bus

import (
	"time"

	"slices"
	"unsafe"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// building is a batch that still grows. Its slabs hold what its updates point to; being garbage
// collected with them, they ask no discipline of whoever keeps the batch.
type building struct {
	updates []ingest.Update
	newest  ingest.Time
	bytes   int64
	canary  time.Time // of the self-check; zero where there is none

	nlri     slab[bgp.NLRI]
	segments slab[bgp.Segment]
	words    slab[uint32]
	quads    slab[uint64]
	large    slab[bgp.LargeCommunity]
	raw      slab[bgp.RawAttribute]
	octets   slab[byte]
}

func (b *building) add(u *ingest.Update, size int64) {
	if len(b.updates) == cap(b.updates) {
		b.updates = slices.Grow(b.updates, 1)
	}
	b.updates = b.updates[:len(b.updates)+1]
	c := &b.updates[len(b.updates)-1] // copied once: updates are large
	*c = *u
	c.Withdrawn = b.nlri.copy(u.Withdrawn)
	c.Announced = b.nlri.copy(u.Announced)
	a := &c.Attrs
	a.ASPath = b.segments.copy(a.ASPath)
	for i := range a.ASPath {
		a.ASPath[i].ASNs = b.words.copy(a.ASPath[i].ASNs)
	}
	a.Communities = b.words.copy(a.Communities)
	a.ClusterList = b.words.copy(a.ClusterList)
	a.ExtCommunities = b.quads.copy(a.ExtCommunities)
	a.LargeCommunities = b.large.copy(a.LargeCommunities)
	a.Unknown = b.raw.copy(a.Unknown)
	for i := range a.Unknown {
		a.Unknown[i].Value = b.octets.copy(a.Unknown[i].Value)
	}
	b.newest = max(b.newest, u.Time)
	b.bytes += size
}

// Builder makes a batch of copies of updates. The zero value is ready to use, for one batch.
type Builder struct{ b building }

// Grow makes room for n more updates.
func (b *Builder) Grow(n int) { b.b.updates = slices.Grow(b.b.updates, n) }

// Add appends a copy of u.
func (b *Builder) Add(u *ingest.Update) { b.b.add(u, 0) }

// Batch is what was added; the builder must not be used any more.
func (b *Builder) Batch(watermark ingest.Time) ingest.Batch {
	return ingest.Batch{Updates: b.b.updates, Watermark: watermark}
}

// slab hands out copies of slices from shared chunks, each chunk twice as large as the one before.
type slab[T any] struct{ chunk []T }

func (s *slab[T]) copy(src []T) []T {
	if len(src) == 0 {
		return nil
	}
	if cap(s.chunk)-len(s.chunk) < len(src) {
		s.chunk = make([]T, 0, max(len(src), min(2*cap(s.chunk), 4096)))
	}
	start := len(s.chunk)
	s.chunk = append(s.chunk, src...)
	return slices.Clip(s.chunk[start:])
}

// sizeOf tells the memory of an update's copy, but for rounding.
func sizeOf(u *ingest.Update) int64 {
	n := unsafe.Sizeof(*u) + uintptr(len(u.Withdrawn)+len(u.Announced))*unsafe.Sizeof(bgp.NLRI{})
	a := &u.Attrs
	n += uintptr(len(a.ASPath)) * unsafe.Sizeof(bgp.Segment{})
	for _, s := range a.ASPath {
		n += 4 * uintptr(len(s.ASNs))
	}
	n += 4*uintptr(len(a.Communities)+len(a.ClusterList)) + 8*uintptr(len(a.ExtCommunities)) + 12*uintptr(len(a.LargeCommunities))
	for _, r := range a.Unknown {
		n += unsafe.Sizeof(r) + uintptr(len(r.Value))
	}
	return int64(n)
}
