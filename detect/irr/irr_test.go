package irr

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/routevigil/routevigil/detect/irr/rpsl"
)

var cmpPrefix = cmpopts.EquateComparable(netip.Prefix{})

func build(t testing.TB, text string) *Database {
	t.Helper()
	b := NewBuilder(nil)
	if err := b.Read(strings.NewReader(text), "test"); err != nil {
		t.Fatal(err)
	}
	return b.Build()
}

func object(t testing.TB, text string) *rpsl.Object {
	t.Helper()
	var o rpsl.Object
	if err := o.Parse([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return &o
}

const routes = `
route: 192.0.2.0/24
origin: AS64500
source: RADB

route: 192.0.2.0/24
origin: AS64501
source: RIPE

route: 192.0.0.0/16
origin: AS64502
source: ARIN

route: 198.51.100.0/24
origin: as64503 # as somebody wrote it
source: altdb

route: 203.0.113.0/24
origin: AS1.10
source: MINE

route: 203.0.113.0/24
origin: AS64500
source: RIPE-NONAUTH

route6: 2001:db8::/32
origin: AS64500
source: APNIC
`

func TestCheck(t *testing.T) {
	d := build(t, routes)
	route := func(p string, origin uint32, source string, rir bool) Route {
		return Route{netip.MustParsePrefix(p), origin, source, rir}
	}
	radb, ripe := route("192.0.2.0/24", 64500, "RADB", false), route("192.0.2.0/24", 64501, "RIPE", true)
	arin, apnic := route("192.0.0.0/16", 64502, "ARIN", true), route("2001:db8::/32", 64500, "APNIC", true)
	for _, c := range []struct {
		prefix string
		origin uint32
		want   Answer
	}{
		{"192.0.2.0/24", 64501, Answer{Registered, true, []Route{ripe}, nil}},
		{"192.0.2.0/24", 64500, Answer{Registered, true, []Route{radb}, []Route{ripe}}},
		{"192.0.2.0/24", 64502, Answer{Registered, false, []Route{arin}, nil}},
		{"192.0.2.0/24", 64999, Answer{Contradicted, true, []Route{ripe, radb, arin}, nil}},
		{"192.0.2.0/24", 0, Answer{Contradicted, true, []Route{ripe, radb, arin}, nil}},
		{"192.0.2.128/25", 64501, Answer{Registered, false, []Route{ripe}, nil}},
		{"192.0.3.0/24", 64999, Answer{Contradicted, false, []Route{arin}, nil}},
		{"192.1.0.0/16", 64502, Answer{State: NotFound}},
		{"192.0.0.0/15", 64502, Answer{State: NotFound}},
		{"198.51.100.0/24", 64503, Answer{Registered, true, []Route{route("198.51.100.0/24", 64503, "ALTDB", false)}, nil}},
		{"203.0.113.0/24", 65546, Answer{Registered, true, []Route{route("203.0.113.0/24", 65546, "MINE", false)}, nil}},
		{"203.0.113.0/24", 1, Answer{Contradicted, true, []Route{route("203.0.113.0/24", 64500, "RIPE-NONAUTH", false), route("203.0.113.0/24", 65546, "MINE", false)}, nil}},
		{"2001:db8:1::/48", 64500, Answer{Registered, false, []Route{apnic}, nil}},
		{"2001:db8::/32", 64501, Answer{Contradicted, true, []Route{apnic}, nil}},
		{"2001:db9::/32", 64500, Answer{State: NotFound}},
		{"0.0.0.0/0", 64500, Answer{State: NotFound}},
	} {
		p := netip.MustParsePrefix(c.prefix)
		if diff := cmp.Diff(c.want, d.Check(p, c.origin), cmpPrefix); diff != "" {
			t.Errorf("%s by AS%d (-want +got):\n%s", p, c.origin, diff)
		}
		if s := d.State(p, c.origin); s != c.want.State {
			t.Errorf("%s by AS%d: State says %s, Check %s", p, c.origin, s, c.want.State)
		}
	}
	if diff := cmp.Diff([]string{"RIPE", "APNIC", "ARIN", "RADB", "ALTDB", "RIPE-NONAUTH", "MINE"}, d.Sources()); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
}

func TestNilDatabase(t *testing.T) {
	var d *Database
	p := netip.MustParsePrefix("192.0.2.0/24")
	if d.State(p, 1) != Unavailable || d.Check(p, 1).State != Unavailable || d.AutNum(1) != nil || d.Sources() != nil || d.Source() != "" {
		t.Error("a missing database answers")
	}
	if x := d.ASSet("AS-X"); len(x.ASNs) > 0 || len(x.Missing) != 1 {
		t.Errorf("%+v", x)
	}
	if x := d.RouteSet("RS-X"); len(x.Ranges) > 0 || len(x.Missing) != 1 {
		t.Errorf("%+v", x)
	}
	if x := d.Cone(1); !slices.Equal(x.ASNs, []uint32{1}) {
		t.Errorf("%+v", x)
	}
}

func TestOrderOfSources(t *testing.T) {
	b := NewBuilder([]string{"mine", "radb"})
	if err := b.Read(strings.NewReader(routes), "test"); err != nil {
		t.Fatal(err)
	}
	d := b.Build()
	if diff := cmp.Diff([]string{"MINE", "RADB", "ALTDB", "APNIC", "ARIN", "RIPE", "RIPE-NONAUTH"}, d.Sources()); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
	if a := d.Check(netip.MustParsePrefix("192.0.2.0/24"), 64999); a.Routes[0].Source != "RADB" {
		t.Errorf("the best source is not first: %+v", a)
	}
	// That RADB ranks first makes it no authority.
	if a := d.Check(netip.MustParsePrefix("192.0.2.0/24"), 64500); len(a.Against) != 1 || a.Against[0].Source != "RIPE" {
		t.Errorf("RIPE does not speak against RADB: %+v", a)
	}
}

func TestMalformed(t *testing.T) {
	d := build(t, `
route: 192.0.2.1/24
origin: AS1
source: T

route: 2001:db8::/32
origin: AS1
source: T

route6: 192.0.2.0/24
origin: AS1
source: T

route6: ::ffff:192.0.2.0/120
origin: AS1
source: T

route: 10.0.0.0/7
origin: AS1
source: T

route6: 2000::/3
origin: AS1
source: T

route: 192.0.2.0/24
origin: 1
source: T

route: 192.0.2.0/24
origin: AS0
source: T

route: 192.0.2.0/24
source: T

route: 192.0.2.0/24
origin: AS1

as-set: RS-X
source: T

as-set: AS-X:RS-Y
source: T

as-set: AS1
source: T

route-set: RS-Ü
source: T

aut-num: ASX
source: T

person: P
source: T

mntner: M
source: T

route: 192.0.2.0/24 x
origin: AS1
source: T
`)
	want := map[string]uint64{BadPrefix: 5, TooShort: 2, BadOrigin: 3, NoSource: 1, BadName: 5}
	if diff := cmp.Diff(want, d.Counts().Malformed); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if c := d.Counts(); c.Routes+c.Sets+c.AutNums != 0 || c.Skipped != 2 {
		t.Errorf("%+v", c)
	}
}

func TestTooManySources(t *testing.T) {
	var b strings.Builder
	for i := range MaxSources + 2 {
		fmt.Fprintf(&b, "route: 192.0.2.0/24\norigin: AS%d\nsource: S%d\n\n", i+1, i)
	}
	if c := build(t, b.String()).Counts(); c.Routes != MaxSources || c.Malformed[TooManySources] != 2 {
		t.Errorf("%+v", c)
	}
}

func TestReadFiles(t *testing.T) {
	dir := t.TempDir()
	good, bad, twice := filepath.Join(dir, "good.db"), filepath.Join(dir, "bad.db"), filepath.Join(dir, "twice.db")
	for name, text := range map[string]string{good: routes, bad: "<html>not found</html>\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(twice, []byte("as-set: AS-X\nmembers: AS1\nsource: T\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := ReadFiles([]string{twice, twice}, []string{twice, twice}, nil); err != nil || d.Counts().Sets != 1 {
		t.Errorf("a file twice: %v, %+v", err, d.Counts())
	}
	d, err := ReadFiles([]string{good}, []string{good}, nil)
	if err != nil || d.Source() != good || d.Counts().Routes != 7 || d.Counts().Prefixes != 5 {
		t.Errorf("%v, %+v", err, d.Counts())
	}
	for name, want := range map[string]string{bad: "IRR " + bad + ": holds no object of use", dir + "/none": "IRR " + dir + "/none: no such file or directory"} {
		if _, err := ReadFiles([]string{good, name}, []string{good, name}, nil); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

// model is the plainest database of routes: a list.
type model map[Route]bool

func (m model) check(p netip.Prefix, origin uint32) (s State, exact bool) {
	s = NotFound
	for r := range m {
		if r.Prefix.Bits() > p.Bits() || !r.Prefix.Contains(p.Addr()) {
			continue
		}
		switch {
		case r.Origin == origin:
			if s != Registered {
				exact = false
			}
			s, exact = Registered, exact || r.Prefix == p
		case s != Registered:
			s, exact = Contradicted, exact || r.Prefix == p
		}
	}
	return s, exact
}

// Databases that are built, edited and edited again answer as a list of the same routes does.
func TestAgainstModel(t *testing.T) {
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		bits := rapid.IntRange(0, 12).Draw(t, "bits")
		if rapid.Bool().Draw(t, "IPv6") {
			a := [16]byte{0x20, 1, 7: byte(rapid.IntRange(0, 255).Draw(t, "a")), 8: byte(rapid.IntRange(0, 255).Draw(t, "b"))}
			return netip.PrefixFrom(netip.AddrFrom16(a), 58+bits).Masked()
		}
		a := [4]byte{10, byte(rapid.IntRange(0, 255).Draw(t, "a")), byte(rapid.IntRange(0, 255).Draw(t, "b"))}
		return netip.PrefixFrom(netip.AddrFrom4(a), 8+bits).Masked()
	})
	origin := rapid.Uint32Range(1, 4)
	source := rapid.SampledFrom([]string{"RIPE", "RADB", "ALTDB", "B", "A"})
	rapid.Check(t, func(t *rapid.T) {
		m, b := model{}, NewBuilder(nil)
		var d *Database
		for range rapid.IntRange(1, 4).Draw(t, "generations") {
			for range rapid.IntRange(0, 30).Draw(t, "changes") {
				r := Route{Prefix: prefix.Draw(t, "prefix"), Origin: origin.Draw(t, "origin"), Source: source.Draw(t, "source")}
				if len(m) > 0 && rapid.Bool().Draw(t, "known") {
					r = rapid.SampledFrom(slices.SortedFunc(mapKeys(m), compareRoutes)).Draw(t, "route")
				}
				class := "route"
				if r.Prefix.Addr().Is6() {
					class = "route6"
				}
				var o rpsl.Object
				if err := o.Parse(fmt.Appendf(nil, "%s: %s\norigin: AS%d\nsource: %s", class, r.Prefix, r.Origin, r.Source)); err != nil {
					t.Fatal(err)
				}
				switch rapid.IntRange(0, 9).Draw(t, "what") {
				case 0:
					b.Drop(r.Source)
					for old := range m {
						if old.Source == r.Source {
							delete(m, old)
						}
					}
				case 1, 2, 3:
					b.Remove(&o)
					delete(m, r)
				default:
					b.Add(&o)
					m[r] = true
				}
			}
			d = b.Build()
			b = d.Edit()
		}
		if n := d.Counts().Routes; n != len(m) {
			t.Fatalf("%d routes, want %d", n, len(m))
		}
		for range 20 {
			p, o := prefix.Draw(t, "asked"), origin.Draw(t, "origin")
			a := d.Check(p, o)
			if s, exact := m.check(p, o); a.State != s || a.Exact != exact || d.State(p, o) != s {
				t.Fatalf("%s by AS%d: %+v, want %s, exact %v", p, o, a, s, exact)
			}
		}
		seen := model{}
		d.OriginatedBy(map[uint32]bool{1: true, 3: true}, func(r Route) bool {
			r.Authoritative = false
			seen[r] = true
			return true
		})
		for r := range m {
			if r.Origin%2 == 0 {
				delete(m, r)
			}
		}
		if diff := cmp.Diff(m, seen, cmpPrefix); diff != "" {
			t.Fatalf("originated (-want +got):\n%s", diff)
		}
	})
}

func mapKeys(m model) func(func(Route) bool) {
	return func(yield func(Route) bool) {
		for r := range m {
			if !yield(r) {
				return
			}
		}
	}
}

func compareRoutes(a, b Route) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) }

// An edit changes nothing of the database that it started from.
func TestEditLeavesTheBase(t *testing.T) {
	base := build(t, routes+"\nas-set: AS-X\nmembers: AS1\nsource: RIPE\n\naut-num: AS1\nexport: to AS2 announce ANY\nsource: RIPE\n")
	b := base.Edit()
	b.Add(object(t, "as-set: AS-X\nmembers: AS2\nsource: RIPE"))
	b.Remove(object(t, "aut-num: AS1\nsource: RIPE"))
	b.Add(object(t, "route: 198.51.100.0/24\norigin: AS1\nsource: RIPE"))
	b.Add(object(t, "route: 198.51.100.0/24\norigin: AS2\nsource: AFRINIC")) // ranks between others
	edited := b.Build()
	p := netip.MustParsePrefix("198.51.100.0/24")
	if base.State(p, 1) != Contradicted || edited.State(p, 1) != Registered || edited.State(p, 64503) != Registered {
		t.Error("the route")
	}
	if a := edited.Check(p, 9); len(a.Routes) != 3 || a.Routes[0].Source != "RIPE" || a.Routes[1].Source != "AFRINIC" || a.Routes[2].Source != "ALTDB" {
		t.Errorf("%+v", a)
	}
	if base.AutNum(1) == nil || edited.AutNum(1) != nil {
		t.Error("the aut-num")
	}
	if x, y := base.ASSet("AS-X"), edited.ASSet("AS-X"); !slices.Equal(x.ASNs, []uint32{1}) || !slices.Equal(y.ASNs, []uint32{2}) {
		t.Errorf("the set: %v, %v", x, y)
	}
	b = edited.Edit()
	b.Drop("RIPE")
	if d := b.Build(); d.State(p, 1) != Contradicted || len(d.ASSet("AS-X").Missing) != 1 {
		t.Error("dropped")
	}
}

var leadingZeros = regexp.MustCompile(`\b0+([0-9])`)

func TestParsePrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.StringMatching(`[0-9]{1,3}(\.[0-9]{1,3}){2,4}/[0-9]{1,3}`), rapid.StringMatching(`[0-9a-f:]{2,12}/[0-9]{1,3}`),
			rapid.SampledFrom([]string{"", "/", "1.2.3.4", "10.0.0.0/08", "10.0.0.0/", "::/0", "fe80::%x/64", "010.0.0.0/8"})).Draw(t, "text")
		got, ok := parsePrefix([]byte(s))
		plain := s
		if strings.Contains(s, ".") { // zeros may lead in IPv4, as some registries write it
			plain = leadingZeros.ReplaceAllString(s, "$1")
		}
		want, err := netip.ParsePrefix(plain)
		valid := err == nil && want == want.Masked() && !want.Addr().Is4In6()
		if ok != valid || ok && got != want {
			t.Fatalf("%q: %v, %v, want %v, %v", s, got, ok, want, valid)
		}
	})
}

