package origins

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/routevigil/routevigil/ingest"
)

const halfLife = 30 * 24 * time.Hour

var start = ingest.TimeOf(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC))

func after(d time.Duration) ingest.Time { return start.Add(d) }

// about compares to a thousandth.
func about(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-3 {
		t.Errorf("%s is %.5f, want %.5f", what, got, want)
	}
}

// TestShares lets origins come and go, and peers with them, and compares the shares with the integrals
// that they stand for.
func TestShares(t *testing.T) {
	const day = 24 * time.Hour
	c := NewClock(halfLife)
	h := New(c)
	var head Ref
	c.Advance(start, 10)
	h.Count(&head, 64500, 8, start)
	h.Count(&head, 64501, 1, after(20*day))
	h.Count(&head, 64501, -1, after(21*day))
	h.Count(&head, 64500, -4, after(30*day))
	for d := time.Duration(0); d <= 60*day; d += time.Hour {
		c.Advance(after(d), 10)
	}
	weight := func(from, to float64) float64 { // of the days from to to, looked at on day 60
		return math.Exp2((to-60)/30) - math.Exp2((from-60)/30)
	}
	f := h.Facts(h.Find(head, 64500), after(60*day), 10)
	about(t, "time share of the origin that is always there", f.TimeShare, 1)
	about(t, "its share of peers", f.PeerShare, (0.8*weight(0, 30)+0.4*weight(30, 60))/weight(0, 60))
	f = h.Facts(h.Find(head, 64501), after(60*day), 10)
	about(t, "time share of the origin of one day", f.TimeShare, weight(20, 21)/weight(0, 60))
	about(t, "its share of peers", f.PeerShare, 0.1)
	if want := after(21 * day).Time(); !f.LastSeen.Equal(want) || !f.FirstSeen.Equal(after(20*day).Time()) {
		t.Errorf("seen from %s to %s, want until %s", f.FirstSeen, f.LastSeen, want)
	}
	// Reading changes nothing.
	if again := h.Facts(h.Find(head, 64501), after(60*day), 10); !cmp.Equal(f, again) {
		t.Errorf("read again: %s", cmp.Diff(f, again))
	}
}

// The sums do not depend on how often they were brought up to date.
func TestSharesDoNotDependOnChurn(t *testing.T) {
	share := func(every time.Duration) float64 {
		c := NewClock(halfLife)
		h := New(c)
		var head Ref
		h.Count(&head, 64500, 5, start)
		for d := time.Duration(0); d < 40*24*time.Hour; d += every {
			c.Advance(after(d), 10)
			h.Count(&head, 64500, -1, after(d))
			h.Count(&head, 64500, 1, after(d))
		}
		return h.Facts(h.Find(head, 64500), after(40*24*time.Hour), 10).PeerShare
	}
	about(t, "the share of peers with churn each minute", share(time.Minute), 0.5)
	about(t, "the share of peers with churn each week", share(7*24*time.Hour), 0.5)
}

func TestForgetting(t *testing.T) {
	c := NewClock(halfLife)
	h := New(c)
	for _, gone := range []float64{3.9, 4.1} {
		var head Ref
		p := h.Count(&head, 64500, 1, start)
		p.MarkUsual(true)
		h.Count(&head, 64500, -1, after(time.Hour))
		back := after(time.Hour + time.Duration(gone*float64(halfLife)))
		want := gone < forgetAfter
		if h.Usual(p, back) != want {
			t.Errorf("gone for %.1f half-lives: usual %v", gone, !want)
		}
		if h.Count(&head, 64500, 1, back); p.MarkedUsual() != want || p.Baseline() != want {
			t.Errorf("back after %.1f half-lives: usual %v", gone, !want)
		}
		if !h.Usual(p, back.Add(10*halfLife)) && want {
			t.Error("forgotten though it is there")
		}
	}
}

