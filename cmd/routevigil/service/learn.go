package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/incident"
	"github.com/routevigil/routevigil/detect/origins"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/store"
	"github.com/routevigil/routevigil/store/batch"
)

// Where neither the detector's state nor the file of history can be used, but the store holds updates from before, the history
// of origins is learned from these, beside the pipeline's work. An engine of its own, which tells nobody
// anything, takes them in the order of event time, a window at a time, at most as far back as one half-life; so what it
// suspects it does not learn, as ever. It judges with the knowledge of today and begins with a warm-up, and is the less
// sure of the first things it sees; therefore the incidents that the store has count as well. What has been
// learned goes to the running engine just before a checkpoint. Until that checkpoint is saved a file says
// what is still to be learned, so that a restart begins again.
//
// While it lasts there is a second table in memory, and the rows of one window. Sealed parts of the store are sorted by prefix, so
// that reading in the order of time is slow: some 24,000 rows a second where a part has half a million rows, less
// where it has more (BenchmarkUpdates/window of package embedded). Hence learnWithin.
const (
	learnName   = "origins.learn"
	learnRows   = 1 << 17        // of a window, some 50 MB
	learnSecond = 8              // times as many rows may be in the shortest window, a second; of more the newest are taken
	learnWindow = 24 * time.Hour // the longest
	learnWithin = 24 * time.Hour // then what it has got to must do
	learnReport = time.Minute
)

// learner learns the history of origins from the store.
type learner struct {
	path      string        // of the file that says what is to be learned
	rows      int           // of a window
	back      time.Duration // how far, in event time
	store     store.Store
	newEngine func() *detect.Engine // that tells nobody anything
	log       *slog.Logger

	todo    *learnTodo // nil for nothing
	began   bool
	brought bool // and not yet saved
	answers chan *learned
	work    sync.WaitGroup

	metrics learnMetrics
	mu      sync.Mutex
	reached time.Time // event time; zero where nothing is being learned
}

// learnTodo says which part of the store is to be learned from: up to a position, and what happened before a time.
type learnTodo struct {
	Position uint64    `json:"position"`
	Until    time.Time `json:"until"`
}

type learned struct {
	engine  *detect.Engine
	accused detect.Accused
}

type learnMetrics struct {
	reached prometheus.Gauge
	rows    prometheus.Counter
}

func newLearner(path string, s store.Store, c detect.Configuration, knowledge func() detect.Knowledge, log *slog.Logger, r prometheus.Registerer) *learner {
	c.Shards = 1 // it has time
	l := &learner{path: path, rows: learnRows, back: c.HalfLife, store: s, log: log, answers: make(chan *learned, 1), metrics: learnMetrics{
		reached: prometheus.NewGauge(prometheus.GaugeOpts{Name: "routevigil_history_learning_time_seconds",
			Help: "Event time that learning the history of origins from the store has reached, in seconds since the Unix epoch; 0 while nothing is learned from there."}),
		rows: prometheus.NewCounter(prometheus.CounterOpts{Name: "routevigil_history_learning_rows_total",
			Help: "Rows of the store from which the history of origins was learned."})}}
	l.newEngine = func() *detect.Engine { return detect.New(c, knowledge(), func(incident.Event) {}) }
	r.MustRegister(l.metrics.reached, l.metrics.rows)
	return l
}

// want notes that what the store has up to a position is to be learned.
func (l *learner) want(position uint64) error {
	if l == nil || position == 0 {
		return nil
	}
	l.todo = &learnTodo{position, time.Now().UTC()}
	text, err := json.Marshal(l.todo)
	if err != nil {
		return err
	}
	return origins.WriteFile(l.path, func(w io.Writer) error { _, err := w.Write(text); return err })
}

