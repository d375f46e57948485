package topology

import (
	"fmt"
	"slices"
	"strings"
)

// Hypergiant is a network that sends a good part of the Internet's traffic from its own servers and meets others
// everywhere to do so (Labovitz et al., SIGCOMM 2010; Böttger et al., CCR 2018). It finds new neighbours every day,
// announces the prefixes of those whose servers it runs, and gives transit to nobody.
type Hypergiant struct {
	Name       string
	Exchanges  int // at which it is present
	Facilities int
	Traffic    string // as PeeringDB has it, such as 10-20Tbps; "" where it does not say
}

func (h Hypergiant) String() string {
	s := fmt.Sprintf("%s, content at %d exchanges and in %d facilities", h.Name, h.Exchanges, h.Facilities)
	if h.Traffic != "" {
		s += ", " + h.Traffic
	}
	return s
}

// hypergiantExchanges is at how many exchanges a hypergiant is present at the least. Some 30 networks of PeeringDB come up to
// the whole rule.
const hypergiantExchanges = 50

// hypergiant is the rule: a network is one that PeeringDB has as Content, whose traffic goes mostly out, that is at 50
// exchanges or more, and does not say that all its traffic is less than a terabit a second. All of it is the network's own
// word, except the exchanges, which mostly confirm it.
func (n *peeringNetwork) hypergiant() bool {
	return n.content && n.exchanges >= hypergiantExchanges && (n.ratio == "Mostly Outbound" || n.ratio == "Heavy Outbound") &&
		!strings.HasSuffix(n.traffic, "Gbps") && !strings.HasSuffix(n.traffic, "Mbps")
}

// Hypergiants are the hypergiants by AS number. nil knows none.
type Hypergiants struct {
	of     map[uint32]Hypergiant
	source string
}

// Find returns the hypergiant that asn is.
func (h *Hypergiants) Find(asn uint32) (Hypergiant, bool) {
	if h == nil {
		return Hypergiant{}, false
	}
	g, ok := h.of[asn]
	return g, ok
}

// Source names where the set came from.
func (h *Hypergiants) Source() string {
	if h == nil {
		return ""
	}
	return h.source
}

// ASNs returns their AS numbers, sorted.
func (h *Hypergiants) ASNs() []uint32 {
	if h == nil {
		return nil
	}
	var asns []uint32
	for asn := range h.of {
		asns = append(asns, asn)
	}
	slices.Sort(asns)
	return asns
}
