package propose

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/irr/rpsl"
	"github.com/routevigil/routevigil/detect/irr/whois"
	"github.com/routevigil/routevigil/detect/irr/whois/whoistest"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// What is known of AS3320 in these tests: one prefix of each sort.
var (
	vrps = rpki.NewSet(rpki.Data{
		VRPs: []rpki.VRP{
			{Prefix: pfx("20.0.0.0/16"), MaxLength: 24, ASN: 3320},  // announced, and registered
			{Prefix: pfx("20.1.0.0/16"), MaxLength: 16, ASN: 3320},  // not announced
			{Prefix: pfx("20.5.0.0/16"), MaxLength: 16, ASN: 1239},  // announced all the same
			{Prefix: pfx("20.0.9.0/24"), MaxLength: 24, ASN: 13335}, // a part that another may announce
			{Prefix: pfx("2a00:1::/32"), MaxLength: 48, ASN: 3320},
		},
		ASPAs: rpki.ASPAs{3320: {1299, 6453}},
	}, "vrps")
	registered = `route: 20.0.0.0/16
origin: AS3320
source: RIPE

route: 20.2.0.0/16
origin: AS3320
source: RADB

route: 20.3.0.0/16
origin: AS3320
source: RADB

route: 20.6.0.0/16
origin: AS3320
source: RADB

route: 20.6.0.0/16
origin: AS1239
source: ARIN

aut-num: AS3320
import: from AS1299 accept ANY
import: from AS701 accept ANY
export: to AS1299 announce AS-DTAG
source: RIPE

as-set: AS-DTAG
members: AS3320, AS5
source: RIPE

`
)

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func database(t *testing.T, text string) *irr.Database {
	t.Helper()
	r, err := rpsl.NewReader(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	b := irr.NewBuilder(nil)
	for o, err := r.Next(); err == nil; o, err = r.Next() {
		b.Add(o)
	}
	return b.Build()
}

// table is what two peers have: the prefixes of AS3320, and two parts of them that others announce.
func table(t *testing.T) *detect.Engine {
	t.Helper()
	e := detect.New(detect.DefaultConfiguration(), detect.Knowledge{VRPs: vrps}, func(incident.Event) {})
	at := ingest.TimeOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	for i, peer := range []uint32{2914, 6461} {
		for prefix, path := range map[string][]uint32{
			"20.0.0.0/16": {1299, 3320}, "20.2.0.0/16": {1299, 3320}, "20.4.0.0/16": {1299, 3320}, "20.5.0.0/16": {174, 3320},
			"20.0.8.0/24": {1299, 9808}, "20.0.9.0/24": {1299, 13335}, "203.0.0.0/16": {1299, 9808},
		} {
			u := ingest.Update{Kind: ingest.RIB, Time: at, Peer: ingest.Peer{Collector: "rrc00", ASN: peer, Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}}
			u.Announced = []bgp.NLRI{{Prefix: pfx(prefix)}}
			u.Attrs.ASPath = bgp.ASPath{{Type: bgp.ASSequence, ASNs: append([]uint32{peer}, path...)}}
			e.Apply(&u)
		}
	}
	e.FinishBaseline()
	return e
}

func on(es []Entry, yes bool) (values []string) {
	for _, e := range es {
		if e.On == yes {
			values = append(values, e.Value)
		}
	}
	return values
}

func told(p *Proposal, parts ...string) bool {
	return slices.ContainsFunc(p.Disagreements, func(d string) bool {
		return !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(d, part) })
	})
}

func TestPropose(t *testing.T) {
	s := Sources{VRPs: vrps, IRR: database(t, registered)}
	survey := table(t).Survey([]uint32{3320}, s.Space(3320))
	s.Table = &survey
	p := s.For(3320)
	for _, c := range []struct {
		what    string
		es      []Entry
		on, off []string
	}{
		{"prefixes", p.Prefixes, []string{"20.0.0.0/16", "20.1.0.0/16", "20.2.0.0/16", "2a00:1::/32"}, []string{"20.3.0.0/16", "20.4.0.0/16", "20.5.0.0/16", "20.6.0.0/16"}},
		{"origins", p.Origins, []string{"3320", "13335"}, []string{"9808"}},
		{"upstreams", p.Upstreams, []string{"1299", "6453"}, []string{"701"}},
		{"peers", p.Peers, nil, []string{"174"}},
		{"as-sets", p.ASSets, []string{"AS-DTAG"}, nil},
	} {
		if diff := cmp.Diff([][]string{c.on, c.off}, [][]string{on(c.es, true), on(c.es, false)}); diff != "" {
			t.Errorf("%s, in the watch and as comments (-want +got):\n%s", c.what, diff)
		}
	}
	if p.MaxLengthV4 != 16 || p.MaxLengthV6 != 32 {
		t.Errorf("longest: %d and %d", p.MaxLengthV4, p.MaxLengthV6)
	}
	for _, d := range [][]string{
		{"20.1.0.0/16", "has a ROA and is not announced"}, {"20.2.0.0/16", "no ROA"}, {"20.3.0.0/16", "not announced"},
		{"20.4.0.0/16", "nothing else says"}, {"20.5.0.0/16", "RPKI Invalid", "but announced"}, {"20.6.0.0/16", "ARIN"},
		{"20.0.8.0/24", "AS9808", "RPKI invalid", "100 %"}, {"20.0.0.0/16 up to /24", "RFC 9319"},
		{"AS701 looks like a provider", "does not attest"}, {"AS6453", "on no path"}, {"AS174 stands behind AS3320 on 2 paths"},
	} {
		if !told(p, d...) {
			t.Errorf("nothing says %q:\n%s", d, strings.Join(p.Disagreements, "\n"))
		}
	}
	if told(p, "20.0.9.0/24") {
		t.Error("what a ROA allows is told of as a disagreement")
	}
	if told(p, "203.0.0.0/16") {
		t.Error("another's prefix is told of")
	}
}

