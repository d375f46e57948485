package topology

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// trafficLevels are PeeringDB's, with the Gbit/s that each ends at; the empty one says nothing.
var trafficLevels = []struct {
	name string
	gbps float64
}{{"", 1e6}, {"0-20Mbps", 0.02}, {"100-1000Mbps", 1}, {"1-5Gbps", 5}, {"50-100Gbps", 100}, {"500-1000Gbps", 1000}, {"1-5Tbps", 5000}, {"100+Tbps", 1e6}}

// peeringDBDump writes a dump of so many networks as PeeringDB has them: kinds, ratios and traffic in all combinations, most
// at few exchanges. By turns the exchanges are told as a count, as in new dumps, or only by where the network is present. It
// returns the hypergiants.
func peeringDBDump(t *testing.T, networks int) (path string, hypergiants []uint32) {
	r := rand.New(rand.NewPCG(5, 6))
	type object map[string]any
	var nets, places []object
	for i := range networks {
		asn := uint32(1000 + i)
		kind := []string{"NSP", "Content", "Cable/DSL/ISP", "Enterprise", "Educational/Research", "Route Server", ""}[r.IntN(7)]
		ratio := []string{"Not Disclosed", "Heavy Outbound", "Mostly Outbound", "Balanced", "Mostly Inbound", "Heavy Inbound", ""}[r.IntN(7)]
		traffic := trafficLevels[r.IntN(len(trafficLevels))]
		exchanges := r.IntN(4)
		if r.IntN(3) == 0 {
			exchanges = r.IntN(120)
		}
		n := object{"id": i, "org_id": i / 2, "asn": asn, "name": "Network", "info_type": kind, "info_ratio": ratio, "info_traffic": traffic.name,
			"fac_count": exchanges / 2, "notes": strings.Repeat("notes ", r.IntN(20)), "info_unicast": true, "info_prefixes4": nil}
		if i%3 == 0 {
			n["info_types"] = []string{kind}
			delete(n, "info_type")
		}
		if i%2 == 0 {
			n["ix_count"] = exchanges
		} else {
			for x := range exchanges {
				for range 1 + r.IntN(2) { // two routers at one exchange
					places = append(places, object{"id": len(places), "net_id": i, "asn": asn, "ix_id": x, "name": "An exchange", "speed": 100000})
				}
			}
		}
		nets = append(nets, n)
		if kind == "Content" && exchanges >= 50 && (ratio == "Heavy Outbound" || ratio == "Mostly Outbound") && traffic.gbps > 1000 {
			hypergiants = append(hypergiants, asn)
		}
	}
	data, err := json.Marshal(object{"net": object{"meta": object{}, "data": nets}, "netixlan": object{"data": places}, "org": object{"data": []object{}}})
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "peeringdb.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, hypergiants
}

func TestHypergiants(t *testing.T) {
	path, want := peeringDBDump(t, 20_000)
	db, err := ReadPeeringDB(path, path)
	if err != nil {
		t.Fatal(err)
	}
	if got := db.Hypergiants.ASNs(); !slices.Equal(got, want) || len(want) < 20 {
		t.Errorf("%d hypergiants, want %d", len(got), len(want))
	}
	g, ok := db.Hypergiants.Find(want[0])
	if !ok || g.Exchanges < hypergiantExchanges || g.Facilities != g.Exchanges/2 || !strings.Contains(g.String(), "exchanges") || db.Hypergiants.Source() != path {
		t.Errorf("%+v", g)
	}
	if _, ok := (*Hypergiants)(nil).Find(want[0]); ok {
		t.Error("nothing knows a hypergiant")
	}
}
