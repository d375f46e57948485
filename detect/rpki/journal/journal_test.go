package journal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect/rpki"
)

// content is what a set says, to compare.
type content struct {
	VRPs  []string
	ASPAs map[uint32][]uint32
}

func contentOf(s *rpki.Set) *content {
	if s == nil {
		return nil
	}
	c := &content{ASPAs: map[uint32][]uint32{}}
	for v := range s.VRPs() {
		c.VRPs = append(c.VRPs, fmt.Sprint(v.Prefix, v.MaxLength, v.ASN, v.TA))
	}
	slices.Sort(c.VRPs) // of equal ones, the order is that of the trust anchors' first appearance
	maps.Copy(c.ASPAs, s.ASPAs())
	return c
}

// randomSet makes sets that have much in common; nil now and then.
func randomSet(r *rand.Rand, size int) *rpki.Set {
	if r.IntN(8) == 0 {
		return nil
	}
	b := rpki.NewBuilder()
	for i := range size {
		if r.IntN(10) == 0 {
			continue
		}
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i)}), 24)
		if i%3 == 0 {
			p = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x40, byte(i >> 8), byte(i)}), 40)
		}
		if err := b.Add(rpki.VRP{Prefix: p, MaxLength: uint8(p.Bits()), ASN: uint32(r.IntN(3)), TA: []string{"ripe", "apnic", ""}[i%3]}); err != nil {
			panic(err)
		}
	}
	for c := range uint32(r.IntN(5)) {
		if err := b.AddASPA(64500+c, []uint32{0, 64601, 64602, 64603}[:r.IntN(4)]); err != nil {
			panic(err)
		}
	}
	return b.Set("test")
}

var start = time.Date(2026, 10, 30, 0, 0, 0, 0, time.UTC)

