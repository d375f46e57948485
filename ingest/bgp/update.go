package bgp

import "net/netip"

// Options are what two speakers agreed when their session came up and what the bytes of an UPDATE
// do not say themselves. The zero value is a session with four-octet AS numbers and no ADD-PATH.
type Options struct {
	// TwoOctetAS: AS numbers in AS_PATH and AGGREGATOR have two octets, and AS4_PATH and
	// AS4_AGGREGATOR carry the others (RFC 6793 §4.2).
	TwoOctetAS bool
	// AddPath: families whose routes carry a path identifier (RFC 7911 §3).
	AddPath FamilySet
	// ExtendedMessage: when encoding, a message may have up to 65,535 octets rather than 4,096
	// (RFC 8654). Decoding always accepts the longer ones.
	ExtendedMessage bool
}

// Update is an UPDATE message (RFC 4271 §4.3), or one entry of a table dump.
//
// Unicast and multicast routes are kept apart: multicast ones say how to check the source of
// multicast traffic, not where packets go, so they must not count as announcements of a prefix.
type Update struct {
	// Withdrawn are the unicast routes that are gone: of the message's own field, then of
	// MP_UNREACH_NLRI, then, after an error that calls for it, those announced (RFC 7606 §2).
	Withdrawn []NLRI
	// Announced are the unicast routes: of the message's own field, then of MP_REACH_NLRI.
	Announced []NLRI
	// Attrs apply to all routes announced. If a message announces routes both ways, which RFC 7606
	// §5.1 discourages, NextHop is that of its own field, and that of the others is MPNextHop.
	Attrs Attributes

	MulticastWithdrawn []NLRI
	MulticastAnnounced []NLRI

	// The rest is set by the decoder and ignored by the encoder.

	// Classic is how many of the routes announced come from the message's own field; the rest are
	// from MP_REACH_NLRI.
	Classic int
	// Demoted is how many routes, the last of Withdrawn, were announced, but with an error for which
	// they are to be treated as withdrawn. Announced is then empty.
	Demoted int
	// MPReach and MPUnreach are the families of the two attributes; 0 without one.
	MPReach, MPUnreach Family
	// MPNextHop is that of MP_REACH_NLRI, and MPLinkLocal its second address, if any.
	MPNextHop, MPLinkLocal netip.Addr
	// EndOfRIB is the family whose initial table is complete (RFC 4724 §2); otherwise 0.
	EndOfRIB Family
	// Faults are the errors that the message was decoded in spite of.
	Faults Faults
	// RawAttributes is the list of path attributes as it came, a part of the decoder's input.
	RawAttributes []byte
}
