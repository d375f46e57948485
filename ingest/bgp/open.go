package bgp

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// Capability codes (IANA Capability Codes) that are interpreted here.
const (
	CapMultiprotocol   = 1  // RFC 4760 §8
	CapRouteRefresh    = 2  // RFC 2918
	CapExtendedNextHop = 5  // RFC 8950 §4
	CapExtendedMessage = 6  // RFC 8654
	CapRole            = 9  // RFC 9234 §4.1
	CapGracefulRestart = 64 // RFC 4724 §3
	CapFourOctetAS     = 65 // RFC 6793 §3
	CapAddPath         = 69 // RFC 7911 §4
)

// Capability is one capability of an OPEN (RFC 5492).
type Capability struct {
	Code  uint8
	Value []byte // at most 255 octets
}

// Multiprotocol says that routes of f are spoken.
func Multiprotocol(f Family) Capability {
	afi := f.AFI()
	return Capability{CapMultiprotocol, []byte{byte(afi >> 8), byte(afi), 0, f.SAFI()}}
}

// FourOctetAS says that AS numbers have four octets, and which is the speaker's.
func FourOctetAS(asn uint32) Capability {
	return Capability{CapFourOctetAS, binary.BigEndian.AppendUint32(nil, asn)}
}

// Directions of [AddPath].
const (
	AddPathReceive = 1
	AddPathSend    = 2
	AddPathBoth    = 3
)

// AddPath says that the routes of the families can carry path identifiers in the given direction.
func AddPath(direction uint8, families ...Family) Capability {
	c := Capability{Code: CapAddPath}
	for _, f := range families {
		c.Value = append(binary.BigEndian.AppendUint16(c.Value, f.AFI()), f.SAFI(), direction)
	}
	return c
}

// ExtendedNextHop says that IPv4 routes of the families may have IPv6 next hops.
func ExtendedNextHop(families ...Family) Capability {
	c := Capability{Code: CapExtendedNextHop}
	for _, f := range families {
		c.Value = append(binary.BigEndian.AppendUint16(c.Value, f.AFI()), 0, f.SAFI(), 0, 2)
	}
	return c
}

// Open starts a session (RFC 4271 §4.2).
type Open struct {
	ASN          uint32 // of the four-octet capability if there is one
	HoldTime     uint16 // seconds; 0 for none, otherwise at least 3
	ID           netip.Addr
	Capabilities []Capability // their values are parts of the input
}

// ParseOpen reads the body of an OPEN message, with the long form of its parameters (RFC 9072) too.
// Parameters other than capabilities are passed over.
func ParseOpen(body []byte) (*Open, error) {
	if len(body) < 10 {
		return nil, errorf(FaultOpen, 0, "%d octets; the least is 10", len(body))
	}
	if body[0] != 4 {
		return nil, errorf(FaultOpen, 0, "BGP version %d; 4 is known", body[0])
	}
	o := &Open{
		ASN:      uint32(binary.BigEndian.Uint16(body[1:])),
		HoldTime: binary.BigEndian.Uint16(body[3:]),
		ID:       netip.AddrFrom4([4]byte(body[5:])),
	}
	n, at, lengthOctets := int(body[9]), 10, 1
	if n != 0 && len(body) >= 13 && body[10] == 255 {
		n, at, lengthOctets = int(binary.BigEndian.Uint16(body[11:])), 13, 2
	}
	if n != len(body)-at {
		return nil, errorf(FaultOpen, at, "%d octets of parameters where %d are left", n, len(body)-at)
	}
	for at < len(body) {
		if at+1+lengthOctets > len(body) {
			return nil, errorf(FaultOpen, at, "a parameter is cut short")
		}
		typ, n := body[at], int(body[at+1])
		if lengthOctets == 2 {
			n = n<<8 | int(body[at+2])
		}
		from := at + 1 + lengthOctets
		if from+n > len(body) {
			return nil, errorf(FaultOpen, at, "a parameter of %d octets where %d are left", n, len(body)-from)
		}
		at = from + n
		if typ != 2 {
			continue
		}
		for v := body[from:at]; len(v) > 0; {
			if len(v) < 2 || len(v) < 2+int(v[1]) {
				return nil, errorf(FaultOpen, at-len(v), "a capability is cut short")
			}
			c := Capability{v[0], v[2 : 2+int(v[1])]}
			if c.Code == CapFourOctetAS && len(c.Value) == 4 {
				o.ASN = binary.BigEndian.Uint32(c.Value)
			}
			o.Capabilities = append(o.Capabilities, c)
			v = v[2+int(v[1]):]
		}
	}
	return o, nil
}

// AppendOpen appends an OPEN message, one parameter for each capability. The two-octet AS field
// holds AS_TRANS where o.ASN does not fit. Parameters of more than 255 octets take the form of RFC 9072.
func AppendOpen(dst []byte, o *Open) ([]byte, error) {
	if !o.ID.Is4() {
		return dst, errors.New("cannot encode OPEN: the BGP identifier is not an IPv4 address")
	}
	short, long := 0, 0
	for _, c := range o.Capabilities {
		if len(c.Value) > 253 {
			return dst, errors.New("cannot encode OPEN: a capability exceeds 253 octets")
		}
		short += 4 + len(c.Value)
		long += 5 + len(c.Value)
	}
	if long > MaxLength-HeaderLength-13 {
		return dst, errors.New("cannot encode OPEN: the capabilities do not fit into a message")
	}
	id := o.ID.As4()
	return appendMessage(dst, TypeOpen, func(b []byte) []byte {
		b = append(b, 4)
		b = binary.BigEndian.AppendUint16(b, twoOctets(o.ASN))
		b = binary.BigEndian.AppendUint16(b, o.HoldTime)
		b = append(b, id[:]...)
		extended := short > 255
		if extended {
			b = append(b, 255, 255)
			b = binary.BigEndian.AppendUint16(b, uint16(long))
		} else {
			b = append(b, byte(short))
		}
		for _, c := range o.Capabilities {
			b = append(b, 2)
			if extended {
				b = append(b, 0)
			}
			b = append(b, byte(2+len(c.Value)), c.Code, byte(len(c.Value)))
			b = append(b, c.Value...)
		}
		return b
	}), nil
}

// AddPath returns the families of which the speaker says that it sends, or receives, path identifiers;
// [AddPathBoth] asks for either.
func (o *Open) AddPath(direction uint8) FamilySet {
	var s FamilySet
	for _, c := range o.Capabilities {
		if c.Code != CapAddPath {
			continue
		}
		for v := c.Value; len(v) >= 4; v = v[4:] {
			if v[3] <= AddPathBoth && v[3]&direction != 0 {
				s |= Families(FamilyOf(binary.BigEndian.Uint16(v), v[2]))
			}
		}
	}
	return s
}

func (o *Open) has(code uint8) bool {
	for _, c := range o.Capabilities {
		if c.Code == code {
			return true
		}
	}
	return false
}

// Negotiate returns how the UPDATE messages of the speaker that sent one OPEN to the speaker that
// sent the other are encoded.
func Negotiate(sender, receiver *Open) Options {
	return Options{
		TwoOctetAS:      !sender.has(CapFourOctetAS) || !receiver.has(CapFourOctetAS),
		AddPath:         sender.AddPath(AddPathSend) & receiver.AddPath(AddPathReceive),
		ExtendedMessage: sender.has(CapExtendedMessage) && receiver.has(CapExtendedMessage),
	}
}
