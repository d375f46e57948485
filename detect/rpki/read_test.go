package rpki

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The forms are written after the validators' documentation; one fact of each is in none of the others.
func TestReadForms(t *testing.T) {
	expires := time.Unix(1_800_000_000, 0).UTC()
	with := func(v VRP, ta string, expires time.Time) VRP { v.TA, v.Expires = ta, expires; return v }
	for _, c := range []struct {
		name, in string
		vrps     []VRP
		aspas    ASPAs
		built    int64
	}{
		{"rpki-client and StayRTR", `{"metadata":{"buildmachine":"x","buildtime":"2026-03-01T00:00:00Z","roas":1,"tals":["a"]},
			"roas":[{"asn":64500,"prefix":"192.0.2.0/24","maxLength":25,"ta":"ripe","expires":1800000000}],
			"bgpsec_keys":[{"asn":64500,"ski":"00","pubkey":"AA==","ta":"ripe","expires":1}],
			"aspas":[{"customer_asid":64500,"expires":1800000000,"providers":[64502,64501]},{"customer_asid":64501,"providers":[]}]}`,
			[]VRP{with(vrp("192.0.2.0/24", 25, 64500), "ripe", expires)}, ASPAs{64500: {64501, 64502}, 64501: nil}, 1772323200},
		{"Routinator", `{"metadata":{"generated":1772323200,"generatedTime":"2026-03-01T00:00:00Z"},
			"roas":[{"asn":"AS64500","prefix":"2001:db8::/32","maxLength":48,"ta":"N/A"}],
			"routerKeys":[],"aspas":[{"customer":"AS64500","providers":["AS64501"],"ta":"ripe"},{"customer":"AS64500","providers":["AS64503"]}]}`,
			[]VRP{with(vrp("2001:db8::/32", 48, 64500), "N/A", time.Time{})}, ASPAs{64500: {64501, 64503}}, 1772323200},
		{"Routinator, extended", `{"metadata":{},"roas":[{"asn":"AS64500","prefix":"192.0.2.0/24","maxLength":24,"source":[
			{"type":"exception","path":null},
			{"type":"roa","uri":"rsync://x/y.roa","tal":"apnic","validity":{"notBefore":"2020-01-01T00:00:00Z","notAfter":"2030-01-01T00:00:00Z"},
			 "chainValidity":{"notBefore":"2020-01-01T00:00:00Z","notAfter":"2027-01-15T08:00:00Z"},"stale":"2027-01-01T00:00:00Z"}]}]}`,
			[]VRP{with(vrp("192.0.2.0/24", 24, 64500), "apnic", expires)}, ASPAs{}, 0},
		{"OctoRPKI", `{"metadata":{"counts":1,"generated":1772323200,"valid":1772326800,"signature":"x","signatureDate":"y"},
			"roas":[{"prefix":"192.0.2.0/24","maxLength":24,"asn":"AS64500","ta":"Cloudflare - \u0047lobal"}]}`,
			[]VRP{with(vrp("192.0.2.0/24", 24, 64500), "Cloudflare - Global", time.Time{})}, ASPAs{}, 1772323200},
		{"ASPAs by family, of 2022", `{"roas":[],"provider_authorizations":{"ipv4":[{"customer_asid":64500,"expires":1,"providers":[1]}],"ipv6":[{"customer_asid":64500,"providers":[2]}]}}`,
			nil, ASPAs{64500: {1, 2}}, 0},
		{"the least there can be", ` {"roas" : [ {"prefix":"0.0.0.0/0","asn":"7","maxLength":null,"ta":null} ] } ` + "\n",
			[]VRP{vrp("0.0.0.0/0", 0, 7)}, ASPAs{}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(c.in), iotest.OneByteReader(strings.NewReader(c.in))} {
				s, err := Read(r, "test")
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(c.vrps, slices.Collect(s.VRPs()), comparePrefixes); diff != "" {
					t.Errorf("VRPs (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(c.aspas, s.ASPAs()); diff != "" {
					t.Errorf("ASPAs (-want +got):\n%s", diff)
				}
				if got := s.Built(); c.built == 0 && !got.IsZero() || c.built != 0 && got.Unix() != c.built {
					t.Errorf("built %v, want %d", got, c.built)
				}
			}
		})
	}
}

