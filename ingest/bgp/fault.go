package bgp

import (
	"fmt"
	"iter"
	"math/bits"
	"strings"
)

// Fault is one way in which a message can be wrong. Its name is stable, so that counts kept by it
// can be compared over time.
type Fault uint8

// Treatment is what RFC 7606 §2 prescribes for a fault, the weakest first.
type Treatment uint8

const (
	// Ignore: not wrong, but not understood here, and left out.
	Ignore Treatment = iota
	// DiscardAttribute: the attribute is left out, the routes are kept.
	DiscardAttribute
	// TreatAsWithdraw: the routes announced are withdrawn.
	TreatAsWithdraw
	// ResetSession: nothing in the message can be relied upon. A monitor that reads somebody else's
	// session cannot reset it; it drops the message, which the decoder reports as an [Error].
	ResetSession
)

const (
	FaultFamily             Fault = iota // a family that is not decoded
	FaultDuplicateAttribute              // RFC 7606 §3 (g); the first is kept
	FaultAtomicAggregate                 // RFC 7606 §7.6
	FaultAggregator                      // RFC 7606 §7.7
	FaultAggregatorASZero                // RFC 7607 §2
	FaultAS4Path                         // RFC 6793 §6
	FaultAS4Aggregator                   // RFC 6793 §6
	FaultAIGP                            // RFC 7311 §3.2
	FaultAttributeFlags                  // RFC 7606 §3 (c)
	FaultAttributeLength                 // RFC 7606 §4: an attribute overruns the list
	FaultMissingAttribute                // RFC 7606 §3 (d): ORIGIN, AS_PATH or NEXT_HOP
	FaultOrigin                          // RFC 7606 §7.1
	FaultASPath                          // RFC 7606 §7.2
	FaultASPathASZero                    // RFC 7607 §2
	FaultNextHop                         // RFC 7606 §7.3
	FaultMED                             // RFC 7606 §7.4
	FaultLocalPref                       // RFC 7606 §7.5
	FaultCommunities                     // RFC 7606 §7.8
	FaultOriginatorID                    // RFC 7606 §7.9
	FaultClusterList                     // RFC 7606 §7.10
	FaultExtCommunities                  // RFC 7606 §7.14
	FaultLargeCommunities                // RFC 8092 §6
	FaultOTC                             // RFC 9234 §5
	FaultMarker                          // RFC 4271 §6.1
	FaultMessageLength                   // RFC 4271 §6.1
	FaultMessageType                     // RFC 4271 §6.1
	FaultListLength                      // RFC 7606 §3 (b): the lists overrun the message
	FaultNLRI                            // RFC 7606 §5.3
	FaultMPReach                         // RFC 7606 §7.11
	FaultMPUnreach                       // RFC 7606 §5.3
	FaultDuplicateMP                     // RFC 7606 §3 (f)
	FaultUnknownWellKnown                // RFC 4271 §6.3
	FaultNoReachableNLRI                 // RFC 7606 §5.2: an error, and no routes to apply it to
	FaultOpen                            // RFC 4271 §6.2
	numFaults
)

var faults = [numFaults]struct {
	name      string
	treatment Treatment
}{
	FaultFamily:             {"family_not_decoded", Ignore},
	FaultDuplicateAttribute: {"duplicate_attribute", DiscardAttribute},
	FaultAtomicAggregate:    {"atomic_aggregate", DiscardAttribute},
	FaultAggregator:         {"aggregator", DiscardAttribute},
	FaultAggregatorASZero:   {"aggregator_as_zero", DiscardAttribute},
	FaultAS4Path:            {"as4_path", DiscardAttribute},
	FaultAS4Aggregator:      {"as4_aggregator", DiscardAttribute},
	FaultAIGP:               {"aigp", DiscardAttribute},
	FaultAttributeFlags:     {"attribute_flags", TreatAsWithdraw},
	FaultAttributeLength:    {"attribute_length", TreatAsWithdraw},
	FaultMissingAttribute:   {"missing_attribute", TreatAsWithdraw},
	FaultOrigin:             {"origin", TreatAsWithdraw},
	FaultASPath:             {"as_path", TreatAsWithdraw},
	FaultASPathASZero:       {"as_path_as_zero", TreatAsWithdraw},
	FaultNextHop:            {"next_hop", TreatAsWithdraw},
	FaultMED:                {"med", TreatAsWithdraw},
	FaultLocalPref:          {"local_pref", TreatAsWithdraw},
	FaultCommunities:        {"communities", TreatAsWithdraw},
	FaultOriginatorID:       {"originator_id", TreatAsWithdraw},
	FaultClusterList:        {"cluster_list", TreatAsWithdraw},
	FaultExtCommunities:     {"ext_communities", TreatAsWithdraw},
	FaultLargeCommunities:   {"large_communities", TreatAsWithdraw},
	FaultOTC:                {"otc", TreatAsWithdraw},
	FaultMarker:             {"marker", ResetSession},
	FaultMessageLength:      {"message_length", ResetSession},
	FaultMessageType:        {"message_type", ResetSession},
	FaultListLength:         {"list_length", ResetSession},
	FaultNLRI:               {"nlri", ResetSession},
	FaultMPReach:            {"mp_reach", ResetSession},
	FaultMPUnreach:          {"mp_unreach", ResetSession},
	FaultDuplicateMP:        {"duplicate_mp", ResetSession},
	FaultUnknownWellKnown:   {"unknown_well_known", ResetSession},
	FaultNoReachableNLRI:    {"error_without_routes", ResetSession},
	FaultOpen:               {"open", ResetSession},
}

// String is the fault's stable name, in snake case.
func (f Fault) String() string {
	if f < numFaults {
		return faults[f].name
	}
	return fmt.Sprintf("fault_%d", uint8(f))
}

// Treatment is what the fault calls for.
func (f Fault) Treatment() Treatment { return faults[f].treatment }

// Faults is a set of faults.
type Faults uint64

func (s *Faults) add(f Fault) { *s |= 1 << f }

// Has reports whether f is in the set.
func (s Faults) Has(f Fault) bool { return s&(1<<f) != 0 }

// byTreatment holds the faults that call for each treatment.
var byTreatment = func() (m [ResetSession + 1]Faults) {
	for f := range numFaults {
		m[f.Treatment()].add(f)
	}
	return m
}()

// Treatment is the strongest that any fault in the set calls for (RFC 7606 §3 (h)).
func (s Faults) Treatment() Treatment {
	for t := ResetSession; t > Ignore; t-- {
		if s&byTreatment[t] != 0 {
			return t
		}
	}
	return Ignore
}

// String lists the names, separated by commas.
func (s Faults) String() string {
	var names []string
	for f := range s.All() {
		names = append(names, f.String())
	}
	return strings.Join(names, ",")
}

// All yields the faults in the set.
func (s Faults) All() iter.Seq[Fault] {
	return func(yield func(Fault) bool) {
		for ; s != 0; s &= s - 1 {
			if !yield(Fault(bits.TrailingZeros64(uint64(s)))) {
				return
			}
		}
	}
}

// Error is a fault after which a message is of no use.
type Error struct {
	Fault  Fault
	Offset int    // in the bytes that were being decoded
	Detail string // what was found there
}

func (e *Error) Error() string {
	return fmt.Sprintf("BGP: %s at octet %d: %s", e.Fault, e.Offset, e.Detail)
}

func errorf(f Fault, offset int, format string, args ...any) *Error {
	return &Error{f, offset, fmt.Sprintf(format, args...)}
}
