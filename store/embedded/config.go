package embedded

import (
	"errors"
	"fmt"
	"time"

	"github.com/routevigil/routevigil/store"
)

// Configuration of an embedded store.
type Configuration struct {
	Directory string          `yaml:"directory" doc:"Directory that holds everything; created when missing, used by one process at a time."`
	Retention store.Retention `yaml:"retention" doc:"How much update history is kept; incidents are kept whatever their age."`
	Seal      Seal            `yaml:"seal" doc:"When fresh history is moved into Parquet parts."`
}

// Seal says when history moves from the tail into parts. Only what the last checkpoint covers is sealed.
type Seal struct {
	Updates  int           `yaml:"updates" doc:"Number of unsealed updates at which they are sealed."`
	Age      time.Duration `yaml:"age" doc:"Age of the oldest unsealed update at which it is sealed with all others."`
	Window   time.Duration `yaml:"window" doc:"Span of receipt time within which parts are merged; also the grain of retention."`
	PartRows int           `yaml:"part_rows" doc:"Number of rows up to which parts are merged."`
}

// DefaultConfiguration keeps 30 days or 50 GiB in ./routevigil-data.
func DefaultConfiguration() Configuration {
	return Configuration{
		Directory: "routevigil-data",
		Retention: store.Retention{Age: 30 * 24 * time.Hour, Size: 50 << 30},
		Seal:      Seal{Updates: 250_000, Age: 10 * time.Minute, Window: 6 * time.Hour, PartRows: 8_000_000},
	}
}

// Validate reports every field that is out of range.
func (c Configuration) Validate() error {
	var errs []error
	check := func(ok bool, path, format string, a ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(path+": "+format, a...))
		}
	}
	check(c.Directory != "", "directory", "must name a directory, is empty")
	check(c.Retention.Age >= 0, "retention.age", "must not be negative, is %s", c.Retention.Age)
	check(c.Retention.Size >= 0, "retention.size", "must not be negative, is %d", c.Retention.Size)
	check(c.Seal.Updates > 0, "seal.updates", "must be positive, is %d", c.Seal.Updates)
	check(c.Seal.Age > 0, "seal.age", "must be positive, is %s", c.Seal.Age)
	check(c.Seal.Window > 0, "seal.window", "must be positive, is %s", c.Seal.Window)
	check(c.Seal.PartRows > 0, "seal.part_rows", "must be positive, is %d", c.Seal.PartRows)
	return errors.Join(errs...)
}