// endless repeats what it is for ever.
type endless struct {
	head string
	body []byte
}

func (e *endless) Read(b []byte) (int, error) {
	if e.head != "" {
		n := copy(b, e.head)
		e.head = e.head[n:]
		return n, nil
	}
	n := 0
	for n+len(e.body) <= len(b) {
		n += copy(b[n:], e.body)
	}
	return n, nil
}

// What never ends is refused before it costs more than it may.
func TestReadHostileSizes(t *testing.T) {
	for name, c := range map[string]struct{ head, body, want string }{
		"a string without end":     {`{"roas":[{"ta":"`, "x", "longer than 4096 bytes"},
		"a number without end":     {`{"roas":[{"asn":1`, "0", "longer than 4096 bytes"},
		"providers without end":    {`{"aspas":[{"customer":1,"providers":[1`, ",1", "more than 10000 providers"},
		"arrays without end":       {`{"x":`, "[", "deeper than 64 levels"},
		"objects without end":      {`{"x":`, `{"x":`, "deeper than 64 levels"},
		"a prefix that is a novel": {`{"roas":[{"prefix":"`, "10.0.0.0/8 ", "longer than 4096 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			before := heap()
			_, err := Read(&endless{c.head, []byte(c.body)}, "test")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if grown := int64(heap() - before); grown > 8<<20 {
				t.Errorf("%d bytes more are in use", grown)
			}
		})
	}
}

