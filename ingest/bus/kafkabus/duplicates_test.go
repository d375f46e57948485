package kafkabus

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/routevigil/routevigil/ingest"
)

// plain is what duplicates is to be, as slow and as simple as it can be said.
type plain struct {
	window time.Duration
	last   map[digest]ingest.Time
	times  map[digest]map[uint64]int
}

func (p *plain) seen(what digest, writer uint64, now ingest.Time) bool {
	if p.times[what] == nil {
		p.times[what] = map[uint64]int{}
	}
	p.last[what] = now
	most := 0
	for _, n := range p.times[what] {
		most = max(most, n)
	}
	p.times[what][writer]++
	return p.times[what][writer] <= most
}

func (p *plain) forget(now ingest.Time) {
	for what, at := range p.last {
		if now.Sub(at) > p.window {
			delete(p.last, what)
			delete(p.times, what)
		}
	}
}

func said(n int) digest {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	h := sha256.Sum256(b[:])
	return digest(h[:16])
}

// TestDuplicatesLikePlainOnes compares with the plain one, over steps in which the table grows, shrinks, and is used again.
func TestDuplicatesLikePlainOnes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const window = 30 * time.Second
		d := duplicates{window: window}
		want := plain{window, map[digest]ingest.Time{}, map[digest]map[uint64]int{}}
		now := ingest.Time(1e15)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.SampledFrom([]int{0, 1, 10, 29, 31, 100}).Draw(t, "seconds")) * time.Second)
			from, n := rapid.IntRange(0, 3000).Draw(t, "first"), rapid.SampledFrom([]int{0, 1, 30, 1500}).Draw(t, "updates")
			writers := rapid.IntRange(1, 4).Draw(t, "writers")
			for i := range n {
				what, writer := said(from+i%max(1, n*2/3)), uint64(i%writers)
				if d.seen(what, writer, now) != want.seen(what, writer, now) {
					t.Fatalf("%x of writer %d: a duplicate is taken for none, or the other way round", what, writer)
				}
			}
			d.forget(now)
			want.forget(now)
			if d.used != len(want.last) {
				t.Fatalf("%d are known, want %d", d.used, len(want.last))
			}
		}
	})
}

// In the steady state nothing is allocated.
func TestDuplicatesAllocateNothing(t *testing.T) {
	d := duplicates{window: 30 * time.Second}
	n, now := 0, ingest.Time(1e15)
	step := func() {
		now = now.Add(time.Second)
		for range 100 {
			d.seen(said(n), 1, now)
			d.seen(said(n), 2, now)
			n++
		}
		d.forget(now)
	}
	for range 100 {
		step()
	}
	if got := testing.AllocsPerRun(300, step); got > 0 {
		t.Errorf("%v allocations a step", got)
	}
}

// BenchmarkDuplicates is what it costs to look up an update where 200,000 come each second.
func BenchmarkDuplicates(b *testing.B) {
	d := duplicates{window: 30 * time.Second}
	now := ingest.Time(1e15)
	var what digest
	b.ReportAllocs()
	for n := range b.N {
		binary.BigEndian.PutUint64(what[:], uint64(n)*0x9e3779b97f4a7c15)
		d.seen(what, 1, now)
		if n%16384 == 0 {
			now += 16384 * 5
			d.forget(now)
		}
	}
	b.ReportMetric(float64(len(d.slots)*8+cap(d.sightings)*64+cap(d.queue)*16)/float64(max(1, d.used)), "octets/update")
}
