package simulate

import (
	"fmt"
	"hash/fnv"
	"io"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/scorecard"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
)

// tiny is a world that is made in a moment.
func tiny(seed uint64) Configuration {
	c := DefaultConfiguration()
	c.Seed, c.ASes, c.Origins, c.Prefixes, c.Peers, c.Collectors = seed, 300, 100, 300, 24, 3
	c.Duration, c.Events, c.Churn, c.Failures = 4*time.Hour, Each(2), 0.2, 60
	return c
}

func made(t testing.TB, c Configuration) *scorecard.Case {
	t.Helper()
	k, err := Case(c)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// cases are some tiny worlds, by seed.
var cases = sync.OnceValues(func() ([]*scorecard.Case, error) {
	var made []*scorecard.Case
	for seed := range uint64(5) {
		k, err := Case(tiny(seed))
		if err != nil {
			return nil, err
		}
		made = append(made, k)
	}
	return made, nil
})

func someCases(t *testing.T) []*scorecard.Case {
	t.Helper()
	made, err := cases()
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// all yields the table and then the updates.
func all(t testing.TB, k *scorecard.Case) iter.Seq[*ingest.Update] {
	return func(yield func(*ingest.Update) bool) {
		for _, part := range []func(func(*ingest.Update, error) bool){k.RIB, k.Updates} {
			for u, err := range part {
				if err != nil {
					t.Fatal(err)
				}
				if !yield(u) {
					return
				}
			}
		}
	}
}

func TestSameConfigurationSameCase(t *testing.T) {
	sum := func(seed uint64) uint64 {
		k := made(t, tiny(seed))
		h := fnv.New64()
		for u := range all(t, k) {
			fmt.Fprintf(h, "%+v\n", *u)
		}
		fmt.Fprintf(h, "%+v\n", k.Labels)
		for v := range k.Knowledge.VRPs.VRPs() {
			fmt.Fprintln(h, v)
		}
		for pair, l := range k.Knowledge.Relationships.All() {
			fmt.Fprintln(h, pair, l)
		}
		return h.Sum64()
	}
	first, again := sum(1), sum(1)
	if first != again {
		t.Error("the same seed gives two cases")
	}
	if first == sum(2) {
		t.Error("two seeds give the same case")
	}
}

func TestTimeGoesOn(t *testing.T) {
	c := tiny(3)
	last, n := ingest.TimeOf(c.Start), 0
	for u := range all(t, someCases(t)[3]) {
		if u.Time < last {
			t.Fatalf("%v comes after %v", u.Time, last)
		}
		last, n = u.Time, n+1
	}
	if end := ingest.TimeOf(c.Start.Add(c.Duration)); last > end {
		t.Errorf("the last of %d updates comes at %v, after the end", n, last)
	}
}

// table is what the peers hold, without attributes but the path.
type table map[ingest.Peer]map[netip.Prefix]string

func (t table) apply(u *ingest.Update) {
	if u.Kind == ingest.PeerDown {
		t[u.Peer] = map[netip.Prefix]string{}
	}
	if t[u.Peer] == nil {
		t[u.Peer] = map[netip.Prefix]string{}
	}
	for _, n := range u.Withdrawn {
		delete(t[u.Peer], n.Prefix)
	}
	for _, n := range u.Announced {
		t[u.Peer][n.Prefix] = fmt.Sprint(u.Attrs.ASPath)
	}
}

func TestAllIsUndone(t *testing.T) {
	for seed, k := range someCases(t) {
		before, after, updates := table{}, table{}, 0
		for u := range k.RIB {
			before.apply(u)
			after.apply(u)
		}
		for u := range k.Updates {
			after.apply(u)
			updates++
		}
		if updates < 1000 || len(before) < 24 {
			t.Errorf("seed %d: %d updates of %d sessions", seed, updates, len(before))
		}
		for p, routes := range before {
			if maps.Equal(routes, after[p]) {
				continue
			}
			for prefix, path := range routes {
				if after[p][prefix] != path {
					t.Errorf("seed %d: %v: %v by %v, and not by %v as before", seed, p, prefix, after[p][prefix], path)
				}
			}
			for prefix, path := range after[p] {
				if routes[prefix] == "" {
					t.Errorf("seed %d: %v: %v by %v is left over", seed, p, prefix, path)
				}
			}
		}
	}
}

// offends says what a route of a label looks like, from the label alone.
func offends(g *graph, l *scorecard.Label, path []uint32) bool {
	offender, origin := l.Offenders[0], path[len(path)-1]
	switch l.Kind {
	case incident.OriginHijack, incident.SubprefixHijack, incident.BogonPrefix, incident.Squatting, incident.ReoriginationLeak, incident.InternalSpecifics:
		return origin == offender
	case incident.TypoASN:
		return origin == offender && len(path) > 1 && path[len(path)-2] == l.Victims[0]
	case incident.ForgedPath, incident.ForgedPathSubprefix:
		i := slices.Index(path, offender)
		if i < 0 || origin != l.Victims[0] || g.relation(g.index[offender], g.index[path[i+1]]) != 0 {
			return false
		}
		// Behind the forger stands the victim, or one of its providers before it.
		return i == len(path)-2 || i == len(path)-3 && g.relation(g.index[path[i+1]], g.index[origin]) == topology.Provider
	case incident.RouteLeak:
		from, by, to, valley := firstValley(g, path)
		// RFC 7908 §3.1 to §3.4: how those stand to the leaker of whom it has the route, and to whom it passes it on.
		want := [...][2]topology.Relation{1: {topology.Provider, topology.Provider}, 2: {topology.Peer, topology.Peer},
			3: {topology.Provider, topology.Peer}, 4: {topology.Peer, topology.Provider}}[l.RFC7908Type]
		return valley && by == offender && slices.Contains(l.Victims, origin) &&
			want == [2]topology.Relation{g.relation(g.index[from], g.index[by]), g.relation(g.index[to], g.index[by])}
	case incident.Prepend, incident.PrivateASNLeak:
		return len(path) > 1 && path[len(path)-2] == offender && (origin < 10 || origin >= 64512 && origin < 65535)
	case incident.BlackholeLeak:
		return slices.Contains(path, offender) && origin == l.Victims[0]
	}
	return false
}

func TestLabelsSayWhatHappens(t *testing.T) {
	for seed, k := range someCases(t) {
		c := tiny(uint64(seed))
		g := newGraph(Generate(c.Seed, c.ASes), everyone)
		byPrefix := map[netip.Prefix][]*scorecard.Label{}
		witnesses := map[*scorecard.Label]map[uint32]bool{}
		touched := map[*scorecard.Label]bool{}
		origins := map[netip.Prefix]uint32{} // in the table
		for i := range k.Labels {
			l := &k.Labels[i]
			witnesses[l] = map[uint32]bool{}
			for _, p := range l.Prefixes {
				byPrefix[p] = append(byPrefix[p], l)
			}
			if l.Start > l.End || l.Start < ingest.TimeOf(c.Start) || l.End > ingest.TimeOf(c.Start.Add(c.Duration)) {
				t.Errorf("seed %d: from %v to %v: %+v", seed, l.Start, l.End, l)
			}
			offenders := 1
			if l.Kind == incident.VisibilityLoss {
				offenders = 0
			}
			if (l.Benign == "") == (l.Kind == "") || l.Benign == "" && len(l.Offenders) != offenders {
				t.Errorf("seed %d: neither or both good and bad, or by nobody: %+v", seed, l)
			}
		}
		for u := range all(t, k) {
			for _, n := range u.Withdrawn {
				for _, l := range byPrefix[n.Prefix] {
					within := u.Time >= l.Start && u.Time <= l.End
					touched[l] = touched[l] || within
					if within && l.Kind == incident.VisibilityLoss {
						witnesses[l][u.Peer.ASN] = true
					}
				}
			}
			for _, n := range u.Announced {
				path := u.Attrs.ASPath[0].ASNs
				within := false
				for _, l := range byPrefix[n.Prefix] {
					if u.Time < l.Start || u.Time > l.End || l.Proof != "" {
						continue
					}
					within, touched[l] = true, true
					if l.Benign == "" && l.Kind != incident.VisibilityLoss && offends(g, l, path) {
						witnesses[l][u.Peer.ASN] = true
					}
				}
				origin := path[len(path)-1]
				if u.Kind == ingest.RIB {
					origins[n.Prefix] = origin
				}
				if origins[n.Prefix] != origin && !within {
					t.Errorf("seed %d: at %v, outside of all events, AS%d has %v to %v", seed, u.Time, u.Peer.ASN, path, n.Prefix)
				}
				// Outside of events every path is as Gao and Rexford have it.
				if _, _, _, valley := firstValley(g, path); valley && !within {
					t.Errorf("seed %d: at %v, outside of all events, AS%d has %v to %v, which has a valley", seed, u.Time, u.Peer.ASN, path, n.Prefix)
				}
			}
		}
		for i := range k.Labels {
			l := &k.Labels[i]
			if l.Benign == "" && len(witnesses[l]) < enough {
				t.Errorf("seed %d: %d peers see %+v", seed, len(witnesses[l]), l)
			}
			if l.Benign != "" && l.Benign != "session_reset" && !touched[l] {
				t.Errorf("seed %d: nothing is seen of %+v", seed, l)
			}
		}
	}
}

// A hijack whose last routes go because the hijacker's links fail, and not because it ends, lasts until they are gone.
func TestLabelsLastWhateverEndsTheRoutes(t *testing.T) {
	w, err := newWorld(tiny(1))
	if err != nil {
		t.Fatal(err)
	}
	h := newHistory(w)
	h.at(h.now.Add(time.Minute), func() {
		h.happen("origin_hijack", 20*time.Minute)
		if len(h.labels) != 1 {
			t.Fatal("nothing happens")
		}
	})
	h.at(h.now.Add(10*time.Minute), func() {
		a := h.g.index[h.labels[0].Offenders[0]]
		for _, n := range slices.Concat(h.g.providers[a], h.g.peers[a], h.g.customers[a]) {
			h.cut(a, n, h.over(a, n), 30*time.Minute)
		}
	})
	h.run()
	l, gone := h.labels[0], ingest.Time(0)
	offered := map[[2]int32]bool{}
	h.settle()
	for _, m := range h.messages {
		key := [2]int32{m.session, m.destination}
		is := m.route != nil && slices.Contains(l.Prefixes, h.destinations[m.destination].prefix) && originIs(l.Offenders[0])(m.route)
		if offered[key] && !is {
			gone = m.at
		}
		offered[key] = is
	}
	if gone == 0 || l.End < gone {
		t.Errorf("the last offending route goes at %v, and the label ends at %v", gone, l.End)
	}
}

// Every kind of event happens in some world.
func TestEveryKindHappens(t *testing.T) {
	happened := map[string]int{}
	for _, k := range someCases(t) {
		for _, l := range k.Labels {
			happened[name(&l)]++
		}
	}
	for _, kind := range Kinds() {
		if happened[kind] == 0 {
			t.Errorf("%s never happens", kind)
		}
	}
	t.Log(happened)
}

// name is the event that a label is of, as the configuration names it.
func name(l *scorecard.Label) string {
	switch {
	case l.Benign != "":
		return l.Benign
	case l.Kind == incident.RouteLeak:
		return fmt.Sprintf("%s_%d", l.Kind, l.RFC7908Type)
	}
	return string(l.Kind)
}

func TestConfigurationIsChecked(t *testing.T) {
	c := tiny(1)
	c.Duration, c.Events, c.ROV = time.Minute, map[string]int{"earthquake": 1}, 2
	_, err := Case(c)
	for _, want := range []string{"duration", `"earthquake"`, "rov"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not speak of %s", err, want)
		}
	}
	c = tiny(1)
	c.Origins, c.Prefixes = 5000, 5000
	if _, err := Case(c); err == nil || !strings.Contains(err.Error(), "too few") {
		t.Errorf("5000 origins of 300 ASes: %v", err)
	}
}

// The detector plays a case. What it finds is printed and not asked for: that is the scorecard's to judge.
func TestDetectorPlaysACase(t *testing.T) {
	k := someCases(t)[1]
	var opened []incident.Incident
	e := detect.New(detect.DefaultConfiguration(), k.Knowledge, func(ev incident.Event) {
		if ev.Change == incident.Opened {
			opened = append(opened, ev.Incident)
		}
	})
	next, stop := iter.Pull2(k.RIB)
	defer stop()
	if err := e.LoadBaseline(func() (*ingest.Update, error) {
		u, err, ok := next()
		if !ok {
			return nil, io.EOF
		}
		return u, err
	}); err != nil {
		t.Fatal(err)
	}
	routes := 0
	for u := range k.RIB {
		routes += len(u.Announced)
	}
	if got := e.Stats().Routes; got != routes {
		t.Errorf("the detector holds %d of %d routes of the table", got, routes)
	}
	for u := range k.Updates {
		e.Apply(u)
	}
	e.Finish()
	if got := e.Stats().Routes; got != routes {
		t.Errorf("the detector holds %d of %d routes in the end", got, routes)
	}
	told, labels := map[string]int{}, map[string]int{} // of each kind: how many an incident is about, and how many there are
	explained := make([]bool, len(opened))
	for _, l := range k.Labels {
		about := false
		for i, inc := range opened {
			at := ingest.TimeOf(inc.DetectedAt)
			if at >= l.Start && at <= l.End.Add(time.Minute) && slices.ContainsFunc(inc.Prefixes, func(p incident.Prefix) bool {
				return slices.Contains(l.Prefixes, p.Prefix)
			}) {
				about = true
				explained[i] = explained[i] || l.Benign == ""
			}
		}
		labels[name(&l)]++
		if about {
			told[name(&l)]++
		}
	}
	for _, kind := range Kinds() {
		t.Logf("%-25s %d of %d have incidents", kind, told[kind], labels[kind])
	}
	for i, inc := range opened {
		if !explained[i] {
			t.Logf("no harm explains: %s %s", inc.DetectedAt.Format(time.TimeOnly), inc.Title)
		}
	}
}

func BenchmarkCase(b *testing.B) {
	for b.Loop() {
		k := made(b, DefaultConfiguration())
		updates, labels := 0, map[string]int{}
		for range k.Updates {
			updates++
		}
		for _, l := range k.Labels {
			labels[name(&l)]++
		}
		b.ReportMetric(float64(updates), "updates")
		b.ReportMetric(float64(len(k.Labels)), "labels")
	}
}
