package mirror

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/irr/nrtm"
	"github.com/routevigil/routevigil/detect/irr/nrtm/nrtmtest"
	"github.com/routevigil/routevigil/detect/irr/rpsl"
	"github.com/routevigil/routevigil/ingest/download"
)

// follower is a mirror, and what is in use of it.
type follower struct {
	*Mirror
	t    *testing.T
	used *irr.Database
}

func newFollower(t *testing.T, r *nrtmtest.Registry, c Configuration, path string, patience time.Duration) *follower {
	t.Helper()
	f := &follower{t: t}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	var client *download.Client
	r.Trusted(func() {
		client = download.New(download.Patience{StallAfter: patience, Attempts: 1}, "test", func(string) error { return nil }, slog.New(slog.DiscardHandler))
	})
	t.Cleanup(client.Close)
	f.Mirror = New(c, path, client, 1<<30, func(db *irr.Database) { f.used = db }, NewMetrics(prometheus.NewRegistry()), slog.New(slog.DiscardHandler))
	f.idle = patience
	return f
}

// origins are registered for a prefix.
func (f *follower) origins(prefix string) (list []uint32) {
	for _, r := range f.used.Check(netip.MustParsePrefix(prefix), 0).Routes {
		list = append(list, r.Origin)
	}
	return list
}

// follow updates, which must fail for a reason, or for none.
func (f *follower) follow(reason string) {
	f.t.Helper()
	before := 0.0
	if reason != "" {
		before = testutil.ToFloat64(f.metrics.failures.WithLabelValues("TEST", reason))
	}
	loaded, err := f.Follow(f.t.Context())
	switch {
	case reason == "" && err != nil:
		f.t.Fatal(err)
	case reason != "" && (err == nil || !strings.HasPrefix(err.Error(), reason+": ")):
		f.t.Fatalf("error %v, want one for reason %q", err, reason)
	case reason != "" && testutil.ToFloat64(f.metrics.failures.WithLabelValues("TEST", reason)) != before+1:
		f.t.Errorf("%s is not counted", reason)
	case f.used != nil && loaded.Entries != f.used.Counts().Routes:
		f.t.Errorf("%d entries are in use, not %d", loaded.Entries, f.used.Counts().Routes)
	}
}

func (f *follower) expect(prefix string, origins ...uint32) {
	f.t.Helper()
	if got := f.origins(prefix); !slices.Equal(got, origins) {
		f.t.Fatalf("%s is registered for %v, want %v", prefix, got, origins)
	}
}

var versions = map[string]func(*nrtmtest.Registry) Configuration{
	"version 4": func(r *nrtmtest.Registry) Configuration {
		return Configuration{Source: "TEST", NRTM4: r.Address, Key: r.Key}
	},
	"version 3": func(r *nrtmtest.Registry) Configuration {
		return Configuration{Source: "TEST", NRTM3: r.Server, Dumps: []string{r.Dump}, Serial: r.Serial}
	},
}

const first, second, third = "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"

// How long a server may be silent: one that will answer, and one that will not.
const lively, stalled = time.Minute, 3 * time.Second

func each(t *testing.T, test func(t *testing.T, r *nrtmtest.Registry, f *follower, restart func(patience time.Duration) *follower)) {
	for name, configuration := range versions {
		t.Run(name, func(t *testing.T) {
			r := nrtmtest.New(t)
			r.Add(nrtmtest.Route{Prefix: first, Origin: 1})
			r.Restart()
			path := filepath.Join(t.TempDir(), "knowledge", "irr-test.rpsl.gz")
			restart := func(patience time.Duration) *follower { return newFollower(t, r, configuration(r), path, patience) }
			test(t, r, restart(lively), restart)
			left, err := filepath.Glob(path + ".*")
			if err != nil || len(slices.DeleteFunc(left, func(p string) bool { return strings.Contains(p, ".fetch.") })) > 0 {
				t.Errorf("what is left: %v, %v", left, err)
			}
		})
	}
}

