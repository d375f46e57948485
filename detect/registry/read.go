package registry

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
)

// Bounds of what is read. The NRO's combined file has about 700,000 records of less than 120 bytes.
const (
	maxLine    = 4096
	maxRecords = 16 << 20
	maxHolder  = 128
	maxNames   = 1 << 30 // bytes of all holders' identifiers
)

// maxMalformed is how many records of a file may be malformed: a part in so many.
const maxMalformed = 1000

// ReadFiles reads statistics files, plain or gzip, told by content. from names each in evidence. The error names each file
// that cannot be used.
func ReadFiles(paths, from []string) (*Set, error) {
	r := newReader()
	var errs []error
	for i, path := range paths {
		if err := r.readFile(path); err != nil {
			errs = append(errs, fmt.Errorf("delegations: %s: %w", from[i], err))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return r.set(strings.Join(from, ", ")), nil
}

// Read reads one statistics file; source names it in evidence.
func Read(in io.Reader, source string) (*Set, error) {
	r := newReader()
	if err := r.read(in); err != nil {
		return nil, fmt.Errorf("delegations: %s: %w", source, err)
	}
	return r.set(source), nil
}

// reader gathers the records of several files.
type reader struct {
	v4, as  []span[uint32]
	v6      []span[uint64]
	holders map[string]uint32 // by registry and identifier
	names   []byte
	ends    []uint32
	records int
}

func newReader() *reader { return &reader{holders: map[string]uint32{}} }

func (r *reader) set(source string) *Set {
	return &Set{v4: flatten(r.v4), v6: flatten(r.v6), as: flatten(r.as), names: string(r.names), ends: slices.Clip(r.ends), source: source}
}

func (r *reader) readFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<16)
	if magic, _ := in.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return r.read(in)
	}
	z, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	defer z.Close()
	return r.read(z)
}

// errIgnored is the answer to a line that is no record.
var errIgnored = errors.New("no record")

// read takes one file: a version line, summaries, records, comments. A malformed record is passed over
// as long as they are few. A file that has clearly fewer records than its version line announces was
// cut short and is refused: what is missing would seem to be held by nobody.
func (r *reader) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, maxLine), maxLine)
	announced, records, malformed := -1, 0, 0
	var fields [8]string
	var first error
	for number := 1; lines.Scan(); number++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		n := split(line, fields[:])
		if announced < 0 {
			if announced = versionLine(fields[:n]); announced < 0 {
				return fmt.Errorf("line %d: %.80q is no version line such as 2|ripencc|20260101|…: is this a delegated-extended file?", number, line)
			}
			continue
		}
		switch err := r.record(fields[:n]); {
		case errors.Is(err, errIgnored):
		case err != nil:
			malformed++
			if first == nil {
				first = fmt.Errorf("line %d: %.120q: %w", number, line, err)
			}
		default:
			records++
			if r.records++; r.records > maxRecords {
				return fmt.Errorf("more than %d records", maxRecords)
			}
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("a line is longer than %d bytes", maxLine)
	} else if err != nil {
		return err
	}
	switch {
	case announced < 0:
		return errors.New("is empty")
	case malformed > 0 && malformed*maxMalformed > records+malformed:
		return fmt.Errorf("%d of %d records are malformed; the first: %w", malformed, records+malformed, first)
	case records < announced-announced/100:
		return fmt.Errorf("has %d records, though its first line announces %d: it was cut short; fetch it again", records, announced)
	}
	return nil
}

// split cuts a line at |; what is beyond the last of fields is left out.
func split(line string, fields []string) int {
	for n := range fields {
		f, rest, more := strings.Cut(line, "|")
		fields[n] = f
		if !more {
			return n + 1
		}
		line = rest
	}
	return len(fields)
}

// versionLine returns how many records version|registry|serial|records|… announces, or -1.
func versionLine(f []string) int {
	if len(f) < 6 || !strings.HasPrefix(f[0], "2") {
		return -1
	}
	n, err := strconv.Atoi(f[3])
	if err != nil || n < 0 || n > maxRecords {
		return -1
	}
	return n
}