// With one source alone there is nobody to disagree with it.
func TestProposeFromOneSource(t *testing.T) {
	survey := table(t).Survey([]uint32{3320}, nil)
	for name, s := range map[string]Sources{"table": {Table: &survey}, "ROAs": {VRPs: vrps}, "registries": {IRR: database(t, registered)}} {
		p := s.For(3320)
		want := map[string][]string{"table": {"20.0.0.0/16", "20.2.0.0/16", "20.4.0.0/16", "20.5.0.0/16"}, "ROAs": {"20.0.0.0/16", "20.1.0.0/16", "2a00:1::/32"}, "registries": {"20.0.0.0/16"}}[name]
		if got := on(p.Prefixes, true); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		if told(p, "not announced") {
			t.Errorf("%s: %q", name, p.Disagreements)
		}
		want = map[string][]string{"table": {"3320", "13335"}}[name] // AS9808 is RPKI Invalid in the table
		if got := on(p.Origins, true); want != nil && !slices.Equal(got, want) {
			t.Errorf("%s: origins %v, want %v, of the parts that others announce too", name, got, want)
		}
	}
}

// TestYAML writes what others named: it must stay on its line.
func TestYAML(t *testing.T) {
	p := &Proposal{ASN: 1, Prefixes: []Entry{{"2001:db8::/32", true, "a\n- evil\x1b[2J"}, {"192.0.2.0/24", false, "why"}}, ASSets: []Entry{{"AS1:AS-X", true, ""}}, Peers: []Entry{{"5", false, "x"}}}
	want := `watches:
  - name: as1
    asns: [1]
    prefixes:
      - "2001:db8::/32" # a?- evil?[2J
      #- 192.0.2.0/24 # why
    peers: [] # nothing is certain enough; decide what of the following is right
      #- 5 # x
    as_sets:
      - "AS1:AS-X" # 
`
	if diff := cmp.Diff(want, YAML([]*Proposal{p})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestAsk has a server say what a dump says: the proposal is the same.
func TestAsk(t *testing.T) {
	object := func(prefix string) string {
		var b strings.Builder
		for o := range strings.SplitSeq(registered, "\n\n") {
			if strings.HasPrefix(o, "route: "+prefix+"\n") {
				b.WriteString(o + "\n\n")
			}
		}
		return whoistest.Data(b.String())
	}
	autNum := registered[strings.Index(registered, "aut-num"):strings.Index(registered, "as-set")]
	script := whoistest.Script{"!nroutevigil": "C\n", "!gAS3320": whoistest.Data("20.0.0.0/16 20.2.0.0/16 20.3.0.0/16 20.6.0.0/16\n"),
		"!maut-num,AS3320": whoistest.Data(autNum), "!iAS-DTAG,1": whoistest.Data("AS3320 AS5\n")}
	for _, p := range []string{"20.0.0.0/16", "20.2.0.0/16", "20.3.0.0/16", "20.6.0.0/16"} {
		script["!r"+p+",L"] = object(p)
	}
	address, asked := whoistest.Serve(t, script)
	e := table(t)
	survey := e.Survey([]uint32{3320}, nil)
	var announced []netip.Prefix
	for _, p := range survey.Prefixes {
		announced = append(announced, p.Prefix)
	}
	db, sets, err := Ask(t.Context(), whois.Client{Address: address}, []uint32{3320}, announced)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(asked(), "!r20.5.0.0/16,L") {
		t.Errorf("what is announced was not asked for: %q", asked())
	}
	make := func(s Sources) *Proposal {
		survey := e.Survey([]uint32{3320}, s.Space(3320))
		s.Table = &survey
		return s.For(3320)
	}
	if diff := cmp.Diff(make(Sources{VRPs: vrps, IRR: database(t, registered)}), make(Sources{VRPs: vrps, IRR: db, Sets: sets})); diff != "" {
		t.Errorf("(-by a dump +by a server):\n%s", diff)
	}
	gone, _ := whoistest.Serve(t, whoistest.Script{"!nroutevigil": "C\n", "!gAS3320": "close"})
	if _, _, err := Ask(t.Context(), whois.Client{Address: gone}, []uint32{3320}, nil); err == nil || !strings.Contains(err.Error(), gone) {
		t.Errorf("error %v must name the server", err)
	}
}
