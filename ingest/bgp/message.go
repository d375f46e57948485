package bgp

import (
	"encoding/binary"
	"fmt"
)

// Type is the type of a message (RFC 4271 §4.1).
type Type uint8

const (
	TypeOpen         Type = 1
	TypeUpdate       Type = 2
	TypeNotification Type = 3
	TypeKeepalive    Type = 4
	TypeRouteRefresh Type = 5 // RFC 2918
)

func (t Type) String() string {
	names := [...]string{"", "OPEN", "UPDATE", "NOTIFICATION", "KEEPALIVE", "ROUTE-REFRESH"}
	if t >= 1 && int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

const (
	// HeaderLength is the marker, the length and the type (RFC 4271 §4.1).
	HeaderLength = 19
	// MaxLength is the longest message, header included.
	MaxLength = 4096
	// MaxExtendedLength is the same where RFC 8654 was agreed.
	MaxExtendedLength = 65535
)

var marker = [16]byte{255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}

// ParseHeader reads the header that b begins with: the type of the message, and its length, which
// includes the header and is one that the type can have. UPDATE, NOTIFICATION and ROUTE-REFRESH may
// be as long as RFC 8654 allows. An error is an [*Error].
func ParseHeader(b []byte) (t Type, length int, err error) {
	if len(b) < HeaderLength {
		return 0, 0, errorf(FaultMessageLength, 0, "%d octets; a header has %d", len(b), HeaderLength)
	}
	if [16]byte(b) != marker {
		return 0, 0, errorf(FaultMarker, 0, "the marker is %x", b[:16])
	}
	n, t := int(binary.BigEndian.Uint16(b[16:])), Type(b[18])
	least, most := HeaderLength, MaxExtendedLength
	switch t {
	case TypeOpen:
		least, most = HeaderLength+10, MaxLength
	case TypeUpdate:
		least = HeaderLength + 4
	case TypeNotification:
		least = HeaderLength + 2
	case TypeKeepalive:
		most = HeaderLength
	case TypeRouteRefresh:
		least = HeaderLength + 4
	default:
		return 0, 0, errorf(FaultMessageType, 18, "message type %d", t)
	}
	if n < least || n > most {
		return 0, 0, errorf(FaultMessageLength, 16, "%s gives its length as %d; it is from %d to %d", t, n, least, most)
	}
	return t, n, nil
}

// Split takes the first message off b: its type, what follows its header, and what follows it. It is
// as strict as [ParseHeader]. An error is an [*Error].
func Split(b []byte) (t Type, body, rest []byte, err error) {
	t, n, err := ParseHeader(b)
	if err != nil {
		return 0, nil, nil, err
	}
	if n > len(b) {
		return 0, nil, nil, errorf(FaultMessageLength, 16, "%s gives its length as %d; %d octets are here", t, n, len(b))
	}
	return t, b[HeaderLength:n], b[n:], nil
}

// appendMessage appends a message with the body that fill appends.
func appendMessage(dst []byte, t Type, fill func([]byte) []byte) []byte {
	start := len(dst)
	dst = append(dst, marker[:]...)
	dst = fill(append(dst, 0, 0, byte(t)))
	binary.BigEndian.PutUint16(dst[start+16:], uint16(len(dst)-start))
	return dst
}

// AppendKeepalive appends a KEEPALIVE message.
func AppendKeepalive(dst []byte) []byte {
	return appendMessage(dst, TypeKeepalive, func(b []byte) []byte { return b })
}

// AppendRouteRefresh appends a ROUTE-REFRESH message (RFC 2918 §3); subtype 0 asks for the routes,
// 1 and 2 mark the beginning and the end of a refresh (RFC 7313 §3.2).
func AppendRouteRefresh(dst []byte, f Family, subtype uint8) []byte {
	return appendMessage(dst, TypeRouteRefresh, func(b []byte) []byte {
		return append(binary.BigEndian.AppendUint16(b, f.AFI()), subtype, f.SAFI())
	})
}

// ParseRouteRefresh reads the body of a ROUTE-REFRESH message; it may be followed by outbound route
// filters (RFC 5291), which are not looked at.
func ParseRouteRefresh(body []byte) (f Family, subtype uint8, err error) {
	if len(body) < 4 {
		return 0, 0, errorf(FaultMessageLength, 0, "a ROUTE-REFRESH of %d octets; the least is 4", len(body))
	}
	return FamilyOf(binary.BigEndian.Uint16(body), body[3]), body[2], nil
}

// Notification ends a session (RFC 4271 §4.5).
type Notification struct {
	Code, Subcode uint8
	Data          []byte // a part of the input
}

// AppendNotification appends a NOTIFICATION message. Data that does not fit is cut.
func AppendNotification(dst []byte, n Notification) []byte {
	return appendMessage(dst, TypeNotification, func(b []byte) []byte {
		return append(append(b, n.Code, n.Subcode), n.Data[:min(len(n.Data), MaxLength-HeaderLength-2)]...)
	})
}

// ParseNotification reads the body of a NOTIFICATION message.
func ParseNotification(body []byte) (Notification, error) {
	if len(body) < 2 {
		return Notification{}, errorf(FaultMessageLength, 0, "a NOTIFICATION of %d octets; the least is 2", len(body))
	}
	return Notification{body[0], body[1], body[2:]}, nil
}

// AppendEndOfRIB appends the UPDATE that says that the table of f was sent in full (RFC 4724 §2).
func AppendEndOfRIB(dst []byte, f Family) []byte {
	return appendMessage(dst, TypeUpdate, func(b []byte) []byte {
		if f == IPv4Unicast {
			return append(b, 0, 0, 0, 0)
		}
		b = append(b, 0, 0, 0, 6, flagOptional, typeMPUnreach, 3)
		return append(binary.BigEndian.AppendUint16(b, f.AFI()), f.SAFI())
	})
}
