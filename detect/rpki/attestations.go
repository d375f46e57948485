package rpki

import (
	"maps"
	"math/bits"
	"slices"
)

// Attestations are [ASPAs] laid out for the hop check of every new AS of a path, in two flat arrays that lie in the
// processor's cache where the map's entries and lists do not: 12 to 20 bytes a customer, and 4 a provider. They are
// immutable. nil attests nothing, and nothing is attested of AS 0, which is no network.
type Attestations struct {
	customers []uint32 // a hash table; 0 is free
	lists     []uint32 // by place in it, where the customer's providers begin
	ends      []uint32 // and where they end
	providers []uint32
}

// newAttestations returns nil where nothing is attested. The layout does not depend on the order of the map.
func newAttestations(a ASPAs) *Attestations {
	if len(a) == 0 {
		return nil
	}
	size := 1 << bits.Len(uint(2*len(a)-1)) // half of it stays free at least
	t := &Attestations{customers: make([]uint32, size), lists: make([]uint32, size), ends: make([]uint32, size)}
	for _, customer := range slices.Sorted(maps.Keys(a)) {
		if customer == 0 {
			continue
		}
		i := t.place(customer)
		for t.customers[i] != 0 {
			i = (i + 1) & (len(t.customers) - 1)
		}
		t.customers[i], t.lists[i] = customer, uint32(len(t.providers))
		t.providers = append(t.providers, a[customer]...)
		t.ends[i] = uint32(len(t.providers))
	}
	return t
}

// place is where the search for a customer begins. The multiplier is 2^32 divided by the golden ratio, so that
// the upper bits of the product depend on all of the number (Knuth, The Art of Computer Programming 6.4).
func (t *Attestations) place(customer uint32) int {
	return int(uint64(customer*2654435769) * uint64(len(t.customers)) >> 32)
}

// Authorized is [ASPAs.Authorized].
func (t *Attestations) Authorized(customer, provider uint32) Authorization {
	if t == nil || customer == 0 {
		return NoAttestation
	}
	i := t.place(customer)
	for t.customers[i] != customer {
		if t.customers[i] == 0 {
			return NoAttestation
		}
		i = (i + 1) & (len(t.customers) - 1)
	}
	if provider == 0 {
		return NotProviderPlus
	}
	list := t.providers[t.lists[i]:t.ends[i]]
	if len(list) > fewProviders {
		if _, found := slices.BinarySearch(list, provider); !found {
			return NotProviderPlus
		}
		return ProviderPlus
	}
	for _, p := range list {
		if p == provider {
			return ProviderPlus
		}
	}
	return NotProviderPlus
}

// fewProviders is up to how many providers it is quicker to look at all of them: two lines of the cache.
const fewProviders = 32