func TestSettled(t *testing.T) {
	h := New(NewClock(halfLife))
	var head Ref
	p := h.Count(&head, 64500, 1, start)
	if h.Settled(p, after(time.Hour-time.Second), time.Hour) || !h.Settled(p, after(time.Hour), time.Hour) {
		t.Error("it settles after another time than an hour")
	}
	h.Count(&head, 64500, -1, after(2*time.Hour))
	if h.Settled(p, after(2*time.Hour), time.Hour) {
		t.Error("what is gone has settled")
	}
	h.Count(&head, 64500, 1, after(2*time.Hour))
	if h.Settled(p, after(150*time.Minute), time.Hour) {
		t.Error("a break does not count")
	}
}

// Whatever is in more than a quarter of the changes is among three, whatever the order.
func TestFrequentNeighboursAreKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seen := rapid.SliceOfN(rapid.Uint32Range(1, 9), 1, 250).Draw(t, "seen")
		var p Pair
		times := map[uint32]int{}
		for _, a := range seen {
			p.Observe(a, a)
			times[a]++
		}
		hops, ups := frequent(p.hops[:], p.hopN[:]), frequent(p.ups[:], p.upN[:])
		for a, n := range times {
			if n*(numHops+1) > len(seen) && !slices.Contains(hops, a) {
				t.Errorf("AS%d is %d of %d first hops and not among %v", a, n, len(seen), hops)
			}
			if n*(numUps+1) > len(seen) && !slices.Contains(ups, a) {
				t.Errorf("AS%d is %d of %d upstreams and not among %v", a, n, len(seen), ups)
			}
		}
		for _, a := range hops {
			if times[a] == 0 {
				t.Errorf("AS%d was never seen", a)
			}
		}
	})
}

// A stable route is announced once; its neighbours stay however long ago that was.
func TestNeighboursOfAStableRouteStay(t *testing.T) {
	c := NewClock(halfLife)
	h := New(c)
	var head Ref
	p := h.Count(&head, 64500, 1, start)
	p.Observe(64501, 64502)
	for i := range 40 {
		h.Count(&head, 64500, 1, after(time.Duration(i)*halfLife))
	}
	if f := h.Facts(p, after(40*halfLife), 1); !slices.Equal(f.FirstHops, []uint32{64501}) || !slices.Equal(f.Upstreams, []uint32{64502}) {
		t.Errorf("next to %v and %v", f.FirstHops, f.Upstreams)
	}
}

// Ever new origins take each other's places and nobody else's.
func TestOriginsAreBounded(t *testing.T) {
	h := New(NewClock(halfLife))
	var head Ref
	h.Count(&head, 1, 1, start).MarkUsual(true)
	h.Count(&head, 1, -1, start)
	h.Count(&head, 2, 1, start)
	for i := range uint32(10_000) {
		h.Count(&head, 100+i, 1, after(time.Duration(i+1)*time.Second))
		h.Count(&head, 100+i, -1, after(time.Duration(i+1)*time.Second))
	}
	var origins []uint32
	h.Each(head, func(p *Pair) bool { origins = append(origins, p.Origin()); return true })
	if h.Len() != keep || len(origins) != keep || origins[0] != 1 || origins[1] != 2 || origins[keep-1] != 10_099 || origins[2] != 10_099-keep+3 {
		t.Errorf("%d pairs: %v", h.Len(), origins)
	}
	for i := range uint32(100) { // those present are never given up
		h.Count(&head, 20_000+i, 1, after(20_000*time.Second))
	}
	for i := range uint32(100) {
		if p := h.Find(head, 20_000+i); p == nil || p.Routes() != 1 {
			t.Fatalf("AS%d was lost", 20_000+i)
		}
	}
}

func prefixOf(i int) netip.Prefix {
	if i%8 == 7 {
		return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x2a, byte(i >> 16), byte(i >> 8), byte(i)}), 48)
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(1 + i>>16), byte(i >> 8), byte(i), 0}), 24)
}

