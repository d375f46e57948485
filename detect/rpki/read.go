package rpki

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// ReadFile reads a validator's export, see [Read], and applies the SLURM files in order. from says in evidence where
// the file came from.
func ReadFile(path, from string, slurm ...string) (*Set, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("VRPs: %w", err)
	}
	defer f.Close()
	s, err := Read(f, from)
	if err != nil {
		return nil, fmt.Errorf("VRPs %s: %w", path, err)
	}
	for _, file := range slurm {
		x, err := ReadExceptions(file)
		if err != nil {
			return nil, err
		}
		from += " with " + file
		if s, err = x.Apply(s, from); err != nil {
			return nil, fmt.Errorf("SLURM %s: %w", file, err)
		}
	}
	return s, nil
}

// Read reads the JSON export of rpki-client, Routinator, OctoRPKI or StayRTR: an object with an
// array "roas" of {"asn": 64500 or "AS64500", "prefix": …, "maxLength": …, "ta": …, "expires": …}, an
// array "aspas" of {"customer_asid": …, "providers": […]} (Routinator: "customer"; of older ones
// "provider_authorizations", parted by address family), or both. Routinator's extended form tells the
// trust anchor and the expiry in "source". Other members are skipped. A single wrong entry rejects
// the whole: half a VRP set makes valid routes invalid. from is as in [NewSet].
//
// It reads in pieces, holds only what becomes the set, and bounds every size (see [MaxVRPs]).
func Read(r io.Reader, from string) (*Set, error) {
	x := &export{scanner: newScanner(r), b: NewBuilder()}
	if err := x.read(); err != nil {
		return nil, err
	}
	return x.b.Set(from), nil
}

// export reads an export into b. Its scanner is in the way of every member: an error stays and stops
// everything.
type export struct {
	*scanner
	b   *Builder
	vrp VRP // the one being read
	has struct{ asn, length bool }
}

func (x *export) read() error {
	seen := false
	x.object(func(name string) {
		switch name {
		case "roas":
			seen = true
			x.array("roas", x.roa)
		case "aspas":
			seen = true
			x.aspas("aspas")
		case "provider_authorizations":
			x.aspas(name)
		case "metadata":
			x.metadata()
		default:
			x.skip()
		}
	})
	x.end()
	if x.err == nil && !seen {
		return errors.New(`neither "roas" nor "aspas": expected the JSON export of rpki-client or Routinator`)
	}
	return x.err
}

func (x *export) metadata() {
	if x.peek() != '{' {
		x.skip()
		return
	}
	x.object(func(name string) {
		switch c := x.peek(); {
		case (name == "buildtime" || name == "generatedTime") && c == '"':
			if t, err := time.Parse(time.RFC3339, string(x.str())); err == nil {
				x.b.built = t.UTC()
			}
		case name == "generated" && c != '"' && c != '{' && c != '[':
			if n, err := strconv.ParseInt(string(x.scalar()), 10, 64); err == nil && n > 0 {
				x.b.built = time.Unix(n, 0).UTC()
			}
		default:
			x.skip()
		}
	})
}

func (x *export) roa() {
	x.vrp, x.has.asn, x.has.length = VRP{}, false, false
	x.object(x.roaMember)
	switch {
	case x.err != nil:
		return
	case !x.has.asn:
		x.fail("asn is missing")
		return
	case !x.vrp.Prefix.IsValid():
		x.fail("prefix is missing")
		return
	case !x.has.length:
		x.vrp.MaxLength = uint8(x.vrp.Prefix.Bits())
	}
	if err := x.b.Add(x.vrp); err != nil {
		x.fail("%w", err)
	}
}

func (x *export) roaMember(name string) {
	switch name {
	case "asn":
		x.vrp.ASN, x.has.asn = x.asn(), true
	case "prefix":
		p, err := netip.ParsePrefix(string(x.str()))
		if x.vrp.Prefix = p; err != nil {
			x.fail("%w", err)
		}
	case "maxLength":
		if n, ok := x.unsigned(math.MaxUint8); ok {
			x.vrp.MaxLength, x.has.length = uint8(n), true
		}
	case "ta":
		x.vrp.TA = x.name()
	case "expires":
		if n, ok := x.unsigned(math.MaxUint32); ok {
			x.vrp.Expires = time.Unix(int64(n), 0)
		}
	case "source":
		x.sources(&x.vrp)
	default:
		x.skip()
	}
}

// sources reads where Routinator's extended form says that a VRP comes from. The latest expiry counts.
func (x *export) sources(v *VRP) {
	x.array("source", func() {
		x.object(func(name string) {
			switch name {
			case "tal":
				v.TA = x.name()
			case "chainValidity":
				x.object(func(name string) {
					if name != "notAfter" || x.peek() != '"' {
						x.skip()
						return
					}
					if t, err := time.Parse(time.RFC3339, string(x.str())); err == nil && t.After(v.Expires) {
						v.Expires = t
					}
				})
			default:
				x.skip()
			}
		})
	})
}

// aspas reads an array of ASPAs, or two by address family, as drafts before 2023 had it.
func (x *export) aspas(name string) {
	if x.peek() == '{' {
		x.object(func(family string) { x.array(name+"."+family, x.aspa) })
		return
	}
	x.array(name, x.aspa)
}

func (x *export) aspa() {
	var customer uint32
	var providers []uint32
	known := false
	x.object(func(name string) {
		switch name {
		case "customer", "customer_asid":
			customer, known = x.asn(), true
		case "providers":
			x.array("providers", func() {
				if providers = append(providers, x.asn()); len(providers) > maxProviders {
					x.fail("more than %d providers", maxProviders)
				}
			})
		default:
			x.skip()
		}
	})
	switch {
	case x.err != nil:
	case !known:
		x.fail("customer_asid is missing")
	default:
		if err := x.b.AddASPA(customer, providers); err != nil {
			x.fail("%w", err)
		}
	}
}

// asn reads an AS number as exports write it: 64500, "64500" or "AS64500".
func (x *export) asn() uint32 {
	text := x.scalar()
	if x.err != nil {
		return 0
	}
	digits := text
	if len(digits) > 2 && strings.EqualFold(string(digits[:2]), "AS") {
		digits = digits[2:]
	}
	n, ok := decimal(digits, math.MaxUint32)
	if !ok {
		x.fail("%q is not an AS number", text)
	}
	return uint32(n)
}

// unsigned reads a number up to most, or null for none.
func (x *export) unsigned(most uint64) (n uint64, ok bool) {
	text := x.scalar()
	if x.err != nil || string(text) == "null" {
		return 0, false
	}
	if n, ok = decimal(text, most); !ok {
		x.fail("%q is not a number up to %d", text, most)
	}
	return n, ok
}

// decimal reads digits without making a string of them, as strconv would need it.
func decimal(digits []byte, most uint64) (n uint64, ok bool) {
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n = n*10 + uint64(c-'0'); n > most { // most is far from where this could wrap
			return 0, false
		}
	}
	return n, len(digits) > 0
}

// name reads the name of a trust anchor; the few there are are not made anew each time.
func (x *export) name() string {
	text := x.scalar()
	if string(text) == "null" {
		return ""
	}
	for i := len(x.b.anchors) - 1; i >= 0; i-- {
		if x.b.anchors[i] == string(text) {
			return x.b.anchors[i]
		}
	}
	return string(text)
}
