// Package bmp speaks the BGP Monitoring Protocol (RFC 7854), with Adj-RIB-Out (RFC 8671) and Loc-RIB
// (RFC 9069): what routers tell about their own BGP sessions and tables, of which nobody else can.
//
// [Decoder] and [Append] are the wire format. [Session] is what one router has said so far, and turns
// its messages into updates: only its Peer Up messages tell how the routes that follow are encoded.
// Version 4 of the protocol is still a draft (draft-ietf-grow-bmp-tlv) whose code points have changed
// on the way; of its messages those are read that leave no doubt.
//
// Routers are not trusted, although they are one's own: what is wrong is counted by reason.
package bmp

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// Type is the type of a message (RFC 7854 §4.1).
type Type uint8

const (
	TypeRouteMonitoring Type = 0
	TypeStatistics      Type = 1
	TypePeerDown        Type = 2
	TypePeerUp          Type = 3
	TypeInitiation      Type = 4
	TypeTermination     Type = 5
	TypeRouteMirroring  Type = 6
)

var typeNames = [...]string{"route_monitoring", "statistics", "peer_down", "peer_up", "initiation", "termination", "route_mirroring"}

// String is the type's stable name, in snake case.
func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("type_%d", uint8(t))
}

// perPeer reports whether messages of the type have a per-peer header.
func (t Type) perPeer() bool { return t <= TypePeerUp || t == TypeRouteMirroring }

const (
	// HeaderLength is the version, the length and the type (RFC 7854 §4.1).
	HeaderLength = 6
	// PeerHeaderLength is the per-peer header (RFC 7854 §4.2).
	PeerHeaderLength = 42
	// MaxLength is the longest message that is taken for real, header included. The protocol has no
	// bound of its own; a BGP message has at most 65,535 octets, and the longest BMP message that makes
	// sense is a Route Mirroring message with a few of them.
	MaxLength = 1 << 20
)

// PeerType is what kind of table the per-peer header is about (RFC 7854 §4.2, RFC 9069 §4.1).
type PeerType uint8

const (
	GlobalInstance PeerType = 0
	RDInstance     PeerType = 1 // of a VPN
	LocalInstance  PeerType = 2
	LocRIBInstance PeerType = 3
)

// Flags are those of the per-peer header.
type Flags uint8

const (
	FlagIPv6       Flags = 0x80 // V: the peer's address is of IPv6
	FlagPostPolicy Flags = 0x40 // L
	FlagTwoOctetAS Flags = 0x20 // A: the AS_PATH has AS numbers of two octets
	FlagAdjRIBOut  Flags = 0x10 // O (RFC 8671 §4)
	FlagFiltered   Flags = 0x80 // F, of LocRIBInstance only: the table is not sent in full (RFC 9069 §4.2)
)

// PeerHeader says which peer, and which view of its routes, a message is about. For Adj-RIB-Out it is
// the peer to whom the router sends (RFC 8671 §5).
type PeerHeader struct {
	Type          PeerType
	Flags         Flags
	Distinguisher uint64     // of the VPN or the instance; 0 is the default one
	Addr          netip.Addr // not valid for Loc-RIB, where the field is zero
	ASN           uint32     // for Loc-RIB, the router's own
	ID            netip.Addr // BGP identifier; for Loc-RIB, the router's own
	Time          ingest.Time
}

// View is the view of the routes in a Route Monitoring message.
func (h *PeerHeader) View() ingest.View {
	switch post := h.Flags&FlagPostPolicy != 0; {
	case h.Type == LocRIBInstance:
		return ingest.LocRIB
	case h.Flags&FlagAdjRIBOut != 0 && post:
		return ingest.AdjRIBOutPost
	case h.Flags&FlagAdjRIBOut != 0:
		return ingest.AdjRIBOutPre
	case post:
		return ingest.AdjRIBInPost
	}
	return ingest.AdjRIBInPre
}

// TLV is one information element (RFC 7854 §4.4).
type TLV struct {
	Type  uint16
	Index uint16 // of Route Monitoring in version 4; otherwise 0
	Value []byte
}