func TestReadNamesThePlace(t *testing.T) {
	_, err := Read(strings.NewReader(`{"roas":[{"asn":1,"prefix":"192.0.2.0/24"},{"asn":1,"prefix":"192.0.2.0/33"}]}`), "test")
	if err == nil || !strings.Contains(err.Error(), "roas[1]") || !strings.Contains(err.Error(), "byte 75") || !strings.Contains(err.Error(), "192.0.2.0/33") {
		t.Errorf("%v does not tell where", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(`{"roas":[{"asn":"AS1","prefix":"192.0.2.0/24","maxLength":24,"ta":"x","expires":5}]}`)
	f.Add(`{"x":[-0.5e+3,true,false,null,"\u00e9\n"],"roas":[{"asn":1,"prefix":"2001:db8::/32"}],"y":{}}`)
	f.Add(`{"aspas":[{"customer":"AS1","providers":[2]}],"metadata":{"generated":1}}`)
	f.Fuzz(func(t *testing.T, in string) {
		s, err := Read(strings.NewReader(in), "fuzz")
		if err != nil {
			return
		}
		if !json.Valid([]byte(in)) {
			t.Errorf("accepted what is no JSON")
		}
		for v := range s.VRPs() {
			if v.ASN != 0 && s.State(v.Prefix, v.ASN, true) != Valid {
				t.Errorf("%v does not validate itself", v)
			}
		}
	})
}

// FuzzJSON passes over any JSON and compares with encoding/json whether it is any.
func FuzzJSON(f *testing.F) {
	for _, in := range []string{`{"a":[1,-2.5e3,"x\u0041\\",null,true],"b":{}}`, `[]`, `01`, `-`, `"\x"`, `{"a":1,}`, `[1 2]`, `tru`, "\"\x01\""} {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in string) {
		in = "[" + in + "]"
		s := newScanner(strings.NewReader(in))
		s.skip()
		s.end()
		valid := json.Valid([]byte(in))
		if s.err == nil && !valid {
			t.Errorf("%q is taken for JSON", in)
		}
		if s.err != nil && valid && !strings.Contains(s.err.Error(), "deeper than") && !strings.Contains(s.err.Error(), "longer than") {
			t.Errorf("%q is JSON: %v", in, s.err)
		}
	})
}

// export writes VRPs as rpki-client does.
func exportJSON(vs []VRP) []byte {
	var b bytes.Buffer
	b.WriteString("{\n\t\"metadata\": {\n\t\t\"buildtime\": \"2026-03-01T00:00:00Z\"\n\t},\n\n\t\"roas\": [\n")
	for i, v := range vs {
		comma := ","
		if i == len(vs)-1 {
			comma = ""
		}
		fmt.Fprintf(&b, "\t\t{ \"asn\": %d, \"prefix\": %q, \"maxLength\": %d, \"ta\": %q, \"expires\": %d }%s\n", v.ASN, v.Prefix, v.MaxLength, v.TA, v.Expires.Unix(), comma)
	}
	b.WriteString("\t]\n}\n")
	return b.Bytes()
}

func heapObjects() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

// watched notes how much memory is in use, garbage included, whenever it is read.
type watched struct {
	r    io.Reader
	peak int64
}

func (w *watched) Read(b []byte) (int, error) {
	w.peak = max(w.peak, heapObjects())
	return w.r.Read(b)
}

// The budget is 120 MiB at the peak for the whole RPKI.
func TestReadMemory(t *testing.T) {
	in := exportJSON(internet(internetSize))
	heap()
	before := heapObjects()
	w := &watched{r: bytes.NewReader(in)}
	s, err := Read(w, "test")
	if err != nil {
		t.Fatal(err)
	}
	peak := float64(max(w.peak, heapObjects())-before) / (1 << 20)
	t.Logf("%d VRPs in %d MiB of JSON: %.0f MiB at the peak", s.Len(), len(in)>>20, peak)
	if peak > 120 {
		t.Errorf("%.0f MiB at the peak", peak)
	}
}

func BenchmarkRead(b *testing.B) {
	in := exportJSON(internet(internetSize))
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Read(bytes.NewReader(in), "test"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestCheck(t *testing.T) {
	set := func(counts map[string]int, aspas int) *Set {
		d := Data{ASPAs: ASPAs{}}
		for ta, n := range counts {
			for i := range n {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(len(ta)), byte(i >> 8), byte(i)}), 32)
				d.VRPs = append(d.VRPs, VRP{Prefix: p, MaxLength: 32, ASN: 1, TA: ta})
			}
		}
		for i := range uint32(aspas) {
			d.ASPAs[i] = []uint32{1}
		}
		return NewSet(d, "test")
	}
	limits := Limits{Share: 0.1, Floor: 100}
	for _, c := range []struct {
		name           string
		previous, next *Set
		want           string // "" when accepted
	}{
		{"the first", nil, set(map[string]int{"ripe": 5}, 0), ""},
		{"nothing after nothing", nil, nil, ""},
		{"the same", set(map[string]int{"ripe": 1000}, 9), set(map[string]int{"ripe": 1000}, 9), ""},
		{"a tenth less", set(map[string]int{"ripe": 1000}, 0), set(map[string]int{"ripe": 900}, 0), ""},
		{"more than a tenth less", set(map[string]int{"ripe": 1000}, 0), set(map[string]int{"ripe": 899}, 0), "the VRPs of ripe fell from 1000 to 899"},
		{"one anchor gone, though the sum grew", set(map[string]int{"ripe": 1000, "apnic": 500}, 0), set(map[string]int{"ripe": 2000}, 0), "the VRPs of apnic fell from 500 to 0"},
		{"a small anchor gone", set(map[string]int{"ripe": 1000, "SLURM": 99}, 0), set(map[string]int{"ripe": 1000}, 0), ""},
		{"all gone", set(map[string]int{"ripe": 1000}, 0), nil, "the VRPs of ripe fell from 1000 to 0"},
		{"without anchors", set(map[string]int{"": 1000}, 0), set(map[string]int{"": 500}, 0), "the VRPs fell from 1000 to 500"},
		{"ASPAs gone", set(nil, 100), set(nil, 0), "the ASPAs fell from 100 to 0"},
		{"two at once", set(map[string]int{"ripe": 1000, "arin": 1000}, 0), set(nil, 0), "the VRPs of arin fell from 1000 to 0, the VRPs of ripe fell from 1000 to 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := limits.Check(c.previous, c.next)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), ": "+c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
