package scorecard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/archive"
)

// Source is a case that is made when its turn comes.
type Source struct {
	Group, Name string
	Judging     bool
	Load        func() (*Case, error)
	Configure   func(*detect.Configuration) // nil: as it is by default
}

// Run plays a case and scores it.
func (s *Source) Run() (Result, error) {
	c, err := s.Load()
	if err != nil {
		return Result{}, err
	}
	cfg := detect.DefaultConfiguration()
	if s.Configure != nil {
		s.Configure(&cfg)
	}
	p, err := Play(c, cfg)
	if err != nil {
		return Result{}, err
	}
	r := Score(p)
	r.Group, r.Name, r.Judging = s.Group, s.Name, s.Judging
	return r, nil
}

// event is a row of labels.json.
type event struct {
	ID        string        `json:"id"`
	Kind      incident.Kind `json:"kind"`
	First     int64         `json:"first_offending_update_unix"`
	Offenders []uint32      `json:"offender_asns"`
	Victims   []uint32      `json:"victim_asns"`
	Prefix    string        `json:"offending_prefix"`
}

// Events lists the real events of a folder that holds labels.json and, for each, ID.rib.mrt.gz and ID.updates.mrt.gz.
// Only the event's own prefixes are there, and nothing else is known: no VRPs, relationships or organisations of those
// days are to hand. So most ASes look as if nobody had ever seen them, which makes some of these events easier than they were
// (an AS that nobody knows in space that nobody has, see detect/squatting.go), and others harder: whether a link is new, or a
// prefix one slip away from another of its origin, nothing tells.
//
// What the labels call the first offending update is the first on which the offender stands at all. Of two kinds the routes
// themselves show the moment, and that counts: of a mistyped prepend, which may stand in the table already, and of a mistyped
// ASN, whose AS may have passed the right routes on before.
//
// The labels name as offender of a mistyped prepend the AS whose number stands at the origin. The contract, and so the
// detector, blames whoever typed it, which is the labels' victim: the two are exchanged.
func Events(dir string) ([]Source, error) {
	data, err := os.ReadFile(filepath.Join(dir, "labels.json"))
	if err != nil {
		return nil, err
	}
	var events []event
	if err := json.Unmarshal(data, &events); err != nil {
		return nil, fmt.Errorf("%s: labels.json: %w", dir, err)
	}
	var list []Source
	for _, ev := range events {
		l := Label{Kind: ev.Kind, Offenders: ev.Offenders, Victims: ev.Victims, Start: ingest.TimeOf(time.Unix(ev.First, 0))}
		if l.Kind == incident.Prepend {
			l.Offenders, l.Victims = l.Victims, l.Offenders
		}
		p, err := netip.ParsePrefix(ev.Prefix)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", dir, ev.ID, err)
		}
		l.Prefixes = []netip.Prefix{p}
		files := filepath.Join(dir, ev.ID)
		list = append(list, Source{Group: RealEvents, Name: ev.ID, Judging: InJudging(fmt.Sprint(l.Offenders, l.Victims)), Load: func() (*Case, error) {
			c := &Case{Name: ev.ID, RIB: read(files + ".rib.mrt.gz"), Updates: read(files + ".updates.mrt.gz"), Labels: []Label{l}}
			if l.Kind == incident.Prepend || l.Kind == incident.TypoASN {
				start, err := began(&l, c)
				if err != nil {
					return nil, err
				}
				c.Labels[0].Start = start
			}
			end, err := lastOf(c.Updates)
			c.Labels[0].End = end // when it was over is not labelled; the files end when the event does
			return c, err
		}})
	}
	return list, nil
}

// began is the time of the first route, in the table or after it, that shows what is labelled.
func began(l *Label, c *Case) (ingest.Time, error) {
	for _, routes := range []iter.Seq2[*ingest.Update, error]{c.RIB, c.Updates} {
		for u, err := range routes {
			if err != nil {
				return 0, err
			}
			if len(u.Announced) > 0 && l.told(u.Attrs.ASPath) {
				return u.Time, nil
			}
		}
	}
	return 0, fmt.Errorf("%s: no route shows what is labelled", c.Name)
}

// read yields what files hold, each time from the start. Damaged records are passed over.
func read(paths ...string) iter.Seq2[*ingest.Update, error] {
	return func(yield func(*ingest.Update, error) bool) {
		r, err := archive.Open(paths, archive.Options{Collector: "scorecard"})
		if err != nil {
			yield(nil, err)
			return
		}
		defer r.Close()
		for {
			u, err := r.Next()
			if errors.Is(err, io.EOF) || !yield(u, err) || err != nil {
				return
			}
		}
	}
}

func lastOf(updates iter.Seq2[*ingest.Update, error]) (ingest.Time, error) {
	var last ingest.Time
	for u, err := range updates {
		if err != nil {
			return 0, err
		}
		last = max(last, u.Time)
	}
	return last, nil
}