func open(t testing.TB, dir string) *Journal {
	t.Helper()
	j, err := Open(dir, 30*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

// What was recorded is what is answered, at and between the records, also after the journal was opened again, over
// the ends of months and of segments that have grown too long.
func TestAtIsWhatWasRecorded(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	dir := t.TempDir()
	j := open(t, dir)
	type record struct {
		at  time.Time
		set *rpki.Set
	}
	var all []record
	for i := range 120 {
		at := start.Add(time.Duration(i) * time.Hour)
		s := randomSet(r, 200)
		if i%3 == 2 {
			s = all[i-1].set // no change
		}
		if err := j.Record(at, s); err != nil {
			t.Fatal(err)
		}
		all = append(all, record{at, s})
		if i%17 == 0 {
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			j = open(t, dir)
		}
	}
	for i, rec := range all {
		for _, later := range []time.Duration{0, time.Minute, 59*time.Minute + 59*time.Second} {
			got, since, err := j.At(rec.at.Add(later))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(contentOf(rec.set), contentOf(got)); diff != "" {
				t.Fatalf("record %d, %v later (-recorded +answered):\n%s", i, later, diff)
			}
			if since.After(rec.at) {
				t.Errorf("record %d: since %s", i, since)
			}
		}
	}
	if _, _, err := j.At(start.Add(-time.Microsecond)); !errors.Is(err, ErrUnknown) {
		t.Errorf("before the first record: %v", err)
	}
	segments, err := j.segments()
	if err != nil || len(segments) < 3 {
		t.Fatalf("%d segments, %v: neither the month nor the length has begun one", len(segments), err)
	}

	// The files of a period are enough for every moment of it.
	from, to := all[40].at, all[70].at
	paths, err := Files(dir, from, to)
	if err != nil || len(paths) == 0 || len(paths) >= len(segments) {
		t.Fatalf("%d of %d segments, %v", len(paths), len(segments), err)
	}
	part := t.TempDir()
	for _, path := range paths {
		if err := os.Link(path, filepath.Join(part, filepath.Base(path))); err != nil {
			t.Fatal(err)
		}
	}
	for _, rec := range all[40:70] {
		want, since, err := j.At(rec.at)
		got, partSince, partErr := At(part, rec.at)
		if err != nil || partErr != nil || !since.Equal(partSince) || !cmp.Equal(contentOf(want), contentOf(got)) {
			t.Fatalf("of %v, since %v and %v, errors %v and %v", rec.at, since, partSince, err, partErr)
		}
	}
	if paths, err := Files(dir, time.Time{}, time.Time{}); err != nil || len(paths) != len(segments) {
		t.Errorf("without bounds: %d of %d segments, %v", len(paths), len(segments), err)
	}

	// What ended longer ago than it is kept goes with the next segment.
	if err := j.Record(start.AddDate(0, 2, 0), rpki.NewSet(rpki.Data{}, "test")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := j.At(start); !errors.Is(err, ErrUnknown) {
		t.Errorf("of two months ago: %v", err)
	}
}

// Wherever a crash cuts the last frame, what was recorded before is there, and the journal goes on.
func TestTorn(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	first, second := randomSet(r, 40), randomSet(r, 40)
	for first == nil || second == nil {
		first, second = randomSet(r, 40), randomSet(r, 40)
	}
	dir := t.TempDir()
	j := open(t, dir)
	segmentOf := func() []byte {
		segments, err := j.segments()
		if err != nil || len(segments) != 1 {
			t.Fatalf("%d segments, %v", len(segments), err)
		}
		data, err := os.ReadFile(segments[0].path)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if err := j.Record(start, first); err != nil {
		t.Fatal(err)
	}
	whole := len(segmentOf())
	if err := j.Record(start.Add(time.Hour), second); err != nil {
		t.Fatal(err)
	}
	data := segmentOf()
	for n := range data {
		torn := t.TempDir()
		if err := os.WriteFile(filepath.Join(torn, fmt.Sprintf("%017d.rpki", start.UnixMicro())), data[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		j := open(t, torn)
		want := contentOf(first)
		got, _, err := j.At(start.Add(2 * time.Hour))
		if n < whole {
			if !errors.Is(err, ErrUnknown) {
				t.Fatalf("cut at %d of %d: %v", n, len(data), err)
			}
		} else if diff := cmp.Diff(want, contentOf(got)); err != nil || diff != "" {
			t.Fatalf("cut at %d of %d: %v\n%s", n, len(data), err, diff)
		}
		if err := j.Record(start.Add(3*time.Hour), second); err != nil {
			t.Fatal(err)
		}
		if got, _, err := j.At(start.Add(3 * time.Hour)); err != nil || cmp.Diff(contentOf(second), contentOf(got)) != "" {
			t.Fatalf("cut at %d of %d, and recorded on: %v", n, len(data), err)
		}
	}
	// A frame in the middle that is damaged is an error, not the end.
	damaged := slices.Clone(data)
	damaged[8+4] ^= 1
	torn := t.TempDir()
	if err := os.WriteFile(filepath.Join(torn, fmt.Sprintf("%017d.rpki", start.UnixMicro())), damaged, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := (&Journal{dir: torn}).At(start); err == nil {
		t.Error("no error of a damaged frame")
	}
}

func FuzzReplay(f *testing.F) {
	r := rand.New(rand.NewPCG(5, 6))
	dir := f.TempDir()
	j := open(f, dir)
	for i := range 4 {
		if err := j.Record(start.Add(time.Duration(i)*time.Hour), randomSet(r, 10)); err != nil {
			f.Fatal(err)
		}
	}
	segments, err := j.segments()
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range segments {
		data, err := os.ReadFile(s.path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n := int64(0)
		_, err := replay(bytes.NewReader(data), "test", never, func(_ *state, _ frame, octets int64) error { n += octets; return nil })
		if n > int64(len(data)) || err == nil && n != int64(len(data)) {
			t.Errorf("%d of %d octets, %v", n, len(data), err)
		}
	})
}

// FuzzFrame is past the checksum, and what it reads it writes the same.
func FuzzFrame(f *testing.F) {
	r := rand.New(rand.NewPCG(7, 8))
	var before *rpki.Set
	for range 6 {
		s := randomSet(r, 10)
		f.Add(wholeFrame(start, s))
		if b := frameOf(start, before, s); b != nil {
			f.Add(b)
		}
		before = s
	}
	f.Add(heldFrame(start, "file", "why"))
	f.Fuzz(func(t *testing.T, data []byte) {
		decoded, err := decode(data)
		if err != nil {
			return
		}
		st := state{base: rpki.NewSet(rpki.Data{}, "")}
		st.take(decoded)
		set, err := st.set()
		if err != nil {
			return
		}
		again, err := decode(wholeFrame(st.at, set))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(contentOf(set), contentOf(again.whole)); diff != "" {
			t.Error(diff)
		}
	})
}

// manyVRPs are 700,000, one of which is of another AS than the others.
func manyVRPs(b *testing.B, change int) *rpki.Set {
	n := rpki.NewBuilder()
	for i := range 700_000 {
		asn := uint32(i % 60_000)
		if i == change {
			asn = 1
		}
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(20 + i>>16), byte(i >> 8), byte(i)}), 24)
		if err := n.Add(rpki.VRP{Prefix: p, MaxLength: 24, ASN: asn, TA: "test"}); err != nil {
			b.Fatal(err)
		}
	}
	return n.Set("test")
}

// BenchmarkAt answers of a month in which one VRP of 700,000 changed a hundred times.
func BenchmarkAt(b *testing.B) {
	j := open(b, b.TempDir())
	for i := range 100 {
		if err := j.Record(start.Add(time.Duration(i)*time.Minute), manyVRPs(b, i*7)); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, _, err := j.At(start.Add(24 * time.Hour)); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(j.whole), "B/set")
	b.ReportMetric(float64(j.later)/99, "B/change")
}

// A reader of another process, while a segment begins: a file without a whole first frame says nothing, and what was in use
// before it is the answer.
func TestAtBesideWriter(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := At(filepath.Join(dir, "missing"), start); !errors.Is(err, ErrUnknown) {
		t.Errorf("of no journal: %v", err)
	}
	j := open(t, dir)
	set := randomSet(rand.New(rand.NewPCG(11, 12)), 50)
	if err := j.Record(start, set); err != nil {
		t.Fatal(err)
	}
	segments, err := j.segments()
	if err != nil || len(segments) != 1 {
		t.Fatal(segments, err)
	}
	whole, err := os.ReadFile(segments[0].path)
	if err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(dir, fmt.Sprintf("%017d%s", start.Add(time.Hour).UnixMicro(), suffix))
	for _, n := range []int{0, 5, 8, len(whole) / 2, len(whole) - 1} {
		if err := os.WriteFile(next, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		got, since, err := At(dir, start.Add(2*time.Hour))
		if diff := cmp.Diff(contentOf(set), contentOf(got)); err != nil || diff != "" || !since.Equal(start) {
			t.Errorf("%d octets of the next segment: %v, since %v (-want +got):\n%s", n, err, since, diff)
		}
	}
}
