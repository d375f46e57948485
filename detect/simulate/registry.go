package simulate

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/registry"
)

// How complete the registry is of those who are in it at all. Providers make their filters of such sets, so that a new customer is
// mostly entered before his first route; nobody checks who enters whom, so that some forgers do, too. The rates are guesses.
const (
	customerEntered    = 0.85
	newCustomerEntered = 0.8
	victimEntered      = 0.1
)

// What is drawn by hash, so that it does not change what is drawn besides.
const (
	drawsRegistered = 0x697272 + iota
	drawsEntered
	drawsNewEntered
	drawsVictimEntered
)

// registers reports that n keeps a set of its customers in the registry.
func (w *world) registers(n node) bool {
	return len(w.g.customers[n]) > 0 && chosen(w.c.IRR, w.c.Seed, drawsRegistered, uint64(w.g.asns[n]))
}

// enters has a set name customer as one of n's, if n keeps one, in a share of cases.
func (w *world) enters(n, customer node, share float64, draw uint64) [][2]node {
	if !w.registers(n) || !chosen(share, w.c.Seed, draw, uint64(w.g.asns[n]), uint64(w.g.asns[customer])) {
		return nil
	}
	return [][2]node{{n, customer}}
}

// registry is the customers that networks have registered: sets with the customary name (RFC 2622 §5.1) of customers and of
// their sets.
func (w *world) registry() *irr.Database {
	var text bytes.Buffer
	for i := range w.g.asns {
		n := node(i)
		if !w.registers(n) {
			continue
		}
		fmt.Fprintf(&text, "as-set: AS%d:AS-CUSTOMERS\nmembers: AS%d\n", w.g.asns[n], w.g.asns[n])
		for _, c := range slices.Concat(w.g.customers[n], w.registeredToo[n]) {
			switch asn := w.g.asns[c]; {
			case !slices.Contains(w.registeredToo[n], c) && !chosen(customerEntered, w.c.Seed, drawsEntered, uint64(w.g.asns[n]), uint64(asn)):
			case w.registers(c):
				fmt.Fprintf(&text, "members: AS%d:AS-CUSTOMERS\n", asn)
			default:
				fmt.Fprintf(&text, "members: AS%d\n", asn)
			}
		}
		fmt.Fprint(&text, "source: RADB\n\n")
	}
	b := irr.NewBuilder(nil)
	if err := b.Read(&text, "simulated registry"); err != nil {
		panic(err) // of a buffer
	}
	return b.Build()
}

// The first octets of what nobody has, and of what registries have handed out only now. Origins have theirs below.
const (
	freeSpace = 101
	newSpace  = 102
)

// delegations is what the registries' statistics say: nothing of the blocks of the world, which have long been delegated.
func (w *world) delegations() *registry.Set {
	day := w.c.Start.Format("20060102")
	text := fmt.Sprintf("2|nro|%s|2|%s|%s|+0000\nripencc||ipv4|%d.0.0.0|16777216||available|\nripencc||ipv4|%d.0.0.0|16777216|%s|allocated|new\n", day, day, day,
		freeSpace, newSpace, w.c.Start.AddDate(0, -1, 0).Format("20060102"))
	set, err := registry.Read(strings.NewReader(text), "simulated statistics")
	if err != nil {
		panic(err) // it is written as its reader has it
	}
	return set
}