func TestParseASN(t *testing.T) {
	for s, want := range map[string]uint32{"AS1": 1, "as4294967295": 4294967295, "AS1.10": 65546, "As65535.65535": 4294967295, "AS0": 0} {
		if n, ok := parseASN([]byte(s)); !ok || n != want {
			t.Errorf("%s: %d, %v", s, n, ok)
		}
	}
	for _, s := range []string{"", "AS", "1", "AS4294967296", "AS1.65536", "AS65536.1", "AS1.", "AS.1", "AS1.2.3", "AS-1", "AS 1", "AS99999999999"} {
		if n, ok := parseASN([]byte(s)); ok {
			t.Errorf("%q is read as %d", s, n)
		}
	}
}

// manyRoutes fills a builder with n route objects on prefixes such as registries hold.
func manyRoutes(b *Builder, n int) []netip.Prefix {
	random := rand.New(rand.NewPCG(1, 2))
	id, _ := b.source("RADB")
	ps := make([]netip.Prefix, n)
	for i := range ps {
		var a [4]byte
		binary.BigEndian.PutUint32(a[:], 1<<24+random.Uint32()%(223<<24))
		p := netip.PrefixFrom(netip.AddrFrom4(a), 24-int(random.ExpFloat64()*2)%16).Masked()
		ps[i] = p
		b.changes++
		b.v4 = append(b.v4, record[key4]{makeKey4(p), random.Uint32() % 70000, b.changes, id, false})
	}
	return ps
}

