package rtr

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"
)

// Type is the type of a PDU.
type Type uint8

// The PDUs of RFC 8210 §5 and draft-ietf-sidrops-8210bis §5.
const (
	SerialNotify  Type = 0
	SerialQuery   Type = 1
	ResetQuery    Type = 2
	CacheResponse Type = 3
	IPv4Prefix    Type = 4
	IPv6Prefix    Type = 6
	EndOfData     Type = 7
	CacheReset    Type = 8
	RouterKey     Type = 9 // from version 1
	ErrorReport   Type = 10
	ASPA          Type = 11 // from version 2
)

var typeNames = map[Type]string{SerialNotify: "Serial Notify", SerialQuery: "Serial Query", ResetQuery: "Reset Query",
	CacheResponse: "Cache Response", IPv4Prefix: "IPv4 Prefix", IPv6Prefix: "IPv6 Prefix", EndOfData: "End of Data",
	CacheReset: "Cache Reset", RouterKey: "Router Key", ErrorReport: "Error Report", ASPA: "ASPA"}

func (t Type) String() string {
	if name, ok := typeNames[t]; ok {
		return name
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// ErrorCode is why an Error Report was sent (RFC 8210 §12; 9 to 11 are of version 2).
type ErrorCode uint16

const (
	CorruptData        ErrorCode = 0
	InternalError      ErrorCode = 1
	NoDataAvailable    ErrorCode = 2
	InvalidRequest     ErrorCode = 3
	UnsupportedVersion ErrorCode = 4
	UnsupportedType    ErrorCode = 5
	UnknownWithdrawal  ErrorCode = 6
	DuplicateAnnounce  ErrorCode = 7
	UnexpectedVersion  ErrorCode = 8
	ProviderListError  ErrorCode = 9
	TransportFailed    ErrorCode = 10
	OrderingError      ErrorCode = 11
)

var codeNames = [...]string{"Corrupt Data", "Internal Error", "No Data Available", "Invalid Request", "Unsupported Protocol Version",
	"Unsupported PDU Type", "Withdrawal of Unknown Record", "Duplicate Announcement Received", "Unexpected Protocol Version",
	"ASPA Provider List Error", "Transport Failed", "Ordering Error"}

func (c ErrorCode) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("error %d", uint16(c))
}

// MaxVersion is the highest version of the protocol that is spoken here.
const MaxVersion = 2

// MaxPDU bounds a PDU in bytes: an ASPA of 16,000 providers, or a report of it.
const MaxPDU = 64 << 10

const headerLen = 8

// PDU is one message of any type. Which fields count depends on the type.
type PDU struct {
	Version uint8
	Type    Type

	Session uint16 // Serial Notify, Serial Query, Cache Response, End of Data
	Serial  uint32 // Serial Notify, Serial Query, End of Data

	// Seconds, of End of Data from version 1.
	Refresh, Retry, Expire uint32

	Announce  bool         // of payload: it is announced, and else withdrawn
	Prefix    netip.Prefix // IPv4 Prefix, IPv6 Prefix
	MaxLength uint8        // IPv4 Prefix, IPv6 Prefix
	ASN       uint32       // IPv4 Prefix, IPv6 Prefix, Router Key; the customer of an ASPA
	Providers []uint32     // ASPA
	SKI       [20]byte     // Router Key
	SPKI      []byte       // Router Key, DER

	Code      ErrorCode // Error Report
	Erroneous []byte    // Error Report: the PDU that it complains of, maybe cut short
	Text      string    // Error Report: for people, maybe empty
}

// Error is a fault of the other side that ends a session, with what to report of it.
type Error struct {
	Code ErrorCode
	PDU  []byte // the PDU at fault; nil when there is none to show
	Text string
}

func (e *Error) Error() string { return e.Code.String() + ": " + e.Text }

func fault(code ErrorCode, pdu []byte, format string, args ...any) *Error {
	return &Error{code, slices.Clone(pdu), fmt.Sprintf(format, args...)}
}

// length checks the header of a PDU and returns the length of the whole: all that can be known before
// it is there. b holds at least the header.
func length(b []byte) (int, error) {
	version, t, n := b[0], Type(b[1]), binary.BigEndian.Uint32(b[4:])
	b = b[:headerLen]
	if version > MaxVersion {
		return 0, fault(UnsupportedVersion, b, "version %d", version)
	}
	least, most := 0, 0
	switch t {
	case ResetQuery, CacheResponse, CacheReset:
		least, most = 8, 8
	case SerialNotify, SerialQuery:
		least, most = 12, 12
	case IPv4Prefix:
		least, most = 20, 20
	case IPv6Prefix:
		least, most = 32, 32
	case EndOfData:
		if least, most = 24, 24; version == 0 {
			least, most = 12, 12
		}
	case RouterKey:
		least, most = 32, MaxPDU
	case ErrorReport:
		least, most = 16, MaxPDU
	case ASPA:
		least, most = 12, MaxPDU
	}
	switch {
	case most == 0 || t == RouterKey && version < 1 || t == ASPA && version < 2:
		return 0, fault(UnsupportedType, b, "%v in version %d", t, version)
	case n < uint32(least) || n > uint32(most):
		return 0, fault(CorruptData, b, "%v of %d bytes, not %d to %d", t, n, least, most)
	case t == ASPA && n%4 != 0:
		return 0, fault(CorruptData, b, "ASPA of %d bytes has half a provider", n)
	}
	return int(n), nil
}

// Decode reads b, which holds exactly one PDU, into p. SPKI and Erroneous are parts of b; Providers uses
// the memory that p has. What is wrong with b is an [*Error].
func (p *PDU) Decode(b []byte) error {
	if len(b) < headerLen {
		return fault(CorruptData, b, "%d bytes are no PDU", len(b))
	}
	n, err := length(b)
	if err != nil {
		return err
	}
	if n != len(b) {
		return fault(CorruptData, b, "%d bytes where the header says %d", len(b), n)
	}
	*p = PDU{Version: b[0], Type: Type(b[1]), Providers: p.Providers[:0]}
	field := binary.BigEndian.Uint16(b[2:])
	switch p.Type {
	case SerialNotify, SerialQuery:
		p.Session, p.Serial = field, binary.BigEndian.Uint32(b[8:])
	case CacheResponse:
		p.Session = field
	case EndOfData:
		p.Session, p.Serial = field, binary.BigEndian.Uint32(b[8:])
		if p.Version > 0 {
			p.Refresh, p.Retry, p.Expire = binary.BigEndian.Uint32(b[12:]), binary.BigEndian.Uint32(b[16:]), binary.BigEndian.Uint32(b[20:])
		}
	case IPv4Prefix:
		return p.decodePrefix(b, netip.AddrFrom4([4]byte(b[12:16])))
	case IPv6Prefix:
		return p.decodePrefix(b, netip.AddrFrom16([16]byte(b[12:28])))
	case RouterKey:
		p.Announce = b[2]&1 != 0
		p.SKI = [20]byte(b[8:28])
		p.ASN = binary.BigEndian.Uint32(b[28:])
		p.SPKI = b[32:]
	case ASPA:
		p.Announce = b[2]&1 != 0
		p.ASN = binary.BigEndian.Uint32(b[8:])
		for rest := b[12:]; len(rest) > 0; rest = rest[4:] {
			p.Providers = append(p.Providers, binary.BigEndian.Uint32(rest))
		}
	case ErrorReport:
		return p.decodeError(b, field)
	}
	return nil
}

func (p *PDU) decodePrefix(b []byte, a netip.Addr) error {
	bits, most := int(b[9]), int(b[10])
	if bits > a.BitLen() || most > a.BitLen() || most < bits {
		return fault(CorruptData, b, "%v of length %d up to %d", p.Type, bits, most)
	}
	p.Announce = b[8]&1 != 0
	p.Prefix, p.MaxLength = netip.PrefixFrom(a, bits), b[10]
	p.ASN = binary.BigEndian.Uint32(b[len(b)-4:])
	if p.Prefix != p.Prefix.Masked() {
		return fault(CorruptData, b, "%v has bits set beyond its length", p.Prefix)
	}
	return nil
}

func (p *PDU) decodeError(b []byte, code uint16) error {
	p.Code = ErrorCode(code)
	rest := b[8:]
	for _, part := range [...]*[]byte{&p.Erroneous, nil} {
		if len(rest) < 4 {
			return fault(CorruptData, b, "Error Report ends early")
		}
		n := binary.BigEndian.Uint32(rest)
		if rest = rest[4:]; n > uint32(len(rest)) {
			return fault(CorruptData, b, "Error Report ends early")
		}
		if part != nil {
			*part, rest = rest[:n], rest[n:]
			continue
		}
		p.Text = strings.ToValidUTF8(string(rest[:n]), string(utf8.RuneError))
		if len(rest) > int(n) {
			return fault(CorruptData, b, "something follows the text of the Error Report")
		}
	}
	return nil
}

// Append appends p in wire form to b. It does not check p: what is longer than MaxPDU, or not in p's
// version of the protocol, the other side refuses.
func (p *PDU) Append(b []byte) []byte {
	start := len(b)
	flag := func() byte {
		if p.Announce {
			return 1
		}
		return 0
	}
	field := p.Session
	switch p.Type {
	case ErrorReport:
		field = uint16(p.Code)
	case RouterKey, ASPA:
		field = uint16(flag()) << 8
	case SerialNotify, SerialQuery, CacheResponse, EndOfData:
	default:
		field = 0
	}
	put := binary.BigEndian.AppendUint32
	b = append(b, p.Version, byte(p.Type), byte(field>>8), byte(field), 0, 0, 0, 0)
	switch p.Type {
	case SerialNotify, SerialQuery:
		b = put(b, p.Serial)
	case EndOfData:
		if b = put(b, p.Serial); p.Version > 0 {
			b = put(put(put(b, p.Refresh), p.Retry), p.Expire)
		}
	case IPv4Prefix, IPv6Prefix:
		b = append(b, flag(), byte(p.Prefix.Bits()), p.MaxLength, 0)
		b = put(append(b, p.Prefix.Addr().AsSlice()...), p.ASN)
	case RouterKey:
		b = append(put(append(b, p.SKI[:]...), p.ASN), p.SPKI...)
	case ASPA:
		b = put(b, p.ASN)
		for _, provider := range p.Providers {
			b = put(b, provider)
		}
	case ErrorReport:
		b = append(put(b, uint32(len(p.Erroneous))), p.Erroneous...)
		b = append(put(b, uint32(len(p.Text))), p.Text...)
	}
	binary.BigEndian.PutUint32(b[start+4:], uint32(len(b)-start))
	return b
}

// reader takes PDUs from a stream. A read that fails for lack of time may be tried again: what came of
// a PDU until then is not lost.
type reader struct{ *bufio.Reader }

func newReader(r io.Reader) reader { return reader{bufio.NewReaderSize(r, MaxPDU)} }

// next waits for a header, calls begun, waits for the rest and returns the PDU's bytes, which are good until
// the next call. At the end of the stream it returns io.EOF, or io.ErrUnexpectedEOF inside a PDU.
func (r reader) next(begun func() error) ([]byte, error) {
	b, err := r.Peek(headerLen)
	if err == nil {
		var n int
		if n, err = length(b); err != nil {
			return nil, err
		}
		if n > r.Buffered() {
			if err = begun(); err != nil {
				return nil, err
			}
		}
		if b, err = r.Peek(n); err == nil {
			_, err = r.Discard(n)
			return b, err
		}
	}
	if errors.Is(err, io.EOF) && len(b) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return nil, err
}
