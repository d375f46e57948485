package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/routevigil/routevigil/cmd/routevigil/config"
	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/archive"
	"github.com/routevigil/routevigil/ingest/archive/fetch"
)

// ReplayCmd runs detection over files: the same bytes give the same incidents, whenever and on
// however many shards.
type ReplayCmd struct {
	KnowledgeFlags
	PeriodFlags
	Files  []string      `arg:"" optional:"" name:"file" help:"MRT or RIS Live JSON lines, plain or compressed; several are merged by time; - is standard input."`
	Output string        `short:"o" placeholder:"FILE" help:"Where the incidents go as they stand at the end, one JSON object a line (default standard output)."`
	Events string        `placeholder:"FILE" help:"Where every change of every incident goes, one JSON object a line, in order."`
	Shards int           `default:"0" placeholder:"N" help:"Parallel parts of the engine; does not change the output."`
	Warmup time.Duration `default:"-1s" placeholder:"DURATION" help:"Event time to learn from where no table dump is given (default: detect.warmup of the configuration, 15m)."`
	Stats  bool          `help:"At the end, print one JSON object of figures on standard error."`
}

// Help says what kong shows below the flags.
func (ReplayCmd) Help() string {
	return `With --collector, --from and --to instead of files, those of the public archives are fetched, or taken from where "fetch" has put them. The
last table dump at or before --from, brought up to that time by the updates in between, is what is taken as normal; then the updates from --from
to --to are replayed. With --rib as well, that file is taken as normal, as it is.`
}

// replayStats are the figures of one replay.
type replayStats struct {
	Messages         uint64            `json:"messages"`
	Updates          uint64            `json:"updates"` // prefixes announced and withdrawn
	Seconds          float64           `json:"seconds"` // for the updates, the table dump not included
	UpdatesPerSecond float64           `json:"updates_per_second"`
	Peers            int               `json:"peers"`
	Prefixes         int               `json:"prefixes"`
	Routes           int               `json:"routes"`
	Malformed        map[string]uint64 `json:"malformed"` // by reason
	Dropped          uint64            `json:"dropped"`
	RIBSeconds       float64           `json:"rib_seconds"`
	MaxRSSBytes      int64             `json:"max_rss_bytes"`
}

func (c ReplayCmd) Run(g *Globals) error {
	cfg, knowledge, err := c.load()
	if err != nil {
		return err
	}
	if c.Shards != 0 {
		cfg.Detect.Shards = c.Shards
	}
	if c.Warmup >= 0 {
		cfg.Detect.Warmup = c.Warmup
	}
	if err := cfg.Detect.Validate(); err != nil {
		return &UsageError{err}
	}
	in, err := c.input(g, cfg)
	if err != nil {
		return err
	}
	var damaged int
	report := func(err error) {
		damaged++
		fmt.Fprintln(g.Stderr, "routevigil:", err)
	}
	updates, err := archive.Open(in.updates, archive.Options{Report: report, Stdin: g.Stdin})
	if err != nil {
		return &UsageError{err}
	}
	defer updates.Close()
	out, err := newReplayOutput(c.Output, c.Events, g.Stdout)
	if err != nil {
		return &UsageError{err}
	}
	defer out.abandon()

	engine := detect.New(cfg.Detect, knowledge, out.event)
	start := time.Now()
	if err := loadBaseline(engine, in.baseline, in.from, g, report); err != nil {
		return err
	}
	stats := replayStats{RIBSeconds: time.Since(start).Seconds()}
	if err := in.replay(g, engine, updates, &stats); err != nil {
		return err
	}
	if learning, until := engine.Learning(); learning && stats.Messages > 0 {
		fmt.Fprintf(g.Stderr, "routevigil: all of the input was learned as normal (until %s); give --rib or a shorter --warmup\n", until)
	}
	engine.Finish()
	if err := out.close(); err != nil {
		return err
	}
	if c.Stats {
		stats.fill(engine, updates)
		if err := json.NewEncoder(g.Stderr).Encode(stats); err != nil {
			return err
		}
	}
	if damaged > 0 {
		return passedOver(damaged)
	}
	return nil
}

// replayInput is what is replayed, and what is taken as normal before.
type replayInput struct {
	updates, baseline []string
	from, to          ingest.Time // what of updates is replayed: [from, to); both 0: all
}