// resume takes up what an earlier run had not finished.
func (l *learner) resume() error {
	if l == nil {
		return nil
	}
	text, err := os.ReadFile(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var todo learnTodo
	if err == nil {
		err = json.Unmarshal(text, &todo)
	}
	if err != nil {
		l.log.Warn("what was still to be learned from the store is not known; it is not learned", "file", l.path, "error", err)
		return l.forget()
	}
	l.todo = &todo
	return nil
}

func (l *learner) forget() error {
	l.todo, l.brought = nil, false
	if err := os.Remove(l.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (l *learner) wait() {
	if l != nil {
		l.work.Wait()
	}
}

// begin starts to learn, where there is something to be learned.
func (l *learner) begin(ctx context.Context) {
	if l == nil || l.todo == nil || l.began {
		return
	}
	l.began = true
	todo, engine := *l.todo, l.newEngine()
	l.work.Go(func() {
		defer l.reach(time.Time{})
		start := time.Now()
		a, err := l.learn(ctx, todo, engine)
		switch {
		case err == nil:
			l.log.Info("the history of origins was learned from the store; it counts from the next checkpoint on", "prefixes", engine.Stats().Prefixes, "took", time.Since(start).Round(time.Millisecond))
			l.answers <- a
		case ctx.Err() == nil:
			l.log.Error("the history of origins could not be learned from the store; it is tried again at the next start", "error", err)
		}
	})
}

// bringIn gives e what was learned, if that is ready.
func (l *learner) bringIn(e *detect.Engine) {
	if l == nil {
		return
	}
	if learning, _ := e.Learning(); learning {
		return
	}
	select {
	case a := <-l.answers:
		e.LearnPast(a.engine, a.accused)
		l.brought = true
	default:
	}
}

// saved is told that the state of an engine was saved.
func (l *learner) saved() {
	if l == nil || !l.brought {
		return
	}
	if err := l.forget(); err != nil {
		l.log.Error("what was learned from the store would be learned again at the next start", "error", err)
	}
}

func (l *learner) reach(t time.Time) {
	l.mu.Lock()
	l.reached = t
	l.mu.Unlock()
	if t.IsZero() {
		l.metrics.reached.Set(0)
	} else {
		l.metrics.reached.Set(float64(t.UnixMicro()) / 1e6)
	}
}

// sentence says what is going on, "" for nothing.
func (l *learner) sentence() string {
	if l == nil {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reached.IsZero() {
		return ""
	}
	return fmt.Sprintf("What is usual is being learned from the updates that are stored, and has got to %s.", l.reached.UTC().Format("2006-01-02 15:04 UTC"))
}

// learn has e take what the store has.
func (l *learner) learn(ctx context.Context, todo learnTodo, e *detect.Engine) (*learned, error) {
	st, err := l.store.Stats(ctx)
	if err != nil {
		return nil, err
	}
	from := todo.Until.Add(-l.back)
	if st.OldestUpdate.After(from) {
		from = st.OldestUpdate
	}
	accused, err := l.accusations(ctx, from, todo.Until)
	if err != nil {
		return nil, err
	}
	l.log.Info("the history of origins is being learned from the updates that are stored", "from", from, "until", todo.Until)
	deadline, report := time.Now().Add(learnWithin), time.Now().Add(learnReport)
	passed := 0
	for window := time.Minute; from.Before(todo.Until); {
		l.reach(from)
		if time.Now().After(report) {
			report = time.Now().Add(learnReport)
			l.log.Info("the history of origins is being learned from the store", "reached", from, "until", todo.Until)
		}
		if time.Now().After(deadline) {
			l.log.Warn("learning the history of origins from the store takes too long; what came later is left out", "reached", from, "until", todo.Until)
			break
		}
		to := from.Add(window)
		if to.After(todo.Until) {
			to = todo.Until
		}
		rows, whole, err := l.window(ctx, todo.Position, from, to, window > time.Second)
		if err != nil {
			return nil, err
		}
		if !whole {
			window = max(window/2, time.Second)
			continue
		}
		for i := range rows {
			u, err := batch.UpdateOf(&rows[i])
			if err != nil {
				passed++
				continue
			}
			e.Apply(&u)
		}
		l.metrics.rows.Add(float64(len(rows)))
		from = to
		e.Advance(ingest.TimeOf(from) - 1)
		if len(rows) < l.rows/4 {
			window = min(2*window, learnWindow)
		}
	}
	if passed > 0 {
		l.log.Warn("rows of the store were not understood and were passed over", "rows", passed)
	}
	return &learned{e, accused}, nil
}

// window reads what happened in [from, to), in the order in which it did. Where that is too much, and it may give up, it is not whole.
func (l *learner) window(ctx context.Context, position uint64, from, to time.Time, mayGiveUp bool) (rows []store.Route, whole bool, err error) {
	q := store.UpdateQuery{From: from, To: to, After: store.Cursor{Position: position + 1}, Limit: l.rows + 1}
	if !mayGiveUp {
		q.Limit = learnSecond * l.rows
	}
	for r, err := range l.store.Updates(ctx, q) {
		if err != nil {
			return nil, false, err
		}
		rows = append(rows, r)
	}
	if mayGiveUp && len(rows) > l.rows {
		return nil, false, nil
	}
	slices.Reverse(rows)
	slices.SortStableFunc(rows, func(a, b store.Route) int { return a.Time.Compare(b.Time) })
	return rows, true, nil
}

// accusations gathers from the incidents of a time, as they were at each of their changes, who originated what wrongly. Of an
// incident with more prefixes than are listed, its offenders are accused of all that they began to originate while it lasted.
func (l *learner) accusations(ctx context.Context, from, to time.Time) (detect.Accused, error) {
	type pair struct {
		prefix netip.Prefix
		asn    uint32
	}
	type span struct{ from, to ingest.Time }
	pairs, all := map[pair]bool{}, map[uint32]map[string]span{}
	const page = 500
	for after, more := uint64(0), true; more; {
		events, err := l.store.Events(ctx, "", after, page)
		if err != nil {
			return nil, err
		}
		for i := range events {
			ev := &events[i]
			inc := &ev.Incident
			if after = ev.Sequence; ev.Time.Before(from) || !ev.Time.Before(to) {
				continue
			}
			for _, p := range inc.Prefixes {
				for _, asn := range p.ObservedOrigins {
					if !slices.Contains(inc.Offenders, asn) || slices.Contains(p.ExpectedOrigins, asn) {
						continue
					}
					pairs[pair{p.Prefix, asn}] = true
					if inc.PrefixCount > len(inc.Prefixes) {
						if all[asn] == nil {
							all[asn] = map[string]span{}
						}
						all[asn][inc.ID] = span{ingest.TimeOf(inc.StartedAt.Truncate(time.Second)), ingest.TimeOf(inc.UpdatedAt)}
					}
				}
			}
		}
		more = len(events) == page
	}
	return func(p netip.Prefix, asn uint32, first ingest.Time) bool {
		if pairs[pair{p, asn}] {
			return true
		}
		for _, s := range all[asn] {
			if s.from <= first && first <= s.to {
				return true
			}
		}
		return false
	}, nil
}
