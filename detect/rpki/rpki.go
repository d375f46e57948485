// Package rpki holds what the RPKI attests: which AS may originate a prefix (VRPs, validated by RFC
// 6811) and which providers an AS has (ASPAs, validated by draft-ietf-sidrops-aspa-verification),
// with an operator's local exceptions to both (SLURM, RFC 8416).
//
// A set is immutable once built, so that any number of verdicts may read it without a lock; new
// data makes a new set.
package rpki

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/routevigil/routevigil/detect/prefixtree"
)

// VRP is one validated ROA payload: ASN may originate Prefix and its more-specifics up to MaxLength.
type VRP struct {
	Prefix    netip.Prefix `json:"prefix"`
	MaxLength uint8        `json:"max_length"`
	ASN       uint32       `json:"asn"`
	TA        string       `json:"ta,omitempty"` // trust anchor, where the source says
}

// State is the outcome of route origin validation.
type State uint8

const (
	// Unavailable says that there is no VRP set to judge by. It is not NotFound.
	Unavailable State = iota
	NotFound
	Valid
	Invalid
)

var stateNames = [...]string{"unavailable", "not_found", "valid", "invalid"}

func (s State) String() string { return stateNames[s] }

// Validity is a State with its reason.
type Validity struct {
	State State
	// Reason refines Invalid: "invalid_asn" (no covering VRP names the origin), "invalid_length" (one
	// does, but for shorter prefixes), "as0" (all covering VRPs are AS0); otherwise it is State's name.
	Reason string
	// VRPs are all that cover the prefix, the shortest first.
	VRPs []VRP
}

// Data is what an export of a validator holds.
type Data struct {
	VRPs  []VRP
	ASPAs ASPAs
}

// Set is an immutable set of Data. The nil Set validates every origin as Unavailable and attests
// nothing of paths.
type Set struct {
	vrps  []VRP
	aspas ASPAs
	tree  *prefixtree.Tree
	from  string
}

// NewSet builds a set from d, which it keeps; from names the source and its version in evidence.
func NewSet(d Data, from string) *Set {
	s := &Set{vrps: d.VRPs, aspas: d.ASPAs, tree: prefixtree.New(), from: from}
	for i, v := range d.VRPs {
		s.tree.Insert(v.Prefix, uint32(i))
	}
	return s
}

// Len is the number of VRPs.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.vrps)
}

// ASPAs returns what the set attests of paths, nil when there is no set.
func (s *Set) ASPAs() ASPAs {
	if s == nil {
		return nil
	}
	return s.aspas
}

// Source names where the set came from and its version.
func (s *Set) Source() string {
	if s == nil {
		return ""
	}
	return s.from
}

// State validates a route by RFC 6811 §2. hasOrigin is false where the origin is NONE (the path is
// empty or ends in an AS_SET).
func (s *Set) State(p netip.Prefix, origin uint32, hasOrigin bool) State {
	if s == nil {
		return Unavailable
	}
	var buf [32]uint32
	state := NotFound
	for _, id := range s.tree.Covering(buf[:0], p) {
		if s.vrps[id].matches(p, origin, hasOrigin) {
			return Valid
		}
		state = Invalid
	}
	return state
}

// Validate is State with the reason and the VRPs that decide.
func (s *Set) Validate(p netip.Prefix, origin uint32, hasOrigin bool) Validity {
	v := Validity{State: s.State(p, origin, hasOrigin)}
	v.Reason = v.State.String()
	if v.State == Unavailable || v.State == NotFound {
		return v
	}
	as0, sameASN := true, false
	for _, id := range s.tree.Covering(nil, p) {
		vrp := s.vrps[id]
		v.VRPs = append(v.VRPs, vrp)
		as0 = as0 && vrp.ASN == 0
		sameASN = sameASN || hasOrigin && vrp.ASN == origin && origin != 0
	}
	if v.State == Invalid {
		switch {
		case as0:
			v.Reason = "as0"
		case sameASN:
			v.Reason = "invalid_length"
		default:
			v.Reason = "invalid_asn"
		}
	}
	return v
}

func (v VRP) matches(p netip.Prefix, origin uint32, hasOrigin bool) bool {
	return hasOrigin && v.ASN == origin && v.ASN != 0 && p.Bits() <= int(v.MaxLength)
}

// MaxVRPs and MaxASPAs bound what Read accepts; the whole RPKI held about 700,000 VRPs in 2026.
const (
	MaxVRPs  = 20_000_000
	MaxASPAs = 5_000_000
)

// maxProviders bounds one ASPA, as the RPKI's own implementations do.
const maxProviders = 10_000

// ReadFile reads a validator's export, see [Read], and applies the SLURM files in order.
func ReadFile(path string, slurm ...string) (*Set, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("VRPs: %w", err)
	}
	defer f.Close()
	d, err := Read(bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("VRPs %s: %w", path, err)
	}
	for _, file := range slurm {
		x, err := ReadExceptions(file)
		if err != nil {
			return nil, err
		}
		d = x.Apply(d)
		path += " with " + file
	}
	return NewSet(d, path), nil
}