func TestStateAllocatesNothing(t *testing.T) {
	d := build(t, routes)
	p4, p6 := netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8:1::/48")
	if n := testing.AllocsPerRun(100, func() { d.State(p4, 1); d.State(p6, 1) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// What a route object costs: 5 bytes, and 16 for each prefix, plus what is too little to trim.
func TestMemoryOfRoutes(t *testing.T) {
	const n = 500_000
	b := NewBuilder(nil)
	manyRoutes(b, n)
	d := b.Build()
	used := cap(d.v4.keys)*8 + cap(d.v4.parents)*4 + cap(d.v4.first)*4 + cap(d.v4.origins)*4 + cap(d.v4.sources)
	want := d.Counts().Prefixes*16 + d.Counts().Routes*5
	t.Logf("%d bytes for %d routes of %d prefixes: %.1f a route", used, d.Counts().Routes, d.Counts().Prefixes, float64(used)/float64(d.Counts().Routes))
	if used > want*12/10 {
		t.Errorf("%d bytes, want about %d", used, want)
	}
	runtime.KeepAlive(d)
}

func BenchmarkState(b *testing.B) {
	for _, n := range []int{100_000, 4_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			builder := NewBuilder(nil)
			ps := manyRoutes(builder, n)
			d := builder.Build()
			rand.Shuffle(len(ps), func(i, j int) { ps[i], ps[j] = ps[j], ps[i] })
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				d.State(ps[i%len(ps)], 1)
				i++
			}
		})
	}
}

func BenchmarkBuild(b *testing.B) {
	const n = 1_000_000
	for b.Loop() {
		builder := NewBuilder(nil)
		manyRoutes(builder, n)
		builder.Build()
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/million")
}

// BenchmarkRead reads route objects into a database.
func BenchmarkRead(b *testing.B) {
	var text bytes.Buffer
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 200_000 {
		fmt.Fprintf(&text, "route:      %d.%d.%d.0/24\ndescr:      Some network\n            of somebody\norigin:     AS%d\nmnt-by:     MAINT-AS%d\nchanged:    noc@example.net 20210304  #10:11:12Z\nsource:     RADB\nlast-modified: 2023-11-13T15:44:26Z\n\n",
			1+random.Uint32()%223, i>>8&255, i&255, random.Uint32()%70000, i%5000)
	}
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		builder := NewBuilder(nil)
		if err := builder.Read(bytes.NewReader(text.Bytes()), "x"); err != nil {
			b.Fatal(err)
		}
		builder.Build()
	}
}
