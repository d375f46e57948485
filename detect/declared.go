package detect

import (
	"errors"
	"fmt"

	"github.com/routevigil/routevigil/detect/topology"
)

// Declaration is what the operator says of one network's neighbours. It overrides what is published
// or inferred.
type Declaration struct {
	AS         uint32   `yaml:"as" doc:"The network that the lists are about."`
	ProviderOf []uint32 `yaml:"provider_of" doc:"Networks that buy transit from it."`
	CustomerOf []uint32 `yaml:"customer_of" doc:"Networks that it buys transit from."`
	PeerOf     []uint32 `yaml:"peer_of" doc:"Networks that it exchanges customers' routes with."`
	SiblingOf  []uint32 `yaml:"sibling_of" doc:"Networks of the same organisation, which pass on everything to each other."`
}

// lists gives each list with its key.
func (d Declaration) lists() []struct {
	key      string
	relation topology.Relation
	asns     []uint32
} {
	return []struct {
		key      string
		relation topology.Relation
		asns     []uint32
	}{
		{"provider_of", topology.Provider, d.ProviderOf},
		{"customer_of", topology.Customer, d.CustomerOf},
		{"peer_of", topology.Peer, d.PeerOf},
		{"sibling_of", topology.Sibling, d.SiblingOf},
	}
}

// declaredSource names the operator's declarations in evidence.
const declaredSource = "configuration"

// DeclaredRelationships makes a set of what the operator declares; nil of nothing. The error joins what is wrong, each
// with the path of the setting.
func (f KnowledgeFiles) DeclaredRelationships() (*topology.Relationships, error) {
	ds := f.Declared
	if len(ds) == 0 {
		return nil, nil
	}
	type said struct {
		relation topology.Relation
		where    string
	}
	var errs []error
	b, before := topology.NewBuilder(topology.Declared, declaredSource), map[[2]uint32]said{}
	for i, d := range ds {
		if d.AS == 0 {
			errs = append(errs, fmt.Errorf("declared[%d].as: must be the number of the network that the lists are about", i))
			continue
		}
		n := 0
		for _, l := range d.lists() {
			for j, asn := range l.asns {
				n++
				where := fmt.Sprintf("declared[%d].%s[%d]", i, l.key, j)
				old, twice := before[[2]uint32{d.AS, asn}]
				switch {
				case asn == 0:
					errs = append(errs, fmt.Errorf("%s: 0 is no network", where))
				case asn == d.AS:
					errs = append(errs, fmt.Errorf("%s: AS%d stands to itself", where, asn))
				case twice && old.relation != l.relation:
					errs = append(errs, fmt.Errorf("%s: contradicts knowledge.%s, where AS%d is a %s of AS%d", where, old.where, d.AS, old.relation, asn))
				default:
					before[[2]uint32{d.AS, asn}] = said{l.relation, where}
					before[[2]uint32{asn, d.AS}] = said{l.relation.Reverse(), where}
					b.Set(d.AS, asn, l.relation)
				}
			}
		}
		if n == 0 {
			errs = append(errs, fmt.Errorf("declared[%d]: says nothing; give provider_of, customer_of, peer_of or sibling_of", i))
		}
	}
	return b.Build(), errors.Join(errs...)
}
