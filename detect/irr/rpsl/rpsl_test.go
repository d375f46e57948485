package rpsl

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"pgregory.net/rapid"
)

// plain is an object as tests compare it: class, then "name=value" lines.
type plain struct {
	Class      Class
	Attributes []string
}

// result is what a dump held.
type result struct {
	Objects   []plain
	Other     uint64
	Deleted   uint64
	Malformed map[string]uint64
}

func readAll(r *Reader) (result, error) {
	var res result
	for {
		o, err := r.Next()
		if err != nil {
			c := r.Counts()
			res.Other, res.Deleted, res.Malformed = c.Objects[Other], c.Deleted, c.Malformed
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return res, err
		}
		p := plain{Class: o.Class}
		for _, a := range o.Attributes {
			p.Attributes = append(p.Attributes, string(a.Name)+"="+string(a.Value))
		}
		res.Objects = append(res.Objects, p)
	}
}

func parse(t testing.TB, in io.Reader) result {
	t.Helper()
	r, err := NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	res, err := readAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestReader(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       result
	}{
		{"an object", "route:  192.0.2.0/24\norigin: AS64500\nsource: TEST\n", result{Objects: []plain{{Route, []string{"route=192.0.2.0/24", "origin=AS64500", "source=TEST"}}}}},
		{"no newline at the end", "mntner: M", result{Objects: []plain{{Mntner, []string{"mntner=M"}}}}},
		{"every class", "route:a\n\nroute6:b\n\naut-num:c\n\nas-set:d\n\nroute-set:e\n\nmntner:f\n\nperson:g\nsource:x\n", result{Other: 1, Objects: []plain{
			{Route, []string{"route=a"}}, {Route6, []string{"route6=b"}}, {AutNum, []string{"aut-num=c"}}, {ASSet, []string{"as-set=d"}},
			{RouteSet, []string{"route-set=e"}}, {Mntner, []string{"mntner=f"}}}}},
		{"names in any case", "AS-Set: AS-X\nMEMBERS: AS1\n", result{Objects: []plain{{ASSet, []string{"as-set=AS-X", "members=AS1"}}}}},
		{"folding", "as-set: AS-X\nmembers: AS1,\n AS2,\n\tAS3,\n+AS4\n+\n \n,AS5: no\n", result{Malformed: map[string]uint64{NoName: 1}}},
		{"continued by space, tab and plus", "as-set: AS-X\nmembers: AS1,\n AS2,\n\t AS3,\n+AS4,\n+\n    AS5\nsource: T\n", result{Objects: []plain{{ASSet, []string{"as-set=AS-X", "members=AS1, AS2, AS3, AS4, AS5", "source=T"}}}}},
		{"a line of white space does not end an object", "route: 192.0.2.0/24\n \norigin: AS1\n", result{Objects: []plain{{Route, []string{"route=192.0.2.0/24", "origin=AS1"}}}}},
		{"comments", "# head\n% server\nroute: 192.0.2.0/24 # why\n# between\n% too\norigin: # empty\n AS1 # late\n", result{Objects: []plain{{Route, []string{"route=192.0.2.0/24", "origin=AS1"}}}}},
		{"CRLF", "\r\nroute: a\r\norigin: AS1\r\n\r\n\r\nroute: b\r\n", result{Objects: []plain{{Route, []string{"route=a", "origin=AS1"}}, {Route, []string{"route=b"}}}}},
		{"byte order mark", "\xef\xbb\xbfroute: a\n", result{Objects: []plain{{Route, []string{"route=a"}}}}},
		{"Latin-1, UTF-8 and garbage are kept", "route: a\ndescr: M\xfcnchen M\u00fcnchen \x00\xff\n", result{Objects: []plain{{Route, []string{"route=a", "descr=M\xfcnchen M\u00fcnchen \x00\xff"}}}}},
		{"deleted", "*xxte: a\norigin: AS1\n\nroute: b\n*xx*\norigin: AS2\n", result{Deleted: 1, Objects: []plain{{Route, []string{"route=b", "origin=AS2"}}}}},
		{"colons in a value", "route6: 2001:db8::/32\norigin:AS1\n", result{Objects: []plain{{Route6, []string{"route6=2001:db8::/32", "origin=AS1"}}}}},
		{"starts with a continuation", " AS1\nroute: a\n\nroute: b\n", result{Malformed: map[string]uint64{OutOfPlace: 1}, Objects: []plain{{Route, []string{"route=b"}}}}},
		{"no name", "route: a\n: x\n\nroute a\n\nroute: a\nmnt by: x\n", result{Malformed: map[string]uint64{NoName: 3}}},
		{"no value", "route: # nothing\norigin: AS1\n", result{Malformed: map[string]uint64{NoValue: 1}}},
		{"nothing", "\n\n# only\n%comments", result{}},
		{"empty", "", result{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.want.Malformed == nil {
				c.want.Malformed = map[string]uint64{}
			}
			for name, in := range readers(c.text) {
				if diff := cmp.Diff(c.want, parse(t, in)); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
			if diff := cmp.Diff(c.want, reference(c.text)); diff != "" {
				t.Errorf("the reference differs (-want +got):\n%s", diff)
			}
		})
	}
}

// readers gives the text in several ways.
func readers(text string) map[string]io.Reader {
	return map[string]io.Reader{
		"whole":           strings.NewReader(text),
		"byte by byte":    iotest.OneByteReader(strings.NewReader(text)),
		"error with data": iotest.DataErrReader(strings.NewReader(text)),
		"gzip":            bytes.NewReader(zip(text[:len(text)/2], text[len(text)/2:])),
	}
}

// zip compresses texts as the members of one gzip file.
func zip(texts ...string) []byte {
	var b bytes.Buffer
	for _, t := range texts {
		z := gzip.NewWriter(&b)
		_, _ = io.WriteString(z, t)
		_ = z.Close()
	}
	return b.Bytes()
}

func TestTooLarge(t *testing.T) {
	small := "route: 192.0.2.0/24\norigin: AS1\n"
	for name, large := range map[string]string{
		"lines":       "as-set: AS-X\n" + strings.Repeat("members: AS1\n", 1000),
		"one line":    "as-set: " + strings.Repeat("x", 10_000) + "\n",
		"no newlines": "as-set: AS-X\nmembers: " + strings.Repeat("AS1,", 5_000) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			text := small + "\n" + large + "\n" + small
			for how, in := range readers(text) {
				r, err := NewReader(in)
				if err != nil {
					t.Fatal(err)
				}
				r.maxObject = 1000
				res, err := readAll(r)
				if err != nil {
					t.Fatal(err)
				}
				want := plain{Route, []string{"route=192.0.2.0/24", "origin=AS1"}}
				if diff := cmp.Diff(result{Objects: []plain{want, want}, Malformed: map[string]uint64{TooLarge: 1}}, res); diff != "" {
					t.Errorf("%s (-want +got):\n%s", how, diff)
				}
			}
		})
	}
}

