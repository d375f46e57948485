package service

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/routevigil/routevigil/detect/origins"
)

// The history of every prefix is part of the detector's state and comes back with it. A state cannot
// outlive a change of its format, or be carried elsewhere; so history, which takes weeks to gather, is also
// kept in a file of its own, whose format is documented. It is read when there is no state to be used.
const (
	HistoryName  = "origins.history"
	historyEvery = time.Hour
)

// historyFile is where the history is kept.
type historyFile struct {
	path  string // "" for none
	every time.Duration
	saved time.Time // when it was last tried
}

// saveHistory replaces the file. Failure is only logged: it is tried again.
func (p *pipeline) saveHistory() {
	if p.history.path == "" {
		return
	}
	p.history.saved = time.Now()
	if err := origins.WriteFile(p.history.path, p.engine.SaveHistory); err != nil {
		p.log.Error("saving the history of prefixes failed; it is tried again", "error", err)
	}
}

// learnAnew gives the new engine what history there is, and then the baseline. A file that cannot be used
// is set aside. Where there is none, what the store has up to p.position is learned later, beside the work (see learner).
func (p *pipeline) learnAnew(baseline func() error) error {
	if p.history.path == "" {
		return baseline()
	}
	data, err := origins.ReadFile(p.history.path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := p.learner.want(p.position); err != nil {
			return err
		}
		return baseline()
	}
	if err == nil {
		err = p.engine.LoadHistory(data)
	}
	if err != nil {
		aside := p.history.path + ".damaged"
		p.log.Warn("the history of prefixes cannot be used and is set aside; it is learned anew", "file", p.history.path, "moved_to", aside, "error", err)
		if err := os.Rename(p.history.path, aside); err != nil {
			return err
		}
		if err := p.learner.want(p.position); err != nil {
			return err
		}
		p.engine = p.newEngine()
	} else {
		p.log.Info("the history of prefixes was restored", "file", p.history.path)
	}
	return baseline()
}