// record takes registry|cc|type|start|value|date|status|opaque-id.
func (r *reader) record(f []string) error {
	if len(f) == 6 && f[5] == "summary" {
		return errIgnored
	}
	if len(f) < 7 {
		return errors.New("has too few fields")
	}
	d, err := r.details(f)
	if err != nil {
		return err
	}
	switch f[2] {
	case "ipv4":
		return r.ipv4(f[3], f[4], d)
	case "ipv6":
		return r.ipv6(f[3], f[4], d)
	case "asn":
		return r.asn(f[3], f[4], d)
	}
	return fmt.Errorf("%q is none of asn, ipv4, ipv6", f[2])
}

func (r *reader) details(f []string) (d details, err error) {
	reg := slices.Index(registries[:], f[0])
	if reg < 0 {
		return d, fmt.Errorf("%q is no registry", f[0])
	}
	var st Status
	switch f[6] {
	case "allocated":
		st = Allocated
	case "assigned":
		st = Assigned
	case "available", "ianapool":
		st = Available
	case "reserved":
		st = Reserved
	default:
		return d, fmt.Errorf("%q is no status", f[6])
	}
	country, ok := countryCode(f[1])
	if !ok {
		return d, fmt.Errorf("%q is no country", f[1])
	}
	d.packed = uint16(st)<<13 | uint16(reg)<<10 | country
	if date := f[5]; date != "" && date != "00000000" {
		t, err := time.Parse("20060102", date)
		if err != nil {
			return d, fmt.Errorf("%q is no date", date)
		}
		if day := t.Unix() / 86400; day > 0 && day <= 1<<16-1 {
			d.day = uint16(day)
		}
	}
	if len(f) > 7 && f[7] != "" && st.delegated() {
		if d.holder, err = r.holder(f[0], f[7]); err != nil {
			return d, err
		}
	}
	return d, nil
}

// holder returns the number of an opaque identifier, which means something within its registry only.
func (r *reader) holder(registry, id string) (uint32, error) {
	if len(id) > maxHolder {
		return 0, fmt.Errorf("the identifier of the holder is longer than %d bytes", maxHolder)
	}
	key := registry + "|" + id
	if n, ok := r.holders[key]; ok {
		return n, nil
	}
	if len(r.names)+len(id) > maxNames {
		return 0, fmt.Errorf("the identifiers of all holders take more than %d bytes", maxNames)
	}
	r.names = append(r.names, id...)
	r.ends = append(r.ends, uint32(len(r.names)))
	n := uint32(len(r.ends))
	r.holders[key] = n
	return n, nil
}

func (r *reader) ipv4(start, value string, d details) error {
	a, err := netip.ParseAddr(start)
	if err != nil || !a.Is4() {
		return fmt.Errorf("%q is no IPv4 address", start)
	}
	n, err := strconv.ParseUint(value, 10, 64)
	b := a.As4()
	first := binary.BigEndian.Uint32(b[:])
	if err != nil || n == 0 || n > 1<<32-uint64(first) {
		return fmt.Errorf("%q is no number of addresses from %s on", value, start)
	}
	r.v4 = append(r.v4, span[uint32]{first, uint32(uint64(first) + n - 1), d})
	return nil
}

func (r *reader) ipv6(start, value string, d details) error {
	a, err := netip.ParseAddr(start)
	if err != nil || !a.Is6() || a.Zone() != "" || a.Is4In6() {
		return fmt.Errorf("%q is no IPv6 address", start)
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 0 || n > 64 {
		return fmt.Errorf("%q is no prefix length up to 64", value)
	}
	p := netip.PrefixFrom(a, n)
	if p.Masked() != p {
		return fmt.Errorf("%s/%s has bits beyond its length", start, value)
	}
	b := a.As16()
	first, last := binary.BigEndian.Uint64(b[:8]), ^uint64(0)
	if n > 0 {
		last = first + (1<<(64-n) - 1)
	}
	r.v6 = append(r.v6, span[uint64]{first, last, d})
	return nil
}

func (r *reader) asn(start, value string, d details) error {
	a, err := strconv.ParseUint(start, 10, 32)
	if err != nil {
		return fmt.Errorf("%q is no AS number", start)
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n == 0 || n > 1<<32-a {
		return fmt.Errorf("%q is no number of AS numbers from %s on", value, start)
	}
	r.as = append(r.as, span[uint32]{uint32(a), uint32(a + n - 1), d})
	return nil
}
