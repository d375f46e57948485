package openbmp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bmp"
)

// Flags are those of the header.
type Flags uint8

const (
	FlagRouter Flags = 0x80 // the message is a router's; the router's fields have a meaning
	FlagIPv6   Flags = 0x40 // the router's address is of IPv6
)

// TypeBMPRaw is the type of object of a message that carries one BMP message as the router sent it. The
// other types are tables that OpenBMP's own collector makes.
const TypeBMPRaw = 12

// Hash is a name that OpenBMP gives collectors and routers: 16 octets without a meaning.
type Hash [16]byte

// Header is OpenBMP's binary header, version 1.7.
type Header struct {
	Flags     Flags
	Type      uint8
	Time      ingest.Time // the collector's, of receipt; zero is unknown
	Collector Hash
	AdminID   []byte // the collector's name, at most 255 octets are of use
	Router    Hash
	RouterIP  netip.Addr
	Group     []byte // the name of the router, or of a group of them; likewise
	Rows      uint32 // 1 for TypeBMPRaw
}

const (
	magic = "OBMP"
	// fixedLength is the header without the two names.
	fixedLength = 78
	// maxHeaderLength is what its field can say.
	maxHeaderLength = 1<<16 - 1
)

// HeaderError is a fault after which a message is of no use.
type HeaderError struct {
	Reason string // a stable name, for counting
	Offset int    // in the message
	Detail string
}

func (e *HeaderError) Error() string {
	return fmt.Sprintf("OpenBMP: %s at octet %d: %s", e.Reason, e.Offset, e.Detail)
}

func errorf(reason string, offset int, format string, args ...any) *HeaderError {
	return &HeaderError{reason, offset, fmt.Sprintf(format, args...)}
}

// Decode reads the header that b starts with, and returns the message that follows it and what is left
// after that. All of it, the names in h too, shares the memory of b. Later minor versions are taken for
// 1.7 with something added at the header's end. An error is a [*HeaderError].
func (h *Header) Decode(b []byte) (message, rest []byte, err error) {
	if len(b) < fixedLength {
		return nil, nil, errorf("obmp_short", 0, "%d octets; the least is %d", len(b), fixedLength)
	}
	if string(b[:4]) != magic {
		return nil, nil, errorf("obmp_magic", 0, "%q where %q is expected", b[:4], magic)
	}
	if b[4] != 1 || b[5] < 7 {
		return nil, nil, errorf("obmp_version", 4, "version %d.%d; 1.7 is known", b[4], b[5])
	}
	length, size := int(binary.BigEndian.Uint16(b[6:])), binary.BigEndian.Uint32(b[8:])
	if length < fixedLength || length > len(b) {
		return nil, nil, errorf("obmp_header_length", 6, "a header of %d octets in a message of %d; the least is %d", length, len(b), fixedLength)
	}
	if size > bmp.MaxLength || int(size) > len(b)-length {
		return nil, nil, errorf("obmp_length", 8, "a message of %d octets where %d are left and %d is the most", size, len(b)-length, bmp.MaxLength)
	}
	message, rest = b[length:length+int(size)], b[length+int(size):]
	*h = Header{Flags: Flags(b[12]), Type: b[13]}
	if micros := binary.BigEndian.Uint32(b[18:]); micros < 1e6 {
		h.Time = ingest.Time(binary.BigEndian.Uint32(b[14:]))*1e6 + ingest.Time(micros)
	}
	copy(h.Collector[:], b[22:])
	at, end := 38, b[:length]
	if h.AdminID, at, err = name(end, at, fixedLength-40); err != nil {
		return nil, nil, err
	}
	copy(h.Router[:], end[at:])
	address := [16]byte(end[at+16:])
	if h.RouterIP = netip.AddrFrom4([4]byte(address[:4])); h.Flags&FlagIPv6 != 0 {
		h.RouterIP = netip.AddrFrom16(address)
	}
	if h.Group, at, err = name(end, at+32, 4); err != nil {
		return nil, nil, err
	}
	h.Rows = binary.BigEndian.Uint32(end[at:])
	return message, rest, nil
}

// name reads a name with its length, after which at least the given number of octets must follow.
func name(b []byte, at, after int) ([]byte, int, error) {
	n := int(binary.BigEndian.Uint16(b[at:]))
	if at+2+n+after > len(b) {
		return nil, 0, errorf("obmp_name", at, "a name of %d octets does not fit the header of %d", n, len(b))
	}
	return b[at+2 : at+2+n : at+2+n], at + 2 + n, nil
}

// Append appends h and the message to dst. It fails if the names are too long for one header, the message
// is longer than [bmp.MaxLength], the time is not between 1970 and 2106, or the address does not fit the
// flags.
func Append(dst []byte, h *Header, message []byte) ([]byte, error) {
	length := fixedLength + len(h.AdminID) + len(h.Group)
	seconds := h.Time / 1e6
	switch {
	case length > maxHeaderLength:
		return dst, fmt.Errorf("OpenBMP: a header of %d octets; %d is the most", length, maxHeaderLength)
	case len(message) > bmp.MaxLength:
		return dst, fmt.Errorf("OpenBMP: a message of %d octets; %d is the most", len(message), bmp.MaxLength)
	case h.Time < 0 || seconds > 1<<32-1:
		return dst, fmt.Errorf("OpenBMP: the time %d does not fit the header", h.Time)
	case !h.RouterIP.IsValid() || h.RouterIP.Is4() == (h.Flags&FlagIPv6 != 0):
		return dst, fmt.Errorf("OpenBMP: the router's address %v does not fit the flags %#x", h.RouterIP, uint8(h.Flags))
	}
	dst = append(dst, magic...)
	dst = append(dst, 1, 7)
	dst = binary.BigEndian.AppendUint16(dst, uint16(length))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(message)))
	dst = append(dst, uint8(h.Flags), h.Type)
	dst = binary.BigEndian.AppendUint32(dst, uint32(seconds))
	dst = binary.BigEndian.AppendUint32(dst, uint32(h.Time%1e6))
	dst = append(dst, h.Collector[:]...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(h.AdminID)))
	dst = append(dst, h.AdminID...)
	dst = append(dst, h.Router[:]...)
	var address [16]byte
	copy(address[:], h.RouterIP.AsSlice())
	dst = append(dst, address[:]...)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(h.Group)))
	dst = append(dst, h.Group...)
	dst = binary.BigEndian.AppendUint32(dst, h.Rows)
	return append(dst, message...), nil
}

// text is a name as it is shown: at most 255 octets, and valid.
func text(b []byte) string {
	return string(bytes.ToValidUTF8(b[:min(len(b), 255)], []byte("\uFFFD")))
}