// Types of TLV, each in the messages named.
const (
	TLVString      = 0 // Initiation, Peer Up, TypeTermination: free text
	TLVSysDescr    = 1 // Initiation
	TLVSysName     = 2 // Initiation
	TLVTableName   = 3 // Peer Up and Peer Down of Loc-RIB (RFC 9069 §4.3)
	TLVAdminLabel  = 4 // Initiation, Peer Up (draft-ietf-grow-bmp-peer-up)
	TLVReason      = 1 // Termination: why, two octets
	TLVBGPMessage  = 0 // Route Mirroring
	TLVInformation = 1 // Route Mirroring: two octets, 0 for a message with an error, 1 for messages lost
)

// known reports whether a TLV of this type has a meaning in messages of type t.
func (t Type) known(tlv uint16) bool {
	switch t {
	case TypeInitiation:
		return tlv <= TLVSysName || tlv == TLVAdminLabel
	case TypePeerUp:
		return tlv == TLVString || tlv == TLVTableName || tlv == TLVAdminLabel
	case TypePeerDown:
		return tlv == TLVTableName
	case TypeTermination, TypeRouteMirroring:
		return tlv <= 1
	}
	return false
}

// PeerUp is what a Peer Up message tells of a session (RFC 7854 §4.10).
type PeerUp struct {
	LocalAddr             netip.Addr // of the family of the peer's address; not valid for Loc-RIB
	LocalPort, RemotePort uint16
	Sent, Received        *bgp.Open // by the router
}

// Reasons of Peer Down (RFC 7854 §4.9, RFC 9069 §5.3).
const (
	DownLocalNotification  = 1
	DownLocal              = 2
	DownRemoteNotification = 3
	DownRemote             = 4
	DownDeconfigured       = 5
	DownLocalTLV           = 6 // of Loc-RIB
)

// PeerDown is what a Peer Down message tells.
type PeerDown struct {
	Reason uint8
	// Data follows the reason: a NOTIFICATION, header included, for reasons 1 and 3; two octets that
	// name the event of the state machine (RFC 4271 §8.1) for reason 2. For reason 6 it is empty, and
	// the message has TLVs.
	Data []byte
}

// Statistic is one value of a Statistics Report (RFC 7854 §4.8, RFC 8671 §6.2).
type Statistic struct {
	Type   uint16
	Family bgp.Family // of those that count by family; otherwise 0
	Value  uint64
	Raw    []byte // what it was read from, or, of a type or length that is not known, all there is
}

// Message is one BMP message. Which fields after Peer have a meaning, Type says.
type Message struct {
	Version uint8 // 3 or 4
	Type    Type
	Peer    PeerHeader // of all but Initiation and Termination

	// BGP is the message of Route Monitoring, with its header. It is nil in a message of version 4 in
	// which none was found without doubt.
	BGP []byte
	// Capabilities are those of the TLVs for stateless parsing, of version 4.
	Capabilities []bgp.Capability

	PeerUp     PeerUp
	PeerDown   PeerDown
	Statistics []Statistic
	TLVs       []TLV
	// Rest is the body of a message of unknown type, or of one of version 4 whose form is not settled.
	Rest []byte
}

// Error is a fault after which a message is of no use.
type Error struct {
	Reason string // a stable name, for counting
	Offset int    // in the message
	Detail string
}

func (e *Error) Error() string {
	return fmt.Sprintf("BMP: %s at octet %d: %s", e.Reason, e.Offset, e.Detail)
}

func errorf(reason string, offset int, format string, args ...any) *Error {
	return &Error{reason, offset, fmt.Sprintf(format, args...)}
}

// Plausible reports whether b, the beginning of a file or a stream, could be that of a message.
func Plausible(b []byte) bool {
	_, err := Length(b)
	return err == nil && b[5] <= byte(TypeRouteMirroring)
}

// Length reads the header that b starts with, and returns the length of the message, header included.
// After an error, an [*Error], there is no telling where the next message begins.
func Length(b []byte) (int, error) {
	if len(b) < HeaderLength {
		return 0, errorf("short", 0, "%d octets; a header has %d", len(b), HeaderLength)
	}
	if b[0] != 3 && b[0] != 4 {
		return 0, errorf("version", 0, "version %d; 3 and 4 are known", b[0])
	}
	n, least := binary.BigEndian.Uint32(b[1:]), uint32(HeaderLength)
	if Type(b[5]).perPeer() {
		least += PeerHeaderLength
	}
	if n < least || n > MaxLength {
		return 0, errorf("length", 1, "%s gives its length as %d; it is from %d to %d", Type(b[5]), n, least, MaxLength)
	}
	return int(n), nil
}
