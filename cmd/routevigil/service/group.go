package service

import (
	"fmt"
	"sync"
)

// group owns goroutines that are meant to run for as long as the service: one that fails stops it all.
type group struct {
	wg   sync.WaitGroup
	fail func(error)
}

func newGroup(fail func(error)) *group { return &group{fail: fail} }

func (g *group) run(name string, f func() error) {
	g.wg.Go(func() {
		if err := f(); err != nil {
			g.fail(fmt.Errorf("%s: %w", name, err))
		}
	})
}

func (g *group) wait() { g.wg.Wait() }
