package detect

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

func TestDeclared(t *testing.T) {
	k, err := KnowledgeFiles{Declared: []Declaration{
		{AS: 64500, ProviderOf: []uint32{64501}, CustomerOf: []uint32{3356}, PeerOf: []uint32{64502}, SiblingOf: []uint32{64503}},
		{AS: 64501, CustomerOf: []uint32{64500}}, // the same from the other side
	}}.Load()
	if err != nil {
		t.Fatal(err)
	}
	for asn, want := range map[uint32]topology.Relation{64501: topology.Provider, 3356: topology.Customer, 64502: topology.Peer, 64503: topology.Sibling} {
		if l := k.Declared.Link(64500, asn); l.Relation != want || l.Basis != topology.Declared {
			t.Errorf("AS64500 and AS%d: %+v, want %v", asn, l, want)
		}
	}
	if k, err := (KnowledgeFiles{}).Load(); err != nil || k.Declared != nil {
		t.Errorf("nothing declared: %v, %v", k.Declared, err)
	}
}

func TestDeclaredRejects(t *testing.T) {
	for name, c := range map[string]struct {
		ds   []Declaration
		want string
	}{
		"no network":         {[]Declaration{{PeerOf: []uint32{1}}}, "declared[0].as: "},
		"nothing said":       {[]Declaration{{AS: 1}}, "declared[0]: "},
		"itself":             {[]Declaration{{AS: 1, PeerOf: []uint32{2, 1}}}, "declared[0].peer_of[1]: "},
		"network 0":          {[]Declaration{{AS: 1, SiblingOf: []uint32{0}}}, "declared[0].sibling_of[0]: "},
		"contradicts itself": {[]Declaration{{AS: 1, PeerOf: []uint32{2}, ProviderOf: []uint32{2}}}, "declared[0].peer_of[0]: contradicts knowledge.declared[0].provider_of[0]"},
		"contradicts before": {[]Declaration{{AS: 1, ProviderOf: []uint32{2}}, {AS: 2, ProviderOf: []uint32{1}}}, "declared[1].provider_of[0]: contradicts knowledge.declared[0].provider_of[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			err := KnowledgeFiles{Declared: c.ds}.Validate()
			if err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want one line that begins %q", err, c.want)
			}
		})
	}
}

// TestPeeringDBIsKnowledge loads a dump beside another file of organisations: either may know of two
// networks that they are one organisation's, and route servers are cut out of the paths that are
// learned from.
func TestPeeringDBIsKnowledge(t *testing.T) {
	dir := t.TempDir()
	dump, orgs := filepath.Join(dir, "peeringdb.json"), filepath.Join(dir, "as-org.txt")
	for name, text := range map[string]string{
		dump: `{"net": {"data": [{"asn": 201, "org_id": 1}, {"asn": 202, "org_id": 1}, {"asn": 500, "info_type": "Route Server"}]}}`,
		orgs: "# format:aut|changed|aut_name|org_id|opaque_id|source\n203|1|X|ORG-A|o|ARIN\n204|1|Y|ORG-A|o|ARIN\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	k, err := KnowledgeFiles{PeeringDB: dump, Organisations: orgs}.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]uint32{{201, 202}, {203, 204}} {
		if _, same := k.Organisations.Same(pair[0], pair[1]); !same {
			t.Errorf("AS%d and AS%d are not known as one organisation's", pair[0], pair[1])
		}
	}
	e := New(DefaultConfiguration(), k, func(incident.Event) {})
	u := announcement(ingest.Peer{Collector: "test", Addr: netip.MustParseAddr("192.0.2.1"), ASN: 201}, prefixOf(1), 201, 500, 203, 205)
	u.Kind = ingest.RIB
	e.Apply(&u)
	e.FinishBaseline()
	r := infer(t, e).Relationships
	if r.Of(201, 203) == topology.None || r.Of(201, 500) != topology.None {
		t.Error("the route server is still in the path")
	}
}

// TestScrubbingIsNoHijack has two strangers announce a more-specific of a victim's block: one of them
// scrubs traffic for a living.
func TestScrubbingIsNoHijack(t *testing.T) {
	kinds := map[uint32]*incident.Kind{}
	for _, origin := range []uint32{20020, 32787} {
		e := New(DefaultConfiguration(), Knowledge{}, func(incident.Event) {})
		block := netip.MustParsePrefix("20.0.0.0/16")
		for i := range 4 {
			peer := ingest.Peer{Collector: "test", Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), ASN: uint32(1000 + i)}
			for _, u := range []ingest.Update{announcement(peer, block, peer.ASN, 3356, 20001),
				announcement(peer, netip.MustParsePrefix("30.0.0.0/16"), peer.ASN, 1299, origin)} {
				u.Kind = ingest.RIB
				e.Apply(&u)
			}
		}
		e.FinishBaseline()
		x := e.Explain(netip.MustParsePrefix("20.0.7.0/24"), bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{1299, origin}}})
		kinds[origin] = x.Kind
	}
	if k := kinds[20020]; k == nil || *k != incident.SubprefixHijack {
		t.Errorf("a stranger: %v", k)
	}
	if k := kinds[32787]; k != nil {
		t.Errorf("a scrubbing service: %v", *k)
	}
}
