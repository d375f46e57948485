package service

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/ingest"
	"github.com/routevigil/routevigil/ingest/bgp"
)

// runToEnd has p process what is on its bus and stop as serve does.
func runToEnd(t *testing.T, p *pipeline) {
	t.Helper()
	p.bus.Close()
	if err := p.run(t.Context(), make(chan struct{})); err != nil {
		t.Fatal(err)
	}
}

// firstSeen is since when the history knows that victim(i) announces its prefix, "" for never.
func firstSeen(p *pipeline, i int) string {
	v := victim(i)
	for _, o := range p.engine.Explain(v.prefix, bgp.ASPath{{Type: bgp.ASSequence, ASNs: []uint32{5001, 1101, v.asn}}}).History.Origins {
		if o.ASN == v.asn && o.Prefix == v.prefix {
			return o.FirstSeen.String()
		}
	}
	return ""
}

// TestHistoryFile stops with a history, loses the detector's state as after a change of version, and starts
// again: what was known is known. A file that is damaged is set aside and stops nobody.
func TestHistoryFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), HistoryName)
	p := newPipelineWithHistory(t, openStore(t), detect.Knowledge{}, file)
	own := victim(100) // announced by nobody in the baseline
	var us []ingest.Update
	for k := range sessions {
		us = append(us, route(k, own.prefix, own.asn))
	}
	take(t, p, us...)
	runToEnd(t, p)
	want := firstSeen(p, 100)
	if want == "" {
		t.Fatal("there is nothing to be known")
	}

	p = newPipelineWithHistory(t, openStore(t), detect.Knowledge{}, file) // a store without a state
	if got := firstSeen(p, 100); got != want {
		t.Errorf("first seen %q, want %q", got, want)
	}

	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	damaged := slices.Clone(data)
	damaged[len(data)/2] ^= 1
	if err := os.WriteFile(file, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	p = newPipelineWithHistory(t, openStore(t), detect.Knowledge{}, file)
	if got := firstSeen(p, 100); got != "" {
		t.Errorf("a damaged file told that it was first seen %s", got)
	}
	if aside, err := os.ReadFile(file + ".damaged"); err != nil || !slices.Equal(aside, damaged) {
		t.Errorf("the damaged file was not set aside: %v", err)
	}
	runToEnd(t, p)
	if again, err := os.ReadFile(file); err != nil || slices.Equal(again, damaged) {
		t.Errorf("no new file was written: %v", err)
	}
}

// What serve leaves in its directory when it stops is a history that can be read.
func TestServeSavesHistory(t *testing.T) {
	f := newFeed(t)
	c := configuration(t, f.url())
	s := start(t, c)
	s.whenReady(f)
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(c.Store.Directory, HistoryName))
	if err != nil {
		t.Fatal(err)
	}
	if err := detect.New(detect.DefaultConfiguration(), detect.Knowledge{}, nil).LoadHistory(data); err != nil {
		t.Error(err)
	}
}
