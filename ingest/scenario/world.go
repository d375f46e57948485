package scenario

import (
	_ "embed"
	"strings"
	"sync"
)

//go:embed world.scenario
var worldText string

var world struct {
	once sync.Once
	s    *Scenario
}

// World is the built-in Internet as a scenario in which nothing happens.
func World() *Scenario {
	world.once.Do(func() {
		var err error
		if world.s, err = Parse(strings.NewReader(worldText), "world.scenario"); err != nil {
			panic(err) // the text is part of the program, and a test parses it
		}
	})
	return world.s
}