func TestLargestObject(t *testing.T) {
	const max = 4096
	for size, want := range map[int]int{max - 1: 1, max: 1, max + 1: 0} {
		r, err := NewReader(strings.NewReader("mntner: " + strings.Repeat("x", size-9) + "\n\n"))
		if err != nil {
			t.Fatal(err)
		}
		r.maxObject = max
		res, err := readAll(r)
		if err != nil || len(res.Objects) != want {
			t.Errorf("an object of %d bytes, %d being allowed: %d read, error %v", size, max, len(res.Objects), err)
		}
	}
}

// A bomb, an object that never ends, costs no more memory than MaxObject asks for.
func TestMemoryIsBounded(t *testing.T) {
	r, err := NewReader(io.LimitReader(endless{}, 20*MaxObject))
	if err != nil {
		t.Fatal(err)
	}
	if res, err := readAll(r); err != nil || res.Malformed[TooLarge] != 1 {
		t.Errorf("%+v, %v", res, err)
	}
	if len(r.buf) > 2*MaxObject+2*readSize {
		t.Errorf("the buffer has %d bytes", len(r.buf))
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = 'x'
	}
	return len(b), nil
}

func TestMaxDump(t *testing.T) {
	r, err := NewReader(strings.NewReader(strings.Repeat("route: 192.0.2.0/24\n\n", 100_000)))
	if err != nil {
		t.Fatal(err)
	}
	r.maxDump = 1 << 20
	if _, err := readAll(r); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
		t.Errorf("error %v", err)
	}
}

