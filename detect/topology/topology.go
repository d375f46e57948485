// Package topology knows how ASes stand to one another: provider, customer or peer, and which of
// them are one organisation. It is what makes a path a valley (Gao 2001; RFC 7908).
package topology

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
)

// Relation is how the first of two ASes stands to the second.
type Relation uint8

const (
	None     Relation = iota // no link known
	Provider                 // the first sells transit to the second
	Customer                 // the first buys transit from the second
	Peer                     // they exchange customer routes
	Sibling                  // they are one organisation
)

var relationNames = [...]string{"no known relation", "provider", "customer", "peer", "sibling"}

func (r Relation) String() string { return relationNames[r] }

func (r Relation) reverse() Relation {
	switch r {
	case Provider:
		return Customer
	case Customer:
		return Provider
	}
	return r
}

// Relationships is a set of AS links with their relation. It is immutable once read; nil is empty.
type Relationships struct {
	links     map[uint64]Relation // the lower ASN first
	customers map[uint32]int      // how many customers an AS has
	source    string
}

// NewRelationships returns an empty set; source names it in evidence.
func NewRelationships(source string) *Relationships {
	return &Relationships{links: map[uint64]Relation{}, customers: map[uint32]int{}, source: source}
}

func linkKey(a, b uint32) (key uint64, swapped bool) {
	if a > b {
		return uint64(b)<<32 | uint64(a), true
	}
	return uint64(a)<<32 | uint64(b), false
}

// Set declares how a stands to b. It must not be called once the set is in use.
func (r *Relationships) Set(a, b uint32, rel Relation) {
	k, swapped := linkKey(a, b)
	switch r.Of(a, b) {
	case Provider:
		r.customers[a]--
	case Customer:
		r.customers[b]--
	}
	switch rel {
	case Provider:
		r.customers[a]++
	case Customer:
		r.customers[b]++
	}
	if swapped {
		rel = rel.reverse()
	}
	r.links[k] = rel
}

// Of returns how a stands to b.
func (r *Relationships) Of(a, b uint32) Relation {
	if r == nil {
		return None
	}
	k, swapped := linkKey(a, b)
	rel := r.links[k]
	if swapped {
		return rel.reverse()
	}
	return rel
}

// Customers returns how many customers asn has.
func (r *Relationships) Customers(asn uint32) int {
	if r == nil {
		return 0
	}
	return r.customers[asn]
}

// Len is the number of links.
func (r *Relationships) Len() int {
	if r == nil {
		return 0
	}
	return len(r.links)
}

// Source names where the set came from.
func (r *Relationships) Source() string {
	if r == nil {
		return ""
	}
	return r.source
}

// ReadFile reads CAIDA serial-1 or serial-2 from a file, plain or gzip; see [Read].
func ReadFile(path string) (*Relationships, error) {
	r := NewRelationships(path)
	if err := readLines(path, r.readLine); err != nil {
		return nil, fmt.Errorf("AS relationships: %w", err)
	}
	return r, nil
}

// Read reads CAIDA's serial-1 (a|b|rel) or serial-2 (a|b|rel|source) form, where rel is -1 (a is b's
// provider), 0 (peers) or 1 (siblings). Lines that start with # are comments.
func Read(in io.Reader, source string) (*Relationships, error) {
	r := NewRelationships(source)
	if err := scanLines(in, source, r.readLine); err != nil {
		return nil, fmt.Errorf("AS relationships: %w", err)
	}
	return r, nil
}

func (r *Relationships) readLine(line string) error {
	f := strings.Split(line, "|")
	if len(f) < 3 {
		return fmt.Errorf("%q is not of the form AS|AS|-1 or AS|AS|0", line)
	}
	a, err := strconv.ParseUint(f[0], 10, 32)
	if err != nil {
		return fmt.Errorf("%q is not an AS number", f[0])
	}
	b, err := strconv.ParseUint(f[1], 10, 32)
	if err != nil {
		return fmt.Errorf("%q is not an AS number", f[1])
	}
	if a == b {
		return fmt.Errorf("AS%d stands to itself", a)
	}
	rel, ok := map[string]Relation{"-1": Provider, "0": Peer, "1": Sibling}[f[2]]
	if !ok {
		return fmt.Errorf("relation %q is none of -1 (provider), 0 (peer), 1 (sibling)", f[2])
	}
	r.Set(uint32(a), uint32(b), rel)
	return nil
}

// Organisations says which ASes belong to one organisation. nil knows none.
type Organisations struct {
	of     map[uint32]string
	source string
}

// NewOrganisations returns an empty set; source names it in evidence.
func NewOrganisations(source string) *Organisations {
	return &Organisations{of: map[uint32]string{}, source: source}
}

// Set declares that asn belongs to org.
func (o *Organisations) Set(asn uint32, org string) { o.of[asn] = org }

// Len is the number of ASes of which the organisation is known.
func (o *Organisations) Len() int {
	if o == nil {
		return 0
	}
	return len(o.of)
}

// Same reports whether a and b are known to belong to one organisation, and which.
func (o *Organisations) Same(a, b uint32) (org string, ok bool) {
	if o == nil {
		return "", false
	}
	oa, ok := o.of[a]
	return oa, ok && oa == o.of[b]
}

// Source names where the set came from.
func (o *Organisations) Source() string {
	if o == nil {
		return ""
	}
	return o.source
}

// ReadOrganisations reads CAIDA's as2org file (plain or gzip): of its two tables only the lines after
// "# format:aut|changed|…" matter, whose first field is the ASN and whose fourth is the organisation.
func ReadOrganisations(path string) (*Organisations, error) {
	o := NewOrganisations(path)
	column := -1
	err := readLines(path, func(line string) error {
		if rest, ok := strings.CutPrefix(line, "# format:"); ok {
			column = -1
			for i, name := range strings.Split(rest, "|") {
				if name == "org_id" && strings.HasPrefix(rest, "aut|") {
					column = i
				}
			}
			return nil
		}
		if column < 0 {
			return nil
		}
		f := strings.Split(line, "|")
		if len(f) <= column {
			return fmt.Errorf("%q has fewer than %d fields", line, column+1)
		}
		a, err := strconv.ParseUint(f[0], 10, 32)
		if err != nil {
			return fmt.Errorf("%q is not an AS number", f[0])
		}
		o.Set(uint32(a), f[column])
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("AS organisations: %w", err)
	}
	return o, nil
}

const maxLine = 1 << 16

func readLines(path string, each func(string) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<16)
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(in)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return scanLines(z, path, each)
	}
	return scanLines(in, path, each)
}

// scanLines calls each for every line that is neither empty nor a comment; "# format:" headers are passed on.
func scanLines(in io.Reader, name string, each func(string) error) error {
	s := bufio.NewScanner(in)
	s.Buffer(nil, maxLine)
	n := 0
	for s.Scan() {
		n++
		line := strings.TrimSpace(s.Text())
		if line == "" || strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "# format:aut|") && !strings.HasPrefix(line, "# format:org_id|") {
			continue
		}
		if err := each(line); err != nil {
			return fmt.Errorf("%s line %d: %w", name, n, err)
		}
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("%s line %d: %w", name, n+1, err)
	}
	return nil
}
