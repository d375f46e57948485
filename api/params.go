package api

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/routevigil/routevigil/detect/rpki/journal"
	"github.com/routevigil/routevigil/store"
)

// The types of this file are the parameters that need more than huma's own checks. Each accepts
// text and nothing else, and its errors say what would be right.

// asnParam is an AS number, asplain (RFC 5396), with or without "AS". Zero is not one (RFC 7607).
type asnParam struct{ value uint32 }

func (a *asnParam) UnmarshalText(text []byte) error {
	digits := string(text)
	if len(digits) > 2 && strings.EqualFold(digits[:2], "AS") {
		digits = digits[2:]
	}
	v, err := strconv.ParseUint(digits, 10, 32)
	if err != nil || v == 0 || digits[0] == '+' {
		return fmt.Errorf("%q is not an AS number; write one from 1 to 4294967295, such as 64500 or AS64500", text)
	}
	a.value = uint32(v)
	return nil
}

func (asnParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: "An AS number, with or without AS before it.", Examples: []any{"AS64500", "64500"}}
}

// prefixParam is an IP prefix. An address without a length stands for itself: host is then true
// and value its host prefix.
type prefixParam struct {
	value netip.Prefix
	host  bool
}

func (p *prefixParam) UnmarshalText(text []byte) error {
	s := string(text)
	const right = "write one such as 192.0.2.0/24, 2001:db8::/32 or 192.0.2.1"
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return fmt.Errorf("%q is neither a prefix nor an address; %s", s, right)
		}
		a = a.Unmap()
		*p = prefixParam{value: netip.PrefixFrom(a, a.BitLen()), host: true}
		return nil
	}
	v, err := netip.ParsePrefix(s)
	if err != nil || v.Addr().Is4In6() {
		return fmt.Errorf("%q is not a prefix; %s", s, right)
	}
	if m := v.Masked(); m != v {
		return fmt.Errorf("%s has bits set beyond its length; write %s", v, m)
	}
	*p = prefixParam{value: v}
	return nil
}

func (prefixParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: "An IPv4 or IPv6 prefix, or an address for its host prefix.",
		Examples: []any{"192.0.2.0/24", "2001:db8::/32"}}
}

// addrParam is an IP address.
type addrParam struct{ value netip.Addr }

func (a *addrParam) UnmarshalText(text []byte) error {
	v, err := netip.ParseAddr(string(text))
	if err != nil || v.Zone() != "" {
		return fmt.Errorf("%q is not an IP address; write one such as 192.0.2.1 or 2001:db8::1", text)
	}
	a.value = v.Unmap()
	return nil
}

func (addrParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: "An IPv4 or IPv6 address.", Examples: []any{"192.0.2.1"}}
}

// timeParam is an instant.
type timeParam struct{ value time.Time }

func (t *timeParam) UnmarshalText(text []byte) error {
	v, err := time.Parse(time.RFC3339, string(text))
	if err != nil {
		return fmt.Errorf("%q is not a time; write it in RFC 3339 such as 2008-02-24T18:47:57Z, "+
			"with + as %%2B where the offset is east of UTC", text)
	}
	if y := v.UTC().Year(); y < 1970 || y > 9999 {
		return fmt.Errorf("%s lies outside the years 1970 to 9999", text)
	}
	t.value = v.UTC()
	return nil
}

func (timeParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time", Description: "A time in RFC 3339.", Examples: []any{"2008-02-24T18:47:57Z"}}
}

// bucketParam is a span of time in whole seconds.
type bucketParam struct{ value time.Duration }

func (b *bucketParam) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil || v < time.Second || v%time.Second != 0 || v > 366*24*time.Hour {
		return fmt.Errorf("%q is not a span of whole seconds up to a year; write one such as 5m, 1h or 24h", text)
	}
	b.value = v
	return nil
}

func (bucketParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: "A span of time in hours, minutes and seconds.", Examples: []any{"1h", "5m"}}
}

