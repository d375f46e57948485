package rpki

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
)

// Exceptions are an operator's local view of the RPKI: what to leave out of it and what to add
// (SLURM, RFC 8416; version 2 adds ASPAs as draft-ietf-sidrops-aspa-slurm does). Router keys are
// read and ignored: nothing here validates BGPsec.
type Exceptions struct {
	filters     []vrpFilter
	vrps        []VRP
	aspaFilters []uint32
	aspas       []aspaAssertion
}

// vrpFilter matches VRPs at or inside prefix, of asn, or both where both are given.
type vrpFilter struct {
	prefix netip.Prefix // zero: any
	asn    *uint32      // nil: any
}

func (f vrpFilter) matches(v VRP) bool {
	inside := !f.prefix.IsValid() || f.prefix.Bits() <= v.Prefix.Bits() && f.prefix.Contains(v.Prefix.Addr())
	return inside && (f.asn == nil || *f.asn == v.ASN)
}

type aspaAssertion struct {
	customer  uint32
	providers []uint32
}

// Len returns how many filters and assertions there are.
func (x Exceptions) Len() int {
	return len(x.filters) + len(x.vrps) + len(x.aspaFilters) + len(x.aspas)
}

// Apply returns s without what the filters match and with what is asserted, as a set of its own; from
// is as in [NewSet]. Assertions are never filtered (RFC 8416 §4.2).
func (x Exceptions) Apply(s *Set, from string) (*Set, error) {
	b := NewBuilder()
	b.built = s.Built()
	for v := range s.VRPs() {
		if !slices.ContainsFunc(x.filters, func(f vrpFilter) bool { return f.matches(v) }) {
			if err := b.Add(v); err != nil {
				return nil, err
			}
		}
	}
	for _, v := range x.vrps {
		if err := b.Add(v); err != nil {
			return nil, err
		}
	}
	for customer, providers := range s.ASPAs() {
		if !slices.Contains(x.aspaFilters, customer) {
			b.aspas[customer] = slices.Clone(providers)
		}
	}
	for _, a := range x.aspas {
		if err := b.AddASPA(a.customer, a.providers); err != nil {
			return nil, err
		}
	}
	return b.Set(from), nil
}

// slurmFile is the whole of a SLURM file. A member it does not name is an error (RFC 8416 §3.2).
type slurmFile struct {
	Version *int `json:"slurmVersion"`
	Filters *struct {
		Prefix []struct {
			Prefix  *string `json:"prefix"`
			ASN     *uint32 `json:"asn"`
			Comment string  `json:"comment"`
		} `json:"prefixFilters"`
		BGPsec []json.RawMessage `json:"bgpsecFilters"`
		ASPA   []struct {
			Customer   *uint32 `json:"customerAsn"`
			CustomerID *uint32 `json:"customerAsid"` // an earlier draft's name
			Comment    string  `json:"comment"`
		} `json:"aspaFilters"`
	} `json:"validationOutputFilters"`
	Assertions *struct {
		Prefix []struct {
			Prefix    string  `json:"prefix"`
			ASN       *uint32 `json:"asn"`
			MaxLength *int    `json:"maxPrefixLength"`
			Comment   string  `json:"comment"`
		} `json:"prefixAssertions"`
		BGPsec []json.RawMessage `json:"bgpsecAssertions"`
		ASPA   []struct {
			Customer   *uint32  `json:"customerAsn"`
			CustomerID *uint32  `json:"customerAsid"`
			Providers  []uint32 `json:"providerAsns"`
			Comment    string   `json:"comment"`
		} `json:"aspaAssertions"`
	} `json:"locallyAddedAssertions"`
}

// maxExceptions bounds the size of a SLURM file.
const maxExceptions = 64 << 20

