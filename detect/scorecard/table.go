package scorecard

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// Write writes the scorecard as text for people.
func (c *Card) Write(w io.Writer) error {
	p := &printer{w: w}
	p.say("Incidents found, by group and half. Recall is of what enough peers saw; false alarms are per 100,000 updates.\n")
	p.figures(c.Groups, "half", func(f *Figures) string { return string(f.Half) })
	p.say("\nBy kind. Recall is of labels, precision of incidents of that kind.\n")
	p.figures(c.Kinds, "kind", func(f *Figures) string { return string(f.Kind) })
	for _, cal := range c.Calibration {
		p.say("\nCalibration, %s halves: %d accusations, raised or not. Brier score %.4f (%.4f by always saying the share of the true; of incidents alone %.4f).\n",
			cal.Half, cal.Accusations, cal.Brier, cal.OfShare, cal.RaisedBrier)
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(t, "confidence\taccusations\ttrue\tmean confidence\tshare true\t")
		for i, b := range cal.Bins {
			if b.Number > 0 {
				fmt.Fprintf(t, "%.1f to %.1f\t%d\t%d\t%.3f\t%.3f\t\n", float64(i)/10, float64(i+1)/10, b.Number, b.True, b.Confidence, float64(b.True)/float64(b.Number))
			}
		}
		p.keep(t.Flush())
	}
	p.lines("Not found, or not rightly", c.Misses)
	p.lines("False alarms", c.FalseAlarms)
	p.lines("Duplicates", c.Duplicates)
	p.say("\nWhat is to be reached:\n")
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, th := range c.Thresholds {
		word, bound := "reached", "at least"
		if !th.Reached {
			word = "NOT REACHED"
		}
		if th.AtMost {
			bound = "at most"
		}
		fmt.Fprintf(t, "%s\t%s: %s\t%s %s\t%s\n", th.Group, th.Figure, short(th.Have), bound, short(th.Want), word)
	}
	p.keep(t.Flush())
	return p.err
}

// Missed lists the thresholds that were not reached.
func (c *Card) Missed() []Threshold {
	var missed []Threshold
	for _, t := range c.Thresholds {
		if !t.Reached {
			missed = append(missed, t)
		}
	}
	return missed
}

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) keep(err error) {
	if p.err == nil {
		p.err = err
	}
}

func (p *printer) say(format string, args ...any) {
	_, err := fmt.Fprintf(p.w, format, args...)
	p.keep(err)
}

func short(x float64) string { return fmt.Sprintf("%.4g", x) }

func percent(x float64) string {
	if math.IsNaN(x) {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*x)
}

func (p *printer) figures(fs []Figures, column string, value func(*Figures) string) {
	t := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "group\t%s\tcases\tlabels\tunseen\trecall\tkind\toffender\tcalled attack\tincidents\tduplicates\tprecision\tfalse\t≥medium\t≥high\tper 100k\trecall ≥m\tprecision ≥m\tdelay enough p50\tp95\tmax\tfirst p50\tp95\t\n", column)
	for i := range fs {
		f := &fs[i]
		seen := f.Labels - f.Unseen
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%d\t%d\t%d\t%s\t%d\t%d\t%d\t%.2f\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", f.Group, value(f), f.Cases, f.Labels, f.Unseen,
			percent(f.Recall()), percent(share(f.RightKind, seen)), percent(share(f.RightOffender, seen)), f.CalledAttack, f.Alarms, f.Duplicates,
			percent(f.Precision()), f.False, f.FalseMedium, f.FalseHigh, f.FalsePer100k(), percent(f.RecallMedium()), percent(f.PrecisionMedium()),
			short(f.SinceEnough.Median), short(f.SinceEnough.P95), short(f.SinceEnough.Most), short(f.SinceFirst.Median), short(f.SinceFirst.P95))
	}
	p.keep(t.Flush())
}

func (p *printer) lines(title string, ls []Line) {
	p.say("\n%s: %d\n", title, len(ls))
	t := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', 0)
	for _, l := range ls {
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", l.Group, l.Case, l.Half, l.Text)
	}
	p.keep(t.Flush())
}