// made is a history of n prefixes with everything in it.
func made(n int) (*Clock, []Chain) {
	c := NewClock(halfLife)
	h := New(c)
	c.Advance(start, 40)
	c.Advance(after(24*time.Hour), 40)
	chains := make([]Chain, n)
	for i := range chains {
		chains[i] = Chain{prefixOf(i), h, 0}
		p := h.Count(&chains[i].Head, uint32(64500+i), 30, start)
		p.MarkUsual(i%2 == 0)
		p.Observe(3356, 1299)
		p.Observe(174, 0)
		if i%3 == 0 {
			h.Count(&chains[i].Head, uint32(1+i), 1, after(time.Hour))
			h.Count(&chains[i].Head, uint32(1+i), -1, after(2*time.Hour))
		}
	}
	slices.SortFunc(chains, func(a, b Chain) int { return Compare(a.Prefix, b.Prefix) })
	return c, chains
}

func encode(t testing.TB, c *Clock, now ingest.Time, chains []Chain) []byte {
	var b bytes.Buffer
	if err := Write(&b, c, now, len(chains), slices.Values(chains)); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func decode(data []byte) (*Clock, []Chain, error) {
	c := NewClock(halfLife)
	h := New(c)
	var chains []Chain
	err := Read(data, c, func(p netip.Prefix, pairs []Pair) error {
		ch := Chain{p, h, 0}
		for _, q := range pairs {
			h.Append(&ch.Head, q)
		}
		chains = append(chains, ch)
		return nil
	})
	return c, chains, err
}

func TestFileKeepsEverything(t *testing.T) {
	now := after(24 * time.Hour)
	c, chains := made(1000)
	data := encode(t, c, now, chains)
	c2, chains2, err := decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(chains2) != len(chains) || c.State() != c2.State() {
		t.Fatalf("%d prefixes, clock %+v; want %d, %+v", len(chains2), c2.State(), len(chains), c.State())
	}
	facts := func(ch Chain) (fs []Facts) {
		ch.History.Each(ch.Head, func(p *Pair) bool { fs = append(fs, ch.History.Facts(p, now, 40)); return true })
		return fs
	}
	for i := range chains {
		if diff := cmp.Diff(facts(chains[i]), facts(chains2[i])); diff != "" || chains[i].Prefix != chains2[i].Prefix {
			t.Fatalf("%s: (-saved +read)\n%s", chains[i].Prefix, diff)
		}
	}
	if again := encode(t, c2, now, chains2); !bytes.Equal(data, again) {
		t.Error("what was read is written differently")
	}
	t.Logf("%.1f bytes a pair on disk", float64(len(data))/float64(len(chains)))
}

func TestDamagedFilesAreRefused(t *testing.T) {
	c, chains := made(20)
	data := encode(t, c, after(24*time.Hour), chains)
	for i := range data {
		if _, got, err := decode(data[:i]); err == nil || len(got) > 0 {
			t.Fatalf("the first %d of %d bytes were taken", i, len(data))
		}
		damaged := slices.Clone(data)
		damaged[i] ^= 0x10
		if _, got, err := decode(damaged); err == nil || len(got) > 0 {
			t.Fatalf("a wrong byte at %d was taken", i)
		}
	}
}

// A failure while writing leaves the file that was there, and nothing beside it.
func TestWriteFileIsAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	write := func(text string, err error) error {
		return WriteFile(path, func(w io.Writer) error { io.WriteString(w, text); return err })
	}
	if err := write("old", nil); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no room")
	if err := write("new", full); !errors.Is(err, full) {
		t.Fatal(err)
	}
	if data, err := ReadFile(path); err != nil || string(data) != "old" {
		t.Errorf("%q, %v", data, err)
	}
	if err := write("new", nil); err != nil {
		t.Fatal(err)
	}
	if data, err := ReadFile(path); err != nil || string(data) != "new" {
		t.Errorf("%q, %v", data, err)
	}
	if files, _ := os.ReadDir(filepath.Dir(path)); len(files) != 1 {
		t.Errorf("%v are left", files)
	}
}