// Read reads the JSON export of rpki-client, Routinator, OctoRPKI or StayRTR: an object with an
// array "roas" of {"asn": 64500 or "AS64500", "prefix": …, "maxLength": …, "ta": …}, an array "aspas"
// of {"customer_asid": …, "providers": […]} (Routinator: "customer"), or both. Other members are
// skipped. A single wrong entry rejects the whole: half a VRP set makes valid routes invalid.
func Read(r io.Reader) (Data, error) {
	j := json.NewDecoder(r)
	d := Data{ASPAs: ASPAs{}}
	if err := expectDelim(j, '{'); err != nil {
		return Data{}, err
	}
	seen := false
	for j.More() {
		key, err := j.Token()
		if err != nil {
			return Data{}, err
		}
		switch key {
		case "roas":
			seen = true
			err = readArray(j, "roas", d.addROA)
		case "aspas":
			seen = true
			err = readArray(j, "aspas", d.addASPA)
		default:
			var skip json.RawMessage
			err = j.Decode(&skip)
		}
		if err != nil {
			return Data{}, err
		}
	}
	if err := expectDelim(j, '}'); err != nil {
		return Data{}, err
	}
	if !seen {
		return Data{}, errors.New(`neither "roas" nor "aspas": expected the JSON export of rpki-client or Routinator`)
	}
	return d, nil
}

// readArray gives every element of an array to add.
func readArray(j *json.Decoder, name string, add func(*json.Decoder) error) error {
	if err := expectDelim(j, '['); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for i := 0; j.More(); i++ {
		if err := add(j); err != nil {
			return fmt.Errorf("%s[%d]: %w", name, i, err)
		}
	}
	return expectDelim(j, ']')
}

func (d *Data) addROA(j *json.Decoder) error {
	var roa struct {
		ASN       asn    `json:"asn"`
		Prefix    string `json:"prefix"`
		MaxLength *int   `json:"maxLength"`
		TA        string `json:"ta"`
	}
	roa.ASN.missing = true
	if err := j.Decode(&roa); err != nil {
		return err
	}
	if roa.ASN.missing {
		return errors.New("asn is missing")
	}
	v, err := makeVRP(roa.ASN.n, roa.Prefix, roa.MaxLength)
	if err != nil {
		return err
	}
	v.TA = roa.TA
	if d.VRPs = append(d.VRPs, v); len(d.VRPs) > MaxVRPs {
		return fmt.Errorf("more than %d VRPs", MaxVRPs)
	}
	return nil
}

func (d *Data) addASPA(j *json.Decoder) error {
	var aspa struct {
		Customer   *asn  `json:"customer"`
		CustomerID *asn  `json:"customer_asid"`
		Providers  []asn `json:"providers"`
	}
	if err := j.Decode(&aspa); err != nil {
		return err
	}
	if aspa.Customer == nil {
		aspa.Customer = aspa.CustomerID
	}
	if aspa.Customer == nil {
		return errors.New("customer_asid is missing")
	}
	if len(aspa.Providers) > maxProviders {
		return fmt.Errorf("AS%d names more than %d providers", aspa.Customer.n, maxProviders)
	}
	d.ASPAs.Add(aspa.Customer.n, numbers(aspa.Providers))
	if len(d.ASPAs) > MaxASPAs {
		return fmt.Errorf("more than %d ASPAs", MaxASPAs)
	}
	return nil
}

// asn is an AS number as JSON writes it: 64500, "64500" or "AS64500".
type asn struct {
	n       uint32
	missing bool
}

func (a *asn) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	n, err := strconv.ParseUint(strings.TrimPrefix(strings.ToUpper(text), "AS"), 10, 32)
	if err != nil {
		return fmt.Errorf("%q is not an AS number", text)
	}
	*a = asn{n: uint32(n)}
	return nil
}

func numbers(as []asn) []uint32 {
	ns := make([]uint32, len(as))
	for i, a := range as {
		ns[i] = a.n
	}
	return ns
}

func makeVRP(asn uint32, prefix string, maxLength *int) (VRP, error) {
	p, err := netip.ParsePrefix(prefix)
	if err != nil {
		return VRP{}, fmt.Errorf("prefix %q: %w", prefix, err)
	}
	if p != p.Masked() {
		return VRP{}, fmt.Errorf("prefix %s has bits set beyond its length", prefix)
	}
	v := VRP{Prefix: p, MaxLength: uint8(p.Bits()), ASN: asn}
	if maxLength != nil {
		if *maxLength < p.Bits() || *maxLength > p.Addr().BitLen() {
			return VRP{}, fmt.Errorf("maxLength %d of %s is outside %d to %d", *maxLength, prefix, p.Bits(), p.Addr().BitLen())
		}
		v.MaxLength = uint8(*maxLength)
	}
	return v, nil
}

func expectDelim(d *json.Decoder, want json.Delim) error {
	t, err := d.Token()
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("expected %q, found %v", want.String(), t)
	}
	return nil
}
