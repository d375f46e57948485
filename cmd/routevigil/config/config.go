// Package config reads the service's YAML configuration into the Configuration structs of its components.
//
// The structs are the only description of the configuration there is: the loader, "config dump" and the
// reference are all derived from them by reflection, so that they cannot disagree. The loader walks YAML
// nodes itself instead of letting the YAML package decode, for one reason: who edits a file wants to see
// every mistake at once, each with its line, and a decoded value no longer knows where it stood.
//
// What a field of a Configuration may say beside its yaml key:
//
//	doc:"…"            one sentence for the reference; every field has it
//	config:"bytes"     an integer that is written as a size ("10GiB")
//	config:"env"       a string in which ${NAME} is replaced from the environment ("$${" is a plain "${")
//	config:"secret"    as env, and never printed
//
// Anchors, aliases and merge keys are refused: no configuration here is long enough to need them.
package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"

	"github.com/routevigil/routevigil/alert"
	"github.com/routevigil/routevigil/api"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/ingest/archive/fetch"
	"github.com/routevigil/routevigil/ingest/bgpsession"
	"github.com/routevigil/routevigil/ingest/bmp"
	"github.com/routevigil/routevigil/ingest/bus"
	"github.com/routevigil/routevigil/ingest/bus/kafkabus"
	"github.com/routevigil/routevigil/ingest/openbmp"
	"github.com/routevigil/routevigil/ingest/rislive"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/backfill"
	"github.com/routevigil/routevigil/store/clickhouse"
	"github.com/routevigil/routevigil/store/embedded"
)

// Config is the whole configuration: one section for each component.
type Config struct {
	Ingest    Ingest                 `yaml:"ingest" doc:"The feeds, and the queue between them and detection."`
	Archive   fetch.Configuration    `yaml:"archive" doc:"Where files of RIPE RIS and RouteViews are got from: by the commands fetch and replay, and after a gap of a live feed (ingest.backfill)."`
	Knowledge detect.KnowledgeFiles  `yaml:"knowledge" doc:"What announcements are compared with beside history."`
	Watches   detect.WatchList       `yaml:"watches" doc:"What you declare of networks that you care for: it is evidence, and incidents that touch a watch bear its name. None by default."`
	Detect    detect.Configuration   `yaml:"detect" doc:"When detection speaks."`
	Store     Store                  `yaml:"store" doc:"Where update history, incidents and alerts still to be sent are kept."`
	Alert     alert.Configuration    `yaml:"alert" doc:"Who is told of incidents."`
	API       api.Configuration      `yaml:"api" doc:"The HTTP server: API, dashboard, embeds, metrics."`
	Kafka     kafkabus.Configuration `yaml:"kafka" doc:"Where the roles collect, detect and record meet, when the service runs as several processes, and where other consumers find what the feeds say."`
}

// Ingest is the section of package ingest's parts.
type Ingest struct {
	RISLive  rislive.Configuration    `yaml:"ris_live" doc:"RIPE's stream of what its collectors hear."`
	BMP      bmp.Configuration        `yaml:"bmp" doc:"Routers of one's own that tell over BMP what they hear; none by default."`
	OpenBMP  openbmp.Configuration    `yaml:"openbmp" doc:"BMP that OpenBMP's collectors put into Kafka, such as RouteViews' public stream."`
	BGP      bgpsession.Configuration `yaml:"bgp" doc:"Sessions with routers of one's own; none by default."`
	Backfill backfill.Configuration   `yaml:"backfill" doc:"What is done about times that a live feed missed."`
	Baseline []string                 `yaml:"baseline" doc:"MRT table dumps, plain or compressed, that say what is normal when the service starts for the first time; without any it learns from the feeds for detect.warmup."`
	Bus      bus.Configuration        `yaml:"bus" doc:"The queue between the feeds and detection."`
}

// Kinds of stores.
const (
	Embedded   = "embedded"
	ClickHouse = "clickhouse"
)

