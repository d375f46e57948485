package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGrowth measures small tables, and wants a plot that is XML with all points, and a table with all rows.
func TestGrowth(t *testing.T) {
	all := []series{
		newSeries("prefixes", "at 5 peers", []int{500, 5000}, func(n int) (point, error) { return measure(n, 5, 0) }),
		newSeries("peers", "of 2000 prefixes", []int{5, 20}, func(n int) (point, error) { return measure(2000, n, 0) }),
		newSeries("open incidents", "over 2000 prefixes", []int{0, 100}, func(n int) (point, error) { return measure(2000, 5, n) }),
	}
	for i := range all {
		if err := all[i].fill(); err != nil {
			t.Fatal(err)
		}
	}
	if p := all[1].points[1]; p.routes != 40_000 || p.nodes == 0 || p.octets < 8*40_000 {
		t.Errorf("20 peers of 2000 prefixes: %+v", p)
	}
	if a, b := all[2].points[0], all[2].points[1]; b.incidents != 100 || b.octets <= a.octets {
		t.Errorf("100 incidents: %+v, none: %+v", b, a)
	}
	circles := 0
	for d := xml.NewDecoder(strings.NewReader(plot(all))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "circle" {
			circles++
		}
	}
	text := report(all)
	if circles != 12 || strings.Contains(text, "%!") || strings.Count(text, "\n| ") != 6+2 {
		t.Errorf("%d circles; %s", circles, text)
	}
}

// TestGrowthIsInTheRepository looks whether what the command writes is there.
func TestGrowthIsInTheRepository(t *testing.T) {
	for _, name := range []string{"growth.svg", "GROWTH.md"} {
		if st, err := os.Stat(filepath.Join("../../detect", name)); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v; make growth writes it", name, err)
		}
	}
}
