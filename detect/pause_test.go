package detect

import (
	"testing"
	"time"

	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
	"github.com/routevigil/routevigil/ingest"
)

// fullTable is an engine of a million prefixes, of 200,000 origins and as many ways, at ten peers, under 700,000 VRPs.
func fullTable(b *testing.B, c Configuration) (*Engine, []rpki.VRP) {
	const prefixes, peers = 1_000_000, 10
	var vs []rpki.VRP
	for i := range prefixes {
		if i%10 < 7 {
			p := prefixOf(i)
			vs = append(vs, rpki.VRP{Prefix: p, MaxLength: uint8(p.Bits()), ASN: uint32(20000 + i%20000)})
		}
	}
	e, w := New(c, Knowledge{VRPs: rpki.NewSet(rpki.Data{VRPs: vs}, "test")}, func(incident.Event) {}), newCrowd()
	for i := range prefixes {
		for p := range peers {
			u := w.says(ingest.TimeOf(start), p, i, 3356, uint32(100_000+i%100_000))
			u.Kind = ingest.RIB
			e.Apply(u)
		}
	}
	e.FinishBaseline()
	b.Logf("%+v", e.Stats())
	return e, vs
}

// BenchmarkPause is for how long updates wait when something that verdicts compare with changes, over a full table.
func BenchmarkPause(b *testing.B) {
	e, vs := fullTable(b, DefaultConfiguration())
	at := ingest.TimeOf(start) + 1_000_000
	e.Advance(at) // the baseline's own affairs
	slowest := func(b *testing.B, change func(n int)) {
		n, most := 0, time.Duration(0)
		for b.Loop() {
			n++
			from := processor(b)
			change(n)
			most = max(most, processor(b)-from)
			at += 1_000_000
			from = processor(b)
			e.Advance(at)
			most = max(most, processor(b)-from)
		}
		b.ReportMetric(most.Seconds()*1000, "slowest-cpu-ms")
	}
	sets := [2]*rpki.Set{rpki.NewSet(rpki.Data{VRPs: vs}, "a"), rpki.NewSet(rpki.Data{VRPs: vs[1:]}, "b")}
	b.Run("a VRP", func(b *testing.B) { slowest(b, func(n int) { e.Replace(Knowledge{VRPs: sets[n%2]}) }) })
	attested := [2]*rpki.Set{}
	for i := range attested {
		aspas := rpki.ASPAs{}
		for a := range uint32(20_000) {
			aspas.Add(20_000+a, []uint32{10_000 + a%5000, uint32(i)})
		}
		attested[i] = rpki.NewSet(rpki.Data{VRPs: vs, ASPAs: aspas}, "c")
	}
	b.Run("ASPAs", func(b *testing.B) { slowest(b, func(n int) { e.Replace(Knowledge{VRPs: attested[n%2]}) }) })
	rels := [2]*topology.Relationships{}
	for i := range rels {
		r := topology.NewBuilder(topology.Inferred, "test")
		for a := range uint32(20_000) {
			r.Set(20_000+a, 10_000+a%5000, topology.Customer)
			r.Set(10_000+a%5000, 2000+a%50, topology.Customer)
		}
		r.Set(3356, 1000+uint32(i), topology.Peer)
		rels[i] = r.Build()
	}
	b.Run("relationships", func(b *testing.B) { slowest(b, func(n int) { e.Relate(rels[n%2]) }) })
}