// Store is the section of the packages below store.
type Store struct {
	Kind       string                   `yaml:"kind" doc:"What keeps everything: embedded, which is the directory alone, or clickhouse, a ClickHouse server or cluster."`
	Directory  string                   `yaml:"directory" doc:"Directory for what is kept in files, created when missing, used by one process at a time: everything, or with kind clickhouse only copies of what verdicts are compared with, and files of archives that are being read."`
	Retention  store.Retention          `yaml:"retention" doc:"How much update history is kept; incidents are kept whatever their age."`
	Seal       embedded.Seal            `yaml:"seal" doc:"When fresh history is moved into Parquet parts; only with kind embedded."`
	ClickHouse clickhouse.Configuration `yaml:"clickhouse" doc:"The ClickHouse server or cluster; only with kind clickhouse."`
}

// Embedded is what the embedded store needs to know.
func (s Store) Embedded() embedded.Configuration {
	return embedded.Configuration{Directory: s.Directory, Retention: s.Retention, Seal: s.Seal}
}

// Validate reports every field that is out of range.
func (s Store) Validate() error {
	err := s.Embedded().Validate()
	if s.Kind != Embedded && s.Kind != ClickHouse {
		err = errors.Join(err, fmt.Errorf("kind: must be %s or %s, is %q", Embedded, ClickHouse, s.Kind))
	}
	return err
}

func defaultStore() Store {
	e := embedded.DefaultConfiguration()
	return Store{Kind: Embedded, Directory: e.Directory, Retention: e.Retention, Seal: e.Seal, ClickHouse: clickhouse.DefaultConfiguration()}
}

// Default is the configuration of a service that is given no file.
func Default() Config {
	return Config{
		Ingest: Ingest{RISLive: rislive.DefaultConfiguration(), BMP: bmp.DefaultConfiguration(),
			OpenBMP: openbmp.DefaultConfiguration(), BGP: bgpsession.DefaultConfiguration(), Backfill: backfill.DefaultConfiguration(), Bus: bus.DefaultConfiguration()},
		Archive:   fetch.DefaultConfiguration(),
		Knowledge: detect.DefaultKnowledgeFiles(),
		Detect:    detect.DefaultConfiguration(),
		Store:     defaultStore(),
		Alert:     alert.DefaultConfiguration(),
		API:       api.DefaultConfiguration(),
		Kafka:     kafkabus.DefaultConfiguration(),
	}
}

// Validate reports what in one section another does not know.
func (c Config) Validate() error {
	var errs []error
	names := c.Watches.Names()
	if irr := c.Knowledge.IRR; len(irr.Files)+len(irr.Mirrors) == 0 {
		for i, w := range c.Watches {
			if len(w.RouteSets) > 0 {
				errs = append(errs, fmt.Errorf("watches[%d].route_sets: nothing says what is in them; set knowledge.irr.files or knowledge.irr.mirrors", i))
			}
		}
	}
	for i, w := range c.Alert.Webhooks {
		for j, name := range w.Watches {
			if !slices.Contains(names, name) {
				errs = append(errs, fmt.Errorf("alert.webhooks[%d].watches[%d]: there is no watch %q", i, j, name))
			}
		}
	}
	if in, out := c.Ingest.OpenBMP, c.Kafka; in.Enabled && out.OpenBMP.Topic != "" && slices.ContainsFunc(in.Brokers, func(b string) bool { return slices.Contains(out.Brokers, b) }) {
		if topics, err := regexp.Compile(in.Topics); err == nil && topics.MatchString(out.OpenBMP.Topic) {
			errs = append(errs, fmt.Errorf("kafka.openbmp.topic: %s is one of those that ingest.openbmp.topics reads from the same cluster: it would go round for ever", out.OpenBMP.Topic))
		}
	}
	return errors.Join(errs...)
}

// maxFileSize is far more than any configuration and far less than what the file was perhaps mistaken for.
const maxFileSize = 1 << 20

// Load reads file over the defaults. Where the file can be read but not used the error is [Problems].
func Load(file string) (Config, error) {
	c := Default()
	f, err := os.Open(file)
	if err != nil {
		return c, fmt.Errorf("%w (\"routevigil config init\" writes a file to start from)", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return c, err
	}
	if len(data) > maxFileSize {
		return c, fmt.Errorf("%s: is larger than %s; is it a configuration?", file, formatSize(maxFileSize))
	}
	if problems := decode(data, os.LookupEnv, &c); len(problems) > 0 {
		for i := range problems {
			problems[i].File = file
		}
		return c, problems
	}
	return c, nil
}
