package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// Problems is everything that is wrong with one file, in the order of its lines.
type Problems []Problem

// A Problem is one mistake in a file.
type Problem struct {
	File         string
	Line, Column int    // from 1; 0 where the mistake has no place in the file, because something is missing
	Path         string // of the setting, such as "alert.webhooks[0].url"; "" for the file as a whole
	Message      string
}

// Error gives one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i := range p {
		lines[i] = p[i].String()
	}
	return strings.Join(lines, "\n")
}

// String gives "file:line:column: path: message", without the parts that are not known, on one line.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Column > 0 {
		fmt.Fprintf(&b, ":%d", p.Column)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return strings.Map(func(r rune) rune { // keys of the file are in the path, and they may be anything
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, b.String())
}

func (p Problems) sort() {
	slices.SortStableFunc(p, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}