// ReadExceptions reads a SLURM file of version 1 or 2.
func ReadExceptions(path string) (Exceptions, error) {
	f, err := os.Open(path)
	if err != nil {
		return Exceptions{}, fmt.Errorf("SLURM: %w", err)
	}
	defer f.Close()
	x, err := parseExceptions(io.LimitReader(f, maxExceptions))
	if err != nil {
		return Exceptions{}, fmt.Errorf("SLURM %s: %w", path, err)
	}
	return x, nil
}

func parseExceptions(r io.Reader) (Exceptions, error) {
	var file slurmFile
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return Exceptions{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Exceptions{}, errors.New("something follows the object")
	}
	switch {
	case file.Version == nil || *file.Version < 1 || *file.Version > 2:
		return Exceptions{}, errors.New("slurmVersion must be 1 or 2")
	case file.Filters == nil:
		return Exceptions{}, errors.New("validationOutputFilters is missing")
	case file.Assertions == nil:
		return Exceptions{}, errors.New("locallyAddedAssertions is missing")
	case *file.Version == 1 && (file.Filters.ASPA != nil || file.Assertions.ASPA != nil):
		return Exceptions{}, errors.New("aspaFilters and aspaAssertions need slurmVersion 2")
	}
	var x Exceptions
	if err := x.readFilters(&file); err != nil {
		return Exceptions{}, err
	}
	return x, x.readAssertions(&file)
}

func (x *Exceptions) readFilters(file *slurmFile) error {
	for i, f := range file.Filters.Prefix {
		if f.Prefix == nil && f.ASN == nil {
			return fmt.Errorf("prefixFilters[%d]: prefix or asn must be given", i)
		}
		filter := vrpFilter{asn: f.ASN}
		if f.Prefix != nil {
			p, err := netip.ParsePrefix(*f.Prefix)
			if err != nil {
				return fmt.Errorf("prefixFilters[%d]: %w", i, err)
			}
			filter.prefix = p.Masked()
		}
		x.filters = append(x.filters, filter)
	}
	for i, f := range file.Filters.ASPA {
		customer, err := oneOf(f.Customer, f.CustomerID)
		if err != nil {
			return fmt.Errorf("aspaFilters[%d]: %w", i, err)
		}
		x.aspaFilters = append(x.aspaFilters, customer)
	}
	return nil
}

func (x *Exceptions) readAssertions(file *slurmFile) error {
	for i, a := range file.Assertions.Prefix {
		if a.ASN == nil {
			return fmt.Errorf("prefixAssertions[%d]: asn is missing", i)
		}
		v, err := assertedVRP(*a.ASN, a.Prefix, a.MaxLength)
		if err != nil {
			return fmt.Errorf("prefixAssertions[%d]: %w", i, err)
		}
		x.vrps = append(x.vrps, v)
	}
	for i, a := range file.Assertions.ASPA {
		customer, err := oneOf(a.Customer, a.CustomerID)
		if err != nil {
			return fmt.Errorf("aspaAssertions[%d]: %w", i, err)
		}
		if len(a.Providers) > maxProviders {
			return fmt.Errorf("aspaAssertions[%d]: more than %d providers", i, maxProviders)
		}
		x.aspas = append(x.aspas, aspaAssertion{customer, a.Providers})
	}
	return nil
}

func assertedVRP(asn uint32, prefix string, maxLength *int) (VRP, error) {
	p, err := netip.ParsePrefix(prefix)
	if err != nil {
		return VRP{}, err
	}
	v := VRP{Prefix: p, MaxLength: uint8(p.Bits()), ASN: asn, TA: "SLURM"}
	if maxLength != nil {
		v.MaxLength = uint8(min(max(*maxLength, 0), 255)) // whatever else is out of range stays so
	}
	return v, NewBuilder().Add(v)
}

func oneOf(a, b *uint32) (uint32, error) {
	switch {
	case a != nil:
		return *a, nil
	case b != nil:
		return *b, nil
	}
	return 0, errors.New("customerAsn is missing")
}