// Half an object at the end of a damaged file is none.
func TestDamagedInput(t *testing.T) {
	whole := zip(strings.Repeat("route: 192.0.2.0/24\norigin: AS1\n\n", 1000))
	r, err := NewReader(bytes.NewReader(whole[:len(whole)-10]))
	if err != nil {
		t.Fatal(err)
	}
	if res, err := readAll(r); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v after %d objects", err, len(res.Objects))
	}
	broken := errors.New("broken")
	r, err = NewReader(io.MultiReader(strings.NewReader("route: a\n\nroute: b\n"), iotest.ErrReader(broken)))
	if err != nil {
		t.Fatal(err)
	}
	if res, err := readAll(r); !errors.Is(err, broken) || len(res.Objects) != 1 {
		t.Errorf("error %v after %d objects", err, len(res.Objects))
	}
	if _, err := NewReader(strings.NewReader("\x1f\x8bnonsense")); err == nil {
		t.Error("no error for a damaged gzip header")
	}
}

// reference reads a dump in the plainest way: it splits text into lines and matches patterns.
func reference(text string) result {
	res := result{Malformed: map[string]uint64{}}
	lines := strings.Split(strings.TrimPrefix(text, "\xef\xbb\xbf"), "\n")
	var object []string
	flush := func() {
		if len(object) > 0 {
			res.add(object)
		}
		object = nil
	}
	for _, line := range lines {
		if line == "" || line == "\r" {
			flush()
			continue
		}
		if len(object) == 0 {
			if line = strings.TrimLeft(line, "\r"); line == "" || line[0] == '#' || line[0] == '%' {
				continue
			}
		}
		object = append(object, line)
	}
	flush()
	return res
}

var (
	attributeLine = regexp.MustCompile(`(?s)^([A-Za-z0-9_-]+):(.*)$`)
	comment       = regexp.MustCompile(`(?s)#.*`)
)

func (res *result) add(lines []string) {
	var names []string
	var values [][]string
	for _, line := range lines {
		strip := func(s string) string { return strings.Trim(comment.ReplaceAllString(s, ""), " \t\n\v\f\r") }
		m := attributeLine.FindStringSubmatch(line)
		switch {
		case strings.TrimRight(line, "\r") == "", line[0] == '#', line[0] == '%':
		case strings.ContainsAny(line[:1], " \t+"):
			if len(names) == 0 {
				res.Malformed[OutOfPlace]++
				return
			}
			if v := strip(line[1:]); v != "" {
				values[len(values)-1] = append(values[len(values)-1], v)
			}
		case strings.HasPrefix(line, "*xx"):
			if len(names) == 0 {
				res.Deleted++
				return
			}
		case m == nil:
			res.Malformed[NoName]++
			return
		default:
			names = append(names, strings.ToLower(m[1]))
			values = append(values, nil)
			if v := strip(m[2]); v != "" {
				values[len(values)-1] = []string{v}
			}
			if slices.Index(classNames[:], names[0]) <= 0 {
				res.Other++
				return
			}
		}
	}
	if len(values) == 0 || len(values[0]) == 0 {
		res.Malformed[NoValue]++
		return
	}
	p := plain{Class: Class(slices.Index(classNames[:], names[0]))}
	for i, name := range names {
		p.Attributes = append(p.Attributes, name+"="+strings.Join(values[i], " "))
	}
	res.Objects = append(res.Objects, p)
}

func TestAgainstReference(t *testing.T) {
	piece := rapid.SampledFrom([]string{"route:", "route6: ", "as-set:", "members: AS1, ", "mnt-by:", "\n", "\n", "\n", "\n\n", "\r\n", "\r\n\r\n", " ", "\t", "+", "#", "%",
		"*xx", "x", ":", "\xfc", "\x00", "\r", "AS64500", "192.0.2.0/24", "Source: TEST", "person: p", "_", "\v"})
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(piece, 0, 60).Draw(t, "pieces"), "")
		check(t, text)
	})
}

