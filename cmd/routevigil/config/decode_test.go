package config

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

// example has a field of every kind that a configuration may have.
type example struct {
	Feed  feed           `yaml:"feed" doc:"A section."`
	Names map[string]int `yaml:"names" doc:"A map."`
}

type feed struct {
	URL     string         `yaml:"url" config:"env" doc:"Text with variables."`
	Token   string         `yaml:"token" config:"secret" doc:"A secret."`
	Plain   string         `yaml:"plain" doc:"Text without variables."`
	Timeout time.Duration  `yaml:"timeout" doc:"A time."`
	Cache   int64          `yaml:"cache" config:"bytes" doc:"A size."`
	Block   uint32         `yaml:"block" config:"bytes" doc:"A small size."`
	ASN     uint32         `yaml:"asn" doc:"An unsigned number."`
	Offset  int8           `yaml:"offset" doc:"A signed number."`
	Share   float64        `yaml:"share" doc:"A fraction."`
	On      bool           `yaml:"on" doc:"A switch."`
	Maybe   *bool          `yaml:"maybe" doc:"A switch with a third position."`
	Watched []netip.Prefix `yaml:"watched" doc:"A list."`
	Hooks   []hook         `yaml:"hooks" doc:"A list of sections."`
	Hidden  int            `yaml:"-"`
}

type hook struct {
	Name string `yaml:"name" doc:"Text."`
	Key  string `yaml:"key" config:"secret" doc:"A secret."`
}

func (f feed) Validate() error {
	var errs []error
	if f.Timeout <= 0 {
		errs = append(errs, fmt.Errorf("timeout: must be positive, is %s", f.Timeout))
	}
	for i, h := range f.Hooks {
		if h.Name == "" {
			errs = append(errs, fmt.Errorf("hooks[%d].name: must be given, for key %s", i, h.Key))
		}
	}
	if f.On && f.URL == "" {
		errs = append(errs, errors.New("something is missing"))
	}
	return errors.Join(errs...)
}

func exampleDefault() example {
	return example{Feed: feed{URL: "ws://localhost", Timeout: 10 * time.Second, Hooks: []hook{{Name: "default"}}}}
}

var environment = map[string]string{"HOST": "ris.example", "TOKEN": "s3cr3t-value", "EMPTY": ""}

func lookup(name string) (string, bool) {
	value, ok := environment[name]
	return value, ok
}

