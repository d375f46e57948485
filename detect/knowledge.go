package detect

import (
	"errors"

	"github.com/routevigil/routevigil/detect/rpki"
	"github.com/routevigil/routevigil/detect/topology"
)

// Knowledge is what verdicts compare with. All of it is optional and must not change while in use.
type Knowledge struct {
	VRPs          *rpki.Set
	Relationships *topology.Relationships // nil: to be inferred from the table
	Declared      *topology.Relationships // what the operator says; it overrides the others
	Organisations *topology.Organisations
	RouteServers  []uint32 // ASNs of exchanges' route servers, which some leave in paths
}

// KnowledgeFiles names the files that hold Knowledge, and what of it the operator says himself.
type KnowledgeFiles struct {
	VRPs          string        `yaml:"vrps" doc:"VRPs and ASPAs as JSON of rpki-client, Routinator or StayRTR; without it, origin validation is unavailable."`
	SLURM         []string      `yaml:"slurm" doc:"Local exceptions to vrps (RFC 8416, also version 2 with ASPAs), applied in order."`
	Relationships string        `yaml:"as_rel" doc:"AS relationships in CAIDA's serial-1 or serial-2 form, plain or gzip; without it, relationships are inferred from the table, and only ASPAs tell of leaks until there is one."`
	Organisations string        `yaml:"as_org" doc:"Which ASes are one organisation, in CAIDA's as2org form, plain or gzip."`
	PeeringDB     string        `yaml:"peeringdb" doc:"A dump of PeeringDB as JSON, plain or gzip: which ASes are one organisation, beside as_org, and which are route servers."`
	Declared      []Declaration `yaml:"declared" doc:"How networks you know stand to each other, where that is better known to you than to as_rel or the table; it overrides both."`
}

// Validate reports declarations that cannot be. Whether the files are good shows when they are read.
func (f KnowledgeFiles) Validate() error {
	_, err := declared(f.Declared)
	return err
}

// Load reads the files that are named. The error joins what is wrong with each.
func (f KnowledgeFiles) Load() (Knowledge, error) {
	var k Knowledge
	var errs []error
	var err error
	if k.Declared, err = declared(f.Declared); err != nil {
		errs = append(errs, err)
	}
	read := func(path string, load func(string) error) {
		if path == "" {
			return
		}
		if err := load(path); err != nil {
			errs = append(errs, err)
		}
	}
	if f.VRPs == "" && len(f.SLURM) > 0 {
		errs = append(errs, errors.New("SLURM files are given, but no VRPs to apply them to"))
	}
	read(f.VRPs, func(p string) (err error) { k.VRPs, err = rpki.ReadFile(p, f.SLURM...); return err })
	read(f.Relationships, func(p string) (err error) { k.Relationships, err = topology.ReadFile(p); return err })
	read(f.Organisations, func(p string) (err error) { k.Organisations, err = topology.ReadOrganisations(p); return err })
	read(f.PeeringDB, func(p string) error {
		db, err := topology.ReadPeeringDB(p)
		if err != nil {
			return err
		}
		k.Organisations, k.RouteServers = k.Organisations.Or(db.Organisations), db.RouteServers
		return nil
	})
	return k, errors.Join(errs...)
}
