// Package incident holds what detection tells the world: the [Incident] as the public contract
// defines it, and the [Event] that reports each change of one.
package incident

import (
	"net/netip"
	"time"
)

// Kind says what happened. The names are part of the public contract.
type Kind string

const (
	OriginHijack        Kind = "origin_hijack"
	SubprefixHijack     Kind = "subprefix_hijack"
	ForgedPath          Kind = "forged_path"
	ForgedPathSubprefix Kind = "forged_path_subprefix"
	Squatting           Kind = "squatting"
	RouteLeak           Kind = "route_leak"
	ReoriginationLeak   Kind = "reorigination_leak"
	InternalSpecifics   Kind = "internal_specifics_leak"
	BlackholeLeak       Kind = "blackhole_leak"
	Prepend             Kind = "misconfiguration_prepend"
	TypoASN             Kind = "misconfiguration_typo_asn"
	TypoPrefix          Kind = "misconfiguration_typo_prefix"
	PrivateASNLeak      Kind = "private_asn_leak"
	BogonASN            Kind = "bogon_asn"
	BogonPrefix         Kind = "bogon_prefix"
	RPKIInvalid         Kind = "rpki_invalid"
	ROAChange           Kind = "roa_change"
	VisibilityLoss      Kind = "visibility_loss"
	NewNeighbour        Kind = "new_neighbour"
	NewPrefix           Kind = "new_prefix"
	PathPolicy          Kind = "path_policy"
	FeedBlind           Kind = "feed_blind"
)

// Kinds lists every kind, in the order of the contract.
var Kinds = []Kind{OriginHijack, SubprefixHijack, ForgedPath, ForgedPathSubprefix, Squatting, RouteLeak,
	ReoriginationLeak, InternalSpecifics, BlackholeLeak, Prepend, TypoASN, TypoPrefix, PrivateASNLeak, BogonASN,
	BogonPrefix, RPKIInvalid, ROAChange, VisibilityLoss, NewNeighbour, NewPrefix, PathPolicy, FeedBlind}

// Status is where an incident stands.
type Status string

const (
	Open  Status = "open"
	Ended Status = "ended"
)

// Severity orders incidents by how much they deserve a person's sleep.
type Severity string

const (
	Info     Severity = "info"
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

// Severities lists every severity from the least to the most severe.
var Severities = []Severity{Info, Low, Medium, High, Critical}

// Rank gives 0 for Info up to 4 for Critical, and -1 for anything else.
func (s Severity) Rank() int {
	for i, v := range Severities {
		if s == v {
			return i
		}
	}
	return -1
}

// Bounds of the samples that an incident carries; its counts are exact.
const (
	MaxPrefixes   = 100
	MaxPaths      = 20
	MaxUsualPaths = 20
)

// Incident is one thing that went wrong with routing, as it stands after event Sequence.
type Incident struct {
	ID          string   `json:"id"` // "inc_" and base32 of a hash of kind, offender, victim and start: stable under replay
	Kind        Kind     `json:"kind"`
	RFC7908Type *int     `json:"rfc7908_type"`
	Status      Status   `json:"status"`
	Confidence  float64  `json:"confidence"` // 0 to 1
	Severity    Severity `json:"severity"`
	// PeakSeverity is the highest Severity since the incident first opened: who was told of it at
	// its worst must also be told that it declined and ended.
	PeakSeverity Severity   `json:"peak_severity"`
	Title        string     `json:"title"`
	Explanation  string     `json:"explanation"`
	StartedAt    time.Time  `json:"started_at"`  // event time of the first offending route
	DetectedAt   time.Time  `json:"detected_at"` // event time at which enough peers agreed
	UpdatedAt    time.Time  `json:"updated_at"`
	EndedAt      *time.Time `json:"ended_at"`
	Offenders    []uint32   `json:"offenders"`
	Accomplices  []uint32   `json:"accomplices"`
	Victims      []uint32   `json:"victims"`
	Prefixes     []Prefix   `json:"prefixes"`     // sample of at most MaxPrefixes
	PrefixCount  int        `json:"prefix_count"` // exact
	Visibility   Visibility `json:"visibility"`
	// PeakVisibility is Visibility when the most peers saw it.
	PeakVisibility Visibility `json:"peak_visibility"`
	Paths          [][]uint32 `json:"paths"`       // offending paths, collector side first, sample of at most MaxPaths
	UsualPaths     [][]uint32 `json:"usual_paths"` // the paths these prefixes (or what covers them) had before
	Evidence       []Evidence `json:"evidence"`
	// Watches names the operator's watches that it concerns, in their order in the configuration.
	Watches []string `json:"watches"`
	// Muted is why nobody is told of it; nil, and absent, where they are.
	Muted    *Muted   `json:"muted,omitempty"`
	Degraded []string `json:"degraded"` // reasons why this verdict may be incomplete, e.g. a feed that lags
	Sequence uint64   `json:"sequence"` // of the last event that changed it
}

// Muted names the mute that silences an incident: one that held when it opened, and that has covered all of it since.
type Muted struct {
	Watch  string    `json:"watch"` // the watch that the mute stands in
	Reason string    `json:"reason"`
	Until  time.Time `json:"until"` // event time; if the incident goes on then, an event with the change Unmuted tells of it
}

// Prefix is one affected destination.
type Prefix struct {
	Prefix          netip.Prefix `json:"prefix"`
	Covering        netip.Prefix `json:"covering,omitzero"` // what the expected origin announces around it
	ExpectedOrigins []uint32     `json:"expected_origins"`
	ObservedOrigins []uint32     `json:"observed_origins"`
	RPKI            string       `json:"rpki"` // "valid", "invalid", "not_found", "unavailable"
	IRR             string       `json:"irr"`  // "registered", "contradicted", "not_found", "unavailable"
}

// Visibility counts who saw the offending routes. Peer ASNs, not sessions, are the independent witnesses.
type Visibility struct {
	Peers         int `json:"peers"`
	PeerASNs      int `json:"peer_asns"`
	FullFeedPeers int `json:"full_feed_peers"`
	Collectors    int `json:"collectors"`
}

// Evidence is one line of the ledger. Positive weights speak for an incident, negative ones
// against; the logistic of their sum is the confidence.
type Evidence struct {
	Rule          string  `json:"rule"`
	Weight        float64 `json:"weight"`
	Detail        string  `json:"detail"`
	Source        string  `json:"source"`
	SourceVersion string  `json:"source_version"`
}

// Change says what an Event reports.
type Change string

const (
	Opened          Change = "opened"
	Grew            Change = "grew"             // more prefixes, peers or evidence
	Receded         Change = "receded"          // fewer peers or prefixes than before
	SeverityChanged Change = "severity_changed" // takes precedence over grew and receded
	Closed          Change = "ended"
	Reopened        Change = "reopened"
	Unmuted         Change = "unmuted" // the mute no longer holds: who would have been told of the opening is told now
)

// Event is one change of one incident; Incident is its state after the change. Sequences are
// positive, strictly increasing over all incidents of a deployment, and equal Incident.Sequence.
type Event struct {
	Sequence uint64    `json:"sequence"`
	Time     time.Time `json:"time"` // event time
	Change   Change    `json:"change"`
	Incident Incident  `json:"incident"`
}
