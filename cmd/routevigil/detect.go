package main

import (
	"fmt"

	"github.com/routevigil/routevigil/cmd/routevigil/service"
)

// DetectCmd is the role that judges.
type DetectCmd struct{ ConfigFlag }

// Help says what kong shows below the flags.
func (DetectCmd) Help() string {
	return `Any number of detectors may run. One is in charge, the others judge the same updates and go on in its place when it is silent for
kafka.takeover; incidents stay open meanwhile. A detector that starts restores the state last saved in Kafka and catches up: then /readyz
says so. All need the same sections detect, knowledge and kafka. /healthz, /readyz and /metrics are at api.listen.`
}

func (c DetectCmd) Run(g *Globals) error {
	cfg, err := c.Load()
	if err != nil {
		return err
	}
	x, err := service.NewDetector(g.Context, cfg, Version(), g.Log)
	if err != nil {
		return err
	}
	fmt.Fprintf(g.Stderr, "routevigil: detect: metrics on http://%s/metrics\n", x.Addr())
	return x.Run(g.Context)
}