// input takes the files that are named, or fetches those of the period.
func (c ReplayCmd) input(g *Globals, cfg config.Config) (replayInput, error) {
	period := len(c.Collector) > 0 || !c.From.IsZero() || !c.To.IsZero() || c.Dir != ""
	switch {
	case period && len(c.Files) > 0:
		return replayInput{}, &UsageError{errors.New("either files or --collector, --from and --to are replayed, not both")}
	case !period && len(c.Files) == 0:
		return replayInput{}, &UsageError{errors.New("there is nothing to replay: name files, or give --collector, --from and --to")}
	case !period:
		return replayInput{updates: c.Files, baseline: cfg.Ingest.Baseline}, nil
	}
	r, err := c.request(len(c.RIB) == 0, true)
	if err != nil {
		return replayInput{}, err
	}
	client, err := c.client(g, cfg.Archive)
	if err != nil {
		return replayInput{}, err
	}
	defer client.Close()
	files, err := fetchFiles(g, client, r)
	if err != nil {
		return replayInput{}, err
	}
	in := replayInput{from: ingest.TimeOf(r.From), to: ingest.TimeOf(r.To)}
	if !r.RIB {
		in.baseline = c.RIB
	}
	// Of equal times the file named first goes first: a table before the updates that change it.
	for _, f := range files {
		if f.Kind == fetch.RIB {
			in.baseline = append(in.baseline, f.Path)
		}
	}
	for _, f := range files {
		if f.Kind == fetch.Updates && r.RIB && f.Start.Before(r.From) {
			in.baseline = append(in.baseline, f.Path)
		}
		if f.Kind == fetch.Updates && f.End.After(r.From) {
			in.updates = append(in.updates, f.Path)
		}
	}
	return in, nil
}

func (in replayInput) replay(g *Globals, engine *detect.Engine, updates *archive.Reader, stats *replayStats) error {
	stop := showProgress(g.Stderr, "replaying", updates.Progress)
	defer stop()
	start := time.Now()
	defer func() { stats.Seconds = time.Since(start).Seconds() }()
	for n := 0; ; n++ {
		u, err := updates.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n%4096 == 0 && g.Context.Err() != nil {
			return errors.New("interrupted")
		}
		if in.to != 0 && (u.Time < in.from || u.Time >= in.to) {
			continue
		}
		stats.Messages++
		stats.Updates += uint64(len(u.Announced) + len(u.Withdrawn))
		engine.Apply(u)
	}
}

func (s *replayStats) fill(e *detect.Engine, r *archive.Reader) {
	st := e.Stats()
	s.Peers, s.Prefixes, s.Routes, s.Dropped = st.Peers, st.Prefixes, st.Routes, st.Refused
	s.Malformed = r.Counts().Malformed
	if s.Malformed == nil {
		s.Malformed = map[string]uint64{}
	}
	if s.Seconds > 0 {
		s.UpdatesPerSecond = float64(s.Updates) / s.Seconds
	}
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) == nil {
		s.MaxRSSBytes = usage.Maxrss * 1024 // Linux counts in KiB
	}
}

// replayOutput keeps incidents as they stand and writes them at the end; events as they come.
type replayOutput struct {
	last      map[string]incident.Incident
	incidents *output
	events    *output // nil when not asked for
	err       error
}

func newReplayOutput(incidents, events string, stdout io.Writer) (*replayOutput, error) {
	o := &replayOutput{last: map[string]incident.Incident{}}
	var err error
	if o.incidents, err = openOutput(incidents, stdout); err != nil {
		return nil, err
	}
	if events != "" {
		if o.events, err = openOutput(events, stdout); err != nil {
			o.incidents.abandon()
			return nil, err
		}
	}
	return o, nil
}

func (o *replayOutput) event(ev incident.Event) {
	o.last[ev.Incident.ID] = ev.Incident
	if o.events != nil && o.err == nil {
		o.err = o.events.encode(ev)
	}
}

// close writes the incidents in the order of their detection.
func (o *replayOutput) close() error {
	incidents := slices.SortedFunc(maps.Values(o.last), func(a, b incident.Incident) int {
		return cmp.Or(a.DetectedAt.Compare(b.DetectedAt), cmp.Compare(a.ID, b.ID))
	})
	for _, inc := range incidents {
		if o.err == nil {
			o.err = o.incidents.encode(inc)
		}
	}
	if o.events != nil {
		o.err = errors.Join(o.err, o.events.close())
	}
	return errors.Join(o.err, o.incidents.close())
}

func (o *replayOutput) abandon() {
	o.incidents.abandon()
	if o.events != nil {
		o.events.abandon()
	}
}

// output writes JSON lines to a file, or to a stream when no file is named.
type output struct {
	file *os.File // nil for a stream
	buf  *bufio.Writer
	json *json.Encoder
}

func openOutput(path string, stream io.Writer) (*output, error) {
	o := &output{buf: bufio.NewWriterSize(stream, 1<<16)}
	if path != "" && path != "-" {
		f, err := os.Create(path)
		if err != nil {
			return nil, err
		}
		o.file = f
		o.buf.Reset(f)
	}
	o.json = json.NewEncoder(o.buf)
	o.json.SetEscapeHTML(false)
	return o, nil
}

func (o *output) encode(v any) error { return o.json.Encode(v) }

func (o *output) close() error {
	err := o.buf.Flush()
	if o.file != nil {
		err = errors.Join(err, o.file.Close())
		o.file = nil
	}
	return err
}

// abandon closes the file if close has not.
func (o *output) abandon() {
	if o.file != nil {
		o.file.Close()
	}
}
