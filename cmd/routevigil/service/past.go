package service

import (
	"encoding/json"
	"os"
	"time"

	"github.com/routevigil/routevigil/detect"
	"github.com/routevigil/routevigil/detect/past"
)

// pastName is the folder of what is kept of the past, beside the copies of what is in use.
const pastName = "past"

// Sources of the past that are no sources of knowledge.
const (
	settings      = "settings"
	detectorState = "detector"
)

// pastSettings is what of the configuration decides verdicts.
type pastSettings struct {
	Declared []detect.Declaration
	Sources  []string // registries, in the order of trust
	Mirrors  []string // names of sources, in the order of the configuration
	Detect   detect.Configuration
}

// openPast opens the record of what was in use. One that cannot be used is set aside. Where nothing is to be kept nothing
// is: a record with an unknown gap would tell untruths.
func (k *keeper) openPast(folder string, c past.Configuration) {
	var err error
	if !c.Enabled {
		if err := os.RemoveAll(folder); err != nil {
			k.log.Error("what was kept of the past cannot be removed", "error", err)
		}
		return
	}
	if k.past, err = past.Open(folder, c, k.log); err != nil {
		k.log.Error("what is in use is not kept for questions about the past", "error", err)
	}
}

func (k *keeper) recordSettings(f detect.KnowledgeFiles, c detect.Configuration) {
	s := pastSettings{Declared: f.Declared, Sources: f.IRR.Sources, Detect: c}
	for _, m := range f.IRR.Mirrors {
		s.Mirrors = append(s.Mirrors, mirrorName(m))
	}
	text, err := json.Marshal(s)
	if err != nil {
		k.log.Error("the configuration is not kept for questions about the past", "error", err)
		return
	}
	k.past.Bytes(time.Now(), settings, "configuration", false, text)
}

// keepState keeps the engine's state where it is time, beside the pipeline's work.
func (p *pipeline) keepState(state []byte) {
	now := time.Now()
	if !p.past.Due(now, detectorState) || !p.keeping.TryLock() {
		return
	}
	go func() {
		defer p.keeping.Unlock()
		p.past.Bytes(now, detectorState, "", true, state)
	}()
}
