package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// showProgress tells on a terminal, once a second, how far long work has come: percent, rate, time
// left. progress returns how many bytes of how many are done. The returned function ends it and
// clears the line.
func showProgress(w io.Writer, what string, progress func() (done, total int64)) (stop func()) {
	if !isTerminal(w) {
		return func() {}
	}
	start, end := time.Now(), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-end:
				fmt.Fprint(w, "\r\x1b[K")
				return
			case <-tick.C:
				done, total := progress()
				fmt.Fprint(w, "\r\x1b[K"+progressLine(what, done, total, time.Since(start)))
			}
		}
	})
	return func() { close(end); wg.Wait() }
}

func progressLine(what string, done, total int64, elapsed time.Duration) string {
	rate := float64(done) / elapsed.Seconds()
	line := fmt.Sprintf("%s: %.1f MB/s", what, rate/1e6)
	if total > 0 && rate > 0 {
		left := time.Duration(float64(total-done) / rate * float64(time.Second)).Round(time.Second)
		line = fmt.Sprintf("%s: %d %%, %.1f MB/s, %s left", what, 100*done/total, rate/1e6, left)
	}
	return line
}