// Changes are followed, and a restart has them also while the registry is away, and goes on from there.
func TestFollows(t *testing.T) {
	each(t, func(t *testing.T, r *nrtmtest.Registry, f *follower, restart func(time.Duration) *follower) {
		if l, _ := f.Begin(); l.Entries != 0 || f.used != nil {
			t.Errorf("something was there at first: %+v", l)
		}
		f.follow("")
		f.expect(first, 1)
		f.follow("")
		r.Add(nrtmtest.Route{Prefix: second, Origin: 2}, nrtmtest.Route{Prefix: second, Origin: 3})
		r.Remove(nrtmtest.Route{Prefix: first, Origin: 1}, nrtmtest.Route{Prefix: second, Origin: 2})
		f.follow("")
		f.expect(first)
		f.expect(second, 3)
		r.Fail(nrtmtest.Down)
		f = restart(lively)
		if l, current := f.Begin(); l.Entries != 1 || time.Since(current) > time.Minute || l.Serial == "" {
			t.Errorf("the restart has %+v of %v", l, current)
		}
		f.expect(second, 3)
		reason := nrtm.Unreachable
		if f.c.NRTM3 != "" {
			reason = nrtm.Malformed // its connections end at once
		}
		f.follow(reason)
		f.expect(second, 3)
		r.Fail(nrtmtest.None)
		r.Add(nrtmtest.Route{Prefix: third, Origin: 4})
		if f.c.NRTM3 != "" {
			f.c.Dumps = []string{"/nowhere"} // which is not needed
		}
		f.follow("")
		f.expect(third, 4)
		f.expect(second, 3)
	})
}

// Whatever goes wrong, what is in use stays, and once it is over the mirror goes on.
func TestTrouble(t *testing.T) {
	for name, c := range map[string]struct {
		trouble  nrtmtest.Trouble
		restart  bool // of the registry, which then has a new session and no old changes
		v4, v3   string
		old3, to []uint32 // what is known of the second prefix meanwhile in version 3, and afterwards
	}{
		"away":                      {nrtmtest.Down, false, nrtm.Unreachable, nrtm.Malformed, nil, []uint32{2}},
		"another's signature":       {nrtmtest.Forged, false, nrtm.Signature, "", []uint32{2}, []uint32{2}},
		"cut short":                 {nrtmtest.Cut, false, nrtm.Malformed, nrtm.Malformed, []uint32{2}, []uint32{2}}, // what came is whole
		"a stall":                   {nrtmtest.Stall, false, nrtm.Unreachable, nrtm.Unreachable, []uint32{2}, []uint32{2}},
		"a new session":             {nrtmtest.None, true, "", nrtm.Gap, nil, []uint32{2}},
		"a new session, cut short":  {nrtmtest.Cut, true, nrtm.Malformed, nrtm.Gap, nil, []uint32{2}},
		"a new session and a stall": {nrtmtest.Stall, true, nrtm.Unreachable, nrtm.Gap, nil, []uint32{2}},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, r *nrtmtest.Registry, f *follower, restart func(time.Duration) *follower) {
				f.follow("")
				r.Add(nrtmtest.Route{Prefix: second, Origin: 2}, nrtmtest.Route{Prefix: third, Origin: 3})
				if c.restart {
					r.Restart()
				}
				r.Fail(c.trouble)
				reason, meanwhile := c.v4, []uint32(nil)
				if f.c.NRTM3 != "" {
					reason, meanwhile = c.v3, c.old3
				} else if reason == "" {
					meanwhile = c.to
				}
				if c.trouble == nrtmtest.Stall {
					f = restart(stalled)
					f.Begin()
				}
				f.follow(reason)
				f.expect(first, 1)
				f.expect(second, meanwhile...)
				again := restart(lively) // as after a kill: the copy is what was in use
				again.Begin()
				again.expect(first, 1)
				again.expect(second, meanwhile...)
				r.Fail(nrtmtest.None)
				f = again
				f.state.Dumped = f.state.Dumped.Add(-dumpEvery) // the dumps may be read again
				f.follow("")
				f.expect(first, 1)
				f.expect(second, c.to...)
				f.expect(third, 3)
			})
		})
	}
}

// A registry of which much is gone at once is held back for an hour, and then believed.
func TestLoss(t *testing.T) {
	each(t, func(t *testing.T, r *nrtmtest.Registry, f *follower, restart func(time.Duration) *follower) {
		var many []nrtmtest.Route
		for i := range 2 * lossFloor {
			many = append(many, nrtmtest.Route{Prefix: fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255), Origin: 1})
		}
		r.Add(many...)
		f.follow("")
		r.Remove(many[:50]...)
		f.follow("")
		f.expect(many[0].Prefix)
		r.Remove(many[50:500]...)
		f.follow(Loss)
		f.expect(many[50].Prefix, 1)
		again := restart(lively)
		again.Begin()
		again.expect(many[50].Prefix, 1)
		if serial := again.loaded().Serial; serial != f.loaded().Serial {
			t.Errorf("the copy is of %s, what is in use of %s", serial, f.loaded().Serial)
		}
		f.follow(Loss)
		f.lossSince = f.lossSince.Add(-holdBack)
		f.follow("")
		f.expect(many[50].Prefix)
	})
}