func check(t interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}, text string) {
	t.Helper()
	if strings.HasPrefix(text, "\x1f\x8b") {
		return
	}
	r, err := NewReader(iotest.HalfReader(strings.NewReader(text)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := readAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(reference(text), got); diff != "" {
		t.Fatalf("%q (-reference +got):\n%s", text, diff)
	}
	if r, err = NewReader(strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	for o, err := r.Next(); err == nil; o, err = r.Next() {
		var again Object
		written := o.Append(nil, func([]byte) bool { return true })
		if err := again.Parse(bytes.Clone(written)); err != nil || again.Class != o.Class || !slices.EqualFunc(again.Attributes, o.Attributes, equal) {
			t.Fatalf("%q is written as %q and read as %q, %v", text, written, again.Attributes, err)
		}
	}
}

func equal(x, y Attribute) bool { return bytes.Equal(x.Name, y.Name) && bytes.Equal(x.Value, y.Value) }

func FuzzReader(f *testing.F) {
	f.Add([]byte("route: 192.0.2.0/24\norigin: AS64500 # x\n+\n\nas-set: AS-X\nmembers: AS1,\n AS2\r\n\r\n*xxte: a\n"))
	f.Add(Generate(3))
	f.Add(zip("route: 192.0.2.0/24\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if bytes.HasPrefix(text, []byte{0x1f, 0x8b}) {
			if r, err := NewReader(bytes.NewReader(text)); err == nil {
				r.maxDump = 64 << 20
				_, _ = readAll(r)
			}
			return
		}
		check(t, string(text))
	})
}

// Generate makes a dump of n of each of the commoner objects, shaped as a large registry's are.
func Generate(n int) []byte {
	var b bytes.Buffer
	for i := range n {
		a, c := i>>8&255, i&255
		fmt.Fprintf(&b, "route:          10.%d.%d.0/24\ndescr:          Network %d, M\xfcnchen\norigin:         AS%d\nmnt-by:         MNT-%d\n"+
			"created:        2009-03-04T11:14:34Z\nlast-modified:  2021-06-23T10:38:35Z\nsource:         TEST\n"+
			"remarks:        ****************************\nremarks:        * THIS OBJECT IS MODIFIED\nremarks:        * Please note that all data that is generally regarded as personal\nremarks:        * data has been removed from this object.\n\n", a, c, i, 64500+i%1000, i%100)
		fmt.Fprintf(&b, "route6:         2001:db8:%x::/48\norigin:         AS%d\nmnt-by:         MNT-%d\ncreated:        2019-03-04T11:14:34Z\nlast-modified:  2021-06-23T10:38:35Z\nsource:         TEST # Filtered\n\n", i&0xffff, 64500+i%1000, i%100)
		if i%4 == 0 {
			fmt.Fprintf(&b, "aut-num:        AS%d\nas-name:        NET-%d\nremarks:        Transit\n", 64500+i, i)
			for j := range 10 {
				fmt.Fprintf(&b, "import:         from AS%d action pref=100;\n                accept AS%d AS-CUST%d   # session %d\nexport:         to AS%d announce AS-NET%d\n", 100+j, 100+j, j, j, 100+j, i)
			}
			fmt.Fprintf(&b, "admin-c:        DUMY-RIPE\nmnt-by:         MNT-%d\nsource:         TEST\n\n", i%100)
		}
		if i%8 == 0 {
			fmt.Fprintf(&b, "as-set:         AS-NET%d\ndescr:          customers\nmembers:        ", i)
			for j := range 30 {
				fmt.Fprintf(&b, "AS%d,\n                ", 64500+(i+j)%1000)
			}
			fmt.Fprintf(&b, "AS-NET%d\ntech-c:         DUMY-RIPE\nmnt-by:         MNT-%d\nsource:         TEST\n\n", i+8, i%100)
		}
	}
	return b.Bytes()
}

func TestNoAllocationPerObject(t *testing.T) {
	r, err := NewReader(bytes.NewReader(Generate(3000)))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 { // the slice of attributes grows
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations an object", n)
	}
}

func BenchmarkReader(b *testing.B) {
	text := Generate(50_000)
	b.SetBytes(int64(len(text)))
	objects := 0
	for b.Loop() {
		r, err := NewReader(bytes.NewReader(text))
		if err != nil {
			b.Fatal(err)
		}
		for objects = 0; ; objects++ {
			if _, err := r.Next(); err != nil {
				break
			}
		}
	}
	b.ReportMetric(float64(objects), "objects")
}
