package detect

import (
	"strings"
	"testing"

	"github.com/routevigil/routevigil/detect/topology"
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
