package detect

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/routevigil/routevigil/detect/irr"
	"github.com/routevigil/routevigil/detect/irr/mirror"
	"github.com/routevigil/routevigil/detect/past"
	"github.com/routevigil/routevigil/detect/refresh"
	"github.com/routevigil/routevigil/detect/registry"
	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/rpki/rtr"
	"github.com/routevigil/routevigil/detect/topology"
)

// Knowledge is what verdicts compare with. All of it is optional, and immutable: what is newer takes its place by [Engine.Replace].
type Knowledge struct {
	VRPs          *rpki.Set
	Relationships *topology.Relationships // nil: to be inferred from the table
	Declared      *topology.Relationships // what the operator says; it overrides the others
	Organisations *topology.Organisations
	Delegations   *registry.Set
	IRR           *irr.Database
	RouteServers  []uint32 // ASNs of exchanges' route servers, which some leave in paths
	Watches       WatchList
	WatchSets     map[string][]uint32 // members of the as-sets of Watches, for where there is no IRR

	watched *watched // the same, ready for look-up; made by the engine
}

// KnowledgeFiles names the files that hold Knowledge, and what of it the operator says himself. The service also takes an
// address, https://…, for each but the local exceptions.
type KnowledgeFiles struct {
	VRPs          string            `yaml:"vrps" doc:"VRPs and ASPAs as JSON of rpki-client, Routinator, StayRTR or OctoRPKI, a path or, for the service, an address such as https://rpki.example.net/export.json; without it and rtr, origin validation is unavailable."`
	RTR           rtr.Configuration `yaml:"rtr" doc:"VRPs and ASPAs from validators, kept up to date while the service runs; once a cache has answered they take the place of vrps."`
	SLURM         []string          `yaml:"slurm" doc:"Local exceptions to vrps and rtr (RFC 8416, also version 2 with ASPAs), applied in order."`
	Relationships string            `yaml:"as_rel" doc:"AS relationships in CAIDA's serial-1 or serial-2 form, plain or gzip, a path or an address; without it, relationships are inferred from the table, and only ASPAs tell of leaks until there is one."`
	Organisations string            `yaml:"as_org" doc:"Which ASes are one organisation, in CAIDA's as2org form, plain or gzip, a path or an address."`
	PeeringDB     string            `yaml:"peeringdb" doc:"A dump of PeeringDB as JSON, plain or gzip, a path or an address: which ASes are one organisation, beside as_org, and which are route servers."`
	Delegated     []string          `yaml:"delegated" doc:"Who holds which addresses and AS numbers: delegated-extended statistics of the RIRs, or the NRO's combined file, plain or gzip, paths or addresses; without them only what IANA has set aside is known."`
	IRR           IRRFiles          `yaml:"irr" doc:"What routing registries say."`
	Declared      []Declaration     `yaml:"declared" doc:"How networks you know stand to each other, where that is better known to you than to as_rel or the table; it overrides both."`

	Past past.Configuration `yaml:"past" doc:"What the service keeps of all these, so that a verdict of the past can be given again."`

	Refresh refresh.Configuration `yaml:"refresh" doc:"How the service keeps all of these fresh: files are read again when they change, addresses asked again; what cannot be read never replaces what could."`
}

// Validate reports declarations that cannot be. Whether the files are good shows when they are read.
func (f KnowledgeFiles) Validate() error {
	_, err := f.DeclaredRelationships()
	return err
}

// IRRFiles names dumps of routing registries.
type IRRFiles struct {
	Files   []string               `yaml:"files" doc:"Dumps of registries in RPSL, plain or gzip, paths or addresses; without any, what is registered is unavailable."`
	Sources []string               `yaml:"sources" doc:"The registries from the most to the least trusted; those not named come last. Empty: the RIRs, then national and large ones, then those in which nobody checks anything."`
	Whois   string                 `yaml:"whois" doc:"An IRRd server, host and port, that is asked for the members of the as-sets of watches, and by config init, where there are neither files nor mirrors; the registries are those of sources, or the server's own where that is empty."`
	Mirrors []mirror.Configuration `yaml:"mirrors" doc:"Registries that the service follows by NRTM; what it has of one takes the place of what files say of it. None by default."`
}

// Validate reports mirrors that cannot work.
func (f IRRFiles) Validate() error {
	var errs []error
	if f.Whois != "" {
		if host, port, err := net.SplitHostPort(f.Whois); err != nil || host == "" || port == "" {
			errs = append(errs, fmt.Errorf("whois: must be a host and a port, such as whois.example.net:43, is %q", f.Whois))
		}
	}
	seen := map[string]bool{}
	for i, m := range f.Mirrors {
		source := strings.ToUpper(m.Source)
		if err := m.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("mirrors[%d]: %w", i, err))
		}
		if seen[source] {
			errs = append(errs, fmt.Errorf("mirrors[%d]: %s is mirrored twice", i, source))
		}
		seen[source] = true
	}
	return errors.Join(errs...)
}

// DefaultKnowledgeFiles names none, and keeps what the service is given.
func DefaultKnowledgeFiles() KnowledgeFiles {
	return KnowledgeFiles{Past: past.DefaultConfiguration(), Refresh: refresh.DefaultConfiguration()}
}

// Check reports files that make no sense without others.
func (f KnowledgeFiles) Check() error {
	if f.VRPs == "" && len(f.RTR.Caches) == 0 && len(f.SLURM) > 0 {
		return errors.New("SLURM files are given, but no VRPs to apply them to")
	}
	for _, file := range f.SLURM {
		if refresh.IsURL(file) {
			return fmt.Errorf("slurm: %s is an address, and exceptions are files of this machine; fetch the file and name that", refresh.Printable(file))
		}
	}
	return nil
}

// Load reads the files that are named, once; what RTR is for the caller to do. The error joins what is wrong with each.
func (f KnowledgeFiles) Load() (Knowledge, error) {
	var k Knowledge
	var errs []error
	var err error
	if k.Declared, err = f.DeclaredRelationships(); err != nil {
		errs = append(errs, err)
	}
	read := func(load func() error, paths ...string) {
		for _, path := range paths {
			if refresh.IsURL(path) {
				errs = append(errs, fmt.Errorf("%s: is an address, which only the service follows; fetch the file and name that", refresh.Printable(path)))
				return
			}
		}
		if len(paths) > 0 && paths[0] != "" {
			errs = append(errs, load())
		}
	}
	errs = append(errs, f.Check())
	read(func() (err error) { k.VRPs, err = rpki.ReadFile(f.VRPs, f.VRPs, f.SLURM...); return err }, f.VRPs)
	read(func() (err error) {
		k.Relationships, err = topology.ReadFile(f.Relationships, f.Relationships)
		return err
	}, f.Relationships)
	read(func() (err error) {
		k.Organisations, err = topology.ReadOrganisations(f.Organisations, f.Organisations)
		return err
	}, f.Organisations)
	read(func() (err error) { k.Delegations, err = registry.ReadFiles(f.Delegated, f.Delegated); return err }, f.Delegated...)
	read(func() (err error) { k.IRR, err = irr.ReadFiles(f.IRR.Files, f.IRR.Files, f.IRR.Sources); return err }, f.IRR.Files...)
	read(func() error {
		db, err := topology.ReadPeeringDB(f.PeeringDB, f.PeeringDB)
		if err != nil {
			return err
		}
		k.Organisations, k.RouteServers = k.Organisations.Or(db.Organisations), db.RouteServers
		return nil
	}, f.PeeringDB)
	return k, errors.Join(errs...)
}