var packer, _ = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))

// sealed makes a file of a body.
func sealed(body []byte) []byte {
	data := binary.LittleEndian.AppendUint16([]byte(magic), version)
	data = packer.EncodeAll(body, data)
	sum := sha256.Sum256(data)
	return append(data, sum[:]...)
}

// FuzzRead reads bodies under a checksum that is right. What is taken is written the same again.
func FuzzRead(f *testing.F) {
	for _, n := range []int{0, 1, 9} {
		c, chains := made(n)
		data := encode(f, c, after(24*time.Hour), chains)
		z, _ := zstd.NewReader(nil)
		body, err := z.DecodeAll(data[len(magic)+2:len(data)-sha256.Size], nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(body)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 1<<16 {
			return
		}
		c, chains, err := decode(sealed(body))
		if err != nil {
			return
		}
		sum := 0
		for _, ch := range chains {
			ch.History.Each(ch.Head, func(p *Pair) bool {
				ch.History.Facts(p, start, 3)
				sum++
				return true
			})
		}
		again := encode(t, c, 0, chains)
		if _, chains2, err := decode(again); err != nil || len(chains2) != len(chains) {
			t.Fatalf("written again: %v, %d of %d prefixes, %d pairs", err, len(chains2), len(chains), sum)
		}
	})
}

// TestMemory measures a million pairs, as many as the whole table of 2026 has.
func TestMemory(t *testing.T) {
	const pairs = 1_000_000
	heads := make([]Ref, pairs) // what names the prefixes is the table's and not counted here
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // what is pooled goes with the second
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	h := New(NewClock(halfLife))
	for i := range heads {
		p := h.Count(&heads[i], uint32(i), 30, after(time.Duration(i)*time.Millisecond))
		p.MarkUsual(true)
		p.Observe(3356, 1299)
	}
	per := float64(heap()-before) / pairs
	t.Logf("%.2f bytes a pair", per)
	if per > 64 || h.Len() != pairs {
		t.Errorf("%d pairs of %.2f bytes; the budget is 64", h.Len(), per)
	}
	runtime.KeepAlive(h)
	runtime.KeepAlive(heads)
}

func TestCountDoesNotAllocate(t *testing.T) {
	h := New(NewClock(halfLife))
	var head Ref
	h.Count(&head, 64500, 3, start)
	now := start
	if n := testing.AllocsPerRun(1000, func() {
		now = now.Add(time.Minute)
		h.Count(&head, 64500, 1, now)
		h.Count(&head, 64500, -1, now).Observe(3356, 1299)
	}); n != 0 {
		t.Errorf("counting a route allocates %v times", n)
	}
}

func BenchmarkCount(b *testing.B) {
	h := New(NewClock(halfLife))
	var head Ref
	h.Count(&head, 64500, 3, start)
	now := start
	b.ReportAllocs()
	for b.Loop() {
		now = now.Add(time.Minute)
		h.Count(&head, 64500, 1, now)
		h.Count(&head, 64500, -1, now).Observe(3356, 1299)
	}
}

func BenchmarkWrite(b *testing.B) {
	c, chains := made(100_000)
	var size int
	for b.Loop() {
		size = len(encode(b, c, after(24*time.Hour), chains))
	}
	b.ReportMetric(float64(size)/float64(len(chains)), "B/prefix")
}

func ExampleFacts() {
	h := New(NewClock(halfLife))
	var head Ref
	h.Count(&head, 64500, 2, start)
	f := h.Facts(h.Find(head, 64500), start, 4)
	fmt.Println(f.ASN, f.TimeShare, f.PeerShare)
	// Output: 64500 1 0.5
}