func TestSilence(t *testing.T) {
	r := nrtmtest.New(t)
	r.Add(nrtmtest.Route{Prefix: first, Origin: 1})
	r.Fail(nrtmtest.Silent)
	f := newFollower(t, r, versions["version 4"](r), filepath.Join(t.TempDir(), "x"), lively)
	f.follow(Silence)
	f.expect(first, 1)
	if age := time.Since(f.loaded().AsOf); age < 47*time.Hour {
		t.Errorf("its age is %v", age)
	}
}

// An update holds no more than it may: version 3 goes on with the next one, version 4 takes the snapshot in the end.
func TestTooMuch(t *testing.T) {
	each(t, func(t *testing.T, r *nrtmtest.Registry, f *follower, _ func(time.Duration) *follower) {
		f.follow("")
		var many []nrtmtest.Route
		for i := range 4000 {
			many = append(many, nrtmtest.Route{Prefix: fmt.Sprintf("10.%d.%d.0/24", i>>8, i&255), Origin: 1})
		}
		r.Add(many...)
		f.memory = 1 << 17
		for n := 0; ; n++ {
			_, err := f.Follow(t.Context())
			if err == nil {
				break
			}
			if n == 100 || reasonOf(err) != TooMuch && !strings.HasPrefix(err.Error(), TooMuch) {
				t.Fatal(err)
			}
		}
		f.expect(many[len(many)-1].Prefix, 1)
	})
}

