package storetest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Traffic generates updates that are as repetitive as the Internet's: 60,000 prefixes of which a few
// cause most updates, 400 peers, each with a few paths to each origin.
type Traffic struct {
	r    *rand.Rand
	zipf *rand.Zipf
	time ingest.Time
}

// NewTraffic returns the same traffic every time.
func NewTraffic() *Traffic {
	r := rand.New(rand.NewPCG(7, 7))
	return &Traffic{r: r, zipf: rand.NewZipf(r, 1.2, 20, 59_999), time: ingest.TimeOf(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))}
}

// TrafficPrefix is the n-th prefix in the order of how much is said about it; n is below 60,000.
func TrafficPrefix(n uint32) netip.Prefix {
	h := n * 2654435761
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{1 + byte(h>>24)%222, byte(h >> 16), byte(h >> 8), 0}), 24)
}

// Batch generates the next updates.
func (g *Traffic) Batch(updates int) *ingest.Batch {
	b := &ingest.Batch{}
	for range updates {
		g.time += ingest.Time(g.r.IntN(200))
		n := uint32(g.zipf.Uint64())
		p := uint32(g.r.IntN(400))
		u := ingest.Update{Time: g.time, Peer: ingest.Peer{Collector: fmt.Sprintf("rrc%02d", p%24), ASN: 1000 + p*7, Addr: netip.AddrFrom4([4]byte{80, 1, byte(p >> 8), byte(p)})}}
		prefix := bgp.NLRI{Prefix: TrafficPrefix(n)}
		if g.r.IntN(8) == 0 {
			u.Withdrawn = []bgp.NLRI{prefix}
		} else {
			u.Announced = []bgp.NLRI{prefix}
			origin := 10_000 + n%20_000
			transit := 3000 + (origin*31+uint32(g.r.IntN(4)))%500
			path := []uint32{u.Peer.ASN, 100 + (p+transit)%20, transit, origin}
			u.Attrs = bgp.Attributes{Has: bgp.HasOrigin | bgp.HasASPath | bgp.HasNextHop | bgp.HasCommunities,
				ASPath: bgp.ASPath{{Type: bgp.ASSequence, ASNs: path}}, NextHop: u.Peer.Addr,
				Communities: []uint32{path[1]<<16 | transit%50, path[1]<<16 | 1000 + p%8, path[2]<<16 | 2000}}
		}
		b.Updates = append(b.Updates, u)
	}
	b.Watermark = g.time
	return b
}
