package topology

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
)

// PeeringDB is what a dump of PeeringDB's database says of networks.
type PeeringDB struct {
	Organisations *Organisations
	RouteServers  []uint32 // networks of the type "Route Server", sorted
	Hypergiants   *Hypergiants
	Exchanges     int // how many exchange points it lists
}

const (
	// maxElement bounds one object of a dump in octets: the longest notes have some thousands.
	maxElement = 1 << 22
	// maxElements bounds how much is taken: there are 35,000 networks and as many organisations in 2026, which meet at
	// 70,000 places.
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
	networks  map[uint32]*peeringNetwork
	present   map[[2]int64]bool // AS number and exchange
	exchanges int
}

// peeringNetwork is what matters of a network.
type peeringNetwork struct {
	organisation          int64
	name, ratio, traffic  string
	exchanges, facilities int
	content, server       bool
}

func newPeeringDBReader(from string) *peeringDBReader {
	return &peeringDBReader{from: from, names: map[int64]string{}, networks: map[uint32]*peeringNetwork{}, present: map[[2]int64]bool{}}
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
		case "org", "net", "ix", "netixlan":
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
			ID         int64    `json:"id"`
			Name       string   `json:"name"`
			OrgID      int64    `json:"org_id"`
			ASN        uint32   `json:"asn"`
			InfoType   string   `json:"info_type"`
			InfoTypes  []string `json:"info_types"`
			Ratio      string   `json:"info_ratio"`
			Traffic    string   `json:"info_traffic"`
			Exchanges  int      `json:"ix_count"`
			Facilities int      `json:"fac_count"`
			ExchangeID int64    `json:"ix_id"`
		}
		p.limit.reset()
		if err := p.decoder.Decode(&e); err != nil {
			return err
		}
		if len(p.names)+len(p.networks)+len(p.present) >= maxElements {
			return fmt.Errorf("more than %d networks, organisations and places where they meet", maxElements)
		}
		switch {
		case kind == "ix":
			p.exchanges++
		case kind == "org":
			p.names[e.ID] = e.Name
		case kind == "netixlan":
			p.present[[2]int64{int64(e.ASN), e.ExchangeID}] = true
		case e.ASN != 0:
			is := func(kind string) bool { return e.InfoType == kind || slices.Contains(e.InfoTypes, kind) }
			p.networks[e.ASN] = &peeringNetwork{organisation: e.OrgID, name: e.Name, ratio: e.Ratio, traffic: e.Traffic,
				exchanges: e.Exchanges, facilities: e.Facilities, content: is("Content"), server: is("Route Server")}
		}
	}
	return p.delimiter(']')
}

func (p *peeringDBReader) finish() *PeeringDB {
	db := &PeeringDB{Organisations: NewOrganisations(p.from), Hypergiants: &Hypergiants{map[uint32]Hypergiant{}, p.from}, Exchanges: p.exchanges}
	present := map[uint32]int{}
	for at := range p.present {
		present[uint32(at[0])]++
	}
	for asn, n := range p.networks {
		if n.server {
			db.RouteServers = append(db.RouteServers, asn)
		}
		if n.exchanges = max(n.exchanges, present[asn]); n.hypergiant() { // dumps before 2021 have no count
			db.Hypergiants.of[asn] = Hypergiant{n.name, n.exchanges, n.facilities, n.traffic}
		}
		if n.organisation == 0 {
			continue // not said: no organisation, rather than all of them one
		}
		// Names are not unique, numbers are.
		org := fmt.Sprintf("PeeringDB organisation %d", n.organisation)
		if name := p.names[n.organisation]; name != "" {
			org += " (" + name + ")"
		}
		db.Organisations.Set(asn, org)
	}
	slices.Sort(db.RouteServers)
	return db
}
