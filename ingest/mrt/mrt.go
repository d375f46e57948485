// Package mrt reads and writes MRT files (RFC 6396, 6397, 8050), the form in which RIPE RIS,
// RouteViews and every routing daemon keep BGP messages and tables.
//
// Archives hold a quarter of a century of writers with habits of their own, and files that were cut
// off or damaged on the way. The [Reader] therefore trusts nothing: a record that makes no sense is
// reported with its place, and reading goes on with the next record that does. It holds one record
// at a time, decodes in place and allocates nothing in the steady state, because a table dump has
// millions of entries.
package mrt

import (
	"errors"
	"fmt"
	"io"
)

// Record types (RFC 6396 §4, and appendix B for those no longer in use).
const (
	typeBGP         = 5 // MRTD's BGP messages, until 2001
	typeOSPFv2      = 11
	typeTableDump   = 12
	typeTableDumpV2 = 13
	typeBGP4MP      = 16
	typeBGP4MPET    = 17
	typeISIS        = 32
	typeISISET      = 33
	typeOSPFv3      = 48
	typeOSPFv3ET    = 49
)

// Subtypes of typeBGP.
const (
	bgpUpdate      = 1
	bgpStateChange = 3
)

// Subtypes of typeTableDumpV2 (RFC 6396 §4.3, RFC 6397 §2, RFC 8050 §4).
const (
	peerIndexTable        = 1
	ribIPv4Unicast        = 2
	ribIPv4Multicast      = 3
	ribIPv6Unicast        = 4
	ribIPv6Multicast      = 5
	ribGeneric            = 6
	geoPeerTable          = 7
	ribIPv4UnicastAddPath = 8 // and so on in the order of 2 to 6
	ribGenericAddPath     = 12
)

// Subtypes of typeBGP4MP (RFC 6396 §4.4, RFC 8050 §3).
const (
	stateChange         = 0
	message             = 1
	entry               = 2 // deprecated; written by OpenBGPD as "table-mp"
	snapshot            = 3 // deprecated
	messageAS4          = 4
	stateChangeAS4      = 5
	messageLocal        = 6
	messageAS4Local     = 7
	messageAddPath      = 8
	messageAS4AddPath   = 9
	messageLocalAddPath = 10
	messageAS4LocalAP   = 11
)

const (
	headerLength = 12
	// MaxRecord is the longest record that is taken for real, in octets. The largest seen, with a
	// thousand peers in one RIB record, are below 1 MB.
	MaxRecord = 16 << 20
)

// established is the state of a session that carries routes (RFC 6396 §4.4.1).
const established = 6

// RecordError is a damaged record, or a damaged entry of one. Reading may go on after it.
type RecordError struct {
	File   string
	Offset int64  // of the record's header in the decompressed file
	Reason string // a stable name, for counting
	Err    error
	// Skipped is how many octets after Offset were passed over to reach the next record, where the
	// record's own length could not be relied upon; otherwise 0.
	Skipped int64
}

func (e *RecordError) Error() string {
	s := fmt.Sprintf("%s: record at offset %d: %v", e.File, e.Offset, e.Err)
	if e.Skipped > 0 {
		s += fmt.Sprintf("; %d octets skipped", e.Skipped)
	}
	return s
}

func (e *RecordError) Unwrap() error { return e.Err }

// reasonError carries the stable name of what is wrong up to the record.
type reasonError struct {
	reason string
	detail string
}

func (e *reasonError) Error() string { return e.detail }

func damaged(reason, format string, args ...any) error {
	return &reasonError{reason, fmt.Sprintf(format, args...)}
}

// Counts says what was read so far.
type Counts struct {
	Records       uint64 `json:"records"`
	Announcements uint64 `json:"announcements"` // routes, not messages
	Withdrawals   uint64 `json:"withdrawals"`   // likewise
	RIBEntries    uint64 `json:"rib_entries"`
	StateChanges  uint64 `json:"state_changes"`
	// Malformed counts damaged records, and messages decoded in spite of an error, by reason.
	Malformed map[string]uint64 `json:"malformed"`
	// Skipped counts what is in order but holds no routes that are decoded, by what it is.
	Skipped map[string]uint64 `json:"skipped"`
	Bytes   int64             `json:"bytes"` // decompressed
}

// Add adds the counts of another file.
func (c *Counts) Add(o Counts) {
	c.Records += o.Records
	c.Announcements += o.Announcements
	c.Withdrawals += o.Withdrawals
	c.RIBEntries += o.RIBEntries
	c.StateChanges += o.StateChanges
	c.Bytes += o.Bytes
	for _, m := range [...]struct{ into, from *map[string]uint64 }{{&c.Malformed, &o.Malformed}, {&c.Skipped, &o.Skipped}} {
		for k, n := range *m.from {
			count(m.into, k, n)
		}
	}
}

func count(m *map[string]uint64, key string, n uint64) {
	if *m == nil {
		*m = make(map[string]uint64)
	}
	(*m)[key] += n
}

// Plausible reports whether b, the beginning of a file, could be a record's header.
func Plausible(b []byte) bool {
	return len(b) >= headerLength && parseHeader(b).plausible()
}

// ErrNotMRT is wrapped by the error that ends the reading of something else.
var ErrNotMRT = errors.New("not an MRT file")

// window is the part of the input that is in memory.
type window struct {
	src  io.Reader
	buf  []byte
	r, w int   // what is in buf
	off  int64 // offset of buf[r] in the input
	err  error // why src has no more
}

const (
	readSize  = 256 << 10
	maxEmpty  = 100 // reads in a row that return nothing, before giving up
	maxWindow = headerLength + MaxRecord + headerLength
)

// fill makes n octets available from buf[r], or as many as there are.
func (w *window) fill(n int) []byte {
	for empty := 0; w.w-w.r < n && w.err == nil; {
		if w.w == len(w.buf) {
			// At least half of buf is free afterwards, so moving costs less than reading did. It
			// grows as data arrives, not as a header claims.
			held, size := w.w-w.r, max(len(w.buf), readSize)
			if held > size/2 {
				size = min(2*size, 2*maxWindow)
			}
			buf := w.buf
			if size != len(buf) {
				buf = make([]byte, size)
			}
			copy(buf, w.buf[w.r:w.w])
			w.buf, w.r, w.w = buf, 0, held
		}
		m, err := w.src.Read(w.buf[w.w:])
		w.w += m
		switch {
		case err != nil:
			w.err = err
		case m > 0:
			empty = 0
		default:
			if empty++; empty == maxEmpty {
				w.err = io.ErrNoProgress
			}
		}
	}
	return w.buf[w.r:min(w.r+n, w.w)]
}

func (w *window) discard(n int) {
	w.r += n
	w.off += int64(n)
}
