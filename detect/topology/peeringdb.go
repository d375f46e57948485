package topology

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
)

// PeeringDB is what a dump of PeeringDB's database says of networks.
type PeeringDB struct {
	Organisations *Organisations
	RouteServers  []uint32 // networks of the type "Route Server", sorted
	Exchanges     int      // how many exchange points it lists
}

const (
	// maxElement bounds one object of a dump in octets: the longest notes have some thousands.
	maxElement = 1 << 22
	// maxElements bounds how many networks and organisations are taken: there are 35,000 of either in 2026.
	maxElements = 1 << 20
)

// ReadPeeringDB reads a dump, plain or gzip: one JSON object in which each type of object has its own
// member ("org", "net", "ix" and others) with the objects under "data", as CAIDA archives it. The answer
// of the API's /net alone, with "data" at the top, is also good: its networks name their organisation
// by number. from names it in evidence.
func ReadPeeringDB(path, from string) (*PeeringDB, error) {
	p := newPeeringDBReader(from)
	err := open(path, p.read)
	if err != nil {
		return nil, fmt.Errorf("PeeringDB: %s: %w", path, err)
	}
	return p.finish(), nil
}

type peeringDBReader struct {
	from      string
	decoder   *json.Decoder
	limit     *elementLimit
	names     map[int64]string // of organisations
	networks  map[uint32]int64 // the organisation of each
	servers   map[uint32]bool
	exchanges int
}

func newPeeringDBReader(from string) *peeringDBReader {
	return &peeringDBReader{from: from, names: map[int64]string{}, networks: map[uint32]int64{}, servers: map[uint32]bool{}}
}

// elementLimit fails when more is read than one object may have, and a buffer's worth, since the last
// reset.
type elementLimit struct {
	in   io.Reader
	left int
}

func (l *elementLimit) reset() { l.left = 2 * maxElement }

func (l *elementLimit) Read(b []byte) (int, error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("an object is longer than %d octets", maxElement)
	}
	n, err := l.in.Read(b[:min(len(b), maxElement, l.left)])
	l.left -= n
	return n, err
}

func (p *peeringDBReader) read(in io.Reader) error {
	p.limit = &elementLimit{in: io.LimitReader(in, maxText)}
	p.limit.reset()
	p.decoder = json.NewDecoder(p.limit)
	found := false
	err := p.object(func(key string) error {
		switch key {
		case "data":
			found = true
			return p.elements("net")
		case "org", "net", "ix":
			return p.object(func(inner string) error {
				if inner != "data" {
					return p.skip()
				}
				found = true
				return p.elements(key)
			})
		}
		return p.skip()
	})
	switch {
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	case err == nil && !found:
		err = fmt.Errorf("there is neither \"data\" nor \"net\" in it; is it a dump of PeeringDB?")
	}
	if err != nil {
		return fmt.Errorf("at offset %d: %w", p.decoder.InputOffset(), err)
	}
	return nil
}

// object reads an object, calling member with each key, which reads the value.
func (p *peeringDBReader) object(member func(key string) error) error {
	if err := p.delimiter('{'); err != nil {
		return err
	}
	for p.decoder.More() {
		key, err := p.token()
		if err != nil {
			return err
		}
		if err := member(key.(string)); err != nil { // the decoder takes nothing else for a key
			return err
		}
	}
	return p.delimiter('}')
}

func (p *peeringDBReader) token() (json.Token, error) {
	p.limit.reset()
	return p.decoder.Token()
}

func (p *peeringDBReader) delimiter(want json.Delim) error {
	t, err := p.token()
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("there is %v where %v must be", t, want)
	}
	return nil
}

// skip passes over a value.
func (p *peeringDBReader) skip() error {
	for depth := 0; ; {
		t, err := p.token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
		if depth == 0 {
			return nil
		}
	}
}

// elements reads the objects of one type.
func (p *peeringDBReader) elements(kind string) error {
	if err := p.delimiter('['); err != nil {
		return err
	}
	for p.decoder.More() {
		var e struct {
			ID        int64    `json:"id"`
			Name      string   `json:"name"`
			OrgID     int64    `json:"org_id"`
			ASN       uint32   `json:"asn"`
			InfoType  string   `json:"info_type"`
			InfoTypes []string `json:"info_types"`
		}
		p.limit.reset()
		if err := p.decoder.Decode(&e); err != nil {
			return err
		}
		if len(p.names)+len(p.networks) >= maxElements {
			return fmt.Errorf("more than %d networks and organisations", maxElements)
		}
		switch {
		case kind == "ix":
			p.exchanges++
		case kind == "org":
			p.names[e.ID] = e.Name
		case e.ASN != 0:
			p.networks[e.ASN] = e.OrgID
			if e.InfoType == "Route Server" || slices.Contains(e.InfoTypes, "Route Server") {
				p.servers[e.ASN] = true
			}
		}
	}
	return p.delimiter(']')
}

func (p *peeringDBReader) finish() *PeeringDB {
	db := &PeeringDB{Organisations: NewOrganisations(p.from), RouteServers: slices.Sorted(maps.Keys(p.servers)), Exchanges: p.exchanges}
	for asn, id := range p.networks {
		if id == 0 {
			continue // not said: no organisation, rather than all of them one
		}
		// Names are not unique, numbers are.
		org := fmt.Sprintf("PeeringDB organisation %d", id)
		if name := p.names[id]; name != "" {
			org += " (" + name + ")"
		}
		db.Organisations.Set(asn, org)
	}
	return db
}