// period checks a pair of times that bound a search.
func period(from, to timeParam) []error {
	if !from.value.IsZero() && !to.value.IsZero() && !from.value.Before(to.value) {
		return []error{fault("query.to", to.value, "must be later than from, which is %s", from.value.Format(time.RFC3339))}
	}
	return nil
}

// A cursor is base64url of a tag, which says what list it belongs to, and varints. Only the one
// encoding of a position is accepted, so that two cursors are the same position exactly when they
// are the same text.
const (
	incidentTag = 'i'
	updateTag   = 'u'
	changeTag   = 'r'
)

var errCursor = errors.New("is not a cursor of this list; send the next of its previous page unchanged, or none for the first page")

func encodeCursor(tag byte, numbers ...uint64) string {
	b := []byte{tag}
	for _, n := range numbers {
		b = binary.AppendUvarint(b, n)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeCursor is the inverse of encodeCursor: it fills numbers or fails.
func decodeCursor(text []byte, tag byte, numbers ...*uint64) error {
	values := make([]uint64, 0, 2)
	if len(text) > 64 {
		return errCursor
	}
	b, err := base64.RawURLEncoding.DecodeString(string(text))
	if err != nil || len(b) == 0 || b[0] != tag {
		return errCursor
	}
	for b = b[1:]; len(b) > 0; {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return errCursor
		}
		values, b = append(values, v), b[n:]
	}
	if len(values) != len(numbers) || encodeCursor(tag, values...) != string(text) {
		return errCursor
	}
	for i, v := range values {
		*numbers[i] = v
	}
	return nil
}

func cursorSchema() *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: "The next of the previous page, unchanged."}
}

// incidentCursor continues a list of incidents below a sequence.
type incidentCursor struct{ before uint64 }

func (c incidentCursor) String() string { return encodeCursor(incidentTag, c.before) }
func (c *incidentCursor) UnmarshalText(text []byte) error {
	if err := decodeCursor(text, incidentTag, &c.before); err != nil {
		return err
	}
	if c.before == 0 {
		return errCursor // to the store 0 means no bound: the pages would start over
	}
	return nil
}
func (incidentCursor) Schema(huma.Registry) *huma.Schema { return cursorSchema() }

// updateCursor continues a list of routes after a row.
type updateCursor struct{ after store.Cursor }

func (c updateCursor) String() string {
	return encodeCursor(updateTag, c.after.Position, uint64(c.after.Row))
}
func (c *updateCursor) UnmarshalText(text []byte) error {
	var row uint64
	if err := decodeCursor(text, updateTag, &c.after.Position, &row); err != nil {
		return err
	}
	if c.after.Position == 0 || row > 1<<31-1 {
		return errCursor
	}
	c.after.Row = int(row)
	return nil
}
func (updateCursor) Schema(huma.Registry) *huma.Schema { return cursorSchema() }

// changeCursor continues a list of changes of the RPKI before a place.
type changeCursor struct{ before journal.Position }

func (c changeCursor) String() string {
	return encodeCursor(changeTag, c.before.Segment, c.before.Frame, c.before.Index)
}
func (c *changeCursor) UnmarshalText(text []byte) error {
	if err := decodeCursor(text, changeTag, &c.before.Segment, &c.before.Frame, &c.before.Index); err != nil {
		return err
	}
	if c.before == (journal.Position{}) {
		return errCursor // to the journal that means no bound: the pages would start over
	}
	return nil
}
func (changeCursor) Schema(huma.Registry) *huma.Schema { return cursorSchema() }

// sequenceParam is the sequence of an event. Zero is the beginning, so it is told apart from none.
type sequenceParam struct {
	value uint64
	given bool
}

func (p *sequenceParam) UnmarshalText(text []byte) error {
	v, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil || v > 1<<63-1 {
		return fmt.Errorf("%q is not a sequence; write the id of an event, such as 4812, or 0 for the beginning", text)
	}
	*p = sequenceParam{value: v, given: true}
	return nil
}

func (sequenceParam) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: "The sequence of an event."}
}