func TestDecode(t *testing.T) {
	tests := []struct {
		name string
		yaml string
		want func(*example)
	}{
		{"empty file", "", func(*example) {}},
		{"only comments", "# nothing\n", func(*example) {}},
		{"a section whose settings are commented out", "feed:\n  # on: true\n", func(*example) {}},
		{"text", "feed: {plain: hello}", func(e *example) { e.Feed.Plain = "hello" }},
		{"text that looks like a date", "feed: {plain: 2024-01-01}", func(e *example) { e.Feed.Plain = "2024-01-01" }},
		{"variable in a marked setting", "feed: {url: 'wss://${HOST}/v1'}", func(e *example) { e.Feed.URL = "wss://ris.example/v1" }},
		{"empty variable", "feed: {url: 'a${EMPTY}b'}", func(e *example) { e.Feed.URL = "ab" }},
		{"escaped variable", "feed: {url: 'a$${HOST}'}", func(e *example) { e.Feed.URL = "a${HOST}" }},
		{"escaped and other dollars", "feed: {url: '$$$${$${${HOST}$${'}", func(e *example) { e.Feed.URL = "$$${${ris.example${" }},
		{"dollar alone", "feed: {url: 'a$b'}", func(e *example) { e.Feed.URL = "a$b" }},
		{"variable in an unmarked setting", "feed: {plain: '${HOST}'}", func(e *example) { e.Feed.Plain = "${HOST}" }},
		{"secret from the environment", "feed: {token: '${TOKEN}'}", func(e *example) { e.Feed.Token = "s3cr3t-value" }},
		{"time", "feed: {timeout: 1h30m}", func(e *example) { e.Feed.Timeout = 90 * time.Minute }},
		{"time in days", "feed: {timeout: 1d12h}", func(e *example) { e.Feed.Timeout = 36 * time.Hour }},
		{"size with a binary unit", "feed: {cache: 10GiB}", func(e *example) { e.Feed.Cache = 10 << 30 }},
		{"size with a decimal unit and a space", "feed: {cache: 10 MB}", func(e *example) { e.Feed.Cache = 10_000_000 }},
		{"size without a unit", "feed: {block: 4096}", func(e *example) { e.Feed.Block = 4096 }},
		{"largest ASN", "feed: {asn: 4294967295}", func(e *example) { e.Feed.ASN = 4294967295 }},
		{"negative number", "feed: {offset: -128}", func(e *example) { e.Feed.Offset = -128 }},
		{"whole number for a fraction", "feed: {share: 1}", func(e *example) { e.Feed.Share = 1 }},
		{"switch", "feed: {on: true}", func(e *example) { e.Feed.On = true }},
		{"switch with three positions", "feed: {maybe: false}", func(e *example) { e.Feed.Maybe = new(false) }},
		{"list of prefixes", "feed:\n  watched: [192.0.2.0/24, '2001:db8::/32']", func(e *example) {
			e.Feed.Watched = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
		}},
		{"a list replaces the default", "feed:\n  hooks:\n    - name: mine\n", func(e *example) { e.Feed.Hooks = []hook{{Name: "mine"}} }},
		{"empty list", "feed: {hooks: []}", func(e *example) { e.Feed.Hooks = []hook{} }},
		{"map", "names: {a: 1, b: 2}", func(e *example) { e.Names = map[string]int{"a": 1, "b": 2} }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, want := exampleDefault(), exampleDefault()
			test.want(&want)
			if problems := decode([]byte(test.yaml), lookup, &got); problems != nil {
				t.Fatalf("unexpected problems:\n%v", problems)
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
				t.Errorf("decoded (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeProblems(t *testing.T) {
	tests := []struct {
		name string
		yaml string
		want string // every problem, one a line
	}{
		{"unknown key, close to a known one", "feed:\n  timout: 3s", `:2:3: feed: unknown key "timout"; did you mean "timeout"?`},
		{"unknown key, letters swapped", "feed:\n  asnn: 3", `:2:3: feed: unknown key "asnn"; did you mean "asn"?`},
		{"unknown key, close to none", "feeds_and_more: 1", `:1:1: unknown key "feeds_and_more"; known keys: feed, names`},
		{"a field that is not configurable", "feed: {hidden: 1, Hidden: 1}", `:1:8: feed: unknown key "hidden"; known keys: asn, block, cache, hooks, maybe, offset, on, plain, share, timeout, token, url, watched
:1:19: feed: unknown key "Hidden"; known keys: asn, block, cache, hooks, maybe, offset, on, plain, share, timeout, token, url, watched`},
		{"duplicate key", "feed:\n  asn: 1\n  on: true\n  asn: 2", `:4:3: feed.asn: is set twice; the first time on line 2`},
		{"duplicate key in a map", "names: {a: 1, a: 2}", `:1:15: names.a: is set twice; the first time on line 1`},
		{"key that is not text", "feed:\n  [1]: 2", `:2:3: feed: a key must be plain text`},
		{"setting without a value", "feed:\n  timeout:\n", `:2:11: feed.timeout: has no value; it must be a time, or be left out for the default`},
		{"list without a value", "feed:\n  hooks:\n", `:2:9: feed.hooks: has no value; it must be a list (section), or be left out for the default`},
		{"number for text", "feed: {plain: 123}", `:1:15: feed.plain: must be text; put it in quotes, is "123"`},
		{"text for a number", "feed: {asn: AS64500}", `:1:13: feed.asn: must be a whole number, is "AS64500"`},
		{"quoted number", "feed: {asn: '64500'}", `:1:13: feed.asn: must be a whole number, is "64500"`},
		{"ASN out of range", "feed: {asn: 4294967296}", `:1:13: feed.asn: must be from 0 to 4294967295, is "4294967296"`},
		{"negative ASN", "feed: {asn: -1}", `:1:13: feed.asn: must be from 0 to 4294967295, is "-1"`},
		{"small number out of range", "feed: {offset: 128}", `:1:16: feed.offset: must be from -128 to 127, is "128"`},
		{"size out of range", "feed: {block: 4GiB}", `:1:15: feed.block: must be from 0 to 4294967295, is "4GiB"`},
		{"size with an unknown unit", "feed: {cache: 10GiX}", `:1:15: feed.cache: must be a size such as "64MiB" or "10GiB" (B, kB, KiB, MB, MiB, GB, GiB, TB, TiB), is "10GiX"`},
		{"time without a unit", "feed: {timeout: 10}", `:1:17: feed.timeout: must be a time such as "500ms", "10s", "1h30m" or "90d", is "10"`},
		{"infinite fraction", "feed: {share: .inf}", `:1:15: feed.share: must be a number, is ".inf"`},
		{"yes for true", "feed: {on: yes}", `:1:12: feed.on: must be true or false, is "yes"`},
		{"bad prefix in a list", "feed: {watched: [192.0.2.0/24, 192.0.2.0/33]}", `:1:32: feed.watched[1]: must be an IP prefix, is "192.0.2.0/33"`},
		{"list for text", "feed: {plain: [a]}", `:1:15: feed.plain: must be text, is a list`},
		{"text for a section", "feed: hello", `:1:7: feed: must be a section, is a single value`},
		{"section for a list", "feed: {hooks: {name: a}}", `:1:15: feed.hooks: must be a list (section), is a section`},
		{"the whole file is a list", "- feed", `:1:1: must be a section, is a list`},
		{"variable that is not set", "feed: {url: '${NOWHERE}'}", `:1:13: feed.url: the environment variable NOWHERE is not set`},
		{"variable that is not closed", "feed: {url: 'a${HOST'}", `:1:13: feed.url: "${" must be followed by the name of an environment variable and "}"; for a plain "${" write "$${"`},
		{"anchor and alias", "feed:\n  plain: &a x\n  url: *a", `:2:10: feed.plain: anchors and aliases are not supported; write the value out
:3:8: feed.url: anchors and aliases are not supported; write the value out`},
		{"merge key", "feed:\n  <<: {asn: 1}", `:2:3: feed: unknown key "<<"; known keys: asn, block, cache, hooks, maybe, offset, on, plain, share, timeout, token, url, watched`},
		{"two documents", "feed: {}\n---\nfeed: {}", `:2: is not valid YAML: a second document starts here; a configuration is one document`},
		{"syntax", "feed:\n  plain: a: b", `:2: is not valid YAML: mapping values are not allowed in this context`},

		{"Validate: value that is in the file", "feed:\n  timeout: -1s", `:2:12: feed.timeout: must be positive, is -1s`},
		{"Validate: value that is missing", "feed:\n  hooks:\n    - name: a\n    - key: kk", `:4:7: feed.hooks[1].name: must be given, for key (secret)`},
		{"Validate: message without a path", "feed:\n  on: true\n  url: ''", `:2:3: feed: something is missing`},
		{"Validate is silent about what could not be decoded", "feed: {timeout: soon}", `:1:17: feed.timeout: must be a time such as "500ms", "10s", "1h30m" or "90d", is "soon"`},
		{"everything at once, in the order of lines", "names:\n  a: x\nfeed:\n  timeout: 0s\n  asn: -1\n  oops: 1", `:2:6: names.a: must be a whole number, is "x"
:4:12: feed.timeout: must be positive, is 0s
:5:8: feed.asn: must be from 0 to 4294967295, is "-1"
:6:3: feed: unknown key "oops"; did you mean "hooks"?`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := exampleDefault()
			got := decode([]byte(test.yaml), lookup, &e).Error()
			if diff := cmp.Diff(strings.Split(test.want, "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

// However a secret is mistyped, no problem repeats it.
func TestProblemsHideSecrets(t *testing.T) {
	const secret = "hunter2"
	for _, document := range []string{
		"feed: {token: [" + secret + "]}",
		"feed: {token: {" + secret + ": 1}}",
		"feed: {token: *" + secret + "}",
		"feed: {token: &" + secret + " x}",
		"feed: {token: !" + secret + " {}}",
		"feed: {token: '${" + secret + " '}",
		"feed:\n  token: \"" + secret,
		"feed:\n  token: \"\\" + secret + "\"",
		"feed:\n  token: 1" + secret + "\n  bad",
		"feed: {hooks: [{key: " + secret + "}]}",
	} {
		e := exampleDefault()
		problems := decode([]byte(document), lookup, &e)
		if problems == nil {
			t.Errorf("no problem in %q", document)
		}
		if strings.Contains(problems.Error(), secret) {
			t.Errorf("%q gives a problem that holds the secret: %v", document, problems)
		}
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "10s": 10 * time.Second, "10m": 10 * time.Minute, "2h": 2 * time.Hour, "1h0m5s": time.Hour + 5*time.Second,
		"-3s": -3 * time.Second, "1d": day, "90d": 90 * day, "1d1s": day + time.Second, "106751d": 106751 * day,
	} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("parseDuration(%q) = %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "d", "1", "-1d", "1d-1s", "1d1d", "1.5d", "106752d", "106751d24h", "999999d", "9999999d", "1w"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("parseDuration(%q) = %v; want an error", text, got)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 10 * time.Minute: "10m", 100 * time.Second: "1m40s", time.Hour: "1h",
		30 * day: "30d", 36 * time.Hour: "36h", 1500 * time.Millisecond: "1.5s"} {
		if got := formatDuration(d); got != want {
			t.Errorf("formatDuration(%d) = %q, want %q", d, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64().Draw(t, "d"))
		if got, err := parseDuration(formatDuration(d)); err != nil || got != d {
			t.Fatalf("%v is written %q and read %v, %v", d, formatDuration(d), got, err)
		}
	})
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]uint64{"0": 0, "7": 7, "7B": 7, "1kB": 1000, "1KiB": 1024, "1kib": 1024, "64MiB": 64 << 20,
		"2 TB": 2e12, "8388607TiB": 8388607 << 40} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GiB", "-1", "1.5GiB", "1 G", "1K", "8388608TiB", "99999999999999999999"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %d; want an error", text, got)
		}
	}
	for n, want := range map[uint64]string{0: "0B", 1: "1B", 1000: "1000B", 1024: "1KiB", 1536: "1536B", 10 << 30: "10GiB"} {
		if got := formatSize(n); got != want {
			t.Errorf("formatSize(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	tests := []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"abc", "abd", 1}, {"abc", "acb", 1},
		{"abc", "ab", 1}, {"ab", "abc", 1}, {"kitten", "sitting", 3}, {"ca", "abc", 3},
	}
	for _, test := range tests {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}

// dump writes any configuration struct; Dump is the same for Config.
func dump(t interface{ Fatal(...any) }, v any) []byte {
	data, err := yaml.Marshal(encode(reflect.ValueOf(v), field{}))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDumpMasksSecrets(t *testing.T) {
	e := exampleDefault()
	e.Feed.Token = "hunter2"
	e.Feed.Hooks = []hook{{Name: "a", Key: "hunter2"}, {Name: "b"}}
	got := string(dump(t, e))
	if strings.Contains(got, "hunter2") {
		t.Errorf("the dump holds a secret:\n%s", got)
	}
	if strings.Count(got, masked) != 2 || !strings.Contains(got, `key: ""`) {
		t.Errorf("the dump must show which secrets are set:\n%s", got)
	}
}

// FuzzDecode: no file makes the loader panic, every problem is one line with a place or a path, and what
// loads without a problem is dumped as something that loads to the same.
func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		"", "feed:\n  url: wss://${HOST}\n  timeout: 10s\n  cache: 10GiB\n  asn: 64500\n  offset: -1\n  share: 0.5\n  on: true\n",
		"feed: {watched: [192.0.2.0/24], hooks: [{name: a, key: b}]}\nnames: {a: 1}\n",
		"feed: &a [*a]\n", "feed: {url: '$${x}'}", "a: !!binary x\n---\n", "? [a]\n: b\n", "names: {'': 1, ' ': 2, '~': 3}", "\xff\xfe", "feed: {timeout: 1d1h}",
		string(Sample),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e := exampleDefault()
		problems := decode(data, lookup, &e)
		for _, p := range problems {
			if p.Line == 0 && p.Path == "" && !strings.Contains(p.Message, "YAML") || strings.Contains(p.String(), "\n") {
				t.Errorf("problem %q", p.String())
			}
		}
		if problems != nil {
			return
		}
		e.Feed.Token, e.Feed.Hooks = "", nil // a masked secret is not the secret
		again, dumped := exampleDefault(), dump(t, e)
		if problems := decode(dumped, lookup, &again); problems != nil {
			t.Fatalf("the dump does not load:\n%s\n%v", dumped, problems)
		}
		if redumped := dump(t, again); !bytes.Equal(dumped, redumped) {
			t.Errorf("the dump changed:\n%s\n%s", dumped, redumped)
		}
	})
}