// A copy that is damaged, or another's, is fetched anew; so is one that is damaged while it is in use.
func TestDamagedCopy(t *testing.T) {
	each(t, func(t *testing.T, r *nrtmtest.Registry, f *follower, restart func(time.Duration) *follower) {
		f.follow("")
		whole, err := os.ReadFile(f.path)
		if err != nil {
			t.Fatal(err)
		}
		for n := range whole {
			if err := os.WriteFile(f.path, whole[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			if l, _ := restart(lively).Begin(); l.Entries != 0 {
				t.Fatalf("the first %d bytes of %d are taken for a copy: %+v", n, len(whole), l)
			}
		}
		r.Add(nrtmtest.Route{Prefix: second, Origin: 2})
		f.follow(Disk)
		f.expect(first, 1)
		f.follow("")
		f.expect(second, 2)
		other := restart(lively)
		other.c.NRTM4, other.c.NRTM3 = "https://irr.example/other", ""
		if l, _ := other.Begin(); l.Entries != 0 {
			t.Errorf("another's copy is used: %+v", l)
		}
	})
}

// A hostile copy is read or refused.
func FuzzCopy(f *testing.F) {
	f.Add([]byte("% {\"serial\":1}\n\nroute:192.0.2.0/24\norigin:AS1\nsource:TEST\n\n"))
	f.Add([]byte("% {}"))
	f.Add([]byte("route:x\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "copy")
		c, err := create(path)
		if err != nil {
			t.Fatal(err)
		}
		if c.write(text); c.finish() != nil {
			t.Fatal(c.err)
		}
		b := irr.NewBuilder(nil)
		if _, err := read(path, func(_ []byte, o *rpsl.Object) error { b.Add(o); return nil }); err == nil && text[0] != '%' {
			t.Errorf("%q is taken for a copy", text)
		}
	})
}

func TestConfiguration(t *testing.T) {
	r := nrtmtest.New(t)
	for name, configuration := range versions {
		for want, change := range map[string]func(*Configuration){
			"no name":         func(c *Configuration) { c.Source = "../x" },
			"give either":     func(c *Configuration) { c.NRTM4, c.NRTM3 = r.Address, r.Server },
			"give either ":    func(c *Configuration) { c.NRTM4, c.NRTM3 = "", "" },
			"no effect":       func(c *Configuration) { c.Serial, c.Key = r.Serial, r.Key },
			"https://":        func(c *Configuration) { c.NRTM4, c.NRTM3 = "http://irr.example/x", "" },
			"public key":      func(c *Configuration) { c.NRTM4, c.NRTM3, c.Key = r.Address, "", "x" },
			"not host:port":   func(c *Configuration) { c.NRTM4, c.NRTM3 = "", "irr.example" },
			"dumps and seria": func(c *Configuration) { c.NRTM4, c.NRTM3, c.Dumps = "", r.Server, nil },
		} {
			c := configuration(r)
			if err := c.Validate(); err != nil {
				t.Fatal(err)
			}
			change(&c)
			if err := c.Validate(); err == nil || !strings.Contains(err.Error(), strings.TrimSpace(want)) {
				t.Errorf("%s: error %v, want %q", name, err, want)
			}
		}
	}
}

// BenchmarkUpdate has one route in 1000 of a registry of a million change.
func BenchmarkUpdate(b *testing.B) {
	const routes = 1_000_000
	m := New(Configuration{Source: "TEST", NRTM3: "irr.example:43"}, filepath.Join(b.TempDir(), "copy"), nil, 0, func(*irr.Database) {}, nil, slog.New(slog.DiscardHandler))
	change := func(n, step int, origin uint32) {
		u := m.newUpdate(b.Context())
		defer u.end()
		if n == routes {
			u.Drop("TEST")
		}
		for i := range n {
			i *= step
			var o rpsl.Object
			if err := o.Parse(fmt.Appendf(nil, "route: 10.%d.%d.%d/32\norigin: AS%d\nmnt-by: MAINT-AS%d\nsource: TEST\n", i>>16, i>>8&255, i&255, i%70000+1, origin)); err != nil {
				b.Fatal(err)
			}
			u.Add(&o)
		}
		if err := m.finish(u, state{Serial: uint64(origin)}); err != nil {
			b.Fatal(err)
		}
	}
	change(routes, 1, 1)
	info, err := os.Stat(m.path)
	if err != nil {
		b.Fatal(err)
	}
	for n := uint32(2); b.Loop(); n++ {
		change(routes/1000, 1000, n)
	}
	b.ReportMetric(float64(info.Size())/routes, "disk-bytes/route")
}

// What is in use after updates is what the copy holds.
func TestUpdatesAsTheCopy(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	m := New(Configuration{Source: "TEST", NRTM3: "irr.example:43"}, filepath.Join(t.TempDir(), "copy"), nil, 0, func(*irr.Database) {}, nil, slog.New(slog.DiscardHandler))
	object := func() *rpsl.Object {
		n := r.IntN(40)
		text := fmt.Sprintf("route: 10.%d.0.0/16\norigin: AS%d\nmember-of: RS-%d\nmnt-by: M%d\nsource: TEST\n", n, 1+r.IntN(3), r.IntN(3), r.IntN(3))
		switch r.IntN(4) {
		case 0:
			text = fmt.Sprintf("as-set: AS-%d\nmembers: AS%d, AS-%d\nsource: TEST\n", n, 1+r.IntN(100), r.IntN(40))
		case 1:
			text = fmt.Sprintf("aut-num: AS%d\nimport: from AS%d accept ANY\nexport: to AS1 announce AS-%d\nsource: TEST\n", 1+n, 1+r.IntN(100), r.IntN(40))
		}
		var o rpsl.Object
		if err := o.Parse([]byte(text)); err != nil {
			t.Fatal(err)
		}
		return &o
	}
	for step := range 60 {
		u := m.newUpdate(t.Context())
		if step%20 == 0 {
			u.Drop("TEST")
		}
		for range 30 {
			if r.IntN(3) == 0 {
				u.Remove(object())
			} else {
				u.Add(object())
			}
		}
		if err := m.finish(u, state{Serial: uint64(step)}); err != nil {
			t.Fatal(err)
		}
		u.end()
		b := irr.NewBuilder(nil)
		if _, err := read(m.path, func(_ []byte, o *rpsl.Object) error { b.Add(o); return nil }); err != nil {
			t.Fatal(err)
		}
		want := b.Build()
		if diff := cmp.Diff(want.Counts(), m.db.Counts()); diff != "" {
			t.Fatalf("step %d (-copy +in use):\n%s", step, diff)
		}
		for n := range 40 {
			for origin := range uint32(4) {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n)}), 16)
				if diff := cmp.Diff(want.Check(p, origin), m.db.Check(p, origin), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
					t.Fatalf("step %d, %v by AS%d (-copy +in use):\n%s", step, p, origin, diff)
				}
			}
			if diff := cmp.Diff(want.ASSet(fmt.Sprintf("AS-%d", n)), m.db.ASSet(fmt.Sprintf("AS-%d", n))); diff != "" {
				t.Fatalf("step %d, AS-%d (-copy +in use):\n%s", step, n, diff)
			}
			if diff := cmp.Diff(want.Cone(uint32(n), 1000), m.db.Cone(uint32(n), 1000)); diff != "" {
				t.Fatalf("step %d, the cone of AS%d (-copy +in use):\n%s", step, n, diff)
			}
		}
	}
}
