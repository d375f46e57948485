package rpki

import (
	"slices"

	"github.com/routevigil/routevigil/ingest/bgp"
)

// ASPAs are the validated ASPA payloads of a set: which providers an AS says it has. Several ASPAs of
// one customer count as their union. nil attests nothing.
type ASPAs map[uint32][]uint32

// Add unites providers with those that customer has already.
func (a ASPAs) Add(customer uint32, providers []uint32) {
	u := append(a[customer], providers...)
	slices.Sort(u)
	a[customer] = slices.Compact(u)
}

// Authorization says whether one AS attests another as its provider.
type Authorization uint8

const (
	NoAttestation   Authorization = iota // the customer has no ASPA
	ProviderPlus                         // the ASPA names the provider
	NotProviderPlus                      // the ASPA does not name it
)

var authorizationNames = [...]string{"no_attestation", "provider", "not_provider"}

func (a Authorization) String() string { return authorizationNames[a] }

// Authorized is the hop check of draft-ietf-sidrops-aspa-verification-28.
func (a ASPAs) Authorized(customer, provider uint32) Authorization {
	providers, ok := a[customer]
	if !ok {
		return NoAttestation
	}
	if provider == 0 {
		return NotProviderPlus // AS 0 in a provider set matches nobody
	}
	if _, found := slices.BinarySearch(providers, provider); found {
		return ProviderPlus
	}
	return NotProviderPlus
}

// PathState is the outcome of ASPA path verification.
type PathState uint8

const (
	PathUnknown PathState = iota
	PathValid
	PathInvalid
)

var pathStateNames = [...]string{"unknown", "valid", "invalid"}

func (s PathState) String() string { return pathStateNames[s] }

// Hop is one step of a path that speaks against it: Customer does not attest Provider.
type Hop struct {
	Customer uint32 `json:"customer"`
	Provider uint32 `json:"provider"`
}

// PathValidity is a PathState with the attested hops that decide an Invalid: the first that ends the
// way up from the origin, and the last that ends the way up from the receiver.
type PathValidity struct {
	State PathState
	Hops  []Hop
}

// VerifyUpstream verifies a path received from a customer, a lateral peer, or at a route server. A
// neighbour other than 0 must stand first on the path.
func (a ASPAs) VerifyUpstream(p bgp.ASPath, neighbour uint32) PathValidity {
	path, ok := compressed(p, neighbour)
	if !ok {
		return PathValidity{State: PathInvalid}
	}
	up := a.ramp(path)
	switch n := len(path); {
	case up.most < n:
		return PathValidity{PathInvalid, []Hop{{path[up.most-1], path[up.most]}}}
	case up.least < n:
		return PathValidity{State: PathUnknown}
	}
	return PathValidity{State: PathValid}
}

// VerifyDownstream verifies a path received from a provider, and is what can be asked of a path whose
// receiver's role is not known: it finds fault only with what no role excuses.
func (a ASPAs) VerifyDownstream(p bgp.ASPath, neighbour uint32) PathValidity {
	path, ok := compressed(p, neighbour)
	if !ok {
		return PathValidity{State: PathInvalid}
	}
	up := a.ramp(path)
	slices.Reverse(path)
	down := a.ramp(path)
	switch n := len(path); {
	case up.most+down.most < n:
		return PathValidity{PathInvalid, []Hop{{path[n-up.most], path[n-up.most-1]}, {path[down.most-1], path[down.most]}}}
	case up.least+down.least < n:
		return PathValidity{State: PathUnknown}
	}
	return PathValidity{State: PathValid}
}

// ramp is how many ASes from the start of a path can (most) and provably do (least) stand in a chain
// of customer and provider. For the way from the receiver the draft's max_down is N-J+1, which is
// the same count from the other end.
type ramp struct{ most, least int }

func (a ASPAs) ramp(path []uint32) ramp {
	r := ramp{len(path), len(path)}
	for i := 0; i+1 < len(path); i++ {
		switch a.Authorized(path[i], path[i+1]) {
		case NoAttestation:
			r.least = min(r.least, i+1)
		case NotProviderPlus:
			return ramp{i + 1, min(r.least, i+1)}
		}
	}
	return r
}

// compressed returns the path from the origin on without repeats. ok is false where the draft calls
// a path Invalid whatever is attested: it is empty, has an AS_SET, or does not begin with neighbour.
func compressed(p bgp.ASPath, neighbour uint32) (path []uint32, ok bool) {
	for _, s := range p {
		switch s.Type {
		case bgp.ASSequence:
			path = append(path, s.ASNs...)
		case bgp.ASSet:
			return nil, false
		}
	}
	if len(path) == 0 || neighbour != 0 && path[0] != neighbour {
		return nil, false
	}
	slices.Reverse(path)
	return slices.Compact(path), true
}
