package topology

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/routevigil/routevigil/ingest/archive"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Real tables, and what CAIDA published of relationships.
const (
	data      = "../../../shared/data"
	jinx      = data + "/mrt/routeviews.route-views.jinx.ribs.1401487200.bz2"
	published = data + "/topology/as-rel.20180601.txt.gz"
	servers   = data + "/topology/RouteServerASNs_20171230.txt"
)

func needs(t testing.TB, files ...string) {
	t.Helper()
	for _, f := range files {
		if _, err := os.Stat(f); errors.Is(err, os.ErrNotExist) {
			t.Skipf("%s is not here", filepath.Base(f))
		}
	}
}

// routeServers reads a list of ASNs, one a line.
func routeServers(t testing.TB) []uint32 {
	t.Helper()
	f, err := os.Open(servers)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var asns []uint32
	for s := bufio.NewScanner(f); s.Scan(); {
		asn, err := strconv.ParseUint(strings.TrimSpace(s.Text()), 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		asns = append(asns, uint32(asn))
	}
	return asns
}

// readPaths reads the paths of MRT files: IPv4's and IPv6's.
func readPaths(t testing.TB, servers []uint32, files ...string) (v4, v6 *Paths) {
	t.Helper()
	r, err := archive.Open(files, archive.Options{Report: func(err error) { t.Log(err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	v4, v6 = NewPaths(servers), NewPaths(servers)
	var wire []uint32
	for {
		u, err := r.Next()
		if errors.Is(err, io.EOF) {
			return v4, v6
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(u.Announced) == 0 {
			continue
		}
		wire = wire[:0]
		for _, s := range u.Attrs.ASPath {
			if s.Type == bgp.ASSequence {
				wire = append(wire, s.ASNs...)
			} else {
				wire = append(wire, 0)
			}
		}
		if u.Announced[0].Prefix.Addr().Is4() {
			v4.Add(wire)
		} else {
			v6.Add(wire)
		}
	}
}

// agreement compares what was inferred with what was published, for the links of one published
// relation or of one inferred.
type agreement struct{ links, known, right int }

func (a agreement) String() string {
	return fmt.Sprintf("%6d links, %6d of them in the other set, %6d agree (%.1f %%)", a.links, a.known, a.right, 100*float64(a.right)/float64(max(a.known, 1)))
}

// kind folds both directions of transit.
func kind(r Relation) Relation {
	if r == Customer {
		return Provider
	}
	return r
}

// compare takes the links of a and looks what b says of them, by kind in a.
func compare(a, b *Relationships) map[Relation]agreement {
	by := map[Relation]agreement{}
	for pair, l := range a.All() {
		g := by[kind(l.Relation)]
		g.links++
		if other := b.Of(pair[0], pair[1]); other != None {
			g.known++
			if other == l.Relation {
				g.right++
			}
		}
		by[kind(l.Relation)] = g
	}
	return by
}

// TestAgreementWithPublished reports how far the inference from one real table agrees with what CAIDA
// published. The table is of 2014-05-30 and one of its peers alone has nearly all routes; the file is
// of 2018-06-01 and made from all collectors. Four years of change count as errors here, and so does
// what one point of view cannot tell: what two networks are to each other shows in what the one
// gives to its providers, and nobody who listens there is among the peers.
func TestAgreementWithPublished(t *testing.T) {
	needs(t, jinx, published, servers)
	start := time.Now()
	v4, v6 := readPaths(t, routeServers(t), jinx)
	t.Logf("read in %v", time.Since(start))
	start = time.Now()
	inf := Infer(v4, v6, "inferred")
	t.Logf("inferred in %v from %d paths of %d nodes (IPv6 has %d); passed over: %d reserved, %d loops, %d long, %d poisoned",
		time.Since(start), v4.Len(), len(v4.nodes), v6.Len(), v4.Reserved, v4.Loops, v4.Long, inf.V4.Poisoned)
	t.Logf("clique %v, links by step %v", inf.V4.Clique, inf.V4.Steps)
	reference, err := ReadFile(published, published)
	if err != nil {
		t.Fatal(err)
	}
	inferred, known := compare(inf.Relationships, reference), compare(reference, inf.Relationships)
	for _, r := range []Relation{Provider, Peer} {
		t.Logf("inferred  %-8v: %v", r, inferred[r])
		t.Logf("published %-8v: %v", r, known[r])
	}
	// Far below what was measured, and far above what a coin would give: half of the links are transit, and half of that the right way round.
	if g := inferred[Provider]; g.known < 10_000 || g.right*10 < g.known*9 {
		t.Errorf("transit: %v, want 9 of 10 to agree", g)
	}
}

// heldBack halves the links: on one half the confidence of each step was measured, on the other it is tested.
func heldBack(a, b uint32) bool {
	h := fnv.New32a()
	fmt.Fprint(h, min(a, b), max(a, b))
	return h.Sum32()&1 == 1
}

// TestConfidenceIsWhatAgrees takes all real paths of 2013 to 2018 there are and compares, for each
// class of links, the confidence with the share that agrees with the published file, on the half of
// the links that the confidence was not taken from.
func TestConfidenceIsWhatAgrees(t *testing.T) {
	files := []string{jinx, data + "/mrt/updates.et-header.2015.gz", data + "/mrt/routeviews.updates.20131201.0000.bz2"}
	needs(t, append(files, published, servers)...)
	events, err := filepath.Glob(data + "/incidents/*.rib.mrt.gz")
	if err != nil {
		t.Fatal(err)
	}
	reference, err := ReadFile(published, published)
	if err != nil {
		t.Fatal(err)
	}
	v4, _ := readPaths(t, routeServers(t), append(files, events...)...)
	g := decide(v4, new(Account))
	type class struct {
		step       step
		confidence float64
	}
	halves := [2]map[class]agreement{{}, {}}
	for x := range g.asns {
		for i := g.first[x]; i < g.first[x+1]; i++ {
			y := g.neighbours[i]
			if uint32(x) > y {
				continue
			}
			half := 0
			if heldBack(g.asns[x], g.asns[y]) {
				half = 1
			}
			c := class{g.steps[i], g.confidence(uint32(x), i)}
			a := halves[half][c]
			a.links++
			if other := reference.Of(g.asns[x], g.asns[y]); other != None {
				a.known++
				if other == g.relations[i] {
					a.right++
				}
			}
			halves[half][c] = a
		}
	}
	classes := slices.SortedFunc(maps.Keys(halves[1]), func(a, b class) int {
		return cmp.Or(cmp.Compare(a.step, b.step), cmp.Compare(a.confidence, b.confidence))
	})
	for _, c := range classes {
		measured := halves[1][c]
		t.Logf("step %d, confidence %.2f: held back %v; measured on %v", c.step, c.confidence, measured, halves[0][c])
		if measured.known < 100 {
			continue
		}
		if share := float64(measured.right) / float64(measured.known); math.Abs(share-c.confidence) > 0.05 {
			t.Errorf("step %d: confidence %.2f, but %.2f agree", c.step, c.confidence, share)
		}
	}
}
