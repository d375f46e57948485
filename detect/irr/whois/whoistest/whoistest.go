// Package whoistest plays an IRRd server that says what a test tells it to.
package whoistest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Script answers queries; what it does not know it answers with D. "silence" stands for no answer, and "close", alone or at
// the end of one, for the end of the connection.
type Script map[string]string

// Serve listens on loopback and follows the script. It returns its address and what it was asked.
func Serve(t *testing.T, s Script) (string, func() []string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var asked []string
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				lines := bufio.NewScanner(conn)
				for lines.Scan() {
					q := lines.Text()
					mu.Lock()
					asked = append(asked, q)
					mu.Unlock()
					a, ok := s[q]
					switch {
					case q == "!q" || a == "close":
						return
					case q == "!!" || a == "silence":
						continue
					case !ok:
						a = "D\n"
					}
					if _, err := io.WriteString(conn, strings.TrimSuffix(a, "close")); err != nil || strings.HasSuffix(a, "close") {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	return l.Addr().String(), func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(asked)
	}
}

// Data is an answer that holds some text.
func Data(text string) string { return fmt.Sprintf("A%d\n%sC\n", len(text), text) }
